//! The membrane from outside: real sockets, real services, and what clients see with and without it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actions;
mod bridge;
mod candidates;
mod change;
mod channel;
mod failures;
mod hostile;
mod http1;
mod http2;
#[cfg(target_os = "linux")]
mod live;
mod manage;
mod measure;
#[cfg(target_os = "linux")]
mod pack;
mod references;
mod reload;
mod sources;
mod support;
#[cfg(unix)]
mod wrap;
