//! A listening port that opens as soon as it can, and closes without cutting off who is inside.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::front::Front;
use crate::model::endpoint::Protocol;

/// A port that is taken is tried again, at first after this time, then ever more seldom.
const AGAIN: Duration = Duration::from_millis(20);
const SELDOM: Duration = Duration::from_secs(1);

/// How long nothing is accepted when the process has no descriptor left.
const FULL: Duration = Duration::from_millis(50);

/// Why a port is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble(pub Arc<str>);

/// A listening port; closes when dropped.
#[derive(Debug)]
pub(super) struct Gate {
    /// Where it was asked to be.
    pub(super) listen: SocketAddr,
    /// Where it is: with a port of its own where any was asked for.
    pub(super) address: SocketAddr,
    pub(super) front: Arc<Front>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    closed: CancellationToken,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.closed.cancel();
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
        let closed = stopping.child_token();
        let trouble: Arc<Mutex<Option<Trouble>>> = Arc::default();
        let first = bind(listen);
        set(&trouble, first.as_ref().err());
        let address = first.as_ref().ok().and_then(|l| l.local_addr().ok()).unwrap_or(listen);
        let work = {
            let (front, trouble, closed, tasks) =
                (front.clone(), trouble.clone(), closed.clone(), tasks.clone());
            async move {
                let opened = match first {
                    Ok(listener) => Some(listener),
                    Err(_) => tokio::select! {
                        listener = bind_again(listen, &trouble) => Some(listener),
                        () = closed.cancelled() => None,
                    },
                };
                if let Some(listener) = opened {
                    accept(listener, front, &closed, &tasks).await;
                }
            }
        };
        tasks.spawn(work);
        Self { listen, address, front, trouble, closed }
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

async fn accept(listener: TcpListener, front: Arc<Front>, closed: &CancellationToken, tasks: &TaskTracker) {
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            () = closed.cancelled() => return,
        };
        match client {
            Ok((client, _)) => {
                let _ = client.set_nodelay(true);
                let (front, closed) = (front.clone(), closed.clone());
                let (cut, protocol) = (front.cut.clone(), **front.protocol.load());
                tasks.spawn(async move {
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
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(FULL).await;
            }
        }
    }
}
