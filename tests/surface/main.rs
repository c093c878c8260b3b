//! The outside of homeostat, over real sockets, against a `Control` in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod cli;
mod fake;
