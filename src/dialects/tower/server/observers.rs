//! Observers: each is told every result of a metric, once and in order. Each has a queue and a task of its own, so that one that does not answer
//! delays nobody; what does not fit, or cannot be delivered, is lost and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dashmap::DashMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::formats::Format;
use super::{Answer, App, Object, Refused, Tower, json, json_answer, new_id, shortened};
use crate::model::Datum;

/// How many batches wait for one observer.
const QUEUE: usize = 1_024;
/// The most observers.
const MAX_OBSERVERS: usize = 4_096;
/// How often a delivery is tried, and how long after the attempt before.
const ATTEMPTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest datagram.
const DATAGRAM: usize = 65_507;

/// An observer as clients write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    observer_host: Option<String>,
    #[serde(default, deserialize_with = "number_or_nothing")]
    observer_port: i64,
}

fn number_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What the record keeps of one.
#[derive(Serialize, Deserialize)]
struct Kept {
    metric: String,
    observer: Written,
}

#[derive(Debug, Clone)]
enum Target {
    Http(reqwest::Url),
    Tcp(String, u16),
    Udp(String, u16),
}

/// One observer.
pub(super) struct Observer {
    pub id: String,
    written: Written,
    format: Format,
    target: Target,
    queue: mpsc::Sender<(Arc<str>, Arc<[Datum]>)>,
    /// Results that were delivered.
    pub delivered: AtomicU64,
    /// Results that were lost.
    pub lost: AtomicU64,
    gone: CancellationToken,
}

impl Observer {
    /// As clients read it.
    pub fn as_json(&self) -> Json {
        let mut json = serde_json::to_value(&self.written).unwrap_or_default();
        json["id"] = self.id.as_str().into();
        json
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match &self.target {
            Target::Http(url) => url.to_string(),
            Target::Tcp(host, port) => format!("tcp://{host}:{port}"),
            Target::Udp(host, port) => format!("udp://{host}:{port}"),
        }
    }

    /// How many batches wait for it.
    pub fn waiting(&self) -> u64 {
        (self.queue.max_capacity() - self.queue.capacity()) as u64
    }

    /// How it is told, for people.
    pub fn format(&self) -> &'static str {
        self.format.name()
    }
}

/// What an observer is made of, or a sentence.
fn understand(written: &mut Written) -> Result<(Format, Target), String> {
    let format = match written.format.as_deref() {
        None => Format::default(),
        Some(name) => {
            let found = Format::ALL.iter().find(|(_, known)| *known == name);
            let names = || Format::ALL.map(|(_, name)| name).join(", ");
            found
                .map(|(f, _)| *f)
                .ok_or_else(|| format!("there is no format {}; there are {}", shortened(name), names()))?
        }
    };
    let protocol = written.protocol.clone().unwrap_or_else(|| "HTTP".into());
    let target = match protocol.as_str() {
        "HTTP" => {
            let url = written.callback_url.as_deref().ok_or("the callbackUrl is missing")?;
            let url: reqwest::Url = url.parse().map_err(|e| format!("the callbackUrl is no URL: {e}"))?;
            if url.scheme() != "http" && url.scheme() != "https" || url.host().is_none() {
                return Err("the callbackUrl must begin with http:// or https://".into());
            }
            if url.scheme() == "https" && !cfg!(feature = "tls") {
                return Err("https needs the feature `tls` of homeostat".into());
            }
            Target::Http(url)
        }
        "TCP" | "UDP" => {
            let host = written.observer_host.clone().filter(|host| !host.is_empty() && host.len() <= 253);
            let host = host.ok_or("the observerHost is missing or too long")?;
            let port = u16::try_from(written.observer_port).ok().filter(|port| *port > 0);
            let port = port.ok_or("the observerPort must be between 1 and 65535")?;
            if protocol == "TCP" { Target::Tcp(host, port) } else { Target::Udp(host, port) }
        }
        other => return Err(format!("there is no protocol {}; there are HTTP, TCP, UDP", shortened(other))),
    };
    written.format = Some(format.name().to_string());
    written.protocol = Some(protocol);
    Ok((format, target))
}

/// All observers.
pub(super) struct Observers {
    by_metric: DashMap<Arc<str>, Vec<Arc<Observer>>>,
    number: AtomicUsize,
    client: reqwest::Client,
    stop: CancellationToken,
    /// What was delivered to, and lost by, observers that are gone.
    delivered: AtomicU64,
    lost: AtomicU64,
}

impl Observers {
    pub fn new(stop: CancellationToken) -> Result<Self, reqwest::Error> {
        // A connection of its own for every batch: what was said on one that had been closed is not said twice.
        let client = reqwest::Client::builder()
            .user_agent(concat!("homeostat/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .no_proxy()
            .build()?;
        let (delivered, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { by_metric: DashMap::new(), number: AtomicUsize::new(0), client, stop, delivered, lost })
    }

    /// Hands results to whoever observes the metric; never waits.
    pub fn tell(&self, metric: &Arc<str>, data: &Arc<[Datum]>) {
        let Some(observers) = self.by_metric.get(metric).filter(|_| !data.is_empty()) else { return };
        for observer in observers.iter() {
            if observer.queue.try_send((metric.clone(), data.clone())).is_err() {
                observer.lost.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Brings one back.
    pub fn restore(&self, id: &str, kept: Json) -> Result<(), String> {
        let kept: Kept = serde_json::from_value(kept).map_err(|e| e.to_string())?;
        self.insert(id.to_string(), &kept.metric, kept.observer).map(drop)
    }

    fn insert(&self, id: String, metric: &str, mut written: Written) -> Result<Arc<Observer>, String> {
        let (format, target) = understand(&mut written)?;
        if self.number.fetch_add(1, Ordering::Relaxed) >= MAX_OBSERVERS {
            self.number.fetch_sub(1, Ordering::Relaxed);
            return Err(format!("there are {MAX_OBSERVERS} observers already"));
        }
        let (queue, queued) = mpsc::channel(QUEUE);
        let gone = self.stop.child_token();
        let (delivered, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        let observer = Arc::new(Observer { id, written, format, target, queue, delivered, lost, gone });
        tokio::spawn(deliver_all(observer.clone(), queued, self.client.clone()));
        self.by_metric.entry(metric.into()).or_default().push(observer.clone());
        Ok(observer)
    }

    fn remove(&self, metric: &str, id: &str) -> bool {
        let Some(mut observers) = self.by_metric.get_mut(metric) else { return false };
        let Some(place) = observers.iter().position(|observer| observer.id == id) else { return false };
        let observer = observers.remove(place);
        self.leave(&observer);
        true
    }

    /// Takes out all observers of a metric; answers with their ids.
    pub fn remove_all(&self, metric: &str) -> Vec<String> {
        let Some((_, observers)) = self.by_metric.remove(metric) else { return Vec::new() };
        observers.iter().for_each(|observer| self.leave(observer));
        observers.iter().map(|observer| observer.id.clone()).collect()
    }

    /// What one that goes has counted is counted on.
    fn leave(&self, observer: &Observer) {
        self.number.fetch_sub(1, Ordering::Relaxed);
        observer.gone.cancel();
        self.delivered.fetch_add(observer.delivered.load(Ordering::Relaxed), Ordering::Relaxed);
        self.lost.fetch_add(observer.lost.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// All of them, each with its metric; by metric, and then in the order in which they came.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<Observer>)> {
        let all = self.by_metric.iter();
        let mut all: Vec<_> = all.map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().flat_map(|(metric, of)| of.into_iter().map(move |o| (metric.clone(), o))).collect()
    }

    /// The observers of a metric, in the order in which they came.
    pub fn of(&self, metric: &str) -> Vec<Arc<Observer>> {
        self.by_metric.get(metric).map(|observers| observers.clone()).unwrap_or_default()
    }

    /// How many results were delivered, and how many were lost.
    pub fn counted(&self) -> (u64, u64) {
        let gone = (self.delivered.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed));
        let all = self.by_metric.iter();
        all.flat_map(|entry| entry.value().clone()).fold(gone, |(delivered, lost), observer| {
            (
                delivered + observer.delivered.load(Ordering::Relaxed),
                lost + observer.lost.load(Ordering::Relaxed),
            )
        })
    }
}

async fn deliver_all(
    observer: Arc<Observer>,
    mut queued: mpsc::Receiver<(Arc<str>, Arc<[Datum]>)>,
    client: reqwest::Client,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = observer.gone.cancelled() => return,
            next = queued.recv() => next,
        };
        let Some((metric, data)) = next else { return };
        let number = data.len() as u64;
        let delivery = tokio::select! {
            () = observer.gone.cancelled() => return,
            delivery = deliver(&observer, &metric, &data, &client) => delivery,
        };
        match delivery {
            Ok(()) => observer.delivered.fetch_add(number, Ordering::Relaxed),
            Err(why) => {
                tracing::warn!(observer = observer.id, place = observer.place(), why, "results were lost");
                observer.lost.fetch_add(number, Ordering::Relaxed)
            }
        };
    }
}

/// Why an attempt failed.
enum Failure {
    /// The observer has certainly not taken it.
    NotTaken(String),
    /// It may have taken it: it is not told twice.
    Unknown(String),
}

async fn deliver(
    observer: &Observer,
    metric: &str,
    data: &[Datum],
    client: &reqwest::Client,
) -> Result<(), String> {
    if let Target::Udp(host, port) = &observer.target {
        return datagrams(host, *port, observer.format, metric, data).await.map_err(|e| e.to_string());
    }
    let body = observer.format.write(metric, data);
    let mut last = String::new();
    for pause in ATTEMPTS {
        tokio::time::sleep(pause).await;
        let attempt = match &observer.target {
            Target::Http(url) => post(client, url.clone(), body.clone()).await,
            Target::Tcp(host, port) => stream(host, *port, body.as_bytes()).await,
            Target::Udp(..) => return Ok(()),
        };
        match attempt {
            Ok(()) => return Ok(()),
            Err(Failure::NotTaken(why)) => last = why,
            Err(Failure::Unknown(why)) => return Err(why),
        }
    }
    Err(last)
}

async fn post(client: &reqwest::Client, url: reqwest::Url, body: String) -> Result<(), Failure> {
    let request =
        client.post(url).header("Cache-Control", "no-cache").header("Content-Type", "text/plain").body(body);
    let answer = request.send().await.map_err(|e| match e.is_connect() {
        true => Failure::NotTaken(format!("no connection: {e}")),
        false => Failure::Unknown(format!("no answer: {e}")),
    })?;
    let status = answer.status();
    match status.as_u16() {
        200..=299 => Ok(()),
        408 | 429 | 500.. => Err(Failure::NotTaken(format!("it answered {status}"))),
        _ => Err(Failure::Unknown(format!("it answered {status}"))),
    }
}

async fn stream(host: &str, port: u16, body: &[u8]) -> Result<(), Failure> {
    let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await;
    let connected = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut stream = connected.map_err(|e| Failure::NotTaken(format!("no connection: {e}")))?;
    let sending = async {
        stream.write_all(body).await?;
        stream.shutdown().await
    };
    let sent = tokio::time::timeout(PATIENCE, sending).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|e| Failure::Unknown(format!("broken off: {e}")))
}

/// One datagram, or several when one cannot hold it all.
async fn datagrams(host: &str, port: u16, format: Format, metric: &str, data: &[Datum]) -> io::Result<()> {
    let looked_up = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
    let addresses = looked_up.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    // Nobody says whether a datagram arrived: of a name's addresses the first of IPv4 is taken, as in the original.
    let to = addresses.min_by_key(|to| to.is_ipv6()).ok_or(io::ErrorKind::NotFound)?;
    let here = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(here).await?;
    let mut open = vec![data];
    while let Some(part) = open.pop() {
        let text = format.write(metric, part);
        if text.len() > DATAGRAM && part.len() > 1 {
            let (first, second) = part.split_at(part.len() / 2);
            open.extend([second, first]);
            continue;
        }
        socket.send_to(text.as_bytes(), to).await?;
    }
    Ok(())
}

impl Tower {
    async fn observed(&self, metric: &str) -> Result<(), Refused> {
        match self.catalog().await.emitted.contains_key(metric) {
            true => Ok(()),
            false => Err(Refused::missing("metric", metric)),
        }
    }

    /// Adds an observer of a metric, from JSON.
    pub(super) async fn add_observer(&self, metric: &str, bytes: &[u8]) -> Result<Arc<Observer>, Refused> {
        self.observed(metric).await?;
        let bad = |why: String| Refused::bad(format!("Error while adding the observer: {why}"));
        let Object(written): Object<Written> =
            serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let observer = self.observers.insert(new_id(), metric, written).map_err(bad)?;
        let kept = Kept { metric: metric.to_string(), observer: observer.written.clone() };
        let kept = serde_json::to_value(kept).map_err(|e| Refused::failed(e.to_string()))?;
        self.keep(&format!("observer/{}", observer.id), Some(&kept)).await?;
        Ok(observer)
    }

    /// Takes one out.
    pub(super) async fn remove_observer(&self, metric: &str, id: &str) -> Result<(), Refused> {
        if !self.observers.remove(metric, id) {
            return Err(Refused::missing("observer", id));
        }
        self.keep(&format!("observer/{id}"), None).await
    }
}

/// `GET /v1/metrics/{metric}/observers`
pub(super) async fn list(State(tower): App, Path(metric): Path<String>) -> Answer {
    tower.observed(&metric).await?;
    let all: Vec<Json> = tower.observers.of(&metric).iter().map(|observer| observer.as_json()).collect();
    json(&all)
}

/// `POST /v1/metrics/{metric}/observers`
pub(super) async fn add(State(tower): App, Path(metric): Path<String>, body: Body) -> Answer {
    let bytes = tower.read(body).await?;
    let observer = tower.add_observer(&metric, &bytes).await?;
    Ok(json_answer(StatusCode::CREATED, observer.as_json().to_string()))
}

/// `DELETE /v1/metrics/{metric}/observers/{id}`
pub(super) async fn remove(State(tower): App, Path((metric, id)): Path<(String, String)>) -> Answer {
    tower.remove_observer(&metric, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn null_is_as_good_as_nothing() {
        let nothing = r#"{"callbackUrl":"http://a/","observerPort":null,"observerHost":null,"format":null,"protocol":null}"#;
        let mut written: Written = serde_json::from_str(nothing).expect("an observer");
        assert!(understand(&mut written).is_ok());
        assert_eq!(written.observer_port, 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_into_the_queue_of_an_observer_is_lost_and_counted() {
        let observers = Observers::new(CancellationToken::new()).expect("a client");
        // It accepts, and never answers.
        let hangs = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", hangs.local_addr().expect("an address"));
        let written = serde_json::from_value(serde_json::json!({ "callbackUrl": url })).expect("an observer");
        let observer = observers.insert("id".into(), "CPU", written).expect("an observer");
        let datum = Datum { resource: "vm1".into(), value: 1.0, at: Timestamp(0) };
        let data: Arc<[Datum]> = vec![datum; 3].into();
        for _ in 0..QUEUE + 10 {
            observers.tell(&"CPU".into(), &data);
            observers.tell(&"RAM".into(), &data);
        }
        let lost = observer.lost.load(Ordering::Relaxed);
        assert!((27..=30).contains(&lost), "{lost}");
        assert_eq!(observers.remove_all("CPU"), ["id"]);
        assert!(observers.of("CPU").is_empty());
    }
}
