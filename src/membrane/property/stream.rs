//! The service's own stream of events, followed: server-sent events with reconnection and `Last-Event-ID`, and looking while it is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures::StreamExt;
use reqwest::header;
use serde_json::{Map, Value};

use super::{Detection, Property, TIMEOUT, detect, http};
use crate::model::change::EventSource;

/// The most that one event may have, bytes.
const LARGEST: usize = 1 << 20;

/// How long to wait before the stream is asked for again, at first and at most; the service may say the former.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// How long a stream that goes on where it broke off may take to tell what happened meanwhile.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What is known of a stream that ended.
struct Place {
    last_id: String,
    pause: Duration,
}

/// Follows the stream for ever.
pub(super) async fn follow(property: Arc<Property>, source: EventSource) {
    let mut place = Place { last_id: String::new(), pause: PAUSE };
    let mut pause = place.pause;
    let mut answer = connect(&property, &source, &place.last_id).await;
    loop {
        let why = match answer {
            Ok(answer) => {
                property.detects(Detection::Stream);
                let heard = listen(&property, &source, answer, &mut place).await;
                pause = place.pause;
                heard
            }
            Err(why) => why,
        };
        property.detects(Detection::Polled);
        tracing::debug!(property = %property.name, why, "the stream of its changes is away; it is looked at instead");
        answer = tokio::select! {
            answer = again(&property, &source, &place.last_id, &mut pause) => Ok(answer),
            () = detect::poll(&property) => Err("it is not looked at any more".into()),
        };
    }
}

/// Asks for the stream until it is there, ever more seldom.
async fn again(
    property: &Property,
    source: &EventSource,
    last_id: &str,
    pause: &mut Duration,
) -> reqwest::Response {
    loop {
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST);
        match connect(property, source, last_id).await {
            Ok(answer) => return answer,
            Err(why) => {
                tracing::debug!(property = %property.name, why, "the stream of its changes is still away")
            }
        }
    }
}

async fn connect(
    property: &Property,
    source: &EventSource,
    last_id: &str,
) -> Result<reqwest::Response, String> {
    let url = http::address(&source.url, property.base.as_deref(), &Map::new()).map_err(|e| e.to_string())?;
    let mut request = property.shared.client.get(url).header(header::ACCEPT, "text/event-stream");
    if !last_id.is_empty() {
        request = request.header("last-event-id", last_id);
    }
    let answer = tokio::time::timeout(TIMEOUT, request.send()).await;
    let answer = answer.map_err(|_| "no answer in time")?.map_err(|e| e.without_url().to_string())?;
    let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match (answer.status().as_u16(), kind.starts_with("text/event-stream")) {
        (200, true) => Ok(answer),
        (200, false) => Err(format!("answered with `{kind}`, which is no stream of events")),
        (status, _) => Err(format!("answered {status}")),
    }
}

/// Listens until the stream ends, and says why.
async fn listen(
    property: &Property,
    source: &EventSource,
    answer: reqwest::Response,
    place: &mut Place,
) -> String {
    let length = Arc::new(AtomicUsize::new(0));
    let counted = length.clone();
    let bytes = answer.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(|e| e.without_url().to_string())?;
        match counted.fetch_add(chunk.len(), Ordering::Relaxed) > LARGEST {
            true => Err(format!("an event is longer than {LARGEST} bytes")),
            false => Ok(chunk),
        }
    });
    let mut events = Box::pin(bytes.eventsource());
    let mut first = Some(if place.last_id.is_empty() { Duration::ZERO } else { CATCH_UP });
    loop {
        let next = match first.take() {
            None => events.next().await,
            Some(patience) => match tokio::time::timeout(patience, events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    // What happened before the stream began it does not tell.
                    property.look().await;
                    continue;
                }
            },
        };
        let event = match next {
            None => return "it ended".into(),
            Some(Err(error)) => return error.to_string(),
            Some(Ok(event)) => event,
        };
        length.store(0, Ordering::Relaxed);
        place.last_id = event.id;
        place.pause = event.retry.map_or(place.pause, |retry| retry.clamp(PAUSE, LONGEST));
        if source.event.as_ref().is_none_or(|name| *name == event.event) {
            let data = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
            property.told(Some(data), &source.pointer).await;
        }
    }
}
