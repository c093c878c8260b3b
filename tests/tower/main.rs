//! Tower 4Clouds: what its rules and constraints are read as, why they are refused, and what they become; and the server that clients
//! of Tower 4Clouds talk to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod check;
mod derive;
mod import;
mod read;
#[cfg(unix)]
mod server;
mod translate;

use homeostat::dialects::tower::xml::{self, Read};
use homeostat::dialects::tower::{Rule, RuleProblem, validate};

/// The text of a fixture.
fn fixture(name: &str) -> String {
    let path = format!("{}/tests/tower/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a fixture")
}

/// The rules of a text.
fn rules(text: &str) -> Vec<Read<Rule>> {
    xml::rules(text).expect("rules").items
}

/// What is wrong with the rules of a text.
fn problems(text: &str) -> Vec<RuleProblem> {
    validate(&rules(text), &[], Some(text))
}

/// A rule that is right, with parts of its text replaced.
fn rule_but(changes: &[(&str, &str)]) -> String {
    let mut text = String::from(
        r#"<monitoringRules xmlns="http://www.modaclouds.eu/xsd/1.0/monitoring_rules_schema">
<monitoringRule id="R" timeStep="60" timeWindow="120">
<monitoredTargets><monitoredTarget class="VM" type="Frontend"/></monitoredTargets>
<collectedMetric metricName="CPU"><parameter name="samplingTime">10</parameter></collectedMetric>
<metricAggregation aggregateFunction="Average" groupingClass="VM"/>
<condition>METRIC &gt; 1</condition>
<actions><action name="OutputMetric"><parameter name="metric">Out</parameter></action></actions>
</monitoringRule>
</monitoringRules>"#,
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}
