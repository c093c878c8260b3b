//! What changes when one set of policies takes the place of another. The way back is the difference the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};
use std::sync::Arc;

use serde::Serialize;

use super::document::MetricDocument;
use super::merge::differing;
use super::set::PolicySet;
use super::value::{PlanRow, ServicePolicy, SloPolicy, Strategy};
use crate::model::endpoint::LiveSpec;
use crate::model::manage::ManageSpec;

/// A part of a managed service that can be replaced on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// What it uses.
    References,
    /// M.
    Monitor,
    /// A.
    Analyze,
    /// P.
    Plan,
    /// E.
    Execute,
    /// Its place in the model.
    Resource,
    /// Where it listens, and where homeostat stands in front of it.
    Membrane,
    /// The program that homeostat runs for it.
    Process,
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::References => "references",
            Self::Monitor => "monitor",
            Self::Analyze => "analyze",
            Self::Plan => "plan",
            Self::Execute => "execute",
            Self::Resource => "resource",
            Self::Membrane => "membrane",
            Self::Process => "process",
        })
    }
}

/// One difference between two sets of policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A service that was not there.
    Added {
        /// Its name.
        service: String,
    },
    /// A service that is no longer there.
    Removed {
        /// Its name.
        service: String,
    },
    /// A service that is different.
    Changed {
        /// Its name.
        service: String,
        /// Which parts; never empty.
        components: Vec<Component>,
        /// What is different in them, a line each: `analyze.cheap objective cost < 30 -> cost < 25`.
        details: Vec<String>,
    },
    /// A resource that was not there.
    ResourceAdded {
        /// Its name.
        resource: String,
    },
    /// A resource that is no longer there.
    ResourceRemoved {
        /// Its name.
        resource: String,
    },
    /// A resource with another class, type or relations.
    ResourceChanged {
        /// Its name.
        resource: String,
    },
}

/// `+ pay`, `- pay`, `~ shop: analyze.cheap objective cost < 30 -> cost < 25`; a line per difference.
impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added { service } => write!(f, "+ {service}"),
            Self::Removed { service } => write!(f, "- {service}"),
            Self::Changed { service, details, .. } => {
                for (i, detail) in details.iter().enumerate() {
                    if i > 0 {
                        f.write_char('\n')?;
                    }
                    write!(f, "~ {service}: {detail}")?;
                }
                Ok(())
            }
            Self::ResourceAdded { resource } => write!(f, "+ {resource} (resource)"),
            Self::ResourceRemoved { resource } => write!(f, "- {resource} (resource)"),
            Self::ResourceChanged { resource } => write!(f, "~ {resource} (resource)"),
        }
    }
}

/// What has to change for `next` to run where `running` does: removals first, then changes and additions, by name.
pub fn diff(running: &PolicySet, next: &PolicySet) -> Vec<Change> {
    let (mut changes, mut kept) = (Vec::new(), Vec::new());
    for (name, old, new) in differing(&running.services, &next.services) {
        match (old, new) {
            (Some(_), None) => changes.push(Change::Removed { service: name.to_string() }),
            (Some(old), Some(new)) => kept.extend(service_diff(old, new)),
            (None, _) => kept.push(Change::Added { service: name.to_string() }),
        }
    }
    changes.append(&mut kept);
    for (name, old, new) in differing(&running.resources, &next.resources) {
        match (old, new) {
            (Some(_), None) => changes.push(Change::ResourceRemoved { resource: name.to_string() }),
            (Some(old), Some(new)) if old == new => {}
            (Some(_), Some(_)) => kept.push(Change::ResourceChanged { resource: name.to_string() }),
            (None, _) => kept.push(Change::ResourceAdded { resource: name.to_string() }),
        }
    }
    changes.append(&mut kept);
    changes
}

/// What is different between two policies of one service; `None` when nothing is.
pub fn service_diff(old: &ServicePolicy, new: &ServicePolicy) -> Option<Change> {
    let mut components = Vec::new();
    let mut details = Vec::new();
    let mut differ = |component, lines: Vec<String>| {
        components.push(component);
        if lines.is_empty() { details.push(format!("{component} differs")) } else { details.extend(lines) }
    };
    if old.references != new.references {
        differ(Component::References, map_lines("references", &old.references, &new.references));
    }
    if !same(&old.monitor, &new.monitor) {
        differ(Component::Monitor, monitor_lines(old, new));
    }
    if !same(&old.analyze, &new.analyze) {
        differ(Component::Analyze, analyze_lines(old, new));
    }
    if !same(&old.plan, &new.plan) {
        differ(Component::Plan, plan_lines(old, new));
    }
    if !same(&old.execute, &new.execute) {
        let lines = match (&old.execute, &new.execute) {
            (Some(old), Some(new)) => map_lines("execute", &old.effectors, &new.effectors),
            (old, _) => presence("execute", old.is_some()),
        };
        differ(Component::Execute, lines);
    }
    if !Arc::ptr_eq(&old.resource, &new.resource) && old.resource != new.resource {
        differ(Component::Resource, resource_lines(old, new));
    }
    let around = |p: &ServicePolicy| (p.endpoint.clone(), p.listen, p.live, p.manage.clone());
    if around(old) != around(new) || old.limits != new.limits {
        differ(Component::Membrane, membrane_lines(old, new));
    }
    if !same(&old.process, &new.process) {
        let lines = match (&old.process, &new.process) {
            (Some(_), Some(_)) => vec!["process: it is started again".to_string()],
            (old, _) => presence("process", old.is_some()),
        };
        differ(Component::Process, lines);
    }
    (!components.is_empty()).then(|| Change::Changed { service: new.name.to_string(), components, details })
}

fn membrane_lines(old: &ServicePolicy, new: &ServicePolicy) -> Vec<String> {
    let text = |what: Option<String>| what.unwrap_or_else(|| "none".into());
    let endpoint = |policy: &ServicePolicy| text(policy.endpoint.as_ref().map(ToString::to_string));
    let listen = |policy: &ServicePolicy| text(policy.listen.map(|l| l.to_string()));
    let live = |policy: &ServicePolicy| match policy.live {
        None => "no".to_string(),
        Some(LiveSpec { pid: None }) => "yes".into(),
        Some(LiveSpec { pid: Some(pid) }) => format!("process {pid}"),
    };
    let manage =
        |policy: &ServicePolicy| text(policy.manage.as_ref().and_then(|m| m.listen).map(|l| l.to_string()));
    let mut lines: Vec<String> = [
        ("endpoint", endpoint(old), endpoint(new)),
        ("listen", listen(old), listen(new)),
        ("live", live(old), live(new)),
        ("manage.listen", manage(old), manage(new)),
    ]
    .into_iter()
    .filter(|(_, before, after)| before != after)
    .map(|(field, before, after)| format!("{field} {before} -> {after}"))
    .collect();
    if old.limits != new.limits {
        lines.push("limits changed".to_string());
    }
    let none = ManageSpec::default();
    let spec = |policy: &'_ ServicePolicy| policy.manage.as_ref().map(|m| m.spec.clone());
    let (before, after) = (spec(old), spec(new));
    let (before, after) = (before.as_deref().unwrap_or(&none), after.as_deref().unwrap_or(&none));
    lines.extend(map_lines("manage.properties", &before.properties, &after.properties));
    lines.extend(map_lines("manage.methods", &before.methods, &after.methods));
    lines
}

/// Equal; parts that are shared are so without a look inside.
fn same<T: PartialEq>(old: &Option<Arc<T>>, new: &Option<Arc<T>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
        (None, None) => true,
        _ => false,
    }
}

fn presence(what: &str, was: bool) -> Vec<String> {
    vec![format!("{what} {}", if was { "removed" } else { "added" })]
}

/// What was added, removed and changed in a map, by name.
fn map_lines<K: Ord + AsRef<str>, V: PartialEq + Debug>(
    what: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<String> {
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).map(AsRef::as_ref).collect();
    let find = |map: &'_ BTreeMap<K, V>, name: &str| map.iter().position(|(key, _)| key.as_ref() == name);
    names
        .into_iter()
        .filter_map(|name| match (find(old, name), find(new, name)) {
            (None, Some(_)) => Some(format!("{what}.{name} added")),
            (Some(_), None) => Some(format!("{what}.{name} removed")),
            (Some(a), Some(b)) if old.values().nth(a) != new.values().nth(b) => {
                Some(format!("{what}.{name} changed"))
            }
            _ => None,
        })
        .collect()
}

fn monitor_lines(old: &ServicePolicy, new: &ServicePolicy) -> Vec<String> {
    let written = |policy: &ServicePolicy| policy.document.open().ok().and_then(|d| d.monitor);
    let (Some(before), Some(after)) = (written(old), written(new)) else {
        return presence("monitor", old.monitor.is_some());
    };
    let mut lines = map_lines("monitor.sensors", &before.sensors, &after.sensors);
    for line in map_lines("monitor.metrics", &before.metrics, &after.metrics) {
        let name = line.strip_prefix("monitor.metrics.").and_then(|l| l.strip_suffix(" changed"));
        let written = |document: &super::document::MonitorDocument| {
            name.and_then(|name| document.metrics.get(name)).map(metric_text)
        };
        match (written(&before), written(&after)) {
            (Some(a), Some(b)) => lines.push(format!("{} {a} -> {b}", line.trim_end_matches(" changed"))),
            _ => lines.push(line),
        }
    }
    if before.schedule != after.schedule {
        lines.push("monitor.schedule is another".into());
    }
    for name in before.publish.keys().chain(after.publish.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (before.publish.get(name), after.publish.get(name));
        if was != is {
            let what = if was.is_none() {
                "added"
            } else if is.is_none() {
                "removed"
            } else {
                "changed"
            };
            lines.push(format!("monitor.publish.{name} {what}"));
        }
    }
    if before.history != after.history {
        let text = |history: Option<usize>| history.unwrap_or(0);
        lines.push(format!("monitor.history {} -> {}", text(before.history), text(after.history)));
    }
    lines
}

/// A metric as people say it: `own + payment.cost`, `p99 of latency over 1m`.
fn metric_text(metric: &MetricDocument) -> String {
    match metric {
        MetricDocument::Constant(value) => value.to_string(),
        MetricDocument::Expression(text) => text.clone(),
        MetricDocument::Computed(computed) => match (&computed.expr, &computed.of) {
            (Some(text), _) => text.clone(),
            (None, of) => {
                let mut text = format!(
                    "{} of {}",
                    computed.aggregate.map(|a| a.to_string()).unwrap_or_default(),
                    of.as_deref().unwrap_or("?")
                );
                for (word, duration) in [("over", computed.over), ("every", computed.every)] {
                    if let Some(duration) = duration {
                        let _ = write!(text, " {word} {duration}");
                    }
                }
                let more = [
                    ("by", &computed.by),
                    ("value", &computed.value),
                    ("having", &computed.having),
                    ("said of", &computed.resource),
                    ("emitted as", &computed.emit),
                ];
                for (word, what) in more {
                    if let Some(what) = what {
                        let _ = write!(text, " {word} {what}");
                    }
                }
                text
            }
        },
    }
}

fn analyze_lines(old: &ServicePolicy, new: &ServicePolicy) -> Vec<String> {
    let (Some(before), Some(after)) = (&old.analyze, &new.analyze) else {
        return presence("analyze", old.analyze.is_some());
    };
    let by_name = |slos: &[Arc<SloPolicy>]| -> BTreeMap<Arc<str>, Arc<SloPolicy>> {
        slos.iter().map(|slo| (slo.name.clone(), slo.clone())).collect()
    };
    let (before, after) = (by_name(&before.slos), by_name(&after.slos));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .flat_map(|name| match (before.get(name), after.get(name)) {
            (None, Some(_)) => vec![format!("analyze.{name} added")],
            (Some(_), None) => vec![format!("analyze.{name} removed")],
            (Some(a), Some(b)) if a != b => slo_lines(a, b),
            _ => Vec::new(),
        })
        .collect()
}

fn slo_lines(old: &SloPolicy, new: &SloPolicy) -> Vec<String> {
    let mut lines = Vec::new();
    let mut field = |what: &str, a: String, b: String| {
        if a != b {
            lines.push(format!("analyze.{} {what} {a} -> {b}", new.name));
        }
    };
    let warn = |slo: &SloPolicy| slo.warn.as_ref().map_or("none".into(), |warn| warn.source.to_string());
    let duration = |d| crate::model::HumanDuration(d).to_string();
    field("objective", old.objective.source.to_string(), new.objective.source.to_string());
    field("warn", warn(old), warn(new));
    field("for", duration(old.hold_for), duration(new.hold_for));
    field("recover_for", duration(old.recover_for), duration(new.recover_for));
    field("severity", old.severity.to_string(), new.severity.to_string());
    field(
        "missing",
        format!("{:?}", old.missing).to_lowercase(),
        format!("{:?}", new.missing).to_lowercase(),
    );
    field("enabled", old.enabled.to_string(), new.enabled.to_string());
    lines
}

fn plan_lines(old: &ServicePolicy, new: &ServicePolicy) -> Vec<String> {
    let (Some(before), Some(after)) = (&old.plan, &new.plan) else {
        return presence("plan", old.plan.is_some());
    };
    let rows = before.rows.len().max(after.rows.len());
    (0..rows)
        .filter_map(|i| match (before.rows.get(i), after.rows.get(i)) {
            (None, Some(row)) => Some(format!("plan[{i}] added: {}", row_text(row))),
            (Some(row), None) => Some(format!("plan[{i}] removed: {}", row_text(row))),
            (Some(a), Some(b)) if a != b => Some(match (&a.strategy, &b.strategy) {
                (Strategy::Script(x), Strategy::Script(y)) if x.name == y.name && x.hash != y.hash => {
                    format!("plan[{i}] {} {} -> {}", x.name, x.hash, y.hash)
                }
                _ if row_text(a) != row_text(b) => format!("plan[{i}] {} -> {}", row_text(a), row_text(b)),
                _ => format!("plan[{i}] changed: {}", row_text(b)),
            }),
            _ => None,
        })
        .collect()
}

fn row_text(row: &PlanRow) -> String {
    let when = match &row.when {
        super::document::When::One(name) => name.clone(),
        super::document::When::Many(names) => names.join(", "),
    };
    let what = match &row.strategy {
        Strategy::Script(script) => format!("run {}", script.name),
        Strategy::Actions { actions, .. } => {
            actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
    };
    format!("when {when} {what} ({})", row.mode)
}

fn resource_lines(old: &ServicePolicy, new: &ServicePolicy) -> Vec<String> {
    let mut lines = Vec::new();
    let word = |value: &Option<String>| value.clone().unwrap_or("none".into());
    for (what, a, b) in [
        ("class", &old.resource.class, &new.resource.class),
        ("type", &old.resource.kind, &new.resource.kind),
    ] {
        if a != b {
            lines.push(format!("{what} {} -> {}", word(a), word(b)));
        }
    }
    lines.extend(map_lines("relations", &old.resource.relations, &new.resource.relations));
    lines
}
