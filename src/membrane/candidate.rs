//! What is known of a candidate of a reference: whether it passes its checks, and whether its errors have taken it out. Both are folds over what
//! happened; time is an argument.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::calls::{Eject, Standing};

/// Being out doubles up to so many times what the policy says at first, …
const LONGEST: u32 = 10;

/// … when it happens again within so many times that after the candidate was back.
const SOON: u32 = 10;

/// How the checks of a candidate went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Checks {
    /// `None`: there was none yet.
    passes: Option<bool>,
    /// How many in a row went the other way.
    row: u32,
}

impl Checks {
    /// Takes the result of a check; answers whether that changes how the candidate stands. The first decides at once.
    fn fold(&mut self, passed: bool, fall: u32, rise: u32) -> bool {
        if self.passes == Some(passed) {
            self.row = 0;
            return false;
        }
        self.row += 1;
        let needed = match self.passes {
            None => 1,
            Some(true) => fall,
            Some(false) => rise,
        };
        if self.row < needed {
            return false;
        }
        *self = Self { passes: Some(passed), row: 0 };
        true
    }
}

/// How the calls to a candidate went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Errors {
    row: u32,
    out: bool,
    /// How often it was out lately.
    times: u32,
    back_at: Option<Duration>,
}

impl Errors {
    /// Takes the result of a call; answers for how long the candidate is out from now on, if it is and was not.
    fn fold(&mut self, now: Duration, good: bool, rules: Eject, may: bool) -> Option<Duration> {
        if good || self.out {
            self.row = 0;
            return None;
        }
        self.row = self.row.saturating_add(1);
        if self.row < rules.errors || !may {
            return None;
        }
        let long_ago = |back: Duration| now.saturating_sub(back) >= rules.time.0 * SOON;
        if self.back_at.is_some_and(long_ago) {
            self.times = 0;
        }
        let factor = 2_u32.saturating_pow(self.times).min(LONGEST);
        self.times += 1;
        (self.row, self.out) = (0, true);
        Some(rules.time.0 * factor)
    }

    fn back(&mut self, now: Duration) {
        (self.out, self.row, self.back_at) = (false, 0, Some(now));
    }
}

#[derive(Debug, Default)]
struct State {
    checks: Checks,
    failure: Option<String>,
    errors: Errors,
}

/// A candidate of one reference.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: Arc<str>,
    usable: AtomicBool,
    calls: AtomicU64,
    state: Mutex<State>,
}

impl Candidate {
    /// Nothing is known of it yet.
    pub(super) fn new(name: Arc<str>) -> Arc<Self> {
        let usable = AtomicBool::new(true);
        Arc::new(Self { name, usable, calls: AtomicU64::new(0), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, state: &State) {
        let usable = state.checks.passes != Some(false) && !state.errors.out;
        self.usable.store(usable, Ordering::SeqCst);
    }

    /// Whether it gets calls before those that are not.
    pub(super) fn usable(&self) -> bool {
        self.usable.load(Ordering::SeqCst)
    }

    /// A call was sent to it.
    pub(super) fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How it stands, and why.
    pub(super) fn standing(&self) -> (Standing, Option<String>) {
        let state = self.state();
        match (state.checks.passes, state.errors.out) {
            (Some(false), _) => (Standing::Unhealthy, state.failure.clone()),
            (_, true) => (Standing::Ejected, Some("it was taken out for its errors".into())),
            (Some(true), false) => (Standing::Healthy, None),
            (None, false) => (Standing::Unchecked, None),
        }
    }

    /// It was checked; answers whether it stands otherwise now.
    pub(super) fn checked(&self, result: Result<(), String>, fall: u32, rise: u32) -> bool {
        let mut state = self.state();
        let changed = state.checks.fold(result.is_ok(), fall, rise);
        if changed {
            state.failure = result.err();
            self.judge(&state);
        }
        changed
    }

    /// It is not checked any more.
    pub(super) fn unchecked(&self) {
        let mut state = self.state();
        (state.checks, state.failure) = (Checks::default(), None);
        self.judge(&state);
    }

    /// Whether its errors have taken it out.
    pub(super) fn is_out(&self) -> bool {
        self.state().errors.out
    }

    /// A call to it went well, or not; answers for how long it is out from now on, if it is and was not. `may`: whether it may be.
    pub(super) fn answered(&self, now: Duration, good: bool, rules: Eject, may: bool) -> Option<Duration> {
        let mut state = self.state();
        let out = state.errors.fold(now, good, rules, may);
        self.judge(&state);
        out
    }

    /// The time for which it was out is over.
    pub(super) fn back(&self, now: Duration) {
        let mut state = self.state();
        state.errors.back(now);
        self.judge(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HumanDuration;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_check_decides_at_once_and_later_ones_when_enough_of_them_agree() {
        let candidate = Candidate::new("c".into());
        assert!(candidate.usable() && candidate.standing().0 == Standing::Unchecked);
        let mut check = |good: bool| candidate.checked(if good { Ok(()) } else { Err("no".into()) }, 3, 2);
        let changes: Vec<bool> =
            [false, true, false, true, true, false, false, true, false, false, false].map(&mut check).into();
        assert_eq!(changes, [true, false, false, false, true, false, false, false, false, false, true]);
        assert_eq!(candidate.standing(), (Standing::Unhealthy, Some("no".into())));
        candidate.unchecked();
        assert!(candidate.usable());
    }

    #[test]
    fn errors_in_a_row_take_a_candidate_out_for_a_time_that_grows_with_repeats() {
        let rules = Eject { errors: 2, time: HumanDuration(S), most: 50 };
        let mut errors = Errors::default();
        let mut at = Duration::ZERO;
        let mut out = |errors: &mut Errors, after: Duration| {
            at += after;
            assert_eq!(errors.fold(at, false, rules, true), None);
            let time = errors.fold(at, false, rules, true);
            at += time.unwrap_or_default();
            errors.back(at);
            time
        };
        assert_eq!(out(&mut errors, S), Some(S));
        assert_eq!(out(&mut errors, S), Some(2 * S));
        assert_eq!(out(&mut errors, S), Some(4 * S));
        assert_eq!(out(&mut errors, S), Some(8 * S));
        assert_eq!(out(&mut errors, S), Some(10 * S));
        assert_eq!(out(&mut errors, 20 * S), Some(S), "that was long ago");
        // A good answer between two errors, and no room.
        assert_eq!([false, true, false].map(|good| errors.fold(at, good, rules, true)), [None; 3]);
        assert_eq!(errors.fold(at, false, rules, false), None);
        assert_eq!(errors.fold(at, false, rules, true), Some(2 * S));
    }
}
