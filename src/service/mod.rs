//! The loop of one managed service: turn (pure), shard (many of them, pure), shell (the only asynchronous part), handles.

pub mod clock;
pub mod collection;
pub mod control;
#[cfg(feature = "forecast")]
pub mod forecaster;
pub mod groups;
pub mod handle;
pub mod message;
pub mod names;
mod publishing;
pub mod record;
mod sensing;
pub mod shard;
pub mod shell;
pub mod simulation;
pub mod supervisor;
pub mod trial;
pub mod turn;
