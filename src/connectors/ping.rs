//! Whether something can be reached, and how long that takes: a TCP connection, or a datagram that is echoed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpStream, UdpSocket};

use crate::model::Measurement;
use crate::model::connector::{ConnectorError, PingSensor, Sensor};

/// The size of a datagram when none is given, bytes.
const SIZE: u16 = 32;

/// Tries to reach something. Not to reach it is a value too, 0; the reason is in the log (level debug).
pub(super) struct Pinger {
    target: String,
    /// With what: nothing is a connection, bytes are a datagram of so many.
    size: Option<u16>,
    max_delay: Duration,
    /// Told apart from echoes of earlier datagrams.
    sent: u64,
}

impl Pinger {
    pub(super) fn new(spec: &PingSensor) -> Self {
        Self {
            target: spec.tcp.as_ref().or(spec.udp.as_ref()).cloned().unwrap_or_default(),
            size: spec.udp.as_ref().map(|_| spec.size.unwrap_or(SIZE)),
            max_delay: spec.max_delay(),
            sent: 0,
        }
    }

    async fn reach(&mut self, address: SocketAddr) -> std::io::Result<()> {
        let Some(size) = self.size else { return TcpStream::connect(address).await.map(drop) };
        self.sent += 1;
        let here: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(here).await?;
        socket.connect(address).await?;
        let mut datagram = vec![b'.'; usize::from(size)];
        datagram[..8].copy_from_slice(&self.sent.to_be_bytes());
        socket.send(&datagram).await?;
        let mut answer = vec![0; datagram.len() + 1];
        loop {
            let length = socket.recv(&mut answer).await?;
            if answer[..length] == datagram {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Sensor for Pinger {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let found = tokio::net::lookup_host(&self.target).await.map(|mut all| all.next());
        let address = match found {
            Ok(Some(address)) => address,
            Ok(None) => return Err(ConnectorError::Unreachable(format!("`{}` has no address", self.target))),
            Err(why) => return Err(ConnectorError::Unreachable(format!("`{}`: {why}", self.target))),
        };
        let (before, patience) = (super::now(), self.max_delay);
        let reached = tokio::time::timeout(patience, self.reach(address)).await;
        let delay = before.elapsed();
        let failure = match reached {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why.to_string()),
            Err(_) => Some(format!("no answer within {} ms", patience.as_millis())),
        };
        if let Some(why) = &failure {
            tracing::debug!(target: "homeostat::ping", to = self.target, "not reached: {why}");
        }
        let mut values = vec![Measurement::value(f64::from(u8::from(failure.is_none())))];
        if failure.is_none() {
            let output = Some(Arc::from("delay"));
            values.push(Measurement { output, ..Measurement::value(delay.as_secs_f64()) });
        }
        Ok(values)
    }
}
