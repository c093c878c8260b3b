//! What is measured of calls, and how sensors bring it to the loop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::membrane::Membrane;
use homeostat::model::Measurement;
use homeostat::model::connector::{BuiltSensor, ConnectorError, SensorSpec, Sink};

use super::support::*;

#[derive(Default)]
struct Heard(Mutex<Vec<f64>>, Mutex<Vec<String>>);

impl Sink for Heard {
    fn deliver(&self, measurements: Vec<Measurement>) {
        self.0.lock().unwrap().extend(measurements.iter().map(|m| m.value));
    }
    fn fail(&self, error: ConnectorError) {
        self.1.lock().unwrap().push(error.to_string());
    }
}

fn spec(text: &str) -> SensorSpec {
    serde_json::from_str(text).unwrap()
}

async fn read(connectors: &Connectors, text: &str) -> Result<f64, ConnectorError> {
    match connectors.sensor("it", "m", &spec(text)).unwrap() {
        BuiltSensor::Polled(mut sensor) => Ok(sensor.read().await?[0].value),
        _ => panic!("polled"),
    }
}

/// Requirement: R4-17
#[tokio::test]
async fn sensors_bring_counts_bytes_and_the_time_of_each_call() {
    let (service, address) = Service::start("s").await;
    let connectors = Connectors::new();
    let membrane = Membrane::new(&connectors, limits());
    membrane.set_services([served("it", any(), &address.to_string())]);
    let front = membrane.address("it").unwrap();
    let route = r#"{"proxy": {"what": "requests", "route": "GET /items/{id}"}}"#;
    let other = r#"{"proxy": {"what": "errors", "route": "other"}}"#;
    assert_eq!(read(&connectors, route).await, Ok(0.0));

    let heard = Arc::new(Heard::default());
    let BuiltSensor::Listening(mut times) =
        connectors.sensor("it", "t", &spec(r#"{"proxy": "response_time"}"#)).unwrap()
    else {
        panic!("listening")
    };
    let sink = heard.clone();
    let listening = tokio::spawn(async move { times.listen(sink).await });
    // It listens once it has been polled.
    tokio::time::sleep(Duration::from_millis(20)).await;

    for path in ["/items/1", "/items/2", "/error"] {
        get(front, path).await;
    }
    let slow = tokio::spawn(get(front, "/slow"));
    until("the slow call", || membrane.meter("it").whole().in_flight() == 1).await;
    assert_eq!(read(&connectors, r#"{"proxy": "in_flight"}"#).await, Ok(1.0));
    tokio::time::sleep(Duration::from_millis(60)).await;
    service.release.notify_waiters();
    slow.await.unwrap();
    until("four times", || heard.0.lock().unwrap().len() == 4).await;
    let longest = heard.0.lock().unwrap().iter().copied().fold(0.0, f64::max);
    assert!((0.06..5.0).contains(&longest), "{longest}");
    assert_eq!(read(&connectors, r#"{"proxy": "requests"}"#).await, Ok(4.0));
    assert_eq!(read(&connectors, r#"{"proxy": "errors"}"#).await, Ok(1.0));
    assert_eq!(read(&connectors, route).await, Ok(2.0));
    assert_eq!(read(&connectors, other).await, Ok(1.0));
    assert!(read(&connectors, r#"{"proxy": "bytes_in"}"#).await.unwrap() > 100.0);
    assert!(read(&connectors, r#"{"proxy": "bytes_out"}"#).await.unwrap() > 100.0);
    listening.abort();
}

#[tokio::test]
async fn failures_are_a_family_by_kind() {
    let connectors = Connectors::new();
    let membrane = Membrane::new(&connectors, limits());
    membrane.set_services([served("it", any(), "127.0.0.1:1")]);
    let front = membrane.address("it").unwrap();
    get(front, "/").await;
    talk(front, &[Step::Send(b"nonsense\r\n\r\n"), Step::End]).await;
    let BuiltSensor::Polled(mut sensor) =
        connectors.sensor("it", "m", &spec(r#"{"proxy": "failures"}"#)).unwrap()
    else {
        panic!("polled")
    };
    let read = sensor.read().await.unwrap();
    let read: Vec<_> = read.iter().map(|m| (m.label.as_deref(), m.value)).collect();
    assert_eq!(read, [(None, 2.0), (Some("malformed"), 1.0), (Some("unreachable"), 1.0)]);
}

#[tokio::test]
async fn a_rate_is_that_since_the_last_look() {
    let (_service, address) = Service::start("s").await;
    let connectors = Connectors::new();
    let membrane = Membrane::new(&connectors, limits());
    membrane.set_services([served("it", any(), &address.to_string())]);
    let BuiltSensor::Polled(mut rate) =
        connectors.sensor("it", "r", &spec(r#"{"proxy": {"what": "rate", "every": "1s"}}"#)).unwrap()
    else {
        panic!("polled")
    };
    for _ in 0..5 {
        get(membrane.address("it").unwrap(), "/").await;
    }
    until("the calls", || membrane.meter("it").whole().requests() == 5).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(rate.read().await.unwrap()[0].value > 0.0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(rate.read().await.unwrap()[0].value, 0.0);
}

#[tokio::test]
async fn the_sensors_of_a_port_that_is_taken_say_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connectors = Connectors::new();
    let membrane = Membrane::new(&connectors, limits());
    membrane.set_services([served("it", Some(taken.local_addr().unwrap()), "127.0.0.1:1")]);
    let error = read(&connectors, r#"{"proxy": "requests"}"#).await.unwrap_err().to_string();
    assert!(error.contains("cannot listen on"), "{error}");
}
