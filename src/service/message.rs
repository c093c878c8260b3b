//! What goes into a turn and what comes out: messages and effects. Messages can be recorded; effects are carried out by the shell alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::{Event, ServiceStatus};
use crate::model::calls::Port;
use crate::model::connector::EffectorSpec;
use crate::model::metric::Sample;
use crate::model::ports::{MetricInfo, Notification, PortError, SubscriptionMode};
use crate::model::process::ProcessOrder;
use crate::model::{
    Action, Alarm, Datum, Decision, DecisionId, HumanDuration, ModelChange, Outcome, Reading, ServiceId,
    SloStatus, Timestamp,
};
use crate::monitor::{Held, SensorWanted};
use crate::plan::strategy::{Known, Run};
use crate::policy::script::Script;
use crate::policy::{PublishPolicy, ServicePolicy};

/// Stands in a [`Sample`] for "now": the turn gives it the time of its message.
pub const NOW: Timestamp = Timestamp(i64::MIN);

/// A value as a letter carries it: output, label, value, time (`None`: now).
pub type MeasuredValue = (Option<Arc<str>>, Option<Arc<str>>, f64, Option<Timestamp>);

/// What arrives in the mailbox of a shard.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a letter is moved a few times at most; samples come in batches"
)]
pub enum Message {
    /// Samples of any services of the shard.
    Samples(Vec<Sample>),
    /// The time that the shard asked to be woken at has come.
    Wake,
    /// Attach a service, or change what is attached.
    Apply(Box<Apply>),
    /// Detach a service.
    Detach(Arc<str>),
    /// Something for one service.
    To(Arc<str>, Letter),
    /// Data of a metric, for every service of the shard that collects it.
    Data(Arc<str>, Arc<[Datum]>),
    /// The resource model has changed.
    Model(Arc<[ModelChange]>),
}

/// Attach a service, or change what is attached.
#[derive(Debug, Clone)]
pub struct Apply {
    /// Its number.
    pub id: ServiceId,
    /// Its policy.
    pub policy: ServicePolicy,
    /// What the record knows of it; used when it was not attached before.
    pub restored: Restored,
}

/// What outlives the daemon.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Restored {
    /// The number of its last decision.
    pub decisions: u64,
    /// SLOs that were enabled or disabled by hand or by action.
    pub slos: BTreeMap<String, bool>,
    /// References that were bound or unbound by action.
    pub bindings: BTreeMap<String, Option<String>>,
    /// Its knowledge.
    pub knowledge: BTreeMap<String, serde_json::Value>,
    /// Its last decisions that wait for an operator.
    #[serde(default)]
    pub proposals: Vec<Decision>,
}

/// Something for one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Letter {
    /// What a sensor delivered in one read, where that is more than one headline value.
    Measured {
        /// The sensor.
        metric: Arc<str>,
        /// Output, label, value, time.
        values: Vec<MeasuredValue>,
    },
    /// A sensor cannot measure.
    SensorFailed {
        /// The sensor.
        metric: Arc<str>,
        /// Why not.
        why: String,
    },
    /// The monitor of `from` wants to be told of every value of `metric`.
    Subscribe {
        /// Who.
        from: Arc<str>,
        /// What.
        metric: Arc<str>,
    },
    /// The monitor of `from` wants to be told no more.
    Unsubscribe {
        /// Who.
        from: Arc<str>,
        /// What.
        metric: Arc<str>,
    },
    /// The monitor of `from` tells a value.
    Tell {
        /// Who.
        from: Arc<str>,
        /// What.
        metric: Arc<str>,
        /// The value.
        held: Held,
    },
    /// `from` asks for a metric, once.
    Ask {
        /// Who.
        from: Arc<str>,
        /// The number of the question, of `from`'s choosing.
        token: u64,
        /// What.
        metric: Arc<str>,
        /// How old it may be.
        max_age: Option<HumanDuration>,
    },
    /// The answer to an [`Letter::Ask`].
    Answer {
        /// Who answers.
        from: Arc<str>,
        /// The number of the question.
        token: u64,
        /// What was asked for.
        metric: Arc<str>,
        /// The answer.
        held: Held,
    },
    /// The members of a group metric: service → labels.
    Members {
        /// The group metric.
        metric: Arc<str>,
        /// The members.
        members: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    },
    /// The executor of `from` asks for a step.
    Step {
        /// Who.
        from: Arc<str>,
        /// The decision, of `from`.
        decision: DecisionId,
        /// The step in it.
        step: u32,
        /// What.
        action: Action,
    },
    /// A step has ended.
    StepEnded {
        /// The decision.
        decision: DecisionId,
        /// The step in it.
        step: u32,
        /// How.
        outcome: Outcome,
        /// What takes it back.
        inverse: Option<Action>,
    },
    /// An effector has done, or failed to do, what it was asked for.
    Performed {
        /// The key of the command.
        key: String,
        /// What the effector said.
        result: Result<String, String>,
    },
    /// The script that was to run aside has run.
    RanAside {
        /// The number of the run, of the service's choosing.
        token: u64,
        /// What came of it.
        run: Box<Run>,
    },
    /// A call from outside.
    Call {
        /// The number that the answer carries.
        token: u64,
        /// What.
        request: Request,
    },
}

/// A call from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// `getMetricList`.
    MetricList,
    /// `getMetric`.
    GetMetric {
        /// Which.
        name: String,
        /// How old it may be.
        max_age: Option<HumanDuration>,
    },
    /// `subscribe`; notifications carry the token of the call.
    Subscribe {
        /// Which.
        name: String,
        /// When to tell.
        mode: SubscriptionMode,
    },
    /// `unsubscribe`.
    Unsubscribe {
        /// The token of the call that subscribed.
        token: u64,
    },
    /// The SLOs.
    SloList,
    /// `enableSLO`, `disableSLO`.
    EnableSlo {
        /// Which.
        name: String,
        /// On or off.
        on: bool,
    },
    /// `notify`.
    Notify(Alarm),
    /// `sendActions`.
    SendActions(Vec<Action>),
    /// Carries out a proposed plan.
    Approve(DecisionId),
    /// Withdraws a proposal by an operator's word.
    Reject(DecisionId),
    /// Alarms go to a planner of the embedding program as well, or no longer.
    ForeignPlanner(bool),
    /// Everything about the service.
    Status,
    /// Past readings.
    History(String),
    /// The knowledge.
    Knowledge,
    /// Writes the knowledge.
    Remember {
        /// Under which key.
        key: String,
        /// What; `None` removes it.
        value: Option<serde_json::Value>,
    },
}

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Done.
    Done,
    /// To `MetricList`.
    Metrics(Vec<MetricInfo>),
    /// To `GetMetric`.
    Reading(Reading),
    /// To `SloList`.
    Slos(Vec<SloStatus>),
    /// To `SendActions` and `Approve`.
    Outcomes(Vec<Outcome>),
    /// To `Status`.
    Status(Box<ServiceStatus>),
    /// To `History`.
    History(Vec<Reading>),
    /// To `Knowledge`.
    Knowledge(BTreeMap<String, serde_json::Value>),
    /// Not what was asked for.
    Error(PortError),
}

/// What a turn wants done. Only the shell does it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "letters are the most frequent effects; a box would cost more than the space"
)]
pub enum Effect {
    /// Put this into the mailbox of the shard that owns the service.
    Send(Arc<str>, Letter),
    /// Answer a call.
    Reply(u64, Response),
    /// Tell a subscriber.
    Notify(u64, Notification),
    /// The subscription has ended by itself (its duration is over, its metric is gone).
    EndOfSubscription(u64),
    /// Let the sensors of a service run like this.
    Sensors(Arc<str>, ServiceId, Vec<SensorWanted>),
    /// Read a sensor now.
    ReadNow(Arc<str>, Arc<str>),
    /// Record the intent durably, then call the effectors in order, then answer with [`Letter::Performed`].
    Perform(Box<Perform>),
    /// Run a script outside the shard, then answer with [`Letter::RanAside`].
    RunAside(Box<Aside>),
    /// Let exactly these local ports of a service's references be open, and lead there.
    Ports(Arc<str>, Vec<Port>),
    /// These are data of the metric, for whoever collects or observes it.
    Emit(Arc<str>, Arc<[Datum]>),
    /// These are the publishers of a service from now on.
    Publishers(Arc<str>, Vec<Arc<PublishPolicy>>),
    /// A value goes out.
    Publish(Box<Publication>),
    /// Hand the alarm to the planner that the embedding program attached.
    Alarm(Arc<str>, Box<Alarm>),
    /// Record a decision, or the news of it.
    Decision(Box<Decision>),
    /// Record what outlives the daemon.
    Remember(Arc<str>, Lasting),
    /// Tell people.
    Event(Event),
}

/// A value that goes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The service whose metric it is.
    pub service: Arc<str>,
    /// The publisher.
    pub publisher: Arc<str>,
    /// The metric.
    pub metric: Arc<str>,
    /// The value.
    pub value: f64,
    /// What it is called, where it has a name.
    pub word: Option<Arc<str>>,
    /// When it was measured.
    pub at: Timestamp,
}

impl Publication {
    /// As an action, for the templates of the effector that carries it out.
    pub fn action(&self) -> Action {
        let time = i128::from(self.at.0);
        let number = |value: f64| match value.fract() == 0.0 && value.abs() < 1e15 {
            true => serde_json::Value::from(value as i64),
            false => value.into(),
        };
        let word = self.word.as_deref().map_or_else(|| number(self.value).to_string(), str::to_string);
        let args = [
            ("value", number(self.value)),
            ("single", (self.value as f32).to_string().into()),
            ("word", word.into()),
            ("metric", (*self.metric).into()),
            ("publisher", (*self.publisher).into()),
            ("time", self.at.to_string().into()),
            ("seconds", self.at.seconds().into()),
            ("ms", self.at.0.div_euclid(1_000).into()),
            ("ns", (time * 1_000).to_string().into()),
        ];
        let args = args.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        Action::Custom { service: None, name: self.publisher.to_string(), args }
    }
}

/// A run of a script outside the shard.
#[derive(Debug, Clone)]
pub struct Aside {
    /// The service whose strategy it is.
    pub service: Arc<str>,
    /// The number of the run.
    pub token: u64,
    /// What to run.
    pub script: Arc<Script>,
    /// What it answers.
    pub alarm: Alarm,
    /// All that it can know.
    pub known: Arc<Known>,
    /// How long it may take, of processor time.
    pub time: Duration,
}

/// A call of effectors.
#[derive(Debug, Clone)]
pub struct Perform {
    /// The service whose executor it is.
    pub service: Arc<str>,
    /// The key of the command: `service/decision/step` of the service that decided.
    pub key: String,
    /// The service that decided.
    pub origin: Arc<str>,
    /// Its decision.
    pub decision: DecisionId,
    /// The step in it.
    pub step: u32,
    /// What.
    pub action: Action,
    /// How: all in order; the first failure ends it.
    pub effectors: Vec<Arc<EffectorSpec>>,
    /// References with a local port that are to lead elsewhere then. The step has ended once no later call reaches what they led to before.
    pub moves: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// Services whose programs are started before that, those that have one.
    pub starts: Vec<Arc<str>>,
    /// Services whose programs are stopped after their last call, those that have one.
    pub stops: Vec<Arc<str>>,
    /// What is asked of the process of the service then. The step has ended once that is carried out.
    pub process: Option<ProcessOrder>,
    /// Whether it is carried out on the properties and methods of the service.
    pub managed: bool,
}

/// What outlives the daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Lasting {
    /// An SLO was enabled or disabled.
    Slo(String, bool),
    /// A reference was bound or unbound.
    Binding {
        /// Which.
        reference: String,
        /// To what; `None`: unbound.
        to: Option<String>,
        /// What the policy declares; once it declares something else, this is void.
        declared: Option<String>,
    },
    /// An entry of the knowledge; `None`: removed.
    Knowledge(String, Option<serde_json::Value>),
}
