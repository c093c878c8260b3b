//! The generic proxy (S4): what of a service can be looked at, set, invoked and subscribed to, on a listener of its own, though the service knows nothing
//! of it.
//!
//! Reading order: `file`, `http` and `program` (where values are kept), [`Property`] here (read, set, who is told), `timing` (when), `detect`, `files` and
//! `stream` (how a change is noticed), `deliver` (how it is told), `server` (the listener).

mod channel;
mod cloud;
mod deliver;
mod detect;
mod file;
mod files;
mod http;
mod hybrid;
mod program;
mod sensor;
mod server;
mod stream;
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

use super::meter::Meter;
use super::now;
use crate::connectors::Connectors;
use crate::model::connector::TookPlace;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::manage::{
    FileFormat, Manage, ManageSpec, MethodSpec, PropertySpec, PropertyType, SubscriptionMode, type_of,
};
use crate::model::{Action, HumanDuration, Timestamp};
use channel::{Hub, Topology};
use deliver::Door;
use files::Files;
use hybrid::Way;
use timing::{Tick, Timing, When};

pub use program::{Beside, Program};
pub(super) use sensor::PropertyReader;
pub(super) use server::{Now, routes, serve};

/// How long one read, call or telling may take unless it is said otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long after a look that failed it is looked again, before it is said that it cannot be read.
const AGAIN: Duration = Duration::from_millis(50);

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
    #[error("{0}")]
    NoSuchComponent(&'static str),
    #[error("`{0}` cannot be set")]
    NotSettable(String),
    #[error("`{0}` has no `webhook`, so nobody says when it changes")]
    NoWebhook(String),
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
    /// By the calls that change it, as they pass.
    Calls,
    /// When it happens.
    Notified,
    /// By the service's own stream of events.
    Stream,
    /// By a call of the service.
    Webhook,
    /// By looking, often after changes and seldom without.
    Polled,
}

impl Detection {
    /// Whether it takes nothing while nobody listens to it.
    fn is_free(self) -> bool {
        matches!(self, Self::Calls | Self::Notified | Self::Webhook)
    }
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

/// A value that was seen, or why there is none any more.
#[derive(Debug, Clone)]
struct Seen {
    value: Result<Value, Arc<str>>,
    at: std::time::Instant,
}

/// What is known of a property while somebody waits for changes.
#[derive(Debug, Default)]
struct Known {
    /// The value that was seen last.
    value: Option<Value>,
    /// Why it cannot be read since.
    trouble: Option<Arc<str>>,
}

/// One subscription.
struct Subscription {
    mode: &'static str,
    callback: Option<String>,
    counters: Arc<Counters>,
    /// To whom changes are told.
    changes: Option<mpsc::Sender<Seen>>,
    /// With a tolerance: how news come to it at present.
    way: Option<Way>,
    ended: CancellationToken,
}

impl Subscription {
    /// Whether it needs changes to be noticed.
    fn listens(&self) -> bool {
        self.changes.is_some() && self.way != Some(Way::Pull)
    }
}

/// What a subscriber learns at once.
struct Begun {
    id: u64,
    /// How changes are noticed, when they are told.
    detection: Option<Detection>,
    /// What it is, when changes are told.
    value: Option<Value>,
    /// Why it cannot be read, when changes are told.
    trouble: Option<Arc<str>>,
    notifications: mpsc::Receiver<Notification>,
}

#[derive(Default)]
struct Subscriptions {
    last: u64,
    all: BTreeMap<u64, Subscription>,
    /// Runs while somebody waits for changes.
    detector: Option<(Detection, CancellationToken)>,
}

impl Subscriptions {
    /// Nothing is noticed while nobody needs it.
    fn rest(&mut self) {
        if !self.all.values().any(Subscription::listens)
            && let Some((_, stop)) = self.detector.take()
        {
            stop.cancel();
        }
    }
}

/// What somebody subscribes with.
#[derive(Clone)]
struct Wish {
    when: When,
    start: Duration,
    duration: Option<Duration>,
    callback: Option<String>,
    /// Over which connection it goes; over any, when `None`.
    channel: Option<Topology>,
}

/// What all services share: connections to them and to subscribers, and one watch of the file system.
#[derive(Clone)]
pub(super) struct Shared {
    client: reqwest::Client,
    files: Files,
    hub: Arc<Hub>,
    pub(super) beside: Beside,
}

impl Shared {
    pub(super) fn new(connectors: &Connectors) -> Self {
        Self {
            client: http::client(),
            files: Files::default(),
            hub: Arc::default(),
            beside: Beside::new(connectors),
        }
    }

    /// A management listener opens.
    pub(super) fn join(&self, manager: &Arc<arc_swap::ArcSwap<Manager>>) {
        self.hub.join(manager);
    }
}

/// One property of a service.
struct Property {
    service: Arc<str>,
    name: Arc<str>,
    spec: PropertySpec,
    base: Option<Arc<str>>,
    shared: Shared,
    /// The calls of its clients, where they can be seen.
    calls: Option<Arc<Meter>>,
    /// Looks at the program; some quantities are differences between two looks.
    looks: tokio::sync::Mutex<program::Looks>,
    /// What was seen last; locked while it is set or looked at for changes, so that what is told comes in order.
    known: tokio::sync::Mutex<Known>,
    subscriptions: Mutex<Subscriptions>,
    /// Of all subscriptions there were.
    counters: Arc<Counters>,
    gone: CancellationToken,
}

impl Property {
    fn is_number(&self) -> bool {
        matches!(self.spec.kind, PropertyType::Number | PropertyType::Integer)
    }

    fn is_constant(&self) -> bool {
        self.spec.value.is_some() || self.spec.environment.is_some()
    }

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
            http::read(&self.shared.client, source, kind, self.base.as_deref()).await?
        } else {
            let (service, spec) = (&self.service, &self.spec);
            let known = program::read(&self.shared.beside, &self.looks, service, spec).await;
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
                    true => {
                        program::tell(&self.shared.beside, &self.service, tell.signal.unwrap_or_default())
                    }
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
            http::set(&self.shared.client, source, self.base.as_deref(), &value).await?;
            // What the service makes of it is what is told.
            let taken = self.read().await.unwrap_or(value);
            self.publish(&mut known, taken);
            return told;
        }
        self.publish(&mut known, value);
        told
    }

    /// Looks whether it changed, and tells who subscribed to that. Answers whether it did.
    async fn look(&self) -> bool {
        for again in [false, true] {
            let mut known = self.known.lock().await;
            match self.read().await {
                Ok(value) => return self.publish(&mut known, value),
                Err(why) if again || known.trouble.is_some() => {
                    tracing::debug!(property = %self.name, %why, "cannot be looked at");
                    self.lose(&mut known, &why);
                    return false;
                }
                // Half-written, or for a moment not there?
                Err(_) => {
                    drop(known);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        false
    }

    /// Somebody who knows says that it changed, perhaps with a `message` that has the value at `pointer`; without one it is asked.
    /// Answers whether it was.
    async fn told(&self, message: Option<Value>, pointer: &str) -> bool {
        let value = message.and_then(|mut message| message.pointer_mut(pointer).map(Value::take));
        match value.filter(|value| self.spec.kind.fits(value)) {
            Some(value) => {
                let mut known = self.known.lock().await;
                self.publish(&mut known, value);
                false
            }
            None => {
                self.look().await;
                true
            }
        }
    }

    /// How changes are noticed from now on.
    fn detects(&self, how: Detection) {
        if let Some((now, _)) = &mut self.subscriptions().detector {
            *now = how;
        }
    }

    fn publish(&self, known: &mut Known, value: Value) -> bool {
        let back = known.trouble.take().is_some();
        if known.value.as_ref() == Some(&value) && !back {
            return false;
        }
        known.value = Some(value.clone());
        self.spread(&Seen { value: Ok(value), at: now() });
        true
    }

    /// It cannot be read: told once, until it can be again.
    fn lose(&self, known: &mut Known, why: &PropertyError) {
        if known.trouble.is_none() {
            let why: Arc<str> = why.to_string().into();
            known.trouble = Some(why.clone());
            self.spread(&Seen { value: Err(why), at: now() });
        }
    }

    fn spread(&self, seen: &Seen) {
        for subscription in self.subscriptions().all.values() {
            if let Some(changes) = &subscription.changes
                && let Err(mpsc::error::TrySendError::Full(_)) = changes.try_send(seen.clone())
            {
                self.count(&subscription.counters, |c| &c.missed, 1);
            }
        }
    }

    fn count(&self, own: &Counters, which: impl Fn(&Counters) -> &AtomicU64, by: u64) {
        which(own).fetch_add(by, Ordering::Relaxed);
        which(&self.counters).fetch_add(by, Ordering::Relaxed);
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a subscription. Its notifications come out of what is answered, until it is over; dropping that ends it.
    async fn subscribe(self: &Arc<Self>, wish: Wish) -> Result<Begun, PropertyError> {
        let change = !matches!(wish.when, When::Every(_));
        if matches!(wish.when, When::Within(_)) && !self.is_number() {
            let why = format!(
                "`mode: hybrid` is for numbers, and `{}` is of type {}",
                self.name,
                self.spec.kind.word()
            );
            return Err(PropertyError::Invalid(why));
        }
        let door = match (&wish.callback, wish.channel) {
            (None, _) => None,
            (Some(url), None) => Some(Door::Any(url.clone())),
            (Some(url), Some(topology)) => {
                let service = (topology == Topology::Own).then_some(&self.service);
                Some(Door::Channel(self.shared.hub.channel(url, service).map_err(PropertyError::Invalid)?))
            }
        };
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
            // What is looked at every now and then may have changed since; after the watch, so that nothing happens between.
            let stale = running.is_none_or(|how| how == Detection::Polled) || known.trouble.is_some();
            detection = Some(running.unwrap_or_else(|| self.detect()));
            if stale {
                match self.read().await {
                    Ok(value) => drop(self.publish(&mut known, value)),
                    Err(why) => self.lose(&mut known, &why),
                }
            }
        }
        let id = {
            let mut subscriptions = self.subscriptions();
            subscriptions.last += 1;
            let id = subscriptions.last;
            let subscription = Subscription {
                mode: wish.when.word(),
                callback: wish.callback.clone(),
                counters: counters.clone(),
                changes: change.then(|| begun.clone()),
                way: matches!(wish.when, When::Within(_)).then_some(Way::Push),
                ended: ended.clone(),
            };
            subscriptions.all.insert(id, subscription);
            id
        };
        let trouble = known.trouble.clone().filter(|_| change);
        let value = known.value.clone().filter(|_| change && trouble.is_none());
        let mut timing = Timing::new(wish.when, wish.start, wish.duration, value.clone());
        timing.free(detection.is_some_and(Detection::is_free));
        if trouble.is_some() {
            // It is in the answer.
            timing.lost(wish.start);
        }
        drop(known);
        let (out, notifications) = mpsc::channel(QUEUE);
        let follower =
            Follower { id, property: self.clone(), timing, out, counters: counters.clone(), missed: 0 };
        // Held, because an interval is told without changes.
        let held = (!change).then_some(begun);
        let unsubscribed = ended.clone();
        tokio::spawn(async move {
            follower.follow(seen, &ended).await;
            drop(held);
        });
        let property = self.clone();
        let notifications = match door {
            None => self.forgetting(id, notifications),
            Some(door) => {
                let (nothing, empty) = mpsc::channel(1);
                tokio::spawn(async move {
                    tokio::select! {
                        () = deliver::deliver(&property, &door, notifications, &counters, (id, change)) => {}
                        () = unsubscribed.cancelled() => {}
                    }
                    property.end(id);
                    drop(nothing);
                });
                empty
            }
        };
        Ok(Begun { id, detection, value, trouble, notifications })
    }

    /// Begins to notice changes.
    fn detect(self: &Arc<Self>) -> Detection {
        let stop = self.gone.child_token();
        let how = detect::start(self, &stop);
        self.subscriptions().detector = Some((how, stop));
        how
    }

    /// News come to a subscription in this way from now on: changes are noticed as long as somebody needs that.
    async fn turn(self: &Arc<Self>, id: u64, way: Way) {
        let mut known = self.known.lock().await;
        let begins = {
            let mut subscriptions = self.subscriptions();
            let Some(subscription) = subscriptions.all.get_mut(&id) else { return };
            subscription.way = Some(way);
            subscriptions.rest();
            subscriptions.detector.is_none() && way == Way::Push
        };
        if begins {
            self.detect();
            match self.read().await {
                Ok(value) => drop(self.publish(&mut known, value)),
                Err(why) => self.lose(&mut known, &why),
            }
        }
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
        subscriptions.rest();
        true
    }
}

/// The task of one subscription: nothing that it waits for delays another.
struct Follower {
    id: u64,
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
            let (out, way) = (self.out.clone(), self.timing.way());
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                () = out.closed() => return,
                change = seen.recv() => {
                    let Some(change) = change else { return };
                    self.seen(change.at.saturating_duration_since(begin), change.value);
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
                        self.tell(old, value.map_err(|why| why.to_string().into()));
                    }
                    Tick::Ask => {
                        let value = self.property.read().await.map_err(|why| why.to_string().into());
                        self.seen(now().duration_since(begin), value);
                    }
                    Tick::Begin(value) => self.seen(now().duration_since(begin), Ok(value)),
                },
            }
            if let Some(turned) = self.timing.way().filter(|now| Some(*now) != way) {
                self.property.turn(self.id, turned).await;
            }
        }
    }

    /// Tells what was seen, if that is to be told.
    fn seen(&mut self, at: Duration, value: Result<Value, Arc<str>>) {
        match value {
            Ok(value) => {
                if let Some(old) = self.timing.observe(at, &value) {
                    self.tell(old, Ok(value));
                }
            }
            Err(why) => {
                if self.timing.lost(at) {
                    self.tell(self.timing.last().cloned(), Err(why));
                }
            }
        }
    }

    fn miss(&mut self, count: u64) {
        self.missed += count;
        self.property.count(&self.counters, |c| &c.missed, count);
    }

    fn tell(&mut self, old: Option<Value>, new: Result<Value, Arc<str>>) {
        let (new, error) = match new {
            Ok(value) => (value, None),
            Err(why) => (Value::Null, Some(String::from(&*why))),
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
    shared: Shared,
    calls: Option<Arc<Meter>>,
    properties: BTreeMap<Arc<str>, Arc<Property>>,
    methods: BTreeMap<Arc<str>, MethodSpec>,
}

impl Manager {
    /// Of a service; what is as it was in `before` is the same, with its subscriptions.
    pub(super) fn new(
        service: &Arc<str>,
        manage: &Manage,
        endpoint: Option<&Endpoint>,
        calls: Option<&Arc<Meter>>,
        before: Option<&Self>,
        shared: &Shared,
        stopping: &CancellationToken,
    ) -> Self {
        let base: Option<Arc<str>> =
            endpoint.filter(|e| e.protocol == Protocol::Http).map(|e| format!("http://{}", e.address).into());
        let property = |(name, spec): (&String, &PropertySpec)| {
            let old = before.and_then(|b| b.properties.get(name.as_str()));
            let modes = |of: &Manage| of.spec.subscriptions.clone();
            let subscribed = before.is_some_and(|b| modes(&b.manage) == modes(manage));
            let seen = |p: &Property| p.calls.as_ref().map(Arc::as_ptr) == calls.map(Arc::as_ptr);
            let same = old.filter(|p| p.spec == *spec && p.base == base && seen(p) && subscribed);
            let property = same.cloned().unwrap_or_else(|| {
                Arc::new(Property {
                    service: service.clone(),
                    name: name.as_str().into(),
                    spec: spec.clone(),
                    base: base.clone(),
                    shared: shared.clone(),
                    calls: calls.cloned(),
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
        Self {
            manage: manage.clone(),
            service: service.clone(),
            base,
            shared: shared.clone(),
            calls: calls.cloned(),
            properties,
            methods,
        }
    }

    /// Of a service of which nothing is offered.
    pub(super) fn nothing(service: &str, shared: &Shared) -> Self {
        let manage = Manage { listen: None, spec: Arc::new(ManageSpec::default()) };
        Self::new(&service.into(), &manage, None, None, None, shared, &CancellationToken::new())
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
        let tells = property.spec.file.as_ref().is_some_and(|file| file.tell.is_some());
        Ok(match file::same(&now, value) {
            // Whether the service was told of it cannot be seen.
            true if tells => TookPlace::Unknown,
            true => TookPlace::Yes,
            false => TookPlace::No,
        })
    }

    /// Whether it offers just this.
    pub(super) fn is(
        &self,
        manage: &Manage,
        endpoint: Option<&Endpoint>,
        calls: Option<&Arc<Meter>>,
    ) -> bool {
        let base = endpoint.filter(|e| e.protocol == Protocol::Http).map(|e| format!("http://{}", e.address));
        self.manage == *manage
            && self.base.as_deref() == base.as_deref()
            && self.calls.as_ref().map(Arc::as_ptr) == calls.map(Arc::as_ptr)
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

    /// The sub-components of S4 that there are, with what each answers (R4-14).
    fn components(&self) -> Value {
        let spec = &self.manage.spec;
        let mut all = vec![serde_json::json!({
            "name": "GenericProxy",
            "routes": ["/_mon/properties", "/_mon/properties/{name}", "/_mon/methods", "/_mon/invoke/{name}"],
        })];
        let modes: Vec<SubscriptionMode> = [SubscriptionMode::Interval, SubscriptionMode::Change]
            .into_iter()
            .filter(|m| spec.offers(*m))
            .collect();
        if !modes.is_empty() {
            let mut routes = vec![
                "/_mon/properties/{name}/subscriptions",
                "/_mon/properties/{name}/subscriptions/{id}",
                "/_mon/properties/{name}/events",
                "/_mon/events",
            ];
            if modes.contains(&SubscriptionMode::Change) {
                routes.push("/_mon/properties/{name}/changed");
            }
            all.push(serde_json::json!({
                "name": "MonitoringBySubscription",
                "modes": modes,
                "routes": routes,
            }));
        }
        serde_json::json!({ "service": &*self.service, "components": all })
    }

    /// Refuses what only a component does that is not there.
    fn subscribes(&self, mode: Option<SubscriptionMode>) -> Result<(), PropertyError> {
        let offers = |m| self.manage.spec.offers(m);
        let any = offers(SubscriptionMode::Interval) || offers(SubscriptionMode::Change);
        let why = match mode {
            _ if !any => {
                "this service was made manageable without MonitoringBySubscription; `/_mon` lists what there is"
            }
            Some(SubscriptionMode::Interval) if !offers(SubscriptionMode::Interval) => {
                "this service was made manageable without subscriptions on interval; `/_mon` lists what there is"
            }
            Some(SubscriptionMode::Change) if !offers(SubscriptionMode::Change) => {
                "this service was made manageable without subscriptions on change; `/_mon` lists what there is"
            }
            _ => return Ok(()),
        };
        Err(PropertyError::NoSuchComponent(why))
    }

    fn property(&self, name: &str) -> Result<&Arc<Property>, PropertyError> {
        self.properties.get(name).ok_or_else(|| PropertyError::NoSuchProperty(name.into()))
    }

    /// Invokes a method with parameters by position (an array) or by name (an object).
    async fn invoke(&self, name: &str, params: Value) -> Result<Value, PropertyError> {
        let spec = self.methods.get(name).ok_or_else(|| PropertyError::NoSuchMethod(name.into()))?;
        let params = spec.arguments(name, params).map_err(PropertyError::WrongType)?;
        http::invoke(&self.shared.client, spec, self.base.as_deref(), &params).await
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
