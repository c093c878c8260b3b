//! What is put around a service, and no more: the sub-components of a mode, and the modules of a micro-container.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use procfs::process::{FDTarget, Process};
use serde_json::{Value, json};

use super::bridge::free;
use super::manage::manage;
use super::support::*;

/// Requirement: R4-14, R4-16
#[tokio::test]
async fn exactly_the_sub_components_of_a_mode_are_there() {
    let modes = [
        (json!([]), json!(null), [404, 404]),
        (json!(["interval"]), json!(["interval"]), [200, 404]),
        (json!(["change"]), json!(["change"]), [404, 200]),
        (json!(null), json!(["interval", "change"]), [200, 200]),
    ];
    for (subscriptions, offered, [interval, change]) in modes {
        let mut spec =
            json!({ "listen": "127.0.0.1:1", "properties": { "a": { "type": "integer", "value": 1 } } });
        if !subscriptions.is_null() {
            spec["subscriptions"] = subscriptions.clone();
        }
        let (_membrane, at) = manage("127.0.0.1:1", spec);
        let (status, text) = get(at, "/_mon").await;
        assert_eq!(status, 200);
        let listed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(listed["components"][0]["name"], "GenericProxy");
        assert_eq!(listed["components"][1]["modes"], offered, "{listed}");
        assert_eq!(text.contains("\"/_mon/events\""), !offered.is_null(), "{text}");
        assert_eq!(get(at, "/_mon/properties/a").await.0, 200);
        let events = "/_mon/properties/a/events?duration=1ms&mode=";
        for (mode, expected) in [("interval&interval=1s", interval), ("change", change)] {
            let (status, text) = get(at, &format!("{events}{mode}")).await;
            assert_eq!(status, expected, "{subscriptions} {mode} {text}");
            assert_eq!(
                status == 404,
                text.contains("no-such-component") && text.contains("`/_mon` lists"),
                "{text}"
            );
        }
        let (status, _) = get(at, "/_mon/properties/a/subscriptions").await;
        assert_eq!(status, if offered.is_null() { 404 } else { 200 });
    }
}

fn homeostat(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
    command.args(words).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

fn packed(descriptor: &Path, to: &Path) -> Output {
    homeostat(&["pack", descriptor.to_str().unwrap(), "-o", to.to_str().unwrap()])
}

/// The example with ports that are free: where the program listens, clients, and observers.
fn example(dir: &Path) -> [u16; 3] {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/micro-container");
    let ports = [free().port(), free().port(), free().port()];
    let put = |name: &str| {
        let mut text = std::fs::read_to_string(from.join(name)).unwrap();
        for (old, new) in ["9100", "8100", "8101"].iter().zip(ports) {
            text = text.replace(old, &new.to_string());
        }
        std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
    };
    ["service.yaml", "app/adder.py", "app/config.json"].into_iter().for_each(put);
    ports
}

/// A running container; ended with its program when dropped.
struct Running(Child);

impl Running {
    /// From a directory that has nothing to do with it.
    fn start(container: &Path) -> Self {
        let elsewhere = tempfile::tempdir().unwrap();
        let mut command = Command::new(container.join("run"));
        command.current_dir(elsewhere.path()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// The ports on which it, and everything that it started, listens.
    fn listens(&self) -> BTreeSet<u16> {
        let all: Vec<Process> = procfs::process::all_processes().unwrap().flatten().collect();
        let parents: Vec<(i32, i32)> =
            all.iter().filter_map(|p| Some((p.pid, p.stat().ok()?.ppid))).collect();
        let mut tree = BTreeSet::from([self.0.id() as i32]);
        while let Some((child, _)) = parents.iter().find(|(c, p)| tree.contains(p) && !tree.contains(c)) {
            tree.insert(*child);
        }
        let held: BTreeSet<u64> = all
            .iter()
            .filter(|p| tree.contains(&p.pid))
            .filter_map(|p| p.fd().ok())
            .flatten()
            .flatten()
            .filter_map(|fd| if let FDTarget::Socket(inode) = fd.target { Some(inode) } else { None })
            .collect();
        let mut sockets = procfs::net::tcp().unwrap();
        sockets.extend(procfs::net::tcp6().unwrap_or_default());
        let listens = sockets.iter().filter(|s| s.state == procfs::net::TcpState::Listen);
        listens.filter(|s| held.contains(&s.inode)).map(|s| s.local_address.port()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Requirement: R4-16, R4-20, R4-21, R4-22, R4-23, R4-24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_micro_container_runs_anywhere_and_listens_to_nothing_that_was_not_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let [own, clients, observers] = example(dir.path());
    let built = dir.path().join("built");
    let output = packed(&dir.path().join("service.yaml"), &built);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");

    // The phases, in the order of S4.
    let phases: Vec<&str> = said.lines().filter_map(|l| l.split_whitespace().next()).collect();
    let mut distinct = phases.clone();
    distinct.dedup();
    assert_eq!(distinct, ["parse", "process", "monitoring", "transform", "assemble"], "{said}");

    let manifest = std::fs::read_to_string(built.join("manifest.json")).unwrap();
    let parsed: Value = serde_json::from_str(&manifest).unwrap();
    let names: Vec<&str> =
        parsed["modules"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["http", "process", "polling", "change"]);
    assert_eq!(parsed["not_packed"], json!(["http2", "tcp", "references", "interval", "datagrams", "api"]));
    assert_eq!(parsed["modules"][0]["protocols"], json!(["HTTP/1.0", "HTTP/1.1"]));

    // It knows nothing of where it was made.
    let here = dir.path().to_str().unwrap();
    for file in ["run", "manifest.json", "Containerfile", "build.log", "policy/service.yaml"] {
        assert!(!std::fs::read_to_string(built.join(file)).unwrap().contains(here), "{file}");
    }
    let moved = dir.path().join("else where");
    std::fs::rename(&built, &moved).unwrap();
    std::fs::remove_dir_all(dir.path().join("app")).unwrap();

    let running = Running::start(&moved);
    let at = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
    let answers = async {
        while std::net::TcpStream::connect(("127.0.0.1", clients)).is_err()
            || get(at(clients), "/add?n=1").await.0 != 200
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("the container answers");
    assert_eq!(get(at(clients), "/add?n=1&n=2").await, (200, r#"{"sum": 3}"#.into()));
    assert_eq!(running.listens(), BTreeSet::from([own, clients, observers]));

    // What it was packed without: HTTP/2, subscriptions on interval, the API.
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let refused = talk(at(clients), &[Step::Send(preface), Step::End]).await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let (status, text) = get(at(observers), "/_mon").await;
    assert!(status == 200 && text.contains(r#""modes":["change"]"#), "{text}");
    let (status, text) = get(at(observers), "/_mon/properties/most").await;
    assert!(status == 200 && text.contains(r#""value":10"#), "{text}");
    let interval = "/_mon/properties/most/events?mode=interval&interval=1s";
    assert_eq!(get(at(observers), interval).await.0, 404);
    drop(running);
    assert!(std::net::TcpStream::connect(("127.0.0.1", own)).is_err(), "the program ended with it");
}

#[test]
fn what_cannot_be_packed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let descriptor = dir.path().join("service.yaml");
    let refused = |text: &str, code: i32, part: &str| {
        std::fs::write(&descriptor, text).unwrap();
        let output = packed(&descriptor, &dir.path().join("out"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(part), "{:?} {said}", output.status);
        assert!(!dir.path().join("out").exists());
    };
    refused("service: a\n", 2, "no service has a section `pack`");
    refused("service: a\npack: { sources: [app] }\n", 4, "sources");
    refused("service: a\npack: { source: [../app] }\n", 2, "does not lie beside the descriptor");
    refused("service: a\npack: { source: [app] }\n", 2, "`pack.source`: `app`");
    refused("service: a\npack: { source: [./policy/more.yaml] }\n", 2, "pack writes itself");
    refused("service: a\nprocess: { command: [/usr/bin/true] }\npack: {}\n", 2, "is only on this machine");
    refused(
        "service: a\nendpoint: tcp://127.0.0.1:1\nlisten: 127.0.0.1:2\npack: { protocols: [http] }\n",
        2,
        "speaks tcp",
    );
    refused("service: a\npack: { image: \"a\\nRUN touch /b\" }\n", 2, "names no image");
    refused(
        "service: a\npack: {}\nmonitor: { sensors: { s: { exec: { command: [/bin/x] } } } }\n",
        2,
        "`/bin/x` is only on this machine",
    );
    refused("service: a\nservise: b\n", 4, "service.yaml:2:1");
    refused("service: a\npack: { protocols: [tcp] }\n", 2, "which no `listen`");
    refused("service: a\npack: { api: \"0.0.0.0:7700\" }\n", 2, "has no token");
    std::fs::create_dir_all(dir.path().join("app")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("app/socket")).unwrap();
    refused("service: a\npack: { source: [app] }\n", 2, "app/socket is neither a file nor a directory");
    let other = dir.path().join("other.yaml");
    std::fs::write(&other, "service: a\nservise: b\n").unwrap();
    let output = packed(&other, &dir.path().join("out"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("other.yaml:2:1"), "{output:?}");
    std::fs::create_dir_all(dir.path().join("full/of")).unwrap();
    let output = packed(&descriptor, &dir.path().join("full"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
}

/// Requirement: R4-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_not_packed_to_wait_for_datagrams_does_not_and_the_api_is_where_its_user_says() {
    let dir = tempfile::tempdir().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = socket.local_addr().unwrap();
    drop(socket);
    let api = free();
    let with = format!("monitor: {{ sensors: {{ s: {{ udp: {{ listen: \"{udp}\" }} }} }} }}\n");
    let descriptor = dir.path().join("a.yaml");
    for (sensor, listens) in [(with.as_str(), true), ("", false)] {
        std::fs::write(&descriptor, format!("service: a\npack: {{ api: \"{}\" }}\n{sensor}", free()))
            .unwrap();
        let built = dir.path().join(format!("built-{listens}"));
        let output = packed(&descriptor, &built);
        assert!(output.status.success(), "{output:?}");
        let manifest = std::fs::read_to_string(built.join("manifest.json")).unwrap();
        assert_eq!(manifest.contains("\"name\": \"datagrams\""), listens, "{manifest}");
        // Whatever the policy says later.
        std::fs::write(built.join("policy/service.yaml"), format!("service: a\n{with}")).unwrap();
        let mut command = Command::new(built.join("run"));
        command.args(["--listen", &api.to_string(), "--log"]).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running(command.spawn().unwrap());
        let path = "/v1/services/a/metrics/s";
        super::support::until("it serves", || std::net::TcpStream::connect(api).is_ok()).await;
        let settled = async {
            loop {
                let (_, text) = get(api, path).await;
                let taken = std::net::UdpSocket::bind(udp).is_err();
                if taken || text.contains("not packed") {
                    break assert_eq!(taken, listens, "{text}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("it listens, or says why not");
        drop(running);
    }
}
