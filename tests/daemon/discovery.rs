//! Services enter themselves in the registry, are found there, bound and called (publish, discover, bind, invoke).

use serde_json::json;

use super::support::{Daemon, Fake, policy, request, wait_for};

/// Requirement: R3-18
#[test]
fn a_service_registers_itself_is_discovered_bound_and_called() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let dir = policy(&format!(
        "service: shop\nreferences: {{ payment: {{ capability: pay, listen: \"{port}\" }} }}\nmonitor: {{ metrics: {{ cost: payment.cost }} }}\nexecute: {{}}\n"
    ));
    let daemon = Daemon::start(dir.path(), &[]);
    assert_eq!(daemon.expect(1, &["discover", "--capability", "pay"]).trim(), "nobody provides pay");
    let (status, reason) = request(port, "GET", "/cost", "").expect("an answer");
    assert_eq!(status, 503, "{reason}");

    let (gold, basic) = (Fake::start("gold", &["cost=25"]), Fake::start("basic", &["cost=10"]));
    for (name, fake) in [("gold", &gold), ("basic", &basic)] {
        let document = json!({
            "provides": ["pay"],
            "endpoint": fake.address.to_string(),
            "monitor": { "sensors": { "cost": { "http": { "url": format!("http://{}/cost", fake.address), "every": "100ms" } } } },
        });
        let (status, answer) = daemon.call("PUT", &format!("/v1/services/{name}"), Some(&document));
        assert_eq!(status, 200, "{answer}");
    }
    let found = daemon.expect(0, &["discover", "--capability", "pay"]);
    let lines: Vec<Vec<&str>> = found.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines,
        [["basic", &format!("http://{}", basic.address)], ["gold", &format!("http://{}", gold.address)]]
    );
    let shop = daemon.get("/v1/services/shop");
    assert_eq!(shop["references"]["payment"]["candidates"], json!(["basic", "gold"]));

    for (name, cost) in [("gold", 25.0), ("basic", 10.0)] {
        daemon
            .expect(0, &["send", "shop", &json!({"bind": {"reference": "payment", "to": name}}).to_string()]);
        let (status, answer) = request(port, "GET", "/cost", "").expect("an answer");
        assert_eq!((status, answer.trim().parse().ok()), (200, Some(cost)));
        daemon.wait_value("shop", "cost", cost);
    }
    let refused = json!({"bind": {"reference": "payment", "to": "shop"}}).to_string();
    daemon.expect(1, &["send", "shop", &refused]);

    // It leaves as it came; whoever was bound to it is told so.
    let (status, _) = daemon.call("DELETE", "/v1/services/gold", None);
    assert_eq!(status, 200);
    wait_for("gold to be no candidate", || {
        let shop = daemon.get("/v1/services/shop");
        let payment = &shop["references"]["payment"];
        (payment["bound"] == "basic" && payment["candidates"] == json!(["basic"])).then_some(())
    });
    let (status, _) = request(port, "GET", "/cost", "").expect("an answer");
    assert_eq!(status, 200);
    let (status, answer) = daemon.call("GET", "/v1/services?capacity=pay", None);
    assert_eq!(status, 400, "{answer}");
    daemon.stop();
}
