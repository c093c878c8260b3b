//! The record of `run --record FILE`: every message of the shards' mailboxes with its time, as JSON lines. This module does I/O.
//!
//! The first line is the header, `{"homeostat_record":1,"about":…}`; each further line is one message,
//! `{"n":1,"shard":0,"at":"2026-11-22T00:15:00.000000Z","m":…}`, numbered from 1 without a gap.
//!
//! A record with gaps proves nothing, so nothing is ever left out: when the disk cannot keep up, [`Recorder::record`] blocks its shard.
//! JSON has no NaN and no infinity: a message that may hold them must say them in another way.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// The version of the format.
pub const VERSION: u32 = 1;

/// How many messages may wait for the disk before shards block.
const QUEUE: usize = 8_192;

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be created, written or read. A retry may help; a record that is being written is over.
    #[error("cannot use the record {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Writing ended early; [`Recorder::finish`] says why. The record is over.
    #[error("the record {} is no longer written", .0.display())]
    Stopped(PathBuf),
    /// A message has no form in JSON. The record is over, as it would have a gap.
    #[error("a message cannot be recorded as JSON")]
    Message(#[source] serde_json::Error),
    /// A line is not what it should be. No retry helps.
    #[error("{}, line {line}: {detail}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it, and what would be right.
        detail: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    homeostat_record: u32,
    #[serde(default)]
    about: serde_json::Value,
}

/// One message of one shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry<M> {
    /// Its number in the record, from 1.
    pub n: u64,
    /// Whose mailbox it was in.
    pub shard: u32,
    /// The time of its turn.
    pub at: Timestamp,
    /// The message.
    pub m: M,
}

/// Writes a record, on a thread of its own.
///
/// The messages of one shard are in the order in which it recorded them; those of different shards in the order of their arrival.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// `None` only while finishing.
    lines: Option<SyncSender<String>>,
    thread: Option<JoinHandle<std::io::Result<u64>>>,
}

impl Recorder {
    /// Creates the file, in place of one that is there, and writes the header; `about` is whatever the reader needs to know
    /// before the first message.
    ///
    /// # Errors
    /// [`RecordError::Io`] and [`RecordError::Message`].
    pub fn create(path: &Path, about: serde_json::Value) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Io { path: path.to_path_buf(), source };
        let header = serde_json::to_string(&Header { homeostat_record: VERSION, about })
            .map_err(RecordError::Message)?;
        let mut file = BufWriter::with_capacity(1 << 18, File::create(path).map_err(failed)?);
        writeln!(file, "{header}").and_then(|()| file.flush()).map_err(failed)?;
        let (lines, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("record".into())
            .spawn(move || write_lines(file, &queue))
            .map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), lines: Some(lines), thread: Some(thread) })
    }

    /// Records a message; blocks while 8,192 others wait for the disk.
    ///
    /// # Errors
    /// [`RecordError::Message`]; [`RecordError::Stopped`] once writing has failed.
    pub fn record<M: Serialize>(&self, shard: u32, at: Timestamp, message: &M) -> Result<(), RecordError> {
        let message = serde_json::to_string(message).map_err(RecordError::Message)?;
        let line = format!(r#""shard":{shard},"at":"{at}","m":{message}}}"#);
        let stopped = || RecordError::Stopped(self.path.clone());
        let lines = self.lines.as_ref().ok_or_else(stopped)?;
        match lines.try_send(line) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(line)) => lines.send(line).map_err(|_| stopped()),
            Err(TrySendError::Disconnected(_)) => Err(stopped()),
        }
    }

    /// Writes what still waits, and says how many messages the record holds.
    ///
    /// # Errors
    /// [`RecordError::Io`] when the disk refused any of them.
    pub fn finish(mut self) -> Result<u64, RecordError> {
        self.join()
    }

    fn join(&mut self) -> Result<u64, RecordError> {
        self.lines = None;
        let Some(thread) = self.thread.take() else { return Err(RecordError::Stopped(self.path.clone())) };
        match thread.join() {
            Ok(result) => result.map_err(|source| RecordError::Io { path: self.path.clone(), source }),
            Err(_) => Err(RecordError::Stopped(self.path.clone())),
        }
    }
}

impl Drop for Recorder {
    /// Writes what still waits; who wants to know whether that worked calls [`Recorder::finish`].
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.join();
        }
    }
}

fn write_lines(mut file: impl Write, queue: &Receiver<String>) -> std::io::Result<u64> {
    let mut n = 0;
    while let Ok(line) = queue.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            n += 1;
            writeln!(file, r#"{{"n":{n},{line}"#)?;
            next = queue.try_recv().ok();
        }
        // Nothing waits: a crash from here on loses no message.
        file.flush()?;
    }
    Ok(n)
}

/// Reads a record, message by message. A last line that a crash cut off is no error: see [`Reader::truncated`].
#[derive(Debug)]
pub struct Reader<M> {
    path: PathBuf,
    file: BufReader<File>,
    about: serde_json::Value,
    line: u64,
    done: bool,
    truncated: Option<u64>,
    messages: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> Reader<M> {
    /// Opens the record and reads its header.
    ///
    /// # Errors
    /// [`RecordError::Io`]; [`RecordError::Line`] when the first line is no header, or one of another version.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Io { path: path.to_path_buf(), source };
        let mut reader = Self {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?),
            about: serde_json::Value::Null,
            line: 0,
            done: false,
            truncated: None,
            messages: PhantomData,
        };
        let text = reader.next_line().map_err(failed)?;
        let header: Header = serde_json::from_slice(&text).map_err(|e| {
            reader.wrong(format!(
                r#"no header of a record, which looks like {{"homeostat_record":{VERSION},"about":…}}: {e}"#
            ))
        })?;
        if header.homeostat_record != VERSION {
            let found = header.homeostat_record;
            return Err(
                reader.wrong(format!("the record has version {found}; this homeostat reads {VERSION}"))
            );
        }
        reader.about = header.about;
        Ok(reader)
    }

    /// What the recorder said about the record.
    pub fn about(&self) -> &serde_json::Value {
        &self.about
    }

    /// The number of the last line, when it was cut off; known once all messages are read.
    pub fn truncated(&self) -> Option<u64> {
        self.truncated
    }

    /// The next line with its end; empty at the end of the file.
    fn next_line(&mut self) -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.file.read_until(b'\n', &mut text)?;
        self.line += u64::from(!text.is_empty());
        Ok(text)
    }

    fn entry(&mut self) -> Result<Option<Entry<M>>, RecordError> {
        let text = self.next_line().map_err(|source| RecordError::Io { path: self.path.clone(), source })?;
        if text.is_empty() {
            return Ok(None);
        }
        let entry: Entry<M> = match serde_json::from_slice(&text) {
            Ok(entry) => entry,
            Err(_) if text.last() != Some(&b'\n') => {
                self.truncated = Some(self.line);
                return Ok(None);
            }
            Err(error) => return Err(self.wrong(format!("no message: {error}"))),
        };
        let expected = self.line - 1;
        if entry.n != expected {
            return Err(self.wrong(format!("message {} stands where message {expected} should be", entry.n)));
        }
        Ok(Some(entry))
    }

    fn wrong(&self, detail: String) -> RecordError {
        RecordError::Line { path: self.path.clone(), line: self.line.max(1), detail }
    }
}

impl<M: DeserializeOwned> Iterator for Reader<M> {
    type Item = Result<Entry<M>, RecordError>;

    /// The next message; after an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.entry().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(path: &Path, messages: u32) {
        let recorder = Recorder::create(path, json!({"policies": "shop"})).unwrap();
        for i in 0..messages {
            recorder.record(i % 2, Timestamp(i.into()), &("sample", f64::from(i) / 3.0)).unwrap();
        }
        assert_eq!(recorder.finish().unwrap(), u64::from(messages));
    }

    type Messages = Vec<(String, f64)>;

    fn read(path: &Path) -> Result<(Messages, Option<u64>), RecordError> {
        let mut reader = Reader::<(String, f64)>::open(path)?;
        let messages = reader.by_ref().map(|entry| entry.map(|e| e.m)).collect::<Result<_, _>>()?;
        Ok((messages, reader.truncated()))
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        record(&path, 20_000);
        let reader = Reader::<(String, f64)>::open(&path).unwrap();
        assert_eq!(reader.about()["policies"], "shop");
        let entries: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(entries.len(), 20_000);
        for (i, entry) in (0_u32..).zip(&entries) {
            let m = ("sample".to_string(), f64::from(i) / 3.0);
            assert_eq!(*entry, Entry { n: u64::from(i) + 1, shard: i % 2, at: Timestamp(i.into()), m });
        }
    }

    #[test]
    fn every_number_is_read_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let recorder = Recorder::create(&path, json!(null)).unwrap();
        let mut bits = 1_u64;
        let mut numbers = Vec::new();
        while numbers.len() < 20_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = f64::from_bits(bits);
            if number.is_finite() {
                recorder.record(0, Timestamp(0), &("x", number)).unwrap();
                numbers.push(number.to_bits());
            }
        }
        recorder.finish().unwrap();
        let found: Vec<u64> = read(&path).unwrap().0.iter().map(|(_, x)| x.to_bits()).collect();
        assert!(found == numbers, "replay needs the very same numbers");
    }

    #[test]
    fn a_last_line_that_was_cut_off_is_reported_and_tolerated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        record(&path, 3);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        let (messages, truncated) = read(&path).unwrap();
        assert_eq!((messages.len(), truncated), (2, Some(4)));
        std::fs::write(&path, &text[..text.len() - 1]).unwrap();
        let (messages, truncated) = read(&path).unwrap();
        assert_eq!((messages.len(), truncated), (3, None), "only the line's end is missing");
    }

    #[test]
    fn a_damaged_record_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        record(&path, 4);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let check = |changed: String, part: &str| {
            std::fs::write(&path, changed).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(text.replace(lines[2], "nonsense"), "line 3: no message");
        check(text.replace(&format!("{}\n", lines[2]), ""), "line 3: message 3 stands where message 2");
        check(text.replace("record\":1", "record\":2"), "line 1: the record has version 2");
        check("service: shop\n".into(), "line 1: no header");
        check(String::new(), "line 1: no header");
    }

    #[test]
    fn a_slow_disk_slows_the_recording_and_loses_nothing() {
        struct Slow;
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                std::thread::yield_now();
                Ok(bytes.len().min(3))
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (lines, queue) = sync_channel(1);
        let thread = std::thread::spawn(move || write_lines(Slow, &queue));
        let recorder = Recorder { path: "record".into(), lines: Some(lines), thread: Some(thread) };
        for i in 0..2_000 {
            recorder.record(0, Timestamp(i), &i).unwrap();
        }
        assert_eq!(recorder.finish().unwrap(), 2_000);
    }

    #[test]
    fn a_disk_that_refuses_ends_the_record_and_is_named() {
        struct Refusing;
        impl Write for Refusing {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (lines, queue) = sync_channel(1);
        let thread = std::thread::spawn(move || write_lines(Refusing, &queue));
        let recorder = Recorder { path: "record".into(), lines: Some(lines), thread: Some(thread) };
        let stopped = (0..1000).find_map(|_| recorder.record(0, Timestamp(0), &1).err());
        assert!(matches!(stopped, Some(RecordError::Stopped(_))));
        assert!(matches!(recorder.finish(), Err(RecordError::Io { .. })));
    }
}
