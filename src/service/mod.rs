//! The loop of one managed service: turn (pure), shell (the only asynchronous part), handles.

pub mod control;
