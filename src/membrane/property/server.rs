//! The management listener: properties, methods and subscriptions over HTTP. No request of a client of the service comes here (R3-20).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures::{Stream, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::channel::Topology;
use super::hybrid::Tolerance;
use super::timing::When;
use super::{Begun, Counters, Manager, Notification, Property, PropertyError, Wish};
use crate::model::HumanDuration;
use crate::model::endpoint::is_loopback;
use crate::model::manage::SubscriptionMode;

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
    let router = router.layer(axum::middleware::from_fn(from_here));
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
        .route("/_mon", get(components))
        .route("/_mon/properties", get(list))
        .route("/_mon/properties/{name}", get(value).put(set))
        .route("/_mon/properties/{name}/subscriptions", get(subscriptions).post(subscribe))
        .route("/_mon/properties/{name}/subscriptions/{id}", delete(unsubscribe))
        .route("/_mon/properties/{name}/events", get(events))
        .route("/_mon/properties/{name}/changed", post(changed))
        .route("/_mon/events", get(all_events))
        .route("/_mon/methods", get(methods))
        .route("/_mon/invoke/{name}", post(invoke))
        .with_state(manager)
}

async fn components(State(manager): State<Now>) -> Response {
    Json(manager.load_full().components()).into_response()
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

/// The service says that a property changed, with the value, or with nothing.
async fn changed(
    State(manager): State<Now>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let manager = manager.load_full();
    manager.subscribes(Some(SubscriptionMode::Change))?;
    let property = manager.property(&name)?.clone();
    let Some(webhook) = property.spec.webhook.clone() else {
        return Err(PropertyError::NoWebhook(name).into());
    };
    let message = match headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0")
        || !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING)
    {
        true => None,
        false => Some(read::<Value>(&headers, body).await?),
    };
    let work = async move {
        let asked = property.told(message, &webhook.pointer).await;
        Ok((StatusCode::ACCEPTED, Json(json!({ "property": &*property.name, "asked": asked })))
            .into_response())
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
    Hybrid,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    mode: ModeName,
    interval: Option<HumanDuration>,
    tolerance: Option<Tolerance>,
    start: Option<HumanDuration>,
    duration: Option<HumanDuration>,
    callback: Option<String>,
    channel: Option<Topology>,
}

impl ModeName {
    fn needs(self) -> SubscriptionMode {
        match self {
            Self::Interval => SubscriptionMode::Interval,
            Self::Change | Self::Hybrid => SubscriptionMode::Change,
        }
    }
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
            (ModeName::Change | ModeName::Hybrid, Some(_)) => {
                return invalid("`interval` goes with `mode: interval`");
            }
            (ModeName::Change, None) => When::Change,
            (ModeName::Hybrid, None) => match self.tolerance {
                Some(tolerance) => When::Within(tolerance),
                None => return invalid("`mode: hybrid` needs `tolerance`, such as 5% or 0.5"),
            },
        };
        if self.tolerance.is_some() && self.mode != ModeName::Hybrid {
            return invalid("`tolerance` goes with `mode: hybrid`");
        }
        let start = self.start.map_or(Duration::ZERO, |start| start.0);
        let duration = self.duration.map(|d| d.0);
        Ok(Wish { when, start, duration, callback: self.callback, channel: self.channel })
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
    manager.subscribes(None)?;
    let how = read::<How>(&headers, body).await?;
    manager.subscribes(Some(how.mode.needs()))?;
    let wish = how.wish()?;
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
        let begun = property.subscribe(wish).await?;
        let place = format!("/_mon/properties/{}/subscriptions/{}", property.name, begun.id);
        let answer = shown(&property, &begun);
        Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(answer)).into_response())
    };
    Ok(finish(work).await?)
}

/// What a subscriber learns at once.
fn shown(property: &Property, begun: &Begun) -> Value {
    let mut shown = json!({ "id": begun.id, "property": &*property.name });
    if let Some(detection) = begun.detection {
        shown["detection"] = json!(detection);
        shown["value"] = json!(begun.value);
        if let Some(why) = &begun.trouble {
            shown["error"] = (&**why).into();
        }
    }
    shown
}

async fn events(
    State(manager): State<Now>,
    Path(name): Path<String>,
    how: Result<Query<How>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let manager = manager.load_full();
    let property = manager.property(&name)?;
    manager.subscribes(None)?;
    let Query(how) = how.map_err(|e| PropertyError::Invalid(e.body_text()))?;
    manager.subscribes(Some(how.mode.needs()))?;
    let wish = how.wish()?;
    if wish.callback.is_some() || wish.channel.is_some() {
        let why = format!(
            "`callback` goes with POST /_mon/properties/{name}/subscriptions, `channel` with that and with GET /_mon/events"
        );
        return Err(PropertyError::Invalid(why));
    }
    let begun = property.subscribe(wish).await?;
    let first = sent("subscribed", &shown(property, &begun));
    Ok(stream(first, ReceiverStream::new(begun.notifications)))
}

/// Every property of the service, or with `channel=shared` of all services, over one connection.
async fn all_events(
    State(manager): State<Now>,
    how: Result<Query<How>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let manager = manager.load_full();
    manager.subscribes(None)?;
    let Query(how) = how.map_err(|e| PropertyError::Invalid(e.body_text()))?;
    let needs = how.mode.needs();
    manager.subscribes(Some(needs))?;
    let wish = how.wish()?;
    if wish.callback.is_some() {
        return Err(PropertyError::Invalid("`callback` goes with subscriptions to a single property".into()));
    }
    let managers = match wish.channel {
        None | Some(Topology::Own) => vec![manager],
        Some(Topology::Shared) => manager.shared.hub.managers(),
    };
    let (mut begun, mut streams) = (Vec::new(), Vec::new());
    let suits = |property: &&Arc<Property>| match wish.when {
        When::Every(_) => true,
        When::Change => !property.is_constant(),
        When::Within(_) => !property.is_constant() && property.is_number(),
    };
    for property in managers
        .iter()
        .filter(|m| m.subscribes(Some(needs)).is_ok())
        .flat_map(|m| m.properties.values())
        .filter(suits)
    {
        let subscription = property.subscribe(wish.clone()).await?;
        let mut shown = shown(property, &subscription);
        shown["service"] = (&*property.service).into();
        begun.push(shown);
        streams.push(ReceiverStream::new(subscription.notifications));
    }
    let first = sent("subscribed", &json!({ "subscriptions": begun }));
    Ok(stream(first, futures::stream::select_all(streams)))
}

fn stream(first: Event, told: impl Stream<Item = Notification> + Send + 'static) -> Response {
    let end = futures::stream::iter([Event::default().event("end").data("{}")]);
    let told = told.map(|notification| sent("value", &notification));
    let all = futures::stream::iter([first]).chain(told).chain(end).map(Ok::<_, Infallible>);
    Sse::new(all).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn sent<T: serde::Serialize>(name: &str, data: &T) -> Event {
    Event::default()
        .event(name)
        .json_data(data)
        .unwrap_or_else(|_| Event::default().comment("not serialisable"))
}

async fn subscriptions(State(manager): State<Now>, Path(name): Path<String>) -> Answer {
    let manager = manager.load_full();
    manager.subscribes(None)?;
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
            if let Some(way) = s.way {
                shown["way"] = json!(way);
            }
            if s.listens() {
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
    manager.subscribes(None)?;
    match manager.property(&name)?.end(id) {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(PropertyError::NoSuchSubscription(name, id)),
    }
}

/// A web page could reach this port through the browser of someone here: a name that resolves to 127.0.0.1 makes it the page's own origin
/// (DNS rebinding). So the host must be this machine by name, and so must the origin, if there is one.
async fn from_here(request: Request, next: Next) -> Response {
    match stranger(&request) {
        Some(stranger) => {
            let detail = format!(
                "the request is for, or from, `{stranger}`; only loopback names such as `localhost` are served here"
            );
            problem(StatusCode::FORBIDDEN, "forbidden", &detail, None)
        }
        None => next.run(request).await,
    }
}

/// The host or the origin of a request, when that is not this machine.
fn stranger(request: &Request) -> Option<String> {
    let text = |name| request.headers().get(name).map(|v: &HeaderValue| v.to_str().unwrap_or("?"));
    let host = request.uri().authority().map(|a| a.as_str()).or_else(|| text(header::HOST));
    let origin = text(header::ORIGIN).map(|o| o.split_once("://").map_or(o, |(_, rest)| rest));
    host.into_iter().chain(origin).find(|name| !is_loopback(name)).map(str::to_string)
}

async fn no_route(uri: Uri) -> Response {
    let detail = format!(
        "there is no `{}` here; `/_mon`, `/_mon/properties` and `/_mon/methods` list what there is",
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
            Self::NoSuchComponent(_) => (StatusCode::NOT_FOUND, "no-such-component"),
            Self::NotSettable(_) => (StatusCode::CONFLICT, "not-settable"),
            Self::NoWebhook(_) => (StatusCode::CONFLICT, "no-webhook"),
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
