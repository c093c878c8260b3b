//! One connection to an observer from all services of a process, or one from each (S4, the channel of the micro-containers; R4-25).
//!
//! Shared: over HTTP/2, by prior knowledge, each notification is a call of its own and many are on their way at once; an observer that does not speak it
//! gets, over HTTP/1.1, what waits as one batch per address (CloudEvents, JSON batch), so that its round trip is no queue, and up to four addresses at once,
//! so that one that is slow delays no other. Own: over HTTP/1.1, one call after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::cloud::{self, CloudEvent};
use super::deliver::Tried;
use super::{Manager, TIMEOUT};

/// How many notifications wait for a channel; who brings more waits for room.
const QUEUE: usize = 256;

/// The most notifications of one batch.
const BATCH: usize = 256;

/// How many connections to an observer without HTTP/2 all services share at most: one for each address that is slow, as far as they go.
const LANES: usize = 4;

/// The most of an answer that is read before the connection is used again, bytes.
const ANSWER: usize = 64 * 1024;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("homeostat/", env!("CARGO_PKG_VERSION")));

/// Whether the services of a process share a connection to an observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Topology {
    /// One for each service.
    Own,
    /// One for all.
    Shared,
}

/// Whose channel, or everybody's, and the `host:port` that it leads to.
type Key = (Option<Arc<str>>, String);

/// What the management listeners of one process have in common.
#[derive(Default)]
pub(super) struct Hub {
    /// Open while a subscription uses them.
    channels: Mutex<HashMap<Key, Weak<Channel>>>,
    managers: Mutex<Vec<Weak<ArcSwap<Manager>>>>,
}

impl Hub {
    /// A management listener opens.
    pub(super) fn join(&self, manager: &Arc<ArcSwap<Manager>>) {
        let mut managers = self.managers.lock().unwrap_or_else(PoisonError::into_inner);
        managers.retain(|m| m.strong_count() > 0);
        managers.push(Arc::downgrade(manager));
    }

    /// What is offered of all services at present, in the order of their names.
    pub(super) fn managers(&self) -> Vec<Arc<Manager>> {
        let managers = self.managers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = managers.iter().filter_map(Weak::upgrade).map(|m| m.load_full()).collect();
        all.sort_by(|a, b| a.service.cmp(&b.service));
        all
    }

    /// The connection of a service to an observer, or that of all services.
    ///
    /// # Errors
    /// When the address is none that such a connection can lead to.
    pub(super) fn channel(&self, url: &str, service: Option<&Arc<str>>) -> Result<Letterbox, String> {
        let parsed = url::Url::parse(url).map_err(|e| format!("`{url}`: {e}"))?;
        let plain = parsed.scheme() == "http" && parsed.username().is_empty() && parsed.password().is_none();
        let (Some(host), Some(port), true) = (parsed.host_str(), parsed.port_or_known_default(), plain)
        else {
            return Err("a `channel` leads to `http://HOST:PORT/PATH`, without a name or password".into());
        };
        let key = (service.cloned(), format!("{host}:{port}"));
        let path: Arc<str> = parsed[url::Position::BeforePath..url::Position::AfterQuery].into();
        let mut channels = self.channels();
        channels.retain(|_, channel| channel.strong_count() > 0);
        let channel = channels.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let channel = Channel::open(&key);
            channels.insert(key, Arc::downgrade(&channel));
            channel
        });
        Ok(Letterbox { channel, path })
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<Key, Weak<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One address of an observer, reached over a channel.
pub(super) struct Letterbox {
    channel: Arc<Channel>,
    path: Arc<str>,
}

impl Letterbox {
    /// Brings one notification there.
    pub(super) async fn post(&self, event: CloudEvent) -> Tried {
        let (went, answer) = oneshot::channel();
        let letter = Letter { path: self.path.clone(), event, went };
        let closed = || Tried::Later("the channel is closed".into());
        match self.channel.0.send(letter).await {
            Ok(()) => answer.await.unwrap_or_else(|_| closed()),
            Err(_) => closed(),
        }
    }
}

/// One connection, opened when there is something to bring and again when it broke. Closed with its last user.
struct Channel(mpsc::Sender<Letter>);

impl Channel {
    fn open((service, authority): &Key) -> Arc<Self> {
        let (out, letters) = mpsc::channel(QUEUE);
        let shared = service.is_none();
        let authority = Arc::<str>::from(authority.as_str());
        let courier = Courier { authority, shared, line: None, old: false, lanes: Lanes::default() };
        tokio::spawn(courier.run(letters));
        Arc::new(Self(out))
    }
}

/// A notification on its way, and where it is told how that went.
struct Letter {
    path: Arc<str>,
    event: CloudEvent,
    went: oneshot::Sender<Tried>,
}

/// An open connection, by what is spoken on it.
enum Line {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// Who carries the notifications of one channel.
struct Courier {
    authority: Arc<str>,
    shared: bool,
    line: Option<Line>,
    /// Whether the observer is known to speak no HTTP/2.
    old: bool,
    /// For those who do not, when shared.
    lanes: Lanes,
}

/// Calls with batches, several at once, but one at a time to each address, so that what comes meanwhile is the next batch and order is kept.
#[derive(Default)]
struct Lanes {
    /// What waits, in the order of coming.
    waiting: Vec<Letter>,
    /// Addresses to which a call is on its way.
    paths: Vec<Arc<str>>,
    calls: JoinSet<Called>,
    /// Open connections that are not in use.
    idle: Vec<http1::SendRequest<Body>>,
}

/// A call of a lane that is over.
struct Called {
    path: Arc<str>,
    /// The connection, if it can be used again.
    line: Option<http1::SendRequest<Body>>,
    /// Whether it failed in a way that another protocol may not.
    refused: bool,
}

impl Courier {
    async fn run(mut self, mut letters: mpsc::Receiver<Letter>) {
        loop {
            tokio::select! {
                first = letters.recv() => {
                    let Some(first) = first else { break };
                    let mut letters_now = vec![first];
                    while letters_now.len() < BATCH
                        && let Ok(letter) = letters.try_recv()
                    {
                        letters_now.push(letter);
                    }
                    self.bring(letters_now).await;
                }
                Some(called) = self.lanes.calls.join_next() => self.called(called),
            }
            self.lanes.start(&self.authority);
        }
        // To their end, though nobody waits for them.
        while self.lanes.calls.join_next().await.is_some() {}
    }

    fn called(&mut self, called: Result<Called, JoinError>) {
        let Ok(called) = called else { return };
        self.lanes.paths.retain(|path| *path != called.path);
        self.lanes.idle.extend(called.line);
        // Who comes back may speak otherwise.
        self.old &= !called.refused;
    }

    /// Brings these; waits until that is done only where nothing else can be on its way meanwhile.
    async fn bring(&mut self, mut letters: Vec<Letter>) {
        self.line = self.line.take().filter(Line::is_open);
        if self.line.is_none() && self.shared && !self.old {
            match self.try_http2(letters.swap_remove(0)).await {
                Ok(()) => {}
                Err(letter) => letters.insert(0, letter),
            }
        }
        if self.line.is_none() && self.shared {
            self.lanes.waiting.append(&mut letters);
            return;
        }
        if self.line.is_none() {
            match tokio::time::timeout(TIMEOUT, Line::http1(&self.authority)).await {
                Ok(Ok(line)) => self.line = Some(line),
                Ok(Err(why)) => return self.fail(letters, &why),
                Err(_) => return self.fail(letters, "it did not accept a connection in time"),
            }
        }
        match &mut self.line {
            Some(Line::Http2(sender)) => {
                for letter in letters {
                    let (sender, authority) = (sender.clone(), self.authority.clone());
                    tokio::spawn(async move {
                        let went = one(sender, &authority, &letter).await;
                        let _ = letter.went.send(went.unwrap_or_else(|failed| Tried::Later(failed.why)));
                    });
                }
            }
            Some(Line::Http1(sender)) => {
                let mut broken = None;
                for letter in letters {
                    let went = match &broken {
                        None => single(sender, &self.authority, &letter).await,
                        Some(why) => Err(Failed { why: String::clone(why), late: false }),
                    };
                    let went = went.unwrap_or_else(|failed| {
                        broken = Some(failed.why.clone());
                        Tried::Later(failed.why)
                    });
                    let _ = letter.went.send(went);
                }
                if broken.is_some() {
                    (self.line, self.old) = (None, false);
                }
            }
            None => {}
        }
    }

    /// Nobody can say before the first call what an observer speaks. Gives the letter back when it has to go another way.
    async fn try_http2(&mut self, letter: Letter) -> Result<(), Letter> {
        let connected = tokio::time::timeout(TIMEOUT, Line::http2(&self.authority)).await;
        let Ok(Ok(sender)) = connected else { return Err(letter) };
        match one(sender.clone(), &self.authority, &letter).await {
            Ok(went) => {
                self.line = Some(Line::Http2(sender));
                let _ = letter.went.send(went);
                Ok(())
            }
            Err(failed) if failed.late => {
                let _ = letter.went.send(Tried::Later(failed.why));
                Ok(())
            }
            Err(_) => {
                self.old = true;
                Err(letter)
            }
        }
    }

    fn fail(&mut self, letters: Vec<Letter>, why: &str) {
        // Who comes back may speak otherwise.
        self.old = false;
        letters.into_iter().for_each(|letter| drop(letter.went.send(Tried::Later(why.into()))));
    }
}

impl Lanes {
    /// Lets calls begin: to the addresses to which none is on its way, in the order of what waits, while there is a lane.
    fn start(&mut self, authority: &Arc<str>) {
        while self.calls.len() < LANES
            && let Some(letter) = self.waiting.iter().find(|letter| !self.paths.contains(&letter.path))
        {
            let path = letter.path.clone();
            let mut left = BATCH;
            let letters: Vec<Letter> = self
                .waiting
                .extract_if(.., |letter| {
                    let takes = letter.path == path && left > 0;
                    left -= usize::from(takes);
                    takes
                })
                .collect();
            self.idle.retain(|line| !line.is_closed());
            self.paths.push(path.clone());
            self.calls.spawn(call_in_lane(self.idle.pop(), authority.clone(), path, letters));
        }
    }
}

/// Brings a batch to an address, over this connection or a new one.
async fn call_in_lane(
    line: Option<http1::SendRequest<Body>>,
    authority: Arc<str>,
    path: Arc<str>,
    letters: Vec<Letter>,
) -> Called {
    let opened = match line {
        Some(line) => Ok(line),
        None => match tokio::time::timeout(TIMEOUT, http1_to(&authority)).await {
            Ok(opened) => opened,
            Err(_) => Err("it did not accept a connection in time".into()),
        },
    };
    let (went, line) = match opened {
        Err(why) => (Err(Failed { why, late: false }), None),
        Ok(mut line) => {
            let went = batch(&mut line, &authority, &path, &letters).await;
            let line = went.is_ok().then_some(line);
            (went, line)
        }
    };
    let refused = matches!(&went, Err(failed) if !failed.late);
    let went = went.unwrap_or_else(|failed| Tried::Later(failed.why));
    letters.into_iter().for_each(|letter| drop(letter.went.send(went.clone())));
    Called { path, line, refused }
}

async fn http1_to(authority: &str) -> Result<http1::SendRequest<Body>, String> {
    let stream = connect(authority).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

impl Line {
    async fn http1(authority: &str) -> Result<Self, String> {
        http1_to(authority).await.map(Self::Http1)
    }

    async fn http2(authority: &str) -> Result<http2::SendRequest<Body>, String> {
        let stream = connect(authority).await?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|e| e.to_string())?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }
}

async fn connect(authority: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(authority).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Why there was no answer.
struct Failed {
    why: String,
    /// Whether none came in time, so that it is not known what is spoken there.
    late: bool,
}

/// The call that brings one notification.
fn call(uri: Uri, event: &CloudEvent) -> Request<Body> {
    let mut request = Request::new(Body::from(event.data()));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = event.headers();
    request.headers_mut().insert(USER_AGENT, AGENT);
    request
}

/// Brings one notification over HTTP/2.
async fn one(
    mut sender: http2::SendRequest<Body>,
    authority: &str,
    letter: &Letter,
) -> Result<Tried, Failed> {
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(&*letter.path).build();
    let request = call(uri.unwrap_or_default(), &letter.event);
    in_time(async {
        sender.ready().await?;
        answered(sender.send_request(request).await?).await
    })
    .await
}

/// Brings one notification over HTTP/1.1.
async fn single(
    sender: &mut http1::SendRequest<Body>,
    authority: &str,
    letter: &Letter,
) -> Result<Tried, Failed> {
    let request = call(Uri::try_from(&*letter.path).unwrap_or_default(), &letter.event);
    over_http1(sender, authority, request).await
}

/// Brings several notifications to one address in one call.
async fn batch(
    sender: &mut http1::SendRequest<Body>,
    authority: &str,
    path: &str,
    letters: &[Letter],
) -> Result<Tried, Failed> {
    let events: Value = letters.iter().map(|letter| letter.event.whole()).collect();
    let mut request = Request::new(Body::from(Bytes::from(events.to_string())));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
    request.headers_mut().insert(CONTENT_TYPE, cloud::BATCH);
    request.headers_mut().insert(USER_AGENT, AGENT);
    over_http1(sender, authority, request).await
}

async fn over_http1(
    sender: &mut http1::SendRequest<Body>,
    authority: &str,
    mut request: Request<Body>,
) -> Result<Tried, Failed> {
    if let Ok(host) = HeaderValue::try_from(authority) {
        request.headers_mut().insert(HOST, host);
    }
    in_time(async {
        sender.ready().await?;
        answered(sender.send_request(request).await?).await
    })
    .await
}

/// Reads an answer to its end: the connection is used again.
async fn answered(answer: Response<Incoming>) -> Result<Tried, hyper::Error> {
    let status = answer.status().as_u16();
    let _ = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER).await;
    Ok(Tried::by(status))
}

async fn in_time(sent: impl Future<Output = Result<Tried, hyper::Error>>) -> Result<Tried, Failed> {
    match tokio::time::timeout(TIMEOUT, sent).await {
        Ok(went) => went.map_err(|error| Failed { why: error.to_string(), late: false }),
        Err(_) => Err(Failed { why: format!("no answer within {} s", TIMEOUT.as_secs()), late: true }),
    }
}
