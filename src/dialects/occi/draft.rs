//! What clients send: entities, invocations and filters in which everything is optional and nothing is resolved.

use std::borrow::Cow;

use serde_json::Value;

use super::fault::{Fault, shown};
use super::model::{Attribute, AttributeType, Document, End, Entity, TypeId, Values, What};
use super::registry::Registry;
use super::text::is_uri;

/// An entity as a client sent it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Draft {
    /// Its kind.
    pub kind: Option<TypeId>,
    /// `occi.core.id`.
    pub id: Option<String>,
    /// The path or URI at which it is read.
    pub location: Option<String>,
    /// `occi.core.title`.
    pub title: Option<String>,
    /// `occi.core.summary`.
    pub summary: Option<String>,
    /// Its mixins, in order.
    pub mixins: Vec<TypeId>,
    /// Categories of which the client did not say whether they are kinds or mixins; [`super::Registry::classify`] knows.
    pub unclassed: Vec<TypeId>,
    /// All values but those of the core model. `null` means: without a value.
    pub attributes: Values,
    /// The links that begin in it.
    pub links: Vec<DraftLink>,
    /// Where it begins, if it is a link.
    pub source: Option<End>,
    /// Where it leads, if it is a link.
    pub target: Option<End>,
    /// What can be done with it, as a server said.
    pub actions: Vec<TypeId>,
}

/// A link in the rendering of a resource.
#[derive(Debug, Clone, PartialEq)]
pub enum DraftLink {
    /// Only its identifier or location.
    Reference(String),
    /// All of it.
    Whole(Box<Draft>),
}

impl Draft {
    /// Whether it has an end, and so is a link.
    pub fn is_link(&self) -> bool {
        self.source.is_some() || self.target.is_some()
    }

    /// Moves values of the core model out of the attributes, where the text renderings have them. What was said elsewhere stays.
    ///
    /// # Errors
    /// An identifier or end that is no URI, which could forge a line where it is rendered without quotes; a kind that is none.
    pub(super) fn lift(&mut self) -> Result<(), Fault> {
        let id = self.take_uri("occi.core.id")?;
        self.id = self.id.take().or(id);
        let title = self.take("occi.core.title");
        self.title = self.title.take().or(title);
        let summary = self.take("occi.core.summary");
        self.summary = self.summary.take().or(summary);
        let (source, kind) = (self.take_uri("occi.core.source")?, self.take_kind("occi.core.source.kind")?);
        lift_end(&mut self.source, source, kind);
        let (target, kind) = (self.take_uri("occi.core.target")?, self.take_kind("occi.core.target.kind")?);
        lift_end(&mut self.target, target, kind);
        Ok(())
    }

    fn take_uri(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            Some(text) if !is_uri(&text) => {
                Err(Fault::bad(format!("`{name}` is `{}`, which is no URI", shown(&text))))
            }
            other => Ok(other),
        }
    }

    fn take_kind(&mut self, name: &str) -> Result<Option<TypeId>, Fault> {
        let parse =
            |text: String| text.parse().map_err(|e: Fault| Fault::bad(format!("`{name}`: {}", e.text)));
        self.take(name).map(parse).transpose()
    }

    fn take(&mut self, name: &str) -> Option<String> {
        match self.attributes.remove(name)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    /// Turns values into the types that their descriptions ask for: quoted numbers, truth values and JSON into what they say, numbers
    /// and truth values into text. What cannot be turned stays, and [`super::validate`] refuses it.
    pub fn coerce<'a>(&mut self, lookup: impl Fn(&str) -> Option<&'a Attribute>) {
        coerce(&mut self.attributes, lookup);
    }
}

/// A kind alone does not make an end; it says what is at the end that was given.
fn lift_end(end: &mut Option<End>, location: Option<String>, kind: Option<TypeId>) {
    match (end, location) {
        (Some(end), _) => end.kind = end.kind.take().or(kind),
        (end @ None, Some(location)) => *end = Some(End { location, kind }),
        (None, None) => {}
    }
}

/// As [`Draft::coerce`], for any values.
pub fn coerce<'a>(values: &mut Values, lookup: impl Fn(&str) -> Option<&'a Attribute>) {
    for (name, value) in values {
        let Some(attribute) = lookup(name) else { continue };
        // A list or map where a text would do as well; the text renderings quote both.
        if let Some(or @ (AttributeType::Array | AttributeType::Object)) = attribute.or
            && let Some(turned) = turned(value, or)
        {
            *value = turned;
        }
        if attribute.kind.fits(value) || attribute.or.is_some_and(|or| or.fits(value)) {
            continue;
        }
        if let Some(turned) = turned(value, attribute.kind) {
            *value = turned;
        }
    }
}

fn turned(value: &Value, to: AttributeType) -> Option<Value> {
    let found = match (to, value) {
        (AttributeType::String, Value::Number(n)) => Value::String(n.to_string()),
        (AttributeType::String, Value::Bool(b)) => Value::String(b.to_string()),
        (AttributeType::Number, Value::String(text)) => number(text.trim())?,
        (AttributeType::Boolean | AttributeType::Array | AttributeType::Object, Value::String(text)) => {
            serde_json::from_str(text).ok()?
        }
        _ => return None,
    };
    to.fits(&found).then_some(found)
}

/// A number as clients write it: as in JSON, and also `+5`, `.5`, `5.`, `007`.
pub(super) fn number(text: &str) -> Option<Value> {
    let begins = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.');
    if !text.starts_with(begins) || !text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) {
        return None;
    }
    if let Ok(exact) = serde_json::from_str::<serde_json::Number>(text) {
        return Some(Value::Number(exact));
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number)
}

impl From<&Entity> for Draft {
    /// What a client reads of an entity, if the rendering loses nothing.
    fn from(entity: &Entity) -> Self {
        let (links, source, target) = match &entity.what {
            What::Resource { links } => {
                (links.iter().map(|l| DraftLink::Whole(Box::new(Draft::from(l)))).collect(), None, None)
            }
            What::Link { source, target } => (Vec::new(), Some(source.clone()), Some(target.clone())),
        };
        Self {
            kind: Some(entity.kind.clone()),
            id: Some(entity.id.clone()),
            location: Some(entity.location.clone()),
            title: entity.title.clone(),
            summary: entity.summary.clone(),
            mixins: entity.mixins.clone(),
            unclassed: Vec::new(),
            attributes: entity.attributes.clone(),
            links,
            source,
            target,
            actions: entity.actions.clone(),
        }
    }
}

impl Document<Draft> {
    /// Adds an entity where it belongs.
    pub fn push_entity(&mut self, draft: Draft) {
        match draft.is_link() {
            true => self.links.push(draft),
            false => self.resources.push(draft),
        }
    }
}

/// A call of an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// Which action.
    pub action: TypeId,
    /// Its parameters.
    pub attributes: Values,
}

/// What a client asks a collection for: the entities or categories that have all of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    /// Categories that an entity has.
    pub categories: Vec<TypeId>,
    /// Values that an entity has; `occi.core.…` too.
    pub attributes: Values,
}

impl Filter {
    /// Whether it lets everything pass.
    pub fn is_empty(&self) -> bool {
        self.categories.is_empty() && self.attributes.is_empty()
    }

    /// Whether an entity has all of it: is of the kinds or of kinds derived from them, has the mixins or mixins that depend on them, and
    /// has the values. A quoted number equals the number, as text renderings quote some.
    pub fn matches(&self, registry: &Registry, entity: &Entity) -> bool {
        let has = |id: &TypeId| {
            registry.is_a(&entity.kind, id) || entity.mixins.iter().any(|m| registry.depends_on(m, id))
        };
        let equal = |(name, wanted): (&String, &Value)| match entity.attributes.get(name) {
            Some(found) => found == wanted || as_text(found) == as_text(wanted) || same_number(found, wanted),
            None => core_value(entity, name).is_some_and(|found| found == as_text(wanted)),
        };
        self.categories.iter().all(has) && self.attributes.iter().all(equal)
    }
}

/// 3 is 3.0, and so is a quoted 3 where a number is meant.
fn same_number(found: &Value, wanted: &Value) -> bool {
    let number = |value: &Value| value.as_f64().or_else(|| number(value.as_str()?.trim())?.as_f64());
    found.is_number() && number(found) == number(wanted)
}

fn as_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// What the text renderings show of the core model, by name.
fn core_value<'a>(entity: &'a Entity, name: &str) -> Option<&'a str> {
    let (source, target) = match &entity.what {
        What::Resource { .. } => (None, None),
        What::Link { source, target } => (Some(source), Some(target)),
    };
    let kind = |end: Option<&'a End>| end.and_then(|e| e.kind.as_ref()).map(TypeId::as_str);
    match name {
        "occi.core.id" => Some(&entity.id),
        "occi.core.title" => entity.title.as_deref(),
        "occi.core.summary" => entity.summary.as_deref(),
        "occi.core.source" => source.map(|e| e.location.as_str()),
        "occi.core.target" => target.map(|e| e.location.as_str()),
        "occi.core.source.kind" => kind(source),
        "occi.core.target.kind" => kind(target),
        _ => None,
    }
}

/// The identifier of what is made at a place, when nobody says another.
pub fn identifier_at(place: &str) -> String {
    let last = place.rsplit('/').next().unwrap_or_default();
    if is_uuid(last) { format!("urn:uuid:{last}") } else { place.to_string() }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}
