//! The published JSON Schemas (draft 2020-12) of policy documents, of their tests and of actions, generated from the types that serde reads.
//!
//! Loading does not validate against them: serde reads every document once, with better messages and with positions, and knows
//! everything that the schema knows. The schemas are for editors and other programs; tests hold both to the same documents.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::document::{ResourceDocument, ServiceDocument};
use super::trial::TrialDocument;
use crate::model::Action;

/// A policy document: a managed service or a resource.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum PolicyDocument {
    Service(Box<ServiceDocument>),
    Resource(ResourceDocument),
}

/// The schema of one document of a policy file.
pub fn policy_schema() -> Value {
    schema_of::<PolicyDocument>(
        "homeostat policy",
        "One document of a policy file: a managed service (`service:`) or a resource (`resource:`).",
    )
}

/// The schema of one action; a plan's list of actions is an array of these (R3-55).
pub fn action_schema() -> Value {
    schema_of::<Action>("homeostat action", "One action of a plan, externally tagged by its name.")
}

/// The schema of one document of a test file (`*.test.yaml`).
pub fn trial_schema() -> Value {
    schema_of::<TrialDocument>(
        "homeostat policy test",
        "One document of a test file: what comes in, step by step, and what must come of it.",
    )
}

fn schema_of<T: JsonSchema>(title: &str, description: &str) -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    schema.insert("description".into(), description.into());
    schema.into()
}
