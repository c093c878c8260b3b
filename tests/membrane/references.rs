//! References: where they lead changes while calls flow, and none fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use homeostat::connectors::Connectors;
use homeostat::membrane::{FailureKind, Limits, Membrane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;

struct Stage {
    membrane: Membrane,
    c1: Arc<Service>,
    c2: Arc<Service>,
    port: SocketAddr,
    user: Arc<str>,
}

impl Stage {
    /// A reference of `user` that leads to C1; C2 stands behind a membrane of its own.
    async fn new() -> Self {
        Self::with(limits()).await
    }

    async fn with(limits: Limits) -> Self {
        let (c1, a1) = Service::start("C1").await;
        let (c2, a2) = Service::start("C2").await;
        let membrane = Membrane::new(&Connectors::new(), limits);
        let user: Arc<str> = "user".into();
        let services = [
            unserved("user"),
            served("C1", None, &a1.to_string()),
            served("C2", any(), &a2.to_string()),
            unserved("none"),
        ];
        assert!(membrane.set_services(services).is_empty());
        membrane.set_ports(&user, vec![port(Some("C1"))]);
        let port = membrane.port_address("user", "r").unwrap();
        Self { membrane, c1, c2, port, user }
    }

    async fn lead(&self, to: Option<&str>) -> Result<String, String> {
        self.membrane.lead(&self.user, &[("r".into(), to.map(Into::into))]).await
    }
}

/// Requirement: R3-19
#[tokio::test]
async fn calls_follow_the_binding_on_a_connection_that_stays_open() {
    let stage = Stage::new().await;
    let mut client = TcpStream::connect(stage.port).await.unwrap();
    for (bind, expected) in [(None, "C1"), (Some("C2"), "C2"), (Some("C1"), "C1")] {
        if let Some(to) = bind {
            assert_eq!(stage.lead(Some(to)).await, Ok(String::new()));
        }
        assert_eq!(ask(&mut client, b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").await, Some(expected.to_string()));
    }
    assert_eq!(stage.membrane.meter("C2").whole().requests(), 1, "C2's own membrane sees its calls");
}

/// Requirement: R3-19
#[tokio::test]
async fn an_unbound_reference_answers_503_with_the_reason() {
    let stage = Stage::new().await;
    stage.lead(None).await.unwrap();
    let (status, why) = get(stage.port, "/").await;
    assert!(status == 503 && why.contains("the reference `r` of `user` is not bound"), "{status} {why}");
    assert_eq!(stage.membrane.port_meter("user", "r").unwrap().failures(FailureKind::Unbound), 1);
    let refused = stage.lead(Some("none")).await.unwrap_err();
    assert!(refused.contains("`none` has no endpoint"), "{refused}");
    stage.lead(Some("C2")).await.unwrap();
    assert_eq!(get(stage.port, "/").await, (200, "C2".into()));
}

#[tokio::test]
async fn a_call_on_its_way_finishes_on_the_old_target_while_new_ones_go_to_the_new() {
    let stage = Stage::new().await;
    let slow = tokio::spawn(get(stage.port, "/slow"));
    until("the slow call", || stage.c1.requests.load(Ordering::SeqCst) == 1).await;
    let said = stage.lead(Some("C2")).await.unwrap();
    assert_eq!(said, "`r`: 1 calls are still on their way to `C1`");
    assert_eq!(get(stage.port, "/").await, (200, "C2".into()));
    stage.c1.release.notify_waiters();
    assert_eq!(slow.await.unwrap(), (200, "C1".into()));
    assert_eq!(stage.c1.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_endpoint_that_moves_takes_its_references_along() {
    let stage = Stage::new().await;
    assert_eq!(get(stage.port, "/").await, (200, "C1".into()));
    let (_c3, address) = Service::start("C3").await;
    stage.membrane.set_services([unserved("user"), served("C1", None, &address.to_string())]);
    assert_eq!(get(stage.port, "/").await, (200, "C3".into()));
}

/// Sends one request and reads its short answer.
async fn ask(client: &mut TcpStream, request: &[u8]) -> Option<String> {
    client.write_all(request).await.ok()?;
    let mut heard = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&heard);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && body.len() == 2
        {
            return text.starts_with("HTTP/1.1 200").then(|| body.to_string());
        }
        if client.read_buf(&mut heard).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn only_what_may_be_sent_twice_is_sent_once_more_when_a_kept_connection_turns_out_to_be_closed() {
    let stage = Stage::new().await;
    let mut client = TcpStream::connect(stage.port).await.unwrap();
    let get = b"GET /once HTTP/1.1\r\nHost: t\r\n\r\n";
    for _ in 0..3 {
        assert_eq!(ask(&mut client, get).await, Some("C1".into()));
    }
    let post = b"POST /once HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(&mut client, post).await, None);
    let meter = stage.membrane.port_meter("user", "r").unwrap();
    until("the count", || meter.failures(FailureKind::BrokenOff) == 1).await;
    // Twice the second and the third, which were sent once more; once the first and the last.
    assert_eq!(stage.c1.requests.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn an_idle_connection_ends_with_that_of_the_service_in_front_of_it_and_not_at_a_reference() {
    let stage = Stage::new().await;
    let (c2, address) = Service::start("C2").await;
    let (_membrane, front) = wrap(&address.to_string(), limits());
    let request = b"GET /idle-close HTTP/1.1\r\nHost: t\r\n\r\n";
    let mut at_front = TcpStream::connect(front).await.unwrap();
    let mut at_port = TcpStream::connect(stage.port).await.unwrap();
    assert_eq!(ask(&mut at_front, request).await, Some("C2".into()));
    assert_eq!(ask(&mut at_port, request).await, Some("C1".into()));
    c2.release.notify_one();
    stage.c1.release.notify_one();
    let ended = tokio::time::timeout(PATIENCE, at_front.read(&mut [0; 8])).await.unwrap();
    assert_eq!(ended.unwrap(), 0);
    let post = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n";
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(ask(&mut at_port, post).await, Some("C1".into()));
}

/// Keeps asking until told to stop: kept-alive connections and fresh ones, with and without bodies.
async fn load(port: SocketAddr, kind: usize, stop: Arc<AtomicBool>, asked: Arc<AtomicUsize>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut client = TcpStream::connect(port).await.unwrap();
    while !stop.load(Ordering::SeqCst) {
        let request: &[u8] = match kind % 3 {
            0 => b"GET / HTTP/1.1\r\nHost: t\r\n\r\n",
            1 => b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody",
            _ => {
                client = TcpStream::connect(port).await.unwrap();
                b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
            }
        };
        if ask(&mut client, request).await.is_none() {
            failures.push(format!("client {kind}, request {}", asked.load(Ordering::SeqCst)));
            client = TcpStream::connect(port).await.unwrap();
        }
        asked.fetch_add(1, Ordering::SeqCst);
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_switches_under_load_fail_no_call_and_none_reaches_the_old_target_afterwards() {
    let stage = Stage::with(Limits { patience: PATIENCE, connect: PATIENCE, ..limits() }).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> =
        (0..9).map(|kind| tokio::spawn(load(stage.port, kind, stop.clone(), asked.clone()))).collect();
    for number in 0..200 {
        let (to, old) = if number % 2 == 0 { ("C2", &stage.c1) } else { ("C1", &stage.c2) };
        assert_eq!(stage.lead(Some(to)).await, Ok(String::new()));
        let complete = old.requests.load(Ordering::SeqCst);
        let before = asked.load(Ordering::SeqCst);
        until("more calls", || asked.load(Ordering::SeqCst) >= before + 10).await;
        assert_eq!(
            old.requests.load(Ordering::SeqCst),
            complete,
            "a call reached the old target of switch {number}"
        );
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
    let meter = stage.membrane.port_meter("user", "r").unwrap();
    assert!(meter.whole().requests() >= 2_000 && meter.whole().errors() == 0);
}
