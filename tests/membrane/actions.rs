//! What a plan sets and invokes reaches the properties and methods of services that know nothing of it; and what is billed and required there.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use homeostat::model::ports::{Actions, Metrics};
use homeostat::model::{Action, OutcomeStatus, Timestamp};
use homeostat::service::handle::Handle;
use homeostat::service::simulation::Simulation;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bridge::{errors, free, reads, set, start};
use super::manage::{Client, listen};
use super::support::{PATIENCE, Service, until};

/// A service whose rate is 1 until somebody sets it, and that adds.
async fn adder() -> (Arc<AtomicI64>, std::net::SocketAddr) {
    let rate = Arc::new(AtomicI64::new(1));
    let read = |State(rate): State<Arc<AtomicI64>>| async move { Json(rate.load(Ordering::SeqCst)) };
    let write = |State(rate): State<Arc<AtomicI64>>, Json(to): Json<i64>| async move {
        if to > 100 {
            return (StatusCode::CONFLICT, "too much").into_response();
        }
        rate.store(to, Ordering::SeqCst);
        StatusCode::NO_CONTENT.into_response()
    };
    let add = |Json(body): Json<Value>| async move {
        match body["a"].as_i64().filter(|a| *a >= 0) {
            Some(a) => Json(json!({ "sum": a + body["b"].as_i64().unwrap() })).into_response(),
            None => (StatusCode::INTERNAL_SERVER_ERROR, "negative").into_response(),
        }
    };
    let router =
        Router::new().route("/rate", get(read).put(write)).route("/add", post(add)).with_state(rate.clone());
    (rate, listen(router).await)
}

fn managing(name: &str, endpoint: std::net::SocketAddr) -> String {
    format!(
        r#"
service: {name}
endpoint: {endpoint}
manage:
  properties:
    rate: {{ type: integer, settable: true, http: {{ url: /rate }} }}
    fixed: {{ type: integer, value: 1 }}
  methods:
    add: {{ url: /add, pointer: /sum, params: [ {{ name: a, type: integer }}, {{ name: b, type: integer }} ] }}
execute: {{}}
"#
    )
}

fn setting(service: Option<&str>, value: Value) -> Action {
    Action::Set { service: service.map(str::to_string), property: "rate".into(), value }
}

fn adding(a: i64, b: i64) -> Action {
    Action::Invoke { service: None, method: "add".into(), params: vec![json!(a), json!(b)] }
}

/// Requirement: R4-03, R4-04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_sets_a_property_and_invokes_a_method_without_an_effector() {
    let ((own, at), (other, there)) = (adder().await, adder().await);
    let user = "
references: { b: { service: B } }
monitor: { sensors: { load: push, rate: { property: { name: rate, every: 20ms } } } }
analyze: { calm: { objective: load < 10 } }
plan: [{ when: calm, do: [{ set: { property: rate, value: 5 } }, { set: { service: B, property: rate, value: 7 } }], mode: act }]
";
    let text = format!("{}{user}---{}", managing("A", at), managing("B", there));
    let supervisor = start(&text, &[]).await;
    let handle = Handle::new(supervisor.clone(), "A");
    reads(&handle, "rate", |rate| rate == 1.0).await;
    handle.push("load", vec![(99.0, None)]).await.unwrap();
    until("both are set", || own.load(Ordering::SeqCst) == 5 && other.load(Ordering::SeqCst) == 7).await;
    reads(&handle, "rate", |rate| rate == 5.0).await;

    let outcome = handle.send_action(adding(2, 3)).await.unwrap();
    assert_eq!((&outcome.status, &*outcome.detail), (&OutcomeStatus::Done, "5"));
    // What the service says is the reason.
    let outcome = handle.send_action(adding(-2, 3)).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(outcome.detail.contains("answered 500") && outcome.detail.contains("negative"), "{outcome:?}");
    let outcome = handle.send_action(setting(None, json!(101))).await.unwrap();
    assert!(outcome.status == OutcomeStatus::Failed && outcome.detail.contains("too much"), "{outcome:?}");
    // What cannot be is not tried.
    for (action, part) in [
        (setting(None, json!("5")), "of type integer, not string"),
        (Action::Set { service: None, property: "fixed".into(), value: json!(2) }, "cannot be set"),
        (Action::Set { service: None, property: "none".into(), value: json!(2) }, "no property `none`"),
        (Action::Invoke { service: None, method: "add".into(), params: vec![json!(1)] }, "`b` is missing"),
        (Action::Invoke { service: None, method: "sub".into(), params: vec![] }, "no method `sub`"),
        (setting(Some("B"), json!(1.5)), "of type integer"),
    ] {
        let outcome = handle.send_action(action).await.unwrap();
        assert_eq!(outcome.status, OutcomeStatus::Refused, "{outcome:?}");
        assert!(outcome.detail.contains(part), "{outcome:?}");
    }
    assert_eq!((own.load(Ordering::SeqCst), other.load(Ordering::SeqCst)), (5, 7));
    assert!(supervisor.shell().stop(PATIENCE).await.is_empty());
}

/// The pure core decides what is carried out where; the shell only does it.
#[test]
fn the_core_says_that_a_property_is_set_and_an_effector_takes_its_place() {
    let at: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
    let mut s = Simulation::new(Timestamp(0), 1);
    s.apply(&set(&managing("A", at)));
    let outcomes = s.send("A", vec![setting(None, json!(5)), setting(None, json!("5"))]).unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Done);
    assert_eq!(outcomes[1].status, OutcomeStatus::Refused);
    assert_eq!(s.performed.len(), 1);
    assert!(s.performed[0].managed && s.performed[0].effectors.is_empty());
    let text = managing("A", at).replace("execute: {}", "execute: { set: log }");
    s.apply(&set(&text));
    s.send("A", vec![setting(None, json!("5"))]).unwrap();
    assert!(!s.performed[1].managed && s.performed[1].effectors.len() == 1);
}

#[test]
fn what_a_plan_sets_and_invokes_is_checked_with_the_policy() {
    let at: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
    let plan = |action: &str| {
        let plan = format!(
            "references: {{ b: {{ service: B }} }}\nmonitor: {{ sensors: {{ load: push }} }}\nanalyze: {{ calm: {{ objective: load < 10 }} }}\nplan: [{{ when: calm, do: [{action}] }}]\n"
        );
        errors(&format!("{}{plan}---{}", managing("A", at), managing("B", at)))
    };
    for (action, part) in [
        ("{ set: { property: none, value: 5 } }", "no property `none`"),
        ("{ set: { property: rate, value: high } }", "of type integer, not string"),
        ("{ set: { property: fixed, value: 5 } }", "cannot be set"),
        ("{ set: { service: B, property: none, value: 5 } }", "no property `none`"),
        ("{ invoke: { method: sub, params: [] } }", "no method `sub`"),
        ("{ invoke: { method: add, params: [1] } }", "`b` is missing"),
    ] {
        let found = plan(action);
        assert!(found.len() == 1 && found[0].contains(part), "{action}: {found:?}");
    }
}

/// A service that speaks no HTTP: it says back what it hears.
async fn echo() -> (Arc<AtomicUsize>, std::net::SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = calls.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    (calls, address)
}

/// Requirement: R4-22, R4-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_billed_once_over_http_and_plain_tcp_and_read_at_an_admin_endpoint() {
    let (http, web) = Service::start("web").await;
    let (raw, tcp) = echo().await;
    let (web_front, web_manage, tcp_front, tcp_manage) = (free(), free(), free(), free());
    let text = format!(
        r#"
service: web
endpoint: {web}
listen: {web_front}
manage:
  listen: {web_manage}
  properties:
    calls: {{ type: integer, metric: calls }}
    bought: {{ type: integer, metric: bought }}
    bill: {{ type: number, metric: bill }}
    name: {{ type: string, http: {{ url: /admin }} }}
monitor:
  sensors:
    calls: {{ proxy: requests }}
    bought: {{ proxy: {{ what: requests, route: "POST /buy/{{id}}" }} }}
  metrics: {{ bill: 0.01 * calls + 2 * bought }}
---
service: raw
endpoint: tcp://{tcp}
listen: {tcp_front}
manage: {{ listen: {tcp_manage}, properties: {{ calls: {{ type: integer, metric: calls }} }} }}
monitor: {{ sensors: {{ calls: {{ proxy: requests }} }} }}
"#
    );
    let supervisor = start(&text, &[web_manage, tcp_manage]).await;
    let (bills, raw_bills) = (Client::new(web_manage), Client::new(tcp_manage));
    let caller = reqwest::Client::builder().no_proxy().build().unwrap();
    for n in 1..=20 {
        if n % 4 == 0 {
            caller.post(format!("http://{web_front}/buy/{n}")).send().await.unwrap().bytes().await.unwrap();
        } else {
            caller.get(format!("http://{web_front}/look")).send().await.unwrap().bytes().await.unwrap();
        }
        assert_eq!(bills.value("calls").await, json!(n));
        assert_eq!(bills.value("bought").await, json!(n / 4));
    }
    assert_eq!(bills.value("bill").await, json!(0.01 * 20.0 + 2.0 * 5.0));
    assert_eq!(http.requests.load(Ordering::SeqCst), 20);
    // The admin endpoint of the service itself is asked for what is no business of its clients, and that is no call of one.
    assert_eq!(bills.value("name").await, json!("web"));
    assert_eq!(bills.value("calls").await, json!(20));

    for n in 1..=5 {
        let mut stream = tokio::net::TcpStream::connect(tcp_front).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ping");
        drop(stream);
        let billed = async {
            while raw_bills.value("calls").await != json!(n) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, billed).await.expect("billed");
    }
    assert!(raw.load(Ordering::SeqCst) >= 5);
    assert!(supervisor.shell().stop(PATIENCE).await.is_empty());
}

/// Requirement: R4-18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_property_is_unresolved_until_the_reference_is_linked() {
    let (rate, there) = adder().await;
    rate.store(21, Ordering::SeqCst);
    let at = free();
    let text = format!(
        "
service: A
references: {{ b: {{ candidates: [B] }} }}
manage: {{ listen: {at}, properties: {{ temp: {{ type: number, metric: temp }} }} }}
monitor: {{ metrics: {{ temp: b.temp }} }}
execute: {{}}
---{}
monitor: {{ sensors: {{ temp: {{ property: {{ name: rate, every: 20ms }} }} }} }}
",
        managing("B", there)
    );
    let supervisor = start(&text, &[at]).await;
    let client = Client::new(at);
    let (status, problem) = client.get("properties/temp").await;
    assert!(status == 502 && problem["detail"].as_str().unwrap().contains("b.temp"), "{problem}");
    let link = Action::Bind { service: None, reference: "b".into(), to: "B".into() };
    let outcome = Handle::new(supervisor.clone(), "A").send_action(link).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Done, "{outcome:?}");
    let resolved = async {
        while client.get("properties/temp").await.1["value"] != json!(21.0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, resolved).await.expect("resolved");
    assert!(supervisor.shell().stop(PATIENCE).await.is_empty());
}
