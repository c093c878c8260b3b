//! Units that numbers may carry in policies: `2s`, `1500ms`, `80%`, `512MiB`. They become seconds, ratios and bytes.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Every unit with the factor that turns it into its base (seconds, ratio, bytes), sorted so that the longest match comes first.
const UNITS: &[(&str, f64, Base)] = &[
    ("KiB", 1024.0, Base::Bytes),
    ("MiB", 1_048_576.0, Base::Bytes),
    ("GiB", 1_073_741_824.0, Base::Bytes),
    ("TiB", 1_099_511_627_776.0, Base::Bytes),
    ("kB", 1e3, Base::Bytes),
    ("KB", 1e3, Base::Bytes),
    ("MB", 1e6, Base::Bytes),
    ("GB", 1e9, Base::Bytes),
    ("TB", 1e12, Base::Bytes),
    ("ns", 1e-9, Base::Seconds),
    ("us", 1e-6, Base::Seconds),
    ("µs", 1e-6, Base::Seconds),
    ("ms", 1e-3, Base::Seconds),
    ("s", 1.0, Base::Seconds),
    ("m", 60.0, Base::Seconds),
    ("min", 60.0, Base::Seconds),
    ("h", 3600.0, Base::Seconds),
    ("d", 86_400.0, Base::Seconds),
    ("B", 1.0, Base::Bytes),
    ("%", 0.01, Base::Ratio),
];

/// What a unit measures once it is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Durations: seconds.
    Seconds,
    /// Sizes: bytes.
    Bytes,
    /// Shares: 80% is 0.8.
    Ratio,
}

/// The base and factor of the unit called `text`, if there is one.
pub fn unit(text: &str) -> Option<(Base, f64)> {
    UNITS.iter().find(|(name, _, _)| *name == text).map(|(_, factor, base)| (*base, *factor))
}

/// The units there are, for error messages.
pub fn known_units() -> String {
    UNITS.iter().map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ")
}

/// A duration as people write it: `30s`, `1500ms`, `1m30s`, `2h`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// A duration of whole seconds.
    pub const fn seconds(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }

    /// Reads `30s`, `1500ms`, `1m30s`.
    ///
    /// # Errors
    /// A sentence that says what was found and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: &str| {
            Err(format!(
                "`{text}` is no duration ({why}); expected a number with a unit, such as 30s, 1500ms or 1m30s"
            ))
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return fail("it is empty");
        }
        let mut total = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let Ok(number) = rest[..digits].parse::<f64>() else {
                return fail("a number is missing");
            };
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let name = rest[..end].trim();
            let factor = match unit(name) {
                Some((Base::Seconds, factor)) => factor,
                Some(_) => return fail("the unit is not one of time"),
                None if name.is_empty() && total == 0.0 && rest.is_empty() => 1.0,
                None => return fail("the unit is unknown"),
            };
            total += number * factor;
            rest = &rest[end..];
        }
        Duration::try_from_secs_f64(total).map(Self).or_else(|_| fail("it is out of range"))
    }
}

impl std::fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = self.0.as_micros();
        let (h, m) = (3_600_000_000, 60_000_000);
        if us == 0 {
            write!(f, "0s")
        } else if us.is_multiple_of(h) {
            write!(f, "{}h", us / h)
        } else if us.is_multiple_of(m) {
            write!(f, "{}m", us / m)
        } else if us.is_multiple_of(1_000_000) {
            write!(f, "{}s", us / 1_000_000)
        } else if us.is_multiple_of(1_000) {
            write!(f, "{}ms", us / 1_000)
        } else {
            write!(f, "{us}us")
        }
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = HumanDuration;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a duration such as 30s, 1500ms or 1m30s")
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<HumanDuration, E> {
                HumanDuration::parse(v).map_err(E::custom)
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<HumanDuration, E> {
                Duration::try_from_secs_f64(v)
                    .map(HumanDuration)
                    .map_err(|_| E::custom(format!("{v} is no duration in seconds")))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<HumanDuration, E> {
                Ok(HumanDuration(Duration::from_secs(v)))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<HumanDuration, E> {
                u64::try_from(v)
                    .map(|v| HumanDuration(Duration::from_secs(v)))
                    .map_err(|_| E::custom(format!("{v} is negative; a duration is not")))
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl schemars::JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A duration: 30s, 1500ms, 1m30s, 2h; a bare number is seconds.",
            "anyOf": [
                { "type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|min|h|d)?)+\s*$" },
                { "type": "number", "minimum": 0 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let ms = |text| HumanDuration::parse(text).map(|d| d.0.as_millis());
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("1500ms"), Ok(1_500));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("0.5h"), Ok(1_800_000));
        assert_eq!(ms("5"), Ok(5_000));
        for bad in ["", "s", "3 parsecs", "10%", "-5s", "5s5", "1e400s"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_prints_as_it_would_be_written() {
        for text in ["30s", "1500ms", "90s", "2h", "1m", "0s", "7us"] {
            let d = HumanDuration::parse(text).expect(text);
            assert_eq!(HumanDuration::parse(&d.to_string()), Ok(d));
        }
    }
}
