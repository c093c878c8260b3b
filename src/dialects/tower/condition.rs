//! The condition of a rule (`METRIC > 10000 && !(METRIC = 0)`) and the value of an `OutputMetric` (`SUM(METRIC)/COUNT(METRIC)`):
//! from their text to a tree, and from there to the text of an expression as policies write it.
//!
//! ```text
//! condition := term | term '||' condition        term := factor | factor '&&' term
//! factor := atom | '!' factor | '(' condition ')'       atom := var op var
//! var := 'METRIC' | ['-'] INT | ['-'] DECIMAL     op := >= <= = <> > <
//!
//! value := product (('+' | '-') product)*         product := unary (('*' | '/') unary)*
//! unary := '-' unary | number | 'METRIC' | FUNCTION '(' 'METRIC' ')' | 'PERCENTILE' '(' 'METRIC' ',' number ')' | '(' value ')'
//! ```
//!
//! The sign is an addition: the grammar of Tower 4Clouds has none. No number has leading zeros or an exponent.

use std::fmt::{Display, Formatter};

use crate::model::Aggregate;
use crate::policy::expression::Expression;

/// The longest condition or value, in bytes.
pub const MAX_LENGTH: usize = 4096;
/// The deepest nesting of parentheses and signs.
pub const MAX_DEPTH: usize = 32;

/// What is wrong with a condition or value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}, at character {}", at + 1)]
pub struct TextError {
    /// Whether it is no word of the grammar in its place (`CONDITION_LEXICAL_ERROR`), or one without meaning (`CONDITION_SEMANTIC_ERROR`).
    pub semantic: bool,
    /// What was found, and what would be right.
    pub message: String,
    /// Where, in characters of the text, from 0.
    pub at: usize,
    /// Where, in bytes of the text.
    pub byte: usize,
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// One of these holds (`||`); two or more.
    Any(Vec<Condition>),
    /// All of these hold (`&&`); two or more.
    All(Vec<Condition>),
    /// This does not hold.
    Not(Box<Condition>),
    /// A comparison.
    Compare(Operand, Comparison, Operand),
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operand {
    /// `METRIC`: the result.
    Metric,
    /// A number.
    Number(f64),
}

/// How two sides are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
    /// `=`
    Equal,
    /// `<>`
    Unequal,
    /// `>`
    Above,
    /// `<`
    Below,
}

impl Comparison {
    const ALL: [(&'static str, &'static str, Self); 6] = [
        (">=", ">=", Self::AtLeast),
        ("<=", "<=", Self::AtMost),
        ("<>", "!=", Self::Unequal),
        ("=", "==", Self::Equal),
        (">", ">", Self::Above),
        ("<", "<", Self::Below),
    ];

    /// As the rule writes it, and as a policy does.
    fn words(self) -> (&'static str, &'static str) {
        Self::ALL.iter().find(|(_, _, c)| *c == self).map_or(("", ""), |(theirs, ours, _)| (theirs, ours))
    }
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// The first thing that is wrong, with its position.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut parser = Parser::new(text)?;
        let condition = parser.condition()?;
        parser.end("`&&`, `||` or the end")?;
        // What is right by the grammar can still be too deep or too long, or say nothing about the metric.
        let written = condition.to_expression();
        match Expression::parse_condition(&written) {
            Ok(_) => Ok(condition),
            Err(error) => Err(TextError { semantic: true, message: error.message, at: 0, byte: 0 }),
        }
    }

    /// The same as the text of an expression over `value`.
    pub fn to_expression(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, true);
        out
    }

    /// `level`: 0 within `||`, 1 within `&&`.
    fn write(&self, out: &mut String, level: u8, ours: bool) {
        match self {
            Self::Any(parts) => joined(out, level > 0, " || ", parts, |out, part| part.write(out, 1, ours)),
            Self::All(parts) => joined(out, level > 1, " && ", parts, |out, part| part.write(out, 2, ours)),
            Self::Not(inner) => {
                let single = matches!(**inner, Self::Not(_));
                out.push_str(if single { "!" } else { "!(" });
                inner.write(out, if single { 2 } else { 0 }, ours);
                out.push_str(if single { "" } else { ")" });
            }
            Self::Compare(left, comparison, right) => {
                let (theirs, native) = comparison.words();
                let word = if ours { native } else { theirs };
                out.push_str(&format!("{} {word} {}", left.text(ours), right.text(ours)));
            }
        }
    }
}

fn joined<T>(out: &mut String, brackets: bool, by: &str, parts: &[T], write: impl Fn(&mut String, &T)) {
    if brackets {
        out.push('(');
    }
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            out.push_str(by);
        }
        write(out, part);
    }
    if brackets {
        out.push(')');
    }
}

impl Operand {
    fn text(self, ours: bool) -> String {
        match self {
            Self::Metric if ours => "value".into(),
            Self::Metric => "METRIC".into(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// As the rule writes it.
impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        self.write(&mut out, 0, false);
        f.write_str(&out)
    }
}

/// The value of an output metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `METRIC`: the datum, or with an aggregation its result.
    Metric,
    /// A number.
    Number(f64),
    /// `SUM(METRIC)`, … over all data of the window.
    Aggregate(Aggregate),
    /// `-x`
    Negative(Box<Value>),
    /// `x + y - z`: the first, then each with its operator; `+` and `-`, or `*` and `/`.
    Chain(Box<Value>, Vec<(Operator, Value)>),
}

/// An operator of arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Times,
    /// `/`
    Over,
}

impl Operator {
    const ALL: [(char, Self); 4] =
        [('+', Self::Plus), ('-', Self::Minus), ('*', Self::Times), ('/', Self::Over)];

    fn sign(self) -> char {
        Self::ALL.iter().find(|(_, o)| *o == self).map_or('+', |(sign, _)| *sign)
    }
}

/// The functions of a value.
const FUNCTIONS: [(&str, Aggregate); 5] = [
    ("AVG", Aggregate::Avg),
    ("SUM", Aggregate::Sum),
    ("MAX", Aggregate::Max),
    ("MIN", Aggregate::Min),
    ("COUNT", Aggregate::Count),
];

impl Value {
    /// Reads a value.
    ///
    /// # Errors
    /// The first thing that is wrong, with its position.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut parser = Parser::new(text)?;
        let value = parser.value()?;
        parser.end("`+`, `-`, `*`, `/` or the end")?;
        match Expression::parse(&value.to_expression("value")) {
            Ok(_) => Ok(value),
            Err(error) => Err(TextError { semantic: true, message: error.message, at: 0, byte: 0 }),
        }
    }

    /// Whether it aggregates by itself (`SUM(METRIC)`).
    pub fn aggregates(&self) -> bool {
        self.any(&|v| matches!(v, Self::Aggregate(_)))
    }

    /// Whether it reads `METRIC` outside of a function.
    pub fn reads_metric(&self) -> bool {
        self.any(&|v| matches!(v, Self::Metric))
    }

    fn any(&self, is: &dyn Fn(&Self) -> bool) -> bool {
        is(self)
            || match self {
                Self::Negative(inner) => inner.any(is),
                Self::Chain(first, rest) => first.any(is) || rest.iter().any(|(_, v)| v.any(is)),
                _ => false,
            }
    }

    /// The same as the text of an expression, in which `METRIC` is called `metric`, and aggregates by their names (`sum`, `p99_9`).
    pub fn to_expression(&self, metric: &str) -> String {
        let mut out = String::new();
        self.write(&mut out, Level::Sum, Some(metric));
        out
    }

    fn write(&self, out: &mut String, level: Level, metric: Option<&str>) {
        match self {
            Self::Metric => out.push_str(metric.unwrap_or("METRIC")),
            Self::Number(number) => out.push_str(&number.to_string()),
            Self::Aggregate(aggregate) if metric.is_some() => out.push_str(&aggregate_name(*aggregate)),
            Self::Aggregate(Aggregate::Percentile { rank, .. }) => {
                out.push_str(&format!("PERCENTILE(METRIC, {rank})"));
            }
            Self::Aggregate(aggregate) => {
                let name = FUNCTIONS.iter().find(|(_, a)| a == aggregate).map_or("?", |(name, _)| name);
                out.push_str(&format!("{name}(METRIC)"));
            }
            Self::Negative(inner) => {
                let brackets = level != Level::Sum;
                out.push_str(if brackets { "(-" } else { "-" });
                inner.write(out, Level::Unary, metric);
                out.push_str(if brackets { ")" } else { "" });
            }
            Self::Chain(first, rest) => {
                let product = rest.iter().all(|(o, _)| matches!(o, Operator::Times | Operator::Over));
                let inner = if product { Level::Unary } else { Level::Product };
                let brackets = level == Level::Unary || level == Level::Product && !product;
                out.push_str(if brackets { "(" } else { "" });
                first.write(out, inner, metric);
                for (operator, value) in rest {
                    out.push_str(&format!(" {} ", operator.sign()));
                    value.write(out, inner, metric);
                }
                out.push_str(if brackets { ")" } else { "" });
            }
        }
    }
}

/// As the rule writes it.
impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        self.write(&mut out, Level::Sum, None);
        f.write_str(&out)
    }
}

/// What a value stands within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Sum,
    Product,
    Unary,
}

/// The name of an aggregate in an expression: `sum`, `p99`, `p99_9`.
pub fn aggregate_name(aggregate: Aggregate) -> String {
    aggregate.to_string().replace('.', "_")
}

/// Reads the rank of a percentile. Files give it in percent (`65`, `99.9`); below 1 it is taken as a ratio (`0.99` is the 99th), which
/// the original leaves open: nobody asks for less than the first percentile.
///
/// # Errors
/// A sentence.
pub fn percentile(text: &str) -> Result<Aggregate, String> {
    match text.trim().parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => {
            // 0.99 × 100 is not quite 99.
            let rank = (share * 1e8).round() / 1e6;
            Ok(Aggregate::Percentile { rank, interpolated: false })
        }
        Ok(rank) if (1.0..=100.0).contains(&rank) => Ok(Aggregate::Percentile { rank, interpolated: false }),
        _ => Err(format!("`{text}` is no percentile; expected a number above 0 and at most 100, such as 99")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Number(&'a str),
    Sign(&'a str),
    End,
}

/// Recursive descent with a bounded depth; chains are loops.
struct Parser<'a> {
    text: &'a str,
    /// The token ahead, and the bytes where it begins and ends.
    ahead: Token<'a>,
    start: usize,
    end: usize,
    depth: usize,
}

type Parsed<T> = Result<T, TextError>;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Parsed<Self> {
        let mut parser = Self { text, ahead: Token::End, start: 0, end: 0, depth: 0 };
        if text.len() > MAX_LENGTH {
            let found = text.len();
            return Err(
                parser.semantic(format!("it is {found} bytes long; at most {MAX_LENGTH} are allowed"))
            );
        }
        parser.advance()?;
        Ok(parser)
    }

    fn wrong(&self, semantic: bool, message: String) -> TextError {
        TextError { semantic, message, at: self.text[..self.start].chars().count(), byte: self.start }
    }

    fn semantic(&self, message: String) -> TextError {
        self.wrong(true, message)
    }

    fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        let found = match self.ahead {
            Token::End => "it ends here".to_string(),
            Token::Word(w) | Token::Number(w) | Token::Sign(w) => format!("`{w}` stands here"),
        };
        Err(self.wrong(false, format!("{found}; expected {expected}")))
    }

    fn advance(&mut self) -> Parsed<()> {
        let rest = self.text[self.end..].trim_start_matches([' ', '\t', '\r', '\n']);
        self.start = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            (self.end, self.ahead) = (self.start, Token::End);
            return Ok(());
        };
        let length = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            '0'..='9' => self.number_length(rest)?,
            _ => ["||", "&&", ">=", "<=", "<>"]
                .iter()
                .find(|s| rest.starts_with(**s))
                .map_or(first.len_utf8(), |s| s.len()),
        };
        self.end = self.start + length;
        let word = &self.text[self.start..self.end];
        self.ahead = match first {
            '0'..='9' => Token::Number(word),
            'a'..='z' | 'A'..='Z' | '_' => Token::Word(word),
            _ => Token::Sign(word),
        };
        Ok(())
    }

    fn number_length(&self, rest: &str) -> Parsed<usize> {
        let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let whole = digits(rest);
        if whole > 1 && rest.starts_with('0') {
            return Err(self.wrong(false, "a number begins with 0; expected none in front".into()));
        }
        let Some(decimals) = rest[whole..].strip_prefix('.') else { return Ok(whole) };
        match digits(decimals) {
            0 => Err(self.wrong(false, "a number ends in a point; expected digits after it".into())),
            n => Ok(whole + 1 + n),
        }
    }

    fn take(&mut self, sign: &str) -> Parsed<bool> {
        let there = self.ahead == Token::Sign(sign);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn need(&mut self, sign: &str) -> Parsed<()> {
        if self.take(sign)? { Ok(()) } else { self.unexpected(&format!("`{sign}`")) }
    }

    fn end(&self, expected: &str) -> Parsed<()> {
        if self.ahead == Token::End { Ok(()) } else { self.unexpected(expected) }
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.semantic(format!("it nests deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn number(&mut self, word: &str) -> Parsed<f64> {
        let number = word.parse::<f64>().unwrap_or(f64::INFINITY);
        if !number.is_finite() {
            return Err(self.semantic("the number is too large".into()));
        }
        self.advance()?;
        Ok(number)
    }

    fn condition(&mut self) -> Parsed<Condition> {
        let mut terms = vec![self.term()?];
        while self.take("||")? {
            terms.push(self.term()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Condition::Any(terms) })
    }

    fn term(&mut self) -> Parsed<Condition> {
        let mut factors = vec![self.factor()?];
        while self.take("&&")? {
            factors.push(self.factor()?);
        }
        Ok(if factors.len() == 1 { factors.remove(0) } else { Condition::All(factors) })
    }

    fn factor(&mut self) -> Parsed<Condition> {
        if self.take("!")? {
            return Ok(Condition::Not(Box::new(self.deeper(Self::factor)?)));
        }
        if self.take("(")? {
            let inner = self.deeper(Self::condition)?;
            self.need(")")?;
            return Ok(inner);
        }
        let left = self.operand("`METRIC`, a number, `!` or `(`")?;
        let comparison = self.comparison()?;
        Ok(Condition::Compare(left, comparison, self.operand("`METRIC` or a number")?))
    }

    fn comparison(&mut self) -> Parsed<Comparison> {
        let Token::Sign(sign) = self.ahead else {
            return self.unexpected("`>`, `>=`, `<`, `<=`, `=` or `<>`");
        };
        match Comparison::ALL.iter().find(|(word, ..)| *word == sign) {
            Some((_, _, comparison)) => self.advance().map(|()| *comparison),
            None => self.unexpected("`>`, `>=`, `<`, `<=`, `=` or `<>`"),
        }
    }

    fn operand(&mut self, expected: &str) -> Parsed<Operand> {
        let negative = self.take("-")?;
        match self.ahead {
            Token::Number(word) => {
                let number = self.number(word)?;
                Ok(Operand::Number(if negative { -number } else { number }))
            }
            Token::Word("METRIC") if !negative => self.advance().map(|()| Operand::Metric),
            _ => self.unexpected(if negative { "a number" } else { expected }),
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        self.chain(["+", "-"], |p| p.chain(["*", "/"], Self::unary))
    }

    fn chain(&mut self, signs: [&str; 2], part: impl Fn(&mut Self) -> Parsed<Value>) -> Parsed<Value> {
        let first = part(self)?;
        let mut rest = Vec::new();
        while let Token::Sign(sign) = self.ahead
            && signs.contains(&sign)
        {
            let operator = Operator::ALL.iter().find(|(c, _)| sign.starts_with(*c)).map(|(_, o)| *o);
            self.advance()?;
            rest.extend(operator.map(|o| part(self).map(|value| (o, value))).transpose()?);
        }
        Ok(if rest.is_empty() { first } else { Value::Chain(Box::new(first), rest) })
    }

    fn unary(&mut self) -> Parsed<Value> {
        if self.take("-")? {
            return Ok(Value::Negative(Box::new(self.deeper(Self::unary)?)));
        }
        if self.take("(")? {
            let inner = self.deeper(Self::value)?;
            self.need(")")?;
            return Ok(inner);
        }
        match self.ahead {
            Token::Number(word) => self.number(word).map(Value::Number),
            Token::Word("METRIC") => self.advance().map(|()| Value::Metric),
            Token::Word("PERCENTILE") => {
                self.advance()?;
                self.percentile()
            }
            Token::Word(word) => match FUNCTIONS.iter().find(|(name, _)| *name == word) {
                Some((_, aggregate)) => {
                    self.advance()?;
                    self.need("(")?;
                    self.metric()?;
                    self.need(")")?;
                    Ok(Value::Aggregate(*aggregate))
                }
                None => self.unexpected("`METRIC`, a number or one of AVG, SUM, PERCENTILE, MAX, MIN, COUNT"),
            },
            _ => self.unexpected("`METRIC`, a number, a function, `-` or `(`"),
        }
    }

    fn metric(&mut self) -> Parsed<()> {
        match self.ahead {
            Token::Word("METRIC") => self.advance(),
            _ => self.unexpected("`METRIC`"),
        }
    }

    fn percentile(&mut self) -> Parsed<Value> {
        self.need("(")?;
        self.metric()?;
        self.need(",")?;
        let Token::Number(word) = self.ahead else { return self.unexpected("a number such as 99") };
        let aggregate = percentile(word).map_err(|message| self.semantic(message))?;
        self.advance()?;
        self.need(")")?;
        Ok(Value::Aggregate(aggregate))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> Result<String, TextError> {
        Condition::parse(text).map(|c| c.to_expression())
    }

    /// Requirement: R2-26.
    #[test]
    fn a_condition_becomes_an_expression_with_the_same_precedence() {
        for (rule, policy) in [
            ("METRIC > 1 && METRIC < 3 || METRIC = 9", "value > 1 && value < 3 || value == 9"),
            ("METRIC > 1 && (METRIC < 3 || METRIC = 9)", "value > 1 && (value < 3 || value == 9)"),
            ("!(METRIC<>0.5)", "!(value != 0.5)"),
            ("!METRIC >= 0", "!(value >= 0)"),
            ("!!METRIC >= 0", "!!(value >= 0)"),
            ("\n 10000<=METRIC\t", "10000 <= value"),
            ("METRIC > -1", "value > -1"),
            ("METRIC > 2500.0", "value > 2500"),
        ] {
            assert_eq!(written(rule), Ok(policy.to_string()), "{rule}");
        }
        let holds = |text: &str, value: f64| {
            let condition =
                Expression::parse_condition(&written(text).expect("condition")).expect("expression");
            condition.eval(&[Some(value)]) == Ok(1.0)
        };
        let table = "METRIC > 1 && METRIC < 3 || METRIC = 9";
        assert_eq!([1.0, 2.0, 3.0, 9.0].map(|v| holds(table, v)), [false, true, false, true]);
        assert_eq!([-1.0, 0.0].map(|v| holds("METRIC > -1", v)), [false, true]);
    }

    /// Requirement: R2-26.
    #[test]
    fn what_is_no_condition_is_refused_at_its_place() {
        for (text, at, semantic) in [
            ("METRIC > ", 9, false),
            ("METRIC > 07", 9, false),
            ("METRIC > 1.", 9, false),
            ("METRIC > 1e3", 10, false),
            ("METRIC > .5", 9, false),
            ("METRIC == 1", 8, false),
            ("METRIC > 1 METRIC", 11, false),
            ("(METRIC > 1", 11, false),
            ("ResponseTime > 1", 0, false),
            ("METRIC > 1 & METRIC < 2", 11, false),
            ("METRIC > -METRIC", 10, false),
            ("METRIC > é", 9, false),
            ("", 0, false),
            ("1 < 2", 0, true),
        ] {
            let error = Condition::parse(text).expect_err(text);
            assert_eq!((error.at, error.semantic), (at, semantic), "{text}: {error}");
        }
        let huge = format!("METRIC > 1{}", "0".repeat(400));
        assert!(Condition::parse(&huge).is_err_and(|e| e.semantic && e.at == 9));
    }

    #[test]
    fn thousands_of_terms_and_parentheses_are_refused_and_overflow_nothing() {
        let terms = vec!["METRIC > 1"; 10_000].join(" || ");
        let deep = format!("{}METRIC > 1{}", "(".repeat(2_000), ")".repeat(2_000));
        let nots = format!("{}METRIC > 1", "!".repeat(4_000));
        let minus = format!("{}METRIC", "-".repeat(4_000));
        for text in [&terms, &deep, &nots] {
            assert!(Condition::parse(text).is_err_and(|e| e.semantic), "{}", &text[..20]);
        }
        assert!(Value::parse(&minus).is_err_and(|e| e.semantic));
        assert!(Value::parse(&vec!["METRIC"; 580].join("+")).is_err_and(|e| e.semantic));
        assert!(Condition::parse(&vec!["METRIC > 1"; 50].join(" || ")).is_ok());
    }

    #[test]
    fn a_value_becomes_an_expression_over_aggregates() {
        for (rule, policy) in [
            ("METRIC", "value"),
            ("SUM(METRIC)/COUNT(METRIC)", "sum / count"),
            ("PERCENTILE(METRIC, 99.9) - PERCENTILE(METRIC,0.65)", "p99_9 - p65"),
            ("(MAX(METRIC)+MIN(METRIC)) / 2", "(max + min) / 2"),
            ("METRIC * -1", "value * (-1)"),
            ("1 - (METRIC - 2)", "1 - (value - 2)"),
            ("-(METRIC + 1)", "-(value + 1)"),
            ("8 / (METRIC / 2)", "8 / (value / 2)"),
        ] {
            assert_eq!(
                Value::parse(rule).map(|v| v.to_expression("value")),
                Ok(policy.to_string()),
                "{rule}"
            );
        }
        for wrong in [
            "SUM(METRIC",
            "SUM(1)",
            "MEDIAN(METRIC)",
            "ResponseTime",
            "METRIC METRIC",
            "PERCENTILE(METRIC)",
            "PERCENTILE(METRIC, 101)",
            "",
        ] {
            assert!(Value::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_percentile_is_in_percent_and_below_one_a_ratio() {
        let rank = |text: &str| percentile(text).map(|a| a.to_string());
        assert_eq!(rank("99"), Ok("p99".into()));
        assert_eq!(rank(" 0.99 "), Ok("p99".into()));
        assert_eq!(rank("0.999"), Ok("p99.9".into()));
        assert_eq!(rank("1"), Ok("p1".into()));
        for wrong in ["0", "-1", "101", "x", "", "NaN", "inf"] {
            assert!(percentile(wrong).is_err(), "{wrong}");
        }
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let operand = || {
            prop_oneof![
                Just(Operand::Metric),
                (-1_000_000_i32..1_000_000).prop_map(|n| Operand::Number(f64::from(n) / 64.0))
            ]
        };
        let comparison = (0..Comparison::ALL.len()).prop_map(|i| Comparison::ALL[i].2);
        // One side is the metric: a condition reads it.
        let leaf = (comparison, operand()).prop_map(|(c, b)| Condition::Compare(Operand::Metric, c, b));
        leaf.prop_recursive(3, 24, 4, |inner| {
            // A chain within a chain of its own kind would be read as one.
            let other = |all: bool| {
                move |c: &Condition| {
                    if all { !matches!(c, Condition::All(_)) } else { !matches!(c, Condition::Any(_)) }
                }
            };
            prop_oneof![
                prop::collection::vec(inner.clone().prop_filter("or", other(false)), 2..4)
                    .prop_map(Condition::Any),
                prop::collection::vec(inner.clone().prop_filter("and", other(true)), 2..4)
                    .prop_map(Condition::All),
                inner.prop_map(|c| Condition::Not(Box::new(c))),
            ]
        })
    }

    /// What a condition says of a number, without the engine of policies.
    fn says(condition: &Condition, metric: f64) -> bool {
        let number = |o: &Operand| match o {
            Operand::Metric => metric,
            Operand::Number(n) => *n,
        };
        match condition {
            Condition::Any(parts) => parts.iter().any(|c| says(c, metric)),
            Condition::All(parts) => parts.iter().all(|c| says(c, metric)),
            Condition::Not(inner) => !says(inner, metric),
            Condition::Compare(a, comparison, b) => {
                let (a, b) = (number(a), number(b));
                match comparison {
                    Comparison::AtLeast => a >= b,
                    Comparison::AtMost => a <= b,
                    Comparison::Equal => a == b,
                    Comparison::Unequal => a != b,
                    Comparison::Above => a > b,
                    Comparison::Below => a < b,
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Requirement: R2-26.
        #[test]
        fn what_is_printed_is_read_back_and_means_the_same(condition in condition(), metric in -20.0..20.0_f64) {
            let text = condition.to_string();
            prop_assert_eq!(Condition::parse(&text), Ok(condition.clone()), "{}", text);
            let expression = Expression::parse_condition(&condition.to_expression()).expect("an expression");
            prop_assert_eq!(expression.eval(&[Some(metric)]) == Ok(1.0), says(&condition, metric), "{}", text);
        }

        #[test]
        fn no_text_is_too_strange_to_be_refused(text in "\\PC{0,60}", near in "[METRIC0-9.<>=!&|()+*/, -]{0,60}") {
            for text in [text, near] {
                for error in [Condition::parse(&text).err(), Value::parse(&text).err()].into_iter().flatten() {
                    prop_assert!(error.byte <= text.len() && text.is_char_boundary(error.byte));
                }
            }
        }
    }
}
