//! Streams: data of many resources over a sliding time window, aggregated by what the resource model says of them at that moment
//! (R2-09: RANGE and STEP as in C-SPARQL, joined with the model when the window is evaluated, not when a datum arrives).
//!
//! A stream is a log in the order of arrival. One evaluation is one pass over it: data are added up by resource, and resources by group, so
//! that what the model says is looked up once per resource, however many data it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::resources::Resources;
use crate::model::{Aggregate, Datum, Selector, Timestamp};

/// How many data one stream holds at most (24 bytes each); what comes beyond is refused.
pub const MAX_DATA: usize = 20_000_000;

/// What a result over all resources is said of (formats of Tower 4Clouds, 2.1).
pub const ALL: &str = "ALL";

/// Whose data count, and what they are grouped by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grouping {
    /// The resources that any of these selects; none given: all, known or not.
    pub from: Vec<Selector>,
    /// The class that results are grouped by (see [`Resources::upward`]), or `class`, `type` or `id`; absent: one result over all.
    pub by: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: Timestamp,
    value: f64,
    resource: u32,
}

/// Where the data of a resource count.
#[derive(Debug, Clone)]
enum Place {
    /// Not looked up since the model changed.
    Unknown,
    Out,
    /// In one group, as nearly all are: kept here, so that nothing else has to be looked up.
    One([u32; 1]),
    Many(Box<[u32]>),
}

impl Place {
    /// The groups, where it is in some.
    fn groups(&self) -> Option<&[u32]> {
        match self {
            Self::Unknown | Self::Out => None,
            Self::One(group) => Some(group),
            Self::Many(groups) => Some(groups),
        }
    }
}

/// Data of many resources.
#[derive(Debug, Default)]
pub struct Stream {
    log: VecDeque<Entry>,
    /// What was evaluated last: nothing that comes later is older.
    evaluated: Timestamp,
    names: Vec<Arc<str>>,
    numbers: FxHashMap<Arc<str>, u32>,
    /// By resource.
    places: Vec<Place>,
    groups: Vec<Arc<str>>,
    group_numbers: FxHashMap<Arc<str>, u32>,
    /// The version of the model that `places` were looked up in.
    version: Option<u64>,
}

/// Results of an evaluation, by group in the order in which groups were met first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// The groups, by number; [`Stream::label`] says what they are called.
    pub groups: Vec<u32>,
    /// The time of the newest datum of each group.
    pub at: Vec<Timestamp>,
    /// Of each group, one value per aggregate that was asked for; not finite where there is none.
    pub values: Vec<f64>,
}

/// What can be added up without keeping the values.
#[derive(Debug, Clone, Copy)]
struct Total {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    at: Timestamp,
}

impl Total {
    const NOTHING: Self =
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, at: Timestamp(i64::MIN) };

    fn add(&mut self, entry: &Entry) {
        self.count += 1;
        self.sum += entry.value;
        self.min = self.min.min(entry.value);
        self.max = self.max.max(entry.value);
        self.at = entry.at;
    }

    fn join(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.at = self.at.max(other.at);
    }
}

/// Whether `aggregate` has a meaning over a stream: the sum, mean, extremes, number, spread and percentiles of a window's values.
pub fn supports(aggregate: Aggregate) -> bool {
    matches!(
        aggregate,
        Aggregate::Avg
            | Aggregate::Sum
            | Aggregate::Min
            | Aggregate::Max
            | Aggregate::Count
            | Aggregate::Stddev
            | Aggregate::Percentile { .. }
    )
}

fn needs_values(aggregate: Aggregate) -> bool {
    matches!(aggregate, Aggregate::Stddev | Aggregate::Percentile { .. })
}

impl Stream {
    /// A stream whose first window begins at `now`.
    pub fn begin(now: Timestamp) -> Self {
        Self { evaluated: now, ..Self::default() }
    }

    /// Takes a datum. It never counts as older than the one before it, nor as part of what was evaluated already: what waited on its way is
    /// counted late, not lost. `false`: the stream is full, or the value is not finite.
    pub fn insert(&mut self, datum: &Datum) -> bool {
        if self.log.len() >= MAX_DATA || !datum.value.is_finite() {
            return false;
        }
        let after = Timestamp(self.evaluated.0.saturating_add(1));
        let least = self.log.back().map_or(after, |last| last.at.max(after));
        let resource = match self.numbers.get(&datum.resource) {
            Some(number) => *number,
            None => {
                let number = self.names.len() as u32;
                self.names.push(datum.resource.clone());
                self.numbers.insert(datum.resource.clone(), number);
                self.places.push(Place::Unknown);
                number
            }
        };
        self.log.push_back(Entry { at: datum.at.max(least), value: datum.value, resource });
        true
    }

    /// How many data it holds.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Evaluates the window that ends at `until`: aggregates of the data in `(until - over, until]`. Groups without data have no row.
    pub fn rows(
        &mut self,
        until: Timestamp,
        over: Duration,
        grouping: &Grouping,
        aggregates: &[Aggregate],
        model: &Resources,
    ) -> Rows {
        self.prepare(until, over, grouping, model);
        let mut totals = vec![Total::NOTHING; self.names.len()];
        for entry in self.log.iter().take_while(|entry| entry.at <= until) {
            totals[entry.resource as usize].add(entry);
        }
        self.look_up(|resource| totals[resource].count > 0, grouping, model);
        let mut by_group = vec![Total::NOTHING; self.groups.len()];
        for (total, place) in totals.iter().zip(&self.places).filter(|(total, _)| total.count > 0) {
            if let Some(groups) = place.groups() {
                for group in groups {
                    by_group[*group as usize].join(total);
                }
            }
        }
        let mut values = match aggregates.iter().any(|a| needs_values(*a)) {
            true => self.values(until, &by_group),
            false => Vec::new(),
        };
        let mut rows = Rows::default();
        let mut begin = 0;
        let filled = by_group.iter().filter(|total| total.count > 0).count();
        rows.groups.reserve_exact(filled);
        rows.at.reserve_exact(filled);
        rows.values.reserve_exact(filled * aggregates.len());
        for (group, total) in by_group.iter().enumerate() {
            let end = begin + if values.is_empty() { 0 } else { total.count as usize };
            if total.count > 0 {
                rows.groups.push(group as u32);
                rows.at.push(total.at);
                rows.values.extend(aggregates.iter().map(|a| aggregated(*a, total, &mut values[begin..end])));
            }
            begin = end;
        }
        rows
    }

    /// The label of a group, by its number in [`Rows`].
    pub fn label(&self, group: u32) -> &Arc<str> {
        &self.groups[group as usize]
    }

    /// The data of the window that ends at `until`, each by itself: its resource, value and time.
    pub fn data(
        &mut self,
        until: Timestamp,
        over: Duration,
        grouping: &Grouping,
        model: &Resources,
    ) -> impl Iterator<Item = (&Arc<str>, f64, Timestamp)> {
        self.prepare(until, over, grouping, model);
        self.look_up(|_| true, grouping, model);
        self.log
            .iter()
            .take_while(move |entry| entry.at <= until)
            .filter(|entry| self.places[entry.resource as usize].groups().is_some())
            .map(|entry| (&self.names[entry.resource as usize], entry.value, entry.at))
    }

    /// Drops the data that are not later than this: no window to come holds them.
    pub fn forget(&mut self, until: Timestamp) {
        while self.log.front().is_some_and(|entry| entry.at <= until) {
            self.log.pop_front();
        }
    }

    /// Drops what no window can hold any more, and what was looked up in another model.
    fn prepare(&mut self, until: Timestamp, over: Duration, grouping: &Grouping, model: &Resources) {
        self.forget(until.before(over));
        self.evaluated = self.evaluated.max(until);
        if self.names.len() > self.log.len() {
            self.forget_names();
        }
        if self.version != Some(model.version()) {
            self.version = Some(model.version());
            self.places.fill(Place::Unknown);
            self.groups.clear();
            self.group_numbers.clear();
        }
        if grouping.by.is_none() && self.groups.is_empty() {
            self.groups.push(ALL.into());
        }
    }

    /// Forgets the resources that have no data any more: they come and go, and a stream with more names than data has some.
    fn forget_names(&mut self) {
        let before = std::mem::take(&mut self.names);
        let mut renumbered = vec![None; before.len()];
        self.numbers.clear();
        for entry in &mut self.log {
            let old = entry.resource as usize;
            entry.resource = *renumbered[old].get_or_insert_with(|| {
                let number = self.names.len() as u32;
                self.names.push(before[old].clone());
                self.numbers.insert(before[old].clone(), number);
                number
            });
        }
        self.places = vec![Place::Unknown; self.names.len()];
        self.groups.clear();
        self.group_numbers.clear();
    }

    fn look_up(&mut self, wanted: impl Fn(usize) -> bool, grouping: &Grouping, model: &Resources) {
        for resource in 0..self.places.len() {
            if matches!(self.places[resource], Place::Unknown) && wanted(resource) {
                self.places[resource] = self.place(resource, grouping, model);
            }
        }
    }

    fn place(&mut self, resource: usize, grouping: &Grouping, model: &Resources) -> Place {
        let id = self.names[resource].clone();
        let known = model.get(&id);
        let selected = grouping.from.is_empty()
            || known.is_some_and(|known| grouping.from.iter().any(|selector| selector.matches(known)));
        if !selected {
            return Place::Out;
        }
        let Some(by) = grouping.by.as_deref() else { return Place::One([0]) };
        let one = |value: Option<&String>| value.map(|v| v.as_str().into()).into_iter().collect();
        let labels: Vec<Arc<str>> = match by {
            "id" => vec![id],
            "class" => one(known.and_then(|k| k.class.as_ref())),
            "type" => one(known.and_then(|k| k.kind.as_ref())),
            class => model.upward(&id, class),
        };
        if labels.is_empty() {
            return Place::Out;
        }
        // A resource that is its own group lends its name, which many streams share.
        let own = &self.names[resource].clone();
        let shared = labels.into_iter().map(|label| if label == *own { own.clone() } else { label });
        match shared.map(|label| self.group(label)).collect::<Vec<u32>>().as_slice() {
            [one] => Place::One([*one]),
            several => Place::Many(several.into()),
        }
    }

    fn group(&mut self, label: Arc<str>) -> u32 {
        *self.group_numbers.entry(label).or_insert_with_key(|label| {
            self.groups.push(label.clone());
            self.groups.len() as u32 - 1
        })
    }

    /// The values of each group, one group after the other, as many as `totals` counted.
    fn values(&self, until: Timestamp, totals: &[Total]) -> Vec<f64> {
        let mut next = Vec::with_capacity(totals.len());
        let mut sum = 0;
        for total in totals {
            next.push(sum);
            sum += total.count as usize;
        }
        let mut values = vec![0.0; sum];
        for entry in self.log.iter().take_while(|entry| entry.at <= until) {
            if let Some(groups) = self.places[entry.resource as usize].groups() {
                for group in groups {
                    let place = &mut next[*group as usize];
                    values[*place] = entry.value;
                    *place += 1;
                }
            }
        }
        values
    }
}

/// One aggregate of one group; `values` are there when it needs them, and change their order.
fn aggregated(aggregate: Aggregate, total: &Total, values: &mut [f64]) -> f64 {
    let count = total.count as f64;
    match aggregate {
        Aggregate::Avg => total.sum / count,
        Aggregate::Sum => total.sum,
        Aggregate::Min => total.min,
        Aggregate::Max => total.max,
        Aggregate::Count => count,
        Aggregate::Stddev => {
            let mean = total.sum / count;
            (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
        }
        Aggregate::Percentile { rank, interpolated } => percentile(values, rank, interpolated),
        _ => f64::NAN,
    }
}

/// The nearest-rank percentile, or the linear interpolation between closest ranks.
fn percentile(values: &mut [f64], rank: f64, interpolated: bool) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    if interpolated {
        let place = rank / 100.0 * last as f64;
        let below = place.floor() as usize;
        let (_, low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(*low);
        return *low + (high - *low) * (place - below as f64);
    }
    // The product may be off by a rounding: 99 % of 100 is the 99th, not the 100th.
    let nth = (rank * values.len() as f64 / 100.0 - 1e-9).ceil().max(1.0) as usize - 1;
    *values.select_nth_unstable_by(nth.min(last), f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Resource;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn datum(resource: &str, value: f64, seconds: i64) -> Datum {
        Datum { resource: resource.into(), value, at: at(seconds) }
    }

    fn resource(id: &str, class: &str, relations: &[(&str, &str)]) -> Resource {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (relation, target) in relations {
            map.entry(relation.to_string()).or_default().push(target.to_string());
        }
        Resource { id: id.into(), class: Some(class.into()), relations: map, ..Resource::default() }
    }

    fn model(resources: impl IntoIterator<Item = Resource>) -> Resources {
        let mut model = Resources::new();
        for resource in resources {
            model.insert(resource);
        }
        model
    }

    fn by(class: &str) -> Grouping {
        Grouping { from: Vec::new(), by: Some(class.into()) }
    }

    fn one(data: impl IntoIterator<Item = f64>, aggregate: &str) -> f64 {
        let mut stream = Stream::default();
        for value in data {
            assert!(stream.insert(&datum("vm1", value, 1)));
        }
        let aggregate = Aggregate::parse(aggregate).unwrap();
        let over = Duration::from_secs(60);
        stream.rows(at(60), over, &Grouping::default(), &[aggregate], &Resources::new()).values[0]
    }

    /// Requirement: R2-19, R2-20, R2-21, R2-22, R2-23, R2-24
    #[test]
    fn one_to_a_hundred_has_the_aggregates_of_the_book() {
        let data = || (1..=100).map(f64::from);
        for (aggregate, want) in [
            ("avg", 50.5),
            ("p99", 99.0),
            ("p99 interpolated", 99.01),
            ("p1", 1.0),
            ("p100", 100.0),
            ("sum", 5050.0),
            ("count", 100.0),
            ("max", 100.0),
            ("min", 1.0),
        ] {
            assert!((one(data(), aggregate) - want).abs() < 1e-9, "{aggregate}: {}", one(data(), aggregate));
        }
    }

    /// Requirement: R2-09
    #[test]
    fn with_a_window_of_two_steps_every_datum_counts_in_two_results() {
        let mut stream = Stream::default();
        let (over, everything, model) = (Duration::from_secs(10), Grouping::default(), Resources::new());
        let mut counts = Vec::new();
        let mut next = 5;
        for second in 1..=20 {
            stream.insert(&datum("vm1", 1.0, second));
            if second == next {
                let rows = stream.rows(at(second), over, &everything, &[Aggregate::Count], &model);
                counts.push(rows.values[0]);
                next += 5;
            }
        }
        assert_eq!(counts, [5.0, 10.0, 10.0, 10.0]);
        assert_eq!(stream.rows(at(40), over, &everything, &[Aggregate::Count], &model), Rows::default());
    }

    #[test]
    fn what_waited_on_its_way_is_counted_late_and_not_lost() {
        let mut stream = Stream::default();
        let (over, everything, model) = (Duration::from_secs(5), Grouping::default(), Resources::new());
        stream.rows(at(5), over, &everything, &[Aggregate::Count], &model);
        stream.insert(&datum("vm1", 1.0, 4));
        assert_eq!(stream.rows(at(10), over, &everything, &[Aggregate::Count], &model).values, [1.0]);
    }

    /// Requirement: R2-14, R2-25
    #[test]
    fn data_are_grouped_by_what_the_model_says_when_they_are_evaluated() {
        let mut stream = Stream::default();
        for (vm, value) in [("vm1", 10.0), ("vm2", 20.0), ("vm3", 30.0)] {
            stream.insert(&datum(vm, value, 1));
        }
        let mut model = model([
            resource("vm1", "VM", &[("cloudProvider", "amazon")]),
            resource("vm2", "VM", &[("cloudProvider", "amazon")]),
            resource("amazon", "CloudProvider", &[]),
        ]);
        let over = Duration::from_secs(60);
        let mut evaluate = |model: &Resources| {
            let rows = stream.rows(at(10), over, &by("CloudProvider"), &[Aggregate::Avg], model);
            let label = |group: &u32| stream.label(*group).to_string();
            rows.groups.iter().map(label).zip(rows.values).collect::<Vec<_>>()
        };
        assert_eq!(evaluate(&model), [("amazon".to_string(), 15.0)], "vm3 is in no cloud");
        // A provider that is only named, and not a resource itself.
        model.insert(resource("vm3", "VM", &[("cloudProvider", "flexiant")]));
        assert_eq!(evaluate(&model), [("amazon".to_string(), 15.0), ("flexiant".to_string(), 30.0)]);
        model.insert(resource("vm2", "VM", &[("cloudProvider", "flexiant")]));
        assert_eq!(evaluate(&model), [("amazon".to_string(), 10.0), ("flexiant".to_string(), 25.0)]);
    }

    #[test]
    fn resources_that_come_and_go_leave_nothing_behind() {
        let mut stream = Stream::default();
        let (over, model) = (Duration::from_secs(10), Resources::new());
        let by_id = Grouping { from: Vec::new(), by: Some("id".into()) };
        for step in 1..=100 {
            for n in 0..10 {
                stream.insert(&datum(&format!("vm{step}-{n}"), 1.0, step * 10 - 5));
            }
            stream.insert(&datum("stays", 1.0, step * 10 - 5));
            let rows = stream.rows(at(step * 10), over, &by_id, &[Aggregate::Count], &model);
            assert_eq!(rows.values, [1.0; 11]);
            assert!(rows.groups.iter().any(|group| &**stream.label(*group) == "stays"));
            stream.forget(at(step * 10));
            assert!(stream.names.len() <= 22 && stream.groups.len() <= 22, "{}", stream.names.len());
        }
    }

    proptest! {
        #[test]
        fn a_stream_is_what_looking_at_all_data_says(
            data in prop::collection::vec((0_usize..6, -1e6..1e6_f64, 0_i64..4), 1..200),
            over in 1_i64..40, every in 1_i64..20,
        ) {
            let model = model((0..5).map(|n| {
                resource(&format!("vm{n}"), "VM", &[("cloudProvider", if n % 2 == 0 { "a" } else { "b" })])
            }));
            let aggregates: Vec<Aggregate> =
                ["avg", "sum", "min", "max", "count", "p50", "stddev"].map(|a| Aggregate::parse(a).unwrap()).to_vec();
            let (mut stream, mut all, mut now, mut step) = (Stream::default(), Vec::new(), 1, every);
            for (vm, value, later) in data {
                now += later;
                while step < now {
                    check(&mut stream, &all, step, over, &aggregates, &model)?;
                    step += every;
                }
                stream.insert(&datum(&format!("vm{vm}"), value, now));
                all.push((vm, value, now));
            }
        }
    }

    fn check(
        stream: &mut Stream,
        all: &[(usize, f64, i64)],
        step: i64,
        over: i64,
        aggregates: &[Aggregate],
        model: &Resources,
    ) -> Result<(), TestCaseError> {
        let length = Duration::from_secs(over as u64);
        let rows = stream.rows(at(step), length, &by("CloudProvider"), aggregates, model);
        let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (vm, value, when) in all {
            if *vm < 5 && *when <= step && *when > step - over {
                groups.entry(if vm % 2 == 0 { "a" } else { "b" }).or_default().push(*value);
            }
        }
        prop_assert_eq!(rows.groups.len(), groups.len());
        for (n, group) in rows.groups.iter().enumerate() {
            let values = groups.get_mut(&**stream.label(*group)).expect("a group that has data");
            values.sort_by(f64::total_cmp);
            let count = values.len() as f64;
            let sum: f64 = values.iter().sum();
            let spread = values.iter().map(|v| (v - sum / count).powi(2)).sum::<f64>() / count;
            let want = [
                sum / count,
                sum,
                values[0],
                values[values.len() - 1],
                count,
                values[values.len().div_ceil(2) - 1],
                spread.sqrt(),
            ];
            for (k, want) in want.into_iter().enumerate() {
                let have = rows.values[n * aggregates.len() + k];
                prop_assert!(
                    (have - want).abs() <= 1e-6 * want.abs().max(1.0),
                    "{}: {have} is not {want}",
                    aggregates[k]
                );
            }
        }
        Ok(())
    }
}
