//! What is measured of every call: counts, bytes, calls in flight and response times, of a whole service and of each route.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::now;
use super::tap::{Side, Taps, Watches};

/// How many routes of one service are told apart; calls of further ones count as `other`.
pub const MAX_ROUTES: usize = 100;

/// The route of calls that match no pattern.
pub const OTHER: &str = "other";

/// Each power of two is divided into this many buckets, so that a time is known to 1/32 of itself.
const STEPS: u64 = 32;
const BUCKETS: usize = 1_024;

/// Why a call failed, or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The request could be read in two ways, or is no HTTP.
    Malformed,
    /// The header section is larger than allowed.
    TooLarge,
    /// The client did not send its header section in time.
    SlowClient,
    /// The client went away in the middle.
    ClientGone,
    /// The reference is bound to nothing.
    Unbound,
    /// The service does not accept connections.
    Unreachable,
    /// The service did not accept a connection in time.
    ConnectTimeout,
    /// The service did not begin to answer in time.
    ResponseTimeout,
    /// The service closed the connection before its answer was complete.
    BrokenOff,
    /// The service answered something that is no HTTP.
    Garbage,
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::TooLarge,
        Self::SlowClient,
        Self::ClientGone,
        Self::Unbound,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::ResponseTimeout,
        Self::BrokenOff,
        Self::Garbage,
    ];

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::SlowClient => "slow_client",
            Self::ClientGone => "client_gone",
            Self::Unbound => "unbound",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::ResponseTimeout => "response_timeout",
            Self::BrokenOff => "broken_off",
            Self::Garbage => "garbage",
        }
    }

    /// Whether the service is to blame, so that the call counts as an error of it.
    pub fn is_of_the_service(self) -> bool {
        !matches!(self, Self::Malformed | Self::TooLarge | Self::SlowClient | Self::ClientGone)
    }
}

/// What is known of the calls of a service, or of one of its routes.
#[derive(Debug)]
pub struct Gauge {
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicI64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    times: Box<[AtomicU64]>,
    listeners: ArcSwap<Vec<mpsc::Sender<Duration>>>,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            times: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            listeners: ArcSwap::default(),
        }
    }
}

impl Gauge {
    /// Calls so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Calls so far that were answered with 5xx, or that the service failed to answer.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Calls at this moment.
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.in_flight.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Bytes from clients so far.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes to clients so far.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// The response time that a share `q` (0 to 1) of all calls did not exceed (nearest rank, to 1/32 of itself); `None` before the first.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.times.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(upper(bucket)))
    }

    fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.times[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        for listener in self.listeners.load().iter() {
            // A full channel: more calls than are told one by one; the histogram has them all.
            let _ = listener.try_send(time);
        }
    }

    /// The response times of calls from now on, at most `room` waiting; more than that are left out.
    pub(super) fn listen(&self, room: usize) -> mpsc::Receiver<Duration> {
        let (sender, receiver) = mpsc::channel(room);
        self.listeners.rcu(|before| {
            let mut next: Vec<_> = before.iter().filter(|s| !s.is_closed()).cloned().collect();
            next.push(sender.clone());
            next
        });
        receiver
    }
}

/// The bucket of a time in microseconds.
fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2()) - 5;
    let index = (power + 1) * STEPS + (micros >> power) - STEPS;
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest time of a bucket, in microseconds.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let power = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << power) - 1
}

/// A method and a path with holes: `GET /items/{id}`, `/files/{rest*}`; without a method, any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    method: Option<String>,
    segments: Vec<Option<String>>,
    rest: bool,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let (method, path) = match text.trim().split_once(' ') {
            Some((method, path)) => (Some(method.to_string()), path.trim()),
            None => (None, text.trim()),
        };
        let mut segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let rest = segments.last().is_some_and(|s| s.starts_with('{') && s.ends_with("*}"));
        if rest {
            segments.pop();
        }
        let hole = |s: &str| s.starts_with('{') && s.ends_with('}');
        let segments = segments.into_iter().map(|s| (!hole(s)).then(|| s.to_string())).collect();
        Self { method, segments, rest }
    }

    pub(super) fn matches(&self, method: &str, target: &str) -> bool {
        if self.method.as_ref().is_some_and(|m| m != method) {
            return false;
        }
        let mut path = path_of(target).trim_start_matches('/').split('/');
        let fits = self.segments.iter().all(|segment| match (path.next(), segment) {
            (None, _) => false,
            (Some(part), None) => !part.is_empty(),
            (Some(part), Some(literal)) => part == literal,
        });
        fits && (self.rest || path.next().is_none())
    }
}

/// The path of a request target, in origin form or absolute form, without its query.
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    path.split(['?', '#']).next().unwrap_or_default()
}

#[derive(Debug, Clone)]
struct Route {
    text: Arc<str>,
    pattern: Pattern,
    gauge: Arc<Gauge>,
}

/// Everything that is measured of one service.
#[derive(Debug, Default)]
pub struct Meter {
    whole: Arc<Gauge>,
    other: Arc<Gauge>,
    routes: ArcSwap<Vec<Route>>,
    failures: Mutex<BTreeMap<FailureKind, u64>>,
    /// Who looks on at calls.
    pub(super) taps: Taps,
}

impl Meter {
    /// All calls.
    pub fn whole(&self) -> &Arc<Gauge> {
        &self.whole
    }

    /// The calls of a route such as `GET /items/{id}`; it is told apart from now on. With [`MAX_ROUTES`] there already, that is
    /// [`OTHER`].
    pub fn route(&self, text: &str) -> Arc<Gauge> {
        if text == OTHER {
            return self.other.clone();
        }
        self.routes.rcu(|before| {
            if before.len() >= MAX_ROUTES || before.iter().any(|r| &*r.text == text) {
                return before.clone();
            }
            let mut next = (**before).clone();
            next.push(Route { text: text.into(), pattern: Pattern::new(text), gauge: Arc::default() });
            Arc::new(next)
        });
        let found = self.routes.load().iter().find(|r| &*r.text == text).map(|r| r.gauge.clone());
        found.unwrap_or_else(|| self.other.clone())
    }

    /// How many calls failed in this way.
    pub fn failures(&self, kind: FailureKind) -> u64 {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(&kind).copied().unwrap_or(0)
    }

    /// Takes note of a failure that is no call: of a request that was never understood.
    pub(super) fn failed(&self, kind: FailureKind) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    /// A call begins.
    pub(super) fn begin(self: &Arc<Self>, method: &str, target: &str) -> Call {
        let routes = self.routes.load();
        let route = match routes.iter().find(|r| r.pattern.matches(method, target)) {
            Some(route) => Some(route.gauge.clone()),
            None => (!routes.is_empty()).then(|| self.other.clone()),
        };
        let call = Call {
            meter: self.clone(),
            route,
            start: now(),
            timed: AtomicBool::new(false),
            error: AtomicBool::new(false),
            watches: self.taps.watch(method, target),
        };
        call.each(|g| {
            g.in_flight.fetch_add(1, Ordering::Relaxed);
        });
        call
    }
}

/// One call; over when dropped.
#[derive(Debug)]
pub(super) struct Call {
    meter: Arc<Meter>,
    route: Option<Arc<Gauge>>,
    start: Instant,
    timed: AtomicBool,
    error: AtomicBool,
    watches: Watches,
}

impl Call {
    fn each(&self, mut change: impl FnMut(&Gauge)) {
        change(&self.meter.whole);
        if let Some(route) = &self.route {
            change(route);
        }
    }

    /// Bytes came from the client.
    pub(super) fn bytes_in(&self, count: usize) {
        self.each(|g| {
            g.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        });
    }

    /// Bytes went to the client.
    pub(super) fn bytes_out(&self, count: usize) {
        self.each(|g| {
            g.bytes_out.fetch_add(count as u64, Ordering::Relaxed);
        });
    }

    /// The response time is known.
    pub(super) fn answered(&self) {
        if !self.timed.swap(true, Ordering::Relaxed) {
            let time = self.start.elapsed();
            self.each(|g| g.took(time));
            self.watches.answered();
        }
    }

    /// This head of an HTTP/1 message is about to be forwarded.
    pub(super) fn head(&self, side: Side, head: &[u8]) {
        self.watches.head(side, head);
    }

    /// These fields of an HTTP/2 message are about to be forwarded.
    pub(super) fn fields(&self, side: Side, fields: &hyper::HeaderMap) {
        self.watches.fields(side, fields);
    }

    /// These bytes of a body are about to be forwarded.
    pub(super) fn body(&self, side: Side, bytes: &[u8]) {
        self.watches.body(side, bytes);
    }

    /// The request has been forwarded to its end.
    pub(super) fn uploaded(&self) {
        self.watches.uploaded();
    }

    /// The service answered with this status.
    pub(super) fn status(&self, status: u16) {
        self.watches.status(status);
        self.error.fetch_or(status >= 500, Ordering::Relaxed);
    }

    /// Whether the service answered with an error so far, or failed to answer.
    pub(super) fn is_error(&self) -> bool {
        self.error.load(Ordering::Relaxed)
    }

    /// It failed.
    pub(super) fn failed(&self, kind: FailureKind) {
        self.meter.failed(kind);
        self.error.fetch_or(kind.is_of_the_service(), Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let error = u64::from(self.error.load(Ordering::Relaxed));
        self.each(|g| {
            g.in_flight.fetch_sub(1, Ordering::Relaxed);
            g.requests.fetch_add(1, Ordering::Relaxed);
            g.errors.fetch_add(error, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_known_to_a_thirty_second_of_itself(micros in 0_u64..1 << 36) {
            let upper = upper(bucket(micros));
            prop_assert!(upper >= micros && upper - micros <= micros / STEPS, "{micros} {upper}");
        }
    }

    #[test]
    fn quantiles_are_nearest_rank() {
        let gauge = Gauge::default();
        assert_eq!(gauge.quantile(0.5), None);
        (1..=10).for_each(|ms| gauge.took(Duration::from_micros(ms)));
        assert_eq!(gauge.quantile(0.5), Some(Duration::from_micros(5)));
        assert_eq!(gauge.quantile(1.0), Some(Duration::from_micros(10)));
    }

    #[test]
    fn a_route_is_a_method_and_a_path_with_holes() {
        let matches =
            |pattern: &str, method: &str, target: &str| Pattern::new(pattern).matches(method, target);
        assert!(matches("GET /items/{id}", "GET", "/items/7?x=/y"));
        assert!(!matches("GET /items/{id}", "POST", "/items/7"));
        assert!(!matches("GET /items/{id}", "GET", "/items/"));
        assert!(!matches("GET /items/{id}", "GET", "/items/7/parts"));
        assert!(matches("/files/{path*}", "PUT", "/files/a/b/c"));
        assert!(matches("GET /", "GET", "http://h:1/?q"));
    }

    #[test]
    fn calls_count_as_a_whole_and_by_route_and_unknown_routes_are_bounded() {
        let meter = Arc::new(Meter::default());
        let items = meter.route("GET /items/{id}");
        for (target, status) in [("/items/1", 200), ("/items/2", 503), ("/else", 200)] {
            let call = meter.begin("GET", target);
            assert_eq!(meter.whole().in_flight(), 1);
            call.status(status);
            call.answered();
        }
        assert_eq!((meter.whole().requests(), meter.whole().errors(), meter.whole().in_flight()), (3, 1, 0));
        assert_eq!((items.requests(), items.errors()), (2, 1));
        assert_eq!(meter.route(OTHER).requests(), 1);
        (0..MAX_ROUTES).for_each(|n| drop(meter.route(&format!("/{n}"))));
        assert!(Arc::ptr_eq(&meter.route("/one-more"), &meter.route(OTHER)));
    }
}
