//! The sensors of the generic proxy: what policies call `property`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::Manager;
use crate::model::Measurement;
use crate::model::connector::{ConnectorError, Sensor};

/// Where what is offered of the service at present is found.
type Find = dyn Fn() -> Option<Arc<Manager>> + Send + Sync;

/// Reads one property as a number.
pub(in crate::membrane) struct PropertyReader {
    name: String,
    manager: Box<Find>,
}

impl PropertyReader {
    pub(in crate::membrane) fn new(
        name: &str,
        manager: impl Fn() -> Option<Arc<Manager>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), manager: Box::new(manager) }
    }
}

#[async_trait]
impl Sensor for PropertyReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let manager = (self.manager)();
        let manager =
            manager.ok_or_else(|| ConnectorError::Unreachable("the service is not managed here".into()))?;
        let property = manager.property(&self.name).map_err(|e| ConnectorError::Config(e.to_string()))?;
        let value = property.read().await.map_err(|e| ConnectorError::Unreachable(e.to_string()))?;
        match number(&value) {
            Some(number) => Ok(vec![Measurement::value(number)]),
            None => Err(ConnectorError::Answer(format!("`{}` is {value}, which is no number", self.name))),
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        other => other.as_f64(),
    }
}
