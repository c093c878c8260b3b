//! Data: what is taken, what is refused, and what is counted.

use std::time::Duration;

use serde_json::json;

use super::support::{Server, wait_for};
use super::*;

fn counting() -> String {
    let count = "<metricAggregation aggregateFunction=\"Sum\"/>";
    rule("SumRule", "CPU", "", count, &actions(&[&output_metric("Sum")]))
}

/// What the sink was told in all, as the sum of values.
fn sum_of(sink: &Server) -> f64 {
    let all = sink.got("POST");
    let told = all.iter().flat_map(|got| serde_json::from_str::<Vec<Value>>(&got.body).unwrap());
    told.map(|datum| datum["value"].as_f64().unwrap()).sum()
}

fn observed(tower: &Tower, metric: &str) -> Server {
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() }).to_string();
    tower.expect(201, "POST", &format!("/v1/metrics/{metric}/observers"), &observer);
    sink
}

/// Requirement: R2-03
#[test]
fn json_and_rdf_give_the_same_results() {
    let tower = Tower::start();
    tower.install(&batch(&[counting()]));
    let sink = observed(&tower, "Sum");
    tower.register(&collector("CPU", &["vm1"], 60));
    let json = r#"[{"resourceId":"vm1","metric":"CPU","value":2.5}]"#;
    let rdf = r#"{"_:a":{"http://www.w3.org/1999/02/22-rdf-syntax-ns#type":[{"type":"uri","value":"http://www.modaclouds.eu/model#MonitoringDatum"}],
        "http://www.modaclouds.eu/model#resourceId":[{"type":"literal","value":"vm1"}],
        "http://www.modaclouds.eu/model#metric":[{"type":"literal","value":"CPU"}],
        "http://www.modaclouds.eu/model#value":[{"type":"literal","value":"2.5","datatype":"http://www.w3.org/2001/XMLSchema#double"}]}}"#;
    for (kind, text, expected) in
        [("application/json", json, 2.5), ("application/rdf+json", rdf, 5.0), ("text/plain", rdf, 7.5)]
    {
        let answer = tower.ask_with("POST", &stream("CPU"), &[("Content-Type", kind)], text);
        assert_eq!(answer.status, 200, "{answer:?}");
        wait_for(&format!("{expected} in all"), || ((sum_of(&sink) - expected).abs() < 1e-9).then_some(()));
    }
}

/// Requirement: R2-02
#[test]
fn a_stream_that_there_is_not_is_said_as_the_original_says_it() {
    let tower = Tower::start();
    tower.install(&batch(&[counting()]));
    for path in [stream("RAM"), "/streams/CPU".into(), "/streams/http%3A%2F%2Fother%2FCPU".into()] {
        let answer = tower.ask("POST", &path, "[]");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (500, "\"Specified stream does not exists\""),
            "{path}"
        );
    }
    assert_eq!(tower.counter("unknown_streams"), 3);
    tower.expect(200, "POST", &stream("CPU"), "[]");
    tower.expect(200, "POST", "/streams/http://www.modaclouds.eu/streams/CPU", "[]");
    tower.expect(204, "GET", "/v1/monitoring-rules/SumRule?enabled=false", "");
    tower.send("CPU", &[("vm1", 1.0)]);
    assert_eq!((tower.counter("data"), tower.counter("data_unwanted")), (0, 1), "known, and not needed now");
}

#[test]
fn what_collectors_send_beside_what_they_said_is_counted() {
    let tower = Tower::start();
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    tower.register(&collector("CPU", &["vm1"], 60));
    tower.register(&collector("RAM", &["vm1"], 60));
    tower.send("CPU", &[("vm1", 1.0), ("nobody", 1.0)]);
    tower.send("RAM", &[("vm1", 1.0)]);
    tower.send("CPU", &[("vm1", 1.0); 200]);
    let now = tower.expect(200, "POST", &stream("CPU"), r#"[{"resourceId":"vm1","value":"x"},{"resourceId":"vm1","metric":"RAM","value":1},{"resourceId":"vm1","value":1,"timestamp":5},7]"#.replace(",7]", "]").as_str());
    assert_eq!(now, "");
    assert_eq!(tower.counter("data"), 202);
    assert_eq!(tower.counter("data_of_strangers"), 1);
    assert_eq!(tower.counter("data_unwanted"), 1);
    assert_eq!(tower.counter("collectors_unwanted"), 1);
    assert_eq!(tower.counter("data_refused"), 3);
    let excess = tower.counter("collectors_excess");
    assert!((150..=200).contains(&excess), "a datum each 10 s was asked for: {excess}");
}

/// Requirement: R2-22
#[test]
fn count_counts_every_datum_and_others_refuse_text() {
    let tower = Tower::start();
    let count = "<metricAggregation aggregateFunction=\"Count\"/>";
    let counting = rule("C", "Log", "", count, &actions(&[&output_metric("Lines")]));
    let sum = "<metricAggregation aggregateFunction=\"Sum\"/>";
    let adding = rule("S", "Log", "", sum, &actions(&[&output_metric("Total")]));
    let other = rule("O", "CPU", "", sum, &actions(&[&output_metric("CPUSum")]));
    tower.install(&batch(&[counting, adding, other]));
    tower.expect(204, "POST", "/v1/resources", r#"[{"clazz":"VM","type":"Frontend","id":"vm1"}]"#);
    let (lines, total) = (observed(&tower, "Lines"), observed(&tower, "Total"));
    let data = r#"[{"resourceId":"vm1","value":"GET /"},{"resourceId":"vm1","value":2},
        {"resourceId":"vm1","value":true},{"resourceId":"vm1","value":{}}]"#;
    tower.expect(200, "POST", &stream("Log"), data);
    tower.expect(200, "POST", &stream("CPU"), data);
    wait_for("all lines", || (sum_of(&lines) == 3.0).then_some(()));
    wait_for("the numbers", || (sum_of(&total) == 3.0).then_some(()));
    assert_eq!((tower.counter("data"), tower.counter("data_refused")), (5, 3));
}

#[test]
fn a_datum_that_cannot_be_read_takes_no_other_with_it() {
    let tower = Tower::start();
    tower.install(&batch(&[counting()]));
    tower.register(&collector("CPU", &["vm1"], 60));
    let good = r#"{"resourceId":"vm1","value":1}"#;
    let bad = [
        r#"{"resourceId":"vm1","value":1e999}"#,
        r#"{"resourceId":"\ud800","value":1}"#,
        r#"{"resourceId":"vm1","value":1,"value":1}"#,
        r#"{"resourceId":"vm1","value":1,"timestamp":"now"}"#,
    ];
    tower.expect(200, "POST", &stream("CPU"), &format!("[{good},{},{good}]", bad.join(",")));
    assert_eq!((tower.counter("data"), tower.counter("data_refused"), tower.counter("malformed")), (2, 4, 0));
    tower.expect(400, "POST", &stream("CPU"), &format!("[{good},{}", bad[0]));
    assert_eq!(tower.counter("malformed"), 1);
}

#[test]
fn a_literal_nan_or_infinity_costs_its_datum_only() {
    let tower = Tower::start();
    tower.install(&batch(&[counting()]));
    let sink = observed(&tower, "Sum");
    tower.register(&collector("CPU", &["vm1"], 60));
    let datum = |value: &str| format!(r#"{{"resourceId":"vm1","metric":"CPU","value":{value}}}"#);
    let data = ["NaN", "1.5", "Infinity", "-Infinity", "2", "NaN"].map(datum).join(",");
    tower.expect(200, "POST", &stream("CPU"), &format!("[{data}]"));
    wait_for("the sum of the others", || ((sum_of(&sink) - 3.5).abs() < 1e-9).then_some(()));
    tower.expect(200, "POST", &stream("CPU"), &format!("[{}]", datum("NaN")));
    assert_eq!((tower.counter("data"), tower.counter("data_refused"), tower.counter("malformed")), (2, 5, 0));
    tower.expect(400, "POST", &stream("CPU"), &format!("[{}", datum("NaN")));
    assert_eq!(tower.counter("malformed"), 1);
}

/// Requirement: R2-06, R2-31
#[test]
fn another_analyzer_observes_and_its_rules_fire() {
    let (first, second) = (Tower::start(), Tower::start());
    first.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    let max = "<metricAggregation aggregateFunction=\"Max\" groupingClass=\"VM\"/>";
    second.install(&batch(&[rule("B", "AverageCPU", "", max, &actions(&[&output_metric("Highest")]))]));
    first.register(&collector("CPU", &["vm1"], 60));
    second.expect(204, "POST", "/v1/resources", r#"[{"clazz":"VM","type":"Frontend","id":"vm1"}]"#);
    let sink = observed(&second, "Highest");
    for (format, number) in [("TOWER/JSON", 1), ("RDF/JSON", 2)] {
        let url = format!("http://{}{}", second.address, stream("AverageCPU"));
        let observer = json!({ "format": format, "callbackUrl": url }).to_string();
        let added = first.expect(201, "POST", "/v1/metrics/AverageCPU/observers", &observer);
        let id = serde_json::from_str::<Value>(&added).unwrap()["id"].as_str().unwrap().to_string();
        first.send("CPU", &[("vm1", f64::from(number))]);
        let result =
            wait_for("the rule of the second", || sink.got("POST").get(number as usize - 1).cloned());
        let result: Value = serde_json::from_str(&result.body).unwrap();
        assert_eq!(
            (&result[0]["resourceId"], &result[0]["value"]),
            (&json!("vm1"), &json!(f64::from(number)))
        );
        first.expect(204, "DELETE", &format!("/v1/metrics/AverageCPU/observers/{id}"), "");
    }
}

/// Requirement: R2-06
#[test]
fn results_that_another_analyzer_evaluated_are_results_here() {
    let tower = Tower::start();
    let reader = rule(
        "Reader",
        "AverageCPU",
        "",
        "<metricAggregation aggregateFunction=\"Max\"/>",
        &actions(&[&output_metric("Highest")]),
    );
    tower.install(&batch(&[average("A", "CPU", "AverageCPU"), reader]));
    tower.register(&collector("CPU", &["vm1"], 60));
    let (results, highest) = (observed(&tower, "AverageCPU"), observed(&tower, "Highest"));
    let text = r#"[{"resourceId":"vm1","metric":"AverageCPU","value":0.9},{"resourceId":"vm1","metric":"Other","value":1}]"#;
    tower.expect(204, "POST", "/v1/monitoring-rules/A/actions", text);
    wait_for("the result", || (sum_of(&results) > 0.0).then_some(()));
    wait_for("the rule that reads it", || (sum_of(&highest) > 0.0).then_some(()));
    assert_eq!(tower.counter("data_refused"), 1);
    tower.expect(404, "POST", "/v1/monitoring-rules/B/actions", "[]");
    tower.expect(400, "POST", "/v1/monitoring-rules/A/actions", "[");
}
