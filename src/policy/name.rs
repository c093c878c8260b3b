//! Names of policies made of the names that other systems use.

use super::expression::Expression;
use crate::model::name::{MAX_NAME, identifier_problem};

/// Text as an identifier of policies: what none can contain becomes `_`.
pub fn identifier(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    out.truncate(MAX_NAME - 16);
    if !out.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        out.insert(0, '_');
    }
    // Some words mean something else in expressions: `if`, `true`.
    let reads_itself = Expression::parse(&out).is_ok_and(|e| e.inputs.len() == 1);
    if identifier_problem(&out).is_some() || !reads_itself {
        out.insert_str(0, "m_");
    }
    out
}
