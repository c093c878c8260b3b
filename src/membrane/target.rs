//! Where calls lead, and how that is changed while they flow: whoever was about to be sent to the old target is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Something that calls are sent to.
#[derive(Debug)]
pub(super) struct Target {
    /// The service, for people.
    pub(super) name: Arc<str>,
    /// `host:port`.
    pub(super) address: Arc<str>,
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
    pub(super) fn new(name: impl Into<Arc<str>>, address: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            address: address.into(),
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

/// Where calls lead at present.
#[derive(Debug, Clone)]
pub(super) enum Lead {
    /// To this target.
    To(Arc<Target>),
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

    /// Enters a call.
    ///
    /// # Errors
    /// Why calls lead nowhere.
    pub(super) fn enter(&self) -> Result<Visit, Arc<str>> {
        loop {
            let lead = self.0.load_full();
            let target = match &*lead {
                Lead::Nowhere(why) => return Err(why.clone()),
                Lead::To(target) => target.clone(),
            };
            let visit = Visit::new(target);
            // Either the one who switches sees this call in the count, or this call sees the switch: the fences stand in for a lock.
            fence(Ordering::SeqCst);
            if Arc::ptr_eq(&lead, &self.0.load_full()) {
                return Ok(visit);
            }
        }
    }

    /// Leads there from now on. Answers what it led to before, when that was a target.
    pub(super) fn switch(&self, lead: Lead) -> Option<Arc<Target>> {
        let before = self.0.swap(Arc::new(lead));
        fence(Ordering::SeqCst);
        match &*before {
            Lead::To(target) => {
                target.retired.cancel();
                Some(target.clone())
            }
            Lead::Nowhere(_) => None,
        }
    }
}

/// One call on its way to a target.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) target: Arc<Target>,
    entering: bool,
}

impl Visit {
    fn new(target: Arc<Target>) -> Self {
        target.entering.fetch_add(1, Ordering::SeqCst);
        target.in_flight.fetch_add(1, Ordering::SeqCst);
        Self { target, entering: true }
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

    #[tokio::test]
    async fn a_switch_waits_for_those_about_to_be_sent_and_only_so_long_for_those_on_the_way() {
        let slot = Slot::new(Lead::To(Target::new("old", "127.0.0.1:1")));
        let mut visit = slot.enter().unwrap();
        let old = slot.switch(Lead::To(Target::new("new", "127.0.0.1:2"))).unwrap();
        assert!(old.retired.is_cancelled());
        assert_eq!(&*slot.enter().unwrap().target.name, "new");
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
        assert_eq!(&*slot.enter().unwrap_err(), "unbound");
    }

    #[test]
    fn after_a_switch_no_thread_is_about_to_be_sent_to_the_old_target_unseen() {
        let slot = Arc::new(Slot::new(Lead::To(Target::new("0", "a"))));
        let stop = CancellationToken::new();
        let settled = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.is_cancelled() {
                        let before = settled.load(Ordering::SeqCst);
                        let visit = slot.enter().unwrap();
                        let at: usize = visit.target.name.parse().unwrap();
                        assert!(at >= before, "entered {at} after {before} was settled");
                    }
                });
            }
            for number in 1..2_000 {
                let old = slot.switch(Lead::To(Target::new(number.to_string(), "a"))).unwrap();
                while old.entering.load(Ordering::SeqCst) > 0 {
                    std::hint::spin_loop();
                }
                settled.store(number, Ordering::SeqCst);
            }
            stop.cancel();
        });
    }
}
