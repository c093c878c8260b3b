//! Objectives as others see them: severity, state, and the alarm that tells of a change.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reading, Timestamp};

/// How bad a violation is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Minor,
    /// Users notice.
    #[default]
    Major,
    /// The service is not doing its job.
    Critical,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        })
    }
}

/// What changed. The MAPE sources call these PREVENTIVE, VIOLATION, FAIL and OK.
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
pub enum AlarmKind {
    /// The warning (preventive) level is reached.
    Warning,
    /// The objective is violated.
    Violation,
    /// The objective cannot be decided, and its policy for missing data says to raise that.
    Missing,
    /// The objective holds again.
    Recovered,
}

impl std::fmt::Display for AlarmKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Violation => "violation",
            Self::Missing => "missing",
            Self::Recovered => "recovered",
        })
    }
}

/// The notification of a change of an SLO: `notify(alarmType, condition)` of S3 (R3-49).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Alarm {
    /// The service whose SLO it is.
    pub service: String,
    /// The SLO.
    pub slo: String,
    /// What changed.
    pub kind: AlarmKind,
    /// The severity of the SLO.
    #[serde(default)]
    pub severity: Severity,
    /// The condition that holds now, as text: for the objective `cost < 30` a violation says `cost >= 30`.
    pub condition: String,
    /// The values that decided it, by the names that the condition uses.
    #[serde(default)]
    pub values: BTreeMap<String, Reading>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// The life of an SLO as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SloState {
    /// Not decided yet: no reading has come.
    Unknown,
    /// The objective holds.
    Ok,
    /// The warning level is reached, the objective still holds.
    Warning,
    /// The objective is broken, not yet for as long as `for` asks.
    Pending,
    /// The objective is violated.
    Violated,
    /// The objective cannot be decided.
    Missing,
    /// Not checked.
    Disabled,
    /// A metric that it reads does not exist (any more).
    Unresolved,
}

impl std::fmt::Display for SloState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Pending => "pending",
            Self::Violated => "violated",
            Self::Missing => "missing",
            Self::Disabled => "disabled",
            Self::Unresolved => "unresolved",
        })
    }
}

/// One SLO with its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct SloStatus {
    /// Its name.
    pub name: String,
    /// The objective as written.
    pub objective: String,
    /// Its severity.
    pub severity: Severity,
    /// Its state.
    pub state: SloState,
    /// Since when it is in this state.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// The readings of its inputs at the last check, by the names that the objective uses.
    pub values: BTreeMap<String, Reading>,
}
