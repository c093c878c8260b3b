//! `homeostat wrap` as a process, around a program that was never designed to be monitored.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use super::bridge::free;
use super::support::*;

fn homeostat(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homeostat"));
    command.args(words).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// A wrapped program; killed when dropped.
pub struct Wrapped {
    child: Child,
    pub manage: SocketAddr,
}

impl Wrapped {
    pub async fn start(listen: SocketAddr, to: SocketAddr, program: &[&str]) -> Self {
        let (listen, to) = (listen.to_string(), to.to_string());
        let mut words = vec![
            "wrap",
            "--listen",
            &listen,
            "--to",
            &to,
            "--manage",
            "127.0.0.1:0",
            "--name",
            "files",
            "--",
        ];
        words.extend(program);
        let mut child = homeostat(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("manage=") {
                    let _ = sender.send(address.split_whitespace().next().unwrap_or_default().parse());
                }
            }
        });
        let manage = tokio::task::spawn_blocking(move || receiver.recv_timeout(PATIENCE)).await.unwrap();
        Self { child, manage: manage.expect("a line with the address").unwrap() }
    }

    async fn metric(&self, name: &str) -> serde_json::Value {
        let (status, body) = get(self.manage, &format!("/v1/services/files/metrics/{name}")).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requirement: R3-01, R3-20, R4-17, R4-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_program_is_wrapped_without_a_changed_byte_and_its_calls_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "the file").unwrap();
    let (listen, to) = (free(), free());
    let port = to.port().to_string();
    let dir = dir.path().display().to_string();
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", &dir, &port];
    let mut wrapped = Wrapped::start(listen, to, &server).await;
    // It stands there once the program is ready: no client sees a program that is not.
    assert_eq!(get(listen, "/a.txt").await, (200, "the file".into()));

    // The same transcript, but for the time in it.
    let ask = b"GET /a.txt HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let steps = [Step::Send(ask), Step::End];
    let without_date = |text: String| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("Date:")).map(str::to_string).collect()
    };
    assert_eq!(without_date(talk(listen, &steps).await), without_date(talk(to, &steps).await));

    // Function stays where it was; management is extra, and elsewhere.
    let (status, services) = get(wrapped.manage, "/v1/services").await;
    assert!(status == 200 && services.contains("\"files\"") && services.contains("monitor"), "{services}");

    // Management and function do not meet on one port.
    assert_eq!(get(listen, "/v1/services").await.0, 404);
    assert_eq!(get(wrapped.manage, "/a.txt").await.0, 404);

    let measured = async {
        for (metric, good) in [
            ("requests", (|v| v >= 3.0) as fn(f64) -> bool),
            ("p99", |v| v > 0.0),
            ("errors", |v| v >= 0.0),
            ("memory", |v| v > 1e6),
            ("threads", |v| v >= 1.0),
        ] {
            loop {
                let reading = wrapped.metric(metric).await;
                if reading["value"].as_f64().is_some_and(good) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, measured).await.expect("all metrics");

    // Asked to end, it ends the program too.
    let pid = rustix::process::Pid::from_raw(wrapped.child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::block_in_place(|| wrapped.child.wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(std::net::TcpStream::connect(to).is_err(), "the program is gone");
    assert!(std::net::TcpStream::connect(listen).is_err());
}

/// Requirement: R4-17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrapped_program_that_dies_is_started_again_and_restarts_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "the file").unwrap();
    let (listen, to) = (free(), free());
    let port = to.port().to_string();
    let dir = dir.path().display().to_string();
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", &dir, &port];
    let wrapped = Wrapped::start(listen, to, &server).await;
    let process = async || -> serde_json::Value {
        let (_, body) = get(wrapped.manage, "/v1/services/files").await;
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["process"].clone()
    };
    let first = process().await["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(first as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let again = async {
        loop {
            let now = process().await;
            if now["state"] == "running" && now["pid"] != first {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let second = tokio::time::timeout(PATIENCE, again).await.expect("another one");
    assert_eq!(second["restarts"], 1);
    assert!(second["reason"].as_str().unwrap().contains("SIGKILL"), "{second}");
    assert_eq!(get(listen, "/a.txt").await, (200, "the file".into()));

    let said = tokio::task::block_in_place(|| {
        let url = format!("http://{}", wrapped.manage);
        homeostat(&["--url", &url, "status"]).output().unwrap()
    });
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("process running (pid {})", second["pid"])), "{said}");
}

fn fails(words: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = homeostat(words).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn what_cannot_be_wrapped_is_told_with_its_exit_code() {
    let (listen, to) = (free().to_string(), free().to_string());
    let start = ["wrap", "--manage", "127.0.0.1:0", "--to", &to, "--listen"];
    let (code, said) = fails(&[&start[..], &[&listen, "--", "/no/such/program"]].concat());
    assert!(code == Some(2) && said.contains("cannot start `/no/such/program`"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let (code, said) = fails(&[&start[..], &[&port, "--", "sleep", "60"]].concat());
    assert!(code == Some(7) && said.contains("cannot listen on"), "{said}");

    let strange =
        ["wrap", "--manage", "127.0.0.1:0", "--to", &port, "--listen", &listen, "--", "sleep", "60"];
    let (code, said) = fails(&strange);
    assert!(code == Some(7) && said.contains("something listens there before"), "{said}");

    let (code, said) = fails(&[&start[..], &[&listen, "--", "sh", "-c", "exit 3"]].concat());
    assert!(code == Some(7) && said.contains("`sh` ended by itself: exit status: 3"), "{said}");

    let same = ["wrap", "--manage", "127.0.0.1:0", "--to", &listen, "--listen", &listen, "--", "sleep", "60"];
    let (code, said) = fails(&same);
    assert!(code == Some(2) && said.contains("cannot both listen on"), "{said}");

    let (code, said) = fails(&["wrap", "--listen", "here", "--to", &to, "--", "true"]);
    assert!(code == Some(2) && said.contains("is no address"), "{said}");

    let mut rest = String::new();
    let mut child = homeostat(&["wrap", "--help"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    child.wait().unwrap();
    assert!(rest.contains("python3 -m http.server 9000"));
}
