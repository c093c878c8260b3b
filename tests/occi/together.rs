//! Changes that come at the same time: they become true together, and each has its own answer.

use std::sync::Barrier;

use serde_json::{Value, json};

use super::{AGGREGATOR, COLLECTOR, METRIC, Occi, SENSOR, of};
use homeostat::dialects::occi::Extension;
use homeostat::dialects::occi::monitoring::Settings;
use homeostat::policy::load::Sources;

fn id(number: usize) -> String {
    format!("urn:uuid:00000000-0000-0000-0000-{number:012}")
}

/// A sensor that measures and calculates, with this expression.
fn sensor(id: &str, expression: &str) -> Value {
    let attributes = json!({ "occi.sensor.period": 60, of("Expression", "instream"): "a", of("Expression", "outstream"): "b",
        of("Expression", "expression"): expression });
    let link = json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}MemoryUsed")], "target": { "location": "urn:uuid:1111" },
        "attributes": { "occi.collector.period": 60, of("MemoryUsed", "out"): "a" } });
    json!({ "kind": SENSOR, "id": id, "mixins": [format!("{AGGREGATOR}Expression")], "attributes": attributes, "links": [link] })
}

/// Sends all of these at the same time; answers the status and the text of each.
fn at_once(occi: &Occi, requests: &[(&str, String, Value)]) -> Vec<(u16, String)> {
    let barrier = Barrier::new(requests.len());
    std::thread::scope(|scope| {
        let asking: Vec<_> = requests
            .iter()
            .map(|(method, path, body)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let body = if body.is_null() { String::new() } else { body.to_string() };
                    let answer = occi.ask(method, path, super::JSON, &body);
                    (answer.status, answer.body)
                })
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

/// Who exports the policy of a sensor and keeps it in a file has a service of his own: no sensor of the server's, which takes back only those.
#[test]
fn a_policy_in_a_file_is_no_sensor_although_it_was_one_once() {
    let file =
        "service: sensor-kept\nannotations: { occi.sensor: /sensor/kept }\nmonitor: { sensors: { a: push } }";
    let files = Sources::from_texts([("kept.yaml", file)]);
    let occi = Occi::start_beside(files, &Extension::ALL, None, Settings::default());
    assert_eq!(occi.services(), ["sensor-kept"]);
    let answer = occi.expect(409, "POST", "/sensor/", sensor("urn:uuid:kept", "a + 1"));
    assert!(answer.body.contains("a managed service is called `sensor-kept`"), "{}", answer.body);
    occi.expect(201, "POST", "/sensor/", sensor("urn:uuid:other", "a + 1"));
    assert_eq!(occi.services(), ["sensor-kept", "sensor-other"]);
}

#[test]
fn of_changes_that_come_at_the_same_time_each_has_its_own_answer_and_what_was_answered_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    let requests: Vec<_> = (0..40)
        .map(|number| match number % 4 {
            // Cannot run.
            1 => ("POST", "/sensor/".to_string(), sensor(&id(number), "a +")),
            // One identifier for all of these.
            2 => ("POST", "/sensor/".to_string(), sensor(&id(999), "2 * a")),
            _ => ("POST", "/sensor/".to_string(), sensor(&id(number), "a + 1")),
        })
        .collect();
    let answers = at_once(&occi, &requests);
    let of_kind =
        |kind: usize| answers.iter().enumerate().filter(move |(n, _)| n % 4 == kind).map(|(_, a)| a);
    assert!(of_kind(0).chain(of_kind(3)).all(|(status, _)| *status == 201), "{answers:?}");
    assert!(of_kind(1).all(|(status, text)| *status == 400 && text.contains("the expression `a +`")));
    let mut same: Vec<u16> = of_kind(2).map(|(status, _)| *status).collect();
    same.sort_unstable();
    assert_eq!((same[0], &same[1..]), (201, [409; 9].as_slice()), "{answers:?}");
    let before = (occi.get("/sensor/"), occi.services());
    assert_eq!(before.1.len(), 21);
    drop(occi);
    let occi = Occi::start_with(&Extension::ALL, Some(dir.path()));
    assert_eq!((occi.get("/sensor/"), occi.services()), before);
    // Each is changed, and half of them go, at the same time.
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let place = format!("/sensor/{}", &id(number - number % 4)[9..]);
            match number % 2 {
                0 => ("POST", place, json!({ "attributes": { of("Expression", "expression"): "a + 2" } })),
                _ => ("DELETE", place, Value::Null),
            }
        })
        .collect();
    let answers = at_once(&occi, &requests);
    // Who comes after the deletion finds nothing.
    assert!(answers.iter().all(|(status, _)| matches!(status, 200 | 404)), "{answers:?}");
    assert_eq!(occi.services().len(), 16);
}
