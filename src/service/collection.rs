//! Who needs data of which metric, and where data and results go: between the shards, which need them, and whoever can send or observe them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use crate::model::Datum;
use crate::model::connector::CollectSensor;

/// One need: a service's sensor that is to be fed.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// Whose sensor.
    pub service: Arc<str>,
    /// Which sensor.
    pub sensor: Arc<str>,
    /// The metric as collectors call it.
    pub metric: Arc<str>,
    /// Whose data, and the parameters for collectors.
    pub spec: CollectSensor,
}

/// Is told results that are data of a metric, in the order of their windows; must not wait.
pub type Observer = Box<dyn Fn(&Arc<str>, &Arc<[Datum]>) + Send + Sync>;

/// The needs of all services, and who observes results.
pub struct Collection {
    wants: RwLock<BTreeMap<Arc<str>, Vec<Want>>>,
    /// How many needs there are of each metric.
    metrics: dashmap::DashMap<Arc<str>, usize>,
    observers: Mutex<Vec<Arc<Observer>>>,
    /// Who is told data that come from outside.
    listeners: RwLock<Vec<Observer>>,
    version: watch::Sender<u64>,
    emitted: AtomicU64,
}

impl Default for Collection {
    fn default() -> Self {
        Self {
            wants: RwLock::default(),
            metrics: dashmap::DashMap::new(),
            observers: Mutex::default(),
            listeners: RwLock::default(),
            version: watch::Sender::new(0),
            emitted: AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection").field("version", &*self.version.borrow()).finish_non_exhaustive()
    }
}

impl Collection {
    /// These are the needs of a service from now on.
    pub fn set(&self, service: &Arc<str>, wants: Vec<Want>) {
        let mut all = self.wants.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(service).map(Vec::as_slice).unwrap_or_default();
        if before == wants.as_slice() {
            return;
        }
        for want in &wants {
            *self.metrics.entry(want.metric.clone()).or_default() += 1;
        }
        for want in before {
            if let dashmap::Entry::Occupied(mut entry) = self.metrics.entry(want.metric.clone()) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
        match wants.is_empty() {
            true => drop(all.remove(service)),
            false => drop(all.insert(service.clone(), wants)),
        }
        drop(all);
        self.version.send_modify(|version| *version += 1);
    }

    /// Everything that is needed now, by service and sensor.
    pub fn wanted(&self) -> Vec<Want> {
        let wants = self.wants.read().unwrap_or_else(PoisonError::into_inner);
        wants.values().flatten().cloned().collect()
    }

    /// Whether somebody needs data of this metric now.
    pub fn wants(&self, metric: &str) -> bool {
        self.metrics.contains_key(metric)
    }

    /// Tells of every change of what is needed, by a number that rises.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Is told every result from now on.
    pub fn observe(&self, observer: Observer) {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(observer));
    }

    /// Is told all data from outside that somebody needs, from now on, as they come.
    pub fn overhear(&self, listener: Observer) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Tells listeners of data that have come.
    pub(super) fn come(&self, metric: &Arc<str>, data: &Arc<[Datum]>) {
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(metric, data);
        }
    }

    /// How many results there were.
    pub fn emitted(&self) -> u64 {
        self.emitted.load(Ordering::Relaxed)
    }

    /// Tells observers of results.
    pub(super) fn tell(&self, metric: &Arc<str>, data: &Arc<[Datum]>) {
        self.emitted.fetch_add(data.len() as u64, Ordering::Relaxed);
        let observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for observer in observers {
            observer(metric, data);
        }
    }
}
