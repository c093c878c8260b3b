//! What changes while calls flow: bindings, programs and ports follow a policy that was changed, and an action that fails leaves all as it was.

use std::sync::Arc;

use homeostat::connectors::Connectors;
use homeostat::membrane::Membrane;
use homeostat::model::calls::Port;
use homeostat::model::ports::Actions;
use homeostat::model::process::ProcessOrder;
use homeostat::model::{Action, OutcomeStatus};
use homeostat::service::handle::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bridge::{free, set, start};
use super::candidates::programs;
use super::support::*;

/// Requirement: R3-62
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_moves_a_reference_once_its_program_is_ready_and_stops_the_one_that_was_left() {
    let (port, a1, a2) = (free(), free(), free());
    let text = programs(port, a1, a2);
    let supervisor = start(&text, &[port, a1]).await;
    let state = |name: &str| supervisor.shell().processes().status(name).unwrap().state.to_string();
    let names = |named: &str, others: &str| {
        let named = format!("service: {named}, candidates: [{others}]");
        set(&text.replace("service: C1, candidates: [C2, C3]", &named))
    };
    until("C1 to be ready", || state("C1") == "running").await;
    supervisor.apply(names("C2", "C1, C3"), &[]).await.unwrap();
    let moved = async {
        let mut before = 0;
        loop {
            let (status, text) = get(port, "/").await;
            assert_eq!(status, 200, "after {before} answers of C1: {text}");
            match text.as_str() {
                "C2" => return before,
                _ => before += 1,
            }
        }
    };
    let before = tokio::time::timeout(PATIENCE, moved).await.expect("C2 answers");
    assert!(before > 0, "C2 takes half a second to be ready");
    until("C1 to be stopped", || state("C1") == "stopped").await;

    // What does not start gets no calls, and what they go to is not stopped.
    supervisor.apply(names("C3", "C1, C2"), &[]).await.unwrap();
    until("C3 to have failed", || state("C3") == "failed").await;
    assert_eq!(get(port, "/").await, (200, "C2".into()));
    assert_eq!(state("C2"), "running");
    // Back, before anything came of it.
    supervisor.apply(names("C2", "C1, C3"), &[]).await.unwrap();
    assert_eq!(get(port, "/").await, (200, "C2".into()));
    supervisor.shell().stop(PATIENCE).await;
}

/// Requirement: R3-62
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bind_that_fails_leaves_the_program_stopped_and_an_unbind_stops_what_is_left() {
    let (port, a1, a2) = (free(), free(), free());
    let text =
        programs(port, a1, a2).replace("[/no/such/program]", "[sh, -c, 'exit 3'], ready: { output: never }");
    let supervisor = start(&text, &[port, a1]).await;
    let state = |name: &str| supervisor.shell().processes().status(name).unwrap().state.to_string();
    until("C1 to be ready", || state("C1") == "running").await;
    let a = Handle::new(supervisor.clone(), "A");
    let bind = Action::Bind { service: None, reference: "payment".into(), to: "C3".into() };
    let outcome = a.send_action(bind).await.unwrap();
    assert!(outcome.detail.contains("`C3` does not start"), "{}", outcome.detail);
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert_eq!([state("C1"), state("C3")], ["running", "stopped"]);
    assert_eq!(get(port, "/").await, (200, "C1".into()));

    let unbind = Action::Unbind { service: None, reference: "payment".into() };
    let outcome = a.send_action(unbind).await.unwrap();
    assert_eq!((outcome.status, outcome.detail.as_str()), (OutcomeStatus::Done, "`C1` was stopped"));
    assert_eq!((get(port, "/").await.0, state("C1").as_str()), (503, "stopped"));
    supervisor.shell().stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_runs_runs_on_when_only_its_start_changes() {
    let text = "service: p\nprocess: { command: [sleep, '60'] }\n";
    let supervisor = start(text, &[]).await;
    let processes = supervisor.shell().processes().clone();
    until("p to run", || processes.status("p").unwrap().state.to_string() == "running").await;
    let first = processes.status("p").unwrap().pid;
    for text in [text.replace(" }", ", start: on_demand }"), text.into()] {
        supervisor.apply(set(&text), &[]).await.unwrap();
        // It has been asked after that.
        processes.order("p", ProcessOrder::Start).await.unwrap();
        assert_eq!(processes.status("p").unwrap().pid, first);
    }
    supervisor.shell().stop(PATIENCE).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_without_its_interpreter_has_failed_at_once() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (name, first) in
        [("a", "#!/no/such/one -x"), ("b", "#! /usr/bin/env no-such-two"), ("c", "#!/bin/sh")]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("{first}\nsleep 60\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        text += &format!("---\nservice: {name}\nprocess: {{ command: ['{}'] }}\n", path.display());
    }
    let supervisor = start(text.trim_start_matches("---\n"), &[]).await;
    let status = |name: &str| supervisor.shell().processes().status(name).unwrap();
    for (name, interpreter) in [("a", "/no/such/one"), ("b", "no-such-two")] {
        until("the failure", || status(name).state.to_string() == "failed").await;
        let reason = status(name).reason.unwrap();
        assert!(reason.contains(&format!("its interpreter `{interpreter}`: No such file")), "{reason}");
        assert_eq!(status(name).restarts, 0);
    }
    until("the one that is right", || status("c").state.to_string() == "running").await;
    supervisor.shell().stop(PATIENCE).await;
}

#[tokio::test]
async fn a_port_that_moves_tells_the_clients_of_the_old_one_and_leads_them_where_others_go() {
    let (_c1, a1) = Service::start("C1").await;
    let (_c2, a2) = Service::start("C2").await;
    let membrane = Membrane::new(&Connectors::new(), limits());
    let services =
        [unserved("user"), served("C1", None, &a1.to_string()), served("C2", None, &a2.to_string())];
    membrane.set_services(services);
    let user: Arc<str> = "user".into();
    membrane.set_ports(&user, vec![port(Some("C1"))]);
    let old = membrane.port_address("user", "r").unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(old).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"C1") {
            assert!(client.read_buf(&mut heard).await.unwrap() > 0);
        }
        clients.push(client);
    }
    membrane.set_ports(&user, vec![Port { listen: free(), ..port(Some("C1")) }]);
    let ask_the_last = |mut client: TcpStream| async move {
        client.write_all(request).await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        heard
    };
    let heard = ask_the_last(clients.remove(0)).await;
    assert!(heard.to_ascii_lowercase().contains("connection: close") && heard.ends_with("C1"), "{heard}");
    // No later call reaches what the reference leads to no more, wherever its client came in.
    assert_eq!(membrane.lead(&user, &[("r".into(), Some("C2".into()))]).await, Ok(String::new()));
    let heard = ask_the_last(clients.remove(0)).await;
    assert!(heard.to_ascii_lowercase().contains("connection: close") && heard.ends_with("C2"), "{heard}");
    until("the old port to be closed", || std::net::TcpStream::connect(old).is_err()).await;
}

#[tokio::test]
async fn once_a_port_that_was_taken_is_free_references_lead_through_it() {
    let (_c1, a1) = Service::start("C1").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let front = taken.local_addr().unwrap();
    let membrane = Membrane::new(&Connectors::new(), limits());
    let troubles = membrane.set_services([unserved("user"), served("C1", Some(front), &a1.to_string())]);
    assert_eq!(troubles.len(), 1);
    membrane.set_ports(&"user".into(), vec![port(Some("C1"))]);
    let at = membrane.port_address("user", "r").unwrap();
    assert_eq!(get(at, "/").await, (200, "C1".into()));
    assert_eq!(membrane.meter("C1").whole().requests(), 0, "past the port that is somebody else's");
    drop(taken);
    let measured = async {
        while membrane.meter("C1").whole().requests() == 0 {
            assert_eq!(get(at, "/").await, (200, "C1".into()));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, measured).await.expect("calls through the port");
}
