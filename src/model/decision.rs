//! Decisions: the record of one turn that mattered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Alarm, Outcome, Plan, Timestamp, Verdict};

/// The number of a decision among those of its service, beginning with 1.
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
#[serde(transparent)]
pub struct DecisionId(pub u64);

impl std::fmt::Display for DecisionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Alarm → plan (or none) → actions → outcomes → did it help.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Decision {
    /// Its number among those of the service.
    pub id: DecisionId,
    /// The service that decided.
    pub service: String,
    /// When the decision was taken.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it was about; `None` for actions sent by hand.
    pub alarm: Option<Alarm>,
    /// What came of it.
    pub verdict: Verdict,
    /// The plan, when there is one.
    pub plan: Option<Plan>,
    /// One outcome per action that ended, in order.
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
    /// After the plan: `Some(true)` when the SLO recovered, `Some(false)` when it was still violated at the next decision.
    pub helped: Option<bool>,
    /// Until when a plan of mode `approve` waits for a yes; after that it is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}
