//! A: checks objectives against readings and says what changed. Pure.
//!
//! ```text
//!              broken            for `for`
//!   ok ──────────────▶ pending ──────────────▶ violated ──┐
//!   ▲ ▲                   │ holds again                   │ holds for `recover_for`
//!   │ └───────────────────┘                               │
//!   └─────────────── recovered ◀───────────────────────────┘     (`warning` lies between ok and violated)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// The life of one SLO.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    /// Not checked, by policy or by hand.
    Disabled,
    /// Never decided yet.
    Unknown,
    /// Decided; a change of level may be on its way.
    Decided {
        /// The level last told.
        level: Level,
        /// Since when.
        since: Timestamp,
        /// The level that it is going to, and since when.
        pending: Option<(Level, Timestamp)>,
    },
}

/// One SLO with its state.
#[derive(Debug)]
struct Objective {
    policy: Arc<SloPolicy>,
    /// Where the readings of `policy.objective` and `policy.warn` are, in the order of their inputs.
    inputs: Vec<Option<u32>>,
    warn_inputs: Vec<Option<u32>>,
    life: Life,
    /// Since when it cannot be decided.
    missing: Option<Timestamp>,
    /// Whether the alarm `missing` is out.
    missing_told: bool,
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
    Missing,
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
                let mut objective = old.remove(&slo.name).unwrap_or(Objective {
                    policy: slo.clone(),
                    inputs: Vec::new(),
                    warn_inputs: Vec::new(),
                    life: Life::Unknown,
                    missing: None,
                    missing_told: false,
                });
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
            let find = |e: &Expression| e.inputs.iter().map(|p| readings.find(p)).collect();
            o.inputs = find(&o.policy.objective);
            o.warn_inputs = o.policy.warn.as_ref().map(find).unwrap_or_default();
        }
    }

    /// The metrics that SLO number `slo` reads; nothing while it is disabled (R3-47).
    pub fn reads(&self, slo: usize) -> impl Iterator<Item = u32> {
        let o = &self.objectives[slo];
        let on = o.life != Life::Disabled;
        o.inputs.iter().chain(&o.warn_inputs).flatten().copied().filter(move |_| on)
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

    fn evaluate(&mut self, slo: usize, readings: &dyn Readings, now: Timestamp) -> Option<Finding> {
        let o = &self.objectives[slo];
        if o.life == Life::Disabled {
            return None;
        }
        let mut holds =
            |e: &Expression, inputs: &[Option<u32>]| holds(e, inputs, readings, now, &mut self.inputs);
        Some(match holds(&o.policy.objective, &o.inputs) {
            None => Finding::Missing,
            Some(false) => Finding::Level(Level::Violated),
            Some(true) => match o.policy.warn.as_ref().map(|w| holds(w, &o.warn_inputs)) {
                None | Some(Some(true)) => Finding::Level(Level::Ok),
                Some(Some(false)) => Finding::Level(Level::Warning),
                Some(None) => Finding::Missing,
            },
        })
    }

    /// When SLO number `slo` must be checked again though no new value comes: a pending change is over, or a reading gets stale.
    pub fn due(&self, slo: usize, readings: &dyn Readings) -> Option<Timestamp> {
        let o = &self.objectives[slo];
        let waiting = match o.life {
            Life::Disabled => return None,
            Life::Decided { pending: Some((level, since)), .. } => Some(since.after(o.delay(level))),
            _ => None,
        };
        let stale = if o.missing.is_some() {
            None
        } else {
            self.reads(slo)
                .filter_map(|metric| readings.value(metric).and_then(|(_, stale_at)| stale_at))
                .min()
                .map(|t| Timestamp(t.0.saturating_add(1)))
        };
        match (waiting, stale) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
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
        let kind = match o.life {
            _ if o.missing_told => AlarmKind::Missing,
            Life::Decided { level: Level::Violated, .. } => AlarmKind::Violation,
            Life::Decided { level: Level::Warning, .. } => AlarmKind::Warning,
            _ => return None,
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

impl Objective {
    fn switch(&mut self, on: bool) -> bool {
        match (on, self.life) {
            (true, Life::Disabled) => self.life = Life::Unknown,
            (false, Life::Disabled) | (true, _) => return false,
            (false, _) => {
                self.life = Life::Disabled;
                self.missing = None;
                self.missing_told = false;
            }
        }
        true
    }

    /// How long a level must last before it is told.
    fn delay(&self, to: Level) -> std::time::Duration {
        match self.life {
            Life::Decided { level, .. } if to < level => self.policy.recover_for,
            _ if to == Level::Ok => std::time::Duration::ZERO,
            _ => self.policy.hold_for,
        }
    }

    fn step(&mut self, finding: Finding, now: Timestamp) -> Option<AlarmKind> {
        let level = match (finding, self.policy.missing) {
            (Finding::Level(level), _) => {
                let was_told = std::mem::take(&mut self.missing_told);
                self.missing = None;
                if was_told
                    && let Life::Decided { level: told, pending: None, .. } = self.life
                    && told == level
                {
                    return Some(told_as(level));
                }
                level
            }
            (Finding::Missing, policy) => {
                // Before the first sample has had a chance to come, nothing is missing.
                self.missing.get_or_insert(now);
                match policy {
                    MissingPolicy::Hold => return None,
                    MissingPolicy::Ok => Level::Ok,
                    MissingPolicy::Violate => Level::Violated,
                    MissingPolicy::Alarm => {
                        let first = !std::mem::replace(&mut self.missing_told, true);
                        return first.then_some(AlarmKind::Missing);
                    }
                }
            }
        };
        self.step_level(level, now)
    }

    fn step_level(&mut self, level: Level, now: Timestamp) -> Option<AlarmKind> {
        let delay = self.delay(level);
        let (told, since, pending) = match self.life {
            Life::Disabled => return None,
            Life::Unknown => (Level::Ok, now, None),
            Life::Decided { level, since, pending } => (level, since, pending),
        };
        if level == told {
            self.life = Life::Decided { level, since, pending: None };
            return None;
        }
        // A pending warning that grows into a violation keeps the time already spent.
        let from = match pending {
            Some((towards, from)) if (towards > told) == (level > told) => from,
            _ => now,
        };
        if now.since(from) < delay {
            self.life = Life::Decided { level: told, since, pending: Some((level, from)) };
            return None;
        }
        self.life = Life::Decided { level, since: now, pending: None };
        Some(told_as(level))
    }

    fn state(&self) -> (SloState, Option<Timestamp>) {
        let unresolved = self.inputs.iter().chain(&self.warn_inputs).any(Option::is_none);
        match self.life {
            Life::Disabled => (SloState::Disabled, None),
            _ if unresolved => (SloState::Unresolved, self.missing),
            Life::Unknown if self.missing.is_none() => (SloState::Unknown, None),
            _ if self.missing.is_some()
                && matches!(self.policy.missing, MissingPolicy::Hold | MissingPolicy::Alarm) =>
            {
                (SloState::Missing, self.missing)
            }
            Life::Unknown => (SloState::Unknown, None),
            Life::Decided { pending: Some((level, since)), level: told, .. } if level > told => {
                (SloState::Pending, Some(since))
            }
            Life::Decided { level: Level::Ok, since, .. } => (SloState::Ok, Some(since)),
            Life::Decided { level: Level::Warning, since, .. } => (SloState::Warning, Some(since)),
            Life::Decided { level: Level::Violated, since, .. } => (SloState::Violated, Some(since)),
        }
    }
}

fn told_as(level: Level) -> AlarmKind {
    match level {
        Level::Ok => AlarmKind::Recovered,
        Level::Warning => AlarmKind::Warning,
        Level::Violated => AlarmKind::Violation,
    }
}
