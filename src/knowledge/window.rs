//! Sliding windows: aggregates over the samples of the last `over`, at a cost per sample that does not grow with the window.
//!
//! - `avg`, `sum`, `min`, `max`, `stddev`, `rate` and windowed `ewma` use two stacks (Tangwongsan, Hirzel, Schneider, "Low-latency sliding-window
//!   aggregation in worst-case constant time", 2017, section on two-stacks): each sample is joined three times in its life, amortised constant time.
//! - Percentiles are exact: the samples are also kept in order (`sorted.rs`), where a sample costs about the logarithm of their number.
//! - `count`, `delta`, `last` and `age` need only the samples' ends.
//!
//! Nothing is ever subtracted, so no rounding error outlives the sample that caused it.

use std::collections::VecDeque;
use std::time::Duration;

use super::sorted::Sorted;
use super::summary::{Decay, Extreme, Growth, Spread, Summary, Total};
use crate::model::{Aggregate, Timestamp};

/// The most samples in one window. When one more arrives, the oldest leaves early and is counted by [`Window::dropped`].
/// A full window takes about 4 MB.
pub const MAX_SAMPLES: usize = 100_000;

/// Below this capacity, memory is not given back while samples remain.
const KEPT_CAPACITY: usize = 1_024;

/// The samples of the last `over` and their aggregate.
///
/// - A sample exactly `over` old is in; one that is older is out.
/// - Without `over`, `ewma` runs over every sample that ever came, `last` and `age` are about the newest, and only the newest sample is
///   held; the other aggregates are over the newest [`MAX_SAMPLES`].
/// - Values that are not finite are no samples: [`Window::insert`] ignores them.
/// - Samples come in the order of their times. Should one be older than the newest, it counts as being as new as that.
/// - An empty window has no value, not even `count` or `sum`: nothing measured is not zero.
/// - A result that is not finite (a sum beyond the range of `f64`) is no value; it comes back as soon as the result is finite again.
#[derive(Debug, Clone)]
pub struct Window {
    aggregate: Aggregate,
    over: Option<Duration>,
    samples: VecDeque<(Timestamp, f64)>,
    state: State,
    dropped: u64,
}

/// What is kept besides the samples.
#[derive(Debug, Clone)]
enum State {
    /// Nothing: `count`, `delta`, `last`, `age`.
    Ends,
    /// `avg`, `sum`.
    Total(Stacks<Total>),
    /// `min`, `max`.
    Extreme(Stacks<Extreme>),
    /// `stddev`.
    Spread(Stacks<Spread>),
    /// `rate`.
    Growth(Stacks<Growth>),
    /// `ewma` with a window.
    Decay(Stacks<Decay>),
    /// `ewma` without one.
    Running(Decay, Option<f64>),
    /// Percentiles.
    Sorted(Sorted),
}

/// Runs `$body` on whichever stacks `$state` is.
macro_rules! on_stacks {
    ($state:expr, $stacks:ident => $body:expr, $($other:pat => $instead:expr),+) => {
        match $state {
            State::Total($stacks) => $body,
            State::Extreme($stacks) => $body,
            State::Spread($stacks) => $body,
            State::Growth($stacks) => $body,
            State::Decay($stacks) => $body,
            $($other => $instead),+
        }
    };
}

impl State {
    fn new(aggregate: Aggregate, over: Option<Duration>) -> Self {
        match aggregate {
            Aggregate::Avg => Self::Total(Stacks::new(Total { mean: true })),
            Aggregate::Sum => Self::Total(Stacks::new(Total { mean: false })),
            Aggregate::Min => Self::Extreme(Stacks::new(Extreme { largest: false })),
            Aggregate::Max => Self::Extreme(Stacks::new(Extreme { largest: true })),
            Aggregate::Stddev => Self::Spread(Stacks::new(Spread)),
            Aggregate::Rate => Self::Growth(Stacks::new(Growth)),
            Aggregate::Ewma { gain, single } if over.is_some() => {
                Self::Decay(Stacks::new(Decay { gain, single }))
            }
            Aggregate::Ewma { gain, single } => Self::Running(Decay { gain, single }, None),
            Aggregate::Percentile { .. } => Self::Sorted(Sorted::default()),
            Aggregate::Count | Aggregate::Delta | Aggregate::Last | Aggregate::Age => Self::Ends,
        }
    }

    fn insert(&mut self, value: f64) {
        on_stacks!(self, stacks => stacks.push(value),
            Self::Ends => {},
            Self::Sorted(sorted) => sorted.insert(value),
            Self::Running(decay, average) => {
                *average = Some(average.map_or_else(|| decay.first(value), |before| decay.step(before, value)));
            }
        );
    }

    /// Forgets the oldest of `samples`, which is still among them.
    fn forget_oldest(&mut self, samples: &VecDeque<(Timestamp, f64)>) {
        on_stacks!(self, stacks => stacks.pop(samples),
            Self::Sorted(sorted) => if let Some((_, value)) = samples.front() { sorted.remove(*value) },
            Self::Ends | Self::Running(..) => {}
        );
    }
}

/// The two stacks. `front` holds, for the oldest samples, the part from each of them to the last of `front`, the oldest on top;
/// `back` is the part of the rest.
#[derive(Debug, Clone)]
struct Stacks<S: Summary> {
    summary: S,
    front: Vec<S::Part>,
    back: Option<S::Part>,
}

impl<S: Summary> Stacks<S> {
    fn new(summary: S) -> Self {
        Self { summary, front: Vec::new(), back: None }
    }

    fn push(&mut self, value: f64) {
        let part = self.summary.of(value);
        self.back = Some(self.back.map_or(part, |back| self.summary.join(back, part)));
    }

    fn pop(&mut self, samples: &VecDeque<(Timestamp, f64)>) {
        if self.front.is_empty() {
            self.flip(samples);
        }
        self.front.pop();
        if self.front.is_empty() && self.front.capacity() > KEPT_CAPACITY.max(4 * samples.len()) {
            self.front = Vec::new();
        }
    }

    /// Moves every sample to the front; amortised over them, constant time.
    fn flip(&mut self, samples: &VecDeque<(Timestamp, f64)>) {
        self.back = None;
        self.front.reserve_exact(samples.len());
        let mut later: Option<S::Part> = None;
        for (_, value) in samples.iter().rev() {
            let part = self.summary.of(*value);
            let part = later.map_or(part, |later| self.summary.join(part, later));
            self.front.push(part);
            later = Some(part);
        }
    }

    fn result(&self, count: usize) -> Option<f64> {
        let part = match (self.front.last(), self.back) {
            (Some(front), Some(back)) => self.summary.join(*front, back),
            (Some(front), None) => *front,
            (None, back) => back?,
        };
        Some(self.summary.result(part, count))
    }
}

impl Window {
    /// An empty window over the last `over`; it allocates nothing until a sample comes.
    pub fn new(aggregate: Aggregate, over: Option<Duration>) -> Self {
        Self { aggregate, over, samples: VecDeque::new(), state: State::new(aggregate, over), dropped: 0 }
    }

    /// Adds a sample, and lets go of those that are too old at its time.
    pub fn insert(&mut self, at: Timestamp, value: f64) {
        if !value.is_finite() {
            return;
        }
        let at = self.newest().map_or(at, |newest| newest.max(at));
        if self.keeps_only_newest() {
            self.samples.clear();
        } else {
            self.expire(at);
            if self.samples.len() >= MAX_SAMPLES {
                self.pop();
                self.dropped += 1;
            }
        }
        self.samples.push_back((at, value));
        self.state.insert(value);
    }

    /// The aggregate at `now`, after letting go of what is too old; `None` when the window is empty or the result is not finite.
    ///
    /// `now` before the newest sample counts as the time of that sample. `rate` also needs two samples at different times;
    /// `delta` and `stddev` of one sample are 0. Units: those of the samples; `rate` per second, `age` seconds, `count` none.
    pub fn value(&mut self, now: Timestamp) -> Option<f64> {
        self.expire(now);
        self.held(now).filter(|value| value.is_finite())
    }

    fn held(&self, now: Timestamp) -> Option<f64> {
        let (oldest, first) = *self.samples.front()?;
        let (newest, last) = *self.samples.back()?;
        let count = self.samples.len();
        match (&self.state, self.aggregate) {
            (State::Sorted(sorted), Aggregate::Percentile { rank, interpolated }) => {
                sorted.percentile(rank, interpolated)
            }
            (State::Running(_, average), _) => *average,
            (State::Growth(stacks), _) => {
                let span = newest.since(oldest);
                if span.is_zero() { None } else { Some(stacks.result(count)? / span.as_secs_f64()) }
            }
            (_, Aggregate::Count) => Some(count as f64),
            (_, Aggregate::Delta) => Some(last - first),
            (_, Aggregate::Last) => Some(last),
            (_, Aggregate::Age) => Some(now.since(newest).as_secs_f64()),
            (state, _) => on_stacks!(state, stacks => stacks.result(count), _ => None),
        }
    }

    /// The first instant at which the oldest sample is out (one microsecond after it is exactly `over` old), which is when the value
    /// may change without a new sample. `None` when the window is empty or has no end.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let leaves = self.samples.front()?.0.after(self.over?);
        Some(leaves.after(Duration::from_micros(1)))
    }

    /// The time of the oldest sample that the value is computed from; for `last`, `age` and `ewma` without a window, of the newest.
    pub fn oldest(&self) -> Option<Timestamp> {
        match self.aggregate {
            Aggregate::Last | Aggregate::Age => self.newest(),
            _ => self.samples.front().map(|(at, _)| *at),
        }
    }

    /// The time of the newest sample.
    pub fn newest(&self) -> Option<Timestamp> {
        self.samples.back().map(|(at, _)| *at)
    }

    /// The window with another aggregate or length, with the samples that it holds: a window that grows from 5 m to 10 m fills up from
    /// what it has. `ewma` without a window keeps its average when only the gain changes.
    pub fn reshape(self, aggregate: Aggregate, over: Option<Duration>) -> Window {
        let mut next = Window { dropped: self.dropped, ..Window::new(aggregate, over) };
        match (&mut next.state, self.state) {
            (State::Sorted(to), State::Sorted(from)) => {
                *to = from;
                next.samples = self.samples;
            }
            (State::Running(_, to), State::Running(_, from)) => {
                *to = from;
                next.samples = self.samples;
            }
            _ => {
                for (at, value) in self.samples {
                    // Not `insert`: what is too old is decided when the time is known.
                    if next.keeps_only_newest() {
                        next.samples.clear();
                    }
                    next.samples.push_back((at, value));
                    next.state.insert(value);
                }
            }
        }
        next
    }

    /// How many samples are held, those that are too old by now included until the next [`Window::value`].
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether no sample is held.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// How many samples left early because the window was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How values are aggregated.
    pub fn aggregate(&self) -> Aggregate {
        self.aggregate
    }

    /// How far back.
    pub fn over(&self) -> Option<Duration> {
        self.over
    }

    fn keeps_only_newest(&self) -> bool {
        self.over.is_none()
            && matches!(self.aggregate, Aggregate::Ewma { .. } | Aggregate::Last | Aggregate::Age)
    }

    fn expire(&mut self, now: Timestamp) {
        let (Some(over), Some(newest)) = (self.over, self.newest()) else { return };
        let now = now.max(newest);
        while self.samples.front().is_some_and(|(at, _)| now.since(*at) > over) {
            self.pop();
        }
        let capacity = self.samples.capacity();
        if capacity > KEPT_CAPACITY && self.samples.len() < capacity / 8 {
            self.samples.shrink_to(2 * self.samples.len());
        }
    }

    fn pop(&mut self) {
        self.state.forget_oldest(&self.samples);
        self.samples.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Timestamp {
        Timestamp((seconds * 1e6) as i64)
    }

    /// The definition of every aggregate, over the samples of the window, oldest first.
    fn naive(aggregate: Aggregate, samples: &[(Timestamp, f64)], now: Timestamp) -> Option<f64> {
        let (first, last) = (samples.first()?, samples.last()?);
        let values: Vec<f64> = samples.iter().map(|s| s.1).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(match aggregate {
            Aggregate::Avg => mean,
            Aggregate::Sum => values.iter().sum(),
            Aggregate::Min => *sorted.first()?,
            Aggregate::Max => *sorted.last()?,
            Aggregate::Count => n,
            Aggregate::Delta => last.1 - first.1,
            Aggregate::Stddev => (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt(),
            Aggregate::Last => last.1,
            Aggregate::Age => now.since(last.0).as_secs_f64(),
            Aggregate::Rate => {
                let span = last.0.since(first.0).as_secs_f64();
                let grown: f64 =
                    values.windows(2).map(|w| if w[1] >= w[0] { w[1] - w[0] } else { w[1].max(0.0) }).sum();
                if span == 0.0 {
                    return None;
                }
                grown / span
            }
            Aggregate::Ewma { gain, .. } => {
                values[1..].iter().fold(values[0], |v, x| (x + gain * v) / (gain + 1.0))
            }
            Aggregate::Percentile { rank, interpolated: false } => {
                // The smallest value such that at least `rank` percent of all are at most as large.
                *sorted.iter().enumerate().find(|(i, _)| (*i as f64 + 1.0) * 100.0 >= rank * n - 1e-6)?.1
            }
            Aggregate::Percentile { rank, interpolated: true } => {
                let place = (n - 1.0) * rank / 100.0;
                let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
                low + (high - low) * (place - place.floor())
            }
        })
    }

    fn aggregates() -> impl Strategy<Value = Aggregate> {
        prop_oneof![
            Just(Aggregate::Avg),
            Just(Aggregate::Sum),
            Just(Aggregate::Min),
            Just(Aggregate::Max),
            Just(Aggregate::Count),
            Just(Aggregate::Rate),
            Just(Aggregate::Delta),
            Just(Aggregate::Stddev),
            Just(Aggregate::Last),
            Just(Aggregate::Age),
            (0.0..20.0).prop_map(|gain| Aggregate::Ewma { gain, single: false }),
            (1_u32..=1000, any::<bool>()).prop_map(|(rank, interpolated)| Aggregate::Percentile {
                rank: f64::from(rank) / 10.0,
                interpolated
            }),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert { after: u64, value: f64 },
        Ask { after: u64 },
        Reshape { aggregate: Aggregate, over: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (0_u64..5, prop_oneof![-1e6..1e6, (-5_i32..5).prop_map(f64::from)])
                .prop_map(|(after, value)| Step::Insert { after, value }),
            6 => (0_u64..40).prop_map(|after| Step::Ask { after }),
            1 => (aggregates(), 1_u64..60).prop_map(|(aggregate, over)| Step::Reshape { aggregate, over }),
        ];
        prop::collection::vec(step, 1..300)
    }

    fn close(a: f64, b: f64, scale: f64) -> bool {
        (a - b).abs() <= 1e-9 * scale.max(a.abs()).max(b.abs()).max(1.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        /// Requirement: R3-38
        #[test]
        fn a_window_is_the_aggregate_of_the_samples_in_it(
            aggregate in aggregates(), over in 1_u64..60, steps in steps(),
        ) {
            let (mut aggregate, mut over) = (aggregate, Duration::from_secs(over));
            let mut window = Window::new(aggregate, Some(over));
            let mut held: Vec<(Timestamp, f64)> = Vec::new();
            let mut now = Timestamp(0);
            for step in steps {
                match step {
                    Step::Insert { after, value } => {
                        now = now.after(Duration::from_secs(after));
                        window.insert(now, value);
                        held.push((now, value));
                        held.retain(|(at, _)| now.since(*at) <= over);
                    }
                    Step::Ask { after } => now = now.after(Duration::from_secs(after)),
                    Step::Reshape { aggregate: next, over: length } => {
                        (aggregate, over) = (next, Duration::from_secs(length));
                        window = window.reshape(aggregate, Some(over));
                    }
                }
                held.retain(|(at, _)| now.since(*at) <= over);
                let (have, want) = (window.value(now), naive(aggregate, &held, now));
                let scale = held.iter().map(|s| s.1.abs()).sum::<f64>();
                match (have, want) {
                    (Some(have), Some(want)) => {
                        prop_assert!(close(have, want, scale), "{aggregate}: {have} is not {want}");
                    }
                    (have, want) => prop_assert_eq!(have, want),
                }
                prop_assert_eq!(window.len(), held.len());
                let leaves = held.first().map(|(at, _)| Timestamp(at.0 + over.as_micros() as i64 + 1));
                prop_assert_eq!(window.next_expiry(), leaves);
            }
        }
    }

    #[test]
    fn an_empty_window_has_no_value() {
        for text in ["avg", "sum", "count", "min", "rate", "delta", "stddev", "ewma", "p99", "last", "age"] {
            let aggregate = Aggregate::parse(text).unwrap();
            let mut window = Window::new(aggregate, Some(SECOND));
            assert_eq!(window.value(at(1.0)), None, "{text}");
            window.insert(at(1.0), 7.0);
            window.insert(at(1.5), 8.0);
            assert!(window.value(at(2.0)).is_some(), "{text}");
            assert_eq!(window.value(at(3.0)), None, "{text}");
            assert_eq!(window.next_expiry(), None, "{text}");
        }
    }

    #[test]
    fn a_sample_exactly_as_old_as_the_window_is_in() {
        let mut window = Window::new(Aggregate::Count, Some(SECOND));
        window.insert(at(1.0), 1.0);
        assert_eq!(window.next_expiry(), Some(Timestamp(2_000_001)));
        assert_eq!(window.value(Timestamp(2_000_000)), Some(1.0));
        assert_eq!(window.value(Timestamp(2_000_001)), None);
    }

    /// Requirement: R2-19, R2-20, R2-21, R2-22, R2-23, R2-24
    #[test]
    fn the_numbers_1_to_100_aggregate_as_the_sources_say() {
        let expected = [
            ("avg", 50.5),
            ("p99", 99.0),
            ("p99 interpolated", 99.01),
            ("sum", 5050.0),
            ("count", 100.0),
            ("max", 100.0),
            ("min", 1.0),
        ];
        for (text, want) in expected {
            let mut window = Window::new(Aggregate::parse(text).unwrap(), Some(60 * SECOND));
            for i in 1..=100_u8 {
                window.insert(at(f64::from(i) / 10.0), f64::from(i));
            }
            let have = window.value(at(10.0)).unwrap();
            assert!((have - want).abs() < 1e-12, "{text}: {have}");
        }
    }

    /// Requirement: R1-42, R1-43
    #[test]
    fn ewma_with_gain_16_crosses_80_at_the_16th_sample_of_100() {
        let mut window = Window::new(Aggregate::Ewma { gain: 16.0, single: false }, None);
        window.insert(at(0.0), 50.0);
        let mut outputs = Vec::new();
        for i in 1..=16_u8 {
            window.insert(at(60.0 * f64::from(i)), 100.0);
            outputs.push(window.value(at(60.0 * f64::from(i))).unwrap());
        }
        assert!((outputs[0] - 52.941_176).abs() < 1e-6);
        assert!((outputs[1] - 55.709_343).abs() < 1e-6);
        assert!(outputs[14] < 80.0 && outputs[15] > 80.0, "{outputs:?}");
        assert_eq!(window.len(), 1, "it needs no samples");
        assert_eq!(window.oldest(), Some(at(960.0)));
    }

    #[test]
    fn a_window_that_grows_keeps_its_samples() {
        let mut window =
            Window::new(Aggregate::Percentile { rank: 99.0, interpolated: false }, Some(300 * SECOND));
        for i in 0..300_u16 {
            window.insert(at(f64::from(i)), f64::from(i));
        }
        let mut window =
            window.reshape(Aggregate::Percentile { rank: 50.0, interpolated: false }, Some(600 * SECOND));
        assert_eq!(window.value(at(500.0)), Some(149.0));
        let mut window = window.reshape(Aggregate::Count, Some(600 * SECOND));
        assert_eq!(window.value(at(599.0)), Some(300.0));
        let mut window = window.reshape(Aggregate::Avg, Some(100 * SECOND));
        assert_eq!(window.value(at(299.0)), Some(249.0));
    }

    #[test]
    fn a_huge_sample_leaves_nothing_behind() {
        for text in ["avg", "sum", "stddev", "ewma"] {
            let mut window = Window::new(Aggregate::parse(text).unwrap(), Some(10 * SECOND));
            window.insert(at(0.0), f64::MAX);
            window.insert(at(1.0), f64::MAX);
            window.insert(at(5.0), -f64::MAX);
            for i in 6..=14_u8 {
                window.insert(at(f64::from(i)), 1.0);
                let _ = window.value(at(f64::from(i)));
            }
            let want = naive(window.aggregate(), &[(at(0.0), 1.0); 9], at(15.0)).unwrap();
            let left = if text == "sum" { want } else { want.clamp(0.0, 1.0) };
            window.value(at(15.0));
            assert_eq!(window.value(at(15.000_001)), Some(left), "{text}");
        }
    }

    #[test]
    fn a_sum_beyond_all_numbers_is_no_value_and_heals() {
        let mut window = Window::new(Aggregate::Sum, Some(10 * SECOND));
        window.insert(at(0.0), f64::MAX);
        window.insert(at(1.0), f64::MAX);
        assert_eq!(window.value(at(1.0)), None);
        assert_eq!(window.value(at(10.5)), Some(f64::MAX));
        let mut average = Window::new(Aggregate::Ewma { gain: 16.0, single: false }, None);
        average.insert(at(0.0), f64::MAX);
        average.insert(at(1.0), 0.0);
        assert!(average.value(at(1.0)).is_some_and(|v| (v / f64::MAX - 16.0 / 17.0).abs() < 1e-12));
    }

    #[test]
    fn what_is_no_number_is_no_sample() {
        let mut window = Window::new(Aggregate::Percentile { rank: 50.0, interpolated: false }, Some(SECOND));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            window.insert(at(0.0), value);
        }
        assert_eq!(window.value(at(0.0)), None);
        assert!(window.is_empty());
    }

    #[test]
    fn a_counter_that_falls_was_reset() {
        let mut window = Window::new(Aggregate::Rate, Some(60 * SECOND));
        for (second, value) in [(0.0, 100.0), (10.0, 150.0), (20.0, 10.0), (30.0, 40.0)] {
            window.insert(at(second), value);
        }
        assert_eq!(window.value(at(30.0)), Some((50.0 + 10.0 + 30.0) / 30.0));
        let mut alone = Window::new(Aggregate::Rate, Some(60 * SECOND));
        alone.insert(at(0.0), 1.0);
        alone.insert(at(0.0), 2.0);
        assert_eq!(alone.value(at(0.0)), None, "no time has passed between the samples");
    }

    #[test]
    fn a_full_window_drops_the_oldest_and_counts_them() {
        let mut window = Window::new(Aggregate::Min, None);
        for i in 0..MAX_SAMPLES as u32 + 10 {
            window.insert(Timestamp(i64::from(i)), f64::from(i));
        }
        assert_eq!((window.len(), window.dropped()), (MAX_SAMPLES, 10));
        assert_eq!(window.value(Timestamp(0)), Some(10.0));
        assert_eq!(window.oldest(), Some(Timestamp(10)));
    }

    #[test]
    fn an_empty_window_is_small_and_gives_its_memory_back() {
        assert!(size_of::<Window>() <= 256, "{} bytes", size_of::<Window>());
        let mut window = Window::new(Aggregate::Avg, Some(SECOND));
        for i in 0..50_000_i64 {
            window.insert(Timestamp(i), 1.0);
        }
        window.value(at(1.01));
        assert_eq!(window.value(at(100.0)), None);
        assert!(window.samples.capacity() <= KEPT_CAPACITY, "{}", window.samples.capacity());
        let State::Total(stacks) = &window.state else { panic!("avg is a total") };
        assert!(stacks.front.capacity() <= KEPT_CAPACITY, "{}", stacks.front.capacity());
    }
}
