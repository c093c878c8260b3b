//! homeostat as a collector: against a server of its own kind, and against one that writes down what it hears.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use homeostat::dialects::tower::collector::{Collector, Settings};

use super::support::{Got, Process, Server, homeostat, policy, wait_for};
use super::*;

fn machine(sensors: &str) -> String {
    format!(
        "resource: amazon
class: CloudProvider
type: IaaS
---
service: vm1
class: VM
type: Frontend
relations: {{ cloudProvider: amazon }}
monitor: {{ sensors: {{ {sensors} }} }}
---
service: nobody
monitor: {{ sensors: {{ Hidden: push }} }}
"
    )
}

fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Requirement: R2-02, R2-04, R2-10, R2-12, R2-34
#[test]
fn a_metric_of_this_host_becomes_the_result_of_a_rule_and_is_measured_only_meanwhile() {
    let tower = Tower::start();
    let runs = tempfile::NamedTempFile::new().unwrap();
    let file = runs.path().display();
    let dir = policy(&machine(&format!(
        "Memory: {{ host: {{ what: memory_used }} }}, Answer: {{ exec: {{ command: [ sh, -c, \"echo x >> {file}; echo 42\" ] }} }}"
    )));
    let manager = format!("http://{}", tower.address);
    let mut collector =
        Process::start(&["collect", "--manager", &manager, dir.path().to_str().unwrap(), "--shards", "1"]);
    let vm = wait_for("the model", || {
        let answer = tower.ask("GET", "/v1/resources/vm1", "");
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!((&vm["clazz"], &vm["cloudProvider"]), (&"VM".into(), &"amazon".into()));
    assert_eq!(tower.ask("GET", "/v1/resources/nobody", "").status, 404, "it has no class");
    assert_eq!(lines(runs.path()), 0, "nobody asks");

    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let rules = ["Memory", "Answer"].map(|metric| {
        average(&format!("{metric}Rule"), metric, &format!("Average{metric}")).replace(">10<", ">0.2<")
    });
    tower.install(&batch(&rules));
    for metric in ["Memory", "Answer"] {
        let observer =
            serde_json::json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() + "/" + metric });
        tower.expect(201, "POST", &format!("/v1/metrics/Average{metric}/observers"), &observer.to_string());
    }
    let result = |metric: &str| {
        wait_for(metric, || {
            let said = sink.got("POST").into_iter().find(|got| got.path.ends_with(metric))?;
            Some(serde_json::from_str::<Value>(&said.body).unwrap()[0].clone())
        })
    };
    let answer = result("Answer");
    assert_eq!((&answer["resourceId"], &answer["value"]), (&"vm1".into(), &42.0.into()));
    assert!(result("Memory")["value"].as_f64().unwrap() > 1e6, "in bytes");
    assert!(lines(runs.path()) > 0);

    tower.expect(204, "DELETE", "/v1/monitoring-rules/AnswerRule", "");
    wait_for("no more runs", || {
        let before = lines(runs.path());
        std::thread::sleep(Duration::from_millis(700));
        (lines(runs.path()) == before).then_some(())
    });
    // Every connection is its own: it listens nowhere.
    #[cfg(target_os = "linux")]
    assert_eq!(listening(collector.id()), 0);
    collector.signal(rustix::process::Signal::TERM);
    assert_eq!(collector.end(), 0, "{}", collector.log());
    assert_eq!(tower.get("/v1/data-collectors"), serde_json::json!({}), "it said farewell");
    tower.stop();
}

/// Requirement: R2-04
#[test]
fn what_collectd_sends_becomes_the_result_of_a_rule() {
    let tower = Tower::start();
    let at = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = policy(&machine(&format!(
        "Load: {{ collectd: {{ listen: \"{at}\", key: ada/load/load, index: 1 }} }}"
    )));
    let manager = format!("http://{}", tower.address);
    let mut collector =
        Process::start(&["collect", "--manager", &manager, dir.path().to_str().unwrap(), "--shards", "1"]);
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    tower.install(&batch(&[average("LoadRule", "Load", "AverageLoad").replace(">10<", ">0.2<")]));
    let observer = serde_json::json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() });
    tower.expect(201, "POST", "/v1/metrics/AverageLoad/observers", &observer.to_string());
    // Host, plugin, type, and three gauges.
    let mut packet = b"\x00\x00\x00\x08ada\x00\x00\x02\x00\x09load\x00\x00\x04\x00\x09load\x00".to_vec();
    packet.extend(b"\x00\x06\x00\x21\x00\x03\x01\x01\x01");
    packet.extend([0.5_f64, 1.5, 2.5].iter().flat_map(|value| value.to_le_bytes()));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let result = wait_for("a result", || {
        socket.send_to(&packet, at).unwrap();
        sink.got("POST").first().map(|got| serde_json::from_str::<Value>(&got.body).unwrap()[0].clone())
    });
    assert_eq!((&result["resourceId"], &result["value"]), (&"vm1".into(), &1.5.into()));
    collector.signal(rustix::process::Signal::TERM);
    assert_eq!(collector.end(), 0, "{}", collector.log());
    tower.stop();
}

/// How many sockets a process listens on.
#[cfg(target_os = "linux")]
fn listening(pid: u32) -> usize {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let tables = format!("{}{}", table("tcp"), table("tcp6"));
    let inodes: Vec<&str> = tables
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9).copied())
        .collect();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|link| inodes.iter().any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str()))
        .count()
}

/// A daemon with a collector, in this process.
struct Collecting {
    runtime: tokio::runtime::Runtime,
    daemon: Arc<Daemon>,
    collector: Option<Collector>,
}

impl Collecting {
    fn start(policy: &str, settings: Settings) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (daemon, collector) = runtime.block_on(async {
            let options = Options {
                dirs: Vec::new(),
                data_dir: None,
                record: None,
                shards: Some(1),
                connectors: Connectors::new(),
            };
            let sources = Sources::from_texts([("policy.yaml", policy)]);
            let daemon = Daemon::start_from(options, sources).await.unwrap();
            let collector = Collector::start(daemon.supervisor().clone(), settings).unwrap();
            (daemon, collector)
        });
        Self { runtime, daemon, collector: Some(collector) }
    }

    fn push(&self, metric: &str, value: f64) {
        let handle = homeostat::service::handle::Handle::new(self.daemon.supervisor().clone(), "vm1");
        let push = homeostat::model::ports::Metrics::push(&handle, metric, vec![(value, None)]);
        self.runtime.block_on(push).unwrap();
    }

    fn events(&self) -> tokio::sync::broadcast::Receiver<homeostat::service::control::Event> {
        self.daemon.supervisor().shell().events()
    }

    fn stop(mut self) {
        let collector = self.collector.take().unwrap();
        self.runtime.block_on(collector.stop());
        self.runtime.block_on(self.daemon.supervisor().shell().stop(Duration::from_secs(5)));
    }
}

fn quick(manager: String) -> Settings {
    Settings {
        keep_alive: Some(Duration::from_secs(25)),
        retry: Duration::from_millis(50),
        gather: Duration::from_millis(50),
        ..Settings::new(manager)
    }
}

const STREAM: &str = "/streams/http%3A%2F%2Fwww.modaclouds.eu%2Fstreams%2FCPUUtilization";

/// Requirement: R2-04, R2-12, R2-13
#[test]
fn it_says_what_the_original_collector_says() {
    let forgets = AtomicU32::new(1);
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    let here = address.clone();
    let manager = Server::start(move |got: &Got| {
        let answer = |status, body: &str| (Duration::ZERO, status, body.to_string());
        match (got.method.as_str(), got.path.as_str()) {
            ("POST", "/v1/data-collectors") => answer(201, "{\"id\":\"dc-1\"}"),
            ("GET", "/v1/data-collectors/dc-1/configuration")
                if forgets.fetch_sub(1, Ordering::SeqCst) == 1 =>
            {
                answer(404, "")
            }
            ("PUT", "/v1/data-collectors/dc-1") => answer(201, "{\"id\":\"dc-1\"}"),
            ("GET", "/v1/data-collectors/dc-1/configuration") => {
                let url = here.wait().clone() + STREAM;
                answer(
                    200,
                    &format!(
                        "{{\"CPUUtilization\":[{{\"parameters\":{{}},\"targetResources\":[[\"VM\",\"Frontend\",null]],\
                         \"daUrl\":\"{url}\",\"dataFormat\":\"TOWER/JSON\"}}]}}"
                    ),
                )
            }
            (_, path) if path == STREAM => answer(200, ""),
            ("GET", "/v1/data-collectors/dc-1/keepalive") | ("DELETE", "/v1/data-collectors/dc-1") => {
                answer(204, "")
            }
            _ => answer(500, ""),
        }
    });
    address.set(manager.url()).unwrap();
    let collecting = Collecting::start(&machine("CPUUtilization: push"), quick(manager.url()));
    let descriptor = concat!(
        r#"{"monitoredResourcesByMetric":{"CPUUtilization":[{"cloudProvider":"amazon","clazz":"VM","type":"Frontend","id":"vm1"}]},"#,
        r#""resources":[{"clazz":"CloudProvider","type":"IaaS","id":"amazon"},{"cloudProvider":"amazon","clazz":"VM","type":"Frontend","id":"vm1"}],"#,
        r#""keepAlive":25,"configSyncPeriod":30}"#
    );
    wait_for("the keep-alive", || {
        manager.got("GET").iter().any(|got| got.path.ends_with("/keepalive")).then_some(())
    });
    let registered = manager.got("POST");
    assert_eq!(
        (registered[0].path.as_str(), registered[0].body.as_str()),
        ("/v1/data-collectors", descriptor)
    );
    let again = wait_for("the registration anew", || manager.got("PUT").first().cloned());
    assert_eq!((again.path.as_str(), again.body.as_str()), ("/v1/data-collectors/dc-1", descriptor));

    let data = || manager.got("POST").into_iter().filter(|got| got.path == STREAM).collect::<Vec<_>>();
    wait_for("the first datum", || {
        collecting.push("CPUUtilization", 0.3);
        (!data().is_empty()).then_some(())
    });
    let first: Value = serde_json::from_str(&data()[0].body).unwrap();
    assert_eq!(first[0].to_string(), r#"{"resourceId":"vm1","metric":"CPUUtilization","value":0.3}"#);
    collecting.stop();
    assert_eq!(manager.got("DELETE").len(), 1);
}

/// Requirement: R2-12
#[test]
fn a_manager_that_is_not_there_is_tried_again_and_people_are_told() {
    let refusals = AtomicU32::new(0);
    let manager = Server::start(move |got: &Got| match got.method.as_str() {
        "POST" if refusals.fetch_add(1, Ordering::SeqCst) < 3 => (Duration::ZERO, 503, "not now".into()),
        "POST" => (Duration::ZERO, 201, "{\"id\":\"dc-1\"}".into()),
        "GET" if got.path.ends_with("/keepalive") => (Duration::ZERO, 204, String::new()),
        "GET" => (Duration::ZERO, 200, "{}".into()),
        _ => (Duration::ZERO, 204, String::new()),
    });
    let collecting = Collecting::start(&machine("CPU: push"), quick(manager.url()));
    let mut events = collecting.events();
    wait_for("a configuration", || {
        manager.got("GET").iter().any(|got| got.path.ends_with("/configuration")).then_some(())
    });
    assert_eq!(manager.got("POST").len(), 4);
    let told = wait_for("the news", || {
        let event = events.try_recv().ok()?;
        event.text.contains("manager").then_some(event.text)
    });
    assert!(told.contains("cannot be asked") || told.contains("asked again"), "{told}");
    collecting.stop();
}

#[test]
fn what_a_collector_cannot_do_is_said_at_once() {
    let dir = policy(&machine("CPU: push"));
    let dir = dir.path().to_str().unwrap();
    for (more, why) in [
        (&["--manager", "ftp://x"][..], "ftp://x"),
        (&["--manager", "http://127.0.0.1:1", "--sync", "1s"], "--sync"),
        (&["--manager", "http://127.0.0.1:1", "--keep-alive", "5s"], "--keep-alive"),
    ] {
        let said = homeostat(&[&["collect", dir], more].concat(), None);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains(why), "{said:?}");
    }
}
