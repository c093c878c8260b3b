//! Data on their way out: gathered, bounded, sent in batches. Who measures never waits for who receives.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use serde::Serialize;
use tokio::sync::Notify;

use super::wanted::Feed;
use super::{Counted, JSON, Settings};
use crate::model::Timestamp;
use crate::model::error::chain;
use crate::service::supervisor::Supervisor;

/// The most data that wait.
const ROOM: usize = 10_000;
/// The most data in a batch.
const BATCH: usize = 1_000;
/// The longest time that a datum may wait. Receivers take what comes for new: it bears no time.
const OLD: Duration = Duration::from_secs(60);
/// How many receivers are sent to at once.
const AT_ONCE: usize = 8;

struct Held {
    feed: Feed,
    value: f64,
    at: Timestamp,
}

/// A datum as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    resource_id: &'a str,
    metric: &'a str,
    value: f64,
}

#[derive(Default)]
struct Queue {
    held: VecDeque<Held>,
    sent: u64,
    lost: u64,
    /// How many were lost since people were told; absent, while all is well.
    losing: Option<u64>,
}

/// What became of a batch.
enum Fate {
    Sent,
    /// Nobody is there: it may be sent again.
    Unsent(String),
    /// It was not taken, and would not be.
    Refused(String),
}

/// Data on their way out.
pub(super) struct Outbox {
    client: Client,
    gather: Duration,
    retry: Duration,
    supervisor: Arc<Supervisor>,
    queue: Mutex<Queue>,
    ready: Notify,
}

impl Outbox {
    pub fn new(client: Client, settings: &Settings, supervisor: Arc<Supervisor>) -> Self {
        let Settings { gather, retry, .. } = *settings;
        Self { client, gather, retry, supervisor, queue: Mutex::default(), ready: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counted(&self) -> Counted {
        let queue = self.queue();
        Counted { sent: queue.sent, lost: queue.lost }
    }

    /// Puts a datum in; the oldest goes when there is no room.
    pub fn put(&self, feed: &Feed, value: f64, at: Timestamp) {
        let full = {
            let mut queue = self.queue();
            let full = queue.held.len() >= ROOM;
            if full {
                queue.held.pop_front();
            }
            queue.held.push_back(Held { feed: feed.clone(), value, at });
            full
        };
        if full {
            self.lose(1, &format!("{ROOM} wait already"));
        }
        self.ready.notify_one();
    }

    fn lose(&self, number: usize, why: &str) {
        let mut queue = self.queue();
        queue.lost += number as u64;
        let first = queue.losing.is_none();
        *queue.losing.get_or_insert(0) += number as u64;
        drop(queue);
        if first && number > 0 {
            tracing::warn!(why, "data are lost");
            self.supervisor.shell().tell("collect", None, format!("data are lost: {why}"));
        }
    }

    /// Sends for ever: a moment after the first datum has come, what has come until then.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.ready.notified().await;
            tokio::time::sleep(self.gather).await;
            while !self.send_all().await {
                tokio::time::sleep(self.retry).await;
            }
        }
    }

    /// Sends everything that waits. Answers whether everybody was there; what could not be sent waits on.
    pub async fn send_all(&self) -> bool {
        let now = self.supervisor.now();
        let held = std::mem::take(&mut self.queue().held);
        let waited = held.len();
        let mut by_url: BTreeMap<Arc<str>, Vec<Held>> = BTreeMap::new();
        for one in held.into_iter().filter(|one| now.since(one.at) <= OLD) {
            by_url.entry(one.feed.url.clone()).or_default().push(one);
        }
        let old = waited - by_url.values().map(Vec::len).sum::<usize>();
        if old > 0 {
            self.lose(old, &format!("they waited for longer than {} s", OLD.as_secs()));
        }
        let sending = by_url.into_values().map(|held| self.send_to_one(held));
        let unsent: Vec<Held> = futures::stream::iter(sending)
            .buffer_unordered(AT_ONCE)
            .flat_map(futures::stream::iter)
            .collect()
            .await;
        if unsent.is_empty() {
            return true;
        }
        let mut queue = self.queue();
        let mut lost = 0;
        for one in unsent.into_iter().rev() {
            match queue.held.len() < ROOM {
                true => queue.held.push_front(one),
                false => lost += 1,
            }
        }
        drop(queue);
        if lost > 0 {
            self.lose(lost, &format!("{ROOM} wait already"));
        }
        false
    }

    /// Sends batches to one receiver, in order; answers what it was not there for.
    async fn send_to_one(&self, mut held: Vec<Held>) -> Vec<Held> {
        while !held.is_empty() {
            let number = held.len().min(BATCH);
            match self.post(&held[..number]).await {
                Fate::Sent => {
                    let lost = {
                        let mut queue = self.queue();
                        queue.sent += number as u64;
                        queue.losing.take()
                    };
                    if let Some(lost) = lost {
                        let text = format!("data are taken again; {lost} were lost");
                        tracing::info!("{text}");
                        self.supervisor.shell().tell("collect", None, text);
                    }
                }
                Fate::Unsent(why) => {
                    tracing::debug!(why, url = &*held[0].feed.url, "data wait");
                    return held;
                }
                Fate::Refused(why) => self.lose(number, &why),
            }
            held.drain(..number);
        }
        held
    }

    async fn post(&self, held: &[Held]) -> Fate {
        let data: Vec<_> = held
            .iter()
            .map(|one| Written { resource_id: &one.feed.service, metric: &one.feed.metric, value: one.value })
            .collect();
        match self.client.post(&*held[0].feed.url).header(CONTENT_TYPE, JSON).json(&data).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => Fate::Sent,
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Fate::Unsent("it is overloaded".into())
            }
            Ok(answer) => Fate::Refused(format!(
                "{} answers {} to `{}`",
                held[0].feed.url,
                answer.status(),
                held[0].feed.metric
            )),
            Err(error) => Fate::Unsent(chain(&error)),
        }
    }
}
