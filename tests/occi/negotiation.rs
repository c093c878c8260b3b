//! Which rendering a response gets, and which a request has.

use homeostat::dialects::occi::negotiate::{MEDIA_TYPES, accept, content_type, version};
use homeostat::dialects::occi::{Rendering, Shape, Version};
use proptest::prelude::*;

fn chosen(text: &str, shape: Shape) -> &'static str {
    accept(Some(text), shape).unwrap().name
}

/// Requirement: R1-25
#[test]
fn the_client_gets_what_it_asks_for() {
    let single = |text| chosen(text, Shape::Single);
    assert_eq!(accept(None, Shape::Single).unwrap().name, "text/plain");
    for media in MEDIA_TYPES.into_iter().filter(|m| m.rendering != Rendering::UriList) {
        assert_eq!(single(media.name), media.name);
    }
    assert_eq!(single("*/*"), "text/plain");
    assert_eq!(single("text/html, image/gif, *; q=.2, */*; q=.2"), "text/plain");
    assert_eq!(single("application/*"), "application/occi+json");
    assert_eq!(single("text/plain;q=0.5, application/occi+json"), "application/occi+json");
    assert_eq!(single("text/plain;q=0, */*"), "application/occi+json");
    assert_eq!(single("Application/JSON; charset=utf-8"), "application/json");
    assert_eq!(single("text/occi, text/plain"), "text/occi");
    assert_eq!(single("*/*;q=0.1, text/xml"), "text/xml");
    assert_eq!(single("text/uri-list, text/occi;q=0.1"), "text/occi");
    assert_eq!(chosen("text/uri-list", Shape::Collection), "text/uri-list");
}

#[test]
fn what_is_not_offered_is_refused() {
    assert_eq!(accept(Some("image/png"), Shape::Single).unwrap_err().kind.status(), 406);
    assert_eq!(accept(Some("text/plain;q=0"), Shape::Single).unwrap_err().kind.status(), 406);
    assert_eq!(accept(Some("text/uri-list"), Shape::Single).unwrap_err().kind.status(), 400);
    assert_eq!(content_type(Some("image/png"), true).unwrap_err().kind.status(), 415);
    assert_eq!(content_type(Some("text/plain; charset=latin1"), true).unwrap_err().kind.status(), 415);
}

#[test]
fn requests_without_a_type_are_lines_or_headers() {
    assert_eq!(content_type(None, true).unwrap().rendering, Rendering::Plain);
    assert_eq!(content_type(None, false).unwrap().rendering, Rendering::Headers);
    assert_eq!(
        content_type(Some("text/occi+plain;charset=\"UTF-8\""), true).unwrap().rendering,
        Rendering::Plain
    );
}

#[test]
fn later_versions_are_not_implemented() {
    assert_eq!(version(None), Ok(Version::V1_2));
    assert_eq!(version(Some("curl/8")), Ok(Version::V1_2));
    assert_eq!(version(Some("x/1 (linux) OCCI/1.1")), Ok(Version::V1_1));
    assert_eq!(version(Some("OCCI/1.2 x/1")), Ok(Version::V1_2));
    for later in ["OCCI/1.3", "OCCI/2.0", "a OCCI/10.1 b", "occi/1.3", "OCCI/99999999999999999999"] {
        assert_eq!(version(Some(later)).unwrap_err().kind.status(), 501);
    }
}

proptest! {
    #[test]
    fn no_header_makes_negotiation_panic(text in "[a-z*/;,=q0-9. +\"-]{0,40}|\\PC{0,20}") {
        let _ = (accept(Some(&text), Shape::Single), accept(Some(&text), Shape::Collection));
        let _ = (content_type(Some(&text), true), version(Some(&text)));
    }
}
