//! The only place where the API reads a clock: for the age of an exported value and the time of an alarm that came without one.

use crate::model::Timestamp;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "the API is part of the shell")]
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
}
