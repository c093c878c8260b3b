//! Data of many resources: what is needed is asked for, what comes is joined with the model, and results lead to actions.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Sim, simulate, simulate_files};
use homeostat::model::connector::SensorSpec;
use homeostat::model::{Action, Datum, ModelChange, Outcome, OutcomeStatus, Resource, SloState};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::simulation::Simulation;

const METHODS: [&str; 3] = ["amazon-register1", "flexiant-login1", "amazon-checkout1"];

/// `policies/ecommerce` as it is shipped.
fn ecommerce() -> Sim {
    simulate_files(&[
        ("ecommerce/model.yaml", include_str!("../policies/ecommerce/model.yaml")),
        ("ecommerce/rules.yaml", include_str!("../policies/ecommerce/rules.yaml")),
    ])
}

fn minute(s: &mut Simulation) {
    s.advance(Duration::from_secs(60));
}

/// What was emitted since the last time, as metric, resource and value.
fn results(s: &mut Simulation) -> Vec<(String, String, f64)> {
    let all = std::mem::take(&mut s.emitted);
    let said = |metric: &Arc<str>, d: &Datum| (metric.to_string(), d.resource.to_string(), d.value);
    all.iter().flat_map(|(_, metric, data)| data.iter().map(move |d| said(metric, d))).collect()
}

/// The metrics that collectors are asked for, with their parameters.
fn asked(s: &Simulation) -> Vec<(String, BTreeMap<String, String>)> {
    let all = s.sensors.values().flatten().filter(|sensor| sensor.regular);
    let mut asked: Vec<_> = all
        .filter_map(|sensor| match &*sensor.spec {
            SensorSpec::Collect(spec) => Some((sensor.metric.to_string(), spec.parameters.clone())),
            _ => None,
        })
        .collect();
    asked.sort();
    asked.dedup();
    asked
}

/// 300 response times in a minute, `slow` of them 12 s and the others 1 s.
fn response_times(s: &mut Simulation, slow: usize) {
    let times = (0..300).map(|n| (METHODS[n % 3], if n < slow { 12_000.0 } else { 1_000.0 }));
    s.collect("ResponseTime", times.collect::<Vec<_>>());
}

/// Requirement: R2-30, R2-31, R2-32, R2-33, R2-34, R2-35, R2-36
#[test]
fn what_is_slow_is_looked_at_more_closely_and_only_while_it_is_slow() {
    let mut s = ecommerce();
    let probability = BTreeMap::from([("samplingProbability".to_string(), "1".to_string())]);
    let time = BTreeMap::from([("samplingTime".to_string(), "10".to_string())]);
    let (quiet, closely) = (
        vec![("ResponseTime".to_string(), probability.clone())],
        vec![("MemUsed".to_string(), time), ("ResponseTime".to_string(), probability)],
    );
    assert_eq!(asked(&s), quiet, "nobody is asked for memory");

    // 3 of 300 over 10 s: the 99th percentile by nearest rank is 1 s.
    response_times(&mut s, 3);
    s.collect("MemUsed", [("amazon-frontend1", 1e9)]);
    minute(&mut s);
    assert_eq!(results(&mut s), [("RTConstraint_Recovery".into(), "ALL".into(), 1_000.0)]);
    assert_eq!(asked(&s), quiet);

    response_times(&mut s, 4);
    minute(&mut s);
    assert_eq!(results(&mut s), [("RTConstraint_Violation".into(), "ALL".into(), 12_000.0)], "once");
    assert_eq!(s.slo("RTConstraint_Rule", "rule"), Some(SloState::Violated));
    assert_eq!(asked(&s), closely, "now they are");

    response_times(&mut s, 4);
    s.collect("MemUsed", [("amazon-frontend1", 2e9), ("flexiant-frontend1", 5e9), ("amazon-backend1", 9e9)]);
    s.collect("MemUsed", [("amazon-frontend1", 4e9)]);
    minute(&mut s);
    let mut now = results(&mut s);
    now.sort_by(|a, b| a.partial_cmp(b).expect("finite"));
    assert_eq!(
        now,
        [
            ("AverageRAMUtilization".into(), "amazon-frontend1".into(), 3e9),
            ("AverageRAMUtilization".into(), "flexiant-frontend1".into(), 5e9),
            ("RTConstraint_Violation".into(), "ALL".into(), 12_000.0),
        ],
        "the backend is no Frontend, and what came before it was enabled does not count"
    );

    response_times(&mut s, 0);
    minute(&mut s);
    assert_eq!(results(&mut s).len(), 1, "recovered");
    assert_eq!(asked(&s), quiet, "nobody is asked for memory any more");
    s.collect("MemUsed", [("amazon-frontend1", 2e9)]);
    minute(&mut s);
    assert_eq!(results(&mut s), []);
}

/// Requirement: R2-30
#[test]
fn exactly_ten_seconds_is_no_violation() {
    let mut s = ecommerce();
    s.collect("ResponseTime", [("amazon-login1", 10_000.0)]);
    minute(&mut s);
    assert_eq!(results(&mut s)[0].0, "RTConstraint_Recovery");
}

const CLOUDS: &str = "resource: vm1
class: VM
relations: { cloudProvider: amazon }
---
resource: vm2
class: VM
relations: { cloudProvider: amazon }
---
resource: vm3
class: VM
relations: { cloudProvider: flexiant }
---
";

/// A rule over the CPU of machines, with these fields besides.
fn rule(fields: &str) -> Sim {
    simulate(&format!(
        "{CLOUDS}service: R
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM }} ] }} }} }}
  metrics: {{ Load: {{ of: CPU, every: 10s, emit: Load, {fields} }} }}
analyze: {{ rule: {{ objective: Load_results < 1, missing: ok }} }}
execute: {{}}
"
    ))
}

fn loads(s: &mut Simulation) -> Vec<(String, f64)> {
    s.collect("CPU", [("vm1", 10.0), ("vm2", 20.0), ("vm3", 30.0), ("stranger", 99.0)]);
    s.advance(Duration::from_secs(10));
    results(s).into_iter().map(|(_, resource, value)| (resource, value)).collect()
}

fn pairs(pairs: &[(&str, f64)]) -> Vec<(String, f64)> {
    pairs.iter().map(|(r, v)| (r.to_string(), *v)).collect()
}

/// Requirement: R2-01, R2-14, R2-25
#[test]
fn results_are_by_cloud_and_follow_the_model_alone() {
    let mut s = rule("aggregate: avg, by: CloudProvider");
    assert_eq!(loads(&mut s), pairs(&[("amazon", 15.0), ("flexiant", 30.0)]));
    let moved = Resource {
        id: "vm2".into(),
        class: Some("VM".into()),
        relations: [("cloudProvider".to_string(), vec!["flexiant".to_string()])].into(),
        ..Resource::default()
    };
    s.model(vec![ModelChange::Put(Arc::new(moved))]);
    assert_eq!(loads(&mut s), pairs(&[("amazon", 10.0), ("flexiant", 25.0)]));
    s.model(vec![ModelChange::Remove("vm3".into())]);
    assert_eq!(loads(&mut s), pairs(&[("amazon", 10.0), ("flexiant", 20.0)]), "gone from the model, gone");
}

/// Requirement: R2-25, R2-27
#[test]
fn without_a_group_there_is_one_result_over_all_and_without_an_aggregate_one_per_datum() {
    assert_eq!(loads(&mut rule("aggregate: sum")), pairs(&[("ALL", 60.0)]));
    assert_eq!(loads(&mut rule("aggregate: sum, resource: shop")), pairs(&[("shop", 60.0)]));
    assert_eq!(loads(&mut rule("value: sum / count")), pairs(&[("ALL", 20.0)]));
    assert_eq!(loads(&mut rule("having: value > 15")), pairs(&[("vm2", 20.0), ("vm3", 30.0)]));
    assert_eq!(loads(&mut rule("value: value / 10, having: value < 1.5")), pairs(&[("vm1", 1.0)]));
    assert_eq!(loads(&mut rule("aggregate: max, having: value > 30")), []);
}

/// Requirement: R2-35
#[test]
fn an_action_tunes_what_collectors_are_told_and_it_outlives_a_restart() {
    let yaml = format!(
        "{CLOUDS}service: R
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM }} ], parameters: {{ samplingTime: \"60\" }} }} }} }}
  metrics: {{ Load: {{ of: CPU, every: 10s, aggregate: avg }} }}
analyze: {{ rule: {{ objective: Load < 15, missing: ok }} }}
plan: [ {{ when: rule, do: [ {{ tune: {{ sensor: CPU, parameter: samplingTime, value: \"5\" }} }} ], mode: act }} ]
execute: {{}}
"
    );
    let mut s = simulate(&yaml);
    let sampling = |s: &Simulation| asked(s)[0].1["samplingTime"].clone();
    assert_eq!(sampling(&s), "60");
    loads(&mut s);
    assert_eq!(sampling(&s), "5");
    assert_eq!(s.outcomes("R"), [OutcomeStatus::Done]);
    s.change(&yaml.replace("Load < 15", "Load < 16"));
    assert_eq!(sampling(&s), "5", "a reload does not undo it");
    let Outcome { status, detail, .. } = &s
        .send(
            "R",
            vec![Action::Tune {
                service: None,
                sensor: "RAM".into(),
                parameter: "x".into(),
                value: "1".into(),
            }],
        )
        .expect("an answer")[0];
    assert_eq!((status, detail.as_str()), (&OutcomeStatus::Refused, "there is no sensor `RAM`"));
    let kept = s.lasting.iter().filter(|(service, _)| service == "R").count();
    assert!(kept > 0, "it is remembered");
}

/// Requirement: R2-38
#[test]
fn a_violation_of_a_rule_starts_the_strategy_of_a_service() {
    let mut s = simulate(&format!(
        "{CLOUDS}service: R
references: {{ shop: {{ service: shop }} }}
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM }} ] }} }} }}
  metrics: {{ Load: {{ of: CPU, every: 10s, aggregate: avg, having: value > 15 }} }}
analyze: {{ rule: {{ objective: Load_results < 1, missing: ok }} }}
plan: [ {{ when: rule, do: [ {{ raise: {{ service: shop, slo: fast }} }} ], mode: act }} ]
execute: {{}}
---
service: shop
analyze: {{}}
plan: [ {{ when: \"*\", do: [ {{ notify: {{ text: slow }} }} ], mode: act }} ]
execute: {{}}
"
    ));
    loads(&mut s);
    s.wait(1);
    let decisions = s.decisions_of("shop");
    assert_eq!(decisions[0].alarm.as_ref().map(|a| a.slo.as_str()), Some("fast"));
    assert_eq!(decisions[0].outcomes[0].status, OutcomeStatus::Done);
    let acted = |s: &Sim| s.decisions_of("shop").iter().filter(|d| !d.outcomes.is_empty()).count();
    s.wait(600);
    assert_eq!(acted(&s), 1, "nobody raised it again, so nobody answers it again");
    loads(&mut s);
    s.wait(1);
    assert_eq!(acted(&s), 2);
}

/// Requirement: R2-31
#[test]
fn results_are_data_of_other_rules() {
    let mut s = simulate(&format!(
        "{CLOUDS}service: first
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM }} ] }} }} }}
  metrics: {{ Load: {{ of: CPU, every: 10s, aggregate: avg, by: VM, emit: \"Load of a machine\" }} }}
analyze: {{ rule: {{ objective: Load_results >= 0, missing: ok }} }}
---
service: second
monitor:
  sensors: {{ load: {{ collect: {{ metric: \"Load of a machine\", from: [ {{ class: VM }} ] }} }} }}
  metrics: {{ Clouds: {{ of: load, every: 30s, aggregate: count, by: CloudProvider, emit: Clouds }} }}
analyze: {{ rule: {{ objective: Clouds_results >= 0, missing: ok }} }}
"
    ));
    let mut counted = 0.0;
    for step in 0..6 {
        if step < 3 {
            s.collect("CPU", [("vm1", 10.0), ("vm2", 20.0), ("vm3", 30.0), ("stranger", 99.0)]);
        }
        s.advance(Duration::from_secs(10));
        counted += results(&mut s).iter().filter(|(m, ..)| m == "Clouds").map(|(.., n)| n).sum::<f64>();
    }
    assert_eq!(counted, 9.0, "three results of three steps, each counted once");
}

/// Rules that switch each other on and off in a circle go round once a step and no faster.
#[test]
fn a_circle_of_rules_is_bounded_by_its_steps() {
    let one = |name: &str, other: &str, enabled: bool| {
        format!(
            "service: {name}
references: {{ other: {{ service: {other} }} }}
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM }} ] }} }} }}
  metrics: {{ Load: {{ of: CPU, every: 10s, aggregate: avg }} }}
analyze: {{ rule: {{ objective: Load_results < 1, missing: ok, enabled: {enabled} }} }}
plan: [ {{ when: rule, do: [ {{ enable_slo: {{ service: {other}, slo: rule }} }}, {{ disable_slo: {{ slo: rule }} }} ], mode: act, cooldown: 10s }} ]
execute: {{}}
"
        )
    };
    let mut s = simulate(&format!("{CLOUDS}{}---\n{}", one("A", "B", true), one("B", "A", false)));
    for _ in 0..20 {
        loads(&mut s);
    }
    let turns = s.decisions_of("A").len() + s.decisions_of("B").len();
    assert!((10..=40).contains(&turns), "{turns}");
}

#[test]
fn what_makes_no_sense_is_said_where_it_stands() {
    for (metric, code) in [
        ("{ of: CPU, aggregate: avg }", "missing-window"),
        ("{ of: CPU, aggregate: rate, every: 10s }", "invalid-value"),
        ("{ of: CPU, aggregate: avg, every: 1ms }", "invalid-value"),
        ("{ of: CPU, aggregate: avg, value: sum / count, every: 10s }", "conflicting-fields"),
        ("{ of: CPU, value: sum / value, every: 10s }", "expression"),
        ("{ of: CPU, value: sum / nonsense, every: 10s }", "unknown-metric"),
        ("{ of: CPU, value: 1 +, every: 10s }", "expression"),
        ("{ of: CPU, aggregate: avg, having: CPU > 1, every: 10s }", "unknown-metric"),
        ("{ of: CPU, aggregate: avg, having: value + 1, every: 10s }", "expression"),
        ("{ of: CPU, by: VM, every: 10s }", "conflicting-fields"),
        ("{ of: CPU, aggregate: avg, by: VM, resource: x, every: 10s }", "conflicting-fields"),
        ("{ of: CPU, aggregate: avg, from: { class: VM }, every: 10s }", "conflicting-fields"),
        ("{ of: pushed, aggregate: avg, over: 10s, having: value > 1 }", "conflicting-fields"),
    ] {
        let yaml = format!(
            "service: R\nmonitor:\n  sensors: {{ CPU: {{ collect: {{}} }}, pushed: push }}\n  metrics:\n    Load: {metric}\n"
        );
        let problems = PolicySet::from_sources(&Sources::from_texts([("p.yaml", yaml.as_str())]), None)
            .expect_err(metric);
        assert_eq!(problems.iter().map(|p| p.code).collect::<Vec<_>>(), [code], "{metric}: {problems:?}");
    }
}

#[test]
fn what_is_enabled_again_does_not_act_on_what_was_before() {
    let mut s = simulate(&format!(
        "{CLOUDS}service: R
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM }} ] }} }} }}
  metrics: {{ Load: {{ of: CPU, every: 10s, aggregate: avg, having: value > 15 }} }}
analyze: {{ rule: {{ objective: Load_results < 1, missing: ok }} }}
plan: [ {{ when: rule, do: [ {{ notify: {{ text: busy }} }} ], mode: act, cooldown: 10s }} ]
execute: {{}}
"
    ));
    loads(&mut s);
    let acted = |s: &Sim| s.decisions_of("R").iter().filter(|d| !d.outcomes.is_empty()).count();
    assert_eq!(acted(&s), 1);
    s.enable("R", "rule", false);
    s.wait(30);
    s.enable("R", "rule", true);
    s.wait(60);
    assert_eq!(acted(&s), 1, "nothing came since");
    assert_eq!(s.value("R", "Load_results"), Some(0.0));
    loads(&mut s);
    assert_eq!(acted(&s), 2);
}

/// Data that lead back to themselves would be more with each step.
#[test]
fn streams_that_feed_each_other_in_a_circle_are_refused_with_the_way() {
    let service = |name: &str, reads: &str, emits: &str| {
        format!(
            "service: {name}\nmonitor:\n  sensors: {{ {reads}: {{ collect: {{}} }} }}\n  metrics: {{ m: {{ of: {reads}, aggregate: avg, every: 1s, emit: {emits} }} }}\n"
        )
    };
    let set = |services: &[String]| {
        let texts: Vec<(String, &str)> =
            services.iter().enumerate().map(|(n, text)| (format!("{n}.yaml"), text.as_str())).collect();
        PolicySet::from_sources(&Sources::from_texts(texts.iter().map(|(n, t)| (n.as_str(), *t))), None)
    };
    let line = [service("A", "x", "y"), service("B", "y", "z"), service("C", "x", "z")];
    assert!(set(&line).is_ok(), "two ways to one end are no circle");
    for (closing, way) in [
        (service("D", "z", "x"), "x -> y (by `A`) -> z (by `B`) -> x (by `D`)"),
        (service("D", "w", "w"), "w -> w (by `D`)"),
    ] {
        let problems = set(&[&line[..], &[closing]].concat()).expect_err("a circle");
        assert!(problems.iter().all(|p| p.code == "metric-cycle" && p.line.is_some()), "{problems:?}");
        assert!(problems.iter().any(|p| p.message.contains(way)), "{problems:?}");
    }
}

/// Requirement: R2-22
#[test]
fn text_counts_and_does_nothing_else() {
    let mut s = simulate(
        "service: A
monitor:
  sensors: { Log: { collect: {} } }
  metrics:
    lines: { of: Log, aggregate: count, every: 60s, emit: Lines }
    total: { of: Log, aggregate: sum, every: 60s, emit: Total }
    each: { of: Log, every: 60s, emit: Each }
analyze: { on: { objective: lines_results + total_results + each_results >= 0, missing: ok } }
",
    );
    s.collect("Log", [("vm1", f64::NAN), ("vm1", 2.0), ("vm1", f64::NAN), ("vm1", f64::INFINITY)]);
    minute(&mut s);
    let mut now = results(&mut s);
    now.sort_by(|a, b| a.partial_cmp(b).expect("finite"));
    let said = |metric: &str, resource: &str, value| (metric.to_string(), resource.to_string(), value);
    assert_eq!(now, [said("Each", "vm1", 2.0), said("Lines", "ALL", 3.0), said("Total", "ALL", 2.0)]);
}
