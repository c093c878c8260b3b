//! The management listener: properties, methods and subscriptions over HTTP. No request of a client of the service comes here (R3-20).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::timing::When;
use super::{Counters, Manager, Property, PropertyError, Wish};
use crate::model::HumanDuration;

/// The largest body, bytes.
const LARGEST: usize = 1 << 20;

/// How long a client may take for the head of a request, and for its body.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is offered at present.
#[derive(Clone)]
pub(in crate::membrane) struct Now(Arc<dyn Fn() -> Arc<Manager> + Send + Sync>);

impl Now {
    pub(in crate::membrane) fn new(find: impl Fn() -> Arc<Manager> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    fn load_full(&self) -> Arc<Manager> {
        (self.0)()
    }
}

type Answer = Result<Response, PropertyError>;

/// Serves one connection, until the listener closes.
pub(in crate::membrane) async fn serve(client: TcpStream, manager: Now, closed: CancellationToken) {
    let router = routes(manager).fallback(no_route).method_not_allowed_fallback(wrong_method);
    let service = TowerToHyperService::new(router);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(client), service);
    let result = tokio::select! {
        result = &mut connection => result,
        () = closed.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection of a manager ended early");
    }
}

/// The routes of the listener, without what answers to others: a listener with routes of its own can have these too.
pub(in crate::membrane) fn routes(manager: Now) -> Router {
    Router::new()
        .route("/_mon/properties", get(list))
        .route("/_mon/properties/{name}", get(value).put(set))
        .route("/_mon/properties/{name}/subscriptions", get(subscriptions).post(subscribe))
        .route("/_mon/properties/{name}/subscriptions/{id}", delete(unsubscribe))
        .route("/_mon/properties/{name}/events", get(events))
        .route("/_mon/methods", get(methods))
        .route("/_mon/invoke/{name}", post(invoke))
        .with_state(manager)
}

async fn list(State(manager): State<Now>) -> Answer {
    let manager = manager.load_full();
    let all = manager.properties.values().map(|property| async {
        let mut shown = described(property);
        match property.read().await {
            Ok(value) => shown.insert("value".into(), value),
            Err(why) => shown.insert("error".into(), why.to_string().into()),
        };
        Value::Object(shown)
    });
    let properties = futures::future::join_all(all).await;
    Ok(Json(json!({ "service": &*manager.service, "properties": properties })).into_response())
}

/// Name, type, and whether it can be set: all that an observer needs to know (R4-06).
fn described(property: &Property) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("name".into(), (&*property.name).into());
    shown.insert("type".into(), property.spec.kind.word().into());
    shown.insert("settable".into(), property.spec.settable.into());
    if let Some(description) = &property.spec.description {
        shown.insert("description".into(), description.as_str().into());
    }
    shown
}

async fn value(State(manager): State<Now>, Path(name): Path<String>) -> Answer {
    let manager = manager.load_full();
    let property = manager.property(&name)?;
    let mut shown = described(property);
    shown.insert("value".into(), property.read().await?);
    Ok(Json(shown).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewValue {
    #[serde(deserialize_with = "present")]
    value: Value,
}

/// A value that is there, though it be null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Value::deserialize(deserializer)
}

async fn set(
    State(manager): State<Now>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let manager = manager.load_full();
    let property = manager.property(&name)?.clone();
    let NewValue { value } = read(&headers, body).await?;
    // To the end, though the client goes away: nothing is set by half.
    let work = async move {
        property.set(value.clone()).await?;
        let mut shown = described(&property);
        shown.insert("value".into(), value);
        Ok::<_, PropertyError>(Json(shown).into_response())
    };
    Ok(finish(work).await?)
}

async fn finish(work: impl Future<Output = Answer> + Send + 'static) -> Answer {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) => Err(PropertyError::Failed(format!("the work was cut off: {error}"))),
    }
}

async fn methods(State(manager): State<Now>) -> Response {
    let manager = manager.load_full();
    let methods: Vec<Value> = manager
        .methods
        .iter()
        .map(|(name, spec)| {
            let mut shown = json!({ "name": &**name, "params": spec.params });
            if let Some(description) = &spec.description {
                shown["description"] = description.as_str().into();
            }
            shown
        })
        .collect();
    Json(json!({ "service": &*manager.service, "methods": methods })).into_response()
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default)]
    params: Value,
}

async fn invoke(
    State(manager): State<Now>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let manager = manager.load_full();
    if !manager.methods.contains_key(&*name) {
        return Err(PropertyError::NoSuchMethod(name).into());
    }
    let Parameters { params } = read(&headers, body).await?;
    let work = async move {
        let result = manager.invoke(&name, params).await?;
        Ok(Json(json!({ "result": result })).into_response())
    };
    Ok(finish(work).await?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeName {
    Interval,
    Change,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    mode: ModeName,
    interval: Option<HumanDuration>,
    start: Option<HumanDuration>,
    duration: Option<HumanDuration>,
    callback: Option<String>,
}

impl How {
    fn wish(self) -> Result<Wish, PropertyError> {
        let invalid = |why: &str| Err(PropertyError::Invalid(why.into()));
        let when = match (self.mode, self.interval) {
            (ModeName::Interval, Some(interval)) if interval.0 >= Duration::from_millis(1) => {
                When::Every(interval.0)
            }
            (ModeName::Interval, Some(_)) => return invalid("`interval` must be 1ms or longer"),
            (ModeName::Interval, None) => return invalid("`mode: interval` needs `interval`, such as 2s"),
            (ModeName::Change, Some(_)) => return invalid("`interval` goes with `mode: interval`"),
            (ModeName::Change, None) => When::Change,
        };
        let start = self.start.map_or(Duration::ZERO, |start| start.0);
        Ok(Wish { when, start, duration: self.duration.map(|d| d.0), callback: self.callback })
    }
}

async fn subscribe(
    State(manager): State<Now>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let manager = manager.load_full();
    let property = manager.property(&name)?.clone();
    let wish = read::<How>(&headers, body).await?.wish()?;
    let Some(callback) = &wish.callback else {
        let why = format!("`callback` is missing; without one, GET /_mon/properties/{name}/events");
        return Err(PropertyError::Invalid(why).into());
    };
    let address =
        url::Url::parse(callback).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    if address.is_none() {
        return Err(PropertyError::Invalid(format!("`{callback}` is no URL that can be called back")).into());
    }
    let work = async move {
        let (id, detection, _) = property.subscribe(wish).await?;
        let place = format!("/_mon/properties/{}/subscriptions/{id}", property.name);
        let mut answer = json!({ "id": id, "property": &*property.name });
        if let Some(detection) = detection {
            answer["detection"] = json!(detection);
        }
        Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(answer)).into_response())
    };
    Ok(finish(work).await?)
}

async fn events(
    State(manager): State<Now>,
    Path(name): Path<String>,
    how: Result<Query<How>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let manager = manager.load_full();
    let property = manager.property(&name)?;
    let Query(how) = how.map_err(|e| PropertyError::Invalid(e.body_text()))?;
    let wish = how.wish()?;
    if wish.callback.is_some() {
        let why = format!("`callback` goes with POST /_mon/properties/{name}/subscriptions");
        return Err(PropertyError::Invalid(why));
    }
    let (id, detection, notifications) = property.subscribe(wish).await?;
    let begun = json!({ "id": id, "property": &*property.name, "detection": detection });
    let begun = futures::stream::iter([sent("subscribed", &begun)]);
    let told = tokio_stream::wrappers::ReceiverStream::new(notifications).map(|n| sent("value", &n));
    let end = futures::stream::iter([Event::default().event("end").data("{}")]);
    let all = begun.chain(told).chain(end).map(Ok::<_, Infallible>);
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn sent<T: serde::Serialize>(name: &str, data: &T) -> Event {
    Event::default()
        .event(name)
        .json_data(data)
        .unwrap_or_else(|_| Event::default().comment("not serialisable"))
}

async fn subscriptions(State(manager): State<Now>, Path(name): Path<String>) -> Answer {
    let manager = manager.load_full();
    let property = manager.property(&name)?;
    let state = property.subscriptions();
    let all: Vec<Value> = state
        .all
        .iter()
        .map(|(id, s)| {
            let mut shown = json!({ "id": id, "mode": s.mode });
            if let Some(callback) = &s.callback {
                shown["callback"] = callback.as_str().into();
            }
            if s.changes.is_some() {
                shown["detection"] = json!(state.detector.as_ref().map(|(how, _)| how));
            }
            counted(&mut shown, &s.counters);
            shown
        })
        .collect();
    let mut answer = json!({ "subscriptions": all });
    // Of those that are over, too.
    counted(&mut answer, &property.counters);
    Ok(Json(answer).into_response())
}

fn counted(shown: &mut Value, counters: &Counters) {
    let numbers = [
        ("delivered", &counters.delivered),
        ("retried", &counters.retried),
        ("dropped", &counters.dropped),
        ("missed", &counters.missed),
    ];
    for (name, number) in numbers {
        shown[name] = number.load(std::sync::atomic::Ordering::Relaxed).into();
    }
}

async fn unsubscribe(State(manager): State<Now>, Path((name, id)): Path<(String, u64)>) -> Answer {
    let manager = manager.load_full();
    match manager.property(&name)?.end(id) {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(PropertyError::NoSuchSubscription(name, id)),
    }
}

async fn no_route(uri: Uri) -> Response {
    let detail = format!(
        "there is no `{}` here; `/_mon/properties` and `/_mon/methods` list what there is",
        uri.path()
    );
    problem(StatusCode::NOT_FOUND, "no-such-route", &detail, None)
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let detail = format!("`{}` does not take {method}", uri.path());
    problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &detail, None)
}

/// What a request is refused with.
enum Refused {
    Property(PropertyError),
    Body(StatusCode, &'static str, String),
}

impl From<PropertyError> for Refused {
    fn from(error: PropertyError) -> Self {
        Self::Property(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Property(error) => error.into_response(),
            Self::Body(status, slug, detail) => problem(status, slug, &detail, None),
        }
    }
}

/// Reads a JSON body; none at all is an empty object.
async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Refused> {
    let bytes = match tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, LARGEST)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let why = format!("the body broke off, or is longer than {LARGEST} bytes: {error}");
            return Err(Refused::Body(StatusCode::PAYLOAD_TOO_LARGE, "too-large", why));
        }
        Err(_) => {
            let why = format!("the body did not arrive within {} s", PATIENCE.as_secs());
            return Err(Refused::Body(StatusCode::REQUEST_TIMEOUT, "slow-request", why));
        }
    };
    // A page of a stranger cannot send this type without being asked for leave, so it cannot make a browser on this machine set anything.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let why = "send `content-type: application/json`".to_string();
        return Err(Refused::Body(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", why));
    }
    let bytes = if bytes.is_empty() { &b"{}"[..] } else { &bytes[..] };
    serde_json::from_slice(bytes).map_err(|error| {
        let slug = if error.is_data() { "invalid" } else { "malformed-json" };
        Refused::Body(StatusCode::BAD_REQUEST, slug, format!("the body is not acceptable: {error}"))
    })
}

impl IntoResponse for PropertyError {
    fn into_response(self) -> Response {
        let (status, slug) = match &self {
            Self::NoSuchProperty(_) => (StatusCode::NOT_FOUND, "no-such-property"),
            Self::NoSuchMethod(_) => (StatusCode::NOT_FOUND, "no-such-method"),
            Self::NoSuchSubscription(..) => (StatusCode::NOT_FOUND, "no-such-subscription"),
            Self::NotSettable(_) => (StatusCode::CONFLICT, "not-settable"),
            Self::WrongType(_) => (StatusCode::UNPROCESSABLE_ENTITY, "wrong-type"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too-many-subscriptions"),
            Self::Failed(_) => (StatusCode::BAD_GATEWAY, "unavailable"),
            Self::Timeout(..) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Self::Answered { .. } => (StatusCode::BAD_GATEWAY, "refused-by-service"),
        };
        let detail = self.to_string();
        let cause = match self {
            Self::Answered { status, body, .. } => Some(json!({ "status": status, "body": body })),
            _ => None,
        };
        problem(status, slug, &detail, cause)
    }
}

/// A problem document (RFC 9457), as the API writes them; `cause` is what the service itself answered.
fn problem(status: StatusCode, slug: &str, detail: &str, cause: Option<Value>) -> Response {
    let mut document = json!({
        "type": format!("urn:homeostat:error:{slug}"),
        "title": status.canonical_reason().unwrap_or("error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    if let Some(cause) = cause {
        document["cause"] = cause;
    }
    (status, [(header::CONTENT_TYPE, "application/problem+json")], document.to_string()).into_response()
}
