//! The port `Slos`: the list, addSLO, removeSLO, enableSLO, disableSLO (R3-45 to R3-47).

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

use super::body::json;
use super::{App, Problem};
use crate::model::SloStatus;

/// The SLOs of a service
///
/// Sorted by name, with their states and the readings that decided them.
#[utoipa::path(get, path = "/v1/services/{service}/slos", tag = "slos",
    params(("service" = String, Path, description = "The service.")),
    responses((status = 200, body = Vec<SloStatus>)))]
pub(super) async fn list_slos(
    State(app): App,
    Path(service): Path<String>,
) -> Result<Json<Vec<SloStatus>>, Box<Problem>> {
    Ok(Json(app.control.ports(&service)?.slo_list().await?))
}

/// addSLO
///
/// The body is an SLO as a policy would write it, as JSON: `{"objective": "cost < 30", "severity": "major"}`.
#[utoipa::path(put, path = "/v1/services/{service}/slos/{slo}", tag = "slos",
    params(("service" = String, Path, description = "The service."), ("slo" = String, Path, description = "The SLO.")),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses((status = 204, description = "Added.")))]
pub(super) async fn add_slo(
    State(app): App,
    Path((service, slo)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Box<Problem>> {
    let definition = json(&headers, body, app.limits.body, app.limits.read).await?;
    app.control.ports(&service)?.add_slo(&slo, definition).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// removeSLO
#[utoipa::path(delete, path = "/v1/services/{service}/slos/{slo}", tag = "slos",
    params(("service" = String, Path, description = "The service."), ("slo" = String, Path, description = "The SLO.")),
    responses((status = 204, description = "Removed.")))]
pub(super) async fn remove_slo(
    State(app): App,
    Path((service, slo)): Path<(String, String)>,
) -> Result<StatusCode, Box<Problem>> {
    app.control.ports(&service)?.remove_slo(&slo).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// enableSLO
///
/// Remembered over a restart. Enabling what is enabled changes nothing.
#[utoipa::path(post, path = "/v1/services/{service}/slos/{slo}/enable", tag = "slos",
    params(("service" = String, Path, description = "The service."), ("slo" = String, Path, description = "The SLO.")),
    responses((status = 204, description = "Enabled.")))]
pub(super) async fn enable_slo(
    State(app): App,
    Path((service, slo)): Path<(String, String)>,
) -> Result<StatusCode, Box<Problem>> {
    app.control.ports(&service)?.enable_slo(&slo).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// disableSLO
///
/// Remembered over a restart. Disabling what is disabled changes nothing.
#[utoipa::path(post, path = "/v1/services/{service}/slos/{slo}/disable", tag = "slos",
    params(("service" = String, Path, description = "The service."), ("slo" = String, Path, description = "The SLO.")),
    responses((status = 204, description = "Disabled.")))]
pub(super) async fn disable_slo(
    State(app): App,
    Path((service, slo)): Path<(String, String)>,
) -> Result<StatusCode, Box<Problem>> {
    app.control.ports(&service)?.disable_slo(&slo).await?;
    Ok(StatusCode::NO_CONTENT)
}
