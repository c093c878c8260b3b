//! Policies from text to compiled values: every kind of mistake is told with file, line, column and hint.

use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;

/// The problems of a set of files, a line each.
fn problems<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let problems = match PolicySet::from_sources(&Sources::from_texts(files), None) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn set<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> PolicySet {
    match PolicySet::from_sources(&Sources::from_texts(files), None) {
        Ok((set, _)) => set,
        Err(problems) => panic!("{problems:#?}"),
    }
}

const STRATEGY: &str = "fn plan(alarm) { [] }";

#[test]
fn a_directory_becomes_services() {
    let set = set([
        (
            "shop.yaml",
            "service: shop\nreferences: { payment: { service: pay, candidates: [pay2] } }\nmonitor:\n  sensors: { own: push, disk: { nagios: { command: [check] } } }\n  metrics:\n    z: own\n    cost: z + payment.cost\n    p99: { of: own, aggregate: p99, over: 60s }\nanalyze: { cheap: { objective: cost < 30 } }\nplan: [ { when: cheap, run: s.rhai } ]\n---\nservice: pay\nmonitor: { sensors: { cost: push } }\n---\nservice: pay2\nmonitor: { metrics: { cost: 5 } }\n---\nresource: amazon\nclass: CloudProvider\n",
        ),
        ("s.rhai", STRATEGY),
    ]);
    let shop = &set.services["shop"];
    let names: Vec<_> = shop.monitor.iter().flat_map(|m| &m.metrics).map(|m| m.name.to_string()).collect();
    assert_eq!(names, ["disk", "disk_state", "own", "z", "cost", "p99"]);
    let row = &shop.plan.as_ref().expect("a plan").rows[0];
    assert_eq!(row.cooldown.as_secs(), 30);
    assert_eq!(row.on, [homeostat::model::AlarmKind::Violation]);
    assert_eq!(set.resources["amazon"].class.as_deref(), Some("CloudProvider"));
}

#[test]
fn unknown_names_are_told_with_what_was_meant() {
    let text = "\
service: shop
references:
  payment: { service: pay }
monitor:
  sensors:
    own_cost: push
    latency: push
  metrics:
    cost: own_cots + payment.cost
    total: own_cost + payments.cost
    p: { of: latensy, aggregate: max, over: 5s }
analyze:
  cheap: { objective: csot < 30 }
plan:
  - { when: cheep, run: s.rhai }
---
service: pay
monitor: { sensors: { costs: push } }
";
    insta::assert_snapshot!(problems([("shop.yaml", text), ("s.rhai", STRATEGY)]), @"");
}
