//! HTTP/2 without TLS through the membrane, by prior knowledge on both sides (RFC 9113 section 3.3). One connection of a client has one to the service.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{Builder as ClientBuilder, SendRequest};
use hyper::server::conn::http2::Builder as ServerBuilder;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::front::{Front, NoConnection, status_of};
use super::meter::{Call, FailureKind};
use super::tap::Side;
use super::target::{Target, Visit};

/// After this time without an answer, a request counts as having reached the service.
const SURELY_SENT: Duration = Duration::from_secs(1);

/// How often a call that has not been sent is tried again when its target changes.
const ATTEMPTS: usize = 4;

/// How long a call that broke off waits for the word that its whole connection did.
const SURELY_OVER: Duration = Duration::from_millis(50);

/// The connections to services that belong to one connection of a client. Locked for a look only: who connects delays nobody else.
type Backend = Mutex<Vec<Kept>>;

/// A connection, or the attempt to get one, shared by all who wait for it.
type Connecting = Shared<BoxFuture<'static, Result<Connection, NoConnection>>>;

struct Kept {
    target: Arc<Target>,
    connecting: Connecting,
}

impl Kept {
    /// Whether no call can go there any more.
    fn is_over(&self) -> bool {
        self.target.retired.is_cancelled()
            || match self.connecting.peek() {
                Some(Ok(connection)) => connection.over.is_cancelled() || connection.sender.is_closed(),
                Some(Err(_)) => true,
                None => false,
            }
    }
}

/// A connection to a service.
#[derive(Clone)]
struct Connection {
    sender: SendRequest<Passing>,
    /// Cancelled when it has ended.
    over: CancellationToken,
}

/// Serves one connection of a client until it ends; `first` was read of it already.
pub(super) async fn serve(client: TcpStream, first: Bytes, front: Arc<Front>, stopping: CancellationToken) {
    let backend: Arc<Backend> = Arc::default();
    let limit = u32::try_from(front.limits().head_bytes).unwrap_or(u32::MAX);
    let port = front.clone();
    let service = service_fn(move |request| {
        let (front, backend) = (front.clone(), backend.clone());
        async move { Ok::<_, Infallible>(carry(request, &front, &backend).await) }
    });
    let connection = ServerBuilder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(limit)
        .serve_connection(TokioIo::new(Rewound { first, stream: client }), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
        () = port.leaving() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Takes one call to where calls lead at present.
async fn carry(request: Request<Incoming>, front: &Arc<Front>, backend: &Backend) -> Response<Passing> {
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let call = Arc::new(front.meter.begin(request.method().as_str(), target));
    let limits = front.limits();
    let mut tried = Vec::new();
    let idempotent = request.method().is_idempotent();
    let mut retries = if idempotent { limits.retries } else { 0 };
    let (parts, body) = request.into_parts();
    // Without a body there is nothing that a second try could miss.
    let empty = body.is_end_stream();
    let mut body = Some(body);
    for attempt in 1.. {
        let mut visit = match front.slot.enter(&tried) {
            Ok(visit) => visit,
            Err(why) => return failed(&call, FailureKind::Unbound, &why),
        };
        let (connection, kept) = match connection(front, backend, &visit.target).await {
            Ok(found) => found,
            Err(_) if attempt < ATTEMPTS && front.has_left(&visit.target) => continue,
            Err(_) if retries > 0 => {
                retries -= 1;
                visit.sent();
                visit.failed(&mut tried).await;
                continue;
            }
            Err(no) => {
                visit.answered(false);
                return failed(&call, no.kind, &no.why);
            }
        };
        let upload = Arc::new(Upload::default());
        let body = match body.take() {
            Some(body) if !empty => Passing::Up {
                body,
                call: call.clone(),
                upload: upload.clone(),
                limit: limits.body,
                patience: None,
            },
            _ => {
                upload.end();
                call.uploaded();
                Passing::Text(None)
            }
        };
        let request = Request::from_parts(parts.clone(), body);
        match send(request, connection.sender, &call, visit, &upload, limits.response).await {
            Ok(response) => return response,
            // The service closed a kept connection: that is its right, and no failure.
            Err(lost)
                if empty
                    && idempotent
                    && kept
                    && attempt < ATTEMPTS
                    && lost.kind == FailureKind::BrokenOff
                    && ended(&connection.over).await => {}
            Err(lost) if empty && retries > 0 && lost.kind == FailureKind::BrokenOff => {
                retries -= 1;
                lost.visit.failed(&mut tried).await;
            }
            Err(lost) => {
                if lost.kind.is_of_the_service() {
                    lost.visit.answered(false);
                }
                return failed(&call, lost.kind, &lost.why);
            }
        }
    }
    failed(&call, FailureKind::Unreachable, "the service cannot be reached")
}

/// The connection to the target: one that is open, if there is (then the answer says `true`), or a new one, which all wait for who need it.
async fn connection(
    front: &Arc<Front>,
    backend: &Backend,
    target: &Arc<Target>,
) -> Result<(Connection, bool), NoConnection> {
    let (connecting, kept) = {
        let mut all = backend.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| !kept.is_over());
        match all.iter().find(|kept| Arc::ptr_eq(&kept.target, target)) {
            Some(kept) => (kept.connecting.clone(), kept.connecting.peek().is_some()),
            None => {
                let connecting = connect(front.clone(), target.clone()).boxed().shared();
                all.push(Kept { target: target.clone(), connecting: connecting.clone() });
                (connecting, false)
            }
        }
    };
    connecting.await.map(|connection| (connection, kept))
}

async fn connect(front: Arc<Front>, target: Arc<Target>) -> Result<Connection, NoConnection> {
    let stream = front.connect(&target).await?;
    let (sender, connection) = ClientBuilder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| NoConnection {
            kind: FailureKind::Garbage,
            why: format!("`{}` does not speak HTTP/2: {error}", target.name),
        })?;
    let over = CancellationToken::new();
    let ended = over.clone();
    tokio::spawn(async move {
        drop(connection.await);
        ended.cancel();
    });
    Ok(Connection { sender, over })
}

/// Whether a connection has ended as a whole, not only a stream of it.
async fn ended(over: &CancellationToken) -> bool {
    tokio::time::timeout(SURELY_OVER, over.cancelled()).await.is_ok()
}

/// How far the body of a request has come.
#[derive(Default)]
struct Upload {
    over: AtomicBool,
    stalled: AtomicBool,
    ended: Notify,
}

impl Upload {
    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ended.notify_one();
    }

    /// Waits until the service has had the whole request for so long; for ever, without a limit.
    async fn late(&self, limit: Option<Duration>) -> Duration {
        let Some(limit) = limit else { return std::future::pending().await };
        while !self.over.load(Ordering::SeqCst) {
            self.ended.notified().await;
        }
        tokio::time::sleep(limit).await;
        limit
    }
}

/// A call that was sent, and not answered.
struct Lost {
    kind: FailureKind,
    why: String,
    visit: Visit,
}

async fn send(
    request: Request<Passing>,
    mut sender: SendRequest<Passing>,
    call: &Arc<Call>,
    mut visit: Visit,
    upload: &Upload,
    limit: Option<Duration>,
) -> Result<Response<Passing>, Box<Lost>> {
    call.fields(Side::Request, request.headers());
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let late = upload.late(limit);
    tokio::pin!(late);
    let sent = tokio::time::sleep(SURELY_SENT);
    tokio::pin!(sent);
    let answer = loop {
        tokio::select! {
            answer = answer.as_mut() => break Ok(answer),
            limit = late.as_mut() => break Err(limit),
            () = sent.as_mut(), if !sent.is_elapsed() => visit.sent(),
        }
    };
    visit.sent();
    let (kind, why) = match answer {
        Ok(Ok(response)) => {
            call.status(response.status().as_u16());
            call.fields(Side::Response, response.headers());
            visit.answered(!call.is_error());
            let events = response
                .headers()
                .get(hyper::header::CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"));
            let over = response.body().is_end_stream();
            if events || over {
                call.answered();
            }
            let call = call.clone();
            return Ok(response.map(|body| Passing::Down { body, call, over, _visit: visit }));
        }
        Ok(Err(_)) if upload.stalled.load(Ordering::SeqCst) => {
            (FailureKind::SlowClient, "the body of the request did not come in time".to_string())
        }
        Ok(Err(error)) => (FailureKind::BrokenOff, format!("the service did not answer: {error}")),
        Err(limit) => {
            let limit = crate::model::HumanDuration(limit);
            (FailureKind::ResponseTimeout, format!("the service did not answer within {limit}"))
        }
    };
    Err(Box::new(Lost { kind, why, visit }))
}

fn failed(call: &Call, kind: FailureKind, why: &str) -> Response<Passing> {
    call.failed(kind);
    let mut response = Response::new(Passing::Text(Some(Bytes::from(format!("{why}\n")))));
    *response.status_mut() = StatusCode::from_u16(status_of(kind).0).unwrap_or(StatusCode::BAD_GATEWAY);
    response
}

/// A body on its way through, frame by frame, or a short text of our own.
enum Passing {
    Text(Option<Bytes>),
    Up {
        body: Incoming,
        call: Arc<Call>,
        upload: Arc<Upload>,
        limit: Duration,
        patience: Option<Pin<Box<Sleep>>>,
    },
    Down {
        body: Incoming,
        call: Arc<Call>,
        over: bool,
        _visit: Visit,
    },
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = |frame: &Frame<Bytes>| frame.data_ref().map_or(0, Bytes::len);
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Up { body, call, upload, limit, patience } => {
                let polled = Pin::new(&mut *body).poll_frame(context);
                match &polled {
                    Poll::Pending => {
                        let limit = *limit;
                        let wait = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                        if wait.as_mut().poll(context).is_ready() {
                            upload.stalled.store(true, Ordering::SeqCst);
                            return Poll::Ready(Some(Err("the client does not go on".into())));
                        }
                    }
                    Poll::Ready(Some(Ok(frame))) => {
                        *patience = None;
                        call.bytes_in(length(frame));
                        call.body(Side::Request, frame.data_ref().map_or(&[], |data| data));
                    }
                    Poll::Ready(_) => upload.end(),
                }
                if matches!(polled, Poll::Ready(None)) || body.is_end_stream() {
                    call.uploaded();
                }
                polled.map_err(Into::into)
            }
            Self::Down { body, call, over, .. } => {
                let polled = Pin::new(&mut *body).poll_frame(context);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        call.bytes_out(length(frame));
                        call.body(Side::Response, frame.data_ref().map_or(&[], |data| data));
                        if body.is_end_stream() {
                            *over = true;
                            call.answered();
                        }
                    }
                    Poll::Ready(None) => {
                        *over = true;
                        call.answered();
                    }
                    Poll::Ready(Some(Err(_))) => {
                        *over = true;
                        call.failed(FailureKind::BrokenOff);
                    }
                    Poll::Pending => {}
                }
                polled.map_err(Into::into)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Up { body, .. } | Self::Down { body, .. } => body.is_end_stream(),
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        match self {
            Self::Down { call, over: false, .. } => call.failed(FailureKind::ClientGone),
            Self::Up { upload, .. } => upload.end(),
            _ => {}
        }
    }
}

/// A stream of which something was read already.
struct Rewound {
    first: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = self.first.len().min(into.remaining());
        into.put_slice(&self.first[..count]);
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
