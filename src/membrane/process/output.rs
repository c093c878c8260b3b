//! What a program prints: kept, passed on to the log, and watched for the line that says that it is ready.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;

/// How many lines are kept.
pub const KEPT: usize = 50;

/// A longer line is cut into several.
const LONGEST: usize = 4_096;

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

/// Reads to the end: of the program, and of whoever inherited its output.
pub(super) async fn read(
    mut stream: impl AsyncRead + Unpin,
    service: Arc<str>,
    tail: Tail,
    watch: Option<Watch>,
) {
    let mut line = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let read = match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for &byte in &piece[..read] {
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() >= LONGEST {
                take(&mut line, &service, &tail, watch.as_ref());
            }
        }
    }
    if !line.is_empty() {
        take(&mut line, &service, &tail, watch.as_ref());
    }
}

fn take(line: &mut Vec<u8>, service: &str, tail: &Tail, watch: Option<&Watch>) {
    let text: String =
        String::from_utf8_lossy(line).chars().filter(|c| !c.is_control() || *c == '\t').collect();
    line.clear();
    tracing::info!(target: "homeostat::process", service, "{text}");
    if let Some(watch) = watch
        && text.contains(&*watch.part)
    {
        watch.seen.notify_one();
    }
    tail.add(text);
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
