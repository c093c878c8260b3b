//! `homeostat fake NAME`: a toy service for trying policies out, an HTTP service with settable properties that can be made to misbehave.
//!
//! ```text
//! GET  /                          {"name": "C1", "cost": 20, "threads": 4}, and `calls` once methods were called
//! GET  /{property}                its value as JSON; 404 names the properties there are
//! PUT  /{property}                a JSON value; a property that is not there is made
//! POST /invoke/{method}           a JSON array of parameters; methods: add (sum of numbers), echo, fail
//! GET  /metrics                   the numeric properties as Prometheus text
//! POST /fail?status=500&times=3   the next three requests are answered with 500
//! POST /delay?ms=200              every later request waits so long; 0 ends that
//! ```
//!
//! With `--calls c=URL` it uses another service: every GET / asks that first, and its answer stands in the own one under `c`; when it gives
//! none, the own answer is 502. With `--ask URL` it is a client besides, whose numbers are the properties `asked`, `failed` and `answer`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::model::HumanDuration;
use crate::model::name::service_name_problem;

/// Paths that are no properties.
const RESERVED: &[&str] = &["name", "calls", "metrics", "invoke", "fail", "delay"];

/// How long another service may take to answer.
const CALL_TIME: Duration = Duration::from_secs(5);

/// The longest delay that can be asked for.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// What the toy service is to be.
#[derive(Debug, Clone, clap::Args)]
pub struct FakeOptions {
    /// The name of the service
    #[arg(value_name = "NAME", value_parser = service_name)]
    pub name: String,
    /// Where it listens; port 0 takes a free one, and the address is printed
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// A property and its value, as JSON or else as text; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, Value)>,
    /// A service that it uses for every answer, by the name of the reference; repeatable
    #[arg(long = "calls", value_name = "NAME=URL", value_parser = call)]
    pub calls: Vec<(String, String)>,
    /// Asks this URL again and again, and prints every answer that differs from the one before
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub ask: Option<String>,
    /// How long after an answer it asks again
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = HumanDuration::parse)]
    pub every: HumanDuration,
}

fn call(text: &str) -> Result<(String, String), String> {
    let (name, url) = text.split_once('=').ok_or("expected NAME=URL, such as c=http://127.0.0.1:7101")?;
    property_problem(name).map_or(Ok(()), Err)?;
    Ok((name.to_string(), http_url(url)?))
}

fn http_url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if url.scheme() == "http" => Ok(text.to_string()),
        _ => Err(format!("`{text}` is no address; expected one such as http://127.0.0.1:7101/")),
    }
}

fn service_name(text: &str) -> Result<String, String> {
    service_name_problem(text).map_or_else(|| Ok(text.to_string()), Err)
}

fn assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as cost=20")?;
    property_problem(key).map_or(Ok(()), Err)?;
    Ok((key.to_string(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn property_problem(key: &str) -> Option<String> {
    match RESERVED.contains(&key) {
        true => Some(format!("`{key}` is taken by the service itself; choose another name")),
        false => service_name_problem(key),
    }
}

/// A toy service that runs; it stops when this is dropped or [shut down](Self::shutdown).
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    _asking: Option<AbortOnDropHandle<()>>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Fake {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL without a slash at the end: `http://127.0.0.1:7010`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it once the requests under way are answered.
    ///
    /// # Errors
    /// When serving broke off before.
    pub async fn shutdown(mut self) -> std::io::Result<()> {
        drop(self.stop.take());
        (&mut self.task).await.map_err(std::io::Error::other)?
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if self.stop.take().is_some() {
            self.task.abort();
        }
    }
}

/// Starts the toy service in the background.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(options: FakeOptions) -> std::io::Result<Fake> {
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let ask = options.ask.clone().map(|url| (url, options.every.0));
    let toy = Toy::new(options)?;
    let asking =
        ask.map(|(url, every)| AbortOnDropHandle::new(tokio::spawn(ask_on(toy.clone(), url, every))));
    let router = router(toy);
    let task = tokio::spawn(async move {
        let serving = axum::serve(listener, router);
        serving.with_graceful_shutdown(async move { drop(stopped.await) }).await
    });
    Ok(Fake { address, stop: Some(stop), _asking: asking, task })
}

/// Runs the toy service until Ctrl-C; prints where it listens, as the first line on standard output.
///
/// # Errors
/// When the address cannot be listened on, or the line cannot be printed.
pub async fn serve(options: FakeOptions) -> std::io::Result<()> {
    use std::io::Write;
    let name = options.name.clone();
    let fake = start(options).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{name} listens on {}", fake.url())?;
    stdout.flush()?;
    tokio::signal::ctrl_c().await?;
    fake.shutdown().await
}

#[derive(Clone)]
struct Toy {
    name: Arc<str>,
    calls: Arc<[(String, String)]>,
    client: reqwest::Client,
    state: Arc<Mutex<ToyState>>,
}

#[derive(Default)]
struct ToyState {
    properties: Map<String, Value>,
    calls: BTreeMap<String, u64>,
    failures: u32,
    failure: StatusCode,
    delay: Duration,
}

impl Toy {
    fn new(options: FakeOptions) -> std::io::Result<Self> {
        let state = ToyState { properties: options.set.into_iter().collect(), ..ToyState::default() };
        let client = reqwest::Client::builder().no_proxy().timeout(CALL_TIME).build();
        Ok(Self {
            name: options.name.into(),
            calls: options.calls.into(),
            client: client.map_err(std::io::Error::other)?,
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// What another service answers, as JSON or else as text.
    ///
    /// # Errors
    /// Why it is no answer.
    async fn call(&self, url: &str) -> Result<Value, String> {
        let answer = self.client.get(url).send().await.map_err(|e| e.without_url().to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| e.without_url().to_string())?;
        match status.is_success() {
            true => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
            false => Err(format!("{status}: {text}")),
        }
    }

    fn state(&self) -> MutexGuard<'_, ToyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client: asks for ever. What fails before the first answer is not counted: the other may still be starting.
async fn ask_on(toy: Toy, url: String, every: Duration) {
    use std::io::Write;
    let (mut asked, mut failed, mut before) = (0_u64, 0_u64, None);
    loop {
        let answer = toy.call(&url).await;
        if asked > 0 || answer.is_ok() {
            asked += 1;
            failed += u64::from(answer.is_err());
            let text = answer.map_or_else(|why| format!("failed: {why}"), |value| value.to_string());
            {
                let properties = &mut toy.state().properties;
                properties.insert("asked".into(), asked.into());
                properties.insert("failed".into(), failed.into());
                properties.insert("answer".into(), text.as_str().into());
            }
            if before.as_ref() != Some(&text) {
                let _ = writeln!(std::io::stdout(), "answer: {text}");
                before = Some(text);
            }
        }
        tokio::time::sleep(every).await;
    }
}

fn router(toy: Toy) -> Router {
    Router::new()
        .route("/", get(whole))
        .route("/metrics", get(metrics))
        .route("/invoke/{method}", post(invoke))
        .route("/{property}", get(property).put(set_property))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here; see GET /") })
        .layer(from_fn_with_state(toy.clone(), misbehave))
        .route("/fail", post(fail))
        .route("/delay", post(delay))
        .with_state(toy)
}

/// Waits and fails as it was told to.
async fn misbehave(State(toy): State<Toy>, request: Request, next: Next) -> Response {
    let delay = toy.state().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let failure = {
        let mut state = toy.state();
        let fails = state.failures > 0;
        state.failures = state.failures.saturating_sub(1);
        fails.then_some(state.failure)
    };
    match failure {
        Some(status) => problem(status, "it was told to fail"),
        None => next.run(request).await,
    }
}

async fn whole(State(toy): State<Toy>) -> Response {
    let mut answers = Vec::new();
    for (name, url) in &*toy.calls {
        match toy.call(url).await {
            Ok(answer) => answers.push((name.clone(), answer)),
            Err(why) => return problem(StatusCode::BAD_GATEWAY, &format!("`{name}` gave no answer: {why}")),
        }
    }
    let state = toy.state();
    let mut all = Map::from_iter([("name".to_string(), Value::from(&*toy.name))]);
    all.extend(state.properties.clone());
    all.extend(answers);
    if !state.calls.is_empty() {
        all.insert("calls".into(), json!(state.calls));
    }
    axum::Json(all).into_response()
}

async fn property(State(toy): State<Toy>, Path(name): Path<String>) -> Response {
    let state = toy.state();
    match state.properties.get(&name) {
        Some(value) => axum::Json(value).into_response(),
        None => {
            let known: Vec<&str> = state.properties.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            problem(StatusCode::NOT_FOUND, &format!("{} has no property `{name}`; it has {known}", toy.name))
        }
    }
}

async fn set_property(State(toy): State<Toy>, Path(name): Path<String>, body: Bytes) -> Response {
    if let Some(why) = property_problem(&name) {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, &why);
    }
    match serde_json::from_slice::<Value>(&body) {
        Ok(value) => {
            toy.state().properties.insert(name, value.clone());
            axum::Json(value).into_response()
        }
        Err(e) => problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("the body is no JSON value: {e}")),
    }
}

async fn invoke(State(toy): State<Toy>, Path(method): Path<String>, body: Bytes) -> Response {
    let params = match serde_json::from_slice::<Vec<Value>>(if body.is_empty() { b"[]" } else { &body }) {
        Ok(params) => params,
        Err(e) => {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("the body is no JSON array: {e}"));
        }
    };
    let answer = match method.as_str() {
        "add" => match params.iter().map(Value::as_f64).sum::<Option<f64>>() {
            Some(sum) => axum::Json(number(sum)).into_response(),
            None => problem(StatusCode::UNPROCESSABLE_ENTITY, "add takes numbers only"),
        },
        "echo" => axum::Json(&params).into_response(),
        "fail" => problem(StatusCode::INTERNAL_SERVER_ERROR, "the method fail always fails"),
        _ => {
            let text = format!("{} has no method `{method}`; it has add, echo, fail", toy.name);
            return problem(StatusCode::NOT_FOUND, &text);
        }
    };
    *toy.state().calls.entry(method).or_default() += 1;
    answer
}

/// Whole numbers without a fraction.
fn number(value: f64) -> Value {
    let whole = value as i64;
    if whole as f64 == value { whole.into() } else { value.into() }
}

async fn metrics(State(toy): State<Toy>) -> Response {
    let state = toy.state();
    let mut page = String::new();
    for (key, value) in &state.properties {
        let value = match value {
            Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
            other => other.as_f64(),
        };
        if let Some(value) = value {
            let name = key.replace(['-', '.'], "_");
            // A series name cannot begin with a digit.
            let name = if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name };
            page.push_str(&format!("# TYPE {name} gauge\n{name}{{service=\"{}\"}} {value}\n", toy.name));
        }
    }
    for (method, count) in &state.calls {
        page.push_str(&format!("calls_total{{service=\"{}\",method=\"{method}\"}} {count}\n", toy.name));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

#[derive(Deserialize)]
struct FailQuery {
    #[serde(default = "internal_server_error")]
    status: u16,
    #[serde(default = "once")]
    times: u32,
}

fn internal_server_error() -> u16 {
    500
}

fn once() -> u32 {
    1
}

async fn fail(State(toy): State<Toy>, Query(query): Query<FailQuery>) -> Response {
    match StatusCode::from_u16(query.status) {
        Ok(status) if status.is_client_error() || status.is_server_error() => {
            let mut state = toy.state();
            (state.failures, state.failure) = (query.times, status);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => problem(StatusCode::UNPROCESSABLE_ENTITY, "status is no HTTP error; expected 400 to 599"),
    }
}

#[derive(Deserialize)]
struct DelayQuery {
    ms: u64,
}

async fn delay(State(toy): State<Toy>, Query(query): Query<DelayQuery>) -> Response {
    toy.state().delay = Duration::from_millis(query.ms).min(LONGEST_DELAY);
    StatusCode::NO_CONTENT.into_response()
}

/// A problem document (RFC 9457).
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({"title": title, "status": status.as_u16(), "detail": detail}).to_string();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn options(words: &[&str]) -> Result<FakeOptions, clap::Error> {
        let command = FakeOptions::augment_args(clap::Command::new("fake"));
        FakeOptions::from_arg_matches(&command.try_get_matches_from([&["fake"], words].concat())?)
    }

    async fn toy(words: &[&str]) -> (Fake, reqwest::Client) {
        let fake = start(options(words).expect("options")).await.expect("started");
        (fake, reqwest::Client::builder().no_proxy().build().expect("client"))
    }

    async fn json_of(client: &reqwest::Client, url: String) -> Value {
        client.get(url).send().await.expect("answer").json().await.expect("JSON")
    }

    #[test]
    fn options_are_a_name_an_address_and_properties() {
        let options =
            options(&["C1", "--set", "cost=20", "--set", "mode=fast", "--listen", "127.0.0.1:7010"])
                .expect("good");
        assert_eq!(options.set, [("cost".to_string(), json!(20)), ("mode".to_string(), json!("fast"))]);
        assert_eq!(options.listen.port(), 7010);
    }

    #[test]
    fn bad_options_are_refused() {
        for words in [
            &["a/b"][..],
            &["C1", "--set", "cost"],
            &["C1", "--set", "metrics=1"],
            &["C1", "--listen", "here"],
            &[],
        ] {
            assert!(options(words).is_err(), "{words:?}");
        }
    }

    #[tokio::test]
    async fn the_state_is_flat_json_and_properties_can_be_read_and_set() {
        let (fake, client) = toy(&["C1", "--set", "cost=20", "--set", "threads=4"]).await;
        let url = fake.url();
        assert_eq!(
            json_of(&client, format!("{url}/")).await.to_string(),
            r#"{"name":"C1","cost":20,"threads":4}"#
        );
        let put = client.put(format!("{url}/threads")).body("10").send().await.expect("answer");
        assert_eq!(put.status(), 200);
        assert_eq!(json_of(&client, format!("{url}/threads")).await, json!(10));
        let bad = client.put(format!("{url}/threads")).body("{ten").send().await.expect("answer");
        assert_eq!(bad.status(), 422);
        let missing = client.get(format!("{url}/size")).send().await.expect("answer");
        assert_eq!(missing.status(), 404);
        assert_eq!(missing.headers()["content-type"], "application/problem+json");
        assert!(missing.text().await.expect("text").contains("it has cost, threads"));
        fake.shutdown().await.expect("stopped");
    }

    #[tokio::test]
    async fn methods_are_called_and_counted() {
        let (fake, client) = toy(&["C1", "--set", "cost=1"]).await;
        let url = fake.url();
        let call = |method: &str, body: &'static str| {
            client.post(format!("{url}/invoke/{method}")).body(body).send()
        };
        assert_eq!(call("add", "[1, 2.5]").await.expect("add").text().await.expect("text"), "3.5");
        assert_eq!(call("echo", "[1,\"a\"]").await.expect("echo").text().await.expect("text"), "[1,\"a\"]");
        assert_eq!(call("fail", "").await.expect("fail").status(), 500);
        assert_eq!(call("fly", "").await.expect("fly").status(), 404);
        assert_eq!(call("add", "1").await.expect("add").status(), 422);
        assert_eq!(
            json_of(&client, format!("{url}/")).await["calls"],
            json!({"add": 1, "echo": 1, "fail": 1})
        );
        let page =
            client.get(format!("{url}/metrics")).send().await.expect("page").text().await.expect("text");
        assert!(page.contains("cost{service=\"C1\"} 1\n") && page.contains("method=\"add\"} 1\n"), "{page}");
    }

    #[tokio::test]
    async fn what_it_uses_stands_in_its_answer_and_clients_count() {
        let (used, client) = toy(&["C1", "--set", "cost=1"]).await;
        let calls = format!("c={}", used.url());
        let (fake, _) = toy(&["A", "--calls", &calls]).await;
        let url = fake.url();
        let answer = json_of(&client, format!("{url}/")).await;
        assert_eq!(answer, json!({"name": "A", "c": {"name": "C1", "cost": 1}}));
        let (asking, _) = toy(&["clients", "--ask", &url, "--every", "1ms"]).await;
        let asked = async {
            while json_of(&client, asking.url()).await["asked"].as_u64() < Some(3) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), asked).await.expect("answers");
        let numbers = json_of(&client, asking.url()).await;
        let text = answer.to_string();
        assert!(numbers["failed"] == 0 && numbers["answer"].as_str() == Some(&text), "{numbers}");
        used.shutdown().await.expect("stopped");
        let broken = client.get(&url).send().await.expect("answer");
        assert_eq!(broken.status(), 502);
        assert!(options(&["A", "--calls", "c"]).is_err() && options(&["A", "--ask", "here"]).is_err());
    }

    #[tokio::test]
    async fn it_misbehaves_as_told_and_then_no_more() {
        let (fake, client) = toy(&["C1", "--set", "cost=1"]).await;
        let url = fake.url();
        let told = client.post(format!("{url}/fail?status=503&times=2")).send().await.expect("told");
        assert_eq!(told.status(), 204);
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(client.get(format!("{url}/cost")).send().await.expect("answer").status().as_u16());
        }
        assert_eq!(seen, [503, 503, 200]);
        client.post(format!("{url}/delay?ms=60000")).send().await.expect("told");
        let slow = client.get(format!("{url}/cost")).timeout(Duration::from_millis(100)).send().await;
        assert!(slow.expect_err("late").is_timeout());
        client.post(format!("{url}/delay?ms=0")).send().await.expect("told");
        assert_eq!(client.get(format!("{url}/cost")).send().await.expect("answer").status(), 200);
    }
}
