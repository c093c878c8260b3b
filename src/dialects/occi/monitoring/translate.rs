//! A sensor with its collectors becomes one policy document, as somebody would write it who means the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::super::draft::{Draft, coerce};
use super::super::extensions::monitoring;
use super::super::fault::{Fault, shown};
use super::super::json;
use super::super::model::{Entity, TypeId, What};
use super::super::registry::{Registry, Role};
use super::metrics;
use super::provider::{
    Instance, Labels, Lower, Provider, Providers, Settings, Stage, Work, labels, named, short,
};
use super::timing::Timing;
use crate::model::connector::PROBE;
use crate::policy::document::ServiceDocument;
use crate::policy::load::service_from_json;

/// The annotation that says which sensor a service is.
pub const ANNOTATION: &str = "occi.sensor";

/// What a sensor comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It runs.
    Complete(Box<ServiceDocument>),
    /// Something lacks these: labels that nothing feeds, and attributes, by their full names.
    Incomplete(Vec<String>),
    /// Nothing measures for it yet.
    Idle,
}

/// A collector of a sensor.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The link.
    pub link: &'a Entity,
    /// Its period, in seconds.
    pub period: f64,
    /// The probe that runs it; here, when there is none.
    pub probe: Option<Container<'a>>,
}

/// A probe.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// Its control endpoint.
    pub url: &'a str,
    /// How its values come: `tcp`, when absent, `websocket`, `pull`.
    pub channel: Option<&'a str>,
}

/// The name of the service that a sensor is: that of its identifier, with a digest where that alone could be another's.
pub fn service_name(id: &str) -> String {
    let bare = id.strip_prefix("urn:uuid:");
    let plain: String = bare
        .unwrap_or(id)
        .chars()
        .take(100)
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect();
    match bare == Some(plain.as_str()) {
        true => format!("sensor-{plain}"),
        false => format!("sensor-{plain}-{}", short(id, 12)),
    }
}

/// What is wrong with the policy of a sensor, in the words of clients, who know no policies but mixins: `the mixin `Webhook`: …`.
pub fn of_mixin(problem: &str) -> String {
    let Some((place, why)) = problem.split_once(": error: ") else { return problem.to_string() };
    let path = place.rsplit_once(": ").map_or(place, |(_, path)| path);
    let parts: Vec<&str> = path.split('.').collect();
    let whose = match parts.as_slice() {
        ["monitor", "publish", term, ..] | ["analyze" | "execute", term, ..] => format!("the mixin `{term}`"),
        ["monitor", "sensors", name, field @ ..] => {
            let term = name.rsplit_once('_').map_or(*name, |(term, _)| term);
            match field {
                [_, .., field] => format!("`{field}` of the mixin `{term}`"),
                _ => format!("the mixin `{term}`"),
            }
        }
        ["monitor", "metrics", name, ..] => {
            format!("what feeds the label `{}`", name.rsplit_once('_').map_or(*name, |(label, _)| label))
        }
        ["references", "acts_on", ..] => "`service` of the mixin `Action`".to_string(),
        _ => return problem.to_string(),
    };
    format!("{whose}: {why}")
}

/// What tells the metrics of a collector from those of others: the beginning of its identifier.
fn key(id: &str) -> String {
    let bare = id.strip_prefix("urn:uuid:").unwrap_or(id);
    short(bare, 8)
}

/// Whether a collector takes a label of the sensor that it leads to.
pub fn takes_labels(registry: &Registry, providers: &Providers, collector: &Entity) -> bool {
    collector.mixins.iter().filter_map(|mixin| providers.find(registry, mixin)).any(Provider::is_of_sensors)
}

/// What an agreement asks of a sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What the objective is called.
    pub name: String,
    /// What it is about.
    pub label: String,
    /// The objective, as policies have it.
    pub objective: String,
}

/// What others have to do with a sensor.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The sensors that its collectors lead to and that run, by place.
    pub lower: &'a BTreeMap<String, Lower>,
    /// What agreements ask of it, as far as it has the labels.
    pub terms: &'a [Term],
}

impl Around<'_> {
    /// A sensor that stands alone.
    pub const NOTHING: Around<'static> = Around { lower: &BTreeMap::new(), terms: &[] };
}

/// Turns a sensor with its collectors into the policy of a service that reads of those below it, and keeps agreements. Answers its labels as well.
///
/// # Errors
/// 400 for attributes that a mixin does not understand, for labels that feed themselves, and for an expression that cannot be read.
pub fn translate(
    registry: &Registry,
    providers: &Providers,
    settings: &Settings,
    sensor: &Entity,
    timing: &Timing,
    collectors: &[Measured<'_>],
    around: &Around<'_>,
) -> Result<(Outcome, Labels), Fault> {
    let Around { lower, terms } = around;
    let mut work = Work::default();
    let title = sensor.title.clone().unwrap_or_else(|| sensor.id.clone());
    let keys: Vec<String> = collectors.iter().map(|measured| key(&measured.link.id)).collect();
    let targets: Vec<&str> = collectors.iter().map(|measured| target(measured.link)).collect();
    let about = targets.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ");
    let mut measured = false;
    let mut lacking: BTreeSet<String> = BTreeSet::new();
    // What they will feed one day is not what is missing.
    let mut later: BTreeSet<String> = BTreeSet::new();
    for ((Measured { link: collector, period, probe }, key), about) in
        collectors.iter().zip(&keys).zip(&targets)
    {
        for provider in of_stage(registry, providers, collector, Stage::Metric) {
            let lower = lower.get(*about);
            let at = Instance { provider, entity: collector, key, period: *period, about, settings, lower };
            measured = true;
            let mut lacks: Vec<String> = provider.lacks(collector).cloned().collect();
            if lacks.is_empty() && provider.is_of_sensors() {
                let label = metrics::taken(&at).map_err(Fault::bad)?;
                if !lower.is_some_and(|lower| lower.labels.contains_key(&label)) {
                    lacks.push(format!("{label} of {about}"));
                    later.extend(outputs(&at));
                }
            }
            if lacks.is_empty() && (probe.is_none() || provider.is_of_sensors()) {
                provider.build(&at, &mut work)?;
            }
            lacking.extend(lacks);
        }
    }
    for ((measured, key), about) in collectors.iter().zip(&keys).zip(&targets) {
        if let Some(probe) = measured.probe {
            let place = Place { key, period: measured.period, about, probe };
            on_probe(registry, providers, settings, measured.link, &place, &mut work);
        }
    }
    let of_sensor = |stage: Stage| {
        of_stage(registry, providers, sensor, stage).into_iter().map(|provider| Instance {
            provider,
            entity: sensor,
            key: "s",
            period: timing.period,
            about: &about,
            settings,
            lower: None,
        })
    };
    let (mut waiting, lame): (Vec<Instance<'_>>, Vec<_>) =
        of_sensor(Stage::Aggregator).partition(|at| at.provider.lacks(sensor).next().is_none());
    let (publishers, silent): (Vec<Instance<'_>>, Vec<_>) =
        of_sensor(Stage::Publisher).partition(|at| at.provider.lacks(sensor).next().is_none());
    lacking.extend(lame.iter().chain(&silent).flat_map(|at| at.provider.lacks(sensor).cloned()));
    later.extend(lame.iter().flat_map(outputs));
    loop {
        let ready = |at: &Instance<'_>| {
            let pending: BTreeSet<String> = waiting.iter().flat_map(|other| outputs(other)).collect();
            inputs(at).iter().all(|label| work.feeds(label) && !pending.contains(label))
        };
        let Some(next) = waiting.iter().position(ready) else { break };
        let at = waiting.remove(next);
        at.provider.build(&at, &mut work)?;
    }
    let promised: BTreeSet<String> = waiting.iter().flat_map(outputs).collect();
    let circle = !waiting.is_empty()
        && waiting.iter().all(|at| inputs(at).iter().any(|label| promised.contains(label)));
    if circle {
        let names: Vec<String> = waiting.iter().map(|at| format!("`{}`", at.term())).collect();
        let list = promised.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        return Err(Fault::bad(format!("the labels {list} feed themselves, by way of {}", names.join(", "))));
    }
    let unfed = waiting.iter().chain(&publishers).chain(&lame).chain(&silent).flat_map(inputs);
    let mut missing: BTreeSet<String> = unfed
        .filter(|label| !work.feeds(label) && !promised.contains(label) && !later.contains(label))
        .collect();
    missing.extend(lacking);
    if !missing.is_empty() {
        return Ok((Outcome::Incomplete(missing.into_iter().collect()), Labels::new()));
    }
    for at in &publishers {
        at.provider.build(at, &mut work)?;
    }
    if !measured {
        return Ok((Outcome::Idle, Labels::new()));
    }
    let labels = work.labels();
    work.finish().map_err(Fault::bad)?;
    for term in terms.iter().filter(|term| labels.contains_key(&term.label)) {
        work.analyze.insert(term.name.clone(), json!({ "objective": term.objective }));
    }
    let document = document(sensor, &title, &targets, timing, work);
    let document = service_from_json(&document).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Fault::bad(format!("the sensor cannot run: {}", problems.join("; ")))
    })?;
    Ok((Outcome::Complete(Box::new(document)), labels))
}

/// The mixins of this server that an entity has, directly or by a tag of a client that depends on them, each once.
fn of_stage<'a>(
    registry: &Registry,
    providers: &'a Providers,
    entity: &Entity,
    stage: Stage,
) -> Vec<&'a Provider> {
    let mut all: Vec<&Provider> = Vec::new();
    for provider in entity.mixins.iter().filter_map(|mixin| providers.find(registry, mixin)) {
        if provider.stage == stage && all.iter().all(|other| other.id() != provider.id()) {
            all.push(provider);
        }
    }
    all
}

/// The policy of a service that measures for one output of a collector and sends that to a sensor, as lines of JSON over a connection that it
/// keeps: TCP to `IP:PORT`, a WebSocket to `ws://IP:PORT/`. Without a sensor, nothing goes out.
///
/// # Errors
/// 400 for what is no collector, for attributes that a mixin does not understand or that are missing, and for an output that it does not have.
pub fn measuring(
    registry: &Registry,
    providers: &Providers,
    settings: &Settings,
    draft: Draft,
    name: &str,
    output: &str,
    sensor: Option<&str>,
) -> Result<ServiceDocument, Fault> {
    let mut values = draft.attributes;
    coerce(&mut values, |name| {
        let of = |mixin: &TypeId| registry.mixin(mixin)?.attributes.get(name);
        draft.mixins.iter().find_map(of)
    });
    let period = super::timing::of_collector(&mut values)?;
    let collector = Entity {
        id: draft.id.unwrap_or_default(),
        location: String::new(),
        kind: draft.kind.unwrap_or_else(monitoring::collector),
        mixins: draft.mixins,
        attributes: values,
        title: draft.title,
        summary: None,
        actions: Vec::new(),
        what: What::Resource { links: Vec::new() },
    };
    let mut work = Work::default();
    let key = key(&collector.id);
    for provider in of_stage(registry, providers, &collector, Stage::Metric) {
        if let Some(lacks) = provider.lacks(&collector).next() {
            return Err(Fault::bad(format!("the attribute `{lacks}` is missing")));
        }
        if provider.is_of_sensors() {
            return Err(Fault::bad(format!(
                "the mixin `{}` is not for probes: it takes labels of sensors",
                provider.id()
            )));
        }
        let at =
            Instance { provider, entity: &collector, key: &key, period, about: "", settings, lower: None };
        provider.build(&at, &mut work)?;
    }
    if !work.feeds(output) {
        return Err(Fault::bad(format!("nothing in the collector yields `{}`", shown(output))));
    }
    work.finish().map_err(Fault::bad)?;
    let line = format!("{{\"id\":{},\"value\":{{value}}}}", json!(output));
    let mut monitor = json!({ "sensors": work.sensors, "metrics": work.metrics });
    if let Some(sensor) = sensor {
        let to = match sensor.starts_with("ws://") {
            true => json!({ "websocket": { "url": sensor, "send": [line], "keep": true } }),
            false => json!({ "tcp": { "address": sensor, "text": format!("{line}\n"), "keep": true } }),
        };
        monitor["publish"] = json!({ "sensor": { "metric": named(output), "to": to } });
    }
    let document = json!({ "service": name, "class": "collector", "monitor": monitor });
    service_from_json(&document).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Fault::bad(format!("the collector cannot run: {}", problems.join("; ")))
    })
}

/// What a collector measures on a probe: the outputs of its mixins come from there.
fn on_probe(
    registry: &Registry,
    providers: &Providers,
    settings: &Settings,
    collector: &Entity,
    place: &Place<'_>,
    work: &mut Work,
) {
    let mut document = json::entity_value(collector);
    if let Json::Object(fields) = &mut document {
        fields.retain(|name, _| {
            matches!(name.as_str(), "kind" | "id" | "mixins" | "attributes" | "title" | "source" | "target")
        });
    }
    let measuring = of_stage(registry, providers, collector, Stage::Metric);
    for provider in measuring.into_iter().filter(|provider| !provider.is_of_sensors()) {
        let at = Instance {
            provider,
            entity: collector,
            key: place.key,
            period: place.period,
            about: place.about,
            settings,
            lower: None,
        };
        for output in labels_of(&at, Role::Out) {
            let mut config = json!({ "url": place.probe.url, "collector": document, "output": output });
            if let Some(channel) = place.probe.channel {
                config["channel"] = channel.into();
                config["every"] = place.period.into();
            }
            let sensor = json!({ "custom": { "kind": PROBE, "config": config } });
            work.brought(&at, &output, sensor);
        }
    }
}

/// Where and how a collector measures.
struct Place<'a> {
    key: &'a str,
    period: f64,
    about: &'a str,
    probe: Container<'a>,
}

fn labels_of(at: &Instance<'_>, role: Role) -> Vec<String> {
    let names = at.provider.labels(role);
    names.flat_map(|name| labels(at.entity.attributes.get(name))).collect()
}

fn inputs(at: &Instance<'_>) -> Vec<String> {
    labels_of(at, Role::In)
}

fn outputs(at: &Instance<'_>) -> Vec<String> {
    labels_of(at, Role::Out)
}

fn target(collector: &Entity) -> &str {
    match &collector.what {
        What::Link { target, .. } => &target.location,
        What::Resource { .. } => "",
    }
}

fn document(sensor: &Entity, title: &str, targets: &[&str], timing: &Timing, work: Work) -> Json {
    let mut monitor = Map::new();
    monitor.insert("sensors".into(), Json::Object(work.sensors));
    monitor.insert("metrics".into(), Json::Object(work.metrics));
    monitor.insert("schedule".into(), json!(timing.schedule));
    if !work.publish.is_empty() {
        monitor.insert("publish".into(), Json::Object(work.publish));
    }
    let mut document = Map::new();
    document.insert("service".into(), service_name(&sensor.id).into());
    document.insert("class".into(), "sensor".into());
    document.insert(
        "annotations".into(),
        json!({ ANNOTATION: sensor.location, "occi.title": title, "occi.targets": targets.join(" ") }),
    );
    if !work.references.is_empty() {
        document.insert("references".into(), Json::Object(work.references));
    }
    document.insert("monitor".into(), Json::Object(monitor));
    for (name, section) in [("analyze", work.analyze), ("execute", work.execute)] {
        if !section.is_empty() {
            document.insert(name.into(), Json::Object(section));
        }
    }
    if !work.plan.is_empty() {
        document.insert("plan".into(), work.plan.into());
        document.entry("execute").or_insert_with(|| json!({}));
    }
    Json::Object(document)
}
