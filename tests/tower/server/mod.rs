//! The server from outside, over sockets: a daemon in this process, and clients that speak as those of Tower 4Clouds do.

#[path = "../../daemon/support.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod support;

mod abuse;
mod actions;
mod adaptive;
mod analyzer;
mod collect;
mod collectors;
mod data;
#[cfg(feature = "forecast")]
mod forecast;
mod manager;
mod model;
mod observers;
mod pages;
mod shared;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::daemon::{Daemon, Options};
use homeostat::dialects::tower::server::{self, Settings, Tower as Server};
use homeostat::policy::load::Sources;
use serde_json::Value;
use support::{PATIENCE, wait_for};

/// A daemon with a server of Tower 4Clouds, in this process.
pub struct Tower {
    runtime: tokio::runtime::Runtime,
    daemon: Arc<Daemon>,
    server: Arc<Server>,
    pub address: SocketAddr,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Tower {
    pub fn start() -> Self {
        Self::start_with("", None, Settings::default())
    }

    /// As [`Tower::start`], with a policy, a directory for the record, and settings.
    pub fn start_with(policy: &str, data_dir: Option<&Path>, settings: Settings) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options = Options {
            dirs: Vec::new(),
            data_dir: data_dir.map(Path::to_path_buf),
            record: None,
            shards: Some(2),
            connectors: Connectors::new(),
        };
        let sources =
            Sources::from_texts([("policy.yaml", policy)].into_iter().filter(|(_, text)| !text.is_empty()));
        let (daemon, server, address) = runtime.block_on(async {
            let daemon = Daemon::start_from(options, sources).await.unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = Server::start(daemon.supervisor().clone(), address, settings).await.unwrap();
            let router = server::router(server.clone());
            tokio::spawn(homeostat::api::serve(listener, router, std::future::pending()));
            (daemon, server, address)
        });
        Self { runtime, daemon, server, address }
    }

    /// With a look for what has expired every 50 ms.
    pub fn start_attentive() -> Self {
        Self::start_with("", None, Settings { check: Duration::from_millis(50), ..Settings::default() })
    }

    /// Stops everything, in order.
    pub fn stop(self) {
        assert_eq!(self.end(), Vec::<String>::new());
    }

    fn end(&self) -> Vec<String> {
        self.server.stop();
        self.runtime.block_on(self.daemon.supervisor().shell().stop(Duration::from_secs(5)))
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(self.address, method, path, &[], body)
    }

    pub fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        ask(self.address, method, path, headers, body)
    }

    /// Asks, and wants this status.
    #[track_caller]
    pub fn expect(&self, status: u16, method: &str, path: &str, body: &str) -> String {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        answer.body
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.expect(200, "GET", path, "")).unwrap()
    }

    /// Installs rules.
    #[track_caller]
    pub fn install(&self, rules: &str) {
        self.expect(204, "POST", "/v1/monitoring-rules", rules);
    }

    /// Registers a collector; answers with its id.
    #[track_caller]
    pub fn register(&self, descriptor: &str) -> String {
        let answer = self.expect(201, "POST", "/v1/data-collectors", descriptor);
        serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_string()
    }

    pub fn configuration(&self, id: &str) -> Value {
        self.get(&format!("/v1/data-collectors/{id}/configuration"))
    }

    /// Waits until a collector is told to send a metric, or nothing.
    #[track_caller]
    pub fn wait_configured(&self, id: &str, metrics: &[&str]) {
        wait_for(&format!("the configuration {metrics:?}"), || {
            let configuration = self.configuration(id);
            let asked: Vec<&str> = configuration.as_object().unwrap().keys().map(String::as_str).collect();
            (asked == metrics).then_some(())
        });
    }

    /// Sends data of a metric.
    #[track_caller]
    pub fn send(&self, metric: &str, data: &[(&str, f64)]) {
        let data: Vec<Value> = data
            .iter()
            .map(|(id, value)| serde_json::json!({ "resourceId": id, "metric": metric, "value": value }))
            .collect();
        self.expect(200, "POST", &stream(metric), &Value::from(data).to_string());
    }

    /// What `/metrics` of the daemon itself says.
    pub fn own_metrics(&self) -> String {
        let control: Arc<dyn homeostat::service::control::Control> = self.daemon.clone();
        let app = homeostat::api::router(control, homeostat::api::Access::default());
        let address = self.runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(homeostat::api::serve(listener, app, std::future::pending()));
            address
        });
        ask(address, "GET", "/metrics", &[], "").body
    }

    /// A counter of the server.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self.expect(200, "GET", "/metrics", "");
        let name = format!("homeostat_tower_{name}_total ");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&name))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.parse().unwrap()
    }
}

impl Drop for Tower {
    fn drop(&mut self) {
        self.end();
    }
}

/// The path of a stream, as collectors write it.
pub fn stream(metric: &str) -> String {
    format!("/streams/http%3A%2F%2Fwww.modaclouds.eu%2Fstreams%2F{metric}")
}

/// One request on a connection of its own.
pub fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += &format!("Host: {to}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    raw(to, text.as_bytes())
}

/// Sends bytes and reads the answer to its end.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_string(), body: body.to_string() }
}

/// A batch of rules.
pub fn batch(rules: &[String]) -> String {
    let namespace = "http://www.modaclouds.eu/xsd/1.0/monitoring_rules_schema";
    format!("<monitoringRules xmlns=\"{namespace}\">{}</monitoringRules>", rules.concat())
}

/// A rule: every second, over the last second, of machines.
pub fn rule(id: &str, metric: &str, parameters: &str, aggregation: &str, rest: &str) -> String {
    format!(
        "<monitoringRule id=\"{id}\" timeStep=\"1\" timeWindow=\"1\">\
         <monitoredTargets><monitoredTarget class=\"VM\" type=\"Frontend\"/></monitoredTargets>\
         <collectedMetric metricName=\"{metric}\">{parameters}</collectedMetric>{aggregation}{rest}</monitoringRule>"
    )
}

/// Its average by machine becomes `output`.
pub fn average(id: &str, metric: &str, output: &str) -> String {
    let sampling = "<parameter name=\"samplingTime\">10</parameter>";
    let by_vm = "<metricAggregation aggregateFunction=\"Average\" groupingClass=\"VM\"/>";
    rule(id, metric, sampling, by_vm, &actions(&[&output_metric(output)]))
}

pub fn actions(actions: &[&str]) -> String {
    format!("<actions>{}</actions>", actions.concat())
}

pub fn output_metric(metric: &str) -> String {
    action("OutputMetric", "metric", metric)
}

pub fn action(name: &str, parameter: &str, value: &str) -> String {
    format!("<action name=\"{name}\"><parameter name=\"{parameter}\">{value}</parameter></action>")
}

/// A collector of a metric on Frontend machines of amazon.
pub fn collector(metric: &str, machines: &[&str], keep_alive: i64) -> String {
    let machines: Vec<Value> = machines
        .iter()
        .map(|id| serde_json::json!({ "cloudProvider": "amazon", "clazz": "VM", "type": "Frontend", "id": id }))
        .collect();
    serde_json::json!({
        "monitoredResourcesByMetric": { metric: machines },
        "resources": machines,
        "keepAlive": keep_alive,
        "configSyncPeriod": 30,
    })
    .to_string()
}
