//! Sensors and effectors of many kinds, and those that hang, lie or break.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Daemon, Fake, Server, policy, wait_for};

fn program(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_string()
}

/// A port that was free a moment ago.
fn free_udp() -> std::net::SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Requirement: R3-10
/// Requirement: R3-11
/// Requirement: R3-36
/// Requirement: R3-42
#[test]
fn one_question_reads_services_of_six_technologies() {
    let fake = Fake::start("web", &["cost=3"]);
    let (udp, statsd) = (free_udp(), free_udp());
    let dir = tempfile::tempdir().unwrap();
    let probe = program(dir.path(), "probe", "#!/bin/sh\necho 5\n");
    let nagios = program(
        dir.path(),
        "check_load",
        "#!/bin/sh\necho 'WARNING - load | load=7;5;10 time=0.1s'\nexit 1\n",
    );
    let act =
        program(dir.path(), "act", "#!/bin/sh\necho \"$1=$2\" > \"$(dirname \"$0\")/acted\"\necho did it\n");
    std::fs::write(
        dir.path().join("policy.yaml"),
        format!(
            "
service: http
monitor: {{ sensors: {{ cost: {{ http: {{ url: \"{0}/\", pointer: /cost, every: 100ms }} }} }} }}
execute: {{ set: {{ http: {{ method: PUT, url: \"{0}/{{property}}\", body: \"{{value}}\" }} }} }}
---
service: prometheus
monitor: {{ sensors: {{ cost: {{ prometheus: {{ url: \"{0}/metrics\", series: cost, every: 100ms }} }} }} }}
---
service: exec
monitor: {{ sensors: {{ cost: {{ exec: {{ command: [\"{probe}\"], every: 200ms }} }} }} }}
execute: {{ set: {{ exec: {{ command: [\"{act}\", \"{{property}}\", \"{{value}}\"] }} }} }}
---
service: nagios
monitor: {{ sensors: {{ cost: {{ nagios: {{ command: [\"{nagios}\"], every: 200ms }} }} }} }}
---
service: udp
monitor: {{ sensors: {{ cost: {{ udp: {{ listen: \"{udp}\", key: cost }} }} }} }}
---
service: statsd
monitor: {{ sensors: {{ cost: {{ statsd: {{ listen: \"{statsd}\", key: cost }} }} }} }}
---
service: all
references:
  h: {{ service: http }}
  p: {{ service: prometheus }}
  e: {{ service: exec }}
  n: {{ service: nagios }}
  u: {{ service: udp }}
  s: {{ service: statsd }}
monitor: {{ metrics: {{ cost: h.cost + p.cost + e.cost + n.cost + u.cost + s.cost }} }}
",
            fake.url
        ),
    )
    .unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    wait_for("datagrams to arrive", || {
        socket.send_to(b"cost 11\n", udp).unwrap();
        socket.send_to(b"cost:13|g", statsd).unwrap();
        (daemon.value("udp", "cost").is_some() && daemon.value("statsd", "cost").is_some()).then_some(())
    });
    let expected =
        [("http", 3.0), ("prometheus", 3.0), ("exec", 5.0), ("nagios", 7.0), ("udp", 11.0), ("statsd", 13.0)];
    for (service, cost) in expected {
        daemon.wait_value(service, "cost", cost);
    }
    daemon.wait_value("nagios", "cost_state", 1.0);
    daemon.wait_value("all", "cost", 42.0);
    assert!(daemon.expect(0, &["get", "nagios", "cost"]).contains('7'));
    let plugins = daemon.expect(0, &["plugins"]);
    for (service, part) in [
        ("exec", "sensor    cost  exec    "),
        ("nagios", "sensor    cost  nagios  "),
        ("exec", "effector  set   exec    "),
    ] {
        assert!(plugins.lines().any(|l| l.starts_with(service) && l.contains(part)), "{plugins}");
    }
    assert_eq!(plugins.lines().count(), 3, "{plugins}");
    // Two kinds of effectors.
    daemon.expect(0, &["send", "http", r#"{"set": {"property": "cost", "value": 4}}"#]);
    daemon.wait_value("all", "cost", 44.0);
    daemon.expect(0, &["send", "exec", r#"{"set": {"property": "level", "value": 9}}"#]);
    assert_eq!(std::fs::read_to_string(dir.path().join("acted")).unwrap(), "level=9\n");
    daemon.stop();
}

/// Requirement: R3-24
#[test]
fn what_hangs_delays_nobody_else_and_says_what_is_wrong() {
    let healthy = Arc::new(AtomicBool::new(false));
    let flag = healthy.clone();
    let server = Server::start(move |got| match (got.path.as_str(), flag.load(Ordering::SeqCst)) {
        ("/garbage", _) => (Duration::ZERO, 200, "\u{0}{{{ not an exposition 12 } \n\n%%".into()),
        (_, true) => (Duration::ZERO, 200, "8".into()),
        _ => (Duration::from_secs(5), 200, "8".into()),
    });
    let url = server.url();
    let dir = policy(&format!(
        "
service: silent
monitor: {{ sensors: {{ x: {{ http: {{ url: \"{url}/x\", every: 100ms, timeout: 300ms }} }} }} }}
execute: {{ set: {{ http: {{ method: PUT, url: \"{url}/{{property}}\", timeout: 2s }} }} }}
---
service: endless
monitor: {{ sensors: {{ x: {{ exec: {{ command: [\"/bin/sleep\", \"1000\"], every: 100ms, timeout: 300ms }} }} }} }}
execute: {{ set: {{ exec: {{ command: [\"/bin/sleep\", \"1000\"], timeout: 500ms }} }} }}
---
service: garbage
monitor: {{ sensors: {{ x: {{ prometheus: {{ url: \"{url}/garbage\", series: x, every: 100ms }} }} }} }}
---
service: gone
monitor: {{ sensors: {{ x: {{ http: {{ url: \"http://127.0.0.1:1/\", every: 100ms }} }} }} }}
---
service: far
references: {{ r: {{ service: silent }} }}
monitor: {{ metrics: {{ y: r.x + 1 }} }}
---
service: ok
monitor: {{ sensors: {{ x: push }} }}
"
    ));
    let daemon = Daemon::start(dir.path(), &["--shards", "1"]);
    daemon.expect(0, &["metric", "push", "ok", "x", "1"]);
    let reason = |service: &str| {
        let why = daemon.cli(&["get", service, "x"]);
        (why.code == 1).then_some(why.out + why.err.as_str())
    };
    for (service, part) in
        [("silent", "300ms"), ("endless", "300ms"), ("garbage", "x"), ("gone", "127.0.0.1:1")]
    {
        wait_for(&format!("{service} to say {part}"), || reason(service).filter(|r| r.contains(part)));
    }
    // A slow answer and two slow effectors are waited for, in threads of their own.
    let address = daemon.address;
    let slow: Vec<_> = [
        ("GET", "/v1/services/silent/metrics/x?max_age=0s", ""),
        ("GET", "/v1/services/far/metrics/y?max_age=0s", ""),
        ("POST", "/v1/services/silent/actions", r#"{"set": {"property": "p", "value": 1}}"#),
        ("POST", "/v1/services/endless/actions", r#"{"set": {"property": "p", "value": 1}}"#),
    ]
    .into_iter()
    .map(|(method, path, body)| {
        std::thread::spawn(move || super::support::request(address, method, path, body).unwrap())
    })
    .collect();
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(daemon.value("ok", "x"), Some(1.0));
            begin.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
    for answer in slow {
        let (status, body) = answer.join().unwrap();
        assert_eq!(status, 200, "{body}");
        assert!(!body.contains("\"done\""), "{body}");
    }
    // It answers again, and is heard again.
    healthy.store(true, Ordering::SeqCst);
    daemon.wait_value("silent", "x", 8.0);
    daemon.wait_value("far", "y", 9.0);
    daemon.stop();
}

/// Requirement: R3-16
#[test]
fn it_configures_heals_and_protects_itself() {
    let (one, two, gate) = (
        Fake::start("db1", &["alive=1"]),
        Fake::start("db2", &["alive=1"]),
        Fake::start("gate", &["rate=100"]),
    );
    let dir = policy(&format!(
        "
service: front
references: {{ db: {{ service: db1, candidates: [db2] }} }}
monitor:
  sensors: {{ load: push }}
  metrics: {{ up: db.alive, fleet: {{ of: alive, from: {{ class: Database }}, aggregate: sum, over: 60s }} }}
analyze:
  alive: {{ objective: up > 0, missing: violate }}
  calm: {{ objective: load < 80 }}
plan:
  - {{ when: alive, mode: act, do: [{{ replace: {{ from: db1, to: db2 }} }}] }}
  - {{ when: calm, mode: act, do: [{{ set: {{ property: rate, value: 10 }} }}] }}
execute:
  set: {{ http: {{ method: PUT, url: \"{}/{{property}}\", body: \"{{value}}\" }} }}
---
service: db1
class: Database
monitor: {{ sensors: {{ alive: {{ http: {{ url: \"{}/\", pointer: /alive, every: 100ms, stale_after: 300ms }} }} }} }}
---
service: db2
class: Database
monitor: {{ sensors: {{ alive: {{ http: {{ url: \"{}/\", pointer: /alive, every: 100ms, stale_after: 300ms }} }} }} }}
",
        gate.url, one.url, two.url
    ));
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.wait_value("front", "up", 1.0);
    // Healing: the database dies, the other takes its place.
    drop(one);
    wait_for("the other database", || {
        (daemon.get("/v1/services/front")["references"]["db"]["bound"] == "db2").then_some(())
    });
    daemon.wait_value("front", "up", 1.0);
    // Protecting: overload sets a rate limit.
    daemon.expect(0, &["metric", "push", "front", "load", "95"]);
    wait_for("the rate limit", || (gate.property("rate") == 10).then_some(()));
    // Configuring: a service that appears is counted by those who watch its kind.
    let three = Fake::start("db3", &["alive=40"]);
    std::fs::write(
        dir.path().join("db3.yaml"),
        format!(
            "service: db3\nclass: Database\nmonitor: {{ sensors: {{ alive: {{ http: {{ url: \"{}/\", pointer: /alive, every: 100ms }} }} }} }}\n",
            three.url
        ),
    )
    .unwrap();
    wait_for("the new one in the fleet", || daemon.value("front", "fleet").filter(|v| *v >= 41.0));
    daemon.stop();
}
