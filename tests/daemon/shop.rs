//! `policies/shop` for real: the daemon starts the services of the shop and their clients, and nobody helps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::support::{Daemon, Fake, homeostat, request, wait_for};

/// The shop as it is shipped, on free ports and more often measured.
struct Shop {
    dir: tempfile::TempDir,
    /// In the order of their numbers in the policy: where homeostat listens for A, then the services, the reference and the clients.
    ports: Vec<(u16, SocketAddr)>,
}

impl Shop {
    fn new(cost_of_c1: u32) -> Self {
        let yaml = include_str!("../../policies/shop/shop.yaml");
        let mut yaml =
            yaml.replace("every: 1s", "every: 100ms").replace("cost=20", &format!("cost={cost_of_c1}"));
        let numbers = [7000, 7010, 7011, 7012, 7013, 7014, 7101];
        // All are held until all are chosen, so that they differ.
        let held = numbers.map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let ports: Vec<(u16, SocketAddr)> =
            numbers.into_iter().zip(held.iter().map(|l| l.local_addr().unwrap())).collect();
        for (number, address) in &ports {
            yaml = yaml.replace(&format!("127.0.0.1:{number}"), &format!("ADDRESS:{}", address.port()));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("shop.yaml"), yaml.replace("ADDRESS:", "127.0.0.1:")).unwrap();
        let script = include_str!("../../policies/shop/cheapest.rhai");
        std::fs::write(dir.path().join("cheapest.rhai"), script).unwrap();
        Self { dir, ports }
    }

    fn at(&self, number: u16) -> SocketAddr {
        self.ports.iter().find(|(n, _)| *n == number).unwrap().1
    }

    fn get(&self, number: u16, path: &str) -> Option<Value> {
        let (status, text) = request(self.at(number), "GET", path, "").ok()?;
        (status == 200).then(|| serde_json::from_str(&text).unwrap())
    }

    fn set(&self, number: u16, property: &str, value: &str) {
        request(self.at(number), "PUT", &format!("/{property}"), value).unwrap();
    }
}

/// Requirement: R3-13
/// Requirement: R3-52
/// Requirement: R3-58
/// Requirement: R3-59
#[test]
fn the_shop_repairs_itself_and_says_why() {
    let shop = Shop::new(20);
    let daemon = Daemon::start(shop.dir.path(), &[]);
    daemon.wait_value("A", "cost", 23.0);
    wait_for("set(C2, threads, 10) to arrive", || (shop.get(7013, "/threads")? == 10).then_some(()));
    assert_eq!(shop.get(7012, "/threads").unwrap(), 4);

    // The outcome is recorded right after the fake service has it.
    let why = wait_for("the second decision", || {
        let why = daemon.cli(&["why", "A", "-n", "5"]);
        (why.out.contains("set(C2, threads, 10): done by C2")).then_some(why.out)
    });
    for part in
        ["cost >= 30", "replace(C1, C2): done by A", "C2.cost = 5", "unbind(B, b1): done by B", "recovered"]
    {
        assert!(why.contains(part), "`{part}` is missing in:\n{why}");
    }
    assert_eq!(daemon.get("/v1/services/A")["references"]["c"]["bound"], "C2");
    assert!(daemon.get("/v1/services/B")["references"]["b1"]["bound"].is_null());
    daemon.expect(0, &["status", "--check"]);
    assert!(daemon.expect(0, &["get", "A", "cost"]).contains("23"));
    assert!(daemon.expect(0, &["topology"]).contains("C2"));
    assert!(daemon.expect(0, &["slo", "list", "A"]).contains("cheap"));

    // A service that costs more again; nothing is cheaper, so nothing is done, and `why` says so.
    shop.set(7013, "cost", "50");
    wait_for("a violation", || (daemon.cli(&["status", "--check"]).code == 1).then_some(()));
    daemon.wait_value("A", "cost", 38.0);
    daemon.stop();
}

/// Requirement: R3-19
/// Requirement: R3-58
/// Requirement: R3-62
#[test]
fn what_the_planner_decides_happens_to_the_requests_of_clients() {
    let shop = Shop::new(10);
    let daemon = Daemon::start(shop.dir.path(), &[]);
    let answer = |of: &str| {
        wait_for(&format!("an answer of {of}"), || {
            let answer: Value = serde_json::from_str(shop.get(7014, "/answer")?.as_str()?).ok()?;
            (answer["c"]["name"] == of).then_some(answer)
        })
    };
    // 18 + 10 is less than 30.
    assert_eq!(answer("C1")["name"], "A");
    daemon.wait_value("A", "cost", 28.0);
    shop.set(7012, "cost", "20");
    answer("C2");
    daemon.wait_value("A", "cost", 23.0);
    wait_for("many answers more", || (shop.get(7014, "/asked")?.as_u64()? > 10).then_some(()));
    assert_eq!(shop.get(7014, "/failed").unwrap(), 0);
    assert_eq!(daemon.get("/v1/services/C1")["process"]["state"], "running");
    // What clients printed is in the log of the daemon, and kept.
    let printed = daemon.get("/v1/services/clients")["process"]["output"].to_string();
    assert!(printed.contains("C1") && printed.contains("C2"), "{printed}");
    let log = daemon.stop();
    assert!(log.contains("answer: {"), "{log}");
    assert!(std::net::TcpStream::connect(shop.at(7013)).is_err(), "its services end with it");
}

/// Requirement: R3-03
/// Requirement: R3-20
#[test]
fn components_come_and_go_without_an_error_of_the_service() {
    let fake = Fake::start("A", &["cost=1"]);
    let dir = super::support::policy("service: other\n");
    let daemon = Daemon::start(dir.path(), &[]);
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    // Sections are no policies: they do not belong into the policy directory under a name of a policy.
    let monitor = file(
        "monitor.txt",
        &format!(
            "sensors: {{ cost: {{ http: {{ url: \"{}/\", pointer: /cost, every: 50ms }} }} }}",
            fake.url
        ),
    );
    let analyze = file("analyze.txt", "cheap: { objective: cost < 30 }\n");
    let plan = file("plan.txt", "[{ when: cheap, mode: act, do: [{ set: { property: cost, value: 2 } }] }]");
    let execute = file(
        "execute.txt",
        &format!(
            "set: {{ http: {{ method: PUT, url: \"{}/{{property}}\", body: \"{{value}}\" }} }}",
            fake.url
        ),
    );
    let whole = file("whole.txt", "service: A\n");

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let client = {
        let (stop, sent, address) = (stop.clone(), sent.clone(), fake.address);
        std::thread::spawn(move || {
            let mut errors = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                match request(address, "GET", "/", "") {
                    Ok((200, _)) => {}
                    other => errors.push(format!("{other:?}")),
                }
                sent.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
            }
            errors
        })
    };
    let components = || {
        let service = daemon.get("/v1/services/A");
        let list = service["components"].as_array().unwrap();
        list.iter().map(|c| c["component"].as_str().unwrap().to_string()).collect::<Vec<_>>().join(" ")
    };
    daemon.expect(5, &["get", "A"]);
    daemon.expect(0, &["attach", "A", &whole]);
    assert_eq!(components(), "");
    let steps = [("monitor", &monitor), ("analyze", &analyze), ("plan", &plan), ("execute", &execute)];
    let mut attached = Vec::new();
    for (component, file) in steps {
        daemon.expect(0, &["attach", "A", file, "--component", component]);
        attached.push(component);
        assert_eq!(components(), attached.join(" "));
    }
    // The loop is closed now.
    fake.set("cost", "40");
    wait_for("the loop to set the cost to 2", || (fake.property("cost") == 2).then_some(()));
    for component in ["plan", "analyze", "execute", "monitor"] {
        daemon.expect(0, &["detach", "A", "--component", component]);
        attached.retain(|c| *c != component);
        assert_eq!(components(), attached.join(" "));
    }
    assert!(daemon.expect(4, &["detach", "A", "--component", "plan"]).contains("planner"));
    daemon.expect(0, &["detach", "A"]);
    daemon.expect(5, &["detach", "A"]);

    // Management is not on the port of the service, and the service is not on the port of management.
    assert_eq!(request(fake.address, "GET", "/v1/services", "").unwrap().0, 404);
    assert_eq!(request(daemon.address, "GET", "/cost", "").unwrap().0, 404);
    wait_for("some requests more", || (sent.load(Ordering::SeqCst) > 10).then_some(()));
    stop.store(true, Ordering::SeqCst);
    let errors = client.join().unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    daemon.stop();
}

#[test]
fn without_a_daemon_every_question_ends_with_3() {
    for words in [&["status"][..], &["get", "A", "cost"], &["why"], &["reload"]] {
        let said = homeostat(words, Some("http://127.0.0.1:1"));
        assert_eq!(said.code, 3, "{said:?}");
    }
}
