//! Everything at once: changes, pushes, questions, followers and actions from many sides, and then the end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Daemon, homeostat, policy, request, wait_for};

const POLICY: &str = "
service: a
references: { r: { service: b } }
monitor: { sensors: { x: push }, metrics: { y: x + r.x } }
analyze: { calm: { objective: y < 50 } }
plan: [{ when: calm, mode: act, cooldown: 10ms, do: [{ set: { property: p, value: 1 } }] }]
execute: { set: log }
---
service: b
monitor: { sensors: { x: push } }
";

#[test]
fn everything_at_once_leaves_a_daemon_that_answers_stops_and_can_be_replayed() {
    let dir = policy(POLICY);
    let other = tempfile::tempdir().unwrap();
    let record = other.path().join("record");
    let data = other.path().join("data");
    let daemon = Daemon::start(
        dir.path(),
        &["--record", record.to_str().unwrap(), "--data-dir", data.to_str().unwrap(), "--shards", "4"],
    );
    let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let address = daemon.address;
    let again = |work: fn(std::net::SocketAddr, u64) -> bool| {
        let (stop, failures) = (stop.clone(), failures.clone());
        std::thread::spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::SeqCst) {
                failures.fetch_add(u64::from(!work(address, n)), Ordering::SeqCst);
                n += 1;
            }
            n
        })
    };
    let threads = [
        // Pushes.
        again(|to, n| {
            let samples: Vec<Value> = (0..100)
                .map(|i| json!({"service": if i % 2 == 0 { "a" } else { "b" }, "metric": "x", "value": (n * 7 + i) % 60}))
                .collect();
            let answer = request(to, "POST", "/v1/samples", &Value::from(samples).to_string()).unwrap();
            // While `b` is detached, all of its samples are refused, and those of `a` are taken.
            answer.0 == 200
        }),
        // A service that comes and goes, and one whose parts do.
        again(|to, n| {
            let section = r#"{"sensors": {"x": "push"}, "metrics": {"z": "x * 2"}}"#;
            let ok = match n % 4 {
                0 => request(to, "DELETE", "/v1/services/b", ""),
                1 => request(
                    to,
                    "PUT",
                    "/v1/services/b",
                    r#"{"service": "b", "monitor": {"sensors": {"x": "push"}}}"#,
                ),
                2 => request(to, "PUT", "/v1/services/c/monitor", section),
                _ => request(to, "PUT", "/v1/services/b/monitor", section),
            };
            let status = ok.unwrap().0;
            if n % 4 == 2 { status == 404 } else { status == 200 }
        }),
        // Followers that leave at once.
        again(|to, _| {
            let mut stream = TcpStream::connect(to).unwrap();
            let ask =
                format!("GET /v1/services/a/metrics/y/events?mode=update HTTP/1.1\r\nHost: {to}\r\n\r\n");
            stream.write_all(ask.as_bytes()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            &head == b"HTTP/1.1 200"
        }),
        // Questions and actions.
        again(|to, n| {
            let answer = match n % 3 {
                0 => request(to, "GET", "/v1/services", ""),
                1 => request(to, "GET", "/metrics", ""),
                _ => {
                    request(to, "POST", "/v1/services/a/actions", r#"{"set": {"property": "p", "value": 2}}"#)
                }
            };
            answer.unwrap().0 == 200
        }),
    ];
    for i in 0..40 {
        std::fs::write(dir.path().join("policy.yaml"), POLICY.replace("< 50", &format!("< {}", 30 + i)))
            .unwrap();
        if i % 4 == 0 {
            daemon.expect(0, &["reload"]);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    stop.store(true, Ordering::SeqCst);
    let rounds: Vec<u64> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(rounds.iter().all(|n| *n > 0), "{rounds:?}");
    assert_eq!(failures.load(Ordering::SeqCst), 0, "{}", daemon.process.log());
    // Everything that was asked for has come to its end, and the numbers of decisions run without a gap.
    wait_for("the last policy", || {
        daemon.call("GET", "/v1/services/a/slos", None).1.to_string().contains("< 69").then_some(())
    });
    let decisions = daemon.get("/v1/decisions?service=a&limit=1000");
    let numbers: Vec<u64> = decisions.as_array().unwrap().iter().map(|d| d["id"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|w| w[0] == w[1] + 1), "{numbers:?}");
    assert_eq!(daemon.own_metric("homeostat_services_quarantined"), Some(0.0));
    daemon.stop();
    let said = homeostat(&["replay", record.to_str().unwrap()], None);
    assert_eq!(said.code, 0, "{said:?}");
}
