//! Values that are known of the service's own program, of its command line and environment, and of its metrics.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use serde_json::Value;

use super::deliver;
use crate::connectors::Connectors;
use crate::model::connector::{BuiltSensor, ProcessQuantity, ProcessSensor, Sensor, SensorSpec};
use crate::model::manage::{ProcessFact, PropertySpec, PropertyType, SignalName};
use crate::model::process::{ProcessSpec, ProcessStatus};

/// A program that homeostat runs for a service.
#[derive(Debug, Clone)]
pub struct Program {
    /// What it is.
    pub spec: Arc<ProcessSpec>,
    /// How it is, without its output.
    pub status: ProcessStatus,
}

/// Finds the program of a service.
type Programs = dyn Fn(&str) -> Option<Program> + Send + Sync;

/// Asks for a metric of a service.
type Metrics = dyn Fn(Arc<str>, String) -> BoxFuture<'static, Result<f64, String>> + Send + Sync;

/// What properties are read from beside files and the service itself: programs, and metrics. Clones share it.
#[derive(Clone)]
pub struct Beside(Arc<Inner>);

struct Inner {
    connectors: Connectors,
    programs: OnceLock<Box<Programs>>,
    metrics: OnceLock<Box<Metrics>>,
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").finish_non_exhaustive()
    }
}

impl Beside {
    pub(in crate::membrane) fn new(connectors: &Connectors) -> Self {
        let connectors = connectors.clone();
        Self(Arc::new(Inner { connectors, programs: OnceLock::new(), metrics: OnceLock::new() }))
    }

    /// Says where programs are found; the first word counts.
    pub fn set_programs(&self, programs: impl Fn(&str) -> Option<Program> + Send + Sync + 'static) {
        let _ = self.0.programs.set(Box::new(programs));
    }

    /// Says where metrics are asked for; the first word counts.
    pub fn set_metrics(
        &self,
        metrics: impl Fn(Arc<str>, String) -> BoxFuture<'static, Result<f64, String>> + Send + Sync + 'static,
    ) {
        let _ = self.0.metrics.set(Box::new(metrics));
    }

    fn program(&self, service: &str) -> Option<Program> {
        self.0.programs.get().and_then(|find| find(service))
    }

    fn run(&self, service: &str) -> Result<Program, String> {
        self.program(service).ok_or_else(|| format!("homeostat runs no program for `{service}`"))
    }
}

/// The sensors that look at a program, by quantity, and what they saw last.
pub(super) type Looks = HashMap<ProcessQuantity, (Box<dyn Sensor>, Option<f64>)>;

/// The value of a property whose place is `environment`, `argument`, `process` or `metric`.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn read(
    beside: &Beside,
    looks: &tokio::sync::Mutex<Looks>,
    service: &Arc<str>,
    spec: &PropertySpec,
) -> Result<Value, String> {
    if let Some(variable) = &spec.environment {
        let declared = beside.program(service).and_then(|p| p.spec.environment.get(variable).cloned());
        let text = match declared {
            Some(text) => text,
            None => std::env::var(variable).map_err(|e| format!("the variable {variable}: {e}"))?,
        };
        return spec.kind.read(&text);
    }
    if let Some(word) = &spec.argument {
        let program = beside.run(service)?;
        let words = match program.status.pid {
            Some(pid) => command_line(pid).unwrap_or_else(|| program.spec.command.clone()),
            None => program.spec.command.clone(),
        };
        return argument(&words, word, spec.kind);
    }
    if let Some(metric) = &spec.metric {
        let ask = beside.0.metrics.get().ok_or("nothing is measured here")?;
        return Ok(number(spec.kind, ask(service.clone(), metric.clone()).await?));
    }
    let Some(fact) = spec.process else { return Ok(Value::Null) };
    let program = beside.run(service)?;
    let first = program.status.pid.ok_or_else(|| format!("it is {}", program.status.state));
    let quantity = match fact {
        ProcessFact::State => return Ok(program.status.state.to_string().into()),
        ProcessFact::Restarts => return Ok(program.status.restarts.into()),
        ProcessFact::Pid => return Ok(first?.into()),
        ProcessFact::Uptime => return uptime(first?).map(Value::from),
        ProcessFact::Cpu => ProcessQuantity::Cpu,
        ProcessFact::Rss => ProcessQuantity::Rss,
        ProcessFact::Threads => ProcessQuantity::Threads,
        ProcessFact::Descriptors => ProcessQuantity::Descriptors,
    };
    first?;
    let value = look(beside, &mut *looks.lock().await, service, quantity).await?;
    Ok(number(spec.kind, value))
}

/// Looks at the whole group of a program.
async fn look(
    beside: &Beside,
    looks: &mut Looks,
    service: &str,
    what: ProcessQuantity,
) -> Result<f64, String> {
    let (sensor, last) = match looks.entry(what) {
        Entry::Occupied(there) => there.into_mut(),
        Entry::Vacant(place) => {
            let spec = ProcessSensor {
                what,
                name: None,
                pid: None,
                own: true,
                top: None,
                every: None,
                stale_after: None,
            };
            let built = beside.0.connectors.sensor(service, "process", &SensorSpec::Process(spec));
            let BuiltSensor::Polled(sensor) = built.map_err(|e| e.to_string())? else {
                return Err("it cannot be looked at".into());
            };
            place.insert((sensor, None))
        }
    };
    if let Some(seen) = sensor.read().await.map_err(|e| e.to_string())?.first() {
        *last = Some(seen.value);
    }
    // A difference so soon after the last one says nothing new.
    last.ok_or_else(|| "it was not looked at long enough".to_string())
}

/// A number as a value of a type: what is whole is written so where integers are wanted.
fn number(kind: PropertyType, value: f64) -> Value {
    match kind {
        PropertyType::Integer if value.fract() == 0.0 && value.abs() < 9e15 => Value::from(value as i64),
        _ => Value::from(value),
    }
}

/// `--rate 5` or `--rate=5`; the last one counts. A boolean is whether the word stands there, unless a value says so.
fn argument(words: &[String], name: &str, kind: PropertyType) -> Result<Value, String> {
    let mut found = None;
    // The program itself is none of its arguments.
    for (at, word) in words.iter().enumerate().skip(1) {
        if word == name {
            found = Some(match kind {
                PropertyType::Boolean => Some("true"),
                _ => words.get(at + 1).map(String::as_str),
            });
        } else if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            found = Some(Some(value));
        }
    }
    match found {
        Some(Some(text)) => kind.read(text),
        Some(None) => Err(format!("its command line ends after `{name}`")),
        None if kind == PropertyType::Boolean => Ok(false.into()),
        None => Err(format!("its command line has no `{name}`")),
    }
}

/// The words that a process was really started with; a process can have changed them since.
#[cfg(target_os = "linux")]
fn command_line(pid: u32) -> Option<Vec<String>> {
    let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
    process.cmdline().ok().filter(|words| !words.is_empty())
}

#[cfg(not(target_os = "linux"))]
fn command_line(_: u32) -> Option<Vec<String>> {
    None
}

/// Seconds since a process began.
#[cfg(target_os = "linux")]
fn uptime(pid: u32) -> Result<f64, String> {
    use procfs::Current;
    let failed = |e: procfs::ProcError| format!("process {pid} cannot be looked at: {e}");
    let number = i32::try_from(pid).map_err(|e| e.to_string())?;
    let begun = procfs::process::Process::new(number).and_then(|p| p.stat()).map_err(failed)?.starttime;
    let now = procfs::Uptime::current().map_err(failed)?.uptime;
    Ok((now - begun as f64 / procfs::ticks_per_second() as f64).max(0.0))
}

#[cfg(not(target_os = "linux"))]
fn uptime(_: u32) -> Result<f64, String> {
    Err("how long a process has been running is read from procfs, which only Linux has".into())
}

/// Signals the program of a service that its configuration was changed.
///
/// # Errors
/// When it does not run.
pub(super) fn tell(beside: &Beside, service: &str, signal: SignalName) -> Result<(), String> {
    let program = beside.run(service)?;
    let pid = program.status.pid.ok_or_else(|| format!("its process is {}", program.status.state))?;
    deliver::send(signal, &pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_command_line_says_what_it_was_started_with() {
        let words: Vec<String> =
            ["--rate", "--rate", "5", "--name=a b", "-v", "--rate=7", "--end"].map(String::from).into();
        use PropertyType as T;
        assert_eq!(argument(&words, "--rate", T::Integer), Ok(json!(7)));
        assert_eq!(argument(&words[..3], "--rate", T::Integer), Ok(json!(5)));
        assert_eq!(argument(&words, "--name", T::String), Ok(json!("a b")));
        assert_eq!(argument(&words, "-v", T::Boolean), Ok(json!(true)));
        assert_eq!(argument(&words, "-q", T::Boolean), Ok(json!(false)));
        assert!(argument(&words, "--name", T::Number).is_err_and(|why| why.contains("no number")));
        assert!(argument(&words, "--end", T::String).is_err_and(|why| why.contains("ends after")));
        assert!(argument(&words, "--none", T::String).is_err_and(|why| why.contains("has no")));
        assert!(argument(&words, "--nam", T::String).is_err());
    }
}
