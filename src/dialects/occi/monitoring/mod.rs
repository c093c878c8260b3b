//! Monitoring over OCCI: a sensor with its collectors becomes one managed service, in the language of policies.
//!
//! ```text
//! collector with metric mixins ▶ `monitor.sensors`       aggregator mixins ▶ `monitor.metrics`
//! labels                       ▶ names of metrics        publisher mixins  ▶ `monitor.publish`, or an SLO with a row of a plan
//! period, timebase, timestart, timestop ▶ `every` and `monitor.schedule`
//! ```
//! Reading order: `provider` (what a mixin is), `metrics`, `aggregators`, `publishers` (those of this server),
//! `plugin` (those of others), `template`,
//! `timing`, `translate`.

mod aggregators;
mod metrics;
pub mod plugin;
pub mod provider;
mod publishers;
pub mod template;
pub mod timing;
pub mod translate;

pub use provider::{Names, Provider, Providers, Settings, Stage};
pub use translate::{Outcome, translate};
