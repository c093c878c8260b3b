//! What of a service can be looked at, set and invoked from outside, and where services keep that, though they know nothing of it (S4; R4-01 to R4-04).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::action::Action;
use super::change::{ChangedBy, EventSource, Webhook};
use super::endpoint::Address;
use super::name::service_name_problem;
use super::template::{Holes, Template};
use super::{HumanDuration, syntax};

/// A management listener of a service, and what it offers there.
#[derive(Debug, Clone, PartialEq)]
pub struct Manage {
    /// Where homeostat listens; `None`: only actions, sensors and whoever shares a listener reach what is offered.
    pub listen: Option<Address>,
    /// What is offered.
    pub spec: Arc<ManageSpec>,
}

/// What of a service is manageable, and where: a listener of its own, beside the port that its clients know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManageSpec {
    /// Where homeostat listens for managers of the service; a loopback address: `127.0.0.1:8081`. Nowhere, when absent: then only actions and
    /// sensors reach what is offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// What can be looked at, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, PropertySpec>,
    /// What can be invoked, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub methods: BTreeMap<String, MethodSpec>,
    /// How observers can subscribe: `[interval, change]`, which is what holds when absent; `[]`: they can only ask (R4-14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<BTreeSet<SubscriptionMode>>,
}

/// When an observer who subscribed is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionMode {
    /// Every so often.
    Interval,
    /// Whenever the value is another.
    Change,
}

/// One property. Exactly one of `file`, `http`, `environment`, `argument`, `process`, `metric` and `value` says where it is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PropertySpec {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: PropertyType,
    /// Whether it can be set; only with `file` and `http`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settable: bool,
    /// In a configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// In what the service answers over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// In this variable: of `process.environment`, or of the environment that homeostat was started with and hands on to the programs that
    /// it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// In the command line of the program that homeostat runs for the service: `--rate` reads `--rate 5` and `--rate=5`; a `boolean` is
    /// whether it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
    /// This fact about the program that homeostat runs for the service, with its process group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessFact>,
    /// This metric of the service: a number that was measured or computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Always this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// The calls through `listen` that change it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_by: Vec<ChangedBy>,
    /// The stream of events that tells of its changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventSource>,
    /// The service tells of its changes by `POST /_mon/properties/{name}/changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What can be known of a program that homeostat runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessFact {
    /// CPU in use, percent of the whole machine, 0 to 100.
    Cpu,
    /// Resident memory, bytes.
    Rss,
    /// Threads.
    Threads,
    /// Open file descriptors.
    Descriptors,
    /// How long its first process has been running, seconds.
    Uptime,
    /// The number of its first process.
    Pid,
    /// How often it was started again.
    Restarts,
    /// Its state: `starting`, `running`, `waiting`, `failed`, `ended`, `stopping`, `stopped`.
    State,
}

impl ProcessFact {
    /// Whether it is told as a value of this type.
    fn fits(self, kind: PropertyType) -> bool {
        match self {
            Self::State => kind == PropertyType::String,
            Self::Cpu | Self::Uptime => kind == PropertyType::Number,
            _ => matches!(kind, PropertyType::Number | PropertyType::Integer),
        }
    }
}

/// The type of a property or parameter, by the words of JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PropertyType {
    /// Any number.
    Number,
    /// A number without a fraction.
    Integer,
    /// A text.
    #[default]
    String,
    /// `true` or `false`.
    Boolean,
    /// Named values.
    Object,
    /// A list.
    Array,
}

impl PropertyType {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Integer => "integer",
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Object => "object",
            Self::Array => "array",
        }
    }

    /// Whether a value is of this type. `2.0` is an integer, as JSON Schema has it.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Self::Number => value.is_number(),
            Self::Integer => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            Self::String => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
        }
    }

    /// Whether its values can be metrics: numbers, and `true` and `false` as 1 and 0.
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Number | Self::Integer | Self::Boolean)
    }

    /// Reads a text as a value of this type.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(self, text: &str) -> Result<Value, String> {
        if self == Self::String {
            return Ok(text.into());
        }
        match serde_json::from_str(text.trim()) {
            Ok(value) if self.fits(&value) => Ok(value),
            _ => Err(format!("`{text}` is no {}", self.word())),
        }
    }
}

/// A value in a configuration file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file; relative to the working directory of homeostat.
    pub path: String,
    /// JSON pointer to the value (RFC 6901): `/limits/rate`; the whole file, when absent. In INI `/section/key`, or `/key` before all sections.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// How it is written; by the end of its name (`.yaml`, `.yml`, `.toml`, `.ini`, `.cfg`, `.conf`), otherwise JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FileFormat>,
    /// How the service is told that the file was changed; not at all, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tell: Option<Tell>,
}

impl FileSource {
    /// How it is written.
    pub fn written(&self) -> FileFormat {
        let end = self.path.rsplit(['/', '.']).next().unwrap_or_default();
        self.format.unwrap_or(match end {
            "yaml" | "yml" => FileFormat::Yaml,
            "toml" => FileFormat::Toml,
            "ini" | "cfg" | "conf" => FileFormat::Ini,
            _ => FileFormat::Json,
        })
    }
}

/// How a configuration file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// INI: `[section]`, `key = value`.
    Ini,
}

/// How a service is told that its configuration file was changed: a program is run, or a signal sent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tell {
    /// This program, with these arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
    /// This signal, to the process that `pid_file` names, or to the one that homeostat runs (`process: true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// The file with the number of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<String>,
    /// The process is the one that homeostat runs for the service; SIGHUP when `signal` is absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub process: bool,
}

/// The signals that services take as news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalName {
    /// SIGHUP.
    #[default]
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

/// A value in what a service answers over HTTP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSource {
    /// What to GET: a URL, or a path at the `endpoint` of the service.
    pub url: String,
    /// JSON pointer to the value in the answer; the whole answer, when absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// The value is that of this header of the answer, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Headers of the requests; values may contain `${NAME}` and `${file:PATH}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How it is set; PUT of the value as JSON to `url`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<HttpSet>,
    /// How long one call may take; 5 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
}

/// How a value is set over HTTP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSet {
    /// The method; PUT, when absent.
    #[serde(default)]
    pub method: SetMethod,
    /// Where, if not where it is read; `{value}` stands for the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The body, where `{value}` stands for the value as JSON; that alone, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The methods that set something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SetMethod {
    /// PUT.
    #[default]
    Put,
    /// POST.
    Post,
    /// PATCH.
    Patch,
}

impl SetMethod {
    /// Its name in HTTP.
    pub fn word(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Patch => "PATCH",
        }
    }
}

/// A method of a service: a call over HTTP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// Where: a URL, or a path at the `endpoint` of the service; `{name}` stands for a parameter.
    pub url: String,
    /// The HTTP method; POST, when absent.
    #[serde(default)]
    pub method: CallMethod,
    /// Its parameters, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<ParameterSpec>,
    /// The body, where `{name}` stands for a parameter as JSON; when absent, the parameters that `url` does not name, as an object (none for GET).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Headers of the request; values may contain `${NAME}` and `${file:PATH}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// JSON pointer to the result in the answer; the whole answer, when absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// How long it may take; 5 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// What it does, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A parameter of a method.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterSpec {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: PropertyType,
}

/// The HTTP method of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum CallMethod {
    /// GET.
    Get,
    /// POST.
    #[default]
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl CallMethod {
    /// Its name in HTTP.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What there is of a service beside what it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Around<'a> {
    /// An HTTP endpoint that paths are relative to.
    pub endpoint: bool,
    /// A program that homeostat runs.
    pub process: bool,
    /// The metrics, by name.
    pub metrics: Option<&'a BTreeSet<String>>,
}

impl ManageSpec {
    /// Whether observers can subscribe so.
    pub fn offers(&self, mode: SubscriptionMode) -> bool {
        self.subscriptions.as_ref().is_none_or(|modes| modes.contains(&mode))
    }

    /// Says what is wrong with it: for each mistake the section (`properties`, `methods`, or none), the name there, and why.
    pub fn problems(&self, around: Around<'_>) -> Vec<(Option<(&'static str, &str)>, String)> {
        let mut wrong: Vec<(Option<(&'static str, &str)>, String)> = Vec::new();
        match self.listen.as_deref().map(super::endpoint::parse_address) {
            Some(Ok(address)) if !address.ip().is_loopback() => wrong.push((
                None,
                format!(
                    "`{address}` can be reached by others, and this listener asks nobody who he is; listen on a loopback address such as 127.0.0.1:{}",
                    address.port()
                ),
            )),
            Some(Err(why)) => wrong.push((None, why)),
            Some(Ok(_)) | None => {}
        }
        for (name, property) in &self.properties {
            let named = service_name_problem(name).map_or(Ok(()), Err);
            if let Err(why) = named.and_then(|()| property.check(around)) {
                wrong.push((Some(("properties", name)), why));
            }
        }
        for (name, method) in &self.methods {
            let named = service_name_problem(name).map_or(Ok(()), Err);
            if let Err(why) = named.and_then(|()| method.check(around.endpoint)) {
                wrong.push((Some(("methods", name)), why));
            }
        }
        wrong
    }

    /// Whether there is anything that an action of this name (`set`, `invoke`) could be carried out on.
    pub fn carries(&self, action: &str) -> bool {
        match action {
            "set" => self.properties.values().any(|property| property.settable),
            "invoke" => !self.methods.is_empty(),
            _ => false,
        }
    }

    /// Why a `set` or `invoke` cannot be carried out on what is offered here; `None` when it can, and for other actions.
    pub fn refuses(&self, action: &Action) -> Option<String> {
        match action {
            Action::Set { property, value, .. } => {
                let Some(spec) = self.properties.get(property) else {
                    return Some(format!("there is no property `{property}` ({})", known(&self.properties)));
                };
                if !spec.settable {
                    return Some(format!("the property `{property}` cannot be set"));
                }
                fits(spec.kind, property, value).err()
            }
            Action::Invoke { method, params, .. } => match self.methods.get(method) {
                None => Some(format!("there is no method `{method}` ({})", known(&self.methods))),
                Some(spec) => spec.arguments(method, params.clone().into()).err(),
            },
            _ => None,
        }
    }
}

fn known<V>(all: &BTreeMap<String, V>) -> String {
    match all.is_empty() {
        true => "there is none".into(),
        false => format!("there are: {}", all.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}

/// Whether a value is of a type.
///
/// # Errors
/// In words, with the name of what should have it.
pub fn fits(kind: PropertyType, name: &str, value: &Value) -> Result<(), String> {
    match kind.fits(value) {
        true => Ok(()),
        false => Err(format!("`{name}` is of type {}, not {}", kind.word(), type_of(value))),
    }
}

/// The type of a value, for people.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl PropertySpec {
    fn check_changes(&self, based: bool) -> Result<(), String> {
        let told = !self.changed_by.is_empty() || self.events.is_some() || self.webhook.is_some();
        if told && (self.value.is_some() || self.environment.is_some()) {
            return Err("what is constant has no `changed_by`, `events` or `webhook`".into());
        }
        for call in &self.changed_by {
            call.check()?;
            pointer(&call.pointer)?;
        }
        if let Some(events) = &self.events {
            url(&events.url, based, &[])?;
            pointer(&events.pointer)?;
        }
        self.webhook.as_ref().map_or(Ok(()), |webhook| pointer(&webhook.pointer))
    }

    fn check(&self, around: Around<'_>) -> Result<(), String> {
        self.check_changes(around.endpoint)?;
        let sources = [
            self.file.is_some(),
            self.http.is_some(),
            self.environment.is_some(),
            self.argument.is_some(),
            self.process.is_some(),
            self.metric.is_some(),
            self.value.is_some(),
        ];
        if sources.iter().filter(|there| **there).count() != 1 {
            return Err("it is not said, or said more than once, where it is kept; expected one of `file`, `http`, `environment`, `argument`, `process`, `metric` and `value`".into());
        }
        if self.settable && self.value.is_some() {
            return Err("what is constant cannot be `settable`; only `file` and `http` can".into());
        }
        if self.settable && self.file.is_none() && self.http.is_none() {
            return Err(
                "it can only be looked at, so it cannot be `settable`; only `file` and `http` can".into()
            );
        }
        if let Some(value) = &self.value
            && !self.kind.fits(value)
        {
            return Err(format!("{value} is no {}, which `type` says it is", self.kind.word()));
        }
        if self.environment.as_ref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err("`environment` is no name of a variable".into());
        }
        self.check_process(around)?;
        if let Some(file) = &self.file {
            file.check(self.kind, self.settable, around.process)?;
        }
        if let Some(http) = &self.http {
            http.check(self.settable, around.endpoint)?;
        }
        Ok(())
    }

    /// What is read from the program that homeostat runs, and from the loop.
    fn check_process(&self, around: Around<'_>) -> Result<(), String> {
        if self.argument.as_ref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err("`argument` is no word of a command line; expected one such as `--rate`".into());
        }
        if (self.argument.is_some() || self.process.is_some()) && !around.process {
            return Err(
                "homeostat runs no program for the service; say `process: { command: [PROGRAM, …] }`".into(),
            );
        }
        if let Some(fact) = self.process
            && !fact.fits(self.kind)
        {
            return Err(format!("it is told as no {}, which `type` says it is", self.kind.word()));
        }
        let Some(metric) = &self.metric else { return Ok(()) };
        if !matches!(self.kind, PropertyType::Number | PropertyType::Integer) {
            return Err(format!("a metric is a number, and no {}", self.kind.word()));
        }
        match around.metrics {
            Some(metrics) if !metrics.contains(metric) => {
                Err(format!("the service has no metric `{metric}`"))
            }
            _ => Ok(()),
        }
    }
}

impl HttpSource {
    fn check(&self, settable: bool, based: bool) -> Result<(), String> {
        url(&self.url, based, &[])?;
        pointer(&self.pointer)?;
        syntax::headers(&self.headers, Holes::Secrets)?;
        possible(self.timeout)?;
        if let Some(header) = &self.header {
            if header.is_empty()
                || !header.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
            {
                return Err(format!("`{header}` is no name of a header"));
            }
            if !self.pointer.is_empty() {
                return Err("`header` and `pointer` name two places; leave one out".into());
            }
        }
        match &self.set {
            Some(_) if !settable => Err("`set` goes with `settable: true`".into()),
            Some(set) => {
                set.url.as_deref().map_or(Ok(()), |text| url(text, based, &["value"]))?;
                holes("body", set.body.as_deref().unwrap_or_default(), &["value"])
            }
            None if settable && self.header.is_some() => {
                Err("a header is not set by writing it; say how with `set: { method, url, body }`".into())
            }
            None => Ok(()),
        }
    }
}

impl FileSource {
    fn check(&self, kind: PropertyType, settable: bool, runs: bool) -> Result<(), String> {
        if self.path.is_empty() {
            return Err("`path` is empty; expected the name of a file".into());
        }
        pointer(&self.pointer)?;
        let whole = matches!(kind, PropertyType::Array | PropertyType::Object);
        match self.written() {
            FileFormat::Yaml if settable && whole => {
                return Err("in YAML only single values can be set in place, no lists and mappings; leave out `settable`".into());
            }
            FileFormat::Ini if whole => {
                return Err("INI has single values only; expected the type `string`, `number`, `integer` or `boolean`".into());
            }
            FileFormat::Ini if !matches!(self.pointer.matches('/').count(), 1 | 2) => {
                return Err(format!(
                    "`{}` is no place in INI; expected `/section/key`, or `/key`",
                    self.pointer
                ));
            }
            _ => {}
        }
        match &self.tell {
            Some(_) if !settable => Err("`tell` goes with `settable: true`".into()),
            Some(Tell { exec, signal: None, pid_file: None, process: false }) if !exec.is_empty() => Ok(()),
            Some(Tell { exec, signal: Some(_), pid_file: Some(_), process: false }) if exec.is_empty() => Ok(()),
            Some(Tell { exec, pid_file: None, process: true, .. }) if exec.is_empty() => match runs {
                true => Ok(()),
                false => Err("homeostat runs no program for the service that could be told; say `process: { command: [PROGRAM, …] }`, or `pid_file: FILE`".into()),
            },
            Some(_) => Err("`tell` is `{ exec: [PROGRAM, …] }`, `{ signal: hup, pid_file: FILE }` or `{ signal: hup, process: true }`".into()),
            None => Ok(()),
        }
    }
}

impl MethodSpec {
    fn check(&self, based: bool) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for parameter in &self.params {
            if let Some(why) = super::name::identifier_problem(&parameter.name) {
                return Err(why);
            }
            if !seen.insert(parameter.name.as_str()) {
                return Err(format!("two parameters are called `{}`", parameter.name));
            }
        }
        let names: Vec<&str> = seen.into_iter().collect();
        url(&self.url, based, &names)?;
        syntax::headers(&self.headers, Holes::Secrets)?;
        holes("body", self.body.as_deref().unwrap_or_default(), &names)?;
        pointer(&self.pointer)?;
        possible(self.timeout)
    }

    /// The parameters of a call by their names, each of its type; given by position (an array) or by name (an object).
    ///
    /// # Errors
    /// In words: what is missing, unknown or of another type, and what `method` takes.
    pub fn arguments(&self, method: &str, params: Value) -> Result<serde_json::Map<String, Value>, String> {
        let expected = || {
            let list: Vec<String> =
                self.params.iter().map(|p| format!("{}: {}", p.name, p.kind.word())).collect();
            format!("`{method}` takes ({})", list.join(", "))
        };
        let mut given = match params {
            Value::Null => serde_json::Map::new(),
            Value::Object(given) => given,
            Value::Array(values) if values.len() <= self.params.len() => {
                self.params.iter().map(|p| p.name.clone()).zip(values).collect()
            }
            Value::Array(values) => {
                return Err(format!("{}, and {} values were given", expected(), values.len()));
            }
            other => {
                let found = type_of(&other);
                return Err(format!("`params` is {found}; expected an array or an object; {}", expected()));
            }
        };
        let mut named = serde_json::Map::new();
        for parameter in &self.params {
            let value = given.remove(&parameter.name);
            let value =
                value.ok_or_else(|| format!("{}, and `{}` is missing", expected(), parameter.name))?;
            fits(parameter.kind, &parameter.name, &value)?;
            named.insert(parameter.name.clone(), value);
        }
        match given.keys().next() {
            Some(unknown) => Err(format!("{}, and no `{unknown}`", expected())),
            None => Ok(named),
        }
    }
}

/// The longest that a property or method may take: less than the step of a plan may.
const LONGEST: HumanDuration = HumanDuration::seconds(100);

fn possible(timeout: Option<HumanDuration>) -> Result<(), String> {
    match timeout {
        Some(time) if time.0.is_zero() => Err("`timeout` is zero; expected a duration such as 5s".into()),
        Some(time) if time > LONGEST => {
            Err(format!("`timeout` is {time}; expected at most {LONGEST}, which an action has for one step"))
        }
        _ => Ok(()),
    }
}

fn pointer(text: &str) -> Result<(), String> {
    match text.is_empty() || text.starts_with('/') {
        true => Ok(()),
        false => Err(format!("`{text}` is no JSON pointer; expected one such as `/limits/rate`")),
    }
}

fn holes(what: &str, text: &str, known: &[&str]) -> Result<(), String> {
    let template = Template::parse(text, Holes::Arguments).map_err(|why| format!("`{what}`: {why}"))?;
    match template.arguments().find(|name| !known.contains(name)) {
        Some(name) => Err(format!("`{what}` asks for `{{{name}}}`, and there is no such parameter")),
        None => Ok(()),
    }
}

fn url(text: &str, based: bool, known: &[&str]) -> Result<(), String> {
    holes("url", text, known)?;
    if text.starts_with('/') {
        return match based {
            true => Ok(()),
            false => Err(format!(
                "`{text}` is a path at the service, and it is not known where that speaks HTTP; say `endpoint: HOST:PORT`"
            )),
        };
    }
    syntax::url_template("url", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn why(spec: Value) -> String {
        let spec: ManageSpec = serde_json::from_value(spec).expect("a shape");
        let around = Around { endpoint: true, process: true, metrics: None };
        spec.problems(around).into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_value_is_of_a_type_or_not() {
        use PropertyType as T;
        for (kind, good, bad) in [
            (T::Number, json!(1.5), json!("1.5")),
            (T::Integer, json!(2.0), json!(2.5)),
            (T::String, json!("a"), json!(1)),
            (T::Boolean, json!(false), json!(0)),
            (T::Object, json!({}), json!([])),
            (T::Array, json!([]), json!({})),
        ] {
            assert!(kind.fits(&good) && !kind.fits(&bad), "{kind:?}");
            assert!(!kind.fits(&Value::Null));
        }
        assert_eq!(T::Integer.read(" 7 "), Ok(json!(7)));
        assert_eq!(T::String.read("7"), Ok(json!("7")));
        assert!(T::Boolean.read("yes").is_err());
    }

    #[test]
    fn an_action_is_refused_for_what_is_not_offered_and_for_its_type() {
        let spec: ManageSpec = serde_json::from_value(json!({
            "properties": {
                "rate": { "type": "number", "settable": true, "file": { "path": "a.toml", "pointer": "/rate" } },
                "fixed": { "type": "number", "value": 1 },
            },
            "methods": { "add": { "url": "/add", "params": [{ "name": "a", "type": "integer" }] } },
        }))
        .expect("a shape");
        assert!(spec.carries("set") && spec.carries("invoke") && !spec.carries("start"));
        let set = |property: &str, value: Value| {
            spec.refuses(&Action::Set { service: None, property: property.into(), value }).unwrap_or_default()
        };
        let invoke = |method: &str, params: Vec<Value>| {
            spec.refuses(&Action::Invoke { service: None, method: method.into(), params }).unwrap_or_default()
        };
        assert_eq!((set("rate", json!(5)), invoke("add", vec![json!(2)])), (String::new(), String::new()));
        assert!(set("rate", json!("5")).contains("of type number, not string"));
        assert!(set("fixed", json!(5)).contains("cannot be set"));
        assert!(set("none", json!(5)).contains("no property `none` (there are: fixed, rate)"));
        assert!(invoke("add", vec![json!("2")]).contains("of type integer, not string"));
        assert!(invoke("sub", vec![]).contains("no method `sub`"));
    }

    #[test]
    fn each_mistake_is_told_by_what_would_be_right() {
        let property = |p: Value| why(json!({ "listen": "127.0.0.1:1", "properties": { "a": p } }));
        let method = |m: Value| why(json!({ "listen": "127.0.0.1:1", "methods": { "a": m } }));
        assert_eq!(property(json!({ "type": "integer", "http": { "url": "/a" } })), "");
        assert_eq!(method(json!({ "url": "/{a}", "params": [{ "name": "a", "type": "integer" }] })), "");
        for (found, part) in [
            (why(json!({ "listen": "0.0.0.0:1" })), "loopback"),
            (why(json!({ "listen": "here" })), "no address"),
            (property(json!({ "type": "integer" })), "expected one of"),
            (property(json!({ "type": "integer", "value": "x" })), "is no integer"),
            (property(json!({ "type": "integer", "value": 1, "settable": true })), "constant"),
            (
                property(json!({ "type": "array", "file": { "path": "a.yaml" }, "settable": true })),
                "single values",
            ),
            (property(json!({ "type": "array", "file": { "path": "a.ini", "pointer": "/a/b" } })), "INI has"),
            (
                property(json!({ "type": "string", "file": { "path": "a.ini", "pointer": "/a/b/c" } })),
                "/section/key",
            ),
            (property(json!({ "type": "integer", "process": "state" })), "told as no integer"),
            (property(json!({ "type": "integer", "process": "pid", "settable": true })), "only be looked at"),
            (property(json!({ "type": "string", "metric": "p99" })), "a metric is a number"),
            (
                property(json!({ "type": "integer", "http": { "url": "/a", "header": "x y" } })),
                "name of a header",
            ),
            (
                property(json!({ "type": "integer", "http": { "url": "/a", "headers": { "a": "${B" } } })),
                "never closed",
            ),
            (property(json!({ "type": "integer", "file": { "path": "a", "pointer": "x" } })), "pointer"),
            (property(json!({ "type": "integer", "http": { "url": "ftp://a" } })), "no URL"),
            (method(json!({ "url": "/{b}" })), "no such parameter"),
        ] {
            assert!(found.contains(part), "{found}");
        }
        let spec: ManageSpec =
            serde_json::from_value(json!({ "listen": "127.0.0.1:1", "methods": { "a": { "url": "/a" } } }))
                .expect("a shape");
        assert!(spec.problems(Around::default())[0].1.contains("endpoint"));
        let spec: ManageSpec = serde_json::from_value(json!({ "properties": {
            "a": { "type": "integer", "process": "pid" },
            "b": { "type": "integer", "settable": true, "file": { "path": "a", "tell": { "process": true } } },
            "c": { "type": "number", "metric": "none" },
        } }))
        .expect("a shape");
        let none = BTreeSet::new();
        let found = spec.problems(Around { metrics: Some(&none), ..Around::default() });
        assert!(
            found.len() == 3 && found[..2].iter().all(|(_, why)| why.contains("runs no program")),
            "{found:?}"
        );
        assert!(found[2].1.contains("no metric `none`"));
    }
}
