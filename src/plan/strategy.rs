//! Runs strategies: a pure function from a script, an alarm and what is known to actions, needs or an error.
//! It reads no clock and asks nobody: a reading that is not known ends the run, and the caller runs it again when it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rhai::{
    Array, CallFnOptions, Dynamic, Engine, EvalAltResult, FnPtr, ImmutableString, Map, NativeCallContext,
    Position, Scope,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Action, Alarm, MissingReason, Reading, SloState, Timestamp};
use crate::policy::script::{self, Script};

/// The most actions that a strategy may return.
pub const MAX_ACTIONS: usize = 100;

/// The stack that a thread needs to run strategies, in bytes: a script may nest values a thousand levels deep, and rhai
/// compares, prints and drops them by recursion.
pub const STACK_SIZE: usize = 16 << 20;

/// The most reasons, lines of log, and needs that one run keeps; further ones are dropped.
const MAX_NOTES: usize = 100;

/// The longest reason or line of log, in characters; the rest is dropped.
const MAX_NOTE: usize = 1000;

/// How deeply the value of an action may be nested.
const MAX_NESTING: usize = 16;

/// How many members of a family are recorded as readings, the largest first.
const MAX_FAMILY_READS: usize = 10;

/// The deadline is looked at once in this many operations.
const CLOCK_EVERY: u64 = 16;

/// Everything that a strategy can know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// The service whose strategy runs.
    pub service: String,
    /// The time of the turn.
    pub now: Timestamp,
    /// The references of the service, by name.
    pub references: BTreeMap<String, ReferenceView>,
    /// Readings by service and metric; one that is not here is asked for.
    pub readings: BTreeMap<(String, String), Reading>,
    /// The members of the service's metric families (`cpu[cpu0]`), by family: label and value.
    pub families: BTreeMap<String, Vec<(String, f64)>>,
    /// The states of the service's SLOs.
    pub slos: BTreeMap<String, SloState>,
    /// The knowledge of the service (R3-14).
    pub knowledge: BTreeMap<String, Value>,
}

/// A reference as a strategy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReferenceView {
    /// The service that it is bound to.
    pub bound: Option<String>,
    /// The services that it may be bound to.
    pub candidates: Vec<String>,
}

/// How far a run may go.
#[derive(Debug, Clone)]
pub struct RunLimits {
    /// The most operations of rhai.
    pub operations: u64,
    /// The most time.
    pub deadline: Deadline,
}

/// A clock that only goes forward: time since some fixed point. The shell has one; replay has none.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// When a run is cut short. Time differs from run to run, so a cut is recorded ([`Run::cut`]) and repeated by number.
#[derive(Clone)]
pub enum Deadline {
    /// After this time by this clock.
    Within(Duration, Clock),
    /// At exactly this operation, as recorded; `None`: never.
    CutAt(Option<u64>),
}

impl RunLimits {
    /// The most operations of a run unless a policy says otherwise: hundreds of times what a strategy of twenty lines takes.
    pub const OPERATIONS: u64 = 100_000;
    /// The most time of a run in its shard, of the processor: on a busy machine the clock on the wall says little.
    pub const TIME: Duration = Duration::from_millis(10);
    /// The most operations of a run aside.
    pub const OPERATIONS_ASIDE: u64 = script::MAX_OPERATIONS;

    /// The usual limits, by this clock.
    pub fn usual(clock: Clock) -> Self {
        Self { operations: Self::OPERATIONS, deadline: Deadline::Within(Self::TIME, clock) }
    }
}

impl std::fmt::Debug for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Within(time, _) => f.debug_tuple("Within").field(time).finish(),
            Self::CutAt(at) => f.debug_tuple("CutAt").field(at).finish(),
        }
    }
}

/// What came of one run. Equal inputs give equal runs, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// How it ended.
    pub end: End,
    /// Every reading that it asked for and got: `service.metric` → reading. Of a family, the largest ten members.
    pub reads: BTreeMap<String, Reading>,
    /// What it said with `because(…)`, in order.
    pub reasons: Vec<String>,
    /// What it printed, in order.
    pub log: Vec<String>,
    /// How many operations it took.
    pub progress: u64,
    /// The operation at which the deadline cut it; [`Deadline::CutAt`] repeats that.
    pub cut: Option<u64>,
}

impl Run {
    /// A run that could not take place.
    pub fn failed(why: &str) -> Self {
        let message = why.to_string();
        let error = StrategyError { kind: ErrorKind::Runtime, message, line: None, column: None };
        Self {
            end: End::Failed(error),
            reads: BTreeMap::new(),
            reasons: Vec::new(),
            log: Vec::new(),
            progress: 0,
            cut: None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With a list of actions, in order; empty: nothing to do.
    Actions(Vec<Action>),
    /// It needs these readings, each of a service and a metric, and is to be run again when they are known.
    Needs(Vec<(String, String)>),
    /// It failed.
    Failed(StrategyError),
}

/// Why a strategy failed. Running it again on the same knowledge fails again, except for [`ErrorKind::Deadline`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", place(*.line, *.column))]
pub struct StrategyError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What happened.
    pub message: String,
    /// The line of the script, beginning with 1.
    pub line: Option<usize>,
    /// The column, beginning with 1.
    pub column: Option<usize>,
}

fn place(line: Option<usize>, column: Option<usize>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(" (line {line}, column {column})"),
        (Some(line), None) => format!(" (line {line})"),
        _ => String::new(),
    }
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A limit was exceeded: operations, depth, size.
    Limit,
    /// The time was over.
    Deadline,
    /// The script threw an error, or did something that cannot be done.
    Runtime,
    /// It returned something that is no list of actions.
    Result,
}

/// Runs the strategies of one shard: one engine, one run at a time, on a thread with a stack of [`STACK_SIZE`].
pub struct StrategyHost {
    engine: Engine,
    state: Arc<State>,
    running: Mutex<()>,
    nothing: Arc<Known>,
}

impl std::fmt::Debug for StrategyHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StrategyHost").finish_non_exhaustive()
    }
}

impl Default for StrategyHost {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a run is being ended. Kept outside the script's reach, so that no `try` can swallow it.
const GO: u8 = 0;
const NEED: u8 = 1;
const LIMIT: u8 = 2;
const DEADLINE: u8 = 3;

/// What the functions of a run share. What every operation looks at is atomic, though only one thread ever runs.
struct State {
    stop: AtomicU8,
    progress: AtomicU64,
    operations: AtomicU64,
    cut_at: AtomicU64,
    timed: AtomicBool,
    constants: AtomicBool,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    known: Arc<Known>,
    constants: Arc<BTreeMap<String, Dynamic>>,
    clock: Option<(Duration, Clock)>,
    reads: BTreeMap<String, Reading>,
    needs: BTreeSet<(String, String)>,
    listed: BTreeSet<String>,
    reasons: Vec<String>,
    log: Vec<String>,
    cut: Option<u64>,
}

type Fallible<T> = Result<T, Box<EvalAltResult>>;

impl State {
    fn new() -> Self {
        Self {
            stop: AtomicU8::new(GO),
            progress: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            timed: AtomicBool::new(false),
            constants: AtomicBool::new(false),
            turn: Mutex::new(Turn::default()),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, script: &Script, known: Arc<Known>, limits: RunLimits) {
        let (cut_at, clock) = match limits.deadline {
            Deadline::CutAt(at) => (at.unwrap_or(u64::MAX), None),
            Deadline::Within(time, clock) => (u64::MAX, Some((clock().saturating_add(time), clock))),
        };
        self.stop.store(GO, Ordering::Relaxed);
        self.progress.store(0, Ordering::Relaxed);
        self.operations.store(limits.operations, Ordering::Relaxed);
        self.cut_at.store(cut_at, Ordering::Relaxed);
        self.timed.store(clock.is_some(), Ordering::Relaxed);
        self.constants.store(!script.constants.is_empty(), Ordering::Relaxed);
        let mut turn = self.turn();
        turn.known = known;
        turn.constants = script.constants.clone();
        turn.clock = clock;
        // Already empty, unless a run before this one has panicked.
        turn.reads.clear();
        turn.needs.clear();
        turn.listed.clear();
        turn.reasons.clear();
        turn.log.clear();
        turn.cut = None;
    }

    /// Called by rhai at every operation; whether the run is to end.
    fn step(&self) -> bool {
        let n = self.progress.load(Ordering::Relaxed) + 1;
        self.progress.store(n, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) != GO {
            return true;
        }
        if n > self.operations.load(Ordering::Relaxed) {
            self.stop.store(LIMIT, Ordering::Relaxed);
            return true;
        }
        if n >= self.cut_at.load(Ordering::Relaxed) || (n.is_multiple_of(CLOCK_EVERY) && self.is_late()) {
            self.stop.store(DEADLINE, Ordering::Relaxed);
            self.turn().cut = Some(n);
            return true;
        }
        false
    }

    fn is_late(&self) -> bool {
        self.timed.load(Ordering::Relaxed)
            && self.turn().clock.as_ref().is_some_and(|(until, clock)| clock() >= *until)
    }

    /// The value of a constant of the script, for a name that is no variable.
    fn constant(&self, name: &str) -> Option<Dynamic> {
        if self.constants.load(Ordering::Relaxed) { self.turn().constants.get(name).cloned() } else { None }
    }

    /// The reading of a metric of a service or of whatever a reference is bound to; ends the run when it is not known.
    fn read(&self, target: Option<&str>, metric: &str) -> Fallible<Reading> {
        if self.stop.load(Ordering::Relaxed) != GO {
            return ended();
        }
        let mut turn = self.turn();
        let known = turn.known.clone();
        let service = match target.map(|target| (target, known.references.get(target))) {
            None => known.service.as_str(),
            Some((target, None)) => target,
            Some((reference, Some(view))) => match view.bound.as_deref() {
                Some(bound) => bound,
                None => {
                    let reading = Reading::missing(MissingReason::Unbound(reference.to_string()));
                    turn.reads.insert(format!("{reference}.{metric}"), reading.clone());
                    return Ok(reading);
                }
            },
        };
        let key = (service.to_string(), metric.to_string());
        if let Some(reading) = known.readings.get(&key) {
            let name = format!("{service}.{metric}");
            turn.reads.entry(name).or_insert_with(|| reading.clone());
            return Ok(reading.clone());
        }
        if turn.needs.len() < MAX_NOTES {
            turn.need_candidates(service, metric);
            turn.needs.insert(key);
        }
        self.stop.store(NEED, Ordering::Relaxed);
        ended()
    }
}

/// The error that no `try` catches.
fn ended<T>() -> Fallible<T> {
    Err(EvalAltResult::ErrorTerminated(Dynamic::UNIT, Position::NONE).into())
}

impl Turn {
    /// A strategy that has listed the candidates of a reference and asks one of them will ask the others too.
    fn need_candidates(&mut self, service: &str, metric: &str) {
        let Self { known, listed, needs, .. } = self;
        for view in listed.iter().filter_map(|reference| known.references.get(reference)) {
            if view.candidates.iter().any(|candidate| candidate == service) {
                for candidate in &view.candidates {
                    let key = (candidate.clone(), metric.to_string());
                    if needs.len() < MAX_NOTES && !known.readings.contains_key(&key) {
                        needs.insert(key);
                    }
                }
            }
        }
    }

    /// Adds what the script names by literals, so that it is fetched with the rest.
    fn need_literals(&mut self, script: &Script) {
        let known = self.known.clone();
        for (target, metric) in script.literal_readings() {
            let service = match target {
                None => &known.service,
                Some(target) => match known.references.get(target) {
                    None => target,
                    Some(ReferenceView { bound: Some(bound), .. }) => bound,
                    Some(ReferenceView { bound: None, .. }) => continue,
                },
            };
            self.need(service, metric);
        }
    }

    /// Adds what the script will ask of the other services of a reference once it has asked one: the metrics that it names, of the
    /// service that is bound, and of the candidates if it lists them. One question more costs less than one run more.
    fn need_neighbours(&mut self, script: &Script) {
        let known = self.known.clone();
        let asked: BTreeSet<String> = self.needs.iter().map(|(service, _)| service.clone()).collect();
        for (name, view) in &known.references {
            let listed: &[String] = if script.may_list(name) { &view.candidates } else { &[] };
            let services = || view.bound.iter().chain(listed);
            if services().any(|service| asked.contains(service)) {
                for service in services() {
                    for metric in script.loose_metrics() {
                        self.need(service, metric);
                    }
                }
            }
        }
    }

    fn need(&mut self, service: &str, metric: &str) {
        let key = (service.to_string(), metric.to_string());
        if self.needs.len() < MAX_NOTES && !self.known.readings.contains_key(&key) {
            self.needs.insert(key);
        }
    }
}

impl StrategyHost {
    /// A host with an engine of its own.
    pub fn new() -> Self {
        let state = Arc::new(State::new());
        let mut engine = script::engine();
        register_hooks(&mut engine, &state);
        register_readings(&mut engine, &state);
        register_knowledge(&mut engine, &state);
        register_actions(&mut engine);
        register_arrays(&mut engine);
        Self { engine, state, running: Mutex::new(()), nothing: Arc::default() }
    }

    /// Runs `plan(alarm)` of `script` on what is `known`.
    pub fn run(&self, script: &Script, alarm: &Alarm, known: Arc<Known>, limits: RunLimits) -> Run {
        let _one_at_a_time = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let operations = limits.operations;
        self.state.begin(script, known, limits);
        let options = CallFnOptions::new().eval_ast(false);
        let result = self.engine.call_fn_with_options::<Dynamic>(
            options,
            &mut Scope::new(),
            &script.ast,
            "plan",
            (alarm_map(alarm),),
        );
        let stop = self.state.stop.load(Ordering::Relaxed);
        let mut turn = self.state.turn();
        let end = if turn.needs.is_empty() {
            match stop {
                LIMIT => {
                    failed(ErrorKind::Limit, format!("it took more than {operations} operations"), &result)
                }
                DEADLINE => failed(ErrorKind::Deadline, "its time was over".to_string(), &result),
                _ => finish(result, script),
            }
        } else {
            turn.need_literals(script);
            turn.need_neighbours(script);
            End::Needs(std::mem::take(&mut turn.needs).into_iter().collect())
        };
        // What was known is let go; the next run begins with everything empty.
        turn.known = self.nothing.clone();
        turn.clock = None;
        Run {
            end,
            reads: std::mem::take(&mut turn.reads),
            reasons: std::mem::take(&mut turn.reasons),
            log: std::mem::take(&mut turn.log),
            progress: self.state.progress.load(Ordering::Relaxed),
            cut: turn.cut.take(),
        }
    }
}

/// The alarm as a script sees it.
fn alarm_map(alarm: &Alarm) -> Dynamic {
    let values: Map = alarm
        .values
        .iter()
        .map(|(name, reading)| (name.as_str().into(), reading.value().map_or(Dynamic::UNIT, Dynamic::from)))
        .collect();
    let mut map = Map::new();
    let mut put = |key: &str, value: Dynamic| {
        map.insert(key.into(), value);
    };
    put("service", alarm.service.as_str().into());
    put("slo", alarm.slo.as_str().into());
    put("kind", alarm.kind.to_string().into());
    put("severity", alarm.severity.to_string().into());
    put("condition", alarm.condition.as_str().into());
    put("values", values.into());
    put("at", alarm.at.seconds_f64().into());
    map.into()
}

/// The end that a returned value or an error means.
fn finish(result: Fallible<Dynamic>, script: &Script) -> End {
    match result {
        Ok(value) => match actions(value) {
            Ok(actions) => End::Actions(actions),
            Err(message) => failed(ErrorKind::Result, message, &Ok(Dynamic::UNIT)),
        },
        Err(error) => End::Failed(strategy_error(&error, script)),
    }
}

fn failed(kind: ErrorKind, message: String, result: &Fallible<Dynamic>) -> End {
    let position = result.as_ref().err().map_or(Position::NONE, |error| innermost(error).position());
    End::Failed(StrategyError { kind, message, line: position.line(), column: position.position() })
}

fn actions(value: Dynamic) -> Result<Vec<Action>, String> {
    if value.is_unit() {
        return Ok(Vec::new());
    }
    let value = match value.try_cast_result::<Action>() {
        Ok(action) => return Ok(vec![action]),
        Err(value) => value,
    };
    let elements = match value.try_cast_result::<Array>() {
        Ok(elements) => elements,
        Err(value) => {
            return Err(format!(
                "it returned {}; expected an array of actions such as [replace(a, b)], one action, or []",
                describe(&value)
            ));
        }
    };
    if elements.len() > MAX_ACTIONS {
        return Err(format!("it returned {} actions; at most {MAX_ACTIONS} are allowed", elements.len()));
    }
    let action = |(n, element): (usize, Dynamic)| {
        element.try_cast_result::<Action>().map_err(|element| {
            format!("element {n} of the array that it returned is {}; expected an action", describe(&element))
        })
    };
    elements.into_iter().enumerate().map(action).collect()
}

/// A value by its type, and itself when it is short.
fn describe(value: &Dynamic) -> String {
    let name = match value.type_name() {
        "()" => return "()".to_string(),
        "i64" | "f64" => "the number",
        "string" => "the text",
        "bool" => "the boolean",
        "array" => return "an array".to_string(),
        "map" => return "a map".to_string(),
        "Fn" => return "a function".to_string(),
        other => return format!("a value of type {other}"),
    };
    let text: String = value.to_string().chars().take(40).collect();
    format!("{name} `{text}`")
}

fn innermost(error: &EvalAltResult) -> &EvalAltResult {
    match error {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => innermost(inner),
        other => other,
    }
}

/// The functions of the script that an error passed through, the outermost first.
fn path(error: &EvalAltResult) -> Vec<&str> {
    match error {
        EvalAltResult::ErrorInFunctionCall(name, _, inner, _) => {
            let mut names = vec![name.as_str()];
            names.extend(path(inner));
            names
        }
        _ => Vec::new(),
    }
}

fn strategy_error(error: &EvalAltResult, script: &Script) -> StrategyError {
    let inner = innermost(error);
    let kind = match inner {
        EvalAltResult::ErrorTooManyOperations(..)
        | EvalAltResult::ErrorTooManyVariables(..)
        | EvalAltResult::ErrorStackOverflow(..)
        | EvalAltResult::ErrorDataTooLarge(..) => ErrorKind::Limit,
        _ => ErrorKind::Runtime,
    };
    let position = inner.position();
    let mut message = match inner {
        EvalAltResult::ErrorRuntime(value, _) => shorten(&value.to_string()),
        EvalAltResult::ErrorFunctionNotFound(signature, _) => not_found(&shorten(signature)),
        EvalAltResult::ErrorDataRace(..) => {
            "a closure uses the value that it is called on; copy that first, with `let copy = value;`"
                .to_string()
        }
        EvalAltResult::ErrorStackOverflow(_) => "its functions call each other too deeply".to_string(),
        other => {
            let text = other.to_string();
            // rhai writes the position at the end; it is told apart from the message here.
            let end = text.rfind(" (line ").unwrap_or(text.len());
            script::lower(&shorten(&text[..end]))
        }
    };
    // Only functions that the script names: those of closures are made up, and differ from build to build.
    let named =
        |name: &str| !name.starts_with("anon$") && script.ast.iter_functions().any(|f| f.name == name);
    if let Some(name) = path(error).into_iter().rev().find(|name| named(name)) {
        message.push_str(&format!(", in `{name}`"));
    }
    StrategyError { kind, message, line: position.line(), column: position.position() }
}

/// The functions of strategies, for the hint that follows a wrong call.
const FUNCTIONS: &[(&str, &str)] = &[
    ("metric", "metric(name) and metric(service_or_reference, name)"),
    ("reading", "reading(name) and reading(service_or_reference, name)"),
    ("bound", "bound(reference)"),
    ("candidates", "candidates(reference)"),
    ("references", "references()"),
    ("slo", "slo(name)"),
    ("family", "family(metric)"),
    ("recall", "recall(key)"),
    ("because", "because(text)"),
    ("now", "now()"),
    ("min_by", "array.min_by(|element| number)"),
    ("max_by", "array.max_by(|element| number)"),
    ("sum_by", "array.sum_by(|element| number)"),
    ("sort_by", "array.sort_by(|element| number)"),
    ("replace", "replace(from, to)"),
    ("bind", "bind(reference, to) and bind(service, reference, to)"),
    ("unbind", "unbind(reference) and unbind(service, reference)"),
    ("set", "set(property, value) and set(service, property, value)"),
    ("start", "start() and start(service)"),
    ("stop", "stop() and stop(service)"),
    ("restart", "restart() and restart(service)"),
    ("invoke", "invoke(service, method) and invoke(service, method, [parameters])"),
    ("enable_slo", "enable_slo(name) and enable_slo(service, name)"),
    ("disable_slo", "disable_slo(name) and disable_slo(service, name)"),
    ("publish", "publish(metric, number) and publish(service, metric, number)"),
    ("notify", "notify(text) and notify(service, text)"),
    ("remember", "remember(key, value) and remember(service, key, value)"),
    (
        "action",
        "action(name), action(name, #{arguments}), action(service, name) and action(service, name, #{arguments})",
    ),
];

fn not_found(signature: &str) -> String {
    let readable = signature
        .replace("&str | ImmutableString | String", "text")
        .replace("i64", "number")
        .replace("f64", "number");
    let name = signature.split([' ', '(']).next().unwrap_or_default();
    match FUNCTIONS.iter().find(|(known, _)| *known == name) {
        Some((_, usage)) => format!("`{readable}` cannot be called so; there is {usage}"),
        None => format!("there is no function `{readable}`"),
    }
}

/// What is kept of a text for people. rhai's names of closures are left out: they differ from build to build, and a replay must not.
fn shorten(text: &str) -> String {
    let mut parts = text.split("anon$");
    let mut out: String = parts.next().unwrap_or_default().chars().take(MAX_NOTE).collect();
    for part in parts {
        out.push_str("closure");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    out.chars().take(MAX_NOTE).collect()
}

fn fail<T>(message: impl Into<String>) -> Fallible<T> {
    Err(EvalAltResult::ErrorRuntime(message.into().into(), Position::NONE).into())
}

fn register_hooks(engine: &mut Engine, state: &Arc<State>) {
    let shared = state.clone();
    engine.on_progress(move |_| shared.step().then_some(Dynamic::UNIT));
    let shared = state.clone();
    engine.on_print(move |text| shared.turn().note(text));
    let shared = state.clone();
    engine.on_debug(move |text, _, _| shared.turn().note(text));
    let shared = state.clone();
    #[expect(
        deprecated,
        reason = "the one way to let functions see the constants of their script; rhai's version is pinned"
    )]
    engine.on_var(move |name, index, context| {
        // An index is a variable of the function itself; without one, it may still be one that a closure has captured.
        if index > 0 || context.scope().contains(name) {
            return Ok(None);
        }
        Ok(shared.constant(name))
    });
}

impl Turn {
    fn note(&mut self, text: &str) {
        if self.log.len() < MAX_NOTES {
            self.log.push(shorten(text));
        }
    }
}

/// `metric`, `reading` and `family`.
fn register_readings(engine: &mut Engine, state: &Arc<State>) {
    let value = |state: &State, target: Option<&str>, metric: &str| match state.read(target, metric)? {
        Reading::Missing { reason } => {
            let service = target.map_or_else(|| state.turn().known.service.clone(), str::to_string);
            fail(format!("`{service}.{metric}` is missing: {reason}"))
        }
        Reading::Fresh { value, .. } | Reading::Stale { value, .. } => Ok(value),
    };
    let shared = state.clone();
    engine.register_fn("metric", move |metric: &str| value(&shared, None, metric));
    let shared = state.clone();
    engine.register_fn("metric", move |target: &str, metric: &str| value(&shared, Some(target), metric));

    let shared = state.clone();
    engine.register_fn("reading", move |metric: &str| reading_map(&shared, None, metric));
    let shared = state.clone();
    engine
        .register_fn("reading", move |target: &str, metric: &str| reading_map(&shared, Some(target), metric));

    let shared = state.clone();
    engine.register_fn("family", move |metric: &str| family(&mut shared.turn(), metric));
}

fn reading_map(state: &State, target: Option<&str>, metric: &str) -> Fallible<Map> {
    let reading = state.read(target, metric)?;
    let now = state.turn().known.now;
    let (name, reason) = match &reading {
        Reading::Fresh { .. } => ("fresh", Dynamic::UNIT),
        Reading::Stale { .. } => ("stale", Dynamic::UNIT),
        Reading::Missing { reason } => ("missing", reason.to_string().into()),
    };
    let age = reading.age(now).map_or(Dynamic::UNIT, |age| age.as_secs_f64().into());
    Ok(Map::from([
        ("state".into(), name.into()),
        ("value".into(), reading.value().map_or(Dynamic::UNIT, Dynamic::from)),
        ("age".into(), age),
        ("reason".into(), reason),
    ]))
}

fn family(turn: &mut Turn, metric: &str) -> Array {
    let known = turn.known.clone();
    let mut members: Vec<&(String, f64)> = known.families.get(metric).into_iter().flatten().collect();
    members.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    for (label, value) in members.iter().take(MAX_FAMILY_READS) {
        let name = format!("{}.{metric}[{label}]", known.service);
        turn.reads.insert(name, Reading::Fresh { value: *value, at: known.now });
    }
    let member = |(label, value): &(String, f64)| {
        Dynamic::from(Map::from([
            ("label".into(), label.as_str().into()),
            ("value".into(), Dynamic::from(*value)),
        ]))
    };
    members.into_iter().map(member).collect()
}

/// `bound`, `candidates`, `references`, `slo`, `recall`, `because` and `now`.
fn register_knowledge(engine: &mut Engine, state: &Arc<State>) {
    let shared = state.clone();
    engine.register_fn("bound", move |reference: &str| -> Fallible<Dynamic> {
        let known = shared.turn().known.clone();
        let view = reference_of(&known, reference)?;
        Ok(view.bound.as_deref().map_or(Dynamic::UNIT, Into::into))
    });
    let shared = state.clone();
    engine.register_fn("candidates", move |reference: &str| -> Fallible<Array> {
        let mut turn = shared.turn();
        let known = turn.known.clone();
        let view = reference_of(&known, reference)?;
        turn.listed.insert(reference.to_string());
        Ok(view.candidates.iter().map(|c| c.as_str().into()).collect())
    });
    let shared = state.clone();
    engine.register_fn("references", move || -> Array {
        shared.turn().known.references.keys().map(|name| name.as_str().into()).collect()
    });
    let shared = state.clone();
    engine.register_fn("slo", move |name: &str| -> Fallible<ImmutableString> {
        let known = shared.turn().known.clone();
        match known.slos.get(name) {
            Some(state) => Ok(state.to_string().into()),
            None => fail(format!("there is no SLO `{name}`; there is {}", listing(known.slos.keys()))),
        }
    });
    let shared = state.clone();
    engine.register_fn("recall", move |key: &str| -> Dynamic {
        let known = shared.turn().known.clone();
        known.knowledge.get(key).map_or(Dynamic::UNIT, from_json)
    });
    let shared = state.clone();
    engine.register_fn("because", move |text: &str| {
        let mut turn = shared.turn();
        if turn.reasons.len() < MAX_NOTES {
            turn.reasons.push(shorten(text));
        }
    });
    let shared = state.clone();
    engine.register_fn("now", move || shared.turn().known.now.seconds_f64());
}

fn reference_of<'a>(known: &'a Known, name: &str) -> Fallible<&'a ReferenceView> {
    match known.references.get(name) {
        Some(view) => Ok(view),
        None => {
            fail(format!("there is no reference `{name}`; there is {}", listing(known.references.keys())))
        }
    }
}

fn listing<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}

/// A number, whichever of rhai's two kinds it is.
fn number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|n| n as f64))
}

fn finite(value: &Dynamic, what: &str) -> Fallible<f64> {
    match number(value).filter(|n| n.is_finite()) {
        Some(n) => Ok(n),
        None => fail(format!("{what} is {}; expected a finite number", describe(value))),
    }
}

/// The functions that make actions.
fn register_actions(engine: &mut Engine) {
    engine.register_type_with_name::<Action>("Action");
    engine.register_fn("to_string", |action: &mut Action| action.to_string());
    engine.register_fn("to_debug", |action: &mut Action| action.to_string());
    engine.register_fn("==", |a: Action, b: Action| a == b);
    engine.register_fn("!=", |a: Action, b: Action| a != b);

    engine.register_fn("replace", |from: &str, to: &str| Action::Replace {
        service: None,
        from: from.into(),
        to: to.into(),
    });
    engine.register_fn("bind", |reference: &str, to: &str| bind(None, reference, to));
    engine.register_fn("bind", |service: &str, reference: &str, to: &str| bind(Some(service), reference, to));
    engine.register_fn("unbind", |reference: &str| unbind(None, reference));
    engine.register_fn("unbind", |service: &str, reference: &str| unbind(Some(service), reference));
    engine.register_fn("set", |property: &str, value: Dynamic| set(None, property, &value));
    engine.register_fn("set", |service: &str, property: &str, value: Dynamic| {
        set(Some(service), property, &value)
    });
    register_life_cycle(engine);
    engine.register_fn("invoke", |service: &str, method: &str| invoke(service, method, &Array::new()));
    engine
        .register_fn("invoke", |service: &str, method: &str, params: Array| invoke(service, method, &params));
    engine.register_fn("enable_slo", |slo: &str| Action::EnableSlo { service: None, slo: slo.into() });
    engine.register_fn("enable_slo", |service: &str, slo: &str| Action::EnableSlo {
        service: Some(service.into()),
        slo: slo.into(),
    });
    engine.register_fn("disable_slo", |slo: &str| Action::DisableSlo { service: None, slo: slo.into() });
    engine.register_fn("disable_slo", |service: &str, slo: &str| Action::DisableSlo {
        service: Some(service.into()),
        slo: slo.into(),
    });
    engine.register_fn("publish", |metric: &str, value: Dynamic| publish(None, metric, &value));
    engine.register_fn("publish", |service: &str, metric: &str, value: Dynamic| {
        publish(Some(service), metric, &value)
    });
    engine.register_fn("notify", |text: &str| Action::Notify { service: None, text: text.into() });
    engine.register_fn("notify", |service: &str, text: &str| Action::Notify {
        service: Some(service.into()),
        text: text.into(),
    });
    engine.register_fn("remember", |key: &str, value: Dynamic| remember(None, key, &value));
    engine.register_fn("remember", |service: &str, key: &str, value: Dynamic| {
        remember(Some(service), key, &value)
    });
    engine.register_fn("action", |name: &str| custom(None, name, &Map::new()));
    engine.register_fn("action", |service: &str, name: &str| custom(Some(service), name, &Map::new()));
    engine.register_fn("action", |name: &str, args: Map| custom(None, name, &args));
    engine.register_fn("action", |service: &str, name: &str, args: Map| custom(Some(service), name, &args));
}

fn register_life_cycle(engine: &mut Engine) {
    engine.register_fn("start", || Action::Start { service: None });
    engine.register_fn("start", |service: &str| Action::Start { service: Some(service.into()) });
    engine.register_fn("stop", || Action::Stop { service: None });
    engine.register_fn("stop", |service: &str| Action::Stop { service: Some(service.into()) });
    engine.register_fn("restart", || Action::Restart { service: None });
    engine.register_fn("restart", |service: &str| Action::Restart { service: Some(service.into()) });
}

fn bind(service: Option<&str>, reference: &str, to: &str) -> Action {
    Action::Bind { service: service.map(Into::into), reference: reference.into(), to: to.into() }
}

fn unbind(service: Option<&str>, reference: &str) -> Action {
    Action::Unbind { service: service.map(Into::into), reference: reference.into() }
}

fn set(service: Option<&str>, property: &str, value: &Dynamic) -> Fallible<Action> {
    let value = to_json(value, property)?;
    Ok(Action::Set { service: service.map(Into::into), property: property.into(), value })
}

fn invoke(service: &str, method: &str, params: &Array) -> Fallible<Action> {
    let params = params.iter().map(|value| to_json(value, method)).collect::<Fallible<_>>()?;
    Ok(Action::Invoke { service: Some(service.into()), method: method.into(), params })
}

fn publish(service: Option<&str>, metric: &str, value: &Dynamic) -> Fallible<Action> {
    let value = finite(value, &format!("the value of `{metric}`"))?;
    Ok(Action::Publish { service: service.map(Into::into), metric: metric.into(), value })
}

fn remember(service: Option<&str>, key: &str, value: &Dynamic) -> Fallible<Action> {
    let value = to_json(value, key)?;
    Ok(Action::Remember { service: service.map(Into::into), key: key.into(), value })
}

fn custom(service: Option<&str>, name: &str, args: &Map) -> Fallible<Action> {
    let args = args
        .iter()
        .map(|(key, value)| Ok((key.to_string(), to_json(value, key)?)))
        .collect::<Fallible<_>>()?;
    Ok(Action::Custom { service: service.map(Into::into), name: name.into(), args })
}

/// A value of a script as JSON; `what` names it in errors.
fn to_json(value: &Dynamic, what: &str) -> Fallible<Value> {
    nested_json(value, what, MAX_NESTING)
}

fn nested_json(value: &Dynamic, what: &str, depth: usize) -> Fallible<Value> {
    let Some(depth) = depth.checked_sub(1) else {
        return fail(format!("`{what}` is nested more than {MAX_NESTING} levels deep"));
    };
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(b) = value.as_bool() {
        return Ok(b.into());
    }
    if let Ok(n) = value.as_int() {
        return Ok(n.into());
    }
    if value.as_float().is_ok() {
        return Ok(finite(value, &format!("`{what}`"))?.into());
    }
    if let Ok(c) = value.as_char() {
        return Ok(c.to_string().into());
    }
    if let Some(text) = value.read_lock::<ImmutableString>() {
        return Ok(text.as_str().into());
    }
    if let Some(array) = value.read_lock::<Array>() {
        return array
            .iter()
            .map(|element| nested_json(element, what, depth))
            .collect::<Fallible<Vec<_>>>()
            .map(Into::into);
    }
    if let Some(map) = value.read_lock::<Map>() {
        let entry = |(key, value): (&rhai::Identifier, &Dynamic)| {
            Ok((key.to_string(), nested_json(value, key, depth)?))
        };
        return map.iter().map(entry).collect::<Fallible<serde_json::Map<_, _>>>().map(Value::Object);
    }
    fail(format!("`{what}` is {}, which is no plain value", describe(value)))
}

/// JSON as a value of a script.
fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(n) => n.into(),
            None => n.as_f64().map_or(Dynamic::UNIT, Into::into),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(elements) => elements.iter().map(from_json).collect::<Array>().into(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.as_str().into(), from_json(value))).collect::<Map>().into()
        }
    }
}

/// `min_by`, `max_by`, `sum_by` and `sort_by`. The array is taken by value, so that a closure may use it too.
fn register_arrays(engine: &mut Engine) {
    engine.register_fn("min_by", |context: NativeCallContext, array: Array, key: FnPtr| {
        extreme(&context, array, &key, |new, best| new < best)
    });
    engine.register_fn("max_by", |context: NativeCallContext, array: Array, key: FnPtr| {
        extreme(&context, array, &key, |new, best| new > best)
    });
    engine.register_fn("sum_by", |context: NativeCallContext, array: Array, key: FnPtr| -> Fallible<f64> {
        keys(&context, &array, &key).map(|keys| keys.iter().sum())
    });
    for name in ["sort", "sort_by"] {
        engine.register_fn(
            name,
            |context: NativeCallContext, array: &mut Array, order: FnPtr| -> Fallible<Array> {
                *array = sorted(&context, array.clone(), &order)?;
                Ok(array.clone())
            },
        );
    }
    for name in ["order", "order_by"] {
        engine.register_fn(
            name,
            |context: NativeCallContext, array: Array, order: FnPtr| -> Fallible<Array> {
                sorted(&context, array, &order)
            },
        );
    }
}

/// The key of every element.
fn keys(context: &NativeCallContext, array: &Array, key: &FnPtr) -> Fallible<Vec<f64>> {
    let one = |element: &Dynamic| {
        let value = key.call_within_context::<Dynamic>(context, (element.clone(),))?;
        finite(&value, &format!("the key of {}", describe(element)))
    };
    array.iter().map(one).collect()
}

/// The first element whose key none other beats; `()` for an empty array.
fn extreme(
    context: &NativeCallContext,
    array: Array,
    key: &FnPtr,
    beats: fn(f64, f64) -> bool,
) -> Fallible<Dynamic> {
    let keys = keys(context, &array, key)?;
    let best = keys.iter().enumerate().reduce(|best, new| if beats(*new.1, *best.1) { new } else { best });
    let index = best.map(|(index, _)| index);
    Ok(index.and_then(|index| array.into_iter().nth(index)).unwrap_or(Dynamic::UNIT))
}

/// The elements in the order of their keys, or, when `order` takes two elements, in the order that it says.
fn sorted(context: &NativeCallContext, array: Array, order: &FnPtr) -> Fallible<Array> {
    let parameters = order.curry().len();
    let compares = context
        .iter_namespaces()
        .any(|module| module.get_script_fn(order.fn_name(), parameters + 2).is_some());
    if !compares {
        let keys = keys(context, &array, order)?;
        let mut pairs: Vec<(f64, Dynamic)> = keys.into_iter().zip(array).collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        return Ok(pairs.into_iter().map(|(_, element)| element).collect());
    }
    // Binary insertion: any comparator, however inconsistent, yields some order, and its errors are not swallowed.
    let mut out = Array::with_capacity(array.len());
    for element in array {
        let (mut low, mut high) = (0, out.len());
        while low < high {
            let middle = (low + high) / 2;
            if goes_before(context, order, &element, &out[middle])? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        out.insert(low, element);
    }
    Ok(out)
}

fn goes_before(context: &NativeCallContext, order: &FnPtr, a: &Dynamic, b: &Dynamic) -> Fallible<bool> {
    let answer = order.call_within_context::<Dynamic>(context, (a.clone(), b.clone()))?;
    if let Ok(before) = answer.as_bool() {
        return Ok(before);
    }
    Ok(finite(&answer, "the answer of the comparison")? < 0.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{AlarmKind, Severity};

    const NOW: Timestamp = Timestamp(1_000_000_000);

    /// The strategy of `policies/shop`.
    const CHEAPEST: &str = r#"
        fn plan(alarm) {
            let now = bound("payment");
            let best = candidates("payment").min_by(|c| metric(c, "cost"));
            if metric(best, "cost") < metric(now, "cost") {
                because(`${best} is cheaper than ${now}`);
                [replace(now, best)]
            } else {
                []
            }
        }"#;

    /// Scripts that would never end, or would fill the memory.
    const ENDLESS: &[&str] = &[
        "loop { }",
        "while true { let x = 1; }",
        "let x = 0; do { x += 1; } while true",
        "for i in 0..1000000000 { print(i); }",
        "let s = \"x\"; loop { s += s; }",
        "let s = \"x\"; s.pad(1000000, 'x'); s",
        "let s = \"\"; for i in 0..100000 { s += \"xxxxxxxxxx\"; }",
        "let a = []; loop { a.push(1); }",
        "let a = [1]; loop { a += a; }",
        "let a = []; a.pad(1000000000, 0);",
        "let a = [0]; loop { a = [a, a]; }",
        "let m = #{}; for i in 0..100000 { m[`k${i}`] = i; }",
        "let m = #{}; loop { m = #{a: m, b: m}; }",
        "let b = blob(1000000000);",
        "let b = blob(10); loop { b += b; }",
        "let a = []; for i in 0..999 { a.push(\"x\"); } loop { a.reverse(); a.sort(); a.index_of(\"y\"); }",
        "let a = []; for i in 0..900 { a.push(i); } loop { a.sort(|x, y| 1); }",
        "let a = []; for i in 0..900 { a.push(i); } loop { a.sort_by(|x| x); }",
        "let a = []; for i in 0..900 { a.push(i); } loop { a.map(|x| x).filter(|x| true).reduce(|s, x| s + x, 0); }",
        "let s = `${alarm}`; loop { s = `${s}${s}`; }",
        "let f = || 1; loop { f = f.curry(1); }",
        "loop { because(\"x\"); print(\"x\"); debug(1); }",
        "let s = \"a\"; for i in 0..11 { s += s; } loop { s.replace(\"a\", \"bb\"); }",
        "let s = \"a\"; for i in 0..11 { s += s; } loop { s.split(\"\"); }",
    ];

    fn script(source: &str) -> Script {
        Script::compile("test.rhai", source).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn plan(body: &str) -> Script {
        script(&format!("fn plan(alarm) {{ {body} }}"))
    }

    fn alarm() -> Alarm {
        Alarm {
            service: "A".into(),
            slo: "cheap".into(),
            kind: AlarmKind::Violation,
            severity: Severity::Major,
            condition: "cost >= 30".into(),
            values: BTreeMap::from([
                ("cost".into(), Reading::Fresh { value: 38.0, at: NOW }),
                ("p99".into(), Reading::missing(MissingReason::NoSample)),
            ]),
            at: NOW,
        }
    }

    fn limits() -> RunLimits {
        RunLimits { operations: 30_000, deadline: Deadline::CutAt(None) }
    }

    fn known(readings: &[(&str, &str, f64)]) -> Known {
        Known {
            service: "A".into(),
            now: NOW,
            references: BTreeMap::from([
                (
                    "payment".into(),
                    ReferenceView { bound: Some("C1".into()), candidates: vec!["C1".into(), "C2".into()] },
                ),
                ("spare".into(), ReferenceView::default()),
            ]),
            readings: readings
                .iter()
                .map(|(s, m, v)| (((*s).into(), (*m).into()), Reading::Fresh { value: *v, at: NOW }))
                .collect(),
            families: BTreeMap::from([(
                "rss".into(),
                vec![("a".into(), 1.0), ("big".into(), 9.0), ("b".into(), 5.0)],
            )]),
            slos: BTreeMap::from([("cheap".into(), SloState::Violated)]),
            knowledge: BTreeMap::from([("last".into(), serde_json::json!({"who": "C1", "n": [1, 2.5]}))]),
        }
    }

    fn run_on(script: &Script, known: Known) -> Run {
        StrategyHost::new().run(script, &alarm(), Arc::new(known), limits())
    }

    fn run(body: &str) -> Run {
        run_on(&plan(body), known(&[("A", "cost", 38.0), ("C1", "cost", 20.0), ("C2", "cost", 5.0)]))
    }

    fn result(body: &str) -> Vec<String> {
        match run(body).end {
            End::Actions(actions) => actions.iter().map(ToString::to_string).collect(),
            other => panic!("{body}: {other:?}"),
        }
    }

    fn error(body: &str) -> StrategyError {
        match run(body).end {
            End::Failed(error) => error,
            other => panic!("{body}: {other:?}"),
        }
    }

    /// The value of an expression of a script, as text.
    fn eval(body: &str) -> String {
        let run = run(&format!("print({{ {body} }}); []"));
        assert_eq!(run.end, End::Actions(vec![]), "{body}");
        run.log.join("\n")
    }

    fn pairs(needs: &[(&str, &str)]) -> End {
        End::Needs(needs.iter().map(|(s, m)| ((*s).to_string(), (*m).to_string())).collect())
    }

    #[test]
    fn a_host_can_move_between_threads() {
        fn sends<T: Send + Sync>() {}
        sends::<StrategyHost>();
        sends::<Script>();
    }

    /// Requirement: R3-52
    #[test]
    fn the_cheapest_provider_replaces_the_bound_one_once_the_costs_are_known() {
        let host = StrategyHost::new();
        let script = script(CHEAPEST);
        let run = |known| host.run(&script, &alarm(), Arc::new(known), limits());
        // Nothing is known: the cost of every candidate is asked for at once, also of C2, which is not bound.
        assert_eq!(run(known(&[])).end, pairs(&[("C1", "cost"), ("C2", "cost")]));
        let done = run(known(&[("C1", "cost", 20.0), ("C2", "cost", 5.0)]));
        assert_eq!(
            done.end,
            End::Actions(vec![Action::Replace { service: None, from: "C1".into(), to: "C2".into() }])
        );
        assert_eq!(done.reasons, ["C2 is cheaper than C1"]);
        assert_eq!(done.reads.keys().collect::<Vec<_>>(), ["C1.cost", "C2.cost"]);
        // The fix point: with C2 bound there is nothing to do.
        let mut after = known(&[("C1", "cost", 20.0), ("C2", "cost", 5.0)]);
        after.references.get_mut("payment").unwrap().bound = Some("C2".into());
        assert_eq!(run(after).end, End::Actions(vec![]));
    }

    /// Requirement: R3-52
    #[test]
    fn readings_named_by_literals_are_needed_together() {
        let script =
            plan(r#"if metric("B", "cost") > 3 { metric("payment", "cost") + metric("C2", "cost") } []"#);
        assert_eq!(run_on(&script, known(&[])).end, pairs(&[("B", "cost"), ("C1", "cost"), ("C2", "cost")]));
    }

    /// Requirement: R3-56
    #[test]
    fn a_strategy_reads_and_cannot_change_what_is_known() {
        let before = known(&[("C1", "cost", 20.0)]);
        let shared = Arc::new(before.clone());
        let script = plan(
            r#"let r = reading("C1", "cost"); r.value = 0.0; let l = candidates("payment"); l.push("C9");
               let k = recall("last"); k.who = "me"; alarm.values.cost = 1.0; publish("cost", 1); remember("last", 1);
               [] "#,
        );
        let run = StrategyHost::new().run(&script, &alarm(), shared.clone(), limits());
        assert_eq!(run.end, End::Actions(vec![]));
        assert_eq!(*shared, before);
    }

    #[test]
    fn what_is_known_reaches_the_script() {
        assert_eq!(eval(r#"metric("cost") + metric("payment", "cost") + metric("C2", "cost")"#), "63.0");
        assert_eq!(eval(r#"let r = reading("cost"); `${r.state} ${r.value} ${r.age}`"#), "fresh 38.0 0.0");
        assert_eq!(
            eval(r#"let r = reading("spare", "cost"); `${r.state} ${r.value} ${r.reason}`"#),
            "missing  reference `spare` is unbound"
        );
        assert_eq!(
            eval(r#"bound("payment") + (bound("spare") == ()) + references()"#),
            r#"C1true["payment", "spare"]"#
        );
        assert_eq!(eval(r#"slo("cheap")"#), "violated");
        assert_eq!(eval(r#"family("rss").map(|m| m.label + m.value)"#), r#"["big9.0", "b5.0", "a1.0"]"#);
        assert_eq!(eval(r#"family("none").len()"#), "0");
        assert_eq!(
            eval(r#"recall("last").who + recall("last").n + (recall("none") == ())"#),
            "C1[1, 2.5]true"
        );
        assert_eq!(eval("now()"), "1000.0");
        assert_eq!(
            eval(
                "`${alarm.service} ${alarm.slo} ${alarm.kind} ${alarm.severity} ${alarm.condition} ${alarm.values.cost} ${alarm.values.p99 == ()} ${alarm.at}`"
            ),
            "A cheap violation major cost >= 30 38.0 true 1000.0"
        );
        assert_eq!(run(r#"family("rss"); []"#).reads.len(), 3);
    }

    #[test]
    fn a_missing_reading_is_an_error_that_names_it_and_a_script_may_catch_it() {
        let mut known = known(&[]);
        known.readings.insert(("B".into(), "cost".into()), Reading::missing(MissingReason::NoSample));
        let end = run_on(&plan("\nmetric(\"B\", \"cost\")"), known.clone()).end;
        let End::Failed(e) = end else { panic!("{end:?}") };
        assert_eq!(e.to_string(), "`B.cost` is missing: no sample yet (line 2, column 1)");
        assert_eq!(e.kind, ErrorKind::Runtime);
        let caught = plan(r#"try { metric("B", "cost") } catch (e) { return notify(e); } []"#);
        let run = run_on(&caught, known);
        assert!(matches!(run.end, End::Actions(a) if a.len() == 1));
        assert!(run.reads.contains_key("B.cost"));
    }

    #[test]
    fn a_stale_reading_is_a_value() {
        let mut known = known(&[]);
        known.readings.insert(
            ("B".into(), "cost".into()),
            Reading::Stale { value: 4.0, at: NOW.before(Duration::from_secs(90)) },
        );
        let run = run_on(
            &plan(r#"let r = reading("B", "cost"); print(`${metric("B", "cost")} ${r.state} ${r.age}`); []"#),
            known,
        );
        assert_eq!(run.log, ["4.0 stale 90.0"]);
    }

    /// Requirement: R3-10
    /// Requirement: R3-55
    #[test]
    fn every_action_has_its_constructor() {
        let cases = [
            (r#"replace("C1", "C2")"#, "replace(C1, C2)"),
            (r#"bind("payment", "C2")"#, "bind(payment, C2)"),
            (r#"bind("B", "payment", "C2")"#, "bind(B, payment, C2)"),
            (r#"unbind("payment")"#, "unbind(payment)"),
            (r#"unbind("B", "b1")"#, "unbind(B, b1)"),
            (r#"set("threads", 10)"#, "set(threads, 10)"),
            (r#"set("C2", "threads", 10)"#, "set(C2, threads, 10)"),
            (r#"set("C2", "mode", "slow")"#, "set(C2, mode, slow)"),
            (r#"set("ratio", 0.5)"#, "set(ratio, 0.5)"),
            (r#"set("list", [1, "a", #{x: ()}, true, 'c'])"#, r#"set(list, [1,"a",{"x":null},true,"c"])"#),
            (r#"start()"#, "start()"),
            (r#"start("B")"#, "start(B)"),
            (r#"stop()"#, "stop()"),
            (r#"stop("B")"#, "stop(B)"),
            (r#"restart()"#, "restart()"),
            (r#"restart("B")"#, "restart(B)"),
            (r#"invoke("B", "flush", [1, 2])"#, "invoke(B, flush, 1, 2)"),
            (r#"invoke("B", "flush")"#, "invoke(B, flush)"),
            (r#"enable_slo("cheap")"#, "enable_slo(cheap)"),
            (r#"disable_slo("B", "fast")"#, "disable_slo(B, fast)"),
            (r#"publish("cost", 3)"#, "publish(cost, 3)"),
            (r#"publish("B", "cost", 2.5)"#, "publish(B, cost, 2.5)"),
            (r#"notify("help")"#, "notify(help)"),
            (r#"remember("k", 1)"#, "remember(k, 1)"),
            (r#"action("drain", #{wait: 3})"#, "drain(wait: 3)"),
            (r#"action("B", "drain", #{wait: 3})"#, "drain(B, wait: 3)"),
            (r#"action("drain")"#, "drain()"),
        ];
        for (body, text) in cases {
            assert_eq!(result(body), [text], "{body}");
            assert_eq!(eval(body), text, "{body} prints");
        }
        assert_eq!(
            result(r#"[replace("C1", "C2"), unbind("B", "b1"), set("C2", "threads", 10)]"#),
            ["replace(C1, C2)", "unbind(B, b1)", "set(C2, threads, 10)"]
        );
    }

    #[test]
    fn texts_keep_their_own_functions() {
        assert_eq!(eval(r#"let s = "a-b"; s.replace("-", "+"); s"#), "a+b");
        assert_eq!(eval(r#"let a = [1, 2]; a.set(0, 5); a"#), "[5, 2]");
    }

    #[test]
    fn nothing_to_do_has_three_spellings() {
        for body in ["[]", "()", "", "let x = 1;", "return;"] {
            assert!(result(body).is_empty(), "{body}");
        }
    }

    #[test]
    fn anything_but_actions_is_an_error_that_names_it() {
        assert!(error("3").message.contains("the number `3`"));
        assert!(error("\"replace\"").message.contains("the text `replace`"));
        assert!(error("#{a: 1}").message.contains("a map"));
        assert!(
            error("[start(), 3.5]")
                .message
                .contains("element 1 of the array that it returned is the number `3.5`")
        );
        assert!(error("[[start()]]").message.contains("element 0"));
        let e = error("let a = []; for i in 0..101 { a.push(start()); } a");
        assert_eq!((e.kind, e.message.contains("101")), (ErrorKind::Result, true));
    }

    #[test]
    fn arrays_are_ordered_by_keys_or_by_comparison() {
        assert_eq!(eval("[3, 1, 2].min_by(|x| x)"), "1");
        assert_eq!(eval("[3, 1, 2].max_by(|x| x * 1.0)"), "3");
        assert_eq!(eval("[3, 1, 2].sum_by(|x| x)"), "6.0");
        assert_eq!(eval("[].min_by(|x| x) == ()"), "true");
        assert_eq!(eval(r#"["b", "a"].min_by(|x| 1)"#), "b");
        assert_eq!(eval("[3, 1, 2].sort_by(|x| -x)"), "[3, 2, 1]");
        assert_eq!(eval("let a = [3, 1, 2]; a.sort_by(|x| x); a"), "[1, 2, 3]");
        assert_eq!(eval("[3, 1, 2, 5, 4].sort(|a, b| b - a)"), "[5, 4, 3, 2, 1]");
        assert_eq!(eval("[3, 1, 2].sort_by(|a, b| a < b)"), "[1, 2, 3]");
        assert_eq!(eval("let k = 2; [3, 1, 2].sort_by(|a, b| (a - b) * k)"), "[1, 2, 3]");
        assert_eq!(eval("let a = [3, 1]; a.sort(); a"), "[1, 3]");
        assert_eq!(eval("let a = [3, 1]; a.order_by(|x| x) + a"), "[1, 3, 3, 1]");
        assert_eq!(eval("const A = [3, 1]; A.order(|x, y| x < y)"), "[1, 3]");
        assert!(error("let a = [3, 1]; a.min_by(|x| x * a.len())").message.contains("copy that first"));
        assert!(error("let a = [3, 1]; a.sort_by(|x| x * a.len())").message.contains("copy that first"));
        assert!(
            error(r#"[1].min_by(|x| "a")"#).message.contains("the key of the number `1` is the text `a`")
        );
        assert!(error(r#"[2, 1].sort(|a, b| throw "no")"#).message.contains("no"));
        assert!(matches!(run(r#"[2, 1].sort(|a, b| metric("Z", "x")); []"#).end, End::Needs(_)));
    }

    #[test]
    fn constants_are_seen_by_every_function_and_closure() {
        let source = r#"
            const LIMIT = 5;
            const NAMES = ["C1", "C2"];
            fn above(x) { x > LIMIT }
            fn shadow(LIMIT) { LIMIT + 1 }
            fn plan(alarm) {
                let few = [1, 6, 7].filter(|x| x > LIMIT);
                let deep = [1, 6].filter(|x| [x].filter(|y| y > LIMIT).len() > 0);
                for LIMIT in 0..1 { print(LIMIT); }
                print(`${few} ${deep} ${above(6)} ${shadow(1)} ${LIMIT} ${NAMES.len()}`);
                let LIMIT = 9;
                print(LIMIT);
                []
            }"#;
        let run = run_on(&script(source), known(&[]));
        assert_eq!(
            (run.end, run.log),
            (End::Actions(vec![]), vec!["0".into(), "[6, 7] [6] true 2 5 2".into(), "9".into()])
        );
        let end = run_on(&script("const A = 1; fn plan(alarm) { A = 2; [] }"), known(&[])).end;
        assert!(matches!(&end, End::Failed(e) if e.message.contains('A')), "{end:?}");
    }

    #[test]
    fn errors_say_where_and_what_would_be_right() {
        let e = error("replace(3, \"C2\")");
        assert_eq!(e.message, "`replace (number, text)` cannot be called so; there is replace(from, to)");
        assert_eq!((e.line, e.column), (Some(1), Some(18)));
        assert!(error("metric((), \"x\")").message.contains("there is metric(name)"));
        assert!(error("fancy(1)").message.contains("there is no function `fancy (number)`"));
        assert!(
            error("bound(\"pay\")")
                .message
                .contains("there is no reference `pay`; there is `payment`, `spare`")
        );
        assert!(error("slo(\"x\")").message.contains("there is `cheap`"));
        assert!(error("set(\"x\", 0.0 / 0.0)").message.contains("finite"));
        assert!(error("publish(\"x\", \"y\")").message.contains("finite number"));
        assert!(error("remember(\"x\", || 1)").message.contains("no plain value"));
        assert!(error("let a = []; for i in 0..20 { a = [a]; } set(\"x\", a)").message.contains("16 levels"));
        assert!(
            error("let a = #{}; for i in 0..20 { a = #{a: a}; } remember(\"x\", a)")
                .message
                .contains("16 levels")
        );
        assert!(error("let a = []; a.pad(900, \"long\"); throw a").message.len() <= MAX_NOTE);
        assert!(error("let f = |x| x; f.call(1, 2, 3)").message.contains("closure"));
        assert_eq!(eval("|x| x"), "Fn(closure)");
        assert!(error("throw \"enough\"").message.contains("enough"));
        assert!(error("1 / 0").message.to_lowercase().contains("zero"), "{:?}", error("1 / 0"));
        let e = run_on(
            &script("fn helper(x) { [x].map(|y| y.nothing()) }\nfn plan(alarm) { helper(1) }"),
            known(&[]),
        )
        .end;
        let End::Failed(e) = e else { panic!("{e:?}") };
        assert!(e.message.ends_with(", in `helper`") && !e.message.contains("anon"), "{e:?}");
        assert_eq!(e.line, Some(1));
    }

    /// Requirement: R3-56
    #[test]
    fn no_try_swallows_a_need_or_a_limit() {
        let needs = pairs(&[("Z", "x")]);
        for body in [
            r#"try { metric("Z", "x") } catch { } [start()]"#,
            r#"try { [1].map(|c| metric("Z", "x")) } catch { } [start()]"#,
            r#"try { [1, 2].min_by(|c| metric("Z", "x")) } catch { } [start()]"#,
            r#"let f = Fn("metric"); try { f.call("Z", "x") } catch { } [start()]"#,
            r#"loop { try { metric("Z", "x") } catch { } }"#,
            r#"[1, 2].sort(|a, b| metric("Z", "x"))"#,
            r#"[1, 2].order_by(|a, b| metric("Z", "x"))"#,
            r#"[1, 2].dedup(|a, b| metric("Z", "x"))"#,
        ] {
            assert_eq!(run(body).end, needs, "{body}");
        }
        assert_eq!(error("try { loop { } } catch { } []").kind, ErrorKind::Limit);
        assert_eq!(error("loop { try { loop { } } catch { } }").kind, ErrorKind::Limit);
    }

    #[test]
    fn hostile_scripts_cost_one_clear_error() {
        let functions = [
            ("fn f(x) { f(x + 1) } fn plan(alarm) { f(0) }", ErrorKind::Limit),
            ("fn a(x) { b(x) } fn b(x) { a(x) } fn plan(alarm) { a(0) }", ErrorKind::Limit),
            ("fn f(x) { [1].map(|y| f(y)) } fn plan(alarm) { f(0) }", ErrorKind::Limit),
            ("fn f(x) { [1].min_by(|y| f(y)) } fn plan(alarm) { f(0) }", ErrorKind::Limit),
            ("fn f(x) { [2, 1].sort(|a, b| f(a)) } fn plan(alarm) { f(0) }", ErrorKind::Limit),
            ("fn f(x) { let g = Fn(\"f\"); g.call(x) } fn plan(alarm) { f(0) }", ErrorKind::Limit),
            ("fn plan(alarm) { plan(alarm) }", ErrorKind::Limit),
        ];
        for (source, kind) in functions {
            let end = run_on(&script(source), known(&[])).end;
            assert!(matches!(&end, End::Failed(e) if e.kind == kind), "{source}: {end:?}");
        }
        for body in ENDLESS {
            let e = error(body);
            assert_eq!(e.kind, ErrorKind::Limit, "{body}: {e}");
        }
        for refused in ["let x = 1; eval(\"x\")", "sleep(10)", "\"x\".repeat(1000000000)", "timestamp()"] {
            match Script::compile("t", &format!("fn plan(alarm) {{ {refused} }}")) {
                Err(_) => {}
                Ok(script) => {
                    let end = run_on(&script, known(&[])).end;
                    assert!(matches!(&end, End::Failed(_)), "{refused}: {end:?}");
                }
            }
        }
    }

    #[test]
    fn a_host_that_ran_a_hostile_script_is_as_good_as_new() {
        let host = StrategyHost::new();
        let good = script(CHEAPEST);
        let known = Arc::new(known(&[("C1", "cost", 20.0), ("C2", "cost", 5.0)]));
        let first = host.run(&good, &alarm(), known.clone(), limits());
        for body in [
            "loop { }",
            "print(1); because(\"x\"); metric(\"Z\", \"x\")",
            "throw 1",
            "const X = 1; [start()]",
        ] {
            host.run(&plan(body), &alarm(), known.clone(), limits());
            assert_eq!(host.run(&good, &alarm(), known.clone(), limits()), first);
        }
    }

    /// Runs `test` on a stack of the size that a host asks for.
    fn on_the_stack_of_a_shard(test: impl FnOnce() + Send + 'static) {
        std::thread::Builder::new().stack_size(STACK_SIZE).spawn(test).unwrap().join().unwrap();
    }

    #[test]
    fn the_deepest_values_fit_the_stack_of_a_shard() {
        let uses = [
            "a == a",
            "switch a { 1 => 2, _ => 3 }",
            "set(\"x\", a)",
            "a.index_of(a)",
            "#{a: a}.to_json()",
            "[a].sort_by(|x| 1)",
            "a + a",
            "`${a}`",
            "throw a",
            "try { throw a } catch (e) { e }",
            "return a",
        ];
        on_the_stack_of_a_shard(move || {
            for code in uses {
                for deep in [
                    "let a = []; for i in 0..990 { a = [a]; }",
                    "let a = #{}; for i in 0..250 { a = #{a: a}; }",
                ] {
                    let Ok(script) = Script::compile("t", &format!("fn plan(alarm) {{ {deep} {code} }}"))
                    else {
                        panic!("{code}")
                    };
                    let run = run_on(&script, known(&[]));
                    assert!(!matches!(run.end, End::Needs(_)), "{code}: {run:?}");
                }
            }
            for text in ["'['", "`{\"a\":`", "`[{\"a\":`"] {
                run(&format!("let j = \"\"; for i in 0..400 {{ j += {text}; }} parse_json(j)"));
                run(&format!("let j = \"\"; for i in 0..4000 {{ j += {text}; }} parse_json(j)"));
            }
            run("let j = \"\"; j.pad(2000, '['); j.pad(4000, ']'); parse_json(j)");
        });
    }

    #[test]
    fn notes_are_bounded() {
        let run = run("for i in 0..1000 { because(\"x\"); print(\"y\"); } []");
        assert_eq!((run.reasons.len(), run.log.len()), (MAX_NOTES, MAX_NOTES));
        let long = run_on(&plan("let a = []; a.pad(200, \"0123456789\"); print(a); []"), known(&[]));
        assert_eq!(long.log[0].len(), MAX_NOTE);
        let run =
            run_on(&plan("for i in 0..1000 { try { reading(`s${i}`, \"x\") } catch {} } []"), known(&[]));
        assert!(matches!(run.end, End::Needs(needs) if needs.len() <= MAX_NOTES));
    }

    #[test]
    fn a_run_that_the_deadline_cut_is_cut_there_again() {
        let host = StrategyHost::new();
        let script = plan("let n = 0; loop { n += 1; if n % 10 == 0 { because(`${n}`); } }");
        let calls = AtomicU64::new(0);
        // A clock that goes on by a millisecond whenever it is looked at.
        let clock: Clock = Arc::new(move || Duration::from_millis(calls.fetch_add(1, Ordering::Relaxed)));
        let known = Arc::new(known(&[]));
        let within =
            RunLimits { operations: 1_000_000, deadline: Deadline::Within(Duration::from_millis(20), clock) };
        let live = host.run(&script, &alarm(), known.clone(), within);
        assert!(matches!(&live.end, End::Failed(e) if e.kind == ErrorKind::Deadline), "{live:?}");
        assert_eq!(live.cut, Some(20 * CLOCK_EVERY));
        assert!(!live.reasons.is_empty());
        let again = RunLimits { operations: 1_000_000, deadline: Deadline::CutAt(live.cut) };
        assert_eq!(StrategyHost::new().run(&script, &alarm(), known, again), live);
    }

    #[test]
    fn a_cut_at_any_operation_is_repeated_exactly() {
        let host = StrategyHost::new();
        let script = script(CHEAPEST);
        let known = Arc::new(known(&[("C1", "cost", 20.0), ("C2", "cost", 5.0)]));
        let whole = host.run(&script, &alarm(), known.clone(), limits());
        for n in 1..=whole.progress {
            let at = |host: &StrategyHost| {
                let limits = RunLimits { operations: 1_000, deadline: Deadline::CutAt(Some(n)) };
                host.run(&script, &alarm(), known.clone(), limits)
            };
            let run = at(&host);
            assert_eq!((run.cut, run.progress), (Some(n), n));
            assert!(matches!(&run.end, End::Failed(e) if e.kind == ErrorKind::Deadline), "{run:?}");
            assert_eq!(at(&StrategyHost::new()), run);
        }
        let later = RunLimits { operations: 1_000, deadline: Deadline::CutAt(Some(whole.progress + 1)) };
        assert_eq!(host.run(&script, &alarm(), known, later), whole);
    }

    #[test]
    fn a_run_in_time_is_not_cut() {
        let clock: Clock = Arc::new(|| Duration::ZERO);
        let within =
            RunLimits { operations: 1_000, deadline: Deadline::Within(Duration::from_millis(5), clock) };
        let run = StrategyHost::new().run(&plan("[]"), &alarm(), Arc::new(known(&[])), within);
        assert_eq!((run.end, run.cut), (End::Actions(vec![]), None));
    }

    #[test]
    fn the_operations_of_callbacks_count() {
        let e = error("let a = [1]; for i in 0..1000 { a.map(|x| { for j in 0..1000 { print(j); } }); } []");
        assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Limit, "it took more than 30000 operations"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn no_script_makes_a_host_panic_and_equal_inputs_give_equal_runs(
            statements in prop::collection::vec(prop::sample::select(vec![
                "x = metric(\"cost\");", "x = metric(\"Z\", \"x\");", "x = candidates(\"payment\").min_by(|c| metric(c, \"cost\"));",
                "x = [3, 1, 2].sort_by(|a, b| a < b);", "x = family(\"rss\").map(|m| m.value).filter(|v| v > 2);",
                "x.push(x);", "x = [x, x];", "x += 1;", "x = x + \"t\";", "x = `${x}`;", "x = || x;", "x = x.call();", "x = Fn(\"plan\");",
                "x = recall(\"last\");", "x.n = alarm.values;", "throw x;", "because(`${x}`);", "print(x);", "debug(x);", "plan(x);",
                "if x == 1 {", "for i in 0..3 {", "loop {", "try {", "{", "}", "} catch (e) { x = e; }", "return x;", "exit(x);",
                "x = set(\"p\", x);", "x = [start(), stop()];", "x = replace(\"C1\", \"C2\");", "x = reading(\"cost\").age / 0;",
                "break;", "x = x.sum_by(|y| y);", "x = x.len();", "x = x[0];", "x = #{a: x};", "x = x.a;", "x = -x;", "x = x / x;",
            ]), 0..8),
        ) {
            if let Ok(script) = Script::compile("t", &format!("fn plan(alarm) {{ let x = []; {} }}", statements.join(" "))) {
                let limits = || RunLimits { operations: 500, deadline: Deadline::CutAt(None) };
                let known = Arc::new(known(&[("A", "cost", 38.0), ("C1", "cost", 20.0)]));
                HOST.with(|host| {
                    let run = host.run(&script, &alarm(), known.clone(), limits());
                    prop_assert_eq!(host.run(&script, &alarm(), known, limits()), run);
                    Ok(())
                })?;
            }
        }
    }

    thread_local! {
        static HOST: StrategyHost = StrategyHost::new();
    }

    /// Prints how far hostile scripts get beyond a deadline of 5 ms.
    #[test]
    #[ignore = "prints figures"]
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn a_deadline_is_kept_to() {
        let host = StrategyHost::new();
        let start = std::time::Instant::now();
        let clock: Clock = Arc::new(move || start.elapsed());
        for body in ENDLESS {
            let deadline = Deadline::Within(Duration::from_millis(5), clock.clone());
            let limits = RunLimits { operations: 10_000_000, deadline };
            let before = start.elapsed();
            let run = host.run(&plan(body), &alarm(), Arc::new(known(&[])), limits);
            println!(
                "{:?} after {} operations: {body}: {:?}",
                start.elapsed() - before,
                run.progress,
                run.end
            );
        }
    }

    /// Prints what one run costs: `cargo test --lib -- --ignored --nocapture a_run_costs`.
    #[test]
    #[ignore = "prints figures"]
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn a_run_costs() {
        let script = script(
            r#"
            const MARGIN = 0.9;
            fn plan(alarm) {
                let now = bound("payment");
                if now == () { return []; }
                let limit = metric(now, "cost");
                let best = ();
                let least = limit;
                for c in candidates("payment") {
                    let cost = metric(c, "cost");
                    if cost < least && c != now {
                        best = c;
                        least = cost;
                    }
                }
                if best != () && least < limit * MARGIN {
                    because("cheaper");
                    [replace(now, best)]
                } else {
                    []
                }
            }"#,
        );
        let mut known = known(&[("C1", "cost", 20.0), ("C2", "cost", 5.0), ("C3", "cost", 7.0)]);
        known.references.get_mut("payment").unwrap().candidates.push("C3".into());
        let known = Arc::new(known);
        let host = StrategyHost::new();
        let start = std::time::Instant::now();
        let clock: Clock = Arc::new(move || start.elapsed());
        let n = 100_000;
        let mut progress = 0;
        for _ in 0..n {
            let deadline = Deadline::Within(Duration::from_secs(100), clock.clone());
            let run = host.run(&script, &alarm(), known.clone(), RunLimits { operations: 100_000, deadline });
            assert!(matches!(run.end, End::Actions(ref a) if a.len() == 1));
            progress = run.progress;
        }
        println!(
            "{:.2} µs per run of {progress} operations",
            start.elapsed().as_secs_f64() * 1e6 / f64::from(n)
        );
    }
}
