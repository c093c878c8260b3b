//! Service level agreements (GFD.228).

use serde_json::json;

use super::{action, attributes, core, kind, mixin, with_actions};
use crate::dialects::occi::model::{Attribute, Attributes, Category, TypeId};

/// The scheme of the extension, and of its actions.
pub const SCHEME: &str = "http://schemas.ogf.org/occi/sla#";

/// The states of an agreement.
pub const STATES: [&str; 5] = ["Pending", "Accepted", "Rejected", "Suspended", "Terminated"];

/// The kind of agreements.
pub fn agreement() -> TypeId {
    TypeId::fixed(SCHEME, "agreement")
}

/// The kind of links from an agreement to what it is about.
pub fn agreement_link() -> TypeId {
    TypeId::fixed(SCHEME, "agreement_link")
}

/// The tag of templates of agreements.
pub fn agreement_tpl() -> TypeId {
    TypeId::fixed(SCHEME, "agreement_tpl")
}

/// The tag of terms of agreements.
pub fn agreement_term() -> TypeId {
    TypeId::fixed(SCHEME, "agreement_term")
}

/// All categories of the extension.
pub fn categories() -> Vec<Category> {
    let date = || Attribute::text().pattern(json!({ "format": "date-time" }));
    let of_agreements = attributes([
        (
            "occi.agreement.state",
            Attribute::one_of(&STATES)
                .immutable()
                .required()
                .default_value("Pending")
                .about("where it stands"),
        ),
        ("occi.agreement.agreedAt", date().immutable().about("when it was accepted")),
        ("occi.agreement.effectiveFrom", date().about("when it begins to bind")),
        ("occi.agreement.effectiveUntil", date().about("when it ceases to bind")),
    ]);
    let verbs = ["accept", "reject", "suspend", "resume", "terminate"];
    let actions = verbs.map(|verb| action(SCHEME, verb, &format!("{verb} the agreement"), Attributes::new()));
    let none = Attributes::new;
    let mut all = with_actions(
        kind(agreement(), "Agreement", core::resource(), "/agreement/", of_agreements),
        actions.into(),
    );
    all.extend([
        Category::Kind(kind(agreement_link(), "Agreement Link", core::link(), "/agreement_link/", none())),
        Category::Mixin(mixin(agreement_tpl(), "Agreement Template", &[agreement()], none())),
        Category::Mixin(mixin(agreement_term(), "Agreement Term", &[agreement()], none())),
    ]);
    all
}
