//! How many clients may be inside a port at once. Others are not turned away: they wait in the queue of the operating system until one leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The room behind a port.
#[derive(Debug)]
pub(super) struct Room {
    size: AtomicUsize,
    inside: AtomicUsize,
    changed: Notify,
}

/// A place in a room, free again when dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Room>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

impl Room {
    /// Nobody is inside.
    pub(super) fn new(size: u32) -> Arc<Self> {
        let room = Self { size: AtomicUsize::new(0), inside: AtomicUsize::new(0), changed: Notify::new() };
        room.resize(size);
        Arc::new(room)
    }

    /// So many may be inside from now on.
    pub(super) fn resize(&self, size: u32) {
        self.size.store(usize::try_from(size).unwrap_or(usize::MAX), Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Waits until there is a place. Only one who waits at a time is told, so there must be only one: who accepts for the port.
    pub(super) async fn seat(self: &Arc<Self>) -> Seat {
        loop {
            if self.inside.load(Ordering::SeqCst) < self.size.load(Ordering::SeqCst) {
                self.inside.fetch_add(1, Ordering::SeqCst);
                return Seat(self.clone());
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_full_room_lets_in_one_for_each_that_leaves_and_more_when_it_grows() {
        let room = Room::new(1);
        let first = room.seat().await;
        let waits = |room: Arc<Room>| async move {
            tokio::time::timeout(Duration::from_millis(20), room.seat()).await
        };
        assert!(waits(room.clone()).await.is_err());
        drop(first);
        let _second = waits(room.clone()).await.unwrap();
        room.resize(2);
        let _third = waits(room.clone()).await.unwrap();
        assert!(waits(room).await.is_err());
    }
}
