//! What mixins measure, against what really happens: processors and interfaces of a machine whose `/proc` is written by the test or whose network
//! is the test's own, a store of keys and values, several providers, money.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::occi_support::{COMPUTE, Dashboard, Documents, Occi, SENSOR, mixin, name, of, probe};
use super::support::{Fake, PATIENCE, Server, wait_for};

/// The `/proc` of a machine that the test is; what is written there is seen whole or not at all.
struct Machine {
    dir: tempfile::TempDir,
    end: Arc<AtomicBool>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Machine {
    /// One that writes its files anew every ten milliseconds; `write` gets the seconds since it was started.
    fn run(write: impl Fn(f64) -> Vec<(&'static str, String)> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let (root, over) = (dir.path().to_path_buf(), end.clone());
        let begin = Instant::now();
        put_all(&root, &write(0.0));
        let writer = std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                put_all(&root, &write(begin.elapsed().as_secs_f64()));
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self { dir, end, writer: Some(writer) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        self.writer.take().map(std::thread::JoinHandle::join);
    }
}

fn put_all(root: &Path, files: &[(&str, String)]) {
    for (name, text) in files {
        let (file, new) = (root.join(name), root.join("new"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    }
}

/// A sensor that shows what a metric yields on a machine with a probe.
fn on_probe(at: &str, metric: &str, period: f64, mut attributes: Value, dashboard: &Dashboard) -> Documents {
    attributes["out"] = "a".into();
    Documents::sensor("s", period)
        .collector("c", "urn:machine", period, metric, attributes)
        .shown("a", dashboard)
        .probe("urn:machine", at, "tcp")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of four processors one is busy: 25 percent of the machine, whatever its load average says.
///
/// Requirement: R1-44
#[test]
fn one_busy_processor_of_four_is_a_quarter_of_the_machine() {
    let machine = Machine::run(|now| {
        // In hundredths of a second; all four have had as much time.
        let passed = (now * 100.0) as u64;
        let busy = format!("cpu0 {passed} 0 0 0 0 0 0 0 0 0\n");
        let idle: String = (1..4).map(|n| format!("cpu{n} 0 0 0 {passed} 0 0 0 0 0 0\n")).collect();
        let all = format!("cpu {passed} 0 0 {} 0 0 0 0 0 0\n", 3 * passed);
        let stat = format!("{all}{busy}{idle}ctxt 1\nbtime 1700000000\nprocesses 1\n");
        vec![("stat", stat), ("loadavg", "3.98 3.98 3.98 1/2 3\n".into())]
    });
    let (_probe, at) = probe(Some(machine.dir.path()));
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    occi.create(&on_probe(&at, "CPUPercent", 0.5, json!({}), &dashboard));
    dashboard.wait("a quarter", |value| value == 25.0);
    occi.expect(200, "DELETE", "/", &Value::Null);
    // What the prototype calls by that name has one of its own.
    let load = Dashboard::new();
    occi.create(&on_probe(&at, "LoadAverage", 0.5, json!({}), &load));
    load.wait("the load average times 100", |value| value == 398.0);
}

/// Requirement: R1-44
#[test]
fn the_processors_of_this_machine_are_between_idle_and_busy() {
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    let sensor = Documents::sensor("s", 0.5);
    occi.create(
        &sensor.collector("c", "urn:here", 0.5, "CPUPercent", json!({ "out": "a" })).shown("a", &dashboard),
    );
    for _ in 0..3 {
        let value = dashboard.next();
        assert!((0.0..=100.0).contains(&value), "{value}");
    }
    // One of N is kept busy: whoever else is at work, that much is.
    let end = Arc::new(AtomicBool::new(false));
    let over = end.clone();
    let busy = std::thread::spawn(move || while !over.load(Ordering::Relaxed) {});
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    dashboard.wait("one busy processor", |value| value > 0.3 * 100.0 / cores);
    end.store(true, Ordering::SeqCst);
    busy.join().unwrap();
}

/// Requirement: R1-31
#[test]
fn the_throughput_of_an_interface_is_what_its_counters_grow_by() {
    // 10 MB/s in and 2.5 MB/s out: 100 Mb/s; the other interface is not asked about.
    let machine = Machine::run(|now| {
        let (received, sent) = ((now * 10e6) as u64, (now * 2.5e6) as u64);
        let line = |name: &str, received: u64, sent: u64| {
            format!("{name:>6}: {received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0\n")
        };
        let head = "Inter-|   Receive                            |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n";
        let file = format!("{head}{}{}", line("eth0", received, sent), line("eth1", 1 << 40, 1 << 40));
        vec![("1/net/dev", file)]
    });
    let (_probe, at) = probe(Some(machine.dir.path()));
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    occi.create(&on_probe(&at, "NetworkThroughput", 1.0, json!({ "interface": "eth0" }), &dashboard));
    // The first comes of two looks that follow each other closely.
    dashboard.next();
    let found = median((0..7).map(|_| dashboard.next()).collect());
    assert!((found - 100.0).abs() <= 5.0, "{found} Mb/s");
}

/// Traffic of the test alone, over the loopback interface of a network of its own. Where processes may not have one, the test above stands alone.
///
/// Requirement: R1-31
#[test]
fn the_throughput_of_an_interface_is_the_traffic_that_goes_over_it() {
    let unshare = |command: &[&str]| {
        let mut all = Command::new("unshare");
        all.args(["-rn", "--kill-child"]).args(command);
        all
    };
    let may = unshare(&["ip", "link", "set", "lo", "up"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no network namespace may be made here");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/throughput.py");
    let output = unshare(&["python3", script, env!("CARGO_BIN_EXE_homeostat")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let (measured, generated) = (found["measured"].as_f64().unwrap(), found["generated"].as_f64().unwrap());
    assert!((measured - generated).abs() <= 0.05 * generated, "{found}");
}

/// A store of keys and values: lines `GET key` and `SET key value` over TCP, and how many there were over HTTP.
fn key_value_store() -> (SocketAddr, Server, Arc<AtomicU64>) {
    let queries = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, count) = (listener.local_addr().unwrap(), queries.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            std::thread::spawn(move || {
                let mut answers = stream.try_clone().unwrap();
                for _ in BufReader::new(stream).lines().map_while(Result::ok) {
                    count.fetch_add(1, Ordering::SeqCst);
                    if answers.write_all(b"nil\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    let count = queries.clone();
    let stats = Server::start(move |_| {
        let text = json!({ "stats": { "queries": count.load(Ordering::SeqCst) } }).to_string();
        (Duration::ZERO, 200, text)
    });
    (at, stats, queries)
}

/// Requirement: R1-33
#[test]
fn five_hundred_queries_in_ten_seconds_are_fifty_per_second() {
    let (store, stats, queries) = key_value_store();
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    let attributes = json!({ "out": "a", "url": stats.url(), "pointer": "/stats/queries", "over": 10 });
    let sensor = Documents::sensor("s", 0.5);
    occi.create(
        &sensor.collector("c", "urn:store", 0.5, "QueriesPerSecond", attributes).shown("a", &dashboard),
    );
    dashboard.wait("no queries", |value| value == 0.0);
    // Fifty a second, also when a moment was lost; in the end, for longer than the window.
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(store).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let begin = Instant::now();
        for n in 1..=1000_u32 {
            stream.write_all(b"GET key\n").unwrap();
            answers.read_line(&mut String::new()).unwrap();
            std::thread::sleep((Duration::from_millis(20) * n).saturating_sub(begin.elapsed()));
        }
    });
    let rate = dashboard.wait("fifty a second", |value| (49.0..=51.0).contains(&value));
    assert!(queries.load(Ordering::SeqCst) >= 450, "the window was full: {rate}");
    drop(client);
}

/// Requirement: R1-34
#[test]
fn a_service_that_runs_is_monitored_without_a_restart() {
    let service = Fake::start("shop", &["load=7"]);
    // What is only in its memory.
    service.set("session", "42");
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    let compute = json!({ "resources": [{ "kind": COMPUTE, "id": "urn:uuid:shop", "title": "shop" }] });
    occi.expect(201, "POST", "/", &compute);
    let attributes = json!({ "out": "a", "url": service.url, "pointer": "/load" });
    // First the sensor that collectors are attached to, then what it does with what comes.
    let sensor = Documents::sensor("s", 0.1);
    occi.create(&sensor.collector("c", "urn:uuid:shop", 0.1, "HttpProbe", attributes));
    assert_eq!(occi.state("/sensor/s"), "idle");
    let shown = Documents::sensor("s", 0.1).shown("a", &dashboard);
    occi.expect(200, "POST", "/sensor/s", &shown.resources[0]);
    assert_eq!(dashboard.next(), 7.0);
    service.set("load", "8");
    dashboard.wait("the new load", |value| value == 8.0);
    assert_eq!(service.property("session"), 42, "it has not been started anew");
    occi.expect(200, "DELETE", "/sensor/s", &Value::Null);
    assert_eq!(service.property("session"), 42);
}

/// What a machine has cost is a metric like others: 18 for it and 10 for another are 28, which is less than 30 (R3-50).
///
/// Requirement: R1-50
#[test]
fn the_cost_of_a_machine_is_part_of_the_cost_of_a_service() {
    let machine = Machine::run(|_| vec![("uptime", "7200.00 14000.00\n".into())]);
    let (_probe, at) = probe(Some(machine.dir.path()));
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    // Two hours at 9 an hour.
    occi.create(&on_probe(&at, "Cost", 0.5, json!({ "perhour": 9 }), &dashboard));
    dashboard.wait("its cost", |value| value == 18.0);
    let daemon = &occi.daemon;
    let put = |service: &str, document: Value| {
        let (status, said) = daemon.call("PUT", &format!("/v1/services/{service}"), Some(&document));
        assert!((200..300).contains(&status), "{status}: {said}");
    };
    put("C", json!({ "monitor": { "sensors": { "cost": "push" } } }));
    put(
        "A",
        json!({
            "references": { "b": { "service": "sensor-s" }, "c": { "service": "C" } },
            "monitor": { "metrics": { "cost": "b.a + c.cost" } },
            "analyze": { "cheap": { "objective": "cost < 30" } },
        }),
    );
    let push = |value: f64| {
        daemon.call("POST", "/v1/services/C/metrics/cost/samples", Some(&json!({ "value": value })))
    };
    push(10.0);
    daemon.wait_value("A", "cost", 28.0);
    let slo = || daemon.get("/v1/services/A/slos")[0]["state"].clone();
    wait_for("that it is cheap", || (slo() == "ok").then_some(()));
    push(12.0);
    daemon.wait_value("A", "cost", 30.0);
    wait_for("that it is not any more", || (slo() == "violated").then_some(()));
}

/// Requirement: R1-56
#[test]
fn two_providers_are_measured_by_one_sensor_in_their_own_languages() {
    let prometheus = Server::start(|_| {
        let text = "# TYPE node_load gauge\nnode_load{instance=\"a\"} 40\nnode_load{instance=\"b\"} 90\n";
        (Duration::ZERO, 200, text.into())
    });
    let cloud = Server::start(|_| {
        let points = json!({ "Label": "CPUUtilization", "Datapoints": [
            { "Timestamp": "2026-11-22T16:05:00Z", "Average": 60.0, "Unit": "Percent" },
            { "Timestamp": "2026-11-22T16:00:00Z", "Average": 10.0, "Unit": "Percent" },
        ]});
        (Duration::ZERO, 200, points.to_string())
    });
    let occi = Occi::start(&[]);
    let (one, both) = (Dashboard::new(), Dashboard::new());
    let series = json!({ "out": "load", "url": prometheus.url(), "series": "node_load{instance=\"a\"}" });
    let statistic = json!({ "out": "load, second", "url": cloud.url() });
    occi.create(
        &Documents::sensor("s", 0.2)
            .collector("c1", "urn:provider:one", 0.2, "Prometheus", series)
            .collector("c2", "urn:provider:two", 0.2, "CloudWatch", statistic)
            .with("aggregator#ArithmeticMean", json!({ "instream": "load", "outstream": "mean" }))
            .shown("mean", &both)
            .with("publisher#TCP", json!({ "input": "second", "address": "127.0.0.1:9" })),
    );
    both.wait("the mean of both", |value| value == 50.0);
    let second = Documents::sensor("s", 0.2).shown("second", &one);
    occi.expect(200, "POST", "/sensor/s", &second.resources[0]);
    assert_eq!(one.wait("the newest data point", |value| value == 60.0), 60.0);
    assert!(!cloud.got("GET").is_empty() && !prometheus.got("GET").is_empty());
}

/// Requirement: R1-56
#[test]
fn recommended_alarms_are_presets_and_each_runs_at_one_request() {
    let occi = Occi::start(&["--occi-mail", "smtp://127.0.0.1:9"]);
    let presets = [
        ("CPUAlarm", 80.0, "CPUPercent", json!({})),
        ("MemoryAlarm", 90.0, "MemoryPercent", json!({})),
        ("DiskAlarm", 85.0, "DiskUsage", json!({ "path": "/" })),
        ("ReachabilityAlarm", 0.5, "IsReachable", json!({ "hostname": "127.0.0.1:9" })),
    ];
    for (n, (term, threshold, metric, mut attributes)) in presets.into_iter().enumerate() {
        attributes["target"] = "urn:machine".into();
        attributes["email"] = "me@example.com".into();
        let id = format!("preset{n}");
        let sensor = json!({ "kind": SENSOR, "id": format!("urn:uuid:{id}"), "mixins": [mixin(&format!("template#{term}"))],
            "attributes": of(term, &attributes) });
        occi.expect(201, "POST", "/sensor/", &sensor);
        let made = occi.get(&format!("/sensor/{id}"));
        let state = occi.state(&format!("/sensor/{id}"));
        assert!(["active", "suspended"].contains(&state.as_str()), "{term}: {state}");
        assert_eq!(made["attributes"][name("EmailAlarm", "threshold")], threshold, "{made}");
        assert_eq!(made["links"][0]["mixins"][0], mixin(&format!("metric#{metric}")), "{made}");
        let without =
            json!({ "kind": SENSOR, "mixins": [mixin(&format!("template#{term}"))], "attributes": {} });
        let said = occi.expect(400, "POST", "/sensor/", &without);
        assert!(said.contains(&format!("{term}.target")), "{said}");
    }
}

/// The preset of reachability, in tenths of a second: three periods of silence become one mail.
///
/// Requirement: R1-56
#[test]
fn the_preset_of_reachability_mails_after_three_periods_of_silence() {
    let (mail, at) = super::occi_support::sink("smtp");
    let occi = Occi::start(&["--occi-mail", &format!("smtp://{at}")]);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut attributes = of(
        "ReachabilityAlarm",
        &json!({ "target": "urn:shop", "email": "me@example.com", "hostname": gone.to_string() }),
    );
    attributes.insert("occi.sensor.period".into(), 0.2.into());
    let sensor =
        json!({ "kind": SENSOR, "mixins": [mixin("template#ReachabilityAlarm")], "attributes": attributes });
    let begin = Instant::now();
    occi.expect(201, "POST", "/sensor/", &sensor);
    wait_for("a mail", || mail.log().contains("mail to <me@example.com>").then_some(()));
    assert!(begin.elapsed() >= Duration::from_millis(600) && begin.elapsed() < PATIENCE);
}
