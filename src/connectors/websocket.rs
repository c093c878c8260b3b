//! An action as messages over a WebSocket (RFC 6455): how model-driven tools such as CloudML are told what to do.

use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::fill::{self, Arguments};
use crate::model::connector::{Command, ConnectorError, Effector, WebSocketEffector};
use crate::model::template::{Holes, Template};

/// How long the other side has to close as well.
const FAREWELL: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Sends its texts, one message each, over a connection of its own, which is closed then; or all over one.
pub(super) struct Sender {
    url: String,
    send: Vec<Template>,
    keep: bool,
    kept: tokio::sync::Mutex<Option<Socket>>,
}

impl Sender {
    pub(super) fn new(spec: &WebSocketEffector) -> Result<Self, ConnectorError> {
        let send = spec.send.iter().map(|text| fill::parse(text, Holes::Arguments));
        let send = send.collect::<Result<_, _>>()?;
        Ok(Self { url: spec.url.clone(), send, keep: spec.keep, kept: tokio::sync::Mutex::default() })
    }

    /// The connection that was kept, or a new one. What the other side says is taken out of it on the way, so that pings are answered and
    /// its end is seen.
    async fn socket(&self, kept: Option<Socket>) -> Result<Socket, ConnectorError> {
        if let Some(mut socket) = kept {
            loop {
                match socket.next().now_or_never() {
                    None => return Ok(socket),
                    Some(Some(Ok(Message::Close(_)) | Err(_)) | None) => break,
                    Some(Some(Ok(_))) => {}
                }
            }
        }
        let connected = tokio_tungstenite::connect_async(self.url.as_str()).await;
        connected.map(|(socket, _)| socket).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &Error) -> ConnectorError {
        let text = format!("{}: {error}", self.url);
        match error {
            Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed => {
                ConnectorError::Unreachable(text)
            }
            _ => ConnectorError::Answer(text),
        }
    }
}

#[async_trait]
impl Effector for Sender {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let arguments = Arguments::of(command);
        let texts: Vec<String> =
            self.send.iter().map(|text| fill::plain(text, &arguments)).collect::<Result<_, _>>()?;
        let mut kept = self.kept.lock().await;
        let mut socket = self.socket(kept.take()).await?;
        let sent = texts.len();
        for text in texts {
            socket.send(Message::text(text)).await.map_err(|error| self.failed(&error))?;
        }
        if self.keep {
            *kept = Some(socket);
            return Ok(format!("sent {sent} message(s)"));
        }
        drop(kept);
        socket.close(None).await.map_err(|error| self.failed(&error))?;
        // What the other side has taken is certain once it has closed as well; what it says before that is not for us. Some never answer: what
        // was sent counts then, so that it is not sent twice.
        let farewell = async {
            while let Some(message) = socket.next().await {
                match message {
                    Ok(_) => {}
                    Err(Error::ConnectionClosed) => break,
                    Err(error) => return Err(self.failed(&error)),
                }
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))?;
        Ok(format!("sent {sent} message(s)"))
    }
}
