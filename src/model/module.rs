//! The modules that a micro-container is made of, and the section of a descriptor that says which (S4; R4-16, R4-20 to R4-24).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One module. What is not packed is not started and not listening, whatever a policy says later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// Communication: HTTP/1.0 and HTTP/1.1.
    Http,
    /// Communication: HTTP/2 by prior knowledge, beside HTTP/1.
    Http2,
    /// Communication: anything over TCP.
    Tcp,
    /// Communication: local ports through which a service reaches what it uses.
    References,
    /// Service: the program is started, kept running, ended.
    Process,
    /// Monitoring: properties and methods (the generic proxy of S4).
    Polling,
    /// Monitoring: subscriptions on interval.
    Interval,
    /// Monitoring: subscriptions on change.
    Change,
    /// Monitoring: sensors that wait for datagrams (`udp`, `statsd`, `collectd`).
    Datagrams,
    /// Administration: the API of homeostat.
    Api,
}

impl Module {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::Http,
        Self::Http2,
        Self::Tcp,
        Self::References,
        Self::Process,
        Self::Polling,
        Self::Interval,
        Self::Change,
        Self::Datagrams,
        Self::Api,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
            Self::References => "references",
            Self::Process => "process",
            Self::Polling => "polling",
            Self::Interval => "interval",
            Self::Change => "change",
            Self::Datagrams => "datagrams",
            Self::Api => "api",
        }
    }

    /// What S4 calls the part of the micro-container that it belongs to.
    pub fn part(self) -> &'static str {
        match self {
            Self::Http | Self::Http2 | Self::Tcp | Self::References => "communication",
            Self::Process => "service",
            Self::Polling | Self::Interval | Self::Change | Self::Datagrams => "monitoring",
            Self::Api => "administration",
        }
    }

    /// The protocols that it speaks to clients.
    pub fn protocols(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["HTTP/1.0", "HTTP/1.1"],
            Self::Http2 => &["HTTP/2"],
            Self::Tcp => &["TCP"],
            Self::Datagrams => &["UDP"],
            Self::Polling | Self::Interval | Self::Change | Self::Api => &["HTTP/1.1"],
            Self::References | Self::Process => &[],
        }
    }
}

/// The modules that there are in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modules(BTreeSet<Module>);

impl Default for Modules {
    fn default() -> Self {
        Self(Module::ALL.into())
    }
}

impl FromIterator<Module> for Modules {
    fn from_iter<I: IntoIterator<Item = Module>>(modules: I) -> Self {
        Self(modules.into_iter().collect())
    }
}

impl Modules {
    /// Whether there is this one.
    pub fn has(&self, module: Module) -> bool {
        self.0.contains(&module)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = Module> + '_ {
        self.0.iter().copied()
    }
}

/// What `homeostat pack` makes of a service; without meaning when the policy is run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackSpec {
    /// The files and directories of the service, beside the descriptor; they keep their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<String>,
    /// What is spoken at `listen`; what `endpoint` says, when absent: `[http]` or `[tcp]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<PackProtocol>>,
    /// Where the API listens; nowhere, when absent. A loopback address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The image that the Containerfile begins with; `debian:stable-slim`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Whether a text names an image as registries do: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`. Nothing else may stand in the first line of a Containerfile.
pub fn is_image(text: &str) -> bool {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let start = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[start..].split_once(':') {
        Some((name, tag)) => (&rest[..start + name.len()], Some(tag)),
        None => (rest, None),
    };
    let made_of = |text: &str, more: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
    };
    let parts: Vec<&str> = path.split('/').collect();
    let named = parts.iter().enumerate().all(|(at, part)| match part.split_once(':') {
        Some((host, port)) => {
            at == 0 && parts.len() > 1 && made_of(host, ".-") && port.parse::<u16>().is_ok()
        }
        None => {
            made_of(part, "._-")
                && (at == 0 && parts.len() > 1 || !part.bytes().any(|b| b.is_ascii_uppercase()))
        }
    });
    let digested = |digest: &str| {
        digest.split_once(':').is_some_and(|(kind, hex)| {
            made_of(kind, "+._-") && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    named && tag.is_none_or(|tag| tag.len() <= 128 && made_of(tag, "._-")) && digest.is_none_or(digested)
}

/// A protocol that a micro-container can speak to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackProtocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http,
    /// HTTP/2 by prior knowledge, beside HTTP/1.
    Http2,
    /// Anything over TCP.
    Tcp,
}

impl PackProtocol {
    /// The modules that speak it.
    pub fn modules(self) -> &'static [Module] {
        match self {
            Self::Http => &[Module::Http],
            Self::Http2 => &[Module::Http, Module::Http2],
            Self::Tcp => &[Module::Tcp],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_image;

    #[test]
    fn an_image_is_what_registries_call_one() {
        let digest = format!("python@sha256:{}", "0a".repeat(32));
        for good in ["scratch", "python:3-slim", "h:5000/a/b_c:V1.0", "Reg.example/a", digest.as_str()] {
            assert!(is_image(good), "{good}");
        }
        for bad in [
            "",
            "a\nRUN b",
            "a b",
            "a\"",
            "--platform=x",
            "a:",
            "a@b",
            "A",
            "a//b",
            "/a",
            "a:b:c",
            "a/b:80/c",
            "${A}",
        ] {
            assert!(!is_image(bad), "{bad}");
        }
    }
}
