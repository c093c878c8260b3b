//! Policy documents: the shapes that files contain, one `service:` or `resource:` per YAML document.
//! Unknown fields are errors; nothing is flattened, so that every error keeps its position.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::calls::{EjectSpec, HealthSpec, LimitsSpec, ReplaceSpec};
use crate::model::connector::{EffectorSpec, SensorSpec};
use crate::model::endpoint::LiveSpec;
use crate::model::manage::ManageSpec;
use crate::model::module::PackSpec;
use crate::model::plan::OnFailure;
use crate::model::process::ProcessSpec;
use crate::model::{Action, Aggregate, AlarmKind, HumanDuration, Mode, Schedule, Selector, Severity};

/// One managed service, in the order of its loop. The presence of a section is the presence of the component.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceDocument {
    /// The name of the service.
    pub service: String,
    /// Its class in the resource model (`VM`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its type in the resource model (`Frontend`, …).
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Relations to other resources, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relations: BTreeMap<String, OneOrMany>,
    /// What it offers, by names that its users know (`pay`): a reference with this `capability` may lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// Where it listens: `http://HOST:PORT`, `tcp://HOST:PORT`, or `HOST:PORT`, which is HTTP (1.0, 1.1, or 2 by prior knowledge; no TLS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where homeostat stands in front of it, so that `proxy` sensors see its calls: `127.0.0.1:8080`. Needs `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// The service listens at `listen` itself and runs already: homeostat stands in front of it there, and leaves again, without dropping a connection. Linux only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveSpec>,
    /// What homeostat allows in front of it. Needs `listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// The program that homeostat runs for it: started, kept running, ended. `start`, `stop` and `restart` then need no effector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessSpec>,
    /// What of it can be looked at, set, invoked and subscribed to from outside, on a listener of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manage: Option<ManageSpec>,
    /// What other programs keep with it, by name (`tower.rule`); without meaning to the loop.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What `homeostat pack` makes of it; without meaning when it is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<PackSpec>,
    /// What it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, ReferenceDocument>,
    /// M: what is measured, and what is computed from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorDocument>,
    /// A: the objectives, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analyze: Option<BTreeMap<String, SloDocument>>,
    /// P: which strategy answers which alarm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<PlanDocument>>,
    /// E: how actions are carried out, by the name of the action. Actions on bindings, SLOs, metrics and knowledge need no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute: Option<BTreeMap<String, EffectorSpec>>,
}

/// A service document as it is kept beside what runs, for changes by hand, records and differences: as JSON text, which takes a tenth of
/// the memory of the maps that it is parsed into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedDocument(Arc<str>);

impl PackedDocument {
    /// Packs a document.
    pub fn new(document: &ServiceDocument) -> Self {
        Self(serde_json::to_string(document).unwrap_or_default().into())
    }

    /// The document.
    ///
    /// # Errors
    /// When it held something that JSON has no word for, such as an infinite number; no retry mends that.
    pub fn open(&self) -> Result<ServiceDocument, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// Its text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// Something in the model that has no loop of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceDocument {
    /// Its name.
    pub resource: String,
    /// Its class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Relations to other resources, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relations: BTreeMap<String, OneOrMany>,
}

/// One name or a list of names.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceDocument {
    /// The service that it is bound to at first; absent: unbound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The services that it may be bound to besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    /// What is needed (`pay`): all services that say they provide it are candidates besides, as they come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Those services, filled in when all documents are known; whatever a file says here is overwritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub found: Vec<String>,
    /// The local port through which the service reaches it: `127.0.0.1:7101`. Calls there go to what the reference is bound to, which needs an
    /// `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// How many of the calls each candidate gets, in proportion, while the reference is bound to `service`: `{ pay-gold: 9, pay-basic: 1 }`.
    /// 0: only when no other is able to work. What `bind` and `replace` bind gets all calls alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
    /// How often a call of an idempotent method (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) that did not reach the service, or had no body and was
    /// not answered, is sent again, to another candidate if there is one; none when absent, at most 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// What is allowed to calls through the local port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// How it is found out whether candidates are able to work; those that are not get no calls while another is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// When a candidate that answers with errors is taken out for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject: Option<EjectSpec>,
    /// What `replace` and `bind` do with the programs that homeostat runs for the candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<ReplaceSpec>,
}

impl ReferenceDocument {
    /// Every service that it may be bound to, the declared one first; one may be named more than once.
    pub fn services(&self) -> impl Iterator<Item = &String> + Clone {
        self.service.iter().chain(&self.candidates).chain(&self.found)
    }
}

/// M.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MonitorDocument {
    /// What is measured, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sensors: BTreeMap<String, SensorSpec>,
    /// What is computed, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, MetricDocument>,
    /// How many past readings of each metric are kept for `history`; none when absent (R3-37).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<usize>,
    /// When its sensors are read: those with `every` from `start` to `stop`, on whole periods after `start`. Always, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Which values go out as they come, by the name of the publisher.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub publish: BTreeMap<String, PublishDocument>,
}

/// Values of a metric go out as they come, in order; nothing is decided about them. What cannot be delivered is tried again for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishDocument {
    /// An own metric.
    pub metric: String,
    /// By what; its templates have `{value}`, `{single}` (the value as a 32-bit float), `{word}`, `{metric}`, `{time}` (RFC 3339), `{seconds}`,
    /// `{ms}`, `{ns}` (since 1970), `{service}`, `{publisher}`.
    pub to: EffectorSpec,
    /// At most this often; every value, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// Only values that differ from the one before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changes: bool,
    /// What the values 0, 1, 2, … are called as `{word}`: `[green, yellow, red]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
}

/// A computed metric. A string is an expression, a number a constant, a mapping a [`ComputedMetric`].
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum MetricDocument {
    /// Always this value.
    Constant(f64),
    /// An expression over own metrics (`own_cost`) and those of references (`payment.cost`).
    Expression(String),
    /// A window, a group, or an expression with a unit.
    Computed(Box<ComputedMetric>),
}

/// A window over one metric, a group over several services, or an expression with a unit. Exactly one of `expr` and `of` is given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComputedMetric {
    /// An expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expr: Option<String>,
    /// The metric whose samples are aggregated: `latency`, `payment.cost`, or with `from` the metric of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// How; needed with `of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// The sliding window; without one, a group aggregates the newest value of each member, and `ewma`, `last` and `age` need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<HumanDuration>,
    /// Compute this often instead of at every sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<HumanDuration>,
    /// The members of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Selector>,
    /// One value per target of this relation (`cloudProvider`), per `class`, `type` or `id`, as a family `<metric>[<target>]`. Of a `collect`
    /// sensor: per resource of this class that the model leads to (`CloudProvider`), however far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Of a `collect` sensor: an expression instead of an aggregate, over aggregates (`sum / count`; `p99` and the like) or, as `value`, over
    /// each datum (`value * 8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Of a `collect` sensor: only results for which this holds: `value > 0.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub having: Option<String>,
    /// Of a `collect` sensor: what results are said of, instead of the resource or the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Of a `collect` sensor: results are data of this metric, for other `collect` sensors and for observers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emit: Option<String>,
    /// The unit, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// An objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SloDocument {
    /// What must hold: `cost < 30`, `20 <= temperature && temperature <= 25`.
    pub objective: String,
    /// The warning (preventive) level: an objective stricter than `objective`; when it does not hold, a warning is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<String>,
    /// How long it must be broken before that is a violation.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub hold_for: Option<HumanDuration>,
    /// How long it must hold before that is a recovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover_for: Option<HumanDuration>,
    /// How bad a violation is.
    #[serde(default)]
    pub severity: Severity,
    /// What missing or stale data mean.
    #[serde(default)]
    pub missing: MissingPolicy,
    /// Whether it is checked at first; enabling and disabling by hand or by action is remembered.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What missing or stale data mean to an SLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Keep the state; show it as missing.
    #[default]
    Hold,
    /// As if the objective were broken.
    Violate,
    /// As if the objective held.
    Ok,
    /// Raise the alarm `missing`.
    Alarm,
}

/// One row of the strategy table (R3-54). Rows are tried in order; the first that matches is taken, and those after it only with `also: true`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDocument {
    /// Which SLOs: a name, several, or `*`.
    pub when: When,
    /// Which alarms; violations, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<AlarmKind>,
    /// Only SLOs of this severity or worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The strategy: a rhai file beside the policy, with `fn plan(alarm)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Or the actions themselves.
    #[serde(default, rename = "do", skip_serializing_if = "Option::is_none")]
    pub actions: Option<Vec<Action>>,
    /// How far it may go.
    #[serde(default)]
    pub mode: Mode,
    /// How long after one plan the next may be made; while the SLO stays violated, it is planned again when this is over. 30 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<HumanDuration>,
    /// How long a plan of `mode: approve` waits for a yes before it is withdrawn (and, while the SLO stays violated, made anew).
    /// 15 min when absent; only with that mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<HumanDuration>,
    /// Declares the script slow: it may take this long (of processor time, up to 1 min), and runs aside, so that it delays no other service.
    /// Without, it may take 10 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<HumanDuration>,
    /// Planned once for each alarm, however long that stands; what failed is planned again after each `cooldown` until it succeeds, even when
    /// the alarm is over.
    #[serde(default)]
    pub once: bool,
    /// What becomes of the rest of the list when one action fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Take this row even though an earlier one matched.
    #[serde(default)]
    pub also: bool,
}

/// Which SLOs a row of the strategy table is about.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum When {
    /// One, or `*` for all.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Default for When {
    fn default() -> Self {
        Self::One("*".into())
    }
}

impl When {
    /// Whether it includes the SLO called `slo`.
    pub fn includes(&self, slo: &str) -> bool {
        match self {
            Self::One(name) => name == "*" || name == slo,
            Self::Many(names) => names.iter().any(|name| name == "*" || name == slo),
        }
    }

    /// The names it mentions, without `*`.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::One(name) if name == "*" => Vec::new(),
            Self::One(name) => vec![name],
            Self::Many(names) => names.iter().map(String::as_str).filter(|n| *n != "*").collect(),
        }
    }
}

// The three shapes below are read by hand: a derived `untagged` answers every mistake inside with "did not match any variant"
// and loses its position.

impl<'de> Deserialize<'de> for MetricDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = MetricDocument;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "an expression such as `own_cost + payment.cost`, a number, or a mapping with `expr` or `of`",
                )
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<MetricDocument, E> {
                Ok(MetricDocument::Constant(value as f64))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<MetricDocument, E> {
                Ok(MetricDocument::Constant(value as f64))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<MetricDocument, E> {
                if value.is_finite() {
                    Ok(MetricDocument::Constant(value))
                } else {
                    Err(E::custom("a constant metric must be finite"))
                }
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<MetricDocument, E> {
                Ok(MetricDocument::Expression(text.to_string()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MetricDocument, A::Error> {
                ComputedMetric::deserialize(MapAccessDeserializer::new(map))
                    .map(|metric| MetricDocument::Computed(Box::new(metric)))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

/// Reads one name or a list of names.
struct Names(&'static str);

impl<'de> Visitor<'de> for Names {
    type Value = OneOrMany;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: Error>(self, name: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(name.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<OneOrMany, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(names)).map(OneOrMany::Many)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Names("a name or a list of names"))
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(Names("the name of an SLO, a list of them, or `*`"))? {
            OneOrMany::One(name) => Self::One(name),
            OneOrMany::Many(names) => Self::Many(names),
        })
    }
}
