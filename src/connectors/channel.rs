//! The sensor's end of the channel to a probe: hands a collector over, and takes what the probe measures, as lines of JSON over a TCP connection
//! that the probe makes (S2: `{"id": "a", "value": 397.99}`).
//!
//! ```text
//! sensor ── POST {collector, output, sensor: "IP:PORT"} ─▶ probe        once, again when the channel breaks, and every minute: who is
//! sensor ◀── TCP: {"id":"a","value":0.3}\n … ──────────── probe         not asked any more stops by itself
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

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
}

/// Makes sensors on probes buildable.
pub(super) fn register(connectors: &Connectors) {
    connectors.register_sensor(PROBE, |config| {
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
        Ok(BuiltSensor::Listening(Box::new(Channel { client: client()?, url, config })))
    });
}

struct Channel {
    client: reqwest::Client,
    url: url::Url,
    config: Config,
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
        let unreachable =
            |why: std::io::Error| ConnectorError::Unreachable(format!("probe `{}`: {why}", self.url));
        let listener =
            TcpListener::bind(SocketAddr::new(self.own_address().await?, 0)).await.map_err(unreachable)?;
        let address = listener.local_addr().map_err(unreachable)?;
        self.ask(address).await?;
        let accepted = tokio::time::timeout(CONNECT, listener.accept()).await;
        let Ok(accepted) = accepted else {
            return Err(ConnectorError::Answer(format!(
                "probe `{}` took the collector and does not connect to {address}",
                self.url
            )));
        };
        let (stream, _) = accepted.map_err(unreachable)?;
        let mut lines = BufReader::new(stream);
        let mut renew = tokio::time::interval(RENEW);
        renew.tick().await;
        let mut bytes = Vec::new();
        loop {
            let mut limited = (&mut lines).take(LINE - bytes.len() as u64);
            tokio::select! {
                _ = renew.tick() => self.ask(address).await?,
                read = limited.read_until(b'\n', &mut bytes) => {
                    let ended = read.map_err(unreachable)? == 0;
                    if ended || bytes.len() as u64 >= LINE {
                        return Err(ConnectorError::Unreachable(format!("the channel to probe `{}` ended", self.url)));
                    }
                    self.take(&bytes, sink);
                    bytes.clear();
                }
            }
        }
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

    async fn ask(&self, address: SocketAddr) -> Result<(), ConnectorError> {
        let body = json!({
            "collector": self.config.collector, "output": self.config.output, "sensor": address.to_string(),
        });
        let fail = |why: String| ConnectorError::Unreachable(format!("probe `{}`: {why}", self.url));
        let request = self.client.post(self.url.clone()).timeout(ASK).json(&body);
        let answer = request.send().await.map_err(|why| fail(why.without_url().to_string()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
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
