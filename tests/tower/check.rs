//! What is wrong with rules.

use homeostat::dialects::tower::{ErrorKind, validate};

use super::{fixture, problems, rule_but, rules};

/// Kind, position, line and column of every problem.
fn told(changes: &[(&str, &str)]) -> Vec<String> {
    let text = rule_but(changes);
    problems(&text)
        .iter()
        .map(|p| {
            let (line, column) = p.at.expect("a place");
            format!("{} {} {line}:{column}", p.kind, p.position)
        })
        .collect()
}

fn kinds(changes: &[(&str, &str)]) -> Vec<ErrorKind> {
    problems(&rule_but(changes)).iter().map(|p| p.kind).collect()
}

/// Requirement: R2-17.
#[test]
fn a_class_that_there_is_not_is_no_class() {
    assert_eq!(told(&[("class=\"VM\"", "class=\"Vm\"")]), ["INVALID_CLASS monitoredTargets 3:19"]);
    assert_eq!(told(&[("class=\"VM\" ", "")]), ["MISSING_FIELD monitoredTargets 3:19"]);
    assert_eq!(
        told(&[("groupingClass=\"VM\"", "groupingClass=\"Zone\"")]),
        ["INVALID_CLASS groupingClass 5:63"]
    );
}

/// Requirement: R2-20.
#[test]
fn a_percentile_needs_its_rank() {
    let percentile = |inner: &str| {
        let to = format!("aggregateFunction=\"Percentile\">{inner}</metricAggregation>");
        told(&[("aggregateFunction=\"Average\" groupingClass=\"VM\"/>", &to)])
    };
    assert_eq!(percentile(""), ["MISSING_REQUIRED_PARAMETER metricAggregation 5:1"]);
    assert_eq!(
        percentile("<parameter name=\"thPercentile\">200</parameter>"),
        ["MISSING_REQUIRED_PARAMETER thPercentile 5:1"]
    );
    assert!(percentile("<parameter name=\"thPercentile\">99</parameter>").is_empty());
    assert_eq!(told(&[("\"Average\"", "\"Mode\"")]), ["INVALID_AGGREGATE_FUNCTION aggregateFunction 5:1"]);
}

/// Requirement: R2-25.
#[test]
fn groups_lie_above_their_data_and_never_below() {
    let grouped = |class: &str, grouping: &str| {
        let changes = [
            ("class=\"VM\"", format!("class=\"{class}\"")),
            ("groupingClass=\"VM\"", format!("groupingClass=\"{grouping}\"")),
        ];
        kinds(&changes.each_ref().map(|(from, to)| (*from, to.as_str())))
    };
    for (class, grouping) in [
        ("Method", "Method"),
        ("Method", "InternalComponent"),
        ("Method", "VM"),
        ("Method", "PaaSService"),
        ("Method", "CloudProvider"),
        ("InternalComponent", "Location"),
        ("VM", "Node"),
        ("Node", "Cluster"),
        ("Cluster", "Rack"),
        ("CloudProvider", "CloudProvider"),
    ] {
        assert_eq!(grouped(class, grouping), [], "{class} by {grouping}");
    }
    for (class, grouping) in [
        ("VM", "Method"),
        ("CloudProvider", "VM"),
        ("PaaSService", "VM"),
        ("Rack", "Node"),
        ("Location", "CloudProvider"),
    ] {
        assert_eq!(grouped(class, grouping), [ErrorKind::InvalidClass], "{class} by {grouping}");
    }
    let custom = "<parameter name=\"resourceId\">mine</parameter></action>";
    assert_eq!(told(&[("</action>", custom)]), ["INVALID_ACTION resourceId 7:78"]);
    assert!(told(&[("</action>", custom), (" groupingClass=\"VM\"", "")]).is_empty());
}

/// Requirement: R2-26.
#[test]
fn a_condition_is_wrong_in_its_words_or_in_its_meaning() {
    assert_eq!(told(&[("METRIC &gt; 1", "METRIC &gt;")]), ["CONDITION_LEXICAL_ERROR condition 6:12"]);
    assert_eq!(told(&[("METRIC &gt; 1", "1 &lt; 2")]), ["CONDITION_SEMANTIC_ERROR condition 6:12"]);
    let long = vec!["METRIC = 1"; 3_000].join(" || ");
    assert_eq!(kinds(&[("METRIC &gt; 1", &long)]), [ErrorKind::ConditionSemanticError]);
    for right in ["METRIC &gt; -1", "", "  ", "!(METRIC &lt;&gt; 0.5) &amp;&amp; METRIC &lt;= 2"] {
        assert_eq!(kinds(&[("METRIC &gt; 1", right)]), [], "{right}");
    }
    let problem = &problems(&rule_but(&[("METRIC &gt; 1", "METRIC &gt; x")]))[0];
    assert_eq!(
        problem.to_string(),
        "[Rule R, error: CONDITION_LEXICAL_ERROR at position condition, details: Lexical error: 'METRIC >  »x': `x` stands here; \
         expected `METRIC` or a number, at character 10 (line 6, column 12)]"
    );
}

#[test]
fn what_every_rule_needs_is_said_all_at_once() {
    let text = "<monitoringRules>\n<monitoringRule/>\n</monitoringRules>";
    let found = problems(text);
    assert!(found.iter().all(|p| p.kind == ErrorKind::MissingField && p.at == Some((2, 1))));
    let positions: Vec<_> = found.iter().map(|p| p.position.as_str()).collect();
    assert_eq!(positions, ["id", "timeStep", "timeWindow", "monitoredTargets", "collectedMetric", "actions"]);
    assert_eq!(
        kinds(&[("<action name", "<!--<action name"), ("</action>", "</action>-->")]),
        [ErrorKind::InvalidAction]
    );
    assert_eq!(told(&[("metricName=\"CPU\"", "metricName=\" \"")]), ["INVALID_METRIC metricName 4:1"]);
    assert_eq!(
        told(&[("\"60\"", "\"0\""), ("\"120\"", "\"1 h\"")]),
        ["MISSING_FIELD timeStep 2:34", "MISSING_FIELD timeWindow 2:49"]
    );
    assert_eq!(told(&[("id=\"R\"", "id=\"my rule\"")]), ["MISSING_FIELD id 2:21"]);
}

/// Requirement: R2-28.
#[test]
fn ids_and_output_metrics_are_unique_also_among_what_is_installed() {
    let text = rule_but(&[]);
    let installed = vec![rules(&text)[0].value.clone()];
    let found = validate(&rules(&text), &installed, Some(&text));
    let words: Vec<_> = found.iter().map(|p| (p.kind, p.details.as_str())).collect();
    assert_eq!(
        words,
        [
            (ErrorKind::IdAlreadyExists, "a rule that is installed has the id `R`"),
            (ErrorKind::InvalidAction, "Metric Out is already generated by rule R")
        ]
    );
    let twice = fixture("ecommerce.xml").replace("AverageRAMUtilization", "RTConstraint_Violation");
    assert_eq!(problems(&twice).len(), 2, "each of the two is told of the other");
    let again = "<parameter name=\"metric\">Out</parameter></action><action name=\"OutputMetric\"><parameter name=\"metric\">Out</parameter>";
    let found = problems(&rule_but(&[("<parameter name=\"metric\">Out</parameter>", again)]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].details, "Metrics name can only be used once");
}

/// Requirement: R2-36.
#[test]
fn a_rule_has_any_number_of_actions() {
    assert_eq!(rules(&fixture("actions.xml"))[0].value.actions().len(), 8);
    assert_eq!(problems(&fixture("actions.xml")), []);
}

#[test]
fn what_is_put_out_must_not_come_back_in() {
    assert_eq!(told(&[(">Out<", ">CPU<")]), ["INVALID_METRIC metricName 4:1"]);
    let circle = fixture("chain.xml").replace("metricName=\"ResponseTime\"", "metricName=\"Violation\"");
    let names: Vec<_> = problems(&circle).into_iter().filter_map(|p| p.rule).collect();
    assert_eq!(names, ["AverageRule", "ViolationRule"], "and not the others");
}
