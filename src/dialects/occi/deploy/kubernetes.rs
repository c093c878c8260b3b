//! Units as manifests of Kubernetes: a deployment of one pod and a service each, and the documents in config maps.

use serde_json::{Map, Value as Json, json};

use super::compose::LIBRARY;
use super::{Deployment, Role, Unit};

/// A config map holds a mebibyte; a document that is longer than this fits in none.
const LONGEST: usize = 900 << 10;
/// Where the next map begins: `kubectl apply` keeps a copy in an annotation, which holds a quarter of that.
const FULL: usize = 200 << 10;

/// The manifests, in order. `image`: what the containers run; its entry point is `homeostat`.
///
/// # Errors
/// A document that is too long for a config map.
pub fn manifests(deployment: &Deployment, image: &str) -> Result<Vec<Json>, String> {
    let mut maps: Vec<Map<String, Json>> = vec![Map::new()];
    let mut size = 0;
    for (i, (id, _)) in deployment.documents.iter().enumerate() {
        let text = deployment.documents.written(id).unwrap_or_default();
        if text.len() > LONGEST {
            return Err(format!(
                "the document `{id}` is {} bytes long; a config map holds {LONGEST}",
                text.len()
            ));
        }
        size += text.len();
        if size > FULL {
            maps.push(Map::new());
            size = text.len();
        }
        if let Some(map) = maps.last_mut() {
            map.insert(format!("{}.json", i + 1), text.into());
        }
    }
    let names: Vec<String> = (1..=maps.len()).map(|i| format!("documents-{i}")).collect();
    let mut all: Vec<Json> = names
        .iter()
        .zip(maps)
        .map(|(name, data)| {
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name, None), "data": data })
        })
        .collect();
    for unit in &deployment.units {
        all.push(workload(unit, image, &names));
        all.push(service(unit));
    }
    Ok(all)
}

fn metadata(name: &str, unit: Option<&Unit>) -> Json {
    let mut metadata = json!({ "name": name, "labels": { "app.kubernetes.io/part-of": "occimon", "app.kubernetes.io/name": name } });
    if let (Some(entity), Json::Object(fields)) =
        (unit.and_then(|unit| unit.entity.as_deref()), &mut metadata)
    {
        fields.insert("annotations".into(), json!({ "occi.entity": entity }));
    }
    metadata
}

fn port(unit: &Unit) -> u16 {
    unit.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default()
}

fn protocol(unit: &Unit) -> &'static str {
    if unit.role.takes_datagrams() { "UDP" } else { "TCP" }
}

fn workload(unit: &Unit, image: &str, maps: &[String]) -> Json {
    // Nothing in them is a variable.
    let words: Vec<String> = unit.command.iter().map(|word| word.replace('$', "$$")).collect();
    let mut container = json!({
        "name": unit.role.name(), "image": image, "args": words,
        "ports": [{ "containerPort": port(unit), "protocol": protocol(unit) }],
    });
    let mut pod = Map::new();
    if let Json::Object(container) = &mut container {
        if protocol(unit) == "TCP" {
            container.insert("readinessProbe".into(), json!({ "tcpSocket": { "port": port(unit) } }));
        }
        if unit.role == Role::Documents {
            container.insert(
                "volumeMounts".into(),
                json!([{ "name": "documents", "mountPath": LIBRARY, "readOnly": true }]),
            );
            let sources: Vec<Json> =
                maps.iter().map(|name| json!({ "configMap": { "name": name } })).collect();
            pod.insert(
                "volumes".into(),
                json!([{ "name": "documents", "projected": { "sources": sources } }]),
            );
        }
    }
    pod.insert("containers".into(), json!([container]));
    // Variables for each service of the namespace are of no use here.
    pod.insert("enableServiceLinks".into(), false.into());
    let labels = json!({ "app.kubernetes.io/part-of": "occimon", "app.kubernetes.io/name": unit.name });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(&unit.name, Some(unit)),
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app.kubernetes.io/name": unit.name } },
            "strategy": { "type": "Recreate" },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    })
}

fn service(unit: &Unit) -> Json {
    let port = port(unit);
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(&unit.name, Some(unit)),
        "spec": {
            "selector": { "app.kubernetes.io/name": unit.name },
            "ports": [{ "port": port, "targetPort": port, "protocol": protocol(unit) }],
        },
    })
}
