//! Where calls lead, and how that is changed while they flow: whoever was about to be sent to an old target is waited for. Calls may lead to one
//! target, or be shared by several.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::candidate::Candidate;
use super::news::Teller;
use super::running;
use crate::model::HumanDuration;
use crate::model::calls::Eject;

/// Something that calls are sent to.
#[derive(Debug)]
pub(super) struct Target {
    /// The service, for people.
    pub(super) name: Arc<str>,
    /// `host:port`.
    pub(super) address: Arc<str>,
    /// What is known of it.
    pub(super) candidate: Arc<Candidate>,
    /// Calls that have chosen it and are not on the wire yet.
    entering: AtomicUsize,
    /// Calls that have chosen it and are not over.
    in_flight: AtomicUsize,
    left: Notify,
    /// Cancelled once new calls go elsewhere: idle connections end then.
    pub(super) retired: CancellationToken,
}

impl Target {
    /// Nobody is on the way to it yet.
    pub(super) fn new(candidate: Arc<Candidate>, address: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self {
            name: candidate.name.clone(),
            address: address.into(),
            candidate,
            entering: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            left: Notify::new(),
            retired: CancellationToken::new(),
        })
    }

    /// Waits until nobody is about to be sent to it any more, and then, for at most `patience`, until the calls on it are over.
    /// Answers how many are not.
    pub(super) async fn drained(&self, patience: Duration) -> usize {
        self.until_zero(&self.entering).await;
        let _ = tokio::time::timeout(patience, self.until_zero(&self.in_flight)).await;
        self.in_flight.load(Ordering::SeqCst)
    }

    async fn until_zero(&self, count: &AtomicUsize) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if count.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

/// A target and its share of the calls.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) target: Arc<Target>,
    /// In proportion to the others; 0: only when no other is usable.
    pub(super) weight: u32,
}

/// The targets that share calls; never none.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) members: Vec<Member>,
    pub(super) eject: Option<Eject>,
    /// How far each member is ahead of its turn, in parts of the sum of the weights.
    turns: Mutex<Vec<i64>>,
    tell: Teller,
}

impl Pool {
    /// Calls are shared by these.
    pub(super) fn new(members: Vec<Member>, eject: Option<Eject>, tell: Teller) -> Arc<Self> {
        let turns = Mutex::new(vec![0; members.len()]);
        Arc::new(Self { members, eject, turns, tell })
    }

    /// All calls go to this one.
    pub(super) fn of(target: Arc<Target>) -> Arc<Self> {
        Self::new(vec![Member { target, weight: 1 }], None, Teller::default())
    }

    /// Whether it is these, shared in the same way.
    pub(super) fn is(&self, members: &[Member], eject: Option<Eject>) -> bool {
        let same = |(a, b): (&Member, &Member)| Arc::ptr_eq(&a.target, &b.target) && a.weight == b.weight;
        self.eject == eject
            && self.members.len() == members.len()
            && self.members.iter().zip(members).all(same)
    }

    /// Whether it is among them.
    pub(super) fn has(&self, target: &Arc<Target>) -> bool {
        self.members.iter().any(|m| Arc::ptr_eq(&m.target, target))
    }

    /// The target of the next call; `tried` are those that it was sent to before. Usable ones come first, those of weight 0 after those with
    /// more, and what was tried already after that. When none is usable, calls are tried all the same.
    fn pick(&self, tried: &[Arc<Target>]) -> Option<&Arc<Target>> {
        if let [only] = &*self.members {
            return Some(&only.target);
        }
        let usable: Vec<bool> = self.members.iter().map(|m| m.target.candidate.usable()).collect();
        let new: Vec<bool> =
            self.members.iter().map(|m| !tried.iter().any(|t| Arc::ptr_eq(t, &m.target))).collect();
        let heavy = |n: usize| self.members[n].weight > 0;
        self.smooth(|n| usable[n] && new[n] && heavy(n))
            .or_else(|| self.smooth(|n| usable[n] && new[n]))
            .or_else(|| self.smooth(|n| usable[n]))
            .or_else(|| self.smooth(|n| new[n] && heavy(n)))
            .or_else(|| self.smooth(|_| true))
    }

    /// Smooth weighted round robin: among those that are asked for, whoever is furthest behind its share is next, so that calls are spread
    /// evenly and, over any run as long as the sum of the weights, exactly as these say.
    fn smooth(&self, among: impl Fn(usize) -> bool) -> Option<&Arc<Target>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut total, mut next): (i64, Option<usize>) = (0, None);
        for (n, member) in self.members.iter().enumerate().filter(|(n, _)| among(*n)) {
            let weight = i64::from(member.weight.max(1));
            total += weight;
            turns[n] += weight;
            if next.is_none_or(|best| turns[n] > turns[best]) {
                next = Some(n);
            }
        }
        let next = next?;
        turns[next] -= total;
        Some(&self.members[next].target)
    }

    /// A call to one of them went well, or not. Whoever fails too often is out for a while, as long as enough others are not.
    fn answered(&self, target: &Target, good: bool) {
        let Some(rules) = self.eject else { return };
        if self.members.len() < 2 {
            return;
        }
        // One at a time: two that fail at the same moment must not both be the last but one.
        let _turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let candidate = &target.candidate;
        let out = if good { 0 } else { self.members.iter().filter(|m| m.target.candidate.is_out()).count() };
        let may = out < rules.room(self.members.len());
        let Some(time) = candidate.answered(running(), good, rules, may) else { return };
        let (name, errors) = (&candidate.name, rules.errors);
        self.tell.tell(format!("`{name}` is out for {}: {errors} errors in a row", HumanDuration(time)));
        let (candidate, tell) = (candidate.clone(), self.tell.clone());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            candidate.back(running());
            tell.tell(format!("`{}` gets calls again", candidate.name));
        });
    }
}

/// Where calls lead at present.
#[derive(Debug, Clone)]
pub(super) enum Lead {
    /// To these targets.
    To(Arc<Pool>),
    /// Nowhere, for this reason.
    Nowhere(Arc<str>),
}

/// Where calls lead, changeable at any time.
#[derive(Debug)]
pub(super) struct Slot(ArcSwap<Lead>);

impl Slot {
    /// Leads there at first.
    pub(super) fn new(lead: Lead) -> Self {
        Self(ArcSwap::from_pointee(lead))
    }

    /// Where calls lead at present.
    pub(super) fn lead(&self) -> Arc<Lead> {
        self.0.load_full()
    }

    /// Enters a call; `tried` are the targets that it was sent to before.
    ///
    /// # Errors
    /// Why calls lead nowhere.
    pub(super) fn enter(&self, tried: &[Arc<Target>]) -> Result<Visit, Arc<str>> {
        loop {
            let lead = self.0.load_full();
            let pool = match &*lead {
                Lead::Nowhere(why) => return Err(why.clone()),
                Lead::To(pool) => pool.clone(),
            };
            let Some(target) = pool.pick(tried).cloned() else { return Err("there is no candidate".into()) };
            let visit = Visit::new(target, pool);
            // Either the one who switches sees this call in the count, or this call sees the switch: the fences stand in for a lock.
            fence(Ordering::SeqCst);
            if Arc::ptr_eq(&lead, &self.0.load_full()) {
                visit.target.candidate.called();
                return Ok(visit);
            }
        }
    }

    /// Leads there from now on. Answers the targets that it led to before and does no longer.
    pub(super) fn switch(&self, lead: Lead) -> Vec<Arc<Target>> {
        let lead = Arc::new(lead);
        let before = self.0.swap(lead.clone());
        fence(Ordering::SeqCst);
        let Lead::To(old) = &*before else { return Vec::new() };
        let kept = |target: &Arc<Target>| matches!(&*lead, Lead::To(pool) if pool.has(target));
        let left: Vec<Arc<Target>> =
            old.members.iter().map(|m| m.target.clone()).filter(|target| !kept(target)).collect();
        left.iter().for_each(|target| target.retired.cancel());
        left
    }
}

/// The pause before a call is sent again once all targets were tried; it doubles with each round.
const PAUSE: Duration = Duration::from_millis(25);

/// One call on its way to a target.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) target: Arc<Target>,
    pool: Arc<Pool>,
    entering: bool,
}

impl Visit {
    fn new(target: Arc<Target>, pool: Arc<Pool>) -> Self {
        target.entering.fetch_add(1, Ordering::SeqCst);
        target.in_flight.fetch_add(1, Ordering::SeqCst);
        Self { target, pool, entering: true }
    }

    /// The service has answered well, or not (5xx, or no answer for which it is to blame).
    pub(super) fn answered(&self, good: bool) {
        self.pool.answered(&self.target, good);
    }

    /// It went wrong, and is to be tried again: waits a moment if all targets were tried by then.
    pub(super) async fn failed(&self, tried: &mut Vec<Arc<Target>>) {
        self.answered(false);
        tried.push(self.target.clone());
        if let Some(round) = (tried.len() / self.pool.members.len().max(1)).checked_sub(1) {
            tokio::time::sleep(PAUSE * 2_u32.saturating_pow(u32::try_from(round).unwrap_or(4).min(4))).await;
        }
    }

    /// The call is on the wire.
    pub(super) fn sent(&mut self) {
        if std::mem::take(&mut self.entering) && self.target.entering.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.target.left.notify_waiters();
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.sent();
        if self.target.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.target.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Arc<Target> {
        Target::new(Candidate::new(name.into()), "127.0.0.1:1")
    }

    fn to(name: &str) -> Lead {
        Lead::To(Pool::of(target(name)))
    }

    fn pool(members: &[(&Arc<Target>, u32)]) -> Arc<Pool> {
        let members =
            members.iter().map(|(target, weight)| Member { target: (*target).clone(), weight: *weight });
        let eject = Eject { errors: 1, time: HumanDuration::seconds(60), most: 100 };
        Pool::new(members.collect(), Some(eject), Teller::default())
    }

    fn picked(pool: &Pool, count: usize) -> String {
        (0..count).map(|_| pool.pick(&[]).map_or("-", |t| &*t.name).to_string()).collect()
    }

    #[test]
    fn calls_are_spread_evenly_and_exactly_by_weight() {
        let (a, b, c) = (target("a"), target("b"), target("c"));
        assert_eq!(picked(&pool(&[(&a, 5), (&b, 1), (&c, 1)]), 14), "aabacaaaabacaa");
    }

    #[tokio::test]
    async fn what_is_not_usable_gets_calls_only_when_nothing_else_is() {
        let (a, b, c) = (target("a"), target("b"), target("c"));
        let pool = pool(&[(&a, 2), (&b, 1), (&c, 0)]);
        assert_eq!(picked(&pool, 6), "abaaba");
        assert_eq!(
            pool.pick(std::slice::from_ref(&a)).map(|t| &*t.name),
            Some("b"),
            "another one than before"
        );
        pool.answered(&a, false);
        assert_eq!(picked(&pool, 3), "bbb");
        b.candidate.checked(Err("down".into()), 1, 1);
        assert_eq!(picked(&pool, 3), "ccc", "the one of weight 0 stands by");
        c.candidate.checked(Err("down".into()), 1, 1);
        let mut all: Vec<char> = picked(&pool, 3).chars().collect();
        all.sort_unstable();
        assert_eq!(all, ['a', 'a', 'b'], "when none is usable, calls are tried by weight");
        // Errors never take out all.
        pool.answered(&b, false);
        pool.answered(&c, false);
        assert_eq!([&a, &b, &c].map(|t| t.candidate.is_out()), [true, true, false]);
    }

    #[test]
    fn a_target_that_stays_in_the_pool_is_not_retired() {
        let (a, b) = (target("a"), target("b"));
        let slot = Slot::new(Lead::To(pool(&[(&a, 1), (&b, 1)])));
        assert!(slot.switch(Lead::To(pool(&[(&a, 1), (&b, 3)]))).is_empty());
        let left = slot.switch(Lead::To(pool(&[(&b, 1)])));
        assert!(left.len() == 1 && Arc::ptr_eq(&left[0], &a) && a.retired.is_cancelled());
        assert!(!b.retired.is_cancelled());
    }

    #[tokio::test]
    async fn a_switch_waits_for_those_about_to_be_sent_and_only_so_long_for_those_on_the_way() {
        let slot = Slot::new(to("old"));
        let mut visit = slot.enter(&[]).unwrap();
        let old = slot.switch(to("new")).remove(0);
        assert!(old.retired.is_cancelled());
        assert_eq!(&*slot.enter(&[]).unwrap().target.name, "new");
        let waiting = tokio::spawn({
            let old = old.clone();
            async move { old.drained(Duration::from_millis(20)).await }
        });
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(!waiting.is_finished(), "somebody is about to be sent there");
        visit.sent();
        assert_eq!(waiting.await.unwrap(), 1);
        drop(visit);
        assert_eq!(old.drained(Duration::ZERO).await, 0);
    }

    #[test]
    fn nobody_enters_what_leads_nowhere() {
        let slot = Slot::new(Lead::Nowhere("unbound".into()));
        assert_eq!(&*slot.enter(&[]).unwrap_err(), "unbound");
    }

    #[test]
    fn after_a_switch_no_thread_is_about_to_be_sent_to_the_old_target_unseen() {
        let slot = Arc::new(Slot::new(to("0")));
        let stop = CancellationToken::new();
        let settled = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.is_cancelled() {
                        let before = settled.load(Ordering::SeqCst);
                        let visit = slot.enter(&[]).unwrap();
                        let at: usize = visit.target.name.parse().unwrap();
                        assert!(at >= before, "entered {at} after {before} was settled");
                    }
                });
            }
            for number in 1..2_000 {
                let old = slot.switch(to(&number.to_string())).remove(0);
                while old.entering.load(Ordering::SeqCst) > 0 {
                    std::hint::spin_loop();
                }
                settled.store(number, Ordering::SeqCst);
            }
            stop.cancel();
        });
    }
}
