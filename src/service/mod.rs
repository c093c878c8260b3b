//! The loop of one managed service: turn (pure), shard (many of them, pure), shell (the only asynchronous part), handles.

pub mod control;
pub mod message;
pub mod shard;
pub mod turn;
