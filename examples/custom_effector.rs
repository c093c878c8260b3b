//! An effector of one's own: a valve in this process, that `set` opens and closes.
//!
//! A policy uses it as `set: { custom: { kind: valve, config: { limit: 100 } } }`. Run it with `cargo run --example custom_effector`.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use homeostat::connectors::Connectors;
use homeostat::model::Action;
use homeostat::model::connector::{
    Command, ConnectorError, CustomConnector, Effector, EffectorSpec, TookPlace,
};

/// How far a valve is open, percent; shared by everybody who turns it.
type Position = Arc<Mutex<f64>>;

struct Valve {
    position: Position,
    limit: f64,
}

impl Valve {
    /// The position that an action asks for.
    fn wanted(&self, action: &Action) -> Result<f64, ConnectorError> {
        let Action::Set { property, value, .. } = action else {
            return Err(ConnectorError::Config(format!("a valve can be set, not `{}`", action.name())));
        };
        match value.as_f64() {
            Some(wanted) if (0.0..=self.limit).contains(&wanted) => Ok(wanted),
            _ => Err(ConnectorError::Answer(format!(
                "{property} cannot be {value}; expected 0 to {}",
                self.limit
            ))),
        }
    }
}

#[async_trait]
impl Effector for Valve {
    /// Setting a position twice is as good as once, so `command.key` (the same at every attempt of one step) is not needed here.
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let wanted = self.wanted(&command.action)?;
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
        Ok(format!("the valve is {wanted} % open"))
    }

    /// Asked after a crash between the start of an action and its outcome.
    async fn took_place(&self, command: &Command) -> Result<TookPlace, ConnectorError> {
        let there = *self.position.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if self.wanted(&command.action)? == there { TookPlace::Yes } else { TookPlace::No })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ConnectorError> {
    let position = Position::default();
    let connectors = Connectors::new();
    let shared = position.clone();
    connectors.register_effector("valve", move |config| {
        let limit = config.get("limit").and_then(serde_json::Value::as_f64).unwrap_or(100.0);
        Ok(Arc::new(Valve { position: shared.clone(), limit }))
    });

    // What a policy would say, and what an executor would send.
    let spec = EffectorSpec::Custom(CustomConnector {
        kind: "valve".into(),
        config: serde_json::json!({ "limit": 80 }),
        every: None,
        stale_after: None,
    });
    let valve = connectors.effector("boiler", &spec)?;
    for wanted in [40, 90] {
        let action = Action::Set { service: None, property: "inlet".into(), value: wanted.into() };
        let command = Command { service: "boiler".into(), action, key: "boiler/1/0".into() };
        match valve.perform(&command).await {
            Ok(said) => println!("{}: {said}", command.action),
            Err(why) => println!("{}: refused, {why}", command.action),
        }
    }
    println!("at the end it is {} % open", position.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}
