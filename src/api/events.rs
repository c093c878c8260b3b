//! Server-sent events: subscriptions to metrics (R3-32, R3-33) and the events of the loop. Closing the connection unsubscribes.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures::stream::{BoxStream, StreamExt, once};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::CancellationToken;

use super::body::Query;
use super::{App, Problem};
use crate::model::HumanDuration;
use crate::model::ports::{Notification, Subscription, SubscriptionMode};
use crate::service::control::Event;

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// In the extensions of every request: cancelled when the server stops.
#[derive(Clone)]
pub(super) struct Stopping(pub CancellationToken);

type Stream = Sse<axum::response::sse::KeepAliveStream<BoxStream<'static, Result<Sent, Infallible>>>>;

/// How to subscribe.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    mode: ModeName,
    interval: Option<HumanDuration>,
    start: Option<HumanDuration>,
    duration: Option<HumanDuration>,
}

/// When a subscriber is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeName {
    /// At every new value.
    #[default]
    Update,
    /// When the value differs from the one last told.
    Change,
    /// At `start`, then every `interval`.
    Interval,
}

impl How {
    fn mode(self) -> Result<SubscriptionMode, Box<Problem>> {
        let Self { mode, interval, start, duration } = self;
        match (mode, interval) {
            (ModeName::Interval, Some(interval)) if !interval.0.is_zero() => {
                Ok(SubscriptionMode::Interval { interval, start, duration })
            }
            (ModeName::Interval, Some(_)) => Err(Problem::invalid("`interval` must be longer than 0s")),
            (ModeName::Interval, None) => {
                Err(Problem::invalid("`mode=interval` needs `interval`, such as `interval=2s`"))
            }
            (_, Some(_)) => Err(Problem::invalid("`interval` goes with `mode=interval`")),
            (ModeName::Change, None) => Ok(SubscriptionMode::Change { start, duration }),
            (ModeName::Update, None) if start.is_none() && duration.is_none() => Ok(SubscriptionMode::Update),
            (ModeName::Update, None) => {
                Err(Problem::invalid("`start` and `duration` go with `mode=change` and `mode=interval`"))
            }
        }
    }
}

/// subscribe
///
/// Server-sent events named `reading`, each with a notification as its data; at the end of the subscription one named `end`.
/// Closing the connection unsubscribes.
#[utoipa::path(get, path = "/v1/services/{service}/metrics/{metric}/events", tag = "metrics",
    params(("service" = String, Path, description = "The service."),
           ("metric" = String, Path, description = "The metric."),
           ("mode" = Option<ModeName>, Query, description = "When to tell; `update`, when absent."),
           ("interval" = Option<String>, Query, description = "`interval`: how often, such as `2s`."),
           ("start" = Option<String>, Query, description = "`change` and `interval`: not before this time after subscribing."),
           ("duration" = Option<String>, Query, description = "`change` and `interval`: not after `start` and this time.")),
    responses((status = 200, body = Notification, content_type = "text/event-stream")))]
pub(super) async fn subscribe(
    State(app): App,
    Path((service, metric)): Path<(String, String)>,
    Query(how): Query<How>,
    stopping: Option<Extension<Stopping>>,
) -> Result<Stream, Box<Problem>> {
    let mode = how.mode()?;
    let Subscription { notifications, guard } = app.control.ports(&service)?.subscribe(&metric, mode).await?;
    let events = notifications.map(move |notification| {
        let _held_as_long_as_the_stream = &guard;
        sent("reading", &notification)
    });
    Ok(stream(events, stopping))
}

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    service: Option<String>,
}

/// What a slow reader is told.
#[derive(Debug, Serialize)]
struct Lagged {
    missed: u64,
}

/// Events of the loop
///
/// Server-sent events named `event`, from now on. A reader that does not keep up gets one named `lagged` with the number it missed.
#[utoipa::path(get, path = "/v1/events", tag = "decisions",
    params(("service" = Option<String>, Query, description = "Only those of this service.")),
    responses((status = 200, body = Event, content_type = "text/event-stream")))]
pub(super) async fn events(
    State(app): App,
    Query(whose): Query<Whose>,
    stopping: Option<Extension<Stopping>>,
) -> Stream {
    let wanted = move |event: &Event| whose.service.is_none() || whose.service == event.service;
    let events = BroadcastStream::new(app.control.events()).filter_map(move |next| {
        let told = match next {
            Ok(event) if wanted(&event) => Some(sent("event", &event)),
            Ok(_) => None,
            Err(BroadcastStreamRecvError::Lagged(missed)) => Some(sent("lagged", &Lagged { missed })),
        };
        futures::future::ready(told)
    });
    stream(events, stopping)
}

fn sent<T: Serialize>(name: &str, data: &T) -> Sent {
    let event = Sent::default().event(name);
    event.json_data(data).unwrap_or_else(|_| Sent::default().comment("not serialisable"))
}

/// The stream, then `end`; cut short when the server stops.
fn stream(
    events: impl futures::Stream<Item = Sent> + Send + 'static,
    stopping: Option<Extension<Stopping>>,
) -> Stream {
    let stop = async move {
        match stopping {
            Some(Extension(Stopping(token))) => token.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let end = once(async { Sent::default().event("end").data("{}") });
    let all = events.take_until(Box::pin(stop)).chain(end).map(Ok).boxed();
    Sse::new(all).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_says_all_that_its_mode_needs_and_nothing_else() {
        let how = |mode, interval: Option<u64>, start: Option<u64>| How {
            mode,
            interval: interval.map(HumanDuration::seconds),
            start: start.map(HumanDuration::seconds),
            duration: None,
        };
        assert!(how(ModeName::Update, None, None).mode().is_ok());
        assert!(how(ModeName::Change, None, Some(4)).mode().is_ok());
        assert!(how(ModeName::Interval, Some(2), Some(4)).mode().is_ok());
        assert!(how(ModeName::Interval, None, None).mode().is_err());
        assert!(how(ModeName::Interval, Some(0), None).mode().is_err());
        assert!(how(ModeName::Change, Some(2), None).mode().is_err());
        assert!(how(ModeName::Update, None, Some(4)).mode().is_err());
    }
}
