//! Many services, one fold: a shard takes messages in order, gives letters to the services they are for, and collects what is to be done.
//! Pure: the thread that feeds it is in `shell`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::control::Event;
use super::message::{Apply, Effect, Letter, Message, NOW, Request, Response};
use super::turn::{ServiceLoop, Tally, Turn};
use crate::knowledge::resources::Resources;
use crate::model::metric::Sample;
use crate::model::ports::PortError;
use crate::model::{
    Datum, MetricId, MissingReason, ModelChange, Outcome, OutcomeStatus, ServiceId, Timestamp,
};
use crate::monitor::Held;
use crate::plan::strategy::{RunLimits, StrategyHost};

/// How many letters services of one shard may send each other within one message. More is a storm, and is said so.
const MAX_LETTERS: usize = 1_000_000;

/// How many samples of a batch are looked up ahead of their turns.
const TOUCHED_AHEAD: usize = 16;

/// What a shard asks of its surroundings during a turn. The same for life and for replay.
pub trait Surroundings {
    /// The number of a metric name.
    fn metric_id(&mut self, name: &str) -> MetricId;
    /// The limits of the next strategy run.
    fn limits(&mut self) -> RunLimits;
    /// A strategy run was cut by the clock at this progress.
    fn cut(&mut self, progress: u64);
}

/// A service of the shard.
enum Place {
    Live(Box<ServiceLoop>),
    /// A turn of it panicked.
    Quarantined(ServiceId),
}

impl Place {
    fn id(&self) -> ServiceId {
        match self {
            Self::Live(service) => service.id(),
            Self::Quarantined(id) => *id,
        }
    }
}

type Listeners = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// One shard.
pub struct Shard {
    number: usize,
    shards: usize,
    places: Vec<Option<Place>>,
    by_name: FxHashMap<Arc<str>, usize>,
    by_id: FxHashMap<ServiceId, usize>,
    free: Vec<usize>,
    /// Who listens to services that are not attached.
    orphans: FxHashMap<Arc<str>, Listeners>,
    wakes: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// The earliest wake in the heap for each place, so that a place is not in it for every sample.
    armed: Vec<Option<Timestamp>>,
    host: StrategyHost,
    now: Timestamp,
    tally: Tally,
    mail: Vec<(Arc<str>, Letter)>,
    /// The resource model: the same in every shard.
    model: Resources,
    /// Who may need data of a metric, and what each place may need.
    collecting: FxHashMap<Arc<str>, Arc<BTreeSet<usize>>>,
    collects: Vec<Vec<Arc<str>>>,
}

/// Which of `shards` shards owns the service of this name. Stable over restarts and machines.
pub fn shard_of(name: &str, shards: usize) -> usize {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0_u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    (u64::from_le_bytes(first) % shards.max(1) as u64) as usize
}

impl Shard {
    /// Shard `number` of `shards`.
    pub fn new(number: usize, shards: usize) -> Self {
        Self {
            number,
            shards,
            places: Vec::new(),
            by_name: FxHashMap::default(),
            by_id: FxHashMap::default(),
            free: Vec::new(),
            orphans: FxHashMap::default(),
            wakes: BinaryHeap::new(),
            armed: Vec::new(),
            host: StrategyHost::new(),
            now: Timestamp::default(),
            tally: Tally::default(),
            mail: Vec::new(),
            model: Resources::new(),
            collecting: FxHashMap::default(),
            collects: Vec::new(),
        }
    }

    /// What was counted since the beginning.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Services in quarantine.
    pub fn quarantined(&self) -> usize {
        self.places.iter().flatten().filter(|p| matches!(p, Place::Quarantined(..))).count()
    }

    /// When [`Message::Wake`] is due.
    pub fn wake(&self) -> Option<Timestamp> {
        self.wakes.peek().map(|Reverse((t, _))| *t)
    }

    /// One turn: handles `message` at `now` and appends what is to be done to `effects`. Time never runs backwards: an earlier `now` counts as the latest.
    pub fn turn(
        &mut self,
        now: Timestamp,
        message: Message,
        surroundings: &mut dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        self.now = self.now.max(now);
        // What was due before this message happened before it, whenever the wake-up call itself comes.
        self.wake_due(surroundings, effects);
        match message {
            Message::Wake => {}
            Message::Samples(samples) => {
                for group in samples.chunks(TOUCHED_AHEAD) {
                    self.touch(group);
                    for sample in group {
                        self.sample(sample, surroundings, effects);
                    }
                }
            }
            Message::Apply(apply) => self.apply(*apply, surroundings, effects),
            Message::Detach(name) => self.detach(&name, surroundings, effects),
            Message::To(name, letter) => self.mail.push((name, letter)),
            Message::Data(metric, data) => self.data(&metric, &data, surroundings, effects),
            Message::Model(changes) => self.model_changes(&changes),
        }
        self.deliver(surroundings, effects);
    }

    /// Reads what the turns of these samples will read. What waits for memory here waits for all of them at once, where the turns,
    /// one after the other, would wait for each: among 10,000 services that is most of what a sample costs.
    fn touch(&self, samples: &[Sample]) {
        let mut sum = 0;
        for sample in samples {
            if let Some(place) = self.by_id.get(&sample.service)
                && let Some(Some(Place::Live(service))) = self.places.get(*place)
            {
                sum ^= service.touch(sample.metric);
            }
        }
        std::hint::black_box(sum);
    }

    fn sample(&mut self, sample: &Sample, surroundings: &mut dyn Surroundings, effects: &mut Vec<Effect>) {
        let at = (sample.at != NOW).then_some(sample.at);
        match self.by_id.get(&sample.service) {
            Some(place) if matches!(self.places[*place], Some(Place::Live(_))) => {
                self.with(*place, surroundings, effects, |service, turn| {
                    service.sample(sample.metric, sample.value, at, turn);
                });
            }
            _ => self.tally.refused += 1,
        }
        if !self.mail.is_empty() {
            self.deliver(surroundings, effects);
        }
    }

    /// Gives data to the services that collect the metric.
    fn data(
        &mut self,
        metric: &str,
        data: &[Datum],
        surroundings: &mut dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        let Some(places) = self.collecting.get(metric).cloned() else { return };
        for place in &*places {
            self.with(*place, surroundings, effects, |service, turn| service.collect(metric, data, turn));
        }
    }

    fn model_changes(&mut self, changes: &[ModelChange]) {
        for change in changes {
            match change {
                ModelChange::Put(resource) => drop(self.model.insert(resource.clone())),
                ModelChange::Remove(id) => drop(self.model.remove(id)),
            }
        }
    }

    /// Notes anew which metrics' data the service at `place` may need.
    fn note_collecting(&mut self, place: usize) {
        let wanted: Vec<Arc<str>> = match self.places.get(place) {
            Some(Some(Place::Live(service))) => service.collected().cloned().collect(),
            _ => Vec::new(),
        };
        let before = std::mem::take(&mut self.collects[place]);
        for metric in before.iter().filter(|metric| !wanted.contains(metric)) {
            if let Some(places) = self.collecting.get_mut(metric) {
                Arc::make_mut(places).remove(&place);
                if places.is_empty() {
                    self.collecting.remove(metric);
                }
            }
        }
        for metric in wanted.iter().filter(|metric| !before.contains(metric)) {
            Arc::make_mut(self.collecting.entry(metric.clone()).or_default()).insert(place);
        }
        self.collects[place] = wanted;
    }

    fn wake_due(&mut self, surroundings: &mut dyn Surroundings, effects: &mut Vec<Effect>) {
        while let Some(Reverse((t, place))) = self.wakes.peek().copied()
            && t <= self.now
        {
            self.wakes.pop();
            if self.armed[place] != Some(t) {
                continue;
            }
            self.armed[place] = None;
            self.with(place, surroundings, effects, |service, turn| {
                if service.wake().is_some_and(|t| t <= turn.now) {
                    service.tick(turn);
                }
            });
            self.deliver(surroundings, effects);
        }
    }

    /// Lets a service have a turn. A panic quarantines the service, not the shard.
    fn with(
        &mut self,
        place: usize,
        surroundings: &mut dyn Surroundings,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut ServiceLoop, &mut Turn<'_>),
    ) {
        let Some(Some(Place::Live(service))) = self.places.get_mut(place) else { return };
        let result = guarded(
            Moment { now: self.now, model: &self.model },
            &mut self.host,
            &mut self.mail,
            &mut self.tally,
            surroundings,
            effects,
            |turn| work(service, turn),
        );
        match result {
            Ok(()) => {
                if let Some(wake) = service.wake() {
                    arm(&mut self.wakes, &mut self.armed, place, wake);
                }
            }
            Err(why) => self.quarantine(place, &why, surroundings, effects),
        }
    }

    fn quarantine(
        &mut self,
        place: usize,
        why: &str,
        surroundings: &mut dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Some(Place::Live(service))) = self.places.get_mut(place).map(Option::take) else { return };
        let (name, id) = (service.name.clone(), service.id());
        self.places[place] = Some(Place::Quarantined(id));
        self.armed[place] = None;
        self.say_quarantined(&name, why, effects);
        self.retire(*service, &PortError::Quarantined(name.to_string()), surroundings, effects);
    }

    fn say_quarantined(&self, name: &str, why: &str, effects: &mut Vec<Effect>) {
        effects.push(Effect::Event(Event {
            at: self.now,
            service: Some(name.to_string()),
            phase: "daemon".into(),
            correlation: None,
            text: format!("quarantined: a turn panicked: {why}"),
        }));
    }

    /// Lets a service say its last words; who listens to it is kept for when it comes back.
    fn retire(
        &mut self,
        service: ServiceLoop,
        why: &PortError,
        surroundings: &mut dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        let (name, id) = (service.name.clone(), service.id());
        let result = guarded(
            Moment { now: self.now, model: &self.model },
            &mut self.host,
            &mut self.mail,
            &mut self.tally,
            surroundings,
            effects,
            |turn| service.retire(why, turn),
        );
        match result {
            Ok(listeners) if listeners.is_empty() => {}
            Ok(listeners) => drop(self.orphans.insert(name, listeners)),
            Err(_) => effects.push(Effect::Sensors(name, id, Vec::new())),
        }
    }

    fn apply(&mut self, apply: Apply, surroundings: &mut dyn Surroundings, effects: &mut Vec<Effect>) {
        let name = apply.policy.name.clone();
        let place = self.by_name.get(&name).copied();
        if let Some(place) = place
            && matches!(self.places[place], Some(Place::Live(_)))
        {
            self.with(place, surroundings, effects, |service, turn| {
                service.apply(apply.policy, &BTreeMap::new(), turn);
            });
            self.note_collecting(place);
            return;
        }
        let place = place.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.places.push(None);
            self.armed.push(None);
            self.collects.push(Vec::new());
            self.places.len() - 1
        });
        let id = apply.id;
        self.attach(place, apply, surroundings, effects);
        self.by_name.insert(name.clone(), place);
        self.by_id.insert(id, place);
        self.note_collecting(place);
        if let Some(listeners) = self.orphans.remove(&name) {
            self.with(place, surroundings, effects, |service, turn| service.adopt(listeners, turn));
        }
    }

    fn attach(
        &mut self,
        place: usize,
        apply: Apply,
        surroundings: &mut dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        let (name, id) = (apply.policy.name.clone(), apply.id);
        let result = guarded(
            Moment { now: self.now, model: &self.model },
            &mut self.host,
            &mut self.mail,
            &mut self.tally,
            surroundings,
            effects,
            |turn| ServiceLoop::attach(apply, turn),
        );
        match result {
            Ok(service) => {
                if let Some(wake) = service.wake() {
                    arm(&mut self.wakes, &mut self.armed, place, wake);
                }
                self.places[place] = Some(Place::Live(Box::new(service)));
            }
            Err(why) => {
                self.say_quarantined(&name, &why, effects);
                self.places[place] = Some(Place::Quarantined(id));
            }
        }
    }

    fn detach(&mut self, name: &str, surroundings: &mut dyn Surroundings, effects: &mut Vec<Effect>) {
        let Some(place) = self.by_name.remove(name) else { return };
        self.armed[place] = None;
        self.free.push(place);
        let Some(gone) = self.places[place].take() else { return };
        self.note_collecting(place);
        self.by_id.remove(&gone.id());
        if let Place::Live(service) = gone {
            let why = PortError::Unavailable("the service was detached".into());
            self.retire(*service, &why, surroundings, effects);
        }
    }

    /// Gives the letters to the services of this shard, in order, until none is left; those for other shards become effects.
    fn deliver(&mut self, surroundings: &mut dyn Surroundings, effects: &mut Vec<Effect>) {
        let mut queue: VecDeque<(Arc<str>, Letter)> = self.mail.drain(..).collect();
        let mut count = 0;
        while let Some((name, letter)) = queue.pop_front() {
            count += 1;
            if count > MAX_LETTERS {
                effects.push(Effect::Event(Event {
                    at: self.now,
                    service: Some(name.to_string()),
                    phase: "daemon".into(),
                    correlation: None,
                    text: format!("a storm of letters was cut off; {} dropped", queue.len() + 1),
                }));
                break;
            }
            match self.by_name.get(&name).copied() {
                Some(place) if matches!(self.places[place], Some(Place::Live(_))) => {
                    self.with(place, surroundings, effects, |service, turn| service.handle(letter, turn));
                }
                None if self.shards > 1 && shard_of(&name, self.shards) != self.number => {
                    effects.push(Effect::Send(name, letter));
                }
                place => self.return_letter(&name, letter, place.is_some(), effects),
            }
            queue.extend(self.mail.drain(..));
        }
    }

    /// Nobody is there to take the letter: whoever waits for an answer is told so.
    fn return_letter(
        &mut self,
        name: &Arc<str>,
        letter: Letter,
        quarantined: bool,
        effects: &mut Vec<Effect>,
    ) {
        let missing = || Held::missing(MissingReason::NoSuchService(name.to_string()));
        match letter {
            Letter::Subscribe { from, metric } => {
                self.orphans
                    .entry(name.clone())
                    .or_default()
                    .entry(metric.clone())
                    .or_default()
                    .insert(from.clone());
                let letter = Letter::Tell { from: name.clone(), metric, held: missing() };
                self.mail.push((from, letter));
            }
            Letter::Unsubscribe { from, metric } => {
                if let Some(listeners) = self.orphans.get_mut(name) {
                    if let Some(who) = listeners.get_mut(&metric) {
                        who.remove(&from);
                    }
                    listeners.retain(|_, who| !who.is_empty());
                    if listeners.is_empty() {
                        self.orphans.remove(name);
                    }
                }
            }
            Letter::Ask { from, token, metric, .. } => {
                self.mail.push((from, Letter::Answer { from: name.clone(), token, metric, held: missing() }));
            }
            Letter::Step { from, decision, step, action } => {
                let outcome = Outcome {
                    action,
                    status: OutcomeStatus::NoRoute,
                    executor: name.to_string(),
                    detail: format!("no service `{name}` is managed here"),
                    at: self.now,
                };
                self.mail.push((from, Letter::StepEnded { decision, step, outcome, inverse: None }));
            }
            Letter::Call { token, request: Request::Unsubscribe { .. } } => {
                effects.push(Effect::Reply(token, Response::Done));
            }
            Letter::Call { token, .. } => {
                let error = match quarantined {
                    true => PortError::Quarantined(name.to_string()),
                    false => PortError::NoSuchService(name.to_string()),
                };
                effects.push(Effect::Reply(token, Response::Error(error)));
            }
            _ => {}
        }
    }
}

/// When a turn is, and the resource model then.
struct Moment<'a> {
    now: Timestamp,
    model: &'a Resources,
}

/// Runs `work` as a turn at this moment.
///
/// # Errors
/// What it panicked with.
fn guarded<T>(
    Moment { now, model }: Moment<'_>,
    host: &mut StrategyHost,
    mail: &mut Vec<(Arc<str>, Letter)>,
    tally: &mut Tally,
    surroundings: &mut dyn Surroundings,
    effects: &mut Vec<Effect>,
    work: impl FnOnce(&mut Turn<'_>) -> T,
) -> Result<T, String> {
    let surroundings = std::cell::RefCell::new(surroundings);
    let mut turn = Turn {
        now,
        model,
        host,
        limits: &mut || surroundings.borrow_mut().limits(),
        cut: &mut |progress| surroundings.borrow_mut().cut(progress),
        metric_id: &mut |name| surroundings.borrow_mut().metric_id(name),
        effects,
        mail,
        tally,
    };
    catch_unwind(AssertUnwindSafe(|| work(&mut turn))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for no known reason").to_string()
    })
}

fn arm(
    wakes: &mut BinaryHeap<Reverse<(Timestamp, usize)>>,
    armed: &mut [Option<Timestamp>],
    place: usize,
    wake: Timestamp,
) {
    if armed[place].is_none_or(|t| wake < t) {
        armed[place] = Some(wake);
        wakes.push(Reverse((wake, place)));
    }
}
