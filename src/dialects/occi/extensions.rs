//! The categories of the specifications, as data: core, infrastructure, monitoring, SLA and notification.

pub mod core;
pub mod infrastructure;
pub mod monitoring;
pub mod notification;
pub mod sla;

use serde_json::{Value, json};

use super::model::{Action, Attribute, AttributeType, Attributes, Category, Kind, Mixin, TypeId};

impl Attribute {
    /// An attribute that clients may set and change, and need not.
    pub fn of(kind: AttributeType) -> Self {
        Self { kind, mutable: true, ..Self::default() }
    }

    /// Text.
    pub fn text() -> Self {
        Self::of(AttributeType::String)
    }

    /// A number.
    pub fn number() -> Self {
        Self::of(AttributeType::Number)
    }

    /// `true` or `false`.
    pub fn boolean() -> Self {
        Self::of(AttributeType::Boolean)
    }

    /// One of some words.
    pub fn one_of(words: &[&str]) -> Self {
        Self { pattern: Some(json!({ "enum": words })), ..Self::text() }
    }

    /// A number that is not less than `least`.
    pub fn at_least(least: f64) -> Self {
        let least = if least.fract() == 0.0 { json!(least as i64) } else { json!(least) };
        Self { pattern: Some(json!({ "minimum": least })), ..Self::number() }
    }

    /// The same, and an entity must have it.
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// The same, and only the server sets it.
    pub fn immutable(self) -> Self {
        Self { mutable: false, ..self }
    }

    /// The same, and values of a second type are accepted.
    pub fn or(self, kind: AttributeType) -> Self {
        Self { or: Some(kind), ..self }
    }

    /// The same with a default.
    pub fn default_value(self, value: impl Into<Value>) -> Self {
        Self { default: Some(value.into()), ..self }
    }

    /// The same with a pattern: a JSON schema.
    pub fn pattern(self, schema: Value) -> Self {
        Self { pattern: Some(schema), ..self }
    }

    /// The same with a description.
    pub fn about(self, description: &str) -> Self {
        Self { description: Some(description.into()), ..self }
    }
}

fn attributes<const N: usize>(list: [(&str, Attribute); N]) -> Attributes {
    list.into_iter().map(|(name, attribute)| (name.to_string(), attribute)).collect()
}

fn kind(id: TypeId, title: &str, parent: TypeId, location: &str, attributes: Attributes) -> Kind {
    let (title, location) = (Some(title.to_string()), Some(location.to_string()));
    Kind { id, title, parent: Some(parent), attributes, actions: Vec::new(), location }
}

fn mixin(id: TypeId, title: &str, applies: &[TypeId], attributes: Attributes) -> Mixin {
    Mixin {
        location: Some(format!("/mixin/{}/", id.term())),
        id,
        title: Some(title.to_string()),
        depends: Vec::new(),
        applies: applies.to_vec(),
        attributes,
        actions: Vec::new(),
        user_defined: false,
    }
}

fn action(scheme: &str, term: &str, title: &str, attributes: Attributes) -> Action {
    Action { id: TypeId::fixed(scheme, term), title: Some(title.to_string()), attributes }
}

/// A kind with its actions, as categories.
fn with_actions(mut kind: Kind, actions: Vec<Action>) -> Vec<Category> {
    kind.actions = actions.iter().map(|a| a.id.clone()).collect();
    [Category::Kind(kind)].into_iter().chain(actions.into_iter().map(Category::Action)).collect()
}
