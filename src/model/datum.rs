//! Data: values that are said of resources, by collectors or by the results of other services, before anybody knows who will read them.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Resource, Timestamp};

/// One value of one metric of one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Datum {
    /// The id of the resource.
    #[serde(rename = "r")]
    pub resource: Arc<str>,
    /// The value, finite, in the metric's unit; or NaN for text, which can only be counted (a record writes it as `null`).
    #[serde(rename = "v", deserialize_with = "number_or_text")]
    pub value: f64,
    /// When it arrived; of a result, the time of the newest datum that it was computed from.
    #[serde(rename = "t")]
    pub at: Timestamp,
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// A change of the resource model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelChange {
    /// A resource is there, or is different.
    Put(Arc<Resource>),
    /// A resource is gone.
    Remove(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_null_in_a_record_and_read_back() {
        let datum = |value| Datum { resource: "vm1".into(), value, at: Timestamp(1) };
        let text = serde_json::to_string(&datum(f64::NAN)).expect("json");
        assert!(text.contains("\"v\":null"), "{text}");
        assert!(serde_json::from_str::<Datum>(&text).expect("a datum").value.is_nan());
        let text = serde_json::to_string(&datum(1.5)).expect("json");
        assert_eq!(serde_json::from_str::<Datum>(&text).expect("a datum"), datum(1.5));
    }
}
