//! What only shows when all documents are seen together: names that are used twice, references that lead nowhere, metrics that
//! are not there, and metrics that depend on themselves across services.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::compile::check_action;
use super::diagnostics::{Problem, suggestion, suggestion_or_list};
use super::set::{Broken, Draft};
use super::tree::{Place, Step};
use super::value::{GroupPolicy, MetricKind, MetricPolicy, ServicePolicy, Strategy};
use crate::model::{MetricPath, Resource};

/// Checks a whole set. `broken` are names whose own documents are wrong; what only misses them is left out.
/// Linear in the number of documents, metrics and the edges between them.
pub(crate) fn check(drafts: &[Draft<'_>], broken: &Broken) -> Vec<Problem> {
    let mut all = Everything::new(drafts, broken);
    all.scripts_without_use();
    all.readings_of_scripts();
    for service in 0..all.services.len() {
        all.references(service);
        all.inputs(service);
        all.actions(service);
    }
    all.ports();
    all.groups();
    all.cycles();
    all.problems
}

/// One service in its file.
#[derive(Clone, Copy)]
struct Home<'a> {
    policy: &'a ServicePolicy,
    file: &'a Arc<str>,
    /// How many documents of the same name stand before it in the file.
    number: usize,
}

struct Everything<'a> {
    drafts: &'a [Draft<'a>],
    broken: &'a Broken,
    services: Vec<Home<'a>>,
    by_name: FxHashMap<&'a str, usize>,
    /// The number of each metric of each service in `metrics`.
    numbers: FxHashMap<(usize, &'a str), usize>,
    metrics: Vec<(usize, &'a MetricPolicy)>,
    problems: Vec<Problem>,
}

impl<'a> Everything<'a> {
    fn new(drafts: &'a [Draft<'a>], broken: &'a Broken) -> Self {
        let mut all = Self {
            drafts,
            broken,
            services: Vec::new(),
            by_name: FxHashMap::default(),
            numbers: FxHashMap::default(),
            metrics: Vec::new(),
            problems: Vec::new(),
        };
        // Where each name was first declared.
        let mut names: FxHashMap<&'a str, &'a Arc<str>> = FxHashMap::default();
        for draft in drafts {
            let file = &draft.source.path;
            let mut here: BTreeMap<&str, usize> = BTreeMap::new();
            let services = draft.compiled.services.iter().map(|(_, policy)| (&*policy.name, Some(policy)));
            let resources = draft.compiled.resources.iter().map(|(_, resource)| (resource.id.as_str(), None));
            for (name, policy) in services.chain(resources) {
                let number = *here.entry(name).and_modify(|n| *n += 1).or_insert(0);
                if let Some(first) = names.get(name) {
                    let key = if policy.is_some() { "service" } else { "resource" };
                    let mut problem = Problem::error(
                        "duplicate-name",
                        Place::value([key.into()]),
                        format!("`{name}` is already declared in {first}"),
                    )
                    .of(name);
                    (problem.file, problem.document_number) = (Some(file.clone()), number);
                    all.problems.push(problem);
                    continue;
                }
                names.insert(name, file);
                if let Some(policy) = policy {
                    all.add(Home { policy, file, number });
                }
            }
        }
        all
    }

    fn add(&mut self, home: Home<'a>) {
        let service = self.services.len();
        self.services.push(home);
        self.by_name.insert(&home.policy.name, service);
        for metric in home.policy.monitor.iter().flat_map(|monitor| &monitor.metrics) {
            self.numbers.insert((service, &metric.name), self.metrics.len());
            self.metrics.push((service, metric));
        }
    }

    fn report(&mut self, service: usize, problem: Problem) {
        let home = self.services[service];
        let mut problem = problem.of(&home.policy.name);
        (problem.file, problem.document_number) = (Some(home.file.clone()), home.number);
        self.problems.push(problem);
    }

    fn scripts_without_use(&mut self) {
        let used: std::collections::HashSet<*const super::script::Script> =
            self.services.iter().flat_map(|home| home.policy.scripts.values().map(Arc::as_ptr)).collect();
        // While documents are wrong it is not known what they use.
        if !self.broken.is_empty() {
            return;
        }
        for draft in self.drafts {
            if let Some(script) = &draft.compiled.script
                && !used.contains(&Arc::as_ptr(script))
            {
                let mut problem =
                    Problem::warning("unused-script", Place::default(), "no plan runs this script");
                (problem.file, problem.span) = (Some(draft.source.path.clone()), Some(0..0));
                self.problems.push(problem);
            }
        }
    }

    /// Readings that scripts name by literals should be there. Only warnings: a script may know what it does.
    fn readings_of_scripts(&mut self) {
        if !self.broken.is_empty() {
            return;
        }
        let files: FxHashMap<*const super::script::Script, &'a super::load::SourceFile> = self
            .drafts
            .iter()
            .filter_map(|draft| Some((Arc::as_ptr(draft.compiled.script.as_ref()?), draft.source)))
            .collect();
        for service in 0..self.services.len() {
            let policy = self.services[service].policy;
            for script in policy.scripts.values() {
                let Some(source) = files.get(&Arc::as_ptr(script)) else { continue };
                for (target, metric) in script.literal_readings() {
                    let Some((word, message)) = self.missing_reading(service, target.as_deref(), &metric)
                    else {
                        continue;
                    };
                    let quoted = format!("\"{word}\"");
                    let at = source.text.find(&quoted).map_or(0..0, |at| at..at + quoted.len());
                    let mut problem =
                        Problem::warning("unknown-reading", Place::default(), message).of(&policy.name);
                    (problem.file, problem.span) = (Some(source.path.clone()), Some(at));
                    self.problems.push(problem);
                }
            }
        }
    }

    /// Which word of `metric(target, metric)` means nothing to this service, and why.
    fn missing_reading(
        &self,
        service: usize,
        target: Option<&str>,
        metric: &str,
    ) -> Option<(String, String)> {
        let policy = self.services[service].policy;
        // Members of families (`cpu[cpu0]`) only show while it runs.
        let name = metric.split('[').next().unwrap_or(metric);
        let targets: Vec<&str> = match target {
            None => vec![&*policy.name],
            Some(word) => match policy.references.get(word) {
                Some(reference) => reference.candidates.iter().map(|c| &**c).collect(),
                None => vec![word],
            },
        };
        for target in targets {
            let Some(&other) = self.by_name.get(target) else {
                return Some((
                    target.to_string(),
                    format!("`{target}` is neither a reference of `{}` nor a service", policy.name),
                ));
            };
            if !self.numbers.contains_key(&(other, name)) {
                return Some((metric.to_string(), format!("the service `{target}` has no metric `{name}`")));
            }
        }
        None
    }

    fn references(&mut self, service: usize) {
        let policy = self.services[service].policy;
        for (name, reference) in &policy.references {
            for target in &reference.candidates {
                if self.by_name.contains_key(&**target) || self.broken.contains(&**target) {
                    continue;
                }
                let place = reference_place(policy, name, target);
                let hint = suggestion(target, self.by_name.keys().copied())
                    .unwrap_or_else(|| format!("declare it: `service: {target}` alone is enough"));
                let problem =
                    Problem::error("unknown-service", place, format!("there is no service `{target}`"));
                self.report(service, problem.hint(hint));
            }
        }
    }

    /// A port of a reference needs to know where every service listens that it may lead to.
    fn endpoints(&mut self, service: usize) {
        let policy = self.services[service].policy;
        for (name, reference) in policy.references.iter().filter(|(_, r)| r.listen.is_some()) {
            for target in &reference.candidates {
                let Some(&other) = self.by_name.get(&**target) else { continue };
                if self.services[other].policy.endpoint.is_none() {
                    let message = format!(
                        "calls to `{name}` cannot be led to `{target}`: it is not known where that listens"
                    );
                    let hint = format!("say `endpoint: HOST:PORT` in the policy of `{target}`");
                    let place = reference_place(policy, name, target);
                    self.report(service, Problem::error("missing-endpoint", place, message).hint(hint));
                }
            }
        }
    }

    /// One address is listened on for one purpose.
    fn ports(&mut self) {
        let mut taken: BTreeMap<crate::model::endpoint::Address, String> = BTreeMap::new();
        for service in 0..self.services.len() {
            self.endpoints(service);
            let policy = self.services[service].policy;
            let own = policy.listen.map(|l| (l, Place::value(["listen".into()]), policy.name.to_string()));
            let references = policy.references.iter().filter_map(|(name, reference)| {
                let place = Place::value(["references".into(), Step::from(&**name), "listen".into()]);
                Some((reference.listen?, place, format!("{}.{name}", policy.name)))
            });
            for (listen, place, what) in own.into_iter().chain(references).collect::<Vec<_>>() {
                match taken.get(&listen) {
                    Some(first) => {
                        let message = format!("{listen} is already listened on for `{first}`");
                        self.report(service, Problem::error("duplicate-listen", place, message));
                    }
                    None => drop(taken.insert(listen, what)),
                }
            }
        }
    }

    /// Metrics of references must be there, at every service that the reference may lead to.
    fn inputs(&mut self, service: usize) {
        let policy = self.services[service].policy;
        if policy.references.is_empty() {
            return;
        }
        for metric in policy.monitor.iter().flat_map(|monitor| &monitor.metrics) {
            let place = Place::value(["monitor".into(), "metrics".into(), Step::from(&*metric.name)]);
            match &metric.kind {
                MetricKind::Expression(expression) => {
                    for path in &expression.inputs {
                        let place = if matches!(
                            policy.document.monitor.as_ref().and_then(|m| m.metrics.get(&*metric.name)),
                            Some(super::document::MetricDocument::Computed(_))
                        ) {
                            place.then("expr")
                        } else {
                            place.clone()
                        };
                        self.input(service, path, place, &expression.source);
                    }
                }
                MetricKind::Window(window) => {
                    self.input(service, &window.of, place.then("of"), &window.of.to_string());
                }
                _ => {}
            }
        }
        for slo in policy.analyze.iter().flat_map(|analyze| &analyze.slos) {
            let place = Place::value(["analyze".into(), Step::from(&*slo.name)]);
            for (field, expression) in [("objective", Some(&slo.objective)), ("warn", slo.warn.as_ref())] {
                for path in expression.iter().flat_map(|e| &e.inputs) {
                    let source = expression.map_or("", |e| &e.source);
                    self.input(service, path, place.then(field), source);
                }
            }
        }
    }

    fn input(&mut self, service: usize, path: &MetricPath, place: Place, source: &str) {
        let MetricPath::Via { reference, metric } = path else { return };
        let Some(reference) = self.services[service].policy.references.get(reference) else { return };
        for target in &reference.candidates {
            let Some(&other) = self.by_name.get(&**target) else { continue };
            if self.numbers.contains_key(&(other, metric)) || self.broken.contains(&**target) {
                continue;
            }
            let monitor = &self.services[other].policy.monitor;
            let known = monitor.iter().flat_map(|m| &m.metrics).map(|m| &*m.name);
            let hint = if monitor.is_none() {
                Some(format!("`{target}` has no `monitor` section"))
            } else {
                suggestion_or_list(metric, "metrics there", known)
            };
            let at = super::compile::find(source, &path.to_string());
            let problem = Problem::error(
                "unknown-metric",
                place.clone().inside(at),
                format!("the service `{target}` has no metric `{metric}`"),
            );
            self.report(service, problem.hint(hint));
        }
    }

    /// Actions on other services: do these declare them?
    fn actions(&mut self, service: usize) {
        let policy = self.services[service].policy;
        for (i, row) in policy.plan.iter().flat_map(|plan| &plan.rows).enumerate() {
            let Strategy::Actions { actions, .. } = &row.strategy else { continue };
            for (j, action) in actions.iter().enumerate() {
                let Some(target) = action.service().filter(|name| *name != &*policy.name) else { continue };
                let Some(&other) = self.by_name.get(target) else { continue };
                let tag = if matches!(action, crate::model::Action::Custom { .. }) {
                    "custom"
                } else {
                    action.name()
                };
                let place = Place::value([
                    Step::from("plan"),
                    Step::from(i),
                    Step::from("do"),
                    Step::from(j),
                    Step::from(tag),
                ]);
                let there = self.services[other].policy;
                let problem = check_action(
                    action,
                    &place,
                    &|name| {
                        there.execute.as_ref().is_some_and(|execute| execute.effectors.contains_key(name))
                    },
                    &|reference| {
                        there
                            .references
                            .get(reference)
                            .map(|r| r.candidates.iter().map(|c| c.to_string()).collect())
                    },
                    &there.references.keys().map(|name| &**name).collect::<Vec<_>>(),
                    &there.analyze.iter().flat_map(|a| &a.slos).map(|slo| &*slo.name).collect::<Vec<_>>(),
                );
                if let Some(mut problem) = problem {
                    problem.message = format!("{} at the service `{target}`", problem.message);
                    self.report(service, problem);
                }
            }
        }
    }

    /// A relation in `by` must be one that some member has.
    fn groups(&mut self) {
        let groups: Vec<(usize, &MetricPolicy, &GroupPolicy)> = self
            .metrics
            .iter()
            .filter_map(|(service, metric)| match &metric.kind {
                MetricKind::Group(group) => Some((*service, *metric, group)),
                _ => None,
            })
            .collect();
        for (service, metric, group) in groups {
            let Some(by) = group.by.as_deref().filter(|by| !["class", "type", "id"].contains(by)) else {
                continue;
            };
            let members: Vec<&Resource> = self
                .services
                .iter()
                .map(|home| &*home.policy.resource)
                .filter(|resource| group.from.matches(resource))
                .collect();
            if members.is_empty() || members.iter().any(|member| member.relations.contains_key(by)) {
                continue;
            }
            let known: std::collections::BTreeSet<&str> = members
                .iter()
                .flat_map(|m| m.relations.keys().map(String::as_str))
                .chain(["class", "type", "id"])
                .collect();
            let hint = suggestion_or_list(by, "relations", known.iter().copied());
            let place =
                Place::value(["monitor".into(), "metrics".into(), Step::from(&*metric.name), "by".into()]);
            let problem = Problem::error(
                "unknown-relation",
                place,
                format!("no member of the group has the relation `{by}`"),
            );
            self.report(service, problem.hint(hint));
        }
    }

    /// The numbers of the metrics that a metric may be computed from, following references with all their candidates.
    fn sources_of(&self, number: usize) -> Vec<usize> {
        let (service, metric) = self.metrics[number];
        let mut found = Vec::new();
        let mut add = |service: usize, name: &str| found.extend(self.numbers.get(&(service, name)).copied());
        let mut path = |path: &MetricPath| match path {
            MetricPath::Own(name) => add(service, name),
            MetricPath::Via { reference, metric } => {
                let candidates =
                    self.services[service].policy.references.get(reference).map(|r| &r.candidates);
                for target in candidates.into_iter().flatten() {
                    if let Some(&other) = self.by_name.get(&**target) {
                        add(other, metric);
                    }
                }
            }
        };
        match &metric.kind {
            MetricKind::Expression(expression) => expression.inputs.iter().for_each(path),
            MetricKind::Window(window) => path(&window.of),
            MetricKind::Group(group) => {
                for (member, home) in self.services.iter().enumerate() {
                    if group.from.matches(&home.policy.resource) {
                        add(member, &group.of);
                    }
                }
            }
            MetricKind::Sensor(_) | MetricKind::Output { .. } => {}
        }
        found
    }

    /// Finds metrics that depend on themselves, and names the way: `A.cost -> B.cost -> A.cost`.
    fn cycles(&mut self) {
        // 0: not seen; 1: on the path from the start; 2: done.
        let mut state = vec![0_u8; self.metrics.len()];
        for start in 0..self.metrics.len() {
            if state[start] != 0 {
                continue;
            }
            state[start] = 1;
            let mut path = vec![(start, self.sources_of(start))];
            while let Some((number, rest)) = path.last_mut() {
                let Some(next) = rest.pop() else {
                    state[*number] = 2;
                    path.pop();
                    continue;
                };
                match state[next] {
                    0 => {
                        state[next] = 1;
                        path.push((next, self.sources_of(next)));
                    }
                    1 => {
                        let from = path.iter().position(|(number, _)| *number == next).unwrap_or(0);
                        let cycle: Vec<usize> = path[from..].iter().map(|(number, _)| *number).collect();
                        self.cycle(&cycle);
                    }
                    _ => {}
                }
            }
        }
    }

    fn cycle(&mut self, cycle: &[usize]) {
        let name = |number: &usize| {
            let (service, metric) = self.metrics[*number];
            format!("{}.{}", self.services[service].policy.name, metric.name)
        };
        let text: Vec<String> = cycle.iter().chain(cycle.first()).map(name).collect();
        let (service, metric) = self.metrics[cycle[0]];
        let place = Place::value(["monitor".into(), "metrics".into(), Step::from(&*metric.name)]);
        let message = format!("`{}` depends on itself: {}", text[0], text.join(" -> "));
        let problem = Problem::error("metric-cycle", place, message)
            .hint("references are followed to every service that they may be bound to".to_string());
        self.report(service, problem);
    }
}

/// Where a service is named in a reference.
fn reference_place(policy: &ServicePolicy, name: &str, target: &str) -> Place {
    let place = Place::value(["references".into(), name.into()]);
    let Some(reference) = policy.document.references.get(name) else { return place };
    match reference.candidates.iter().position(|candidate| candidate == target) {
        Some(i) if reference.service.as_deref() != Some(target) => place.then("candidates").then(i),
        _ => place.then("service"),
    }
}
