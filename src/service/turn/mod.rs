//! The loop of one managed service as a pure fold: (state, letter, time) → effects. No clock, no task, no channel in here.
//!
//! ```text
//!  sample ─▶ monitor ─changed─▶ analyze ─alarm─▶ plan ─actions─▶ execute ─▶ effects
//!            (slots)            (levels)         (cases)         (ledger)
//! ```
//! A turn handles one letter and then settles: SLOs whose readings changed are checked, alarms open cases,
//! tasks plan, ledgers step, until nothing is left to do at this time.

mod act;
mod answer;
mod apply;
mod decide;
mod observe;
mod propose;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::control::Event;
use super::message::{Effect, Lasting, Letter, Perform};
use crate::analyze::{Analyzer, Readings};
use crate::execute::Ledger;
use crate::knowledge::resources::Resources;
use crate::model::ports::PortError;
use crate::model::{
    Action, Alarm, Datum, Decision, DecisionId, MetricId, MetricPath, MissingReason, Reading, ServiceId,
    Timestamp,
};
use crate::monitor::{Held, Monitor, SensorWanted, SlotId};
use crate::plan::strategy::{RunLimits, StrategyHost};
use crate::plan::{Planner, Taken};
use crate::policy::{PublishPolicy, ServicePolicy};
use answer::{Ask, Watcher};
pub use decide::OPEN_DECISIONS;

/// What a turn works with besides the service: time, the shard's script engine, and where its results go.
pub struct Turn<'a> {
    /// The time of the message.
    pub now: Timestamp,
    /// The engine that runs strategies.
    pub host: &'a mut StrategyHost,
    /// Limits for the next strategy run, by its number within the message.
    pub limits: &'a mut dyn FnMut() -> RunLimits,
    /// Takes note that a strategy was cut short by the clock: number of the run, progress.
    pub cut: &'a mut dyn FnMut(u64),
    /// The resource model.
    pub model: &'a Resources,
    /// Turns metric names into numbers.
    pub metric_id: &'a mut dyn FnMut(&str) -> MetricId,
    /// What the shell is to do.
    pub effects: &'a mut Vec<Effect>,
    /// Letters to other services, this shard's included.
    pub mail: &'a mut Vec<(Arc<str>, Letter)>,
    /// What is counted.
    pub tally: &'a mut Tally,
}

/// What turns count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Samples taken.
    pub samples: u64,
    /// Samples refused.
    pub refused: u64,
    /// Alarms raised.
    pub alarms: u64,
    /// Strategy runs.
    pub strategies: u64,
    /// Strategy runs that failed.
    pub failed: u64,
    /// Questions to other services.
    pub asks: u64,
    /// Values told to other services.
    pub told: u64,
    /// Outcomes: done, failed, no_route, refused, skipped, undone.
    pub outcomes: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds what another shard counted.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.refused += other.refused;
        self.alarms += other.alarms;
        self.strategies += other.strategies;
        self.failed += other.failed;
        self.asks += other.asks;
        self.told += other.told;
        for (status, count) in &other.outcomes {
            *self.outcomes.entry(status).or_default() += count;
        }
    }
}

/// The loop of one managed service.
pub struct ServiceLoop {
    pub(super) name: Arc<str>,
    id: ServiceId,
    policy: ServicePolicy,
    bindings: BTreeMap<Arc<str>, Option<Arc<str>>>,
    monitor: Option<Monitor>,
    analyzer: Option<Analyzer>,
    planner: Option<Planner>,
    /// The embedding program has attached a planner of its own: it hears alarms, and sends actions like anybody.
    foreign_planner: bool,
    ledger: Ledger,
    /// How often each component was attached or replaced: its identity.
    incarnations: [u32; 4],
    enabled: BTreeMap<String, bool>,
    knowledge: BTreeMap<String, serde_json::Value>,
    /// Monitors of other services that listen, by metric.
    listeners: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Metrics of other services that this monitor listens to.
    listening: Listening,
    watchers: Vec<Watcher>,
    asks: Vec<Ask>,
    next_token: u64,
    /// Actions that effectors are carrying out here, by key.
    performing: BTreeMap<String, Perform>,
    /// Decisions whose story is not over.
    open: BTreeMap<DecisionId, Decision>,
    /// Whether one of them may wait for a yes: false spares looking.
    waits: bool,
    decisions: u64,
    sensors: Vec<SensorWanted>,
    /// What went out last, by publisher.
    published: BTreeMap<Arc<str>, (f64, Timestamp)>,
    changed: Vec<SlotId>,
    dirty: Vec<u16>,
    wake: Option<Timestamp>,
}

impl std::fmt::Debug for ServiceLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceLoop").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Metrics of other services, by service.
type Listening = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// A tick that left something due at once is followed by the next after this time: no mistake makes a service turn for ever.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// What the analyzer reads where no monitor is attached.
struct NoMonitor<'a>(&'a str);

impl Readings for NoMonitor<'_> {
    fn find(&self, _: &MetricPath) -> Option<u32> {
        None
    }
    fn value(&self, _: u32) -> Option<(f64, Option<Timestamp>)> {
        None
    }
    fn reading(&mut self, _: u32, _: Timestamp) -> Reading {
        Reading::missing(MissingReason::NoMonitor(self.0.to_string()))
    }
    fn absent(&self, _: &MetricPath) -> Reading {
        Reading::missing(MissingReason::NoMonitor(self.0.to_string()))
    }
    fn awaited(&self, _: u32) -> bool {
        false
    }
}

impl Readings for Monitor {
    fn find(&self, path: &MetricPath) -> Option<u32> {
        Self::find(self, path)
    }
    fn value(&self, metric: u32) -> Option<(f64, Option<Timestamp>)> {
        let held = self.held(metric);
        held.missing.is_none().then_some((held.value, held.stale_at))
    }
    fn reading(&mut self, metric: u32, now: Timestamp) -> Reading {
        Self::reading(self, metric, now)
    }
    fn absent(&self, path: &MetricPath) -> Reading {
        Reading::missing(MissingReason::NoSuchMetric(path.to_string()))
    }
    fn awaited(&self, metric: u32) -> bool {
        self.held(metric).is_awaited()
    }
}

impl ServiceLoop {
    /// Handles one letter.
    pub fn handle(&mut self, letter: Letter, turn: &mut Turn<'_>) {
        match letter {
            Letter::Measured { metric, values } => self.measured(&metric, values, turn),
            Letter::SensorFailed { metric, why } => self.sensor_failed(&metric, &why, turn),
            Letter::Subscribe { from, metric } => self.subscribed(from, metric, turn),
            Letter::Unsubscribe { from, metric } => self.unsubscribed(&from, &metric, turn),
            Letter::Tell { from, metric, held } => self.told(&from, &metric, held, turn),
            Letter::Ask { from, token, metric, max_age } => self.asked(from, token, &metric, max_age, turn),
            Letter::Answer { from, token, metric, held } => self.answered(&from, token, &metric, held, turn),
            Letter::Members { metric, members } => self.members(&metric, members, turn),
            Letter::Step { from, decision, step, action } => self.step(from, decision, step, action, turn),
            Letter::StepEnded { decision, step, outcome, inverse } => {
                self.step_ended(decision, step, outcome, inverse, turn);
            }
            Letter::RanAside { token, run } => self.ran_aside(token, *run, turn),
            Letter::Performed { key, result } => self.performed(&key, result, turn),
            Letter::Call { token, request } => self.call(token, request, turn),
        }
        self.settle(turn);
    }

    /// Does what is due at the time of the turn.
    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        if let Some(monitor) = &mut self.monitor {
            let mut emitted = Vec::new();
            monitor.tick(turn.now, turn.model, &mut self.changed, &mut emitted);
            turn.effects.extend(emitted.into_iter().map(|(metric, data)| Effect::Emit(metric, data)));
        }
        self.tick_objectives(turn);
        self.tick_watchers(turn);
        self.tick_asks(turn);
        self.tick_ledger(turn);
        self.tick_proposals(turn);
        self.settle(turn);
        let soonest = turn.now.after(LEAST_WAIT);
        self.wake = self.wake.map(|t| t.max(soonest));
    }

    /// Its number.
    pub fn id(&self) -> ServiceId {
        self.id
    }

    /// When [`ServiceLoop::tick`] has something to do.
    pub fn wake(&self) -> Option<Timestamp> {
        self.wake
    }

    fn due(&self) -> Option<Timestamp> {
        let monitor = self.monitor.as_ref().and_then(Monitor::due);
        let objectives = self.objectives_due();
        let planner = self.planner.as_ref().and_then(Planner::due);
        let watchers = self.watchers.iter().filter_map(Watcher::due).min();
        let asks = self.asks.iter().map(|a| a.deadline).min();
        let ledger = self.ledger_due();
        let proposals = self.proposals_due();
        [monitor, objectives, planner, watchers, asks, ledger, proposals].into_iter().flatten().min()
    }

    /// Runs the loop until nothing is left to do at this time.
    fn settle(&mut self, turn: &mut Turn<'_>) {
        loop {
            self.observe_changes(turn);
            let mut busy = self.check_dirty(turn);
            busy |= self.plan_next(turn);
            busy |= self.act_next(turn);
            if !busy && self.changed.is_empty() {
                break;
            }
        }
        let news = self.planner.as_mut().map(Planner::news).unwrap_or_default();
        for (key, value) in news {
            self.learn(&key, value, turn);
        }
        self.wake = self.due();
    }

    /// The short way of the hottest letter: one sample of one metric.
    pub fn sample(&mut self, metric: MetricId, value: f64, at: Option<Timestamp>, turn: &mut Turn<'_>) {
        let taken = match &mut self.monitor {
            None => false,
            Some(monitor) => match monitor.numbered(metric) {
                None => false,
                Some(slot) => monitor.take(slot, value, at, turn.now, &mut self.changed).is_ok(),
            },
        };
        if !taken {
            turn.tally.refused += 1;
            return;
        }
        turn.tally.samples += 1;
        self.settle_sample(turn);
    }

    /// Takes data of a metric. Nothing comes of them before their window is evaluated, so the loop does not run.
    pub fn collect(&mut self, metric: &str, data: &[Datum], turn: &mut Turn<'_>) {
        if let Some(monitor) = &mut self.monitor {
            let (taken, refused) = monitor.collect(metric, data);
            turn.tally.samples += taken;
            turn.tally.refused += refused;
        }
    }

    /// The metrics whose data it may need.
    pub fn collected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.monitor.iter().flat_map(Monitor::collected)
    }

    fn publishers(&self) -> &[Arc<PublishPolicy>] {
        self.policy.monitor.as_ref().map_or(&[], |monitor| &monitor.publish)
    }

    /// Reads, from far and wide, what [`ServiceLoop::sample`] will read, so that it is near then. The sum means nothing.
    pub fn touch(&self, metric: MetricId) -> u64 {
        let Some(monitor) = &self.monitor else { return 0 };
        let Some(slot) = monitor.numbered(metric) else { return 0 };
        let mut sum = self.asks.len() as u64
            ^ self.dirty.first().map_or(0, |d| u64::from(*d))
            ^ monitor.touch(slot, &mut |slo| self.analyzer.as_ref().map_or(0, |a| a.touch(slo as usize)));
        if let Some(wake) = self.wake {
            sum ^= wake.0 as u64;
        }
        sum
    }

    fn event(&self, phase: &str, correlation: Option<DecisionId>, text: String, turn: &mut Turn<'_>) {
        turn.effects.push(Effect::Event(Event {
            at: turn.now,
            service: Some(self.name.to_string()),
            phase: phase.to_string(),
            correlation: correlation.map(|d| format!("{}/{d}", self.name)),
            text,
        }));
    }

    fn remember(&self, what: Lasting, turn: &mut Turn<'_>) {
        turn.effects.push(Effect::Remember(self.name.clone(), what));
    }

    /// The reading of an own metric, for calls and strategies.
    fn read(&mut self, metric: &str, now: Timestamp) -> Reading {
        match &mut self.monitor {
            None => Reading::missing(MissingReason::NoMonitor(self.name.to_string())),
            Some(monitor) => monitor
                .read(metric, now)
                .unwrap_or_else(|| Reading::missing(MissingReason::NoSuchMetric(metric.to_string()))),
        }
    }

    /// What is held of an own metric, for other services.
    fn holds(&mut self, metric: &str, now: Timestamp) -> Held {
        match &mut self.monitor {
            None => Held::missing(MissingReason::NoMonitor(self.name.to_string())),
            Some(monitor) => monitor
                .holds(metric, now)
                .unwrap_or_else(|| Held::missing(MissingReason::NoSuchMetric(metric.to_string()))),
        }
    }

    /// The service that a word of a strategy means: one of this name, or the one that the reference of this name is bound to.
    fn resolve<'a>(&'a self, word: &'a str) -> &'a str {
        match self.bindings.get(word) {
            Some(Some(bound)) => bound,
            _ => word,
        }
    }

    /// Whether actions may go from here to `service` (R3-60): along references, candidates included.
    fn routes_to(&self, service: &str) -> bool {
        self.bindings.values().flatten().any(|bound| &**bound == service)
            || self.policy.references.values().any(|r| r.candidates.iter().any(|c| &**c == service))
    }

    fn target_of(&self, action: &Action) -> Arc<str> {
        match action.service() {
            None => self.name.clone(),
            Some(word) if *word == *self.name => self.name.clone(),
            Some(word) => self.resolve(word).into(),
        }
    }

    /// Lets go of everything before the service is detached: callers are answered, sensors stop, listeners are told.
    pub fn retire(mut self, why: &PortError, turn: &mut Turn<'_>) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
        self.end_all(why, turn);
        for (service, metrics) in std::mem::take(&mut self.listening) {
            for metric in metrics {
                let letter = Letter::Unsubscribe { from: self.name.clone(), metric };
                turn.mail.push((service.clone(), letter));
            }
        }
        turn.effects.push(Effect::Sensors(self.name.clone(), self.id, Vec::new()));
        if !self.publishers().is_empty() {
            turn.effects.push(Effect::Publishers(self.name.clone(), Vec::new()));
        }
        for (metric, listeners) in &self.listeners {
            for listener in listeners {
                let held = Held::missing(MissingReason::NoSuchService(self.name.to_string()));
                let letter = Letter::Tell { from: self.name.clone(), metric: metric.clone(), held };
                turn.mail.push((listener.clone(), letter));
            }
        }
        self.listeners
    }

    /// An alarm from the analyzer or from outside goes to the planner.
    fn alarm(&mut self, alarm: Alarm, turn: &mut Turn<'_>) {
        self.spread_alarm(alarm, Planner::take, turn);
    }

    fn spread_alarm(&mut self, alarm: Alarm, take: fn(&mut Planner, Alarm) -> Taken, turn: &mut Turn<'_>) {
        turn.tally.alarms += 1;
        if self.foreign_planner {
            turn.effects.push(Effect::Alarm(self.name.clone(), Box::new(alarm.clone())));
        }
        self.take_alarm(alarm, take, turn);
    }
}
