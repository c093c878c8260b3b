//! What of a service can be looked at, set and invoked from outside, and where services keep that, though they know nothing of it (S4; R4-01 to R4-04).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::HumanDuration;
use super::change::{ChangedBy, EventSource, Webhook};
use super::endpoint::Address;
use super::name::service_name_problem;
use super::template::{Holes, Template};

/// A management listener of a service, and what it offers there.
#[derive(Debug, Clone, PartialEq)]
pub struct Manage {
    /// Where homeostat listens.
    pub listen: Address,
    /// What is offered.
    pub spec: Arc<ManageSpec>,
}

/// What of a service is manageable, and where: a listener of its own, beside the port that its clients know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManageSpec {
    /// Where homeostat listens for managers of the service; a loopback address: `127.0.0.1:8081`.
    pub listen: String,
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

/// One property. Exactly one of `file`, `http`, `environment` and `value` says where it is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PropertySpec {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: PropertyType,
    /// Whether it can be set; only with `file` (JSON) and `http`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settable: bool,
    /// In a configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// In what the service answers over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// In this variable of the environment that homeostat was started with, and hands on to the programs that it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
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
    /// JSON pointer to the value (RFC 6901): `/limits/rate`; the whole file, when absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// How it is written; by the end of its name (`.yaml`, `.yml`), otherwise JSON. Only JSON can be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FileFormat>,
    /// How the service is told that the file was changed; not at all, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tell: Option<Tell>,
}

impl FileSource {
    /// How it is written.
    pub fn written(&self) -> FileFormat {
        let yaml = self.path.ends_with(".yaml") || self.path.ends_with(".yml");
        self.format.unwrap_or(if yaml { FileFormat::Yaml } else { FileFormat::Json })
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
}

/// How a service is told that its configuration file was changed: a program is run, or a signal sent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tell {
    /// This program, with these arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
    /// This signal, to the process that `pid_file` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// The file with the number of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<String>,
}

/// The signals that services take as news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalName {
    /// SIGHUP.
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

impl ManageSpec {
    /// Whether observers can subscribe so.
    pub fn offers(&self, mode: SubscriptionMode) -> bool {
        self.subscriptions.as_ref().is_none_or(|modes| modes.contains(&mode))
    }

    /// Says what is wrong with it: for each mistake the section (`properties`, `methods`, or none), the name there, and why.
    /// `based`: whether the service has an HTTP endpoint that paths are relative to.
    pub fn problems(&self, based: bool) -> Vec<(Option<(&'static str, &str)>, String)> {
        let mut wrong: Vec<(Option<(&'static str, &str)>, String)> = Vec::new();
        match super::endpoint::parse_address(&self.listen) {
            Ok(address) if !address.ip().is_loopback() => wrong.push((
                None,
                format!(
                    "`{}` can be reached by others, and this listener asks nobody who he is; listen on a loopback address such as 127.0.0.1:{}",
                    self.listen,
                    address.port()
                ),
            )),
            Ok(_) => {}
            Err(why) => wrong.push((None, why)),
        }
        for (name, property) in &self.properties {
            let named = service_name_problem(name).map_or(Ok(()), Err);
            if let Err(why) = named.and_then(|()| property.check(based)) {
                wrong.push((Some(("properties", name)), why));
            }
        }
        for (name, method) in &self.methods {
            let named = service_name_problem(name).map_or(Ok(()), Err);
            if let Err(why) = named.and_then(|()| method.check(based)) {
                wrong.push((Some(("methods", name)), why));
            }
        }
        wrong
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

    fn check(&self, based: bool) -> Result<(), String> {
        self.check_changes(based)?;
        let sources =
            [self.file.is_some(), self.http.is_some(), self.environment.is_some(), self.value.is_some()];
        if sources.iter().filter(|there| **there).count() != 1 {
            return Err("it is not said, or said more than once, where it is kept; expected one of `file`, `http`, `environment` and `value`".into());
        }
        if self.settable && self.file.is_none() && self.http.is_none() {
            return Err("what is constant cannot be `settable`; only `file` and `http` can".into());
        }
        if let Some(value) = &self.value
            && !self.kind.fits(value)
        {
            return Err(format!("{value} is no {}, which `type` says it is", self.kind.word()));
        }
        if self.environment.as_ref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err("`environment` is no name of a variable".into());
        }
        if let Some(file) = &self.file {
            file.check(self.settable)?;
        }
        if let Some(http) = &self.http {
            url(&http.url, based, &[])?;
            pointer(&http.pointer)?;
            nonzero(http.timeout)?;
            match &http.set {
                Some(_) if !self.settable => return Err("`set` goes with `settable: true`".into()),
                Some(set) => {
                    set.url.as_deref().map_or(Ok(()), |text| url(text, based, &["value"]))?;
                    holes("body", set.body.as_deref().unwrap_or_default(), &["value"])?;
                }
                None => {}
            }
        }
        Ok(())
    }
}

impl FileSource {
    fn check(&self, settable: bool) -> Result<(), String> {
        if self.path.is_empty() {
            return Err("`path` is empty; expected the name of a file".into());
        }
        pointer(&self.pointer)?;
        if settable && self.written() != FileFormat::Json {
            return Err("only files in JSON can be changed in place; leave out `settable`".into());
        }
        match &self.tell {
            Some(_) if !settable => Err("`tell` goes with `settable: true`".into()),
            Some(Tell { exec, signal: None, pid_file: None }) if !exec.is_empty() => Ok(()),
            Some(Tell { exec, signal: Some(_), pid_file: Some(_) }) if exec.is_empty() => Ok(()),
            Some(_) => Err("`tell` is `{ exec: [PROGRAM, …] }` or `{ signal: hup, pid_file: FILE }`".into()),
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
        holes("body", self.body.as_deref().unwrap_or_default(), &names)?;
        pointer(&self.pointer)?;
        nonzero(self.timeout)
    }
}

fn nonzero(timeout: Option<HumanDuration>) -> Result<(), String> {
    match timeout {
        Some(time) if time.0.is_zero() => Err("`timeout` is zero; expected a duration such as 5s".into()),
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
    match text.strip_prefix("http://") {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err(format!("`{text}` is no URL; expected `http://HOST:PORT/PATH`, or a path such as `/admin`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn why(spec: Value) -> String {
        let spec: ManageSpec = serde_json::from_value(spec).expect("a shape");
        spec.problems(true).into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ")
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
            (property(json!({ "type": "integer", "file": { "path": "a.yaml" }, "settable": true })), "JSON"),
            (property(json!({ "type": "integer", "file": { "path": "a", "pointer": "x" } })), "pointer"),
            (property(json!({ "type": "integer", "http": { "url": "ftp://a" } })), "no URL"),
            (method(json!({ "url": "/{b}" })), "no such parameter"),
        ] {
            assert!(found.contains(part), "{found}");
        }
        let spec: ManageSpec =
            serde_json::from_value(json!({ "listen": "127.0.0.1:1", "methods": { "a": { "url": "/a" } } }))
                .expect("a shape");
        assert!(spec.problems(false)[0].1.contains("endpoint"));
    }
}
