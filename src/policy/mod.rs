//! From files to compiled, immutable values.

mod capability;
pub mod check;
pub mod compile;
pub mod diagnostics;
pub mod diff;
pub mod document;
pub mod expression;
pub mod load;
pub(crate) mod merge;
pub mod overlay;
pub mod schema;
pub mod script;
pub mod set;
mod syntax;
pub mod tree;
pub mod trial;
pub mod value;
pub mod watch;

pub use diagnostics::{Problem, ProblemSeverity};
pub use load::Sources;
pub use set::PolicySet;
pub use value::{
    AnalyzePolicy, ExecutePolicy, GroupPolicy, MetricKind, MetricPolicy, MonitorPolicy, PlanPolicy, PlanRow,
    PublishPolicy, ReferencePolicy, ServicePolicy, SloPolicy, Strategy, StreamPolicy, WindowPolicy,
};
