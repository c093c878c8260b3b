//! The REST interface of the data analyzer (branch `modaclouds`): metrics as streams, rules as queries. Success is 200, and failure 500 with a
//! sentence as a JSON string, as there.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use serde_json::{Map, Value as Json, json};

use super::super::action::metric_problem;
use super::collectors::STREAMS;
use super::data::{self, unknown_stream};
use super::rules::{Catalog, Entry};
use super::{App, Refused, Tower, json_answer, lock, shortened};

/// The most streams that are opened by hand.
const MAX_OPENED: usize = 10_000;

/// Its routes.
pub(super) fn routes() -> Router<Arc<Tower>> {
    Router::new()
        .route("/streams", get(streams))
        .route("/streams/{*stream}", get(stream).post(data::feed).put(open).delete(close))
        .route("/queries", get(queries))
        .route("/queries/{name}", get(query).post(change).put(register).delete(remove))
        .route("/queries/{name}/observers", get(observers).post(observe))
        .route("/queries/{name}/observers/{id}", delete(forget))
}

/// A refusal as this interface says it.
struct Failure(Refused);

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self(refused)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(Refused { status, text }) = self;
        // What was asked of it is not its failure; everything else is said in one way.
        let status = match status {
            StatusCode::NOT_IMPLEMENTED | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                status
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        json_answer(status, Json::from(text).to_string())
    }
}

type Answer = Result<Response, Failure>;

fn ok(value: &Json) -> Response {
    json_answer(StatusCode::OK, value.to_string())
}

fn failed(text: impl Into<String>) -> Failure {
    Failure(Refused::failed(text))
}

fn iri(metric: &str) -> String {
    format!("{STREAMS}{metric}")
}

impl Tower {
    /// The metrics that have a stream.
    async fn streams(&self) -> std::collections::BTreeSet<Arc<str>> {
        let catalog = self.catalog().await;
        let mut all = lock(&self.opened).clone();
        all.extend(catalog.collected.iter().chain(catalog.emitted.keys()).cloned());
        all.extend(self.collectors.offers().keys().cloned());
        all
    }
}

/// `GET /streams`
async fn streams(State(tower): App) -> Response {
    let all = tower.streams().await;
    ok(&all.iter().map(|metric| json!({ "streamIRI": iri(metric) })).collect())
}

/// `GET /streams/{IRI}`
async fn stream(State(tower): App, Path(name): Path<String>) -> Response {
    match tower.stream(&name).await {
        Some(metric) => ok(&json!({ "streamIRI": iri(&metric) })),
        None => unknown_stream(),
    }
}

/// `PUT /streams/{IRI}`: takes data of a metric that no rule reads yet.
async fn open(State(tower): App, Path(name): Path<String>) -> Answer {
    let Some(metric) = name.strip_prefix(STREAMS) else {
        let given = shortened(&name);
        return Err(failed(format!("Streams are called {STREAMS} and the name of a metric, not {given}")));
    };
    if let Some(problem) = metric_problem(metric) {
        return Err(failed(format!("Of this there is no stream: {problem}")));
    }
    if tower.stream(&name).await.is_some() {
        return Err(failed(format!("The stream {} exists already", shortened(&name))));
    }
    {
        let mut opened = lock(&tower.opened);
        if opened.len() >= MAX_OPENED {
            return Err(failed(format!("There are {MAX_OPENED} streams without rules already")));
        }
        opened.insert(metric.into());
    }
    tower.keep(&format!("stream/{metric}"), Some(&json!({}))).await?;
    Ok(ok(&json!({ "streamIRI": iri(metric) })))
}

/// `DELETE /streams/{IRI}`: of one that was opened by hand; others go with who needs them.
async fn close(State(tower): App, Path(name): Path<String>) -> Answer {
    let Some(metric) = tower.stream(&name).await else { return Ok(unknown_stream()) };
    let opened = lock(&tower.opened).remove(&metric);
    if opened {
        tower.keep(&format!("stream/{metric}"), None).await?;
    }
    match opened || tower.stream(&name).await.is_none() {
        true => Ok(StatusCode::OK.into_response()),
        false => Err(failed(format!(
            "The stream of {} is there as long as a rule reads or makes its data or a collector offers them",
            shortened(&metric)
        ))),
    }
}

/// A rule, or the sentence that there is none.
fn known<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Entry, Failure> {
    catalog.rule(name).ok_or_else(|| failed(format!("The query {} does not exist", shortened(name))))
}

/// A rule as a query.
fn described(name: &str, entry: &Entry, on: bool) -> Json {
    json!({
        "id": name,
        "type": "STREAM",
        "status": if on { "RUNNING" } else { "PAUSED" },
        "streams": entry.reads().iter().map(|metric| iri(metric)).collect::<Vec<_>>(),
        "metrics": entry.emits,
    })
}

/// `GET /queries`
async fn queries(State(tower): App) -> Response {
    let catalog = tower.catalog().await;
    let enabled = tower.enabled(&catalog).await;
    let all = catalog.rules().filter_map(|(name, _)| {
        Some(described(name, catalog.rule(name)?, enabled.get(name).copied().unwrap_or(true)))
    });
    ok(&all.collect())
}

/// `GET /queries/{name}`
async fn query(State(tower): App, Path(name): Path<String>) -> Answer {
    let catalog = tower.catalog().await;
    let entry = known(&catalog, &name)?;
    Ok(ok(&described(&name, entry, tower.is_enabled(&name).await?)))
}

/// `PUT /queries/{name}`: C-SPARQL is not read here.
async fn register(State(_): App, Path(name): Path<String>) -> Failure {
    Failure(Refused::new(
        StatusCode::NOT_IMPLEMENTED,
        format!(
            "queries in C-SPARQL are not read here; install {} as a monitoring rule with POST /v1/monitoring-rules",
            shortened(&name)
        ),
    ))
}

/// `DELETE /queries/{name}`
async fn remove(State(tower): App, Path(name): Path<String>) -> Answer {
    known(&*tower.catalog().await, &name)?;
    tower.remove_rule(&name).await?;
    Ok(StatusCode::OK.into_response())
}

/// The fields of a form.
async fn form(tower: &Tower, body: Body) -> Result<Map<String, Json>, Failure> {
    let bytes = tower.read(body).await?;
    let fields = url::form_urlencoded::parse(&bytes);
    Ok(fields.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect())
}

/// `POST /queries/{name}` with `action=pause` or `action=restart`
async fn change(State(tower): App, Path(name): Path<String>, body: Body) -> Answer {
    let form = form(&tower, body).await?;
    let on = match form.get("action").and_then(Json::as_str) {
        Some("pause") => false,
        Some("restart") => true,
        other => {
            let given = shortened(other.unwrap_or_default());
            return Err(failed(format!("The action is `{given}`; expected action=pause or action=restart")));
        }
    };
    known(&*tower.catalog().await, &name)?;
    tower.switch_rule(&name, on).await?;
    Ok(StatusCode::OK.into_response())
}

/// The metric that the observers of a query are told.
fn told(entry: &Entry, name: &str) -> Result<Arc<str>, Failure> {
    match entry.emits.as_slice() {
        [metric] => Ok(metric.clone()),
        [] => Err(failed(format!(
            "The query {} puts out no metric, so that there is nothing to observe",
            shortened(name)
        ))),
        _ => Err(failed(format!(
            "The query {} puts out several metrics; observe one of them with POST /v1/metrics/METRIC/observers",
            shortened(name)
        ))),
    }
}

/// `GET /queries/{name}/observers`
async fn observers(State(tower): App, Path(name): Path<String>) -> Answer {
    let catalog = tower.catalog().await;
    let entry = known(&catalog, &name)?;
    let all = entry.emits.iter().flat_map(|metric| tower.observers.of(metric));
    Ok(ok(&all.map(|observer| observer.as_json()).collect()))
}

/// `POST /queries/{name}/observers`, as a form: `callbackUrl`, or `observerHost` and `observerPort`; `format`; `protocol`.
async fn observe(State(tower): App, Path(name): Path<String>, body: Body) -> Answer {
    let mut form = form(&tower, body).await?;
    let metric = told(known(&*tower.catalog().await, &name)?, &name)?;
    form.retain(|_, value| value != "");
    if let Some(port) = form.get_mut("observerPort") {
        let Some(number) = port.as_str().and_then(|port| port.trim().parse::<u16>().ok()) else {
            return Err(failed("The observerPort must be between 1 and 65535"));
        };
        *port = number.into();
    }
    let observer = tower.add_observer(&metric, Json::Object(form).to_string().as_bytes()).await?;
    Ok(ok(&observer.as_json()))
}

/// `DELETE /queries/{name}/observers/{id}`
async fn forget(State(tower): App, Path((name, id)): Path<(String, String)>) -> Answer {
    let catalog = tower.catalog().await;
    let entry = known(&catalog, &name)?;
    let metric = entry.emits.iter().find(|metric| tower.observers.of(metric).iter().any(|o| o.id == id));
    let Some(metric) = metric else {
        return Err(failed(format!("The observer {} does not exist", shortened(&id))));
    };
    tower.remove_observer(metric, &id).await?;
    Ok(StatusCode::OK.into_response())
}
