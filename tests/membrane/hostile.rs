//! Services and clients that mean harm, or are just broken, beside others that must not notice: while each of them does its worst, calls to another
//! service of the same homeostat go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::membrane::{FailureKind, Limits, Membrane, Meter, Served};
use homeostat::model::manage::Manage;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::*;

/// A service whose every connection does this.
async fn service<F, D>(does: D) -> SocketAddr
where
    F: Future<Output = ()> + Send,
    D: Fn(TcpStream) -> F + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let does = Arc::new(does);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let does = does.clone();
            tokio::spawn(async move { does(stream).await });
        }
    });
    address
}

/// Reads the head of a request.
async fn head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut seen).await, Ok(n) if n > 0) {
            return;
        }
    }
}

/// Ends a connection by a reset.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

/// The service under attack, and a neighbour that is called all the time.
struct Beside {
    membrane: Membrane,
    front: SocketAddr,
    calls: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    calling: tokio::task::JoinHandle<()>,
}

impl Beside {
    async fn new(endpoint: &str, limits: Limits) -> Self {
        let (_, neighbour) = Service::start("neighbour").await;
        let membrane = Membrane::new(&Connectors::new(), limits);
        let both = [served("it", any(), endpoint), served("neighbour", any(), &neighbour.to_string())];
        assert!(membrane.set_services(both).is_empty());
        let (calls, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (calls.clone(), over.clone());
        let address = membrane.address("neighbour").unwrap();
        let calling = tokio::spawn(async move {
            while !ended.load(Ordering::SeqCst) {
                let call = tokio::time::timeout(Duration::from_secs(5), get(address, "/"));
                assert_eq!(call.await.expect("the neighbour answers in time"), (200, "neighbour".into()));
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let front = membrane.address("it").unwrap();
        Self { membrane, front, calls, over, calling }
    }

    fn meter(&self) -> Arc<Meter> {
        self.membrane.meter("it")
    }

    /// The neighbour was never disturbed, and still is not; nothing of the attack is left inside.
    async fn end(self) {
        let meter = self.meter();
        until("all calls to be over", || meter.whole().in_flight() == 0).await;
        let before = self.calls.load(Ordering::SeqCst);
        until("the neighbour to be called", || {
            self.calls.load(Ordering::SeqCst) > before || self.calling.is_finished()
        })
        .await;
        self.over.store(true, Ordering::SeqCst);
        self.calling.await.unwrap();
        let neighbour = self.membrane.meter("neighbour");
        assert_eq!(neighbour.whole().errors(), 0);
    }
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";

#[tokio::test]
async fn what_could_be_read_in_two_ways_never_reaches_the_service() {
    let (service, address) = Service::start("s").await;
    let beside = Beside::new(&address.to_string(), limits()).await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: t\r\n\r\n";
    let mut attacks: Vec<Vec<u8>> = Vec::new();
    for line in [
        "GET  / HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/2.0",
        "GET /",
        " GET / HTTP/1.1",
        "G\0T / HTTP/1.1",
    ] {
        attacks.push(format!("{line}\r\nHost: t\r\n\r\n{smuggled}").into());
    }
    attacks.push(
        format!("POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}").into(),
    );
    attacks.push(format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{smuggled}").into());
    for length in [
        "+6",
        "0x6",
        "6_0",
        "6 6",
        "6,6",
        "6;",
        "",
        "\u{ff16}",
        "99999999999999999999999",
        "6\r\n\t6",
        "6\0",
        "6\r",
    ] {
        attacks.push(
            format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\nabcdef{smuggled}").into(),
        );
    }
    for coding in [
        "\u{b}chunked",
        "chunked\0",
        "\"chunked\"",
        "chunked, chunked",
        "identity, chunked",
        "chunked, identity",
        "chunked;a=b",
        "gzip, chunked",
        "\r\n chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "",
        ",chunked",
        "chunked,",
        "x\r\nTransfer-Encoding: chunked",
    ] {
        attacks.push(
            format!("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{smuggled}")
                .into(),
        );
    }
    for field in [
        " Content-Length: 6",
        "Content-Length : 6",
        "Content-Length\r\n: 6",
        "X: a\rTransfer-Encoding: chunked",
        "X\0: y",
        "X: a\0b",
        ": empty",
        "No colon",
        "X: y\nContent-Length: 6",
        "Content-Length: 6\r\ncontent-length: 6",
        "Content-Length: 6\r\nTransfer-Encoding: identity",
    ] {
        attacks.push(format!("POST / HTTP/1.1\r\nHost: t\r\n{field}\r\n\r\nabcdef{smuggled}").into());
    }
    for chunk in [
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "3_0\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\rz\r\n\r\n",
        "3\r\nabc\r\n0\n\n",
        "3\0\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
    ] {
        attacks.push(
            format!("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{smuggled}")
                .into(),
        );
    }
    let count = attacks.len() as u64;
    for attack in &attacks {
        let shown = String::from_utf8_lossy(attack).into_owned();
        let answer = talk(beside.front, &[Step::Send(attack), Step::End]).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1 ").count() == 1,
            "{shown:?}: {answer}"
        );
        assert_eq!(service.seen(), "", "{shown:?}");
    }
    assert_eq!(beside.meter().failures(FailureKind::Malformed), count);
    assert_eq!(get(beside.front, "/").await, (200, "s".into()));
    beside.end().await;
}

#[tokio::test]
async fn a_service_that_answers_in_two_ways_is_not_believed() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nX\r\n\r\n",
        "HTTP/1.1 2OO OK\r\n\r\n",
        "\0\u{1}\u{2}\u{3}\r\n\r\n",
        "<html>no head at all</html>",
    ] {
        let address = service(move |mut stream| async move {
            head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let beside = Beside::new(&address.to_string(), limits()).await;
        let heard = talk(beside.front, &[Step::Send(ASK), Step::End]).await;
        assert!(heard.starts_with("HTTP/1.1 502 "), "{answer:?}: {heard}");
        let meter = beside.meter();
        until("the call to be over", || meter.whole().errors() == 1).await;
        let counted = meter.failures(FailureKind::Garbage) + meter.failures(FailureKind::BrokenOff);
        assert_eq!(counted, 1, "{answer:?}");
        beside.end().await;
    }
}

#[tokio::test]
async fn a_header_section_without_an_end_is_cut_off_at_its_limit() {
    let address = service(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"X-More: and more and more and more\r\n").await.is_ok() {}
    })
    .await;
    let beside = Beside::new(&address.to_string(), limits()).await;
    let (status, why) = get(beside.front, "/").await;
    assert!(status == 502, "{status} {why}");
    assert_eq!(beside.meter().failures(FailureKind::Garbage), 1);
    // The same from a client, which is told so though it goes on sending.
    let mut client = TcpStream::connect(beside.front).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n").await.unwrap();
    let sending = async {
        for _ in 0..100_000 {
            if client.write_all(b"X-More: and more and more and more\r\n").await.is_err() {
                return;
            }
        }
        panic!("it takes headers without end");
    };
    tokio::time::timeout(PATIENCE, sending).await.unwrap();
    assert_eq!(beside.meter().failures(FailureKind::TooLarge), 1);
    beside.end().await;
}

/// Something without end, written by a service; how much of it was taken.
async fn endless(head_of_answer: &'static [u8], piece: &'static [u8]) -> (Arc<AtomicU64>, SocketAddr) {
    let written = Arc::new(AtomicU64::new(0));
    let counted = written.clone();
    let address = service(move |mut stream| {
        let counted = counted.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(head_of_answer).await;
            while stream.write_all(piece).await.is_ok() {
                counted.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
            counted.store(u64::MAX, Ordering::SeqCst);
        }
    })
    .await;
    (written, address)
}

static PIECE: [u8; 65_536] = [b'x'; 65_536];

#[tokio::test]
async fn an_answer_without_end_streams_as_fast_as_it_is_read_and_ends_with_its_reader() {
    for answer in
        [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n"]
    {
        let (written, address) = endless(answer, &PIECE).await;
        let beside = Beside::new(&address.to_string(), limits()).await;
        let mut client = TcpStream::connect(beside.front).await.unwrap();
        client.write_all(ASK).await.unwrap();
        // Nobody reads: the service is held back, and nothing is collected in between.
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = written.load(Ordering::SeqCst);
            if now == before {
                break;
            }
            before = now;
        }
        assert!(before < 32 << 20, "{before} bytes were taken that nobody reads");
        let mut read = 0;
        let mut bytes = vec![0; 1 << 16];
        while read < 64 << 20 {
            read += client.read(&mut bytes).await.unwrap();
        }
        drop(client);
        until("the service to notice", || written.load(Ordering::SeqCst) == u64::MAX).await;
        let meter = beside.meter();
        until("the count", || meter.failures(FailureKind::ClientGone) == 1).await;
        assert_eq!(meter.whole().errors(), 0, "the service is not to blame");
        beside.end().await;
    }
}

#[tokio::test]
async fn a_service_that_resets_is_a_bad_gateway_before_its_answer_and_a_reset_within_it() {
    let before = service(|mut stream| async move {
        head(&mut stream).await;
        reset(stream);
    })
    .await;
    let beside = Beside::new(&before.to_string(), limits()).await;
    assert_eq!(get(beside.front, "/").await.0, 502);
    assert_eq!(beside.meter().failures(FailureKind::BrokenOff), 1);
    beside.end().await;
    // At once, before the request was read.
    let beside =
        Beside::new(&service(|stream| async move { reset(stream) }).await.to_string(), limits()).await;
    assert_eq!(get(beside.front, "/").await.0, 502);
    beside.end().await;
    // The end of an answer whose end is that of its connection: what is cut off must not look complete.
    for answer in
        ["HTTP/1.1 200 OK\r\n\r\nonly this", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"]
    {
        let within = service(move |mut stream| async move {
            head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            reset(stream);
        })
        .await;
        let beside = Beside::new(&within.to_string(), limits()).await;
        for address in [within, beside.front] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(ASK).await.unwrap();
            let mut heard = Vec::new();
            let end = tokio::time::timeout(PATIENCE, client.read_to_end(&mut heard)).await.unwrap();
            assert!(String::from_utf8_lossy(&heard).ends_with("only this"));
            assert!(
                end.is_err() || answer.contains("Content-Length"),
                "{address}: what was cut off looks complete"
            );
        }
        let meter = beside.meter();
        until("the count", || meter.failures(FailureKind::BrokenOff) == 1).await;
        beside.end().await;
    }
}

#[tokio::test]
async fn half_closed_connections_stay_as_they_are() {
    // The client says that it sends no more, and still gets its answer.
    let (_service, address) = Service::start("s").await;
    let beside = Beside::new(&address.to_string(), limits()).await;
    let answer = talk(beside.front, &[Step::Send(ASK), Step::Finish, Step::End]).await;
    assert!(answer.ends_with("\r\n\r\ns"), "{answer}");
    beside.end().await;
    // The service says that it sends no more, though it reads on: there is no answer.
    let deaf = service(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.shutdown().await;
        let mut waste = Vec::new();
        let _ = stream.read_to_end(&mut waste).await;
    })
    .await;
    let beside = Beside::new(&deaf.to_string(), limits()).await;
    assert_eq!(get(beside.front, "/").await.0, 502);
    assert_eq!(beside.meter().failures(FailureKind::BrokenOff), 1);
    // As without the membrane, an endpoint of plain TCP keeps its other half.
    let echo = service(|mut stream| async move {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let _ = stream.write_all(&all).await;
    })
    .await;
    let tcp = Beside::new(&format!("tcp://{echo}"), limits()).await;
    assert_eq!(talk(tcp.front, &[Step::Send(b"both halves"), Step::Finish, Step::End]).await, "both halves");
    tcp.end().await;
    beside.end().await;
}

#[tokio::test]
async fn clients_that_vanish_leave_nothing_behind() {
    let address = service(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        while stream.write_all(&PIECE).await.is_ok() {}
    })
    .await;
    let beside = Beside::new(&address.to_string(), limits()).await;
    let asks: [&[u8]; 5] = [
        b"",
        b"GE",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
        ASK,
    ];
    for n in 0..50 {
        let mut client = TcpStream::connect(beside.front).await.unwrap();
        client.write_all(asks[n % asks.len()]).await.unwrap();
        if n % asks.len() == 4 {
            let _ = client.read(&mut [0; 1000]).await.unwrap();
        }
        // Every other one by a reset.
        if n % 2 == 0 { reset(client) } else { drop(client) }
    }
    let meter = beside.meter();
    until("the counts", || meter.failures(FailureKind::ClientGone) == 30).await;
    assert_eq!(meter.whole().errors(), 0, "the service is not to blame");
    beside.end().await;
}

#[tokio::test]
async fn clients_that_send_a_byte_at_a_time_are_shown_the_door_and_hold_up_nobody() {
    let (service, address) = Service::start("s").await;
    let beside = Beside::new(&address.to_string(), limits()).await;
    let front = beside.front;
    let slow: Vec<_> = (0..200)
        .map(|n| {
            tokio::spawn(async move {
                let mut client = TcpStream::connect(front).await.unwrap();
                let (mut from, mut to) = client.split();
                // Some begin as HTTP/2 would.
                let text: &[u8] =
                    if n % 2 == 0 { b"GET / HTTP/1.1\r\nX: " } else { b"PRI * HTTP/2.0\r\n\r\nS" };
                let drip = async {
                    for byte in text.iter().chain(std::iter::repeat(&b'y')) {
                        if to.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    std::future::pending::<()>().await
                };
                let mut heard = Vec::new();
                tokio::select! {
                    () = drip => {}
                    _ = from.read_to_end(&mut heard) => {}
                }
                String::from_utf8_lossy(&heard).into_owned()
            })
        })
        .collect();
    // The attacked service itself answers others meanwhile.
    for _ in 0..20 {
        assert_eq!(get(front, "/").await, (200, "s".into()));
    }
    for client in slow {
        let heard = tokio::time::timeout(PATIENCE, client).await.expect("the door").unwrap();
        assert!(heard.starts_with("HTTP/1.1 408 ") || heard.starts_with("HTTP/1.1 400 "), "{heard}");
    }
    assert_eq!(service.requests.load(Ordering::SeqCst), 20);
    beside.end().await;
}

#[tokio::test]
async fn nonsense_after_the_preface_of_http2_ends_that_connection_only() {
    let (_service, address) = Service::start("s").await;
    let beside = Beside::new(&address.to_string(), limits()).await;
    for nonsense in [&[0xff; 64][..], b"GET / HTTP/1.1\r\n\r\n", &[0; 9], b"\0\0\xff\x04\0\0\0\0\x01"] {
        let mut client = TcpStream::connect(beside.front).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(nonsense).await.unwrap();
        let _ = client.shutdown().await;
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, client.read_to_end(&mut heard)).await.expect("an end");
    }
    assert_eq!(get(beside.front, "/").await, (200, "s".into()));
    beside.end().await;
}

#[tokio::test]
async fn plain_tcp_to_nowhere_ends_at_once_and_a_reset_is_passed_on_as_an_end() {
    let beside = Beside::new("tcp://127.0.0.1:1", limits()).await;
    assert_eq!(talk(beside.front, &[Step::Send(b"hello"), Step::End]).await, "");
    assert_eq!(beside.meter().failures(FailureKind::Unreachable), 1);
    beside.end().await;
    let address = service(|stream| async move { reset(stream) }).await;
    let beside = Beside::new(&format!("tcp://{address}"), limits()).await;
    let mut client = TcpStream::connect(beside.front).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, client.read(&mut [0; 10])).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)));
    beside.end().await;
}

/// A service with one property, where it is managed.
fn managed(name: &str, endpoint: SocketAddr, manage: SocketAddr, properties: &Value) -> Served {
    let spec = json!({ "listen": "127.0.0.1:1", "properties": properties });
    let spec = Arc::new(serde_json::from_value(spec).unwrap());
    Served {
        manage: Some(Manage { listen: Some(manage), spec }),
        ..served(name, any(), &endpoint.to_string())
    }
}

/// Requirement: R3-20
#[tokio::test]
async fn the_management_listener_is_never_reached_through_the_functional_port_nor_the_reverse() {
    let (service, address) = Service::start("s").await;
    let membrane = Membrane::new(&Connectors::new(), limits());
    let properties = json!({ "secret": { "type": "string", "value": "managed" } });
    assert!(membrane.set_services([managed("it", address, any().unwrap(), &properties)]).is_empty());
    membrane.set_ports(&"it".into(), vec![port(Some("it"))]);
    let manage = membrane.manage_address("it").unwrap();
    let ways_in = [membrane.address("it").unwrap(), membrane.port_address("it", "r").unwrap()];
    assert!(get(manage, "/_mon/properties/secret").await.1.contains("managed"));
    for front in ways_in {
        for request in [
            format!("GET /_mon/properties/secret HTTP/1.1\r\nHost: {manage}\r\nConnection: close\r\n\r\n"),
            format!(
                "GET http://{manage}/_mon/properties/secret HTTP/1.1\r\nHost: {manage}\r\nConnection: close\r\n\r\n"
            ),
            format!(
                "GET /../_mon/properties/secret HTTP/1.1\r\nHost: {manage}\r\nX-Forwarded-Host: {manage}\r\nConnection: close\r\n\r\n"
            ),
            format!(
                "CONNECT {manage} HTTP/1.1\r\nHost: {manage}\r\n\r\nGET /_mon/properties/secret HTTP/1.1\r\nHost: {manage}\r\n\r\n"
            ),
        ] {
            let before = service.requests.load(Ordering::SeqCst);
            let heard = talk(front, &[Step::Send(request.as_bytes()), Step::Finish, Step::End]).await;
            assert!(!heard.contains("managed"), "{request:?}: {heard}");
            assert!(
                service.requests.load(Ordering::SeqCst) > before,
                "the service itself is asked: {request:?}"
            );
        }
    }
    let before = service.requests.load(Ordering::SeqCst);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
        format!("GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
        format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
        format!("GET /_mon/properties/../../echo HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
        format!("GET /v1/services HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    ] {
        let heard = talk(manage, &[Step::Send(request.as_bytes()), Step::Finish, Step::End]).await;
        assert!(
            heard.starts_with("HTTP/1.1 404 ") || heard.starts_with("HTTP/1.1 405 "),
            "{request:?}: {heard}"
        );
    }
    assert_eq!(service.requests.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_management_listener_or_a_reference_whose_port_is_taken_waits_and_the_rest_is_served() {
    let (_service, address) = Service::start("s").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap();
    let membrane = Membrane::new(&Connectors::new(), limits());
    let properties = json!({ "a": { "type": "string", "value": "b" } });
    let both =
        [managed("it", address, place, &properties), managed("other", address, any().unwrap(), &properties)];
    let troubles = membrane.set_services(both);
    assert!(troubles.len() == 1 && troubles[0].1.0.contains("cannot listen on"), "{troubles:?}");
    assert_eq!(get(membrane.address("it").unwrap(), "/").await.0, 200, "the port in front is not disturbed");
    assert_eq!(get(membrane.manage_address("other").unwrap(), "/_mon/properties/a").await.0, 200);
    drop(taken);
    let opened = async {
        while TcpStream::connect(place).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.expect("the port to open");
    assert_eq!(get(place, "/_mon/properties/a").await.0, 200);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap();
    membrane
        .set_ports(&"it".into(), vec![homeostat::model::calls::Port { listen: place, ..port(Some("it")) }]);
    assert_eq!(get(membrane.address("it").unwrap(), "/").await.0, 200);
    drop(taken);
    until("the port of the reference to open", || std::net::TcpStream::connect(place).is_ok()).await;
    assert_eq!(get(place, "/").await, (200, "s".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_file_that_is_gone_or_cannot_be_read_is_told_and_noticed_again_when_it_is_back() {
    let (_service, address) = Service::start("s").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"rate": 1}"#).unwrap();
    let membrane = Membrane::new(&Connectors::new(), Limits::default());
    let properties = json!({
        "rate": { "type": "number", "settable": true, "file": { "path": file, "pointer": "/rate" } },
        "steady": { "type": "string", "value": "there" },
    });
    assert!(membrane.set_services([managed("it", address, any().unwrap(), &properties)]).is_empty());
    let manage = membrane.manage_address("it").unwrap();
    let mut events = TcpStream::connect(manage).await.unwrap();
    let ask = format!("GET /_mon/properties/rate/events?mode=change HTTP/1.1\r\nHost: {manage}\r\n\r\n");
    events.write_all(ask.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let mut hear = async |part: &str| {
        let reading = async {
            while !String::from_utf8_lossy(&heard).contains(part) {
                assert!(events.read_buf(&mut heard).await.unwrap() > 0);
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("never heard of {part}"));
    };
    hear("subscribed").await;
    let set = |value: u32| {
        let body = format!("{{\"value\": {value}}}");
        format!(
            "PUT /_mon/properties/rate HTTP/1.1\r\nHost: {manage}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let spoilt: [(&str, &dyn Fn()); 4] = [
        ("No such file", &|| std::fs::remove_file(&file).unwrap()),
        ("is no file", &|| std::fs::create_dir(&file).unwrap()),
        ("not written as it should be", &|| {
            std::fs::remove_dir(&file).unwrap();
            std::fs::write(&file, "{\"rate\": ").unwrap();
        }),
        ("nothing at `/rate`", &|| std::fs::write(&file, "{\"other\": 1}").unwrap()),
    ];
    for (why, spoil) in spoilt {
        spoil();
        let (status, problem) = get(manage, "/_mon/properties/rate").await;
        assert!(
            status == 502 && problem.contains(why) && problem.contains("config.json"),
            "{status} {problem}"
        );
        let (status, list) = get(manage, "/_mon/properties").await;
        assert!(status == 200 && list.contains("\"there\"") && list.contains(why), "{list}");
        assert_eq!(get(membrane.address("it").unwrap(), "/").await, (200, "s".into()));
        if why != "nothing at `/rate`" {
            let refused = talk(manage, &[Step::Send(set(5).as_bytes()), Step::End]).await;
            assert!(refused.starts_with("HTTP/1.1 502 "), "{refused}");
        }
    }
    std::fs::write(dir.path().join("new"), r#"{"rate": 7}"#).unwrap();
    std::fs::rename(dir.path().join("new"), &file).unwrap();
    hear("\"new\":7").await;
    assert!(get(manage, "/_mon/properties/rate").await.1.contains("\"value\":7"));
}
