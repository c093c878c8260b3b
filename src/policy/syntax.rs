//! The only file that knows rhai's syntax tree (its `internals`, which are outside semantic versioning).
//! It turns an expression's tree into [`Syntax`], our own, and finds what a script's tree says about itself.
//!
//! An expression is read in two steps. A scanner finds names and numbers, converts units (`2s`, `80%`) and refuses what only
//! a strategy may contain. It leaves a text of the same length in which every name is `v…` and every number `1…`, so that
//! rhai's positions are positions in the original; rhai then decides precedence and structure.

use std::collections::BTreeSet;
use std::ops::Range;

use rhai::{AST, ASTNode, Engine, Expr, OptimizationLevel, ParseErrorType, Position, Stmt};

use crate::model::units::{self, Base};

/// The longest expression, in bytes: a chain of operators is as deep as it is long.
pub(super) const MAX_EXPRESSION: usize = 4096;

/// The deepest expression: operators in one chain, or parentheses within each other.
const MAX_DEPTH: usize = 64;

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub message: String,
    pub hint: Option<String>,
    pub span: Range<usize>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>, span: Range<usize>) -> Self {
        Self { message: message.into(), hint: None, span }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A node of an expression and the bytes of the original text that name it best (its operator, name or number).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Syntax {
    pub kind: Kind,
    pub span: Range<usize>,
}

impl Syntax {
    /// The bytes from the beginning of the first to the end of the last word in it.
    pub(super) fn extent(&self) -> Range<usize> {
        let mut extent = self.span.clone();
        let mut add = |part: &Syntax| {
            let part = part.extent();
            extent = extent.start.min(part.start)..extent.end.max(part.end);
        };
        match &self.kind {
            Kind::Number(_) | Kind::Bool(_) | Kind::Own(_) | Kind::Via(..) => {}
            Kind::Neg(x) | Kind::Not(x) => add(x),
            Kind::Binary(_, sides) => {
                add(&sides.0);
                add(&sides.1);
            }
            Kind::And(parts) | Kind::Or(parts) | Kind::Call(_, parts) => parts.iter().for_each(add),
            Kind::If(parts) | Kind::In { parts, .. } => parts.iter().for_each(add),
        }
        extent
    }
}

/// What an expression can be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A number, its unit applied; its text is that of the span.
    Number(f64),
    Bool(bool),
    /// `cost`
    Own(String),
    /// `payment.cost`
    Via(String, String),
    Neg(Box<Syntax>),
    Not(Box<Syntax>),
    Binary(Operator, Box<(Syntax, Syntax)>),
    And(Vec<Syntax>),
    Or(Vec<Syntax>),
    If(Box<[Syntax; 3]>),
    Call(String, Vec<Syntax>),
    /// `x in low..high` or, when `inclusive`, `x in low..=high`
    In {
        parts: Box<[Syntax; 3]>,
        inclusive: bool,
    },
}

/// An operator with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Pow,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

impl Operator {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Add, "+"),
        (Self::Sub, "-"),
        (Self::Mul, "*"),
        (Self::Div, "/"),
        (Self::Rem, "%"),
        (Self::Pow, "**"),
        (Self::Lt, "<"),
        (Self::Le, "<="),
        (Self::Gt, ">"),
        (Self::Ge, ">="),
        (Self::Eq, "=="),
        (Self::Ne, "!="),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(op, _)| *op)
    }

    /// As it is written.
    pub(super) fn text(self) -> &'static str {
        Self::ALL.iter().find(|(op, _)| *op == self).map_or("", |(_, name)| name)
    }

    /// Whether it yields a boolean.
    pub(super) fn compares(self) -> bool {
        matches!(self, Self::Lt | Self::Le | Self::Gt | Self::Ge | Self::Eq | Self::Ne)
    }

    /// The comparison that holds exactly when this one does not; itself for arithmetic.
    pub(super) fn negated(self) -> Self {
        match self {
            Self::Lt => Self::Ge,
            Self::Ge => Self::Lt,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            other => other,
        }
    }
}

/// A name or a number of the original text.
#[derive(Debug)]
struct Token {
    span: Range<usize>,
    kind: TokenKind,
}

#[derive(Debug)]
enum TokenKind {
    Name,
    Number(f64),
}

/// The words that rhai must see.
const KEYWORDS: [&str; 5] = ["if", "else", "true", "false", "in"];

/// The words of rhai that only a strategy may use, and what they begin.
const STATEMENTS: [(&str, &str); 15] = [
    ("let", "a variable"),
    ("const", "a constant"),
    ("loop", "a loop"),
    ("while", "a loop"),
    ("do", "a loop"),
    ("until", "a loop"),
    ("for", "a loop"),
    ("fn", "a function"),
    ("return", "a return"),
    ("throw", "an exception"),
    ("try", "an exception handler"),
    ("catch", "an exception handler"),
    ("switch", "a switch"),
    ("import", "an import"),
    ("export", "an export"),
];

const ONLY_IN_STRATEGIES: &str = "an expression is arithmetic, comparison and logic over metrics; anything more belongs in a strategy (a .rhai file named by `run`)";

/// Finds names and numbers; leaves the text that rhai reads.
struct Scanner<'a> {
    source: &'a str,
    at: usize,
    out: String,
    tokens: Vec<Token>,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn run(mut self) -> Result<(String, Vec<Token>), Refusal> {
        while let Some(c) = self.rest().chars().next() {
            match c {
                c if c.is_ascii_alphabetic() || c == '_' => self.name()?,
                c if c.is_ascii_digit() => self.number()?,
                c if c.is_whitespace() => self.keep(c.len_utf8(), " "),
                _ => self.symbol(c)?,
            }
        }
        Ok((self.out, self.tokens))
    }

    /// Steps over `bytes` of the source and writes `text`, which must have as many characters.
    fn keep(&mut self, bytes: usize, text: &str) {
        self.out.push_str(text);
        self.at += bytes;
    }

    fn refuse<T>(&self, bytes: usize, message: impl Into<String>, hint: &str) -> Result<T, Refusal> {
        let refusal = Refusal::new(message, self.at..self.at + bytes);
        Err(if hint.is_empty() { refusal } else { refusal.hint(hint) })
    }

    fn name(&mut self) -> Result<(), Refusal> {
        let word = leading(self.rest(), |c| c.is_ascii_alphanumeric() || c == '_');
        if KEYWORDS.contains(&word) {
            self.keep(word.len(), word);
            return Ok(());
        }
        if let Some((_, what)) = STATEMENTS.iter().find(|(name, _)| *name == word) {
            return self.refuse(
                word.len(),
                format!("`{word}` begins {what}, which an expression cannot have"),
                ONLY_IN_STRATEGIES,
            );
        }
        let instead = match word {
            "and" | "AND" => "write `&&`",
            "or" | "OR" => "write `||`",
            "not" | "NOT" if !self.is_call(word) => "write `!`",
            _ => "",
        };
        if !instead.is_empty() {
            return self.refuse(word.len(), format!("`{word}` is no operator here"), instead);
        }
        self.tokens.push(Token { span: self.at..self.at + word.len(), kind: TokenKind::Name });
        self.keep(word.len(), &"v".repeat(word.len()));
        Ok(())
    }

    fn is_call(&self, word: &str) -> bool {
        self.rest()[word.len()..].trim_start().starts_with('(')
    }

    /// A number with its unit; `1m30s` is a sum.
    fn number(&mut self) -> Result<(), Refusal> {
        let start = self.at;
        let mut total = 0.0;
        let mut end = start;
        let mut parts = 0;
        loop {
            let digits = number_text(&self.source[end..]);
            let after = end + digits.len();
            let written: f64 = digits.replace('_', "").parse().unwrap_or(f64::NAN);
            let (unit, factor, base) = self.unit(start, after)?;
            // 57 / 100 is nearer to 57% than 57 * 0.01.
            total += if factor < 1.0 { written / factor.recip().round() } else { written * factor };
            end = after + unit;
            parts += 1;
            let more = self.source[end..].starts_with(|c: char| c.is_ascii_digit());
            match base {
                Some(Base::Seconds) if more => {}
                Some(_) if more => {
                    return Err(Refusal::new("an operator is missing after the unit", end..end + 1));
                }
                None if parts > 1 => {
                    return Err(Refusal::new("a unit is missing", start..end)
                        .hint("write each part with its unit, such as 1m30s"));
                }
                _ => break,
            }
        }
        if !total.is_finite() {
            return Err(Refusal::new(format!("`{}` is too large", &self.source[start..end]), start..end));
        }
        let characters = self.source[start..end].chars().count();
        self.tokens.push(Token { span: start..end, kind: TokenKind::Number(total) });
        self.keep(end - start, &format!("1{}", " ".repeat(characters - 1)));
        Ok(())
    }

    /// The length, factor and base of the unit at `after`, if there is one.
    fn unit(&self, start: usize, after: usize) -> Result<(usize, f64, Option<Base>), Refusal> {
        let rest = &self.source[after..];
        if let Some(next) = rest.strip_prefix('%') {
            // `80%` is a share, `80 % 3` and `80%3` are a remainder.
            let next = next.trim_start();
            let word = leading(next, |c| c.is_alphanumeric() || c == '_');
            let remainder = (!word.is_empty() && word != "in") || next.starts_with('(');
            return Ok(if remainder { (0, 1.0, None) } else { (1, 0.01, Some(Base::Ratio)) });
        }
        let word = leading(rest, |c| c.is_alphabetic() || c == '_');
        if word.is_empty() {
            return Ok((0, 1.0, None));
        }
        match units::unit(word) {
            Some((base, factor)) => Ok((word.len(), factor, Some(base))),
            None => Err(Refusal::new(
                format!("`{}` has no unit that is known", &self.source[start..after + word.len()]),
                start..after + word.len(),
            )
            .hint(format!("the units are {}", units::known_units()))),
        }
    }

    fn symbol(&mut self, c: char) -> Result<(), Refusal> {
        let rest = self.rest();
        if let Some(operator) =
            ["..=", "<=", ">=", "==", "!=", "&&", "||", "**", ".."].iter().find(|op| rest.starts_with(**op))
        {
            if *operator == "==" && rest.starts_with("===") {
                return self.refuse(3, "`===` is no operator", "write `==`");
            }
            self.keep(operator.len(), operator);
            return Ok(());
        }
        match c {
            '+' | '-' | '*' | '/' | '%' | '<' | '>' | '!' | '(' | ')' | '{' | '}' | ',' | '.' => {
                if rest.starts_with("//") || rest.starts_with("/*") {
                    return self.refuse(
                        2,
                        "an expression has no comments",
                        "write them in YAML, after a `#`",
                    );
                }
                if rest.starts_with("<>") {
                    return self.refuse(2, "`<>` is no operator", "write `!=`");
                }
                let mut text = [0; 4];
                self.keep(1, c.encode_utf8(&mut text));
                Ok(())
            }
            '=' if rest.starts_with("=>") => self.refuse(2, "`=>` is no operator", "write `>=`"),
            '=' if rest.starts_with("=<") => self.refuse(2, "`=<` is no operator", "write `<=`"),
            '=' => self.refuse(1, "`=` assigns, which an expression cannot", "to compare, write `==`"),
            '&' => self.refuse(1, "`&` is no operator here", "write `&&`"),
            '|' => self.refuse(1, "`|` is no operator here", "write `||`"),
            '^' => self.refuse(1, "`^` is no operator here", "for a power, write `**`"),
            '?' | ':' => self.refuse(
                1,
                format!("`{c}` is no operator here"),
                "to choose, write `if condition { a } else { b }`; for a fallback, `default(metric, 0)`",
            ),
            '"' | '\'' | '`' => {
                self.refuse(1, "a text has no place in an expression over numbers", ONLY_IN_STRATEGIES)
            }
            '[' | ']' => self.refuse(1, "an array has no place in an expression", ONLY_IN_STRATEGIES),
            '#' => self.refuse(1, "a map has no place in an expression", ONLY_IN_STRATEGIES),
            ';' => self.refuse(1, "`;` separates statements, and an expression has none", ONLY_IN_STRATEGIES),
            '≤' => self.refuse(c.len_utf8(), "`≤` is no operator", "write `<=`"),
            '≥' => self.refuse(c.len_utf8(), "`≥` is no operator", "write `>=`"),
            '≠' => self.refuse(c.len_utf8(), "`≠` is no operator", "write `!=`"),
            other => self.refuse(
                other.len_utf8(),
                format!("`{}` is not expected here", other.escape_debug()),
                "names are made of the letters a to z, digits and `_`",
            ),
        }
    }
}

/// The longest beginning of `text` whose characters all satisfy `keep`.
fn leading(text: &str, keep: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !keep(c)).unwrap_or(text.len())]
}

/// The digits, fraction and exponent at the beginning of `text`, which begins with a digit.
fn number_text(text: &str) -> &str {
    let digit = |c: char| c.is_ascii_digit() || c == '_';
    let mut end = leading(text, digit).len();
    if text[end..].starts_with('.') && text[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end += 1 + leading(&text[end + 1..], digit).len();
    }
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let digits = leading(&exponent[sign..], |c| c.is_ascii_digit()).len();
        if digits > 0 {
            end += 1 + sign + digits;
        }
    }
    &text[..end]
}

/// Reads an expression.
pub(super) fn expression(source: &str) -> Result<Syntax, Refusal> {
    if source.len() > MAX_EXPRESSION {
        return Err(Refusal::new(
            format!("the expression is {} bytes long; at most {MAX_EXPRESSION} are allowed", source.len()),
            0..0,
        )
        .hint("split it into several metrics"));
    }
    if source.trim().is_empty() {
        return Err(Refusal::new("the expression is empty", 0..source.len()).hint("such as `cost < 30`"));
    }
    let (text, tokens) = Scanner { source, at: 0, out: String::new(), tokens: Vec::new() }.run()?;
    let reader = Reader { source, tokens };
    let ast = PARSER.with(|engine| engine.compile_expression(&text)).map_err(|e| reader.parse_error(&e))?;
    match ast.statements() {
        [Stmt::Expr(expr)] => reader.read(expr, 0),
        [Stmt::FnCall(call, pos)] => reader.call(call, *pos, 0),
        _ => Err(Refusal::new("this is no expression", 0..source.len()).hint(ONLY_IN_STRATEGIES)),
    }
}

thread_local! {
    /// Only parses; it has no functions and runs nothing.
    static PARSER: Engine = {
        let mut engine = Engine::new_raw();
        engine.set_optimization_level(OptimizationLevel::None);
        engine.set_max_expr_depths(MAX_DEPTH, 0);
        engine
    };
}

/// Turns rhai's tree into ours, with the names and numbers of the original text.
struct Reader<'a> {
    source: &'a str,
    tokens: Vec<Token>,
}

impl Reader<'_> {
    /// The byte of the original text that rhai's position is about.
    fn offset(&self, position: Position) -> usize {
        // The text is one line, and has as many characters as the original.
        let characters = position.position().unwrap_or(1).saturating_sub(1);
        self.source.char_indices().nth(characters).map_or(self.source.len(), |(at, _)| at)
    }

    /// The name, number or operator at `at`.
    fn span(&self, at: usize) -> Range<usize> {
        if let Some(token) = self.tokens.iter().find(|t| t.span.contains(&at)) {
            return token.span.clone();
        }
        let rest = &self.source[at..];
        let word = leading(rest, |c| c.is_ascii_alphabetic()).len();
        let operator =
            ["..=", "<=", ">=", "==", "!=", "&&", "||", "**", ".."].iter().find(|op| rest.starts_with(**op));
        let width = match operator {
            Some(operator) => operator.len(),
            None if word > 0 => word,
            None => rest.chars().next().map_or(0, char::len_utf8),
        };
        at..at + width
    }

    fn parse_error(&self, error: &rhai::ParseError) -> Refusal {
        let position = error.position();
        let at = if position.is_none() { self.source.len() } else { self.offset(position) };
        let span = self.span(at);
        let found = &self.source[span.clone()];
        match error.err_type() {
            ParseErrorType::ExprTooDeep => Refusal::new("the expression is nested too deeply", span)
                .hint("split it into several metrics"),
            ParseErrorType::UnexpectedEOF => Refusal::new("the expression ends too early", span),
            _ if found.is_empty() => Refusal::new("the expression ends too early", span),
            ParseErrorType::MissingToken(token, _) => {
                Refusal::new(format!("`{token}` is missing before `{found}`"), span)
            }
            _ => Refusal::new(format!("`{found}` is not expected here"), span),
        }
    }

    fn name(&self, position: Position) -> (String, Range<usize>) {
        let span = self.span(self.offset(position));
        (self.source[span.clone()].to_string(), span)
    }

    fn refuse<T>(&self, what: &str, position: Position) -> Result<T, Refusal> {
        let span = self.span(self.offset(position));
        Err(Refusal::new(format!("{what} has no place in an expression"), span).hint(ONLY_IN_STRATEGIES))
    }

    fn read(&self, expr: &Expr, depth: usize) -> Result<Syntax, Refusal> {
        if depth > 4 * MAX_DEPTH {
            return Err(Refusal::new(
                "the expression is nested too deeply",
                self.span(self.offset(expr.position())),
            )
            .hint("split it into several metrics"));
        }
        match expr {
            Expr::IntegerConstant(value, position) => self.number(*value < 0, *position),
            Expr::BoolConstant(value, position) => {
                Ok(Syntax { kind: Kind::Bool(*value), span: self.span(self.offset(*position)) })
            }
            Expr::Variable(_, _, position) => {
                let (name, span) = self.name(*position);
                Ok(Syntax { kind: Kind::Own(name), span })
            }
            Expr::Dot(pair, _, position) => self.path(&pair.lhs, &pair.rhs, *position),
            Expr::And(parts, position) => Ok(Syntax {
                kind: Kind::And(self.all(parts, depth)?),
                span: self.span(self.offset(*position)),
            }),
            Expr::Or(parts, position) => Ok(Syntax {
                kind: Kind::Or(self.all(parts, depth)?),
                span: self.span(self.offset(*position)),
            }),
            Expr::FnCall(call, position) => self.call(call, *position, depth),
            Expr::Stmt(block) => self.block(block.statements(), block.position(), depth),
            Expr::Unit(position) => self.refuse("an empty value", *position),
            other => self.refuse("this", other.position()),
        }
    }

    fn all(&self, parts: &[Expr], depth: usize) -> Result<Vec<Syntax>, Refusal> {
        parts.iter().map(|part| self.read(part, depth + 1)).collect()
    }

    /// rhai folds the sign into a number and keeps the position of the sign.
    fn number(&self, negative: bool, position: Position) -> Result<Syntax, Refusal> {
        let at = self.offset(position);
        let found = self.tokens.iter().find_map(|token| match token.kind {
            TokenKind::Number(value) if token.span.end > at => Some((value, token.span.clone())),
            _ => None,
        });
        let Some((value, span)) = found else { return self.refuse("this number", position) };
        let number = Syntax { kind: Kind::Number(value), span: span.clone() };
        Ok(if negative { Syntax { kind: Kind::Neg(Box::new(number)), span } } else { number })
    }

    fn path(&self, reference: &Expr, metric: &Expr, position: Position) -> Result<Syntax, Refusal> {
        match (reference, metric) {
            (Expr::Variable(_, _, left), Expr::Property(_, right)) => {
                let (reference, start) = self.name(*left);
                let (metric, end) = self.name(*right);
                Ok(Syntax { kind: Kind::Via(reference, metric), span: start.start..end.end })
            }
            (_, Expr::MethodCall(_, at)) => {
                let (name, span) = self.name(*at);
                Err(Refusal::new(format!("`{name}` is called as a method"), span)
                    .hint(format!("write `{name}(a, b)` instead of `a.{name}(b)`")))
            }
            (Expr::Variable(..), Expr::Dot(_, _, at)) => {
                Err(Refusal::new("a metric's name has at most two parts", self.span(self.offset(*at)))
                    .hint("write `metric` or `reference.metric`"))
            }
            _ => Err(Refusal::new(
                "`.` follows something that is no reference",
                self.span(self.offset(position)),
            )
            .hint("write `reference.metric`")),
        }
    }

    fn call(&self, call: &rhai::FnCallExpr, position: Position, depth: usize) -> Result<Syntax, Refusal> {
        let (name, span) = self.name(position);
        // `in` becomes a call of `contains`, with its sides swapped; written names are all `v…` here.
        if let ("contains", [range, x]) = (call.name.as_str(), call.args.as_slice()) {
            return self.range(range, x, span, depth);
        }
        if call.op_token.is_none() {
            return Ok(Syntax { kind: Kind::Call(name, self.all(&call.args, depth)?), span });
        }
        let kind = match (call.name.as_str(), call.args.as_slice()) {
            ("-", [x]) => Kind::Neg(Box::new(self.read(x, depth + 1)?)),
            ("+", [x]) => return self.read(x, depth + 1),
            ("!", [x]) => Kind::Not(Box::new(self.read(x, depth + 1)?)),
            ("..", _) | ("..=", _) => {
                return Err(Refusal::new("a range stands only after `in`", span)
                    .hint("write `x in 20..=25`, or `20 <= x && x <= 25`"));
            }
            (operator, [left, right]) => match Operator::parse(operator) {
                Some(operator) => Kind::Binary(
                    operator,
                    Box::new((self.read(left, depth + 1)?, self.read(right, depth + 1)?)),
                ),
                None => return self.refuse(&format!("`{operator}`"), position),
            },
            (operator, _) => return self.refuse(&format!("`{operator}`"), position),
        };
        Ok(Syntax { kind, span })
    }

    fn range(&self, range: &Expr, x: &Expr, span: Range<usize>, depth: usize) -> Result<Syntax, Refusal> {
        if let Expr::FnCall(bounds, _) = range
            && let ("..=" | "..", [low, high]) = (bounds.name.as_str(), bounds.args.as_slice())
        {
            let parts = [self.read(x, depth + 1)?, self.read(low, depth + 1)?, self.read(high, depth + 1)?];
            let inclusive = bounds.name.as_str() == "..=";
            return Ok(Syntax { kind: Kind::In { parts: Box::new(parts), inclusive }, span });
        }
        Err(Refusal::new("`in` needs a range after it", span).hint("write `x in 20..=25`"))
    }

    /// A block with one expression in it, or an `if`.
    fn block(&self, statements: &[Stmt], position: Position, depth: usize) -> Result<Syntax, Refusal> {
        match statements {
            [Stmt::Expr(expr)] => self.read(expr, depth + 1),
            [Stmt::FnCall(call, at)] => self.call(call, *at, depth + 1),
            [Stmt::Block(block)] => self.block(block.statements(), block.position(), depth + 1),
            [Stmt::If(flow, at)] if depth <= 4 * MAX_DEPTH => {
                let span = self.span(self.offset(*at));
                if flow.branch.is_empty() {
                    return Err(Refusal::new("an `if` without `else` has no value", span)
                        .hint("write `if condition { a } else { b }`"));
                }
                let parts = [
                    self.read(&flow.expr, depth + 1)?,
                    self.block(flow.body.statements(), flow.body.position(), depth + 1)?,
                    self.block(flow.branch.statements(), flow.branch.position(), depth + 1)?,
                ];
                Ok(Syntax { kind: Kind::If(Box::new(parts)), span })
            }
            [] => self.refuse("an empty block", position),
            _ => self.refuse("a statement", position),
        }
    }
}

/// A name that a script uses and does not define.
#[derive(Debug, PartialEq)]
pub(super) struct Undefined {
    pub name: String,
    pub position: Position,
}

/// A call of a function, with those of its arguments that are literal texts.
pub(super) struct Call {
    pub function: String,
    pub arguments: Vec<Option<String>>,
    pub position: Position,
}

/// Every call of a function by its name, in the order of the tree; operators and methods are not among them.
pub(super) fn calls(ast: &AST) -> Vec<Call> {
    let mut found = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        let (call, position) = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, at))) | Some(ASTNode::Stmt(Stmt::FnCall(call, at))) => {
                (call, at)
            }
            _ => return true,
        };
        if call.op_token.is_none() {
            let literal = |argument: &Expr| match argument {
                Expr::StringConstant(text, _) => Some(text.to_string()),
                _ => None,
            };
            found.push(Call {
                function: call.name.to_string(),
                arguments: call.args.iter().map(literal).collect(),
                position: *position,
            });
        }
        true
    });
    found
}

/// The first statement at the top level that is no constant.
pub(super) fn top_level_statement(ast: &AST) -> Option<Position> {
    ast.statements().iter().find_map(|statement| match statement {
        Stmt::Noop(_) => None,
        Stmt::Var(_, flags, _) if flags.contains(rhai::ASTFlags::CONSTANT) => None,
        other => Some(other.position()),
    })
}

/// The first name that the script uses and nowhere defines, as far as its tree tells.
///
/// rhai numbers every variable that it finds in its own function; the others are constants of the top level, functions,
/// variables captured by a closure (whose outermost capture is numbered), or mistakes.
pub(super) fn undefined_name(ast: &AST, constants: &dyn Fn(&str) -> bool) -> Option<Undefined> {
    let mut defined = BTreeSet::new();
    let mut captured = BTreeSet::new();
    let mut used: Vec<Undefined> = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Variable(variable, _, position))) if variable.0.is_none() => {
                used.push(Undefined { name: variable.1.to_string(), position: *position });
            }
            Some(ASTNode::Stmt(Stmt::Var(variable, _, _))) => {
                defined.insert(variable.0.name.to_string());
            }
            Some(ASTNode::Stmt(Stmt::For(parts, _))) => {
                defined.insert(parts.0.name.to_string());
                defined.extend(parts.1.iter().map(|counter| counter.name.to_string()));
            }
            Some(ASTNode::Stmt(Stmt::TryCatch(flow, _))) => {
                if let Expr::Variable(variable, ..) = &flow.expr {
                    defined.insert(variable.1.to_string());
                }
            }
            Some(ASTNode::Stmt(Stmt::Share(variables))) => {
                for (variable, index) in &**variables {
                    let names = if index.is_some() { &mut defined } else { &mut captured };
                    names.insert(variable.name.to_string());
                }
            }
            _ => {}
        }
        true
    });
    for function in ast.iter_functions() {
        let closure = function.name.starts_with("anon$");
        let own = |parameter: &&&str| !closure || !captured.contains(**parameter);
        defined.extend(function.params.iter().filter(own).map(|parameter| (*parameter).to_string()));
        defined.insert(function.name.to_string());
    }
    used.into_iter()
        .filter(|u| !defined.contains(&u.name) && !constants(&u.name))
        .min_by_key(|u| (u.position.line(), u.position.position()))
}
