//! A homeostat in memory: a `Control` that keeps what it is told and counts what it is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use homeostat::model::ports::{
    Actions, Alarms, MetricInfo, Metrics, Notification, Slos, Subscription, SubscriptionMode,
};
use homeostat::model::{
    Action, Alarm, AlarmKind, Decision, DecisionId, HumanDuration, MissingReason, Mode, Outcome,
    OutcomeStatus, Plan, PortError, Reading, Severity, SloState, SloStatus, Timestamp, Verdict,
};
use homeostat::service::control::*;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

pub const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

#[derive(Default)]
pub struct Calls {
    pub pushes: Mutex<Vec<(String, String, usize)>>,
    pub alarms: Mutex<Vec<Alarm>>,
    pub applied: Mutex<Vec<BTreeMap<String, String>>>,
    pub attached: Mutex<Vec<(String, Option<Component>, Value)>>,
    pub modes: Mutex<Vec<SubscriptionMode>>,
    pub max_ages: Mutex<Vec<Option<HumanDuration>>>,
    pub subscribers: AtomicUsize,
    pub unsubscribed: tokio::sync::Notify,
}

pub struct Fake {
    pub services: Mutex<BTreeMap<String, Arc<FakeService>>>,
    pub knowledge: Mutex<BTreeMap<String, Value>>,
    pub pending: Mutex<Option<Refusal>>,
    pub ready: AtomicBool,
    pub events: broadcast::Sender<Event>,
    pub calls: Arc<Calls>,
}

pub struct FakeService {
    name: String,
    metrics: Mutex<BTreeMap<String, Reading>>,
    slos: Mutex<BTreeMap<String, SloState>>,
    bound: Mutex<BTreeMap<String, String>>,
    listeners: Arc<Mutex<BTreeMap<String, Vec<mpsc::Sender<Notification>>>>>,
    calls: Arc<Calls>,
}

impl Fake {
    /// Services `A` (uses `B`) and `B`; `cost` takes pushes.
    pub fn new() -> Arc<Self> {
        let calls = Arc::new(Calls::default());
        let service = |name: &str, bound: &[(&str, &str)]| {
            let fresh = |value| Reading::Fresh { value, at: NOON };
            let metrics = BTreeMap::from([
                ("cost".to_string(), fresh(35.0)),
                ("cpu[cpu0]".to_string(), fresh(12.5)),
                ("latency".to_string(), Reading::missing(MissingReason::NoSample)),
            ]);
            let own = bound.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            Arc::new(FakeService {
                name: name.into(),
                metrics: Mutex::new(metrics),
                slos: Mutex::new(BTreeMap::from([("cheap".to_string(), SloState::Violated)])),
                bound: Mutex::new(own),
                listeners: Arc::default(),
                calls: calls.clone(),
            })
        };
        let services = BTreeMap::from([
            ("A".to_string(), service("A", &[("b1", "B")])),
            ("B".to_string(), service("B", &[])),
        ]);
        Arc::new(Self {
            services: Mutex::new(services),
            knowledge: Mutex::default(),
            pending: Mutex::default(),
            ready: AtomicBool::new(true),
            events: broadcast::channel(16).0,
            calls,
        })
    }

    fn find(&self, name: &str) -> Result<Arc<FakeService>, PortError> {
        let services = self.services.lock().unwrap();
        services.get(name).cloned().ok_or_else(|| PortError::NoSuchService(name.into()))
    }

    fn accepted(change: String) -> Result<Applied, ChangeError> {
        Ok(Applied { running: "0123456789abcdef".into(), changes: vec![change], warnings: Vec::new() })
    }
}

impl FakeService {
    fn status(&self) -> ServiceStatus {
        let component = |component| ComponentStatus {
            component,
            id: format!("{component}-1"),
            origin: Origin::File,
            parts: 1,
        };
        let references = self
            .bound
            .lock()
            .unwrap()
            .iter()
            .map(|(name, to)| {
                let (bound, candidates) = (Some(to.clone()), vec![to.clone()]);
                (name.clone(), ReferenceStatus { bound, candidates, traffic: Vec::new() })
            })
            .collect();
        ServiceStatus {
            name: self.name.clone(),
            class: None,
            kind: None,
            provides: Vec::new(),
            address: None,
            origin: Origin::File,
            components: Component::ALL.map(component).to_vec(),
            references,
            slos: self.list(),
            wires: vec![Wire {
                from: format!("{}/monitor", self.name),
                to: format!("{}/analyze", self.name),
                port: "metrics".into(),
            }],
            process: None,
            quarantined: None,
            decisions: 1,
        }
    }

    fn list(&self) -> Vec<SloStatus> {
        let status = |(name, state): (&String, &SloState)| SloStatus {
            name: name.clone(),
            objective: "cost < 30".into(),
            severity: Severity::Major,
            state: *state,
            since: Some(NOON),
            values: BTreeMap::from([("cost".to_string(), Reading::Fresh { value: 35.0, at: NOON })]),
        };
        self.slos.lock().unwrap().iter().map(status).collect()
    }

    fn set_slo(&self, name: &str, state: SloState) -> Result<(), PortError> {
        let mut slos = self.slos.lock().unwrap();
        *slos.get_mut(name).ok_or_else(|| PortError::NoSuchSlo(name.into()))? = state;
        Ok(())
    }

    fn info(name: &str, reading: &Reading) -> MetricInfo {
        MetricInfo {
            name: name.into(),
            kind: "push".into(),
            definition: "push".into(),
            unit: None,
            reading: reading.clone(),
        }
    }
}

struct Guard(Arc<Calls>);
impl Drop for Guard {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::SeqCst);
        self.0.unsubscribed.notify_one();
    }
}

#[async_trait]
impl Metrics for FakeService {
    async fn metric_list(&self) -> Result<Vec<MetricInfo>, PortError> {
        Ok(self.metrics.lock().unwrap().iter().map(|(n, r)| Self::info(n, r)).collect())
    }
    async fn get_metric(&self, name: &str, max_age: Option<HumanDuration>) -> Result<Reading, PortError> {
        self.calls.max_ages.lock().unwrap().push(max_age);
        let metrics = self.metrics.lock().unwrap();
        metrics.get(name).cloned().ok_or_else(|| PortError::NoSuchMetric(name.into()))
    }
    async fn subscribe(&self, name: &str, mode: SubscriptionMode) -> Result<Subscription, PortError> {
        if !self.metrics.lock().unwrap().contains_key(name) {
            return Err(PortError::NoSuchMetric(name.into()));
        }
        self.calls.modes.lock().unwrap().push(mode);
        self.calls.subscribers.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = mpsc::channel(16);
        self.listeners.lock().unwrap().entry(name.into()).or_default().push(sender);
        Ok(Subscription {
            notifications: ReceiverStream::new(receiver),
            guard: Box::new(Guard(self.calls.clone())),
        })
    }
    async fn insert_metric(&self, name: &str, definition: Value) -> Result<(), PortError> {
        if definition == format!("{name} + 1") {
            return Err(PortError::MetricCycle(format!("{name} → {name}")));
        }
        let mut metrics = self.metrics.lock().unwrap();
        if metrics.contains_key(name) {
            return Err(PortError::Exists(name.into()));
        }
        metrics.insert(name.into(), Reading::missing(MissingReason::NoSample));
        Ok(())
    }
    async fn remove_metric(&self, name: &str) -> Result<(), PortError> {
        let gone = self.metrics.lock().unwrap().remove(name);
        gone.map(|_| ()).ok_or_else(|| PortError::NoSuchMetric(name.into()))
    }
    async fn push(&self, name: &str, values: Vec<(f64, Option<Timestamp>)>) -> Result<(), PortError> {
        if !self.metrics.lock().unwrap().contains_key(name) {
            return Err(PortError::NoSuchMetric(name.into()));
        }
        if name != "cost" {
            return Err(PortError::NotPushed(name.into()));
        }
        self.calls.pushes.lock().unwrap().push((self.name.clone(), name.into(), values.len()));
        let senders = self.listeners.lock().unwrap().get(name).cloned().unwrap_or_default();
        for (value, at) in values {
            let reading = Reading::Fresh { value, at: at.unwrap_or(NOON) };
            self.metrics.lock().unwrap().insert(name.into(), reading.clone());
            for sender in &senders {
                let _ = sender.try_send(Notification {
                    service: self.name.clone(),
                    metric: name.into(),
                    reading: reading.clone(),
                });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Slos for FakeService {
    async fn slo_list(&self) -> Result<Vec<SloStatus>, PortError> {
        Ok(self.list())
    }
    async fn add_slo(&self, name: &str, definition: Value) -> Result<(), PortError> {
        if definition.get("objective").is_none() {
            return Err(PortError::Invalid("an SLO needs `objective`".into()));
        }
        self.slos.lock().unwrap().insert(name.into(), SloState::Unknown);
        Ok(())
    }
    async fn remove_slo(&self, name: &str) -> Result<(), PortError> {
        let gone = self.slos.lock().unwrap().remove(name);
        gone.map(|_| ()).ok_or_else(|| PortError::NoSuchSlo(name.into()))
    }
    async fn enable_slo(&self, name: &str) -> Result<(), PortError> {
        self.set_slo(name, SloState::Unknown)
    }
    async fn disable_slo(&self, name: &str) -> Result<(), PortError> {
        self.set_slo(name, SloState::Disabled)
    }
}

#[async_trait]
impl Alarms for FakeService {
    async fn notify(&self, alarm: Alarm) -> Result<(), PortError> {
        self.calls.alarms.lock().unwrap().push(alarm);
        Ok(())
    }
}

#[async_trait]
impl Actions for FakeService {
    async fn send_actions(&self, actions: Vec<Action>) -> Result<Vec<Outcome>, PortError> {
        if self.name == "B" {
            return Err(PortError::NoExecutorAttached(self.name.clone()));
        }
        let outcome = |action: Action| {
            let (status, detail) = match &action {
                Action::Set { .. } => (OutcomeStatus::Done, "200 OK"),
                _ => (OutcomeStatus::Refused, "not declared"),
            };
            Outcome { action, status, executor: self.name.clone(), detail: detail.into(), at: NOON }
        };
        Ok(actions.into_iter().map(outcome).collect())
    }
}

/// A decision in which `replace(C1, C2)` was planned and carried out.
pub fn decision(id: u64) -> Decision {
    let action = Action::Replace { service: None, from: "C1".into(), to: "C2".into() };
    let fresh = |value| Reading::Fresh { value, at: NOON.before(std::time::Duration::from_secs(2)) };
    Decision {
        id: DecisionId(id),
        service: "A".into(),
        at: NOON,
        alarm: Some(Alarm {
            service: "A".into(),
            slo: "cheap".into(),
            kind: AlarmKind::Violation,
            severity: Severity::Major,
            condition: "cost >= 30".into(),
            values: BTreeMap::from([("cost".into(), fresh(35.0))]),
            at: NOON,
        }),
        verdict: Verdict::Planned,
        plan: Some(Plan {
            strategy: "cheapest.rhai".into(),
            hash: "0123456789abcdef".into(),
            mode: Mode::Act,
            actions: vec![action.clone()],
            readings: BTreeMap::from([("C1.cost".into(), fresh(20.0)), ("C2.cost".into(), fresh(10.0))]),
            reasons: vec!["C2 is cheaper than C1".into()],
            on_failure: homeostat::model::plan::OnFailure::Stop,
        }),
        outcomes: vec![Outcome {
            action,
            status: OutcomeStatus::Done,
            executor: "A".into(),
            detail: String::new(),
            at: NOON,
        }],
        helped: Some(true),
        expires: None,
    }
}

#[async_trait]
impl Control for Fake {
    async fn services(&self) -> Result<Vec<ServiceStatus>, PortError> {
        Ok(self.services.lock().unwrap().values().map(|s| s.status()).collect())
    }
    async fn service(&self, name: &str) -> Result<ServiceStatus, PortError> {
        Ok(self.find(name)?.status())
    }
    fn ports(&self, name: &str) -> Result<Arc<dyn Ports>, PortError> {
        Ok(self.find(name)?)
    }
    async fn attach(&self, name: &str, document: Value) -> Result<Applied, ChangeError> {
        if document.get("bogus").is_some() {
            return Err(Refusal {
                at: Some(NOON),
                problems: vec!["A.yaml:1:1: error: unknown field `bogus`".into()],
            }
            .into());
        }
        self.calls.attached.lock().unwrap().push((name.into(), None, document));
        Self::accepted(format!("attached {name}"))
    }
    async fn detach(&self, name: &str) -> Result<Applied, ChangeError> {
        self.find(name)?;
        self.services.lock().unwrap().remove(name);
        Self::accepted(format!("detached {name}"))
    }
    async fn attach_component(
        &self,
        name: &str,
        component: Component,
        section: Value,
    ) -> Result<Applied, ChangeError> {
        self.find(name)?;
        self.calls.attached.lock().unwrap().push((name.into(), Some(component), section));
        Self::accepted(format!("attached {name}/{component}"))
    }
    async fn detach_component(&self, name: &str, component: Component) -> Result<Applied, ChangeError> {
        self.find(name)?;
        Self::accepted(format!("detached {name}/{component}"))
    }
    async fn apply(&self, files: BTreeMap<String, String>) -> Result<Applied, ChangeError> {
        self.calls.applied.lock().unwrap().push(files);
        Self::accepted("changed A".into())
    }
    async fn preview(&self, files: BTreeMap<String, String>) -> Result<Applied, ChangeError> {
        Self::accepted(format!("would change {} file(s)", files.len()))
    }
    async fn reload(&self) -> Result<Applied, ChangeError> {
        Self::accepted("reloaded".into())
    }
    async fn rollback(&self) -> Result<Applied, ChangeError> {
        Err(PortError::Conflict("there is nothing to go back to".into()).into())
    }
    fn policy_status(&self) -> PolicyStatus {
        PolicyStatus {
            running: "0123456789abcdef".into(),
            since: Some(NOON),
            services: 2,
            pending: self.pending.lock().unwrap().clone(),
        }
    }
    async fn decisions(
        &self,
        service: Option<&str>,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<Decision>, PortError> {
        if let Some(name) = service {
            self.find(name)?;
        }
        let newest = before.map_or(3, |b| b.saturating_sub(1).min(3));
        Ok((1..=newest).rev().take(limit).map(decision).collect())
    }
    async fn approve(&self, service: &str, id: u64) -> Result<Vec<Outcome>, PortError> {
        self.find(service)?;
        if id != 1 {
            return Err(PortError::Conflict(format!("decision {id} proposes nothing")));
        }
        Ok(decision(1).outcomes)
    }
    async fn plugins(&self) -> Result<Vec<Plugin>, PortError> {
        Ok(vec![Plugin {
            service: "A".into(),
            part: PluginPart::Sensor,
            name: "disk".into(),
            protocol: "exec".into(),
            origin: Some("probe /".into()),
            hash: None,
        }])
    }
    async fn reject(&self, service: &str, id: u64) -> Result<(), PortError> {
        self.approve(service, id).await.map(|_| ())
    }
    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
    async fn history(&self, service: &str, metric: &str) -> Result<Vec<Reading>, PortError> {
        let service = self.find(service)?;
        Ok(vec![service.get_metric(metric, None).await?])
    }
    async fn knowledge(&self, service: &str) -> Result<BTreeMap<String, Value>, PortError> {
        self.find(service)?;
        Ok(self.knowledge.lock().unwrap().clone())
    }
    async fn remember(&self, service: &str, key: &str, value: Option<Value>) -> Result<(), PortError> {
        self.find(service)?;
        let mut knowledge = self.knowledge.lock().unwrap();
        match value {
            Some(value) => knowledge.insert(key.into(), value),
            None => knowledge.remove(key),
        };
        Ok(())
    }
    async fn export(&self) -> Result<Vec<ExportedMetric>, PortError> {
        let services = self.services.lock().unwrap();
        let mut exported = Vec::new();
        for service in services.values() {
            for (name, reading) in service.metrics.lock().unwrap().iter() {
                exported.push(ExportedMetric {
                    service: service.name.clone(),
                    info: FakeService::info(name, reading),
                });
            }
        }
        Ok(exported)
    }
    fn stats(&self) -> SelfStats {
        SelfStats {
            services: 2,
            samples: 7,
            actions: BTreeMap::from([("done".into(), 1)]),
            ..SelfStats::default()
        }
    }
    fn ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }
}

impl Fake {
    /// Ends every subscription to a metric of the service, as at the end of their duration.
    pub fn end_subscriptions(&self, service: &str) {
        self.find(service).unwrap().listeners.lock().unwrap().clear();
    }
}
