//! History: the last readings of one metric, as many as the policy asks for (R3-37).

use std::collections::VecDeque;

use crate::model::Timestamp;

/// A ring of past readings. With capacity 0 it keeps nothing, which is storage switched off.
#[derive(Debug, Clone, Default)]
pub struct History {
    capacity: usize,
    /// Oldest first; never more than `capacity`.
    readings: VecDeque<(Timestamp, f64)>,
}

impl History {
    /// An empty history of at most `capacity` readings; it allocates nothing until one comes.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, readings: VecDeque::new() }
    }

    /// Adds a reading, in the metric's unit; when the history is full, the oldest leaves.
    pub fn push(&mut self, at: Timestamp, value: f64) {
        if self.capacity == 0 {
            return;
        }
        while self.readings.len() >= self.capacity {
            self.readings.pop_front();
        }
        self.readings.push_back((at, value));
    }

    /// Keeps at most `capacity` readings from now on, and of those there are the newest.
    pub fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        let surplus = self.readings.len().saturating_sub(capacity);
        self.readings.drain(..surplus);
        self.readings.shrink_to(capacity);
    }

    /// The readings, newest last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Timestamp, f64)> + ExactSizeIterator + '_ {
        self.readings.iter().copied()
    }

    /// How many readings there are.
    pub fn len(&self) -> usize {
        self.readings.len()
    }

    /// Whether there is no reading.
    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    /// How many readings there may be; 0 when storage is off.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(history: &History) -> Vec<f64> {
        history.iter().map(|(_, value)| value).collect()
    }

    /// Requirement: R3-37
    #[test]
    fn the_newest_readings_are_kept_up_to_a_settable_capacity() {
        let mut history = History::new(3);
        for i in 0..5_i32 {
            history.push(Timestamp(i.into()), i.into());
        }
        assert_eq!(values(&history), [2.0, 3.0, 4.0]);
        history.resize(2);
        assert_eq!(values(&history), [3.0, 4.0]);
        history.resize(4);
        history.push(Timestamp(5), 5.0);
        assert_eq!(values(&history), [3.0, 4.0, 5.0]);
        history.resize(0);
        history.push(Timestamp(6), 6.0);
        assert!(history.is_empty() && history.capacity() == 0);
    }
}
