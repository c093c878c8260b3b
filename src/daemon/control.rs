//! What surfaces may ask of the daemon: [`Control`], handed on to the supervisor and the services.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::Daemon;
use crate::knowledge::store::Place;
use crate::model::{Decision, DecisionId, Outcome, PortError, Reading, Timestamp};
use crate::policy::load::Sources;
use crate::policy::set::PolicySet;
use crate::service::control::{
    Applied, ChangeError, Component, Control, Event, ExportedMetric, Figure, Plugin, PolicyStatus, Ports,
    SelfStats, ServiceStatus, plugins,
};
use crate::service::handle::Handle;
use crate::service::message::{Request, Response};
use crate::service::supervisor::Dangling;

impl Daemon {
    async fn call(&self, service: &str, request: Request) -> Result<Response, PortError> {
        self.supervisor.shell().call(service, request).await
    }

    async fn compile(&self, files: BTreeMap<String, String>) -> super::Read {
        let before = self.supervisor.files().await;
        let texts: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        PolicySet::from_sources(&Sources::from_texts(texts), Some(&before))
    }
}

fn unexpected(response: &Response) -> PortError {
    PortError::Unavailable(format!("an unexpected answer: {response:?}"))
}

#[async_trait]
impl Control for Daemon {
    async fn services(&self) -> Result<Vec<ServiceStatus>, PortError> {
        self.supervisor.services().await
    }

    async fn service(&self, name: &str) -> Result<ServiceStatus, PortError> {
        self.supervisor.service(name).await
    }

    fn ports(&self, name: &str) -> Result<Arc<dyn Ports>, PortError> {
        Ok(Arc::new(Handle::new(self.supervisor.clone(), name)))
    }

    async fn attach(&self, name: &str, document: serde_json::Value) -> Result<Applied, ChangeError> {
        let _one = self.changing.lock().await;
        self.supervisor
            .change(name, Dangling::Told, |_| {
                let mut document = document;
                let Some(fields) = document.as_object_mut() else {
                    return Err(PortError::Invalid("the document of a service is a mapping".into()));
                };
                match fields.entry("service").or_insert_with(|| name.into()).as_str() {
                    Some(given) if given == name => Ok(Some(document)),
                    given => Err(PortError::Invalid(format!(
                        "the document is of `{}`, and the path says `{name}`",
                        given.unwrap_or("something that is no name")
                    ))),
                }
            })
            .await
    }

    async fn detach(&self, name: &str) -> Result<Applied, ChangeError> {
        let _one = self.changing.lock().await;
        self.supervisor
            .change(name, Dangling::Told, |document| match document {
                Some(_) => Ok(None),
                None => Err(PortError::NoSuchService(name.to_string())),
            })
            .await
    }

    async fn attach_component(
        &self,
        name: &str,
        component: Component,
        section: serde_json::Value,
    ) -> Result<Applied, ChangeError> {
        let _one = self.changing.lock().await;
        self.supervisor.attach_component(name, component, section).await
    }

    async fn detach_component(&self, name: &str, component: Component) -> Result<Applied, ChangeError> {
        let _one = self.changing.lock().await;
        self.supervisor.detach_component(name, component).await
    }

    async fn apply(&self, files: BTreeMap<String, String>) -> Result<Applied, ChangeError> {
        let _one = self.changing.lock().await;
        let read = self.compile(files).await;
        self.take(read).await
    }

    async fn preview(&self, files: BTreeMap<String, String>) -> Result<Applied, ChangeError> {
        match self.compile(files).await {
            Ok((set, warnings)) => self.supervisor.preview(&set, &warnings).await,
            Err(problems) => Err(crate::service::control::Refusal {
                at: None,
                problems: problems.iter().map(ToString::to_string).collect(),
            }
            .into()),
        }
    }

    async fn reload(&self) -> Result<Applied, ChangeError> {
        self.read_again(&crate::policy::load::Changed::Everything).await
    }

    async fn rollback(&self) -> Result<Applied, ChangeError> {
        let _one = self.changing.lock().await;
        self.supervisor.rollback().await
    }

    async fn plugins(&self) -> Result<Vec<Plugin>, PortError> {
        let running = self.supervisor.running().await;
        Ok(running.services.values().flat_map(|policy| plugins(policy)).collect())
    }

    fn policy_status(&self) -> PolicyStatus {
        self.supervisor.policy_status()
    }

    async fn decisions(
        &self,
        service: Option<&str>,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<Decision>, PortError> {
        if let Some(service) = service {
            self.supervisor.service(service).await?;
        }
        let place = match (service, before) {
            (_, None) => None,
            (None, Some(_)) => {
                return Err(PortError::Invalid(
                    "`before` is the number of a decision, so it needs `service`".into(),
                ));
            }
            (Some(service), Some(id)) => {
                Some(Place { at: Timestamp(i64::MAX), service: service.to_string(), id })
            }
        };
        let fail =
            |e: crate::knowledge::store::StoreError| PortError::Unavailable(format!("the record: {e}"));
        let store = self.supervisor.shell().store();
        match place {
            None => store.decisions(service, limit, None).await.map_err(fail),
            Some(place) => {
                // The numbers of a service run with its time, so the page before a number begins at that decision's time.
                let at = store
                    .decision_by_id(&place.service, place.id)
                    .await
                    .map_err(fail)?
                    .map_or(place.at, |d| d.at);
                store.decisions(service, limit, Some(Place { at, ..place })).await.map_err(fail)
            }
        }
    }

    async fn approve(&self, service: &str, decision: u64) -> Result<Vec<Outcome>, PortError> {
        match self.call(service, Request::Approve(DecisionId(decision))).await? {
            Response::Outcomes(outcomes) => Ok(outcomes),
            other => Err(unexpected(&other)),
        }
    }

    async fn reject(&self, service: &str, decision: u64) -> Result<(), PortError> {
        match self.call(service, Request::Reject(DecisionId(decision))).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.supervisor.shell().events()
    }

    async fn history(&self, service: &str, metric: &str) -> Result<Vec<Reading>, PortError> {
        match self.call(service, Request::History(metric.into())).await? {
            Response::History(readings) => Ok(readings),
            other => Err(unexpected(&other)),
        }
    }

    async fn knowledge(&self, service: &str) -> Result<BTreeMap<String, serde_json::Value>, PortError> {
        match self.call(service, Request::Knowledge).await? {
            Response::Knowledge(knowledge) => Ok(knowledge),
            other => Err(unexpected(&other)),
        }
    }

    async fn remember(
        &self,
        service: &str,
        key: &str,
        value: Option<serde_json::Value>,
    ) -> Result<(), PortError> {
        self.call(service, Request::Remember { key: key.into(), value }).await.map(drop)
    }

    async fn export(&self) -> Result<Vec<ExportedMetric>, PortError> {
        self.supervisor.export().await
    }

    fn figures(&self) -> Vec<Figure> {
        self.supervisor.figures()
    }

    fn stats(&self) -> SelfStats {
        self.supervisor.stats()
    }

    fn ready(&self) -> bool {
        self.supervisor.ready()
    }
}
