//! The command line.

pub mod fake;
