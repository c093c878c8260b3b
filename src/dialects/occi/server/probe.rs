//! The probe container: one small process that runs any number of collectors, which sensors hand to it, and sends them what it measures.
//!
//! ```text
//! POST   /collectors   {"collector": {…OCCI…}, "output": "a", "sensor": "IP:PORT"}   201, or 200 when it runs already
//! GET    /collectors   what runs: [{"name", "collector", "output", "sensor"}]
//! DELETE /collectors/{name}                                                          204
//! ```
//! A collector that no sensor has asked for in three minutes ends. Each is a managed service; what it measures goes out over one TCP connection
//! per output, which is made again whenever it breaks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::fault::{Fault, FaultKind};
use super::super::json;
use super::super::monitoring::translate::measuring;
use super::super::monitoring::{Providers, Settings};
use super::super::registry::{Extension, Registry};
use crate::model::Timestamp;
use crate::service::control::ChangeError;
use crate::service::supervisor::Supervisor;

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
    sensor: SocketAddr,
}

struct Running {
    order: Order,
    renewed: Timestamp,
}

/// A running probe.
pub struct Probe {
    supervisor: Arc<Supervisor>,
    registry: Registry,
    providers: Providers,
    settings: Settings,
    running: Mutex<BTreeMap<String, Running>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
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
    pub fn new(supervisor: Arc<Supervisor>) -> Result<Arc<Self>, Fault> {
        let settings = Settings::default();
        let providers = Providers::new(&settings.names);
        let mut registry = Registry::new(&Extension::ALL);
        providers.register(&mut registry)?;
        let probe = Arc::new(Self {
            supervisor,
            registry,
            providers,
            settings,
            running: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        });
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

    /// Runs what a sensor asks for; answers its name, and whether it is new.
    async fn run(&self, order: Order) -> Result<(String, bool), Fault> {
        let _one = self.changing.lock().await;
        let mut draft = json::entity(&order.collector.to_string(), &|name| self.registry.holds_maps(name))?;
        self.registry.classify(&mut draft)?;
        let id = draft.id.clone().ok_or_else(|| Fault::bad("the collector has no `id`"))?;
        let hash = blake3::hash(format!("{id}\n{}", order.output).as_bytes()).to_hex();
        let name = format!("collector-{}", &hash[..16]);
        let now = self.supervisor.now();
        {
            let mut running = self.running();
            if let Some(known) = running.get_mut(&name).filter(|known| known.order == order) {
                known.renewed = now;
                return Ok((name, false));
            }
            if running.len() >= MOST && !running.contains_key(&name) {
                return Err(Fault::new(FaultKind::TooLarge, format!("{MOST} collectors run here already")));
            }
        }
        let document = measuring(
            &self.registry,
            &self.providers,
            &self.settings,
            draft,
            &name,
            &order.output,
            &order.sensor.to_string(),
        )?;
        self.change(vec![(name.clone(), Some(document))]).await?;
        tracing::info!(collector = id, output = order.output, sensor = %order.sensor, "a sensor has handed a collector over");
        self.running().insert(name.clone(), Running { order, renewed: now });
        Ok((name, true))
    }

    async fn change(
        &self,
        documents: Vec<(String, Option<crate::policy::document::ServiceDocument>)>,
    ) -> Result<(), Fault> {
        self.supervisor.change_all(documents).await.map(drop).map_err(|error| match error {
            ChangeError::Refused(refusal) => Fault::bad(refusal.problems.join("; ")),
            ChangeError::Port(error) => Fault::new(FaultKind::Unavailable, error.to_string()),
        })
    }

    async fn end(&self, name: &str) -> Result<(), Fault> {
        let _one = self.changing.lock().await;
        if self.running().remove(name).is_none() {
            return Err(Fault::not_found(format!(
                "no collector `{}` runs here",
                super::super::fault::shown(name)
            )));
        }
        self.change(vec![(name.to_string(), None)]).await
    }

    async fn expire(&self) {
        let now = self.supervisor.now();
        let old: Vec<String> = {
            let running = self.running();
            let old = running.iter().filter(|(_, r)| now.since(r.renewed) > EXPIRY);
            old.map(|(name, _)| name.clone()).collect()
        };
        for name in old {
            tracing::info!(name, "a collector ends: no sensor asks for it");
            if let Err(why) = self.end(&name).await {
                tracing::warn!(name, %why, "a collector did not end");
            }
        }
    }
}

/// The control interface.
pub fn router(probe: Arc<Probe>) -> Router {
    Router::new()
        .route("/collectors", get(list).post(run))
        .route("/collectors/{name}", delete(end))
        .with_state(probe)
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
            let expected = r#"expected {"collector": {…}, "output": "a", "sensor": "IP:PORT"}"#;
            return refused(&Fault::bad(format!("{why}; {expected}")));
        }
    };
    match probe.run(order).await {
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

async fn end(State(probe): State<Arc<Probe>>, Path(name): Path<String>) -> Response {
    match probe.end(&name).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(fault) => refused(&fault),
    }
}
