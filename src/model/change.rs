//! How a change of a property is noticed without looking: by the calls that change it, by the service's own stream of events, or by its call (S4; R4-10).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A call through `listen` that may change a property.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangedBy {
    /// Which: a method and a path with holes, as routes are written: `PUT /admin/pool`, `POST /items/{id}`; without a method, any.
    pub call: String,
    /// Which body says the new value, when the call was answered with 2xx; the property is asked once after the call, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<BodyOf>,
    /// JSON pointer to the value in that body; the whole body, when absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
}

/// Whose body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BodyOf {
    /// That of the request.
    Request,
    /// That of the answer.
    Response,
}

/// Where a service tells of changes as server-sent events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventSource {
    /// A URL, or a path at the `endpoint` of the service.
    pub url: String,
    /// Only events of this name; all, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// JSON pointer to the value in the data of an event; the whole data, when absent. Without a value there, the property is asked once.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
}

/// How a service tells of changes by a call to the management listener: `POST /_mon/properties/{name}/changed`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// JSON pointer to the value in the body; the whole body, when absent. Without a value there, the property is asked once.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
}

impl ChangedBy {
    /// Says what is wrong with it.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn check(&self) -> Result<(), String> {
        let (method, path) = match self.call.trim().split_once(' ') {
            Some((method, path)) => (method, path.trim()),
            None => ("", self.call.trim()),
        };
        if !path.starts_with('/') || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            let call = &self.call;
            return Err(format!("`call: {call}` is no route; expected one such as `PUT /admin/pool`"));
        }
        if self.from.is_none() && !self.pointer.is_empty() {
            return Err("`pointer` goes with `from: request` or `from: response`".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_route_and_a_pointer_needs_a_body() {
        let check = |call: &str, from, pointer: &str| {
            ChangedBy { call: call.into(), from, pointer: pointer.into() }.check()
        };
        assert_eq!(check("PUT /admin/pool", Some(BodyOf::Request), "/workers"), Ok(()));
        assert_eq!(check("/items/{id}", None, ""), Ok(()));
        assert!(check("put /a", None, "").is_err_and(|why| why.contains("PUT /admin/pool")));
        assert!(check("PUT", None, "").is_err());
        assert!(check("PUT /a", None, "/x").is_err_and(|why| why.contains("from: request")));
    }
}
