//! Data of many resources in a running daemon: what is recorded is replayed, data and model included.

use std::time::Duration;

use serde_json::json;

use super::support::{Daemon, homeostat, policy, request, wait_for};

const POLICY: &str = "
service: busy
references: { details: { service: details } }
monitor:
  sensors: { CPU: { collect: { from: [ { class: VM } ], parameters: { samplingTime: \"1\" } } } }
  metrics: { Busy: { of: CPU, aggregate: avg, every: 200ms, by: CloudProvider, having: value > 0.8, emit: Busy } }
analyze: { rule: { objective: Busy_results < 1, missing: ok } }
plan: [ { when: rule, do: [ { enable_slo: { service: details, slo: rule } } ], mode: act, cooldown: 200ms } ]
execute: {}
---
service: details
monitor:
  sensors: { busy: { collect: { metric: Busy } } }
  metrics: { Clouds: { of: busy, aggregate: count, every: 200ms } }
analyze: { rule: { objective: Clouds < 1, missing: ok, enabled: false } }
plan: [ { when: rule, do: [ { remember: { key: seen, value: yes } } ], mode: act, cooldown: 1s } ]
execute: {}
";

/// Requirement: R2-14, R2-31
#[test]
fn decisions_about_collected_data_are_replayed_byte_for_byte() {
    let dir = policy(POLICY);
    let other = tempfile::tempdir().unwrap();
    let record = other.path().join("record");
    let record = record.to_str().unwrap();
    let mut daemon =
        Daemon::start(dir.path(), &["--record", record, "--shards", "2", "--tower", "127.0.0.1:0"]);
    let tower = daemon.process.word_after("tower=").parse().unwrap();
    let send = |method: &str, path: &str, body: serde_json::Value| {
        request(tower, method, path, &body.to_string()).unwrap()
    };
    let (status, said) = send(
        "POST",
        "/v1/resources",
        json!([{ "clazz": "VM", "id": "vm1", "cloudProvider": "amazon" }, { "clazz": "VM", "id": "vm2", "cloudProvider": "flexiant" }]),
    );
    assert_eq!(status, 204, "{said}");
    let stream = "/streams/http%3A%2F%2Fwww.modaclouds.eu%2Fstreams%2FCPU";
    wait_for("a decision of each service", || {
        let data = json!([{ "resourceId": "vm1", "metric": "CPU", "value": 0.9 }, { "resourceId": "vm2", "metric": "CPU", "value": 0.1 }]);
        assert_eq!(send("POST", stream, data).0, 200);
        std::thread::sleep(Duration::from_millis(20));
        let seen = daemon.get("/v1/services/details/knowledge");
        seen.to_string().contains("seen").then_some(())
    });
    let busy = daemon.get("/v1/services/busy/metrics");
    assert!(
        busy.to_string().contains("Busy[amazon]") && !busy.to_string().contains("Busy[flexiant]"),
        "{busy}"
    );
    daemon.stop();
    let said = homeostat(&["replay", record], None);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("byte for byte"), "{said:?}");
    let text = std::fs::read_to_string(record).unwrap();
    for line in ["{\"data\":", "{\"model\":", "\"decision\""] {
        assert!(text.contains(line), "{line} is in the record");
    }
}
