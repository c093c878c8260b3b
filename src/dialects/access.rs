//! Who may. The clients of these dialects have no tokens of ours, so everybody may who reaches the listener, except that web pages of others
//! must not reach it through the browser of somebody here. And what they get is called by random names.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Uri, header};

use crate::model::endpoint::is_loopback;

/// - On a loopback address the host must be this machine by name: a name that resolves to 127.0.0.1 would make a strange page one of ours
///   (DNS rebinding). On other addresses browsers must use the address itself for the same reason; programs may use any name.
/// - What changes something must not come from a page of another origin, and from a browser it must say where it comes from.
///
/// # Errors
/// A sentence that says why not.
pub(super) fn permitted(local: bool, changes: bool, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
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
    if !changes {
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
            Err("the browser does not say which page the request comes from; use the pages of this server".into())
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

/// A random UUID (RFC 9562, version 4).
pub(super) fn uuid() -> String {
    use std::hash::{BuildHasher, Hasher};
    // The keys of these come from the operating system.
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    let (a, b) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0x3fff | 0x8000,
        b & 0xffff_ffff_ffff
    )
}
