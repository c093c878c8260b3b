//! From an alarm to the outcome of a plan: which strategy, what it reads, who carries it out, and what is recorded.

mod common;

use std::sync::{Arc, Mutex};

use common::{START, Sim, action, policies, shop, shop_policies, simulate, simulate_files};
use homeostat::model::{
    Action, Alarm, AlarmKind, DecisionId, MissingReason, Outcome, OutcomeStatus, Reading, SloState, Verdict,
};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::message::{Lasting, Letter, Perform, Request, Response, Restored};
use serde_json::json;

use OutcomeStatus::{Done, Failed, NoRoute, Refused, Skipped, Undone};

/// A service whose metric `x` must stay below 10, with these rows and effectors.
fn planned(rows: &str, execute: &str) -> String {
    format!(
        "service: A\nreferences: {{ c: {{ service: C1, candidates: [C2] }}, d: {{ service: C1, candidates: [C2] }} }}\nmonitor: {{ sensors: {{ x: push }} }}\nanalyze: {{ slo: {{ objective: x < 10, warn: x < 5 }} }}\nplan: {rows}\nexecute: {execute}\n---\nservice: C1\nmonitor: {{ sensors: {{ x: push }} }}\n---\nservice: C2\nmonitor: {{ sensors: {{ x: push }} }}\nexecute: {{ set: {{ log: {{}} }} }}\n"
    )
}

fn with_script(rows: &str, script: &str) -> Sim {
    simulate_files(&[("p.yaml", &planned(rows, "{ set: { log: {} } }")), ("s.rhai", script)])
}

fn statuses(outcomes: &[Outcome]) -> Vec<OutcomeStatus> {
    outcomes.iter().map(|o| o.status.clone()).collect()
}

/// Requirement: R3-05
#[test]
fn a_loop_decides_by_itself_when_the_service_that_sums_everything_up_is_gone() {
    let rows = "[ { when: slo, do: [ { set: { property: threads, value: 10 } } ], mode: act } ]";
    let local = planned(rows, "{ set: { log: {} } }");
    let central = "---\nservice: centre\nmonitor: { metrics: { all: { of: x, from: {}, aggregate: sum } } }\nanalyze: { slo: { objective: all < 1000 } }\n";
    let mut s = simulate(&format!("{local}{central}"));
    s.push("A", "x", 1.0);
    assert_eq!(s.value("centre", "all"), Some(1.0));
    s.detach("centre");
    s.push("A", "x", 11.0);
    assert_eq!(s.outcomes("A"), [Done], "in the turn of the sample itself");
    s.push("A", "x", 1.0);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Ok));
}

/// Requirement: R3-52
#[test]
fn a_cost_of_exactly_thirty_is_an_alarm() {
    let mut s = Sim::new(1);
    s.apply(&shop_policies());
    for (service, cost) in [("B", 18.0), ("C2", 5.0), ("C1", 11.0)] {
        s.push(service, "cost", cost);
    }
    assert!(s.decisions.is_empty(), "29");
    s.push("C1", "cost", 12.0);
    let first = s.decisions_of("A")[0].clone();
    assert_eq!(first.alarm.unwrap().condition, "cost >= 30");
    assert_eq!(s.value("A", "cost"), Some(23.0));
}

/// Requirement: R3-52, R3-13
#[test]
fn once_a_plan_is_carried_out_and_observed_planning_again_yields_nothing() {
    for shards in [1, 2, 3] {
        let mut s = shop(shards);
        let (decisions, strategies) = (s.decisions.len(), s.tally().strategies);
        for _ in 0..100 {
            s.push("B", "cost", 18.0);
            s.push("C2", "cost", 5.0);
            s.push("C1", "cost", 20.0);
            s.wait(10);
        }
        assert_eq!((s.decisions.len(), s.tally().strategies), (decisions, strategies));
        assert_eq!((s.get("A", "cost").value(), s.tally().alarms), (Some(23.0), 2));
    }
}

/// Requirement: R3-53
#[test]
fn without_an_alarm_no_strategy_runs() {
    let mut s = Sim::new(1);
    s.apply(&shop_policies());
    for n in 0..100 {
        s.push("B", "cost", f64::from(n % 9));
        s.push("C1", "cost", 20.0);
        s.wait(1);
    }
    assert_eq!((s.tally().alarms, s.tally().strategies, s.tally().asks), (0, 0, 0));
}

/// Requirement: R3-54
#[test]
fn the_strategy_is_chosen_by_slo_alarm_and_severity() {
    let notify = |text: &str| format!("do: [ {{ notify: {{ text: {text} }} }} ], mode: act");
    let yaml = format!(
        "service: A\nmonitor: {{ sensors: {{ cost: push, t: push, load: push }} }}\nanalyze:\n  cost: {{ objective: cost < 30, warn: cost < 20 }}\n  t: {{ objective: t < 2, severity: critical }}\n  load: {{ objective: load < 1, severity: minor }}\nplan:\n  - {{ when: cost, on: [warning], {} }}\n  - {{ when: [cost], {} }}\n  - {{ when: \"*\", severity: critical, {} }}\n  - {{ when: t, {} }}\n  - {{ when: t, also: true, {} }}\nexecute: {{}}\n",
        notify("w"),
        notify("replace"),
        notify("urgent"),
        notify("never"),
        notify("also")
    );
    let mut s = simulate(&yaml);
    let texts = |s: &Sim| -> Vec<String> {
        let actions = s.decisions_of("A").into_iter().flat_map(|d| d.plan.clone().unwrap().actions);
        actions.map(|a| a.to_string()).collect()
    };
    s.push("A", "cost", 25.0);
    s.push("A", "cost", 35.0);
    s.push("A", "t", 3.0);
    assert_eq!(texts(&s), ["notify(w)", "notify(replace)", "notify(urgent)", "notify(also)"]);
    s.push("A", "load", 2.0);
    assert_eq!(s.verdicts("A").last(), Some(&Verdict::NoStrategy));
    assert!(s.events.iter().any(|e| e.text.contains("no strategy")), "{:?}", s.events);
}

/// Requirement: R3-55
#[test]
fn plans_follow_the_published_schema_of_actions() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema/action.schema.json");
    let schema = match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).unwrap(),
        Err(_) => serde_json::to_value(schemars::schema_for!(Action)).unwrap(),
    };
    let validator = jsonschema::validator_for(&schema).unwrap();
    let script = "fn plan(alarm) { [replace(\"C1\", \"C2\"), unbind(\"B\", \"b1\"), set(\"C2\", \"threads\", 10), notify(\"x\"), remember(\"k\", [1, #{a: 2}]), enable_slo(\"slo\"), publish(\"m\", 2.5), invoke(\"C2\", \"m\", [1, \"a\"]), start(\"C2\"), restart(\"C2\"), bind(\"c\", \"C2\")] }";
    let mut s = with_script("[ { when: slo, run: s.rhai, mode: advise } ]", script);
    s.push("A", "x", 50.0);
    let decision = s.decisions_of("A")[0].clone();
    assert_eq!(decision.verdict, Verdict::Proposed);
    let actions = decision.plan.unwrap().actions;
    assert_eq!(actions.len(), 11);
    for action in &actions {
        let json = serde_json::to_value(action).unwrap();
        assert!(validator.is_valid(&json), "{json}");
        assert_eq!(&serde_json::from_value::<Action>(json).unwrap(), action);
    }
    assert!(!validator.is_valid(&json!({"replace": {"from": "C1"}})));
    assert!(s.performed.is_empty(), "a proposal is only proposed");
}

/// Requirement: R3-56, R3-24
#[test]
fn a_strategy_is_run_again_when_the_readings_of_others_are_there() {
    let script = "fn plan(alarm) { let sum = 0.0; for c in candidates(\"c\") { sum += metric(c, \"x\"); } because(`${sum}`); [] }";
    let mut s = with_script("[ { when: slo, run: s.rhai, mode: act, cooldown: 1s } ]", script);
    s.push("C1", "x", 3.0);
    s.push("C2", "x", 4.0);
    s.push("A", "x", 50.0);
    let plan = s.decisions_of("A")[0].plan.clone().unwrap();
    assert_eq!(plan.reasons, ["7.0"]);
    assert_eq!(plan.readings.keys().collect::<Vec<_>>(), ["C1.x", "C2.x"]);
    assert_eq!((s.tally().strategies, s.tally().asks), (2, 2));
}

#[test]
fn readings_of_services_that_are_not_there_are_missing_by_name() {
    let script = "fn plan(alarm) { let r = reading(\"nobody\", \"x\"); because(`${r.state}`); [] }";
    let mut s = with_script("[ { when: slo, run: s.rhai, mode: act } ]", script);
    s.push("A", "x", 50.0);
    let plan = s.decisions_of("A")[0].plan.clone().unwrap();
    assert_eq!(plan.readings["nobody.x"], Reading::missing(MissingReason::NoSuchService("nobody".into())));
    assert_eq!(plan.reasons, ["missing"]);
}

#[test]
fn a_service_that_never_answers_costs_patience_and_is_named() {
    let yaml = "service: A\nreferences: { b: { service: B } }\nmonitor: { sensors: { x: push } }\nanalyze: { slo: { objective: x < 10 } }\nplan: [ { when: slo, run: s.rhai, mode: act, cooldown: 10s } ]\nexecute: {}\n---\nservice: B\nmonitor: { sensors: { y: { exec: { command: [x] } } } }\n";
    let script = "fn plan(alarm) { let r = reading(\"b\", \"y\"); [] }";
    let mut s = Sim::new(1);
    s.apply(&policies(&[("p.yaml", yaml), ("s.rhai", script)]));
    s.on_demand(|_, _| None);
    s.push("A", "x", 50.0);
    s.wait(5);
    let plan = s.decisions_of("A")[0].plan.clone().unwrap();
    assert!(matches!(plan.readings["B.y"], Reading::Missing { .. }), "{:?}", plan.readings);
    let before = s.decisions.len();
    s.wait(300);
    assert_eq!(s.decisions.len(), before, "the same again is no news");
}

#[test]
fn a_failing_strategy_costs_one_decision_and_is_tried_again_after_its_cooldown() {
    for (script, said) in [
        ("fn plan(alarm) { throw \"no idea\" }", "no idea"),
        ("fn plan(alarm) { loop {} }", "operations"),
        ("fn plan(alarm) { plan(alarm) }", "too deeply"),
        ("fn plan(alarm) { 7 }", ""),
        ("fn plan(alarm) { let i = 0; loop { try { reading(\"m\" + i); } catch {} i += 1; } }", "16 times"),
        ("fn plan(alarm) { let i = 0; loop { reading(\"C1\", \"m\" + i); i += 1; } }", "16 times"),
    ] {
        let mut s = with_script("[ { when: slo, run: s.rhai, mode: act, cooldown: 10s } ]", script);
        s.push("A", "x", 50.0);
        s.wait(95);
        let verdicts = s.verdicts("A");
        assert_eq!(verdicts.len(), 1, "{script}: {verdicts:?}");
        assert!(matches!(&verdicts[0], Verdict::StrategyFailed(why) if why.contains(said)), "{verdicts:?}");
        assert_eq!(s.tally().failed, 10, "{script}");
    }
}

/// Requirement: R3-57, R3-58, R3-62
#[test]
fn a_list_is_carried_out_in_order_by_the_executors_of_those_it_names() {
    let mut s = shop(1);
    s.change("service: D\n");
    s.apply(&shop_policies());
    s.send("A", vec![action(json!({"bind": {"reference": "c", "to": "C1"}}))]).unwrap();
    s.send("A", vec![action(json!({"bind": {"service": "B", "reference": "b1", "to": "D"}}))]).unwrap();
    s.performed.clear();
    let list = vec![
        action(json!({"replace": {"from": "C1", "to": "C2"}})),
        action(json!({"unbind": {"service": "B", "reference": "b1"}})),
        action(json!({"set": {"service": "C2", "property": "threads", "value": 10}})),
    ];
    let outcomes = s.send("A", list.clone()).unwrap();
    let who: Vec<_> = outcomes.iter().map(|o| (o.executor.as_str(), o.status.clone())).collect();
    assert_eq!(who, [("A", Done), ("B", Done), ("C2", Done)]);
    assert_eq!(outcomes.iter().map(|o| o.action.clone()).collect::<Vec<_>>(), list);
    assert_eq!((s.bound("A", "c"), s.bound("B", "b1")), (Some("C2".into()), None));
    let performed: Vec<_> = s.performed.iter().map(|p| (&*p.service, p.action.to_string())).collect();
    // The reference `c` has a local port, which the shell moves; `b1` has none.
    let expected = [("A", "replace(C1, C2)"), ("C2", "set(C2, threads, 10)")];
    assert_eq!(performed, expected.map(|(who, what)| (who, what.to_string())));
    let acts: Vec<_> = s.events.iter().filter(|e| e.phase == "act").map(|e| e.text.clone()).collect();
    let last = &acts[acts.len() - 3..];
    assert!(
        last[0].starts_with("replace(C1, C2) by A") && last[1].starts_with("unbind(B, b1) by B"),
        "{last:?}"
    );
    assert!(last[2].starts_with("set(C2, threads, 10) by C2"), "{last:?}");
}

/// Requirement: R3-57
#[test]
fn an_empty_list_has_no_outcomes() {
    let mut s = shop(1);
    assert_eq!(s.send("A", Vec::new()), Ok(Vec::new()));
}

/// Requirement: R3-59
#[test]
fn one_action_becomes_what_the_service_understands() {
    let mut s = simulate(
        "service: A\nreferences: { b: { service: B } }\nexecute: { set: { http: { url: \"http://127.0.0.1:1/{property}\", body: \"{value}\" } } }\n---\nservice: B\nexecute: { set: { exec: { command: [setter, \"{property}\"] } }, stop: { log: {} }, start: { log: {} } }\n",
    );
    for service in ["A", "b", "B"] {
        let set = action(json!({"set": {"service": service, "property": "threads", "value": 1}}));
        assert_eq!(statuses(&s.send("A", vec![set]).unwrap()), [Done]);
    }
    s.send("A", vec![action(json!({"restart": {"service": "B"}}))]).unwrap();
    let how: Vec<Vec<&str>> =
        s.performed.iter().map(|p| p.effectors.iter().map(|e| e.protocol()).collect()).collect();
    assert_eq!(how, [vec!["http"], vec!["exec"], vec!["exec"], vec!["log", "log"]]);
}

/// Requirement: R3-60, R3-61
#[test]
fn no_route_no_declaration_and_failure_are_three_different_outcomes() {
    let yaml = "service: A\nreferences: { b: { service: B }, z: { service: Z } }\nexecute: { set: { log: {} } }\n---\nservice: B\nexecute: {}\n---\nservice: far\nexecute: { set: { log: {} } }\n---\nservice: Z\n";
    let mut s = simulate(yaml);
    s.effector(|_| Some(Err("connection refused".into())));
    let set = |service: &str| action(json!({"set": {"service": service, "property": "p", "value": 1}}));
    let mut one = |service: &str| s.send("A", vec![set(service)]).unwrap().remove(0);
    let [far, b, z, a] = ["far", "B", "Z", "A"].map(&mut one);
    assert_eq!([far.status, b.status, z.status, a.status], [NoRoute, Refused, Refused, Failed]);
    assert!(far.detail.contains("no reference that leads to `far`"), "{}", far.detail);
    assert!(b.detail.contains("does not declare the action `set`"), "{}", b.detail);
    assert!(z.detail.contains("no executor is attached to `Z`"), "{}", z.detail);
    assert_eq!(a.detail, "connection refused");
    s.detach("B");
    let gone = s.send("A", vec![set("B")]).unwrap().remove(0);
    assert_eq!((gone.status, gone.executor.as_str()), (NoRoute, "B"));
    let bad = [
        json!({"bind": {"reference": "nix", "to": "B"}}),
        json!({"bind": {"reference": "b", "to": "far"}}),
        json!({"replace": {"from": "far", "to": "B"}}),
        json!({"enable_slo": {"slo": "nix"}}),
        json!({"publish": {"metric": "m", "value": 1.0}}),
        json!({"custom": {"name": "dance"}}),
    ];
    for json in bad {
        assert_eq!(s.send("A", vec![action(json.clone())]).unwrap()[0].status, Refused, "{json}");
    }
}

/// Requirement: R3-61
#[test]
fn after_a_failure_the_rest_stops_continues_or_is_undone() {
    let rows = |on_failure: &str| {
        format!(
            "[ {{ when: slo, mode: act, on_failure: {on_failure}, do: [ {{ bind: {{ reference: c, to: C2 }} }}, {{ set: {{ property: p, value: 1 }} }}, {{ bind: {{ reference: d, to: C2 }} }} ] }} ]"
        )
    };
    for (on_failure, expected, c, d) in [
        ("stop", [Done, Failed, Skipped], "C2", "C1"),
        ("continue", [Done, Failed, Done], "C2", "C2"),
        ("undo", [Undone, Failed, Skipped], "C1", "C1"),
    ] {
        let mut s = simulate(&planned(&rows(on_failure), "{ set: { log: {} } }"));
        s.effector(|_| Some(Err("broken".into())));
        s.push("A", "x", 50.0);
        assert_eq!(s.outcomes("A"), expected, "{on_failure}");
        assert_eq!((s.bound("A", "c"), s.bound("A", "d")), (Some(c.into()), Some(d.into())), "{on_failure}");
    }
}

#[test]
fn a_step_that_never_ends_counts_as_failed_also_while_undoing() {
    let rows = "[ { when: slo, mode: act, on_failure: undo, do: [ { start: {} }, { set: { property: p, value: 1 } } ] } ]";
    let mut s = simulate(&planned(rows, "{ set: { log: {} }, start: { log: {} }, stop: { log: {} } }"));
    s.effector(|p: &Perform| match p.action.name() {
        "set" => Some(Err("broken".into())),
        "stop" => None,
        _ => Some(Ok(String::new())),
    });
    s.push("A", "x", 50.0);
    s.wait(119);
    assert_eq!(s.outcomes("A"), [Done, Failed]);
    s.wait(1);
    let outcomes = s.decisions_of("A")[0].outcomes.clone();
    assert!(outcomes[0].detail.contains("taking it back failed: no word of its end after"), "{outcomes:?}");
    let mut s =
        simulate(&planned(&rows.replace("start: {}", "stop: {}"), "{ set: { log: {} }, stop: { log: {} } }"));
    s.effector(|_| None);
    s.push("A", "x", 50.0);
    s.wait(120);
    assert_eq!(s.outcomes("A"), [Failed, Skipped]);
}

#[test]
fn a_plan_on_its_way_is_not_started_twice() {
    let rows = "[ { when: slo, mode: act, cooldown: 1s, do: [ { set: { property: p, value: 1 } } ] } ]";
    let mut s = simulate(&planned(rows, "{ set: { log: {} } }"));
    s.effector(|_| None);
    for _ in 0..10 {
        s.push("A", "x", 50.0);
        s.wait(3);
        s.push("A", "x", 1.0);
        s.wait(3);
    }
    s.push("A", "x", 50.0);
    assert_eq!(s.performed.len(), 1, "though the SLO recovered and was violated again meanwhile");
    s.wait(120);
    assert_eq!(s.performed.len(), 2);
}

/// Requirement: R3-13
#[test]
fn while_it_does_not_help_it_is_tried_again_after_the_cooldown() {
    let rows = "[ { when: slo, mode: act, cooldown: 30s, do: [ { set: { property: p, value: 1 } } ] } ]";
    let mut s = simulate(&planned(rows, "{ set: { log: {} } }"));
    s.push("A", "x", 50.0);
    s.wait(29);
    assert_eq!(s.performed.len(), 1);
    s.wait(1);
    assert_eq!(s.performed.len(), 2);
    assert_eq!(s.decisions_of("A")[0].helped, Some(false));
    s.push("A", "x", 1.0);
    assert_eq!(s.decisions_of("A")[1].helped, Some(true));
    s.wait(300);
    assert_eq!(s.performed.len(), 2);
}

#[test]
fn a_cooldown_of_nothing_does_not_make_a_service_plan_for_ever() {
    let mut s =
        with_script("[ { when: slo, run: s.rhai, mode: act, cooldown: 1ms } ]", "fn plan(alarm) { [] }");
    s.push("A", "x", 50.0);
    s.wait(1);
    assert!(s.tally().strategies <= 11, "{}", s.tally().strategies);
}

#[test]
fn replace_rebinds_every_reference_or_none() {
    let mut s = simulate(&planned("[]", "{}"));
    let replace = action(json!({"replace": {"from": "C1", "to": "C2"}}));
    s.send("A", vec![replace.clone()]).unwrap();
    assert_eq!((s.bound("A", "c"), s.bound("A", "d")), (Some("C2".into()), Some("C2".into())));
    assert_eq!(s.lasting.len(), 2);
    let narrow = planned("[]", "{}").replace("d: { service: C1, candidates: [C2] }", "d: { service: C1 }");
    let mut s = simulate(&narrow);
    assert_eq!(s.send("A", vec![replace]).unwrap()[0].status, Refused);
    assert_eq!((s.bound("A", "c"), s.bound("A", "d")), (Some("C1".into()), Some("C1".into())));
    assert!(s.lasting.is_empty());
}

#[test]
fn a_binding_made_by_action_stays_while_the_policy_declares_the_same() {
    let yaml = planned("[]", "{}");
    let mut s = simulate(&yaml);
    s.send("A", vec![action(json!({"replace": {"from": "C1", "to": "C2"}}))]).unwrap();
    let wider =
        yaml.replace("c: { service: C1, candidates: [C2] }", "c: { service: C1, candidates: [C2, C3] }");
    s.change(&format!("{wider}---\nservice: C3\n"));
    assert_eq!(s.bound("A", "c"), Some("C2".into()), "one more candidate is no reason to move");
    s.change(&yaml.replace("c: { service: C1, candidates: [C2] }", "c: { service: C1 }"));
    assert_eq!(s.bound("A", "c"), Some("C1".into()), "C2 is no candidate any more");
    let declared =
        Lasting::Binding { reference: "c".into(), to: Some("C1".into()), declared: Some("C1".into()) };
    assert_eq!(s.lasting.last(), Some(&("A".into(), declared)));
}

/// Requirement: R3-15
#[test]
fn the_events_of_one_adaptation_come_in_order_with_one_correlation() {
    let s = shop(1);
    let id = Some("A/1".to_string());
    let phases: Vec<_> = s.events.iter().filter(|e| e.correlation == id).map(|e| e.phase.as_str()).collect();
    assert_eq!(phases, ["collect", "analyse", "decide", "act"]);
}

#[test]
fn a_proposal_waits_for_a_yes_and_an_observation_takes_none() {
    let rows = |mode: &str| {
        format!("[ {{ when: slo, mode: {mode}, do: [ {{ set: {{ property: p, value: 1 }} }} ] }} ]")
    };
    let mut s = simulate(&planned(&rows("advise"), "{ set: { log: {} } }"));
    s.push("A", "x", 50.0);
    s.wait(300);
    assert_eq!((s.verdicts("A"), s.performed.len()), (vec![Verdict::Proposed], 0));
    let Some(Response::Outcomes(outcomes)) = s.call("A", Request::Approve(DecisionId(1))) else {
        panic!("refused")
    };
    assert_eq!((statuses(&outcomes), s.outcomes("A")), (vec![Done], vec![Done]));
    assert_eq!(s.error("A", Request::Approve(DecisionId(1))).slug(), "conflict");
    assert_eq!(s.error("A", Request::Approve(DecisionId(9))).slug(), "invalid");
    let mut s = simulate(&planned(&rows("observe"), "{ set: { log: {} } }"));
    s.push("A", "x", 50.0);
    assert_eq!(s.error("A", Request::Approve(DecisionId(1))).slug(), "conflict");
}

/// Requirement: R3-49
#[test]
fn an_alarm_from_outside_is_planned_for() {
    let rows = "[ { when: \"*\", mode: act, do: [ { set: { property: p, value: 1 } } ] } ]";
    let mut s = simulate(&planned(rows, "{ set: { log: {} } }"));
    let alarm = |service: &str, kind| Alarm {
        service: service.into(),
        slo: "elsewhere".into(),
        kind,
        severity: Default::default(),
        condition: "disk full".into(),
        values: Default::default(),
        at: START,
    };
    assert_eq!(s.call("A", Request::Notify(alarm("A", AlarmKind::Violation))), Some(Response::Done));
    assert_eq!(s.outcomes("A"), [Done]);
    s.call("A", Request::Notify(alarm("A", AlarmKind::Recovered)));
    s.wait(300);
    assert_eq!(s.performed.len(), 1);
    assert_eq!(s.error("A", Request::Notify(alarm("B", AlarmKind::Violation))).slug(), "invalid");
    assert_eq!(
        s.error("C1", Request::Notify(alarm("C1", AlarmKind::Violation))).slug(),
        "no-planner-attached"
    );
}

#[test]
fn lists_that_an_executor_leaves_behind_have_an_outcome_for_every_action() {
    let rows = "[ { when: slo, mode: act, cooldown: 1s, do: [ { set: { property: p, value: 1 } }, { set: { property: q, value: 1 } } ] } ]";
    let yaml = planned(rows, "{ set: { log: {} } }");
    let mut s = simulate(&yaml);
    s.effector(|_| None);
    s.push("A", "x", 50.0);
    s.strip("A", &yaml, |policy| policy.execute = None);
    assert_eq!(s.outcomes("A"), [OutcomeStatus::Interrupted, Skipped]);
    s.wait(10);
    assert_eq!(s.verdicts("A"), [Verdict::Planned, Verdict::NoExecutor]);
    s.effector(|_| Some(Ok(String::new())));
    s.change(&yaml);
    s.wait(5);
    assert_eq!(s.verdicts("A").last(), Some(&Verdict::Planned), "it plans again");
    s.effector(|_| None);
    s.wait(1);
    s.detach("A");
    assert_eq!(s.decisions_of("A").last().unwrap().outcomes.len(), 2);
}

#[test]
fn the_outcomes_of_a_long_queue_are_all_recorded() {
    let mut s = simulate(&planned("[]", "{ set: { log: {} } }"));
    let held: Arc<Mutex<Vec<String>>> = Arc::default();
    let keys = held.clone();
    s.effector(move |p| {
        keys.lock().unwrap().push(p.key.clone());
        None
    });
    for n in 0..200 {
        s.ask("A", Request::SendActions(vec![action(json!({"set": {"property": "p", "value": n}}))]));
    }
    for n in 0..200 {
        let key = held.lock().unwrap()[n].clone();
        s.letter("A", homeostat::service::message::Letter::Performed { key, result: Ok(String::new()) });
    }
    assert!(s.decisions_of("A").iter().all(|d| d.outcomes.len() == 1));
    assert_eq!(s.tally().outcomes["done"], 200);
}

/// Requirement: R3-62
#[test]
fn every_verb_does_its_part() {
    let yaml = "service: A\nreferences: { b: { service: B, candidates: [C] } }\nmonitor: { sensors: { x: push } }\nanalyze: { slo: { objective: x < 1 } }\nexecute: { set: { log: {} }, start: { log: {} }, stop: { log: {} }, restart: { log: {} }, invoke: { log: {} }, dance: { log: {} } }\n---\nservice: B\n---\nservice: C\n";
    let mut s = simulate(yaml);
    let list = [
        json!({"set": {"property": "p", "value": [1, 2]}}),
        json!({"bind": {"reference": "b", "to": "C"}}),
        json!({"unbind": {"reference": "b"}}),
        json!({"bind": {"reference": "b", "to": "B"}}),
        json!({"replace": {"from": "B", "to": "C"}}),
        json!({"stop": {}}),
        json!({"start": {}}),
        json!({"restart": {}}),
        json!({"invoke": {"method": "m", "params": [1]}}),
        json!({"disable_slo": {"slo": "slo"}}),
        json!({"enable_slo": {"slo": "slo"}}),
        json!({"publish": {"metric": "y", "value": 4.5}}),
        json!({"notify": {"text": "hello"}}),
        json!({"remember": {"key": "k", "value": {"a": 1}}}),
        json!({"custom": {"name": "dance", "args": {"with": "me"}}}),
    ];
    let outcomes = s.send("A", list.into_iter().map(action).collect()).unwrap();
    assert!(outcomes.iter().all(|o| o.status == Done && o.executor == "A"), "{outcomes:#?}");
    assert_eq!((s.value("A", "y"), s.bound("A", "b")), (Some(4.5), Some("C".into())));
    assert_eq!(
        s.performed.iter().map(|p| p.action.name()).collect::<Vec<_>>(),
        ["set", "stop", "start", "restart", "invoke", "dance"]
    );
    assert_eq!(s.slo("A", "slo"), Some(SloState::Unknown));
}

/// Requirement: R3-16
#[test]
fn a_dead_service_is_replaced_and_an_overload_is_limited() {
    let yaml = "service: A\nreferences: { c: { service: C1, candidates: [C2] } }\nmonitor: { sensors: { rate: push } }\nanalyze:\n  alive: { objective: c.up > 0, missing: violate }\n  load: { objective: rate < 100 }\nplan:\n  - { when: alive, mode: act, do: [ { replace: { from: C1, to: C2 } } ] }\n  - { when: load, mode: act, do: [ { set: { property: limit, value: 100 } } ] }\n  - { when: load, on: [recovered], mode: act, do: [ { set: { property: limit, value: null } } ] }\nexecute: { set: { log: {} } }\n---\nservice: C1\nmonitor: { metrics: { up: 1 } }\n---\nservice: C2\nmonitor: { metrics: { up: 1 } }\n";
    let mut s = simulate(yaml);
    s.detach("C1");
    s.wait(5);
    assert_eq!((s.bound("A", "c"), s.slo("A", "alive")), (Some("C2".into()), Some(SloState::Ok)));
    s.push("A", "rate", 150.0);
    s.push("A", "rate", 50.0);
    let set: Vec<_> = s.performed.iter().map(|p| p.action.to_string()).collect();
    assert_eq!(set, ["set(limit, 100)", "set(limit, null)"]);
}

const APPROVE: &str = "[ { when: slo, run: s.rhai, mode: approve, cooldown: 10s, expires: 1m } ]";
const SET_BY_X: &str = "fn plan(alarm) { if metric(\"x\") > 90 { [] } else if metric(\"x\") > 70 { [set(\"p\", 2)] } else { [set(\"p\", 1)] } }";

fn withdrawn(s: &Sim, decision: usize) -> String {
    match &s.decisions_of("A")[decision - 1].verdict {
        Verdict::Withdrawn(why) => why.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plan_that_nobody_approves_in_time_is_withdrawn_and_made_anew() {
    let mut s = with_script(APPROVE, SET_BY_X);
    s.push("A", "x", 50.0);
    let expires = s.decisions_of("A")[0].expires.unwrap();
    assert_eq!(expires.since(START).as_secs(), 60);
    s.wait(59);
    assert_eq!(s.verdicts("A"), [Verdict::Proposed], "the same plan is not proposed twice");
    s.wait(1);
    assert!(withdrawn(&s, 1).contains("in time"));
    assert_eq!(s.error("A", Request::Approve(DecisionId(1))).slug(), "conflict");
    s.wait(10);
    assert_eq!(s.verdicts("A")[1..], [Verdict::Proposed]);
    let approved = s.call("A", Request::Approve(DecisionId(2)));
    assert!(matches!(&approved, Some(Response::Outcomes(o)) if statuses(o) == [Done]), "{approved:?}");
    assert_eq!(s.performed.len(), 1);
    s.push("A", "x", 1.0);
    assert_eq!(s.decisions_of("A")[1].helped, Some(true));
}

#[test]
fn what_waits_for_approval_is_withdrawn_when_it_no_longer_fits() {
    let mut s = with_script(APPROVE, SET_BY_X);
    s.push("A", "x", 50.0);
    s.push("A", "x", 80.0);
    s.wait(11);
    assert_eq!(withdrawn(&s, 1), "decision 2 takes its place");
    s.push("A", "x", 95.0);
    s.wait(11);
    assert_eq!(withdrawn(&s, 2), "decision 3 takes its place");
    assert_eq!(s.verdicts("A")[2..], [Verdict::Nothing]);
    s.push("A", "x", 50.0);
    s.wait(11);
    assert_eq!(s.verdicts("A")[3..], [Verdict::Proposed]);
    s.push("A", "x", 1.0);
    assert_eq!(withdrawn(&s, 4), "the SLO has recovered");
    s.push("A", "x", 50.0);
    s.wait(11);
    s.change(&planned("[]", "{ set: { log: {} } }"));
    assert_eq!(withdrawn(&s, 5), "the policy has changed");
    assert_eq!(s.error("A", Request::Approve(DecisionId(5))).slug(), "conflict");
    assert!(s.performed.is_empty());
}

#[test]
fn a_rejected_plan_is_not_proposed_again_for_the_same_alarm() {
    let mut s = with_script(APPROVE, SET_BY_X);
    s.push("A", "x", 50.0);
    assert_eq!(s.call("A", Request::Reject(DecisionId(1))), Some(Response::Done));
    assert_eq!(withdrawn(&s, 1), "rejected by an operator");
    assert_eq!(s.error("A", Request::Reject(DecisionId(1))).slug(), "conflict");
    assert_eq!(s.error("A", Request::Approve(DecisionId(1))).slug(), "conflict");
    s.wait(300);
    assert_eq!(s.verdicts("A").len(), 1);
    s.push("A", "x", 1.0);
    s.push("A", "x", 50.0);
    s.wait(11);
    assert_eq!(s.verdicts("A")[1..], [Verdict::Proposed]);
}

#[test]
fn an_approved_plan_is_not_proposed_again_while_it_is_carried_out() {
    let mut s = with_script(APPROVE, SET_BY_X);
    s.effector(|_| None);
    s.push("A", "x", 50.0);
    s.call("A", Request::Approve(DecisionId(1)));
    s.wait(50);
    assert_eq!(s.verdicts("A"), [Verdict::Planned]);
}

#[test]
fn proposals_of_an_earlier_run_can_be_approved_until_they_expire() {
    let yaml = planned(APPROVE, "{ set: { log: {} } }");
    let files = [("p.yaml", yaml.as_str()), ("s.rhai", SET_BY_X)];
    let mut before = simulate_files(&files);
    before.push("A", "x", 50.0);
    let proposals: Vec<_> = before.decisions_of("A").into_iter().cloned().collect();
    let restart = |wait: u64| {
        let mut s = Sim::new(1);
        s.wait(wait);
        let policy = policies(&files).services["A"].clone();
        s.attach(policy, Restored { decisions: 1, proposals: proposals.clone(), ..Restored::default() });
        s
    };
    let mut s = restart(30);
    let approved = s.call("A", Request::Approve(DecisionId(1)));
    assert!(matches!(&approved, Some(Response::Outcomes(o)) if statuses(o) == [Done]), "{approved:?}");
    let mut s = restart(30);
    s.wait(30);
    assert!(withdrawn(&s, 1).contains("in time"));
    let mut s = restart(30);
    s.push("A", "x", 50.0);
    assert_eq!(withdrawn(&s, 1), "decision 2 takes its place");
}

const SLOW: &str = "[ { when: slo, run: s.rhai, mode: act, slow: 10s } ]";

#[test]
fn a_script_declared_slow_runs_aside_and_comes_to_the_same() {
    let script = "fn plan(alarm) { let n = 0; for i in 0..60000 { n += i; } let name = \"co\" + \"st\"; because(`${metric(\"x\")}`); if metric(\"C2\", name) > metric(\"own\" + \"2\") { [set(\"p\", n)] } else { [] } }";
    let rows = |slow: &str| format!("[ {{ when: slo, run: s.rhai, mode: act{slow} }} ]");
    let run = |slow: &str| {
        let yaml = planned(&rows(slow), "{ set: { log: {} } }")
            .replace("x: push } }\nanalyze", "x: push, own2: push } }\nanalyze")
            .replace(
                "service: C2\nmonitor: { sensors: { x: push",
                "service: C2\nmonitor: { sensors: { x: push, cost: push",
            );
        let mut s = simulate_files(&[("p.yaml", &yaml), ("s.rhai", script)]);
        s.push("A", "own2", 2.0);
        s.push("C2", "cost", 3.0);
        s.push("A", "x", 50.0);
        s
    };
    let here = run("");
    assert!(matches!(&here.verdicts("A")[..], [Verdict::StrategyFailed(why)] if why.contains("operations")));
    let aside = run(", slow: 10s");
    assert_eq!(aside.verdicts("A"), [Verdict::Planned]);
    assert_eq!(aside.outcomes("A"), [Done]);
    let plan = aside.decisions_of("A")[0].plan.clone().unwrap();
    assert_eq!(plan.readings.len(), 3, "{:?}", plan.readings);
    assert_eq!(plan.reasons, ["50.0"]);
}

#[test]
fn what_a_script_aside_comes_to_is_dropped_when_nobody_wants_it_any_more() {
    let mut s = with_script(SLOW, "fn plan(alarm) { [set(\"p\", 1)] }");
    let run = |end: &str| -> Letter {
        serde_json::from_value(json!({"ran_aside": {"token": 1, "run": {"end": serde_json::from_str::<serde_json::Value>(end).unwrap(), "reads": {}, "reasons": [], "log": [], "progress": 1, "cut": null}}}))
            .unwrap()
    };
    s.letter("A", run("{\"actions\": []}"));
    assert!(s.decisions.is_empty(), "there was no such run");
    s.push("A", "x", 50.0);
    assert_eq!(s.performed.len(), 1);
    s.letter("A", run("{\"actions\": []}"));
    assert_eq!(s.verdicts("A"), [Verdict::Planned], "a run ends once");
}

#[test]
fn a_row_that_cannot_be_slow_is_refused_with_the_reason() {
    for (row, why) in [
        ("{ when: slo, run: s.rhai, slow: 0s }", "at most 1m"),
        ("{ when: slo, run: s.rhai, slow: 2m }", "at most 1m"),
        ("{ when: slo, do: [ { notify: { text: t } } ], slow: 1s }", "has no `run`"),
        ("{ when: slo, run: s.rhai, expires: 1m }", "is for `mode: approve`"),
        ("{ when: slo, run: s.rhai, mode: approve, expires: 0s }", "nobody could approve"),
    ] {
        let yaml = planned(&format!("[ {row} ]"), "{}");
        let files = [("p.yaml", yaml.as_str()), ("s.rhai", "fn plan(alarm) { [] }")];
        let problems = PolicySet::from_sources(&Sources::from_texts(files), None).unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(why) && said[0].contains("p.yaml:5:"), "{said:?}");
    }
}
