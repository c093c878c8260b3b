//! What stands around a service that knows nothing of it: a port in front of it that measures every call, and local ports for what it uses, whose targets
//! change while calls flow. The membrane decides nothing: it brings samples as a sensor does, and carries out what an executor was told.
//!
//! Reading order: `target` (where calls lead, and what a switch guarantees), `relay` (HTTP/1), over `head` and `chunked`, `h2`, `tcp`; `meter` (what is
//! measured) and `sensor`; `gate` (a listening port); `process` (a program, started and ended); `property` (the generic proxy of S4, on a port of its own).

mod chunked;
mod front;
mod gate;
mod h2;
mod head;
mod live;
mod meter;
pub mod process;
mod property;
mod relay;
mod sensor;
mod tap;
mod target;
mod tcp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use front::Limits;
pub use gate::Trouble;
pub use live::{LiveError, Running};
pub use meter::{FailureKind, Gauge, MAX_ROUTES, Meter, OTHER};

use crate::connectors::Connectors;
use crate::model::endpoint::{Endpoint, Port, Protocol};
use crate::model::manage::Manage;
use front::Front;
use gate::{Door, Gate};
use live::Live;
use property::Manager;
use target::{Lead, Slot, Target};

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
}

/// The membranes of all services of a process. Clones share them.
#[derive(Clone)]
pub struct Membrane(Arc<Inner>);

struct Inner {
    runtime: tokio::runtime::Handle,
    limits: Limits,
    shared: property::Shared,
    state: Mutex<State>,
    stopping: CancellationToken,
    /// Cuts off who is still inside.
    cut: CancellationToken,
    tasks: TaskTracker,
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
    ports: HashMap<(Arc<str>, Arc<str>), PortGate>,
}

/// An open management listener; its subscriptions end when it is dropped.
struct Managed {
    door: Door,
    manager: Arc<arc_swap::ArcSwap<Manager>>,
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.manager.load().end(None);
    }
}

/// An open port of a reference, and the service that it leads to.
struct PortGate {
    gate: Gate,
    to: Option<Arc<str>>,
}

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
            shared: property::Shared::default(),
            state: Mutex::default(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        let inner = Arc::downgrade(&membrane.0);
        connectors.register_proxy(move |service, spec| {
            let Some(inner) = inner.upgrade() else {
                return Err(crate::model::connector::ConnectorError::Config("the membrane is gone".into()));
            };
            let meter = inner.state().meter(service);
            let (inner, service) = (Arc::downgrade(&inner), service.to_string());
            let reason = move || inner.upgrade()?.state().trouble(&service);
            Ok(sensor::sensor(spec, meter, Arc::new(reason)))
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
        state.services = services.into_iter().map(|s| (s.name.clone(), s)).collect();
        let State { services, fronts, live, .. } = &mut *state;
        fronts.retain(|name, gate| {
            let same = |s: &Served| s.listen == Some(gate.listen) && s.endpoint.is_some();
            services.get(name).is_some_and(same) && gate.is_live() == live.contains_key(name)
        });
        let served: Vec<(Arc<str>, SocketAddr, Endpoint)> = services
            .values()
            .filter_map(|s| Some((s.name.clone(), s.listen?, s.endpoint.clone()?)))
            .collect();
        for (name, listen, endpoint) in served {
            match state.fronts.get(&name) {
                Some(gate) => drop(lead_to(&gate.front, &name, &endpoint)),
                None => {
                    let lead = Lead::To(Target::new(name.clone(), endpoint.address.clone()));
                    let (stopping, tasks) = (&self.0.stopping, &self.0.tasks);
                    let pid = state.live.get(&name).copied();
                    let live = pid.map(|_| Arc::<Live>::default());
                    let mut front = self.0.front(lead, endpoint.protocol, state.meter(&name), true);
                    front.live = live.clone();
                    let front = Arc::new(front);
                    let gate = match live {
                        None => Gate::open(listen, front, stopping, tasks),
                        Some(live) => Gate::open_live(listen, (front, live), pid.flatten(), stopping, tasks),
                    };
                    state.fronts.insert(name, gate);
                }
            }
        }
        self.0.manage(&mut state);
        state.forget_meters();
        let State { services, ports, .. } = &mut *state;
        ports.retain(|(service, _), _| services.contains_key(service));
        let moved: Vec<_> = state.ports.iter().map(|(k, p)| (k.clone(), p.to.clone())).collect();
        for (key, to) in moved {
            state.lead(&key, to);
        }
        let fronts = state.fronts.iter().map(|(name, gate)| (name, gate.trouble()));
        let managed = state.managed.iter().map(|(name, managed)| (name, managed.door.trouble()));
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

    /// Lets exactly these local ports of a service be open, and lead there. What stays the same is not touched.
    pub fn set_ports(&self, service: &Arc<str>, ports: Vec<Port>) {
        let _entered = self.0.runtime.enter();
        let mut state = self.0.state();
        if !state.services.contains_key(service) {
            // Detached meanwhile.
            return;
        }
        state.ports.retain(|(of, reference), port| {
            of != service || ports.iter().any(|p| p.reference == *reference && p.listen == port.gate.listen)
        });
        for port in ports {
            let key = (service.clone(), port.reference.clone());
            if state.ports.contains_key(&key) {
                state.lead(&key, port.to);
                continue;
            }
            let (lead, protocol) = match port.to.as_ref().map(|to| (to, state.target_of(to))) {
                Some((to, Ok(endpoint))) => {
                    (Lead::To(Target::new(to.clone(), endpoint.address)), endpoint.protocol)
                }
                Some((_, Err(why))) => (Lead::Nowhere(why.into()), Protocol::Http),
                None => (unbound(&key), Protocol::Http),
            };
            let front = Arc::new(self.0.front(lead, protocol, Arc::default(), false));
            let gate = Gate::open(port.listen, front, &self.0.stopping, &self.0.tasks);
            if let Some(trouble) = gate.trouble() {
                tracing::warn!(%service, reference = %port.reference, why = %trouble.0, "a port of a reference is not open");
            }
            state.ports.insert(key, PortGate { gate, to: port.to });
        }
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
        let before: Vec<(Arc<str>, Arc<Target>)> = {
            let mut state = self.0.state();
            let known = |(reference, _): &&(Arc<str>, Option<Arc<str>>)| {
                state.ports.contains_key(&(service.clone(), reference.clone()))
            };
            let moves: Vec<_> = moves.iter().filter(known).collect();
            for (_, to) in &moves {
                if let Some(to) = to {
                    state.target_of(to)?;
                }
            }
            moves
                .into_iter()
                .filter_map(|(reference, to)| {
                    let key = (service.clone(), reference.clone());
                    Some((reference.clone(), state.lead(&key, to.clone())?))
                })
                .collect()
        };
        let patience = self.0.limits.patience;
        let waits = before.iter().map(|(reference, old)| async move {
            let rest = old.drained(patience).await;
            (rest > 0)
                .then(|| format!("`{reference}`: {rest} calls are still on their way to `{}`", old.name))
        });
        let rest: Vec<String> = futures::future::join_all(waits).await.into_iter().flatten().collect();
        Ok(rest.join("; "))
    }

    /// What is measured of a service.
    pub fn meter(&self, service: &str) -> Arc<Meter> {
        self.0.state().meter(service)
    }

    /// What is measured of the calls through the port of a reference, if that is open.
    pub fn port_meter(&self, service: &str, reference: &str) -> Option<Arc<Meter>> {
        let state = self.0.state();
        state.ports.get(&(service.into(), reference.into())).map(|p| p.gate.front.meter.clone())
    }

    /// Where homeostat listens for a service: as asked for, with a port of its own where any was.
    pub fn address(&self, service: &str) -> Option<SocketAddr> {
        self.0.state().fronts.get(service).map(|gate| gate.address)
    }

    /// Where homeostat listens for managers of a service.
    pub fn manage_address(&self, service: &str) -> Option<SocketAddr> {
        self.0.state().managed.get(service).map(|managed| managed.door.address)
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
            let (inside, cut) = (manager.clone(), self.cut.clone());
            let serve = move |client, closed| {
                let (manager, cut) = (inside.clone(), cut.clone());
                async move {
                    tokio::select! {
                        () = property::serve(client, manager, closed) => {}
                        () = cut.cancelled() => {}
                    }
                }
            };
            let door = Door::open(manage.listen, serve, &self.stopping, &self.tasks);
            managed.insert(name.clone(), Managed { door, manager });
        }
    }

    fn front(&self, lead: Lead, protocol: Protocol, meter: Arc<Meter>, mirrors: bool) -> Front {
        Front {
            slot: Slot::new(lead),
            protocol: arc_swap::ArcSwap::from_pointee(protocol),
            meter,
            limits: self.limits,
            mirrors,
            cut: self.cut.clone(),
            live: None,
        }
    }
}

/// Lets a front lead to an endpoint, unless it does.
fn lead_to(front: &Front, name: &Arc<str>, endpoint: &Endpoint) -> Option<Arc<Target>> {
    if **front.protocol.load() != endpoint.protocol {
        front.protocol.store(Arc::new(endpoint.protocol));
    }
    if let Lead::To(now) = &*front.slot.lead()
        && now.name == *name
        && now.address == endpoint.address
    {
        return None;
    }
    front.slot.switch(Lead::To(Target::new(name.clone(), endpoint.address.clone())))
}

/// What calls to an unbound reference are told.
fn unbound((service, reference): &(Arc<str>, Arc<str>)) -> Lead {
    Lead::Nowhere(format!("the reference `{reference}` of `{service}` is not bound").into())
}

impl State {
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

    fn trouble(&self, service: &str) -> Option<Trouble> {
        self.fronts.get(service).and_then(Gate::trouble)
    }

    /// Where calls to a service go: through its own membrane, if it has one, so that it sees them too.
    fn target_of(&self, service: &str) -> Result<Endpoint, String> {
        let Some(endpoint) = self.services.get(service).and_then(|s| s.endpoint.clone()) else {
            return Err(format!("`{service}` has no endpoint, so no calls can be led there"));
        };
        Ok(match self.fronts.get(service) {
            Some(gate) => Endpoint { address: gate.address.to_string().into(), ..endpoint },
            None => endpoint,
        })
    }

    /// Lets a port lead to a service. Answers the target that it led to before, if it leads elsewhere now.
    fn lead(&mut self, key: &(Arc<str>, Arc<str>), to: Option<Arc<str>>) -> Option<Arc<Target>> {
        let target = to.as_ref().map(|to| (to.clone(), self.target_of(to)));
        let port = self.ports.get_mut(key)?;
        port.to = to;
        let front = &port.gate.front;
        match target {
            Some((name, Ok(endpoint))) => lead_to(front, &name, &endpoint),
            Some((_, Err(why))) => front.slot.switch(Lead::Nowhere(why.into())),
            None => front.slot.switch(unbound(key)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "response times are differences of the machine's own clock")]
fn now() -> Instant {
    Instant::now()
}
