//! Bad input, slow clients, strange pages: a clear error, and nobody else is disturbed.

use std::time::Duration;

use serde_json::json;

use super::*;

#[test]
fn bad_input_is_refused_and_everything_goes_on() {
    let tower = Tower::start();
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let objects = "{\"a\":".repeat(200_000);
    let long = format!(r#"[{{"clazz":"VM","id":"{}"}}]"#, "x".repeat(1_000_000));
    let huge = format!(r#"{{"resources":{long},"keepAlive":1e400}}"#);
    for path in [
        "/v1/resources",
        "/v1/data-collectors",
        "/v1/monitoring-rules",
        "/v1/metrics/AverageCPU/observers",
        &stream("CPU"),
    ] {
        for body in [
            "{]",
            "\"text\"",
            "12",
            "nul",
            "[[[[]]]]",
            "{\"resources\":7}",
            &deep,
            &objects,
            "\u{feff}[",
            &huge,
            "\0\0\0",
        ] {
            let answer = tower.ask("POST", path, body);
            let shown: String = body.chars().take(20).collect();
            assert_eq!(answer.status, 400, "{path} {shown}: {answer:?}");
            assert!(answer.body.len() < 2_000, "{path} {shown}");
        }
    }
    tower.expect(400, "POST", "/v1/resources", &long);
    let id = "x".repeat(5_000);
    tower.expect(400, "PUT", &format!("/v1/data-collectors/{id}"), "{}");
    for path in [
        "/v1/resources/%00",
        "/v1/data-collectors/%ff",
        &format!("/v1/resources/{id}"),
        "/v1/nothing",
        "/nothing",
    ] {
        let answer = tower.ask("GET", path, "");
        assert!((400..500).contains(&answer.status) && answer.body.len() < 500, "{path}: {answer:?}");
    }
    tower.expect(405, "PUT", "/v1/monitoring-rules", "");
    assert_eq!(tower.get("/v1/metrics"), json!(["AverageCPU"]));
}

#[test]
fn a_body_that_is_too_long_or_too_slow_is_refused() {
    let settings = Settings { read: Duration::from_millis(300), ..Settings::default() };
    let tower = Tower::start_with("", None, settings);
    let announced = format!(
        "POST /v1/resources HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n[",
        tower.address
    );
    assert_eq!(raw(tower.address, announced.as_bytes()).status, 413);
    let mut chunked = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        "/v1/resources", tower.address
    );
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    chunked.push_str(&chunk.repeat(17));
    chunked.push_str("0\r\n\r\n");
    assert_eq!(raw(tower.address, chunked.as_bytes()).status, 413);
    let slow = format!(
        "POST /v1/resources HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 10\r\n\r\n[",
        tower.address
    );
    assert_eq!(raw(tower.address, slow.as_bytes()).status, 408);
    tower.expect(204, "POST", "/v1/resources", "[]");
}

#[test]
fn strange_pages_change_nothing_through_the_browser_of_somebody_here() {
    let tower = Tower::start();
    tower.install(&batch(&[average("A", "CPU", "AverageCPU")]));
    let host = tower.address.to_string();
    let switch = "/v1/monitoring-rules/A?enabled=false";
    for headers in [
        &[("Host", "evil.example:8170")][..],
        &[("Origin", "http://evil.example")],
        &[("Referer", "http://evil.example/")],
        &[("User-Agent", "Mozilla/5.0"), ("Sec-Fetch-Site", "cross-site")],
    ] {
        assert_eq!(tower.ask_with("GET", switch, headers, "").status, 403, "{headers:?}");
        assert_eq!(
            tower.ask_with("DELETE", "/v1/monitoring-rules/A", headers, "").status,
            403,
            "{headers:?}"
        );
    }
    assert_eq!(tower.get("/v1/required-metrics"), json!(["CPU"]));
    let origin = format!("http://{host}");
    let own = [("Origin", origin.as_str()), ("User-Agent", "Mozilla/5.0")];
    assert_eq!(tower.ask_with("POST", "/webapp/rules/A/disable", &own, "").status, 303);
}
