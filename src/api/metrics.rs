//! The port `Metrics`: getMetricList, getMetric, insertMetric, removeMetric (R3-30, R3-31, R3-34, R3-35). Subscriptions are in `events`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::body::{Query, json};
use super::{App, Problem};
use crate::model::ports::MetricInfo;
use crate::model::{HumanDuration, Reading};

/// getMetricList
///
/// The metrics of the service, sorted by name, each with its reading now.
#[utoipa::path(get, path = "/v1/services/{service}/metrics", tag = "metrics",
    params(("service" = String, Path, description = "The service.")),
    responses((status = 200, body = Vec<MetricInfo>)))]
pub(super) async fn list_metrics(
    State(app): App,
    Path(service): Path<String>,
) -> Result<Json<Vec<MetricInfo>>, Box<Problem>> {
    Ok(Json(app.control.ports(&service)?.metric_list().await?))
}

/// How old a value may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MaxAge {
    max_age: Option<HumanDuration>,
}

/// getMetric
///
/// The value held, while it is younger than `max_age`; otherwise upstream is asked. A value that is missing is an answer (200) that
/// says why; a metric that does not exist is an error (404).
#[utoipa::path(get, path = "/v1/services/{service}/metrics/{metric}", tag = "metrics",
    params(("service" = String, Path, description = "The service."),
           ("metric" = String, Path, description = "The metric."),
           ("max_age" = Option<String>, Query, description = "The greatest age that will do, such as `5s`; any, when absent.")),
    responses((status = 200, body = Reading)))]
pub(super) async fn get_metric(
    State(app): App,
    Path((service, metric)): Path<(String, String)>,
    Query(query): Query<MaxAge>,
) -> Result<Json<Reading>, Box<Problem>> {
    Ok(Json(app.control.ports(&service)?.get_metric(&metric, query.max_age).await?))
}

/// insertMetric
///
/// The body is a metric as a policy would write it, as JSON: an expression (`"own_cost + payment.cost"`), a number, an object with `of`
/// and `aggregate`, or a sensor (`"push"`, `{"http": {…}}`).
#[utoipa::path(put, path = "/v1/services/{service}/metrics/{metric}", tag = "metrics",
    params(("service" = String, Path, description = "The service."),
           ("metric" = String, Path, description = "The metric.")),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses((status = 204, description = "Inserted.")))]
pub(super) async fn insert_metric(
    State(app): App,
    Path((service, metric)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Box<Problem>> {
    let definition = json(&headers, body, app.limits.body, app.limits.read).await?;
    app.control.ports(&service)?.insert_metric(&metric, definition).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// removeMetric
#[utoipa::path(delete, path = "/v1/services/{service}/metrics/{metric}", tag = "metrics",
    params(("service" = String, Path, description = "The service."),
           ("metric" = String, Path, description = "The metric.")),
    responses((status = 204, description = "Removed.")))]
pub(super) async fn remove_metric(
    State(app): App,
    Path((service, metric)): Path<(String, String)>,
) -> Result<StatusCode, Box<Problem>> {
    app.control.ports(&service)?.remove_metric(&metric).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Past readings
///
/// Oldest first; an error (`invalid`) when the service keeps no history (R3-37).
#[utoipa::path(get, path = "/v1/services/{service}/metrics/{metric}/history", tag = "metrics",
    params(("service" = String, Path, description = "The service."),
           ("metric" = String, Path, description = "The metric.")),
    responses((status = 200, body = Vec<Reading>)))]
pub(super) async fn history(
    State(app): App,
    Path((service, metric)): Path<(String, String)>,
) -> Result<Json<Vec<Reading>>, Box<Problem>> {
    Ok(Json(app.control.history(&service, &metric).await?))
}
