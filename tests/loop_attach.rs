//! Components come and go while the service runs; the rest of its loop stays as it is.

mod common;

use common::{Sim, policies, simulate};
use homeostat::model::ports::{PortError, SubscriptionMode};
use homeostat::model::{AlarmKind, HumanDuration, MissingReason, Reading, SloState, Verdict};
use homeostat::policy::set::PolicySet;
use homeostat::service::message::{Lasting, Request, Response, Restored};

const M: &str = "monitor: { sensors: { cost: push } }\n";
const A: &str = "analyze: { cheap: { objective: cost < 30 } }\n";
const P: &str = "plan: [ { when: cheap, do: [ { notify: { text: dear } } ], mode: act, cooldown: 1s } ]\n";
const E: &str = "execute: {}\n";

/// Three services with these components each.
fn three(components: [&str; 3]) -> String {
    let section = |c: char| match c {
        'M' => M,
        'A' => A,
        'P' => P,
        _ => E,
    };
    let service = |(name, letters): (&str, &str)| {
        format!("service: {name}\n{}", letters.chars().map(section).collect::<String>())
    };
    ["A", "B", "C"].into_iter().zip(components).map(service).collect::<Vec<_>>().join("---\n")
}

/// Requirement: R3-02, R3-03, R3-06
#[test]
fn components_are_attached_and_detached_one_by_one() {
    let (mut s, mut running) = (Sim::new(1), PolicySet::default());
    let steps = [
        ["", "", ""],
        ["M", "M", "M"],
        ["MA", "M", "M"],
        ["MAP", "M", "M"],
        ["MAPE", "M", "ME"],
        ["MAPE", "MAPE", "MAPE"],
        ["MAPE", "MAE", "ME"],
        ["MAPE", "ME", "E"],
        ["MAPE", "", "ME"],
    ];
    for step in steps {
        s.reapply(&mut running, &three(step));
        for (service, expected) in ["A", "B", "C"].into_iter().zip(step) {
            assert_eq!(s.components(service), expected, "{service} in {step:?}");
            s.push(service, "cost", 10.0);
            let value = s.get(service, "cost").value();
            assert_eq!(value, expected.contains('M').then_some(10.0), "{service} in {step:?}");
        }
        s.wait(1);
    }
    s.push("A", "cost", 31.0);
    assert_eq!(s.verdicts("A"), [Verdict::Planned]);
}

/// Requirement: R3-02
#[test]
fn only_the_component_that_changed_gets_a_new_identity() {
    let mut s = simulate(&three(["MAPE", "", ""]));
    let ids = |s: &mut Sim| -> Vec<String> {
        s.status("A").unwrap().components.into_iter().map(|c| c.id).collect()
    };
    let before = ids(&mut s);
    s.change(&three(["MAPE", "", ""]));
    assert_eq!(ids(&mut s), before, "the same policy again changes nothing");
    s.change(&three(["MAPE", "", ""]).replace("cost < 30", "cost < 20"));
    let after = ids(&mut s);
    assert_ne!(after[1], before[1]);
    assert_eq!((&after[0], &after[2..]), (&before[0], &before[2..]));
}

/// Requirement: R3-06
#[test]
fn a_port_without_its_component_says_so() {
    let mut s = simulate("service: A\nmonitor: { sensors: { cost: push } }\n---\nservice: N\n");
    let name = |s: &str| s.to_string();
    assert_eq!(s.error("A", Request::SloList), PortError::NoAnalyzerAttached(name("A")));
    let enable = Request::EnableSlo { name: name("x"), on: true };
    assert_eq!(s.error("A", enable), PortError::NoAnalyzerAttached(name("A")));
    let send = Request::SendActions(vec![common::action(serde_json::json!({ "start": {} }))]);
    assert_eq!(s.error("A", send.clone()), PortError::NoExecutorAttached(name("A")));
    assert_eq!(s.error("N", Request::MetricList), PortError::NoMonitorAttached(name("N")));
    assert_eq!(s.error("nobody", send), PortError::NoSuchService(name("nobody")));
    s.push("A", "cost", 1.0);
    assert_eq!(s.value("A", "cost"), Some(1.0));
}

/// Requirement: R3-08
#[test]
fn the_wires_are_those_between_components_that_are_there() {
    let mut s = simulate(&three(["MAPE", "M", ""]));
    let wires = |s: &mut Sim| -> Vec<String> {
        s.status("A").unwrap().wires.iter().map(|w| format!("{}>{}:{}", w.from, w.to, w.port)).collect()
    };
    assert_eq!(
        wires(&mut s),
        [
            "A/analyze>A/monitor:metrics",
            "A/analyze>A/plan:alarms",
            "A/plan>A/execute:actions",
            "A/plan>A/monitor:metrics"
        ]
    );
    s.strip("A", &three(["MAPE", "M", ""]), |policy| policy.monitor = None);
    assert_eq!(s.components("A"), "APE");
    assert_eq!(wires(&mut s), ["A/analyze>A/plan:alarms", "A/plan>A/execute:actions"]);
}

/// Requirement: R3-08
#[test]
fn without_a_monitor_a_plan_that_needs_a_metric_fails_by_name() {
    let yaml = "service: A\nmonitor: { sensors: { cost: push } }\nanalyze: { cheap: { objective: cost < 30 } }\nplan: [ { when: cheap, run: s.rhai, mode: act, cooldown: 5s } ]\nexecute: { set: { log: {} } }\n";
    let files = [("p.yaml", yaml), ("s.rhai", "fn plan(alarm) { [set(\"x\", metric(\"cost\"))] }")];
    let mut s = common::simulate_files(&files);
    s.push("A", "cost", 40.0);
    assert_eq!(s.verdicts("A"), [Verdict::Planned]);
    let mut bare = (*policies(&files).services["A"]).clone();
    bare.monitor = None;
    s.attach(bare, Restored::default());
    s.wait(60);
    let verdicts = s.verdicts("A");
    assert_eq!(verdicts.len(), 2, "said once, though it is tried again after each cooldown: {verdicts:?}");
    assert!(
        matches!(&verdicts[1], Verdict::StrategyFailed(why) if why.contains("no monitor is attached to `A`")),
        "{verdicts:?}"
    );
}

/// Requirement: R3-09
#[test]
fn a_changed_threshold_is_used_at_once_and_keeps_the_time_in_violation() {
    let policy = |limit: u32| {
        format!("service: A\n{M}analyze: {{ cheap: {{ objective: cost < {limit}, for: 60s }} }}\n")
    };
    let mut s = simulate(&policy(30));
    s.push("A", "cost", 50.0);
    s.wait(40);
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Pending));
    s.change(&policy(40));
    s.wait(19);
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Pending));
    s.wait(1);
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Violated), "60 s since the first violation");
    s.change(&policy(60));
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Ok));
}

/// Requirement: R3-09
#[test]
fn a_longer_window_keeps_its_samples() {
    let policy = |over: &str| {
        format!(
            "service: A\nmonitor:\n  sensors: {{ x: push }}\n  metrics: {{ n: {{ of: x, aggregate: count, over: {over} }} }}\n"
        )
    };
    let mut s = simulate(&policy("5m"));
    for _ in 0..10 {
        s.push("A", "x", 1.0);
        s.wait(25);
    }
    s.change(&policy("10m"));
    assert_eq!(s.value("A", "n"), Some(10.0));
    s.wait(330);
    assert_eq!(s.value("A", "n"), Some(10.0));
    s.wait(100);
    assert_eq!(s.value("A", "n"), Some(6.0));
}

/// Requirement: R3-03
#[test]
fn another_analyzer_finds_the_metrics_as_they_were() {
    let mut s = simulate(&three(["MA", "", ""]));
    s.push("A", "cost", 31.0);
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Violated));
    s.change(&three(["M", "", ""]));
    assert_eq!(s.value("A", "cost"), Some(31.0));
    s.change(&three(["MA", "", ""]).replace("cheap", "frugal"));
    assert_eq!(s.slo("A", "frugal"), Some(SloState::Violated));
    assert_eq!(s.slo("A", "cheap"), None);
}

/// Requirement: R3-45, R3-46
#[test]
fn a_renamed_slo_is_a_new_one() {
    let policy =
        |name: &str| format!("service: A\n{M}analyze: {{ {name}: {{ objective: cost < 30, for: 60s }} }}\n");
    let mut s = simulate(&policy("cheap"));
    s.push("A", "cost", 50.0);
    s.wait(50);
    s.change(&policy("frugal"));
    s.wait(59);
    assert_eq!(s.slo("A", "frugal"), Some(SloState::Pending));
    s.wait(1);
    assert_eq!(s.slo("A", "frugal"), Some(SloState::Violated));
}

/// Requirement: R3-47, R3-48
#[test]
fn what_was_disabled_by_hand_stays_so_over_a_change_and_a_restart() {
    let mut s = simulate(&three(["MA", "", ""]));
    s.enable("A", "cheap", false);
    s.change(&three(["MA", "", ""]).replace("cost < 30", "cost < 10"));
    s.push("A", "cost", 50.0);
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Disabled));
    let kept: Vec<_> = s.lasting.clone();
    assert_eq!(kept, [("A".to_string(), Lasting::Slo("cheap".into(), false))]);

    let mut again = Sim::new(1);
    let policy = policies(&[("p.yaml", &three(["MA", "", ""]))]).services["A"].clone();
    let restored =
        Restored { slos: [("cheap".to_string(), false)].into(), decisions: 7, ..Restored::default() };
    again.attach(policy, restored);
    again.push("A", "cost", 50.0);
    assert_eq!(again.slo("A", "cheap"), Some(SloState::Disabled));
    again.enable("A", "cheap", true);
    assert_eq!(again.slo("A", "cheap"), Some(SloState::Violated));
    assert_eq!(again.decisions_of("A")[0].id.0, 8, "numbers go on where they ended");
}

/// Requirement: R3-14
#[test]
fn knowledge_is_shared_and_lasts() {
    let script = "fn plan(alarm) { if recall(\"tried\") == () { [remember(\"tried\", 1)] } else { [] } }";
    let yaml = format!(
        "service: A\n{M}{A}plan: [ {{ when: cheap, run: s.rhai, mode: act, cooldown: 1s }} ]\nexecute: {{}}\n"
    );
    let mut s = common::simulate_files(&[("p.yaml", &yaml), ("s.rhai", script)]);
    s.push("A", "cost", 31.0);
    s.wait(5);
    assert_eq!(s.verdicts("A"), [Verdict::Planned, Verdict::Nothing]);
    let Some(Response::Knowledge(known)) = s.call("A", Request::Knowledge) else { panic!("no knowledge") };
    assert_eq!(known["tried"], 1);
    assert_eq!(s.lasting, [("A".to_string(), Lasting::Knowledge("tried".into(), Some(1.into())))]);

    let mut again = Sim::new(1);
    let policy = policies(&[("p.yaml", yaml.as_str()), ("s.rhai", script)]).services["A"].clone();
    again.attach(policy, Restored { knowledge: known, ..Restored::default() });
    again.push("A", "cost", 31.0);
    assert_eq!(again.verdicts("A"), [Verdict::Nothing]);
    let forget = Request::Remember { key: "tried".into(), value: None };
    assert_eq!(again.call("A", forget), Some(Response::Done));
    again.wait(1);
    assert_eq!(again.verdicts("A").last(), Some(&Verdict::Planned));
}

/// Requirement: R3-53
#[test]
fn a_planner_attached_late_answers_the_violation_that_stands() {
    let mut s = simulate(&three(["MAE", "", ""]));
    s.push("A", "cost", 31.0);
    assert_eq!(s.verdicts("A"), [Verdict::NoPlanner]);
    s.change(&three(["MAPE", "", ""]));
    assert_eq!(s.verdicts("A"), [Verdict::NoPlanner, Verdict::Planned]);
}

#[test]
fn applying_the_same_policy_again_decides_nothing_again() {
    let policy = format!(
        "service: A\n{M}{A}plan: [ {{ when: cheap, on: [recovered], do: [ {{ notify: {{ text: x }} }} ], mode: act }} ]\n{E}"
    );
    let mut s = simulate(&policy);
    s.push("A", "cost", 31.0);
    for _ in 0..5 {
        s.change(&policy);
        s.wait(60);
    }
    assert_eq!(s.verdicts("A"), [Verdict::NoStrategy]);
}

#[test]
fn a_new_row_about_recovery_leaves_a_recovery_long_past_alone() {
    let policy = |text: &str| {
        format!(
            "service: A\n{M}{A}plan: [ {{ when: cheap, on: [recovered], do: [ {{ notify: {{ text: {text} }} }} ], mode: act }} ]\n{E}"
        )
    };
    let mut s = simulate(&policy("one"));
    s.push("A", "cost", 31.0);
    s.push("A", "cost", 1.0);
    assert_eq!(s.alarms("A"), [AlarmKind::Violation, AlarmKind::Recovered]);
    s.wait(3600);
    s.change(&policy("two"));
    s.wait(60);
    assert_eq!(s.decisions_of("A").len(), 2);
}

/// Requirement: R3-40
#[test]
fn listeners_learn_that_a_service_went_and_that_it_came_back() {
    let b = "service: B\nmonitor: { sensors: { cost: push } }\n";
    let a = "service: A\nreferences: { b: { service: B } }\nmonitor: { metrics: { cost: b.cost } }\nanalyze: { cheap: { objective: cost < 30 } }\n";
    let mut s = simulate(&format!("{a}---\n{b}"));
    s.push("B", "cost", 5.0);
    assert_eq!(s.value("A", "cost"), Some(5.0));
    s.detach("B");
    let gone = MissingReason::Input("b.cost".into(), Box::new(MissingReason::NoSuchService("B".into())));
    assert_eq!(s.get("A", "cost"), Reading::missing(gone));
    s.change(b);
    s.push("B", "cost", 6.0);
    assert_eq!(s.value("A", "cost"), Some(6.0), "without anybody asking again");
    assert_eq!(s.slo("A", "cheap"), Some(SloState::Ok));
}

#[test]
fn a_subscription_ends_with_its_metric_and_a_change_of_definition_is_told() {
    let policy = |n: u32| format!("service: A\nmonitor: {{ metrics: {{ n: {n} }} }}\n");
    let mut s = simulate(&policy(1));
    let token = s.subscribe("A", "n", SubscriptionMode::Change { start: None, duration: None }).unwrap();
    s.change(&policy(1));
    assert!(s.told(token).is_empty());
    s.change(&policy(2));
    assert_eq!(s.told(token), [(0.0, Some(2.0))]);
    s.change("service: A\nmonitor: { metrics: { m: 1 } }\n");
    assert_eq!(s.ended, [token]);
}

#[test]
fn a_detached_service_answers_whoever_waits() {
    let mut s = simulate(
        "service: A\nreferences: { b: { service: B } }\nmonitor: { metrics: { cost: b.cost } }\n---\nservice: B\nmonitor: { sensors: { cost: { exec: { command: [x] } } } }\n",
    );
    s.on_demand(|_, _| Some(7.0));
    assert_eq!(s.get_within("A", "cost", Some(HumanDuration::seconds(1))).fresh(), Some(7.0));
    let token = s.subscribe("A", "cost", SubscriptionMode::Update).unwrap();
    s.detach("A");
    assert_eq!(s.ended, [token]);
    assert_eq!(s.call("A", Request::Unsubscribe { token }), Some(Response::Done));
}

/// Requirement: R3-24
#[test]
fn a_panic_quarantines_one_service_until_its_policy_is_applied_again() {
    let yaml = format!(
        "service: A\n{M}{A}plan: [ {{ when: cheap, run: s.rhai, mode: act, cooldown: 1s }} ]\nexecute: {{}}\n---\nservice: L\nreferences: {{ a: {{ service: A }} }}\nmonitor: {{ metrics: {{ twice: 2 * a.cost }} }}\nanalyze: {{ slo: {{ objective: twice < 9 }} }}\n"
    );
    let set = policies(&[("p.yaml", &yaml), ("s.rhai", "fn plan(alarm) { [] }")]);
    let mut world = common::World::new();
    world.apply(0, &set);
    world.around.broken = true;
    world.measure(1, "A", "cost", 31.0);
    assert_eq!(world.shard.quarantined(), 1);
    assert_eq!(
        world.call(2, "A", Request::Status),
        Some(Response::Error(PortError::Quarantined("A".into())))
    );
    let twice = Request::GetMetric { name: "twice".into(), max_age: None };
    let reading = world.call(2, "L", twice.clone());
    assert!(matches!(&reading, Some(Response::Reading(Reading::Missing { .. }))), "{reading:?}");
    world.around.broken = false;
    world.apply(3, &set);
    world.measure(4, "A", "cost", 4.0);
    assert_eq!(world.shard.quarantined(), 0);
    let Some(Response::Reading(reading)) = world.call(5, "L", twice) else { panic!("no reading") };
    assert_eq!(reading.fresh(), Some(8.0), "who listened still does");
}

#[test]
fn an_executor_that_comes_late_carries_out_what_waited_for_it() {
    let yaml = |execute: &str| {
        format!(
            "service: A\nmonitor: {{ sensors: {{ x: push }} }}\nanalyze: {{ low: {{ objective: x < 10 }} }}\nplan: [ {{ when: low, mode: act, do: [ {{ set: {{ property: p, value: 1 }} }} ] }} ]\n{execute}"
        )
    };
    let whole = yaml("execute: { set: { log: {} } }\n");
    let mut s = Sim::new(1);
    s.strip("A", &whole, |policy| policy.execute = None);
    s.push("A", "x", 50.0);
    assert_eq!(s.verdicts("A"), [Verdict::NoExecutor]);
    s.change(&whole);
    assert_eq!(s.verdicts("A"), [Verdict::NoExecutor, Verdict::Planned], "without waiting for the cooldown");
}
