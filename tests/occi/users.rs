//! Users: whose what is, who sees and changes it, and what is not for whom.

use std::path::Path;

use serde_json::{Value, json};

use super::{Answer, COLLECTOR, COMPUTE, METRIC, Occi, PUBLISHER, SENSOR, datum, of};
use homeostat::dialects::occi::Extension;
use homeostat::dialects::occi::monitoring::Settings;
use homeostat::dialects::occi::users::Users;

const EWMA: &str = "http://example.com/occi/monitoring/aggregator#EWMA";

/// Two providers of measurements, two end users and a reseller; the token of each is the name, four times.
fn users(more: &str) -> Users {
    let token = |name: &str| name.repeat(16 / name.len() + 1);
    let text = format!(
        "users:
  ada: {{ role: provider, token: {} }}
  alice: {{ token: {}, sees: [ada] }}
  bob: {{ token: {} }}
  shop: {{ role: reseller, token: {}, sees: [alice, bob], changes: [bob] }}
{more}",
        token("ada"),
        token("alice"),
        token("bob"),
        token("shop")
    );
    Users::parse(&text).unwrap()
}

fn start(more: &str, data: Option<&Path>) -> Occi {
    let settings = Settings { users: Some(users(more)), ..Settings::default() };
    Occi::start_as(&Extension::ALL, data, settings)
}

/// A client of one of the users.
struct Client<'a> {
    occi: &'a Occi,
    bearer: String,
}

fn client<'a>(occi: &'a Occi, name: &str) -> Client<'a> {
    Client { occi, bearer: format!("Bearer {}", name.repeat(16 / name.len() + 1)) }
}

impl Client<'_> {
    fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let mut headers = super::JSON.to_vec();
        headers.push(("Authorization", &self.bearer));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.occi.ask(method, path, &headers, &body)
    }

    #[track_caller]
    fn expect(&self, status: u16, method: &str, path: &str, body: Value) -> Answer {
        let said = body.to_string();
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {said}: {answer:?}");
        answer
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.expect(200, "GET", path, Value::Null).json()
    }

    #[track_caller]
    fn make(&self, path: &str, body: Value) -> String {
        self.expect(201, "POST", path, body).place()
    }

    #[track_caller]
    fn sensor(&self) -> String {
        self.make("/sensor/", json!({ "kind": SENSOR, "attributes": { "occi.sensor.period": 0.1 } }))
    }

    /// The places of all resources that a collection shows.
    #[track_caller]
    fn all(&self, path: &str) -> Vec<String> {
        let found = self.get(path);
        let places = found["resources"].as_array().into_iter().flatten();
        places.map(|one| one["location"].as_str().unwrap().to_string()).collect()
    }
}

fn collector(sensor: &str, target: &str, metric: &str, label: &str) -> Value {
    json!({ "kind": COLLECTOR, "mixins": [format!("{METRIC}{metric}")],
        "source": { "location": sensor }, "target": { "location": target },
        "attributes": { "occi.collector.period": 0.1, of(metric, "out"): label } })
}

/// Requirement: R1-36
#[test]
fn who_says_no_name_is_nobody_and_hears_how_to_say_it() {
    let occi = start("", None);
    for headers in [vec![], vec![("Authorization", "Bearer no")], vec![("Authorization", "Basic !")]] {
        for (method, path) in [("GET", "/-/"), ("GET", "/sensor/"), ("POST", "/sensor/"), ("DELETE", "/")] {
            let answer = occi.ask(method, path, &headers, "");
            assert_eq!(answer.status, 401, "{answer:?}");
            let ways = answer.headers("www-authenticate");
            assert!(ways[0].starts_with("Bearer") && ways[1].starts_with("Basic"), "{answer:?}");
            assert!(answer.body.contains("Bearer TOKEN"), "{answer:?}");
        }
    }
    // Ym9iOmJvYmJvYmJvYmJvYmJvYmJvYg==: bob with his token.
    let basic = [("Authorization", "Basic Ym9iOmJvYmJvYmJvYmJvYmJvYmJvYg==")];
    let answer = occi.ask("GET", "/-/", &basic, "");
    assert_eq!((answer.status, answer.header("cache-control")), (200, "private, no-cache"), "{answer:?}");
}

/// Requirement: R1-36
#[test]
fn a_user_has_what_is_their_own_and_nothing_else_is_there() {
    let data = tempfile::tempdir().unwrap();
    let occi = start("", Some(data.path()));
    let (alice, bob, ada) = (client(&occi, "alice"), client(&occi, "bob"), client(&occi, "ada"));
    let hers = alice.sensor();
    let his = bob.sensor();
    let link = alice.make("/collector/", collector(&hers, "urn:x:1", "MemoryUsed", "a"));
    let tag = json!({ "mixins": [{ "scheme": "http://client.example/tags#", "term": "mine", "location": "/mine/" }] });
    alice.expect(200, "POST", "/-/", tag);
    alice.expect(200, "POST", "/mine/", json!([hers]));
    // Nothing of hers is there for him, whichever way he looks and whatever he does.
    assert_eq!(bob.all("/sensor/"), std::slice::from_ref(&his));
    assert_eq!(bob.all("/"), std::slice::from_ref(&his));
    assert_eq!(bob.get("/collector/"), json!({ "resources": [] }));
    assert!(!bob.get("/-/").to_string().contains("client.example"));
    bob.expect(404, "GET", "/mine/", Value::Null);
    for (method, body) in [("GET", Value::Null), ("POST", json!({ "title": "x" })), ("DELETE", Value::Null)] {
        for place in [&hers, &link] {
            bob.expect(404, method, place, body.clone());
        }
    }
    let body = json!({ "resources": [{ "kind": SENSOR, "location": hers, "attributes": { of("EWMA", "instream"): "a" } }] });
    bob.expect(400, "POST", "/mixin/EWMA/", body);
    // Not by its identifier, not as an end of a link, not by deleting everything, not by the mixin.
    let said = bob.expect(400, "POST", "/collector/", collector(&hers, &his, "MemoryUsed", "a"));
    assert!(said.body.contains("does not exist"), "{said:?}");
    let said = bob.expect(400, "POST", "/collector/", collector(&his, &hers, "MemoryUsed", "a"));
    assert!(said.body.contains("does not exist"), "{said:?}");
    let delete = json!({ "mixins": [{ "scheme": "http://client.example/tags#", "term": "mine" }] });
    bob.expect(404, "DELETE", "/-/", delete.clone());
    bob.expect(200, "DELETE", "/sensor/", Value::Null);
    bob.expect(200, "DELETE", "/", Value::Null);
    assert_eq!((bob.all("/"), alice.all("/sensor/")), (vec![], vec![hers.clone()]));
    // The provider sees everything, and what they make in her sensor is hers.
    assert_eq!(ada.all("/sensor/"), std::slice::from_ref(&hers));
    let more = ada.make("/collector/", collector(&hers, "urn:x:2", "DiskUsage", "b"));
    alice.expect(200, "GET", &more, Value::Null);
    assert_eq!(alice.get(&hers)["links"].as_array().unwrap().len(), 2);
    // No attribute says whose it is, and a restart changes nothing.
    assert!(!ada.get(&hers).to_string().contains("alice"));
    drop(occi);
    let occi = start("", Some(data.path()));
    let (alice, bob) = (client(&occi, "alice"), client(&occi, "bob"));
    assert_eq!((alice.all("/sensor/"), bob.all("/sensor/")), (vec![hers.clone()], vec![]));
    assert_eq!(alice.all("/mine/"), std::slice::from_ref(&hers));
    bob.expect(404, "GET", &more, Value::Null);
    alice.expect(200, "DELETE", "/-/", delete);
    alice.expect(200, "DELETE", &hers, Value::Null);
    alice.expect(404, "GET", &more, Value::Null);
}

/// Requirement: R1-36
#[test]
fn a_reseller_merges_measurements_of_two_and_changes_only_where_that_is_granted() {
    let occi = start("", None);
    let (alice, bob, shop) = (client(&occi, "alice"), client(&occi, "bob"), client(&occi, "shop"));
    let hers = alice.make("/compute/", json!({ "kind": COMPUTE }));
    let his = bob.make("/compute/", json!({ "kind": COMPUTE }));
    assert_eq!(shop.all("/compute/").len(), 2);
    assert_eq!(
        shop.expect(403, "POST", &hers, json!({ "title": "x" })).body,
        format!("`{hers}` is of somebody else; you may look at it\n")
    );
    shop.expect(403, "DELETE", &hers, Value::Null);
    shop.expect(403, "POST", &format!("{hers}?action=start"), Value::Null);
    shop.expect(200, "POST", &his, json!({ "title": "x" }));
    // One sensor over both; each of them knows nothing of it.
    let sensor = shop.sensor();
    for target in [&hers, &his] {
        shop.make("/collector/", collector(&sensor, target, "MemoryUsed", "a"));
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let to = socket.local_addr().unwrap().to_string();
    let mean = "http://example.com/occi/monitoring/aggregator#ArithmeticMean";
    let change = json!({ "mixins": [mean, format!("{PUBLISHER}SendUDP")], "attributes": {
        of("ArithmeticMean", "instream"): "a", of("ArithmeticMean", "outstream"): "b",
        of("SendUDP", "input"): "b", of("SendUDP", "udpAddr"): to } });
    shop.expect(200, "POST", &sensor, change);
    assert!(datum(&socket) > 0.0);
    assert_eq!((alice.all("/sensor/"), bob.all("/sensor/")), (vec![], vec![]));
    // Deleting all is deleting what one may.
    shop.expect(200, "DELETE", "/", Value::Null);
    assert_eq!((alice.all("/compute/"), bob.all("/compute/")), (vec![hers], vec![]));
}

/// Requirement: R1-37
#[test]
fn a_metric_that_is_denied_is_hidden_and_the_aggregate_of_it_is_seen() {
    let occi = start("deny: { user: [CPUPercent] }", None);
    let (alice, ada) = (client(&occi, "alice"), client(&occi, "ada"));
    // The provider's sensor, which alice sees: the aggregate, and not what it is made of.
    let sensor = ada.sensor();
    let raw = ada.make("/collector/", collector(&sensor, "urn:x:1", "CPUPercent", "raw"));
    let body = json!({ "mixins": [EWMA], "attributes": { of("EWMA", "instream"): "raw", of("EWMA", "outstream"): "smooth" } });
    ada.expect(200, "POST", &sensor, body);
    let seen = alice.get(&sensor);
    assert_eq!(seen["attributes"][of("EWMA", "outstream")], "smooth", "{seen}");
    assert!(!seen.to_string().contains("CPUPercent"), "{seen}");
    assert!(!alice.get(&raw).to_string().contains("CPUPercent"));
    assert!(ada.get(&raw).to_string().contains("CPUPercent"));
    for headers in [("Accept", "text/plain"), ("Accept", "application/occi+xml")] {
        let answer = occi.ask("GET", &sensor, &[headers, ("Authorization", &alice.bearer)], "");
        assert!(answer.status == 200 && !answer.body.contains("CPUPercent"), "{answer:?}");
    }
    // It cannot be guessed by a filter either.
    let filter = format!("{}=\"raw\"", of("CPUPercent", "out"));
    let found = |client: &Client<'_>| {
        let headers = [
            ("Authorization", client.bearer.as_str()),
            ("X-OCCI-Attribute", &filter),
            ("Accept", "text/uri-list"),
        ];
        occi.ask("GET", "/collector/", &headers, "").body
    };
    assert!(found(&ada).contains(&raw) && !found(&alice).contains(&raw));
    // It is not offered and cannot be used: by its name, by its attribute, by its collection, by a template, by a mixin of one's own.
    let offered = |client: &Client<'_>| {
        client.get("/-/")["mixins"].as_array().unwrap().iter().any(|mixin| mixin["term"] == "CPUPercent")
    };
    assert!(offered(&ada) && !offered(&alice));
    assert!(!alice.get("/-/?category=CPUPercent").to_string().contains("CPUPercent"));
    alice.expect(404, "GET", "/mixin/CPUPercent/", Value::Null);
    let own = alice.sensor();
    let denied = alice.expect(403, "POST", "/collector/", collector(&own, "urn:x:1", "CPUPercent", "a"));
    assert!(denied.body.contains("metric#CPUPercent` is not for you"), "{denied:?}");
    let mut implied = collector(&own, "urn:x:1", "CPUPercent", "a");
    implied["mixins"] = json!([]);
    alice.expect(403, "POST", "/collector/", implied);
    let template = json!({ "kind": SENSOR, "mixins": ["http://example.com/occi/monitoring/template#CPUAlarm"],
        "attributes": { of("CPUAlarm", "target"): "urn:x:1", of("CPUAlarm", "email"): "a@example.com" } });
    alice.expect(403, "POST", "/sensor/", template);
    let tag = json!({ "mixins": [{ "scheme": "http://client.example/tags#", "term": "mine", "depends": [format!("{METRIC}CPUPercent")] }] });
    alice.expect(403, "POST", "/-/", tag);
    alice.make("/collector/", collector(&own, "urn:x:1", "MemoryUsed", "a"));
    // What the provider put into her sensor cannot be tapped, and can be removed.
    let planted = ada.make("/collector/", collector(&own, "urn:x:1", "CPUPercent", "raw"));
    let tap = json!({ "mixins": [format!("{PUBLISHER}Log")], "attributes": { of("Log", "in_msg"): "raw" } });
    let refused = alice.expect(403, "POST", &own, tap.clone());
    assert!(!refused.body.contains("CPUPercent"), "{refused:?}");
    alice.expect(403, "POST", &planted, json!({ "mixins": [format!("{METRIC}MemoryUsed")] }));
    alice.expect(200, "DELETE", &planted, Value::Null);
    alice.expect(
        200,
        "POST",
        &own,
        json!({ "mixins": [format!("{PUBLISHER}Log")], "attributes": { of("Log", "in_msg"): "a" } }),
    );
    // What only operators may by the native API is for providers alone, unless somebody is allowed to.
    let action =
        json!({ "mixins": [format!("{PUBLISHER}Action")], "attributes": { of("Action", "input"): "a" } });
    alice.expect(403, "POST", &own, action);
}

/// Requirement: R1-37
#[test]
fn a_label_that_becomes_what_is_denied_is_delivered_no_more() {
    let data = tempfile::tempdir().unwrap();
    let occi = start("deny: { user: [CPUPercent] }", Some(data.path()));
    let (alice, ada) = (client(&occi, "alice"), client(&occi, "ada"));
    let low = ada.sensor();
    let raw = ada.make("/collector/", collector(&low, "urn:x:1", "CPUPercent", "raw"));
    let body = json!({ "mixins": [EWMA], "attributes": { of("EWMA", "instream"): "raw", of("EWMA", "outstream"): "smooth" } });
    ada.expect(200, "POST", &low, body);
    let hers = alice.sensor();
    let takes = |label: &str| {
        json!({ "kind": COLLECTOR, "source": { "location": hers }, "target": { "location": low },
            "attributes": { "occi.collector.period": 0.1, of("Label", "label"): label, of("Label", "out"): "a" } })
    };
    alice.expect(403, "POST", "/collector/", takes("raw"));
    alice.make("/collector/", takes("smooth"));
    let log = json!({ "mixins": [format!("{PUBLISHER}Log")], "attributes": { of("Log", "in_msg"): "a" } });
    alice.expect(200, "POST", &hers, log);
    let state = || alice.get(&hers)["attributes"][of("Status", "state")].clone();
    assert_eq!(state(), "active");
    // The same label, and now it is what she may not have.
    ada.expect(200, "DELETE", "/mixin/EWMA/", Value::Null);
    ada.expect(200, "POST", &raw, json!({ "attributes": { of("CPUPercent", "out"): "smooth" } }));
    assert_eq!(state(), "incomplete");
    // And back.
    ada.expect(200, "POST", &raw, json!({ "attributes": { of("CPUPercent", "out"): "raw" } }));
    let body = json!({ "mixins": [EWMA], "attributes": { of("EWMA", "instream"): "raw", of("EWMA", "outstream"): "smooth" } });
    ada.expect(200, "POST", &low, body);
    assert_eq!(state(), "active");
}

/// Requirement: R1-37
#[test]
fn what_an_expression_names_is_not_looked_for_behind_labels() {
    let occi = start("deny: { user: [CPUPercent] }", None);
    let (alice, ada) = (client(&occi, "alice"), client(&occi, "ada"));
    let low = ada.sensor();
    ada.make("/collector/", collector(&low, "urn:x:1", "CPUPercent", "raw"));
    let body = json!({ "mixins": [EWMA], "attributes": { of("EWMA", "instream"): "raw", of("EWMA", "outstream"): "smooth" } });
    ada.expect(200, "POST", &low, body);
    let hers = alice.sensor();
    let mut own = collector(&hers, "urn:x:1", "MemoryUsed", "a");
    own["id"] = "urn:uuid:own".into();
    let link = alice.make("/collector/", own);
    // What policies call what is behind these collectors follows from the identifiers, which she chooses.
    alice.make("/collector/", json!({ "kind": COLLECTOR, "id": "urn:uuid:tap", "source": { "location": hers }, "target": { "location": low },
        "attributes": { "occi.collector.period": 0.1, of("Label", "label"): "smooth", of("Label", "out"): "b" } }));
    let key = |id: &str| blake3::hash(id.as_bytes()).to_hex()[..8].to_string();
    let (below, sensor) = (format!("below_{}.raw", key("tap")), format!("MemoryUsed_{}", key("own")));
    let expression = |incoming: &str, text: &str| {
        json!({ "mixins": ["http://example.com/occi/monitoring/aggregator#Expression"], "attributes": {
            of("Expression", "instream"): incoming, of("Expression", "outstream"): "c", of("Expression", "expression"): text } })
    };
    for (incoming, name) in [
        ("a", &*below),
        (&*below, &*below),
        ("a", "acts_on.raw"),
        ("acts_on.raw", "acts_on.raw"),
        ("a", &*sensor),
    ] {
        let out = json!({ "attributes": { of("MemoryUsed", "out"): incoming } });
        alice.expect(200, "POST", &link, out);
        let answer = alice.expect(400, "POST", &hers, expression(incoming, name));
        assert!(answer.body.contains("is no label in `instream`"), "{name} of {incoming}: {answer:?}");
    }
    alice.expect(200, "POST", &link, json!({ "attributes": { of("MemoryUsed", "out"): "a" } }));
    alice.expect(200, "POST", &hers, expression("a, b", "a + b"));
}

#[test]
fn names_in_deny_and_allow_that_mean_nothing_are_known() {
    use homeostat::dialects::occi::Registry;
    use homeostat::dialects::occi::monitoring::Providers;
    let mut registry = Registry::new(&Extension::ALL);
    Providers::new(&Settings::default().names).register(&mut registry).unwrap();
    let users = users("deny: { user: [CPUPercnt, \"metric#Ping\", EWMA], reseller: [none] }");
    assert_eq!(users.unknown(&registry).collect::<Vec<_>>(), ["CPUPercnt", "none"]);
    let token = "a".repeat(16);
    let empty = Users::parse(&format!("users: {{ a: {{ token: {token}, deny: [''] }} }}")).unwrap_err();
    assert!(empty.contains("an empty name"), "{empty}");
}

/// Requirement: R1-36
#[test]
fn the_command_line_takes_a_file_of_users_that_nobody_else_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = super::support::policy("service: none\n");
    let file = dir
        .path()
        .parent()
        .unwrap()
        .join(format!("{}-users", dir.path().file_name().unwrap().to_str().unwrap()));
    std::fs::write(&file, "users: { ada: { role: provider, token: adaadaadaadaadaada } }\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let words = ["--occi", "127.0.0.1:0", "--occi-users", file.to_str().unwrap()];
    let run = [&["run", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"], &words[..]].concat();
    let said = super::support::homeostat(&run, None);
    assert!(said.code == 2 && said.err.contains("chmod 600"), "{said:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut daemon = super::support::Daemon::start(dir.path(), &words);
    let to: std::net::SocketAddr = daemon.process.word_after("occi=").parse().unwrap();
    assert_eq!(super::support::request(to, "GET", "/-/", "").unwrap().0, 401);
    std::fs::remove_file(&file).unwrap();
}

/// Requirement: R1-05
#[test]
fn in_strict_mode_the_time_base_is_the_servers_and_start_and_stop_are_required() {
    let settings = Settings { strict: true, ..Settings::default() };
    let occi = Occi::start_as(&Extension::ALL, None, settings);
    let all = occi.get("/-/");
    let sensor = super::category(&all, "kinds", SENSOR);
    let base = &sensor["attributes"]["occi.sensor.timebase"];
    assert_eq!((&base["mutable"], &base["required"]), (&json!(false), &json!(true)), "{sensor}");
    let body = |more: Value| {
        let mut attributes =
            json!({ "occi.sensor.period": 60, "occi.sensor.timestart": 600, "occi.sensor.timestop": 3600 });
        for (name, value) in more.as_object().unwrap() {
            attributes[name] = value.clone();
        }
        attributes.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        json!({ "kind": SENSOR, "attributes": attributes })
    };
    for (more, said) in [
        (json!({ "occi.sensor.timebase": 1386925386 }), "`occi.sensor.timebase`"),
        (json!({ "occi.sensor.timestart": null }), "`occi.sensor.timestart`"),
        (json!({ "occi.sensor.timestop": null }), "`occi.sensor.timestop`"),
    ] {
        let answer = occi.expect(400, "POST", "/sensor/", body(more));
        assert!(answer.body.contains(said), "{answer:?}");
    }
    let place = occi.expect(201, "POST", "/sensor/", body(json!({}))).place();
    let whole = occi.get(&place);
    let base = whole["attributes"]["occi.sensor.timebase"].as_u64().unwrap();
    assert!(base.abs_diff(super::now()) <= 5, "{base}");
    let other = json!({ "attributes": { "occi.sensor.timebase": base + 1 } });
    let answer = occi.expect(400, "POST", &place, other);
    assert!(answer.body.contains("only the server sets it"), "{answer:?}");
    // What the server said may be sent back.
    occi.expect(200, "PUT", &place, whole);
    occi.expect(200, "POST", &place, json!({ "attributes": { "occi.sensor.timestop": 7200 } }));
    // What is made with a resource is complete as well.
    let watched =
        json!({ "kind": COMPUTE, "mixins": ["http://example.com/occi/monitoring/template#Monitored"] });
    occi.expect(201, "POST", "/compute/", watched);
    assert_eq!(occi.get("/sensor/")["resources"].as_array().unwrap().len(), 2);
}

/// Requirement: R1-26
#[test]
fn a_change_is_made_only_to_what_the_client_has_seen() {
    let occi = Occi::start();
    let made = occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE }));
    let place = made.place();
    let with = |method: &str, name: &str, tag: &str, body: &str| {
        let headers = [super::JSON, &[(name, tag)]].concat();
        occi.ask(method, &place, &headers, body)
    };
    let tag = made.header("etag").to_string();
    assert!(!tag.is_empty(), "{made:?}");
    let changed = with("POST", "If-Match", &tag, r#"{ "title": "x" }"#);
    assert_eq!(changed.status, 200, "{changed:?}");
    let new = changed.header("etag").to_string();
    assert_ne!(new, tag);
    let late = with("POST", "If-Match", &tag, r#"{ "title": "y" }"#);
    assert!(late.status == 412 && late.body.contains("If-Match"), "{late:?}");
    assert_eq!(with("DELETE", "If-Match", &tag, "").status, 412);
    assert_eq!(with("PUT", "If-None-Match", "*", r#"{ "title": "y" }"#).status, 412);
    assert_eq!(with("POST", "If-None-Match", &new, r#"{ "title": "y" }"#).status, 412);
    assert_eq!(occi.get(&place)["title"], "x");
    // Any rendering of it will do, one of several, and whatever it is.
    let lines = occi.ask("GET", &place, &[], "").header("etag").to_string();
    assert_ne!(lines, new);
    assert_eq!(with("PUT", "If-Match", &format!("\"old\", {lines}"), r#"{ "title": "y" }"#).status, 200);
    assert_eq!(with("POST", "If-Match", "*", r#"{ "title": "z" }"#).status, 200);
    let action = format!("{place}?action=start");
    assert_eq!(occi.ask("POST", &action, &[("If-Match", &new)], "").status, 412);
    // Of many who have seen the same, one is first.
    let seen = occi.expect(200, "GET", &place, Value::Null).header("etag").to_string();
    let first = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let (with, seen) = (&with, &seen);
                    move || {
                        with("POST", "If-Match", seen, &json!({ "title": format!("by {n}") }).to_string())
                            .status
                    }
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).filter(|status| *status == 200).count()
    });
    assert_eq!(first, 1);
    // What is not there yet.
    let (absent, body) = ("/compute/new", json!({ "kind": COMPUTE }).to_string());
    let put = |name: &str, tag: &str| {
        occi.ask("PUT", absent, &[super::JSON, &[(name, tag)]].concat(), &body).status
    };
    assert_eq!(put("If-Match", "*"), 412);
    assert_eq!((put("If-None-Match", "*"), put("If-None-Match", "*")), (201, 412));
    let now = occi.expect(200, "GET", &place, Value::Null).header("etag").to_string();
    assert_eq!(with("DELETE", "If-Match", &now, "").status, 200);
}
