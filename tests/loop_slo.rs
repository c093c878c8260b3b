//! Objectives: when an alarm is raised, and when not.

mod common;

use common::{Sim, simulate};
use homeostat::model::{AlarmKind, MissingReason, SloState};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::message::{Request, Response};

use AlarmKind::{Missing, Recovered, Violation, Warning};

/// A service whose pushed metric `x` has this SLO, with a planner that answers every kind of alarm.
fn one(slo: &str) -> Sim {
    simulate(&format!(
        "service: A\nmonitor: {{ sensors: {{ x: {{ push: {{ stale_after: 60s }} }} }} }}\nanalyze: {{ slo: {slo} }}\nplan: [ {{ when: slo, on: [warning, violation, missing, recovered], do: [ {{ notify: {{ text: t }} }} ], mode: act, cooldown: 1h }} ]\n"
    ))
}

/// The alarms raised so far, by the event log and the decisions.
fn kinds(s: &Sim) -> Vec<String> {
    let text = |t: &str| t.split(' ').next().unwrap_or_default().to_string();
    s.events.iter().filter(|e| e.phase == "analyse").map(|e| text(&e.text)).collect()
}

/// Requirement: R3-44
#[test]
fn conditions_have_units_ranges_and_logic() {
    for (objective, good, bad) in [
        ("x < 2s", 1.999, 2.0),
        ("x <= 2s", 2.0, 2.001),
        ("x > 1500ms", 1.501, 1.5),
        ("x >= 80%", 0.8, 0.79),
        ("x == 3", 3.0, 3.1),
        ("20 <= x && x <= 25", 25.0, 25.5),
        ("x < 1 || x > 5", 6.0, 3.0),
        ("x < 1KiB", 1023.0, 1024.0),
    ] {
        let mut s = one(&format!("{{ objective: \"{objective}\" }}"));
        s.push("A", "x", good);
        assert_eq!(s.slo("A", "slo"), Some(SloState::Ok), "{objective}");
        s.push("A", "x", bad);
        assert_eq!(s.slo("A", "slo"), Some(SloState::Violated), "{objective}");
    }
}

/// Requirement: R3-49
#[test]
fn an_alarm_carries_kind_condition_values_and_time() {
    let mut s = one("{ objective: x < 2s, severity: critical }");
    s.push("A", "x", 2.5);
    let alarm = s.decisions_of("A")[0].alarm.clone().unwrap();
    assert_eq!((alarm.kind, alarm.slo.as_str(), alarm.service.as_str()), (Violation, "slo", "A"));
    assert_eq!(alarm.condition, "x >= 2s");
    assert_eq!(alarm.severity, homeostat::model::Severity::Critical);
    assert_eq!(alarm.values["x"].fresh(), Some(2.5));
    assert_eq!(alarm.at, common::START);
}

/// Requirement: R3-49
#[test]
fn alarms_are_raised_only_on_change() {
    let mut s = one("{ objective: x < 30, warn: x < 20 }");
    for x in [1.0, 21.0, 22.0, 31.0, 35.0, 31.0, 25.0, 1.0, 2.0, 40.0] {
        s.push("A", "x", x);
    }
    assert_eq!(kinds(&s), ["warning"], "the others wait for the cooldown of the row");
    assert_eq!(s.tally().alarms, 5);
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push } }\nanalyze: { slo: { objective: x < 30, warn: x < 20 } }\n",
    );
    for x in [1.0, 21.0, 22.0, 31.0, 35.0, 31.0, 25.0, 1.0, 2.0, 40.0] {
        s.push("A", "x", x);
    }
    assert_eq!(kinds(&s), ["warning", "violation", "warning", "recovered", "violation"]);
}

/// Requirement: R3-49
#[test]
fn a_violation_counts_after_for_and_a_recovery_after_recover_for() {
    let mut s = one("{ objective: x < 10, for: 10s, recover_for: 20s }");
    s.push("A", "x", 11.0);
    s.wait(9);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Pending));
    s.push("A", "x", 9.0);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Ok), "it did not last");
    s.push("A", "x", 12.0);
    s.wait(10);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated), "without another sample");
    assert_eq!(s.tally().alarms, 1);
    s.push("A", "x", 9.0);
    s.wait(19);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
    s.wait(1);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Ok));
    assert_eq!(s.tally().alarms, 2);
}

/// Requirement: R3-49
#[test]
fn time_spent_in_warning_is_not_time_spent_in_violation() {
    let mut s = one("{ objective: x < 30, warn: x < 20, for: 10s }");
    s.push("A", "x", 25.0);
    s.wait(9);
    s.push("A", "x", 35.0);
    s.wait(1);
    assert_eq!(s.alarms("A"), [Warning]);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Pending));
    s.wait(9);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
    assert_eq!(s.tally().alarms, 2);
}

/// What an SLO with this policy for missing data goes through: a value, silence for two minutes, a value.
fn through_silence(missing: &str) -> (Sim, Vec<Option<SloState>>) {
    let mut s = one(&format!("{{ objective: x < 30, missing: {missing} }}"));
    s.push("A", "x", 1.0);
    let mut states = Vec::new();
    s.wait(60);
    states.push(s.slo("A", "slo"));
    s.wait(60);
    states.push(s.slo("A", "slo"));
    s.push("A", "x", 2.0);
    states.push(s.slo("A", "slo"));
    (s, states)
}

#[test]
fn each_policy_for_missing_data_does_what_it_says() {
    use SloState::{Missing as Gone, Ok, Violated};
    for (policy, silent, alarms) in
        [("hold", Gone, 0), ("ok", Ok, 0), ("violate", Violated, 2), ("alarm", Gone, 2)]
    {
        let (s, states) = through_silence(policy);
        assert_eq!(states, [Some(Ok), Some(silent), Some(Ok)], "{policy}");
        assert_eq!(s.tally().alarms, alarms, "{policy}");
    }
    assert_eq!(through_silence("alarm").0.alarms("A"), [Missing]);
}

#[test]
fn held_data_keep_a_violation_and_its_pending_time() {
    let mut s = one("{ objective: x < 30, for: 90s }");
    s.push("A", "x", 31.0);
    s.wait(300);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Missing), "stale before the violation counted");
    s.push("A", "x", 31.0);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
    s.wait(300);
    assert_eq!(s.tally().alarms, 1);
}

#[test]
fn nothing_is_missing_before_it_had_a_chance_to_come() {
    for policy in ["violate", "alarm"] {
        let mut s = one(&format!("{{ objective: x < 30, missing: {policy} }}"));
        s.wait(4);
        assert_eq!((s.slo("A", "slo"), s.tally().alarms), (Some(SloState::Unknown), 0), "{policy}");
        s.wait(1);
        assert_eq!(s.tally().alarms, 1, "{policy}");
        s.push("A", "x", 1.0);
        assert_eq!((s.slo("A", "slo"), s.tally().alarms), (Some(SloState::Ok), 2), "{policy}: recovered");
    }
}

#[test]
fn an_slo_over_a_service_that_is_attached_a_moment_later_raises_nothing() {
    let mut s = simulate(
        "service: A\nreferences: { z: { service: Z } }\nmonitor: {}\nanalyze: { slo: { objective: z.x < 3, missing: violate } }\n---\nservice: Z\nmonitor: { metrics: { x: 1 } }\n",
    );
    assert_eq!((s.slo("A", "slo"), s.tally().alarms), (Some(SloState::Ok), 0));
}

/// Requirement: R3-47, R3-12
#[test]
fn a_disabled_slo_raises_nothing_and_listens_to_nothing() {
    let mut s = simulate(
        "service: A\nreferences: { b: { service: B } }\nmonitor: {}\nanalyze: { slo: { objective: b.x < 3 } }\n---\nservice: B\nmonitor: { sensors: { x: push } }\n",
    );
    s.push("B", "x", 1.0);
    let told = s.tally().told;
    s.enable("A", "slo", false);
    for _ in 0..10 {
        s.push("B", "x", 9.0);
    }
    assert_eq!((s.tally().told, s.tally().alarms), (told, 0));
    s.push("B", "x", 1.0);
    s.enable("A", "slo", true);
    assert_eq!(
        (s.slo("A", "slo"), s.tally().alarms),
        (Some(SloState::Ok), 0),
        "it is not judged by old news"
    );
    s.push("B", "x", 9.0);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
    s.enable("A", "slo", false);
    s.enable("A", "slo", true);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Violated));
    assert_eq!(s.tally().alarms, 2, "enabled again, it is told again");
}

/// Requirement: R3-51
#[test]
fn analyzers_do_not_interfere() {
    let a = "service: A\nmonitor: { sensors: { cost: push } }\nanalyze: { cheap: { objective: cost < 30 } }\n---\n";
    let b = "service: B\nmonitor: { sensors: { respTime: push } }\n";
    let mut s = simulate(&format!("{a}{b}analyze: {{ fast: {{ objective: respTime < 2s }} }}\n"));
    s.push("A", "cost", 28.0);
    s.push("B", "respTime", 2.5);
    assert_eq!(s.alarms("B"), [Violation]);
    assert_eq!((s.slo("A", "cheap"), s.alarms("A").len()), (Some(SloState::Ok), 0));
    s.change(&format!("{a}{b}"));
    s.push("A", "cost", 30.0);
    assert_eq!(s.alarms("A"), [Violation]);
    assert!(s.error("B", Request::SloList).to_string().contains("no analyzer"));
}

/// Requirement: R3-45, R3-46
#[test]
fn slos_are_listed_with_their_state_and_let_go_when_removed() {
    let with = "service: A\nreferences: { b: { service: B } }\nmonitor: {}\nanalyze: { z: { objective: b.x < 3 }, a: { objective: b.x < 30, enabled: false } }\n---\nservice: B\nmonitor: { sensors: { x: push } }\n";
    let mut s = simulate(with);
    s.push("B", "x", 4.0);
    let Some(Response::Slos(list)) = s.call("A", Request::SloList) else { panic!("no list") };
    let states: Vec<_> = list.iter().map(|s| (s.name.as_str(), s.state)).collect();
    assert_eq!(states, [("a", SloState::Disabled), ("z", SloState::Violated)]);
    let told = s.tally().told;
    s.change(&with.replace("z: { objective: b.x < 3 }, ", ""));
    s.push("B", "x", 5.0);
    assert_eq!(s.tally().told, told, "nobody needs b.x any more");
}

/// Requirement: R3-35
#[test]
fn an_slo_whose_metric_is_removed_is_unresolved() {
    let mut s = one("{ objective: x < 30 }");
    s.push("A", "x", 40.0);
    let text = "service: A\nmonitor: { sensors: { x: push } }\nanalyze: { slo: { objective: x < 30 } }\n";
    let (set, _) = PolicySet::from_sources(&Sources::from_texts([("p.yaml", text)]), None).unwrap();
    let mut policy = (*set.services["A"]).clone();
    policy.monitor = Some(std::sync::Arc::new(homeostat::policy::MonitorPolicy {
        metrics: Vec::new(),
        history: 0,
        schedule: None,
        publish: Vec::new(),
    }));
    s.attach(policy, Default::default());
    assert_eq!(s.slo("A", "slo"), Some(SloState::Unresolved));
    let Some(Response::Slos(list)) = s.call("A", Request::SloList) else { panic!("no list") };
    let gone = MissingReason::NoSuchMetric("x".into());
    assert_eq!(list[0].values["x"], homeostat::model::Reading::missing(gone));
    let Some(Response::Error(error)) = s.call("A", Request::GetMetric { name: "x".into(), max_age: None })
    else {
        panic!("no error")
    };
    assert_eq!(error.slug(), "no-such-metric");
    s.attach(set.services["A"].clone(), Default::default());
    s.push("A", "x", 1.0);
    assert_eq!(s.slo("A", "slo"), Some(SloState::Ok));
}

#[test]
fn an_age_grows_by_itself() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push }, metrics: { quiet: { of: x, aggregate: age } } }\nanalyze: { alive: { objective: quiet < 30s } }\n",
    );
    s.push("A", "x", 1.0);
    s.wait(29);
    assert_eq!(s.slo("A", "alive"), Some(SloState::Ok));
    s.wait(2);
    assert_eq!(s.slo("A", "alive"), Some(SloState::Violated));
    s.push("A", "x", 1.0);
    assert_eq!(s.alarms("A"), [Violation]);
    assert_eq!(s.slo("A", "alive"), Some(SloState::Ok));
}

#[test]
fn looking_at_a_window_does_not_hide_its_change_from_the_slo() {
    let mut s = simulate(
        "service: A\nmonitor: { sensors: { x: push }, metrics: { m: { of: x, aggregate: max, over: 64s } } }\nanalyze: { low: { objective: m < 10, missing: ok } }\n",
    );
    s.push("A", "x", 20.0);
    s.wait(60);
    s.push("A", "x", 1.0);
    s.advance(std::time::Duration::from_micros(4_000_001));
    assert_eq!(s.value("A", "m"), Some(1.0));
    s.wait(1);
    assert_eq!(s.slo("A", "low"), Some(SloState::Ok));
    assert_eq!(s.tally().alarms, 2);
    assert_eq!(kinds(&s).last().map(String::as_str), Some("recovered"));
    let _ = (Recovered, Warning);
}
