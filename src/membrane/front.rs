//! One listening port: where it leads, what is measured of it, and what it allows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::meter::{FailureKind, Meter};
use super::target::{Lead, Slot, Target};
use crate::model::endpoint::Protocol;

/// What a port allows its clients and services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many bytes a header section may have.
    pub head_bytes: usize,
    /// How long a client may take to send a header section, from its first byte.
    pub head_time: Duration,
    /// How long a connection may be idle between two requests.
    pub idle: Duration,
    /// How long a service may take to accept a connection.
    pub connect: Duration,
    /// How long a service may take to begin its answer; for ever, when absent, as without a proxy.
    pub response: Option<Duration>,
    /// How long a switch waits for calls that are on their way to the old target before it says how many still are.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            head_time: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            connect: Duration::from_secs(3),
            response: None,
            patience: Duration::from_secs(5),
        }
    }
}

/// One listening port.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) slot: Slot,
    pub(super) protocol: arc_swap::ArcSwap<Protocol>,
    pub(super) meter: Arc<Meter>,
    pub(super) limits: Limits,
    /// Whether an idle connection of a client ends when that to the service does, as it would without a proxy.
    pub(super) mirrors: bool,
    /// Cuts off who is still inside.
    pub(super) cut: CancellationToken,
    /// Of a port in front of a service that listens at the same address.
    pub(super) live: Option<Arc<Live>>,
}

/// Why there is no connection to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoConnection {
    pub(super) kind: FailureKind,
    pub(super) why: String,
}

impl Front {
    /// Connects to a target.
    pub(super) async fn connect(&self, target: &Target) -> Result<TcpStream, NoConnection> {
        let limit = self.limits.connect;
        let connect = async {
            match &self.live {
                None => TcpStream::connect(&*target.address).await,
                Some(live) => live.connect().await,
            }
        };
        match tokio::time::timeout(limit, connect).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::TimedOut => FailureKind::ConnectTimeout,
                    _ => FailureKind::Unreachable,
                };
                Err(NoConnection { kind, why: format!("`{}` cannot be reached: {error}", target.name) })
            }
            Err(_) => Err(NoConnection {
                kind: FailureKind::ConnectTimeout,
                why: format!(
                    "`{}` did not accept a connection within {}",
                    target.name,
                    crate::model::HumanDuration(limit)
                ),
            }),
        }
    }

    /// Whether clients are to be told that their connection ends, because homeostat leaves.
    pub(super) fn leaves(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.leaving.is_cancelled())
    }

    /// Ends when homeostat leaves.
    pub(super) async fn leaving(&self) {
        match &self.live {
            Some(live) => live.leaving.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends when homeostat leaves and an idle connection has had its time.
    pub(super) async fn idle_is_over(&self) {
        match &self.live {
            Some(live) => live.idle_is_over().await,
            None => std::future::pending().await,
        }
    }

    /// Whether calls lead elsewhere than to `target` by now.
    pub(super) fn has_left(&self, target: &Arc<Target>) -> bool {
        match &*self.slot.lead() {
            Lead::To(now) => !Arc::ptr_eq(now, target),
            Lead::Nowhere(_) => true,
        }
    }
}

/// The status that a failure is answered with, as long as nothing else was.
pub(super) fn status_of(kind: FailureKind) -> (u16, &'static str) {
    match kind {
        FailureKind::Malformed => (400, "Bad Request"),
        FailureKind::SlowClient | FailureKind::ClientGone => (408, "Request Timeout"),
        FailureKind::TooLarge => (431, "Request Header Fields Too Large"),
        FailureKind::Unbound => (503, "Service Unavailable"),
        FailureKind::ConnectTimeout | FailureKind::ResponseTimeout => (504, "Gateway Timeout"),
        FailureKind::Unreachable | FailureKind::BrokenOff | FailureKind::Garbage => (502, "Bad Gateway"),
    }
}
