//! What only shows when all documents are seen together: names that are used twice, references that lead nowhere, metrics that
//! are not there, and metrics that depend on themselves across services.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::compile::check_action;
use super::diagnostics::{Problem, suggestion, suggestion_or_list};
use super::set::{Broken, Draft, Reach};
use super::tree::{Place, Step};
use super::value::{GroupPolicy, MetricKind, MetricPolicy, ServicePolicy, Strategy};
use crate::model::calls::checkable;
use crate::model::endpoint::{Address, reaches};
use crate::model::{MetricPath, Resource};

/// Checks a whole set. `broken` are names whose own documents are wrong; what only misses them is left out.
/// Linear in the number of documents, and in the metrics and edges of those that name others: the rest was checked when it was compiled.
pub(crate) fn check(drafts: &[Draft<'_>], broken: &Broken) -> Vec<Problem> {
    let mut all = Everything::new(drafts, broken);
    all.scripts_without_use();
    all.readings_of_scripts();
    for service in all.outward() {
        all.references(service);
        all.inputs(service);
        all.actions(service);
    }
    all.ports();
    all.groups();
    all.cycles();
    all.circles();
    all.problems
}

/// A service with at most this many metrics is searched from end to end.
const FEW_METRICS: usize = 16;

/// One service in its file.
#[derive(Clone, Copy)]
struct Home<'a> {
    policy: &'a ServicePolicy,
    file: &'a Arc<str>,
    /// What the documents of the file name beyond themselves.
    reach: Reach,
    /// Whether its file was not in the set before.
    fresh: bool,
    /// How many documents of the same name stand before it in the file.
    number: usize,
}

/// Where a name was first declared.
struct Declared<'a> {
    file: &'a Arc<str>,
    /// `None`: a resource.
    service: Option<usize>,
}

/// A metric: the number of its service, and its number there.
type MetricNumber = (usize, usize);

struct Everything<'a> {
    drafts: &'a [Draft<'a>],
    broken: &'a Broken,
    services: Vec<Home<'a>>,
    names: FxHashMap<&'a str, Declared<'a>>,
    /// The numbers of metrics by name, of services that have many and were asked for one.
    numbers: FxHashMap<usize, FxHashMap<&'a str, usize>>,
    problems: Vec<Problem>,
}

impl<'a> Everything<'a> {
    fn new(drafts: &'a [Draft<'a>], broken: &'a Broken) -> Self {
        let mut all = Self {
            drafts,
            broken,
            services: Vec::with_capacity(drafts.len()),
            names: FxHashMap::with_capacity_and_hasher(drafts.len(), Default::default()),
            numbers: FxHashMap::default(),
            problems: Vec::new(),
        };
        let mut here: FxHashMap<&str, usize> = FxHashMap::default();
        for draft in drafts {
            let (file, compiled) = (&draft.source.path, &draft.compiled);
            here.clear();
            let services = compiled.services.iter().map(|(_, policy)| (&*policy.name, Some(&**policy)));
            let resources = compiled.resources.iter().map(|(_, resource)| (resource.id.as_str(), None));
            for (name, policy) in services.chain(resources) {
                let number = *here.entry(name).and_modify(|n| *n += 1).or_insert(0);
                if let Some(first) = all.names.get(name) {
                    let key = if policy.is_some() { "service" } else { "resource" };
                    let mut problem = Problem::error(
                        "duplicate-name",
                        Place::value([key.into()]),
                        format!("`{name}` is already declared in {}", first.file),
                    )
                    .of(name);
                    (problem.file, problem.document_number) = (Some(file.clone()), number);
                    all.problems.push(problem);
                    continue;
                }
                let service = policy.map(|policy| {
                    all.services.push(Home {
                        policy,
                        file,
                        reach: compiled.reach,
                        fresh: draft.fresh,
                        number,
                    });
                    all.services.len() - 1
                });
                all.names.insert(name, Declared { file, service });
            }
        }
        all
    }

    /// The services that name others.
    fn outward(&self) -> Vec<usize> {
        let outward = |home: &Home<'_>| home.reach.services || home.reach.groups;
        self.services.iter().enumerate().filter(|(_, home)| outward(home)).map(|(n, _)| n).collect()
    }

    fn service(&self, name: &str) -> Option<usize> {
        self.names.get(name)?.service
    }

    fn metrics(&self, service: usize) -> &'a [MetricPolicy] {
        self.services[service].policy.monitor.as_ref().map_or(&[], |monitor| &monitor.metrics)
    }

    fn metric(&mut self, service: usize, name: &str) -> Option<usize> {
        let metrics = self.metrics(service);
        if metrics.len() <= FEW_METRICS {
            return metrics.iter().position(|metric| *metric.name == *name);
        }
        let numbered =
            || metrics.iter().enumerate().map(|(number, metric)| (&*metric.name, number)).collect();
        self.numbers.entry(service).or_insert_with(numbered).get(name).copied()
    }

    fn report(&mut self, service: usize, problem: Problem) {
        let home = self.services[service];
        let mut problem = problem.of(&home.policy.name);
        (problem.file, problem.document_number) = (Some(home.file.clone()), home.number);
        self.problems.push(problem);
    }

    fn scripts_without_use(&mut self) {
        // While documents are wrong it is not known what they use.
        if !self.broken.is_empty() {
            return;
        }
        let users = self.services.iter().filter(|home| home.reach.scripts);
        let used: std::collections::HashSet<*const super::script::Script> =
            users.flat_map(|home| home.policy.scripts.values().map(Arc::as_ptr)).collect();
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
        let users: Vec<usize> =
            (0..self.services.len()).filter(|n| self.services[*n].reach.scripts).collect();
        for service in users {
            let policy = self.services[service].policy;
            for script in policy.scripts.values() {
                let Some(source) = files.get(&Arc::as_ptr(script)) else { continue };
                for (target, metric) in script.literal_readings() {
                    let Some((word, message)) = self.missing_reading(service, target.as_deref(), metric)
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
        &mut self,
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
            let Some(other) = self.service(target) else {
                return Some((
                    target.to_string(),
                    format!("`{target}` is neither a reference of `{}` nor a service", policy.name),
                ));
            };
            if self.metric(other, name).is_none() {
                return Some((metric.to_string(), format!("the service `{target}` has no metric `{name}`")));
            }
        }
        None
    }

    fn references(&mut self, service: usize) {
        let policy = self.services[service].policy;
        for (name, reference) in &policy.references {
            for target in &reference.candidates {
                if self.service(target).is_some() || self.broken.contains(&**target) {
                    continue;
                }
                let place = reference_place(policy, name, target);
                let known = self.names.iter().filter(|(_, d)| d.service.is_some()).map(|(name, _)| *name);
                let hint = suggestion(target, known)
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
                let Some(other) = self.service(target) else { continue };
                let endpoint = self.services[other].policy.endpoint.as_ref();
                if let (Some(endpoint), Some(health)) = (endpoint, &reference.calls.health)
                    && let Err(why) = checkable(health, endpoint)
                {
                    let place = Place::value(["references".into(), (&**name).into(), "health".into()]);
                    let message = format!("`{target}`: {why}");
                    let hint = "say `tcp: true` instead of `path`".to_string();
                    self.report(service, Problem::error("invalid-value", place, message).hint(hint));
                }
                if endpoint.is_none() {
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

    /// Programs can be started and stopped for a reference only where homeostat runs one.
    fn programs(&mut self, service: usize) {
        let policy = self.services[service].policy;
        for (name, reference) in &policy.references {
            let replace = reference.calls.replace;
            let runs = |target: &Arc<str>| {
                self.service(target).is_some_and(|other| self.services[other].policy.process.is_some())
            };
            if (replace.start || replace.stop) && !reference.candidates.iter().any(runs) {
                let place = Place::value(["references".into(), (&**name).into(), "replace".into()]);
                let message =
                    "programs are to be started or stopped, and homeostat runs none of the candidates";
                let hint = "say `process: { command: [PROGRAM, ARGUMENT, …] }` in the policy of a candidate";
                self.report(service, Problem::error("no-process", place, message).hint(hint.to_string()));
            }
            for target in reference.calls.weights.keys().filter(|_| !replace.start) {
                let waits = self
                    .service(target)
                    .and_then(|other| self.services[other].policy.process.as_ref())
                    .is_some_and(|process| process.on_demand());
                if waits {
                    let place = Place::value(["references".into(), (&**name).into(), "weights".into()]);
                    let message = format!(
                        "`{target}` shares the calls, and nothing starts its program, which runs on demand"
                    );
                    let hint = format!(
                        "say `replace: {{ start: true }}` here, or `start: always` in the process of `{target}`"
                    );
                    let place = place.then(&**target);
                    self.report(service, Problem::error("not-started", place, message).hint(hint));
                }
            }
        }
    }

    /// One address is listened on for one purpose.
    fn ports(&mut self) {
        let mut taken: std::collections::BTreeMap<Address, String> = std::collections::BTreeMap::new();
        for service in 0..self.services.len() {
            self.endpoints(service);
            self.programs(service);
            let policy = self.services[service].policy;
            let own = policy.listen.map(|l| (l, Place::value(["listen".into()]), policy.name.to_string()));
            let managed = policy.manage.as_ref().and_then(|m| m.listen).map(|listen| {
                let place = Place::value(["manage".into(), "listen".into()]);
                (listen, place, format!("{}, to be managed", policy.name))
            });
            let references = policy.references.iter().filter_map(|(name, reference)| {
                let place = Place::value(["references".into(), Step::from(&**name), "listen".into()]);
                Some((reference.listen?, place, format!("{}.{name}", policy.name)))
            });
            for (listen, place, what) in own.into_iter().chain(managed).chain(references).collect::<Vec<_>>()
            {
                match taken.get(&listen) {
                    Some(first) => {
                        let message = format!("{listen} is already listened on for `{first}`");
                        self.report(service, Problem::error("duplicate-listen", place, message));
                    }
                    None => drop(taken.insert(listen, what)),
                }
            }
        }
        for service in 0..self.services.len() {
            let policy = self.services[service].policy;
            let Some(endpoint) = &policy.endpoint else { continue };
            // The port in front of a service that runs already is its own.
            let own = |listen: &Address| policy.live.is_some() && policy.listen == Some(*listen);
            let mut reached =
                taken.iter().filter(|(listen, _)| reaches(&endpoint.address, listen) && !own(listen));
            if let Some((listen, what)) = reached.next() {
                let message = format!(
                    "homeostat listens on {listen} itself, for `{what}`: calls would go round in a circle"
                );
                let hint = "say where the service itself listens".to_string();
                let place = Place::value(["endpoint".into()]);
                self.report(service, Problem::error("conflicting-fields", place, message).hint(hint));
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
            match &metric.kind {
                MetricKind::Expression(expression) => {
                    for path in &expression.inputs {
                        self.input(service, path, &|| expression_place(policy, metric), &expression.source);
                    }
                }
                MetricKind::Window(window) => {
                    let place = || metric_place(metric).then("of");
                    self.input(service, &window.of, &place, &window.of.to_string());
                }
                _ => {}
            }
        }
        for slo in policy.analyze.iter().flat_map(|analyze| &analyze.slos) {
            for (field, expression) in [("objective", Some(&slo.objective)), ("warn", slo.warn.as_ref())] {
                let place = || Place::value(["analyze".into(), Step::from(&*slo.name), field.into()]);
                for path in expression.iter().flat_map(|e| &e.inputs) {
                    let source = expression.map_or("", |e| &e.source);
                    self.input(service, path, &place, source);
                }
            }
        }
    }

    fn input(&mut self, service: usize, path: &MetricPath, place: &dyn Fn() -> Place, source: &str) {
        let MetricPath::Via { reference, metric } = path else { return };
        let Some(reference) = self.services[service].policy.references.get(reference) else { return };
        for target in &reference.candidates {
            let Some(other) = self.service(target) else { continue };
            if self.metric(other, metric).is_some() || self.broken.contains(&**target) {
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
                place().inside(at),
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
                let Some(other) = self.service(target) else { continue };
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
                    &|name| there.declares(name),
                    &|action| there.managing(action.name())?.refuses(action),
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
        let with_groups = self.services.iter().enumerate().filter(|(_, home)| home.reach.groups);
        let groups: Vec<(usize, &MetricPolicy, &GroupPolicy)> = with_groups
            .flat_map(|(service, _)| self.metrics(service).iter().map(move |metric| (service, metric)))
            .filter_map(|(service, metric)| match &metric.kind {
                MetricKind::Group(group) => Some((service, metric, group)),
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

    /// The metrics that a metric may be computed from, following references with all their candidates.
    fn sources_of(&mut self, (service, number): MetricNumber) -> Vec<MetricNumber> {
        match &self.metrics(service)[number].kind {
            MetricKind::Expression(expression) => {
                expression.inputs.iter().flat_map(|path| self.ends_of(service, path)).collect()
            }
            MetricKind::Window(window) => self.ends_of(service, &window.of),
            MetricKind::Group(group) => (0..self.services.len())
                .filter(|member| group.from.matches(&self.services[*member].policy.resource))
                .collect::<Vec<_>>()
                .into_iter()
                .filter_map(|member| Some((member, self.metric(member, &group.of)?)))
                .collect(),
            MetricKind::Results { of } => {
                self.metric(service, of).map(|number| (service, number)).into_iter().collect()
            }
            MetricKind::Sensor(_) | MetricKind::Output { .. } | MetricKind::Stream(_) => Vec::new(),
        }
    }

    fn ends_of(&mut self, service: usize, path: &MetricPath) -> Vec<MetricNumber> {
        match path {
            MetricPath::Own(name) => {
                self.metric(service, name).map(|number| (service, number)).into_iter().collect()
            }
            MetricPath::Via { reference, metric } => {
                let reference = self.services[service].policy.references.get(reference);
                let candidates = reference.into_iter().flat_map(|reference| &reference.candidates);
                candidates
                    .filter_map(|target| {
                        let other = self.service(target)?;
                        Some((other, self.metric(other, metric)?))
                    })
                    .collect()
            }
        }
    }

    /// Finds metrics that depend on themselves, and names the way: `A.cost -> B.cost -> A.cost`. A way round within one document was
    /// refused when that was compiled, so every other leads through a service that names others; and what was checked before has none, so
    /// it also leads through one that is new. Only then all are walked, so that it is told in the same words whatever was there before.
    fn cycles(&mut self) {
        let all = self.outward();
        let fresh: Vec<usize> = all.iter().copied().filter(|n| self.services[*n].fresh).collect();
        if self.cycles_among(&fresh).is_empty() {
            return;
        }
        for cycle in self.cycles_among(&all) {
            self.cycle(&cycle);
        }
    }

    /// The ways round that are met from the metrics of these services.
    fn cycles_among(&mut self, services: &[usize]) -> Vec<Vec<MetricNumber>> {
        // `true`: on the path from the start; `false`: done.
        let mut seen: FxHashMap<MetricNumber, bool> = FxHashMap::default();
        let mut found = Vec::new();
        for service in services {
            for number in 0..self.metrics(*service).len() {
                if !seen.contains_key(&(*service, number)) {
                    self.cycles_from((*service, number), &mut seen, &mut found);
                }
            }
        }
        found
    }

    fn cycles_from(
        &mut self,
        start: MetricNumber,
        seen: &mut FxHashMap<MetricNumber, bool>,
        found: &mut Vec<Vec<MetricNumber>>,
    ) {
        seen.insert(start, true);
        let mut path = vec![(start, self.sources_of(start))];
        while let Some((number, rest)) = path.last_mut() {
            let Some(next) = rest.pop() else {
                seen.insert(*number, false);
                path.pop();
                continue;
            };
            match seen.get(&next) {
                None => {
                    seen.insert(next, true);
                    path.push((next, self.sources_of(next)));
                }
                Some(true) => {
                    let from = path.iter().position(|(number, _)| *number == next).unwrap_or(0);
                    found.push(path[from..].iter().map(|(number, _)| *number).collect());
                }
                Some(false) => {}
            }
        }
    }

    /// Finds data that lead back to themselves: a stream of one service makes data of a metric, of which another makes data that the first
    /// reads. Which service reads what is only known by the names of metrics, so that all streams are looked at when some are new.
    fn circles(&mut self) {
        let streaming = |home: &Home<'_>| home.reach.streams;
        if !self.services.iter().any(|home| streaming(home) && home.fresh) {
            return;
        }
        let mut made: FxHashMap<&'a str, Vec<Made<'a>>> = FxHashMap::default();
        for service in (0..self.services.len()).filter(|n| streaming(&self.services[*n])) {
            for (number, metric) in self.metrics(service).iter().enumerate() {
                if let MetricKind::Stream(stream) = &metric.kind
                    && let Some(emit) = &stream.emit
                {
                    made.entry(&stream.metric).or_default().push(Made { emit, by: (service, number) });
                }
            }
        }
        let mut starts: Vec<&'a str> = made.keys().copied().collect();
        starts.sort_unstable();
        // `true`: on the path from the start; `false`: done.
        let mut seen: FxHashMap<&'a str, bool> = FxHashMap::default();
        let mut found = Vec::new();
        for start in starts {
            if !seen.contains_key(start) {
                circles_from(start, &made, &mut seen, &mut found);
            }
        }
        for circle in found {
            self.circle(&circle);
        }
    }

    fn circle(&mut self, circle: &[Made<'a>]) {
        let Some(last) = circle.last() else { return };
        let mut way = last.emit.to_string();
        let left_out = circle.len().saturating_sub(LONG_WAY);
        if left_out > 0 {
            way.push_str(&format!(" -> … ({left_out} more)"));
        }
        for made in &circle[left_out..] {
            way.push_str(&format!(" -> {} (by `{}`)", made.emit, self.services[made.by.0].policy.name));
        }
        let (service, number) = last.by;
        let place = metric_place(&self.metrics(service)[number]).then("emit");
        let message = format!("data of `{}` lead back to themselves: {way}", last.emit);
        let hint = "let one of them emit a metric that none of the others collects".to_string();
        self.report(service, Problem::error("metric-cycle", place, message).hint(hint));
    }

    fn cycle(&mut self, cycle: &[MetricNumber]) {
        let name = |(service, number): &MetricNumber| {
            format!("{}.{}", self.services[*service].policy.name, self.metrics(*service)[*number].name)
        };
        let text: Vec<String> = cycle.iter().chain(cycle.first()).map(name).collect();
        let (service, number) = cycle[0];
        let place = metric_place(&self.metrics(service)[number]);
        let message = format!("`{}` depends on itself: {}", text[0], text.join(" -> "));
        let problem = Problem::error("metric-cycle", place, message)
            .hint("references are followed to every service that they may be bound to".to_string());
        self.report(service, problem);
    }
}

/// The most circles that are told.
const MAX_CIRCLES: usize = 16;

/// The most steps of one that are told.
const LONG_WAY: usize = 16;

/// Data that a stream makes.
#[derive(Clone, Copy)]
struct Made<'a> {
    /// The metric that they are of.
    emit: &'a str,
    by: MetricNumber,
}

/// Follows what is made of the data of `start`; each circle is found once, as the steps that lead round.
fn circles_from<'a>(
    start: &'a str,
    made: &FxHashMap<&'a str, Vec<Made<'a>>>,
    seen: &mut FxHashMap<&'a str, bool>,
    found: &mut Vec<Vec<Made<'a>>>,
) {
    let next_of = |metric: &str| made.get(metric).map_or(&[][..], Vec::as_slice);
    seen.insert(start, true);
    // The metric, which of its steps are still to be taken, and the step that led to it.
    let mut path: Vec<(&'a str, usize, Option<Made<'a>>)> = vec![(start, 0, None)];
    while let Some((metric, taken, _)) = path.last_mut() {
        let Some(step) = next_of(metric).get(*taken).copied() else {
            seen.insert(metric, false);
            path.pop();
            continue;
        };
        *taken += 1;
        match seen.get(step.emit) {
            None => {
                seen.insert(step.emit, true);
                path.push((step.emit, 0, Some(step)));
            }
            Some(true) if found.len() < MAX_CIRCLES => {
                let from = path.iter().position(|(name, ..)| *name == step.emit).unwrap_or(0);
                let steps = path[from + 1..].iter().filter_map(|(_, _, step)| *step);
                found.push(steps.chain([step]).collect());
            }
            Some(_) => {}
        }
    }
}

fn metric_place(metric: &MetricPolicy) -> Place {
    Place::value(["monitor".into(), "metrics".into(), Step::from(&*metric.name)])
}

/// Where the expression of a metric stands: at the metric, or under its `expr`.
fn expression_place(policy: &ServicePolicy, metric: &MetricPolicy) -> Place {
    let document = policy.document.open().unwrap_or_default();
    match document.monitor.as_ref().and_then(|monitor| monitor.metrics.get(&*metric.name)) {
        Some(super::document::MetricDocument::Computed(_)) => metric_place(metric).then("expr"),
        _ => metric_place(metric),
    }
}

/// Where a service is named in a reference.
fn reference_place(policy: &ServicePolicy, name: &str, target: &str) -> Place {
    let place = Place::value(["references".into(), name.into()]);
    let document = policy.document.open().unwrap_or_default();
    let Some(reference) = document.references.get(name) else { return place };
    match reference.candidates.iter().position(|candidate| candidate == target) {
        Some(i) if reference.service.as_deref() != Some(target) => place.then("candidates").then(i),
        _ => place.then("service"),
    }
}
