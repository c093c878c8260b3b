//! From policies to traffic: samples of real calls reach the loop, and what the loop decides about bindings happens to real calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::knowledge::store::Store;
use homeostat::model::ports::{Actions, Metrics};
use homeostat::model::process::ProcessOrder;
use homeostat::model::{Action, OutcomeStatus, Timestamp};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::handle::Handle;
use homeostat::service::record::Tape;
use homeostat::service::shell::{Setting, Shell};
use homeostat::service::simulation::Simulation;
use homeostat::service::supervisor::Supervisor;

use super::support::*;

/// A port that is free at this moment.
pub fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn set(text: &str) -> PolicySet {
    match PolicySet::from_sources(&Sources::from_texts([("p.yaml", text)]), None) {
        Ok((set, _)) => set,
        Err(problems) => {
            panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
    }
}

pub fn errors(text: &str) -> Vec<String> {
    let problems = PolicySet::from_sources(&Sources::from_texts([("p.yaml", text)]), None).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

pub async fn start(text: &str, ports: &[SocketAddr]) -> Arc<Supervisor> {
    start_with(text, ports, Store::in_memory().unwrap()).await
}

pub async fn start_with(text: &str, ports: &[SocketAddr], store: Store) -> Arc<Supervisor> {
    let setting = Setting { shards: 2, connectors: Connectors::new(), store, tape: Tape::off() };
    let supervisor = Arc::new(Supervisor::new(Shell::start(setting).unwrap()));
    supervisor.apply(set(text), &[]).await.unwrap();
    for port in ports {
        until("the ports to open", || std::net::TcpStream::connect(port).is_ok()).await;
    }
    supervisor
}

pub async fn reads(handle: &Handle, metric: &str, good: impl Fn(f64) -> bool) -> f64 {
    let waiting = async {
        loop {
            if let Ok(reading) = handle.get_metric(metric, None).await
                && let Some(value) = reading.fresh()
                && good(value)
            {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no such value of {metric}"))
}

fn shop(port: SocketAddr, a1: SocketAddr, front: SocketAddr, a2: SocketAddr) -> String {
    format!(
        "
service: A
references: {{ payment: {{ service: C1, candidates: [C2], listen: '{port}' }} }}
monitor: {{ metrics: {{ slow: payment.worst }} }}
analyze: {{ fast: {{ objective: slow < 100ms }} }}
plan: [{{ when: fast, do: [{{ replace: {{ from: C1, to: C2 }} }}], mode: act }}]
execute: {{}}
---
service: C1
endpoint: {a1}
listen: {front}
monitor:
  sensors: {{ time: {{ proxy: response_time }}, calls: {{ proxy: {{ what: requests, every: 20ms }} }} }}
  metrics: {{ worst: {{ of: time, aggregate: max, over: 60s }} }}
---
service: C2
endpoint: http://{a2}
monitor: {{ sensors: {{ worst: push }} }}
"
    )
}

/// Requirement: R3-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_is_replaced_in_the_answers_of_its_clients() {
    let (c1, a1) = Service::start("C1").await;
    let (_c2, a2) = Service::start("C2").await;
    let (port, front) = (free(), free());
    let supervisor = start(&shop(port, a1, front, a2), &[port]).await;
    // The port opens a moment before its reference is bound.
    let bound = async {
        while get(port, "/").await.0 == 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, bound).await.expect("a reference that is bound");
    assert_eq!(get(port, "/").await, (200, "C1".into()));
    let measured = Handle::new(supervisor.clone(), "C1");
    reads(&measured, "calls", |n| n >= 1.0).await;
    // Times are told from when somebody listens: A does, a moment after it was attached.
    let calls = tokio::spawn(async move {
        loop {
            get(port, "/").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    reads(&measured, "worst", |t| t < 0.1).await;
    calls.abort();
    let slow = tokio::spawn(get(port, "/slow"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    c1.release.notify_waiters();
    assert_eq!(slow.await.unwrap(), (200, "C1".into()));
    // The strategy's replace(C1, C2) is seen by the clients.
    let waiting = async {
        while get(port, "/").await != (200, "C2".into()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the other service");
    assert!(supervisor.shell().stop(PATIENCE).await.is_empty());
    assert!(std::net::TcpStream::connect(port).is_err(), "the port is closed");
}

/// Requirement: R3-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_and_reloads_move_the_traffic_and_what_is_declared_holds_at_the_start() {
    let (_c1, a1) = Service::start("C1").await;
    let (_c2, a2) = Service::start("C2").await;
    let (port, front) = (free(), free());
    let text = shop(port, a1, front, a2);
    let supervisor = start(&text, &[port]).await;
    let a = Handle::new(supervisor.clone(), "A");
    let (service, reference) = (None, "payment".to_string());
    let bind = |to: &str| Action::Bind { service: None, reference: "payment".into(), to: to.into() };
    for (action, expected) in [(bind("C2"), (200, "C2")), (bind("C1"), (200, "C1"))] {
        let outcome = a.send_action(action).await.unwrap();
        assert_eq!(outcome.status, OutcomeStatus::Done, "{outcome:?}");
        let (status, text) = get(port, "/").await;
        assert_eq!((status, text.as_str()), expected);
    }
    let refused = a.send_action(bind("C3")).await.unwrap();
    assert_eq!(refused.status, OutcomeStatus::Refused);
    a.send_action(Action::Unbind { service, reference }).await.unwrap();
    let (status, why) = get(port, "/").await;
    assert!(status == 503 && why.contains("`payment` of `A` is not bound"), "{why}");
    // Another port, another declared service: what is declared now holds.
    let moved = free();
    let text = text.replace(&port.to_string(), &moved.to_string());
    let text = text.replace("service: C1, candidates: [C2]", "service: C2, candidates: [C1]");
    supervisor.apply(set(&text), &[]).await.unwrap();
    until("the new port", || std::net::TcpStream::connect(moved).is_ok()).await;
    assert_eq!(get(moved, "/").await, (200, "C2".into()));
    until("the old port to close", || std::net::TcpStream::connect(port).is_err()).await;
    supervisor.shell().stop(PATIENCE).await;
}

/// In virtual time: the fold only says which ports there are and where they are to lead.
#[test]
fn a_binding_with_a_port_changes_once_the_port_has_been_moved_and_not_when_that_fails() {
    let address = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
    let mut world = Simulation::new(Timestamp(0), 2);
    world.apply(&set(&shop(address(1), address(2), address(3), address(4))));
    let leads = |world: &Simulation| world.ports["A"].iter().map(|p| p.to.clone()).collect::<Vec<_>>();
    assert_eq!(leads(&world), [Some("C1".into())]);
    let bind = |to: &str| Action::Bind { service: None, reference: "payment".into(), to: to.into() };

    world.effector(|_| Some(Err("the port is gone".into())));
    let outcomes = world.send("A", vec![bind("C2")]).unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Failed);
    assert_eq!(world.performed[0].moves, [("payment".into(), Some("C2".into()))]);
    assert_eq!(leads(&world), [Some("C1".into())]);

    world.effector(|_| Some(Ok(String::new())));
    let outcomes = world.send("A", vec![bind("C2")]).unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Done);
    assert_eq!(leads(&world), [Some("C2".into())]);
    assert_eq!(world.send("A", vec![bind("C3")]).unwrap()[0].status, OutcomeStatus::Refused);
    assert_eq!(world.performed.len(), 2, "what is refused is not tried");
}

/// In virtual time: an order to the process of a service is a step like any other, and a declared effector takes its place.
/// Requirement: R3-59
#[test]
fn start_stop_and_restart_are_steps_on_the_process_where_no_effector_is_declared() {
    let mut world = Simulation::new(Timestamp(0), 1);
    let policy = "service: a\nprocess: { command: [b] }\nexecute: { stop: log }\n";
    world.apply(&set(policy));
    world.effector(|_| Some(Ok("pid 7".into())));
    let service = || None;
    let actions = vec![
        Action::Restart { service: service() },
        Action::Start { service: service() },
        Action::Stop { service: service() },
    ];
    let outcomes = world.send("a", actions).unwrap();
    assert!(outcomes.iter().all(|o| o.status == OutcomeStatus::Done), "{outcomes:?}");
    let orders: Vec<_> = world.performed.iter().map(|p| (p.process, p.effectors.len())).collect();
    assert_eq!(orders, [(Some(ProcessOrder::Restart), 0), (Some(ProcessOrder::Start), 0), (None, 1)]);
    // Without a process and without an effector, neither is allowed.
    world.apply(&set("service: a\nexecute: {}\n"));
    let outcomes = world.send("a", vec![Action::Restart { service: None }]).unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Refused);
}

#[test]
fn mistakes_about_listening_are_told_with_their_place() {
    for (text, expected) in [
        ("service: a\nlisten: 127.0.0.1:8080\n", "not told where the service listens"),
        ("service: a\nendpoint: localhost\n", "has no port"),
        ("service: a\nendpoint: h:1\nlisten: here\n", "`here` is no address"),
        ("service: a\nendpoint: 127.0.0.1:80\nlisten: 127.0.0.1:80\n", "cannot both listen"),
        ("service: a\nmonitor: { sensors: { t: { proxy: response_time } } }\n", "the service has none"),
        ("service: a\nmonitor: { sensors: { t: { proxy: speed } } }\n", "`speed` is not known here"),
        (
            "service: a\nendpoint: h:1\nlisten: 127.0.0.1:2\nmonitor: { sensors: { t: { proxy: { what: rate, route: x } } } }\n",
            "`x` is no route",
        ),
        ("service: a\nprocess: { command: [] }\n", "the command is empty"),
        ("service: a\nprocess: { command: [b], ready: { port: \"80\" } }\n", "has no port"),
        ("service: a\nprocess: { command: [b], restart: always }\n", "expected `never`, or a mapping"),
        ("service: a\nprocess: { command: [b], limits: { memory: 5s } }\n", "is no size"),
        ("service: a\nprocess: { command: [b], limits: { memory: 512 } }\n", "expected at least 8MiB"),
        ("service: a\nprocess: { command: [b], limits: { descriptors: 3 } }\n", "expected at least 16"),
        (
            "service: a\nendpoint: 127.0.0.1:81\nlisten: 127.0.0.1:80\nlive: {}\n",
            "is not 127.0.0.1:80 and 127.0.0.1:81 at once (hint: say `endpoint: 127.0.0.1:80`)",
        ),
        (
            "service: a\nendpoint: 127.0.0.1:80\nlisten: 0.0.0.0:80\nlive: { pid: 0 }\n",
            "no process has the number 0",
        ),
        (
            "service: a\nreferences: { r: { service: b, candidates: [c], listen: 127.0.0.1:2, weights: { b: 1, c: 1 } } }\n---\nservice: b\nendpoint: h:1\n---\nservice: c\nendpoint: h:3\nprocess: { command: [c], start: on_demand }\n",
            "nothing starts its program, which runs on demand (hint: say `replace: { start: true }` here",
        ),
        ("service: a\nprocess: { comand: [b] }\n", "command"),
        (
            "service: a\nmonitor: { sensors: { t: { process: { what: rss, own: true } } } }\n",
            "homeostat runs none for it",
        ),
        (
            "service: a\nanalyze: {}\nplan: [{ when: \"*\", do: [{ restart: {} }] }]\nexecute: {}\n",
            "no effector is declared for the action `restart`",
        ),
        (
            "service: a\nreferences: { r: { service: b, listen: 127.0.0.1:2 } }\n---\nservice: b\n",
            "it is not known where that listens",
        ),
        (
            "service: a\nendpoint: h:1\nlisten: 127.0.0.1:2\n---\nservice: b\nendpoint: h:3\nlisten: 127.0.0.1:2\n",
            "already listened on for `a`",
        ),
    ] {
        let told = errors(text);
        assert!(told.iter().any(|line| line.contains(expected)), "{text}: {told:#?}");
        assert!(told.iter().all(|line| line.starts_with("p.yaml:")), "{told:?}");
    }
}
