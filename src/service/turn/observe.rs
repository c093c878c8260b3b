//! From values to alarms: sensors, other monitors, and the check of SLOs whose readings changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Listening, NoMonitor, ServiceLoop, Turn};
use crate::analyze::Readings;
use crate::model::{Measurement, MissingReason, SloState, Timestamp};
use crate::monitor::{Held, Monitor};
use crate::service::message::{Effect, Letter, MeasuredValue, Publication};

/// What checking the SLOs that a sample touched came to.
struct Touched {
    raised: bool,
    due: Option<Timestamp>,
}

impl ServiceLoop {
    pub(super) fn measured(&mut self, metric: &str, values: Vec<MeasuredValue>, turn: &mut Turn<'_>) {
        let Some(monitor) = &mut self.monitor else {
            turn.tally.refused += values.len() as u64;
            return;
        };
        let count = values.len() as u64;
        let values = values
            .into_iter()
            .map(|(output, label, value, at)| Measurement { output, label, value, at })
            .collect();
        let refused = monitor.take_measurements(metric, values, turn.now, &mut self.changed).len() as u64;
        turn.tally.refused += refused;
        turn.tally.samples += count.saturating_sub(refused);
        self.progress_asks(metric, turn);
    }

    pub(super) fn sensor_failed(&mut self, metric: &str, why: &str, turn: &mut Turn<'_>) {
        if let Some(monitor) = &mut self.monitor {
            monitor.fail(metric, why, turn.now, &mut self.changed);
        }
        self.progress_asks(metric, turn);
    }

    pub(super) fn subscribed(&mut self, from: Arc<str>, metric: Arc<str>, turn: &mut Turn<'_>) {
        let held = self.holds(&metric, turn.now);
        turn.mail
            .push((from.clone(), Letter::Tell { from: self.name.clone(), metric: metric.clone(), held }));
        let first = !self.listeners.contains_key(&metric);
        self.listeners.entry(metric).or_default().insert(from);
        if first {
            self.reweigh(turn);
        }
    }

    pub(super) fn unsubscribed(&mut self, from: &str, metric: &str, turn: &mut Turn<'_>) {
        if let Some(listeners) = self.listeners.get_mut(metric) {
            listeners.remove(from);
            if listeners.is_empty() {
                self.listeners.remove(metric);
                self.reweigh(turn);
            }
        }
    }

    pub(super) fn told(&mut self, from: &str, metric: &str, held: Held, turn: &mut Turn<'_>) {
        if !self.listening.get(from).is_some_and(|metrics| metrics.contains(metric)) {
            return;
        }
        // As sensors are not read outside of the schedule, nothing is heard then; but that there is nothing to hear is known at once.
        let schedule = self.policy.monitor.as_ref().and_then(|monitor| monitor.schedule).unwrap_or_default();
        let heard = schedule.includes(turn.now) || schedule.includes(held.at);
        if heard || held.missing.is_some() {
            self.fill(from, metric, &held, turn);
        }
    }

    /// Puts a value of another service into every slot that stands for it.
    pub(super) fn fill(&mut self, from: &str, metric: &str, held: &Held, turn: &mut Turn<'_>) {
        let Some(monitor) = &mut self.monitor else { return };
        let slots: Vec<_> = monitor
            .remotes()
            .filter(|(_, reference, name, _)| {
                &***name == metric
                    && self.bindings.get(*reference).and_then(Option::as_deref).is_some_and(|b| b == from)
            })
            .map(|(slot, ..)| slot)
            .collect();
        for slot in slots {
            monitor.tell(slot, held.clone(), turn.now, &mut self.changed);
        }
        let groups: Vec<_> =
            monitor.groups().filter(|(_, g, _)| *g.of == *metric).map(|(slot, ..)| slot).collect();
        for slot in groups {
            monitor.tell_member(slot, from, held, turn.now, &mut self.changed);
        }
    }

    pub(super) fn members(
        &mut self,
        metric: &str,
        members: BTreeMap<Arc<str>, Vec<Arc<str>>>,
        turn: &mut Turn<'_>,
    ) {
        if let Some(monitor) = &mut self.monitor
            && let Some(slot) = monitor.named(metric)
        {
            monitor.set_members(slot, members, turn.now, &mut self.changed);
        }
        self.reweigh(turn);
    }

    /// Tells listeners and subscribers of the slots that changed, and notes which SLOs to check.
    pub(super) fn observe_changes(&mut self, turn: &mut Turn<'_>) {
        if self.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        let mut observed = Vec::new();
        if let Some(monitor) = &self.monitor {
            for slot in &changed {
                for consumer in monitor.consumers(*slot) {
                    if !self.dirty.contains(consumer) {
                        self.dirty.push(*consumer);
                    }
                }
                if monitor.observed(*slot) {
                    observed.push(monitor.name(*slot).clone());
                }
            }
        }
        for metric in observed {
            self.publish(&metric, turn);
            self.tell_listeners(&metric, turn);
            self.tell_watchers(&metric, turn);
        }
        self.changed = changed;
        self.changed.clear();
    }

    /// Values of a metric go out.
    fn publish(&mut self, metric: &Arc<str>, turn: &mut Turn<'_>) {
        let Some(monitor) = self.policy.monitor.clone().filter(|monitor| !monitor.publish.is_empty()) else {
            return;
        };
        let held = self.holds(metric, turn.now);
        if held.missing.is_some() {
            return;
        }
        for publisher in monitor.publish.iter().filter(|publisher| publisher.metric == *metric) {
            if let Some((value, at)) = self.published.get(&publisher.name) {
                // A twentieth less, so that a sample that comes a little early is not left out.
                let early = publisher.every.is_some_and(|every| turn.now.since(*at) < every - every / 20);
                if early || publisher.changes && *value == held.value {
                    continue;
                }
            }
            self.published.insert(publisher.name.clone(), (held.value, turn.now));
            let word = (held.value >= 0.0 && held.value.fract() == 0.0)
                .then(|| publisher.words.get(held.value as usize).cloned())
                .flatten();
            turn.effects.push(Effect::Publish(Box::new(Publication {
                service: self.name.clone(),
                publisher: publisher.name.clone(),
                metric: metric.clone(),
                value: held.value,
                word,
                at: held.at,
            })));
        }
    }

    pub(super) fn tell_listeners(&mut self, metric: &Arc<str>, turn: &mut Turn<'_>) {
        if !self.listeners.contains_key(metric) {
            return;
        }
        let held = self.holds(metric, turn.now);
        for listener in self.listeners.get(metric).into_iter().flatten() {
            turn.tally.told += 1;
            let letter = Letter::Tell { from: self.name.clone(), metric: metric.clone(), held: held.clone() };
            turn.mail.push((listener.clone(), letter));
        }
    }

    /// After a sample: the loop runs on only if the sample led to anything.
    pub(super) fn settle_sample(&mut self, turn: &mut Turn<'_>) {
        self.observe_changes(turn);
        if !self.asks.is_empty() {
            self.progress_asks("", turn);
        }
        let mut due = self.monitor.as_mut().and_then(Monitor::soonest);
        if !self.dirty.is_empty() {
            let touched = self.check_touched(turn);
            if touched.raised {
                self.settle(turn);
                return;
            }
            due = [due, touched.due].into_iter().flatten().min();
        }
        // Whatever was not touched is due when it was.
        self.wake = [self.wake, due].into_iter().flatten().min();
    }

    /// Checks the SLOs whose readings changed, and looks when they are due again.
    fn check_touched(&mut self, turn: &mut Turn<'_>) -> Touched {
        let mut touched = Touched { raised: false, due: None };
        for n in 0..self.dirty.len() {
            let slo = self.dirty[n] as usize;
            touched.raised |= self.check(slo, turn);
            if let (Some(analyzer), Some(monitor)) = (&self.analyzer, &self.monitor)
                && slo < analyzer.len()
            {
                touched.due = [touched.due, analyzer.due(slo, monitor)].into_iter().flatten().min();
            }
        }
        self.dirty.clear();
        touched
    }

    /// Checks the SLOs whose readings changed; answers whether one raised an alarm.
    pub(super) fn check_dirty(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.dirty.is_empty() {
            return false;
        }
        let mut raised = false;
        let mut dirty = std::mem::take(&mut self.dirty);
        for slo in dirty.drain(..) {
            raised |= self.check(slo as usize, turn);
        }
        // Raising an alarm may have made others dirty; they are in the new list.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
        raised
    }

    fn check(&mut self, slo: usize, turn: &mut Turn<'_>) -> bool {
        let Some(analyzer) = &mut self.analyzer else { return false };
        if slo >= analyzer.len() {
            return false;
        }
        let mut nothing = NoMonitor(&self.name);
        let readings: &mut dyn Readings = match &mut self.monitor {
            Some(monitor) => monitor,
            None => &mut nothing,
        };
        match analyzer.check(slo, readings, turn.now, &self.name) {
            None => self.settle_doubts(slo),
            Some(alarm) => {
                self.alarm(alarm, turn);
                true
            }
        }
    }

    /// After a restart: an SLO that holds has no alarm that was answered before.
    fn settle_doubts(&mut self, slo: usize) -> bool {
        let (Some(analyzer), Some(planner)) = (&self.analyzer, &mut self.planner) else { return false };
        let Some(name) = analyzer.names().nth(slo).cloned() else { return false };
        let holds = planner.doubts(&name) && analyzer.state(&name) == Some(SloState::Ok);
        if holds {
            planner.fine(&name);
        }
        holds
    }

    pub(super) fn tick_objectives(&mut self, turn: &mut Turn<'_>) {
        let Some(analyzer) = &self.analyzer else { return };
        let due: Vec<u16> = match &self.monitor {
            Some(monitor) => (0..analyzer.len())
                .filter(|slo| analyzer.due(*slo, monitor).is_some_and(|t| t <= turn.now))
                .map(|slo| slo as u16)
                .collect(),
            None => Vec::new(),
        };
        for slo in due {
            if !self.dirty.contains(&slo) {
                self.dirty.push(slo);
            }
        }
    }

    pub(super) fn objectives_due(&self) -> Option<Timestamp> {
        let (analyzer, monitor) = (self.analyzer.as_ref()?, self.monitor.as_ref()?);
        (0..analyzer.len()).filter_map(|slo| analyzer.due(slo, monitor)).min()
    }

    /// Marks every SLO for a check.
    pub(super) fn dirty_all(&mut self) {
        self.dirty = (0..self.analyzer.as_ref().map_or(0, |a| a.len()) as u16).collect();
    }

    /// Works out anew what is needed: subscriptions to other monitors, sensors that run, who is told.
    pub(super) fn reweigh(&mut self, turn: &mut Turn<'_>) {
        let wanted = self.wanted_remotes();
        let before = std::mem::replace(&mut self.listening, wanted);
        for (service, metric) in missing_in(&before, &self.listening) {
            let letter = Letter::Unsubscribe { from: self.name.clone(), metric };
            turn.mail.push((service, letter));
        }
        let new = missing_in(&self.listening, &before);
        for (service, metric) in self.ask_remotes(&new, turn).into_iter().chain(new) {
            let letter = Letter::Subscribe { from: self.name.clone(), metric };
            turn.mail.push((service, letter));
        }
        if let Some(monitor) = &mut self.monitor {
            monitor.pace(turn.now, &mut self.changed);
        }
        let sensors = self.monitor.as_ref().map(|m| m.sensors()).unwrap_or_default();
        if sensors != self.sensors {
            self.sensors.clone_from(&sensors);
            turn.effects.push(Effect::Sensors(self.name.clone(), self.id, sensors));
        }
    }

    /// Prepares the slots of other services' metrics for what will be told: those newly listened to forget what they heard long ago.
    /// Answers what is listened to already and must be asked again, because a slot now stands for it that has heard nothing of it.
    fn ask_remotes(
        &mut self,
        new: &BTreeSet<(Arc<str>, Arc<str>)>,
        turn: &mut Turn<'_>,
    ) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let mut again = BTreeSet::new();
        let Some(monitor) = &mut self.monitor else { return again };
        let needed: Vec<_> = monitor
            .remotes()
            .filter(|(.., needed)| *needed)
            .filter_map(|(slot, reference, metric, _)| {
                Some((slot, (self.bindings.get(reference)?.clone()?, metric.clone())))
            })
            .collect();
        for (slot, pair) in needed {
            if new.contains(&pair) {
                monitor.forget(slot, MissingReason::NoSample, turn.now, &mut self.changed);
            }
            if monitor.ask(slot) && !new.contains(&pair) {
                again.insert(pair);
            }
        }
        again
    }

    fn wanted_remotes(&mut self) -> Listening {
        let Some(monitor) = &mut self.monitor else { return Default::default() };
        monitor.clear_consumers();
        if let Some(analyzer) = &self.analyzer {
            for slo in 0..analyzer.len() {
                for slot in analyzer.reads(slo) {
                    monitor.add_consumer(slot, slo as u16);
                }
            }
        }
        let monitor_policy = monitor.policy().clone();
        monitor.mark_observed(|name| {
            self.listeners.contains_key(name)
                || self.watchers.iter().any(|w| *w.metric == **name)
                || monitor_policy.publish.iter().any(|publisher| publisher.metric == *name)
        });
        monitor.weigh();
        let mut wanted = Listening::new();
        for (_, reference, metric, needed) in monitor.remotes() {
            if needed && let Some(Some(bound)) = self.bindings.get(reference) {
                wanted.entry(bound.clone()).or_default().insert(metric.clone());
            }
        }
        for (slot, group, needed) in monitor.groups() {
            if needed {
                for member in monitor.members(slot) {
                    wanted.entry(member).or_default().insert(group.of.clone());
                }
            }
        }
        wanted
    }
}

/// What `a` has and `b` has not.
fn missing_in(a: &Listening, b: &Listening) -> BTreeSet<(Arc<str>, Arc<str>)> {
    a.iter()
        .flat_map(|(service, metrics)| metrics.iter().map(move |metric| (service, metric)))
        .filter(|(service, metric)| !b.get(*service).is_some_and(|metrics| metrics.contains(*metric)))
        .map(|(service, metric)| (service.clone(), metric.clone()))
        .collect()
}
