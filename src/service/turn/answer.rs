//! Questions and their answers: calls from outside, subscriptions, and readings that must be fetched before they can be given.

use std::sync::Arc;
use std::time::Duration;

use super::{NoMonitor, ServiceLoop, Turn};
use crate::analyze::Readings;
use crate::model::ports::{Notification, PortError, SubscriptionMode};
use crate::model::{Alarm, HumanDuration, OutcomeStatus, Reading, SloStatus, Timestamp};
use crate::monitor::{Held, Refresh};
use crate::service::control::{Component, ComponentStatus, Origin, ReferenceStatus, ServiceStatus, Wire};
use crate::service::message::{Effect, Letter, Request, Response};

/// How long a reading may take to be fetched from sensors and other services.
const FETCH_PATIENCE: Duration = Duration::from_secs(4);

/// Who waits for a reading.
#[derive(Debug, Clone)]
enum Asker {
    /// A call from outside.
    Call(u64),
    /// The monitor or planner of another service.
    Service(Arc<str>, u64),
}

/// A reading that is being fetched.
#[derive(Debug)]
pub(super) struct Ask {
    asker: Asker,
    metric: Arc<str>,
    /// Own sensors that are being read.
    sensors: Vec<Arc<str>>,
    /// Other services that were asked: token.
    remote: Vec<u64>,
    /// What is older than this when it is given is stale to the asker: the time of the question less `max_age`.
    oldest: Option<Timestamp>,
    pub(super) deadline: Timestamp,
}

/// A subscriber from outside.
#[derive(Debug)]
pub(super) struct Watcher {
    token: u64,
    pub(super) metric: String,
    mode: SubscriptionMode,
    begin: Timestamp,
    end: Option<Timestamp>,
    next: Option<Timestamp>,
    /// What the subscriber knows: nothing yet, that there is no value, or a value.
    told: Option<Option<f64>>,
}

impl Watcher {
    fn new(token: u64, metric: String, mode: SubscriptionMode, now: Timestamp) -> Self {
        let (start, duration) = match mode {
            SubscriptionMode::Update => (None, None),
            SubscriptionMode::Change { start, duration } => (start, duration),
            SubscriptionMode::Interval { start, duration, .. } => (start, duration),
        };
        let begin = now.after(start.unwrap_or_default().0);
        let next = matches!(mode, SubscriptionMode::Interval { .. }).then_some(begin);
        Self { token, metric, mode, begin, end: duration.map(|d| begin.after(d.0)), next, told: None }
    }

    /// When it must be looked at though no value comes.
    pub(super) fn due(&self) -> Option<Timestamp> {
        let end = self.end.map(|e| Timestamp(e.0.saturating_add(1)));
        match (self.next, end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether the subscriber is to be told of this value (`None`: there is none), which has come just now.
    fn wants(&mut self, value: Option<f64>, now: Timestamp) -> bool {
        let before = self.told;
        if value.is_none() && before.is_none() {
            return false;
        }
        self.told = Some(value);
        match self.mode {
            SubscriptionMode::Interval { .. } => false,
            SubscriptionMode::Update => value.is_some() || before != Some(None),
            // The first value ever is what later ones are compared with.
            SubscriptionMode::Change { .. } => {
                before.is_some_and(|b| b != value) && now >= self.begin && !self.over(now)
            }
        }
    }

    /// The first time for a notification after `now`.
    fn after(next: Timestamp, interval: Duration, now: Timestamp) -> Timestamp {
        let interval = interval.as_micros().max(1);
        let steps = now.since(next).as_micros() / interval + 1;
        next.after(Duration::from_micros(u64::try_from(steps * interval).unwrap_or(u64::MAX)))
    }

    fn over(&self, now: Timestamp) -> bool {
        self.end.is_some_and(|end| now > end)
    }
}

impl ServiceLoop {
    pub(super) fn call(&mut self, token: u64, request: Request, turn: &mut Turn<'_>) {
        let response = match request {
            Request::MetricList => self.metric_list(turn),
            Request::GetMetric { name, max_age } => {
                self.get(Asker::Call(token), &name, max_age, turn);
                return;
            }
            Request::Subscribe { name, mode } => self.subscribe_call(token, name, mode, turn),
            Request::Unsubscribe { token } => {
                self.watchers.retain(|w| w.token != token);
                self.reweigh(turn);
                Response::Done
            }
            Request::SloList => match &self.analyzer {
                None => Response::Error(PortError::NoAnalyzerAttached(self.name.to_string())),
                Some(_) => Response::Slos(self.slo_list(turn.now)),
            },
            Request::EnableSlo { name, on } => self.enable_call(&name, on, turn),
            Request::Notify(alarm) => self.notify_call(alarm, turn),
            Request::SendActions(actions) => {
                if self.policy.execute.is_none() {
                    Response::Error(PortError::NoExecutorAttached(self.name.to_string()))
                } else if actions.is_empty() {
                    Response::Outcomes(Vec::new())
                } else {
                    self.run_by_hand(actions, token, turn);
                    return;
                }
            }
            Request::Approve(decision) => match self.approve(decision, token, turn) {
                Ok(()) => return,
                Err(error) => Response::Error(error),
            },
            Request::Reject(decision) => match self.reject(decision, turn) {
                Ok(()) => Response::Done,
                Err(error) => Response::Error(error),
            },
            Request::ForeignPlanner(on) => {
                self.foreign_planner = on;
                Response::Done
            }
            Request::Status => Response::Status(Box::new(self.status(turn.now))),
            Request::History(name) => self.history(&name),
            Request::Knowledge => Response::Knowledge(self.knowledge.clone()),
            Request::Remember { key, value } => {
                self.learn(&key, value, turn);
                Response::Done
            }
        };
        turn.effects.push(Effect::Reply(token, response));
    }

    fn metric_list(&mut self, turn: &Turn<'_>) -> Response {
        match &mut self.monitor {
            None => Response::Error(PortError::NoMonitorAttached(self.name.to_string())),
            Some(monitor) => Response::Metrics(monitor.list(turn.now)),
        }
    }

    fn history(&self, name: &str) -> Response {
        let Some(monitor) = &self.monitor else {
            return Response::Error(PortError::NoMonitorAttached(self.name.to_string()));
        };
        let Some(slot) = monitor.named(name) else {
            return Response::Error(PortError::NoSuchMetric(name.to_string()));
        };
        match monitor.history(slot) {
            Some(readings) => Response::History(readings),
            None => Response::Error(PortError::Invalid(format!(
                "history is disabled for `{}`; set `monitor.history` to a number of readings to keep",
                self.name
            ))),
        }
    }

    fn enable_call(&mut self, name: &str, on: bool, turn: &mut Turn<'_>) -> Response {
        let Some(analyzer) = &self.analyzer else {
            return Response::Error(PortError::NoAnalyzerAttached(self.name.to_string()));
        };
        if analyzer.find(name).is_none() {
            return Response::Error(PortError::NoSuchSlo(name.to_string()));
        }
        match self.switch_slo(name, on, turn) {
            Ok(_) => Response::Done,
            Err((_, why)) => Response::Error(PortError::Invalid(why)),
        }
    }

    fn notify_call(&mut self, alarm: Alarm, turn: &mut Turn<'_>) -> Response {
        if self.planner.is_none() && !self.foreign_planner {
            return Response::Error(PortError::NoPlannerAttached(self.name.to_string()));
        }
        if alarm.service != *self.name {
            return Response::Error(PortError::Invalid(format!(
                "the alarm is about `{}`, and this is `{}`",
                alarm.service, self.name
            )));
        }
        self.alarm(alarm, turn);
        Response::Done
    }

    fn slo_list(&mut self, now: Timestamp) -> Vec<SloStatus> {
        let mut nothing = NoMonitor(&self.name);
        let readings: &mut dyn Readings = match &mut self.monitor {
            Some(monitor) => monitor,
            None => &mut nothing,
        };
        self.analyzer.as_ref().map(|a| a.list(readings, now)).unwrap_or_default()
    }

    fn status(&mut self, now: Timestamp) -> ServiceStatus {
        let slos = self.slo_list(now);
        let attached: [Option<usize>; 4] = [
            self.monitor.as_ref().map(|m| m.len()),
            self.analyzer.as_ref().map(|a| a.len()),
            self.planner.as_ref().map(|p| p.len()),
            self.policy.execute.as_ref().map(|e| e.effectors.len()),
        ];
        let components = Component::ALL
            .into_iter()
            .zip(attached)
            .zip(self.incarnations)
            .filter_map(|((component, parts), incarnation)| {
                Some(ComponentStatus {
                    component,
                    id: format!("{}/{component}#{incarnation}", self.name),
                    origin: Origin::File,
                    parts: parts?,
                })
            })
            .collect();
        ServiceStatus {
            name: self.name.to_string(),
            class: self.policy.resource.class.clone(),
            kind: self.policy.resource.kind.clone(),
            provides: self.policy.resource.provides.clone(),
            address: self.policy.address(),
            origin: Origin::File,
            components,
            references: self.reference_status(),
            slos,
            wires: self.wires(),
            process: None,
            quarantined: None,
            decisions: self.decisions,
        }
    }

    fn reference_status(&self) -> std::collections::BTreeMap<String, ReferenceStatus> {
        let candidates = |name: &str| self.policy.references.get(name).map(|r| r.candidates.as_slice());
        self.bindings
            .iter()
            .map(|(name, bound)| {
                let status = ReferenceStatus {
                    bound: bound.as_deref().map(str::to_string),
                    candidates: candidates(name)
                        .unwrap_or_default()
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                    traffic: Vec::new(),
                };
                (name.to_string(), status)
            })
            .collect()
    }

    /// The wires of the components (R3-08); the backbone from monitor to monitor follows the bindings (R3-40).
    fn wires(&self) -> Vec<Wire> {
        let (m, a, p, e) = (
            self.monitor.is_some(),
            self.analyzer.is_some(),
            self.planner.is_some(),
            self.policy.execute.is_some(),
        );
        let own = |c: &str| format!("{}/{c}", self.name);
        let wire = |from: String, to: String, port: &str| Wire { from, to, port: port.into() };
        let mut wires = Vec::new();
        if m && a {
            wires.push(wire(own("analyze"), own("monitor"), "metrics"));
        }
        if a && p {
            wires.push(wire(own("analyze"), own("plan"), "alarms"));
        }
        if m && p {
            wires.push(wire(own("plan"), own("monitor"), "metrics"));
        }
        if p && e {
            wires.push(wire(own("plan"), own("execute"), "actions"));
        }
        for bound in self.bindings.values().flatten() {
            if m {
                wires.push(wire(own("monitor"), format!("{bound}/monitor"), "metrics"));
            }
            if e {
                wires.push(wire(own("execute"), format!("{bound}/execute"), "actions"));
            }
        }
        wires.sort_by(|x, y| (&x.from, &x.to).cmp(&(&y.from, &y.to)));
        wires.dedup();
        wires
    }

    /// Answers with the reading at once where it is young enough; otherwise fetches first.
    fn get(&mut self, asker: Asker, metric: &str, max_age: Option<HumanDuration>, turn: &mut Turn<'_>) {
        let refresh = match &self.monitor {
            None => Vec::new(),
            Some(monitor) => {
                let base = metric.split_once('[').map_or(metric, |(base, _)| base);
                monitor
                    .named(base)
                    .map(|s| monitor.refresh(s, max_age.map(|d| d.0), turn.now))
                    .unwrap_or_default()
            }
        };
        let mut ask = Ask {
            asker,
            metric: metric.into(),
            sensors: Vec::new(),
            remote: Vec::new(),
            oldest: max_age.map(|age| turn.now.before(age.0)),
            deadline: turn.now.after(FETCH_PATIENCE),
        };
        for leaf in refresh {
            match leaf {
                Refresh::Sensor(_, sensor) => {
                    turn.effects.push(Effect::ReadNow(self.name.clone(), sensor.clone()));
                    ask.sensors.push(sensor);
                }
                Refresh::Remote(_, reference, metric) => {
                    if let Some(Some(bound)) = self.bindings.get(&reference) {
                        let token = self.next_token;
                        self.next_token += 1;
                        turn.tally.asks += 1;
                        let letter = Letter::Ask { from: self.name.clone(), token, metric, max_age };
                        turn.mail.push((bound.clone(), letter));
                        ask.remote.push(token);
                    }
                }
            }
        }
        if ask.sensors.is_empty() && ask.remote.is_empty() {
            self.give(&ask, turn);
        } else {
            self.asks.push(ask);
        }
    }

    /// Gives the reading to whoever asked.
    fn give(&mut self, ask: &Ask, turn: &mut Turn<'_>) {
        match &ask.asker {
            Asker::Call(token) => {
                let response = match self.read_call(&ask.metric, turn.now) {
                    Some(Reading::Fresh { value, at }) if ask.oldest.is_some_and(|oldest| at < oldest) => {
                        Response::Reading(Reading::Stale { value, at })
                    }
                    Some(reading) => Response::Reading(reading),
                    None if self.monitor.is_none() => {
                        Response::Error(PortError::NoMonitorAttached(self.name.to_string()))
                    }
                    None => Response::Error(PortError::NoSuchMetric(ask.metric.to_string())),
                };
                turn.effects.push(Effect::Reply(*token, response));
            }
            Asker::Service(from, token) => {
                let held = self.holds(&ask.metric, turn.now);
                let letter = Letter::Answer {
                    from: self.name.clone(),
                    token: *token,
                    metric: ask.metric.clone(),
                    held,
                };
                turn.mail.push((from.clone(), letter));
            }
        }
    }

    fn read_call(&mut self, metric: &str, now: Timestamp) -> Option<Reading> {
        self.monitor.as_mut()?.read(metric, now)
    }

    pub(super) fn asked(
        &mut self,
        from: Arc<str>,
        token: u64,
        metric: &str,
        max_age: Option<HumanDuration>,
        turn: &mut Turn<'_>,
    ) {
        self.get(Asker::Service(from, token), metric, max_age, turn);
    }

    pub(super) fn answered(&mut self, from: &str, token: u64, metric: &str, held: Held, turn: &mut Turn<'_>) {
        if token == 0 {
            if let Some(planner) = &mut self.planner {
                planner.reading(from, metric, &held.reading(turn.now));
            }
            return;
        }
        self.fill(from, metric, &held, turn);
        for ask in &mut self.asks {
            ask.remote.retain(|t| *t != token);
        }
        self.give_complete(turn);
    }

    /// A sensor was read, well or badly. An empty name stands for any pushed or plainly sampled metric that may have come.
    pub(super) fn progress_asks(&mut self, sensor: &str, turn: &mut Turn<'_>) {
        if self.asks.is_empty() {
            return;
        }
        let changed = &self.changed;
        let monitor = self.monitor.as_ref();
        for ask in &mut self.asks {
            ask.sensors.retain(|s| {
                let fresh = monitor.and_then(|m| {
                    let held = m.held(m.named(s)?);
                    Some(held.missing.is_none() && held.at >= turn.now)
                });
                !(**s == *sensor || (sensor.is_empty() && fresh == Some(true)) || {
                    monitor.and_then(|m| m.named(s)).is_some_and(|slot| changed.contains(&slot))
                })
            });
        }
        self.give_complete(turn);
    }

    fn give_complete(&mut self, turn: &mut Turn<'_>) {
        let (complete, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.asks)
            .into_iter()
            .partition(|a| a.sensors.is_empty() && a.remote.is_empty());
        self.asks = waiting;
        for ask in complete {
            self.give(&ask, turn);
        }
    }

    /// What did not come in time is given as it is held, stale or missing.
    pub(super) fn tick_asks(&mut self, turn: &mut Turn<'_>) {
        let (late, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.asks).into_iter().partition(|a| a.deadline <= turn.now);
        self.asks = waiting;
        for ask in late {
            self.give(&ask, turn);
        }
    }

    fn subscribe_call(
        &mut self,
        token: u64,
        name: String,
        mode: SubscriptionMode,
        turn: &mut Turn<'_>,
    ) -> Response {
        let Some(monitor) = &self.monitor else {
            return Response::Error(PortError::NoMonitorAttached(self.name.to_string()));
        };
        if monitor.named(&name).is_none() {
            return Response::Error(PortError::NoSuchMetric(name));
        }
        if let SubscriptionMode::Interval { interval, .. } = mode
            && interval.0 < Duration::from_millis(1)
        {
            return Response::Error(PortError::Invalid(format!(
                "an interval of {interval} is too short; at least 1ms is needed"
            )));
        }
        self.watchers.push(Watcher::new(token, name.clone(), mode, turn.now));
        self.reweigh(turn);
        // A subscriber on change is told of changes, so it must know from which value: what is held once it is known what is needed.
        let told = self.read_call(&name, turn.now).and_then(|r| r.value()).map(Some);
        if let Some(watcher) = self.watchers.last_mut() {
            watcher.told = told;
        }
        self.tick_watchers(turn);
        Response::Done
    }

    pub(super) fn tell_watchers(&mut self, metric: &str, turn: &mut Turn<'_>) {
        if !self.watchers.iter().any(|w| w.metric == metric) {
            return;
        }
        let Some(reading) = self.read_call(metric, turn.now) else { return };
        let mut told = Vec::new();
        for w in self.watchers.iter_mut().filter(|w| w.metric == metric) {
            if w.wants(reading.value(), turn.now) {
                told.push(w.token);
            }
        }
        for token in told {
            turn.effects.push(Effect::Notify(token, self.notification(metric, reading.clone())));
        }
    }

    fn notification(&self, metric: &str, reading: Reading) -> Notification {
        Notification { service: self.name.to_string(), metric: metric.to_string(), reading }
    }

    /// Interval subscriptions whose time has come are told; those whose duration is over end.
    pub(super) fn tick_watchers(&mut self, turn: &mut Turn<'_>) {
        let mut watchers = std::mem::take(&mut self.watchers);
        for w in &mut watchers {
            if let (Some(next), SubscriptionMode::Interval { interval, .. }) = (w.next, w.mode)
                && next <= turn.now
            {
                let reading = self.read(&w.metric, turn.now);
                turn.effects.push(Effect::Notify(w.token, self.notification(&w.metric, reading)));
                // After a long sleep there is one notification, not one per interval missed.
                let after = Watcher::after(next, interval.0, turn.now);
                w.next = w.end.is_none_or(|end| after <= end).then_some(after);
            }
        }
        let before = watchers.len();
        watchers.retain(|w| {
            let done =
                w.over(turn.now) || (matches!(w.mode, SubscriptionMode::Interval { .. }) && w.next.is_none());
            if done {
                turn.effects.push(Effect::EndOfSubscription(w.token));
            }
            !done
        });
        self.watchers = watchers;
        if self.watchers.len() != before {
            self.reweigh(turn);
        }
    }

    /// Subscribers of metrics that are gone are told that it is over.
    pub(super) fn end_watchers_of_missing(&mut self, turn: &mut Turn<'_>) {
        let monitor = &self.monitor;
        self.watchers.retain(|w| {
            let there = monitor.as_ref().is_some_and(|m| m.named(&w.metric).is_some());
            if !there {
                turn.effects.push(Effect::EndOfSubscription(w.token));
            }
            there
        });
    }

    /// Answers everybody who waits: the service goes away.
    pub(super) fn end_all(&mut self, why: &PortError, turn: &mut Turn<'_>) {
        for watcher in self.watchers.drain(..) {
            turn.effects.push(Effect::EndOfSubscription(watcher.token));
        }
        for ask in std::mem::take(&mut self.asks) {
            match ask.asker {
                Asker::Call(token) => {
                    turn.effects.push(Effect::Reply(token, Response::Error(why.clone())));
                }
                Asker::Service(from, token) => {
                    let held =
                        Held::missing(crate::model::MissingReason::NoSuchService(self.name.to_string()));
                    let letter = Letter::Answer { from: self.name.clone(), token, metric: ask.metric, held };
                    turn.mail.push((from, letter));
                }
            }
        }
        self.end_runs(why, turn);
        for (_, perform) in std::mem::take(&mut self.performing) {
            if perform.origin != self.name {
                let outcome = crate::model::Outcome {
                    action: perform.action,
                    status: OutcomeStatus::Interrupted,
                    executor: self.name.to_string(),
                    detail: why.to_string(),
                    at: turn.now,
                };
                let letter = Letter::StepEnded {
                    decision: perform.decision,
                    step: perform.step,
                    outcome,
                    inverse: None,
                };
                turn.mail.push((perform.origin, letter));
            }
        }
    }
}
