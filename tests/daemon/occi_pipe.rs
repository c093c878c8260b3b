//! From what is measured to whom it may concern: publishers side by side, processors in any order, all of it by documents, and the closed loop.

use std::time::Duration;

use serde_json::{Value, json};

use super::occi_support::{COLLECTOR, COMPUTE, Dashboard, Documents, Occi, SENSOR, mixin, of, sink};
use super::support::{Fake, Process, Server, wait_for};

/// The lines that a sink has printed since it listens.
fn printed(sink: &Process) -> Vec<String> {
    sink.log().lines().filter(|line| !line.starts_with("listens on ")).map(str::to_string).collect()
}

/// The values of a table, in order.
fn rows(file: &std::path::Path, table: &str) -> Vec<f64> {
    let Ok(database) = rusqlite::Connection::open(file) else { return Vec::new() };
    let Ok(mut query) = database.prepare(&format!("SELECT value FROM {table} ORDER BY rowid")) else {
        return Vec::new();
    };
    let found = query.query_map([], |row| row.get(0)).map(|rows| rows.filter_map(Result::ok).collect());
    found.unwrap_or_default()
}

/// A screen, a database and the loop get the same three values; and whoever asks over HTTP the newest.
///
/// Requirement: R1-29, R0-14
#[test]
fn a_screen_a_database_and_the_loop_get_the_same_three_values() {
    let data = tempfile::tempdir().unwrap();
    let (screen, at) = sink("ws");
    let effector = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let shop = format!(
        "service: shop
monitor: {{ sensors: {{ x: push }} }}
analyze: {{ overload: {{ objective: x < 1000 }} }}
plan: [ {{ when: overload, do: [ {{ custom: {{ name: scale }} }} ], mode: act, cooldown: 100ms }} ]
execute: {{ scale: {{ http: {{ method: POST, url: \"{}/scale\" }} }} }}
",
        effector.url()
    );
    let occi = Occi::with(&shop, &["--occi-data", data.path().to_str().unwrap()]);
    occi.create(
        &Documents::sensor("s", 0.2)
            .collector("c", "urn:shop", 0.2, "Pushed", json!({ "out": "load" }))
            .with(
                "publisher#WebSocket",
                json!({ "input": "load", "url": format!("ws://{at}/"), "values": true }),
            )
            .with("publisher#SQLite", json!({ "input": "load", "database": "measured", "table": "load" }))
            .with("publisher#Action", json!({ "input": "load", "threshold": 80, "service": "shop" })),
    );
    assert_eq!(occi.state("/sensor/s"), "active");
    let file = data.path().join("measured.sqlite");
    for (n, value) in [81.0, 50.0, 82.0].into_iter().enumerate() {
        occi.push("sensor-s", "load", value);
        // An endpoint that everybody reaches: asked for, and written to a database.
        occi.daemon.wait_value("sensor-s", "load", value);
        wait_for("the row", || (rows(&file, "load").len() > n).then_some(()));
        let held = if value > 80.0 { "violated" } else { "ok" };
        let state = || occi.daemon.get("/v1/services/sensor-s/slos")[0]["state"].clone();
        wait_for("its judgement", || (state() == held).then_some(()));
        let acted = if n == 2 { 2 } else { 1 };
        wait_for("the loop", || (effector.got("POST").len() >= acted).then_some(()));
    }
    assert_eq!(rows(&file, "load"), [81.0, 50.0, 82.0]);
    wait_for("the screen", || (printed(&screen).len() >= 3).then_some(()));
    assert_eq!(printed(&screen), ["81", "50", "82"]);
    // The loop has acted on what was over, and says on what.
    let decisions = occi.daemon.get("/v1/decisions?service=sensor-s");
    let text = decisions.to_string();
    assert!(text.contains("81") && text.contains("82"), "{text}");
    assert_eq!(effector.got("POST").len(), 2, "acted when it was over");
}

/// What the user measures says that a machine has nothing to do; after three periods it is stopped.
///
/// Requirement: R1-51
#[test]
fn a_resource_that_its_user_says_is_idle_for_three_periods_is_stopped() {
    let worker = "service: worker
process: { command: [sleep, \"600\"] }
monitor: { sensors: { x: push } }
analyze: { idle: { objective: x < 1000 } }
plan: [ { when: idle, do: [ { stop: {} } ], mode: act } ]
execute: {}
";
    let occi = Occi::with(worker, &[]);
    let state = || {
        occi.daemon.get("/v1/services/worker")["process"]["state"].as_str().unwrap_or_default().to_string()
    };
    wait_for("the worker", || (state() == "running").then_some(()));
    let period = 1.0;
    occi.create(
        &Documents::sensor("s", period)
            .collector("c", "urn:worker", period, "Pushed", json!({ "out": "queries" }))
            .with(
                "aggregator#Expression",
                json!({ "instream": "queries", "outstream": "idle", "expression": "if queries < 1 { 1 } else { 0 }" }),
            )
            .with(
                "publisher#Action",
                json!({ "input": "idle", "threshold": 0.5, "periods": 3, "service": "worker", "alarm": "idle" }),
            ),
    );
    let push = |value: f64| {
        occi.push("sensor-s", "queries", value);
        occi.daemon.wait_value("sensor-s", "queries", value);
    };
    // Idle for a moment, and at work again.
    push(0.0);
    push(5.0);
    std::thread::sleep(Duration::from_secs_f64(4.0 * period));
    assert_eq!(state(), "running", "it was idle for a moment only");
    let begin = std::time::Instant::now();
    push(0.0);
    wait_for("the end of the worker", || (state() == "stopped").then_some(()));
    let passed = begin.elapsed().as_secs_f64();
    assert!(passed >= 3.0 * period, "stopped after {passed} s");
}

/// Requirement: R0-09
#[test]
fn which_metrics_how_preprocessed_and_how_retrieved_is_said_by_documents_only() {
    let fake = Fake::start("C1", &["cost=25", "threads=3"]);
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    let at = |property: &str| json!({ "out": "a", "url": format!("{}/{property}", fake.url) });
    let first = Documents::sensor("s", 0.2)
        .collector("c", "urn:shop", 0.2, "HttpProbe", at("cost"))
        .with("aggregator#EWMA", json!({ "instream": "a", "outstream": "b", "gain": 0 }))
        .shown("b", &dashboard);
    occi.create(&first);
    dashboard.wait("the cost", |value| value == 25.0);
    // Another metric.
    let other = Documents::sensor("s", 0.2).collector("c", "urn:shop", 0.2, "HttpProbe", at("threads"));
    occi.expect(200, "PUT", "/collector/c", &other.links[0]);
    dashboard.wait("the threads", |value| value == 3.0);
    // Another way to preprocess it.
    let double = json!({ "instream": "a", "outstream": "b", "expression": "2 * a" });
    let second = Documents::sensor("s", 0.2).with("aggregator#Expression", double.clone());
    occi.expect(200, "PUT", "/sensor/s", &second.clone().shown("b", &dashboard).resources[0]);
    dashboard.wait("the threads, doubled", |value| value == 6.0);
    // Another way to retrieve it.
    let (lines, to) = sink("tcp");
    let third = second.with("publisher#TCP", json!({ "input": "b", "address": to }));
    occi.expect(200, "PUT", "/sensor/s", &third.resources[0]);
    wait_for("a line", || printed(&lines).contains(&"6".to_string()).then_some(()));
}

/// Requirement: R0-11
#[test]
fn mixins_of_clients_extend_what_there_is_without_limit() {
    let fake = Fake::start("C1", &["load=7"]);
    let occi = Occi::start(&[]);
    let dashboard = Dashboard::new();
    let scheme = "http://acme.example/monitoring#";
    let own = |term: &str, depends: &str| json!({ "scheme": scheme, "term": term, "title": term, "location": format!("/acme/{term}/"), "depends": [depends] });
    let mut mixins = vec![
        own("shopload", &mixin("metric#HttpProbe")),
        own("twice", &mixin("aggregator#Expression")),
        own("screen", &mixin("publisher#SendUDP")),
    ];
    mixins.extend((0..300).map(|n| own(&format!("more{n}"), &mixin("aggregator#EWMA"))));
    occi.expect(200, "POST", "/-/", &json!({ "mixins": mixins }));
    let there = occi.get("/-/");
    let ours = there["mixins"].as_array().unwrap().iter().filter(|one| one["scheme"] == scheme).count();
    assert_eq!(ours, 303);
    // They do what they depend on, on resources of any kind.
    let mut document = Documents::sensor("s", 0.2)
        .collector(
            "c",
            "urn:anything",
            0.2,
            "HttpProbe",
            json!({ "out": "a", "url": format!("{}/load", fake.url) }),
        )
        .with("aggregator#Expression", json!({ "instream": "a", "outstream": "b", "expression": "2 * a" }))
        .shown("b", &dashboard);
    document.links[0]["mixins"] = json!([format!("{scheme}shopload")]);
    document.resources[0]["mixins"] = json!([format!("{scheme}twice"), format!("{scheme}screen")]);
    occi.create(&document);
    dashboard.wait("the load, twice", |value| value == 14.0);
}

/// Requirement: R0-13
#[test]
fn what_passes_a_pipe_of_processors_in_any_order_names_no_host() {
    let fake = Fake::start("C1", &["a=10", "b=20", "c=60"]);
    let occi = Occi::start(&[]);
    let hosts = ["alpha", "beta", "gamma"].map(|host| format!("urn:host:{host}.internal.example"));
    // (which processor comes first, second), or none that hides.
    let run = |id: &str, first: (&str, &str), second: (&str, &str)| {
        let web = Server::start(|_| (Duration::ZERO, 200, String::new()));
        let mut document = Documents::sensor(id, 0.2);
        for (host, property) in hosts.iter().zip(["a", "b", "c"]) {
            let what = json!({ "out": "x", "url": format!("{}/{property}", fake.url) });
            document = document.collector(&format!("{id}-{property}"), host, 0.2, "HttpProbe", what);
        }
        let document = document
            .with(&format!("aggregator#{}", first.0), json!({ "instream": "x", "outstream": first.1 }))
            .with(&format!("aggregator#{}", second.0), json!({ "instream": first.1, "outstream": second.1 }))
            .with("publisher#Webhook", json!({ "input": second.1, "url": format!("{}/in", web.url()) }));
        occi.create(&document);
        let published = || {
            let bodies: Vec<Value> =
                web.got("POST").iter().map(|got| serde_json::from_str(&got.body).unwrap()).collect();
            bodies.iter().any(|body| body["value"] == 60).then_some(bodies)
        };
        let bodies = wait_for("the greatest of three", published);
        occi.expect(200, "DELETE", &format!("/sensor/{id}"), &Value::Null);
        bodies
    };
    let names = |bodies: &[Value]| bodies.iter().any(|body| body.to_string().contains("internal.example"));
    let last = |bodies: &[Value]| bodies.last().unwrap()["value"].clone();
    let hidden = run("s1", ("Anonymise", "y"), ("Maximum", "z"));
    assert!(!names(&hidden) && hidden[0]["resource"] == "anonymous", "{hidden:?}");
    let other = run("s2", ("Maximum", "y"), ("Anonymise", "z"));
    assert!(!names(&other), "{other:?}");
    assert_eq!((last(&hidden), last(&other)), (json!(60), json!(60)), "each value is passed on by itself");
    let open = run("s3", ("Maximum", "y"), ("ArithmeticMean", "z"));
    assert!(names(&open), "without, they are named: {open:?}");
}

/// Requirement: R0-08
#[test]
fn a_resource_that_wants_to_be_monitored_is_made_with_its_monitoring() {
    let occi = Occi::start(&[]);
    let asked = json!({ "kind": COMPUTE, "id": "urn:uuid:web", "title": "web", "mixins": [mixin("template#Monitored")],
        "attributes": of("Monitored", &json!({ "metrics": "CPUPercent, MemoryUsed", "period": 0.2 })) });
    occi.expect(201, "POST", "/compute/", &asked);
    let compute = occi.get("/compute/web");
    assert!(!compute.to_string().contains("Monitored"), "it is a compute like others: {compute}");
    let sensors = occi.get("/sensor/");
    let sensor = &sensors["resources"][0];
    assert_eq!((&sensor["kind"], &sensor["title"]), (&json!(SENSOR), &json!("Monitoring of web")));
    let collector = &sensor["links"][0];
    assert_eq!(
        (&collector["kind"], &collector["target"]["location"]),
        (&json!(COLLECTOR), &json!("/compute/web"))
    );
    assert_eq!(collector["mixins"], json!([mixin("metric#CPUPercent"), mixin("metric#MemoryUsed")]));
    // Its values can be asked for at once, and published like those of any other.
    let place = sensor["location"].as_str().unwrap();
    let service = format!("sensor-{}", place.rsplit('/').next().unwrap());
    wait_for("a value", || occi.daemon.value(&service, "MemoryUsed").filter(|bytes| *bytes > 0.0));
    let dashboard = Dashboard::new();
    let udp = json!({ "input": "CPUPercent", "udpAddr": dashboard.at.to_string() });
    occi.expect(
        200,
        "POST",
        place,
        &json!({ "attributes": of("SendUDP", &udp), "mixins": [mixin("publisher#SendUDP")] }),
    );
    assert!((0.0..=100.0).contains(&dashboard.next()));
    // It goes with the resource.
    occi.expect(200, "DELETE", "/compute/web", &Value::Null);
    occi.expect(404, "GET", place, &Value::Null);
    assert_eq!(occi.daemon.call("GET", &format!("/v1/services/{service}"), None).0, 404);

    // The same at a place that the client chooses, and among others in one document.
    occi.expect(
        201,
        "PUT",
        "/compute/other",
        &json!({ "kind": COMPUTE, "mixins": [mixin("template#Monitored")] }),
    );
    let all = json!({ "resources": [{ "kind": COMPUTE, "id": "urn:uuid:third", "mixins": [mixin("template#Monitored")] }] });
    occi.expect(201, "POST", "/", &all);
    let sensors = occi.get("/sensor/");
    let targets: Vec<&Value> = sensors["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["links"][0]["target"]["location"])
        .collect();
    assert_eq!(targets.len(), 2);
    assert!(
        targets.contains(&&json!("/compute/other")) && targets.contains(&&json!("/compute/third")),
        "{targets:?}"
    );
    // Nothing is half made.
    let wrong = json!({ "kind": COMPUTE, "id": "urn:uuid:fourth", "mixins": [mixin("template#Monitored")],
        "attributes": of("Monitored", &json!({ "metrics": "NoSuchMetric" })) });
    let said = occi.expect(400, "POST", "/compute/", &wrong);
    assert!(said.contains("NoSuchMetric"), "{said}");
    occi.expect(404, "GET", "/compute/fourth", &Value::Null);
    // It is for what is new.
    let late = json!({ "kind": COMPUTE, "mixins": [mixin("template#Monitored")], "attributes": {} });
    occi.expect(201, "PUT", "/compute/plain", &json!({ "kind": COMPUTE }));
    occi.expect(400, "POST", "/compute/plain", &late);
}
