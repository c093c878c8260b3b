//! Writes fields: categories, entities, calls and places.

use serde_json::Value;

use crate::dialects::occi::draft::Invocation;
use crate::dialects::occi::model::{Attribute, Category, Entity, TypeId, What};
use crate::dialects::occi::scan::{Name, quote};

/// Lines to be written: the name of a field, and its value.
pub type Lines = Vec<(&'static str, String)>;

/// The fields of one category.
pub fn category_line(category: &Category) -> (&'static str, String) {
    let mut out = head(category.id(), category.class());
    if let Some(title) = category.title() {
        parameter(&mut out, "title", title);
    }
    let rel = match category {
        Category::Kind(k) => k.parent.as_ref(),
        // GFD.229: the first alone, and never what it applies to.
        Category::Mixin(m) => m.depends.first(),
        Category::Action(_) => None,
    };
    if let Some(rel) = rel {
        parameter(&mut out, "rel", rel.as_str());
    }
    if let Some(location) = category.location() {
        parameter(&mut out, "location", location);
    }
    let described: Vec<String> = category.attributes().iter().map(|(name, a)| described(name, a)).collect();
    if !described.is_empty() {
        parameter(&mut out, "attributes", &described.join(" "));
    }
    let actions: Vec<&str> = category.actions().iter().map(TypeId::as_str).collect();
    if !actions.is_empty() {
        parameter(&mut out, "actions", &actions.join(" "));
    }
    (Name::Category.as_str(), out)
}

fn described(name: &str, attribute: &Attribute) -> String {
    match (attribute.mutable, attribute.required) {
        (true, false) => name.to_string(),
        (true, true) => format!("{name}{{required}}"),
        (false, false) => format!("{name}{{immutable}}"),
        (false, true) => format!("{name}{{immutable required}}"),
    }
}

fn head(id: &TypeId, class: &str) -> String {
    format!("{}; scheme=\"{}\"; class=\"{class}\"", id.term(), id.scheme())
}

fn parameter(out: &mut String, key: &str, text: &str) {
    out.push_str("; ");
    out.push_str(key);
    out.push('=');
    out.push_str(&quote(text));
}

/// A value as it stands in a field: text in quotes; lists and maps, which this rendering lacks, as quoted JSON.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        other => quote(&other.to_string()),
    }
}

/// The fields of an entity: categories, attributes, links, actions.
pub fn entity_lines(entity: &Entity) -> Lines {
    let mut lines = vec![(Name::Category.as_str(), head(&entity.kind, "kind"))];
    lines.extend(entity.mixins.iter().map(|m| (Name::Category.as_str(), head(m, "mixin"))));
    let mut put = |name: &str, value: String| {
        lines.push((Name::Attribute.as_str(), format!("{name}={value}")));
    };
    core_values(entity, &mut put);
    if let What::Link { source, target } = &entity.what {
        for (name, end) in [("occi.core.source", source), ("occi.core.target", target)] {
            put(name, quote(&end.location));
            if let Some(kind) = &end.kind {
                put(&format!("{name}.kind"), quote(kind.as_str()));
            }
        }
    }
    for (name, value) in entity.attributes.iter().filter(|(_, v)| !v.is_null()) {
        put(name, written(value));
    }
    lines.extend(entity.links().iter().map(|l| (Name::Link.as_str(), link_line(l))));
    for action in &entity.actions {
        let line = format!("<{}?action={}>; rel={}", entity.location, action.term(), quote(action.as_str()));
        lines.push((Name::Link.as_str(), line));
    }
    lines
}

fn core_values(entity: &Entity, put: &mut impl FnMut(&str, String)) {
    put("occi.core.id", quote(&entity.id));
    if let Some(title) = &entity.title {
        put("occi.core.title", quote(title));
    }
    if let Some(summary) = &entity.summary {
        put("occi.core.summary", quote(summary));
    }
}

fn link_line(link: &Entity) -> String {
    let What::Link { target, .. } = &link.what else { return String::new() };
    let mut out = format!("<{}>", target.location);
    // Clients need a `rel`; of what is elsewhere we know no more than that it is something.
    let rel = target.kind.as_ref().map_or("http://schemas.ogf.org/occi/core#resource", TypeId::as_str);
    parameter(&mut out, "rel", rel);
    parameter(&mut out, "self", &link.location);
    let categories: Vec<&str> = [&link.kind].into_iter().chain(&link.mixins).map(TypeId::as_str).collect();
    parameter(&mut out, "category", &categories.join(" "));
    let mut put = |name: &str, value: String| out.push_str(&format!("; {name}={value}"));
    core_values(link, &mut put);
    for (name, value) in link.attributes.iter().filter(|(_, v)| !v.is_null()) {
        put(name, written(value));
    }
    out
}

/// The fields of a call.
pub fn invocation_lines(call: &Invocation) -> Lines {
    let mut lines = vec![(Name::Category.as_str(), head(&call.action, "action"))];
    for (name, value) in call.attributes.iter().filter(|(_, v)| !v.is_null()) {
        lines.push((Name::Attribute.as_str(), format!("{name}={}", written(value))));
    }
    lines
}

/// The fields of a collection of entities: their places.
pub fn location_lines<'a>(locations: impl IntoIterator<Item = &'a str>) -> Lines {
    locations.into_iter().map(|l| (Name::Location.as_str(), l.to_string())).collect()
}

/// A body in `text/plain`, one field per line.
pub fn plain(lines: &Lines) -> String {
    lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// The headers of `text/occi`: one per name, with its values joined by commas. The body is [`HEADERS_BODY`].
pub fn headers(lines: &Lines) -> Lines {
    let mut joined: Lines = Vec::new();
    for (name, value) in lines {
        match joined.iter_mut().find(|(n, _)| n == name) {
            Some((_, all)) => {
                all.push_str(", ");
                all.push_str(value);
            }
            None => joined.push((name, value.clone())),
        }
    }
    joined
}

/// The body of a `text/occi` response.
pub const HEADERS_BODY: &str = "OK";
