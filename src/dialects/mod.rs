//! Languages of others, read, written and translated into policies. What runs is a policy; a dialect has no engine of its own.

mod access;
pub mod occi;
mod prefer;
pub mod tower;
