//! Expressions over readings: rhai's syntax, compiled to a small tree over numbered inputs.
//!
//! Numbers are `f64` throughout: `7 / 2` is 3.5. Comparisons and logic yield 1 and 0. `&&` and `||` look at their right side
//! only when the left does not decide. An expression whose value is not finite, in whole or in part, has no value.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use dashmap::DashMap;

use super::syntax::{self, Kind, Operator, Refusal, Syntax};
use crate::model::MetricPath;

/// A compiled expression. Cheap to clone: everybody who has it shares it.
#[derive(Debug, Clone)]
pub struct Expression(Arc<Compiled>);

/// What an [`Expression`] holds.
#[derive(Debug)]
pub struct Compiled {
    /// As written.
    pub source: Arc<str>,
    /// The readings it needs, in the order of their numbers; no path appears twice.
    pub inputs: Box<[MetricPath]>,
    pub(crate) root: Node,
    /// The condition of a violation; `None` when the expression is no condition.
    negated: Option<Arc<str>>,
}

impl std::ops::Deref for Expression {
    type Target = Compiled;

    fn deref(&self) -> &Compiled {
        &self.0
    }
}

static SHARED: LazyLock<Shared> = LazyLock::new(Shared::default);

/// The expressions that somebody holds, by their text. That they are shared cannot be seen but by their address.
#[derive(Default)]
struct Shared {
    by_source: DashMap<Arc<str>, Weak<Compiled>>,
    /// How many entries there may be before those are looked for that nobody holds any more.
    bound: AtomicUsize,
}

impl Shared {
    const LEAST_BOUND: usize = 1_024;

    fn find(&self, source: &str) -> Option<Expression> {
        self.by_source.get(source)?.upgrade().map(Expression)
    }

    fn keep(&self, expression: &Expression) {
        if self.by_source.len() > self.bound.load(Ordering::Relaxed).max(Self::LEAST_BOUND) {
            self.by_source.retain(|_, shared| shared.strong_count() > 0);
            self.bound.store(2 * self.by_source.len(), Ordering::Relaxed);
        }
        self.by_source.insert(expression.source.clone(), Arc::downgrade(&expression.0));
    }
}

/// What is wrong with the text of an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// What was found.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// Where, in bytes of the text; never beyond its end.
    pub span: Range<usize>,
}

/// Why an expression has no value now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The input of this number is missing. With the next reading it may be there.
    #[error("input {0} is missing")]
    MissingInput(usize),
    /// A step has no finite value: a division by zero, the root of a negative number, an overflow.
    #[error("the expression has no finite value")]
    NotFinite,
}

/// One node of the tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// A number, or a boolean as 1 or 0.
    Constant(f64),
    /// The input of this number.
    Input(u16),
    /// Minus.
    Neg(Box<Node>),
    /// 1 for 0, and 0 otherwise.
    Not(Box<Node>),
    /// Arithmetic or a comparison.
    Binary(Operator, Box<(Node, Node)>),
    /// 0 at the first that is 0.
    And(Box<[Node]>),
    /// 1 at the first that is 1.
    Or(Box<[Node]>),
    /// Condition, then, else.
    If(Box<[Node; 3]>),
    /// A function of numbers.
    Call(Builtin, Box<[Node]>),
    /// The first, or the second when the first has no value.
    Default(Box<(Node, Node)>),
}

/// The functions that expressions know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    Min,
    Max,
    Abs,
    Sqrt,
    Floor,
    Ceil,
    Round,
    Clamp,
    Ln,
    Exp,
    Pow,
    /// The mean of those that have a value.
    Mean,
    /// A nearest-rank percentile of those that have a value: the first argument is the rank, 0 the least.
    Percentile,
    /// `x in low..=high`
    Within,
    /// `x in low..high`
    WithinBelow,
}

/// Every function with the fewest and most arguments that it takes.
const BUILTINS: [(&str, Builtin, usize, usize); 13] = [
    ("min", Builtin::Min, 1, usize::MAX),
    ("max", Builtin::Max, 1, usize::MAX),
    ("abs", Builtin::Abs, 1, 1),
    ("sqrt", Builtin::Sqrt, 1, 1),
    ("floor", Builtin::Floor, 1, 1),
    ("ceil", Builtin::Ceil, 1, 1),
    ("round", Builtin::Round, 1, 1),
    ("clamp", Builtin::Clamp, 3, 3),
    ("ln", Builtin::Ln, 1, 1),
    ("exp", Builtin::Exp, 1, 1),
    ("pow", Builtin::Pow, 2, 2),
    ("mean", Builtin::Mean, 1, usize::MAX),
    ("percentile", Builtin::Percentile, 2, usize::MAX),
];

const FUNCTIONS: &str = "the functions are min, max, abs, sqrt, floor, ceil, round, clamp, ln, exp, pow, mean, percentile(rank, ...) and default(metric, fallback)";

/// What a part of an expression yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Number,
    Boolean,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Boolean => "a condition",
        }
    }
}

impl Expression {
    /// Reads an expression: arithmetic (`+ - * / % **`), comparison, logic (`&& || !`), `if c { a } else { b }`,
    /// `x in low..=high`, and the functions min, max, abs, sqrt, floor, ceil, round, clamp, ln, exp, pow, mean,
    /// percentile and `default(x, fallback)`, over own metrics (`cost`), metrics of references (`payment.cost`) and numbers that may carry
    /// units (`2s`, `80%`, `512MiB`; a `%` directly after a digit is a unit unless an operand follows it).
    ///
    /// # Errors
    /// What is wrong, where in `source`, and what would be right.
    ///
    /// ```
    /// use homeostat::policy::expression::Expression;
    ///
    /// let cost = Expression::parse("own_cost + payment.cost").unwrap();
    /// assert_eq!(cost.eval(&[Some(18.0), Some(10.0)]), Ok(28.0));
    /// ```
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        Self::compile(source).map(|(expression, _)| expression).map_err(|refusal| within(source, refusal))
    }

    /// Reads a condition, such as the objective of an SLO: an expression that yields true or false and reads a metric.
    ///
    /// # Errors
    /// As [`Expression::parse`], and when it is no condition or reads no metric.
    pub fn parse_condition(source: &str) -> Result<Self, ExpressionError> {
        let whole = 0..source.len();
        let result = Self::compile(source).and_then(|(expression, kind)| {
            if kind != Type::Boolean {
                return Err(Refusal::new("this yields a number, and a condition is needed", whole)
                    .hint(format!("compare it with something, such as `{} < 30`", source.trim())));
            }
            if expression.inputs.is_empty() {
                return Err(Refusal::new("this condition reads no metric, so it never changes", whole)
                    .hint("name a metric in it, such as `cost < 30`"));
            }
            Ok(expression)
        });
        result.map_err(|refusal| within(source, refusal))
    }

    /// The same text is compiled once: services are often many of a kind, and what they share stays near the processor.
    fn compile(source: &str) -> Result<(Self, Type), Refusal> {
        if let Some(shared) = SHARED.find(source) {
            let kind = if shared.is_condition() { Type::Boolean } else { Type::Number };
            return Ok((shared, kind));
        }
        let (expression, kind) = Self::compile_anew(source)?;
        SHARED.keep(&expression);
        Ok((expression, kind))
    }

    fn compile_anew(source: &str) -> Result<(Self, Type), Refusal> {
        let syntax = syntax::expression(source)?;
        let mut compiler = Compiler { source, inputs: Vec::new() };
        let (root, kind) = compiler.node(&syntax)?;
        let negated = (kind == Type::Boolean).then(|| print(&negate(&syntax), source, 0).into());
        let inputs = compiler.inputs.into_boxed_slice();
        Ok((Self(Arc::new(Compiled { source: source.into(), inputs, root, negated })), kind))
    }

    /// The value over `inputs`, which are in the order of [`Compiled::inputs`]; a condition yields 1 or 0.
    /// Allocates nothing.
    ///
    /// # Errors
    /// The first input that is needed and missing, or that a step has no finite value.
    pub fn eval(&self, inputs: &[Option<f64>]) -> Result<f64, EvalError> {
        self.root.eval(inputs)
    }

    /// Reads the first steps of its evaluation. The sum means nothing.
    pub fn touch(&self) -> u64 {
        self.root.touch(3)
    }

    /// Whether it yields true or false.
    pub fn is_condition(&self) -> bool {
        self.negated.is_some()
    }

    /// The condition that holds exactly when this one does not, in the words of the source: `cost >= 30` for `cost < 30`.
    /// Comparisons flip, `&&` and `||` change places (De Morgan), anything else becomes `!(…)`. Empty when this is no condition.
    pub fn negated_text(&self) -> String {
        self.negated().to_string()
    }

    /// [`Expression::negated_text`], shared.
    pub(crate) fn negated(&self) -> Arc<str> {
        self.negated.clone().unwrap_or_default()
    }
}

/// Two expressions are equal when their texts are.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

/// The refusal with its span held within `source`.
fn within(source: &str, refusal: Refusal) -> ExpressionError {
    let end = refusal.span.end.min(source.len());
    ExpressionError { message: refusal.message, hint: refusal.hint, span: refusal.span.start.min(end)..end }
}

/// Gives inputs their numbers and checks types.
struct Compiler<'a> {
    source: &'a str,
    inputs: Vec<MetricPath>,
}

impl Compiler<'_> {
    fn node(&mut self, syntax: &Syntax) -> Result<(Node, Type), Refusal> {
        Ok(match &syntax.kind {
            Kind::Number(value) => (Node::Constant(*value), Type::Number),
            Kind::Bool(value) => (Node::Constant(truth(*value)), Type::Boolean),
            Kind::Own(name) => (self.input(MetricPath::Own(name.as_str().into())), Type::Number),
            Kind::Via(reference, metric) => {
                let path =
                    MetricPath::Via { reference: reference.as_str().into(), metric: metric.as_str().into() };
                (self.input(path), Type::Number)
            }
            Kind::Neg(x) => match self.number(x, "`-`")? {
                Node::Constant(value) => (Node::Constant(-value), Type::Number),
                node => (Node::Neg(Box::new(node)), Type::Number),
            },
            Kind::Not(x) => (Node::Not(Box::new(self.boolean(x, "`!`")?)), Type::Boolean),
            Kind::Binary(operator, sides) => self.binary(*operator, &sides.0, &sides.1)?,
            Kind::And(parts) => (Node::And(self.booleans(parts, "`&&`")?), Type::Boolean),
            Kind::Or(parts) => (Node::Or(self.booleans(parts, "`||`")?), Type::Boolean),
            Kind::If(parts) => self.choice(parts)?,
            Kind::In { parts, inclusive } => {
                let builtin = if *inclusive { Builtin::Within } else { Builtin::WithinBelow };
                (Node::Call(builtin, self.numbers(parts.as_slice(), "`in`")?), Type::Boolean)
            }
            Kind::Call(name, arguments) => self.call(name, arguments, &syntax.span)?,
        })
    }

    fn input(&mut self, path: MetricPath) -> Node {
        let number = self.inputs.iter().position(|p| *p == path).unwrap_or_else(|| {
            self.inputs.push(path);
            self.inputs.len() - 1
        });
        // The longest expression has far fewer names than a u16 counts.
        Node::Input(u16::try_from(number).unwrap_or(u16::MAX))
    }

    fn typed(&mut self, syntax: &Syntax, wanted: Type, by: &str) -> Result<Node, Refusal> {
        let (node, found) = self.node(syntax)?;
        if found == wanted {
            return Ok(node);
        }
        let text = print(syntax, self.source, 0);
        let refusal = Refusal::new(
            format!("{by} needs {}, and `{text}` yields {}", wanted.name(), found.name()),
            syntax.extent(),
        );
        Err(match wanted {
            Type::Boolean => refusal.hint("compare it with something, such as `cost < 30`"),
            Type::Number => {
                refusal.hint("turn a condition into a number with `if condition { 1 } else { 0 }`")
            }
        })
    }

    fn number(&mut self, syntax: &Syntax, by: &str) -> Result<Node, Refusal> {
        self.typed(syntax, Type::Number, by)
    }

    fn boolean(&mut self, syntax: &Syntax, by: &str) -> Result<Node, Refusal> {
        self.typed(syntax, Type::Boolean, by)
    }

    fn numbers(&mut self, parts: &[Syntax], by: &str) -> Result<Box<[Node]>, Refusal> {
        parts.iter().map(|part| self.number(part, by)).collect()
    }

    fn booleans(&mut self, parts: &[Syntax], by: &str) -> Result<Box<[Node]>, Refusal> {
        parts.iter().map(|part| self.boolean(part, by)).collect()
    }

    fn binary(&mut self, operator: Operator, left: &Syntax, right: &Syntax) -> Result<(Node, Type), Refusal> {
        let by = format!("`{}`", operator.text());
        if operator.compares()
            && let Kind::Binary(first, sides) = &left.kind
            && first.compares()
        {
            let text = |s: &Syntax| print(s, self.source, 10);
            return Err(Refusal::new(
                "comparisons cannot be chained",
                left.extent().start..right.extent().end,
            )
            .hint(format!(
                "write `{} {} {} && {} {} {}`",
                text(&sides.0),
                first.text(),
                text(&sides.1),
                text(&sides.1),
                operator.text(),
                text(right)
            )));
        }
        if matches!(operator, Operator::Eq | Operator::Ne) {
            let (a, kind) = self.node(left)?;
            let b = self.typed(right, kind, &by)?;
            return Ok((Node::Binary(operator, Box::new((a, b))), Type::Boolean));
        }
        let sides = Box::new((self.number(left, &by)?, self.number(right, &by)?));
        let kind = if operator.compares() { Type::Boolean } else { Type::Number };
        Ok((Node::Binary(operator, sides), kind))
    }

    fn choice(&mut self, parts: &[Syntax; 3]) -> Result<(Node, Type), Refusal> {
        let [condition, yes, no] = parts;
        let condition = self.boolean(condition, "`if`")?;
        let (yes, kind) = self.node(yes)?;
        let no = self.typed(no, kind, "`else`")?;
        Ok((Node::If(Box::new([condition, yes, no])), kind))
    }

    fn call(
        &mut self,
        name: &str,
        arguments: &[Syntax],
        span: &Range<usize>,
    ) -> Result<(Node, Type), Refusal> {
        let count = |least: usize, most: usize| {
            if (least..=most).contains(&arguments.len()) {
                return Ok(());
            }
            let wanted = match (least, most) {
                (1, usize::MAX) => "at least one argument".to_string(),
                (1, 1) => "one argument".to_string(),
                (n, _) => format!("{n} arguments"),
            };
            Err(Refusal::new(format!("`{name}` takes {wanted}, not {}", arguments.len()), span.clone()))
        };
        if name == "default" {
            count(2, 2).map_err(|e| e.hint("write `default(metric, fallback)`"))?;
            let (value, kind) = self.node(&arguments[0])?;
            let fallback = self.typed(&arguments[1], kind, "the fallback of `default`")?;
            return Ok((Node::Default(Box::new((value, fallback))), kind));
        }
        let Some((_, builtin, least, most)) = BUILTINS.iter().find(|(known, ..)| *known == name) else {
            let hint = match name {
                "avg" | "mean" | "sum" | "count" | "rate" | "delta" | "stddev" | "ewma" | "median"
                | "last" | "age" => format!(
                    "to aggregate over time, declare a metric `{{ of: METRIC, aggregate: {name}, over: 60s }}`"
                ),
                "metric" | "reading" => "name the metric itself: `cost` or `reference.cost`".to_string(),
                _ => FUNCTIONS.to_string(),
            };
            return Err(Refusal::new(format!("there is no function `{name}`"), span.clone()).hint(hint));
        };
        count(*least, *most)?;
        Ok((Node::Call(*builtin, self.numbers(arguments, &format!("`{name}`"))?), Type::Number))
    }
}

fn truth(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn finite(value: f64) -> Result<f64, EvalError> {
    if value.is_finite() { Ok(value) } else { Err(EvalError::NotFinite) }
}

impl Node {
    fn touch(&self, depth: u32) -> u64 {
        match self {
            Self::Constant(value) => value.to_bits(),
            Self::Input(number) => u64::from(*number),
            Self::Binary(_, sides) if depth > 0 => sides.0.touch(depth - 1) ^ sides.1.touch(depth - 1),
            Self::And(parts) | Self::Or(parts) if depth > 0 => {
                parts.first().map_or(0, |p| p.touch(depth - 1))
            }
            _ => 0,
        }
    }

    fn eval(&self, inputs: &[Option<f64>]) -> Result<f64, EvalError> {
        match self {
            Self::Constant(value) => Ok(*value),
            Self::Input(number) => {
                let number = usize::from(*number);
                let value = inputs.get(number).copied().flatten().ok_or(EvalError::MissingInput(number))?;
                finite(value)
            }
            Self::Neg(x) => Ok(-x.eval(inputs)?),
            Self::Not(x) => Ok(truth(x.eval(inputs)? == 0.0)),
            Self::Binary(operator, sides) => binary(*operator, sides.0.eval(inputs)?, sides.1.eval(inputs)?),
            Self::And(parts) => {
                for part in parts {
                    if part.eval(inputs)? == 0.0 {
                        return Ok(0.0);
                    }
                }
                Ok(1.0)
            }
            Self::Or(parts) => {
                for part in parts {
                    if part.eval(inputs)? != 0.0 {
                        return Ok(1.0);
                    }
                }
                Ok(0.0)
            }
            Self::If(parts) => {
                let [condition, yes, no] = &**parts;
                if condition.eval(inputs)? != 0.0 { yes.eval(inputs) } else { no.eval(inputs) }
            }
            Self::Call(builtin, arguments) => call(*builtin, arguments, inputs),
            Self::Default(pair) => pair.0.eval(inputs).or_else(|_| pair.1.eval(inputs)),
        }
    }
}

fn binary(operator: Operator, a: f64, b: f64) -> Result<f64, EvalError> {
    match operator {
        Operator::Add => finite(a + b),
        Operator::Sub => finite(a - b),
        Operator::Mul => finite(a * b),
        Operator::Div => finite(a / b),
        Operator::Rem => finite(a % b),
        Operator::Pow => finite(a.powf(b)),
        Operator::Lt => Ok(truth(a < b)),
        Operator::Le => Ok(truth(a <= b)),
        Operator::Gt => Ok(truth(a > b)),
        Operator::Ge => Ok(truth(a >= b)),
        Operator::Eq => Ok(truth(a == b)),
        Operator::Ne => Ok(truth(a != b)),
    }
}

fn call(builtin: Builtin, arguments: &[Node], inputs: &[Option<f64>]) -> Result<f64, EvalError> {
    // The compiler has counted the arguments.
    let argument = |n: usize| arguments.get(n).map_or(Err(EvalError::NotFinite), |node| node.eval(inputs));
    let fold = |choose: fn(f64, f64) -> f64| {
        let mut best = argument(0)?;
        for node in &arguments[1..] {
            best = choose(best, node.eval(inputs)?);
        }
        Ok(best)
    };
    match builtin {
        Builtin::Min => fold(f64::min),
        Builtin::Max => fold(f64::max),
        Builtin::Abs => Ok(argument(0)?.abs()),
        Builtin::Sqrt => finite(argument(0)?.sqrt()),
        Builtin::Floor => Ok(argument(0)?.floor()),
        Builtin::Ceil => Ok(argument(0)?.ceil()),
        Builtin::Round => Ok(argument(0)?.round()),
        Builtin::Ln => finite(argument(0)?.ln()),
        Builtin::Exp => finite(argument(0)?.exp()),
        Builtin::Pow => finite(argument(0)?.powf(argument(1)?)),
        Builtin::Mean => {
            let known = known(arguments, inputs)?;
            finite(known.iter().sum::<f64>() / known.len() as f64)
        }
        Builtin::Percentile => {
            let rank = argument(0)?;
            let mut known = known(&arguments[1..], inputs)?;
            if !(0.0..=100.0).contains(&rank) {
                return Err(EvalError::NotFinite);
            }
            known.sort_unstable_by(f64::total_cmp);
            let nearest = (rank / 100.0 * known.len() as f64).ceil().max(1.0) as usize;
            known.get(nearest - 1).copied().ok_or(EvalError::NotFinite)
        }
        Builtin::Clamp => {
            let (x, low, high) = (argument(0)?, argument(1)?, argument(2)?);
            // Bounds in the wrong order allow no value at all.
            if low <= high { Ok(x.clamp(low, high)) } else { Err(EvalError::NotFinite) }
        }
        Builtin::Within => {
            let (x, low, high) = (argument(0)?, argument(1)?, argument(2)?);
            Ok(truth(low <= x && x <= high))
        }
        Builtin::WithinBelow => {
            let (x, low, high) = (argument(0)?, argument(1)?, argument(2)?);
            Ok(truth(low <= x && x < high))
        }
    }
}

/// The values of those that have one; what the first lacks, when none has.
fn known(arguments: &[Node], inputs: &[Option<f64>]) -> Result<Vec<f64>, EvalError> {
    let mut lacks = EvalError::NotFinite;
    let mut known = Vec::with_capacity(arguments.len());
    for (n, node) in arguments.iter().enumerate() {
        match node.eval(inputs) {
            Ok(value) => known.push(value),
            Err(why) if n == 0 => lacks = why,
            Err(_) => {}
        }
    }
    if known.is_empty() { Err(lacks) } else { Ok(known) }
}

/// The syntax of the condition that holds exactly when this one does not.
fn negate(syntax: &Syntax) -> Syntax {
    let same = |kind: Kind| Syntax { kind, span: syntax.span.clone() };
    match &syntax.kind {
        Kind::Binary(operator, sides) if operator.compares() => {
            same(Kind::Binary(operator.negated(), sides.clone()))
        }
        Kind::And(parts) => same(Kind::Or(parts.iter().map(negate).collect())),
        Kind::Or(parts) => same(Kind::And(parts.iter().map(negate).collect())),
        Kind::Not(x) => (**x).clone(),
        Kind::Bool(value) => same(Kind::Bool(!value)),
        _ => same(Kind::Not(Box::new(syntax.clone()))),
    }
}

/// How tightly a node binds; a looser one inside a tighter one needs parentheses. The order is rhai's.
fn strength(syntax: &Syntax) -> u8 {
    match &syntax.kind {
        Kind::Or(_) => 1,
        Kind::And(_) => 2,
        Kind::Binary(Operator::Eq | Operator::Ne, _) => 3,
        Kind::In { .. } => 4,
        Kind::Binary(Operator::Lt | Operator::Le | Operator::Gt | Operator::Ge, _) => 5,
        Kind::Binary(Operator::Add | Operator::Sub, _) => 6,
        Kind::Binary(Operator::Mul | Operator::Div | Operator::Rem, _) => 7,
        Kind::Binary(Operator::Pow, _) => 8,
        Kind::Neg(_) | Kind::Not(_) => 10,
        Kind::If(_) => 0,
        _ => 11,
    }
}

/// The text of a node, with the numbers as they stand in `source`, for a place that binds as tightly as `outer`.
fn print(syntax: &Syntax, source: &str, outer: u8) -> String {
    let own = strength(syntax);
    let inner = |s: &Syntax, outer: u8| print(s, source, outer);
    let join = |parts: &[Syntax], by: &str, outer: u8| {
        parts.iter().map(|part| inner(part, outer)).collect::<Vec<_>>().join(by)
    };
    let text = match &syntax.kind {
        Kind::Number(_) => source[syntax.span.clone()].to_string(),
        Kind::Bool(value) => value.to_string(),
        Kind::Own(name) => name.clone(),
        Kind::Via(reference, metric) => format!("{reference}.{metric}"),
        Kind::Neg(x) => format!("-{}", inner(x, own)),
        Kind::Not(x) if strength(x) > 10 => format!("!{}", inner(x, own)),
        Kind::Not(x) => format!("!({})", inner(x, 0)),
        Kind::Binary(operator, sides) => {
            // `**` groups from the right, everything else from the left.
            let (left, right) = if *operator == Operator::Pow { (own + 1, own) } else { (own, own + 1) };
            format!("{} {} {}", inner(&sides.0, left), operator.text(), inner(&sides.1, right))
        }
        Kind::And(parts) => join(parts, " && ", own + 1),
        Kind::Or(parts) => join(parts, " || ", own + 1),
        Kind::If(parts) => {
            format!(
                "if {} {{ {} }} else {{ {} }}",
                inner(&parts[0], 0),
                inner(&parts[1], 0),
                inner(&parts[2], 0)
            )
        }
        Kind::Call(name, arguments) => format!("{name}({})", join(arguments, ", ", 0)),
        Kind::In { parts, inclusive } => {
            let range = if *inclusive { "..=" } else { ".." };
            format!("{} in {}{range}{}", inner(&parts[0], own + 1), inner(&parts[1], 6), inner(&parts[2], 6))
        }
    };
    if own < outer { format!("({text})") } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(source: &str, inputs: &[Option<f64>]) -> Result<f64, EvalError> {
        Expression::parse(source).unwrap_or_else(|e| panic!("{source}: {e:?}")).eval(inputs)
    }

    fn constant(source: &str) -> f64 {
        value(source, &[]).unwrap_or_else(|e| panic!("{source}: {e}"))
    }

    /// The message, hint and marked text of the error.
    fn refused(source: &str) -> (String, String, String) {
        let error = match Expression::parse_condition(source) {
            Err(error) => error,
            Ok(parsed) => panic!("{source} was accepted as {:?}", parsed.root),
        };
        (error.message, error.hint.unwrap_or_default(), source[error.span].to_string())
    }

    #[test]
    fn equal_texts_are_compiled_once_and_forgotten_when_nobody_holds_them() {
        let (a, b) =
            (Expression::parse("only_here + 1").unwrap(), Expression::parse("only_here + 1").unwrap());
        assert!(Arc::ptr_eq(&a.0, &b.0));
        assert!(!Arc::ptr_eq(&a.0, &Expression::parse("only_here+1").unwrap().0));
        assert!(Expression::parse_condition("only_here + 1").is_err(), "a shared number is no condition");
        assert!(Expression::parse("only_here > 1").unwrap().is_condition());
        drop((a, b));
        for n in 0..3 * Shared::LEAST_BOUND {
            drop(Expression::parse(&format!("forgotten + {n}")).unwrap());
        }
        let left = SHARED.by_source.iter().filter(|e| e.key().starts_with("forgotten")).count();
        assert!(left <= 2 * Shared::LEAST_BOUND, "{left}");
    }

    #[test]
    fn all_arithmetic_is_of_floating_point() {
        assert_eq!(constant("7 / 2"), 3.5);
        assert_eq!(constant("1 + 2 * 3 ** 2 - 8 / 4"), 17.0);
        assert_eq!(constant("-5 + +3 - -2"), 0.0);
        assert_eq!(constant("2 ** 3 ** 2"), 512.0);
        assert_eq!(constant("10000000000000000000 * 2"), 2e19);
        assert_eq!(constant("1_000.5e-1"), 100.05);
    }

    #[test]
    fn numbers_carry_units() {
        assert_eq!(constant("2s + 1500ms"), 3.5);
        assert_eq!(constant("1m30s"), 90.0);
        assert_eq!(constant("512MiB / 1MiB"), 512.0);
        assert_eq!(constant("5µs * 2"), 1e-5);
        assert_eq!(constant("1h - 1min"), 3540.0);
    }

    #[test]
    fn a_percent_sign_after_a_digit_is_a_unit_unless_an_operand_follows() {
        assert_eq!(constant("80%"), 0.8);
        assert_eq!(constant("80% + 1"), 1.8);
        assert_eq!(constant("(80%)"), 0.8);
        assert_eq!(constant("80 % 3"), 2.0);
        assert_eq!(constant("80%3"), 2.0);
        assert_eq!(constant("80% - 3"), 0.8 - 3.0);
        assert_eq!(value("used % 3", &[Some(7.0)]), Ok(1.0));
        assert_eq!(value("p99%2", &[Some(7.0)]), Ok(1.0));
        assert_eq!(value("80% < used", &[Some(0.9)]), Ok(1.0));
    }

    #[test]
    fn inputs_are_numbered_in_the_order_of_their_first_use() {
        let e = Expression::parse("own_cost + payment.cost + stock.cost * own_cost").unwrap();
        let names: Vec<String> = e.inputs.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["own_cost", "payment.cost", "stock.cost"]);
        assert_eq!(e.eval(&[Some(1.0), Some(18.0), Some(10.0)]), Ok(29.0));
        assert_eq!(e.eval(&[Some(1.0), None, None]), Err(EvalError::MissingInput(1)));
        assert_eq!(e.eval(&[]), Err(EvalError::MissingInput(0)));
        assert_eq!(e.to_string(), "own_cost + payment.cost + stock.cost * own_cost");
        assert!(!e.is_condition());
    }

    #[test]
    fn names_that_are_words_of_the_scripting_language_are_still_names() {
        for name in
            ["default", "new", "match", "static", "public", "shared", "sync", "var", "with", "is", "_", "v"]
        {
            assert_eq!(value(&format!("{name} + 1"), &[Some(2.0)]), Ok(3.0), "{name}");
            assert_eq!(value(&format!("new.{name} + 1"), &[Some(2.0)]), Ok(3.0), "{name}");
        }
    }

    #[test]
    fn functions_of_numbers() {
        assert_eq!(constant("min(3, 1, 2) + max(3, 1, 2) + max(5)"), 9.0);
        assert_eq!(constant("abs(-2) + sqrt(16) + floor(1.9) + ceil(1.1) + round(2.5)"), 12.0);
        assert_eq!(constant("clamp(10, 0, 5) + pow(2, 10)"), 1029.0);
        assert_eq!(constant("ln(exp(1))"), 1.0);
        assert_eq!(constant("if 1 < 2 { 10 } else if 1 < 3 { 20 } else { 30 }"), 10.0);
        assert_eq!(constant("1 + if 1 > 2 { 10 } else { max(20, 21) }"), 22.0);
        assert_eq!(constant("if 5 in 1..5 { 1 } else { 0 }"), 0.0);
        assert_eq!(constant("if 5 in 1..=5 { 1 } else { 0 }"), 1.0);
        assert_eq!(constant("if 6 !in 1..=5 { 1 } else { 0 }"), 1.0);
        assert_eq!(constant("if 20% in 10%..=30% { 1 } else { 0 }"), 1.0);
    }

    #[test]
    fn a_fallback_stands_in_for_what_has_no_value() {
        assert_eq!(value("default(a, 7) + 1", &[None]), Ok(8.0));
        assert_eq!(value("default(a, 7) + 1", &[Some(1.0)]), Ok(2.0));
        assert_eq!(value("default(a / b, 0)", &[Some(1.0), Some(0.0)]), Ok(0.0));
        assert_eq!(value("default(a, b)", &[None, None]), Err(EvalError::MissingInput(1)));
    }

    #[test]
    fn what_is_not_finite_is_no_value() {
        assert_eq!(value("a / b", &[Some(1.0), Some(0.0)]), Err(EvalError::NotFinite));
        assert_eq!(value("a / b < 5", &[Some(1.0), Some(0.0)]), Err(EvalError::NotFinite));
        assert_eq!(value("sqrt(a)", &[Some(-1.0)]), Err(EvalError::NotFinite));
        assert_eq!(value("a * a", &[Some(1e200)]), Err(EvalError::NotFinite));
        assert_eq!(value("a < 1", &[Some(f64::NAN)]), Err(EvalError::NotFinite));
        assert_eq!(value("clamp(a, 5, 1)", &[Some(3.0)]), Err(EvalError::NotFinite));
    }

    #[test]
    fn logic_looks_no_further_than_it_must() {
        assert_eq!(value("a > 1 || b > 1", &[Some(2.0), None]), Ok(1.0));
        assert_eq!(value("a > 1 && b > 1", &[Some(0.0), None]), Ok(0.0));
        assert_eq!(value("a > 1 && b > 1", &[Some(2.0), None]), Err(EvalError::MissingInput(1)));
        assert_eq!(value("!(a > 1) == true", &[Some(0.0)]), Ok(1.0));
    }

    /// Requirement: R3-52
    #[test]
    fn the_condition_of_a_violation_is_the_negated_objective() {
        let negated = |source: &str| Expression::parse_condition(source).expect(source).negated_text();
        assert_eq!(negated("cost < 30"), "cost >= 30");
        assert_eq!(negated("p99 < 2s"), "p99 >= 2s");
        assert_eq!(negated("used<=80%"), "used > 80%");
        assert_eq!(negated("a == b"), "a != b");
        assert_eq!(negated("20 <= t && t <= 25"), "20 > t || t > 25");
        assert_eq!(negated("a < 1 && b < 2 || c > 3"), "(a >= 1 || b >= 2) && c <= 3");
        assert_eq!(negated("!(a < 1)"), "a < 1");
        assert_eq!(negated("t in 20..=25"), "!(t in 20..=25)");
        assert_eq!(negated("(own + payment.cost) * 2 < 1m30s"), "(own + payment.cost) * 2 >= 1m30s");
        assert_eq!(negated("a - (b - c) < -1 ** 2"), "a - (b - c) >= -1 ** 2");
        assert_eq!(
            negated("if a < 1 { b < 1 } else { min(a, b) < 2 }"),
            "!(if a < 1 { b < 1 } else { min(a, b) < 2 })"
        );
    }

    #[test]
    fn a_refusal_says_what_where_and_what_would_be_right() {
        let cases = [
            ("20 <= t <= 25", "20 <= t <= 25", "write `20 <= t && t <= 25`"),
            ("cost = 30", "=", "write `==`"),
            ("cost => 30", "=>", "write `>=`"),
            ("cost <> 30", "<>", "write `!=`"),
            ("a < 1 and b < 2", "and", "write `&&`"),
            ("a < 1 & b < 2", "&", "write `&&`"),
            ("cost ^ 2 < 1", "^", "write `**`"),
            ("cost < 30 parsecs", "parsecs", ""),
            ("cost < 30parsecs", "30parsecs", "the units are"),
            ("cost + 1", "cost + 1", "compare it with something"),
            ("1 < 2", "1 < 2", "name a metric"),
            ("cost && true", "cost", "compare it with something"),
            ("cost < (a > 1)", "a > 1", "if condition { 1 } else { 0 }"),
            ("cost < \"30\"", "\"", "strategy"),
            ("let x = 3; x < 4", "let", "strategy"),
            ("while a < 1 { a }", "while", "strategy"),
            ("[cost] < 4", "[", "strategy"),
            ("avg(cost) < 4", "avg", "aggregate: avg"),
            ("fancy(cost) < 4", "fancy", "the functions are"),
            ("sqrt(cost, 2) < 4", "sqrt", ""),
            ("cost.max(3) < 4", "max", "write `max(a, b)`"),
            ("a.b.c < 4", "", "reference.metric"),
            ("cost <", "", ""),
            ("(cost < 3", "", ""),
            ("", "", "such as"),
            ("if cost < 3 { true }", "if", "else"),
            ("cost < größe", "ö", "letters"),
            ("1..3", "..", "x in 20..=25"),
            ("cost ? 1 : 2", "?", "if condition"),
        ];
        for (source, marked, hint) in cases {
            let (message, found, at) = refused(source);
            assert!(!message.is_empty() && !message.contains("vvv"), "{source}: {message}");
            assert!(found.contains(hint), "{source}: {message}; {found}");
            assert!(at.starts_with(marked), "{source}: {message} marks `{at}`");
        }
    }

    #[test]
    fn depth_and_length_are_bounded_also_on_a_small_stack() {
        let run = || {
            for piece in ["a+", "(", "-", "!", "max(", "if a<1 {", "a<1&&", "2**", "{", "a.", "1 in ", "a..="]
            {
                let source = piece.repeat(syntax::MAX_EXPRESSION / piece.len() - 1);
                assert!(Expression::parse(&source).is_err(), "{piece}");
                assert!(Expression::parse(&format!("{source}1")).is_err() || piece == "a<1&&", "{piece}");
            }
            let long = format!("{}a", "a+".repeat(60));
            assert_eq!(value(&long, &[Some(1.0)]), Ok(61.0));
            assert!(Expression::parse(&"a".repeat(5000)).is_err());
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
    }

    /// What the reference evaluator knows: the same tree, and its value by plain recursion.
    #[derive(Debug, Clone)]
    enum Tree {
        Number(u16),
        Input(usize),
        Neg(Box<Tree>),
        Binary(&'static str, Box<(Tree, Tree)>),
        Min(Vec<Tree>),
        Choice(Box<(Test, Tree, Tree)>),
    }

    #[derive(Debug, Clone)]
    enum Test {
        Compare(&'static str, Box<(Tree, Tree)>),
        And(Box<(Test, Test)>),
        Or(Box<(Test, Test)>),
        Not(Box<Test>),
    }

    impl Tree {
        fn text(&self) -> String {
            match self {
                Self::Number(n) => n.to_string(),
                Self::Input(n) => format!("m{n}"),
                Self::Neg(x) => format!("(-{})", x.text()),
                Self::Binary(op, sides) => format!("({} {op} {})", sides.0.text(), sides.1.text()),
                Self::Min(parts) => {
                    format!("min({})", parts.iter().map(Self::text).collect::<Vec<_>>().join(", "))
                }
                Self::Choice(c) => {
                    format!("(if {} {{ {} }} else {{ {} }})", c.0.text(), c.1.text(), c.2.text())
                }
            }
        }

        /// `None`: no value.
        fn value(&self, inputs: &[f64]) -> Option<f64> {
            let value = match self {
                Self::Number(n) => f64::from(*n),
                Self::Input(n) => inputs[*n],
                Self::Neg(x) => -x.value(inputs)?,
                Self::Binary(op, sides) => {
                    let (a, b) = (sides.0.value(inputs)?, sides.1.value(inputs)?);
                    match *op {
                        "+" => a + b,
                        "-" => a - b,
                        "*" => a * b,
                        "/" => a / b,
                        _ => a % b,
                    }
                }
                Self::Min(parts) => {
                    let values = parts.iter().map(|p| p.value(inputs)).collect::<Option<Vec<_>>>()?;
                    values.into_iter().fold(f64::INFINITY, f64::min)
                }
                Self::Choice(c) => {
                    if c.0.value(inputs)? {
                        c.1.value(inputs)?
                    } else {
                        c.2.value(inputs)?
                    }
                }
            };
            value.is_finite().then_some(value)
        }
    }

    impl Test {
        fn text(&self) -> String {
            match self {
                Self::Compare(op, sides) => format!("{} {op} {}", sides.0.text(), sides.1.text()),
                Self::And(sides) => format!("({} && {})", sides.0.text(), sides.1.text()),
                Self::Or(sides) => format!("({} || {})", sides.0.text(), sides.1.text()),
                Self::Not(x) => format!("!({})", x.text()),
            }
        }

        fn value(&self, inputs: &[f64]) -> Option<bool> {
            Some(match self {
                Self::Compare(op, sides) => {
                    let (a, b) = (sides.0.value(inputs)?, sides.1.value(inputs)?);
                    match *op {
                        "<" => a < b,
                        "<=" => a <= b,
                        ">" => a > b,
                        ">=" => a >= b,
                        "==" => a == b,
                        _ => a != b,
                    }
                }
                Self::And(sides) => sides.0.value(inputs)? && sides.1.value(inputs)?,
                Self::Or(sides) => sides.0.value(inputs)? || sides.1.value(inputs)?,
                Self::Not(x) => !x.value(inputs)?,
            })
        }
    }

    fn tree(depth: u32) -> BoxedStrategy<Tree> {
        let leaf = prop_oneof![any::<u16>().prop_map(Tree::Number), (0..3usize).prop_map(Tree::Input)];
        if depth == 0 {
            return leaf.boxed();
        }
        let sub = || tree(depth - 1);
        let op = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
        prop_oneof![
            2 => leaf,
            1 => sub().prop_map(|x| Tree::Neg(Box::new(x))),
            3 => (op, sub(), sub()).prop_map(|(op, a, b)| Tree::Binary(op, Box::new((a, b)))),
            1 => prop::collection::vec(sub(), 1..4).prop_map(Tree::Min),
            1 => (test(depth - 1), sub(), sub()).prop_map(|(c, a, b)| Tree::Choice(Box::new((c, a, b)))),
        ]
        .boxed()
    }

    fn test(depth: u32) -> BoxedStrategy<Test> {
        let op = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "!="]);
        let compare = (op, tree(depth.min(1)), tree(depth.min(1)))
            .prop_map(|(op, a, b)| Test::Compare(op, Box::new((a, b))));
        if depth == 0 {
            return compare.boxed();
        }
        let sub = || test(depth - 1);
        prop_oneof![
            2 => compare,
            1 => (sub(), sub()).prop_map(|s| Test::And(Box::new(s))),
            1 => (sub(), sub()).prop_map(|s| Test::Or(Box::new(s))),
            1 => sub().prop_map(|x| Test::Not(Box::new(x))),
        ]
        .boxed()
    }

    /// The values in the order of the expression's own numbers.
    fn ordered(e: &Expression, inputs: &[f64]) -> Vec<Option<f64>> {
        e.inputs.iter().map(|p| Some(inputs[p.to_string()[1..].parse::<usize>().unwrap()])).collect()
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(source in any::<String>()) {
            if let Err(e) = Expression::parse_condition(&source) {
                prop_assert!(source.get(e.span.clone()).is_some(), "{e:?}");
            }
        }

        #[test]
        fn no_sequence_of_words_makes_the_parser_panic(
            words in prop::collection::vec(prop::sample::select(vec![
                "a", "b.c", "12", "3.5", "2s", "80%", "%", "+", "-", "*", "/", "**", "<", "<=", "==", "!", "!=", "&&",
                "||", "(", ")", "{", "}", "if", "else", "true", "in", "!in", "..", "..=", ",", "max(", "default(", ".",
                "µs", "1e", "0x1f", "\n", "ä", "é", "min", "_", "=", "'", "\"", "1m30", "::", "?.", "|", "=>",
            ]), 0..20),
            gap in prop::sample::select(vec!["", " "]),
        ) {
            let source = words.join(gap);
            if let Err(e) = Expression::parse(&source) {
                prop_assert!(source.get(e.span.clone()).is_some(), "{source}: {e:?}");
                prop_assert!(!e.message.is_empty());
            }
        }

        #[test]
        fn a_tree_has_the_value_that_its_definition_gives(
            tree in tree(4),
            inputs in prop::collection::vec(-1e6..1e6f64, 3),
        ) {
            let source = tree.text();
            prop_assume!(source.len() <= syntax::MAX_EXPRESSION);
            let e = match Expression::parse(&source) {
                Ok(e) => e,
                Err(e) => return Err(TestCaseError::fail(format!("{source}: {e:?}"))),
            };
            prop_assert_eq!(e.eval(&ordered(&e, &inputs)).ok(), tree.value(&inputs), "{}", source);
        }

        #[test]
        fn a_condition_and_its_negation_never_agree(
            test in test(3),
            inputs in prop::collection::vec(-1e3..1e3f64, 3),
        ) {
            let source = test.text();
            prop_assume!(source.len() < syntax::MAX_EXPRESSION / 2);
            let e = Expression::parse(&source).map_err(|e| TestCaseError::fail(format!("{source}: {e:?}")))?;
            let text = e.negated_text();
            let negation = Expression::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e:?}")))?;
            if let Some(value) = test.value(&inputs) {
                prop_assert_eq!(e.eval(&ordered(&e, &inputs)), Ok(truth(value)), "{}", &source);
                prop_assert_eq!(negation.eval(&ordered(&negation, &inputs)), Ok(truth(!value)), "{} / {}", &source, &text);
            }
        }
    }

    /// Prints what one evaluation costs: `cargo test --lib -- --ignored --nocapture an_evaluation`.
    #[test]
    #[ignore = "prints figures"]
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn an_evaluation_costs() {
        let e = Expression::parse("own_cost + payment.cost + stock.cost < 30 && p99 < 2s").unwrap();
        let inputs = [Some(1.0), Some(18.0), Some(10.0), Some(0.5)];
        let start = std::time::Instant::now();
        let n = 1_000_000;
        let mut sum = 0.0;
        for _ in 0..n {
            sum += std::hint::black_box(&e).eval(std::hint::black_box(&inputs)).unwrap();
        }
        println!("{:.1} ns per evaluation ({sum})", start.elapsed().as_nanos() as f64 / f64::from(n));
    }
}
