//! A look at the machine that readers share: whoever asks within [`MAX_AGE`] of the last look gets that one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::now;
use crate::model::connector::ConnectorError;

/// Sensors polled at about the same moment share one look.
pub(super) const MAX_AGE: Duration = Duration::from_millis(200);

/// The time between the two looks of a first poll; longer than looks live, so that the second is a new one.
pub(super) const WARM_UP: Duration = Duration::from_millis(250);

/// One shared look of type `T`, with its time.
pub(super) struct Cached<T> {
    slot: Arc<Mutex<Option<Look<T>>>>,
}

/// What was seen, and when.
pub(super) struct Look<T> {
    pub(super) at: Instant,
    pub(super) seen: Arc<T>,
}

impl<T> Clone for Look<T> {
    fn clone(&self) -> Self {
        Self { at: self.at, seen: self.seen.clone() }
    }
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self { slot: Arc::default() }
    }
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// The last look if it is young enough, otherwise a new one. `read` runs on a thread where it may block; when it hangs
    /// (a dead file system), that is one thread, and others wait for it without a thread of their own.
    pub(super) async fn get(
        &self,
        read: impl FnOnce() -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<Look<T>, ConnectorError> {
        let mut slot = self.slot.clone().lock_owned().await;
        if let Some(look) = slot.as_ref()
            && look.at.elapsed() < MAX_AGE
        {
            return Ok(look.clone());
        }
        let task = tokio::task::spawn_blocking(move || {
            let look = Look { at: now(), seen: Arc::new(read()?) };
            *slot = Some(look.clone());
            Ok(look)
        });
        task.await.unwrap_or_else(|e| {
            Err(ConnectorError::Unreachable(format!("reading the machine broke off: {e}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn readers_at_the_same_moment_share_one_look() {
        let cached = Cached::<u32>::default();
        let looks = Arc::new(AtomicU32::new(0));
        let get = || {
            let looks = looks.clone();
            cached.get(move || Ok(looks.fetch_add(1, Ordering::SeqCst) + 1))
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert_eq!([*a.unwrap().seen, *b.unwrap().seen, *c.unwrap().seen], [1, 1, 1]);
    }

    #[tokio::test]
    async fn a_failed_look_is_not_kept() {
        let cached = Cached::<u32>::default();
        let failed = cached.get(|| Err(ConnectorError::Answer("no".into()))).await;
        assert!(failed.is_err());
        assert_eq!(*cached.get(|| Ok(7)).await.unwrap().seen, 7);
    }
}
