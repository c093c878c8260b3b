//! An action as messages over a WebSocket (RFC 6455): how model-driven tools such as CloudML are told what to do.

use std::time::Duration;

use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::fill::{self, Arguments};
use crate::model::connector::{Command, ConnectorError, Effector, WebSocketEffector};
use crate::model::template::{Holes, Template};

/// How long the other side has to close as well.
const FAREWELL: Duration = Duration::from_secs(1);

/// Sends its texts over a connection of its own, one message each, and closes it.
pub(super) struct Sender {
    url: String,
    send: Vec<Template>,
}

impl Sender {
    pub(super) fn new(spec: &WebSocketEffector) -> Result<Self, ConnectorError> {
        let send = spec.send.iter().map(|text| fill::parse(text, Holes::Arguments));
        Ok(Self { url: spec.url.clone(), send: send.collect::<Result<_, _>>()? })
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
        let connected = tokio_tungstenite::connect_async(self.url.as_str()).await;
        let (mut socket, _) = connected.map_err(|error| self.failed(&error))?;
        let sent = texts.len();
        for text in texts {
            socket.send(Message::text(text)).await.map_err(|error| self.failed(&error))?;
        }
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
