//! Plug-ins in a folder: mixins as long as they lie there, of the server and of probes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::support::{Fake, Process, wait_for};
use super::{COLLECTOR, COMPUTE, METRIC, Occi, SENSOR, await_datum, category, datum, of};
use homeostat::dialects::occi::Extension;
use homeostat::dialects::occi::monitoring::Settings;

/// Puts a program into a folder, as people do who know that it may be run at once.
fn program(dir: &Path, name: &str, script: &str) {
    let hidden = dir.join(format!(".{name}"));
    std::fs::write(&hidden, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(hidden, dir.join(name)).unwrap();
}

fn with_folder(dir: &Path, data: Option<&Path>) -> Occi {
    let settings = Settings { plugins: Some(dir.to_str().unwrap().into()), ..Settings::default() };
    Occi::start_as(&Extension::ALL, data, settings)
}

/// Whether `/-/` shows a metric.
fn offered(occi: &Occi, name: &str) -> bool {
    let all = occi.get("/-/");
    all["mixins"].as_array().unwrap().iter().any(|mixin| mixin["term"] == name)
}

/// A collector of a sensor with a plug-in, as a request.
fn collector(sensor: &str, name: &str, mut attributes: Value) -> Value {
    attributes["occi.collector.period"] = json!(0.1);
    json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}{name}")], "attributes": attributes,
        "source": { "location": sensor }, "target": { "location": "urn:uuid:1111" } })
}

/// Requirement: R1-17, R0-11
#[test]
fn a_program_that_is_dropped_into_the_folder_is_a_mixin_until_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let occi = with_folder(dir.path(), None);
    assert!(!offered(&occi, "tide"));
    program(dir.path(), "tide.sh", "echo 7");
    wait_for("the mixin", || offered(&occi, "tide").then_some(()));
    let all = occi.get("/-/");
    let mixin = category(&all, "mixins", &format!("{METRIC}tide"));
    assert_eq!(mixin["depends"], json!(["http://schemas.ogf.org/occi/monitoring#metric"]));
    assert_eq!(mixin["location"], "/mixin/tide/");
    for name in ["out", "args", "pointer", "timeout"] {
        assert!(mixin["attributes"].get(of("tide", name)).is_some(), "{mixin}");
    }
    // It measures; also under a tag of a client that depends on it.
    let sensor = occi.sensor(0.1);
    let link = collector(&sensor, "tide", json!({ of("tide", "out"): "a" }));
    let place = occi.expect(201, "POST", "/collector/", link).place();
    let values = occi.listen(&sensor, "a");
    assert_eq!(datum(&values), 7.0);
    // What it prints may change, its arguments may, and so may what it is.
    program(dir.path(), "tide.sh", "echo \"{\\\"level\\\": $1}\"");
    let change = json!({ "attributes": { of("tide", "args"): "8", of("tide", "pointer"): "/level" } });
    occi.expect(200, "POST", &place, change);
    await_datum(&values, 8.0);
    // It goes: nothing is lost, and it is said what is missing.
    std::fs::remove_file(dir.path().join("tide.sh")).unwrap();
    wait_for("the end of the mixin", || (!offered(&occi, "tide")).then_some(()));
    wait_for("what is missing", || (occi.state(&sensor) == "incomplete").then_some(()));
    assert_eq!(occi.status(&sensor, "missing"), format!("{METRIC}tide"));
    assert_eq!(occi.services(), Vec::<String>::new());
    assert_eq!(occi.get(&place)["attributes"][of("tide", "args")], "8");
    occi.expect(400, "POST", "/collector/", collector(&sensor, "tide", json!({})));
    // It comes back, and measures.
    program(dir.path(), "tide.sh", "echo \"{\\\"level\\\": 9}\"");
    wait_for("its return", || (occi.state(&sensor) == "active").then_some(()));
    await_datum(&values, 9.0);
}

/// Requirement: R1-17, R0-12
#[test]
fn a_plug_in_of_nagios_gives_its_state_and_the_datum_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    program(dir.path(), "check_pool", "echo \"POOL WARNING | used=5;;;; free=$1\"; exit 1");
    let occi = with_folder(dir.path(), None);
    let sensor = occi.sensor(0.1);
    let attributes = |datum: &str| {
        json!({ of("check_pool", "out"): "a", of("check_pool", "state"): "s", of("check_pool", "args"): ["3"],
            of("check_pool", "perfdata"): datum })
    };
    let link = collector(&sensor, "check_pool", attributes("free"));
    let place = occi.expect(201, "POST", "/collector/", link).place();
    let values = occi.listen(&sensor, "a");
    assert_eq!(datum(&values), 3.0);
    occi.expect(200, "POST", &place, json!({ "attributes": attributes("used") }));
    await_datum(&values, 5.0);
    let states = occi.listen(&sensor, "s");
    await_datum(&states, 1.0);
}

/// Requirement: R1-17, R1-18
#[test]
fn a_description_makes_a_mixin_of_any_sensor_of_the_core() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start("C1", &["cost=25"]);
    let text = format!(
        "title: Cost of something\nsensor: {{ http: {{ url: '{}/{{what}}' }} }}\nvalue: value * 2\n\
         attributes:\n  what: {{ required: true, about: 'which' }}\n",
        fake.url
    );
    std::fs::write(dir.path().join("price.yaml"), text).unwrap();
    program(dir.path(), "sum", "echo $(($1 + $2))");
    let text = "sensor: { exec: { command: ['{plugin}', '{left}', '{right}'] } }\n\
                attributes: { left: { type: number, default: 1 }, right: { type: number, default: 2 } }\n";
    std::fs::write(dir.path().join("sum.yaml"), text).unwrap();
    let occi = with_folder(dir.path(), None);
    let all = occi.get("/-/");
    let price = category(&all, "mixins", &format!("{METRIC}price"));
    assert_eq!(price["title"], "Cost of something");
    let sensor = occi.sensor(0.1);
    let link = collector(&sensor, "price", json!({ of("price", "out"): "a" }));
    let place = occi.expect(201, "POST", "/collector/", link).place();
    assert_eq!(occi.state(&sensor), "incomplete");
    assert_eq!(occi.status(&sensor, "missing"), of("price", "what"));
    occi.expect(200, "POST", &place, json!({ "attributes": { of("price", "what"): "cost" } }));
    let values = occi.listen(&sensor, "a");
    assert_eq!(datum(&values), 50.0);
    let other = occi.sensor(0.1);
    let link = collector(&other, "sum", json!({ of("sum", "out"): "a", of("sum", "right"): 40 }));
    let place = occi.expect(201, "POST", "/collector/", link).place();
    assert_eq!(datum(&occi.listen(&other, "a")), 41.0);
    let wrong = json!({ "attributes": { of("sum", "right"): "--version" } });
    occi.expect(400, "POST", &place, wrong);
}

/// Requirement: R1-17
#[test]
fn collectors_with_a_plug_in_outlive_a_restart_without_its_folder() {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(dir.path(), "tide", "echo 7");
    let occi = with_folder(dir.path(), Some(data.path()));
    let sensor = occi.sensor(0.1);
    occi.expect(201, "POST", "/collector/", collector(&sensor, "tide", json!({ of("tide", "out"): "a" })));
    let values = occi.listen(&sensor, "a");
    datum(&values);
    drop(occi);
    let occi = Occi::start_with(&Extension::ALL, Some(data.path()));
    assert_eq!(occi.state(&sensor), "incomplete");
    assert_eq!(occi.status(&sensor, "missing"), format!("{METRIC}tide"));
    drop(occi);
    let occi = with_folder(dir.path(), Some(data.path()));
    assert_eq!(occi.state(&sensor), "active");
    await_datum(&values, 7.0);
}

/// Requirement: R1-17, R0-11, R0-12
#[test]
fn the_command_line_offers_plug_ins_here_and_on_probes_and_says_which_are_none() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(there.path(), "tide", "echo 7");
    // Here it is only described; there is the program.
    std::fs::write(here.path().join("tide.yaml"), "sensor: { exec: { command: ['{plugin}'] } }\n").unwrap();
    program(here.path(), "Ping", "echo 1");
    program(here.path(), "a b", "echo 1");
    std::fs::write(here.path().join("notes.txt"), "not a program").unwrap();
    std::fs::write(here.path().join("wrong.yaml"), "sensor: { htpp: {} }\n").unwrap();
    let mut probe =
        Process::start(&["probe", "--listen", "127.0.0.1:0", "--plugins", there.path().to_str().unwrap()]);
    let at = probe.word_after("listens on ");
    let policies = super::support::policy("service: none\n");
    let mut daemon = super::support::Daemon::start(
        policies.path(),
        &["--occi", "127.0.0.1:0", "--occi-plugins", here.path().to_str().unwrap()],
    );
    let to: std::net::SocketAddr = daemon.process.word_after("occi=").parse().unwrap();
    for word in [
        "`notes.txt` cannot be run",
        "`a b` cannot be the name",
        "expected one of exec, nagios",
        "metric#Ping` exists already",
    ] {
        wait_for(word, || daemon.process.log().contains(word).then_some(()));
    }
    let screen = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    screen.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let container = "http://example.com/occi/monitoring/resource#MetricContainer";
    let document = json!({
        "resources": [
            { "kind": COMPUTE, "id": "urn:uuid:c1", "mixins": [container],
              "attributes": { of("MetricContainer", "url"): format!("http://{at}/collectors") } },
            { "kind": SENSOR, "id": "urn:uuid:s1", "attributes": { "occi.sensor.period": 0.1,
              of("SendUDP", "udpAddr"): screen.local_addr().unwrap().to_string(), of("SendUDP", "input"): "a" } },
        ],
        "links": [{ "kind": COLLECTOR, "id": "urn:uuid:k1", "source": { "location": "urn:uuid:s1" },
            "target": { "location": "urn:uuid:c1" }, "mixins": [format!("{METRIC}tide")],
            "attributes": { "occi.collector.period": 0.1, of("tide", "out"): "a" } }],
    });
    let (status, said) = super::support::request(to, "POST", "/", &document.to_string()).unwrap();
    assert_eq!(status, 201, "{said}");
    assert_eq!(datum(&screen), 7.0);
    // On the probe it goes and comes as well.
    std::fs::remove_file(there.path().join("tide")).unwrap();
    wait_for("the end of the collector", || {
        probe.log().contains("its plug-in went or changed").then_some(())
    });
    program(there.path(), "tide", "echo 8");
    await_datum(&screen, 8.0);
}
