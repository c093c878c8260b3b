//! What is told over notification links, and that a sensor has ended.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::support::wait_for;
use super::{COMPUTE, Occi, PATIENCE, of};

/// A receiver of notifications, which takes them with these statuses in turn, and the last one from then on.
fn inbox(statuses: &'static [u16]) -> (SocketAddr, mpsc::Receiver<Value>) {
    receiver(statuses, |_, body| body)
}

/// As [`inbox`], with what is to be known of each from its head and its body.
fn receiver<T: Send + 'static>(
    statuses: &'static [u16],
    known: fn(&str, Value) -> T,
) -> (SocketAddr, mpsc::Receiver<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for (n, socket) in listener.incoming().enumerate() {
            let mut socket = socket.unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            let heard = loop {
                let length = socket.read(&mut buffer).unwrap_or(0);
                text.extend_from_slice(&buffer[..length]);
                let said = String::from_utf8_lossy(&text).into_owned();
                if let Some((head, body)) = said.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str::<Value>(body)
                {
                    break known(head, body);
                }
                if length == 0 {
                    return;
                }
            };
            let status = statuses.get(n).or(statuses.last()).unwrap();
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            socket.write_all(answer.as_bytes()).unwrap();
            if sender.send(heard).is_err() {
                return;
            }
        }
    });
    (at, receiver)
}

const NOTIFIER: &str = "http://schemas.ogf.org/occi/notification#notifier";
const NOTIFICATION: &str = "http://schemas.ogf.org/occi/notification#notification";

fn link(from: &str, to: SocketAddr) -> Value {
    json!({ "kind": NOTIFICATION, "source": { "location": from }, "target": { "location": format!("http://{to}/inbox") } })
}

#[test]
fn who_is_told_of_a_resource_hears_of_its_changes_in_order_and_of_its_end() {
    let occi = Occi::start();
    let (at, told) = inbox(&[503, 200]);
    let next = || told.recv_timeout(PATIENCE).unwrap();
    let compute =
        occi.expect(201, "POST", "/compute/", json!({ "kind": COMPUTE, "mixins": [NOTIFIER] })).place();
    occi.expect(201, "POST", "/notification/", link(&compute, at));
    occi.expect(200, "POST", &compute, json!({ "title": "one" }));
    // What changes nothing is no news.
    occi.expect(200, "POST", &compute, json!({ "title": "one" }));
    occi.expect(200, "POST", &format!("{compute}?action=start"), Value::Null);
    occi.expect(200, "DELETE", &compute, Value::Null);
    let first = next();
    assert_eq!((&first["event"], &first["entity"]["title"]), (&json!("changed"), &json!("one")), "{first}");
    assert_eq!(next(), first, "it was not taken, and comes again");
    let second = next();
    assert_eq!(second["entity"]["attributes"]["occi.compute.state"], "active", "{second}");
    let last = next();
    assert_eq!(last, json!({ "event": "removed", "id": first["id"], "location": compute }));
    assert!(told.try_recv().is_err());
}

#[test]
fn what_a_sensor_does_is_told_and_measurements_are_not() {
    let occi = Occi::start();
    let (at, told) = inbox(&[200]);
    let sensor = occi.sensor(0.1);
    occi.expect(200, "POST", &sensor, json!({ "mixins": [NOTIFIER] }));
    occi.expect(201, "POST", "/notification/", link(&sensor, at));
    occi.associate(&sensor, "#Log", json!({ of("Log", "in_msg"): "a" }));
    let state =
        |told: &Value| told["entity"]["attributes"][of("Status", "state")].as_str().unwrap().to_string();
    let next = || told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(state(&next()), "incomplete");
    occi.collector(&sensor, 0.1, "MemoryUsed", json!({ of("MemoryUsed", "out"): "a" }));
    assert_eq!(state(&next()), "active");
    let values = occi.listen(&sensor, "a");
    next();
    for _ in 0..5 {
        super::datum(&values);
    }
    assert!(told.try_recv().is_err(), "values are no news");
}

/// Requirement: R1-07
#[test]
fn a_sensor_whose_stop_has_passed_has_ended() {
    let occi = Occi::start();
    let body = json!({ "kind": super::SENSOR, "attributes": { "occi.sensor.period": 0.1, "occi.sensor.timestop": 1 } });
    let sensor = occi.expect(201, "POST", "/sensor/", body).place();
    occi.collector(&sensor, 0.1, "MemoryUsed", json!({ of("MemoryUsed", "out"): "a" }));
    occi.associate(&sensor, "#Log", json!({ of("Log", "in_msg"): "a" }));
    wait_for("its end", || (occi.state(&sensor) == "ended").then_some(()));
    occi.expect(200, "POST", &sensor, json!({ "attributes": { "occi.sensor.timestop": 3600 } }));
    assert_eq!(occi.state(&sensor), "active");
}

/// A webhook that is overloaded or fails gets a value again, with the same key, and nothing is held up for ever by one that it refuses.
/// Requirement: R1-47
#[test]
fn a_webhook_that_fails_gets_a_value_again_and_one_that_refuses_does_not() {
    let occi = Occi::start();
    let (at, got) = receiver(&[500, 503, 429, 400, 200], |head, body| {
        let key = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("idempotency-key:").map(str::to_string));
        (key.expect("a key").trim().to_string(), body)
    });
    let sensor = occi.sensor(0.1);
    occi.collector(&sensor, 0.1, "MemoryUsed", json!({ of("MemoryUsed", "out"): "a" }));
    let hook = json!({ of("Webhook", "input"): "a", of("Webhook", "url"): format!("http://{at}/hook") });
    occi.associate(&sensor, "#Webhook", hook);
    let next = || got.recv_timeout(PATIENCE).unwrap();
    let first = next();
    for _ in 0..3 {
        assert_eq!(next(), first, "it comes again");
    }
    let second = next();
    assert!(second.0 != first.0 && second.1["time"] != first.1["time"], "refused, it does not: {second:?}");
    // The time of the value is in the key: counting begins anew with every start, and it is no other value's then either.
    let time = |key: &str| key.split('/').nth(2).unwrap().parse::<i64>().unwrap();
    assert!(time(&second.0) > time(&first.0), "{first:?} {second:?}");
}
