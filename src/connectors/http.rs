//! HTTP: a number in an answer (sensor), and a request with the arguments of an action in it (effector).

use async_trait::async_trait;
use reqwest::StatusCode;

use super::check::Check;
use super::fetch::{self, BODY_LIMIT, Headers};
use super::fill::{self, Arguments};
use super::text;
use crate::model::Measurement;
use crate::model::connector::{
    Command, ConnectorError, Effector, HttpEffector, HttpSensor, Sensor, TookPlace,
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

fn has(headers: &Headers, name: &str) -> bool {
    headers.iter().any(|(written, _)| written.eq_ignore_ascii_case(name))
}

/// Whether it may be otherwise later: when whoever answers is overloaded or stands in for one that is not there; perhaps, when it failed; no, when it
/// refused (RFC 9110, RFC 6585, RFC 8470).
fn not_done(status: StatusCode) -> fn(String) -> ConnectorError {
    match status.as_u16() {
        408 | 425 | 429 | 502..=504 => ConnectorError::Unreachable,
        500 | 506.. => ConnectorError::Failed,
        _ => ConnectorError::Answer,
    }
}

#[async_trait]
impl Effector for HttpCaller {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let arguments = Arguments::of(command);
        let url = fill::url(&self.url, &arguments)?;
        let what = format!("{} {}", self.method, fetch::shown(&url));
        let request = self.client.request(self.method.clone(), url);
        let mut request = fetch::with_headers(request, &self.headers, &arguments).await?;
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
                Err(not_done(answer.status)(format!("{what} answered {}{}", answer.status, answer.excerpt())))
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
