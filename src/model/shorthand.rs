//! How sensors and effectors are read from a policy: a mapping with one key, the kind, or the kind alone where it needs no fields
//! (`orders: push`, `notify: log`). Errors keep their positions, since the mapping is streamed through.

use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::connector::{EffectorSpec, LogEffector, PushSensor, SensorSpec};

/// A type that is written as its kind alone or as a mapping from its kind to its fields.
trait Kind: Sized {
    /// What would be right, for errors.
    const EXPECTED: &'static str;

    /// The value that a kind alone stands for.
    fn alone(kind: &str) -> Option<Self>;

    /// The derived way, for mappings.
    fn tagged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl Kind for SensorSpec {
    const EXPECTED: &'static str = "a sensor such as `http: { url: … }`, or `push`";

    fn alone(kind: &str) -> Option<Self> {
        (kind == "push").then(|| Self::Push(PushSensor::default()))
    }

    fn tagged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

impl Kind for EffectorSpec {
    const EXPECTED: &'static str = "an effector such as `http: { url: … }`, or `log`";

    fn alone(kind: &str) -> Option<Self> {
        (kind == "log").then(|| Self::Log(LogEffector::default()))
    }

    fn tagged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

struct OneKind<T>(PhantomData<T>);

impl<'de, T: Kind> Visitor<'de> for OneKind<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, kind: &str) -> Result<T, E> {
        T::alone(kind).ok_or_else(|| E::invalid_value(Unexpected::Str(kind), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let value = T::tagged(MapAccessDeserializer::new(&mut map))?;
        match map.next_key::<String>()? {
            Some(second) => {
                Err(A::Error::custom(format!("`{second}` is a second kind; expected {}", T::EXPECTED)))
            }
            None => Ok(value),
        }
    }
}

impl<'de> Deserialize<'de> for SensorSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneKind(PhantomData))
    }
}

impl<'de> Deserialize<'de> for EffectorSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneKind(PhantomData))
    }
}

impl Serialize for SensorSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl Serialize for EffectorSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// Lets the schema of sensors accept `push` alone.
pub(super) fn or_push(schema: &mut schemars::Schema) {
    or_alone(schema, "push", "Values are pushed.");
}

/// Lets the schema of effectors accept `log` alone.
pub(super) fn or_log(schema: &mut schemars::Schema) {
    or_alone(schema, "log", "A line in the log.");
}

fn or_alone(schema: &mut schemars::Schema, kind: &str, description: &str) {
    if let Some(serde_json::Value::Array(kinds)) = schema.get_mut("oneOf") {
        kinds.push(serde_json::json!({ "type": "string", "const": kind, "description": description }));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sensors(text: &str) -> Result<BTreeMap<String, SensorSpec>, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn push_and_log_may_stand_alone() {
        let read = sensors("orders: push\ncost: { http: { url: x } }\n").expect("good");
        assert_eq!(read["orders"], SensorSpec::Push(PushSensor::default()));
        assert_eq!(read["cost"].protocol(), "http");
        let effectors: BTreeMap<String, EffectorSpec> =
            serde_saphyr::from_str("notify: log\n").expect("good");
        assert_eq!(effectors["notify"], EffectorSpec::Log(LogEffector::default()));
        assert_eq!(serde_json::from_str::<SensorSpec>("\"push\"").expect("JSON"), read["orders"]);
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        for text in [
            "orders: push",
            "a: { exec: { command: [x], every: 1s } }",
            "b: { custom: { kind: k, config: [1] } }",
        ] {
            let read = sensors(text).expect(text);
            let json = serde_json::to_string(&read).expect("JSON");
            assert_eq!(
                serde_json::from_str::<BTreeMap<String, SensorSpec>>(&json).expect("back"),
                read,
                "{json}"
            );
        }
    }

    #[test]
    fn errors_name_what_is_wrong_and_keep_their_line() {
        for (text, parts) in [
            ("a: push\nb: htp\n", &["htp", "a sensor such as", "line 2"][..]),
            ("a: push\nb: { htp: {} }\n", &["htp", "statsd", "line 2"]),
            ("a: push\nb:\n  http: { url: x, pionter: y }\n", &["pionter", "line 3"]),
            ("a: push\nb: { http: { url: x }, every: 5s }\n", &["`every` is a second kind", "line 2"]),
        ] {
            let error = sensors(text).expect_err(text);
            for part in parts {
                assert!(error.contains(part), "{text}: {error} lacks {part}");
            }
        }
    }

    #[test]
    fn the_schema_accepts_what_may_stand_alone() {
        for (schema, kind) in
            [(schemars::schema_for!(SensorSpec), "push"), (schemars::schema_for!(EffectorSpec), "log")]
        {
            let validator = jsonschema::validator_for(schema.as_value()).expect("schema");
            assert!(validator.is_valid(&serde_json::json!(kind)));
            let mapping = serde_json::json!({ kind: {} });
            assert!(validator.is_valid(&mapping));
            assert!(!validator.is_valid(&serde_json::json!("http")));
        }
    }
}
