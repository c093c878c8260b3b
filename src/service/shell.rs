//! The shell: threads that feed shards, tasks that wait for sensors and effectors. The only asynchronous part of the loop; it decides nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::collection::{Collection, Want};
use super::control::Event;
use super::message::{Aside, Effect, Lasting, Letter, Message, Perform, Request, Response};
use super::names::Names;
use super::publishing::Publishing;
use super::record::{Line, Tape};
use super::sensing::Sensing;
use super::shard::{Shard, Surroundings, shard_of};
use super::simulation::OPERATIONS;
use super::turn::Tally;
use crate::connectors::Connectors;
use crate::knowledge::store::{Binding, Intent, Pending, Store};
use crate::membrane::process::{Processes, Told};
use crate::membrane::{Left, Limits, Membrane, News, Served};
use crate::model::calls::Port;
use crate::model::connector::{Command, ConnectorError, SensorSpec, TookPlace};
use crate::model::ports::{Alarms, Notification, PortError};
use crate::model::process::{ProcessOrder, ProcessState, ProcessStatus};
use crate::model::{
    Datum, HumanDuration, MetricId, ModelChange, Outcome, OutcomeStatus, Reading, Timestamp, Verdict,
};
use crate::monitor::SensorWanted;
use crate::plan::strategy::{Deadline, Run, RunLimits, STACK_SIZE, StrategyHost};

/// How many messages from outside may wait in one mailbox; who brings more waits.
const MAILBOX: usize = 8_192;

/// How many messages a shard takes at once.
const BATCH: usize = 256;

/// How many scripts that are declared slow run at once; others wait for their turn.
const ASIDE: usize = 4;

/// How long a step waits until a program is ready that calls are to go to, …
const READY_TIME: Duration = Duration::from_secs(60);

/// … for the last calls to the one before, …
const LAST_CALLS: Duration = Duration::from_secs(20);

/// … and until that has ended: together less than a step may take.
const STOP_TIME: Duration = Duration::from_secs(30);

/// How long a call may take.
const CALL_TIME: HumanDuration = HumanDuration::seconds(10);

/// How many events a slow reader may be behind before it loses the oldest.
const EVENTS: usize = 4_096;

/// A message with the place it takes in the mailbox; letters between shards take none, so that shards never wait for each other.
struct Envelope {
    message: Message,
    _place: Option<OwnedSemaphorePermit>,
}

struct Mailbox {
    sender: mpsc::UnboundedSender<Envelope>,
    places: Arc<Semaphore>,
}

/// What the shell is built from.
pub struct Setting {
    /// How many shards.
    pub shards: usize,
    /// The sensors and effectors there are.
    pub connectors: Connectors,
    /// The record.
    pub store: Store,
    /// Where messages are recorded.
    pub tape: Tape,
}

/// A running homeostat: shards, sensors, effectors. Cheap to clone.
#[derive(Clone)]
pub struct Shell(Arc<Inner>);

struct Inner {
    mailboxes: Vec<Mailbox>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    names: Arc<Names>,
    clock: Clock,
    connectors: Connectors,
    membrane: Membrane,
    processes: Processes,
    store: Store,
    tape: Tape,
    calls: DashMap<u64, oneshot::Sender<Response>>,
    subscribers: DashMap<u64, mpsc::Sender<Notification>>,
    next_token: AtomicU64,
    events: broadcast::Sender<Event>,
    tallies: Vec<Mutex<(Tally, usize)>>,
    messages: AtomicU64,
    missed: AtomicU64,
    sensing: Sensing,
    publishing: Publishing,
    collection: Collection,
    planners: DashMap<Arc<str>, Arc<dyn Alarms>>,
    /// What effectors are doing, by key: what that is in words, and its task.
    performing: DashMap<String, (String, JoinHandle<()>)>,
    /// How often it was said, by service, where its references are to lead; what was to follow from a saying before is void.
    sayings: Mutex<HashMap<Arc<str>, u64>>,
    /// Steps that were due when homeostat was stopping already.
    unbegun: Mutex<Vec<Perform>>,
    /// The places of scripts that run aside.
    aside: Arc<Semaphore>,
    /// Samples that sensors brought while the mailbox was full.
    dropped: AtomicU64,
    writes: mpsc::UnboundedSender<Pending<()>>,
    stopping: AtomicBool,
    runtime: tokio::runtime::Handle,
}

/// What lies around a shard in life.
struct Life<'a> {
    inner: &'a Inner,
    run: u64,
    cuts: Vec<(u64, u64)>,
}

impl Surroundings for Life<'_> {
    fn metric_id(&mut self, name: &str) -> MetricId {
        self.inner.names.metric(name)
    }
    fn limits(&mut self) -> RunLimits {
        self.run += 1;
        RunLimits { operations: OPERATIONS, deadline: within(RunLimits::TIME, self.inner.clock) }
    }
    fn cut(&mut self, progress: u64) {
        self.cuts.push((self.run - 1, progress));
    }
}

impl Shell {
    /// Starts the shards. Must be called within a tokio runtime, which the sensors and effectors run on.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn start(setting: Setting) -> std::io::Result<Self> {
        let shards = setting.shards.max(1);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::unbounded_channel()).unzip();
        let mailboxes = senders
            .into_iter()
            .map(|sender| Mailbox { sender, places: Arc::new(Semaphore::new(MAILBOX)) })
            .collect();
        let runtime = tokio::runtime::Handle::current();
        let (writes, written) = mpsc::unbounded_channel();
        runtime.spawn(log_failed_writes(written));
        let clock = Clock::new();
        let (processes, told) = Processes::new(&setting.connectors);
        let shell = Self(Arc::new(Inner {
            mailboxes,
            threads: Mutex::default(),
            names: Arc::default(),
            clock,
            membrane: Membrane::new(&setting.connectors, Limits::default()),
            processes,
            connectors: setting.connectors,
            store: setting.store,
            tape: setting.tape,
            calls: DashMap::new(),
            subscribers: DashMap::new(),
            next_token: AtomicU64::new(1),
            events: broadcast::Sender::new(EVENTS),
            tallies: (0..shards).map(|_| Mutex::default()).collect(),
            messages: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            sensing: Sensing::new(runtime.clone(), clock),
            publishing: Publishing::default(),
            collection: Collection::default(),
            planners: DashMap::new(),
            performing: DashMap::new(),
            sayings: Mutex::default(),
            unbegun: Mutex::default(),
            aside: Arc::new(Semaphore::new(ASIDE)),
            dropped: AtomicU64::new(0),
            writes,
            stopping: AtomicBool::new(false),
            runtime,
        }));
        shell.show_properties_what_is_beside();
        shell.0.runtime.spawn(tell_of_processes(Arc::downgrade(&shell.0), told));
        shell.0.runtime.spawn(tell_of_references(Arc::downgrade(&shell.0), shell.0.membrane.news()));
        for (number, receiver) in receivers.into_iter().enumerate() {
            let inner = shell.0.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .stack_size(STACK_SIZE)
                .spawn(move || run_shard(&inner, number, receiver))?;
            shell.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(shell)
    }

    /// Properties of services are also read from their programs and their metrics.
    fn show_properties_what_is_beside(&self) {
        let beside = self.0.membrane.beside();
        beside.set_programs(self.0.processes.looks());
        let inner = Arc::downgrade(&self.0);
        beside.set_metrics(move |service, metric| {
            let inner = inner.clone();
            let read = async move {
                let shell = Shell(inner.upgrade().ok_or("homeostat is stopping")?);
                // Upstream is asked: what is told is how it is now.
                let request =
                    Request::GetMetric { name: metric, max_age: Some(HumanDuration(Duration::ZERO)) };
                match shell.call(&service, request).await {
                    Ok(Response::Reading(Reading::Missing { reason })) => Err(reason.to_string()),
                    Ok(Response::Reading(reading)) => {
                        reading.value().ok_or_else(|| "it has no value".to_string())
                    }
                    Ok(_) => Err("it has no value".into()),
                    Err(error) => Err(error.to_string()),
                }
            };
            read.boxed()
        });
    }

    /// How many values went out, and how many were lost on the way.
    pub fn published(&self) -> (u64, u64) {
        self.0.publishing.counted()
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Names and numbers.
    pub fn names(&self) -> &Arc<Names> {
        &self.0.names
    }

    /// The record.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Sensors and effectors.
    pub fn connectors(&self) -> &Connectors {
        &self.0.connectors
    }

    /// What stands around services.
    pub fn membrane(&self) -> &Membrane {
        &self.0.membrane
    }

    /// The programs of services.
    pub fn processes(&self) -> &Processes {
        &self.0.processes
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Tells people of something that did not happen in a turn.
    pub fn tell(&self, phase: &str, service: Option<&str>, text: String) {
        publish(
            &self.0,
            Event {
                at: self.0.clock.now(),
                service: service.map(str::to_string),
                phase: phase.to_string(),
                correlation: None,
                text,
            },
        );
    }

    /// What shards counted, added up; and the number of services in quarantine.
    pub fn tally(&self) -> (Tally, usize) {
        let mut sum = (Tally::default(), 0);
        for tally in &self.0.tallies {
            let (t, quarantined) = &*tally.lock().unwrap_or_else(PoisonError::into_inner);
            sum.0.add(t);
            sum.1 += quarantined;
        }
        sum
    }

    /// Messages that shards have taken.
    pub fn messages(&self) -> u64 {
        self.0.messages.load(Ordering::Relaxed)
    }

    /// Notifications that subscribers were too slow to take.
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }

    /// Deliveries of sensors that found the mailbox full.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Puts a message into the mailbox of the shard that owns `service`; waits while it is full.
    ///
    /// # Errors
    /// When the daemon is stopping.
    pub async fn send(&self, service: &str, message: Message) -> Result<(), PortError> {
        self.send_to(shard_of(service, self.0.mailboxes.len()), message).await
    }

    /// The shard that owns `service`.
    pub fn shard_of(&self, service: &str) -> usize {
        shard_of(service, self.0.mailboxes.len())
    }

    /// Puts a message into the mailbox of a shard; waits while it is full.
    ///
    /// # Errors
    /// When the daemon is stopping.
    pub async fn send_to(&self, shard: usize, message: Message) -> Result<(), PortError> {
        let stopping = || PortError::Unavailable("homeostat is stopping".into());
        let mailbox = &self.0.mailboxes[shard];
        let place = mailbox.places.clone().acquire_owned().await.map_err(|_| stopping())?;
        mailbox.sender.send(Envelope { message, _place: Some(place) }).map_err(|_| stopping())
    }

    /// Who needs data, and who observes results.
    pub fn collection(&self) -> &Collection {
        &self.0.collection
    }

    /// Hands data of a metric to whoever needs them; waits while mailboxes are full. `false`: nobody does.
    ///
    /// # Errors
    /// When the daemon is stopping.
    pub async fn collect(&self, metric: Arc<str>, data: Arc<[Datum]>) -> Result<bool, PortError> {
        if data.is_empty() || !self.0.collection.wants(&metric) {
            return Ok(false);
        }
        self.0.collection.come(&metric, &data);
        for shard in 0..self.0.mailboxes.len() {
            self.send_to(shard, Message::Data(metric.clone(), data.clone())).await?;
        }
        Ok(true)
    }

    /// Tells every shard how the resource model has changed.
    ///
    /// # Errors
    /// When the daemon is stopping.
    pub(super) async fn change_model(&self, changes: Vec<ModelChange>) -> Result<(), PortError> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes: Arc<[ModelChange]> = changes.into();
        for shard in 0..self.0.mailboxes.len() {
            self.send_to(shard, Message::Model(changes.clone())).await?;
        }
        Ok(())
    }

    /// Calls a service and waits for the answer.
    ///
    /// # Errors
    /// What the service answers instead, or that it did not answer in time.
    pub async fn call(&self, service: &str, request: Request) -> Result<Response, PortError> {
        let (open, answer) = self.open_call();
        self.call_as(open.token, service, request, answer).await
    }

    fn open_call(&self) -> (OpenCall<'_>, oneshot::Receiver<Response>) {
        let token = self.0.next_token.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.0.calls.insert(token, sender);
        (OpenCall { calls: &self.0.calls, token }, receiver)
    }

    async fn call_as(
        &self,
        token: u64,
        service: &str,
        request: Request,
        answer: oneshot::Receiver<Response>,
    ) -> Result<Response, PortError> {
        // A list of actions takes as long as its effectors take.
        let limit = match request {
            Request::SendActions(_) | Request::Approve(_) => HumanDuration::seconds(150),
            _ => CALL_TIME,
        };
        let message = Message::To(service.into(), Letter::Call { token, request });
        self.send(service, message).await?;
        match tokio::time::timeout(limit.0, answer).await {
            Ok(Ok(Response::Error(error))) => Err(error),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) => Err(PortError::Unavailable("homeostat is stopping".into())),
            Err(_) => Err(PortError::Timeout(limit)),
        }
    }

    /// Subscribes; the token is that of the subscription.
    ///
    /// # Errors
    /// What the service answers instead.
    pub async fn subscribe(
        &self,
        service: &str,
        request: Request,
        room: usize,
    ) -> Result<(u64, mpsc::Receiver<Notification>), PortError> {
        let (open, answer) = self.open_call();
        let (sender, receiver) = mpsc::channel(room);
        self.0.subscribers.insert(open.token, sender);
        let mut begun = Begun { shell: self, service, token: Some(open.token) };
        self.call_as(open.token, service, request, answer).await?;
        begun.token = None;
        Ok((open.token, receiver))
    }

    /// Hands the alarms of a service to a planner of the embedding program from now on, besides the one that its policy describes;
    /// `None` detaches it. What the planner does comes back through the ports, and so it is recorded like everything else.
    ///
    /// # Errors
    /// When there is no such service.
    pub async fn set_planner(
        &self,
        service: &str,
        planner: Option<Arc<dyn Alarms>>,
    ) -> Result<(), PortError> {
        let attached = planner.is_some();
        match planner {
            Some(planner) => self.0.planners.insert(service.into(), planner),
            None => self.0.planners.remove(service).map(|(_, p)| p),
        };
        self.call(service, Request::ForeignPlanner(attached)).await.map(drop)
    }

    /// Ends a subscription, from wherever its last owner is dropped.
    pub fn unsubscribe(&self, service: &str, subscription: u64) {
        self.0.subscribers.remove(&subscription);
        let token = self.0.next_token.fetch_add(1, Ordering::Relaxed);
        let letter = Letter::Call { token, request: Request::Unsubscribe { token: subscription } };
        self.0.post(service, letter);
    }

    /// Settles what a crash interrupted: every action that was begun and has no outcome is looked at in the target's real state,
    /// and its outcome is recorded. Nothing is repeated here; the loop decides anew on what it then sees.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn reconcile(
        &self,
        effectors: &Effectors,
        managed: &HashMap<String, Served>,
    ) -> Result<usize, crate::knowledge::store::StoreError> {
        let intents = self.0.store.open_intents().await?;
        let count = intents.len();
        // All are asked at once: one that does not answer delays the start by its own time only.
        let asked =
            futures::future::join_all(intents.iter().map(|i| self.took_place(i, effectors, managed))).await;
        for (intent, (status, detail)) in intents.into_iter().zip(asked) {
            self.tell(
                "act",
                Some(&intent.service),
                format!("{} was interrupted by the last stop: {detail}", intent.action),
            );
            let outcome = Outcome {
                action: intent.action,
                status,
                executor: intent.executor,
                detail,
                at: self.0.clock.now(),
            };
            self.0.store.outcome(&intent.service, intent.decision, intent.step, &outcome).await?;
            self.complete(&intent.service, intent.decision).await?;
        }
        // An outcome may have been recorded just before the end, and the decision with it in it not any more; and behind the decision that
        // was being carried out others waited.
        for (service, decision) in self.0.store.unfinished().await? {
            self.complete(&service, decision).await?;
        }
        Ok(count)
    }

    async fn took_place(
        &self,
        intent: &Intent,
        effectors: &Effectors,
        managed: &HashMap<String, Served>,
    ) -> (OutcomeStatus, String) {
        let command = Command {
            service: intent.executor.clone(),
            action: intent.action.clone(),
            key: intent.key.clone(),
        };
        let spec = effectors.get(&(intent.executor.clone(), intent.action.name().to_string()));
        let seen = match spec.map(|spec| self.0.connectors.effector(&intent.executor, spec)) {
            Some(Ok(effector)) => {
                match tokio::time::timeout(CALL_TIME.0, effector.took_place(&command)).await {
                    Ok(seen) => seen,
                    Err(_) => Err(ConnectorError::Timeout(CALL_TIME)),
                }
            }
            Some(Err(_)) => Ok(TookPlace::Unknown),
            None => match managed.get(&intent.executor) {
                Some(served) => self.0.membrane.took_place(served, &intent.action).await,
                None => Ok(TookPlace::Unknown),
            },
        };
        match seen {
            Ok(TookPlace::Yes) => (OutcomeStatus::Done, "seen after a restart".into()),
            Ok(TookPlace::No) => (OutcomeStatus::Interrupted, "it did not take place".into()),
            Ok(TookPlace::Unknown) => {
                (OutcomeStatus::Interrupted, "whether it took place cannot be seen".into())
            }
            Err(error) => (OutcomeStatus::Interrupted, format!("whether it took place is unknown: {error}")),
        }
    }

    /// Gives the record of a decision the outcomes that are recorded of its next steps, and of those that were never begun says so: it is
    /// called for decisions that nobody carries on.
    async fn complete(
        &self,
        service: &str,
        decision: u64,
    ) -> Result<(), crate::knowledge::store::StoreError> {
        let mut outcomes = self.0.store.outcomes(service, decision).await?;
        let Some(mut record) = self.0.store.decision_by_id(service, decision).await? else { return Ok(()) };
        let before = record.outcomes.len();
        while let Some(outcome) = outcomes.remove(&(record.outcomes.len() as u32)) {
            record.outcomes.push(outcome);
        }
        if let (Verdict::Planned, Some(plan)) = (&record.verdict, &record.plan) {
            let rest = plan.actions.iter().skip(record.outcomes.len()).map(|action| Outcome {
                action: action.clone(),
                status: OutcomeStatus::Skipped,
                executor: action.service().unwrap_or(service).to_string(),
                detail: "not begun: homeostat was stopped".into(),
                at: self.0.clock.now(),
            });
            record.outcomes.extend(rest.collect::<Vec<_>>());
        }
        if record.outcomes.len() > before {
            self.0.store.decision(&record).await?;
        }
        Ok(())
    }

    /// Records of the steps that were due while homeostat was stopping that they were not begun.
    async fn skip_unbegun(&self) -> Result<(), crate::knowledge::store::StoreError> {
        let unbegun = std::mem::take(&mut *self.0.unbegun.lock().unwrap_or_else(PoisonError::into_inner));
        for perform in unbegun {
            let outcome = Outcome {
                action: perform.action,
                status: OutcomeStatus::Skipped,
                executor: perform.service.to_string(),
                detail: "not begun: homeostat was stopped".into(),
                at: self.0.clock.now(),
            };
            self.0.store.outcome(&perform.origin, perform.decision.0, perform.step, &outcome).await?;
            self.complete(&perform.origin, perform.decision.0).await?;
        }
        Ok(())
    }

    /// Stops in order: sensors, then effectors (what they are doing ends, what comes next is not begun), then what waits in mailboxes;
    /// at the deadline the rest is cut off. Answers who was late.
    pub async fn stop(&self, deadline: Duration) -> Vec<String> {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.sensing.stop();
        self.0.publishing.stop();
        let effectors = async {
            while !self.0.performing.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let mut late = Vec::new();
        if tokio::time::timeout(deadline, effectors).await.is_err() {
            for entry in &self.0.performing {
                let (what, task) = entry.value();
                late.push(format!("the effector that carries out {what} ({})", entry.key()));
                task.abort();
            }
        }
        for mailbox in &self.0.mailboxes {
            mailbox.places.close();
            // An empty detach is the last message; the shard's thread ends at it.
            let message = Message::Detach(super::shell::END.into());
            let _ = mailbox.sender.send(Envelope { message, _place: None });
        }
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        if tokio::time::timeout(deadline, joined).await.is_err() {
            late.push("a shard".into());
        }
        // Clients of managed services are served to the last: only now are the ports in front of those closed.
        if !self.0.membrane.stop(deadline).await {
            late.push("calls through the membrane".into());
        }
        // Only now does what answered them end.
        late.extend(self.0.processes.stop(deadline).await);
        // Nobody is left to answer: who still waits is told so.
        self.0.calls.clear();
        self.0.subscribers.clear();
        if let Err(error) = self.skip_unbegun().await {
            late.push(format!("the record: {error}"));
        }
        if let Err(error) = self.0.store.flush().await {
            late.push(format!("the record: {error}"));
        }
        if let Err(error) = self.0.tape.finish() {
            late.push(format!("the recording: {error}"));
        }
        late
    }
}

/// A call that waits for its answer; whoever stops waiting takes it out of the list.
struct OpenCall<'a> {
    calls: &'a DashMap<u64, oneshot::Sender<Response>>,
    token: u64,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.calls.remove(&self.token);
    }
}

/// A subscription that was asked for and not confirmed; whoever stops waiting takes it back.
struct Begun<'a> {
    shell: &'a Shell,
    service: &'a str,
    token: Option<u64>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.shell.unsubscribe(self.service, token);
        }
    }
}

/// The name that no service can have: it ends a shard.
pub(super) const END: &str = "";

/// How each action of each service is carried out: (service, action) → effector.
pub type Effectors = HashMap<(String, String), Arc<crate::model::connector::EffectorSpec>>;

impl Inner {
    fn sayings(&self) -> MutexGuard<'_, HashMap<Arc<str>, u64>> {
        self.sayings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, service: &str, letter: Letter) {
        let shard = shard_of(service, self.mailboxes.len());
        let message = Message::To(service.into(), letter);
        let _ = self.mailboxes[shard].sender.send(Envelope { message, _place: None });
    }
}

fn run_shard(inner: &Arc<Inner>, number: usize, mut receiver: mpsc::UnboundedReceiver<Envelope>) {
    let mut shard = Shard::new(number, inner.mailboxes.len());
    let mut batch = Vec::with_capacity(BATCH);
    let mut effects = Vec::new();
    let runtime = inner.runtime.clone();
    loop {
        let wake = shard.wake();
        let receive = receiver.recv_many(&mut batch, BATCH);
        let received = runtime.block_on(async {
            match wake {
                None => Some(receive.await),
                Some(at) => tokio::time::timeout_at(inner.clock.instant(at), receive).await.ok(),
            }
        });
        match received {
            Some(0) => return,
            None => turn(inner, &mut shard, number, Message::Wake, &mut effects),
            Some(_) => {
                for envelope in batch.drain(..) {
                    if matches!(&envelope.message, Message::Detach(name) if **name == *END) {
                        return;
                    }
                    turn(inner, &mut shard, number, envelope.message, &mut effects);
                }
            }
        }
        let mut tally = inner.tallies[number].lock().unwrap_or_else(PoisonError::into_inner);
        tally.0.clone_from(shard.tally());
        tally.1 = shard.quarantined();
    }
}

fn turn(inner: &Arc<Inner>, shard: &mut Shard, number: usize, message: Message, effects: &mut Vec<Effect>) {
    let now = inner.clock.now();
    inner.messages.fetch_add(1, Ordering::Relaxed);
    let recording = inner.tape.is_on();
    if recording {
        inner.tape.write(number, now, &Line::of(&message, &inner.names));
    }
    let mut life = Life { inner, run: 0, cuts: Vec::new() };
    shard.turn(now, message, &mut life, effects);
    if recording {
        for (run, progress) in life.cuts {
            inner.tape.write(number, now, &Line::Cut(run, progress));
        }
        for effect in effects.iter() {
            if let Effect::Decision(decision) = effect {
                inner.tape.write(number, now, &Line::Decision(decision.clone()));
            }
        }
    }
    // Decisions and the intents of their actions go to the record together: an action waits for one sync of the disk, and after a crash
    // there is none without its decision.
    let acts = effects.iter().any(|effect| matches!(effect, Effect::Perform(_)));
    let mut intents = VecDeque::new();
    if acts && !inner.stopping.load(Ordering::SeqCst) {
        let decisions = effects.iter().filter_map(|effect| match effect {
            Effect::Decision(decision) => Some(&**decision),
            _ => None,
        });
        let steps = effects.iter().filter_map(|effect| match effect {
            Effect::Perform(perform) => Some(intent(perform, now)),
            _ => None,
        });
        let (decided, begun) = inner.store.begin(decisions, steps);
        intents.extend(begun);
        for write in decided {
            let _ = inner.writes.send(write);
        }
    }
    let written = !intents.is_empty();
    let mut recorded = false;
    for effect in effects.drain(..) {
        recorded |= matches!(effect, Effect::Remember(..) | Effect::Decision(_));
        match effect {
            // What an answer says has been done must outlive a crash right after it.
            Effect::Reply(token, response) if recorded => reply_once_recorded(inner, token, response),
            Effect::Decision(_) if written => {}
            effect => carry_out(inner, effect, &mut intents),
        }
    }
}

fn intent(perform: &Perform, at: Timestamp) -> Intent {
    Intent {
        service: perform.origin.to_string(),
        decision: perform.decision.0,
        step: perform.step,
        key: perform.key.clone(),
        action: perform.action.clone(),
        executor: perform.service.to_string(),
        at,
    }
}

fn reply_once_recorded(inner: &Arc<Inner>, token: u64, response: Response) {
    let Some((_, caller)) = inner.calls.remove(&token) else { return };
    let flushed = inner.store.flush();
    inner.runtime.spawn(async move {
        // That it could not be recorded is in the log; what was asked for runs all the same.
        let _ = flushed.await;
        let _ = caller.send(response);
    });
}

/// Does what a turn orders; `intents` are those of its actions, in order.
fn carry_out(inner: &Arc<Inner>, effect: Effect, intents: &mut VecDeque<Pending<()>>) {
    match effect {
        Effect::Send(service, letter) => inner.post(&service, letter),
        Effect::Reply(token, response) => {
            if let Some((_, caller)) = inner.calls.remove(&token) {
                let _ = caller.send(response);
            }
        }
        Effect::Notify(token, notification) => notify(inner, token, notification),
        Effect::EndOfSubscription(token) => {
            inner.subscribers.remove(&token);
        }
        Effect::Sensors(service, _, wanted) => {
            inner.collection.set(&service, data_wanted(&service, &wanted));
            inner.sensing.set(service, wanted, &inner.connectors, deliver_to(inner));
        }
        Effect::ReadNow(service, metric) => inner.sensing.read_now(&service, &metric, deliver_to(inner)),
        Effect::Perform(perform) => perform_soon(inner, *perform, intents.pop_front()),
        Effect::RunAside(aside) => run_aside(inner, *aside),
        Effect::Ports(service, ports) => set_ports(inner, &service, ports),
        Effect::Emit(metric, data) => {
            inner.collection.tell(&metric, &data);
            if inner.collection.wants(&metric) {
                for mailbox in &inner.mailboxes {
                    // Results of shards take no place in mailboxes, so that shards never wait for each other.
                    let message = Message::Data(metric.clone(), data.clone());
                    let _ = mailbox.sender.send(Envelope { message, _place: None });
                }
            }
        }
        Effect::Publishers(service, publishers) => {
            inner.publishing.set(&service, &publishers, &inner.connectors, &inner.runtime);
        }
        Effect::Publish(publication) => inner.publishing.publish(*publication),
        Effect::Alarm(service, alarm) => {
            if let Some(planner) = inner.planners.get(&service).map(|p| p.clone()) {
                inner.runtime.spawn(async move {
                    if let Err(error) = planner.notify(*alarm).await {
                        tracing::error!(%error, service = &*service, "a planner did not take an alarm");
                    }
                });
            }
        }
        Effect::Decision(decision) => {
            let _ = inner.writes.send(inner.store.decision(&decision));
        }
        Effect::Remember(service, what) => {
            let _ = inner.writes.send(remember(&inner.store, &service, what));
        }
        Effect::Event(event) => publish(inner, event),
    }
}

/// The data that the sensors of a service need.
fn data_wanted(service: &Arc<str>, sensors: &[SensorWanted]) -> Vec<Want> {
    let collecting = sensors.iter().filter(|sensor| sensor.regular);
    collecting
        .filter_map(|sensor| match &*sensor.spec {
            SensorSpec::Collect(spec) => Some(Want {
                service: service.clone(),
                sensor: sensor.metric.clone(),
                metric: spec.metric.as_deref().map_or_else(|| sensor.metric.clone(), Arc::from),
                spec: spec.clone(),
            }),
            _ => None,
        })
        .collect()
}

/// How sensors hand over what they measured. While the mailbox is full, measurements are dropped and counted: a flood of datagrams
/// must not fill the memory, and a lost sample costs latency only. That a sensor failed is always handed over.
fn deliver_to(inner: &Arc<Inner>) -> super::sensing::Deliver {
    let inner = Arc::downgrade(inner);
    Arc::new(move |service, letter| {
        let Some(inner) = inner.upgrade() else { return };
        if !matches!(letter, Letter::Measured { .. }) {
            return inner.post(service, letter);
        }
        let mailbox = &inner.mailboxes[shard_of(service, inner.mailboxes.len())];
        match mailbox.places.clone().try_acquire_owned() {
            Ok(place) => {
                let message = Message::To(service.into(), letter);
                let _ = mailbox.sender.send(Envelope { message, _place: Some(place) });
            }
            Err(_) => {
                inner.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

fn notify(inner: &Inner, token: u64, notification: Notification) {
    let full = match inner.subscribers.get(&token) {
        None => return,
        Some(subscriber) => subscriber.try_send(notification).is_err(),
    };
    if full {
        inner.missed.fetch_add(1, Ordering::Relaxed);
    }
}

fn remember(store: &Store, service: &str, what: Lasting) -> Pending<()> {
    match what {
        Lasting::Slo(slo, on) => store.slo_enabled(service, &slo, Some(on)),
        Lasting::Binding { reference, to, declared } => {
            store.binding(Binding { service: service.to_string(), reference, to, declared })
        }
        Lasting::Knowledge(key, value) => store.knowledge(service, &key, value.as_ref()),
    }
}

fn publish(inner: &Inner, event: Event) {
    tracing::info!(
        target: "homeostat::event",
        service = event.service.as_deref().unwrap_or("-"),
        phase = %event.phase,
        correlation = event.correlation.as_deref().unwrap_or("-"),
        "{}", event.text
    );
    let _ = inner.events.send(event);
}

async fn log_failed_writes(mut writes: mpsc::UnboundedReceiver<Pending<()>>) {
    while let Some(write) = writes.recv().await {
        if let Err(error) = write.await {
            tracing::error!(%error, "a fact could not be recorded");
        }
    }
}

fn perform_soon(inner: &Arc<Inner>, perform: Perform, intent: Option<Pending<()>>) {
    // Without an intent on its way, homeostat was stopping already.
    let Some(intent) = intent else {
        inner.unbegun.lock().unwrap_or_else(PoisonError::into_inner).push(perform);
        return;
    };
    let (service, key) = (perform.service.clone(), perform.key.clone());
    let what = format!("{} at `{service}`", perform.action);
    let (listed, go) = oneshot::channel::<()>();
    let task = {
        let (inner, key) = (inner.clone(), key.clone());
        inner.runtime.clone().spawn(async move {
            // Not before it stands in the list, or it might end before and stay there for good.
            let _ = go.await;
            let work = std::panic::AssertUnwindSafe(perform_now(&inner, perform, intent));
            let result = work.catch_unwind().await.unwrap_or_else(|_| Err("the effector panicked".into()));
            inner.post(&service, Letter::Performed { key: key.clone(), result });
            inner.performing.remove(&key);
        })
    };
    inner.performing.insert(key, (what, task));
    let _ = listed.send(());
}

/// The deadline of a run that begins now. The clock on the wall is cheap to read; when it says that the time is over, the time that the
/// processor has spent on this thread decides: what a busy machine takes away is no fault of the script.
fn within(time: Duration, clock: Clock) -> Deadline {
    let spent = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    };
    let (wall, processor) = (clock.running(), spent());
    let passed = move || {
        let passed = clock.running().saturating_sub(wall);
        if passed < time { passed } else { spent().saturating_sub(processor) }
    };
    Deadline::Within(time, Arc::new(passed))
}

/// Runs a script on a thread of its own, whose stack is made for that.
fn run_aside(inner: &Arc<Inner>, aside: Aside) {
    let inner = inner.clone();
    inner.runtime.clone().spawn(async move {
        let Ok(place) = inner.aside.clone().acquire_owned().await else { return };
        let (service, token) = (aside.service.clone(), aside.token);
        let (post, failed) = (inner.clone(), service.clone());
        let work = move || {
            let _place = place;
            let limits = RunLimits {
                operations: RunLimits::OPERATIONS_ASIDE,
                deadline: within(aside.time, inner.clock),
            };
            let run = || StrategyHost::new().run(&aside.script, &aside.alarm, aside.known.clone(), limits);
            let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let run = run.unwrap_or_else(|_| Run::failed("it panicked"));
            inner.post(&service, Letter::RanAside { token, run: Box::new(run) });
        };
        let thread = std::thread::Builder::new().name("strategy".into()).stack_size(STACK_SIZE).spawn(work);
        if let Err(error) = thread {
            let run = Run::failed(&format!("there is no thread for it: {error}"));
            post.post(&failed, Letter::RanAside { token, run: Box::new(run) });
        }
    });
}

/// Intent, act, outcome. Without a durable intent there is no act.
async fn perform_now(inner: &Inner, perform: Perform, intent: Pending<()>) -> Result<String, String> {
    let recorded = intent.await;
    recorded.map_err(|error| format!("not tried: the intent could not be recorded: {error}"))?;
    let command = Command {
        service: perform.service.to_string(),
        action: perform.action.clone(),
        key: perform.key.clone(),
    };
    let result = call_effectors(inner, &perform, &command).await;
    let outcome = Outcome {
        action: perform.action,
        status: if result.is_ok() { OutcomeStatus::Done } else { OutcomeStatus::Failed },
        executor: perform.service.to_string(),
        detail: match &result {
            Ok(text) => text.clone(),
            Err(error) => error.to_string(),
        },
        at: inner.clock.now(),
    };
    let write = inner.store.outcome(&perform.origin, perform.decision.0, perform.step, &outcome);
    if let Err(error) = write.await {
        tracing::error!(%error, key = perform.key, "the outcome of an action could not be recorded");
    }
    result.map_err(|e| e.to_string())
}

async fn call_effectors(
    inner: &Inner,
    perform: &Perform,
    command: &Command,
) -> Result<String, ConnectorError> {
    let mut said = Vec::new();
    for spec in &perform.effectors {
        let effector = inner.connectors.effector(&perform.service, spec)?;
        let limit = spec.timeout();
        let answer = tokio::time::timeout(limit.0, effector.perform(command))
            .await
            .map_err(|_| ConnectorError::Timeout(limit))??;
        if !answer.is_empty() {
            said.push(answer);
        }
    }
    if !perform.moves.is_empty() {
        said.extend(move_calls(inner, perform).await?);
    }
    if let Some(order) = perform.process {
        let done = inner.processes.order(&perform.service, order).await;
        said.extend(Some(done.map_err(ConnectorError::Answer)?).filter(|s| !s.is_empty()));
    }
    if perform.managed {
        said.push(inner.membrane.carry_out(&perform.service, &perform.action).await?);
    }
    Ok(said.join("; "))
}

/// Lets the ports of a service lead where they are to: at once, but for those whose programs are not ready yet. Calls to these go on as before
/// until they are. What was left is stopped after its last call, if that is wanted.
fn set_ports(inner: &Arc<Inner>, service: &Arc<str>, ports: Vec<Port>) {
    let mut held = Vec::new();
    for port in &ports {
        let start = port.policy.replace.start;
        let names: Vec<Arc<str>> =
            port.to.iter().flat_map(|to| port.policy.sharing(to)).map(|(name, _)| name).collect();
        let awaited = |name: &&Arc<str>| {
            let state = inner.processes.state(name);
            let late = match state {
                None | Some(ProcessState::Running) => false,
                Some(ProcessState::Starting | ProcessState::Waiting) => true,
                Some(_) => start,
            };
            late && inner.membrane.leads_to(service, port, name) == Some(false)
        };
        let late: Vec<Arc<str>> = names.iter().filter(awaited).cloned().collect();
        if !late.is_empty() {
            held.push((port.clone(), late));
        } else if start {
            names.iter().for_each(|name| inner.processes.need(name));
        }
    }
    let stops: Vec<Arc<str>> =
        ports.iter().filter(|p| p.policy.replace.stop).map(|p| p.reference.clone()).collect();
    let (saying, left) = {
        let references: Vec<Arc<str>> = held.iter().map(|(port, _)| port.reference.clone()).collect();
        let mut sayings = inner.sayings();
        let saying = sayings.entry(service.clone()).or_default();
        *saying += 1;
        (*saying, inner.membrane.set_ports_but(service, ports, &references))
    };
    stop_left(inner, service, left.into_iter().filter(|left| stops.contains(&left.reference)));
    for (port, late) in held {
        let waits: Vec<_> = late.iter().filter_map(|name| inner.processes.watch(name)).collect();
        if port.policy.replace.start {
            late.iter().for_each(|name| inner.processes.start(name));
        }
        let names = late.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let text = format!("reference `{}`: calls go on as before until {names} is ready", port.reference);
        tell_of_membrane(inner, service, text);
        inner.runtime.spawn(move_later(Arc::downgrade(inner), service.clone(), port, waits, saying));
    }
}

/// Lets one port lead where it is to once these programs are ready, unless something else was said meanwhile. Holds nothing alive.
async fn move_later(
    inner: std::sync::Weak<Inner>,
    service: Arc<str>,
    port: Port,
    mut waits: Vec<watch::Receiver<ProcessStatus>>,
    saying: u64,
) {
    for status in &mut waits {
        // Which is no longer supervised is not waited for.
        let _ = status.wait_for(|status| status.state == ProcessState::Running).await;
    }
    let Some(inner) = inner.upgrade() else { return };
    let (reference, stop) = (port.reference.clone(), port.policy.replace.stop);
    let left = {
        let sayings = inner.sayings();
        if sayings.get(&service) != Some(&saying) {
            return;
        }
        inner.membrane.set_port(&service, port)
    };
    tell_of_membrane(&inner, &service, format!("reference `{reference}`: calls go there now"));
    stop_left(&inner, &service, left.into_iter().filter(|_| stop));
}

/// Stops the programs of what calls went to, after the last of these.
fn stop_left(inner: &Arc<Inner>, service: &Arc<str>, left: impl Iterator<Item = Left>) {
    for left in left.filter(|left| inner.processes.runs(left.service())) {
        let (inner, service) = (inner.clone(), service.clone());
        inner.runtime.clone().spawn(async move {
            let (name, reference) = (left.service().clone(), left.reference.clone());
            let underway = left.over(LAST_CALLS).await;
            let said = end_left(&inner, &name, underway.is_some()).await;
            tell_of_membrane(&inner, &service, format!("reference `{reference}`: {said}"));
        });
    }
}

/// Stops a program that a reference leads to no more, unless calls are still on their way to it or go there from elsewhere.
async fn end_left(inner: &Inner, name: &Arc<str>, underway: bool) -> String {
    if underway {
        return format!("`{name}` runs on");
    }
    if let Some(other) = inner.membrane.reached(name) {
        return format!("`{name}` runs on: `{other}` leads there");
    }
    match inner.processes.release(name, STOP_TIME).await {
        Ok(_) => format!("`{name}` was stopped"),
        Err(why) => format!("`{name}` was not stopped: {why}"),
    }
}

fn tell_of_membrane(inner: &Inner, service: &Arc<str>, text: String) {
    let (at, phase) = (inner.clock.now(), "membrane".to_string());
    publish(inner, Event { at, service: Some(service.to_string()), phase, correlation: None, text });
}

/// Lets calls go elsewhere. When that fails, programs that were started for it rest again.
async fn move_calls(inner: &Inner, perform: &Perform) -> Result<Vec<String>, ConnectorError> {
    // What a reload has put off is put right when the step has ended.
    *inner.sayings().entry(perform.service.clone()).or_default() += 1;
    let rests = |state| matches!(state, ProcessState::Stopped | ProcessState::Ended | ProcessState::Failed);
    let resting = |name: &Arc<str>| inner.processes.state(name).filter(|state| rests(*state));
    let rested: Vec<_> = perform.starts.iter().filter_map(|name| Some((name, resting(name)?))).collect();
    let moved = start_and_move(inner, perform).await;
    if moved.is_err() {
        let changed = rested.into_iter().filter(|(name, before)| {
            inner.processes.state(name) != Some(*before) && inner.membrane.reached(name).is_none()
        });
        let ends = changed.map(|(name, _)| inner.processes.release(name, STOP_TIME));
        futures::future::join_all(ends).await;
    }
    moved
}

/// Lets calls go elsewhere: not before the program there is ready, and what was left is stopped after its last call, if that is wanted.
async fn start_and_move(inner: &Inner, perform: &Perform) -> Result<Vec<String>, ConnectorError> {
    let mut said = Vec::new();
    let runs = |name: &&Arc<str>| inner.processes.runs(name);
    let begin = async {
        let starts = perform.starts.iter().filter(runs).map(|name| async move {
            let stood = inner.processes.status(name).is_some_and(|s| s.state == ProcessState::Stopped);
            let started = inner.processes.order(name, ProcessOrder::Start).await;
            let why = |why| ConnectorError::Answer(format!("`{name}` does not start: {why}"));
            started.map(|_| stood.then(|| format!("`{name}` was started"))).map_err(why)
        });
        let said = futures::future::try_join_all(starts).await?;
        for to in perform.moves.iter().filter_map(|(_, to)| to.as_ref()) {
            inner.processes.ready(to, READY_TIME).await.map_err(ConnectorError::Answer)?;
        }
        Ok(said)
    };
    // All of them together: a step has its time.
    let begun = tokio::time::timeout(READY_TIME, begin).await;
    said.extend(
        begun.unwrap_or(Err(ConnectorError::Timeout(HumanDuration(READY_TIME))))?.into_iter().flatten(),
    );
    let stops = perform.stops.iter().filter(runs).collect::<Vec<_>>();
    if stops.is_empty() {
        let rest = inner.membrane.lead(&perform.service, &perform.moves).await;
        said.extend(Some(rest.map_err(ConnectorError::Config)?).filter(|rest| !rest.is_empty()));
        return Ok(said);
    }
    let rest = inner.membrane.lead_within(&perform.service, &perform.moves, LAST_CALLS).await;
    let rest = rest.map_err(ConnectorError::Config)?;
    said.extend(rest.iter().map(ToString::to_string));
    let rest = &rest;
    let ends = stops.into_iter().map(|name| async move {
        end_left(inner, name, rest.iter().any(|underway| underway.service == *name)).await
    });
    said.extend(futures::future::join_all(ends).await);
    Ok(said)
}

/// Tells people what becomes of programs.
async fn tell_of_processes(inner: std::sync::Weak<Inner>, mut told: mpsc::UnboundedReceiver<Told>) {
    while let Some(Told { service, text }) = told.recv().await {
        let Some(inner) = inner.upgrade() else { return };
        let (at, phase) = (inner.clock.now(), "process".to_string());
        publish(&inner, Event { at, service: Some(service.to_string()), phase, correlation: None, text });
    }
}

/// Tells people what becomes of the candidates of references.
async fn tell_of_references(inner: std::sync::Weak<Inner>, mut news: mpsc::UnboundedReceiver<News>) {
    while let Some(News { service, text }) = news.recv().await {
        let Some(inner) = inner.upgrade() else { return };
        tell_of_membrane(&inner, &service, text);
    }
}
