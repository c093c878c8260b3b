//! How a change is noticed: by the notification of the file system, or, where there is none, by looking.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::files::Interest;
use super::timing::Pace;
use super::{Detection, Property};

/// How often it is checked whether the directory of a file was replaced, which its own watch cannot tell.
const LOOK: Duration = Duration::from_secs(1);

/// Begins to notice changes of a property until `stop`, and says how.
pub(super) fn start(property: &Arc<Property>, stop: CancellationToken) -> Detection {
    let work = property.clone();
    if property.spec.value.is_some() || property.spec.environment.is_some() {
        // Never changes.
        return Detection::Notified;
    }
    if let Some(file) = &property.spec.file {
        // One place is enough: a signal says only that something happened.
        let (signal, signals) = mpsc::channel(1);
        match property.shared.files.watch(Path::new(&file.path), &signal) {
            Ok(interest) => {
                tokio::spawn(async move {
                    tokio::select! {
                        () = watch(&work, interest, signals) => {}
                        () = stop.cancelled() => {}
                    }
                });
                return Detection::Notified;
            }
            Err(error) => {
                tracing::warn!(property = %property.name, %error, "no notification for its file; it is looked at instead");
            }
        }
    }
    tokio::spawn(async move {
        tokio::select! {
            () = poll(&work) => {}
            () = stop.cancelled() => {}
        }
    });
    Detection::Polled
}

async fn poll(property: &Property) {
    let mut pace = Pace::default();
    loop {
        let changed = property.look().await;
        tokio::time::sleep(pace.after(changed)).await;
    }
}

async fn watch(property: &Property, mut interest: Interest, mut signals: mpsc::Receiver<()>) {
    loop {
        match tokio::time::timeout(LOOK, signals.recv()).await {
            Ok(None) => return,
            Ok(Some(())) => drop(property.look().await),
            Err(_) => {
                if interest.renew() {
                    property.look().await;
                }
            }
        }
    }
}
