//! Compiled policies: checked, immutable values that the four stages run on.
//! They name metrics by path; the monitor turns paths into slots when it is built.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::document::{MissingPolicy, PackedDocument};
use super::expression::Expression;
use super::script::Script;
use crate::knowledge::stream::Grouping;
use crate::model::calls::{LimitsSpec, PortPolicy};
use crate::model::connector::{EffectorSpec, SensorSpec};
use crate::model::endpoint::{Address, Endpoint, LiveSpec};
use crate::model::manage::{Manage, ManageSpec};
use crate::model::plan::OnFailure;
use crate::model::process::ProcessSpec;
use crate::model::{
    Action, Aggregate, AlarmKind, MetricPath, Mode, Plan, Resource, Schedule, Selector, Severity,
};

/// One managed service, ready to run. Cheap to clone: unchanged parts are shared.
#[derive(Debug, Clone)]
pub struct ServicePolicy {
    /// Its name.
    pub name: Arc<str>,
    /// The document it was compiled from; with `scripts`, all that is needed to compile it again.
    pub document: PackedDocument,
    /// Its place in the model.
    pub resource: Arc<Resource>,
    /// Where it listens.
    pub endpoint: Option<Endpoint>,
    /// Where homeostat stands in front of it.
    pub listen: Option<Address>,
    /// Whether the service listens there itself, and runs already.
    pub live: Option<LiveSpec>,
    /// What homeostat allows there.
    pub limits: LimitsSpec,
    /// The program that homeostat runs for it.
    pub process: Option<Arc<ProcessSpec>>,
    /// What of it can be managed from outside, and where homeostat listens for that.
    pub manage: Option<Manage>,
    /// What it uses, by name.
    pub references: BTreeMap<Arc<str>, ReferencePolicy>,
    /// M, when attached.
    pub monitor: Option<Arc<MonitorPolicy>>,
    /// A, when attached.
    pub analyze: Option<Arc<AnalyzePolicy>>,
    /// P, when attached.
    pub plan: Option<Arc<PlanPolicy>>,
    /// E, when attached.
    pub execute: Option<Arc<ExecutePolicy>>,
    /// The scripts that `plan` names, by the name used there.
    pub scripts: BTreeMap<Arc<str>, Arc<Script>>,
}

impl ServicePolicy {
    /// Where its clients reach it: at the port in front of it, or where it listens itself, `tcp://` when that is no HTTP.
    pub fn address(&self) -> Option<String> {
        let endpoint = self.endpoint.as_ref()?;
        let fronted = |listen: Address| Endpoint { address: listen.to_string().into(), ..endpoint.clone() };
        Some(self.listen.map_or_else(|| endpoint.clone(), fronted).to_string())
    }

    /// Whether its executor can carry out an action of this name by an effector, on its process, or on what of it is manageable.
    pub fn declares(&self, action: &str) -> bool {
        let Some(execute) = &self.execute else { return false };
        execute.effectors.contains_key(action)
            || self.process.is_some() && ON_PROCESSES.contains(&action)
            || self.managing(action).is_some()
    }

    /// What `set` and `invoke` are carried out on: its properties and methods, where no effector is declared for them.
    pub fn managing(&self, action: &str) -> Option<&ManageSpec> {
        let execute = self.execute.as_ref()?;
        let spec = &*self.manage.as_ref()?.spec;
        (spec.carries(action) && !execute.effectors.contains_key(action)).then_some(spec)
    }
}

/// The actions that are carried out on the process of a service where no effector is declared for them.
pub const ON_PROCESSES: &[&str] = &["start", "stop", "restart"];

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencePolicy {
    /// The service that it is bound to at first.
    pub service: Option<Arc<str>>,
    /// Every service that it may be bound to: the declared one first, then the candidates, without repetition.
    pub candidates: Vec<Arc<str>>,
    /// What is needed: those that provide it are among the candidates.
    pub capability: Option<Arc<str>>,
    /// The local port through which the service reaches it.
    pub listen: Option<Address>,
    /// What holds for the calls through that.
    pub calls: Arc<PortPolicy>,
}

/// M.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorPolicy {
    /// The metrics, so that what a metric is computed from stands before it.
    pub metrics: Vec<MetricPolicy>,
    /// How many past readings of each metric are kept.
    pub history: usize,
    /// When sensors are read.
    pub schedule: Option<Schedule>,
    /// Which values go out, sorted by name.
    pub publish: Vec<Arc<PublishPolicy>>,
}

/// Values of a metric that go out as they come.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// The own metric.
    pub metric: Arc<str>,
    /// By what.
    pub to: Arc<EffectorSpec>,
    /// At most this often.
    pub every: Option<Duration>,
    /// Only values that differ from the one before.
    pub changes: bool,
    /// What the values 0, 1, 2, … are called.
    pub words: Vec<Arc<str>>,
}

/// One metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// How it comes about.
    pub kind: MetricKind,
    /// Its unit, for people.
    pub unit: Option<Arc<str>>,
    /// The age at which a value becomes stale.
    pub stale_after: Option<Duration>,
}

/// How a metric comes about.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricKind {
    /// Measured.
    Sensor(SensorSpec),
    /// A further fixed output of the sensor of this name (`disk_state` of `disk`).
    Output {
        /// The sensor.
        sensor: Arc<str>,
    },
    /// Computed from other metrics at every change of one of them.
    Expression(Expression),
    /// Aggregated over the samples of one metric.
    Window(WindowPolicy),
    /// Aggregated over the same metric of several services.
    Group(GroupPolicy),
    /// Aggregated over the data of many resources, every so often.
    Stream(Arc<StreamPolicy>),
    /// How many results the newest evaluation of a stream had.
    Results {
        /// The stream.
        of: Arc<str>,
    },
}

/// What is made of the data of a `collect` sensor, once every `every`.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPolicy {
    /// The sensor.
    pub of: Arc<str>,
    /// The metric as collectors call it.
    pub metric: Arc<str>,
    /// Whose data, and what they are grouped by.
    pub grouping: Grouping,
    /// What is computed of each group; empty: each datum is a result of its own.
    pub aggregates: Vec<Aggregate>,
    /// The result, from the values of `aggregates` in that order, or from the datum's; `None`: the first of them.
    pub value: Option<Expression>,
    /// Which results count, by their value.
    pub having: Option<Expression>,
    /// How far back.
    pub over: Duration,
    /// How often.
    pub every: Duration,
    /// What results are said of, if not of their resource or group.
    pub resource: Option<Arc<str>>,
    /// The metric that results are data of.
    pub emit: Option<Arc<str>>,
}

impl StreamPolicy {
    /// Whether data are only counted, so that it does not matter what they are (R2-22).
    pub fn only_counts(&self) -> bool {
        !self.aggregates.is_empty() && self.aggregates.iter().all(|a| *a == Aggregate::Count)
    }
}

/// A sliding window.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowPolicy {
    /// Whose samples.
    pub of: MetricPath,
    /// How.
    pub aggregate: Aggregate,
    /// How far back; `None` for `ewma`, `last` and `age` without a window.
    pub over: Option<Duration>,
    /// Compute this often instead of at every sample.
    pub every: Option<Duration>,
}

/// A group of services.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupPolicy {
    /// Which metric of each member.
    pub of: Arc<str>,
    /// The members.
    pub from: Selector,
    /// How.
    pub aggregate: Aggregate,
    /// How far back; `None`: the newest value of each member.
    pub over: Option<Duration>,
    /// Compute this often instead of at every sample.
    pub every: Option<Duration>,
    /// One value per target of this relation.
    pub by: Option<Arc<str>>,
}

/// A.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AnalyzePolicy {
    /// The objectives, sorted by name.
    pub slos: Vec<Arc<SloPolicy>>,
}

/// One objective.
#[derive(Debug, Clone, PartialEq)]
pub struct SloPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// What must hold; a boolean expression.
    pub objective: Expression,
    /// The negation of the objective as text, the condition of a violation: `cost >= 30`.
    pub violation: Arc<str>,
    /// The stricter objective of the warning level.
    pub warn: Option<Expression>,
    /// The negation of `warn` as text.
    pub warning: Option<Arc<str>>,
    /// How long it must be broken before that is a violation.
    pub hold_for: Duration,
    /// How long it must hold before that is a recovery.
    pub recover_for: Duration,
    /// How bad a violation is.
    pub severity: Severity,
    /// What missing or stale data mean.
    pub missing: MissingPolicy,
    /// Whether it is checked at first.
    pub enabled: bool,
}

/// P.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlanPolicy {
    /// The strategy table, in order.
    pub rows: Vec<Arc<PlanRow>>,
}

/// One row of the strategy table.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRow {
    /// Which SLOs.
    pub when: super::document::When,
    /// Which alarms; never empty.
    pub on: Vec<AlarmKind>,
    /// Only SLOs of this severity or worse.
    pub severity: Option<Severity>,
    /// What it does.
    pub strategy: Strategy,
    /// How far it may go.
    pub mode: Mode,
    /// How long after one plan the next may be made.
    pub cooldown: Duration,
    /// How long a plan of mode `approve` waits for a yes.
    pub expires: Duration,
    /// How long the script may run, aside; `None`: it runs in its shard, for a few milliseconds at most.
    pub slow: Option<Duration>,
    /// Planned once for each alarm, and again only while it fails.
    pub once: bool,
    /// What becomes of the rest of the list when one action fails.
    pub on_failure: OnFailure,
    /// Take this row even though an earlier one matched.
    pub also: bool,
}

/// What a row does.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// Runs this script.
    Script(Arc<Script>),
    /// Yields these actions.
    Actions {
        /// The actions.
        actions: Vec<Action>,
        /// Their content hash (BLAKE3, hex, 16 digits).
        hash: Arc<str>,
    },
}

impl Strategy {
    /// Whether `plan` was made by this strategy, in this version of it.
    pub fn made(&self, plan: &Plan) -> bool {
        let (name, hash) = match self {
            Self::Script(script) => (&*script.name, &script.hash),
            Self::Actions { hash, .. } => ("actions", hash),
        };
        plan.strategy == name && *plan.hash == **hash
    }
}

/// E.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExecutePolicy {
    /// How each declared action is carried out.
    pub effectors: BTreeMap<Arc<str>, Arc<EffectorSpec>>,
}
