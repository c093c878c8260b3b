//! How a change is noticed: by the calls that pass, the service's own word, or the notification of the file system; where there is none, by looking.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::files::Interest;
use super::timing::Pace;
use super::{Detection, Property};
use crate::membrane::meter::{Meter, Pattern};
use crate::membrane::tap::{Rule, Side, Sign, Signs};
use crate::model::change::{BodyOf, ChangedBy};

/// How often it is checked whether a directory was replaced, which its own watch cannot tell.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait between two looks because of calls that changed something.
const SPACING: Duration = Duration::from_millis(20);

/// Begins to notice changes of a property until `stop`, and says how. What is declared comes first, then what the place of the value can do, then looking.
pub(super) fn start(property: &Arc<Property>, stop: &CancellationToken) -> Detection {
    let spec = &property.spec;
    if property.is_constant() {
        return Detection::Notified;
    }
    let mut how = Vec::new();
    if let Some(source) = spec.events.clone() {
        run(stop, super::stream::follow(property.clone(), source));
        how.push(Detection::Stream);
    }
    if spec.webhook.is_some() {
        how.push(Detection::Webhook);
    }
    if let Some(meter) = property.calls.as_ref().filter(|_| !spec.changed_by.is_empty()) {
        let signs = meter.taps.add(spec.changed_by.iter().map(rule).collect());
        run(stop, follow_calls(property.clone(), signs));
        how.push(Detection::Calls);
    }
    if let Some(file) = &spec.file {
        // One place is enough: a signal says only that something happened.
        let (signal, signals) = mpsc::channel(1);
        match property.shared.files.watch(Path::new(&file.path), &signal) {
            Ok(interest) => {
                let property = property.clone();
                run(stop, async move { watch(&property, interest, signals).await });
                how.push(Detection::Notified);
            }
            Err(error) => {
                tracing::warn!(property = %property.name, %error, "no notification for its file; it is looked at instead");
            }
        }
    }
    how.first().copied().unwrap_or_else(|| {
        let property = property.clone();
        run(stop, async move { poll(&property).await });
        Detection::Polled
    })
}

fn run(stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

fn rule(declared: &ChangedBy) -> Rule {
    let pattern = Pattern::new(&declared.call);
    let copies = declared.from.map(|from| match from {
        BodyOf::Request => Side::Request,
        BodyOf::Response => Side::Response,
    });
    Rule { matches: Box::new(move |method, target| pattern.matches(method, target)), copies }
}

/// Every call that is not safe (RFC 9110 section 9.2.1) may change something.
fn unsafe_calls() -> Rule {
    let safe = ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
    Rule { matches: Box::new(move |method, _| !method.is_empty() && !safe.contains(&method)), copies: None }
}

/// The calls to the service, if it is itself who keeps the value.
fn own(property: &Property) -> Option<&Arc<Meter>> {
    let url = &property.spec.http.as_ref()?.url;
    let there = url.starts_with('/')
        || property
            .base
            .as_ref()
            .and_then(|base| url.strip_prefix(&**base))
            .is_some_and(|rest| rest.starts_with('/'));
    property.calls.as_ref().filter(|_| there)
}

/// Takes what calls say; where they do not, asks once after each, or after several.
async fn follow_calls(property: Arc<Property>, mut signs: Signs) {
    loop {
        match signs.next().await {
            Sign::Body(rule, body) => {
                let pointer = property.spec.changed_by.get(rule).map_or("", |c| c.pointer.as_str());
                property.told(serde_json::from_slice(&body).ok(), pointer).await;
            }
            Sign::Perhaps => {
                signs.forget();
                property.look().await;
                tokio::time::sleep(SPACING).await;
            }
        }
    }
}

/// Looks at the property: often after changes and after calls that may have changed it, seldom without.
pub(super) async fn poll(property: &Property) {
    let mut signs = own(property).map(|meter| meter.taps.add(vec![unsafe_calls()]));
    let mut pace = Pace::default();
    loop {
        let changed = property.look().await;
        let rest = pace.after(changed);
        let called = async {
            match &mut signs {
                Some(signs) => {
                    drop(signs.next().await);
                    signs.forget();
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = called => {
                property.look().await;
                pace = Pace::default();
                // However many calls there are, it is not looked at more often than after changes.
                tokio::time::sleep(pace.least()).await;
            }
        }
    }
}

async fn watch(property: &Property, mut interest: Interest, mut signals: mpsc::Receiver<()>) {
    loop {
        match tokio::time::timeout(LOOK, signals.recv()).await {
            Ok(None) => return,
            Ok(Some(())) => {
                // A link may lead elsewhere now.
                interest.renew();
                property.look().await;
            }
            Err(_) => {
                if interest.renew() {
                    property.look().await;
                }
            }
        }
    }
}
