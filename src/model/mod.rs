//! The vocabulary: plain data, in the order a sample meets it. No behaviour of the loop lives here.

pub mod action;
pub mod alarm;
pub mod calls;
pub mod change;
pub mod connector;
pub mod datum;
pub mod decision;
pub mod endpoint;
pub mod error;
pub mod manage;
pub mod metric;
pub mod module;
pub mod name;
pub mod plan;
pub mod ports;
pub mod process;
pub mod resource;
pub mod series;
pub mod syntax;
pub mod template;
pub mod time;
pub mod units;

pub use action::{Action, Outcome, OutcomeStatus};
pub use alarm::{Alarm, AlarmKind, Severity, SloState, SloStatus};
pub use datum::{Datum, ModelChange};
pub use decision::{Decision, DecisionId};
pub use metric::{Aggregate, Measurement, MetricPath, MissingReason, Reading};
pub use name::{MetricId, ServiceId};
pub use plan::{Mode, Plan, Verdict};
pub use ports::PortError;
pub use resource::{Resource, Selector};
pub use time::{Schedule, Timestamp};
pub use units::HumanDuration;
