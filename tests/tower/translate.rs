//! What rules become.

use homeostat::dialects::tower::translate::{ANNOTATION, to_json};
use homeostat::dialects::tower::{translate, write};
use homeostat::policy::compile::compile;
use serde_json::{Value, json};

use super::{fixture, rule_but, rules};

/// The policies of a text by the name of their rule; each compiles, unless it needs what is not there.
fn policies(text: &str) -> Vec<Value> {
    let read = rules(text);
    let metric_of = |id: &str| {
        let rule = read.iter().find(|r| r.value.name() == id)?;
        rule.value.metric_name().map(str::to_string)
    };
    read.iter()
        .map(|rule| {
            let document = translate(&rule.value, &metric_of).expect("a document");
            let compiled = compile(document.clone(), &|_| None);
            assert!(compiled.is_ok(), "{}: {:?}", rule.value.name(), compiled.err());
            let kept = &document.annotations[ANNOTATION];
            assert_eq!(rules(kept)[0].value, rule.value, "the rule stays readable");
            assert_eq!(kept, &write::rule(&rule.value));
            to_json(&rule.value, &metric_of).expect("a document")
        })
        .collect()
}

fn metric(policy: &Value, name: &str) -> Value {
    policy["monitor"]["metrics"][name].clone()
}

/// Requirement: R2-17, R2-18, R2-30, R2-36.
#[test]
fn the_rule_of_the_response_time_is_a_policy() {
    let policy = &policies(&fixture("ecommerce.xml"))[0];
    assert_eq!(policy["service"], "RTConstraint_Rule");
    assert_eq!(
        policy["monitor"]["sensors"],
        json!({ "ResponseTime": { "collect": {
            "metric": "ResponseTime",
            "from": [
                { "class": "Method", "type": "register" },
                { "class": "Method", "type": "login" },
                { "class": "Method", "type": "checkout" },
            ],
            "parameters": { "samplingProbability": "1" },
        } } })
    );
    assert_eq!(
        metric(policy, "RTConstraint_Violation"),
        json!({ "of": "ResponseTime", "aggregate": "p99", "over": "60s", "every": "60s", "having": "value > 10000",
            "emit": "RTConstraint_Violation" })
    );
    assert_eq!(policy["analyze"]["rule"]["objective"], "RTConstraint_Violation_results < 1");
    assert_eq!(
        policy["plan"],
        json!([{ "when": "rule", "do": [{ "enable_slo": { "service": "DetailedRAMRule", "slo": "rule" } }], "mode": "act",
            "cooldown": "60s", "on_failure": "continue" }])
    );
    assert_eq!(policy["references"], json!({ "r_DetailedRAMRule": { "service": "DetailedRAMRule" } }));
}

/// Requirement: R2-25, R2-32.
#[test]
fn the_rule_of_the_memory_is_a_policy_that_waits() {
    let policy = &policies(&fixture("ecommerce.xml"))[1];
    assert_eq!(
        metric(policy, "AverageRAMUtilization"),
        json!({ "of": "MemUsed", "aggregate": "avg", "over": "60s", "every": "60s", "by": "VM", "emit": "AverageRAMUtilization" })
    );
    assert_eq!(
        policy["analyze"]["rule"],
        json!({ "objective": "AverageRAMUtilization_results >= 0", "enabled": false, "missing": "ok" })
    );
    assert!(policy.get("plan").is_none());
    assert_eq!(policy["execute"], json!({}));
}

/// Requirement: R2-19, R2-20, R2-21, R2-22, R2-23, R2-24.
#[test]
fn all_functions_have_their_aggregates() {
    for (function, aggregate) in
        [("Average", "avg"), ("Sum", "sum"), ("Count", "count"), ("Max", "max"), ("Min", "min")]
    {
        let text = rule_but(&[("\"Average\"", &format!("\"{function}\""))]);
        assert_eq!(metric(&policies(&text)[0], "Out")["aggregate"], aggregate);
    }
    for (rank, aggregate) in [("99", "p99"), ("0.95", "p95"), ("99.9", "p99.9")] {
        let to =
            format!("\"Percentile\"><parameter name=\"thPercentile\">{rank}</parameter></metricAggregation>");
        let text = rule_but(&[("\"Average\" groupingClass=\"VM\"/>", &to)]);
        assert_eq!(metric(&policies(&text)[0], "Out")["aggregate"], aggregate);
    }
}

/// Requirement: R2-26, R2-31.
#[test]
fn values_windows_and_chains_keep_their_meaning() {
    let all = policies(&fixture("chain.xml"));
    let average = metric(&all[0], "AverageResponseTime");
    assert_eq!((&average["over"], &average["every"]), (&json!("60s"), &json!("10s")));
    let violation = metric(&all[1], "Violation");
    assert_eq!(violation["having"], "value >= 1000 || value == 0");
    assert_eq!(violation["by"], "CloudProvider");
    assert_eq!(all[1]["monitor"]["sensors"]["AverageResponseTime"]["collect"]["metric"], average["emit"]);
    let ratio = metric(&all[2], "AverageEffectiveResponseTime");
    assert_eq!((&ratio["value"], &ratio["resource"]), (&json!("sum / count"), &json!("AllMethods")));
    assert_eq!(
        all[2]["monitor"]["sensors"]["EffectiveResponseTime"]["collect"]["from"],
        json!([{ "class": "Method", "type": "login" }, { "class": "Method", "id": "register1" }])
    );
    let raw = metric(&all[3], "ForecastFrontendCPU");
    assert_eq!(
        raw,
        json!({ "of": "Forecast_AverageFrontendCPU", "over": "30s", "every": "30s", "emit": "ForecastFrontendCPU" })
    );
    let scaled = rule_but(&[(
        "Out</parameter>",
        "Out</parameter><parameter name=\"value\">(METRIC + 1) * 8</parameter>",
    )]);
    assert_eq!(metric(&policies(&scaled)[0], "Out")["value"], "(avg + 1) * 8");
}

/// Requirement: R2-35, R2-36, R2-37, R2-38.
#[test]
fn actions_become_a_plan_in_their_order() {
    let all = policies(&fixture("actions.xml"));
    let busy = &all[0];
    assert_eq!(busy["plan"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        busy["plan"][0]["do"],
        json!([
            { "enable_slo": { "service": "Detail", "slo": "rule" } },
            { "tune": { "sensor": "CPU_", "parameter": "samplingTime", "value": "5" } },
            { "tune": { "service": "Detail", "sensor": "ResponseTime", "parameter": "samplingProbability", "value": "1" } },
            { "raise": { "service": "shop", "slo": "fast" } },
            { "raise": { "service": "shop", "slo": "Busy" } },
            { "custom": { "name": "rest_1" } },
            { "disable_slo": { "slo": "rule" } },
        ])
    );
    assert_eq!(busy["plan"][0]["cooldown"], "30s");
    assert_eq!(
        busy["references"],
        json!({ "r_Detail": { "service": "Detail" }, "r_shop": { "service": "shop" } })
    );
    assert_eq!(metric(busy, "CPU_busy")["emit"], "CPU busy");
    assert_eq!(busy["monitor"]["sensors"]["CPU_"]["collect"]["metric"], "CPU%");
    assert_eq!(busy["analyze"]["rule"]["objective"], "CPU_busy_results < 1");
    let call = &busy["execute"]["rest_1"]["http"];
    assert_eq!((&call["method"], &call["body"]), (&json!("POST"), &json!("")));
    assert_eq!(call["url"], "http://127.0.0.1:9/hook?a=%7Bb%7D", "braces are no holes of a template");
    assert_eq!(metric(&all[1], "Each")["value"], "value / 1000");
    assert_eq!(all[1]["analyze"]["rule"]["enabled"], false);
}

/// Requirement: R2-37.
#[test]
fn a_rule_may_call_for_its_own_end() {
    let policy = &policies(&fixture("self-destroy.xml"))[0];
    let call = &policy["execute"]["rest_1"]["http"];
    assert_eq!(call["url"], "http://localhost:8170/v1/monitoring-rules/OnceRule");
    assert_eq!(
        (&call["method"], &call["headers"]),
        (&json!("DELETE"), &json!({ "Cache-Control": "no-cache" }))
    );
    assert_eq!(
        metric(policy, "result"),
        json!({ "of": "ResponseTime", "aggregate": "avg", "over": "5s", "every": "5s", "by": "Method" })
    );
    assert_eq!(policy["analyze"]["rule"]["objective"], "result_results < 1");
}

/// Requirement: R2-37.
#[test]
fn calls_of_the_cloud_rest_by_themselves() {
    let policy = to_json(&rules(&fixture("scale.xml"))[0].value, &|_| None).expect("a document");
    let rows = policy["plan"].as_array().expect("rows");
    let brief: Vec<_> = rows.iter().map(|r| json!([r["cooldown"], r["also"], r["do"]])).collect();
    assert_eq!(
        brief,
        [
            json!(["60s", null, [{ "disable_slo": { "slo": "rule" } }]]),
            json!(["600s", true, [{ "custom": { "name": "cloudml_1" } }]]),
            json!(["300s", true, [{ "custom": { "name": "cloudml_2" } }]]),
        ]
    );
    assert_eq!(
        policy["execute"]["cloudml_1"]["websocket"],
        json!({ "url": "ws://127.0.0.1:9030", "send": ["!listenToAny", "!extended { name: ScaleOut, params: [ Frontend , 2 ] }"] })
    );
}

#[test]
fn names_that_policies_cannot_have_are_replaced_and_stay_different() {
    let outputs = "<action name=\"OutputMetric\"><parameter name=\"metric\">a b</parameter></action>\
        <action name=\"OutputMetric\"><parameter name=\"metric\">a-b</parameter></action>\
        <action name=\"OutputMetric\"><parameter name=\"metric\">a_b_results</parameter></action>\
        <action name=\"OutputMetric\"><parameter name=\"metric\">if</parameter></action>\
        <action name=\"OutputMetric\"><parameter name=\"metric\">é</parameter></action>\
        <action name=\"OutputMetric\"><parameter name=\"metric\">99</parameter></action></actions>";
    let policy = &policies(&rule_but(&[
        (
            "<action name=\"OutputMetric\"><parameter name=\"metric\">Out</parameter></action></actions>",
            outputs,
        ),
        ("metricName=\"CPU\"", "metricName=\"a b c\""),
    ]))[0];
    let metrics = policy["monitor"]["metrics"].as_object().expect("metrics");
    let emitted: Vec<_> =
        metrics.iter().map(|(name, m)| (name.as_str(), m["emit"].as_str().unwrap_or(""))).collect();
    assert_eq!(
        emitted,
        [
            ("a_b", "a b"),
            ("a_b_2", "a-b"),
            ("a_b_results_2", "a_b_results"),
            ("m_if", "if"),
            ("_", "é"),
            ("_99", "99")
        ]
    );
    assert_eq!(policy["monitor"]["sensors"].as_object().map(|s| s.keys().count()), Some(1));
}
