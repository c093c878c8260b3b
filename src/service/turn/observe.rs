//! From values to alarms: sensors, other monitors, and the check of SLOs whose readings changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NoMonitor, ServiceLoop, Turn};
use crate::analyze::Readings;
use crate::model::{Measurement, Timestamp};
use crate::monitor::Held;
use crate::service::message::{Effect, Letter};

/// A value as a letter carries it: output, label, value, time.
type Measured = (Option<Arc<str>>, Option<Arc<str>>, f64, Option<Timestamp>);

impl ServiceLoop {
    pub(super) fn measured(&mut self, metric: &str, values: Vec<Measured>, turn: &mut Turn<'_>) {
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
        self.listeners.entry(metric).or_default().insert(from);
        self.reweigh(turn);
    }

    pub(super) fn unsubscribed(&mut self, from: &str, metric: &str, turn: &mut Turn<'_>) {
        if let Some(listeners) = self.listeners.get_mut(metric) {
            listeners.remove(from);
            if listeners.is_empty() {
                self.listeners.remove(metric);
            }
        }
        self.reweigh(turn);
    }

    pub(super) fn told(&mut self, from: &str, metric: &str, held: Held, turn: &mut Turn<'_>) {
        if !self.listening.contains(&(from.into(), metric.into())) {
            return;
        }
        self.fill(from, metric, &held, turn);
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
            self.tell_listeners(&metric, turn);
            self.tell_watchers(&metric, turn);
        }
        self.changed = changed;
        self.changed.clear();
    }

    fn tell_listeners(&mut self, metric: &Arc<str>, turn: &mut Turn<'_>) {
        let Some(listeners) = self.listeners.get(metric) else { return };
        let Some(monitor) = &self.monitor else { return };
        let Some(slot) = monitor.named(metric) else { return };
        let held = monitor.held(slot);
        for listener in listeners {
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
        if self.dirty.is_empty() {
            self.wake_for_window();
            return;
        }
        if self.check_dirty(turn) {
            self.settle(turn);
        } else {
            self.wake_for_sample();
        }
    }

    /// A sample moves no deadline forward but those of SLOs and windows; nothing else needs to be looked at.
    fn wake_for_sample(&mut self) {
        if let Some(due) = self.objectives_due() {
            self.wake = Some(self.wake.map_or(due, |w| w.min(due)));
        }
        self.wake_for_window();
    }

    fn wake_for_window(&mut self) {
        if let Some(due) = self.monitor.as_ref().and_then(crate::monitor::Monitor::due) {
            self.wake = Some(self.wake.map_or(due, |w| w.min(due)));
        }
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
            None => false,
            Some(alarm) => {
                self.alarm(alarm, turn);
                true
            }
        }
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
        for (service, metric) in before.difference(&self.listening) {
            let letter = Letter::Unsubscribe { from: self.name.clone(), metric: metric.clone() };
            turn.mail.push((service.clone(), letter));
        }
        let new: Vec<_> = self.listening.difference(&before).cloned().collect();
        for (service, metric) in new.into_iter().chain(self.unfilled(&before)) {
            let letter = Letter::Subscribe { from: self.name.clone(), metric };
            turn.mail.push((service, letter));
        }
        let sensors = self.monitor.as_ref().map(|m| m.sensors()).unwrap_or_default();
        if sensors != self.sensors {
            self.sensors.clone_from(&sensors);
            turn.effects.push(Effect::Sensors(self.name.clone(), self.id, sensors));
        }
    }

    /// What is listened to already, and stands for a slot that has heard nothing yet: asking again fills it.
    fn unfilled(
        &self,
        before: &std::collections::BTreeSet<(Arc<str>, Arc<str>)>,
    ) -> Vec<(Arc<str>, Arc<str>)> {
        let Some(monitor) = &self.monitor else { return Vec::new() };
        monitor
            .remotes()
            .filter(|(slot, _, _, needed)| *needed && monitor.held(*slot).missing.is_some())
            .filter_map(|(_, reference, metric, _)| {
                Some((self.bindings.get(reference)?.clone()?, metric.clone()))
            })
            .filter(|pair| before.contains(pair) && self.listening.contains(pair))
            .collect()
    }

    fn wanted_remotes(&mut self) -> std::collections::BTreeSet<(Arc<str>, Arc<str>)> {
        let Some(monitor) = &mut self.monitor else { return Default::default() };
        monitor.clear_consumers();
        if let Some(analyzer) = &self.analyzer {
            for slo in 0..analyzer.len() {
                for slot in analyzer.reads(slo) {
                    monitor.add_consumer(slot, slo as u16);
                }
            }
        }
        monitor.mark_observed(|name| {
            self.listeners.contains_key(name) || self.watchers.iter().any(|w| *w.metric == **name)
        });
        monitor.weigh();
        let mut wanted = std::collections::BTreeSet::new();
        for (_, reference, metric, needed) in monitor.remotes() {
            if needed && let Some(Some(bound)) = self.bindings.get(reference) {
                wanted.insert((bound.clone(), metric.clone()));
            }
        }
        for (slot, group, needed) in monitor.groups() {
            if needed {
                wanted.extend(monitor.members(slot).into_iter().map(|m| (m, group.of.clone())));
            }
        }
        wanted
    }
}
