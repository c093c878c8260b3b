//! The store: what must outlive the process, in one SQLite file. This module does I/O, on a thread of its own.
//!
//! A write is queued when its method is called, in the order of the calls, and is durable (WAL, `synchronous = FULL`) when the returned
//! [`Pending`] is ready. What arrives while a commit runs is committed together in the next one. Reads see every write queued before them.
//!
//! One daemon holds a directory at a time (a lock on `homeostat.lock`, which a killed process releases); others may read the database.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode, OpenFlags, Row, ToSql, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::model::{Action, Decision, Outcome, Timestamp};

/// The database within the data directory.
pub const FILE: &str = "homeostat.db";
/// The lock within the data directory.
pub const LOCK: &str = "homeostat.lock";
/// How many decisions of each service are kept unless [`Store::keep_decisions`] says otherwise.
pub const DECISIONS_KEPT: u64 = 1_000;

/// `HOME` in ASCII, in the header of the file: the database is ours.
const APPLICATION: i64 = 0x484f_4d45;
/// The most writes in one commit.
const BATCH: usize = 1_024;
/// How many commits lie between two checkpoints, which bring the log into the database.
const CHECKPOINT: u32 = 100;
/// The longest log, in pages of 4 KiB, before a commit itself makes the checkpoint: about 32 MB.
const LONGEST_LOG: i64 = 8_000;
/// The largest database that is checked throughout when it is opened, in bytes; of larger ones only the header is.
const CHECKED: u64 = 256 << 20;

/// The schema, step by step: entry `n` leads from version `n` to version `n + 1`. Entries are never changed, only added.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE intent (
        service TEXT NOT NULL, decision INTEGER NOT NULL, step INTEGER NOT NULL,
        key TEXT NOT NULL, action TEXT NOT NULL, executor TEXT NOT NULL, at INTEGER NOT NULL,
        PRIMARY KEY (service, decision, step)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE outcome (
        service TEXT NOT NULL, decision INTEGER NOT NULL, step INTEGER NOT NULL, outcome TEXT NOT NULL,
        PRIMARY KEY (service, decision, step)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE decision (
        service TEXT NOT NULL, id INTEGER NOT NULL, at INTEGER NOT NULL, decision TEXT NOT NULL,
        PRIMARY KEY (service, id)
    ) STRICT;
    CREATE INDEX decision_by_time ON decision (at, service, id);
    CREATE TABLE slo (
        service TEXT NOT NULL, slo TEXT NOT NULL, enabled INTEGER NOT NULL,
        PRIMARY KEY (service, slo)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE binding (
        service TEXT NOT NULL, reference TEXT NOT NULL, bound TEXT, declared TEXT,
        PRIMARY KEY (service, reference)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE knowledge (
        service TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (service, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE hand_made (
        service TEXT NOT NULL, component TEXT NOT NULL, document TEXT, base_hash TEXT NOT NULL,
        PRIMARY KEY (service, component)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE INDEX proposal ON decision (service, id) WHERE json_extract(decision, '$.verdict') = 'proposed';
",
    // The condition is that of `unfinished`: only so the index serves it.
    "
    CREATE INDEX unfinished ON decision (service, id) WHERE json_extract(decision, '$.verdict') = 'planned'
        AND json_array_length(decision, '$.outcomes') < json_array_length(decision, '$.plan.actions');
",
];

/// Every table; each has a column `service`.
const TABLES: &[&str] = &["intent", "outcome", "decision", "slo", "binding", "knowledge", "hand_made"];

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory. A retry helps once that has stopped.
    #[error("the data directory {} is in use by another homeostat; stop it, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    /// The file is damaged or none of ours. No retry helps; the file is left as it is.
    #[error("{} is no readable homeostat database: {detail}; restore it from a backup, or move it away to begin anew", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A newer homeostat wrote it. No retry helps.
    #[error("{} has schema version {found}, and this homeostat knows versions up to {known}; run the newer one", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The directory or a file in it cannot be created or opened. A retry may help.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The disk is full; nothing of the write was kept. A retry helps once there is space.
    #[error("the disk is full, so {} cannot grow", .0.display())]
    Full(PathBuf),
    /// SQLite failed otherwise; nothing of the write was kept. A retry may help.
    #[error("cannot read or write {}", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A record cannot be written as JSON or read back. No retry helps.
    #[error("the {what} cannot be stored or read back as JSON")]
    Record {
        /// Which kind of record.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// The store's thread is gone. No retry helps.
    #[error("the store is closed")]
    Closed,
}

/// A step that is about to be taken (intent before act).
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    /// The service that decided.
    pub service: String,
    /// The number of its decision.
    pub decision: u64,
    /// The number of the step within the decision.
    pub step: u32,
    /// The idempotency key that the effector was given.
    pub key: String,
    /// The action.
    pub action: Action,
    /// The service whose executor takes the step.
    pub executor: String,
    /// When.
    pub at: Timestamp,
}

/// A reference that was rebound while the service ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Whose reference.
    pub service: String,
    /// Which reference.
    pub reference: String,
    /// What it leads to; `None`: unbound.
    pub to: Option<String>,
    /// The declared binding that this one overrode; when the policy declares another one now, the override is void.
    pub declared: Option<String>,
}

/// A component attached or detached by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct HandMade {
    /// Of which service.
    pub service: String,
    /// Which component (`monitor`, …), or whatever else names a part of the service.
    pub component: String,
    /// What was attached; `None`: it was detached.
    pub document: Option<Value>,
    /// The hash of the file policy that it was made over; when that is another one now, the change by hand is void.
    pub base_hash: String,
}

/// What is noted of a change by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct HandNote {
    /// Of which service.
    pub service: String,
    /// Which component, as in [`HandMade`].
    pub component: String,
    /// What.
    pub noted: Noted,
}

/// What is noted of a change by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// There is none (any more): what the policy says holds.
    Nothing,
    /// As in [`HandMade`], the document as text.
    Change {
        /// What was attached, as JSON; `None`: it was detached.
        document: Option<String>,
        /// The hash of the file policy that it was made over.
        base_hash: String,
    },
}

/// Entries of the knowledge of one service; `None`: it is removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries {
    service: String,
    entries: Vec<(String, Option<String>)>,
}

impl Entries {
    /// These entries of a service.
    pub fn new(service: &str, entries: Vec<(String, Option<Value>)>) -> Self {
        let text = |(key, value): (String, Option<Value>)| (key, value.map(|value| value.to_string()));
        Self { service: service.to_string(), entries: entries.into_iter().map(text).collect() }
    }

    fn write(&self, c: &Connection) -> rusqlite::Result<()> {
        for (key, value) in &self.entries {
            match value {
                Some(value) => {
                    let row = params![self.service, key, value];
                    execute(c, "INSERT OR REPLACE INTO knowledge VALUES (?1, ?2, ?3)", row)?;
                }
                None => {
                    let row = params![self.service, key];
                    execute(c, "DELETE FROM knowledge WHERE service = ?1 AND key = ?2", row)?;
                }
            }
        }
        Ok(())
    }
}

/// What the record knows of one service when it is attached.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OfService {
    /// The highest number that it has given to a decision.
    pub decisions: u64,
    /// Which of its SLOs were enabled or disabled.
    pub slos: BTreeMap<String, bool>,
    /// What it proposed, among its last decisions.
    pub proposals: Vec<Decision>,
    /// Its knowledge.
    pub knowledge: BTreeMap<String, Value>,
    /// Its references that were rebound.
    pub bindings: Vec<Binding>,
}

/// A place in the list of all decisions, which is ordered by time, service and number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The time.
    pub at: Timestamp,
    /// The service.
    pub service: String,
    /// The number.
    pub id: u64,
}

impl Place {
    /// The place of `decision`: the next page begins before it.
    pub fn of(decision: &Decision) -> Self {
        Self { at: decision.at, service: decision.service.clone(), id: decision.id.0 }
    }

    /// The place before every decision taken at `at` or later.
    pub fn time(at: Timestamp) -> Self {
        Self { at, service: String::new(), id: 0 }
    }
}

/// An answer of the store that is on its way. The work is queued already; dropping this does not take it back.
#[derive(Debug)]
#[must_use = "only what was waited for is known to be durable"]
pub struct Pending<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Pending<T> {
    fn ready(answer: Result<T, StoreError>) -> Self {
        let (sender, receiver) = oneshot::channel();
        // The receiver is right here.
        let _ = sender.send(answer);
        Self(receiver)
    }

    /// Blocks until the answer is there. Not to be called within an asynchronous runtime.
    ///
    /// # Errors
    /// Those of the store.
    pub fn wait(self) -> Result<T, StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// A handle on the store, cheap to clone. When the last one goes, the thread finishes what is queued and closes the file; that drop
/// waits for it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    decisions_kept: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is reported by its own hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

type Statements = Box<dyn FnMut(&Connection) -> rusqlite::Result<()> + Send>;

enum Job {
    Write(Write),
    /// In one commit.
    Together(Vec<Write>),
    Read(Box<dyn FnOnce(&Connection) + Send>),
}

struct Write {
    /// May be run again after a rollback.
    statements: Statements,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Reads the JSON in a column, or leaves the surrounding row reader with the error.
macro_rules! read_json {
    ($row:expr, $column:expr, $what:expr) => {
        match from_json($what, &$row.get::<_, String>($column)?) {
            Ok(record) => record,
            Err(error) => return Ok(Err(error)),
        }
    };
}

impl OfService {
    fn read(c: &Connection, path: &Path, service: &str, last: u64) -> Result<Self, StoreError> {
        let sql = "SELECT MAX(COALESCE((SELECT MAX(id) FROM decision WHERE service = ?1), 0),
                COALESCE((SELECT MAX(decision) FROM intent WHERE service = ?1), 0))";
        let numbers = rows(c, path, sql, params![service], |row| Ok(Ok(unsigned(row, 0)?)))?;
        let sql = "SELECT slo, enabled FROM slo WHERE service = ?1";
        let slos = rows(c, path, sql, params![service], |row| Ok(Ok((row.get(0)?, row.get(1)?))))?;
        let sql = "SELECT decision FROM decision
            WHERE service = ?1 AND json_extract(decision, '$.verdict') = 'proposed'
                AND id > (SELECT MAX(id) FROM decision WHERE service = ?1) - ?2
            ORDER BY id";
        let proposals =
            rows(c, path, sql, params![service, number(last)], |row| Ok(Ok(read_json!(row, 0, "decision"))))?;
        let sql = "SELECT key, value FROM knowledge WHERE service = ?1";
        let read = |row: &Row<'_>| Ok(Ok((row.get::<_, String>(0)?, read_json!(row, 1, "knowledge"))));
        let knowledge = rows(c, path, sql, params![service], read)?;
        let sql =
            "SELECT service, reference, bound, declared FROM binding WHERE service = ?1 ORDER BY reference";
        let bindings = rows(c, path, sql, params![service], |row| {
            Ok(Ok(Binding {
                service: row.get(0)?,
                reference: row.get(1)?,
                to: row.get(2)?,
                declared: row.get(3)?,
            }))
        })?;
        Ok(Self {
            decisions: numbers.into_iter().next().unwrap_or_default(),
            slos: slos.into_iter().collect(),
            proposals,
            knowledge: knowledge.into_iter().collect(),
            bindings,
        })
    }
}

impl Store {
    /// Opens the store in `dir`, which is created when it is not there, as is a new database. Blocks.
    ///
    /// # Errors
    /// All but [`StoreError::Record`] and [`StoreError::Closed`]. A damaged database is never replaced by a new one.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        if !path.try_exists().map_err(failed)? {
            create(dir, &path)?;
        }
        let connection = open_file(&path)?;
        let checkpoints = Checkpoints::start(&path)?;
        Self::start(connection, path, Some(checkpoints), Some(lock))
    }

    /// A store that forgets everything when its last handle goes.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when there is no memory or no thread.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from(":memory:");
        let connection =
            Connection::open_in_memory().and_then(|c| migrate(&c).map(|()| c)).map_err(failure(&path))?;
        Self::start(connection, path, None, None)
    }

    fn start(
        connection: Connection,
        path: PathBuf,
        checkpoints: Option<Checkpoints>,
        lock: Option<Lock>,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let keeper = Keeper { checkpoints, connection, path: path.clone(), commits: 0, _lock: lock };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || keeper.serve(&queue))
            .map_err(|source| StoreError::Open { path: path.clone(), source })?;
        let decisions_kept = AtomicU64::new(DECISIONS_KEPT);
        Ok(Self { inner: Arc::new(Inner { jobs: Some(jobs), thread: Some(thread), path, decisions_kept }) })
    }

    /// The database file; `:memory:` when there is none.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How many decisions of each service are kept from now on, at least 1. Older ones go when the next is recorded.
    pub fn keep_decisions(&self, count: u64) {
        self.inner.decisions_kept.store(count.max(1), Ordering::Relaxed);
    }

    /// Ready when everything queued before is committed.
    pub fn flush(&self) -> Pending<()> {
        self.read(|_, _| Ok(()))
    }

    /// Records that a step is about to be taken. A step that is taken again is open again.
    pub fn intent(&self, intent: Intent) -> Pending<()> {
        let (write, pending) = Self::intent_write(intent);
        self.send_one(write);
        pending
    }

    /// Records decisions and the steps of them that are about to be taken in one commit: an action waits for one sync of the disk, and there
    /// is never a step on record whose decision is not. Answers for the decisions and for the steps, in order.
    pub fn begin<'a>(
        &self,
        decisions: impl Iterator<Item = &'a Decision>,
        intents: impl Iterator<Item = Intent>,
    ) -> (Vec<Pending<()>>, Vec<Pending<()>>) {
        let (mut writes, decided): (Vec<_>, Vec<_>) = decisions.map(|d| self.decision_write(d)).unzip();
        let (steps, begun): (Vec<_>, Vec<_>) = intents.map(Self::intent_write).unzip();
        writes.extend(steps);
        self.send(Job::Together(writes.into_iter().flatten().collect()));
        (decided, begun)
    }

    fn intent_write(intent: Intent) -> (Option<Write>, Pending<()>) {
        let action = json("action", &intent.action);
        prepare(action, move |c, action| {
            let step = params![intent.service, number(intent.decision), intent.step];
            execute(c, "DELETE FROM outcome WHERE service = ?1 AND decision = ?2 AND step = ?3", step)?;
            execute(
                c,
                "INSERT OR REPLACE INTO intent VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    intent.service,
                    number(intent.decision),
                    intent.step,
                    intent.key,
                    action,
                    intent.executor,
                    intent.at.0
                ],
            )
        })
    }

    /// Records what came of a step.
    pub fn outcome(&self, service: &str, decision: u64, step: u32, outcome: &Outcome) -> Pending<()> {
        let service = service.to_string();
        self.write(json("outcome", outcome), move |c, outcome| {
            execute(
                c,
                "INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4)",
                params![service, number(decision), step, outcome],
            )
        })
    }

    /// The steps that were begun and have no outcome, in the order they were begun: to be reconciled after a crash.
    pub fn open_intents(&self) -> Pending<Vec<Intent>> {
        self.read(|c, path| {
            let sql = "SELECT service, decision, step, key, executor, at, action FROM intent i
                WHERE NOT EXISTS (SELECT 1 FROM outcome o
                    WHERE o.service = i.service AND o.decision = i.decision AND o.step = i.step)
                ORDER BY at, service, decision, step";
            rows(c, path, sql, params![], |row| {
                Ok(Ok(Intent {
                    service: row.get(0)?,
                    decision: unsigned(row, 1)?,
                    step: row.get(2)?,
                    key: row.get(3)?,
                    executor: row.get(4)?,
                    at: Timestamp(row.get(5)?),
                    action: read_json!(row, 6, "action"),
                }))
            })
        })
    }

    /// The outcomes of the steps of one decision, by the number of the step.
    pub fn outcomes(&self, service: &str, decision: u64) -> Pending<BTreeMap<u32, Outcome>> {
        let service = service.to_string();
        self.read(move |c, path| {
            let sql = "SELECT step, outcome FROM outcome WHERE service = ?1 AND decision = ?2";
            let found = rows(c, path, sql, params![service, number(decision)], |row| {
                Ok(Ok((row.get(0)?, read_json!(row, 1, "outcome"))))
            })?;
            Ok(found.into_iter().collect())
        })
    }

    /// Records a decision, in place of the one of the same service and number, and lets go of those beyond [`Store::keep_decisions`]
    /// (of their steps, all that have an outcome).
    pub fn decision(&self, decision: &Decision) -> Pending<()> {
        let (write, pending) = self.decision_write(decision);
        self.send_one(write);
        pending
    }

    fn decision_write(&self, decision: &Decision) -> (Option<Write>, Pending<()>) {
        let (service, id, at) = (decision.service.clone(), decision.id.0, decision.at.0);
        let last_gone = number(id.saturating_sub(self.inner.decisions_kept.load(Ordering::Relaxed)));
        prepare(json("decision", decision), move |c, decision| {
            execute(
                c,
                "INSERT INTO decision VALUES (?1, ?2, ?3, ?4)
                    ON CONFLICT DO UPDATE SET at = excluded.at, decision = excluded.decision",
                params![service, number(id), at, decision],
            )?;
            if last_gone == 0 {
                return Ok(());
            }
            let gone = params![service, last_gone];
            execute(c, "DELETE FROM decision WHERE service = ?1 AND id <= ?2", gone)?;
            execute(
                c,
                "DELETE FROM intent WHERE service = ?1 AND decision <= ?2 AND EXISTS (SELECT 1 FROM outcome o
                    WHERE o.service = ?1 AND o.decision = intent.decision AND o.step = intent.step)",
                gone,
            )?;
            execute(c, "DELETE FROM outcome WHERE service = ?1 AND decision <= ?2", gone)
        })
    }

    /// Decisions, newest first: of one service or of all, at most `limit`, those before a place only.
    pub fn decisions(
        &self,
        service: Option<&str>,
        limit: usize,
        before: Option<Place>,
    ) -> Pending<Vec<Decision>> {
        let service = service.map(str::to_string);
        let before = before.unwrap_or(Place { at: Timestamp(i64::MAX), service: String::new(), id: 0 });
        self.read(move |c, path| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let id = number(before.id);
            let read = |row: &Row<'_>| Ok(Ok(read_json!(row, 0, "decision")));
            match service {
                Some(service) => rows(
                    c,
                    path,
                    "SELECT decision FROM decision WHERE service = ?1 AND (at, service, id) < (?2, ?3, ?4)
                        ORDER BY at DESC, id DESC LIMIT ?5",
                    params![service, before.at.0, before.service, id, limit],
                    read,
                ),
                None => rows(
                    c,
                    path,
                    "SELECT decision FROM decision WHERE (at, service, id) < (?1, ?2, ?3)
                        ORDER BY at DESC, service DESC, id DESC LIMIT ?4",
                    params![before.at.0, before.service, id, limit],
                    read,
                ),
            }
        })
    }

    /// The decision of this service and number.
    pub fn decision_by_id(&self, service: &str, id: u64) -> Pending<Option<Decision>> {
        let service = service.to_string();
        self.read(move |c, path| {
            let sql = "SELECT decision FROM decision WHERE service = ?1 AND id = ?2";
            let found = rows(c, path, sql, params![service, number(id)], |row| {
                Ok(Ok(read_json!(row, 0, "decision")))
            })?;
            Ok(found.into_iter().next())
        })
    }

    /// The decisions to act whose record has fewer outcomes than actions: service and number, in order.
    pub fn unfinished(&self) -> Pending<Vec<(String, u64)>> {
        self.read(|c, path| {
            let sql = "SELECT service, id FROM decision WHERE json_extract(decision, '$.verdict') = 'planned'
                    AND json_array_length(decision, '$.outcomes') < json_array_length(decision, '$.plan.actions')
                ORDER BY service, id";
            rows(c, path, sql, params![], |row| Ok(Ok((row.get(0)?, unsigned(row, 1)?))))
        })
    }

    /// Remembers that an SLO was enabled or disabled by hand or by action; `None` forgets it.
    pub fn slo_enabled(&self, service: &str, slo: &str, enabled: Option<bool>) -> Pending<()> {
        let (service, slo) = (service.to_string(), slo.to_string());
        self.write(Ok(String::new()), move |c, _| match enabled {
            Some(enabled) => {
                let row = params![service, slo, enabled];
                execute(c, "INSERT OR REPLACE INTO slo VALUES (?1, ?2, ?3)", row)
            }
            None => execute(c, "DELETE FROM slo WHERE service = ?1 AND slo = ?2", params![service, slo]),
        })
    }

    /// Remembers that a reference was rebound.
    pub fn binding(&self, binding: Binding) -> Pending<()> {
        self.write(Ok(String::new()), move |c, _| {
            let row = params![binding.service, binding.reference, binding.to, binding.declared];
            execute(c, "INSERT OR REPLACE INTO binding VALUES (?1, ?2, ?3, ?4)", row)
        })
    }

    /// Forgets that a reference was rebound: what the policy declares holds.
    pub fn forget_binding(&self, service: &str, reference: &str) -> Pending<()> {
        let (service, reference) = (service.to_string(), reference.to_string());
        self.write(Ok(String::new()), move |c, _| {
            let row = params![service, reference];
            execute(c, "DELETE FROM binding WHERE service = ?1 AND reference = ?2", row)
        })
    }

    /// Writes an entry of the knowledge of a service (R3-14); `None` removes it.
    pub fn knowledge(&self, service: &str, key: &str, value: Option<&Value>) -> Pending<()> {
        let (service, key) = (service.to_string(), key.to_string());
        let text = value.map_or(Ok(String::new()), |value| json("knowledge", value));
        let keep = value.is_some();
        self.write(text, move |c, text| {
            if keep {
                let row = params![service, key, text];
                execute(c, "INSERT OR REPLACE INTO knowledge VALUES (?1, ?2, ?3)", row)
            } else {
                let row = params![service, key];
                execute(c, "DELETE FROM knowledge WHERE service = ?1 AND key = ?2", row)
            }
        })
    }

    /// The knowledge of every service: service → key → value.
    pub fn all_knowledge(&self) -> Pending<BTreeMap<String, BTreeMap<String, Value>>> {
        self.read(|c, path| {
            let sql = "SELECT service, key, value FROM knowledge";
            let read = |row: &Row<'_>| Ok(Ok((row.get(0)?, row.get(1)?, read_json!(row, 2, "knowledge"))));
            rows(c, path, sql, params![], read).map(nested)
        })
    }

    /// Several entries of the knowledge of a service, all or none, as by [`Store::knowledge`].
    pub fn knowledge_all(&self, service: &str, entries: Vec<(String, Option<Value>)>) -> Pending<()> {
        let entries = Entries::new(service, entries);
        self.write(Ok(String::new()), move |c, _| entries.write(c))
    }

    /// What the record knows of these services.
    pub fn of_services(&self, services: Vec<String>, last: u64) -> Pending<Vec<(String, OfService)>> {
        self.read(move |c, path| {
            services
                .into_iter()
                .map(|service| Ok((service.clone(), OfService::read(c, path, &service, last)?)))
                .collect()
        })
    }

    /// Remembers what was attached or detached by hand.
    pub fn hand_made(&self, change: HandMade) -> Pending<()> {
        let keep = change.document.is_some();
        let text = change.document.as_ref().map_or(Ok(String::new()), |document| json("document", document));
        self.write(text, move |c, text| {
            let document = keep.then_some(text);
            let row = params![change.service, change.component, document, change.base_hash];
            execute(c, "INSERT OR REPLACE INTO hand_made VALUES (?1, ?2, ?3, ?4)", row)
        })
    }

    /// Takes note of changes by hand, and of entries of the knowledge of one service as by [`Store::knowledge_all`]: all in one commit, or none.
    pub fn note_all(&self, notes: Vec<HandNote>, knowledge: Option<Entries>) -> Pending<()> {
        self.write(Ok(String::new()), move |c, _| {
            for note in &notes {
                let service = &note.service;
                match &note.noted {
                    Noted::Nothing => execute(
                        c,
                        "DELETE FROM hand_made WHERE service = ?1 AND component = ?2",
                        params![service, note.component],
                    )?,
                    Noted::Change { document, base_hash } => execute(
                        c,
                        "INSERT OR REPLACE INTO hand_made VALUES (?1, ?2, ?3, ?4)",
                        params![service, note.component, document, base_hash],
                    )?,
                }
            }
            knowledge.iter().try_for_each(|entries| entries.write(c))
        })
    }

    /// Forgets what was attached or detached by hand: what the policy says holds.
    pub fn forget_hand_made(&self, service: &str, component: &str) -> Pending<()> {
        let (service, component) = (service.to_string(), component.to_string());
        self.write(Ok(String::new()), move |c, _| {
            let row = params![service, component];
            execute(c, "DELETE FROM hand_made WHERE service = ?1 AND component = ?2", row)
        })
    }

    /// Everything attached or detached by hand.
    pub fn all_hand_made(&self) -> Pending<Vec<HandMade>> {
        self.read(|c, path| {
            let sql =
                "SELECT service, component, base_hash, document FROM hand_made ORDER BY service, component";
            rows(c, path, sql, params![], |row| {
                let text: Option<String> = row.get(3)?;
                let document = match text.map(|text| serde_json::from_str(&text)).transpose() {
                    Ok(document) => document,
                    Err(source) => return Ok(Err(StoreError::Record { what: "document", source })),
                };
                Ok(Ok(HandMade {
                    service: row.get(0)?,
                    component: row.get(1)?,
                    base_hash: row.get(2)?,
                    document,
                }))
            })
        })
    }

    /// Forgets everything about a service, its decisions included.
    pub fn forget_service(&self, service: &str) -> Pending<()> {
        let service = service.to_string();
        self.write(Ok(String::new()), move |c, _| {
            TABLES.iter().try_for_each(|table| {
                execute(c, &format!("DELETE FROM {table} WHERE service = ?1"), params![service])
            })
        })
    }

    /// Queues statements; `text` is the record as JSON, which they are given.
    fn write(
        &self,
        text: Result<String, StoreError>,
        statements: impl FnMut(&Connection, &str) -> rusqlite::Result<()> + Send + 'static,
    ) -> Pending<()> {
        let (write, pending) = prepare(text, statements);
        self.send_one(write);
        pending
    }

    fn send_one(&self, write: Option<Write>) {
        if let Some(write) = write {
            self.send(Job::Write(write));
        }
    }

    /// Queues a question; it is asked after everything queued before is committed.
    fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection, &Path) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<T> {
        let (done, answer) = oneshot::channel();
        let path = self.inner.path.clone();
        self.send(Job::Read(Box::new(move |c| {
            // Nobody waits for it any more: fine.
            let _ = done.send(question(c, &path));
        })));
        Pending(answer)
    }

    /// When the thread is gone, the job is dropped, and with it the sender of its answer: that is [`StoreError::Closed`].
    fn send(&self, job: Job) {
        if let Some(jobs) = &self.inner.jobs {
            let _ = jobs.send(job);
        }
    }
}

/// Statements to be queued, and their answer; none when the record cannot be written down.
fn prepare(
    text: Result<String, StoreError>,
    mut statements: impl FnMut(&Connection, &str) -> rusqlite::Result<()> + Send + 'static,
) -> (Option<Write>, Pending<()>) {
    let text = match text {
        Ok(text) => text,
        Err(error) => return (None, Pending::ready(Err(error))),
    };
    let (done, answer) = oneshot::channel();
    let statements = Box::new(move |c: &Connection| statements(c, &text));
    (Some(Write { statements, done }), Pending(answer))
}

/// The thread's side.
struct Keeper {
    /// Before the connection: the last one to close makes the last checkpoint.
    checkpoints: Option<Checkpoints>,
    connection: Connection,
    path: PathBuf,
    commits: u32,
    /// Released with the connection already closed: fields drop in order.
    _lock: Option<Lock>,
}

/// Brings the log into the database on a thread of its own. That takes several syncs of the disk, and whoever waits for an intent should
/// not wait for them.
struct Checkpoints {
    /// `None` only while dropping.
    due: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    fn start(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .and_then(|c| configure(&c).map(|()| c))
            .map_err(failure(path))?;
        let (due, dues) = mpsc::sync_channel(1);
        let work = move || {
            while dues.recv().is_ok() {
                let checkpoint =
                    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", params![], |_| Ok(()));
                if let Err(error) = checkpoint {
                    tracing::warn!(%error, "a checkpoint of the record was not possible; the next will be tried");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(work)
            .map_err(|source| StoreError::Open { path: path.to_path_buf(), source })?;
        Ok(Self { due: Some(due), thread: Some(thread) })
    }

    /// Asks for one, unless one is asked for already.
    fn ask(&self) {
        if let Some(due) = &self.due {
            let _ = due.try_send(());
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.due = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is reported by its own hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// The directory is ours.
struct Lock(File);

impl Drop for Lock {
    /// Unlocks at once: a child process that is just being started may hold the file a moment longer than this one.
    fn drop(&mut self) {
        // When that fails, closing the file does it.
        let _ = self.0.unlock();
    }
}

impl Keeper {
    fn serve(mut self, queue: &mpsc::Receiver<Job>) {
        let mut writes = Vec::new();
        while let Ok(job) = queue.recv() {
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Write(write) => writes.push(write),
                    Job::Together(more) => writes.extend(more),
                    Job::Read(question) => {
                        self.commit(&mut writes);
                        question(&self.connection);
                    }
                }
                if writes.len() >= BATCH {
                    self.commit(&mut writes);
                }
                next = queue.try_recv().ok();
            }
            self.commit(&mut writes);
        }
    }

    /// Commits all together; when that fails, each on its own, so that one bad write costs no other.
    fn commit(&mut self, writes: &mut Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        self.commits = (self.commits + 1) % CHECKPOINT;
        if let (0, Some(checkpoints)) = (self.commits, &self.checkpoints) {
            checkpoints.ask();
        }
        let mut together = self.transaction(writes);
        let alone = writes.len() == 1;
        for mut write in writes.drain(..) {
            let result = match &mut together {
                Ok(()) => Ok(()),
                Err(error) if alone => Err(std::mem::replace(error, rusqlite::Error::InvalidQuery)),
                Err(_) => self.transaction(std::slice::from_mut(&mut write)),
            };
            // Nobody waits for it any more: fine.
            let _ = write.done.send(result.map_err(failure(&self.path)));
        }
    }

    fn transaction(&self, writes: &mut [Write]) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let result = writes
            .iter_mut()
            .try_for_each(|write| (write.statements)(&self.connection))
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        // SQLite may have rolled back on its own; what failed is the error to report.
        if result.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        result
    }
}

/// Takes the directory.
fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join(LOCK);
    let failed = |source| StoreError::Open { path: path.clone(), source };
    let file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Makes a database aside and moves it into place, so that an unfinished or empty file there always means damage.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let log = dir.join(format!("{FILE}-wal"));
    if log.exists() {
        let detail = format!("it is missing, but its log {} is there", log.display());
        return Err(StoreError::Corrupt { path: path.to_path_buf(), detail });
    }
    let new = dir.join(format!("{FILE}.new"));
    let failed = |source| StoreError::Open { path: new.clone(), source };
    for leftover in ["", "-wal", "-shm", "-journal"] {
        match std::fs::remove_file(dir.join(format!("{FILE}.new{leftover}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    let connection = Connection::open(&new).map_err(failure(&new))?;
    configure(&connection).and_then(|()| migrate(&connection)).map_err(failure(&new))?;
    connection.close().map_err(|(_, error)| failure(&new)(error))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    // The name, too, must survive a power cut; where directories cannot be synced there is nothing better.
    if let Ok(directory) = File::open(dir) {
        let _ = directory.sync_all();
    }
    Ok(())
}

fn open_file(path: &Path) -> Result<Connection, StoreError> {
    let size = std::fs::metadata(path)
        .map_err(|source| StoreError::Open { path: path.to_path_buf(), source })?
        .len();
    let corrupt = |detail: String| StoreError::Corrupt { path: path.to_path_buf(), detail };
    if size == 0 {
        return Err(corrupt("it is empty".into()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failure(path))?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("application_id").map_err(failure(path))? != APPLICATION {
        return Err(corrupt("it is the database of another program".into()));
    }
    let (found, known) = (pragma("user_version").map_err(failure(path))?, MIGRATIONS.len() as i64);
    if found > known {
        return Err(StoreError::TooNew { path: path.to_path_buf(), found, known });
    }
    if size <= CHECKED {
        let verdict = connection
            .query_row("PRAGMA quick_check(1)", params![], |row| row.get::<_, String>(0))
            .map_err(failure(path))?;
        if verdict != "ok" {
            return Err(corrupt(verdict));
        }
    }
    configure(&connection).and_then(|()| migrate(&connection)).map_err(failure(path))?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", LONGEST_LOG)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Leads the schema to the newest version, each step in a transaction of its own.
fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (step, sql) in (0_i64..).zip(MIGRATIONS).skip_while(|(step, _)| *step < version) {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {sql} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}; COMMIT",
            step + 1
        ))?;
    }
    Ok(())
}

/// What an error of SQLite about the file at `path` means.
fn failure(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
    move |source| {
        let path = path.to_path_buf();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { path, detail: source.to_string() }
            }
            Some(ErrorCode::DiskFull) => StoreError::Full(path),
            _ => StoreError::Failed { path, source },
        }
    }
}

fn execute(connection: &Connection, sql: &str, row: &[&dyn ToSql]) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

/// All rows; a row is read to `Ok(Err(…))` when a record in it cannot be understood.
fn rows<T>(
    connection: &Connection,
    path: &Path,
    sql: &str,
    row: &[&dyn ToSql],
    read: impl Fn(&Row<'_>) -> rusqlite::Result<Result<T, StoreError>>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failure(path))?;
    let found = statement.query_map(row, read).map_err(failure(path))?;
    found.map(|row| row.map_err(failure(path))?).collect()
}

fn nested<T>(rows: Vec<(String, String, T)>) -> BTreeMap<String, BTreeMap<String, T>> {
    let mut map: BTreeMap<String, BTreeMap<String, T>> = BTreeMap::new();
    for (service, key, value) in rows {
        map.entry(service).or_default().insert(key, value);
    }
    map
}

fn json<T: Serialize>(what: &'static str, record: &T) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|source| StoreError::Record { what, source })
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Record { what, source })
}

/// SQLite's integers are signed; no counter gets near the difference.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use serde_json::json;

    use super::*;
    use crate::model::{DecisionId, OutcomeStatus, Verdict};

    fn action() -> Action {
        Action::Set { service: None, property: "threads".into(), value: json!(10) }
    }

    fn intent(service: &str, decision: u64, step: u32) -> Intent {
        let key = format!("{service}/{decision}/{step}");
        let at = Timestamp(decision as i64);
        Intent { service: service.into(), decision, step, key, action: action(), executor: "shop".into(), at }
    }

    fn outcome() -> Outcome {
        let (detail, at) = (String::new(), Timestamp(5));
        Outcome { action: action(), status: OutcomeStatus::Done, executor: "shop".into(), detail, at }
    }

    fn decision(service: &str, id: u64, at: i64) -> Decision {
        Decision {
            id: DecisionId(id),
            service: service.into(),
            at: Timestamp(at),
            alarm: None,
            verdict: Verdict::Nothing,
            plan: None,
            outcomes: vec![],
            helped: None,
            expires: None,
        }
    }

    fn of(store: &Store, service: &str) -> OfService {
        store.of_services(vec![service.into()], 3).wait().unwrap().remove(0).1
    }

    fn ids(decisions: &[Decision]) -> Vec<(&str, u64)> {
        decisions.iter().map(|d| (d.service.as_str(), d.id.0)).collect()
    }

    #[test]
    fn decisions_without_all_their_outcomes_are_found() {
        use crate::model::plan::OnFailure;
        use crate::model::{Mode, Plan};
        let store = Store::in_memory().unwrap();
        for (id, verdict, outcomes) in [
            (1, Verdict::Planned, 2),
            (2, Verdict::Planned, 1),
            (3, Verdict::Proposed, 0),
            (4, Verdict::Planned, 0),
        ] {
            let plan = Plan {
                strategy: "s".into(),
                hash: String::new(),
                mode: Mode::Act,
                actions: vec![outcome().action; 2],
                readings: BTreeMap::new(),
                reasons: Vec::new(),
                on_failure: OnFailure::Stop,
            };
            let outcomes = vec![outcome(); outcomes];
            let decision = Decision { verdict, plan: Some(plan), outcomes, ..decision("a", id, 10) };
            store.decision(&decision).wait().unwrap();
        }
        store.decision(&decision("a", 5, 10)).wait().unwrap();
        assert_eq!(store.unfinished().wait().unwrap(), [("a".into(), 2), ("a".into(), 4)]);
    }

    #[test]
    fn proposals_are_found_among_the_last_decisions_of_each_service() {
        let store = Store::in_memory().unwrap();
        for (service, id, verdict) in [
            ("a", 1, Verdict::Proposed),
            ("a", 2, Verdict::Proposed),
            ("a", 3, Verdict::Withdrawn("why".into())),
            ("a", 4, Verdict::Proposed),
            ("b", 9, Verdict::Planned),
            ("c", 1, Verdict::Proposed),
        ] {
            let decision = Decision { verdict, ..decision(service, id, 0) };
            store.decision(&decision).wait().unwrap();
        }
        let proposed =
            |service| ids(&of(&store, service).proposals).iter().map(|(_, id)| *id).collect::<Vec<_>>();
        assert_eq!(["a", "b", "c"].map(proposed), [vec![2, 4], vec![], vec![1]]);
        store.decision(&decision("a", 4, 0)).wait().unwrap();
        assert_eq!(proposed("a"), [2]);
    }

    /// Requirement: R3-14, R3-48
    #[test]
    fn everything_recorded_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.intent(intent("shop", 7, 0)).wait().unwrap();
        store.intent(intent("shop", 7, 1)).wait().unwrap();
        store.outcome("shop", 7, 0, &outcome()).wait().unwrap();
        store.decision(&decision("shop", 6, 100)).wait().unwrap();
        store.slo_enabled("shop", "cheap", Some(false)).wait().unwrap();
        store.slo_enabled("shop", "fast", Some(false)).wait().unwrap();
        store.slo_enabled("shop", "fast", None).wait().unwrap();
        let bound = Binding {
            service: "shop".into(),
            reference: "payment".into(),
            to: None,
            declared: Some("C1".into()),
        };
        store.binding(bound.clone()).wait().unwrap();
        store.knowledge("shop", "season", Some(&json!({"name": "winter", "load": 0.1}))).wait().unwrap();
        store.knowledge("shop", "gone", Some(&Value::Null)).wait().unwrap();
        store.knowledge("shop", "gone", None).wait().unwrap();
        let made = |component: &str, document| HandMade {
            service: "shop".into(),
            component: component.into(),
            document,
            base_hash: "abc".into(),
        };
        let (attached, detached) = (made("analyze", Some(json!({"cheap": 1}))), made("plan", None));
        store.hand_made(attached.clone()).wait().unwrap();
        store.hand_made(detached.clone()).wait().unwrap();
        drop(store);
        assert!(!dir.path().join("homeostat.db-wal").exists(), "a clean close leaves no log");

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.open_intents().wait().unwrap(), [intent("shop", 7, 1)]);
        assert_eq!(store.outcomes("shop", 7).wait().unwrap(), BTreeMap::from([(0, outcome())]));
        assert_eq!(store.decisions(None, 9, None).wait().unwrap(), [decision("shop", 6, 100)]);
        let known = BTreeMap::from([("season".to_string(), json!({"name": "winter", "load": 0.1}))]);
        assert_eq!(
            store.all_knowledge().wait().unwrap(),
            BTreeMap::from([("shop".to_string(), known.clone())])
        );
        let shop = of(&store, "shop");
        assert_eq!((shop.decisions, shop.bindings, shop.knowledge), (7, vec![bound], known));
        assert_eq!(shop.slos, BTreeMap::from([("cheap".to_string(), false)]));
        assert_eq!(store.all_hand_made().wait().unwrap(), [attached, detached]);

        store.forget_binding("shop", "payment").wait().unwrap();
        store.forget_hand_made("shop", "plan").wait().unwrap();
        assert!(of(&store, "shop").bindings.is_empty());
        assert_eq!(store.all_hand_made().wait().unwrap().len(), 1);
        store.forget_service("shop").wait().unwrap();
        assert!(store.open_intents().wait().unwrap().is_empty());
        assert!(store.decisions(None, 9, None).wait().unwrap().is_empty());
        assert!(store.all_knowledge().wait().unwrap().is_empty());
        assert_eq!(of(&store, "shop").decisions, 0);
    }

    #[test]
    fn a_step_that_is_begun_again_is_open_again() {
        let store = Store::in_memory().unwrap();
        store.intent(intent("shop", 1, 0)).wait().unwrap();
        store.outcome("shop", 1, 0, &outcome()).wait().unwrap();
        assert!(store.open_intents().wait().unwrap().is_empty());
        store.intent(intent("shop", 1, 0)).wait().unwrap();
        assert_eq!(store.open_intents().wait().unwrap().len(), 1);
    }

    #[test]
    fn decisions_come_newest_first_and_page_by_page() {
        let store = Store::in_memory().unwrap();
        for (service, id, at) in [("a", 1, 10), ("b", 1, 20), ("a", 2, 20), ("a", 3, 20), ("b", 2, 30)] {
            store.decision(&decision(service, id, at)).wait().unwrap();
        }
        let all = store.decisions(None, 99, None).wait().unwrap();
        assert_eq!(ids(&all), [("b", 2), ("b", 1), ("a", 3), ("a", 2), ("a", 1)]);
        let mut paged = Vec::new();
        while let page = store.decisions(None, 2, paged.last().map(Place::of)).wait().unwrap()
            && !page.is_empty()
        {
            paged.extend(page);
        }
        assert_eq!(paged, all, "pages meet without a gap although three decisions share their time");
        let own = store.decisions(Some("a"), 2, None).wait().unwrap();
        assert_eq!(ids(&own), [("a", 3), ("a", 2)]);
        let rest = store.decisions(Some("a"), 9, Some(Place::time(Timestamp(20)))).wait().unwrap();
        assert_eq!(ids(&rest), [("a", 1)]);

        let helped = Decision { helped: Some(true), ..decision("a", 3, 20) };
        store.decision(&helped).wait().unwrap();
        assert_eq!(store.decision_by_id("a", 3).wait().unwrap(), Some(helped));
        assert_eq!(store.decision_by_id("a", 4).wait().unwrap(), None);
    }

    #[test]
    fn old_decisions_go_and_open_steps_stay() {
        let store = Store::in_memory().unwrap();
        store.keep_decisions(3);
        for id in 1..=10 {
            store.intent(intent("a", id, 0)).wait().unwrap();
            if id != 2 {
                store.outcome("a", id, 0, &outcome()).wait().unwrap();
            }
            store.decision(&decision("a", id, 1)).wait().unwrap();
        }
        store.decision(&decision("b", 1, 1)).wait().unwrap();
        assert_eq!(
            ids(&store.decisions(Some("a"), 99, None).wait().unwrap()),
            [("a", 10), ("a", 9), ("a", 8)]
        );
        assert_eq!(store.decisions(Some("b"), 99, None).wait().unwrap().len(), 1);
        assert_eq!(store.open_intents().wait().unwrap(), [intent("a", 2, 0)]);
        assert!(store.outcomes("a", 7).wait().unwrap().is_empty());
        assert_eq!(store.outcomes("a", 8).wait().unwrap().len(), 1);
    }

    #[test]
    fn writes_are_done_in_the_order_of_their_calls_even_if_nobody_waits() {
        let store = Store::in_memory().unwrap();
        for n in 0..5_000 {
            drop(store.knowledge("a", "n", Some(&json!(n))));
        }
        store.flush().wait().unwrap();
        assert_eq!(store.all_knowledge().wait().unwrap()["a"]["n"], json!(4_999));
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let second = store.clone();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
        assert!(error.to_string().contains("in use by another homeostat"), "{error}");
        drop(store);
        assert!(Store::open(dir.path()).is_err(), "a clone still holds it");
        drop(second);
        assert!(Store::open(dir.path()).is_ok());
    }

    #[test]
    fn a_damaged_database_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let store = Store::open(dir.path()).unwrap();
        for id in 1..200 {
            drop(store.decision(&decision("a", id, 1)));
        }
        drop(store);
        let good = std::fs::read(&file).unwrap();
        let mut garbled = good.clone();
        for byte in &mut garbled[4096 * 2..4096 * 4] {
            *byte ^= 0x5a;
        }
        let text = b"service: shop\n".repeat(1000);
        for damaged in [Vec::new(), text, good[..good.len() / 2].to_vec(), good[..100].to_vec(), garbled] {
            std::fs::write(&file, &damaged).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            assert!(std::fs::read(&file).unwrap() == damaged, "it is left as it was");
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::write(dir.path().join("homeostat.db-wal"), "left over").unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(!file.exists());
    }

    #[test]
    fn a_newer_database_and_a_foreign_one_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let set = |sql: &str| Connection::open(dir.path().join(FILE)).unwrap().execute_batch(sql).unwrap();
        set("PRAGMA user_version = 99");
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error:?}");
        set("PRAGMA user_version = 1; PRAGMA application_id = 7");
        let error = Store::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another program"), "{error}");
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_store_goes_on_once_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pages = |store: &Store, sql: &'static str| {
            store.read(move |c, path| c.execute_batch(sql).map_err(failure(path))).wait().unwrap();
        };
        pages(&store, "PRAGMA max_page_count = 1");
        let large = json!("x".repeat(100_000));
        let refused: Vec<_> = (0..10).map(|n| store.knowledge("a", &n.to_string(), Some(&large))).collect();
        let small = store.slo_enabled("a", "cheap", Some(true));
        for pending in refused {
            let error = pending.wait().unwrap_err();
            assert!(matches!(error, StoreError::Full(_)), "{error:?}");
        }
        small.wait().expect("what still fits is kept, though committed with what does not");
        pages(&store, "PRAGMA max_page_count = 1000000");
        store.knowledge("a", "k", Some(&large)).wait().unwrap();
        assert_eq!(store.all_knowledge().wait().unwrap()["a"].len(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_understood_is_named_and_harms_no_other() {
        let store = Store::in_memory().unwrap();
        let spoil = "INSERT INTO knowledge VALUES ('a', 'k', '{')";
        store.read(move |c, path| c.execute_batch(spoil).map_err(failure(path))).wait().unwrap();
        let error = store.all_knowledge().wait().unwrap_err();
        assert!(matches!(error, StoreError::Record { what: "knowledge", .. }), "{error:?}");
        assert!(store.of_services(vec!["a".into()], 3).wait().is_err());
        assert_eq!(of(&store, "b"), OfService::default());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Store::open(&file.join("data")).unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn many_writers_are_committed_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let writers = (0..2_000).map(|n| store.intent(intent("a", n, 0)));
        for result in futures::future::join_all(writers).await {
            result.unwrap();
        }
        assert_eq!(store.open_intents().await.unwrap().len(), 2_000);
    }

    const CHILD: &str = "HOMEOSTAT_TEST_STORE";

    /// Not a test of its own: what `what_was_acknowledged_survives_a_kill` starts, and kills.
    #[test]
    fn writes_until_it_is_killed() {
        let Some(dir) = std::env::var_os(CHILD) else { return };
        let store = Store::open(Path::new(&dir)).unwrap();
        let mut out = std::io::stdout();
        writeln!(out).unwrap();
        for round in 0_u64.. {
            let batch: Vec<_> = (0..8).map(|i| store.intent(intent("a", round * 8 + i, 0))).collect();
            for (i, pending) in (0..).zip(batch) {
                pending.wait().unwrap();
                writeln!(out, "acknowledged {}", round * 8 + i).unwrap();
            }
        }
    }

    /// Requirement: R3-14, R3-48
    #[test]
    fn what_was_acknowledged_survives_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = None;
        for lines_before_the_kill in [3, 100, 777] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "knowledge::store::tests::writes_until_it_is_killed", "--nocapture"])
                .env(CHILD, dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let acknowledged = |line: String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
            let mut seen: Vec<u64> =
                lines.by_ref().filter_map(acknowledged).take(lines_before_the_kill).collect();
            assert_eq!(seen.len(), lines_before_the_kill, "the child wrote");
            child.kill().unwrap();
            child.wait().unwrap();
            seen.extend(lines.filter_map(acknowledged));
            let store = Store::open(dir.path()).expect("a killed process leaves a database that opens");
            let kept: Vec<u64> = store.open_intents().wait().unwrap().iter().map(|i| i.decision).collect();
            for n in &seen {
                assert!(kept.binary_search(n).is_ok(), "{n} was acknowledged and is gone");
            }
            last = last.max(seen.last().copied());
            assert!(kept.last().copied() >= last);
        }
    }
}
