//! Plug-ins: a program, a description in YAML, or both, become a mixin that measures (R1-17, R0-11). What is in a folder, others say.
//!
//! ```yaml
//! # check_disk.yaml, beside the program check_disk
//! title: Free space of a file system
//! sensor: { nagios: { command: ["{plugin}", "-w", "{warning}", "-p", "{path}"], perfdata: "{label}", timeout: "{timeout}" } }
//! outputs: [state]                       # further outputs of the sensor, besides `out`
//! value: value / 1000000                 # what is made of the number
//! attributes:
//!   path: { required: true, about: "the file system" }
//!   warning: { type: number, default: 10 }
//!   label: { about: "which datum" }
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::super::model::{Attribute, AttributeType, TypeId};
use super::provider::{Instance, Names, Provider, Work, duration, named};
use crate::model::connector::SensorSpec;
use crate::model::template::{Holes, Part, Template};

/// What of a value that becomes a part of an address stands for itself (RFC 3986, unreserved).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The hole for the path of the program.
const PROGRAM: &str = "plugin";

/// What lies in a folder under one name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The absolute path of the program.
    pub program: Option<String>,
    /// The text of `NAME.yaml`.
    pub description: Option<String>,
}

/// The type of an attribute, as descriptions say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    #[default]
    Text,
    Number,
    Boolean,
    /// Several words: a list, or a text with spaces between them.
    List,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    #[serde(default, rename = "type")]
    kind: Type,
    about: Option<String>,
    default: Option<Json>,
    #[serde(default)]
    required: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    title: Option<String>,
    sensor: Json,
    value: Option<String>,
    #[serde(default)]
    outputs: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Described>,
}

/// How a plug-in measures.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    program: Option<String>,
    sensor: Json,
    value: Option<String>,
    outputs: Vec<String>,
    attributes: BTreeMap<String, Described>,
}

/// The mixin of a plug-in.
///
/// # Errors
/// What is wrong with its name or its description, and what would be right.
pub fn provider(names: &Names, name: &str, found: &Found) -> Result<Provider, String> {
    let id = names.mixin("metric", name);
    let dotless = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.as_str().parse::<TypeId>().is_err() || !name.chars().all(dotless) || name.len() > 100 {
        return Err(format!(
            "`{name}` cannot be the name of a mixin; expected a letter or digit, then letters, digits, `-` and `_`"
        ));
    }
    let description = match &found.description {
        Some(text) => {
            let options = serde_saphyr::options! { strict_booleans: true };
            let read: Result<Description, _> = serde_saphyr::from_str_with_options(text, options);
            read.map_err(|why| format!("`{name}.yaml`: {why}"))?
        }
        None => conventional(name),
    };
    let title = description.title.clone().unwrap_or_else(|| format!("What the plug-in {name} measures"));
    let plugin = Plugin {
        program: found.program.clone(),
        sensor: description.sensor,
        value: description.value,
        outputs: description.outputs,
        attributes: description.attributes,
    };
    plugin.check().map_err(|why| format!("`{name}.yaml`: {why}"))?;
    let attributes = plugin.attributes.iter().map(|(name, described)| (name.clone(), described.attribute()));
    let attributes: Vec<(String, Attribute)> = attributes.collect();
    let outputs = plugin.outputs.clone();
    let mut provider = Provider::plugin(names, name, &title, Arc::new(plugin)).output("out");
    for output in &outputs {
        provider = provider.output(output);
    }
    Ok(attributes
        .into_iter()
        .fold(provider, |provider, (name, attribute)| provider.control(&name, attribute)))
}

/// The attribute that is the arguments of a program.
const ARGUMENTS: &str = "args";

/// A program without a description: by its name a plug-in of Nagios (`check_…`), or one that prints a number or JSON.
fn conventional(name: &str) -> Description {
    let described =
        |kind: Type, about: &str| Described { kind, about: Some(about.into()), ..Default::default() };
    let mut attributes = BTreeMap::from([
        (
            ARGUMENTS.to_string(),
            described(Type::List, "its arguments: a list, or words with spaces between them"),
        ),
        (
            "timeout".to_string(),
            described(Type::Number, "how long a run may take, in seconds; 5, when absent"),
        ),
    ]);
    let (sensor, outputs) = match name.starts_with("check_") {
        true => {
            let about = "the label of the performance datum; the first, when absent";
            attributes.insert("perfdata".into(), described(Type::Text, about));
            let nagios = json!({ "command": ["{plugin}", "{args}"], "perfdata": "{perfdata}", "timeout": "{timeout}" });
            (json!({ "nagios": nagios }), vec!["state".to_string()])
        }
        false => {
            let about = "where in the JSON that it prints (RFC 6901); absent: it prints a number";
            attributes.insert("pointer".into(), described(Type::Text, about));
            let exec =
                json!({ "command": ["{plugin}", "{args}"], "pointer": "{pointer}", "timeout": "{timeout}" });
            (json!({ "exec": exec }), Vec::new())
        }
    };
    Description { title: None, sensor, value: None, outputs, attributes }
}

impl Described {
    fn attribute(&self) -> Attribute {
        let attribute = match self.kind {
            Type::Text => Attribute::text(),
            Type::Number => Attribute::number(),
            Type::Boolean => Attribute::boolean(),
            Type::List => Attribute::text().or(AttributeType::Array),
        };
        Attribute {
            description: self.about.clone(),
            default: self.default.clone(),
            required: self.required,
            ..attribute
        }
    }

    /// Any value of the type, to see whether the rest fits.
    fn sample(&self) -> Json {
        self.default.clone().unwrap_or_else(|| match self.kind {
            Type::Text | Type::List => "x".into(),
            Type::Number => 1.into(),
            Type::Boolean => true.into(),
        })
    }

    fn fits(&self, value: &Json) -> bool {
        match self.kind {
            Type::Text => value.is_string(),
            Type::Number => value.is_number(),
            Type::Boolean => value.is_boolean(),
            Type::List => value.is_string() || value.is_array(),
        }
    }
}

impl Plugin {
    /// Finds what no collector could make right.
    fn check(&self) -> Result<(), String> {
        let identifier = |name: &String| crate::model::name::identifier_problem(name);
        for name in self.attributes.keys().chain(&self.outputs) {
            if let Some(why) = identifier(name) {
                return Err(format!("the attribute {why}"));
            }
            let taken = [PROGRAM, "out"].contains(&name.as_str());
            if taken || (self.outputs.contains(name) && self.attributes.contains_key(name)) {
                return Err(format!("the attribute `{name}` is there already; give it another name"));
            }
        }
        for (name, described) in &self.attributes {
            if let Some(default) = described.default.as_ref().filter(|default| !described.fits(default)) {
                return Err(format!("the default of `{name}` is {default}, which is not of its type"));
            }
        }
        let protocol =
            self.sensor.as_object().filter(|kinds| kinds.len() == 1).and_then(|kinds| kinds.keys().next());
        let known =
            ["exec", "nagios", "http", "host", "process", "ping", "prometheus", "udp", "statsd", "collectd"];
        if !protocol.is_some_and(|protocol| known.contains(&protocol.as_str())) {
            return Err(format!("`sensor` is {}; expected one of {}", self.sensor, known.join(", ")));
        }
        let samples = |name: &str| match name {
            PROGRAM => Ok(Some("/plugin".into())),
            name => match self.attributes.get(name) {
                Some(described) => Ok(Some(described.sample())),
                None => Err(format!(
                    "`{{{name}}}` in `sensor` is no attribute; `attributes` has to say what it is"
                )),
            },
        };
        let filled = fill(&self.sensor, false, &samples)?.unwrap_or_default();
        match serde_json::from_value::<SensorSpec>(filled) {
            // A sample may be no good value where another would be.
            Err(why) if self.attributes.is_empty() || why.to_string().contains("unknown field") => {
                Err(format!("`sensor`: {why}"))
            }
            _ => Ok(()),
        }
    }

    /// Adds what a collector with this mixin measures.
    ///
    /// # Errors
    /// An attribute that does not fit, or no program on this machine.
    pub(super) fn build(&self, at: &Instance<'_>, work: &mut Work) -> Result<(), String> {
        let values = |name: &str| match name {
            PROGRAM => match &self.program {
                Some(path) => Ok(Some(path.as_str().into())),
                None => Err(format!("the program `{}` is not in the folder of plug-ins here", at.term())),
            },
            name => Ok(at
                .value(name)
                .cloned()
                .filter(|value| !value.is_null())
                .map(|value| self.said(name, value))),
        };
        let mut spec = fill(&self.sensor, false, &values)?.unwrap_or_default();
        let polled = serde_json::from_value::<SensorSpec>(spec.clone())
            .map_err(|why| format!("with these attributes its sensor cannot be read: {why}"))?
            .every()
            .is_some();
        if let Some(Json::Object(fields)) = spec.as_object_mut().and_then(|kinds| kinds.values_mut().next())
            && polled
        {
            fields.entry("every").or_insert_with(|| at.every().into());
        }
        let raw = format!("{}_{}", named(at.term()), at.key);
        work.sensors.insert(raw.clone(), spec);
        let value = self.value.as_ref().map_or_else(|| raw.clone(), |value| value.replace("value", &raw));
        work.computed(at, "out", value.into());
        for output in &self.outputs {
            work.computed(at, output, format!("{raw}_{output}").into());
        }
        Ok(())
    }

    /// A value as sensors want it: a time limit is a duration, several words are a list.
    fn said(&self, name: &str, value: Json) -> Json {
        let list = self.attributes.get(name).is_some_and(|described| described.kind == Type::List);
        match value {
            Json::Number(seconds) if name == "timeout" => {
                duration(seconds.as_f64().unwrap_or_default()).into()
            }
            Json::String(words) if list => words.split_whitespace().collect(),
            value => value,
        }
    }
}

/// The value for a hole; `None`: the client gave none, and what asks for it is left out.
type Values<'a> = dyn Fn(&str) -> Result<Option<Json>, String> + 'a;

/// Fills in the holes of a sensor; `words`: within a command, where everything is text and a list is several words.
fn fill(value: &Json, words: bool, values: &Values<'_>) -> Result<Option<Json>, String> {
    match value {
        Json::Object(fields) => {
            let mut filled = Map::new();
            for (name, value) in fields {
                if let Some(value) = fill(value, words || name == "command", values)? {
                    filled.insert(name.clone(), value);
                }
            }
            Ok(Some(Json::Object(filled)))
        }
        Json::Array(list) => {
            let mut filled = Vec::new();
            for value in list {
                match fill(value, words, values)? {
                    Some(Json::Array(several)) => filled.extend(several),
                    Some(one) => filled.push(one),
                    None => {}
                }
            }
            Ok(Some(Json::Array(filled)))
        }
        Json::String(text) => fill_text(text, words, values),
        other => Ok(Some(other.clone())),
    }
}

fn fill_text(text: &str, words: bool, values: &Values<'_>) -> Result<Option<Json>, String> {
    let template = Template::parse(text, Holes::Arguments)?;
    if let [Part::Argument(name)] = template.parts() {
        let Some(value) = values(name)? else { return Ok(None) };
        return alone(name, value, words).map(Some);
    }
    let address = text.contains("://");
    let mut filled = String::new();
    for part in template.parts() {
        let Part::Argument(name) = part else {
            if let Part::Text(text) = part {
                filled.push_str(text);
            }
            continue;
        };
        let Some(value) = values(name)? else { return Ok(None) };
        let value = word(&value);
        if words && filled.is_empty() && name != PROGRAM {
            no_option(name, &value)?;
        }
        match address {
            true => filled.extend(utf8_percent_encode(&value, PLAIN)),
            false => filled.push_str(&no_secret(name, value, words)?),
        }
    }
    Ok(Some(filled.into()))
}

/// A hole with nothing around it.
fn alone(name: &str, value: Json, words: bool) -> Result<Json, String> {
    match value {
        Json::Array(list) => {
            let words: Vec<String> = list.iter().map(word).collect();
            // What is called so are the arguments of a program, with its options.
            if name != ARGUMENTS {
                words.iter().try_for_each(|word| no_option(name, word))?;
            }
            Ok(words.into_iter().map(Json::String).collect())
        }
        Json::String(text) if words => no_option(name, &text).map(|()| text.into()),
        Json::String(text) => no_secret(name, text, words).map(Json::String),
        value if words => Ok(word(&value).into()),
        value => Ok(value),
    }
}

/// A value as one word.
fn word(value: &Json) -> String {
    let text = match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.replace(char::is_control, " ")
}

/// What is meant as a value must not become an option of the program.
fn no_option(name: &str, value: &str) -> Result<(), String> {
    match value.starts_with('-') && value.parse::<f64>().is_err() {
        true => Err(format!("the attribute `{name}` begins with `-`, as options do; expected a value")),
        false => Ok(()),
    }
}

/// What a client says must not ask for a secret (`${NAME}`), as headers can.
fn no_secret(name: &str, value: String, words: bool) -> Result<String, String> {
    match value.contains("${") && !words {
        true => Err(format!("the attribute `{name}` has `${{`, which stands for secrets; leave it out")),
        false => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(description: &str) -> Found {
        Found { program: Some("/p/x".into()), description: Some(description.into()) }
    }

    fn filled(text: &Json, values: &Json) -> Result<Json, String> {
        fill(text, false, &|name: &str| Ok(values.get(name).cloned())).map(Option::unwrap_or_default)
    }

    #[test]
    fn a_hole_without_a_value_takes_what_is_around_it_along() {
        let sensor = json!({ "exec": { "command": ["{plugin}", "{args}", "-p={path}", "{n}"], "pointer": "{pointer}" } });
        let values = json!({ "plugin": "/p/x", "args": ["a", 1], "n": 2 });
        assert_eq!(
            filled(&sensor, &values).unwrap(),
            json!({ "exec": { "command": ["/p/x", "a", "1", "2"] } })
        );
        let values = json!({ "plugin": "/p/x", "path": "/", "n": -2, "pointer": "/a" });
        let expected = json!({ "exec": { "command": ["/p/x", "-p=/", "-2"], "pointer": "/a" } });
        assert_eq!(filled(&sensor, &values).unwrap(), expected);
    }

    #[test]
    fn what_a_client_says_is_a_value_and_nothing_else() {
        let command = json!({ "command": ["{plugin}", "{path}"] });
        let wrong = filled(&command, &json!({ "plugin": "p", "path": "--delete" }));
        assert!(wrong.unwrap_err().contains("`path` begins with `-`"));
        let wrong = filled(&command, &json!({ "plugin": "p", "path": ["one", "--delete"] }));
        assert!(wrong.unwrap_err().contains("`path` begins with `-`"));
        // But for what is called the arguments.
        let arguments = filled(&json!(["{args}"]), &json!({ "args": ["-w", "10%"] }));
        assert_eq!(arguments.unwrap(), json!(["-w", "10%"]));
        let url = json!({ "url": "http://127.0.0.1:1/{path}?q=1" });
        let inside = filled(&url, &json!({ "path": "a/../b?c#d e" })).unwrap();
        assert_eq!(inside["url"], "http://127.0.0.1:1/a%2F..%2Fb%3Fc%23d%20e?q=1");
        let header = json!({ "headers": { "x": "{token} ${KEPT}" } });
        assert!(filled(&header, &json!({ "token": "${HOME}" })).unwrap_err().contains("secrets"));
        assert_eq!(filled(&header, &json!({ "token": "t" })).unwrap()["headers"]["x"], "t ${KEPT}");
    }

    #[test]
    fn a_wrong_description_says_what_would_be_right() {
        let names = Names::default();
        for (name, description, said) in [
            ("a b", None, "cannot be the name of a mixin"),
            ("a.b", None, "cannot be the name of a mixin"),
            ("x", Some("sensor: push"), "expected one of exec, nagios"),
            ("x", Some("sensor: { htpp: { url: u } }"), "expected one of exec, nagios"),
            ("x", Some("sensor: { http: { ulr: u } }"), "ulr"),
            ("x", Some("sensor: { http: { url: 'http://a/{b}' } }"), "`{b}` in `sensor` is no attribute"),
            ("x", Some("senser: {}"), "senser"),
            (
                "x",
                Some("sensor: { exec: { command: ['{plugin}'] } }\nattributes: { out: {} }"),
                "`out` is there already",
            ),
            ("x", Some("sensor: { exec: { command: ['{plugin}'] } }\nattributes: { a-b: {} }"), "a-b"),
            (
                "x",
                Some(
                    "sensor: { exec: { command: ['{plugin}'] } }\nattributes: { a: { type: number, default: b } }",
                ),
                "default of `a`",
            ),
        ] {
            let found = Found { program: Some("/p/x".into()), description: description.map(str::to_string) };
            let why = provider(&names, name, &found).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn attributes_of_a_description_are_those_of_the_mixin() {
        let text =
            "title: T\nsensor: { host: { what: '{what}' } }\nattributes: { what: { required: true } }\n";
        let provider = provider(&Names::default(), "machine", &found(text)).unwrap();
        assert_eq!(provider.id().as_str(), "http://example.com/occi/monitoring/metric#machine");
        assert_eq!(provider.mixin.mixin.title.as_deref(), Some("T"));
        let attributes: Vec<&String> = provider.mixin.mixin.attributes.keys().collect();
        assert_eq!(
            attributes,
            ["com.example.occi.monitoring.machine.out", "com.example.occi.monitoring.machine.what"]
        );
    }
}
