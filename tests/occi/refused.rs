//! What is refused where it is said, with what would be right, and not only when it matters.

use serde_json::{Value, json};

use super::{COLLECTOR, COMPUTE, METRIC, Occi, SENSOR, of};

/// A sensor with a collector of one metric.
fn whole(sensor: Value, mixin: &str, collector: Value) -> Value {
    let mut attributes = sensor;
    attributes["occi.sensor.period"] = 60.into();
    let mut of_collector = collector;
    of_collector["occi.collector.period"] = 60.into();
    let link = json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}{mixin}")],
        "target": { "location": "urn:uuid:1111" }, "attributes": of_collector });
    json!({ "resources": [{ "kind": SENSOR, "attributes": attributes, "links": [link] }] })
}

/// Requirement: R1-18, R1-45
#[test]
fn what_can_never_work_is_refused_with_the_mixin_and_what_would_be_right() {
    let occi = Occi::start();
    let load = json!({ of("MemoryPercent", "out"): "a" });
    let publish = |mixin: &str, mut values: Value| {
        values[of(mixin, if mixin == "Log" { "in_msg" } else { "input" })] = "a".into();
        values
    };
    let mail = |email: &str, server: &str| {
        publish(
            "EmailAlarm",
            json!({ of("EmailAlarm", "threshold"): 1, of("EmailAlarm", "email"): email, of("EmailAlarm", "server"): server }),
        )
    };
    for (values, said) in [
        (
            publish("Webhook", json!({ of("Webhook", "url"): "ftp://127.0.0.1/" })),
            ["the mixin `Webhook`", "expected one such as http://"],
        ),
        (
            publish("SendUDP", json!({ of("SendUDP", "udpAddr"): "x" })),
            ["the mixin `SendUDP`", "expected HOST:PORT"],
        ),
        (mail("x", "smtp://127.0.0.1"), ["the mixin `EmailAlarm`", "`to: x` is no mail address"]),
        (mail("a@b.c\nBcc: d@e.f", "smtp://127.0.0.1"), ["the mixin `EmailAlarm`", "is no mail address"]),
        (mail("a@b.c", "127.0.0.1:25"), ["the mixin `EmailAlarm`", "expected smtp://HOST:PORT"]),
    ] {
        let answer = occi.expect(400, "POST", "/", whole(values, "MemoryPercent", load.clone()));
        assert!(said.iter().all(|part| answer.body.contains(part)), "{said:?}: {}", answer.body);
        assert!(!answer.body.contains("monitor.") && !answer.body.contains("execute."), "{}", answer.body);
    }
    for (mixin, name, value, said) in [
        ("HttpProbe", "url", json!("x"), "is no URL"),
        ("IsReachable", "hostname", json!("x"), "expected HOST:PORT"),
        ("Ping", "target", json!("127.0.0.1:70000"), "expected HOST:PORT"),
        ("QueriesPerSecond", "url", json!("file:///etc/passwd"), "neither http nor https"),
    ] {
        let values = json!({ of(mixin, "out"): "a", of(mixin, name): value });
        let answer = occi.expect(400, "POST", "/", whole(publish("Log", json!({})), mixin, values));
        let mixin = format!("the mixin `{mixin}`");
        assert!(answer.body.contains(&mixin) && answer.body.contains(said), "{said}: {}", answer.body);
    }
    let size =
        json!({ of("Ping", "out"): "a", of("Ping", "target"): "127.0.0.1:7", of("Ping", "size"): 70_000 });
    let answer = occi.expect(400, "POST", "/", whole(publish("Log", json!({})), "Ping", size));
    assert!(answer.body.contains("Ping.size` is 70000; expected 8 to 65507"), "{}", answer.body);
    assert_eq!(occi.services(), Vec::<String>::new());
}

#[test]
fn a_label_that_is_empty_is_missing_and_blames_nobody_else() {
    let occi = Occi::start();
    let sensor = occi.sensor(60.0);
    occi.associate(&sensor, "#Log", json!({ of("Log", "in_msg"): "z" }));
    occi.associate(
        &sensor,
        "#ArithmeticMean",
        json!({ of("ArithmeticMean", "instream"): "", of("ArithmeticMean", "outstream"): "z" }),
    );
    occi.collector(&sensor, 60.0, "MemoryPercent", json!({ of("MemoryPercent", "out"): "a" }));
    assert_eq!(occi.state(&sensor), "incomplete");
    assert!(occi.status(&sensor, "missing").contains(&of("ArithmeticMean", "instream")));
}

#[test]
fn an_expression_names_labels_that_come_in_and_nothing_else() {
    let occi = Occi::start();
    let with = |labels: &str, expression: &str| {
        whole(
            json!({ of("Expression", "instream"): labels, of("Expression", "outstream"): "z",
                of("Expression", "expression"): expression, of("Log", "in_msg"): "z" }),
            "MemoryPercent",
            json!({ of("MemoryPercent", "out"): labels }),
        )
    };
    for (labels, expression, said) in [
        ("a", "b + 1", "names `b`, which is no label in `instream` (a)"),
        ("a-b", "a-b + 1", "names `a`, which is no label in `instream` (a-b)"),
        ("other.cost", "other.cost + 1", "names `other.cost`"),
        ("if", "if + 1", "the expression `if + 1`"),
    ] {
        let answer = occi.expect(400, "POST", "/", with(labels, expression));
        assert!(answer.body.contains(said), "{said}: {}", answer.body);
    }
    occi.expect(201, "POST", "/", with("a", "2 * a"));
}

/// Requirement: R1-05
#[test]
fn nothing_is_pushed_into_a_sensor_that_does_not_measure_now() {
    let occi = Occi::start();
    let mut asked = whole(
        json!({ "occi.sensor.timebase": -1, of("Log", "in_msg"): "a" }),
        "Pushed",
        json!({ of("Pushed", "out"): "a" }),
    );
    asked["resources"][0]["id"] = "urn:uuid:still".into();
    occi.expect(201, "POST", "/", asked);
    assert_eq!(occi.state("/sensor/still"), "suspended");
    let push = || {
        use homeostat::model::ports::Metrics;
        let handle =
            homeostat::service::handle::Handle::new(occi.daemon.supervisor().clone(), "sensor-still");
        occi.runtime.block_on(handle.push("a_pushed", vec![(7.0, None)]))
    };
    let refused = push().unwrap_err().to_string();
    assert!(refused.contains("`sensor-still` takes no values now"), "{refused}");
    let now = json!({ "attributes": { "occi.sensor.timebase": super::now(), "occi.sensor.timestart": 0 } });
    occi.expect(200, "POST", "/sensor/still", now);
    push().unwrap();
}

/// Requirement: R1-25
#[test]
fn what_one_rendering_cannot_carry_is_refused_in_all() {
    let occi = Occi::start();
    let body = json!({ "kind": COMPUTE, "title": "a\u{7}b" });
    let answer = occi.expect(400, "POST", "/compute/", body);
    assert!(answer.body.contains("`occi.core.title` has the character U+0007"), "{}", answer.body);
    let body = json!({ "kind": COMPUTE, "attributes": { "occi.compute.hostname": "a\u{0}" } });
    let answer = occi.expect(400, "POST", "/compute/", body);
    assert!(answer.body.contains("`occi.compute.hostname` has the character U+0000"), "{}", answer.body);
    occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE, "title": "two\nlines\t\u{e9}" }));
    let twice = format!("{{\"kind\": \"x\", \"kind\": \"{COMPUTE}\"}}");
    let answer = occi.ask("POST", "/compute/", super::JSON, &twice);
    assert!(answer.status == 400 && answer.body.contains("`kind` is given twice"), "{answer:?}");
}

#[test]
fn an_identifier_is_a_name_that_leaves_a_place() {
    let occi = Occi::start();
    for id in [".", "..", "urn:uuid:", "urn:uuid:..", "/"] {
        let answer = occi.expect(400, "POST", "/compute/", json!({ "kind": COMPUTE, "id": id }));
        assert!(answer.body.contains("expected a URI such as urn:uuid:"), "{id}: {}", answer.body);
    }
}

#[test]
fn a_method_that_is_not_defined_is_refused_with_those_that_are() {
    let occi = Occi::start();
    let place = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE, "id": "urn:uuid:c" })).place();
    for (method, path, allowed) in [
        ("PATCH", "/compute/", "GET, HEAD, POST, DELETE"),
        ("PUT", "/compute/", "GET, HEAD, POST, DELETE"),
        ("PATCH", "/mixin/Log/", "GET, HEAD, POST, PUT, DELETE"),
        ("PATCH", &*place, "GET, HEAD, POST, PUT, DELETE"),
        ("PUT", "/-/", "GET, HEAD, POST, DELETE"),
        ("PUT", "/", "GET, HEAD, POST, DELETE"),
        ("OPTIONS", "/", "GET, HEAD, POST, DELETE"),
    ] {
        let answer = occi.ask(method, path, super::JSON, "");
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{method} {path}: {answer:?}");
    }
    assert_eq!(occi.ask("PATCH", "/nothing/here", super::JSON, "").status, 404);
}

/// A condition that cannot be looked at does not hold (RFC 9110, 13.1.1).
#[test]
fn nothing_is_done_under_a_condition_that_holds_for_single_entities_only() {
    let occi = Occi::start();
    let place = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE, "id": "urn:uuid:c" })).place();
    let condition = [("If-Match", "\"not-the-tag\""), ("Accept", "application/occi+json")];
    for (method, path) in
        [("DELETE", "/compute/"), ("DELETE", "/"), ("DELETE", "/mixin/Log/"), ("PUT", "/mixin/Log/")]
    {
        let answer = occi.ask(method, path, &condition, "");
        assert!(answer.status == 412 && answer.body.contains("one entity"), "{method} {path}: {answer:?}");
    }
    occi.get(&place);
    let any = [("If-Match", "*"), ("Accept", "application/occi+json")];
    assert_eq!(occi.ask("DELETE", "/compute/", &any, "").status, 200);
    occi.expect(404, "GET", &place, Value::Null);
}

#[test]
fn what_is_new_begins_in_a_state() {
    let occi = Occi::start();
    let compute = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE })).place();
    assert_eq!(occi.get(&compute)["attributes"]["occi.compute.state"], "inactive");
    // Who says so says nothing, and anything else is the server's to say.
    let state = |state: &str| json!({ "kind": COMPUTE, "attributes": { "occi.compute.state": state } });
    occi.expect(201, "POST", "/compute/", state("inactive"));
    occi.expect(400, "POST", "/compute/", state("active"));
}

/// Requirement: R1-39
#[test]
fn one_sensor_is_made_of_one_template_whose_target_is_one() {
    let occi = Occi::start();
    let template = |terms: &[&str], target: &str| {
        let mixins: Vec<String> =
            terms.iter().map(|term| format!("http://example.com/occi/monitoring/template#{term}")).collect();
        let mut attributes = json!({});
        for term in terms {
            attributes[of(term, "target")] = target.into();
            attributes[of(term, "email")] = "a@b.c".into();
        }
        json!({ "kind": SENSOR, "mixins": mixins, "attributes": attributes })
    };
    let answer = occi.expect(400, "POST", "/sensor/", template(&["CPUAlarm", "MemoryAlarm"], "urn:uuid:1"));
    assert!(answer.body.contains("not of CPUAlarm and MemoryAlarm"), "{}", answer.body);
    let answer = occi.expect(400, "POST", "/sensor/", template(&["CPUAlarm"], "not> uri"));
    assert!(answer.body.contains("which is no URI"), "{}", answer.body);
    occi.expect(201, "POST", "/sensor/", template(&["CPUAlarm"], "urn:uuid:1"));
}

/// What was exported is read again, although only the server sets some of it.
#[test]
fn what_the_server_printed_can_be_posted_back() {
    let occi = Occi::start();
    let compute =
        occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE, "id": "urn:uuid:c" })).place();
    let start = "http://schemas.ogf.org/occi/infrastructure/compute/action#start";
    occi.expect(200, "POST", &format!("{compute}?action=start"), json!({ "action": start }));
    assert_eq!(occi.get(&compute)["attributes"]["occi.compute.state"], "active");
    let all = occi.get("/");
    occi.expect(200, "DELETE", "/", Value::Null);
    occi.expect(201, "POST", "/", all);
    assert_eq!(occi.get(&compute)["attributes"]["occi.compute.state"], "inactive", "it begins anew");
}

/// Nothing is made that cannot be answered.
#[test]
fn who_accepts_nothing_that_there_is_changes_nothing() {
    let occi = Occi::start();
    let html = [("Content-Type", "application/occi+json"), ("Accept", "text/html")];
    let body = json!({ "kind": COMPUTE, "id": "urn:uuid:c" }).to_string();
    for (method, path) in [("POST", "/compute/"), ("PUT", "/compute/c"), ("POST", "/")] {
        assert_eq!(occi.ask(method, path, &html, &body).status, 406, "{method} {path}");
    }
    occi.expect(404, "GET", "/compute/c", Value::Null);
    occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE, "id": "urn:uuid:c" }));
    assert_eq!(occi.ask("DELETE", "/compute/c", &html, "").status, 406);
    // Of several who delete it at once, one did.
    let deleted = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| occi.ask("DELETE", "/compute/c", super::JSON, "").status))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<u16>>()
    });
    assert_eq!(deleted.iter().filter(|status| **status == 200).count(), 1, "{deleted:?}");
    assert!(deleted.iter().all(|status| [200, 404].contains(status)), "{deleted:?}");
}

/// Requirement: R0-12
#[test]
fn a_probe_is_reached_by_http() {
    let occi = Occi::start();
    for url in ["x", "https://127.0.0.1/collectors", ""] {
        let body = json!({ "kind": COMPUTE, "mixins": ["http://example.com/occi/monitoring/resource#MetricContainer"],
            "attributes": { of("MetricContainer", "url"): url } });
        let answer = occi.expect(400, "POST", "/compute/", body);
        assert!(answer.body.contains("MetricContainer.url"), "{}", answer.body);
    }
}
