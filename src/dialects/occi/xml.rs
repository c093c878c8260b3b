//! The XML rendering, both ways: manifests of entities and extensions of categories, as `occi.xsd` of OCCIware has them.
//!
//! Values are text there; the registry says what they are ([`super::Draft::coerce`]). Lists and maps are JSON in a text. Of patterns only
//! those that XML Schema has can be written: enumerations, bounds and regular expressions.

mod read;
mod write;

pub use read::{document, entity, invocation};
pub use write::{
    categories_text, collection_text, document_text, entity_text, invocation_text, locations_text,
};

/// The namespace.
pub const NAMESPACE: &str = "http://schemas.ogf.org/occi";
/// The namespace of XML Schema, for restrictions of values.
pub const SCHEMA_NAMESPACE: &str = "http://www.w3.org/2001/XMLSchema";
