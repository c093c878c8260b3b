//! Policies that change while the daemon runs.

use std::fs;

use super::support::{Daemon, policy, wait_for};

const ONE: &str = "service: one\nmonitor: { sensors: { x: push }, metrics: { y: x + 1 } }\n";

fn names(daemon: &Daemon) -> Vec<String> {
    let services = daemon.get("/v1/services");
    services.as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_string()).collect()
}

fn wait_names(daemon: &Daemon, expected: &[&str]) {
    wait_for(&format!("{expected:?}"), || (names(daemon) == expected).then_some(()));
}

#[test]
fn a_refused_change_keeps_what_runs_and_says_what_is_wrong_and_where() {
    let dir = policy(ONE);
    let file = dir.path().join("policy.yaml");
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.expect(0, &["metric", "push", "one", "x", "1"]);
    daemon.wait_value("one", "y", 2.0);
    // A slip of the hand in the second line, noticed by itself.
    fs::write(&file, ONE.replace("metrics", "metrix")).unwrap();
    wait_for("the pending change", || {
        (daemon.own_metric("homeostat_policy_pending") == Some(1.0)).then_some(())
    });
    let pending = daemon.get("/v1/policy")["pending"].to_string();
    for part in ["policy.yaml", "2", "metrix", "metrics"] {
        assert!(pending.contains(part), "`{part}` is missing in {pending}");
    }
    let status = daemon.expect(0, &["status"]);
    assert!(status.contains("metrix"), "{status}");
    daemon.wait_value("one", "y", 2.0);
    // Half a file, as an editor leaves it between two writes.
    fs::write(&file, &ONE[..30]).unwrap();
    daemon.expect(4, &["reload"]);
    fs::write(&file, "").unwrap();
    assert!(daemon.expect(4, &["reload"]).contains("empty"));
    // SIGHUP reads again; the file is right again, so the same values go on.
    fs::write(&file, ONE).unwrap();
    daemon.process.signal(rustix::process::Signal::HUP);
    wait_for("nothing pending", || {
        (daemon.own_metric("homeostat_policy_pending") == Some(0.0)).then_some(())
    });
    daemon.wait_value("one", "y", 2.0);
    assert!(daemon.own_metric("homeostat_policies_refused_total").unwrap() >= 1.0);
    daemon.stop();
}

#[test]
fn files_come_and_go_and_directories_too() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("policies");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("one.yaml"), ONE).unwrap();
    let daemon = Daemon::start(&dir, &[]);
    fs::write(dir.join("two.yaml"), ONE.replace("one", "two")).unwrap();
    wait_names(&daemon, &["one", "two"]);
    fs::remove_file(dir.join("two.yaml")).unwrap();
    wait_names(&daemon, &["one"]);
    // Written aside and moved into place, as careful editors do.
    fs::write(dir.join(".three.tmp"), ONE.replace("one", "three")).unwrap();
    fs::rename(dir.join(".three.tmp"), dir.join("three.yaml")).unwrap();
    wait_names(&daemon, &["one", "three"]);

    // A directory that is gone is an error, not the wish that nothing runs.
    fs::remove_dir_all(&dir).unwrap();
    daemon.expect(4, &["reload"]);
    assert_eq!(names(&daemon), ["one", "three"]);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("four.yaml"), ONE.replace("one", "four")).unwrap();
    wait_names(&daemon, &["four"]);
    // And the new directory is watched as the old one was.
    fs::write(dir.join("five.yaml"), ONE.replace("one", "five")).unwrap();
    wait_names(&daemon, &["five", "four"]);
    daemon.stop();
}

#[test]
fn a_thousand_changes_in_a_burst_are_a_few_reloads_and_end_at_the_last() {
    let dir = policy(ONE);
    let daemon = Daemon::start(dir.path(), &[]);
    for i in 0..1_000 {
        let text = ONE.replace("x + 1", &format!("x + {i}"));
        fs::write(dir.path().join("policy.yaml"), text).unwrap();
    }
    daemon.expect(0, &["metric", "push", "one", "x", "1"]);
    daemon.wait_value("one", "y", 1000.0);
    let applied = daemon.own_metric("homeostat_policies_applied_total").unwrap();
    let refused = daemon.own_metric("homeostat_policies_refused_total").unwrap();
    assert!(applied + refused < 30.0, "{applied} {refused}");
    daemon.stop();
}
