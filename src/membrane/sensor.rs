//! The sensors of the membrane: what policies call `proxy`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::gate::Trouble;
use super::meter::{FailureKind, Gauge, Meter};
use super::now;
use crate::model::Measurement;
use crate::model::calls::CandidateStatus;
use crate::model::connector::{
    BuiltSensor, ConnectorError, Listener, ProxyQuantity, ProxySensor, Sensor, Sink,
};

/// Response times are handed over this often.
const TOGETHER: Duration = Duration::from_millis(20);

/// How many at once: the first ones of each moment, so that a flood of calls costs no more than this.
const AT_ONCE: usize = 20;

/// How often a listening sensor looks whether its port is still open.
const LOOK: Duration = Duration::from_secs(1);

/// A rate over less than this says nothing.
const SHORTEST: Duration = Duration::from_millis(10);

/// Why a service has no calls at present, if there is a reason.
pub(super) type Reason = Arc<dyn Fn() -> Option<Trouble> + Send + Sync>;

/// How the candidates of the reference stand that is looked at.
pub(super) type Candidates = Arc<dyn Fn() -> Option<Vec<CandidateStatus>> + Send + Sync>;

/// Builds the sensor that `spec` describes.
pub(super) fn sensor(
    spec: &ProxySensor,
    meter: Arc<Meter>,
    reason: Reason,
    candidates: Candidates,
) -> BuiltSensor {
    let gauge = match &spec.route {
        Some(route) => meter.route(route),
        None => meter.whole().clone(),
    };
    match spec.what {
        ProxyQuantity::ResponseTime => {
            BuiltSensor::Listening(Box::new(Times { times: gauge.listen(AT_ONCE), reason }))
        }
        what => {
            let last = (now(), gauge.requests());
            BuiltSensor::Polled(Box::new(Count { what, meter, gauge, reason, candidates, last }))
        }
    }
}

fn unreachable(trouble: Trouble) -> ConnectorError {
    ConnectorError::Unreachable(trouble.0.to_string())
}

struct Count {
    what: ProxyQuantity,
    meter: Arc<Meter>,
    gauge: Arc<Gauge>,
    reason: Reason,
    candidates: Candidates,
    last: (Instant, u64),
}

#[async_trait]
impl Sensor for Count {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        if let Some(trouble) = (self.reason)() {
            return Err(unreachable(trouble));
        }
        let value = match self.what {
            ProxyQuantity::Requests => self.gauge.requests() as f64,
            ProxyQuantity::Errors => self.gauge.errors() as f64,
            ProxyQuantity::Failures => return Ok(failures(&self.meter)),
            ProxyQuantity::InFlight => self.gauge.in_flight() as f64,
            ProxyQuantity::BytesIn => self.gauge.bytes_in() as f64,
            ProxyQuantity::BytesOut => self.gauge.bytes_out() as f64,
            ProxyQuantity::Rate => match self.rate() {
                Some(rate) => rate,
                None => return Ok(Vec::new()),
            },
            ProxyQuantity::Healthy => return self.healthy(),
            ProxyQuantity::ResponseTime => return Ok(Vec::new()),
        };
        Ok(vec![Measurement::value(value)])
    }
}

/// All of them, and those of each kind that there were.
fn failures(meter: &Meter) -> Vec<Measurement> {
    let kinds = FailureKind::ALL.map(|kind| (kind, meter.failures(kind)));
    let total: u64 = kinds.iter().map(|(_, count)| count).sum();
    let known = kinds.iter().filter(|(_, count)| *count > 0);
    let family = known.map(|(kind, count)| Measurement {
        label: Some(kind.name().into()),
        ..Measurement::value(*count as f64)
    });
    std::iter::once(Measurement::value(total as f64)).chain(family).collect()
}

impl Count {
    /// How many candidates are able to work, and for each whether it is.
    fn healthy(&self) -> Result<Vec<Measurement>, ConnectorError> {
        let candidates = (self.candidates)();
        let candidates = candidates
            .ok_or_else(|| ConnectorError::Unreachable("the port of the reference is not open".into()))?;
        let usable = |candidate: &CandidateStatus| f64::from(u8::from(candidate.standing.usable()));
        let total = candidates.iter().map(usable).sum();
        let family = candidates.iter().map(|candidate| Measurement {
            label: Some(candidate.service.as_str().into()),
            ..Measurement::value(usable(candidate))
        });
        Ok(std::iter::once(Measurement::value(total)).chain(family).collect())
    }

    fn rate(&mut self) -> Option<f64> {
        let (at, requests) = (now(), self.gauge.requests());
        let passed = at.saturating_duration_since(self.last.0);
        if passed < SHORTEST {
            return None;
        }
        let rate = requests.saturating_sub(self.last.1) as f64 / passed.as_secs_f64();
        self.last = (at, requests);
        Some(rate)
    }
}

/// Response times from when the sensor is built: a call that is over before anybody listens is told to whoever listens first.
struct Times {
    times: mpsc::Receiver<Duration>,
    reason: Reason,
}

#[async_trait]
impl Listener for Times {
    async fn listen(&mut self, sink: Arc<dyn Sink>) -> Result<(), ConnectorError> {
        let Self { times, reason } = self;
        let mut look = tokio::time::interval(LOOK);
        let mut troubled = false;
        loop {
            tokio::select! {
                first = times.recv() => {
                    let Some(first) = first else { return Ok(()) };
                    troubled = false;
                    tokio::time::sleep(TOGETHER).await;
                    sink.deliver(together(first, times));
                }
                _ = look.tick() => match reason() {
                    Some(trouble) if !troubled => {
                        troubled = true;
                        sink.fail(unreachable(trouble));
                    }
                    Some(_) => {}
                    None => troubled = false,
                },
            }
        }
    }
}

fn together(first: Duration, times: &mut mpsc::Receiver<Duration>) -> Vec<Measurement> {
    let mut all = vec![Measurement::value(first.as_secs_f64())];
    while let Ok(time) = times.try_recv() {
        all.push(Measurement::value(time.as_secs_f64()));
    }
    all
}
