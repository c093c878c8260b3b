//! What a mixin of this server is: its description for clients, and what it adds to the policy of a sensor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::super::extensions::monitoring;
use super::super::model::{Attribute, AttributeType, Entity, TypeId};
use super::super::registry::{ProviderMixin, Registry, Role};
use super::super::users::Users;
use super::plugin::Plugin;
use super::{aggregators, metrics, publishers};
use crate::policy::name::identifier;

/// How the mixins of this server are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `http://example.com/occi/monitoring/`, before the stage.
    scheme: String,
    /// `com.example.occi.monitoring.`, before the term of the mixin and the name of the attribute.
    prefix: String,
}

impl Default for Names {
    /// Those of the prototype (S2), whose documents work unchanged.
    fn default() -> Self {
        Self::of("example.com")
    }
}

impl Names {
    /// Names of a provider who owns this domain.
    pub fn of(domain: &str) -> Self {
        let reversed: Vec<&str> = domain.split('.').rev().collect();
        Self {
            scheme: format!("http://{domain}/occi/monitoring/"),
            prefix: format!("{}.occi.monitoring.", reversed.join(".")),
        }
    }

    /// The mixin that says whether a sensor is complete.
    pub fn status(&self) -> TypeId {
        TypeId::fixed(&format!("{}sensor#", self.scheme), "Status")
    }

    /// A mixin, by its stage (`metric`, `aggregator`, `publisher`, `template`) and its term.
    pub fn mixin(&self, stage: &str, term: &str) -> TypeId {
        TypeId::fixed(&format!("{}{stage}#", self.scheme), term)
    }

    /// The mixin that says where the probe of a resource listens.
    pub fn container(&self) -> TypeId {
        TypeId::fixed(&format!("{}resource#", self.scheme), "MetricContainer")
    }

    /// The mixin of an agreement that has an objective.
    pub fn objective(&self) -> TypeId {
        TypeId::fixed(&format!("{}term#", self.scheme), "Objective")
    }

    /// The name of an attribute of a mixin.
    pub fn attribute(&self, term: &str, name: &str) -> String {
        format!("{}{term}.{name}", self.prefix)
    }

    /// What all attributes of this provider begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// What stands around: what mixins need of the server.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// How the mixins are called.
    pub names: Names,
    /// Where mail is handed over: `smtp://127.0.0.1:25`.
    pub mail: String,
    /// Who sends it.
    pub from: String,
    /// Where databases of publishers lie; without, none can be written.
    pub data: Option<String>,
    /// The folder of plug-ins; without, there are none.
    pub plugins: Option<String>,
    /// Who may what; without, everybody everything.
    pub users: Option<Users>,
    /// Whether sensors are as in the paper: only the server sets their time base, and clients say when they begin and end (R1-05).
    pub strict: bool,
}

/// Where in the pipe a mixin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// It measures; of collectors.
    Metric,
    /// It turns measurements into measurements; of sensors.
    Aggregator,
    /// It delivers; of sensors.
    Publisher,
}

impl Stage {
    /// The tag that mixins of this stage depend on.
    pub fn tag(self) -> TypeId {
        match self {
            Self::Metric => monitoring::metric(),
            Self::Aggregator => monitoring::aggregator(),
            Self::Publisher => monitoring::publisher(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Aggregator => "aggregator",
            Self::Publisher => "publisher",
        }
    }
}

/// What a mixin adds to the policy of a sensor.
///
/// # Errors
/// What is wrong with its attributes, as a sentence.
pub type Build = fn(&Instance<'_>, &mut Work) -> Result<(), String>;

/// Where a mixin comes from.
#[derive(Debug, Clone)]
enum Origin {
    /// It is a part of this program.
    Own(Build),
    /// It was found in a folder.
    Plugin(Arc<Plugin>),
}

/// A mixin of this server.
#[derive(Debug, Clone)]
pub struct Provider {
    /// What clients see.
    pub mixin: ProviderMixin,
    /// Where it stands.
    pub stage: Stage,
    origin: Origin,
    prefix: String,
    /// The attributes without which it does nothing. Clients may add them later, so they are not required when it is associated (R1-46).
    needed: Vec<String>,
    /// Whether it takes a label of the sensor that its collector leads to.
    below: bool,
}

/// The labels of a sensor, and whether what they are about is hidden.
pub type Labels = BTreeMap<String, bool>;

/// A sensor that another takes labels of.
#[derive(Debug, Clone, PartialEq)]
pub struct Lower {
    /// The service that it is.
    pub service: String,
    /// What feeds its labels runs.
    pub labels: Labels,
}

impl Provider {
    /// A mixin without attributes.
    pub(super) fn new(names: &Names, stage: Stage, term: &str, title: &str, build: Build) -> Self {
        let id = names.mixin(stage.word(), term);
        let mixin = ProviderMixin::new(id, title, stage.tag());
        let prefix = format!("{}{term}.", names.prefix);
        Self { mixin, stage, origin: Origin::Own(build), prefix, needed: Vec::new(), below: false }
    }

    /// The mixin of a plug-in, which measures; without attributes.
    pub(super) fn plugin(names: &Names, term: &str, title: &str, plugin: Arc<Plugin>) -> Self {
        let own = Self::new(names, Stage::Metric, term, title, |_, _| Ok(()));
        Self { origin: Origin::Plugin(plugin), ..own }
    }

    /// Whether it is the same plug-in, or neither is one.
    fn same_plugin(&self, other: &Self) -> bool {
        match (&self.origin, &other.origin) {
            (Origin::Plugin(one), Origin::Plugin(other_one)) => one == other_one && self.mixin == other.mixin,
            (Origin::Own(_), Origin::Own(_)) => true,
            _ => false,
        }
    }

    fn with(mut self, name: &str, mut attribute: Attribute, role: Role) -> Self {
        let name = format!("{}{name}", self.prefix);
        if std::mem::take(&mut attribute.required) {
            self.needed.push(name.clone());
        }
        Self { mixin: self.mixin.with(&name, attribute, role), ..self }
    }

    /// The attributes that it needs and an entity has not.
    pub fn lacks<'a>(&'a self, entity: &'a Entity) -> impl Iterator<Item = &'a String> {
        let has = |name: &String| match entity.attributes.get(name) {
            None | Some(Json::Null) => false,
            value if self.mixin.roles.get(name).is_some_and(|role| *role != Role::Control) => {
                !labels(value).is_empty()
            }
            Some(Json::String(text)) => !text.trim().is_empty(),
            Some(Json::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        self.needed.iter().filter(move |name| !has(name))
    }

    /// With a label from which values come.
    pub(super) fn input(self, name: &str) -> Self {
        let about = "labels of what comes in: one, or several with commas between them";
        self.with(name, Attribute::text().or(AttributeType::Array).required().about(about), Role::In)
    }

    /// With a label under which values go on.
    pub(super) fn output(self, name: &str) -> Self {
        self.with(name, Attribute::text().about("the label of what goes out"), Role::Out)
    }

    /// It takes a label of the sensor that its collector leads to.
    pub(super) fn of_sensors(self) -> Self {
        Self { below: true, ..self }
    }

    /// Whether it takes a label of the sensor that its collector leads to.
    pub fn is_of_sensors(&self) -> bool {
        self.below
    }

    /// With a parameter.
    pub(super) fn control(self, name: &str, attribute: Attribute) -> Self {
        self.with(name, attribute, Role::Control)
    }

    /// Adds to the policy of a sensor what an instance of it means.
    ///
    /// # Errors
    /// 400 with the mixin and what is wrong with its attributes.
    pub fn build(&self, at: &Instance<'_>, work: &mut Work) -> Result<(), super::super::Fault> {
        let built = match &self.origin {
            Origin::Own(build) => build(at, work),
            Origin::Plugin(plugin) => plugin.build(at, work),
        };
        built.map_err(|why| super::super::Fault::bad(format!("the mixin `{}`: {why}", self.id())))
    }

    /// Its identifier.
    pub fn id(&self) -> &TypeId {
        &self.mixin.mixin.id
    }

    /// The names of its attributes of a role, with their prefix.
    pub fn labels(&self, role: Role) -> impl Iterator<Item = &str> {
        self.mixin.roles.iter().filter(move |(_, r)| **r == role).map(|(name, _)| name.as_str())
    }
}

/// The mixins of this server.
#[derive(Debug, Clone)]
pub struct Providers {
    all: BTreeMap<TypeId, Provider>,
}

impl Providers {
    /// All of them.
    pub fn new(names: &Names) -> Self {
        let all =
            metrics::all(names).into_iter().chain(aggregators::all(names)).chain(publishers::all(names));
        Self { all: all.map(|provider| (provider.id().clone(), provider)).collect() }
    }

    /// Makes them known to clients.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn register(&self, registry: &mut Registry) -> Result<(), super::super::Fault> {
        self.all.values().try_for_each(|provider| registry.add_provider(provider.mixin.clone()))
    }

    /// Puts these plug-ins in the place of those that were there. Answers which mixins came, went or changed, and why some could not come.
    pub fn plug(
        &mut self,
        registry: &mut Registry,
        plugins: Vec<Provider>,
    ) -> (BTreeSet<TypeId>, Vec<super::super::Fault>) {
        let wanted: BTreeMap<TypeId, Provider> =
            plugins.into_iter().map(|provider| (provider.id().clone(), provider)).collect();
        let old = |provider: &Provider| {
            matches!(provider.origin, Origin::Plugin(_))
                && !wanted.get(provider.id()).is_some_and(|new| new.same_plugin(provider))
        };
        let mut changed: BTreeSet<TypeId> = self
            .all
            .values()
            .filter(|provider| old(provider))
            .map(|provider| provider.id().clone())
            .collect();
        for id in &changed {
            self.all.remove(id);
            registry.remove_provider(id);
        }
        let mut problems = Vec::new();
        for (id, provider) in wanted {
            if self.all.get(&id).is_some_and(|known| known.same_plugin(&provider)) {
                continue;
            }
            match registry.add_provider(provider.mixin.clone()) {
                Ok(()) => {
                    self.all.insert(id.clone(), provider);
                    changed.insert(id);
                }
                Err(why) => problems.push(why),
            }
        }
        (changed, problems)
    }

    /// The mixin that has an attribute of this name.
    pub fn of_attribute(&self, name: &str) -> Option<TypeId> {
        let has = |provider: &&Provider| {
            name.starts_with(&provider.prefix) && provider.mixin.mixin.attributes.contains_key(name)
        };
        self.all.values().find(has).map(|provider| provider.id().clone())
    }

    /// The mixin of this server that a mixin is or depends on.
    pub fn find(&self, registry: &Registry, mixin: &TypeId) -> Option<&Provider> {
        self.all
            .get(registry.canonical(mixin))
            .or_else(|| registry.dependencies(mixin).iter().find_map(|m| self.all.get(&m.id)))
    }
}

/// A mixin on an entity.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// The mixin.
    pub provider: &'a Provider,
    /// The sensor or collector that has it.
    pub entity: &'a Entity,
    /// What tells it from the same mixin on another collector.
    pub key: &'a str,
    /// The period of measuring, in seconds.
    pub period: f64,
    /// What the measurements are about, for people.
    pub about: &'a str,
    /// What stands around.
    pub settings: &'a Settings,
    /// The sensor that the collector leads to, if it leads to one that runs.
    pub lower: Option<&'a Lower>,
}

impl Instance<'_> {
    /// The value of an attribute, or its default.
    pub(super) fn value(&self, name: &str) -> Option<&Json> {
        let full = format!("{}{name}", self.provider.prefix);
        let given = self.entity.attributes.get(&full).filter(|value| !value.is_null());
        given.or_else(|| self.provider.mixin.mixin.attributes.get(&full)?.default.as_ref())
    }

    /// The term of the mixin.
    pub fn term(&self) -> &str {
        self.provider.id().term()
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Json::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
        .map(|text| text.replace(char::is_control, " "))
        .filter(|text| !text.is_empty())
    }

    /// An address that must be there, of which nothing is a hole of a template.
    ///
    /// # Errors
    /// It is not there.
    pub fn address(&self, name: &str) -> Result<String, String> {
        Ok(self.needed(name)?.replace('{', "%7B").replace('}', "%7D"))
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// It is not there.
    pub fn needed(&self, name: &str) -> Result<String, String> {
        self.text(name).ok_or_else(|| format!("the attribute `{}{name}` is missing", self.provider.prefix))
    }

    /// A number.
    ///
    /// # Errors
    /// It is there and no number.
    pub fn number(&self, name: &str) -> Result<Option<f64>, String> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .or_else(|| value.as_str()?.trim().parse().ok())
                .filter(|number| number.is_finite())
                .map(Some)
                .ok_or_else(|| {
                    format!("the attribute `{}{name}` is {value}; expected a number", self.provider.prefix)
                }),
        }
    }

    /// A number between others.
    ///
    /// # Errors
    /// It is there and no such number.
    pub fn within(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, String> {
        match self.number(name)? {
            Some(number) if !(least..=most).contains(&number) => Err(format!(
                "the attribute `{}{name}` is {number}; expected {least} to {most}",
                self.provider.prefix
            )),
            number => Ok(number),
        }
    }

    /// Whether it is true; text renderings say it as a text.
    pub fn truth(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value.as_bool() == Some(true) || value.as_str() == Some("true"))
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// It is not there, or no number.
    pub fn needed_number(&self, name: &str) -> Result<f64, String> {
        self.number(name)?.ok_or_else(|| format!("the attribute `{}{name}` is missing", self.provider.prefix))
    }

    /// The labels that an attribute holds.
    pub fn labels(&self, name: &str) -> Vec<String> {
        labels(self.value(name))
    }

    /// How often it measures, as policies say it.
    pub fn every(&self) -> String {
        duration(self.period)
    }
}

/// One label, or a list of them, or several with commas between them.
pub fn labels(value: Option<&Json>) -> Vec<String> {
    let split = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_string).collect()
    };
    match value {
        Some(Json::String(text)) => split(text),
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).flat_map(split).collect(),
        Some(Json::Number(number)) => vec![number.to_string()],
        _ => Vec::new(),
    }
}

/// Seconds as policies say them.
pub fn duration(seconds: f64) -> String {
    let millis = (seconds * 1e3).round().max(1.0);
    if millis % 1e3 == 0.0 { format!("{}s", millis / 1e3) } else { format!("{millis}ms") }
}

/// How long a list of metrics in an expression may be, in bytes.
const LONGEST: usize = 3_900;
/// How long the readable part of a metric's name may be, in bytes.
const LONGEST_NAME: usize = 64;
/// The longest time that an objective may have to be broken, that may be looked back, and so on, in seconds.
pub(super) const LONGEST_WAIT: f64 = 365.0 * 86_400.0;
/// How many metrics go into one part of a longer list.
const PART: usize = 50;

/// The policy of a sensor on its way.
#[derive(Debug, Default)]
pub struct Work {
    pub(super) sensors: Map<String, Json>,
    pub(super) metrics: Map<String, Json>,
    pub(super) publish: Map<String, Json>,
    pub(super) analyze: Map<String, Json>,
    pub(super) plan: Vec<Json>,
    pub(super) execute: Map<String, Json>,
    pub(super) references: Map<String, Json>,
    /// Which metrics feed each label.
    channels: BTreeMap<String, Vec<String>>,
    /// Labels whose values may not say what they are about.
    anonymous: BTreeSet<String>,
}

impl Work {
    /// Whether anything feeds a label.
    pub(super) fn feeds(&self, label: &str) -> bool {
        self.channels.contains_key(label)
    }

    /// The metrics that feed these labels, in order.
    pub fn feeding(&self, labels: &[String]) -> Vec<String> {
        labels.iter().filter_map(|label| self.channels.get(label)).flatten().cloned().collect()
    }

    /// What is calculated from several metrics at once: `function` is `mean` or `percentile(RANK)`. Where they are so many that an
    /// expression cannot hold them, in parts, as far as that gives the same.
    ///
    /// # Errors
    /// Too many for what cannot be calculated in parts.
    pub fn over(&mut self, name: &str, function: &str, metrics: &[String]) -> Result<String, String> {
        let call = |metrics: &[String]| {
            let list = metrics.join(", ");
            match function.strip_suffix(')') {
                Some(begun) => format!("{begun}, {list})"),
                None => format!("{function}({list})"),
            }
        };
        let all = call(metrics);
        if all.len() <= LONGEST {
            return Ok(all);
        }
        if !["mean", "percentile(0)", "percentile(100)"].contains(&function) {
            return Err(format!(
                "{} measurements are too many for `{function}` at once; aggregate them in groups",
                metrics.len()
            ));
        }
        let parts: Vec<(String, usize)> = metrics
            .chunks(PART)
            .enumerate()
            .map(|(n, part)| {
                let name = format!("{name}_part{n}");
                self.metrics.insert(name.clone(), call(part).into());
                (name, part.len())
            })
            .collect();
        let names: Vec<String> = parts.iter().map(|(name, _)| name.clone()).collect();
        if function != "mean" {
            return Ok(call(&names));
        }
        let terms: Vec<String> = parts.iter().map(|(name, size)| format!("{size} * {name}")).collect();
        Ok(format!("({}) / {}", terms.join(" + "), metrics.len()))
    }

    /// Makes the metrics that labels are: what feeds them, or the mean of that.
    ///
    /// # Errors
    /// As [`Work::over`].
    pub fn finish(&mut self) -> Result<(), String> {
        for (label, feeding) in std::mem::take(&mut self.channels) {
            let name = named(&label);
            let all = match feeding.as_slice() {
                [one] => one.clone(),
                several => self.over(&name, "mean", several)?,
            };
            self.metrics.insert(name, all.into());
        }
        Ok(())
    }

    /// What a collector measures, by a sensor of the core; `value` makes something else of it (`value` is its name there).
    pub fn measured(&mut self, at: &Instance<'_>, output: &str, mut spec: Json, value: Option<&str>) {
        let raw = format!("{}_{}", at.term(), at.key);
        if let Some(Json::Object(fields)) = spec.as_object_mut().and_then(|kinds| kinds.values_mut().next()) {
            fields.entry("every").or_insert_with(|| at.every().into());
        }
        self.sensors.insert(raw.clone(), spec);
        let made = value.map_or_else(|| raw.clone(), |value| value.replace("value", &raw));
        self.computed(at, output, made.into());
    }

    /// A metric of a collector or aggregator, under the label that its attribute `output` holds.
    pub fn computed(&mut self, at: &Instance<'_>, output: &str, metric: Json) {
        for label in at.labels(output) {
            let name = Self::feeding_name(at, &label);
            self.metrics.insert(name.clone(), metric.clone());
            // What is made of values that hide what they are about hides it as well.
            let inputs = at.provider.labels(Role::In).flat_map(|name| labels(at.entity.attributes.get(name)));
            if self.hidden(&inputs.collect::<Vec<_>>()) {
                self.hide(&label);
            }
            self.channels.entry(label).or_default().push(name);
        }
    }

    /// The metric with which a mixin feeds a label.
    fn feeding_name(at: &Instance<'_>, label: &str) -> String {
        format!("{}_{}", named(label), short(&format!("{} {}", at.term(), at.key), 8))
    }

    /// What a probe measures for a collector, under this label.
    pub fn brought(&mut self, at: &Instance<'_>, label: &str, sensor: Json) {
        let name = Self::feeding_name(at, label);
        self.sensors.insert(name.clone(), sensor);
        self.channels.entry(label.to_string()).or_default().push(name);
    }

    /// Values of this label do not say what they are about.
    pub fn hide(&mut self, label: &str) {
        self.anonymous.insert(label.to_string());
    }

    /// What feeds these labels feeds the labels in the attribute `output` as well, each value by itself.
    pub fn passed(&mut self, at: &Instance<'_>, from: &[String], output: &str) {
        let feeding = self.feeding(from);
        for label in at.labels(output) {
            self.channels.entry(label).or_default().extend(feeding.iter().cloned());
        }
    }

    /// What is said of the values of these labels: what they are about, unless that is hidden.
    pub fn said<'a>(&self, at: &'a Instance<'_>, labels: &[String]) -> &'a str {
        if labels.iter().any(|label| self.anonymous.contains(label)) { "anonymous" } else { at.about }
    }

    /// The labels that something feeds.
    pub(super) fn labels(&self) -> Labels {
        self.channels.keys().map(|label| (label.clone(), self.anonymous.contains(label))).collect()
    }

    /// Whether the values of one of these labels are hidden.
    pub fn hidden(&self, labels: &[String]) -> bool {
        labels.iter().any(|label| self.anonymous.contains(label))
    }

    /// Values of the labels in the attribute `input` go out by an effector; `rest` are further fields.
    ///
    /// # Errors
    /// As [`Work::over`].
    pub fn published(&mut self, at: &Instance<'_>, input: &str, to: Json, rest: Json) -> Result<(), String> {
        let labels = at.labels(input);
        let mut publish = Map::new();
        publish.insert("metric".into(), self.single(at, &labels)?.into());
        publish.insert("to".into(), to);
        publish.extend(rest.as_object().cloned().unwrap_or_default());
        self.publish.insert(at.term().to_string(), Json::Object(publish));
        Ok(())
    }

    /// The one metric that several labels are for a mixin: the mean of all that feeds them.
    ///
    /// # Errors
    /// As [`Work::over`].
    pub fn single(&mut self, at: &Instance<'_>, labels: &[String]) -> Result<String, String> {
        if let [label] = labels {
            return Ok(named(label));
        }
        let name = format!("in_{}", at.term());
        let all = self.over(&name, "mean", &self.feeding(labels))?;
        self.metrics.insert(name.clone(), all.into());
        Ok(name)
    }

    /// An objective; where the attribute `periods` says so, it must be broken for longer than so many periods.
    ///
    /// # Errors
    /// The attribute is no number.
    pub fn objective(&mut self, at: &Instance<'_>, objective: String) -> Result<(), String> {
        let mut slo = json!({ "objective": objective });
        if let Some(periods) = at.number("periods")?.filter(|periods| *periods > 0.0) {
            slo["for"] = duration((periods * at.period).min(LONGEST_WAIT)).into();
        }
        self.analyze.insert(at.term().to_string(), slo);
        Ok(())
    }

    /// A plan: when an objective is broken, an action of this effector, once for each time.
    ///
    /// # Errors
    /// As [`Work::objective`].
    pub fn alarm(&mut self, at: &Instance<'_>, objective: String, effector: Json) -> Result<(), String> {
        let name = at.term().to_string();
        self.objective(at, objective)?;
        self.plan.push(json!({
            "when": name, "do": [{ "custom": { "name": name } }], "mode": "act", "once": true, "also": !self.plan.is_empty(),
            "cooldown": "30s",
        }));
        self.execute.insert(name, effector);
        Ok(())
    }
}

/// The metric that a label is. Labels are any text; two that differ are two metrics. It is short enough for what is added to it.
pub fn named(label: &str) -> String {
    let mut plain = identifier(label);
    plain.truncate(LONGEST_NAME);
    if plain == label { plain } else { format!("{plain}_{}", short(label, 6)) }
}

/// The beginning of the hash of a text.
pub(super) fn short(text: &str, digits: usize) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..digits].to_string()
}
