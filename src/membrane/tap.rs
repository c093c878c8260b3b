//! Sees certain calls pass: that they are over, and a copy of what they carried, when somebody wants it. What passes is never held up or changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::chunked::Chunked;

/// The most of a body that is copied, bytes; longer ones are not copied at all.
const LARGEST: usize = 64 * 1024;

/// How many calls wait to be looked at; of further ones it is only known that there were some.
const ROOM: usize = 64;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The client.
    Request,
    /// The service.
    Response,
}

/// Whether something is a call that matters, by its method and target.
pub(super) type Matches = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Which calls are seen, and what is copied of them.
pub(super) struct Rule {
    /// Whether a call by this method to this target is seen.
    pub(super) matches: Matches,
    /// Whose body is copied.
    pub(super) copies: Option<Side>,
}

/// What a call has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A call that matched this rule was answered with 2xx and carried this body; no other call was on its way at the same time, so it is the last word.
    Body(usize, Vec<u8>),
    /// Something may have changed.
    Perhaps,
}

/// The signs of one tap.
pub(super) struct Signs {
    receiver: mpsc::Receiver<Sign>,
    tap: Arc<Tap>,
}

impl Signs {
    /// The next sign.
    pub(super) async fn next(&mut self) -> Sign {
        let Some(sign) = self.receiver.recv().await else {
            // The tap holds the other end.
            return std::future::pending().await;
        };
        if self.tap.lost.swap(false, Ordering::SeqCst) {
            self.forget();
            return Sign::Perhaps;
        }
        sign
    }

    /// Forgets those that wait: who asks now knows as much.
    pub(super) fn forget(&mut self) {
        while self.receiver.try_recv().is_ok() {}
    }
}

/// Who looks on.
struct Tap {
    rules: Vec<Rule>,
    out: mpsc::Sender<Sign>,
    /// Whether more came than is remembered.
    lost: AtomicBool,
    /// How many calls that match are on their way, and whether any of them met another.
    flight: Mutex<(usize, bool)>,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").finish_non_exhaustive()
    }
}

impl Tap {
    fn tell(&self, sign: Sign) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.out.try_send(sign) {
            self.lost.store(true, Ordering::SeqCst);
        }
    }

    fn flight(&self) -> MutexGuard<'_, (usize, bool)> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All who look on at the calls to a service.
#[derive(Debug, Default)]
pub(super) struct Taps(ArcSwap<Vec<Arc<Tap>>>);

impl Taps {
    /// Looks on from now on, until the signs are dropped. Calls are told by the first rule that they match.
    pub(super) fn add(&self, rules: Vec<Rule>) -> Signs {
        let (out, receiver) = mpsc::channel(ROOM);
        let tap = Arc::new(Tap { rules, out, lost: AtomicBool::new(false), flight: Mutex::default() });
        self.0.rcu(|before| {
            let mut next: Vec<_> = before.iter().filter(|t| !t.out.is_closed()).cloned().collect();
            next.push(tap.clone());
            next
        });
        Signs { receiver, tap }
    }

    /// A call begins.
    pub(super) fn watch(&self, method: &str, target: &str) -> Watches {
        let taps = self.0.load();
        let watch = |tap: &Arc<Tap>| {
            let rule = tap.rules.iter().position(|r| (r.matches)(method, target))?;
            (!tap.out.is_closed()).then(|| Watch::new(tap.clone(), rule))
        };
        Watches(taps.iter().filter_map(watch).collect())
    }
}

/// All who look on at one call; mostly nobody.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watch>);

impl Watches {
    /// This head of an HTTP/1 message passes.
    pub(super) fn head(&self, side: Side, head: &[u8]) {
        if !self.0.is_empty() {
            let has = |name| field(head, name);
            let encoded = has("content-encoding").is_some_and(|v| !v.eq_ignore_ascii_case("identity"));
            let chunked = has("transfer-encoding").is_some();
            self.0.iter().for_each(|w| w.begin(side, encoded, chunked));
        }
    }

    /// These fields of an HTTP/2 message pass.
    pub(super) fn fields(&self, side: Side, fields: &hyper::HeaderMap) {
        let encoding = fields.get(hyper::header::CONTENT_ENCODING);
        let encoded = encoding.is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
        self.0.iter().for_each(|w| w.begin(side, encoded, false));
    }

    /// These bytes of a body pass, as they are on the wire.
    pub(super) fn body(&self, side: Side, bytes: &[u8]) {
        self.0.iter().for_each(|w| w.add(side, bytes));
    }

    /// The request has passed to its end.
    pub(super) fn uploaded(&self) {
        self.0.iter().for_each(|w| w.seen().uploaded = true);
    }

    /// The service answered with this status.
    pub(super) fn status(&self, status: u16) {
        self.0.iter().for_each(|w| w.seen().status = status);
    }

    /// The answer is complete.
    pub(super) fn answered(&self) {
        self.0.iter().for_each(|w| w.over(true));
    }
}

/// One who looks on at one call.
#[derive(Debug)]
struct Watch {
    tap: Arc<Tap>,
    rule: usize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Whether the service may have heard of the call.
    sent: bool,
    uploaded: bool,
    status: u16,
    over: bool,
    chunks: Option<Chunked>,
    /// What was copied; `None`, when nothing is to be, or it cannot be.
    copy: Option<Vec<u8>>,
}

impl Watch {
    fn new(tap: Arc<Tap>, rule: usize) -> Self {
        let mut flight = tap.flight();
        flight.0 += 1;
        flight.1 |= flight.0 > 1;
        drop(flight);
        Self { tap, rule, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copies(&self, side: Side) -> bool {
        self.tap.rules[self.rule].copies == Some(side)
    }

    fn begin(&self, side: Side, encoded: bool, chunked: bool) {
        let mut seen = self.seen();
        seen.sent = true;
        if self.copies(side) {
            seen.copy = (!encoded).then(Vec::new);
            seen.chunks = chunked.then(Chunked::new);
        }
    }

    fn add(&self, side: Side, bytes: &[u8]) {
        if !self.copies(side) {
            return;
        }
        let seen = &mut *self.seen();
        let Some(copy) = &mut seen.copy else { return };
        let fits = match &mut seen.chunks {
            None => {
                let fits = copy.len() + bytes.len() <= LARGEST;
                copy.extend_from_slice(if fits { bytes } else { &[] });
                fits
            }
            Some(chunks) => {
                let data = |data: &[u8]| {
                    if copy.len() + data.len() <= LARGEST + 1 {
                        copy.extend_from_slice(data);
                    } else {
                        copy.resize(LARGEST + 1, 0);
                    }
                };
                chunks.walk(bytes, data).is_ok() && copy.len() <= LARGEST
            }
        };
        if !fits {
            seen.copy = None;
        }
    }

    fn over(&self, answered: bool) {
        let mut seen = self.seen();
        if std::mem::replace(&mut seen.over, true) {
            return;
        }
        let alone = {
            let mut flight = self.tap.flight();
            let alone = !flight.1;
            flight.0 = flight.0.saturating_sub(1);
            flight.1 &= flight.0 > 0;
            alone
        };
        // Refused by the service, or never seen by it: nothing has changed.
        if !seen.sent || answered && seen.status / 100 == 4 {
            return;
        }
        // An answer may come before all of the request has passed.
        let whole = self.copies(Side::Response) || seen.uploaded;
        let good = answered && alone && whole && seen.status / 100 == 2;
        let copy = seen.copy.take();
        drop(seen);
        self.tap.tell(match copy.filter(|_| good) {
            Some(body) => Sign::Body(self.rule, body),
            None => Sign::Perhaps,
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over(false);
    }
}

/// The first field of this name in a head that was found to be well-formed.
fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = head.split(|b| *b == b'\n').skip(1);
    let found = lines.filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        line[..colon].eq_ignore_ascii_case(name.as_bytes()).then_some(&line[colon + 1..])
    });
    found.map(|value| std::str::from_utf8(value).unwrap_or("?").trim()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(copies: Option<Side>) -> Rule {
        Rule { matches: Box::new(|method, _| method == "PUT"), copies }
    }

    fn call(taps: &Taps, head: &[u8], bodies: &[&[u8]], status: u16) {
        let watches = taps.watch("PUT", "/a");
        watches.head(Side::Request, head);
        bodies.iter().for_each(|b| watches.body(Side::Request, b));
        watches.uploaded();
        watches.head(Side::Response, b"HTTP/1.1 200 OK\r\n\r\n");
        watches.body(Side::Response, b"not this");
        watches.status(status);
        watches.answered();
    }

    fn more(signs: &mut Signs) -> Option<Sign> {
        signs.receiver.try_recv().ok()
    }

    const PLAIN: &[u8] = b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n";

    #[test]
    fn the_body_of_a_call_that_succeeded_is_copied_without_its_chunks() {
        let taps = Taps::default();
        let mut signs = taps.add(vec![rule(Some(Side::Request))]);
        call(&taps, PLAIN, &[b"a", b"bc"], 200);
        assert_eq!(more(&mut signs), Some(Sign::Body(0, b"abc".to_vec())));
        let chunked = b"PUT /a HTTP/1.1\r\ntransfer-Encoding: chunked\r\n\r\n";
        call(&taps, chunked, &[b"2\r\na", b"b\r\n1;x\r\nc\r", b"\n0\r\nT: x\r\n\r\n"], 204);
        assert_eq!(more(&mut signs), Some(Sign::Body(0, b"abc".to_vec())));
        call(&taps, PLAIN, &[b"abc"], 409);
        assert_eq!(more(&mut signs), None, "the service refused");
        call(&taps, PLAIN, &[b"abc"], 500);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps), "nobody knows");
        drop(taps.watch("PUT", "/a"));
        drop(taps.watch("GET", "/a"));
        assert_eq!(more(&mut signs), None, "the service never heard of it");
    }

    #[test]
    fn what_cannot_be_read_or_is_too_long_is_not_copied() {
        let taps = Taps::default();
        let mut signs = taps.add(vec![rule(Some(Side::Request))]);
        let packed = b"PUT /a HTTP/1.1\r\nCONTENT-encoding: gzip\r\n\r\n";
        call(&taps, packed, &[b"abc"], 200);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps));
        let long = vec![b'x'; LARGEST];
        call(&taps, PLAIN, &[&long, b"x"], 200);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps));
        let chunked = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        call(&taps, chunked, &[b"fffff\r\n", &long, &long], 200);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps));
    }

    #[test]
    fn calls_at_the_same_time_are_no_last_word() {
        let taps = Taps::default();
        let mut signs = taps.add(vec![rule(Some(Side::Request))]);
        let other = taps.watch("PUT", "/a");
        other.head(Side::Request, PLAIN);
        call(&taps, PLAIN, &[b"1"], 200);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps));
        drop(other);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps), "it broke off, and may have reached the service");
        call(&taps, PLAIN, &[b"2"], 200);
        assert_eq!(more(&mut signs), Some(Sign::Body(0, b"2".to_vec())));
    }

    #[test]
    fn half_a_request_is_not_what_it_says() {
        let taps = Taps::default();
        let mut signs = taps.add(vec![rule(Some(Side::Request))]);
        let early = taps.watch("PUT", "/a");
        early.head(Side::Request, PLAIN);
        early.body(Side::Request, b"12");
        early.status(200);
        early.answered();
        assert_eq!(more(&mut signs), Some(Sign::Perhaps));
        early.body(Side::Request, b"3");
        early.uploaded();
        drop(early);
        assert_eq!(more(&mut signs), None, "it is told once");
    }

    #[tokio::test]
    async fn more_than_is_remembered_is_a_reason_to_ask() {
        let taps = Taps::default();
        let mut signs = taps.add(vec![rule(Some(Side::Request))]);
        for _ in 0..=ROOM {
            call(&taps, PLAIN, &[b"1"], 200);
        }
        assert_eq!(signs.next().await, Sign::Perhaps);
        assert_eq!(more(&mut signs), None, "asking tells more than what waited");
        call(&taps, PLAIN, &[b"2"], 200);
        assert_eq!(signs.next().await, Sign::Body(0, b"2".to_vec()));
    }

    #[test]
    fn nobody_looks_on_when_the_signs_are_dropped() {
        let taps = Taps::default();
        drop(taps.add(vec![rule(None)]));
        assert!(taps.watch("PUT", "/a").0.is_empty());
        let mut signs = taps.add(vec![rule(None)]);
        assert_eq!(taps.0.load().len(), 1);
        call(&taps, PLAIN, &[], 200);
        assert_eq!(more(&mut signs), Some(Sign::Perhaps));
    }
}
