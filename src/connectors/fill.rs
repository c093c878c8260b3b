//! Filling the templates of effectors with the arguments of an action, safely for the place where the text ends up.
//! What is filled in is never scanned for holes again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::text::shorten;
use crate::model::connector::{Command, ConnectorError};
use crate::model::syntax;
use crate::model::template::{Holes, Part, Template};

/// The most of a secret file that is read, bytes.
const SECRET_LIMIT: u64 = 64 * 1024;

/// What a template may ask for: the action's own arguments first, then `service`, `action` and `key`.
pub(super) struct Arguments {
    action: String,
    values: BTreeMap<String, Value>,
}

impl Arguments {
    /// Those of `command`.
    pub(super) fn of(command: &Command) -> Self {
        let mut values = command.action.arguments();
        for (name, text) in [
            ("service", command.service.as_str()),
            ("action", command.action.name()),
            ("key", command.key.as_str()),
        ] {
            values.entry(name.to_string()).or_insert_with(|| text.into());
        }
        Self { action: command.action.name().to_string(), values }
    }

    fn get(&self, name: &str) -> Result<&Value, ConnectorError> {
        self.values.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
            ConnectorError::Config(format!(
                "the template asks for `{{{name}}}`, which the action `{}` does not have; it has {}",
                self.action,
                known.join(", ")
            ))
        })
    }
}

/// Parses a template whose syntax `problem()` has already accepted.
pub(super) fn parse(text: &str, holes: Holes) -> Result<Template, ConnectorError> {
    Template::parse(text, holes).map_err(ConnectorError::Config)
}

/// A value as text: strings as they are, everything else as JSON.
pub(super) fn raw(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn fill(
    template: &Template,
    arguments: &Arguments,
    mut insert: impl FnMut(&mut String, &Value),
) -> Result<String, ConnectorError> {
    let mut filled = String::new();
    for part in template.parts() {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Argument(name) => insert(&mut filled, arguments.get(name)?),
            Part::Environment(name) | Part::File(name) => {
                return Err(ConnectorError::Config(format!(
                    "the secret `{name}` stands where only headers may have one"
                )));
            }
        }
    }
    Ok(filled)
}

/// For arguments of programs, log lines and plain bodies: values as text.
pub(super) fn plain(template: &Template, arguments: &Arguments) -> Result<String, ConnectorError> {
    fill(template, arguments, |filled, value| filled.push_str(&raw(value)))
}

/// For form bodies: values percent-encoded (RFC 3986, everything but unreserved characters).
pub(super) fn encoded(template: &Template, arguments: &Arguments) -> Result<String, ConnectorError> {
    fill(template, arguments, |filled, value| percent_encode(filled, &raw(value)))
}

/// A URL, values percent-encoded. `.` and `..` cannot be encoded and would lead to another path, so they are refused.
pub(super) fn url(template: &Template, arguments: &Arguments) -> Result<url::Url, ConnectorError> {
    for name in template.arguments() {
        let value = raw(arguments.get(name)?);
        if value == "." || value == ".." {
            return Err(ConnectorError::Config(format!(
                "`{{{name}}}` is `{value}`, which would lead to another path of the URL"
            )));
        }
    }
    syntax::url(&encoded(template, arguments)?).map_err(ConnectorError::Config)
}

/// For JSON bodies: inside a JSON string the value's text, escaped; elsewhere the value as JSON, strings with their quotes.
pub(super) fn json(template: &Template, arguments: &Arguments) -> Result<String, ConnectorError> {
    let mut inside = false;
    let mut filled = String::new();
    for part in template.parts() {
        match part {
            Part::Text(text) => {
                inside = ends_inside_string(text, inside);
                filled.push_str(text);
            }
            Part::Argument(name) if inside => {
                let quoted = Value::String(raw(arguments.get(name)?)).to_string();
                filled.push_str(&quoted[1..quoted.len() - 1]);
            }
            Part::Argument(name) => filled.push_str(&arguments.get(name)?.to_string()),
            Part::Environment(_) | Part::File(_) => {}
        }
    }
    Ok(filled)
}

/// All arguments as one JSON object, for effectors without a body template.
pub(super) fn everything(command: &Command) -> String {
    Value::Object(command.action.arguments().into_iter().collect()).to_string()
}

/// For headers: values as text, secrets from the environment and from files. Secrets never appear in errors.
pub(super) async fn header(
    name: &str,
    template: &Template,
    arguments: Option<&Arguments>,
) -> Result<reqwest::header::HeaderValue, ConnectorError> {
    let filled = secret(&format!("header `{name}`"), template, arguments).await?;
    let mut value = reqwest::header::HeaderValue::from_str(&filled).map_err(|_| {
        ConnectorError::Config(format!("header `{name}` would contain a character that headers cannot have"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A text with secrets in it; `what` it is stands in errors.
pub(super) async fn secret(
    what: &str,
    template: &Template,
    arguments: Option<&Arguments>,
) -> Result<String, ConnectorError> {
    let mut filled = String::new();
    for part in template.parts() {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Argument(argument) => match arguments {
                Some(arguments) => filled.push_str(&raw(arguments.get(argument)?)),
                None => return Err(ConnectorError::Config(format!("{what} asks for `{{{argument}}}`"))),
            },
            Part::Environment(variable) => filled.push_str(&environment(what, variable)?),
            Part::File(path) => filled.push_str(&secret_file(what, path).await?),
        }
    }
    Ok(filled)
}

fn environment(what: &str, variable: &str) -> Result<String, ConnectorError> {
    std::env::var(variable).map_err(|_| {
        ConnectorError::Config(format!(
            "{what} needs the environment variable `{variable}`, which is not set"
        ))
    })
}

async fn secret_file(what: &str, path: &str) -> Result<String, ConnectorError> {
    let fail = |why: String| {
        ConnectorError::Config(format!("{what} needs the file `{}`: {why}", shorten(path, 200)))
    };
    let size = tokio::fs::metadata(path).await.map_err(|e| fail(e.to_string()))?.len();
    if size > SECRET_LIMIT {
        return Err(fail(format!("it has {size} bytes; at most {SECRET_LIMIT} are read")));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|e| fail(e.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}

fn percent_encode(filled: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            filled.push(char::from(byte));
        } else {
            filled.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Whether text that begins inside (or outside) a JSON string ends inside one.
fn ends_inside_string(text: &str, mut inside: bool) -> bool {
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::Action;

    fn arguments(value: Value) -> Arguments {
        let action = Action::Set { service: None, property: "threads".into(), value };
        Arguments::of(&Command { service: "C 2".into(), action, key: "A/17/0".into() })
    }

    fn template(text: &str) -> Template {
        parse(text, Holes::Arguments).expect(text)
    }

    #[test]
    fn in_urls_values_are_percent_encoded() {
        let filled =
            url(&template("http://h/{service}/{property}?v={value}&k={key}"), &arguments(json!("a/ü &")));
        assert_eq!(filled.expect("a URL").as_str(), "http://h/C%202/threads?v=a%2F%C3%BC%20%26&k=A%2F17%2F0");
    }

    #[test]
    fn a_value_cannot_lead_to_another_path() {
        let error = url(&template("http://h/config/{value}"), &arguments(json!(".."))).expect_err("refused");
        assert!(error.to_string().contains("another path"), "{error}");
    }

    #[test]
    fn in_json_the_place_decides_about_quotes() {
        for (text, value, filled) in [
            ("{value}", json!(10), "10"),
            ("{value}", json!("ten"), "\"ten\""),
            (r#"{"v": {value}}"#, json!("a\"b"), r#"{"v": "a\"b"}"#),
            (r#"{"v": "{value}"}"#, json!("a\"b"), r#"{"v": "a\"b"}"#),
            (r#"{"v": "<{value}>", "p": {property}}"#, json!([1]), r#"{"v": "<[1]>", "p": "threads"}"#),
            (r#"{"q\"": {value}}"#, json!(null), r#"{"q\"": null}"#),
        ] {
            assert_eq!(json(&template(text), &arguments(value)).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn an_argument_that_the_action_does_not_have_is_named() {
        let error = plain(&template("{size}"), &arguments(json!(1))).expect_err("size").to_string();
        assert!(
            error.contains("`{size}`") && error.contains("`set`") && error.contains("property"),
            "{error}"
        );
    }

    #[test]
    fn what_is_filled_in_is_not_a_template() {
        assert_eq!(plain(&template("{value}"), &arguments(json!("{property}"))).as_deref(), Ok("{property}"));
    }

    #[test]
    fn an_argument_goes_before_the_name_of_the_step() {
        let action = Action::Remember { service: None, key: "mine".into(), value: json!(1) };
        let arguments = Arguments::of(&Command { service: "A".into(), action, key: "A/1/0".into() });
        assert_eq!(plain(&template("{key} {action}"), &arguments).as_deref(), Ok("mine remember"));
    }

    #[tokio::test]
    async fn secrets_come_from_the_environment_and_from_files_when_they_are_used() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").expect("write");
        let text = format!("Bearer ${{file:{}}} ${{CARGO_PKG_NAME}} {{property}}", path.display());
        let both = parse(&text, Holes::Both).expect("template");
        let arguments = arguments(json!(1));
        let value = header("authorization", &both, Some(&arguments)).await.expect("value");
        assert_eq!(value.to_str().ok(), Some("Bearer s3cret homeostat threads"));
        std::fs::write(&path, "new\u{1}").expect("write");
        let error = header("authorization", &both, Some(&arguments)).await.expect_err("control").to_string();
        assert!(error.contains("authorization") && !error.contains("new"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_secret_is_named() {
        let unset = parse("${HOMEOSTAT_TEST_UNSET}", Holes::Secrets).expect("template");
        let error = header("x", &unset, None).await.expect_err("unset").to_string();
        assert!(error.contains("HOMEOSTAT_TEST_UNSET") && error.contains("not set"), "{error}");
        let missing = parse("${file:/nowhere/token}", Holes::Secrets).expect("template");
        let error = header("x", &missing, None).await.expect_err("missing").to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }

    proptest! {
        #[test]
        fn a_json_body_stays_json_whatever_the_value(text in "\\PC*", number in proptest::num::f64::NORMAL) {
            for value in [json!(text), json!(number), json!({"k": [text]})] {
                let filled = json(&template(r#"{"a": {value}, "b": "x{value}y", "c": ["{value}", {value}]}"#), &arguments(value.clone()));
                let back: Value = serde_json::from_str(&filled.expect("filled")).expect("still JSON");
                prop_assert_eq!(back["a"].to_string(), value.to_string());
                let text = raw(&value);
                prop_assert_eq!(back["c"][0].as_str(), Some(text.as_str()));
            }
        }
    }
}
