//! Policies as a whole: what runs, what waits for a correction, replace, reload, go back.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::body::{Query, json};
use super::{App, Problem};
use crate::service::control::{Applied, Plugin, PolicyStatus};

/// A bundle of policy files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Relative path → text, of YAML and rhai files.
    pub files: BTreeMap<String, String>,
}

/// Whether to try only.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Try {
    #[serde(default)]
    dry_run: bool,
}

/// What runs and what waits
#[utoipa::path(get, path = "/v1/policy", tag = "policy", responses((status = 200, body = PolicyStatus)))]
pub(super) async fn policy_status(State(app): App) -> Json<PolicyStatus> {
    Json(app.control.policy_status())
}

/// Replace the policies
///
/// By this bundle of files. Refused (422) with every error, and then what runs keeps running.
#[utoipa::path(put, path = "/v1/policy", tag = "policy",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change.")),
    request_body = Bundle, responses((status = 200, body = Applied)))]
pub(super) async fn apply(
    State(app): App,
    Query(how): Query<Try>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Box<Problem>> {
    let bundle: Bundle = json(&headers, body, app.limits.bundle, app.limits.read).await?;
    if let Some(path) = bundle.files.keys().find(|path| !is_relative(path)) {
        return Err(Problem::invalid(format!(
            "`{path}` is no path inside a bundle; expected a relative path such as shop/A.yaml"
        )));
    }
    Ok(Json(if how.dry_run {
        app.control.preview(bundle.files).await?
    } else {
        app.control.apply(bundle.files).await?
    }))
}

fn is_relative(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Read the policy directories again
#[utoipa::path(post, path = "/v1/policy/reload", tag = "policy", responses((status = 200, body = Applied)))]
pub(super) async fn reload(State(app): App) -> Result<Json<Applied>, Box<Problem>> {
    Ok(Json(app.control.reload().await?))
}

/// Go back
///
/// To the policies before the last change.
#[utoipa::path(post, path = "/v1/policy/rollback", tag = "policy", responses((status = 200, body = Applied)))]
pub(super) async fn rollback(State(app): App) -> Result<Json<Applied>, Box<Problem>> {
    Ok(Json(app.control.rollback().await?))
}

#[cfg(test)]
mod tests {
    use super::is_relative;

    #[test]
    fn paths_of_a_bundle_stay_inside_it() {
        assert!(is_relative("shop/A.yaml"));
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b"] {
            assert!(!is_relative(bad), "{bad}");
        }
    }
}

/// Plug-ins
///
/// What the running services use that is no part of homeostat: programs that measure and act, scripts, connectors of the embedding program.
#[utoipa::path(get, path = "/v1/plugins", tag = "policy", responses((status = 200, body = Vec<Plugin>)))]
pub(super) async fn plugins(State(app): App) -> Result<Json<Vec<Plugin>>, Box<Problem>> {
    Ok(Json(app.control.plugins().await?))
}
