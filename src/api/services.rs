//! Managed services: attach and detach them, whole or one component at a time.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::body::{Query, json, same_name};
use super::{App, Problem};
use crate::service::control::{Applied, Component, ServiceStatus};

/// What is managed
///
/// The managed services, sorted by name, with the components that each has; with `capability` those that provide it.
#[utoipa::path(get, path = "/v1/services", tag = "services",
    params(("capability" = Option<String>, Query, description = "Only the services that provide this.")),
    responses((status = 200, body = Vec<ServiceStatus>)))]
pub(super) async fn list_services(
    State(app): App,
    Query(wanted): Query<Discovery>,
) -> Result<Json<Vec<ServiceStatus>>, Box<Problem>> {
    let mut services = app.control.services().await?;
    if let Some(capability) = wanted.capability {
        services.retain(|service| service.provides.contains(&capability));
    }
    Ok(Json(services))
}

/// Which services are looked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Discovery {
    capability: Option<String>,
}

/// One service
#[utoipa::path(get, path = "/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    responses((status = 200, body = ServiceStatus)))]
pub(super) async fn get_service(
    State(app): App,
    Path(service): Path<String>,
) -> Result<Json<ServiceStatus>, Box<Problem>> {
    Ok(Json(app.control.service(&service).await?))
}

/// Attach a service
///
/// Attaches the service, or replaces what is attached. The body is a document as a policy file contains it, as JSON; scripts are
/// inline (`run` may be the text of the script). `service` may be absent; if present, it must be the name in the path.
#[utoipa::path(put, path = "/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 200, body = Applied)))]
pub(super) async fn attach_service(
    State(app): App,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Box<Problem>> {
    let document = json(&headers, body, app.limits.body, app.limits.read).await?;
    let document = named(&service, document)?;
    Ok(Json(app.control.attach(&service, document).await?))
}

/// The document with its name in it.
fn named(service: &str, document: Value) -> Result<Value, Box<Problem>> {
    let Value::Object(mut map) = document else {
        return Err(Problem::invalid("the body must be an object such as {\"monitor\": {…}}"));
    };
    match map.get("service") {
        Some(Value::String(name)) => same_name("service", service, name)?,
        Some(_) => return Err(Problem::invalid("`service` must be a name")),
        None => {
            map.insert("service".into(), service.into());
        }
    }
    Ok(Value::Object(map))
}

/// Detach a service
#[utoipa::path(delete, path = "/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    responses((status = 200, body = Applied)))]
pub(super) async fn detach_service(
    State(app): App,
    Path(service): Path<String>,
) -> Result<Json<Applied>, Box<Problem>> {
    Ok(Json(app.control.detach(&service).await?))
}

/// Attach a component
///
/// Attaches the component to the service, or replaces the one attached. The body is the section as a policy file contains it, as JSON.
#[utoipa::path(put, path = "/v1/services/{service}/{component}", tag = "services",
    params(("service" = String, Path, description = "The service."),
           ("component" = Component, Path, description = "The component.")),
    request_body(content = Value, content_type = "application/json"),
    responses((status = 200, body = Applied)))]
pub(super) async fn attach_component(
    State(app): App,
    Path((service, component)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Box<Problem>> {
    let component = component_named(&component)?;
    let section = json(&headers, body, app.limits.body, app.limits.read).await?;
    Ok(Json(app.control.attach_component(&service, component, section).await?))
}

/// Detach a component
#[utoipa::path(delete, path = "/v1/services/{service}/{component}", tag = "services",
    params(("service" = String, Path, description = "The service."),
           ("component" = Component, Path, description = "The component.")),
    responses((status = 200, body = Applied)))]
pub(super) async fn detach_component(
    State(app): App,
    Path((service, component)): Path<(String, String)>,
) -> Result<Json<Applied>, Box<Problem>> {
    let component = component_named(&component)?;
    Ok(Json(app.control.detach_component(&service, component).await?))
}

fn component_named(text: &str) -> Result<Component, Box<Problem>> {
    Component::parse(text).ok_or_else(|| {
        Problem::new(
            axum::http::StatusCode::NOT_FOUND,
            "no-such-component",
            format!("`{text}` is no component; there are monitor, analyze, plan and execute"),
        )
    })
}
