//! homeostat
pub mod cli;
pub mod connectors;
pub mod model;
pub mod policy;
