//! The probe container: one small process that runs any number of collectors, which sensors hand to it, and sends them what it measures.
//!
//! ```text
//! POST   /collectors   {"collector": {…OCCI…}, "output": "a", "sensor": "IP:PORT"}   201 {"name"}, or 200 when it runs already
//! GET    /collectors   what runs: [{"name", "collector", "output", "sensor"}]
//! GET    /collectors/{name}/value      {"id": "a", "value": 0.3, "time": "…"}        503 while nothing is measured
//! DELETE /collectors/{name}                                                          204
//! ```
//! A collector that no sensor has asked for in three minutes ends. Each is a managed service; what it measures goes out over one connection
//! per output, which is made again whenever it breaks: TCP, or with `"sensor": "ws://IP:PORT/"` a WebSocket. Without `sensor` nothing goes out;
//! it is asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::fault::{Fault, FaultKind};
use super::super::json;
use super::super::monitoring::provider::named;
use super::super::monitoring::translate::measuring;
use super::super::monitoring::{Provider, Providers, Settings};
use super::super::registry::{Extension, Registry};
use super::{plugins, why};
use crate::dialects::access::permitted;
use crate::model::ports::Metrics;
use crate::model::{Reading, Timestamp};
use crate::service::control::ChangeError;
use crate::service::handle::Handle;
use crate::service::supervisor::{Compiled, Supervisor};

/// How many collectors one probe runs.
pub const MOST: usize = 10_000;

/// A collector ends that has not been asked for in so long.
const EXPIRY: Duration = Duration::from_secs(180);

/// What a sensor asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    collector: Value,
    output: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sensor: Option<String>,
}

impl Order {
    /// That values go to addresses only, not to names that somebody else may give a meaning to.
    fn check(&self) -> Result<(), Fault> {
        let Some(sensor) = &self.sensor else { return Ok(()) };
        let bare = sensor.strip_prefix("ws://").map_or(sensor.as_str(), |rest| rest.trim_end_matches('/'));
        match bare.parse::<SocketAddr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::bad(format!(
                "`sensor` is `{}`; expected IP:PORT or ws://IP:PORT/",
                super::super::fault::shown(sensor)
            ))),
        }
    }
}

struct Running {
    order: Order,
    renewed: Timestamp,
}

/// What collectors may have.
#[derive(Clone)]
struct Offered {
    registry: Registry,
    providers: Providers,
}

/// A running probe.
pub struct Probe {
    supervisor: Arc<Supervisor>,
    offered: RwLock<Arc<Offered>>,
    settings: Settings,
    running: Mutex<BTreeMap<String, Running>>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

impl Probe {
    /// A probe that runs nothing yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a mixin of this server cannot be offered.
    pub fn new(supervisor: Arc<Supervisor>, settings: Settings) -> Result<Arc<Self>, Fault> {
        let mut providers = Providers::new(&settings.names);
        let mut registry = Registry::new(&Extension::ALL);
        providers.register(&mut registry)?;
        let mut folder = settings.plugins.as_deref().map(|dir| plugins::Folder::new(dir, &settings.names));
        if let Some(found) = folder.as_mut().and_then(plugins::Folder::look) {
            plugins::warn_of(&providers.plug(&mut registry, found).1);
        }
        let probe = Arc::new(Self {
            supervisor,
            offered: RwLock::new(Arc::new(Offered { registry, providers })),
            settings,
            running: Mutex::default(),
        });
        if let Some(folder) = folder {
            let watched = Arc::downgrade(&probe);
            tokio::spawn(plugins::watch(folder, move |found| {
                let probe = watched.upgrade();
                async move {
                    if let (Some(probe), Some(found)) = (&probe, found) {
                        probe.plug(found).await;
                    }
                    probe.is_some()
                }
            }));
        }
        let watched = Arc::downgrade(&probe);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EXPIRY / 6);
            loop {
                ticks.tick().await;
                let Some(probe) = watched.upgrade() else { return };
                probe.expire().await;
            }
        });
        Ok(probe)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self) -> Arc<Offered> {
        self.offered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Offers these plug-ins, and no others. Collectors with one that went or changed end; their sensors ask again, and hear why not.
    async fn plug(&self, found: Vec<Provider>) {
        let mut offered = Offered::clone(&self.offered());
        let (changed, problems) = offered.providers.plug(&mut offered.registry, found);
        plugins::warn_of(&problems);
        *self.offered.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(offered);
        let has = |order: &Order| {
            let mixins = order.collector["mixins"].as_array();
            let changed =
                |mixin: &Value| mixin.as_str().is_some_and(|id| changed.iter().any(|c| c.as_str() == id));
            mixins.is_some_and(|mixins| mixins.iter().any(changed))
        };
        let old: Vec<String> = {
            let running = self.running();
            running.iter().filter(|(_, r)| has(&r.order)).map(|(name, _)| name.clone()).collect()
        };
        if old.is_empty() {
            return;
        }
        for name in &old {
            tracing::info!(name, "a collector ends: its plug-in went or changed");
        }
        if let Err(why) = self.end(old).await {
            tracing::warn!(%why, "collectors did not end");
        }
    }

    /// Runs what a sensor asks for; answers its name, and whether it is new. Orders that wait at the same time begin to run together.
    async fn run(&self, order: Order) -> Result<(String, bool), Fault> {
        order.check()?;
        let offered = self.offered();
        let Offered { registry, providers } = &*offered;
        let mut draft = json::entity(&order.collector.to_string(), &|name| registry.holds_maps(name))?;
        registry.classify(&mut draft)?;
        // A mixin that is unknown here measures nothing; the sensor should know.
        let metric = self.settings.names.mixin("metric", "");
        if let Some(mixin) = draft.mixins.iter().find(|mixin| registry.lost(mixin, metric.scheme()).is_some())
        {
            return Err(Fault::bad(format!(
                "the mixin `{mixin}` is unknown here; is its plug-in in the folder of this probe?"
            )));
        }
        let id = draft.id.clone().ok_or_else(|| Fault::bad("the collector has no `id`"))?;
        let hash = blake3::hash(format!("{id}\n{}", order.output).as_bytes()).to_hex();
        let name = format!("collector-{}", &hash[..16]);
        let now = self.supervisor.now();
        if self.renewed(&name, &order, now) {
            return Ok((name, false));
        }
        let document = measuring(
            registry,
            providers,
            &self.settings,
            draft,
            &name,
            &order.output,
            order.sensor.as_deref(),
        )?;
        let compiled = Compiled::new(document).map_err(|refusal| Fault::bad(why(&refusal)))?;
        let (output, sensor) = (order.output.clone(), order.sensor.clone());
        let change = {
            let mut running = self.running();
            if running.len() >= MOST && !running.contains_key(&name) {
                return Err(Fault::new(FaultKind::TooLarge, format!("{MOST} collectors run here already")));
            }
            running.insert(name.clone(), Running { order: order.clone(), renewed: now });
            // In the order in which they are noted.
            self.supervisor.change_together(vec![(name.clone(), Some(compiled))])
        };
        if let Err(error) = change.await {
            let mut running = self.running();
            if running.get(&name).is_some_and(|known| known.order == order) {
                running.remove(&name);
            }
            return Err(refusal(error));
        }
        let sensor = sensor.as_deref().unwrap_or("asks");
        tracing::info!(collector = id, output, sensor, "a sensor has handed a collector over");
        Ok((name, true))
    }

    /// Notes that a sensor still wants what runs.
    fn renewed(&self, name: &str, order: &Order, now: Timestamp) -> bool {
        match self.running().get_mut(name).filter(|known| known.order == *order) {
            Some(known) => {
                known.renewed = now;
                true
            }
            None => false,
        }
    }

    /// The newest value of a collector, and when it was measured.
    async fn value(&self, name: &str) -> Result<Value, Fault> {
        let output = {
            let now = self.supervisor.now();
            let mut running = self.running();
            let known = running.get_mut(name).ok_or_else(|| unknown(name))?;
            known.renewed = now;
            known.order.output.clone()
        };
        let ports = Handle::new(self.supervisor.clone(), name);
        let reading = ports.get_metric(&named(&output), None).await;
        match reading.map_err(|why| Fault::new(FaultKind::Unavailable, why.to_string()))? {
            Reading::Fresh { value, at } => {
                Ok(serde_json::json!({ "id": output, "value": value, "time": at.to_string() }))
            }
            Reading::Stale { .. } => Err(Fault::new(FaultKind::Unavailable, "the last value is too old")),
            Reading::Missing { reason } => Err(Fault::new(FaultKind::Unavailable, reason.to_string())),
        }
    }

    async fn end(&self, names: Vec<String>) -> Result<(), Fault> {
        let change = {
            let mut running = self.running();
            if let Some(name) = names.iter().find(|name| !running.contains_key(*name)) {
                return Err(unknown(name));
            }
            names.iter().for_each(|name| drop(running.remove(name)));
            self.supervisor.change_together(names.into_iter().map(|name| (name, None)).collect())
        };
        change.await.map_err(refusal)
    }

    async fn expire(&self) {
        let now = self.supervisor.now();
        let old: Vec<String> = {
            let running = self.running();
            let old = running.iter().filter(|(_, r)| now.since(r.renewed) > EXPIRY);
            old.map(|(name, _)| name.clone()).collect()
        };
        if old.is_empty() {
            return;
        }
        for name in &old {
            tracing::info!(name, "a collector ends: no sensor asks for it");
        }
        if let Err(why) = self.end(old).await {
            tracing::warn!(%why, "collectors did not end");
        }
    }
}

fn refusal(error: ChangeError) -> Fault {
    match error {
        ChangeError::Refused(refusal) => Fault::bad(why(&refusal)),
        ChangeError::Port(error) => Fault::new(FaultKind::Unavailable, error.to_string()),
    }
}

fn unknown(name: &str) -> Fault {
    Fault::not_found(format!("no collector `{}` runs here", super::super::fault::shown(name)))
}

/// The control interface, where it listens at `address`.
pub fn router(probe: Arc<Probe>, address: IpAddr) -> Router {
    Router::new()
        .route("/collectors", get(list).post(run))
        .route("/collectors/{name}", delete(end))
        .route("/collectors/{name}/value", get(value))
        .with_state(probe)
        .layer(axum::middleware::from_fn_with_state(address.to_canonical().is_loopback(), guarded))
}

/// No page of others gives orders through a browser.
async fn guarded(State(local): State<bool>, request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    match permitted(local, changes, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => refused(&Fault::new(FaultKind::Forbidden, why)),
    }
}

fn refused(fault: &Fault) -> Response {
    let status = StatusCode::from_u16(fault.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{}\n", fault.text))
        .into_response()
}

async fn run(State(probe): State<Arc<Probe>>, body: String) -> Response {
    let order: Order = match serde_json::from_str(&body) {
        Ok(order) => order,
        Err(why) => {
            let expected = r#"expected {"collector": {…}, "output": "a", "sensor": "IP:PORT"} (or "ws://IP:PORT/", or none)"#;
            return refused(&Fault::bad(format!("{why}; {expected}")));
        }
    };
    // On its own: others may wait for what one request does, also when its client has gone.
    let done = tokio::spawn(async move { probe.run(order).await }).await;
    let lost = |_| Err(Fault::new(FaultKind::Internal, "the request was not carried out to its end"));
    match done.unwrap_or_else(lost) {
        Ok((name, new)) => {
            let status = if new { StatusCode::CREATED } else { StatusCode::OK };
            (status, Json(serde_json::json!({ "name": name }))).into_response()
        }
        Err(fault) => refused(&fault),
    }
}

async fn list(State(probe): State<Arc<Probe>>) -> Response {
    let running = probe.running();
    let all: Vec<Value> = running
        .iter()
        .map(|(name, r)| {
            serde_json::json!({ "name": name, "collector": r.order.collector, "output": r.order.output, "sensor": r.order.sensor })
        })
        .collect();
    Json(all).into_response()
}

async fn value(State(probe): State<Arc<Probe>>, Path(name): Path<String>) -> Response {
    match probe.value(&name).await {
        Ok(value) => Json(value).into_response(),
        Err(fault) => refused(&fault),
    }
}

/// Who ends a collector may say to whom it sends what it measures: handed over anew since then, it goes on.
#[derive(Deserialize)]
struct Ending {
    sensor: Option<String>,
}

async fn end(
    State(probe): State<Arc<Probe>>,
    Path(name): Path<String>,
    Query(ending): Query<Ending>,
) -> Response {
    let other = ending.sensor.is_some_and(|sensor| {
        probe.running().get(&name).is_some_and(|known| known.order.sensor.as_ref() != Some(&sensor))
    });
    if other {
        return refused(&Fault::conflict("the collector sends to another sensor now"));
    }
    let done = tokio::spawn(async move { probe.end(vec![name]).await }).await;
    match done.unwrap_or_else(|_| {
        Err(Fault::new(FaultKind::Internal, "the request was not carried out to its end"))
    }) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(fault) => refused(&fault),
    }
}
