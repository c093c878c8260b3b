//! An action or a value as a text to a socket: a datagram, or a TCP connection of its own.

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, lookup_host};

use super::fill::{self, Arguments};
use crate::model::connector::{Command, ConnectorError, Effector, SocketEffector};
use crate::model::template::{Holes, Template};

/// Sends datagrams.
pub(super) struct Datagrams(Text);

/// Sends each text over a connection of its own, or all over one.
pub(super) struct Connections {
    text: Text,
    keep: bool,
    kept: tokio::sync::Mutex<Option<TcpStream>>,
}

struct Text {
    address: String,
    text: Template,
}

impl Text {
    fn new(spec: &SocketEffector) -> Result<Self, ConnectorError> {
        Ok(Self { address: spec.address.clone(), text: fill::parse(&spec.text, Holes::Arguments)? })
    }

    fn of(&self, command: &Command) -> Result<String, ConnectorError> {
        fill::plain(&self.text, &Arguments::of(command))
    }

    fn failed(&self, error: &std::io::Error) -> ConnectorError {
        ConnectorError::Unreachable(format!("`{}`: {error}", self.address))
    }
}

impl Datagrams {
    pub(super) fn new(spec: &SocketEffector) -> Result<Self, ConnectorError> {
        Text::new(spec).map(Self)
    }
}

#[async_trait]
impl Effector for Datagrams {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let text = self.0.of(command)?;
        let failed = |error: std::io::Error| self.0.failed(&error);
        let mut addresses = lookup_host(&self.0.address).await.map_err(failed)?;
        let Some(to) = addresses.next() else {
            return Err(ConnectorError::Unreachable(format!("`{}` has no address", self.0.address)));
        };
        let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(from).await.map_err(failed)?;
        let sent = socket.send_to(text.as_bytes(), to).await.map_err(failed)?;
        Ok(format!("sent {sent} byte(s)"))
    }
}

impl Connections {
    pub(super) fn new(spec: &SocketEffector) -> Result<Self, ConnectorError> {
        Ok(Self { text: Text::new(spec)?, keep: spec.keep, kept: tokio::sync::Mutex::default() })
    }

    /// Whether the other side has closed a connection that was kept: what is written then would be lost.
    fn is_closed(stream: &TcpStream) -> bool {
        let mut byte = [0];
        match stream.try_read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(why) => why.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[async_trait]
impl Effector for Connections {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let text = self.text.of(command)?;
        let failed = |error: std::io::Error| self.text.failed(&error);
        let mut kept = self.kept.lock().await;
        let mut stream = match kept.take().filter(|stream| !Self::is_closed(stream)) {
            Some(stream) => stream,
            None => TcpStream::connect(&self.text.address).await.map_err(failed)?,
        };
        stream.write_all(text.as_bytes()).await.map_err(failed)?;
        match self.keep {
            true => *kept = Some(stream),
            false => stream.shutdown().await.map_err(failed)?,
        }
        Ok(format!("sent {} byte(s)", text.len()))
    }
}
