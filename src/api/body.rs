//! What comes in: bodies with limits in size and time, JSON with line and column in errors, query parameters without unknown names.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Limits on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body: usize,
    /// The largest bundle of policies, in bytes.
    pub bundle: usize,
    /// How long a client may take for a whole body.
    pub read: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 1 << 20, bundle: 8 << 20, read: Duration::from_secs(15) }
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON value.
    Json,
    /// One JSON value per line.
    Lines,
}

/// Reads a whole body of at most `limit` bytes within the time limit.
///
/// # Errors
/// 413 when it is longer, 408 when it takes longer, 400 when it breaks off.
pub(super) async fn read(body: Body, limit: usize, time: Duration) -> Result<Vec<u8>, Box<Problem>> {
    tokio::time::timeout(time, collect(body, limit)).await.unwrap_or_else(|_| {
        Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow-request",
            format!("the body did not arrive within {} s", time.as_secs_f64()),
        ))
    })
}

async fn collect(body: Body, limit: usize) -> Result<Vec<u8>, Box<Problem>> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body is longer than {limit} bytes; send it in parts"),
        )
    };
    let announced = axum::body::HttpBody::size_hint(&body);
    if announced.lower() > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(announced.lower()).unwrap_or(0));
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| Problem::invalid(format!("the body broke off: {e}")))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads a JSON body of at most `limit` bytes.
///
/// # Errors
/// 415 when it says to be something else, and whatever [`read`] and [`parse`] answer.
pub(super) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    time: Duration,
) -> Result<T, Box<Problem>> {
    if format(headers)? != Format::Json {
        return Err(wrong_type(headers));
    }
    parse(&read(body, limit, time).await?)
}

/// Parses JSON.
///
/// # Errors
/// 400 with line and column: `malformed-json` when it is no JSON, `invalid` when it is not what is expected here.
pub(super) fn parse<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Box<Problem>> {
    serde_json::from_slice(bytes).map_err(|e| Problem::json(&e))
}

/// How the body says that it is written. A browser sends neither without asking first, which keeps strange pages out.
///
/// # Errors
/// 415 for anything but JSON and JSON lines.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Box<Problem>> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Format::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Format::Lines),
        _ if essence.starts_with("application/") && essence.ends_with("+json") => Ok(Format::Json),
        _ => Err(wrong_type(headers)),
    }
}

fn wrong_type(headers: &HeaderMap) -> Box<Problem> {
    let found = match headers.get(header::CONTENT_TYPE) {
        Some(value) => format!("the body is `{}`", String::from_utf8_lossy(value.as_bytes())),
        None => "the body has no content type".to_string(),
    };
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        format!("{found}; send `content-type: application/json`"),
    )
}

/// Query parameters; unknown names and malformed values are 400.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Box<Problem>> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|e| Problem::invalid(e.body_text()))
    }
}

/// When the name in the body and the name in the path differ.
pub(super) fn same_name(what: &str, path: &str, body: &str) -> Result<(), Box<Problem>> {
    if path == body {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "name-mismatch",
        format!("the path names the {what} `{path}` and the body `{body}`; they must agree"),
    ))
}
