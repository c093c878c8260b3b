//! The kinds of the core model (GFD.221, section 4).

use super::attributes;
use crate::dialects::occi::model::{Attribute, CORE, Category, Kind, TypeId};

/// The kind of everything; it has no location and no entities of its own.
pub fn entity() -> TypeId {
    TypeId::fixed(CORE, "entity")
}

/// The kind of resources.
pub fn resource() -> TypeId {
    TypeId::fixed(CORE, "resource")
}

/// The kind of links.
pub fn link() -> TypeId {
    TypeId::fixed(CORE, "link")
}

/// All categories of the core model.
pub fn categories() -> Vec<Category> {
    let text = Attribute::text;
    let of_entities = attributes([
        ("occi.core.id", text().immutable().required().about("identifier, a URI")),
        ("occi.core.title", text().about("a name for people")),
    ]);
    let of_resources = attributes([("occi.core.summary", text().about("a summary for people"))]);
    let of_links = attributes([
        ("occi.core.source", text().required().about("where the link begins: a resource of this server")),
        ("occi.core.source.kind", text().about("the kind of the source")),
        ("occi.core.target", text().required().about("where the link leads, possibly elsewhere")),
        ("occi.core.target.kind", text().about("the kind of the target")),
    ]);
    let entity_kind = Kind {
        id: entity(),
        title: Some("Entity".into()),
        parent: None,
        attributes: of_entities,
        actions: Vec::new(),
        location: None,
    };
    vec![
        Category::Kind(entity_kind),
        Category::Kind(super::kind(resource(), "Resource", entity(), "/resource/", of_resources)),
        Category::Kind(super::kind(link(), "Link", entity(), "/link/", of_links)),
    ]
}
