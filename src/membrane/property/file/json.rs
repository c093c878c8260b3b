//! JSON: what would be lost if a document were read and written anew.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Why a document cannot be written anew so that it says the same: a name that stands twice, or a whole number of more than 64 bits.
pub(super) fn loses(text: &str) -> Option<String> {
    if let Some(number) = too_large(text) {
        return Some(format!("the whole number {number} has more than 64 bits, and would lose digits"));
    }
    serde_json::from_str::<Unique>(text).err().map(|error| error.to_string())
}

/// The first whole number outside of texts that does not fit.
fn too_large(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let (mut at, mut within) = (0, false);
    while at < bytes.len() {
        let length = match bytes[at] {
            b'\\' if within => 2,
            b'"' => {
                within = !within;
                1
            }
            b'-' | b'0'..=b'9' if !within => {
                let part = |b: &&u8| b.is_ascii_digit() || b"+-.eE".contains(b);
                let length = bytes[at..].iter().take_while(part).count();
                let number = &text[at..at + length];
                let whole = !number.contains(['.', 'e', 'E']);
                if whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(number);
                }
                length
            }
            _ => 1,
        };
        at += length;
    }
    None
}

/// A document in which no name stands twice.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if names.contains(&name) {
                        return Err(A::Error::custom(format!("`{name}` stands there twice")));
                    }
                    names.insert(name);
                    map.next_value::<Unique>()?;
                }
                Ok(Unique)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Unique, A::Error> {
                while all.next_element::<Unique>()?.is_some() {}
                Ok(Unique)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_lost_is_found() {
        for (text, part) in [
            (r#"{"a": [1, 18446744073709551616]}"#, "18446744073709551616"),
            ("-9223372036854775809", "-9223372036854775809"),
            (r#"{"b": 1, "a": {"c": 1, "c": 1}}"#, "`c` stands there twice"),
        ] {
            assert!(loses(text).is_some_and(|why| why.contains(part)), "{text}");
        }
        for text in
            [r#"{"a": "18446744073709551616 \" 1", "b": {"a": 1}}"#, "18446744073709551615", "1e300", "-0.5"]
        {
            assert_eq!(loses(text), None, "{text}");
        }
    }
}
