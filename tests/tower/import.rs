//! `homeostat import`, as a program.

use std::process::{Command, Output};

use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;

use super::{fixture, rules};

fn import(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_homeostat")).arg("import").args(arguments).output().expect("a run")
}

fn path(name: &str) -> String {
    format!("{}/tests/tower/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn out(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Requirement: R2-28, R2-39.
#[test]
fn import_prints_policies_that_pass_the_check() {
    for name in ["ecommerce.xml", "chain.xml", "self-destroy.xml", "joined.xml", "constraints.xml"] {
        let text = out(&import(&[&path(name)]));
        let set = PolicySet::from_sources(&Sources::from_texts([("rules.yaml", text.as_str())]), None);
        let (set, _) = set.unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
        assert!(!set.services.is_empty());
        assert!(text.starts_with("---\n# The rule "), "{text}");
    }
    let text = out(&import(&[&path("ecommerce.xml")]));
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let kept = documents[1]["annotations"]["tower.rule"].as_str().expect("the rule");
    assert_eq!(rules(kept)[0].value, rules(&fixture("ecommerce.xml"))[1].value, "folded lines keep the text");
}

/// Requirement: R2-29, R2-39.
#[test]
fn import_prints_derived_rules_and_collectors_as_well() {
    let output = import(&[&path("constraints.xml"), "--format", "xml"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("`priority` of the constraint `a1`"));
    assert_eq!(rules(&out(&output)).len(), 2);
    let told = out(&import(&[&path("constraints.xml"), "--format", "collectors"]));
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["CPUUtilization"][0]["targetResources"][0][1], "_tier1");
}

#[test]
fn import_refuses_with_the_line_that_is_wrong() {
    let output = import(&[&path("wrong-joined.xml")]);
    assert_eq!(output.status.code(), Some(4));
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8_lossy(&output.stderr);
    for word in [
        "wrong-joined.xml:4:5",
        "<collectedMetric collectedMetric=\"ResponseTime\"/>",
        "There's no such action",
        "3 errors",
    ] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
    assert_eq!(import(&[&path("gone.xml")]).status.code(), Some(2));
}
