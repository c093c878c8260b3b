//! The ports `Alarms` and `Actions`, and the record of what came of them.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::body::{Format, Query, format, json, parse, read, same_name};
use super::{App, Problem, clock};
use crate::model::{Action, Alarm, Decision, Outcome};

/// The most decisions that one request gets.
const MOST_DECISIONS: usize = 1000;

/// notify
///
/// Takes an alarm from outside. `service` may be absent; if present, it must be the name in the path. `at` is now, when absent.
#[utoipa::path(post, path = "/v1/services/{service}/alarms", tag = "actions",
    params(("service" = String, Path, description = "The service.")),
    request_body = Alarm, responses((status = 202, description = "Taken.")))]
pub(super) async fn notify(
    State(app): App,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Box<Problem>> {
    let body = json(&headers, body, app.limits.body, app.limits.read).await?;
    let alarm = alarm(&service, body)?;
    app.control.ports(&service)?.notify(alarm).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The members that an alarm may have. Readers of alarms ignore others (R3-26); senders are told of them.
const ALARM_MEMBERS: [&str; 7] = ["service", "slo", "kind", "severity", "condition", "values", "at"];

fn alarm(service: &str, body: Value) -> Result<Alarm, Box<Problem>> {
    let Value::Object(mut map) = body else {
        return Err(Problem::invalid("an alarm is an object: {\"slo\": …, \"kind\": …, \"condition\": …}"));
    };
    if let Some(name) = map.keys().find(|k| !ALARM_MEMBERS.contains(&k.as_str())) {
        return Err(Problem::invalid(format!(
            "unknown field `{name}`, expected one of {}",
            ALARM_MEMBERS.join(", ")
        )));
    }
    map.entry("service").or_insert_with(|| service.into());
    map.entry("at").or_insert_with(|| clock::now().to_string().into());
    let alarm: Alarm = serde_json::from_value(Value::Object(map))
        .map_err(|e| Problem::invalid(format!("the alarm: {e}")))?;
    same_name("service", service, &alarm.service)?;
    Ok(alarm)
}

/// One action or several.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "only its schema is used: the body is told apart by its first character, for better errors"
)]
enum OneOrMoreActions {
    /// sendAction.
    One(Action),
    /// sendActions, in order.
    More(Vec<Action>),
}

/// One outcome or several.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum OneOrMoreOutcomes {
    /// Of one action.
    One(Outcome),
    /// Of each action, in order.
    More(Vec<Outcome>),
}

/// sendAction, sendActions
///
/// An object is one action and is answered with its outcome; an array is a list of actions, carried out in order, and is answered with
/// the list of outcomes. Both are 200 whatever the outcomes are: an outcome says by its `status` what came of its action. Errors are for
/// requests that reached no executor.
#[utoipa::path(post, path = "/v1/services/{service}/actions", tag = "actions",
    params(("service" = String, Path, description = "The service whose executor takes them.")),
    request_body(content = OneOrMoreActions, content_type = "application/json"),
    responses((status = 200, body = OneOrMoreOutcomes)))]
pub(super) async fn send_actions(
    State(app): App,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Box<Problem>> {
    if format(&headers)? != Format::Json {
        return Err(Problem::invalid("actions are one JSON object or one array; send `application/json`"));
    }
    let bytes = read(body, app.limits.body, app.limits.read).await?;
    let ports = app.control.ports(&service);
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        let all: Vec<Action> = actions(&bytes)?;
        Ok(Json(ports?.send_actions(all).await?).into_response())
    } else {
        let action: Action = actions(&bytes)?;
        Ok(Json(ports?.send_action(action).await?).into_response())
    }
}

/// Reads what is to be an action, or a list of them.
///
/// # Errors
/// As [`parse`], with what would be right when it is JSON.
fn actions<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Box<Problem>> {
    parse(bytes).map_err(|problem| match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Err(_) => problem,
        // Where the name of an action should stand, the reader calls anything else malformed.
        Ok(_) => {
            let Problem { detail, line, column, .. } = *problem;
            let mut problem = Problem::invalid(format!(
                "{detail}; expected an action such as {{\"start\": {{}}}} or {{\"set\": {{\"property\": \"rate\", \"value\": 5}}}}, or a list of such"
            ));
            (problem.line, problem.column) = (line, column);
            problem
        }
    })
}

/// Which decisions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    service: Option<String>,
    limit: Option<usize>,
    before: Option<u64>,
}

/// Decisions
///
/// Newest first.
#[utoipa::path(get, path = "/v1/decisions", tag = "decisions",
    params(("service" = Option<String>, Query, description = "Only those of this service."),
           ("limit" = Option<usize>, Query, description = "At most so many, up to 1000; 20, when absent."),
           ("before" = Option<u64>, Query, description = "Only those with a smaller number (of each service).")),
    responses((status = 200, body = Vec<Decision>)))]
pub(super) async fn decisions(
    State(app): App,
    Query(which): Query<Which>,
) -> Result<Json<Vec<Decision>>, Box<Problem>> {
    let limit = which.limit.unwrap_or(20);
    if !(1..=MOST_DECISIONS).contains(&limit) {
        return Err(Problem::invalid(format!("`limit` is {limit}; it may be 1 to {MOST_DECISIONS}")));
    }
    Ok(Json(app.control.decisions(which.service.as_deref(), limit, which.before).await?))
}

/// Approve a decision
///
/// Carries out the plan that the decision proposes; answers with the outcomes.
#[utoipa::path(post, path = "/v1/services/{service}/decisions/{decision}/approve", tag = "decisions",
    params(("service" = String, Path, description = "The service."),
           ("decision" = u64, Path, description = "The number of the decision.")),
    responses((status = 200, body = Vec<Outcome>)))]
pub(super) async fn approve(
    State(app): App,
    Path((service, decision)): Path<(String, u64)>,
) -> Result<Json<Vec<Outcome>>, Box<Problem>> {
    Ok(Json(app.control.approve(&service, decision).await?))
}

/// Reject a decision
///
/// Withdraws the plan that the decision proposes. The same plan is not proposed again while the SLO stays as it is.
#[utoipa::path(post, path = "/v1/services/{service}/decisions/{decision}/reject", tag = "decisions",
    params(("service" = String, Path, description = "The service."),
           ("decision" = u64, Path, description = "The number of the decision.")),
    responses((status = 204)))]
pub(super) async fn reject(
    State(app): App,
    Path((service, decision)): Path<(String, u64)>,
) -> Result<StatusCode, Box<Problem>> {
    app.control.reject(&service, decision).await?;
    Ok(StatusCode::NO_CONTENT)
}
