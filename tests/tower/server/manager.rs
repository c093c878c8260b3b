//! The manager: every route of it, with its codes.

use serde_json::json;

use super::*;

/// Requirement: R2-28
#[test]
fn rules_are_installed_listed_switched_and_removed() {
    let tower = Tower::start();
    assert!(tower.expect(200, "GET", "/v1/monitoring-rules", "").contains("<monitoringRules"));
    let label = average("A", "CPU", "AverageCPU").replace("id=\"A\"", "id=\"A\" label=\"a &lt; b\"");
    tower.install(&batch(&[label, average("B", "RAM", "AverageRAM")]));
    let answer = tower.ask("GET", "/v1/monitoring-rules", "");
    assert!(answer.head.contains("application/xml"), "{answer:?}");
    for part in ["id=\"A\"", "label=\"a &lt; b\"", "metricName=\"CPU\"", "id=\"B\"", "startEnabled=\"true\""]
    {
        assert!(answer.body.contains(part), "{part} in {}", answer.body);
    }
    assert_eq!(tower.get("/v1/metrics"), json!(["AverageCPU", "AverageRAM"]));
    assert_eq!(tower.get("/v1/required-metrics"), json!(["CPU", "RAM"]));
    tower.expect(204, "GET", "/v1/monitoring-rules/A?enabled=false", "");
    assert!(tower.expect(200, "GET", "/v1/monitoring-rules", "").contains("startEnabled=\"false\""));
    assert_eq!(tower.get("/v1/required-metrics"), json!(["RAM"]));
    tower.expect(204, "GET", "/v1/monitoring-rules/A?enabled=true", "");
    assert_eq!(tower.get("/v1/required-metrics"), json!(["CPU", "RAM"]));
    for (path, status) in [("A", 400), ("A?enabled=yes", 400), ("A?enabled=", 400), ("C?enabled=true", 404)] {
        tower.expect(status, "GET", &format!("/v1/monitoring-rules/{path}"), "");
    }
    // What is listed can be installed again.
    let listed = tower.expect(200, "GET", "/v1/monitoring-rules", "");
    for id in ["A", "B"] {
        tower.expect(204, "DELETE", &format!("/v1/monitoring-rules/{id}"), "");
        tower.expect(404, "DELETE", &format!("/v1/monitoring-rules/{id}"), "");
    }
    assert_eq!(tower.get("/v1/metrics"), json!([]));
    tower.install(&listed);
    assert_eq!(tower.get("/v1/metrics"), json!(["AverageCPU", "AverageRAM"]));
}

/// Requirement: R2-17, R2-28
#[test]
fn a_batch_is_installed_as_a_whole_or_not_at_all() {
    let tower =
        Tower::start_with("service: shop\nmonitor: { sensors: { cost: push } }\n", None, Settings::default());
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    let good = average("Good", "CPU", "Fine");
    for (bad, word) in [
        (
            average("Bad", "CPU", "X").replace("class=\"VM\"", "class=\"Toaster\""),
            "[Rule Bad, error: INVALID_CLASS at position",
        ),
        (average("A", "CPU", "X"), "ID_ALREADY_EXISTS"),
        (average("shop", "CPU", "X"), "ID_ALREADY_EXISTS"),
        (average("Bad", "CPU", "AverageCPU"), "AverageCPU"),
        (average("Bad", "CPU", "X").replace("Average\"", "Mean\""), "INVALID_AGGREGATE_FUNCTION"),
        ("<oops>".to_string(), "line "),
        ("<!DOCTYPE x [<!ENTITY e \"e\">]>".to_string(), "line "),
    ] {
        let answer = tower.ask("POST", "/v1/monitoring-rules", &batch(&[good.clone(), bad.clone()]));
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        let told = answer.body.starts_with("Error while installing monitoring rules: ")
            && answer.body.contains(word);
        assert!(told, "{bad}: {}", answer.body);
        assert_eq!(tower.get("/v1/metrics"), json!(["AverageCPU"]), "{bad}");
    }
    for garbage in ["", "{}", "\u{0}", "<monitoringRules"] {
        tower.expect(400, "POST", "/v1/monitoring-rules", garbage);
    }
}

/// Requirement: R2-37
#[test]
fn a_rule_can_take_itself_out() {
    let tower = Tower::start();
    let url = format!("http://{}/v1/monitoring-rules/Once", tower.address);
    let call = format!(
        "<action name=\"RestCall\"><parameter name=\"url\">{url}</parameter><parameter name=\"method\">DELETE</parameter></action>"
    );
    let average = "<metricAggregation aggregateFunction=\"Average\"/>";
    tower.install(&batch(&[rule("Once", "CPU", "", average, &actions(&[&call]))]));
    let id = tower.register(&collector("CPU", &["vm1"], 60));
    tower.wait_configured(&id, &["CPU"]);
    tower.send("CPU", &[("vm1", 1.0)]);
    tower.wait_configured(&id, &[]);
    assert!(!tower.expect(200, "GET", "/v1/monitoring-rules", "").contains("Once"));
}

/// Requirement: R2-40
#[test]
fn a_restart_loses_no_rule_no_resource_and_no_observer() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Tower::start_with("", Some(dir.path()), Settings::default());
    let tower = start();
    tower.install(&batch(&[average("A", "CPU", "AverageCPU"), average("B", "RAM", "AverageRAM")]));
    tower.expect(204, "GET", "/v1/monitoring-rules/A?enabled=false", "");
    let resources = r#"[{"clazz":"CloudProvider","type":"IaaS","id":"amazon"},{"cloudProvider":"amazon","clazz":"VM","type":"Frontend","id":"vm/1 ü"}]"#;
    tower.expect(204, "POST", "/v1/resources", resources);
    tower.expect(201, "POST", "/v1/metrics/AverageRAM/observers", r#"{"callbackUrl":"http://127.0.0.1:1/"}"#);
    let udp = r#"{"format":"GRAPHITE","protocol":"UDP","observerHost":"127.0.0.1","observerPort":9}"#;
    let gone: Value =
        serde_json::from_str(&tower.expect(201, "POST", "/v1/metrics/AverageRAM/observers", udp)).unwrap();
    let path = format!("/v1/metrics/AverageRAM/observers/{}", gone["id"].as_str().unwrap());
    tower.expect(204, "DELETE", &path, "");
    let id = tower.register(&collector("RAM", &["vm9"], 60));
    let before =
        ["/v1/monitoring-rules", "/v1/metrics/AverageRAM/observers"].map(|p| tower.expect(200, "GET", p, ""));
    tower.stop();

    let tower = start();
    let after =
        ["/v1/monitoring-rules", "/v1/metrics/AverageRAM/observers"].map(|p| tower.expect(200, "GET", p, ""));
    assert_eq!(before, after);
    assert_eq!(
        tower.get("/v1/resources"),
        serde_json::from_str::<Value>(resources).unwrap(),
        "and those of collectors are not kept"
    );
    assert_eq!(tower.get("/v1/required-metrics"), json!(["RAM"]), "A stays disabled");
    // The collector learns that it is not known, and says again who it is.
    tower.expect(404, "GET", &format!("/v1/data-collectors/{id}/configuration"), "");
    tower.expect(201, "PUT", &format!("/v1/data-collectors/{id}"), &collector("RAM", &["vm9"], 60));
    tower.wait_configured(&id, &["RAM"]);
    tower.expect(204, "DELETE", "/v1/monitoring-rules/A", "");
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    assert_eq!(tower.get("/v1/required-metrics"), json!(["CPU", "RAM"]), "a new rule is as its file says");
    tower.stop();
}

/// Requirement: R2-05
#[test]
fn run_serves_it_where_it_is_told_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.yaml"), include_str!("../../../policies/ecommerce/model.yaml"))
        .unwrap();
    let mut daemon = support::Daemon::start(dir.path(), &["--tower", "127.0.0.1:0"]);
    let address: SocketAddr = daemon.process.word_after("tower=").parse().unwrap();
    assert_eq!(ask(address, "GET", "/v1/monitoring-rules", &[], "").status, 200);
    assert_eq!(ask(address, "GET", "/v1/resources/amazon", &[], "").json()["clazz"], "CloudProvider");
    assert_eq!(daemon.call("GET", "/v1/monitoring-rules", None).0, 404, "not on the listener of the API");
    daemon.stop();
}
