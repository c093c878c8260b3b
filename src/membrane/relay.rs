//! HTTP/1 through the membrane. Each client connection has at most one connection to the service, and what passes is forwarded byte for byte: the head
//! once it is known to be unambiguous, bodies as they come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::chunked::Chunked;
use super::front::{Front, NoConnection, status_of};
use super::head::{self, BadHead, Framing, Request, end_of_head};
use super::meter::{Call, FailureKind};
use super::tap::Side;
use super::target::{Target, Visit};

/// How much is read at once, and how much of what follows a request is read ahead.
pub(super) const BUFFER: usize = 16 * 1024;

/// What begins an HTTP/2 connection with prior knowledge (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a call that has not been sent is tried again when its target changes or its idle connection turns out to be closed.
const ATTEMPTS: usize = 4;

/// How long, and how much, is read from a client whose request was refused, so that it sees the answer.
const LINGER: std::time::Duration = std::time::Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

/// Serves one connection of a client until it ends.
pub(super) async fn serve(mut client: TcpStream, front: Arc<Front>, stopping: CancellationToken) {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    let first = tokio::select! {
        first = tokio::time::timeout(front.limits().idle, client.read_buf(&mut buffer)) => first,
        () = stopping.cancelled() => return,
        () = front.idle_is_over() => return,
    };
    if !matches!(first, Ok(Ok(n)) if n > 0) {
        return;
    }
    let speaks_http2 = async { Ok(front.http2 && speaks_http2(&mut client, &mut buffer).await?) };
    match tokio::time::timeout(front.limits().head_time, speaks_http2).await {
        Ok(Ok(true)) => return super::h2::serve(client, buffer.freeze(), front, stopping).await,
        Ok(Ok(false)) | Err(_) => {}
        Ok(Err::<_, io::Error>(_)) => return,
    }
    let (from, to) = client.split();
    let mut session = Session { from, to, buffer, backends: Vec::new(), front: &front };
    let last = loop {
        let then = session.next(&stopping).await;
        if then != Then::Again {
            break then;
        }
    };
    if last == Then::Reset {
        let _ = client.set_zero_linger();
    }
}

/// Reads until it is clear whether the client speaks HTTP/2.
async fn speaks_http2(client: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<bool> {
    loop {
        if buffer.starts_with(PREFACE) {
            return Ok(true);
        }
        // A proper beginning of the preface is also one of `PRI`, which is no method, but may be one of `PR…`.
        if !PREFACE.starts_with(buffer) {
            return Ok(false);
        }
        if client.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What becomes of the connection of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Again,
    End,
    /// What would look like the end of an answer is none.
    Reset,
}

/// The connection to a service that belongs to one connection of a client.
struct Backend {
    stream: TcpStream,
    buffer: BytesMut,
    target: Arc<Target>,
    /// Whether it has carried a call already.
    used: bool,
}

impl Backend {
    /// Waits until the service closes it or sends what nobody asked for, or until new calls go elsewhere; answers whether it was the former.
    async fn over(&self) -> bool {
        loop {
            tokio::select! {
                ready = self.stream.readable() => {
                    if ready.is_err() || !self.quiet() {
                        return true;
                    }
                }
                () = self.target.retired.cancelled() => return false,
            }
        }
    }

    /// Whether it is open and nothing came that nobody asked for.
    fn quiet(&self) -> bool {
        self.buffer.is_empty()
            && matches!(self.stream.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Waits until one of them is over; answers which, and whether the service ended it.
async fn any_over(backends: &[Backend]) -> (usize, bool) {
    match backends {
        [] => std::future::pending().await,
        [only] => (0, only.over().await),
        several => {
            let (closed, which, _) =
                futures::future::select_all(several.iter().map(|backend| Box::pin(backend.over()))).await;
            (which, closed)
        }
    }
}

/// How an attempt to carry a call ended.
enum Ended {
    /// Answered; whether both connections may carry another.
    Answered(bool),
    /// Nothing was answered, and the call may be sent once more.
    Again,
    /// It failed; whether the client has seen the beginning of an answer.
    Failed(FailureKind, String, bool),
    /// It broke off where an end of the connection would mean the end of the answer.
    Cut(FailureKind),
}

/// One connection of a client.
struct Session<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    buffer: BytesMut,
    /// One for each target that calls of the client went to, and may go to again.
    backends: Vec<Backend>,
    front: &'a Front,
}

impl Session<'_> {
    /// One request and its answer.
    async fn next(&mut self, stopping: &CancellationToken) -> Then {
        if self.buffer.is_empty() && !self.idle(stopping).await {
            return Then::End;
        }
        let head = match tokio::time::timeout(self.front.limits().head_time, self.head()).await {
            Ok(Ok(Some(head))) => head,
            Ok(Ok(None)) => return Then::End,
            Ok(Err(bad)) => {
                let kind = match bad {
                    BadHead::TooLarge => FailureKind::TooLarge,
                    BadHead::Malformed(_) => FailureKind::Malformed,
                };
                return self.refuse(kind, &bad.to_string()).await;
            }
            Err(_) => {
                return self.refuse(FailureKind::SlowClient, "the header section did not come in time").await;
            }
        };
        // What is known to be wrong already is not even begun.
        if head.framing == Framing::Chunked
            && let Err(bad) = Chunked::new().pass(&self.buffer)
        {
            return self.refuse(FailureKind::Malformed, &bad.to_string()).await;
        }
        self.carry(&head).await
    }

    /// Waits for the next request; answers whether there is one.
    async fn idle(&mut self, stopping: &CancellationToken) -> bool {
        let patience = tokio::time::sleep(self.front.limits().idle);
        tokio::pin!(patience);
        loop {
            self.buffer.reserve(BUFFER);
            let over = any_over(&self.backends);
            tokio::select! {
                biased;
                read = self.from.read_buf(&mut self.buffer) => return matches!(read, Ok(n) if n > 0),
                (which, closed) = over => {
                    if closed && self.front.mirrors {
                        return false;
                    }
                    self.backends.swap_remove(which);
                }
                () = stopping.cancelled() => return false,
                () = self.front.idle_is_over() => return false,
                () = &mut patience => return false,
            }
        }
    }

    /// The next head; `None` when the client ends the connection instead.
    async fn head(&mut self) -> Result<Option<Request>, BadHead> {
        let mut scanned = 0;
        loop {
            // An empty line before a request is to be ignored (RFC 9112 section 2.2).
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
                scanned = 0;
            }
            match end_of_head(&self.buffer, &mut scanned, self.front.limits().head_bytes)? {
                Some(length) => return head::request(&mut self.buffer, length).map(Some),
                None => {
                    self.buffer.reserve(BUFFER);
                    match self.from.read_buf(&mut self.buffer).await {
                        Ok(n) if n > 0 => {}
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    /// Takes one call to where calls lead at present.
    async fn carry(&mut self, request: &Request) -> Then {
        let call = self.front.meter.begin(&request.method, &request.target);
        call.bytes_in(request.bytes.len());
        let mut tried = Vec::new();
        let mut retries = if request.idempotent() { self.front.limits().retries } else { 0 };
        for attempt in 1.. {
            let mut visit = match self.front.slot.enter(&tried) {
                Ok(visit) => visit,
                Err(why) => return self.fail(&call, FailureKind::Unbound, &why).await,
            };
            let mut backend = match self.backend_for(&visit.target).await {
                Ok(backend) => backend,
                // Nothing was sent: if calls lead elsewhere by now, this one does too.
                Err(_) if attempt < ATTEMPTS && self.front.has_left(&visit.target) => continue,
                Err(_) if retries > 0 => {
                    retries -= 1;
                    visit.sent();
                    visit.failed(&mut tried).await;
                    continue;
                }
                Err(no) => {
                    visit.answered(false);
                    return self.fail(&call, no.kind, &no.why).await;
                }
            };
            let kept = std::mem::replace(&mut backend.used, true);
            let repeatable = (kept && attempt < ATTEMPTS || retries > 0)
                && request.idempotent()
                && request.framing == Framing::Empty;
            match self.exchange(request, &call, &mut visit, &mut backend, repeatable).await {
                // The service closed a kept connection: that is its right, and no failure.
                Ended::Again if kept && attempt < ATTEMPTS => continue,
                Ended::Again => {
                    retries = retries.saturating_sub(1);
                    visit.sent();
                    visit.failed(&mut tried).await;
                }
                Ended::Answered(true) => {
                    visit.answered(!call.is_error());
                    self.backends.push(backend);
                    return Then::Again;
                }
                Ended::Answered(false) => {
                    visit.answered(!call.is_error());
                    let _ = self.to.shutdown().await;
                    return Then::End;
                }
                Ended::Failed(kind, why, false) => {
                    if kind.is_of_the_service() {
                        visit.answered(false);
                    }
                    return self.fail(&call, kind, &why).await;
                }
                Ended::Failed(kind, _, true) => {
                    if kind.is_of_the_service() {
                        visit.answered(false);
                    }
                    call.failed(kind);
                    return Then::End;
                }
                Ended::Cut(kind) => {
                    call.failed(kind);
                    return Then::Reset;
                }
            }
        }
        Then::End
    }

    /// The connection to the target: that of the last call, if it is to the same and still open, or a new one.
    async fn backend_for(&mut self, target: &Arc<Target>) -> Result<Backend, NoConnection> {
        self.backends.retain(|backend| !backend.target.retired.is_cancelled());
        let kept = self.backends.iter().position(|backend| Arc::ptr_eq(&backend.target, target));
        if let Some(backend) = kept.map(|n| self.backends.swap_remove(n))
            && backend.quiet()
        {
            return Ok(backend);
        }
        let stream = self.front.connect(target).await?;
        Ok(Backend { stream, buffer: BytesMut::with_capacity(BUFFER), target: target.clone(), used: false })
    }

    /// Sends the request and brings back the answer, both at once.
    async fn exchange(
        &mut self,
        request: &Request,
        call: &Call,
        visit: &mut Visit,
        backend: &mut Backend,
        repeatable: bool,
    ) -> Ended {
        let (mut answers, mut requests) = backend.stream.split();
        let progress = Progress::default();
        let (from, to, buffer) = (&mut self.from, &mut self.to, &mut self.buffer);
        let down = Download {
            from: &mut answers,
            buffer: &mut backend.buffer,
            to,
            request,
            call,
            front: self.front,
            progress: &progress,
        };
        let answer = {
            let up = async {
                let patience = Patience { limit: self.front.limits().body, heard: &progress.heard };
                upload(from, buffer, &mut requests, request, call, visit, patience).await?;
                progress.uploaded.store(true, Ordering::SeqCst);
                progress.end_of_upload.notify_one();
                watch(from, buffer, &mut requests).await
            };
            let down = down.run();
            tokio::pin!(up, down);
            let mut sending = true;
            let answer = loop {
                tokio::select! {
                    answer = &mut down => break answer,
                    Err(end) = &mut up, if sending => match end {
                        // The service may have answered without wanting all of the request.
                        UploadEnd::Service => sending = false,
                        UploadEnd::Client(kind, why) => {
                            break Err((kind, why));
                        }
                    },
                }
            };
            if let Ok(Answer::Whole { persistent: true }) = &answer
                && !progress.uploaded.load(Ordering::SeqCst)
                && sending
            {
                // The service has answered early and goes on reading.
                tokio::select! {
                    _ = &mut up => {}
                    () = progress.end_of_upload.notified() => {}
                }
            }
            answer
        };
        match answer {
            Ok(Answer::Whole { persistent }) => {
                let uploaded = progress.uploaded.load(Ordering::SeqCst);
                if !uploaded {
                    let _ = self.to.shutdown().await;
                    linger(&mut self.from).await;
                }
                Ended::Answered(persistent && request.persistent && uploaded)
            }
            Ok(Answer::Switched) => {
                let ends = (&mut self.from, &mut self.buffer, &mut self.to);
                tunnel(ends, (&mut answers, &mut backend.buffer, &mut requests), call).await;
                Ended::Answered(false)
            }
            Err((FailureKind::BrokenOff, _)) if repeatable && !progress.heard.load(Ordering::SeqCst) => {
                Ended::Again
            }
            Err((kind, _)) if progress.cut.load(Ordering::SeqCst) => Ended::Cut(kind),
            Err((kind, why)) => Ended::Failed(kind, why, progress.begun.load(Ordering::SeqCst)),
        }
    }

    /// A call that was understood has failed, and nothing was answered yet.
    async fn fail(&mut self, call: &Call, kind: FailureKind, why: &str) -> Then {
        call.failed(kind);
        if kind == FailureKind::ClientGone {
            return Then::End;
        }
        let sent = self.answer(kind, why).await;
        call.bytes_out(sent);
        Then::End
    }

    /// A request that was not understood is answered, and not forwarded.
    async fn refuse(&mut self, kind: FailureKind, why: &str) -> Then {
        self.front.meter.failed(kind);
        self.answer(kind, why).await;
        Then::End
    }

    async fn answer(&mut self, kind: FailureKind, why: &str) -> usize {
        let (status, phrase) = status_of(kind);
        let text = format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
            why.len() + 1
        );
        if self.to.write_all(text.as_bytes()).await.is_err() {
            return 0;
        }
        let _ = self.to.shutdown().await;
        linger(&mut self.from).await;
        text.len()
    }
}

/// Reads what a client still sends for a moment: closing at once could take the answer from it.
async fn linger(from: &mut ReadHalf<'_>) {
    let rest = async {
        let (mut waste, mut total) = ([0; 4096], 0);
        while let Ok(n) = from.read(&mut waste).await {
            total += n;
            if n == 0 || total > LINGER_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// How far an exchange has come.
#[derive(Default)]
struct Progress {
    uploaded: AtomicBool,
    end_of_upload: Notify,
    /// Whether the service has sent anything.
    heard: AtomicBool,
    /// Whether the client has seen the beginning of a final answer.
    begun: AtomicBool,
    /// Whether the service reset the connection whose end was to be that of its answer.
    cut: AtomicBool,
}

impl Progress {
    /// Waits until the service has had the whole request for so long; for ever, without a limit.
    async fn late(&self, limit: Option<std::time::Duration>) -> std::time::Duration {
        let Some(limit) = limit else { return std::future::pending().await };
        while !self.uploaded.load(Ordering::SeqCst) {
            self.end_of_upload.notified().await;
        }
        tokio::time::sleep(limit).await;
        limit
    }
}

/// Why a request is not sent to its end.
enum UploadEnd {
    /// The service takes no more.
    Service,
    /// The client does not send what it should.
    Client(FailureKind, String),
}

/// Sends the head, and the body as it comes.
async fn upload(
    from: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    request: &Request,
    call: &Call,
    visit: &mut Visit,
    patience: Patience<'_>,
) -> Result<(), UploadEnd> {
    let malformed = |e: super::chunked::BadChunk| UploadEnd::Client(FailureKind::Malformed, e.to_string());
    let mut left = match request.framing {
        Framing::Length(length) => length,
        _ => 0,
    };
    let mut chunked = (request.framing == Framing::Chunked).then(Chunked::new);
    let mut head = request.bytes.clone();
    call.head(Side::Request, &head);
    loop {
        let count = match &mut chunked {
            Some(chunked) => chunked.pass(buffer).map_err(malformed)?,
            None => usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len()),
        };
        if head.has_remaining() || count > 0 {
            call.body(Side::Request, &buffer[..count]);
            let mut bytes = (&mut head).chain(&buffer[..count]);
            to.write_all_buf(&mut bytes).await.map_err(|_| UploadEnd::Service)?;
            visit.sent();
            buffer.advance(count);
            left = left.saturating_sub(count as u64);
            call.bytes_in(count);
        }
        if chunked.as_ref().map_or(left == 0, Chunked::done) {
            call.uploaded();
            return Ok(());
        }
        buffer.reserve(BUFFER);
        match patience.with(request, from.read_buf(buffer)).await? {
            Ok(n) if n > 0 => {}
            _ => return Err(UploadEnd::Client(FailureKind::ClientGone, "the client went away".into())),
        }
    }
}

/// How long a client may pause within a body.
struct Patience<'a> {
    limit: std::time::Duration,
    /// Whether the service has sent anything.
    heard: &'a AtomicBool,
}

impl Patience<'_> {
    /// Waits for more of a body. A client that was promised a word of the service first (`Expect: 100-continue`) waits for that, not we for it.
    async fn with<T>(&self, request: &Request, more: impl Future<Output = T>) -> Result<T, UploadEnd> {
        tokio::pin!(more);
        loop {
            match tokio::time::timeout(self.limit, more.as_mut()).await {
                Ok(more) => return Ok(more),
                Err(_) if request.expects() && !self.heard.load(Ordering::SeqCst) => {}
                Err(_) => {
                    let limit = crate::model::HumanDuration(self.limit);
                    let why = format!("no more of the body came within {limit}");
                    return Err(UploadEnd::Client(FailureKind::SlowClient, why));
                }
            }
        }
    }
}

/// Looks on the client after its request: what it sends next is kept, and that it sends no more is passed on.
async fn watch(
    from: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    to: &mut WriteHalf<'_>,
) -> Result<(), UploadEnd> {
    while buffer.len() < BUFFER {
        buffer.reserve(BUFFER);
        match from.read_buf(buffer).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                break;
            }
            Ok(_) => {}
            Err(_) => return Err(UploadEnd::Client(FailureKind::ClientGone, "the client went away".into())),
        }
    }
    std::future::pending().await
}

/// How a final answer ended.
enum Answer {
    /// It is complete; whether the service takes another request on the connection.
    Whole { persistent: bool },
    /// The connection carries another protocol from now on.
    Switched,
}

/// An answer on its way to the client.
struct Download<'a, 'b, 'c> {
    from: &'a mut ReadHalf<'b>,
    buffer: &'a mut BytesMut,
    to: &'a mut WriteHalf<'c>,
    request: &'a Request,
    call: &'a Call,
    front: &'a Front,
    progress: &'a Progress,
}

type Broken = (FailureKind, String);

impl Download<'_, '_, '_> {
    async fn run(mut self) -> Result<Answer, Broken> {
        loop {
            let late = self.progress.late(self.front.limits().response);
            let head = tokio::select! {
                biased;
                head = self.head() => head?,
                limit = late => {
                    let limit = crate::model::HumanDuration(limit);
                    let why = format!("the service did not answer within {limit}");
                    return Err((FailureKind::ResponseTimeout, why));
                }
            };
            let switches = head.status == 101 || self.request.method == "CONNECT" && head.status / 100 == 2;
            if head.status == 101 && !self.request.upgrade {
                let why = "the service switched to a protocol that nobody asked for".to_string();
                return Err((FailureKind::Garbage, why));
            }
            if head.status < 200 && !switches {
                self.send(head.bytes, 0).await?;
                continue;
            }
            self.progress.begun.store(true, Ordering::SeqCst);
            self.call.status(head.status);
            if switches {
                self.send(head.bytes, 0).await?;
                self.call.answered();
                return Ok(Answer::Switched);
            }
            if head.events {
                self.call.answered();
            }
            let leaves = self.front.leaves() && head.persistent;
            let bytes = if leaves { head::closing(&head.bytes) } else { head.bytes };
            self.body(bytes, head.framing).await?;
            self.call.answered();
            return Ok(Answer::Whole { persistent: head.persistent && !leaves });
        }
    }

    async fn head(&mut self) -> Result<head::Response, Broken> {
        let garbage =
            |bad: BadHead| (FailureKind::Garbage, format!("the answer of the service is no HTTP: {bad}"));
        let mut scanned = 0;
        loop {
            match end_of_head(self.buffer, &mut scanned, self.front.limits().head_bytes).map_err(garbage)? {
                Some(length) => {
                    return head::response(self.buffer, length, &self.request.method).map_err(garbage);
                }
                None => self.more().await?,
            }
        }
    }

    /// Reads more from the service.
    async fn more(&mut self) -> Result<(), Broken> {
        self.buffer.reserve(BUFFER);
        match self.from.read_buf(self.buffer).await {
            Ok(n) if n > 0 => {
                self.progress.heard.store(true, Ordering::SeqCst);
                Ok(())
            }
            _ => Err((
                FailureKind::BrokenOff,
                "the service closed the connection before its answer was complete".into(),
            )),
        }
    }

    /// Sends the head if there is still one, and `count` bytes of the body.
    async fn send(&mut self, mut head: Bytes, count: usize) -> Result<(), Broken> {
        let total = head.len() + count;
        let mut bytes = (&mut head).chain(&self.buffer[..count]);
        let sent = self.to.write_all_buf(&mut bytes).await;
        sent.map_err(|_| (FailureKind::ClientGone, "the client went away".to_string()))?;
        self.buffer.advance(count);
        self.call.bytes_out(total);
        Ok(())
    }

    async fn body(&mut self, mut head: Bytes, framing: Framing) -> Result<(), Broken> {
        let mut left = match framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        let mut chunked = (framing == Framing::Chunked).then(Chunked::new);
        self.call.head(Side::Response, &head);
        loop {
            let count = match (&mut chunked, framing) {
                (Some(chunked), _) => {
                    chunked.pass(self.buffer).map_err(|e| (FailureKind::Garbage, e.to_string()))?
                }
                (None, Framing::UntilClose) => self.buffer.len(),
                (None, _) => usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len()),
            };
            if !head.is_empty() || count > 0 {
                self.call.body(Side::Response, &self.buffer[..count]);
                self.send(std::mem::take(&mut head), count).await?;
                left = left.saturating_sub(count as u64);
            }
            match (&chunked, framing) {
                (Some(chunked), _) if chunked.done() => return Ok(()),
                (None, Framing::Length(_) | Framing::Empty) if left == 0 => return Ok(()),
                (None, Framing::UntilClose) => {
                    self.buffer.reserve(BUFFER);
                    match self.from.read_buf(self.buffer).await {
                        Ok(0) => return Ok(()),
                        Ok(_) => {}
                        Err(error) => {
                            self.progress.cut.store(true, Ordering::SeqCst);
                            return Err((FailureKind::BrokenOff, error.to_string()));
                        }
                    }
                }
                _ => self.more().await?,
            }
        }
    }
}

/// One end of a tunnel: from where, what of it was read already, and to where.
pub(super) type End<'a, 'b> = (&'a mut ReadHalf<'b>, &'a mut BytesMut, &'a mut WriteHalf<'b>);

/// Carries bytes both ways until both ends have ended, or one is broken.
pub(super) async fn tunnel(client: End<'_, '_>, service: End<'_, '_>, call: &Call) {
    let (client_from, client_buffer, client_to) = client;
    let (service_from, service_buffer, service_to) = service;
    let there = pipe(client_from, client_buffer, service_to, |n| call.bytes_in(n));
    let back = pipe(service_from, service_buffer, client_to, |n| {
        call.answered();
        call.bytes_out(n);
    });
    let _ = tokio::try_join!(there, back);
}

async fn pipe(
    from: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    count: impl Fn(usize),
) -> io::Result<()> {
    loop {
        if !buffer.is_empty() {
            let length = buffer.len();
            to.write_all(buffer).await?;
            buffer.clear();
            count(length);
        }
        buffer.reserve(BUFFER);
        if from.read_buf(buffer).await? == 0 {
            return to.shutdown().await;
        }
    }
}
