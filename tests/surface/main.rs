//! The outside of homeostat, over real sockets, against a `Control` in memory.

mod api;
mod cli;
mod fake;
