//! Names become numbers at the edge, once: services and metric names of this process. Numbers are never reused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;

use crate::model::{MetricId, ServiceId};

/// The numbers of services and of metric names. Shared by everybody; cheap to read from many threads.
#[derive(Debug, Default)]
pub struct Names {
    services: DashMap<Arc<str>, ServiceId>,
    service_names: DashMap<ServiceId, Arc<str>>,
    metrics: DashMap<Arc<str>, MetricId>,
    metric_names: DashMap<MetricId, Arc<str>>,
    next_service: AtomicU32,
    next_metric: AtomicU32,
}

impl Names {
    /// The number of a service, given now if it has none.
    pub fn service(&self, name: &str) -> ServiceId {
        if let Some(id) = self.services.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        *self.services.entry(name.clone()).or_insert_with(|| {
            let id = ServiceId(self.next_service.fetch_add(1, Ordering::Relaxed));
            self.service_names.insert(id, name);
            id
        })
    }

    /// The number of a metric name, given now if it has none.
    pub fn metric(&self, name: &str) -> MetricId {
        if let Some(id) = self.metrics.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        *self.metrics.entry(name.clone()).or_insert_with(|| {
            let id = MetricId(self.next_metric.fetch_add(1, Ordering::Relaxed));
            self.metric_names.insert(id, name);
            id
        })
    }

    /// The number of a metric name, if it has one: pushes of names that nobody declared must not fill the memory.
    pub fn known_metric(&self, name: &str) -> Option<MetricId> {
        self.metrics.get(name).map(|id| *id)
    }

    /// The number of a service, if it has one.
    pub fn known_service(&self, name: &str) -> Option<ServiceId> {
        self.services.get(name).map(|id| *id)
    }

    /// The service with this number.
    pub fn service_name(&self, id: ServiceId) -> Option<Arc<str>> {
        self.service_names.get(&id).map(|n| n.clone())
    }

    /// The metric name with this number.
    pub fn metric_name(&self, id: MetricId) -> Option<Arc<str>> {
        self.metric_names.get(&id).map(|n| n.clone())
    }
}
