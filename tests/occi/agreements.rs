//! Agreements and their objectives.

use serde_json::{Value, json};

use super::support::wait_for;
use super::{COLLECTOR, METRIC, Occi, SENSOR, of};

const AGREEMENT: &str = "http://schemas.ogf.org/occi/sla#agreement";
const LINK: &str = "http://schemas.ogf.org/occi/sla#agreement_link";
const OBJECTIVE: &str = "http://example.com/occi/monitoring/term#Objective";

fn state(occi: &Occi, place: &str) -> Value {
    occi.expect(200, "GET", place, Value::Null).json()["attributes"][of("Objective", "term.state")].clone()
}

/// Waits until the term of an agreement is in a state.
#[track_caller]
fn wait(occi: &Occi, place: &str, wanted: &str) {
    wait_for(wanted, || (state(occi, place) == wanted).then_some(()));
}

fn act(occi: &Occi, place: &str, verb: &str) {
    let action = format!("http://schemas.ogf.org/occi/sla#{verb}");
    occi.expect(200, "POST", &format!("{place}?action={verb}"), json!({ "action": action }));
}

/// What its state does not allow.
#[track_caller]
fn refuse(occi: &Occi, place: &str, verb: &str) {
    let action = format!("http://schemas.ogf.org/occi/sla#{verb}");
    let answer = occi.expect(409, "POST", &format!("{place}?action={verb}"), json!({ "action": action }));
    assert!(answer.body.contains(&format!("`{verb}` is for agreements that are")), "{}", answer.body);
}

#[test]
fn an_accepted_agreement_is_an_objective_of_its_sensor() {
    let occi = Occi::start();
    let sensor = occi
        .expect(
            201,
            "POST",
            "/sensor/",
            json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 0.1 } }),
        )
        .place();
    let collector = json!({
        "kind": COLLECTOR, "source": { "location": sensor }, "target": { "location": "urn:uuid:x" },
        "mixins": [format!("{METRIC}LoadAverage")],
        "attributes": { "occi.collector.period": 0.1, of("LoadAverage", "out"): "a" },
    });
    occi.expect(201, "POST", "/collector/", collector);
    let agreement = occi
        .expect(201, "POST", "/agreement/", json!({
            "kind": AGREEMENT, "mixins": [OBJECTIVE],
            "attributes": { of("Objective", "label"): "a", of("Objective", "threshold"): 1e9, of("Objective", "term.remedy"): "ten percent" },
        }))
        .place();
    let link = json!({ "kind": LINK, "source": { "location": agreement }, "target": { "location": sensor } });
    let link = occi.expect(201, "POST", "/agreement_link/", link).place();
    // Before it is accepted, it binds nobody.
    let stands = || occi.get(&agreement)["attributes"].clone();
    assert_eq!(
        (&stands()["occi.agreement.state"], stands().get("occi.agreement.agreedAt")),
        (&json!("Pending"), None)
    );
    refuse(&occi, &agreement, "resume");
    assert_eq!(state(&occi, &agreement), "Undefined");
    act(&occi, &agreement, "accept");
    wait(&occi, &agreement, "Fulfilled");
    assert!(stands()["occi.agreement.agreedAt"].as_str().unwrap().ends_with('Z'), "{}", stands());
    refuse(&occi, &agreement, "reject");
    // A load is never below nought.
    let worse = json!({ "attributes": { of("Objective", "threshold"): -1 } });
    occi.expect(200, "POST", &agreement, worse);
    wait(&occi, &agreement, "Violated");
    occi.expect(200, "POST", &agreement, json!({ "attributes": { of("Objective", "side"): "at_least" } }));
    wait(&occi, &agreement, "Fulfilled");
    act(&occi, &agreement, "suspend");
    assert_eq!(state(&occi, &agreement), "Undefined");
    act(&occi, &agreement, "resume");
    wait(&occi, &agreement, "Fulfilled");
    // Only the server says what came of it.
    let forged = json!({ "attributes": { of("Objective", "term.state"): "Violated" } });
    occi.expect(200, "POST", &agreement, forged);
    assert_eq!(state(&occi, &agreement), "Fulfilled");
    // A label that the sensor has not.
    occi.expect(200, "POST", &agreement, json!({ "attributes": { of("Objective", "label"): "none" } }));
    wait(&occi, &agreement, "Undefined");
    occi.expect(200, "DELETE", &link, Value::Null);
    assert_eq!(state(&occi, &agreement), "Undefined");
    act(&occi, &agreement, "terminate");
    refuse(&occi, &agreement, "accept");
}
