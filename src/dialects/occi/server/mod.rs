//! The server: what clients of OCCI talk to, on a listener of its own. It reads, checks, translates and writes; sensors run as policies.
//!
//! Reading order: [`Occi`] here (what it keeps, how a change becomes true), `estate` (what there is), `route` (from a request to a change),
//! `shown` (from an entity to a response).

pub mod estate;
pub mod probe;
mod route;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value as Json;

use super::draft::Draft;
use super::extensions::{core, monitoring as kinds};
use super::fault::{Fault, FaultKind};
use super::json;
use super::model::{Attribute, Category, Entity, Mixin, TypeId, What};
use super::monitoring::translate::{ANNOTATION, Measured, service_name};
use super::monitoring::{Outcome, Providers, Settings, template, timing, translate};
use super::registry::{Extension, ProviderMixin, Registry, Role};
use crate::knowledge::store::StoreError;
use crate::model::Timestamp;
use crate::policy::document::{PackedDocument, ServiceDocument};
use crate::service::control::ChangeError;
use crate::service::supervisor::Supervisor;

use estate::{Change, Estate, Status};
pub use route::router;

/// The longest body, in bytes.
pub const MAX_BODY: usize = 16 << 20;
/// How many entities a server keeps.
pub const MAX_ENTITIES: usize = 100_000;
/// Under which name the record keeps what outlives the server; no service can be called so.
const KEPT: &str = "(occi)";

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The record cannot be read.
    #[error("the record cannot be read")]
    Store(#[from] StoreError),
    /// A mixin of this server cannot be offered, or what was kept cannot run any more.
    #[error("OCCI: {0}")]
    Occi(#[from] Fault),
}

/// A running server.
pub struct Occi {
    supervisor: Arc<Supervisor>,
    address: SocketAddr,
    settings: Settings,
    providers: Providers,
    estate: RwLock<Estate>,
    /// One change at a time, from reading to applying.
    changing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Occi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Occi").field("address", &self.address).finish_non_exhaustive()
    }
}

type Documents = Vec<(String, Option<ServiceDocument>)>;

impl Occi {
    /// Brings back what an earlier run kept, and begins.
    ///
    /// # Errors
    /// When the record cannot be read, or what it says cannot run.
    pub async fn start(
        supervisor: Arc<Supervisor>,
        address: SocketAddr,
        extensions: &[Extension],
        settings: Settings,
    ) -> Result<Arc<Self>, StartError> {
        let mut registry = Registry::new(extensions);
        let providers = Providers::new(&settings.names);
        if extensions.contains(&Extension::Monitoring) {
            providers.register(&mut registry)?;
            registry.add_provider(status_mixin(&settings))?;
            registry.add_provider(template::mixin(&settings.names))?;
            registry.add_provider(container_mixin(&settings))?;
        }
        let kept = supervisor.shell().store().all_knowledge().await?;
        let kept = kept.into_iter().find(|(name, _)| name == KEPT).unwrap_or_default().1;
        let mut estate = Estate::new(registry);
        restore(&mut estate, kept);
        let occi = Arc::new(Self {
            supervisor,
            address,
            settings,
            providers,
            estate: RwLock::new(estate),
            changing: tokio::sync::Mutex::default(),
        });
        occi.reconcile().await?;
        Ok(occi)
    }

    fn now(&self) -> Timestamp {
        self.supervisor.now()
    }

    /// What there is now.
    pub fn estate(&self) -> RwLockReadGuard<'_, Estate> {
        self.estate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the sensors that were kept run, and nothing else of ours: a crash between a change and its record leaves no trace.
    async fn reconcile(&self) -> Result<(), Fault> {
        let running = self.supervisor.running().await;
        let estate = Estate::clone(&self.estate());
        let mut change = Change::new(&estate, "");
        let places: Vec<Arc<str>> = estate.below("/").map(|entity| entity.location.as_str().into()).collect();
        let sensor = kinds::sensor();
        change.touched = places
            .into_iter()
            .filter(|place| estate.get(place).is_some_and(|e| estate.registry.is_a(&e.kind, &sensor)))
            .collect();
        // One that cannot run any more, because the server was started with less, keeps nobody else from it.
        let (mut documents, mut statuses) = (Documents::new(), BTreeMap::new());
        for place in std::mem::take(&mut change.touched) {
            change.touched.insert(place.clone());
            match self.work_out(&mut change) {
                Ok((more, states)) => {
                    documents.extend(more);
                    statuses.extend(states);
                }
                Err(why) => {
                    tracing::warn!(sensor = &*place, %why, "a sensor that was kept cannot run");
                    let missing = vec![why.text];
                    statuses.insert(place, Status { state: "faulty", missing, ..Status::default() });
                }
            }
        }
        let mut wanted: BTreeMap<String, Option<ServiceDocument>> = documents.into_iter().collect();
        let ours = running.services.values().filter(|p| {
            p.document.open().is_ok_and(|document| document.annotations.contains_key(ANNOTATION))
        });
        for policy in ours {
            let same = |document: &Option<ServiceDocument>| {
                document.as_ref().is_some_and(|document| PackedDocument::new(document) == policy.document)
            };
            match wanted.get(&*policy.name) {
                Some(document) if same(document) => drop(wanted.remove(&*policy.name)),
                Some(_) => {}
                None => drop(wanted.insert(policy.name.to_string(), None)),
            }
        }
        wanted.retain(|name, document| document.is_some() || running.services.contains_key(name.as_str()));
        self.apply(wanted.into_iter().collect()).await?;
        self.write(|estate| estate.statuses.extend(statuses));
        Ok(())
    }

    fn write<T>(&self, change: impl FnOnce(&mut Estate) -> T) -> T {
        change(&mut self.estate.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a change: works out what it means for sensors, lets that run, and only then keeps it. All or nothing.
    ///
    /// # Errors
    /// Whatever `make` says; 400 for a sensor that cannot run; 413 for more than the server keeps.
    pub async fn change<T>(
        &self,
        base: &str,
        make: impl FnOnce(&mut Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let _one = self.changing.lock().await;
        self.change_alone(base, make).await
    }

    /// As [`Occi::change`], for who has the lock.
    async fn change_alone<T>(
        &self,
        base: &str,
        make: impl FnOnce(&mut Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (done, changed, documents, statuses) = {
            let estate = self.estate();
            let mut change = Change::new(&estate, base);
            let done = make(&mut change)?;
            let (documents, statuses) = self.work_out(&mut change)?;
            let changed = change.into_parts();
            let more = changed.iter().filter(|(place, e)| e.is_some() && estate.get(place).is_none()).count();
            if estate.len() + more > MAX_ENTITIES {
                let text =
                    format!("{MAX_ENTITIES} entities are kept at most, and {} are there", estate.len());
                return Err(Fault::new(FaultKind::TooLarge, text));
            }
            (done, changed, documents, statuses)
        };
        self.refuse_others(&documents).await?;
        self.apply(documents).await?;
        let store = self.supervisor.shell().store();
        let entries =
            changed.iter().map(|(place, e)| (format!("entity{place}"), e.as_deref().map(kept_value)));
        let kept = store.knowledge_all(KEPT, entries.collect());
        self.write(|estate| {
            estate.commit(changed);
            estate.statuses.extend(statuses);
        });
        kept.await.map_err(|e| {
            Fault::new(FaultKind::Unavailable, format!("it holds, but could not be recorded: {e}"))
        })?;
        Ok(done)
    }

    /// What a client wants to be made, with all that it did not have to say: the parts of templates, and the mixins of attributes.
    fn spelled_out(&self, mut draft: Draft) -> Result<Draft, Fault> {
        if self.estate().registry.kind(&kinds::sensor()).is_some() {
            template::expand(&self.settings.names, &mut draft)?;
            template::imply(&self.providers, &mut draft);
        }
        Ok(draft)
    }

    /// A sensor takes the place of no service that is none.
    async fn refuse_others(&self, documents: &Documents) -> Result<(), Fault> {
        if documents.is_empty() {
            return Ok(());
        }
        let running = self.supervisor.running().await;
        for (name, _) in documents {
            let other = running.services.get(name.as_str()).is_some_and(|policy| {
                !policy.document.open().is_ok_and(|document| document.annotations.contains_key(ANNOTATION))
            });
            if other {
                return Err(Fault::conflict(format!(
                    "a managed service is called `{name}`, as the sensor would be; give the sensor another identifier"
                )));
            }
        }
        Ok(())
    }

    async fn apply(&self, documents: Documents) -> Result<(), Fault> {
        if documents.is_empty() {
            return Ok(());
        }
        let changed = self.supervisor.change_all(documents).await;
        changed.map(drop).map_err(|error| match error {
            ChangeError::Refused(refusal) => {
                Fault::bad(format!("the sensor cannot run: {}", refusal.problems.join("; ")))
            }
            ChangeError::Port(error) => Fault::new(FaultKind::Unavailable, error.to_string()),
        })
    }

    /// What a change means: the policies of the sensors that it touches, and what these do then. Fills in and replaces their timing.
    fn work_out(&self, change: &mut Change<'_>) -> Result<(Documents, BTreeMap<Arc<str>, Status>), Fault> {
        let mut documents = Documents::new();
        let mut statuses = BTreeMap::new();
        let runs = |place: &str| self.estate().statuses.get(place).is_some_and(|status| status.runs);
        for place in std::mem::take(&mut change.touched) {
            let Some(sensor) = change.get(&place).cloned() else {
                if let Some(before) = self.estate().get(&place)
                    && runs(&place)
                {
                    documents.push((service_name(&before.id), None));
                }
                continue;
            };
            let (document, status) = self.sensor(change, Entity::clone(&sensor))?;
            // What does not run needs no end.
            if document.is_some() || runs(&place) {
                documents.push((service_name(&sensor.id), document));
            }
            statuses.insert(place, status);
        }
        Ok((documents, statuses))
    }

    fn sensor(
        &self,
        change: &mut Change<'_>,
        mut sensor: Entity,
    ) -> Result<(Option<ServiceDocument>, Status), Fault> {
        let place: Arc<str> = sensor.location.as_str().into();
        let said = change.timed.get(&place).cloned().unwrap_or_default();
        let timing = timing::of_sensor(&mut sensor.attributes, self.now(), &said)?;
        let mut collectors: Vec<(Entity, f64)> = Vec::new();
        let mut warning = None;
        let kind = kinds::collector();
        let estate = self.estate();
        let registry = &estate.registry;
        for link in change.links_from(&place) {
            if !registry.is_a(&link.kind, &kind) {
                continue;
            }
            let mut link = Entity::clone(&link);
            let period = timing::of_collector(&mut link.attributes)?;
            if !timing::consistent(period, timing.period) {
                warning = Some(format!(
                    "the period of the sensor, {} s, is no multiple of that of `{}`, {period} s",
                    timing.period, link.location
                ));
            }
            change.amend(link.clone());
            collectors.push((link, period));
        }
        let url = self.settings.names.attribute(self.settings.names.container().term(), "url");
        let probes: Vec<Option<String>> = collectors
            .iter()
            .map(|(link, _)| {
                let What::Link { target, .. } = &link.what else { return None };
                change.get(&target.location)?.attributes.get(&url)?.as_str().map(str::to_string)
            })
            .collect();
        let borrowed: Vec<Measured<'_>> = collectors
            .iter()
            .zip(&probes)
            .map(|((link, period), probe)| Measured { link, period: *period, probe: probe.as_deref() })
            .collect();
        let outcome = translate(registry, &self.providers, &self.settings, &sensor, &timing, &borrowed)?;
        change.amend(sensor);
        Ok(match outcome {
            Outcome::Complete(document) => {
                let delivers = document.plan.as_ref().is_some_and(|plan| !plan.is_empty())
                    || document.monitor.as_ref().is_some_and(|monitor| !monitor.publish.is_empty());
                let state = match delivers {
                    _ if timing.schedule.suspended => "suspended",
                    true => "active",
                    // Its values can be asked for; nothing is measured on its own account.
                    false => "idle",
                };
                (Some(*document), Status { state, missing: Vec::new(), warning, runs: true })
            }
            Outcome::Incomplete(missing) => {
                (None, Status { state: "incomplete", missing, warning, runs: false })
            }
            Outcome::Idle => (None, Status { state: "idle", missing: Vec::new(), warning, runs: false }),
        })
    }

    /// Adds mixins of clients.
    ///
    /// # Errors
    /// As [`Registry::add_mixin`]; none is added then.
    pub async fn add_mixins(&self, mixins: Vec<Mixin>) -> Result<Vec<Mixin>, Fault> {
        let _one = self.changing.lock().await;
        let mut registry = self.estate().registry.clone();
        let mut added = Vec::new();
        for mixin in mixins {
            added.push(registry.add_mixin(mixin)?.clone());
        }
        self.write(|estate| estate.registry = registry);
        for mixin in &added {
            let value = json::categories_value([&Category::Mixin(mixin.clone())]);
            self.keep(&format!("mixin/{}", mixin.id), Some(&value)).await?;
        }
        Ok(added)
    }

    /// Removes a mixin of a client, from all that have it as well.
    ///
    /// # Errors
    /// As [`Registry::remove_mixin`].
    pub async fn remove_mixin(&self, id: &TypeId) -> Result<(), Fault> {
        let _one = self.changing.lock().await;
        let mut registry = self.estate().registry.clone();
        registry.remove_mixin(id)?;
        self.change_alone("", |change| {
            let having: BTreeSet<String> = {
                let estate = self.estate();
                let all = estate.below("/").filter(|e| e.mixins.contains(id));
                all.map(|e| e.location.clone()).collect()
            };
            having.iter().try_for_each(|place| change.disassociate(place, id))
        })
        .await?;
        self.write(|estate| estate.registry = registry);
        self.keep(&format!("mixin/{id}"), None).await
    }

    async fn keep(&self, key: &str, value: Option<&Json>) -> Result<(), Fault> {
        let kept = self.supervisor.shell().store().knowledge(KEPT, key, value).await;
        kept.map_err(|e| {
            Fault::new(FaultKind::Unavailable, format!("it holds, but could not be recorded: {e}"))
        })
    }
}

/// The mixin that says what a sensor does; every sensor has it, and no client sets it.
fn status_mixin(settings: &Settings) -> ProviderMixin {
    let id = settings.names.status();
    let mut provider = ProviderMixin::new(id.clone(), "What a sensor does", kinds::sensor());
    provider.mixin.depends = Vec::new();
    provider.mixin.applies = vec![kinds::sensor()];
    let fixed = |about: &str| Attribute { mutable: false, ..Attribute::text().about(about) };
    for (name, about) in [
        ("state", "active, suspended, incomplete (something is missing) or idle (nothing is delivered)"),
        ("missing", "labels that nothing feeds, and attributes that mixins need"),
        ("warning", "what is odd, and works"),
    ] {
        provider = provider.with(&settings.names.attribute(id.term(), name), fixed(about), Role::Control);
    }
    provider
}

/// The mixin of a resource whose collectors a probe runs.
fn container_mixin(settings: &Settings) -> ProviderMixin {
    let id = settings.names.container();
    let mut provider =
        ProviderMixin::new(id.clone(), "A probe runs the collectors of the resource", core::resource());
    provider.mixin.depends = Vec::new();
    provider.mixin.applies = vec![core::resource()];
    let about = "the control endpoint of the probe: http://HOST:12312/collectors";
    provider.with(&settings.names.attribute(id.term(), "url"), Attribute::text().about(about), Role::Control)
}

/// An entity as the record keeps it.
fn kept_value(entity: &Entity) -> Json {
    let mut value = json::entity_value(entity);
    if let Json::Object(fields) = &mut value {
        fields.insert("location".into(), entity.location.as_str().into());
    }
    value
}

fn restore(estate: &mut Estate, kept: BTreeMap<String, Json>) {
    let (entities, mixins): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|(key, _)| key.starts_with("entity/"));
    let maps = |_: &str| false;
    for (key, value) in mixins {
        let read = json::document(&value.to_string(), &maps);
        let added = read.and_then(|document| {
            document.mixins.into_iter().try_for_each(|mixin| estate.registry.add_mixin(mixin).map(drop))
        });
        if let Err(why) = added {
            tracing::warn!(key, %why, "what was kept is not understood any more");
        }
    }
    let mut all = BTreeMap::new();
    for (key, value) in entities {
        let place = key.trim_start_matches("entity").to_string();
        match json::entity(&value.to_string(), &|name| estate.registry.holds_maps(name))
            .map(|d| whole(d, &place))
        {
            Ok(Some(entity)) => drop(all.insert(place.as_str().into(), Some(Arc::new(entity)))),
            Ok(None) => tracing::warn!(key, "what was kept is no entity any more"),
            Err(why) => tracing::warn!(key, %why, "what was kept is not understood any more"),
        }
    }
    estate.commit(all);
}

/// An entity as it was kept.
fn whole(draft: Draft, place: &str) -> Option<Entity> {
    let what = match (draft.source, draft.target) {
        (Some(source), Some(target)) => What::Link { source, target },
        _ => What::Resource { links: Vec::new() },
    };
    Some(Entity {
        id: draft.id?,
        location: place.to_string(),
        kind: draft.kind?,
        mixins: draft.mixins,
        attributes: draft.attributes,
        title: draft.title,
        summary: draft.summary,
        actions: Vec::new(),
        what,
    })
}
