//! The life of a supervised program as a fold: events in, orders out. It knows no clock, no signal and no task.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::HumanDuration;
use crate::model::process::{
    DEFAULT_BACKOFF, DEFAULT_MOST, DEFAULT_PER, ProcessOrder, ProcessSpec, ProcessState, Restart,
    RestartBudget, StopSignal,
};

/// The longest pause before a restart, however often it doubled.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to start, stop or restart.
    Order(ProcessOrder),
    /// It was started; its number is that of its group.
    Started(u32),
    /// It runs already, from before; whether it has shown that it is ready.
    Found {
        /// Its number.
        pid: u32,
        /// Whether it is ready.
        ready: bool,
    },
    /// It could not be started, and no retry would help.
    NotStarted(String),
    /// It shows that it is ready.
    Ready,
    /// Its first process ended, in these words.
    Exited(String),
    /// Time has passed.
    Time,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start the program; [`Event::Started`] or [`Event::NotStarted`] answers.
    Spawn,
    /// Send its group the signal that asks it to end.
    Ask(u32),
    /// Kill what is left of its group.
    Kill(u32),
}

/// What holds for one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How long it may take until it is ready; `None`: it is as soon as it runs.
    pub within: Option<Duration>,
    /// How long it may take to end when it was asked to; `None`: it is not asked, but killed.
    pub grace: Option<Duration>,
    /// How often it is started again; `None`: never.
    pub restart: Option<Budget>,
}

/// How often a program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The pause before the first restart; it doubles with every further one.
    pub backoff: Duration,
    /// How many restarts there may be …
    pub most: u32,
    /// … within this time.
    pub per: Duration,
}

impl Rules {
    /// Those of a policy.
    pub fn of(spec: &ProcessSpec) -> Self {
        let budget = |b: RestartBudget| Budget {
            backoff: b.backoff.unwrap_or(DEFAULT_BACKOFF).0,
            most: b.most.unwrap_or(DEFAULT_MOST),
            per: b.per.unwrap_or(DEFAULT_PER).0,
        };
        let asked = spec.stop.as_ref().is_none_or(|s| s.signal != StopSignal::Kill);
        Self {
            within: spec.ready.as_ref().map(|_| spec.within().0),
            grace: asked.then_some(spec.grace().0),
            restart: match &spec.restart {
                None => Some(budget(RestartBudget::default())),
                Some(Restart::Never) => None,
                Some(Restart::Budget(b)) => Some(budget(*b)),
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Stopped,
    Spawning { stop: bool },
    Warming { pid: u32, until: Duration },
    Running { pid: u32 },
    Stopping { pid: u32, kill_at: Option<Duration>, then: Then },
    Waiting { until: Duration },
    Ended,
    Failed,
}

/// What comes after it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Then {
    Stay,
    Run,
    Crash(String),
}

/// The state of one supervised program. Times are since any one beginning.
#[derive(Debug, Clone)]
pub struct Machine {
    rules: Rules,
    phase: Phase,
    /// When it was started again lately, oldest first.
    lately: VecDeque<Duration>,
    restarts: u64,
    reason: Option<String>,
    killed: bool,
}

impl Machine {
    /// It does not run yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            phase: Phase::Stopped,
            lately: VecDeque::new(),
            restarts: 0,
            reason: None,
            killed: false,
        }
    }

    /// What holds from now on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Its state.
    pub fn state(&self) -> ProcessState {
        match self.phase {
            Phase::Stopped => ProcessState::Stopped,
            Phase::Spawning { .. } | Phase::Warming { .. } => ProcessState::Starting,
            Phase::Running { .. } => ProcessState::Running,
            Phase::Stopping { .. } => ProcessState::Stopping,
            Phase::Waiting { .. } => ProcessState::Waiting,
            Phase::Ended => ProcessState::Ended,
            Phase::Failed => ProcessState::Failed,
        }
    }

    /// Whether it waits for nothing but what nobody has ordered.
    pub fn settled(&self) -> bool {
        !matches!(self.state(), ProcessState::Starting | ProcessState::Stopping)
    }

    /// Whether it is not ready yet.
    pub fn warming(&self) -> bool {
        matches!(self.phase, Phase::Warming { .. })
    }

    /// The number of its group, while there is one.
    pub fn pid(&self) -> Option<u32> {
        match self.phase {
            Phase::Warming { pid, .. } | Phase::Running { pid } | Phase::Stopping { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// How often it was started again after it had ended by itself.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Why it is where it is, or how it ended last by itself.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether it had to be killed when it was to end last.
    pub fn killed(&self) -> bool {
        self.killed
    }

    /// When it wants to be told that time has passed.
    pub fn wake(&self) -> Option<Duration> {
        match self.phase {
            Phase::Warming { until, .. } | Phase::Waiting { until } => Some(until),
            Phase::Stopping { kill_at, .. } => kill_at,
            _ => None,
        }
    }

    /// Takes one event; what is to be done is added to `orders`, in order.
    pub fn fold(&mut self, now: Duration, event: Event, orders: &mut Vec<Order>) {
        match event {
            Event::Order(order) => self.order(now, order, orders),
            Event::Started(pid) => self.started(now, pid, orders),
            Event::Found { pid, ready } => self.found(now, pid, ready),
            Event::NotStarted(why) => {
                if let Phase::Spawning { stop } = self.phase {
                    self.phase = if stop { Phase::Stopped } else { Phase::Failed };
                    self.reason = Some(why);
                }
            }
            Event::Ready => {
                if let Phase::Warming { pid, .. } = self.phase {
                    self.phase = Phase::Running { pid };
                }
            }
            Event::Exited(how) => self.exited(now, &how, orders),
            Event::Time => self.time(now, orders),
        }
    }

    fn order(&mut self, now: Duration, order: ProcessOrder, orders: &mut Vec<Order>) {
        match (&mut self.phase, order) {
            (Phase::Spawning { stop }, order) => *stop = order == ProcessOrder::Stop,
            (Phase::Stopping { then, .. }, ProcessOrder::Stop) => *then = Then::Stay,
            (Phase::Stopping { then, .. }, _) => *then = Then::Run,
            (Phase::Warming { .. } | Phase::Running { .. }, ProcessOrder::Start) => {}
            (Phase::Warming { pid, .. } | Phase::Running { pid }, order) => {
                let pid = *pid;
                let then = if order == ProcessOrder::Stop { Then::Stay } else { Then::Run };
                self.lately.clear();
                self.stop(now, pid, then, orders);
            }
            (Phase::Stopped, ProcessOrder::Stop) => {}
            (_, ProcessOrder::Stop) => (self.phase, self.reason) = (Phase::Stopped, None),
            (_, _) => {
                self.lately.clear();
                self.spawn(orders);
            }
        }
    }

    fn spawn(&mut self, orders: &mut Vec<Order>) {
        self.phase = Phase::Spawning { stop: false };
        orders.push(Order::Spawn);
    }

    fn started(&mut self, now: Duration, pid: u32, orders: &mut Vec<Order>) {
        let Phase::Spawning { stop } = self.phase else {
            // Nobody asked for it.
            orders.push(Order::Kill(pid));
            return;
        };
        self.phase = match self.rules.within {
            None => Phase::Running { pid },
            Some(within) => Phase::Warming { pid, until: now + within },
        };
        if stop {
            self.stop(now, pid, Then::Stay, orders);
        }
    }

    fn found(&mut self, now: Duration, pid: u32, ready: bool) {
        // Whatever else there is was started by this homeostat; there is no second one.
        if self.phase != Phase::Stopped {
            return;
        }
        self.reason = Some("it goes on from before homeostat was started".into());
        self.phase = match self.rules.within.filter(|_| !ready) {
            None => Phase::Running { pid },
            Some(within) => Phase::Warming { pid, until: now + within },
        };
    }

    fn stop(&mut self, now: Duration, pid: u32, then: Then, orders: &mut Vec<Order>) {
        self.killed = false;
        orders.push(if self.rules.grace.is_some() { Order::Ask(pid) } else { Order::Kill(pid) });
        self.phase = Phase::Stopping { pid, kill_at: self.rules.grace.map(|grace| now + grace), then };
    }

    fn exited(&mut self, now: Duration, how: &str, orders: &mut Vec<Order>) {
        let Some(pid) = self.pid() else { return };
        // Whatever it forked away into its group goes with it.
        orders.push(Order::Kill(pid));
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopping { then: Then::Stay, .. } => {
                self.reason = self.killed.then(|| self.was_killed());
            }
            Phase::Stopping { then: Then::Run, .. } => {
                self.reason = None;
                self.spawn(orders);
            }
            Phase::Stopping { then: Then::Crash(why), .. } => self.crashed(now, why, Phase::Failed),
            _ => self.crashed(now, format!("ended by itself: {how}"), Phase::Ended),
        }
    }

    fn was_killed(&self) -> String {
        let grace = HumanDuration(self.rules.grace.unwrap_or_default());
        format!("did not end within {grace} of being asked to, and was killed")
    }

    /// `without` is where it stays when it is never started again.
    fn crashed(&mut self, now: Duration, why: String, without: Phase) {
        let Some(budget) = self.rules.restart else {
            (self.phase, self.reason) = (without, Some(why));
            return;
        };
        while self.lately.front().is_some_and(|t| now.saturating_sub(*t) >= budget.per) {
            self.lately.pop_front();
        }
        let before = u32::try_from(self.lately.len()).unwrap_or(u32::MAX);
        if before >= budget.most {
            let per = HumanDuration(budget.per);
            self.reason = Some(match before {
                0 => why,
                _ => format!("{why}; it was started again {before} times within {per}"),
            });
            self.phase = Phase::Failed;
            return;
        }
        let pause = budget.backoff.saturating_mul(2_u32.saturating_pow(before)).min(LONGEST_BACKOFF);
        self.lately.push_back(now);
        self.reason = Some(why);
        self.phase = Phase::Waiting { until: now + pause };
    }

    fn time(&mut self, now: Duration, orders: &mut Vec<Order>) {
        match &mut self.phase {
            Phase::Warming { pid, until } if now >= *until => {
                let (pid, within) = (*pid, HumanDuration(self.rules.within.unwrap_or_default()));
                self.stop(now, pid, Then::Crash(format!("was not ready within {within}")), orders);
            }
            Phase::Stopping { pid, kill_at, .. } if kill_at.is_some_and(|at| now >= at) => {
                *kill_at = None;
                orders.push(Order::Kill(*pid));
                self.killed = true;
            }
            Phase::Waiting { until } if now >= *until => {
                self.restarts += 1;
                self.spawn(orders);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules {
            within: Some(10 * S),
            grace: Some(5 * S),
            restart: Some(Budget { backoff: S, most: 3, per: 60 * S }),
        }
    }

    fn fold(machine: &mut Machine, now: u32, event: Event) -> Vec<Order> {
        let mut orders = Vec::new();
        machine.fold(now * S, event, &mut orders);
        orders
    }

    fn running(rules: Rules) -> Machine {
        let mut machine = Machine::new(rules);
        assert_eq!(fold(&mut machine, 0, Event::Order(ProcessOrder::Start)), [Order::Spawn]);
        assert_eq!(fold(&mut machine, 0, Event::Started(7)), []);
        fold(&mut machine, 1, Event::Ready);
        assert_eq!((machine.state(), machine.pid()), (ProcessState::Running, Some(7)));
        machine
    }

    #[test]
    fn it_is_asked_then_killed_and_the_kill_is_told() {
        let mut machine = running(rules());
        assert_eq!(fold(&mut machine, 2, Event::Order(ProcessOrder::Stop)), [Order::Ask(7)]);
        assert_eq!(machine.wake(), Some(7 * S));
        assert_eq!(fold(&mut machine, 7, Event::Time), [Order::Kill(7)]);
        assert_eq!(fold(&mut machine, 7, Event::Exited("killed".into())), [Order::Kill(7)]);
        assert_eq!(machine.state(), ProcessState::Stopped);
        assert!(machine.reason().is_some_and(|r| r.contains("within 5s") && r.contains("killed")));
    }

    #[test]
    fn pauses_double_and_one_more_than_the_budget_has_failed() {
        let mut machine = running(rules());
        let mut now = 2;
        for pause in [1, 2, 4] {
            assert_eq!(fold(&mut machine, now, Event::Exited("exit status: 3".into())), [Order::Kill(7)]);
            assert_eq!((machine.state(), machine.wake()), (ProcessState::Waiting, Some((now + pause) * S)));
            now += pause;
            assert_eq!(fold(&mut machine, now, Event::Time), [Order::Spawn]);
            fold(&mut machine, now, Event::Started(7));
        }
        fold(&mut machine, now, Event::Exited("exit status: 3".into()));
        assert_eq!((machine.state(), machine.restarts()), (ProcessState::Failed, 3));
        let reason = machine.reason().unwrap_or_default();
        assert!(reason.contains("exit status: 3") && reason.contains("3 times within 1m"), "{reason}");
        // An operator may try again, with a new budget.
        assert_eq!(fold(&mut machine, now, Event::Order(ProcessOrder::Start)), [Order::Spawn]);
    }

    #[test]
    fn a_crash_long_ago_does_not_count() {
        let mut machine = running(rules());
        for now in [100, 200, 300, 400, 500] {
            fold(&mut machine, now, Event::Exited("x".into()));
            assert_eq!(machine.wake(), Some((now + 1) * S));
            fold(&mut machine, now + 1, Event::Time);
            fold(&mut machine, now + 1, Event::Started(7));
        }
    }

    #[test]
    fn what_is_not_ready_in_time_is_ended_and_counts_as_a_crash() {
        let mut machine = Machine::new(rules());
        fold(&mut machine, 0, Event::Order(ProcessOrder::Start));
        fold(&mut machine, 0, Event::Started(7));
        assert_eq!((machine.state(), machine.wake()), (ProcessState::Starting, Some(10 * S)));
        assert_eq!(fold(&mut machine, 10, Event::Time), [Order::Ask(7)]);
        fold(&mut machine, 11, Event::Exited("x".into()));
        assert_eq!(
            (machine.state(), machine.reason()),
            (ProcessState::Waiting, Some("was not ready within 10s"))
        );
    }

    #[test]
    fn what_is_never_started_again_has_ended_and_what_is_missing_has_failed() {
        let mut machine = running(Rules { restart: None, ..rules() });
        fold(&mut machine, 2, Event::Exited("exit status: 0".into()));
        assert_eq!(machine.state(), ProcessState::Ended);
        assert_eq!(fold(&mut machine, 3, Event::Order(ProcessOrder::Start)), [Order::Spawn]);
        fold(&mut machine, 3, Event::NotStarted("no such file".into()));
        assert_eq!((machine.state(), machine.reason()), (ProcessState::Failed, Some("no such file")));
    }

    #[test]
    fn a_restart_starts_only_after_the_old_one_is_gone() {
        let mut machine = running(rules());
        assert_eq!(fold(&mut machine, 2, Event::Order(ProcessOrder::Restart)), [Order::Ask(7)]);
        assert_eq!(fold(&mut machine, 3, Event::Exited("x".into())), [Order::Kill(7), Order::Spawn]);
        // A stop while it stops wins over the start that was to follow.
        fold(&mut machine, 3, Event::Started(8));
        fold(&mut machine, 3, Event::Order(ProcessOrder::Restart));
        fold(&mut machine, 3, Event::Order(ProcessOrder::Stop));
        assert_eq!(fold(&mut machine, 4, Event::Exited("x".into())), [Order::Kill(8)]);
        assert_eq!((machine.state(), machine.reason()), (ProcessState::Stopped, None));
    }

    #[test]
    fn what_goes_on_from_before_is_not_started_again_and_ends_like_any_other() {
        for ready in [true, false] {
            let mut machine = Machine::new(rules());
            assert_eq!(fold(&mut machine, 0, Event::Found { pid: 7, ready }), []);
            let state = if ready { ProcessState::Running } else { ProcessState::Starting };
            assert_eq!((machine.state(), machine.pid()), (state, Some(7)));
            assert_eq!(machine.wake(), (!ready).then_some(10 * S));
            assert_eq!(fold(&mut machine, 1, Event::Order(ProcessOrder::Start)), []);
            assert_eq!(fold(&mut machine, 1, Event::Order(ProcessOrder::Restart)), [Order::Ask(7)]);
            assert_eq!(fold(&mut machine, 2, Event::Exited("x".into())), [Order::Kill(7), Order::Spawn]);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Order(ProcessOrder),
        Exit,
        Ready,
        Wait(u16),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            2 => prop_oneof![Just(ProcessOrder::Start), Just(ProcessOrder::Stop), Just(ProcessOrder::Restart)]
                .prop_map(Happens::Order),
            2 => Just(Happens::Exit),
            1 => Just(Happens::Ready),
            4 => (0_u16..4_000).prop_map(Happens::Wait),
        ]
    }

    /// A world with one program in it; `stubborn` ones end only when they are killed.
    struct World {
        machine: Machine,
        now: Duration,
        alive: Option<u32>,
        started: u32,
        spawned: Vec<Duration>,
    }

    impl World {
        fn tell(&mut self, event: Event, missing: bool) {
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                let mut orders = Vec::new();
                self.machine.fold(self.now, event, &mut orders);
                for order in orders {
                    match order {
                        Order::Spawn if missing => events.push_back(Event::NotStarted("missing".into())),
                        Order::Spawn => {
                            assert_eq!(self.alive, None, "two at once");
                            self.started += 1;
                            self.alive = Some(self.started);
                            self.spawned.push(self.now);
                            events.push_back(Event::Started(self.started));
                        }
                        Order::Ask(pid) => assert_eq!(self.alive, Some(pid), "asked somebody else"),
                        Order::Kill(pid) => {
                            assert!(self.alive.is_none_or(|alive| alive == pid), "killed somebody else");
                            if self.alive.take().is_some() {
                                events.push_back(Event::Exited("killed".into()));
                            }
                        }
                    }
                }
            }
            assert_eq!(self.machine.pid(), self.alive, "the machine knows what lives");
        }
    }

    proptest! {
        /// Whatever happens: never two at once, no signal to anybody else, and after a stop it is gone when the grace is over.
        #[test]
        fn never_two_at_once_and_a_stop_ends_it(
            all in proptest::collection::vec(happens(), 0..60),
            missing in proptest::bool::weighted(0.1),
        ) {
            let mut world = World {
                machine: Machine::new(rules()), now: Duration::ZERO, alive: None, started: 0, spawned: Vec::new(),
            };
            for happens in all {
                match happens {
                    Happens::Order(order) => world.tell(Event::Order(order), missing),
                    Happens::Ready => world.tell(Event::Ready, missing),
                    Happens::Wait(ms) => {
                        world.now += Duration::from_millis(ms.into());
                        world.tell(Event::Time, missing);
                    }
                    Happens::Exit => {
                        if world.alive.take().is_some() {
                            world.tell(Event::Exited("by itself".into()), missing);
                        }
                    }
                }
            }
            world.tell(Event::Order(ProcessOrder::Stop), missing);
            world.now += 5 * S;
            world.tell(Event::Time, missing);
            prop_assert_eq!(world.alive, None);
            prop_assert_eq!(world.machine.state(), ProcessState::Stopped);
        }

        /// A program that crashes at once is started at most `most + 1` times, whoever looks when.
        #[test]
        fn a_crash_loop_ends(waits in proptest::collection::vec(0_u16..10_000, 0..60)) {
            let mut world = World {
                machine: Machine::new(rules()), now: Duration::ZERO, alive: None, started: 0, spawned: Vec::new(),
            };
            world.tell(Event::Order(ProcessOrder::Start), false);
            for ms in waits {
                if world.alive.take().is_some() {
                    world.tell(Event::Exited("at once".into()), false);
                }
                world.now += Duration::from_millis(ms.into());
                world.tell(Event::Time, false);
            }
            for window in world.spawned.windows(5) {
                prop_assert!(window[4] - window[0] >= 60 * S, "{:?}", window);
            }
        }
    }
}
