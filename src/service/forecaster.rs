//! Forecasts as data: whoever collects `Forecast_X` makes the forecaster collect `X`, and gets a forecast at new data of it, at most one a second
//! for each resource; `ForecastError_X` is how much more was foretold than came. (R2-07)

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::collection::{Collection, Want};
use super::shell::Shell;
use crate::knowledge::forecast::{STEP, Series};
use crate::model::connector::CollectSensor;
use crate::model::{Datum, PortError, Timestamp};

/// What the metrics are called, …
const FORECAST: &str = "Forecast_";
/// … and what their errors are.
const ERROR: &str = "ForecastError_";
/// The parameter that says how far ahead, in seconds.
const PARAMETER: &str = "step";
/// Who collects; no service can be called so.
const NAME: &str = "(forecasts)";
/// How often there is a forecast at most, for each resource.
const PAUSE: Duration = Duration::from_secs(1);
/// How many batches may wait to be looked at.
const ROOM: usize = 1_024;
/// The most pairs of metric and resource.
const MAX_SERIES: usize = 10_000;
/// The longest step, a year, in seconds.
const LONGEST: f64 = 366.0 * 86_400.0;

/// What is foretold of one metric.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    step: Duration,
    forecast: Arc<str>,
    error: Arc<str>,
}

type Targets = BTreeMap<Arc<str>, Target>;
type Batch = (Arc<str>, Arc<[Datum]>);
type Key = (Arc<str>, Arc<str>);

/// The metric that a forecast, or the error of one, is of.
fn foretold(metric: &str) -> Option<&str> {
    let of = metric.strip_prefix(FORECAST).or_else(|| metric.strip_prefix(ERROR))?;
    (!of.is_empty()).then_some(of)
}

/// What is to be foretold for these needs, and what is needed for that. Of several steps for one metric the shortest holds.
fn derive(wants: &[Want]) -> (Targets, Vec<Want>) {
    let mut targets = Targets::new();
    let mut needs = Vec::new();
    for want in wants.iter().filter(|want| &*want.service != NAME) {
        let Some(metric) = foretold(&want.metric).map(Arc::<str>::from) else { continue };
        let seconds = want.spec.parameters.get(PARAMETER).and_then(|text| text.trim().parse::<f64>().ok());
        let seconds = seconds.filter(|seconds| *seconds > 0.0).map(|s| s.clamp(0.01, LONGEST));
        let step = seconds.map_or(STEP, Duration::from_secs_f64);
        let target = targets.entry(metric.clone()).or_insert_with(|| Target {
            step,
            forecast: format!("{FORECAST}{metric}").into(),
            error: format!("{ERROR}{metric}").into(),
        });
        target.step = target.step.min(step);
        let mut parameters = want.spec.parameters.clone();
        parameters.remove(PARAMETER);
        let spec = CollectSensor {
            metric: Some(metric.to_string()),
            from: want.spec.from.clone(),
            parameters,
            unit: None,
        };
        let need = Want { service: NAME.into(), sensor: metric.clone(), metric, spec };
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    (targets, needs)
}

/// Runs until it is dropped. Must be called within a tokio runtime.
#[derive(Debug)]
pub struct Forecaster {
    _following: AbortOnDropHandle<()>,
    _working: AbortOnDropHandle<()>,
}

impl Forecaster {
    /// Foretells what the services of this shell collect as `Forecast_…`.
    pub fn start(shell: &Shell) -> Self {
        let targets = Arc::new(RwLock::new(Arc::new(Targets::new())));
        let (put, batches) = mpsc::channel(ROOM);
        let behind = Arc::new(AtomicBool::new(false));
        let listener = |targets: &Arc<RwLock<Arc<Targets>>>| {
            let (targets, put, behind) = (targets.clone(), put.clone(), behind.clone());
            Box::new(move |metric: &Arc<str>, data: &Arc<[Datum]>| {
                if read(&targets).contains_key(metric)
                    && put.try_send((metric.clone(), data.clone())).is_err()
                {
                    behind.store(true, Ordering::Relaxed);
                }
            })
        };
        shell.collection().observe(listener(&targets));
        shell.collection().overhear(listener(&targets));
        let following = follow(shell.clone(), targets.clone());
        let work =
            Work { shell: shell.clone(), targets, series: HashMap::new(), waiting: VecDeque::new(), behind };
        Self {
            _following: AbortOnDropHandle::new(tokio::spawn(following)),
            _working: AbortOnDropHandle::new(tokio::spawn(work.run(batches))),
        }
    }
}

fn read(targets: &RwLock<Arc<Targets>>) -> Arc<Targets> {
    targets.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Follows what is needed.
async fn follow(shell: Shell, targets: Arc<RwLock<Arc<Targets>>>) {
    let collection: &Collection = shell.collection();
    let mut changes = collection.changes();
    loop {
        changes.borrow_and_update();
        let (now, needs) = derive(&collection.wanted());
        *targets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        collection.set(&NAME.into(), needs);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The past of one metric of one resource.
struct Known {
    series: Series,
    step: Duration,
    /// When it was foretold last.
    last: Option<Timestamp>,
    /// Whether it waits to be.
    waits: bool,
}

struct Work {
    shell: Shell,
    targets: Arc<RwLock<Arc<Targets>>>,
    series: HashMap<Key, Known>,
    waiting: VecDeque<Key>,
    behind: Arc<AtomicBool>,
}

impl Work {
    async fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        // On the clock.
        let mut rested = Duration::ZERO;
        loop {
            let rest = rested.saturating_sub(self.shell.clock().running());
            let pause = self.pause().map(|pause| pause.max(rest));
            let due = async {
                match pause {
                    Some(Duration::ZERO) => {}
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let went = tokio::select! {
                batch = batches.recv() => match batch {
                    Some((metric, data)) => self.take(&metric, &data).await,
                    None => return,
                },
                () = due => {
                    let before = self.shell.clock().running();
                    let went = self.foretell().await;
                    // Half a core at most: with more resources than that allows, forecasts become rarer.
                    let after = self.shell.clock().running();
                    rested = after + after.saturating_sub(before);
                    went
                }
            };
            if went.is_err() {
                return;
            }
        }
    }

    /// How long until the next may be foretold.
    fn pause(&self) -> Option<Duration> {
        let known = self.series.get(self.waiting.front()?);
        let since = known.and_then(|known| known.last).map(|last| self.shell.clock().now().since(last));
        Some(since.map_or(Duration::ZERO, |since| PAUSE.saturating_sub(since)))
    }

    async fn take(&mut self, metric: &Arc<str>, data: &[Datum]) -> Result<(), PortError> {
        if self.behind.swap(false, Ordering::Relaxed) {
            tracing::warn!("data came faster than they could be looked at for forecasts; some were left out");
        }
        let targets = read(&self.targets);
        let Some(target) = targets.get(metric) else { return Ok(()) };
        let now = self.shell.clock().now();
        let mut errors = Vec::new();
        for datum in data.iter().filter(|datum| datum.value.is_finite()) {
            let key = (metric.clone(), datum.resource.clone());
            if self.series.len() >= MAX_SERIES
                && !self.series.contains_key(&key)
                && !self.make_room(&targets, now)
            {
                tracing::warn!(
                    resource = &*datum.resource,
                    "no forecasts of this: there are {MAX_SERIES} others"
                );
                continue;
            }
            let anew =
                || Known { series: Series::new(target.step), step: target.step, last: None, waits: false };
            let known = self.series.entry(key.clone()).or_insert_with(anew);
            if known.step != target.step {
                *known = Known { waits: known.waits, ..anew() };
            }
            if let Some(value) = known.series.take(datum.at, datum.value) {
                errors.push(Datum { resource: datum.resource.clone(), value, at: now });
            }
            if !std::mem::replace(&mut known.waits, true) {
                self.waiting.push_back(key);
            }
        }
        self.shell.collect(target.error.clone(), errors.into()).await.map(drop)
    }

    /// Forgets what nobody needs, and what nothing was heard of for long.
    fn make_room(&mut self, targets: &Targets, now: Timestamp) -> bool {
        self.series.retain(|(metric, _), known| {
            let heard = known.series.newest().is_some_and(|at| now.since(at) <= 4 * known.step);
            targets.contains_key(metric) && heard
        });
        self.waiting.retain(|key| self.series.contains_key(key));
        self.series.len() < MAX_SERIES
    }

    /// Foretells what has waited longest.
    async fn foretell(&mut self) -> Result<(), PortError> {
        let Some(key) = self.waiting.pop_front() else { return Ok(()) };
        let Some(known) = self.series.get_mut(&key) else { return Ok(()) };
        known.waits = false;
        known.last = Some(self.shell.clock().now());
        let targets = read(&self.targets);
        let Some(target) = targets.get(&key.0) else {
            self.series.remove(&key);
            return Ok(());
        };
        let Some(grid) = known.series.grid() else { return Ok(()) };
        let made = tokio::task::spawn_blocking(move || grid.forecast()).await.ok().flatten();
        let Some((due, value)) = made else { return Ok(()) };
        if let Some(known) = self.series.get_mut(&key) {
            known.series.note(due, value);
        }
        let datum = Datum { resource: key.1, value, at: self.shell.clock().now() };
        self.shell.collect(target.forecast.clone(), Arc::new([datum])).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(service: &str, metric: &str, step: Option<&str>) -> Want {
        let step = step.map(|step| (PARAMETER.to_string(), step.to_string()));
        let sampling = ("samplingTime".to_string(), "10".to_string());
        let parameters = step.into_iter().chain([sampling]).collect();
        let spec = CollectSensor { parameters, ..CollectSensor::default() };
        Want { service: service.into(), sensor: metric.into(), metric: metric.into(), spec }
    }

    /// Requirement: R2-07
    #[test]
    fn who_wants_a_forecast_makes_the_forecaster_want_the_metric() {
        let (targets, needs) = derive(&[
            want("a", "Forecast_CPU", Some("60")),
            want("b", "ForecastError_CPU", None),
            want("c", "Forecast_RAM", Some("nonsense")),
            want("d", "Forecast_", None),
            want("e", "CPU", None),
            want(NAME, "Forecast_CPU", None),
        ]);
        let steps: Vec<_> = targets.iter().map(|(metric, t)| (&**metric, t.step.as_secs())).collect();
        assert_eq!(steps, [("CPU", 60), ("RAM", 600)], "the shortest of several; 600 s, when nobody says");
        let metrics: Vec<_> = needs.iter().map(|need| &*need.metric).collect();
        assert_eq!(metrics, ["CPU", "RAM"], "once, although two want it");
        let parameters: Vec<_> = needs[0].spec.parameters.keys().collect();
        assert_eq!(parameters, ["samplingTime"], "what is not for the forecaster is for the collectors");
    }
}
