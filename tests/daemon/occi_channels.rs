//! How measurements come from a probe: the same pipeline in one process, over TCP and over a WebSocket; the same probe that pushes and that is
//! asked; who is what; and whether components of others would do.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::occi_support::{Dashboard, Documents, Occi, probe, sink};
use super::support::{Process, Server, request, wait_for};

/// A service that shows how often it was asked: 1, 2, 3, …
fn counting() -> Server {
    let count = Arc::new(AtomicU64::new(0));
    Server::start(move |_| (Duration::ZERO, 200, (count.fetch_add(1, Ordering::SeqCst) + 1).to_string()))
}

/// A sensor that measures, doubles and shows, where the resource is `urn:machine`.
fn pipeline(service: &Server, dashboard: &Dashboard) -> Documents {
    Documents::sensor("s", 0.2)
        .collector("c", "urn:machine", 0.2, "HttpProbe", json!({ "out": "a", "url": service.url() }))
        .with("aggregator#Expression", json!({ "instream": "a", "outstream": "b", "expression": "2 * a" }))
        .shown("b", dashboard)
}

/// What every channel must do: nothing is lost, doubled or out of order. `meanwhile`: what is looked at while it works. Answers the server: what it tells
/// others after it has answered, it must live to tell.
#[track_caller]
fn pipes(document: &Documents, dashboard: &Dashboard, meanwhile: impl FnOnce()) -> Occi {
    let occi = Occi::start(&[]);
    occi.create(document);
    let first = dashboard.next();
    assert!(first >= 2.0 && first % 2.0 == 0.0, "{first}");
    for n in 1..=8 {
        assert_eq!(dashboard.next(), first + 2.0 * f64::from(n));
    }
    meanwhile();
    // A collector that is deleted measures no more.
    occi.expect(200, "DELETE", "/collector/c", &Value::Null);
    assert_eq!(occi.state("/sensor/s"), "incomplete");
    occi
}

/// What a probe runs.
fn running(at: &str) -> String {
    request(at.parse().unwrap(), "GET", "/collectors", "").unwrap().1
}

/// A probe is told that a collector is no longer wanted.
#[track_caller]
fn ends(at: &str) {
    wait_for("the end of the collector", || (running(at).trim() == "[]").then_some(()));
}

/// Requirement: R0-24
#[test]
fn the_pipeline_works_within_one_process() {
    let (service, dashboard) = (counting(), Dashboard::new());
    pipes(&pipeline(&service, &dashboard), &dashboard, || {});
}

/// Requirement: R0-24
#[test]
fn the_same_pipeline_works_over_tcp() {
    let (service, dashboard, (_probe, at)) = (counting(), Dashboard::new(), probe(None));
    let _occi = pipes(&pipeline(&service, &dashboard).probe("urn:machine", &at, "tcp"), &dashboard, || {});
    ends(&at);
}

/// Requirement: R0-24
#[test]
fn the_same_pipeline_works_over_a_websocket() {
    let (service, dashboard, (_probe, at)) = (counting(), Dashboard::new(), probe(None));
    let _occi =
        pipes(&pipeline(&service, &dashboard).probe("urn:machine", &at, "websocket"), &dashboard, || {
            let running = running(&at);
            assert!(running.contains("\"ws://127.0.0.1:"), "{running}");
        });
    ends(&at);
}

#[test]
fn a_channel_over_a_websocket_is_made_again_when_the_probe_is_started_anew() {
    let (service, dashboard, (mut first, at)) = (counting(), Dashboard::new(), probe(None));
    let occi = Occi::start(&[]);
    occi.create(&pipeline(&service, &dashboard).probe("urn:machine", &at, "websocket"));
    let before = dashboard.next();
    first.kill();
    let _second = Process::start(&["probe", "--listen", &at]);
    let known = service.got("GET").len() as f64;
    dashboard.wait("values of the new probe", |value| value > before.max(2.0 * known));
}

/// Requirement: R1-55
#[test]
fn the_same_probe_pushes_and_is_asked() {
    let (service, (_probe, at)) = (counting(), probe(None));
    let (pushed, pulled) = (Dashboard::new(), Dashboard::new());
    let occi = Occi::start(&[]);
    // One definition of what is measured; where it is measured says how its values come.
    let what = json!({ "out": "a", "url": service.url() });
    let both = Documents::sensor("push", 0.2)
        .collector("c1", "urn:pushes", 0.2, "HttpProbe", what.clone())
        .shown("a", &pushed)
        .and_sensor("pull", 0.2)
        .collector("c2", "urn:is-asked", 0.2, "HttpProbe", what)
        .shown("a", &pulled)
        .probe("urn:pushes", &at, "tcp")
        .probe("urn:is-asked", &at, "pull");
    occi.create(&both);
    for dashboard in [&pushed, &pulled] {
        let first = dashboard.next();
        dashboard.wait("what is measured later", |value| value > first);
    }
    let at = at.parse().unwrap();
    let (_, running) = request(at, "GET", "/collectors", "").unwrap();
    let running: Vec<Value> = serde_json::from_str(&running).unwrap();
    let sensors: Vec<bool> = running.iter().map(|one| one["sensor"].is_string()).collect();
    assert_eq!(sensors.iter().filter(|pushes| **pushes).count(), 1, "{running:?}");
    // Whoever wants to know a value may ask, whichever way it goes.
    for one in &running {
        let path = format!("/collectors/{}/value", one["name"].as_str().unwrap());
        let (status, said) = request(at, "GET", &path, "").unwrap();
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{status}: {said}"));
        assert_eq!((status, &said["id"]), (200, &json!("a")));
        assert!(said["value"].as_f64().unwrap() >= 1.0 && said["time"].is_string(), "{said}");
    }
    assert_eq!(request(at, "GET", "/collectors/nobody/value", "").unwrap().0, 404);
}

#[test]
fn a_probe_connects_to_addresses_only() {
    let (_probe, at) = probe(None);
    let collector = pipeline(&counting(), &Dashboard::new()).links[0].clone();
    for sensor in
        ["example.com:80", "127.0.0.1", "wss://127.0.0.1:1/", "ws://127.0.0.1:1/path", "http://127.0.0.1:1/"]
    {
        let order = json!({ "collector": collector, "output": "a", "sensor": sensor }).to_string();
        let (status, said) = request(at.parse().unwrap(), "POST", "/collectors", &order).unwrap();
        assert_eq!(status, 400, "{said}");
        assert!(said.contains(sensor) && said.contains("IP:PORT"), "{said}");
    }
}

/// Requirement: R0-15
#[test]
fn probes_collect_and_sensors_process_and_both_are_called_so() {
    let (service, dashboard, (_probe, at)) = (counting(), Dashboard::new(), probe(None));
    let occi = Occi::start(&[]);
    occi.create(&pipeline(&service, &dashboard).probe("urn:machine", &at, "tcp"));
    dashboard.next();
    // The device that processes is a sensor: in the topology, among the services, and in the model.
    let topology = occi.daemon.get("/v1/topology");
    let sensors: Vec<&Value> = topology["components"].as_array().unwrap().iter().collect();
    let sensor = sensors.iter().find(|one| one["name"] == "sensor-s/monitor");
    assert_eq!(sensor.unwrap_or_else(|| panic!("{topology}"))["class"], "sensor");
    assert_eq!(occi.daemon.get("/v1/services/sensor-s")["class"], "sensor");
    let sensor = occi.get("/sensor/s");
    assert_eq!(sensor["links"][0]["target"]["location"], "/compute/urn_machine", "{sensor}");
    // What collects is a probe with collectors, which does nothing else.
    let (_, running) = request(at.parse().unwrap(), "GET", "/collectors", "").unwrap();
    let running: Vec<Value> = serde_json::from_str(&running).unwrap();
    assert_eq!(running.len(), 1);
    assert_eq!(running[0]["collector"]["kind"], super::occi_support::COLLECTOR);
    assert!(running[0]["name"].as_str().unwrap().starts_with("collector-"), "{running:?}");
}

/// Runs the conformance kit against a component.
#[track_caller]
fn conforms(words: &[&str]) {
    let kit = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/conformance.py");
    let output = Command::new("python3").arg(kit).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().count() >= 2 && said.lines().all(|line| line.starts_with("ok ")), "{said}");
}

/// Requirement: R0-05
#[test]
fn the_probe_conforms_to_its_published_interface() {
    let (_probe, at) = probe(None);
    conforms(&["probe", &format!("http://{at}/collectors"), "--with", "websocket,pull,manage"]);
}

/// Requirement: R0-05
#[test]
fn a_probe_that_somebody_else_wrote_conforms_as_well() {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/probe.py")).arg("0").stdout(Stdio::piped());
    let mut probe = command.spawn().unwrap();
    let mut said = String::new();
    let mut output = std::io::BufReader::new(probe.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut said).unwrap();
    let at = said.trim().strip_prefix("listens on ").unwrap();
    conforms(&["probe", &format!("http://{at}/collectors")]);
    probe.kill().unwrap();
    probe.wait().unwrap();
}

/// Requirement: R0-05
#[test]
fn the_sensor_conforms_to_its_published_interface() {
    let occi = Occi::start(&[]);
    conforms(&["sensor", &format!("http://{}", occi.at)]);
}

/// Requirement: R0-05
#[test]
fn the_dashboard_conforms_to_its_published_interface() {
    let (dashboard, at) = sink("udp");
    conforms(&["dashboard", &at]);
    wait_for("what was sent", || dashboard.log().contains("Data: 397.5356").then_some(()));
    // The kit tells who does not conform.
    drop(dashboard);
    let kit = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/conformance.py");
    let output = Command::new("python3").args([kit, "dashboard", &at]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Requirement: R0-05
#[test]
fn the_server_of_documents_conforms_to_its_published_interface() {
    let dir = tempfile::tempdir().unwrap();
    for id in ["c1", "c2"] {
        let document = json!({ "id": format!("urn:uuid:{id}"), "kind": super::occi_support::COMPUTE });
        std::fs::write(dir.path().join(format!("{id}.json")), document.to_string()).unwrap();
    }
    let mut server = Process::start(&["documents", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let at = server.word_after("listens on ");
    conforms(&["documents", &format!("http://{at}"), "urn:uuid:c1", "urn:uuid:c2"]);
}
