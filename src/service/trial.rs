//! Runs the tests of policies: each in a simulation of its own, where sensors measure what the test says and nobody waits.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::message::{Letter, MeasuredValue, Request, Response};
use super::simulation::Simulation;
use crate::model::connector::SensorSpec;
use crate::model::{Decision, Outcome, OutcomeStatus, Reading, Timestamp, Verdict};
use crate::plan::strategy::STACK_SIZE;
use crate::policy::set::PolicySet;
use crate::policy::tree::Place;
use crate::policy::trial::{ExpectDocument, Expected, Named, Pushed, Trial, TrialStep};
use crate::policy::value::MetricKind;

/// When every test begins: 2026-01-01T00:00:00Z.
pub const BEGINNING: Timestamp = Timestamp(1_767_225_600_000_000);

/// What came of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The file.
    pub file: Arc<str>,
    /// Its line there, from 1.
    pub line: usize,
    /// What it is called.
    pub test: String,
    /// What was not as expected, in the first step in which something was not; none when it passed.
    pub failures: Vec<TrialFailure>,
}

/// Something that was not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrialFailure {
    /// The line of the expectation, from 1.
    pub line: usize,
    /// The column in it, from 1.
    pub column: usize,
    /// What was expected, and what was there instead.
    pub message: String,
}

/// Runs tests of the policies of `set`, in order, on a thread with a stack for strategies.
///
/// # Errors
/// When there is no thread, or a test panicked.
pub fn try_all(trials: &[Trial], set: &PolicySet) -> std::io::Result<Vec<Tried>> {
    std::thread::scope(|scope| {
        let run = || trials.iter().map(|trial| try_one(trial, set)).collect();
        let thread = std::thread::Builder::new().name("tests".into()).stack_size(STACK_SIZE);
        let thread = thread.spawn_scoped(scope, run)?;
        thread.join().map_err(|_| std::io::Error::other("a test panicked"))
    })
}

/// Runs one test; needs a stack of [`STACK_SIZE`].
fn try_one(trial: &Trial, set: &PolicySet) -> Tried {
    let mut stage = Stage::new(set);
    let mut failures = Vec::new();
    for (number, step) in trial.document.steps.iter().enumerate() {
        let at = Place::value(["steps".into(), number.into()]);
        let mut wrong = stage.step(step, &at);
        if let Some(why) = stage.panicked() {
            wrong.push((at, why));
        }
        for (place, message) in wrong {
            let (line, column) = trial.position(&place);
            failures.push(TrialFailure { line, column, message });
        }
        // What follows would only follow from this.
        if !failures.is_empty() {
            break;
        }
    }
    let (line, _) = trial.position(&Place::value(["test".into()]).at_key());
    Tried { file: trial.file.clone(), line, test: trial.document.test.clone(), failures }
}

/// What is wrong, and with which part of the test.
type Wrong = Vec<(Place, String)>;

/// What a sensor measures: its own value and those of its outputs and members.
type Measured = BTreeMap<(Option<Arc<str>>, Option<Arc<str>>), f64>;

/// By service and sensor.
type Sensors = BTreeMap<(String, String), Measured>;

/// What actions and reasons came, until somebody asks.
#[derive(Default)]
struct Came {
    done: Vec<String>,
    failed: Vec<String>,
    proposed: Vec<String>,
    reasons: Vec<String>,
}

/// How much of a decision has been looked at.
#[derive(Default)]
struct Seen {
    outcomes: usize,
    plan: bool,
}

struct Stage<'a> {
    set: &'a PolicySet,
    simulation: Simulation,
    /// What sensors measure; shared with those that are read when they are asked.
    sensors: Rc<RefCell<Sensors>>,
    /// When each sensor that is read regularly is read next.
    due: BTreeMap<(String, String), Timestamp>,
    /// The effectors that fail, by service and action, and what they say.
    failing: Rc<RefCell<BTreeMap<(String, String), String>>>,
    seen: BTreeMap<(String, u64), Seen>,
    came: Came,
}

impl<'a> Stage<'a> {
    fn new(set: &'a PolicySet) -> Self {
        let sensors: Rc<RefCell<Sensors>> = Rc::default();
        let failing: Rc<RefCell<BTreeMap<(String, String), String>>> = Rc::default();
        let mut simulation = Simulation::new(BEGINNING, 1);
        let (asked, called) = (sensors.clone(), failing.clone());
        simulation.on_demand(move |service, metric| {
            let key = (service.to_string(), metric.to_string());
            asked.borrow().get(&key)?.get(&(None, None)).copied()
        });
        simulation.effector(move |perform| {
            let key = (perform.service.to_string(), perform.action.name().to_string());
            Some(called.borrow().get(&key).map_or_else(|| Ok(String::new()), |why| Err(why.clone())))
        });
        simulation.apply(set);
        let (due, seen) = (BTreeMap::new(), BTreeMap::new());
        let mut stage = Self { set, simulation, sensors, due, failing, seen, came: Came::default() };
        stage.look();
        stage
    }

    fn step(&mut self, step: &TrialStep, at: &Place) -> Wrong {
        let mut wrong = Wrong::new();
        match step {
            TrialStep::Push(values) => self.push(values),
            TrialStep::Data(data) => {
                for (metric, data) in data {
                    let values = data.iter().flat_map(|(resource, values)| {
                        let number = |value: &Pushed| match value {
                            Pushed::Value(value) => Some((resource.as_str(), *value)),
                            Pushed::Fails => None,
                        };
                        values.iter().filter_map(number)
                    });
                    self.simulation.collect(metric, values);
                }
            }
            TrialStep::Wait(time) => self.wait(time.0),
            TrialStep::Fail(fail) => {
                let key = (fail.service.clone(), fail.action.clone());
                self.failing.borrow_mut().insert(key, fail.with.clone());
            }
            TrialStep::Mend(mend) => {
                self.failing.borrow_mut().remove(&(mend.service.clone(), mend.action.clone()));
            }
            TrialStep::Approve(service) => {
                if let Err(why) = self.approve(service) {
                    wrong.push((at.then("approve"), why));
                }
            }
            TrialStep::Expect(expect) => self.judge(expect, &at.then("expect"), &mut wrong),
        }
        self.look();
        wrong
    }

    /// Why a turn panicked, if one did.
    fn panicked(&self) -> Option<String> {
        let events = self.simulation.events.iter();
        (self.simulation.quarantined() > 0).then(|| {
            let said =
                events.rev().find(|event| event.phase == "daemon").map_or("", |event| event.text.as_str());
            format!("a turn panicked: {said}")
        })
    }

    // ---- what comes in ---------------------------------------------------------------------------------------------

    fn push(&mut self, values: &BTreeMap<String, Pushed>) {
        let mut read = BTreeMap::new();
        for (key, value) in values {
            let Some(named) = Named::parse(key) else { continue };
            let (sensor, output) = self.sensor_of(named);
            let key = (named.service.to_string(), sensor);
            if let (Some(SensorSpec::Push(_)), Pushed::Value(value)) = (self.spec(&key), value) {
                self.simulation.push(named.service, named.name, *value);
                continue;
            }
            let mut sensors = self.sensors.borrow_mut();
            match value {
                Pushed::Value(value) => {
                    let measured = sensors.entry(key.clone()).or_default();
                    measured.insert((output, named.label.map(Arc::from)), *value);
                }
                Pushed::Fails => drop(sensors.remove(&key)),
            }
            drop(sensors);
            read.insert(key, ());
        }
        // A value is there at once, wherever the sensor is in its period.
        for key in read.into_keys() {
            self.read(&key);
        }
        self.look();
    }

    /// The sensor that feeds a metric, and which of its outputs it is.
    fn sensor_of(&self, named: Named) -> (String, Option<Arc<str>>) {
        let monitor = self.set.services.get(named.service).and_then(|service| service.monitor.as_ref());
        let metric = monitor.and_then(|m| m.metrics.iter().find(|metric| &*metric.name == named.name));
        match metric.map(|metric| &metric.kind) {
            Some(MetricKind::Output { sensor }) => {
                let output = named.name.strip_prefix(&**sensor).unwrap_or(named.name).trim_start_matches('_');
                (sensor.to_string(), Some(output.into()))
            }
            _ => (named.name.to_string(), None),
        }
    }

    fn spec(&self, (service, sensor): &(String, String)) -> Option<&'a SensorSpec> {
        let metrics = &self.set.services.get(service.as_str())?.monitor.as_ref()?.metrics;
        match &metrics.iter().find(|metric| *metric.name == **sensor)?.kind {
            MetricKind::Sensor(spec) => Some(spec),
            _ => None,
        }
    }

    /// Reads a sensor, if it is one that is read regularly or hands over by itself: others are read when they are asked.
    fn read(&mut self, key: &(String, String)) {
        let wanted = self.simulation.sensors.get(&key.0);
        let wanted = wanted.and_then(|list| list.iter().find(|wanted| *wanted.metric == *key.1));
        let Some((metric, regular)) = wanted.map(|wanted| (wanted.metric.clone(), wanted.regular)) else {
            return;
        };
        let every = self.spec(key).and_then(SensorSpec::every);
        if every.is_some() && !regular {
            return;
        }
        let measured = self.sensors.borrow().get(key).cloned();
        if let Some(every) = every.filter(|every| measured.is_some() && !every.0.is_zero()) {
            self.due.insert(key.clone(), self.simulation.now().after(every.0));
        } else {
            self.due.remove(key);
        }
        let letter = match measured {
            None => Letter::SensorFailed { metric, why: "the test says so".into() },
            Some(measured) => {
                let value =
                    |((output, label), value): (_, f64)| -> MeasuredValue { (output, label, value, None) };
                Letter::Measured { metric, values: measured.into_iter().map(value).collect() }
            }
        };
        self.simulation.letter(&key.0, letter);
    }

    /// Lets time pass; sensors go on measuring what they measured.
    fn wait(&mut self, time: Duration) {
        let end = self.simulation.now().after(time);
        while let Some((key, at)) = self.due.iter().min_by_key(|(_, at)| **at).map(|(k, at)| (k.clone(), *at))
            && at <= end
        {
            self.simulation.advance(at.since(self.simulation.now()));
            self.look();
            self.due.remove(&key);
            self.read(&key);
            self.look();
        }
        self.simulation.advance(end.since(self.simulation.now()));
        self.look();
    }

    fn approve(&mut self, service: &str) -> Result<(), String> {
        let decisions = self.simulation.decisions_of(service);
        let proposed = decisions.iter().rev().find(|decision| decision.verdict == Verdict::Proposed);
        let Some(id) = proposed.map(|decision| decision.id) else {
            return Err(format!("`{service}` proposes nothing"));
        };
        match self.simulation.call(service, Request::Approve(id)) {
            Some(Response::Error(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    // ---- what comes of it ------------------------------------------------------------------------------------------

    /// Takes note of what decisions say that they did not say before.
    fn look(&mut self) {
        let mut ended: Vec<&Outcome> = Vec::new();
        for (key, decision) in &self.simulation.decisions {
            let seen = self.seen.entry(key.clone()).or_default();
            if !std::mem::replace(&mut seen.plan, true) {
                self.came.note_plan(decision);
            }
            ended.extend(decision.outcomes.iter().skip(seen.outcomes));
            seen.outcomes = decision.outcomes.len();
        }
        // Of several services, in the order in which they ended.
        ended.sort_by_key(|outcome| outcome.at);
        for outcome in ended {
            let text = outcome.action.to_string();
            match outcome.status {
                OutcomeStatus::Done => self.came.done.push(text),
                _ => self.came.failed.push(text),
            }
        }
    }

    fn judge(&mut self, expect: &ExpectDocument, at: &Place, wrong: &mut Wrong) {
        for (key, expected) in &expect.metric {
            let Some((service, name)) = key.rsplit_once('.') else { continue };
            let reading = self.simulation.get(service, name);
            if !fits(*expected, &reading) {
                let message =
                    format!("`{key}`: expected {}, got {}", shown_expected(*expected), shown(&reading));
                wrong.push((at.then("metric").then(key.as_str()), message));
            }
        }
        for (key, expected) in &expect.slo {
            let state = key.rsplit_once('.').and_then(|(service, name)| self.simulation.slo(service, name));
            if state != Some(*expected) {
                let state = state.map_or_else(|| "nothing".to_string(), |state| state.to_string());
                let message = format!("`{key}`: expected {expected}, got {state}");
                wrong.push((at.then("slo").then(key.as_str()), message));
            }
        }
        for (key, expected) in &expect.bound {
            let bound = self.bound(key);
            if bound != *expected {
                let name = |to: &Option<String>| to.clone().unwrap_or_else(|| "nothing".to_string());
                let message =
                    format!("`{key}`: expected to be bound to {}, got {}", name(expected), name(&bound));
                wrong.push((at.then("bound").then(key.as_str()), message));
            }
        }
        if let Some(expected) = &expect.asked {
            let asked = self.asked();
            if asked != *expected {
                let message = format!("asked: expected {}, got {}", list(expected), list(&asked));
                wrong.push((at.then("asked"), message));
            }
        }
        self.expect_actions(expect, at, wrong);
    }

    /// The metrics whose data collectors are asked for.
    fn asked(&self) -> Vec<String> {
        let sensors = self.simulation.sensors.values().flatten().filter(|sensor| sensor.regular);
        let asked = sensors.filter_map(|sensor| match &*sensor.spec {
            SensorSpec::Collect(spec) => {
                Some(spec.metric.clone().unwrap_or_else(|| sensor.metric.to_string()))
            }
            _ => None,
        });
        asked.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn bound(&mut self, key: &str) -> Option<String> {
        let (service, name) = key.rsplit_once('.')?;
        self.simulation.status(service).ok()?.references.get(name)?.bound.clone()
    }

    fn expect_actions(&mut self, expect: &ExpectDocument, at: &Place, wrong: &mut Wrong) {
        let lists = [
            ("actions", &expect.actions, &self.came.done),
            ("failed", &expect.failed, &self.came.failed),
            ("proposed", &expect.proposed, &self.came.proposed),
        ];
        let asked = lists.iter().any(|(_, expected, _)| expected.is_some());
        if !asked && expect.because.is_empty() && !expect.nothing {
            return;
        }
        for (name, expected, got) in lists {
            let none = Vec::new();
            let expected = match expected {
                Some(expected) => expected,
                None if expect.nothing => &none,
                None => continue,
            };
            if expected != got {
                let at = at.then(if expect.nothing { "nothing" } else { name });
                wrong.push((at, format!("{name}: expected {}, got {}", list(expected), list(got))));
            }
        }
        for (number, part) in expect.because.iter().enumerate() {
            if !self.came.reasons.iter().any(|reason| reason.contains(part)) {
                let message =
                    format!("because: expected `{part}` in a reason, got {}", list(&self.came.reasons));
                wrong.push((at.then("because").then(number), message));
            }
        }
        self.came = Came::default();
    }
}

impl Came {
    fn note_plan(&mut self, decision: &Decision) {
        let Some(plan) = &decision.plan else { return };
        self.reasons.extend(plan.reasons.iter().cloned());
        if decision.verdict == Verdict::Proposed {
            self.proposed.extend(plan.actions.iter().map(ToString::to_string));
        }
    }
}

fn list(texts: &[String]) -> String {
    match texts {
        [] => "none".into(),
        _ => texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", "),
    }
}

fn fits(expected: Expected, reading: &Reading) -> bool {
    match (expected, reading) {
        (Expected::Value(expected), Reading::Fresh { value, .. }) => {
            // Sums of decimal fractions differ in the last digits from what people write.
            (value - expected).abs() <= 1e-9 * expected.abs().max(1.0) || *value == expected
        }
        (Expected::Stale, Reading::Stale { .. }) | (Expected::Missing, Reading::Missing { .. }) => true,
        _ => false,
    }
}

fn shown_expected(expected: Expected) -> String {
    match expected {
        Expected::Value(value) => value.to_string(),
        Expected::Stale => "a stale value".into(),
        Expected::Missing => "no value".into(),
    }
}

fn shown(reading: &Reading) -> String {
    match reading {
        Reading::Fresh { value, .. } => value.to_string(),
        Reading::Stale { value, .. } => format!("{value}, which is stale"),
        Reading::Missing { reason } => format!("no value ({reason})"),
    }
}
