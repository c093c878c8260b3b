//! Observers: every result to each of them, once and in order, and none of them delays another.

use std::net::{TcpListener, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::support::{Server, wait_for};
use super::*;

fn tower() -> Tower {
    let tower = Tower::start();
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    tower.register(&collector("CPU", &["vm1"], 60));
    tower
}

fn observe(tower: &Tower, observer: &Value) -> Value {
    let answer = tower.expect(201, "POST", "/v1/metrics/AverageCPU/observers", &observer.to_string());
    serde_json::from_str(&answer).unwrap()
}

/// Requirement: R2-05
#[test]
fn observers_are_added_listed_and_removed() {
    let tower = tower();
    let added = observe(&tower, &json!({ "callbackUrl": "http://127.0.0.1:1/x" }));
    assert_eq!(
        (&added["format"], &added["protocol"], &added["observerPort"]),
        (&json!("RDF/JSON"), &json!("HTTP"), &json!(0))
    );
    let second = observe(
        &tower,
        &json!({ "format": "GRAPHITE", "protocol": "TCP", "observerHost": "127.0.0.1", "observerPort": 2003 }),
    );
    assert_eq!(tower.get("/v1/metrics/AverageCPU/observers"), json!([added, second]));
    let path = |id: &Value| format!("/v1/metrics/AverageCPU/observers/{}", id["id"].as_str().unwrap());
    tower.expect(204, "DELETE", &path(&added), "");
    tower.expect(404, "DELETE", &path(&added), "");
    assert_eq!(tower.get("/v1/metrics/AverageCPU/observers"), json!([second]));
    for (bad, word) in [
        ("{", "EOF"),
        ("{}", "callbackUrl"),
        (r#"{"callbackUrl":"ftp://x/"}"#, "http://"),
        (r#"{"callbackUrl":"nonsense"}"#, "URL"),
        ("[null]", "object"),
        (r#"{"format":"XML","callbackUrl":"http://x/"}"#, "TOWER/JSON"),
        (r#"{"protocol":"SCTP"}"#, "HTTP, TCP, UDP"),
        (r#"{"protocol":"UDP","observerPort":5}"#, "observerHost"),
        (r#"{"protocol":"TCP","observerHost":"x","observerPort":70000}"#, "65535"),
    ] {
        let answer = tower.ask("POST", "/v1/metrics/AverageCPU/observers", bad);
        assert!(answer.status == 400 && answer.body.contains(word), "{bad}: {answer:?}");
    }
    tower.expect(404, "POST", "/v1/metrics/Nothing/observers", r#"{"callbackUrl":"http://x/"}"#);
    tower.expect(404, "GET", "/v1/metrics/Nothing/observers", "");
    tower.expect(204, "DELETE", "/v1/monitoring-rules/A", "");
    tower.expect(404, "GET", "/v1/metrics/AverageCPU/observers", "");
}

/// Every connection's text, as an observer over TCP gets it.
fn listen() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            if tell.send(text).is_err() {
                return;
            }
        }
    });
    (port, told)
}

/// Requirement: R2-05, R2-08
#[test]
fn every_protocol_and_every_format_gets_each_result_once_and_in_order() {
    let tower = tower();
    let http = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let (port, tcp) = listen();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let formats = ["RDF/JSON", "TOWER/JSON", "GRAPHITE", "INFLUXDB", "INFLUXDB-LINE"];
    for format in formats {
        let path = format.replace('/', "-");
        observe(&tower, &json!({ "format": format, "callbackUrl": format!("{}/{path}", http.url()) }));
    }
    observe(
        &tower,
        &json!({ "format": "GRAPHITE", "protocol": "TCP", "observerHost": "127.0.0.1", "observerPort": port }),
    );
    let udp = socket.local_addr().unwrap().port();
    observe(
        &tower,
        &json!({ "format": "INFLUXDB", "protocol": "UDP", "observerHost": "localhost", "observerPort": udp }),
    );
    let seconds = |text: &str| text.trim_end().rsplit(' ').next().unwrap().parse::<i64>().unwrap();
    for round in 1..=3 {
        let value = f64::from(round) + 0.25;
        tower.send("CPU", &[("vm1", value)]);
        let all = wait_for("all over HTTP", || {
            let got = http.got("POST");
            (got.len() == formats.len() * round as usize).then_some(got)
        });
        let of = |path: &str| all.iter().rfind(|got| got.path == path).unwrap().body.clone();
        let line = tcp.recv_timeout(support::PATIENCE).unwrap();
        assert_eq!(line, of("/GRAPHITE"), "the same everywhere");
        assert_eq!(line, format!("vm1.AverageCPU {value} {}\n", seconds(&line)));
        let mut datagram = vec![0; 65_536];
        let (length, _) = socket.recv_from(&mut datagram).unwrap();
        assert_eq!(String::from_utf8_lossy(&datagram[..length]), of("/INFLUXDB"));
        let tower_json: Value = serde_json::from_str(&of("/TOWER-JSON")).unwrap();
        let millis = tower_json[0]["timestamp"].as_i64().unwrap();
        assert_eq!(
            tower_json,
            json!([{ "resourceId": "vm1", "metric": "AverageCPU", "value": value, "timestamp": millis }])
        );
        assert_eq!(millis / 1000, seconds(&line));
        assert_eq!(
            of("/INFLUXDB"),
            format!(
                "[{{\"name\":\"AverageCPU\",\"columns\":[\"time\",\"value\",\"resourceId\"],\"points\":[[{millis},{value},\"vm1\"]]}}]"
            )
        );
        assert!(
            of("/INFLUXDB-LINE").starts_with(&format!("AverageCPU,resourceId=vm1 value={value} {millis}"))
        );
        assert!(of("/RDF-JSON").contains("http://www.modaclouds.eu/model#MonitoringDatum"));
    }
    wait_for("the counter", || (tower.counter("results_delivered") == 21).then_some(()));
    assert_eq!(tower.counter("results_lost"), 0);
}

#[test]
fn an_observer_that_does_not_answer_delays_nobody_and_one_that_fails_is_tried_again() {
    let tower = tower();
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let quick = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let failures = std::sync::atomic::AtomicUsize::new(0);
    let fails = Server::start(move |_| {
        let number = failures.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        (Duration::ZERO, if number < 2 { 503 } else { 200 }, String::new())
    });
    let refuses = Server::start(|_| (Duration::ZERO, 404, String::new()));
    let hanging = format!("http://{}/", hangs.local_addr().unwrap());
    for url in [hanging, "http://127.0.0.1:1/".into(), fails.url(), refuses.url(), quick.url()] {
        observe(&tower, &json!({ "format": "TOWER/JSON", "callbackUrl": url }));
    }
    tower.send("CPU", &[("vm1", 1.0)]);
    wait_for("the quick one", || (quick.got("POST").len() == 1).then_some(()));
    wait_for("the third attempt", || (fails.got("POST").len() == 3).then_some(()));
    wait_for("what cannot be delivered to be counted", || (tower.counter("results_lost") == 3).then_some(()));
    assert_eq!(tower.counter("results_delivered"), 2);
    assert_eq!(refuses.got("POST").len(), 1, "a refusal is an answer");
    tower.send("CPU", &[("vm1", 1.0)]);
    wait_for("the next", || (quick.got("POST").len() == 2).then_some(()));
}

/// Requirement: R2-05
#[test]
fn what_the_server_counts_is_in_the_metrics_of_the_daemon() {
    let tower = tower();
    let observer =
        observe(&tower, &json!({ "protocol": "UDP", "observerHost": "127.0.0.1", "observerPort": 9 }));
    let id = observer["id"].as_str().unwrap();
    tower.expect(500, "POST", &stream("nothing"), "[]");
    let text = tower.own_metrics();
    for line in [
        "homeostat_tower_unknown_streams_total 1".to_string(),
        "homeostat_tower_collectors 1".into(),
        format!("homeostat_tower_observer_queue{{metric=\"AverageCPU\",observer=\"{id}\"}} 0"),
        format!("homeostat_tower_observer_lost_total{{metric=\"AverageCPU\",observer=\"{id}\"}} 0"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert!(text.contains("# TYPE homeostat_tower_data counter\n"), "{text}");
    let here = tower.expect(200, "GET", "/metrics", "");
    for line in here.lines().filter(|line| line.starts_with("homeostat_tower_")) {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    tower.stop();
}
