//! Collectors: they register, ask what to send, say that they live, and are forgotten when they do not. Every connection is theirs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::Authority};
use axum::response::{IntoResponse, Response};
use dashmap::DashMap;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::data::number;
use super::model::{Kin, Registry, Written};
use super::{Answer, App, MAX_ID, Object, Refused, Tower, hang_up, json_answer, lock, new_id, shortened};
use crate::dialects::prefer;
use crate::model::connector::CollectSensor;
use crate::model::{ModelChange, PortError, Resource, Selector, Timestamp};
use crate::service::collection::Want;

/// The most collectors.
const MAX_COLLECTORS: usize = 200_000;
/// How many resources of a collector are compared with what its metrics are said to be of, times each of those.
const MAX_COMPARED: usize = 1_000_000;
/// The most classes and types of which a collector offers metrics without having registered such resources.
const MAX_KIN: usize = 1_000;
/// The longest time that a request for the configuration waits for a change.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Says at registration how many seconds `Prefer: wait=…` may ask for (RFC 7240); the original says nothing.
pub const WAIT: HeaderName = HeaderName::from_static("homeostat-max-wait");
/// What streams are called.
pub(super) const STREAMS: &str = "http://www.modaclouds.eu/streams/";

/// A list; the original's reader takes `null` for what is not there, and so is it in a list.
type List = Option<Vec<Option<Object<Written>>>>;

/// What a collector says of itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    monitored_resources_by_metric: Option<BTreeMap<String, List>>,
    #[serde(default)]
    resources: List,
    #[serde(default)]
    keep_alive: Option<f64>,
}

/// Of what a collector offers a metric.
#[derive(Debug, Default)]
struct Offer {
    resources: Vec<Arc<Resource>>,
    /// Whichever of these the model has: the collector has registered none itself.
    kin: Vec<Kin>,
}

/// One collector.
pub(super) struct Collector {
    /// What it said, as it said it.
    descriptor: Box<str>,
    offers: HashMap<Arc<str>, Offer>,
    resources: Vec<Resource>,
    /// How many resources had been taken out by hand when the model had all of these last.
    there: AtomicU64,
    /// How long it lives without a word; for ever, when absent.
    pub keep: Option<Duration>,
    seen: AtomicI64,
    /// How many of its requests wait for a change.
    waiting: Arc<AtomicUsize>,
    pub counted: Arc<Counted>,
    /// It registered anew, or is gone.
    over: CancellationToken,
}

/// What was counted of the data of one collector.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub data: AtomicU64,
    /// Of metrics that nobody needed at that time.
    pub unwanted: AtomicU64,
    /// More than the sampling time allows.
    pub excess: AtomicU64,
}

impl Collector {
    fn read(text: &str, now: Timestamp) -> Result<Self, String> {
        let Object(descriptor): Object<Descriptor> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let keep = descriptor.keep_alive.filter(|seconds| *seconds > 0.0);
        let keep = keep.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let mut resources = BTreeMap::new();
        for Object(written) in descriptor.resources.into_iter().flatten().flatten() {
            let resource = Arc::new(written.resource(None)?);
            resources.insert(resource.id.clone(), resource);
        }
        let declared: Vec<Arc<Resource>> = resources.values().cloned().collect();
        let mut offers = HashMap::new();
        let (mut compared, mut kins) = (0_usize, 0);
        for (metric, list) in descriptor.monitored_resources_by_metric.into_iter().flatten() {
            let Some(list) = list else { continue };
            if metric.is_empty() || metric.len() > MAX_ID {
                return Err(format!("the name of the metric `{}` is empty or too long", shortened(&metric)));
            }
            let mut offer = Offer { resources: Vec::with_capacity(list.len()), kin: Vec::new() };
            for Object(written) in list.into_iter().flatten() {
                let Some(kin) = written.kin()? else {
                    let resource = Arc::new(written.resource(None)?);
                    resources.entry(resource.id.clone()).or_insert_with(|| resource.clone());
                    offer.resources.push(resource);
                    continue;
                };
                compared = compared.saturating_add(declared.len());
                if compared > MAX_COMPARED {
                    let what = "entries without id or clazz, times the resources,";
                    return Err(format!("{what} are more than {MAX_COMPARED}"));
                }
                let before = offer.resources.len();
                offer.resources.extend(declared.iter().filter(|resource| kin.has(resource)).cloned());
                if offer.resources.len() == before && !offer.kin.contains(&kin) {
                    kins += 1;
                    offer.kin.push(kin);
                }
                if kins > MAX_KIN {
                    return Err(format!(
                        "more than {MAX_KIN} entries have no id, and nothing in `resources`"
                    ));
                }
            }
            let mut known = HashSet::new();
            offer.resources.retain(|resource| known.insert(resource.id.clone()));
            offers.insert(metric.as_str().into(), offer);
        }
        Ok(Self {
            descriptor: text.trim().into(),
            offers,
            resources: resources.into_values().map(Arc::unwrap_or_clone).collect(),
            there: AtomicU64::new(0),
            keep,
            seen: AtomicI64::new(now.0),
            waiting: Arc::default(),
            counted: Arc::default(),
            over: CancellationToken::new(),
        })
    }

    fn hear(&self, now: Timestamp) {
        self.seen.fetch_max(now.0, Ordering::Relaxed);
    }

    /// When it was heard of last.
    pub fn seen(&self) -> Timestamp {
        Timestamp(self.seen.load(Ordering::Relaxed))
    }

    fn lives(&self, now: Timestamp) -> bool {
        let silent = now.since(self.seen());
        self.waiting.load(Ordering::Relaxed) > 0 || self.keep.is_none_or(|keep| silent <= keep)
    }

    /// The metrics that it offers, each with the number of its resources, and whether there are others of the model besides.
    pub fn offered(&self) -> BTreeMap<&str, (usize, bool)> {
        let offers = self.offers.iter();
        offers.map(|(metric, of)| (&**metric, (of.resources.len(), !of.kin.is_empty()))).collect()
    }
}

/// A resource of a metric that collectors have registered.
pub(super) struct Offered {
    /// Which, and what is counted of them. Data do not say whose they are: what several offer is counted for the first.
    by: Vec<(Arc<str>, Arc<Counted>)>,
    /// Since when `data` are counted, in microseconds, and how many: what came in the present span of its sampling time.
    since: AtomicI64,
    data: AtomicU64,
}

/// How many data may come together, whatever the sampling time.
const BURST: u64 = 10;

impl Offered {
    /// Counts a datum; `every` is the sampling time that was asked for, in microseconds.
    pub fn count(&self, now: Timestamp, every: Option<i64>, wanted: bool) {
        let Some((_, counted)) = self.by.first() else { return };
        counted.data.fetch_add(1, Ordering::Relaxed);
        if !wanted {
            counted.unwanted.fetch_add(1, Ordering::Relaxed);
        }
        let Some(every) = every else { return };
        let since = self.since.load(Ordering::Relaxed);
        let allowed = 2 * BURST * self.by.len() as u64;
        if now.0.saturating_sub(since) > every.saturating_mul(BURST as i64) {
            self.since.store(now.0, Ordering::Relaxed);
            self.data.store(1, Ordering::Relaxed);
        } else if self.data.fetch_add(1, Ordering::Relaxed) >= allowed {
            counted.excess.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Of what collectors offer a metric.
#[derive(Default)]
pub(super) struct OfMetric {
    pub resources: HashMap<Arc<str>, Offered>,
    /// By whom, and which of those that the model has.
    kin: Vec<(Arc<str>, Kin, Arc<Counted>)>,
}

impl OfMetric {
    /// Counts a datum of a resource that no collector has registered for this metric; `resource` is what the model knows of it. Answers whether
    /// somebody offers it all the same.
    pub fn count_kin(&self, resource: impl FnOnce() -> Option<Arc<Resource>>, wanted: bool) -> bool {
        if self.kin.is_empty() {
            return false;
        }
        let Some(resource) = resource() else { return false };
        let Some((_, _, counted)) = self.kin.iter().find(|(_, kin, _)| kin.has(&resource)) else {
            return false;
        };
        counted.data.fetch_add(1, Ordering::Relaxed);
        if !wanted {
            counted.unwanted.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

/// By metric.
pub(super) type Offers = HashMap<Arc<str>, OfMetric>;

/// What is needed, by metric; looked up again whenever that changes.
#[derive(Default)]
struct Needs {
    version: Option<u64>,
    by_metric: Arc<HashMap<Arc<str>, Needed>>,
}

/// What is needed of one metric.
#[derive(Default)]
pub(super) struct Needed {
    /// By whom.
    pub services: Vec<Arc<str>>,
    /// What; what several services need is there once.
    specs: Vec<CollectSensor>,
    told: HashSet<String>,
    /// The shortest sampling time that is asked for, in microseconds.
    pub every: Option<i64>,
}

impl Needed {
    fn add(&mut self, want: Want) {
        let every =
            want.spec.parameters.get("samplingTime").and_then(|text| number(text)).filter(|s| *s > 0.0);
        if let Some(every) = every.map(|seconds| (seconds * 1e6) as i64) {
            self.every = Some(self.every.map_or(every, |least| least.min(every)));
        }
        self.services.push(want.service);
        if self.told.insert(json!([want.spec.from, want.spec.parameters]).to_string()) {
            self.specs.push(want.spec);
        }
    }
}

/// All collectors.
#[derive(Default)]
pub(super) struct Collectors {
    pub all: DashMap<Arc<str>, Arc<Collector>>,
    offers: RwLock<Offers>,
    needs: Mutex<Needs>,
    /// How many resources were taken out of the model by hand.
    taken_out: AtomicU64,
    /// What was counted of those that are gone.
    gone: Counted,
}

impl Collectors {
    pub fn offers(&self) -> std::sync::RwLockReadGuard<'_, Offers> {
        self.offers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str) -> Option<Arc<Collector>> {
        self.all.get(id).map(|collector| collector.clone())
    }

    fn insert(&self, id: &Arc<str>, mut collector: Collector) {
        let before = self.get(id);
        if let Some(before) = &before {
            collector.counted = before.counted.clone();
            collector.waiting = before.waiting.clone();
        }
        let mut offers = self.offers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &before {
            withdraw(&mut offers, id, before);
        }
        for (metric, offer) in &collector.offers {
            let of_metric = offers.entry(metric.clone()).or_default();
            for resource in &offer.resources {
                let by = (id.clone(), collector.counted.clone());
                match of_metric.resources.get_mut(resource.id.as_str()) {
                    Some(offered) => offered.by.push(by),
                    None => {
                        let (since, data) = (AtomicI64::new(0), AtomicU64::new(0));
                        let offered = Offered { by: vec![by], since, data };
                        of_metric.resources.insert(resource.id.as_str().into(), offered);
                    }
                }
            }
            let kin = offer.kin.iter().map(|kin| (id.clone(), kin.clone(), collector.counted.clone()));
            of_metric.kin.extend(kin);
        }
        self.all.insert(id.clone(), Arc::new(collector));
        if let Some(before) = before {
            before.over.cancel();
        }
    }

    fn remove(&self, id: &str) -> Option<Arc<Collector>> {
        let (id, collector) = self.all.remove(id)?;
        withdraw(&mut self.offers.write().unwrap_or_else(PoisonError::into_inner), &id, &collector);
        collector.over.cancel();
        for (all, of) in [
            (&self.gone.data, &collector.counted.data),
            (&self.gone.unwanted, &collector.counted.unwanted),
            (&self.gone.excess, &collector.counted.excess),
        ] {
            all.fetch_add(of.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Some(collector)
    }

    /// A resource was taken out of the model by hand: whose it is brings it back at its next word.
    pub fn taken_out(&self) {
        self.taken_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts in what the collectors have that live.
    pub fn register_all(&self, registry: &mut Registry) -> Vec<ModelChange> {
        let all = self.all.iter();
        all.flat_map(|c| registry.add(c.resources.iter().cloned(), false, c.seen())).collect()
    }

    /// How many data nobody had asked for, and how many were beyond the sampling time, of all that there are and were.
    pub fn counted(&self) -> (u64, u64) {
        let of = |counted: &Counted| {
            (counted.unwanted.load(Ordering::Relaxed), counted.excess.load(Ordering::Relaxed))
        };
        let all = self.all.iter().map(|collector| of(&collector.counted));
        all.fold(of(&self.gone), |(unwanted, excess), (u, e)| (unwanted + u, excess + e))
    }

    /// Who is registered now, by id.
    pub fn list(&self) -> BTreeMap<Arc<str>, Arc<Collector>> {
        self.all.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect()
    }
}

fn withdraw(offers: &mut Offers, id: &str, collector: &Collector) {
    for (metric, offer) in &collector.offers {
        let Some(of_metric) = offers.get_mut(metric) else { continue };
        for resource in &offer.resources {
            let Some(offered) = of_metric.resources.get_mut(resource.id.as_str()) else { continue };
            offered.by.retain(|(collector, _)| &**collector != id);
            if offered.by.is_empty() {
                of_metric.resources.remove(resource.id.as_str());
            }
        }
        of_metric.kin.retain(|(collector, _, _)| &**collector != id);
        if of_metric.resources.is_empty() && of_metric.kin.is_empty() {
            offers.remove(metric);
        }
    }
}

impl Tower {
    /// What is needed now, by metric.
    pub(super) fn needs(&self) -> Arc<HashMap<Arc<str>, Needed>> {
        let collection = self.supervisor.shell().collection();
        let version = *collection.changes().borrow();
        let mut needs = lock(&self.collectors.needs);
        if needs.version != Some(version) {
            let mut by_metric: HashMap<Arc<str>, Needed> = HashMap::new();
            for want in collection.wanted() {
                by_metric.entry(want.metric.clone()).or_default().add(want);
            }
            *needs = Needs { version: Some(version), by_metric: Arc::new(by_metric) };
        }
        needs.by_metric.clone()
    }

    /// What a collector is to send, as it reads it.
    fn configure(&self, collector: &Collector, authority: &str) -> String {
        let needs = self.needs();
        let mut configuration = serde_json::Map::new();
        let offers: BTreeMap<_, _> = collector.offers.iter().collect();
        // Only few have to look at the whole model.
        let mut model: Option<Vec<Arc<Resource>>> = None;
        for (metric, offer) in offers {
            let mut entries: Vec<Json> = Vec::new();
            let Some(needed) = needs.get(metric) else { continue };
            let mut resources = Cow::Borrowed(&offer.resources);
            if !offer.kin.is_empty() {
                let model = model.get_or_insert_with(|| self.supervisor.resources());
                let kin = model.iter().filter(|resource| offer.kin.iter().any(|kin| kin.has(resource)));
                resources.to_mut().extend(kin.cloned());
            }
            for spec in &needed.specs {
                let targets = triples(&spec.from, &resources);
                if !targets.is_empty() {
                    entries.push(json!({
                        "parameters": spec.parameters,
                        "targetResources": targets,
                        "daUrl": format!("http://{authority}/streams/{}", encoded(&format!("{STREAMS}{metric}"))),
                        "dataFormat": "TOWER/JSON",
                    }));
                }
            }
            if !entries.is_empty() {
                configuration.insert(metric.to_string(), entries.into());
            }
        }
        Json::Object(configuration).to_string()
    }

    async fn enroll(&self, id: Arc<str>, body: Body) -> Answer {
        let bytes = self.read(body).await?;
        let bad = |why: &dyn std::fmt::Display| {
            Refused::bad(format!("Error while registering the data collector: {why}"))
        };
        let text = String::from_utf8(bytes).map_err(|e| bad(&e))?;
        let collector = Collector::read(&text, self.now()).map_err(|e| bad(&e))?;
        if self.collectors.all.len() >= MAX_COLLECTORS && !self.collectors.all.contains_key(&id) {
            return Err(Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("there are {MAX_COLLECTORS} collectors"),
            ));
        }
        let mut registry = self.registry.lock().await;
        registry.claim(collector.keep);
        let changes = registry.add(collector.resources.iter().cloned(), false, self.now());
        collector.there.store(self.collectors.taken_out.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Err(why) = self.supervisor.register(changes).await {
            // The original's collectors try again when they get no answer, and never when they get a bad one.
            tracing::info!(collector = &*id, %why, "a data collector could not register");
            return Ok(hang_up());
        }
        self.collectors.insert(&id, collector);
        drop(registry);
        let mut answer = json_answer(StatusCode::CREATED, json!({ "id": &*id }).to_string());
        answer.headers_mut().insert(WAIT, HeaderValue::from(MAX_WAIT.as_secs()));
        Ok(answer)
    }

    /// Forgets collectors that were not heard of, and then resources; brings back resources of collectors that live.
    pub(super) async fn expire(&self) -> Result<(), PortError> {
        let mut registry = self.registry.lock().await;
        let now = self.now();
        let (mut changes, mut left) = (Vec::new(), None);
        for (id, collector) in self.collectors.list() {
            registry.claim(collector.keep);
            let lives = collector.lives(now);
            let forever = collector.keep.is_none() || collector.waiting.load(Ordering::Relaxed) > 0;
            let seen = if lives && forever { now } else { collector.seen() };
            let there = registry.refresh(collector.resources.iter().map(|r| r.id.as_str()), seen);
            if !lives {
                self.collectors.remove(&id);
                tracing::info!(collector = &*id, "a data collector has expired");
                continue;
            }
            left = left.max(Some(collector.keep.unwrap_or_default()));
            if !there {
                changes.extend(registry.add(collector.resources.iter().cloned(), false, seen));
            }
        }
        changes.extend(registry.expire(now, left));
        self.supervisor.register(changes).await
    }

    /// Hears of a collector; what was taken out of the model by hand comes back.
    async fn heard(&self, id: &str) -> Result<Arc<Collector>, Refused> {
        let collector = self.collectors.get(id).ok_or_else(|| Refused::missing("data collector", id))?;
        let now = self.now();
        collector.hear(now);
        let taken_out = || self.collectors.taken_out.load(Ordering::Relaxed);
        if collector.there.load(Ordering::Relaxed) == taken_out() {
            return Ok(collector);
        }
        let mut registry = self.registry.lock().await;
        // It may be gone meanwhile.
        if self.collectors.get(id).is_some_and(|known| Arc::ptr_eq(&known, &collector)) {
            collector.there.store(taken_out(), Ordering::Relaxed);
            let ids = collector.resources.iter().map(|resource| resource.id.as_str());
            if !registry.refresh(ids, now) {
                let changes = registry.add(collector.resources.iter().cloned(), false, now);
                self.supervisor.register(changes).await?;
            }
        }
        Ok(collector)
    }

    /// Where clients of this request reach this server.
    fn authority(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        match host.filter(|host| !host.as_str().contains('@')) {
            Some(host) => host.to_string(),
            None => self.address.to_string(),
        }
    }
}

/// Those of the targets that one of the resources is, as `[class, type, id]`. What these three cannot say is said by ids.
fn triples(targets: &[Selector], resources: &[Arc<Resource>]) -> Vec<[Option<String>; 3]> {
    let any = [Selector::default()];
    let targets = if targets.is_empty() { &any } else { targets };
    let (mut triples, mut told) = (Vec::new(), HashSet::new());
    for target in targets {
        // The original's collectors find nothing in three times `null`.
        let says = target.class.is_some() || target.kind.is_some() || target.id.is_some();
        let exact = !target.id.as_ref().is_some_and(|id| id.contains('*'));
        let simple = says && exact && target.relations.is_empty();
        for resource in resources.iter().filter(|resource| target.matches(resource)) {
            let triple = match simple {
                true => [target.class.clone(), target.kind.clone(), target.id.clone()],
                false => [resource.class.clone(), resource.kind.clone(), Some(resource.id.clone())],
            };
            if told.insert(triple.clone()) {
                triples.push(triple);
            }
            if simple {
                break;
            }
        }
    }
    triples
}

/// As the clients of Tower 4Clouds write a name in a path.
pub(in super::super) fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// `POST /v1/data-collectors`
pub(super) async fn register(State(tower): App, body: Body) -> Answer {
    tower.enroll(new_id().into(), body).await
}

/// `PUT /v1/data-collectors/{id}`: again, after a restart of either side.
pub(super) async fn register_again(State(tower): App, Path(id): Path<String>, body: Body) -> Answer {
    if id.len() > MAX_ID {
        return Err(Refused::bad(format!("the id is longer than {MAX_ID} bytes")));
    }
    tower.enroll(id.into(), body).await
}

/// `GET /v1/data-collectors`
pub(super) async fn list(State(tower): App) -> Answer {
    let mut text = String::from("{");
    for (id, collector) in tower.collectors.list() {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&Json::from(&*id).to_string());
        text.push(':');
        text.push_str(&collector.descriptor);
    }
    text.push('}');
    Ok(json_answer(StatusCode::OK, text))
}

/// `GET /v1/data-collectors/{id}`
pub(super) async fn one(State(tower): App, Path(id): Path<String>) -> Answer {
    let collector = tower.collectors.get(&id).ok_or_else(|| Refused::missing("data collector", &id))?;
    Ok(json_answer(StatusCode::OK, collector.descriptor.to_string()))
}

/// `DELETE /v1/data-collectors/{id}`: its resources expire as if it had fallen silent now.
pub(super) async fn remove(State(tower): App, Path(id): Path<String>) -> Answer {
    let mut registry = tower.registry.lock().await;
    let collector = tower.collectors.remove(&id).ok_or_else(|| Refused::missing("data collector", &id))?;
    registry.refresh(collector.resources.iter().map(|r| r.id.as_str()), collector.seen());
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /v1/data-collectors/{id}/keepalive`
pub(super) async fn keep_alive(State(tower): App, Path(id): Path<String>) -> Answer {
    tower.heard(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Counts as a word of its collector for as long as it lives.
struct Waiting<'a>(&'a Tower, Arc<Collector>);

impl<'a> Waiting<'a> {
    fn new(tower: &'a Tower, collector: Arc<Collector>) -> Self {
        collector.waiting.fetch_add(1, Ordering::Relaxed);
        Self(tower, collector)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.1.hear(self.0.now());
        self.1.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `GET /v1/data-collectors/{id}/configuration`. With `Prefer: wait=SECONDS` it is answered when the configuration is another than those of
/// `If-None-Match`, or else than now, and at the latest after that time. When it is one of those of `If-None-Match`, the answer is 304.
pub(super) async fn configuration(State(tower): App, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let mut collector = tower.heard(&id).await?;
    let authority = tower.authority(&headers);
    let mut changes = tower.supervisor.shell().collection().changes();
    changes.borrow_and_update();
    let mut text = tower.configure(&collector, &authority);
    let given = headers.contains_key(header::IF_NONE_MATCH).then(|| Known::read(&headers, &text));
    let Some(wait) = prefer::wait(&headers).map(|wait| wait.min(MAX_WAIT)) else {
        let unchanged = given.is_some_and(|known| known.has(&text));
        return Ok(configured(text, unchanged));
    };
    let known = given.clone().unwrap_or_else(|| Known::now(&text));
    let over = tokio::time::sleep(wait);
    let mut over = std::pin::pin!(over);
    let waiting = Waiting::new(&tower, collector.clone());
    while known.has(&text) {
        tokio::select! {
            () = &mut over => break,
            () = tower.stop.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            () = collector.over.cancelled() => {}
        }
        // It may have registered anew, or not be there any more.
        collector = tower.collectors.get(&id).ok_or_else(|| Refused::missing("data collector", &id))?;
        text = tower.configure(&collector, &authority);
    }
    drop(waiting);
    let unchanged = given.is_some_and(|known| known.has(&text));
    let mut answer = configured(text, unchanged);
    let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs()));
    if let Ok(applied) = applied {
        answer.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    }
    Ok(answer)
}

/// What a client has, by the tags in its `If-None-Match` (RFC 9110, 13.1.2).
#[derive(Debug, Clone, PartialEq)]
struct Known(Vec<String>);

impl Known {
    /// It has what is `now`.
    fn now(now: &str) -> Self {
        Self(vec![tag(now)])
    }

    /// Reads a list of tags, weak ones as well: whether they are weak is not looked at. `*` is whatever is there `now`.
    fn read(headers: &HeaderMap, now: &str) -> Self {
        let mut tags = Vec::new();
        for value in headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()) {
            if value.trim() == "*" {
                tags.push(tag(now));
            }
            // A tag may contain a comma: what stands between two quotes is one.
            let quoted = value.split('"').skip(1).step_by(2);
            tags.extend(quoted.map(|text| format!("\"{text}\"")));
        }
        Self(tags)
    }

    fn has(&self, text: &str) -> bool {
        self.0.contains(&tag(text))
    }
}

fn tag(text: &str) -> String {
    format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..16])
}

fn configured(text: String, unchanged: bool) -> Response {
    let tag = HeaderValue::try_from(tag(&text));
    let mut answer = match unchanged {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => json_answer(StatusCode::OK, text),
    };
    if let Ok(tag) = tag {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_whether_they_are_weak_one_of_a_list_or_a_star() {
        let now = "{}";
        let known = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_NONE_MATCH, HeaderValue::try_from(value).unwrap());
            }
            Known::read(&headers, now).has(now)
        };
        let tag = tag(now);
        for same in
            [tag.clone(), format!("W/{tag}"), format!("\"a,b\", W/\"c\" ,{tag}"), "*".into(), " * ".into()]
        {
            assert!(known(std::slice::from_ref(&same)), "{same}");
        }
        assert!(known(&["\"a\"".into(), tag.clone()]), "two headers");
        for other in ["\"a\"".to_string(), "\"*\"".into(), tag.trim_matches('"').into(), String::new()] {
            assert!(!known(std::slice::from_ref(&other)), "{other}");
        }
    }

    #[test]
    fn an_entry_without_id_is_every_resource_of_its_kind_that_is_declared() {
        let read = |entries: &str| {
            let text = format!(
                r#"{{"monitoredResourcesByMetric":{{"CPU":[{entries}]}},"resources":[{{"clazz":"VM","type":"F","id":"a"}},{{"clazz":"VM","type":"B","id":"b"}},{{"clazz":"Method","id":"m"}}]}}"#
            );
            Collector::read(&text, Timestamp(0))
        };
        for (entries, ids, kin) in [
            (r#"{"clazz":"VM"}"#, &["a", "b"][..], 0),
            (r#"{"clazz":"VM","type":"F","id":null}"#, &["a"], 0),
            (r#"{"type":"B","id":""}"#, &["b"], 0),
            (r#"{"id":"m"}"#, &["m"], 0),
            ("{}", &["a", "b", "m"], 0),
            (r#"{"clazz":"VM","id":"b"},{"clazz":"VM"},{"clazz":"VM","type":"B"}"#, &["b", "a"], 0),
            (r#"{"clazz":"Rack"},{"clazz":"Rack"},{"clazz":"VM","type":"F"}"#, &["a"], 1),
            (r#"{"clazz":"VM","id":"new"}"#, &["new"], 0),
        ] {
            let collector = read(entries).unwrap();
            let offer = &collector.offers["CPU"];
            let offered: Vec<&str> = offer.resources.iter().map(|r| r.id.as_str()).collect();
            assert_eq!((offered.as_slice(), offer.kin.len()), (ids, kin), "{entries}");
        }
        for wrong in [r#"{"clazz":"Toaster"}"#, r#"{"clazz":"Toaster","id":"a"}"#, r#"{"id":7}"#, "7"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let many: Vec<String> =
            (0..=MAX_KIN).map(|n| format!(r#"{{"clazz":"Rack","type":"{n}"}}"#)).collect();
        assert!(read(&many[1..].join(",")).is_ok() && read(&many.join(",")).is_err());
    }

    #[test]
    fn null_for_a_list_is_as_good_as_none() {
        let text = r#"{"monitoredResourcesByMetric":{"CPU":null,"RAM":[{"clazz":"VM","id":"v"}]},"resources":null,"keepAlive":null}"#;
        let collector = Collector::read(text, Timestamp(0)).unwrap();
        assert_eq!(collector.offered(), BTreeMap::from([("RAM", (1, false))]));
        assert!(
            Collector::read(r#"{"monitoredResourcesByMetric":null}"#, Timestamp(0))
                .unwrap()
                .offered()
                .is_empty()
        );
    }
}
