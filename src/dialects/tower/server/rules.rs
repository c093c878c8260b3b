//! Rules: each is a service that was attached by hand, and its SLO is its switch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;

use super::super::rule::Rule;
use super::super::translate::{ANNOTATION, SLO, translate};
use super::super::{validate, write, xml};
use super::{Answer, App, Refused, Tower, json, lock};
use crate::model::SloState;
use crate::policy::document::ServiceDocument;
use crate::policy::{MetricKind, ServicePolicy};
use crate::service::control::ChangeError;
use crate::service::message::{Request, Response};

/// How many services are asked at once.
const ASKED: usize = 256;

/// What the services that run put out and read.
#[derive(Default)]
pub(super) struct Catalog {
    running: String,
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Who puts out a metric, by metric; rules of files and native policies as well.
    pub emitted: BTreeMap<Arc<str>, Arc<str>>,
    /// Every metric that a service collects, whether it is enabled or not.
    pub collected: BTreeSet<Arc<str>>,
    /// Those whose data some service does nothing with but count: text will do.
    pub counted: BTreeSet<Arc<str>>,
}

/// One service.
pub(super) struct Entry {
    policy: Arc<ServicePolicy>,
    /// The rule that it is, if it is one.
    pub rule: Option<Rule>,
    pub emits: Vec<Arc<str>>,
    collects: Vec<Arc<str>>,
    counts: Vec<Arc<str>>,
}

impl Entry {
    fn of(policy: &Arc<ServicePolicy>) -> Self {
        let document = policy.document.open().ok();
        let rule = document.as_ref().and_then(|d| d.annotations.get(ANNOTATION)).and_then(|text| {
            let mut read = xml::rules(text).ok()?;
            read.items.pop().map(|read| read.value)
        });
        let streams = || {
            let metrics = policy.monitor.iter().flat_map(|m| &m.metrics);
            metrics.filter_map(|metric| match &metric.kind {
                MetricKind::Stream(stream) => Some(stream),
                _ => None,
            })
        };
        Self {
            rule,
            emits: streams().filter_map(|s| s.emit.clone()).collect(),
            collects: streams().map(|s| s.metric.clone()).collect(),
            counts: streams().filter(|s| s.only_counts()).map(|s| s.metric.clone()).collect(),
            policy: policy.clone(),
        }
    }
}

impl Entry {
    /// Whether it does something else than to put out metrics.
    pub fn has_other_actions(&self) -> bool {
        self.policy.plan.as_ref().is_some_and(|plan| !plan.rows.is_empty())
    }

    /// The metrics that it reads.
    pub fn reads(&self) -> &[Arc<str>] {
        &self.collects
    }
}

impl Catalog {
    /// The rules, by id.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<str>, &Rule)> {
        self.entries.iter().filter_map(|(name, entry)| Some((name, entry.rule.as_ref()?)))
    }

    /// The rule of this id.
    pub fn rule(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id).filter(|entry| entry.rule.is_some()).map(|entry| &**entry)
    }
}

impl Tower {
    /// What runs now.
    pub(super) async fn catalog(&self) -> Arc<Catalog> {
        let running = self.supervisor.policy_status().running;
        let before = lock(&self.catalog).clone();
        if before.running == running {
            return before;
        }
        let set = self.supervisor.running().await;
        let mut catalog = Catalog { running: set.hash.to_string(), ..Catalog::default() };
        for (name, policy) in set.services.iter() {
            let known = before.entries.get(name).filter(|entry| Arc::ptr_eq(&entry.policy, policy));
            let entry = known.cloned().unwrap_or_else(|| Arc::new(Entry::of(policy)));
            catalog.emitted.extend(entry.emits.iter().map(|metric| (metric.clone(), name.clone())));
            catalog.collected.extend(entry.collects.iter().cloned());
            catalog.counted.extend(entry.counts.iter().cloned());
            catalog.entries.insert(name.clone(), entry);
        }
        let catalog = Arc::new(catalog);
        *lock(&self.catalog) = catalog.clone();
        catalog
    }

    /// Which of the rules are enabled.
    pub(super) async fn enabled(&self, catalog: &Catalog) -> HashMap<Arc<str>, bool> {
        let names: Vec<&Arc<str>> = catalog.rules().map(|(name, _)| name).collect();
        let mut enabled = HashMap::new();
        for chunk in names.chunks(ASKED) {
            let asked = chunk.iter().map(|name| async move {
                let slos = match self.supervisor.shell().call(name, Request::SloList).await {
                    Ok(Response::Slos(slos)) => slos,
                    _ => return None,
                };
                let slo = slos.iter().find(|slo| slo.name == SLO)?;
                Some(((*name).clone(), slo.state != SloState::Disabled))
            });
            enabled.extend(futures::future::join_all(asked).await.into_iter().flatten());
        }
        enabled
    }

    /// Whether a rule is enabled.
    pub(super) async fn is_enabled(&self, id: &str) -> Result<bool, Refused> {
        Ok(match self.supervisor.shell().call(id, Request::SloList).await? {
            Response::Slos(slos) => slos.iter().any(|slo| slo.name == SLO && slo.state != SloState::Disabled),
            _ => false,
        })
    }

    /// Installs all rules of a batch, or none.
    pub(super) async fn install_rules(&self, text: String) -> Result<(), Refused> {
        let _one = self.installing.lock().await;
        let catalog = self.catalog().await;
        let read = tokio::task::spawn_blocking(move || documents(&text, &catalog)).await;
        let documents =
            read.map_err(|e| Refused::failed(format!("Error while reading the rules: {e}")))??;
        let names: Vec<String> =
            documents.iter().filter_map(|(name, d)| d.as_ref().map(|_| name.clone())).collect();
        self.forget(&names).await;
        let changed = self.supervisor.change_all(documents).await;
        changed.map_err(|error| match error {
            ChangeError::Refused(refusal) => not_installed(refusal.problems.join(", ")),
            ChangeError::Port(error) => error.into(),
        })?;
        self.settle(&names).await;
        tracing::info!(rules = names.len(), "monitoring rules were installed");
        Ok(())
    }

    /// Waits until the shards of these rules have done what they were sent.
    async fn settle(&self, names: &[String]) {
        let shell = self.supervisor.shell();
        let mut shards = BTreeSet::new();
        for name in names.iter().filter(|name| shards.insert(shell.shard_of(name))) {
            // There may be none of this name any more, and that is an answer.
            let _ = shell.call(name, Request::SloList).await;
        }
    }

    /// What the record knows of earlier rules of these ids is not about the new ones.
    async fn forget(&self, names: &[String]) {
        let store = self.supervisor.shell().store();
        let mut known = store.all_knowledge().await.unwrap_or_default();
        for name in names {
            drop(store.slo_enabled(name, SLO, None));
            for key in known.remove(name).into_iter().flatten().map(|(key, _)| key) {
                drop(store.knowledge(name, &key, None));
            }
        }
    }

    /// Switches a rule.
    pub(super) async fn switch_rule(&self, id: &str, on: bool) -> Result<(), Refused> {
        if self.catalog().await.rule(id).is_none() {
            return Err(Refused::missing("rule", id));
        }
        let request = Request::EnableSlo { name: SLO.to_string(), on };
        self.supervisor.shell().call(id, request).await?;
        Ok(())
    }

    /// Takes a rule out, and with it who observed its metrics.
    pub(super) async fn remove_rule(&self, id: &str) -> Result<(), Refused> {
        let _one = self.installing.lock().await;
        let catalog = self.catalog().await;
        let Some(entry) = catalog.rule(id) else { return Err(Refused::missing("rule", id)) };
        self.supervisor.change_all(vec![(id.to_string(), None)]).await.map_err(|error| match error {
            ChangeError::Refused(refusal) => Refused::failed(refusal.problems.join(", ")),
            ChangeError::Port(error) => error.into(),
        })?;
        self.settle(&[id.to_string()]).await;
        for metric in &entry.emits {
            for id in self.observers.remove_all(metric) {
                self.keep(&format!("observer/{id}"), None).await?;
            }
        }
        Ok(())
    }
}

fn not_installed(why: impl std::fmt::Display) -> Refused {
    Refused::bad(format!("Error while installing monitoring rules: {why}"))
}

type Documents = Vec<(String, Option<ServiceDocument>)>;

/// Reads a batch: the documents of all of its rules, or everything that is wrong with them.
fn documents(text: &str, catalog: &Catalog) -> Result<Documents, Refused> {
    let batch = xml::rules(text).map_err(not_installed)?;
    let installed: Vec<Rule> = catalog.rules().map(|(_, rule)| rule.clone()).collect();
    let problems = validate::validate(&batch.items, &installed, Some(text));
    if !problems.is_empty() {
        return Err(not_installed(validate::summary(&problems)));
    }
    let rules: Vec<&Rule> = batch.items.iter().map(|read| &read.value).collect();
    let metrics: HashMap<&str, &str> = installed
        .iter()
        .chain(rules.iter().copied())
        .filter_map(|r| Some((r.id.as_deref()?, r.metric_name()?)))
        .collect();
    let metric_of = |id: &str| metrics.get(id).map(|metric| metric.to_string());
    let mut documents = Vec::with_capacity(rules.len());
    let mut wrong = Vec::new();
    for rule in rules {
        let id = rule.name().to_string();
        if catalog.entries.contains_key(id.as_str()) {
            let details = "a managed service, or a rule of a policy file, has this name";
            wrong.push(format!("[Rule {id}, error: ID_ALREADY_EXISTS at position id, details: {details}]"));
            continue;
        }
        let emitted = rule.outputs().find(|metric| {
            let by = catalog.emitted.get(*metric).and_then(|service| catalog.entries.get(service));
            by.is_some_and(|entry| entry.rule.is_none())
        });
        if let Some(metric) = emitted {
            let details = format!("a policy puts out the metric {metric} already");
            wrong.push(format!("[Rule {id}, error: INVALID_ACTION at position metric, details: {details}]"));
            continue;
        }
        match translate(rule, &metric_of).map_err(|e| e.to_string()) {
            Ok(document) => documents.push((id, Some(document))),
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() { Ok(documents) } else { Err(not_installed(wrong.join(", "))) }
}

/// `GET /v1/monitoring-rules`
pub(super) async fn list(State(tower): App) -> Answer {
    let catalog = tower.catalog().await;
    let enabled = tower.enabled(&catalog).await;
    let rules: Vec<Rule> = catalog
        .rules()
        .map(|(name, rule)| Rule { enabled: enabled.get(name).copied().or(rule.enabled), ..rule.clone() })
        .collect();
    Ok(([(header::CONTENT_TYPE, "application/xml; charset=UTF-8")], write::rules(&rules)).into_response())
}

/// `POST /v1/monitoring-rules`
pub(super) async fn install(State(tower): App, body: Body) -> Answer {
    let bytes = tower.read(body).await?;
    let text = String::from_utf8(bytes).map_err(|e| not_installed(format!("the text is not UTF-8: {e}")))?;
    tower.install_rules(text).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /v1/monitoring-rules/{id}?enabled=`: changes something, as in the original.
pub(super) async fn switch(State(tower): App, Path(id): Path<String>, method: Method, uri: Uri) -> Answer {
    // Whoever only looks changes nothing.
    if method != Method::GET {
        return Ok(StatusCode::METHOD_NOT_ALLOWED.into_response());
    }
    let query = uri.query().unwrap_or_default();
    let value = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "enabled");
    let on = match value.as_ref().map(|(_, value)| &**value) {
        Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(Refused::bad("The parameter enabled must be true or false")),
        None => return Err(Refused::bad("The parameter enabled is missing; it must be true or false")),
    };
    tower.switch_rule(&id, on).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /v1/monitoring-rules/{id}`
pub(super) async fn remove(State(tower): App, Path(id): Path<String>) -> Answer {
    tower.remove_rule(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /v1/metrics`: what can be observed.
pub(super) async fn metrics(State(tower): App) -> Answer {
    let catalog = tower.catalog().await;
    json(&catalog.emitted.keys().collect::<Vec<_>>())
}

/// `GET /v1/required-metrics`: what enabled rules need and no rule puts out.
pub(super) async fn required(State(tower): App) -> Answer {
    let catalog = tower.catalog().await;
    let wanted = tower.supervisor.shell().collection().wanted();
    let required: BTreeSet<Arc<str>> = wanted
        .into_iter()
        .map(|want| want.metric)
        .filter(|metric| !catalog.emitted.contains_key(metric))
        .collect();
    json(&required)
}
