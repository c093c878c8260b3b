//! What changes something, and who may: see [`permitted`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Refused, Tower};
use crate::dialects::access::permitted;

/// Lets a request pass, or answers 403.
pub(super) async fn admit(State(tower): State<Arc<Tower>>, request: Request, next: Next) -> Response {
    let local = tower.address.ip().to_canonical().is_loopback();
    match permitted(local, changes(request.method(), request.uri()), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => Refused::new(StatusCode::FORBIDDEN, why).into_response(),
    }
}

/// Nothing here is to be kept by anybody on the way.
pub(super) async fn no_store(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a request changes something; the original has a GET that does.
fn changes(method: &Method, uri: &Uri) -> bool {
    let switches = uri.path().starts_with("/v1/monitoring-rules/") && uri.query().is_some();
    switches || !matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName};

    use super::*;

    fn ask(local: bool, method: Method, uri: &str, headers: &[(&'static str, &str)]) -> bool {
        let map: HeaderMap = headers
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).expect("value")))
            .collect();
        let uri: Uri = uri.parse().expect("uri");
        permitted(local, changes(&method, &uri), &uri, &map).is_ok()
    }

    #[test]
    fn pages_of_others_change_nothing() {
        let switch = "/v1/monitoring-rules/R?enabled=false";
        let here = ("host", "127.0.0.1:8170");
        for good in [
            &[here][..],
            &[("host", "localhost:8170")],
            &[here, ("user-agent", "Mozilla/5.0"), ("sec-fetch-site", "none")],
            &[here, ("origin", "http://127.0.0.1:8170")],
            &[here, ("user-agent", "Java/1.8")],
        ] {
            assert!(ask(true, Method::GET, switch, good), "{good:?}");
            assert!(ask(true, Method::POST, "/v1/monitoring-rules", good), "{good:?}");
        }
        for bad in [
            &[("host", "evil.example:8170")][..],
            &[here, ("origin", "http://evil.example")],
            &[here, ("origin", "null")],
            &[here, ("referer", "http://evil.example/page")],
            &[here, ("sec-fetch-site", "cross-site")],
            &[here, ("user-agent", "Mozilla/5.0")],
        ] {
            assert!(!ask(true, Method::GET, switch, bad), "{bad:?}");
            assert!(!ask(true, Method::GET, "/v1/monitoring-rules/R?%65nabled=true", bad), "{bad:?}");
            assert!(!ask(true, Method::POST, "/v1/monitoring-rules", bad), "{bad:?}");
        }
    }

    #[test]
    fn programs_elsewhere_may_use_a_name_and_browsers_only_an_address() {
        let named = ("host", "tower.example:8170");
        assert!(ask(false, Method::POST, "/v1/data-collectors", &[named]));
        assert!(!ask(false, Method::GET, "/webapp/", &[named, ("user-agent", "Mozilla/5.0")]));
        for address in ["10.0.0.1:8170", "[2001:db8::1]:8170", "127.0.0.1:8170"] {
            assert!(
                ask(false, Method::GET, "/webapp/", &[("host", address), ("user-agent", "Mozilla/5.0")]),
                "{address}"
            );
        }
    }
}
