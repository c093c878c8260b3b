//! Components that come and go at three services while clients use them: the sequence of slide 17, by three ways of saying it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Daemon, Fake, PATIENCE, request, wait_for};

const SERVICES: [&str; 3] = ["A", "B", "C"];

/// The component of a service that is attached, or detached when it is there, and what must be there afterwards, all of it.
const STEPS: [(&str, &str, &str); 18] = [
    ("A", "monitor", "A: M; B: -; C: -"),
    ("B", "monitor", "A: M; B: M; C: -"),
    ("C", "monitor", "A: M; B: M; C: M"),
    // An executor before the planner that needs it: files that say it the other way round are refused.
    ("A", "analyze", "A: M A; B: M; C: M"),
    ("A", "execute", "A: M A E; B: M; C: M"),
    ("A", "plan", "A: M A P E; B: M; C: M"),
    ("C", "execute", "A: M A P E; B: M; C: M E"),
    ("B", "analyze", "A: M A P E; B: M A; C: M E"),
    ("B", "execute", "A: M A P E; B: M A E; C: M E"),
    ("B", "plan", "A: M A P E; B: M A P E; C: M E"),
    ("C", "analyze", "A: M A P E; B: M A P E; C: M A E"),
    ("C", "plan", EVERYWHERE),
    ("B", "plan", "A: M A P E; B: M A E; C: M A P E"),
    ("B", "analyze", "A: M A P E; B: M E; C: M A P E"),
    ("B", "execute", "A: M A P E; B: M; C: M A P E"),
    ("B", "monitor", "A: M A P E; B: -; C: M A P E"),
    ("C", "plan", "A: M A P E; B: -; C: M A E"),
    ("C", "analyze", "A: M A P E; B: -; C: M E"),
];

/// Full loops.
const EVERYWHERE: &str = "A: M A P E; B: M A P E; C: M A P E";

/// A client of one service that never stops asking.
struct Client {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Client {
    fn of(fake: &Fake) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, address) = (stop.clone(), asked.clone(), fake.address);
        let thread = std::thread::spawn(move || {
            let mut errors = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                match request(address, "GET", "/cost", "") {
                    Ok((200, _)) => {}
                    other => errors.push(format!("{other:?}")),
                }
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
            errors
        });
        Self { stop, asked, thread }
    }

    /// One request that began after this call has ended.
    fn wait_for_one(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        wait_for("the client", || (self.asked.load(Ordering::SeqCst) >= before + 2).then_some(()));
    }

    fn errors(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The section of a policy that is this component: a cost above 30 is set to 2.
fn section(fake: &Fake, component: &str) -> Value {
    match component {
        "monitor" => {
            let http = json!({"url": format!("{}/", fake.url), "pointer": "/cost", "every": "50ms"});
            json!({"sensors": {"cost": {"http": http}}})
        }
        "analyze" => json!({"cheap": {"objective": "cost < 30"}}),
        "plan" => {
            let set = json!({"set": {"property": "cost", "value": 2}});
            json!([{"when": "cheap", "mode": "act", "cooldown": "1s", "do": [set]}])
        }
        "execute" => {
            let url = format!("{}/{{property}}", fake.url);
            json!({"set": {"http": {"method": "PUT", "url": url, "body": "{value}"}}})
        }
        other => panic!("{other}"),
    }
}

/// `A: M A P E; B: -; C: M E`, as the daemon says it.
fn listed(status: &Value) -> String {
    let services = status["services"].as_array().unwrap().iter();
    let line = |service: &Value| {
        let list = service["components"].as_array().unwrap();
        let letters: Vec<_> =
            list.iter().map(|c| c["component"].as_str().unwrap()[..1].to_uppercase()).collect();
        let letters = if letters.is_empty() { "-".to_string() } else { letters.join(" ") };
        format!("{}: {letters}", service["name"].as_str().unwrap())
    };
    services.map(line).collect::<Vec<_>>().join("; ")
}

/// What a way of changing components is told.
struct Told<'a> {
    daemon: &'a Daemon,
    /// Where its policies are.
    dir: &'a Path,
    fake: &'a Fake,
    service: &'a str,
    component: &'a str,
    /// Whether it is to be there afterwards.
    attach: bool,
    /// All that the service is to have afterwards.
    has: &'a [&'a str],
}

/// The whole sequence; `change` makes one change.
fn slide_17(dir: &Path, change: impl Fn(&Told)) {
    let fakes: Vec<_> = SERVICES.iter().map(|name| Fake::start(name, &["cost=40"])).collect();
    for name in SERVICES {
        std::fs::write(dir.join(format!("{name}.yaml")), format!("service: {name}\n")).unwrap();
    }
    let daemon = Daemon::start(dir, &[]);
    let clients: Vec<_> = fakes.iter().map(Client::of).collect();
    let list = || {
        let status: Value = serde_json::from_str(&daemon.expect(0, &["status", "--json"])).unwrap();
        // Both ways to ask say the same.
        let services = json!({"services": daemon.get("/v1/services")});
        (listed(&status), listed(&services))
    };
    assert_eq!(list().0, "A: -; B: -; C: -");
    let mut has: [Vec<&str>; 3] = Default::default();
    for (name, component, expected) in STEPS {
        let service = SERVICES.iter().position(|s| *s == name).unwrap();
        let has = &mut has[service];
        let attach = !has.contains(&component);
        has.retain(|c| *c != component);
        if attach {
            has.push(component);
        }
        change(&Told { daemon: &daemon, dir, fake: &fakes[service], service: name, component, attach, has });
        let begin = std::time::Instant::now();
        while list() != (expected.to_string(), expected.to_string()) {
            let late = begin.elapsed() > PATIENCE;
            assert!(!late, "{expected}, and not {:?}\n{}", list(), daemon.process.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        for client in &clients {
            client.wait_for_one();
        }
        if expected == EVERYWHERE {
            // Each of them repairs its service.
            for fake in &fakes {
                wait_for("a loop to set the cost", || (fake.property("cost") == 2).then_some(()));
            }
        }
    }
    what_is_left_works(&daemon, &fakes);
    for (name, client) in SERVICES.iter().zip(clients) {
        let errors = client.errors();
        assert!(errors.is_empty(), "clients of {name} saw {errors:?}");
    }
    daemon.stop();
}

/// A: a loop; B: nothing at all; C: values and actions, and nobody who decides.
fn what_is_left_works(daemon: &Daemon, fakes: &[Fake]) {
    for fake in fakes {
        fake.set("cost", "50");
    }
    wait_for("the loop of A to set the cost", || (fakes[0].property("cost") == 2).then_some(()));
    daemon.expect(4, &["get", "B", "cost"]);
    daemon.expect(4, &["slo", "add", "C", "cheaper", "cost < 20"]);
    daemon.wait_value("C", "cost", 50.0);
    assert_eq!((fakes[1].property("cost"), fakes[2].property("cost")), (json!(50), json!(50)));
    daemon.expect(0, &["send", "C", r#"{"set": {"property": "cost", "value": 3}}"#]);
    daemon.wait_value("C", "cost", 3.0);
}

/// Requirement: R3-03
#[test]
fn the_sequence_of_slide_17_by_the_command_line_disturbs_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    slide_17(dir.path(), |told| {
        let service = told.service;
        if !told.attach {
            told.daemon.expect(0, &["detach", service, "--component", told.component]);
            return;
        }
        let file = files.path().join("section.yaml");
        std::fs::write(&file, section(told.fake, told.component).to_string()).unwrap();
        told.daemon.expect(0, &["attach", service, file.to_str().unwrap(), "--component", told.component]);
    });
}

/// Requirement: R3-03
#[test]
fn the_sequence_of_slide_17_by_http_disturbs_no_client() {
    let dir = tempfile::tempdir().unwrap();
    slide_17(dir.path(), |told| {
        let path = format!("/v1/services/{}/{}", told.service, told.component);
        let body = section(told.fake, told.component);
        let (status, said) = match told.attach {
            true => told.daemon.call("PUT", &path, Some(&body)),
            false => told.daemon.call("DELETE", &path, None),
        };
        assert_eq!(status, 200, "{path}: {said}");
    });
}

/// Requirement: R3-03
/// Requirement: R3-09
#[test]
fn the_sequence_of_slide_17_by_files_disturbs_no_client() {
    let dir = tempfile::tempdir().unwrap();
    slide_17(dir.path(), |told| {
        let name = told.service;
        let mut document = json!({ "service": name });
        for component in told.has {
            document[component] = section(told.fake, component);
        }
        // Written aside and moved into place, as careful editors do.
        let aside = told.dir.join(format!(".{name}.tmp"));
        std::fs::write(&aside, document.to_string()).unwrap();
        std::fs::rename(aside, told.dir.join(format!("{name}.yaml"))).unwrap();
    });
}
