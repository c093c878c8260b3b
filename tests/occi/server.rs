//! The server from outside, over sockets: a daemon in this process, and clients that speak OCCI.

#[path = "agreements.rs"]
mod agreements;
#[path = "limits.rs"]
mod limits;
#[path = "notices.rs"]
mod notices;
#[path = "plugins.rs"]
mod plugins;
#[path = "refused.rs"]
mod refused;
#[path = "../daemon/support.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod support;
#[path = "together.rs"]
mod together;
#[path = "tree.rs"]
mod tree;
#[path = "users.rs"]
mod users;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use homeostat::connectors::Connectors;
use homeostat::daemon::{Daemon, Options};
use homeostat::dialects::occi::Extension;
use homeostat::dialects::occi::monitoring::Settings;
use homeostat::dialects::occi::server::{self, Occi as Server};
use homeostat::policy::load::Sources;
use serde_json::{Value, json};
use support::Process;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
const SENSOR: &str = "http://schemas.ogf.org/occi/monitoring#sensor";
const COLLECTOR: &str = "http://schemas.ogf.org/occi/monitoring#collector";
const COMPUTE: &str = "http://schemas.ogf.org/occi/infrastructure#compute";
const METRIC: &str = "http://example.com/occi/monitoring/metric#";
const AGGREGATOR: &str = "http://example.com/occi/monitoring/aggregator#";
const PUBLISHER: &str = "http://example.com/occi/monitoring/publisher#";
const JSON: &[(&str, &str)] =
    &[("Content-Type", "application/occi+json"), ("Accept", "application/occi+json")];

/// The full name of an attribute of a mixin.
fn of(term: &str, name: &str) -> String {
    format!("com.example.occi.monitoring.{term}.{name}")
}

/// A daemon with a server of OCCI, in this process.
struct Occi {
    runtime: tokio::runtime::Runtime,
    daemon: Arc<Daemon>,
    address: SocketAddr,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The values of a header, in order.
    fn headers(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    fn header(&self, name: &str) -> &str {
        self.headers(name).first().copied().unwrap_or_default()
    }

    /// The path of what was created.
    fn place(&self) -> String {
        let location = self.header("location");
        let path = location.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
        format!("/{}", path.unwrap_or_else(|| panic!("no location: {self:?}")).1)
    }
}

impl Occi {
    fn start() -> Self {
        Self::start_with(&Extension::ALL, None)
    }

    fn start_with(extensions: &[Extension], data_dir: Option<&Path>) -> Self {
        Self::start_as(extensions, data_dir, Settings::default())
    }

    fn start_as(extensions: &[Extension], data_dir: Option<&Path>, settings: Settings) -> Self {
        Self::start_beside(Sources::from_texts([]), extensions, data_dir, settings)
    }

    /// With policies from files.
    fn start_beside(
        files: Sources,
        extensions: &[Extension],
        data_dir: Option<&Path>,
        settings: Settings,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let connectors = Connectors::new();
        let options = Options {
            dirs: Vec::new(),
            data_dir: data_dir.map(Path::to_path_buf),
            record: None,
            shards: Some(2),
            connectors,
        };
        let settings =
            Settings { mail: "smtp://127.0.0.1:9".into(), from: "homeostat@example.com".into(), ..settings };
        let (daemon, address) = runtime.block_on(async {
            let daemon = Daemon::start_from(options, files).await.unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server =
                Server::start(daemon.supervisor().clone(), address, extensions, settings).await.unwrap();
            let router = server::router(server);
            tokio::spawn(homeostat::api::serve(listener, router, std::future::pending()));
            (daemon, address)
        });
        Self { runtime, daemon, address }
    }

    fn services(&self) -> Vec<String> {
        let running = self.runtime.block_on(self.daemon.supervisor().running());
        running.services.keys().map(ToString::to_string).collect()
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        raw(self.address, text.as_bytes())
    }

    /// Asks in JSON, and wants this status.
    #[track_caller]
    fn expect(&self, status: u16, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.ask(method, path, JSON, &body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        answer
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.expect(200, "GET", path, Value::Null).json()
    }

    /// Asks in lines of text, and wants this status.
    #[track_caller]
    fn lines(&self, status: u16, method: &str, path: &str, body: &str) -> Answer {
        let answer = self.ask(method, path, &[("Content-Type", "text/plain")], body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        answer
    }

    /// What a sensor does.
    #[track_caller]
    fn state(&self, path: &str) -> String {
        self.status(path, "state")
    }

    #[track_caller]
    fn status(&self, path: &str, name: &str) -> String {
        self.get(path)["attributes"][of("Status", name)].as_str().unwrap_or_default().to_string()
    }

    /// A sensor; answers with its place.
    #[track_caller]
    fn sensor(&self, period: f64) -> String {
        let body = json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": period } });
        self.expect(201, "POST", "/sensor/", body).place()
    }

    /// A collector of a sensor with a metric; answers with its place.
    #[track_caller]
    fn collector(&self, sensor: &str, period: f64, metric: &str, mut attributes: Value) -> String {
        attributes["occi.collector.period"] = period.into();
        let body = json!({
            "kind": COLLECTOR, "mixins": [format!("{METRIC}{metric}")], "attributes": attributes,
            "source": { "location": sensor }, "target": { "location": "urn:uuid:1111" },
        });
        self.expect(201, "POST", "/collector/", body).place()
    }

    /// Gives a sensor a mixin.
    #[track_caller]
    fn associate(&self, sensor: &str, mixin: &str, attributes: Value) {
        let term = mixin.rsplit('#').next().unwrap();
        let body = json!({ "resources": [{ "kind": SENSOR, "location": sensor, "attributes": attributes }] });
        self.expect(200, "POST", &format!("/mixin/{term}/"), body);
    }

    /// Everything that a sensor measures under a label arrives here.
    #[track_caller]
    fn listen(&self, sensor: &str, label: &str) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = socket.local_addr().unwrap().to_string();
        let attributes = json!({ of("SendUDP", "input"): label, of("SendUDP", "udpAddr"): to });
        self.associate(sensor, &format!("{PUBLISHER}SendUDP"), attributes);
        socket
    }
}

impl Drop for Occi {
    fn drop(&mut self) {
        self.runtime.block_on(self.daemon.supervisor().shell().stop(Duration::from_secs(5)));
    }
}

/// Sends bytes and reads the answer to its end.
fn raw(to: SocketAddr, bytes: &[u8]) -> Answer {
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

/// The next datagram's number.
#[track_caller]
fn datum(socket: &UdpSocket) -> f64 {
    let mut buffer = [0; 200];
    let length = socket.recv(&mut buffer).expect("a datagram in time");
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let value = text.strip_prefix("Data: ").and_then(|rest| rest.trim().parse().ok());
    value.unwrap_or_else(|| panic!("`{text}`"))
}

/// Waits for a datagram with this number.
#[track_caller]
fn await_datum(socket: &UdpSocket, wanted: f64) {
    let begin = Instant::now();
    while datum(socket) != wanted {
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {wanted}");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

// ---- discovery -------------------------------------------------------------------------------------------------------

fn category<'a>(all: &'a Value, class: &str, id: &str) -> &'a Value {
    let list = all[class].as_array().unwrap();
    let found = list
        .iter()
        .find(|c| format!("{}{}", c["scheme"].as_str().unwrap(), c["term"].as_str().unwrap()) == id);
    found.unwrap_or_else(|| panic!("no {id} in {class}"))
}

/// Requirement: R1-02, R1-09, R1-10, R1-11, R1-22
#[test]
fn the_query_interface_shows_sensor_collector_and_the_three_tags_whose_chains_are_complete() {
    let occi = Occi::start();
    let all = occi.get("/-/");
    let sensor = category(&all, "kinds", SENSOR);
    assert_eq!(sensor["title"], "Sensor Resource");
    assert_eq!(sensor["parent"], "http://schemas.ogf.org/occi/core#resource");
    assert_eq!(sensor["location"], "/sensor/");
    let period = &sensor["attributes"]["occi.sensor.period"];
    assert_eq!(
        (&period["mutable"], &period["required"], &period["type"]),
        (&json!(true), &json!(true), &json!("number"))
    );
    let collector = category(&all, "kinds", COLLECTOR);
    assert_eq!(collector["title"], "Collector Link");
    assert_eq!(collector["parent"], "http://schemas.ogf.org/occi/core#link");
    assert_eq!(collector["attributes"]["occi.collector.period"]["required"], true);
    for (tag, applies) in [("metric", COLLECTOR), ("aggregator", SENSOR), ("publisher", SENSOR)] {
        let tag = category(&all, "mixins", &format!("http://schemas.ogf.org/occi/monitoring#{tag}"));
        assert_eq!(tag["applies"], json!([applies]));
        assert_eq!((&tag["attributes"], &tag["actions"]), (&Value::Null, &Value::Null), "only structure");
    }
    assert_eq!(all, occi.get("/.well-known/org/ogf/occi/-/"));
    assert_eq!(all, occi.get("/-"), "without the slash as well");
    let ids = |class: &str| -> Vec<String> {
        let list = all[class].as_array().unwrap();
        list.iter()
            .map(|c| format!("{}{}", c["scheme"].as_str().unwrap(), c["term"].as_str().unwrap()))
            .collect()
    };
    for kind in all["kinds"].as_array().unwrap() {
        let parent = kind["parent"].as_str();
        let root = kind["term"] == "entity";
        assert!(parent.map_or(root, |parent| ids("kinds").contains(&parent.to_string())), "{kind}");
    }
    for mixin in all["mixins"].as_array().unwrap() {
        let depends = mixin["depends"].as_array().cloned().unwrap_or_default();
        assert!(
            depends.iter().all(|id| ids("mixins").contains(&id.as_str().unwrap().to_string())),
            "{mixin}"
        );
    }
    // Tags apply where they belong, under the paper's names as well.
    let (s, paper) = (occi.sensor(60.0), "http://schemas.ogf.org/occi/monitoring/collector#metric");
    for tag in ["http://schemas.ogf.org/occi/monitoring#metric", paper] {
        let answer = occi.expect(400, "POST", &s, json!({ "mixins": [tag] }));
        assert!(answer.body.contains("collector"), "{answer:?}");
    }
    let alias = "http://schemas.ogf.org/occi/monitoring/sensor#publisher";
    occi.expect(200, "POST", &s, json!({ "mixins": [alias] }));
}

/// Requirement: R1-01
#[test]
fn monitoring_needs_no_infrastructure_and_uses_it_where_it_is() {
    let occi = Occi::start_with(&[Extension::Monitoring], None);
    let kinds = occi.get("/-/")["kinds"].to_string();
    assert!(kinds.contains("\"sensor\"") && !kinds.contains("compute"));
    let sensor = occi.sensor(60.0);
    occi.collector(&sensor, 60.0, "CPUPercent", json!({ of("CPUPercent", "out"): "a" }));
    drop(occi);
    let occi = Occi::start();
    let compute = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    let sensor = occi.sensor(60.0);
    let body = json!({ "kind": COLLECTOR, "source": { "location": sensor }, "target": { "location": compute },
        "attributes": { "occi.collector.period": 60 } });
    let collector = occi.expect(201, "POST", "/collector/", body).place();
    assert_eq!(occi.get(&collector)["target"], json!({ "location": compute, "kind": COMPUTE }));
}

#[test]
fn the_query_interface_is_filtered_by_a_category_in_headers_or_by_a_term() {
    let occi = Occi::start();
    let category = "sensor; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\"";
    let answer = occi.ask("GET", "/-/", &[("Category", category)], "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.matches("Category:").count(), 1, "{answer:?}");
    assert!(answer.body.contains("title=\"Sensor Resource\""));
    let answer = occi.ask("GET", "/-/?category=compute", &[("Accept", "text/uri-list")], "");
    assert!(answer.body.trim().ends_with("/compute/"), "{answer:?}");
    let answer = occi.ask("GET", "/-/?category=nothing", &[], "");
    assert_eq!((answer.status, answer.body.trim()), (200, ""));
}

#[test]
fn clients_add_and_remove_tags_and_nothing_else() {
    let occi = Occi::start();
    let line = "Category: mine; scheme=\"http://client.example/tags#\"; class=\"mixin\"; location=\"/mine/\"";
    let answer = occi.lines(200, "POST", "/-/", line);
    assert!(answer.body.contains("mine; scheme=\"http://client.example/tags#\""), "{answer:?}");
    occi.lines(409, "POST", "/-/", line);
    let sensor = occi.sensor(60.0);
    occi.lines(200, "POST", "/mine/", &format!("X-OCCI-Location: {sensor}"));
    assert_eq!(occi.get("/mine/")["resources"][0]["location"], sensor.as_str());
    assert!(occi.get(&sensor)["mixins"].to_string().contains("http://client.example/tags#mine"));
    let ours = "Category: sensor; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\"";
    assert_eq!(occi.lines(403, "DELETE", "/-/", ours).status, 403);
    occi.lines(200, "DELETE", "/-/", "Category: mine; scheme=\"http://client.example/tags#\"");
    occi.lines(404, "DELETE", "/-/", "Category: mine; scheme=\"http://client.example/tags#\"");
    assert!(!occi.get(&sensor)["mixins"].to_string().contains("mine"));
    occi.expect(404, "GET", "/mine/", Value::Null);
    // A tag may depend on one of ours; attributes are for providers.
    let with = "Category: b; scheme=\"http://client.example/tags#\"; class=\"mixin\"; attributes=\"x\"";
    occi.lines(400, "POST", "/-/", with);
    let loud = json!({ "mixins": [{ "term": "probe", "scheme": "http://client.example/tags#", "location": "/probe/",
        "depends": [format!("{METRIC}CPUPercent")] }] });
    occi.expect(200, "POST", "/-/", loud);
    let body = json!({ "kind": COLLECTOR, "mixins": ["http://client.example/tags#probe"],
        "source": { "location": sensor }, "target": { "location": "urn:x:1" },
        "attributes": { "occi.collector.period": 60, of("CPUPercent", "out"): "a" } });
    occi.expect(201, "POST", "/collector/", body);
    assert_eq!(occi.services().len(), 1, "it measures as the mixin on which it depends");
}

// ---- entities --------------------------------------------------------------------------------------------------------

/// Requirement: R1-24
#[test]
fn the_server_gives_identifiers_and_says_where_the_new_entity_is() {
    let occi = Occi::start();
    let text = "Category: sensor; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\"\n\
                X-OCCI-Attribute: occi.sensor.period=60\n";
    let answer = occi.lines(201, "POST", "/sensor/", text);
    let place = answer.place();
    assert_eq!(answer.header("location"), format!("http://{}{place}", occi.address));
    assert_eq!(answer.body.trim(), format!("X-OCCI-Location: http://{}{place}", occi.address));
    let id = occi.get(&place)["id"].as_str().unwrap().to_string();
    let uuid = id.strip_prefix("urn:uuid:").expect("a URN");
    assert!(uuid.len() == 36 && uuid.chars().filter(|c| *c == '-').count() == 4, "{id}");
    assert_eq!(place, format!("/sensor/{uuid}"));
    let text = occi.ask("GET", &place, &[], "");
    assert!(text.body.contains(&format!("X-OCCI-Attribute: occi.core.id=\"{id}\"")), "{text:?}");
    assert!(text.header("server").contains("OCCI/1.2"), "{text:?}");
    let json = occi.expect(
        201,
        "POST",
        "/sensor/",
        json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 5 } }),
    );
    assert_eq!(json.json()["id"], occi.get(&json.place())["id"], "JSON gets the entity");
}

/// Requirement: R1-16
#[test]
fn a_bare_sensor_has_nothing_but_timing_and_needs_its_period() {
    let occi = Occi::start();
    let with = |attributes: Value| json!({ "kind": SENSOR, "attributes": attributes });
    let answer =
        occi.expect(400, "POST", "/sensor/", with(json!({ "occi.sensor.period": 60, "threshold": 80 })));
    assert!(answer.body.contains("threshold"));
    let eager = with(json!({ "occi.sensor.period": 60, of("EmailAlarm", "thresholdd"): 80 }));
    assert!(occi.expect(400, "POST", "/sensor/", eager).body.contains("thresholdd"));
    assert!(occi.expect(400, "POST", "/sensor/", with(json!({}))).body.contains("occi.sensor.period"));
    assert_eq!(occi.get("/sensor/"), json!({ "resources": [] }), "nothing was half made");
}

/// Requirement: R1-04, R1-08
#[test]
fn specifications_of_period_and_times_are_kept_as_they_were_said() {
    let occi = Occi::start();
    let body = json!({ "kind": SENSOR, "attributes": {
        "occi.sensor.period": 60, "occi.sensor.periodspec": "1,0.1,0", "occi.sensor.timespec": "1,1,\"x\"" } });
    let place = occi.expect(201, "POST", "/sensor/", body).place();
    let attributes = occi.get(&place)["attributes"].clone();
    assert_eq!(attributes["occi.sensor.periodspec"], "1,0.1,0");
    assert_eq!(attributes["occi.sensor.timespec"], "1,1,\"x\"");
    assert_eq!(occi.get(&occi.sensor(60.0))["attributes"]["occi.sensor.periodspec"], Value::Null);
}

/// Requirement: R1-12
#[test]
fn a_sensor_without_collectors_is_healthy_and_does_nothing() {
    let occi = Occi::start();
    let sensor = occi.sensor(0.1);
    let shown = occi.get(&sensor)["attributes"].clone();
    assert_eq!(shown[of("Status", "state")], "idle");
    assert_eq!(shown[of("Status", "missing")], Value::Null);
    assert_eq!(occi.services(), Vec::<String>::new());
}

/// Requirement: R1-15
#[test]
fn who_measures_what_is_found_from_both_sides() {
    let occi = Occi::start();
    let one = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    let two = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    let sensor = occi.sensor(60.0);
    let mut places = Vec::new();
    for target in [&one, &two] {
        let body = json!({ "kind": COLLECTOR, "source": { "location": sensor }, "target": { "location": target },
            "attributes": { "occi.collector.period": 60 } });
        places.push(occi.expect(201, "POST", "/collector/", body).place());
    }
    let links = occi.get(&sensor)["links"].clone();
    let mut targets: Vec<_> =
        links.as_array().unwrap().iter().map(|l| l["target"]["location"].clone()).collect();
    targets.sort_by_key(Value::to_string);
    let mut both = vec![json!(one), json!(two)];
    both.sort_by_key(Value::to_string);
    assert_eq!(targets, both);
    for said in [two.clone(), format!("http://{}{two}", occi.address)] {
        let filter = format!("occi.core.target=\"{said}\"");
        let answer = occi.ask("GET", "/collector/", &[("X-OCCI-Attribute", &filter)], "");
        assert_eq!(answer.body.trim(), format!("X-OCCI-Location: http://{}{}", occi.address, places[1]));
    }
    let text = occi.ask("GET", &sensor, &[], "").body;
    assert!(text.contains(&format!("Link: <{one}>")), "{text}");
}

/// Requirement: R1-19
#[test]
fn labels_connect_and_one_that_nothing_feeds_is_named() {
    let occi = Occi::start();
    let sensor = occi.sensor(60.0);
    occi.associate(&sensor, "#EWMA", json!({ of("EWMA", "instream"): "a", of("EWMA", "outstream"): "b" }));
    occi.associate(&sensor, "#Log", json!({ of("Log", "in_msg"): "b" }));
    assert_eq!((occi.state(&sensor), occi.status(&sensor, "missing")), ("incomplete".into(), "a".into()));
    assert_eq!(occi.services(), Vec::<String>::new());
    let collector = occi.collector(&sensor, 60.0, "CPUPercent", json!({ of("CPUPercent", "out"): "z" }));
    assert_eq!(occi.status(&sensor, "missing"), "a", "another label");
    occi.expect(200, "POST", &collector, json!({ "attributes": { of("CPUPercent", "out"): "a" } }));
    assert_eq!((occi.state(&sensor), occi.status(&sensor, "missing")), ("active".into(), String::new()));
    assert_eq!(occi.services().len(), 1);
    // What cannot be calculated is refused.
    let odd = json!({ "mixins": [format!("{AGGREGATOR}Expression")], "attributes": { of("Expression", "instream"): "a",
        of("Expression", "outstream"): "e", of("Expression", "expression"): "a +" } });
    assert!(occi.expect(400, "POST", &sensor, odd).body.contains("the expression `a +`"));
    // A circle is refused, and nothing of it is kept.
    let circle = json!({ "attributes": { of("EWMA", "instream"): "b" } });
    assert!(occi.expect(400, "POST", &sensor, circle).body.contains("feed themselves"));
    assert_eq!(occi.state(&sensor), "active");
}

/// Requirement: R1-48
#[test]
fn a_collector_that_is_slower_than_its_sensor_is_warned_of() {
    let occi = Occi::start();
    let sensor = occi.sensor(60.0);
    let collector = occi.collector(&sensor, 10.0, "CPUPercent", json!({ of("CPUPercent", "out"): "a" }));
    assert_eq!(occi.status(&sensor, "warning"), "", "six times");
    occi.expect(200, "POST", &collector, json!({ "attributes": { "occi.collector.period": 120 } }));
    let warning = occi.status(&sensor, "warning");
    assert!(warning.contains("120") && warning.contains(&collector), "{warning}");
}

/// Requirement: R1-52
#[test]
fn periods_from_a_second_to_an_hour_are_kept_and_shorter_ones_become_the_best_fit() {
    let occi = Occi::start();
    for (said, kept) in
        [(json!(1), json!(1)), (json!(60), json!(60)), (json!(3600), json!(3600)), (json!(0.001), json!(0.1))]
    {
        let body = json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": said } });
        let shown = occi.expect(201, "POST", "/sensor/", body).json();
        assert_eq!(shown["attributes"]["occi.sensor.period"], kept);
    }
}

#[test]
fn what_stops_before_it_starts_or_started_long_ago_is_refused_and_nothing_is_made() {
    let occi = Occi::start();
    let with = |attributes: Value| json!({ "kind": SENSOR, "attributes": attributes });
    let late = json!({ "occi.sensor.period": 60, "occi.sensor.timebase": 1_386_925_386, "occi.sensor.timestart": 600,
        "occi.sensor.timestop": 3600 });
    assert!(occi.expect(400, "POST", "/sensor/", with(late)).body.contains("in the past"));
    let stop = json!({ "occi.sensor.period": 60, "occi.sensor.timestart": 10, "occi.sensor.timestop": 5 });
    assert!(occi.expect(400, "POST", "/sensor/", with(stop)).body.contains("timestop"));
    assert_eq!(occi.get("/"), json!({ "resources": [] }));
    let asleep = json!({ "occi.sensor.period": 60, "occi.sensor.timebase": -1 });
    occi.expect(201, "POST", "/sensor/", with(asleep));
}

#[test]
fn a_sensor_that_began_long_ago_is_changed_by_what_was_read_of_it() {
    let occi = Occi::start();
    let sensor = occi.sensor(60.0);
    let began = json!({ "attributes": { "occi.sensor.timebase": now() - 3, "occi.sensor.timestart": 1 } });
    occi.expect(200, "POST", &sensor, began);
    std::thread::sleep(Duration::from_secs(5));
    let shown = occi.get(&sensor);
    occi.expect(200, "PUT", &sensor, shown.clone());
    assert_eq!(occi.get(&sensor), shown);
    occi.expect(200, "POST", &sensor, json!({ "attributes": { "occi.sensor.timestop": 3600 } }));
    occi.expect(400, "POST", &sensor, json!({ "attributes": { "occi.sensor.timestart": 0 } }));
}

// ---- the alarm of the paper ------------------------------------------------------------------------------------------

fn alarm_sensor(base: u64) -> Value {
    json!({ "kind": SENSOR, "id": "urn:uuid:2222", "title": "AlarmOnOverload", "attributes": {
        "occi.sensor.period": 60, "occi.sensor.timebase": base, "occi.sensor.timestart": 600, "occi.sensor.timestop": 3600 } })
}

fn alarm_collector() -> Value {
    json!({ "kind": COLLECTOR, "id": "urn:uuid:3333", "title": "CPULoadProbe", "source": { "location": "urn:uuid:2222" },
        "target": { "location": "urn:uuid:1111" }, "attributes": { "occi.collector.period": 60 } })
}

/// Requirement: R1-46, R1-47
#[test]
fn the_alarm_is_built_in_five_steps_each_of_which_shows_or_in_one_with_the_same_result() {
    let occi = Occi::start();
    let base = now();
    let sensor = occi.expect(201, "POST", "/sensor/", alarm_sensor(base)).place();
    assert_eq!(sensor, "/sensor/2222");
    assert_eq!((occi.state(&sensor), occi.services()), ("idle".into(), vec![]));
    assert_eq!(occi.get(&sensor)["links"], Value::Null);
    let collector = occi.expect(201, "POST", "/collector/", alarm_collector()).place();
    let shown = occi.get(&sensor);
    assert_eq!(shown["links"][0]["location"], collector.as_str());
    assert_eq!(shown["links"][0]["target"]["location"], "urn:uuid:1111");
    assert_eq!((occi.state(&sensor), occi.services()), ("idle".into(), vec![]));
    let cpu = json!({ "links": [{ "kind": COLLECTOR, "id": "urn:uuid:3333", "attributes": { of("CPUPercent", "out"): "a" } }] });
    occi.expect(200, "POST", "/mixin/CPUPercent/", cpu);
    assert_eq!(occi.get(&collector)["attributes"][of("CPUPercent", "out")], "a");
    assert_eq!(occi.state(&sensor), "idle", "nobody gets what could be measured");
    let ewma = json!({ of("EWMA", "gain"): 16, of("EWMA", "instream"): "a", of("EWMA", "outstream"): "b" });
    let body = |attributes: &Value| json!({ "resources": [{ "kind": SENSOR, "id": "urn:uuid:2222", "attributes": attributes }] });
    occi.expect(200, "POST", "/mixin/EWMA/", body(&ewma));
    assert_eq!(occi.get(&sensor)["attributes"][of("EWMA", "gain")], 16);
    assert_eq!(occi.state(&sensor), "idle");
    let mail = json!({ of("EmailAlarm", "threshold"): 80, of("EmailAlarm", "input"): "b",
        of("EmailAlarm", "email"): "myself@example.com" });
    occi.expect(200, "POST", "/mixin/EmailAlarm/", body(&mail));
    assert_eq!(occi.state(&sensor), "active");
    assert_eq!(occi.services(), ["sensor-2222"]);
    let stepwise = [occi.get(&sensor), occi.get(&collector), occi.get("/")];

    occi.expect(200, "DELETE", "/", Value::Null);
    assert_eq!(occi.services(), Vec::<String>::new());
    let (mut resource, mut link) = (alarm_sensor(base), alarm_collector());
    resource["mixins"] = json!([format!("{AGGREGATOR}EWMA"), format!("{PUBLISHER}EmailAlarm")]);
    for more in [&ewma, &mail] {
        resource["attributes"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    link["mixins"] = json!([format!("{METRIC}CPUPercent")]);
    link["attributes"][of("CPUPercent", "out")] = "a".into();
    occi.expect(201, "POST", "/", json!({ "resources": [resource], "links": [link] }));
    assert_eq!([occi.get(&sensor), occi.get(&collector), occi.get("/")], stepwise);
    assert_eq!(occi.services(), ["sensor-2222"]);
}

#[test]
fn an_association_in_headers_carries_the_attributes_or_they_follow() {
    let occi = Occi::start();
    let headers = [
        ("Content-Type", "text/occi"),
        ("Category", "sensor; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\""),
        ("X-OCCI-Attribute", "occi.core.title=\"AlarmOnOverload\", occi.sensor.period=60"),
    ];
    let sensor = occi.ask("POST", "/sensor/", &headers, "").place();
    let at = format!("http://{}{sensor}", occi.address);
    let with = format!("{}=\"a\", {}=\"b\"", of("EWMA", "instream"), of("EWMA", "outstream"));
    let headers = [
        ("Content-Type", "text/occi"),
        ("X-OCCI-Location", at.as_str()),
        ("X-OCCI-Attribute", with.as_str()),
    ];
    assert_eq!(occi.ask("POST", "/mixin/EWMA/", &headers, "").status, 200);
    assert_eq!(occi.get(&sensor)["attributes"][of("EWMA", "instream")], "a");
    // Bare, with the attributes in a second request.
    let bare = [("Content-Type", "text/occi"), ("X-OCCI-Location", at.as_str())];
    assert_eq!(occi.ask("POST", "/mixin/SendUDP/", &bare, "").status, 200);
    let missing = occi.status(&sensor, "missing");
    assert!(missing.contains("SendUDP.udpAddr") && missing.contains("SendUDP.input"), "{missing}");
    let rest = format!("{}=\"b\", {}=\"127.0.0.1:9\"", of("SendUDP", "input"), of("SendUDP", "udpAddr"));
    let answer = occi.ask("POST", &sensor, &[("Content-Type", "text/occi"), ("X-OCCI-Attribute", &rest)], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(occi.status(&sensor, "missing"), "a");
}

// ---- how it is asked -------------------------------------------------------------------------------------------------

/// Requirement: R1-23
#[test]
fn each_path_does_what_the_protocol_says_for_each_method() {
    let occi = Occi::start();
    let (a, b) = (occi.sensor(60.0), occi.sensor(60.0));
    // Kinds.
    assert_eq!(occi.get("/sensor/")["resources"].as_array().unwrap().len(), 2);
    let list = occi.ask("GET", "/sensor/", &[("Accept", "text/uri-list")], "");
    assert_eq!(list.body.lines().count(), 2, "{list:?}");
    occi.expect(405, "PUT", "/sensor/", json!({ "resources": [] }));
    // Entities: partly, as a whole, new at a place of the client's.
    occi.expect(200, "POST", &a, json!({ "title": "one", "attributes": { "occi.sensor.timestop": 7200 } }));
    let shown = occi.expect(200, "POST", &a, json!({ "attributes": { "occi.sensor.period": 30 } })).json();
    assert_eq!((&shown["title"], &shown["attributes"]["occi.sensor.period"]), (&json!("one"), &json!(30)));
    assert_eq!(shown["attributes"]["occi.sensor.timestop"], 7200);
    let whole = json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 20 } });
    let shown = occi.expect(200, "PUT", &a, whole.clone()).json();
    assert_eq!((&shown["title"], &shown["attributes"]["occi.sensor.timestop"]), (&Value::Null, &Value::Null));
    occi.expect(400, "PUT", &a, json!({ "kind": SENSOR }));
    let new = occi.expect(201, "PUT", "/sensor/of-mine", whole);
    assert_eq!(new.place(), "/sensor/of-mine");
    assert_eq!(occi.get("/sensor/of-mine")["attributes"]["occi.sensor.period"], 20);
    // Mixins: more, exactly these, none.
    let members = || occi.get("/mixin/Log/")["resources"].as_array().map_or(0, Vec::len);
    occi.lines(200, "POST", "/mixin/Log/", &format!("X-OCCI-Location: {a}"));
    occi.lines(200, "POST", "/mixin/Log/", &format!("X-OCCI-Location: {b}"));
    assert_eq!(members(), 2);
    occi.lines(200, "PUT", "/mixin/Log/", &format!("X-OCCI-Location: {b}"));
    assert_eq!((members(), &occi.get("/mixin/Log/")["resources"][0]["location"]), (1, &json!(b)));
    occi.lines(200, "DELETE", "/mixin/Log/", &format!("X-OCCI-Location: {a}"));
    assert_eq!(members(), 1, "it had it not");
    occi.lines(200, "DELETE", "/mixin/Log/", "");
    assert_eq!(members(), 0);
    occi.lines(400, "POST", "/mixin/Log/", "X-OCCI-Location: /sensor/nowhere");
    // Away.
    occi.expect(200, "DELETE", &a, Value::Null);
    occi.expect(404, "GET", &a, Value::Null);
    occi.expect(404, "DELETE", &a, Value::Null);
    occi.expect(200, "DELETE", "/sensor/", Value::Null);
    assert_eq!(occi.get("/"), json!({ "resources": [] }));
}

#[test]
fn actions_change_the_state_of_infrastructure() {
    let occi = Occi::start();
    let compute = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    let actions = occi.get(&compute)["actions"].to_string();
    assert!(actions.contains("compute/action#start"), "{actions}");
    let start = "Category: start; scheme=\"http://schemas.ogf.org/occi/infrastructure/compute/action#\"; class=\"action\"";
    occi.lines(200, "POST", &format!("{compute}?action=start"), start);
    assert_eq!(occi.get(&compute)["attributes"]["occi.compute.state"], "active");
    let stop = json!({ "action": "http://schemas.ogf.org/occi/infrastructure/compute/action#stop", "attributes": { "method": "graceful" } });
    occi.expect(200, "POST", "/compute/?action=stop", stop.clone());
    assert_eq!(occi.get(&compute)["attributes"]["occi.compute.state"], "inactive");
    occi.expect(400, "POST", &format!("{compute}?action=start"), stop);
    occi.expect(400, "POST", &format!("{compute}?action=fly"), Value::Null);
    let shown =
        occi.expect(400, "POST", &compute, json!({ "attributes": { "occi.compute.state": "active" } }));
    assert!(shown.body.contains("immutable"));
    // Links of infrastructure are no matter of sensors.
    let storage = json!({ "kind": "http://schemas.ogf.org/occi/infrastructure#storage", "attributes": { "occi.storage.size": 10 } });
    let storage = occi.expect(201, "POST", "/storage/", storage).place();
    let link = json!({ "kind": "http://schemas.ogf.org/occi/infrastructure#storagelink", "source": { "location": compute },
        "target": { "location": storage }, "attributes": { "occi.storagelink.deviceid": "sda" } });
    let link = occi.expect(201, "POST", "/storagelink/", link).place();
    occi.expect(200, "DELETE", &compute, Value::Null);
    occi.expect(404, "GET", &link, Value::Null);
}

#[test]
fn collections_are_filtered_and_come_in_pages() {
    let occi = Occi::start();
    let all: Vec<String> = (0..25).map(|n| occi.sensor(f64::from(n % 5 + 1))).collect();
    let filter = [("X-OCCI-Attribute", "occi.sensor.period=3")];
    assert_eq!(occi.ask("GET", "/sensor/", &filter, "").body.lines().count(), 5);
    let mixin =
        [("Category", "Log; scheme=\"http://example.com/occi/monitoring/publisher#\"; class=\"mixin\"")];
    assert_eq!(occi.ask("GET", "/sensor/", &mixin, "").body.trim(), "");
    occi.lines(200, "POST", "/mixin/Log/", &format!("X-OCCI-Location: {}", all[3]));
    assert!(occi.ask("GET", "/", &mixin, "").body.trim().ends_with(&all[3]));
    let mut seen: Vec<String> = Vec::new();
    for (page, separator) in [(1, '&'), (2, ';'), (3, '&'), (4, '&')] {
        let answer = occi.ask("GET", &format!("/sensor/?page={page}{separator}number=10"), &[], "");
        let count = answer.body.lines().count();
        assert_eq!((answer.status, count), (200, [10, 10, 5, 0][page - 1]), "{answer:?}");
        seen.extend(answer.body.lines().map(str::to_string));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 25, "each once");
    assert_eq!(occi.ask("GET", "/sensor/?page=1&number=1000000", &[], "").status, 413);
    assert_eq!(occi.ask("GET", "/sensor/?page=0", &[], "").status, 400);
}

#[test]
fn what_is_not_understood_gets_the_status_that_fits() {
    let occi = Occi::start();
    let sensor = occi.sensor(60.0);
    let status = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        occi.ask(method, path, headers, body).status
    };
    assert_eq!(status("GET", "/nowhere", &[], ""), 404);
    assert_eq!(status("PATCH", &sensor, &[], ""), 405);
    assert_eq!(status("PUT", "/-/", &[], ""), 405);
    assert_eq!(status("GET", &sensor, &[("Accept", "image/png")], ""), 406);
    assert_eq!(status("GET", &sensor, &[("Accept", "text/uri-list")], ""), 400);
    assert_eq!(status("POST", "/sensor/", &[("Content-Type", "application/x-yaml")], "a: b"), 415);
    assert_eq!(status("GET", "/-/", &[("User-Agent", "client/1 OCCI/1.3")], ""), 501);
    assert_eq!(status("GET", "/-/", &[("User-Agent", "client/1 OCCI/1.1")], ""), 200);
    assert_eq!(status("POST", "/sensor/", JSON, "{"), 400);
    assert_eq!(status("POST", "/sensor/", JSON, ""), 400);
    assert_eq!(status("POST", "/compute/", &[], ""), 400, "not even a kind");
    assert_eq!(status("PUT", "/sensor/..", JSON, "{}"), 400);
    assert_eq!(status("GET", "/%00", &[], ""), 400);
    assert_eq!(status("GET", "/%ff", &[], ""), 400);
    let id = occi.get(&sensor)["id"].clone();
    let twin = json!({ "kind": SENSOR, "id": id, "attributes": { "occi.sensor.period": 1 } });
    assert_eq!(status("POST", "/sensor/", JSON, &twin.to_string()), 409);
    let typed = json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": "often" } });
    assert_eq!(status("POST", "/sensor/", JSON, &typed.to_string()), 400);
    let nowhere = json!({ "kind": COLLECTOR, "source": { "location": sensor }, "target": { "location": "/compute/none" },
        "attributes": { "occi.collector.period": 1 } });
    assert_eq!(status("POST", "/collector/", JSON, &nowhere.to_string()), 400);
    let backwards = json!({ "kind": COLLECTOR, "source": { "location": "urn:x:1" }, "target": { "location": "urn:x:2" },
        "attributes": { "occi.collector.period": 1 } });
    assert_eq!(status("POST", "/collector/", JSON, &backwards.to_string()), 400);
    // One of several is wrong: none is made.
    let good = json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 1 } });
    let document = json!({ "resources": [good, { "kind": SENSOR }] }).to_string();
    assert_eq!(status("POST", "/", JSON, &document), 400);
    assert_eq!(occi.get("/sensor/")["resources"].as_array().unwrap().len(), 1);
    let tag = json!([{ "term": "t", "scheme": "http://client.example/tags#", "location": "/t/" }]);
    let document = json!({ "mixins": tag, "resources": [{ "kind": SENSOR }] }).to_string();
    assert_eq!(status("POST", "/", JSON, &document), 400);
    assert_eq!(status("GET", "/t/", &[], ""), 404, "nor the mixin that came with it");
    assert_eq!(status("POST", "/", JSON, &json!({ "mixins": tag }).to_string()), 200);
    assert_eq!(status("GET", "/t/", &[], ""), 200);
    // The way round of a collector does not matter.
    let turned = json!({ "kind": COLLECTOR, "source": { "location": "urn:x:1" }, "target": { "location": sensor },
        "attributes": { "occi.collector.period": 1 } });
    let place = occi.expect(201, "POST", "/collector/", turned).place();
    assert_eq!(occi.get(&place)["source"]["location"], sensor.as_str());
}

#[test]
fn no_text_of_a_client_becomes_a_header_or_a_line() {
    let occi = Occi::start();
    for title in ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\u{0}b", "quote \" and , comma; semicolon"] {
        let body = json!({ "kind": SENSOR, "title": title, "attributes": { "occi.sensor.period": 60 } });
        let answer = occi.ask("POST", "/sensor/", JSON, &body.to_string());
        if answer.status != 201 {
            assert_eq!(answer.status, 400, "{answer:?}");
            continue;
        }
        for accept in ["text/plain", "text/occi"] {
            let shown = occi.ask("GET", &answer.place(), &[("Accept", accept)], "");
            assert_eq!(shown.status, 200, "{shown:?}");
            let lines = shown.head.lines().chain(shown.body.lines());
            assert!(lines.clone().all(|line| !line.starts_with("X-Evil")), "{shown:?}");
        }
        let shown = occi.ask("GET", &answer.place(), &[("Accept", "text/plain")], "").body;
        occi.lines(200, "PUT", &answer.place(), &shown);
        assert_eq!(occi.ask("GET", &answer.place(), &[("Accept", "text/plain")], "").body, shown);
    }
    let id = json!({ "kind": SENSOR, "id": "a\r\nX-Evil: 1", "attributes": { "occi.sensor.period": 60 } });
    occi.expect(400, "POST", "/sensor/", id);
    let answer = occi.ask("GET", "/sensor/%0d%0aX-Evil:1", &[], "");
    assert!(answer.status == 400 && !answer.head.contains("X-Evil"), "{answer:?}");
}

/// Requirement: R1-25
#[test]
fn an_entity_is_read_in_one_rendering_and_written_in_another() {
    let occi = Occi::start();
    let base = now();
    occi.expect(201, "POST", "/sensor/", alarm_sensor(base));
    let sensor = "/sensor/2222";
    occi.associate(
        sensor,
        "#EWMA",
        json!({ of("EWMA", "instream"): "a,b", of("EWMA", "outstream"): "c \"d\", e" }),
    );
    let reference = occi.get(sensor);
    for media in ["text/plain", "text/occi", "application/occi+json", "application/occi+xml"] {
        let shown = occi.ask("GET", sensor, &[("Accept", media)], "");
        assert_eq!(shown.status, 200, "{shown:?}");
        assert!(shown.header("content-type").starts_with(media), "{shown:?}");
        occi.expect(200, "DELETE", sensor, Value::Null);
        let (mut headers, mut body) = (vec![("Content-Type", media)], shown.body.as_str());
        if media == "text/occi" {
            body = "";
            for name in ["Category", "X-OCCI-Attribute", "Link"] {
                headers.extend(shown.headers(name).into_iter().map(|value| (name, value)));
            }
        }
        let put = occi.ask("PUT", sensor, &headers, body);
        assert_eq!(put.status, 201, "{media}: {put:?}");
        assert_eq!(occi.get(sensor), reference, "{media}");
    }
    occi.collector(sensor, 60.0, "CPUPercent", json!({ of("CPUPercent", "out"): "a" }));
    let reference = occi.get(sensor);
    for media in ["text/plain", "application/occi+json", "application/occi+xml"] {
        let shown = occi.ask("GET", sensor, &[("Accept", media)], "");
        let put = occi.ask("PUT", sensor, &[("Content-Type", media)], &shown.body);
        assert_eq!(put.status, 200, "{media}: {put:?}");
        assert_eq!(occi.get(sensor), reference, "{media}, with its link");
    }
}

// ---- what runs -------------------------------------------------------------------------------------------------------

/// Requirement: R1-26, R1-27
#[test]
fn representations_stay_the_same_while_measurements_flow_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    let compute = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    let sensor = occi.sensor(0.1);
    let tag = "Category: mine; scheme=\"http://client.example/tags#\"; class=\"mixin\"; location=\"/mine/\"";
    occi.lines(200, "POST", "/-/", tag);
    occi.lines(200, "POST", "/mine/", &format!("X-OCCI-Location: {sensor}"));
    let body = json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}MemoryUsed")], "source": { "location": sensor },
        "target": { "location": compute },
        "attributes": { "occi.collector.period": 0.1, of("MemoryUsed", "out"): "a" } });
    let collector = occi.expect(201, "POST", "/collector/", body).place();
    let socket = occi.listen(&sensor, "a");
    datum(&socket);
    let all = [&compute, &sensor, &collector];
    let before = all.map(|place| occi.ask("GET", place, &[], ""));
    for _ in 0..5 {
        datum(&socket);
    }
    for (place, before) in all.iter().zip(&before) {
        let after = occi.ask("GET", place, &[], "");
        assert_eq!((after.status, &after.body), (200, &before.body), "byte by byte");
        let tag = before.header("etag");
        let cached = occi.ask("GET", place, &[("If-None-Match", tag)], "");
        assert_eq!((cached.status, cached.body.as_str(), cached.header("etag")), (304, "", tag));
    }
    assert!(!before[0].body.contains("MemoryUsed"), "{before:?}");
    assert_eq!(occi.ask("GET", &compute, &[("If-None-Match", "\"other\"")], "").status, 200);
    let (categories, old) = (occi.get("/-/"), occi.address);
    drop(occi);

    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    for (place, before) in all.iter().zip(&before) {
        let after = occi.ask("GET", place, &[], "");
        let (mut after, mut before) = (after.body, before.body.clone());
        after = after.replace(&occi.address.to_string(), "");
        before = before.replace(&old.to_string(), "");
        assert_eq!(after, before);
    }
    assert_eq!(occi.get("/-/"), categories);
    assert_eq!(occi.get("/mine/")["resources"][0]["location"], sensor.as_str());
    // What was on its way before may still arrive; then what is measured now.
    for _ in 0..5 {
        datum(&socket);
    }
    // What is deleted stays away.
    occi.expect(200, "DELETE", &sensor, Value::Null);
    drop(occi);
    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    occi.expect(404, "GET", &sensor, Value::Null);
    occi.expect(404, "GET", &collector, Value::Null);
    assert_eq!(occi.services(), Vec::<String>::new());
}

#[test]
fn a_sensor_that_is_deleted_takes_its_collectors_and_its_service_with_it() {
    let occi = Occi::start();
    let sensor = occi.sensor(1.0);
    let a = occi.collector(&sensor, 1.0, "CPUPercent", json!({ of("CPUPercent", "out"): "a" }));
    let b = occi.collector(&sensor, 1.0, "MemoryUsed", json!({ of("MemoryUsed", "out"): "b" }));
    occi.associate(&sensor, "#Log", json!({ of("Log", "in_msg"): "a" }));
    assert_eq!(occi.services().len(), 1);
    // Without what feeds its publisher it waits.
    occi.expect(200, "DELETE", &a, Value::Null);
    assert_eq!((occi.state(&sensor), occi.services()), ("incomplete".into(), vec![]));
    occi.expect(200, "DELETE", &sensor, Value::Null);
    occi.expect(404, "GET", &b, Value::Null);
    assert_eq!(occi.get("/"), json!({ "resources": [] }));
}

/// Requirement: R1-28
#[test]
fn a_sensor_may_measure_itself() {
    let occi = Occi::start();
    let sensor = occi.sensor(0.1);
    let body = json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}MemoryUsed")], "source": { "location": sensor },
        "target": { "location": sensor },
        "attributes": { "occi.collector.period": 0.1, of("MemoryUsed", "out"): "a" } });
    let place = occi.expect(201, "POST", "/collector/", body).place();
    assert_eq!(occi.get(&place)["target"]["kind"], SENSOR);
    assert!(datum(&occi.listen(&sensor, "a")) > 0.0);
}

/// Requirement: R1-38
#[test]
fn a_parameter_of_a_running_collector_is_changed_and_the_next_sample_obeys() {
    let occi = Occi::start();
    let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap()
    };
    let sensor = occi.sensor(0.1);
    let host = of("IsReachable", "hostname");
    let attributes = json!({ of("IsReachable", "out"): "up", host.as_str(): closed.to_string() });
    let collector = occi.collector(&sensor, 0.1, "IsReachable", attributes);
    let socket = occi.listen(&sensor, "up");
    assert_eq!(datum(&socket), 0.0);
    let change = json!({ "attributes": { host: open.local_addr().unwrap().to_string() } });
    occi.expect(200, "POST", &collector, change);
    await_datum(&socket, 1.0);
}

/// Requirement: R1-21
#[test]
fn a_ping_sends_packets_of_the_size_that_its_mixin_says() {
    let occi = Occi::start();
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = echo.local_addr().unwrap().to_string();
    let sensor = occi.sensor(0.1);
    let attributes =
        json!({ of("Ping", "out"): "rtt", of("Ping", "target"): target, of("Ping", "size"): 100 });
    occi.collector(&sensor, 0.1, "Ping", attributes);
    let socket = occi.listen(&sensor, "rtt");
    let mut buffer = [0; 2000];
    let (length, from) = echo.recv_from(&mut buffer).unwrap();
    assert_eq!(length, 100);
    // It ends when nothing more comes.
    std::thread::spawn(move || {
        let _ = echo.send_to(&buffer[..length], from);
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    let delay = datum(&socket);
    assert!((0.0..1000.0).contains(&delay), "{delay} ms");
}

// ---- templates and other extensions ----------------------------------------------------------------------------------

/// Requirement: R1-39
#[test]
fn a_template_makes_the_whole_alarm_of_one_request() {
    let occi = Occi::start();
    let all = occi.get("/-/");
    let template = category(&all, "mixins", "http://example.com/occi/monitoring/template#CPUAlarm");
    assert_eq!(template["applies"], json!([SENSOR]));
    let base = now();
    let asked = |attributes: Value| {
        json!({ "kind": SENSOR, "id": "urn:uuid:2222", "attributes": attributes,
            "mixins": ["http://example.com/occi/monitoring/template#CPUAlarm"] })
    };
    let answer =
        occi.expect(400, "POST", "/sensor/", asked(json!({ of("CPUAlarm", "target"): "urn:uuid:1111" })));
    assert!(answer.body.contains("CPUAlarm.email"), "{answer:?}");
    assert_eq!(occi.get("/"), json!({ "resources": [] }));
    let button = json!({ of("CPUAlarm", "target"): "urn:uuid:1111", of("CPUAlarm", "email"): "myself@example.com",
        "occi.sensor.timebase": base });
    for path in ["/sensor/", "/"] {
        occi.expect(201, "POST", path, asked(button.clone()));
        assert_eq!(
            (occi.state("/sensor/2222"), occi.services()),
            ("active".into(), vec!["sensor-2222".to_string()])
        );
        let made = occi.get("/sensor/2222");
        occi.expect(200, "DELETE", "/", Value::Null);
        let (mut resource, mut link) = (alarm_sensor(base), alarm_collector());
        resource["mixins"] = json!([format!("{AGGREGATOR}EWMA"), format!("{PUBLISHER}EmailAlarm")]);
        let more = json!({ of("EWMA", "gain"): 16, of("EWMA", "instream"): "a", of("EWMA", "outstream"): "b",
            of("EmailAlarm", "threshold"): 80, of("EmailAlarm", "input"): "b", of("EmailAlarm", "email"): "myself@example.com" });
        resource["attributes"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        link["mixins"] = json!([format!("{METRIC}CPUPercent")]);
        link["attributes"][of("CPUPercent", "out")] = "a".into();
        link["id"] = made["links"][0]["id"].clone();
        occi.expect(201, "POST", "/", json!({ "resources": [resource], "links": [link] }));
        assert_eq!(occi.get("/sensor/2222"), made, "as if it had been said at length");
        occi.expect(200, "DELETE", "/", Value::Null);
    }
    let sensor = occi.sensor(60.0);
    occi.lines(400, "POST", "/mixin/CPUAlarm/", &format!("X-OCCI-Location: {sensor}"));
    let line = "Category: CPUAlarm; scheme=\"http://example.com/occi/monitoring/template#\"; class=\"mixin\"";
    occi.lines(400, "POST", &sensor, line);
}

#[test]
fn documents_that_name_mixins_by_their_attributes_only_are_understood() {
    let occi = Occi::start();
    let text = json!({
        "resources": [{ "id": "urn:uuid:s1111", "kind": SENSOR, "links": ["urn:uuid:2345"], "attributes": {
            "occi": { "sensor": { "period": 3, "timebase": now(), "timestart": 2, "timestop": 3600 } },
            "com": { "example": { "occi": { "monitoring": {
                "SendUDP": { "udpAddr": "127.0.0.1:8888", "input": "c" },
                "EWMA": { "gain": 16, "instream": "a", "outstream": "c" },
                "Log": { "filename": "/tmp/x", "in_msg": "b" } } } } } } }],
        "links": [{ "id": "urn:uuid:2345", "kind": COLLECTOR, "source": "urn:uuid:c2222", "target": "urn:uuid:s1111",
            "attributes": { "occi": { "collector": { "period": 3 } }, "com": { "example": { "occi": { "monitoring": {
                "CPUPercent": { "out": "a" },
                "IsReachable": { "hostname": "127.0.0.1:1", "maxdelay": 1000, "out": "b" } } } } } } }],
    });
    occi.expect(201, "POST", "/", text);
    let sensor = occi.get("/sensor/s1111");
    let mixins = sensor["mixins"].to_string();
    assert!(["EWMA", "SendUDP", "Log"].iter().all(|term| mixins.contains(&format!("#{term}\""))), "{mixins}");
    assert_eq!(sensor["links"][0]["source"]["location"], "/sensor/s1111");
    assert!(sensor["links"][0]["mixins"].to_string().contains("#IsReachable"), "{sensor}");
    assert_eq!(occi.state("/sensor/s1111"), "active");
}

#[test]
fn notifications_begin_in_notifiers_and_end_with_the_tag() {
    let occi = Occi::start();
    let sensor = occi.sensor(60.0);
    let link = json!({ "kind": "http://schemas.ogf.org/occi/notification#notification", "source": { "location": sensor },
        "target": { "location": "http://client.example/inbox" } });
    assert!(occi.expect(400, "POST", "/notification/", link.clone()).body.contains("notifier"));
    let tag = occi.get("/-/");
    let tag = category(&tag, "mixins", "http://schemas.ogf.org/occi/notification#notifier")["location"]
        .as_str()
        .unwrap()
        .to_string();
    let me = format!("X-OCCI-Location: {sensor}");
    for way in ["DELETE", "PUT"] {
        occi.lines(200, "POST", &tag, &me);
        let place = occi.expect(201, "POST", "/notification/", link.clone()).place();
        let collector = occi.collector(&sensor, 60.0, "CPUPercent", json!({}));
        match way {
            "DELETE" => drop(occi.lines(200, "DELETE", &tag, &me)),
            _ => drop(occi.expect(
                200,
                "PUT",
                &sensor,
                json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 60 } }),
            )),
        }
        occi.expect(404, "GET", &place, Value::Null);
        occi.expect(200, "GET", &collector, Value::Null);
    }
}

#[test]
fn an_older_client_gets_the_older_words() {
    let occi = Occi::start();
    let headers = [("Accept", "application/occi+json"), ("User-Agent", "client/1 OCCI/1.1")];
    let old = occi.ask("GET", "/-/", &headers, "").json();
    assert_eq!(
        category(&old, "kinds", SENSOR)["related"],
        json!(["http://schemas.ogf.org/occi/core#resource"])
    );
    assert_eq!(category(&occi.get("/-/"), "kinds", SENSOR)["related"], Value::Null);
}

#[test]
fn a_client_that_goes_away_leaves_nothing_half_made() {
    let occi = Occi::start();
    let body = json!({ "resources": (0..200).map(|n| json!({ "kind": SENSOR, "id": format!("urn:x:{n}"),
        "attributes": { "occi.sensor.period": 60 } })).collect::<Vec<_>>() })
    .to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/occi+json\r\nContent-Length: {}\r\n\r\n{body}",
        occi.address,
        body.len()
    );
    drop(TcpStream::connect(occi.address).map(|mut socket| socket.write_all(request.as_bytes())));
    // Half of a request.
    drop(
        TcpStream::connect(occi.address)
            .map(|mut socket| socket.write_all(&request.as_bytes()[..request.len() / 2])),
    );
    let begin = Instant::now();
    loop {
        let count = occi.get("/sensor/")["resources"].as_array().unwrap().len();
        assert!(count == 0 || count == 200, "{count}");
        if count == 200 || begin.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
}

#[test]
fn a_resource_that_gets_a_probe_has_its_collectors_run_there() {
    let occi = Occi::start();
    // A probe that takes orders and never delivers.
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/collectors", probe.local_addr().unwrap());
    let compute = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    let sensor = occi.sensor(60.0);
    let body = json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}CPUPercent")], "source": { "location": sensor },
        "target": { "location": compute },
        "attributes": { "occi.collector.period": 60, of("CPUPercent", "out"): "a" } });
    occi.expect(201, "POST", "/collector/", body);
    occi.associate(&sensor, "#Log", json!({ of("Log", "in_msg"): "a" }));
    let here = || {
        let running = occi.runtime.block_on(occi.daemon.supervisor().running());
        let policy = running.services.values().next().unwrap().clone();
        !serde_json::to_string(&policy.document.open().unwrap()).unwrap().contains(&url)
    };
    assert!(here());
    let container = "http://example.com/occi/monitoring/resource#MetricContainer";
    let with = json!({ "mixins": [container], "attributes": { of("MetricContainer", "url"): url } });
    occi.expect(200, "POST", &compute, with);
    assert!(!here());
    occi.expect(200, "PUT", &compute, json!({ "kind": COMPUTE }));
    assert!(here());
}

// ---- to the end of the pipe ------------------------------------------------------------------------------------------

/// A sensor that measures every tenth of a second whether somebody listens, under the label `up`; nobody does until the address is taken.
fn watched(occi: &Occi) -> (String, SocketAddr) {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sensor = occi.sensor(0.1);
    let attributes =
        json!({ of("IsReachable", "out"): "up", of("IsReachable", "hostname"): address.to_string() });
    occi.collector(&sensor, 0.1, "IsReachable", attributes);
    (sensor, address)
}

/// Waits for a line of what a sink prints.
#[track_caller]
fn sink_says(sink: &Process, line: &str) {
    let begin = Instant::now();
    while !sink.log().lines().any(|said| said.starts_with(line)) {
        assert!(begin.elapsed() < PATIENCE, "waited in vain for `{line}`: {}", sink.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Requirement: R1-40
#[test]
fn a_light_turns_red_when_the_threshold_is_crossed_and_each_colour_is_sent_once() {
    let occi = Occi::start();
    let mut sink = Process::start(&["sink", "ws", "--listen", "127.0.0.1:0"]);
    let url = format!("ws://{}/", sink.word_after("listens on "));
    let (sensor, address) = watched(&occi);
    let light = json!({ of("WebSocket", "input"): "up", of("WebSocket", "threshold"): 0.5, of("WebSocket", "url"): url });
    occi.associate(&sensor, "#WebSocket", light);
    sink_says(&sink, "green");
    let values = occi.listen(&sensor, "up");
    await_datum(&values, 0.0);
    let _open = std::net::TcpListener::bind(address).unwrap();
    await_datum(&values, 1.0);
    sink_says(&sink, "red");
    for _ in 0..5 {
        datum(&values);
    }
    let lines: Vec<String> = sink.log().lines().skip(1).map(str::to_string).collect();
    assert_eq!(lines, ["green", "red"]);
}

/// Requirement: R1-53
#[test]
fn the_same_metric_is_looked_at_and_triggers() {
    let occi = Occi::start();
    let mut sink = Process::start(&["sink", "smtp", "--listen", "127.0.0.1:0"]);
    let server = format!("smtp://{}", sink.word_after("listens on "));
    let (sensor, address) = watched(&occi);
    let dashboard = occi.listen(&sensor, "up");
    let mail = json!({ of("EmailAlarm", "input"): "up", of("EmailAlarm", "threshold"): 0.5,
        of("EmailAlarm", "email"): "myself@example.com", of("EmailAlarm", "server"): server });
    occi.associate(&sensor, "#EmailAlarm", mail);
    await_datum(&dashboard, 0.0);
    let _open = std::net::TcpListener::bind(address).unwrap();
    await_datum(&dashboard, 1.0);
    sink_says(&sink, "mail to <myself@example.com>: urn:uuid:1111 is over 0.5");
    for _ in 0..5 {
        datum(&dashboard);
    }
    assert_eq!(sink.log().lines().filter(|line| line.starts_with("mail to")).count(), 1, "{}", sink.log());
}

#[test]
fn ten_thousand_entities_are_deleted_while_they_are_read() {
    let occi = Occi::start();
    let all: Vec<Value> =
        (0..10_000).map(|n| json!({ "kind": COMPUTE, "id": format!("urn:x:{n}") })).collect();
    let made = occi.ask(
        "POST",
        "/",
        &[JSON[0], ("Accept", "text/uri-list")],
        &json!({ "resources": all }).to_string(),
    );
    assert_eq!((made.status, made.body.lines().count()), (201, 10_000));
    let read = || {
        let answer = occi.ask("GET", "/compute/", &[("Accept", "text/uri-list")], "");
        assert_eq!(answer.status, 200);
        answer.body.lines().count()
    };
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| occi.ask("DELETE", "/compute/", &[], "").status);
        let mut seen = 10_000;
        while !deleting.is_finished() {
            let count = read();
            assert!(count == seen || count == 0, "all or none, and none stay none: {count}");
            seen = count;
        }
        assert_eq!(deleting.join().unwrap(), 200);
    });
    assert_eq!(read(), 0);
}
