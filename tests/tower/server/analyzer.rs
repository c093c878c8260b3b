//! The interface of the data analyzer: streams, queries, and observers of queries.

use std::time::Duration;

use serde_json::json;

use super::support::{Server, wait_for};
use super::*;

fn tower() -> Tower {
    let tower = Tower::start();
    let silent = rule("Silent", "CPU", "", "", &actions(&[&action("EnableRule", "ruleId", "A")]));
    let two = rule("Two", "CPU", "", "", &actions(&[&output_metric("One"), &output_metric("Other")]));
    tower.install(&batch(&[average("A", "CPU", "AverageCPU"), silent, two]));
    tower
}

/// Fails as the original does: 500 and a JSON string.
#[track_caller]
fn fails(tower: &Tower, method: &str, path: &str, body: &str, word: &str) {
    let said = tower.expect(500, method, path, body);
    let said: String = serde_json::from_str(&said).expect("a JSON string");
    assert!(said.contains(word), "{said}");
}

#[test]
fn streams_are_listed_opened_fed_and_closed() {
    let tower = tower();
    let iri = |metric: &str| format!("http://www.modaclouds.eu/streams/{metric}");
    assert_eq!(tower.get(&stream("CPU")), json!({ "streamIRI": iri("CPU") }));
    let all = tower.get("/streams");
    let all: Vec<&str> = all.as_array().unwrap().iter().map(|s| s["streamIRI"].as_str().unwrap()).collect();
    assert_eq!(all, ["AverageCPU", "CPU", "One", "Other"].map(iri));
    let datum = r#"[{"resourceId":"vm1","value":1}]"#;
    fails(&tower, "POST", &stream("RAM"), datum, "Specified stream does not exists");
    fails(&tower, "GET", &stream("RAM"), "", "Specified stream does not exists");
    fails(&tower, "DELETE", &stream("RAM"), "", "Specified stream does not exists");
    tower.expect(200, "PUT", &stream("RAM"), "");
    tower.expect(200, "POST", &stream("RAM"), datum);
    fails(&tower, "PUT", &stream("RAM"), "", "exists already");
    fails(&tower, "PUT", "/streams/RAM", "", "http://www.modaclouds.eu/streams/");
    for (name, word) in
        [("a%0Ab", "control character"), ("%20", "is empty"), (&*"x".repeat(201), "201 bytes")]
    {
        fails(&tower, "PUT", &stream(name), "", word);
    }
    tower.expect(200, "DELETE", &stream("RAM"), "");
    fails(&tower, "POST", &stream("RAM"), datum, "Specified stream does not exists");
    fails(&tower, "DELETE", &stream("CPU"), "", "as long as a rule");
    tower.stop();
}

#[test]
fn a_stream_that_was_opened_is_open_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Tower::start_with("", Some(dir.path()), Settings::default());
    let tower = start();
    tower.expect(200, "PUT", &stream("RAM%2Fused"), "");
    tower.stop();
    let tower = start();
    tower.expect(200, "POST", &stream("RAM%2Fused"), "[]");
    tower.stop();
}

#[test]
fn a_query_is_a_rule_that_is_paused_restarted_and_removed() {
    let tower = tower();
    let all = tower.get("/queries");
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|q| q["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["A", "Silent", "Two"]);
    let one = tower.get("/queries/A");
    assert_eq!((&one["status"], &one["metrics"]), (&json!("RUNNING"), &json!(["AverageCPU"])));
    assert_eq!(one["streams"], json!(["http://www.modaclouds.eu/streams/CPU"]));
    tower.expect(200, "POST", "/queries/A", "action=pause");
    assert_eq!(tower.get("/queries/A")["status"], "PAUSED");
    assert_eq!(tower.get("/queries")[0]["status"], "PAUSED");
    tower.expect(200, "POST", "/queries/A", "action=restart");
    assert_eq!(tower.get("/queries/A")["status"], "RUNNING");
    fails(&tower, "POST", "/queries/A", "action=dance", "expected action=pause");
    fails(&tower, "POST", "/queries/A", "", "expected action=pause");
    let refused = tower.expect(501, "PUT", "/queries/New", "REGISTER STREAM New AS CONSTRUCT {} WHERE {}");
    assert!(refused.contains("/v1/monitoring-rules"), "{refused}");
    for (method, body) in [("GET", ""), ("DELETE", ""), ("POST", "action=pause")] {
        fails(&tower, method, "/queries/New", body, "does not exist");
    }
    tower.expect(200, "DELETE", "/queries/A", "");
    fails(&tower, "GET", "/queries/A", "", "does not exist");
    tower.expect(404, "GET", "/v1/monitoring-rules/A?enabled=true", "");
    tower.stop();
}

/// Requirement: R2-05
#[test]
fn a_query_is_observed_as_its_metric_is() {
    let tower = tower();
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let form: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("callbackUrl", &sink.url())
        .append_pair("format", "TOWER/JSON")
        .append_pair("observerHost", "")
        .finish();
    let added: Value =
        serde_json::from_str(&tower.expect(200, "POST", "/queries/A/observers", &form)).unwrap();
    assert_eq!((&added["format"], &added["protocol"]), (&json!("TOWER/JSON"), &json!("HTTP")));
    assert_eq!(tower.get("/v1/metrics/AverageCPU/observers"), json!([added]));
    tower.register(&collector("CPU", &["vm1"], 60));
    tower.send("CPU", &[("vm1", 4.0)]);
    let told = wait_for("a result", || sink.got("POST").first().cloned());
    assert!(told.body.contains("AverageCPU"), "{}", told.body);
    let udp = "protocol=UDP&observerHost=127.0.0.1&observerPort=9&format=GRAPHITE";
    let second: Value =
        serde_json::from_str(&tower.expect(200, "POST", "/queries/A/observers", udp)).unwrap();
    assert_eq!(second["observerPort"], 9);
    assert_eq!(tower.get("/queries/A/observers").as_array().unwrap().len(), 2);
    for (query, body, word) in [
        ("A", "", "callbackUrl is missing"),
        ("A", "callbackUrl=ftp://h/", "http://"),
        ("A", "protocol=TCP&observerHost=h&observerPort=x", "observerPort"),
        ("A", "callbackUrl=http://h/&format=CSV", "no format"),
        ("Silent", "callbackUrl=http://h/", "puts out no metric"),
        ("Two", "callbackUrl=http://h/", "several metrics"),
        ("New", "callbackUrl=http://h/", "does not exist"),
    ] {
        fails(&tower, "POST", &format!("/queries/{query}/observers"), body, word);
    }
    let id = added["id"].as_str().unwrap();
    tower.expect(200, "DELETE", &format!("/queries/A/observers/{id}"), "");
    fails(&tower, "DELETE", &format!("/queries/A/observers/{id}"), "", "does not exist");
    fails(&tower, "DELETE", "/queries/Two/observers/x", "", "does not exist");
    tower.stop();
}
