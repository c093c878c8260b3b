//! homeostat
pub mod analyze;
pub mod api;
pub mod cli;
pub mod connectors;
pub mod daemon;
pub mod execute;
pub mod knowledge;
pub mod model;
pub mod monitor;
pub mod plan;
pub mod policy;
pub mod service;
