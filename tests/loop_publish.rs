//! Sensors that are read on a schedule, values that go out as they come, and what is done once for each alarm, however long that takes.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{START, Sim, simulate};
use homeostat::model::{Schedule, Timestamp};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::message::{Lasting, Restored};

/// The alarm of S1, section 6: CPU load every minute from ten minutes on for an hour, smoothed, a mail when it is steadily above 80 %.
const ALARM: &str = r#"
service: AlarmOnOverload
monitor:
  schedule: { start: "2013-12-13T09:13:06Z", stop: "2013-12-13T10:03:06Z" }
  sensors: { a: { host: { what: cpu, every: 60s } } }
  metrics: { b: { of: a, aggregate: ewma(16) } }
  publish: { light: { metric: b, to: log } }
analyze: { calm: { objective: b <= 80 } }
plan: [ { when: calm, do: [ { notify: { text: overload } } ], mode: act, once: true, cooldown: 10s } ]
execute: { notify: { mail: { server: "smtp://127.0.0.1:2525", from: a@example.com, to: [ myself@example.com ] } } }
"#;

fn policies(text: &str) -> PolicySet {
    common::policies(&[("p.yaml", text)])
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Runs the alarm for two hours from 1386925386 on; the load is a function of the number of the sample.
fn run(load: impl Fn(usize) -> f64 + 'static) -> (Sim, Vec<Timestamp>) {
    let mut s = Sim::new(1);
    let read = Arc::new(Mutex::new(Vec::new()));
    let seen = read.clone();
    s.polling(move |_, _, at| {
        let mut seen = seen.lock().expect("not poisoned");
        seen.push(at);
        Some(load(seen.len()))
    });
    s.apply(&policies(ALARM));
    s.advance(minutes(120));
    let read = read.lock().expect("not poisoned").clone();
    (s, read)
}

/// Requirement: R1-06, R1-07, R1-42
#[test]
fn a_check_every_minute_from_ten_minutes_on_for_the_rest_of_an_hour_reads_51_times() {
    let (s, read) = run(|_| 50.0);
    assert_eq!(read.len(), 51);
    assert_eq!((read[0], read[50]), (START.after(minutes(10)), START.after(minutes(60))));
    assert!(read.windows(2).all(|pair| pair[1].since(pair[0]) == minutes(1)));
    assert!(s.performed.is_empty());
    assert_eq!(s.published.len(), 51, "each value goes out");
    assert_eq!(s.published[0].at, read[0]);
}

/// Requirement: R1-42, R1-45
#[test]
fn one_mail_for_a_load_that_is_steadily_over_80_and_none_for_a_spike() {
    // From 50, sixteen samples of 100 bring the average above 80: the seventeenth sample.
    let (s, read) = run(|n| if n == 1 { 50.0 } else { 100.0 });
    assert_eq!(s.performed.len(), 1);
    let decision = s.decisions_of("AlarmOnOverload")[0].clone();
    assert_eq!(decision.at, read[16]);
    let (s, _) = run(|n| if n == 20 { 100.0 } else { 50.0 });
    assert!(s.performed.is_empty(), "a spike is no steady load");
    // It falls below and rises above once more: one more mail.
    let (s, _) = run(|n| if (22..=30).contains(&n) { 0.0 } else { 100.0 });
    assert_eq!(s.performed.len(), 2);
}

/// Requirement: R1-45
#[test]
fn what_is_done_once_for_an_alarm_is_tried_again_until_it_succeeds_even_when_the_alarm_is_over() {
    let mut s = Sim::new(1);
    let down = Arc::new(AtomicBool::new(true));
    let (answer, tried) = (down.clone(), Arc::new(Mutex::new(0)));
    let count = tried.clone();
    s.effector(move |_| {
        *count.lock().expect("not poisoned") += 1;
        Some(if answer.load(Ordering::SeqCst) {
            Err("no route to the server".into())
        } else {
            Ok("250".into())
        })
    });
    s.apply(&policies(
        "service: A
monitor: { sensors: { x: push } }
analyze: { slo: { objective: x < 10 } }
plan: [ { when: slo, do: [ { notify: { text: high } } ], mode: act, once: true, cooldown: 60s } ]
execute: { notify: { log: {} } }
",
    ));
    s.push("A", "x", 11.0);
    s.advance(minutes(5));
    let before = *tried.lock().expect("not poisoned");
    assert!((5..=6).contains(&before), "once, and again each minute: {before}");
    s.push("A", "x", 1.0);
    s.advance(minutes(55));
    s.push("A", "x", 12.0);
    s.advance(minutes(1));
    down.store(false, Ordering::SeqCst);
    let failed = *tried.lock().expect("not poisoned");
    s.advance(minutes(30));
    let all = *tried.lock().expect("not poisoned");
    assert_eq!(all - failed, 2, "each of the two alarms is told of, once");
    s.advance(minutes(60));
    assert_eq!(*tried.lock().expect("not poisoned"), all);
}

#[test]
fn what_succeeded_once_is_not_done_again_while_the_alarm_stands_or_the_policy_is_changed() {
    let policy = |limit: u32| {
        format!(
            "service: A
monitor: {{ sensors: {{ x: push }}, metrics: {{ y: x + {limit} }} }}
analyze: {{ slo: {{ objective: x < 10 }} }}
plan: [ {{ when: slo, do: [ {{ notify: {{ text: high }} }} ], mode: act, once: true, cooldown: 1s }} ]
execute: {{ notify: {{ log: {{}} }} }}
"
        )
    };
    let mut s = simulate(&policy(1));
    s.push("A", "x", 11.0);
    s.advance(minutes(5));
    s.push("A", "x", 12.0);
    s.apply(&policies(&policy(2)));
    s.advance(minutes(5));
    assert_eq!(s.performed.len(), 1);
    s.push("A", "x", 1.0);
    s.push("A", "x", 20.0);
    s.advance(minutes(5));
    assert_eq!(s.performed.len(), 2, "another alarm");
}

/// Requirement: R1-40
#[test]
fn only_changes_go_out_under_the_words_for_them() {
    let mut s = simulate(
        "service: A
monitor:
  sensors: { load: push }
  metrics: { colour: 'if load > 80 { 2 } else { if load > 50 { 1 } else { 0 } }' }
  publish: { light: { metric: colour, to: log, changes: true, words: [green, yellow, red] } }
",
    );
    for load in [10.0, 20.0, 60.0, 85.0, 99.0, 10.0] {
        s.push("A", "load", load);
        s.advance(Duration::from_secs(1));
    }
    let words: Vec<_> = s.published.iter().map(|p| p.word.as_deref().unwrap_or_default()).collect();
    assert_eq!(words, ["green", "yellow", "red", "green"]);
}

#[test]
fn values_go_out_at_most_as_often_as_their_publisher_says() {
    let mut s = simulate(
        "service: A
monitor:
  sensors: { x: push }
  publish: { slow: { metric: x, to: log, every: 60s }, all: { metric: x, to: log } }
",
    );
    for n in 0..30 {
        s.push("A", "x", f64::from(n));
        // Now and then a little early.
        s.advance(Duration::from_millis(if n % 7 == 3 { 9_900 } else { 10_000 }));
    }
    let of = |name: &str| {
        s.published.iter().filter(|p| &*p.publisher == name).map(|p| p.value).collect::<Vec<_>>()
    };
    assert_eq!(of("all").len(), 30);
    assert_eq!(of("slow"), [0.0, 6.0, 12.0, 18.0, 24.0]);
}

#[test]
fn a_metric_that_only_goes_out_is_needed_and_its_sensor_runs() {
    let s = simulate(
        "service: A
monitor: { sensors: { load: { host: { what: load1 } } }, publish: { out: { metric: load, to: log } } }
",
    );
    assert!(s.sensors["A"][0].regular);
    let s = simulate(
        "service: A
monitor: { sensors: { load: { host: { what: load1 } } } }
",
    );
    assert!(!s.sensors["A"][0].regular);
}

#[test]
fn a_suspended_monitor_reads_nothing_until_it_goes_on() {
    let policy = |suspended: bool| {
        policies(&format!(
            "service: A
monitor: {{ schedule: {{ suspended: {suspended} }}, sensors: {{ load: {{ host: {{ what: load1, every: 10s }} }} }} }}
"
        ))
    };
    let mut s = Sim::new(1);
    let count = Arc::new(Mutex::new(0));
    let seen = count.clone();
    s.polling(move |_, _, _| {
        *seen.lock().expect("not poisoned") += 1;
        Some(1.0)
    });
    s.apply(&policy(true));
    assert_eq!(s.sensors["A"][0].schedule, Some(Schedule { suspended: true, ..Schedule::default() }));
    s.advance(minutes(1));
    assert_eq!(*count.lock().expect("not poisoned"), 0);
    s.apply(&policy(false));
    s.advance(minutes(1));
    assert_eq!(*count.lock().expect("not poisoned"), 7, "now, and after each ten seconds");
}

/// Runs a service until it ends, and starts it again over what it remembered.
fn again(s: &Sim, policy: &PolicySet) -> Sim {
    let mut next = Sim::new(1);
    next.advance(s.now().since(START));
    let mut restored = Restored::default();
    for (_, what) in &s.lasting {
        if let Lasting::Knowledge(key, value) = what {
            match value {
                Some(value) => drop(restored.knowledge.insert(key.clone(), value.clone())),
                None => drop(restored.knowledge.remove(key)),
            }
        }
    }
    next.attach(&**policy.services.get("A").expect("it is there"), restored);
    next
}

/// Requirement: R1-45
#[test]
fn what_is_owed_outlives_a_restart_and_what_was_done_is_not_done_again() {
    let policy = policies(
        "service: A
monitor: { sensors: { x: push } }
analyze: { slo: { objective: x < 10 } }
plan: [ { when: slo, do: [ { notify: { text: high } } ], mode: act, once: true, cooldown: 60s } ]
execute: { notify: { log: {} } }
",
    );
    let mut s = Sim::new(1);
    s.effector(|_| Some(Err("no route to the server".into())));
    s.apply(&policy);
    s.push("A", "x", 11.0);
    assert_eq!(s.performed.len(), 1);
    s.push("A", "x", 1.0);
    let mut s = again(&s, &policy);
    s.advance(minutes(2));
    assert_eq!(s.performed.len(), 1, "the load is gone, and the mail still owed");
    s.push("A", "x", 1.0);
    s.push("A", "x", 12.0);
    s.advance(minutes(2));
    assert_eq!(s.performed.len(), 2);
    let mut s = again(&s, &policy);
    s.push("A", "x", 13.0);
    s.advance(minutes(10));
    assert_eq!(s.performed.len(), 0, "the same alarm stands");
    s.push("A", "x", 1.0);
    s.push("A", "x", 14.0);
    s.advance(minutes(1));
    assert_eq!(s.performed.len(), 1, "another");
    s.push("A", "x", 1.0);
    let mut s = again(&s, &policy);
    s.push("A", "x", 1.0);
    s.push("A", "x", 15.0);
    s.advance(minutes(1));
    assert_eq!(s.performed.len(), 1, "nothing was left of the last");
}

#[test]
fn what_would_say_nothing_is_refused() {
    let wrong = |monitor: &str| {
        let text = format!("service: A\nmonitor: {{ sensors: {{ x: push }}, {monitor} }}\n");
        let refused = PolicySet::from_sources(&Sources::from_texts([("p.yaml", text.as_str())]), None);
        refused.expect_err("it is refused").iter().map(ToString::to_string).collect::<String>()
    };
    let window = wrong("metrics: { y: { of: x, aggregate: ewma32(16), over: 60s } }");
    assert!(window.contains("takes no `over`"), "{window}");
    let kept = wrong("publish: { out: { metric: x, to: { udp: { address: 'h:1', text: t, keep: true } } } }");
    assert!(kept.contains("`keep` goes with `tcp`"), "{kept}");
    let end = wrong("schedule: { start: 2026-01-02T00:00:00Z, stop: 2026-01-01T00:00:00Z }");
    assert!(end.contains("before `start`"), "{end}");
}
