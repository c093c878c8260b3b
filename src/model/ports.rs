//! The four ports of the component framework (S3; R3-30 to R3-60), as Rust traits.
//! The HTTP API and the wire offer the same methods with the same names and the same errors.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, Alarm, HumanDuration, Outcome, Reading, SloStatus, Timestamp};

/// What a port answers instead of what was asked for. [`PortError::slug`] is its name on every wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", content = "what", rename_all = "kebab-case")]
pub enum PortError {
    /// No service of this name is managed here. A retry does not help.
    #[error("no service `{0}` is managed here")]
    NoSuchService(String),
    /// The service has no metric of this name.
    #[error("no metric `{0}`")]
    NoSuchMetric(String),
    /// The service has no SLO of this name.
    #[error("no SLO `{0}`")]
    NoSuchSlo(String),
    /// There is one of this name already.
    #[error("`{0}` exists already")]
    Exists(String),
    /// The metric would depend on itself; the cycle is named.
    #[error("metric cycle: {0}")]
    MetricCycle(String),
    /// No monitor is attached to the service.
    #[error("no monitor attached to `{0}`")]
    NoMonitorAttached(String),
    /// No analyzer is attached to the service.
    #[error("no analyzer attached to `{0}`")]
    NoAnalyzerAttached(String),
    /// No planner is attached to the service.
    #[error("no planner attached to `{0}`")]
    NoPlannerAttached(String),
    /// No executor is attached to the service.
    #[error("no executor attached to `{0}`")]
    NoExecutorAttached(String),
    /// The metric does not take pushed values.
    #[error("metric `{0}` does not take pushed values; declare it as `{0}: push`")]
    NotPushed(String),
    /// What was sent is not acceptable: what, where, what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The part of the service under this name came from a policy file and cannot be changed by hand in this way.
    #[error("{0}")]
    Conflict(String),
    /// The service is quarantined: a turn of it panicked.
    #[error("service `{0}` is quarantined after a panic; it comes back when its policy is applied again")]
    Quarantined(String),
    /// The answer did not come in time. A retry may help.
    #[error("no answer within {0}")]
    Timeout(HumanDuration),
    /// The daemon is stopping or overloaded. A retry may help.
    #[error("{0}")]
    Unavailable(String),
}

impl PortError {
    /// Its name on every wire, and the last part of the `type` of its problem document.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::NoSuchService(_) => "no-such-service",
            Self::NoSuchMetric(_) => "no-such-metric",
            Self::NoSuchSlo(_) => "no-such-slo",
            Self::Exists(_) => "exists",
            Self::MetricCycle(_) => "metric-cycle",
            Self::NoMonitorAttached(_) => "no-monitor-attached",
            Self::NoAnalyzerAttached(_) => "no-analyzer-attached",
            Self::NoPlannerAttached(_) => "no-planner-attached",
            Self::NoExecutorAttached(_) => "no-executor-attached",
            Self::NotPushed(_) => "not-pushed",
            Self::Invalid(_) => "invalid",
            Self::Conflict(_) => "conflict",
            Self::Quarantined(_) => "quarantined",
            Self::Timeout(_) => "timeout",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// One metric in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct MetricInfo {
    /// Its name.
    pub name: String,
    /// How it comes about: the sensor's protocol, `expression`, `window`, `group`, `published`.
    pub kind: String,
    /// Its definition as written, for people.
    pub definition: String,
    /// Its unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its reading now.
    pub reading: Reading,
}

/// When a subscriber is told (S4; R4-07, R4-09).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum SubscriptionMode {
    /// At every new value.
    Update,
    /// When the value differs from the one last told.
    Change {
        /// Not before this time after subscribing; at once when absent.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        start: Option<HumanDuration>,
        /// Not after `start + duration`; for ever when absent.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        duration: Option<HumanDuration>,
    },
    /// At `start`, then every `interval`, last at or before `start + duration`.
    Interval {
        /// The interval.
        #[schema(value_type = String)]
        interval: HumanDuration,
        /// The first notification, after subscribing; at once when absent.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        start: Option<HumanDuration>,
        /// How long; for ever when absent.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        duration: Option<HumanDuration>,
    },
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Notification {
    /// Whose metric.
    pub service: String,
    /// Which metric.
    pub metric: String,
    /// Its reading.
    pub reading: Reading,
}

/// A running subscription: notifications in order until the end; dropping it unsubscribes.
pub struct Subscription {
    /// The notifications. Bounded: a subscriber that does not keep up is told the newest and the number it missed.
    pub notifications: tokio_stream::wrappers::ReceiverStream<Notification>,
    /// Dropped with the subscription; its drop unsubscribes.
    pub guard: Box<dyn std::any::Any + Send + Sync>,
}

/// Offered by the monitor.
#[async_trait]
pub trait Metrics: Send + Sync {
    /// `getMetricList()` (R3-30): sorted by name.
    async fn metric_list(&self) -> Result<Vec<MetricInfo>, PortError>;
    /// `getMetric(metricName)` (R3-31): the held value while younger than `max_age`, else upstream is asked.
    async fn get_metric(&self, name: &str, max_age: Option<HumanDuration>) -> Result<Reading, PortError>;
    /// `subscribe(metricName)` (R3-32).
    async fn subscribe(&self, name: &str, mode: SubscriptionMode) -> Result<Subscription, PortError>;
    /// `insertMetric(metric, metricName)` (R3-34): a sensor or a metric as a policy would write it.
    async fn insert_metric(&self, name: &str, definition: serde_json::Value) -> Result<(), PortError>;
    /// `removeMetric(metricName)` (R3-35).
    async fn remove_metric(&self, name: &str) -> Result<(), PortError>;
    /// Hands over values of a pushed metric; each with its time, or now.
    async fn push(&self, name: &str, values: Vec<(f64, Option<Timestamp>)>) -> Result<(), PortError>;
}

/// Offered by the analyzer.
#[async_trait]
pub trait Slos: Send + Sync {
    /// The SLOs with their states, sorted by name.
    async fn slo_list(&self) -> Result<Vec<SloStatus>, PortError>;
    /// `addSLO(SLO, sloName)` (R3-45): an SLO as a policy would write it.
    async fn add_slo(&self, name: &str, definition: serde_json::Value) -> Result<(), PortError>;
    /// `removeSLO(sloName)` (R3-46).
    async fn remove_slo(&self, name: &str) -> Result<(), PortError>;
    /// `enableSLO(sloName)` (R3-47).
    async fn enable_slo(&self, name: &str) -> Result<(), PortError>;
    /// `disableSLO(sloName)` (R3-47).
    async fn disable_slo(&self, name: &str) -> Result<(), PortError>;
}

/// Offered by the planner.
#[async_trait]
pub trait Alarms: Send + Sync {
    /// `notify(alarmType, condition)` (R3-49): takes an alarm from outside.
    async fn notify(&self, alarm: Alarm) -> Result<(), PortError>;
}

/// Offered by the executor.
#[async_trait]
pub trait Actions: Send + Sync {
    /// `sendActions(actionList)` (R3-57): in order; one outcome per action.
    async fn send_actions(&self, actions: Vec<Action>) -> Result<Vec<Outcome>, PortError>;
    /// `sendAction(action)` (R3-57).
    async fn send_action(&self, action: Action) -> Result<Outcome, PortError> {
        let mut outcomes = self.send_actions(vec![action]).await?;
        outcomes.pop().ok_or_else(|| PortError::Unavailable("the executor answered with no outcome".into()))
    }
}
