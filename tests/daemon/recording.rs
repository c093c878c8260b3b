//! `run --record` and `replay`: the same decisions, byte for byte.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::support::{Daemon, Server, homeostat, wait_for};

fn yaml(url: &str, limit: u32) -> String {
    format!(
        "
service: A
references: {{ b: {{ service: B, candidates: [C] }} }}
monitor:
  sensors: {{ x: push, y: push }}
  metrics:
    sum: x + b.x
    p90: {{ of: y, aggregate: p90, over: 2s }}
analyze:
  low: {{ objective: sum < {limit} }}
  fast: {{ objective: p90 < 0.9, for: 10ms }}
plan:
  - {{ when: low, run: choose.rhai, mode: act, cooldown: 20ms }}
  - {{ when: fast, mode: act, cooldown: 20ms, do: [{{ set: {{ property: y, value: 1 }} }}] }}
execute:
  set: {{ http: {{ method: PUT, url: \"{url}/{{property}}\", body: \"{{value}}\" }} }}
---
service: B
monitor: {{ sensors: {{ x: push }} }}
---
service: C
monitor: {{ sensors: {{ x: push }} }}
analyze: {{ some: {{ objective: x < 50 }} }}
plan:
  - {{ when: some, run: endless.rhai, mode: act, cooldown: 50ms }}
"
    )
}

const CHOOSE: &str = "
fn plan(alarm) {
    let best = candidates(\"b\").min_by(|s| metric(s, \"x\"));
    because(`x is ${metric(\"x\")}`);
    if best != bound(\"b\") { [replace(bound(\"b\"), best)] } else { [set(\"x\", 1)] }
}";

const ENDLESS: &str = "
fn plan(alarm) {
    let text = \"\";
    loop { text = \"\"; text.pad(900, 'x'); text.split(\"x\"); }
}";

#[test]
fn a_recorded_run_is_replayed_byte_for_byte() {
    // Every third call fails.
    let count = std::sync::atomic::AtomicU32::new(0);
    let server = Server::start(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        (Duration::from_millis(2), if n.is_multiple_of(3) { 500 } else { 200 }, String::new())
    });
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("choose.rhai", CHOOSE);
    write("endless.rhai", ENDLESS);
    write("policy.yaml", &yaml(&server.url(), 100));
    let other = tempfile::tempdir().unwrap();
    let record = other.path().join("record");
    let record = record.to_str().unwrap();
    let daemon = Daemon::start(dir.path(), &["--record", record, "--shards", "3"]);
    for service in ["A", "B", "C"] {
        daemon.expect(0, &["metric", "push", service, "x", "1"]);
    }
    let address = daemon.address;
    let threads: Vec<_> = (0..4_u32)
        .map(|thread| {
            std::thread::spawn(move || {
                for round in 0..40_u32 {
                    let samples: Vec<_> = (0..50_u32)
                        .map(|i| {
                            let n =
                                (round * 50 + i).wrapping_mul(2_654_435_761).wrapping_add(thread * 77) >> 20;
                            let (service, metric) =
                                [("A", "x"), ("B", "x"), ("C", "x"), ("A", "y")][(i % 4) as usize];
                            let value =
                                if metric == "y" { f64::from(n) / 4096.0 } else { f64::from(n % 120) };
                            json!({"service": service, "metric": metric, "value": value})
                        })
                        .collect();
                    let body = serde_json::Value::from(samples).to_string();
                    let (status, answer) =
                        super::support::request(address, "POST", "/v1/samples", &body).unwrap();
                    assert_eq!(status, 200, "{answer}");
                }
            })
        })
        .collect();
    for limit in [60, 140, 90] {
        write("policy.yaml", &yaml(&server.url(), limit));
        daemon.expect(0, &["reload"]);
    }
    daemon.expect(0, &["slo", "disable", "A", "fast"]);
    daemon.expect(0, &["slo", "enable", "A", "fast"]);
    threads.into_iter().for_each(|t| t.join().unwrap());
    wait_for("a strategy that was cut off, and an action that failed", || {
        daemon.expect(0, &["metric", "push", "C", "x", "1", "99"]);
        daemon.expect(0, &["metric", "push", "A", "x", "1", "200"]);
        let failed = daemon.own_metric("homeostat_strategies_failed_total")?;
        let text = super::support::request(address, "GET", "/metrics", "").ok()?.1;
        (failed > 0.0 && text.contains("status=\"failed\"")).then_some(())
    });
    let messages = daemon.own_metric("homeostat_samples_total").unwrap();
    assert!(messages >= 8_000.0, "{messages}");
    daemon.stop();

    let said = homeostat(&["replay", record], None);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("byte for byte"), "{said:?}");
    let text = std::fs::read_to_string(record).unwrap();
    assert!(text.contains("\"decision\""));
    assert!(text.contains("\"m\":{\"cut\""), "the endless strategy was cut by the clock");

    // A crash cut off the last line.
    std::fs::write(record, &text[..text.len() - 20]).unwrap();
    let said = homeostat(&["replay", record], None);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("cut off"), "{said:?}");

    // Somebody changed what was decided.
    let decision = text.lines().find(|l| l.contains("\"m\":{\"decision\"")).unwrap();
    let tampered = text.replacen(decision, &decision.replace("\"violation\"", "\"warning\""), 1);
    assert_ne!(tampered, text);
    std::fs::write(record, &tampered).unwrap();
    let said = homeostat(&["replay", record], None);
    assert_eq!(said.code, 1, "{said:?}");

    // A daemon that was killed leaves a record that can be replayed as far as it goes.
    let mut daemon = Daemon::start(dir.path(), &["--record", record, "--shards", "3"]);
    for i in 0..200 {
        let samples = json!([{"service": "A", "metric": "x", "value": i % 2 * 150}, {"service": "B", "metric": "x", "value": i}]);
        daemon.call("POST", "/v1/samples", Some(&samples));
    }
    daemon.process.kill();
    let said = homeostat(&["replay", record], None);
    assert_eq!(said.code, 0, "{said:?}");

    // Somebody took a line out, or wrote nonsense.
    let lines: Vec<&str> = text.lines().collect();
    let without = [&lines[..5], &lines[6..]].concat().join("\n");
    std::fs::write(record, without).unwrap();
    assert_eq!(homeostat(&["replay", record], None).code, 2);
    let mut file = std::fs::File::create(record).unwrap();
    file.write_all(b"nonsense\n").unwrap();
    assert_eq!(homeostat(&["replay", record], None).code, 2);
    assert_eq!(homeostat(&["replay", "/no/such/file"], None).code, 2);
}

/// Requirement: R3-24
#[test]
fn a_slow_script_delays_nobody_and_its_result_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("endless.rhai", ENDLESS);
    write(
        "thorough.rhai",
        "fn plan(alarm) { let n = 0; for i in 0..200000 { n += 1; } [remember(\"n\", n)] }",
    );
    write(
        "policy.yaml",
        "
service: slow
monitor: { sensors: { x: push } }
analyze: { low: { objective: x < 10 } }
plan: [ { when: low, run: endless.rhai, mode: act, slow: 2s, cooldown: 1h } ]
---
service: thorough
monitor: { sensors: { x: push } }
analyze: { low: { objective: x < 10 } }
plan: [ { when: low, run: thorough.rhai, mode: act, slow: 1m, cooldown: 1h } ]
execute: {}
---
service: quick
monitor: { sensors: { x: push } }
analyze: { low: { objective: x < 10 } }
plan: [ { when: low, mode: act, do: [ { remember: { key: n, value: 1 } } ] } ]
execute: {}
",
    );
    let other = tempfile::tempdir().unwrap();
    let record = other.path().join("record");
    let record = record.to_str().unwrap();
    let daemon = Daemon::start(dir.path(), &["--record", record, "--shards", "1"]);
    let decided = |service: &str| {
        let decisions = daemon.get(&format!("/v1/decisions?service={service}"));
        decisions.as_array().and_then(|d| d.first().cloned())
    };
    daemon.expect(0, &["metric", "push", "slow", "x", "50"]);
    daemon.expect(0, &["metric", "push", "quick", "x", "50"]);
    daemon.expect(0, &["metric", "push", "thorough", "x", "50"]);
    wait_for("the quick one", || decided("quick").map(drop));
    assert_eq!(decided("slow"), None, "it still runs, and the only shard took turns meanwhile");
    let slow = wait_for("the slow one", || decided("slow"));
    assert!(slow["verdict"]["strategy_failed"].as_str().unwrap().contains("time was over"), "{slow}");
    wait_for("the thorough one", || decided("thorough").map(drop));
    assert!(daemon.expect(0, &["knowledge", "get", "thorough", "n"]).contains("200000"));
    daemon.stop();
    let said = homeostat(&["replay", record], None);
    assert!(said.code == 0 && said.out.contains("byte for byte"), "{said:?}");
}
