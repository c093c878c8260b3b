//! What can happen to the process, as one stream: files that changed, signals.

use std::path::PathBuf;
use std::time::Duration;

use crate::policy::load::Changed;
use crate::policy::watch::{Watch, watch};

/// How long a burst of changes may pause before it is over.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A policy file was written, moved or deleted; a burst counts once.
    PoliciesChanged(Changed),
    /// SIGHUP: read the policies again.
    Hangup,
    /// SIGINT, SIGTERM, or the screen was left.
    Stop,
}

/// The stream of causes.
pub struct Causes {
    watch: Option<Watch>,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
    /// Kept from call to call: an interrupt that comes between two is not lost.
    #[cfg(unix)]
    interrupt: Option<tokio::signal::unix::Signal>,
    left: tokio::sync::mpsc::Receiver<()>,
    /// What happened while only a call to stop was waited for.
    waiting: Option<Cause>,
}

impl Causes {
    /// Watches these directories and the signals of the process. A message on `left` counts as a call to stop.
    /// Where directories cannot be watched (a kernel without inotify, too many watches), that is logged; SIGHUP and the API still reload.
    pub fn new(dirs: &[PathBuf], left: tokio::sync::mpsc::Receiver<()>) -> Self {
        let watch = match watch(dirs, DEBOUNCE) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "policy files are not watched; SIGHUP or `homeostat reload` reads them again");
                None
            }
        };
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let of = |kind| {
                signal(kind).inspect_err(|error| tracing::warn!(%error, "a signal cannot be waited for")).ok()
            };
            Self {
                watch,
                hangup: of(SignalKind::hangup()),
                terminate: of(SignalKind::terminate()),
                interrupt: of(SignalKind::interrupt()),
                left,
                waiting: None,
            }
        }
        #[cfg(not(unix))]
        Self { watch, left, waiting: None }
    }

    /// The next cause; `None` never while the process lives.
    pub async fn next(&mut self) -> Option<Cause> {
        match self.waiting.take() {
            Some(cause) => Some(cause),
            None => self.fresh().await,
        }
    }

    async fn fresh(&mut self) -> Option<Cause> {
        let watched = async {
            match &mut self.watch {
                Some(watch) => match watch.changed().await {
                    Some(changed) => changed,
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let left = async {
            if self.left.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = watched => Some(Cause::PoliciesChanged(changed)),
            () = left => Some(Cause::Stop),
            cause = signals(
                #[cfg(unix)] &mut self.hangup,
                #[cfg(unix)] &mut self.terminate,
                #[cfg(unix)] &mut self.interrupt,
            ) => Some(cause),
        }
    }

    /// Waits for a call to stop. What happens meanwhile is kept for [`Causes::next`].
    pub async fn stop(&mut self) {
        loop {
            match self.fresh().await {
                Some(Cause::Stop) => return,
                // Several changes meanwhile are one: everything is read again.
                other => {
                    self.waiting = match self.waiting.take() {
                        None => other,
                        Some(_) => Some(Cause::Hangup),
                    };
                }
            }
        }
    }
}

#[cfg(unix)]
async fn signals(
    hangup: &mut Option<tokio::signal::unix::Signal>,
    terminate: &mut Option<tokio::signal::unix::Signal>,
    interrupt: &mut Option<tokio::signal::unix::Signal>,
) -> Cause {
    async fn one(signal: &mut Option<tokio::signal::unix::Signal>) {
        let heard = match signal {
            Some(signal) => signal.recv().await.is_some(),
            None => false,
        };
        if !heard {
            std::future::pending::<()>().await;
        }
    }
    tokio::select! {
        () = one(hangup) => Cause::Hangup,
        () = one(terminate) => Cause::Stop,
        () = one(interrupt) => Cause::Stop,
    }
}

#[cfg(not(unix))]
async fn signals() -> Cause {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
    Cause::Stop
}
