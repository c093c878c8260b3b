//! Plans: an immutable list of actions that carries its reasons.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, Reading};

/// How far a plan may go.
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
pub enum Mode {
    /// Record what it would do.
    Observe,
    /// Propose; an operator applies it.
    #[default]
    Advise,
    /// Wait for a yes, with expiry.
    Approve,
    /// Do it.
    Act,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Advise => "advise",
            Self::Approve => "approve",
            Self::Act => "act",
        })
    }
}

/// What to do when one action of a list fails.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Skip the rest.
    #[default]
    Stop,
    /// Go on with the rest.
    Continue,
    /// Take back what was done, in reverse order, and skip the rest.
    Undo,
}

/// What a plan is based on, and what it came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Plan {
    /// The strategy: a script's name, or `actions` for a plan written as a list of actions.
    pub strategy: String,
    /// The content hash (BLAKE3, hex, 16 digits) of the strategy.
    pub hash: String,
    /// How far it may go.
    pub mode: Mode,
    /// The actions, in order.
    pub actions: Vec<Action>,
    /// Every metric that it read: `service.metric` → reading.
    pub readings: BTreeMap<String, Reading>,
    /// What the strategy said with `because(…)`, in order.
    pub reasons: Vec<String>,
    /// What becomes of the rest of the list when one action fails.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What came of an alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A plan with at least one action, to be carried out.
    Planned,
    /// A plan that waits for an operator (`mode: advise` and `approve`), or is only recorded (`mode: observe`).
    Proposed,
    /// A plan of mode `approve` that nobody approved, or that an operator rejected: why it waits no more.
    Withdrawn(String),
    /// The strategy saw nothing to do.
    Nothing,
    /// No planner is attached.
    NoPlanner,
    /// No strategy is declared for this SLO, alarm and severity (R3-54).
    NoStrategy,
    /// The strategy failed: the error.
    StrategyFailed(String),
    /// A plan for this SLO ran less than `cooldown` ago, or still runs; it is decided again when that is over.
    Held(String),
    /// There is a plan and no executor is attached.
    NoExecutor,
}
