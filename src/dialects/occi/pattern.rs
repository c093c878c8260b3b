//! The patterns of attributes: JSON schemas for single values.

use serde_json::Value;

use super::model::{Attribute, AttributeType};

/// The words that are checked here, as nearly all patterns have no others.
const SIMPLE: [&str; 5] = ["enum", "minimum", "maximum", "type", "format"];

/// Whether a value satisfies a pattern. A pattern that is no schema forbids nothing.
pub fn holds(pattern: &Value, value: &Value) -> bool {
    let Some(words) = pattern.as_object() else { return true };
    if !words.keys().all(|w| SIMPLE.contains(&w.as_str())) {
        return jsonschema::validator_for(pattern).is_ok_and(|v| v.is_valid(value))
            || jsonschema::validator_for(pattern).is_err();
    }
    words.iter().all(|(word, bound)| match (word.as_str(), bound) {
        ("enum", Value::Array(allowed)) => allowed.contains(value),
        ("minimum", bound) => compare(value, bound, |v, b| v >= b),
        ("maximum", bound) => compare(value, bound, |v, b| v <= b),
        ("type", Value::String(name)) => is_of(name, value),
        ("format", Value::String(name)) if name == "date-time" => is_time(value),
        _ => true,
    })
}

fn compare(value: &Value, bound: &Value, holds: fn(f64, f64) -> bool) -> bool {
    match (value.as_f64(), bound.as_f64()) {
        (Some(value), Some(bound)) => holds(value, bound),
        _ => true,
    }
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
        _ => AttributeType::ALL.iter().find(|t| t.name() == name).is_none_or(|t| t.fits(value)),
    }
}

fn is_time(value: &Value) -> bool {
    use time::format_description::well_known::Iso8601;
    value.as_str().is_none_or(|text| {
        time::OffsetDateTime::parse(text, &Iso8601::PARSING).is_ok()
            || time::PrimitiveDateTime::parse(text, &Iso8601::PARSING).is_ok()
            || time::Date::parse(text, &Iso8601::PARSING).is_ok()
    })
}

/// What values an attribute expects, for a message.
pub fn expected(attribute: &Attribute) -> String {
    let mut text = match attribute.kind {
        AttributeType::String => "text",
        AttributeType::Number => "a number",
        AttributeType::Boolean => "true or false",
        AttributeType::Array => "a list",
        AttributeType::Object => "an object",
    }
    .to_string();
    if let Some(or) = attribute.or {
        text.push_str(&format!(" or a value of type {}", or.name()));
    }
    let Some(words) = attribute.pattern.as_ref().and_then(Value::as_object) else { return text };
    for (word, bound) in words {
        let bound_text = bound.as_str().map_or_else(|| bound.to_string(), str::to_string);
        match (word.as_str(), bound) {
            ("enum", Value::Array(allowed)) => {
                let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                text = format!("one of {}", allowed.join(", "));
            }
            ("minimum", _) => text.push_str(&format!(", at least {bound_text}")),
            ("maximum", _) => text.push_str(&format!(", at most {bound_text}")),
            ("type", _) if bound == "integer" => text = text.replacen("a number", "a whole number", 1),
            ("type", _) => {}
            (word, _) => text.push_str(&format!(", {word} {bound_text}")),
        }
    }
    text
}
