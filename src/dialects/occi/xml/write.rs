//! Writes XML. The order of elements is that of the schema.

use std::fmt::Write;

use serde_json::Value;

use super::{NAMESPACE, SCHEMA_NAMESPACE};
use crate::dialects::occi::draft::Invocation;
use crate::dialects::occi::model::{
    Attribute, AttributeType, Attributes, Category, Document, End, Entity, TypeId, Values, What,
};

/// A text that grows.
struct Writer {
    text: String,
    depth: usize,
    /// Whether the root element still has to declare the namespaces.
    bare: bool,
}

impl Writer {
    fn new() -> Self {
        Self { text: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".into(), depth: 0, bare: true }
    }

    fn start(&mut self, name: &str, attributes: &[(&str, Option<&str>)]) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push('<');
        self.text.push_str(name);
        if std::mem::take(&mut self.bare) {
            // Writing to a text does not fail.
            let _ = write!(self.text, " xmlns:occi=\"{NAMESPACE}\" xmlns:xs=\"{SCHEMA_NAMESPACE}\"");
        }
        for (key, value) in attributes {
            if let Some(value) = value {
                self.text.push(' ');
                self.text.push_str(key);
                self.text.push_str("=\"");
                escape(value, &mut self.text);
                self.text.push('"');
            }
        }
    }

    fn open(&mut self, name: &str, attributes: &[(&str, Option<&str>)]) {
        self.start(name, attributes);
        self.text.push_str(">\n");
        self.depth += 1;
    }

    fn close(&mut self, name: &str) {
        self.depth -= 1;
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        let _ = writeln!(self.text, "</{name}>");
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, Option<&str>)]) {
        self.start(name, attributes);
        self.text.push_str("/>\n");
    }

    fn id(&mut self, name: &str, id: &TypeId) {
        self.empty(name, &[("scheme", Some(id.scheme())), ("term", Some(id.term()))]);
    }

    fn value(&mut self, name: &str, value: &str) {
        self.empty("occi:attribute", &[("name", Some(name)), ("value", Some(value))]);
    }

    fn values(&mut self, values: &Values) {
        for (name, value) in values.iter().filter(|(_, v)| !v.is_null()) {
            match value {
                Value::String(text) => self.value(name, text),
                other => self.value(name, &other.to_string()),
            }
        }
    }

    fn end(&mut self, name: &str, end: &End) {
        self.value(name, &end.location);
        if let Some(kind) = &end.kind {
            self.value(&format!("{name}.kind"), kind.as_str());
        }
    }

    fn entity(&mut self, entity: &Entity) {
        let name = match entity.what {
            What::Resource { .. } => "occi:resource",
            What::Link { .. } => "occi:link",
        };
        let id = Some(entity.id.as_str());
        let href = Some(entity.location.as_str());
        self.open(name, &[("id", id), ("title", entity.title.as_deref()), ("href", href)]);
        self.id("occi:kind", &entity.kind);
        entity.mixins.iter().for_each(|m| self.id("occi:mixin", m));
        if let What::Link { source, target } = &entity.what {
            self.end("occi.core.source", source);
            self.end("occi.core.target", target);
        }
        self.values(&entity.attributes);
        entity.actions.iter().for_each(|a| self.id("occi:action", a));
        if let Some(summary) = &entity.summary {
            self.start("occi:summary", &[]);
            self.text.push('>');
            escape(summary, &mut self.text);
            self.text.push_str("</occi:summary>\n");
        }
        entity.links().iter().for_each(|l| self.entity(l));
        self.close(name);
    }

    fn category(&mut self, category: &Category) {
        let (name, location) = (format!("occi:{}", category.class()), category.location());
        let id = category.id();
        self.open(
            &name,
            &[
                ("scheme", Some(id.scheme())),
                ("term", Some(id.term())),
                ("title", category.title()),
                ("location", location),
            ],
        );
        match category {
            Category::Kind(kind) => kind.parent.iter().for_each(|p| self.id("occi:parent", p)),
            Category::Mixin(mixin) => {
                mixin.depends.iter().for_each(|d| self.id("occi:depends", d));
                mixin.applies.iter().for_each(|a| self.id("occi:applies", a));
            }
            Category::Action(_) => {}
        }
        self.descriptions(category.attributes());
        category.actions().iter().for_each(|a| self.id("occi:action", a));
        self.close(&name);
    }

    fn descriptions(&mut self, attributes: &Attributes) {
        for (name, attribute) in attributes {
            let default = attribute.default.as_ref().map(text_of);
            let facets = attribute.pattern.as_ref().map(facets).unwrap_or_default();
            let kind = schema_type(attribute.kind);
            let described = [
                ("name", Some(name.as_str())),
                ("type", facets.is_empty().then_some(kind)),
                ("use", Some(if attribute.required { "required" } else { "optional" })),
                ("default", default.as_deref()),
                ("description", attribute.description.as_deref()),
                ("immutable", Some(if attribute.mutable { "false" } else { "true" })),
            ];
            match facets.is_empty() {
                true => self.empty("occi:attribute", &described),
                false => self.restricted(&described, kind, attribute, &facets),
            }
        }
    }

    fn restricted(
        &mut self,
        described: &[(&str, Option<&str>)],
        kind: &str,
        attribute: &Attribute,
        facets: &[(&str, String)],
    ) {
        let whole = attribute.pattern.as_ref().is_some_and(|p| p.get("type") == Some(&"integer".into()));
        self.open("occi:attribute", described);
        self.open("xs:simpleType", &[]);
        self.open("xs:restriction", &[("base", Some(if whole { "xs:integer" } else { kind }))]);
        for (facet, value) in facets.iter().filter(|(facet, _)| !facet.is_empty()) {
            self.empty(facet, &[("value", Some(value))]);
        }
        self.close("xs:restriction");
        self.close("xs:simpleType");
        self.close("occi:attribute");
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// The restrictions that XML Schema has for a pattern. One without a name says that the number is whole.
fn facets(pattern: &Value) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let Some(words) = pattern.as_object() else { return found };
    for (word, bound) in words {
        match (word.as_str(), bound) {
            ("enum", Value::Array(allowed)) => {
                found.extend(allowed.iter().map(|a| ("xs:enumeration", text_of(a))));
            }
            ("minimum", bound) => found.push(("xs:minInclusive", text_of(bound))),
            ("maximum", bound) => found.push(("xs:maxInclusive", text_of(bound))),
            ("pattern", Value::String(regex)) => found.push(("xs:pattern", regex.clone())),
            ("type", Value::String(name)) if name == "integer" => found.push(("", String::new())),
            _ => {}
        }
    }
    found
}

fn schema_type(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::String => "xs:string",
        AttributeType::Number => "xs:decimal",
        AttributeType::Boolean => "xs:boolean",
        AttributeType::Array => "occi:array",
        AttributeType::Object => "occi:object",
    }
}

/// Text in XML. Characters that XML 1.0 cannot have at all become U+FFFD; white space is kept by references.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// One entity.
pub fn entity_text(entity: &Entity) -> String {
    let mut writer = Writer::new();
    writer.entity(entity);
    writer.text
}

/// A collection of entities: a manifest.
pub fn collection_text(entities: &[Entity]) -> String {
    let mut writer = Writer::new();
    writer.open("occi:manifest", &[]);
    entities.iter().for_each(|e| writer.entity(e));
    writer.close("occi:manifest");
    writer.text
}

/// Categories: an extension.
pub fn categories_text<'a>(categories: impl IntoIterator<Item = &'a Category>) -> String {
    let mut writer = Writer::new();
    let attributes = [("name", Some("homeostat")), ("version", Some("1"))];
    writer.open("occi:extension", &attributes);
    categories.into_iter().for_each(|c| writer.category(c));
    writer.close("occi:extension");
    writer.text
}

/// Everything: a manifest, which begins with an extension if there are categories.
pub fn document_text(document: &Document) -> String {
    let mut writer = Writer::new();
    writer.open("occi:manifest", &[]);
    let mut categories = document.categories().peekable();
    if categories.peek().is_some() {
        writer.open("occi:extension", &[("name", Some("homeostat")), ("version", Some("1"))]);
        categories.for_each(|c| writer.category(&c));
        writer.close("occi:extension");
    }
    document.resources.iter().chain(&document.links).for_each(|e| writer.entity(e));
    writer.close("occi:manifest");
    writer.text
}

/// Places of entities: a manifest of references.
pub fn locations_text(locations: &[String]) -> String {
    let mut writer = Writer::new();
    writer.open("occi:manifest", &[]);
    locations.iter().for_each(|l| writer.empty("occi:entity", &[("href", Some(l))]));
    writer.close("occi:manifest");
    writer.text
}

/// The call of an action.
pub fn invocation_text(call: &Invocation) -> String {
    let mut writer = Writer::new();
    let (scheme, term) = (call.action.scheme(), call.action.term());
    writer.open("occi:action", &[("scheme", Some(scheme)), ("term", Some(term))]);
    writer.values(&call.attributes);
    writer.close("occi:action");
    writer.text
}
