//! From constraints to rules, and from rules to collectors.

use homeostat::dialects::tower::constraints::{collectors, constraints, derive, rule_id};
use homeostat::dialects::tower::{ErrorKind, validate};
use serde_json::json;

use super::{fixture, rules};

/// Requirement: R2-29.
#[test]
fn a_constraint_becomes_a_rule_that_watches_over_it() {
    let batch = constraints(&fixture("constraints.xml")).expect("constraints");
    let derived = derive(&batch.items, &rule_id).expect("rules");
    assert_eq!(validate(&derived, &[], None), []);
    let rule = &derived[0].value;
    assert_eq!(rule.id.as_deref(), Some("qosConstraint_a1"));
    assert_eq!(rule.related_constraint.as_deref(), Some("a1"));
    assert_eq!((rule.time_step.as_deref(), rule.time_window.as_deref()), (Some("60"), Some("60")));
    assert_eq!(rule.enabled, Some(true));
    assert_eq!(rule.condition(), Some("METRIC > 0.8"));
    let target = &rule.targets.as_deref().expect("targets")[0];
    assert_eq!(
        (target.class.as_deref(), target.kind.as_deref(), target.id.as_deref()),
        (Some("VM"), Some("_tier1"), None)
    );
    assert_eq!(rule.metric_name(), Some("CPUUtilization"));
    assert_eq!(rule.outputs().collect::<Vec<_>>(), ["qosConstraint_a1_Violated"]);
    let action = &rule.actions()[0];
    assert_eq!((action.parameter("value"), action.parameter("resourceId")), (Some("METRIC"), Some("ID")));
    let second = &derived[1].value;
    assert_eq!(second.condition(), Some("METRIC > 150.0 || METRIC < -2.5"));
    assert_eq!(second.aggregation.as_ref().map(|a| a.parameters[0].value.as_str()), Some("65"));
    let ignored: Vec<_> = batch.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(
        ignored,
        [
            "`priority` of the constraint `a1` has no meaning for a rule",
            "`inSet` of the constraint `c4` has no meaning for a rule"
        ]
    );
    let named = derive(&batch.items, &|c| format!("rule-of-{}", c.id)).expect("rules");
    assert_eq!(named[1].value.id.as_deref(), Some("rule-of-c4"));
}

/// Requirement: R2-29.
#[test]
fn a_constraint_of_nonsense_is_derived_and_then_refused() {
    let text = fixture("constraints.xml")
        .replace("<targetClass>VM<", "<targetClass>SomeClass<")
        .replace("\"Average\"", "\"SomeAggregation\"");
    let derived = derive(&constraints(&text).expect("constraints").items, &rule_id).expect("rules");
    let kinds: Vec<_> = validate(&derived, &[], None).iter().map(|p| p.kind).collect();
    assert_eq!(kinds, [ErrorKind::InvalidClass, ErrorKind::InvalidAggregateFunction]);
}

#[test]
fn a_constraint_without_aggregation_or_bounds_has_no_rule() {
    let text = fixture("constraints.xml")
        .replace("<metricAggregation aggregateFunction=\"Average\"/>", "")
        .replace("<hasMaxValue>150</hasMaxValue><hasMinValue>-2.5</hasMinValue>", "");
    let errors = derive(&constraints(&text).expect("constraints").items, &rule_id).expect_err("none");
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told[0], "the constraint `a1` has no `metricAggregation`; a rule over a window needs one");
    assert!(told[1].starts_with("the constraint `c4` has neither"), "{told:?}");
    let wrong = fixture("constraints.xml").replace(">0.8<", ">much<");
    assert!(constraints(&wrong).is_err_and(|e| (e.line, e.column) == (8, 12) && e.message.contains("much")));
}

/// Requirement: R2-39.
#[test]
fn collectors_are_told_what_enabled_rules_need_and_rules_do_not_make() {
    let read = rules(&fixture("ecommerce.xml"));
    assert_eq!(
        json!(collectors(read.iter().map(|r| &r.value))),
        json!({ "ResponseTime": [{
            "parameters": { "samplingProbability": "1" },
            "targetResources": [["Method", "register", null], ["Method", "login", null], ["Method", "checkout", null]],
        }] }),
        "nothing for the rule that begins disabled"
    );
    let read = rules(&fixture("chain.xml"));
    let told = collectors(read.iter().map(|r| &r.value));
    assert_eq!(
        told.keys().collect::<Vec<_>>(),
        ["EffectiveResponseTime", "Forecast_AverageFrontendCPU", "ResponseTime"]
    );
    assert_eq!(
        json!(told["EffectiveResponseTime"][0].target_resources),
        json!([["Method", "login", null], ["Method", null, "register1"]])
    );
    assert_eq!(told["Forecast_AverageFrontendCPU"][0].parameters["step"], "600");
}

/// Requirement: R2-39.
#[test]
fn a_target_that_is_given_twice_is_told_once() {
    let twice =
        "<monitoredTarget class=\"VM\" type=\"Frontend\"/><monitoredTarget type=\"Frontend\" class=\"VM\"/>";
    let text = super::rule_but(&[("<monitoredTarget class=\"VM\" type=\"Frontend\"/>", twice)]);
    let told = collectors(rules(&text).iter().map(|r| &r.value));
    assert_eq!(json!(told["CPU"][0].target_resources), json!([["VM", "Frontend", null]]));
}

/// Requirement: R2-29.
#[test]
fn constraints_with_similar_ids_have_rules_with_different_ids() {
    let ids = ["c 1", "c_1", "c/1", "c-1", "c.1", "Ω1"].map(|id| {
        let constraint =
            homeostat::dialects::tower::constraints::Constraint { id: id.into(), ..Default::default() };
        rule_id(&constraint)
    });
    assert_eq!(ids[1], "qosConstraint_c_1", "an id that needs no change is kept");
    for (i, id) in ids.iter().enumerate() {
        assert!(!ids[..i].contains(id), "{ids:?}");
        assert_eq!(homeostat::model::name::service_name_problem(id), None, "{id}");
    }
    let long = |last: &str| homeostat::dialects::tower::constraints::Constraint {
        id: "x".repeat(300) + last,
        ..Default::default()
    };
    assert_ne!(rule_id(&long("a")), rule_id(&long("b")));
    assert!(rule_id(&long("a")).len() <= 200);
}

#[test]
fn a_constraint_over_a_percentile_says_which() {
    let text = fixture("constraints.xml").replace(
        "<parameter name=\"thPercentile\">65</parameter></metricAggregation>",
        "</metricAggregation>",
    );
    let derived = derive(&constraints(&text).expect("constraints").items, &rule_id).expect("rules");
    let problems = validate(&derived, &[], Some(&text));
    assert_eq!(problems[0].kind, ErrorKind::MissingRequiredParameter);
    assert!(problems[0].details.contains("<parameter name=\"thPercentile\">95</parameter>"), "{problems:?}");
}
