//! Changes that are noticed without looking: by the calls that pass, by the stream of events of the service, by its webhook.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};

use super::manage::{Client, clock, heard, listen, manage, next};
use super::support::{PATIENCE, Step, talk, until};

/// A service with a pool of workers, that tells of changes as the test wants.
struct Pool {
    workers: AtomicI64,
    reads: AtomicUsize,
    /// Whether there is a stream of events.
    streams: AtomicBool,
    told: broadcast::Sender<String>,
    /// Ends the streams that there are.
    cut: Notify,
    last_ids: Mutex<Vec<String>>,
    connected: AtomicUsize,
    /// How often somebody asked for a stream that there was not.
    refused: AtomicUsize,
    /// Whether it can be asked.
    broken: AtomicBool,
}

async fn pool() -> (Arc<Pool>, SocketAddr) {
    let pool = Arc::new(Pool {
        workers: AtomicI64::new(1),
        reads: AtomicUsize::new(0),
        streams: AtomicBool::new(true),
        told: broadcast::channel(16).0,
        cut: Notify::new(),
        last_ids: Mutex::default(),
        connected: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
    });
    let read = |State(pool): State<Arc<Pool>>| async move {
        pool.reads.fetch_add(1, Ordering::SeqCst);
        if pool.broken.load(Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        axum::Json(json!({ "workers": pool.workers.load(Ordering::SeqCst) })).into_response()
    };
    // Whatever the coding of the body, its number of workers stands in a header too, so that this service need not know codings.
    let set = |State(pool): State<Arc<Pool>>, headers: HeaderMap, body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = headers.get("x-workers").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let Some(workers) = body["workers"].as_i64().or(said) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if workers > 100 {
            return StatusCode::CONFLICT.into_response();
        }
        pool.workers.store(workers, Ordering::SeqCst);
        axum::Json(json!({ "now": { "workers": workers } })).into_response()
    };
    let more = |State(pool): State<Arc<Pool>>| async move {
        pool.workers.fetch_add(1, Ordering::SeqCst);
        StatusCode::NO_CONTENT
    };
    let router = Router::new()
        .route("/admin/pool", get(read).put(set).patch(set))
        .route("/more", post(more))
        .route("/large", put(set))
        .route("/events", get(events))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(pool.clone());
    let address = listen(router).await;
    (pool, address)
}

async fn events(State(pool): State<Arc<Pool>>, headers: HeaderMap) -> Response {
    if !pool.streams.load(Ordering::SeqCst) {
        pool.refused.fetch_add(1, Ordering::SeqCst);
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()).unwrap_or_default();
    pool.last_ids.lock().unwrap().push(last.into());
    let told = tokio_stream::wrappers::BroadcastStream::new(pool.told.subscribe());
    pool.connected.fetch_add(1, Ordering::SeqCst);
    let until_cut = {
        let pool = pool.clone();
        async move { pool.cut.notified().await }
    };
    let body = Body::from_stream(told.take_until(Box::pin(until_cut)));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn spec(property: &Value) -> Value {
    let mut workers = json!({ "type": "integer", "http": { "url": "/admin/pool", "pointer": "/workers" } });
    workers.as_object_mut().unwrap().extend(property.as_object().unwrap().clone());
    json!({ "listen": "127.0.0.1:1", "properties": { "workers": workers } })
}

/// One call through the proxy as HTTP/1.1; its answer.
async fn call(front: SocketAddr, line: &str, headers: &str, body: &[u8]) -> String {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    talk(front, &[Step::Send(head.as_bytes()), Step::Send(body), Step::End]).await
}

fn from_request() -> Value {
    json!({ "changed_by": [{ "call": "PUT /admin/pool", "from": "request", "pointer": "/workers" }] })
}

/// Requirement: R4-09, R4-10, R4-15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_in_the_call_that_makes_it_and_nobody_asks() {
    let (service, endpoint) = pool().await;
    let (membrane, address) = manage(&endpoint.to_string(), spec(&from_request()));
    let front = membrane.address("it").unwrap();
    let client = Client::new(address);
    let mut events = client.events("workers", "mode=change").await;
    assert_eq!(next(&mut events).await.1["detection"], "calls");
    let reads = service.reads.load(Ordering::SeqCst);
    assert_eq!(reads, 1, "what it was before");

    // 1, 1, 2, 2, 3 are two changes.
    let mut quickest = Duration::MAX;
    for (value, change) in [(1, None), (1, None), (2, Some(1)), (2, None), (3, Some(2))] {
        let begin = clock();
        let answer =
            call(front, "PUT /admin/pool?a=b", "", json!({ "workers": value }).to_string().as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if let Some(old) = change {
            let (_, told) = next(&mut events).await;
            quickest = quickest.min(begin.elapsed());
            assert_eq!((&told["old"], &told["new"]), (&json!(old), &json!(value)));
        }
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    // What the service refuses is no change.
    assert!(call(front, "PUT /admin/pool", "", br#"{"workers": 101}"#).await.starts_with("HTTP/1.1 409"));

    // Chunks, cut where they hurt, and two requests in one piece.
    let chunked =
        b"PUT /admin/pool HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\n{\"work";
    let steps =
        [Step::Send(chunked), Step::Send(b"\r\n7\r\ners\": 4\r\n1\r\n}\r\n0\r\n\r\n"), Step::Until("4}}")];
    talk(front, &steps).await;
    assert_eq!(next(&mut events).await.1["new"], 4);
    let two = b"PUT /admin/pool HTTP/1.1\r\nHost: it\r\nContent-Length: 14\r\n\r\n{\"workers\": 5}PUT /admin/pool HTTP/1.1\r\nHost: it\r\nContent-Length: 14\r\n\r\n{\"workers\": 6}";
    talk(front, &[Step::Send(two), Step::Until("6}}")]).await;
    assert_eq!(next(&mut events).await.1["new"], 5);
    assert_eq!(next(&mut events).await.1["new"], 6);
    assert_eq!(service.reads.load(Ordering::SeqCst), reads, "nobody asked the service anything");
    let (_, list) = client.get("properties/workers/subscriptions").await;
    assert_eq!(list["delivered"], 5 - 1 + 1);
}

/// Requirement: R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_cannot_be_read_is_a_reason_to_ask_once() {
    let (service, endpoint) = pool().await;
    let declared = json!({ "changed_by": [
        { "call": "PATCH /admin/pool", "from": "response", "pointer": "/now/workers" },
        { "call": "PUT /{any}", "from": "request", "pointer": "/workers" },
        { "call": "POST /more" }
    ] });
    let (membrane, address) = manage(&endpoint.to_string(), spec(&declared));
    let front = membrane.address("it").unwrap();
    let client = Client::new(address);
    let mut events = client.events("workers", "mode=change").await;
    next(&mut events).await;
    let asked = async |mut events: &mut (dyn futures::Stream<Item = (String, Value)> + Unpin + Send),
                       new: i64| {
        let (_, told) = next(&mut events).await;
        assert_eq!(told["new"], new);
        service.reads.swap(0, Ordering::SeqCst)
    };
    service.reads.store(0, Ordering::SeqCst);
    // From the answer.
    call(front, "PATCH /admin/pool", "", br#"{"workers": 7}"#).await;
    assert_eq!(asked(&mut events, 7).await, 0);
    // A coding that is not undone, a body that is too long, one that is no JSON, one without the value, none at all.
    call(front, "PUT /large", "Content-Encoding: br\r\nX-Workers: 8\r\n", b"\x1b\x0d").await;
    assert_eq!(asked(&mut events, 8).await, 1);
    let long = json!({ "workers": 9, "padding": "x".repeat(200_000) }).to_string();
    call(front, "PUT /large", "", long.as_bytes()).await;
    assert_eq!(asked(&mut events, 9).await, 1);
    call(front, "PUT /large", "X-Workers: 10\r\n", b"workers=10").await;
    assert_eq!(asked(&mut events, 10).await, 1);
    call(front, "PUT /large", "X-Workers: 11\r\n", br#"{"other": 11}"#).await;
    assert_eq!(asked(&mut events, 11).await, 1);
    call(front, "POST /more", "", b"").await;
    assert_eq!(asked(&mut events, 12).await, 1);
}

/// Requirement: R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_in_a_call_over_http2() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let (state, admin) = pool().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let take =
                hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    let body =
                        axum::body::to_bytes(Body::new(request.into_body()), usize::MAX).await.unwrap();
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(Body::from(body)))
                });
            let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serve.serve_connection(TokioIo::new(stream), take));
        }
    });
    for from in ["request", "response"] {
        let mut declared = from_request();
        declared["changed_by"][0]["from"] = json!(from);
        declared["http"] = json!({ "url": format!("http://{admin}/admin/pool"), "pointer": "/workers" });
        let (membrane, address) = manage(&endpoint.to_string(), spec(&declared));
        let client = Client::new(address);
        let mut events = client.events("workers", "mode=change").await;
        next(&mut events).await;
        let stream = tokio::net::TcpStream::connect(membrane.address("it").unwrap()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for workers in [2, 3] {
            let parts = futures::stream::iter(["{\"work".to_string(), format!("ers\": {workers}}}")]);
            let parts = parts.map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
            let request = hyper::Request::put("http://it/admin/pool").body(Body::from_stream(parts)).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
            assert_eq!(next(&mut events).await.1["new"], workers);
        }
        assert_eq!(state.reads.swap(0, Ordering::SeqCst), 1, "only what it was before");
    }
}

/// Requirement: R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_polled_is_looked_at_right_after_a_call_that_may_have_changed_it() {
    let (service, endpoint) = pool().await;
    let (membrane, address) = manage(&endpoint.to_string(), spec(&json!({})));
    let front = membrane.address("it").unwrap();
    let client = Client::new(address);
    let mut events = client.events("workers", "mode=change").await;
    assert_eq!(next(&mut events).await.1["detection"], "polled");
    // It is looked at ever more seldom while nothing happens; a call does not wait for the next time.
    tokio::time::timeout(PATIENCE, async {
        let mut before = usize::MAX;
        while before != service.reads.load(Ordering::SeqCst) {
            before = service.reads.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    })
    .await
    .expect("it is looked at seldom");
    let begin = clock();
    call(front, "POST /more", "", b"").await;
    assert_eq!(next(&mut events).await.1["new"], 2);
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

/// Requirement: R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_a_service_is_followed_and_taken_up_again() {
    let (service, endpoint) = pool().await;
    let declared = json!({ "events": { "url": "/events", "event": "pool", "pointer": "/workers" } });
    let (_membrane, address) = manage(&endpoint.to_string(), spec(&declared));
    let client = Client::new(address);
    let mut events = client.events("workers", "mode=change").await;
    assert_eq!(next(&mut events).await.1["detection"], "stream");
    until("it is connected", || service.connected.load(Ordering::SeqCst) == 1).await;
    let tell = |text: &str| service.told.send(text.into()).unwrap();
    tell("event: other\ndata: {\"workers\": 99}\n\n");
    tell("id: 41\nretry: 100\nevent: pool\ndata: {\"workers\": 2}\n\n");
    assert_eq!(next(&mut events).await.1["new"], 2);
    let begin = clock();
    tell("id: 42\nevent: pool\ndata: {\"workers\": 3}\n\n");
    assert_eq!(next(&mut events).await.1["new"], 3);
    assert!(begin.elapsed() < PATIENCE);
    // An event without the value is a reason to ask.
    service.workers.store(4, Ordering::SeqCst);
    tell("id: 43\nevent: pool\ndata: changed\n\n");
    assert_eq!(next(&mut events).await.1["new"], 4);

    // While it is away, it is looked at, and the subscription says so.
    service.streams.store(false, Ordering::SeqCst);
    service.cut.notify_waiters();
    let detection = async |how: &str| {
        let all = async {
            loop {
                let (_, list) = client.get("properties/workers/subscriptions").await;
                if list["subscriptions"][0]["detection"] == how {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("in time");
    };
    detection("polled").await;
    service.workers.store(5, Ordering::SeqCst);
    assert_eq!(next(&mut events).await.1["new"], 5);
    service.streams.store(true, Ordering::SeqCst);
    until("it is connected again", || service.connected.load(Ordering::SeqCst) == 2).await;
    detection("stream").await;
    assert_eq!(*service.last_ids.lock().unwrap(), ["", "43"]);
    tell("id: 44\nevent: pool\ndata: {\"workers\": 6}\n\n");
    assert_eq!(next(&mut events).await.1["new"], 6);
    drop(events);
    until("nobody listens to it any more", || service.told.receiver_count() == 0).await;
}

/// Requirement: R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_stream_is_away_it_is_looked_at_between_the_attempts() {
    let (service, endpoint) = pool().await;
    service.streams.store(false, Ordering::SeqCst);
    let declared = json!({ "events": { "url": "/events", "pointer": "/workers" } });
    let (_membrane, address) = manage(&endpoint.to_string(), spec(&declared));
    let client = Client::new(address);
    let mut events = client.events("workers", "mode=change").await;
    next(&mut events).await;
    // At 0, 0.1, 0.3, 0.7, 1.5, 3.1 and then 6.3 s.
    until("the attempts are seldom", || service.refused.load(Ordering::SeqCst) == 6).await;
    // What the attempt itself brings with it, is over.
    tokio::time::sleep(Duration::from_millis(200)).await;
    service.workers.store(5, Ordering::SeqCst);
    assert_eq!(next(&mut events).await.1["new"], 5);
    assert_eq!(service.refused.load(Ordering::SeqCst), 6, "it did not take another attempt");
}

/// Requirement: R4-09, R4-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_once_and_so_is_its_end_and_nobody_begins_with_an_old_value() {
    let (service, endpoint) = pool().await;
    let (_membrane, address) = manage(&endpoint.to_string(), spec(&json!({})));
    let client = Client::new(address);
    let mut change = client.events("workers", "mode=change").await;
    let mut hybrid = client.events("workers", "mode=hybrid&tolerance=5%25").await;
    next(&mut change).await;
    next(&mut hybrid).await;
    service.broken.store(true, Ordering::SeqCst);
    for events in [&mut change, &mut hybrid] {
        let (_, told) = next(events).await;
        assert_eq!((&told["old"], &told["new"]), (&json!(1), &Value::Null));
        assert!(told["error"].as_str().unwrap().contains("answered 503"), "{told}");
    }
    let mut late = client.events("workers", "mode=change").await;
    let (_, begun) = next(&mut late).await;
    assert!(begun["value"].is_null() && begun["error"].as_str().unwrap().contains("503"), "{begun}");
    let reads = service.reads.load(Ordering::SeqCst);
    until("it is looked at", || service.reads.load(Ordering::SeqCst) >= reads + 2).await;
    service.broken.store(false, Ordering::SeqCst);
    for events in [&mut change, &mut hybrid, &mut late] {
        let (_, told) = next(events).await;
        assert_eq!((&told["new"], &told["error"]), (&json!(1), &Value::Null), "the same value, and told");
    }

    // However seldom it is looked at, who subscribes learns how it is.
    let reads = service.reads.load(Ordering::SeqCst);
    until("it is looked at seldom", || service.reads.load(Ordering::SeqCst) >= reads + 6).await;
    service.workers.store(7, Ordering::SeqCst);
    let mut second = client.events("workers", "mode=change").await;
    assert_eq!(next(&mut second).await.1["value"], 7);
    assert_eq!(next(&mut change).await.1["new"], 7);
}

/// Requirement: R4-09, R4-10, R4-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_may_call_when_it_changed() {
    let (service, endpoint) = pool().await;
    let (_membrane, address) =
        manage(&endpoint.to_string(), spec(&json!({ "webhook": { "pointer": "/workers" } })));
    let client = Client::new(address);
    let (listener, url) = heard(0).await;
    let (_, begun) = client.subscribe("workers", json!({ "mode": "change", "callback": url })).await;
    assert_eq!(begun["detection"], "webhook");
    service.reads.store(0, Ordering::SeqCst);
    let changed = async |body| client.ask(reqwest::Method::POST, "properties/workers/changed", body).await;
    for value in [1, 1, 2, 2, 3] {
        let (status, answer) = changed(Some(json!({ "workers": value }))).await;
        assert_eq!((status, &answer["asked"]), (202, &json!(false)));
    }
    until("both changes", || listener.count() == 2).await;
    assert_eq!(service.reads.load(Ordering::SeqCst), 0);
    service.workers.store(9, Ordering::SeqCst);
    assert_eq!(changed(None).await.1["asked"], true);
    until("the third change", || listener.count() == 3).await;
    assert_eq!(service.reads.load(Ordering::SeqCst), 1);
    let told: Vec<(Value, Value)> =
        listener.told.lock().unwrap().iter().map(|n| (n["old"].clone(), n["new"].clone())).collect();
    assert_eq!(told, [(json!(1), json!(2)), (json!(2), json!(3)), (json!(3), json!(9))]);

    let (_other, address) = manage(&endpoint.to_string(), spec(&json!({})));
    let (status, problem) =
        Client::new(address).ask(reqwest::Method::POST, "properties/workers/changed", None).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:homeostat:error:no-webhook")));
}

/// Requirement: RX-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_its_tolerance_a_subscriber_is_not_told_and_a_drift_is_asked_for_instead() {
    let (service, endpoint) = pool().await;
    service.workers.store(100, Ordering::SeqCst);
    let spec = spec(&json!({ "webhook": {} }));
    let (_membrane, address) = manage(&endpoint.to_string(), spec);
    let client = Client::new(address);
    for (query, why) in [
        ("mode=hybrid", "needs `tolerance`"),
        ("mode=change&tolerance=5%25", "goes with"),
        ("mode=hybrid&tolerance=-1", "no tolerance"),
    ] {
        let (status, problem) = client.get(&format!("properties/workers/events?{query}")).await;
        assert!(status == 400 && problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    let mut events = client.events("workers", "mode=hybrid&tolerance=5%25").await;
    let (_, begun) = next(&mut events).await;
    assert_eq!((&begun["detection"], &begun["value"]), (&json!("webhook"), &json!(100)));
    for value in [104, 96, 106, 108, 120, 121] {
        let (status, _) =
            client.ask(reqwest::Method::POST, "properties/workers/changed", Some(json!(value))).await;
        assert_eq!(status, 202);
    }
    for (old, new) in [(100, 106), (106, 120)] {
        let (_, told) = next(&mut events).await;
        assert_eq!((&told["old"], &told["new"]), (&json!(old), &json!(new)));
    }

    // A stream that tells of every percent is not listened to any longer than it takes to know the drift.
    let declared = json!({ "events": { "url": "/events", "pointer": "/workers" } });
    service.workers.store(100, Ordering::SeqCst);
    let (_other, address) = manage(&endpoint.to_string(), self::spec(&declared));
    let client = Client::new(address);
    let mut events = client.events("workers", "mode=hybrid&tolerance=5%25").await;
    next(&mut events).await;
    until("it is connected", || service.connected.load(Ordering::SeqCst) == 1).await;
    let drifting = async {
        loop {
            let workers = service.workers.fetch_add(1, Ordering::SeqCst) + 1;
            let _ = service.told.send(format!("data: {{\"workers\": {workers}}}\n\n"));
            let (_, list) = client.get("properties/workers/subscriptions").await;
            if list["subscriptions"][0]["way"] == "pull" {
                break assert!(list["subscriptions"][0].get("detection").is_none(), "{list}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drifting).await.expect("it is asked");
    until("nobody listens to it", || service.told.receiver_count() == 0).await;
    // A jump is found by asking, and it is listened to again.
    service.workers.store(10_000, Ordering::SeqCst);
    while next(&mut events).await.1["new"] != 10_000 {}
    until("it is connected again", || service.connected.load(Ordering::SeqCst) == 2).await;
}
