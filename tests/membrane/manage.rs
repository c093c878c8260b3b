//! The generic proxy of S4 from outside: a client that knows names and types manages services that know nothing of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use eventsource_stream::Eventsource;
use futures::StreamExt;
use homeostat::connectors::Connectors;
use homeostat::membrane::{Limits, Membrane, Served};
use homeostat::model::connector::BuiltSensor;
use homeostat::model::manage::Manage;
use serde_json::{Value, json};

use super::support::{PATIENCE, Service, any, served, until};

/// A service with an admin endpoint of its own kind.
#[derive(Default)]
struct Admin {
    limit: AtomicI64,
    reads: AtomicUsize,
}

pub(super) async fn listen(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn admin() -> (Arc<Admin>, SocketAddr) {
    let admin = Arc::new(Admin::default());
    admin.limit.store(5, Ordering::SeqCst);
    let read = |State(admin): State<Arc<Admin>>| async move {
        admin.reads.fetch_add(1, Ordering::SeqCst);
        Json(json!({ "pool": { "limit": admin.limit.load(Ordering::SeqCst) } }))
    };
    let set = |State(admin): State<Arc<Admin>>, Json(body): Json<Value>| async move {
        let limit = body["to"].as_i64().unwrap();
        if limit > 100 {
            return (StatusCode::BAD_REQUEST, Json(json!({ "why": "too high" }))).into_response();
        }
        admin.limit.store(limit, Ordering::SeqCst);
        StatusCode::NO_CONTENT.into_response()
    };
    let add = |Json(body): Json<Value>| async move {
        match (body["a"].as_i64(), body["b"].as_i64()) {
            (Some(a), Some(b)) if a >= 0 => Json(json!({ "sum": a + b })).into_response(),
            _ => {
                (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "exception": "negative" }))).into_response()
            }
        }
    };
    let router =
        Router::new().route("/admin", get(read).post(set)).route("/add", post(add)).with_state(admin.clone());
    (admin, listen(router).await)
}

fn admin_spec() -> Value {
    json!({
        "listen": "127.0.0.1:1",
        "properties": {
            "limit": {
                "type": "integer", "settable": true,
                "http": { "url": "/admin", "pointer": "/pool/limit", "set": { "method": "POST", "body": "{\"to\": {value}}" } }
            },
            "version": { "type": "string", "value": "1.2" },
            "path": { "type": "string", "environment": "PATH" }
        },
        "methods": {
            "add": {
                "url": "/add", "pointer": "/sum",
                "params": [{ "name": "a", "type": "integer" }, { "name": "b", "type": "integer" }]
            }
        }
    })
}

fn file_spec(file: &Path) -> Value {
    json!({
        "listen": "127.0.0.1:1",
        "properties": {
            "rate": { "type": "number", "settable": true, "file": { "path": file, "pointer": "/limits/rate" } }
        }
    })
}

pub(super) fn managed(name: &str, endpoint: &str, spec: Value) -> Served {
    let spec = Arc::new(serde_json::from_value(spec).unwrap());
    Served { manage: Some(Manage { listen: any(), spec }), ..served(name, any(), endpoint) }
}

/// A membrane around one service, and where that is managed.
pub(super) fn manage(endpoint: &str, spec: Value) -> (Membrane, SocketAddr) {
    let membrane = Membrane::new(&Connectors::new(), Limits::default());
    assert!(membrane.set_services([managed("it", endpoint, spec)]).is_empty());
    let address = membrane.manage_address("it").unwrap();
    (membrane, address)
}

/// A client that knows nothing of the services.
pub(super) struct Client(pub(super) reqwest::Client, pub(super) SocketAddr);

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self(reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap(), address)
    }

    pub(super) async fn ask(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.0.request(method, format!("http://{}/_mon/{path}", self.1));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(reqwest::Method::GET, path, None).await
    }

    pub(super) async fn value(&self, name: &str) -> Value {
        let (status, answer) = self.get(&format!("properties/{name}")).await;
        assert_eq!(status, 200, "{answer}");
        answer["value"].clone()
    }

    pub(super) async fn set(&self, name: &str, value: Value) -> (u16, Value) {
        self.ask(reqwest::Method::PUT, &format!("properties/{name}"), Some(json!({ "value": value }))).await
    }

    pub async fn invoke(&self, name: &str, params: Value) -> (u16, Value) {
        self.ask(reqwest::Method::POST, &format!("invoke/{name}"), Some(json!({ "params": params }))).await
    }

    pub(super) async fn subscribe(&self, name: &str, wish: Value) -> (u16, Value) {
        self.ask(reqwest::Method::POST, &format!("properties/{name}/subscriptions"), Some(wish)).await
    }

    /// The events of a property: their names and data.
    pub(super) async fn events(
        &self,
        name: &str,
        query: &str,
    ) -> impl futures::Stream<Item = (String, Value)> + Unpin {
        let url = format!("http://{}/_mon/properties/{name}/events?{query}", self.1);
        let answer = self.0.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let events = answer.bytes_stream().eventsource();
        Box::pin(events.map(|e| e.unwrap()).map(|e| (e.event, serde_json::from_str(&e.data).unwrap())))
    }
}

pub(super) async fn next<S: futures::Stream<Item = (String, Value)> + Unpin>(
    events: &mut S,
) -> (String, Value) {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event")
}

/// Somebody who is called back: what he heard, and what he answers.
pub(super) struct Heard {
    pub(super) told: Mutex<Vec<Value>>,
    tries: AtomicUsize,
    /// This many tries are answered with 503 first.
    refuses: usize,
}

pub(super) async fn heard(refuses: usize) -> (Arc<Heard>, String) {
    let heard = Arc::new(Heard { told: Mutex::default(), tries: AtomicUsize::new(0), refuses });
    let told = |State(heard): State<Arc<Heard>>, Json(body): Json<Value>| async move {
        if heard.tries.fetch_add(1, Ordering::SeqCst) < heard.refuses {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        heard.told.lock().unwrap().push(body);
        StatusCode::NO_CONTENT
    };
    let address = listen(Router::new().route("/told", post(told)).with_state(heard.clone())).await;
    (heard, format!("http://{address}/told"))
}

impl Heard {
    pub(super) fn count(&self) -> usize {
        self.told.lock().unwrap().len()
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
pub(super) fn clock() -> Instant {
    Instant::now()
}

fn config(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("config.json");
    std::fs::write(&file, r#"{"limits": {"rate": 1.5}, "other": true}"#).unwrap();
    file
}

/// The same code for any service: what is settable is set to what it is, and read again.
pub async fn look_around(client: &Client) -> Vec<(String, String, bool)> {
    let (status, list) = client.get("properties").await;
    assert_eq!(status, 200);
    let mut found = Vec::new();
    for property in list["properties"].as_array().unwrap() {
        let name = property["name"].as_str().unwrap();
        assert_eq!(client.value(name).await, property["value"]);
        let settable = property["settable"].as_bool().unwrap();
        let (status, _) = client.set(name, property["value"].clone()).await;
        assert_eq!(status, if settable { 200 } else { 409 });
        found.push((name.to_string(), property["type"].as_str().unwrap().to_string(), settable));
    }
    found
}

/// Requirement: R4-01, R4-02, R4-03, R4-06, R4-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_any_management_is_managed_by_a_client_that_does_not_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    let port = super::bridge::free().port().to_string();
    let mut python = std::process::Command::new("python3")
        .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .args([dir.path().to_str().unwrap(), &port])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let endpoint = format!("127.0.0.1:{port}");
    until("it listens", || std::net::TcpStream::connect(&endpoint).is_ok()).await;
    let mut spec = file_spec(&file);
    spec["properties"]["served"] =
        json!({ "type": "object", "http": { "url": "/config.json", "pointer": "/limits" } });
    let (membrane, address) = manage(&endpoint, spec);
    let client = Client::new(address);

    assert_eq!(
        look_around(&client).await,
        [("rate".into(), "number".into(), true), ("served".into(), "object".into(), false)]
    );
    assert_eq!(client.set("rate", json!(2.5)).await.0, 200);
    // What its clients see is another thing from now on, and nothing else in the file is.
    let (_, body) = super::support::get(membrane.address("it").unwrap(), "/config.json").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({ "limits": { "rate": 2.5 }, "other": true }));
    assert_eq!(client.value("served").await, json!({ "rate": 2.5 }));

    // The same code, another service.
    let (_, other) = admin().await;
    let (_other_membrane, other) = manage(&other.to_string(), admin_spec());
    let found = look_around(&Client::new(other)).await;
    assert_eq!(found.iter().filter(|(_, _, settable)| *settable).count(), 1);
    assert_eq!(found.len(), 3);

    let _ = python.kill();
    let _ = python.wait();
    // The service is gone, and says so; what is in its file is still there.
    let (status, problem) = client.get("properties/served").await;
    assert_eq!((status, &problem["type"]), (502, &json!("urn:homeostat:error:unavailable")));
    assert_eq!(client.value("rate").await, json!(2.5));
}

/// Requirement: R4-02, R4-03, R4-04
#[tokio::test]
async fn what_cannot_be_read_set_or_invoked_is_a_problem_that_says_why() {
    let (service, endpoint) = admin().await;
    let (_membrane, address) = manage(&endpoint.to_string(), admin_spec());
    let client = Client::new(address);
    let slug = |(status, problem): (u16, Value)| {
        assert_eq!(problem["status"], status);
        (status, problem["type"].as_str().unwrap().replace("urn:homeostat:error:", ""))
    };
    assert_eq!(slug(client.get("properties/none").await), (404, "no-such-property".into()));
    assert_eq!(slug(client.get("none").await), (404, "no-such-route".into()));
    assert_eq!(slug(client.set("none", json!(1)).await), (404, "no-such-property".into()));
    assert_eq!(slug(client.set("limit", json!("7")).await), (422, "wrong-type".into()));
    assert_eq!(slug(client.set("limit", Value::Null).await), (422, "wrong-type".into()));
    assert_eq!(slug(client.set("version", json!("2")).await), (409, "not-settable".into()));
    assert_eq!(service.limit.load(Ordering::SeqCst), 5);
    let (status, refused) = client.set("limit", json!(101)).await;
    assert_eq!((status, &refused["cause"]["body"]["why"]), (502, &json!("too high")));
    let post = reqwest::Method::POST;
    assert_eq!(slug(client.ask(post.clone(), "properties", Some(json!({}))).await).0, 405);
    assert_eq!(slug(client.ask(post, "properties/limit/subscriptions", None).await).0, 415);

    assert_eq!(client.invoke("add", json!([2, 3])).await, (200, json!({ "result": 5 })));
    assert_eq!(client.invoke("add", json!({ "b": 3, "a": 2 })).await, (200, json!({ "result": 5 })));
    assert_eq!(slug(client.invoke("none", json!([])).await), (404, "no-such-method".into()));
    assert_eq!(slug(client.invoke("add", json!([2])).await), (422, "wrong-type".into()));
    let (status, thrown) = client.invoke("add", json!([-1, 1])).await;
    assert_eq!((status, &thrown["cause"]["status"]), (502, &json!(500)));
    assert_eq!(thrown["cause"]["body"], json!({ "exception": "negative" }));
    let (_, methods) = client.get("methods").await;
    assert_eq!(methods["methods"][0]["params"][1], json!({ "name": "b", "type": "integer" }));

    for (wish, why) in [
        (json!({ "mode": "interval", "callback": "http://h" }), "needs `interval`"),
        (json!({ "mode": "change" }), "`callback` is missing"),
        (json!({ "mode": "change", "interval": "1s", "callback": "http://h" }), "goes with"),
        (json!({ "mode": "change", "callback": "h" }), "no URL"),
    ] {
        let (status, problem) = client.subscribe("limit", wish).await;
        assert!(status == 400 && problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
}

/// Requirement: R4-05, R4-07, R4-08
#[tokio::test]
async fn polling_and_interval_ask_the_service_once_for_each_answer() {
    let (service, endpoint) = admin().await;
    let (_membrane, address) = manage(&endpoint.to_string(), admin_spec());
    let client = Client::new(address);
    for _ in 0..5 {
        assert_eq!(client.value("limit").await, json!(5));
    }
    assert_eq!(service.reads.load(Ordering::SeqCst), 5);

    let mut events = client.events("limit", "mode=interval&interval=40ms&start=20ms&duration=120ms").await;
    let (mut told, mut missed) = (0, 0);
    assert_eq!(next(&mut events).await.0, "subscribed");
    loop {
        match next(&mut events).await {
            (name, data) if name == "value" => {
                assert_eq!((&data["new"], &data["property"]), (&json!(5), &json!("limit")));
                missed += data["missed"].as_u64().unwrap_or(0);
                told += 1;
            }
            (name, _) => break assert_eq!(name, "end"),
        }
    }
    assert_eq!(service.reads.load(Ordering::SeqCst), 5 + told);
    // At 20, 60, 100 and 140 ms; a machine that was busy says what it left out.
    assert_eq!(told as u64 + missed, 4);
    let (_, list) = client.get("properties/limit/subscriptions").await;
    assert_eq!((&list["subscriptions"], &list["delivered"]), (&json!([]), &json!(told)));
}

/// Requirement: R4-09, R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_told_at_once_and_only_when_the_value_differs() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    let (service, endpoint) = Service::start("it").await;
    let (_membrane, address) = manage(&endpoint.to_string(), file_spec(&file));
    let client = Client::new(address);
    let mut events = client.events("rate", "mode=change").await;
    let (name, begun) = next(&mut events).await;
    assert_eq!((name.as_str(), &begun["detection"]), ("subscribed", &json!("notified")));

    let write = |rate: f64| {
        let beside = dir.path().join("beside");
        std::fs::write(&beside, json!({ "limits": { "rate": rate } }).to_string()).unwrap();
        std::fs::rename(&beside, &file).unwrap();
    };
    let mut quickest = Duration::MAX;
    let mut before = json!(1.5);
    for rate in [2.0, 3.0, 4.0] {
        write(before.as_f64().unwrap());
        let begin = clock();
        write(rate);
        let (_, told) = next(&mut events).await;
        quickest = quickest.min(begin.elapsed());
        assert_eq!((&told["old"], &told["new"]), (&before, &json!(rate)));
        assert!(told["timestamp"].as_str().unwrap().ends_with('Z'));
        before = json!(rate);
    }
    // The machine may be busy with something else, but not every time.
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    // What is set through the listener is told as well, once.
    assert_eq!(client.set("rate", json!(5.0)).await.0, 200);
    assert_eq!(next(&mut events).await.1["new"], json!(5.0));
    assert_eq!(client.set("rate", json!(6.0)).await.0, 200);
    let (_, told) = next(&mut events).await;
    assert_eq!((&told["old"], &told["new"]), (&json!(5.0), &json!(6.0)));
    assert_eq!(service.requests.load(Ordering::SeqCst), 0, "nobody asked the service anything");
}

/// Requirement: R4-10
#[tokio::test]
async fn what_says_nothing_by_itself_is_looked_at_and_the_subscription_says_so() {
    let (service, endpoint) = admin().await;
    let (_membrane, address) = manage(&endpoint.to_string(), admin_spec());
    let client = Client::new(address);
    let mut events = client.events("limit", "mode=change").await;
    assert_eq!(next(&mut events).await.1["detection"], "polled");
    service.limit.store(6, Ordering::SeqCst);
    let (_, told) = next(&mut events).await;
    assert_eq!((&told["old"], &told["new"]), (&json!(5), &json!(6)));
    drop(events);
    // Nobody listens, nobody looks.
    let client = &client;
    tokio::time::timeout(PATIENCE, async {
        while client.get("properties/limit/subscriptions").await.1["subscriptions"] != json!([]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it ends with its connection");
    let reads = service.reads.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(service.reads.load(Ordering::SeqCst), reads);
}

/// Requirement: R4-11, R4-12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_subscribers_are_called_back_and_a_dead_one_delays_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (_membrane, address) = manage("127.0.0.1:1", file_spec(&config(dir.path())));
    let client = Client::new(address);
    let (first, first_url) = heard(0).await;
    let (second, second_url) = heard(2).await;
    let (third, third_url) = heard(0).await;
    let (broken, broken_url) = heard(usize::MAX).await;
    // Takes connections, and never answers.
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_url = format!("http://{}/told", dead.local_addr().unwrap());
    let mut ids = Vec::new();
    for url in [&dead_url, &first_url, &second_url, &broken_url, &third_url] {
        let (status, answer) =
            client.subscribe("rate", json!({ "mode": "change", "callback": url, "duration": "1h" })).await;
        assert_eq!((status, &answer["detection"]), (201, &json!("notified")));
        ids.push(answer["id"].as_u64().unwrap());
    }
    assert_eq!(client.set("rate", json!(9)).await.0, 200);
    let begin = clock();
    until("all that live", || [&first, &second, &third].iter().all(|h| h.count() == 1)).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "the dead one has not even timed out");
    let told = first.told.lock().unwrap()[0].clone();
    assert_eq!((&told["property"], &told["old"], &told["new"]), (&json!("rate"), &json!(1.5), &json!(9)));
    assert!(told["timestamp"].is_string());
    assert_eq!(second.tries.load(Ordering::SeqCst), 3);

    // The one who is never able is given up on, with a record.
    let client = &client;
    tokio::time::timeout(PATIENCE, async {
        loop {
            let (_, list) = client.get("properties/rate/subscriptions").await;
            let of = |id: u64| {
                let all = list["subscriptions"].as_array().unwrap();
                all.iter().find(|s| s["id"] == id).unwrap().clone()
            };
            if of(ids[3])["dropped"] == 1 {
                assert_eq!(of(ids[3])["retried"], 4);
                assert_eq!((&of(ids[1])["delivered"], &of(ids[2])["retried"]), (&json!(1), &json!(2)));
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("given up");
    assert_eq!(broken.tries.load(Ordering::SeqCst), 5);
    assert_eq!(broken.count(), 0);

    // Who unsubscribed hears no more.
    let path = format!("properties/rate/subscriptions/{}", ids[1]);
    assert_eq!(client.ask(reqwest::Method::DELETE, &path, None).await.0, 204);
    assert_eq!(client.ask(reqwest::Method::DELETE, &path, None).await.0, 404);
    assert_eq!(client.set("rate", json!(10)).await.0, 200);
    until("the others", || third.count() == 2).await;
    assert_eq!(first.count(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn a_service_is_told_that_its_file_was_changed() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let mut spec = file_spec(&config(dir.path()));
    let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid_file = dir.path().join("pid");
    std::fs::write(&pid_file, format!("{}\n", sleeper.id())).unwrap();
    let (marker, file) = (dir.path().join("told"), spec["properties"]["rate"]["file"].clone());
    for (name, tell) in [
        ("by_signal", json!({ "signal": "usr1", "pid_file": pid_file })),
        ("by_program", json!({ "exec": ["touch", marker] })),
        ("never", json!({ "exec": ["false"] })),
    ] {
        spec["properties"][name] = json!({ "type": "number", "settable": true, "file": file });
        spec["properties"][name]["file"]["tell"] = tell;
    }
    let (_membrane, address) = manage("127.0.0.1:1", spec);
    let client = Client::new(address);
    assert_eq!(client.set("by_signal", json!(2)).await.0, 200);
    assert_eq!(sleeper.wait().unwrap().signal(), Some(rustix::process::Signal::USR1.as_raw()));
    assert_eq!(client.set("by_program", json!(3)).await.0, 200);
    assert!(marker.exists());
    let (status, problem) = client.set("never", json!(4)).await;
    assert!(status == 502 && problem["detail"].as_str().unwrap().contains("not told"), "{problem}");
    assert_eq!(client.value("rate").await, json!(4), "it is set all the same");
}

#[tokio::test]
async fn a_property_is_a_metric_for_who_wants_it() {
    let (service, endpoint) = admin().await;
    let connectors = Connectors::new();
    let membrane = Membrane::new(&connectors, Limits::default());
    membrane.set_services([managed("it", &endpoint.to_string(), admin_spec())]);
    let build = |name: &str| {
        let spec = serde_json::from_value(json!({ "property": name })).unwrap();
        match connectors.sensor("it", "m", &spec).unwrap() {
            BuiltSensor::Polled(sensor) => sensor,
            _ => panic!("it is polled"),
        }
    };
    service.limit.store(42, Ordering::SeqCst);
    assert_eq!(build("limit").read().await.unwrap()[0].value, 42.0);
    assert!(build("version").read().await.is_err_and(|e| e.to_string().contains("no number")));
    assert!(build("none").read().await.is_err_and(|e| e.to_string().contains("no property")));
    let mut sensor = build("limit");
    membrane.set_services([]);
    assert!(sensor.read().await.is_err_and(|e| e.to_string().contains("not managed")));
}

/// Requirement: R3-20, R4-13
#[tokio::test]
async fn management_and_function_do_not_meet() {
    let (service, endpoint) = Service::start("it").await;
    let (membrane, address) = manage(&endpoint.to_string(), admin_spec());
    let front = membrane.address("it").unwrap();
    // Whatever is asked in front is the business of the service.
    assert_eq!(super::support::get(front, "/_mon/properties").await, (200, "it".into()));
    assert_eq!(service.requests.load(Ordering::SeqCst), 1);
    assert_eq!(super::support::get(address, "/").await.0, 404);
    // A page of a stranger whose name leads here is a stranger's (DNS rebinding).
    for (name, value) in [("host", "evil.example"), ("origin", "http://evil.example:8081")] {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = client.get(format!("http://{address}/_mon/properties")).header(name, value).send().await;
        assert_eq!(asked.unwrap().status(), 403, "{name}");
    }
    assert_eq!(super::support::get(address, "/anything").await.0, 404);
    assert_eq!(service.requests.load(Ordering::SeqCst), 1);
    assert!(membrane.stop(Duration::from_secs(5)).await);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn a_new_policy_leaves_the_subscriptions_of_what_it_does_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = file_spec(&config(dir.path()));
    let (membrane, address) = manage("127.0.0.1:1", spec.clone());
    let client = Client::new(address);
    let mut events = client.events("rate", "mode=change").await;
    assert_eq!(next(&mut events).await.0, "subscribed");
    spec["properties"]["more"] = json!({ "type": "boolean", "value": true });
    assert!(membrane.set_services([managed("it", "127.0.0.1:1", spec.clone())]).is_empty());
    assert_eq!(client.value("more").await, json!(true));
    assert_eq!(client.set("rate", json!(3)).await.0, 200);
    assert_eq!(next(&mut events).await.1["new"], json!(3));
    // What is offered otherwise is another thing, and what goes is gone.
    spec["properties"]["rate"]["settable"] = json!(false);
    assert!(membrane.set_services([managed("it", "127.0.0.1:1", spec)]).is_empty());
    assert_eq!(next(&mut events).await.0, "end");
    assert_eq!(client.set("rate", json!(4)).await.0, 409);
    membrane.set_services([]);
    until("the listener closes", || std::net::TcpStream::connect(address).is_err()).await;
}

/// Requirement: R4-01
#[tokio::test]
async fn a_text_of_a_service_is_a_text_though_it_look_like_something_else() {
    let router = Router::new()
        .route("/number", get(|| async { "1.10" }))
        .route("/json", get(|| async { Json(json!("quoted")) }))
        .route("/word", get(|| async { "plain" }));
    let endpoint = listen(router).await;
    let at = |url: &str| json!({ "type": "string", "http": { "url": url } });
    let properties = json!({ "number": at("/number"), "json": at("/json"), "word": at("/word") });
    let (_membrane, address) =
        manage(&endpoint.to_string(), json!({ "listen": "127.0.0.1:1", "properties": properties }));
    let client = Client::new(address);
    for (name, value) in [("number", "1.10"), ("json", "quoted"), ("word", "plain")] {
        assert_eq!(client.value(name).await, json!(value));
    }
}
