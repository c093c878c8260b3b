//! From one document to one compiled policy. Everything that can be seen in one document is checked here, and all of it is told;
//! what needs the other documents is in `check`. Files, API and replay all come through [`compile`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::diagnostics::{Problem, suggestion, suggestion_or_list};
use super::document::{
    ComputedMetric, MetricDocument, MonitorDocument, PackedDocument, PlanDocument, ReferenceDocument,
    ResourceDocument, ServiceDocument, SloDocument,
};
use super::expression::{Expression, ExpressionError};
use super::script::Script;
use super::tree::{Place, Step};
use super::value::{
    AnalyzePolicy, ExecutePolicy, GroupPolicy, MetricKind, MetricPolicy, MonitorPolicy, ON_PROCESSES,
    PlanPolicy, PlanRow, PublishPolicy, ReferencePolicy, ServicePolicy, SloPolicy, Strategy, StreamPolicy,
    WindowPolicy,
};
use crate::knowledge::stream::{self, Grouping};
use crate::model::calls::{HealthSpec, LimitsSpec, MAX_RETRIES, MAX_WEIGHT, PortPolicy};
use crate::model::connector::{CollectSensor, SensorSpec};
use crate::model::endpoint::{Address, Endpoint, Protocol, may_be, parse_address};
use crate::model::manage::{Around, Manage};
use crate::model::name::{identifier_problem, service_name_problem};
use crate::model::{Action, Aggregate, AlarmKind, HumanDuration, MetricPath, Mode, Resource, Schedule};

/// How long after one plan the next may be made when its row does not say.
pub const DEFAULT_COOLDOWN: HumanDuration = HumanDuration::seconds(30);

/// The most time that a script may declare.
pub const MAX_SLOW: HumanDuration = HumanDuration::seconds(60);

/// How long a plan of mode `approve` waits for a yes unless its row says so.
pub const DEFAULT_EXPIRES: HumanDuration = HumanDuration::seconds(900);

/// How often data may be looked at, at most and at least.
const LEAST_STEP: Duration = Duration::from_millis(10);
const MAX_STEP: Duration = Duration::from_secs(366 * 86_400);

/// The actions that need no effector.
pub const BUILT_IN_ACTIONS: &[&str] = &[
    "bind",
    "unbind",
    "replace",
    "enable_slo",
    "disable_slo",
    "tune",
    "raise",
    "publish",
    "notify",
    "remember",
];

/// Compiles a document. `scripts` finds the strategy that a row names.
///
/// # Errors
/// Every mistake that can be seen in the document alone, with its place in the document; no retry mends one.
pub fn compile(
    document: ServiceDocument,
    scripts: &dyn Fn(&str) -> Option<Arc<Script>>,
) -> Result<ServicePolicy, Vec<Problem>> {
    let (policy, problems) = build(document, scripts);
    if problems.is_empty() { Ok(policy) } else { Err(problems) }
}

/// The codes of mistakes that a change by hand may leave behind: something was taken away that others still name. What names it says so
/// while it runs (an SLO is `unresolved`, a reading is missing, an action is refused), and works again when it is back (R3-35).
pub const DANGLING: &[&str] = &[
    "unknown-metric",
    "unknown-slo",
    "unknown-service",
    "undeclared-action",
    "unknown-reference",
    "no-route",
];

/// The code of a sensor or effector that can never work, as its text alone shows.
const UNUSABLE: &str = "unusable";

/// Compiles a document that was changed by hand: what dangles is no error but a warning.
///
/// # Errors
/// Every other mistake.
pub fn compile_by_hand(
    document: ServiceDocument,
    scripts: &dyn Fn(&str) -> Option<Arc<Script>>,
) -> Result<(ServicePolicy, Vec<Problem>), Vec<Problem>> {
    let (policy, problems) = build(document, scripts);
    if problems.iter().all(|p| DANGLING.contains(&p.code)) { Ok((policy, problems)) } else { Err(problems) }
}

/// Compiles a document that was accepted once, by another version perhaps: what cannot be used is no error either. It fails when it is used, as it
/// did then.
///
/// # Errors
/// Every other mistake.
pub fn compile_kept(
    document: ServiceDocument,
    scripts: &dyn Fn(&str) -> Option<Arc<Script>>,
) -> Result<ServicePolicy, Vec<Problem>> {
    let (policy, problems) = build(document, scripts);
    let harmless = |p: &Problem| p.code == UNUSABLE || DANGLING.contains(&p.code);
    if problems.iter().all(harmless) { Ok(policy) } else { Err(problems) }
}

/// What can be made of a document, and every mistake in it.
fn build(
    document: ServiceDocument,
    scripts: &dyn Fn(&str) -> Option<Arc<Script>>,
) -> (ServicePolicy, Vec<Problem>) {
    let mut compiler = Compiler { document: &document, problems: Vec::new() };
    compiler.names();
    let references = compiler.references();
    let (endpoint, listen) = compiler.membrane();
    let limits = compiler.front_limits();
    compiler.process();
    let manage = compiler.manage(endpoint.as_ref());
    let monitor = compiler.monitor();
    let analyze = compiler.analyze();
    let (plan, used) = compiler.plan(scripts);
    let execute = compiler.execute();
    let mut problems = compiler.problems;
    for problem in &mut problems {
        problem.service = Some(document.service.as_str().into());
    }
    let policy = ServicePolicy {
        name: document.service.as_str().into(),
        resource: Arc::new(Resource {
            provides: document.provides.clone(),
            ..resource(&document.service, &document.class, &document.kind, &document.relations)
        }),
        references,
        endpoint,
        listen,
        live: document.live,
        limits,
        process: document.process.clone().map(Arc::new),
        manage,
        monitor: monitor.map(Arc::new),
        analyze: analyze.map(Arc::new),
        plan: plan.map(Arc::new),
        execute: execute.map(Arc::new),
        scripts: used,
        document: PackedDocument::new(&document),
    };
    (policy, problems)
}

/// Compiles a `resource:` document.
///
/// # Errors
/// Names that are not allowed.
pub fn compile_resource(document: &ResourceDocument) -> Result<Resource, Vec<Problem>> {
    let mut problems = Vec::new();
    check_name(&mut problems, Place::value(["resource".into()]), &document.resource, service_name_problem);
    check_relations(&mut problems, &document.relations);
    if problems.is_empty() {
        Ok(resource(&document.resource, &document.class, &document.kind, &document.relations))
    } else {
        Err(problems)
    }
}

fn resource(
    id: &str,
    class: &Option<String>,
    kind: &Option<String>,
    relations: &BTreeMap<String, super::document::OneOrMany>,
) -> Resource {
    Resource {
        id: id.to_string(),
        class: class.clone(),
        kind: kind.clone(),
        relations: relations.iter().map(|(name, targets)| (name.clone(), targets.to_vec())).collect(),
        provides: Vec::new(),
    }
}

/// Adds services that a capability has found, without repetition.
pub(crate) fn add_found(candidates: &mut Vec<Arc<str>>, found: &[String]) {
    for service in found {
        if !candidates.iter().any(|c| **c == **service) {
            candidates.push(service.as_str().into());
        }
    }
}

fn check_name(problems: &mut Vec<Problem>, place: Place, name: &str, rule: fn(&str) -> Option<String>) {
    if let Some(why) = rule(name) {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let hint = rule(&plain).is_none().then(|| format!("`{plain}` would do"));
        problems.push(Problem::error("invalid-name", place, why).hint(hint).about(name));
    }
}

fn check_relations(problems: &mut Vec<Problem>, relations: &BTreeMap<String, super::document::OneOrMany>) {
    for (name, targets) in relations {
        let place = Place::value(["relations".into(), name.as_str().into()]);
        check_name(problems, place.clone().at_key(), name, service_name_problem);
        for target in targets.to_vec() {
            check_name(problems, place.clone(), &target, service_name_problem);
        }
    }
}

struct Compiler<'a> {
    document: &'a ServiceDocument,
    problems: Vec<Problem>,
}

impl Compiler<'_> {
    fn error(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn name(&mut self, place: Place, name: &str, rule: fn(&str) -> Option<String>) {
        check_name(&mut self.problems, place, name, rule);
    }

    fn names(&mut self) {
        self.name(Place::value(["service".into()]), &self.document.service, service_name_problem);
        check_relations(&mut self.problems, &self.document.relations);
        for (i, capability) in self.document.provides.iter().enumerate() {
            self.name(Place::value(["provides".into()]).then(i), capability, service_name_problem);
        }
    }

    fn references(&mut self) -> BTreeMap<Arc<str>, ReferencePolicy> {
        let mut references = BTreeMap::new();
        for (name, reference) in &self.document.references {
            let place = Place::value(["references".into(), name.as_str().into()]);
            self.name(place.clone().at_key(), name, identifier_problem);
            let mut candidates: Vec<Arc<str>> = Vec::new();
            for (i, service) in reference.service.iter().chain(&reference.candidates).enumerate() {
                let place = match (&reference.service, i) {
                    (Some(_), 0) => place.then("service"),
                    (declared, i) => place.then("candidates").then(i - usize::from(declared.is_some())),
                };
                self.name(place, service, service_name_problem);
                if !candidates.iter().any(|c| **c == **service) {
                    candidates.push(service.as_str().into());
                }
            }
            if let Some(capability) = &reference.capability {
                self.name(place.then("capability"), capability, service_name_problem);
                add_found(&mut candidates, &reference.found);
            } else if candidates.is_empty() {
                self.error(
                    Problem::error("empty-reference", place, format!("the reference `{name}` leads nowhere"))
                        .hint("say `service: NAME`, or `candidates: [NAME, …]` or `capability: WHAT` for one that is unbound at first".to_string()),
                );
            }
            let service = reference.service.as_deref().map(Arc::from);
            let capability = reference.capability.as_deref().map(Arc::from);
            let place = Place::value(["references".into(), name.as_str().into(), "listen".into()]);
            let listen = reference.listen.as_deref().and_then(|text| self.read(place, text, parse_address));
            let place = Place::value(["references".into(), name.as_str().into()]);
            let calls = Arc::new(self.calls(&place, reference, &candidates));
            references.insert(
                name.as_str().into(),
                ReferencePolicy { service, candidates, capability, listen, calls },
            );
        }
        references
    }

    /// What holds for the calls through the local port of a reference.
    fn calls(&mut self, place: &Place, reference: &ReferenceDocument, candidates: &[Arc<str>]) -> PortPolicy {
        self.needs_port(place, reference);
        let limits = self.limits(place, reference.limits);
        if let Some(retries) = reference.retries.filter(|r| *r > MAX_RETRIES) {
            let message = format!("{retries} retries are too many; expected at most {MAX_RETRIES}");
            self.error(Problem::error("invalid-value", place.then("retries"), message));
        }
        for (at, why) in reference.health.iter().flat_map(HealthSpec::problems) {
            let place = place.then("health");
            let place = at.map_or(place.clone(), |field| place.then(field));
            self.error(Problem::error("invalid-value", place, why));
        }
        let eject = reference.eject.as_ref().and_then(|spec| match spec.rules() {
            Ok(rules) => Some(rules),
            Err(problems) => {
                for (field, why) in problems {
                    self.error(Problem::error("invalid-value", place.then("eject").then(field), why));
                }
                None
            }
        });
        PortPolicy {
            named: reference.service.as_deref().map(Arc::from),
            candidates: candidates.to_vec(),
            weights: self.weights(place, reference, candidates),
            retries: reference.retries.unwrap_or(0),
            health: reference.health.clone(),
            eject,
            limits,
            replace: reference.replace.unwrap_or_default(),
        }
    }

    /// Without a local port, homeostat sees no calls of a reference.
    fn needs_port(&mut self, place: &Place, reference: &ReferenceDocument) {
        if reference.listen.is_some() {
            return;
        }
        for (field, given) in [
            ("weights", !reference.weights.is_empty()),
            ("retries", reference.retries.is_some()),
            ("limits", reference.limits.is_some()),
            ("health", reference.health.is_some()),
            ("eject", reference.eject.is_some()),
            ("replace", reference.replace.is_some()),
        ] {
            if given {
                let message =
                    format!("`{field}` is about the calls through a local port, and the reference has none");
                let hint = "say `listen: 127.0.0.1:PORT`, and let the service call there".to_string();
                self.error(Problem::error("missing-listen", place.then(field).at_key(), message).hint(hint));
            }
        }
    }

    fn weights(
        &mut self,
        place: &Place,
        reference: &ReferenceDocument,
        candidates: &[Arc<str>],
    ) -> BTreeMap<Arc<str>, u32> {
        let place = place.then("weights");
        let mut weights = BTreeMap::new();
        for (name, weight) in &reference.weights {
            let at = place.then(name.as_str());
            match candidates.iter().find(|c| ***c == **name) {
                None => {
                    let hint = suggestion_or_list(name, "candidates", candidates.iter().map(|c| &**c));
                    let message = format!("`{name}` has a weight, but is no candidate of the reference");
                    self.error(Problem::error("unknown-service", at.at_key(), message).hint(hint));
                }
                Some(_) if *weight > MAX_WEIGHT => {
                    let message = format!("the weight {weight} is too large; expected at most {MAX_WEIGHT}");
                    self.error(Problem::error("invalid-value", at, message));
                }
                Some(candidate) => drop(weights.insert(candidate.clone(), *weight)),
            }
        }
        if reference.weights.is_empty() {
            return weights;
        }
        match &reference.service {
            None => {
                let message = "calls are shared while the reference is bound to the service that it names, and it names none";
                let hint = "say `service: NAME`; the others are `candidates`".to_string();
                self.error(Problem::error("missing-field", place.clone().at_key(), message).hint(hint));
            }
            Some(named) if !reference.weights.contains_key(named) => {
                let message = format!("`{named}`, which the reference names, has no weight");
                let hint = format!("say `{named}: 1`, or 0 if it is to get calls only when no other can");
                self.error(Problem::error("missing-field", place.clone(), message).hint(hint));
            }
            _ => {}
        }
        if reference.weights.values().all(|weight| *weight == 0) {
            let message = "all weights are 0, so that nobody would get calls before the others";
            let hint = "say 1 or more for those that are to get calls".to_string();
            self.error(Problem::error("invalid-value", place, message).hint(hint));
        }
        weights
    }

    /// What a port allows.
    fn limits(&mut self, place: &Place, limits: Option<LimitsSpec>) -> LimitsSpec {
        let limits = limits.unwrap_or_default();
        for (field, why) in limits.problems() {
            self.error(Problem::error("invalid-value", place.then("limits").then(field), why));
        }
        limits
    }

    /// The reference whose calls a sensor measures must have a port.
    fn measured(&mut self, name: &str, place: &Place, reference: &str) {
        let references = &self.document.references;
        let place = place.then("proxy").then("reference");
        match references.get(reference) {
            None => {
                let hint = suggestion_or_list(reference, "references", references.keys().map(String::as_str));
                let message = format!("the service has no reference `{reference}`");
                self.error(Problem::error("unknown-reference", place, message).hint(hint));
            }
            Some(found) if found.listen.is_none() => {
                let message =
                    format!("`{name}` measures the calls through the port of `{reference}`, which has none");
                let hint = format!("say `listen: 127.0.0.1:PORT` under references.{reference}");
                self.error(Problem::error("missing-listen", place, message).hint(hint));
            }
            Some(_) => {}
        }
    }

    /// What is allowed in front of the service.
    fn front_limits(&mut self) -> LimitsSpec {
        if self.document.limits.is_some() && self.document.listen.is_none() {
            let message = "`limits` are about the port in front of the service, and it has none";
            let hint = "say `listen: ADDRESS`, where clients are to reach it".to_string();
            let place = Place::value(["limits".into()]).at_key();
            self.error(Problem::error("missing-listen", place, message).hint(hint));
        }
        self.limits(&Place::default(), self.document.limits)
    }

    /// Reads a text; what is wrong with it is told at its place.
    fn read<T>(&mut self, place: Place, text: &str, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        parse(text).map_err(|why| self.error(Problem::error("invalid-value", place, why))).ok()
    }

    /// Where the service listens, and where homeostat stands in front of it.
    fn membrane(&mut self) -> (Option<Endpoint>, Option<Address>) {
        let (endpoint, listen) = (&self.document.endpoint, &self.document.listen);
        let at = |field: &str| Place::value([field.into()]);
        if let (Some(listen), None) = (listen, endpoint) {
            let message =
                format!("homeostat is to listen on {listen}, but not told where the service listens");
            let hint = "say `endpoint: HOST:PORT`, where the service itself listens".to_string();
            self.error(Problem::error("missing-endpoint", at("listen"), message).hint(hint));
        }
        let proxied = self.document.monitor.iter().flat_map(|m| &m.sensors);
        let proxied = proxied.filter(|(_, spec)| matches!(spec, SensorSpec::Proxy(_)));
        for (name, spec) in proxied.collect::<Vec<_>>() {
            let place = Place::value(["monitor".into(), "sensors".into(), name.as_str().into()]);
            let through = match spec {
                SensorSpec::Proxy(proxy) => proxy.reference.as_deref(),
                _ => None,
            };
            if let Some(reference) = through {
                self.measured(name, &place, reference);
            } else if listen.is_none() {
                let message =
                    format!("`{name}` measures the calls through the membrane, and the service has none");
                let hint = "say `listen: ADDRESS`, where clients are to reach it, and `endpoint: HOST:PORT`, where it listens itself";
                self.error(Problem::error("no-membrane", place, message).hint(hint.to_string()));
            }
        }
        let endpoint = endpoint.as_deref().and_then(|text| self.read(at("endpoint"), text, Endpoint::parse));
        let listen = listen.as_deref().and_then(|text| self.read(at("listen"), text, parse_address));
        if let (Some(endpoint), Some(listen)) = (&endpoint, &listen)
            && self.document.live.is_none()
            && *endpoint.address == *listen.to_string()
        {
            let message = format!("the service and homeostat cannot both listen on {listen}");
            let hint = "let the service listen on another port, and homeostat on the one that clients know; or, if it runs already, say `live: {}`"
                .to_string();
            self.error(Problem::error("conflicting-fields", at("listen"), message).hint(hint));
        }
        if let Some(live) = self.document.live {
            if let (Some(endpoint), Some(listen)) = (&endpoint, &listen)
                && !may_be(&endpoint.address, listen)
            {
                let message = format!(
                    "a service that runs already is stood in front of where it listens, and that is not {listen} and {} at once",
                    endpoint.address
                );
                let hint = format!("say `endpoint: {listen}`");
                self.error(Problem::error("conflicting-fields", at("endpoint"), message).hint(hint));
            }
            if let Some(pid) = live.pid.filter(|pid| *pid == 0 || i32::try_from(*pid).is_err()) {
                let message = format!("no process has the number {pid}");
                let hint = "leave it out, and whichever process listens there is meant".to_string();
                let place = at("live").then("pid");
                self.error(Problem::error("invalid-value", place, message).hint(hint));
            }
            if listen.is_none() {
                let message = "a service that runs already is stood in front of where it listens".to_string();
                let hint = "say `listen: ADDRESS`, where it does".to_string();
                self.error(Problem::error("missing-field", at("live"), message).hint(hint));
            }
            if self.document.process.is_some() {
                let message = "a service that homeostat starts does not run already".to_string();
                let hint = "leave out `process` or `live`".to_string();
                self.error(Problem::error("conflicting-fields", at("live"), message).hint(hint));
            }
        }
        (endpoint, listen)
    }

    /// The program that homeostat runs, and the sensors that look at it.
    fn process(&mut self) {
        if let Some(process) = &self.document.process {
            for (at, why) in process.problems() {
                let place = Place::value(std::iter::once("process").chain(at).map(Step::from));
                self.error(Problem::error("invalid-value", place, why));
            }
            return;
        }
        let sensors = self.document.monitor.iter().flat_map(|m| &m.sensors);
        let own = sensors.filter(|(_, spec)| matches!(spec, SensorSpec::Process(s) if s.own));
        for (name, _) in own.collect::<Vec<_>>() {
            let place = Place::value(["monitor".into(), "sensors".into(), name.as_str().into()]);
            let message =
                format!("`{name}` measures the process of the service, and homeostat runs none for it");
            let hint =
                "say `process: { command: [PROGRAM, ARGUMENT, …] }` in the policy of the service".to_string();
            self.error(Problem::error("no-process", place, message).hint(hint));
        }
    }

    /// Sensors of properties need properties that are numbers.
    fn properties(&mut self) {
        let sensors = self.document.monitor.iter().flat_map(|m| &m.sensors);
        let declared = self.document.manage.as_ref().map(|m| &m.properties);
        let mut problems = Vec::new();
        for (name, spec) in sensors {
            let SensorSpec::Property(sensor) = spec else { continue };
            let place = Place::value(["monitor".into(), "sensors".into(), name.as_str().into()]);
            match declared.and_then(|d| d.get(&sensor.name)) {
                None => {
                    let message = format!("the service has no property `{}`", sensor.name);
                    let names = declared.into_iter().flat_map(|d| d.keys().map(String::as_str));
                    let hint = match declared {
                        Some(_) => suggestion_or_list(&sensor.name, "properties", names),
                        None => Some("declare it under `manage: { properties: … }`".to_string()),
                    };
                    problems.push(Problem::error("unknown-property", place, message).hint(hint));
                }
                Some(property) if property.metric.is_some() => {
                    let message = format!("`{}` is a metric of the service already", sensor.name);
                    problems.push(Problem::error("invalid-value", place, message));
                }
                Some(property) if !property.kind.is_numeric() => {
                    let message =
                        format!("`{}` is of type {}, which is no metric", sensor.name, property.kind.word());
                    problems.push(Problem::error("invalid-value", place, message));
                }
                Some(_) => {}
            }
        }
        self.problems.append(&mut problems);
    }

    /// What can be managed from outside.
    fn manage(&mut self, endpoint: Option<&Endpoint>) -> Option<Manage> {
        self.properties();
        let spec = self.document.manage.as_ref()?;
        let based = endpoint.is_some_and(|e| e.protocol == Protocol::Http);
        let metrics = self.metric_names();
        let around =
            Around { endpoint: based, process: self.document.process.is_some(), metrics: Some(&metrics) };
        let problems = spec.problems(around);
        for (at, why) in &problems {
            let place = Place::value(["manage".into()]);
            let place = match at {
                Some((section, name)) => place.then(*section).then(*name),
                None => place.then("listen"),
            };
            self.error(Problem::error("invalid-value", place, why.clone()));
        }
        if !problems.is_empty() {
            return None;
        }
        let listen = spec.listen.as_deref().and_then(|text| parse_address(text).ok());
        for (name, property) in &spec.properties {
            if !property.changed_by.is_empty() && (self.document.listen.is_none() || !based) {
                let place = Place::value(["manage".into(), "properties".into()])
                    .then(name.as_str())
                    .then("changed_by");
                let message = "calls are seen only where homeostat stands in front of the service; say `listen: ADDRESS` and an HTTP `endpoint`";
                self.error(Problem::error("missing-field", place, message.to_string()));
            }
        }
        if let Some(listen) = listen
            && endpoint.is_some_and(|e| Some(&*e.address) == spec.listen.as_deref())
        {
            let message = format!("the service and homeostat cannot both listen on {listen}");
            let place = Place::value(["manage".into(), "listen".into()]);
            self.error(Problem::error("conflicting-fields", place, message));
        }
        Some(Manage { listen, spec: Arc::new(spec.clone()) })
    }

    // ---- M ---------------------------------------------------------------------------------------------------------

    /// The names of all metrics, in order: sensors, their outputs, computed ones.
    fn metric_names(&self) -> BTreeSet<String> {
        let Some(monitor) = &self.document.monitor else { return BTreeSet::new() };
        let mut names: BTreeSet<String> =
            monitor.sensors.keys().chain(monitor.metrics.keys()).cloned().collect();
        for (name, spec) in &monitor.sensors {
            names.extend(spec.outputs().iter().map(|output| format!("{name}_{output}")));
        }
        names.extend(streams(monitor).map(|name| format!("{name}_results")));
        names
    }

    fn monitor(&mut self) -> Option<MonitorPolicy> {
        let monitor = self.document.monitor.as_ref()?;
        let names = self.metric_names();
        let mut metrics = self.sensors(monitor);
        let mut computed = BTreeMap::new();
        for (name, metric) in &monitor.metrics {
            let place = Place::value(["monitor".into(), "metrics".into(), name.as_str().into()]);
            self.name(place.clone().at_key(), name, identifier_problem);
            if monitor.sensors.contains_key(name) {
                self.error(
                    Problem::error(
                        "duplicate-metric",
                        place.clone().at_key(),
                        format!("`{name}` is a sensor and a computed metric; a name stands for one metric"),
                    )
                    .hint(format!("call the sensor `own_{name}`, or the metric something else")),
                );
            } else if let Some(sensor) = output_owner(monitor, name) {
                self.error(Problem::error(
                    "duplicate-metric",
                    place.clone().at_key(),
                    format!("`{name}` is already an output of the sensor `{sensor}`"),
                ));
            }
            if let Some(policy) = self.metric(name, metric, &place, &names) {
                computed.insert(name.as_str(), policy);
            }
        }
        let ordered = self.in_order(computed);
        let (streams, rest): (Vec<_>, Vec<_>) =
            ordered.into_iter().partition(|metric| matches!(metric.kind, MetricKind::Stream(_)));
        let results: Vec<_> = streams.iter().map(|metric| self.results(monitor, &metric.name)).collect();
        metrics.extend(streams);
        metrics.extend(results);
        metrics.extend(rest);
        metrics.shrink_to_fit();
        let schedule = monitor.schedule;
        if let Some(Schedule { start: Some(start), stop: Some(stop), .. }) = schedule
            && stop < start
        {
            let place = Place::value(["monitor".into(), "schedule".into(), "stop".into()]);
            self.error(Problem::error("invalid-value", place, format!("`stop` is before `start`, {start}")));
        }
        let publish = self.publish(monitor, &names);
        Some(MonitorPolicy { metrics, history: monitor.history.unwrap_or(0), schedule, publish })
    }

    /// Which values go out.
    fn publish(&mut self, monitor: &MonitorDocument, names: &BTreeSet<String>) -> Vec<Arc<PublishPolicy>> {
        let mut publish = Vec::new();
        for (name, document) in &monitor.publish {
            let place = Place::value(["monitor".into(), "publish".into(), name.as_str().into()]);
            self.name(place.clone().at_key(), name, identifier_problem);
            if !names.contains(&document.metric) {
                let metric = &document.metric;
                self.error(
                    Problem::error(
                        "unknown-metric",
                        place.then("metric"),
                        format!("there is no metric `{metric}`"),
                    )
                    .hint(suggestion_or_list(metric, "metrics", names.iter().map(String::as_str)))
                    .about(metric),
                );
            }
            if let Some(problem) = document.to.problem() {
                self.error(Problem::error("invalid-value", place.then("to"), problem));
            }
            publish.push(Arc::new(PublishPolicy {
                name: name.as_str().into(),
                metric: document.metric.as_str().into(),
                to: Arc::new(document.to.clone()),
                every: document.every.map(|every| every.0).filter(|every| !every.is_zero()),
                changes: document.changes,
                words: document.words.iter().map(|word| word.as_str().into()).collect(),
            }));
        }
        publish
    }

    /// How many results a stream had when it was evaluated last: a metric of its own.
    fn results(&mut self, monitor: &MonitorDocument, stream: &Arc<str>) -> MetricPolicy {
        let name = format!("{stream}_results");
        if monitor.sensors.contains_key(&name) || monitor.metrics.contains_key(&name) {
            let place = Place::value(["monitor".into(), "metrics".into(), Step::from(&**stream)]);
            let message = format!("`{stream}` also yields `{name}`, which is another metric");
            self.error(Problem::error("duplicate-metric", place.at_key(), message));
        }
        let kind = MetricKind::Results { of: stream.clone() };
        MetricPolicy { name: name.into(), kind, unit: None, stale_after: None }
    }

    fn sensors(&mut self, monitor: &MonitorDocument) -> Vec<MetricPolicy> {
        let mut metrics = Vec::new();
        for (name, spec) in &monitor.sensors {
            let place = Place::value(["monitor".into(), "sensors".into(), name.as_str().into()]);
            self.name(place.clone().at_key(), name, identifier_problem);
            let stale_after = spec.stale_after().map(|age| age.0);
            if let Some(why) = spec.problem() {
                self.error(Problem::error(UNUSABLE, place.clone(), why));
            }
            metrics.push(MetricPolicy {
                name: name.as_str().into(),
                kind: MetricKind::Sensor(spec.clone()),
                unit: spec.unit().map(Arc::from),
                stale_after,
            });
            for output in spec.outputs() {
                let full = format!("{name}_{output}");
                if monitor.sensors.contains_key(&full) {
                    self.error(Problem::error(
                        "duplicate-metric",
                        place.clone().at_key(),
                        format!("the sensor `{name}` also yields `{full}`, which is another sensor"),
                    ));
                }
                metrics.push(MetricPolicy {
                    name: full.as_str().into(),
                    kind: MetricKind::Output { sensor: name.as_str().into() },
                    unit: None,
                    stale_after,
                });
            }
        }
        metrics
    }

    fn metric(
        &mut self,
        name: &str,
        metric: &MetricDocument,
        place: &Place,
        names: &BTreeSet<String>,
    ) -> Option<MetricPolicy> {
        let kind = match metric {
            MetricDocument::Constant(value) => self
                .expression(&constant(*value), place, names, Expression::parse)
                .map(MetricKind::Expression),
            MetricDocument::Expression(text) => {
                self.expression(text, place, names, Expression::parse).map(MetricKind::Expression)
            }
            MetricDocument::Computed(computed) => self.computed(computed, place, names),
        }?;
        let unit = match metric {
            MetricDocument::Computed(computed) => computed.unit.as_deref().map(Arc::from),
            _ => None,
        };
        Some(MetricPolicy { name: name.into(), kind, unit, stale_after: None })
    }

    fn computed(
        &mut self,
        computed: &ComputedMetric,
        place: &Place,
        names: &BTreeSet<String>,
    ) -> Option<MetricKind> {
        match (&computed.expr, &computed.of) {
            (Some(text), None) => {
                for (field, given) in [
                    ("aggregate", computed.aggregate.is_some()),
                    ("over", computed.over.is_some()),
                    ("every", computed.every.is_some()),
                    ("from", computed.from.is_some()),
                    ("by", computed.by.is_some()),
                    ("value", computed.value.is_some()),
                    ("having", computed.having.is_some()),
                    ("resource", computed.resource.is_some()),
                    ("emit", computed.emit.is_some()),
                ] {
                    if given {
                        self.error(
                            Problem::error(
                                "conflicting-fields",
                                place.then(field).at_key(),
                                format!("`{field}` goes with `of`, not with `expr`"),
                            )
                            .hint("make the expression a metric of its own, and aggregate that".to_string()),
                        );
                    }
                }
                self.expression(text, &place.then("expr"), names, Expression::parse)
                    .map(MetricKind::Expression)
            }
            (None, Some(of)) => self.aggregated(computed, of, place, names),
            (Some(_), Some(_)) => {
                self.error(
                    Problem::error(
                        "conflicting-fields",
                        place.then("of").at_key(),
                        "`expr` and `of` exclude each other",
                    )
                    .hint("make the expression a metric of its own, and name it in `of`".to_string()),
                );
                None
            }
            (None, None) => {
                self.error(
                    Problem::error("missing-field", place.clone(), "a computed metric needs `expr` or `of`")
                        .hint(
                            "`{ expr: a + b, unit: EUR }` or `{ of: latency, aggregate: p99, over: 60s }`"
                                .to_string(),
                        ),
                );
                None
            }
        }
    }

    fn aggregated(
        &mut self,
        computed: &ComputedMetric,
        of: &str,
        place: &Place,
        names: &BTreeSet<String>,
    ) -> Option<MetricKind> {
        let sensors = self.document.monitor.as_ref().map(|monitor| &monitor.sensors);
        if let Some(SensorSpec::Collect(sensor)) = sensors.and_then(|sensors| sensors.get(of)) {
            return self.stream(computed, of, sensor, place);
        }
        for (field, given) in [
            ("value", computed.value.is_some()),
            ("having", computed.having.is_some()),
            ("resource", computed.resource.is_some()),
            ("emit", computed.emit.is_some()),
        ] {
            if given {
                let message =
                    format!("`{field}` is about the data of a `collect` sensor, and `{of}` is none");
                self.error(Problem::error("conflicting-fields", place.then(field).at_key(), message));
            }
        }
        let Some(aggregate) = computed.aggregate else {
            self.error(
                Problem::error("missing-field", place.clone(), "`of` needs an `aggregate`")
                    .hint("such as `aggregate: avg`, `max`, `rate` or `p99`".to_string()),
            );
            return None;
        };
        for (field, zero) in [("over", computed.over), ("every", computed.every)] {
            if zero.is_some_and(|d| d.0.is_zero()) {
                self.error(Problem::error("invalid-value", place.then(field), format!("`{field}` is 0")));
            }
        }
        if matches!(aggregate, Aggregate::Ewma { single: true, .. }) && computed.over.is_some() {
            let message = format!("`{aggregate}` runs over all samples, and takes no `over`");
            let problem = Problem::error("conflicting-fields", place.then("over").at_key(), message);
            self.error(problem.hint("leave `over` out, or write `ewma`".to_string()));
        }
        let over = computed.over.map(|d| d.0);
        let every = computed.every.map(|d| d.0);
        let needs_window = match &computed.from {
            None => !matches!(aggregate, Aggregate::Ewma { .. } | Aggregate::Last | Aggregate::Age),
            Some(_) => matches!(aggregate, Aggregate::Rate | Aggregate::Delta),
        };
        if needs_window && over.is_none() {
            self.error(
                Problem::error(
                    "missing-window",
                    place.then("aggregate"),
                    format!("`{aggregate}` needs a window"),
                )
                .hint("say how far back: `over: 60s`".to_string()),
            );
        }
        if let Some(from) = &computed.from {
            if let Some(why) = identifier_problem(of) {
                self.error(Problem::error(
                    "invalid-name",
                    place.then("of"),
                    format!("with `from`, `of` names a metric of each member: {why}"),
                ));
                return None;
            }
            let by = computed.by.as_deref().map(Arc::from);
            return Some(MetricKind::Group(GroupPolicy {
                of: of.into(),
                from: from.clone(),
                aggregate,
                over,
                every,
                by,
            }));
        }
        if computed.by.is_some() {
            self.error(
                Problem::error(
                    "conflicting-fields",
                    place.then("by").at_key(),
                    "`by` groups the members of `from`, which is missing",
                )
                .hint("such as `from: { class: VM }`".to_string()),
            );
        }
        let path = MetricPath::parse(of);
        let good = match &path {
            MetricPath::Own(name) => identifier_problem(name),
            MetricPath::Via { reference, metric } => {
                identifier_problem(reference).or(identifier_problem(metric))
            }
        };
        if let Some(why) = good {
            self.error(
                Problem::error("invalid-name", place.then("of"), format!("`of` names one metric: {why}"))
                    .hint("make an expression a metric of its own, and name it in `of`".to_string()),
            );
            return None;
        }
        self.input(&path, place.then("of").inside(0..of.len()), names);
        Some(MetricKind::Window(WindowPolicy { of: path, aggregate, over, every }))
    }

    /// What is made of the data of a `collect` sensor.
    fn stream(
        &mut self,
        computed: &ComputedMetric,
        of: &str,
        sensor: &CollectSensor,
        place: &Place,
    ) -> Option<MetricKind> {
        let before = self.problems.len();
        let mut period = |field: &str, given: Option<HumanDuration>| match given {
            Some(given) if given.0 < LEAST_STEP || given.0 > MAX_STEP => {
                let message = format!("`{field}` is {given}; expected 10ms to a year");
                self.error(Problem::error("invalid-value", place.then(field), message));
                None
            }
            given => given.map(|given| given.0),
        };
        let (over, every) = (period("over", computed.over), period("every", computed.every));
        if self.problems.len() > before {
            return None;
        }
        let (Some(over), Some(every)) = (over.or(every), every.or(over)) else {
            let message = "data are looked at every so often, and it is not said how often";
            let hint = "say how far back and how often: `over: 60s, every: 60s`".to_string();
            self.error(Problem::error("missing-window", place.clone(), message).hint(hint));
            return None;
        };
        if computed.from.is_some() {
            let message = "whose data they are is said by the `collect` sensor";
            self.error(Problem::error("conflicting-fields", place.then("from").at_key(), message));
        }
        let mut aggregates: Vec<Aggregate> = computed.aggregate.into_iter().collect();
        let mut value = None;
        if let Some(text) = &computed.value {
            if computed.aggregate.is_some() {
                let message = "`aggregate` and `value` exclude each other";
                self.error(Problem::error("conflicting-fields", place.then("value").at_key(), message));
            }
            (aggregates, value) = self.stream_value(text, &place.then("value"))?;
        }
        if let Some(bad) = aggregates.iter().find(|a| !stream::supports(**a)) {
            let message = format!("`{bad}` has no meaning over the data of many resources");
            let hint = "expected avg, sum, min, max, count, stddev or a percentile such as p99".to_string();
            self.error(Problem::error("invalid-value", place.then("aggregate"), message).hint(hint));
        }
        let having = computed.having.as_deref().and_then(|text| self.having(text, &place.then("having")));
        if computed.by.is_some() && aggregates.is_empty() {
            let message = "`by` groups what is aggregated, and each datum stands for itself here";
            let hint = "say how: `aggregate: avg`".to_string();
            self.error(Problem::error("conflicting-fields", place.then("by").at_key(), message).hint(hint));
        }
        if computed.by.is_some() && computed.resource.is_some() {
            let message = "results are said of their groups; `resource` would say them all of one";
            self.error(Problem::error("conflicting-fields", place.then("resource").at_key(), message));
        }
        for (field, text) in
            [("by", &computed.by), ("resource", &computed.resource), ("emit", &computed.emit)]
        {
            if text
                .as_ref()
                .is_some_and(|text| text.is_empty() || text.len() > 1024 || text.contains(char::is_control))
            {
                let message = format!("`{field}` is no name; expected up to 1024 bytes of text");
                self.error(Problem::error("invalid-name", place.then(field), message));
            }
        }
        (self.problems.len() == before).then(|| {
            MetricKind::Stream(Arc::new(StreamPolicy {
                of: of.into(),
                metric: sensor.metric.as_deref().unwrap_or(of).into(),
                grouping: Grouping { from: sensor.from.clone(), by: computed.by.as_deref().map(Arc::from) },
                aggregates,
                value,
                having,
                over,
                every,
                resource: computed.resource.as_deref().map(Arc::from),
                emit: computed.emit.as_deref().map(Arc::from),
            }))
        })
    }

    /// An expression over aggregates, or over `value`: which aggregates, and the expression over them in that order.
    fn stream_value(&mut self, text: &str, place: &Place) -> Option<(Vec<Aggregate>, Option<Expression>)> {
        let nothing = BTreeSet::new();
        let expression = match Expression::parse(text) {
            Ok(expression) => expression,
            // Tells what is wrong with it.
            Err(_) => {
                return self
                    .expression(text, place, &nothing, Expression::parse)
                    .map(|e| (Vec::new(), Some(e)));
            }
        };
        let mut aggregates = Vec::new();
        let mut raw = expression.inputs.is_empty();
        for path in &expression.inputs {
            let name = path.to_string();
            match aggregate_named(&name) {
                _ if name == "value" => raw = true,
                Some(aggregate) => aggregates.push(aggregate),
                None => {
                    let message = format!("`{name}` is neither `value` nor an aggregate");
                    let hint = "expected avg, sum, min, max, count, stddev or a percentile such as p99 (p99_9 for 99.9)";
                    let place = place.clone().inside(find(text, &name));
                    self.error(Problem::error("unknown-metric", place, message).hint(hint.to_string()));
                    return None;
                }
            }
        }
        if raw && !aggregates.is_empty() {
            let message =
                "`value` is one datum, and aggregates are of many; both in one expression have no meaning";
            self.error(Problem::error("expression", place.clone(), message));
            return None;
        }
        Some((aggregates, Some(expression)))
    }

    /// A condition on a result.
    fn having(&mut self, text: &str, place: &Place) -> Option<Expression> {
        let names = BTreeSet::from(["value".to_string()]);
        let having = self.expression(text, place, &names, Expression::parse_condition)?;
        // Anything else was told above.
        having.inputs.iter().all(|path| path.to_string() == "value").then_some(having)
    }

    /// Compiles a text and checks that what it reads exists.
    fn expression(
        &mut self,
        text: &str,
        place: &Place,
        names: &BTreeSet<String>,
        parse: fn(&str) -> Result<Expression, ExpressionError>,
    ) -> Option<Expression> {
        match parse(text) {
            Ok(expression) => {
                for path in &expression.inputs {
                    self.input(path, place.clone().inside(find(text, &path.to_string())), names);
                }
                Some(expression)
            }
            Err(error) => {
                self.error(
                    Problem::error("expression", place.clone().inside(error.span), error.message)
                        .hint(error.hint),
                );
                None
            }
        }
    }

    fn input(&mut self, path: &MetricPath, place: Place, names: &BTreeSet<String>) {
        match path {
            MetricPath::Own(name) if !names.contains(&**name) => {
                let mut known = names.iter().map(String::as_str);
                let hint = if self.document.references.contains_key(&**name) {
                    Some(format!("`{name}` is a reference; name a metric there, such as `{name}.cost`"))
                } else if self.document.monitor.is_none() {
                    Some("the service has no `monitor` section".to_string())
                } else {
                    suggestion(name, known.by_ref())
                        .or_else(|| suggestion_or_list(name, "metrics", names.iter().map(String::as_str)))
                };
                self.error(
                    Problem::error("unknown-metric", place, format!("there is no metric `{name}`"))
                        .hint(hint)
                        .about(name),
                );
            }
            MetricPath::Via { reference, .. } if !self.document.references.contains_key(&**reference) => {
                let hint = suggestion_or_list(
                    reference,
                    "references",
                    self.document.references.keys().map(String::as_str),
                );
                self.error(
                    Problem::error(
                        "unknown-reference",
                        place,
                        format!("there is no reference `{reference}`"),
                    )
                    .hint(hint)
                    .about(reference),
                );
            }
            _ => {}
        }
    }

    /// The computed metrics, so that what each is computed from stands before it (depth first, in the order of names).
    fn in_order(&mut self, metrics: BTreeMap<&str, MetricPolicy>) -> Vec<MetricPolicy> {
        let order = match order(&metrics) {
            Ok(order) => order,
            Err(cycles) => {
                for cycle in cycles {
                    let place = Place::value(["monitor".into(), "metrics".into(), cycle[0].as_str().into()]);
                    let text = cycle.join(" -> ");
                    self.error(Problem::error(
                        "metric-cycle",
                        place,
                        format!("`{}` depends on itself: {text}", cycle[0]),
                    ));
                }
                return Vec::new();
            }
        };
        let mut metrics = metrics;
        order.iter().filter_map(|name| metrics.remove(name.as_str())).collect()
    }

    // ---- A ---------------------------------------------------------------------------------------------------------

    fn analyze(&mut self) -> Option<AnalyzePolicy> {
        let slos = self.document.analyze.as_ref()?;
        let names = self.metric_names();
        let mut slos: Vec<Arc<SloPolicy>> =
            slos.iter().filter_map(|(name, slo)| self.slo(name, slo, &names).map(Arc::new)).collect();
        slos.shrink_to_fit();
        Some(AnalyzePolicy { slos })
    }

    fn slo(&mut self, name: &str, slo: &SloDocument, names: &BTreeSet<String>) -> Option<SloPolicy> {
        let place = Place::value(["analyze".into(), name.into()]);
        self.name(place.clone().at_key(), name, identifier_problem);
        let objective =
            self.expression(&slo.objective, &place.then("objective"), names, Expression::parse_condition);
        let warn = slo
            .warn
            .as_ref()
            .map(|text| self.expression(text, &place.then("warn"), names, Expression::parse_condition));
        let (objective, warn) = (objective?, warn.map_or(Some(None), |w| w.map(Some))?);
        Some(SloPolicy {
            name: name.into(),
            violation: objective.negated(),
            warning: warn.as_ref().map(Expression::negated),
            objective,
            warn,
            hold_for: slo.hold_for.map_or(Duration::ZERO, |d| d.0),
            recover_for: slo.recover_for.map_or(Duration::ZERO, |d| d.0),
            severity: slo.severity,
            missing: slo.missing,
            enabled: slo.enabled,
        })
    }

    // ---- P ---------------------------------------------------------------------------------------------------------

    fn plan(
        &mut self,
        scripts: &dyn Fn(&str) -> Option<Arc<Script>>,
    ) -> (Option<PlanPolicy>, BTreeMap<Arc<str>, Arc<Script>>) {
        let mut used = BTreeMap::new();
        let Some(rows) = &self.document.plan else { return (None, used) };
        let mut compiled = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let place = Place::value([Step::from("plan"), Step::from(i)]);
            self.when(row, &place);
            let strategy = match (&row.run, &row.actions) {
                (Some(name), None) => match scripts(name) {
                    Some(script) => {
                        used.insert(Arc::from(name.as_str()), script.clone());
                        Some(Strategy::Script(script))
                    }
                    None => {
                        self.error(
                            Problem::error(
                                "unknown-script",
                                place.then("run"),
                                format!("there is no script `{name}`"),
                            )
                            .about(name),
                        );
                        None
                    }
                },
                (None, Some(actions)) => {
                    self.actions(actions, &place.then("do"));
                    Some(Strategy::Actions { hash: hash_of(actions), actions: actions.clone() })
                }
                (Some(_), Some(_)) => {
                    self.error(Problem::error(
                        "conflicting-fields",
                        place.then("do").at_key(),
                        "`run` and `do` exclude each other",
                    ));
                    None
                }
                (None, None) => {
                    self.error(
                        Problem::error("missing-field", place.clone(), "a row needs `run` or `do`")
                            .hint("`run: strategy.rhai` or `do: [{ notify: { text: … } }]`".to_string()),
                    );
                    None
                }
            };
            if row.once && row.run.is_some() {
                let problem = Problem::error(
                    "conflicting-fields",
                    place.then("once").at_key(),
                    "`once` is for actions, and this row has a script",
                );
                self.error(problem.hint("write the actions as `do`".to_string()));
            }
            if let Some(slow) = row.slow {
                if row.run.is_none() {
                    self.error(Problem::error(
                        "conflicting-fields",
                        place.then("slow").at_key(),
                        "`slow` is for a script, and this row has no `run`",
                    ));
                } else if slow.0.is_zero() || slow.0 > MAX_SLOW.0 {
                    self.error(
                        Problem::error(
                            "invalid-value",
                            place.then("slow"),
                            format!("a script may take {slow}: not 0, and at most {MAX_SLOW}"),
                        )
                        .hint("what takes longer is no strategy; let an effector do it".to_string()),
                    );
                }
            }
            if let Some(expires) = row.expires {
                if row.mode != Mode::Approve {
                    self.error(
                        Problem::error(
                            "conflicting-fields",
                            place.then("expires").at_key(),
                            format!(
                                "`expires` is for `mode: approve`, and this row has `mode: {}`",
                                row.mode
                            ),
                        )
                        .hint("leave `expires` out, or write `mode: approve`".to_string()),
                    );
                } else if expires.0.is_zero() {
                    self.error(Problem::error(
                        "invalid-value",
                        place.then("expires"),
                        "`expires` is 0: nobody could approve it in time",
                    ));
                }
            }
            if let Some(strategy) = strategy {
                compiled.push(Arc::new(plan_row(row, strategy)));
            }
        }
        (Some(PlanPolicy { rows: compiled }), used)
    }

    fn when(&mut self, row: &PlanDocument, place: &Place) {
        let empty = BTreeMap::new();
        let slos = self.document.analyze.as_ref().unwrap_or(&empty);
        for (i, name) in row.when.names().into_iter().enumerate() {
            if slos.contains_key(name) {
                continue;
            }
            let place = match &row.when {
                super::document::When::One(_) => place.then("when"),
                super::document::When::Many(_) => place.then("when").then(i),
            };
            let hint = suggestion_or_list(name, "SLOs", slos.keys().map(String::as_str));
            self.problems.push(
                Problem::error("unknown-slo", place, format!("there is no SLO `{name}`"))
                    .hint(hint)
                    .about(name),
            );
        }
        if matches!(&row.when, super::document::When::Many(names) if names.is_empty()) {
            self.error(
                Problem::error("invalid-value", place.then("when"), "the row is for no SLO")
                    .hint("`*` stands for all".to_string()),
            );
        }
    }

    fn actions(&mut self, actions: &[Action], place: &Place) {
        if actions.is_empty() {
            self.error(Problem::error("invalid-value", place.clone(), "the list of actions is empty"));
        }
        for (i, action) in actions.iter().enumerate() {
            // Inside an externally tagged action, its fields stand under the tag.
            let tag = if matches!(action, Action::Custom { .. }) { "custom" } else { action.name() };
            self.action(action, &place.then(i).then(tag));
        }
    }

    fn action(&mut self, action: &Action, place: &Place) {
        let own = match action.service() {
            None => true,
            Some(service) if service == self.document.service => true,
            Some(service) => {
                if !self.reachable().any(|name| name == service) {
                    let known = self.reachable().chain([self.document.service.as_str()]);
                    let hint = suggestion(service, known)
                        .unwrap_or_else(|| "actions go to this service or along its references".to_string());
                    self.error(
                        Problem::error(
                            "no-route",
                            place.then("service"),
                            format!("no reference leads to `{service}`"),
                        )
                        .hint(hint)
                        .about(service),
                    );
                }
                false
            }
        };
        if own {
            self.own_action(action, place);
        }
    }

    fn reachable(&self) -> impl Iterator<Item = &str> + Clone {
        self.document.references.values().flat_map(ReferenceDocument::services).map(String::as_str)
    }

    fn own_action(&mut self, action: &Action, place: &Place) {
        let document = self.document;
        let problem = check_action(
            action,
            place,
            &|name| {
                document.execute.as_ref().is_some_and(|effectors| {
                    effectors.contains_key(name)
                        || document.process.is_some() && ON_PROCESSES.contains(&name)
                        || document.manage.as_ref().is_some_and(|m| m.carries(name))
                })
            },
            &|action| {
                let effectors = document.execute.as_ref()?;
                let manage = document.manage.as_ref().filter(|_| !effectors.contains_key(action.name()))?;
                manage.refuses(action)
            },
            &|reference| {
                let reference = document.references.get(reference)?;
                // Who provides a capability is known when all documents are.
                let named = if reference.capability.is_some() { action.leads_to() } else { Vec::new() };
                Some(reference.services().cloned().chain(named.into_iter().map(str::to_string)).collect())
            },
            &document.references.keys().map(String::as_str).collect::<Vec<_>>(),
            &document.analyze.iter().flatten().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        );
        self.problems.extend(problem);
    }

    // ---- E ---------------------------------------------------------------------------------------------------------

    fn execute(&mut self) -> Option<ExecutePolicy> {
        let effectors = self.document.execute.as_ref()?;
        let mut compiled = BTreeMap::new();
        for (name, spec) in effectors {
            let place = Place::value(["execute".into(), name.as_str().into()]);
            self.name(place.clone().at_key(), name, identifier_problem);
            if BUILT_IN_ACTIONS.contains(&name.as_str()) && name != "notify" {
                self.error(Problem::error(
                    "built-in-action",
                    place.clone().at_key(),
                    format!("`{name}` is carried out by homeostat itself and takes no effector"),
                ));
            }
            if let Some(why) = spec.problem() {
                self.error(Problem::error(UNUSABLE, place, why));
            }
            compiled.insert(name.as_str().into(), Arc::new(spec.clone()));
        }
        Some(ExecutePolicy { effectors: compiled })
    }
}

/// Checks an action against the service that is to carry it out: is it declared, do its references, candidates, SLOs and, where no effector
/// takes it, its property or method exist?
pub(crate) fn check_action(
    action: &Action,
    place: &Place,
    declared: &dyn Fn(&str) -> bool,
    refuses: &dyn Fn(&Action) -> Option<String>,
    candidates: &dyn Fn(&str) -> Option<Vec<String>>,
    references: &[&str],
    slos: &[&str],
) -> Option<Problem> {
    let list = |names: &[String]| {
        let names: BTreeSet<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    match action {
        Action::Bind { reference, .. } | Action::Unbind { reference, .. } => {
            let Some(known) = candidates(reference) else {
                return Some(
                    Problem::error(
                        "unknown-reference",
                        place.then("reference"),
                        format!("there is no reference `{reference}`"),
                    )
                    .hint(suggestion_or_list(reference, "references", references.iter().copied()))
                    .about(reference),
                );
            };
            if let Action::Bind { to, .. } = action
                && !known.contains(to)
            {
                return Some(
                    Problem::error(
                        "not-a-candidate",
                        place.then("to"),
                        format!("`{to}` is no candidate of the reference `{reference}`"),
                    )
                    .hint(format!("its candidates are {}", list(&known))),
                );
            }
            None
        }
        Action::Replace { from, to, .. } => {
            let of_from: Vec<Vec<String>> =
                references.iter().filter_map(|r| candidates(r)).filter(|c| c.contains(from)).collect();
            if of_from.is_empty() {
                return Some(Problem::error(
                    "not-a-candidate",
                    place.then("from"),
                    format!("no reference can be bound to `{from}`"),
                ));
            }
            if of_from.iter().any(|c| c.contains(to)) {
                return None;
            }
            Some(
                Problem::error(
                    "not-a-candidate",
                    place.then("to"),
                    format!("no reference that can be bound to `{from}` can be bound to `{to}`"),
                )
                .hint(format!("their candidates are {}", list(&of_from.concat()))),
            )
        }
        Action::EnableSlo { slo, .. } | Action::DisableSlo { slo, .. } if !slos.contains(&slo.as_str()) => {
            Some(
                Problem::error("unknown-slo", place.then("slo"), format!("there is no SLO `{slo}`"))
                    .hint(suggestion_or_list(slo, "SLOs", slos.iter().copied()))
                    .about(slo),
            )
        }
        _ if declared(action.name()) && refuses(action).is_some() => {
            let why = refuses(action).unwrap_or_default();
            Some(Problem::error("not-managed", place.clone().at_key(), format!("`{action}`: {why}")))
        }
        _ if BUILT_IN_ACTIONS.contains(&action.name()) || declared(action.name()) => None,
        Action::Restart { .. } if declared("stop") && declared("start") => None,
        _ => Some(
            Problem::error(
                "undeclared-action",
                place.clone().at_key(),
                format!("no effector is declared for the action `{}`", action.name()),
            )
            .hint(format!("add `{}: {{ http: {{ … }} }}`, `exec` or `log` to `execute`", action.name())),
        ),
    }
}

fn plan_row(row: &PlanDocument, strategy: Strategy) -> PlanRow {
    PlanRow {
        when: row.when.clone(),
        on: if row.on.is_empty() { vec![AlarmKind::Violation] } else { row.on.clone() },
        severity: row.severity,
        strategy,
        mode: row.mode,
        cooldown: row.cooldown.unwrap_or(DEFAULT_COOLDOWN).0,
        expires: row.expires.unwrap_or(DEFAULT_EXPIRES).0,
        slow: row.slow.map(|time| time.0),
        once: row.once,
        on_failure: row.on_failure,
        also: row.also,
    }
}

fn output_owner<'a>(monitor: &'a MonitorDocument, name: &str) -> Option<&'a str> {
    monitor
        .sensors
        .iter()
        .find(|(sensor, spec)| spec.outputs().iter().any(|output| format!("{sensor}_{output}") == name))
        .map(|(sensor, _)| sensor.as_str())
}

/// The metrics that are made of the data of a `collect` sensor; each has a further metric `<name>_results`.
fn streams(monitor: &MonitorDocument) -> impl Iterator<Item = &String> {
    monitor.metrics.iter().filter_map(|(name, metric)| match metric {
        MetricDocument::Computed(computed) => {
            let of = monitor.sensors.get(computed.of.as_ref()?)?;
            matches!(of, SensorSpec::Collect(_)).then_some(name)
        }
        _ => None,
    })
}

/// The aggregate that an expression calls by this name: `sum`, `p99`, `p99_9`.
fn aggregate_named(name: &str) -> Option<Aggregate> {
    Aggregate::parse(&name.replace('_', ".")).ok().filter(|aggregate| stream::supports(*aggregate))
}

/// A constant as the language writes it.
fn constant(value: f64) -> String {
    format!("{value}")
}

/// The content hash of a list of actions (BLAKE3, hex, 16 digits).
fn hash_of(actions: &[Action]) -> Arc<str> {
    let json = serde_json::to_vec(actions).unwrap_or_default();
    blake3::hash(&json).to_hex()[..16].into()
}

/// Where `name` stands in `text` as a word of its own; the whole text when it is written otherwise (with spaces around the dot).
pub(crate) fn find(text: &str, name: &str) -> std::ops::Range<usize> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut from = 0;
    while let Some(at) = text[from..].find(name).map(|i| from + i) {
        let end = at + name.len();
        let before = text[..at].chars().next_back().is_some_and(|c| word(c) || c == '.');
        let after = text[end..].chars().next().is_some_and(|c| word(c) || (c == '.' && !name.contains('.')));
        if !before && !after {
            return at..end;
        }
        from = end;
    }
    0..text.len()
}

/// What a metric of the same service is computed from.
fn own_inputs(metric: &MetricPolicy) -> Vec<&str> {
    match &metric.kind {
        MetricKind::Expression(expression) => expression.inputs.iter().filter_map(own).collect(),
        MetricKind::Window(window) => own(&window.of).into_iter().collect(),
        MetricKind::Sensor(_) | MetricKind::Output { .. } | MetricKind::Group(_) | MetricKind::Stream(_) => {
            Vec::new()
        }
        MetricKind::Results { of } => vec![of],
    }
}

fn own(path: &MetricPath) -> Option<&str> {
    match path {
        MetricPath::Own(name) => Some(name),
        MetricPath::Via { .. } => None,
    }
}

/// Inputs first; or every cycle found, as names that begin and end with the same one.
fn order(metrics: &BTreeMap<&str, MetricPolicy>) -> Result<Vec<String>, Vec<Vec<String>>> {
    let (mut order, mut cycles) = (Vec::new(), Vec::new());
    // 1: on the path from the start; 2: done.
    let mut state: BTreeMap<&str, u8> = BTreeMap::new();
    for start in metrics.keys() {
        if state.contains_key(start) {
            continue;
        }
        // The path, each with its inputs still to visit. A stack of our own: the depth is the policy's, not ours.
        let mut path: Vec<(&str, Vec<&str>)> = Vec::new();
        let enter =
            |name: &'_ str| metrics.get_key_value(name).map(|(name, metric)| (*name, own_inputs(metric)));
        if let Some(frame) = enter(start) {
            state.insert(frame.0, 1);
            path.push(frame);
        }
        while let Some((name, rest)) = path.last_mut() {
            let Some(next) = rest.pop() else {
                state.insert(name, 2);
                order.push(name.to_string());
                path.pop();
                continue;
            };
            match state.get(next) {
                Some(1) => {
                    let from = path.iter().position(|(name, _)| *name == next).unwrap_or(0);
                    let cycle =
                        path[from..].iter().map(|(name, _)| name.to_string()).chain([next.to_string()]);
                    cycles.push(cycle.collect());
                }
                Some(_) => {}
                None => {
                    if let Some(frame) = enter(next) {
                        state.insert(frame.0, 1);
                        path.push(frame);
                    }
                }
            }
        }
    }
    if cycles.is_empty() { Ok(order) } else { Err(cycles) }
}
