//! Exact texts, and what real clients send that the specifications do not foresee.

use homeostat::dialects::occi::draft::DraftLink;
use homeostat::dialects::occi::{
    Draft, End, Entity, Extension, MediaType, Output, Registry, Rendering, What, json, validate, xml,
};
use serde_json::json;

use super::{MONITORING, body, id, in_headers, monitoring, refused};

fn sensor() -> Entity {
    let collector = Entity {
        id: "urn:uuid:9a".into(),
        location: "/collector/9a".into(),
        kind: monitoring("collector"),
        mixins: vec![monitoring("metric")],
        attributes: [("occi.collector.period".to_string(), json!(60))].into(),
        title: None,
        summary: None,
        actions: Vec::new(),
        what: What::Link {
            source: End::at("/sensor/6f"),
            target: End {
                location: "/compute/1111".into(),
                kind: Some(id("http://schemas.ogf.org/occi/infrastructure#compute")),
            },
        },
    };
    Entity {
        id: "urn:uuid:6f".into(),
        location: "/sensor/6f".into(),
        kind: monitoring("sensor"),
        mixins: Vec::new(),
        attributes: [("occi.sensor.period".to_string(), json!(60))].into(),
        title: Some("Alarm, \"on\" overload".into()),
        summary: None,
        actions: Vec::new(),
        what: What::Resource { links: vec![collector] },
    }
}

const PLAIN: &str = "Category: sensor; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\"\r
X-OCCI-Attribute: occi.core.id=\"urn:uuid:6f\"\r
X-OCCI-Attribute: occi.core.title=\"Alarm, \\\"on\\\" overload\"\r
X-OCCI-Attribute: occi.sensor.period=60\r
Link: </compute/1111>; rel=\"http://schemas.ogf.org/occi/infrastructure#compute\"; self=\"/collector/9a\"; category=\"http://schemas.ogf.org/occi/monitoring#collector http://schemas.ogf.org/occi/monitoring#metric\"; occi.core.id=\"urn:uuid:9a\"; occi.collector.period=60\r
";

/// Requirement: R1-25
#[test]
fn a_sensor_in_text_is_exactly_this() {
    let output = Output::entity(MediaType::of(Rendering::Plain), &sensor()).unwrap();
    assert_eq!(output.body, PLAIN);
    assert_eq!(output.content_type, "text/plain");
    let output = Output::entity(MediaType::of(Rendering::Headers), &sensor()).unwrap();
    assert_eq!(output.body, "OK");
    let names: Vec<_> = output.headers.iter().map(|(n, _)| *n).collect();
    assert_eq!(names, ["Category", "X-OCCI-Attribute", "Link"]);
    let attributes = &output.headers[1].1;
    assert_eq!(
        attributes,
        "occi.core.id=\"urn:uuid:6f\", occi.core.title=\"Alarm, \\\"on\\\" overload\", occi.sensor.period=60"
    );
}

/// Requirement: R1-25
#[test]
fn a_sensor_in_json_is_exactly_this() {
    let expected = json!({
        "kind": format!("{MONITORING}sensor"),
        "id": "urn:uuid:6f",
        "location": "/sensor/6f",
        "title": "Alarm, \"on\" overload",
        "attributes": {"occi.sensor.period": 60},
        "links": [{
            "kind": format!("{MONITORING}collector"),
            "id": "urn:uuid:9a",
            "location": "/collector/9a",
            "mixins": [format!("{MONITORING}metric")],
            "attributes": {"occi.collector.period": 60},
            "source": {"location": "/sensor/6f"},
            "target": {"location": "/compute/1111", "kind": "http://schemas.ogf.org/occi/infrastructure#compute"}
        }]
    });
    assert_eq!(json::entity_value(&sensor()), expected);
}

/// Requirement: R1-23, R1-25
#[test]
fn the_creation_of_the_papers_sensor_is_read_from_headers() {
    let input = in_headers(&[
        ("content-type", "text/occi"),
        ("category", "sensor; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\""),
        (
            "x-occi-attribute",
            "occi.core.title=\"AlarmOnOverload\", occi.sensor.period=60, occi.sensor.timestart=600, occi.sensor.timestop=3600",
        ),
    ]);
    let draft = input.entity(&Registry::new(&[])).unwrap();
    assert_eq!(draft.kind, Some(monitoring("sensor")));
    assert_eq!(draft.title.as_deref(), Some("AlarmOnOverload"));
    let numbers: Vec<i64> = draft.attributes.values().map(|v| v.as_i64().unwrap()).collect();
    assert_eq!(numbers, [60, 600, 3600]);
}

#[test]
fn a_category_of_the_registry_in_text_is_exactly_this() {
    let registry = Registry::new(&[Extension::Monitoring]);
    let lines = |term: &str| {
        let category = registry.get(&monitoring(term)).unwrap();
        Output::categories(MediaType::of(Rendering::Plain), [category], "").body
    };
    assert_eq!(
        lines("collector"),
        "Category: collector; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"kind\"; title=\"Collector Link\"; \
         rel=\"http://schemas.ogf.org/occi/core#link\"; location=\"/collector/\"; attributes=\"occi.collector.accuracy \
         occi.collector.granularity occi.collector.period{required} occi.collector.periodspec\"\r\n"
    );
    assert_eq!(
        lines("metric"),
        "Category: metric; scheme=\"http://schemas.ogf.org/occi/monitoring#\"; class=\"mixin\"; title=\"Metric\"; location=\"/mixin/metric/\"\r\n"
    );
}

#[test]
fn line_ends_cases_quoted_numbers_missing_classes_and_the_old_rel_are_tolerated() {
    let text = "category: compute; scheme='x'\n";
    refused(body(Rendering::Plain, text).entity(&Registry::new(&[])), &["line 1", "scheme", "#"]);
    let text = "CATEGORY:compute;scheme=\"http://schemas.ogf.org/occi/infrastructure#\"\n\r\n  \n\
                X-OCCI-Attribute:occi.compute.memory=\"2\" , occi.compute.cores=007\r\n\
                X-OCCI-Attribute: occi.compute.hostname=4711\n";
    let registry = Registry::new(&Extension::ALL);
    let draft = body(Rendering::Plain, text).entity(&registry).unwrap();
    assert_eq!(draft.unclassed.len(), 1);
    let checked = validate::create(&registry, draft, None).unwrap();
    assert_eq!(
        checked.attributes,
        [
            ("occi.compute.cores".to_string(), json!(7)),
            ("occi.compute.hostname".to_string(), json!("4711")),
            ("occi.compute.state".to_string(), json!("inactive")),
            ("occi.compute.memory".to_string(), json!(2)),
        ]
        .into()
    );
    let text = "Category: my; scheme=\"http://me#\"; class=mixin; related=\"http://schemas.ogf.org/occi/core#resource\"; location=\"/my/\"";
    let categories = body(Rendering::Plain, text).categories(&registry).unwrap();
    assert_eq!((categories[0].class(), categories[0].location()), ("mixin", Some("/my/")));
}

#[test]
fn commas_semicolons_and_quotes_within_quotes_separate_nothing() {
    let input = in_headers(&[(
        "X-OCCI-Attribute",
        r#"a.b="x, y=\"z\"; <w>", c="C:\temp", d="\\", e=-1.5e3, f=true, g=word"#,
    )]);
    let values = input.entity(&Registry::new(&[])).unwrap().attributes;
    let found: Vec<_> = values.into_values().collect();
    assert_eq!(
        found,
        [
            json!("x, y=\"z\"; <w>"),
            json!("C:\\temp"),
            json!("\\"),
            json!(-1500.0),
            json!(true),
            json!("word")
        ]
    );
}

#[test]
fn links_and_actions_are_told_apart() {
    let text = "Link: </network/1>; rel=\"http://schemas.ogf.org/occi/infrastructure#network\"; self=\"/l/1\"; \
                category=\"http://schemas.ogf.org/occi/infrastructure#networkinterface\"; occi.networkinterface.mac=\"00:1\"\n\
                Link: </compute/1?action=start>; rel=\"http://schemas.ogf.org/occi/infrastructure/compute/action#start\"\n";
    let draft = body(Rendering::Plain, text).entity(&Registry::new(&[])).unwrap();
    assert_eq!(draft.actions, [id("http://schemas.ogf.org/occi/infrastructure/compute/action#start")]);
    let [DraftLink::Whole(link)] = draft.links.as_slice() else { panic!("{:?}", draft.links) };
    assert_eq!(link.location.as_deref(), Some("/l/1"));
    assert_eq!(link.target.as_ref().unwrap().location, "/network/1");
    assert_eq!(link.attributes["occi.networkinterface.mac"], "00:1");
}

#[test]
fn control_characters_forge_no_header_and_no_line() {
    let registry = Registry::new(&[]);
    let forged = [("X-OCCI-Attribute", "a=\"b\r\nSet-Cookie: c\"")];
    refused(in_headers(&forged).entity(&registry), &["X-OCCI-Attribute", "position 5", "U+000D"]);
    refused(
        body(Rendering::Plain, "X-OCCI-Attribute: a=\"\u{0}\"").entity(&registry),
        &["line 1", "position 22", "U+0000"],
    );
    for name in ["occi.core.id", "occi.core.source", "occi.core.target"] {
        let escaped = format!("{name}=\"/a\\u000d\\u000aLocation: /b\"");
        refused(in_headers(&[("X-OCCI-Attribute", &escaped)]).entity(&registry), &[name, "no URI"]);
        let nested = json!({"attributes": {name: "/a\r\nLocation: /b"}}).to_string();
        refused(body(Rendering::Json, &nested).entity(&registry), &[name, "no URI"]);
    }
    refused(json::entity(r#"{"links":["/a\nb"]}"#, &|_| false), &["links[0]", "no URI"]);
    let entity = Entity { title: Some("a\r\nX-OCCI-Location: /b".into()), ..sensor() };
    let output = Output::entity(MediaType::of(Rendering::Plain), &entity).unwrap();
    assert_eq!(output.body.lines().count(), PLAIN.lines().count());
    let headers = Output::entity(MediaType::of(Rendering::Headers), &entity).unwrap().headers;
    assert!(headers.iter().all(|(_, value)| !value.contains(|c: char| c.is_control())));
}

#[test]
fn what_is_wrong_in_text_is_named_with_its_place() {
    let registry = Registry::new(&[]);
    let wrong: [(&str, &[&str]); 12] = [
        ("Categori: a", &["line 1", "`Categori`", "expected `Category:`"]),
        ("hello", &["line 1", "no field name"]),
        ("\nCategory: a; class=\"kind\"", &["line 2", "position 11", "no scheme"]),
        ("Category: a; scheme=\"http://a\"", &["line 1", "does not end in `#`"]),
        ("Category: a b; scheme=\"http://a#\"", &["the term `a b`"]),
        ("Category: a; scheme=\"http://a#", &["position 21", "does not end"]),
        ("Category: a; scheme=\"http://a#\"; class=\"kin\"", &["`kin`", "kind, mixin or action"]),
        ("X-OCCI-Attribute: a", &["`a` has no value"]),
        ("X-OCCI-Attribute: a=", &["a value is missing"]),
        ("X-OCCI-Attribute: a b=5", &["no attribute name"]),
        ("X-OCCI-Attribute: a=5, a=6", &["`a` is given twice"]),
        ("Link: /a; rel=\"http://a#b\"", &["`/a` is no `<URI>`"]),
    ];
    for (text, words) in wrong {
        refused(body(Rendering::Plain, text).entity(&registry), words);
    }
    refused(body(Rendering::Headers, "").invocation(&registry), &["0 categories", "exactly one"]);
    refused(body(Rendering::UriList, "/a\na b").locations(&registry), &["line 2", "no URI"]);
}

/// The documents of the prototype: attributes nested, links as bare ids, ends as bare texts, a link that leads the other way.
#[test]
fn documents_of_the_prototype_are_read() {
    let sensor = r#"{"id":"urn:uuid:s1111","kind":"http://schemas.ogf.org/occi/monitoring#sensor",
        "mixins":["http.//schemas.ogf.org/infrastructure/compute#RMIMetricContainer"],
        "attributes":{"occi":{"sensor":{"period":3,"timebase":1386925386,"networkInterface":"lo"}},
        "com":{"example":{"occi":{"monitoring":{"SendUDP":{"udpAddr":"127.0.0.1:8888","input":"c"}}}}}},
        "links":["urn:uuid:c2345"]}"#;
    let draft = json::entity(sensor, &|_| false).unwrap();
    let names: Vec<_> = draft.attributes.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "com.example.occi.monitoring.SendUDP.input",
            "com.example.occi.monitoring.SendUDP.udpAddr",
            "occi.sensor.networkInterface",
            "occi.sensor.period",
            "occi.sensor.timebase"
        ]
    );
    assert_eq!(draft.links, [DraftLink::Reference("urn:uuid:c2345".into())]);
    let collector = r#"{"id":"urn:uuid:c2345","kind":"http://schemas.ogf.org/occi/monitoring#collector",
        "attributes":{"occi":{"collector":{"period":3}}},"source":"urn:uuid:1","target":"urn:uuid:s1111"}"#;
    let draft = json::entity(collector, &|_| false).unwrap();
    assert_eq!((draft.source, draft.target), (Some(End::at("urn:uuid:1")), Some(End::at("urn:uuid:s1111"))));
}

/// Requirement: R1-47
#[test]
fn one_json_document_carries_everything() {
    let text = json!({
        "kinds": [{"term": "probe", "scheme": "http://a#", "related": "http://schemas.ogf.org/occi/core#link"}],
        "mixins": [{"term": "tag", "scheme": "http://a#", "depends": [], "location": "/tag/"}],
        "actions": [{"term": "go", "scheme": "http://a#", "attributes": {"how": {"type": "number", "mutable": true}}}],
        "resources": [{"kind": "http://a#r", "attributes": {"a": {"b": {"c": 1}}, "m": {"k": 1}}}],
        "links": [{"source": {"location": "/a"}, "target": "/b"}, "/c"]
    });
    let document = json::document(&text.to_string(), &|name| name == "m").unwrap();
    assert_eq!(document.kinds[0].parent, Some(id("http://schemas.ogf.org/occi/core#link")));
    assert_eq!((document.mixins.len(), document.actions[0].attributes.len()), (1, 1));
    assert_eq!(
        document.resources[0].attributes,
        [("a.b.c".into(), json!(1)), ("m".into(), json!({"k": 1}))].into()
    );
    assert_eq!((document.links.len(), document.locations), (1, vec!["/c".to_string()]));
    let again = json::document(&json!({"kind": "http://a#r"}).to_string(), &|_| false).unwrap();
    assert_eq!(again.resources, [Draft { kind: Some(id("http://a#r")), ..Draft::default() }]);
}

#[test]
fn what_is_wrong_in_json_is_named_with_its_path() {
    let wrong: [(&str, &[&str]); 9] = [
        ("{", &["no JSON", "line 1"]),
        ("5", &["the body is a number"]),
        (r#"{"resources":[{"kind":5}]}"#, &["`resources[0].kind` is a number"]),
        (r#"{"resources":[],"sources":[]}"#, &["`sources` is unknown"]),
        (r#"{"kind":"http://a#b","color":1}"#, &["`color` is unknown"]),
        (r#"{"kind":"nothing"}"#, &["`kind`", "no `#`"]),
        (r#"{"attributes":{"a b":1}}"#, &["`a b` is no attribute name"]),
        (r#"{"attributes":{"a":{"b":1},"a.b":2}}"#, &["`a.b` is given twice"]),
        (r#"{"source":{"kind":"http://a#b"}}"#, &["`source.location` is missing"]),
    ];
    for (text, words) in wrong {
        refused(json::document(text, &|_| false), words);
    }
}

#[test]
fn a_manifest_in_xml_is_read() {
    let text = r#"<occi:manifest xmlns:occi="http://schemas.ogf.org/occi">
      <occi:resource id="urn:uuid:1" title="s">
        <occi:kind scheme="http://schemas.ogf.org/occi/monitoring#" term="sensor"/>
        <occi:link uri="urn:uuid:2"/><occi:attribute name="period" value="60"/>
      </occi:resource>
      <occi:link id="urn:uuid:2" source="urn:uuid:1" target="urn:uuid:3">
        <occi:kind scheme="http://schemas.ogf.org/occi/monitoring#" term="collector"/>
        <occi:attribute name="period" value="60"/>
      </occi:link>
    </occi:manifest>"#;
    let registry = Registry::new(&[Extension::Monitoring]);
    let mut document = body(Rendering::Xml, text).document(&registry).unwrap();
    let sensor = document.resources.remove(0);
    assert_eq!(sensor.links, [DraftLink::Reference("urn:uuid:2".into())]);
    let checked = validate::create(&registry, sensor, None).unwrap();
    assert_eq!(checked.attributes, [("occi.sensor.period".into(), json!(60))].into());
    let link = document.links.remove(0);
    assert_eq!(link.attributes.keys().next().unwrap(), "occi.collector.period");
    assert_eq!(link.target, Some(End::at("urn:uuid:3")));
}

#[test]
fn bombs_and_strangers_in_xml_are_refused() {
    let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><resource title="&c;"/>"#;
    refused(xml::document(bomb), &["document type"]);
    refused(xml::document(&"<manifest>".repeat(20)), &["deeper"]);
    refused(xml::document("<manifest xmlns='http://other'/>"), &["unknown here"]);
    refused(
        xml::document("<manifest>\n<resource><kind term='a'/></resource></manifest>"),
        &["line 2", "`scheme`"],
    );
}
