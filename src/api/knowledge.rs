//! The shared knowledge of a service (R3-14): small values under keys, for strategies and people.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::body::json;
use super::{App, Problem};

/// All knowledge of a service
#[utoipa::path(get, path = "/v1/services/{service}/knowledge", tag = "knowledge",
    params(("service" = String, Path, description = "The service.")),
    responses((status = 200, body = BTreeMap<String, Value>)))]
pub(super) async fn list_knowledge(
    State(app): App,
    Path(service): Path<String>,
) -> Result<Json<BTreeMap<String, Value>>, Box<Problem>> {
    Ok(Json(app.control.knowledge(&service).await?))
}

/// One entry
#[utoipa::path(get, path = "/v1/services/{service}/knowledge/{key}", tag = "knowledge",
    params(("service" = String, Path, description = "The service."), ("key" = String, Path, description = "The key.")),
    responses((status = 200, body = Value)))]
pub(super) async fn get_knowledge(
    State(app): App,
    Path((service, key)): Path<(String, String)>,
) -> Result<Json<Value>, Box<Problem>> {
    let mut all = app.control.knowledge(&service).await?;
    all.remove(&key).map(Json).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "no-such-key", format!("`{service}` knows nothing under `{key}`"))
    })
}

/// Write an entry
#[utoipa::path(put, path = "/v1/services/{service}/knowledge/{key}", tag = "knowledge",
    params(("service" = String, Path, description = "The service."), ("key" = String, Path, description = "The key.")),
    request_body(content = Value, content_type = "application/json"),
    responses((status = 204, description = "Written.")))]
pub(super) async fn put_knowledge(
    State(app): App,
    Path((service, key)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Box<Problem>> {
    let value = json(&headers, body, app.limits.body, app.limits.read).await?;
    app.control.remember(&service, &key, Some(value)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove an entry
///
/// Removing what is not there changes nothing.
#[utoipa::path(delete, path = "/v1/services/{service}/knowledge/{key}", tag = "knowledge",
    params(("service" = String, Path, description = "The service."), ("key" = String, Path, description = "The key.")),
    responses((status = 204, description = "Removed.")))]
pub(super) async fn delete_knowledge(
    State(app): App,
    Path((service, key)): Path<(String, String)>,
) -> Result<StatusCode, Box<Problem>> {
    app.control.remember(&service, &key, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
