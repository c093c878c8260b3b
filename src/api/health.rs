//! Whether homeostat itself is well, for supervisors and load balancers. Open to everyone.

use axum::extract::State;
use axum::http::StatusCode;

use super::{App, Problem};

/// Alive
///
/// 200 as long as the process answers.
#[utoipa::path(get, path = "/healthz", tag = "self", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Ready
///
/// 200 once policies are applied and until the daemon stops, else 503.
#[utoipa::path(get, path = "/readyz", tag = "self", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn ready(State(app): App) -> Result<&'static str, Box<Problem>> {
    if app.control.ready() {
        Ok("ready\n")
    } else {
        Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-ready",
            "the policies are not applied yet, or the daemon is stopping",
        ))
    }
}
