//! The XML that is written keeps to `occi.xsd`: its elements, their order, and their attributes.

use homeostat::dialects::occi::{
    Entity, Extension, MediaType, Output, ProviderMixin, Registry, Rendering, Role, What, extensions,
    model::End, xml,
};
use roxmltree::{Document, Node};

use super::{id, monitoring};

/// An element within another: its attributes, and its children in their order. `?` at most one, `*` any number, else exactly one.
struct Rule {
    path: &'static str,
    attributes: &'static [&'static str],
    children: &'static [&'static str],
}

const ENTITY: &[&str] = &["kind", "mixin*", "attribute*", "action*", "summary?", "link*"];
const CATEGORY: &[&str] = &["scheme", "term", "title", "use", "location"];
const RULES: [Rule; 11] = [
    Rule {
        path: "extension",
        attributes: &["name", "version", "scheme", "status"],
        children: &["kind*", "mixin*", "action*"],
    },
    Rule { path: "extension/kind", attributes: CATEGORY, children: &["parent?", "attribute*", "action*"] },
    Rule {
        path: "extension/mixin",
        attributes: CATEGORY,
        children: &["depends*", "applies*", "attribute*", "action*"],
    },
    Rule { path: "extension/action", attributes: CATEGORY, children: &["attribute*"] },
    Rule { path: "resource", attributes: &["id", "title", "href"], children: ENTITY },
    Rule { path: "link", attributes: &["id", "title", "href"], children: ENTITY },
    Rule { path: "kind/attribute", attributes: DESCRIPTION, children: &["simpleType?"] },
    Rule { path: "mixin/attribute", attributes: DESCRIPTION, children: &["simpleType?"] },
    Rule { path: "action/attribute", attributes: DESCRIPTION, children: &["simpleType?"] },
    Rule { path: "attribute", attributes: &["name", "value"], children: &["value*"] },
    Rule { path: "summary", attributes: &[], children: &[] },
];
const DESCRIPTION: &[&str] = &["name", "type", "use", "default", "description", "immutable"];
/// References to categories.
const REFERENCE: Rule = Rule { path: "", attributes: &["scheme", "term"], children: &[] };

fn rule(node: Node<'_, '_>) -> &'static Rule {
    let name = node.tag_name().name();
    let parent = node.parent_element().map_or("", |p| p.tag_name().name());
    let path = format!("{parent}/{name}");
    let found = RULES.iter().find(|r| r.path == path).or_else(|| RULES.iter().find(|r| r.path == name));
    found.unwrap_or(&REFERENCE)
}

fn check(node: Node<'_, '_>) {
    let rule = rule(node);
    let name = node.tag_name().name();
    for attribute in node.attributes() {
        assert!(rule.attributes.contains(&attribute.name()), "`{}` of `{name}`", attribute.name());
    }
    let mut expected = rule.children.iter().peekable();
    let mut seen = 0;
    for child in node.children().filter(Node::is_element) {
        let tag = child.tag_name().name();
        while let Some(next) = expected.peek().filter(|n| n.trim_end_matches(['*', '?']) != tag) {
            assert!(next.ends_with(['*', '?']) || seen > 0, "`{name}` lacks `{next}`");
            (seen, _) = (0, expected.next());
        }
        assert!(expected.peek().is_some(), "`{tag}` stands at a wrong place in `{name}`");
        seen += 1;
        if tag != "simpleType" {
            check(child);
        }
    }
}

/// Requirement: R1-25, R1-41
#[test]
fn the_export_of_the_model_keeps_to_the_schema() {
    let mut registry = Registry::new(&Extension::ALL);
    let mixin = ProviderMixin::new(id("http://example.com/m#Ping"), "Ping", extensions::monitoring::metric());
    let size = homeostat::dialects::occi::Attribute::at_least(1.0).default_value(64).about("bytes");
    registry.add_provider(mixin.with("com.example.Ping.size", size, Role::Control)).unwrap();
    let text = Output::categories(MediaType::of(Rendering::Xml), registry.categories(), "").body;
    let tree = Document::parse(&text).unwrap();
    check(tree.root_element());
    let kinds = tree.root_element().children().filter(|n| n.has_tag_name((xml::NAMESPACE, "kind"))).count();
    assert_eq!(kinds, registry.categories().filter(|c| c.class() == "kind").count());
    let enumerated = tree.descendants().filter(|n| n.tag_name().name() == "enumeration");
    assert!(enumerated.filter(|n| n.attribute("value") == Some("x86")).count() == 1);
}

/// Requirement: R1-25
#[test]
fn an_entity_keeps_to_the_schema() {
    let link = Entity {
        id: "urn:uuid:2".into(),
        location: "/collector/2".into(),
        kind: monitoring("collector"),
        mixins: vec![monitoring("metric")],
        attributes: [("occi.collector.period".to_string(), 60.into())].into(),
        title: None,
        summary: None,
        actions: Vec::new(),
        what: What::Link { source: End::at("/sensor/1"), target: End::at("/compute/1") },
    };
    let sensor = Entity {
        id: "urn:uuid:1".into(),
        location: "/sensor/1".into(),
        kind: monitoring("sensor"),
        title: Some("a <b> & \"c\"".into()),
        summary: Some("s".into()),
        actions: vec![id("http://a#b")],
        what: What::Resource { links: vec![link.clone()] },
        ..link
    };
    let text = Output::entity(MediaType::of(Rendering::Xml), &sensor).unwrap().body;
    check(Document::parse(&text).unwrap().root_element());
}
