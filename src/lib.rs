//! homeostat
pub mod model;
pub mod plan;
pub mod policy;
