//! A service that writes its answers by hand, so that every byte is known, and a client that reads them so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::membrane::{Limits, Membrane, Served};
use homeostat::model::calls::{LimitsSpec, Port};
use homeostat::model::endpoint::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A service that writes its answers by hand.
#[derive(Default)]
pub struct Service {
    pub requests: AtomicUsize,
    pub connections: AtomicUsize,
    /// Every byte that came.
    pub seen: Mutex<Vec<u8>>,
    /// Lets `/slow` answer.
    pub release: Notify,
    pub name: String,
}

impl Service {
    pub async fn start(name: &str) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::new(Self { name: name.into(), ..Self::default() });
        let serving = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = serving.clone();
                service.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move { service.serve(stream).await });
            }
        });
        (service, address)
    }

    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Reads until `buffer` contains `end`; answers what stands up to there, or `None` at the end of the connection.
    async fn until(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = buffer.windows(end.len()).position(|w| w == end) {
                return Some(buffer.drain(..at + end.len()).collect());
            }
            let mut bytes = [0; 4096];
            let n = stream.read(&mut bytes).await.ok().filter(|n| *n > 0)?;
            self.seen.lock().unwrap().extend(&bytes[..n]);
            buffer.extend(&bytes[..n]);
        }
    }

    async fn body(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>, head: &str) -> Option<Vec<u8>> {
        if head.contains("chunked") {
            return self.until(stream, buffer, b"0\r\n\r\n").await;
        }
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_string));
        let length: usize = length.map_or(0, |l| l.trim().parse().unwrap());
        while buffer.len() < length {
            let mut bytes = [0; 65_536];
            let n = stream.read(&mut bytes).await.ok().filter(|n| *n > 0)?;
            self.seen.lock().unwrap().extend(&bytes[..n]);
            buffer.extend(&bytes[..n]);
        }
        Some(buffer.drain(..length).collect())
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        let mut first = true;
        loop {
            let head = String::from_utf8(self.until(&mut stream, &mut buffer, b"\r\n\r\n").await?).unwrap();
            self.requests.fetch_add(1, Ordering::SeqCst);
            let path = head.split(' ').nth(1).unwrap_or("/").to_string();
            // Takes one request on each connection, and says so by hanging up on the second.
            if path == "/once" && !std::mem::take(&mut first) {
                return Some(());
            }
            if !self.answer(&mut stream, &mut buffer, &head, &path).await? {
                return Some(());
            }
        }
    }

    /// Answers one request; whether the connection goes on.
    async fn answer(
        &self,
        stream: &mut TcpStream,
        buffer: &mut Vec<u8>,
        head: &str,
        path: &str,
    ) -> Option<bool> {
        let plain = |text: &str| {
            format!(
                "HTTP/1.1 200 Fine\r\nX-Odd-CASE: 1\r\nsErVeR: hand\r\nX-Odd-CASE: 2\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            )
        };
        match path {
            "/echo" => {
                let body = self.body(stream, buffer, head).await?;
                let head = format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
            }
            "/chunked" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\ntransfer-encoding: Chunked\r\n\r\n5;note=a\r\nhello\r\n").await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.write_all(b"6\r\n world\r\n0\r\nX-Sum: 11\r\nX-Undeclared: yes\r\n\r\n").await.ok()?;
            }
            "/expect" => {
                stream.write_all(b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n").await.ok()?;
                let body = self.body(stream, buffer, head).await?;
                stream.write_all(plain(&String::from_utf8_lossy(&body)).as_bytes()).await.ok()?;
            }
            "/refuse" => {
                stream
                    .write_all(
                        b"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                    )
                    .await
                    .ok()?;
                return Some(false);
            }
            "/hints" => {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await.ok()?;
                stream.write_all(plain("hinted").as_bytes()).await.ok()?;
            }
            "/upgrade" => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello from the service").await.ok()?;
                loop {
                    if !buffer.is_empty() {
                        let upper = String::from_utf8_lossy(buffer).to_uppercase();
                        buffer.clear();
                        stream.write_all(upper.as_bytes()).await.ok()?;
                    }
                    let mut bytes = [0; 1024];
                    let n = stream.read(&mut bytes).await.ok().filter(|n| *n > 0)?;
                    buffer.extend(&bytes[..n]);
                }
            }
            "/events" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n").await.ok()?;
                for n in 0..3 {
                    stream.write_all(format!("id: {n}\ndata: x\n\n").as_bytes()).await.ok()?;
                    self.release.notified().await;
                }
                return Some(false);
            }
            "/slow" => {
                self.release.notified().await;
                stream.write_all(plain(&self.name).as_bytes()).await.ok()?;
            }
            "/old" => {
                stream.write_all(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end").await.ok()?;
                return Some(false);
            }
            "/error" => stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await.ok()?,
            "/garbage" => {
                stream.write_all(b"220 smtp here\r\n\r\n").await.ok()?;
                return Some(false);
            }
            "/cut" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await.ok()?;
                return Some(false);
            }
            "/hang-up" => return Some(false),
            "/idle-close" => {
                stream.write_all(plain(&self.name).as_bytes()).await.ok()?;
                self.release.notified().await;
                return Some(false);
            }
            "/large" => {
                let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
                stream.write_all(head.as_bytes()).await.ok()?;
            }
            "/head" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n").await.ok()?,
            _ => {
                self.body(stream, buffer, head).await?;
                stream.write_all(plain(&self.name).as_bytes()).await.ok()?;
            }
        }
        Some(true)
    }
}

/// Short times, so that tests of patience are short.
pub fn limits() -> Limits {
    Limits {
        head_time: Duration::from_millis(300),
        connect: Duration::from_millis(300),
        patience: Duration::from_millis(200),
        ..Limits::default()
    }
}

pub fn any() -> Option<SocketAddr> {
    Some("127.0.0.1:0".parse().unwrap())
}

pub fn served(name: &str, listen: Option<SocketAddr>, endpoint: &str) -> Served {
    let endpoint = Some(Endpoint::parse(endpoint).unwrap());
    Served { name: name.into(), listen, endpoint, manage: None, limits: LimitsSpec::default() }
}

/// A service of which nothing is known but its name.
pub fn unserved(name: &str) -> Served {
    Served { name: name.into(), listen: None, endpoint: None, manage: None, limits: LimitsSpec::default() }
}

/// A membrane in front of one endpoint, and where it listens.
pub fn wrap(endpoint: &str, limits: Limits) -> (Membrane, SocketAddr) {
    let membrane = Membrane::new(&Connectors::new(), limits);
    let troubles = membrane.set_services([served("it", any(), endpoint)]);
    assert!(troubles.is_empty(), "{troubles:?}");
    let address = membrane.address("it").unwrap();
    (membrane, address)
}

/// A port of the reference `r` of the service `user`.
pub fn port(to: Option<&str>) -> Port {
    Port::new("r", any().unwrap(), to.map(Into::into))
}

/// What a raw client does.
pub enum Step<'a> {
    Send(&'a [u8]),
    /// Reads until this has come.
    Until(&'a str),
    /// Says that it sends no more.
    Finish,
    /// Reads until the other side ends the connection.
    End,
}

/// Everything that a raw client reads.
pub async fn talk(address: SocketAddr, steps: &[Step<'_>]) -> String {
    let talking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (mut heard, mut since) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    since = heard.len();
                    stream.write_all(bytes).await.unwrap();
                }
                Step::Finish => stream.shutdown().await.unwrap(),
                Step::Until(text) => {
                    while !heard[since..].windows(text.len()).any(|w| w == text.as_bytes()) {
                        let n = stream.read_buf(&mut heard).await.unwrap();
                        assert!(n > 0, "ended before `{text}`: {}", String::from_utf8_lossy(&heard));
                    }
                }
                Step::End => {
                    let _ = stream.read_to_end(&mut heard).await;
                }
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    };
    tokio::time::timeout(PATIENCE, talking).await.expect("an answer in time")
}

/// The status and the text that a single request is answered with.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = talk(address, &[Step::Send(request.as_bytes()), Step::End]).await;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
