//! Reading and writing XML.

use homeostat::dialects::tower::{Action, Aggregation, CollectedMetric, Parameter, Rule, Target, write, xml};
use proptest::prelude::*;

use super::{fixture, problems, rule_but, rules};

/// Requirement: R2-28.
#[test]
fn rules_are_read_with_any_prefix_and_in_any_order() {
    let text = fixture("joined.xml");
    let batch = xml::rules(&text).expect("rules");
    assert!(batch.warnings.is_empty(), "{:?}", batch.warnings);
    let rule = &batch.items[0].value;
    assert_eq!(rule.name().len(), 152, "tools join ids of models");
    assert_eq!(rule.metric_name(), Some("ResponseTime"));
    assert_eq!(rule.targets.as_deref().map(<[_]>::len), Some(1));
    assert_eq!(rule.condition(), Some("METRIC > 2500.0"));
    assert_eq!(rule.outputs().collect::<Vec<_>>(), ["gui_list_violated"]);
    assert_eq!(problems(&text), []);
    for name in ["ecommerce.xml", "chain.xml", "self-destroy.xml", "actions.xml", "scale.xml"] {
        assert_eq!(problems(&fixture(name)), [], "{name}");
    }
}

/// Requirement: R2-28.
#[test]
fn a_rule_with_a_wrong_attribute_and_unknown_actions_is_refused() {
    let text = fixture("wrong-joined.xml");
    let batch = xml::rules(&text).expect("it is XML");
    assert!(
        batch.warnings[0].message.contains("`collectedMetric` of `collectedMetric`"),
        "{:?}",
        batch.warnings
    );
    let told: Vec<_> =
        problems(&text).iter().map(|p| format!("{} {} {:?}", p.kind, p.position, p.at)).collect();
    assert_eq!(
        told,
        [
            "MISSING_FIELD metricName Some((4, 5))",
            "INVALID_ACTION outputMetric Some((11, 7))",
            "INVALID_ACTION Business Some((14, 7))"
        ]
    );
}

#[test]
fn whether_a_rule_is_enabled_has_two_names_and_a_default() {
    let enabled = |attribute: &str| {
        let text = rule_but(&[("id=\"R\"", &format!("id=\"R\" {attribute}"))]);
        xml::rules(&text).map(|b| b.items[0].value.starts_enabled()).map_err(|e| e.message)
    };
    assert_eq!(enabled(""), Ok(true));
    assert_eq!(enabled("startEnabled=\"false\""), Ok(false));
    assert_eq!(enabled("enabled=\" 0 \""), Ok(false));
    assert_eq!(enabled("enabled=\"true\" startEnabled=\"1\""), Ok(true));
    assert!(enabled("enabled=\"maybe\"").is_err_and(|m| m.contains("maybe")));
    assert!(enabled("enabled=\"true\" startEnabled=\"false\"").is_err_and(|m| m.contains("contradict")));
}

#[test]
fn what_is_no_batch_of_rules_is_refused_at_its_place() {
    for (text, line, column, word) in [
        ("", 1, 1, "root"),
        ("rules", 1, 1, "token"),
        ("<monitoringRules>\n  <monitoringRule", 1, 1, "never closed"),
        ("<rules/>", 1, 1, "expected `monitoringRules`"),
        ("<x:monitoringRules/>", 1, 2, "namespace"),
        (
            "<monitoringRules xmlns='urn:other'/>",
            1,
            1,
            "of the namespace `urn:other`; expected http://www.modaclouds.eu/xsd/1.0/monitoring_rules_schema, or none",
        ),
        ("<rules xmlns='urn:other'/>", 1, 1, "expected `monitoringRules`"),
        (
            "<monitoringRules>\n<monitoringRule>\n<condition/><condition/></monitoringRule></monitoringRules>",
            3,
            13,
            "second",
        ),
        (
            "<monitoringRules><monitoringRule><condition>a<b/></condition></monitoringRule></monitoringRules>",
            1,
            46,
            "contains text",
        ),
        (
            "<monitoringRules><monitoringRule><collectedMetric><parameter/></collectedMetric></monitoringRule></monitoringRules>",
            1,
            51,
            "`name`",
        ),
    ] {
        let error = xml::rules(text).expect_err(text);
        assert!(error.message.contains(word), "{text}: {error}");
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
    }
}

#[test]
fn bombs_are_refused_before_they_are_read() {
    let laughs = "<!DOCTYPE lolz [<!ENTITY lol \"lol\"><!ENTITY lol2 \"&lol;&lol;\">]><monitoringRules>&lol2;</monitoringRules>";
    let external =
        "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><monitoringRules>&e;</monitoringRules>";
    let depth = "<a>".repeat(1_000_000);
    let attributes = format!("<a{}/>", (0..100_000).map(|i| format!(" a{i}=''")).collect::<String>());
    let elements = format!("<monitoringRules>{}</monitoringRules>", "<a/>".repeat(1_000_001));
    let size = " ".repeat(xml::MAX_TEXT + 1);
    for (text, word) in [
        (laughs, "document type"),
        (external, "document type"),
        (depth.as_str(), "deeper"),
        (attributes.as_str(), "attributes"),
        (elements.as_str(), "elements"),
        (size.as_str(), "bytes"),
    ] {
        let error = xml::rules(text).expect_err(word);
        assert!(error.message.contains(word), "{error}");
    }
    let targets = "<monitoredTarget class=\"VM\"/>".repeat(xml::MAX_LIST + 1);
    let many = rule_but(&[("<monitoredTarget class=\"VM\" type=\"Frontend\"/>", &targets)]);
    assert!(xml::rules(&many).is_err_and(|e| e.message.contains("more than 1000")));
    // What stands in comments and values counts for nothing.
    let quiet = rule_but(&[
        ("<condition>", "<!-- <!DOCTYPE <a><b> --><condition>"),
        ("id=\"R\"", "id=\"R\" label='a=b=\">\"'"),
    ]);
    assert_eq!(rules(&quiet)[0].value.label.as_deref(), Some("a=b=\">\""));
}

fn text() -> impl Strategy<Value = String> {
    "[ -~äλ\u{1F600}\n\t\r]{0,12}"
}

fn parameters() -> impl Strategy<Value = Vec<Parameter>> {
    prop::collection::vec((text(), text()).prop_map(|(name, value)| Parameter { name, value }), 0..3)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let maybe = || prop::option::of(text());
    let target = (maybe(), maybe(), maybe()).prop_map(|(class, kind, id)| Target { class, kind, id });
    let metric = (maybe(), parameters()).prop_map(|(name, parameters)| CollectedMetric { name, parameters });
    let aggregation = (maybe(), maybe(), parameters())
        .prop_map(|(function, grouping, parameters)| Aggregation { function, grouping, parameters });
    let action = (maybe(), parameters()).prop_map(|(name, parameters)| Action { name, parameters });
    let head = (maybe(), maybe(), maybe(), prop::option::of(any::<bool>()), maybe(), maybe());
    let tail = (
        prop::option::of(prop::collection::vec(target, 0..3)),
        prop::option::of(metric),
        prop::option::of(aggregation),
        maybe(),
        prop::option::of(prop::collection::vec(action, 0..3)),
    );
    (head, tail).prop_map(|(head, tail)| {
        let (id, label, related_constraint, enabled, time_step, time_window) = head;
        let (targets, metric, aggregation, condition, actions) = tail;
        Rule {
            id,
            label,
            related_constraint,
            enabled,
            time_step,
            time_window,
            targets,
            metric,
            aggregation,
            condition,
            actions,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn rules_are_read_back_as_they_were_written(all in prop::collection::vec(any_rule(), 0..3)) {
        let read: Vec<Rule> = rules(&write::rules(&all)).into_iter().map(|r| r.value).collect();
        prop_assert_eq!(&read, &all);
        for rule in &all {
            prop_assert_eq!(&rules(&write::rule(rule))[0].value, rule);
        }
    }

    #[test]
    fn no_text_breaks_the_reader(strange in "\\PC{0,80}", cut in 0_usize..2_000, byte in any::<u8>()) {
        let _ = xml::rules(&strange);
        let mut bytes = fixture("actions.xml").into_bytes();
        let at = cut % bytes.len();
        bytes[at] = byte;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(error) = xml::rules(&text) {
            prop_assert!(error.span.end <= text.len() && error.line >= 1 && error.column >= 1);
        } else {
            let _ = problems(&text);
        }
    }
}
