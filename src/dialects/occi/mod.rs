//! OCCI 1.2 and 1.1 (GFD.221, GFD.223 to GFD.229): the model and its renderings, as pure functions from text to values and back.
//!
//! ```text
//!  text/plain, text/occi ──┐                          ┌── coerce, classify ── [validate] ──▶ Entity ──┐
//!  occi+json (new, old) ───┼─▶ Document<Draft>, Draft ┤       (against the [Registry])                ├─▶ any rendering
//!  occi+xml ───────────────┘   Invocation, Filter     └── [Category] of `/-/` ────────────────────────┘
//! ```
//!
//! What clients send is a [`Draft`]: everything is optional, nothing is resolved. What the server shows is an [`Entity`].

pub mod deploy;
pub mod documents;
pub mod draft;
pub mod extensions;
pub mod fault;
pub mod json;
pub mod model;
pub mod monitoring;
pub mod negotiate;
mod pattern;
pub mod registry;
pub mod rendering;
mod scan;
pub mod server;
pub mod text;
pub mod users;
pub mod validate;
pub mod xml;

pub use draft::{Draft, DraftLink, Filter, Invocation};
pub use fault::{Fault, FaultKind};
pub use model::{
    Action, Attribute, AttributeType, Attributes, Category, Document, End, Entity, Kind, Mixin, TypeId,
    Values, What,
};
pub use negotiate::{MediaType, Rendering, Shape, Version};
pub use registry::{Extension, ProviderMixin, Registry, Role};
pub use rendering::{Input, Output};
pub use validate::Checked;
