//! Writes JSON: attributes flat and dotted, members in a fixed order.

use serde_json::{Map, Value, json};

use crate::dialects::occi::draft::Invocation;
use crate::dialects::occi::model::{
    Attribute, Attributes, Category, Document, End, Entity, TypeId, Values, What,
};

/// A text of JSON with a line break at its end.
pub fn written(value: &Value) -> String {
    let mut text = value.to_string();
    text.push('\n');
    text
}

fn put(object: &mut Map<String, Value>, member: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(member.to_string(), value.into());
    }
}

fn ids(ids: &[TypeId]) -> Option<Vec<Value>> {
    (!ids.is_empty()).then(|| ids.iter().map(|id| id.as_str().into()).collect())
}

fn values(values: &Values) -> Option<Map<String, Value>> {
    let flat: Map<_, _> =
        values.iter().filter(|(_, v)| !v.is_null()).map(|(n, v)| (n.clone(), v.clone())).collect();
    (!flat.is_empty()).then_some(flat)
}

fn end(end: &End) -> Value {
    let mut object = Map::new();
    put(&mut object, "location", Some(end.location.as_str()));
    put(&mut object, "kind", end.kind.as_ref().map(TypeId::as_str));
    object.into()
}

/// An entity. Its `location` is said as well, which GFD.225 leaves to the links, so that clients need not guess it from the id.
pub fn entity_value(entity: &Entity) -> Value {
    let mut object = Map::new();
    put(&mut object, "kind", Some(entity.kind.as_str()));
    put(&mut object, "id", Some(entity.id.as_str()));
    put(&mut object, "location", Some(entity.location.as_str()));
    put(&mut object, "title", entity.title.as_deref());
    put(&mut object, "summary", entity.summary.as_deref());
    put(&mut object, "mixins", ids(&entity.mixins));
    put(&mut object, "attributes", values(&entity.attributes));
    put(&mut object, "actions", ids(&entity.actions));
    match &entity.what {
        What::Resource { links } if links.is_empty() => {}
        What::Resource { links } => {
            let links: Vec<Value> = links.iter().map(entity_value).collect();
            put(&mut object, "links", Some(links));
        }
        What::Link { source, target } => {
            put(&mut object, "source", Some(end(source)));
            put(&mut object, "target", Some(end(target)));
        }
    }
    object.into()
}

/// A collection of entities: `resources`, `links`, or both if both occur; `{"resources":[]}` if it is empty.
pub fn collection_value(entities: &[Entity]) -> Value {
    let mut object = Map::new();
    let is_link = |e: &&Entity| matches!(e.what, What::Link { .. });
    let resources: Vec<Value> = entities.iter().filter(|e| !is_link(e)).map(entity_value).collect();
    let links: Vec<Value> = entities.iter().filter(is_link).map(entity_value).collect();
    put(&mut object, "resources", (!resources.is_empty() || links.is_empty()).then_some(resources));
    put(&mut object, "links", (!links.is_empty()).then_some(links));
    object.into()
}

/// A kind, mixin or action.
pub fn category_value(category: &Category) -> Value {
    let mut object = Map::new();
    put(&mut object, "term", Some(category.id().term()));
    put(&mut object, "scheme", Some(category.id().scheme()));
    put(&mut object, "title", category.title());
    match category {
        Category::Kind(kind) => put(&mut object, "parent", kind.parent.as_ref().map(TypeId::as_str)),
        Category::Mixin(mixin) => {
            put(&mut object, "depends", ids(&mixin.depends));
            put(&mut object, "applies", ids(&mixin.applies));
        }
        Category::Action(_) => {}
    }
    put(&mut object, "attributes", descriptions(category.attributes()));
    put(&mut object, "actions", ids(category.actions()));
    put(&mut object, "location", category.location());
    object.into()
}

fn descriptions(attributes: &Attributes) -> Option<Map<String, Value>> {
    let described: Map<_, _> = attributes.iter().map(|(n, a)| (n.clone(), description(a))).collect();
    (!described.is_empty()).then_some(described)
}

fn description(attribute: &Attribute) -> Value {
    let mut object = Map::new();
    put(&mut object, "mutable", Some(attribute.mutable));
    put(&mut object, "required", Some(attribute.required));
    put(&mut object, "type", Some(attribute.kind.name()));
    put(&mut object, "pattern", attribute.pattern.clone());
    put(&mut object, "default", attribute.default.clone());
    put(&mut object, "description", attribute.description.as_deref());
    object.into()
}

/// The categories of `/-/`: `kinds`, `mixins` and `actions`, each there even if it is empty.
pub fn categories_value<'a>(categories: impl IntoIterator<Item = &'a Category>) -> Value {
    let (mut kinds, mut mixins, mut actions) = (Vec::new(), Vec::new(), Vec::new());
    for category in categories {
        let value = category_value(category);
        match category {
            Category::Kind(_) => kinds.push(value),
            Category::Mixin(_) => mixins.push(value),
            Category::Action(_) => actions.push(value),
        }
    }
    json!({ "kinds": kinds, "mixins": mixins, "actions": actions })
}

/// A model object; what is empty is left out.
pub fn document_value(document: &Document) -> Value {
    let mut object = Map::new();
    let classes = [("kind", "kinds"), ("mixin", "mixins"), ("action", "actions")];
    for (class, member) in classes {
        let items = document.categories().filter(|c| c.class() == class).map(|c| category_value(&c));
        let items: Vec<Value> = items.collect();
        put(&mut object, member, (!items.is_empty()).then_some(items));
    }
    for (entities, member) in [(&document.resources, "resources"), (&document.links, "links")] {
        let items: Vec<Value> = entities.iter().map(entity_value).collect();
        put(&mut object, member, (!items.is_empty()).then_some(items));
    }
    object.into()
}

/// The call of an action.
pub fn invocation_value(call: &Invocation) -> Value {
    json!({ "action": call.action.as_str(), "attributes": values(&call.attributes).unwrap_or_default() })
}
