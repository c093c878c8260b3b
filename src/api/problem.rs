//! What goes wrong, as problem documents (RFC 9457).

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::samples::Refused;
use crate::model::PortError;
use crate::service::control::{ChangeError, Refusal};

/// The beginning of every `type`.
pub const URN: &str = "urn:homeostat:error:";

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A problem document (RFC 9457). Further members may be added; readers ignore what they do not know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:homeostat:error:` and the name of the error, such as `no-such-metric`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What is wrong here.
    #[serde(default)]
    pub detail: String,
    /// The path of the request.
    #[serde(default)]
    pub instance: String,
    /// `refused`: every error, `file:line:column: error: message (hint: …)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// `malformed-json` and `invalid`: the line of the body, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// `malformed-json` and `invalid`: the column in that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Samples: what was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Refused>,
}

impl Problem {
    /// A problem with the name `slug`.
    pub fn new(status: StatusCode, slug: &str, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            kind: format!("{URN}{slug}"),
            title: status.canonical_reason().unwrap_or("error").to_string(),
            status: status.as_u16(),
            detail: detail.into(),
            ..Self::default()
        })
    }

    /// The request is not acceptable (400, `invalid`).
    pub fn invalid(detail: impl Into<String>) -> Box<Self> {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
    }

    /// The body is not acceptable JSON: `malformed-json` when it is none, `invalid` when it says something else than it should.
    pub fn json(error: &serde_json::Error) -> Box<Self> {
        let slug = if error.is_data() { "invalid" } else { "malformed-json" };
        let place = (error.line() > 0).then(|| (error.line(), error.column()));
        let mut problem =
            Self::new(StatusCode::BAD_REQUEST, slug, format!("the body is not acceptable: {error}"));
        (problem.line, problem.column) = place.unzip();
        problem
    }

    /// The name of the error: the last part of `type`.
    pub fn slug(&self) -> &str {
        self.kind.strip_prefix(URN).unwrap_or(&self.kind)
    }
}

/// The HTTP status of what a port answers instead of what was asked for.
fn port_status(error: &PortError) -> StatusCode {
    match error {
        PortError::NoSuchService(_) | PortError::NoSuchMetric(_) | PortError::NoSuchSlo(_) => {
            StatusCode::NOT_FOUND
        }
        PortError::Exists(_)
        | PortError::NoMonitorAttached(_)
        | PortError::NoAnalyzerAttached(_)
        | PortError::NoPlannerAttached(_)
        | PortError::NoExecutorAttached(_)
        | PortError::NotPushed(_)
        | PortError::Conflict(_) => StatusCode::CONFLICT,
        PortError::MetricCycle(_) => StatusCode::UNPROCESSABLE_ENTITY,
        PortError::Invalid(_) => StatusCode::BAD_REQUEST,
        PortError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        PortError::Quarantined(_) | PortError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<PortError> for Box<Problem> {
    fn from(error: PortError) -> Self {
        Problem::new(port_status(&error), error.slug(), error.to_string())
    }
}

impl From<Refusal> for Box<Problem> {
    fn from(refusal: Refusal) -> Self {
        let mut problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", refusal.to_string());
        problem.problems = refusal.problems;
        problem
    }
}

impl From<ChangeError> for Box<Problem> {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refusal) => refusal.into(),
            ChangeError::Port(error) => error.into(),
        }
    }
}

/// The document itself is written by `render`, which knows the path of the request.
impl IntoResponse for Box<Problem> {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

/// No such route (404).
pub(super) async fn unknown_route(uri: Uri) -> Box<Problem> {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-route",
        format!("there is no `{}` here; `/openapi.json` lists what there is", uri.path()),
    )
}

/// No such method on this route (405). The `Allow` header is added by the router.
pub(super) async fn wrong_method(request: Request) -> Box<Problem> {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        format!("`{}` does not take {}; see `/openapi.json`", request.uri().path(), request.method()),
    )
}

/// Writes the problem documents, and makes one of every other error response (a path that is no UTF-8, say) that is none yet.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    let status = response.status();
    let mut problem = match response.extensions_mut().remove::<Box<Problem>>() {
        Some(problem) => problem,
        None if response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE) => {
            return response;
        }
        None if status.is_client_error() || status.is_server_error() => plain(&mut response).await,
        None => return response,
    };
    problem.instance = uri.path().to_string();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    *response.body_mut() = serde_json::to_vec(&problem).map_or_else(|_| Body::empty(), Body::from);
    response
}

async fn plain(response: &mut Response) -> Box<Problem> {
    let body = std::mem::replace(response.body_mut(), Body::empty());
    let text = axum::body::to_bytes(body, 4096).await.unwrap_or_default();
    let slug = match response.status() {
        StatusCode::BAD_REQUEST => "invalid",
        StatusCode::NOT_FOUND => "no-such-route",
        StatusCode::METHOD_NOT_ALLOWED => "method-not-allowed",
        _ => "http",
    };
    Problem::new(response.status(), slug, String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_named_like_the_port_error() {
        let problem = Box::<Problem>::from(PortError::NoAnalyzerAttached("A".into()));
        assert_eq!(problem.slug(), "no-analyzer-attached");
        assert_eq!(problem.status, 409);
        assert_eq!(problem.detail, "no analyzer attached to `A`");
    }

    /// Requirement: R3-26
    #[test]
    fn a_reader_ignores_members_that_it_does_not_know() {
        let text = r#"{"type":"urn:homeostat:error:x","status":400,"since_version_9":true}"#;
        let problem: Problem = serde_json::from_str(text).expect("tolerant");
        assert_eq!(problem.slug(), "x");
    }
}
