//! A document as a tree that remembers where every value stands, and the serde deserialiser over it.
//! Policies are read through it, whether they come as YAML or as JSON, so that every mistake keeps its place.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::diagnostics::closest;

/// Nesting beyond this depth is refused by the YAML parser.
const MAX_DEPTH: usize = 64;

/// One value and the bytes that it stands at; `None` in documents that came as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub(crate) span: Option<Range<usize>>,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// An item of a list that was taken out after an error; the others keep their numbers.
    Removed,
}

/// The key of a mapping and the bytes that it stands at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Option<Range<usize>>,
}

/// One step from a value to a value inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The value under this key of a mapping.
    Key(String),
    /// The value with this number in a list.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_string())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A place in a document: the steps that lead to a value, whether its key is meant, and which bytes of its text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// From the root of the document.
    pub steps: Vec<Step>,
    /// The key, not the value.
    pub key: bool,
    /// Bytes inside the value, which is a text.
    pub inner: Option<Range<usize>>,
}

impl Place {
    /// The value that these steps lead to.
    pub fn value(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), key: false, inner: None }
    }

    /// Its key.
    pub fn at_key(mut self) -> Self {
        self.key = true;
        self
    }

    /// Some bytes of its text.
    pub fn inside(mut self, inner: Range<usize>) -> Self {
        self.inner = Some(inner);
        self
    }

    /// The value under one more step.
    pub fn then(&self, step: impl Into<Step>) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step.into());
        Self { steps, key: false, inner: None }
    }
}

/// `monitor.metrics.cost`, `plan[0].do[1]`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

// ---- from text -----------------------------------------------------------------------------------------------------

/// Why a text is no YAML, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntaxError {
    /// What was found.
    pub message: String,
    /// Where, in bytes.
    pub span: Option<Range<usize>>,
}

/// The documents of a YAML text; empty ones (only comments) are left out.
///
/// # Errors
/// The first mistake in the syntax; it hides what follows.
pub fn parse_yaml(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        strict_booleans: true,
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
    };
    match serde_saphyr::from_multiple_with_options::<serde_saphyr::Spanned<Kind>>(text, options) {
        Ok(documents) => Ok(documents
            .into_iter()
            .map(|document| node(document, text))
            .filter(|document| document.kind != Kind::Null)
            .collect()),
        Err(error) => {
            let error = error.without_snippet();
            let span = error.location().and_then(|at| byte_range(&at, text));
            Err(SyntaxError { message: plain_message(&error.to_string()), span })
        }
    }
}

/// The message without the position that the parser appends; the position is shown in its own place.
fn plain_message(text: &str) -> String {
    let first = text.lines().next().unwrap_or(text);
    let end = [" at line ", ", set DuplicateKeyPolicy"].iter().filter_map(|tail| first.find(tail)).min();
    first[..end.unwrap_or(first.len())].to_string()
}

fn byte_range(at: &serde_saphyr::Location, text: &str) -> Option<Range<usize>> {
    let span = at.span();
    let start = match span.byte_offset().and_then(|o| usize::try_from(o).ok()) {
        Some(start) => start,
        None if at.line() == 0 => return None,
        None => {
            // Only line and column (in characters) are known.
            let line_start: usize = text
                .split_inclusive('\n')
                .take(usize::try_from(at.line()).ok()?.saturating_sub(1))
                .map(str::len)
                .sum();
            let column = usize::try_from(at.column()).ok()?.saturating_sub(1);
            let line = text.get(line_start..)?;
            line_start + line.char_indices().nth(column).map_or(line.len(), |(i, _)| i)
        }
    };
    let length = span.byte_len().and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
    let start = floor(text, start.min(text.len()));
    Some(start..floor(text, start.saturating_add(length).min(text.len())).max(start))
}

fn floor(text: &str, mut at: usize) -> usize {
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn node(spanned: serde_saphyr::Spanned<Kind>, text: &str) -> Node {
    let span = byte_range(&spanned.defined, text);
    Node { span, kind: spanned.value }.settle(text)
}

impl Node {
    /// Turns the raw locations that `Kind::deserialize` left in keys and values into byte ranges of `text`.
    fn settle(mut self, text: &str) -> Self {
        // A scalar's range may reach over trailing blanks; an error should underline the word only.
        if !matches!(self.kind, Kind::List(_) | Kind::Map(_))
            && let Some(span) = &mut self.span
            && let Some(raw) = text.get(span.clone())
        {
            span.end = span.start + raw.trim_end().len();
        }
        match &mut self.kind {
            Kind::List(items) => {
                for item in items {
                    *item = std::mem::replace(item, Self { span: None, kind: Kind::Null }).settle(text);
                }
            }
            Kind::Map(entries) => {
                for (_, value) in entries {
                    *value = std::mem::replace(value, Self { span: None, kind: Kind::Null }).settle(text);
                }
            }
            _ => {}
        }
        self
    }

    /// The tree of a JSON value, without positions.
    pub fn from_json(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let kind = match value {
            Value::Null => Kind::Null,
            Value::Bool(b) => Kind::Bool(*b),
            Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Kind::Int(i),
                (None, Some(u)) => Kind::Uint(u),
                (None, None) => Kind::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(s) => Kind::Text(s.clone()),
            Value::Array(items) => Kind::List(items.iter().map(Self::from_json).collect()),
            Value::Object(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|(key, value)| (Key { text: key.clone(), span: None }, Self::from_json(value)))
                    .collect(),
            ),
        };
        Self { span: None, kind }
    }

    /// The same value as JSON; numbers that JSON lacks become null.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null | Kind::Removed => Value::Null,
            Kind::Bool(b) => (*b).into(),
            Kind::Int(i) => (*i).into(),
            Kind::Uint(u) => (*u).into(),
            Kind::Float(f) => serde_json::Number::from_f64(*f).map_or(Value::Null, Value::Number),
            Kind::Text(s) => s.as_str().into(),
            Kind::List(items) => items.iter().map(Self::to_json).collect(),
            Kind::Map(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.text.clone(), v.to_json())).collect())
            }
        }
    }

    /// The value under `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The keys, if this is a mapping.
    pub(crate) fn keys(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.kind {
            Kind::Map(entries) => Some(entries.iter().map(|(key, _)| key.text.as_str())),
            _ => None,
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of `place`, or of the nearest value around it that has any.
    /// A mapping or list is shown by its key, because its own range may span many lines.
    pub fn locate(&self, place: &Place, text: &str) -> Option<Range<usize>> {
        let (mut node, mut key, mut found) = (self, None, true);
        for step in &place.steps {
            let next = match (step, &node.kind) {
                (Step::Key(name), Kind::Map(entries)) => entries
                    .iter()
                    .find(|(k, _)| k.text == *name)
                    .map(|(k, value)| (k.span.clone().or(key.clone()), value)),
                (Step::Index(i), Kind::List(items)) => items.get(*i).map(|value| (None, value)),
                _ => None,
            };
            let Some((next_key, value)) = next else {
                found = false;
                break;
            };
            (key, node) = (next_key, value);
        }
        if found && let (Some(inner), Some(span), Kind::Text(value)) = (&place.inner, &node.span, &node.kind)
        {
            return Some(inner_range(text, span, value, inner));
        }
        let container = matches!(node.kind, Kind::Map(_) | Kind::List(_));
        if (place.key || container || !found) && key.is_some() { key } else { node.head() }
    }

    /// The first range inside: of a scalar its own, of a mapping its first key.
    fn head(&self) -> Option<Range<usize>> {
        match &self.kind {
            Kind::Map(entries) => entries.first().and_then(|(k, _)| k.span.clone()).or(self.span.clone()),
            Kind::List(items) => items.first().and_then(Self::head).or(self.span.clone()),
            _ => self.span.clone(),
        }
    }

    /// Removes what `steps` lead to. Used to go on after an error and find the next.
    pub(crate) fn remove(&mut self, steps: &[Step]) -> bool {
        match (steps, &mut self.kind) {
            ([Step::Key(name)], Kind::Map(entries)) => {
                let before = entries.len();
                entries.retain(|(k, _)| k.text != *name);
                entries.len() < before
            }
            ([Step::Index(i)], Kind::List(items)) if *i < items.len() => {
                items[*i].kind = Kind::Removed;
                true
            }
            ([Step::Key(name), rest @ ..], Kind::Map(entries)) => {
                entries.iter_mut().find(|(k, _)| k.text == *name).is_some_and(|(_, value)| value.remove(rest))
            }
            ([Step::Index(i), rest @ ..], Kind::List(items)) => {
                items.get_mut(*i).is_some_and(|item| item.remove(rest))
            }
            _ => false,
        }
    }
}

/// Where the bytes `inner` of the decoded `value` stand in the source, whose scalar (with quotes or block marks) is at `span`.
/// The whole scalar when escapes make that unclear.
fn inner_range(text: &str, span: &Range<usize>, value: &str, inner: &Range<usize>) -> Range<usize> {
    let Some(raw) = text.get(span.clone()) else { return span.clone() };
    let (start, end) = (floor(value, inner.start.min(value.len())), floor(value, inner.end.min(value.len())));
    if let Some(at) = raw.find(value) {
        return span.start + at + start..span.start + at + end.max(start);
    }
    // Folded and block scalars: walk both, letting white space match any white space.
    let body = if raw.starts_with(['|', '>']) { raw.find('\n').unwrap_or(0) } else { 0 };
    let skip = usize::from(raw.starts_with(['"', '\'']));
    let mut at = body.max(skip);
    let (mut from, mut to) = (None, None);
    for (i, c) in value.char_indices() {
        if c.is_whitespace() {
            continue;
        }
        at += raw[at..].len() - raw[at..].trim_start().len();
        if !raw[at..].starts_with(c) {
            return span.clone();
        }
        if i >= start && from.is_none() {
            from = Some(at);
        }
        at += c.len_utf8();
        if i < end {
            to = Some(at);
        }
    }
    match (from, to) {
        (Some(from), Some(to)) if to >= from => span.start + from..span.start + to,
        (Some(from), _) => span.start + from..span.start + from,
        (None, _) => span.start + at..span.start + at,
    }
}

// ---- building the tree ---------------------------------------------------------------------------------------------

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Build;
        impl<'de> Visitor<'de> for Build {
            type Value = Kind;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }
            fn visit_none<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }
            fn visit_bool<E>(self, v: bool) -> Result<Kind, E> {
                Ok(Kind::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Kind, E> {
                Ok(Kind::Int(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Kind, E> {
                Ok(i64::try_from(v).map_or(Kind::Uint(v), Kind::Int))
            }
            fn visit_i128<E>(self, v: i128) -> Result<Kind, E> {
                Ok(Kind::Float(v as f64))
            }
            fn visit_u128<E>(self, v: u128) -> Result<Kind, E> {
                Ok(Kind::Float(v as f64))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Kind, E> {
                Ok(Kind::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Kind, E> {
                Ok(Kind::Text(v.to_string()))
            }
            fn visit_string<E>(self, v: String) -> Result<Kind, E> {
                Ok(Kind::Text(v))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<serde_saphyr::Spanned<Kind>>()? {
                    items.push(Node { span: bytes(&item.defined), kind: item.value });
                }
                Ok(Kind::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<serde_saphyr::Spanned<String>>()? {
                    let value = map.next_value::<serde_saphyr::Spanned<Kind>>()?;
                    entries.push((
                        Key { text: key.value, span: bytes(&key.defined) },
                        Node { span: bytes(&value.defined), kind: value.value },
                    ));
                }
                Ok(Kind::Map(entries))
            }
        }
        deserializer.deserialize_any(Build)
    }
}

fn bytes(at: &serde_saphyr::Location) -> Option<Range<usize>> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let length = usize::try_from(at.span().byte_len().unwrap_or(0)).ok()?;
    Some(start..start.saturating_add(length))
}

// ---- from the tree to a type -------------------------------------------------------------------------------------

/// Why a tree is not what a type expects, and where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DecodeError {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) code: &'static str,
    /// The field that is missing.
    pub(crate) missing: Option<&'static str>,
    /// From the innermost step outwards, while the error travels; turned by `decode`.
    pub(crate) steps: Vec<Step>,
    /// The key is wrong, not the value.
    pub(crate) key: bool,
}

/// Reads `T` from a tree whose text is `text`.
pub(crate) fn decode<T: DeserializeOwned>(root: &Node, text: &str) -> Result<T, DecodeError> {
    T::deserialize(Cursor { node: root, text }).map_err(|mut error| {
        error.steps.reverse();
        error
    })
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    fn new(code: &'static str, message: String, hint: Option<String>) -> Self {
        Self { message, hint, code, missing: None, steps: Vec::new(), key: false }
    }
}

impl de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new("invalid-value", message.to_string(), None)
    }
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(
            "wrong-type",
            format!("found {}, expected {}", found_words(&found), expected_words(expected)),
            None,
        )
    }
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(
            "invalid-value",
            format!("found {}, expected {}", found_words(&found), expected_words(expected)),
            None,
        )
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown-field", format!("there is no field `{field}` here"), did_you_mean(field, expected))
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown-word", format!("`{variant}` is not known here"), did_you_mean(variant, expected))
    }
    fn missing_field(field: &'static str) -> Self {
        let missing = Some(field);
        Self { missing, ..Self::new("missing-field", format!("the field `{field}` is missing"), None) }
    }
    fn duplicate_field(field: &'static str) -> Self {
        Self::new("duplicate-field", format!("the field `{field}` appears twice"), None)
    }
}

fn did_you_mean(word: &str, known: &[&str]) -> Option<String> {
    if known.is_empty() {
        return None;
    }
    let all = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Some(match closest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {all}"),
    })
}

fn found_words(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Map => "a mapping".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Bool(b) => format!("the boolean {b}"),
        Unexpected::Signed(i) => format!("the number {i}"),
        Unexpected::Unsigned(u) => format!("the number {u}"),
        Unexpected::Float(x) => format!("the number {x}"),
        Unexpected::Str(s) => format!("the text `{s}`"),
        Unexpected::UnitVariant
        | Unexpected::TupleVariant
        | Unexpected::StructVariant
        | Unexpected::NewtypeVariant => "a word alone".into(),
        other => other.to_string(),
    }
}

fn expected_words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        "a string" | "string" | "str" => "a text".into(),
        "f32" | "f64" => "a number".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        _ if text.starts_with("struct ") || text.starts_with("enum ") => "a mapping".into(),
        _ => text,
    }
}

/// The deserialiser at one node.
struct Cursor<'a> {
    node: &'a Node,
    text: &'a str,
}

impl Cursor<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.node.kind {
            Kind::Null | Kind::Removed => Unexpected::Unit,
            Kind::Bool(b) => Unexpected::Bool(*b),
            Kind::Int(i) => Unexpected::Signed(*i),
            Kind::Uint(u) => Unexpected::Unsigned(*u),
            Kind::Float(x) => Unexpected::Float(*x),
            Kind::Text(s) => Unexpected::Str(s),
            Kind::List(_) => Unexpected::Seq,
            Kind::Map(_) => Unexpected::Map,
        }
    }

    /// The scalar as written, where a text is wanted: `service: 7` is called `7`.
    fn written(&self) -> Option<&str> {
        match (&self.node.kind, &self.node.span) {
            (Kind::Text(text), _) => Some(text),
            (Kind::Bool(_) | Kind::Int(_) | Kind::Uint(_) | Kind::Float(_), Some(span)) => {
                self.text.get(span.clone()).filter(|raw| !raw.is_empty())
            }
            _ => None,
        }
    }
}

impl<'de> Deserializer<'de> for Cursor<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Null | Kind::Removed => visitor.visit_unit(),
            Kind::Bool(b) => visitor.visit_bool(*b),
            Kind::Int(i) => visitor.visit_i64(*i),
            Kind::Uint(u) => visitor.visit_u64(*u),
            Kind::Float(x) => visitor.visit_f64(*x),
            Kind::Text(s) => visitor.visit_str(s),
            Kind::List(items) => visitor.visit_seq(Items { items, at: 0, text: self.text }),
            Kind::Map(entries) => visitor.visit_map(Entries { entries, at: 0, text: self.text }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.written() {
            Some(text) => visitor.visit_str(text),
            None => Err(de::Error::invalid_type(self.unexpected(), &"a text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.kind == Kind::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Map(entries) => match entries.as_slice() {
                [(key, value)] => visitor.visit_enum(Tagged { key: &key.text, value, text: self.text }),
                [] => Err(de::Error::custom(format!(
                    "the mapping is empty; expected one of {}",
                    words.join(", ")
                ))),
                _ => Err(de::Error::custom(format!(
                    "the mapping has the keys {}; expected exactly one, such as `{}`",
                    entries.iter().map(|(k, _)| format!("`{}`", k.text)).collect::<Vec<_>>().join(", "),
                    words.first().unwrap_or(&"")
                ))),
            },
            _ => match self.written() {
                Some(word) => visitor.visit_enum(word.into_deserializer()),
                None => {
                    let expected = format!("one of {}", words.join(", "));
                    Err(de::Error::invalid_type(self.unexpected(), &expected.as_str()))
                }
            },
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    items: &'a [Node],
    at: usize,
    text: &'a str,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        while self.items.get(self.at).is_some_and(|item| item.kind == Kind::Removed) {
            self.at += 1;
        }
        let Some(node) = self.items.get(self.at) else { return Ok(None) };
        let index = self.at;
        self.at += 1;
        seed.deserialize(Cursor { node, text: self.text }).map(Some).map_err(|mut error| {
            error.steps.push(Step::Index(index));
            error
        })
    }
}

struct Entries<'a> {
    entries: &'a [(Key, Node)],
    at: usize,
    text: &'a str,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let Some((key, _)) = self.entries.get(self.at) else { return Ok(None) };
        let text: de::value::StrDeserializer<'_, DecodeError> = key.text.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|mut error| {
            error.steps = vec![Step::Key(key.text.clone())];
            error.key = true;
            error
        })
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let Some((key, node)) = self.entries.get(self.at) else {
            return Err(de::Error::custom("a value was asked for after the last one"));
        };
        self.at += 1;
        seed.deserialize(Cursor { node, text: self.text }).map_err(|mut error| {
            error.steps.push(Step::Key(key.text.clone()));
            error
        })
    }
}

struct Tagged<'a> {
    key: &'a str,
    value: &'a Node,
    text: &'a str,
}

impl<'a, 'de> EnumAccess<'de> for Tagged<'a> {
    type Error = DecodeError;
    type Variant = Inside<'a>;
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Inside<'a>), DecodeError> {
        let word: de::value::StrDeserializer<'_, DecodeError> = self.key.into_deserializer();
        let tag = seed.deserialize(word).map_err(|mut error| {
            error.steps = vec![Step::Key(self.key.to_string())];
            error.key = true;
            error
        })?;
        Ok((tag, Inside(self)))
    }
}

struct Inside<'a>(Tagged<'a>);

impl Inside<'_> {
    fn read<T>(&self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|mut error| {
            error.steps.push(Step::Key(self.0.key.to_string()));
            error
        })
    }
}

impl<'de> VariantAccess<'de> for Inside<'_> {
    type Error = DecodeError;
    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.0.value.kind {
            Kind::Null => Ok(()),
            _ => Err(de::Error::custom(format!("`{}` stands alone; it takes no value", self.0.key))),
        }
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, DecodeError> {
        self.read(seed.deserialize(Cursor { node: self.0.value, text: self.0.text }))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.read(Cursor { node: self.0.value, text: self.0.text }.deserialize_any(visitor))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.read(Cursor { node: self.0.value, text: self.0.text }.deserialize_any(visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Node {
        parse_yaml(text).expect("yaml").remove(0)
    }

    fn at(text: &str, steps: &[&str], inner: Option<Range<usize>>) -> String {
        let mut place = Place::value(steps.iter().map(|s| Step::from(*s)));
        place.inner = inner;
        let range = root(text).locate(&place, text).expect("a place");
        text[range].to_string()
    }

    #[test]
    fn every_value_knows_where_it_stands() {
        let text = "é: ü\nmonitor:\n  metrics:\n    cost: own + b.cost # why\n    q: \"a + b\"\n    z: 'x'\nlist: [1, two]\n";
        assert_eq!(at(text, &["monitor", "metrics", "cost"], None), "own + b.cost");
        assert_eq!(at(text, &["monitor", "metrics", "cost"], Some(6..12)), "b.cost");
        assert_eq!(at(text, &["monitor", "metrics", "q"], Some(4..5)), "b");
        assert_eq!(at(text, &["monitor", "metrics", "z"], Some(0..1)), "x");
        assert_eq!(at(text, &["monitor", "metrics"], None), "metrics");
        assert_eq!(at(text, &["é"], None), "ü");
        let place = Place::value([Step::from("list"), Step::from(1)]);
        assert_eq!(&text[root(text).locate(&place, text).expect("a place")], "two");
    }

    #[test]
    fn folded_text_keeps_its_positions() {
        let text = "objective: >-\n  cost < 30 &&\n  delay < limit\nq: a +\n  bcd\n";
        assert_eq!(at(text, &["objective"], Some(13..18)), "delay");
        assert_eq!(at(text, &["q"], Some(4..7)), "bcd");
    }

    #[test]
    fn a_tree_reads_as_the_json_it_stands_for() {
        let text = "a: {b: [1, 2.5, true, null, x]}\non: yes\n";
        let json = root(text).to_json();
        assert_eq!(json, serde_json::json!({"a": {"b": [1, 2.5, true, null, "x"]}, "on": "yes"}));
        assert_eq!(Node::from_json(&json).to_json(), json);
    }
}
