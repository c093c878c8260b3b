//! An infrastructure from its documents, as processes that only meet over the network.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use super::support::{Process, Said, homeostat, request, wait_for};

const S: &str = "http://schemas.ogf.org/occi/monitoring#";
const COMPUTE: &str = "http://schemas.ogf.org/occi/infrastructure#compute";
/// Where documents, dashboards and containers are, on an address that is a test's own.
const DOCUMENTS: u16 = 6789;
const DASHBOARD: u16 = 8888;
const CONTAINER: u16 = 12312;

/// Documents in a directory, and an address of this machine that no other test has.
struct Place {
    directory: tempfile::TempDir,
    address: String,
}

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        // 127.0.x.y are left to others.
        let address = format!("127.{}.{low}.{last}", high % 255 + 1);
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("documents")).unwrap();
        Self { directory, address }
    }

    fn state(&self) -> String {
        self.directory.path().join("state").display().to_string()
    }

    fn documents(&self) -> String {
        self.directory.path().join("documents").display().to_string()
    }

    fn at(&self, port: u16) -> SocketAddr {
        format!("{}:{port}", self.address).parse().unwrap()
    }

    fn write(&self, name: &str, document: &Value) {
        fs::write(Path::new(&self.documents()).join(name), document.to_string()).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(Path::new(&self.documents()).join(name)).unwrap();
    }

    /// The prototype's minimal architecture, in its own form.
    fn minimal(self) -> Self {
        self.write("compute", &self.compute("c2222", CONTAINER));
        self.write("collector", &collector("2345", "c2222", "a"));
        self.write("sensor", &self.sensor(&["2345"]));
        self
    }

    fn compute(&self, id: &str, port: u16) -> Value {
        json!({
            "id": format!("urn:uuid:{id}"), "kind": COMPUTE,
            "mixins": ["http.//schemas.ogf.org/infrastructure/compute#RMIMetricContainer"],
            "attributes": { "occi": { "compute": {
                "cores": 2, "memory": 4, "MetricContainerIPAddress": self.address, "MetricContainerPort": port,
            } } },
        })
    }

    fn sensor(&self, collectors: &[&str]) -> Value {
        let links: Vec<String> = collectors.iter().map(|id| format!("urn:uuid:{id}")).collect();
        json!({
            "id": "urn:uuid:s1111", "kind": format!("{S}sensor"),
            "mixins": ["http://example.com/occi/monitoring/publisher#EmailOnAlarm"],
            "attributes": {
                "occi": { "sensor": { "period": 60, "timebase": 1_386_925_386, "timestart": 600, "timestop": 3600, "networkInterface": "lo" } },
                "com": { "example": { "occi": { "monitoring": {
                    "EWMA": { "gain": 16, "instream": "a", "outstream": "c" },
                    "SendUDP": { "udpAddr": format!("{}:{DASHBOARD}", self.address), "input": "c" },
                    "Log": { "filename": "my/log/file", "in_msg": "a" },
                } } } },
            },
            "links": links,
        })
    }

    fn words<'a>(&'a self, command: &'a str, kept: &'a [String]) -> Vec<&'a str> {
        [&[command], kept.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat()
    }

    fn options(&self) -> Vec<String> {
        let at = self.at(DOCUMENTS).to_string();
        [&self.documents(), "--state", &self.state(), "--listen", &at].map(str::to_string).to_vec()
    }

    /// Everything runs, in the foreground.
    fn deploy(&self, more: &[&str]) -> Process {
        let options = self.options();
        let words = [self.words("deploy", &options).as_slice(), more].concat();
        let process = Process::start(&words);
        wait_for("the sensor to be told of", || told(&process, "sensor-s1111").then_some(()));
        process
    }

    fn apply(&self, more: &[&str]) -> Said {
        homeostat(&[&["apply", &self.documents(), "--state", &self.state()], more].concat(), None)
    }

    /// What `apply` answers.
    #[track_caller]
    fn applied(&self) -> Value {
        let said = self.apply(&["--json"]);
        assert_eq!(said.code, 0, "{} {}", said.out, said.err);
        serde_json::from_str(&said.out).unwrap_or_else(|why| panic!("{why}: {}", said.out))
    }

    fn list(&self) -> Value {
        let url = format!("http://{}/", self.at(DOCUMENTS));
        let said = homeostat(&["--json", "occi", "list", &url], None);
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }

    /// What the container runs.
    fn collectors(&self, port: u16) -> Vec<Value> {
        let (_, text) = request(self.at(port), "GET", "/collectors", "").unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn collector(id: &str, compute: &str, label: &str) -> Value {
    json!({
        "id": format!("urn:uuid:{id}"), "kind": format!("{S}collector"),
        "attributes": {
            "occi": { "collector": { "period": 1 } },
            "com": { "example": { "occi": { "monitoring": { "LoadAverage": { "out": label } } } } },
        },
        "source": format!("urn:uuid:{compute}"), "target": "urn:uuid:s1111",
    })
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a unit has been said to run.
fn told(process: &Process, name: &str) -> bool {
    process.log().lines().any(|line| line.starts_with(&format!("{name} ")))
}

/// How many times the process of a unit has been started.
fn starts(process: &Process, name: &str) -> usize {
    let log = process.log();
    let service = format!("service=\"{name}\"");
    log.lines().filter(|line| line.contains("its process is running") && line.contains(&service)).count()
}

/// How many data the dashboard has shown.
fn shown(process: &Process) -> usize {
    process.log().matches("Data: ").count()
}

/// Requirement: R0-01, R0-15, R0-16, R0-17, R0-18, R0-21, R0-22, R0-23
#[test]
fn documents_become_the_minimal_architecture_with_one_command() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    let log = process.log();
    let units = log.lines().filter(|line| line.ends_with(" running") || line.ends_with(" active"));
    let units: Vec<&str> = units.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(units, ["documents", "dashboard-8888", "compute-c2222", "sensor-s1111"], "{log}");
    assert!(log.contains("the time of the sensor `urn:uuid:s1111` has passed"), "{log}");
    wait_for("data on the dashboard", || (shown(&process) >= 3).then_some(()));
    let all = place.list();
    let ids = ["urn:uuid:c2222", "urn:uuid:s1111", "urn:uuid:2345"];
    assert_eq!(all, json!({ "compute": [ids[0]], "sensor": [ids[1]], "collector": [ids[2]] }));
    // Each in the form in which it was written.
    let (status, text) = request(place.at(DOCUMENTS), "GET", "/urn:uuid:s1111", "").unwrap();
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, place.sensor(&["2345"])));
    // The collector was handed over.
    assert_eq!(place.collectors(CONTAINER)[0]["collector"]["id"], ids[2]);
}

/// Requirement: R0-03, R0-22
#[test]
fn an_edit_changes_only_what_it_is_about() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    wait_for("data on the dashboard", || (shown(&process) >= 1).then_some(()));
    let none = place.applied();
    assert_eq!(none["difference"]["units"], json!({ "added": [], "removed": [], "changed": [] }));

    // From one probe to five.
    let more = ["k2", "k3", "k4", "k5"];
    for (i, id) in more.iter().enumerate() {
        let compute = format!("c{}", i + 2);
        place.write(&compute, &place.compute(&compute, CONTAINER + 1 + u16::try_from(i).unwrap()));
        place.write(id, &collector(id, &compute, "a"));
    }
    let grown = place.applied();
    let added = names(&grown["difference"]["units"]["added"]);
    assert_eq!(added, ["compute-c2", "compute-c3", "compute-c4", "compute-c5"].into(), "{grown}");
    assert_eq!(names(&grown["difference"]["units"]["removed"]).len(), 0);
    assert_eq!(grown["difference"]["documents"]["added"].as_array().unwrap().len(), 8);
    assert_eq!(grown["units"].as_array().unwrap().len(), 8);
    for i in 1..5 {
        wait_for("the collector to run", || (place.collectors(CONTAINER + i).len() == 1).then_some(()));
    }
    // Nothing else was started anew.
    for name in ["documents", "dashboard-8888", "compute-c2222", "sensor-s1111"] {
        assert_eq!(starts(&process, name), 1, "{name}");
    }

    // And back.
    for (i, id) in more.iter().enumerate() {
        place.remove(id);
        place.remove(&format!("c{}", i + 2));
    }
    let less = place.applied();
    assert_eq!(names(&less["difference"]["units"]["removed"]), added);
    assert_eq!(place.list()["collector"], json!(["urn:uuid:2345"]));
    assert!(TcpStream::connect(place.at(CONTAINER + 1)).is_err());
    let before = shown(&process);
    wait_for("data to flow on", || (shown(&process) > before + 1).then_some(()));

    // Without the collector there is nothing to say; with another one it goes on.
    place.remove("collector");
    let alone = place.applied();
    assert_eq!(names(&alone["difference"]["documents"]["removed"]), ["urn:uuid:2345"].into());
    let sensor =
        alone["units"].as_array().unwrap().iter().find(|u| u["name"] == "sensor-s1111").unwrap().clone();
    assert_eq!((&sensor["state"], &sensor["missing"]), (&json!("incomplete"), &json!(["a"])), "{alone}");
    place.write("collector", &collector("9", "c2222", "a"));
    let again = place.applied();
    assert!(again["units"].as_array().unwrap().iter().any(|u| u["state"] == "active"), "{again}");
}

/// Requirement: R0-02
#[test]
fn one_component_is_replaced_while_the_others_go_on() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    wait_for("data on the dashboard", || (shown(&process) >= 1).then_some(()));
    let state: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(&place.state()).join("deployment.json")).unwrap())
            .unwrap();
    let url = state["url"].as_str().unwrap();
    for unit in ["sensor-s1111", "compute-c2222", "documents", "dashboard-8888"] {
        let said = homeostat(&["send", unit, r#"{"restart": {}}"#], Some(url));
        assert_eq!(said.code, 0, "{unit}: {}", said.err);
        let before = shown(&process);
        wait_for("data to flow on", || (shown(&process) > before + 1).then_some(()));
        assert_eq!(starts(&process, unit), 2, "{unit}");
    }
}

#[test]
fn what_cannot_run_is_refused_before_anything_is_touched() {
    let place = Place::new().minimal();
    // A circle of labels.
    let mut circle = place.sensor(&["2345"]);
    circle["attributes"]["com"]["example"]["occi"]["monitoring"]["Median"] =
        json!({ "instream": "c", "outstream": "d" });
    circle["attributes"]["com"]["example"]["occi"]["monitoring"]["EWMA"]["instream"] = "d".into();
    place.write("sensor", &circle);
    let options = place.options();
    let said = homeostat(&place.words("deploy", &options), None);
    assert_eq!(said.code, 4, "{} {}", said.out, said.err);
    assert!(said.err.contains("urn:uuid:s1111") && said.err.contains("feed themselves"), "{}", said.err);
    assert!(TcpStream::connect(place.at(DOCUMENTS)).is_err());

    place.write("sensor", &place.sensor(&["2345"]));
    let process = place.deploy(&[]);
    wait_for("data on the dashboard", || (shown(&process) >= 1).then_some(()));
    let refusals = [
        ("sensor", circle.to_string(), 4, "feed themselves"),
        ("sensor", "{ \"id\": ".into(), 2, "sensor: no JSON"),
        ("other", place.sensor(&[]).to_string(), 2, "described twice"),
        ("other", json!({ "kind": COMPUTE }).to_string(), 2, "no `id`"),
        ("other", json!({ "id": "urn:uuid:x" }).to_string(), 2, "it has no `kind`"),
        (
            "sensor",
            place.sensor(&["2345"]).to_string().replace("\"gain\":16", "\"gain\":\"much\""),
            4,
            "gain",
        ),
        ("sensor", place.sensor(&["2345"]).to_string().replace("EWMA", "Nonsense"), 4, "Nonsense"),
    ];
    for (file, text, code, words) in refusals {
        fs::write(Path::new(&place.documents()).join(file), &text).unwrap();
        let said = place.apply(&[]);
        assert_eq!(said.code, code, "{text}: {} {}", said.out, said.err);
        assert!(said.err.contains(words), "{words}: {}", said.err);
        let _ = fs::remove_file(Path::new(&place.documents()).join("other"));
        place.write("sensor", &place.sensor(&["2345"]));
    }
    // A collector whose resource is gone is left out and named; nothing else is measured in its place.
    place.remove("compute");
    let said = place.apply(&[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("left out: it measures `urn:uuid:c2222`"), "{}", said.out);
    assert!(said.out.contains("incomplete, without a"), "{}", said.out);
}

#[test]
fn a_deployment_is_left_running_changed_and_ended() {
    let place = Place::new().minimal();
    assert_eq!(place.apply(&[]).code, 3);
    let options = place.options();
    let words = [place.words("deploy", &options).as_slice(), &["--detach"]].concat();
    let said = homeostat(&words, None);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("sensor-s1111"), "{}", said.out);
    let log = Path::new(&place.state()).join("log");
    wait_for("data", || fs::read_to_string(&log).unwrap().contains("Data: ").then_some(()));
    // Deploying again is applying.
    let mut other = collector("2345", "c2222", "a");
    other["attributes"]["occi"]["collector"]["period"] = 2.into();
    place.write("collector", &other);
    let said = homeostat(&words, None);
    assert!(said.code == 0 && said.out.contains("~ document urn:uuid:2345"), "{} {}", said.out, said.err);
    // Somebody else's state, the same ports.
    let elsewhere = tempfile::tempdir().unwrap();
    let at = place.at(DOCUMENTS).to_string();
    let state = elsewhere.path().display().to_string();
    let said = homeostat(&["deploy", &place.documents(), "--state", &state, "--listen", &at], None);
    assert!(said.code == 7 && said.err.contains("cannot listen on"), "{} {}", said.out, said.err);

    let ended = homeostat(&["--json", "undeploy", "--state", &place.state()], None);
    assert_eq!((ended.code, ended.out.trim()), (0, "{\n  \"units\": []\n}"), "{}", ended.err);
    for port in [DOCUMENTS, CONTAINER, 6800] {
        assert!(TcpStream::connect(place.at(port)).is_err(), "{port}");
    }
    assert_eq!(homeostat(&["undeploy", "--state", &place.state()], None).code, 5);
}

/// What the state directory holds besides is the user's, and so is a directory that is no state.
#[test]
fn nothing_is_deleted_that_was_not_written() {
    let place = Place::new().minimal();
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("documents")).unwrap();
    let mine = other.path().join("documents/mine.json");
    fs::write(&mine, "{}").unwrap();
    let (at, state) = (place.at(DOCUMENTS).to_string(), other.path().display().to_string());
    let said = homeostat(&["deploy", &place.documents(), "--state", &state, "--listen", &at], None);
    assert!(said.code == 2 && said.err.contains("a directory of its own"), "{} {}", said.out, said.err);
    assert!(mine.exists());
    // In a state as well.
    let options = place.options();
    let words = [place.words("deploy", &options).as_slice(), &["--detach"]].concat();
    assert_eq!(homeostat(&words, None).code, 0);
    let beside = Path::new(&place.state()).join("policies/notes.txt");
    fs::write(&beside, "mine").unwrap();
    place.write("other", &place.compute("c9", CONTAINER + 9));
    place.applied();
    assert_eq!(homeostat(&["undeploy", "--state", &place.state()], None).code, 0);
    assert!(beside.exists());
}

/// A port that somebody has is no place for a unit, also when the others run; nothing is half applied.
#[test]
fn what_cannot_be_applied_leaves_everything_as_it_was() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    let stranger = std::net::TcpListener::bind(place.at(CONTAINER + 1)).unwrap();
    place.write("more", &place.compute("c9", CONTAINER + 1));
    place.write("link", &collector("k9", "c9", "a"));
    let said = place.apply(&[]);
    assert!(
        said.code == 7 && said.err.contains("`compute-c9` cannot listen on"),
        "{} {}",
        said.out,
        said.err
    );
    assert_eq!(place.list()["compute"], json!(["urn:uuid:c2222"]));
    drop(stranger);
    let dry = place.apply(&["--dry-run"]);
    assert!(dry.out.contains("+ unit compute-c9") && !dry.out.contains("sensor-s1111"), "{}", dry.out);
    assert_eq!(place.list()["compute"], json!(["urn:uuid:c2222"]));
    place.applied();
    assert!(told(&process, "sensor-s1111"));
    // Other options are not those of what runs.
    let options = place.options();
    let words = [place.words("deploy", &options).as_slice(), &["--without-dashboards"]].concat();
    let said = homeostat(&words, None);
    assert!(said.code == 4 && said.err.contains("--without-dashboards cannot change"), "{}", said.err);
}

/// Who asked need not read the answer.
#[test]
fn a_change_does_not_depend_on_who_reads_of_it() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    place.write("more", &place.compute("c9", CONTAINER + 1));
    place.write("link", &collector("k9", "c9", "b"));
    let mut apply = Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .args(["apply", &place.documents(), "--state", &place.state()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(apply.stdout.take());
    apply.wait().unwrap();
    assert_eq!(place.list()["compute"], json!(["urn:uuid:c2222", "urn:uuid:c9"]));
    assert_eq!(place.applied()["difference"]["units"], json!({ "added": [], "removed": [], "changed": [] }));
    assert!(told(&process, "sensor-s1111"));
}

/// A directory without documents is a slip: a mount that is not there, or a wrong path.
#[test]
fn what_has_no_documents_takes_nothing_away() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    for name in ["compute", "collector", "sensor"] {
        place.remove(name);
    }
    let said = place.apply(&[]);
    assert!(said.code == 2 && said.err.contains("no OCCI document in"), "{} {}", said.out, said.err);
    assert_eq!(place.list()["compute"], json!(["urn:uuid:c2222"]));
    assert!(told(&process, "sensor-s1111"));
}

/// What receives at an address keeps its name and runs on when another wants the same port elsewhere.
#[test]
fn a_second_dashboard_with_the_same_port_leaves_the_first_alone() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    let unit = format!("dashboard-{DASHBOARD}");
    let begun = starts(&process, &unit);
    let mut other = place.sensor(&[]);
    let elsewhere = place.address.replacen("127.", "127.0.", 1);
    let elsewhere = elsewhere.rsplit_once('.').unwrap().0;
    other["id"] = "urn:uuid:s3333".into();
    other["attributes"]["com"]["example"]["occi"]["monitoring"]["SendUDP"]["udpAddr"] =
        format!("{elsewhere}:{DASHBOARD}").into();
    place.write("other", &other);
    let applied = place.applied();
    let added: Vec<&str> = applied["difference"]["units"]["added"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(added.iter().any(|name| name.starts_with(&format!("{unit}-"))), "{applied}");
    assert_eq!(applied["difference"]["units"]["removed"], json!([]), "{applied}");
    assert_eq!(
        (starts(&process, &unit), applied["notes"].to_string().contains("receives at")),
        (begun, false)
    );
}

/// A link back to where it is does not multiply what is below it.
#[test]
fn directories_that_lead_to_themselves_are_read_once() {
    let place = Place::new().minimal();
    for name in ["one", "two", "three", "four", "five", "six"] {
        std::os::unix::fs::symlink(".", Path::new(&place.documents()).join(name)).unwrap();
    }
    let options = place.options();
    let words = [place.words("deploy", &options).as_slice(), &["--dry-run", "--json"]].concat();
    let said = homeostat(&words, None);
    let plan: Value = serde_json::from_str(&said.out).unwrap_or_else(|why| panic!("{why}: {}", said.err));
    assert_eq!(plan["units"].as_array().unwrap().len(), 4, "{plan}");
}

/// What is not wanted any more before it runs leaves nothing behind, and neither does a terminal that is closed.
#[test]
fn who_interrupts_a_deployment_ends_it() {
    let place = Place::new().minimal();
    let options = place.options();
    let words = [place.words("deploy", &options).as_slice(), &["--detach"]].concat();
    let detached = Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .args(&words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = Path::new(&place.state()).join("deployment.json");
    wait_for("something that runs", || written.exists().then_some(()));
    let pid = rustix::process::Pid::from_raw(i32::try_from(detached.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = detached.wait_with_output().unwrap();
    // It may have been done just before.
    if ended.status.code() == Some(7) {
        assert!(
            String::from_utf8_lossy(&ended.stderr).contains("interrupted; nothing is deployed"),
            "{ended:?}"
        );
    } else {
        assert_eq!(homeostat(&["undeploy", "--state", &place.state()], None).code, 0);
    }
    assert!(!written.exists());
    assert!(TcpStream::connect(place.at(DOCUMENTS)).is_err());

    let process = place.deploy(&[]);
    process.signal(rustix::process::Signal::HUP);
    wait_for("the end of all", || TcpStream::connect(place.at(DOCUMENTS)).is_err().then_some(()));
    wait_for("the end of what was written", || (!written.exists()).then_some(()));
}

#[test]
fn what_means_nothing_with_a_target_is_refused_and_json_is_json() {
    let place = Place::new().minimal();
    let documents = place.documents();
    for (words, said) in [
        (&["--target", "compose", "--detach"][..], "--detach means nothing with --target compose"),
        (&["--target", "kubernetes", "--host", "127.0.0.1"], "--host means nothing with --target kubernetes"),
        (&["--output", "x.yaml", "--dry-run"], "--output means nothing with --target processes"),
        (&["--ports", "0"], "--ports"),
        (&["--occi-mail", "ftp://x"], "is no mail server"),
        (&["--occi-from", "not an address"], "is no mail address"),
        (&["--occi-data", "/dev/null"], "is no directory"),
    ] {
        let told = homeostat(&[&["deploy", &documents, "--state", &place.state()], words].concat(), None);
        assert!(told.code == 2 && told.err.contains(said), "{words:?}: {} {}", told.code, told.err);
    }
    for (target, place_of_units) in [("compose", "/services"), ("kubernetes", "/items")] {
        let said = homeostat(&["--json", "deploy", &documents, "--target", target], None);
        let file: Value = serde_json::from_str(&said.out).unwrap_or_else(|why| panic!("{why}: {}", said.out));
        assert!(file.pointer(place_of_units).is_some(), "{file}");
    }
    let said = homeostat(&["--json", "undeploy", "--state", &place.state()], None);
    assert_eq!(said.code, 5);
    // What is written down is no document.
    let inside = Path::new(&documents).join("state").display().to_string();
    let said = homeostat(&["deploy", &documents, "--state", &inside], None);
    assert!(said.code == 2 && said.err.contains("among the documents"), "{}", said.err);
    let file = Path::new(&documents).join("sensor").display().to_string();
    let said = homeostat(&["deploy", &documents, "--state", &file], None);
    assert_eq!(said.code, 2, "{}", said.err);
}

/// What a server exports is documents again, in both forms.
#[test]
fn what_is_exported_can_be_deployed() {
    let place = Place::new().minimal();
    let process = place.deploy(&[]);
    let url = format!("http://{}/", place.at(DOCUMENTS));
    let state: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(&place.state()).join("deployment.json")).unwrap())
            .unwrap();
    let sensor = format!("http://{}/", state["addresses"]["sensor-s1111"].as_str().unwrap());
    // It is what its documents say, whoever asks.
    let at = state["addresses"]["sensor-s1111"].as_str().unwrap().parse().unwrap();
    let (status, why) = request(at, "DELETE", "/sensor/s1111", "").unwrap();
    assert!(status == 405 && why.contains("documents"), "{status} {why}");
    let mut exported = Vec::new();
    for words in
        [vec!["occi", "export", &url], vec!["occi", "export", &url, "--xml"], vec!["occi", "export", &sensor]]
    {
        let said = homeostat(&words, None);
        assert_eq!(said.code, 0, "{}", said.err);
        exported.push(said.out);
    }
    drop(process);
    for (i, text) in exported.iter().enumerate() {
        let again = Place { directory: tempfile::tempdir().unwrap(), address: place.address.clone() };
        fs::create_dir(Path::new(&again.documents())).unwrap();
        fs::write(
            Path::new(&again.documents()).join(format!("all.{}", if i == 1 { "xml" } else { "json" })),
            text,
        )
        .unwrap();
        let options = again.options();
        let said = homeostat(&[again.words("deploy", &options).as_slice(), &["--dry-run"]].concat(), None);
        assert_eq!(said.code, 0, "{i} {} {}\n{text}", said.out, said.err);
        for unit in ["documents", "dashboard-8888", "compute-c2222", "sensor-s1111"] {
            assert!(
                said.out.lines().any(|line| line.starts_with(&format!("{unit} "))),
                "{i} {unit} {}",
                said.out
            );
        }
    }
}

/// Requirement: R0-23
#[test]
fn the_same_documents_drive_two_machines() {
    let place = Place::new().minimal();
    let there = Place::new();
    let mut compute = place.compute("c2222", CONTAINER);
    compute["attributes"]["occi"]["compute"]["MetricContainerIPAddress"] = there.address.clone().into();
    place.write("compute", &compute);
    let first = place.deploy(&["--host", &place.address]);
    assert!(!told(&first, "compute-c2222"), "{}", first.log());
    assert_eq!(shown(&first), 0);
    // The second machine has nothing but the documents.
    let (at, state) = (place.at(DOCUMENTS).to_string(), there.state());
    let words = ["deploy", &place.documents(), "--state", &state, "--listen", &at, "--host", &there.address]
        .map(str::to_string);
    let second = Process::start(&words.iter().map(String::as_str).collect::<Vec<_>>());
    wait_for("the container", || told(&second, "compute-c2222").then_some(()));
    assert!(!told(&second, "sensor-s1111"), "{}", second.log());
    wait_for("data on the dashboard", || (shown(&first) >= 2).then_some(()));
}

/// A registry that is a directory behind any web server will do, as the prototype's was.
#[test]
fn a_sensor_starts_from_any_server_of_documents() {
    let place = Place::new();
    let [compute, link, sensor] = ["urn:uuid:c2222", "urn:uuid:2345", "urn:uuid:s1111"];
    let page = |value: &Value| {
        let text = value.to_string().replace('"', "&quot;");
        Value::from(format!(
            "<html><head><meta content=\"application/occi+json\"></head><body>{text}</body></html>"
        ))
    };
    let write = |name: &str, value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        fs::write(Path::new(&place.documents()).join(name), text).unwrap();
    };
    write(compute, &place.compute("c2222", CONTAINER));
    write(link, &page(&collector("2345", "c2222", "a")));
    write(sensor, &json!("<html>soon</html>"));
    let mut server = Command::new("python3")
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", &place.documents()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let port: u16 = said.split_whitespace().nth(5).unwrap().parse().unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    let _probe = Process::start(&["probe", "--listen", &place.at(CONTAINER).to_string()]);
    let screen = Process::start(&["sink", "udp", "--listen", &place.at(DASHBOARD).to_string()]);
    let mut process = Process::start(&["sensor", sensor, "--documents", &url]);
    let at: SocketAddr = process.word_after("listens on ").parse().unwrap();
    let following = || -> Value {
        let (_, text) = request(at, "GET", "/.well-known/homeostat/following", "").unwrap();
        serde_json::from_str(&text).unwrap()
    };
    // Garbage is said to be some, and asked for again.
    wait_for("the problem", || {
        following()["problem"].as_str().filter(|why| why.contains("no")).map(str::to_string)
    });
    write(sensor, &page(&place.sensor(&["2345"])));
    wait_for("data", || (shown(&screen) >= 2).then_some(()));
    assert_eq!(following()["state"], "active");
    server.kill().unwrap();
    server.wait().unwrap();
    // Without its registry it stays what it is.
    let before = shown(&screen);
    wait_for("data to flow on", || (shown(&screen) > before + 1).then_some(()));
}
