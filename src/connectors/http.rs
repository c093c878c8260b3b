//! HTTP: a number in an answer (sensor), and a request with the arguments of an action in it (effector).

use async_trait::async_trait;
use serde_json::Value;

use super::fetch::{self, BODY_LIMIT, Headers};
use super::fill::{self, Arguments};
use super::{program, text};
use crate::model::Measurement;
use crate::model::connector::{
    Command, ConnectorError, EffectCheck, Effector, HttpEffector, HttpSensor, Sensor, TookPlace,
};
use crate::model::syntax;
use crate::model::template::{Holes, Template};

/// Reads a number with a GET; one read is one request.
pub(super) struct HttpReader {
    client: reqwest::Client,
    url: url::Url,
    what: String,
    pointer: Option<String>,
    headers: Headers,
}

impl HttpReader {
    pub(super) fn new(spec: &HttpSensor, client: reqwest::Client) -> Result<Self, ConnectorError> {
        let url = syntax::url(&spec.url).map_err(ConnectorError::Config)?;
        Ok(Self {
            client,
            what: format!("GET {}", fetch::shown(&url)),
            url,
            pointer: spec.pointer.clone(),
            headers: fetch::headers(&spec.headers, Holes::Secrets)?,
        })
    }
}

#[async_trait]
impl Sensor for HttpReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let mut request = self.client.get(self.url.clone());
        for (name, template) in &self.headers {
            request = request.header(name, fill::header(name, template, None).await?);
        }
        let fetched = fetch::get(request, &self.what, BODY_LIMIT).await?;
        Ok(vec![Measurement::value(text::read(&fetched.body, self.pointer.as_deref(), &self.what)?)])
    }
}

/// How values are written into a body, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Plain,
}

/// Carries out an action with a request.
pub(super) struct HttpCaller {
    client: reqwest::Client,
    method: reqwest::Method,
    url: Template,
    body: Option<Template>,
    kind: Kind,
    headers: Headers,
    check: Option<Check>,
}

impl HttpCaller {
    pub(super) fn new(spec: &HttpEffector, client: reqwest::Client) -> Result<Self, ConnectorError> {
        let method = spec.method.as_deref().unwrap_or("POST").to_ascii_uppercase();
        let headers = fetch::headers(&spec.headers, Holes::Both)?;
        let check =
            spec.check.as_ref().map(|c| Check::new(c, client.clone(), headers.clone())).transpose()?;
        Ok(Self {
            client,
            method: reqwest::Method::from_bytes(method.as_bytes())
                .map_err(|e| ConnectorError::Config(format!("`method: {method}`: {e}")))?,
            url: fill::parse(&spec.url, Holes::Arguments)?,
            body: spec.body.as_deref().map(|b| fill::parse(b, Holes::Arguments)).transpose()?,
            kind: kind(spec),
            headers,
            check,
        })
    }

    fn body(&self, command: &Command, arguments: &Arguments) -> Result<Option<String>, ConnectorError> {
        match (&self.body, self.kind) {
            (Some(template), Kind::Json) => fill::json(template, arguments).map(Some),
            (Some(template), Kind::Form) => fill::encoded(template, arguments).map(Some),
            (Some(template), Kind::Plain) => fill::plain(template, arguments).map(Some),
            (None, _)
                if [reqwest::Method::GET, reqwest::Method::DELETE, reqwest::Method::HEAD]
                    .contains(&self.method) =>
            {
                Ok(None)
            }
            (None, _) => Ok(Some(fill::everything(command))),
        }
    }
}

fn kind(spec: &HttpEffector) -> Kind {
    let written = spec.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    match written.map(|(_, value)| value.to_ascii_lowercase()) {
        None => Kind::Json,
        Some(value) if value.contains("json") => Kind::Json,
        Some(value) if value.contains("x-www-form-urlencoded") => Kind::Form,
        Some(_) => Kind::Plain,
    }
}

/// Fills in a URL and checks what came out.
fn filled_url(template: &Template, arguments: &Arguments) -> Result<url::Url, ConnectorError> {
    syntax::url(&fill::url(template, arguments)?).map_err(ConnectorError::Config)
}

async fn with_headers(
    mut request: reqwest::RequestBuilder,
    headers: &Headers,
    arguments: &Arguments,
) -> Result<reqwest::RequestBuilder, ConnectorError> {
    for (name, template) in headers {
        request = request.header(name, fill::header(name, template, Some(arguments)).await?);
    }
    Ok(request)
}

fn has(headers: &Headers, name: &str) -> bool {
    headers.iter().any(|(written, _)| written.eq_ignore_ascii_case(name))
}

#[async_trait]
impl Effector for HttpCaller {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let arguments = Arguments::of(command);
        let url = filled_url(&self.url, &arguments)?;
        let what = format!("{} {}", self.method, fetch::shown(&url));
        let request = self.client.request(self.method.clone(), url);
        let mut request = with_headers(request, &self.headers, &arguments).await?;
        if !has(&self.headers, "idempotency-key") {
            request = request.header("idempotency-key", &command.key);
        }
        if let Some(body) = self.body(command, &arguments)? {
            if !has(&self.headers, "content-type") {
                request = request.header(reqwest::header::CONTENT_TYPE, "application/json");
            }
            request = request.body(body);
        }
        let answer = fetch::send(request, &what, BODY_LIMIT).await?;
        match answer.status.is_success() {
            true => Ok(format!("{}{}", answer.status, answer.excerpt())),
            false => {
                Err(ConnectorError::Answer(format!("{what} answered {}{}", answer.status, answer.excerpt())))
            }
        }
    }

    async fn took_place(&self, command: &Command) -> Result<TookPlace, ConnectorError> {
        match &self.check {
            Some(check) => check.ask(command).await,
            None => Ok(TookPlace::Unknown),
        }
    }
}

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
                let url = filled_url(url, &arguments)?;
                let what = format!("GET {}", fetch::shown(&url));
                let request = with_headers(client.get(url), headers, &arguments).await?;
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
