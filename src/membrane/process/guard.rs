//! Who kills what homeostat started when homeostat itself is killed: a shell that holds one end of a pipe, and acts when the other is gone.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reads `+ GROUP` and `- GROUP`; at the end of its input, which comes with the end of homeostat however that ends, kills the groups
/// that are left. It does not listen to requests to end: those are for homeostat.
const SCRIPT: &str = r#"trap '' HUP INT TERM QUIT
groups=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group" ;;
    -) rest=; for g in $groups; do [ "$g" = "$group" ] || rest="$rest $g"; done; groups=$rest ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done"#;

/// Started with the first program.
#[derive(Debug, Default)]
pub(super) struct Guard(Mutex<Option<Standing>>);

#[derive(Debug)]
struct Standing {
    child: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// From now on this group ends with homeostat.
    pub(super) fn add(&self, group: u32) {
        self.lock().get_or_insert_with(stand).tell('+', group);
    }

    /// This group is gone.
    pub(super) fn remove(&self, group: u32) {
        if let Some(standing) = &mut *self.lock() {
            standing.tell('-', group);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stand() -> Standing {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    match command.spawn() {
        Ok(mut child) => Standing { pipe: child.stdin.take(), child: Some(child) },
        Err(error) => {
            tracing::warn!(%error, "there is no `sh` here: programs outlive homeostat if that is killed");
            Standing { child: None, pipe: None }
        }
    }
}

impl Standing {
    fn tell(&mut self, sign: char, group: u32) {
        if let Some(pipe) = &mut self.pipe
            && let Err(error) = writeln!(pipe, "{sign} {group}")
        {
            tracing::warn!(%error, "the guard is gone: programs outlive homeostat if that is killed");
            self.pipe = None;
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.pipe = None;
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}
