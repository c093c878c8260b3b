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
async fn limits_hold_from_the_first_instruction_for_all_that_it_starts() {
    let script =
        "ulimit -n; sh -c 'ulimit -n; ulimit -t; ulimit -v'; read -r line || echo no input; exec sleep 60";
    let limits = json!({ "limits": { "descriptors": 37, "cpu": "50s", "memory": "3GiB" } });
    let (processes, _told) = supervise(&with(shell(script), limits));
    assert_eq!(lines(&processes, 5).await, ["37", "37", "50", "3145728", "no input"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_missing_is_told_as_clearly_with_limits_as_without() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("text"), "no program").expect("a file");
    for limits in [json!({}), json!({ "limits": { "descriptors": 100 } })] {
        for (command, why) in [
            ("/no/such/program", "No such file or directory"),
            ("no-such-program", "No such file or directory"),
            ("./text", "Permission denied"),
        ] {
            let mut json = json!({ "command": [command], "directory": dir.path() });
            json.as_object_mut().expect("a map").extend(limits.as_object().expect("a map").clone());
            let (processes, _told) = supervise(&spec(json));
            let reason = until(&processes, ProcessState::Failed).await.reason.expect("a reason");
            assert!(reason.contains(&format!("cannot start `{command}`: {why}")), "{reason}");
        }
        let mut json = json!({ "command": ["sh"], "directory": "/no/such/directory" });
        json.as_object_mut().expect("a map").extend(limits.as_object().expect("a map").clone());
        let (processes, _told) = supervise(&spec(json));
        let reason = until(&processes, ProcessState::Failed).await.reason.expect("a reason");
        assert!(reason.contains("its directory `/no/such/directory`"), "{reason}");
    }
}

/// The first lines of output, once there are so many.
async fn lines(processes: &Processes, count: usize) -> Vec<String> {
    let wait = async {
        loop {
            let lines = processes.status("s").expect("a process").output;
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
    found.unwrap_or_else(|_| panic!("never {count} lines: {:?}", processes.status("s")))
}

#[tokio::test]
async fn a_flood_without_an_end_of_line_is_taken_in_pieces_and_never_held_as_a_whole() {
    let script = "head -c 30000000 /dev/zero | tr '\\0' x; echo; echo after the flood; exec sleep 60";
    let (processes, _told) =
        supervise(&with(shell(script), json!({ "ready": { "output": "after the flood" } })));
    let status = until(&processes, ProcessState::Running).await;
    assert!(status.output.len() <= KEPT && status.output.iter().all(|line| line.len() <= 4_096));
    assert!(status.output.contains(&"after the flood".to_string()));
}

#[tokio::test]
async fn output_that_is_no_text_is_shown_as_far_as_it_is() {
    let script =
        "printf 'caf\\351 \\000\\033[31mred\\n\\377\\376\\n'; printf 'no end of line'; exec sleep 60";
    let (processes, _told) = supervise(&with(shell(&format!("{script} >&-")), json!({})));
    assert_eq!(lines(&processes, 2).await[..2], ["caf\u{fffd} [31mred", "\u{fffd}\u{fffd}"]);
}

#[cfg(target_os = "linux")]
mod surviving {
    use super::*;

    /// A homeostat over a state directory, with this program wanted or none.
    fn over(
        dir: &std::path::Path,
        spec: Option<&Arc<ProcessSpec>>,
    ) -> (Processes, mpsc::UnboundedReceiver<Told>) {
        let (processes, told) = Processes::new(&Connectors::new());
        processes.keep_in(dir).expect("a directory");
        processes.set(spec.map(|spec| ("s".into(), spec.clone())));
        (processes, told)
    }

    fn survivor(script: &str) -> Arc<ProcessSpec> {
        with(shell(script), json!({ "survive": true }))
    }

    const TALKS: &str = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done";

    #[tokio::test]
    async fn it_goes_on_and_is_taken_over_with_its_output() {
        let dir = tempfile::tempdir().expect("a directory");
        let ready = json!({ "ready": { "output": "line 3" }, "survive": true });
        let spec = with(shell(TALKS), ready);
        let (processes, _told) = over(dir.path(), Some(&spec));
        let pid = until(&processes, ProcessState::Running).await.pid.expect("a number");
        assert!(processes.stop(Duration::from_secs(5)).await.is_empty());
        assert!(runs(pid), "it goes on after an orderly stop");

        let (processes, mut told) = over(dir.path(), Some(&spec));
        let status = until(&processes, ProcessState::Running).await;
        assert_eq!(status.pid, Some(pid));
        assert!(status.reason.expect("a reason").contains("goes on from before"));
        assert!(told.recv().await.expect("news").text.contains(&format!("running (pid {pid})")));
        let before = lines(&processes, 1).await.last().cloned();
        while processes.status("s").expect("a process").output.last() == before.as_ref() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // As after `kill -9`: nobody is asked anything, and nobody is told.
        drop(processes);
        assert!(runs(pid));

        let (processes, _told) = over(dir.path(), Some(&spec));
        assert_eq!(until(&processes, ProcessState::Running).await.pid, Some(pid));
        let said = processes.order("s", ProcessOrder::Restart).await.expect("restarted");
        assert!(!runs(pid) && said != format!("pid {pid}"), "{said}");
        let second = until(&processes, ProcessState::Running).await.pid.expect("a number");
        drop(processes);

        let (processes, _told) = over(dir.path(), Some(&spec));
        until(&processes, ProcessState::Running).await;
        processes.order("s", ProcessOrder::Stop).await.expect("stopped");
        assert!(!runs(second));
        assert!(processes.stop(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn the_end_of_one_that_was_taken_over_is_noticed_and_it_is_started_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let restart = json!({ "restart": { "backoff": "1ms" }, "survive": true });
        let spec = with(shell("sleep 600 & wait"), restart);
        let (processes, _told) = over(dir.path(), Some(&spec));
        let pid = until(&processes, ProcessState::Running).await.pid.expect("a number");
        drop(processes);
        let (processes, _told) = over(dir.path(), Some(&spec));
        until(&processes, ProcessState::Running).await;
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a number")).expect("a number");
        rustix::process::kill_process(raw, rustix::process::Signal::KILL).expect("killed");
        let next = loop {
            match processes.status("s") {
                Some(ProcessStatus { state: ProcessState::Running, pid: Some(next), .. }) if next != pid => {
                    break next;
                }
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let status = processes.status("s").expect("a process");
        assert!(status.restarts == 1 && status.reason.expect("a reason").contains("how is not known"));
        // What it had forked away went with it.
        let group = i32::try_from(pid).expect("a number");
        let left = procfs::process::all_processes().expect("processes").flatten();
        let left = left.filter_map(|p| p.stat().ok()).filter(|s| s.pgrp == group && s.state != 'Z').count();
        assert_eq!(left, 0);
        processes.order("s", ProcessOrder::Stop).await.expect("stopped");
        assert!(!runs(next));
    }

    #[tokio::test]
    async fn one_that_ended_meanwhile_or_is_another_command_is_started_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let (processes, _told) = over(dir.path(), Some(&survivor("exec sleep 600")));
        let first = until(&processes, ProcessState::Running).await.pid.expect("a number");
        drop(processes);
        let (processes, _told) = over(dir.path(), Some(&survivor("exec sleep 601")));
        let second = loop {
            match processes.status("s") {
                Some(ProcessStatus { state: ProcessState::Running, pid: Some(pid), .. }) if pid != first => {
                    break pid;
                }
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(!runs(first));
        drop(processes);
        let raw = rustix::process::Pid::from_raw(i32::try_from(second).expect("a number")).expect("a number");
        rustix::process::kill_process(raw, rustix::process::Signal::KILL).expect("killed");
        gone(second).await;
        let (processes, mut told) = over(dir.path(), Some(&survivor("exec sleep 601")));
        let third = until(&processes, ProcessState::Running).await.pid.expect("a number");
        assert!(third != second && told.recv().await.expect("news").text.contains("is gone"));
        // One that is no longer to survive is started anew, as it goes on with homeostat from now on.
        drop(processes);
        let (processes, _told) = over(dir.path(), Some(&spec(shell("exec sleep 601"))));
        gone(third).await;
        let fourth = until(&processes, ProcessState::Running).await.pid.expect("a number");
        drop(processes);
        gone(fourth).await;
    }

    #[tokio::test]
    async fn one_that_nobody_wants_any_more_is_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let (processes, _told) = over(dir.path(), Some(&survivor("exec sleep 600")));
        let pid = until(&processes, ProcessState::Running).await.pid.expect("a number");
        drop(processes);
        let (processes, _told) = over(dir.path(), None);
        gone(pid).await;
        assert!(processes.stop(Duration::from_secs(5)).await.is_empty());
        assert!(records::Records::open(dir.path()).expect("a directory").all().is_empty());
        // And so is one while homeostat runs.
        let (processes, _told) = over(dir.path(), Some(&survivor("exec sleep 600")));
        let pid = until(&processes, ProcessState::Running).await.pid.expect("a number");
        processes.set([]);
        gone(pid).await;
    }

    #[tokio::test]
    async fn a_number_that_was_used_again_is_never_signalled() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted = survivor("exec sleep 600");
        let (processes, _told) = over(dir.path(), Some(&wanted));
        until(&processes, ProcessState::Running).await;
        let records = records::Records::open(dir.path()).expect("a directory");
        let true_record = records.all().remove(0);
        processes.order("s", ProcessOrder::Stop).await.expect("stopped");
        drop(processes);
        let mut stranger = std::process::Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut stranger, 0);
        let mut stranger = stranger.arg("600").spawn().expect("a stranger");
        let told_apart = |change: &dyn Fn(&mut records::Record)| {
            let mut record = found::record("s", stranger.id(), &true_record.spec).expect("a record");
            change(&mut record);
            assert!(found::Found::again(&record).is_none());
            records.keep(&record).expect("kept");
        };
        told_apart(&|record| record.boot = "another".into());
        told_apart(&|record| record.namespace = "pid:[1]".into());
        told_apart(&|record| record.start -= 1);
        for spec in [Some(&wanted), None] {
            let (processes, _told) = over(dir.path(), spec);
            if spec.is_some() {
                let pid = until(&processes, ProcessState::Running).await.pid;
                assert!(pid.is_some_and(|pid| pid != stranger.id()));
                processes.order("s", ProcessOrder::Stop).await.expect("stopped");
            }
            assert!(processes.stop(Duration::from_secs(5)).await.is_empty());
            assert!(runs(stranger.id()), "a stranger was killed");
        }
        stranger.kill().and_then(|()| stranger.wait()).expect("killed");
    }

    #[tokio::test]
    async fn without_a_place_for_records_it_ends_with_homeostat_and_that_is_told() {
        let (processes, mut told) = supervise(&survivor("exec sleep 600"));
        let pid = until(&processes, ProcessState::Running).await.pid.expect("a number");
        assert!(told.recv().await.expect("news").text.contains("needs a data directory"));
        assert!(processes.stop(Duration::from_secs(5)).await.is_empty());
        gone(pid).await;
    }

    #[tokio::test]
    async fn a_file_of_output_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("a directory");
        let script = "head -c 20000000 /dev/zero | tr '\\0' x; echo; echo done; exec sleep 600";
        let (processes, _told) = over(
            dir.path(),
            Some(&with(shell(script), json!({ "ready": { "output": "done" }, "survive": true }))),
        );
        until(&processes, ProcessState::Running).await;
        let wait = async {
            while std::fs::metadata(dir.path().join("s.out")).expect("a file").len() > 8 << 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("emptied");
        processes.order("s", ProcessOrder::Stop).await.expect("stopped");
    }
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
