//! Units as a file of the Compose Specification: one container each, which find each other by name. Documents stand in the file as `configs`.

use serde_json::{Map, Value as Json, json};

use super::{Deployment, Role};

/// Where documents are in a container.
pub const LIBRARY: &str = "/documents";

/// The file, as a value. `image`: what the containers run; its entry point is `homeostat`.
pub fn file(deployment: &Deployment, image: &str) -> Json {
    let mut services = Map::new();
    let mut configs = Map::new();
    let mut mounts = Vec::new();
    for (i, (id, _)) in deployment.documents.iter().enumerate() {
        let name = format!("document-{}", i + 1);
        // `$` begins a variable in such a file.
        let content = plain(&deployment.documents.written(id).unwrap_or_default());
        configs.insert(name.clone(), json!({ "content": content }));
        mounts.push(json!({ "source": name, "target": format!("{LIBRARY}/{}.json", i + 1) }));
    }
    for unit in &deployment.units {
        let mut service = Map::new();
        service.insert("image".into(), image.into());
        // Nothing is a variable to the program, and `$` is none to compose.
        let command: Vec<Json> = unit.command.iter().map(|word| plain(word).into()).collect();
        service.insert("command".into(), command.into());
        service.insert("restart".into(), "unless-stopped".into());
        service.insert(
            "labels".into(),
            json!({ "occi.role": unit.role.name(), "occi.entity": unit.entity.as_deref().map(plain) }),
        );
        if unit.role == Role::Documents {
            service.insert("configs".into(), mounts.clone().into());
        }
        if unit.role == Role::Sensor {
            service.insert("depends_on".into(), json!(["documents"]));
        }
        services.insert(unit.name.clone(), service.into());
    }
    json!({ "name": "occimon", "services": services, "configs": configs })
}

/// Text in which nothing is a variable.
fn plain(text: &str) -> String {
    text.replace('$', "$$")
}
