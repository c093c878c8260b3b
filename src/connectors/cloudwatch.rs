//! The newest data point of a cloud provider's own monitoring: JSON as Amazon CloudWatch answers it, which others copy.
//!
//! ```text
//! GetMetricStatistics  {"Label": "CPUUtilization", "Datapoints": [{"Timestamp": "2026-11-22T16:00:00Z", "Average": 42.5}, …]}   in any order
//! GetMetricData        {"MetricDataResults": [{"Timestamps": [1795363200, …], "Values": [42.5, …]}]}
//! ```
//! Requests are not signed: the URL is that of a gateway that signs, or of a provider that asks for nothing.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::fetch::{self, BODY_LIMIT};
use super::{Connectors, client, text};
use crate::model::connector::{BuiltSensor, CLOUDWATCH, ConnectorError, Sensor};
use crate::model::{Measurement, Timestamp, syntax};

/// What is asked where.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Where the statistics are.
    url: String,
    /// Which statistic of a data point: `Average` (when absent), `Sum`, `Minimum`, `Maximum`, `SampleCount`.
    #[serde(default = "average")]
    statistic: String,
}

fn average() -> String {
    "Average".into()
}

/// Makes such sensors buildable.
pub(super) fn register(connectors: &Connectors) {
    connectors.register_sensor(CLOUDWATCH, |config| {
        let config: Config = serde_json::from_value(config.clone())
            .map_err(|why| ConnectorError::Config(format!("`custom: {{ kind: {CLOUDWATCH} }}`: {why}")))?;
        let url = syntax::url(&config.url).map_err(ConnectorError::Config)?;
        Ok(BuiltSensor::Polled(Box::new(Statistics { client: client()?, url, statistic: config.statistic })))
    });
}

struct Statistics {
    client: reqwest::Client,
    url: url::Url,
    statistic: String,
}

#[async_trait]
impl Sensor for Statistics {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let what = format!("GET {}", fetch::shown(&self.url));
        let request = self.client.get(self.url.clone()).header("accept", "application/json");
        let fetched = fetch::get(request, &what, BODY_LIMIT).await?;
        let answer: Value = serde_json::from_slice(&fetched.body)
            .map_err(|why| ConnectorError::Answer(format!("{what} did not answer with JSON ({why})")))?;
        match newest(&answer, &self.statistic) {
            Ok(value) => Ok(vec![Measurement::value(value)]),
            Err(why) => Err(ConnectorError::Answer(format!("{what}: {why}"))),
        }
    }
}

/// The value of the newest data point.
///
/// # Errors
/// What is not there, as a sentence.
fn newest(answer: &Value, statistic: &str) -> Result<f64, String> {
    let inner = answer
        .pointer("/GetMetricStatisticsResponse/GetMetricStatisticsResult")
        .or_else(|| answer.pointer("/GetMetricDataResponse/GetMetricDataResult"))
        .unwrap_or(answer);
    let points: Vec<(Timestamp, &Value)> =
        match (inner.get("Datapoints"), inner.pointer("/MetricDataResults/0")) {
            (Some(Value::Array(points)), _) => points
                .iter()
                .filter_map(|point| Some((time(point.get("Timestamp")?)?, point.get(statistic)?)))
                .collect(),
            (None, Some(result)) => {
                let list = |name: &str| result.get(name).and_then(Value::as_array).into_iter().flatten();
                let both = list("Timestamps").zip(list("Values"));
                both.filter_map(|(at, value)| Some((time(at)?, value))).collect()
            }
            _ => return Err("there are neither `Datapoints` nor `MetricDataResults`".into()),
        };
    let newest = points.into_iter().max_by_key(|(at, _)| *at);
    let (_, value) =
        newest.ok_or_else(|| format!("there is no data point with a `Timestamp` and a `{statistic}`"))?;
    text::json_number(value)
}

/// Seconds since 1970, or RFC 3339.
fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(seconds) => {
            seconds.as_f64().filter(|s| s.abs() < 1e12).map(|s| Timestamp((s * 1e6) as i64))
        }
        Value::String(text) => Timestamp::parse(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_data_point_counts_wherever_it_stands() {
        let points = json!({ "Label": "CPUUtilization", "Datapoints": [
            { "Timestamp": "2026-11-22T16:05:00Z", "Average": 2.0, "Maximum": 20.0 },
            { "Timestamp": "2026-11-22T16:10:00Z", "Average": 3.0, "Maximum": 30.0 },
            { "Timestamp": "2026-11-22T16:00:00Z", "Average": 1.0, "Maximum": 10.0 },
        ]});
        assert_eq!((newest(&points, "Average"), newest(&points, "Maximum")), (Ok(3.0), Ok(30.0)));
        let wrapped = json!({ "GetMetricStatisticsResponse": { "GetMetricStatisticsResult": { "Datapoints": [
            { "Timestamp": 1_795_363_200.0, "Sum": 7.0 }, { "Timestamp": 1_795_363_100.0, "Sum": 8.0 } ] } } });
        assert_eq!(newest(&wrapped, "Sum"), Ok(7.0));
        let data = json!({ "MetricDataResults": [{ "Timestamps": [1_795_363_100, 1_795_363_200], "Values": [1.5, 2.5] }] });
        assert_eq!(newest(&data, "Average"), Ok(2.5));
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert!(newest(&json!({}), "Average").is_err_and(|why| why.contains("Datapoints")));
        let none = json!({ "Datapoints": [{ "Timestamp": "2026-11-22T16:05:00Z", "Sum": 2.0 }] });
        assert!(newest(&none, "Average").is_err_and(|why| why.contains("`Average`")));
    }
}
