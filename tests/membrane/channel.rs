//! Many services, one observer: over one connection, or over one each; by call back, or as events.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use eventsource_stream::Eventsource;
use futures::StreamExt;
use homeostat::connectors::Connectors;
use homeostat::membrane::{Limits, Membrane};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::manage::{Client, managed, next};
use super::support::{PATIENCE, until};

const SERVICES: usize = 12;

/// One call that an observer got.
struct Got {
    connection: usize,
    kind: String,
    id: Option<String>,
    body: Value,
}

/// Who is called back, over HTTP/1.1 or HTTP/2 and nothing else.
struct Observer {
    got: Mutex<Vec<Got>>,
    connections: AtomicUsize,
    /// Every answer takes one.
    answers: Semaphore,
    /// So many calls are answered with 503 first.
    refuses: AtomicUsize,
}

async fn observer(http2: bool, answers: usize, refuses: usize) -> (Arc<Observer>, String) {
    let observer = Arc::new(Observer {
        got: Mutex::default(),
        connections: AtomicUsize::new(0),
        answers: Semaphore::new(answers),
        refuses: AtomicUsize::new(refuses),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = observer.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let observer = serving.clone();
            let connection = observer.connections.fetch_add(1, Ordering::SeqCst);
            let take = service_fn(move |request: Request<hyper::body::Incoming>| {
                let observer = observer.clone();
                async move { Ok::<_, Infallible>(observer.take(connection, request).await) }
            });
            tokio::spawn(async move {
                let stream = TokioIo::new(stream);
                match http2 {
                    true => drop(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(stream, take)
                            .await,
                    ),
                    false => {
                        drop(hyper::server::conn::http1::Builder::new().serve_connection(stream, take).await)
                    }
                }
            });
        }
    });
    (observer, format!("http://{address}/told?by=it"))
}

impl Observer {
    async fn take(&self, connection: usize, request: Request<hyper::body::Incoming>) -> Response<Body> {
        assert_eq!(request.uri().query(), Some("by=it"));
        let slow = request.uri().path() == "/told";
        let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_string());
        let (kind, id) = (header("content-type").unwrap(), header("ce-id"));
        let body = axum::body::to_bytes(Body::new(request.into_body()), usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap();
        self.got.lock().unwrap().push(Got { connection, kind, id, body });
        if slow {
            self.answers.acquire().await.unwrap().forget();
        }
        let refused =
            self.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        Response::builder().status(if refused { 503 } else { 204 }).body(Body::empty()).unwrap()
    }

    /// The connections that carried anything.
    fn used(&self) -> usize {
        self.got.lock().unwrap().iter().map(|g| g.connection).collect::<BTreeSet<_>>().len()
    }

    /// What was told, whether it came alone or with others: service and new value.
    fn told(&self) -> BTreeSet<(String, i64)> {
        let one = |n: &Value| (n["service"].as_str().unwrap().to_string(), n["new"].as_i64().unwrap());
        let got = self.got.lock().unwrap();
        got.iter()
            .flat_map(|got| match &got.body {
                Value::Array(batch) => batch.iter().map(|event| one(&event["data"])).collect(),
                single => vec![one(single)],
            })
            .collect()
    }
}

/// Several services that call when they changed.
fn services() -> (Membrane, Vec<Client>) {
    let membrane = Membrane::new(&Connectors::new(), Limits::default());
    let spec = json!({
        "listen": "127.0.0.1:1",
        "properties": {
            "load": { "type": "integer", "http": { "url": "/load" }, "webhook": {} },
            "name": { "type": "string", "value": "constant" }
        }
    });
    let names: Vec<String> = (0..SERVICES).map(|n| format!("s{n:02}")).collect();
    let all = names.iter().map(|name| managed(name, "127.0.0.1:1", spec.clone()));
    assert!(membrane.set_services(all).is_empty());
    let clients = names.iter().map(|name| Client::new(membrane.manage_address(name).unwrap())).collect();
    (membrane, clients)
}

async fn subscribe(clients: &[Client], url: &str, channel: &str) {
    for client in clients {
        let wish = json!({ "mode": "change", "callback": url, "channel": channel });
        let (status, answer) = client.subscribe("load", wish).await;
        assert_eq!(status, 201, "{answer}");
    }
}

async fn change(clients: &[Client], value: i64) {
    let all = clients.iter().map(|client| async move {
        let (status, _) =
            client.ask(reqwest::Method::POST, "properties/load/changed", Some(json!(value))).await;
        assert_eq!(status, 202);
    });
    futures::future::join_all(all).await;
}

fn expected(values: std::ops::RangeInclusive<i64>) -> BTreeSet<(String, i64)> {
    values.flat_map(|value| (0..SERVICES).map(move |n| (format!("s{n:02}"), value))).collect()
}

/// Requirement: R4-25, R4-26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_share_one_connection_or_have_one_each() {
    let (_membrane, clients) = services();
    let (shared, url) = observer(true, 10_000, 0).await;
    subscribe(&clients, &url, "shared").await;
    let (own, url) = observer(false, 10_000, 0).await;
    subscribe(&clients, &url, "own").await;
    for value in 1..=5 {
        change(&clients, value).await;
        // One after the other, so that no service needs a second connection.
        until("all of this round", || {
            shared.told().len() + own.told().len() == 2 * SERVICES * value as usize
        })
        .await;
    }
    assert_eq!((shared.told(), own.told()), (expected(1..=5), expected(1..=5)));
    assert_eq!(shared.connections.load(Ordering::SeqCst), 1);
    assert_eq!(own.connections.load(Ordering::SeqCst), SERVICES);
    for observer in [&shared, &own] {
        let got = observer.got.lock().unwrap();
        assert!(got.iter().all(|g| g.kind == "application/json" && g.id.is_some()));
    }
}

/// Requirement: R4-25, R4-26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_on_their_way_at_once_on_a_shared_connection() {
    let (_membrane, clients) = services();
    let (observer, url) = observer(true, 1, 0).await;
    subscribe(&clients, &url, "shared").await;
    change(&clients[..1], 1).await;
    until("the first is answered", || observer.answers.available_permits() == 0).await;
    change(&clients[1..], 1).await;
    // None of them is answered yet.
    until("all are there", || observer.told() == expected(1..=1)).await;
    observer.answers.add_permits(10_000);
    assert_eq!(observer.connections.load(Ordering::SeqCst), 1);
}

/// Requirement: R4-25, R4-26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_without_http2_gets_what_waits_as_one_batch() {
    let (_membrane, clients) = services();
    let (observer, url) = observer(false, 0, 0).await;
    subscribe(&clients, &url, "shared").await;
    change(&clients[..1], 1).await;
    until("the first is there", || observer.told().len() == 1).await;
    change(&clients[1..], 1).await;
    // All that came while the first was not answered goes in one call; a late one in one more.
    tokio::time::sleep(Duration::from_millis(100)).await;
    observer.answers.add_permits(10_000);
    until("all are there", || observer.told() == expected(1..=1)).await;
    let got = observer.got.lock().unwrap();
    assert!(got.len() <= 4, "{} calls", got.len());
    assert!(got.iter().all(|g| g.kind == "application/cloudevents-batch+json"));
    let event = &got[0].body[0];
    assert_eq!(
        (&event["specversion"], &event["type"]),
        (&json!("1.0"), &json!("homeostat.property.changed"))
    );
    let events = got.iter().flat_map(|g| g.body.as_array().unwrap());
    let ids: BTreeSet<String> = events.map(|e| format!("{} {}", e["source"], e["id"])).collect();
    assert_eq!(ids.len(), SERVICES, "each is told once");
    drop(got);
    assert_eq!(observer.used(), 1);
}

/// Requirement: R4-12, R4-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_address_of_an_observer_without_http2_delays_no_other() {
    let (_membrane, clients) = services();
    let (observer, url) = observer(false, 0, 0).await;
    subscribe(&clients[..1], &url, "shared").await;
    subscribe(&clients[1..], &url.replace("/told", "/quick"), "shared").await;
    change(&clients[..1], 1).await;
    until("the slow one has its call", || observer.told().len() == 1).await;
    for value in 1..=3 {
        change(&clients[1..], value).await;
        until("the others are told", || observer.told().len() == 1 + value as usize * (SERVICES - 1)).await;
    }
    assert_eq!(observer.answers.available_permits(), 0);
    assert_eq!(observer.used(), 2);
    let got = observer.got.lock().unwrap();
    assert!(
        got.iter().filter(|got| got.body[0]["data"]["service"] == "s00").count() == 1,
        "it is not answered yet"
    );
}

/// Requirement: R4-11, R4-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_tried_again_is_the_same_event() {
    let (_membrane, clients) = services();
    for (http2, channel) in [(true, "shared"), (false, "own")] {
        let (observer, url) = observer(http2, 10_000, 2).await;
        subscribe(&clients[..1], &url, channel).await;
        change(&clients[..1], if http2 { 1 } else { 2 }).await;
        until("the third try", || observer.got.lock().unwrap().len() == 3).await;
        let got = observer.got.lock().unwrap();
        assert!(got.iter().all(|g| g.id == got[0].id && g.id.is_some() && g.body == got[0].body));
    }
}

/// Requirement: R4-12, R4-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_that_is_not_there_delays_no_other_and_is_found_again() {
    let (_membrane, clients) = services();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = gone.local_addr().unwrap();
    drop(gone);
    let (alive, url) = observer(true, 10_000, 0).await;
    subscribe(&clients, &format!("http://{address}/told?by=it"), "shared").await;
    subscribe(&clients, &url, "shared").await;
    change(&clients, 1).await;
    until("the one who is there", || alive.told() == expected(1..=1)).await;
    let (status, problem) = clients[0]
        .subscribe("load", json!({ "mode": "change", "callback": "https://h/x", "channel": "shared" }))
        .await;
    assert!(status == 400 && problem["detail"].as_str().unwrap().contains("http://HOST"), "{problem}");
}

/// Requirement: R4-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_of_events_tells_of_one_service_or_of_all() {
    let (_membrane, clients) = services();
    let stream = async |query: &str| {
        let url = format!("http://{}/_mon/events?{query}", clients[0].1);
        let answer = clients[0].0.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let events = answer.bytes_stream().eventsource();
        Box::pin(
            events.map(|e| e.unwrap()).map(|e| (e.event, serde_json::from_str::<Value>(&e.data).unwrap())),
        )
    };
    let mut all = stream("mode=change&channel=shared").await;
    let mut own = stream("mode=change").await;
    let begun = next(&mut all).await.1;
    assert_eq!(begun["subscriptions"].as_array().unwrap().len(), SERVICES, "constants never change");
    assert_eq!(begun["subscriptions"][3]["service"], "s03");
    assert_eq!(next(&mut own).await.1["subscriptions"].as_array().unwrap().len(), 1);
    change(&clients, 7).await;
    let mut told = BTreeSet::new();
    for _ in 0..SERVICES {
        let (_, value) = next(&mut all).await;
        told.insert((value["service"].as_str().unwrap().to_string(), value["new"].as_i64().unwrap()));
    }
    assert_eq!(told, expected(7..=7));
    assert_eq!(next(&mut own).await.1["service"], "s00");
    drop((all, own));
    let forgotten = async {
        for client in &clients {
            while client.get("properties/load/subscriptions").await.1["subscriptions"] != json!([]) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("it ends with its connection");
}
