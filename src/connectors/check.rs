//! After a crash in the middle of an action: the question to its target whether it took place.

use serde_json::Value;

use super::fetch::{self, BODY_LIMIT, Headers};
use super::fill::{self, Arguments};
use super::{program, text};
use crate::model::connector::{Command, ConnectorError, EffectCheck, TookPlace};
use crate::model::template::{Holes, Template};

/// The question after a crash: a GET whose answer must equal something, or a program that exits with 0 or 1.
pub(super) enum Check {
    Get {
        client: reqwest::Client,
        url: Template,
        pointer: Option<String>,
        equals: Template,
        headers: Headers,
    },
    Run {
        command: Vec<Template>,
    },
}

impl Check {
    pub(super) fn new(
        spec: &EffectCheck,
        client: reqwest::Client,
        headers: Headers,
    ) -> Result<Self, ConnectorError> {
        if let Some(words) = &spec.command {
            return Ok(Self::Run { command: program::templates(words)? });
        }
        Ok(Self::Get {
            client,
            url: fill::parse(spec.url.as_deref().unwrap_or_default(), Holes::Arguments)?,
            pointer: spec.pointer.clone(),
            equals: fill::parse(spec.equals.as_deref().unwrap_or("{value}"), Holes::Arguments)?,
            headers,
        })
    }

    pub(super) async fn ask(&self, command: &Command) -> Result<TookPlace, ConnectorError> {
        let arguments = Arguments::of(command);
        match self {
            Self::Run { command: words } => {
                let words = program::fill(words, &arguments)?;
                let output = program::run(&words, &[]).await?;
                match output.code {
                    Some(0) => Ok(TookPlace::Yes),
                    Some(1) => Ok(TookPlace::No),
                    _ => Err(output.failure()),
                }
            }
            Self::Get { client, url, pointer, equals, headers } => {
                let expected = fill::plain(equals, &arguments)?;
                let url = fill::url(url, &arguments)?;
                let what = format!("GET {}", fetch::shown(&url));
                let request = fetch::with_headers(client.get(url), headers, &arguments).await?;
                let fetched = fetch::get(request, &what, BODY_LIMIT).await?;
                let found = text::find(&fetched.body, pointer.as_deref(), &what)?;
                Ok(if same(&found, &expected) { TookPlace::Yes } else { TookPlace::No })
            }
        }
    }
}

/// Equal as JSON, as numbers, or as text.
fn same(found: &Value, expected: &str) -> bool {
    if fill::raw(found) == expected {
        return true;
    }
    match serde_json::from_str::<Value>(expected) {
        Ok(expected) if *found == expected => true,
        Ok(Value::Number(expected)) => {
            text::json_number(found).ok() == expected.as_f64() && !found.is_boolean()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_compared_as_json_as_numbers_and_as_text() {
        for (found, expected) in [
            (json!(10), "10"),
            (json!(10.0), "10"),
            (json!("10"), "10"),
            (json!("on"), "on"),
            (json!(true), "true"),
            (json!({"a": [1]}), r#"{ "a": [1] }"#),
        ] {
            assert!(same(&found, expected), "{found} {expected}");
        }
        for (found, expected) in
            [(json!(10), "11"), (json!(true), "1"), (json!(null), ""), (json!("on"), "off")]
        {
            assert!(!same(&found, expected), "{found} {expected}");
        }
    }
}
