//! Says everything that is wrong with rules: the nine kinds of error of the original, each with its place in the text.
//!
//! Where the original refuses more (a second action), more is accepted; where it accepts what can never work and fails later, when the
//! rule is installed or each time it runs, it is refused here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::{Display, Formatter};
use std::ops::Range;

use super::action::{self, Meaning, metric_problem, seconds};
use super::condition::{Condition, percentile};
use super::rule::{Aggregation, Part, Places, Rule, parameter};
use super::xml::Read;
use crate::model::name::service_name_problem;
use crate::policy::diagnostics::{line_and_column, suggestion_or_list};

/// The classes of resources, which targets and groups name.
pub const CLASSES: [&str; 9] = [
    "CloudProvider",
    "Location",
    "Method",
    "InternalComponent",
    "PaaSService",
    "VM",
    "Node",
    "Cluster",
    "Rack",
];

/// The aggregate functions.
pub const FUNCTIONS: [&str; 6] = ["Average", "Percentile", "Max", "Sum", "Min", "Count"];

/// The most problems that are said; the rest of a batch that has more is not looked at.
pub const MAX_PROBLEMS: usize = 1_000;

/// What kind of error. No retry mends one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// A class that there is not, or that data cannot be grouped by.
    InvalidClass,
    /// A name that no metric can have.
    InvalidMetric,
    /// An aggregation or action lacks a parameter.
    MissingRequiredParameter,
    /// A function that there is not.
    InvalidAggregateFunction,
    /// A field is missing, or says nothing that can be used.
    MissingField,
    /// An action that there is not, or a parameter of one that cannot be used.
    InvalidAction,
    /// The condition does not follow the grammar.
    ConditionLexicalError,
    /// The condition follows the grammar and has no meaning.
    ConditionSemanticError,
    /// Another rule has this id.
    IdAlreadyExists,
}

impl ErrorKind {
    /// As the original prints it, and as `homeostat check` names its problems.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidClass => ("INVALID_CLASS", "invalid-class"),
            Self::InvalidMetric => ("INVALID_METRIC", "invalid-metric"),
            Self::MissingRequiredParameter => ("MISSING_REQUIRED_PARAMETER", "missing-required-parameter"),
            Self::InvalidAggregateFunction => ("INVALID_AGGREGATE_FUNCTION", "invalid-aggregate-function"),
            Self::MissingField => ("MISSING_FIELD", "missing-field"),
            Self::InvalidAction => ("INVALID_ACTION", "invalid-action"),
            Self::ConditionLexicalError => ("CONDITION_LEXICAL_ERROR", "condition-lexical-error"),
            Self::ConditionSemanticError => ("CONDITION_SEMANTIC_ERROR", "condition-semantic-error"),
            Self::IdAlreadyExists => ("ID_ALREADY_EXISTS", "id-already-exists"),
        }
    }

    /// The code of a problem: `invalid-class`.
    pub fn code(self) -> &'static str {
        self.words().1
    }
}

/// As the original prints it: `INVALID_CLASS`.
impl Display for ErrorKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words().0)
    }
}

/// One thing wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleProblem {
    /// The id of the rule, if it has one.
    pub rule: Option<String>,
    /// What kind of error.
    pub kind: ErrorKind,
    /// The element, attribute or parameter, by name.
    pub position: String,
    /// What was found, and what would be right.
    pub details: String,
    /// The bytes in the text that the rule was read from.
    pub span: Option<Range<usize>>,
    /// Line and column (in characters) there, from 1.
    pub at: Option<(usize, usize)>,
}

/// `[Rule RT, error: INVALID_CLASS at position groupingClass, details: … (line 4, column 7)]`
impl Display for RuleProblem {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let rule = self.rule.as_deref().unwrap_or("null");
        write!(
            f,
            "[Rule {rule}, error: {} at position {}, details: {}",
            self.kind, self.position, self.details
        )?;
        if let Some((line, column)) = self.at {
            write!(f, " (line {line}, column {column})")?;
        }
        f.write_str("]")
    }
}

/// All problems as one line, as the original answers them.
pub fn summary(problems: &[RuleProblem]) -> String {
    problems.iter().map(RuleProblem::to_string).collect::<Vec<_>>().join(", ")
}

/// The classes that data of `class` can be grouped by: itself, and what is above it in the model.
pub fn groups_of(class: &str) -> &'static [&'static str] {
    match class {
        "Method" => &[
            "Method",
            "InternalComponent",
            "VM",
            "PaaSService",
            "CloudProvider",
            "Location",
            "Node",
            "Cluster",
            "Rack",
        ],
        "InternalComponent" => &[
            "InternalComponent",
            "VM",
            "PaaSService",
            "CloudProvider",
            "Location",
            "Node",
            "Cluster",
            "Rack",
        ],
        "VM" => &["VM", "CloudProvider", "Location", "Node", "Cluster", "Rack"],
        "PaaSService" => &["PaaSService", "CloudProvider", "Location"],
        "Node" => &["Node", "Cluster", "Rack"],
        "Cluster" => &["Cluster", "Rack"],
        "Rack" => &["Rack"],
        "CloudProvider" => &["CloudProvider"],
        "Location" => &["Location"],
        _ => &[],
    }
}

/// Every problem of a batch, in the order of its rules, `installed` being the rules that are there already. `text` is what the batch was
/// read from.
pub fn validate(batch: &[Read<Rule>], installed: &[Rule], text: Option<&str>) -> Vec<RuleProblem> {
    let all = Everybody::new(batch, installed);
    let mut problems = Vec::new();
    for (number, read) in batch.iter().enumerate() {
        let mut check = Check { rule: &read.value, places: &read.places, text, problems: Vec::new() };
        check.all(&all, number);
        problems.append(&mut check.problems);
        if problems.len() >= MAX_PROBLEMS {
            problems.truncate(MAX_PROBLEMS);
            break;
        }
    }
    problems
}

/// Which rules are named by actions of a batch and are neither in it nor installed, each with the rule that names it: nothing is wrong
/// with that as long as they come later.
pub fn unknown_rules(batch: &[Read<Rule>], installed: &[Rule]) -> Vec<(String, String)> {
    let known: HashSet<&str> =
        batch.iter().map(|r| &r.value).chain(installed).filter_map(|r| r.id.as_deref()).collect();
    let mut unknown = Vec::new();
    for rule in batch.iter().map(|r| &r.value) {
        for action in rule.actions() {
            if let Ok(Meaning::Switch { rule: target, .. }) = action::read(action)
                && !known.contains(target.as_str())
            {
                unknown.push((rule.name().to_string(), target));
            }
        }
    }
    unknown
}

/// What rules have to know of each other.
struct Everybody<'a> {
    /// How many rules have this id, and whether one of them is installed.
    ids: HashMap<&'a str, (usize, bool)>,
    /// Who puts out a metric: the number in the batch, if it is in it, and the id.
    outputs: HashMap<&'a str, Vec<(Option<usize>, &'a str)>>,
    /// The rules of the batch whose output leads back to them.
    circular: BTreeSet<usize>,
}

impl<'a> Everybody<'a> {
    fn new(batch: &'a [Read<Rule>], installed: &'a [Rule]) -> Self {
        let mut all = Self { ids: HashMap::new(), outputs: HashMap::new(), circular: BTreeSet::new() };
        let rules: Vec<(Option<usize>, &Rule)> = installed
            .iter()
            .map(|r| (None, r))
            .chain(batch.iter().enumerate().map(|(i, r)| (Some(i), &r.value)))
            .collect();
        for (number, rule) in &rules {
            if let Some(id) = &rule.id {
                let entry = all.ids.entry(id).or_default();
                *entry = (entry.0 + 1, entry.1 || number.is_none());
            }
            for output in rule.outputs() {
                all.outputs.entry(output).or_default().push((*number, rule.name()));
            }
        }
        all.circular = circular(&rules);
        all
    }
}

/// The rules of the batch that are left when those are taken away, again and again, which nobody feeds or which feed nobody.
fn circular(rules: &[(Option<usize>, &Rule)]) -> BTreeSet<usize> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, (_, rule)) in rules.iter().enumerate() {
        if let Some(metric) = rule.metric_name() {
            readers.entry(metric).or_default().push(i);
        }
    }
    let feeds: Vec<Vec<usize>> = rules
        .iter()
        .map(|(_, rule)| {
            let to: BTreeSet<usize> =
                rule.outputs().filter_map(|o| readers.get(o)).flatten().copied().collect();
            to.into_iter().collect()
        })
        .collect();
    let mut fed: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    for (from, to) in feeds.iter().enumerate() {
        for reader in to {
            fed[*reader].push(from);
        }
    }
    let mut left = vec![true; rules.len()];
    for (forward, backward) in [(&feeds, &fed), (&fed, &feeds)] {
        let mut open: Vec<usize> =
            backward.iter().map(|from| from.iter().filter(|f| left[**f]).count()).collect();
        let mut free: Vec<usize> = (0..rules.len()).filter(|i| left[*i] && open[*i] == 0).collect();
        while let Some(i) = free.pop() {
            left[i] = false;
            for next in forward[i].iter().filter(|n| left[**n]) {
                open[*next] -= 1;
                if open[*next] == 0 {
                    free.push(*next);
                }
            }
        }
    }
    rules.iter().zip(left).filter(|(_, left)| *left).filter_map(|((number, _), _)| *number).collect()
}

/// Checks one rule.
struct Check<'a> {
    rule: &'a Rule,
    places: &'a Places,
    text: Option<&'a str>,
    problems: Vec<RuleProblem>,
}

impl Check<'_> {
    fn say(&mut self, kind: ErrorKind, part: Part, position: &str, details: impl Into<String>) {
        let span = self.places.of(part);
        let at = self.text.zip(span.as_ref()).map(|(text, span)| line_and_column(text, span.start));
        self.problems.push(RuleProblem {
            rule: self.rule.id.clone(),
            kind,
            position: position.into(),
            details: details.into(),
            span,
            at,
        });
    }

    fn all(&mut self, all: &Everybody<'_>, number: usize) {
        self.id(all);
        self.times();
        self.targets();
        self.metric(all, number);
        self.aggregation();
        self.actions(all, number);
        self.condition();
    }

    fn missing(&mut self, position: &str, part: Part) {
        self.say(ErrorKind::MissingField, part, position, format!("a rule needs `{position}`"));
    }

    fn id(&mut self, all: &Everybody<'_>) {
        let Some(id) = self.rule.id.as_deref() else { return self.missing("id", Part::Rule) };
        if let Some(problem) = service_name_problem(id) {
            self.say(ErrorKind::MissingField, Part::Id, "id", problem);
        }
        if let Some((count, installed)) = all.ids.get(id)
            && *count > 1
        {
            let who = if *installed { "a rule that is installed" } else { "another rule" };
            self.say(ErrorKind::IdAlreadyExists, Part::Id, "id", format!("{who} has the id `{id}`"));
        }
    }

    fn times(&mut self) {
        let rule = self.rule;
        for (name, part, value) in [
            ("timeStep", Part::TimeStep, &rule.time_step),
            ("timeWindow", Part::TimeWindow, &rule.time_window),
        ] {
            match value.as_deref().map(seconds) {
                None => self.missing(name, part),
                Some(Err(problem)) => self.say(ErrorKind::MissingField, part, name, problem),
                Some(Ok(_)) => {}
            }
        }
    }

    fn class(&mut self, class: &str, part: Part, position: &str) -> bool {
        let known = CLASSES.contains(&class);
        if !known {
            let hint = suggestion_or_list(class, "classes", CLASSES.into_iter());
            let hint = hint.unwrap_or_else(|| format!("expected one of {}", CLASSES.join(", ")));
            self.say(ErrorKind::InvalidClass, part, position, format!("there is no class `{class}`; {hint}"));
        }
        known
    }

    fn targets(&mut self) {
        let rule = self.rule;
        let Some(targets) = rule.targets.as_deref().filter(|t| !t.is_empty()) else {
            return self.missing("monitoredTargets", Part::Targets);
        };
        for (i, target) in targets.iter().enumerate() {
            match target.class.as_deref() {
                None => {
                    let details = "target class is required";
                    self.say(ErrorKind::MissingField, Part::Target(i), "monitoredTargets", details);
                }
                Some(class) => {
                    self.class(class, Part::Target(i), "monitoredTargets");
                }
            }
            for (name, value) in [("type", &target.kind), ("id", &target.id)] {
                if value.as_deref().is_some_and(|v| v.is_empty() || v.contains('*')) {
                    let details = format!("the `{name}` of a target is empty or contains `*`");
                    self.say(ErrorKind::MissingField, Part::Target(i), "monitoredTargets", details);
                }
            }
        }
    }

    fn metric(&mut self, all: &Everybody<'_>, number: usize) {
        let rule = self.rule;
        let Some(metric) = &rule.metric else { return self.missing("collectedMetric", Part::Metric) };
        let Some(name) = metric.name.as_deref() else {
            let details = "collected metric requires the field metricName";
            return self.say(ErrorKind::MissingField, Part::Metric, "metricName", details);
        };
        if let Some(problem) = metric_problem(name) {
            self.say(ErrorKind::InvalidMetric, Part::Metric, "metricName", problem);
        }
        if all.circular.contains(&number) {
            let details = format!("what the rule puts out leads back to `{name}`, which it reads");
            self.say(ErrorKind::InvalidMetric, Part::Metric, "metricName", details);
        }
        let mut names = BTreeSet::new();
        for parameter in &metric.parameters {
            if parameter.name.is_empty() || !names.insert(&parameter.name) {
                let details = format!("the parameter `{}` is there twice, or has no name", parameter.name);
                self.say(ErrorKind::InvalidMetric, Part::Metric, "collectedMetric", details);
            }
        }
    }

    fn aggregation(&mut self) {
        let rule = self.rule;
        let Some(aggregation) = &rule.aggregation else { return };
        let function = aggregation.function.as_deref().unwrap_or_default();
        if !FUNCTIONS.contains(&function) {
            let hint = suggestion_or_list(function, "functions", FUNCTIONS.into_iter()).unwrap_or_default();
            let details = format!("there is no function `{function}`; {hint}");
            self.say(ErrorKind::InvalidAggregateFunction, Part::Aggregation, "aggregateFunction", details);
        }
        if function == "Percentile" {
            self.percentile(aggregation);
        }
        if let Some(grouping) = aggregation.grouping.as_deref()
            && self.class(grouping, Part::Grouping, "groupingClass")
        {
            self.grouping(grouping);
        }
    }

    fn percentile(&mut self, aggregation: &Aggregation) {
        let given = parameter(&aggregation.parameters, "thPercentile");
        match given.map(percentile) {
            None => {
                let details = "Parameter \"thPercentile\" is missing. \
                     Expected <parameter name=\"thPercentile\">95</parameter>, or another number of percent";
                self.say(
                    ErrorKind::MissingRequiredParameter,
                    Part::Aggregation,
                    "metricAggregation",
                    details,
                );
            }
            Some(Err(problem)) => {
                self.say(ErrorKind::MissingRequiredParameter, Part::Aggregation, "thPercentile", problem);
            }
            Some(Ok(_)) => {}
        }
    }

    fn grouping(&mut self, grouping: &str) {
        let rule = self.rule;
        let classes: BTreeSet<&str> = rule
            .targets
            .iter()
            .flatten()
            .filter_map(|t| t.class.as_deref())
            .filter(|c| CLASSES.contains(c))
            .collect();
        for class in classes {
            if !groups_of(class).contains(&grouping) {
                let details = format!(
                    "Cannot group by {grouping} when monitoring {class}; it can be grouped by {}",
                    groups_of(class).join(", ")
                );
                self.say(ErrorKind::InvalidClass, Part::Grouping, "groupingClass", details);
            }
        }
    }

    fn actions(&mut self, all: &Everybody<'_>, number: usize) {
        let rule = self.rule;
        let Some(actions) = &rule.actions else { return self.missing("actions", Part::Actions) };
        if actions.is_empty() {
            self.say(ErrorKind::InvalidAction, Part::Actions, "actions", "a rule needs at least one action");
        }
        let mut own: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, action) in actions.iter().enumerate() {
            match action::read(action) {
                Ok(meaning) => self.meaning(&meaning, i, all),
                Err(faults) => {
                    for fault in faults {
                        let part = self.parameter(i, &fault.position);
                        self.say(fault.kind, part, &fault.position, fault.details);
                    }
                }
            }
            if action.is("OutputMetric")
                && let Some(metric) = action.parameter("metric")
            {
                let times = own.entry(metric).or_default();
                *times += 1;
                self.unique(metric, *times, i, all, number);
            }
        }
    }

    /// The place of a parameter of an action, or of the action.
    fn parameter(&self, action: usize, name: &str) -> Part {
        let parameters = self.rule.actions().get(action).map(|a| &a.parameters[..]).unwrap_or_default();
        let found = parameters.iter().rposition(|p| p.name == name);
        found.map_or(Part::Action(action), |i| Part::Parameter(action, i))
    }

    fn unique(&mut self, metric: &str, times: usize, i: usize, all: &Everybody<'_>, number: usize) {
        let part = self.parameter(i, "metric");
        if times > 1 {
            self.say(ErrorKind::InvalidAction, part, "OutputMetric", "Metrics name can only be used once");
            return;
        }
        let mut others = all.outputs.get(metric).into_iter().flatten();
        if let Some((_, other)) = others.find(|(n, _)| *n != Some(number)) {
            let details = format!("Metric {metric} is already generated by rule {other}");
            self.say(ErrorKind::InvalidAction, part, "OutputMetric", details);
        }
    }

    /// What only the rule as a whole can tell of an action.
    fn meaning(&mut self, meaning: &Meaning, i: usize, all: &Everybody<'_>) {
        let aggregation = self.rule.aggregation.as_ref();
        match meaning {
            Meaning::Output(output) => {
                let wrong = match aggregation {
                    Some(_) if output.value.aggregates() => {
                        Some("functions in a value cannot be used together with `metricAggregation`")
                    }
                    Some(_) if !output.value.reads_metric() => {
                        Some("the value does not read METRIC, so that there is nothing to aggregate")
                    }
                    _ => None,
                };
                if let Some(details) = wrong {
                    let part = self.parameter(i, "value");
                    self.say(ErrorKind::InvalidAction, part, "value", details);
                }
                if let (Some(id), Some(grouping)) =
                    (&output.resource, aggregation.and_then(|a| a.grouping.as_ref()))
                {
                    let details = format!(
                        "Cannot assign custom resourceId name ({id}) when grouping class is specified ({grouping})"
                    );
                    let part = self.parameter(i, "resourceId");
                    self.say(ErrorKind::InvalidAction, part, "resourceId", details);
                }
            }
            Meaning::Tune { rule: Some(rule), .. } if !all.ids.contains_key(rule.as_str()) => {
                let part = self.parameter(i, "ruleId");
                self.say(ErrorKind::InvalidAction, part, "ruleId", format!("there is no rule `{rule}`"));
            }
            _ => {}
        }
    }

    fn condition(&mut self) {
        let rule = self.rule;
        if let Some(Err(error)) = rule.condition().map(Condition::parse) {
            let kind = match error.semantic {
                true => ErrorKind::ConditionSemanticError,
                false => ErrorKind::ConditionLexicalError,
            };
            let details = match error.semantic {
                true => error.to_string(),
                // The mark is where the original puts it.
                false => {
                    let (before, after) = rule.condition().unwrap_or_default().split_at(error.byte);
                    format!("Lexical error: '{before} »{after}': {error}")
                }
            };
            self.say(kind, Part::Condition, "condition", details);
        }
    }
}
