//! What monitoring is for: the examples that are shipped, each with its script of what happens and what must come of it.

use std::path::PathBuf;

use super::support::homeostat;

/// Runs the tests of a shipped example; each of these titles must be among those that passed.
#[track_caller]
fn shipped(name: &str, titles: &[&str]) {
    let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "policies", name].iter().collect();
    let said = homeostat(&["test", dir.to_str().unwrap()], None);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for title in titles {
        let passed = said.out.lines().any(|line| line.starts_with("ok ") && line.ends_with(title));
        assert!(passed, "`{title}` is not among: {}", said.out);
    }
}

/// Requirement: R1-35
#[test]
fn fault_treatment_a_fault_becomes_an_alarm() {
    shipped(
        "fault-alarm",
        &["a fault that lasts becomes one alarm, and its end is told", "one lost packet is no fault"],
    );
}

/// Requirement: R1-35
#[test]
fn billing_what_is_used_becomes_usage_records() {
    shipped("billing", &["what was used in an hour, and what it costs"]);
}

/// Requirement: R1-35
#[test]
fn sla_verification_a_report_says_whether_the_agreement_was_kept() {
    shipped("sla-report", &["a good day", "six hours of slowness break the agreement, and it is told once"]);
}

/// Requirement: R1-35
/// Requirement: R0-07
#[test]
fn qos_and_a_scalable_resource_replicas_follow_the_response_time() {
    shipped(
        "qos",
        &[
            "replicas are added while it is slow, up to the limit",
            "replicas are taken away when there is little to do for long",
        ],
    );
}

/// Requirement: R0-07
#[test]
fn feedback_to_the_users_a_light_says_how_it_is() {
    shipped("status-light", &["the light follows what is usual, not what is rare"]);
}

/// Requirement: R0-07
#[test]
fn compensation_what_cannot_be_delivered_is_refunded() {
    shipped("compensation", &["what was paid and not shipped is refunded once, and the shop opens again"]);
}
