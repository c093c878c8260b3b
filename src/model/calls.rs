//! What policies say about calls: how long they may take, how they are shared by candidates, when they are sent again, and when a candidate
//! gets none.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HumanDuration;
use super::endpoint::{Address, Endpoint};

/// The most that a weight may be.
pub const MAX_WEIGHT: u32 = 10_000;

/// The most often that a call may be sent again.
pub const MAX_RETRIES: u32 = 10;

/// How often a candidate is checked when the policy does not say.
pub const DEFAULT_HEALTH_EVERY: HumanDuration = HumanDuration::seconds(2);

/// How long a check may take when the policy does not say.
pub const DEFAULT_HEALTH_TIMEOUT: HumanDuration = HumanDuration::seconds(1);

/// How many checks in a row must fail until a candidate is unhealthy when the policy does not say.
pub const DEFAULT_FALL: u32 = 3;

/// How many checks in a row must pass until a candidate is healthy again when the policy does not say.
pub const DEFAULT_RISE: u32 = 2;

/// How many errors in a row take a candidate out when the policy does not say.
pub const DEFAULT_EJECT_ERRORS: u32 = 5;

/// For how long, at first, when the policy does not say.
pub const DEFAULT_EJECT_FOR: HumanDuration = HumanDuration::seconds(30);

/// The share of candidates, in percent, that may be out at once when the policy does not say.
pub const DEFAULT_EJECT_MOST: u32 = 50;

/// What a listening port allows its clients, and the services behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// How many clients may be connected at once; more wait until one leaves. 10,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// How long a service may take to accept a connection (then 504); 3 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<HumanDuration>,
    /// How long a service may take until the header section of its answer is there (then 504); as long as it likes, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_timeout: Option<HumanDuration>,
    /// How long a client may pause within the body of a request (then 408); 1 min when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_timeout: Option<HumanDuration>,
}

impl LimitsSpec {
    /// Everything that is wrong with it: the field, and what would be right.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.max_connections == Some(0) {
            problems.push(("max_connections", "nobody could connect; expected at least 1".into()));
        }
        for (field, time) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("body_timeout", self.body_timeout),
        ] {
            if time.is_some_and(|t| t.0.is_zero()) {
                problems.push((field, "expected more than nothing, such as 5s".into()));
            }
        }
        problems
    }
}

/// How it is found out whether a candidate is able to work: exactly one of `path` and `tcp`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// It answers a GET of this path at its `endpoint` with 2xx or 3xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `true`: it accepts connections at its `endpoint`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp: bool,
    /// How often it is checked; 2 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// How long a check may take before it counts as failed; 1 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// How many checks in a row must fail until it is unhealthy; 3 when absent. The first check of all decides at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// How many checks in a row must pass until it is healthy again; 2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
}

impl HealthSpec {
    /// How often it is checked.
    pub fn every(&self) -> HumanDuration {
        self.every.unwrap_or(DEFAULT_HEALTH_EVERY)
    }

    /// How long a check may take.
    pub fn timeout(&self) -> HumanDuration {
        self.timeout.unwrap_or(DEFAULT_HEALTH_TIMEOUT)
    }

    /// Everything that is wrong with it: the field, and what would be right.
    pub fn problems(&self) -> Vec<(Option<&'static str>, String)> {
        let mut problems = Vec::new();
        match (&self.path, self.tcp) {
            (Some(_), false) | (None, true) => {}
            (Some(_), true) => problems.push((None, "both `path` and `tcp` are given; expected one".into())),
            (None, false) => problems.push((
                None,
                "expected `path: /healthz`, or `tcp: true` to look whether it accepts connections".into(),
            )),
        }
        if let Some(path) = &self.path
            && (!path.starts_with('/') || path.chars().any(|c| c.is_whitespace() || c.is_control()))
        {
            problems.push((Some("path"), format!("`{path}` is no path; expected one such as /healthz")));
        }
        for (field, time) in [("every", self.every), ("timeout", self.timeout)] {
            if time.is_some_and(|t| t.0.is_zero()) {
                problems.push((Some(field), "expected more than nothing, such as 2s".into()));
            }
        }
        for (field, count) in [("fall", self.fall), ("rise", self.rise)] {
            if count == Some(0) {
                problems.push((Some(field), "expected at least 1".into()));
            }
        }
        problems
    }
}

/// When a candidate that answers with errors is taken out for a while.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EjectSpec {
    /// How many calls in a row it must fail, or answer with 5xx; 5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u32>,
    /// For how long it is out; twice as long when it happens again soon, and so on up to 10 times. 30 s when absent.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub time: Option<HumanDuration>,
    /// The share of the candidates that may be out at once (one always may, unless it is the last): `50%` or 0.5, which it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<Share>,
}

/// A share of a whole, as people write it: `50%`; a bare number is a ratio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Share {
    /// From 0 to 1.
    Ratio(f64),
    /// A number with `%`.
    Text(String),
}

impl Share {
    /// In whole percent, from 1 to 100.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub fn percent(&self) -> Result<u32, String> {
        let (percent, text) = match self {
            Self::Ratio(ratio) => (Some(ratio * 100.0), ratio.to_string()),
            Self::Text(text) => {
                (text.trim().strip_suffix('%').and_then(|n| n.trim().parse().ok()), text.clone())
            }
        };
        match percent {
            Some(percent) if (1.0..=100.0).contains(&percent) => Ok(percent.round() as u32),
            _ => Err(format!(
                "`{text}` is no share of the candidates; expected more than 0% and at most 100%, such as 50%"
            )),
        }
    }
}

impl EjectSpec {
    /// What holds, or everything that is wrong with it: the field, and what would be right.
    ///
    /// # Errors
    /// No retry mends what is wrong.
    pub fn rules(&self) -> Result<Eject, Vec<(&'static str, String)>> {
        let mut problems = Vec::new();
        if self.errors == Some(0) {
            problems.push(("errors", "expected at least 1".into()));
        }
        if self.time.is_some_and(|t| t.0.is_zero()) {
            problems.push(("for", "expected more than nothing, such as 30s".into()));
        }
        let most = match self.most.as_ref().map(Share::percent) {
            None => DEFAULT_EJECT_MOST,
            Some(Ok(percent)) => percent,
            Some(Err(why)) => {
                problems.push(("most", why));
                DEFAULT_EJECT_MOST
            }
        };
        let rules = Eject {
            errors: self.errors.unwrap_or(DEFAULT_EJECT_ERRORS),
            time: self.time.unwrap_or(DEFAULT_EJECT_FOR),
            most,
        };
        if problems.is_empty() { Ok(rules) } else { Err(problems) }
    }
}

/// When a candidate is taken out for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eject {
    /// After so many errors in a row.
    pub errors: u32,
    /// For so long at first.
    pub time: HumanDuration,
    /// At most this share of the candidates at once, in percent.
    pub most: u32,
}

impl Eject {
    /// How many of `count` candidates may be out at once: never all.
    pub fn room(&self, count: usize) -> usize {
        let most = (count * self.most as usize / 100).max(1);
        most.min(count.saturating_sub(1))
    }
}

/// What `replace` and `bind` do with the programs that homeostat runs for the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceSpec {
    /// Start the program of the service that calls are to go to, and let none go there before it is ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
    /// Stop the program of the service that calls went to, after its last call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop: bool,
}

/// What holds for the calls through the port of a reference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortPolicy {
    /// The service that the policy names: calls are shared while the reference is bound to it.
    pub named: Option<Arc<str>>,
    /// Every service that it may lead to.
    pub candidates: Vec<Arc<str>>,
    /// How many of the calls each service gets, in proportion; empty: what the reference is bound to gets all. 0: only when no other can.
    pub weights: BTreeMap<Arc<str>, u32>,
    /// How often a call may be sent again.
    pub retries: u32,
    /// How it is found out whether candidates are able to work.
    pub health: Option<HealthSpec>,
    /// When candidates are taken out for a while.
    pub eject: Option<Eject>,
    /// What it allows.
    pub limits: LimitsSpec,
    /// What becomes of programs when it leads elsewhere.
    pub replace: ReplaceSpec,
}

impl PortPolicy {
    /// Which services share the calls while the reference is bound to `to`, by weight: what an action has bound gets all of them, so that none
    /// reaches another after the action is done.
    pub fn sharing(&self, to: &Arc<str>) -> Vec<(Arc<str>, u32)> {
        if self.named.as_ref() != Some(to) || !self.weights.contains_key(to) {
            return vec![(to.clone(), 1)];
        }
        let named = |name: &Arc<str>| self.weights.get(name).map(|weight| (name.clone(), *weight));
        self.candidates.iter().filter_map(named).collect()
    }
}

/// A local port through which a service reaches what it uses, and where it is to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The reference.
    pub reference: Arc<str>,
    /// Where homeostat listens for it.
    pub listen: Address,
    /// The service that it leads to; `None`: unbound.
    pub to: Option<Arc<str>>,
    /// What holds for its calls.
    pub policy: Arc<PortPolicy>,
}

impl Port {
    /// A port about whose calls nothing is said.
    pub fn new(reference: impl Into<Arc<str>>, listen: Address, to: Option<Arc<str>>) -> Self {
        Self { reference: reference.into(), listen, to, policy: Arc::default() }
    }
}

/// How a candidate of a reference stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is not checked, or has not been yet; it may get calls.
    Unchecked,
    /// It passes its checks.
    Healthy,
    /// It fails its checks, and gets calls only when no other can.
    Unhealthy,
    /// It was taken out for its errors for a while.
    Ejected,
}

impl Standing {
    /// Whether it gets calls before those that do not.
    pub fn usable(self) -> bool {
        matches!(self, Self::Unchecked | Self::Healthy)
    }
}

/// A candidate of a reference with a local port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct CandidateStatus {
    /// The service.
    pub service: String,
    /// Whether it is able to work, as far as is known.
    pub standing: Standing,
    /// Its share of the calls at present, in proportion to the others; absent: it gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// How many calls were sent there through this port.
    pub calls: u64,
    /// Why it is unhealthy or out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a candidate can be checked.
pub fn checkable(spec: &HealthSpec, endpoint: &Endpoint) -> Result<(), String> {
    match (&spec.path, endpoint.protocol) {
        (Some(path), super::endpoint::Protocol::Tcp) => {
            Err(format!("`{path}` cannot be asked for at {endpoint}, which does not speak HTTP"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_policy_names_shares_and_what_an_action_binds_gets_all() {
        let policy = PortPolicy {
            named: Some("gold".into()),
            candidates: vec!["gold".into(), "basic".into(), "old".into()],
            weights: [("gold".into(), 9), ("basic".into(), 1)].into(),
            ..PortPolicy::default()
        };
        assert_eq!(policy.sharing(&"gold".into()), [("gold".into(), 9), ("basic".into(), 1)]);
        assert_eq!(policy.sharing(&"basic".into()), [("basic".into(), 1)]);
        assert_eq!(PortPolicy::default().sharing(&"gold".into()), [("gold".into(), 1)]);
    }

    #[test]
    fn never_all_candidates_may_be_out() {
        let room = |most, count| Eject { errors: 1, time: HumanDuration::seconds(1), most }.room(count);
        assert_eq!([room(50, 1), room(50, 2), room(50, 3), room(100, 3), room(10, 4)], [0, 1, 1, 2, 1]);
        assert_eq!(Share::Text("50%".into()).percent(), Ok(50));
        assert_eq!(Share::Ratio(0.25).percent(), Ok(25));
        for bad in [Share::Text("50".into()), Share::Text("0%".into()), Share::Ratio(50.0)] {
            assert!(bad.percent().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_its_place() {
        let limits = LimitsSpec {
            max_connections: Some(0),
            connect_timeout: Some(HumanDuration::default()),
            ..LimitsSpec::default()
        };
        let places: Vec<_> = limits.problems().into_iter().map(|(at, _)| at).collect();
        assert_eq!(places, ["max_connections", "connect_timeout"]);
        let health =
            HealthSpec { path: Some("healthz".into()), tcp: true, fall: Some(0), ..HealthSpec::default() };
        let places: Vec<_> = health.problems().into_iter().map(|(at, _)| at).collect();
        assert_eq!(places, [None, Some("path"), Some("fall")]);
        assert_eq!(HealthSpec::default().problems().len(), 1);
        let eject = EjectSpec { errors: Some(0), time: None, most: Some(Share::Text("all".into())) };
        let places: Vec<_> = eject.rules().unwrap_err().into_iter().map(|(at, _)| at).collect();
        assert_eq!(places, ["errors", "most"]);
    }
}
