//! Programs that homeostat runs for services: each a process group of its own, started, kept running, and ended with everything that it started.
//!
//! Reading order: `machine` (what is done when; pure), `run` (doing it), `output` (what is printed), `guard` (when homeostat is killed).

mod guard;
mod machine;
mod output;
mod run;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use output::KEPT;

use super::Program;
use crate::connectors::Connectors;
use crate::model::process::{ProcessOrder, ProcessSpec, ProcessState, ProcessStatus};
use guard::Guard;
use output::Tail;
use run::{Ask, Driver};

/// How long an order is waited for; it goes on after that. Steps are waited for a little longer.
const ORDER_TIME: Duration = Duration::from_secs(110);

/// News of a program, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whose program.
    pub service: Arc<str>,
    /// What became of it.
    pub text: String,
}

/// The programs of all services. Clones share them; when the last is dropped, all are killed.
#[derive(Clone)]
pub struct Processes(Arc<Inner>);

struct Inner {
    runtime: tokio::runtime::Handle,
    tell: mpsc::UnboundedSender<Told>,
    guard: Arc<Guard>,
    all: Mutex<State>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    supervised: HashMap<Arc<str>, Supervised>,
    /// Those that are no longer wanted and have not ended yet.
    ending: Vec<(Arc<str>, JoinHandle<bool>)>,
}

struct Supervised {
    spec: Arc<ProcessSpec>,
    asks: mpsc::UnboundedSender<Ask>,
    status: watch::Receiver<ProcessStatus>,
    tail: Tail,
    task: JoinHandle<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.all.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.supervised.values().for_each(|s| s.task.abort());
        state.ending.iter().for_each(|(_, task)| task.abort());
    }
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}

impl Processes {
    /// None runs yet. Makes `process` sensors of a service's own program buildable. Must be called within a tokio runtime. The receiver is
    /// told what becomes of programs.
    pub fn new(connectors: &Connectors) -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (tell, told) = mpsc::unbounded_channel();
        let processes = Self(Arc::new(Inner {
            runtime: tokio::runtime::Handle::current(),
            tell,
            guard: Arc::default(),
            all: Mutex::default(),
            stopping: AtomicBool::new(false),
        }));
        let inner = Arc::downgrade(&processes.0);
        connectors.register_groups(move |service| {
            inner.upgrade()?.lock().supervised.get(service)?.status.borrow().pid
        });
        (processes, told)
    }

    /// Lets exactly these programs run from now on: what is no longer there is ended, what changed is ended and started as it is now, and
    /// what stays the same is not touched, whatever state it is in.
    pub fn set(&self, wanted: impl IntoIterator<Item = (Arc<str>, Arc<ProcessSpec>)>) {
        if self.0.stopping.load(Ordering::SeqCst) {
            return;
        }
        let mut wanted: HashMap<_, _> = wanted.into_iter().collect();
        let mut state = self.0.lock();
        let State { supervised, ending } = &mut *state;
        ending.retain(|(_, task)| !task.is_finished());
        let gone: Vec<Arc<str>> =
            supervised.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(old) = supervised.remove(&name) {
                let _ = old.asks.send(Ask::End);
                ending.push((name, old.task));
            }
        }
        for (name, old) in supervised.iter_mut() {
            if let Some(spec) = wanted.remove(name)
                && spec != old.spec
            {
                old.spec = spec.clone();
                let _ = old.asks.send(Ask::Spec(spec));
            }
        }
        for (name, spec) in wanted {
            supervised.insert(name.clone(), self.0.begin(name, spec));
        }
    }

    /// Carries out an order, and answers in words once it is: a start when the program is ready, a stop when its group is gone.
    ///
    /// # Errors
    /// Why it did not come to that.
    pub async fn order(&self, service: &str, order: ProcessOrder) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        match self.0.lock().supervised.get(service) {
            Some(supervised) => drop(supervised.asks.send(Ask::Order(order, answer))),
            None => return Err(format!("`{service}` has no process")),
        }
        match tokio::time::timeout(ORDER_TIME, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the process is no longer supervised".into()),
            Err(_) => Err(format!("no end of it after {} s; it goes on", ORDER_TIME.as_secs())),
        }
    }

    /// How the program of a service is, if it has one.
    pub fn status(&self, service: &str) -> Option<ProcessStatus> {
        let state = self.0.lock();
        let supervised = state.supervised.get(service)?;
        let status = supervised.status.borrow().clone();
        Some(ProcessStatus { output: supervised.tail.lines(), ..status })
    }

    /// What there is to know of the program of a service, without its output, whenever that is asked. Holds nothing alive.
    pub fn looks(&self) -> impl Fn(&str) -> Option<Program> + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.0);
        move |service| {
            let inner = inner.upgrade()?;
            let state = inner.lock();
            let supervised = state.supervised.get(service)?;
            Some(Program { spec: supervised.spec.clone(), status: supervised.status.borrow().clone() })
        }
    }

    /// How the program of a service is (without its output), from now on.
    pub fn watch(&self, service: &str) -> Option<watch::Receiver<ProcessStatus>> {
        self.0.lock().supervised.get(service).map(|s| s.status.clone())
    }

    /// Ends all of them at once, and none begins any more. Answers which were late: had to be killed, because they did not end within their
    /// grace or before the deadline.
    pub async fn stop(&self, deadline: Duration) -> Vec<String> {
        self.0.stopping.store(true, Ordering::SeqCst);
        let mut tasks: Vec<(Arc<str>, JoinHandle<bool>)> = {
            let mut state = self.0.lock();
            let State { supervised, ending } = &mut *state;
            for (name, old) in supervised.drain() {
                let _ = old.asks.send(Ask::End);
                ending.push((name, old.task));
            }
            std::mem::take(ending)
        };
        tasks.sort_by(|a, b| a.0.cmp(&b.0));
        let waits = tasks.into_iter().map(|(name, mut task)| async move {
            match tokio::time::timeout(deadline, &mut task).await {
                Ok(Ok(false)) => None,
                Ok(_) => Some(name),
                Err(_) => {
                    // Dropping what it holds kills the group.
                    task.abort();
                    let _ = task.await;
                    Some(name)
                }
            }
        });
        let late = futures::future::join_all(waits).await;
        late.into_iter().flatten().map(|name| format!("the process of `{name}`, which was killed")).collect()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, service: Arc<str>, spec: Arc<ProcessSpec>) -> Supervised {
        let (asks, asked) = mpsc::unbounded_channel();
        let first = ProcessStatus {
            state: ProcessState::Starting,
            pid: None,
            restarts: 0,
            reason: None,
            output: Vec::new(),
        };
        let (status, seen) = watch::channel(first);
        let tail = Tail::default();
        let driver = Driver {
            service,
            spec: spec.clone(),
            guard: self.guard.clone(),
            tail: tail.clone(),
            status,
            tell: self.tell.clone(),
            asks: asked,
        };
        let task = self.runtime.spawn(driver.run());
        Supervised { spec, asks, status: seen, tail, task }
    }
}

#[cfg(all(test, unix))]
mod tests;
