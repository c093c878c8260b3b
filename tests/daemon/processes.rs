//! Programs that a daemon runs for its services: started with it, kept, ordered about, and ended with it.

use std::fs;

use serde_json::{Value, json};

use super::support::{Daemon, policy, wait_for};

fn runs(id: u64) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn process(daemon: &Daemon, service: &str) -> Value {
    daemon.get(&format!("/v1/services/{service}"))["process"].clone()
}

/// Waits until the process of a service is in a state; answers how it is.
#[track_caller]
fn wait_state(daemon: &Daemon, service: &str, state: &str) -> Value {
    wait_for(&format!("{service} to be {state}"), || {
        Some(process(daemon, service)).filter(|p| p["state"] == state)
    })
}

fn pid(process: &Value) -> u64 {
    process["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {process}"))
}

fn gone(id: u64) {
    wait_for("the end of the process", || (!runs(id)).then_some(()));
}

fn order(daemon: &Daemon, service: &str, action: Value) -> Value {
    let (status, outcome) = daemon.call("POST", &format!("/v1/services/{service}/actions"), Some(&action));
    assert_eq!(status, 200, "{outcome}");
    outcome
}

const STEADY: &str = r#"
service: steady
process: { command: [sh, -c, "echo began; echo ready to go; sleep 600 & wait"], ready: { output: ready to } }
monitor:
  sensors:
    memory: { process: { what: rss, own: true, every: 50ms } }
    all: { process: { what: count, own: true, every: 50ms } }
execute: {}
"#;

/// Requirement: R3-59
/// Requirement: R3-62
#[test]
fn start_stop_and_restart_are_carried_out_on_the_process() {
    let dir = policy(STEADY);
    let daemon = Daemon::start(dir.path(), &[]);
    let first = wait_state(&daemon, "steady", "running");
    wait_for("its output", || {
        process(&daemon, "steady")["output"].to_string().contains("began").then_some(())
    });
    // Its whole group is measured: the shell and what it started.
    daemon.wait_value("steady", "all", 2.0);
    wait_for("its memory", || daemon.value("steady", "memory").filter(|m| *m > 100_000.0));
    assert!(daemon.expect(0, &["status"]).contains(&format!("process running (pid {})", pid(&first))));

    let outcome = order(&daemon, "steady", json!({ "restart": {} }));
    assert_eq!(outcome["status"], "done", "{outcome}");
    let second = process(&daemon, "steady");
    assert!(second["state"] == "running" && pid(&second) != pid(&first), "{second}");
    assert!(!runs(pid(&first)));

    assert_eq!(order(&daemon, "steady", json!({ "stop": {} }))["status"], "done");
    assert_eq!(process(&daemon, "steady")["state"], "stopped");
    assert!(!runs(pid(&second)));
    daemon.wait_value("steady", "all", 0.0);
    // A reload leaves it stopped.
    daemon.expect(0, &["reload"]);
    assert_eq!(process(&daemon, "steady")["state"], "stopped");
    assert_eq!(order(&daemon, "steady", json!({ "start": {} }))["status"], "done");
    let third = pid(&process(&daemon, "steady"));
    let log = daemon.stop();
    assert!(!runs(third));
    assert!(log.contains("ready to go") && log.contains("its process is running"), "{log}");
}

#[test]
fn a_reload_touches_the_process_only_when_it_is_about_it() {
    let dir = policy(STEADY);
    let file = dir.path().join("policy.yaml");
    let daemon = Daemon::start(dir.path(), &[]);
    let first = pid(&wait_state(&daemon, "steady", "running"));
    fs::write(&file, STEADY.replace("every: 50ms", "every: 60ms")).unwrap();
    assert!(daemon.expect(0, &["reload"]).contains("monitor"));
    assert_eq!(pid(&process(&daemon, "steady")), first);

    fs::write(&file, STEADY.replace("sleep 600", "sleep 601")).unwrap();
    assert!(daemon.expect(0, &["reload"]).contains("process"));
    gone(first);
    let second = pid(&wait_state(&daemon, "steady", "running"));

    // Detached, its process ends; so does one that is no longer declared.
    daemon.expect(0, &["detach", "steady"]);
    gone(second);
    fs::write(&file, STEADY.replace("sleep 600", "sleep 602")).unwrap();
    daemon.expect(0, &["reload"]);
    let third = pid(&wait_state(&daemon, "steady", "running"));
    fs::write(&file, "service: steady\n").unwrap();
    daemon.expect(0, &["reload"]);
    gone(third);
    assert!(process(&daemon, "steady").is_null());
    daemon.stop();
}

#[test]
fn every_misfortune_has_a_state_and_disturbs_nobody() {
    let dir = policy(&format!(
        r#"{STEADY}
---
service: missing
process: {{ command: [/no/such/program] }}
execute: {{}}
---
service: looping
process: {{ command: [sh, -c, "echo alas; exit 3"], restart: {{ backoff: 10ms, most: 2, per: 60s }} }}
---
service: done
process: {{ command: [sh, -c, "exit 0"], restart: never }}
---
service: mute
process: {{ command: [sleep, "600"], ready: {{ port: "127.0.0.1:1", within: 100ms }}, restart: {{ most: 0 }} }}
---
service: stubborn
process: {{ command: [sh, -c, "trap '' TERM; echo deaf; while :; do sleep 0.05; done"], ready: {{ output: deaf }}, stop: {{ grace: 100ms }} }}
execute: {{}}
"#
    ));
    let daemon = Daemon::start(dir.path(), &[]);
    let steady = pid(&wait_state(&daemon, "steady", "running"));
    for (service, state, reason) in [
        ("missing", "failed", "cannot start `/no/such/program`: No such file"),
        ("looping", "failed", "ended by itself: exit status: 3; it was started again 2 times within 1m"),
        ("done", "ended", "ended by itself: exit status: 0"),
        ("mute", "failed", "was not ready within 100ms"),
    ] {
        let found = wait_state(&daemon, service, state);
        assert!(found["reason"].as_str().unwrap().contains(reason), "{found}");
    }
    assert!(process(&daemon, "looping")["output"].to_string().contains("alas"));
    daemon.expect(1, &["status", "--check"]);
    let outcome = order(&daemon, "missing", json!({ "start": {} }));
    assert!(outcome["status"] == "failed" && outcome.to_string().contains("cannot start"), "{outcome}");

    wait_state(&daemon, "stubborn", "running");
    let outcome = order(&daemon, "stubborn", json!({ "restart": {} }));
    assert_eq!(outcome["status"], "done", "{outcome}");
    let deaf = pid(&process(&daemon, "stubborn"));
    assert_eq!(pid(&process(&daemon, "steady")), steady);
    let log = daemon.stop();
    assert!(log.contains("the process of `stubborn`, which was killed"), "{log}");
    gone(deaf);
    gone(steady);
}

#[test]
fn no_process_outlives_a_daemon_that_is_killed() {
    let dir = policy(&STEADY.replace("echo began", "sleep 599 & echo $!"));
    let mut daemon = Daemon::start(dir.path(), &[]);
    let first = pid(&wait_state(&daemon, "steady", "running"));
    let child = wait_for("the number of its child", || {
        process(&daemon, "steady")["output"][0].as_str()?.parse::<u64>().ok()
    });
    daemon.process.kill();
    gone(first);
    gone(child);
}

#[test]
fn homeostat_in_a_command_is_the_executable_that_runs() {
    let dir = policy(
        "service: toy\nprocess: { command: [homeostat, fake, C1, --set, cost=20], ready: { output: C1 listens on } }\n",
    );
    let daemon = Daemon::start(dir.path(), &[]);
    wait_state(&daemon, "toy", "running");
    daemon.stop();
}

/// Requirement: R3-59
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_is_to_survive_goes_on_without_the_daemon_and_is_taken_over() {
    let survives = STEADY.replacen("process: {", "process: { survive: true,", 1);
    let dir =
        policy(&format!("{survives}\n---\nservice: mortal\nprocess: {{ command: [sleep, \"600\"] }}\n"));
    let data = tempfile::tempdir().unwrap();
    let keep = ["--data-dir", data.path().to_str().unwrap()];
    let mut daemon = Daemon::start(dir.path(), &keep);
    let first = pid(&wait_state(&daemon, "steady", "running"));
    let mortal = pid(&wait_state(&daemon, "mortal", "running"));
    daemon.process.kill();
    gone(mortal);
    assert!(runs(first), "it survives a daemon that is killed");

    let daemon = Daemon::start(dir.path(), &keep);
    let found = wait_state(&daemon, "steady", "running");
    assert!(pid(&found) == first && found["reason"].as_str().unwrap().contains("goes on"), "{found}");
    assert!(found["output"].to_string().contains("ready to go"), "{found}");
    daemon.wait_value("steady", "all", 2.0);
    let log = daemon.stop();
    assert!(log.contains("goes on without homeostat"), "{log}");
    assert!(runs(first), "it survives a daemon that stops");

    // What the policy says now is what counts.
    fs::write(dir.path().join("policy.yaml"), survives.replace("sleep 600", "sleep 602")).unwrap();
    let daemon = Daemon::start(dir.path(), &keep);
    gone(first);
    let second = pid(&wait_state(&daemon, "steady", "running"));
    assert_eq!(order(&daemon, "steady", json!({ "restart": {} }))["status"], "done");
    gone(second);
    let third = pid(&process(&daemon, "steady"));
    daemon.stop();
    fs::write(dir.path().join("policy.yaml"), "service: other\n").unwrap();
    let daemon = Daemon::start(dir.path(), &keep);
    gone(third);
    daemon.stop();
}

#[test]
fn a_program_that_floods_disturbs_neither_the_daemon_nor_its_log() {
    let dir = policy(&format!(
        r#"{STEADY}
---
service: flood
process: {{ command: [sh, -c, "yes flooding"] }}
---
service: endless
process: {{ command: [sh, -c, "yes | tr -d '\n'"] }}
"#
    ));
    let daemon = Daemon::start(dir.path(), &[]);
    for service in ["steady", "flood", "endless"] {
        wait_state(&daemon, service, "running");
    }
    wait_for("the log to say what it leaves out", || {
        daemon.process.log().contains("more than the log takes").then_some(())
    });
    let output = process(&daemon, "endless")["output"].clone();
    assert!(output[0].as_str().unwrap().len() <= 4096);
    daemon.expect(0, &["status", "--check"]);
    daemon.stop();
}
