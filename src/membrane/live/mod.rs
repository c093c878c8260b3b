//! Standing in front of a service that already runs, on its own address, without its help, and leaving again; no connection is dropped either way (R4-28).
//!
//! The service's listening socket is duplicated (`pidfd_getfd`) and allowed to share its address (`SO_REUSEPORT`); a socket of homeostat joins it there, and a program in the kernel
//! (`program`) chooses between the two for each new connection. The mechanics are in `linux`; elsewhere there are none.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod program;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::room::{Room, Seat};

#[cfg(target_os = "linux")]
pub(super) use linux::Place;

/// How often it is looked whether the service still listens.
const LOOK: Duration = Duration::from_millis(100);

/// How long new connections have gone to the service before leaving looks whether any is left on the way here.
const SETTLE: Duration = Duration::from_millis(50);

/// How long leaving waits for connections whose handshake had begun. A lost packet is repeated after 1 s and after 3 s.
const HANDSHAKES: Duration = Duration::from_secs(10);

/// How long a connection may be idle once homeostat is leaving: whoever asks within this time is answered, and told that the connection ends.
pub(super) const IDLE_WHEN_LEAVING: Duration = Duration::from_secs(10);

/// Why homeostat cannot stand in front of a running service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// It was never done here.
    #[error(
        "standing in front of a running service needs Linux 5.6 or later (pidfd_getfd, SO_ATTACH_REUSEPORT_CBPF)"
    )]
    NotHere,
    /// No socket listens there.
    #[error(
        "nobody listens at {0} in this network namespace; expected a TCP service that runs already (one that is to be started: `homeostat wrap … -- PROGRAM`)"
    )]
    Nobody(SocketAddr),
    /// Somebody listens there, but elsewhere.
    #[error(
        "process {pid} lives in another network namespace (a container); run homeostat there: nsenter --net --target {pid} homeostat wrap --live …"
    )]
    OtherNamespace {
        /// A process that lives there.
        pid: u32,
    },
    /// The process that was named is not the one.
    #[error("process {pid} does not listen at {listen}{}", .holder.map(|h| format!("; process {h} does")).unwrap_or_default())]
    OtherProcess {
        /// What was named.
        pid: u32,
        /// Where it should listen.
        listen: SocketAddr,
        /// Who does.
        holder: Option<u32>,
    },
    /// Each worker has a socket of its own, or another homeostat stands there.
    #[error(
        "{count} sockets listen at {at}: workers with a socket each (SO_REUSEPORT), or another homeostat; only a service with one socket, which its workers may share, can be stood in front of"
    )]
    SeveralSockets {
        /// Where.
        at: SocketAddr,
        /// How many.
        count: usize,
    },
    /// Connections of homeostat would reach somebody else.
    #[error("another service listens at {0}, which is where connections to this one would have to go")]
    Shadowed(SocketAddr),
    /// A scope is needed that is not known.
    #[error("{0} is a link-local address, which cannot be stood in front of")]
    LinkLocal(SocketAddr),
    /// The kernel says no.
    #[error(
        "the socket of process {pid} may not be shared: {why}; homeostat has to run as the same user with ptrace allowed (/proc/sys/kernel/yama/ptrace_scope is 0, or 1 and homeostat has started it), or with CAP_SYS_PTRACE and CAP_CHOWN (root)"
    )]
    Denied {
        /// Whose socket.
        pid: u32,
        /// What the kernel said.
        why: String,
    },
    /// Its processes cannot be seen.
    #[error(
        "who listens at {at} cannot be seen: the socket belongs to user {user}; homeostat has to run as that user, or as root, in the same PID namespace"
    )]
    Unseen {
        /// Where.
        at: SocketAddr,
        /// Whose.
        user: u32,
    },
    /// Anything else.
    #[error("cannot {what}: {why}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        why: String,
    },
}

/// A place in front of a running service, taken.
#[derive(Debug)]
pub(super) struct Inserted {
    listener: std::net::TcpListener,
    place: Arc<Place>,
}

impl Inserted {
    /// Takes the place in front of the service that listens at this address, or at the wildcard address that covers it. From now on new connections
    /// come here; they wait until they are accepted. Blocks for a look at all processes.
    ///
    /// # Errors
    /// Why it cannot; the service is as it was then.
    pub(super) fn take(listen: SocketAddr, pid: Option<u32>) -> Result<Self, LiveError> {
        let (listener, place) = Place::take(listen, pid)?;
        Ok(Self { listener, place: Arc::new(place) })
    }

    /// The address that the service is bound to.
    pub(super) fn bound(&self) -> SocketAddr {
        self.place.bound()
    }
}

/// A service that runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// The process that listens; the first, if several share its socket.
    pub pid: u32,
    /// Where it is bound.
    pub bound: SocketAddr,
    /// Where it is reached from this machine.
    pub endpoint: SocketAddr,
}

impl Running {
    /// Looks who listens at this address, or at the wildcard address that covers it. Blocks for a look at all processes.
    ///
    /// # Errors
    /// Why homeostat cannot stand in front of it.
    pub fn at(listen: SocketAddr, pid: Option<u32>) -> Result<Self, LiveError> {
        #[cfg(target_os = "linux")]
        return linux::running(listen, pid);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (listen, pid);
            Err(LiveError::NotHere)
        }
    }
}

/// What the port in front of a running service has beside others.
#[derive(Debug, Default)]
pub(super) struct Live {
    place: ArcSwapOption<Place>,
    /// Cancelled when homeostat is to leave.
    pub(super) leaving: CancellationToken,
    /// Cancelled once nobody new can come.
    left: CancellationToken,
    inside: TaskTracker,
}

/// How standing in front of a running service ended.
pub(super) enum Ended {
    /// Homeostat has left.
    Left,
    /// The service no longer listens.
    Gone,
}

impl Live {
    /// Connects to the service, in such a way that the kernel does not bring the connection back here.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        match self.place.load_full() {
            Some(place) => place.connect().await,
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Leaves: ends when the last connection has.
    pub(super) async fn leave(&self) {
        self.leaving.cancel();
        self.left.cancelled().await;
        self.inside.close();
        self.inside.wait().await;
    }

    /// Nothing was ever in front, so there is nothing to leave.
    pub(super) fn never(&self) {
        self.left.cancel();
    }

    /// Accepts connections until homeostat is to leave or the service is gone.
    pub(super) async fn stand<F: Future<Output = ()> + Send + 'static>(
        &self,
        inserted: Inserted,
        (serve, room): (&(impl Fn(TcpStream) -> F + Sync), &Arc<Room>),
        closed: &CancellationToken,
        tasks: &TaskTracker,
    ) -> io::Result<Ended> {
        let Inserted { listener, place } = inserted;
        let listener = TcpListener::from_std(listener)?;
        self.place.store(Some(place.clone()));
        let take = |client: TcpStream, peer: SocketAddr, seat: Option<Seat>| {
            // The service closed its socket in the very moment in which it was called: the call came back.
            if !place.is_own(peer) {
                let _ = client.set_nodelay(true);
                let serving = serve(client);
                tasks.spawn(self.inside.track_future(async move {
                    serving.await;
                    drop(seat);
                }));
            }
        };
        let mut look = tokio::time::interval(LOOK);
        let ended = loop {
            tokio::select! {
                (client, seat) = async {
                    let seat = room.seat().await;
                    (listener.accept().await, seat)
                } => match client {
                    Ok((client, peer)) => take(client, peer, Some(seat)),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(SETTLE).await;
                    }
                },
                () = self.leaving.cancelled() => break Ended::Left,
                () = closed.cancelled() => break Ended::Left,
                _ = look.tick() => if !place.listens() {
                    break Ended::Gone;
                },
            }
        };
        if let Ended::Left = ended {
            if let Err(error) = place.withdraw(&listener) {
                tracing::error!(%error, "new connections cannot be sent to the service before homeostat leaves");
            }
            self.last(&listener, &place, take).await;
        }
        drop(listener);
        if let Ended::Left = ended
            && let Err(error) = place.restore()
        {
            tracing::warn!(%error, "the service's socket keeps SO_REUSEPORT, which changes nothing for its clients");
        }
        if let Ended::Left = ended {
            self.left.cancel();
        }
        Ok(ended)
    }

    /// Accepts whoever was on the way here when new connections began to go to the service, however many these are: nobody else will.
    async fn last(
        &self,
        listener: &TcpListener,
        place: &Place,
        take: impl Fn(TcpStream, SocketAddr, Option<Seat>),
    ) {
        let until = tokio::time::sleep(HANDSHAKES);
        let done = async {
            tokio::time::sleep(SETTLE).await;
            let mut begun = place.handshakes();
            while !begun.is_empty() {
                tokio::time::sleep(LOOK).await;
                let now = place.handshakes();
                begun.retain(|peer| now.contains(peer));
            }
            tokio::time::sleep(SETTLE).await;
        };
        tokio::pin!(until, done);
        loop {
            tokio::select! {
                // Whoever is there goes before the end.
                biased;
                Ok((client, peer)) = listener.accept() => take(client, peer, None),
                () = &mut done => break,
                () = &mut until => break,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::*;

    /// There is none here.
    #[derive(Debug)]
    pub(in crate::membrane) enum Place {}

    impl Place {
        pub(super) fn take(
            _: SocketAddr,
            _: Option<u32>,
        ) -> Result<(std::net::TcpListener, Self), LiveError> {
            Err(LiveError::NotHere)
        }

        pub(super) fn bound(&self) -> SocketAddr {
            match *self {}
        }

        pub(super) async fn connect(&self) -> io::Result<TcpStream> {
            match *self {}
        }

        pub(super) fn is_own(&self, _: SocketAddr) -> bool {
            match *self {}
        }

        pub(super) fn listens(&self) -> bool {
            match *self {}
        }

        pub(super) fn handshakes(&self) -> Vec<SocketAddr> {
            match *self {}
        }

        pub(super) fn withdraw(&self, _: &TcpListener) -> io::Result<()> {
            match *self {}
        }

        pub(super) fn restore(&self) -> Result<(), LiveError> {
            match *self {}
        }
    }
}

#[cfg(not(target_os = "linux"))]
use elsewhere::Place;
