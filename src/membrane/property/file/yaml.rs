//! YAML: read, and one single value changed where it stands: the parser says from where to where it is written, and nothing else is touched.

use std::borrow::Cow;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::Value;

/// The document as JSON.
///
/// # Errors
/// What is malformed, in words.
pub(super) fn read(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

/// A single value, and how it is written.
struct Found {
    place: Range<usize>,
    style: ScalarStyle,
}

/// Every way in which a new value may be written at a place, the one most like the old one first. Whether one of them reads as what it should is
/// not looked at here.
///
/// # Errors
/// When there is no single value there.
pub(super) fn ways(text: &str, path: &[String], new: &Value) -> Result<Vec<String>, String> {
    let found = find(text, path)?;
    if found.place.is_empty() {
        return Err("nothing is written there that could be changed".into());
    }
    let mut written: Vec<String> = Vec::new();
    match new {
        Value::Bool(_) | Value::Number(_) => written.push(number(&new.to_string())),
        Value::String(plain) => {
            match found.style {
                ScalarStyle::Plain if !ambiguous(plain) => written.push(plain.clone()),
                ScalarStyle::SingleQuoted => written.push(format!("'{}'", plain.replace('\'', "''"))),
                _ => {}
            }
            // What JSON writes in quotes, YAML reads.
            written.push(new.to_string());
        }
        _ => return Err("only single values can be set in place".into()),
    }
    let (before, after) = (&text[..found.place.start], &text[found.place.end..]);
    Ok(written.into_iter().map(|value| format!("{before}{value}{after}")).collect())
}

/// A number as every reader takes it for one: YAML 1.1 wants a point before an exponent, and a sign in it.
fn number(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_string() };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

/// Whether some reader takes a text without quotes for something else: a truth value, nothing, a number, a time (YAML 1.1, sections of types).
fn ambiguous(plain: &str) -> bool {
    const WORDS: [&str; 13] =
        ["", "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "=", "<<"];
    let lower = plain.to_ascii_lowercase();
    let unsigned = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    let begins = unsigned.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit());
    // Digits of any base, and what stands between them in numbers, dates and times of day.
    let like_a_number =
        begins && unsigned.bytes().all(|b| b.is_ascii_hexdigit() || b"xobtz_:.,+- \t".contains(&b));
    WORDS.contains(&lower.as_str()) || [".inf", ".nan"].contains(&unsigned) || like_a_number
}

/// Where the nodes of a document lie: a walk along the events of the parser.
struct Walk<'a> {
    events: Vec<(Event<'a>, Range<usize>)>,
    next: usize,
}

fn find(text: &str, path: &[String]) -> Result<Found, String> {
    let mut events = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| e.to_string())?;
        let node = matches!(
            event,
            Event::Scalar(..)
                | Event::Alias(_)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd
        );
        if node {
            events.push((event, span.byte_range().unwrap_or_default()));
        }
    }
    let mut walk = Walk { events, next: 0 };
    for name in path {
        walk.enter(name)?;
    }
    match walk.events.get(walk.next) {
        Some((Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..), _)) => {
            Err("it is written as a block of lines, which is not changed in place".into())
        }
        Some((Event::Scalar(_, style, ..), place)) => Ok(Found { place: place.clone(), style: *style }),
        Some((Event::Alias(_), _)) => Err("it is written elsewhere (an alias); set it there".into()),
        Some(_) => Err("it is a list or a mapping; only single values can be set in place".into()),
        None => Err("it is not there".into()),
    }
}

impl Walk<'_> {
    /// Goes to the child of this name of the node that stands next.
    fn enter(&mut self, name: &str) -> Result<(), String> {
        let missing = || "it is not there".to_string();
        match self.events.get(self.next) {
            Some((Event::MappingStart(..), _)) => {
                self.next += 1;
                loop {
                    let key: Option<Cow<'_, str>> = match self.events.get(self.next) {
                        Some((Event::Scalar(key, ..), _)) => Some(key.clone()),
                        Some((Event::MappingEnd, _)) | None => return Err(missing()),
                        Some(_) => None,
                    };
                    let here = key.as_deref() == Some(name);
                    self.skip();
                    if here {
                        return Ok(());
                    }
                    self.skip();
                }
            }
            Some((Event::SequenceStart(..), _)) => {
                let index: usize = name.parse().map_err(|_| missing())?;
                self.next += 1;
                for _ in 0..index {
                    self.skip();
                }
                match self.events.get(self.next) {
                    Some((Event::SequenceEnd, _)) | None => Err(missing()),
                    Some(_) => Ok(()),
                }
            }
            Some((Event::Alias(_), _)) => Err("it is written elsewhere (an alias); set it there".into()),
            _ => Err(missing()),
        }
    }

    /// Goes past the node that stands next; stays at the end of what it is in.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while let Some((event, _)) = self.events.get(self.next) {
            match event {
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd if depth == 0 => return,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => {}
            }
            self.next += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "# of the shop\nlimits: # all\n  rate:   5   # per second\n  names: [a, 'b c', \"d\"]\n  \"odd key\": é\nblock: |\n  a\n  b\nshared: &s 1\nalso: *s\n";

    fn first(place: &str, new: Value) -> Result<String, String> {
        let path: Vec<String> = place.split('/').skip(1).map(str::to_string).collect();
        ways(TEXT, &path, &new).map(|ways| ways[0].clone())
    }

    #[test]
    fn nothing_but_the_value_is_touched() {
        assert_eq!(first("/limits/rate", json!(7)), Ok(TEXT.replace(":   5   #", ":   7   #")));
        assert_eq!(first("/limits/names/1", json!("it's")), Ok(TEXT.replace("'b c'", "'it''s'")));
        assert_eq!(first("/limits/names/2", json!("é\"")), Ok(TEXT.replace("\"d\"", "\"é\\\"\"")));
        assert_eq!(first("/limits/odd key", json!("x")), Ok(TEXT.replace("é", "x")));
        for text in
            ["12:30:00", "2024-01-02", "1_000", "+.5", "0o17", "0x1F", "Yes", "~", "-.INF", "1e3", "on"]
        {
            let quoted = TEXT.replace("é", &format!("\"{text}\""));
            assert_eq!(
                first("/limits/odd key", json!(text)),
                Ok(quoted),
                "others take it for something else"
            );
        }
        assert_eq!(first("/limits/odd key", json!("12 apples")), Ok(TEXT.replace("é", "12 apples")));
        assert_eq!(first("/limits/rate", json!(1e-7)), Ok(TEXT.replace(":   5   #", ":   1.0e-7   #")));
        for (place, part) in [
            ("/limits", "a list or a mapping"),
            ("/block", "block of lines"),
            ("/also", "alias"),
            ("/limits/names/3", "not there"),
            ("/none", "not there"),
        ] {
            assert!(first(place, json!(1)).is_err_and(|why| why.contains(part)), "{place}");
        }
    }
}
