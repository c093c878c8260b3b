//! Tests of policies: what comes in and what must come of it, as `*.test.yaml` files beside the policies say it.
//! Here they are read and held against the policies; `service::trial` runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::diagnostics::{Problem, line_and_column, suggestion_or_list};
use super::load::{SourceFile, decode_all};
use super::set::PolicySet;
use super::tree::{self, Node, Place};
use super::value::{MetricKind, ServicePolicy};
use crate::model::connector::SensorSpec;
use crate::model::units::unit;
use crate::model::{HumanDuration, SloState};

/// A test of the policies beside it: steps, one after the other, in a time of its own that nobody waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrialDocument {
    /// What it shows, in a few words.
    pub test: String,
    /// What happens, and what must come of it.
    pub steps: Vec<TrialStep>,
}

/// One step. Externally tagged: `{ wait: 30s }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrialStep {
    /// What sensors measure from now on, by `service.metric` or, for a member of a family, `service.metric[label]`: a number, a number with
    /// a unit (`80%`, `2GiB`), or `fails`. A pushed metric gets one sample; other sensors measure it again as often as their `every` says.
    Push(BTreeMap<String, Pushed>),
    /// Data that collectors send now, by metric and resource: `{ ResponseTime: { login1: [900, 12000] } }`.
    Data(BTreeMap<String, BTreeMap<String, Vec<Pushed>>>),
    /// Lets time pass.
    Wait(HumanDuration),
    /// The effector of an action fails from now on. Until then, every effector succeeds.
    Fail(FailDocument),
    /// The effector of an action succeeds again.
    Mend(MendDocument),
    /// Carries out the last plan that this service proposed.
    Approve(String),
    /// What must be so now.
    Expect(Box<ExpectDocument>),
}

/// Which effector fails, and what it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailDocument {
    /// Whose.
    pub service: String,
    /// Of which action.
    pub action: String,
    /// What it says.
    pub with: String,
}

/// Which effector succeeds again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MendDocument {
    /// Whose.
    pub service: String,
    /// Of which action.
    pub action: String,
}

/// What must be so. `actions`, `failed`, `proposed`, `because` and `nothing` are about what came since the last step that named one of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectDocument {
    /// The values of metrics, by `service.metric`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metric: BTreeMap<String, Expected>,
    /// The states of SLOs, by `service.slo`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub slo: BTreeMap<String, SloState>,
    /// The services that references are bound to, by `service.reference`; null: to none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bound: BTreeMap<String, Option<String>>,
    /// The actions that were carried out, all of them and in order, as `homeostat why` writes them: `set(C2, threads, 10)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actions: Option<Vec<String>>,
    /// The actions that were tried or due and not carried out, all of them and in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Vec<String>>,
    /// The actions that plans of mode `advise` and `approve` propose, all of them and in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposed: Option<Vec<String>>,
    /// Texts, each of which must occur in a reason that a strategy gave.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// The metrics whose data collectors are asked for now, all of them and sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Vec<String>>,
    /// That nothing was carried out, tried or proposed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nothing: bool,
}

/// What a sensor measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pushed {
    /// This.
    Value(f64),
    /// Nothing: it fails.
    Fails,
}

/// What a metric must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expected {
    /// This, and fresh; with the nine leading digits that calculating keeps.
    Value(f64),
    /// Older than it may be.
    Stale,
    /// Not there.
    Missing,
}

/// A number as people write it: `80%`, `2GiB`, `250ms`.
fn quantity(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    match text[end..].trim() {
        "" => Some(number),
        name => unit(name).map(|(_, factor)| number * factor),
    }
}

/// A number, or a text that is a number with a unit or one of some words.
struct NumberOr<T: 'static> {
    words: &'static [(&'static str, T)],
    expecting: &'static str,
    number: fn(f64) -> T,
}

impl<T: Copy + 'static> de::Visitor<'_> for NumberOr<T> {
    type Value = T;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.expecting)
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        Ok((self.number)(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        Ok((self.number)(value as f64))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        Ok((self.number)(value as f64))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let word = self.words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        word.or_else(|| quantity(text).map(self.number))
            .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self.expecting))
    }
}

impl<'de> Deserialize<'de> for Pushed {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOr {
            words: &[("fails", Self::Fails)],
            expecting: "a number, a number with a unit such as 80% or 2GiB, or `fails`",
            number: Self::Value,
        })
    }
}

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOr {
            words: &[("stale", Self::Stale), ("missing", Self::Missing)],
            expecting: "a number, a number with a unit such as 80% or 2GiB, `stale` or `missing`",
            number: Self::Value,
        })
    }
}

impl Serialize for Pushed {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => s.serialize_f64(*value),
            Self::Fails => s.serialize_str("fails"),
        }
    }
}

impl Serialize for Expected {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => s.serialize_f64(*value),
            Self::Stale => s.serialize_str("stale"),
            Self::Missing => s.serialize_str("missing"),
        }
    }
}

impl JsonSchema for Pushed {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pushed".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number, a number with a unit (`80%`, `2GiB`), or `fails`.",
            "type": ["number", "string"]
        })
    }
}

impl JsonSchema for Expected {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Expected".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number, a number with a unit (`80%`, `2GiB`), `stale` or `missing`.",
            "type": ["number", "string"]
        })
    }
}

/// A sensor's value by its name in a test: `host.rss[nginx 17]` is service `host`, metric `rss`, label `nginx 17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// The service.
    pub service: &'a str,
    /// What of it: a metric, an SLO, a reference.
    pub name: &'a str,
    /// The member of a family.
    pub label: Option<&'a str>,
}

impl<'a> Named<'a> {
    /// Takes `service.name` or `service.name[label]` apart; names of services may contain points, other names do not.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (whole, label) = match text.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
            Some((whole, label)) => (whole, Some(label)),
            None => (text, None),
        };
        let (service, name) = whole.rsplit_once('.')?;
        Some(Self { service, name, label })
    }
}

/// A test with the places of its parts.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What it says.
    pub document: TrialDocument,
    /// The file.
    pub file: Arc<str>,
    text: Arc<str>,
    tree: Node,
}

impl Trial {
    /// Line and column of a part of it, both from 1.
    pub fn position(&self, place: &Place) -> (usize, usize) {
        line_and_column(&self.text, self.tree.locate(place, &self.text).map_or(0, |span| span.start))
    }
}

/// The tests of a file, held against the policies that they are about. Pure.
///
/// # Errors
/// Every mistake, with its place in the file.
pub fn parse(source: &SourceFile, set: &PolicySet) -> Result<Vec<Trial>, Vec<Problem>> {
    let text: Arc<str> = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text).into();
    let located = |mut problem: Problem, tree: Option<&Node>| {
        problem.locate(&source.path, &text, tree);
        problem
    };
    let trees = tree::parse_yaml(&text).map_err(|error| {
        let mut problem = Problem::error("yaml-syntax", Place::default(), error.message);
        problem.span = Some(error.span.unwrap_or(text.trim_end().len()..text.trim_end().len()));
        vec![located(problem, None)]
    })?;
    let (mut trials, mut problems) = (Vec::new(), Vec::new());
    for tree in trees {
        let (document, mistakes, _) = decode_all::<TrialDocument>(&tree, &text);
        // Without the steps that are wrong the others have other numbers, so only a whole document is looked at further.
        let whole = mistakes.is_empty();
        problems.extend(mistakes.into_iter().map(|mistake| located(mistake, Some(&tree))));
        let Some(document) = document.filter(|_| whole) else { continue };
        problems.extend(check(&document, set).into_iter().map(|mistake| located(mistake, Some(&tree))));
        trials.push(Trial { document, file: source.path.clone(), text: text.clone(), tree });
    }
    problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
    if problems.is_empty() { Ok(trials) } else { Err(problems) }
}

/// What a test names and the policies do not have.
fn check(document: &TrialDocument, set: &PolicySet) -> Vec<Problem> {
    let mut check = Check { set, problems: Vec::new() };
    for (number, step) in document.steps.iter().enumerate() {
        let at = Place::value(["steps".into(), number.into()]);
        match step {
            TrialStep::Push(values) => {
                let at = at.then("push");
                values.iter().for_each(|(key, value)| check.sensor(key, *value, &at.then(key.as_str())));
            }
            TrialStep::Data(data) => {
                let at = at.then("data");
                data.iter()
                    .for_each(|(metric, values)| check.data(metric, values, &at.then(metric.as_str())));
            }
            TrialStep::Wait(_) => {}
            TrialStep::Fail(FailDocument { service, action, .. }) => {
                check.effector(service, action, &at.then("fail"));
            }
            TrialStep::Mend(MendDocument { service, action }) => {
                check.effector(service, action, &at.then("mend"));
            }
            TrialStep::Approve(service) => drop(check.service(service, &at.then("approve"))),
            TrialStep::Expect(expect) => check.expectation(expect, &at.then("expect")),
        }
    }
    check.problems
}

struct Check<'a> {
    set: &'a PolicySet,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    fn refuse(&mut self, code: &'static str, at: &Place, message: String, hint: Option<String>) {
        self.problems.push(Problem::error(code, at.clone().at_key(), message).hint(hint));
    }

    fn service(&mut self, name: &str, at: &Place) -> Option<&'a ServicePolicy> {
        let found = self.set.services.get(name).map(|service| &**service);
        if found.is_none() {
            let hint = suggestion_or_list(name, "services", self.set.services.keys().map(|k| &**k));
            self.problems.push(
                Problem::error("unknown-service", at.clone(), format!("there is no service `{name}`"))
                    .hint(hint),
            );
        }
        found
    }

    /// The service of `service.name`, and the name.
    fn named<'k>(&mut self, key: &'k str, at: &Place) -> Option<(&'a ServicePolicy, Named<'k>)> {
        let Some(named) = Named::parse(key) else {
            let message = format!("`{key}` names no service and nothing of it");
            self.refuse("invalid-name", at, message, Some("write `service.name`".into()));
            return None;
        };
        let at = at.clone().at_key();
        self.service(named.service, &at).map(|service| (service, named))
    }

    fn sensor(&mut self, key: &str, value: Pushed, at: &Place) {
        let Some((service, named)) = self.named(key, at) else { return };
        let metrics = service.monitor.as_ref().map_or(&[][..], |monitor| &monitor.metrics);
        let measured = |kind: &MetricKind| matches!(kind, MetricKind::Sensor(_) | MetricKind::Output { .. });
        match metrics.iter().find(|metric| &*metric.name == named.name) {
            Some(metric) if measured(&metric.kind) => {
                let pushed = matches!(&metric.kind, MetricKind::Sensor(SensorSpec::Push(_)));
                if pushed && (value == Pushed::Fails || named.label.is_some()) {
                    let message = format!(
                        "`{}` is pushed: it has no sensor that could fail, and no family",
                        named.name
                    );
                    self.refuse("not-measured", at, message, None);
                }
            }
            Some(_) => {
                let message = format!("`{}` of `{}` is computed, not measured", named.name, named.service);
                self.refuse("not-measured", at, message, Some("push what it is computed from".into()));
            }
            None => {
                let sensors = metrics.iter().filter(|m| measured(&m.kind)).map(|m| &*m.name);
                let hint = suggestion_or_list(named.name, "sensors there", sensors);
                let message = format!("`{}` has no sensor `{}`", named.service, named.name);
                self.refuse("unknown-metric", at, message, hint);
            }
        }
    }

    fn data(&mut self, metric: &str, data: &BTreeMap<String, Vec<Pushed>>, at: &Place) {
        let metrics =
            self.set.services.values().flat_map(|service| service.monitor.iter().flat_map(|m| &m.metrics));
        let collected: BTreeSet<&str> = metrics
            .filter_map(|metric| match &metric.kind {
                MetricKind::Stream(stream) => Some(&*stream.metric),
                _ => None,
            })
            .collect();
        if !collected.contains(metric) {
            let hint = suggestion_or_list(metric, "metrics that are collected", collected.iter().copied());
            self.refuse("unknown-metric", at, format!("nobody collects data of `{metric}`"), hint);
        }
        for (resource, values) in data {
            if values.contains(&Pushed::Fails) {
                let message = "a collector that fails sends nothing: leave it out".to_string();
                self.refuse("not-measured", &at.then(resource.as_str()), message, None);
            }
        }
    }

    fn effector(&mut self, service: &str, action: &str, at: &Place) {
        let Some(service) = self.service(service, &at.then("service")) else { return };
        let declared =
            service.execute.iter().flat_map(|execute| execute.effectors.keys()).map(|name| &**name);
        if !declared.clone().any(|name| name == action) {
            let hint = suggestion_or_list(action, "effectors there", declared);
            let message = format!("`{}` declares no effector `{action}`", service.name);
            let at = at.then("action");
            self.problems.push(Problem::error("unknown-action", at, message).hint(hint));
        }
    }

    fn expectation(&mut self, expect: &ExpectDocument, at: &Place) {
        // A strategy may publish metrics that no policy declares: whether there is one is seen when it is looked at.
        for key in expect.metric.keys() {
            self.named(key, &at.then("metric").then(key.as_str()));
        }
        for key in expect.slo.keys() {
            let at = at.then("slo").then(key.as_str());
            let Some((service, named)) = self.named(key, &at) else { continue };
            let slos = service.analyze.iter().flat_map(|a| &a.slos).map(|slo| &*slo.name);
            if !slos.clone().any(|name| name == named.name) {
                let hint = suggestion_or_list(named.name, "SLOs there", slos);
                let message = format!("`{}` has no SLO `{}`", named.service, named.name);
                self.refuse("unknown-slo", &at, message, hint);
            }
        }
        for key in expect.bound.keys() {
            let at = at.then("bound").then(key.as_str());
            let Some((service, named)) = self.named(key, &at) else { continue };
            let references = service.references.keys().map(|name| &**name);
            if !references.clone().any(|name| name == named.name) {
                let hint = suggestion_or_list(named.name, "references there", references);
                let message = format!("`{}` has no reference `{}`", named.service, named.name);
                self.refuse("unknown-reference", &at, message, hint);
            }
        }
        let some = [&expect.actions, &expect.failed, &expect.proposed];
        if expect.nothing && some.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty())) {
            let message = "`nothing` and a list of actions cannot both be expected".to_string();
            self.refuse("contradiction", &at.then("nothing"), message, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load::{SourceKind, Sources};

    const POLICY: &str = "\
service: my.shop
references: { b: { service: other } }
monitor: { sensors: { x: push, y: { exec: { command: [y] } } }, metrics: { z: x + y } }
analyze: { cheap: { objective: z < 3 } }
execute: { set: log }
---
service: other
";

    fn told(text: &str) -> Result<Vec<Trial>, String> {
        let set = PolicySet::from_sources(&Sources::from_texts([("p.yaml", POLICY)]), None).unwrap().0;
        let source = SourceFile {
            path: "f".into(),
            root: "".into(),
            name: "f".into(),
            kind: SourceKind::Trial,
            text: text.into(),
        };
        parse(&source, &set)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_test_says_steps_in_order_and_knows_their_lines() {
        let text = "\
test: it works
steps:
  - push: { my.shop.x: 1, 'my.shop.y[a.b]': 80%, my.shop.y: fails }
  - wait: 30s
  - expect:
      metric: { my.shop.z: missing }
      bound: { my.shop.b: null }
      actions: []
";
        let trials = told(text).unwrap();
        let [trial] = &trials[..] else { panic!("{trials:?}") };
        let TrialStep::Push(values) = &trial.document.steps[0] else { panic!("{trial:?}") };
        assert_eq!(values["my.shop.y[a.b]"], Pushed::Value(0.8));
        assert_eq!(values["my.shop.y"], Pushed::Fails);
        let named = Named { service: "my.shop", name: "y", label: Some("a.b") };
        assert_eq!(Named::parse("my.shop.y[a.b]"), Some(named));
        let place = Place::value(["steps".into(), 2.into(), "expect".into(), "bound".into()]);
        assert_eq!(trial.position(&place).0, 7);
        assert_eq!(trial.document.steps[1], TrialStep::Wait(HumanDuration::seconds(30)));
        let schema = crate::policy::schema::trial_schema();
        let json = serde_json::to_value(&trial.document).unwrap();
        jsonschema::validate(&schema, &json).unwrap();
    }

    #[test]
    fn every_mistake_in_the_shape_of_a_test_is_told_with_its_place() {
        let text = "\
test: all wrong
steps:
  - push: { my.shop.x: 5 bananas }
  - wiat: 30s
  - wait: long
  - expect: { metrik: {}, slo: { my.shop.cheap: fine } }
---
steps: []
";
        insta::assert_snapshot!(told(text).unwrap_err(), @r#"
        f:3:24: error: found the text `5 bananas`, expected a number, a number with a unit such as 80% or 2GiB, or `fails`
        f:4:5: error: `wiat` is not known here (hint: did you mean `wait`?)
        f:5:11: error: `long` is no duration (a number is missing); expected a number with a unit, such as 30s, 1500ms or 1m30s
        f:6:15: error: there is no field `metrik` here (hint: did you mean `metric`?)
        f:6:49: error: `fine` is not known here (hint: there are `unknown`, `ok`, `warning`, `pending`, `violated`, `missing`, `disabled`, `unresolved`)
        f:8:1: error: the field `test` is missing
        "#);
    }

    #[test]
    fn everything_that_the_policies_do_not_have_is_told_with_its_place() {
        let text = "\
test: nobody there
steps:
  - push: { my.shop.zz: 1, my.shop.z: 2, my.shp.x: 1, x: 1, my.shop.x: fails }
  - fail: { service: my.shop, action: sett, with: no }
  - approve: nobody
  - expect: { slo: { my.shop.cheep: ok }, bound: { my.shop.c: other } }
  - expect: { nothing: true, actions: [set(a)] }
";
        insta::assert_snapshot!(told(text).unwrap_err(), @r#"
        f:3:13: error: `my.shop` has no sensor `zz` (hint: there are `x`, `y`)
        f:3:28: error: `z` of `my.shop` is computed, not measured (hint: push what it is computed from)
        f:3:42: error: there is no service `my.shp` (hint: did you mean `my.shop`?)
        f:3:55: error: `x` names no service and nothing of it (hint: write `service.name`)
        f:3:61: error: `x` is pushed: it has no sensor that could fail, and no family
        f:4:39: error: `my.shop` declares no effector `sett` (hint: did you mean `set`?)
        f:5:14: error: there is no service `nobody` (hint: there are `my.shop`, `other`)
        f:6:22: error: `my.shop` has no SLO `cheep` (hint: did you mean `cheap`?)
        f:6:52: error: `my.shop` has no reference `c` (hint: did you mean `b`?)
        f:7:15: error: `nothing` and a list of actions cannot both be expected
        "#);
    }
}
