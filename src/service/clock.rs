//! The only clock of the loop. Its time starts at the wall clock and then runs evenly: when somebody sets the wall clock back or forth,
//! durations, windows and cooldowns stay right.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Timestamp;

/// A wall clock that differs from the loop's time by no more than this is the same clock.
const TOLERANCE: i64 = 1_000_000;

/// The clock of one process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Timestamp,
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Starts the clock at the wall clock's time.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { origin: wall(), start: Instant::now() }
    }

    /// The loop's time.
    pub fn now(&self) -> Timestamp {
        self.origin.after(self.running())
    }

    /// The time since the clock was started.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn running(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }

    /// A time that somebody else read from a wall clock, as the loop's time: a wall clock that was set since the start is allowed for.
    pub fn from_wall(&self, at: Timestamp) -> Timestamp {
        let step = wall().0 - self.now().0;
        if step.abs() <= TOLERANCE { at } else { Timestamp(at.0.saturating_sub(step)) }
    }

    /// When, on tokio's clock, the loop's time will be `at`.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        tokio::time::Instant::now() + at.since(self.now())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
