//! Metrics: what they hold, who is asked for them, and what never reaches them.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{START, Sim, policies, simulate};
use homeostat::model::ports::{PortError, SubscriptionMode};
use homeostat::model::{HumanDuration, MissingReason, Reading, SloState};
use homeostat::service::message::{Letter, Request, Response};

const AB: &str = "service: A\nreferences: { b: { service: B }, c: { service: C } }\nmonitor: { metrics: { cost: b.cost + c.cost } }\n---\nservice: B\nmonitor: { sensors: { cost: push, other: push } }\n---\nservice: C\nmonitor: { sensors: { cost: push } }\n";

fn seconds(n: u64) -> HumanDuration {
    HumanDuration::seconds(n)
}

/// Requirement: R3-30, R3-31
#[test]
fn metrics_are_listed_by_name_and_read_with_value_time_and_state() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { z: push, b: { push: { unit: kW, stale_after: 10s } } }, metrics: { m: z + b } }\n---\nservice: N\nmonitor: {}\n",
    );
    let Some(Response::Metrics(list)) = s.call("A", Request::MetricList) else { panic!("no list") };
    assert_eq!(list.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["b", "m", "z"]);
    assert_eq!(list[0].unit.as_deref(), Some("kW"));
    assert_eq!(s.call("N", Request::MetricList), Some(Response::Metrics(Vec::new())));
    s.push("A", "b", 2.0);
    assert_eq!(s.get("A", "b"), Reading::Fresh { value: 2.0, at: START });
    s.wait(11);
    assert_eq!(s.get("A", "b"), Reading::Stale { value: 2.0, at: START });
    let missing = MissingReason::Input("z".into(), Box::new(MissingReason::NoSample));
    assert_eq!(s.get("A", "m"), Reading::missing(missing));
    let unknown = Request::GetMetric { name: "nix".into(), max_age: None };
    assert_eq!(s.error("A", unknown), PortError::NoSuchMetric("nix".into()));
}

/// Requirement: R3-32, R3-33
#[test]
fn a_subscriber_is_told_once_per_value_until_it_unsubscribes() {
    let mut s = simulate("service: A\nmonitor: { sensors: { x: push }, metrics: { twice: 2 * x } }\n");
    let x = s.subscribe("A", "x", SubscriptionMode::Update).unwrap();
    let twice = s.subscribe("A", "twice", SubscriptionMode::Update).unwrap();
    for value in [1.0, 1.0, 3.0] {
        s.push("A", "x", value);
    }
    assert_eq!(s.told(x), [(0.0, Some(1.0)), (0.0, Some(1.0)), (0.0, Some(3.0))]);
    assert_eq!(s.told(twice).len(), 3);
    for _ in 0..2 {
        assert_eq!(s.call("A", Request::Unsubscribe { token: x }), Some(Response::Done));
        s.push("A", "x", 4.0);
    }
    assert_eq!((s.told(x).len(), s.told(twice).len()), (3, 5));
}

/// Requirement: R4-07
#[test]
fn an_interval_subscription_is_told_from_start_to_end_inclusive() {
    let mut s = simulate("service: A\nmonitor: { sensors: { x: push } }\n");
    s.push("A", "x", 7.0);
    let mode = SubscriptionMode::Interval {
        interval: seconds(2),
        start: Some(seconds(4)),
        duration: Some(seconds(10)),
    };
    let token = s.subscribe("A", "x", mode).unwrap();
    s.wait(100);
    let times: Vec<f64> = s.told(token).iter().map(|(t, _)| *t).collect();
    assert_eq!(times, [4.0, 6.0, 8.0, 10.0, 12.0, 14.0]);
    assert_eq!(s.ended, [token]);
    let open = SubscriptionMode::Interval { interval: seconds(3), start: None, duration: None };
    let token = s.subscribe("A", "x", open).unwrap();
    s.wait(10);
    assert_eq!(s.told(token).len(), 4, "at once, and three more");
    let hasty =
        SubscriptionMode::Interval { interval: HumanDuration(Duration::ZERO), start: None, duration: None };
    assert_eq!(s.subscribe("A", "x", hasty).unwrap_err().slug(), "invalid");
}

/// Requirement: R4-09
#[test]
fn a_subscription_on_change_is_told_of_changes_within_its_window() {
    for before in [false, true] {
        let mut s = simulate("service: A\nmonitor: { sensors: { x: push } }\n");
        let mut values = vec![1.0, 1.0, 2.0, 2.0, 3.0];
        if before {
            s.push("A", "x", values.remove(0));
        }
        let mode = SubscriptionMode::Change { start: None, duration: Some(seconds(10)) };
        let token = s.subscribe("A", "x", mode).unwrap();
        for value in values {
            s.push("A", "x", value);
        }
        assert_eq!(s.told(token), [(0.0, Some(2.0)), (0.0, Some(3.0))]);
        s.wait(10);
        s.push("A", "x", 4.0);
        assert_eq!(s.told(token).len(), 3, "the end is inclusive");
        s.wait(1);
        s.push("A", "x", 5.0);
        assert_eq!((s.told(token).len(), s.ended.clone()), (3, vec![token]));
    }
    let mut s = simulate("service: A\nmonitor: { sensors: { x: push } }\n");
    let late = SubscriptionMode::Change { start: Some(seconds(5)), duration: None };
    let token = s.subscribe("A", "x", late).unwrap();
    for value in 0..10 {
        s.push("A", "x", f64::from(value));
        s.wait(1);
    }
    assert_eq!(s.told(token).first(), Some(&(5.0, Some(5.0))));
}

/// Requirement: R3-12, R3-04
#[test]
fn reading_a_composed_metric_asks_each_direct_dependency_once() {
    let mut s = simulate(AB);
    s.push("B", "cost", 18.0);
    s.push("C", "cost", 10.0);
    assert_eq!((s.tally().asks, s.tally().told), (0, 0), "nobody needs anything");
    assert_eq!(s.value("A", "cost"), Some(28.0));
    assert_eq!(s.tally().asks, 2);
    let token = s.subscribe("A", "cost", SubscriptionMode::Update).unwrap();
    let before = s.tally();
    for n in 0..5 {
        s.push("B", "cost", f64::from(n));
        s.push("B", "other", 1.0);
        assert!(s.value("A", "cost").is_some());
    }
    assert_eq!((s.tally().asks, s.tally().told), (before.asks, before.told + 5));
    s.call("A", Request::Unsubscribe { token });
    let before = s.tally();
    s.push("B", "cost", 1.0);
    assert_eq!(s.tally().told, before.told);
}

/// Requirement: R3-32
#[test]
fn a_subscriber_to_a_composed_metric_is_not_told_of_the_asking() {
    let mut s = simulate(AB);
    s.push("B", "cost", 18.0);
    s.push("C", "cost", 10.0);
    assert_eq!(s.value("A", "cost"), Some(28.0));
    let token = s.subscribe("A", "cost", SubscriptionMode::Change { start: None, duration: None }).unwrap();
    s.push("B", "cost", 19.0);
    assert_eq!(s.told(token), [(0.0, Some(29.0))]);
}

/// Requirement: R3-36, R3-12
#[test]
fn a_sensor_that_nobody_needs_is_read_when_asked() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: { exec: { command: [x] } }, y: { exec: { command: [y], every: 1s } }, z: push } }\nanalyze: { slo: { objective: x < 5, enabled: false } }\n",
    );
    let regular = |s: &Sim| -> Vec<bool> { s.sensors["A"].iter().map(|w| w.regular).collect() };
    assert_eq!(regular(&s), [false, true, true]);
    let reads = Arc::new(Mutex::new(0));
    let counter = reads.clone();
    s.on_demand(move |_, _| {
        *counter.lock().unwrap() += 1;
        Some(3.0)
    });
    assert_eq!(s.value("A", "x"), Some(3.0));
    assert_eq!(*reads.lock().unwrap(), 1);
    s.enable("A", "slo", true);
    assert_eq!(regular(&s), [true, true, true]);
    assert_eq!(s.value("A", "x"), Some(3.0));
    assert_eq!(*reads.lock().unwrap(), 1, "what is read regularly is not read again");
    s.wait(10);
    assert_eq!(s.get_within("A", "x", Some(seconds(10))).fresh(), Some(3.0));
    assert_eq!(*reads.lock().unwrap(), 1);
    s.get_within("A", "x", Some(seconds(9)));
    assert_eq!(*reads.lock().unwrap(), 2, "too old");
}

/// Requirement: R3-31
#[test]
fn max_age_reaches_through_the_chain_and_a_silent_sensor_costs_patience_not_an_answer() {
    let yaml = "service: A\nreferences: { b: { service: B } }\nmonitor: { metrics: { cost: b.cost } }\n---\nservice: B\nreferences: { c: { service: C } }\nmonitor: { metrics: { cost: c.cost + 1 } }\n---\nservice: C\nmonitor: { sensors: { cost: { exec: { command: [x] } } } }\n";
    let mut s = simulate(yaml);
    s.on_demand(|_, _| Some(5.0));
    assert_eq!(s.get_within("A", "cost", Some(seconds(1))).fresh(), Some(6.0));
    s.wait(2);
    s.on_demand(|_, _| Some(6.0));
    assert_eq!(s.get_within("A", "cost", Some(seconds(60))).fresh(), Some(6.0));
    assert_eq!(s.get_within("A", "cost", Some(seconds(1))).fresh(), Some(7.0));
    s.on_demand(|_, _| None);
    s.wait(2);
    assert_eq!(s.get_within("A", "cost", Some(seconds(1))).value(), Some(7.0), "the last that is known");
}

/// Requirement: R3-37, R3-43
#[test]
fn history_is_kept_per_service_as_far_as_it_says() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push }, history: 3 }\n---\nservice: B\nmonitor: { sensors: { x: push } }\n",
    );
    for n in 0..5 {
        s.push("A", "x", f64::from(n));
        s.push("B", "x", f64::from(n));
        s.wait(1);
    }
    let Some(Response::History(past)) = s.call("A", Request::History("x".into())) else {
        panic!("no history")
    };
    assert_eq!(past.iter().filter_map(Reading::fresh).collect::<Vec<_>>(), [2.0, 3.0, 4.0]);
    assert!(s.error("B", Request::History("x".into())).to_string().contains("disabled"));
    assert_eq!(s.error("A", Request::History("y".into())).slug(), "no-such-metric");
}

/// Requirement: R3-38
#[test]
fn windows_aggregate_what_is_in_them() {
    let aggregates = ["avg", "sum", "min", "max", "count", "rate", "delta", "stddev", "p50", "last", "age"];
    let lines: Vec<String> =
        aggregates.iter().map(|a| format!("    m_{a}: {{ of: x, aggregate: {a}, over: 10s }}\n")).collect();
    let mut s =
        simulate(&format!("service: A\nmonitor:\n  sensors: {{ x: push }}\n  metrics:\n{}", lines.concat()));
    for x in [100.0, 1.0, 2.0, 3.0, 6.0] {
        s.push("A", "x", x);
        s.wait(3);
    }
    // 12 s ago 100, left; then 1, 2, 3, 6 at 9, 6, 3 s before the last push, which is 3 s old: 1 is 12 s old.
    let expected = [11.0 / 3.0, 11.0, 2.0, 6.0, 3.0, 4.0 / 6.0, 4.0, 1.699_673, 3.0, 6.0, 3.0];
    for (aggregate, value) in aggregates.iter().zip(expected) {
        let found = s.value("A", &format!("m_{aggregate}")).unwrap();
        assert!((found - value).abs() < 1e-5, "{aggregate}: {found} instead of {value}");
    }
    s.wait(60);
    assert_eq!(s.get("A", "m_sum"), Reading::missing(MissingReason::EmptyWindow));
}

/// Requirement: R3-39, R4-18
#[test]
fn an_unbound_reference_leaves_its_metrics_unresolved_by_name() {
    let mut s = simulate(
        "service: A\nreferences: { b: { candidates: [B] } }\nmonitor: { metrics: { cost: b.cost + 1 } }\nexecute: {}\n---\nservice: B\nmonitor: { metrics: { cost: 4 } }\n",
    );
    let unbound = MissingReason::Input("b.cost".into(), Box::new(MissingReason::Unbound("b".into())));
    assert_eq!(s.get("A", "cost"), Reading::missing(unbound.clone()));
    s.send("A", vec![common::action(serde_json::json!({"bind": {"reference": "b", "to": "B"}}))]).unwrap();
    assert_eq!(s.value("A", "cost"), Some(5.0));
    s.send("A", vec![common::action(serde_json::json!({"unbind": {"reference": "b"}}))]).unwrap();
    assert_eq!(s.get("A", "cost"), Reading::missing(unbound));
}

/// Requirement: R3-40
#[test]
fn the_backbone_follows_the_bindings() {
    let mut s = simulate(&AB.replace("cost: b.cost + c.cost } }", "cost: b.cost + c.cost } }\nexecute: {}"));
    let backbone = |s: &mut Sim| -> Vec<String> {
        let wires = s.status("A").unwrap().wires;
        wires.into_iter().filter(|w| w.from == "A/monitor").map(|w| w.to).collect()
    };
    assert_eq!(backbone(&mut s), ["B/monitor", "C/monitor"]);
    s.subscribe("A", "cost", SubscriptionMode::Update).unwrap();
    s.send("A", vec![common::action(serde_json::json!({"unbind": {"reference": "b"}}))]).unwrap();
    assert_eq!(backbone(&mut s), ["C/monitor"]);
    let told = s.tally().told;
    s.push("B", "cost", 1.0);
    assert_eq!(s.tally().told, told, "B no longer tells A");
}

/// Requirement: R3-41, R3-42
#[test]
fn energy_in_both_readings_follows_a_change_of_b() {
    let text = include_str!("../policies/energy/energy.yaml");
    let mut s = simulate(text);
    s.letter("e", Letter::Measured { metric: "energy".into(), values: vec![(None, None, 2.0, None)] });
    assert_eq!((s.value("c", "energy"), s.value("c-own", "energy")), (Some(20.0), Some(18.0)));
    let b = "service: b\nmonitor:\n  metrics:\n    energy: { expr: \"2\"";
    assert!(text.contains(b));
    s.change(&text.replace(b, &b.replace("\"2\"", "\"3\"")));
    assert_eq!((s.value("c", "energy"), s.value("c-own", "energy")), (Some(22.0), Some(19.0)));
    assert_eq!(s.value("a", "energy"), Some(9.0));
}

const GROUP: &str = "service: G\nmonitor:\n  metrics:\n    total: { of: load, from: { class: VM }, aggregate: sum, by: provider }\n    n: { of: load, from: { class: VM }, aggregate: count }\n    peak: { of: load, from: { class: VM }, aggregate: max, over: 60s }\nanalyze: { slo: { objective: total < 100, enabled: true } }\n";

fn vm(name: &str, provider: &str) -> String {
    format!(
        "---\nservice: {name}\nclass: VM\nrelations: {{ provider: {provider} }}\nmonitor: {{ sensors: {{ load: push }} }}\n"
    )
}

/// Requirement: R3-22, R3-21
#[test]
fn a_group_is_computed_over_its_members_as_they_come_and_go() {
    let mut s = simulate(&[GROUP, &vm("v1", "east"), &vm("v2", "west")].concat());
    s.push("v1", "load", 1.0);
    s.push("v2", "load", 2.0);
    assert_eq!((s.value("G", "total"), s.value("G", "n")), (Some(3.0), Some(2.0)));
    assert_eq!((s.value("G", "total[east]"), s.value("G", "total[west]")), (Some(1.0), Some(2.0)));
    s.change(&[GROUP, &vm("v1", "east"), &vm("v2", "west"), &vm("v3", "east")].concat());
    assert_eq!(s.value("G", "total"), Some(3.0), "the others are kept, the new one has not spoken");
    s.push("v3", "load", 4.0);
    assert_eq!((s.value("G", "total"), s.value("G", "total[east]")), (Some(7.0), Some(5.0)));
    s.detach("v1");
    assert_eq!(
        (s.value("G", "total"), s.value("G", "n")),
        (Some(6.0), Some(2.0)),
        "a dead member does not count"
    );
    s.change(&[GROUP, &vm("v2", "east"), &vm("v3", "east")].concat());
    assert_eq!((s.value("G", "total"), s.value("G", "total[east]")), (Some(6.0), Some(6.0)), "v2 moved");
    assert_eq!(s.value("G", "total[west]"), None);
    assert_eq!(s.value("G", "peak"), Some(4.0));
    s.push("v2", "load", 200.0);
    assert_eq!(s.slo("G", "slo"), Some(SloState::Violated));
}

#[test]
fn a_member_that_falls_silent_leaves_the_group_when_its_value_is_stale() {
    let silent = vm("v1", "east").replace("load: push", "load: { push: { stale_after: 30s } }");
    let mut s = simulate(&[GROUP, &silent, &vm("v2", "west")].concat());
    s.push("v1", "load", 150.0);
    s.push("v2", "load", 2.0);
    assert_eq!(s.slo("G", "slo"), Some(SloState::Violated));
    s.wait(31);
    assert_eq!(s.slo("G", "slo"), Some(SloState::Ok), "without anybody asking");
    assert_eq!((s.value("G", "n"), s.value("G", "total[east]")), (Some(1.0), None));
    s.push("v1", "load", 1.0);
    assert_eq!((s.value("G", "n"), s.value("G", "total")), (Some(2.0), Some(3.0)));
}

#[test]
fn a_group_computed_every_so_often_takes_in_what_came_meanwhile() {
    let group = GROUP.replace("aggregate: sum", "aggregate: sum, every: 10s");
    let mut s = simulate(&[&group, vm("v1", "east").as_str(), &vm("v2", "west")].concat());
    s.push("v1", "load", 1.0);
    s.wait(1);
    s.push("v2", "load", 2.0);
    s.wait(1);
    s.push("v2", "load", 500.0);
    assert_ne!(s.slo("G", "slo"), Some(SloState::Violated));
    s.wait(20);
    assert_eq!(s.slo("G", "slo"), Some(SloState::Violated), "without another value");
}

#[test]
fn a_window_computed_every_so_often_takes_in_what_came_at_the_same_moment() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push }, metrics: { m: { of: x, aggregate: sum, over: 60s, every: 10s } } }\nanalyze: { slo: { objective: m < 10 } }\n",
    );
    s.push("A", "x", 1.0);
    s.push("A", "x", 20.0);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Ok));
    s.wait(10);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
}

#[test]
fn two_references_to_one_service_share_what_it_says() {
    let mut s = simulate(
        "service: A\nreferences: { p: { service: B, candidates: [C] }, q: { service: C, candidates: [B] } }\nmonitor: {}\nanalyze: { one: { objective: p.x < 9 }, two: { objective: q.x < 9 } }\nexecute: {}\n---\nservice: B\nmonitor: { sensors: { x: push } }\n---\nservice: C\nmonitor: { sensors: { x: push } }\n",
    );
    s.push("B", "x", 1.0);
    s.push("C", "x", 10.0);
    assert_eq!((s.slo("A", "one"), s.slo("A", "two")), (Some(SloState::Ok), Some(SloState::Violated)));
    s.send("A", vec![common::action(serde_json::json!({"bind": {"reference": "q", "to": "B"}}))]).unwrap();
    assert_eq!(s.slo("A", "two"), Some(SloState::Ok), "B was listened to already");
    s.push("B", "x", 11.0);
    assert_eq!((s.slo("A", "one"), s.slo("A", "two")), (Some(SloState::Violated), Some(SloState::Violated)));
    s.push("C", "x", 1.0);
    assert_eq!(s.slo("A", "two"), Some(SloState::Violated));
}

/// Requirement: R3-34
#[test]
fn a_published_metric_is_there_and_survives_a_change_of_policy() {
    let yaml = "service: A\nmonitor: { sensors: { x: push } }\nexecute: {}\n";
    let mut s = simulate(yaml);
    let publish = |metric: &str, value: f64| {
        common::action(serde_json::json!({"publish": {"metric": metric, "value": value}}))
    };
    s.send("A", vec![publish("health", 0.5)]).unwrap();
    assert_eq!(s.value("A", "health"), Some(0.5));
    s.change(&yaml.replace("x: push", "x: push, y: push"));
    assert_eq!(s.value("A", "health"), Some(0.5));
    s.push("A", "health", 0.7);
    assert_eq!(s.value("A", "health"), Some(0.7));
    s.change(&yaml.replace("x: push }", "x: push }, metrics: { n: 5 }"));
    let outcomes = s.send("A", vec![publish("n", 1.0)]).unwrap();
    assert!(outcomes[0].detail.contains("expression"), "{outcomes:?}");
}

#[test]
fn members_of_a_family_have_names_of_their_own() {
    let mut s = simulate(
        "service: A\nreferences: {}\nmonitor: { sensors: { cpu: { host: { what: cpu, each: true } } } }\n",
    );
    let values = [(None, 5.0), (Some("cpu0"), 3.0), (Some("cpu1"), 7.0)];
    let values = values.into_iter().map(|(label, v)| (None, label.map(Into::into), v, None)).collect();
    s.letter("A", Letter::Measured { metric: "cpu".into(), values });
    assert_eq!((s.value("A", "cpu"), s.value("A", "cpu[cpu1]")), (Some(5.0), Some(7.0)));
    let unknown = Request::GetMetric { name: "cpu[cpu9]".into(), max_age: None };
    assert_eq!(s.error("A", unknown).slug(), "no-such-metric");
    let Some(Response::Metrics(list)) = s.call("A", Request::MetricList) else { panic!("no list") };
    assert_eq!(list.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["cpu", "cpu[cpu0]", "cpu[cpu1]"]);
}

#[test]
fn bad_samples_are_refused_and_counted() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push }, metrics: { m: x * 1e300, sum: { of: x, aggregate: sum, over: 1h }, n: { of: x, aggregate: count, over: 1h } } }\n",
    );
    let at = |seconds: i64| homeostat::model::Timestamp(START.0 + seconds * 1_000_000);
    s.push_at("A", "x", 1.0, at(0));
    for (value, time) in [
        (f64::NAN, at(1)),
        (f64::INFINITY, at(1)),
        (f64::NEG_INFINITY, at(1)),
        (1.0, at(0)),
        (2.0, at(-1)),
        (2.0, at(11)),
        (2.0, at(i64::MAX / 4_000_000)),
    ] {
        s.push_at("A", "x", value, time);
    }
    s.push("A", "nix", 1.0);
    s.push("A", "m", 1.0);
    s.push("nobody", "x", 1.0);
    assert_eq!((s.tally().samples, s.tally().refused), (1, 10));
    assert_eq!((s.value("A", "x"), s.value("A", "n")), (Some(1.0), Some(1.0)));
    s.push_at("A", "x", 2.0, at(10));
    assert_eq!(s.get("A", "x"), Reading::Fresh { value: 2.0, at: at(0) }, "no reading is from the future");
    s.wait(20);
    s.push("A", "x", 1e300);
    assert_eq!(s.get("A", "m"), Reading::missing(MissingReason::NotFinite("x * 1e300".into())));
    s.push("A", "x", f64::MAX);
    s.push("A", "x", f64::MAX);
    assert_eq!(s.value("A", "sum"), None, "no sum is infinite");
    s.wait(3601);
    s.push("A", "x", 3.0);
    assert_eq!(s.value("A", "sum"), Some(3.0));
}

/// Requirement: R3-04
#[test]
fn a_hub_with_a_mute_supplier_does_not_multiply_letters() {
    let mut yaml = String::from(
        "service: hub\nreferences: { x: { service: X } }\nmonitor: { metrics: { v: x.v } }\n---\nservice: X\nmonitor: { sensors: { v: push } }\n",
    );
    for n in 0..100 {
        yaml += &format!(
            "---\nservice: s{n}\nreferences: {{ hub: {{ service: hub }} }}\nmonitor: {{}}\nanalyze: {{ slo: {{ objective: hub.v < 3 }} }}\n"
        );
    }
    let mut s = simulate(&yaml);
    assert_eq!(s.tally().told, 0, "there is nothing to tell yet");
    s.push("X", "v", 1.0);
    assert_eq!(s.tally().told, 101);
    assert_eq!(s.slo("s99", "slo"), Some(SloState::Ok));
}

/// Requirement: R3-31
#[test]
fn a_pushed_value_older_than_asked_for_is_stale_to_the_asker() {
    let mut s = simulate("service: A\nmonitor: { sensors: { x: push }, metrics: { two: 2 } }\n");
    s.push("A", "x", 1.0);
    s.wait(10);
    let age = |seconds| Some(homeostat::model::HumanDuration::seconds(seconds));
    assert!(matches!(s.get_within("A", "x", age(10)), Reading::Fresh { .. }));
    assert!(matches!(s.get_within("A", "x", age(9)), Reading::Stale { .. }));
    assert!(matches!(s.get_within("A", "two", age(0)), Reading::Fresh { .. }), "a constant is never old");
}

#[test]
fn a_clock_that_jumps_an_hour_and_back_stops_nothing() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push }, metrics: { m: { of: x, aggregate: avg, over: 60s } } }\nanalyze: { slo: { objective: m < 10, for: 10s } }\n",
    );
    s.push("A", "x", 1.0);
    s.wait(3600);
    assert_eq!(s.get("A", "m"), Reading::missing(MissingReason::EmptyWindow));
    s.push("A", "x", 20.0);
    s.wait(10);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
    // A message that comes with an earlier time counts as coming at the latest time.
    let mut world = common::World::new();
    world.apply(7_200_000_000, &policies(&[("p.yaml", "service: A\nmonitor: { sensors: { x: push } }\n")]));
    world.measure(1, "A", "x", 4.0);
    let reading = world.call(2, "A", Request::GetMetric { name: "x".into(), max_age: None });
    let at = homeostat::model::Timestamp(7_200_000_000);
    assert_eq!(reading, Some(Response::Reading(Reading::Fresh { value: 4.0, at })));
}
