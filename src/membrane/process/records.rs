//! What is kept of programs that outlive homeostat, in its state directory: enough to know each of them again, and where its output goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::process::ProcessSpec;

/// A program that goes on. It is what was started only as long as all of `boot`, `namespace`, `pid` and `start` are the same: numbers of processes are used
/// again, also after the machine was started anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whose program.
    pub(super) service: String,
    /// Which start of the machine.
    pub(super) boot: String,
    /// Where numbers of processes mean this.
    pub(super) namespace: String,
    /// Its number, which is also that of its group.
    pub(super) pid: u32,
    /// When it was started, clock ticks since the machine was.
    pub(super) start: u64,
    /// Its session.
    pub(super) session: i32,
    /// Whether it has shown that it is ready.
    pub(super) ready: bool,
    /// What was started.
    pub(super) spec: ProcessSpec,
}

/// The directory. Written to without waiting for the disk: when the machine ends, so do the programs.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    /// Those in `dir`, which is made when it is not there, for this user only: output and variables may be confidential.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        #[cfg(unix)]
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(Self(dir.into()))
    }

    fn path(&self, service: &str, kind: &str) -> PathBuf {
        self.0.join(format!("{service}.{kind}"))
    }

    /// All of them; what cannot be read is told in the log.
    pub(super) fn all(&self) -> Vec<Record> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(dir = %self.0.display(), %error, "programs that may go on from before cannot be looked for");
                return Vec::new();
            }
        };
        let paths =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path);
            match text.and_then(|text| serde_json::from_str(&text).map_err(io::Error::other)) {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "what it says of a program that may go on cannot be read");
                    None
                }
            }
        };
        paths.filter_map(read).collect()
    }

    /// Keeps a record, in the place of the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn keep(&self, record: &Record) -> io::Result<()> {
        let beside = self.path(&record.service, "new");
        let mut file = private().write(true).truncate(true).open(&beside)?;
        serde_json::to_writer(&mut file, record)?;
        file.flush()?;
        fs::rename(beside, self.path(&record.service, "json"))
    }

    /// The program is no more.
    pub(super) fn forget(&self, service: &str) {
        if let Err(error) = fs::remove_file(self.path(service, "json"))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(service, %error, "the record of its process is not removed");
        }
    }

    /// Where the output of a program goes.
    pub(super) fn output(&self, service: &str) -> PathBuf {
        self.path(service, "out")
    }

    /// An empty file for output. Appended to, so that it can be emptied while the program writes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new_output(&self, service: &str) -> io::Result<File> {
        let file = private().append(true).open(self.output(service))?;
        file.set_len(0)?;
        Ok(file)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
