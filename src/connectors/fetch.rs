//! HTTP for the connectors: one client, capped bodies, errors that name the address and hide what may be secret in it.

use std::collections::BTreeMap;

use super::fill::{self, Arguments};
use crate::model::connector::ConnectorError;
use crate::model::template::{Holes, Template};

/// The most of an answer that a sensor or effector takes, bytes.
pub(super) const BODY_LIMIT: usize = 1024 * 1024;

/// Header templates, parsed once.
pub(super) type Headers = Vec<(String, Template)>;

/// An answer, whatever its status.
pub(super) struct Fetched {
    pub(super) status: reqwest::StatusCode,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    /// The body was longer than the limit; what is there is its beginning.
    pub(super) cut: bool,
}

/// The client that all connectors share. It follows no redirects (a POST would become a GET, and secrets would travel along)
/// and uses no proxy from the environment (what it talks to is mostly this machine).
pub(crate) fn client() -> Result<reqwest::Client, ConnectorError> {
    #[cfg(feature = "tls")]
    {
        // Fails only when the program has already chosen a provider, which is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    reqwest::Client::builder()
        .user_agent(concat!("homeostat/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|e| ConnectorError::Config(format!("the HTTP client cannot be built: {e}")))
}

/// Parses the headers of a policy.
pub(super) fn headers(written: &BTreeMap<String, String>, holes: Holes) -> Result<Headers, ConnectorError> {
    written.iter().map(|(name, value)| Ok((name.clone(), fill::parse(value, holes)?))).collect()
}

/// Headers with their secrets filled in, at this moment.
///
/// # Errors
/// What is malformed, or which secret is not there; never the secret.
pub(crate) async fn secret_headers(
    written: &BTreeMap<String, String>,
) -> Result<reqwest::header::HeaderMap, ConnectorError> {
    let mut filled = reqwest::header::HeaderMap::new();
    for (name, template) in headers(written, Holes::Secrets)? {
        let known = reqwest::header::HeaderName::from_bytes(name.as_bytes());
        let known = known.map_err(|_| ConnectorError::Config(format!("`{name}` is no header name")))?;
        filled.insert(known, fill::header(&name, &template, None).await?);
    }
    Ok(filled)
}

/// Adds headers, filled in.
pub(super) async fn with_headers(
    mut request: reqwest::RequestBuilder,
    headers: &Headers,
    arguments: &Arguments,
) -> Result<reqwest::RequestBuilder, ConnectorError> {
    for (name, template) in headers {
        request = request.header(name, fill::header(name, template, Some(arguments)).await?);
    }
    Ok(request)
}

/// An address for messages: without user, password, query and fragment, which may be secret.
pub(super) fn shown(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// Sends a request and reads the answer up to `limit` bytes. `what` is `GET http://…`, for errors.
pub(super) async fn send(
    request: reqwest::RequestBuilder,
    what: &str,
    limit: usize,
) -> Result<Fetched, ConnectorError> {
    let mut response = request.send().await.map_err(|e| failure(e, what))?;
    let status = response.status();
    let content_type = response
        .headers()
        .get(reqwest::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_string();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failure(e, what))? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Fetched { status, content_type, body, cut: true });
        }
    }
    Ok(Fetched { status, content_type, body, cut: false })
}

/// Sends a GET and insists on a 2xx and a body within `limit`.
pub(super) async fn get(
    request: reqwest::RequestBuilder,
    what: &str,
    limit: usize,
) -> Result<Fetched, ConnectorError> {
    let fetched = send(request, what, limit).await?;
    if !fetched.status.is_success() {
        return Err(ConnectorError::Answer(format!(
            "{what} answered {}{}",
            fetched.status,
            fetched.excerpt()
        )));
    }
    if fetched.cut {
        return Err(ConnectorError::Answer(format!("{what} answered with more than {limit} bytes")));
    }
    Ok(fetched)
}

impl Fetched {
    /// `: ` and the first 200 characters of the body, or nothing when it is empty.
    pub(super) fn excerpt(&self) -> String {
        let text = super::text::shorten(&String::from_utf8_lossy(&self.body), 200);
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

fn failure(error: reqwest::Error, what: &str) -> ConnectorError {
    if error.is_timeout() {
        return ConnectorError::Unreachable(format!("{what}: the connection timed out"));
    }
    ConnectorError::Unreachable(format!("{what}: {}", root(&error.without_url())))
}

/// What an error began with.
pub(super) fn root(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
