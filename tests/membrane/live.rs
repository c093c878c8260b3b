//! `homeostat wrap --live`: a service that runs already and knows nothing is stood in front of, and left again, under load.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;

/// The service, in Python; killed when dropped.
struct Service {
    child: Child,
    port: u16,
}

impl Service {
    fn start(words: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/membrane/live_service.py");
        let mut child =
            Command::new("python3").arg(script).args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().expect("its port") }
    }

    fn at(&self, host: &str) -> SocketAddr {
        format!("{host}:{}", self.port).parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Homeostat in front of it; killed when dropped.
struct Live {
    child: Child,
    manage: SocketAddr,
    said: Arc<Mutex<String>>,
}

fn command(listen: SocketAddr, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
    command.args(["wrap", "--live", "--manage", "127.0.0.1:0", "--name", "it", "--listen"]);
    command.arg(listen.to_string()).args(more).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Live {
    async fn start(listen: SocketAddr, more: &[&str]) -> Self {
        let mut child = command(listen, more).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        let said: Arc<Mutex<String>> = Arc::default();
        let saying = said.clone();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                saying.lock().unwrap().push_str(&format!("{line}\n"));
                if let Some((_, address)) = line.split_once("manage=") {
                    let _ = sender.send(address.split_whitespace().next().unwrap_or_default().parse());
                }
            }
        });
        let manage = tokio::task::spawn_blocking(move || receiver.recv_timeout(PATIENCE)).await.unwrap();
        let manage = manage.unwrap_or_else(|_| panic!("it does not stand there: {}", said.lock().unwrap()));
        Self { child, manage: manage.unwrap(), said }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    async fn ended(&mut self) -> Option<i32> {
        let wait = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("it stays: {}", self.said.lock().unwrap()))
    }

    async fn leave(mut self) {
        self.signal(Signal::TERM);
        let code = self.ended().await;
        assert_eq!(code, Some(0), "{}", self.said.lock().unwrap());
    }

    async fn metric(&self, name: &str) -> f64 {
        let (_, body) = get(self.manage, &format!("/v1/services/it/metrics/{name}")).await;
        let reading: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        reading["value"].as_f64().unwrap_or(-1.0)
    }

    async fn until(&self, name: &str, holds: impl Fn(f64) -> bool) {
        let wait = async {
            while !holds(self.metric(name).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{name} is not as it should be"));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clients that ask without end, and everything that went wrong for them.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Connections, opened, used once, closed.
    single: AtomicUsize,
    /// Requests over connections that are kept.
    kept: AtomicUsize,
    /// Answers of which the last byte came.
    streams: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// Reads one answer; whether the connection ends after it.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<(bool, String)> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length =
                lower.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let whole = match length {
                Some(length) => (rest.len() >= length).then_some(length),
                None => rest.find("0\r\n\r\n").map(|at| at + 5),
            };
            if let Some(length) = whole {
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                let body = rest[..length].to_string();
                buffer.drain(..head.len() + 4 + length);
                return Ok((lower.contains("connection: close"), body));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn ask(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    path: &str,
    more: &str,
) -> std::io::Result<(bool, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await?;
    answer(stream, buffer).await
}

impl Load {
    fn start(at: SocketAddr) -> Arc<Self> {
        let load = Arc::new(Self::default());
        for number in 0..6 {
            let load = load.clone();
            tokio::spawn(async move {
                while !load.stop.load(Ordering::SeqCst) {
                    let result = match number {
                        0..3 => load.once(at).await,
                        3..5 => load.keep(at).await,
                        _ => load.stream(at).await,
                    };
                    if let Err(error) = result {
                        load.failures.lock().unwrap().push(format!("{number}: {error}"));
                    }
                }
            });
        }
        load
    }

    async fn once(&self, at: SocketAddr) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(at).await?;
        ask(&mut stream, &mut Vec::new(), "/", "Connection: close\r\n").await?;
        self.single.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn keep(&self, at: SocketAddr) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(at).await?;
        let mut buffer = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            let (close, _) = ask(&mut stream, &mut buffer, "/", "").await?;
            self.kept.fetch_add(1, Ordering::SeqCst);
            if close {
                break;
            }
        }
        Ok(())
    }

    /// Half a second of it.
    async fn stream(&self, at: SocketAddr) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(at).await?;
        let (_, body) = ask(&mut stream, &mut Vec::new(), "/stream/25", "").await?;
        assert!(body.ends_with("024\r\n0\r\n\r\n"), "{body}");
        self.streams.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn counts(&self) -> [usize; 3] {
        [&self.single, &self.kept, &self.streams].map(|n| n.load(Ordering::SeqCst))
    }

    /// Waits until all clients have gone on for a while.
    async fn goes_on(&self) {
        let [single, kept, streams] = self.counts();
        until("the load goes on", || {
            let now = self.counts();
            now[0] > single + 100 && now[1] > kept + 100 && now[2] > streams + 1
        })
        .await;
    }

    fn none_failed(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(
            failures.is_empty(),
            "{} of {:?}: {:?}",
            failures.len(),
            self.counts(),
            &failures[..failures.len().min(5)]
        );
    }
}

/// Requirement: R4-15, R4-28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homeostat_comes_and_goes_in_front_of_a_running_service_and_no_request_fails() {
    let mut service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    // From before homeostat came until after it has gone.
    let mut kept = TcpStream::connect(at).await.unwrap();
    let mut buffer = Vec::new();
    let (_, first) = ask(&mut kept, &mut buffer, "/", "").await.unwrap();
    let load = Load::start(at);
    load.goes_on().await;
    for _ in 0..3 {
        let live = Live::start(at, &[]).await;
        load.goes_on().await;
        let seen = live.metric("requests").await;
        live.until("requests", |n| n > seen + 100.0).await;
        live.until("p99", |s| s > 0.0).await;
        live.until("errors", |n| n == 0.0).await;
        live.until("memory", |bytes| bytes > 1e6).await;
        live.until("threads", |n| n >= 1.0).await;
        // The service is asked from a place of homeostat's own now.
        let (_, body) = get(at, "/").await;
        assert!(
            body.starts_with(&format!("{} 127.", service.child.id())) && !body.ends_with("127.0.0.1"),
            "{body}"
        );
        live.leave().await;
        let (_, body) = get(at, "/").await;
        assert!(body.ends_with(" 127.0.0.1"), "{body}");
        load.goes_on().await;
        load.none_failed();
    }
    let (_, last) = ask(&mut kept, &mut buffer, "/", "").await.unwrap();
    assert_eq!(first, last, "the same connection to the same process");
    load.stop.store(true, Ordering::SeqCst);
    load.none_failed();
    assert!(service.child.try_wait().unwrap().is_none());
}

/// Requirement: R4-28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_began_before_homeostat_left_is_served_to_its_end() {
    let service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    let mut before = TcpStream::connect(at).await.unwrap();
    before.write_all(b"GET /stream/100 HTTP/1.1\r\nHost: it\r\n\r\n").await.unwrap();
    let mut live = Live::start(at, &[]).await;
    let mut through = TcpStream::connect(at).await.unwrap();
    through.write_all(b"GET /stream/200 HTTP/1.1\r\nHost: it\r\n\r\n").await.unwrap();
    live.until("in_flight", |n| n == 1.0).await;
    live.signal(Signal::TERM);
    let through = tokio::spawn(async move { answer(&mut through, &mut Vec::new()).await.unwrap().1 });
    // It has left for new connections long before.
    let ended = async {
        while !get(at, "/").await.1.ends_with(" 127.0.0.1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(!through.is_finished());
    assert!(through.await.unwrap().ends_with("199\r\n0\r\n\r\n"));
    let before = answer(&mut before, &mut Vec::new()).await.unwrap().1;
    assert!(before.ends_with("099\r\n0\r\n\r\n"));
    // The connection is kept by its client, who asks nothing any more.
    assert_eq!(live.ended().await, Some(0), "{}", live.said.lock().unwrap());
}

/// Requirement: R4-28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_homeostat_is_killed_new_connections_go_to_the_service() {
    let service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    for _ in 0..2 {
        let mut live = Live::start(at, &[]).await;
        assert!(!get(at, "/").await.1.ends_with(" 127.0.0.1"));
        live.signal(Signal::KILL);
        live.ended().await;
        for _ in 0..300 {
            let (status, body) = get(at, "/").await;
            assert!(status == 200 && body.ends_with(" 127.0.0.1"), "{status} {body}");
        }
    }
    // Whoever comes next can stand there, and leave in order.
    Live::start(at, &[]).await.leave().await;
    assert!(get(at, "/").await.1.ends_with(" 127.0.0.1"));
}

/// Requirement: R4-28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_address_and_workers_that_share_a_socket_are_stood_in_front_of() {
    let cases: [(&[&str], &str, &str); 6] = [
        (&["0.0.0.0"], "0.0.0.0", "127.0.0.1"),
        (&["0.0.0.0"], "127.0.0.1", "127.0.0.1"),
        (&["::1"], "[::1]", "[::1]"),
        (&["::"], "[::]", "127.0.0.1"),
        (&["::", "v6only"], "[::]", "[::1]"),
        (&["127.0.0.1", "workers=3"], "127.0.0.1", "127.0.0.1"),
    ];
    for (words, listen, client) in cases {
        let service = Service::start(words);
        let client = service.at(client);
        let live = Live::start(service.at(listen), &[]).await;
        for _ in 0..20 {
            assert_eq!(get(client, "/").await.0, 200, "{words:?}");
        }
        live.until("requests", |n| n >= 20.0).await;
        assert_eq!(live.metric("errors").await, 0.0, "{words:?}");
        live.leave().await;
        assert_eq!(get(client, "/").await.0, 200, "{words:?}");
    }
}

/// Requirement: R4-14, R4-28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_service_gets_exactly_the_sub_components_of_the_mode() {
    let service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    for (mode, modes) in
        [("polling", json!(null)), ("interval", json!(["interval"])), ("change", json!(["change"]))]
    {
        let live = Live::start(at, &["--mode", mode]).await;
        let (status, text) = get(live.manage, "/_mon").await;
        let listed: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!((status, &listed["components"][0]["name"]), (200, &json!("GenericProxy")), "{text}");
        assert_eq!(listed["components"][1]["modes"], modes, "{text}");
        live.until("requests", |n| n == 0.0).await;
        let (status, text) = get(live.manage, "/_mon/properties/requests").await;
        assert!(status == 200 && text.contains(r#""value":0"#), "{text}");
        live.leave().await;
    }
}

/// Requirement: R4-28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_of_a_service_without_so_reuseaddr_do_not_stand_in_the_way() {
    let service = Service::start(&["127.0.0.1", "reuseaddr=no"]);
    let at = service.at("127.0.0.1");
    let mut kept = TcpStream::connect(at).await.unwrap();
    let mut buffer = Vec::new();
    ask(&mut kept, &mut buffer, "/", "").await.unwrap();
    let live = Live::start(at, &["--pid", &service.child.id().to_string()]).await;
    assert!(!get(at, "/").await.1.ends_with(" 127.0.0.1"));
    live.leave().await;
    ask(&mut kept, &mut buffer, "/", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_service_ends_homeostat_does_too_and_the_port_is_free() {
    let mut service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    let mut live = Live::start(at, &[]).await;
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    assert_eq!(live.ended().await, Some(7));
    let said = live.said.lock().unwrap().clone();
    assert!(said.contains(&format!("the service no longer listens at {at}")), "{said}");
    let port = format!("port={}", at.port());
    Service::start(&["127.0.0.1", &port]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_listening_and_keeps_its_socket_is_noticed() {
    let service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    let mut live = Live::start(at, &[]).await;
    assert_eq!(get(at, "/deaf").await.0, 200);
    assert_eq!(live.ended().await, Some(7));
    let said = live.said.lock().unwrap().clone();
    assert!(said.contains(&format!("the service no longer listens at {at}")), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_front_of_a_running_service_the_limit_of_connections_and_the_process_that_is_meant_hold() {
    use homeostat::connectors::Connectors;
    use homeostat::membrane::{Membrane, Served};
    use homeostat::model::calls::LimitsSpec;
    let service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    let membrane = Membrane::new(&Connectors::new(), limits());
    let means = |pid: Option<u32>| {
        membrane.set_live([("it".into(), pid)]);
        let limits = LimitsSpec { max_connections: Some(1), ..LimitsSpec::default() };
        membrane.set_services([Served { limits, ..served("it", Some(at), &at.to_string()) }])
    };
    assert!(means(None).is_empty());
    let (mut first, mut buffer) = (TcpStream::connect(at).await.unwrap(), Vec::new());
    ask(&mut first, &mut buffer, "/", "").await.unwrap();
    let mut second = tokio::spawn(get(at, "/"));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut second).await.is_err(), "it waits");
    ask(&mut first, &mut buffer, "/", "").await.unwrap();
    drop(first);
    assert_eq!(second.await.unwrap().0, 200);

    let trouble = || membrane.trouble("it").map(|trouble| trouble.0.to_string()).unwrap_or_default();
    assert!(!means(Some(1)).is_empty());
    until("another process to be meant", || trouble().contains("process 1 does not listen at")).await;
    means(Some(service.child.id()));
    until("the place to be taken again", || trouble().is_empty()).await;
    assert!(membrane.stop(PATIENCE).await);
}

fn refused(listen: SocketAddr, more: &[&str]) -> (Option<i32>, String) {
    let output = command(listen, more).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_be_stood_in_front_of_is_told() {
    let (code, said) = refused(super::bridge::free(), &[]);
    assert!(code == Some(7) && said.contains("nobody listens at"), "{said}");

    // Two sockets at one address.
    let open = |at: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(1).unwrap();
        socket
    };
    let first = open("127.0.0.1:0".parse().unwrap());
    let at = first.local_addr().unwrap().as_socket().unwrap();
    let _second = open(at);
    let (code, said) = refused(at, &[]);
    assert!(code == Some(7) && said.contains("2 sockets listen at"), "{said}");

    let service = Service::start(&["127.0.0.1"]);
    let at = service.at("127.0.0.1");
    let (code, said) = refused(at, &["--pid", &std::process::id().to_string()]);
    let right = format!("does not listen at {at}; process {} does", service.child.id());
    assert!(code == Some(2) && said.contains(&right), "{said}");

    let (code, said) = refused(at, &["--", "sleep", "1"]);
    assert!(code == Some(2) && said.contains("cannot be used with"), "{said}");

    // The service is as it was.
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let text = std::io::read_to_string(stream).unwrap();
    assert!(text.ends_with(" 127.0.0.1"), "{text}");
}
