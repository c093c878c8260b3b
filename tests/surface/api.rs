//! The HTTP API as its users see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use homeostat::api::{Access, Limits, Role, router_with, serve};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::fake::{Fake, NOON};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    pub addr: SocketAddr,
    pub fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    done: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    client: Client,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Access::default(), Limits::default()).await
    }

    pub async fn with(access: Access, limits: Limits) -> Self {
        let fake = Fake::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router_with(fake.clone(), access, limits);
        let done = tokio::spawn(serve(listener, router, async {
            let _ = stopped.await;
        }));
        Self { addr, fake, stop: Some(stop), done: Some(done), client: Client::new() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = self.client.request(method, self.url(path)).timeout(PATIENCE);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, None).await
    }

    async fn raw(&self, method: Method, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.request(method, self.url(path)).header("content-type", kind);
        request.body(body).timeout(PATIENCE).send().await.unwrap()
    }

    async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(PATIENCE, self.done.take().unwrap()).await.unwrap().unwrap().unwrap();
    }
}

async fn problem(response: Response, status: u16, slug: &str) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{}", response.url());
    assert_eq!(response.status(), status, "{}", response.url());
    let path = response.url().path().to_string();
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["type"], format!("urn:homeostat:error:{slug}"), "{body}");
    assert_eq!(body["status"], status);
    assert_eq!(body["instance"], path);
    assert!(!body["title"].as_str().unwrap().is_empty());
    assert!(!body["detail"].as_str().unwrap().is_empty());
    body
}

async fn ok(response: Response, status: u16) -> Value {
    let (found, path) = (response.status(), response.url().to_string());
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{path}: {text}");
    if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

#[tokio::test]
async fn services_are_listed_attached_and_detached() {
    let server = Server::start().await;
    let list = ok(server.get("/v1/services").await, 200).await;
    assert_eq!(list[0]["name"], "A");
    assert_eq!(list[0]["components"][0]["component"], "monitor");
    assert_eq!(ok(server.get("/v1/services/B").await, 200).await["name"], "B");
    problem(server.get("/v1/services/X").await, 404, "no-such-service").await;

    let document = json!({"monitor": {"sensors": {"cost": "push"}}});
    let applied = ok(server.send(Method::PUT, "/v1/services/N", Some(document)).await, 200).await;
    assert_eq!(applied["changes"][0], "attached N");
    let (name, _, document) = server.fake.calls.attached.lock().unwrap()[0].clone();
    assert_eq!((name.as_str(), &document["service"]), ("N", &json!("N")));

    let refused = server.send(Method::PUT, "/v1/services/A", Some(json!({"bogus": 1}))).await;
    let body = problem(refused, 422, "refused").await;
    assert_eq!(body["problems"][0], "A.yaml:1:1: error: unknown field `bogus`");
    let other = server.send(Method::PUT, "/v1/services/A", Some(json!({"service": "B"}))).await;
    problem(other, 400, "name-mismatch").await;
    problem(server.send(Method::PUT, "/v1/services/A", Some(json!([]))).await, 400, "invalid").await;

    ok(server.send(Method::DELETE, "/v1/services/B", None).await, 200).await;
    problem(server.send(Method::DELETE, "/v1/services/B", None).await, 404, "no-such-service").await;
}

#[tokio::test]
async fn components_are_attached_and_detached_one_at_a_time() {
    let server = Server::start().await;
    for component in ["monitor", "analyze", "plan", "execute"] {
        let path = format!("/v1/services/A/{component}");
        ok(server.send(Method::PUT, &path, Some(json!({}))).await, 200).await;
        let applied = ok(server.send(Method::DELETE, &path, None).await, 200).await;
        assert_eq!(applied["changes"][0], format!("detached A/{component}"));
    }
    let unknown = server.send(Method::PUT, "/v1/services/A/brain", Some(json!({}))).await;
    problem(unknown, 404, "no-such-component").await;
}

/// Requirement: R3-30
#[tokio::test]
async fn the_metric_list_is_sorted_and_each_entry_has_its_reading() {
    let server = Server::start().await;
    let list = ok(server.get("/v1/services/A/metrics").await, 200).await;
    let names: Vec<_> = list.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cost", "cpu[cpu0]", "latency"]);
    assert_eq!(list[2]["reading"], json!({"state": "missing", "reason": "no_sample"}));
}

/// Requirement: R3-31
#[tokio::test]
async fn get_metric_passes_on_how_old_a_value_may_be() {
    let server = Server::start().await;
    let reading = ok(server.get("/v1/services/A/metrics/cost?max_age=5s").await, 200).await;
    assert_eq!(reading, json!({"state": "fresh", "value": 35.0, "at": NOON.to_string()}));
    assert_eq!(
        server.fake.calls.max_ages.lock().unwrap()[0],
        Some(homeostat::model::HumanDuration::seconds(5))
    );
    ok(server.get("/v1/services/A/metrics/cpu%5Bcpu0%5D").await, 200).await;
    problem(server.get("/v1/services/A/metrics/nope").await, 404, "no-such-metric").await;
    problem(server.get("/v1/services/A/metrics/cost?max_age=soon").await, 400, "invalid").await;
    let history = ok(server.get("/v1/services/A/metrics/cost/history").await, 200).await;
    assert_eq!(history.as_array().unwrap().len(), 1);
}

/// Requirement: R3-34, R3-35
#[tokio::test]
async fn metrics_are_inserted_and_removed_and_a_cycle_is_named() {
    let server = Server::start().await;
    let put = |name: &str, body: Value| {
        let path = format!("/v1/services/A/metrics/{name}");
        let server = &server;
        async move { server.send(Method::PUT, &path, Some(body)).await }
    };
    ok(put("twice", json!("cost * 2")).await, 204).await;
    problem(put("twice", json!("cost * 2")).await, 409, "exists").await;
    let cycle = problem(put("x", json!("x + 1")).await, 422, "metric-cycle").await;
    assert_eq!(cycle["detail"], "metric cycle: x → x");
    ok(server.send(Method::DELETE, "/v1/services/A/metrics/twice", None).await, 204).await;
    problem(server.send(Method::DELETE, "/v1/services/A/metrics/twice", None).await, 404, "no-such-metric")
        .await;
}

#[tokio::test]
async fn samples_of_one_metric_are_one_value_or_several() {
    let server = Server::start().await;
    let path = "/v1/services/A/metrics/cost/samples";
    let one = server.send(Method::POST, path, Some(json!({"value": 1, "at": NOON.to_string()}))).await;
    assert_eq!(ok(one, 200).await["accepted"], 1);
    let many: Vec<_> = (0..5000).map(|n| json!({"value": n})).collect();
    assert_eq!(ok(server.send(Method::POST, path, Some(many.into())).await, 200).await["accepted"], 5000);
    for bad in [json!({"value": "1"}), json!({"value": 1, "unit": "s"}), json!([1]), json!({"value": null})] {
        problem(server.send(Method::POST, path, Some(bad)).await, 400, "invalid").await;
    }
    let latency = "/v1/services/A/metrics/latency/samples";
    problem(server.send(Method::POST, latency, Some(json!({"value": 1}))).await, 409, "not-pushed").await;
}

#[tokio::test]
async fn bulk_samples_are_handed_over_in_groups_and_errors_have_an_index() {
    let server = Server::start().await;
    let sample = |service: &str, metric: &str| json!({"service": service, "metric": metric, "value": 1.0});
    let batch = json!([
        sample("A", "cost"),
        sample("A", "cost"),
        sample("X", "cost"),
        sample("B", "cost"),
        sample("B", "nope"),
        sample("B", "nope"),
    ]);
    let pushed = ok(server.send(Method::POST, "/v1/samples", Some(batch)).await, 200).await;
    assert_eq!(pushed["accepted"], 3);
    assert_eq!(
        pushed["errors"],
        json!([
            {"index": 2, "count": 1, "type": "urn:homeostat:error:no-such-service", "detail": "no service `X` is managed here"},
            {"index": 4, "count": 2, "type": "urn:homeostat:error:no-such-metric", "detail": "no metric `nope`"},
        ])
    );
    let pushes = server.fake.calls.pushes.lock().unwrap().clone();
    assert_eq!(pushes, [("A".into(), "cost".into(), 2), ("B".into(), "cost".into(), 1)]);

    let lines = "{\"service\":\"A\",\"metric\":\"cost\",\"value\":1}\nnonsense\n";
    let pushed = ok(server.raw(Method::POST, "/v1/samples", "application/x-ndjson", lines).await, 200).await;
    assert_eq!((&pushed["accepted"], &pushed["errors"][0]["index"]), (&json!(1), &json!(1)));
    let none = server.send(Method::POST, "/v1/samples", Some(json!([sample("X", "y")]))).await;
    let body = problem(none, 422, "no-sample-accepted").await;
    assert_eq!(body["errors"][0]["index"], 0);
    assert_eq!(ok(server.send(Method::POST, "/v1/samples", Some(json!([]))).await, 200).await["accepted"], 0);
}

#[tokio::test]
async fn slos_are_listed_added_removed_and_switched() {
    let server = Server::start().await;
    let list = ok(server.get("/v1/services/A/slos").await, 200).await;
    assert_eq!((&list[0]["name"], &list[0]["state"]), (&json!("cheap"), &json!("violated")));
    let path = "/v1/services/A/slos/fast";
    ok(server.send(Method::PUT, path, Some(json!({"objective": "latency < 2s"}))).await, 204).await;
    problem(server.send(Method::PUT, path, Some(json!({}))).await, 400, "invalid").await;
    ok(server.send(Method::POST, "/v1/services/A/slos/fast/disable", None).await, 204).await;
    assert_eq!(ok(server.get("/v1/services/A/slos").await, 200).await[1]["state"], "disabled");
    ok(server.send(Method::POST, "/v1/services/A/slos/fast/enable", None).await, 204).await;
    ok(server.send(Method::DELETE, path, None).await, 204).await;
    problem(server.send(Method::DELETE, path, None).await, 404, "no-such-slo").await;
    problem(server.send(Method::POST, "/v1/services/A/slos/x/enable", None).await, 404, "no-such-slo").await;
}

#[tokio::test]
async fn an_alarm_from_outside_is_for_the_service_in_the_path() {
    let server = Server::start().await;
    let path = "/v1/services/A/alarms";
    let alarm = json!({"slo": "cheap", "kind": "violation", "condition": "cost >= 30"});
    ok(server.send(Method::POST, path, Some(alarm.clone())).await, 202).await;
    assert_eq!(server.fake.calls.alarms.lock().unwrap()[0].service, "A");
    let with = |key: &str, value: Value| {
        let mut alarm = alarm.clone();
        alarm[key] = value;
        Some(alarm)
    };
    problem(server.send(Method::POST, path, with("service", json!("B"))).await, 400, "name-mismatch").await;
    problem(server.send(Method::POST, path, with("kind", json!("FAIL"))).await, 400, "invalid").await;
    problem(server.send(Method::POST, path, with("colour", json!("red"))).await, 400, "invalid").await;
}

/// Requirement: R3-57
#[tokio::test]
async fn an_action_is_answered_with_its_outcome_and_a_list_with_all_of_them() {
    let server = Server::start().await;
    let path = "/v1/services/A/actions";
    let set = json!({"set": {"property": "threads", "value": 10}});
    let start = json!({"start": {}});
    assert_eq!(ok(server.send(Method::POST, path, Some(set.clone())).await, 200).await["status"], "done");
    assert_eq!(
        ok(server.send(Method::POST, path, Some(start.clone())).await, 200).await["status"],
        "refused"
    );
    let outcomes = ok(server.send(Method::POST, path, Some(json!([start, set]))).await, 200).await;
    assert_eq!((&outcomes[0]["status"], &outcomes[1]["status"]), (&json!("refused"), &json!("done")));
    assert_eq!(ok(server.send(Method::POST, path, Some(json!([]))).await, 200).await, json!([]));
    let unknown = json!({"set": {"property": "threads", "value": 10, "colour": "red"}});
    problem(server.send(Method::POST, path, Some(unknown)).await, 400, "invalid").await;
    for wrong in [json!(["start"]), json!([["start", {}]]), json!({"actions": []}), json!(7)] {
        let said = problem(server.send(Method::POST, path, Some(wrong)).await, 400, "invalid").await;
        assert!(said["detail"].as_str().unwrap().contains("expected an action such as"), "{said}");
    }
    let nobody = server.send(Method::POST, "/v1/services/B/actions", Some(set)).await;
    problem(nobody, 409, "no-executor-attached").await;
}

#[tokio::test]
async fn decisions_come_newest_first_and_can_be_approved() {
    let server = Server::start().await;
    let all = ok(server.get("/v1/decisions").await, 200).await;
    assert_eq!(all.as_array().unwrap().len(), 3);
    let some = ok(server.get("/v1/decisions?service=A&limit=1&before=3").await, 200).await;
    assert_eq!((some.as_array().unwrap().len(), &some[0]["id"]), (1, &json!(2)));
    problem(server.get("/v1/decisions?limit=0").await, 400, "invalid").await;
    problem(server.get("/v1/decisions?servise=A").await, 400, "invalid").await;
    problem(server.get("/v1/decisions?service=X").await, 404, "no-such-service").await;
    let approve = |id: &str| format!("/v1/services/A/decisions/{id}/approve");
    let outcomes = ok(server.send(Method::POST, &approve("1"), None).await, 200).await;
    assert_eq!(outcomes[0]["status"], "done");
    problem(server.send(Method::POST, &approve("2"), None).await, 409, "conflict").await;
    problem(server.send(Method::POST, &approve("two"), None).await, 400, "invalid").await;
}

#[tokio::test]
async fn knowledge_is_written_read_and_removed() {
    let server = Server::start().await;
    let path = "/v1/services/A/knowledge/last%20winner";
    problem(server.get(path).await, 404, "no-such-key").await;
    ok(server.send(Method::PUT, path, Some(json!({"name": "C2"}))).await, 204).await;
    assert_eq!(ok(server.get(path).await, 200).await, json!({"name": "C2"}));
    let all = ok(server.get("/v1/services/A/knowledge").await, 200).await;
    assert_eq!(all, json!({"last winner": {"name": "C2"}}));
    ok(server.send(Method::DELETE, path, None).await, 204).await;
    problem(server.get(path).await, 404, "no-such-key").await;
}

/// Requirement: R3-07, R3-08, R3-40
#[tokio::test]
async fn the_topology_shows_components_wires_and_the_backbone_along_bindings() {
    let server = Server::start().await;
    let topology = ok(server.get("/v1/topology").await, 200).await;
    assert_eq!(topology["components"][0], json!({"name": "A/monitor", "id": "monitor-1"}));
    assert_eq!(topology["wires"][0], json!({"from": "A/monitor", "to": "A/analyze", "port": "metrics"}));
    assert_eq!(topology["backbone"], json!([{"from": "A/monitor", "to": "B/monitor", "reference": "b1"}]));
    ok(server.send(Method::DELETE, "/v1/services/B", None).await, 200).await;
    assert_eq!(ok(server.get("/v1/topology").await, 200).await["backbone"], json!([]));
}

#[tokio::test]
async fn policies_are_shown_replaced_tried_and_reloaded() {
    let server = Server::start().await;
    assert_eq!(ok(server.get("/v1/policy").await, 200).await["running"], "0123456789abcdef");
    let bundle = json!({"files": {"shop/A.yaml": "service: A\n"}});
    let tried =
        ok(server.send(Method::PUT, "/v1/policy?dry_run=true", Some(bundle.clone())).await, 200).await;
    assert_eq!(tried["changes"][0], "would change 1 file(s)");
    assert!(server.fake.calls.applied.lock().unwrap().is_empty());
    ok(server.send(Method::PUT, "/v1/policy", Some(bundle)).await, 200).await;
    assert!(server.fake.calls.applied.lock().unwrap()[0].contains_key("shop/A.yaml"));
    let outside = json!({"files": {"../A.yaml": ""}});
    problem(server.send(Method::PUT, "/v1/policy", Some(outside)).await, 400, "invalid").await;
    ok(server.send(Method::POST, "/v1/policy/reload", None).await, 200).await;
    problem(server.send(Method::POST, "/v1/policy/rollback", None).await, 409, "conflict").await;
}

#[tokio::test]
async fn the_exposition_is_openmetrics_about_itself_metrics_and_slos() {
    let server = Server::start().await;
    let response = server.get("/metrics").await;
    assert_eq!(
        response.headers()["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = response.text().await.unwrap();
    for line in [
        "homeostat_samples_total 7",
        "homeostat_actions_total{status=\"done\"} 1",
        "homeostat_policy_pending 0",
        "homeostat_metric{service=\"A\",metric=\"cost\"} 35.0",
        "homeostat_metric{service=\"A\",metric=\"cpu\",label=\"cpu0\"} 12.5",
        "homeostat_slo{service=\"A\",slo=\"cheap\",state=\"violated\"} 1.0",
        "homeostat_slo{service=\"A\",slo=\"cheap\",state=\"ok\"} 0.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    *server.fake.pending.lock().unwrap() =
        Some(homeostat::service::control::Refusal { at: None, problems: vec![] });
    assert!(server.get("/metrics").await.text().await.unwrap().contains("homeostat_policy_pending 1"));
}

#[tokio::test]
async fn health_and_readiness_differ_while_stopping() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.status(), 200);
    assert_eq!(server.get("/readyz").await.status(), 200);
    server.fake.ready.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/healthz").await.status(), 200);
    let response = server.get("/readyz").await;
    assert_eq!(response.headers()["retry-after"], "1");
    problem(response, 503, "not-ready").await;
}

/// Requirement: R3-20
#[tokio::test]
async fn what_is_not_management_is_not_found_on_the_management_listener() {
    let server = Server::start().await;
    for path in ["/", "/pay", "/v1", "/v1/services/A/pay/1", "/v2/services"] {
        problem(server.get(path).await, 404, "no-such-route").await;
    }
    let response = server.send(Method::DELETE, "/v1/services", None).await;
    assert!(response.headers()["allow"].to_str().unwrap().contains("GET"));
    problem(response, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn bad_bodies_are_refused_cleanly() {
    let server = Server::start().await;
    let path = "/v1/services/A/actions";
    let body = problem(
        server.raw(Method::POST, path, "application/json", "{\"set\":\n  nonsense}").await,
        400,
        "malformed-json",
    )
    .await;
    assert_eq!((&body["line"], &body["column"]), (&json!(2), &json!(4)));
    problem(server.raw(Method::POST, path, "application/json", "").await, 400, "malformed-json").await;
    let form = server.raw(Method::POST, path, "application/x-www-form-urlencoded", "{}").await;
    problem(form, 415, "unsupported-media-type").await;
    let large = vec![b' '; (1 << 20) + 1];
    problem(server.raw(Method::POST, path, "application/json", large.clone()).await, 413, "too-large").await;
    let chunks = futures::stream::iter(
        large.chunks(65_536).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let chunked =
        server.raw(Method::POST, path, "application/json", reqwest::Body::wrap_stream(chunks)).await;
    problem(chunked, 413, "too-large").await;
    let deep = "[".repeat(100_000);
    problem(server.raw(Method::PUT, "/v1/services/A", "application/json", deep).await, 400, "malformed-json")
        .await;
    let bundle = json!({"files": {"a.yaml": "x".repeat(2 << 20)}});
    ok(server.send(Method::PUT, "/v1/policy", Some(bundle)).await, 200).await;
    assert_eq!(server.get("/v1/services/%FF").await.status(), 400);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let limits = Limits { read: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(Access::default(), limits).await;
    let mut socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /v1/samples HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n[";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = tokio::time::timeout(PATIENCE, socket.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}

#[tokio::test]
async fn a_head_that_does_not_arrive_is_given_up_and_an_idle_connection_is_closed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = homeostat::api::router(Fake::new(), Access::default());
    let short = Duration::from_millis(50);
    let server = tokio::spawn(homeostat::api::serve_with(listener, router, std::future::pending(), short));
    for (sent, expected) in [("GET /healthz HTTP/1.1\r\nhost: local", "HTTP/1.1 408"), ("", "")] {
        let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
    }
    server.abort();
}

pub fn tokens() -> Access {
    Access {
        tokens: vec![
            (Role::Viewer, "look".into()),
            (Role::Operator, "change".into()),
            (Role::Pusher, "push".into()),
        ],
    }
}

#[tokio::test]
async fn each_role_may_do_its_own_and_nothing_else() {
    let server = Server::with(tokens(), Limits::default()).await;
    let sample = json!([{"service": "A", "metric": "cost", "value": 1}]);
    let requests = [
        (Method::GET, "/v1/services", None),
        (Method::GET, "/metrics", None),
        (Method::POST, "/v1/samples", Some(sample)),
        (Method::POST, "/v1/services/A/metrics/cost/samples", Some(json!({"value": 1}))),
        (Method::POST, "/v1/policy/reload", None),
        (Method::PUT, "/v1/services/A/slos/x", Some(json!({"objective": "cost < 1"}))),
        (Method::DELETE, "/v1/services/A/slos/x", None),
    ];
    let matrix = [
        (None, [401; 7]),
        (Some("wrong"), [401; 7]),
        (Some("look"), [200, 200, 403, 403, 403, 403, 403]),
        (Some("push"), [403, 403, 200, 200, 403, 403, 403]),
        (Some("change"), [200, 200, 200, 200, 200, 204, 204]),
    ];
    for (token, expected) in matrix {
        for ((method, path, body), status) in requests.iter().zip(expected) {
            let mut request = server.client.request(method.clone(), server.url(path));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), status, "{token:?} {method} {path}");
            match status {
                401 => {
                    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
                    problem(response, 401, "unauthorized").await;
                }
                403 => {
                    problem(response, 403, "forbidden").await;
                }
                _ => {}
            }
        }
    }
    assert_eq!(server.get("/healthz").await.status(), 200);
    assert_eq!(server.get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn without_tokens_pages_from_elsewhere_are_refused() {
    let server = Server::start().await;
    let with = |name: &'static str, value: &str| {
        server.client.get(server.url("/v1/services")).header(name, value).send()
    };
    problem(with("host", "evil.example:7700").await.unwrap(), 403, "forbidden").await;
    problem(with("origin", "http://evil.example").await.unwrap(), 403, "forbidden").await;
    problem(with("origin", "null").await.unwrap(), 403, "forbidden").await;
    ok(with("origin", "http://localhost:7700").await.unwrap(), 200).await;
    ok(with("host", "localhost:7700").await.unwrap(), 200).await;
}

/// Reads the stream until it has seen `count` events; each is its name and its data.
async fn read_events(response: &mut Response, count: usize) -> Vec<(String, Value)> {
    let mut text = String::new();
    loop {
        let events: Vec<_> = text
            .split_inclusive("\n\n")
            .filter(|e| e.ends_with("\n\n"))
            .filter_map(|e| {
                let line = |key: &str| e.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
                Some((line("event:")?.to_string(), serde_json::from_str(line("data:")?).ok()?))
            })
            .collect();
        if events.len() >= count {
            return events;
        }
        match tokio::time::timeout(PATIENCE, response.chunk()).await.unwrap().unwrap() {
            Some(chunk) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
            None => return events,
        }
    }
}

/// Requirement: R3-32, R3-33
#[tokio::test]
async fn a_subscriber_gets_one_event_per_value_and_closing_unsubscribes() {
    let server = Server::start().await;
    let mut stream = server.get("/v1/services/A/metrics/cost/events").await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(server.fake.calls.subscribers.load(Ordering::SeqCst), 1);
    let values = json!([{"value": 1}, {"value": 1}, {"value": 2}]);
    ok(server.send(Method::POST, "/v1/services/A/metrics/cost/samples", Some(values)).await, 200).await;
    let events = read_events(&mut stream, 3).await;
    let values: Vec<_> =
        events.iter().map(|(name, e)| (name.as_str(), e["reading"]["value"].clone())).collect();
    assert_eq!(values, [("reading", json!(1.0)), ("reading", json!(1.0)), ("reading", json!(2.0))]);
    drop(stream);
    tokio::time::timeout(PATIENCE, server.fake.calls.unsubscribed.notified()).await.unwrap();
    assert_eq!(server.fake.calls.subscribers.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_mode_of_a_subscription_is_said_in_the_query() {
    let server = Server::start().await;
    let path = "/v1/services/A/metrics/cost/events";
    let stream = server.get(&format!("{path}?mode=interval&interval=2s&start=4s&duration=10s")).await;
    assert_eq!(stream.status(), 200);
    let seconds = homeostat::model::HumanDuration::seconds;
    assert_eq!(
        server.fake.calls.modes.lock().unwrap()[0],
        homeostat::model::ports::SubscriptionMode::Interval {
            interval: seconds(2),
            start: Some(seconds(4)),
            duration: Some(seconds(10)),
        }
    );
    problem(server.get(&format!("{path}?mode=interval")).await, 400, "invalid").await;
    problem(server.get(&format!("{path}?mode=sometimes")).await, 400, "invalid").await;
    problem(server.get("/v1/services/A/metrics/no/events").await, 404, "no-such-metric").await;
}

#[tokio::test]
async fn events_of_the_loop_are_streamed_and_end_when_the_server_stops() {
    let mut server = Server::start().await;
    let mut stream = server.get("/v1/events?service=A").await;
    for service in ["B", "A"] {
        let event = homeostat::service::control::Event {
            at: NOON,
            service: Some(service.into()),
            phase: "analyse".into(),
            correlation: None,
            text: format!("cost of {service} is too high"),
        };
        server.fake.events.send(event).unwrap();
    }
    let events = read_events(&mut stream, 1).await;
    assert_eq!(events[0].1["text"], "cost of A is too high");
    server.stop().await;
    let rest = read_events(&mut stream, 1).await;
    assert_eq!(rest[0].0, "end");
    assert!(stream.chunk().await.unwrap().is_none());
    assert!(server.client.get(server.url("/healthz")).send().await.is_err());
}

#[tokio::test]
async fn a_subscription_that_ends_says_so() {
    let server = Server::start().await;
    let mut stream = server.get("/v1/services/A/metrics/cost/events").await;
    server.fake.end_subscriptions("A");
    assert_eq!(read_events(&mut stream, 1).await[0].0, "end");
    let rest = stream.bytes_stream().collect::<Vec<_>>().await;
    assert!(rest.is_empty());
}

/// `docs/openapi.json` says what the code does. After a change on purpose: `UPDATE_OPENAPI=1 cargo test --test surface openapi`.
#[tokio::test]
async fn the_openapi_document_is_the_published_one() {
    let server = Server::start().await;
    let found = ok(server.get("/openapi.json").await, 200).await;
    assert_eq!(found["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        published == text,
        "docs/openapi.json is not what the code says; if that is on purpose, run `UPDATE_OPENAPI=1 cargo test --test surface openapi`"
    );
}

#[tokio::test]
async fn every_reference_of_the_openapi_document_leads_somewhere() {
    let document = serde_json::to_value(homeostat::api::openapi::document()).unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                into.push(reference.clone());
            }
            map.values().for_each(|v| collect(v, into));
        }
        Value::Array(all) => all.iter().for_each(|v| collect(v, into)),
        _ => {}
    }
}
