//! The server: what collectors, observers and operators of Tower 4Clouds talk to, on a listener of its own. It reads, writes and translates;
//! rules run as policies, data go to the shards, and results come from them.
//!
//! Reading order: [`router`] here, `access` (who may), `rules`, `collectors` (who sends, and what), `model` (what there is), `data` (what comes),
//! `observers` (who is told) with `formats` (how), `analyzer` (the same as streams and queries), `pages` (for people).

mod access;
mod analyzer;
mod collectors;
mod data;
mod formats;
mod model;
mod observers;
mod pages;
mod rules;

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio_util::sync::CancellationToken;

use crate::dialects::access::uuid as new_id;
use crate::knowledge::store::StoreError;
use crate::model::{PortError, Timestamp};
use crate::service::supervisor::Supervisor;

use collectors::Collectors;
pub use collectors::WAIT;
pub(super) use collectors::encoded;
use model::Registry;
pub(super) use model::written;
use observers::Observers;
use rules::Catalog;

/// The longest body, in bytes.
pub const MAX_BODY: usize = 16 << 20;
/// The longest id of a resource, a collector or an observer, in bytes.
pub const MAX_ID: usize = 512;
/// Under which name the record keeps what outlives the server; no service can be called so.
const KEPT: &str = "(tower)";

/// What a server is started with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often it looks for collectors and resources that have expired.
    pub check: Duration,
    /// How long a client may take for a whole body.
    pub read: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { check: Duration::from_secs(60), read: Duration::from_secs(15) }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The record cannot be read.
    #[error("the record cannot be read")]
    Store(#[from] StoreError),
    /// What observers are told with cannot be built.
    #[error("the HTTP client cannot be built")]
    Client(#[from] reqwest::Error),
    /// The daemon is stopping.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A running server.
pub struct Tower {
    supervisor: Arc<Supervisor>,
    /// Where it listens.
    address: SocketAddr,
    settings: Settings,
    catalog: Mutex<Arc<Catalog>>,
    /// One change of the rules at a time, from reading to applying.
    installing: tokio::sync::Mutex<()>,
    collectors: Collectors,
    registry: tokio::sync::Mutex<Registry>,
    observers: Arc<Observers>,
    /// Metrics whose streams were opened by hand, whether a rule reads them or not.
    opened: Mutex<BTreeSet<Arc<str>>>,
    counters: Counters,
    stop: CancellationToken,
}

/// What the server counted since it started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Requests that carried data.
    pub batches: AtomicU64,
    /// Their length, in bytes.
    pub bytes: AtomicU64,
    /// Data that were taken.
    pub taken: AtomicU64,
    /// Data that nobody needs now.
    pub unwanted: AtomicU64,
    /// Data that say nothing usable: no number, no resource, another metric, a time that is too far from now.
    pub refused: AtomicU64,
    /// Data of resources that no collector has registered for the metric.
    pub strangers: AtomicU64,
    /// Requests with data of streams that there are not.
    pub unknown: AtomicU64,
    /// Requests that were not understood.
    pub malformed: AtomicU64,
    /// When the log said last that a stream is unknown, in seconds since 1970.
    pub warned: AtomicI64,
}

fn count(counter: &AtomicU64, by: u64) {
    if by > 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

impl Tower {
    /// Brings back what an earlier run kept (resources that were added by hand, observers), and begins. Rules are policies: they run already.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the record cannot be read, or the daemon is stopping.
    pub async fn start(
        supervisor: Arc<Supervisor>,
        address: SocketAddr,
        settings: Settings,
    ) -> Result<Arc<Self>, StartError> {
        let stop = CancellationToken::new();
        let observers = Arc::new(Observers::new(stop.clone())?);
        let tower = Arc::new(Self {
            supervisor,
            address,
            settings,
            catalog: Mutex::default(),
            installing: tokio::sync::Mutex::default(),
            collectors: Collectors::default(),
            registry: tokio::sync::Mutex::default(),
            observers: observers.clone(),
            opened: Mutex::default(),
            counters: Counters::default(),
            stop,
        });
        let kept = tower.supervisor.shell().store().all_knowledge().await?;
        tower.restore(kept.into_iter().find(|(name, _)| name == KEPT).unwrap_or_default().1).await?;
        tower
            .supervisor
            .shell()
            .collection()
            .observe(Box::new(move |metric, data| observers.tell(metric, data)));
        let counting = Arc::downgrade(&tower);
        tower
            .supervisor
            .count_in(Box::new(move || counting.upgrade().map(|tower| tower.figures()).unwrap_or_default()));
        let checking = Arc::downgrade(&tower);
        let stopped = tower.stop.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(settings.check.max(Duration::from_millis(10)));
            ticks.tick().await;
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let Some(tower) = checking.upgrade() else { return };
                if tower.expire().await.is_err() {
                    return;
                }
            }
        });
        Ok(tower)
    }

    async fn restore(
        &self,
        kept: std::collections::BTreeMap<String, serde_json::Value>,
    ) -> Result<(), PortError> {
        let mut resources = Vec::new();
        for (key, value) in kept {
            let understood = match key.split_once('/') {
                Some(("resource", _)) => model::restore(value).map(|resource| resources.push(resource)),
                Some(("observer", id)) => self.observers.restore(id, value),
                Some(("stream", metric)) => {
                    lock(&self.opened).insert(metric.into());
                    Ok(())
                }
                _ => Err("nothing is kept under such a name".into()),
            };
            if let Err(why) = understood {
                tracing::warn!(key, why, "what was kept is not understood any more");
            }
        }
        let changes = self.registry.lock().await.add(resources, true, self.now());
        self.supervisor.register(changes).await
    }

    /// Keeps something over a restart, or keeps it no more.
    async fn keep(&self, key: &str, value: Option<&serde_json::Value>) -> Result<(), Refused> {
        let kept = self.supervisor.shell().store().knowledge(KEPT, key, value).await;
        kept.map_err(|e| Refused::failed(format!("it holds, but could not be recorded: {e}")))
    }

    /// Ends what waits: long polls, deliveries.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn now(&self) -> Timestamp {
        self.supervisor.now()
    }
}

/// Why a request was not carried out: a status and a sentence, as plain text like the original's.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn missing(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("The {what} {} does not exist", shortened(id)))
    }

    fn failed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

impl From<PortError> for Refused {
    fn from(error: PortError) -> Self {
        let status = match &error {
            PortError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, self.text).into_response()
    }
}

/// A JSON object: where one is meant, a list of its values in some order is not.
#[derive(Debug)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_any(Only(PhantomData))
    }
}

/// The objects of a list.
fn objects<T>(list: Vec<Object<T>>) -> Vec<T> {
    list.into_iter().map(|Object(one)| one).collect()
}

/// What is said of something in an error: not all of what a stranger sent.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

type Answer = Result<Response, Refused>;
type App = State<Arc<Tower>>;

fn json_answer(status: StatusCode, text: impl Into<Body>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json; charset=UTF-8")];
    (status, kind, text.into()).into_response()
}

/// Closes the connection instead of an answer: who cannot be answered now and would not ask again after a bad answer does after none.
fn hang_up() -> Response {
    let over = || std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "closed without an answer");
    let broken = futures::stream::once(async move { Err::<axum::body::Bytes, _>(over()) });
    (StatusCode::SERVICE_UNAVAILABLE, Body::from_stream(broken)).into_response()
}

fn json(value: &impl serde::Serialize) -> Answer {
    let text = serde_json::to_vec(value).map_err(|e| Refused::failed(e.to_string()))?;
    Ok(json_answer(StatusCode::OK, text))
}

impl Tower {
    /// Reads a whole body within the limits.
    async fn read(&self, body: Body) -> Result<Vec<u8>, Refused> {
        let time = self.settings.read;
        let read = tokio::time::timeout(time, collect(body)).await;
        read.unwrap_or_else(|_| {
            let late = format!("the body did not arrive within {} s", time.as_secs_f64());
            Err(Refused::new(StatusCode::REQUEST_TIMEOUT, late))
        })
    }
}

async fn collect(body: Body) -> Result<Vec<u8>, Refused> {
    let too_large = || {
        let text = format!("the body is longer than {MAX_BODY} bytes; send it in parts");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let announced = axum::body::HttpBody::size_hint(&body).lower();
    if announced > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| Refused::bad(format!("the body broke off: {e}")))?;
        if bytes.is_empty() {
            // What is announced is not believed before something of it has come.
            bytes.reserve(usize::try_from(announced).unwrap_or(0).max(chunk.len()));
        }
        if bytes.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Every route of the server.
pub fn router(tower: Arc<Tower>) -> Router {
    let v1 = Router::new()
        .route("/monitoring-rules", get(rules::list).post(rules::install))
        .route("/monitoring-rules/{id}", get(rules::switch).delete(rules::remove))
        .route("/monitoring-rules/{id}/actions", post(data::act))
        .route("/metrics", get(rules::metrics))
        .route("/required-metrics", get(rules::required))
        .route("/metrics/{metric}/observers", get(observers::list).post(observers::add))
        .route("/metrics/{metric}/observers/{id}", axum::routing::delete(observers::remove))
        .route("/resources", get(model::list).post(model::merge).put(model::replace))
        .route("/resources/{id}", get(model::one).delete(model::remove))
        .route("/model/resources", get(model::grouped).post(model::merge).put(model::replace))
        .route("/model/resources/{id}", get(model::one).delete(model::remove))
        .route("/data-collectors", get(collectors::list).post(collectors::register))
        .route(
            "/data-collectors/{id}",
            get(collectors::one).put(collectors::register_again).delete(collectors::remove),
        )
        .route("/data-collectors/{id}/keepalive", get(collectors::keep_alive))
        .route("/data-collectors/{id}/configuration", get(collectors::configuration));
    Router::new()
        .nest("/v1", v1)
        .merge(analyzer::routes())
        .route("/metrics", get(pages::exposition))
        .merge(pages::routes())
        .fallback(|| async { Refused::new(StatusCode::NOT_FOUND, "there is nothing here; see /webapp/") })
        .method_not_allowed_fallback(|| async {
            Refused::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this cannot be done here; the header `allow` says what can",
            )
        })
        .layer(from_fn_with_state(tower.clone(), access::admit))
        .layer(from_fn(access::no_store))
        .layer(DefaultBodyLimit::disable())
        .with_state(tower)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
