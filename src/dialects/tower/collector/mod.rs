//! A collector: what the services of this homeostat measure goes to a server of Tower 4Clouds, as far as somebody there asks for it.
//! Every connection is made from here.
//!
//! ```text
//!  register ──▶ configuration ──▶ one feed per metric, service and receiver ──▶ outbox ──▶ batches
//!     ▲              │ (forgotten: register again; unreachable: every feed ends)
//!     └──────────────┘
//! ```

mod outbox;
mod wanted;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue, IF_NONE_MATCH};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::server::{WAIT, written};
use crate::model::connector::SensorSpec;
use crate::model::error::chain;
use crate::model::ports::{Metrics, SubscriptionMode};
use crate::model::{HumanDuration, Resource, Timestamp};
use crate::policy::value::MetricKind;
use crate::service::handle::Handle;
use crate::service::supervisor::Supervisor;

use outbox::Outbox;
pub use wanted::Sampling;
use wanted::{Ask, Feed, Spread, feeds, read};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As the original says it.
const JSON: &str = "application/json; charset=UTF-8";
/// How often changes of the policies are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// The time between two configurations that follow each other.
const BREATH: Duration = Duration::from_millis(100);
/// The longest configuration, in bytes.
const MAX_CONFIGURATION: usize = 16 << 20;
/// How long the last words may take: the last batch, and the farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a collector is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the manager is: `http://127.0.0.1:8170`.
    pub manager: String,
    /// After how long a silence the manager may forget it; never, when absent. What is sent is whole seconds.
    pub keep_alive: Option<Duration>,
    /// How often it asks what to send; a manager that tells of changes at once is asked as often, and answers in between.
    pub sync: Duration,
    /// After how long a manager that is not there is tried again.
    pub retry: Duration,
    /// How long the first datum waits for others.
    pub gather: Duration,
}

impl Settings {
    /// The times of the original.
    pub fn new(manager: impl Into<String>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            manager: manager.into(),
            keep_alive: Some(seconds(30)),
            sync: seconds(30),
            retry: seconds(5),
            gather: seconds(1),
        }
    }
}

/// Why a collector does not start.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The address of the manager cannot be used.
    #[error("`{0}` is no address of a manager; expected one such as http://127.0.0.1:8170")]
    Manager(String),
    /// There is no HTTP client.
    #[error("the HTTP client cannot be built")]
    Client(#[from] reqwest::Error),
}

/// What a collector counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Data that a receiver has taken.
    pub sent: u64,
    /// Data that none has taken, and none will.
    pub lost: u64,
}

/// A running collector. Dropping it ends it without a farewell.
pub struct Collector {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    outbox: Arc<Outbox>,
}

impl Collector {
    /// Registers what the services of `supervisor` measure, now and whenever policies change. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address of the manager cannot be used. That nobody answers there is none: it is tried again.
    pub fn start(supervisor: Arc<Supervisor>, settings: Settings) -> Result<Self, CollectorError> {
        let wrong = || CollectorError::Manager(settings.manager.clone());
        let url = url::Url::parse(&settings.manager).map_err(|_| wrong())?;
        let secure = url.scheme() == "https" && cfg!(feature = "tls");
        if !(url.scheme() == "http" || secure) || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong());
        }
        #[cfg(feature = "tls")]
        {
            // Fails only when the program has already chosen a provider, which is then used.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::builder()
            .user_agent(concat!("homeostat/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .no_proxy()
            .build()?;
        let stop = CancellationToken::new();
        let outbox = Arc::new(Outbox::new(client.clone(), &settings, supervisor.clone()));
        let run = Run {
            collectors: format!("{}/v1/data-collectors", url.as_str().trim_end_matches('/')),
            supervisor,
            settings,
            client,
            outbox: outbox.clone(),
            id: None,
            registered: None,
            wait: None,
            known: Arc::default(),
            offers: Offers::default(),
            asks: Vec::new(),
            feeds: HashMap::new(),
            told: None,
        };
        let task = tokio::spawn(run.run(stop.clone()));
        Ok(Self { stop, task: Some(task), outbox })
    }

    /// What was counted.
    pub fn counted(&self) -> Counted {
        self.outbox.counted()
    }

    /// Sends what is gathered, and says farewell to the manager, which may then forget it. The original leaves without a word, so that
    /// its resources are believed to be there until its time is over.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = tokio::time::timeout(2 * FAREWELL, task).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What can be sent: the resources, and by metric those that it is measured of.
#[derive(Debug, Default, PartialEq)]
struct Offers {
    resources: Vec<Json>,
    metrics: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Resource>>>,
}

/// Why a session with the manager has ended.
enum Trouble {
    /// It cannot be reached, or answers nonsense.
    Unreachable(String),
    /// It does not know the collector.
    Forgotten(String),
    /// It is told something else from now on.
    Changed,
}

struct Run {
    supervisor: Arc<Supervisor>,
    settings: Settings,
    collectors: String,
    client: Client,
    outbox: Arc<Outbox>,
    id: Option<String>,
    /// When it was registered last.
    registered: Option<Timestamp>,
    /// For how long the manager holds back the answer to a question for its configuration, if it does.
    wait: Option<Duration>,
    /// The policies that the offers were read from.
    known: Arc<str>,
    offers: Offers,
    asks: Vec<Ask>,
    feeds: HashMap<Feed, (Sampling, Task)>,
    /// The trouble that people were told of.
    told: Option<String>,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Run {
    async fn run(mut self, stop: CancellationToken) {
        let sending = Task(tokio::spawn(self.outbox.clone().run()));
        loop {
            let trouble = tokio::select! {
                () = stop.cancelled() => break,
                trouble = self.session() => trouble,
            };
            let pause = match trouble {
                Trouble::Changed => continue,
                Trouble::Forgotten(why) => {
                    let now = self.supervisor.now();
                    let soon = self.registered.take().is_some_and(|at| now.since(at) < self.settings.retry);
                    self.tell(&format!("the manager has forgotten this collector: {why}"));
                    if soon { self.settings.retry } else { Duration::ZERO }
                }
                Trouble::Unreachable(why) => {
                    self.feeds.clear();
                    self.asks.clear();
                    self.tell(&format!("no data are collected while the manager cannot be asked: {why}"));
                    self.settings.retry
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.feeds.clear();
        drop(sending);
        let _ = tokio::time::timeout(FAREWELL, self.outbox.send_all()).await;
        if self.registered.is_some()
            && let Some(url) = self.own("")
        {
            let _ = tokio::time::timeout(FAREWELL, self.client.delete(url).send()).await;
        }
    }

    /// Tells people of a trouble, once.
    fn tell(&mut self, text: &str) {
        if self.told.as_deref() != Some(text) {
            tracing::warn!(manager = self.settings.manager, "{text}");
            self.supervisor.shell().tell("collect", None, text.to_string());
            self.told = Some(text.to_string());
        }
    }

    fn own(&self, path: &str) -> Option<String> {
        self.id.as_deref().map(|id| format!("{}/{}{path}", self.collectors, super::server::encoded(id)))
    }

    /// Registers if need be, and then follows what is asked for until that goes wrong.
    async fn session(&mut self) -> Trouble {
        if self.registered.is_none() {
            self.look().await;
            if let Err(trouble) = self.register().await {
                return trouble;
            }
        }
        let (Some(configuration), Some(alive)) = (self.own("/configuration"), self.own("/keepalive")) else {
            return Trouble::Forgotten("it has no id".into());
        };
        let (said, mut configurations) = mpsc::channel(1);
        let wait = self.wait.map(|longest| longest.min(self.settings.sync));
        let asking = follow(self.client.clone(), configuration, self.settings.sync, wait, said);
        let living = live(self.client.clone(), alive, keep_alive_period(&self.settings));
        let (mut asking, mut living) = (std::pin::pin!(asking), std::pin::pin!(living));
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(asks) = configurations.recv() => {
                    self.asks = asks;
                    self.follow_asks();
                    if self.told.take().is_some() {
                        let text = "the manager is asked again";
                        tracing::info!(manager = self.settings.manager, "{text}");
                        self.supervisor.shell().tell("collect", None, text.into());
                    }
                }
                trouble = &mut asking => return trouble,
                trouble = &mut living => return trouble,
                _ = looks.tick() => {
                    if self.look().await {
                        self.registered = None;
                        return Trouble::Changed;
                    }
                    if self.feeds.values().any(|(_, task)| task.0.is_finished()) {
                        self.follow_asks();
                    }
                }
            }
        }
    }

    /// Looks what can be offered; answers whether that is something else than before.
    async fn look(&mut self) -> bool {
        let status = self.supervisor.policy_status().running;
        if *status == *self.known {
            return false;
        }
        let running = self.supervisor.running().await;
        self.known = running.hash.to_string().into();
        let mut offers = Offers {
            resources: self.supervisor.resources().iter().filter_map(|r| written(r)).collect(),
            metrics: BTreeMap::new(),
        };
        for service in running.services.values().filter(|service| written(&service.resource).is_some()) {
            for metric in service.monitor.iter().flat_map(|monitor| &monitor.metrics) {
                let ours = match &metric.kind {
                    MetricKind::Sensor(spec) => !matches!(spec, SensorSpec::Collect(_)),
                    MetricKind::Stream(_) | MetricKind::Results { .. } => false,
                    _ => true,
                };
                if ours {
                    let of_metric = offers.metrics.entry(metric.name.clone()).or_default();
                    of_metric.insert(service.name.clone(), service.resource.clone());
                }
            }
        }
        if offers.metrics.is_empty() {
            tracing::warn!("nothing is offered: no service has both a `class` of Tower 4Clouds and metrics");
        }
        let changed = offers != self.offers;
        self.offers = offers;
        changed
    }

    fn descriptor(&self) -> Json {
        let metrics = self.offers.metrics.iter().map(|(metric, of)| {
            (metric.to_string(), Json::from_iter(of.values().filter_map(|resource| written(resource))))
        });
        let metrics: serde_json::Map<String, Json> = metrics.collect();
        json!({
            "monitoredResourcesByMetric": metrics,
            "resources": self.offers.resources,
            "keepAlive": self.settings.keep_alive.map_or(0, |keep| keep.as_secs()),
            "configSyncPeriod": self.settings.sync.as_secs(),
        })
    }

    /// Registers under the id that it has, or for the first time.
    async fn register(&mut self) -> Result<(), Trouble> {
        let (method, url) = match self.own("") {
            Some(url) => (Method::PUT, url),
            None => (Method::POST, self.collectors.clone()),
        };
        let again = method == Method::PUT;
        let request = self.client.request(method, url).header(CONTENT_TYPE, JSON).json(&self.descriptor());
        let answer = request.send().await;
        let answer = answer.map_err(|error| Trouble::Unreachable(chain(&error)))?;
        let status = answer.status();
        if again && matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            self.id = None;
        }
        let wait = answer.headers().get(&WAIT).and_then(|v| v.to_str().ok()?.parse().ok());
        let text = text(answer).await.map_err(Trouble::Unreachable)?;
        if status != StatusCode::CREATED {
            return Err(Trouble::Unreachable(format!(
                "it answers {status} to the registration: {}",
                brief(&text)
            )));
        }
        if !again {
            let id = serde_json::from_str::<Json>(&text).ok().and_then(|json| match json.get("id")? {
                Json::String(id) => Some(id.clone()),
                _ => None,
            });
            let no_id = || Trouble::Unreachable(format!("it gave no id: {}", brief(&text)));
            self.id = Some(id.filter(|id| !id.is_empty()).ok_or_else(no_id)?);
        }
        self.wait = wait.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        self.registered = Some(self.supervisor.now());
        tracing::info!(manager = self.settings.manager, id = self.id, "registered as a data collector");
        Ok(())
    }

    /// Lets exactly the feeds run that are asked for.
    fn follow_asks(&mut self) {
        let wanted = feeds(&self.asks, &self.offers.metrics);
        self.feeds
            .retain(|feed, (sampling, task)| wanted.get(feed) == Some(sampling) && !task.0.is_finished());
        for (feed, sampling) in wanted {
            if !self.feeds.contains_key(&feed) {
                let (supervisor, outbox) = (self.supervisor.clone(), self.outbox.clone());
                let task = Task(tokio::spawn(run_feed(supervisor, outbox, feed.clone(), sampling)));
                self.feeds.insert(feed, (sampling, task));
            }
        }
    }
}

/// How often the manager is told that this collector lives, unless it hears that more often anyway.
fn keep_alive_period(settings: &Settings) -> Option<Duration> {
    let margin = Duration::from_secs(10);
    let period = settings.keep_alive?.saturating_sub(margin).max(margin);
    (period < settings.sync).then_some(period)
}

/// Says again and again that this collector lives.
async fn live(client: Client, url: String, period: Option<Duration>) -> Trouble {
    let Some(period) = period else { return std::future::pending().await };
    loop {
        match client.get(&url).send().await {
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {}
            Ok(answer) => return Trouble::Forgotten(format!("it answers {}", answer.status())),
            Err(error) => return Trouble::Unreachable(chain(&error)),
        }
        tokio::time::sleep(period).await;
    }
}

/// Asks for the configuration: at once, and then every `sync`; a manager that holds back its answer until something changes, without a pause.
async fn follow(
    client: Client,
    url: String,
    sync: Duration,
    wait: Option<Duration>,
    said: mpsc::Sender<Vec<Ask>>,
) -> Trouble {
    let mut tag: Option<HeaderValue> = None;
    loop {
        let mut request = client.get(&url);
        if let (Some(wait), Some(tag)) = (wait, &tag) {
            let wait = wait.as_secs().max(1);
            request = request.header("prefer", format!("wait={wait}")).header(IF_NONE_MATCH, tag);
            request = request.timeout(Duration::from_secs(wait) + PATIENCE);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Trouble::Unreachable(chain(&error)),
        };
        let waited = answer.headers().contains_key("preference-applied");
        match answer.status() {
            StatusCode::OK => {
                let first = tag.is_none();
                tag = answer.headers().get(reqwest::header::ETAG).cloned();
                let asks = match text(answer).await.and_then(|text| read(&text)) {
                    Ok(asks) => asks,
                    Err(why) => {
                        return Trouble::Unreachable(format!("its configuration is not understood: {why}"));
                    }
                };
                if said.send(asks).await.is_err() {
                    return Trouble::Unreachable("stopping".into());
                }
                let more = wait.is_some() && tag.is_some() && (first || waited);
                tokio::time::sleep(if more { BREATH } else { sync }).await;
            }
            StatusCode::NOT_MODIFIED => tokio::time::sleep(if waited { BREATH } else { sync }).await,
            status => return Trouble::Forgotten(format!("it answers {status}")),
        }
    }
}

/// Sends what is measured of one metric of one service for as long as it lives.
async fn run_feed(supervisor: Arc<Supervisor>, outbox: Arc<Outbox>, feed: Feed, sampling: Sampling) {
    let clock = supervisor.shell().clock();
    let handle = Handle::new(supervisor, &feed.service);
    let mode = match sampling.every {
        Some(interval) => {
            SubscriptionMode::Interval { interval: HumanDuration(interval), start: None, duration: None }
        }
        None => SubscriptionMode::Update,
    };
    let mut subscription = match handle.subscribe(&feed.metric, mode).await {
        Ok(subscription) => subscription,
        Err(error) => {
            tracing::debug!(%error, service = &*feed.service, metric = &*feed.metric, "cannot be collected");
            return;
        }
    };
    let mut spread = Spread::new(sampling.probability);
    while let Some(told) = subscription.notifications.next().await {
        // The subscription keeps what the metric needs at work; the value is one of this interval, however seldom that looks by itself.
        let reading = match sampling.every {
            None => told.reading,
            Some(every) => match handle.get_metric(&feed.metric, Some(HumanDuration(every / 2))).await {
                Ok(reading) if reading.fresh().is_some() => reading,
                _ => told.reading,
            },
        };
        if let Some(value) = reading.fresh().filter(|value| value.is_finite())
            && spread.takes()
        {
            outbox.put(&feed, value, clock.now());
        }
    }
}

/// The body of an answer, within bounds.
async fn text(mut answer: Response) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| chain(&error))? {
        if bytes.len() + chunk.len() > MAX_CONFIGURATION {
            return Err(format!("its answer is longer than {MAX_CONFIGURATION} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn brief(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_that_it_lives_only_where_it_would_not_hear_so_often_enough() {
        let period = |keep: u64, sync: u64| {
            let keep_alive = (keep > 0).then(|| Duration::from_secs(keep));
            let settings = Settings { keep_alive, sync: Duration::from_secs(sync), ..Settings::new("") };
            keep_alive_period(&settings).map(|period| period.as_secs())
        };
        assert_eq!(period(25, 30), Some(15), "as the original does");
        assert_eq!(period(12, 30), Some(10));
        assert_eq!(period(40, 30), None);
        assert_eq!(period(0, 30), None, "it never expires");
    }
}
