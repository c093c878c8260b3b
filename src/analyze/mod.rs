//! A: checks objectives against readings and says what changed. Pure.
//!
//! What an SLO stands at follows from its gates; an alarm is raised when that differs from what was told last, so alarms alternate.
//!
//! ```text
//!            broken for `for`
//!   holds ──────────────────────▶ broken      two such gates: one for `objective`, one for `warn`;
//!     ▲                              │        a change that does not last is forgotten
//!     └── holds for `recover_for` ◀──┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Alarm, AlarmKind, MetricPath, Reading, SloState, SloStatus, Timestamp};
use crate::policy::document::MissingPolicy;
use crate::policy::expression::{EvalError, Expression};
use crate::policy::{AnalyzePolicy, SloPolicy};

/// How well an objective holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// It holds.
    Ok,
    /// It holds, and its warning level does not.
    Warning,
    /// It is broken.
    Violated,
}

/// How long a reading may be awaited (no sample yet, a service not attached yet) before it counts as missing.
pub const GRACE: Duration = Duration::from_secs(5);

/// A condition that counts as broken, or as holding again, only after it has been so for a while.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Gate {
    /// What counts.
    broken: bool,
    /// Since when it is the other way round.
    pending: Option<Timestamp>,
}

impl Gate {
    fn step(&mut self, broken: bool, now: Timestamp, delay: Duration) {
        if broken == self.broken {
            self.pending = None;
        } else if now.since(*self.pending.get_or_insert(now)) >= delay {
            *self = Self { broken, pending: None };
        }
    }
}

/// What was told of an SLO last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// How well it holds.
    Level(Level),
    /// That it cannot be decided.
    Missing,
}

/// Since when an SLO cannot be decided.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gap {
    since: Timestamp,
    /// Until when that is only to be expected.
    grace: Option<Timestamp>,
}

/// One SLO with its state.
#[derive(Debug)]
struct Objective {
    policy: Arc<SloPolicy>,
    /// Where the readings of `policy.objective` and `policy.warn` are, in the order of their inputs.
    inputs: Vec<Option<u32>>,
    warn_inputs: Vec<Option<u32>>,
    /// Whether it is checked: by policy, by hand or by action.
    enabled: bool,
    /// Whether it was ever decided since it was enabled.
    decided: bool,
    warn: Gate,
    broken: Gate,
    told: Told,
    /// Since when it stands as told.
    since: Option<Timestamp>,
    missing: Option<Gap>,
}

/// What the analyzer reads: the monitor of its service, or whatever stands for it. Metrics have numbers there.
pub trait Readings {
    /// The number of a metric, if there is one.
    fn find(&self, path: &MetricPath) -> Option<u32>;
    /// The value of a metric, if there is one, and the time from which it counts as stale.
    fn value(&self, metric: u32) -> Option<(f64, Option<Timestamp>)>;
    /// The whole reading of a metric.
    fn reading(&mut self, metric: u32, now: Timestamp) -> Reading;
    /// What a metric that has no number reads as.
    fn absent(&self, path: &MetricPath) -> Reading;
    /// Whether a metric without a value may well get one soon: nobody has said yet that it cannot.
    fn awaited(&self, metric: u32) -> bool;
}

/// The analyzer of one service.
#[derive(Debug, Default)]
pub struct Analyzer {
    objectives: Vec<Objective>,
    inputs: Vec<Option<f64>>,
}

/// What one evaluation came to.
enum Finding {
    Level(Level),
    /// It cannot be decided; `awaited`: not yet.
    Missing {
        awaited: bool,
    },
}

impl Analyzer {
    /// Builds the analyzer of `policy`. An SLO of the same name keeps its state, the time already spent in violation included;
    /// a changed condition is judged at the next check. `enabled` is what was enabled or disabled by hand or by action.
    pub fn build(policy: &AnalyzePolicy, before: Option<Self>, enabled: &BTreeMap<String, bool>) -> Self {
        let mut old: BTreeMap<Arc<str>, Objective> = before
            .map(|a| a.objectives)
            .unwrap_or_default()
            .into_iter()
            .map(|o| (o.policy.name.clone(), o))
            .collect();
        let objectives = policy
            .slos
            .iter()
            .map(|slo| {
                let on = enabled.get(&*slo.name).copied().unwrap_or(slo.enabled);
                let mut objective = old.remove(&slo.name).unwrap_or_else(|| Objective::new(slo.clone()));
                objective.policy = slo.clone();
                objective.switch(on);
                objective
            })
            .collect();
        Self { objectives, inputs: Vec::new() }
    }

    /// How many SLOs there are.
    pub fn len(&self) -> usize {
        self.objectives.len()
    }

    /// Whether there is no SLO.
    pub fn is_empty(&self) -> bool {
        self.objectives.is_empty()
    }

    /// Looks up where the readings are. Needed after either of the two was built.
    pub fn wire(&mut self, readings: &dyn Readings) {
        for o in &mut self.objectives {
            let find = |e: &Expression| -> Vec<_> { e.inputs.iter().map(|p| readings.find(p)).collect() };
            (o.inputs, o.warn_inputs) =
                (find(&o.policy.objective), o.policy.warn.as_ref().map(find).unwrap_or_default());
        }
    }

    /// The metrics that SLO number `slo` reads; nothing while it is disabled (R3-47).
    pub fn reads(&self, slo: usize) -> impl Iterator<Item = u32> {
        let o = &self.objectives[slo];
        o.inputs.iter().chain(&o.warn_inputs).flatten().copied().filter(|_| o.enabled)
    }

    /// The metrics that any SLO may read.
    pub fn all_paths(policy: &AnalyzePolicy) -> Vec<MetricPath> {
        policy
            .slos
            .iter()
            .flat_map(|s| s.objective.inputs.iter().chain(s.warn.iter().flat_map(|w| w.inputs.iter())))
            .cloned()
            .collect()
    }

    /// The number of the SLO of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.objectives.iter().position(|o| &*o.policy.name == name)
    }

    /// Switches an SLO on or off (R3-47); answers whether that changed anything.
    pub fn enable(&mut self, slo: usize, on: bool) -> bool {
        self.objectives[slo].switch(on)
    }

    /// Checks one SLO; an alarm, if something changed.
    pub fn check(
        &mut self,
        slo: usize,
        readings: &mut dyn Readings,
        now: Timestamp,
        service: &str,
    ) -> Option<Alarm> {
        let finding = self.evaluate(slo, readings, now)?;
        let kind = self.objectives[slo].step(finding, now)?;
        Some(self.alarm(slo, kind, readings, now, service))
    }

    /// Reads what [`Analyzer::check`] will read of an SLO. The sum means nothing.
    pub fn touch(&self, slo: usize) -> u64 {
        let Some(o) = self.objectives.get(slo) else { return 0 };
        let inputs = o.inputs.first().copied().flatten().map_or(0, u64::from);
        let scratch = self.inputs.first().copied().flatten().map_or(0, f64::to_bits);
        inputs ^ scratch ^ o.policy.objective.touch() ^ u64::from(o.enabled) ^ u64::from(o.broken.broken)
    }

    fn evaluate(&mut self, slo: usize, readings: &dyn Readings, now: Timestamp) -> Option<Finding> {
        let o = &self.objectives[slo];
        if !o.enabled {
            return None;
        }
        let mut holds =
            |e: &Expression, inputs: &[Option<u32>]| holds(e, inputs, readings, now, &mut self.inputs);
        let level = match holds(&o.policy.objective, &o.inputs) {
            Some(false) => Some(Level::Violated),
            Some(true) => match o.policy.warn.as_ref().map(|w| holds(w, &o.warn_inputs)) {
                None | Some(Some(true)) => Some(Level::Ok),
                Some(Some(false)) => Some(Level::Warning),
                Some(None) => None,
            },
            None => None,
        };
        Some(match level {
            Some(level) => Finding::Level(level),
            None => Finding::Missing { awaited: self.reads(slo).any(|metric| readings.awaited(metric)) },
        })
    }

    /// When SLO number `slo` must be checked again though no new value comes: a pending change is over, or a reading gets stale.
    pub fn due(&self, slo: usize, readings: &dyn Readings) -> Option<Timestamp> {
        let o = &self.objectives[slo];
        if !o.enabled {
            return None;
        }
        let Some(gap) = o.missing else {
            let stale = self
                .reads(slo)
                .filter_map(|metric| readings.value(metric).and_then(|(_, stale_at)| stale_at))
                .min()
                .map(|t| Timestamp(t.0.saturating_add(1)));
            return earlier(o.gates_due(), stale);
        };
        match o.policy.missing {
            MissingPolicy::Hold => None,
            _ if gap.grace.is_some() => gap.grace,
            MissingPolicy::Ok | MissingPolicy::Violate => o.gates_due(),
            MissingPolicy::Alarm if o.told == Told::Missing => None,
            MissingPolicy::Alarm => Some(gap.since.after(o.policy.hold_for)),
        }
    }

    /// The alarm that describes how SLO number `slo` stands now, if it stands badly: what a planner attached late must know.
    pub fn standing(
        &self,
        slo: usize,
        readings: &mut dyn Readings,
        now: Timestamp,
        service: &str,
    ) -> Option<Alarm> {
        let o = &self.objectives[slo];
        let kind = match o.told {
            _ if !o.enabled => return None,
            Told::Level(Level::Ok) => return None,
            told => told.kind(),
        };
        Some(self.alarm(slo, kind, readings, now, service))
    }

    fn alarm(
        &self,
        slo: usize,
        kind: AlarmKind,
        readings: &mut dyn Readings,
        now: Timestamp,
        service: &str,
    ) -> Alarm {
        let policy = &self.objectives[slo].policy;
        let condition = match kind {
            AlarmKind::Violation => policy.violation.to_string(),
            AlarmKind::Warning => policy.warning.as_deref().unwrap_or_default().to_string(),
            AlarmKind::Missing => format!("{} cannot be decided", policy.objective.source),
            AlarmKind::Recovered => policy.objective.source.to_string(),
        };
        Alarm {
            service: service.to_string(),
            slo: policy.name.to_string(),
            kind,
            severity: policy.severity,
            condition,
            values: self.values(slo, readings, now),
            at: now,
        }
    }

    fn values(&self, slo: usize, readings: &mut dyn Readings, now: Timestamp) -> BTreeMap<String, Reading> {
        let o = &self.objectives[slo];
        let paths =
            o.policy.objective.inputs.iter().chain(o.policy.warn.iter().flat_map(|w| w.inputs.iter()));
        paths
            .zip(o.inputs.iter().chain(&o.warn_inputs))
            .map(|(path, metric)| {
                let reading = match metric {
                    Some(metric) => readings.reading(*metric, now),
                    None => readings.absent(path),
                };
                (path.to_string(), reading)
            })
            .collect()
    }

    /// All SLOs with their states, sorted by name.
    pub fn list(&self, readings: &mut dyn Readings, now: Timestamp) -> Vec<SloStatus> {
        (0..self.objectives.len())
            .map(|n| {
                let o = &self.objectives[n];
                let (state, since) = o.state();
                SloStatus {
                    name: o.policy.name.to_string(),
                    objective: o.policy.objective.source.to_string(),
                    severity: o.policy.severity,
                    state,
                    since,
                    values: self.values(n, readings, now),
                }
            })
            .collect()
    }

    /// The state of the SLO of this name.
    pub fn state(&self, name: &str) -> Option<SloState> {
        Some(self.objectives[self.find(name)?].state().0)
    }

    /// The names of the SLOs, by number.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.objectives.iter().map(|o| &o.policy.name)
    }
}

/// Whether a condition holds; `None` when it cannot be decided because a reading is missing or stale.
fn holds(
    condition: &Expression,
    inputs: &[Option<u32>],
    readings: &dyn Readings,
    now: Timestamp,
    scratch: &mut Vec<Option<f64>>,
) -> Option<bool> {
    scratch.clear();
    for metric in inputs {
        let value = metric.and_then(|m| readings.value(m));
        scratch.push(value.and_then(|(v, stale)| stale.is_none_or(|t| now <= t).then_some(v)));
    }
    match condition.eval(scratch) {
        Ok(value) => Some(value != 0.0),
        Err(EvalError::MissingInput(_) | EvalError::NotFinite) => None,
    }
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Told {
    fn kind(self) -> AlarmKind {
        match self {
            Self::Level(Level::Ok) => AlarmKind::Recovered,
            Self::Level(Level::Warning) => AlarmKind::Warning,
            Self::Level(Level::Violated) => AlarmKind::Violation,
            Self::Missing => AlarmKind::Missing,
        }
    }
}

impl Objective {
    /// An SLO that nothing is known of yet.
    fn new(policy: Arc<SloPolicy>) -> Self {
        Self {
            policy,
            inputs: Vec::new(),
            warn_inputs: Vec::new(),
            enabled: true,
            decided: false,
            warn: Gate::default(),
            broken: Gate::default(),
            told: Told::Level(Level::Ok),
            since: None,
            missing: None,
        }
    }

    /// Switched off and on again, an SLO begins anew.
    fn switch(&mut self, on: bool) -> bool {
        if on == self.enabled {
            return false;
        }
        let fresh = Self::new(self.policy.clone());
        let inputs = std::mem::take(&mut self.inputs);
        let warn_inputs = std::mem::take(&mut self.warn_inputs);
        *self = Self { inputs, warn_inputs, enabled: on, ..fresh };
        true
    }

    /// How long a gate must stand the other way before that counts.
    fn delay(&self, gate: Gate) -> Duration {
        if gate.broken { self.policy.recover_for } else { self.policy.hold_for }
    }

    fn gates_due(&self) -> Option<Timestamp> {
        let due = |gate: Gate| gate.pending.map(|since| since.after(self.delay(gate)));
        earlier(due(self.warn), due(self.broken))
    }

    fn step(&mut self, finding: Finding, now: Timestamp) -> Option<AlarmKind> {
        let standing = match finding {
            Finding::Level(level) => {
                self.missing = None;
                self.step_gates(level, now)
            }
            Finding::Missing { awaited } => self.step_missing(awaited, now)?,
        };
        if self.since.is_none() {
            self.since = Some(now);
        }
        if standing == self.told {
            return None;
        }
        (self.told, self.since) = (standing, Some(now));
        Some(standing.kind())
    }

    fn step_gates(&mut self, level: Level, now: Timestamp) -> Told {
        self.decided = true;
        let (warn_delay, delay) = (self.delay(self.warn), self.delay(self.broken));
        self.warn.step(level >= Level::Warning && self.policy.warn.is_some(), now, warn_delay);
        self.broken.step(level == Level::Violated, now, delay);
        Told::Level(match (self.broken.broken, self.warn.broken) {
            (true, _) => Level::Violated,
            (false, true) => Level::Warning,
            (false, false) => Level::Ok,
        })
    }

    /// What missing data come to; `None`: nothing changes.
    fn step_missing(&mut self, awaited: bool, now: Timestamp) -> Option<Told> {
        let gap = self.missing.get_or_insert(Gap { since: now, grace: Some(now.after(GRACE)) });
        if !awaited || gap.grace.is_some_and(|end| end <= now) {
            gap.grace = None;
        }
        if gap.grace.is_some() {
            return None;
        }
        let lasts = now.since(gap.since);
        match self.policy.missing {
            MissingPolicy::Hold => None,
            MissingPolicy::Ok => Some(self.step_gates(Level::Ok, now)),
            MissingPolicy::Violate => Some(self.step_gates(Level::Violated, now)),
            MissingPolicy::Alarm => (lasts >= self.policy.hold_for).then_some(Told::Missing),
        }
    }

    fn state(&self) -> (SloState, Option<Timestamp>) {
        let unresolved = self.inputs.iter().chain(&self.warn_inputs).any(Option::is_none);
        let gap = self.missing.filter(|gap| gap.grace.is_none() || self.decided);
        match (self.told, self.broken.pending) {
            _ if !self.enabled => (SloState::Disabled, None),
            _ if unresolved => (SloState::Unresolved, self.missing.map(|gap| gap.since)),
            _ if matches!(self.policy.missing, MissingPolicy::Hold | MissingPolicy::Alarm)
                && gap.is_some() =>
            {
                (SloState::Missing, gap.map(|gap| gap.since))
            }
            _ if !self.decided => (SloState::Unknown, None),
            (Told::Level(Level::Violated), _) => (SloState::Violated, self.since),
            (_, Some(since)) => (SloState::Pending, Some(since)),
            (Told::Level(Level::Warning), _) => (SloState::Warning, self.since),
            (Told::Level(Level::Ok) | Told::Missing, _) => (SloState::Ok, self.since),
        }
    }
}
