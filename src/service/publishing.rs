//! Values that go out: each publisher delivers in order, on a task of its own, so that one that hangs delays nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::message::Publication;
use crate::connectors::Connectors;
use crate::model::connector::{Command, ConnectorError, Effector};
use crate::policy::PublishPolicy;

/// How many values wait for one publisher; beyond that the oldest is lost, and counted.
const WAITING: usize = 1_000;

/// How long a publisher that cannot be reached rests at first, …
const FIRST_REST: Duration = Duration::from_millis(200);

/// … and at most.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How often one is asked that answers that it failed; another time may be better, and what it stumbles over must not hold up what comes after.
const TRIES: u32 = 8;

/// One publisher at work.
struct Running {
    policy: Arc<PublishPolicy>,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What waits for one publisher.
#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Publication>>,
    come: Notify,
}

/// All publishers, by service and name.
#[derive(Default)]
pub struct Publishing {
    running: DashMap<Arc<str>, HashMap<Arc<str>, Running>>,
    counters: Arc<Counters>,
}

/// What publishers counted.
#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    lost: AtomicU64,
}

impl Publishing {
    /// Lets exactly these publishers of a service run. Those that stay the same are not touched, nor is what waits for them.
    pub fn set(
        &self,
        service: &Arc<str>,
        publishers: &[Arc<PublishPolicy>],
        connectors: &Connectors,
        runtime: &tokio::runtime::Handle,
    ) {
        let mut before = self.running.remove(service).map(|(_, running)| running).unwrap_or_default();
        let mut now = HashMap::new();
        for policy in publishers {
            let running = match before.remove(&policy.name) {
                Some(running) if running.policy == *policy => running,
                _ => match connectors.effector(service, &policy.to) {
                    Ok(effector) => self.start(policy, effector, runtime),
                    Err(error) => {
                        tracing::error!(service = &**service, publisher = &*policy.name, %error, "a publisher cannot be built");
                        continue;
                    }
                },
            };
            now.insert(policy.name.clone(), running);
        }
        if !now.is_empty() {
            self.running.insert(service.clone(), now);
        }
    }

    fn start(
        &self,
        policy: &Arc<PublishPolicy>,
        effector: Arc<dyn Effector>,
        runtime: &tokio::runtime::Handle,
    ) -> Running {
        let queue = Arc::new(Queue::default());
        let work = deliver(policy.clone(), effector, queue.clone(), self.counters.clone());
        Running { policy: policy.clone(), queue, task: runtime.spawn(work) }
    }

    /// A value goes out.
    pub fn publish(&self, publication: Publication) {
        let running = self.running.get(&publication.service);
        let Some(queue) = running.as_ref().and_then(|running| running.get(&publication.publisher)) else {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let queue = &queue.queue;
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING {
            waiting.pop_front();
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(publication);
        drop(waiting);
        queue.come.notify_one();
    }

    /// How many values went out, and how many were lost because publishers could not keep up or refused them.
    pub fn counted(&self) -> (u64, u64) {
        (self.counters.delivered.load(Ordering::Relaxed), self.counters.lost.load(Ordering::Relaxed))
    }

    /// Stops all of them.
    pub fn stop(&self) {
        self.running.clear();
    }
}

async fn deliver(
    policy: Arc<PublishPolicy>,
    effector: Arc<dyn Effector>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
) {
    let mut number = 0_u64;
    let mut broken = false;
    loop {
        let next = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(publication) = next else {
            queue.come.notified().await;
            continue;
        };
        number += 1;
        let command = Command {
            service: publication.service.to_string(),
            action: publication.action(),
            // Counting begins anew with every start, and a receiver that knows a key drops what bears it again.
            key: format!("{}/{}/{}/{number}", publication.service, publication.publisher, publication.at.0),
        };
        let mut rest = FIRST_REST;
        for tried in 1.. {
            let limit = policy.to.timeout();
            let sent = match tokio::time::timeout(limit.0, effector.perform(&command)).await {
                Ok(sent) => sent,
                Err(_) => Err(ConnectorError::Timeout(limit)),
            };
            match sent {
                Ok(_) => {
                    counters.delivered.fetch_add(1, Ordering::Relaxed);
                    if std::mem::take(&mut broken) {
                        tracing::info!(
                            service = command.service,
                            publisher = &*policy.name,
                            "a publisher delivers again"
                        );
                    }
                    break;
                }
                Err(error) => {
                    if !std::mem::replace(&mut broken, true) {
                        tracing::warn!(service = command.service, publisher = &*policy.name, %error, "a publisher cannot deliver");
                    }
                    // What was refused will be refused again; who cannot be reached may be later.
                    let given_up = match error {
                        ConnectorError::Config(_) | ConnectorError::Answer(_) => true,
                        ConnectorError::Failed(_) => tried >= TRIES,
                        ConnectorError::Timeout(_) | ConnectorError::Unreachable(_) => false,
                    };
                    if given_up {
                        counters.lost.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(LONGEST_REST);
                }
            }
        }
    }
}
