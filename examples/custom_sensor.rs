//! A sensor of one's own: how many files wait in a spool directory.
//!
//! A policy uses it as `custom: { kind: spool, config: { directory: /var/spool/orders }, every: 10s }`.
//! Run it with `cargo run --example custom_sensor [DIRECTORY]`.

use std::path::PathBuf;

use async_trait::async_trait;
use homeostat::connectors::Connectors;
use homeostat::model::Measurement;
use homeostat::model::connector::{BuiltSensor, ConnectorError, CustomConnector, Sensor, SensorSpec};

/// Counts the files of a directory.
struct Spool {
    directory: PathBuf,
}

#[async_trait]
impl Sensor for Spool {
    /// One call is one read. Whoever drops the future abandons the read; nothing is left behind.
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let unreadable =
            |e| ConnectorError::Unreachable(format!("{} cannot be read: {e}", self.directory.display()));
        let mut entries = tokio::fs::read_dir(&self.directory).await.map_err(unreadable)?;
        let mut waiting = 0.0;
        while entries.next_entry().await.map_err(unreadable)?.is_some() {
            waiting += 1.0;
        }
        Ok(vec![Measurement::value(waiting)])
    }
}

/// Checks what the policy says, and touches nothing yet.
fn build(config: &serde_json::Value) -> Result<BuiltSensor, ConnectorError> {
    match config.get("directory").and_then(serde_json::Value::as_str) {
        Some(directory) => Ok(BuiltSensor::Polled(Box::new(Spool { directory: directory.into() }))),
        None => {
            Err(ConnectorError::Config("`directory` is missing; expected a path such as /var/spool".into()))
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ConnectorError> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let connectors = Connectors::new();
    connectors.register_sensor("spool", build);

    // What a policy would say.
    let spec = SensorSpec::Custom(CustomConnector {
        kind: "spool".into(),
        config: serde_json::json!({ "directory": directory }),
        every: None,
        stale_after: None,
    });
    if let BuiltSensor::Polled(mut sensor) = connectors.sensor("shop", "waiting", &spec)? {
        for measurement in sensor.read().await? {
            println!("waiting = {}", measurement.value);
        }
    }
    Ok(())
}
