//! The sensor's end of the channel to a probe: hands a collector over, and takes what the probe measures, as lines of JSON over a connection
//! that the probe makes (S2: `{"id": "a", "value": 397.99}`): TCP, or a WebSocket with a message for each line. Or the sensor asks, and the
//! probe has nothing to connect to.
//!
//! ```text
//! tcp        sensor ── POST {collector, output, sensor: "IP:PORT"} ────────▶ probe    once, again when the channel breaks, and every
//!            sensor ◀── TCP: {"id":"a","value":0.3}\n … ─────────────────── probe    minute: who is not asked any more stops by itself
//! websocket  sensor ── POST {collector, output, sensor: "ws://IP:PORT/"} ──▶ probe
//!            sensor ◀── WebSocket: {"id":"a","value":0.3} … ─────────────── probe
//! pull       sensor ── POST {collector, output} ───────────────────────────▶ probe    201 {"name": "NAME"}
//!            sensor ── GET …/NAME/value ───────────────────────────────────▶ probe    200 {"id":"a","value":0.3}, once a period
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Connectors, client};
use crate::model::Measurement;
use crate::model::connector::{BuiltSensor, ConnectorError, Listener, PROBE, Sink};

/// How often a probe is told that it is still wanted.
const RENEW: Duration = Duration::from_secs(60);

/// How long a request to a probe may take.
const ASK: Duration = Duration::from_secs(5);

/// How long the sensor rests when the probe cannot be reached: ten times …
const REST: Duration = Duration::from_secs(1);

/// … and from then on.
const LONG_REST: Duration = Duration::from_secs(5);

/// How long the probe has to connect.
const CONNECT: Duration = Duration::from_secs(15);

/// The longest line, bytes.
const LINE: u64 = 64 * 1024;

/// What is to be measured where.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The control endpoint of the probe: `http://HOST:PORT/collectors`.
    url: String,
    /// The document of the collector.
    collector: Value,
    /// The label of the output that is wanted.
    output: String,
    /// How its values come.
    #[serde(default)]
    channel: Way,
    /// How often the sensor asks for one, in seconds, if it does.
    #[serde(default = "second")]
    every: f64,
}

/// How values come from a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// The probe connects and writes lines.
    #[default]
    Tcp,
    /// The probe connects and sends messages.
    Websocket,
    /// The sensor asks for each.
    Pull,
}

fn second() -> f64 {
    1.0
}

/// Makes sensors on probes buildable.
pub(super) fn register(connectors: &Connectors) {
    // One for all: connections to a probe are shared by its collectors.
    let shared: OnceLock<reqwest::Client> = OnceLock::new();
    connectors.register_sensor(PROBE, move |config| {
        let config: Config = serde_json::from_value(config.clone())
            .map_err(|why| ConnectorError::Config(format!("`custom: {{ kind: {PROBE} }}`: {why}")))?;
        let url = url::Url::parse(&config.url)
            .ok()
            .filter(|url| url.scheme() == "http" && url.host_str().is_some())
            .ok_or_else(|| {
                ConnectorError::Config(format!(
                    "`{}` is no probe; expected http://HOST:PORT/collectors",
                    config.url
                ))
            })?;
        let client = match shared.get() {
            Some(client) => client.clone(),
            None => {
                let made = client()?;
                shared.get_or_init(|| made).clone()
            }
        };
        let handed = Mutex::default();
        Ok(BuiltSensor::Listening(Box::new(Channel { client, url, config, handed })))
    });
}

struct Channel {
    client: reqwest::Client,
    url: url::Url,
    config: Config,
    /// What the probe calls the collector, and where it sends its values.
    handed: Mutex<Option<(String, String)>>,
}

impl Drop for Channel {
    /// The probe need not measure any more; if it does not hear of it, it ends by itself after a while. Who has handed the collector over anew
    /// since then, to be sent elsewhere, is not disturbed.
    fn drop(&mut self) {
        let handed = self.handed.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let (Some((name, to)), Ok(runtime)) = (handed, tokio::runtime::Handle::try_current()) else { return };
        let (client, mut url) = (self.client.clone(), self.url.clone());
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(&name);
        }
        url.query_pairs_mut().append_pair("sensor", &to);
        runtime.spawn(async move { client.delete(url).timeout(ASK).send().await.map(drop) });
    }
}

#[async_trait]
impl Listener for Channel {
    async fn listen(&mut self, sink: Arc<dyn Sink>) -> Result<(), ConnectorError> {
        let mut failures = 0_u32;
        loop {
            match self.once(&*sink).await {
                Ok(()) => failures = 0,
                Err(why) => {
                    failures += 1;
                    sink.fail(why);
                }
            }
            tokio::time::sleep(if failures <= 10 { REST } else { LONG_REST }).await;
        }
    }
}

impl Channel {
    /// One life of the channel: from handing the collector over to the end of the connection.
    async fn once(&self, sink: &dyn Sink) -> Result<(), ConnectorError> {
        if self.config.channel == Way::Pull {
            return self.pull(sink).await;
        }
        let listener = TcpListener::bind(SocketAddr::new(self.own_address().await?, 0))
            .await
            .map_err(|why| self.unreachable(&why))?;
        let address = listener.local_addr().map_err(|why| self.unreachable(&why))?;
        let to = match self.config.channel {
            Way::Websocket => format!("ws://{address}/"),
            _ => address.to_string(),
        };
        let name = self.ask(Some(&to)).await?;
        if !name.is_empty() {
            *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = Some((name, to.clone()));
        }
        let accepted = tokio::time::timeout(CONNECT, listener.accept()).await;
        let Ok(accepted) = accepted else {
            return Err(ConnectorError::Answer(format!(
                "probe `{}` took the collector and does not connect to {address}",
                self.url
            )));
        };
        let (stream, _) = accepted.map_err(|why| self.unreachable(&why))?;
        // Nobody else is expected.
        drop(listener);
        let taking = async {
            match self.config.channel {
                Way::Websocket => self.messages(stream, sink).await,
                _ => self.lines(stream, sink).await,
            }
        };
        tokio::pin!(taking);
        let mut renew = tokio::time::interval(RENEW);
        renew.tick().await;
        loop {
            tokio::select! {
                _ = renew.tick() => drop(self.ask(Some(&to)).await?),
                ended = &mut taking => return ended,
            }
        }
    }

    fn unreachable(&self, why: &dyn std::fmt::Display) -> ConnectorError {
        ConnectorError::Unreachable(format!("probe `{}`: {why}", self.url))
    }

    fn ended(&self) -> ConnectorError {
        ConnectorError::Unreachable(format!("the channel to probe `{}` ended", self.url))
    }

    /// Takes lines to the end of the connection, which is an error.
    async fn lines(&self, stream: TcpStream, sink: &dyn Sink) -> Result<(), ConnectorError> {
        let mut lines = BufReader::new(stream);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let mut limited = (&mut lines).take(LINE);
            let read = limited.read_until(b'\n', &mut bytes).await.map_err(|why| self.unreachable(&why))?;
            if read == 0 || bytes.len() as u64 >= LINE {
                return Err(self.ended());
            }
            self.take(&bytes, sink);
        }
    }

    /// Takes messages to the end of the connection, which is an error.
    async fn messages(&self, stream: TcpStream, sink: &dyn Sink) -> Result<(), ConnectorError> {
        let longest = Some(LINE as usize);
        let limits = WebSocketConfig::default().max_message_size(longest).max_frame_size(longest);
        let accepting = tokio_tungstenite::accept_async_with_config(stream, Some(limits));
        let accepted = tokio::time::timeout(CONNECT, accepting).await.map_err(|_| self.ended())?;
        let mut socket = accepted.map_err(|why| self.unreachable(&why))?;
        while let Some(message) = socket.next().await {
            match message.map_err(|why| self.unreachable(&why))? {
                Message::Text(text) => self.take(text.as_bytes(), sink),
                Message::Binary(bytes) => self.take(&bytes, sink),
                Message::Close(_) => break,
                _ => {}
            }
        }
        Err(self.ended())
    }

    /// Asks for each value, once a period, until the probe knows nothing of the collector any more.
    async fn pull(&self, sink: &dyn Sink) -> Result<(), ConnectorError> {
        let mut url = self.url.clone();
        let name = self.ask(None).await?;
        url.path_segments_mut()
            .map_err(|()| self.unreachable(&"no path can be added to the address"))?
            .pop_if_empty()
            .extend([name.as_str(), "value"]);
        let mut periods =
            tokio::time::interval(Duration::from_secs_f64(self.config.every.clamp(0.1, 604_800.0)));
        periods.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            periods.tick().await;
            let asked = self.client.get(url.clone()).timeout(ASK).send().await;
            let answer = asked.map_err(|why| self.unreachable(&why.without_url()))?;
            match answer.status().as_u16() {
                200 => self.take(&self.limited(answer).await?, sink),
                // It has not measured yet.
                503 => {}
                404 => return Err(self.ended()),
                status => return Err(ConnectorError::Answer(format!("probe `{}`: {status}", self.url))),
            }
        }
    }

    async fn limited(&self, mut answer: reqwest::Response) -> Result<Vec<u8>, ConnectorError> {
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|why| self.unreachable(&why.without_url()))? {
            bytes.extend_from_slice(&part);
            if bytes.len() as u64 >= LINE {
                return Err(ConnectorError::Answer(format!("probe `{}` answers without end", self.url)));
            }
        }
        Ok(bytes)
    }

    /// The address of this machine that the probe sees.
    async fn own_address(&self) -> Result<IpAddr, ConnectorError> {
        let fail = |why: String| ConnectorError::Unreachable(format!("probe `{}`: {why}", self.url));
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_string();
        let port = self.url.port_or_known_default().unwrap_or(80);
        let connecting = TcpStream::connect((host.as_str(), port));
        let stream = tokio::time::timeout(ASK, connecting).await.map_err(|_| fail("no answer".into()))?;
        let stream = stream.map_err(|why| fail(why.to_string()))?;
        stream.local_addr().map(|address| address.ip()).map_err(|why| fail(why.to_string()))
    }

    /// Hands the collector over; answers what the probe calls it, if it says so.
    async fn ask(&self, sensor: Option<&str>) -> Result<String, ConnectorError> {
        let mut body = json!({ "collector": self.config.collector, "output": self.config.output });
        if let Some(sensor) = sensor {
            body["sensor"] = sensor.into();
        }
        let request = self.client.post(self.url.clone()).timeout(ASK).json(&body);
        let answer = request.send().await.map_err(|why| self.unreachable(&why.without_url()))?;
        let status = answer.status();
        if status.is_success() {
            let said: Option<Value> = serde_json::from_slice(&self.limited(answer).await?).ok();
            let name = said.and_then(|said| said.get("name")?.as_str().map(str::to_string));
            return Ok(name.unwrap_or_default());
        }
        let text: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
        Err(ConnectorError::Answer(format!("probe `{}`: {status}: {}", self.url, text.trim())))
    }

    /// Takes a line; those for others are not for this sensor.
    fn take(&self, line: &[u8], sink: &dyn Sink) {
        #[derive(Deserialize)]
        struct Line {
            id: String,
            value: Value,
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            sink.fail(ConnectorError::Answer(format!(
                "probe `{}` sent a line that is not understood",
                self.url
            )));
            return;
        };
        if line.id != self.config.output {
            return;
        }
        match value(&line.value) {
            Some(value) => {
                sink.deliver(vec![Measurement { output: None, label: None, value, at: None }]);
            }
            None => sink
                .fail(ConnectorError::Answer(format!("probe `{}` sent a value that is no number", self.url))),
        }
    }
}

/// The number in a value: truth counts as 1, and of what the prototype's PingerBase says, the time, or whether there was an answer.
fn value(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::Object(fields) => fields.get("rtt").and_then(Value::as_f64).or_else(|| {
            fields.get("isReachable").and_then(Value::as_bool).map(|truth| f64::from(u8::from(truth)))
        }),
        _ => None,
    }
}
