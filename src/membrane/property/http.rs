//! Calls to the service itself: its admin endpoints and what stands for its methods. They go there directly, so that they count as no client's.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

use super::{PropertyError, TIMEOUT};
use crate::connectors;
use crate::model::HumanDuration;
use crate::model::manage::{CallMethod, HttpSource, MethodSpec, PropertyType, SetMethod};
use crate::model::template::{Holes, Part, Template};

/// The most of an answer that is taken, bytes.
const LARGEST: usize = 1 << 20;

/// The one of connectors: it follows no redirects and uses no proxy of the environment, because what it talks to is this service.
pub(super) fn client() -> reqwest::Client {
    connectors::client().unwrap_or_default()
}

/// The value that a property has by the word of the service.
pub(super) async fn read(
    client: &reqwest::Client,
    source: &HttpSource,
    kind: PropertyType,
    base: Option<&str>,
) -> Result<Value, PropertyError> {
    let url = address(&source.url, base, &Map::new())?;
    let call = Call { method: "GET", url, body: None, headers: &source.headers };
    let (headers, body) = call.send(client, source.timeout).await?;
    let Some(name) = &source.header else {
        return match parsed(&body) {
            // A text that looks like JSON of another kind is a text still, where one is declared.
            Value::String(text) => pick(text.into(), &source.pointer, &call.to_string()),
            _ if kind == PropertyType::String && source.pointer.is_empty() => {
                Ok(String::from_utf8_lossy(&body).into())
            }
            json => pick(json, &source.pointer, &call.to_string()),
        };
    };
    let said = headers
        .get(name)
        .ok_or_else(|| PropertyError::Failed(format!("{call} answered without the header `{name}`")))?;
    let text = String::from_utf8_lossy(said.as_bytes());
    kind.read(&text).map_err(|why| PropertyError::Failed(format!("{call}: `{name}`: {why}")))
}

/// Sets a property.
pub(super) async fn set(
    client: &reqwest::Client,
    source: &HttpSource,
    base: Option<&str>,
    value: &Value,
) -> Result<(), PropertyError> {
    let set = source.set.as_ref();
    let arguments: Map<String, Value> = [("value".to_string(), value.clone())].into_iter().collect();
    let url = set.and_then(|s| s.url.as_deref()).unwrap_or(&source.url);
    let body = match set.and_then(|s| s.body.as_deref()) {
        Some(text) => fill(text, &arguments, json)?,
        None => value.to_string(),
    };
    let method = set.map_or(SetMethod::default(), |s| s.method).word();
    let url = address(url, base, &arguments)?;
    let call = Call { method, url, body: Some(body), headers: &source.headers };
    call.send(client, source.timeout).await.map(drop)
}

/// Calls what stands for a method.
pub(super) async fn invoke(
    client: &reqwest::Client,
    spec: &MethodSpec,
    base: Option<&str>,
    params: &Map<String, Value>,
) -> Result<Value, PropertyError> {
    let body = match &spec.body {
        Some(text) => Some(fill(text, params, json)?),
        None if spec.method == CallMethod::Get => None,
        None => {
            let template = parse(&spec.url)?;
            let rest: Map<String, Value> = params
                .iter()
                .filter(|(name, _)| !template.arguments().any(|a| a == *name))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect();
            (!rest.is_empty()).then(|| Value::Object(rest).to_string())
        }
    };
    let url = address(&spec.url, base, params)?;
    let call = Call { method: spec.method.word(), url, body, headers: &spec.headers };
    let (_, answer) = call.send(client, spec.timeout).await?;
    pick(parsed(&answer), &spec.pointer, &call.to_string())
}

/// One call; shown without what may be secret in its query.
struct Call<'a> {
    method: &'static str,
    url: String,
    body: Option<String>,
    headers: &'a BTreeMap<String, String>,
}

impl std::fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.url.split(['?', '#']).next().unwrap_or_default())
    }
}

impl Call<'_> {
    /// Makes the call. Answers the headers of a 2xx, and its body.
    async fn send(
        &self,
        client: &reqwest::Client,
        timeout: Option<HumanDuration>,
    ) -> Result<(HeaderMap, Vec<u8>), PropertyError> {
        let limit = timeout.map_or(TIMEOUT, |t| t.0);
        tokio::time::timeout(limit, self.sent(client))
            .await
            .unwrap_or_else(|_: tokio::time::error::Elapsed| Err(self.late(limit)))
    }

    fn late(&self, limit: Duration) -> PropertyError {
        PropertyError::Timeout(self.to_string(), limit)
    }

    async fn sent(&self, client: &reqwest::Client) -> Result<(HeaderMap, Vec<u8>), PropertyError> {
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            let mut root: &dyn std::error::Error = &error;
            while let Some(source) = root.source() {
                root = source;
            }
            PropertyError::Failed(format!("{self}: {root}"))
        };
        let method = reqwest::Method::from_bytes(self.method.as_bytes()).unwrap_or_default();
        let mut request = client.request(method, &self.url);
        if let Some(body) = &self.body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        if !self.headers.is_empty() {
            let secrets = connectors::secret_headers(self.headers).await;
            request = request.headers(secrets.map_err(|e| PropertyError::Failed(format!("{self}: {e}")))?);
        }
        let mut response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LARGEST {
                return Err(PropertyError::Failed(format!("{self} answered with more than {LARGEST} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        match status.is_success() {
            true => Ok((headers, body)),
            false => Err(PropertyError::Answered {
                what: self.to_string(),
                status: status.as_u16(),
                body: parsed(&body),
            }),
        }
    }
}

/// A body as JSON, or as a text.
fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into())
}

fn pick(mut answer: Value, pointer: &str, call: &str) -> Result<Value, PropertyError> {
    let found = answer.pointer_mut(pointer).map(Value::take);
    found.ok_or_else(|| PropertyError::Failed(format!("{call} answered with nothing at `{pointer}`")))
}

pub(super) fn address(
    url: &str,
    base: Option<&str>,
    arguments: &Map<String, Value>,
) -> Result<String, PropertyError> {
    let filled = fill(url, arguments, quoted)?;
    match (filled.starts_with('/'), base) {
        (false, _) => Ok(filled),
        (true, Some(base)) => Ok(format!("{base}{filled}")),
        (true, None) => {
            Err(PropertyError::Failed(format!("`{filled}`: it is not known where the service listens")))
        }
    }
}

fn parse(text: &str) -> Result<Template, PropertyError> {
    Template::parse(text, Holes::Arguments).map_err(PropertyError::Failed)
}

fn fill(
    text: &str,
    arguments: &Map<String, Value>,
    write: fn(&Value, &mut String),
) -> Result<String, PropertyError> {
    let mut filled = String::new();
    for part in parse(text)?.parts() {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Argument(name) => write(arguments.get(name).unwrap_or(&Value::Null), &mut filled),
            Part::Environment(_) | Part::File(_) => {}
        }
    }
    Ok(filled)
}

fn json(value: &Value, text: &mut String) {
    text.push_str(&value.to_string());
}

/// As part of a URL: nothing in it can end the part that it stands in (RFC 3986, section 2.3).
fn quoted(value: &Value, text: &mut String) {
    let plain = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for byte in plain.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte))
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn a_parameter_stays_within_its_place() {
        let arguments = value!({ "a": "x/../y?z=1 é", "b": 2, "c": "\"q\"" });
        let arguments = arguments.as_object().expect("an object");
        assert_eq!(
            address("/i/{a}?n={b}", Some("http://h:1"), arguments).expect("a URL"),
            "http://h:1/i/x%2F..%2Fy%3Fz%3D1%20%C3%A9?n=2"
        );
        assert_eq!(
            fill(r#"{"b": {b}, "c": {c}}"#, arguments, json).expect("JSON"),
            r#"{"b": 2, "c": "\"q\""}"#
        );
        assert!(address("/i", None, arguments).is_err());
    }
}
