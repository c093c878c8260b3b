//! The resource model: anything with a class, a type, an id and relations. A managed service is a resource.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something in the model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Its name.
    pub id: String,
    /// What kind of thing it is (`VM`, `InternalComponent`, `CloudProvider`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Which role it plays (`Frontend`, …).
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Relations to other resources, by name: `cloudProvider: amazon`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relations: BTreeMap<String, Vec<String>>,
    /// What it offers to others, by names that they agree on: `pay` (R3-18).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
}

/// Which resources: all that match every field given.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema, utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Only this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Only this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only this id; a `*` stands for any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only those with this relation to this resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relations: BTreeMap<String, String>,
}

impl Selector {
    /// Whether `resource` is among the selected.
    pub fn matches(&self, resource: &Resource) -> bool {
        let same = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
        same(&self.class, &resource.class)
            && same(&self.kind, &resource.kind)
            && self.id.as_deref().is_none_or(|pattern| glob(pattern, &resource.id))
            && self.relations.iter().all(|(name, target)| {
                resource.relations.get(name).is_some_and(|targets| targets.contains(target))
            })
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
pub fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            let Some(rest) = text.strip_prefix(head) else { return false };
            tail.is_empty()
                || rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| glob(tail, &rest[i..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_takes_what_matches_every_field() {
        let vm = Resource {
            id: "frontend-1".into(),
            class: Some("VM".into()),
            kind: Some("Frontend".into()),
            relations: BTreeMap::from([("cloudProvider".into(), vec!["amazon".into()])]),
            provides: Vec::new(),
        };
        let pick = |json: serde_json::Value| {
            serde_json::from_value::<Selector>(json).expect("selector").matches(&vm)
        };
        assert!(pick(serde_json::json!({})));
        assert!(pick(
            serde_json::json!({"class": "VM", "id": "front*-1", "relations": {"cloudProvider": "amazon"}})
        ));
        assert!(!pick(serde_json::json!({"class": "VM", "type": "Backend"})));
        assert!(!pick(serde_json::json!({"relations": {"cloudProvider": "flexiant"}})));
        assert!(!pick(serde_json::json!({"id": "back*"})));
    }
}
