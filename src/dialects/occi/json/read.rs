//! Reads JSON. Failures name the member by its path, as `resources[2].attributes`.

use serde_json::{Map, Value};

use super::unique::parse;
use crate::dialects::occi::draft::{Draft, DraftLink, Invocation};
use crate::dialects::occi::fault::{Fault, shown};
use crate::dialects::occi::model::{
    Action, Attribute, AttributeType, Attributes, Category, Document, End, Kind, Mixin, TypeId, Values,
    is_attribute_name,
};
use crate::dialects::occi::text::is_uri;

/// Whether the attribute of this name holds maps; maps elsewhere are names nested in each other.
pub type HoldsMaps<'a> = &'a dyn Fn(&str) -> bool;

/// The members of a model object.
const LISTS: [&str; 5] = ["kinds", "mixins", "actions", "resources", "links"];
/// The members that only an entity has.
const OF_ENTITIES: [&str; 8] =
    ["kind", "id", "attributes", "source", "target", "title", "summary", "location"];

/// A model object, a collection, a list of entities, or one entity.
///
/// # Errors
/// What is no JSON, or no OCCI, with its place.
pub fn document(text: &str, maps: HoldsMaps<'_>) -> Result<Document<Draft>, Fault> {
    let reader = Reader { maps };
    let mut document = Document::default();
    match parse(text)? {
        Value::Array(items) => reader.entities("", items, &mut document)?,
        Value::Object(object) if is_model(&object) => reader.model(object, &mut document)?,
        other => document.push_entity(reader.entity("", other)?),
    }
    Ok(document)
}

/// One entity, alone or as the only one of a collection.
///
/// # Errors
/// As [`document`], or if there are several.
pub fn entity(text: &str, maps: HoldsMaps<'_>) -> Result<Draft, Fault> {
    let reader = Reader { maps };
    match parse(text)? {
        Value::Object(object) if object.contains_key("resources") => {
            let mut document = Document::default();
            reader.model(object, &mut document)?;
            let count = document.resources.len() + document.links.len() + document.locations.len();
            match (document.resources.pop().or(document.links.pop()), count) {
                (Some(draft), 1) => Ok(draft),
                _ => Err(Fault::bad(format!("the collection has {count} entities; expected exactly one"))),
            }
        }
        other => reader.entity("", other),
    }
}

/// The call of an action.
///
/// # Errors
/// As [`document`].
pub fn invocation(text: &str, maps: HoldsMaps<'_>) -> Result<Invocation, Fault> {
    let reader = Reader { maps };
    let mut object = map("", parse(text)?)?;
    let action = string("action", object.remove("action"))?
        .ok_or_else(|| Fault::bad("`action` is missing; expected the identifier of an action"))?;
    Ok(Invocation {
        action: type_id("action", &action)?,
        attributes: reader.values("attributes", object.remove("attributes"))?,
    })
}

/// The places of the entities of a collection: `location`, else `id`.
///
/// # Errors
/// As [`document`], or an entity with neither.
pub fn locations(document: &Document<Draft>) -> Result<Vec<String>, Fault> {
    let mut found = document.locations.clone();
    for (i, draft) in document.resources.iter().chain(&document.links).enumerate() {
        match draft.location.as_ref().or(draft.id.as_ref()) {
            Some(place) => found.push(place.clone()),
            None => return Err(Fault::bad(format!("entity {} has neither `location` nor `id`", i + 1))),
        }
    }
    Ok(found)
}

fn is_model(object: &Map<String, Value>) -> bool {
    let lists = LISTS.iter().any(|l| object.get(*l).is_some_and(Value::is_array));
    (lists || object.is_empty()) && !OF_ENTITIES.iter().any(|m| object.contains_key(*m))
}

fn within(path: &str, member: &str) -> String {
    match path.is_empty() {
        true => member.to_string(),
        false => format!("{path}.{member}"),
    }
}

fn wrong(path: &str, found: &Value, expected: &str) -> Fault {
    let place = if path.is_empty() { "the body".to_string() } else { format!("`{path}`") };
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Fault::bad(format!("{place} is {found}; expected {expected}"))
}

fn map(path: &str, value: Value) -> Result<Map<String, Value>, Fault> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(wrong(path, &other, "an object")),
    }
}

fn list(path: &str, value: Option<Value>) -> Result<Vec<Value>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(wrong(path, &other, "a list")),
    }
}

fn string(path: &str, value: Option<Value>) -> Result<Option<String>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(path, &other, "text")),
    }
}

fn flag(path: &str, value: Option<Value>) -> Result<bool, Fault> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => Err(wrong(path, &other, "true or false")),
    }
}

fn place(path: &str, value: Option<Value>) -> Result<Option<String>, Fault> {
    match string(path, value)? {
        Some(text) if !is_uri(&text) => {
            Err(Fault::bad(format!("`{path}` is `{}`, which is no URI", shown(&text))))
        }
        other => Ok(other),
    }
}

fn type_id(path: &str, text: &str) -> Result<TypeId, Fault> {
    text.parse().map_err(|e: Fault| Fault::bad(format!("`{path}`: {}", e.text)))
}

/// A list of identifiers; a single one may stand alone.
fn type_ids(path: &str, value: Option<Value>) -> Result<Vec<TypeId>, Fault> {
    if let Some(Value::String(one)) = &value {
        return Ok(vec![type_id(path, one)?]);
    }
    let mut found = Vec::new();
    for (i, item) in list(path, value)?.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        match item {
            Value::String(text) => found.push(type_id(&path, &text)?),
            other => return Err(wrong(&path, &other, "the identifier of a category")),
        }
    }
    Ok(found)
}

struct Reader<'a> {
    maps: HoldsMaps<'a>,
}

impl Reader<'_> {
    fn model(&self, mut object: Map<String, Value>, document: &mut Document<Draft>) -> Result<(), Fault> {
        for class in ["kinds", "mixins", "actions"] {
            for (i, item) in list(class, object.remove(class))?.into_iter().enumerate() {
                document.push(category(&format!("{class}[{i}]"), item, class)?);
            }
        }
        for class in ["resources", "links"] {
            let items = list(class, object.remove(class))?;
            self.entities(class, items, document)?;
        }
        match object.keys().next() {
            Some(other) => Err(Fault::bad(format!(
                "`{}` is unknown; expected kinds, mixins, actions, resources or links",
                shown(other)
            ))),
            None => Ok(()),
        }
    }

    fn entities(&self, path: &str, items: Vec<Value>, document: &mut Document<Draft>) -> Result<(), Fault> {
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{i}]");
            match item {
                Value::String(text) => document.locations.extend(place(&path, Some(text.into()))?),
                other => {
                    let draft = self.entity(&path, other)?;
                    match path.starts_with("links") {
                        true => document.links.push(draft),
                        false => document.push_entity(draft),
                    }
                }
            }
        }
        Ok(())
    }

    fn entity(&self, path: &str, value: Value) -> Result<Draft, Fault> {
        let mut object = map(path, value)?;
        let mut take = |member: &str| (within(path, member), object.remove(member));
        let (at, kind) = take("kind");
        let kind = string(&at, kind)?.map(|k| type_id(&at, &k)).transpose()?;
        let text = |(at, value): (String, Option<Value>)| string(&at, value);
        let uri = |(at, value): (String, Option<Value>)| place(&at, value);
        let mut draft = Draft {
            kind,
            id: uri(take("id"))?,
            location: uri(take("location"))?,
            title: text(take("title"))?,
            summary: text(take("summary"))?,
            ..Draft::default()
        };
        let (at, mixins) = take("mixins");
        draft.mixins = type_ids(&at, mixins)?;
        let (at, attributes) = take("attributes");
        draft.attributes = self.values(&at, attributes)?;
        let (at, actions) = take("actions");
        draft.actions = type_ids(&at, actions)?;
        let (at, source) = take("source");
        draft.source = end(&at, source)?;
        let (at, target) = take("target");
        draft.target = end(&at, target)?;
        let (at, links) = take("links");
        for (i, item) in list(&at, links)?.into_iter().enumerate() {
            let at = format!("{at}[{i}]");
            draft.links.push(match item {
                Value::String(text) if is_uri(&text) => DraftLink::Reference(text),
                Value::String(text) => {
                    return Err(Fault::bad(format!("`{at}` is `{}`, which is no URI", shown(&text))));
                }
                other => DraftLink::Whole(Box::new(self.entity(&at, other)?)),
            });
        }
        if let Some(other) = object.keys().next() {
            return Err(Fault::bad(format!(
                "`{}` is unknown; an entity has kind, id, title, summary, mixins, attributes, actions, links, source and target",
                shown(&within(path, other))
            )));
        }
        draft.lift().map_err(|e| match path.is_empty() {
            true => e,
            false => Fault::bad(format!("`{path}`: {}", e.text)),
        })?;
        Ok(draft)
    }

    fn values(&self, path: &str, value: Option<Value>) -> Result<Values, Fault> {
        let mut values = Values::new();
        match value {
            None | Some(Value::Null) => {}
            Some(value) => {
                for (name, value) in map(path, value)? {
                    self.flatten(path, name, value, &mut values)?;
                }
            }
        }
        Ok(values)
    }

    fn flatten(&self, path: &str, name: String, value: Value, values: &mut Values) -> Result<(), Fault> {
        if !is_attribute_name(&name) {
            return Err(Fault::bad(format!(
                "`{path}`: `{}` is no attribute name; expected parts of letters, digits, `-` and `_` with dots between",
                shown(&name)
            )));
        }
        match value {
            Value::Object(inner) if !(self.maps)(&name) => {
                for (key, value) in inner {
                    self.flatten(path, format!("{name}.{key}"), value, values)?;
                }
                Ok(())
            }
            value => match values.insert(name.clone(), value) {
                Some(_) => Err(Fault::bad(format!("`{path}`: `{name}` is given twice"))),
                None => Ok(()),
            },
        }
    }
}

/// `{location, kind}`, or the place alone.
fn end(path: &str, value: Option<Value>) -> Result<Option<End>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::String(_)) => Ok(place(path, Some(value))?.map(End::at)),
        Some(Value::Object(mut object)) => {
            let location = object.remove("location").or_else(|| object.remove("id"));
            let at = within(path, "location");
            let Some(location) = place(&at, location)? else {
                return Err(Fault::bad(format!("`{at}` is missing; expected the place of an entity")));
            };
            let at = within(path, "kind");
            let kind = string(&at, object.remove("kind"))?.map(|k| type_id(&at, &k)).transpose()?;
            Ok(Some(End { location, kind }))
        }
        Some(other) => Err(wrong(path, &other, "an object with `location` and `kind`, or a place")),
    }
}

fn category(path: &str, value: Value, class: &str) -> Result<Category, Fault> {
    let mut object = map(path, value)?;
    let mut take = |member: &str| (within(path, member), object.remove(member));
    let needed = |(at, value): (String, Option<Value>)| {
        string(&at, value)?.ok_or_else(|| Fault::bad(format!("`{at}` is missing")))
    };
    let (term, scheme) = (needed(take("term"))?, needed(take("scheme"))?);
    let id = TypeId::new(&scheme, &term).map_err(|e| Fault::bad(format!("`{path}`: {}", e.text)))?;
    let (at, title) = take("title");
    let title = string(&at, title)?;
    let (at, attributes) = take("attributes");
    let attributes = descriptions(&at, attributes)?;
    let (at, location) = take("location");
    let location = place(&at, location)?;
    let (at, actions) = take("actions");
    let actions = type_ids(&at, actions)?;
    let (at, related) = take("related");
    let related = type_ids(&at, related)?;
    Ok(match class {
        "kinds" => {
            let (at, parent) = take("parent");
            let parent = type_ids(&at, parent)?.into_iter().chain(related).next();
            Category::Kind(Kind { id, title, parent, attributes, actions, location })
        }
        "mixins" => {
            let (at, depends) = take("depends");
            let depends = type_ids(&at, depends)?.into_iter().chain(related).collect();
            let (at, applies) = take("applies");
            let applies = type_ids(&at, applies)?;
            let user_defined = false;
            Category::Mixin(Mixin {
                id,
                title,
                depends,
                applies,
                attributes,
                actions,
                location,
                user_defined,
            })
        }
        _ => Category::Action(Action { id, title, attributes }),
    })
}

fn descriptions(path: &str, value: Option<Value>) -> Result<Attributes, Fault> {
    let mut found = Attributes::new();
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(found) };
    for (name, value) in map(path, value)? {
        if !is_attribute_name(&name) {
            return Err(Fault::bad(format!("`{path}`: `{}` is no attribute name", shown(&name))));
        }
        let path = within(path, &name);
        let attribute = description(&path, value)?;
        found.insert(name, attribute);
    }
    Ok(found)
}

fn description(path: &str, value: Value) -> Result<Attribute, Fault> {
    let mut object = map(path, value)?;
    let at = within(path, "type");
    let kind = match string(&at, object.remove("type"))? {
        None => AttributeType::String,
        Some(name) => AttributeType::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| {
            let name = shown(&name);
            Fault::bad(format!("`{at}` is `{name}`; expected string, number, boolean, array or object"))
        })?,
    };
    Ok(Attribute {
        kind,
        or: None,
        mutable: flag(&within(path, "mutable"), object.remove("mutable"))?,
        required: flag(&within(path, "required"), object.remove("required"))?,
        pattern: object.remove("pattern").filter(|p| !p.is_null()),
        default: object.remove("default").filter(|d| !d.is_null()),
        description: string(&within(path, "description"), object.remove("description"))?,
    })
}
