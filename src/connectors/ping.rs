//! Whether something can be reached, and how long that takes: a TCP connection, or a datagram that is echoed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpStream, UdpSocket};

use crate::model::Measurement;
use crate::model::connector::{ConnectorError, PingSensor, Sensor};

/// The size of a datagram when none is given, bytes.
const SIZE: u16 = 32;

/// How long an address may take before the next one is tried beside it, at most (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

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

    /// Tries the addresses in their order, each when the one before failed or is slow, until one is reached.
    ///
    /// # Errors
    /// What the last one that failed said.
    async fn reach_any(&mut self, addresses: &[SocketAddr]) -> std::io::Result<()> {
        let share = self.max_delay / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let (size, stagger) = (self.size, STAGGER.min(share));
        let mut left = addresses.iter();
        let mut tries = FuturesUnordered::new();
        let mut failure = std::io::Error::other("no address");
        loop {
            if let Some(address) = left.next() {
                self.sent += 1;
                tries.push(reach(*address, size, self.sent));
            }
            tokio::select! {
                reached = tries.next() => match reached {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(why)) => failure = why,
                    None => return Err(failure),
                },
                () = tokio::time::sleep(stagger), if left.len() > 0 => {}
            }
        }
    }
}

/// A connection, or a datagram of so many bytes with this number that comes back.
async fn reach(address: SocketAddr, size: Option<u16>, number: u64) -> std::io::Result<()> {
    let Some(size) = size else { return TcpStream::connect(address).await.map(drop) };
    let here: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(here).await?;
    socket.connect(address).await?;
    let mut datagram = vec![b'.'; usize::from(size)];
    datagram[..8].copy_from_slice(&number.to_be_bytes());
    socket.send(&datagram).await?;
    let mut answer = vec![0; datagram.len() + 1];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answer[..length] == datagram {
            return Ok(());
        }
    }
}

#[async_trait]
impl Sensor for Pinger {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let found = tokio::net::lookup_host(&self.target).await.map(Iterator::collect::<Vec<_>>);
        let (before, patience) = (super::now(), self.max_delay);
        // A name that leads nowhere is not reached either.
        let failure = match found {
            Ok(all) if all.is_empty() => Some("it has no address".to_string()),
            Err(why) => Some(why.to_string()),
            Ok(addresses) => match tokio::time::timeout(patience, self.reach_any(&addresses)).await {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(why.to_string()),
                Err(_) => Some(format!("no answer within {} ms", patience.as_millis())),
            },
        };
        let delay = before.elapsed();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_is_tried_though_one_before_it_fails_or_is_silent() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let [open_at, closed_at] = [&open, &closed].map(|l| l.local_addr().expect("address"));
        drop(closed);
        let spec = |text| serde_json::from_str::<PingSensor>(text).expect("a sensor");
        let mut tcp = Pinger::new(&spec(r#"{"tcp": "h:1"}"#));
        assert!(tcp.reach_any(&[closed_at, open_at]).await.is_ok());
        assert!(tcp.reach_any(&[closed_at, closed_at]).await.is_err());

        let [silent, echo] = [UdpSocket::bind("127.0.0.1:0").await, UdpSocket::bind("127.0.0.1:0").await];
        let (silent, echo) = (silent.expect("bound"), echo.expect("bound"));
        let [silent_at, echo_at] = [&silent, &echo].map(|s| s.local_addr().expect("address"));
        tokio::spawn(async move {
            let mut datagram = [0; 100];
            let (length, from) = echo.recv_from(&mut datagram).await.expect("a datagram");
            echo.send_to(&datagram[..length], from).await.expect("sent");
        });
        let mut udp = Pinger::new(&spec(r#"{"udp": "h:1"}"#));
        let reached =
            tokio::time::timeout(Duration::from_secs(10), udp.reach_any(&[silent_at, echo_at])).await;
        assert!(reached.is_ok_and(|r| r.is_ok()));
    }
}
