//! When a subscriber is told: from what it asked for and what is seen, in times since it subscribed. No clock, no sockets.

use std::time::Duration;

use serde_json::Value;

use super::hybrid::{Hybrid, Tolerance, Way};

/// The shortest and the longest time between two looks at what says nothing by itself.
const QUICK: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_secs(2);

/// When a subscriber wants to be told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    /// At `start`, then this often.
    Every(Duration),
    /// At every change.
    Change,
    /// When a number is further off than this from what was told last.
    Within(Tolerance),
}

impl When {
    /// Its name.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Every(_) => "interval",
            Self::Change => "change",
            Self::Within(_) => "hybrid",
        }
    }
}

/// One subscription: told first at `start`, last at or before `start + duration`, both included (R4-07, R4-09).
#[derive(Debug, Clone)]
pub(super) struct Timing {
    when: When,
    start: Duration,
    end: Option<Duration>,
    /// The number of the next notification of an interval.
    next: u32,
    /// What was seen last; with a tolerance, what was told last.
    last: Option<Value>,
    /// Told that it cannot be read, and nothing since.
    lost: bool,
    hybrid: Option<Hybrid>,
    /// With a tolerance, before `start`: what was seen last.
    early: Option<Value>,
    /// Whether anything was seen since `start`, or asked for then.
    begun: bool,
}

/// What the time asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tick {
    /// Nothing yet.
    Wait,
    /// The value is to be told; so many times for that were missed before, because nobody looked.
    Tell(u32),
    /// The value is to be looked at, and then perhaps to be told.
    Ask,
    /// `start` is there, and this is the value then.
    Begin(Value),
    /// Nothing is ever told again.
    Over,
}

impl Timing {
    /// `last` is the value at the time of subscribing, as far as it is known.
    pub(super) fn new(when: When, start: Duration, duration: Option<Duration>, last: Option<Value>) -> Self {
        let hybrid = match when {
            When::Within(tolerance) => Some(Hybrid::new(tolerance, last.as_ref().and_then(Value::as_f64))),
            When::Every(_) | When::Change => None,
        };
        Self {
            when,
            start,
            end: duration.map(|d| start.saturating_add(d)),
            next: 0,
            last,
            lost: false,
            early: None,
            begun: hybrid.is_none() || start.is_zero(),
            hybrid,
        }
    }

    /// How news come at present, with a tolerance.
    pub(super) fn way(&self) -> Option<Way> {
        self.hybrid.as_ref().map(Hybrid::way)
    }

    /// Whether the source tells for nothing, listened to or not.
    pub(super) fn free(&mut self, free: bool) {
        if let Some(hybrid) = &mut self.hybrid {
            hybrid.free(free);
        }
    }

    /// When [`Timing::tick`] is to be asked next; never, when `None`.
    pub(super) fn wake(&self) -> Option<Duration> {
        match self.when {
            When::Every(_) => Some(self.due().filter(|due| self.includes(*due)).unwrap_or_default()),
            // Just after the end, which is included.
            When::Change | When::Within(_) => {
                let end = self.end.map(|end| end.saturating_add(Duration::from_millis(1)));
                let ask = self.hybrid.as_ref().and_then(Hybrid::wake);
                let begin = (!self.begun).then_some(self.start);
                end.into_iter().chain(ask).chain(begin).min()
            }
        }
    }

    fn due(&self) -> Option<Duration> {
        match self.when {
            When::Every(interval) => interval.checked_mul(self.next).and_then(|t| t.checked_add(self.start)),
            When::Change | When::Within(_) => None,
        }
    }

    fn includes(&self, time: Duration) -> bool {
        time >= self.start && self.end.is_none_or(|end| time <= end)
    }

    /// What is to be done at `now`.
    pub(super) fn tick(&mut self, now: Duration) -> Tick {
        let When::Every(interval) = self.when else {
            let over = self.end.is_some_and(|end| now > end);
            if !over && !self.begun && now >= self.start {
                return self.begin();
            }
            let asks = !over && self.hybrid.as_mut().is_some_and(|hybrid| hybrid.asks(now));
            return match (over, asks) {
                (true, _) => Tick::Over,
                (false, true) => Tick::Ask,
                (false, false) => Tick::Wait,
            };
        };
        let Some(due) = self.due().filter(|due| self.includes(*due)) else { return Tick::Over };
        if now < due {
            return Tick::Wait;
        }
        // Times that passed while nobody looked are not made up for: the newest of them stands for all.
        let late = (now - due).as_nanos() / interval.as_nanos().max(1);
        let left = self.end.map_or(u128::MAX, |end| (end - due).as_nanos() / interval.as_nanos().max(1));
        let missed = u32::try_from(late.min(left)).unwrap_or(u32::MAX);
        self.next = self.next.saturating_add(missed).saturating_add(1);
        Tick::Tell(missed)
    }

    /// Whoever has a tolerance may be far off already. Who has to look every now and then asks how it is now; others know what was seen last.
    fn begin(&mut self) -> Tick {
        self.begun = true;
        match (self.hybrid.as_ref().is_some_and(Hybrid::is_free), self.early.take()) {
            (false, _) => Tick::Ask,
            (true, Some(value)) => Tick::Begin(value),
            (true, None) => Tick::Wait,
        }
    }

    /// It could not be read at `now`. Answers whether that is to be told: once, until a value is seen.
    pub(super) fn lost(&mut self, now: Duration) -> bool {
        let tells = self.includes(now) && !self.lost;
        self.lost |= tells;
        tells
    }

    /// A value was seen at `now`. Answers what it was before, when that is to be told.
    pub(super) fn observe(&mut self, now: Duration, value: &Value) -> Option<Option<Value>> {
        if let Some(hybrid) = &mut self.hybrid {
            if now < self.start {
                self.early = Some(value.clone());
                return None;
            }
            self.begun = true;
            let number = value.as_f64().filter(|_| self.end.is_none_or(|end| now <= end))?;
            let tells = hybrid.observe(now, number) | std::mem::take(&mut self.lost);
            if tells {
                hybrid.tell(number);
            }
            return tells.then(|| self.last.replace(value.clone()));
        }
        if self.last.as_ref() == Some(value) && !std::mem::take(&mut self.lost) {
            return None;
        }
        self.lost = false;
        let old = self.last.replace(value.clone());
        (self.when == When::Change && self.includes(now)).then_some(old)
    }

    /// What was seen last.
    pub(super) fn last(&self) -> Option<&Value> {
        self.last.as_ref()
    }
}

/// How often what says nothing by itself is looked at: quickly after a change, ever more slowly while there is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(QUICK)
    }
}

impl Pace {
    /// The shortest time between two looks.
    pub(super) fn least(self) -> Duration {
        QUICK
    }

    /// How long to wait after a look.
    pub(super) fn after(&mut self, changed: bool) -> Duration {
        self.0 = if changed { QUICK } else { (self.0 + self.0 / 2).min(SLOW) };
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The seconds at which a subscriber is told who is woken when it asks to be.
    fn told(mut timing: Timing) -> Vec<f64> {
        let mut times = Vec::new();
        let mut now = Duration::ZERO;
        while let Some(wake) = timing.wake().filter(|_| times.len() < 50) {
            now = now.max(wake);
            match timing.tick(now) {
                Tick::Tell(_) => times.push(now.as_secs_f64()),
                Tick::Over => break,
                Tick::Wait | Tick::Ask | Tick::Begin(_) => {}
            }
        }
        times
    }

    /// Requirement: R4-07
    #[test]
    fn an_interval_begins_at_its_start_and_includes_its_end() {
        let timing = Timing::new(When::Every(s(2)), s(4), Some(s(10)), None);
        assert_eq!(told(timing), [4.0, 6.0, 8.0, 10.0, 12.0, 14.0]);
        assert_eq!(told(Timing::new(When::Every(s(4)), s(0), Some(s(10)), None)), [0.0, 4.0, 8.0]);
        assert_eq!(told(Timing::new(When::Every(s(2)), s(0), None, None)).len(), 50);
    }

    #[test]
    fn who_is_late_tells_once_and_says_what_was_missed() {
        let mut timing = Timing::new(When::Every(s(1)), s(0), Some(s(10)), None);
        assert_eq!(timing.tick(s(0)), Tick::Tell(0));
        assert_eq!(timing.tick(s(0)), Tick::Wait);
        assert_eq!(timing.tick(s(4)), Tick::Tell(3));
        assert_eq!(timing.wake(), Some(s(5)));
        assert_eq!(timing.tick(s(99)), Tick::Tell(5));
        assert_eq!(timing.tick(s(99)), Tick::Over);
    }

    /// Requirement: R4-09
    #[test]
    fn a_change_is_told_once_and_only_within_the_window() {
        let mut timing = Timing::new(When::Change, s(0), Some(s(10)), Some(json!(1)));
        let mut heard = Vec::new();
        for (at, value) in [(1, 1), (2, 1), (3, 2), (4, 2), (10, 3), (11, 4)] {
            if let Some(old) = timing.observe(s(at), &json!(value)) {
                heard.push((old, value));
            }
        }
        assert_eq!(heard, [(Some(json!(1)), 2), (Some(json!(2)), 3)]);
        assert_eq!(timing.tick(s(10)), Tick::Wait);
        assert_eq!(timing.tick(s(11)), Tick::Over);

        let mut later = Timing::new(When::Change, s(5), None, Some(json!(1)));
        assert_eq!(later.observe(s(4), &json!(2)), None);
        assert_eq!(later.observe(s(5), &json!(2)), None, "it changed before");
        assert_eq!(later.observe(s(6), &json!(3)), Some(Some(json!(2))));
        assert_eq!(later.wake(), None);
    }

    /// Requirement: RX-1
    #[test]
    fn with_a_tolerance_what_is_within_it_is_not_told_and_a_drift_is_asked_for() {
        let tolerance = Tolerance::parse("5%").expect("a tolerance");
        let mut timing = Timing::new(When::Within(tolerance), s(1), Some(s(60)), Some(json!(100)));
        assert_eq!(timing.observe(s(0), &json!(150)), None, "before its time");
        assert_eq!(timing.observe(s(1), &json!(104)), None);
        assert_eq!(timing.observe(s(2), &json!(130)), Some(Some(json!(100))));
        for second in 3..20 {
            timing.observe(s(second), &json!(130.0 + second as f64));
        }
        assert_eq!(timing.way(), Some(Way::Pull));
        let wake = timing.wake().expect("a time");
        assert_eq!((timing.tick(s(19)), timing.tick(wake)), (Tick::Wait, Tick::Ask));
        assert_eq!(timing.tick(s(62)), Tick::Over);
    }

    /// Requirement: RX-1
    #[test]
    fn with_a_tolerance_the_first_value_is_that_at_the_start() {
        let tolerance = Tolerance::parse("5%").expect("a tolerance");
        let new = || Timing::new(When::Within(tolerance), s(5), Some(s(60)), Some(json!(100)));
        // What tells for nothing is not asked.
        let mut free = new();
        free.free(true);
        for (at, value) in [(1, 150), (3, 200)] {
            assert_eq!(free.observe(s(at), &json!(value)), None);
        }
        assert_eq!((free.wake(), free.tick(s(4))), (Some(s(5)), Tick::Wait));
        assert_eq!(free.tick(s(5)), Tick::Begin(json!(200)));
        assert_eq!(free.observe(s(5), &json!(200)), Some(Some(json!(100))));
        assert_eq!((free.tick(s(6)), free.observe(s(7), &json!(201))), (Tick::Wait, None));
        // What is looked at is looked at then, unless it was just seen.
        let (mut asked, mut seen) = (new(), new());
        assert_eq!((asked.tick(s(5)), asked.tick(s(5))), (Tick::Ask, Tick::Wait));
        assert!(seen.observe(s(5), &json!(150)).is_some());
        assert_eq!(seen.tick(s(6)), Tick::Wait);
    }

    #[test]
    fn what_cannot_be_read_is_told_once_and_so_is_its_return() {
        let tolerance = Tolerance::parse("5%").expect("a tolerance");
        for when in [When::Change, When::Within(tolerance)] {
            let mut timing = Timing::new(when, s(1), Some(s(60)), Some(json!(100)));
            assert!(!timing.lost(s(0)), "before its time");
            assert!(timing.lost(s(2)) && !timing.lost(s(3)));
            assert_eq!(timing.observe(s(4), &json!(100)), Some(Some(json!(100))));
            assert_eq!(timing.observe(s(5), &json!(100)), None);
            assert!(timing.lost(s(6)));
        }
    }

    #[test]
    fn the_pace_slows_down_while_nothing_changes() {
        let mut pace = Pace::default();
        let waits: Vec<Duration> = (0..20).map(|_| pace.after(false)).collect();
        assert!(waits.windows(2).all(|w| w[0] <= w[1]) && waits[19] == SLOW);
        assert_eq!(pace.after(true), QUICK);
    }

    proptest! {
        #[test]
        fn however_late_the_clock_nothing_is_told_twice_or_outside(
            interval in 1_u64..5_000, start in 0_u64..5_000, duration in 0_u64..20_000,
            steps in prop::collection::vec(0_u64..9_000, 1..60),
        ) {
            let ms = Duration::from_millis;
            let mut timing = Timing::new(When::Every(ms(interval)), ms(start), Some(ms(duration)), None);
            let (mut now, mut count) = (0, 0_u64);
            for step in steps {
                now += step;
                if let Tick::Tell(missed) = timing.tick(ms(now)) {
                    prop_assert!(now >= start);
                    count += 1 + u64::from(missed);
                    prop_assert!(count <= (now - start) / interval + 1);
                }
            }
            prop_assert!(count <= duration / interval + 1);
        }
    }
}
