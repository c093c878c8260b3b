//! A notification as a CloudEvent (CNCF, version 1.0.2): attributes beside the data in the headers of a call (binary mode), or around them in a batch.

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::Notification;

/// The media types of a single event in binary mode, and of a batch.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const BATCH: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");

/// One event.
#[derive(Debug, Clone)]
pub(super) struct CloudEvent {
    attributes: [(&'static str, String); 6],
    data: Value,
}

impl CloudEvent {
    /// The notification of this number in this subscription. Sent again, it has the same id.
    pub(super) fn new(notification: &Notification, changes: bool, subscription: u64, number: u64) -> Self {
        let Notification { service, property, timestamp, .. } = notification;
        let kind = if changes { "homeostat.property.changed" } else { "homeostat.property.read" };
        let attributes = [
            ("specversion", "1.0".to_string()),
            ("id", format!("{subscription}-{number}-{}", timestamp.0)),
            ("source", format!("/services/{service}/properties/{property}")),
            ("type", kind.to_string()),
            ("subject", property.to_string()),
            ("time", timestamp.to_string()),
        ];
        Self { attributes, data: serde_json::to_value(notification).unwrap_or_default() }
    }

    /// The headers of binary mode; the body is [`Self::data`].
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(reqwest::header::CONTENT_TYPE, JSON);
        for (name, value) in &self.attributes {
            let name = HeaderName::try_from(format!("ce-{name}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// The notification itself, as JSON.
    pub(super) fn data(&self) -> Bytes {
        self.data.to_string().into()
    }

    /// The event with its attributes around the notification.
    pub(super) fn whole(&self) -> Value {
        let mut whole = json!({ "datacontenttype": "application/json" });
        for (name, value) in &self.attributes {
            whole[*name] = value.as_str().into();
        }
        whole["data"] = self.data.clone();
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn an_event_says_the_same_in_both_modes() {
        let notification = Notification {
            service: "shop".into(),
            property: "rate".into(),
            old: json!(1),
            new: json!(2),
            timestamp: Timestamp(1_000_000),
            missed: 0,
            error: None,
        };
        let event = CloudEvent::new(&notification, true, 7, 3);
        let (headers, whole) = (event.headers(), event.whole());
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", "7-3-1000000"),
            ("source", "/services/shop/properties/rate"),
            ("type", "homeostat.property.changed"),
            ("subject", "rate"),
            ("time", "1970-01-01T00:00:01.000000Z"),
        ] {
            assert_eq!(headers[format!("ce-{name}")], value);
            assert_eq!(whole[name], value);
        }
        let data: Value = serde_json::from_slice(&event.data()).expect("JSON");
        assert_eq!((&data, &data["new"]), (&whole["data"], &json!(2)));
    }
}
