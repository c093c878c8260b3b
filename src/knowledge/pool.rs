//! Pools: the newest value of each member of a group, aggregated at a cost per change that grows with the logarithm of the members.
//!
//! The members are the leaves of a binary tree of summaries; a change joins one path anew. As in windows, nothing is subtracted.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::sorted::Sorted;
use super::summary::{Extreme, Spread, Summary, Total};
use crate::model::Aggregate;

/// The newest value of each member and their aggregate.
///
/// `avg`, `sum`, `min`, `max`, `count`, `stddev` and percentiles are over the members' values; `last` is the value set last and gone
/// when its member is. `rate`, `delta`, `ewma` and `age` need time, which a pool does not know: they have no value
/// (see [`Pool::supports`]).
#[derive(Debug, Clone)]
pub struct Pool {
    aggregate: Aggregate,
    /// The leaf and the value of each member.
    members: FxHashMap<u32, (usize, f64)>,
    /// Leaves that members have left, for the next ones.
    free: Vec<usize>,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// `count`, and what has no value.
    Nothing,
    /// `last`: the member set last.
    Last(Option<u32>),
    /// `avg`, `sum`.
    Total(Tree<Total>),
    /// `min`, `max`.
    Extreme(Tree<Extreme>),
    /// `stddev`.
    Spread(Tree<Spread>),
    /// Percentiles.
    Sorted(Sorted),
}

impl State {
    fn new(aggregate: Aggregate) -> Self {
        match aggregate {
            Aggregate::Avg => Self::Total(Tree::new(Total { mean: true })),
            Aggregate::Sum => Self::Total(Tree::new(Total { mean: false })),
            Aggregate::Min => Self::Extreme(Tree::new(Extreme { largest: false })),
            Aggregate::Max => Self::Extreme(Tree::new(Extreme { largest: true })),
            Aggregate::Stddev => Self::Spread(Tree::new(Spread)),
            Aggregate::Percentile { .. } => Self::Sorted(Sorted::default()),
            Aggregate::Last => Self::Last(None),
            Aggregate::Count
            | Aggregate::Rate
            | Aggregate::Delta
            | Aggregate::Ewma { .. }
            | Aggregate::Age => Self::Nothing,
        }
    }
}

/// A binary tree in an array: node `i` has the children `2i` and `2i + 1`, the leaves are the second half.
#[derive(Debug, Clone)]
struct Tree<S: Summary> {
    summary: S,
    nodes: Vec<Option<S::Part>>,
}

impl<S: Summary> Tree<S> {
    fn new(summary: S) -> Self {
        Self { summary, nodes: Vec::new() }
    }

    fn set(&mut self, leaf: usize, value: Option<f64>) {
        while self.nodes.len() / 2 <= leaf {
            self.grow();
        }
        let mut node = self.nodes.len() / 2 + leaf;
        self.nodes[node] = value.map(|value| self.summary.of(value));
        while node > 1 {
            node /= 2;
            self.nodes[node] = self.joined(node);
        }
    }

    /// Doubles the number of leaves; amortised over them, constant time.
    fn grow(&mut self) {
        let leaves = self.nodes.len() / 2;
        let mut nodes = vec![None; (4 * leaves).max(2)];
        let first = nodes.len() / 2;
        nodes[first..first + leaves].copy_from_slice(&self.nodes[leaves..]);
        self.nodes = nodes;
        for node in (1..first).rev() {
            self.nodes[node] = self.joined(node);
        }
    }

    fn joined(&self, node: usize) -> Option<S::Part> {
        match (self.nodes[2 * node], self.nodes[2 * node + 1]) {
            (Some(a), Some(b)) => Some(self.summary.join(a, b)),
            (a, b) => a.or(b),
        }
    }

    fn result(&self, count: usize) -> Option<f64> {
        let root = (*self.nodes.get(1)?)?;
        Some(self.summary.result(root, count))
    }
}

impl Pool {
    /// A pool without members.
    pub fn new(aggregate: Aggregate) -> Self {
        Self { aggregate, members: FxHashMap::default(), free: Vec::new(), state: State::new(aggregate) }
    }

    /// Whether `aggregate` has a meaning over the newest values of a group, without a window.
    pub fn supports(aggregate: Aggregate) -> bool {
        aggregate == Aggregate::Count || !matches!(State::new(aggregate), State::Nothing)
    }

    /// Sets the newest value of a member, which joins when it is new. A value that is not finite takes the member out.
    pub fn set(&mut self, member: u32, value: f64) {
        if !value.is_finite() {
            return self.remove(member);
        }
        let leaves = self.members.len() + self.free.len();
        let (leaf, before) = match self.members.entry(member) {
            Entry::Occupied(mut entry) => {
                let (leaf, before) = *entry.get();
                entry.insert((leaf, value));
                (leaf, Some(before))
            }
            Entry::Vacant(entry) => {
                let leaf = self.free.pop().unwrap_or(leaves);
                entry.insert((leaf, value));
                (leaf, None)
            }
        };
        match &mut self.state {
            State::Nothing => {}
            State::Last(last) => *last = Some(member),
            State::Total(tree) => tree.set(leaf, Some(value)),
            State::Extreme(tree) => tree.set(leaf, Some(value)),
            State::Spread(tree) => tree.set(leaf, Some(value)),
            State::Sorted(sorted) => {
                if let Some(before) = before {
                    sorted.remove(before);
                }
                sorted.insert(value);
            }
        }
    }

    /// Takes a member out; nothing happens when it is not in.
    pub fn remove(&mut self, member: u32) {
        let Some((leaf, value)) = self.members.remove(&member) else { return };
        self.free.push(leaf);
        match &mut self.state {
            State::Nothing => {}
            State::Last(last) => *last = last.filter(|last| *last != member),
            State::Total(tree) => tree.set(leaf, None),
            State::Extreme(tree) => tree.set(leaf, None),
            State::Spread(tree) => tree.set(leaf, None),
            State::Sorted(sorted) => sorted.remove(value),
        }
    }

    /// The aggregate, in the members' unit (`count` has none); `None` without members, for an aggregate that has no meaning here,
    /// and when the result is not finite.
    pub fn value(&self) -> Option<f64> {
        let count = self.members.len();
        if count == 0 {
            return None;
        }
        let value = match (&self.state, self.aggregate) {
            (State::Nothing, Aggregate::Count) => Some(count as f64),
            (State::Nothing, _) => None,
            (State::Last(last), _) => last.and_then(|member| self.get(member)),
            (State::Total(tree), _) => tree.result(count),
            (State::Extreme(tree), _) => tree.result(count),
            (State::Spread(tree), _) => tree.result(count),
            (State::Sorted(sorted), Aggregate::Percentile { rank, interpolated }) => {
                sorted.percentile(rank, interpolated)
            }
            (State::Sorted(_), _) => None,
        };
        value.filter(|value| value.is_finite())
    }

    /// The newest value of a member.
    pub fn get(&self, member: u32) -> Option<f64> {
        self.members.get(&member).map(|(_, value)| *value)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn naive(aggregate: Aggregate, values: &mut [f64]) -> Option<f64> {
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        let (first, last) = (*values.first()?, *values.last()?);
        let mean = values.iter().sum::<f64>() / n;
        Some(match aggregate {
            Aggregate::Avg => mean,
            Aggregate::Sum => values.iter().sum(),
            Aggregate::Min => first,
            Aggregate::Max => last,
            Aggregate::Count => n,
            Aggregate::Stddev => (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt(),
            Aggregate::Percentile { .. } => values[values.len().div_ceil(2) - 1],
            _ => return None,
        })
    }

    proptest! {
        #[test]
        fn a_pool_is_the_aggregate_of_its_members(
            which in prop::sample::select(vec!["avg", "sum", "min", "max", "count", "stddev", "median", "rate"]),
            steps in prop::collection::vec((0_u32..60, prop::option::weighted(0.7, -1e9..1e9)), 1..400),
        ) {
            let aggregate = Aggregate::parse(which).unwrap();
            let (mut pool, mut members) = (Pool::new(aggregate), BTreeMap::new());
            for (member, value) in steps {
                match value {
                    Some(value) => {
                        pool.set(member, value);
                        members.insert(member, value);
                    }
                    None => {
                        pool.remove(member);
                        members.remove(&member);
                    }
                }
                let mut values: Vec<f64> = members.values().copied().collect();
                let scale = values.iter().map(|v| v.abs()).sum::<f64>().max(1.0);
                match (pool.value(), naive(aggregate, &mut values)) {
                    (Some(have), Some(want)) => {
                        prop_assert!((have - want).abs() <= 1e-9 * scale, "{which}: {have} is not {want}");
                    }
                    (have, want) => prop_assert_eq!(have, want),
                }
            }
        }
    }

    #[test]
    fn a_huge_member_leaves_nothing_behind() {
        let mut pool = Pool::new(Aggregate::Sum);
        for member in 0..1000 {
            pool.set(member, 0.1);
        }
        pool.set(7, f64::MAX);
        pool.set(8, f64::MAX);
        assert_eq!(pool.value(), None, "the sum is beyond all numbers");
        pool.remove(7);
        pool.set(8, 0.1);
        assert!(pool.value().is_some_and(|sum| (sum - 99.9).abs() < 1e-12));
        pool.set(8, f64::NAN);
        assert_eq!(pool.len(), 998);
    }

    #[test]
    fn what_needs_time_has_no_value_in_a_pool() {
        for text in ["rate", "delta", "ewma", "age"] {
            let aggregate = Aggregate::parse(text).unwrap();
            assert!(!Pool::supports(aggregate), "{text}");
            let mut pool = Pool::new(aggregate);
            pool.set(1, 1.0);
            assert_eq!(pool.value(), None, "{text}");
        }
        let mut pool = Pool::new(Aggregate::Last);
        pool.set(1, 1.0);
        pool.set(2, 2.0);
        assert_eq!((Pool::supports(Aggregate::Last), pool.value()), (true, Some(2.0)));
        pool.remove(2);
        assert_eq!(pool.value(), None);
        assert!(Pool::supports(Aggregate::Count));
    }
}
