//! Every question of the command line once, against a real daemon.

use std::io::Read;

use super::support::{Daemon, Process, policy, request, wait_for};

const POLICY: &str = "
service: web
monitor:
  sensors: { load: push, busy: push }
  metrics: { double: 2 * load }
  history: 5
analyze:
  calm: { objective: load < 10, severity: minor }
plan:
  - { when: calm, mode: advise, do: [{ remember: { key: hint, value: slow down } }] }
execute:
  set: log
";

#[test]
fn metrics_are_pushed_read_inserted_and_removed() {
    let dir = policy(POLICY);
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.expect(1, &["get", "web", "load"]);
    daemon.expect(5, &["get", "web", "nothing"]);
    daemon.expect(5, &["get", "nobody", "load"]);
    daemon.expect(0, &["metric", "push", "web", "load", "1", "2", "3"]);
    daemon.wait_value("web", "double", 6.0);
    assert!(daemon.expect(0, &["get", "web"]).contains("double"));
    daemon.expect(0, &["metric", "insert", "web", "triple", "3 * load"]);
    daemon.wait_value("web", "triple", 9.0);
    daemon.expect(4, &["metric", "insert", "web", "triple", "3 * load"]);
    daemon.expect(4, &["metric", "insert", "web", "bad", "load +"]);
    let cycle = daemon.cli(&["metric", "insert", "web", "loop", "loop + 1"]);
    assert!(cycle.code == 4 && cycle.err.contains("loop"), "{cycle:?}");
    // A slip in an insertion is refused; what a removal leaves open is unresolved, and says so (R3-35).
    daemon.expect(4, &["metric", "insert", "web", "open", "later + 1"]);
    daemon.expect(0, &["metric", "insert", "web", "six", "2 * triple"]);
    daemon.expect(4, &["metric", "push", "web", "double", "1"]);
    // Any kind of sensor is one.
    let ping = format!("{{ping: {{tcp: '{}', every: 50ms}}}}", daemon.address);
    daemon.expect(0, &["metric", "insert", "web", "there", &ping]);
    daemon.wait_value("web", "there", 1.0);
    daemon.expect(0, &["metric", "remove", "web", "triple"]);
    assert!(daemon.expect(1, &["get", "web", "six"]).contains("triple"));
    daemon.expect(5, &["metric", "remove", "web", "triple"]);
    daemon.expect(2, &["metric", "push", "web", "load", "many"]);
    let history = daemon.get("/v1/services/web/metrics/load/history");
    assert!(history.to_string().contains("3"), "{history}");
    daemon.stop();
}

#[test]
fn a_follower_sees_every_value_in_order_and_leaves() {
    let dir = policy(POLICY);
    let daemon = Daemon::start(dir.path(), &[]);
    let url = daemon.url.clone();
    let mut watch = Process::start(&["watch", "web", "load", "--json", "-n", "4", "--url", &url]);
    // Values from before the subscription are not told; so until the first is heard, the same is pushed.
    let told = |watch: &Process| watch.log().lines().filter(|l| l.contains("\"value\"")).count();
    wait_for("the first value", || {
        daemon.expect(0, &["metric", "push", "web", "load", "1"]);
        (told(&watch) > 0).then_some(())
    });
    daemon.expect(0, &["metric", "push", "web", "load", "2", "3", "4"]);
    assert_eq!(watch.end(), 0);
    let log = watch.log();
    assert_eq!(told(&watch), 4, "{log}");
    daemon.expect(5, &["watch", "web", "nothing"]);

    // Events of the API end when the daemon stops.
    let mut stream = std::net::TcpStream::connect(daemon.address).unwrap();
    let ask =
        format!("GET /v1/services/web/metrics/load/events HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address);
    std::io::Write::write_all(&mut stream, ask.as_bytes()).unwrap();
    stream.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    daemon.stop();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn objectives_are_listed_added_switched_and_removed() {
    let dir = policy(POLICY);
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.expect(0, &["metric", "push", "web", "load", "3"]);
    daemon.expect(0, &["slo", "add", "web", "quiet", "double < 5"]);
    daemon.expect(4, &["slo", "add", "web", "quiet", "double < 5"]);
    let state = |name: &str| {
        let slos = daemon.get("/v1/services/web/slos");
        let one = slos.as_array().unwrap().iter().find(|s| s["name"] == name).cloned();
        one.map_or_else(String::new, |s| s["state"].to_string())
    };
    wait_for("quiet to be violated", || state("quiet").contains("violated").then_some(()));
    daemon.expect(0, &["slo", "disable", "web", "quiet"]);
    assert!(state("quiet").contains("disabled"));
    daemon.expect(0, &["slo", "enable", "web", "quiet"]);
    daemon.expect(0, &["slo", "remove", "web", "quiet"]);
    daemon.expect(5, &["slo", "remove", "web", "quiet"]);
    assert!(daemon.expect(0, &["slo", "list", "web", "--json"]).contains("calm"));
    daemon.stop();
}

#[test]
fn proposals_are_approved_actions_sent_and_knowledge_kept() {
    let dir = policy(POLICY);
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.expect(0, &["metric", "push", "web", "load", "50"]);
    let number = wait_for("a proposal", || {
        let decisions = daemon.get("/v1/decisions?service=web");
        decisions.as_array()?.first()?["id"].as_u64()
    });
    daemon.expect(5, &["knowledge", "get", "web", "hint"]);
    daemon.expect(0, &["approve", "web", &number.to_string()]);
    assert!(daemon.expect(0, &["knowledge", "get", "web", "hint"]).contains("slow down"));
    daemon.expect(0, &["knowledge", "put", "web", "limit", "{a: 1}"]);
    assert!(daemon.expect(0, &["knowledge", "list", "web"]).contains("limit"));
    daemon.expect(0, &["knowledge", "remove", "web", "limit"]);
    daemon.expect(0, &["send", "web", r#"{"set": {"property": "threads", "value": 10}}"#]);
    daemon.expect(1, &["send", "web", r#"[{"unbind": {"reference": "none"}}]"#]);
    let said = daemon.cli(&["send", "web", "no json"]);
    assert!(said.code == 2 || said.code == 4, "{said:?}");
    assert!(daemon.expect(0, &["why", "web"]).contains("calm"));
    assert!(daemon.expect(0, &["why"]).contains("web"));
    assert!(daemon.expect(0, &["topology"]).contains("web"));
    assert!(daemon.expect(0, &["status"]).contains("web"));
    daemon.stop();
}

#[test]
fn policies_are_applied_previewed_and_rolled_back() {
    let dir = policy(POLICY);
    let next = policy("service: web\n---\nservice: more\n");
    let bad = policy("service: web\nmonitor: { metrics: { a: b + 1 } }\n");
    let daemon = Daemon::start(dir.path(), &[]);
    let path = |dir: &tempfile::TempDir| dir.path().to_str().unwrap().to_string();
    let names = || {
        let services = daemon.get("/v1/services");
        services
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["name"].as_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    daemon.expect(4, &["rollback"]);
    assert!(daemon.expect(0, &["apply", &path(&next), "--dry-run"]).contains("more"));
    daemon.expect(4, &["apply", &path(&bad), "--dry-run"]);
    assert_eq!(daemon.own_metric("homeostat_policy_pending"), Some(0.0), "a question is no refused change");
    assert_eq!(names(), ["web"]);
    daemon.expect(0, &["apply", &path(&next)]);
    assert_eq!(names(), ["more", "web"]);
    assert!(daemon.expect(4, &["apply", &path(&bad)]).contains('b'));
    assert_eq!(daemon.own_metric("homeostat_policy_pending"), Some(1.0));
    // A change by hand does not hide that one from the files was refused.
    daemon.expect(0, &["detach", "more"]);
    assert_eq!(daemon.own_metric("homeostat_policy_pending"), Some(1.0));
    // Applying the same again is no change to go back from.
    daemon.expect(0, &["apply", &path(&next)]);
    daemon.expect(0, &["rollback"]);
    assert_eq!(names(), ["web"]);
    daemon.expect(0, &["get", "web"]);
    daemon.expect(0, &["reload"]);
    assert_eq!(daemon.own_metric("homeostat_policy_pending"), Some(0.0));
    assert_eq!(request(daemon.address, "GET", "/readyz", "").unwrap().0, 200);
    daemon.stop();
}
