//! Running programs: no shell, no input, a process group of their own that dies as a whole when the run is given up.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::fill::{self, Arguments};
use super::text::shorten;
use crate::model::connector::ConnectorError;
use crate::model::template::{Holes, Template};

/// The most that a program may print, bytes.
const OUTPUT_LIMIT: usize = 1024 * 1024;

/// How much of what it prints on standard error is kept, bytes; the rest is read and forgotten.
const ERROR_LIMIT: usize = 16 * 1024;

/// How long the output is waited for once the program itself has ended: something that it left behind may hold the pipe open for ever.
const LINGER: Duration = Duration::from_millis(200);

/// What a program did.
pub(super) struct Output {
    /// The program, without its arguments, which may be secret.
    pub(super) program: String,
    /// Its exit status; `None` when a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// The error for an exit status that is not the wanted one, with the first line of standard error.
    pub(super) fn failure(&self) -> ConnectorError {
        let how = match self.code {
            Some(code) => format!("exited with status {code}"),
            None => "was ended by a signal".to_string(),
        };
        let stderr = String::from_utf8_lossy(&self.stderr);
        let line = shorten(stderr.lines().find(|l| !l.trim().is_empty()).unwrap_or_default(), 200);
        let line = if line.is_empty() { line } else { format!(": {line}") };
        ConnectorError::Answer(format!("`{}` {how}{line}", self.program))
    }

    /// What it printed, as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Parses the words of a command as templates.
pub(super) fn templates(words: &[String]) -> Result<Vec<Template>, ConnectorError> {
    words.iter().map(|word| fill::parse(word, Holes::Arguments)).collect()
}

/// Fills in the words of a command.
pub(super) fn fill(words: &[Template], arguments: &Arguments) -> Result<Vec<String>, ConnectorError> {
    words.iter().map(|word| fill::plain(word, arguments)).collect()
}

/// A running program; dropping it kills its whole process group.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // `id` is there only as long as the program has not been waited for, so the number cannot belong to another by now.
        #[cfg(unix)]
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended in this moment, which is as good.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Runs `words` to the end. Dropping the future kills the program and everything that it started in its process group.
///
/// # Errors
/// When it cannot be started, or prints more than 1 MiB. An exit status other than 0 is no error here.
pub(super) async fn run(words: &[String], environment: &[(&str, &str)]) -> Result<Output, ConnectorError> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(ConnectorError::Config("the command is empty".into()));
    };
    let mut running = start(program, arguments, environment)?;
    let stdout = running.child.stdout.take();
    let stderr = running.child.stderr.take();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let reading = async {
            tokio::join!(
                collect(stdout, &mut out, OUTPUT_LIMIT, true),
                collect(stderr, &mut err, ERROR_LIMIT, false)
            )
        };
        tokio::pin!(reading);
        tokio::select! {
            _ = &mut reading => running.child.wait().await,
            status = running.child.wait() => {
                // What is in the pipes is read; what never closes them is not waited for.
                let _ = tokio::time::timeout(LINGER, reading).await;
                status
            }
        }
    };
    if out.len() > OUTPUT_LIMIT {
        return Err(ConnectorError::Answer(format!("`{program}` printed more than {OUTPUT_LIMIT} bytes")));
    }
    let status = status.map_err(|e| ConnectorError::Unreachable(format!("`{program}` was lost: {e}")))?;
    Ok(Output { program: program.clone(), code: status.code(), stdout: out, stderr: err })
}

fn start(
    program: &str,
    arguments: &[String],
    environment: &[(&str, &str)],
) -> Result<Running, ConnectorError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    match command.spawn() {
        Ok(child) => Ok(Running { child }),
        Err(e) => Err(ConnectorError::Unreachable(format!("`{program}` cannot be started: {e}"))),
    }
}

/// Reads to the end. Beyond `limit` it stops (one byte over, so that the caller sees it; dropping the pipe ends the writer) or goes on
/// reading without keeping.
async fn collect(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, limit: usize, stop: bool) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                let room = (limit + usize::from(stop)).saturating_sub(into.len());
                into.extend_from_slice(&buffer[..n.min(room)]);
                if stop && into.len() > limit {
                    return;
                }
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(String::from).to_vec()
    }

    #[tokio::test]
    async fn a_run_gives_status_output_and_the_first_line_of_errors() {
        let output = run(&sh("echo 42; echo 'no disk' >&2; echo more >&2; exit 3"), &[]).await.expect("ran");
        assert_eq!((output.code, output.text().as_str()), (Some(3), "42\n"));
        assert_eq!(output.failure().to_string(), "`sh` exited with status 3: no disk");
    }

    #[tokio::test]
    async fn a_program_that_prints_without_end_is_stopped() {
        let error =
            run(&sh("while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done"), &[])
                .await;
        assert!(error.err().expect("too much").to_string().contains("more than 1048576 bytes"));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run(&["/nowhere/probe".to_string()], &[]).await.err().expect("missing");
        assert!(
            matches!(&error, ConnectorError::Unreachable(text) if text.contains("`/nowhere/probe`")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_does_not_hold_it_up() {
        // The background process inherits standard output and keeps it open.
        let output = run(&sh("sleep 30 & echo $!"), &[]).await.expect("ran");
        let left: i32 = output.text().trim().parse().expect("pid");
        assert_eq!(output.code, Some(0));
        let pid = rustix::process::Pid::from_raw(left).expect("pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("still there");
    }

    #[tokio::test]
    async fn a_run_given_up_kills_the_whole_group() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("pids");
        let script = format!("sleep 60 & echo $! $$ > {0}.tmp; mv {0}.tmp {0}; wait", file.display());
        let words = sh(&script);
        let started = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = run(&words, &[]) => panic!("it waits for a minute"),
            () = started => {}
        }
        for pid in std::fs::read_to_string(&file).expect("pids").split_whitespace() {
            let pid = rustix::process::Pid::from_raw(pid.parse().expect("number")).expect("pid");
            let gone = async {
                while alive(pid) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), gone).await.expect("killed");
        }
    }

    /// A zombie that nobody has waited for yet is dead enough.
    fn alive(pid: rustix::process::Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        match stat {
            Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
            Err(_) => rustix::process::test_kill_process(pid).is_ok(),
        }
    }
}
