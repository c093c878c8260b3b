//! UDP for the listening sensors: one socket per address, shared by all sensors that name it.
//!
//! Every listener waits on the shared socket; whoever a datagram reaches hands it to all. There is no task in between,
//! and the socket is closed in the moment the last listener is dropped, so a reload can open it again at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use tokio::net::UdpSocket;

use crate::model::Measurement;
use crate::model::connector::{ConnectorError, Listener, Sink};

/// Room for bursts in the kernel, bytes.
const KERNEL_BUFFER: usize = 1024 * 1024;

/// The largest datagram there can be, bytes.
const DATAGRAM: usize = 65_536;

/// What a sensor makes of a datagram.
pub(super) trait Decoder: Send {
    /// Reads what concerns it; lines or parts for others are neither measurements nor bad.
    fn read(&mut self, datagram: &[u8]) -> Parsed;
}

/// What a datagram contained.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parsed {
    pub(super) measurements: Vec<Measurement>,
    /// Lines that concern the sensor, or packets, that could not be read.
    pub(super) bad: u64,
    /// Why, for the first of them.
    pub(super) problem: Option<String>,
}

impl Parsed {
    /// Counts a bad line.
    pub(super) fn bad(&mut self, problem: impl FnOnce() -> String) {
        self.bad += 1;
        self.problem.get_or_insert_with(problem);
    }
}

/// All open sockets, by address.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    open: Arc<Mutex<HashMap<SocketAddr, Weak<Shared>>>>,
}

/// One socket and those who listen to it.
struct Shared {
    socket: UdpSocket,
    listeners: Mutex<HashMap<u64, Subscriber>>,
}

struct Subscriber {
    decoder: Arc<Mutex<Box<dyn Decoder>>>,
    sink: Arc<dyn Sink>,
    bad: u64,
}

impl Sockets {
    /// The socket of `address`, opened if nobody listens there yet.
    fn open(&self, address: SocketAddr) -> Result<Arc<Shared>, ConnectorError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = open.get(&address).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let socket = bind(address)
            .map_err(|e| ConnectorError::Unreachable(format!("cannot listen on udp {address}: {e}")))?;
        let shared = Arc::new(Shared { socket, listeners: Mutex::default() });
        open.retain(|_, weak| weak.strong_count() > 0);
        open.insert(address, Arc::downgrade(&shared));
        Ok(shared)
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    // The kernel may grant less; that is no reason not to listen.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER);
    UdpSocket::from_std(socket)
}

impl Shared {
    /// Hands a datagram to every listener. Sinks never block.
    fn dispatch(&self, datagram: &[u8]) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for subscriber in listeners.values_mut() {
            let parsed = subscriber.decoder.lock().unwrap_or_else(PoisonError::into_inner).read(datagram);
            subscriber.bad += parsed.bad;
            match parsed.problem {
                Some(problem) if parsed.measurements.is_empty() => {
                    let total = subscriber.bad;
                    subscriber
                        .sink
                        .fail(ConnectorError::Answer(format!("{problem} ({total} bad lines so far)")));
                }
                _ if parsed.measurements.is_empty() => {}
                _ => subscriber.sink.deliver(parsed.measurements),
            }
        }
    }
}

/// Takes a listener off its socket.
struct Subscription {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A sensor on a shared socket. What it has counted stays when it is run again.
pub(super) struct DatagramListener {
    sockets: Sockets,
    address: SocketAddr,
    decoder: Arc<Mutex<Box<dyn Decoder>>>,
}

impl DatagramListener {
    pub(super) fn new(
        listen: &str,
        sockets: &Sockets,
        decoder: Box<dyn Decoder>,
    ) -> Result<Self, ConnectorError> {
        let address = listen.parse().map_err(|_| {
            ConnectorError::Config(format!("`{listen}` is no address such as 127.0.0.1:8125"))
        })?;
        Ok(Self { sockets: sockets.clone(), address, decoder: Arc::new(Mutex::new(decoder)) })
    }

    fn subscribe(&self, sink: Arc<dyn Sink>) -> Result<Subscription, ConnectorError> {
        let shared = self.sockets.open(self.address)?;
        let id = {
            let mut listeners = shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            let id = listeners.keys().max().map_or(0, |last| last + 1);
            listeners.insert(id, Subscriber { decoder: self.decoder.clone(), sink, bad: 0 });
            id
        };
        Ok(Subscription { shared, id })
    }
}

#[async_trait]
impl Listener for DatagramListener {
    async fn listen(&mut self, sink: Arc<dyn Sink>) -> Result<(), ConnectorError> {
        let subscription = self.subscribe(sink)?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            match subscription.shared.socket.recv_from(&mut buffer).await {
                Ok((length, _)) => subscription.shared.dispatch(&buffer[..length]),
                Err(e) => {
                    return Err(ConnectorError::Unreachable(format!(
                        "listening on udp {} broke off: {e}",
                        self.address
                    )));
                }
            }
        }
    }
}
