//! A program that homeostat runs for a service: how policies describe it, what may be asked of it, and how it is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HumanDuration;

/// How long a program may take until it is ready when its policy does not say.
pub const DEFAULT_WITHIN: HumanDuration = HumanDuration::seconds(30);

/// How long a program may take to end by itself when its policy does not say.
pub const DEFAULT_GRACE: HumanDuration = HumanDuration::seconds(5);

/// The pause before the first restart when the policy does not say; it doubles with every restart.
pub const DEFAULT_BACKOFF: HumanDuration = HumanDuration(std::time::Duration::from_millis(500));

/// How many restarts there may be in [`DEFAULT_PER`] when the policy does not say.
pub const DEFAULT_MOST: u32 = 5;

/// The time in which restarts are counted when the policy does not say.
pub const DEFAULT_PER: HumanDuration = HumanDuration::seconds(60);

/// The longest time that readiness and grace may be given: steps wait for them.
const LONGEST: HumanDuration = HumanDuration::seconds(60);

/// The least address space, in bytes, that a program may be limited to: the shell that becomes it, and the loader, have to fit in (8 MiB).
const LEAST_MEMORY: u64 = 8 << 20;

/// The least number of descriptors: the shell that becomes the program uses some above 10.
const LEAST_DESCRIPTORS: u64 = 16;

/// A program that homeostat starts, keeps running and ends, as a process group of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The program and its arguments; no shell is involved. `homeostat` as the program is the executable that runs.
    pub command: Vec<String>,
    /// Its working directory; that of homeostat, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// When it is started; with its service, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartMode>,
    /// Variables that are added to the environment of homeostat.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// How it shows that it is ready; as soon as it runs, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Readiness>,
    /// How it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopSpec>,
    /// Whether and how it is started again when it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ProcessLimits>,
    /// Whether it goes on while homeostat is restarted, updated or gone, and is taken over by the next one. Needs a data directory, and Linux.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub survive: bool,
}

/// When a program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartMode {
    /// With its service.
    #[default]
    Always,
    /// Once it is needed: a reference with `replace: { start: true }` leads to its service, or the action `start` says so.
    OnDemand,
}

/// How a program shows that it is ready: exactly one of `port`, `http` and `output`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Readiness {
    /// It accepts connections at `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// It answers a GET of this URL with 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// It prints a line that contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How long that may take before it counts as failed; 30 s when absent, at most 1 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<HumanDuration>,
}

/// How a program is ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopSpec {
    /// What its process group is sent first; TERM when absent.
    #[serde(default)]
    pub signal: StopSignal,
    /// How long it may take then before the group is killed; 5 s when absent, at most 1 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<HumanDuration>,
}

/// Signals that ask a program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGKILL: it is not asked.
    Kill,
}

/// Whether and how a program is started again when it ends by itself: `never`, or a mapping.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Restart {
    /// It is not.
    #[schemars(with = "NeverWord")]
    #[serde(serialize_with = "never")]
    Never,
    /// It is, within a budget.
    Budget(RestartBudget),
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
enum NeverWord {
    /// It is not started again.
    Never,
}

fn never<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("never")
}

/// How often a program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartBudget {
    /// The pause before the first restart, which doubles with every further one, up to 30 s; 500 ms when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<HumanDuration>,
    /// How many restarts there may be in the time `per`; one more, and it has failed. 5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
    /// The time in which restarts are counted; 1 min when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<HumanDuration>,
}

impl<'de> Deserialize<'de> for Restart {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> serde::de::Visitor<'de> for Shape {
            type Value = Restart;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`never`, or a mapping with `backoff`, `most` and `per`")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Restart, E> {
                match word {
                    "never" => Ok(Restart::Never),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Restart, A::Error> {
                RestartBudget::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(Restart::Budget)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

/// What each process of a program may use (`setrlimit`), from its first instruction on; Linux only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessLimits {
    /// Processor time; whole seconds. A process that used more is killed by the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<HumanDuration>,
    /// Address space: a number of bytes, or `512MiB`. A process is refused more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Open file descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u64>,
}

/// A number of bytes, as people write it: `512MiB`; a bare number is bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// A number with a unit.
    Text(String),
}

impl Size {
    /// In bytes.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub fn bytes(&self) -> Result<u64, String> {
        let text = match self {
            Self::Bytes(bytes) => return Ok(*bytes),
            Self::Text(text) => text.trim(),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let factor = match super::units::unit(text[digits..].trim()) {
            Some((super::units::Base::Bytes, factor)) => Some(factor),
            _ => text[digits..].is_empty().then_some(1.0),
        };
        match (text[..digits].parse::<f64>(), factor) {
            (Ok(number), Some(factor)) => Ok((number * factor) as u64),
            _ => Err(format!(
                "`{text}` is no size; expected a number of bytes or one with a unit, such as 512MiB"
            )),
        }
    }
}

impl ProcessSpec {
    /// Everything that is wrong with it: the fields that lead there, and what would be right.
    pub fn problems(&self) -> Vec<(Vec<&'static str>, String)> {
        let mut problems = Vec::new();
        let mut wrong = |at: &[&'static str], why: String| problems.push((at.to_vec(), why));
        if self.command.first().is_none_or(String::is_empty) {
            wrong(&["command"], "the command is empty; expected a program and its arguments".into());
        }
        for name in self.environment.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                wrong(&["environment"], format!("`{name}` is no name of a variable"));
            }
        }
        if let Some(ready) = &self.ready {
            let given = [&ready.port, &ready.http, &ready.output].into_iter().flatten().count();
            if given != 1 {
                let why = format!("{given} of `port`, `http` and `output` are given; expected exactly one");
                wrong(&["ready"], why);
            }
            if let Some(port) = &ready.port
                && let Err(why) = super::endpoint::Endpoint::parse(&format!("tcp://{port}"))
            {
                wrong(&["ready", "port"], why);
            }
            if let Some(url) = &ready.http
                && !(url.starts_with("http://") && url.len() > "http://".len())
            {
                wrong(&["ready", "http"], format!("`{url}` is no address; expected `http://HOST:PORT/PATH`"));
            }
            if ready.output.as_deref() == Some("") {
                wrong(&["ready", "output"], "every line contains nothing; expected a part of a line".into());
            }
            if ready.within.is_some_and(|w| w.0.is_zero() || w > LONGEST) {
                wrong(&["ready", "within"], format!("expected more than nothing and at most {LONGEST}"));
            }
        }
        if self.grace() > LONGEST {
            wrong(&["stop", "grace"], format!("expected at most {LONGEST}"));
        }
        if let Some(Restart::Budget(budget)) = self.restart {
            if budget.per.is_some_and(|p| p.0.is_zero()) {
                wrong(&["restart", "per"], "expected more than nothing".into());
            }
            if budget.backoff.is_some_and(|b| b.0.is_zero()) {
                wrong(&["restart", "backoff"], "expected more than nothing".into());
            }
        }
        if let Some(limits) = &self.limits {
            if limits.cpu.is_some_and(|c| c.0.as_secs() == 0) {
                wrong(&["limits", "cpu"], "expected at least 1s".into());
            }
            match limits.memory.as_ref().map(Size::bytes) {
                Some(Err(why)) => wrong(&["limits", "memory"], why),
                Some(Ok(bytes)) if bytes < LEAST_MEMORY => wrong(
                    &["limits", "memory"],
                    format!("nothing runs in {bytes} bytes of address space; expected at least 8MiB"),
                ),
                _ => {}
            }
            if let Some(few) = limits.descriptors.filter(|count| *count < LEAST_DESCRIPTORS) {
                let why = format!("no program starts with {few}; expected at least {LEAST_DESCRIPTORS}");
                wrong(&["limits", "descriptors"], why);
            }
        }
        problems
    }

    /// Whether what was started with `other` is what would be started with this.
    pub fn starts_the_same(&self, other: &Self) -> bool {
        let what = |spec: &Self| {
            let Self { command, directory, environment, limits, survive, .. } = spec.clone();
            (command, directory, environment, limits, survive)
        };
        what(self) == what(other)
    }

    /// Whether it does not run before it is needed.
    pub fn on_demand(&self) -> bool {
        self.start == Some(StartMode::OnDemand)
    }

    /// How long it may take to end by itself.
    pub fn grace(&self) -> HumanDuration {
        self.stop.as_ref().and_then(|s| s.grace).unwrap_or(DEFAULT_GRACE)
    }

    /// How long it may take until it is ready.
    pub fn within(&self) -> HumanDuration {
        self.ready.as_ref().and_then(|r| r.within).unwrap_or(DEFAULT_WITHIN)
    }
}

/// What may be asked of the program of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessOrder {
    /// Let it run.
    Start,
    /// Let it not run.
    Stop,
    /// End it if it runs, and let it run.
    Restart,
}

/// The states of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It was started and is not ready yet.
    Starting,
    /// It runs and is ready.
    Running,
    /// It was asked to end and has not yet.
    Stopping,
    /// It does not run, as was asked for.
    Stopped,
    /// It ended by itself, and is started again in a moment.
    Waiting,
    /// It ended by itself, and is not to be started again.
    Ended,
    /// It cannot be started, or has ended too often. `start` tries again.
    Failed,
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
            Self::Failed => "failed",
        })
    }
}

/// How the program of a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct ProcessStatus {
    /// Its state.
    pub state: ProcessState,
    /// The number of its first process, which is also that of its group, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again after it had ended by itself.
    pub restarts: u64,
    /// Why it is in this state, if that was not asked for; otherwise how it ended last, if it did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last lines that it printed, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> ProcessSpec {
        serde_json::from_value(json).expect("a spec")
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_one_with_a_unit() {
        assert_eq!(Size::Bytes(7).bytes(), Ok(7));
        assert_eq!(Size::Text("512MiB".into()).bytes(), Ok(512 << 20));
        assert_eq!(Size::Text("12".into()).bytes(), Ok(12));
        assert!(Size::Text("5s".into()).bytes().is_err());
        assert!(Size::Text("big".into()).bytes().is_err());
    }

    #[test]
    fn every_mistake_is_told_at_its_place() {
        let good =
            serde_json::json!({ "command": ["a"], "ready": { "port": "127.0.0.1:80" }, "restart": "never" });
        assert!(spec(good).problems().is_empty());
        let bad = spec(serde_json::json!({
            "command": [], "ready": { "port": "80", "output": "x", "within": "2m" }, "restart": { "per": "0s" },
            "limits": { "cpu": "10ms", "memory": "much" }, "environment": { "A=B": "c" }, "stop": { "grace": "1h" },
        }));
        let places: Vec<String> = bad.problems().into_iter().map(|(at, _)| at.join(".")).collect();
        let all = [
            "command",
            "environment",
            "ready",
            "ready.port",
            "ready.within",
            "stop.grace",
            "restart.per",
            "limits.cpu",
            "limits.memory",
        ];
        assert_eq!(places, all);
    }

    #[test]
    fn a_restart_reads_and_writes_the_same() {
        for text in [r#""never""#, r#"{"most":3}"#] {
            let restart: Restart = serde_json::from_str(text).expect("a restart");
            assert_eq!(serde_json::to_string(&restart).expect("text"), text);
        }
        assert!(serde_json::from_str::<Restart>(r#""always""#).is_err());
    }
}
