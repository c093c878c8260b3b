//! The generic proxy (S4): what of a service can be looked at, set, invoked and subscribed to, on a listener of its own, though the service knows nothing
//! of it.
//!
//! Reading order: `file`, `http` and `program` (where values are kept), [`Property`] here (read, set, who is told), `timing` (when), `detect` (how a change is
//! noticed), `deliver` (how it is told), `server` (the listener).

mod deliver;
mod detect;
mod file;
mod http;
mod program;
mod sensor;
mod server;
mod timing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::now;
use crate::model::connector::TookPlace;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::manage::{FileFormat, Manage, ManageSpec, MethodSpec, PropertySpec, type_of};
use crate::model::{Action, HumanDuration, Timestamp};
use timing::{Tick, Timing, When};

pub use program::{Beside, Program};
pub(super) use sensor::PropertyReader;
pub(super) use server::{Now, routes, serve};

/// How long one read, call or telling may take unless it is said otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many notifications wait for a subscriber before further ones are lost to it.
const QUEUE: usize = 64;

/// How many subscriptions one property may have.
const MAX_SUBSCRIPTIONS: usize = 1_000;

/// The most of an answer that stands in an outcome, characters.
const LONGEST: usize = 2_000;

/// Why something is not answered. The names are those of the errors on the wire.
#[derive(Debug, thiserror::Error)]
enum PropertyError {
    #[error("there is no property `{0}`; `/_mon/properties` lists what there is")]
    NoSuchProperty(String),
    #[error("there is no method `{0}`; `/_mon/methods` lists what there is")]
    NoSuchMethod(String),
    #[error("`{0}` has no subscription {1}")]
    NoSuchSubscription(String, u64),
    #[error("`{0}` cannot be set")]
    NotSettable(String),
    #[error("{0}")]
    WrongType(String),
    #[error("{0}")]
    Invalid(String),
    #[error("`{0}` has {MAX_SUBSCRIPTIONS} subscriptions; end one first")]
    TooMany(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0} did not answer within {limit}", limit = HumanDuration(*.1))]
    Timeout(String, Duration),
    #[error("{what} answered {status}")]
    Answered { what: String, status: u16, body: Value },
}

/// How a change is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Detection {
    /// When it happens.
    Notified,
    /// By looking, often after changes and seldom without.
    Polled,
}

/// What a subscriber is told.
#[derive(Debug, Clone, Serialize)]
struct Notification {
    service: Arc<str>,
    property: Arc<str>,
    /// What it was when it was seen last; null, if never.
    old: Value,
    /// What it is; null when that cannot be read.
    new: Value,
    timestamp: Timestamp,
    /// How many notifications before this one were lost, because the subscriber or the service did not keep up.
    #[serde(skip_serializing_if = "is_zero")]
    missed: u64,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What became of notifications.
#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    retried: AtomicU64,
    dropped: AtomicU64,
    missed: AtomicU64,
}

/// A value that was seen.
#[derive(Debug, Clone)]
struct Seen {
    value: Value,
    at: std::time::Instant,
}

/// One subscription.
struct Subscription {
    mode: &'static str,
    callback: Option<String>,
    counters: Arc<Counters>,
    /// To whom changes are told.
    changes: Option<mpsc::Sender<Seen>>,
    ended: CancellationToken,
}

#[derive(Default)]
struct Subscriptions {
    last: u64,
    all: BTreeMap<u64, Subscription>,
    /// Runs while somebody waits for changes.
    detector: Option<(Detection, CancellationToken)>,
}

/// What somebody subscribes with.
struct Wish {
    when: When,
    start: Duration,
    duration: Option<Duration>,
    callback: Option<String>,
}

/// One property of a service.
struct Property {
    service: Arc<str>,
    name: Arc<str>,
    spec: PropertySpec,
    base: Option<Arc<str>>,
    client: reqwest::Client,
    beside: Beside,
    /// Looks at the program; some quantities are differences between two looks.
    looks: tokio::sync::Mutex<program::Looks>,
    /// The value that was seen last; locked while it is set or looked at for changes, so that what is told comes in order.
    known: tokio::sync::Mutex<Option<Value>>,
    subscriptions: Mutex<Subscriptions>,
    /// Of all subscriptions there were.
    counters: Arc<Counters>,
    gone: CancellationToken,
}

impl Property {
    /// Its value at present, from where it is kept.
    async fn read(&self) -> Result<Value, PropertyError> {
        let (name, kind) = (&self.name, self.spec.kind);
        let value = if let Some(value) = &self.spec.value {
            value.clone()
        } else if let Some(source) = self.spec.file.clone() {
            let format = source.written();
            let read = move || file::read(Path::new(&source.path), &source.pointer, format);
            match blocking(read).await? {
                Value::String(text) if format == FileFormat::Ini => {
                    kind.read(&text).map_err(|e| PropertyError::Failed(format!("`{name}`: {e}")))?
                }
                value => value,
            }
        } else if let Some(source) = &self.spec.http {
            http::read(&self.client, source, kind, self.base.as_deref()).await?
        } else {
            let (service, spec) = (&self.service, &self.spec);
            let known = program::read(&self.beside, &self.looks, service, spec).await;
            known.map_err(|why| PropertyError::Failed(format!("`{name}`: {why}")))?
        };
        if kind.fits(&value) {
            return Ok(value);
        }
        Err(PropertyError::Failed(format!(
            "`{name}` is {} there, and should be {}",
            type_of(&value),
            kind.word()
        )))
    }

    /// Sets it, and tells who subscribed to changes.
    async fn set(&self, value: Value) -> Result<(), PropertyError> {
        if !self.spec.settable {
            return Err(PropertyError::NotSettable(self.name.to_string()));
        }
        crate::model::manage::fits(self.spec.kind, &self.name, &value).map_err(PropertyError::WrongType)?;
        let mut known = self.known.lock().await;
        let mut told = Ok(());
        if let Some(source) = self.spec.file.clone() {
            let (file, new) = (source.clone(), value.clone());
            blocking(move || file::write(Path::new(&file.path), &file.pointer, new, file.written())).await?;
            if let Some(tell) = &source.tell {
                let done = match tell.process {
                    true => program::tell(&self.beside, &self.service, tell.signal.unwrap_or_default()),
                    false => deliver::tell(tell).await,
                };
                told = done.map_err(|why| {
                    PropertyError::Failed(format!(
                        "`{}` is set, but the service was not told: {why}",
                        self.name
                    ))
                });
            }
        } else if let Some(source) = &self.spec.http {
            http::set(&self.client, source, self.base.as_deref(), &value).await?;
        }
        self.publish(&mut known, value);
        told
    }

    /// Looks whether it changed, and tells who subscribed to that. Answers whether it did.
    async fn look(&self) -> bool {
        let mut known = self.known.lock().await;
        match self.read().await {
            Ok(value) => self.publish(&mut known, value),
            // Half-written, or for a moment not there: nothing is known to have changed.
            Err(why) => {
                tracing::debug!(property = %self.name, %why, "cannot be looked at");
                false
            }
        }
    }

    fn publish(&self, known: &mut Option<Value>, value: Value) -> bool {
        if known.as_ref() == Some(&value) {
            return false;
        }
        let seen = Seen { value: value.clone(), at: now() };
        *known = Some(value);
        for subscription in self.subscriptions().all.values() {
            if let Some(changes) = &subscription.changes
                && let Err(mpsc::error::TrySendError::Full(_)) = changes.try_send(seen.clone())
            {
                self.count(&subscription.counters, |c| &c.missed, 1);
            }
        }
        true
    }

    fn count(&self, own: &Counters, which: impl Fn(&Counters) -> &AtomicU64, by: u64) {
        which(own).fetch_add(by, Ordering::Relaxed);
        which(&self.counters).fetch_add(by, Ordering::Relaxed);
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a subscription. Its notifications come out of what is answered, until it is over; dropping that ends it.
    async fn subscribe(
        self: &Arc<Self>,
        wish: Wish,
    ) -> Result<(u64, Option<Detection>, mpsc::Receiver<Notification>), PropertyError> {
        let change = wish.when == When::Change;
        let mut known = self.known.lock().await;
        if self.subscriptions().all.len() >= MAX_SUBSCRIPTIONS {
            return Err(PropertyError::TooMany(self.name.to_string()));
        }
        let (begun, seen) = match change {
            true => mpsc::channel(QUEUE),
            false => mpsc::channel(1),
        };
        let (ended, counters) = (self.gone.child_token(), Arc::new(Counters::default()));
        let mut detection = None;
        if change {
            let running = self.subscriptions().detector.as_ref().map(|(how, _)| *how);
            detection = Some(match running {
                Some(how) => how,
                None => {
                    let stop = self.gone.child_token();
                    let how = detect::start(self, stop.clone());
                    self.subscriptions().detector = Some((how, stop));
                    // After the watch, so that nothing happens between.
                    *known = self.read().await.ok();
                    how
                }
            });
        }
        let id = {
            let mut subscriptions = self.subscriptions();
            subscriptions.last += 1;
            let id = subscriptions.last;
            let subscription = Subscription {
                mode: if change { "change" } else { "interval" },
                callback: wish.callback.clone(),
                counters: counters.clone(),
                changes: change.then(|| begun.clone()),
                ended: ended.clone(),
            };
            subscriptions.all.insert(id, subscription);
            id
        };
        let timing = Timing::new(wish.when, wish.start, wish.duration, known.clone().filter(|_| change));
        drop(known);
        let (out, notifications) = mpsc::channel(QUEUE);
        let follower =
            Follower { property: self.clone(), timing, out, counters: counters.clone(), missed: 0 };
        // Held, because an interval is told without changes.
        let held = (!change).then_some(begun);
        tokio::spawn(async move {
            follower.follow(seen, &ended).await;
            drop(held);
        });
        let property = self.clone();
        let notifications = match wish.callback {
            None => self.forgetting(id, notifications),
            Some(url) => {
                let (nothing, empty) = mpsc::channel(1);
                tokio::spawn(async move {
                    deliver::deliver(&property, &url, notifications, &counters, id).await;
                    property.end(id);
                    drop(nothing);
                });
                empty
            }
        };
        Ok((id, detection, notifications))
    }

    /// Passes notifications on; forgets the subscription when there are no more, or nobody takes them.
    fn forgetting(
        self: &Arc<Self>,
        id: u64,
        mut notifications: mpsc::Receiver<Notification>,
    ) -> mpsc::Receiver<Notification> {
        let (out, passed) = mpsc::channel(1);
        let property = self.clone();
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = notifications.recv() => next,
                    () = out.closed() => None,
                };
                let Some(next) = next else { break };
                if out.send(next).await.is_err() {
                    break;
                }
                if let Some(s) = property.subscriptions().all.get(&id) {
                    property.count(&s.counters, |c| &c.delivered, 1);
                }
            }
            property.end(id);
        });
        passed
    }

    /// Ends a subscription; whether there was one.
    fn end(&self, id: u64) -> bool {
        let mut subscriptions = self.subscriptions();
        let Some(subscription) = subscriptions.all.remove(&id) else { return false };
        subscription.ended.cancel();
        if !subscriptions.all.values().any(|s| s.changes.is_some())
            && let Some((_, stop)) = subscriptions.detector.take()
        {
            stop.cancel();
        }
        true
    }
}

/// The task of one subscription: nothing that it waits for delays another.
struct Follower {
    property: Arc<Property>,
    timing: Timing,
    out: mpsc::Sender<Notification>,
    counters: Arc<Counters>,
    missed: u64,
}

impl Follower {
    async fn follow(mut self, mut seen: mpsc::Receiver<Seen>, ended: &CancellationToken) {
        let begin = now();
        loop {
            let pause = self.timing.wake().map(|at| at.saturating_sub(now().duration_since(begin)));
            let sleep = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let out = self.out.clone();
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                () = out.closed() => return,
                change = seen.recv() => {
                    let Some(change) = change else { return };
                    let at = change.at.saturating_duration_since(begin);
                    if let Some(old) = self.timing.observe(at, &change.value) {
                        self.tell(old, Ok(change.value));
                    }
                }
                () = sleep => match self.timing.tick(now().duration_since(begin)) {
                    Tick::Wait => {}
                    Tick::Over => return,
                    Tick::Tell(late) => {
                        self.miss(u64::from(late));
                        let old = self.timing.last().cloned();
                        let value = self.property.read().await;
                        if let Ok(value) = &value {
                            self.timing.observe(now().duration_since(begin), value);
                        }
                        self.tell(old, value);
                    }
                },
            }
        }
    }

    fn miss(&mut self, count: u64) {
        self.missed += count;
        self.property.count(&self.counters, |c| &c.missed, count);
    }

    fn tell(&mut self, old: Option<Value>, new: Result<Value, PropertyError>) {
        let (new, error) = match new {
            Ok(value) => (value, None),
            Err(why) => (Value::Null, Some(why.to_string())),
        };
        let notification = Notification {
            service: self.property.service.clone(),
            property: self.property.name.clone(),
            old: old.unwrap_or_default(),
            new,
            timestamp: wall_clock(),
            missed: self.missed,
            error,
        };
        match self.out.try_send(notification) {
            Ok(()) => self.missed = 0,
            Err(_) => self.miss(1),
        }
    }
}

/// Everything that is offered of one service. Ends with its subscriptions when dropped.
pub(super) struct Manager {
    pub(super) manage: Manage,
    service: Arc<str>,
    base: Option<Arc<str>>,
    client: reqwest::Client,
    properties: BTreeMap<Arc<str>, Arc<Property>>,
    methods: BTreeMap<Arc<str>, MethodSpec>,
}

impl Manager {
    /// Of a service; what is as it was in `before` is the same, with its subscriptions.
    pub(super) fn new(
        service: &Arc<str>,
        manage: &Manage,
        endpoint: Option<&Endpoint>,
        before: Option<&Self>,
        beside: &Beside,
        stopping: &CancellationToken,
    ) -> Self {
        let base: Option<Arc<str>> =
            endpoint.filter(|e| e.protocol == Protocol::Http).map(|e| format!("http://{}", e.address).into());
        let client = before.map_or_else(http::client, |b| b.client.clone());
        let property = |(name, spec): (&String, &PropertySpec)| {
            let old = before.and_then(|b| b.properties.get(name.as_str()));
            let same = old.filter(|p| p.spec == *spec && p.base == base);
            let property = same.cloned().unwrap_or_else(|| {
                Arc::new(Property {
                    service: service.clone(),
                    name: name.as_str().into(),
                    spec: spec.clone(),
                    base: base.clone(),
                    client: client.clone(),
                    beside: beside.clone(),
                    looks: tokio::sync::Mutex::default(),
                    known: tokio::sync::Mutex::default(),
                    subscriptions: Mutex::default(),
                    counters: Arc::default(),
                    gone: stopping.child_token(),
                })
            });
            (property.name.clone(), property)
        };
        let properties = manage.spec.properties.iter().map(property).collect();
        let methods = manage.spec.methods.iter().map(|(n, m)| (n.as_str().into(), m.clone())).collect();
        Self { manage: manage.clone(), service: service.clone(), base, client, properties, methods }
    }

    /// Of a service of which nothing is offered.
    pub(super) fn nothing(service: &str, beside: &Beside) -> Self {
        let manage = Manage { listen: None, spec: Arc::new(ManageSpec::default()) };
        Self::new(&service.into(), &manage, None, None, beside, &CancellationToken::new())
    }

    /// Carries out a `set` or `invoke`; answers what is to be told of it.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn carry_out(&self, action: &Action) -> Result<String, String> {
        let done = match action {
            Action::Set { property, value, .. } => match self.property(property) {
                Ok(property) => property.set(value.clone()).await.map(|()| String::new()),
                Err(error) => Err(error),
            },
            Action::Invoke { method, params, .. } => {
                self.invoke(method, params.clone().into()).await.map(|result| result.to_string())
            }
            other => return Err(format!("`{}` is no work for a property or a method", other.name())),
        };
        done.map(|said| shorten(&said)).map_err(|error| match &error {
            // What the service said is the reason.
            PropertyError::Answered { body, .. } => format!("{error}: {}", shorten(&body.to_string())),
            _ => error.to_string(),
        })
    }

    /// Whether a `set` that was interrupted took place: it did when the property has that value.
    pub(super) async fn took_place(&self, action: &Action) -> Result<TookPlace, String> {
        let Action::Set { property, value, .. } = action else { return Ok(TookPlace::Unknown) };
        let property = self.property(property).map_err(|e| e.to_string())?;
        let now = property.read().await.map_err(|e| e.to_string())?;
        Ok(if file::same(&now, value) { TookPlace::Yes } else { TookPlace::No })
    }

    /// Whether it offers just this.
    pub(super) fn is(&self, manage: &Manage, endpoint: Option<&Endpoint>) -> bool {
        let base = endpoint.filter(|e| e.protocol == Protocol::Http).map(|e| format!("http://{}", e.address));
        self.manage == *manage && self.base.as_deref() == base.as_deref()
    }

    /// Ends the subscriptions of what `next` does not offer as it was.
    pub(super) fn end(&self, next: Option<&Self>) {
        for (name, property) in &self.properties {
            let kept = next.and_then(|n| n.properties.get(name)).is_some_and(|p| Arc::ptr_eq(p, property));
            if !kept {
                property.gone.cancel();
            }
        }
    }

    fn property(&self, name: &str) -> Result<&Arc<Property>, PropertyError> {
        self.properties.get(name).ok_or_else(|| PropertyError::NoSuchProperty(name.into()))
    }

    /// Invokes a method with parameters by position (an array) or by name (an object).
    async fn invoke(&self, name: &str, params: Value) -> Result<Value, PropertyError> {
        let spec = self.methods.get(name).ok_or_else(|| PropertyError::NoSuchMethod(name.into()))?;
        let params = spec.arguments(name, params).map_err(PropertyError::WrongType)?;
        http::invoke(&self.client, spec, self.base.as_deref(), &params).await
    }
}

/// An answer as it stands in an outcome.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

/// Work with files, where it delays nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, file::FileError> + Send + 'static,
) -> Result<T, PropertyError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| PropertyError::Failed(e.to_string())),
        Err(_) => Err(PropertyError::Failed("the work with the file was cut off".into())),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a subscriber is told when something was seen by the clock on the wall"
)]
fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn method() -> MethodSpec {
        let params = json!([{ "name": "a", "type": "integer" }, { "name": "b", "type": "integer" }]);
        serde_json::from_value(json!({ "url": "/add", "params": params })).expect("a method")
    }

    #[test]
    fn parameters_go_by_position_or_by_name() {
        let by = |params| method().arguments("add", params).map(Value::Object);
        assert_eq!(by(json!([2, 3])), Ok(json!({ "a": 2, "b": 3 })));
        assert_eq!(by(json!({ "b": 3, "a": 2 })), Ok(json!({ "a": 2, "b": 3 })));
        for (bad, part) in [
            (json!([2]), "`b` is missing"),
            (json!([1, 2, 3]), "3 values"),
            (json!({ "a": 1, "b": 2, "c": 3 }), "no `c`"),
            (json!([1, "2"]), "of type integer, not string"),
            (json!(7), "expected an array or an object"),
        ] {
            assert!(by(bad).is_err_and(|why| why.contains(part)), "{part}");
        }
    }
}
