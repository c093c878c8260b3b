//! The list of modules of a micro-container, as `run --modules` reads it.

use std::path::Path;

use serde::Deserialize;

use super::{Exit, Failure};
use crate::model::module::{Module, Modules};

/// What of a manifest matters here.
#[derive(Deserialize)]
struct Manifest {
    modules: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: Module,
}

/// Lets this process have only the modules of a manifest; all, when there is none. Answers which there are.
///
/// # Errors
/// When the file cannot be read, or names a module that there is not.
pub(super) fn only(manifest: Option<&Path>) -> Result<Modules, Failure> {
    let Some(path) = manifest else { return Ok(Modules::default()) };
    let wrong = |why: String| Failure::new(Exit::Usage, format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let modules: Modules = manifest.modules.into_iter().map(|m| m.name).collect();
    crate::membrane::only(modules.clone());
    Ok(modules)
}
