//! The edge: how a value is read (sensors) and how an action is carried out (effectors).
//! Here are the descriptions that policies contain and the traits that connectors implement; the connectors are in `crate::connectors`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, HumanDuration, Measurement, Selector};

/// How often a polled sensor is read when its policy does not say.
pub const DEFAULT_EVERY: HumanDuration = HumanDuration::seconds(5);

/// How long one read or one call may take when its policy does not say.
pub const DEFAULT_TIMEOUT: HumanDuration = HumanDuration::seconds(5);

/// How a metric is read. Externally tagged: `{ http: { url: … } }`; `push` alone is a pushed metric.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = allow_push)]
pub enum SensorSpec {
    /// Values are pushed over HTTP, by an action or by the embedding program.
    Push(PushSensor),
    /// This machine: CPU, memory, disks, network, pressure.
    Host(HostSensor),
    /// Processes of this machine.
    Process(ProcessSensor),
    /// A number inside the JSON (or text) that an HTTP GET answers.
    Http(HttpSensor),
    /// What a program prints: a number, or JSON with a pointer.
    Exec(ExecSensor),
    /// A Nagios plug-in: perfdata becomes the metric, the exit code `<name>_state` (0 ok, 1 warning, 2 critical, 3 unknown).
    Nagios(NagiosSensor),
    /// Whether something can be reached: 1 or 0, and `<name>_delay`, the time that it took (seconds).
    Ping(PingSensor),
    /// A series of a Prometheus or OpenMetrics exposition.
    Prometheus(PrometheusSensor),
    /// Lines of text in UDP datagrams: a number, or `name value`.
    Udp(UdpSensor),
    /// A StatsD metric.
    Statsd(StatsdSensor),
    /// A value of Collectd, in its binary network protocol.
    Collectd(CollectdSensor),
    /// The calls that pass through the membrane of the service; needs `listen` and `endpoint`.
    Proxy(ProxySensor),
    /// A property of the service, as its `manage` section declares it.
    Property(PropertySensor),
    /// Data about many resources, which collectors or other services send while somebody needs them.
    Collect(CollectSensor),
    /// A sensor that the embedding Rust program registered under this kind.
    Custom(CustomConnector),
}

/// Data about many resources. It has no value of its own: metrics `of` it aggregate its data, by resource or over all.
///
/// Whoever can measure asks what is needed: while a metric of it is, collectors are told to send data with these parameters, and otherwise
/// they are not (R2-33, R2-34).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectSensor {
    /// The metric as collectors call it; the sensor's own name, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The resources of the model: those that any of these selects. None given: every resource, known or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Selector>,
    /// What collectors are told besides (`samplingTime: "10"`); which there are, they say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A pushed metric.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushSensor {
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; never, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// One quantity of this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSensor {
    /// Which quantity.
    pub what: HostQuantity,
    /// Which disk (mount point), network interface or core; absent: the whole machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One value per core, disk or interface, as a family `<metric>[<name>]`; the metric itself is the whole machine.
    #[serde(default)]
    pub each: bool,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// The quantities of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostQuantity {
    /// CPU in use, percent of the whole machine, 0 to 100.
    Cpu,
    /// Number of logical CPUs.
    Cores,
    /// Load average of one minute.
    Load1,
    /// Load average of five minutes.
    Load5,
    /// Load average of fifteen minutes.
    Load15,
    /// Physical memory, bytes.
    MemoryTotal,
    /// Memory available to programs without swapping, bytes.
    MemoryAvailable,
    /// Memory in use, bytes: total minus available.
    MemoryUsed,
    /// Memory in use, ratio 0 to 1.
    MemoryUsedRatio,
    /// Swap, bytes.
    SwapTotal,
    /// Swap in use, bytes.
    SwapUsed,
    /// Size of a file system, bytes; without a name, the sum over all real disks.
    DiskTotal,
    /// Space available on a file system, bytes.
    DiskAvailable,
    /// Space in use, ratio 0 to 1; without a name, the fullest disk.
    DiskUsedRatio,
    /// Bytes read from disks per second.
    DiskRead,
    /// Bytes written to disks per second.
    DiskWritten,
    /// Bytes received per second on network interfaces.
    NetReceived,
    /// Bytes sent per second on network interfaces.
    NetSent,
    /// Pressure stall: share of time some task waited for CPU, 0 to 1 over 10 s (PSI).
    PressureCpu,
    /// Pressure stall: share of time some task waited for memory, 0 to 1 over 10 s (PSI).
    PressureMemory,
    /// Pressure stall: share of time some task waited for I/O, 0 to 1 over 10 s (PSI).
    PressureIo,
    /// Open file handles of the machine.
    OpenFiles,
    /// Number of processes.
    Processes,
    /// Seconds since boot.
    Uptime,
}

/// Processes of this machine: one by name or pid, or the largest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessSensor {
    /// Which quantity; with several processes, their sum.
    pub what: ProcessQuantity,
    /// Processes whose name is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The process with this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program that homeostat runs for this service (`process:`), with everything in its process group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// Without `name` and `pid`: this many with the largest values, as a family `<metric>[<name>(<pid>)]`; the metric itself is the largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// The quantities of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessQuantity {
    /// CPU in use, percent of the whole machine, 0 to 100.
    Cpu,
    /// Resident memory, bytes.
    Rss,
    /// Threads.
    Threads,
    /// Open file descriptors.
    Descriptors,
    /// How many processes there are.
    Count,
}

/// A number in an HTTP answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSensor {
    /// Where. `http://…`; `https://…` with the `tls` feature.
    pub url: String,
    /// A JSON pointer (RFC 6901) to a number (or a number as text, or a boolean); absent: the whole body is a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Headers; `${NAME}` is taken from the environment and `${file:PATH}` from a file, so that secrets stay out of policies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// How long one read may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// What a program prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSensor {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// A JSON pointer (RFC 6901) into what it prints; absent: the first line is a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// How long one run may take; then it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// A Nagios plug-in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NagiosSensor {
    /// The plug-in and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// The label of the perfdata value; absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perfdata: Option<String>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// How long one run may take; then it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// Whether something can be reached. Exactly one of `tcp` and `udp` is given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PingSensor {
    /// `HOST:PORT` that must accept a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// `HOST:PORT` that must send a datagram back as it was (RFC 862, the echo protocol).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<String>,
    /// udp: the size of the datagram, bytes, 8 to 65,507; 32, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u16>,
    /// The delay beyond which it counts as not reached; 1 s, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<HumanDuration>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

impl PingSensor {
    /// The delay beyond which it counts as not reached.
    pub fn max_delay(&self) -> std::time::Duration {
        self.max_delay.map_or(std::time::Duration::from_secs(1), |delay| delay.0)
    }
}

/// A series of an exposition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrometheusSensor {
    /// Where the exposition is. Sensors with the same URL share one scrape.
    pub url: String,
    /// The series: a name, or a name with labels such as `http_requests_total{code="200"}`. All that match are summed.
    pub series: String,
    /// One value per value of this label, as a family `<metric>[<value>]`; the metric itself is the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// How long one scrape may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// Text in datagrams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UdpSensor {
    /// Where to listen: `127.0.0.1:9125`. Sensors with the same address share one socket.
    pub listen: String,
    /// Take lines `<key> <number>` with this key; absent: lines that are a number, or end in one (`Data: 397.5`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; never, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// A StatsD metric: counters become their running total, gauges their value, timers each value in seconds, sets their size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatsdSensor {
    /// Where to listen: `127.0.0.1:8125`. Sensors with the same address share one socket.
    pub listen: String,
    /// The name of the metric in the datagrams.
    pub key: String,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; never, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

/// A value of Collectd: counters and derives are totals, absolute values become their running total, gauges are as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectdSensor {
    /// Where to listen: `0.0.0.0:25826`. Sensors with the same address share one socket.
    pub listen: String,
    /// `PLUGIN[-INSTANCE]/TYPE[-INSTANCE]` (`cpu-0/cpu-idle`, `load/load`), of every host; or of one, with `HOST/` before it.
    pub key: String,
    /// Which of the values of the type, from 0: `load` has three, of 1, 5 and 15 minutes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: u8,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The age at which a value becomes stale; never, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

fn is_zero(index: &u8) -> bool {
    *index == 0
}

/// One quantity of the calls that pass through the membrane. The quantity alone stands for `{ what: … }`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(transform = allow_quantity)]
pub struct ProxySensor {
    /// Which quantity.
    pub what: ProxyQuantity,
    /// Only calls of this route: a method and a path with holes (`GET /items/{id}`, `/files/{rest*}`), or `other` for those that match
    /// no route of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only calls through the local port of this reference, instead of those to the service; needed for `healthy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// How often; `response_time` comes with the calls instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every` when absent, and for `response_time` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

impl<'de> Deserialize<'de> for ProxySensor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            what: ProxyQuantity,
            #[serde(default)]
            route: Option<String>,
            #[serde(default)]
            reference: Option<String>,
            #[serde(default)]
            every: Option<HumanDuration>,
            #[serde(default)]
            stale_after: Option<HumanDuration>,
        }
        struct Shape;
        impl<'de> serde::de::Visitor<'de> for Shape {
            type Value = ProxySensor;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a quantity such as `response_time`, or a mapping with `what`")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<ProxySensor, E> {
                let what = ProxyQuantity::deserialize(serde::de::value::StrDeserializer::new(word))?;
                Ok(ProxySensor { what, route: None, reference: None, every: None, stale_after: None })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<ProxySensor, A::Error> {
                let Whole { what, route, reference, every, stale_after } =
                    Whole::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(ProxySensor { what, route, reference, every, stale_after })
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

/// A property of the service: a number, or 1 for `true` and 0 for `false`. Its name alone stands for `{ name: … }`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(transform = allow_name)]
pub struct PropertySensor {
    /// Its name.
    pub name: String,
    /// How often it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl<'de> Deserialize<'de> for PropertySensor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            name: String,
            #[serde(default)]
            every: Option<HumanDuration>,
            #[serde(default)]
            stale_after: Option<HumanDuration>,
            #[serde(default)]
            unit: Option<String>,
        }
        struct Shape;
        impl<'de> serde::de::Visitor<'de> for Shape {
            type Value = PropertySensor;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a property, or a mapping with `name`")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<PropertySensor, E> {
                Ok(PropertySensor { name: name.into(), every: None, stale_after: None, unit: None })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<PropertySensor, A::Error> {
                let Whole { name, every, stale_after, unit } =
                    Whole::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(PropertySensor { name, every, stale_after, unit })
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

/// The quantities of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyQuantity {
    /// Calls so far.
    Requests,
    /// Calls per second since the last look.
    Rate,
    /// Calls so far that were answered with 5xx, or not at all.
    Errors,
    /// Requests so far that failed or were refused, whoever is to blame; a family `<metric>[<kind>]` of those that there were.
    Failures,
    /// Calls at this moment.
    InFlight,
    /// How many candidates of a reference are able to work: pass their checks, and are not out for their errors; a family
    /// `<metric>[<service>]` of 1 and 0.
    Healthy,
    /// Bytes from clients so far.
    BytesIn,
    /// Bytes to clients so far.
    BytesOut,
    /// The time of each call in seconds, from the end of its header section to the last byte of its answer; to the header section of the
    /// answer for streams of events and upgrades, to its first byte for plain TCP. One value a call, up to 1,000 a second.
    ResponseTime,
}

/// The kind of `custom` sensors whose collector a probe runs: `{ url, collector, output, channel, every }`. Built in.
pub const PROBE: &str = "occi-probe";

/// The kind of `custom` sensors that read the newest data point of a cloud provider: `{ url, statistic }`. Built in.
pub const CLOUDWATCH: &str = "cloudwatch";

/// A connector of the embedding program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomConnector {
    /// The kind that it was registered under.
    pub kind: String,
    /// Whatever it wants to know.
    #[serde(default)]
    pub config: serde_json::Value,
    /// For polled sensors: how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The age at which a value becomes stale; three times `every`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<HumanDuration>,
}

impl SensorSpec {
    /// The word that tags it in a policy.
    pub fn protocol(&self) -> &str {
        match self {
            Self::Push(_) => "push",
            Self::Host(_) => "host",
            Self::Process(_) => "process",
            Self::Http(_) => "http",
            Self::Exec(_) => "exec",
            Self::Nagios(_) => "nagios",
            Self::Ping(_) => "ping",
            Self::Prometheus(_) => "prometheus",
            Self::Udp(_) => "udp",
            Self::Statsd(_) => "statsd",
            Self::Collectd(_) => "collectd",
            Self::Proxy(_) => "proxy",
            Self::Property(_) => "property",
            Self::Collect(_) => "collect",
            Self::Custom(c) => &c.kind,
        }
    }

    /// How often it is polled; `None` for sensors that listen.
    pub fn every(&self) -> Option<HumanDuration> {
        let every = match self {
            Self::Push(_) | Self::Udp(_) | Self::Statsd(_) | Self::Collectd(_) | Self::Collect(_) => {
                return None;
            }
            Self::Proxy(s) if s.what == ProxyQuantity::ResponseTime => return None,
            Self::Proxy(s) => s.every,
            Self::Property(s) => s.every,
            Self::Custom(s) => return s.every,
            Self::Host(s) => s.every,
            Self::Process(s) => s.every,
            Self::Http(s) => s.every,
            Self::Exec(s) => s.every,
            Self::Nagios(s) => s.every,
            Self::Ping(s) => s.every,
            Self::Prometheus(s) => s.every,
        };
        Some(every.unwrap_or(DEFAULT_EVERY))
    }

    /// How long one read may take.
    pub fn timeout(&self) -> HumanDuration {
        match self {
            Self::Http(s) => s.timeout,
            Self::Exec(s) => s.timeout,
            Self::Nagios(s) => s.timeout,
            // It ends by itself; the rest is for finding the address.
            Self::Ping(s) => Some(HumanDuration(s.max_delay().saturating_add(DEFAULT_TIMEOUT.0))),
            Self::Prometheus(s) => s.timeout,
            _ => None,
        }
        .unwrap_or(DEFAULT_TIMEOUT)
    }

    /// The age at which its values become stale: as written, or three times `every`; `None` is never.
    pub fn stale_after(&self) -> Option<HumanDuration> {
        let written = match self {
            Self::Push(s) => s.stale_after,
            Self::Host(s) => s.stale_after,
            Self::Process(s) => s.stale_after,
            Self::Http(s) => s.stale_after,
            Self::Exec(s) => s.stale_after,
            Self::Nagios(s) => s.stale_after,
            Self::Ping(s) => s.stale_after,
            Self::Prometheus(s) => s.stale_after,
            Self::Udp(s) => s.stale_after,
            Self::Statsd(s) => s.stale_after,
            Self::Collectd(s) => s.stale_after,
            Self::Proxy(s) => s.stale_after,
            Self::Property(s) => s.stale_after,
            Self::Collect(_) => None,
            Self::Custom(s) => s.stale_after,
        };
        written.or_else(|| self.every().map(|e| HumanDuration(e.0.saturating_mul(3))))
    }

    /// The unit of its values, for people.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Push(s) => s.unit.as_deref(),
            Self::Property(s) => s.unit.as_deref(),
            Self::Collect(s) => s.unit.as_deref(),
            Self::Http(s) => s.unit.as_deref(),
            Self::Exec(s) => s.unit.as_deref(),
            Self::Prometheus(s) => s.unit.as_deref(),
            Self::Udp(s) => s.unit.as_deref(),
            Self::Statsd(s) => s.unit.as_deref(),
            Self::Collectd(s) => s.unit.as_deref(),
            Self::Host(s) => s.what.unit(),
            Self::Process(s) => match s.what {
                ProcessQuantity::Cpu => Some("%"),
                ProcessQuantity::Rss => Some("B"),
                _ => None,
            },
            Self::Proxy(s) => match s.what {
                ProxyQuantity::ResponseTime => Some("s"),
                ProxyQuantity::Rate => Some("1/s"),
                ProxyQuantity::BytesIn | ProxyQuantity::BytesOut => Some("B"),
                _ => None,
            },
            Self::Nagios(_) | Self::Ping(_) | Self::Custom(_) => None,
        }
    }

    /// The names of its fixed outputs besides the headline: `state` stands for the metric `<name>_state`.
    pub fn outputs(&self) -> &'static [&'static str] {
        match self {
            Self::Nagios(_) => &["state"],
            Self::Ping(_) => &["delay"],
            _ => &[],
        }
    }
}

impl HostQuantity {
    /// The unit of its values.
    pub fn unit(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("%"),
            Self::MemoryTotal
            | Self::MemoryAvailable
            | Self::MemoryUsed
            | Self::SwapTotal
            | Self::SwapUsed
            | Self::DiskTotal
            | Self::DiskAvailable => Some("B"),
            Self::DiskRead | Self::DiskWritten | Self::NetReceived | Self::NetSent => Some("B/s"),
            Self::Uptime => Some("s"),
            _ => None,
        }
    }
}

/// How an action is carried out. Externally tagged: `{ http: { … } }`; `log` alone writes a log line.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = allow_log)]
pub enum EffectorSpec {
    /// An HTTP request. `{name}` in `url`, `body` and header values stands for an argument of the action, `{service}` for the service.
    Http(HttpEffector),
    /// A program; `{name}` in an argument stands for an argument of the action.
    Exec(ExecEffector),
    /// A mail.
    Mail(MailEffector),
    /// Messages over a WebSocket.
    Websocket(WebSocketEffector),
    /// A datagram.
    Udp(SocketEffector),
    /// A text over a TCP connection of its own.
    Tcp(SocketEffector),
    /// A row in a table of SQLite.
    Sqlite(SqliteEffector),
    /// A line in the log.
    Log(LogEffector),
    /// An effector that the embedding Rust program registered under this kind.
    Custom(CustomConnector),
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpEffector {
    /// The method; POST when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Where.
    pub url: String,
    /// What; absent: no body for GET and DELETE, the arguments as JSON otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Headers, with `${NAME}` from the environment and `${file:PATH}` from a file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// How to see, after a crash in the middle, whether the action took place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<EffectCheck>,
}

/// A program as effector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecEffector {
    /// The program and its arguments; no shell is involved. Success is exit status 0.
    pub command: Vec<String>,
    /// How long it may take; then it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// How to see, after a crash in the middle, whether the action took place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<EffectCheck>,
}

/// A mail, handed to an SMTP server (RFC 5321).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailEffector {
    /// `smtp://HOST:PORT` (port 25, when absent); with the feature `tls` also `smtps://HOST` (465) and `smtp+starttls://HOST` (587).
    pub server: String,
    /// Who logs in there; nobody, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With `user`: `${NAME}` from the environment or `${file:PATH}` from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The sender: `homeostat <homeostat@example.org>`.
    pub from: String,
    /// The receivers.
    pub to: Vec<String>,
    /// The subject, with `{name}` for arguments; absent: the service and the action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The text, with `{name}` for arguments; absent: the action as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
}

/// Messages over a WebSocket (RFC 6455), each action over a connection of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocketEffector {
    /// Where: `ws://HOST:PORT/PATH`.
    pub url: String,
    /// The texts, one message each, in order, with `{name}` for arguments.
    pub send: Vec<String>,
    /// Of a publisher: all values over one connection, which is made again when it breaks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
}

/// A text that is sent to an address: one datagram, or one connection that is closed then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SocketEffector {
    /// Where: `127.0.0.1:8888`, `[::1]:8888`, `host:8888`.
    pub address: String,
    /// What, with `{name}` for arguments.
    pub text: String,
    /// Of a publisher over TCP: all values over one connection, which is made again when it breaks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
}

/// A row in a table of a SQLite database, which is made when it is not there: `time`, `service`, `name` (of the action or publisher), `metric`,
/// `value`, `arguments` (as JSON).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteEffector {
    /// The file of the database.
    pub path: String,
    /// The table: letters, digits and `_`; `measurements`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

/// A line in the log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogEffector {
    /// The text, with `{name}` for arguments; absent: the action as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A question to the target's real state: a GET or a program that answers with a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EffectCheck {
    /// A GET to this address (templates as in the effector).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A JSON pointer (RFC 6901) into the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Or this program, which exits with 0 when the action took place and 1 when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// What the answer must equal (a template); absent: the action's `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
}

impl EffectorSpec {
    /// The word that tags it in a policy.
    pub fn protocol(&self) -> &str {
        match self {
            Self::Http(_) => "http",
            Self::Exec(_) => "exec",
            Self::Mail(_) => "mail",
            Self::Websocket(_) => "websocket",
            Self::Udp(_) => "udp",
            Self::Tcp(_) => "tcp",
            Self::Sqlite(_) => "sqlite",
            Self::Log(_) => "log",
            Self::Custom(c) => &c.kind,
        }
    }

    /// How long one call may take.
    pub fn timeout(&self) -> HumanDuration {
        match self {
            Self::Http(e) => e.timeout,
            Self::Exec(e) => e.timeout,
            Self::Mail(e) => e.timeout,
            Self::Websocket(e) => e.timeout,
            Self::Udp(e) | Self::Tcp(e) => e.timeout,
            _ => None,
        }
        .unwrap_or(DEFAULT_TIMEOUT)
    }
}

/// The deserialiser of an externally tagged enum in which one word alone, or the word without a value, stands for a default.
/// Written by hand, because derived ones refuse the word alone, and because their errors cannot say what is expected.
macro_rules! tagged {
    ($type:ident, $expecting:literal, $bare:literal => $bare_variant:ident($bare_type:ident),
     $($tag:literal => $variant:ident),+ $(,)?) => {
        impl $type {
            /// The words that say which one it is.
            pub const KINDS: &'static [&'static str] = &[$bare, $($tag),+];
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                const TAGS: &[&str] = $type::KINDS;
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: Error>(self, word: &str) -> Result<$type, E> {
                        match word {
                            $bare => Ok($type::$bare_variant($bare_type::default())),
                            _ if TAGS.contains(&word) => Err(E::custom(format!(
                                "`{word}` needs to be told more; expected a mapping such as `{{ {word}: {{ … }} }}`"
                            ))),
                            _ => Err(E::unknown_variant(word, TAGS)),
                        }
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                        let Some(tag) = map.next_key::<Tag>()? else {
                            return Err(A::Error::custom(concat!("the mapping is empty; expected ", $expecting)));
                        };
                        let spec = match tag.0 {
                            $bare => $type::$bare_variant(map.next_value::<Option<$bare_type>>()?.unwrap_or_default()),
                            $($tag => $type::$variant(map.next_value()?),)+
                            _ => return Err(A::Error::unknown_variant(tag.0, TAGS)),
                        };
                        match map.next_key::<String>()? {
                            None => Ok(spec),
                            Some(second) => Err(A::Error::custom(format!(
                                "there are two kinds, `{}` and `{second}`; expected one", tag.0
                            ))),
                        }
                    }
                }
                /// One of the words, read as a key so that an unknown one is an error at the key.
                struct Tag(&'static str);
                impl<'de> Deserialize<'de> for Tag {
                    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                        let word = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                        TAGS.iter()
                            .find(|tag| **tag == word)
                            .map(|tag| Self(tag))
                            .ok_or_else(|| D::Error::unknown_variant(&word, TAGS))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

tagged!(SensorSpec, "a sensor such as `push` or `{ http: { url: … } }`", "push" => Push(PushSensor),
    "host" => Host, "process" => Process, "http" => Http, "exec" => Exec, "nagios" => Nagios, "ping" => Ping,
    "prometheus" => Prometheus, "udp" => Udp, "statsd" => Statsd, "collectd" => Collectd, "proxy" => Proxy, "property" => Property, "collect" => Collect, "custom" => Custom);

tagged!(EffectorSpec, "an effector such as `log` or `{ http: { url: … } }`", "log" => Log(LogEffector),
    "http" => Http, "exec" => Exec, "mail" => Mail, "websocket" => Websocket, "udp" => Udp, "tcp" => Tcp, "sqlite" => Sqlite, "custom" => Custom);

/// Adds the word alone to the schema.
fn allow_word(schema: &mut schemars::Schema, word: &str) {
    if let Some(serde_json::Value::Array(kinds)) = schema.get_mut("oneOf") {
        kinds.insert(0, serde_json::json!({ "type": "string", "const": word }));
    }
}

fn allow_push(schema: &mut schemars::Schema) {
    allow_word(schema, "push");
}

/// The mapping, or the quantity alone.
fn allow_quantity(schema: &mut schemars::Schema) {
    let mapping = std::mem::take(schema);
    let quantity = serde_json::json!({ "$ref": "#/$defs/ProxyQuantity" });
    *schema = schemars::json_schema!({ "anyOf": [quantity, mapping] });
}

fn allow_name(schema: &mut schemars::Schema) {
    let mapping = std::mem::take(schema);
    *schema = schemars::json_schema!({ "anyOf": [{ "type": "string" }, mapping] });
}

fn allow_log(schema: &mut schemars::Schema) {
    allow_word(schema, "log");
}

/// Why a sensor or effector failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// What the policy says cannot be built (a malformed URL, an unknown kind). No retry helps.
    #[error("{0}")]
    Config(String),
    /// The other side did not answer in time. A retry may help.
    #[error("no answer within {0}")]
    Timeout(HumanDuration),
    /// The other side cannot be reached or broke off. A retry may help.
    #[error("{0}")]
    Unreachable(String),
    /// The other side answered that it failed at it. A few retries may help.
    #[error("{0}")]
    Failed(String),
    /// The other side answered, and not what was asked for. For what is sent, no retry helps.
    #[error("{0}")]
    Answer(String),
}

/// A polled sensor: one call, one read. Dropping the future must abandon the read.
///
/// # Errors
/// Whatever went wrong, as a sentence that names what, where and what would be right.
#[async_trait]
pub trait Sensor: Send {
    /// Reads once. The caller enforces the timeout.
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError>;
}

/// Where a listening sensor delivers.
pub trait Sink: Send + Sync {
    /// Hands over measurements. Never blocks; counts what it must refuse.
    fn deliver(&self, measurements: Vec<Measurement>);
    /// Says that the sensor cannot measure at present.
    fn fail(&self, error: ConnectorError);
}

/// A sensor that waits for values to come. Dropping the future must close what it opened.
#[async_trait]
pub trait Listener: Send {
    /// Runs until dropped, or until nothing can come any more.
    async fn listen(&mut self, sink: Arc<dyn Sink>) -> Result<(), ConnectorError>;
}

/// A sensor, ready to run.
pub enum BuiltSensor {
    /// To be read every so often.
    Polled(Box<dyn Sensor>),
    /// To be run.
    Listening(Box<dyn Listener>),
    /// Values come by themselves (push).
    Passive,
}

/// What an effector is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The service whose executor it is.
    pub service: String,
    /// The action.
    pub action: Action,
    /// The number of the decision and of the step in it, for logs and idempotency keys: `A/17/0`.
    pub key: String,
}

/// Whether an action took place, as far as can be seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TookPlace {
    /// It did.
    Yes,
    /// It did not.
    No,
    /// It cannot be seen.
    Unknown,
}

/// Carries out one kind of action.
#[async_trait]
pub trait Effector: Send + Sync {
    /// Does it; answers with what the other side said, shortened. The caller enforces the timeout.
    ///
    /// # Errors
    /// Whatever went wrong, as a sentence that names what, where and what would be right.
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError>;

    /// After a crash in the middle: did it take place?
    ///
    /// # Errors
    /// When the question itself fails.
    async fn took_place(&self, _command: &Command) -> Result<TookPlace, ConnectorError> {
        Ok(TookPlace::Unknown)
    }
}
