//! A listening port that opens as soon as it can, and closes without cutting off who is inside.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::front::Front;
use super::live::{Ended, Inserted, Live};
use super::room::Room;
use crate::model::endpoint::Protocol;

/// A port that is taken is tried again, at first after this time, then ever more seldom.
const AGAIN: Duration = Duration::from_millis(20);
const SELDOM: Duration = Duration::from_secs(1);

/// How long nothing is accepted when the process has no descriptor left.
const FULL: Duration = Duration::from_millis(50);

/// Why a port is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble(pub Arc<str>);

/// The port in front of a service, or of a reference.
#[derive(Debug)]
pub(super) struct Gate {
    /// Where it was asked to be.
    pub(super) listen: SocketAddr,
    /// Where it is: with a port of its own where any was asked for.
    pub(super) address: SocketAddr,
    pub(super) front: Arc<Front>,
    /// Of a port in front of a service that runs already: which of several processes is meant.
    pub(super) pid: Option<u32>,
    door: Door,
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Who is inside is told that the connection ends, as when homeostat leaves.
        self.front.closed.cancel();
    }
}

impl Gate {
    /// Opens a port, at once if it is free, otherwise as soon as it is. Must be called within a tokio runtime.
    pub(super) fn open(
        listen: SocketAddr,
        front: Arc<Front>,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (inside, end) = (front.clone(), stopping.clone());
        let serve = move |client, _| through(client, inside.clone(), end.clone());
        let door = Door::open(listen, front.room.clone(), serve, stopping, tasks);
        Self { listen, address: door.address, front, pid: None, door }
    }

    /// As [`Gate::open`], in front of a service that already listens there; `pid` says which of several processes is meant.
    pub(super) fn open_live(
        listen: SocketAddr,
        (front, live): (Arc<Front>, Arc<Live>),
        pid: Option<u32>,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let inside = front.clone();
        let serve = move |client, closed| through(client, inside.clone(), closed);
        let door = Door::open_live((listen, pid), (live, front.room.clone()), serve, stopping, tasks);
        Self { listen, address: door.address, front, pid, door }
    }

    /// Whether it is in front of a service that listens at the same address.
    pub(super) fn is_live(&self) -> bool {
        self.front.live.is_some()
    }

    /// Why it is not open, if it is not.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.door.trouble()
    }

    /// Answers `true` once a port that was taken is open, `false` when it is not wanted any more.
    pub(super) fn opens(&self) -> impl Future<Output = bool> + Send + 'static {
        let (opened, closed) = (self.door.opened.clone(), self.door.closed.clone());
        async move {
            tokio::select! {
                () = opened.cancelled() => true,
                () = closed.cancelled() => false,
            }
        }
    }
}

/// One connection of a client, until it ends or is cut off.
async fn through(client: TcpStream, front: Arc<Front>, closed: CancellationToken) {
    let cut = front.cut.clone();
    let protocol = **front.protocol.load();
    let serve = async {
        match protocol {
            Protocol::Http => super::relay::serve(client, front, closed).await,
            Protocol::Tcp => super::tcp::serve(client, front).await,
        }
    };
    tokio::select! {
        () = serve => {}
        () = cut.cancelled() => {}
    }
}

/// A listening port; closes when dropped.
#[derive(Debug)]
pub(super) struct Door {
    /// Where it is: with a port of its own where any was asked for.
    pub(super) address: SocketAddr,
    trouble: Arc<Mutex<Option<Trouble>>>,
    opened: CancellationToken,
    closed: CancellationToken,
    live: Option<Arc<Live>>,
}

impl Drop for Door {
    fn drop(&mut self) {
        match &self.live {
            Some(live) => live.leaving.cancel(),
            None => self.closed.cancel(),
        }
    }
}

impl Door {
    /// Opens a port, at once if it is free, otherwise as soon as it is, and serves every connection. Must be called within a tokio runtime.
    pub(super) fn open<F: Future<Output = ()> + Send + 'static>(
        listen: SocketAddr,
        room: Arc<Room>,
        serve: impl Fn(TcpStream, CancellationToken) -> F + Send + 'static,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let closed = stopping.child_token();
        let trouble: Arc<Mutex<Option<Trouble>>> = Arc::default();
        let first = bind(listen);
        set(&trouble, first.as_ref().err());
        let address = first.as_ref().ok().and_then(|l| l.local_addr().ok()).unwrap_or(listen);
        let opened = CancellationToken::new();
        let work = {
            let (trouble, closed, tasks) = (trouble.clone(), closed.clone(), tasks.clone());
            let is_open = opened.clone();
            async move {
                let opened = match first {
                    Ok(listener) => Some(listener),
                    Err(_) => tokio::select! {
                        listener = bind_again(listen, &trouble) => Some(listener),
                        () = closed.cancelled() => None,
                    },
                };
                if let Some(listener) = opened {
                    is_open.cancel();
                    accept(listener, &room, serve, &closed, &tasks).await;
                }
            }
        };
        tasks.spawn(work);
        Self { address, trouble, opened, closed, live: None }
    }

    /// Takes the place in front of a running service, at once if it can, otherwise as soon as it can, again whenever the service comes back, and leaves it when dropped.
    fn open_live<F: Future<Output = ()> + Send + 'static>(
        (listen, pid): (SocketAddr, Option<u32>),
        (live, room): (Arc<Live>, Arc<Room>),
        serve: impl Fn(TcpStream, CancellationToken) -> F + Send + Sync + 'static,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let closed = stopping.child_token();
        let trouble: Arc<Mutex<Option<Trouble>>> = Arc::default();
        let take = move || Inserted::take(listen, pid).map_err(|e| Trouble(e.to_string().into()));
        let mut next = Some(take());
        set(&trouble, next.as_ref().and_then(|n| n.as_ref().err()));
        let address = next.as_ref().and_then(|n| n.as_ref().ok()).map_or(listen, Inserted::bound);
        let work = {
            let (trouble, closed, live, tasks) =
                (trouble.clone(), closed.clone(), live.clone(), tasks.clone());
            async move {
                let serve = |client| serve(client, closed.clone());
                loop {
                    let ended = match next.take() {
                        Some(Ok(inserted)) => {
                            set(&trouble, None);
                            live.stand(inserted, (&serve, &room), &closed, &tasks).await
                        }
                        _ => Ok(Ended::Gone),
                    };
                    let why = match ended {
                        Ok(Ended::Left) => return,
                        Ok(Ended::Gone) => format!("the service no longer listens at {address}"),
                        Err(error) => error.to_string(),
                    };
                    if trouble.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                        set(&trouble, Some(&Trouble(why.into())));
                    }
                    tokio::select! {
                        () = tokio::time::sleep(SELDOM) => {}
                        () = closed.cancelled() => break,
                        () = live.leaving.cancelled() => break,
                    }
                    let again = tokio::task::spawn_blocking(take).await;
                    let again = again.unwrap_or_else(|e| Err(Trouble(e.to_string().into())));
                    if let Err(why) = &again {
                        set(&trouble, Some(why));
                    }
                    next = Some(again);
                }
                live.never();
            }
        };
        tasks.spawn(work);
        Self { address, trouble, opened: CancellationToken::new(), closed, live: Some(live) }
    }

    /// Why it is not open, if it is not.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn set(trouble: &Mutex<Option<Trouble>>, why: Option<&Trouble>) {
    *trouble.lock().unwrap_or_else(PoisonError::into_inner) = why.cloned();
}

fn bind(listen: SocketAddr) -> Result<TcpListener, Trouble> {
    let open = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(cfg!(unix))?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error: std::io::Error| Trouble(format!("cannot listen on {listen}: {error}").into()))
}

async fn bind_again(listen: SocketAddr, trouble: &Mutex<Option<Trouble>>) -> TcpListener {
    let mut pause = AGAIN;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SELDOM);
        match bind(listen) {
            Ok(listener) => {
                set(trouble, None);
                return listener;
            }
            Err(why) => set(trouble, Some(&why)),
        }
    }
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    room: &Arc<Room>,
    serve: impl Fn(TcpStream, CancellationToken) -> F,
    closed: &CancellationToken,
    tasks: &TaskTracker,
) {
    loop {
        let (client, seat) = tokio::select! {
            next = async {
                let seat = room.seat().await;
                (listener.accept().await, seat)
            } => next,
            () = closed.cancelled() => return,
        };
        match client {
            Ok((client, _)) => {
                let _ = client.set_nodelay(true);
                let serving = serve(client, closed.clone());
                tasks.spawn(async move {
                    serving.await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(FULL).await;
            }
        }
    }
}
