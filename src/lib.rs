//! homeostat
pub mod model;
pub mod policy;
pub mod service;
