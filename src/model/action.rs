//! Actions: what an executor is asked to do, and what came of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AlarmKind, Timestamp};

/// One command. Externally tagged: `{"replace": {"from": "C1", "to": "C2"}}`.
///
/// `service: None` is the service whose plan it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Sets a property of a service through its `set` effector, or else the one that it declares under `manage`.
    Set {
        /// Whose property.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which property.
        property: String,
        /// The new value.
        value: serde_json::Value,
    },
    /// Binds a reference to a service.
    Bind {
        /// Whose reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which reference.
        reference: String,
        /// The service it is to lead to: the declared one or one of the candidates.
        to: String,
    },
    /// Leaves a reference unbound.
    Unbind {
        /// Whose reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which reference.
        reference: String,
    },
    /// Rebinds every reference of the service that is bound to `from`, all or none.
    Replace {
        /// Whose references.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// The service bound now.
        from: String,
        /// The service to bind instead.
        to: String,
    },
    /// Starts a service through its `start` effector, or else its process.
    Start {
        /// Which service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Stops a service through its `stop` effector, or else its process.
    Stop {
        /// Which service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Restarts a service through its `restart` effector, or `stop` and `start`, or else its process.
    Restart {
        /// Which service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Calls a method of a service through its `invoke` effector, or else the one that it declares under `manage`.
    Invoke {
        /// Whose method.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which method.
        method: String,
        /// Its parameters.
        #[serde(default)]
        params: Vec<serde_json::Value>,
    },
    /// Switches an SLO on.
    EnableSlo {
        /// Whose SLO.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which SLO.
        slo: String,
    },
    /// Switches an SLO off.
    DisableSlo {
        /// Whose SLO.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which SLO.
        slo: String,
    },
    /// Changes a parameter of a `collect` sensor, which collectors are told (R2-35).
    Tune {
        /// Whose sensor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which sensor.
        sensor: String,
        /// Which parameter: `samplingTime`.
        parameter: String,
        /// Its new value.
        value: String,
    },
    /// Raises an alarm at a service: its plans answer it, once for each time that it is raised (R2-38).
    Raise {
        /// Whose alarm.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// About which SLO.
        slo: String,
        /// Which alarm; a violation, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<AlarmKind>,
    },
    /// Gives a metric of the service a new value.
    Publish {
        /// Whose metric.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Which metric; created when it is not there.
        metric: String,
        /// The value.
        value: f64,
    },
    /// Tells people, through the `notify` effector, or else through the event log.
    Notify {
        /// Through whose effector.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// What to say.
        text: String,
    },
    /// Writes an entry of the knowledge of a service (R3-14).
    Remember {
        /// Whose knowledge.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Under which key.
        key: String,
        /// What.
        value: serde_json::Value,
    },
    /// An action that the service's policy declares under `execute`.
    Custom {
        /// Whose action.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Its declared name.
        name: String,
        /// Its arguments, available to the effector's templates by name.
        #[serde(default)]
        args: BTreeMap<String, serde_json::Value>,
    },
}

impl Action {
    /// The name of the action, which is also the name of the effector that carries it out.
    pub fn name(&self) -> &str {
        match self {
            Self::Set { .. } => "set",
            Self::Bind { .. } => "bind",
            Self::Unbind { .. } => "unbind",
            Self::Replace { .. } => "replace",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Invoke { .. } => "invoke",
            Self::EnableSlo { .. } => "enable_slo",
            Self::DisableSlo { .. } => "disable_slo",
            Self::Tune { .. } => "tune",
            Self::Raise { .. } => "raise",
            Self::Publish { .. } => "publish",
            Self::Notify { .. } => "notify",
            Self::Remember { .. } => "remember",
            Self::Custom { name, .. } => name,
        }
    }

    /// The services that it binds references to, or takes them from.
    pub fn leads_to(&self) -> Vec<&str> {
        match self {
            Self::Bind { to, .. } => vec![to],
            Self::Replace { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// The service that it names, if it names one.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Set { service, .. }
            | Self::Bind { service, .. }
            | Self::Unbind { service, .. }
            | Self::Replace { service, .. }
            | Self::Start { service }
            | Self::Stop { service }
            | Self::Restart { service }
            | Self::Invoke { service, .. }
            | Self::EnableSlo { service, .. }
            | Self::DisableSlo { service, .. }
            | Self::Tune { service, .. }
            | Self::Raise { service, .. }
            | Self::Publish { service, .. }
            | Self::Notify { service, .. }
            | Self::Remember { service, .. }
            | Self::Custom { service, .. } => service.as_deref(),
        }
    }

    /// The values that effector templates may use (`{property}`, `{value}`, …), by name.
    pub fn arguments(&self) -> BTreeMap<String, serde_json::Value> {
        let mut map = BTreeMap::new();
        let mut put = |key: &str, value: serde_json::Value| {
            map.insert(key.to_string(), value);
        };
        match self {
            Self::Set { property, value, .. } => {
                put("property", property.as_str().into());
                put("value", value.clone());
            }
            Self::Bind { reference, to, .. } => {
                put("reference", reference.as_str().into());
                put("to", to.as_str().into());
            }
            Self::Unbind { reference, .. } => put("reference", reference.as_str().into()),
            Self::Replace { from, to, .. } => {
                put("from", from.as_str().into());
                put("to", to.as_str().into());
            }
            Self::Start { .. } | Self::Stop { .. } | Self::Restart { .. } => {}
            Self::Invoke { method, params, .. } => {
                put("method", method.as_str().into());
                put("params", params.clone().into());
            }
            Self::EnableSlo { slo, .. } | Self::DisableSlo { slo, .. } => put("slo", slo.as_str().into()),
            Self::Tune { sensor, parameter, value, .. } => {
                put("sensor", sensor.as_str().into());
                put("parameter", parameter.as_str().into());
                put("value", value.as_str().into());
            }
            Self::Raise { slo, .. } => put("slo", slo.as_str().into()),
            Self::Publish { metric, value, .. } => {
                put("metric", metric.as_str().into());
                put(
                    "value",
                    serde_json::Number::from_f64(*value).map_or(serde_json::Value::Null, Into::into),
                );
            }
            Self::Notify { text, .. } => put("text", text.as_str().into()),
            Self::Remember { key, value, .. } => {
                put("key", key.as_str().into());
                put("value", value.clone());
            }
            Self::Custom { args, .. } => map.extend(args.clone()),
        }
        map
    }
}

/// As operators say it: `replace(C1, C2)`, `unbind(B, b1)`, `set(C2, threads, 10)`.
impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words: Vec<String> = self.service().map(str::to_string).into_iter().collect();
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        match self {
            Self::Set { property, value, .. } => words.extend([property.clone(), text(value)]),
            Self::Bind { reference, to, .. } => words.extend([reference.clone(), to.clone()]),
            Self::Unbind { reference, .. } => words.push(reference.clone()),
            Self::Replace { from, to, .. } => words.extend([from.clone(), to.clone()]),
            Self::Start { .. } | Self::Stop { .. } | Self::Restart { .. } => {}
            Self::Invoke { method, params, .. } => {
                words.push(method.clone());
                words.extend(params.iter().map(text));
            }
            Self::EnableSlo { slo, .. } | Self::DisableSlo { slo, .. } => words.push(slo.clone()),
            Self::Tune { sensor, parameter, value, .. } => {
                words.extend([sensor.clone(), parameter.clone(), value.clone()]);
            }
            Self::Raise { slo, .. } => words.push(slo.clone()),
            Self::Publish { metric, value, .. } => words.extend([metric.clone(), value.to_string()]),
            Self::Notify { text, .. } => words.push(text.clone()),
            Self::Remember { key, value, .. } => words.extend([key.clone(), text(value)]),
            Self::Custom { args, .. } => words.extend(args.iter().map(|(k, v)| format!("{k}: {}", text(v)))),
        }
        write!(f, "{}({})", self.name(), words.join(", "))
    }
}

/// How one action ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// Carried out.
    Done,
    /// The named service cannot be reached along a reference (R3-60).
    NoRoute,
    /// The service's policy does not declare the action (R3-61), or its arguments are not allowed.
    Refused,
    /// The effector was called and failed.
    Failed,
    /// Not tried, because an earlier action of the list failed.
    Skipped,
    /// Carried out, then taken back because a later action failed.
    Undone,
    /// The daemon stopped between the start of the action and its outcome; it is not repeated blindly.
    Interrupted,
}

/// What came of one action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Outcome {
    /// The action.
    pub action: Action,
    /// How it ended.
    pub status: OutcomeStatus,
    /// The service whose executor ran it.
    pub executor: String,
    /// What the effector said, or why it was not called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}
