//! The membrane from outside: real sockets, real services, and what clients see with and without it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actions;
mod bridge;
mod failures;
mod http1;
mod http2;
mod manage;
mod measure;
mod references;
mod sources;
mod support;
#[cfg(unix)]
mod wrap;
