//! The running example of S3, in virtual time: from a sample to the outcome of the plan.

mod common;

use common::{shop, simulate};
use homeostat::model::{Action, AlarmKind, OutcomeStatus, SloState, Verdict};

/// Requirement: R3-52
#[test]
fn the_planner_replaces_c1_by_c2() {
    for shards in [1, 3] {
        let mut s = shop(shards);
        assert_eq!(s.get("A", "cost").fresh(), Some(23.0));
        assert_eq!(s.slo("A", "cheap"), Some(SloState::Ok));
        let decisions = s.decisions_of("A");
        let first = decisions[0];
        let alarm = first.alarm.as_ref().expect("an alarm");
        assert_eq!((alarm.kind, alarm.condition.as_str()), (AlarmKind::Violation, "cost >= 30"));
        let plan = first.plan.as_ref().expect("a plan");
        let replace = Action::Replace { service: None, from: "C1".into(), to: "C2".into() };
        assert_eq!(plan.actions, [replace]);
        let read: Vec<&str> = plan.readings.keys().map(String::as_str).collect();
        assert_eq!(read, ["B.cost", "C1.cost", "C2.cost"]);
        assert_eq!(first.outcomes[0].status, OutcomeStatus::Done);
        assert_eq!(first.helped, Some(true));
    }
}

/// Requirement: R3-50
#[test]
fn cost_of_a_is_the_sum_and_compliant() {
    let mut s = simulate(
        "service: A\nreferences: { b: { service: B }, c: { service: C } }\nmonitor: { metrics: { cost: b.cost + c.cost } }\nanalyze: { cheap: { objective: cost < 30 } }\n---\nservice: B\nmonitor: { sensors: { cost: push } }\n---\nservice: C\nmonitor: { sensors: { cost: push } }\n",
    );
    s.push("B", "cost", 18.0);
    s.push("C", "cost", 10.0);
    assert_eq!(s.get("A", "cost").fresh(), Some(28.0));
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Ok));
    assert!(s.decisions.is_empty());
    s.push("C", "cost", 12.0);
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Violated), "exactly 30 is a violation");
    assert_eq!(s.decisions_of("A")[0].verdict, Verdict::NoPlanner);
}
