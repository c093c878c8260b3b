//! Data come: from collectors, and from analyzers that are observed. The way of most of them is short: one pass over the text, which is borrowed
//! from, and one message to each shard.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::collectors::STREAMS;
use super::formats::{MODEL, TYPE};
use super::{Answer, App, MAX_ID, Refused, Tower, count, json_answer, objects, shortened};
use crate::model::{Datum, Timestamp};

/// How long ago a datum may say that it was measured, in milliseconds, …
const PAST: f64 = 3_600_000.0;
/// … and how far it may be ahead of the clock here.
const AHEAD: f64 = 10_000.0;

/// A datum as it is sent. What has another type than it should has no value.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written<'a> {
    #[serde(borrow)]
    resource_id: Text<'a>,
    #[serde(borrow)]
    metric: Text<'a>,
    value: Number,
    timestamp: Number,
}

#[derive(Debug, Default)]
struct Text<'a>(Option<Cow<'a, str>>);

/// A number, a truth value as 1 or 0, or text that is a number.
#[derive(Debug, Default, Clone, Copy)]
struct Number(Option<f64>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_string()))))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text(None))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Text(None))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(n.to_string()))))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(n.to_string()))))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_f64<E>(self, n: f64) -> Result<Self::Value, E> {
                Ok(Number(Some(n)))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
                Ok(Number(Some(n as f64)))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
                Ok(Number(Some(n as f64)))
            }
            fn visit_bool<E>(self, on: bool) -> Result<Self::Value, E> {
                Ok(Number(Some(f64::from(u8::from(on)))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Number(number(text)))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Number(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A finite number; a truth value is one as well.
pub(super) fn number(text: &str) -> Option<f64> {
    match text.trim() {
        "true" => Some(1.0),
        "false" => Some(0.0),
        text => text.parse().ok().filter(|n: &f64| n.is_finite()),
    }
}

/// Reads TOWER/JSON, an array or one datum alone, or RDF/JSON.
fn read<'a>(bytes: &'a [u8], rdf: bool) -> Result<Vec<Written<'a>>, serde_json::Error> {
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') if rdf || !is_datum(bytes) => graph(bytes),
        Some(b'{') => Ok(vec![serde_json::from_slice(bytes)?]),
        _ => Ok(objects(serde_json::from_slice(bytes)?)),
    }
}

/// Whether an object is a datum, by its keys: in a graph they are subjects.
fn is_datum(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Keys {
        value: Option<IgnoredAny>,
        #[serde(rename = "resourceId")]
        resource: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Keys>(bytes).is_ok_and(|keys| keys.value.is_some() || keys.resource.is_some())
}

/// Reads RDF 1.1 JSON: every subject that is a datum, in the order of the text.
fn graph(bytes: &[u8]) -> Result<Vec<Written<'static>>, serde_json::Error> {
    let graph: serde_json::Map<String, Json> = serde_json::from_slice(bytes)?;
    let mut data = Vec::with_capacity(graph.len());
    for said in graph.into_iter().map(|(_, said)| said) {
        if !said.is_object() {
            return Err(serde::de::Error::custom("what is said of a subject of RDF/JSON must be an object"));
        }
        let first = |predicate: &str| said.get(predicate).and_then(|objects| objects.get(0)?.get("value"));
        let text = |name: &str| match first(&format!("{MODEL}{name}")) {
            Some(Json::String(text)) => Some(text.clone()),
            Some(Json::Null) | None => None,
            Some(other) => Some(other.to_string()),
        };
        let is_datum =
            first(TYPE).is_none_or(|kind| kind.as_str().is_some_and(|k| k.ends_with("MonitoringDatum")));
        let value = text("value");
        if is_datum && (value.is_some() || first(&format!("{MODEL}resourceId")).is_some()) {
            data.push(Written {
                resource_id: Text(text("resourceId").map(Cow::Owned)),
                metric: Text(text("metric").map(Cow::Owned)),
                value: Number(value.as_deref().and_then(number)),
                timestamp: Number(text("timestamp").as_deref().and_then(number)),
            });
        }
    }
    Ok(data)
}

/// Whether a time that was given may be right, in milliseconds since 1970.
fn in_time(given: Number, now: Timestamp) -> bool {
    given.0.is_none_or(|at| (-PAST..=AHEAD).contains(&(at - now.0 as f64 / 1e3)))
}

/// Whether a datum can be used, as data of this metric.
fn usable(datum: &Written<'_>, metric: Option<&str>, now: Timestamp) -> bool {
    let resource = datum.resource_id.0.as_deref().is_some_and(|id| !id.is_empty() && id.len() <= MAX_ID);
    let right = metric.is_none_or(|metric| datum.metric.0.as_deref().is_none_or(|m| m == metric));
    resource && right && datum.value.0.is_some_and(f64::is_finite) && in_time(datum.timestamp, now)
}

impl Tower {
    /// The metric that a stream is of, if there is such a stream.
    async fn stream(&self, name: &str) -> Option<Arc<str>> {
        let metric = name.strip_prefix(STREAMS)?;
        let known = |metric: &str| -> Option<Arc<str>> {
            self.collectors.offers().get_key_value(metric).map(|(metric, _)| metric.clone())
        };
        if let Some(metric) = known(metric) {
            return Some(metric);
        }
        let catalog = self.catalog().await;
        let there =
            catalog.collected.get(metric).or_else(|| catalog.emitted.get_key_value(metric).map(|(m, _)| m));
        there.cloned()
    }

    /// Takes data of one metric.
    async fn take(&self, metric: &Arc<str>, data: &[Written<'_>]) -> Result<(), Refused> {
        let now = self.now();
        let collection = self.supervisor.shell().collection();
        let wanted = collection.wants(metric);
        let every = self.needs().get(metric).and_then(|needed| needed.every);
        let mut good = Vec::with_capacity(data.len());
        let mut strangers = 0;
        {
            let offers = self.collectors.offers();
            let offered = offers.get(metric);
            for datum in data.iter().filter(|datum| usable(datum, Some(metric), now)) {
                let (Some(id), Some(value)) = (datum.resource_id.0.as_deref(), datum.value.0) else {
                    continue;
                };
                let resource = match offered.and_then(|of_metric| of_metric.get_key_value(id)) {
                    Some((name, offered)) => {
                        offered.count(now, every, wanted);
                        name.clone()
                    }
                    None => {
                        strangers += 1;
                        Arc::from(id)
                    }
                };
                good.push(Datum { resource, value, at: now });
            }
        }
        let number = good.len() as u64;
        count(&self.counters.refused, data.len() as u64 - number);
        count(&self.counters.strangers, strangers);
        let taken = self.supervisor.shell().collect(metric.clone(), good.into()).await?;
        count(if taken { &self.counters.taken } else { &self.counters.unwanted }, number);
        Ok(())
    }

    async fn batch(&self, body: Body) -> Result<Vec<u8>, Refused> {
        let bytes = self.read(body).await.inspect_err(|_| count(&self.counters.malformed, 1))?;
        count(&self.counters.batches, 1);
        count(&self.counters.bytes, bytes.len() as u64);
        Ok(bytes)
    }

    fn understand<'a>(&self, bytes: &'a [u8], headers: &HeaderMap) -> Result<Vec<Written<'a>>, Refused> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let rdf = kind.to_ascii_lowercase().contains("rdf");
        read(bytes, rdf).map_err(|error| {
            count(&self.counters.malformed, 1);
            Refused::bad(format!("the data are not understood: {error}"))
        })
    }
}

/// `POST /streams/{IRI}`
pub(super) async fn feed(
    State(tower): App,
    Path(stream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let bytes = tower.batch(body).await?;
    let Some(metric) = tower.stream(&stream).await else {
        count(&tower.counters.unknown, 1);
        let now = tower.now().seconds();
        if tower.counters.warned.swap(now, Ordering::Relaxed) + 60 < now {
            tracing::warn!(stream = shortened(&stream), "data of a stream that there is not were sent");
        }
        // As the original says it, in its status and in its words.
        return Ok(json_answer(StatusCode::INTERNAL_SERVER_ERROR, "\"Specified stream does not exists\""));
    };
    let data = tower.understand(&bytes, &headers)?;
    tower.take(&metric, &data).await?;
    Ok(StatusCode::OK.into_response())
}

/// `POST /v1/monitoring-rules/{id}/actions`: results of a rule that another analyzer has evaluated. They go to the observers of the rule's metrics,
/// and to whoever reads those.
pub(super) async fn act(State(tower): App, Path(id): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    let bytes = tower.batch(body).await?;
    let catalog = tower.catalog().await;
    let Some(rule) = catalog.rule(&id) else { return Err(Refused::missing("rule", &id)) };
    let data = tower.understand(&bytes, &headers)?;
    let mut by_metric: HashMap<String, Vec<Written<'_>>> = HashMap::new();
    for datum in data {
        let metric = datum.metric.0.as_deref().unwrap_or_default().to_string();
        by_metric.entry(metric).or_default().push(datum);
    }
    let now = tower.now();
    for (name, data) in by_metric {
        let Some(metric) = rule.emits.iter().find(|metric| ***metric == *name) else {
            count(&tower.counters.refused, data.len() as u64);
            continue;
        };
        tower.take(metric, &data).await?;
        let results = data.iter().filter(|datum| usable(datum, Some(metric), now)).filter_map(|datum| {
            let (resource, value) = (datum.resource_id.0.as_deref()?, datum.value.0?);
            Some(Datum { resource: resource.into(), value, at: now })
        });
        tower.observers.tell(metric, &results.collect());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        Timestamp(1_437_468_528_630_000)
    }

    fn values(text: &str) -> Vec<Option<(String, f64)>> {
        let data = read(text.as_bytes(), false).expect(text);
        data.iter()
            .map(|d| {
                usable(d, Some("CPU"), now())
                    .then(|| (d.resource_id.0.clone().unwrap().into_owned(), d.value.0.unwrap()))
            })
            .collect()
    }

    /// Requirement: R2-03
    #[test]
    fn a_value_is_a_number_a_truth_or_text_that_is_a_number() {
        let one = |value: &str| {
            values(&format!(r#"[{{"resourceId":"vm1","metric":"CPU","value":{value}}}]"#)).remove(0)
        };
        for (value, want) in
            [("0.3", 0.3), ("4", 4.0), ("-1", -1.0), ("true", 1.0), ("false", 0.0), ("\" 2.5\"", 2.5)]
        {
            assert_eq!(one(value), Some(("vm1".to_string(), want)), "{value}");
        }
        for value in ["null", "\"a\"", "\"NaN\"", "\"inf\"", "[1]", "{\"a\":[1]}"] {
            assert_eq!(one(value), None, "{value}");
        }
        assert!(read(br#"[{"resourceId":"vm1","value":1e999}]"#, false).is_err());
    }

    #[test]
    fn what_is_of_another_metric_or_another_time_is_not_taken() {
        let at = |at: i64| {
            values(&format!(r#"[{{"resourceId":"vm1","metric":"CPU","value":1,"timestamp":{at}}}]"#))[0]
                .is_some()
        };
        let here = 1_437_468_528_630;
        assert!(at(here) && at(here - 3_600_000) && at(here + 10_000));
        assert!(!at(here - 3_600_001) && !at(here + 10_001) && !at(0));
        assert_eq!(values(r#"[{"resourceId":"vm1","metric":"RAM","value":1}]"#), [None]);
        assert_eq!(
            values(r#"[{"metric":"CPU","value":1},{"resourceId":"","value":1},{"resourceId":7,"value":1}]"#)
                [2],
            Some(("7".into(), 1.0))
        );
        assert!(
            values(r#"{"resourceId":"vm1","value":1}"#)[0].is_some(),
            "one alone, and the stream names the metric"
        );
        assert!(values("[]").is_empty());
    }

    /// Requirement: R2-03, R2-06
    #[test]
    fn rdf_says_the_same_as_json() {
        use super::super::formats::Format;
        let data: Vec<Datum> = (0..20)
            .map(|n| Datum { resource: format!("vm{n}").into(), value: f64::from(n) / 3.0, at: now() })
            .collect();
        let json = Format::Tower.write("CPU", &data);
        let rdf = Format::Rdf.write("CPU", &data);
        assert_eq!(values(&json), values(&rdf));
        assert_eq!(values(&rdf).len(), 20);
        assert!(values(&rdf).iter().all(Option::is_some));
    }

    proptest! {
        #[test]
        fn no_text_is_read_with_a_panic(
            text in r#"[\[{]?([\[\]{}:,"0-9eE.\- ]|"resourceId":|"value":|"metric":|"timestamp":|true|null|"vm1"){0,40}"#,
            rdf: bool,
        ) {
            for datum in read(text.as_bytes(), rdf).into_iter().flatten() {
                let _ = usable(&datum, Some("CPU"), now());
            }
        }
    }

    #[test]
    fn what_is_no_data_is_an_error_and_no_panic() {
        for text in [
            "",
            "x",
            "[",
            "[1]",
            "[[]]",
            r#"[["vm1","CPU",1]]"#,
            r#"{"a":1}"#,
            "\"a\"",
            "{",
            "[{\"value\":}]",
            &"[".repeat(100_000),
            &"{\"a\":".repeat(100_000),
        ] {
            assert!(read(text.as_bytes(), false).is_err(), "{}", &text[..text.len().min(20)]);
        }
        assert!(read(b"\xff\xfe[]", false).is_err());
        assert!(
            read(br#"{"b":{"c":[]},"_:x":{"http://www.modaclouds.eu/model#value":[]}}"#, false)
                .expect("a graph")
                .is_empty()
        );
    }
}
