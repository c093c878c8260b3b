//! OCCI: how its model is rendered and read, what is refused and why, what the registry knows, what the server answers, and what sensors do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod alarm;
mod documents;
mod goldens;
mod negotiation;
mod purposes;
mod registry;
mod renderings;
mod schema;
mod server;
mod validation;

use homeostat::dialects::occi::{Fault, Input, Rendering, TypeId};

/// The scheme of the monitoring extension.
const MONITORING: &str = "http://schemas.ogf.org/occi/monitoring#";

/// An identifier that is right.
fn id(text: &str) -> TypeId {
    text.parse().expect("an identifier")
}

/// A category of the monitoring extension.
fn monitoring(term: &str) -> TypeId {
    TypeId::new(MONITORING, term).expect("an identifier")
}

/// A request with a body.
fn body(rendering: Rendering, text: &str) -> Input<'_> {
    Input { rendering, headers: Vec::new(), body: text.as_bytes() }
}

/// A request in headers.
fn in_headers<'a>(headers: &[(&'a str, &'a str)]) -> Input<'a> {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    Input { rendering: Rendering::Headers, headers, body: b"" }
}

/// That a failure is a plain 400 which says all of some words.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Fault>, words: &[&str]) {
    let fault = result.expect_err("refused");
    assert_eq!(fault.kind.status(), 400, "{fault}");
    for word in words {
        assert!(fault.text.contains(word), "`{}` does not say `{word}`", fault.text);
    }
}
