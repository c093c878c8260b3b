//! The JSON rendering (GFD.225), both ways. It is read tolerantly: nested attributes and bare ids of the drafts of 2012 to 2014, `related`,
//! and the `location` of entities that a widely used server adds.

mod old;
mod read;
mod unique;
mod write;

pub use old::as_of_1_1;
pub use read::{document, entity, invocation, locations};
pub(super) use unique::parse;
pub use write::{
    categories_value, category_value, collection_value, document_value, entity_value, invocation_value,
    written,
};
