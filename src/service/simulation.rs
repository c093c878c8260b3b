//! The loop in virtual time: the same shards as in life, fed by hand, with effectors that a test or an embedding program writes.
//! Nothing here waits, and nothing reads a clock.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::control::{Event, ServiceStatus};
use super::message::{Apply, Effect, Letter, Message, Perform, Publication, Request, Response, Restored};
use super::names::Names;
use super::shard::{Shard, Surroundings, shard_of};
use crate::model::calls::Port;
use crate::model::metric::Sample;
use crate::model::ports::{Notification, PortError, SubscriptionMode};
use crate::model::{
    Action, Alarm, Datum, Decision, HumanDuration, MetricId, ModelChange, Outcome, Reading, Schedule,
    SloState, Timestamp,
};
use crate::monitor::SensorWanted;
use crate::plan::strategy::{Deadline, RunLimits, StrategyHost};
use crate::policy::ServicePolicy;
use crate::policy::set::PolicySet;

/// How many operations one strategy run may take.
pub const OPERATIONS: u64 = 100_000;

/// Answers in place of an effector: what it says, or why it fails; `None`: it never answers.
pub type Effector = Box<dyn FnMut(&Perform) -> Option<Result<String, String>>>;

/// Answers in place of a sensor that is read on demand.
pub type OnDemand = Box<dyn FnMut(&str, &str) -> Option<f64>>;

/// Answers in place of the sensors that are read regularly: service, metric, time → value.
pub type Polling = Box<dyn FnMut(&str, &str, Timestamp) -> Option<f64>>;

/// A running homeostat without a shell.
pub struct Simulation {
    shards: Vec<Shard>,
    names: Arc<Names>,
    now: Timestamp,
    tokens: u64,
    replies: BTreeMap<u64, Response>,
    effector: Effector,
    on_demand: OnDemand,
    polling: Option<Polling>,
    /// From when on each polled sensor is read, by which schedule.
    read_next: BTreeMap<(String, Arc<str>), (Schedule, Timestamp)>,
    /// Every decision in its latest form, by service and number.
    pub decisions: BTreeMap<(String, u64), Decision>,
    /// Every alarm that went to a planner of the embedding program, in order.
    pub alarms: Vec<Alarm>,
    /// Every event, in order.
    pub events: Vec<Event>,
    /// Every notification, by subscription, in order.
    pub notifications: Vec<(u64, Timestamp, Notification)>,
    /// The subscriptions that ended by themselves.
    pub ended: Vec<u64>,
    /// How the sensors of each service are to run.
    pub sensors: BTreeMap<String, Vec<SensorWanted>>,
    /// The local ports that each service's references have, and where they lead.
    pub ports: BTreeMap<String, Vec<Port>>,
    /// Every command that effectors got, in order.
    pub performed: Vec<Perform>,
    /// Every result that is data of a metric, in order: when, metric, data.
    pub emitted: Vec<(Timestamp, Arc<str>, Arc<[Datum]>)>,
    /// Every value that went out, in order.
    pub published: Vec<Publication>,
    /// What would be kept over a restart, in order: service, what.
    pub lasting: Vec<(String, super::message::Lasting)>,
}

struct Still<'a>(&'a Names);

impl Surroundings for Still<'_> {
    fn metric_id(&mut self, name: &str) -> MetricId {
        self.0.metric(name)
    }
    fn limits(&mut self) -> RunLimits {
        RunLimits { operations: OPERATIONS, deadline: Deadline::CutAt(None) }
    }
    fn cut(&mut self, _: u64) {}
}

impl Simulation {
    /// Nothing attached, at `now`, with this many shards. Effectors succeed and say nothing until [`Simulation::effector`] says otherwise.
    pub fn new(now: Timestamp, shards: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|n| Shard::new(n, shards.max(1))).collect(),
            names: Arc::new(Names::default()),
            now,
            tokens: 0,
            replies: BTreeMap::new(),
            effector: Box::new(|_| Some(Ok(String::new()))),
            on_demand: Box::new(|_, _| None),
            decisions: BTreeMap::new(),
            alarms: Vec::new(),
            events: Vec::new(),
            notifications: Vec::new(),
            ended: Vec::new(),
            sensors: BTreeMap::new(),
            ports: BTreeMap::new(),
            performed: Vec::new(),
            emitted: Vec::new(),
            published: Vec::new(),
            polling: None,
            read_next: BTreeMap::new(),
            lasting: Vec::new(),
        }
    }

    /// Puts something in place of all effectors.
    pub fn effector(&mut self, effector: impl FnMut(&Perform) -> Option<Result<String, String>> + 'static) {
        self.effector = Box::new(effector);
    }

    /// Puts something in place of sensors that are read on demand: service, metric → value.
    pub fn on_demand(&mut self, read: impl FnMut(&str, &str) -> Option<f64> + 'static) {
        self.on_demand = Box::new(read);
    }

    /// Puts something in place of the sensors that are read regularly: they are read at their times as time passes, by their schedules.
    pub fn polling(&mut self, read: impl FnMut(&str, &str, Timestamp) -> Option<f64> + 'static) {
        self.polling = Some(Box::new(read));
    }

    /// The sensors that are read regularly, with their periods and schedules.
    fn polled(&self) -> impl Iterator<Item = (&String, &Arc<str>, Duration, Schedule)> {
        let wanted = self.sensors.iter().flat_map(|(service, all)| all.iter().map(move |one| (service, one)));
        wanted.filter(|(_, sensor)| sensor.regular).filter_map(|(service, sensor)| {
            let every = sensor.spec.every()?.0;
            Some((service, &sensor.metric, every, sensor.schedule.unwrap_or_default()))
        })
    }

    /// The next time at which a sensor is read.
    fn next_read(&mut self) -> Option<Timestamp> {
        self.polling.as_ref()?;
        let polled: Vec<_> = self.polled().map(|(s, m, e, c)| (s.clone(), m.clone(), e, c)).collect();
        let keys: BTreeSet<_> =
            polled.iter().map(|(service, metric, ..)| (service.clone(), metric.clone())).collect();
        self.read_next.retain(|key, _| keys.contains(key));
        let mut soonest = None;
        for (service, metric, every, schedule) in polled {
            let (known, from) = self.read_next.entry((service, metric)).or_insert((schedule, self.now));
            if *known != schedule {
                (*known, *from) = (schedule, self.now);
            }
            let next = schedule.next(*from, every);
            soonest = [soonest, next].into_iter().flatten().min();
        }
        soonest
    }

    /// Reads the sensors whose time has come.
    fn read_due(&mut self) {
        let Some(mut polling) = self.polling.take() else { return };
        let polled: Vec<_> = self.polled().map(|(s, m, e, c)| (s.clone(), m.clone(), e, c)).collect();
        for (service, metric, every, schedule) in polled {
            let key = (service.clone(), metric.clone());
            let Some((_, from)) = self.read_next.get(&key).copied() else { continue };
            let Some(at) = schedule.next(from, every).filter(|at| *at <= self.now) else { continue };
            let next = if schedule.start.is_some() { Timestamp(at.0 + 1) } else { at.after(every) };
            self.read_next.insert(key, (schedule, next));
            let letter = match polling(&service, &metric, self.now) {
                Some(value) => Letter::Measured { metric, values: vec![(None, None, value, None)] },
                None => Letter::SensorFailed { metric, why: "the sensor yields nothing".into() },
            };
            self.letter(&service, letter);
        }
        self.polling = Some(polling);
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Attaches every service of a set, or changes what is attached.
    pub fn apply(&mut self, set: &PolicySet) {
        for policy in set.services.values() {
            self.attach(&**policy, Restored::default());
        }
        self.form_groups(set);
        let declared = set.services.values().map(|s| &s.resource).chain(set.resources.values());
        self.model(declared.cloned().map(ModelChange::Put).collect());
    }

    /// Changes the resource model.
    pub fn model(&mut self, changes: Vec<ModelChange>) {
        self.broadcast(&Message::Model(changes.into()));
    }

    /// Data of a metric, now: resources with their values.
    pub fn collect<'a>(&mut self, metric: &str, data: impl IntoIterator<Item = (&'a str, f64)>) {
        let now = self.now;
        let data =
            data.into_iter().map(|(resource, value)| Datum { resource: resource.into(), value, at: now });
        self.broadcast(&Message::Data(metric.into(), data.collect()));
    }

    fn broadcast(&mut self, message: &Message) {
        for shard in 0..self.shards.len() {
            self.turn(shard, message.clone());
        }
    }

    /// Attaches one service, or changes what is attached.
    pub fn attach(&mut self, policy: impl Borrow<ServicePolicy>, restored: Restored) {
        let policy = policy.borrow().clone();
        let id = self.names.service(&policy.name);
        let name = policy.name.clone();
        self.message(&name, Message::Apply(Box::new(Apply { id, policy, restored })));
    }

    /// Detaches one service.
    pub fn detach(&mut self, name: &str) {
        self.message(name, Message::Detach(name.into()));
    }

    /// Tells every group metric of `set` who its members are.
    pub fn form_groups(&mut self, set: &PolicySet) {
        let resources: Vec<_> = set
            .services
            .values()
            .map(|s| s.resource.clone())
            .chain(set.resources.values().cloned())
            .collect();
        for policy in set.services.values() {
            for (metric, members) in super::groups::memberships(policy, &resources) {
                self.letter(&policy.name, Letter::Members { metric, members });
            }
        }
    }

    /// One sample of a pushed or measured metric, now.
    pub fn push(&mut self, service: &str, metric: &str, value: f64) {
        self.push_at(service, metric, value, super::message::NOW);
    }

    /// One sample with a time of its own.
    pub fn push_at(&mut self, service: &str, metric: &str, value: f64, at: Timestamp) {
        let sample =
            Sample { service: self.names.service(service), metric: self.names.metric(metric), value, at };
        self.message(service, Message::Samples(vec![sample]));
    }

    /// Lets time pass, waking whatever is due on the way at its own time.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now.after(by);
        loop {
            let woken = self.shards.iter().filter_map(Shard::wake).min();
            match [woken, self.next_read()].into_iter().flatten().min() {
                Some(t) if t <= end => {
                    self.now = self.now.max(t);
                    self.read_due();
                    for shard in 0..self.shards.len() {
                        if self.shards[shard].wake().is_some_and(|w| w <= self.now) {
                            self.turn(shard, Message::Wake);
                        }
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// A call; `None` when the answer has not come yet (it may come later, see [`Simulation::reply`]).
    pub fn call(&mut self, service: &str, request: Request) -> Option<Response> {
        let token = self.ask(service, request);
        self.reply(token)
    }

    /// A call whose answer is fetched later; the number is also that of a subscription.
    pub fn ask(&mut self, service: &str, request: Request) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        self.letter(service, Letter::Call { token, request });
        token
    }

    /// The answer to a call, once.
    pub fn reply(&mut self, token: u64) -> Option<Response> {
        self.replies.remove(&token)
    }

    /// `getMetric`, as it is held.
    pub fn get(&mut self, service: &str, metric: &str) -> Reading {
        self.get_within(service, metric, None)
    }

    /// `getMetric` with an age.
    pub fn get_within(&mut self, service: &str, metric: &str, max_age: Option<HumanDuration>) -> Reading {
        match self.call(service, Request::GetMetric { name: metric.into(), max_age }) {
            Some(Response::Reading(reading)) => reading,
            Some(Response::Error(error)) => {
                Reading::missing(crate::model::MissingReason::Expression(metric.into(), error.to_string()))
            }
            other => {
                Reading::missing(crate::model::MissingReason::Expression(metric.into(), format!("{other:?}")))
            }
        }
    }

    /// The status of a service.
    ///
    /// # Errors
    /// What the service answers instead.
    pub fn status(&mut self, service: &str) -> Result<ServiceStatus, PortError> {
        match self.call(service, Request::Status) {
            Some(Response::Status(status)) => Ok(*status),
            Some(Response::Error(error)) => Err(error),
            other => Err(PortError::Unavailable(format!("{other:?}"))),
        }
    }

    /// The state of an SLO.
    pub fn slo(&mut self, service: &str, slo: &str) -> Option<SloState> {
        self.status(service).ok()?.slos.iter().find(|s| s.name == slo).map(|s| s.state)
    }

    /// `sendActions`.
    ///
    /// # Errors
    /// What the service answers instead.
    pub fn send(&mut self, service: &str, actions: Vec<Action>) -> Result<Vec<Outcome>, PortError> {
        match self.call(service, Request::SendActions(actions)) {
            Some(Response::Outcomes(outcomes)) => Ok(outcomes),
            Some(Response::Error(error)) => Err(error),
            other => Err(PortError::Unavailable(format!("{other:?}"))),
        }
    }

    /// `subscribe`; answers with the number of the subscription.
    ///
    /// # Errors
    /// What the service answers instead.
    pub fn subscribe(
        &mut self,
        service: &str,
        metric: &str,
        mode: SubscriptionMode,
    ) -> Result<u64, PortError> {
        let token = self.ask(service, Request::Subscribe { name: metric.into(), mode });
        match self.reply(token) {
            Some(Response::Done) => Ok(token),
            Some(Response::Error(error)) => Err(error),
            other => Err(PortError::Unavailable(format!("{other:?}"))),
        }
    }

    /// The decisions of a service, in order.
    pub fn decisions_of(&self, service: &str) -> Vec<&Decision> {
        self.decisions.iter().filter(|((s, _), _)| s == service).map(|(_, d)| d).collect()
    }

    /// What the shards counted, added up.
    pub fn tally(&self) -> super::turn::Tally {
        let mut sum = super::turn::Tally::default();
        for shard in &self.shards {
            sum.add(shard.tally());
        }
        sum
    }

    /// How many services are in quarantine because a turn of theirs panicked.
    pub fn quarantined(&self) -> usize {
        self.shards.iter().map(Shard::quarantined).sum()
    }

    /// A letter to a service.
    pub fn letter(&mut self, service: &str, letter: Letter) {
        self.message(service, Message::To(service.into(), letter));
    }

    fn message(&mut self, service: &str, message: Message) {
        self.turn(shard_of(service, self.shards.len()), message);
    }

    fn turn(&mut self, shard: usize, message: Message) {
        let mut queue = VecDeque::from([(shard, message)]);
        while let Some((shard, message)) = queue.pop_front() {
            let mut effects = Vec::new();
            self.shards[shard].turn(self.now, message, &mut Still(&self.names), &mut effects);
            for effect in effects {
                self.carry_out(effect, &mut queue);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, queue: &mut VecDeque<(usize, Message)>) {
        let shards = self.shards.len();
        let mut to = |service: Arc<str>, letter: Letter| {
            queue.push_back((shard_of(&service, shards), Message::To(service, letter)));
        };
        match effect {
            Effect::Send(service, letter) => to(service, letter),
            Effect::Reply(token, response) => {
                self.replies.insert(token, response);
            }
            Effect::Notify(token, notification) => self.notifications.push((token, self.now, notification)),
            Effect::EndOfSubscription(token) => self.ended.push(token),
            Effect::Sensors(service, _, wanted) => {
                self.sensors.insert(service.to_string(), wanted);
            }
            Effect::ReadNow(service, metric) => {
                let letter = match (self.on_demand)(&service, &metric) {
                    Some(value) => Letter::Measured { metric, values: vec![(None, None, value, None)] },
                    None => Letter::SensorFailed { metric, why: "no sensor in a simulation".into() },
                };
                to(service, letter);
            }
            Effect::Ports(service, ports) => {
                self.ports.insert(service.to_string(), ports);
            }
            Effect::Perform(perform) => {
                self.performed.push((*perform).clone());
                if let Some(result) = (self.effector)(&perform) {
                    to(perform.service, Letter::Performed { key: perform.key, result });
                }
            }
            Effect::RunAside(aside) => {
                let limits =
                    RunLimits { operations: RunLimits::OPERATIONS_ASIDE, deadline: Deadline::CutAt(None) };
                let run = StrategyHost::new().run(&aside.script, &aside.alarm, aside.known, limits);
                to(aside.service, Letter::RanAside { token: aside.token, run: Box::new(run) });
            }
            Effect::Emit(metric, data) => {
                for shard in 0..shards {
                    queue.push_back((shard, Message::Data(metric.clone(), data.clone())));
                }
                self.emitted.push((self.now, metric, data));
            }
            Effect::Publishers(..) => {}
            Effect::Publish(publication) => self.published.push(*publication),
            Effect::Alarm(_, alarm) => self.alarms.push(*alarm),
            Effect::Decision(decision) => {
                self.decisions.insert((decision.service.clone(), decision.id.0), *decision);
            }
            Effect::Remember(service, what) => self.lasting.push((service.to_string(), what)),
            Effect::Event(event) => self.events.push(event),
        }
    }
}
