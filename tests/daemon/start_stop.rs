//! How it starts, how it does not, and how it stops.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::{Daemon, Server, homeostat, policy, wait_for};

fn slow(url: &str) -> String {
    format!(
        "service: a\nmonitor: {{ sensors: {{ x: push }} }}\nexecute:\n  set: {{ http: {{ method: PUT, url: \"{url}/{{property}}\", body: \"{{value}}\", timeout: 100s }} }}\n"
    )
}

/// Sends an action and does not wait for its end.
fn send(daemon: &Daemon, actions: &str) -> std::thread::JoinHandle<Option<(u16, String)>> {
    let (address, actions) = (daemon.address, actions.to_string());
    std::thread::spawn(move || {
        super::support::request(address, "POST", "/v1/services/a/actions", &actions).ok()
    })
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_begins_nothing_new() {
    let server = Server::start(|_| (Duration::from_millis(1_500), 200, String::new()));
    let dir = policy(&slow(&server.url()));
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let mut daemon = Daemon::start(dir.path(), &["--data-dir", path]);
    let call =
        send(&daemon, r#"[{"set": {"property": "p", "value": 1}}, {"set": {"property": "q", "value": 2}}]"#);
    wait_for("the first step", || (server.got("PUT").len() == 1).then_some(()));
    daemon.process.signal(Signal::INT);
    assert_eq!(daemon.process.end(), 0, "{}", daemon.process.log());
    assert!(!daemon.process.log().contains("late"), "{}", daemon.process.log());
    let _ = call.join();
    assert_eq!(server.got("PUT").len(), 1);

    let daemon = Daemon::start(dir.path(), &["--data-dir", path]);
    let why = daemon.expect(0, &["why", "a"]);
    assert!(why.contains("set(a, p, 1): done") || why.contains("done"), "{why}");
    assert!(why.contains("skipped"), "{why}");
    assert_eq!(server.got("PUT").len(), 1, "nothing is repeated");
    daemon.stop();
}

#[test]
fn a_second_interrupt_does_not_wait() {
    let server = Server::start(|_| (Duration::from_secs(100), 200, String::new()));
    let dir = policy(&slow(&server.url()));
    let mut daemon = Daemon::start(dir.path(), &[]);
    let _ = send(&daemon, r#"{"set": {"property": "p", "value": 1}}"#);
    wait_for("the step", || (server.got("PUT").len() == 1).then_some(()));
    daemon.process.signal(Signal::INT);
    wait_for("the stop to begin", || daemon.process.log().contains("stopping").then_some(()));
    // Two signals within 50 ms are one call to stop.
    std::thread::sleep(Duration::from_millis(100));
    let begin = Instant::now();
    daemon.process.signal(Signal::INT);
    daemon.process.end();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(daemon.process.log().contains("second interrupt"), "{}", daemon.process.log());
}

#[test]
fn an_effector_that_hangs_is_named_and_cut_off() {
    let server = Server::start(|_| (Duration::from_secs(100), 200, String::new()));
    let dir = policy(&slow(&server.url()));
    let daemon = Daemon::start(dir.path(), &[]);
    let _ = send(&daemon, r#"{"set": {"property": "p", "value": 1}}"#);
    wait_for("the step", || (server.got("PUT").len() == 1).then_some(()));
    let log = daemon.stop();
    assert!(log.contains("late") && log.contains("`a`") && log.contains("set"), "{log}");
}

#[test]
fn what_cannot_start_says_why_and_exits_as_documented() {
    let dir = policy("service: a\n");
    let words = |more: &[&str]| {
        let mut words = vec!["run", dir.path().to_str().unwrap(), "--log"];
        words.extend(more);
        homeostat(&words, None)
    };
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let daemon = Daemon::start(dir.path(), &["--data-dir", path]);
    let said = words(&["--listen", "127.0.0.1:0", "--data-dir", path]);
    assert!(said.code == 7 && said.err.contains("in use by another homeostat"), "{said:?}");
    let said = words(&["--listen", &daemon.address.to_string()]);
    assert!(said.code == 7 && said.err.contains("cannot listen"), "{said:?}");
    daemon.stop();
    // Under a file there can be no directory; root may write everywhere else.
    let under = dir.path().join("policy.yaml/data");
    let said = words(&["--listen", "127.0.0.1:0", "--data-dir", under.to_str().unwrap()]);
    assert!(said.code == 7 && said.err.contains("policy.yaml/data"), "{said:?}");
    let said = words(&["--listen", "127.0.0.1:0", "--record", "/no/such/directory/file"]);
    assert!(said.code == 7 && said.err.contains("/no/such/directory/file"), "{said:?}");
    let said = words(&["--listen", "127.0.0.1:0", "--record", "/dev/full"]);
    assert!(said.code == 7 && said.err.contains("/dev/full"), "{said:?}");
    assert_eq!(words(&["--listen", "0.0.0.0:0"]).code, 2);
    assert_eq!(words(&["--listen", "nowhere"]).code, 2);
    assert_eq!(words(&["--shards", "0"]).code, 2);
    assert_eq!(words(&["--no-such-flag"]).code, 2);
    assert_eq!(homeostat(&["run"], None).code, 2);
    std::fs::write(data.path().join("homeostat.db"), "no database").unwrap();
    let said = words(&["--listen", "127.0.0.1:0", "--data-dir", path]);
    assert!(said.code == 7 && said.err.contains("no readable homeostat database"), "{said:?}");
    let bad = policy("service: a\nmonitor: { metrics: { y: z } }\n");
    let said = homeostat(&["run", bad.path().to_str().unwrap(), "--listen", "127.0.0.1:0"], None);
    assert!(said.code == 4 && said.err.contains("policy.yaml"), "{said:?}");
    let said = homeostat(&["run", "/no/such/directory", "--listen", "127.0.0.1:0"], None);
    assert!(said.code == 4 && said.err.contains("/no/such/directory"), "{said:?}");
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    use std::io::BufRead;

    let dir = policy("service: a\nmonitor: { sensors: { x: push } }\nexecute: { set: log }\n");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .args(["run", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--log"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("homeostat runs") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    drop(log);
    let address = line.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let mut answers = Vec::new();
    for _ in 0..5 {
        let action = r#"{"set": {"property": "p", "value": 1}}"#;
        answers.push(super::support::request(address, "POST", "/v1/services/a/actions", action).unwrap());
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = wait_for("its end", || child.try_wait().unwrap());
    assert!(answers.iter().all(|(status, body)| *status == 200 && body.contains("done")), "{answers:?}");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_a_start_or_a_reload() {
    use std::fmt::Write;

    let dir = policy("service: a\n");
    let mut daemon = Daemon::start(dir.path(), &[]);
    let mut text = String::new();
    for i in 0..8_000 {
        write!(text, "---\nservice: s{i}\nmonitor: {{ sensors: {{ x: push }}, metrics: {{ y: x + 1 }} }}\n")
            .unwrap();
    }
    std::fs::write(dir.path().join("large.yaml"), text).unwrap();
    daemon.process.signal(Signal::HUP);
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.end(), 0, "{}", daemon.process.log());
    let directory = dir.path().to_str().unwrap();
    let mut starting =
        super::support::Process::start(&["run", directory, "--listen", "127.0.0.1:0", "--log"]);
    wait_for("the start", || starting.log().contains("homeostat starts").then_some(()));
    starting.signal(Signal::TERM);
    let begin = Instant::now();
    assert_eq!(starting.end(), 0, "{}", starting.log());
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_proposal_can_be_approved_or_rejected_after_a_restart() {
    let dir = policy(
        "service: a\nmonitor: { sensors: { x: push, y: push } }\nanalyze: { low: { objective: x < 10 }, calm: { objective: y < 10 } }\nplan:\n  - { when: low, mode: approve, expires: 1h, do: [ { remember: { key: hint, value: yes } } ] }\n  - { when: calm, do: [ { remember: { key: other, value: yes } } ] }\nexecute: {}\n",
    );
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let mut daemon = Daemon::start(dir.path(), &["--data-dir", path]);
    for (number, metric) in [(1, "x"), (2, "y")] {
        daemon.expect(0, &["metric", "push", "a", metric, "50"]);
        wait_for("a proposal", || {
            daemon.get("/v1/decisions?service=a").as_array().filter(|d| d.len() == number).map(drop)
        });
    }
    assert!(daemon.expect(0, &["why", "a"]).contains("homeostat approve a 1 (until 20"));
    daemon.process.signal(Signal::KILL);
    let _ = daemon.process.end();
    let daemon = Daemon::start(dir.path(), &["--data-dir", path]);
    daemon.expect(0, &["approve", "a", "1"]);
    assert!(daemon.expect(0, &["knowledge", "get", "a", "hint"]).contains("yes"));
    daemon.expect(0, &["reject", "a", "2"]);
    assert!(daemon.cli(&["approve", "a", "2"]).code != 0);
    assert!(daemon.expect(0, &["why", "a"]).contains("withdrawn: rejected by an operator"));
    daemon.stop();
}
