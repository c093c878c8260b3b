//! The sample client, in a language of its own and with nothing but its standard library, with services that know nothing of it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use super::support::{Daemon, policy, wait_for};

/// Different addresses that are free at this moment.
fn free<const N: usize>() -> [SocketAddr; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref().map(|l| l.local_addr().unwrap())
}

/// Requirement: R4-06
/// Requirement: R4-23
/// Requirement: R4-30
#[test]
fn a_thin_client_invokes_reads_subscribes_and_shows_what_comes_of_unrelated_services() {
    let [toy, front, manage_toy, files, manage_files] = free();
    let dir = policy("");
    let served = tempfile::tempdir().unwrap();
    let config = served.path().join("config.json");
    fs::write(&config, r#"{"workers": 4}"#).unwrap();
    let text = format!(
        r#"
service: toy
endpoint: {toy}
listen: {front}
process: {{ command: [homeostat, fake, C1, --listen, "{toy}", --set, cost=20], ready: {{ port: "{toy}" }} }}
manage:
  listen: {manage_toy}
  properties:
    cost: {{ type: number, settable: true, http: {{ url: /cost }} }}
  methods:
    add: {{ url: /invoke/add, body: "[{{a}}, {{b}}]", params: [ {{ name: a, type: number }}, {{ name: b, type: number }} ] }}
---
service: files
endpoint: {files}
process:
  command: [python3, -m, http.server, --bind, 127.0.0.1, "{}"]
  directory: {}
  ready: {{ port: "{files}" }}
manage:
  listen: {manage_files}
  properties:
    workers: {{ type: integer, settable: true, file: {{ path: {}, pointer: /workers }} }}
    version: {{ type: string, value: "2.1" }}
"#,
        files.port(),
        served.path().display(),
        config.display(),
    );
    fs::write(dir.path().join("policy.yaml"), text).unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    for service in ["toy", "files"] {
        wait_for(service, || {
            let state = daemon.get(&format!("/v1/services/{service}"))["process"]["state"].clone();
            (state == "running").then_some(())
        });
    }
    let client = |more: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/client.py"));
        command.args([format!("http://{manage_toy}"), format!("http://{manage_files}")]).args(more);
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned()
            + String::from_utf8_lossy(&done.stderr).as_ref();
        (done.status.code(), said)
    };
    let call = format!("http://{front}/");
    let words = [
        "--call",
        &call,
        "--polls",
        "3",
        "--invoke",
        "add",
        "2",
        "3",
        "--watch",
        "workers",
        "--set",
        "workers=8",
    ];
    let (code, said) = client(&words);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "answers 200: {\"name\":\"C1\",\"cost\":20}",
        "cost (number, may be set): 20, 20, 20",
        "workers (integer, may be set): 4, 4, 4",
        "version (string, read only): \"2.1\"",
        "add(2, 3) = 5",
        "subscribed to workers; changes are notified",
        "files.workers: 4 -> 8",
        "workers is set to 8",
    ] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    assert!(fs::read_to_string(&config).unwrap().contains('8'));
    // What cannot be done is told, and the client says so with its exit code.
    let (code, said) = client(&["--set", "version=3"]);
    assert!(code == Some(1) && said.contains("409") && said.contains("cannot be set"), "{said}");
    daemon.stop();
}
