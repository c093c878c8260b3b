//! P: from an alarm and what is known to a list of actions, with reasons. Pure.

mod planner;
pub mod strategy;

pub use planner::{Planner, Taken, TaskId, Upshot};
