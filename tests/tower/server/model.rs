//! The resource model, as its clients see and change it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::support::{Server, wait_for};
use super::*;

fn ids(tower: &Tower) -> BTreeSet<String> {
    let all = tower.get("/v1/resources");
    all.as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_string()).collect()
}

/// Requirement: R2-16
#[test]
fn the_example_model_has_two_clouds_and_three_methods() {
    let tower =
        Tower::start_with(include_str!("../../../policies/ecommerce/model.yaml"), None, Settings::default());
    let grouped = tower.get("/v1/model/resources");
    let count = |group: &str| grouped[group].as_array().unwrap().len();
    assert_eq!((count("cloudProviders"), count("internalComponents")), (2, 3));
    let frontends = grouped["vMs"].as_array().unwrap().iter().filter(|vm| vm["type"] == "Frontend").count();
    assert!(frontends >= 2);
    let kinds: BTreeSet<&str> =
        grouped["methods"].as_array().unwrap().iter().map(|m| m["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["checkout", "login", "register"]));
    assert_eq!(
        tower.get("/v1/resources/amazon-frontend1"),
        json!({ "cloudProvider": "amazon", "clazz": "VM", "type": "Frontend", "id": "amazon-frontend1" })
    );
    // What a policy declares is changed there.
    tower.expect(400, "DELETE", "/v1/resources/amazon", "");
}

/// Requirement: R2-15
#[test]
fn resources_are_merged_replaced_and_removed() {
    let tower = Tower::start();
    let app = |methods: &str| {
        format!(r#"{{"clazz":"InternalComponent","type":"App","id":"app","providedMethods":{methods}}}"#)
    };
    tower.register(&format!(r#"{{"resources":[{}],"keepAlive":60}}"#, app(r#"["login"]"#)));
    tower.register(&format!(r#"{{"resources":[{}],"keepAlive":60}}"#, app(r#"["checkout","login"]"#)));
    assert_eq!(tower.get("/v1/resources/app")["providedMethods"], json!(["checkout", "login"]));
    tower.expect(204, "POST", "/v1/resources", r#"[{"clazz":"VM","id":"a"},{"clazz":"VM","id":"b"}]"#);
    tower.expect(204, "POST", "/v1/model/resources", r#"{"vMs":[{"type":"Frontend","id":"a"}]}"#);
    assert_eq!(tower.get("/v1/resources/a"), json!({ "clazz": "VM", "type": "Frontend", "id": "a" }));
    tower.expect(204, "PUT", "/v1/resources", r#"[{"clazz":"VM","id":"c"}]"#);
    assert_eq!(ids(&tower), ["app", "c"].map(String::from).into(), "and what a living collector has");
    tower.expect(204, "DELETE", "/v1/resources/c", "");
    tower.expect(404, "DELETE", "/v1/resources/c", "");
    tower.expect(404, "GET", "/v1/resources/c", "");
    for bad in [
        "",
        "[",
        "[{}]",
        r#"[{"clazz":"Toaster","id":"t"}]"#,
        r#"[{"clazz":"VM","id":"good"},{"clazz":"VM"}]"#,
        r#"{"toasters":[]}"#,
    ] {
        tower.expect(400, "POST", "/v1/resources", bad);
        tower.expect(400, "PUT", "/v1/resources", bad);
    }
    assert_eq!(ids(&tower), ["app"].map(String::from).into());
}

#[test]
fn a_reference_to_null_is_none() {
    let tower = Tower::start();
    let app = r#"{"requiredComponents":[null,"vm1"],"providedMethods":[null],"clazz":"InternalComponent","type":"App","id":"app"}"#;
    let vm = r#"{"cloudProvider":null,"location":null,"clazz":"VM","type":null,"id":"vm1"}"#;
    tower.register(&format!(r#"{{"monitoredResourcesByMetric":{{"CPU":[{vm},null]}},"resources":[{app},null,{vm}],"keepAlive":60}}"#));
    let shown =
        json!({ "requiredComponents": ["vm1"], "clazz": "InternalComponent", "type": "App", "id": "app" });
    assert_eq!(tower.get("/v1/resources/app"), shown);
    assert_eq!(tower.get("/v1/resources/vm1"), json!({ "clazz": "VM", "id": "vm1" }));
    tower.expect(204, "POST", "/v1/resources", &format!("[{}]", app.replace("\"app\"", "\"other\"")));
    assert_eq!(tower.get("/v1/resources/other")["requiredComponents"], json!(["vm1"]));
    tower.expect(
        400,
        "POST",
        "/v1/resources",
        r#"[{"requiredComponents":[7],"clazz":"InternalComponent","id":"x"}]"#,
    );
}

/// Requirement: R2-01, R2-14, R2-25
#[test]
fn results_by_cloud_follow_the_model() {
    let tower = Tower::start();
    let by_cloud = "<metricAggregation aggregateFunction=\"Average\" groupingClass=\"CloudProvider\"/>";
    tower.install(&batch(&[rule("ByCloud", "CPU", "", by_cloud, &actions(&[&output_metric("CloudCPU")]))]));
    let machines = |cloud: &str| {
        json!([
            { "clazz": "VM", "type": "Frontend", "id": "vm1", "cloudProvider": "amazon" },
            { "clazz": "VM", "type": "Frontend", "id": "vm2", "cloudProvider": cloud },
            { "clazz": "VM", "type": "Frontend", "id": "vm3", "cloudProvider": "flexiant" },
        ])
        .to_string()
    };
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() }).to_string();
    tower.expect(201, "POST", "/v1/metrics/CloudCPU/observers", &observer);
    for (cloud, means) in [("amazon", [15.0, 30.0]), ("flexiant", [10.0, 25.0])] {
        tower.expect(204, "POST", "/v1/resources", &machines(cloud));
        tower.send("CPU", &[("vm1", 10.0), ("vm2", 20.0), ("vm3", 30.0)]);
        let results = wait_for("results by cloud", || {
            let got = sink.got("POST");
            let last: Vec<Value> = serde_json::from_str(&got.last()?.body).ok()?;
            let mean = |cloud: &str| last.iter().find(|r| r["resourceId"] == cloud)?["value"].as_f64();
            Some([mean("amazon")?, mean("flexiant")?]).filter(|found| *found == means)
        });
        assert_eq!(results, means);
    }
}
