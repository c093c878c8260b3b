//! Names and the small numbers that stand for them on the hot path.

use serde::{Deserialize, Serialize};

/// The number of a managed service in this process. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceId(pub u32);

/// The number of a metric *name* in this process (`cost` has one number, whichever service has it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetricId(pub u32);

/// The longest name accepted, in bytes. Tools that derive rules from models join several UUIDs.
pub const MAX_NAME: usize = 200;

/// Says what is wrong with `name` as the name of a service, resource or property, or `None` when it is good:
/// letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`, at most [`MAX_NAME`] bytes.
pub fn service_name_problem(name: &str) -> Option<String> {
    problem(
        name,
        |c| c.is_ascii_alphanumeric() || c == '_',
        |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
        "letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`",
    )
}

/// Says what is wrong with `name` as a name that expressions use (metric, reference, SLO), or `None` when it is good:
/// letters, digits and `_`, not beginning with a digit, at most [`MAX_NAME`] bytes.
pub fn identifier_problem(name: &str) -> Option<String> {
    problem(
        name,
        |c| c.is_ascii_alphabetic() || c == '_',
        |c| c.is_ascii_alphanumeric() || c == '_',
        "letters, digits and `_`, not beginning with a digit",
    )
}

fn problem(
    name: &str,
    first: impl Fn(char) -> bool,
    rest: impl Fn(char) -> bool,
    expected: &str,
) -> Option<String> {
    let mut chars = name.chars();
    match chars.next() {
        None => Some(format!("a name is empty; expected {expected}")),
        Some(_) if name.len() > MAX_NAME => {
            Some(format!("the name is {} bytes long; at most {MAX_NAME} are allowed", name.len()))
        }
        Some(c) if !first(c) => Some(format!("`{name}` begins with `{c}`; expected {expected}")),
        Some(_) => chars.find(|c| !rest(*c)).map(|c| format!("`{name}` contains `{c}`; expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_from_first_to_last_character() {
        assert_eq!(service_name_problem("pay-gold.v2"), None);
        assert!(service_name_problem("").is_some());
        assert!(service_name_problem("-x").is_some());
        assert!(service_name_problem("a/b").is_some());
        assert_eq!(identifier_problem("own_cost"), None);
        assert!(identifier_problem("9lives").is_some());
        assert!(identifier_problem("a-b").is_some());
        assert!(identifier_problem(&"x".repeat(MAX_NAME + 1)).is_some());
    }
}
