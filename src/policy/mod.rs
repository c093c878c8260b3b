//! From files to compiled, immutable values.

pub mod document;
pub mod expression;
pub mod script;
mod syntax;
pub mod value;

pub use value::{
    AnalyzePolicy, ExecutePolicy, GroupPolicy, MetricKind, MetricPolicy, MonitorPolicy, PlanPolicy, PlanRow,
    ReferencePolicy, ServicePolicy, SloPolicy, Strategy, WindowPolicy,
};
