//! Pushed values: of one metric, or of many in bulk. The hot path of the API: names are borrowed from the body, and consecutive samples of
//! one metric are handed over together.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::{Format, format, parse, read};
use super::problem::URN;
use super::{App, Problem};
use crate::model::{PortError, Timestamp};
use crate::service::control::{Control, Ports};

/// One value of the metric in the path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Value {
    /// The value, in the metric's unit.
    value: f64,
    /// When it was so; now, when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// One value of any metric.
#[derive(Debug, Clone, PartialEq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct BulkSample<'a> {
    /// Whose metric.
    #[serde(borrow)]
    #[schema(value_type = String)]
    service: Cow<'a, str>,
    /// Which metric.
    #[serde(borrow)]
    #[schema(value_type = String)]
    metric: Cow<'a, str>,
    /// The value, in the metric's unit.
    value: f64,
    /// When it was so; now, when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// One value or several.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "only its schema is used: the body is told apart by its first character, for better errors"
)]
enum OneOrMoreValues {
    /// One.
    One(Value),
    /// Several, in order.
    More(Vec<Value>),
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pushed {
    /// How many samples were handed over.
    pub accepted: usize,
    /// What was refused.
    #[serde(default)]
    pub errors: Vec<Refused>,
}

/// Consecutive samples that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refused {
    /// The index of the first of them in the batch, from 0 (JSON lines: empty lines do not count).
    pub index: usize,
    /// How many.
    pub count: usize,
    /// The name of the error, as in problem documents.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wrong.
    pub detail: String,
}

impl Refused {
    fn new(index: usize, count: usize, slug: &str, detail: String) -> Self {
        Self { index, count, kind: format!("{URN}{slug}"), detail }
    }
}

/// Push values of one metric
///
/// One value or an array of them, each with its time or now. All or none.
#[utoipa::path(post, path = "/v1/services/{service}/metrics/{metric}/samples", tag = "samples",
    params(("service" = String, Path, description = "The service."),
           ("metric" = String, Path, description = "The metric; declared as `push`.")),
    request_body(content = OneOrMoreValues, content_type = "application/json"),
    responses((status = 200, body = Pushed)))]
pub(super) async fn push_samples(
    State(app): App,
    Path((service, metric)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Pushed>, Box<Problem>> {
    if format(&headers)? != Format::Json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "JSON lines go to `/v1/samples`; here send `content-type: application/json`",
        ));
    }
    let bytes = read(body, app.limits.body, app.limits.read).await?;
    let values: Vec<Value> = if starts_array(&bytes) { parse(&bytes)? } else { vec![parse(&bytes)?] };
    let values: Vec<_> = values.into_iter().map(|v| (v.value, v.at)).collect();
    let accepted = values.len();
    app.control.ports(&service)?.push(&metric, values).await?;
    Ok(Json(Pushed { accepted, errors: Vec::new() }))
}

fn starts_array(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[')
}

/// Push values of many metrics
///
/// A JSON array, or one object per line (`application/x-ndjson`). Consecutive samples of one metric are handed over together and in
/// order, so it is fastest to send them next to each other. What is refused is listed with its place in the batch, and the rest is
/// taken; an array that is no JSON, and a batch of which nothing was taken, is answered with a problem document.
#[utoipa::path(post, path = "/v1/samples", tag = "samples",
    request_body(content((Vec<BulkSample> = "application/json"), (String = "application/x-ndjson"))),
    responses((status = 200, body = Pushed)))]
pub(super) async fn push_bulk(
    State(app): App,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Pushed>, Box<Problem>> {
    let format = format(&headers)?;
    let bytes = read(body, app.limits.body, app.limits.read).await?;
    let (samples, mut errors) = match format {
        Format::Json => (parse::<Vec<BulkSample<'_>>>(&bytes)?.into_iter().enumerate().collect(), Vec::new()),
        Format::Lines => lines(&bytes),
    };
    let mut pushed = push_groups(app.control.as_ref(), &samples).await;
    pushed.errors.append(&mut errors);
    pushed.errors.sort_by_key(|e| e.index);
    match pushed.errors.first() {
        Some(first) if pushed.accepted == 0 => Err(nothing_taken(&first.clone(), pushed.errors)),
        _ => Ok(Json(pushed)),
    }
}

fn nothing_taken(first: &Refused, errors: Vec<Refused>) -> Box<Problem> {
    let detail = format!("no sample was accepted; the first error is: {}", first.detail);
    let mut problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-sample-accepted", detail);
    problem.errors = errors;
    problem
}

type Indexed<'a> = (usize, BulkSample<'a>);

fn lines(bytes: &[u8]) -> (Vec<Indexed<'_>>, Vec<Refused>) {
    let mut samples = Vec::with_capacity(bytes.len() / 64);
    let mut errors = Vec::new();
    let filled = bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
    for (index, line) in filled.enumerate() {
        match serde_json::from_slice(line) {
            Ok(sample) => samples.push((index, sample)),
            Err(e) => {
                let slug = if e.is_data() { "invalid" } else { "malformed-json" };
                errors.push(Refused::new(index, 1, slug, format!("line {}: {e}", index + 1)));
            }
        }
    }
    (samples, errors)
}

/// A service looked up once for consecutive groups.
type Found = Result<Arc<dyn Ports>, PortError>;

/// Hands over each run of samples of one metric with one call.
async fn push_groups(control: &dyn Control, samples: &[Indexed<'_>]) -> Pushed {
    let mut pushed = Pushed::default();
    let mut known: Option<(&str, Found)> = None;
    for group in samples.chunk_by(|(_, a), (_, b)| a.metric == b.metric && a.service == b.service) {
        let Some((index, first)) = group.first() else { continue };
        if known.as_ref().is_none_or(|(name, _)| *name != first.service) {
            known = Some((&first.service, control.ports(&first.service)));
        }
        let values = group.iter().map(|(_, s)| (s.value, s.at)).collect();
        let result = match &known {
            Some((_, Ok(ports))) => ports.push(&first.metric, values).await,
            Some((_, Err(error))) => Err(error.clone()),
            None => Ok(()),
        };
        match result {
            Ok(()) => pushed.accepted += group.len(),
            Err(e) => pushed.errors.push(Refused::new(*index, group.len(), e.slug(), e.to_string())),
        }
    }
    pushed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_borrowed_from_the_body() {
        let text = r#"[{"service":"A","metric":"cost","value":1.5,"at":"2026-11-22T00:00:00Z"}]"#;
        let samples: Vec<BulkSample<'_>> = serde_json::from_str(text).expect("samples");
        assert!(matches!(samples[0].service, Cow::Borrowed("A")));
        assert!(matches!(samples[0].metric, Cow::Borrowed("cost")));
        assert!(samples[0].at.is_some());
    }

    #[test]
    fn a_bad_line_does_not_spoil_the_others() {
        let text = b"{\"service\":\"A\",\"metric\":\"m\",\"value\":1}\n\nnonsense\n{\"service\":\"A\",\"metric\":\"m\",\"value\":2}\n";
        let (samples, errors) = lines(text);
        assert_eq!(samples.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(errors[0].index, 1);
        assert!(errors[0].kind.ends_with("malformed-json"));
    }

    proptest::proptest! {
        #[test]
        fn every_line_is_a_sample_or_an_error(parts in proptest::collection::vec("[ \\{\\}\"a-z:,0-9]{0,20}", 0..20)) {
            let mut text = parts.join("\n");
            text.push_str("\n{\"service\":\"A\",\"metric\":\"m\",\"value\":1}");
            let filled = text.lines().filter(|l| !l.trim().is_empty()).count();
            let (samples, errors) = lines(text.as_bytes());
            proptest::prop_assert_eq!(samples.len() + errors.len(), filled);
            proptest::prop_assert!(!samples.is_empty());
        }
    }

    #[test]
    fn a_value_that_is_no_number_is_refused() {
        for bad in
            [r#"{"value":null}"#, r#"{"value":"1"}"#, r#"{"value":1e999}"#, r#"{"value":1,"unit":"s"}"#]
        {
            assert!(serde_json::from_str::<Value>(bad).is_err(), "{bad}");
        }
    }
}
