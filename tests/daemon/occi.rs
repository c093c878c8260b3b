//! OCCI with real processes: the alarm of the paper with a mail server, and sensors whose collectors run in probes.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Daemon, PATIENCE, Process, policy, request, wait_for};

const P: &str = "com.example.occi.monitoring";
const S: &str = "http://schemas.ogf.org/occi/monitoring#";

/// A daemon that speaks OCCI, and where.
fn occi(more: &[&str]) -> (tempfile::TempDir, Daemon, SocketAddr) {
    let dir = policy("service: none\n");
    let words = [&["--occi", "127.0.0.1:0"], more].concat();
    let mut daemon = Daemon::start(dir.path(), &words);
    let at = daemon.process.word_after("occi=").parse().unwrap();
    (dir, daemon, at)
}

/// Posts a model document; answers the status.
fn post(to: SocketAddr, document: &Value) -> (u16, String) {
    request(to, "POST", "/", &document.to_string()).unwrap()
}

/// A sensor that smooths what a collector on a probe measures, and sends it to a dashboard.
fn document(probe: &str, dashboard: SocketAddr, mixin: &str) -> Value {
    json!({
        "resources": [
            {
                "kind": "http://schemas.ogf.org/occi/infrastructure#compute", "id": "urn:uuid:c1",
                "mixins": ["http://example.com/occi/monitoring/resource#MetricContainer"],
                "attributes": { format!("{P}.MetricContainer.url"): format!("http://{probe}/collectors") },
            },
            {
                "kind": format!("{S}sensor"), "id": "urn:uuid:s1",
                "mixins": ["http://example.com/occi/monitoring/aggregator#EWMA", "http://example.com/occi/monitoring/publisher#SendUDP"],
                "attributes": {
                    "occi.sensor.period": 1,
                    format!("{P}.EWMA.gain"): 0, format!("{P}.EWMA.instream"): "a", format!("{P}.EWMA.outstream"): "b",
                    format!("{P}.SendUDP.udpAddr"): dashboard.to_string(), format!("{P}.SendUDP.input"): "b",
                },
            },
        ],
        "links": [{
            "kind": format!("{S}collector"), "id": "urn:uuid:k1",
            "source": { "location": "urn:uuid:s1" }, "target": { "location": "urn:uuid:c1" },
            "mixins": [format!("http://example.com/occi/monitoring/metric#{mixin}")],
            "attributes": { "occi.collector.period": 0.1, format!("{P}.{mixin}.out"): "a" },
        }],
    })
}

fn dashboard() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

/// The next value that the dashboard gets.
fn next(dashboard: &UdpSocket) -> f64 {
    let mut buffer = [0; 200];
    let length = dashboard.recv(&mut buffer).expect("a datagram in time");
    let text = std::str::from_utf8(&buffer[..length]).unwrap();
    let value = text.strip_prefix("Data: ").and_then(|text| text.strip_suffix('\n'));
    value.unwrap_or_else(|| panic!("{text:?}")).parse().unwrap()
}

/// Takes what has come so far.
fn drain(dashboard: &UdpSocket) {
    dashboard.set_nonblocking(true).unwrap();
    while dashboard.recv(&mut [0; 200]).is_ok() {}
    dashboard.set_nonblocking(false).unwrap();
}

/// Requirement: R0-19, R0-20, R0-21, R0-02, R1-57
#[test]
fn a_sensor_hands_its_collector_to_a_probe_whichever_of_the_two_is_started_anew() {
    let mut probe = Process::start(&["probe", "--listen", "127.0.0.1:0"]);
    let at = probe.word_after("listens on ");
    let data = tempfile::tempdir().unwrap();
    let more = ["--data-dir", data.path().to_str().unwrap()];
    let (_dir, daemon, to) = occi(&more);
    let (screen, shown) = dashboard();
    let (status, said) = post(to, &document(&at, shown, "LoadAverage"));
    assert_eq!(status, 201, "{said}");
    let load = next(&screen);
    assert!(load >= 0.0, "{load}");
    let (_, running) = request(at.parse().unwrap(), "GET", "/collectors", "").unwrap();
    let running: Vec<Value> = serde_json::from_str(&running).unwrap();
    assert_eq!(running.len(), 1);
    assert_eq!((&running[0]["collector"]["id"], &running[0]["output"]), (&json!("urn:uuid:k1"), &json!("a")));
    // Another probe at the same place.
    probe.kill();
    drain(&screen);
    let _probe = Process::start(&["probe", "--listen", &at]);
    next(&screen);
    // Another sensor over the same record; the probe runs on.
    daemon.stop();
    drain(&screen);
    let (_dir, _daemon, _) = occi(&more);
    next(&screen);
}

/// Requirement: R0-06
#[test]
fn a_sensor_goes_on_without_its_dashboard_and_without_one_of_its_probes() {
    let mut probes: Vec<Process> =
        (0..3).map(|_| Process::start(&["probe", "--listen", "127.0.0.1:0"])).collect();
    let places: Vec<String> = probes.iter_mut().map(|probe| probe.word_after("listens on ")).collect();
    let (_dir, daemon, to) = occi(&[]);
    let (screen, shown) = dashboard();
    let mut all = document(&places[0], shown, "LoadAverage");
    let mixin = "ArithmeticMean";
    all["resources"][1]["mixins"][0] =
        format!("http://example.com/occi/monitoring/aggregator#{mixin}").into();
    let attributes = all["resources"][1]["attributes"].as_object_mut().unwrap();
    attributes.retain(|name, _| !name.contains(".EWMA."));
    attributes.insert(format!("{P}.{mixin}.instream"), "a".into());
    attributes.insert(format!("{P}.{mixin}.outstream"), "b".into());
    for (n, place) in places.iter().enumerate().skip(1) {
        let (mut compute, mut collector) = (all["resources"][0].clone(), all["links"][0].clone());
        compute["id"] = format!("urn:uuid:c{n}{n}").into();
        compute["attributes"][format!("{P}.MetricContainer.url")] =
            format!("http://{place}/collectors").into();
        collector["id"] = format!("urn:uuid:k{n}{n}").into();
        collector["target"]["location"] = compute["id"].clone();
        all["resources"].as_array_mut().unwrap().push(compute);
        all["links"].as_array_mut().unwrap().push(collector);
    }
    assert_eq!(post(to, &all), (201, post_answer(to, &all)));
    next(&screen);
    probes[1].kill();
    drain(&screen);
    for _ in 0..5 {
        next(&screen);
    }
    drop(screen);
    let lines = || daemon.get("/v1/services/sensor-s1/metrics").to_string();
    let before = lines();
    wait_for("values without a dashboard", || (lines() != before).then_some(()));
    assert_eq!(daemon.own_metric("homeostat_publish_lost_total").unwrap_or_default(), 0.0);
}

/// What the answer to that document says: the places, in order.
fn post_answer(to: SocketAddr, all: &Value) -> String {
    let id = |value: &Value| value["id"].as_str().unwrap().trim_start_matches("urn:uuid:").to_string();
    let kind = |value: &Value| value["kind"].as_str().unwrap().rsplit('#').next().unwrap().to_string();
    let of = |list: &str| all[list].as_array().unwrap().clone();
    let lines = of("resources").into_iter().chain(of("links"));
    lines.map(|one| format!("X-OCCI-Location: http://{to}/{}/{}\r\n", kind(&one), id(&one))).collect()
}

/// Requirement: R0-04
#[test]
fn a_probe_in_another_language_works_as_well() {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/probe.py")).arg("0").stdout(Stdio::piped());
    let mut probe = command.spawn().unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(probe.stdout.take().unwrap()), &mut said)
        .unwrap();
    let at = said.trim().strip_prefix("listens on ").unwrap().to_string();
    let (_dir, _daemon, to) = occi(&[]);
    let (screen, shown) = dashboard();
    assert_eq!(post(to, &document(&at, shown, "LoadAverage")).0, 201);
    next(&screen);
    next(&screen);
    probe.kill().unwrap();
    probe.wait().unwrap();
}

/// Requirement: R1-45, R1-47
#[test]
fn the_alarm_of_the_paper_in_one_document_sends_one_mail() {
    let mut post_office = Process::start(&["sink", "smtp"]);
    let at = post_office.word_after("listens on ");
    let (_dir, daemon, to) = occi(&["--occi-mail", &format!("smtp://{at}")]);
    let text = include_str!("../../policies/cpu-alarm/alarm.occi.json");
    let mut all: Value = serde_json::from_str(text).unwrap();
    // In seconds, and over every load.
    let sensor = all["resources"][1]["attributes"].as_object_mut().unwrap();
    for (name, value) in [
        ("occi.sensor.period", 0.1),
        ("occi.sensor.timestart", 1.0),
        (&format!("{P}.EmailAlarm.threshold"), -1.0),
    ] {
        assert!(sensor.insert(name.into(), value.into()).is_some(), "{name}");
    }
    all["links"][0]["attributes"]["occi.collector.period"] = 0.1.into();
    let (status, said) = post(to, &all);
    assert_eq!(status, 201, "{said}");
    assert_eq!(post_office.word_after("mail to "), "<myself@example.com>:");
    // Ten samples later there is no other mail.
    let read = || daemon.own_metric("homeostat_samples_total").unwrap_or_default();
    let before = read();
    wait_for("ten samples more", || (read() > before + 10.0).then_some(()));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(post_office.log().matches("mail to").count(), 1, "{}", post_office.log());
}
