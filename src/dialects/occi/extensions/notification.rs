//! Notification (draft): links over which a resource with the tag `notifier` says what happens to it.

use super::{core, kind, mixin};
use crate::dialects::occi::model::{Attributes, Category, TypeId};

/// The scheme of the extension.
pub const SCHEME: &str = "http://schemas.ogf.org/occi/notification#";

/// The kind of links from what notifies to who is notified.
pub fn notification() -> TypeId {
    TypeId::fixed(SCHEME, "notification")
}

/// The tag that a source of notifications needs.
pub fn notifier() -> TypeId {
    TypeId::fixed(SCHEME, "notifier")
}

/// All categories of the extension.
pub fn categories() -> Vec<Category> {
    let none = Attributes::new;
    vec![
        Category::Kind(kind(notification(), "Notification Link", core::link(), "/notification/", none())),
        Category::Mixin(mixin(notifier(), "Notifier", &[core::resource()], none())),
    ]
}
