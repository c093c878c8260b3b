//! Programs that homeostat runs for services: each a process group of its own, started, kept running, and ended with everything that it started.
//!
//! Reading order: `machine` (what is done when; pure), `run` (doing it), `launch` (the start), `output` (what is printed), `guard` (when homeostat is killed),
//! `records` and `found` (what survives that).

#[cfg(target_os = "linux")]
mod found;
#[cfg(not(target_os = "linux"))]
#[path = "found_elsewhere.rs"]
mod found;
mod guard;
mod launch;
mod machine;
mod output;
mod records;
mod run;

use std::collections::HashMap;
use std::path::Path;
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
use records::{Record, Records};
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
    /// Where it is kept what survives homeostat.
    records: Option<Records>,
    /// What may go on from before, until it is known what is wanted.
    before: HashMap<String, Record>,
}

struct Supervised {
    spec: Arc<ProcessSpec>,
    asks: mpsc::UnboundedSender<Ask>,
    status: watch::Receiver<ProcessStatus>,
    tail: Tail,
    task: JoinHandle<bool>,
    /// An action wanted it stopped: it is not started because it is needed.
    stopped: bool,
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

    /// Lets programs survive homeostat that are to, by what is kept of them in `dir`; those that it finds there are taken over, or ended, when
    /// [`Processes::set`] first says what is wanted. To be called before that, by one homeostat at a time.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn keep_in(&self, dir: &Path) -> std::io::Result<()> {
        let records = Records::open(dir)?;
        let mut state = self.0.lock();
        state.before = records.all().into_iter().map(|record| (record.service.clone(), record)).collect();
        state.records = Some(records);
        Ok(())
    }

    /// Lets exactly these programs run from now on: what is no longer there is ended, what changed is ended and started as it is now, and
    /// what stays the same is not touched, whatever state it is in.
    pub fn set(&self, wanted: impl IntoIterator<Item = (Arc<str>, Arc<ProcessSpec>)>) {
        if self.0.stopping.load(Ordering::SeqCst) {
            return;
        }
        let mut wanted: HashMap<_, _> = wanted.into_iter().collect();
        let mut state = self.0.lock();
        let State { supervised, ending, records, before } = &mut *state;
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
            let before = before.remove(&*name);
            supervised.insert(name.clone(), self.0.begin(name, spec, true, records.clone(), before));
        }
        // Nobody wants these any more.
        for (name, record) in before.drain() {
            let (name, spec): (Arc<str>, _) = (name.into(), Arc::new(record.spec.clone()));
            let old = self.0.begin(name.clone(), spec, false, records.clone(), Some(record));
            let _ = old.asks.send(Ask::End);
            ending.push((name, old.task));
        }
    }

    /// Carries out an order, and answers in words once it is: a start when the program is ready, a stop when its group is gone.
    ///
    /// # Errors
    /// Why it did not come to that.
    pub async fn order(&self, service: &str, order: ProcessOrder) -> Result<String, String> {
        self.carry_out(service, order, order == ProcessOrder::Stop, ORDER_TIME).await
    }

    async fn carry_out(
        &self,
        service: &str,
        order: ProcessOrder,
        stopped: bool,
        limit: Duration,
    ) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        match self.0.lock().supervised.get_mut(service) {
            Some(supervised) => {
                supervised.stopped = stopped;
                drop(supervised.asks.send(Ask::Order(order, answer)));
            }
            None => return Err(format!("`{service}` has no process")),
        }
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the process is no longer supervised".into()),
            Err(_) => Err(format!("no end of it after {} s; it goes on", limit.as_secs())),
        }
    }

    /// Whether homeostat runs a program for a service.
    pub fn runs(&self, service: &str) -> bool {
        self.0.lock().supervised.contains_key(service)
    }

    /// The program of a service is needed: starts one that waits for that, unless an action has stopped it. Does not wait until it is ready.
    pub fn need(&self, service: &str) {
        let state = self.0.lock();
        if let Some(supervised) = state.supervised.get(service)
            && supervised.spec.on_demand()
            && !supervised.stopped
            && supervised.status.borrow().state == ProcessState::Stopped
        {
            let (answer, _) = oneshot::channel();
            let _ = supervised.asks.send(Ask::Order(ProcessOrder::Start, answer));
        }
    }

    /// Starts the program of a service, whatever has stopped it. Does not wait until it is ready.
    pub fn start(&self, service: &str) {
        if let Some(supervised) = self.0.lock().supervised.get_mut(service) {
            supervised.stopped = false;
            let (answer, _) = oneshot::channel();
            let _ = supervised.asks.send(Ask::Order(ProcessOrder::Start, answer));
        }
    }

    /// In which state the program of a service is, if it has one.
    pub fn state(&self, service: &str) -> Option<ProcessState> {
        self.0.lock().supervised.get(service).map(|s| s.status.borrow().state)
    }

    /// The program of a service is not needed any more, and is stopped; the next who needs it starts it again. Answers in words when its group
    /// is gone.
    ///
    /// # Errors
    /// Why it did not come to that within `limit`.
    pub async fn release(&self, service: &str, limit: Duration) -> Result<String, String> {
        self.carry_out(service, ProcessOrder::Stop, false, limit).await
    }

    /// Waits until the program of a service is ready, for at most `limit`; a service without one is.
    ///
    /// # Errors
    /// Why it is not, and will not be by itself.
    pub async fn ready(&self, service: &str, limit: Duration) -> Result<(), String> {
        let Some(mut status) = self.watch(service) else { return Ok(()) };
        let on_its_way = |state| matches!(state, ProcessState::Starting | ProcessState::Waiting);
        let settled = tokio::time::timeout(limit, status.wait_for(|s| !on_its_way(s.state))).await;
        let now = match settled {
            Ok(Ok(now)) => now.clone(),
            Ok(Err(_)) => return Err(format!("the process of `{service}` is no longer supervised")),
            Err(_) => {
                return Err(format!("the process of `{service}` is not ready after {} s", limit.as_secs()));
            }
        };
        match (now.state, now.reason) {
            (ProcessState::Running, _) => Ok(()),
            (state, Some(why)) => Err(format!("the process of `{service}` is {state}: {why}")),
            (state, None) => Err(format!("the process of `{service}` is {state}")),
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

    /// Ends all of them at once but those that survive, and none begins any more. Answers which were late: had to be killed, because they did not end within their
    /// grace or before the deadline.
    pub async fn stop(&self, deadline: Duration) -> Vec<String> {
        self.0.stopping.store(true, Ordering::SeqCst);
        let mut tasks: Vec<(Arc<str>, JoinHandle<bool>)> = {
            let mut state = self.0.lock();
            let State { supervised, ending, .. } = &mut *state;
            for (name, old) in supervised.drain() {
                let _ = old.asks.send(if old.spec.survive { Ask::Leave } else { Ask::End });
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

    fn begin(
        &self,
        service: Arc<str>,
        spec: Arc<ProcessSpec>,
        wanted: bool,
        records: Option<Records>,
        before: Option<Record>,
    ) -> Supervised {
        let (asks, asked) = mpsc::unbounded_channel();
        let first = ProcessStatus {
            state: if spec.on_demand() { ProcessState::Stopped } else { ProcessState::Starting },
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
            wanted,
            guard: self.guard.clone(),
            records,
            tail: tail.clone(),
            status,
            tell: self.tell.clone(),
            asks: asked,
        };
        let task = self.runtime.spawn(driver.run(before));
        Supervised { spec, asks, status: seen, tail, task, stopped: false }
    }
}

#[cfg(all(test, unix))]
mod tests;
