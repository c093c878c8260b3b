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
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::super::translate::SLO;
use super::collectors::STREAMS;
use super::formats::{MODEL, TYPE};
use super::{Answer, App, MAX_ID, Refused, Tower, count, json_answer, lock, objects, shortened};
use crate::model::{Action, Datum, Timestamp};
use crate::service::message::Request;

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

impl Written<'_> {
    fn into_owned(self) -> Written<'static> {
        let owned = |Text(text): Text<'_>| Text(text.map(|text| Cow::Owned(text.into_owned())));
        let (resource_id, metric) = (owned(self.resource_id), owned(self.metric));
        Written { resource_id, metric, value: self.value, timestamp: self.timestamp }
    }
}

#[derive(Debug, Default)]
struct Text<'a>(Option<Cow<'a, str>>);

/// A number, a truth value as 1 or 0, or text that is a number.
#[derive(Debug, Default, Clone, Copy)]
enum Number {
    /// Nothing is said, or `null`.
    #[default]
    Absent,
    /// Text that is no number: it can be counted, and nothing else.
    Text,
    /// Neither a number nor text.
    Wrong,
    /// A finite number.
    Is(f64),
}

impl Number {
    fn of(text: &str) -> Self {
        number(text).map_or(Self::Text, Self::Is)
    }
}

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
                Ok(Number::Is(n))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
                Ok(Number::Is(n as f64))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
                Ok(Number::Is(n as f64))
            }
            fn visit_bool<E>(self, on: bool) -> Result<Self::Value, E> {
                Ok(Number::Is(f64::from(u8::from(on))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Number::of(text))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Number::Absent)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number::Wrong)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number::Wrong)
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

/// Reads TOWER/JSON, an array or one datum alone, or RDF/JSON. A datum that is JSON and cannot be read (a number out of range, half of a
/// surrogate pair, a key twice) says nothing that can be used, and the others are read all the same; so does one with a literal `NaN` or
/// `Infinity`, which is no JSON, but what the original's collectors write.
fn read<'a>(bytes: &'a [u8], rdf: bool) -> Result<Vec<Written<'a>>, serde_json::Error> {
    read_json(bytes, rdf).or_else(|error| {
        let Some(json) = without_literals(bytes) else { return Err(error) };
        let data = read_json(&json, rdf).map_err(|_| error)?;
        Ok(data.into_iter().map(Written::into_owned).collect())
    })
}

/// The same text with a list, which is no number, in the place of each literal `NaN`, `Infinity` and `-Infinity`, if there are any. A list
/// beside anything but what stands between values is no JSON either: what was wrong stays wrong.
fn without_literals(bytes: &[u8]) -> Option<Vec<u8>> {
    if !bytes.trim_ascii_start().starts_with(b"[") && !bytes.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let mut json: Option<Vec<u8>> = None;
    let (mut quoted, mut escaped, mut i) = (false, false, 0);
    while let Some(byte) = bytes.get(i) {
        let literal = match byte {
            _ if escaped => {
                escaped = false;
                None
            }
            b'\\' => {
                escaped = quoted;
                None
            }
            b'"' => {
                quoted = !quoted;
                None
            }
            b'N' | b'I' | b'-' if !quoted => {
                let known = [&b"NaN"[..], b"Infinity", b"-Infinity"];
                known.into_iter().find(|literal| bytes[i..].starts_with(literal))
            }
            _ => None,
        };
        let Some(literal) = literal else {
            i += 1;
            continue;
        };
        let place = &mut json.get_or_insert_with(|| bytes.to_vec())[i..i + literal.len()];
        place.fill(b' ');
        if let [first, .., last] = place {
            (*first, *last) = (b'[', b']');
        }
        i += literal.len();
    }
    json
}

fn read_json<'a>(bytes: &'a [u8], rdf: bool) -> Result<Vec<Written<'a>>, serde_json::Error> {
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') if rdf || !is_datum(bytes) => graph(bytes).or_else(|error| apart(bytes, error, subject)),
        Some(b'{') => match serde_json::from_slice(bytes) {
            Ok(datum) => Ok(vec![datum]),
            Err(error) => is_json(bytes).then(|| vec![Written::default()]).ok_or(error),
        },
        _ => match serde_json::from_slice(bytes) {
            Ok(data) => Ok(objects(data)),
            Err(error) if !bytes.trim_ascii_start().starts_with(b"[") => Err(error),
            Err(error) => apart(bytes, error, |part| {
                part.starts_with(b"{").then(|| vec![serde_json::from_slice(part).unwrap_or_default()])
            }),
        },
    }
}

/// Whether it is JSON, whatever the numbers and texts in it are.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok() && std::str::from_utf8(bytes).is_ok()
}

/// Reads the parts of a list or an object one by one; the error holds when it is no JSON, or one of them is nothing that `read` knows.
fn apart<'a>(
    bytes: &'a [u8],
    error: serde_json::Error,
    read: fn(&'a [u8]) -> Option<Vec<Written<'a>>>,
) -> Result<Vec<Written<'a>>, serde_json::Error> {
    if !is_json(bytes) {
        return Err(error);
    }
    let mut data = Vec::new();
    for part in parts(bytes) {
        match read(part) {
            Some(read) => data.extend(read),
            None => return Err(error),
        }
    }
    Ok(data)
}

/// The parts of the list or object that a text, which is JSON, consists of.
fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                depth += 1;
                if depth == 1 {
                    begin = i + 1;
                }
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    parts.push(bytes[begin..i].trim_ascii());
                }
            }
            b',' if depth == 1 => {
                parts.push(bytes[begin..i].trim_ascii());
                begin = i + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// One subject of a graph with what is said of it.
fn subject(part: &[u8]) -> Option<Vec<Written<'static>>> {
    let said = [b"{", part, b"}"].concat();
    graph(&said).ok().or_else(|| part.ends_with(b"}").then(|| vec![Written::default()]))
}

/// Whether an object is a datum, by its keys: in a graph they are subjects.
fn is_datum(bytes: &[u8]) -> bool {
    parts(bytes).iter().any(|part| part.starts_with(b"\"value\"") || part.starts_with(b"\"resourceId\""))
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
        let number = |name: &str| match first(&format!("{MODEL}{name}")) {
            Some(Json::Array(_) | Json::Object(_)) => Number::Wrong,
            _ => text(name).as_deref().map_or(Number::Absent, Number::of),
        };
        let value = number("value");
        let said_of = first(&format!("{MODEL}resourceId")).is_some();
        if is_datum && (said_of || !matches!(value, Number::Absent)) {
            data.push(Written {
                resource_id: Text(text("resourceId").map(Cow::Owned)),
                metric: Text(text("metric").map(Cow::Owned)),
                value,
                timestamp: number("timestamp"),
            });
        }
    }
    Ok(data)
}

/// Whether a time that was given may be right, in milliseconds since 1970.
fn in_time(given: Number, now: Timestamp) -> bool {
    match given {
        Number::Absent => true,
        Number::Is(at) => (-PAST..=AHEAD).contains(&(at - now.0 as f64 / 1e3)),
        Number::Text | Number::Wrong => false,
    }
}

/// What a datum says of which resource, if it can be used as data of this metric; of `text`, NaN.
fn usable<'a>(
    datum: &'a Written<'_>,
    metric: Option<&str>,
    now: Timestamp,
    text: bool,
) -> Option<(&'a str, f64)> {
    let resource = datum.resource_id.0.as_deref().filter(|id| !id.is_empty() && id.len() <= MAX_ID)?;
    let right = metric.is_none_or(|metric| datum.metric.0.as_deref().is_none_or(|m| m == metric));
    let value = match datum.value {
        Number::Is(value) if value.is_finite() => value,
        Number::Text if text => f64::NAN,
        _ => return None,
    };
    (right && in_time(datum.timestamp, now)).then_some((resource, value))
}

impl Tower {
    /// The metric that a stream is of, if there is such a stream.
    pub(super) async fn stream(&self, name: &str) -> Option<Arc<str>> {
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
        there.cloned().or_else(|| lock(&self.opened).get(metric).cloned())
    }

    /// Takes data of one metric.
    async fn take(&self, metric: &Arc<str>, data: &[Written<'_>]) -> Result<(), Refused> {
        let now = self.now();
        let collection = self.supervisor.shell().collection();
        let wanted = collection.wants(metric);
        let every = self.needs().get(metric).and_then(|needed| needed.every);
        let mut good = Vec::with_capacity(data.len());
        let mut strangers = 0;
        // Few send text, and only for that the rules have to be looked at.
        let text = data.iter().any(|datum| matches!(datum.value, Number::Text))
            && self.catalog().await.counted.contains(metric);
        {
            let offers = self.collectors.offers();
            let offered = offers.get(metric);
            for (id, value) in data.iter().filter_map(|datum| usable(datum, Some(metric), now, text)) {
                let resource = match offered.and_then(|of_metric| of_metric.resources.get_key_value(id)) {
                    Some((name, offered)) => {
                        offered.count(now, every, wanted);
                        name.clone()
                    }
                    None => {
                        let known = || self.supervisor.resource(id);
                        let kin = offered.is_some_and(|of_metric| of_metric.count_kin(known, wanted));
                        strangers += u64::from(!kin);
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

/// As the original says it, in its status and in its words.
pub(super) fn unknown_stream() -> Response {
    json_answer(StatusCode::INTERNAL_SERVER_ERROR, "\"Specified stream does not exists\"")
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
        return Ok(unknown_stream());
    };
    let data = tower.understand(&bytes, &headers)?;
    tower.take(&metric, &data).await?;
    Ok(StatusCode::OK.into_response())
}

/// `POST /v1/monitoring-rules/{id}/actions`: results of a rule that another analyzer has evaluated. They go to the observers of the rule's metrics,
/// and to whoever reads those; and the other actions of the rule are done once, if it is enabled.
pub(super) async fn act(State(tower): App, Path(id): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    let bytes = tower.batch(body).await?;
    let catalog = tower.catalog().await;
    let Some(rule) = catalog.rule(&id) else { return Err(Refused::missing("rule", &id)) };
    let data = tower.understand(&bytes, &headers)?;
    let now = tower.now();
    let mut by_metric: HashMap<String, Vec<Written<'_>>> = HashMap::new();
    let mut results = 0;
    for datum in data {
        // A rule without output has results all the same, and it does not matter what they are called.
        if rule.emits.is_empty() {
            let good = usable(&datum, None, now, true).is_some();
            results += usize::from(good);
            count(&tower.counters.refused, u64::from(!good));
            continue;
        }
        let metric = datum.metric.0.as_deref().unwrap_or_default().to_string();
        by_metric.entry(metric).or_default().push(datum);
    }
    for (name, data) in by_metric {
        let Some(metric) = rule.emits.iter().find(|metric| ***metric == *name) else {
            count(&tower.counters.refused, data.len() as u64);
            continue;
        };
        tower.take(metric, &data).await?;
        let told = data.iter().filter_map(|datum| {
            let (resource, value) = usable(datum, Some(metric), now, false)?;
            Some(Datum { resource: resource.into(), value, at: now })
        });
        let told: Arc<[Datum]> = told.collect();
        results += told.len();
        tower.observers.tell(metric, &told);
    }
    if results > 0 && rule.has_other_actions() {
        tower.start_actions(&id).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Tower {
    /// Does the actions of a rule, but for its outputs: its plan answers a violation.
    async fn start_actions(&self, id: &str) -> Result<(), Refused> {
        if self.is_enabled(id).await? {
            let raise = Action::Raise { service: None, slo: SLO.into(), kind: None };
            self.supervisor.shell().call(id, Request::SendActions(vec![raise])).await?;
        }
        Ok(())
    }
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
        let said = data.iter().map(|d| usable(d, Some("CPU"), now(), false));
        said.map(|said| said.map(|(resource, value)| (resource.to_string(), value))).collect()
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
    }

    /// Requirement: R2-22
    #[test]
    fn text_is_a_value_where_data_are_only_counted() {
        let data = read(br#"[{"resourceId":"vm1","value":"GET /"},{"resourceId":"vm1","value":[1]}]"#, false)
            .unwrap();
        let said: Vec<_> = data.iter().map(|d| usable(d, None, now(), true)).collect();
        assert!(matches!(said[..], [Some(("vm1", value)), None] if value.is_nan()), "{said:?}");
        assert!(data.iter().all(|d| usable(d, None, now(), false).is_none()));
    }

    #[test]
    fn a_datum_that_cannot_be_read_takes_no_other_with_it() {
        let good = r#"{"resourceId":"vm1","metric":"CPU","value":1}"#;
        for bad in [
            r#"{"resourceId":"vm1","value":1e999}"#,
            r#"{"resourceId":"vm1","value":-1e999}"#,
            r#"{"resourceId":"vm\ud800","value":1}"#,
            r#"{"resourceId":"vm1","\udfff":1,"value":1}"#,
            r#"{"resourceId":"vm1","value":1,"value":2}"#,
            r#"{"resourceId":"vm1","note":",]}\\","value":1,"resourceId":"vm2"}"#,
        ] {
            let one = Some(("vm1".to_string(), 1.0));
            assert_eq!(values(&format!("[{good}, {bad} ,{good}]")), [one.clone(), None, one], "{bad}");
            assert_eq!(values(&format!(" {bad} ")), [None], "alone: {bad}");
        }
        for wrong in [
            r#"[{"value":1e999},1]"#,
            r#"[{"value":1e999},]"#,
            r#"[{"value":1e999}"#,
            r#"[{"value":1e999}]]"#,
        ] {
            assert!(read(wrong.as_bytes(), false).is_err(), "{wrong}");
        }
        let said = |value: &str| {
            let model = "http://www.modaclouds.eu/model#";
            format!(r#"{{"{model}resourceId":[{{"value":"vm1"}}],"{model}value":[{{"value":{value}}}]}}"#)
        };
        let graph = format!(r#"{{"_:a":{},"_:b":{},"_:c":{}}}"#, said("\"1\""), said("1e999"), said("\"2\""));
        assert_eq!(values(&graph), [Some(("vm1".into(), 1.0)), None, Some(("vm1".into(), 2.0))]);
    }

    #[test]
    fn a_literal_that_is_no_number_costs_its_datum_only() {
        let good = r#"{"resourceId":"NaN, \"-Infinity","metric":"CPU","value":1}"#;
        let one = Some(("NaN, \"-Infinity".to_string(), 1.0));
        for literal in ["NaN", "Infinity", "-Infinity"] {
            let bad = format!(r#"{{"resourceId":"vm1","metric":"CPU","value":{literal}}}"#);
            let data = values(&format!("[{bad},{good} , {bad},{bad},{good}]"));
            assert_eq!(data, [None, one.clone(), None, None, one.clone()], "{literal}");
            assert_eq!(values(&bad), [None], "alone: {literal}");
            assert_eq!(
                values(&format!(r#"[{{"resourceId":"vm1","value":1,"timestamp":{literal}}}]"#)),
                [None]
            );
            let beside = format!(r#"[{{"resourceId":"vm1","value":1,"note":{literal}}}]"#);
            assert_eq!(values(&beside), [Some(("vm1".into(), 1.0))], "it matters to nobody");
            let counted = read(bad.as_bytes(), false).unwrap();
            assert!(counted.iter().all(|d| usable(d, None, now(), true).is_none()), "it is no text either");
            let model = "http://www.modaclouds.eu/model#";
            let said = |value: &str| {
                format!(r#"{{"{model}resourceId":[{{"value":"vm1"}}],"{model}value":[{{"value":{value}}}]}}"#)
            };
            let graph = format!(r#"{{"_:a":{},"_:b":{}}}"#, said(literal), said("\"2\""));
            let read = read(graph.as_bytes(), true).unwrap();
            let usable: Vec<_> = read.iter().map(|d| usable(d, None, now(), true)).collect();
            assert_eq!(usable, [None, Some(("vm1", 2.0))], "{literal}");
            for wrong in [
                format!(r#"[{{"value":1{literal}}}]"#),
                format!(r#"[{{"value":{literal}{literal}}}]"#),
                format!(r#"[{{{literal}:1}}]"#),
                format!("[{literal}]"),
                format!(r#"[{{"value":{literal}}}"#),
                literal.to_string(),
            ] {
                assert!(super::read(wrong.as_bytes(), false).is_err(), "{wrong}");
            }
        }
        for wrong in ["nan", "Inf", "+Infinity", "--Infinity", "- Infinity", "Nan"] {
            assert!(read(format!(r#"[{{"value":{wrong}}}]"#).as_bytes(), false).is_err(), "{wrong}");
        }
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
        let said = |at: &str| {
            values(&format!(r#"[{{"resourceId":"vm1","value":1,"timestamp":{at}}}]"#))[0].is_some()
        };
        assert!(said("null") && said(&format!("\"{here}\"")));
        for no_time in ["\"yesterday\"", "\"\"", "[]", "{}", "\"NaN\""] {
            assert!(!said(no_time), "{no_time}");
        }
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
            text in r#"[\[{]?([\[\]{}:,"0-9eE.\- ]|"resourceId":|"value":|"metric":|"timestamp":|true|null|"vm1"|1e999|NaN|-?Infinity|\\\\ud800|\\\\){0,40}"#,
            rdf: bool,
        ) {
            for datum in read(text.as_bytes(), rdf).into_iter().flatten() {
                let _ = usable(&datum, Some("CPU"), now(), true);
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
