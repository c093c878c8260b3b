//! The asynchronous part of a supervised program: starts it, waits for it, signals its group. What to do when, `machine` says.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::process::Child;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Told;
use super::found::{self, Found};
use super::guard::Guard;
use super::launch::launch;
use super::machine::{Event, Machine, Order, Rules};
use super::output::{Tail, Watch, follow, read};
use super::records::{Record, Records};
use crate::model::process::{ProcessOrder, ProcessSpec, ProcessState, ProcessStatus, StopSignal};

/// How often it is looked whether a program is ready.
const LOOK: Duration = Duration::from_millis(20);

/// How long one look may take.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// What may be asked of a driver.
pub(super) enum Ask {
    /// Carry this out, and say what came of it.
    Order(ProcessOrder, oneshot::Sender<Result<String, String>>),
    /// From now on it is this program.
    Spec(Arc<ProcessSpec>),
    /// End it; nothing follows.
    End,
    /// Let it go on without homeostat, if it runs and can; nothing follows.
    Leave,
}

/// A running program. Dropping it kills its whole group, unless it survives that.
struct Live {
    held: Held,
    group: u32,
    guard: Arc<Guard>,
    /// What is known of it in the state directory.
    record: Option<(Records, Record)>,
    survives: bool,
    /// Told when it has ended.
    ended: CancellationToken,
}

/// By what a program is held.
enum Held {
    /// It was started by this homeostat.
    Child(Child),
    /// It was started by one before.
    Found(Found),
}

impl Live {
    async fn wait(&mut self) -> String {
        match &mut self.held {
            Held::Child(child) => {
                child.wait().await.map_or_else(|e| e.to_string(), |status| status.to_string())
            }
            Held::Found(found) => found.ended().await,
        }
    }

    fn signal(&self, with: StopSignal) {
        match &self.held {
            Held::Child(_) => signal(self.group, with),
            #[cfg(target_os = "linux")]
            Held::Found(found) => found.signal(number(with)),
            #[cfg(not(target_os = "linux"))]
            Held::Found(_) => {}
        }
    }

    fn is_ready(&mut self) {
        if let Some((records, record)) = &mut self.record {
            record.ready = true;
            if let Err(error) = records.keep(record) {
                tracing::warn!(service = record.service, %error, "that its process is ready is not kept");
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.survives {
            self.signal(StopSignal::Kill);
            match &self.record {
                Some((records, record)) => records.forget(&record.service),
                None => self.guard.remove(self.group),
            }
        }
        self.ended.cancel();
    }
}

fn signal(group: u32, signal: StopSignal) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
        // An empty group is what is wanted.
        let _ = rustix::process::kill_process_group(group, number(signal));
    }
    #[cfg(not(unix))]
    let _ = (group, signal);
}

#[cfg(unix)]
fn number(signal: StopSignal) -> rustix::process::Signal {
    use rustix::process::Signal;
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Kill => Signal::KILL,
    }
}

pub(super) struct Driver {
    pub(super) service: Arc<str>,
    pub(super) spec: Arc<ProcessSpec>,
    /// Whether it is to run; otherwise it is only ended.
    pub(super) wanted: bool,
    pub(super) guard: Arc<Guard>,
    /// Where it is kept what survives homeostat, if anywhere.
    pub(super) records: Option<Records>,
    pub(super) tail: Tail,
    pub(super) status: watch::Sender<ProcessStatus>,
    pub(super) tell: mpsc::UnboundedSender<Told>,
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
}

/// What a driver holds beside what it was given.
struct Running {
    machine: Machine,
    live: Option<Live>,
    ready: Option<BoxFuture<'static, ()>>,
    waiting: Vec<(ProcessOrder, oneshot::Sender<Result<String, String>>)>,
    begin: tokio::time::Instant,
    ending: bool,
    /// It goes on alone.
    left: bool,
}

impl Driver {
    /// Runs the program until it is to end for good, or is left alone. Answers whether it had to be killed then. With a record of one that may go on
    /// from before, that is taken over; and ended first if it is not what would be started now.
    pub(super) async fn run(mut self, before: Option<Record>) -> bool {
        let mut running = Running {
            machine: Machine::new(Rules::of(&self.spec)),
            live: None,
            ready: None,
            waiting: Vec::new(),
            begin: now(),
            ending: false,
            left: false,
        };
        if let Some(record) = before {
            self.take_over(&mut running, record);
        }
        if self.wanted && !self.spec.on_demand() {
            self.fold(&mut running, Event::Order(ProcessOrder::Start));
        }
        while !(running.left || running.ending && running.machine.settled()) {
            let event = self.next(&mut running).await;
            if let Some(event) = event {
                self.fold(&mut running, event);
            }
        }
        running.machine.killed()
    }

    async fn next(&mut self, running: &mut Running) -> Option<Event> {
        let wake = running.machine.wake().map(|at| running.begin + at);
        let Running { live, ready, machine, ending, .. } = running;
        let exited = async {
            match live {
                Some(live) => live.wait().await,
                None => std::future::pending().await,
            }
        };
        let is_ready = async {
            match ready {
                Some(ready) if machine.warming() => ready.await,
                _ => std::future::pending().await,
            }
        };
        let time = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Nothing follows the order to end, and a channel without a sender would answer at once for ever.
            ask = self.asks.recv(), if !*ending => self.asked(ask.unwrap_or(Ask::End), running),
            how = exited => Some(Event::Exited(how)),
            () = is_ready => {
                running.ready = None;
                Some(Event::Ready)
            }
            () = time => Some(Event::Time),
        }
    }

    fn asked(&mut self, ask: Ask, running: &mut Running) -> Option<Event> {
        match ask {
            Ask::Order(order, answer) => {
                running.waiting.push((order, answer));
                Some(Event::Order(order))
            }
            Ask::Spec(spec) => {
                running.machine.set_rules(Rules::of(&spec));
                let waited = self.spec.on_demand() && !spec.on_demand();
                let same = ProcessSpec { start: spec.start, ..(*self.spec).clone() } == *spec;
                self.spec = spec;
                // What somebody stopped stays so, and what nobody has needed.
                match running.machine.state() {
                    ProcessState::Stopped => waited.then_some(Event::Order(ProcessOrder::Start)),
                    // When it is started says nothing about one that was.
                    _ if same => None,
                    _ => Some(Event::Order(ProcessOrder::Restart)),
                }
            }
            Ask::End => self.end(running),
            Ask::Leave => match (&running.live, running.machine.state()) {
                (Some(live), ProcessState::Starting | ProcessState::Running) if live.survives => {
                    let text = format!("its process goes on without homeostat (pid {})", live.group);
                    let _ = self.tell.send(Told { service: self.service.clone(), text });
                    running.left = true;
                    None
                }
                _ => self.end(running),
            },
        }
    }

    fn end(&self, running: &mut Running) -> Option<Event> {
        running.ending = true;
        if let Some(live) = &mut running.live {
            live.survives = false;
        }
        Some(Event::Order(ProcessOrder::Stop))
    }

    /// Takes over what a homeostat before this one has started, if it still runs.
    fn take_over(&mut self, running: &mut Running, record: Record) {
        let Some(found) = Found::again(&record) else {
            if let Some(records) = &self.records {
                records.forget(&record.service);
            }
            let text = format!("its process was to go on (pid {}), and is gone", record.pid);
            let _ = self.tell.send(Told { service: self.service.clone(), text });
            return;
        };
        let (pid, ready, same) = (record.pid, record.ready, self.spec.starts_the_same(&record.spec));
        let watch = self.watch();
        running.ready = self.ready(watch.as_ref());
        let ended = CancellationToken::new();
        if let Some(records) = &self.records {
            let path = records.output(&record.service);
            let out = follow(path, ready, self.service.clone(), self.tail.clone(), watch, ended.clone());
            tokio::spawn(out);
        }
        running.live = Some(Live {
            held: Held::Found(found),
            group: pid,
            guard: self.guard.clone(),
            record: self.records.clone().map(|records| (records, record)),
            survives: true,
            ended,
        });
        self.fold(running, Event::Found { pid, ready });
        if !same {
            self.fold(running, Event::Order(ProcessOrder::Restart));
        }
    }

    fn fold(&mut self, running: &mut Running, event: Event) {
        let before = (running.machine.state(), running.machine.restarts());
        match (&event, &mut running.live) {
            (Event::Exited(_), Some(live)) => {
                // Its number may be somebody else's soon; what is left of the group goes first.
                live.survives = false;
                running.live = None;
            }
            (Event::Ready, Some(live)) => live.is_ready(),
            _ => {}
        }
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut orders = Vec::new();
            running.machine.fold(now() - running.begin, event, &mut orders);
            for order in orders {
                match order {
                    Order::Spawn => events.push(match self.spawn(running) {
                        Ok(pid) => Event::Started(pid),
                        Err(why) => Event::NotStarted(why),
                    }),
                    Order::Ask(_) => self.send(running, self.stop_signal()),
                    Order::Kill(_) => self.send(running, StopSignal::Kill),
                }
            }
        }
        self.publish(&running.machine, before);
        if running.machine.settled() {
            for (order, answer) in running.waiting.drain(..) {
                let _ = answer.send(came_of(order, &running.machine));
            }
        }
    }

    fn stop_signal(&self) -> StopSignal {
        self.spec.stop.as_ref().map(|s| s.signal).unwrap_or_default()
    }

    fn send(&self, running: &Running, with: StopSignal) {
        if let Some(live) = &running.live {
            live.signal(with);
        }
    }

    fn publish(&self, machine: &Machine, before: (ProcessState, u64)) {
        let status = ProcessStatus {
            state: machine.state(),
            pid: machine.pid(),
            restarts: machine.restarts(),
            reason: machine.reason().map(str::to_string),
            output: Vec::new(),
        };
        if (status.state, status.restarts) != before {
            let _ = self.tell.send(Told { service: self.service.clone(), text: in_words(&status) });
        }
        self.status.send_replace(status);
    }

    /// Starts the program. Everything that is set for it, and that it is known of, comes before its first instruction.
    ///
    /// # Errors
    /// In words.
    fn spawn(&self, running: &mut Running) -> Result<u32, String> {
        let kept = self.kept()?;
        let output = kept.as_ref().map(|records| records.new_output(&self.service)).transpose();
        let output = output.map_err(|error| format!("there is no place for its output: {error}"))?;
        // It must not begin before the guard knows of it: homeostat may be killed in between.
        let gated = cfg!(unix) || kept.is_some() || self.spec.limits.is_some();
        let mut launched = launch(&self.spec, gated, output)?;
        let group = launched.child.id().ok_or("it has ended before it began")?;
        let watch = self.watch();
        running.ready = self.ready(watch.as_ref());
        let ended = CancellationToken::new();
        let (service, tail) = (self.service.clone(), self.tail.clone());
        if let Some(records) = &kept {
            let path = records.output(&service);
            tokio::spawn(follow(path, false, service.clone(), tail.clone(), watch.clone(), ended.clone()));
        } else {
            self.guard.add(group);
        }
        if let Some(out) = launched.child.stdout.take() {
            tokio::spawn(read(out, service.clone(), tail.clone(), watch.clone()));
        }
        if let Some(err) = launched.child.stderr.take() {
            tokio::spawn(read(err, service, tail, watch));
        }
        let prepared = self.record(kept.clone(), group).and_then(|record| {
            limit(&self.spec, group)?;
            launched.begin().map_err(|error| format!("it does not begin: {error}"))?;
            Ok(record)
        });
        let (record, failed) = match prepared {
            Ok(record) => (record, None),
            Err(why) => (None, Some(why)),
        };
        let survives = record.is_some();
        let held = Held::Child(launched.child);
        running.live = Some(Live { held, group, guard: self.guard.clone(), record, survives, ended });
        if let Some(why) = failed {
            running.live = None;
            if let Some(records) = kept {
                records.forget(&self.service);
            }
            return Err(why);
        }
        Ok(group)
    }

    /// Where it is kept that the program goes on, if it is to.
    ///
    /// # Errors
    /// When the system has no means for that.
    fn kept(&self) -> Result<Option<Records>, String> {
        if !self.spec.survive {
            return Ok(None);
        }
        if !cfg!(target_os = "linux") {
            return Err("programs can survive homeostat on Linux only".into());
        }
        if self.records.is_none() {
            let text = "its process ends with homeostat: to survive, it needs a data directory".into();
            let _ = self.tell.send(Told { service: self.service.clone(), text });
        }
        Ok(self.records.clone())
    }

    fn record(&self, kept: Option<Records>, group: u32) -> Result<Option<(Records, Record)>, String> {
        let Some(records) = kept else { return Ok(None) };
        let record = found::record(&self.service, group, &self.spec);
        let kept = record.and_then(|record| records.keep(&record).map(|()| record));
        kept.map(|record| Some((records, record)))
            .map_err(|error| format!("it cannot be kept that it goes on: {error}"))
    }

    fn watch(&self) -> Option<Watch> {
        let part = self.spec.ready.as_ref()?.output.as_deref()?;
        Some(Watch { part: part.into(), seen: Arc::new(Notify::new()) })
    }

    /// Ends once the program shows that it is ready.
    fn ready(&self, watch: Option<&Watch>) -> Option<BoxFuture<'static, ()>> {
        let ready = self.spec.ready.clone()?;
        if let Some(watch) = watch.cloned() {
            return Some(async move { watch.seen.notified().await }.boxed());
        }
        Some(
            async move {
                let client = reqwest::Client::builder().no_proxy().timeout(LOOK_TIME).build();
                loop {
                    let good = match (&ready.port, &ready.http, &client) {
                        (Some(port), ..) => {
                            let connect = tokio::net::TcpStream::connect(port);
                            matches!(tokio::time::timeout(LOOK_TIME, connect).await, Ok(Ok(_)))
                        }
                        (None, Some(url), Ok(client)) => {
                            client.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
                        }
                        _ => false,
                    };
                    if good {
                        return;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
            .boxed(),
        )
    }
}

/// What an order came to, once all is settled.
fn came_of(order: ProcessOrder, machine: &Machine) -> Result<String, String> {
    let state = machine.state();
    let reason = machine.reason().unwrap_or("ordered otherwise meanwhile");
    match (order, state) {
        (ProcessOrder::Stop, ProcessState::Stopped) => Ok(machine.reason().unwrap_or_default().to_string()),
        (ProcessOrder::Stop, _) => Err(format!("it is {state}: {reason}")),
        (_, ProcessState::Running) => Ok(machine.pid().map(|pid| format!("pid {pid}")).unwrap_or_default()),
        (_, _) => Err(format!("it is {state}: {reason}")),
    }
}

fn in_words(status: &ProcessStatus) -> String {
    let mut text = format!("its process is {}", status.state);
    if let Some(pid) = status.pid {
        text.push_str(&format!(" (pid {pid})"));
    }
    if let Some(reason) = &status.reason {
        text.push_str(&format!(": {reason}"));
    }
    text
}

/// Limits the first process; what it starts inherits them.
#[cfg(target_os = "linux")]
fn limit(spec: &ProcessSpec, pid: u32) -> Result<(), String> {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let Some(limits) = &spec.limits else { return Ok(()) };
    let memory = limits.memory.as_ref().map(crate::model::process::Size::bytes).transpose()?;
    let all = [
        ("cpu", Resource::Cpu, limits.cpu.map(|c| c.0.as_secs())),
        ("memory", Resource::As, memory),
        ("descriptors", Resource::Nofile, limits.descriptors),
    ];
    for (name, resource, value) in all {
        if let Some(value) = value {
            let limit = Rlimit { current: Some(value), maximum: Some(value) };
            match prlimit(i32::try_from(pid).ok().and_then(Pid::from_raw), resource, limit) {
                // It has ended already, which is told where it is waited for.
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(format!("its limit `{name}` of {value} cannot be set: {error}")),
            }
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn limit(spec: &ProcessSpec, _pid: u32) -> Result<(), String> {
    match &spec.limits {
        None => Ok(()),
        Some(_) => Err("limits can be set on Linux only".into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "grace and pauses are differences of the machine's own clock")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
