//! One rule becomes one policy document, as somebody would write it who means the same.
//!
//! ```text
//! monitoredTargets, collectedMetric ▶ a sensor `collect`          actions OutputMetric ▶ metrics with `emit`
//! metricAggregation, condition      ▶ `aggregate`, `by`, `having` other actions        ▶ a plan that answers results
//! startEnabled                      ▶ the SLO `rule`, enabled or not
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::action::{self, Meaning, Output, seconds};
use super::condition::{Condition, Value, aggregate_name, percentile};
use super::rule::{Rule, parameter};
use super::write;
use crate::model::Aggregate;
use crate::policy::document::ServiceDocument;
use crate::policy::load::service_from_json;
pub use crate::policy::name::identifier;

/// The SLO that is the switch of a rule.
pub const SLO: &str = "rule";
/// The annotation that holds the rule as XML.
pub const ANNOTATION: &str = "tower.rule";

/// Why a rule has no translation: [`super::validate()`] was not asked, or was not listened to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rule `{rule}` cannot become a policy: {why}")]
pub struct TranslateError {
    /// The rule.
    pub rule: String,
    /// What is wrong.
    pub why: String,
}

/// What a rule is in the language of policies. `metric_of` names the collected metric of another rule, for actions that tune it.
///
/// # Errors
/// When the rule is not valid.
pub fn translate(
    rule: &Rule,
    metric_of: &dyn Fn(&str) -> Option<String>,
) -> Result<ServiceDocument, TranslateError> {
    let document = to_json(rule, metric_of)?;
    service_from_json(&document).map_err(|problems| TranslateError {
        rule: rule.name().to_string(),
        why: problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })
}

/// As [`translate`], in JSON, with its sections in the order in which one writes them.
///
/// # Errors
/// When the rule is not valid.
pub fn to_json(rule: &Rule, metric_of: &dyn Fn(&str) -> Option<String>) -> Result<Json, TranslateError> {
    let fail = |why: String| TranslateError { rule: rule.name().to_string(), why };
    let mut work = Work::new(rule, metric_of).map_err(fail)?;
    work.document().map_err(fail)
}

/// As [`identifier`], and none of those that are taken; nor is the number of its results.
fn unique(text: &str, taken: &mut BTreeSet<String>) -> String {
    let name = identifier(text);
    let free = |name: &String, taken: &BTreeSet<String>| {
        !taken.contains(name) && !taken.contains(&format!("{name}_results"))
    };
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let found = [name.clone()].into_iter().chain(numbered).find(|candidate| free(candidate, taken));
    let found = found.unwrap_or(name);
    taken.insert(format!("{found}_results"));
    taken.insert(found.clone());
    found
}

type Answer<T> = Result<T, String>;

/// A rule on its way.
struct Work<'a> {
    rule: &'a Rule,
    metric_of: &'a dyn Fn(&str) -> Option<String>,
    step: String,
    sensor: String,
    names: BTreeSet<String>,
    /// The services that it names, and under which name.
    references: BTreeMap<String, String>,
    effectors: Map<String, Json>,
}

impl<'a> Work<'a> {
    fn new(rule: &'a Rule, metric_of: &'a dyn Fn(&str) -> Option<String>) -> Answer<Self> {
        let step = seconds(rule.time_step.as_deref().unwrap_or_default())?;
        let metric = rule.metric_name().ok_or("it collects no metric")?;
        let sensor = identifier(metric);
        let names = BTreeSet::from([sensor.clone()]);
        let (references, effectors) = (BTreeMap::new(), Map::new());
        Ok(Self { rule, metric_of, step, sensor, names, references, effectors })
    }

    fn document(&mut self) -> Answer<Json> {
        let mut outputs = Vec::new();
        let mut others = Vec::new();
        for action in self.rule.actions() {
            match action::read(action) {
                Ok(Meaning::Output(output)) => outputs.push(output),
                Ok(meaning) => others.push(meaning),
                Err(faults) => return Err(faults.first().map_or(String::new(), |f| f.details.clone())),
            }
        }
        let metrics = self.metrics(&outputs)?;
        let rows = self.plan(&others)?;
        let slo = self.slo(metrics.keys(), rows.is_empty());
        let sensor = self.collect();
        let mut document = Map::new();
        document.insert("service".into(), self.rule.name().into());
        document.insert("annotations".into(), json!({ ANNOTATION: write::rule(self.rule) }));
        if !self.references.is_empty() {
            let references =
                self.references.iter().map(|(service, name)| (name.clone(), json!({ "service": service })));
            document.insert("references".into(), Json::Object(references.collect()));
        }
        document.insert("monitor".into(), json!({ "sensors": { &self.sensor: sensor }, "metrics": metrics }));
        document.insert("analyze".into(), json!({ SLO: slo }));
        if !rows.is_empty() {
            document.insert("plan".into(), rows.into());
        }
        document.insert("execute".into(), Json::Object(std::mem::take(&mut self.effectors)));
        Ok(Json::Object(document))
    }

    fn collect(&self) -> Json {
        let metric = self.rule.metric.clone().unwrap_or_default();
        let targets = self.rule.targets.iter().flatten().map(|target| {
            let fields = [("class", &target.class), ("type", &target.kind), ("id", &target.id)];
            let given = fields.into_iter().filter_map(|(k, v)| Some((k.to_string(), v.clone()?.into())));
            Json::Object(given.collect())
        });
        let mut collect = Map::new();
        collect.insert("metric".into(), metric.name.unwrap_or_default().into());
        collect.insert("from".into(), targets.collect());
        if !metric.parameters.is_empty() {
            let parameters = metric.parameters.into_iter().map(|p| (p.name, p.value.into()));
            collect.insert("parameters".into(), Json::Object(parameters.collect()));
        }
        json!({ "collect": collect })
    }

    fn metrics(&mut self, outputs: &[Output]) -> Answer<Map<String, Json>> {
        let silent = Output { metric: String::new(), resource: None, value: Value::Metric };
        let mut metrics = Map::new();
        for output in outputs {
            let name = unique(&output.metric, &mut self.names);
            metrics.insert(name, self.metric(output)?);
        }
        if outputs.is_empty() {
            let name = unique("result", &mut self.names);
            metrics.insert(name, self.metric(&silent)?);
        }
        Ok(metrics)
    }

    /// A metric of results; one without a name is only counted.
    fn metric(&self, output: &Output) -> Answer<Json> {
        let rule = self.rule;
        let mut metric = Map::new();
        metric.insert("of".into(), self.sensor.as_str().into());
        let aggregate = self.aggregate()?;
        match (aggregate, &output.value) {
            // How many there are does not depend on what they are.
            (Some(aggregate), Value::Metric) | (Some(aggregate @ Aggregate::Count), _) => {
                metric.insert("aggregate".into(), aggregate.to_string().into());
            }
            (Some(aggregate), value) => {
                metric.insert("value".into(), value.to_expression(&aggregate_name(aggregate)).into());
            }
            (None, Value::Metric) => {}
            (None, value) => {
                metric.insert("value".into(), value.to_expression("value").into());
            }
        }
        let window = seconds(rule.time_window.as_deref().unwrap_or_default())?;
        metric.insert("over".into(), window.into());
        metric.insert("every".into(), self.step.as_str().into());
        if let Some(grouping) = rule.aggregation.as_ref().and_then(|a| a.grouping.as_deref()) {
            metric.insert("by".into(), grouping.into());
        }
        if let Some(condition) = rule.condition() {
            let condition = Condition::parse(condition).map_err(|e| e.to_string())?;
            metric.insert("having".into(), condition.to_expression().into());
        }
        if let Some(resource) = &output.resource {
            metric.insert("resource".into(), resource.as_str().into());
        }
        if !output.metric.is_empty() {
            metric.insert("emit".into(), output.metric.as_str().into());
        }
        Ok(Json::Object(metric))
    }

    fn aggregate(&self) -> Answer<Option<Aggregate>> {
        let Some(aggregation) = &self.rule.aggregation else { return Ok(None) };
        Ok(Some(match aggregation.function.as_deref() {
            Some("Average") => Aggregate::Avg,
            Some("Max") => Aggregate::Max,
            Some("Sum") => Aggregate::Sum,
            Some("Min") => Aggregate::Min,
            Some("Count") => Aggregate::Count,
            Some("Percentile") => {
                percentile(parameter(&aggregation.parameters, "thPercentile").unwrap_or_default())?
            }
            other => return Err(format!("there is no function `{}`", other.unwrap_or_default())),
        }))
    }

    /// The switch. With other actions than output, a result breaks the objective, and the plan answers.
    fn slo<'n>(&self, metrics: impl Iterator<Item = &'n String>, quiet: bool) -> Json {
        let bound = if quiet { ">= 0" } else { "< 1" };
        let all: Vec<String> = metrics.map(|metric| format!("{metric}_results {bound}")).collect();
        let mut slo = Map::new();
        slo.insert("objective".into(), all.join(" && ").into());
        if !self.rule.starts_enabled() {
            slo.insert("enabled".into(), false.into());
        }
        slo.insert("missing".into(), "ok".into());
        Json::Object(slo)
    }

    /// The rows of the plan: actions in order, those that rest longer than a step in rows of their own.
    fn plan(&mut self, actions: &[Meaning]) -> Answer<Vec<Json>> {
        let mut rows: Vec<(String, bool, Vec<Json>)> = Vec::new();
        for meaning in actions {
            let (action, cooldown) = self.action(meaning)?;
            let own = cooldown.is_some();
            match rows.last_mut() {
                Some((_, false, list)) if !own => list.push(action),
                _ => rows.push((cooldown.unwrap_or_else(|| self.step.clone()), own, vec![action])),
            }
        }
        let row = |(i, (cooldown, _, actions)): (usize, (String, bool, Vec<Json>))| {
            let mut row = Map::new();
            row.insert("when".into(), SLO.into());
            row.insert("do".into(), actions.into());
            row.insert("mode".into(), "act".into());
            row.insert("cooldown".into(), cooldown.into());
            row.insert("on_failure".into(), "continue".into());
            if i > 0 {
                row.insert("also".into(), true.into());
            }
            Json::Object(row)
        };
        Ok(rows.into_iter().enumerate().map(row).collect())
    }

    /// The service that an action is for, with a reference that leads there; none for the rule itself.
    fn reference(&mut self, service: &str) -> Option<String> {
        if service == self.rule.name() {
            return None;
        }
        if !self.references.contains_key(service) {
            let mut taken: BTreeSet<String> = self.references.values().cloned().collect();
            self.references.insert(service.to_string(), unique(&format!("r_{service}"), &mut taken));
        }
        Some(service.to_string())
    }

    /// An action, and how long it rests when that is not a step.
    fn action(&mut self, meaning: &Meaning) -> Answer<(Json, Option<String>)> {
        let (name, service, rest) = match meaning {
            Meaning::Output(_) => return Err("an output is no action of a plan".into()),
            Meaning::Switch { rule, on } => {
                let name = if *on { "enable_slo" } else { "disable_slo" };
                (name, self.reference(rule), vec![("slo", Some(SLO.to_string()))])
            }
            Meaning::Tune { rule, parameter, value } => {
                let (service, sensor) = self.tuned(rule.as_deref())?;
                let fields =
                    [("sensor", sensor), ("parameter", (*parameter).into()), ("value", value.clone())];
                ("tune", service, fields.map(|(k, v)| (k, Some(v))).to_vec())
            }
            Meaning::Raise { service, slo } => {
                // Without an SLO the alarm bears the name of the rule; a plan for `*` answers it.
                let slo = slo.clone().unwrap_or_else(|| identifier(self.rule.name()));
                ("raise", self.reference(service), vec![("slo", Some(slo))])
            }
            Meaning::Call { method, url } => {
                let headers = json!({ "Cache-Control": "no-cache" });
                let effector = json!({ "method": method, "url": url, "body": "", "headers": headers });
                return Ok((self.custom("rest", json!({ "http": effector })), None));
            }
            Meaning::Cloud { url, commands, cooldown } => {
                let effector = json!({ "websocket": { "url": url, "send": commands } });
                let rest = if *cooldown == 0 { self.step.clone() } else { format!("{cooldown}s") };
                return Ok((self.custom("cloudml", effector), Some(rest)));
            }
        };
        let fields = [("service", service)].into_iter().chain(rest);
        let given = fields.filter_map(|(k, v)| Some((k.to_string(), Json::from(v?))));
        Ok((json!({ name: Json::Object(given.collect()) }), None))
    }

    fn tuned(&mut self, rule: Option<&str>) -> Answer<(Option<String>, String)> {
        match rule.filter(|rule| *rule != self.rule.name()) {
            None => Ok((None, self.sensor.clone())),
            Some(rule) => {
                let metric = (self.metric_of)(rule).ok_or_else(|| format!("there is no rule `{rule}`"))?;
                Ok((self.reference(rule), identifier(&metric)))
            }
        }
    }

    /// An action of the policy's own, carried out by `effector`: `rest_1`, `rest_2`, ….
    fn custom(&mut self, kind: &str, effector: Json) -> Json {
        let number = 1 + self.effectors.keys().filter(|name| name.starts_with(kind)).count();
        let name = format!("{kind}_{number}");
        self.effectors.insert(name.clone(), effector);
        json!({ "custom": { "name": name } })
    }
}
