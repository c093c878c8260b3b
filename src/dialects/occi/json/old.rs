//! JSON for clients of OCCI 1.1: the drafts of 2012 to 2014, which [`super::read`] reads too.

use serde_json::{Map, Value};

/// A rendering of 1.2 in the form of 1.1: attributes nested in each other, `related` for `parent` and `depends`, ends of links as bare
/// places.
pub fn as_of_1_1(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(as_of_1_1).collect(),
        Value::Object(object) => Value::Object(old_object(object)),
        other => other,
    }
}

fn old_object(object: Map<String, Value>) -> Map<String, Value> {
    let mut old = Map::new();
    let mut related = Vec::new();
    for (member, value) in object {
        match (member.as_str(), value) {
            ("attributes", Value::Object(values)) => {
                old.insert(member, Value::Object(nested(values)));
            }
            ("parent", value) => related.push(value),
            ("depends", Value::Array(items)) => related.extend(items),
            // 1.1 has no such relation.
            ("applies", _) => {}
            ("source" | "target", Value::Object(mut end)) => {
                old.insert(member, end.remove("location").unwrap_or_default());
            }
            (_, value) => {
                old.insert(member, as_of_1_1(value));
            }
        }
    }
    if !related.is_empty() {
        old.insert("related".into(), related.into());
    }
    old
}

/// `a.b.c` as `{"a":{"b":{"c":…}}}`. Where `a.b` has a value itself, `b.c` stays one name, which reads back as the same.
fn nested(values: Map<String, Value>) -> Map<String, Value> {
    let leaves: Vec<String> = values.keys().cloned().collect();
    let mut root = Map::new();
    for (name, value) in values {
        put(&mut root, "", &name, value, &leaves);
    }
    root
}

fn put(into: &mut Map<String, Value>, path: &str, rest: &str, value: Value, leaves: &[String]) {
    if let Some((first, after)) = rest.split_once('.') {
        let path = if path.is_empty() { first.to_string() } else { format!("{path}.{first}") };
        if !leaves.contains(&path) {
            let inner = into.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, &path, after, value, leaves);
            }
            return;
        }
    }
    into.insert(rest.to_string(), value);
}
