//! Candidates of a reference: calls are shared by weight, sent again where that is safe, and kept from who is not able to work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::membrane::{FailureKind, Membrane};
use homeostat::model::calls::{CandidateStatus, Eject, HealthSpec, LimitsSpec, Port, PortPolicy, Standing};
use homeostat::model::connector::{BuiltSensor, SensorSpec};
use homeostat::model::ports::Actions;
use homeostat::model::{Action, HumanDuration, OutcomeStatus};
use homeostat::service::handle::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bridge::{errors, free, reads, set, start, start_with};
use super::support::*;

const BOTH: [(&str, u32); 2] = [("C1", 1), ("C2", 1)];

fn ms(ms: u64) -> HumanDuration {
    HumanDuration(Duration::from_millis(ms))
}

fn policy(weights: &[(&str, u32)]) -> PortPolicy {
    PortPolicy {
        named: Some("C1".into()),
        candidates: vec!["C1".into(), "C2".into()],
        weights: weights.iter().map(|(name, weight)| ((*name).into(), *weight)).collect(),
        ..PortPolicy::default()
    }
}

/// A reference of `user` that names C1, and has C2 as another candidate.
struct Stage {
    membrane: Membrane,
    connectors: Connectors,
    port: SocketAddr,
    user: Arc<str>,
}

impl Stage {
    fn new(c1: SocketAddr, c2: SocketAddr, policy: PortPolicy) -> Self {
        let connectors = Connectors::new();
        let membrane = Membrane::new(&connectors, limits());
        let services =
            [unserved("user"), served("C1", None, &c1.to_string()), served("C2", None, &c2.to_string())];
        assert!(membrane.set_services(services).is_empty());
        let user: Arc<str> = "user".into();
        membrane.set_ports(&user, vec![Port { policy: Arc::new(policy), ..port(Some("C1")) }]);
        let port = membrane.port_address("user", "r").unwrap();
        Self { membrane, connectors, port, user }
    }

    fn set(&self, to: &str, policy: PortPolicy) {
        self.membrane.set_ports(&self.user, vec![Port { policy: Arc::new(policy), ..port(Some(to)) }]);
    }

    async fn lead(&self, to: &str) {
        let said = self.membrane.lead(&self.user, &[("r".into(), Some(to.into()))]).await;
        assert_eq!(said, Ok(String::new()));
    }

    fn candidates(&self) -> Vec<CandidateStatus> {
        self.membrane.candidates("user", "r").unwrap()
    }

    fn standings(&self) -> [Standing; 2] {
        let all = self.candidates();
        [all[0].standing, all[1].standing]
    }

    fn failures(&self, kind: FailureKind) -> u64 {
        self.membrane.port_meter("user", "r").unwrap().failures(kind)
    }

    /// Who answers so many calls, one after the other.
    async fn answers(&self, count: usize) -> String {
        let mut all = String::new();
        for _ in 0..count {
            let (status, text) = get(self.port, "/").await;
            all += if status == 200 { &text[1..] } else { "-" };
        }
        all
    }
}

/// A service whose health and manners can be changed.
#[derive(Default)]
struct Moody {
    name: String,
    /// It answers checks and calls with 503.
    ill: AtomicBool,
    /// It answers calls with 500, and checks well.
    failing: AtomicBool,
    /// It reads calls and hangs up.
    rude: AtomicBool,
    calls: AtomicUsize,
    checks: AtomicUsize,
}

impl Moody {
    async fn start(name: &str) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::new(Self { name: name.into(), ..Self::default() });
        let serving = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = serving.clone();
                tokio::spawn(async move { service.serve(stream).await });
            }
        });
        (service, address)
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut head = Vec::new();
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            let check = head.starts_with(b"GET /healthz ");
            let (count, bad) = match check {
                true => (&self.checks, self.ill.load(Ordering::SeqCst)),
                false => {
                    (&self.calls, self.ill.load(Ordering::SeqCst) || self.failing.load(Ordering::SeqCst))
                }
            };
            count.fetch_add(1, Ordering::SeqCst);
            if !check && self.rude.load(Ordering::SeqCst) {
                return Ok(());
            }
            let status = if bad { "500 Bad" } else { "200 OK" };
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{}", self.name);
            stream.write_all(text.as_bytes()).await?;
        }
    }
}

async fn two() -> (Arc<Moody>, SocketAddr, Arc<Moody>, SocketAddr) {
    let (c1, a1) = Moody::start("C1").await;
    let (c2, a2) = Moody::start("C2").await;
    (c1, a1, c2, a2)
}

/// Sends one request on an open connection, and reads its answer of two bytes.
async fn ask(client: &mut TcpStream, request: &[u8]) -> (u16, String) {
    client.write_all(request).await.unwrap();
    let mut heard = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&heard);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() == 2
        {
            return (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string());
        }
        assert!(client.read_buf(&mut heard).await.unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";

// ---- shares --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn calls_are_shared_by_weight_to_the_call_whatever_connection_they_come_on() {
    let (c1, a1) = Service::start("C1").await;
    let (c2, a2) = Service::start("C2").await;
    let stage = Stage::new(a1, a2, policy(&[("C1", 9), ("C2", 1)]));
    assert_eq!(stage.answers(20).await.matches('2').count(), 2);
    let mut client = TcpStream::connect(stage.port).await.unwrap();
    let before = (c1.connections.load(Ordering::SeqCst), c2.connections.load(Ordering::SeqCst));
    for _ in 0..80 {
        assert_eq!(ask(&mut client, GET).await.0, 200);
    }
    assert_eq!((c1.requests.load(Ordering::SeqCst), c2.requests.load(Ordering::SeqCst)), (90, 10));
    let after = (c1.connections.load(Ordering::SeqCst), c2.connections.load(Ordering::SeqCst));
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1), "one to each, kept open");
    let told: Vec<_> = stage.candidates().into_iter().map(|c| (c.service, c.weight, c.calls)).collect();
    assert_eq!(told, [("C1".into(), Some(9), 90), ("C2".into(), Some(1), 10)]);
}

/// Requirement: R3-19, R3-62
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_action_binds_gets_all_calls_alone_and_going_back_shares_them_again_and_none_fails() {
    let (c1, a1, c2, a2) = two().await;
    let stage = Stage::new(a1, a2, policy(&BOTH));
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = |fresh: bool| {
        let (stop, asked, port) = (stop.clone(), asked.clone(), stage.port);
        tokio::spawn(async move {
            let mut client = TcpStream::connect(port).await.unwrap();
            while !stop.load(Ordering::SeqCst) {
                if fresh {
                    client = TcpStream::connect(port).await.unwrap();
                }
                assert_eq!(ask(&mut client, GET).await.0, 200);
                asked.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let clients = [load(true), load(false), load(false)];
    let more = || async {
        let before = asked.load(Ordering::SeqCst);
        until("more calls", || asked.load(Ordering::SeqCst) >= before + 20).await;
    };
    for round in 0..30 {
        stage.lead("C2").await;
        let (one, two) = (c1.calls.load(Ordering::SeqCst), c2.calls.load(Ordering::SeqCst));
        more().await;
        assert_eq!(c1.calls.load(Ordering::SeqCst), one, "a call reached C1 in round {round}");
        assert!(c2.calls.load(Ordering::SeqCst) >= two + 17, "but for those that were counted before");
        stage.lead("C1").await;
        let (one, two) = (c1.calls.load(Ordering::SeqCst), c2.calls.load(Ordering::SeqCst));
        more().await;
        assert!(c1.calls.load(Ordering::SeqCst) >= one + 8 && c2.calls.load(Ordering::SeqCst) >= two + 8);
        // A reload changes the shares, and then changes them back.
        stage.set("C1", policy(&[("C1", 1), ("C2", 0)]));
        let two = c2.calls.load(Ordering::SeqCst);
        more().await;
        assert!(c2.calls.load(Ordering::SeqCst) <= two + 3, "only those that were on their way");
        stage.set("C1", policy(&BOTH));
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(stage.membrane.port_meter("user", "r").unwrap().whole().errors(), 0);
}

// ---- sent again ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_call_that_cannot_reach_one_candidate_is_sent_to_another_if_it_is_idempotent() {
    let (_c2, a2) = Service::start("C2").await;
    let nobody = free();
    let stage = Stage::new(nobody, a2, PortPolicy { retries: 1, ..policy(&BOTH) });
    assert_eq!(stage.answers(6).await, "222222");
    let put = b"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody";
    let post = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody";
    for _ in 0..4 {
        let mut client = TcpStream::connect(stage.port).await.unwrap();
        assert_eq!(ask(&mut client, put).await.0, 200, "a body that was not sent yet is no obstacle");
    }
    let mut refused = 0;
    for _ in 0..4 {
        let mut client = TcpStream::connect(stage.port).await.unwrap();
        client.write_all(post).await.unwrap();
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.unwrap();
        refused += usize::from(answer == b"HTTP/1.1 502");
    }
    assert_eq!((refused, stage.failures(FailureKind::Unreachable)), (2, 2));
    stage.set("C1", policy(&BOTH));
    assert_eq!(
        stage.answers(4).await.matches('-').count(),
        2,
        "without retries, the half that goes to nobody fails"
    );
}

#[tokio::test]
async fn a_call_that_is_not_answered_is_sent_again_only_if_that_cannot_do_harm() {
    let (c1, a1, c2, a2) = two().await;
    c1.rude.store(true, Ordering::SeqCst);
    let stage = Stage::new(a1, a2, PortPolicy { retries: 2, ..policy(&[("C1", 1), ("C2", 0)]) });
    assert_eq!(stage.answers(3).await, "222");
    assert_eq!((c1.calls.load(Ordering::SeqCst), c2.calls.load(Ordering::SeqCst)), (3, 3));
    for risky in [
        &b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"[..],
        b"PATCH / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
    ] {
        let answer = talk(stage.port, &[Step::Send(risky), Step::End]).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
    assert_eq!(
        (c1.calls.load(Ordering::SeqCst), c2.calls.load(Ordering::SeqCst)),
        (6, 3),
        "C2 has seen none of them"
    );
    // With nobody else, it is the same one again, so many times.
    stage.set("C2", PortPolicy { retries: 2, ..policy(&[]) });
    c2.rude.store(true, Ordering::SeqCst);
    let (status, why) = get(stage.port, "/").await;
    assert!(status == 502 && c2.calls.load(Ordering::SeqCst) == 6, "{status} {why}");
    assert_eq!(stage.failures(FailureKind::BrokenOff), 4);
}

#[tokio::test]
async fn plain_tcp_connects_to_another_candidate() {
    let nobody = free();
    let (c2, a2) = Service::start("C2").await;
    let (membrane, user) = (Membrane::new(&Connectors::new(), limits()), "user".into());
    let tcp = |name: &str, at: SocketAddr| served(name, None, &format!("tcp://{at}"));
    membrane.set_services([unserved("user"), tcp("C1", nobody), tcp("C2", a2)]);
    let policy = Arc::new(PortPolicy { retries: 1, ..policy(&BOTH) });
    membrane.set_ports(&user, vec![Port { policy, ..port(Some("C1")) }]);
    for _ in 0..4 {
        let mut client = TcpStream::connect(membrane.port_address("user", "r").unwrap()).await.unwrap();
        assert_eq!(ask(&mut client, GET).await, (200, "C2".into()));
    }
    assert_eq!(c2.requests.load(Ordering::SeqCst), 4);
}

// ---- limits --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_response_timeout_counts_from_the_end_of_the_request() {
    let (service, a1) = Service::start("C1").await;
    let (_c2, a2) = Service::start("C2").await;
    let limits = LimitsSpec { response_timeout: Some(ms(150)), ..LimitsSpec::default() };
    let stage = Stage::new(a1, a2, PortPolicy { limits, ..policy(&[]) });
    let (status, why) = get(stage.port, "/slow").await;
    assert!(status == 504 && why.contains("within 150ms"), "{status} {why}");
    assert_eq!(stage.failures(FailureKind::ResponseTimeout), 1);
    let mut client = TcpStream::connect(stage.port).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbo").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        ask(&mut client, b"dy").await,
        (200, "C1".into()),
        "the client took its time, not the service"
    );
    // A reload changes it for connections that are open.
    stage.set("C1", policy(&[]));
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    service.release.notify_waiters();
    assert_eq!(ask(&mut client, b"").await.0, 200);
}

#[tokio::test]
async fn a_client_that_stalls_within_a_body_is_told_and_the_service_is_let_go() {
    let (_service, address) = Service::start("C1").await;
    let membrane = Membrane::new(&Connectors::new(), limits());
    let slow = LimitsSpec { body_timeout: Some(ms(700)), ..LimitsSpec::default() };
    membrane.set_services([homeostat::membrane::Served {
        limits: slow,
        ..served("it", any(), &address.to_string())
    }]);
    let (front, meter) = (membrane.address("it").unwrap(), membrane.meter("it"));
    let half = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf";
    let answer = talk(front, &[Step::Send(half), Step::End]).await;
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("no more of the body came within 700ms"),
        "{answer}"
    );
    assert_eq!((meter.failures(FailureKind::SlowClient), meter.whole().errors()), (1, 0));
    until("the call to be over", || meter.whole().in_flight() == 0).await;
    // Pauses that are shorter than that are no matter, however long the whole takes.
    let mut client = TcpStream::connect(front).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 8\r\n\r\n").await.unwrap();
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.write_all(b"x").await.unwrap();
    }
    assert_eq!(ask(&mut client, b"x").await, (200, "C1".into()));
    assert_eq!(get(front, "/").await, (200, "C1".into()));
}

#[tokio::test]
async fn clients_beyond_the_limit_of_connections_wait_until_one_leaves() {
    let (service, address) = Service::start("C1").await;
    let membrane = Membrane::new(&Connectors::new(), limits());
    let limited = |max_connections| {
        let limits = LimitsSpec { max_connections: Some(max_connections), ..LimitsSpec::default() };
        homeostat::membrane::Served { limits, ..served("it", any(), &address.to_string()) }
    };
    membrane.set_services([limited(2)]);
    let front = membrane.address("it").unwrap();
    let (mut one, mut two) =
        (TcpStream::connect(front).await.unwrap(), TcpStream::connect(front).await.unwrap());
    assert_eq!((ask(&mut one, GET).await.0, ask(&mut two, GET).await.0), (200, 200));
    let third = tokio::spawn(get(front, "/"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!third.is_finished() && service.requests.load(Ordering::SeqCst) == 2, "it is not let in");
    assert_eq!(ask(&mut one, GET).await.0, 200, "who is inside is served");
    drop(two);
    assert_eq!(third.await.unwrap(), (200, "C1".into()));
    // More room by a reload: nobody has to leave.
    let (mut more, fourth) = (TcpStream::connect(front).await.unwrap(), tokio::spawn(get(front, "/")));
    assert_eq!(ask(&mut more, GET).await.0, 200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!fourth.is_finished());
    membrane.set_services([limited(3)]);
    assert_eq!(fourth.await.unwrap().0, 200);
}

// ---- able to work --------------------------------------------------------------------------------------------------

fn health(path: Option<&str>) -> Option<HealthSpec> {
    Some(HealthSpec {
        path: path.map(Into::into),
        tcp: path.is_none(),
        every: Some(ms(20)),
        timeout: Some(ms(500)),
        fall: Some(3),
        rise: Some(2),
    })
}

#[tokio::test]
async fn who_fails_its_checks_gets_no_calls_until_it_passes_them_again() {
    let (c1, a1, c2, a2) = two().await;
    let stage = Stage::new(a1, a2, PortPolicy { health: health(Some("/healthz")), ..policy(&BOTH) });
    let mut news = stage.membrane.news();
    until("both to be healthy", || stage.standings() == [Standing::Healthy; 2]).await;
    assert_eq!(stage.answers(4).await.matches('1').count(), 2);
    c1.ill.store(true, Ordering::SeqCst);
    let before = c1.checks.load(Ordering::SeqCst);
    until("C1 to be unhealthy", || stage.standings() == [Standing::Unhealthy, Standing::Healthy]).await;
    assert!(c1.checks.load(Ordering::SeqCst) >= before + 3, "three checks in a row");
    let reason = stage.candidates().remove(0).reason.unwrap();
    assert_eq!(reason, "GET /healthz is answered with 500");
    let calls = c1.calls.load(Ordering::SeqCst);
    assert_eq!(stage.answers(6).await, "222222");
    assert_eq!(c1.calls.load(Ordering::SeqCst), calls);
    // When nobody is able, calls are tried all the same.
    c2.ill.store(true, Ordering::SeqCst);
    until("C2 to be unhealthy", || stage.standings() == [Standing::Unhealthy; 2]).await;
    assert_eq!(stage.answers(4).await, "----");
    assert!(c1.calls.load(Ordering::SeqCst) == calls + 2);
    c1.ill.store(false, Ordering::SeqCst);
    until("C1 to be healthy", || stage.standings() == [Standing::Healthy, Standing::Unhealthy]).await;
    assert_eq!(stage.answers(6).await, "111111");
    let mut told = Vec::new();
    while let Ok(news) = news.try_recv() {
        assert_eq!(&*news.service, "user");
        told.push(news.text);
    }
    for expected in [
        "reference `r`: `C1` is unhealthy: GET /healthz is answered with 500",
        "reference `r`: `C2` is unhealthy: GET /healthz is answered with 500",
        "reference `r`: `C1` is healthy",
    ] {
        assert!(told.iter().any(|t| t == expected), "{expected}: {told:?}");
    }
    // What an action binds alone gets the calls, whatever is known of it.
    stage.lead("C2").await;
    assert_eq!(stage.answers(2).await, "--");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_no_healthy_candidate_and_planners_can_read_how_many_are() {
    let (_c2, a2) = Service::start("C2").await;
    let c1 = free();
    let stage = Stage::new(c1, a2, PortPolicy { health: health(None), ..policy(&BOTH) });
    until("the first check", || stage.standings() == [Standing::Unhealthy, Standing::Healthy]).await;
    assert_eq!(stage.answers(4).await, "2222");
    let spec = serde_json::from_str::<SensorSpec>(
        r#"{ "proxy": { "what": "healthy", "reference": "r", "every": "1s" } }"#,
    );
    let Ok(BuiltSensor::Polled(mut sensor)) = stage.connectors.sensor("user", "able", &spec.unwrap()) else {
        panic!("no polled sensor")
    };
    let read = sensor.read().await.unwrap();
    let read: Vec<_> = read.into_iter().map(|m| (m.label.as_deref().map(str::to_string), m.value)).collect();
    assert_eq!(read, [(None, 1.0), (Some("C1".into()), 0.0), (Some("C2".into()), 1.0)]);
    let _c1 = TcpListener::bind(c1).await.unwrap();
    until("C1 to be healthy", || stage.standings() == [Standing::Healthy; 2]).await;
    assert_eq!(sensor.read().await.unwrap()[0].value, 2.0);
    // Without checks nothing is known, and both may get calls.
    stage.set("C1", policy(&BOTH));
    assert_eq!(stage.standings(), [Standing::Unchecked; 2]);
}

#[tokio::test]
async fn errors_in_a_row_take_a_candidate_out_for_a_time_that_grows_but_never_the_last() {
    let (c1, a1, c2, a2) = two().await;
    let eject = Eject { errors: 3, time: ms(300), most: 50 };
    let stage = Stage::new(a1, a2, PortPolicy { eject: Some(eject), ..policy(&BOTH) });
    let mut news = stage.membrane.news();
    c1.failing.store(true, Ordering::SeqCst);
    assert_eq!(stage.answers(6).await.matches('-').count(), 3);
    assert_eq!(stage.standings(), [Standing::Ejected, Standing::Unchecked]);
    assert_eq!(stage.answers(6).await, "222222");
    // The other one may fail as often as it likes.
    c2.failing.store(true, Ordering::SeqCst);
    assert_eq!(stage.answers(5).await, "-----");
    assert_eq!(stage.standings(), [Standing::Ejected, Standing::Unchecked]);
    c2.failing.store(false, Ordering::SeqCst);
    assert_eq!(stage.answers(1).await, "2");
    until("C1 to be back", || stage.standings() == [Standing::Unchecked; 2]).await;
    // It fails again at once: out for twice as long.
    until("C1 to be out again", || {
        let port = stage.port;
        tokio::spawn(get(port, "/"));
        stage.standings()[0] == Standing::Ejected
    })
    .await;
    c1.failing.store(false, Ordering::SeqCst);
    until("C1 to be back", || stage.standings()[0] == Standing::Unchecked).await;
    assert_eq!(stage.answers(4).await.matches('1').count(), 2);
    let mut told = Vec::new();
    while let Ok(news) = news.try_recv() {
        told.push(news.text.trim_start_matches("reference `r`: ").to_string());
    }
    let expected = [
        "`C1` is out for 300ms: 3 errors in a row",
        "`C1` gets calls again",
        "`C1` is out for 600ms: 3 errors in a row",
        "`C1` gets calls again",
    ];
    assert_eq!(told, expected);
}

// ---- in policies ---------------------------------------------------------------------------------------------------

fn shop(port: SocketAddr, a1: SocketAddr, a2: SocketAddr, weights: &str) -> String {
    format!(
        "
service: A
references:
  payment:
    service: C1
    candidates: [C2]
    listen: '{port}'
    weights: {weights}
    retries: 1
    limits: {{ connect_timeout: 1s, response_timeout: 2s }}
    health: {{ path: /healthz, every: 20ms, fall: 1, rise: 1 }}
    eject: {{ errors: 3, for: 1s, most: 50% }}
monitor:
  sensors:
    able:  {{ proxy: {{ what: healthy, reference: payment, every: 20ms }} }}
    calls: {{ proxy: {{ what: requests, reference: payment, every: 20ms }} }}
execute: {{}}
---
service: C1
endpoint: {a1}
---
service: C2
endpoint: {a2}
"
    )
}

/// Requirement: R3-19, R3-62
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_shares_calls_actions_bind_one_alone_and_a_reload_changes_the_shares() {
    let (c1, a1, c2, a2) = two().await;
    let port = free();
    let supervisor = start(&shop(port, a1, a2, "{ C1: 3, C2: 1 }"), &[port]).await;
    let a = Handle::new(supervisor.clone(), "A");
    reads(&a, "able", |n| n == 2.0).await;
    let counts = || (c1.calls.load(Ordering::SeqCst), c2.calls.load(Ordering::SeqCst));
    let calls = |n: usize| async move {
        for _ in 0..n {
            assert_eq!(get(port, "/").await.0, 200);
        }
    };
    calls(8).await;
    assert_eq!(counts(), (6, 2));
    reads(&a, "calls", |n| n == 8.0).await;
    let replace = |from: &str, to: &str| Action::Replace { service: None, from: from.into(), to: to.into() };
    assert_eq!(a.send_action(replace("C1", "C2")).await.unwrap().status, OutcomeStatus::Done);
    calls(8).await;
    assert_eq!(counts(), (6, 10));
    assert_eq!(a.send_action(replace("C2", "C1")).await.unwrap().status, OutcomeStatus::Done);
    calls(8).await;
    assert_eq!(counts(), (12, 12));
    supervisor.apply(set(&shop(port, a1, a2, "{ C1: 1, C2: 1 }")), &[]).await.unwrap();
    let evenly = || async {
        let shares = supervisor.service("A").await.unwrap().references["payment"].traffic.clone();
        shares.iter().map(|c| c.weight).collect::<Vec<_>>() == [Some(1), Some(1)]
    };
    while !evenly().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    calls(8).await;
    assert_eq!(counts(), (16, 16));
    let mut events = supervisor.shell().events();
    c2.ill.store(true, Ordering::SeqCst);
    reads(&a, "able", |n| n == 1.0).await;
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert_eq!((event.phase.as_str(), event.service.as_deref()), ("membrane", Some("A")));
    assert!(event.text.contains("`C2` is unhealthy"), "{}", event.text);
    let traffic = supervisor.service("A").await.unwrap().references["payment"].traffic.clone();
    assert_eq!((traffic[1].standing, traffic[1].calls), (Standing::Unhealthy, 16));
    let before = counts();
    calls(4).await;
    assert_eq!(counts(), (before.0 + 4, before.1));
}

#[test]
fn every_mistake_about_calls_is_told_with_its_place_and_what_would_be_right() {
    let one = |lines: &str| {
        format!(
            "service: A\nreferences:\n  r:\n    service: C1\n    candidates: [C2]\n    listen: 127.0.0.1:7101\n{lines}\n---\nservice: C1\nendpoint: 127.0.0.1:1\n---\nservice: C2\nendpoint: tcp://127.0.0.1:2\n"
        )
    };
    for (lines, place, expected) in [
        ("    weights: { C1: 1, C3: 1 }", 7, "`C3` has a weight, but is no candidate"),
        ("    weights: { C2: 1 }", 7, "`C1`, which the reference names, has no weight"),
        ("    weights: { C1: 0, C2: 0 }", 7, "all weights are 0"),
        ("    weights: { C1: 20000 }", 7, "expected at most 10000"),
        ("    retries: 11", 7, "11 retries are too many; expected at most 10"),
        ("    limits: { max_connections: 0 }", 7, "expected at least 1"),
        ("    limits: { connect_timeout: 0s }", 7, "expected more than nothing"),
        ("    health: { every: 1s }", 7, "expected `path: /healthz`, or `tcp: true`"),
        ("    health: { path: healthz, tcp: true }", 7, "both `path` and `tcp` are given"),
        ("    health: { tcp: true, fall: 0 }", 7, "expected at least 1"),
        ("    health: { path: /healthz }", 7, "`C2`: `/healthz` cannot be asked for at tcp://127.0.0.1:2"),
        ("    eject: { errors: 0 }", 7, "expected at least 1"),
        ("    eject: { most: 200% }", 7, "`200%` is no share of the candidates"),
        ("    replace: { start: true }", 7, "homeostat runs none of the candidates"),
        ("limits: { max_connections: 5 }", 7, "the port in front of the service, and it has none"),
        ("monitor: { sensors: { n: { proxy: { what: healthy } } } }", 7, "say which: `reference: NAME`"),
        (
            "monitor: { sensors: { n: { proxy: { what: requests, reference: rr } } } }",
            7,
            "the service has no reference `rr`",
        ),
    ] {
        let told = errors(&one(lines)).join("\n");
        assert!(told.contains(expected) && told.contains(&format!("p.yaml:{place}:")), "{lines}: {told}");
    }
    let without = one("    weights: { C1: 1, C2: 1 }").replace("    listen: 127.0.0.1:7101\n", "");
    let told = errors(&without).join("\n");
    assert!(
        told.contains("`weights` is about the calls through a local port") && told.contains("say `listen:"),
        "{told}"
    );
}

// ---- programs ------------------------------------------------------------------------------------------------------

/// A program that is ready after a moment, and answers with its name, at once or (`/slow`) when it is told to end, or after a while.
fn program(name: &str, port: SocketAddr, delay: &str) -> String {
    let script = format!(
        "import http.server, time\n\
         class H(http.server.BaseHTTPRequestHandler):\n\
        \x20 def do_GET(self):\n\
        \x20   if self.path == '/slow': time.sleep(0.6)\n\
        \x20   self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'{name}')\n\
         time.sleep({delay})\n\
         http.server.ThreadingHTTPServer(('127.0.0.1', {}), H).serve_forever()\n",
        port.port()
    );
    let script = serde_json::to_string(&script).unwrap();
    format!(
        "service: {name}\nendpoint: {port}\nprocess:\n  command: [python3, -c, {script}]\n  start: on_demand\n  ready: {{ port: '{port}' }}\n"
    )
}

pub fn programs(port: SocketAddr, a1: SocketAddr, a2: SocketAddr) -> String {
    format!(
        "service: A\nreferences:\n  payment: {{ service: C1, candidates: [C2, C3], listen: '{port}', replace: {{ start: true, stop: true }} }}\nexecute: {{}}\n---\n{}---\n{}---\nservice: C3\nendpoint: 127.0.0.1:1\nprocess: {{ command: [/no/such/program], start: on_demand }}\n",
        program("C1", a1, "0"),
        program("C2", a2, "0.5"),
    )
}

/// Requirement: R3-62
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replace_starts_the_candidate_first_and_stops_the_old_one_after_its_last_call() {
    let (port, a1, a2) = (free(), free(), free());
    let supervisor = start(&programs(port, a1, a2), &[port, a1]).await;
    let state = |name: &str| supervisor.shell().processes().status(name).unwrap().state.to_string();
    until("C1 to be ready", || state("C1") == "running").await;
    assert_eq!(state("C2"), "stopped", "only what is needed runs");
    assert_eq!(get(port, "/").await, (200, "C1".into()));
    let a = Handle::new(supervisor.clone(), "A");
    let replace = |from: &str, to: &str| Action::Replace { service: None, from: from.into(), to: to.into() };

    // What cannot be started is not bound, and calls go where they went.
    let outcome = a.send_action(replace("C1", "C3")).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(
        outcome.detail.contains("`C3` does not start") && outcome.detail.contains("/no/such/program"),
        "{}",
        outcome.detail
    );
    assert_eq!(get(port, "/").await, (200, "C1".into()));

    // Calls all along, and one that takes its time: none fails.
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let calls = tokio::spawn({
        let (stop, asked) = (stop.clone(), asked.clone());
        async move {
            let mut last = String::new();
            while !stop.load(Ordering::SeqCst) {
                let (status, text) = get(port, "/").await;
                assert_eq!(status, 200, "{text}");
                last = text;
                asked.fetch_add(1, Ordering::SeqCst);
            }
            last
        }
    });
    until("calls", || asked.load(Ordering::SeqCst) > 3).await;
    let replacing = tokio::spawn({
        let a = Handle::new(supervisor.clone(), "A");
        let action = replace("C1", "C2");
        async move { a.send_action(action).await.unwrap() }
    });
    let outcome = replacing.await.unwrap();
    assert_eq!(
        (outcome.status, outcome.detail.as_str()),
        (OutcomeStatus::Done, "`C2` was started; `C1` was stopped")
    );
    assert_eq!([state("C1"), state("C2")], ["stopped", "running"]);
    assert_eq!(get(port, "/").await, (200, "C2".into()));

    // Back again, with a call on its way: it ends where it began, and only then is that stopped.
    let slow = tokio::spawn(get(port, "/slow"));
    let meter = supervisor.shell().membrane().port_meter("A", "payment").unwrap();
    until("the slow call", || meter.whole().in_flight() >= 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let outcome = a.send_action(replace("C2", "C1")).await.unwrap();
    assert_eq!(
        (outcome.status, outcome.detail.as_str()),
        (OutcomeStatus::Done, "`C1` was started; `C2` was stopped")
    );
    assert_eq!(slow.await.unwrap(), (200, "C2".into()));
    stop.store(true, Ordering::SeqCst);
    assert_eq!(calls.await.unwrap(), "C1");
    assert_eq!(meter.whole().errors(), 0);
    supervisor.shell().stop(PATIENCE).await;
}

/// Requirement: R3-62
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_program_runs_that_the_reference_was_left_bound_to() {
    let (port, a1, a2) = (free(), free(), free());
    let store = homeostat::knowledge::store::Store::in_memory().unwrap();
    let text = programs(port, a1, a2);
    // Another service leads to C1 as well: that is not stopped while it does.
    let other = free();
    let text =
        format!("{text}---\nservice: B\nreferences: {{ pay: {{ service: C1, listen: '{other}' }} }}\n");
    let first = start_with(&text, &[port, a1], store.clone()).await;
    let a = Handle::new(first.clone(), "A");
    let replace = Action::Replace { service: None, from: "C1".into(), to: "C2".into() };
    let outcome = a.send_action(replace).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Done, "{}", outcome.detail);
    assert_eq!(outcome.detail, "`C2` was started; `C1` runs on: `B.pay` leads there");
    assert_eq!(get(other, "/").await, (200, "C1".into()));
    first.shell().stop(PATIENCE).await;
    assert!([a1, a2].iter().all(|address| std::net::TcpStream::connect(address).is_err()), "all have ended");

    let second = start_with(&text, &[port, a2], store).await;
    assert_eq!(get(port, "/").await, (200, "C2".into()));
    let processes = second.shell().processes().clone();
    assert_eq!(processes.status("C1").unwrap().state.to_string(), "stopped", "nobody needs it");
    second.shell().stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_moves_only_once_the_program_it_is_to_lead_to_is_ready() {
    let (port, a2) = (free(), free());
    let (_c1, a1) = Service::start("C1").await;
    let text = format!(
        "service: A\nreferences: {{ payment: {{ service: C1, candidates: [C2], listen: '{port}' }} }}\nexecute: {{}}\n---\nservice: C1\nendpoint: {a1}\n---\n{}execute: {{}}\n",
        program("C2", a2, "0.5"),
    );
    let supervisor = start(&text, &[port]).await;
    let a = Handle::new(supervisor.clone(), "A");
    let bind = || Action::Bind { service: None, reference: "payment".into(), to: "C2".into() };
    let outcome = a.send_action(bind()).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(outcome.detail.contains("the process of `C2` is stopped"), "{}", outcome.detail);
    assert_eq!(get(port, "/").await, (200, "C1".into()));
    // The action on its way, the program is started: it waits for that.
    let c2 = Handle::new(supervisor.clone(), "C2");
    let starting = tokio::spawn(async move { c2.send_action(Action::Start { service: None }).await });
    let processes = supervisor.shell().processes().clone();
    until("C2 to be starting", || processes.status("C2").unwrap().state.to_string() == "starting").await;
    let outcome = a.send_action(bind()).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Done, "{}", outcome.detail);
    assert_eq!(get(port, "/").await, (200, "C2".into()), "it is ready");
    assert!(starting.await.unwrap().is_ok());
    supervisor.shell().stop(PATIENCE).await;
}

// ---- HTTP/2 --------------------------------------------------------------------------------------------------------

/// Answers over HTTP/2 with its name once it has the whole request; `/never` it does not answer.
pub async fn over_http2(name: &'static str) -> SocketAddr {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(
                move |request: hyper::Request<hyper::body::Incoming>| async move {
                    let never = request.uri().path() == "/never";
                    axum::body::to_bytes(axum::body::Body::new(request.into_body()), usize::MAX).await?;
                    if never {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, axum::Error>(hyper::Response::new(axum::body::Body::from(name)))
                },
            );
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

#[tokio::test]
async fn over_http2_calls_are_shared_sent_again_and_limited_in_the_same_way() {
    use axum::body::Body;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (a1, a2) = (over_http2("C1").await, over_http2("C2").await);
    let limits =
        LimitsSpec { response_timeout: Some(ms(700)), body_timeout: Some(ms(300)), ..LimitsSpec::default() };
    let with = |weights: &[(&str, u32)]| PortPolicy { retries: 1, limits, ..policy(weights) };
    let stage = Stage::new(a1, a2, with(&[("C1", 3), ("C2", 1)]));
    let stream = TcpStream::connect(stage.port).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let call = |method: &str, path: &str, body: Body| {
        let request =
            hyper::Request::builder().method(method).uri(format!("http://t{path}")).body(body).unwrap();
        let mut sender = sender.clone();
        async move {
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            let text = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
            (status, String::from_utf8_lossy(&text).into_owned())
        }
    };
    let mut answers = String::new();
    for _ in 0..8 {
        answers += &call("GET", "/", Body::empty()).await.1[1..];
    }
    assert_eq!(answers.matches('2').count(), 2, "{answers}");
    let (status, why) = call("GET", "/never", Body::empty()).await;
    assert!(status == 504 && why.contains("within 700ms"), "{status} {why}");
    // A body that comes slowly is no fault of the service; one that does not come is one of the client.
    let slowly = futures::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (n < 4).then(|| (Ok::<_, std::convert::Infallible>("x"), n + 1))
    });
    assert_eq!(call("POST", "/", Body::from_stream(slowly)).await.0, 200);
    let never = futures::stream::pending::<Result<&str, std::convert::Infallible>>();
    let (status, why) = call("POST", "/", Body::from_stream(never)).await;
    assert!(status == 408 && why.contains("did not come in time"), "{status} {why}");
    assert_eq!(stage.failures(FailureKind::SlowClient), 1);
    // C1 is gone: calls that may be sent twice go to C2.
    let rude = Moody::start("C1").await;
    rude.0.rude.store(true, Ordering::SeqCst);
    stage.membrane.set_services([
        unserved("user"),
        served("C1", None, &rude.1.to_string()),
        served("C2", None, &a2.to_string()),
    ]);
    for _ in 0..4 {
        assert_eq!(call("GET", "/", Body::empty()).await, (200, "C2".into()));
    }
}

/// Sends calls over one HTTP/2 connection to the port.
async fn calls_over_http2(
    port: SocketAddr,
) -> impl Fn(&str) -> futures::future::BoxFuture<'static, (u16, String)> {
    use axum::body::Body;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let stream = TcpStream::connect(port).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    move |method| {
        let request = hyper::Request::builder().method(method).uri("http://t/").body(Body::empty()).unwrap();
        let mut sender = sender.clone();
        Box::pin(async move {
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            let text = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
            (status, String::from_utf8_lossy(&text).into_owned())
        })
    }
}

#[tokio::test]
async fn over_http2_a_candidate_that_does_not_accept_delays_no_call_to_another() {
    // Its queue is full: whoever connects now waits.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let deaf = full.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&deaf, Duration::from_millis(200)) {
        queue.push(stream);
    }
    let limits = LimitsSpec { connect_timeout: Some(ms(4_000)), ..LimitsSpec::default() };
    let stage =
        Stage::new(deaf, over_http2("C2").await, PortPolicy { limits, ..policy(&[("C1", 1), ("C2", 1)]) });
    let call = calls_over_http2(stage.port).await;
    let slow = tokio::spawn(call("GET"));
    until("the call to C1", || stage.candidates()[0].calls == 1).await;
    let other = tokio::time::timeout(Duration::from_secs(2), call("GET")).await;
    assert_eq!(other.expect("an answer at once"), (200, "C2".into()));
    assert!(!slow.is_finished());
}

#[tokio::test]
async fn over_http2_a_call_is_sent_once_more_when_a_kept_connection_turns_out_to_be_closed() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Hangs up at the second request of each connection.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (count, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
            let hang_up = cut.clone();
            let answer = hyper::service::service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
                let (first, cut) = (count.fetch_add(1, Ordering::SeqCst) == 0, cut.clone());
                async move {
                    if !first {
                        cut.notify_one();
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(axum::body::Body::from("C1")))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                tokio::select! {
                    _ = server.serve_connection(TokioIo::new(stream), answer) => {}
                    () = hang_up.notified() => {}
                }
            });
        }
    });
    let stage = Stage::new(address, address, policy(&[]));
    let call = calls_over_http2(stage.port).await;
    for _ in 0..4 {
        assert_eq!(call("GET").await, (200, "C1".into()));
    }
    assert_eq!(call("POST").await.0, 502, "what may do harm twice is sent once");
}
