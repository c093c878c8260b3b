//! An action or a value as a text to a socket: a datagram, or a TCP connection of its own.

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, lookup_host};

use super::fill::{self, Arguments};
use crate::model::connector::{Command, ConnectorError, Effector, SocketEffector};
use crate::model::template::{Holes, Template};

/// Sends datagrams.
pub(super) struct Datagrams(Text);

/// Sends each text over a connection of its own.
pub(super) struct Connections(Text);

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
        Text::new(spec).map(Self)
    }
}

#[async_trait]
impl Effector for Connections {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let text = self.0.of(command)?;
        let failed = |error: std::io::Error| self.0.failed(&error);
        let mut stream = TcpStream::connect(&self.0.address).await.map_err(failed)?;
        stream.write_all(text.as_bytes()).await.map_err(failed)?;
        stream.shutdown().await.map_err(failed)?;
        Ok(format!("sent {} byte(s)", text.len()))
    }
}
