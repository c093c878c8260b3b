//! A program that homeostat starts, as a process group of its own, and ends with everything that it started.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

/// How long a program may take to end by itself.
pub const GRACE: Duration = Duration::from_secs(5);

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such program, or it may not be executed. No retry helps.
    #[error("cannot start `{0}`: {1}")]
    Start(String, #[source] std::io::Error),
    /// The command is empty.
    #[error("the command is empty; expected a program and its arguments")]
    Empty,
}

/// A running program. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    group: Option<u32>,
}

impl Program {
    /// Starts a program with its arguments, in a process group of its own; its output goes where that of homeostat does.
    ///
    /// # Errors
    /// When there is no such program, or it may not be executed.
    pub fn start(command: &[String]) -> Result<Self, ProcessError> {
        let (name, arguments) = command.split_first().ok_or(ProcessError::Empty)?;
        let mut start = Command::new(name);
        start.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        #[cfg(unix)]
        start.process_group(0);
        let child = start.spawn().map_err(|error| ProcessError::Start(name.clone(), error))?;
        let group = child.id();
        Ok(Self { name: name.clone(), child, group })
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its first process, which is also that of the group.
    pub fn id(&self) -> Option<u32> {
        self.group
    }

    /// Waits until its first process ends. What that started may still run.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the whole group to end, and kills what has not after `grace`. Answers whether killing was needed.
    pub async fn end(mut self, grace: Duration) -> bool {
        self.signal(Signal::Term);
        let late = tokio::time::timeout(grace, self.child.wait()).await.is_err();
        self.signal(Signal::Kill);
        let _ = self.child.wait().await;
        // From here on the number may be somebody else's.
        self.group = None;
        late
    }

    fn signal(&self, signal: Signal) {
        #[cfg(unix)]
        if let Some(group) =
            self.group.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            let signal = match signal {
                Signal::Term => rustix::process::Signal::TERM,
                Signal::Kill => rustix::process::Signal::KILL,
            };
            // An empty group is what is wanted.
            let _ = rustix::process::kill_process_group(group, signal);
        }
        #[cfg(not(unix))]
        let _ = signal;
    }
}

#[derive(Debug, Clone, Copy)]
enum Signal {
    Term,
    Kill,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::start(&["sh".into(), "-c".into(), script.into()]).expect("a shell")
    }

    fn runs(id: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Program::start(&["/no/such/program".into()]).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        assert!(Program::start(&[]).is_err());
    }

    #[tokio::test]
    async fn the_whole_group_ends_also_what_ignores_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let program = shell(&format!(
            "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {0}.part; mv {0}.part {0}; while :; do sleep 0.05; done' & wait; while :; do sleep 0.05; done",
            file.display()
        ));
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let child: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let first = program.id().unwrap();
        assert!(program.end(Duration::from_millis(100)).await);
        while runs(child) || runs(first) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_program_that_listens_to_the_request_is_not_killed() {
        let program = shell("trap 'exit 0' TERM; while :; do sleep 0.01; done");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!program.end(GRACE).await);
    }
}
