//! HTTP: the ports of every service one to one, as JSON, server-sent events and OpenMetrics. It decides nothing; it asks a [`Control`].
//!
//! Reading order: [`router`] here, [`access`] (who may), `body` (what comes in), `problem` (what goes wrong), then one file per
//! resource, and [`serve`] (the listener). This listener is for management only: no request of a managed service passes through it (R3-20).

pub mod access;
pub mod actions;
pub mod body;
mod clock;
pub mod events;
mod exposition;
mod health;
pub mod knowledge;
pub mod metrics;
pub mod openapi;
pub mod policy;
pub mod problem;
pub mod samples;
mod serve;
pub mod services;
pub mod slos;
pub mod topology;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::{Access, Role, check_listen};
pub use body::Limits;
pub use problem::Problem;
pub use serve::{serve, serve_with};

use crate::service::control::Control;

/// What every handler can reach.
pub struct Shared {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) access: Access,
    pub(crate) limits: Limits,
}

type App = axum::extract::State<Arc<Shared>>;

/// The whole API over `control`, with the usual limits.
pub fn router(control: Arc<dyn Control>, access: Access) -> Router {
    router_with(control, access, Limits::default())
}

/// The whole API over `control`, with these limits on requests.
pub fn router_with(control: Arc<dyn Control>, access: Access, limits: Limits) -> Router {
    router_beside(control, access, limits, Router::new())
}

/// The whole API over `control`, and `others` on the same listener, for those who may.
pub fn router_beside(control: Arc<dyn Control>, access: Access, limits: Limits, others: Router) -> Router {
    let shared = Arc::new(Shared { control, access, limits });
    let (router, _) = routes().split_for_parts();
    router
        .merge(others.with_state(()))
        .fallback(problem::unknown_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(from_fn_with_state(shared.clone(), access::authorize))
        .layer(from_fn(problem::render))
        .with_state(shared)
}

/// Every route with its description; [`router_with`] serves them, [`openapi::document`] describes them.
fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(openapi::front())
        .routes(routes!(services::list_services))
        .routes(routes!(services::get_service, services::attach_service, services::detach_service))
        .routes(routes!(services::attach_component, services::detach_component))
        .routes(routes!(metrics::list_metrics))
        .routes(routes!(metrics::get_metric, metrics::insert_metric, metrics::remove_metric))
        .routes(routes!(metrics::history))
        .routes(routes!(samples::push_samples))
        .routes(routes!(samples::push_bulk))
        .routes(routes!(events::subscribe))
        .routes(routes!(events::events))
        .routes(routes!(slos::list_slos))
        .routes(routes!(slos::add_slo, slos::remove_slo))
        .routes(routes!(slos::enable_slo))
        .routes(routes!(slos::disable_slo))
        .routes(routes!(actions::notify))
        .routes(routes!(actions::send_actions))
        .routes(routes!(actions::decisions))
        .routes(routes!(actions::approve))
        .routes(routes!(actions::reject))
        .routes(routes!(knowledge::list_knowledge))
        .routes(routes!(knowledge::get_knowledge, knowledge::put_knowledge, knowledge::delete_knowledge))
        .routes(routes!(topology::topology))
        .routes(routes!(policy::plugins))
        .routes(routes!(policy::policy_status, policy::apply))
        .routes(routes!(policy::reload))
        .routes(routes!(policy::rollback))
        .routes(routes!(exposition::exposition))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(openapi::openapi_json))
}
