//! Sensors above sensors: what one makes of its measurements is what another measures.

use serde_json::{Value, json};

use super::{
    AGGREGATOR, COLLECTOR, METRIC, Occi, SENSOR, await_datum, datum, of, sink_says, support::Process, watched,
};
use homeostat::dialects::occi::Extension;

/// A collector that leads from a sensor to another and takes one of its labels.
fn link(from: &str, to: &str, label: &str, out: &str) -> Value {
    json!({
        "kind": COLLECTOR, "mixins": [format!("{METRIC}Label")], "source": { "location": from }, "target": { "location": to },
        "attributes": { "occi.collector.period": 0.1, of("Label", "label"): label, of("Label", "out"): out },
    })
}

#[track_caller]
fn takes(occi: &Occi, from: &str, to: &str, label: &str, out: &str) -> String {
    occi.expect(201, "POST", "/collector/", link(from, to, label, out)).place()
}

#[track_caller]
fn mean(occi: &Occi, sensor: &str, of_label: &str, out: &str) {
    let attributes =
        json!({ of("ArithmeticMean", "instream"): of_label, of("ArithmeticMean", "outstream"): out });
    occi.associate(sensor, "#ArithmeticMean", attributes);
}

/// Requirement: R0-10, R1-32
#[test]
fn a_sensor_calculates_with_what_the_sensors_below_it_calculate() {
    let occi = Occi::start();
    let ((left, first), (right, second)) = (watched(&occi), watched(&occi));
    let top = occi.sensor(0.1);
    takes(&occi, &top, &left, "up", "l");
    takes(&occi, &top, &right, "up", "r");
    mean(&occi, &top, "l,r", "all");
    let values = occi.listen(&top, "all");
    await_datum(&values, 0.0);
    let _one = std::net::TcpListener::bind(first).unwrap();
    await_datum(&values, 0.5);
    let _two = std::net::TcpListener::bind(second).unwrap();
    await_datum(&values, 1.0);
    // A third level, and a label that changes its name below.
    let over = occi.sensor(0.1);
    takes(&occi, &over, &top, "all", "a");
    await_datum(&occi.listen(&over, "a"), 1.0);
}

/// Requirement: R0-10, R1-19
#[test]
fn a_sensor_waits_for_a_label_below_it_and_runs_as_soon_as_it_is_there() {
    let occi = Occi::start();
    let (top, low) = (occi.sensor(0.1), occi.sensor(0.1));
    takes(&occi, &top, &low, "b", "a");
    occi.associate(&top, "#Log", json!({ of("Log", "in_msg"): "a" }));
    let missing = format!("b of {low}");
    assert_eq!((occi.state(&top), occi.status(&top, "missing")), ("incomplete".into(), missing.clone()));
    let fed = occi.collector(&low, 0.1, "MemoryUsed", json!({ of("MemoryUsed", "out"): "x" }));
    assert_eq!(occi.status(&top, "missing"), missing, "another label");
    occi.expect(200, "POST", &fed, json!({ "attributes": { of("MemoryUsed", "out"): "b" } }));
    assert_eq!((occi.state(&top), occi.services().len()), ("active".into(), 2));
    assert!(datum(&occi.listen(&top, "a")) > 0.0);
    // Whoever is deleted below leaves the upper one incomplete, and brings it back.
    occi.expect(200, "DELETE", &low, Value::Null);
    assert_eq!((occi.state(&top), occi.status(&top, "missing")), ("incomplete".into(), missing));
    assert_eq!(occi.services(), Vec::<String>::new());
    let again = json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 0.1 }, "links": [{
        "kind": COLLECTOR, "mixins": [format!("{METRIC}MemoryUsed")], "target": { "location": "urn:uuid:1111" },
        "attributes": { "occi.collector.period": 0.1, of("MemoryUsed", "out"): "b" } }] });
    occi.expect(201, "PUT", &low, again);
    assert_eq!((occi.state(&top), occi.services().len()), ("active".into(), 2));
    // What is no sensor has no labels.
    takes(&occi, &top, "urn:uuid:1111", "b", "c");
    assert_eq!(occi.status(&top, "missing"), "b of urn:uuid:1111");
}

#[test]
fn sensors_that_take_labels_of_each_other_in_a_circle_are_refused() {
    let occi = Occi::start();
    let sensors = [(); 3].map(|()| occi.sensor(1.0));
    let [a, b, c] = &sensors;
    takes(&occi, a, b, "x", "x");
    takes(&occi, b, c, "x", "x");
    let refused = occi.expect(400, "POST", "/collector/", link(c, a, "x", "x"));
    assert!(
        refused.body.contains("in a circle") && sensors.iter().all(|s| refused.body.contains(s)),
        "{refused:?}"
    );
    let refused = occi.expect(400, "POST", "/collector/", link(c, c, "x", "y"));
    assert!(refused.body.contains("a label of itself"), "{refused:?}");
    // Neither is kept, and elsewhere may still be led to.
    assert_eq!(occi.get(c)["links"], Value::Null);
    takes(&occi, c, "urn:uuid:1111", "x", "x");
}

/// Requirement: R0-10
#[test]
fn a_tree_of_one_document_runs_and_runs_again_after_a_restart_in_whichever_order_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    let id = |name: &str| format!("urn:uuid:00000000-0000-0000-0000-{name:0>12}");
    // Upper ones come first in the order of places as well.
    let sensor =
        |name: &str| json!({ "kind": SENSOR, "id": id(name), "attributes": { "occi.sensor.period": 0.1 } });
    let mut links = vec![link(&id("a"), &id("b"), "x", "x"), link(&id("b"), &id("c"), "x", "x")];
    links.push(json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}MemoryUsed")], "source": { "location": id("c") },
        "target": { "location": "urn:uuid:1111" },
        "attributes": { "occi.collector.period": 0.1, of("MemoryUsed", "out"): "x" } }));
    occi.expect(
        201,
        "POST",
        "/",
        json!({ "resources": [sensor("a"), sensor("b"), sensor("c")], "links": links }),
    );
    let top = format!("/sensor/{}", id("a").trim_start_matches("urn:uuid:"));
    occi.associate(&top, "#Log", json!({ of("Log", "in_msg"): "x" }));
    assert_eq!((occi.state(&top), occi.services().len()), ("active".into(), 3));
    drop(occi);
    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    assert_eq!((occi.state(&top), occi.services().len()), ("active".into(), 3));
    assert!(datum(&occi.listen(&top, "x")) > 0.0);
}

/// Requirement: R0-13
#[test]
fn what_was_made_anonymous_below_stays_so_above() {
    let occi = Occi::start();
    let mut sink = Process::start(&["sink", "http", "--listen", "127.0.0.1:0"]);
    let url = format!("http://{}/", sink.word_after("listens on "));
    let low = occi.sensor(0.1);
    occi.collector(&low, 0.1, "MemoryUsed", json!({ of("MemoryUsed", "out"): "a" }));
    let hidden = json!({ "mixins": [format!("{AGGREGATOR}Anonymise")],
        "attributes": { of("Anonymise", "instream"): "a", of("Anonymise", "outstream"): "b" } });
    occi.expect(200, "POST", &low, hidden);
    let top = occi.sensor(0.1);
    takes(&occi, &top, &low, "b", "c");
    mean(&occi, &top, "c", "d");
    occi.associate(&top, "#Webhook", json!({ of("Webhook", "input"): "d", of("Webhook", "url"): url }));
    sink_says(&sink, "POST");
    let said = sink.log();
    assert!(said.contains(r#""resource": "anonymous""#) && !said.contains(&low), "{said}");
}

/// Requirement: R1-06
#[test]
fn an_upper_sensor_that_is_suspended_takes_nothing() {
    let occi = Occi::start();
    let (low, _) = watched(&occi);
    let top = occi.sensor(0.1);
    takes(&occi, &top, &low, "up", "a");
    let values = occi.listen(&top, "a");
    datum(&values);
    occi.expect(200, "POST", &top, json!({ "attributes": { "occi.sensor.timebase": -1 } }));
    assert_eq!(occi.state(&top), "suspended");
    // What was on its way may still come.
    values.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 100];
    let late = (0..20).take_while(|_| values.recv(&mut buffer).is_ok()).count();
    assert!(late < 5, "{late} values came");
    occi.expect(200, "POST", &top, json!({ "attributes": { "occi.sensor.timebase": super::now() } }));
    values.set_read_timeout(Some(super::PATIENCE)).unwrap();
    datum(&values);
}
