//! What a program prints: kept, passed on to the log, and watched for the line that says that it is ready.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::fs::OpenOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many lines are kept.
pub const KEPT: usize = 50;

/// A longer line is cut into several.
const LONGEST: usize = 4_096;

/// How many lines of one program the log takes …
const LOGGED: u32 = 1_000;

/// … in this time.
const PER: Duration = Duration::from_secs(1);

/// How often a file is looked at for output.
const LOOK: Duration = Duration::from_millis(50);

/// A file of output that is larger is emptied once it is read, bytes.
const LARGEST: u64 = 8 << 20;

/// A file of output that is larger is emptied, read or not, bytes.
const MUST: u64 = 64 << 20;

/// How much is read of what was written before, bytes.
const KEPT_BYTES: u64 = 64 << 10;

/// The last lines of one program, over its restarts.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// What lines are watched for.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// A part of the line.
    pub(super) part: Arc<str>,
    /// Told when it came.
    pub(super) seen: Arc<Notify>,
}

/// What is made of output: lines, whatever bytes come.
struct Lines {
    service: Arc<str>,
    tail: Tail,
    watch: Option<Watch>,
    line: Vec<u8>,
    pace: Pace,
    /// Whether these lines were there before, so that the log may have them.
    known: bool,
}

/// How much of the output the log takes: a program that floods is not to fill the disk.
struct Pace {
    begun: Instant,
    passed: u32,
    left_out: u64,
}

impl Lines {
    fn new(service: Arc<str>, tail: Tail, watch: Option<Watch>) -> Self {
        let pace = Pace { begun: now(), passed: 0, left_out: 0 };
        Self { service, tail, watch, line: Vec::new(), pace, known: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
            }
            if byte == b'\n' || self.line.len() >= LONGEST {
                self.take();
            }
        }
    }

    /// Nothing follows.
    fn end(&mut self) {
        if !self.line.is_empty() {
            self.take();
        }
        self.tell_left_out();
    }

    fn take(&mut self) {
        let text: String =
            String::from_utf8_lossy(&self.line).chars().filter(|c| !c.is_control() || *c == '\t').collect();
        self.line.clear();
        if !self.known && self.paced() {
            tracing::info!(target: "homeostat::process", service = &*self.service, "{text}");
        }
        if let Some(watch) = &self.watch
            && text.contains(&*watch.part)
        {
            watch.seen.notify_one();
        }
        self.tail.add(text);
    }

    /// Whether the log takes another line.
    fn paced(&mut self) -> bool {
        if self.pace.passed >= LOGGED && now() - self.pace.begun < PER {
            self.pace.left_out += 1;
            return false;
        }
        if now() - self.pace.begun >= PER {
            self.tell_left_out();
            self.pace = Pace { begun: now(), passed: 0, left_out: 0 };
        }
        self.pace.passed += 1;
        true
    }

    fn lost(&self, bytes: u64) {
        if bytes > 0 {
            tracing::warn!(target: "homeostat::process", service = &*self.service, bytes, "it prints faster than that can be read; so much was left out");
        }
    }

    fn tell_left_out(&mut self) {
        let lines = std::mem::take(&mut self.pace.left_out);
        if lines > 0 {
            tracing::warn!(target: "homeostat::process", service = &*self.service, lines, "it printed more than the log takes; these lines were left out");
        }
    }
}

/// Reads to the end: of the program, and of whoever inherited its output.
pub(super) async fn read(
    mut stream: impl AsyncRead + Unpin,
    service: Arc<str>,
    tail: Tail,
    watch: Option<Watch>,
) {
    let mut lines = Lines::new(service, tail, watch);
    let mut piece = [0; 4_096];
    loop {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => lines.push(&piece[..read]),
        }
    }
    lines.end();
}

/// Reads what a program writes to a file, until that has ended; what was written long `before` it is followed only as far as it is kept. The file is emptied
/// when it has grown large.
pub(super) async fn follow(
    path: PathBuf,
    before: bool,
    service: Arc<str>,
    tail: Tail,
    watch: Option<Watch>,
    ended: CancellationToken,
) {
    let told = service.clone();
    if let Err(error) = follow_file(&path, before, Lines::new(service, tail, watch), ended).await {
        tracing::warn!(service = &*told, file = %path.display(), %error, "the output of its process is not read");
    }
}

async fn follow_file(
    path: &Path,
    before: bool,
    mut lines: Lines,
    ended: CancellationToken,
) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).await?;
    let mut at = 0;
    if before {
        lines.known = true;
        at = file.metadata().await?.len().saturating_sub(KEPT_BYTES);
        file.seek(SeekFrom::Start(at)).await?;
    }
    let mut piece = vec![0; 65_536];
    loop {
        // Looked at before the file, so that its last words are read.
        let over = ended.is_cancelled();
        let read = file.read(&mut piece).await?;
        at += read as u64;
        lines.push(&piece[..read]);
        let length = file.metadata().await?.len();
        // Emptied when all of it is read (what is written between these lines is lost), or when it grows faster than it is read.
        let emptied = length > LARGEST && (read == 0 || length > MUST);
        if emptied {
            file.set_len(0).await?;
            lines.lost(length.saturating_sub(at));
        }
        if emptied || length < at {
            at = 0;
            file.seek(SeekFrom::Start(0)).await?;
        }
        if read > 0 {
            continue;
        }
        lines.known = false;
        if over {
            lines.end();
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = ended.cancelled() => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how much the log takes is counted by the machine's own clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_long_ones_are_cut() {
        let tail = Tail::default();
        let text: String = (0..KEPT + 3).map(|i| format!("line {i}\n")).collect();
        let text = text + "x".repeat(LONGEST + 1).as_str() + "\nlast\u{1b}[0m";
        let seen = Arc::new(Notify::new());
        let watch = Watch { part: "line 4".into(), seen: seen.clone() };
        read(text.as_bytes(), "s".into(), tail.clone(), Some(watch)).await;
        let lines = tail.lines();
        assert_eq!(lines.len(), KEPT);
        assert_eq!(lines[KEPT - 3].len(), LONGEST);
        assert_eq!(lines[KEPT - 2..], ["x", "last[0m"]);
        seen.notified().await;
    }
}
