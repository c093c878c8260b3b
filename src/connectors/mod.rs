//! Sensors and effectors, a file per protocol, and the registry that builds them from what policies say.
//!
//! Polled over HTTP: `http`, `prometheus`, `cloudwatch` (over `fetch`); what probes measure: `channel`; programs: `exec`, `nagios` (over `program`); listening on UDP: `udp`, `statsd`,
//! `collectd` (over `datagram`); whether something answers: `ping`; this machine: `host`, `process` (over `cached`); actions: `http`, `exec`, `mail`, `websocket`, `udp` and `tcp` (in `socket`), `sqlite`, `log` (over `fill`, which fills templates, and `check`, which asks after a crash).
//! `text` finds numbers in answers. What authors of connectors must and should do is in `docs/connectors.md`.

mod cached;
mod channel;
mod check;
mod cloudwatch;
mod collectd;
mod datagram;
mod exec;
mod fetch;
mod fill;
mod host;
mod http;
mod log;
mod mail;
mod nagios;
mod ping;
mod process;
mod program;
mod prometheus;
mod socket;
mod sqlite;
mod statsd;
mod text;
mod udp;
mod websocket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

pub(crate) use fetch::{client, secret_headers};
pub use prometheus::{Exposition, ExpositionError, Format, Point};

use crate::model::connector::{
    BuiltSensor, ConnectorError, Effector, EffectorSpec, PropertySensor, ProxySensor, SensorSpec,
};

/// Builds a sensor of a custom kind from the `config` of its policy.
pub type SensorFactory = dyn Fn(&serde_json::Value) -> Result<BuiltSensor, ConnectorError> + Send + Sync;

/// Builds an effector of a custom kind from the `config` of its policy.
pub type EffectorFactory =
    dyn Fn(&serde_json::Value) -> Result<Arc<dyn Effector>, ConnectorError> + Send + Sync;

/// Builds the `property` sensors of a service.
pub type PropertyFactory = dyn Fn(&str, &PropertySensor) -> Result<BuiltSensor, ConnectorError> + Send + Sync;

/// Builds the sensor of a service that measures the calls through its membrane; the first argument is the service.
pub type ProxyFactory = dyn Fn(&str, &ProxySensor) -> Result<BuiltSensor, ConnectorError> + Send + Sync;

/// The process group of the program that is run for a service, while it runs.
pub type Groups = dyn Fn(&str) -> Option<u32> + Send + Sync;

/// Every kind of sensor and effector there is, and what they share: one HTTP client, one socket per UDP address, one scrape per URL,
/// one look at the machine. Clones share all of it.
#[derive(Clone)]
pub struct Connectors {
    shared: Arc<Shared>,
}

struct Shared {
    client: Result<reqwest::Client, ConnectorError>,
    scrapes: prometheus::Scrapes,
    sockets: datagram::Sockets,
    host: Arc<host::Host>,
    processes: Arc<process::Processes>,
    proxy: RwLock<Option<Arc<ProxyFactory>>>,
    groups: RwLock<Option<Arc<Groups>>>,
    property: RwLock<Option<Arc<PropertyFactory>>>,
    sensors: RwLock<HashMap<String, Arc<SensorFactory>>>,
    effectors: RwLock<HashMap<String, Arc<EffectorFactory>>>,
    /// Whether sensors may wait for datagrams.
    datagrams: AtomicBool,
}

impl Default for Connectors {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Connectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connectors").finish_non_exhaustive()
    }
}

impl Connectors {
    /// The built-in kinds. Opens nothing yet; sensors and effectors need a tokio runtime only when they run.
    pub fn new() -> Self {
        Self::with(host::Host::default())
    }

    /// As [`Connectors::new`], where `host` sensors measure the machine whose `/proc` is mounted here (Linux): that of the host, for a program
    /// in a container. File systems remain those that this process sees.
    pub fn of_machine(proc: impl Into<std::path::PathBuf>) -> Self {
        Self::with(host::Host::at(proc.into()))
    }

    fn with(host: host::Host) -> Self {
        let connectors = Self {
            shared: Arc::new(Shared {
                client: fetch::client(),
                scrapes: prometheus::Scrapes::default(),
                sockets: datagram::Sockets::default(),
                host: Arc::new(host),
                processes: Arc::default(),
                proxy: RwLock::default(),
                groups: RwLock::default(),
                property: RwLock::default(),
                sensors: RwLock::default(),
                effectors: RwLock::default(),
                datagrams: AtomicBool::new(true),
            }),
        };
        channel::register(&connectors);
        cloudwatch::register(&connectors);
        connectors
    }

    /// Makes `custom: { kind: …, config: … }` sensors buildable; a later registration of the same kind replaces the earlier one
    /// for sensors built from then on.
    pub fn register_sensor(
        &self,
        kind: impl Into<String>,
        factory: impl Fn(&serde_json::Value) -> Result<BuiltSensor, ConnectorError> + Send + Sync + 'static,
    ) {
        let mut kinds = self.shared.sensors.write().unwrap_or_else(PoisonError::into_inner);
        kinds.insert(kind.into(), Arc::new(factory));
    }

    /// Makes `custom: { kind: …, config: … }` effectors buildable; a later registration of the same kind replaces the earlier one
    /// for effectors built from then on.
    pub fn register_effector(
        &self,
        kind: impl Into<String>,
        factory: impl Fn(&serde_json::Value) -> Result<Arc<dyn Effector>, ConnectorError> + Send + Sync + 'static,
    ) {
        let mut kinds = self.shared.effectors.write().unwrap_or_else(PoisonError::into_inner);
        kinds.insert(kind.into(), Arc::new(factory));
    }

    /// From now on no sensor that waits for datagrams (`udp`, `statsd`, `collectd`) is built: a micro-container was packed without.
    pub fn refuse_datagrams(&self) {
        self.shared.datagrams.store(false, Ordering::SeqCst);
    }

    /// Makes `proxy` sensors buildable; the membrane does this.
    pub fn register_proxy(
        &self,
        factory: impl Fn(&str, &ProxySensor) -> Result<BuiltSensor, ConnectorError> + Send + Sync + 'static,
    ) {
        *self.shared.proxy.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(factory));
    }

    /// Makes `process: { own: true }` sensors buildable; who runs the programs of services does this.
    pub fn register_groups(&self, groups: impl Fn(&str) -> Option<u32> + Send + Sync + 'static) {
        *self.shared.groups.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(groups));
    }

    /// Makes `property` sensors buildable; the membrane does this.
    pub fn register_property(
        &self,
        factory: impl Fn(&str, &PropertySensor) -> Result<BuiltSensor, ConnectorError> + Send + Sync + 'static,
    ) {
        *self.shared.property.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(factory));
    }

    /// Whether a sensor of this custom kind is registered.
    pub fn knows_sensor(&self, kind: &str) -> bool {
        self.shared.sensors.read().unwrap_or_else(PoisonError::into_inner).contains_key(kind)
    }

    /// Whether an effector of this custom kind is registered.
    pub fn knows_effector(&self, kind: &str) -> bool {
        self.shared.effectors.read().unwrap_or_else(PoisonError::into_inner).contains_key(kind)
    }

    /// Builds the sensor of `metric` of `service`. Opens no socket and starts no program: that happens when it first reads or listens.
    ///
    /// # Errors
    /// [`ConnectorError::Config`] with what [`SensorSpec::problem`] says, or for a custom kind that nobody registered, or whatever its
    /// factory says; always prefixed by the service and the metric.
    pub fn sensor(
        &self,
        service: &str,
        metric: &str,
        spec: &SensorSpec,
    ) -> Result<BuiltSensor, ConnectorError> {
        self.build_sensor(service, spec)
            .map_err(|error| located(error, &format!("sensor `{metric}` of `{service}`")))
    }

    /// Builds an effector of `service`. Opens nothing: that happens when it first performs.
    ///
    /// # Errors
    /// [`ConnectorError::Config`] with what [`EffectorSpec::problem`] says, or for a custom kind that nobody registered, or whatever its
    /// factory says; always prefixed by the service.
    pub fn effector(&self, service: &str, spec: &EffectorSpec) -> Result<Arc<dyn Effector>, ConnectorError> {
        self.build_effector(spec)
            .map_err(|error| located(error, &format!("{} effector of `{service}`", spec.protocol())))
    }

    fn build_sensor(&self, service: &str, spec: &SensorSpec) -> Result<BuiltSensor, ConnectorError> {
        if let Some(problem) = spec.problem() {
            return Err(ConnectorError::Config(problem));
        }
        let shared = &self.shared;
        if matches!(spec, SensorSpec::Udp(_) | SensorSpec::Statsd(_) | SensorSpec::Collectd(_))
            && !shared.datagrams.load(Ordering::SeqCst)
        {
            return Err(ConnectorError::Config("not packed: nothing listens for datagrams here".into()));
        }
        Ok(match spec {
            SensorSpec::Push(_) | SensorSpec::Collect(_) => BuiltSensor::Passive,
            SensorSpec::Host(s) => {
                BuiltSensor::Polled(Box::new(host::HostReader::new(s, shared.host.clone())))
            }
            SensorSpec::Process(s) => {
                let groups = shared.groups.read().unwrap_or_else(PoisonError::into_inner).clone();
                let service = service.to_string();
                let own: process::Own = Box::new(move || groups.as_ref().and_then(|groups| groups(&service)));
                BuiltSensor::Polled(Box::new(process::ProcessReader::new(s, shared.processes.clone(), own)))
            }
            SensorSpec::Http(s) => BuiltSensor::Polled(Box::new(http::HttpReader::new(s, self.client()?)?)),
            SensorSpec::Exec(s) => BuiltSensor::Polled(Box::new(exec::ExecReader::new(s))),
            SensorSpec::Nagios(s) => BuiltSensor::Polled(Box::new(nagios::NagiosReader::new(s))),
            SensorSpec::Ping(s) => BuiltSensor::Polled(Box::new(ping::Pinger::new(s))),
            SensorSpec::Prometheus(s) => {
                let every = spec.every().unwrap_or(crate::model::connector::DEFAULT_EVERY).0;
                let reader = prometheus::PrometheusReader::new(s, every, &shared.scrapes, self.client()?)?;
                BuiltSensor::Polled(Box::new(reader))
            }
            SensorSpec::Udp(s) => BuiltSensor::Listening(udp::listener(s, &shared.sockets)?),
            SensorSpec::Statsd(s) => BuiltSensor::Listening(statsd::listener(s, &shared.sockets)?),
            SensorSpec::Collectd(s) => BuiltSensor::Listening(collectd::listener(s, &shared.sockets)?),
            SensorSpec::Proxy(s) => {
                let factory = shared.proxy.read().unwrap_or_else(PoisonError::into_inner).clone();
                let factory =
                    factory.ok_or_else(|| ConnectorError::Config("there is no membrane here".into()))?;
                return factory(service, s);
            }
            SensorSpec::Property(s) => {
                let factory = shared.property.read().unwrap_or_else(PoisonError::into_inner).clone();
                let factory =
                    factory.ok_or_else(|| ConnectorError::Config("there is no membrane here".into()))?;
                return factory(service, s);
            }
            SensorSpec::Custom(c) => {
                let factory = find(&shared.sensors, &c.kind, "sensor")?;
                return factory(&c.config);
            }
        })
    }

    fn build_effector(&self, spec: &EffectorSpec) -> Result<Arc<dyn Effector>, ConnectorError> {
        if let Some(problem) = spec.problem() {
            return Err(ConnectorError::Config(problem));
        }
        Ok(match spec {
            EffectorSpec::Http(e) => Arc::new(http::HttpCaller::new(e, self.client()?)?),
            EffectorSpec::Exec(e) => Arc::new(exec::ExecCaller::new(e, self.client()?)?),
            EffectorSpec::Mail(e) => Arc::new(mail::Mailer::new(e)?),
            EffectorSpec::Websocket(e) => Arc::new(websocket::Sender::new(e)?),
            EffectorSpec::Udp(e) => Arc::new(socket::Datagrams::new(e)?),
            EffectorSpec::Tcp(e) => Arc::new(socket::Connections::new(e)?),
            EffectorSpec::Sqlite(e) => Arc::new(sqlite::Table::new(e)),
            EffectorSpec::Log(e) => Arc::new(log::Logger::new(e)?),
            EffectorSpec::Custom(c) => {
                let factory = find(&self.shared.effectors, &c.kind, "effector")?;
                return factory(&c.config);
            }
        })
    }

    fn client(&self) -> Result<reqwest::Client, ConnectorError> {
        self.shared.client.clone()
    }
}

/// The factory of a custom kind; the lock is not held while it runs.
fn find<F: ?Sized>(
    kinds: &RwLock<HashMap<String, Arc<F>>>,
    kind: &str,
    what: &str,
) -> Result<Arc<F>, ConnectorError> {
    let kinds = kinds.read().unwrap_or_else(PoisonError::into_inner);
    kinds.get(kind).cloned().ok_or_else(|| {
        let mut known: Vec<&str> = kinds.keys().map(String::as_str).collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none is".to_string() } else { format!("there are {}", known.join(", ")) };
        ConnectorError::Config(format!(
            "no custom {what} of kind `{kind}` is registered ({known}); the program that embeds homeostat registers them"
        ))
    })
}

fn located(error: ConnectorError, place: &str) -> ConnectorError {
    match error {
        ConnectorError::Config(text) => ConnectorError::Config(format!("{place}: {text}")),
        ConnectorError::Timeout(after) => ConnectorError::Timeout(after),
        ConnectorError::Unreachable(text) => ConnectorError::Unreachable(format!("{place}: {text}")),
        ConnectorError::Failed(text) => ConnectorError::Failed(format!("{place}: {text}")),
        ConnectorError::Answer(text) => ConnectorError::Answer(format!("{place}: {text}")),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "rates and the age of shared reads are differences of the machine's own clock"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
