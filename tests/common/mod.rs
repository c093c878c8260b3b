//! What the tests in virtual time share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;
use std::time::Duration;

use homeostat::model::ports::PortError;
use homeostat::model::{Action, AlarmKind, Decision, OutcomeStatus, Timestamp, Verdict};
use homeostat::policy::ServicePolicy;
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::message::{Apply, Effect, Letter, Message, Request, Response};
use homeostat::service::simulation::Simulation;

/// 2013-12-13T09:03:06Z, the time base of the CPU alarm of S1.
pub const START: Timestamp = Timestamp(1_386_925_386_000_000);

/// A simulation that fails its test when a turn panicked in it.
pub struct Sim(pub Simulation);

impl Deref for Sim {
    type Target = Simulation;
    fn deref(&self) -> &Simulation {
        &self.0
    }
}

impl DerefMut for Sim {
    fn deref_mut(&mut self) -> &mut Simulation {
        &mut self.0
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let said: Vec<&str> =
                self.events.iter().filter(|e| e.phase == "daemon").map(|e| e.text.as_str()).collect();
            assert_eq!(self.quarantined(), 0, "{said:?}");
        }
    }
}

impl Sim {
    /// Nothing attached, at [`START`].
    pub fn new(shards: usize) -> Self {
        Self(Simulation::new(START, shards))
    }

    /// Makes `yaml` what is attached: services that it lacks are detached.
    pub fn reapply(&mut self, running: &mut PolicySet, yaml: &str) {
        let next = policies(&[("policy.yaml", yaml)]);
        for name in running.services.keys().filter(|name| !next.services.contains_key(*name)) {
            self.detach(name);
        }
        self.apply(&next);
        *running = next;
    }

    /// Applies a text over what is attached.
    pub fn change(&mut self, yaml: &str) {
        self.apply(&policies(&[("policy.yaml", yaml)]));
    }

    /// Applies a service of `yaml` without some of it, whatever the other components would still like to use.
    pub fn strip(&mut self, service: &str, yaml: &str, take: impl FnOnce(&mut ServicePolicy)) {
        let mut policy = (*policies(&[("policy.yaml", yaml)]).services[service]).clone();
        take(&mut policy);
        self.attach(policy, Default::default());
    }

    /// Lets so many seconds pass.
    pub fn wait(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// The value of a metric, if it is fresh.
    pub fn value(&mut self, service: &str, metric: &str) -> Option<f64> {
        self.get(service, metric).fresh()
    }

    /// The components of a service, by their first letters: `MAPE`.
    pub fn components(&mut self, service: &str) -> String {
        let Ok(status) = self.status(service) else { return "-".into() };
        status.components.iter().map(|c| c.component.as_str()[..1].to_uppercase()).collect()
    }

    /// The alarms that decisions of a service are about, in order.
    pub fn alarms(&self, service: &str) -> Vec<AlarmKind> {
        self.decisions_of(service).iter().filter_map(|d| Some(d.alarm.as_ref()?.kind)).collect()
    }

    /// The verdicts of a service, in order.
    pub fn verdicts(&self, service: &str) -> Vec<Verdict> {
        self.decisions_of(service).iter().map(|d| d.verdict.clone()).collect()
    }

    /// How the actions of the last decision ended.
    pub fn outcomes(&self, service: &str) -> Vec<OutcomeStatus> {
        let last = self.decisions_of(service).last().map(|d| d.outcomes.clone()).unwrap_or_default();
        last.into_iter().map(|o| o.status).collect()
    }

    /// What a reference is bound to.
    pub fn bound(&mut self, service: &str, reference: &str) -> Option<String> {
        self.status(service).ok()?.references.get(reference)?.bound.clone()
    }

    /// Switches an SLO on or off.
    pub fn enable(&mut self, service: &str, slo: &str, on: bool) {
        let response = self.call(service, Request::EnableSlo { name: slo.into(), on });
        assert_eq!(response, Some(Response::Done));
    }

    /// The values told to a subscription, with the seconds since [`START`].
    pub fn told(&self, token: u64) -> Vec<(f64, Option<f64>)> {
        self.notifications
            .iter()
            .filter(|(t, ..)| *t == token)
            .map(|(_, at, n)| (at.since(START).as_secs_f64(), n.reading.value()))
            .collect()
    }

    /// The error that a call is answered with.
    pub fn error(&mut self, service: &str, request: Request) -> PortError {
        match self.call(service, request) {
            Some(Response::Error(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// All decisions as JSON lines, by service and number.
    pub fn record(&self) -> String {
        let line = |d: &Decision| serde_json::to_string(d).expect("decisions are JSON");
        self.decisions.values().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Builds a set of policies from texts; panics with every mistake when there is one.
pub fn policies(files: &[(&str, &str)]) -> PolicySet {
    match PolicySet::from_sources(&Sources::from_texts(files.iter().copied()), None) {
        Ok((set, _)) => set,
        Err(problems) => {
            panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// A simulation of one YAML text.
pub fn simulate(yaml: &str) -> Sim {
    simulate_files(&[("policy.yaml", yaml)])
}

/// A simulation of YAML texts and scripts.
pub fn simulate_files(files: &[(&str, &str)]) -> Sim {
    let mut simulation = Sim::new(1);
    simulation.apply(&policies(files));
    simulation
}

/// The shop of `policies/shop`, on this many shards, with `cost` of B, C1 and C2 as in R3-52.
pub fn shop(shards: usize) -> Sim {
    let mut simulation = Sim::new(shards);
    simulation.apply(&shop_policies());
    for (service, cost) in [("B", 18.0), ("C2", 5.0), ("C1", 20.0)] {
        simulation.push(service, "cost", cost);
    }
    simulation
}

/// `policies/shop` as it is shipped.
pub fn shop_policies() -> PolicySet {
    static SHOP: LazyLock<PolicySet> = LazyLock::new(|| {
        policies(&[
            ("shop/shop.yaml", include_str!("../../policies/shop/shop.yaml")),
            ("shop/cheapest.rhai", include_str!("../../policies/shop/cheapest.rhai")),
        ])
    });
    SHOP.clone()
}

/// An action from JSON.
pub fn action(json: serde_json::Value) -> Action {
    serde_json::from_value(json).expect("an action")
}

/// The surroundings of a shard that a test feeds itself.
#[derive(Default)]
pub struct Still {
    names: homeostat::service::names::Names,
    /// Panics when a strategy is to run.
    pub broken: bool,
}

impl homeostat::service::shard::Surroundings for Still {
    fn metric_id(&mut self, name: &str) -> homeostat::model::MetricId {
        self.names.metric(name)
    }
    fn limits(&mut self) -> homeostat::plan::strategy::RunLimits {
        assert!(!self.broken, "on purpose");
        let deadline = homeostat::plan::strategy::Deadline::CutAt(None);
        homeostat::plan::strategy::RunLimits { operations: 100_000, deadline }
    }
    fn cut(&mut self, _: u64) {}
}

/// A shard that a test feeds itself.
pub struct World {
    /// The shard.
    pub shard: homeostat::service::shard::Shard,
    /// What is around it.
    pub around: Still,
}

impl World {
    /// A shard with nothing attached.
    pub fn new() -> Self {
        Self { shard: homeostat::service::shard::Shard::new(0, 1), around: Still::default() }
    }

    /// One turn.
    pub fn turn(&mut self, now: i64, message: Message) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.shard.turn(Timestamp(now), message, &mut self.around, &mut effects);
        effects
    }

    /// Attaches every service of a set.
    pub fn apply(&mut self, now: i64, set: &PolicySet) {
        for policy in set.services.values() {
            let id = self.around.names.service(&policy.name);
            let apply = Apply { id, policy: (**policy).clone(), restored: Default::default() };
            self.turn(now, Message::Apply(Box::new(apply)));
        }
    }

    /// One value of a sensor.
    pub fn measure(&mut self, now: i64, service: &str, metric: &str, value: f64) -> Vec<Effect> {
        let letter = Letter::Measured { metric: metric.into(), values: vec![(None, None, value, None)] };
        self.turn(now, Message::To(service.into(), letter))
    }

    /// A call and its answer.
    pub fn call(&mut self, now: i64, service: &str, request: Request) -> Option<Response> {
        let effects = self.turn(now, Message::To(service.into(), Letter::Call { token: 1, request }));
        effects.into_iter().find_map(|e| match e {
            Effect::Reply(1, response) => Some(response),
            _ => None,
        })
    }
}
