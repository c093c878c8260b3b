//! homeostat
pub mod api;
pub mod model;
pub mod policy;
pub mod service;
