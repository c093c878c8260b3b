//! Metrics: what a sensor delivers, and what asking for a metric gives.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MetricId, ServiceId, Timestamp};

/// One value of one metric of one service, as the shell hands it to a shard: 24 bytes, no strings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Whose metric.
    pub service: ServiceId,
    /// Which metric.
    pub metric: MetricId,
    /// The value, in the metric's unit.
    pub value: f64,
    /// When it was so.
    pub at: Timestamp,
}

/// One value as a sensor delivers it, before it has a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// `None`: the sensor's headline value, under the sensor's own name.
    /// `Some("state")`: a further fixed output, under `<sensor>_state` (see [`super::connector::SensorSpec::outputs`]).
    pub output: Option<Arc<str>>,
    /// A member of a family (`cpu0`, `eth0`, `postgres[812]`): kept as the metric `<name>[<label>]`.
    pub label: Option<Arc<str>>,
    /// The value, in the metric's unit.
    pub value: f64,
    /// When it was so; `None`: now.
    pub at: Option<Timestamp>,
}

impl Measurement {
    /// The headline value, measured now.
    pub fn value(value: f64) -> Self {
        Self { output: None, label: None, value, at: None }
    }
}

/// What asking for a metric gives. Never a silent default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Reading {
    /// The value is within its stated age.
    Fresh {
        /// The value, in the metric's unit.
        value: f64,
        /// The time of the oldest sample that it was computed from.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
    },
    /// There is a value, but it is older than the metric's `stale_after`.
    Stale {
        /// The last value known.
        value: f64,
        /// The time of the oldest sample that it was computed from.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
    },
    /// There is no value.
    Missing {
        /// Why not.
        reason: MissingReason,
    },
}

impl Reading {
    /// The value, fresh or stale.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Fresh { value, .. } | Self::Stale { value, .. } => Some(*value),
            Self::Missing { .. } => None,
        }
    }

    /// The value, if fresh.
    pub fn fresh(&self) -> Option<f64> {
        match self {
            Self::Fresh { value, .. } => Some(*value),
            _ => None,
        }
    }

    /// The time of the value.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Fresh { at, .. } | Self::Stale { at, .. } => Some(*at),
            Self::Missing { .. } => None,
        }
    }

    /// The age of the value at `now`.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.at().map(|at| now.since(at))
    }

    /// A missing reading.
    pub fn missing(reason: MissingReason) -> Self {
        Self::Missing { reason }
    }
}

/// Why a reading is missing.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, utoipa::ToSchema, thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum MissingReason {
    /// The metric exists, and nothing was measured yet.
    #[error("no sample yet")]
    NoSample,
    /// The window holds no sample.
    #[error("no sample in the window")]
    EmptyWindow,
    /// The service has no metric of this name.
    #[error("no metric `{0}`")]
    NoSuchMetric(String),
    /// There is no service of this name.
    #[error("no service `{0}`")]
    NoSuchService(String),
    /// The service has no monitor attached.
    #[error("no monitor is attached to `{0}`")]
    NoMonitor(String),
    /// The reference is not bound to any service.
    #[error("reference `{0}` is unbound")]
    Unbound(String),
    /// The service has no reference of this name.
    #[error("no reference `{0}`")]
    NoSuchReference(String),
    /// Something that the metric is computed from is missing.
    #[error("`{0}` is missing: {1}")]
    Input(String, #[schema(no_recursion)] Box<MissingReason>),
    /// The expression has no finite value (a division by zero, an overflow).
    #[error("`{0}` has no finite value")]
    NotFinite(String),
    /// The sensor failed.
    #[error("the sensor failed: {0}")]
    SensorFailed(String),
    /// The answer did not come in time.
    #[error("no answer within {0}")]
    Timeout(String),
    /// The expression failed.
    #[error("`{0}` failed: {1}")]
    Expression(String, String),
}

/// The name of a metric as an expression writes it: `own` or `reference.metric`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetricPath {
    /// A metric of the same service.
    Own(Arc<str>),
    /// A metric of whatever service the reference is bound to.
    Via {
        /// The reference.
        reference: Arc<str>,
        /// The metric there.
        metric: Arc<str>,
    },
}

impl MetricPath {
    /// Reads `own` or `reference.metric`.
    pub fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((reference, metric)) => Self::Via { reference: reference.into(), metric: metric.into() },
            None => Self::Own(text.into()),
        }
    }
}

impl std::fmt::Display for MetricPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(name) => f.write_str(name),
            Self::Via { reference, metric } => write!(f, "{reference}.{metric}"),
        }
    }
}

/// How many values become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    /// The arithmetic mean.
    Avg,
    /// The sum.
    Sum,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// How many there are.
    Count,
    /// Increase per second of a counter; a fall is a reset, as in Prometheus.
    Rate,
    /// Last minus first.
    Delta,
    /// The population standard deviation.
    Stddev,
    /// Exponentially weighted moving average `v = (x + gain·v)/(gain + 1)`, first output = first input (S1, `formats.md` 3).
    Ewma {
        /// The weight of the past, dimensionless, at least 0.
        gain: f64,
        /// Computed in 32-bit floats, as the prototype of S2 does.
        single: bool,
    },
    /// The nearest-rank percentile.
    Percentile {
        /// The rank in percent, above 0 up to 100.
        rank: f64,
        /// Linear interpolation between closest ranks instead of nearest-rank.
        interpolated: bool,
    },
    /// The newest.
    Last,
    /// Seconds since the newest sample.
    Age,
}

impl Aggregate {
    /// Reads `avg`, `p99`, `p99.9`, `median`, `ewma` (gain 16) or `ewma(16)`, ….
    ///
    /// # Errors
    /// A sentence naming what was found and what there is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let argument =
            |name: &str| -> Option<&str> { text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')') };
        Ok(match text {
            "avg" | "mean" => Self::Avg,
            "sum" => Self::Sum,
            "min" => Self::Min,
            "max" => Self::Max,
            "count" => Self::Count,
            "rate" => Self::Rate,
            "delta" => Self::Delta,
            "stddev" => Self::Stddev,
            "ewma" => Self::Ewma { gain: 16.0, single: false },
            "last" => Self::Last,
            "age" => Self::Age,
            "median" => Self::Percentile { rank: 50.0, interpolated: false },
            _ => {
                for (name, single) in [("ewma", false), ("ewma32", true)] {
                    if let Some(gain) = argument(name).and_then(|g| g.trim().parse::<f64>().ok())
                        && gain.is_finite()
                        && gain >= 0.0
                    {
                        return Ok(Self::Ewma { gain, single });
                    }
                }
                let (digits, interpolated) = match text.strip_suffix(" interpolated") {
                    Some(rest) => (rest, true),
                    None => (text, false),
                };
                match digits.strip_prefix('p').and_then(|d| d.parse::<f64>().ok()) {
                    Some(rank) if rank > 0.0 && rank <= 100.0 => Self::Percentile { rank, interpolated },
                    _ => {
                        return Err(format!(
                            "`{text}` is no aggregate; expected avg, sum, min, max, count, rate, delta, stddev, ewma, ewma(GAIN), ewma32(GAIN), last, age, median or a percentile such as p99 or p99.9"
                        ));
                    }
                }
            }
        })
    }
}

impl std::fmt::Display for Aggregate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Avg => f.write_str("avg"),
            Self::Sum => f.write_str("sum"),
            Self::Min => f.write_str("min"),
            Self::Max => f.write_str("max"),
            Self::Count => f.write_str("count"),
            Self::Rate => f.write_str("rate"),
            Self::Delta => f.write_str("delta"),
            Self::Stddev => f.write_str("stddev"),
            Self::Ewma { gain, single: false } => write!(f, "ewma({gain})"),
            Self::Ewma { gain, single: true } => write!(f, "ewma32({gain})"),
            Self::Percentile { rank, interpolated } => {
                write!(f, "p{rank}{}", if *interpolated { " interpolated" } else { "" })
            }
            Self::Last => f.write_str("last"),
            Self::Age => f.write_str("age"),
        }
    }
}

impl Serialize for Aggregate {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Aggregate {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Aggregate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Aggregate".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "How many values become one. Percentiles are nearest-rank unless `interpolated` follows.",
            "type": "string",
            "pattern": r"^(avg|mean|sum|min|max|count|rate|delta|stddev|ewma(\([0-9.]+\))?|ewma32\([0-9.]+\)|last|age|median|p[0-9]+(\.[0-9]+)?( interpolated)?)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aggregate_prints_as_it_reads() {
        for text in [
            "avg",
            "sum",
            "min",
            "max",
            "count",
            "rate",
            "delta",
            "stddev",
            "ewma(16)",
            "ewma32(16)",
            "p99",
            "p99.9",
            "p50 interpolated",
            "last",
            "age",
        ] {
            assert_eq!(Aggregate::parse(text).map(|a| a.to_string()), Ok(text.to_string()));
        }
        for bad in ["p0", "p101", "pp", "average", "ewma(-1)", "ewma(x)", ""] {
            assert!(Aggregate::parse(bad).is_err(), "{bad}");
        }
    }
}
