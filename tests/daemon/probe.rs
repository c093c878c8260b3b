//! A sensor is a small thing: part of a program that links it, or a plug-in that others run.

use homeostat::connectors::Connectors;
use homeostat::model::connector::{BuiltSensor, SensorSpec};
use serde_json::json;

use super::support::{Daemon, Fake, homeostat, policy};

/// Requirement: R0-12
#[test]
fn a_sensor_is_a_plug_in_for_others_and_for_ourselves() {
    let fake = Fake::start("C1", &["cost=25"]);
    let sensor = json!({ "http": { "url": format!("http://{}/cost", fake.address) } }).to_string();
    for (ranges, code, word) in [
        (vec![], 0, "OK"),
        (vec!["--warning", "30", "--critical", "40"], 0, "OK"),
        (vec!["--warning", "20", "--critical", "40"], 1, "WARNING"),
        (vec!["--warning", "20", "--critical", "@20:30"], 2, "CRITICAL"),
    ] {
        let words = [vec!["sense", &sensor, "--name", "cost"], ranges].concat();
        let said = homeostat(&words, None);
        assert_eq!(said.code, code, "{}{}", said.out, said.err);
        assert!(said.out.starts_with(&format!("COST {word} - 25 | cost=25")), "{}", said.out);
    }
    for (sensor, why) in [
        ("{ http: { url: \"http://127.0.0.1:1/\" } }", "127.0.0.1:1"),
        ("{ htpp: {} }", "htpp"),
        ("push", "waits for values"),
    ] {
        let said = homeostat(&["sense", sensor], None);
        assert_eq!(said.code, 3, "{}{}", said.out, said.err);
        assert!(said.out.starts_with("VALUE UNKNOWN - ") && said.out.contains(why), "{}", said.out);
    }

    // What Nagios runs, our own sensor of plug-ins runs as well.
    let plug_in =
        json!([env!("CARGO_BIN_EXE_homeostat"), "sense", sensor, "--name", "cost", "--warning", "20"]);
    let dir = policy(&format!(
        "service: C1\nmonitor: {{ sensors: {{ cost: {{ nagios: {{ command: {plug_in}, every: 1s }} }} }} }}\n"
    ));
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.wait_value("C1", "cost", 25.0);
    daemon.wait_value("C1", "cost_state", 1.0);
    daemon.stop();
}

/// Requirement: R0-12
#[tokio::test]
async fn a_sensor_is_part_of_a_program_that_links_it() {
    let fake = tokio::task::spawn_blocking(|| Fake::start("C1", &["cost=25"])).await.unwrap();
    let spec = json!({ "http": { "url": format!("http://{}/cost", fake.address) } });
    let spec: SensorSpec = serde_json::from_value(spec).unwrap();
    let BuiltSensor::Polled(mut sensor) = Connectors::new().sensor("C1", "cost", &spec).unwrap() else {
        panic!("http is looked at");
    };
    assert_eq!(sensor.read().await.unwrap()[0].value, 25.0);
}
