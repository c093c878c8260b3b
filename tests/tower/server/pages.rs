//! Pages for people.

use super::*;

/// Requirement: R2-41
#[test]
fn pages_list_everything_switch_rules_and_add_observers() {
    let tower = Tower::start();
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")
        .replace("id=\"A\"", "id=\"A\" label=\"&lt;script&gt;alert(1)&lt;/script&gt;\"")]));
    let id = tower.register(&collector("CPU", &["<img src=x>"], 60));
    let page = |path: &str| {
        let answer = tower.ask("GET", path, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.head.contains("text/html") && answer.head.contains("content-security-policy"),
            "{}",
            answer.head
        );
        for link in ["/webapp/", "/webapp/metrics", "/webapp/model", "/webapp/collectors"] {
            assert!(answer.body.contains(&format!("href=\"{link}\"")), "{path} leads to {link}");
        }
        assert!(!answer.body.contains("<script") && !answer.body.contains("<img"), "{}", answer.body);
        answer.body
    };
    let rules = page("/webapp/");
    assert!(
        rules.contains("Average of CPU by VM, every 1 s over 1 s") && rules.contains("enabled"),
        "{rules}"
    );
    assert!(rules.contains("action=\"/webapp/rules/A/disable\""));
    assert_eq!(tower.ask("POST", "/webapp/rules/A/disable", "").status, 303);
    assert!(page("/webapp/").contains("action=\"/webapp/rules/A/enable\""));
    tower.expect(404, "POST", "/webapp/rules/A/explode", "");
    tower.expect(404, "POST", "/webapp/rules/B/enable", "");
    tower.expect(303, "POST", "/webapp/rules/A/enable", "");

    assert!(page("/webapp/metrics").contains("AverageCPU"));
    let observers = "/webapp/metrics/AverageCPU/observers";
    tower.expect(303, "POST", observers, "format=TOWER%2FJSON&url=http%3A%2F%2F127.0.0.1%3A1%2Fsink");
    tower.expect(303, "POST", observers, "format=GRAPHITE&url=udp%3A%2F%2F127.0.0.1%3A2003");
    tower.expect(400, "POST", observers, "format=GRAPHITE&url=nonsense");
    let metrics = page("/webapp/metrics");
    assert!(
        metrics.contains("http://127.0.0.1:1/sink") && metrics.contains("udp://127.0.0.1:2003"),
        "{metrics}"
    );
    let remove = metrics
        .split("action=\"")
        .find(|rest| rest.contains("/remove\""))
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    tower.expect(303, "POST", remove, "");
    assert_eq!(tower.get("/v1/metrics/AverageCPU/observers").as_array().unwrap().len(), 1);

    assert!(page("/webapp/model").contains("&lt;img src=x&gt;"));
    assert!(page("/webapp/model?q=nothing").contains("There is none."));
    assert!(page("/webapp/collectors").contains(&id));
    assert_eq!(tower.ask("GET", "/", "").status, 303);
}
