//! A monitoring rule as its XML says it, complete or not: [`super::validate()`] says what is missing or wrong.

use std::collections::BTreeMap;
use std::ops::Range;

/// One `monitoringRule`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// `id`: required, unique among all rules that are installed.
    pub id: Option<String>,
    /// `label`, for people.
    pub label: Option<String>,
    /// `relatedQosConstraintId`: the constraint that it was derived from.
    pub related_constraint: Option<String>,
    /// `startEnabled`, or `enabled`, as the chapter about Tower 4Clouds calls it. Absent: it is.
    pub enabled: Option<bool>,
    /// `timeStep`: seconds, as text.
    pub time_step: Option<String>,
    /// `timeWindow`: seconds, as text.
    pub time_window: Option<String>,
    /// `monitoredTargets`: their union is meant.
    pub targets: Option<Vec<Target>>,
    /// `collectedMetric`.
    pub metric: Option<CollectedMetric>,
    /// `metricAggregation`; absent: each datum by itself.
    pub aggregation: Option<Aggregation>,
    /// `condition`, as written; blank is as good as absent.
    pub condition: Option<String>,
    /// `actions`, in order.
    pub actions: Option<Vec<Action>>,
}

impl Rule {
    /// Whether it runs from the beginning.
    pub fn starts_enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// Its condition, unless blank.
    pub fn condition(&self) -> Option<&str> {
        self.condition.as_deref().filter(|text| !text.trim().is_empty())
    }

    /// Its id, or `?`.
    pub fn name(&self) -> &str {
        self.id.as_deref().unwrap_or("?")
    }

    /// The name of the metric that it collects.
    pub fn metric_name(&self) -> Option<&str> {
        self.metric.as_ref()?.name.as_deref()
    }

    /// Its actions.
    pub fn actions(&self) -> &[Action] {
        self.actions.as_deref().unwrap_or_default()
    }

    /// The names of the metrics that it puts out.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.actions().iter().filter(|a| a.is("OutputMetric")).filter_map(|a| a.parameter("metric"))
    }
}

/// Which resources: one `monitoredTarget`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// `class`: required, one of [`super::validate::CLASSES`].
    pub class: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    /// `id`.
    pub id: Option<String>,
}

/// What is collected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectedMetric {
    /// `metricName`: required.
    pub name: Option<String>,
    /// What collectors are told with it, verbatim.
    pub parameters: Vec<Parameter>,
}

/// How data become one value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Aggregation {
    /// `aggregateFunction`: required.
    pub function: Option<String>,
    /// `groupingClass`; absent: over all data.
    pub grouping: Option<String>,
    /// `thPercentile` of `Percentile`.
    pub parameters: Vec<Parameter>,
}

/// What is done with each result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Action {
    /// `name`: required.
    pub name: Option<String>,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
}

impl Action {
    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// The value of a parameter; of the last, when it is given more than once, as in the original.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        parameter(&self.parameters, name)
    }
}

/// One `parameter`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameter {
    /// `name`.
    pub name: String,
    /// Its text, verbatim.
    pub value: String,
}

/// The value of the last parameter of this name.
pub fn parameter<'a>(parameters: &'a [Parameter], name: &str) -> Option<&'a str> {
    parameters.iter().rev().find(|p| p.name == name).map(|p| p.value.as_str())
}

/// A part of a rule that a problem can be about. Numbers count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The rule.
    Rule,
    /// `id`.
    Id,
    /// `timeStep`.
    TimeStep,
    /// `timeWindow`.
    TimeWindow,
    /// `monitoredTargets`.
    Targets,
    /// One of the targets.
    Target(usize),
    /// `collectedMetric`.
    Metric,
    /// `metricAggregation`.
    Aggregation,
    /// Its `groupingClass`.
    Grouping,
    /// The text of `condition`.
    Condition,
    /// `actions`.
    Actions,
    /// One of the actions.
    Action(usize),
    /// A parameter of an action: which action, which parameter.
    Parameter(usize, usize),
}

/// Where the parts of a rule stand: bytes of the text that it was read from. A rule that was not read has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places(pub(super) BTreeMap<Part, Range<usize>>);

impl Places {
    /// Only where the whole stands.
    pub(super) fn whole(span: Range<usize>) -> Self {
        Self(BTreeMap::from([(Part::Rule, span)]))
    }

    /// Where a part stands, or else what it is a part of.
    pub fn of(&self, part: Part) -> Option<Range<usize>> {
        let around = match part {
            Part::Rule => None,
            Part::Target(_) => Some(Part::Targets),
            Part::Grouping => Some(Part::Aggregation),
            Part::Action(_) => Some(Part::Actions),
            Part::Parameter(action, _) => Some(Part::Action(action)),
            _ => Some(Part::Rule),
        };
        self.0.get(&part).cloned().or_else(|| self.of(around?))
    }
}
