//! Tower 4Clouds: its rules and QoS constraints, as pure functions from text to values and back.
//!
//! ```text
//!  rules.xml ──xml──▶ [Rule] ──validate──▶ problems, or none ──translate──▶ one service document per rule
//!                       ▲  │
//!  constraints.xml ─────┘  └──write──▶ rules.xml
//! ```
//!
//! `docs/tower.md` says what a rule becomes and where this differs from the original.

pub mod action;
pub mod collector;
pub mod condition;
pub mod constraints;
pub mod rule;
pub mod server;
pub mod translate;
pub mod validate;
pub mod write;
pub mod xml;

pub use rule::{Action, Aggregation, CollectedMetric, Parameter, Part, Places, Rule, Target};
pub use translate::translate;
pub use validate::{ErrorKind, RuleProblem, validate};
pub use xml::{Batch, XmlError};

/// The namespace of rules.
pub const RULES_NAMESPACE: &str = "http://www.modaclouds.eu/xsd/1.0/monitoring_rules_schema";

/// The namespace of QoS constraints.
pub const CONSTRAINTS_NAMESPACE: &str = "http://www.modaclouds.eu/xsd/1.0/qos_constraints_schema";
