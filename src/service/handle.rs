//! The ports of one service, as Rust callers and the API use them. A handle holds no lock and no state of the service.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_stream::wrappers::ReceiverStream;

use super::control::{ChangeError, Component};
use super::message::{Message, NOW, Request, Response};
use super::supervisor::{Dangling, Supervisor, existing, not_attached, unexpected};
use crate::model::connector::SensorSpec;
use crate::model::metric::Sample;
use crate::model::ports::{
    Actions, Alarms, MetricInfo, Metrics, PortError, Slos, Subscription, SubscriptionMode,
};
use crate::model::{Action, Alarm, HumanDuration, Outcome, Reading, SloStatus, Timestamp};

/// How many notifications may wait for a subscriber.
const SUBSCRIBER_ROOM: usize = 1_024;

/// The four ports of one service.
#[derive(Clone)]
pub struct Handle {
    supervisor: Arc<Supervisor>,
    name: Arc<str>,
}

impl Handle {
    /// The ports of the service of this name, which need not be attached yet.
    pub fn new(supervisor: Arc<Supervisor>, name: &str) -> Self {
        Self { supervisor, name: name.into() }
    }

    async fn call(&self, request: Request) -> Result<Response, PortError> {
        self.supervisor.shell().call(&self.name, request).await
    }

    /// Edits a section of the policy; answers the port's error when the component is not attached.
    async fn edit(
        &self,
        component: Component,
        dangling: Dangling,
        edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>) -> Result<(), PortError>,
    ) -> Result<(), PortError> {
        let result = self.supervisor.change(&self.name, dangling, |document| {
            let mut json = existing(document, &self.name)?;
            let section = json.get_mut(component.as_str()).and_then(|s| s.as_object_mut());
            edit(section.ok_or_else(|| not_attached(&self.name, component))?)?;
            Ok(Some(json))
        });
        match result.await {
            Ok(_) => Ok(()),
            Err(ChangeError::Port(error)) => Err(error),
            Err(ChangeError::Refused(refusal)) => {
                let text = refusal.problems.join("; ");
                Err(if text.contains("depends on itself") {
                    PortError::MetricCycle(text)
                } else {
                    PortError::Invalid(text)
                })
            }
        }
    }
}

/// Ends the subscription when it is dropped.
struct Guard {
    supervisor: Arc<Supervisor>,
    name: Arc<str>,
    token: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.supervisor.shell().unsubscribe(&self.name, self.token);
    }
}

fn is_sensor(definition: &serde_json::Value) -> bool {
    match definition {
        serde_json::Value::String(text) => text == "push",
        serde_json::Value::Object(fields) => {
            fields.len() == 1 && fields.keys().all(|k| SensorSpec::KINDS.contains(&k.as_str()))
        }
        _ => false,
    }
}

fn part<'a>(
    section: &'a mut serde_json::Map<String, serde_json::Value>,
    name: &str,
) -> Result<&'a mut serde_json::Map<String, serde_json::Value>, PortError> {
    section
        .entry(name)
        .or_insert_with(|| serde_json::Value::Object(Default::default()))
        .as_object_mut()
        .ok_or_else(|| PortError::Invalid(format!("`{name}` is not a mapping")))
}

#[async_trait]
impl Metrics for Handle {
    async fn metric_list(&self) -> Result<Vec<MetricInfo>, PortError> {
        match self.call(Request::MetricList).await? {
            Response::Metrics(metrics) => Ok(metrics),
            other => Err(unexpected(&other)),
        }
    }

    async fn get_metric(&self, name: &str, max_age: Option<HumanDuration>) -> Result<Reading, PortError> {
        match self.call(Request::GetMetric { name: name.into(), max_age }).await? {
            Response::Reading(reading) => Ok(reading),
            other => Err(unexpected(&other)),
        }
    }

    async fn subscribe(&self, name: &str, mode: SubscriptionMode) -> Result<Subscription, PortError> {
        let request = Request::Subscribe { name: name.into(), mode };
        let (token, notifications) =
            self.supervisor.shell().subscribe(&self.name, request, SUBSCRIBER_ROOM).await?;
        let guard = Guard { supervisor: self.supervisor.clone(), name: self.name.clone(), token };
        Ok(Subscription { notifications: ReceiverStream::new(notifications), guard: Box::new(guard) })
    }

    async fn insert_metric(&self, name: &str, definition: serde_json::Value) -> Result<(), PortError> {
        self.edit(Component::Monitor, Dangling::Refused, |monitor| {
            for kind in ["sensors", "metrics"] {
                if part(monitor, kind)?.contains_key(name) {
                    return Err(PortError::Exists(name.to_string()));
                }
            }
            let kind = if is_sensor(&definition) { "sensors" } else { "metrics" };
            part(monitor, kind)?.insert(name.to_string(), definition);
            Ok(())
        })
        .await
    }

    async fn remove_metric(&self, name: &str) -> Result<(), PortError> {
        self.edit(Component::Monitor, Dangling::Told, |monitor| {
            let mut gone = None;
            for kind in ["sensors", "metrics"] {
                gone = gone.or(part(monitor, kind)?.remove(name));
            }
            gone.map(drop).ok_or_else(|| PortError::NoSuchMetric(name.to_string()))
        })
        .await
    }

    async fn push(&self, name: &str, values: Vec<(f64, Option<Timestamp>)>) -> Result<(), PortError> {
        let (service, metric, shard) = match self.supervisor.pushed(&self.name, name) {
            Ok(found) => found,
            // Whether it exists at all is for the service to say.
            Err(PortError::NotPushed(_)) => {
                self.get_metric(name, None).await?;
                return Err(PortError::NotPushed(name.to_string()));
            }
            Err(error) => return Err(error),
        };
        if let Some((value, _)) = values.iter().find(|(value, _)| !value.is_finite()) {
            return Err(PortError::Invalid(format!("`{value}` is not a finite number")));
        }
        let clock = self.supervisor.shell().clock();
        let horizon = clock.now().after(std::time::Duration::from_secs(10));
        let mut samples = Vec::with_capacity(values.len());
        for (value, at) in values {
            let at = match at {
                None => NOW,
                Some(at) => {
                    let at = clock.from_wall(at);
                    if at > horizon {
                        return Err(PortError::Invalid(format!(
                            "the time {at} is more than 10 s in the future"
                        )));
                    }
                    at
                }
            };
            samples.push(Sample { service, metric, value, at });
        }
        self.supervisor.shell().send_to(shard, Message::Samples(samples)).await
    }
}

#[async_trait]
impl Slos for Handle {
    async fn slo_list(&self) -> Result<Vec<SloStatus>, PortError> {
        match self.call(Request::SloList).await? {
            Response::Slos(slos) => Ok(slos),
            other => Err(unexpected(&other)),
        }
    }

    async fn add_slo(&self, name: &str, definition: serde_json::Value) -> Result<(), PortError> {
        // An objective alone is enough: `"cost < 30"`.
        let definition = match definition {
            serde_json::Value::String(objective) => serde_json::json!({ "objective": objective }),
            other => other,
        };
        self.edit(Component::Analyze, Dangling::Refused, |slos| {
            if slos.contains_key(name) {
                return Err(PortError::Exists(name.to_string()));
            }
            slos.insert(name.to_string(), definition);
            Ok(())
        })
        .await
    }

    async fn remove_slo(&self, name: &str) -> Result<(), PortError> {
        self.edit(Component::Analyze, Dangling::Told, |slos| {
            slos.remove(name).map(drop).ok_or_else(|| PortError::NoSuchSlo(name.to_string()))
        })
        .await
    }

    async fn enable_slo(&self, name: &str) -> Result<(), PortError> {
        self.call(Request::EnableSlo { name: name.into(), on: true }).await.map(drop)
    }

    async fn disable_slo(&self, name: &str) -> Result<(), PortError> {
        self.call(Request::EnableSlo { name: name.into(), on: false }).await.map(drop)
    }
}

#[async_trait]
impl Alarms for Handle {
    async fn notify(&self, alarm: Alarm) -> Result<(), PortError> {
        self.call(Request::Notify(alarm)).await.map(drop)
    }
}

#[async_trait]
impl Actions for Handle {
    async fn send_actions(&self, actions: Vec<Action>) -> Result<Vec<Outcome>, PortError> {
        match self.call(Request::SendActions(actions)).await? {
            Response::Outcomes(outcomes) => Ok(outcomes),
            other => Err(unexpected(&other)),
        }
    }
}
