//! homeostat from outside: the built binary with real sockets, processes, files and failures.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

mod abuse;
mod client;
mod collected;
mod commands;
mod components;
mod crash;
mod deploy;
mod discovery;
mod edges;
mod mail;
mod occi;
mod occi_channels;
mod occi_metrics;
mod occi_pipe;
mod occi_purposes;
mod occi_support;
mod probe;
mod processes;
mod recording;
mod reload;
mod shop;
mod start_stop;
mod storm;
mod trial;
