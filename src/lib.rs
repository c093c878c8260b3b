//! homeostat
pub mod api;
pub mod cli;
pub mod model;
pub mod policy;
pub mod service;
