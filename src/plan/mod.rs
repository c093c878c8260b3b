//! P: from an alarm and what is known to an immutable plan.

pub mod strategy;
