//! Rules as XML; what is written here is read back the same.

use std::fmt::Write;

use super::RULES_NAMESPACE;
use super::rule::{Parameter, Rule};

/// A batch of rules: `monitoringRules`.
pub fn rules<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> String {
    let mut out = Writer { text: String::new(), indent: Some(0) };
    out.text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    out.open("monitoringRules", &[("xmlns", Some(RULES_NAMESPACE))]);
    for rule in rules {
        out.rule(rule, false);
    }
    out.close("monitoringRules");
    out.text
}

/// One rule on one line, as a document of its own: the canonical form.
pub fn rule(rule: &Rule) -> String {
    let mut out = Writer { text: String::new(), indent: None };
    out.rule(rule, true);
    out.text
}

type Attributes<'a> = [(&'a str, Option<&'a str>)];

/// Writes elements; `indent` is the depth, or nothing for one line.
struct Writer {
    text: String,
    indent: Option<usize>,
}

impl Writer {
    fn begin(&mut self) {
        if let Some(depth) = self.indent {
            self.text.push_str(&"  ".repeat(depth));
        }
    }

    fn end(&mut self) {
        if self.indent.is_some() {
            self.text.push('\n');
        }
    }

    fn tag(&mut self, name: &str, attributes: &Attributes<'_>) {
        let _ = write!(self.text, "<{name}");
        for (name, value) in attributes {
            if let Some(value) = value {
                let _ = write!(self.text, " {name}=\"{}\"", escaped(value, true));
            }
        }
    }

    fn open(&mut self, name: &str, attributes: &Attributes<'_>) {
        self.begin();
        self.tag(name, attributes);
        self.text.push('>');
        self.end();
        self.indent = self.indent.map(|depth| depth + 1);
    }

    fn close(&mut self, name: &str) {
        self.indent = self.indent.map(|depth| depth.saturating_sub(1));
        self.begin();
        let _ = write!(self.text, "</{name}>");
        self.end();
    }

    fn empty(&mut self, name: &str, attributes: &Attributes<'_>) {
        self.begin();
        self.tag(name, attributes);
        self.text.push_str("/>");
        self.end();
    }

    fn leaf(&mut self, name: &str, attributes: &Attributes<'_>, text: &str) {
        self.begin();
        self.tag(name, attributes);
        let _ = write!(self.text, ">{}</{name}>", escaped(text, false));
        self.end();
    }

    fn with_parameters(&mut self, name: &str, attributes: &Attributes<'_>, parameters: &[Parameter]) {
        if parameters.is_empty() {
            return self.empty(name, attributes);
        }
        self.open(name, attributes);
        for parameter in parameters {
            self.leaf("parameter", &[("name", Some(&parameter.name))], &parameter.value);
        }
        self.close(name);
    }

    fn rule(&mut self, rule: &Rule, alone: bool) {
        let enabled = rule.enabled.map(|e| e.to_string());
        self.open(
            "monitoringRule",
            &[
                ("xmlns", alone.then_some(RULES_NAMESPACE)),
                ("id", rule.id.as_deref()),
                ("label", rule.label.as_deref()),
                ("relatedQosConstraintId", rule.related_constraint.as_deref()),
                ("startEnabled", enabled.as_deref()),
                ("timeStep", rule.time_step.as_deref()),
                ("timeWindow", rule.time_window.as_deref()),
            ],
        );
        if let Some(targets) = &rule.targets {
            self.open("monitoredTargets", &[]);
            for t in targets {
                let attributes =
                    [("class", t.class.as_deref()), ("type", t.kind.as_deref()), ("id", t.id.as_deref())];
                self.empty("monitoredTarget", &attributes);
            }
            self.close("monitoredTargets");
        }
        if let Some(metric) = &rule.metric {
            let attributes = [("metricName", metric.name.as_deref())];
            self.with_parameters("collectedMetric", &attributes, &metric.parameters);
        }
        if let Some(a) = &rule.aggregation {
            let attributes =
                [("aggregateFunction", a.function.as_deref()), ("groupingClass", a.grouping.as_deref())];
            self.with_parameters("metricAggregation", &attributes, &a.parameters);
        }
        if let Some(condition) = &rule.condition {
            self.leaf("condition", &[], condition);
        }
        if let Some(actions) = &rule.actions {
            self.open("actions", &[]);
            for action in actions {
                self.with_parameters("action", &[("name", action.name.as_deref())], &action.parameters);
            }
            self.close("actions");
        }
        self.close("monitoringRule");
    }
}

/// Text as it stands in XML. White space is kept: parsers turn line ends into `\n`, and in attributes all of it into spaces.
fn escaped(text: &str, attribute: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' if attribute => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' if attribute => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            // XML has no way to say the others.
            c if c < ' ' && !matches!(c, '\n' | '\t') || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}
