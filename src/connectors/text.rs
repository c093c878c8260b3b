//! Numbers in what others answer: plain text, and JSON with a pointer.

use serde_json::Value;

use crate::model::connector::ConnectorError;

/// `text`, on one line and at most `limit` characters long, for error messages and records.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    let clean = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = clean.take(limit + 1).collect();
    if short.chars().count() > limit {
        short.pop();
        short.push('…');
    }
    short
}

/// A finite number written as text.
///
/// # Errors
/// A sentence that shows what was found.
pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(format!("`{}` is not a finite number", shorten(text, 40))),
        Err(_) if text.trim().is_empty() => Err("it is empty; expected a number".into()),
        Err(_) => Err(format!("`{}` is no number", shorten(text, 40))),
    }
}

/// The number that a JSON value stands for: a number, a number as text, or a boolean (1 and 0).
///
/// # Errors
/// A sentence that shows what was found.
pub(super) fn json_number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(n) => {
            n.as_f64().filter(|v| v.is_finite()).ok_or_else(|| format!("{n} is not a finite number"))
        }
        Value::String(text) => number(text),
        Value::Bool(yes) => Ok(f64::from(u8::from(*yes))),
        Value::Null => Err("null is no number".into()),
        Value::Array(_) => Err("an array is no number; point at one of its elements, such as …/0".into()),
        Value::Object(_) => Err("an object is no number; point at one of its members".into()),
    }
}

/// The value at `pointer` in `body`, or the whole body without a pointer (JSON if it is, otherwise text).
pub(super) fn find(body: &[u8], pointer: Option<&str>, source: &str) -> Result<Value, ConnectorError> {
    let parsed = serde_json::from_slice::<Value>(body);
    let Some(pointer) = pointer else {
        return Ok(parsed.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).trim().to_string())));
    };
    let value = parsed.map_err(|e| {
        let shown = shorten(&String::from_utf8_lossy(&body[..body.len().min(400)]), 80);
        ConnectorError::Answer(format!("{source} did not answer with JSON ({e}): `{shown}`"))
    })?;
    value.pointer(pointer).cloned().ok_or_else(|| {
        ConnectorError::Answer(format!("{source} has nothing at {pointer}; {}", nearest(&value, pointer)))
    })
}

/// The number at `pointer` in `body`, or the whole body without a pointer.
pub(super) fn read(body: &[u8], pointer: Option<&str>, source: &str) -> Result<f64, ConnectorError> {
    let value = find(body, pointer, source)?;
    let place = pointer.map(|p| format!(" at {p}")).unwrap_or_default();
    json_number(&value)
        .map_err(|e| ConnectorError::Answer(format!("{source} answered no number{place}: {e}")))
}

/// How far the pointer leads, and what there is.
fn nearest(value: &Value, pointer: &str) -> String {
    let ends = pointer.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
    let mut deepest = ("", value);
    for end in ends.skip(1) {
        match value.pointer(&pointer[..end]) {
            Some(found) => deepest = (&pointer[..end], found),
            None => break,
        }
    }
    let place = if deepest.0.is_empty() { "the answer" } else { deepest.0 };
    match deepest.1 {
        Value::Object(map) => {
            let names: Vec<&str> = map.keys().take(10).map(String::as_str).collect();
            format!("{place} has {}", if names.is_empty() { "no members".into() } else { names.join(", ") })
        }
        Value::Array(items) => format!("{place} has {} elements", items.len()),
        _ => format!("{place} is a single value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_of_numbers_and_booleans_are_numbers() {
        let body = br#"{"a": {"n": 1.5, "t": " 2e3 ", "yes": true, "no": false}, "list": [7]}"#;
        for (pointer, value) in
            [("/a/n", 1.5), ("/a/t", 2000.0), ("/a/yes", 1.0), ("/a/no", 0.0), ("/list/0", 7.0)]
        {
            assert_eq!(read(body, Some(pointer), "x"), Ok(value), "{pointer}");
        }
        assert_eq!(read(b" 42.5\n", None, "x"), Ok(42.5));
        assert_eq!(read(b"\"3\"", None, "x"), Ok(3.0));
    }

    #[test]
    fn what_is_no_number_is_shown() {
        let body = br#"{"a": {"n": null, "t": "many", "huge": "inf"}, "list": [1, 2]}"#;
        for (pointer, part) in [
            ("/a/n", "null is no number"),
            ("/a/t", "`many` is no number"),
            ("/a/huge", "not a finite number"),
            ("/a/x", "/a has n, t, huge"),
            ("/b/x/y", "the answer has a, list"),
            ("/list/2", "/list has 2 elements"),
            ("/list", "an array is no number"),
            ("", "an object is no number"),
        ] {
            let error = read(body, Some(pointer), "x").expect_err(pointer).to_string();
            assert!(error.contains(part), "{pointer}: {error}");
        }
        assert!(
            read(b"<html>", Some("/a"), "x")
                .expect_err("html")
                .to_string()
                .contains("did not answer with JSON")
        );
        assert!(read(b"", None, "x").expect_err("empty").to_string().contains("expected a number"));
    }

    #[test]
    fn shortening_counts_characters_and_keeps_one_line() {
        assert_eq!(shorten("  a\nb  ", 10), "a b");
        assert_eq!(shorten("ööööö", 3), "ööö…");
    }
}
