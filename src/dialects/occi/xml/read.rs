//! Reads XML: elements in any order, with any prefix, within the bounds of [`tower::xml`](crate::dialects::tower::xml).

use roxmltree::{Document as Tree, Node};
use serde_json::{Map, Value};

use super::NAMESPACE;
use crate::dialects::occi::draft::{Draft, DraftLink, Invocation, number};
use crate::dialects::occi::fault::{Fault, shown};
use crate::dialects::occi::model::{
    Action, Attribute, AttributeType, Attributes, Category, Document, End, Kind, Mixin, TypeId, Values,
    is_attribute_name,
};
use crate::dialects::occi::text::is_uri;
use crate::dialects::tower::xml;

type N<'a, 'i> = Node<'a, 'i>;

fn parse(text: &str) -> Result<Tree<'_>, Fault> {
    xml::parse(text).map_err(|e| Fault::bad(e.to_string()))
}

/// The name of an element of ours.
fn name<'a>(node: N<'a, '_>) -> &'a str {
    let tag = node.tag_name();
    match tag.namespace() {
        None | Some(NAMESPACE) => tag.name(),
        Some(_) => "",
    }
}

fn children<'a, 'i>(node: N<'a, 'i>) -> impl Iterator<Item = N<'a, 'i>> {
    node.children().filter(Node::is_element)
}

fn fault(node: N<'_, '_>, what: impl std::fmt::Display) -> Fault {
    let at = node.document().text_pos_at(node.range().start);
    Fault::bad(format!("line {}, column {} (`{}`): {what}", at.row, at.col, node.tag_name().name()))
}

fn unknown(node: N<'_, '_>, expected: &str) -> Fault {
    fault(node, format!("the element is unknown here; expected {expected}"))
}

/// One entity: `resource` or `link`, alone or as the only one of a `manifest`.
///
/// # Errors
/// What is no XML, or no OCCI, with its line.
pub fn entity(text: &str) -> Result<Draft, Fault> {
    let mut document = document(text)?;
    let count = document.resources.len() + document.links.len() + document.locations.len();
    match (document.resources.pop().or(document.links.pop()), count) {
        (Some(draft), 1) => Ok(draft),
        _ => Err(Fault::bad(format!("there are {count} entities; expected exactly one"))),
    }
}

/// A `manifest`, `collection` or `extension`, or a single element of them.
///
/// # Errors
/// As [`entity`].
pub fn document(text: &str) -> Result<Document<Draft>, Fault> {
    let tree = parse(text)?;
    let root = tree.root_element();
    let mut document = Document::default();
    match name(root) {
        "manifest" | "collection" | "extension" | "capabilities" => {
            members(root, name(root) == "extension", &mut document)?;
        }
        _ => member(root, false, &mut document)?,
    }
    Ok(document)
}

fn members(node: N<'_, '_>, extension: bool, document: &mut Document<Draft>) -> Result<(), Fault> {
    children(node).try_for_each(|child| member(child, extension, document))
}

fn member(node: N<'_, '_>, extension: bool, document: &mut Document<Draft>) -> Result<(), Fault> {
    match name(node) {
        "resource" => document.resources.push(read_entity(node)?),
        "link" => document.links.push(read_entity(node)?),
        "entity" => {
            let place = uri(node, "href")?.or(uri(node, "id")?);
            document.locations.push(place.ok_or_else(|| fault(node, "`href` is missing"))?);
        }
        "kind" | "mixin" | "action" => document.push(category(node)?),
        "extension" if !extension => members(node, true, document)?,
        _ => return Err(unknown(node, "manifest, extension, resource, link, entity, kind, mixin or action")),
    }
    Ok(())
}

/// The call of an action.
///
/// # Errors
/// As [`entity`].
pub fn invocation(text: &str) -> Result<Invocation, Fault> {
    let tree = parse(text)?;
    let root = tree.root_element();
    if name(root) != "action" {
        return Err(unknown(root, "action"));
    }
    let mut attributes = Values::new();
    for child in children(root) {
        match name(child) {
            "attribute" => value(child, &mut attributes)?,
            _ => return Err(unknown(child, "attribute")),
        }
    }
    Ok(Invocation { action: type_id(root)?, attributes })
}

fn type_id(node: N<'_, '_>) -> Result<TypeId, Fault> {
    let Some(term) = node.attribute("term") else { return Err(fault(node, "`term` is missing")) };
    let Some(scheme) = node.attribute("scheme") else { return Err(fault(node, "`scheme` is missing")) };
    TypeId::new(scheme, term).map_err(|e| fault(node, e.text))
}

fn uri(node: N<'_, '_>, attribute: &str) -> Result<Option<String>, Fault> {
    match node.attributes().find(|a| a.name() == attribute).map(|a| a.value()) {
        None => Ok(None),
        Some(text) if is_uri(text) => Ok(Some(text.to_string())),
        Some(text) => Err(fault(node, format!("`{attribute}` is `{}`, which is no URI", shown(text)))),
    }
}

fn read_entity(node: N<'_, '_>) -> Result<Draft, Fault> {
    let mut draft = Draft {
        id: uri(node, "id")?,
        location: uri(node, "href")?,
        title: node.attribute("title").map(str::to_string),
        source: uri(node, "source")?.map(End::at),
        target: uri(node, "target")?.map(End::at),
        ..Draft::default()
    };
    for child in children(node) {
        match name(child) {
            "kind" if draft.kind.is_some() => {
                return Err(fault(child, "a second kind; an entity has exactly one"));
            }
            "kind" => draft.kind = Some(type_id(child)?),
            "mixin" => draft.mixins.push(type_id(child)?),
            "attribute" => value(child, &mut draft.attributes)?,
            "action" => draft.actions.push(type_id(child)?),
            "summary" => draft.summary = Some(child.text().unwrap_or_default().to_string()),
            "link" => draft.links.push(link(child)?),
            _ => return Err(unknown(child, "kind, mixin, attribute, action, summary or link")),
        }
    }
    draft.lift();
    Ok(draft)
}

/// A whole link, or `<link uri="…"/>`.
fn link(node: N<'_, '_>) -> Result<DraftLink, Fault> {
    match uri(node, "uri")? {
        Some(place) if children(node).next().is_none() => Ok(DraftLink::Reference(place)),
        _ => read_entity(node).map(DraftLink::Whole),
    }
}

/// `name` with `value`, or with elements `value`, which are a list.
fn value(node: N<'_, '_>, values: &mut Values) -> Result<(), Fault> {
    let name = attribute_name(node)?;
    let listed = || -> Value {
        let texts =
            children(node).filter(|c| self::name(*c) == "value").map(|c| c.text().unwrap_or_default());
        texts.collect::<Vec<_>>().into()
    };
    let found = match node.attribute("value") {
        Some(text) => Value::from(text),
        None if children(node).next().is_some() => listed(),
        None => return Err(fault(node, format!("`{name}` has no `value`"))),
    };
    match values.insert(name.to_string(), found) {
        Some(_) => Err(fault(node, format!("`{name}` is given twice"))),
        None => Ok(()),
    }
}

fn attribute_name<'a>(node: N<'a, '_>) -> Result<&'a str, Fault> {
    match node.attribute("name") {
        Some(name) if is_attribute_name(name) => Ok(name),
        Some(name) => Err(fault(node, format!("`{}` is no attribute name", shown(name)))),
        None => Err(fault(node, "`name` is missing")),
    }
}

fn category(node: N<'_, '_>) -> Result<Category, Fault> {
    let (id, title) = (type_id(node)?, node.attribute("title").map(str::to_string));
    let location = uri(node, "location")?;
    let (mut parent, mut depends, mut applies) = (None, Vec::new(), Vec::new());
    let (mut attributes, mut actions) = (Attributes::new(), Vec::new());
    for child in children(node) {
        match name(child) {
            "parent" => parent = Some(type_id(child)?),
            "depends" => depends.push(type_id(child)?),
            "applies" => applies.push(type_id(child)?),
            "action" => actions.push(type_id(child)?),
            "attribute" => {
                attributes.insert(attribute_name(child)?.to_string(), description(child)?);
            }
            _ => return Err(unknown(child, "parent, depends, applies, attribute or action")),
        }
    }
    Ok(match name(node) {
        "kind" => Category::Kind(Kind { id, title, parent, attributes, actions, location }),
        "mixin" => {
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

fn flag(node: N<'_, '_>, attribute: &str) -> Result<bool, Fault> {
    match node.attribute(attribute) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(other) => {
            Err(fault(node, format!("`{attribute}` is `{}`; expected true or false", shown(other))))
        }
    }
}

fn description(node: N<'_, '_>) -> Result<Attribute, Fault> {
    let restriction = node.descendants().find(|n| n.tag_name().name() == "restriction");
    let base = restriction.and_then(|r| r.attribute("base")).or(node.attribute("type"));
    let base = base.map_or("string", |b| b.rsplit(':').next().unwrap_or(b));
    let kind = match base {
        "decimal" | "integer" | "int" | "long" | "short" | "double" | "float" | "nonNegativeInteger"
        | "positiveInteger" | "number" => AttributeType::Number,
        "boolean" => AttributeType::Boolean,
        "array" => AttributeType::Array,
        "object" => AttributeType::Object,
        _ => AttributeType::String,
    };
    let least = node.attribute("minOccurs").and_then(|m| m.parse::<u32>().ok()).unwrap_or(0);
    let default = node.attribute("default").map(|text| typed(kind, text));
    Ok(Attribute {
        kind,
        or: None,
        mutable: !flag(node, "immutable")?,
        required: node.attribute("use") == Some("required") || least > 0,
        pattern: restriction
            .map(|r| pattern(r, kind, base))
            .filter(|p| p.as_object().is_some_and(|o| !o.is_empty())),
        default,
        description: node.attribute("description").filter(|d| !d.is_empty()).map(str::to_string),
    })
}

fn typed(kind: AttributeType, text: &str) -> Value {
    let found = match kind {
        AttributeType::String => None,
        AttributeType::Number => number(text),
        _ => serde_json::from_str(text).ok(),
    };
    found.unwrap_or_else(|| text.into())
}

fn pattern(restriction: N<'_, '_>, kind: AttributeType, base: &str) -> Value {
    let mut words = Map::new();
    if base == "integer" {
        words.insert("type".into(), "integer".into());
    }
    let mut allowed = Vec::new();
    for facet in children(restriction) {
        let Some(text) = facet.attribute("value") else { continue };
        let word = match facet.tag_name().name() {
            "enumeration" => {
                allowed.push(typed(kind, text));
                continue;
            }
            "minInclusive" => "minimum",
            "maxInclusive" => "maximum",
            "pattern" => "pattern",
            _ => continue,
        };
        words.insert(word.into(), typed(if word == "pattern" { AttributeType::String } else { kind }, text));
    }
    if !allowed.is_empty() {
        words.insert("enum".into(), allowed.into());
    }
    words.into()
}
