//! The server: what clients of OCCI talk to, on a listener of its own. It reads, checks, translates and writes; sensors run as policies.
//!
//! Reading order: [`Occi`] here (what it keeps, how a change becomes true), `estate` (what there is), `route` (from a request to a change),
//! `shown` (from an entity to a response).

pub mod documents;
pub mod estate;
pub mod follow;
mod notify;
mod plugins;
pub mod probe;
mod route;
pub mod scope;
mod shown;
mod sla;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value as Json;
use tokio::sync::oneshot;

use super::draft::Draft;
use super::extensions::{core, monitoring as kinds};
use super::fault::{Fault, FaultKind};
use super::json;
use super::model::{Attribute, Category, Entity, Mixin, TypeId, What};
use super::monitoring::translate::{
    ANNOTATION, Around, Container, Measured, of_mixin, service_name, translate,
};
use super::monitoring::{Outcome, Providers, Settings, template, timing};
use super::registry::{Extension, ProviderMixin, Registry, Role};
use super::users::Who;
use crate::knowledge::store::{Entries, StoreError};
use crate::model::{PortError, Timestamp};
use crate::policy::document::{PackedDocument, ServiceDocument};
use crate::policy::set::PolicySet;
use crate::policy::value::ServicePolicy;
use crate::service::control::{ChangeError, Refusal};
use crate::service::supervisor::{Compiled, Supervisor};

use estate::{Change, Estate, Overlay, Status};
pub use route::router;

/// The longest body, in bytes.
pub const MAX_BODY: usize = 16 << 20;
/// How many entities a server keeps.
pub const MAX_ENTITIES: usize = 100_000;
/// Under which name the record keeps what outlives the server; no service can be called so.
const KEPT: &str = "(occi)";
/// How the record calls whose something is; no category has a field of this name.
const OWNER: &str = "(owner)";

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
    providers: RwLock<Arc<Providers>>,
    estate: RwLock<Estate>,
    /// Changes that were worked out and are not true yet. Who has it works one out, or lets all become true: one at a time.
    pending: tokio::sync::Mutex<Pending>,
    /// What is told over notification links.
    notices: notify::Notices,
}

/// Changes that were worked out one after the other, each on top of those before, and become true together: one change of policies, and one commit
/// of the record, however many clients wait.
#[derive(Default)]
struct Pending {
    overlay: Overlay,
    services: Services,
    waiting: Vec<oneshot::Sender<Settled>>,
}

/// What came of changes that became true together.
#[derive(Debug, Clone)]
enum Settled {
    /// They hold.
    True,
    /// Together they were refused: who waits tries alone.
    Alone,
    /// None of them holds.
    Failed(Fault),
}

/// Services to run; `None`: it ends.
type Services = BTreeMap<String, Option<Compiled>>;

impl std::fmt::Debug for Occi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Occi").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Whether a service that runs is a sensor of this server. One in the policy files is not, although it may be the policy of one that was exported.
fn is_sensor(policy: &ServicePolicy, files: &PolicySet) -> bool {
    !files.services.contains_key(&*policy.name)
        && policy.document.open().is_ok_and(|document| document.annotations.contains_key(ANNOTATION))
}

/// What a change means for sensors.
#[derive(Debug, Default)]
struct Meaning {
    /// The services that they are; `None`: it ends.
    documents: BTreeMap<String, Option<ServiceDocument>>,
    /// What they do then, by place.
    statuses: BTreeMap<Arc<str>, Status>,
}

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
        if settings.strict {
            registry.as_in_the_paper();
        }
        let mut providers = Providers::new(&settings.names);
        let mut folder = settings.plugins.as_deref().map(|dir| plugins::Folder::new(dir, &settings.names));
        if extensions.contains(&Extension::Monitoring) {
            providers.register(&mut registry)?;
            registry.add_provider(status_mixin(&settings))?;
            template::mixins(&settings.names)
                .into_iter()
                .try_for_each(|mixin| registry.add_provider(mixin))?;
            registry.add_provider(container_mixin(&settings))?;
            if extensions.contains(&Extension::Sla) {
                registry.add_provider(sla::mixin(&settings))?;
            }
            if let Some(found) = folder.as_mut().and_then(plugins::Folder::look) {
                plugins::warn_of(&providers.plug(&mut registry, found).1);
            }
        }
        let kept = supervisor.shell().store().all_knowledge().await?;
        let kept = kept.into_iter().find(|(name, _)| name == KEPT).unwrap_or_default().1;
        let mut estate = Estate::new(registry);
        restore(&mut estate, kept);
        let occi = Arc::new(Self {
            supervisor,
            address,
            settings,
            providers: RwLock::new(Arc::new(providers)),
            estate: RwLock::new(estate),
            pending: tokio::sync::Mutex::default(),
            notices: notify::Notices::new(),
        });
        occi.reconcile().await?;
        if let Some(folder) = folder.filter(|_| extensions.contains(&Extension::Monitoring)) {
            occi.follow_plugins(folder);
        }
        if let Some(users) = &occi.settings.users {
            for word in users.unknown(&occi.estate().registry) {
                tracing::warn!(
                    word,
                    "no category is called so, in `deny` or `allow` of the users; is it misspelt?"
                );
            }
        }
        if [Extension::Monitoring, Extension::Sla].iter().all(|one| extensions.contains(one)) {
            tokio::spawn(sla::watch(Arc::downgrade(&occi)));
        }
        Ok(occi)
    }

    /// The mixins of this server.
    fn providers(&self) -> Arc<Providers> {
        self.providers.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        let touched = std::mem::take(&mut change.touched);
        let mut meaning = Meaning::default();
        for place in tree::order(self, &change, &touched)? {
            if let Err(why) = self.work_out_one(&mut change, &place, &mut meaning) {
                tracing::warn!(sensor = &*place, %why, "a sensor that was kept cannot run");
                let missing = vec![why.text];
                meaning.statuses.insert(place, Status { state: "faulty", missing, ..Status::default() });
            }
        }
        let Meaning { documents: mut wanted, mut statuses } = meaning;
        let files = self.supervisor.files().await;
        let ours = running.services.values().filter(|policy| is_sensor(policy, &files));
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
        let mut services = Services::new();
        for (name, document) in wanted {
            let place = document.as_ref().and_then(|d| d.annotations.get(ANNOTATION).cloned());
            match document.map(Compiled::new).transpose() {
                Ok(compiled) => drop(services.insert(name, compiled)),
                Err(why) => {
                    let missing: Vec<String> = why.problems.iter().map(|why| of_mixin(why)).collect();
                    tracing::warn!(
                        service = name,
                        why = missing.join("; "),
                        "a sensor that was kept cannot run"
                    );
                    let faulty = Status { state: "faulty", missing, ..Status::default() };
                    statuses.extend(place.map(|place| (Arc::from(place), faulty)));
                }
            }
        }
        if !services.is_empty() {
            self.supervisor
                .change_compiled(services.into_iter().collect(), None)
                .await
                .map_err(|e| refused(&e))?;
        }
        self.write(|estate| estate.statuses.extend(statuses));
        Ok(())
    }

    fn write<T>(&self, change: impl FnOnce(&mut Estate) -> T) -> T {
        change(&mut self.estate.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a change: works out what it means for sensors, lets that run, and only then keeps it. All or nothing.
    ///
    /// Changes that come at the same time become true together. `make` is called again when they are refused together: then each is made alone, so
    /// that one that cannot be hurts no other.
    ///
    /// # Errors
    /// Whatever `make` says; 400 for a sensor that cannot run; 413 for more than the server keeps.
    pub async fn change<T>(
        &self,
        base: &str,
        make: impl Fn(&mut Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let nobody = Who::default();
        let (done, mut settled) = {
            let mut pending = self.pending.lock().await;
            let done = self.work_in(&mut pending, &nobody, base, &make).await?;
            let (tell, settled) = oneshot::channel();
            pending.waiting.push(tell);
            (done, settled)
        };
        // The lock is given in the order of asking: whoever came meanwhile works out a change first, and this one lets all of them become true,
        // unless somebody has done so.
        let came = tokio::select! {
            biased;
            came = &mut settled => came,
            mut pending = self.pending.lock() => {
                self.settle(&mut pending).await;
                drop(pending);
                settled.await
            }
        };
        match came {
            Ok(Settled::True) => Ok(done),
            Ok(Settled::Failed(fault)) => Err(fault),
            Ok(Settled::Alone) => {
                let mut pending = self.pending.lock().await;
                self.change_alone(&mut pending, &nobody, base, make).await
            }
            Err(_) => Err(Fault::new(FaultKind::Internal, "the change was not carried out to its end")),
        }
    }

    /// As [`Occi::change`], for somebody who may not everything. Theirs is made alone: what they may is asked of what is true, not of what may be.
    ///
    /// # Errors
    /// Also 404, 403 and 400 for what is not there for them, or not theirs.
    pub async fn change_as<T>(
        &self,
        who: &Who,
        base: &str,
        make: impl Fn(&mut Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if who.name().is_none() && who.may_everything() {
            return self.change(base, make).await;
        }
        let mut pending = self.pending.lock().await;
        self.change_alone(&mut pending, who, base, make).await
    }

    /// As [`Occi::change_as`], for who has the lock.
    async fn change_alone<T>(
        &self,
        pending: &mut Pending,
        who: &Who,
        base: &str,
        make: impl Fn(&mut Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.settle(pending).await;
        let done = self.work_in(pending, who, base, &make).await?;
        let Pending { overlay, services, .. } = std::mem::take(pending);
        self.carry_out(overlay, services).await.map_err(|error| refused(&error))?;
        Ok(done)
    }

    /// Works out a change on top of those that wait. One that cannot be leaves them as they are.
    async fn work_in<T>(
        &self,
        pending: &mut Pending,
        who: &Who,
        base: &str,
        make: &impl Fn(&mut Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (done, mut overlay, meaning, owners, more) = {
            let estate = self.estate();
            let mut change = Change::after(&estate, &pending.overlay, base);
            let done = make(&mut change)?;
            let owners = scope::check(&change, who, &self.settings)?;
            let meaning = self.work_out(&mut change)?;
            let overlay = change.into_overlay();
            let more = estate.len() + pending.overlay.more_than(&estate) + overlay.more_than(&estate);
            (done, overlay, meaning, owners, more)
        };
        if more > MAX_ENTITIES {
            let text = format!("{MAX_ENTITIES} entities are kept at most; with these there would be {more}");
            return Err(Fault::new(FaultKind::TooLarge, text));
        }
        let services = self.compiled(meaning.documents).await?;
        overlay.statuses = meaning.statuses;
        overlay.owners = owners;
        pending.overlay.merge(overlay);
        pending.services.extend(services);
        Ok(done)
    }

    /// Compiles the policies of sensors; one takes the place of no service that is no sensor.
    async fn compiled(
        &self,
        documents: BTreeMap<String, Option<ServiceDocument>>,
    ) -> Result<Services, Fault> {
        if documents.is_empty() {
            return Ok(Services::new());
        }
        let (running, files) = (self.supervisor.running().await, self.supervisor.files().await);
        let mut services = Services::new();
        for (name, document) in documents {
            let other = running.services.get(name.as_str()).is_some_and(|policy| !is_sensor(policy, &files));
            if other {
                return Err(Fault::conflict(format!(
                    "a managed service is called `{name}`, as the sensor would be; give the sensor another identifier"
                )));
            }
            let compiled = document.map(Compiled::new).transpose();
            services.insert(name, compiled.map_err(|refusal| refused(&refusal.into()))?);
        }
        Ok(services)
    }

    /// Lets all changes that wait become true, and says so to those who wait for them.
    async fn settle(&self, pending: &mut Pending) {
        if pending.waiting.is_empty() {
            return;
        }
        let Pending { overlay, services, waiting } = std::mem::take(pending);
        let settled = match self.carry_out(overlay, services).await {
            Ok(()) => Settled::True,
            Err(ChangeError::Refused(_)) if waiting.len() > 1 => Settled::Alone,
            Err(error) => Settled::Failed(refused(&error)),
        };
        for waiting in waiting {
            // Who does not wait any more was a client that has gone.
            let _ = waiting.send(settled.clone());
        }
    }

    /// Lets services run, records that with the entities, and only then shows them.
    async fn carry_out(&self, overlay: Overlay, services: Services) -> Result<(), ChangeError> {
        let entries = {
            let estate = self.estate();
            let new = |place: &str| overlay.owners.get(place).map(|owner| &**owner);
            let owner = |place: &str| new(place).or_else(|| estate.owners.of(place));
            let entry = |(place, entity): (&Arc<str>, &Option<Arc<Entity>>)| {
                (format!("entity{place}"), entity.as_deref().map(|entity| kept_value(entity, owner(place))))
            };
            Entries::new(KEPT, overlay.changed().iter().map(entry).collect())
        };
        if services.is_empty() {
            let kept = self.supervisor.shell().store().note_all(Vec::new(), Some(entries)).await;
            kept.map_err(|e| PortError::Unavailable(format!("it could not be recorded: {e}")))?;
        } else {
            self.supervisor.change_compiled(services.into_iter().collect(), Some(entries)).await?;
        }
        let places: BTreeSet<&Arc<str>> = overlay.changed().keys().chain(overlay.statuses.keys()).collect();
        let noticed = self.noticing(&self.estate(), places);
        self.write(|estate| estate.commit(overlay));
        self.notify(noticed);
        Ok(())
    }

    /// What a client wants to be made, with all that it did not have to say: the parts of templates, and the mixins of attributes.
    fn spelled_out(&self, mut draft: Draft) -> Result<Draft, Fault> {
        if self.estate().registry.kind(&kinds::sensor()).is_some() {
            template::expand(&self.settings.names, &mut draft)?;
            template::imply(&self.providers(), &mut draft);
        }
        Ok(draft)
    }

    /// What a change means: the policies of the sensors that it touches, and what these do then. Fills in and replaces their timing.
    /// Sensors come after those that they take labels of, and again when these feed others than before.
    fn work_out(&self, change: &mut Change<'_>) -> Result<Meaning, Fault> {
        let mut meaning = Meaning::default();
        let mut touched = std::mem::take(&mut change.touched);
        while !touched.is_empty() {
            let mut above = BTreeSet::new();
            for place in tree::order(self, change, &touched)? {
                // What feeds the same labels may be for others than before.
                if self.work_out_one(change, &place, &mut meaning)? || self.settings.users.is_some() {
                    above.extend(tree::above(self, change, &place));
                }
            }
            touched = above.difference(&touched).cloned().collect();
        }
        Ok(meaning)
    }

    /// What a change means for one sensor; answers whether its labels are others than before.
    fn work_out_one(
        &self,
        change: &mut Change<'_>,
        place: &Arc<str>,
        meaning: &mut Meaning,
    ) -> Result<bool, Fault> {
        let before = change.status(place).cloned().unwrap_or_default();
        let Some(sensor) = change.get(place).cloned() else {
            if let Some(gone) = change.was(place)
                && before.runs
            {
                meaning.documents.insert(service_name(&gone.id), None);
            }
            return Ok(!before.labels.is_empty());
        };
        let (document, status) = self.sensor(change, Entity::clone(&sensor), &meaning.statuses)?;
        // What does not run needs no end.
        if document.is_some() || before.runs {
            meaning.documents.insert(service_name(&sensor.id), document);
        }
        let labels = match meaning.statuses.get(place) {
            Some(earlier) => earlier.labels != status.labels,
            None => before.labels != status.labels,
        };
        meaning.statuses.insert(place.clone(), status);
        Ok(labels)
    }

    fn sensor(
        &self,
        change: &mut Change<'_>,
        mut sensor: Entity,
        statuses: &BTreeMap<Arc<str>, Status>,
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
        let metric = self.settings.names.mixin("metric", "");
        let has = collectors.iter().flat_map(|(link, _)| &link.mixins);
        let gone: BTreeSet<String> =
            has.filter_map(|mixin| registry.lost(mixin, metric.scheme())).map(|id| id.to_string()).collect();
        if !gone.is_empty() {
            change.amend(sensor);
            let missing = gone.into_iter().collect();
            return Ok((None, Status { state: "incomplete", missing, warning, ..Status::default() }));
        }
        let container = self.settings.names.container();
        let [url, channel] = ["url", "channel"].map(|n| self.settings.names.attribute(container.term(), n));
        let probes: Vec<Option<(String, Option<String>)>> = collectors
            .iter()
            .map(|(link, _)| {
                let What::Link { target, .. } = &link.what else { return None };
                let of = &change.get(&target.location)?.attributes;
                let text = |name: &String| of.get(name).and_then(Json::as_str).map(str::to_string);
                Some((text(&url)?, text(&channel)))
            })
            .collect();
        let borrowed: Vec<Measured<'_>> = collectors
            .iter()
            .zip(&probes)
            .map(|((link, period), probe)| {
                let probe = probe.as_ref();
                let probe = probe.map(|(url, channel)| Container { url, channel: channel.as_deref() });
                Measured { link, period: *period, probe }
            })
            .collect();
        let lower = tree::lower(self, change, &place, &collectors, statuses);
        let terms = sla::terms(self, change, &place);
        let around = Around { lower: &lower, terms: &terms };
        let (outcome, labels) =
            translate(registry, &self.providers(), &self.settings, &sensor, &timing, &borrowed, &around)?;
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
                (Some(*document), Status { state, missing: Vec::new(), warning, runs: true, labels })
            }
            Outcome::Incomplete(missing) => {
                (None, Status { state: "incomplete", missing, warning, ..Status::default() })
            }
            Outcome::Idle => (None, Status { state: "idle", warning, ..Status::default() }),
        })
    }

    /// Adds mixins of clients.
    ///
    /// # Errors
    /// As [`Registry::add_mixin`]; none is added then.
    pub async fn add_mixins(&self, who: &Who, mixins: Vec<Mixin>) -> Result<Vec<Mixin>, Fault> {
        let mut pending = self.pending.lock().await;
        self.settle(&mut pending).await;
        let mut registry = self.estate().registry.clone();
        let mut added = Vec::new();
        for mixin in mixins {
            if let Some(id) = mixin.depends.iter().find(|id| who.is_denied(&registry, id)) {
                return Err(Fault::new(FaultKind::Forbidden, format!("`{id}` is not for you")));
            }
            added.push(registry.add_mixin(mixin)?.clone());
        }
        self.write(|estate| {
            estate.registry = registry;
            let owned = who
                .name()
                .into_iter()
                .flat_map(|name| added.iter().map(|mixin| (mixin.id.clone(), name.clone())));
            estate.owners.mixins.extend(owned);
        });
        for mixin in &added {
            let mut value = json::categories_value([&Category::Mixin(mixin.clone())]);
            if let (Json::Object(fields), Some(name)) = (&mut value, who.name()) {
                fields.insert(OWNER.into(), (**name).into());
            }
            self.keep(&format!("mixin/{}", mixin.id), Some(&value)).await?;
        }
        Ok(added)
    }

    /// Removes a mixin of a client, from all that have it as well.
    ///
    /// # Errors
    /// As [`Registry::remove_mixin`].
    pub async fn remove_mixin(&self, who: &Who, id: &TypeId) -> Result<(), Fault> {
        let mut pending = self.pending.lock().await;
        scope::may_remove(&self.estate(), who, id)?;
        let mut registry = self.estate().registry.clone();
        registry.remove_mixin(id)?;
        self.change_alone(&mut pending, &Who::default(), "", |change| {
            let having: BTreeSet<String> = {
                let estate = self.estate();
                let all = estate.below("/").filter(|e| e.mixins.contains(id));
                all.map(|e| e.location.clone()).collect()
            };
            having.iter().try_for_each(|place| change.disassociate(place, id))
        })
        .await?;
        self.write(|estate| {
            estate.registry = registry;
            estate.owners.mixins.remove(id);
        });
        self.keep(&format!("mixin/{id}"), None).await
    }

    async fn keep(&self, key: &str, value: Option<&Json>) -> Result<(), Fault> {
        let kept = self.supervisor.shell().store().knowledge(KEPT, key, value).await;
        kept.map_err(|e| {
            Fault::new(FaultKind::Unavailable, format!("it holds, but could not be recorded: {e}"))
        })
    }
}

/// A change of policies that was refused, for clients.
fn refused(error: &ChangeError) -> Fault {
    match error {
        ChangeError::Refused(refusal) => Fault::bad(format!("the sensor cannot run: {}", why(refusal))),
        ChangeError::Port(error) => Fault::new(FaultKind::Unavailable, error.to_string()),
    }
}

/// Why a policy was refused, in the words of clients.
fn why(refusal: &Refusal) -> String {
    refusal.problems.iter().map(|problem| of_mixin(problem)).collect::<Vec<_>>().join("; ")
}

/// The mixin that says what a sensor does; every sensor has it, and no client sets it.
fn status_mixin(settings: &Settings) -> ProviderMixin {
    let id = settings.names.status();
    let mut provider = ProviderMixin::new(id.clone(), "What a sensor does", kinds::sensor());
    provider.mixin.depends = Vec::new();
    provider.mixin.applies = vec![kinds::sensor()];
    let fixed = |about: &str| Attribute { mutable: false, ..Attribute::text().about(about) };
    for (name, about) in [
        (
            "state",
            "active, suspended, ended (its stop has passed), incomplete (something is missing) or idle (nothing is delivered)",
        ),
        ("missing", "labels that nothing feeds, attributes that mixins need, and plug-ins that are gone"),
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
    let ways = Attribute::one_of(&["tcp", "websocket", "pull"]);
    let [url, channel] = ["url", "channel"].map(|name| settings.names.attribute(id.term(), name));
    let url_of =
        Attribute::text().pattern(serde_json::json!({ "pattern": "^http://[^/ ]+(/.*)?$" })).about(about);
    provider.with(&url, url_of, Role::Control).with(
        &channel,
        ways.about(
            "how values come from it: over TCP, when absent, over a WebSocket, or when they are asked for",
        ),
        Role::Control,
    )
}

/// An entity as the record keeps it.
fn kept_value(entity: &Entity, owner: Option<&str>) -> Json {
    let mut value = json::entity_value(entity);
    if let Json::Object(fields) = &mut value {
        fields.insert("location".into(), entity.location.as_str().into());
        fields.extend(owner.map(|owner| (OWNER.to_string(), owner.into())));
    }
    value
}

/// Whose it is, as the record keeps it.
fn taken_owner(value: &mut Json) -> Option<Arc<str>> {
    value.as_object_mut()?.remove(OWNER)?.as_str().map(Arc::from)
}

fn restore(estate: &mut Estate, kept: BTreeMap<String, Json>) {
    let (entities, mixins): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|(key, _)| key.starts_with("entity/"));
    let maps = |_: &str| false;
    for (key, mut value) in mixins {
        let owner = taken_owner(&mut value);
        let read = json::document(&value.to_string(), &maps);
        let added = read.and_then(|document| {
            document.mixins.into_iter().try_for_each(|mixin| {
                let id = estate.registry.add_mixin(mixin)?.id.clone();
                estate.owners.mixins.extend(owner.clone().map(|owner| (id, owner)));
                Ok(())
            })
        });
        if let Err(why) = added {
            tracing::warn!(key, %why, "what was kept is not understood any more");
        }
    }
    let mut all = Vec::new();
    for (key, mut value) in entities {
        let place = key.trim_start_matches("entity").to_string();
        let owner = taken_owner(&mut value);
        estate.owners.entities.extend(owner.map(|owner| (place.as_str().into(), owner)));
        match json::entity(&value.to_string(), &|name| estate.registry.holds_maps(name))
            .map(|d| whole(d, &place))
        {
            Ok(Some(entity)) => all.push(entity),
            Ok(None) => tracing::warn!(key, "what was kept is no entity any more"),
            Err(why) => tracing::warn!(key, %why, "what was kept is not understood any more"),
        }
    }
    estate.restore(all);
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
