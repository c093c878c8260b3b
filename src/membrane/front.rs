//! One listening port: where it leads, what is measured of it, and what it allows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::candidate::Candidate;
use super::live::{IDLE_WHEN_LEAVING, Live};
use super::meter::{FailureKind, Meter};
use super::news::Teller;
use super::room::Room;
use super::target::{Lead, Member, Pool, Slot, Target};
use crate::model::calls::{Eject, LimitsSpec};
use crate::model::endpoint::{Endpoint, Protocol};

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
    /// How long a client may pause within the body of a request.
    pub body: Duration,
    /// How many clients may be connected at once; more wait in the queue of the operating system.
    pub connections: u32,
    /// How often a call that may be sent twice is sent again when it did not reach the service, or was not answered.
    pub retries: u32,
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
            body: Duration::from_secs(60),
            connections: 10_000,
            retries: 0,
            patience: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// With what a policy says.
    pub(super) fn with(self, spec: &LimitsSpec, retries: u32) -> Self {
        Self {
            connections: spec.max_connections.unwrap_or(self.connections),
            connect: spec.connect_timeout.map_or(self.connect, |t| t.0),
            response: spec.response_timeout.map(|t| t.0).or(self.response),
            body: spec.body_timeout.map_or(self.body, |t| t.0),
            retries,
            ..self
        }
    }
}

/// One listening port.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) slot: Slot,
    pub(super) protocol: arc_swap::ArcSwap<Protocol>,
    pub(super) meter: Arc<Meter>,
    pub(super) limits: arc_swap::ArcSwap<Limits>,
    /// Who is inside, and how many may be.
    pub(super) room: Arc<Room>,
    /// Whether an idle connection of a client ends when that to the service does, as it would without a proxy.
    pub(super) mirrors: bool,
    /// Cuts off who is still inside.
    pub(super) cut: CancellationToken,
    /// Cancelled when the port is closed while homeostat goes on.
    pub(super) closed: CancellationToken,
    /// Of a port in front of a service that listens at the same address.
    pub(super) live: Option<Arc<Live>>,
    /// Whether there is a module for HTTP/2.
    pub(super) http2: bool,
}

/// Why there is no connection to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoConnection {
    pub(super) kind: FailureKind,
    pub(super) why: String,
}

impl Front {
    /// What it allows at present.
    pub(super) fn limits(&self) -> Limits {
        **self.limits.load()
    }

    /// Allows this from now on; who is inside stays inside.
    pub(super) fn allow(&self, limits: Limits) {
        if self.limits() != limits {
            self.limits.store(Arc::new(limits));
            self.room.resize(limits.connections);
        }
    }

    /// This is spoken from now on.
    pub(super) fn speak(&self, protocol: Protocol) {
        if **self.protocol.load() != protocol {
            self.protocol.store(Arc::new(protocol));
        }
    }

    /// Leads to an endpoint from now on, unless it does.
    pub(super) fn stand_before(&self, name: &Arc<str>, endpoint: &Endpoint) {
        self.speak(endpoint.protocol);
        if let Lead::To(pool) = &*self.slot.lead()
            && pool.members.iter().all(|m| m.target.name == *name && m.target.address == endpoint.address)
        {
            return;
        }
        let target = Target::new(Candidate::new(name.clone()), endpoint.address.clone());
        self.slot.switch(Lead::To(Pool::of(target)));
    }

    /// Leads to these from now on, unless it does. Answers the targets that it led to before and does no longer.
    pub(super) fn lead_to(
        &self,
        members: Vec<Member>,
        eject: Option<Eject>,
        tell: &Teller,
    ) -> Vec<Arc<Target>> {
        if let Lead::To(pool) = &*self.slot.lead()
            && pool.is(&members, eject)
        {
            return Vec::new();
        }
        self.slot.switch(Lead::To(Pool::new(members, eject, tell.clone())))
    }

    /// Connects to a target.
    pub(super) async fn connect(&self, target: &Target) -> Result<TcpStream, NoConnection> {
        let limit = self.limits().connect;
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

    /// Whether clients are to be told that their connection ends, because homeostat leaves, or the port is closed.
    pub(super) fn leaves(&self) -> bool {
        self.closed.is_cancelled() || self.live.as_ref().is_some_and(|live| live.leaving.is_cancelled())
    }

    /// Ends when homeostat leaves, or the port is closed.
    pub(super) async fn leaving(&self) {
        match &self.live {
            Some(live) => tokio::select! {
                () = live.leaving.cancelled() => {}
                () = self.closed.cancelled() => {}
            },
            None => self.closed.cancelled().await,
        }
    }

    /// Ends when homeostat leaves, or the port is closed, and an idle connection has had its time.
    pub(super) async fn idle_is_over(&self) {
        self.leaving().await;
        tokio::time::sleep(IDLE_WHEN_LEAVING).await;
    }

    /// Whether calls do not lead to `target` any more.
    pub(super) fn has_left(&self, target: &Arc<Target>) -> bool {
        match &*self.slot.lead() {
            Lead::To(pool) => !pool.has(target),
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
