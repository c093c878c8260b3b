//! Units as processes of one machine: each a managed service whose program homeostat starts, watches and starts again.

use serde_json::{Value as Json, json};

use super::Unit;

/// The annotation that says what a unit is there for.
pub const ENTITY: &str = "occi.entity";

/// The policy of a unit. `program`: what `homeostat` is called.
pub fn policy(unit: &Unit, program: &str) -> Json {
    let command: Vec<&str> =
        std::iter::once(program).chain(unit.command.iter().map(String::as_str)).collect();
    // What only receives datagrams accepts no connection.
    let ready = match unit.role.takes_datagrams() {
        true => json!({ "output": "listens on" }),
        false => json!({ "port": unit.address }),
    };
    let mut annotations = serde_json::Map::new();
    if let Some(entity) = &unit.entity {
        annotations.insert(ENTITY.into(), entity.as_str().into());
    }
    json!({
        "service": unit.name,
        "class": unit.role.name(),
        "annotations": annotations,
        "process": { "command": command, "ready": ready },
        "monitor": {
            "sensors": {
                "cpu": { "process": { "what": "cpu", "own": true, "every": "5s" } },
                "memory": { "process": { "what": "rss", "own": true, "every": "5s" } },
            },
        },
        "execute": {},
    })
}
