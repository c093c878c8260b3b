//! The client of a running daemon. Answers are read as JSON first: members that this version does not know do no harm (R3-26).

use std::time::Duration;

use reqwest::{Method, Response, Url};
use serde_json::Value;

use super::options::DaemonOptions;
use super::{Exit, Failure};
use crate::api::Problem;

/// How long to wait for a connection, and for an answer that is no stream.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(180);

/// Knows where the daemon is and how to be recognised by it.
#[derive(Clone)]
pub struct Client {
    base: Url,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// A client for the daemon at `options.url`.
    ///
    /// # Errors
    /// The URL is malformed, or the file with the token cannot be read.
    pub fn new(options: &DaemonOptions) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(Exit::Usage, message);
        let base = Url::parse(&options.url)
            .ok()
            .filter(|url| url.has_host() && !url.cannot_be_a_base())
            .ok_or_else(|| usage(format!("`{}` is no URL such as http://127.0.0.1:7700", options.url)))?;
        let token = match &options.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| usage(format!("{}: {e}", path.display())))?;
                Some(text.trim().to_string())
            }
            None => options.token.clone().filter(|t| !t.is_empty()),
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .no_proxy()
            .user_agent(concat!("homeostat/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Failure::new(Exit::Failed, chain(&e)))?;
        Ok(Self { base, token, http })
    }

    /// The address of the resource with these path segments, each of them escaped, and this query.
    pub fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Sends a request and waits for the whole answer; `Null` when it is empty.
    ///
    /// # Errors
    /// The daemon cannot be reached, or it answered with a problem.
    pub async fn send(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Value, Failure> {
        let mut request = self.http.request(method, url).timeout(ANSWER);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.checked(request).await?;
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(Exit::Failed, format!("{} answers with no JSON: {e}", self.base)))
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, Failure> {
        self.send(Method::GET, self.url(path, query), None).await
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn stream(&self, url: Url) -> Result<Response, Failure> {
        self.checked(self.http.get(url).header("accept", "text/event-stream")).await
    }

    async fn checked(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|e| self.unreachable(&e))?;
        Err(refused(status, &text))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!(
                "no daemon answers at {}: {} (start one with `homeostat run`, or say where it is with --url)",
                self.base,
                chain(error)
            ),
        )
    }
}

/// The innermost cause says most.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn refused(status: u16, text: &str) -> Failure {
    let exit = match status {
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        400..500 => Exit::Refused,
        _ => Exit::Failed,
    };
    let document: Option<Value> = serde_json::from_str(text).ok();
    let problem = document.clone().and_then(|d| serde_json::from_value::<Problem>(d).ok());
    let message = match &problem {
        Some(problem) => {
            let mut lines = vec![problem.detail.clone()];
            lines.extend(problem.problems.iter().cloned());
            lines.extend(problem.errors.iter().map(|e| format!("sample {}: {}", e.index, e.detail)));
            lines.join("\n  ")
        }
        None => format!("the daemon answers with HTTP {status}"),
    };
    Failure { exit, message, document }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, Failure> {
        Client::new(&DaemonOptions { url: url.into(), token: None, token_file: None })
    }

    #[test]
    fn names_are_escaped_in_paths() {
        let client = client("http://127.0.0.1:7700/base/").expect("client");
        let url = client.url(&["v1", "services", "a/b", "metrics", "cpu[0]?"], &[("max_age", "5s".into())]);
        assert_eq!(url.as_str(), "http://127.0.0.1:7700/base/v1/services/a%2Fb/metrics/cpu[0]%3F?max_age=5s");
    }

    #[test]
    fn what_is_no_url_is_an_error_of_usage() {
        for bad in ["", "localhost", "127.0.0.1:7700", "mailto:x"] {
            assert!(client(bad).is_err_and(|e| e.exit == Exit::Usage), "{bad}");
        }
    }

    #[test]
    fn every_problem_of_a_refusal_is_told() {
        let text = r#"{"type":"urn:homeostat:error:refused","detail":"refused","problems":["a.yaml:1:2: error: x"],"new":1}"#;
        let failure = refused(422, text);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(failure.message, "refused\n  a.yaml:1:2: error: x");
    }
}
