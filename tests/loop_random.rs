//! Random life: whatever comes in whatever order, the loop keeps its promises, and the same messages give the same decisions.

mod common;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use common::{Sim, policies};
use homeostat::model::{AlarmKind, Decision, OutcomeStatus, Verdict};
use homeostat::policy::set::PolicySet;
use homeostat::service::message::Request;
use proptest::prelude::*;

const SERVICES: [&str; 6] = ["A", "B", "C", "D", "E", "G"];

/// A tree of services, so that no value reaches another service by two ways.
const YAML: &str = "\
service: A
references: { b: { service: B, candidates: [C] }, d: { service: D } }
monitor:
  sensors: { own: { push: { stale_after: 20s } } }
  metrics: { cost: own + b.cost, m: { of: own, aggregate: max, over: 30s } }
  history: 4
analyze:
  cheap: { objective: cost < LIMIT, warn: cost < 20, recover_for: 3s }
  calm: { objective: m < 25, for: 5s, missing: alarm }
  d: { objective: d.p < 9, missing: violate }
plan:
  - { when: cheap, run: s.rhai, mode: act, cooldown: 4s }
  - { when: calm, on: [violation, missing], mode: act, cooldown: 3s, on_failure: undo, do: [ { disable_slo: { slo: d } }, { set: { service: B, property: p, value: 1 } } ] }
  - { when: d, mode: act, cooldown: 7s, on_failure: continue, do: [ { set: { service: C, property: p, value: 1 } }, { unbind: { reference: b } }, { set: { property: p, value: 2 } } ] }
  - { when: d, on: [recovered], mode: act, do: [ { bind: { reference: b, to: B } }, { enable_slo: { slo: d } } ] }
execute: { set: { log: {} } }
---
service: B
class: X
monitor: { sensors: { cost: push } }
analyze: { low: { objective: cost < 20 } }
execute: { set: { log: {} } }
---
service: C
class: X
monitor: { sensors: { cost: push } }
execute: { set: { log: {} } }
---
service: D
references: { e: { service: E } }
monitor: { metrics: { p: { of: e.q, aggregate: avg, over: 10s } } }
---
service: E
monitor: { sensors: { q: { push: { stale_after: 15s } } } }
---
service: G
monitor: { metrics: { sum: { of: cost, from: { class: X }, aggregate: sum } } }
analyze: { sum: { objective: sum < 40, missing: ok } }
";

const SCRIPT: &str = "
fn plan(alarm) {
    let other = candidates(\"b\").filter(|c| c != bound(\"b\"));
    let cost = reading(other[0], \"cost\");
    because(`${cost.state}`);
    if bound(\"b\") == () { return [bind(\"b\", \"B\")]; }
    if alarm.kind == \"violation\" { [replace(bound(\"b\"), other[0]), set(\"p\", 3)] } else { throw \"no\" }
}
";

#[derive(Debug, Clone)]
enum Step {
    Push(usize, f64),
    Advance(u64),
    Apply(u32),
    Detach(usize),
    Effector(u8),
    Enable(usize, bool),
}

/// The policies with two different limits.
static SETS: LazyLock<[PolicySet; 2]> = LazyLock::new(|| {
    [30, 35].map(|limit: u32| {
        policies(&[("p.yaml", &YAML.replace("LIMIT", &limit.to_string())), ("s.rhai", SCRIPT)])
    })
});

const PUSHED: [(&str, &str); 4] = [("A", "own"), ("B", "cost"), ("C", "cost"), ("E", "q")];

fn run(shards: usize, steps: &[Step]) -> Sim {
    let mut s = Sim::new(shards);
    s.apply(&SETS[0]);
    live(&mut s, steps);
    s
}

fn live(s: &mut Sim, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Push(which, value) => {
                let (service, metric) = PUSHED[*which];
                s.push(service, metric, *value);
            }
            Step::Advance(ms) => s.advance(Duration::from_millis(*ms)),
            Step::Apply(which) => s.apply(&SETS[*which as usize]),
            Step::Detach(which) => s.detach(SERVICES[*which]),
            Step::Effector(0) => s.effector(|_| Some(Ok("ok".into()))),
            Step::Effector(1) => s.effector(|_| Some(Err("broken".into()))),
            Step::Effector(_) => s.effector(|_| None),
            Step::Enable(which, on) => {
                let name = ["cheap", "calm", "d"][*which].to_string();
                s.call("A", Request::EnableSlo { name, on: *on });
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![
        8 => (-5_i32..50).prop_map(f64::from),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::MAX, -f64::MAX]),
    ];
    let step = prop_oneof![
        12 => (0..PUSHED.len(), value).prop_map(|(which, value)| Step::Push(which, value)),
        8 => (1_u64..9_000).prop_map(Step::Advance),
        1 => (60_000_u64..200_000).prop_map(Step::Advance),
        1 => (0_u32..2).prop_map(Step::Apply),
        1 => (0..SERVICES.len()).prop_map(Step::Detach),
        2 => (0_u8..3).prop_map(Step::Effector),
        1 => (0..3_usize, any::<bool>()).prop_map(|(which, on)| Step::Enable(which, on)),
    ];
    prop::collection::vec(step, 1..80)
}

/// Alarms of one SLO tell of a change: no kind follows itself, and nothing recovers that did not stand badly.
fn alternates(kinds: &[AlarmKind]) -> bool {
    kinds.first() != Some(&AlarmKind::Recovered) && kinds.windows(2).all(|pair| pair[0] != pair[1])
}

/// The kinds of alarms that the event log tells of, by service and SLO, as long as nothing restarted them.
fn alarms(s: &Sim) -> BTreeMap<(String, String), Vec<AlarmKind>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in s.events.iter().filter(|e| e.phase == "analyse") {
        let (head, _) = event.text.split_once(':').expect("kind slo: condition");
        let (kind, slo) = head.split_once(' ').expect("kind slo");
        let kind = serde_json::from_value(kind.into()).expect("a kind");
        let service = event.service.clone().expect("a service");
        all.entry((service, slo.to_string())).or_default().push(kind);
    }
    all
}

fn settled(decision: &Decision) -> bool {
    match (&decision.verdict, &decision.plan) {
        (Verdict::Planned, Some(plan)) => decision.outcomes.len() == plan.actions.len(),
        _ => decision.outcomes.is_empty(),
    }
}

/// Requirement: R3-24
#[test]
fn the_same_messages_give_the_same_decisions_byte_for_byte() {
    let steps: Vec<Step> = (0..400_u32)
        .map(|n| match n * 7919 % 13 {
            0..6 => Step::Push((n % 4) as usize, f64::from(n * 31 % 47)),
            6 => Step::Effector((n % 3) as u8),
            7 => Step::Apply(n % 2),
            _ => Step::Advance(u64::from(n % 5) * 900),
        })
        .collect();
    let (one, two) = (run(1, &steps), run(1, &steps));
    assert!(one.decisions.len() > 10);
    assert_eq!(one.record(), two.record());
    assert_eq!(format!("{:?}", one.events), format!("{:?}", two.events));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Requirement: R3-13, R3-24
    #[test]
    fn no_life_breaks_the_promises_of_the_loop(steps in steps()) {
        let mut s = run(1, &steps);
        let letters = s.tally().told + s.tally().asks;
        prop_assert!(letters <= 40 * (steps.len() as u64 + 20), "{letters} letters");
        // What is on its way comes to its end once effectors answer again, or patience does.
        s.effector(|_| Some(Ok(String::new())));
        s.wait(200);
        for decision in s.decisions.values() {
            prop_assert!(settled(decision), "{decision:#?}");
            prop_assert!(decision.outcomes.iter().all(|o| o.status != OutcomeStatus::Interrupted)
                || steps.iter().any(|s| matches!(s, Step::Detach(_))));
        }
        prop_assert_eq!(s.quarantined(), 0);
    }

    /// Where nothing happens at the same moment in several services, it does not matter who lives in which shard.
    #[test]
    fn the_number_of_shards_decides_nothing(
        costs in prop::collection::vec((0..3_usize, 0_u32..40, 1_u64..9_000, any::<bool>()), 1..60),
    ) {
        let lives: Vec<String> = [1, 2, 3]
            .into_iter()
            .map(|shards| {
                let mut s = common::shop(shards);
                for (which, cost, ms, fine) in &costs {
                    let fine = *fine;
                    s.effector(move |_| Some(if fine { Ok("ok".into()) } else { Err("broken".into()) }));
                    s.push(["B", "C1", "C2"][*which], "cost", f64::from(*cost));
                    s.advance(Duration::from_millis(*ms));
                }
                s.record()
            })
            .collect();
        prop_assert_eq!(&lives[0], &lives[1]);
        prop_assert_eq!(&lives[0], &lives[2]);
    }

    #[test]
    fn alarms_tell_only_of_changes(values in prop::collection::vec((prop_oneof![-5.0..60.0, Just(f64::NAN)], 0_u64..40_000), 1..60)) {
        let yaml = "service: A\nmonitor: { sensors: { x: { push: { stale_after: 20s } } }, metrics: { m: { of: x, aggregate: avg, over: 30s } } }\nanalyze:\n  a: { objective: x < 30, warn: x < 20, for: 7s, recover_for: 11s, missing: alarm }\n  b: { objective: m < 30, warn: x < 25, missing: violate, for: 3s }\n  c: { objective: 10 <= x && x <= 40, missing: hold }\n  d: { objective: x < 10 || m > 3, missing: ok, recover_for: 2s }\n";
        let mut s = Sim::new(1);
        s.apply(&policies(&[("p.yaml", yaml)]));
        for (value, ms) in values {
            s.push("A", "x", value);
            s.advance(Duration::from_millis(ms));
        }
        for (slo, kinds) in alarms(&s) {
            prop_assert!(alternates(&kinds), "{slo:?}: {kinds:?}");
        }
    }
}
