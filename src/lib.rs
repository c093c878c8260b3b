//! homeostat
pub mod model;
pub mod policy;
