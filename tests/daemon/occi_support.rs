//! What the tests of OCCI with real processes share: a daemon that speaks it, documents that are written piece by piece, and a dashboard.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::support::{Daemon, PATIENCE, Process, policy, request};

pub const SENSOR: &str = "http://schemas.ogf.org/occi/monitoring#sensor";
pub const COLLECTOR: &str = "http://schemas.ogf.org/occi/monitoring#collector";
pub const COMPUTE: &str = "http://schemas.ogf.org/occi/infrastructure#compute";
pub const CONTAINER: &str = "http://example.com/occi/monitoring/resource#MetricContainer";

/// The full identifier of a mixin: `mixin("metric#CPUPercent")`.
pub fn mixin(name: &str) -> String {
    format!("http://example.com/occi/monitoring/{name}")
}

/// The full name of an attribute of a mixin.
pub fn name(term: &str, attribute: &str) -> String {
    format!("com.example.occi.monitoring.{term}.{attribute}")
}

/// Attributes of a mixin with their full names: `of("EWMA", …)`.
pub fn of(term: &str, attributes: &Value) -> serde_json::Map<String, Value> {
    let all = attributes.as_object().unwrap().iter();
    all.map(|(attribute, value)| (name(term, attribute), value.clone())).collect()
}

/// A daemon that speaks OCCI.
pub struct Occi {
    _dir: tempfile::TempDir,
    pub daemon: Daemon,
    pub at: SocketAddr,
}

impl Occi {
    pub fn start(more: &[&str]) -> Self {
        Self::with("service: none\n", more)
    }

    /// Over a policy of its own.
    pub fn with(yaml: &str, more: &[&str]) -> Self {
        let dir = policy(yaml);
        let words = [&["--occi", "127.0.0.1:0"], more].concat();
        let mut daemon = Daemon::start(dir.path(), &words);
        let at = daemon.process.word_after("occi=").parse().unwrap();
        Self { _dir: dir, daemon, at }
    }

    /// Asks, and wants this status.
    #[track_caller]
    pub fn expect(&self, status: u16, method: &str, path: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (is, said) = request(self.at, method, path, &body).unwrap();
        assert_eq!(is, status, "{method} {path} {body}: {said}\n{}", self.daemon.process.log());
        said
    }

    /// Makes all that a document says.
    #[track_caller]
    pub fn create(&self, document: &Documents) {
        self.expect(201, "POST", "/", &document.json());
    }

    /// What is at a place, as JSON.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.at);
        let text = super::support::raw(self.at, &format!("{head}Accept: application/occi+json\r\n\r\n"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {text}");
        serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {text}"))
    }

    /// What a sensor does.
    #[track_caller]
    pub fn state(&self, path: &str) -> String {
        self.get(path)["attributes"][name("Status", "state")].as_str().unwrap_or_default().to_string()
    }

    /// Sends a measurement.
    #[track_caller]
    pub fn push(&self, service: &str, label: &str, value: f64) {
        let path = format!("/v1/services/{service}/metrics/{label}_pushed/samples");
        let (status, said) = self.daemon.call("POST", &path, Some(&json!({ "value": value })));
        assert!((200..300).contains(&status), "{status}: {said}");
    }
}

/// A document that is written piece by piece.
#[derive(Clone, Default)]
pub struct Documents {
    pub resources: Vec<Value>,
    pub links: Vec<Value>,
}

impl Documents {
    /// A sensor that measures every `period` seconds.
    pub fn sensor(id: &str, period: f64) -> Self {
        Self::default().and_sensor(id, period)
    }

    pub fn and_sensor(mut self, id: &str, period: f64) -> Self {
        let one = json!({ "kind": SENSOR, "id": format!("urn:uuid:{id}"), "mixins": [],
            "attributes": { "occi.sensor.period": period } });
        self.resources.push(one);
        self
    }

    /// With a machine on which a probe runs.
    pub fn probe(mut self, id: &str, at: &str, channel: &str) -> Self {
        let attributes =
            of("MetricContainer", &json!({ "url": format!("http://{at}/collectors"), "channel": channel }));
        let one = json!({ "kind": COMPUTE, "id": id, "mixins": [CONTAINER], "attributes": attributes });
        self.resources.insert(0, one);
        self
    }

    /// With a collector of the newest sensor.
    pub fn collector(mut self, id: &str, target: &str, period: f64, metric: &str, attributes: Value) -> Self {
        let sensor = self.resources.last().unwrap()["id"].clone();
        let mut attributes = of(metric, &attributes);
        attributes.insert("occi.collector.period".into(), period.into());
        let link = json!({ "kind": COLLECTOR, "id": format!("urn:uuid:{id}"), "source": { "location": sensor },
            "target": { "location": target }, "mixins": [mixin(&format!("metric#{metric}"))], "attributes": attributes });
        self.links.push(link);
        self
    }

    /// With a mixin of the newest sensor.
    pub fn with(mut self, name: &str, attributes: Value) -> Self {
        let sensor = self.resources.last_mut().unwrap();
        sensor["mixins"].as_array_mut().unwrap().push(mixin(name).into());
        let term = name.rsplit('#').next().unwrap();
        sensor["attributes"].as_object_mut().unwrap().extend(of(term, &attributes));
        self
    }

    /// With a dashboard that gets what is measured under a label.
    pub fn shown(self, label: &str, dashboard: &Dashboard) -> Self {
        self.with("publisher#SendUDP", json!({ "input": label, "udpAddr": dashboard.at.to_string() }))
    }

    pub fn json(&self) -> Value {
        json!({ "resources": self.resources, "links": self.links })
    }
}

/// Somebody who looks at what is measured: datagrams `Data: 397.5356`.
pub struct Dashboard {
    socket: UdpSocket,
    pub at: SocketAddr,
}

impl Dashboard {
    pub fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let at = socket.local_addr().unwrap();
        Self { socket, at }
    }

    /// The next value.
    #[track_caller]
    pub fn next(&self) -> f64 {
        let mut buffer = [0; 200];
        let length = self.socket.recv(&mut buffer).expect("a datagram in time");
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let value = text.strip_prefix("Data: ").and_then(|text| text.strip_suffix('\n'));
        value.unwrap_or_else(|| panic!("{text:?}")).parse().unwrap()
    }

    /// Waits for a value that is right.
    #[track_caller]
    pub fn wait(&self, what: &str, right: impl Fn(f64) -> bool) -> f64 {
        let begin = Instant::now();
        let mut seen = Vec::new();
        loop {
            let value = self.next();
            if right(value) {
                return value;
            }
            seen.push(value);
            assert!(begin.elapsed() < 2 * PATIENCE, "waited in vain for {what}: {seen:?}");
        }
    }
}

/// A probe, and where it listens.
pub fn probe(proc: Option<&Path>) -> (Process, String) {
    let mut words = vec!["probe", "--listen", "127.0.0.1:0"];
    if let Some(proc) = proc {
        words.extend(["--proc", proc.to_str().unwrap()]);
    }
    let mut process = Process::start(&words);
    let at = process.word_after("listens on ");
    (process, at)
}

/// A sink, and where it listens.
pub fn sink(kind: &str) -> (Process, String) {
    let mut process = Process::start(&["sink", kind, "--listen", "127.0.0.1:0"]);
    let at = process.word_after("listens on ");
    (process, at)
}
