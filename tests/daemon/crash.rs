//! kill -9, and what is left afterwards.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Daemon, Process, Server, policy, request, wait_for};

/// Keeps even values at once and drops odd ones; says either only after this many milliseconds.
fn target(after_ms: u64) -> Server {
    let state: Arc<Mutex<HashMap<String, String>>> = Arc::default();
    Server::start(move |got| {
        let mut state = state.lock().unwrap();
        if got.method == "GET" {
            return (Duration::ZERO, 200, state.get(&got.path).cloned().unwrap_or_else(|| "-1".into()));
        }
        if got.body.parse::<u64>().is_ok_and(|n| n % 2 == 0) {
            state.insert(got.path.clone(), got.body.clone());
        }
        (Duration::from_millis(after_ms), 200, String::new())
    })
}

#[test]
fn what_a_crash_interrupted_is_settled_and_never_repeated() {
    let server = target(120);
    let url = server.url();
    let dir = policy(&format!(
        "service: a\nexecute:\n  set: {{ http: {{ method: PUT, url: \"{url}/{{property}}\", body: \"{{value}}\", check: {{ url: \"{url}/{{property}}\" }} }} }}\n"
    ));
    let data = tempfile::tempdir().unwrap();
    let options = ["--data-dir", data.path().to_str().unwrap()];
    let mut acknowledged = 0;
    for round in 0..4_u32 {
        let mut daemon = Daemon::start(dir.path(), &options);
        let before = server.got("PUT").len();
        let address = daemon.address;
        let caller = std::thread::spawn(move || {
            let mut done = 0;
            // Odd in every other round, so that both kinds are interrupted.
            for i in 0_u32.. {
                let value = 10 * i + round % 2;
                let body = json!({"set": {"property": format!("p{round}x{i}"), "value": value}}).to_string();
                match request(address, "POST", "/v1/services/a/actions", &body) {
                    Ok((200, _)) => done += 1,
                    _ => return done,
                }
            }
            done
        });
        wait_for("some actions", || (server.got("PUT").len() >= before + 2).then_some(()));
        std::thread::sleep(Duration::from_millis(u64::from(round) * 37));
        daemon.process.kill();
        acknowledged += caller.join().unwrap();
    }
    let daemon = Daemon::start(dir.path(), &options);
    let decisions = daemon.get("/v1/decisions?service=a&limit=100");
    let decisions = decisions.as_array().unwrap();
    assert!(decisions.len() >= acknowledged, "{} {acknowledged}", decisions.len());
    let mut interrupted = 0;
    for decision in decisions {
        let outcomes = decision["outcomes"].as_array().unwrap();
        let key = format!("a/{}/0", decision["id"]);
        let calls = server.got("PUT").iter().filter(|g| g.key.as_deref() == Some(&key)).count();
        assert!(calls <= 1, "{key} was repeated");
        assert_eq!(outcomes.len(), 1, "{decision}");
        match outcomes[0]["status"].as_str().unwrap() {
            "done" => assert_eq!(calls, 1),
            "interrupted" => interrupted += 1,
            // The crash came before the intent.
            "skipped" => assert_eq!(calls, 0),
            other => panic!("{other}: {decision}"),
        }
        let odd = outcomes[0]["action"]["set"]["value"].as_u64().unwrap() % 2 == 1;
        let seen = outcomes[0]["detail"].as_str().unwrap().contains("restart");
        assert!(!(odd && seen), "{decision}");
    }
    let text = Value::from(decisions.clone()).to_string();
    assert!(text.contains("seen after a restart"), "{text}");
    assert!(interrupted >= 1, "{text}");
    assert!(daemon.expect(0, &["why", "a", "-n", "50"]).contains("interrupted"));
    // Numbers go on where they ended.
    let last = decisions[0]["id"].as_u64().unwrap();
    daemon.expect(0, &["send", "a", r#"{"set": {"property": "q", "value": 2}}"#]);
    assert_eq!(daemon.get("/v1/decisions?service=a&limit=1")[0]["id"], last + 1);
    daemon.stop();
}

/// Moments that nobody chose and that are the same in every run (Knuth's MMIX generator).
struct Moments(u64);

impl Moments {
    fn next(&mut self, below_ms: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % below_ms)
    }
}

/// Sends one action after the other, each with a property of its own, until nobody answers; answers with those that were reported as done.
fn send_until_dead(to: SocketAddr, who: String, most: u64) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut done = Vec::new();
        for i in 0..most {
            let property = format!("{who}x{i}");
            let body = json!({"set": {"property": property, "value": i}}).to_string();
            match request(to, "POST", "/v1/services/a/actions", &body) {
                Ok((200, said)) if said.contains("\"done\"") => done.push(property),
                Ok((200, _)) => {}
                _ => return done,
            }
        }
        done
    })
}

/// What the record says of each property: number of the decision, status and detail of its only outcome. Numbers fall, so none is there twice.
fn recorded(daemon: &Daemon) -> BTreeMap<String, (u64, String, String)> {
    let decisions = daemon.get("/v1/decisions?service=a&limit=1000");
    let mut record = BTreeMap::new();
    let mut last = u64::MAX;
    for decision in decisions.as_array().unwrap() {
        let id = decision["id"].as_u64().unwrap();
        assert!(id < last, "{id} follows {last}");
        last = id;
        let [outcome] = &decision["outcomes"].as_array().unwrap()[..] else { panic!("{decision}") };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let property = text(&outcome["action"]["set"]["property"]);
        let entry = (id, text(&outcome["status"]), text(&outcome["detail"]));
        assert!(record.insert(property, entry).is_none(), "{decision} is there twice");
    }
    record
}

#[test]
fn a_kill_at_any_moment_loses_nothing_reported_and_repeats_nothing() {
    let server = target(12);
    let url = server.url();
    let dir = policy(&format!(
        "service: a\nexecute:\n  set: {{ http: {{ method: PUT, url: \"{url}/{{property}}\", body: \"{{value}}\", check: {{ url: \"{url}/{{property}}\" }} }} }}\n"
    ));
    let data = tempfile::tempdir().unwrap();
    let options = ["--data-dir", data.path().to_str().unwrap()];
    let mut moments = Moments(20_261_122);
    let mut reported = Vec::new();
    let mut numbers: BTreeMap<u64, String> = BTreeMap::new();
    for round in 0..26 {
        if round % 3 == 2 {
            // While it starts and settles what the last kill interrupted.
            let words = ["run", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--log"];
            let mut process = Process::start(&[&words[..], &options].concat());
            std::thread::sleep(moments.next(40));
            process.kill();
            continue;
        }
        let mut daemon = Daemon::start(dir.path(), &options);
        for (property, (number, ..)) in recorded(&daemon) {
            let before = numbers.insert(number, property.clone());
            assert!(before.is_none_or(|b| b == property), "{number} was given twice");
        }
        let callers: Vec<_> =
            (0..3).map(|n| send_until_dead(daemon.address, format!("r{round}c{n}"), 12)).collect();
        std::thread::sleep(moments.next(300));
        daemon.process.kill();
        reported.extend(callers.into_iter().flat_map(|c| c.join().unwrap()));
    }

    let daemon = Daemon::start(dir.path(), &options);
    let record = recorded(&daemon);
    for (number, property) in numbers {
        assert_eq!(record.get(&property).map(|r| r.0), Some(number), "{property} is not on record any more");
    }
    assert!(reported.len() > 5, "{}", reported.len());
    for property in reported {
        let found = record.get(&property);
        assert!(found.is_some_and(|(_, status, _)| status == "done"), "{property} was done: {found:?}");
    }
    let mut calls: HashMap<String, String> = HashMap::new();
    for call in server.got("PUT") {
        let property = call.path[1..].to_string();
        // Without a record of the intent there is no call, and no call is made twice.
        let (number, status, detail) =
            record.get(&property).unwrap_or_else(|| panic!("{call:?} is not on record: {record:?}"));
        let key = format!("a/{number}/0");
        assert_eq!(call.key.as_deref(), Some(&*key), "{call:?}");
        assert!(calls.insert(key, property).is_none(), "{call:?} was repeated");
        assert!(["done", "interrupted"].contains(&&**status), "{call:?}: {status}: {detail}");
        let dropped = call.body.parse::<u64>().unwrap() % 2 == 1;
        assert!(!(dropped && detail.contains("restart")), "{call:?}: {detail}");
    }
    let mut interrupted = 0;
    for (property, (number, status, detail)) in &record {
        let called = calls.contains_key(&format!("a/{number}/0"));
        match &**status {
            "done" => assert!(called, "{property}"),
            "skipped" => assert!(!called, "{property}: {detail}"),
            "interrupted" => interrupted += 1,
            other => panic!("{property}: {other}: {detail}"),
        }
    }
    let seen = record.values().filter(|(_, _, detail)| detail.contains("seen after a restart")).count();
    assert!(interrupted >= 1 && seen >= 1, "{interrupted} {seen}");
    daemon.stop();
}

/// Whether a program with this argument still runs: what an effector started outlives a killed daemon.
fn still_runs(argument: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        // Elsewhere than on Linux: for longer than the program takes.
        std::thread::sleep(Duration::from_secs(1));
        return false;
    };
    let argument = argument.as_os_str().as_encoded_bytes();
    processes.flatten().any(|process| {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        words.split(|b| *b == 0).any(|word| word == argument)
    })
}

/// Writes a line when it begins and one when it has ended; odd values end without.
const PROGRAM: &str = "\
echo begin \"$2\" \"$HOMEOSTAT_KEY\" >>\"$1\"
sleep 0.1
[ $(($3 % 2)) = 0 ] || exit 1
echo end \"$2\" \"$HOMEOSTAT_KEY\" >>\"$1\"
";

#[test]
fn a_program_that_a_kill_interrupted_is_asked_about_and_never_run_again() {
    let files = tempfile::tempdir().unwrap();
    let (program, lines) = (files.path().join("program.sh"), files.path().join("lines"));
    std::fs::write(&program, PROGRAM).unwrap();
    std::fs::write(&lines, "").unwrap();
    let (run, file) = (program.to_str().unwrap(), lines.to_str().unwrap());
    let dir = policy(&format!(
        "service: a\nexecute:\n  set: {{ exec: {{ command: [sh, {run}, {file}, \"{{property}}\", \"{{value}}\"], check: {{ command: [grep, -q, \"end {{property}} \", {file}] }} }} }}\n"
    ));
    let data = tempfile::tempdir().unwrap();
    let options = ["--data-dir", data.path().to_str().unwrap()];
    let written = || std::fs::read_to_string(&lines).unwrap();
    let count = |text: &str, word: &str| text.lines().filter(|l| l.starts_with(word)).count();
    let mut moments = Moments(4_711);
    let mut reported = Vec::new();
    for round in 0..10_u64 {
        let mut daemon = Daemon::start(dir.path(), &options);
        let before = count(&written(), "begin");
        let caller = send_until_dead(daemon.address, format!("r{round}"), 50);
        // Two in the middle of an action that takes place and of one that does not, the others at any moment.
        match round {
            0 | 1 => {
                let wanted = before + 1 + usize::try_from(round).unwrap();
                wait_for("a begun action", || (count(&written(), "begin") == wanted).then_some(()));
            }
            _ => std::thread::sleep(moments.next(350)),
        }
        daemon.process.kill();
        reported.extend(caller.join().unwrap());
        wait_for("the end of what the daemon started", || (!still_runs(&program)).then_some(()));
    }

    let daemon = Daemon::start(dir.path(), &options);
    let record = recorded(&daemon);
    for property in reported {
        assert_eq!(record.get(&property).map(|r| &*r.1), Some("done"), "{property}");
    }
    let text = written();
    let begun = text.lines().filter(|l| l.starts_with("begin"));
    for line in begun {
        let property = line.split(' ').nth(1).unwrap();
        assert!(record.contains_key(property), "{line} without a record:\n{text}\n{record:#?}");
    }
    for (property, (number, status, detail)) in &record {
        let times = |word: &str| count(&text, &format!("{word} {property} a/{number}/0"));
        assert_eq!(count(&text, &format!("begin {property} ")), times("begin"), "{property}: {text}");
        assert!(times("begin") <= 1, "{property} was repeated");
        let ended = times("end") == 1;
        match &**status {
            "done" => assert!(ended, "{property}: {detail}"),
            "interrupted" | "failed" => assert!(!ended, "{property}: {detail}"),
            "skipped" => assert_eq!(times("begin"), 0, "{property}: {detail}"),
            other => panic!("{property}: {other}: {detail}"),
        }
    }
    let said = |property: &str| record[property].2.clone();
    assert_eq!(said("r0x0"), "seen after a restart");
    assert_eq!(said("r1x1"), "it did not take place");
    daemon.stop();
}

const A: &str = "
service: a
references: { r: { service: b, candidates: [c] }, s: { service: b, candidates: [c] } }
monitor: { sensors: { x: push } }
analyze: { calm: { objective: x < 10 } }
execute: { set: log }
";
const OTHERS: &str = "service: b\n---\nservice: c\n---\nservice: d\n";

fn component_names(daemon: &Daemon, service: &str) -> Vec<String> {
    let status = daemon.get(&format!("/v1/services/{service}"));
    let list = status["components"].as_array().unwrap();
    list.iter().map(|c| c["component"].as_str().unwrap().to_string()).collect()
}

/// Requirement: R3-14
/// Requirement: R3-48
#[test]
fn what_was_acknowledged_outlives_a_kill_until_its_policy_changes() {
    let dir = policy(OTHERS);
    let a = dir.path().join("a.yaml");
    std::fs::write(&a, A).unwrap();
    let data = tempfile::tempdir().unwrap();
    let options = ["--data-dir", data.path().to_str().unwrap()];
    let bound = |daemon: &Daemon, reference: &str| {
        daemon.get("/v1/services/a")["references"][reference]["bound"].as_str().map(str::to_string)
    };
    let mut daemon = Daemon::start(dir.path(), &options);
    let hand = data.path().join("hand.yaml");
    std::fs::write(&hand, "service: hand\nmonitor: { sensors: { y: push } }\n").unwrap();
    let plan = data.path().join("plan.yaml");
    std::fs::write(&plan, "[{ when: calm, run: strategy.rhai, mode: act }]").unwrap();
    std::fs::write(
        data.path().join("strategy.rhai"),
        "fn plan(alarm) { because(\"because it is so\"); [set(\"p\", 1)] }",
    )
    .unwrap();
    daemon.expect(0, &["attach", "hand", hand.to_str().unwrap()]);
    daemon.expect(0, &["attach", "a", plan.to_str().unwrap(), "--component", "plan"]);
    daemon.expect(
        0,
        &["send", "a", r#"[{"bind": {"reference": "r", "to": "c"}}, {"unbind": {"reference": "s"}}]"#],
    );
    daemon.expect(0, &["knowledge", "put", "a", "k", "[1, 2]"]);
    daemon.expect(0, &["slo", "disable", "a", "calm"]);
    daemon.process.kill();

    let mut daemon = Daemon::start(dir.path(), &options);
    assert_eq!(daemon.get("/v1/services/a/slos")[0]["state"], "disabled");
    assert_eq!(
        daemon.expect(0, &["knowledge", "get", "a", "k", "--json"]).replace(char::is_whitespace, ""),
        "[1,2]"
    );
    assert_eq!(bound(&daemon, "r").as_deref(), Some("c"));
    assert_eq!(bound(&daemon, "s"), None);
    assert_eq!(component_names(&daemon, "hand"), ["monitor"]);
    assert_eq!(component_names(&daemon, "a"), ["monitor", "analyze", "plan", "execute"]);
    // What was attached by hand works, and the decisions do not repeat its script instead of a name.
    daemon.expect(0, &["slo", "enable", "a", "calm"]);
    daemon.expect(0, &["metric", "push", "a", "x", "50"]);
    wait_for("a decision of the strategy", || {
        daemon.cli(&["why", "a"]).out.contains("because it is so").then_some(())
    });
    let strategy = daemon.expect(0, &["why", "a", "-n", "1"]);
    let line = strategy.lines().find(|l| l.contains("strategy")).unwrap();
    assert!(!line.contains("fn plan"), "{line}");
    daemon.process.kill();

    // Another policy for `a`: what was done to it by hand gives way; what was bound stays where the same is declared as before.
    std::fs::write(&a, A.replacen("service: b,", "service: d,", 1)).unwrap();
    let daemon = Daemon::start(dir.path(), &options);
    assert_eq!(component_names(&daemon, "a"), ["monitor", "analyze", "execute"]);
    assert_eq!(component_names(&daemon, "hand"), ["monitor"]);
    assert_eq!(bound(&daemon, "r").as_deref(), Some("d"));
    assert_eq!(bound(&daemon, "s"), None);
    assert!(daemon.process.log().contains("gives way"), "{}", daemon.process.log());
    // And back: what gave way does not come again.
    std::fs::write(&a, A).unwrap();
    daemon.expect(0, &["reload"]);
    assert_eq!(bound(&daemon, "r").as_deref(), Some("b"));
    daemon.expect(0, &["detach", "hand"]);
    daemon.stop();
    let daemon = Daemon::start(dir.path(), &options);
    assert_eq!(bound(&daemon, "r").as_deref(), Some("b"));
    assert_eq!(component_names(&daemon, "a"), ["monitor", "analyze", "execute"]);
    daemon.expect(5, &["get", "hand"]);
    daemon.stop();
}

#[test]
fn a_full_disk_is_said_and_the_loop_goes_on() {
    let dir = policy("service: a\nmonitor: { sensors: { x: push } }\nexecute: { set: log }\n");
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().to_str().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400k", "tmpfs", path])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        // Only root may, and not everywhere.
        return;
    }
    let daemon = Daemon::start(dir.path(), &["--data-dir", path]);
    let text = "x".repeat(20_000);
    for i in 0..40 {
        daemon.call("PUT", &format!("/v1/services/a/knowledge/k{i}"), Some(&json!(text)));
    }
    wait_for("the error", || daemon.process.log().contains("disk is full").then_some(()));
    // Whatever is left is taken; without a durable intent there is no act.
    wait_for("an action that is not tried", || {
        let _ = std::fs::write(disk.path().join("filler"), vec![0; 400_000]);
        let action = json!({"set": {"property": "p", "value": text}});
        let (_, outcome) = daemon.call("POST", "/v1/services/a/actions", Some(&action));
        (outcome["status"] == "failed" && outcome.to_string().contains("intent")).then_some(())
    });
    daemon.expect(0, &["metric", "push", "a", "x", "7"]);
    daemon.wait_value("a", "x", 7.0);
    daemon.stop();
    let unmounted = std::process::Command::new("umount").arg(path).status();
    assert!(unmounted.unwrap().success());
}

#[test]
fn a_property_that_a_crash_interrupted_is_looked_at_and_never_set_again() {
    let server = target(2_000);
    let url = server.url();
    let dir = policy(&format!(
        "service: a\nmanage: {{ properties: {{ rate: {{ type: integer, settable: true, http: {{ url: \"{url}/rate\" }} }} }} }}\nexecute: {{}}\n"
    ));
    let data = tempfile::tempdir().unwrap();
    let options = ["--data-dir", data.path().to_str().unwrap()];
    for (value, status, part) in
        [(4, "done", "seen after a restart"), (5, "interrupted", "it did not take place")]
    {
        let mut daemon = Daemon::start(dir.path(), &options);
        let before = server.got("PUT").len();
        let (address, body) =
            (daemon.address, json!({"set": {"property": "rate", "value": value}}).to_string());
        let caller =
            std::thread::spawn(move || request(address, "POST", "/v1/services/a/actions", &body).is_ok());
        wait_for("the call", || (server.got("PUT").len() > before).then_some(()));
        daemon.process.kill();
        let _ = caller.join();
        let daemon = Daemon::start(dir.path(), &options);
        let decision = daemon.get("/v1/decisions?service=a&limit=1")[0].clone();
        let outcome = &decision["outcomes"][0];
        assert_eq!(outcome["status"], status, "{decision}");
        assert!(outcome["detail"].as_str().unwrap().contains(part), "{decision}");
        assert_eq!(server.got("PUT").len(), before + 1, "it is not repeated");
        daemon.stop();
    }
}
