//! What is long: lists, labels.

use serde_json::{Value, json};

use super::{COLLECTOR, METRIC, Occi, SENSOR, datum, of};

#[test]
fn a_list_that_no_header_can_hold_is_refused_with_what_would_be_right() {
    let occi = Occi::start();
    let sensors: Vec<Value> =
        (0..1_500).map(|_| json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 60 } })).collect();
    occi.expect(201, "POST", "/", json!({ "resources": sensors }));
    let answer = occi.ask("GET", "/sensor/", &[("Accept", "text/occi")], "");
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.body.contains("text/plain") && answer.body.contains("number=100"), "{answer:?}");
    let page = occi.ask("GET", "/sensor/?page=1&number=100", &[("Accept", "text/occi")], "");
    assert_eq!((page.status, page.header("x-occi-location").matches("/sensor/").count()), (200, 100));
    let all = occi.ask("GET", "/sensor/", &[("Accept", "text/plain")], "");
    assert_eq!(all.body.lines().count(), 1_500);
    // The categories fit.
    assert_eq!(occi.ask("GET", "/-/", &[("Accept", "text/occi")], "").status, 200);
}

/// Requirement: R1-19
#[test]
fn labels_may_be_long_and_those_that_differ_late_are_two() {
    let occi = Occi::start();
    let sensor = occi.sensor(0.1);
    let label = |end: &str| format!("{}{end}", "x".repeat(200));
    for (end, metric) in [("1", "MemoryUsed"), ("2", "Cost")] {
        let mut attributes = json!({ "occi.collector.period": 0.1, of(metric, "out"): label(end) });
        if metric == "Cost" {
            attributes[of("Cost", "perhour")] = 0.into();
        }
        let body = json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}{metric}")], "attributes": attributes,
            "source": { "location": sensor }, "target": { "location": "urn:uuid:1111" } });
        occi.expect(201, "POST", "/collector/", body);
    }
    let mean =
        json!({ of("ArithmeticMean", "instream"): label("1"), of("ArithmeticMean", "outstream"): "m" });
    occi.associate(&sensor, "#ArithmeticMean", mean);
    assert!(datum(&occi.listen(&sensor, "m")) > 0.0);
    occi.associate(&sensor, "#ArithmeticMean", json!({ of("ArithmeticMean", "instream"): label("2") }));
    super::await_datum(&occi.listen(&sensor, "m"), 0.0);
}
