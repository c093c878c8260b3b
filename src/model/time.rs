//! The loop's time: an argument of every turn, never read from a clock inside one.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::format_description::well_known::Rfc3339;

/// A point in time, in microseconds since the Unix epoch. Serialised as an RFC 3339 string in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The point `duration` later; saturates at the end of time.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// The point `duration` earlier; saturates at the beginning of time.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Seconds since the Unix epoch.
    pub fn seconds_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Reads RFC 3339 (`2026-11-22T00:15:00Z`).
    pub fn parse(text: &str) -> Result<Self, String> {
        let when = time::OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|e| format!("`{text}` is no RFC 3339 time such as 2026-11-22T00:15:00Z: {e}"))?;
        i64::try_from(when.unix_timestamp_nanos().div_euclid(1_000))
            .map(Self)
            .map_err(|_| format!("`{text}` is out of range"))
    }
}

/// When something that is done regularly is done: from `start` on, every so often, up to `stop`, both ends included (R1-06, R1-07).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The first time; at once, when absent. Later times are whole periods after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// Not later than this; for ever, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Timestamp>,
    /// Not at all for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
}

impl Schedule {
    /// The first time not before `from`; `None` when it is over, or suspended.
    pub fn next(&self, from: Timestamp, every: Duration) -> Option<Timestamp> {
        let start = self.start.unwrap_or(from);
        let every = micros(every).max(1);
        let periods = from.0.saturating_sub(start.0).max(0).saturating_add(every - 1) / every;
        let at = Timestamp(start.0.saturating_add(periods.saturating_mul(every)));
        (!self.suspended && self.stop.is_none_or(|stop| at <= stop)).then_some(at)
    }

    /// Whether `at` lies within it.
    pub fn includes(&self, at: Timestamp) -> bool {
        !self.suspended
            && self.start.is_none_or(|start| start <= at)
            && self.stop.is_none_or(|stop| at <= stop)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000) {
            Ok(when) => {
                let (h, m, s) = when.to_hms();
                let date = when.date();
                let us = self.0.rem_euclid(1_000_000);
                write!(
                    f,
                    "{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{us:06}Z",
                    date.year(),
                    u8::from(date.month()),
                    date.day()
                )
            }
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requirement: R1-06, R1-07
    #[test]
    fn a_schedule_holds_whole_periods_from_its_start_to_its_end_both_included() {
        let at = |s: i64| Timestamp(s * 1_000_000);
        let minute = Duration::from_secs(60);
        let hour = Schedule { start: Some(at(600)), stop: Some(at(3600)), suspended: false };
        assert_eq!(hour.next(at(0), minute), Some(at(600)));
        assert_eq!(hour.next(at(601), minute), Some(at(660)));
        assert_eq!(hour.next(at(660), minute), Some(at(660)));
        assert_eq!(hour.next(at(3541), minute), Some(at(3600)));
        assert_eq!(hour.next(at(3601), minute), None);
        assert_eq!(Schedule::default().next(at(5), minute), Some(at(5)));
        assert_eq!(Schedule { suspended: true, ..hour }.next(at(0), minute), None);
        assert!(hour.includes(at(600)) && hour.includes(at(3600)) && !hour.includes(at(599)));
        let mut samples = 0;
        let mut from = at(0);
        while let Some(next) = hour.next(from, minute) {
            samples += 1;
            from = Timestamp(next.0 + 1);
        }
        assert_eq!(samples, 51);
    }

    #[test]
    fn text_and_number_round_trip() {
        let t = Timestamp(1_386_925_386_000_001);
        assert_eq!(t.to_string(), "2013-12-13T09:03:06.000001Z");
        assert_eq!(Timestamp::parse(&t.to_string()), Ok(t));
        assert!(Timestamp::parse("yesterday").is_err());
        assert_eq!(t.since(t.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
