//! Who may. The clients of Tower 4Clouds have no tokens, so everybody may who reaches the listener, except that web pages of others must not
//! reach it through the browser of somebody here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Refused, Tower};
use crate::model::endpoint::is_loopback;

/// Lets a request pass, or answers 403.
pub(super) async fn admit(State(tower): State<Arc<Tower>>, request: Request, next: Next) -> Response {
    let local = tower.address.ip().to_canonical().is_loopback();
    match permitted(local, request.method(), request.uri(), request.headers()) {
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

/// - On a loopback address the host must be this machine by name: a name that resolves to 127.0.0.1 would make a strange page one of ours
///   (DNS rebinding). On other addresses browsers must use the address itself for the same reason; programs may use any name.
/// - What changes something must not come from a page of another origin, and from a browser it must say where it comes from.
fn permitted(local: bool, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let text = |name: HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let host = uri.authority().map(|a| a.as_str()).or_else(|| text(header::HOST)).unwrap_or_default();
    let site = headers.get("sec-fetch-site").map(|v| v.to_str().unwrap_or("?"));
    let agent = text(header::USER_AGENT).unwrap_or_default();
    let browser = site.is_some() || agent.starts_with("Mozilla/");
    if local && !host.is_empty() && !is_loopback(host) {
        return Err(format!(
            "the request is for the host `{host}`, and only this machine by name is served here"
        ));
    }
    if !local && browser && !is_loopback(host) && !is_address(host) {
        return Err(format!("browsers must use the address of this machine, not the name `{host}`"));
    }
    if !changes(method, uri) {
        return Ok(());
    }
    let origin = text(header::ORIGIN);
    let from = origin.or_else(|| text(header::REFERER)).map(authority);
    match (from, site) {
        (Some(from), _) if !from.eq_ignore_ascii_case(host) => {
            Err(format!("the request comes from `{from}`, and only pages of this server may change something"))
        }
        (_, Some("cross-site" | "same-site" | "?")) => {
            Err("the request comes from a page of somebody else, and only pages of this server may change something".into())
        }
        (None, None) if browser => {
            Err("the browser does not say which page the request comes from; use the pages below /webapp/".into())
        }
        _ => Ok(()),
    }
}

fn is_address(host: &str) -> bool {
    let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = bare.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    name.parse::<IpAddr>().is_ok() || host.parse::<IpAddr>().is_ok()
}

fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(local: bool, method: Method, uri: &str, headers: &[(&'static str, &str)]) -> bool {
        let map: HeaderMap = headers
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).expect("value")))
            .collect();
        permitted(local, &method, &uri.parse().expect("uri"), &map).is_ok()
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
