//! The connectors at real sockets and programs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::model::connector::{Command, Listener, Sensor, Sink, TookPlace};
use crate::model::{Action, Measurement};

/// An HTTP server that remembers what it was asked and answers as told.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq)]
struct Asked {
    line: String,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start<R: IntoResponse>(answer: impl Fn(&Asked) -> R + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = asked.clone();
        let handler = move |request: Request| {
            let (record, answer) = (record.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.expect("body");
                let line = format!("{} {}", head.method, head.uri);
                let asked = Asked {
                    line,
                    headers: head.headers,
                    body: String::from_utf8(body.to_vec()).expect("text"),
                };
                let answer = answer(&asked).into_response();
                record.lock().expect("lock").push(asked);
                answer
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let task = tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(handler)).await.expect("served");
        });
        Self { url, asked, task }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("lock").clone()
    }

    fn count(&self) -> usize {
        self.asked().len()
    }
}

/// A sink that hands on what it gets.
struct Collect(mpsc::UnboundedSender<Result<f64, String>>);

impl Sink for Collect {
    fn deliver(&self, measurements: Vec<Measurement>) {
        for m in measurements {
            let _ = self.0.send(Ok(m.value));
        }
    }

    fn fail(&self, error: ConnectorError) {
        let _ = self.0.send(Err(error.to_string()));
    }
}

fn build(connectors: &Connectors, spec: Value) -> BuiltSensor {
    let spec: SensorSpec = serde_json::from_value(spec).expect("spec");
    connectors.sensor("C1", "cost", &spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"))
}

fn polled(connectors: &Connectors, spec: Value) -> Box<dyn Sensor> {
    match build(connectors, spec) {
        BuiltSensor::Polled(sensor) => sensor,
        _ => panic!("a polled sensor was wanted"),
    }
}

fn listening(connectors: &Connectors, spec: Value) -> Box<dyn Listener> {
    match build(connectors, spec) {
        BuiltSensor::Listening(listener) => listener,
        _ => panic!("a listening sensor was wanted"),
    }
}

fn effector(connectors: &Connectors, spec: Value) -> Arc<dyn Effector> {
    let spec: EffectorSpec = serde_json::from_value(spec).expect("spec");
    connectors.effector("C2", &spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"))
}

fn set(value: Value) -> Command {
    let action = Action::Set { service: None, property: "threads".into(), value };
    Command { service: "C2".into(), action, key: "A/17/0".into() }
}

async fn error(spec: Value) -> String {
    polled(&Connectors::new(), spec).read().await.expect_err("an error").to_string()
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.local_addr().expect("address").to_string()
}

/// Runs a listener and gives back what it delivers; sends `probe` until something comes, so that the listener is known to listen.
struct Running {
    received: mpsc::UnboundedReceiver<Result<f64, String>>,
    task: tokio::task::JoinHandle<Result<(), ConnectorError>>,
}

impl Running {
    fn start(mut listener: Box<dyn Listener>) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move { listener.listen(Arc::new(Collect(sender))).await });
        Self { received, task }
    }

    async fn next(&mut self) -> Result<f64, String> {
        tokio::time::timeout(Duration::from_secs(10), self.received.recv())
            .await
            .expect("in time")
            .expect("something")
    }

    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Sends once the socket is there: bound sockets refuse a second one at their address.
async fn send(address: &str, text: &str) {
    while std::net::UdpSocket::bind(address).is_ok() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.send_to(text.as_bytes(), address).expect("sent");
}

/// Requirement: R3-11
#[tokio::test]
async fn http_prometheus_exec_and_udp_are_read_by_the_same_call() {
    let server = Server::start(|asked: &Asked| match asked.line.as_str() {
        "GET /stats" => r#"{"cost": 20}"#,
        _ => "# TYPE cost gauge\ncost{service=\"C1\"} 20\n",
    })
    .await;
    let connectors = Connectors::new();
    let url = &server.url;
    let address = free_address();
    for spec in [
        json!({"http": {"url": format!("{url}/stats"), "pointer": "/cost"}}),
        json!({"prometheus": {"url": format!("{url}/metrics"), "series": "cost"}}),
        json!({"exec": {"command": ["echo", "20"]}}),
        json!({"udp": {"listen": address, "key": "cost"}}),
    ] {
        let value = match build(&connectors, spec.clone()) {
            BuiltSensor::Polled(mut sensor) => sensor.read().await.expect("read")[0].value,
            BuiltSensor::Listening(listener) => {
                let mut running = Running::start(listener);
                send(&address, "cost 20").await;
                running.next().await.expect("value")
            }
            BuiltSensor::Passive => panic!("passive"),
        };
        assert_eq!(value, 20.0, "{spec}");
    }
}

/// Requirement: R3-36
#[tokio::test]
async fn a_polled_sensor_asks_once_per_read_and_a_listening_one_never() {
    let server = Server::start(|_: &Asked| "7").await;
    let mut sensor = polled(&Connectors::new(), json!({"http": {"url": server.url}}));
    assert_eq!(server.count(), 0, "building asks nobody");
    for n in 1..=5 {
        assert_eq!(sensor.read().await, Ok(vec![Measurement::value(7.0)]));
        assert_eq!(server.count(), n);
    }
    let push: SensorSpec = serde_json::from_value(json!({"push": {}})).expect("spec");
    assert!(matches!(Connectors::new().sensor("A", "m", &push), Ok(BuiltSensor::Passive)));
}

/// Requirement: R3-59
#[cfg(unix)]
#[tokio::test]
async fn the_same_set_goes_through_http_and_through_a_program() {
    let server = Server::start(|_: &Asked| "ok").await;
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("threads");
    let connectors = Connectors::new();
    let command = set(json!(10));
    let http = json!({"http": {"method": "PUT", "url": format!("{}/config/{{property}}", server.url), "body": "{value}"}});
    let script = r#"printf %s "$2=$3 $HOMEOSTAT_KEY" > "$1"; echo written"#;
    let exec = json!({"exec": {"command": ["sh", "-c", script, "sh", file.display().to_string(), "{property}", "{value}"]}});
    assert_eq!(effector(&connectors, http).perform(&command).await.as_deref(), Ok("200 OK: ok"));
    assert_eq!(effector(&connectors, exec).perform(&command).await.as_deref(), Ok("written"));
    let asked = &server.asked()[0];
    assert_eq!((asked.line.as_str(), asked.body.as_str()), ("PUT /config/threads", "10"));
    assert_eq!(asked.headers["idempotency-key"], "A/17/0");
    assert_eq!(asked.headers["content-type"], "application/json");
    assert_eq!(std::fs::read_to_string(&file).expect("file"), "threads=10 A/17/0");
}

#[tokio::test]
async fn an_http_sensor_says_what_went_wrong_and_where() {
    let server = Server::start(|asked: &Asked| match asked.line.as_str() {
        "GET /busy" => (axum::http::StatusCode::SERVICE_UNAVAILABLE, "come back\nlater".to_string()),
        "GET /moved" => (axum::http::StatusCode::FOUND, String::new()),
        "GET /large" => (axum::http::StatusCode::OK, "1".repeat(2_000_000)),
        _ => (axum::http::StatusCode::OK, r#"{"cost": "much"}"#.to_string()),
    })
    .await;
    let at = |path: &str| json!({"http": {"url": format!("{}{path}", server.url)}});
    let busy = error(at("/busy")).await;
    assert!(busy.ends_with("/busy answered 503 Service Unavailable: come back later"), "{busy}");
    assert!(error(at("/moved")).await.contains("302 Found"));
    assert!(error(at("/large")).await.contains("more than 1048576 bytes"));
    let pointer = json!({"http": {"url": format!("{}/x?token=secret", server.url), "pointer": "/cost"}});
    let text = error(pointer).await;
    assert!(text.contains("at /cost") && text.contains("`much`") && !text.contains("secret"), "{text}");
    let address = free_address();
    let refused = error(json!({"http": {"url": format!("http://user:pass@{address}/stats")}})).await;
    assert!(
        refused.starts_with(&format!("GET http://{address}/stats: ")) && !refused.contains("pass"),
        "{refused}"
    );
}

#[tokio::test]
async fn headers_carry_secrets_that_are_read_at_every_use() {
    let server = Server::start(|_: &Asked| "1").await;
    let dir = tempfile::tempdir().expect("dir");
    let token = dir.path().join("token");
    std::fs::write(&token, "first\n").expect("written");
    let header = format!("Bearer ${{file:{}}}", token.display());
    let mut sensor = polled(
        &Connectors::new(),
        json!({"http": {"url": server.url, "headers": {"authorization": header}}}),
    );
    sensor.read().await.expect("read");
    std::fs::write(&token, "second\n").expect("written");
    sensor.read().await.expect("read");
    let seen: Vec<_> = server.asked().iter().map(|a| a.headers["authorization"].clone()).collect();
    assert_eq!(seen, ["Bearer first", "Bearer second"]);
}

#[tokio::test]
async fn a_read_given_up_closes_its_connection() {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let mut sensor = polled(&Connectors::new(), json!({"http": {"url": url}}));
    let mut asked = [0; 1];
    let mut connection = tokio::select! {
        _ = sensor.read() => panic!("nobody answers"),
        connection = async {
            let (mut connection, _) = listener.accept().await.expect("connected");
            connection.read_exact(&mut asked).await.expect("asked");
            connection
        } => connection,
    };
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end(&mut rest)).await;
    closed.expect("in time").expect("closed");
}

#[tokio::test]
async fn an_http_effector_fills_url_body_and_headers() {
    let server = Server::start(|_: &Asked| "").await;
    let connectors = Connectors::new();
    let url = format!("{}/{{service}}/{{property}}?v={{value}}", server.url);
    let headers = json!({"x-step": "{key}", "content-type": "text/plain"});
    let spec =
        json!({"http": {"method": "patch", "url": url, "body": "{property} is {value}", "headers": headers}});
    assert_eq!(effector(&connectors, spec).perform(&set(json!("a b"))).await.as_deref(), Ok("200 OK"));
    let form = json!({"content-type": "application/x-www-form-urlencoded"});
    let spec = json!({"http": {"url": server.url, "body": "v={value}", "headers": form}});
    effector(&connectors, spec).perform(&set(json!("a&b"))).await.expect("done");
    effector(&connectors, json!({"http": {"url": server.url}}))
        .perform(&set(json!([1])))
        .await
        .expect("done");
    effector(&connectors, json!({"http": {"url": server.url, "method": "DELETE"}}))
        .perform(&set(json!(1)))
        .await
        .expect("done");
    let asked = server.asked();
    assert_eq!(asked[0].line, "PATCH /C2/threads?v=a%20b");
    assert_eq!(
        (asked[0].body.as_str(), asked[0].headers["x-step"].to_str().expect("text")),
        ("threads is a b", "A/17/0")
    );
    assert_eq!(asked[1].body, "v=a%26b");
    assert_eq!(asked[2].body, r#"{"property":"threads","value":[1]}"#);
    assert_eq!((asked[3].line.as_str(), asked[3].body.as_str()), ("DELETE /", ""));
}

#[tokio::test]
async fn an_http_effector_that_fails_carries_status_and_answer() {
    let server = Server::start(|_: &Asked| (axum::http::StatusCode::CONFLICT, "x".repeat(500))).await;
    let spec = json!({"http": {"url": format!("{}/{{property}}", server.url)}});
    let error = effector(&Connectors::new(), spec).perform(&set(json!(1))).await.expect_err("refused");
    let text = error.to_string();
    assert!(
        text.contains("/threads answered 409 Conflict: xxx") && text.matches('x').count() == 200,
        "{text}"
    );
    let spec = json!({"http": {"url": format!("{}/{{size}}", server.url)}});
    let error =
        effector(&Connectors::new(), spec).perform(&set(json!(1))).await.expect_err("no such argument");
    assert!(matches!(&error, ConnectorError::Config(text) if text.contains("`{size}`")), "{error}");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn after_a_crash_the_target_is_asked_whether_it_took_place() {
    let server = Server::start(|_: &Asked| r#"{"threads": 10}"#).await;
    let url = server.url.clone();
    let connectors = Connectors::new();
    let check = json!({"url": format!("{url}/state"), "pointer": "/threads"});
    let http = effector(&connectors, json!({"http": {"url": url, "check": check}}));
    assert_eq!(http.took_place(&set(json!(10))).await, Ok(TookPlace::Yes));
    assert_eq!(http.took_place(&set(json!(11))).await, Ok(TookPlace::No));
    let check = json!({"url": format!("{url}/state"), "pointer": "/threads", "equals": "1{value}"});
    let exec = effector(&connectors, json!({"exec": {"command": ["false"], "check": check}}));
    assert_eq!(exec.took_place(&set(json!(0))).await, Ok(TookPlace::Yes));
    let gone = json!({"url": format!("{url}/state"), "pointer": "/size"});
    let gone = effector(&connectors, json!({"exec": {"command": ["false"], "check": gone}}));
    assert!(gone.took_place(&set(json!(0))).await.expect_err("nothing there").to_string().contains("/size"));
    let blind = effector(&connectors, json!({"exec": {"command": ["false"]}}));
    assert_eq!(blind.took_place(&set(json!(0))).await, Ok(TookPlace::Unknown));
}

#[cfg(unix)]
#[tokio::test]
async fn a_program_can_say_whether_it_took_place() {
    let connectors = Connectors::new();
    let check = json!({"command": ["sh", "-c", "exit $1", "sh", "{value}"]});
    let exec = effector(&connectors, json!({"exec": {"command": ["true"], "check": check}}));
    assert_eq!(exec.took_place(&set(json!(0))).await, Ok(TookPlace::Yes));
    assert_eq!(exec.took_place(&set(json!(1))).await, Ok(TookPlace::No));
    assert!(exec.took_place(&set(json!(2))).await.expect_err("neither").to_string().contains("status 2"));
}

#[cfg(unix)]
#[tokio::test]
async fn an_exec_sensor_reads_the_first_line_or_at_a_pointer() {
    let connectors = Connectors::new();
    let sh = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}});
    let read =
        async |spec| polled(&connectors, spec).read().await.map(|m| m[0].value).map_err(|e| e.to_string());
    assert_eq!(read(sh("echo ' 1.5 '; echo rubbish")).await, Ok(1.5));
    let json = json!({"exec": {"command": ["echo", "{\"q\": [3, 4]}"], "pointer": "/q/1"}});
    assert_eq!(read(json).await, Ok(4.0));
    assert_eq!(read(sh("echo oh dear >&2; exit 4")).await, Err("`sh` exited with status 4: oh dear".into()));
    assert!(read(sh("echo much")).await.expect_err("no number").contains("`much` is no number"));
    assert!(read(sh(":")).await.expect_err("nothing").contains("it is empty"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_nagios_plug_in_gives_its_state_and_a_performance_datum() {
    let connectors = Connectors::new();
    let plugin = |script: &str, label: Option<&str>| {
        let mut spec = json!({"nagios": {"command": ["sh", "-c", script]}});
        if let Some(label) = label {
            spec["nagios"]["perfdata"] = label.into();
        }
        polled(&connectors, spec)
    };
    let values = |found: Result<Vec<Measurement>, ConnectorError>| {
        found.map(|all| {
            all.iter().map(|m| (m.output.as_deref().map(String::from), m.value)).collect::<Vec<_>>()
        })
    };
    let state = |code: f64| (Some("state".to_string()), code);
    let load = "echo \"WARNING | load1=0.7;5;10 'load 5'=1.5s\"; exit 1";
    assert_eq!(values(plugin(load, None).read().await), Ok(vec![(None, 0.7), state(1.0)]));
    assert_eq!(values(plugin(load, Some("load 5")).read().await), Ok(vec![(None, 1.5), state(1.0)]));
    assert_eq!(values(plugin("echo CRITICAL; exit 2", None).read().await), Ok(vec![state(2.0)]));
    assert_eq!(values(plugin("echo 'OK | a=U'", None).read().await), Ok(vec![state(0.0)]));
    let lost = plugin("echo not found >&2; exit 127", None).read().await;
    assert_eq!(lost.expect_err("no plug-in").to_string(), "`sh` exited with status 127: not found");
}

/// Requirement: R3-25
#[tokio::test]
async fn prometheus_series_are_selected_summed_and_split() {
    const PAGE: &str = "requests{code=\"200\",m=\"a\"} 1\nrequests{code=\"200\",m=\"b\"} 2\nrequests{code=\"500\",m=\"a\"} 4\nrequests{code=\"NaN\"} NaN\nbroken NaN\n";
    let server = Server::start(|_: &Asked| PAGE).await;
    let connectors = Connectors::new();
    let spec = |series: &str, by: Option<&str>| {
        let mut spec = json!({"prometheus": {"url": format!("{}/metrics", server.url), "series": series}});
        if let Some(by) = by {
            spec["prometheus"]["by"] = by.into();
        }
        spec
    };
    let found = polled(&connectors, spec("requests", Some("code"))).read().await.expect("read");
    let found: Vec<_> = found.iter().map(|m| (m.label.as_deref(), m.value)).collect();
    assert_eq!(found, [(None, 7.0), (Some("200"), 3.0), (Some("500"), 4.0)]);
    let found = polled(&connectors, spec("requests{m=\"a\"}", None)).read().await.expect("read");
    assert_eq!(found, [Measurement::value(5.0)]);
    for (series, part) in [
        ("requests{m=\"z\"}", "none of the 4 series named `requests` has the labels"),
        ("nothing", "no series is named `nothing`, among 5 samples"),
        ("broken", "every value of `broken` is NaN or infinite"),
    ] {
        let error = polled(&connectors, spec(series, None)).read().await.expect_err(series).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn sensors_of_one_url_join_a_scrape_and_scrape_again_when_it_is_old() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let server =
        Server::start(move |_: &Asked| format!("n {}\n", count.fetch_add(1, Ordering::SeqCst))).await;
    let connectors = Connectors::new();
    let sensor = |every: &str| {
        polled(
            &connectors,
            json!({"prometheus": {"url": format!("{}/metrics", server.url), "series": "n", "every": every}}),
        )
    };
    let (mut a, mut b, mut c) = (sensor("1h"), sensor("1h"), sensor("1h"));
    let (a, b, c) = tokio::join!(a.read(), b.read(), c.read());
    assert_eq!(a, b);
    assert_eq!(b, c);
    assert_eq!(served.load(Ordering::SeqCst), 1);
    let mut hasty = sensor("1us");
    assert_eq!(hasty.read().await, Ok(vec![Measurement::value(1.0)]));
    assert_eq!(hasty.read().await, Ok(vec![Measurement::value(2.0)]));
}

#[tokio::test]
async fn a_label_with_too_many_values_is_refused() {
    let page: String = (0..1001).map(|n| format!("hits{{user=\"{n}\"}} 1\n")).collect();
    let server = Server::start(move |_: &Asked| page.clone()).await;
    let text = error(json!({"prometheus": {"url": server.url, "series": "hits", "by": "user"}})).await;
    assert!(text.contains("label `user` of `hits` has 1001 values"), "{text}");
}

#[tokio::test]
async fn a_bad_exposition_is_named_with_its_line() {
    let server = Server::start(|_: &Asked| "ok 1\nrubbish\n").await;
    let text = error(json!({"prometheus": {"url": server.url, "series": "ok"}})).await;
    assert!(text.contains("line 2: a space is missing"), "{text}");
}

/// Requirement: R3-36
#[tokio::test]
async fn udp_sensors_of_one_address_share_its_socket() {
    let connectors = Connectors::new();
    let address = free_address();
    let mut cost = Running::start(listening(&connectors, json!({"udp": {"listen": address, "key": "cost"}})));
    send(&address, "cost 1").await;
    assert_eq!(cost.next().await, Ok(1.0));
    let mut any = Running::start(listening(&connectors, json!({"udp": {"listen": address}})));
    // The second joins the socket; which of the two the system wakes does not matter.
    let mut probe = 0;
    while any.received.is_empty() {
        send(&address, "probe 5").await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        probe += 1;
        assert!(probe < 5000, "the second listener never heard anything");
    }
    send(&address, "cost 2\nother 3\n").await;
    assert_eq!(cost.next().await, Ok(2.0));
    let mut heard = any.next().await;
    while heard == Ok(5.0) {
        heard = any.next().await;
    }
    assert_eq!((heard, any.next().await), (Ok(2.0), Ok(3.0)));
    cost.stop().await;
    send(&address, "no number at all").await;
    let failed = any.next().await.expect_err("nothing to read");
    assert!(
        failed.contains("no number in the line `no number at all`") && failed.contains("1 bad lines"),
        "{failed}"
    );
    any.stop().await;
    std::net::UdpSocket::bind(&address).expect("the last one closed the socket");
}

#[tokio::test]
async fn statsd_counters_run_on_across_datagrams() {
    let connectors = Connectors::new();
    let address = free_address();
    let mut hits =
        Running::start(listening(&connectors, json!({"statsd": {"listen": address, "key": "hits"}})));
    send(&address, "hits:1|c\nother:5|c").await;
    assert_eq!(hits.next().await, Ok(1.0));
    send(&address, "hits:1|c|@0.25|#a:b\nhits:bad|c\n").await;
    assert_eq!(hits.next().await, Ok(5.0), "a bad line beside a good one is only counted");
    send(&address, "hits:1|x").await;
    assert!(hits.next().await.expect_err("unknown type").contains("2 bad lines"));
}

/// Requirement: R2-04
#[tokio::test]
async fn collectd_and_text_share_a_socket() {
    let connectors = Connectors::new();
    let address = free_address();
    let at = |index: u8| json!({"collectd": {"listen": address, "key": "ada/load/load", "index": index}});
    let mut one = Running::start(listening(&connectors, at(0)));
    let mut two = Running::start(listening(&connectors, at(1)));
    // Host, plugin, type, and two values: 0.5 and 1.5.
    let packet: &[&[u8]] = &[
        b"\x00\x00\x00\x08ada\x00",
        b"\x00\x02\x00\x09load\x00",
        b"\x00\x04\x00\x09load\x00",
        b"\x00\x06\x00\x18\x00\x02\x01\x01",
        &0.5_f64.to_le_bytes(),
        &1.5_f64.to_le_bytes(),
    ];
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    socket.send_to(&packet.concat(), &address).await.expect("sent");
    assert_eq!(one.next().await, Ok(0.5));
    assert_eq!(two.next().await, Ok(1.5));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("address").to_string();
    let mut listener = listening(&Connectors::new(), json!({"udp": {"listen": address}}));
    let (sender, _received) = mpsc::unbounded_channel();
    let error = listener.listen(Arc::new(Collect(sender))).await.expect_err("taken").to_string();
    assert!(error.contains(&format!("cannot listen on udp {address}")), "{error}");
}

#[test]
fn what_cannot_be_built_is_named_with_its_place() {
    let connectors = Connectors::new();
    let spec: SensorSpec = serde_json::from_value(json!({"http": {"url": "nowhere"}})).expect("spec");
    let error = connectors.sensor("C1", "cost", &spec).err().expect("refused").to_string();
    assert!(error.starts_with("sensor `cost` of `C1`: `nowhere` is no URL"), "{error}");
    let spec: EffectorSpec = serde_json::from_value(json!({"custom": {"kind": "valve"}})).expect("spec");
    let error = connectors.effector("C1", &spec).err().expect("unknown").to_string();
    assert!(error.contains("no custom effector of kind `valve` is registered (none is)"), "{error}");
}

#[tokio::test]
async fn a_program_brings_its_own_kinds() {
    struct Constant(f64);
    #[async_trait::async_trait]
    impl Sensor for Constant {
        async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
            Ok(vec![Measurement::value(self.0)])
        }
    }
    let connectors = Connectors::new();
    connectors.register_sensor("constant", |config| match config.as_f64() {
        Some(value) => Ok(BuiltSensor::Polled(Box::new(Constant(value)))),
        None => Err(ConnectorError::Config("config is no number".into())),
    });
    assert!(connectors.clone().knows_sensor("constant") && !connectors.knows_effector("constant"));
    let mut sensor = polled(&connectors, json!({"custom": {"kind": "constant", "config": 3}}));
    assert_eq!(sensor.read().await, Ok(vec![Measurement::value(3.0)]));
    let spec: SensorSpec = serde_json::from_value(json!({"custom": {"kind": "constant"}})).expect("spec");
    let error = connectors.sensor("A", "m", &spec).err().expect("no number").to_string();
    assert_eq!(error, "sensor `m` of `A`: config is no number");
}

#[tokio::test]
async fn the_log_effector_answers_with_its_line() {
    let connectors = Connectors::new();
    let plain = effector(&connectors, json!({"log": {}}));
    assert_eq!(plain.perform(&set(json!(10))).await.as_deref(), Ok("set(threads, 10)"));
    let told = effector(&connectors, json!({"log": {"text": "{service}: {property} to {value}"}}));
    assert_eq!(told.perform(&set(json!("x\ny"))).await.as_deref(), Ok("C2: threads to x y"));
}

/// The examples of the manual, as policies would contain them.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    #[serde(default)]
    sensors: std::collections::BTreeMap<String, SensorSpec>,
    #[serde(default)]
    execute: std::collections::BTreeMap<String, EffectorSpec>,
}

#[test]
fn every_example_of_the_manual_can_be_built() {
    let manual = include_str!("../../docs/connectors.md");
    let connectors = Connectors::new();
    connectors.register_sensor("queue", |_| Ok(BuiltSensor::Passive));
    // The membrane would.
    connectors.register_proxy(|_, _| Ok(BuiltSensor::Passive));
    connectors.register_property(|_, _| Ok(BuiltSensor::Passive));
    connectors.register_effector("valve", |_| Err(ConnectorError::Config("reached".into())));
    let mut kinds = std::collections::BTreeSet::new();
    for block in manual.split("```yaml\n").skip(1) {
        let text = block.split("```").next().expect("a block ends");
        let example: Example = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
        for (name, spec) in &example.sensors {
            connectors.sensor("A", name, spec).unwrap_or_else(|e| panic!("{e}"));
            kinds.insert(format!("sensor {}", spec.protocol()));
        }
        for (name, spec) in &example.execute {
            match connectors.effector("A", spec) {
                Ok(_) => {}
                Err(e) => assert!(e.to_string().ends_with("reached"), "{name}: {e}"),
            }
            kinds.insert(format!("effector {}", spec.protocol()));
        }
    }
    assert_eq!(kinds.len(), 17, "one example of each kind: {kinds:?}");
}

#[tokio::test]
async fn what_accepts_or_echoes_is_reached_and_what_does_not_is_a_value_too() {
    let connectors = Connectors::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let tcp = listener.local_addr().expect("address").to_string();
    let mut sensor = polled(&connectors, json!({"ping": {"tcp": tcp}}));
    let up = sensor.read().await.expect("reached");
    assert_eq!(up[0].value, 1.0);
    assert_eq!(up[1].output.as_deref(), Some("delay"));
    assert!(up[1].value > 0.0 && up[1].value < 1.0, "{up:?}");
    drop(listener);
    let down = sensor.read().await.expect("a value");
    assert_eq!(down.iter().map(|m| m.value).collect::<Vec<_>>(), [0.0]);

    let echo = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let udp = echo.local_addr().expect("address").to_string();
    let mut sensor = polled(&connectors, json!({"ping": {"udp": udp, "size": 64, "max_delay": "200ms"}}));
    let answer = async {
        let mut datagram = [0; 100];
        let (length, from) = echo.recv_from(&mut datagram).await.expect("a datagram");
        echo.send_to(b"something else", from).await.expect("sent");
        echo.send_to(&datagram[..length], from).await.expect("sent");
        length
    };
    let (up, length) = tokio::join!(sensor.read(), answer);
    assert_eq!((up.expect("echoed")[0].value, length), (1.0, 64));
    let silent = sensor.read().await.expect("a value");
    assert_eq!(silent.iter().map(|m| m.value).collect::<Vec<_>>(), [0.0]);

    // A name that leads nowhere is not reached.
    let nowhere = polled(&connectors, json!({"ping": {"tcp": "no.such.host.invalid:1"}}))
        .read()
        .await
        .expect("a value");
    assert_eq!(nowhere.iter().map(|m| m.value).collect::<Vec<_>>(), [0.0]);
    for (spec, why) in [
        (json!({"ping": {}}), "`tcp: HOST:PORT`"),
        (json!({"ping": {"tcp": "a:1", "udp": "a:1"}}), "exclude"),
        (json!({"ping": {"tcp": "a"}}), "HOST:PORT"),
        (json!({"ping": {"tcp": "a:1", "size": 9}}), "goes with `udp`"),
        (json!({"ping": {"udp": "a:1", "size": 7}}), "8 to 65507"),
        (json!({"ping": {"tcp": "a:1", "max_delay": 0}}), "zero"),
    ] {
        let problem = serde_json::from_value::<SensorSpec>(spec).expect("spec").problem().expect("a problem");
        assert!(problem.contains(why), "{problem}");
    }
}

#[test]
fn what_is_wrong_with_a_mail_is_said_before_one_is_sent() {
    let mail = json!({"server": "smtp://127.0.0.1", "from": "a@b", "to": ["c@d"]});
    for (field, value, why) in [
        ("server", json!("127.0.0.1:25"), "smtp://HOST:PORT"),
        ("server", json!("smtp://user:secret@host"), "`user` and `password`"),
        ("from", json!("nobody"), "no mail address"),
        ("to", json!([]), "empty"),
        ("to", json!(["Ops <ops@>"]), "no mail address"),
        ("user", json!("me"), "go together"),
        ("text", json!("{{name}}"), "{name}"),
    ] {
        let mut spec = mail.clone();
        spec[field] = value;
        let spec: EffectorSpec = serde_json::from_value(json!({ "mail": spec })).expect("spec");
        let problem = spec.problem().expect("a problem");
        assert!(problem.contains(why), "{problem}");
    }
    let tls: EffectorSpec =
        serde_json::from_value(json!({"mail": {"server": "smtps://h", "from": "a@b", "to": ["c@d"]}}))
            .expect("spec");
    assert_eq!(Connectors::new().effector("A", &tls).is_ok(), cfg!(feature = "tls"));
}

/// Requirement: R2-37
#[tokio::test]
async fn a_websocket_is_told_each_text_and_closed() {
    use futures::StreamExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
        let mut texts = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            if let Ok(text) = message.to_text()
                && message.is_text()
            {
                texts.push(text.to_string());
            }
        }
        texts
    });
    let spec = serde_json::json!({ "websocket": {
        "url": format!("ws://{address}/"),
        "send": ["!getSnapshot", "!extended { name: ScaleOut, params: [ {tier} , 1 ] }"],
    }});
    let effector = Connectors::new().effector("shop", &serde_json::from_value(spec).unwrap()).unwrap();
    let args = [("tier".to_string(), serde_json::json!("web"))].into();
    let action = Action::Custom { service: None, name: "scale".into(), args };
    let said = effector.perform(&Command { service: "shop".into(), key: "k".into(), action }).await.unwrap();
    assert_eq!(said, "sent 2 message(s)");
    let heard = heard.await.unwrap();
    assert_eq!(heard, ["!getSnapshot", "!extended { name: ScaleOut, params: [ web , 1 ] }"]);
    let gone = effector_to_nobody().await;
    assert!(matches!(gone, Err(ConnectorError::Unreachable(_))), "{gone:?}");
}

async fn effector_to_nobody() -> Result<String, ConnectorError> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec =
        serde_json::json!({ "websocket": { "url": format!("ws://127.0.0.1:{port}/"), "send": ["x"] } });
    let effector = Connectors::new().effector("shop", &serde_json::from_value(spec).unwrap()).unwrap();
    let action = Action::Start { service: None };
    effector.perform(&Command { service: "shop".into(), key: "k".into(), action }).await
}
