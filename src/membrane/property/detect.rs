//! How a change is noticed: by the notification of the file system, or, where there is none, by looking.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
        match Watched::new(Path::new(&file.path)) {
            Ok(watched) => {
                tokio::spawn(async move {
                    tokio::select! {
                        () = watch(&work, watched) => {}
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

async fn watch(property: &Property, mut watched: Watched) {
    loop {
        match tokio::time::timeout(LOOK, watched.signals.recv()).await {
            Ok(None) => return,
            Ok(Some(())) => drop(property.look().await),
            Err(_) => {
                if watched.renew() {
                    property.look().await;
                }
            }
        }
    }
}

/// The directory of a file, watched: files are replaced by rename, which a watch on the file itself does not survive.
struct Watched {
    watcher: RecommendedWatcher,
    signals: mpsc::Receiver<()>,
    dir: PathBuf,
    known: Option<(u64, u64)>,
}

impl Watched {
    fn new(path: &Path) -> Result<Self, notify::Error> {
        let path = std::path::absolute(path)?;
        let dir = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
        let name = path.file_name().unwrap_or_default().to_os_string();
        // One place is enough: a signal says only that something happened.
        let (signal, signals) = mpsc::channel(1);
        // A file that is a link can change by what the link leads to; then every event counts.
        let link = std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_symlink());
        let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
            let matters = match &event {
                Ok(event) => {
                    written(event.kind)
                        && (link
                            || event.need_rescan()
                            || event.paths.iter().any(|p| p.file_name() == Some(&name)))
                }
                Err(_) => true,
            };
            if matters {
                let _ = signal.try_send(());
            }
        })?;
        watcher.watch(&dir, RecursiveMode::NonRecursive)?;
        if link
            && let Ok(target) = std::fs::canonicalize(&path)
            && let Some(there) = target.parent().filter(|there| *there != dir)
        {
            watcher.watch(there, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { watcher, signals, known: identity(&dir), dir })
    }

    /// Watches the directory anew if it is another one now; whether it is.
    fn renew(&mut self) -> bool {
        let now = identity(&self.dir);
        if now == self.known {
            return false;
        }
        // Fails when the directory is gone, and its watch with it.
        let _ = self.watcher.unwatch(&self.dir);
        self.known = now.filter(|_| self.watcher.watch(&self.dir, RecursiveMode::NonRecursive).is_ok());
        self.known.is_some()
    }
}

fn written(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

#[cfg(unix)]
fn identity(dir: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).ok().map(|about| (about.dev(), about.ino()))
}

#[cfg(not(unix))]
fn identity(dir: &Path) -> Option<(u64, u64)> {
    dir.is_dir().then_some((0, 0))
}
