//! How a program is started: directly, or behind a gate, a shell that becomes the program once everything is done that must come first.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::model::process::ProcessSpec;

/// Waits for a line; at the end of its input instead, which comes with the end of homeostat, nothing is started. `exec` keeps the number of the
/// process, and what was set for it.
const GATE: &str = r#"IFS= read -r _ && exec "$@" </dev/null"#;

/// A program that was started.
pub(super) struct Launched {
    pub(super) child: Child,
    gated: bool,
}

impl Launched {
    /// Lets the program begin.
    ///
    /// # Errors
    /// When it has ended already.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.gated {
            #[cfg(unix)]
            if let Some(pipe) = self.child.stdin.take() {
                // One byte always has room in an empty pipe.
                io::Write::write_all(&mut std::fs::File::from(pipe.into_owned_fd()?), b"\n")?;
            }
        }
        Ok(())
    }
}

/// Starts a program, as the first of a process group of its own. With `gated` it does not begin before [`Launched::begin`]. Its output goes to a file, or
/// else to pipes.
///
/// # Errors
/// In words: there is no such program, or no directory for it.
pub(super) fn launch(
    spec: &ProcessSpec,
    gated: bool,
    output: Option<std::fs::File>,
) -> Result<Launched, String> {
    let (name, arguments) = spec.command.split_first().ok_or("the command is empty")?;
    let fail = |error: io::Error| format!("cannot start `{name}`: {error}");
    let program = match name.as_str() {
        "homeostat" => std::env::current_exe().map_err(fail)?,
        name => name.into(),
    };
    if let Some(directory) = &spec.directory
        && let Err(error) = std::fs::read_dir(directory)
    {
        return Err(format!("cannot start `{name}`: its directory `{directory}`: {error}"));
    }
    let mut command = if gated {
        // The gate would tell it less clearly, and only after it was opened.
        found(&program, spec).map_err(fail)?;
        let mut gate = Command::new("/bin/sh");
        gate.args(["-c", GATE, "sh"]).arg(program).stdin(Stdio::piped());
        gate
    } else {
        let mut direct = Command::new(program);
        direct.stdin(Stdio::null());
        direct
    };
    command.args(arguments).envs(&spec.environment);
    match output {
        Some(file) => {
            command.stdout(file.try_clone().map_err(fail)?).stderr(file);
        }
        None => {
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        }
    }
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    #[cfg(unix)]
    command.process_group(0);
    Ok(Launched { child: command.spawn().map_err(fail)?, gated })
}

/// Whether there is such a program, as the system looks for it: in `PATH`, unless its name contains a slash; and, if it is a script, what interprets it.
#[cfg(unix)]
fn found(program: &Path, spec: &ProcessSpec) -> io::Result<()> {
    let mut at = place(program, spec)?;
    for _ in 0..INTERPRETERS {
        let Some((interpreter, argument)) = interpreter(&at) else { return Ok(()) };
        let missing = |what: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("its interpreter `{}`: {error}", what.display()))
        };
        let next = place(&interpreter, spec).map_err(|error| missing(&interpreter, error))?;
        if interpreter.file_name().is_some_and(|name| name == "env") {
            // What comes after it is looked up in turn; options and variables it may have are its own matter.
            let Some(word) = argument.filter(|word| !word.starts_with('-') && !word.contains('=')) else {
                return Ok(());
            };
            place(Path::new(&word), spec).map_err(|error| missing(Path::new(&word), error))?;
            return Ok(());
        }
        at = next;
    }
    Ok(())
}

/// How many scripts may interpret each other (Linux: `BINPRM_MAX_RECURSION`).
#[cfg(unix)]
const INTERPRETERS: usize = 4;

/// What interprets a file, and the first word of what that is told; `None` for what is no script, and what may not be read.
#[cfg(unix)]
fn interpreter(path: &Path) -> Option<(std::path::PathBuf, Option<String>)> {
    use std::io::Read;
    let mut first = Vec::new();
    std::fs::File::open(path).ok()?.take(256).read_to_end(&mut first).ok()?;
    let line = first.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    Some((words.next()?.into(), words.next().map(str::to_string)))
}

/// Where a program is.
#[cfg(unix)]
fn place(program: &Path, spec: &ProcessSpec) -> io::Result<std::path::PathBuf> {
    let directory = spec.directory.as_deref().map_or(Path::new("."), Path::new);
    if program.components().count() > 1 || program.is_absolute() {
        let path = directory.join(program);
        return executable(&path).map(|()| path);
    }
    let path = match spec.environment.get("PATH") {
        Some(path) => path.into(),
        None => std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into()),
    };
    let mut why = io::Error::from(rustix::io::Errno::NOENT);
    for dir in std::env::split_paths(&path) {
        let path = directory.join(dir).join(program);
        match executable(&path) {
            Ok(()) => return Ok(path),
            // One that is there and may not be executed is told rather than that others are not there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => why = error,
            Err(_) => {}
        }
    }
    Err(why)
}

#[cfg(not(unix))]
fn found(_: &Path, _: &ProcessSpec) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "what is set before a program begins needs a shell"))
}

#[cfg(unix)]
fn executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let about = std::fs::metadata(path)?;
    match about.is_file() && about.permissions().mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(io::Error::from(rustix::io::Errno::ACCESS)),
    }
}
