//! Collectors: what they say and hear, byte for byte, and what becomes of those that fall silent.

use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Server, wait_for};
use super::*;

/// Requirement: R2-02, R2-05, R2-12, R2-13, R2-18, R2-19
#[test]
fn the_conversation_of_the_original_collector_byte_for_byte() {
    let tower = Tower::start();
    let host = tower.address;
    tower.install(&batch(&[average("AverageCPURule", "CPUUtilization", "AverageCPU")]));
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() + "/results" }).to_string();
    tower.expect(201, "POST", "/v1/metrics/AverageCPU/observers", &observer);

    let descriptor = concat!(
        r#"{"monitoredResourcesByMetric":{"CPUUtilization":[{"cloudProvider":"amazon","clazz":"VM","type":"Frontend","id":"vm1"}]},"#,
        r#""resources":[{"clazz":"CloudProvider","type":"IaaS","id":"amazon"},{"cloudProvider":"amazon","clazz":"VM","type":"Frontend","id":"vm1"}],"#,
        r#""keepAlive":25,"configSyncPeriod":30}"#
    );
    let post = |method: &str, path: &str, body: &str| {
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {length}\r\n\
             Host: {host}\r\nConnection: Close\r\nUser-Agent: Apache-HttpClient/4.3.6 (java 1.5)\r\nAccept-Encoding: gzip,deflate\r\n\r\n{body}"
        );
        raw(host, text.as_bytes())
    };
    let answer = post("POST", "/v1/data-collectors", descriptor);
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_string();
    assert_eq!(answer.body, format!("{{\"id\":\"{id}\"}}"));
    assert_eq!(id.len(), 36);

    let configuration = format!("/v1/data-collectors/{id}/configuration");
    let expected = format!(
        concat!(
            r#"{{"CPUUtilization":[{{"parameters":{{"samplingTime":"10"}},"targetResources":[["VM","Frontend",null]],"#,
            r#""daUrl":"http://{}/streams/http%3A%2F%2Fwww.modaclouds.eu%2Fstreams%2FCPUUtilization","dataFormat":"TOWER/JSON"}}]}}"#
        ),
        host
    );
    let answer = post("GET", &configuration, "");
    assert_eq!((answer.status, answer.body.as_str()), (200, expected.as_str()));
    let answer = post("GET", &format!("/v1/data-collectors/{id}/keepalive"), "");
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let data = r#"[{"resourceId":"vm1","metric":"CPUUtilization","value":0.3},{"resourceId":"vm1","metric":"CPUUtilization","value":0.4}]"#;
    let url = answer_url(&expected);
    assert_eq!(post("POST", &url, data).status, 200);
    let result = wait_for("the result", || sink.got("POST").first().cloned());
    assert_eq!(result.path, "/results");
    let result: Value = serde_json::from_str(&result.body).unwrap();
    assert_eq!(result[0]["resourceId"], "vm1");
    assert_eq!(result[0]["metric"], "AverageCPU");
    assert!((result[0]["value"].as_f64().unwrap() - 0.35).abs() < 1e-9, "{result}");

    assert_eq!(tower.expect(200, "GET", "/v1/data-collectors", ""), format!("{{\"{id}\":{descriptor}}}"));
    assert_eq!(tower.expect(200, "GET", &format!("/v1/data-collectors/{id}"), ""), descriptor);
    let again = post("PUT", &format!("/v1/data-collectors/{id}"), descriptor);
    assert_eq!((again.status, again.body), (201, format!("{{\"id\":\"{id}\"}}")));

    // What is no longer needed is no longer asked for.
    tower.expect(204, "DELETE", "/v1/monitoring-rules/AverageCPURule", "");
    tower.wait_configured(&id, &[]);
    tower.expect(204, "DELETE", &format!("/v1/data-collectors/{id}"), "");
    for (method, path) in [("GET", "/configuration"), ("GET", "/keepalive"), ("GET", ""), ("DELETE", "")] {
        tower.expect(404, method, &format!("/v1/data-collectors/{id}{path}"), "");
    }
}

fn answer_url(configuration: &str) -> String {
    let url = serde_json::from_str::<Value>(configuration).unwrap()["CPUUtilization"][0]["daUrl"].clone();
    let url = url.as_str().unwrap();
    url[url.find("/streams").unwrap()..].to_string()
}

/// Requirement: R2-10, R2-11
#[test]
fn who_falls_silent_is_forgotten_with_its_resources_and_comes_back() {
    let tower = Tower::start_attentive();
    let id = tower.register(&collector("CPU", &["vm1", "vm2"], 1));
    let forever = tower.register(&collector("RAM", &["vm3"], 0));
    tower.expect(204, "POST", "/v1/resources", r#"[{"clazz":"VM","type":"Frontend","id":"mine"}]"#);
    assert_eq!(tower.get("/v1/resources").as_array().unwrap().len(), 4);
    let begin = Instant::now();
    wait_for("vm1 to expire", || (tower.ask("GET", "/v1/resources/vm1", "").status == 404).then_some(()));
    assert!(begin.elapsed() >= Duration::from_millis(900), "not before its time: {:?}", begin.elapsed());
    tower.expect(404, "GET", &format!("/v1/data-collectors/{id}/keepalive"), "");
    for there in ["vm3", "mine"] {
        tower.expect(200, "GET", &format!("/v1/resources/{there}"), "");
    }
    tower.expect(204, "GET", &format!("/v1/data-collectors/{forever}/keepalive"), "");
    tower.expect(201, "PUT", &format!("/v1/data-collectors/{id}"), &collector("CPU", &["vm1"], 25));
    tower.expect(200, "GET", "/v1/resources/vm1", "");
    // What somebody takes out of the model comes back while its collector lives.
    tower.expect(204, "DELETE", "/v1/resources/vm1", "");
    wait_for("vm1 to be restored", || {
        (tower.ask("GET", "/v1/resources/vm1", "").status == 200).then_some(())
    });
}

/// Requirement: R2-10
#[test]
fn a_hundred_collectors_make_a_model_of_a_hundred_machines() {
    let tower = Tower::start();
    for number in 0..100 {
        tower.register(&collector("CPU", &[&format!("vm{number}")], 60));
    }
    assert_eq!(tower.get("/v1/resources").as_array().unwrap().len(), 100);
    assert_eq!(tower.get("/v1/data-collectors").as_object().unwrap().len(), 100);
}

/// Requirement: R2-17, R2-18
#[test]
fn a_collector_is_asked_for_what_it_has_of_what_rules_target() {
    let tower = Tower::start();
    let target = |id: &str, target: &str| {
        average(id, "CPU", &format!("Out{id}")).replace("class=\"VM\" type=\"Frontend\"", target)
    };
    tower.install(&batch(&[
        target("ByClass", "class=\"VM\""),
        target("ByType", "class=\"VM\" type=\"Backend\""),
        target("ById", "class=\"VM\" id=\"vm2\""),
        target("Other", "class=\"Method\"").replace("groupingClass=\"VM\"", ""),
    ]));
    let id = tower.register(&collector("CPU", &["vm1", "vm2"], 60));
    let configuration = tower.configuration(&id);
    let targets: Vec<&Value> =
        configuration["CPU"].as_array().unwrap().iter().map(|entry| &entry["targetResources"]).collect();
    assert_eq!(targets, [&json!([["VM", null, null]]), &json!([["VM", null, "vm2"]])]);
    let other = tower.register(&collector("Disk", &["vm1"], 60));
    assert_eq!(tower.configuration(&other), json!({}));
}

/// Requirement: R2-33, R2-34, R2-35
#[test]
fn data_of_disabled_rules_are_not_asked_for_and_a_change_is_told_at_once_to_who_waits() {
    let tower = Tower::start();
    tower.install(&batch(&[average("RAM", "MemUsed", "AverageRAM")
        .replace("<monitoringRule ", "<monitoringRule startEnabled=\"false\" ")]));
    let answer = tower.ask("POST", "/v1/data-collectors", &collector("MemUsed", &["vm1"], 60));
    assert!(answer.head.contains("homeostat-max-wait: 300"), "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_string();
    assert_eq!(tower.configuration(&id), json!({}));
    assert_eq!(tower.get("/v1/required-metrics"), json!([]));
    let path = format!("/v1/data-collectors/{id}/configuration");
    let now = tower.ask_with("GET", &path, &[("Prefer", "wait=0")], "");
    let tag = now.head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_string();
    let unchanged = tower.ask_with("GET", &path, &[("Prefer", "wait=0"), ("If-None-Match", &tag)], "");
    assert_eq!(unchanged.status, 304, "{unchanged:?}");
    let address = tower.address;
    let waiting = std::thread::spawn(move || {
        let begin = Instant::now();
        (ask(address, "GET", &path, &[("Prefer", "respond-async, wait=15")], ""), begin.elapsed())
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    tower.expect(204, "GET", "/v1/monitoring-rules/RAM?enabled=true", "");
    let (answer, time) = waiting.join().unwrap();
    assert!(
        answer.json()["MemUsed"].is_array() && time < Duration::from_secs(10),
        "{answer:?} after {time:?}"
    );
    assert!(answer.head.contains("preference-applied: wait=15"), "{answer:?}");
    assert_eq!(tower.get("/v1/required-metrics"), json!(["MemUsed"]));
    tower.expect(204, "GET", "/v1/monitoring-rules/RAM?enabled=false", "");
    tower.wait_configured(&id, &[]);
}

/// Requirement: R2-30, R2-33, R2-34, R2-35, R2-36
#[test]
fn what_is_slow_is_looked_at_more_closely_until_it_has_recovered() {
    let tower = Tower::start();
    let p99 = "<metricAggregation aggregateFunction=\"Percentile\"><parameter name=\"thPercentile\">99</parameter></metricAggregation>";
    let condition = |text: &str| format!("<condition>METRIC {text} 10000</condition>");
    let switch = |name: &str| action(name, "ruleId", "DetailedRAMRule");
    let slow = actions(&[&output_metric("RTConstraint_Violation"), &switch("EnableMonitoringRule")]);
    let recovered = actions(&[&switch("DisableMonitoringRule")]);
    tower.install(&batch(&[
        rule("RTConstraint_Rule", "ResponseTime", "", p99, &(condition("&gt;") + slow.as_str())),
        rule("RTRecovery_Rule", "ResponseTime", "", p99, &(condition("&lt;=") + recovered.as_str())),
        average("DetailedRAMRule", "MemUsed", "AverageRAMUtilization")
            .replace("<monitoringRule ", "<monitoringRule startEnabled=\"false\" "),
    ]));
    let id = tower.register(&collector("MemUsed", &["vm1"], 60));
    let times = tower.register(&collector("ResponseTime", &["vm1"], 60));
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() }).to_string();
    tower.expect(201, "POST", "/v1/metrics/RTConstraint_Violation/observers", &observer);
    tower.wait_configured(&times, &["ResponseTime"]);
    assert_eq!(tower.configuration(&id), json!({}));
    tower.send("ResponseTime", &[("vm1", 1_000.0); 99]);
    tower.send("ResponseTime", &[("vm1", 12_000.0), ("vm1", 12_000.0)]);
    tower.wait_configured(&id, &["MemUsed"]);
    wait_for("the violation to be told", || (!sink.got("POST").is_empty()).then_some(()));
    tower.send("ResponseTime", &[("vm1", 10_000.0)]);
    tower.wait_configured(&id, &[]);
    assert_eq!(sink.got("POST").len(), 1, "exactly 10 s is no violation");
}

/// Requirement: R2-34
#[test]
fn who_has_the_configuration_already_is_not_sent_it_again() {
    let tower = Tower::start();
    let id = tower.register(&collector("CPU", &["vm1"], 60));
    let path = format!("/v1/data-collectors/{id}/configuration");
    let first = tower.ask("GET", &path, "");
    let tag =
        first.head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("etag: ").map(str::to_string));
    let tag = tag.expect("a tag");
    for same in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".into()] {
        let answer = tower.ask_with("GET", &path, &[("If-None-Match", &same)], "");
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{same}: {answer:?}");
        let waited = tower.ask_with("GET", &path, &[("If-None-Match", &same), ("Prefer", "wait=0")], "");
        assert_eq!(waited.status, 304, "{same}");
    }
    let other = tower.ask_with("GET", &path, &[("If-None-Match", "\"x\"")], "");
    assert_eq!((other.status, other.body.as_str()), (200, "{}"));
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    tower.wait_configured(&id, &["CPU"]);
    assert_eq!(tower.ask_with("GET", &path, &[("If-None-Match", &tag)], "").status, 200, "it has changed");
    tower.stop();
}

const NATIVE: &str = "\
service: native
monitor:
  sensors: { CPUUtilization: { collect: {} } }
  metrics: { all: { of: CPUUtilization, over: 1 s, every: 1 s, aggregate: avg, emit: AverageAll } }
analyze: { rule: { objective: all_results >= 0, missing: ok } }
execute: {}
";

/// The original's `DCConfiguration.isAboutResource`, for a resource with class, type and id.
fn is_about(configuration: &Value, metric: &str, [class, kind, id]: [&str; 3]) -> bool {
    let entries = configuration[metric].as_array().into_iter().flatten();
    entries.flat_map(|entry| entry["targetResources"].as_array().unwrap()).any(|target| {
        let same = |at: usize, have: &str| target[at].is_null() || target[at] == have;
        let says = |at: usize| !target[at].is_null();
        same(0, class) && same(1, kind) && same(2, id) && (says(0) || says(1) || says(2))
    })
}

/// Requirement: R2-13
#[test]
fn a_metric_may_be_offered_of_a_class_instead_of_resources() {
    let tower = Tower::start();
    tower.install(&batch(&[average("A", "CPUUtilization", "AverageCPU")]));
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let observer = json!({ "format": "TOWER/JSON", "callbackUrl": sink.url() }).to_string();
    tower.expect(201, "POST", "/v1/metrics/AverageCPU/observers", &observer);
    let generic = r#"{"monitoredResourcesByMetric":{"CPUUtilization":[{"clazz":"VM"}]},"resources":[{"clazz":"VM","type":"Frontend","id":"vmG"}],"keepAlive":25,"configSyncPeriod":10}"#;
    let id = tower.register(generic);
    assert_eq!(tower.expect(200, "GET", &format!("/v1/data-collectors/{id}"), ""), generic);
    let configuration = tower.configuration(&id);
    assert!(is_about(&configuration, "CPUUtilization", ["VM", "Frontend", "vmG"]), "{configuration}");
    tower.send("CPUUtilization", &[("vmG", 0.5)]);
    let result = wait_for("the result", || sink.got("POST").first().cloned());
    let result: Value = serde_json::from_str(&result.body).unwrap();
    assert_eq!((&result[0]["resourceId"], &result[0]["value"]), (&json!("vmG"), &json!(0.5)));
    assert_eq!(tower.counter("data_of_strangers"), 0);

    // One that registers none itself offers those of the model, as they come.
    let of_others = tower.register(
        r#"{"monitoredResourcesByMetric":{"RAM":[{"clazz":"VM","type":"Frontend"}]},"keepAlive":25,"configSyncPeriod":10}"#,
    );
    tower.install(&batch(&[average("B", "RAM", "AverageRAM").replace("type=\"Frontend\"", "id=\"vmH\"")]));
    assert_eq!(tower.configuration(&of_others), json!({}), "there is no vmH");
    tower.expect(204, "POST", "/v1/resources", r#"[{"clazz":"VM","type":"Frontend","id":"vmH"}]"#);
    let configuration = tower.configuration(&of_others);
    assert_eq!(configuration["RAM"][0]["targetResources"], json!([["VM", null, "vmH"]]));
    tower.send("RAM", &[("vmH", 1.0)]);
    assert_eq!(tower.counter("data_of_strangers"), 0);
    tower.send("RAM", &[("nobody", 1.0)]);
    assert_eq!(tower.counter("data_of_strangers"), 1);
    tower.expect(204, "DELETE", "/v1/monitoring-rules/B", "");
    tower.send("RAM", &[("vmH", 1.0)]);
    tower.expect(204, "DELETE", &format!("/v1/data-collectors/{of_others}"), "");
    assert_eq!(tower.ask("POST", &stream("RAM"), "[]").status, 500, "nobody offers it any more");
    // Those that are named come into the model, whether `resources` has them or not.
    let named = tower.register(&collector("Disk", &["vm7"], 25).replace("\"resources\"", "\"others\""));
    tower.expect(200, "GET", "/v1/resources/vm7", "");
    tower.expect(204, "GET", &format!("/v1/data-collectors/{named}/keepalive"), "");
    tower.expect(400, "POST", "/v1/data-collectors", r#"{"resources":[{"clazz":"VM"}]}"#);
    tower.stop();
}

/// Requirement: R2-13, R2-17
#[test]
fn who_collects_of_everything_is_told_the_resources_that_it_has() {
    let tower = Tower::start_with(NATIVE, None, Settings::default());
    let id = tower.register(&collector("CPUUtilization", &["vm1", "vm2"], 60));
    tower.wait_configured(&id, &["CPUUtilization"]);
    let configuration = tower.configuration(&id);
    let targets = &configuration["CPUUtilization"][0]["targetResources"];
    assert_eq!(*targets, json!([["VM", "Frontend", "vm1"], ["VM", "Frontend", "vm2"]]));
    let nothing = tower.register(r#"{"monitoredResourcesByMetric":{"CPUUtilization":[]},"keepAlive":60}"#);
    assert_eq!(tower.configuration(&nothing), json!({}));
    tower.stop();
}

/// Requirement: R2-11
#[test]
fn what_is_taken_out_by_hand_comes_back_at_the_next_word_of_its_collector() {
    // The check is once a minute here.
    let tower = Tower::start();
    let id = tower.register(&collector("CPU", &["vm1", "vm2"], 60));
    let other = tower.register(&collector("CPU", &["vm3"], 60));
    for word in ["keepalive", "configuration", "keepalive"] {
        tower.expect(204, "DELETE", "/v1/resources/vm1", "");
        tower.expect(404, "GET", "/v1/resources/vm1", "");
        tower.ask("GET", &format!("/v1/data-collectors/{other}/{word}"), "");
        tower.expect(404, "GET", "/v1/resources/vm1", "");
        tower.ask("GET", &format!("/v1/data-collectors/{id}/{word}"), "");
        tower.expect(200, "GET", "/v1/resources/vm1", "");
    }
    tower.expect(204, "DELETE", "/v1/resources/vm2", "");
    tower.expect(204, "DELETE", &format!("/v1/data-collectors/{id}"), "");
    tower.expect(404, "GET", &format!("/v1/data-collectors/{id}/keepalive"), "");
    tower.expect(404, "GET", "/v1/resources/vm2", "");
    tower.stop();
}

/// Requirement: R2-12, R2-13
#[test]
fn a_collector_that_registers_while_all_stops_hears_nothing_and_so_tries_again() {
    let tower = Tower::start();
    let id = tower.register(&collector("CPU", &["vm1"], 60));
    assert_eq!(tower.end(), Vec::<String>::new());
    let again = format!("/v1/data-collectors/{id}");
    for (method, path, vm) in [("POST", "/v1/data-collectors", "vm2"), ("PUT", &again, "vm3")] {
        // To the original's collectors every other status than 201 is the end.
        let answer = tower.ask(method, path, &collector("CPU", &[vm], 60));
        assert_eq!((answer.status, answer.head.as_str()), (0, ""), "{method}: {answer:?}");
    }
    assert_eq!(tower.get("/v1/data-collectors").as_object().unwrap().len(), 1);
}
