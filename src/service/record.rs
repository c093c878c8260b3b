//! What `run --record` writes and `replay` reads: every message of every shard before its turn, and after it what the turn decided.
//! Numbers stand for names only in memory; in the file there are names, so that another process understands them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::message::{Apply, Effect, Letter, Message, NOW, Restored};
use super::names::Names;
use super::shard::{Shard, Surroundings};
use super::simulation::OPERATIONS;
use crate::knowledge::record::{Entry, Reader, RecordError, Recorder};
use crate::model::metric::Sample;
use crate::model::{Datum, Decision, MetricId, ModelChange, Timestamp};
use crate::plan::strategy::{Deadline, RunLimits, STACK_SIZE};
use crate::policy::compile::compile_kept;
use crate::policy::document::ServiceDocument;
use crate::policy::script::Script;

/// One line of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "one line at a time is held; boxing letters would cost the hot ones"
)]
pub enum Line {
    /// Samples: service, metric, value (`null`: not a finite number), time (`null`: that of the line).
    Samples(Vec<(String, String, Option<f64>, Option<Timestamp>)>),
    /// The shard woke up.
    Wake,
    /// A service was attached or changed.
    Apply {
        /// The policy.
        document: Box<ServiceDocument>,
        /// Its scripts, by what the policy says under `run`: name and text.
        scripts: BTreeMap<String, (String, String)>,
        /// What was restored.
        restored: Restored,
    },
    /// A service was detached.
    Detach(String),
    /// A letter to a service.
    To(String, Letter),
    /// Data of a metric.
    Data(Arc<str>, Arc<[Datum]>),
    /// The resource model has changed.
    Model(Arc<[ModelChange]>),
    /// The clock cut a strategy run of the message before: number of the run within the turn, progress.
    Cut(u64, u64),
    /// The turn before took this decision, or has news of it.
    Decision(Box<Decision>),
}

impl Line {
    /// The line of a message.
    pub fn of(message: &Message, names: &Names) -> Self {
        match message {
            Message::Wake => Self::Wake,
            Message::Data(metric, data) => Self::Data(metric.clone(), data.clone()),
            Message::Model(changes) => Self::Model(changes.clone()),
            Message::Detach(name) => Self::Detach(name.to_string()),
            Message::To(name, letter) => Self::To(name.to_string(), letter.clone()),
            Message::Apply(apply) => Self::Apply {
                document: Box::new(apply.policy.document.open().unwrap_or_default()),
                scripts: apply
                    .policy
                    .scripts
                    .iter()
                    .map(|(run, script)| {
                        (run.to_string(), (script.name.to_string(), script.source.to_string()))
                    })
                    .collect(),
                restored: apply.restored.clone(),
            },
            Message::Samples(samples) => Self::Samples(
                samples
                    .iter()
                    .map(|s| {
                        let service = names.service_name(s.service).unwrap_or_default();
                        let metric = names.metric_name(s.metric).unwrap_or_default();
                        let at = (s.at != NOW).then_some(s.at);
                        (service.to_string(), metric.to_string(), s.value.is_finite().then_some(s.value), at)
                    })
                    .collect(),
            ),
        }
    }

    /// The message of a line; `None` for lines that tell of a turn.
    ///
    /// # Errors
    /// When the policy in the line does not compile.
    pub fn message(self, names: &Names) -> Result<Option<Message>, String> {
        Ok(Some(match self {
            Self::Cut(..) | Self::Decision(_) => return Ok(None),
            Self::Wake => Message::Wake,
            Self::Data(metric, data) => Message::Data(metric, data),
            Self::Model(changes) => Message::Model(changes),
            Self::Detach(name) => Message::Detach(name.into()),
            Self::To(name, letter) => Message::To(name.into(), letter),
            Self::Samples(samples) => Message::Samples(
                samples
                    .into_iter()
                    .map(|(service, metric, value, at)| Sample {
                        service: names.service(&service),
                        metric: names.metric(&metric),
                        value: value.unwrap_or(f64::NAN),
                        at: at.unwrap_or(NOW),
                    })
                    .collect(),
            ),
            Self::Apply { document, scripts, restored } => {
                let find = |run: &str| {
                    let (name, source) = scripts.get(run)?;
                    Script::compile(name, source).ok().map(Arc::new)
                };
                let id = names.service(&document.service);
                let policy = compile_kept(*document, &find)
                    .map_err(|p| p.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
                Message::Apply(Box::new(Apply { id, policy, restored }))
            }
        }))
    }
}

/// The recorder that shards share. Recording can be switched on before the start only; a gap would make a record worthless.
#[derive(Debug, Default)]
pub struct Tape(RwLock<Option<Recorder>>);

impl Tape {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Records to a new file.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path, shards: usize) -> Result<Self, RecordError> {
        let about = serde_json::json!({
            "homeostat": env!("CARGO_PKG_VERSION"),
            "shards": shards,
            "operations": OPERATIONS,
        });
        Ok(Self(RwLock::new(Some(Recorder::create(path, about)?))))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Writes a line. Blocks when the disk is slower than the loop. After an error nothing more is written, and the error is logged once.
    pub fn write(&self, shard: usize, at: Timestamp, line: &Line) {
        let result = match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            None => return,
            Some(recorder) => recorder.record(shard as u32, at, line),
        };
        if let Err(error) = result {
            tracing::error!(%error, "recording has ended");
            self.0.write().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Ends the record; answers with the number of its lines.
    ///
    /// # Errors
    /// When the last lines could not be written.
    pub fn finish(&self) -> Result<u64, RecordError> {
        match self.0.write().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(0),
            Some(recorder) => recorder.finish(),
        }
    }
}

/// Why a record cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read. A retry may help when the disk was the reason.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A policy in the record does not compile with this version.
    #[error("line {line}: the policy does not compile: {problems}")]
    Policy {
        /// The number of the message.
        line: u64,
        /// What is wrong with it.
        problems: String,
    },
    /// The operating system gives no thread. A retry may help.
    #[error("there is no thread to replay on")]
    Thread(#[source] std::io::Error),
    /// The header does not say how many shards there were.
    #[error("the header of the record does not say how many shards there were")]
    NoShards,
}

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Messages fed.
    pub messages: u64,
    /// Decisions as the turns took them now, in order, as JSON lines.
    pub decisions: Vec<String>,
    /// The first difference to the recorded decisions, if there is one: number of the line, recorded, now.
    pub difference: Option<(u64, String, String)>,
    /// The last line was cut off; it was left out.
    pub truncated: bool,
}

struct Past<'a> {
    names: &'a Names,
    cuts: &'a BTreeMap<u64, u64>,
    run: u64,
}

impl Surroundings for Past<'_> {
    fn metric_id(&mut self, name: &str) -> MetricId {
        self.names.metric(name)
    }
    fn limits(&mut self) -> RunLimits {
        let cut = self.cuts.get(&self.run).copied();
        self.run += 1;
        RunLimits { operations: OPERATIONS, deadline: Deadline::CutAt(cut) }
    }
    fn cut(&mut self, _: u64) {}
}

/// One message with all that was recorded of its turn.
struct Turned {
    number: u64,
    at: Timestamp,
    message: Message,
    cuts: BTreeMap<u64, u64>,
    decisions: Vec<(u64, String)>,
}

/// Feeds a record through the same turns and compares what they decide with what was decided, byte for byte.
///
/// # Errors
/// When the record cannot be read or understood.
pub fn replay(path: &Path, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Replayed, ReplayError> {
    // Strategies run here as they did in their shards, on a stack that is made for them.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("replay".into()).stack_size(STACK_SIZE);
        let thread =
            thread.spawn_scoped(scope, || replay_here(path, progress)).map_err(ReplayError::Thread)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn replay_here(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Replayed, ReplayError> {
    let mut reader = Reader::<Line>::open(path)?;
    let shards =
        reader.about().get("shards").and_then(serde_json::Value::as_u64).ok_or(ReplayError::NoShards)?;
    let names = Names::default();
    let mut house: Vec<Shard> = (0..shards as usize).map(|n| Shard::new(n, shards as usize)).collect();
    let mut waiting: BTreeMap<u32, Turned> = BTreeMap::new();
    let mut replayed = Replayed::default();
    for entry in reader.by_ref() {
        let Entry { n, shard, at, m } = entry?;
        match m {
            Line::Cut(run, progress) => {
                if let Some(turned) = waiting.get_mut(&shard) {
                    turned.cuts.insert(run, progress);
                }
            }
            Line::Decision(decision) => {
                if let Some(turned) = waiting.get_mut(&shard) {
                    turned.decisions.push((n, to_json(&decision)));
                }
            }
            line => {
                let message = line
                    .message(&names)
                    .map_err(|problems| ReplayError::Policy { line: n, problems })?
                    .unwrap_or(Message::Wake);
                let turned = Turned { number: n, at, message, cuts: BTreeMap::new(), decisions: Vec::new() };
                if let Some(before) = waiting.insert(shard, turned) {
                    feed(&mut house, shard, before, false, &names, &mut replayed);
                    progress(replayed.messages);
                }
            }
        }
    }
    replayed.truncated = reader.truncated().is_some();
    for (shard, turned) in waiting {
        // A crash may have come between a message and the end of what its turn decided.
        feed(&mut house, shard, turned, true, &names, &mut replayed);
    }
    Ok(replayed)
}

fn to_json(decision: &Decision) -> String {
    serde_json::to_string(decision).unwrap_or_else(|e| e.to_string())
}

fn feed(house: &mut [Shard], shard: u32, turned: Turned, last: bool, names: &Names, replayed: &mut Replayed) {
    let Some(shard) = house.get_mut(shard as usize) else { return };
    let mut effects = Vec::new();
    let mut past = Past { names, cuts: &turned.cuts, run: 0 };
    shard.turn(turned.at, turned.message, &mut past, &mut effects);
    replayed.messages += 1;
    let now: Vec<String> = effects
        .iter()
        .filter_map(|e| match e {
            Effect::Decision(decision) => Some(to_json(decision)),
            _ => None,
        })
        .collect();
    if replayed.difference.is_none() {
        let known = if last { turned.decisions.len().min(now.len()) } else { now.len() };
        replayed.difference = difference(turned.number, &turned.decisions, &now[..known]);
    }
    replayed.decisions.extend(now);
}

fn difference(number: u64, recorded: &[(u64, String)], now: &[String]) -> Option<(u64, String, String)> {
    for i in 0..recorded.len().max(now.len()) {
        let (line, before) = recorded.get(i).map_or((number, String::new()), |(l, d)| (*l, d.clone()));
        let after = now.get(i).cloned().unwrap_or_default();
        if before != after {
            return Some((line, before, after));
        }
    }
    None
}
