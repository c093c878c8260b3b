//! Values in order: exact percentiles while values come and go.
//!
//! Sorted chunks of at most [`CHUNK`] values: a value is found by two binary searches, and its insertion moves no more than one
//! chunk; a rank is found by adding chunk lengths from the nearer end. At 100,000 values that is some hundred nanoseconds.

/// The most values in one chunk.
const CHUNK: usize = 512;

/// A multiset of finite values, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Sorted {
    /// No chunk is empty; every value of a chunk is at most every value of the next.
    chunks: Vec<Chunk>,
    len: usize,
}

/// At most [`CHUNK`] values in order.
#[derive(Debug, Clone)]
struct Chunk {
    /// The largest value, beside its neighbours' so that the search for a chunk stays within a few cache lines.
    top: f64,
    values: Vec<f64>,
}

impl Chunk {
    fn new(values: Vec<f64>) -> Self {
        Self { top: values.last().copied().unwrap_or(f64::MIN), values }
    }

    fn len(&self) -> usize {
        self.values.len()
    }
}

impl Sorted {
    /// Adds a value.
    pub fn insert(&mut self, value: f64) {
        self.len += 1;
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::new(vec![value]));
            return;
        }
        let at = self.chunk_of(value).min(self.chunks.len() - 1);
        let chunk = &mut self.chunks[at];
        let place = chunk.values.partition_point(|have| have.total_cmp(&value).is_lt());
        if place == chunk.len() {
            chunk.top = value;
        }
        chunk.values.insert(place, value);
        if chunk.len() > CHUNK {
            let upper = chunk.values.split_off(CHUNK / 2);
            *chunk = Chunk::new(std::mem::take(&mut chunk.values));
            self.chunks.insert(at + 1, Chunk::new(upper));
        }
    }

    /// Takes one occurrence of a value out; nothing happens when it is not there.
    pub fn remove(&mut self, value: f64) {
        let at = self.chunk_of(value);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Ok(place) = chunk.values.binary_search_by(|have| have.total_cmp(&value)) else { return };
        chunk.values.remove(place);
        self.len -= 1;
        match chunk.values.last() {
            None => drop(self.chunks.remove(at)),
            Some(top) => {
                chunk.top = *top;
                if chunk.len() < CHUNK / 4 {
                    self.merge(at);
                }
            }
        }
    }

    /// The first chunk whose largest value is not below `value`.
    fn chunk_of(&self, value: f64) -> usize {
        self.chunks.partition_point(|chunk| chunk.top.total_cmp(&value).is_lt())
    }

    /// Joins the chunk at `at` with a neighbour when both together are small, so that chunks do not thin out as values drift.
    fn merge(&mut self, at: usize) {
        for left in [at, at.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (self.chunks.get(left), self.chunks.get(left.wrapping_add(1))) else {
                continue;
            };
            if a.len() + b.len() <= CHUNK / 2 {
                let right = self.chunks.remove(left + 1);
                let left = &mut self.chunks[left];
                left.values.extend(right.values);
                left.top = right.top;
                return;
            }
        }
    }

    /// The value at `index`, counted from the smallest, beginning with 0.
    fn nth(&self, index: usize) -> Option<f64> {
        if index >= self.len {
            return None;
        }
        if index < self.len / 2 {
            let mut rest = index;
            for chunk in &self.chunks {
                match rest.checked_sub(chunk.len()) {
                    Some(less) => rest = less,
                    None => return chunk.values.get(rest).copied(),
                }
            }
        } else {
            let mut rest = self.len - 1 - index;
            for chunk in self.chunks.iter().rev() {
                match rest.checked_sub(chunk.len()) {
                    Some(less) => rest = less,
                    None => return chunk.values.get(chunk.len() - 1 - rest).copied(),
                }
            }
        }
        None
    }

    /// The percentile of `rank` percent. Nearest-rank: the value number `⌈rank·n/100⌉`. Interpolated: linear between the values
    /// around `(n - 1)·rank/100`. `None` when there is no value.
    pub fn percentile(&self, rank: f64, interpolated: bool) -> Option<f64> {
        if interpolated {
            let place = self.len.checked_sub(1)? as f64 * rank / 100.0;
            let low = self.nth(place.floor() as usize)?;
            let high = self.nth(place.ceil() as usize)?;
            let share = place - place.floor();
            Some(if low == high { low } else { low * (1.0 - share) + high * share })
        } else {
            // The product of a rank such as 99.9 and a count may come out a hair above a whole number.
            let number = (rank * self.len as f64 / 100.0 - 1e-9).ceil().max(1.0) as usize;
            self.nth(number.min(self.len).checked_sub(1)?)
        }
    }

    /// How many values there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_sorted_vector_holds(
            steps in prop::collection::vec((any::<bool>(), 0_u32..400), 1..4000),
        ) {
            let (mut sorted, mut naive) = (Sorted::default(), Vec::new());
            for (add, n) in steps {
                let value = f64::from(n) - 200.0;
                if add || n % 3 == 0 {
                    sorted.insert(value);
                    naive.push(value);
                } else if let Some(i) = naive.iter().position(|v| *v == value) {
                    naive.swap_remove(i);
                    sorted.remove(value);
                } else {
                    sorted.remove(value);
                }
            }
            naive.sort_by(f64::total_cmp);
            prop_assert_eq!(sorted.len(), naive.len());
            prop_assert!(sorted.chunks.iter().all(|c| c.len() > 0 && c.len() <= CHUNK && c.values.last() == Some(&c.top)));
            for (i, value) in naive.iter().enumerate() {
                prop_assert_eq!(sorted.nth(i), Some(*value));
            }
            prop_assert_eq!(sorted.nth(naive.len()), None);
        }
    }

    #[test]
    fn chunks_do_not_thin_out_as_values_drift() {
        let mut sorted = Sorted::default();
        for i in 0..200_000_u32 {
            sorted.insert(f64::from(i));
            if i >= 10_000 {
                // Not the oldest first: holes everywhere.
                let gone = (i - 10_000).reverse_bits() >> 14;
                sorted.remove(f64::from(gone));
            }
        }
        let held: usize = sorted.chunks.iter().map(Chunk::len).sum();
        assert_eq!(held, sorted.len());
        assert!(sorted.chunks.len() <= 2 + 4 * held.div_ceil(CHUNK / 2), "{} chunks", sorted.chunks.len());
    }
}
