//! The tasks of sensors: each reads or listens on its own, so that one that hangs delays nobody.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use super::clock::Clock;
use super::message::Letter;
use crate::connectors::Connectors;
use crate::model::connector::{
    BuiltSensor, ConnectorError, DEFAULT_EVERY, Listener, Sensor, SensorSpec, Sink,
};
use crate::model::{Measurement, Schedule, Timestamp};
use crate::monitor::SensorWanted;

/// How long a listener that broke off waits before it listens again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Takes a letter to a service.
pub type Deliver = Arc<dyn Fn(&str, Letter) + Send + Sync>;

/// One running sensor.
struct Running {
    spec: Arc<SensorSpec>,
    schedule: Option<Schedule>,
    regular: Arc<AtomicBool>,
    now: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The running sensors of one service, by metric.
type Sensors = HashMap<Arc<str>, Running>;

/// All running sensors, by service and metric.
pub struct Sensing {
    running: Mutex<HashMap<Arc<str>, Sensors>>,
    stopped: AtomicBool,
    runtime: tokio::runtime::Handle,
    clock: Clock,
}

impl Sensing {
    /// None yet.
    pub fn new(runtime: tokio::runtime::Handle, clock: Clock) -> Self {
        Self { running: Mutex::default(), stopped: AtomicBool::new(false), runtime, clock }
    }

    /// Lets exactly these sensors of a service run. Those that stay the same are not touched.
    pub fn set(
        &self,
        service: Arc<str>,
        wanted: Vec<SensorWanted>,
        connectors: &Connectors,
        deliver: Deliver,
    ) {
        if self.stopped.load(Ordering::SeqCst) {
            return;
        }
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = all.remove(&service).unwrap_or_default();
        let mut now = HashMap::new();
        // Pushed values and data come by themselves: there is nothing to run.
        let passive = |spec: &SensorSpec| matches!(spec, SensorSpec::Push(_) | SensorSpec::Collect(_));
        for sensor in wanted.into_iter().filter(|sensor| !passive(&sensor.spec)) {
            let running = match before.remove(&sensor.metric) {
                Some(running) if running.spec == sensor.spec && running.schedule == sensor.schedule => {
                    if running.regular.swap(sensor.regular, Ordering::SeqCst) != sensor.regular {
                        running.now.notify_one();
                    }
                    running
                }
                _ => match self.start(&service, &sensor, connectors, &deliver) {
                    Some(running) => running,
                    None => continue,
                },
            };
            now.insert(sensor.metric, running);
        }
        if !now.is_empty() {
            all.insert(service, now);
        }
    }

    /// Reads a sensor as soon as possible.
    pub fn read_now(&self, service: &str, metric: &Arc<str>, deliver: Deliver) {
        let all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(service).and_then(|sensors| sensors.get(metric)) {
            Some(running) if running.task.is_some() => running.now.notify_one(),
            _ => deliver(service, failed(metric, "the sensor does not run".into())),
        }
    }

    /// Stops all of them.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn start(
        &self,
        service: &Arc<str>,
        sensor: &SensorWanted,
        connectors: &Connectors,
        deliver: &Deliver,
    ) -> Option<Running> {
        let regular = Arc::new(AtomicBool::new(sensor.regular));
        let now = Arc::new(Notify::new());
        let post = Post {
            service: service.clone(),
            metric: sensor.metric.clone(),
            deliver: deliver.clone(),
            failing: Arc::default(),
        };
        let task = match connectors.sensor(service, &sensor.metric, &sensor.spec) {
            Ok(BuiltSensor::Passive) => None,
            Ok(BuiltSensor::Polled(built)) => {
                let poll = Poll {
                    sensor: built,
                    every: sensor.spec.every().unwrap_or(DEFAULT_EVERY).0,
                    spec: sensor.spec.clone(),
                    schedule: sensor.schedule.unwrap_or_default(),
                    clock: self.clock,
                    regular: regular.clone(),
                    now: now.clone(),
                };
                Some(self.runtime.spawn(poll.run(post)))
            }
            Ok(BuiltSensor::Listening(listener)) => Some(self.runtime.spawn(listen(listener, post))),
            Err(error) => {
                post.fail(&error);
                return None;
            }
        };
        Some(Running { spec: sensor.spec.clone(), schedule: sensor.schedule, regular, now, task })
    }
}

/// Where one sensor delivers.
#[derive(Clone)]
struct Post {
    service: Arc<str>,
    metric: Arc<str>,
    deliver: Deliver,
    /// Whether it could not measure when it was last heard of.
    failing: Arc<AtomicBool>,
}

impl Post {
    fn measured(&self, measurements: Vec<Measurement>) {
        // An empty delivery says that there is nothing new since the last.
        let nothing_new = measurements.is_empty();
        let values = measurements
            .into_iter()
            .filter(|m| m.value.is_finite())
            .map(|m| (m.output, m.label, m.value, m.at))
            .collect::<Vec<_>>();
        if values.is_empty() && !nothing_new {
            let why = "the sensor delivered no finite number".to_string();
            (self.deliver)(&self.service, failed(&self.metric, why));
        } else {
            if !nothing_new && self.failing.swap(false, Ordering::Relaxed) {
                tracing::info!(service = &*self.service, metric = &*self.metric, "the sensor measures again");
            }
            (self.deliver)(&self.service, Letter::Measured { metric: self.metric.clone(), values });
        }
    }

    fn fail(&self, error: &ConnectorError) {
        // The first of a row says it all.
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(service = &*self.service, metric = &*self.metric, %error, "a sensor failed");
        }
        self.tell(error);
    }

    fn tell(&self, error: &ConnectorError) {
        (self.deliver)(&self.service, failed(&self.metric, error.to_string()));
    }
}

impl Sink for Post {
    fn deliver(&self, measurements: Vec<Measurement>) {
        self.measured(measurements);
    }
    fn fail(&self, error: ConnectorError) {
        Self::fail(self, &error);
    }
}

fn failed(metric: &Arc<str>, why: String) -> Letter {
    Letter::SensorFailed { metric: metric.clone(), why }
}

/// A polled sensor at work.
struct Poll {
    sensor: Box<dyn Sensor>,
    every: Duration,
    spec: Arc<SensorSpec>,
    schedule: Schedule,
    clock: Clock,
    regular: Arc<AtomicBool>,
    now: Arc<Notify>,
}

/// When a sensor is due.
struct Pace {
    schedule: Schedule,
    clock: Clock,
    every: Duration,
    ticks: Interval,
    /// When it was last due, where the schedule has a start.
    last: Option<Timestamp>,
}

impl Pace {
    fn new(schedule: Schedule, clock: Clock, every: Duration) -> Self {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { schedule, clock, every, ticks, last: None }
    }

    /// Waits until the sensor is to be read regularly; for ever, when that is over.
    async fn due(&mut self) {
        if self.schedule.start.is_none() {
            self.ticks.tick().await;
            if !self.schedule.includes(self.clock.now()) {
                std::future::pending::<()>().await;
            }
            return;
        }
        let now = self.clock.now();
        let from = self.last.map_or(now, |last| Timestamp(last.0 + 1).max(now));
        match self.schedule.next(from, self.every) {
            None => std::future::pending().await,
            Some(at) => {
                tokio::time::sleep_until(self.clock.instant(at)).await;
                self.last = Some(at);
            }
        }
    }
}

impl Poll {
    async fn run(mut self, post: Post) {
        let mut pace = Pace::new(self.schedule, self.clock, self.every);
        loop {
            let asked = if self.regular.load(Ordering::SeqCst) {
                tokio::select! {
                    () = pace.due() => false,
                    () = self.now.notified() => true,
                }
            } else {
                self.now.notified().await;
                true
            };
            if asked && !self.schedule.includes(self.clock.now()) {
                post.tell(&ConnectorError::Config("the schedule of the monitor says not now".into()));
                continue;
            }
            let limit = self.spec.timeout();
            let reading = AssertUnwindSafe(self.sensor.read()).catch_unwind();
            let read = match tokio::time::timeout(limit.0, reading).await {
                Ok(Ok(read)) => read,
                Ok(Err(_)) => Err(panicked()),
                Err(_) => Err(ConnectorError::Timeout(limit)),
            };
            match read {
                Ok(measurements) => post.measured(measurements),
                Err(error) => post.fail(&error),
            }
        }
    }
}

fn panicked() -> ConnectorError {
    ConnectorError::Answer("the sensor panicked".into())
}

async fn listen(mut listener: Box<dyn Listener>, post: Post) {
    loop {
        let listening = AssertUnwindSafe(listener.listen(Arc::new(post.clone()))).catch_unwind();
        let ended = listening.await.unwrap_or_else(|_| Err(panicked()));
        if let Err(error) = &ended {
            post.fail(error);
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
