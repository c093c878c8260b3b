//! The command line against a daemon in memory.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use futures::FutureExt;
use homeostat::cli::{Cli, Exit, Local, Output, execute};
use serde_json::{Value, json};

use crate::api::{Server, tokens};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const LOCAL: Local = Local {
    run: |options, _| async move { if options.dirs.is_empty() { Exit::Usage } else { Exit::Ok } }.boxed(),
    wrap: |options, _| async move { if options.command.is_empty() { Exit::Usage } else { Exit::Ok } }.boxed(),
    collect: |_, _| async { Exit::Ok }.boxed(),
    probe: |_, _| async { Exit::Ok }.boxed(),
    documents: |_, _| async { Exit::Ok }.boxed(),
    sensor: |_, _| async { Exit::Ok }.boxed(),
    deploy: |_, _| async { Exit::Ok }.boxed(),
    apply: |_, _| async { Exit::Ok }.boxed(),
    undeploy: |_, _| async { Exit::Ok }.boxed(),
    pack: |_, _| async { Exit::Ok }.boxed(),
    check: |_, _| async { Exit::Refused }.boxed(),
    test: |_, _| async { Exit::No }.boxed(),
    schema: |_, _| async { Exit::Ok }.boxed(),
    replay: |_, _| async { Exit::Ok }.boxed(),
};

async fn say(url: &str, args: &[&str]) -> (Exit, String) {
    let cli = Cli::try_parse_from(["homeostat"].iter().chain(args).copied().chain(["--url", url])).unwrap();
    let captured = Captured::default();
    let mut output = Output::to(&cli.common, Box::new(captured.clone()));
    let exit = tokio::time::timeout(Duration::from_secs(20), execute(cli, LOCAL, &mut output)).await.unwrap();
    let bytes = captured.0.lock().unwrap().clone();
    (exit, String::from_utf8(bytes).unwrap())
}

async fn ask(server: &Server, args: &[&str]) -> (Exit, String) {
    say(&server.url(""), args).await
}

async fn as_json(server: &Server, args: &[&str]) -> (Exit, Value) {
    let (exit, text) = ask(server, &[args, &["--json"]].concat()).await;
    (exit, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

#[tokio::test]
async fn local_commands_are_handed_over() {
    assert_eq!(say("http://127.0.0.1:1", &["run", "policies"]).await.0, Exit::Ok);
    assert_eq!(say("http://127.0.0.1:1", &["check", "policies"]).await.0, Exit::Refused);
    let (exit, script) = say("http://127.0.0.1:1", &["completions", "bash"]).await;
    assert_eq!(exit, Exit::Ok);
    assert!(script.contains("homeostat"));
}

#[tokio::test]
async fn status_says_how_everything_is_and_check_makes_it_an_exit_code() {
    let server = Server::start().await;
    let (exit, text) = ask(&server, &["status"]).await;
    assert_eq!(exit, Exit::Ok);
    assert!(text.contains("A  M A P E  cheap violated"), "{text}");
    assert_eq!(ask(&server, &["status", "--check"]).await.0, Exit::No);
    for service in ["A", "B"] {
        assert_eq!(ask(&server, &["slo", "disable", service, "cheap"]).await.0, Exit::Ok);
    }
    assert_eq!(ask(&server, &["status", "--check"]).await.0, Exit::Ok);
    let (_, value) = as_json(&server, &["status"]).await;
    assert_eq!(value["services"][0]["name"], "A");
}

#[tokio::test]
async fn a_missing_value_is_no_and_an_unknown_metric_is_not_found() {
    let server = Server::start().await;
    let (exit, text) = ask(&server, &["get", "A", "cost", "--max-age", "5s"]).await;
    assert_eq!(exit, Exit::Ok);
    assert!(text.starts_with("35, "), "{text}");
    let (exit, text) = ask(&server, &["get", "A", "latency"]).await;
    assert_eq!((exit, text.as_str()), (Exit::No, "missing: no sample yet\n"));
    assert_eq!(ask(&server, &["get", "A", "nope"]).await.0, Exit::NotFound);
    assert!(ask(&server, &["get", "A"]).await.1.contains("cpu[cpu0]"));
    let (exit, problem) = as_json(&server, &["get", "A", "nope"]).await;
    assert_eq!((exit, &problem["type"]), (Exit::NotFound, &json!("urn:homeostat:error:no-such-metric")));
}

#[tokio::test]
async fn watch_prints_one_line_per_value_and_ends_after_its_count() {
    let server = Server::start().await;
    let watching = ask(&server, &["watch", "A", "cost", "-n", "2"]);
    let pushing = async {
        while server.fake.calls.modes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let at = ["--at", "2026-11-22T12:00:00Z"];
        let args = [&["metric", "push", "A", "cost", "1.5", "-2", "3"][..], &at[..]].concat();
        ask(&server, &args).await
    };
    let ((exit, text), pushed) = tokio::join!(watching, pushing);
    assert_eq!((exit, text.as_str()), (Exit::Ok, "12:00:00  1.5\n12:00:00  -2\n"));
    assert_eq!(pushed, (Exit::Ok, "3 accepted\n".into()));
}

#[tokio::test]
async fn slos_and_metrics_are_added_and_removed() {
    let server = Server::start().await;
    assert_eq!(ask(&server, &["slo", "add", "A", "fast", "latency < 2s"]).await.0, Exit::Ok);
    let (_, list) = as_json(&server, &["slo", "list", "A"]).await;
    assert_eq!(list[1]["name"], "fast");
    assert!(ask(&server, &["slo", "list", "A"]).await.1.contains("cost = 35"));
    assert_eq!(ask(&server, &["slo", "enable", "A", "fast"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["slo", "remove", "A", "fast"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["slo", "add", "A", "fast", "{severity: minor}"]).await.0, Exit::Refused);
    let p99 = "{of: latency, aggregate: p99, over: 60s}";
    assert_eq!(ask(&server, &["metric", "insert", "A", "p99", p99]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["metric", "insert", "A", "p99", p99]).await.0, Exit::Refused);
    assert_eq!(ask(&server, &["metric", "remove", "A", "p99"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["metric", "push", "A", "cost", "NaN"]).await.0, Exit::Usage);
}

#[tokio::test]
async fn files_are_attached_whole_or_by_component_and_detached() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("N.yaml");
    std::fs::write(&file, "service: N\nmonitor: { sensors: { cost: push } }\n").unwrap();
    let file = file.to_str().unwrap();
    let (exit, text) = ask(&server, &["attach", "N", file]).await;
    assert_eq!(exit, Exit::Ok);
    assert!(text.starts_with("attached N\n"), "{text}");
    assert_eq!(ask(&server, &["attach", "M", file]).await.0, Exit::Refused);
    assert_eq!(ask(&server, &["attach", "A", file, "--component", "monitor"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["detach", "A", "--component", "plan"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["detach", "X"]).await.0, Exit::NotFound);
    assert_eq!(ask(&server, &["attach", "N", "/nonexistent.yaml"]).await.0, Exit::Usage);
}

#[tokio::test]
async fn a_directory_is_applied_and_tried() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("A.yaml"), "service: A\n").unwrap();
    let dir = dir.path().to_str().unwrap();
    assert!(ask(&server, &["apply", dir, "--dry-run"]).await.1.starts_with("would change 1 file(s)"));
    assert_eq!(ask(&server, &["apply", dir]).await.0, Exit::Ok);
    assert_eq!(server.fake.calls.applied.lock().unwrap()[0]["A.yaml"], "service: A\n");
    assert_eq!(ask(&server, &["reload"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["rollback"]).await.0, Exit::Refused);
}

/// Requirement: R3-57
#[tokio::test]
async fn an_action_that_is_not_done_is_a_no() {
    let server = Server::start().await;
    let set = r#"{"set": {"property": "threads", "value": 10}}"#;
    let (exit, text) = ask(&server, &["send", "A", set]).await;
    assert_eq!((exit, text.as_str()), (Exit::Ok, "set(threads, 10): done by A: 200 OK\n"));
    let both = format!("[{set}, {{\"start\": {{}}}}]");
    let (exit, text) = ask(&server, &["send", "A", &both]).await;
    assert_eq!(exit, Exit::No);
    assert!(text.contains("start(): refused by A: not declared"), "{text}");
    assert_eq!(ask(&server, &["send", "A", "{\"fly\": {}}"]).await.0, Exit::Refused);
    assert_eq!(ask(&server, &["approve", "A", "1"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["approve", "A", "2"]).await.0, Exit::Refused);
}

#[tokio::test]
async fn why_topology_and_knowledge_are_told() {
    let server = Server::start().await;
    let (exit, text) = ask(&server, &["why", "A", "-n", "1"]).await;
    assert_eq!(exit, Exit::Ok);
    for part in [
        "A, decision 3",
        "cheap: cost >= 30",
        "C1.cost = 20, 2s old",
        "C2 is cheaper",
        "replace(C1, C2): done",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(ask(&server, &["topology"]).await.1.contains("A/monitor  →  B/monitor  b1"));
    assert!(ask(&server, &["plugins"]).await.1.contains("A  sensor  disk  exec  probe /"));
    assert_eq!(ask(&server, &["knowledge", "put", "A", "k", "{a: 1}"]).await.0, Exit::Ok);
    assert_eq!(as_json(&server, &["knowledge", "get", "A", "k"]).await.1, json!({"a": 1}));
    assert_eq!(ask(&server, &["knowledge", "list", "A"]).await.1, "k  {\"a\":1}\n");
    assert_eq!(ask(&server, &["knowledge", "remove", "A", "k"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["knowledge", "get", "A", "k"]).await.0, Exit::NotFound);
}

#[tokio::test]
async fn without_a_daemon_or_a_token_the_exit_code_says_so() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(say(&format!("http://127.0.0.1:{port}"), &["status"]).await.0, Exit::Unreachable);
    assert_eq!(say("nonsense", &["status"]).await.0, Exit::Usage);
    let server = Server::with(tokens(), homeostat::api::Limits::default()).await;
    assert_eq!(ask(&server, &["status"]).await.0, Exit::Denied);
    assert_eq!(ask(&server, &["status", "--token", "look"]).await.0, Exit::Ok);
    assert_eq!(ask(&server, &["reload", "--token", "look"]).await.0, Exit::Denied);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "change\n").unwrap();
    assert_eq!(ask(&server, &["reload", "--token-file", file.path().to_str().unwrap()]).await.0, Exit::Ok);
}

/// Requirement: R3-26
#[tokio::test]
async fn answers_may_grow_without_harm_to_an_old_client() {
    use axum::{Json, Router, routing::get};
    let decisions = serde_json::to_value(vec![crate::fake::decision(1)]).unwrap();
    let mut grown = decisions.clone();
    grown[0]["risk"] = json!("low");
    grown[0]["alarm"]["runbook"] = json!("https://example.org");
    grown[0]["alarm"]["values"]["cost"]["quality"] = json!("good");
    let reading = json!({"state": "fresh", "value": 1.0, "at": "2026-11-22T12:00:00Z", "quality": "good"});
    let unknown = json!({"state": "estimated", "value": 1.0});
    let router = Router::new()
        .route("/v1/decisions", get(|| async { Json(grown) }))
        .route("/v1/services/A/metrics/known", get(|| async { Json(reading) }))
        .route("/v1/services/A/metrics/unknown", get(|| async { Json(unknown) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(homeostat::api::serve(listener, router, std::future::pending()));
    assert!(say(&url, &["why"]).await.1.contains("A, decision 1"));
    assert!(say(&url, &["get", "A", "known"]).await.1.starts_with("1, "));
    let (exit, text) = say(&url, &["get", "A", "unknown"]).await;
    assert_eq!(
        (exit, serde_json::from_str::<Value>(&text).unwrap()["state"].clone()),
        (Exit::Ok, json!("estimated"))
    );
    server.abort();
}

#[tokio::test]
async fn the_status_source_over_http_and_the_one_in_process_see_the_same() {
    use homeostat::cli::status::{Here, StatusSource};
    let server = Server::start().await;
    let here = Here::new(server.fake.clone()).snapshot().await.unwrap();
    let options = Cli::try_parse_from(["homeostat", "status", "--url", &server.url("")]).unwrap().daemon;
    let client = homeostat::cli::client::Client::new(&options).unwrap();
    let there = homeostat::cli::status::Remote::new(client).snapshot().await.unwrap();
    assert_eq!(here.services, there.services);
    assert_eq!(here.policy, there.policy);
    assert_eq!(here.decisions, there.decisions);
}
