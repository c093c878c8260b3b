//! Push or pull, whichever takes fewer messages, so that an observer's picture of a number stays within the tolerance that it states (RX-1). No clock, no
//! sockets.
//!
//! The idea is that of H. Huang and L. Wang, *P&P: A Combined Push-Pull Model for Resource Monitoring in Cloud Computing Environment* (IEEE CLOUD 2010):
//! the degree to which a user tolerates inaccuracy decides between the two. The rules here are these.
//!
//! 1. Whatever was seen is told when it is off from what was told last by more than the tolerance.
//! 2. *Push*: the source tells of each change, and every change is a message. So it is in the beginning, and after every jump: a step of more than the
//!    tolerance that the drift before it does not explain.
//! 3. *Pull*: the source is not listened to. It is asked when, by the drift that was seen, the tolerance will be used up. A question and its answer are two
//!    messages, so pull is chosen when `2 · |drift| / tolerance` is clearly less than the number of changes per second, and what was seen lies on a line
//!    to half of the tolerance.
//! 4. Asked twice without any difference: a value that stands still costs nothing to listen to. Back to push.
//! 5. A jump that only a question found was found late. Before the next pull, twice as long a calm is waited for; a long pull without jumps ends that.

use std::collections::VecDeque;
use std::time::Duration;

/// How many of the last changes are looked at, and at least must have been seen.
const WINDOW: usize = 8;
const ENOUGH: usize = 5;

/// How many messages one question with its answer is.
const QUESTION: f64 = 2.0;

/// How much cheaper pull must be.
const CLEARLY: f64 = 0.8;

/// The shortest and the longest time between two questions.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// How long after a jump there is no pull, at first and at most.
const CALM: Duration = Duration::from_secs(2);
const CALMEST: Duration = Duration::from_secs(600);

/// How far an observer's picture may be off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Tolerance {
    /// By this share of what was told last.
    Share(f64),
    /// By this much.
    Amount(f64),
}

impl Tolerance {
    /// Reads `5%` or `0.5`.
    ///
    /// # Errors
    /// What would be right.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (number, tolerance): (&str, fn(f64) -> Self) = match text.trim().strip_suffix('%') {
            Some(number) => (number, |percent| Self::Share(percent / 100.0)),
            None => (text, Self::Amount),
        };
        match number.trim().parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(tolerance(number)),
            _ => Err(format!(
                "`{text}` is no tolerance; expected a share such as 5%, or an amount such as 0.5"
            )),
        }
    }

    /// How far what is may be from what was told.
    fn room(self, told: f64) -> f64 {
        match self {
            Self::Share(share) => share * told.abs(),
            Self::Amount(amount) => amount,
        }
    }
}

impl<'de> serde::Deserialize<'de> for Tolerance {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Tolerance;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a share such as 5%, or an amount such as 0.5")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tolerance, E> {
                Tolerance::parse(text).map_err(E::custom)
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Tolerance, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Tolerance, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How news reaches an observer at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// The source tells.
    Push,
    /// The source is asked.
    Pull,
}

/// One observer of one number.
#[derive(Debug, Clone)]
pub(super) struct Hybrid {
    tolerance: Tolerance,
    /// Whether the source tells for nothing, listened to or not; then it is never asked.
    free: bool,
    way: Way,
    told: Option<f64>,
    /// What was seen since the last jump: when, and what.
    seen: VecDeque<(Duration, f64)>,
    /// When it is to be asked next.
    due: Duration,
    /// Changes per second, when they were last listened to.
    changes: f64,
    /// How often in a row an answer said nothing new.
    still: u32,
    /// No pull before this time; how long that was after the last jump; when the present pull began.
    calm: Duration,
    patience: Duration,
    since: Duration,
}

impl Hybrid {
    /// `told` is what the observer knows already.
    pub(super) fn new(tolerance: Tolerance, told: Option<f64>) -> Self {
        Self {
            tolerance,
            free: false,
            way: Way::Push,
            told,
            seen: VecDeque::new(),
            due: Duration::ZERO,
            changes: 0.0,
            still: 0,
            calm: Duration::ZERO,
            patience: CALM / 2,
            since: Duration::ZERO,
        }
    }

    /// Whether the source tells for nothing, listened to or not; then it is never asked.
    pub(super) fn free(&mut self, free: bool) {
        self.free = free;
        if free {
            self.way = Way::Push;
        }
    }

    /// Whether it is.
    pub(super) fn is_free(&self) -> bool {
        self.free
    }

    /// The observer was told this, whatever it is.
    pub(super) fn tell(&mut self, value: f64) {
        self.told = Some(value);
    }

    /// How news come at present.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// When it is to be asked next; not at all, when `None`.
    pub(super) fn wake(&self) -> Option<Duration> {
        (self.way == Way::Pull).then_some(self.due)
    }

    /// Whether it is to be asked at `now`. It is due again soon, should there be no answer.
    pub(super) fn asks(&mut self, now: Duration) -> bool {
        let asks = self.way == Way::Pull && now >= self.due;
        if asks {
            self.due = now.saturating_add(SHORTEST);
        }
        asks
    }

    /// The value at `now`, told by the source or asked for. Answers whether the observer is to be told.
    pub(super) fn observe(&mut self, now: Duration, value: f64) -> bool {
        let room = self.tolerance.room(self.told.unwrap_or(value));
        let before = self.seen.back().copied();
        let jumped = before.map_or_else(
            || self.told.is_some_and(|told| (value - told).abs() > room),
            |(at, last)| {
                let expected = last + self.drift() * now.saturating_sub(at).as_secs_f64();
                (value - last).abs() > room && (value - expected).abs() > room
            },
        );
        if jumped {
            self.jump(now);
        }
        let same = before.is_some_and(|(_, last)| last == value);
        self.still = if self.way == Way::Pull && same { self.still + 1 } else { 0 };
        if self.seen.len() == WINDOW {
            self.seen.pop_front();
        }
        self.seen.push_back((now, value));
        let off = self.told.map_or(f64::INFINITY, |told| (value - told).abs());
        // Who was asked anyway is passed on earlier, so that the whole tolerance is there for the time until the next question.
        let tell = off > if self.way == Way::Pull { room / 2.0 } else { room };
        if tell {
            self.told = Some(value);
        }
        self.choose(now, value);
        tell
    }

    fn jump(&mut self, now: Duration) {
        if self.way == Way::Pull {
            let long = now.saturating_sub(self.since) > self.patience * 8;
            self.patience = if long { CALM } else { (self.patience * 2).clamp(CALM, CALMEST) };
        }
        self.calm = now.saturating_add(self.patience.max(CALM));
        self.way = Way::Push;
        self.seen.clear();
    }

    /// Units per second over what was seen since the last jump.
    fn drift(&self) -> f64 {
        match (self.seen.front(), self.seen.back()) {
            (Some((from, first)), Some((to, last))) if to > from => {
                (last - first) / (*to - *from).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Whether what was seen lies on a line to within `room`.
    fn straight(&self, room: f64) -> bool {
        let (drift, first) = (self.drift(), self.seen.front().copied().unwrap_or_default());
        self.seen
            .iter()
            .all(|(at, value)| (first.1 + drift * (*at - first.0).as_secs_f64() - value).abs() <= room)
    }

    fn choose(&mut self, now: Duration, value: f64) {
        let told = self.told.unwrap_or(value);
        let (room, drift) = (self.tolerance.room(told), self.drift().abs());
        let span = self.seen.front().map_or(0.0, |(from, _)| now.saturating_sub(*from).as_secs_f64());
        if self.way == Way::Push && span > 0.0 {
            self.changes = (self.seen.len() - 1) as f64 / span;
        }
        let questions = (drift / room).max(1.0 / LONGEST.as_secs_f64()) * QUESTION;
        let cheap = questions.is_finite() && questions < CLEARLY * self.changes;
        let known = self.way == Way::Pull || self.seen.len() >= ENOUGH && span > 0.0;
        let pull =
            !self.free && cheap && known && now >= self.calm && self.still < 2 && self.straight(room / 2.0);
        if !pull {
            if self.way == Way::Pull {
                // What lies far apart says nothing of how often it changes.
                self.seen.clear();
                self.seen.push_back((now, value));
            }
            self.way = Way::Push;
            self.still = 0;
            return;
        }
        if self.way == Way::Push {
            self.since = now;
        }
        self.way = Way::Pull;
        let left =
            ((room - (value - told).abs()) / drift).clamp(SHORTEST.as_secs_f64(), LONGEST.as_secs_f64());
        self.due = now.saturating_add(Duration::try_from_secs_f64(left).unwrap_or(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIVE: Tolerance = Tolerance::Share(0.05);

    fn at(tick: u32) -> Duration {
        Duration::from_millis(100) * tick
    }

    /// What an observer got, and what it cost: messages, and how far it was off, as a share, on average.
    #[derive(Debug)]
    struct Ran {
        messages: u32,
        error: f64,
        pulled: f64,
    }

    /// The hybrid over a course of values, one each 100 ms.
    fn hybrid(course: &[f64]) -> Ran {
        let mut observer = Hybrid::new(FIVE, Some(course[0]));
        let (mut picture, mut ran) = (course[0], Ran { messages: 0, error: 0.0, pulled: 0.0 });
        for (tick, pair) in (1..).zip(course.windows(2)) {
            let (before, value) = (pair[0], pair[1]);
            let news = match observer.way() {
                Way::Push => {
                    ran.messages += u32::from(value != before);
                    value != before
                }
                Way::Pull => {
                    let asks = observer.asks(at(tick));
                    ran.messages += if asks { 2 } else { 0 };
                    ran.pulled += 1.0 / course.len() as f64;
                    asks
                }
            };
            if news && observer.observe(at(tick), value) {
                picture = value;
                ran.messages += 1;
            }
            ran.error += (picture - value).abs() / value / course.len() as f64;
        }
        ran
    }

    /// Every change is a message of the source, and one to the observer, who is never off.
    fn push(course: &[f64]) -> u32 {
        2 * course.windows(2).map(|pair| u32::from(pair[0] != pair[1])).sum::<u32>()
    }

    /// Asked and told each so many ticks.
    fn pull(course: &[f64], every: usize) -> Ran {
        let mut ran = Ran { messages: 0, error: 0.0, pulled: 1.0 };
        let mut picture = course[0];
        for (tick, value) in course.iter().enumerate() {
            if tick % every == 0 {
                picture = *value;
                ran.messages += 3;
            }
            ran.error += (picture - value).abs() / value / course.len() as f64;
        }
        ran
    }

    fn drifting(from: f64, seconds: u32) -> Vec<f64> {
        (0..seconds * 10).map(|tick| from * (1.0 + f64::from(tick) / 1_000.0)).collect()
    }

    fn jumping(from: f64, seconds: u32) -> Vec<f64> {
        (0..seconds * 10).map(|tick| if tick / 15 % 2 == 0 { from } else { from * 1.2 }).collect()
    }

    /// Requirement: RX-1
    #[test]
    fn what_drifts_is_pulled() {
        let mut observer = Hybrid::new(FIVE, Some(100.0));
        let mut seconds = 0;
        while observer.way() == Way::Push {
            seconds += 1;
            observer.observe(Duration::from_secs(seconds), 100.0 + seconds as f64);
            assert!(seconds < 20, "1 % each second is no reason to tell each second");
        }
        // Asked when the 5 % are used up, and told then.
        let due = observer.wake().expect("a time");
        let value = |time: Duration| 100.0 + time.as_secs_f64();
        assert!(due <= Duration::from_secs(seconds + 6));
        assert!(!observer.asks(due - Duration::from_millis(1)) && observer.asks(due));
        assert!(observer.observe(due, value(due)));
        let next = observer.wake().expect("still pulled");
        assert!((4.5..6.0).contains(&(next - due).as_secs_f64()), "{:?}", next - due);
        assert!(hybrid(&drifting(100.0, 300)).pulled > 0.9);
    }

    /// Requirement: RX-1
    #[test]
    fn what_jumps_is_pushed() {
        let mut observer = Hybrid::new(FIVE, Some(100.0));
        for second in 1..=10 {
            observer.observe(Duration::from_secs(second), 100.0 + second as f64);
        }
        assert_eq!(observer.way(), Way::Pull);
        let due = observer.wake().expect("a time");
        assert!(observer.asks(due) && observer.observe(due, 1.2 * (100.0 + due.as_secs_f64())));
        assert_eq!(observer.way(), Way::Push, "20 % at once");
        assert!(hybrid(&jumping(100.0, 300)).pulled < 0.01);
    }

    /// Requirement: RX-1
    #[test]
    fn it_takes_fewer_messages_than_either_at_equal_error() {
        let mut course = Vec::new();
        for _ in 0..10 {
            let from = course.last().copied().unwrap_or(100.0);
            course.extend(drifting(from, 60));
            let from = course.last().copied().unwrap_or(100.0);
            course.extend(jumping(from, 20));
        }
        let both = hybrid(&course);
        let equal =
            (1..).map(|every| pull(&course, every)).take(600).take_while(|p| p.error <= both.error).last();
        let equal = equal.expect("often enough, it is never far off");
        assert!(both.pulled > 0.5 && both.pulled < 0.9, "{both:?}");
        assert!(both.error < 0.05, "{both:?}");
        assert!(both.messages < equal.messages, "{both:?} {equal:?}");
        assert!(both.messages < push(&course), "{both:?} {}", push(&course));
    }

    #[test]
    fn what_tells_for_nothing_is_never_asked() {
        let mut observer = Hybrid::new(FIVE, Some(100.0));
        observer.free(true);
        let told =
            (1..600).filter(|tick| observer.observe(at(*tick), 100.0 + f64::from(*tick) / 10.0)).count();
        assert_eq!((observer.way(), observer.wake()), (Way::Push, None));
        // From 100 to 160 by 5 % at a time.
        assert_eq!(told, 9);
    }

    #[test]
    fn what_stands_still_is_listened_to() {
        let mut observer = Hybrid::new(FIVE, Some(100.0));
        for tick in 1..20 {
            observer.observe(at(tick), 100.0 + f64::from(tick) / 10.0);
        }
        assert_eq!(observer.way(), Way::Pull);
        let mut asked = 0;
        while let Some(due) = observer.wake() {
            assert!(observer.asks(due));
            observer.observe(due, 102.0);
            asked += 1;
            assert!(asked < 10);
        }
    }

    #[test]
    fn a_tolerance_is_a_share_or_an_amount() {
        assert_eq!(Tolerance::parse("5%"), Ok(FIVE));
        assert_eq!(Tolerance::parse("0.5"), Ok(Tolerance::Amount(0.5)));
        for bad in ["", "%", "-1", "0", "nan", "5 percent"] {
            assert!(Tolerance::parse(bad).is_err_and(|why| why.contains("5%")), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_observer_is_never_further_off_than_it_tolerates_from_what_was_seen(
            values in prop::collection::vec((0_u32..50, -1_000.0_f64..1_000.0), 1..80),
            share in prop::bool::ANY, free in prop::bool::ANY,
        ) {
            let tolerance = if share { FIVE } else { Tolerance::Amount(3.0) };
            let mut observer = Hybrid::new(tolerance, None);
            observer.free(free);
            let (mut now, mut picture) = (0, None);
            for (step, value) in values {
                now += step;
                if let Some(due) = observer.wake() {
                    prop_assert!(!free);
                    if observer.asks(at(now)) {
                        prop_assert!(at(now) >= due);
                        prop_assert!(observer.wake().is_some_and(|next| next > at(now)), "it is not asked twice at once");
                    }
                }
                if observer.observe(at(now), value) {
                    picture = Some(value);
                }
                let picture = picture.expect("the first is told");
                prop_assert!((value - picture).abs() <= tolerance.room(picture).max(tolerance.room(value)) * 1.06);
                prop_assert!(observer.wake().is_none_or(|next| next > at(now)));
            }
        }
    }
}
