//! From the QoS constraints of a design to rules, and from rules to what collectors are told; both without a daemon.

use std::collections::BTreeMap;
use std::ops::Range;

use roxmltree::Node;
use serde::Serialize;

use super::CONSTRAINTS_NAMESPACE;
use super::rule::{Action, Aggregation, CollectedMetric, Parameter, Part, Places, Rule, Target};
use super::xml::{Batch, Read, Reader, XmlError, read};
use crate::model::name::MAX_NAME;

/// One `constraint`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Constraint {
    /// `id`.
    pub id: String,
    /// `name`, for people.
    pub name: Option<String>,
    /// `targetResourceIDRef`: becomes the *type* of the target.
    pub target: Option<String>,
    /// `targetClass`.
    pub class: Option<String>,
    /// `metric`.
    pub metric: Option<String>,
    /// `metricAggregation`.
    pub aggregation: Option<Aggregation>,
    /// `hasMaxValue` of `range`.
    pub max: Option<f32>,
    /// `hasMinValue` of `range`.
    pub min: Option<f32>,
}

/// Reads constraints: `constraints`, or a single `constraint`. `inSet`, `outSet` and `priority` have no meaning for a rule; the answer
/// warns of them.
///
/// # Errors
/// As [`super::xml::rules`], and a constraint without `id` or with a bound that is no number.
pub fn constraints(text: &str) -> Result<Batch<Constraint>, XmlError> {
    read(text, CONSTRAINTS_NAMESPACE, "constraints", "constraint", constraint)
}

fn constraint(reader: &mut Reader<'_>, node: Node<'_, '_>) -> Result<Read<Constraint>, XmlError> {
    let [id, name] = reader.attributes(node, ["id", "name"]);
    let Some(id) = id else { return reader.fail(node, "a constraint needs an `id`".into()) };
    let [target, class, metric, aggregation, range, priority] = reader.children(
        node,
        ["targetResourceIDRef", "targetClass", "metric", "metricAggregation", "range", "priority"],
    )?;
    if let Some(priority) = priority {
        reader.warn(priority, format!("`priority` of the constraint `{id}` has no meaning for a rule"));
    }
    let bounds =
        range.map(|n| reader.children(n, ["hasMaxValue", "hasMinValue", "inSet", "outSet"])).transpose()?;
    let [max, min, inside, outside] = bounds.unwrap_or_default();
    for set in [inside, outside].into_iter().flatten() {
        let name = set.tag_name().name();
        reader.warn(set, format!("`{name}` of the constraint `{id}` has no meaning for a rule"));
    }
    let value = Constraint {
        name,
        target: target.map(|n| reader.trimmed(n)).transpose()?,
        class: class.map(|n| reader.trimmed(n)).transpose()?,
        metric: metric.map(|n| reader.trimmed(n)).transpose()?,
        aggregation: aggregation.map(|n| reader.aggregation(n)).transpose()?,
        max: max.map(|n| bound(reader, n)).transpose()?,
        min: min.map(|n| bound(reader, n)).transpose()?,
        id,
    };
    Ok(Read { value, places: Places::whole(reader.tag(node)) })
}

fn bound(reader: &mut Reader<'_>, node: Node<'_, '_>) -> Result<f32, XmlError> {
    let text = reader.trimmed(node)?;
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => {
            let name = node.tag_name().name();
            reader.fail(node, format!("`{name}` is `{text}`; expected a number"))
        }
    }
}

/// How many digits of a digest tell ids apart.
const DIGEST: usize = 8;

/// Why a constraint has no rule. No retry mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the constraint `{constraint}` {why}")]
pub struct DeriveError {
    /// The id of the constraint.
    pub constraint: String,
    /// What it lacks, as the rest of a sentence.
    pub why: String,
    /// Where it stands.
    pub span: Option<Range<usize>>,
}

/// The rules that watch over constraints, in their order; `id_of` names the rule of a constraint (see [`rule_id`]).
///
/// # Errors
/// Every constraint that no rule can be made of: one without aggregation, or without bounds.
pub fn derive(
    constraints: &[Read<Constraint>],
    id_of: &dyn Fn(&Constraint) -> String,
) -> Result<Vec<Read<Rule>>, Vec<DeriveError>> {
    let mut rules = Vec::new();
    let mut errors = Vec::new();
    for read in constraints {
        match rule(&read.value, id_of(&read.value)) {
            Ok(rule) => rules.push(Read { value: rule, places: read.places.clone() }),
            Err(why) => {
                let constraint = read.value.id.clone();
                errors.push(DeriveError { constraint, why, span: read.places.of(Part::Rule) });
            }
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

/// The id of the rule of a constraint: `qosConstraint_<id>`. The original takes a random UUID; the same constraints yield the same
/// rules here. What no id of a rule can contain is `_`, and then a digest of the constraint's id tells `c 1` and `c_1` apart.
pub fn rule_id(constraint: &Constraint) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
    let mut id: String = "qosConstraint_".chars().chain(constraint.id.chars().map(plain)).collect();
    if !id.ends_with(&constraint.id) || id.len() > MAX_NAME {
        id.truncate(MAX_NAME - DIGEST - 1);
        id = format!("{id}-{}", &blake3::hash(constraint.id.as_bytes()).to_hex()[..DIGEST]);
    }
    id
}

fn rule(constraint: &Constraint, id: String) -> Result<Rule, String> {
    let Some(aggregation) = constraint.aggregation.clone() else {
        return Err("has no `metricAggregation`; a rule over a window needs one".into());
    };
    let number = |bound: f32| if bound.fract() == 0.0 { format!("{bound:.1}") } else { bound.to_string() };
    let above = constraint.max.map(|max| format!("METRIC > {}", number(max)));
    let below = constraint.min.map(|min| format!("METRIC < {}", number(min)));
    let condition = above.into_iter().chain(below).collect::<Vec<_>>().join(" || ");
    if condition.is_empty() {
        return Err("has neither `hasMaxValue` nor `hasMinValue`; every value would violate it".into());
    }
    let parameter = |name: &str, value: &str| Parameter { name: name.into(), value: value.into() };
    let output = Action {
        name: Some("OutputMetric".into()),
        parameters: vec![
            parameter("metric", &format!("qosConstraint_{}_Violated", constraint.id)),
            parameter("value", "METRIC"),
            parameter("resourceId", "ID"),
        ],
    };
    Ok(Rule {
        id: Some(id),
        label: None,
        related_constraint: Some(constraint.id.clone()),
        enabled: Some(true),
        time_step: Some("60".into()),
        time_window: Some("60".into()),
        targets: Some(vec![Target {
            class: constraint.class.clone(),
            kind: constraint.target.clone(),
            id: None,
        }]),
        metric: Some(CollectedMetric { name: constraint.metric.clone(), parameters: Vec::new() }),
        aggregation: Some(aggregation),
        condition: Some(condition),
        actions: Some(vec![output]),
    })
}

/// What collectors are told about one metric by one rule (R2-39).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectorConfiguration {
    /// Verbatim from the rule.
    pub parameters: BTreeMap<String, String>,
    /// `[class, type, id]`; `null` is any.
    pub target_resources: Vec<[Option<String>; 3]>,
}

/// What rules ask collectors for, by metric: of those that begin enabled, and not what they put out themselves. Address and format of the
/// data are the server's to say. Equal requests appear once, and equal targets once in each.
pub fn collectors<'a>(
    rules: impl IntoIterator<Item = &'a Rule> + Clone,
) -> BTreeMap<String, Vec<CollectorConfiguration>> {
    let produced: std::collections::HashSet<&str> =
        rules.clone().into_iter().flat_map(Rule::outputs).collect();
    let mut all: BTreeMap<String, Vec<CollectorConfiguration>> = BTreeMap::new();
    for rule in rules.into_iter().filter(|r| r.starts_enabled()) {
        let Some(metric) = rule.metric.as_ref() else { continue };
        let Some(name) = metric.name.as_ref().filter(|name| !produced.contains(name.as_str())) else {
            continue;
        };
        let mut target_resources = Vec::new();
        for target in rule.targets.iter().flatten() {
            let triple = [target.class.clone(), target.kind.clone(), target.id.clone()];
            if !target_resources.contains(&triple) {
                target_resources.push(triple);
            }
        }
        let parameters = metric.parameters.iter().map(|p| (p.name.clone(), p.value.clone())).collect();
        let configuration = CollectorConfiguration { parameters, target_resources };
        let list = all.entry(name.clone()).or_default();
        if !list.contains(&configuration) {
            list.push(configuration);
        }
    }
    all
}
