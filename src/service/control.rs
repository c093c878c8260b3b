//! What a running homeostat offers to its surfaces (HTTP, command line, status screen): the ports of every service, and the set of services itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::model::calls::CandidateStatus;
use crate::model::connector::{EffectorSpec, SensorSpec};
use crate::model::ports::{Actions, Alarms, MetricInfo, Metrics, Slos};
use crate::model::process::ProcessStatus;
use crate::model::{Decision, PortError, Reading, SloStatus, Timestamp};
use crate::policy::{MetricKind, ServicePolicy};

/// One of the four components of a loop.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// M: metrics.
    Monitor,
    /// A: SLOs.
    Analyze,
    /// P: strategies.
    Plan,
    /// E: effectors.
    Execute,
}

impl Component {
    /// All four, in the order of the loop.
    pub const ALL: [Self; 4] = [Self::Monitor, Self::Analyze, Self::Plan, Self::Execute];

    /// The name of its section in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Analyze => "analyze",
            Self::Plan => "plan",
            Self::Execute => "execute",
        }
    }

    /// The component of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the running definition of a service or component came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A policy file.
    File,
    /// The API or the command line.
    Hand,
}

/// One attached component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct ComponentStatus {
    /// Which.
    pub component: Component,
    /// Its identity: changes when the component is replaced.
    pub id: String,
    /// Where its definition came from.
    pub origin: Origin,
    /// How many metrics, SLOs, rows or effectors it has.
    pub parts: usize,
}

/// One reference of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct ReferenceStatus {
    /// The service that it is bound to now.
    pub bound: Option<String>,
    /// The services that it may be bound to.
    pub candidates: Vec<String>,
    /// How those stand, and how many calls each got, where the reference has a local port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<CandidateStatus>,
}

/// A wire between two components (R3-08).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Wire {
    /// The component that asks or tells, as `service/component`.
    pub from: String,
    /// The component that is asked or told, as `service/component`.
    pub to: String,
    /// The port: `metrics`, `alarms`, `actions` or `slos`.
    pub port: String,
}

/// One managed service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its class in the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its type in the model.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it offers to others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// Where its clients reach it: at the port in front of it, or where it listens itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where its definition came from.
    pub origin: Origin,
    /// The components attached, in the order of the loop.
    pub components: Vec<ComponentStatus>,
    /// Its references.
    pub references: BTreeMap<String, ReferenceStatus>,
    /// Its SLOs.
    pub slos: Vec<SloStatus>,
    /// The wires of its components.
    pub wires: Vec<Wire>,
    /// How the program is that homeostat runs for it, if it runs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessStatus>,
    /// Why it is quarantined, when it is: a turn of it panicked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// How many decisions it has taken.
    pub decisions: u64,
}

/// Something that happened, for people and for `/v1/events`. The tags collect, analyse, decide and act are those of R3-15.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Event {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// To which service, if to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The phase of the feedback loop: `collect`, `analyse`, `decide`, `act`, or `policy`, `daemon`.
    pub phase: String,
    /// The correlation id of one adaptation, `service/decision`: the same on all events from alarm to outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    /// What happened, in one line.
    pub text: String,
}

/// The policies that run and those that wait for a correction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct PolicyStatus {
    /// The content hash of what runs.
    pub running: String,
    /// Since when it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// How many services it has.
    pub services: usize,
    /// The change that was refused, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Refusal>,
}

/// A refused change: what runs keeps running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema, thiserror::Error)]
#[error("the policies are refused: {} problem(s)", problems.len())]
pub struct Refusal {
    /// When it was refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Every error, `file:line:column: error: message (hint: …)`.
    pub problems: Vec<String>,
}

/// What an accepted change did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Applied {
    /// The content hash of what runs now.
    pub running: String,
    /// One line per difference; empty when nothing changed.
    pub changes: Vec<String>,
    /// Warnings about what runs now.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why a change of the set of services was not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChangeError {
    /// A policy error: everything that is wrong with it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Anything else.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// One metric of one service, as `/metrics` exports it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedMetric {
    /// Whose.
    pub service: String,
    /// The metric.
    pub info: MetricInfo,
}

/// What a surface counts about itself, for `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// As `/metrics` calls it, without the `_total` of counters.
    pub name: String,
    /// What it is, as a sentence without its full stop.
    pub help: &'static str,
    /// Whether it only rises.
    pub counter: bool,
    /// Its values, each with its labels.
    pub values: Vec<(Vec<(&'static str, String)>, u64)>,
}

/// The counters of homeostat about itself, for `/metrics` and the status screen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct SelfStats {
    /// Managed services.
    pub services: u64,
    /// Services in quarantine.
    pub quarantined: u64,
    /// Messages that shards have taken.
    pub messages: u64,
    /// Samples that shards have taken.
    pub samples: u64,
    /// Samples refused: not finite, out of order, from the future, for no metric.
    pub samples_refused: u64,
    /// Alarms raised.
    pub alarms: u64,
    /// Strategies run.
    pub strategies: u64,
    /// Strategies that failed.
    pub strategies_failed: u64,
    /// Actions by how they ended.
    pub actions: BTreeMap<String, u64>,
    /// Readings asked of other services.
    pub asks: u64,
    /// Notifications between services.
    pub notifications: u64,
    /// Values that publishers delivered.
    pub published: u64,
    /// Values that were lost because publishers could not keep up, or were refused.
    pub publish_lost: u64,
    /// Policy changes applied.
    pub policies_applied: u64,
    /// Policy changes refused.
    pub policies_refused: u64,
}

/// The four ports of one service.
pub trait Ports: Metrics + Slos + Alarms + Actions {}
impl<T: Metrics + Slos + Alarms + Actions> Ports for T {}

/// Something that a policy brings in from outside: a program, a script, a connector of the embedding program (R3-10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plugin {
    /// The service whose policy names it.
    pub service: String,
    /// What it is there.
    pub part: PluginPart,
    /// The metric or action, or the file of the script.
    pub name: String,
    /// How it is called: `exec`, `nagios`, `rhai`, or the kind that the embedding program registered.
    pub protocol: String,
    /// The program with its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The content hash of a script (BLAKE3, hex, 16 digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// The parts of a loop that can be brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PluginPart {
    /// Measures a metric.
    Sensor,
    /// Plans.
    Strategy,
    /// Carries out an action.
    Effector,
}

impl std::fmt::Display for PluginPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sensor => "sensor",
            Self::Strategy => "strategy",
            Self::Effector => "effector",
        })
    }
}

/// What a policy brings in, in the order of the loop.
pub fn plugins(policy: &ServicePolicy) -> Vec<Plugin> {
    let plugin = |part, name: &str, protocol: &str, origin| Plugin {
        service: policy.name.to_string(),
        part,
        name: name.to_string(),
        protocol: protocol.to_string(),
        origin,
        hash: None,
    };
    let sensors = policy.monitor.iter().flat_map(|m| &m.metrics).filter_map(|metric| {
        let MetricKind::Sensor(spec) = &metric.kind else { return None };
        let origin = match spec {
            SensorSpec::Exec(exec) => Some(exec.command.join(" ")),
            SensorSpec::Nagios(nagios) => Some(nagios.command.join(" ")),
            SensorSpec::Custom(_) => None,
            _ => return None,
        };
        Some(plugin(PluginPart::Sensor, &metric.name, spec.protocol(), origin))
    });
    let strategies = policy.scripts.values().map(|script| Plugin {
        hash: Some(script.hash.to_string()),
        ..plugin(PluginPart::Strategy, &script.name, "rhai", None)
    });
    let effectors = policy.execute.iter().flat_map(|e| &e.effectors).filter_map(|(action, spec)| {
        let origin = match &**spec {
            EffectorSpec::Exec(exec) => Some(exec.command.join(" ")),
            EffectorSpec::Custom(_) => None,
            _ => return None,
        };
        Some(plugin(PluginPart::Effector, action, spec.protocol(), origin))
    });
    sensors.chain(strategies).chain(effectors).collect()
}

/// A running homeostat. The daemon implements it; surfaces use nothing else.
#[async_trait]
pub trait Control: Send + Sync {
    /// The managed services, sorted by name.
    async fn services(&self) -> Result<Vec<ServiceStatus>, PortError>;
    /// One managed service.
    async fn service(&self, name: &str) -> Result<ServiceStatus, PortError>;
    /// The ports of one service.
    fn ports(&self, name: &str) -> Result<Arc<dyn Ports>, PortError>;

    /// Attaches a service, or replaces what is attached, from a document as a policy file would contain it
    /// (scripts inline: `run` may be the text of the script).
    async fn attach(&self, name: &str, document: serde_json::Value) -> Result<Applied, ChangeError>;
    /// Detaches a service.
    async fn detach(&self, name: &str) -> Result<Applied, ChangeError>;
    /// Attaches or replaces one component, from a section as a policy file would contain it.
    async fn attach_component(
        &self,
        name: &str,
        component: Component,
        section: serde_json::Value,
    ) -> Result<Applied, ChangeError>;
    /// Detaches one component.
    async fn detach_component(&self, name: &str, component: Component) -> Result<Applied, ChangeError>;

    /// Replaces the policies by this bundle: `path → text` of YAML and rhai files.
    async fn apply(&self, files: BTreeMap<String, String>) -> Result<Applied, ChangeError>;
    /// What `apply` would change, without changing it.
    async fn preview(&self, files: BTreeMap<String, String>) -> Result<Applied, ChangeError>;
    /// Reads the policy directories again.
    async fn reload(&self) -> Result<Applied, ChangeError>;
    /// Goes back to the policies before the last change.
    async fn rollback(&self) -> Result<Applied, ChangeError>;
    /// What the running services use that is no part of homeostat, sorted by service (R3-10).
    async fn plugins(&self) -> Result<Vec<Plugin>, PortError>;
    /// What runs and what waits.
    fn policy_status(&self) -> PolicyStatus;

    /// Decisions, newest first, at most `limit`, only those with a smaller number than `before` (per service).
    async fn decisions(
        &self,
        service: Option<&str>,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<Decision>, PortError>;
    /// Carries out the proposed plan of a decision (`mode: advise` or `approve`), by an operator's word.
    async fn approve(&self, service: &str, decision: u64) -> Result<Vec<crate::model::Outcome>, PortError>;
    /// Withdraws the proposed plan of a decision, by an operator's word.
    async fn reject(&self, service: &str, decision: u64) -> Result<(), PortError>;
    /// Events from now on.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// The past readings of a metric, oldest first; `Invalid` when the service keeps no history (R3-37).
    async fn history(&self, service: &str, metric: &str) -> Result<Vec<Reading>, PortError>;
    /// The shared knowledge of a service (R3-14).
    async fn knowledge(&self, service: &str) -> Result<BTreeMap<String, serde_json::Value>, PortError>;
    /// Writes an entry of the knowledge of a service; `None` removes it.
    async fn remember(
        &self,
        service: &str,
        key: &str,
        value: Option<serde_json::Value>,
    ) -> Result<(), PortError>;

    /// Every metric of every service, for `/metrics`.
    async fn export(&self) -> Result<Vec<ExportedMetric>, PortError>;
    /// The counters of homeostat about itself.
    fn stats(&self) -> SelfStats;
    /// What surfaces that were added, such as a server of Tower 4Clouds, count about themselves.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }
    /// Whether it is ready: policies applied, not stopping.
    fn ready(&self) -> bool;
}
