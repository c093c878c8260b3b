//! What may be created and changed, and why the rest may not.

use homeostat::dialects::occi::extensions::{infrastructure, monitoring as extension};
use homeostat::dialects::occi::{
    Attribute, Category, Checked, Draft, Entity, Extension, Fault, Filter, Invocation, Kind, ProviderMixin,
    Registry, Role, What, json, validate,
};
use serde_json::{Value, json};

use super::{id, monitoring, refused};

const GAIN: &str = "com.example.EWMA.gain";

fn registry() -> Registry {
    let mut registry = Registry::new(&Extension::ALL);
    let ewma = ProviderMixin::new(id("http://example.com/aggregator#EWMA"), "EWMA", extension::aggregator())
        .with(GAIN, Attribute::number().default_value(16), Role::Control)
        .with("com.example.EWMA.instream", Attribute::text().required(), Role::In);
    registry.add_provider(ewma).unwrap();
    registry
}

fn draft(value: Value) -> Draft {
    json::entity(&value.to_string(), &|_| false).unwrap()
}

fn created(value: Value) -> Result<Checked, Fault> {
    validate::create(&registry(), draft(value), None)
}

fn sensor(attributes: Value) -> Value {
    json!({"kind": monitoring("sensor").as_str(), "attributes": attributes})
}

fn entity(checked: Checked) -> Entity {
    Entity {
        id: "urn:uuid:1".into(),
        location: "/sensor/1".into(),
        kind: checked.kind,
        mixins: checked.mixins,
        attributes: checked.attributes,
        title: checked.title,
        summary: checked.summary,
        actions: Vec::new(),
        what: What::Resource { links: Vec::new() },
    }
}

/// Requirement: R1-03
#[test]
fn a_sensor_needs_a_period_that_is_a_number() {
    refused(created(sensor(json!({}))), &["`occi.sensor.period`", "required", "a number"]);
    refused(
        created(sensor(json!({"occi.sensor.period": "often"}))),
        &["`occi.sensor.period`", "\"often\"", "a number"],
    );
    refused(created(sensor(json!({"occi.sensor.period": -1}))), &["at least 0"]);
    let checked = created(sensor(json!({"occi.sensor.period": "60"}))).unwrap();
    assert_eq!(checked.attributes["occi.sensor.period"], json!(60));
}

/// Requirement: R1-04, R1-08
#[test]
fn the_papers_optional_attributes_are_taken_and_the_time_base_in_both_forms() {
    let said = json!({"occi.sensor.period": 60, "occi.sensor.periodspec": "1,1", "occi.sensor.timespec": "x",
        "occi.sensor.timebase": 1386925386, "occi.sensor.timestart": 600});
    let checked = created(sensor(said.clone())).unwrap();
    assert_eq!(json!(checked.attributes), said);
    let said = json!({"occi.sensor.period": 60, "occi.sensor.timebase": "2013-12-13T09:03:06Z"});
    assert_eq!(json!(created(sensor(said.clone())).unwrap().attributes), said);
}

/// Requirement: R1-16
#[test]
fn a_bare_sensor_has_nothing_but_timing() {
    let wrong = sensor(json!({"occi.sensor.period": 60, "occi.sensor.colour": "red"}));
    refused(created(wrong), &["`occi.sensor.colour`", "monitoring#sensor"]);
    let mut with_gain = sensor(json!({"occi.sensor.period": 60, GAIN: 1, "com.example.EWMA.instream": "a"}));
    refused(created(with_gain.clone()), &[GAIN, "the mixin `http://example.com/aggregator#EWMA` has it"]);
    with_gain["mixins"] = json!(["http://example.com/aggregator#EWMA"]);
    assert!(created(with_gain).is_ok());
}

/// Requirement: R1-10
#[test]
fn a_tag_applies_to_its_kind_only_also_through_what_depends_on_it() {
    let wrong = |mixin: &str| {
        let mut value = sensor(json!({"occi.sensor.period": 60}));
        value["mixins"] = json!([mixin]);
        created(value)
    };
    refused(wrong("http://schemas.ogf.org/occi/monitoring#metric"), &["metric", "collector", "and not to"]);
    refused(wrong("http://schemas.ogf.org/occi/monitoring/collector#metric"), &["metric"]);
    refused(wrong("http://example.com/nothing#x"), &["unknown"]);
    assert!(wrong("http://schemas.ogf.org/occi/monitoring/sensor#publisher").is_ok());
    let collector = json!({"kind": monitoring("collector").as_str(), "source": "/s", "target": "/c",
        "mixins": ["http://example.com/aggregator#EWMA"],
        "attributes": {"occi.collector.period": 1, "com.example.EWMA.instream": "a"}});
    refused(created(collector), &["EWMA", "by `http://schemas.ogf.org/occi/monitoring#aggregator`"]);
}

#[test]
fn the_mixins_default_comes_before_the_kinds() {
    let mut registry = registry();
    let defaults = |name: &str, value: i64| {
        ProviderMixin::new(id(name), "template", extension::aggregator()).with(
            "occi.sensor.period",
            Attribute::number().required().default_value(value),
            Role::Control,
        )
    };
    registry.add_provider(defaults("http://example.com/tpl#five", 5)).unwrap();
    registry.add_provider(defaults("http://example.com/tpl#six", 6)).unwrap();
    let period = |mixins: Value| {
        let draft = draft(json!({"kind": monitoring("sensor").as_str(), "mixins": mixins}));
        validate::create(&registry, draft, None).unwrap().attributes["occi.sensor.period"].clone()
    };
    assert_eq!(period(json!(["http://example.com/tpl#five"])), 5);
    assert_eq!(period(json!(["http://example.com/tpl#five", "http://example.com/tpl#six"])), 6);
}

#[test]
fn what_is_immutable_no_client_sets() {
    let compute =
        json!({"kind": infrastructure::compute().as_str(), "attributes": {"occi.compute.state": "active"}});
    refused(created(compute), &["`occi.compute.state`", "immutable"]);
    let compute = json!({"kind": infrastructure::compute().as_str()});
    let mut current = entity(created(compute).unwrap());
    current.attributes.insert("occi.compute.state".into(), json!("active"));
    let registry = registry();
    let put = |state: &str| {
        let said = draft(json!({"attributes": {"occi.compute.state": state, "occi.compute.cores": 2}}));
        validate::replace(&registry, &current, said)
    };
    refused(put("inactive"), &["immutable"]);
    let same = put("active").unwrap();
    assert_eq!(
        (&same.attributes["occi.compute.state"], &same.attributes["occi.compute.cores"]),
        (&json!("active"), &json!(2))
    );
}

#[test]
fn an_update_keeps_what_it_does_not_say_and_a_replacement_does_not() {
    let registry = registry();
    let mut whole = sensor(
        json!({"occi.sensor.period": 60, "occi.sensor.timestart": 600, "com.example.EWMA.instream": "a"}),
    );
    whole["mixins"] = json!(["http://example.com/aggregator#EWMA"]);
    whole["title"] = json!("t");
    let current = entity(created(whole).unwrap());
    let update = |value: Value| validate::update(&registry, &current, draft(value));
    let next =
        update(json!({"attributes": {"occi.sensor.period": 30, "occi.sensor.timestart": null}})).unwrap();
    assert_eq!(
        json!(next.attributes),
        json!({GAIN: 16, "com.example.EWMA.instream": "a", "occi.sensor.period": 30})
    );
    assert_eq!((next.title.as_deref(), next.mixins.len()), (Some("t"), 1));
    let tagged =
        update(json!({"mixins": ["http://schemas.ogf.org/occi/monitoring/sensor#publisher"]})).unwrap();
    assert_eq!(tagged.mixins, [id("http://example.com/aggregator#EWMA"), extension::publisher()]);
    refused(
        update(json!({"attributes": {"occi.sensor.period": null}})),
        &["`occi.sensor.period`", "required"],
    );
    refused(update(json!({"kind": monitoring("collector").as_str()})), &["cannot become"]);
    refused(update(json!({"target": "/a"})), &["is a resource"]);
    let next =
        validate::replace(&registry, &current, draft(sensor(json!({"occi.sensor.period": 5})))).unwrap();
    assert_eq!(json!(next.attributes), json!({"occi.sensor.period": 5}));
    assert_eq!((next.title, next.mixins.len()), (None, 0));
}

#[test]
fn links_have_ends_and_resources_have_none() {
    let collector = |ends: Value| {
        let mut value =
            json!({"kind": monitoring("collector").as_str(), "attributes": {"occi.collector.period": 1}});
        value.as_object_mut().unwrap().extend(ends.as_object().unwrap().clone());
        created(value)
    };
    refused(collector(json!({"source": "/a"})), &["no target"]);
    refused(collector(json!({"target": "/a"})), &["no source"]);
    assert!(collector(json!({"source": "/a", "target": "/b"})).is_ok());
    let mut with_ends = sensor(json!({"occi.sensor.period": 1}));
    with_ends["source"] = json!("/a");
    refused(created(with_ends), &["is a resource"]);
    let mut inline = sensor(json!({"occi.sensor.period": 1}));
    inline["links"] = json!([{"kind": monitoring("collector").as_str(), "target": "/b", "attributes": {"occi.collector.period": 1}}, "/l"]);
    let checked = created(inline.clone()).unwrap();
    assert_eq!(
        (checked.links[0].target.as_ref().unwrap().location.as_str(), checked.references),
        ("/b", vec!["/l".to_string()])
    );
    inline["links"][0]["attributes"] = json!({});
    refused(created(inline), &["`occi.collector.period`", "required"]);
}

#[test]
fn an_entity_belongs_into_the_collection_of_its_kind() {
    let registry = registry();
    let create = |value: Value, kind| validate::create(&registry, draft(value), Some(&kind));
    assert!(create(json!({"attributes": {"occi.sensor.period": 1}}), extension::sensor()).is_ok());
    refused(create(sensor(json!({})), infrastructure::compute()), &["here belongs", "compute"]);
    refused(created(json!({})), &["no kind"]);
    refused(created(json!({"kind": "http://schemas.ogf.org/occi/core#entity"})), &["abstract"]);
    refused(created(json!({"kind": extension::metric().as_str()})), &["class mixin"]);
}

/// Requirement: R0-25
#[test]
fn a_sub_typed_sensor_inherits_and_adds() {
    let mut registry = registry();
    let kind = Kind {
        id: id("http://example.com/occi#watchful"),
        title: None,
        parent: Some(extension::sensor()),
        attributes: [("com.example.room".to_string(), Attribute::text().required())].into(),
        actions: Vec::new(),
        location: Some("/watchful/".into()),
    };
    registry.add_category(Category::Kind(kind)).unwrap();
    let said = json!({"kind": "http://example.com/occi#watchful", "mixins": [extension::publisher().as_str()],
        "attributes": {"com.example.room": "A", "occi.sensor.period": 1}});
    assert!(validate::create(&registry, draft(said.clone()), Some(&extension::sensor())).is_ok());
    let mut lacking = said;
    lacking["attributes"] = json!({"com.example.room": "A"});
    refused(validate::create(&registry, draft(lacking), None), &["`occi.sensor.period`"]);
}

#[test]
fn an_action_is_called_with_what_it_takes() {
    let registry = registry();
    let compute = entity(created(json!({"kind": infrastructure::compute().as_str()})).unwrap());
    let call = |action: &str, attributes: Value| {
        let attributes = serde_json::from_value(attributes).unwrap();
        validate::call(&registry, &compute, Invocation { action: id(action), attributes })
    };
    let of_compute = |term: &str| format!("{}{term}", infrastructure::COMPUTE_ACTIONS);
    assert!(call(&of_compute("stop"), json!({"method": "graceful"})).is_ok());
    assert!(call(&of_compute("stop"), json!({})).is_ok());
    refused(call(&of_compute("stop"), json!({"method": "gently"})), &["`method`", "graceful"]);
    refused(call(&of_compute("stop"), json!({"force": true})), &["no attribute `force`"]);
    refused(call(&of_compute("explode"), json!({})), &["unknown"]);
    refused(call(&format!("{}up", infrastructure::NETWORK_ACTIONS), json!({})), &["have no action"]);
}

#[test]
fn what_a_mixin_brought_goes_with_it() {
    let registry = registry();
    let mut whole = sensor(json!({"occi.sensor.period": 60, "com.example.EWMA.instream": "a"}));
    whole["mixins"] = json!(["http://example.com/aggregator#EWMA"]);
    let current = entity(created(whole).unwrap());
    let rest = validate::without(&registry, &current, &id("http://example.com/aggregator#EWMA")).unwrap();
    assert_eq!((json!(rest.attributes), rest.mixins.len()), (json!({"occi.sensor.period": 60}), 0));
    let absent = validate::without(&registry, &current, &extension::publisher()).unwrap_err();
    assert_eq!(absent.kind.status(), 404);
}

#[test]
fn a_filter_asks_for_kinds_mixins_and_values() {
    let registry = registry();
    let mut whole = sensor(json!({"occi.sensor.period": 60, "com.example.EWMA.instream": "a"}));
    whole["mixins"] = json!(["http://example.com/aggregator#EWMA"]);
    whole["title"] = json!("t");
    let sensor = entity(created(whole).unwrap());
    let filter = |categories: &[&str], values: Value| {
        let categories = categories.iter().map(|c| id(c)).collect();
        Filter { categories, attributes: serde_json::from_value(values).unwrap() }.matches(&registry, &sensor)
    };
    assert!(filter(&[], json!({})));
    assert!(filter(
        &["http://schemas.ogf.org/occi/core#resource", "http://example.com/aggregator#EWMA"],
        json!({})
    ));
    assert!(filter(
        &["http://schemas.ogf.org/occi/monitoring/sensor#aggregator"],
        json!({"occi.sensor.period": "60"})
    ));
    assert!(!filter(&["http://schemas.ogf.org/occi/monitoring#publisher"], json!({})));
    assert!(filter(&[], json!({"occi.core.title": "t", "com.example.EWMA.gain": 16})));
    assert!(!filter(&[], json!({"occi.core.title": "u"})));
    assert!(!filter(&[], json!({"occi.sensor.timestart": 1})));
}

/// Requirement: R1-23, R1-46
#[test]
fn what_an_associated_mixin_requires_may_follow() {
    let registry = registry();
    let current = entity(created(sensor(json!({"occi.sensor.period": 60}))).unwrap());
    let update = |current: &Entity, value| validate::update(&registry, current, draft(value));
    let associated = update(&current, json!({"mixins": ["http://example.com/aggregator#EWMA"]})).unwrap();
    assert_eq!(json!(associated.attributes), json!({GAIN: 16, "occi.sensor.period": 60}));
    let current = entity(associated);
    let complete =
        entity(update(&current, json!({"attributes": {"com.example.EWMA.instream": "a"}})).unwrap());
    refused(update(&complete, json!({"attributes": {"com.example.EWMA.instream": null}})), &["required"]);
}
