//! Sizes and nonsense over HTTP.

use std::fmt::Write;

use serde_json::json;

use super::support::{Daemon, policy, request, wait_for};

#[test]
fn ten_thousand_services_attach_and_answer() {
    let dir = tempfile::tempdir().unwrap();
    for part in 0..10 {
        let mut text = String::new();
        for i in 0..1_000 {
            write!(text, "---\nservice: s{part}-{i}\nmonitor: {{ sensors: {{ x: push }} }}\n").unwrap();
        }
        std::fs::write(dir.path().join(format!("p{part}.yaml")), text).unwrap();
    }
    let daemon = Daemon::start(dir.path(), &[]);
    assert_eq!(daemon.own_metric("homeostat_services"), Some(10_000.0));
    let samples: Vec<_> =
        (0..1_000).map(|i| json!({"service": format!("s7-{i}"), "metric": "x", "value": i})).collect();
    let (status, answer) = daemon.call("POST", "/v1/samples", Some(&samples.into()));
    assert_eq!((status, &answer["accepted"]), (200, &json!(1_000)));
    daemon.wait_value("s7-999", "x", 999.0);
    assert_eq!(daemon.get("/v1/services").as_array().unwrap().len(), 10_000);
    daemon.stop();
}

#[test]
fn nonsense_is_refused_in_its_place_and_the_rest_is_taken() {
    let dir = policy("service: a\nmonitor: { sensors: { x: push, y: push }, metrics: { z: x + y } }\n");
    let daemon = Daemon::start(dir.path(), &[]);
    let samples = json!([
        {"service": "a", "metric": "x", "value": 1},
        {"service": "a", "metric": "nothing", "value": 2},
        {"service": "nobody", "metric": "x", "value": 3},
        {"service": "a", "metric": "z", "value": 4},
        {"service": "a", "metric": "x", "value": 5, "at": "2999-01-01T00:00:00Z"},
        {"service": "a", "metric": "y", "value": 6},
    ]);
    let (status, answer) = daemon.call("POST", "/v1/samples", Some(&samples));
    assert_eq!((status, &answer["accepted"]), (200, &json!(2)), "{answer}");
    let refused: Vec<_> = answer["errors"].as_array().unwrap().iter().map(|e| e["index"].as_u64()).collect();
    assert_eq!(refused, [Some(1), Some(2), Some(3), Some(4)], "{answer}");
    daemon.wait_value("a", "z", 7.0);
    let post = |body: &str| request(daemon.address, "POST", "/v1/samples", body).unwrap();
    assert_eq!(post("[{\"service\": \"a\", \"metric\": \"x\", \"value\": NaN}]").0, 400);
    assert_eq!(post("[{\"service\": \"a\", \"metric\": \"x\", \"value\": 1e999}]").0, 400);
    assert_eq!(post("[{\"service\": \"a\"").0, 400);
    assert_eq!(post(&"[".repeat(100_000)).0, 400);
    assert_eq!(post(&format!("[{}", " ".repeat(2 << 20))).0, 413);
    assert_eq!(post("[{\"service\": \"b\", \"metric\": \"x\", \"value\": 1}]").0, 422);
    assert_eq!(daemon.call("GET", "/v1/services/%00%ff", None).0 / 100, 4);
    assert_eq!(daemon.call("DELETE", "/metrics", None).0, 405);
    daemon.stop();
}

#[test]
fn pushes_of_unknown_names_do_not_fill_the_memory() {
    let dir = policy("service: a\nmonitor: { sensors: { x: push } }\n");
    let daemon = Daemon::start(dir.path(), &[]);
    let resident = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", daemon.process.id())).ok()?;
        statm.split(' ').nth(1)?.parse::<u64>().ok()
    };
    let push = |round: u32| {
        let samples: Vec<_> = (0..2_000)
            .map(|i| {
                let (service, metric) = if i % 2 == 0 { ("a", "n") } else { ("s", "m") };
                json!({"service": format!("{service}{}", if i % 2 == 0 { String::new() } else { format!("{round}-{i}") }),
                    "metric": format!("{metric}-{round}-{i}-{}", "long".repeat(20)), "value": 1})
            })
            .collect();
        daemon.call("POST", "/v1/samples", Some(&samples.into())).0
    };
    for round in 0..3 {
        assert_eq!(push(round), 422);
    }
    let Some(before) = resident() else { return };
    for round in 3..15 {
        assert_eq!(push(round), 422);
    }
    let after = resident().unwrap();
    // 24,000 names of 100 bytes would be more than 600 pages.
    assert!(after < before + 500, "{before} pages, then {after}");
    wait_for("an answer", || (request(daemon.address, "GET", "/healthz", "").ok()?.0 == 200).then_some(()));
    daemon.stop();
}
