//! What two of a kind share: resources of two collectors, names of rules and resources, metrics of rules and policies.

use std::time::Instant;

use serde_json::json;

use super::*;

fn sum(id: &str) -> String {
    let sum = "<metricAggregation aggregateFunction=\"Sum\"/>";
    rule(id, "CPU", "", sum, &actions(&[&output_metric(&format!("{id}Sum"))]))
}

/// Requirement: R2-10, R2-15
#[test]
fn what_two_collectors_offer_is_there_as_long_as_one_of_them_is() {
    let tower = Tower::start();
    let (one, other) =
        (tower.register(&collector("CPU", &["vm1"], 60)), tower.register(&collector("CPU", &["vm1"], 60)));
    let send =
        || tower.ask("POST", &stream("CPU"), r#"[{"resourceId":"vm1","metric":"CPU","value":1}]"#).status;
    assert_eq!(send(), 200);
    tower.expect(204, "DELETE", &format!("/v1/data-collectors/{other}"), "");
    assert_eq!(send(), 200, "the first still offers it");
    tower.expect(204, "DELETE", &format!("/v1/data-collectors/{one}"), "");
    assert_eq!(send(), 500);
    tower.stop();
}

/// Requirement: R2-34
#[test]
fn who_waits_for_a_change_is_told_when_the_collector_itself_changes_or_goes() {
    let tower = Tower::start();
    tower.install(&batch(&[sum("S")]));
    let id = tower.register(&collector("RAM", &["vm1"], 60));
    let path = format!("/v1/data-collectors/{id}/configuration");
    tower.wait_configured(&id, &[]);
    let begin = Instant::now();
    let (waited, gone) = std::thread::scope(|scope| {
        let waits = |_| {
            let (tower, path) = (&tower, &path);
            scope.spawn(move || tower.ask_with("GET", path, &[("Prefer", "wait=60")], ""))
        };
        let waiting = waits(());
        std::thread::sleep(Duration::from_millis(100));
        tower.expect(201, "PUT", &format!("/v1/data-collectors/{id}"), &collector("CPU", &["vm1"], 60));
        let first = waiting.join().unwrap();
        let waiting = waits(());
        std::thread::sleep(Duration::from_millis(100));
        tower.expect(204, "DELETE", &format!("/v1/data-collectors/{id}"), "");
        (first, waiting.join().unwrap())
    });
    assert!(waited.body.contains("CPU"), "{waited:?}");
    assert_eq!(gone.status, 404);
    assert!(begin.elapsed() < Duration::from_secs(50), "nobody waited to the end");
    tower.stop();
}

#[test]
fn a_rule_hides_no_resource_takes_no_metric_of_a_policy_and_is_not_switched_by_looking() {
    let native = "service: native
monitor:
  sensors: { CPU: { collect: {} } }
  metrics: { Native: { of: CPU, aggregate: avg, every: 1s, emit: Native } }
";
    let tower = Tower::start_with(native, None, Settings::default());
    tower.expect(204, "POST", "/v1/resources", &json!([{ "clazz": "VM", "id": "vm1" }]).to_string());
    tower.install(&batch(&[sum("vm1")]));
    assert_eq!(tower.get("/v1/resources/vm1")["clazz"], "VM");
    let taken = rule("T", "CPU", "", "", &actions(&[&output_metric("Native")]));
    let said = tower.expect(400, "POST", "/v1/monitoring-rules", &batch(&[taken]));
    assert!(said.contains("INVALID_ACTION") && said.contains("Native"), "{said}");
    assert_eq!(tower.ask("HEAD", "/v1/monitoring-rules/vm1?enabled=false", "").status, 405);
    assert_eq!(tower.get("/v1/required-metrics"), json!(["CPU"]), "it is enabled still");
    tower.stop();
}

#[test]
fn a_circle_through_a_native_policy_is_refused_with_the_way() {
    let native = "service: native
monitor:
  sensors: { Doubled: { collect: {} } }
  metrics: { CPU: { of: Doubled, aggregate: avg, every: 1s, emit: CPU } }
";
    let tower = Tower::start_with(native, None, Settings::default());
    let doubling = rule("Doubling", "CPU", "", "", &actions(&[&output_metric("Doubled")]));
    let said = tower.expect(400, "POST", "/v1/monitoring-rules", &batch(&[doubling.clone(), sum("S")]));
    assert!(
        said.contains("CPU -> Doubled (by `Doubling`) -> CPU (by `native`)")
            || said.contains("Doubled -> CPU (by `native`) -> Doubled (by `Doubling`)"),
        "{said}"
    );
    assert_eq!(tower.expect(200, "GET", "/v1/monitoring-rules", "").matches("<monitoringRule ").count(), 0);
    tower.install(&batch(&[sum("S")]));
    tower.stop();
}
