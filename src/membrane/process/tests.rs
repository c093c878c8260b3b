//! Supervised programs with real processes.

use serde_json::json;

use super::*;

fn spec(json: serde_json::Value) -> Arc<ProcessSpec> {
    Arc::new(serde_json::from_value(json).expect("a spec"))
}

fn shell(script: &str) -> serde_json::Value {
    json!({ "command": ["sh", "-c", script] })
}

fn with(mut json: serde_json::Value, more: serde_json::Value) -> Arc<ProcessSpec> {
    for (key, value) in more.as_object().expect("a map") {
        json[key] = value.clone();
    }
    spec(json)
}

fn supervise(spec: &Arc<ProcessSpec>) -> (Processes, mpsc::UnboundedReceiver<Told>) {
    let (processes, told) = Processes::new(&Connectors::new());
    processes.set([("s".into(), spec.clone())]);
    (processes, told)
}

async fn until(processes: &Processes, state: ProcessState) -> ProcessStatus {
    let wait = async {
        loop {
            match processes.status("s") {
                Some(status) if status.state == state => return status,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
    found.unwrap_or_else(|_| panic!("never {state}: {:?}", processes.status("s")))
}

fn runs(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(id: u32) {
    while runs(id) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_line_of_output_says_that_it_is_ready_and_all_of_it_is_kept() {
    let script = "echo warming up; echo now: listening >&2; exec sleep 60";
    let (processes, mut told) =
        supervise(&with(shell(script), json!({ "ready": { "output": "listening" } })));
    let status = until(&processes, ProcessState::Running).await;
    let mut output = status.output;
    while output.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        output = processes.status("s").expect("a process").output;
    }
    output.sort();
    assert_eq!(output, ["now: listening", "warming up"]);
    assert!(told.recv().await.expect("news").text.contains("starting (pid "));
    assert!(processes.stop(Duration::from_secs(5)).await.is_empty());
    gone(status.pid.expect("a number")).await;
}

#[tokio::test]
async fn it_is_ready_once_it_answers_and_has_its_directory_and_variables() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("here"), "").expect("a file");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let script = format!("echo $WORD $(ls); exec python3 -m http.server --bind 127.0.0.1 {port}");
    let more = json!({
        "directory": dir.path(), "environment": { "WORD": "hello" }, "ready": { "http": format!("http://127.0.0.1:{port}/here") },
    });
    let (processes, _told) = supervise(&with(shell(&script), more));
    let status = until(&processes, ProcessState::Running).await;
    assert_eq!(status.output[0], "hello here");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[tokio::test]
async fn orders_are_answered_when_they_are_carried_out() {
    let (processes, _told) = supervise(&spec(shell("exec sleep 60")));
    let first = until(&processes, ProcessState::Running).await.pid.expect("a number");
    let said = processes.order("s", ProcessOrder::Restart).await.expect("restarted");
    let second = processes.status("s").and_then(|s| s.pid).expect("a number");
    assert!(second != first && said == format!("pid {second}"), "{said}");
    assert!(!runs(first));
    processes.order("s", ProcessOrder::Stop).await.expect("stopped");
    assert!(!runs(second));
    // The same again is no change: what was stopped stays so.
    processes.set([("s".into(), spec(shell("exec sleep 60")))]);
    assert_eq!(processes.status("s").expect("a process").state, ProcessState::Stopped);
    processes.order("s", ProcessOrder::Start).await.expect("started");
    assert!(processes.order("t", ProcessOrder::Start).await.expect_err("none").contains("no process"));
}

#[tokio::test]
async fn what_is_missing_has_failed_at_once_with_its_name() {
    let (processes, _told) = supervise(&spec(json!({ "command": ["/no/such/program"] })));
    let status = until(&processes, ProcessState::Failed).await;
    assert!(status.reason.expect("a reason").contains("cannot start `/no/such/program`"));
    let error = processes.order("s", ProcessOrder::Start).await.expect_err("missing");
    assert!(error.contains("failed: cannot start"), "{error}");
}

#[tokio::test]
async fn a_crash_loop_ends_in_failure_with_the_reason() {
    let restart = json!({ "restart": { "backoff": "1ms", "most": 3 } });
    let (processes, _told) = supervise(&with(shell("echo again; exit 3"), restart));
    let status = until(&processes, ProcessState::Failed).await;
    assert_eq!(status.restarts, 3);
    let reason = status.reason.expect("a reason");
    assert!(reason.contains("exit status: 3") && reason.contains("3 times"), "{reason}");
}

#[tokio::test]
async fn what_forks_away_is_ended_with_its_group() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("child");
    let script = format!("sleep 60 & echo $! > {0}.part; mv {0}.part {0}; exit 0", file.display());
    let (processes, _told) = supervise(&with(shell(&script), json!({ "restart": "never" })));
    let status = until(&processes, ProcessState::Ended).await;
    assert!(status.reason.expect("a reason").contains("exit status: 0"));
    gone(std::fs::read_to_string(&file).expect("a file").trim().parse().expect("a number")).await;
}

#[tokio::test]
async fn what_ignores_the_request_is_killed_with_all_it_started_and_named() {
    let script =
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' & wait; sleep 60";
    let stop = json!({ "stop": { "grace": "100ms" }, "ready": { "output": "" } });
    let mut whole = with(shell(script), stop);
    Arc::make_mut(&mut whole).ready = None;
    let (processes, _told) = supervise(&whole);
    let first = until(&processes, ProcessState::Running).await.pid.expect("a number");
    let child = loop {
        match processes.status("s").expect("a process").output.first() {
            Some(line) => break line.parse().expect("a number"),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(processes.stop(Duration::from_secs(5)).await, ["the process of `s`, which was killed"]);
    gone(first).await;
    gone(child).await;
}

#[tokio::test]
async fn what_is_not_ready_in_time_is_ended_and_failed() {
    let ready = json!({ "ready": { "port": "127.0.0.1:1", "within": "50ms" }, "restart": { "most": 0 } });
    let (processes, _told) = supervise(&with(shell("exec sleep 60"), ready));
    let status = until(&processes, ProcessState::Failed).await;
    assert_eq!(status.reason.as_deref(), Some("was not ready within 50ms"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn limits_hold_for_all_that_it_starts() {
    // The limits come right after the start.
    let script = "while [ $(ulimit -n) != 37 ]; do sleep 0.01; done; sh -c 'ulimit -n; ulimit -t; ulimit -v'; exec sleep 60";
    let limits = json!({ "limits": { "descriptors": 37, "cpu": "50s", "memory": "3GiB" } });
    let (processes, _told) = supervise(&with(shell(script), limits));
    let lines = loop {
        let lines = processes.status("s").expect("a process").output;
        if lines.len() >= 3 {
            break lines;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(lines, ["37", "50", "3145728"]);
}

#[tokio::test]
async fn another_spec_restarts_and_dropping_everything_kills() {
    let (processes, _told) = supervise(&spec(shell("exec sleep 60")));
    let first = until(&processes, ProcessState::Running).await.pid.expect("a number");
    processes.set([("s".into(), spec(shell("exec sleep 61")))]);
    let second = loop {
        match processes.status("s") {
            Some(ProcessStatus { state: ProcessState::Running, pid: Some(pid), .. }) if pid != first => {
                break pid;
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    gone(first).await;
    drop(processes);
    gone(second).await;
}
