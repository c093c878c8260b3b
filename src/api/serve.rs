//! The listener: one task per connection, a limit on the time that a request's head may take, and an orderly end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::events::Stopping;
use super::problem::{MEDIA_TYPE, Problem};

/// How long a client may take for the head of a request; idle connections are closed after it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long requests under way may still take when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait after an error of the listener (too many open files, say).
const BREATH: Duration = Duration::from_millis(100);

/// Serves until `shutdown`: then takes no more connections, ends the event streams, lets requests under way end, and returns,
/// at the latest five seconds later.
///
/// # Errors
/// Never at present; errors of single connections end those connections only.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(listener, router, shutdown, HEAD_TIMEOUT).await
}

/// As [`serve`], with `head` as the time that the head of a request may take.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    head: Duration,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                tasks.spawn(connection(socket, router.clone(), stop.clone(), head));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(late = tasks.len(), "connections still open are cut");
    }
    Ok(())
}

async fn connection(socket: TcpStream, router: Router, stop: CancellationToken, head: Duration) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a connection is not set to send at once");
    }
    let service = TowerToHyperService::new(router);
    let stopping = Stopping(stop.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(stopping.clone());
        service.call(request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(socket), service);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    match result {
        Ok(()) => {}
        Err(error) if error.is_timeout() => {
            let parts = connection.into_parts();
            // Nothing read: an idle connection, which is closed without a word.
            if !parts.read_buf.is_empty() {
                too_slow(parts.io.into_inner(), head).await;
            }
        }
        Err(error) => tracing::debug!(%error, "a connection ended early"),
    }
}

/// Tells a client that its request's head took too long (408), as far as it still listens.
async fn too_slow(mut socket: TcpStream, head: Duration) {
    let problem = Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "slow-request",
        format!("the head of the request did not arrive within {} s", head.as_secs_f64()),
    );
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    if let Ok(Err(error)) = tokio::time::timeout(GRACE, socket.write_all(answer.as_bytes())).await {
        tracing::debug!(%error, "a slow client is gone");
    }
}
