//! Where services listen, and where homeostat does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An IP address and a port: where homeostat listens.
pub type Address = SocketAddr;

/// Reads an address that homeostat is to listen on.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn parse_address(text: &str) -> Result<Address, String> {
    match text.parse::<Address>() {
        Ok(address) if address.port() == 0 => {
            Err(format!("`{text}` has port 0; expected a port that clients can know, such as 8080"))
        }
        Ok(address) => Ok(address),
        Err(_) => {
            Err(format!("`{text}` is no address; expected an IP address and a port, such as 127.0.0.1:8080"))
        }
    }
}

/// Whether `host` or `host:port` names this machine, and nothing else can: a loopback address, or `localhost`.
pub fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => host,
        _ => authority,
    };
    // An IPv6 address without a port ends like one with a port.
    let local = |host: &str| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    };
    local(host) || local(authority)
}

/// Whether what connects to `host:port` reaches a listener at `listen`, as far as the text shows.
pub fn reaches(endpoint: &str, listen: &Address) -> bool {
    let to = match endpoint.rsplit_once(':') {
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => format!("127.0.0.1:{port}").parse(),
        _ => endpoint.parse::<Address>(),
    };
    let Ok(to) = to else { return false };
    let (ip, at) = (to.ip().to_canonical(), listen.ip().to_canonical());
    let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    to.port() == listen.port()
        && (ip == at || local(ip) && at.is_unspecified() || ip.is_unspecified() && local(at))
}

/// Whether a socket at `listen` may be what is reached at `host:port`, as far as the text shows: the same port, and no two different addresses.
pub fn may_be(endpoint: &str, listen: &Address) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let at = listen.ip().to_canonical();
    let same = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => at.is_unspecified() || ip.is_unspecified() || ip.to_canonical() == at,
        Err(_) => true,
    };
    same && port.parse() == Ok(listen.port())
}

/// What is spoken at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0, HTTP/1.1, or HTTP/2 by prior knowledge; without TLS.
    Http,
    /// Anything over TCP.
    Tcp,
}

/// Where a service listens: `http://host:port`, `tcp://host:port`, or `host:port`, which is HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// What is spoken there.
    pub protocol: Protocol,
    /// `host:port`, an IPv6 address in brackets.
    pub address: Arc<str>,
}

impl Endpoint {
    /// Reads an endpoint.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const RIGHT: &str = "expected `http://HOST:PORT`, `tcp://HOST:PORT` or `HOST:PORT`";
        let (protocol, rest) = match text.split_once("://") {
            None => (Protocol::Http, text),
            Some(("http", rest)) => (Protocol::Http, rest.strip_suffix('/').unwrap_or(rest)),
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            Some(("https", _)) => {
                return Err(format!(
                    "`{text}` is https; the membrane speaks to services without TLS; {RIGHT}"
                ));
            }
            Some((scheme, _)) => return Err(format!("`{scheme}` is not spoken here; {RIGHT}")),
        };
        if rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
            return Err(format!("`{text}` is more than a host and a port; {RIGHT}"));
        }
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(format!("`{text}` has no port; {RIGHT}"));
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || host.len() > 256 || host.contains(':') && !bracketed {
            return Err(format!("`{text}` has no host; {RIGHT}"));
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self { protocol, address: rest.into() }),
            _ => Err(format!("`{port}` is no port; {RIGHT}")),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// A service that runs already, and listens itself where homeostat is to stand in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiveSpec {
    /// The process that is meant; whichever listens there, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_at_an_endpoint_may_be_what_listens() {
        let is = |endpoint: &str, listen: &str| may_be(endpoint, &listen.parse().unwrap());
        for (endpoint, listen) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("10.0.0.1:80", "[::]:80"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert!(is(endpoint, listen), "{endpoint} {listen}");
        }
        for (endpoint, listen) in [
            ("127.0.0.1:81", "127.0.0.1:80"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("localhost:81", "0.0.0.0:80"),
        ] {
            assert!(!is(endpoint, listen), "{endpoint} {listen}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let read = |text: &str| Endpoint::parse(text).map(|e| e.to_string());
        assert_eq!(read("127.0.0.1:9000").unwrap(), "http://127.0.0.1:9000");
        assert_eq!(read("http://localhost:80/").unwrap(), "http://localhost:80");
        assert_eq!(read("tcp://[::1]:5432").unwrap(), "tcp://[::1]:5432");
        for bad in [
            "",
            "localhost",
            ":80",
            "host:0",
            "host:70000",
            "https://host:443",
            "ftp://host:21",
            "http://host:80/path",
            "::1:80",
            "http://user@host:80",
            "a b:80",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
