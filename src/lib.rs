//! homeostat
pub mod knowledge;
pub mod model;
pub mod policy;
pub mod service;
