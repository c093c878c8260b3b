//! What the shipped examples publish, in virtual time: usage records whose totals are what was used, reports, and a light.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::alarm::common::{Sim, policies};

/// What was published by `publisher`: values with the hour, or the word.
fn values(sim: &Sim, publisher: &str) -> Vec<f64> {
    sim.published.iter().filter(|p| &*p.publisher == publisher).map(|p| p.value).collect()
}

/// Requirement: R1-35
#[test]
fn the_totals_of_usage_records_are_what_was_used() {
    let mut sim = Sim::new(1);
    let used: Arc<Mutex<[f64; 2]>> = Arc::default();
    let sum = used.clone();
    let mut seed = 17_u64;
    sim.polling(move |_, metric, _| {
        // Any numbers, the same in every run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (seed >> 60) as f64;
        sum.lock().unwrap()[usize::from(metric == "calls")] += value;
        Some(value)
    });
    sim.apply(&policies(&[("billing.yaml", include_str!("../../policies/billing/billing.yaml"))]));
    sim.advance(Duration::from_secs(24 * 3600 - 1));
    let measured = *used.lock().unwrap();
    // The last hour is in the last record.
    sim.advance(Duration::from_secs(1));
    // What comes at the start is no record of an hour.
    let records = |name: &str| values(&sim, name).split_off(1);
    let (storage, calls, charges) =
        (records("storage_record"), records("calls_record"), records("charge_record"));
    assert_eq!((storage.len(), calls.len()), (24, 24), "a record for each hour");
    assert!((storage.iter().sum::<f64>() * 60.0 - measured[0]).abs() < 1e-6, "{storage:?} {measured:?}");
    assert!((calls.iter().sum::<f64>() - measured[1]).abs() < 1e-6, "{calls:?} {measured:?}");
    let owed = 0.03 * measured[0] / 60.0 + 0.0001 * measured[1];
    assert!((charges.iter().sum::<f64>() - owed).abs() < 1e-9, "{charges:?} {owed}");
}

/// Requirement: R1-35
#[test]
fn the_report_says_for_which_share_of_each_day_the_agreement_was_kept() {
    let mut sim = Sim::new(1);
    let mut minute = 0;
    sim.polling(move |_, metric, _| {
        if metric == "up" {
            minute += 1;
        }
        // Six hours of the second day.
        let down = (24 * 60 + 1..=30 * 60).contains(&minute);
        Some(if metric == "up" { f64::from(u8::from(!down)) } else { 0.1 })
    });
    sim.apply(&policies(&[("sla.yaml", include_str!("../../policies/sla-report/sla-report.yaml"))]));
    sim.advance(Duration::from_secs(3 * 24 * 3600));
    let reports = values(&sim, "report");
    assert_eq!(reports.len(), 4, "at the start and after each day: {reports:?}");
    assert_eq!((reports[1], reports[3]), (1.0, 1.0));
    assert!((reports[2] - 0.75).abs() < 0.001, "{reports:?}");
    assert_eq!(sim.performed.len(), 1, "one notice");
}

/// Requirement: R0-07
#[test]
fn the_users_see_each_colour_once() {
    let mut sim = Sim::new(1);
    let mut n = 0;
    sim.polling(move |_, _, _| {
        n += 1;
        Some(if n > 120 {
            3.0
        } else if n > 60 {
            1.0
        } else {
            0.1
        })
    });
    sim.apply(&policies(&[("light.yaml", include_str!("../../policies/status-light/status-light.yaml"))]));
    sim.advance(Duration::from_secs(900));
    let words: Vec<&str> =
        sim.published.iter().filter(|p| &*p.publisher == "light").filter_map(|p| p.word.as_deref()).collect();
    assert_eq!(words, ["green", "yellow", "red"]);
    assert!(values(&sim, "page").len() >= 29);
}
