//! What stands around a service that knows nothing of it: a port in front of it that measures every call, and local ports for what it uses, whose targets
//! change while calls flow. The membrane decides nothing: it brings samples as a sensor does, and carries out what an executor was told.
//!
//! Reading order: `target` (where calls lead, how they are shared, and what a switch guarantees), `port` (of a reference), over `candidate` (who may get calls),
//! `health` and `news`; `front` and `room` (what a port allows); `relay` (HTTP/1), over `head` and `chunked`, `h2`, `tcp`; `meter` (what is
//! measured) and `sensor`; `gate` (a listening port); `process` (a program, started and ended); `property` (the generic proxy of S4, on a port of its own).

mod candidate;
mod chunked;
mod front;
mod gate;
mod h2;
mod head;
mod health;
mod live;
mod meter;
mod news;
mod port;
pub mod process;
mod property;
mod relay;
mod room;
mod sensor;
mod tap;
mod target;
mod tcp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use front::Limits;
pub use gate::Trouble;
pub use live::{LiveError, Running};
pub use meter::{FailureKind, Gauge, MAX_ROUTES, Meter, OTHER};
pub use news::News;
pub use property::{Beside, Program};

use crate::connectors::Connectors;
use crate::model::Action;
use crate::model::calls::{CandidateStatus, LimitsSpec, Port};
use crate::model::connector::{ConnectorError, TookPlace};
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::manage::{Manage, SubscriptionMode};
use crate::model::module::{Module, Modules};
use candidate::Candidate;
use front::Front;
use gate::{Door, Gate};
use live::Live;
use news::Board;
use port::{Places, PortGate};
use property::Manager;
use room::Room;
use target::{Lead, Pool, Slot, Target};

/// Calls that are still on their way to where a reference led before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underway {
    /// The reference.
    pub reference: Arc<str>,
    /// The service that they go to.
    pub service: Arc<str>,
    /// How many.
    pub calls: usize,
}

/// A target that a reference leads to no more.
#[derive(Debug)]
pub struct Left {
    /// The reference.
    pub reference: Arc<str>,
    target: Arc<Target>,
}

impl Left {
    /// The service that it led to.
    pub fn service(&self) -> &Arc<str> {
        &self.target.name
    }

    /// Waits until no later call can reach it, and calls that were on their way there are over, or so long; answers those that are not.
    pub async fn over(self, patience: Duration) -> Option<Underway> {
        let calls = self.target.drained(patience).await;
        (calls > 0).then(|| Underway { reference: self.reference, service: self.target.name.clone(), calls })
    }
}

impl std::fmt::Display for Underway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {} calls are still on their way to `{}`", self.reference, self.calls, self.service)
    }
}

/// The modules of this process; all, unless it is a micro-container.
static MODULES: OnceLock<Modules> = OnceLock::new();

/// Lets every membrane of this process from now on have these modules only: what no module does is not opened, whatever a policy says (R4-21).
pub fn only(modules: Modules) {
    // The first call holds: what a container is packed with does not change while it runs.
    let _ = MODULES.set(modules);
}

/// Where a service listens, and where homeostat listens for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Its name.
    pub name: Arc<str>,
    /// Where homeostat stands in front of it.
    pub listen: Option<SocketAddr>,
    /// Where it listens itself.
    pub endpoint: Option<Endpoint>,
    /// What of it can be managed, and where homeostat listens for that.
    pub manage: Option<Manage>,
    /// What homeostat allows in front of it.
    pub limits: LimitsSpec,
}

/// The membranes of all services of a process. Clones share them.
#[derive(Clone)]
pub struct Membrane(Arc<Inner>);

struct Inner {
    runtime: tokio::runtime::Handle,
    limits: Limits,
    modules: Modules,
    shared: property::Shared,
    state: Mutex<State>,
    stopping: CancellationToken,
    /// Cuts off who is still inside.
    cut: CancellationToken,
    tasks: TaskTracker,
    board: Board,
}

#[derive(Default)]
struct State {
    services: HashMap<Arc<str>, Served>,
    meters: HashMap<Arc<str>, Arc<Meter>>,
    fronts: HashMap<Arc<str>, Gate>,
    managed: HashMap<Arc<str>, Managed>,
    /// The services that listen themselves where homeostat does, and which process is meant.
    live: HashMap<Arc<str>, Option<u32>>,
    /// By service and reference.
    ports: HashMap<Key, PortGate>,
}

/// What is offered of a service, on a listener of its own if it has one; its subscriptions end when it is dropped.
struct Managed {
    door: Option<Door>,
    manager: Arc<arc_swap::ArcSwap<Manager>>,
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.manager.load().end(None);
    }
}

/// A service and a reference of it.
type Key = (Arc<str>, Arc<str>);

impl std::fmt::Debug for Membrane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membrane").finish_non_exhaustive()
    }
}

impl Membrane {
    /// Nothing is open yet. Makes `proxy` and `property` sensors buildable. Must be called within a tokio runtime.
    pub fn new(connectors: &Connectors, limits: Limits) -> Self {
        let membrane = Self(Arc::new(Inner {
            runtime: tokio::runtime::Handle::current(),
            limits,
            modules: MODULES.get().cloned().unwrap_or_default(),
            shared: property::Shared::new(connectors),
            state: Mutex::default(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            board: Board::default(),
        }));
        let inner = Arc::downgrade(&membrane.0);
        connectors.register_proxy(move |service, spec| {
            let Some(inner) = inner.upgrade() else {
                return Err(crate::model::connector::ConnectorError::Config("the membrane is gone".into()));
            };
            let meter = match &spec.reference {
                Some(reference) => inner.state().meter(&through(service, reference)),
                None => inner.state().meter(service),
            };
            let (inner, service) = (Arc::downgrade(&inner), service.to_string());
            let known = (inner.clone(), service.clone(), spec.reference.clone());
            let candidates = move || known.0.upgrade()?.state().candidates(&known.1, known.2.as_deref()?);
            let reference = spec.reference.clone();
            let reason = move || inner.upgrade()?.state().trouble_at(&service, reference.as_deref());
            Ok(sensor::sensor(spec, meter, Arc::new(reason), Arc::new(candidates)))
        });
        let inner = Arc::downgrade(&membrane.0);
        connectors.register_property(move |service, spec| {
            let (inner, service) = (inner.clone(), service.to_string());
            // Looked up at each read: a reload may offer it otherwise.
            let manager =
                move || Some(inner.upgrade()?.state().managed.get(service.as_str())?.manager.load_full());
            let sensor = property::PropertyReader::new(&spec.name, manager);
            Ok(crate::model::connector::BuiltSensor::Polled(Box::new(sensor)))
        });
        membrane
    }

    /// Stands in front of exactly these services from now on. What stays the same is not touched, and who is inside stays inside.
    /// Answers what cannot be opened at present; that is tried again until it can.
    pub fn set_services(&self, services: impl IntoIterator<Item = Served>) -> Vec<(Arc<str>, Trouble)> {
        let _entered = self.0.runtime.enter();
        let mut state = self.0.state();
        let services = services.into_iter().map(|s| self.0.packed(s));
        state.services = services.map(|s| (s.name.clone(), s)).collect();
        let State { services, fronts, live, .. } = &mut *state;
        fronts.retain(|name, gate| {
            let same = |s: &Served| s.listen == Some(gate.listen) && s.endpoint.is_some();
            let meant = gate.is_live().then_some(gate.pid);
            services.get(name).is_some_and(same) && meant == live.get(name).copied()
        });
        let served: Vec<(Arc<str>, SocketAddr, Endpoint, Limits)> = services
            .values()
            .filter_map(|s| {
                Some((s.name.clone(), s.listen?, s.endpoint.clone()?, self.0.limits.with(&s.limits, 0)))
            })
            .collect();
        for (name, listen, endpoint, limits) in served {
            match state.fronts.get(&name) {
                Some(gate) => {
                    gate.front.allow(limits);
                    gate.front.stand_before(&name, &endpoint);
                }
                None => {
                    let lead =
                        Lead::To(Pool::of(Target::new(Candidate::new(name.clone()), endpoint.address)));
                    let (stopping, tasks) = (&self.0.stopping, &self.0.tasks);
                    let pid = state.live.get(&name).copied();
                    let live = pid.map(|_| Arc::<Live>::default());
                    let mut front = self.0.front(lead, endpoint.protocol, state.meter(&name), true);
                    front.live = live.clone();
                    let front = Arc::new(front);
                    front.allow(limits);
                    let gate = match live {
                        None => Gate::open(listen, front, stopping, tasks),
                        Some(live) => Gate::open_live(listen, (front, live), pid.flatten(), stopping, tasks),
                    };
                    if gate.trouble().is_some() && !gate.is_live() {
                        self.0.lead_through_once(gate.opens(), Arc::downgrade(&self.0));
                    }
                    state.fronts.insert(name, gate);
                }
            }
        }
        self.0.manage(&mut state);
        state.forget_meters();
        let State { services, ports, .. } = &mut *state;
        ports.retain(|(service, _), _| services.contains_key(service));
        state.lead_all();
        let fronts = state.fronts.iter().map(|(name, gate)| (name, gate.trouble()));
        let doors = state.managed.iter().filter_map(|(name, managed)| Some((name, managed.door.as_ref()?)));
        let managed = doors.map(|(name, door)| (name, door.trouble()));
        fronts.chain(managed).filter_map(|(name, trouble)| Some((name.clone(), trouble?))).collect()
    }

    /// Which services listen themselves where homeostat is to listen for them (R4-28), and which of several processes is meant; holds from the next
    /// [`Membrane::set_services`].
    pub fn set_live(&self, services: impl IntoIterator<Item = (Arc<str>, Option<u32>)>) {
        self.0.state().live = services.into_iter().collect();
    }

    /// Leaves the place in front of a running service: new connections go to it at once. Ends when the last connection that came here has; connections
    /// that are kept are ended with the next answer, or when idle.
    pub async fn leave(&self, service: &str) {
        let live = self.0.state().fronts.get(service).and_then(|gate| gate.front.live.clone());
        if let Some(live) = live {
            live.leave().await;
        }
    }

    /// The modules of this process.
    pub fn modules(&self) -> &Modules {
        &self.0.modules
    }

    /// Lets exactly these local ports of a service be open, and lead there. What stays the same is not touched.
    pub fn set_ports(&self, service: &Arc<str>, ports: Vec<Port>) -> Vec<Left> {
        self.set_ports_but(service, ports, &[])
    }

    /// As [`Membrane::set_ports`], but those of the references `held`, which are open, stay as they are. Answers which targets that they led to they lead
    /// to no more.
    pub fn set_ports_but(&self, service: &Arc<str>, mut ports: Vec<Port>, held: &[Arc<str>]) -> Vec<Left> {
        if !self.0.modules.has(Module::References) {
            ports.clear();
        }
        let _entered = self.0.runtime.enter();
        let mut state = self.0.state();
        if !state.services.contains_key(service) {
            // Detached meanwhile.
            return Vec::new();
        }
        let gone = |(of, reference): &Key, port: &mut PortGate| {
            of == service && !ports.iter().any(|p| p.reference == *reference && p.listen == port.gate.listen)
        };
        let mut closed: HashMap<Key, PortGate> = state.ports.extract_if(gone).collect();
        let mut left = Vec::new();
        for port in ports.into_iter().filter(|port| !held.contains(&port.reference)) {
            let key = (service.clone(), port.reference.clone());
            if !state.ports.contains_key(&key) {
                let meter = state.meter(&through(service, &port.reference));
                let front = Arc::new(self.0.front(port::unbound(&key), Protocol::Http, meter, false));
                let gate = Gate::open(port.listen, front, &self.0.stopping, &self.0.tasks);
                if let Some(trouble) = gate.trouble() {
                    tracing::warn!(%service, reference = %port.reference, why = %trouble.0, "a port of a reference is not open");
                }
                let tell = self.0.board.about(service, &port.reference);
                let mut open = PortGate::new(gate, tell);
                if let Some(old) = closed.remove(&key) {
                    open.follows(old);
                }
                state.ports.insert(key.clone(), open);
            }
            left.extend(state.set_port(key, port, self.0.limits));
        }
        left
    }

    /// Lets an open port of a service lead where it is to now, under what holds now; others stay as they are. Answers which targets it leads to no more.
    pub fn set_port(&self, service: &Arc<str>, port: Port) -> Vec<Left> {
        let _entered = self.0.runtime.enter();
        self.0.state().set_port((service.clone(), port.reference.clone()), port, self.0.limits)
    }

    /// Whether calls through the port of a reference may reach a service at present; `None` when it is not open as it is to be, or leads nowhere.
    pub fn leads_to(&self, service: &Arc<str>, port: &Port, to: &str) -> Option<bool> {
        let state = self.0.state();
        let open = state.ports.get(&(service.clone(), port.reference.clone()))?;
        (open.gate.listen == port.listen && open.leads()).then(|| open.reaches(to))
    }

    /// Lets references of a service lead elsewhere; references without a local port are left out. Answers, in words, once no later call can
    /// reach what they led to before, and calls that were on their way there are over, or [`Limits::patience`] is.
    ///
    /// # Errors
    /// When a target has no endpoint; nothing has changed then.
    pub async fn lead(
        &self,
        service: &Arc<str>,
        moves: &[(Arc<str>, Option<Arc<str>>)],
    ) -> Result<String, String> {
        let rest = self.lead_within(service, moves, self.0.limits.patience).await?;
        Ok(rest.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// As [`Membrane::lead`], with a patience of one's own; answers what is still on its way.
    ///
    /// # Errors
    /// As [`Membrane::lead`].
    pub async fn lead_within(
        &self,
        service: &Arc<str>,
        moves: &[(Arc<str>, Option<Arc<str>>)],
        patience: Duration,
    ) -> Result<Vec<Underway>, String> {
        let before: Vec<Left> = {
            let _entered = self.0.runtime.enter();
            let mut state = self.0.state();
            let known = |(reference, _): &&(Arc<str>, Option<Arc<str>>)| {
                state.ports.contains_key(&(service.clone(), reference.clone()))
            };
            let moves: Vec<_> = moves.iter().filter(known).collect();
            let State { services, fronts, ports, .. } = &mut *state;
            let places = Places { services, fronts };
            for (_, to) in &moves {
                if let Some(to) = to {
                    places.target(to)?;
                }
            }
            let mut before = Vec::new();
            for (reference, to) in moves {
                let key = (service.clone(), reference.clone());
                let Some(port) = ports.get_mut(&key) else { continue };
                let left = port.lead(&key, to.clone(), places);
                before.extend(left.into_iter().map(|target| Left { reference: reference.clone(), target }));
            }
            before
        };
        let waits = before.into_iter().map(|left| left.over(patience));
        Ok(futures::future::join_all(waits).await.into_iter().flatten().collect())
    }

    /// A reference whose calls may reach a service at present, as `service.reference`.
    pub fn reached(&self, service: &str) -> Option<String> {
        let state = self.0.state();
        let mut ports: Vec<_> = state.ports.iter().filter(|(_, port)| port.reaches(service)).collect();
        ports.sort_by_key(|(key, _)| *key);
        ports.first().map(|((of, reference), _)| format!("{of}.{reference}"))
    }

    /// What is measured of a service.
    pub fn meter(&self, service: &str) -> Arc<Meter> {
        self.0.state().meter(service)
    }

    /// What is measured of the calls through the port of a reference, if that is open.
    pub fn port_meter(&self, service: &str, reference: &str) -> Option<Arc<Meter>> {
        let state = self.0.state();
        state.ports.get(&(service.into(), reference.into())).map(|port| port.gate.front.meter.clone())
    }

    /// How the services stand that a reference may lead to, in the order of its policy; `None` without a port.
    pub fn candidates(&self, service: &str, reference: &str) -> Option<Vec<CandidateStatus>> {
        self.0.state().candidates(service, reference)
    }

    /// What people are told of references from now on; whoever asked before is told nothing more.
    pub fn news(&self) -> tokio::sync::mpsc::UnboundedReceiver<News> {
        self.0.board.read()
    }

    /// Where homeostat listens for a service: as asked for, with a port of its own where any was.
    pub fn address(&self, service: &str) -> Option<SocketAddr> {
        self.0.state().fronts.get(service).map(|gate| gate.address)
    }

    /// Where homeostat listens for managers of a service.
    pub fn manage_address(&self, service: &str) -> Option<SocketAddr> {
        self.0.state().managed.get(service)?.door.as_ref().map(|door| door.address)
    }

    /// What properties are read from beside files and the service itself. To be said before services are set.
    pub fn beside(&self) -> &Beside {
        &self.0.shared.beside
    }

    /// The routes of the management listener of a service (`/_mon/…`), for a listener that has other routes too.
    pub fn management(&self, service: &str) -> axum::Router {
        let (inner, service) = (Arc::downgrade(&self.0), service.to_string());
        let nothing = Arc::new(Manager::nothing(&service, &self.0.shared));
        // Looked up at each request: a reload may offer it otherwise.
        property::routes(property::Now::new(move || {
            let managed = inner.upgrade().and_then(|inner| inner.state().manager(&service));
            managed.unwrap_or_else(|| nothing.clone())
        }))
    }

    /// Carries out a `set` or `invoke` on the properties and methods of a service; answers what is to be told of it.
    ///
    /// # Errors
    /// Why it was not, in words.
    pub async fn carry_out(&self, service: &str, action: &Action) -> Result<String, ConnectorError> {
        let manager = self.0.state().manager(service);
        let manager =
            manager.ok_or_else(|| ConnectorError::Config(format!("`{service}` is not managed here")))?;
        manager.carry_out(action).await.map_err(ConnectorError::Answer)
    }

    /// Whether an action that was interrupted took place, as far as a property of the service shows it; the service may not be stood around yet.
    ///
    /// # Errors
    /// Why it cannot be seen.
    pub async fn took_place(&self, served: &Served, action: &Action) -> Result<TookPlace, ConnectorError> {
        let Some(manage) = &served.manage else { return Ok(TookPlace::Unknown) };
        let (endpoint, stopping) = (served.endpoint.as_ref(), &self.0.stopping);
        let manager = Manager::new(&served.name, manage, endpoint, None, None, &self.0.shared, stopping);
        manager.took_place(action).await.map_err(ConnectorError::Unreachable)
    }

    /// Where homeostat listens for a reference.
    pub fn port_address(&self, service: &str, reference: &str) -> Option<SocketAddr> {
        let state = self.0.state();
        state.ports.get(&(service.into(), reference.into())).map(|p| p.gate.address)
    }

    /// Why the port in front of a service is not open, if it should be and is not.
    pub fn trouble(&self, service: &str) -> Option<Trouble> {
        self.0.state().trouble(service)
    }

    /// Closes all ports, lets calls end, and at the deadline cuts them off. Answers whether none was.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let live: Vec<Arc<str>> = self.0.state().live.keys().cloned().collect();
        let end = async {
            let leave = futures::future::join_all(live.iter().map(|service| self.leave(service)));
            let _ = tokio::time::timeout(deadline / 2, leave).await;
            self.0.stopping.cancel();
            self.0.tasks.close();
            self.0.tasks.wait().await;
        };
        let ended = tokio::time::timeout(deadline, end).await.is_ok();
        self.0.stopping.cancel();
        self.0.cut.cancel();
        ended
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets references lead through the port in front of a service once that is open: it was somebody else's, and they led past it.
    fn lead_through_once(
        &self,
        opens: impl Future<Output = bool> + Send + 'static,
        inner: std::sync::Weak<Self>,
    ) {
        self.runtime.spawn(async move {
            if opens.await
                && let Some(inner) = inner.upgrade()
            {
                inner.state().lead_all();
            }
        });
    }

    /// What of a service there are modules for.
    fn packed(&self, mut served: Served) -> Served {
        let module = served.endpoint.as_ref().map(|e| match e.protocol {
            Protocol::Http => Module::Http,
            Protocol::Tcp => Module::Tcp,
        });
        if let Some(module) = module.filter(|m| served.listen.is_some() && !self.modules.has(*m)) {
            tracing::warn!(service = %served.name, module = module.word(), "not packed: nothing listens in front of it");
            served.listen = None;
        }
        if served.manage.is_some() && !self.modules.has(Module::Polling) {
            tracing::warn!(service = %served.name, module = Module::Polling.word(), "not packed: it cannot be managed");
            served.manage = None;
        }
        if let Some(manage) = &mut served.manage {
            let there =
                [(SubscriptionMode::Interval, Module::Interval), (SubscriptionMode::Change, Module::Change)];
            let offered = there.into_iter().filter(|(mode, _)| manage.spec.offers(*mode));
            if offered.clone().any(|(_, module)| !self.modules.has(module)) {
                let packed = offered.filter(|(_, module)| self.modules.has(*module)).map(|(mode, _)| mode);
                let subscriptions = Some(packed.collect());
                manage.spec =
                    Arc::new(crate::model::manage::ManageSpec { subscriptions, ..(*manage.spec).clone() });
            }
        }
        served
    }

    /// Opens, closes and changes management listeners; what is offered as before keeps its subscriptions.
    fn manage(&self, state: &mut State) {
        let calls: HashMap<Arc<str>, Arc<Meter>> = {
            let fronts: Vec<Arc<str>> = state.fronts.keys().cloned().collect();
            fronts.into_iter().map(|name| (name.clone(), state.meter(&name))).collect()
        };
        let State { services, managed, .. } = state;
        managed.retain(|name, open| {
            let wanted = services.get(name).and_then(|s| s.manage.as_ref());
            wanted.is_some_and(|m| m.listen == open.manager.load().manage.listen)
        });
        for (name, served) in services.iter() {
            let Some(manage) = &served.manage else { continue };
            let endpoint = served.endpoint.as_ref();
            let calls = calls.get(name);
            if let Some(open) = managed.get(name) {
                let before = open.manager.load_full();
                if !before.is(manage, endpoint, calls) {
                    let next = Manager::new(
                        name,
                        manage,
                        endpoint,
                        calls,
                        Some(&before),
                        &self.shared,
                        &self.stopping,
                    );
                    before.end(Some(&next));
                    open.manager.store(Arc::new(next));
                }
                continue;
            }
            let manager = Manager::new(name, manage, endpoint, calls, None, &self.shared, &self.stopping);
            let manager = Arc::new(arc_swap::ArcSwap::from_pointee(manager));
            self.shared.join(&manager);
            let (inside, cut) = (manager.clone(), self.cut.clone());
            let serve = move |client, closed| {
                let (inside, cut) = (inside.clone(), cut.clone());
                let manager = property::Now::new(move || inside.load_full());
                async move {
                    tokio::select! {
                        () = property::serve(client, manager, closed) => {}
                        () = cut.cancelled() => {}
                    }
                }
            };
            let room = Room::new(self.limits.connections);
            let door = manage.listen.map(|at| Door::open(at, room, serve, &self.stopping, &self.tasks));
            managed.insert(name.clone(), Managed { door, manager });
        }
    }

    fn front(&self, lead: Lead, protocol: Protocol, meter: Arc<Meter>, mirrors: bool) -> Front {
        Front {
            slot: Slot::new(lead),
            protocol: arc_swap::ArcSwap::from_pointee(protocol),
            meter,
            limits: arc_swap::ArcSwap::from_pointee(self.limits),
            room: Room::new(self.limits.connections),
            mirrors,
            cut: self.cut.clone(),
            closed: CancellationToken::new(),
            live: None,
            http2: self.modules.has(Module::Http2),
        }
    }
}

/// Under which name the calls through the port of a reference are measured: none that a service can have.
fn through(service: &str, reference: &str) -> String {
    format!("{service}/{reference}")
}

impl State {
    fn manager(&self, service: &str) -> Option<Arc<Manager>> {
        Some(self.managed.get(service)?.manager.load_full())
    }

    fn meter(&mut self, service: &str) -> Arc<Meter> {
        if let Some(meter) = self.meters.get(service) {
            return meter.clone();
        }
        let meter = Arc::new(Meter::default());
        self.meters.insert(service.into(), meter.clone());
        meter
    }

    /// Meters of services that are gone, and that nobody looks at.
    fn forget_meters(&mut self) {
        let services = &self.services;
        self.meters.retain(|name, meter| services.contains_key(name) || Arc::strong_count(meter) > 1);
    }

    /// What holds for an open port from now on.
    fn set_port(&mut self, key: Key, port: Port, base: Limits) -> Vec<Left> {
        let Self { services, fronts, ports, .. } = self;
        let Some(open) = ports.get_mut(&key) else { return Vec::new() };
        let targets = open.set(&key, port, base, Places { services, fronts });
        let targets = targets.into_iter().filter(|target| !open.reaches(&target.name));
        targets.map(|target| Left { reference: key.1.clone(), target }).collect()
    }

    /// Lets all references lead where they are bound to, as it is reached now.
    fn lead_all(&mut self) {
        let Self { services, fronts, ports, .. } = self;
        for (key, port) in ports.iter_mut() {
            port.lead(key, port.to.clone(), Places { services, fronts });
        }
    }

    fn trouble(&self, service: &str) -> Option<Trouble> {
        self.fronts.get(service).and_then(Gate::trouble)
    }

    /// Why a port that is measured is not open, if it should be and is not.
    fn trouble_at(&self, service: &str, reference: Option<&str>) -> Option<Trouble> {
        match reference {
            None => self.trouble(service),
            Some(reference) => self.ports.get(&(service.into(), reference.into()))?.gate.trouble(),
        }
    }

    /// How the candidates of a reference stand; `None` without a port.
    fn candidates(&self, service: &str, reference: &str) -> Option<Vec<CandidateStatus>> {
        self.ports.get(&(service.into(), reference.into())).map(PortGate::candidates)
    }
}

/// How long this process has been running, as far as anybody here asks.
fn running() -> Duration {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let begin = *BEGIN.get_or_init(now);
    now().saturating_duration_since(begin)
}

#[expect(clippy::disallowed_methods, reason = "response times are differences of the machine's own clock")]
fn now() -> Instant {
    Instant::now()
}
