//! M: holds readings, computes metrics from them, and knows which of them are needed. Pure.
//!
//! Metrics live in *slots*, ordered so that what a metric is computed from stands before it. One sample is one call of
//! [`Monitor::take`]: the slot's value is set, then every dependent slot is computed once, in order. What lies outside the
//! service (`payment.cost`) has a slot of its own, filled by [`Monitor::tell`] when the other monitor's value arrives.

mod slot;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::knowledge::resources::Resources;
use crate::model::connector::SensorSpec;
use crate::model::ports::MetricInfo;
use crate::model::{Datum, Measurement, MetricId, MetricPath, MissingReason, Reading, Schedule, Timestamp};
use crate::policy::MonitorPolicy;
pub use slot::Refused;
use slot::{Slot, Source};

/// What a slot holds, and what one monitor tells another: the value or why there is none, with the time from which it counts as stale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The value; meaningless while `missing` is set.
    pub value: f64,
    /// Why there is no value.
    pub missing: Option<Arc<MissingReason>>,
    /// The time of the oldest sample that it was computed from.
    pub at: Timestamp,
    /// From when on it is stale; `None`: never.
    pub stale_at: Option<Timestamp>,
}

impl Held {
    /// Nothing yet.
    pub fn missing(reason: MissingReason) -> Self {
        Self { value: 0.0, missing: Some(Arc::new(reason)), at: Timestamp::default(), stale_at: None }
    }

    /// The value as it is at `now`.
    pub fn reading(&self, now: Timestamp) -> Reading {
        match &self.missing {
            Some(reason) => Reading::missing((**reason).clone()),
            None if self.stale_at.is_some_and(|t| now > t) => {
                Reading::Stale { value: self.value, at: self.at.min(now) }
            }
            None => Reading::Fresh { value: self.value, at: self.at.min(now) },
        }
    }

    fn known(&self) -> Option<f64> {
        self.missing.is_none().then_some(self.value)
    }

    /// Whether there is no value yet, and nobody has said that there will be none.
    pub fn is_awaited(&self) -> bool {
        fn awaited(reason: &MissingReason) -> bool {
            match reason {
                MissingReason::NoSample | MissingReason::NoSuchService(_) => true,
                MissingReason::Input(_, root) => awaited(root),
                _ => false,
            }
        }
        self.missing.as_deref().is_some_and(awaited)
    }
}

/// Results that are data: the metric, and the data.
pub type Emitted = (Arc<str>, Arc<[Datum]>);

/// The number of a slot. Valid until the monitor is built again.
pub type SlotId = u32;

/// How a sensor is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct SensorWanted {
    /// The metric that it feeds.
    pub metric: Arc<str>,
    /// How it is read.
    pub spec: Arc<SensorSpec>,
    /// Whether it is read regularly; otherwise only when asked.
    pub regular: bool,
    /// When it is read at all.
    pub schedule: Option<Schedule>,
}

/// What must be fetched before a reading is young enough.
#[derive(Debug, Clone, PartialEq)]
pub enum Refresh {
    /// Read this sensor now.
    Sensor(SlotId, Arc<str>),
    /// Ask the service bound to this reference for this metric.
    Remote(SlotId, Arc<str>, Arc<str>),
}

/// The monitor of one service.
#[derive(Debug)]
pub struct Monitor {
    policy: Arc<MonitorPolicy>,
    slots: Vec<Slot>,
    by_name: FxHashMap<Arc<str>, SlotId>,
    by_id: FxHashMap<MetricId, SlotId>,
    inputs: Vec<Option<f64>>,
    generation: u64,
    /// The earliest time at which one of the slots computed since [`Monitor::soonest`] was asked is due.
    soonest: Option<Timestamp>,
}

impl Monitor {
    /// Builds the monitor of `policy`; `paths` are metrics that others (SLOs) read besides. What `before` knew about metrics of
    /// the same name and nature is kept. `id` turns metric names into numbers.
    pub fn build(
        policy: Arc<MonitorPolicy>,
        paths: &[MetricPath],
        before: Option<Self>,
        id: &mut dyn FnMut(&str) -> MetricId,
        now: Timestamp,
    ) -> Self {
        let mut old: FxHashMap<Arc<str>, Slot> = FxHashMap::default();
        for slot in before.map(|m| m.slots).unwrap_or_default() {
            old.insert(slot.name.clone(), slot);
        }
        let mut monitor = Self {
            slots: Vec::with_capacity(policy.metrics.len()),
            by_name: FxHashMap::default(),
            by_id: FxHashMap::default(),
            inputs: Vec::new(),
            generation: 0,
            soonest: None,
            policy: policy.clone(),
        };
        for path in slot::remote_paths(&policy, paths) {
            monitor.push(Slot::remote(&path));
        }
        for metric in &policy.metrics {
            let slot = Slot::of_policy(metric, |path| monitor.find(path));
            monitor.push(slot);
        }
        for slot in &mut monitor.slots {
            if let Some(was) = old.remove(&slot.name) {
                slot.inherit(was);
            }
            slot.keep_history(policy.history);
        }
        for (_, slot) in old {
            if matches!(slot.source, Source::Published) && !monitor.by_name.contains_key(&slot.name) {
                monitor.push(slot);
            }
        }
        monitor.wire(id);
        monitor.compute_all(now);
        monitor
    }

    fn push(&mut self, slot: Slot) {
        self.by_name.insert(slot.name.clone(), self.slots.len() as SlotId);
        self.slots.push(slot);
    }

    fn wire(&mut self, id: &mut dyn FnMut(&str) -> MetricId) {
        for slot in &mut self.slots {
            slot.dependents.clear();
        }
        for number in 0..self.slots.len() {
            for input in self.slots[number].source.inputs() {
                self.slots[input as usize].dependents.push(number as SlotId);
            }
            if self.slots[number].source.is_own() {
                self.by_id.insert(id(&self.slots[number].name), number as SlotId);
            }
        }
        // From direct dependents to all of them, in slot order, so that one pass computes each once.
        for number in (0..self.slots.len()).rev() {
            let direct = std::mem::take(&mut self.slots[number].dependents);
            let mut all = direct.clone();
            for d in direct {
                all.extend_from_slice(&self.slots[d as usize].dependents);
            }
            all.sort_unstable();
            all.dedup();
            all.shrink_to_fit();
            self.slots[number].dependents = all;
        }
    }

    fn compute_all(&mut self, now: Timestamp) {
        self.generation += 1;
        for number in 0..self.slots.len() {
            match self.slots[number].source {
                Source::Expression { .. } => {
                    self.compute(number as SlotId, now);
                }
                _ => self.slots[number].refresh(now),
            }
        }
    }

    /// The policy that it runs.
    pub fn policy(&self) -> &Arc<MonitorPolicy> {
        &self.policy
    }

    /// The slot of an own metric or a path over a reference.
    pub fn find(&self, path: &MetricPath) -> Option<SlotId> {
        match path {
            MetricPath::Own(name) => self.by_name.get(name).copied(),
            via @ MetricPath::Via { .. } => self.by_name.get(via.to_string().as_str()).copied(),
        }
    }

    /// The slot of an own metric.
    pub fn named(&self, name: &str) -> Option<SlotId> {
        self.by_name.get(name).copied().filter(|s| self.slots[*s as usize].source.is_own())
    }

    /// The slot of the own metric with this number.
    pub fn numbered(&self, id: MetricId) -> Option<SlotId> {
        self.by_id.get(&id).copied()
    }

    /// The name of a slot.
    pub fn name(&self, slot: SlotId) -> &Arc<str> {
        &self.slots[slot as usize].name
    }

    /// Who is to be woken when the slot changes: numbers that the owner of the monitor chose.
    pub fn consumers(&self, slot: SlotId) -> &[u16] {
        &self.slots[slot as usize].consumers
    }

    /// Forgets all consumers.
    pub fn clear_consumers(&mut self) {
        for slot in &mut self.slots {
            slot.consumers.clear();
        }
    }

    /// Wakes `consumer` when `slot` changes.
    pub fn add_consumer(&mut self, slot: SlotId, consumer: u16) {
        let consumers = &mut self.slots[slot as usize].consumers;
        if !consumers.contains(&consumer) {
            consumers.push(consumer);
        }
    }

    /// Whether somebody outside the service listens to the slot.
    pub fn observed(&self, slot: SlotId) -> bool {
        self.slots[slot as usize].observed
    }

    /// Notes which own metrics somebody outside the service listens to.
    pub fn mark_observed(&mut self, observed: impl Fn(&Arc<str>) -> bool) {
        for slot in self.slots.iter_mut().filter(|s| s.source.is_own()) {
            slot.observed = observed(&slot.name);
        }
    }

    /// What the slot holds.
    pub fn held(&self, slot: SlotId) -> &Held {
        &self.slots[slot as usize].held
    }

    /// Takes one sample. Every slot that got a new value is added to `changed`, in slot order.
    ///
    /// # Errors
    /// Why the sample was refused; nothing has changed then.
    pub fn take(
        &mut self,
        slot: SlotId,
        value: f64,
        at: Option<Timestamp>,
        now: Timestamp,
        changed: &mut Vec<SlotId>,
    ) -> Result<(), Refused> {
        self.slots[slot as usize].accept(value, at, now)?;
        self.spread(slot, now, changed);
        Ok(())
    }

    /// Takes what a sensor delivered in one read: headline, further outputs, families.
    pub fn take_measurements(
        &mut self,
        metric: &str,
        measurements: Vec<Measurement>,
        now: Timestamp,
        changed: &mut Vec<SlotId>,
    ) -> Vec<Refused> {
        let mut refused = Vec::new();
        if measurements.is_empty() {
            return refused;
        }
        let mut family = Vec::new();
        for m in measurements {
            match (&m.output, m.label) {
                (_, Some(label)) => family.push((label, m.value)),
                (output, None) => {
                    let name =
                        output.as_ref().map_or_else(|| metric.to_string(), |o| format!("{metric}_{o}"));
                    match self.by_name.get(name.as_str()).copied() {
                        None => refused.push(Refused::NoMetric),
                        Some(slot) => {
                            refused.extend(self.take(slot, m.value, m.at, now, changed).err());
                        }
                    }
                }
            }
        }
        if let Some(slot) = self.named(metric) {
            self.slots[slot as usize].set_family(family);
        }
        refused
    }

    /// Takes the word of a sensor that it cannot measure. The last value stays until it is stale; a metric without one says why.
    pub fn fail(&mut self, metric: &str, why: &str, now: Timestamp, changed: &mut Vec<SlotId>) {
        if let Some(slot) = self.named(metric)
            && self.slots[slot as usize].held.missing.is_some()
        {
            let reason = MissingReason::SensorFailed(why.to_string());
            if self.slots[slot as usize].held.missing.as_deref() != Some(&reason) {
                self.slots[slot as usize].held = Held::missing(reason);
                self.spread(slot, now, changed);
            }
        }
    }

    /// Takes what another monitor says of a metric that this one reads over a reference. Being told the same again changes nothing.
    pub fn tell(&mut self, slot: SlotId, held: Held, now: Timestamp, changed: &mut Vec<SlotId>) {
        let s = &mut self.slots[slot as usize];
        if let Source::Remote { asked, .. } = &mut s.source {
            *asked = true;
        }
        if s.held != held {
            s.held = held;
            self.spread(slot, now, changed);
        }
    }

    /// Forgets what was heard of a metric of another service: `why` stands there until it is told (again).
    pub fn forget(&mut self, slot: SlotId, why: MissingReason, now: Timestamp, changed: &mut Vec<SlotId>) {
        self.tell(slot, Held::missing(why), now, changed);
        if let Source::Remote { asked, .. } = &mut self.slots[slot as usize].source {
            *asked = false;
        }
    }

    /// Notes that the metric of another service in this slot is asked for; answers whether it was not before.
    pub fn ask(&mut self, slot: SlotId) -> bool {
        match &mut self.slots[slot as usize].source {
            Source::Remote { asked, .. } => !std::mem::replace(asked, true),
            _ => false,
        }
    }

    /// Gives a metric a value by action; creates the metric when there is none of this name.
    ///
    /// # Errors
    /// When the metric is computed or measured, or the value is refused.
    pub fn publish(
        &mut self,
        name: &str,
        value: f64,
        now: Timestamp,
        id: &mut dyn FnMut(&str) -> MetricId,
        changed: &mut Vec<SlotId>,
    ) -> Result<(), String> {
        let slot = match self.by_name.get(name) {
            Some(slot) => *slot,
            None => {
                self.push(Slot::published(name));
                let slot = self.slots.len() as SlotId - 1;
                self.by_id.insert(id(name), slot);
                slot
            }
        };
        if !self.slots[slot as usize].source.takes_pushed() {
            return Err(format!(
                "metric `{name}` is {}, so it cannot be published",
                self.slots[slot as usize].kind()
            ));
        }
        self.take(slot, value, None, now, changed).map_err(|e| format!("metric `{name}`: {e}"))
    }

    /// Whether values of the slot may be pushed.
    pub fn takes_pushed(&self, slot: SlotId) -> bool {
        self.slots[slot as usize].source.takes_pushed()
    }

    /// Reads what [`Monitor::take`] will read of a slot, and of its consumers through `consumer`. The sum means nothing.
    pub fn touch(&self, slot: SlotId, consumer: &mut dyn FnMut(u16) -> u64) -> u64 {
        let mut sum = self.inputs.first().map_or(0, |i| i.map_or(0, f64::to_bits));
        let Some(first) = self.slots.get(slot as usize) else { return sum };
        sum ^= first.touch();
        for number in first.consumers.iter() {
            sum ^= consumer(*number);
        }
        for dependent in first.dependents.iter().filter_map(|d| self.slots.get(*d as usize)) {
            sum ^= dependent.touch();
            for number in dependent.consumers.iter() {
                sum ^= consumer(*number);
            }
        }
        sum
    }

    fn spread(&mut self, slot: SlotId, now: Timestamp, changed: &mut Vec<SlotId>) {
        self.generation += 1;
        self.mark(slot, changed);
        self.note_due(slot);
        for i in 0..self.slots[slot as usize].dependents.len() {
            let dependent = self.slots[slot as usize].dependents[i];
            let touched = {
                let slots = &self.slots;
                slots[dependent as usize]
                    .source
                    .any_input(|input| slots[input as usize].generation == self.generation)
            };
            if touched {
                if self.compute(dependent, now) {
                    self.mark(dependent, changed);
                }
                self.note_due(dependent);
            }
        }
    }

    fn note_due(&mut self, slot: SlotId) {
        if let Some(due) = self.slots[slot as usize].due() {
            self.soonest = Some(self.soonest.map_or(due, |s| s.min(due)));
        }
    }

    /// When the first of the slots is due that were computed since this was asked last. The others are due when they were.
    pub fn soonest(&mut self) -> Option<Timestamp> {
        self.soonest.take()
    }

    fn mark(&mut self, slot: SlotId, changed: &mut Vec<SlotId>) {
        let s = &mut self.slots[slot as usize];
        s.generation = self.generation;
        s.waiting = false;
        if let (Some(history), Some(value)) = (&mut s.history, s.held.known()) {
            history.push(s.held.at, value);
        }
        changed.push(slot);
    }

    /// Computes a slot from its inputs; `false` when it keeps its value for now (`every`).
    fn compute(&mut self, number: SlotId, now: Timestamp) -> bool {
        let (before, rest) = self.slots.split_at_mut(number as usize);
        rest[0].compute(before, &mut self.inputs, self.generation, now)
    }

    /// Does what is due at `now`: windows that lost samples, metrics computed every so often, streams whose step is over. Results that are data
    /// of a metric go to `emitted`.
    pub fn tick(
        &mut self,
        now: Timestamp,
        model: &Resources,
        changed: &mut Vec<SlotId>,
        emitted: &mut Vec<Emitted>,
    ) {
        for number in 0..self.slots.len() as SlotId {
            if self.slots[number as usize].due().is_none_or(|t| t > now) {
                continue;
            }
            if matches!(self.slots[number as usize].source, Source::Stream(_)) {
                self.step(number, now, model, changed, emitted);
            } else {
                self.slots[number as usize].refresh(now);
                self.spread(number, now, changed);
            }
        }
    }

    /// Evaluates a stream.
    fn step(
        &mut self,
        number: SlotId,
        now: Timestamp,
        model: &Resources,
        changed: &mut Vec<SlotId>,
        emitted: &mut Vec<Emitted>,
    ) {
        let slot = &mut self.slots[number as usize];
        let Source::Stream(flow) = &mut slot.source else { return };
        let (evaluated, emit) = (flow.evaluate(now, model), flow.policy.emit.clone());
        let Some(newest) = evaluated.last() else { return };
        slot.settle(newest);
        self.spread(number, now, changed);
        for window in evaluated {
            if let Some(metric) = emit.clone().filter(|_| !window.results.is_empty()) {
                emitted.push((metric, window.results.into()));
            }
        }
    }

    /// Takes data of a metric into every stream that needs them; answers how many were taken, and how many were refused: text (R2-22) is
    /// only for streams that count.
    pub fn collect(&mut self, metric: &str, data: &[Datum]) -> (u64, u64) {
        let (mut taken, mut refused) = (0, 0);
        for slot in &mut self.slots {
            if let Source::Stream(flow) = &mut slot.source
                && *flow.policy.metric == *metric
                && flow.next.is_some()
            {
                let counts = flow.policy.only_counts();
                for datum in data {
                    let inserted = match datum.value.is_nan() && counts {
                        // What is counted may be any number.
                        true => flow.stream.insert(&Datum { value: 0.0, ..datum.clone() }),
                        false => flow.stream.insert(datum),
                    };
                    match inserted {
                        true => taken += 1,
                        false => refused += 1,
                    }
                }
            }
        }
        (taken, refused)
    }

    /// The metrics whose data some stream may need.
    pub fn collected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.slots.iter().filter_map(|slot| match &slot.source {
            Source::Stream(flow) => Some(&flow.policy.metric),
            _ => None,
        })
    }

    /// Lets streams begin or end, after [`Monitor::weigh`].
    pub fn pace(&mut self, now: Timestamp, changed: &mut Vec<SlotId>) {
        for number in 0..self.slots.len() {
            let slot = &mut self.slots[number];
            let needed = slot.needed;
            if let Source::Stream(flow) = &mut slot.source
                && flow.pace(needed, now)
            {
                slot.held = Held::missing(MissingReason::NoSample);
                slot.set_family(Vec::new());
                self.spread(number as SlotId, now, changed);
            }
        }
    }

    /// Changes a parameter of a `collect` sensor; answers what it was.
    ///
    /// # Errors
    /// When there is no such sensor.
    pub fn tune(&mut self, sensor: &str, parameter: &str, value: &str) -> Result<Option<String>, String> {
        let slot = self.named(sensor).map(|slot| &mut self.slots[slot as usize].source);
        let Some(Source::Sensor { spec, .. }) = slot else {
            return Err(format!("there is no sensor `{sensor}`"));
        };
        let SensorSpec::Collect(collect) = Arc::make_mut(spec) else {
            return Err(format!("the sensor `{sensor}` is no `collect` sensor"));
        };
        Ok(collect.parameters.insert(parameter.to_string(), value.to_string()))
    }

    /// When the next thing is due that [`Monitor::tick`] does.
    pub fn due(&self) -> Option<Timestamp> {
        self.slots.iter().filter_map(Slot::due).min()
    }

    /// The reading of a slot, computed to the moment.
    pub fn reading(&mut self, slot: SlotId, now: Timestamp) -> Reading {
        let s = &mut self.slots[slot as usize];
        s.peek(now);
        s.held.reading(now)
    }

    /// The reading of a metric by name; `name[label]` is a member of a family.
    pub fn read(&mut self, name: &str, now: Timestamp) -> Option<Reading> {
        self.holds(name, now).map(|held| held.reading(now))
    }

    /// What is held of a metric by name; `name[label]` is a member of a family.
    pub fn holds(&mut self, name: &str, now: Timestamp) -> Option<Held> {
        if let Some(slot) = self.named(name) {
            self.slots[slot as usize].peek(now);
            return Some(self.held(slot).clone());
        }
        let (base, label) = name.strip_suffix(']')?.split_once('[')?;
        let s = &self.slots[self.named(base)? as usize];
        let value = s.family().iter().find(|(l, _)| &**l == label)?.1;
        Some(Held { value, ..s.held.clone() })
    }

    /// The members of the family of a metric.
    pub fn family(&self, name: &str) -> &[(Arc<str>, f64)] {
        self.named(name).map_or(&[], |slot| self.slots[slot as usize].family())
    }

    /// The families of all metrics that have one.
    pub fn families(&self) -> impl Iterator<Item = (&Arc<str>, &[(Arc<str>, f64)])> {
        self.slots.iter().filter(|s| !s.family().is_empty()).map(|s| (&s.name, s.family()))
    }

    /// The own metrics with their readings, sorted by name (R3-30).
    pub fn list(&mut self, now: Timestamp) -> Vec<MetricInfo> {
        let mut all: Vec<MetricInfo> = Vec::new();
        for number in 0..self.slots.len() {
            if !self.slots[number].source.is_own() {
                continue;
            }
            let reading = self.reading(number as SlotId, now);
            let slot = &self.slots[number];
            all.push(slot.info(slot.name.to_string(), reading));
            for (label, value) in slot.family() {
                let held = Held { value: *value, ..slot.held.clone() };
                all.push(slot.info(format!("{}[{label}]", slot.name), held.reading(now)));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// How many own metrics there are.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|s| s.source.is_own()).count()
    }

    /// Whether there is no own metric.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The past readings of a metric; `None` when the monitor keeps none (R3-37).
    pub fn history(&self, slot: SlotId) -> Option<Vec<Reading>> {
        let history = self.slots[slot as usize].history.as_ref()?;
        Some(history.iter().map(|(at, value)| Reading::Fresh { value, at }).collect())
    }

    /// Works out which slots are needed: those with consumers or observers, what they are computed from, and what windows are over.
    pub fn weigh(&mut self) {
        for number in (0..self.slots.len()).rev() {
            let slot = &self.slots[number];
            let needed =
                slot.needed_itself() || slot.dependents.iter().any(|d| self.slots[*d as usize].needed);
            self.slots[number].needed = needed;
        }
    }

    /// The metrics of other services that are needed, by reference: what to be subscribed to.
    pub fn remotes(&self) -> impl Iterator<Item = (SlotId, &Arc<str>, &Arc<str>, bool)> {
        self.slots.iter().enumerate().filter_map(|(n, s)| match &s.source {
            Source::Remote { reference, metric, .. } => Some((n as SlotId, reference, metric, s.needed)),
            _ => None,
        })
    }

    /// The groups: slot, policy, and whether it is needed.
    pub fn groups(&self) -> impl Iterator<Item = (SlotId, &crate::policy::GroupPolicy, bool)> {
        self.slots.iter().enumerate().filter_map(|(n, s)| match &s.source {
            Source::Group(group) => Some((n as SlotId, &group.policy, s.needed)),
            _ => None,
        })
    }

    /// Sets the members of a group: service → the label it counts under (`by`). Values of those that stay are kept.
    pub fn set_members(
        &mut self,
        slot: SlotId,
        members: BTreeMap<Arc<str>, Vec<Arc<str>>>,
        now: Timestamp,
        changed: &mut Vec<SlotId>,
    ) {
        if let Source::Group(group) = &mut self.slots[slot as usize].source {
            group.set_members(members);
            self.slots[slot as usize].refresh(now);
            self.spread(slot, now, changed);
        }
    }

    /// The members of a group.
    pub fn members(&self, slot: SlotId) -> Vec<Arc<str>> {
        match &self.slots[slot as usize].source {
            Source::Group(group) => group.members.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Takes what the monitor of a group's member says.
    pub fn tell_member(
        &mut self,
        slot: SlotId,
        member: &str,
        held: &Held,
        now: Timestamp,
        changed: &mut Vec<SlotId>,
    ) {
        let s = &mut self.slots[slot as usize];
        let Source::Group(group) = &mut s.source else { return };
        match group.take(member, held, now) {
            None => {}
            Some(true) => {
                s.refresh(now);
                self.spread(slot, now, changed);
            }
            Some(false) => {
                s.waiting = true;
                self.note_due(slot);
            }
        }
    }

    /// Whether the slot is a group.
    pub fn is_group(&self, slot: SlotId) -> bool {
        matches!(self.slots[slot as usize].source, Source::Group(_))
    }

    /// How the sensors are to run now. A sensor whose policy says `every` is always read; another only while it is needed.
    pub fn sensors(&self) -> Vec<SensorWanted> {
        self.slots
            .iter()
            .filter_map(|s| match &s.source {
                Source::Sensor { spec, insistent } => Some(SensorWanted {
                    metric: s.name.clone(),
                    spec: spec.clone(),
                    regular: *insistent || s.needed,
                    schedule: self.policy.schedule,
                }),
                _ => None,
            })
            .collect()
    }

    /// What must be fetched before the slot is at most `max_age` old. Without `max_age`, what is fed regularly counts as young enough.
    pub fn refresh(
        &self,
        slot: SlotId,
        max_age: Option<std::time::Duration>,
        now: Timestamp,
    ) -> Vec<Refresh> {
        let mut leaves = Vec::new();
        let mut stack = vec![slot];
        let mut seen = vec![false; self.slots.len()];
        while let Some(number) = stack.pop() {
            if std::mem::replace(&mut seen[number as usize], true) {
                continue;
            }
            let s = &self.slots[number as usize];
            if !matches!(s.source, Source::Window { .. }) {
                stack.extend(s.source.inputs());
            }
            if s.young(max_age, now) {
                continue;
            }
            match &s.source {
                Source::Sensor { spec, .. } if spec.every().is_some() => {
                    leaves.push(Refresh::Sensor(number, s.name.clone()));
                }
                Source::Remote { reference, metric, .. } => {
                    leaves.push(Refresh::Remote(number, reference.clone(), metric.clone()));
                }
                _ => {}
            }
        }
        leaves
    }
}
