//! The asynchronous part of a supervised program: starts it, waits for it, signals its group. What to do when, `machine` says.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::Told;
use super::guard::Guard;
use super::machine::{Event, Machine, Order, Rules};
use super::output::{Tail, Watch, read};
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
}

/// A running program. Dropping it kills its whole group.
struct Live {
    child: Child,
    group: u32,
    guard: Arc<Guard>,
}

impl Drop for Live {
    fn drop(&mut self) {
        signal(self.group, StopSignal::Kill);
        self.guard.remove(self.group);
    }
}

fn signal(group: u32, signal: StopSignal) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
        use rustix::process::Signal;
        let signal = match signal {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Kill => Signal::KILL,
        };
        // An empty group is what is wanted.
        let _ = rustix::process::kill_process_group(group, signal);
    }
    #[cfg(not(unix))]
    let _ = (group, signal);
}

pub(super) struct Driver {
    pub(super) service: Arc<str>,
    pub(super) spec: Arc<ProcessSpec>,
    pub(super) guard: Arc<Guard>,
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
}

impl Driver {
    /// Runs the program until it is to end for good. Answers whether it had to be killed then.
    pub(super) async fn run(mut self) -> bool {
        let mut running = Running {
            machine: Machine::new(Rules::of(&self.spec)),
            live: None,
            ready: None,
            waiting: Vec::new(),
            begin: now(),
            ending: false,
        };
        if !self.spec.on_demand() {
            self.fold(&mut running, Event::Order(ProcessOrder::Start));
        }
        while !(running.ending && running.machine.settled()) {
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
                Some(live) => live.child.wait().await,
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
            ended = exited => {
                Some(Event::Exited(ended.map_or_else(|e| e.to_string(), |status| status.to_string())))
            }
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
                self.spec = spec;
                // What somebody stopped stays so, and what nobody has needed.
                match running.machine.state() {
                    ProcessState::Stopped => waited.then_some(Event::Order(ProcessOrder::Start)),
                    _ => Some(Event::Order(ProcessOrder::Restart)),
                }
            }
            Ask::End => {
                running.ending = true;
                Some(Event::Order(ProcessOrder::Stop))
            }
        }
    }

    fn fold(&mut self, running: &mut Running, event: Event) {
        let before = (running.machine.state(), running.machine.restarts());
        if matches!(event, Event::Exited(_)) {
            // Its number may be somebody else's soon; what is left of the group goes first.
            running.live = None;
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
            signal(live.group, with);
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

    /// Starts the program.
    ///
    /// # Errors
    /// In words.
    fn spawn(&self, running: &mut Running) -> Result<u32, String> {
        let (name, arguments) = self.spec.command.split_first().ok_or("the command is empty")?;
        let fail = |error: std::io::Error| format!("cannot start `{name}`: {error}");
        let program = match name.as_str() {
            "homeostat" => std::env::current_exe().map_err(fail)?,
            name => name.into(),
        };
        let mut command = Command::new(program);
        command.args(arguments).envs(&self.spec.environment).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = &self.spec.directory {
            command.current_dir(directory);
        }
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(fail)?;
        let group = child.id().ok_or_else(|| format!("cannot start `{name}`: it has no number"))?;
        self.guard.add(group);
        let watch = self.spec.ready.as_ref().and_then(|r| r.output.as_deref());
        let watch = watch.map(|part| Watch { part: part.into(), seen: Arc::new(Notify::new()) });
        running.ready = self.ready(watch.as_ref());
        if let Some(out) = child.stdout.take() {
            tokio::spawn(read(out, self.service.clone(), self.tail.clone(), watch.clone()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(read(err, self.service.clone(), self.tail.clone(), watch));
        }
        running.live = Some(Live { child, group, guard: self.guard.clone() });
        limit(&self.spec, group).inspect_err(|_| running.live = None)?;
        Ok(group)
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

/// Limits the first process, before it has done much; what it starts inherits them.
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
