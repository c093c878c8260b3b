//! Which services run, and with which policies: the one place where the set changes. Files, changes by hand and what was restored meet here;
//! a difference is worked out, checked as a whole, and handed to the shards. A refused change leaves what runs running.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};

use dashmap::DashMap;
use tokio::sync::{Mutex, oneshot};

use super::control::{
    Applied, ChangeError, Component, ExportedMetric, Figure, Origin, PolicyStatus, Refusal, SelfStats,
    ServiceStatus,
};
use super::groups::{Members, memberships};
use super::message::{Apply, Letter, Message, Request, Response, Restored};
use super::shell::{Effectors, Shell};
use super::turn::OPEN_DECISIONS;
use crate::knowledge::store::{Binding, Entries, HandMade, HandNote, Noted};
use crate::membrane::Served;
use crate::model::connector::SensorSpec;
use crate::model::module::Module;
use crate::model::ports::PortError;
use crate::model::{MetricId, ModelChange, Resource, Schedule, ServiceId, Timestamp};
use crate::policy::compile::{compile_by_hand, compile_kept};
use crate::policy::diagnostics::Problem;
use crate::policy::diff::{Change, diff};
use crate::policy::document::ServiceDocument;
use crate::policy::load::service_from_json;
use crate::policy::merge::differing;
use crate::policy::overlay::{
    ByHand, Changes, inline_script, inlined, is_inline, overlay, overlay_more, script,
};
use crate::policy::script::Script;
use crate::policy::set::PolicySet;
use crate::policy::{MetricKind, ReferencePolicy, ServicePolicy};

/// What a change by hand may leave without what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dangling {
    /// Anything that is there already: something was taken away, or comes in parts. It is told as a warning.
    Told,
    /// Nothing new: what was added must find all that it names.
    Refused,
}

/// The part of a hand-made change in the store: all of them are about whole services.
const WHOLE: &str = "service";

#[derive(Default)]
struct State {
    /// What the files say.
    files: PolicySet,
    /// What the files said before the last change, for the way back.
    before: Option<PolicySet>,
    by_hand: Changes,
    running: PolicySet,
    /// The services that were detached since the start: their shards may still have something of theirs to record.
    gone: BTreeSet<Arc<str>>,
    /// What the members of every group metric were told to be.
    members: HashMap<(Arc<str>, Arc<str>), Members>,
}

/// The resource model: what policies declare, and what is registered besides. The shards have what comes of both.
#[derive(Default)]
struct Model {
    declared: BTreeMap<Arc<str>, Arc<Resource>>,
    registered: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl Model {
    /// What policies say comes first; but a service that says nothing of itself, such as a rule, hides nothing that is called like it.
    fn get(&self, id: &str) -> Option<Arc<Resource>> {
        let says_something =
            |r: &&Arc<Resource>| r.class.is_some() || r.kind.is_some() || !r.relations.is_empty();
        let (declared, registered) = (self.declared.get(id), self.registered.get(id));
        declared.filter(|d| registered.is_none() || says_something(d)).or(registered).cloned()
    }

    fn all(&self) -> Vec<Arc<Resource>> {
        let ids: BTreeSet<&Arc<str>> = self.declared.keys().chain(self.registered.keys()).collect();
        ids.into_iter().filter_map(|id| self.get(id)).collect()
    }

    fn declare(&mut self, id: &Arc<str>, resource: Option<Arc<Resource>>) -> Option<ModelChange> {
        self.changing(id, |model| match resource {
            Some(resource) => drop(model.declared.insert(id.clone(), resource)),
            None => drop(model.declared.remove(id)),
        })
    }

    fn register(&mut self, change: ModelChange) -> Option<ModelChange> {
        let id: Arc<str> = match &change {
            ModelChange::Put(resource) => resource.id.as_str().into(),
            ModelChange::Remove(id) => id.clone(),
        };
        self.changing(&id, |model| match change {
            ModelChange::Put(resource) => drop(model.registered.insert(id.clone(), resource)),
            ModelChange::Remove(id) => drop(model.registered.remove(&id)),
        })
    }

    /// What a change comes to for the shards, if anything.
    fn changing(&mut self, id: &Arc<str>, change: impl FnOnce(&mut Self)) -> Option<ModelChange> {
        let before = self.get(id);
        change(self);
        match self.get(id) {
            after if after == before => None,
            Some(after) => Some(ModelChange::Put(after)),
            None => Some(ModelChange::Remove(id.clone())),
        }
    }
}

/// What of a service takes pushed values.
#[derive(Debug, Clone)]
struct Pushable {
    service: ServiceId,
    shard: usize,
    /// When its monitor measures.
    schedule: Schedule,
    /// By name, sorted.
    metrics: Arc<[(Arc<str>, MetricId)]>,
}

/// The set of services of a running homeostat.
pub struct Supervisor {
    shell: Shell,
    state: Mutex<State>,
    status: Lock<PolicyStatus>,
    /// What is attached, for readers that must not wait for a change that is under way.
    names: Lock<Arc<[Arc<str>]>>,
    origins: DashMap<String, Origin>,
    pushable: DashMap<Arc<str>, Pushable>,
    model: Lock<Model>,
    applied: AtomicU64,
    refused: AtomicU64,
    ready: AtomicBool,
    /// Who counts something about itself.
    counting: Lock<Vec<Counting>>,
    /// Changes that wait to be made together.
    joining: Lock<Vec<Joining>>,
}

/// A change that waits to be made with others.
struct Joining {
    changes: Vec<(String, Option<Compiled>)>,
    tell: oneshot::Sender<Result<(), ChangeError>>,
}

/// A policy that was compiled by itself, and is still to be seen with all others.
#[derive(Debug, Clone)]
pub struct Compiled {
    policy: ServicePolicy,
    /// What it names and what is not there, as warnings.
    loose: Vec<String>,
}

impl Compiled {
    /// Compiles a document that stands for itself: its scripts are inline.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn new(document: ServiceDocument) -> Result<Self, Refusal> {
        match compile_by_hand(document, &inline) {
            Ok((policy, loose)) => {
                Ok(Self { policy, loose: loose.iter().map(ToString::to_string).collect() })
            }
            Err(problems) => Err(refusal(problems.iter().map(ToString::to_string).collect())),
        }
    }
}

/// Says what was counted, whenever somebody asks; must not wait.
pub type Counting = Box<dyn Fn() -> Vec<Figure> + Send + Sync>;

impl Supervisor {
    /// Nothing attached yet.
    pub fn new(shell: Shell) -> Self {
        Self {
            shell,
            state: Mutex::default(),
            status: Lock::default(),
            names: Lock::default(),
            origins: DashMap::new(),
            pushable: DashMap::new(),
            model: Lock::default(),
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            counting: Lock::default(),
            joining: Lock::default(),
        }
    }

    /// What this counts is in `/metrics` from now on.
    pub fn count_in(&self, counting: Counting) {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).push(counting);
    }

    /// Everything that was counted in.
    pub fn figures(&self) -> Vec<Figure> {
        let counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        counting.iter().flat_map(|figures| figures()).collect()
    }

    /// The shell that it feeds.
    pub fn shell(&self) -> &Shell {
        &self.shell
    }

    /// Whether policies run and nothing is stopping.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Says whether it is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
    }

    /// Brings back the changes by hand of an earlier run. They are laid over the files at the next [`Supervisor::apply`], unless those
    /// have changed since.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn restore(&self) -> Result<(), crate::knowledge::store::StoreError> {
        let mut state = self.state.lock().await;
        for change in self.shell.store().all_hand_made().await? {
            let HandMade { service, document, base_hash, .. } = change;
            let kept = |document| compile_kept(service_from_json(&document)?, &inline);
            let policy = match document.map(kept) {
                None => None,
                Some(Ok(policy)) => Some(policy),
                Some(Err(problems)) => {
                    tracing::warn!(service, problems = %join(&problems), "a change by hand is not understood any more");
                    continue;
                }
            };
            state.by_hand.insert(service.as_str().into(), ByHand::new(policy, base_hash));
        }
        Ok(())
    }

    /// Settles what the last stop interrupted; to be called before the first [`Supervisor::apply`], with what will run.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub async fn reconcile(&self, files: &PolicySet) -> Result<usize, crate::knowledge::store::StoreError> {
        let by_hand = self.state.lock().await.by_hand.clone();
        let by_hand = self.still_valid(&by_hand, files);
        let mut services = (*files.services).clone();
        for (name, change) in by_hand {
            match change.policy {
                Some(policy) => drop(services.insert(name, policy)),
                None => drop(services.remove(&name)),
            }
        }
        let mut effectors = Effectors::new();
        for policy in services.values() {
            for (action, effector) in policy.execute.iter().flat_map(|e| &e.effectors) {
                effectors.insert((policy.name.to_string(), action.to_string()), effector.clone());
            }
        }
        let served = services.values().map(|policy| (policy.name.to_string(), served(policy))).collect();
        self.shell.reconcile(&effectors, &served).await
    }

    /// The set that runs.
    pub async fn running(&self) -> PolicySet {
        self.state.lock().await.running.clone()
    }

    /// What the files said at the last successful change.
    pub async fn files(&self) -> PolicySet {
        self.state.lock().await.files.clone()
    }

    /// Lets what the files say now run, with the changes by hand that are still about the same files.
    ///
    /// # Errors
    /// Every mistake that shows when files and changes by hand are seen together; nothing has changed then.
    pub async fn apply(&self, files: PolicySet, warnings: &[Problem]) -> Result<Applied, ChangeError> {
        let mut state = self.state.lock().await;
        let by_hand = self.still_valid(&state.by_hand, &files);
        let first = self.applied.load(Ordering::Relaxed) == 0;
        let (next, more) = match overlay(&files, &by_hand) {
            Ok(laid) => laid,
            // Nothing runs yet that could be asked to take the changes by hand back, so files alone decide.
            Err(problems) if first && !by_hand.is_empty() => {
                let why = join(&problems);
                tracing::error!(problems = %why, "changes by hand do not fit the policies any more and are left out");
                state.by_hand.clear();
                overlay(&files, &Changes::new()).map_err(|problems| self.refuse(&problems))?
            }
            Err(problems) => return Err(self.refuse(&problems).into()),
        };
        let by_hand: Changes =
            by_hand.into_iter().filter(|(name, _)| state.by_hand.contains_key(name)).collect();
        let mut applied = self.transition(&mut state, next, false).await?;
        self.with_status(|status| status.pending = None);
        let dropped: Vec<Arc<str>> =
            state.by_hand.keys().filter(|name| !by_hand.contains_key(*name)).cloned().collect();
        for name in dropped {
            let _ = self.shell.store().forget_hand_made(&name, WHOLE).await;
            self.shell.tell(
                "policy",
                Some(&name),
                "the change by hand gives way to the changed policy".into(),
            );
        }
        self.note_origins(&by_hand, &state.running);
        state.by_hand = by_hand;
        let before = std::mem::replace(&mut state.files, files);
        // Reading the same again is no change to go back from, and before the start there was nothing.
        if !first && before.hash != state.files.hash {
            state.before = Some(before);
        }
        applied.warnings = warnings.iter().chain(&more).map(ToString::to_string).collect();
        Ok(applied)
    }

    /// What [`Supervisor::apply`] would change.
    ///
    /// # Errors
    /// As [`Supervisor::apply`].
    pub async fn preview(&self, files: &PolicySet, warnings: &[Problem]) -> Result<Applied, ChangeError> {
        let state = self.state.lock().await;
        let by_hand = self.still_valid(&state.by_hand, files);
        let (next, more) = overlay(files, &by_hand)
            .map_err(|problems| refusal(problems.iter().map(ToString::to_string).collect()))?;
        Ok(Applied {
            running: next.hash.to_string(),
            changes: lines(&diff(&state.running, &next)),
            warnings: warnings.iter().chain(&more).map(ToString::to_string).collect(),
        })
    }

    /// Goes back to what the files said before the last change.
    ///
    /// # Errors
    /// When there is nothing to go back to.
    pub async fn rollback(&self) -> Result<Applied, ChangeError> {
        let before = self.state.lock().await.before.clone();
        match before {
            Some(files) => self.apply(files, &[]).await,
            None => Err(PortError::Conflict("there is no earlier state to go back to".into()).into()),
        }
    }

    /// Takes note of policies that were refused before they came here.
    pub fn refuse(&self, problems: &[Problem]) -> Refusal {
        self.refuse_lines(problems.iter().map(ToString::to_string).collect())
    }

    fn refuse_lines(&self, problems: Vec<String>) -> Refusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let refusal = Refusal { at: Some(self.shell.clock().now()), problems };
        self.with_status(|status| status.pending = Some(refusal.clone()));
        self.shell.tell(
            "policy",
            None,
            format!("refused: {} problem(s); what runs keeps running", refusal.problems.len()),
        );
        refusal
    }

    /// Changes one service by hand; remembered over a restart until its policy file changes.
    ///
    /// # Errors
    /// Whatever `edit` says, or every mistake in the result; nothing has changed then.
    pub async fn change(
        &self,
        name: &str,
        dangling: Dangling,
        edit: impl FnOnce(Option<&ServiceDocument>) -> Result<Option<serde_json::Value>, PortError>,
    ) -> Result<Applied, ChangeError> {
        let mut state = self.state.lock().await;
        let running = state.running.services.get(name);
        let document = running.map(|p| p.document.open()).transpose();
        let document = document.map_err(|e| PortError::Invalid(e.to_string()))?;
        let edited = edit(document.as_ref())?;
        let files = &state.files;
        let find = |name: &str| inline(name).or_else(|| script(files, name));
        let (policy, loose) = match &edited {
            None => (None, Vec::new()),
            Some(document) => {
                broken_inline(document).map_or(Ok(()), |why| Err(refusal(vec![why])))?;
                let (policy, loose) = compile_json(document, &find)
                    .map_err(|p| refusal(p.iter().map(ToString::to_string).collect()))?;
                (Some(policy), loose.iter().map(ToString::to_string).collect())
            }
        };
        if dangling == Dangling::Refused {
            let before = document.and_then(|document| compile_by_hand(document, &find).ok());
            let before: Vec<String> =
                before.iter().flat_map(|(_, loose)| loose).map(ToString::to_string).collect();
            let new: Vec<String> = loose.iter().filter(|l| !before.contains(l)).cloned().collect();
            if !new.is_empty() {
                return Err(refusal(new).into());
            }
        }
        self.run_by_hand(&mut state, vec![(name.into(), policy)], loose, None).await
    }

    /// Changes many services by hand, all or none: `None` detaches one. Remembered as by [`Supervisor::change`].
    ///
    /// # Errors
    /// Every mistake in every document, and in all of them together; nothing has changed then.
    pub async fn change_all(
        &self,
        documents: Vec<(String, Option<ServiceDocument>)>,
    ) -> Result<Applied, ChangeError> {
        let mut state = self.state.lock().await;
        let files = &state.files;
        let find = |name: &str| inline(name).or_else(|| script(files, name));
        let (mut changes, mut loose, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (name, document) in documents {
            match document.map(|document| compile_by_hand(document, &find)).transpose() {
                Ok(compiled) => {
                    let (policy, dangling) = compiled.unzip();
                    loose.extend(dangling.into_iter().flatten().map(|problem| problem.to_string()));
                    changes.push((name.into(), policy));
                }
                Err(wrong) => problems.extend(wrong.iter().map(ToString::to_string)),
            }
        }
        if !problems.is_empty() {
            return Err(refusal(problems).into());
        }
        self.run_by_hand(&mut state, changes, loose, None).await
    }

    /// As [`Supervisor::change_all`], with documents that were compiled before, and with entries of knowledge that are recorded in the same commit as
    /// the changes.
    ///
    /// # Errors
    /// Every mistake in all of them together; nothing has changed then.
    pub async fn change_compiled(
        &self,
        changes: Vec<(String, Option<Compiled>)>,
        knowledge: Option<Entries>,
    ) -> Result<Applied, ChangeError> {
        let mut state = self.state.lock().await;
        let mut loose = Vec::new();
        let changes = changes.into_iter().map(|(name, compiled)| {
            let policy = compiled.map(|compiled| {
                loose.extend(compiled.loose);
                compiled.policy
            });
            (name.into(), policy)
        });
        let changes = changes.collect();
        self.run_by_hand(&mut state, changes, loose, knowledge).await
    }

    /// As [`Supervisor::change_compiled`], of changes that have nothing to do with each other: those that wait at the same time are made in one go. One
    /// that is refused hurts no other. They are made in the order of the calls, not of the first polls.
    ///
    /// # Errors
    /// Every mistake; nothing of this change is made then.
    pub fn change_together(
        &self,
        changes: Vec<(String, Option<Compiled>)>,
    ) -> impl Future<Output = Result<(), ChangeError>> + Send + '_ {
        let (tell, mut told) = oneshot::channel();
        self.joining().push(Joining { changes, tell });
        async move {
            let said = tokio::select! {
                biased;
                said = &mut told => said,
                mut state = self.state.lock() => {
                    self.make_joint(&mut state).await;
                    drop(state);
                    told.await
                }
            };
            let lost = || PortError::Unavailable("the change was not carried out to its end".into());
            said.unwrap_or_else(|_| Err(lost().into()))
        }
    }

    fn joining(&self) -> std::sync::MutexGuard<'_, Vec<Joining>> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_joint(&self, state: &mut State) {
        let waiting = std::mem::take(&mut *self.joining());
        let parts = |changes: Vec<(String, Option<Compiled>)>| {
            changes.into_iter().map(|(name, c)| (name.into(), c.map(|c| c.policy))).collect::<Vec<_>>()
        };
        if waiting.len() > 1 {
            let all = waiting.iter().flat_map(|joining| joining.changes.clone()).collect();
            if self.run_by_hand(state, parts(all), Vec::new(), None).await.is_ok() {
                waiting.into_iter().for_each(|joining| drop(joining.tell.send(Ok(()))));
                return;
            }
        }
        for Joining { changes, tell } in waiting {
            let made = self.run_by_hand(state, parts(changes), Vec::new(), None).await;
            // Who does not wait any more was a client that has gone.
            let _ = tell.send(made.map(drop));
        }
    }

    /// Lets changes by hand run, all or none, and records them, with entries of knowledge; `loose` are warnings about them.
    async fn run_by_hand(
        &self,
        state: &mut State,
        changes: Vec<(Arc<str>, Option<ServicePolicy>)>,
        loose: Vec<String>,
        knowledge: Option<Entries>,
    ) -> Result<Applied, ChangeError> {
        let names: Vec<Arc<str>> = changes.iter().map(|(name, _)| name.clone()).collect();
        let before: Vec<Option<ByHand>> = names.iter().map(|name| state.by_hand.get(name).cloned()).collect();
        for (name, policy) in changes {
            let base = base_of(&state.files, &name);
            // Detaching what only a hand had attached leaves nothing to remember.
            match policy.is_none() && base.is_empty() {
                true => drop(state.by_hand.remove(&name)),
                false => drop(state.by_hand.insert(name, ByHand::new(policy, base))),
            }
        }
        let next = match overlay_more(&state.files, &state.running, &state.by_hand, &names) {
            Ok((next, warnings)) => {
                self.transition(state, next, true).await.map(|applied| (applied, warnings))
            }
            Err(problems) => {
                take_back(&mut state.by_hand, names, before);
                return Err(refusal(problems.iter().map(ToString::to_string).collect()).into());
            }
        };
        let (mut applied, warnings) = match next {
            Ok(next) => next,
            Err(error) => {
                take_back(&mut state.by_hand, names, before);
                return Err(error.into());
            }
        };
        let notes = names.iter().map(|name| HandNote {
            service: name.to_string(),
            component: WHOLE.into(),
            noted: match state.by_hand.get(name) {
                None => Noted::Nothing,
                Some(change) => Noted::Change {
                    document: state.running.services.get(name).map(|policy| text_with_scripts(policy)),
                    base_hash: change.base.clone(),
                },
            },
        });
        let recorded = self.shell.store().note_all(notes.collect(), knowledge);
        for name in &names {
            let by_hand = state.by_hand.contains_key(name) && state.running.services.contains_key(name);
            match by_hand {
                true => drop(self.origins.insert(name.to_string(), Origin::Hand)),
                false => drop(self.origins.remove(&**name)),
            }
        }
        recorded.await.map_err(|e| {
            PortError::Unavailable(format!("the change runs, but could not be recorded: {e}"))
        })?;
        applied.warnings = warnings.iter().map(ToString::to_string).chain(loose).collect();
        Ok(applied)
    }

    /// Hands the difference between what runs and `next` to the shards. What stands around services is only looked at when a change by hand is about
    /// that; files that are read again open anew what could not be opened.
    async fn transition(
        &self,
        state: &mut State,
        next: PolicySet,
        by_hand: bool,
    ) -> Result<Applied, PortError> {
        for name in self.in_quarantine(&state.running).await {
            // It does not run, whatever was last handed out: it is attached again with what the record knows of it.
            Arc::make_mut(&mut state.running.services).remove(&name);
            state.gone.insert(name);
        }
        let changes = diff(&state.running, &next);
        let restored = self.restored(&state.gone, &changes, &next).await?;
        self.forget_bindings(&changes, &state.running, &next).await;
        if !by_hand || changes.iter().any(|change| stands_out(change, &state.running, &next)) {
            self.stand_around(&next);
        }
        for change in &changes {
            match change {
                Change::Removed { service } => {
                    self.pushable.remove(service.as_str());
                    state.gone.insert(service.as_str().into());
                    self.shell.send(service, Message::Detach(service.as_str().into())).await?;
                }
                Change::Added { service } | Change::Changed { service, .. } => {
                    if let Some(policy) = next.services.get(service.as_str()) {
                        self.send_policy(policy, restored.get(service).cloned().unwrap_or_default()).await?;
                    }
                }
                _ => {}
            }
        }
        let declared = self.declare(&state.running, &next);
        self.shell.change_model(declared).await?;
        if !changes.is_empty() {
            self.form_groups(state, &next).await?;
        }
        let applied =
            Applied { running: next.hash.to_string(), changes: lines(&changes), warnings: Vec::new() };
        for line in &applied.changes {
            self.shell.tell("policy", None, line.clone());
        }
        if changes.iter().any(|c| matches!(c, Change::Added { .. } | Change::Removed { .. })) {
            let names = next.services.keys().cloned().collect();
            *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        }
        self.with_status(|status| {
            status.running = next.hash.to_string();
            status.since = Some(self.shell.clock().now());
            status.services = next.services.len();
        });
        self.applied.fetch_add(1, Ordering::Relaxed);
        state.running = next;
        Ok(applied)
    }

    /// Opens and closes the ports in front of services, says where each of them listens, and which programs run.
    fn stand_around(&self, next: &PolicySet) {
        let live = next.services.values().filter_map(|p| Some((p.name.clone(), p.live?.pid)));
        self.shell.membrane().set_live(live);
        let served = next.services.values().map(|policy| served(policy));
        for (service, trouble) in self.shell.membrane().set_services(served) {
            self.shell.tell("membrane", Some(&service), format!("{}; it is tried again", trouble.0));
        }
        let packed = self.shell.membrane().modules().has(Module::Process);
        let programs = next.services.values().filter(|_| packed);
        let programs = programs.filter_map(|p| Some((p.name.clone(), p.process.clone()?)));
        self.shell.processes().set(programs);
    }

    /// The services of `running` that a panic has put into quarantine.
    async fn in_quarantine(&self, running: &PolicySet) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        if self.shell.tally().1 > 0 {
            for name in running.services.keys() {
                if let Err(PortError::Quarantined(_)) = self.shell.call(name, Request::Status).await {
                    names.push(name.clone());
                }
            }
        }
        names
    }

    async fn send_policy(&self, policy: &ServicePolicy, restored: Restored) -> Result<(), PortError> {
        let id = self.shell.names().service(&policy.name);
        let mut metrics: Vec<(Arc<str>, MetricId)> = policy
            .monitor
            .iter()
            .flat_map(|m| &m.metrics)
            .filter(|m| matches!(&m.kind, MetricKind::Sensor(SensorSpec::Push(_))))
            .map(|m| (m.name.clone(), self.shell.names().metric(&m.name)))
            .collect();
        metrics.sort_unstable();
        let schedule = policy.monitor.as_ref().and_then(|monitor| monitor.schedule).unwrap_or_default();
        let shard = self.shell.shard_of(&policy.name);
        let pushable = Pushable { service: id, shard, schedule, metrics: metrics.into() };
        self.pushable.insert(policy.name.clone(), pushable);
        let apply = Apply { id, policy: policy.clone(), restored };
        self.shell.send(&policy.name, Message::Apply(Box::new(apply))).await
    }

    /// What the model gains and loses between two sets. A resource that policies declare is as they say; one that they declare no more is
    /// as it was registered, if it was.
    fn declare(&self, before: &PolicySet, next: &PolicySet) -> Vec<ModelChange> {
        let services = differing(&before.services, &next.services);
        let services = services.into_iter().filter_map(|(id, old, new)| {
            let (old, new) = (old.map(|s| s.resource.clone()), new.map(|s| s.resource.clone()));
            (old != new).then(|| (id.clone(), new))
        });
        let resources = differing(&before.resources, &next.resources);
        let resources = resources.into_iter().map(|(id, _, new)| (id.clone(), new.cloned()));
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let changes: Vec<_> = services.chain(resources).collect();
        changes.into_iter().filter_map(|(id, new)| model.declare(&id, new)).collect()
    }

    /// Changes what is registered in the model by others than policies: puts resources in, or takes them out.
    ///
    /// # Errors
    /// When the daemon is stopping.
    pub async fn register(&self, changes: Vec<ModelChange>) -> Result<(), PortError> {
        let _in_order = self.state.lock().await;
        let changes = {
            let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            changes.into_iter().filter_map(|change| model.register(change)).collect()
        };
        self.shell.change_model(changes).await
    }

    /// A resource of the model, as it is now.
    pub fn resource(&self, id: &str) -> Option<Arc<Resource>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).get(id)
    }

    /// All resources of the model, by id: what policies declare, and what is registered besides.
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    async fn form_groups(&self, state: &mut State, next: &PolicySet) -> Result<(), PortError> {
        if !next.has_groups() {
            state.members.clear();
            return Ok(());
        }
        let resources: Vec<Arc<Resource>> = next
            .services
            .values()
            .map(|s| s.resource.clone())
            .chain(next.resources.values().cloned())
            .collect();
        let mut told = HashMap::new();
        for policy in next.services.values() {
            for (metric, members) in memberships(policy, &resources) {
                let key = (policy.name.clone(), metric.clone());
                let same_policy = state.running.services.get(&policy.name).and_then(|p| p.monitor.as_ref())
                    == policy.monitor.as_ref();
                if !same_policy || state.members.get(&key) != Some(&members) {
                    let letter = Letter::Members { metric, members: members.clone() };
                    self.shell.send(&policy.name, Message::To(policy.name.clone(), letter)).await?;
                }
                told.insert(key, members);
            }
        }
        state.members = told;
        Ok(())
    }

    /// What the record knows of services that are attached with these changes; of bindings, those whose policy declares what it declared when they
    /// were made.
    async fn restored(
        &self,
        gone: &BTreeSet<Arc<str>>,
        changes: &[Change],
        next: &PolicySet,
    ) -> Result<HashMap<String, Restored>, PortError> {
        // One in quarantine is attached anew by any change of its policy.
        let quarantined = self.shell.tally().1 > 0;
        let attached: Vec<String> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Added { service } => Some(service.clone()),
                Change::Changed { service, .. } if quarantined => Some(service.clone()),
                _ => None,
            })
            .collect();
        if attached.is_empty() {
            return Ok(HashMap::new());
        }
        self.settle(gone, changes).await;
        let store = self.shell.store();
        let mut all = HashMap::new();
        for (service, known) in store.of_services(attached, OPEN_DECISIONS as u64).await.map_err(fail)? {
            let (declared, others): (Vec<_>, Vec<_>) =
                known.bindings.into_iter().partition(|binding| still_declared(binding, next));
            for binding in others {
                let _ = store.forget_binding(&service, &binding.reference).await;
            }
            let restored = Restored {
                decisions: known.decisions,
                slos: known.slos,
                proposals: known.proposals,
                knowledge: known.knowledge,
                bindings: declared.into_iter().map(|binding| (binding.reference, binding.to)).collect(),
            };
            all.insert(service, restored);
        }
        Ok(all)
    }

    /// Waits until the shards of services that are attached have done what they were sent before: a service that was detached just now
    /// may still have had something to record.
    async fn settle(&self, gone: &BTreeSet<Arc<str>>, changes: &[Change]) {
        let mut shards = BTreeSet::new();
        for change in changes {
            if let Change::Added { service } = change
                && gone.contains(service.as_str())
                && shards.insert(self.shell.shard_of(service))
            {
                // There is none of this name, and that is the answer.
                let _ = self.shell.call(service, Request::Knowledge).await;
            }
        }
    }

    /// A reference whose policy changes is bound as that says; where actions had put it is forgotten.
    async fn forget_bindings(&self, changes: &[Change], running: &PolicySet, next: &PolicySet) {
        for change in changes {
            let Change::Changed { service: name, .. } = change else { continue };
            let name = name.as_str();
            let (Some(before), Some(policy)) = (running.services.get(name), next.services.get(name)) else {
                continue;
            };
            for (reference, was) in &before.references {
                // As in the turn: a binding stays while the declaration does, whatever else becomes a candidate.
                if policy.references.get(reference).is_none_or(|now| now.service != was.service) {
                    let _ = self.shell.store().forget_binding(name, reference).await;
                }
            }
        }
    }

    /// The changes by hand whose policies the files have not changed since.
    fn still_valid(&self, by_hand: &Changes, files: &PolicySet) -> Changes {
        by_hand
            .iter()
            .filter(|(name, h)| base_of(files, name) == h.base)
            .map(|(n, h)| (n.clone(), h.clone()))
            .collect()
    }

    fn note_origins(&self, by_hand: &Changes, running: &PolicySet) {
        self.origins.clear();
        for name in running.services.keys().filter(|n| by_hand.contains_key(*n)) {
            self.origins.insert(name.to_string(), Origin::Hand);
        }
    }

    fn with_status(&self, change: impl FnOnce(&mut PolicyStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn names(&self) -> Arc<[Arc<str>]> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What runs and what waits.
    pub fn policy_status(&self) -> PolicyStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a pushed metric goes: service, metric, shard.
    ///
    /// # Errors
    /// When there is no such service or metric, or it takes no pushed values, or none now: as sensors are not read outside of the schedule of a
    /// monitor.
    pub fn pushed(&self, service: &str, metric: &str) -> Result<(ServiceId, MetricId, usize), PortError> {
        let entry =
            self.pushable.get(service).ok_or_else(|| PortError::NoSuchService(service.to_string()))?;
        let Pushable { service: id, shard, schedule, metrics } = entry.value();
        match metrics.binary_search_by(|(name, _)| (**name).cmp(metric)) {
            Ok(_) if !schedule.includes(self.now()) => Err(PortError::Conflict(format!(
                "`{service}` takes no values now: its monitor has a schedule"
            ))),
            Ok(found) => Ok((*id, metrics[found].1, *shard)),
            Err(_) => Err(PortError::NotPushed(metric.to_string())),
        }
    }

    /// The status of one service.
    ///
    /// # Errors
    /// When there is none of this name, or it does not answer.
    pub async fn service(&self, name: &str) -> Result<ServiceStatus, PortError> {
        let mut status = match self.shell.call(name, Request::Status).await {
            Ok(Response::Status(status)) => *status,
            Ok(other) => return Err(unexpected(&other)),
            Err(PortError::Quarantined(_)) => self.quarantined(name).await,
            Err(error) => return Err(error),
        };
        status.origin = self.origins.get(name).map_or(Origin::File, |o| *o);
        status.process = self.shell.processes().status(name);
        for (reference, status) in &mut status.references {
            status.traffic = self.shell.membrane().candidates(name, reference).unwrap_or_default();
        }
        for component in &mut status.components {
            component.origin = status.origin;
        }
        Ok(status)
    }

    async fn quarantined(&self, name: &str) -> ServiceStatus {
        let state = self.state.lock().await;
        let policy = state.running.services.get(name);
        let resource = policy.map(|p| p.resource.clone());
        ServiceStatus {
            name: name.to_string(),
            class: resource.as_ref().and_then(|r| r.class.clone()),
            kind: resource.as_ref().and_then(|r| r.kind.clone()),
            provides: resource.as_ref().map(|r| r.provides.clone()).unwrap_or_default(),
            address: policy.and_then(|p| p.address()),
            origin: Origin::File,
            components: Vec::new(),
            references: BTreeMap::new(),
            slos: Vec::new(),
            wires: Vec::new(),
            process: None,
            quarantined: Some("a turn panicked; apply its policy again to bring it back".into()),
            decisions: 0,
        }
    }

    /// The status of all services, sorted by name.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, PortError> {
        let names = self.names();
        let mut all = Vec::with_capacity(names.len());
        for chunk in names.chunks(256) {
            for status in futures::future::join_all(chunk.iter().map(|n| self.service(n))).await {
                match status {
                    Ok(status) => all.push(status),
                    // Detached since the list was made.
                    Err(PortError::NoSuchService(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(all)
    }

    /// Every metric of every service.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn export(&self) -> Result<Vec<ExportedMetric>, PortError> {
        let names = self.names();
        let mut all = Vec::new();
        for chunk in names.chunks(256) {
            let calls = chunk.iter().map(|n| self.shell.call(n, Request::MetricList));
            for (name, answer) in chunk.iter().zip(futures::future::join_all(calls).await) {
                if let Ok(Response::Metrics(metrics)) = answer {
                    all.extend(
                        metrics.into_iter().map(|info| ExportedMetric { service: name.to_string(), info }),
                    );
                }
            }
        }
        Ok(all)
    }

    /// The counters of homeostat about itself.
    pub fn stats(&self) -> SelfStats {
        let (tally, quarantined) = self.shell.tally();
        let (published, publish_lost) = self.shell.published();
        SelfStats {
            services: self.policy_status().services as u64,
            quarantined: quarantined as u64,
            messages: self.shell.messages(),
            samples: tally.samples,
            samples_refused: tally.refused + self.shell.dropped(),
            alarms: tally.alarms,
            strategies: tally.strategies,
            strategies_failed: tally.failed,
            actions: tally.outcomes.iter().map(|(k, v)| (k.to_string(), *v)).collect(),
            asks: tally.asks,
            notifications: tally.told,
            published,
            publish_lost,
            policies_applied: self.applied.load(Ordering::Relaxed),
            policies_refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Attaches or replaces one component by hand.
    ///
    /// # Errors
    /// Every mistake in the section; nothing has changed then.
    pub async fn attach_component(
        &self,
        name: &str,
        component: Component,
        section: serde_json::Value,
    ) -> Result<Applied, ChangeError> {
        self.change(name, Dangling::Told, |document| {
            let mut json = existing(document, name)?;
            json[component.as_str()] = section;
            Ok(Some(json))
        })
        .await
    }

    /// Detaches one component by hand.
    ///
    /// # Errors
    /// When it is not attached.
    pub async fn detach_component(&self, name: &str, component: Component) -> Result<Applied, ChangeError> {
        self.change(name, Dangling::Told, |document| {
            let mut json = existing(document, name)?;
            let gone = json.as_object_mut().and_then(|o| o.remove(component.as_str()));
            match gone {
                Some(_) => Ok(Some(json)),
                None => Err(not_attached(name, component)),
            }
        })
        .await
    }

    /// The time of the loop.
    pub fn now(&self) -> Timestamp {
        self.shell.clock().now()
    }
}

/// The document of a service as JSON, to be edited.
///
/// # Errors
/// When there is no such service.
pub(super) fn existing(
    document: Option<&ServiceDocument>,
    name: &str,
) -> Result<serde_json::Value, PortError> {
    let document = document.ok_or_else(|| PortError::NoSuchService(name.to_string()))?;
    serde_json::to_value(document).map_err(|e| PortError::Invalid(e.to_string()))
}

/// The error that a port of a component that is not attached gives.
pub(super) fn not_attached(name: &str, component: Component) -> PortError {
    let name = name.to_string();
    match component {
        Component::Monitor => PortError::NoMonitorAttached(name),
        Component::Analyze => PortError::NoAnalyzerAttached(name),
        Component::Plan => PortError::NoPlannerAttached(name),
        Component::Execute => PortError::NoExecutorAttached(name),
    }
}

/// A response that does not fit the request: a mistake of ours.
pub(super) fn unexpected(response: &Response) -> PortError {
    PortError::Unavailable(format!("an unexpected answer: {response:?}"))
}

fn fail(error: crate::knowledge::store::StoreError) -> PortError {
    PortError::Unavailable(format!("the record: {error}"))
}

/// Whether the policy still declares of a reference what it declared when that was rebound.
fn still_declared(binding: &Binding, next: &PolicySet) -> bool {
    let policy = next.services.get(binding.service.as_str());
    let reference = policy.and_then(|policy| policy.references.get(binding.reference.as_str()));
    reference.is_some_and(|r: &ReferencePolicy| r.service.as_deref() == binding.declared.as_deref())
}

/// Whether a change is about anything that homeostat opens or runs around a service.
fn stands_out(change: &Change, running: &PolicySet, next: &PolicySet) -> bool {
    let (Change::Added { service } | Change::Removed { service } | Change::Changed { service, .. }) = change
    else {
        return false;
    };
    let around = |set: &PolicySet| {
        set.services.get(service.as_str()).is_some_and(|p| {
            p.endpoint.is_some()
                || p.listen.is_some()
                || p.live.is_some()
                || p.process.is_some()
                || p.manage.is_some()
                || p.references.values().any(|reference| reference.listen.is_some())
        })
    };
    around(running) || around(next)
}

/// Undoes what was noted of changes by hand that were not made.
fn take_back(by_hand: &mut Changes, names: Vec<Arc<str>>, before: Vec<Option<ByHand>>) {
    // Backwards, so that what was there first is there again when a name comes twice.
    for (name, before) in names.into_iter().zip(before).rev() {
        match before {
            Some(before) => drop(by_hand.insert(name, before)),
            None => drop(by_hand.remove(&name)),
        }
    }
}

fn refusal(problems: Vec<String>) -> Refusal {
    Refusal { at: None, problems }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().flat_map(|c| c.to_string().lines().map(str::to_string).collect::<Vec<_>>()).collect()
}

/// What the files say of a service, as a hash; empty when they say nothing.
fn base_of(files: &PolicySet, name: &str) -> String {
    files.services.get(name).map_or_else(String::new, |policy| {
        let mut document = with_scripts(policy);
        // Who provides a capability is not said by the file of its user.
        for reference in document
            .get_mut("references")
            .and_then(serde_json::Value::as_object_mut)
            .into_iter()
            .flat_map(serde_json::Map::values_mut)
        {
            reference.as_object_mut().map(|r| r.remove("found"));
        }
        let json = serde_json::to_vec(&document).unwrap_or_default();
        blake3::hash(&json).to_hex()[..16].to_string()
    })
}

fn compile_json(
    document: &serde_json::Value,
    scripts: &dyn Fn(&str) -> Option<Arc<Script>>,
) -> Result<(ServicePolicy, Vec<Problem>), Vec<Problem>> {
    compile_by_hand(service_from_json(document)?, scripts)
}

fn inline(run: &str) -> Option<Arc<Script>> {
    is_inline(run).then(|| inline_script(run).ok().map(Arc::new))?
}

/// What is wrong with the first inline script that does not compile.
fn broken_inline(document: &serde_json::Value) -> Option<String> {
    let rows = document.get("plan")?.as_array()?;
    rows.iter().filter_map(|row| row.get("run")?.as_str()).filter(|run| is_inline(run)).find_map(|run| {
        let error = inline_script(run).err()?;
        Some(format!("inline script, line {}, column {}: error: {}", error.line, error.column, error.message))
    })
}

/// The document with its scripts inline, as text.
fn text_with_scripts(policy: &ServicePolicy) -> String {
    match policy.scripts.is_empty() {
        true => policy.document.as_json().to_string(),
        false => with_scripts(policy).to_string(),
    }
}

/// The document with its scripts inline, so that it stands for itself.
fn with_scripts(policy: &ServicePolicy) -> serde_json::Value {
    let mut json = serde_json::from_str::<serde_json::Value>(policy.document.as_json()).unwrap_or_default();
    for row in json.get_mut("plan").and_then(|p| p.as_array_mut()).into_iter().flatten() {
        let source = row
            .get("run")
            .and_then(|r| r.as_str())
            .and_then(|r| policy.scripts.get(r))
            .map(|s| inlined(&s.name, &s.source));
        if let Some(source) = source {
            row["run"] = source.into();
        }
    }
    json
}

/// What of a service the membrane stands around.
fn served(policy: &ServicePolicy) -> Served {
    Served {
        name: policy.name.clone(),
        listen: policy.listen,
        endpoint: policy.endpoint.clone(),
        manage: policy.manage.clone(),
        limits: policy.limits,
    }
}
