//! Forecasts as data: a rule on `Forecast_X`, from outside.

use std::time::Instant;

use super::support::{Server, wait_for};
use super::*;

/// Requirement: R2-07
#[test]
fn a_rule_on_a_forecast_makes_collectors_send_and_the_forecast_of_a_ramp_is_right() {
    let tower = Tower::start();
    let id = tower.register(&collector("CPU", &["vm1"], 60));
    let step = "<parameter name=\"step\">60</parameter><parameter name=\"samplingTime\">10</parameter>";
    let outputs = |metric: &str| actions(&[&output_metric(metric)]);
    tower.install(&batch(&[
        rule("F", "Forecast_CPU", step, "", &outputs("Foretold")),
        rule("E", "ForecastError_CPU", "<parameter name=\"step\">60</parameter>", "", &outputs("Error")),
    ]));
    // It is not asked for forecasts, which it does not offer, but for what they are made of.
    tower.wait_configured(&id, &["CPU"]);
    let asked = tower.configuration(&id)["CPU"][0]["parameters"].clone();
    assert!(
        asked == serde_json::json!({ "samplingTime": "10" }) || asked == serde_json::json!({}),
        "{asked}"
    );

    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = serde_json::json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() + "/results" });
    tower.expect(201, "POST", "/v1/metrics/Foretold/observers", &observer.to_string());
    let begin = Instant::now();
    // 1,000 and 10 more each second: in a minute it will be 600 more.
    let value = || 1_000.0 + 10.0 * begin.elapsed().as_secs_f64();
    let foretold = wait_for("a forecast", || {
        tower.send("CPU", &[("vm1", value())]);
        std::thread::sleep(Duration::from_millis(200));
        // The first few forecasts have seen little.
        sink.got("POST").get(4).cloned()
    });
    let foretold: Value = serde_json::from_str(&foretold.body).unwrap();
    assert_eq!(foretold[0]["resourceId"], "vm1");
    let (got, right) = (foretold[0]["value"].as_f64().unwrap(), value() + 600.0);
    assert!((got - right).abs() < 0.05 * right, "{got}, but {right} is right");
    tower.stop();
}

/// Requirement: R2-07
#[test]
fn the_error_of_forecasts_is_a_metric() {
    let tower = Tower::start();
    let id = tower.register(&collector("CPU", &["vm1"], 60));
    let step = "<parameter name=\"step\">2</parameter>";
    tower.install(&batch(&[rule("E", "ForecastError_CPU", step, "", &actions(&[&output_metric("Error")]))]));
    tower.wait_configured(&id, &["CPU"]);
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = serde_json::json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() + "/results" });
    tower.expect(201, "POST", "/v1/metrics/Error/observers", &observer.to_string());
    // It is believed that nothing changes, and then it does.
    let begin = Instant::now();
    let errors = wait_for("the error", || {
        let seconds = begin.elapsed().as_secs_f64();
        tower.send("CPU", &[("vm1", if seconds < 5.0 { 7.0 } else { 10.0 })]);
        std::thread::sleep(Duration::from_millis(50));
        let errors: Vec<f64> = sink
            .got("POST")
            .iter()
            .flat_map(|got| serde_json::from_str::<Vec<Value>>(&got.body).unwrap())
            .map(|datum| datum["value"].as_f64().unwrap())
            .collect();
        errors.iter().any(|error| *error < -2.0).then_some(errors)
    });
    assert!(errors[0].abs() < 0.01, "{errors:?}");
    tower.stop();
}
