//! The text renderings (GFD.229), both ways: `text/plain` in lines, `text/occi` in headers, `text/uri-list`.
//!
//! Both are the same fields, so that everything is read from [`Fields`] and written as [`Lines`].

mod read;
mod write;

pub use read::{Fields, uri_list};
pub use write::{
    HEADERS_BODY, Lines, category_line, entity_lines, headers, invocation_lines, location_lines, plain,
};

/// Whether a text can stand where a URI or path is expected.
pub fn is_uri(text: &str) -> bool {
    let wrong = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '<' | '>' | '\\');
    !text.is_empty() && !text.contains(wrong)
}
