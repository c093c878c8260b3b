//! Results that another analyzer has evaluated: the actions of the rule are done here.

use std::time::Duration;

use super::support::{Server, wait_for};
use super::*;

fn call(url: &str) -> String {
    format!(
        "<action name=\"RestCall\"><parameter name=\"url\">{url}</parameter><parameter name=\"method\">POST</parameter></action>"
    )
}

/// Requirement: R2-37
#[test]
fn results_of_another_analyzer_start_the_actions_of_the_rule() {
    let tower = Tower::start();
    let sink = Server::start(|_| (Duration::ZERO, 200, String::new()));
    let with = rule(
        "With",
        "CPU",
        "",
        "",
        &actions(&[&output_metric("Out"), &call(&format!("{}/with", sink.url()))]),
    );
    let only = rule("Only", "CPU", "", "", &actions(&[&call(&format!("{}/only", sink.url()))]));
    tower.install(&batch(&[with, only]));
    let calls = |path: &str| sink.got("POST").iter().filter(|got| got.path.ends_with(path)).count();
    let act = |id: &str, metric: &str, value: &str| {
        let results = format!(r#"[{{"resourceId":"vm1","metric":"{metric}","value":{value}}}]"#);
        tower.expect(204, "POST", &format!("/v1/monitoring-rules/{id}/actions"), &results);
    };
    // What is no result of the rule starts nothing.
    act("With", "Other", "1");
    act("With", "Out", "[]");
    tower.expect(204, "POST", "/v1/monitoring-rules/With/actions", "[]");
    tower.expect(204, "GET", "/v1/monitoring-rules/Only?enabled=false", "");
    act("Only", "Any", "1");
    assert_eq!(tower.counter("data_refused"), 2);
    act("With", "Out", "1");
    wait_for("the call", || (calls("with") == 1).then_some(()));
    tower.expect(204, "GET", "/v1/monitoring-rules/Only?enabled=true", "");
    act("Only", "Any", "1");
    wait_for("the call", || (calls("only") == 1).then_some(()));
    // The step is over, and no data came: what came before is not done again.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!((calls("with"), calls("only")), (1, 1));
    act("With", "Out", "2");
    wait_for("the second call", || (calls("with") == 2).then_some(()));
    tower.stop();
}
