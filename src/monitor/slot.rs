//! One metric of a monitor: where its values come from, what it holds, who wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Held, SlotId};
use crate::knowledge::history::History;
use crate::knowledge::pool::Pool;
use crate::knowledge::resources::Resources;
use crate::knowledge::stream::Stream;
use crate::knowledge::window::Window;
use crate::model::connector::{ProxyQuantity, SensorSpec};
use crate::model::ports::MetricInfo;
use crate::model::{Aggregate, Datum, MetricPath, MissingReason, Reading, Timestamp};
use crate::policy::expression::{EvalError, Expression};
use crate::policy::{GroupPolicy, MetricKind, MetricPolicy, MonitorPolicy, StreamPolicy, WindowPolicy};

/// How far ahead of the loop's time a sample may be.
const FUTURE: Duration = Duration::from_secs(10);

/// How many members of a family are kept.
const MAX_FAMILY: usize = 1_024;

/// The time of what is computed from constants alone: never old, and still a time that can be written down (the end of the year 9999).
const TIMELESS: Timestamp = Timestamp(253_402_300_799_000_000);

/// How often an `age` without a window is computed anew.
const AGE_STEP: Duration = Duration::from_secs(1);

/// A window that loses samples is computed again at most this often within its length, so that expiry costs no more than arrival.
const EXPIRY_STEPS: u32 = 64;

/// Why a sample was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a number, or infinite.
    #[error("the value is not a finite number")]
    NotFinite,
    /// Older than the newest sample of the metric.
    #[error("the sample is older than the newest one")]
    OutOfOrder,
    /// The same time and value as the newest sample.
    #[error("the sample is a duplicate of the newest one")]
    Duplicate,
    /// More than ten seconds ahead of the loop's time.
    #[error("the sample is more than 10 s in the future")]
    Future,
    /// No such metric.
    #[error("there is no such metric, or it is computed")]
    NoMetric,
}

/// The members of a family: label and value.
type Family = Vec<(Arc<str>, f64)>;

/// One metric.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    pub(super) source: Source,
    pub(super) held: Held,
    /// All slots computed from this one, directly or not, in order.
    pub(super) dependents: Vec<SlotId>,
    pub(super) consumers: Vec<u16>,
    pub(super) observed: bool,
    pub(super) needed: bool,
    /// Whether the value may differ from what was spread last: it waits for [`Slot::due`].
    pub(super) waiting: bool,
    /// The spread in which it last got a value.
    pub(super) generation: u64,
    pub(super) history: Option<Box<History>>,
    family: Option<Box<Family>>,
    stale_after: Option<Duration>,
    unit: Option<Arc<str>>,
}

/// Where values come from.
#[derive(Debug)]
pub(super) enum Source {
    Sensor {
        spec: Arc<SensorSpec>,
        insistent: bool,
    },
    Output,
    Remote {
        reference: Arc<str>,
        metric: Arc<str>,
        /// Whether the service that the reference leads to was asked for it, or has told it, since the reference was bound.
        asked: bool,
    },
    Expression {
        expression: Expression,
        inputs: Vec<Option<SlotId>>,
    },
    Window {
        policy: WindowPolicy,
        of: Option<SlotId>,
        window: Box<Window>,
        computed: Option<Timestamp>,
        fed: Timestamp,
    },
    Group(Box<Group>),
    Stream(Box<Flow>),
    /// How many results the newest evaluation of a stream had.
    Results {
        of: Option<SlotId>,
    },
    Published,
}

/// The state of a metric that is made of the data of a `collect` sensor.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) policy: Arc<StreamPolicy>,
    /// The `collect` sensor.
    of: Option<SlotId>,
    /// The end of the newest window, and how many results it had.
    newest: Option<(Timestamp, usize)>,
    pub(super) stream: Stream,
    /// When it is evaluated next; `None` while nobody needs it.
    pub(super) next: Option<Timestamp>,
}

/// How many evaluations that were missed are made up for.
const MADE_UP: i64 = 16;

impl Flow {
    fn new(policy: Arc<StreamPolicy>, of: Option<SlotId>) -> Self {
        Self { policy, of, newest: None, stream: Stream::default(), next: None }
    }

    /// Begins when somebody needs it and ends when nobody does; data are kept only in between (R2-33).
    /// Whether it did: what an earlier window came to says nothing from then on.
    pub(super) fn pace(&mut self, needed: bool, now: Timestamp) -> bool {
        match (needed, self.next) {
            (true, None) => {
                self.stream = Stream::begin(now);
                self.next = Some(now.after(self.policy.every));
            }
            (false, Some(_)) => {
                self.stream = Stream::default();
                self.next = None;
            }
            _ => return false,
        }
        self.newest.take().is_some()
    }

    /// Evaluates every window that ended until `now`: their results, and what the newest of them came to as a whole. A clock that stood
    /// still for long is not made up for in full.
    pub(super) fn evaluate(&mut self, now: Timestamp, model: &Resources) -> Vec<Evaluated> {
        let Some(mut next) = self.next else { return Vec::new() };
        let every = self.policy.every.as_micros().clamp(1, i64::MAX as u128) as i64;
        let missed = now.0.saturating_sub(next.0) / every;
        if missed > MADE_UP {
            next = Timestamp(next.0 + (missed - MADE_UP) * every);
        }
        let mut all = Vec::new();
        while next <= now {
            all.push(self.window(next, model));
            next = Timestamp(next.0.saturating_add(every));
            self.stream.forget(next.before(self.policy.over));
        }
        self.next = Some(next);
        all
    }

    fn window(&mut self, until: Timestamp, model: &Resources) -> Evaluated {
        let policy = self.policy.clone();
        let counts = |value: f64| {
            let holds = |having: &Expression| having.eval(&[Some(value)]).is_ok_and(|v| v != 0.0);
            value.is_finite() && policy.having.as_ref().is_none_or(holds)
        };
        let said_of = |label: &Arc<str>| policy.resource.as_ref().unwrap_or(label).clone();
        let mut results = Vec::new();
        if policy.aggregates.is_empty() {
            for (resource, value, at) in self.stream.data(until, policy.over, &policy.grouping, model) {
                let value =
                    policy.value.as_ref().map_or(value, |e| e.eval(&[Some(value)]).unwrap_or(f64::NAN));
                if counts(value) {
                    results.push(Datum { resource: said_of(resource), value, at });
                }
            }
            return Evaluated { until, results };
        }
        let rows = self.stream.rows(until, policy.over, &policy.grouping, &policy.aggregates, model);
        let width = policy.aggregates.len();
        let mut inputs = vec![None; width];
        results.reserve(rows.groups.len());
        for (n, (group, at)) in rows.groups.iter().zip(&rows.at).enumerate() {
            let row = &rows.values[n * width..(n + 1) * width];
            let value = match &policy.value {
                None => row[0],
                Some(expression) => {
                    for (input, value) in inputs.iter_mut().zip(row) {
                        *input = value.is_finite().then_some(*value);
                    }
                    expression.eval(&inputs).unwrap_or(f64::NAN)
                }
            };
            if counts(value) {
                results.push(Datum { resource: said_of(self.stream.label(*group)), value, at: *at });
            }
        }
        Evaluated { until, results }
    }
}

/// What one window came to.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub(super) until: Timestamp,
    pub(super) results: Vec<Datum>,
}

/// The state of a group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: GroupPolicy,
    /// Members with the labels they count under.
    pub(super) members: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    numbers: BTreeMap<Arc<str>, u32>,
    next: u32,
    total: Tally,
    labelled: BTreeMap<Arc<str>, Tally>,
    /// From when on the value of which member no longer counts, by time and by member.
    stale: BTreeSet<(Timestamp, u32)>,
    stale_at: BTreeMap<u32, Timestamp>,
    fed: Timestamp,
    computed: Option<Timestamp>,
}

/// What a group, or one label of it, adds up.
#[derive(Debug)]
enum Tally {
    Newest(Pool),
    Over(Box<Window>),
}

impl Tally {
    fn new(policy: &GroupPolicy) -> Self {
        match policy.over {
            None => Self::Newest(Pool::new(policy.aggregate)),
            Some(over) => Self::Over(Box::new(Window::new(policy.aggregate, Some(over)))),
        }
    }

    fn put(&mut self, member: u32, value: f64, at: Timestamp) {
        match self {
            Self::Newest(pool) => pool.set(member, value),
            Self::Over(window) => window.insert(at, value),
        }
    }

    fn drop_member(&mut self, member: u32) {
        if let Self::Newest(pool) = self {
            pool.remove(member);
        }
    }

    /// The same values, added up as `policy` says.
    fn reshape(self, policy: &GroupPolicy, numbers: &BTreeMap<Arc<str>, u32>) -> Self {
        match (self, policy.over) {
            (Self::Over(window), Some(over)) => {
                Self::Over(Box::new(window.reshape(policy.aggregate, Some(over))))
            }
            (Self::Newest(old), None) => {
                let mut pool = Pool::new(policy.aggregate);
                for number in numbers.values() {
                    if let Some(value) = old.get(*number) {
                        pool.set(*number, value);
                    }
                }
                Self::Newest(pool)
            }
            _ => Self::new(policy),
        }
    }

    fn value(&mut self, now: Timestamp) -> Option<f64> {
        match self {
            Self::Newest(pool) => pool.value(),
            Self::Over(window) => window.value(now),
        }
    }
}

impl Group {
    fn new(policy: GroupPolicy) -> Self {
        Self {
            total: Tally::new(&policy),
            policy,
            members: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next: 0,
            labelled: BTreeMap::new(),
            stale: BTreeSet::new(),
            stale_at: BTreeMap::new(),
            fed: Timestamp::default(),
            computed: None,
        }
    }

    pub(super) fn set_members(&mut self, members: BTreeMap<Arc<str>, Vec<Arc<str>>>) {
        let before = std::mem::replace(&mut self.members, members);
        for (member, labels) in before {
            let now = self.members.get(&member);
            let Some(number) = self.numbers.get(&member).copied() else { continue };
            for label in labels.iter().filter(|l| now.is_none_or(|now| !now.contains(l))) {
                if let Some(tally) = self.labelled.get_mut(label) {
                    tally.drop_member(number);
                }
            }
            match now.cloned() {
                None => {
                    self.numbers.remove(&member);
                    self.total.drop_member(number);
                    self.goes_stale(number, None);
                }
                Some(now) => self.move_member(number, now.iter().filter(|l| !labels.contains(l))),
            }
        }
        let live: BTreeSet<&Arc<str>> = self.members.values().flatten().collect();
        self.labelled.retain(|label, _| live.contains(label));
    }

    /// Counts what a member said last under further labels.
    fn move_member<'a>(&mut self, number: u32, labels: impl Iterator<Item = &'a Arc<str>>) {
        let Tally::Newest(pool) = &self.total else { return };
        let Some(value) = pool.get(number) else { return };
        for label in labels {
            let policy = &self.policy;
            let tally = self.labelled.entry(label.clone()).or_insert_with(|| Tally::new(policy));
            tally.put(number, value, self.fed);
        }
    }

    /// Takes over the members of `old`, and of their values what means the same here.
    fn inherit(&mut self, old: Self) {
        let Self { members, numbers, next, total, labelled, stale, stale_at, fed, .. } = old;
        (self.stale, self.stale_at) = (stale, stale_at);
        self.total = total.reshape(&self.policy, &numbers);
        self.labelled = labelled.into_iter().map(|(l, t)| (l, t.reshape(&self.policy, &numbers))).collect();
        (self.members, self.numbers, self.next, self.fed) = (members, numbers, next, fed);
    }

    /// Whether the group is to be computed now; `None` when nobody of this name is a member.
    pub(super) fn take(&mut self, member: &str, held: &Held, now: Timestamp) -> Option<bool> {
        let (member, labels) = self.members.get_key_value(member)?;
        let number = match self.numbers.get(member) {
            Some(number) => *number,
            None => {
                self.next += 1;
                self.numbers.insert(member.clone(), self.next);
                self.next
            }
        };
        match held.known() {
            Some(value) => {
                self.fed = self.fed.max(held.at).min(now);
                let at = self.fed;
                self.total.put(number, value, at);
                for label in labels {
                    let policy = &self.policy;
                    self.labelled
                        .entry(label.clone())
                        .or_insert_with(|| Tally::new(policy))
                        .put(number, value, at);
                }
            }
            None => {
                self.total.drop_member(number);
                for label in labels {
                    if let Some(tally) = self.labelled.get_mut(label) {
                        tally.drop_member(number);
                    }
                }
            }
        }
        self.goes_stale(number, held.known().and(held.stale_at));
        Some(match (self.policy.every, self.computed) {
            (Some(every), Some(last)) => now.since(last) >= every,
            _ => true,
        })
    }

    fn goes_stale(&mut self, number: u32, at: Option<Timestamp>) {
        let before = match at {
            Some(at) => self.stale_at.insert(number, at),
            None => self.stale_at.remove(&number),
        };
        if let Some(before) = before {
            self.stale.remove(&(before, number));
        }
        self.stale.extend(at.map(|at| (at, number)));
    }

    /// Stops counting the members whose values are stale.
    fn drop_stale(&mut self, now: Timestamp) {
        while let Some((at, number)) = self.stale.first().copied()
            && at < now
        {
            self.goes_stale(number, None);
            self.total.drop_member(number);
            for tally in self.labelled.values_mut() {
                tally.drop_member(number);
            }
        }
    }

    /// When the value changes by the mere passing of time.
    fn expiry(&self) -> Option<Timestamp> {
        match &self.total {
            Tally::Over(window) => window.next_expiry(),
            Tally::Newest(_) => self.stale.first().map(|(at, _)| at.after(Duration::from_micros(1))),
        }
    }

    fn value(&mut self, now: Timestamp) -> (Option<f64>, Vec<(Arc<str>, f64)>) {
        self.drop_stale(now);
        self.computed = (self.fed != Timestamp::default()).then_some(now);
        let family = self
            .labelled
            .iter_mut()
            .filter_map(|(label, tally)| tally.value(now).map(|v| (label.clone(), v)))
            .collect();
        (self.total.value(now), family)
    }
}

impl Source {
    /// The slots that it is computed from.
    pub(super) fn inputs(&self) -> Vec<SlotId> {
        match self {
            Self::Expression { inputs, .. } => inputs.iter().flatten().copied().collect(),
            Self::Window { of, .. } => of.iter().copied().collect(),
            Self::Stream(flow) => flow.of.iter().copied().collect(),
            Self::Results { of } => of.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether one of the slots that it is computed from satisfies `test`.
    pub(super) fn any_input(&self, test: impl Fn(SlotId) -> bool) -> bool {
        match self {
            Self::Expression { inputs, .. } => inputs.iter().flatten().any(|i| test(*i)),
            Self::Window { of, .. } | Self::Results { of } => of.is_some_and(test),
            _ => false,
        }
    }

    /// Whether it is a metric of the service itself.
    pub(super) fn is_own(&self) -> bool {
        !matches!(self, Self::Remote { .. })
    }

    /// Whether its values come as samples, rather than being computed or told by another monitor.
    pub(super) fn takes_samples(&self) -> bool {
        matches!(self, Self::Sensor { .. } | Self::Output | Self::Published)
    }

    pub(super) fn takes_pushed(&self) -> bool {
        match self {
            Self::Published => true,
            Self::Sensor { spec, .. } => matches!(**spec, SensorSpec::Push(_)),
            _ => false,
        }
    }
}

/// The metrics of other services that a monitor reads, sorted, each once.
pub(super) fn remote_paths(policy: &MonitorPolicy, extra: &[MetricPath]) -> Vec<MetricPath> {
    let mut paths: Vec<MetricPath> = extra.to_vec();
    for metric in &policy.metrics {
        match &metric.kind {
            MetricKind::Expression(e) => paths.extend(e.inputs.iter().cloned()),
            MetricKind::Window(w) => paths.push(w.of.clone()),
            _ => {}
        }
    }
    paths.retain(|p| matches!(p, MetricPath::Via { .. }));
    paths.sort();
    paths.dedup();
    paths
}

impl Slot {
    /// Reads something of every part that computing it reads. The sum means nothing.
    pub(super) fn touch(&self) -> u64 {
        let source = match &self.source {
            Source::Expression { expression, inputs } => {
                expression.touch() ^ inputs.first().copied().flatten().map_or(0, u64::from)
            }
            Source::Window { fed, .. } => fed.0 as u64,
            _ => 0,
        };
        source
            ^ self.held.value.to_bits()
            ^ self.generation
            ^ u64::from(self.observed)
            ^ self.stale_after.map_or(0, |d| u64::from(d.subsec_nanos()))
    }

    fn new(name: Arc<str>, source: Source) -> Self {
        Self {
            name,
            source,
            held: Held::missing(MissingReason::NoSample),
            dependents: Vec::new(),
            consumers: Vec::new(),
            observed: false,
            needed: false,
            waiting: false,
            generation: 0,
            history: None,
            family: None,
            stale_after: None,
            unit: None,
        }
    }

    pub(super) fn remote(path: &MetricPath) -> Self {
        let source = match path {
            MetricPath::Via { reference, metric } => {
                Source::Remote { reference: reference.clone(), metric: metric.clone(), asked: false }
            }
            MetricPath::Own(_) => Source::Published,
        };
        Self::new(path.to_string().into(), source)
    }

    pub(super) fn published(name: &str) -> Self {
        Self::new(name.into(), Source::Published)
    }

    pub(super) fn of_policy(metric: &MetricPolicy, find: impl Fn(&MetricPath) -> Option<SlotId>) -> Self {
        let source = match &metric.kind {
            MetricKind::Sensor(spec) => {
                Source::Sensor { insistent: says_every(spec), spec: Arc::new(spec.clone()) }
            }
            MetricKind::Output { .. } => Source::Output,
            MetricKind::Expression(e) => {
                Source::Expression { inputs: e.inputs.iter().map(&find).collect(), expression: e.clone() }
            }
            MetricKind::Window(w) => Source::Window {
                of: find(&w.of),
                window: Box::new(Window::new(w.aggregate, w.over)),
                policy: w.clone(),
                computed: None,
                fed: Timestamp::default(),
            },
            MetricKind::Group(g) => Source::Group(Box::new(Group::new(g.clone()))),
            MetricKind::Stream(s) => {
                Source::Stream(Box::new(Flow::new(s.clone(), find(&MetricPath::Own(s.of.clone())))))
            }
            MetricKind::Results { of } => Source::Results { of: find(&MetricPath::Own(of.clone())) },
        };
        let mut slot = Self::new(metric.name.clone(), source);
        slot.unit = metric.unit.clone();
        slot.stale_after = metric.stale_after;
        slot
    }

    /// Keeps what `was` knew, where that means the same.
    pub(super) fn inherit(&mut self, was: Self) {
        self.history = was.history;
        self.observed = was.observed;
        let same = match (&mut self.source, was.source) {
            (Source::Sensor { .. }, Source::Sensor { .. })
            | (Source::Output, Source::Output)
            | (Source::Results { .. }, Source::Results { .. })
            | (Source::Published, Source::Published) => true,
            (
                Source::Remote { reference: a, metric: b, asked },
                Source::Remote { reference: c, metric: d, asked: was_asked },
            ) => {
                *asked = was_asked;
                *a == c && *b == d
            }
            (
                Source::Window { policy, window, computed, fed, .. },
                Source::Window { policy: old, window: kept, computed: when, fed: newest, .. },
            ) if policy.of == old.of => {
                **window = kept.reshape(policy.aggregate, policy.over);
                (*computed, *fed) = (when, newest);
                policy.aggregate == old.aggregate && policy.over == old.over
            }
            (Source::Group(new), Source::Group(old))
                if new.policy.of == old.policy.of
                    && new.policy.from == old.policy.from
                    && new.policy.by == old.policy.by =>
            {
                new.inherit(*old);
                true
            }
            (Source::Stream(new), Source::Stream(old)) if *new.policy == *old.policy => {
                (new.stream, new.next, new.newest) = (old.stream, old.next, old.newest);
                true
            }
            _ => false,
        };
        if same {
            self.held = was.held;
            self.family = was.family;
            self.restale();
        } else if self.is_windowed() {
            self.held.at = was.held.at;
        }
    }

    /// Keeps the newest `capacity` readings from now on.
    pub(super) fn keep_history(&mut self, capacity: usize) {
        match (&mut self.history, capacity) {
            (history, 0) => *history = None,
            (Some(history), _) => history.resize(capacity),
            (history @ None, _) => *history = Some(Box::new(History::new(capacity))),
        }
    }

    /// Applies a changed `stale_after` to the value held.
    fn restale(&mut self) {
        if matches!(self.source, Source::Sensor { .. } | Source::Output) && self.held.missing.is_none() {
            self.held.stale_at = self.stale_after.map(|d| self.held.at.after(d));
        }
    }

    /// Takes one sample of a measured or published metric.
    pub(super) fn accept(
        &mut self,
        value: f64,
        at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Refused> {
        if !self.source.takes_samples() {
            return Err(Refused::NoMetric);
        }
        if !value.is_finite() {
            return Err(Refused::NotFinite);
        }
        let known = self.held.missing.is_none();
        let at = match at {
            None if known => now.max(self.held.at),
            None => now,
            Some(at) => {
                if at > now.after(FUTURE) {
                    return Err(Refused::Future);
                }
                if known && at < self.held.at {
                    return Err(Refused::OutOfOrder);
                }
                if known && at == self.held.at && value == self.held.value {
                    return Err(Refused::Duplicate);
                }
                at
            }
        };
        self.held.value = value;
        self.held.missing = None;
        self.held.at = at;
        self.held.stale_at = self.stale_after.map(|d| at.after(d));
        Ok(())
    }

    /// Computes an expression or window from its inputs, which stand in `before`.
    pub(super) fn compute(
        &mut self,
        before: &[Slot],
        scratch: &mut Vec<Option<f64>>,
        generation: u64,
        now: Timestamp,
    ) -> bool {
        match &mut self.source {
            Source::Expression { expression, inputs } => {
                evaluate(expression, inputs, before, scratch, &mut self.held);
                true
            }
            Source::Window { of: Some(of), window, policy, computed, fed } => {
                let input = &before[*of as usize];
                if input.generation == generation
                    && let Some(value) = input.held.known()
                {
                    *fed = (*fed).max(input.held.at).min(now.after(FUTURE));
                    window.insert(*fed, value);
                    self.held.stale_at = input.held.stale_at;
                    self.held.at = input.held.at;
                    self.waiting = true;
                }
                if let (Some(every), Some(last)) = (policy.every, *computed)
                    && now.since(last) < every
                {
                    return false;
                }
                self.refresh(now);
                true
            }
            Source::Results { of: Some(of) } => {
                if let Source::Stream(flow) = &before[*of as usize].source {
                    self.held = match flow.newest {
                        Some((at, count)) => Held { value: count as f64, missing: None, at, stale_at: None },
                        None => Held::missing(MissingReason::NoSample),
                    };
                }
                true
            }
            _ => false,
        }
    }

    /// Brings a windowed value to the moment.
    pub(super) fn refresh(&mut self, now: Timestamp) {
        match &mut self.source {
            // What was never fed has not had its chance yet.
            Source::Window { fed: Timestamp(0), .. } => {}
            Source::Window { window, computed, fed, .. } => {
                *computed = Some(now);
                match window.value(now.max(*fed)) {
                    Some(value) => {
                        self.held.value = value;
                        self.held.missing = None;
                    }
                    None if self.held.missing.as_deref() == Some(&MissingReason::EmptyWindow) => {}
                    None => self.held.missing = Some(Arc::new(MissingReason::EmptyWindow)),
                }
            }
            Source::Group(group) => {
                let (value, family) = group.value(now);
                self.held = match value {
                    Some(value) => Held { value, missing: None, at: group.fed, stale_at: None },
                    // Members that have not spoken yet may still do.
                    None if group.fed == Timestamp::default() && !group.members.is_empty() => {
                        Held::missing(MissingReason::NoSample)
                    }
                    None => Held::missing(MissingReason::EmptyWindow),
                };
                self.set_family(family);
            }
            _ => {}
        }
    }

    /// Whether the value changes by the mere passing of time.
    pub(super) fn is_windowed(&self) -> bool {
        match &self.source {
            Source::Window { .. } => true,
            Source::Group(g) => g.policy.over.is_some(),
            _ => false,
        }
    }

    /// Brings a windowed value to the moment for one reader; others learn of a change when it is [`Slot::due`].
    /// A metric that is computed `every` so often keeps its value in between.
    pub(super) fn peek(&mut self, now: Timestamp) {
        let (every, computed) = match &self.source {
            Source::Window { policy, computed, .. } => (policy.every, *computed),
            Source::Group(g) if g.policy.over.is_some() || !g.stale.is_empty() => {
                (g.policy.every, g.computed)
            }
            _ => return,
        };
        if let (Some(every), Some(last)) = (every, computed)
            && now.since(last) < every
        {
            return;
        }
        let (value, known) = (self.held.value, self.held.missing.is_none());
        self.refresh(now);
        self.waiting |= value != self.held.value || known != self.held.missing.is_none();
    }

    /// When the value changes by the mere passing of time, if somebody wants to know.
    pub(super) fn due(&self) -> Option<Timestamp> {
        if !self.needed {
            return None;
        }
        if let Source::Stream(flow) = &self.source {
            return flow.next;
        }
        let (over, every, computed, expiry) = match &self.source {
            Source::Window { window, policy, computed, .. } => {
                let ages = policy.aggregate == Aggregate::Age && self.held.missing.is_none();
                let expiry = if ages { computed.map(|c| c.after(AGE_STEP)) } else { window.next_expiry() };
                (policy.over, policy.every, *computed, expiry)
            }
            Source::Group(g) => (g.policy.over, g.policy.every, g.computed, g.expiry()),
            _ => return None,
        };
        // What arrived since the last computation waits for `every`; what expires waits for a step of the window.
        let step = every.or(over.map(|o| o / EXPIRY_STEPS)).unwrap_or_default();
        let soonest = computed.map(|c| c.after(step));
        match (expiry, self.waiting) {
            (_, true) => soonest,
            (Some(expiry), false) => Some(soonest.map_or(expiry, |s| s.max(expiry))),
            (None, false) => None,
        }
    }

    pub(super) fn needed_itself(&self) -> bool {
        !self.consumers.is_empty() || self.observed
    }

    /// Whether what the slot holds may serve a reader who asks for `max_age`.
    pub(super) fn young(&self, max_age: Option<Duration>, now: Timestamp) -> bool {
        let fed = match &self.source {
            Source::Sensor { insistent, .. } => *insistent || self.needed,
            Source::Remote { .. } => self.needed,
            _ => true,
        };
        match max_age {
            None => fed && (self.held.missing.is_none() || matches!(self.source, Source::Remote { .. })),
            Some(limit) => self.held.missing.is_none() && now.since(self.held.at) <= limit,
        }
    }

    pub(super) fn family(&self) -> &[(Arc<str>, f64)] {
        self.family.as_deref().map_or(&[], Vec::as_slice)
    }

    pub(super) fn set_family(&mut self, mut family: Vec<(Arc<str>, f64)>) {
        if family.is_empty() && self.family.is_none() {
            return;
        }
        family.retain(|(_, value)| value.is_finite());
        family.truncate(MAX_FAMILY);
        self.family = Some(Box::new(family));
    }

    pub(super) fn kind(&self) -> String {
        match &self.source {
            Source::Sensor { spec, .. } => spec.protocol().to_string(),
            Source::Output => "output".into(),
            Source::Remote { .. } => "remote".into(),
            Source::Expression { .. } => "expression".into(),
            Source::Window { .. } => "window".into(),
            Source::Group(_) => "group".into(),
            Source::Stream(_) => "stream".into(),
            Source::Results { .. } => "results".into(),
            Source::Published => "published".into(),
        }
    }

    /// Takes what the newest window of a stream came to.
    pub(super) fn settle(&mut self, evaluated: &Evaluated) {
        let Source::Stream(flow) = &mut self.source else { return };
        let results = &evaluated.results;
        flow.newest = Some((evaluated.until, results.len()));
        let many = flow.policy.grouping.by.is_some() || flow.policy.aggregates.is_empty();
        self.held = match results.last() {
            None => Held::missing(MissingReason::EmptyWindow),
            Some(last) => Held { value: last.value, missing: None, at: last.at, stale_at: None },
        };
        let family = match many {
            true => results.iter().take(MAX_FAMILY).map(|r| (r.resource.clone(), r.value)).collect(),
            false => Vec::new(),
        };
        self.set_family(family);
    }

    pub(super) fn info(&self, name: String, reading: Reading) -> MetricInfo {
        let definition = match &self.source {
            Source::Expression { expression, .. } => expression.source.to_string(),
            Source::Window { policy, .. } => format!(
                "{} of {}{}",
                policy.aggregate,
                policy.of,
                policy.over.map(|o| format!(" over {}", crate::model::HumanDuration(o))).unwrap_or_default()
            ),
            Source::Group(g) => {
                format!("{} of {} from {} member(s)", g.policy.aggregate, g.policy.of, g.members.len())
            }
            Source::Stream(flow) => stream_text(&flow.policy),
            _ => self.kind(),
        };
        MetricInfo {
            name,
            kind: self.kind(),
            definition,
            unit: self.unit.as_deref().map(str::to_string),
            reading,
        }
    }
}

fn stream_text(policy: &StreamPolicy) -> String {
    let over = crate::model::HumanDuration(policy.over);
    let how = match (&policy.value, policy.aggregates.first()) {
        (Some(expression), _) => expression.source.to_string(),
        (None, Some(aggregate)) => aggregate.to_string(),
        (None, None) => "data".into(),
    };
    let by = policy.grouping.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
    let having = policy.having.as_ref().map(|h| format!(" having {}", h.source)).unwrap_or_default();
    format!(
        "{how} of {}{by} over {over} every {}{having}",
        policy.of,
        crate::model::HumanDuration(policy.every)
    )
}

fn evaluate(
    expression: &Expression,
    inputs: &[Option<SlotId>],
    before: &[Slot],
    scratch: &mut Vec<Option<f64>>,
    held: &mut Held,
) {
    scratch.clear();
    let mut at = None::<Timestamp>;
    let mut stale_at = None::<Timestamp>;
    for input in inputs {
        let value = input.and_then(|slot| {
            let h = &before[slot as usize].held;
            let value = h.known()?;
            at = Some(at.map_or(h.at, |a| a.min(h.at)));
            stale_at = match (stale_at, h.stale_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            Some(value)
        });
        scratch.push(value);
    }
    let reason = match expression.eval(scratch) {
        Ok(value) => {
            *held = Held { value, missing: None, at: at.unwrap_or(TIMELESS), stale_at };
            return;
        }
        Err(EvalError::MissingInput(number)) => {
            let path = expression.inputs.get(number).map(ToString::to_string).unwrap_or_default();
            let why = match inputs.get(number).copied().flatten() {
                Some(slot) => {
                    before[slot as usize].held.missing.as_deref().cloned().unwrap_or(MissingReason::NoSample)
                }
                None => MissingReason::NoSuchMetric(path.clone()),
            };
            // Name the root cause once, however long the chain of expressions is.
            match why {
                deep @ MissingReason::Input(..) => deep,
                why => MissingReason::Input(path, Box::new(why)),
            }
        }
        Err(EvalError::NotFinite) => MissingReason::NotFinite(expression.source.to_string()),
    };
    if held.missing.as_deref() != Some(&reason) {
        *held = Held::missing(reason);
    }
}

/// Whether the policy of a sensor itself says how often it is read.
fn says_every(spec: &SensorSpec) -> bool {
    match spec {
        SensorSpec::Push(_) | SensorSpec::Udp(_) | SensorSpec::Statsd(_) | SensorSpec::Collectd(_) => true,
        SensorSpec::Collect(_) => false,
        SensorSpec::Host(s) => s.every.is_some(),
        SensorSpec::Process(s) => s.every.is_some(),
        SensorSpec::Http(s) => s.every.is_some(),
        SensorSpec::Exec(s) => s.every.is_some(),
        SensorSpec::Nagios(s) => s.every.is_some(),
        SensorSpec::Ping(s) => s.every.is_some(),
        SensorSpec::Prometheus(s) => s.every.is_some(),
        SensorSpec::Proxy(s) => s.what == ProxyQuantity::ResponseTime || s.every.is_some(),
        SensorSpec::Property(s) => s.every.is_some(),
        SensorSpec::Custom(s) => s.every.is_some(),
    }
}
