//! Who may: bearer tokens with roles, and the refusal to be reached from elsewhere without them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use super::Shared;
use super::problem::Problem;
use crate::model::endpoint::is_loopback;

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Look at everything, change nothing.
    Viewer,
    /// Everything.
    Operator,
    /// Push samples, and nothing else.
    Pusher,
}

impl Role {
    /// The role of this name: `viewer`, `operator` or `pusher`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "viewer" => Some(Self::Viewer),
            "operator" => Some(Self::Operator),
            "pusher" => Some(Self::Pusher),
            _ => None,
        }
    }

    /// Whether it may send this request.
    fn may(self, method: &Method, path: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::Viewer => matches!(*method, Method::GET | Method::HEAD),
            Self::Pusher => *method == Method::POST && pushes(path),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Pusher => "pusher",
        })
    }
}

/// `/v1/samples` and `/v1/services/{s}/metrics/{m}/samples`.
fn pushes(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(parts.as_slice(), ["", "v1", "samples"] | ["", "v1", "services", _, "metrics", _, "samples"])
}

/// The tokens that open the API. Without any it is open to everyone who reaches it, which [`check_listen`] allows on loopback only.
#[derive(Clone, Default)]
pub struct Access {
    /// Each token with the role of its holder.
    pub tokens: Vec<(Role, String)>,
}

/// Tokens are never printed.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.tokens.iter().map(|(role, _)| role)).finish()
    }
}

impl Access {
    /// Whether everyone may do everything.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The role of the holder of `token`. Compares with every token in a time that says nothing about them but their lengths.
    fn role(&self, token: &[u8]) -> Option<Role> {
        self.tokens.iter().fold(None, |found, (role, known)| {
            let same: Choice = known.as_bytes().ct_eq(token);
            if bool::from(same) { Some(*role) } else { found }
        })
    }
}

/// Refuses to listen where others can reach an API without a token.
///
/// # Errors
/// A sentence naming the address and what would be right.
pub fn check_listen(addr: SocketAddr, access: &Access) -> Result<(), String> {
    if let Some((role, _)) = access.tokens.iter().find(|(_, token)| token.trim().is_empty()) {
        return Err(format!("the token of a {role} is empty; give it at least one character"));
    }
    if access.is_open() && !addr.ip().to_canonical().is_loopback() {
        return Err(format!(
            "refusing to listen on {addr} without a token: everyone who reaches it could change what runs; \
             give at least one token, or listen on a loopback address such as 127.0.0.1:{}",
            addr.port()
        ));
    }
    Ok(())
}

/// Lets a request pass, or answers 401 or 403.
pub(super) async fn authorize(State(app): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if matches!(path, "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let verdict = if app.access.is_open() {
        from_here(request.uri(), request.headers())
    } else {
        permitted(&app.access, &request)
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    }
}

fn permitted(access: &Access, request: &Request) -> Result<(), Box<Response>> {
    let role = bearer(request.headers()).and_then(|token| access.role(token.as_bytes()));
    match role {
        None => Err(Box::new(unauthorized(request.headers().contains_key(header::AUTHORIZATION)))),
        Some(role) if role.may(request.method(), request.uri().path()) => Ok(()),
        Some(role) => Err(forbidden(format!(
            "a {role} may not {} `{}`; an operator may",
            request.method(),
            request.uri().path()
        ))),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(given: bool) -> Response {
    let (detail, challenge) = if given {
        ("the token is not known here", "Bearer realm=\"homeostat\", error=\"invalid_token\"")
    } else {
        ("send a token: `authorization: Bearer …`", "Bearer realm=\"homeostat\"")
    };
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

fn forbidden(detail: String) -> Box<Response> {
    Box::new(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response())
}

/// Without tokens, a web page could reach a loopback port through the browser of someone here: a name that resolves to 127.0.0.1
/// makes it the page's own origin (DNS rebinding). So the host must be this machine by name, and so must the origin, if there is one.
fn from_here(uri: &Uri, headers: &HeaderMap) -> Result<(), Box<Response>> {
    let text = |name: header::HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let host = uri.host().or_else(|| text(header::HOST));
    if let Some(host) = host
        && !is_loopback(host)
    {
        return Err(forbidden(format!(
            "the request is for the host `{host}`, and without a token only loopback names such as `localhost` are served"
        )));
    }
    if let Some(origin) = text(header::ORIGIN) {
        let authority = origin.split_once("://").map_or(origin, |(_, rest)| rest);
        if !is_loopback(authority) {
            return Err(forbidden(format!(
                "the request comes from the origin `{origin}`, and without a token only pages of this machine may ask"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Access {
        Access { tokens: vec![(Role::Operator, "s3cret".into())] }
    }

    #[test]
    fn an_open_api_listens_on_loopback_only() {
        let open = Access::default();
        let at = |text: &str| text.parse::<SocketAddr>().expect(text);
        for good in ["127.0.0.1:7700", "[::1]:7700", "127.8.8.8:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check_listen(at(good), &open), Ok(()));
        }
        for bad in ["0.0.0.0:7700", "[::]:7700", "192.168.1.2:7700"] {
            assert!(check_listen(at(bad), &open).is_err_and(|e| e.contains(bad)), "{bad}");
            assert_eq!(check_listen(at(bad), &token()), Ok(()));
        }
        let empty = Access { tokens: vec![(Role::Viewer, " ".into())] };
        assert!(check_listen(at("127.0.0.1:1"), &empty).is_err());
    }

    #[test]
    fn a_pusher_reaches_samples_only() {
        let may = |method: Method, path| Role::Pusher.may(&method, path);
        assert!(may(Method::POST, "/v1/samples"));
        assert!(may(Method::POST, "/v1/services/A/metrics/cost/samples"));
        for path in ["/v1/services/A/samples", "/v1/services/A/actions", "/v1/policy/reload"] {
            assert!(!may(Method::POST, path), "{path}");
        }
        assert!(!may(Method::GET, "/v1/samples"));
    }

    #[test]
    fn loopback_names_are_told_from_others() {
        for good in ["localhost:7700", "127.0.0.1:7700", "[::1]:7700", "LOCALHOST", "[::1]"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["evil.example:7700", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "", "null"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn tokens_are_never_printed() {
        assert!(!format!("{:?}", token()).contains("s3cret"));
    }
}
