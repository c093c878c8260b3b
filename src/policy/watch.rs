//! Notices that files of policy directories changed. With `load` this is the only input of the policy module, and the only place
//! in it that uses tokio; it decides nothing, it only says "look again".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::load::{Changed, is_ignored};

/// How often it is checked whether a directory was deleted, moved or created anew, which its own watch cannot tell.
const LOOK: Duration = Duration::from_secs(1);

/// A burst is told after at most this many times the debounce time, even if it does not end.
const ROUNDS: u32 = 10;

/// With more changed files than this, everything is read again.
const MAX_PATHS: usize = 1_000;

/// Why directories cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system gives no watcher (on Linux: `fs.inotify.max_user_instances`). A retry may help once the limit is raised.
    #[error("no watcher for policy files: {0}")]
    NoWatcher(notify::Error),
    /// The directory exists and cannot be watched (no permission, or `fs.inotify.max_user_watches`).
    #[error("`{0}` cannot be watched: {1}")]
    Directory(String, notify::Error),
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<()>,
    changed: Arc<Mutex<Changed>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Waits for the end of the next burst of changes, and says what to read again. Cancel safe.
    /// Changes that come before this is called again are one burst.
    pub async fn changed(&mut self) -> Option<Changed> {
        self.events.recv().await?;
        Some(std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches directories (or single files, by their directory) for changes of policies and scripts.
///
/// One event is delivered per burst: after `debounce` without a further change, and at the latest after ten times that.
/// Directories that do not exist yet, are deleted, or are replaced are found when they appear. Must be called inside a tokio runtime.
///
/// # Errors
/// When the system refuses to watch a directory that exists.
pub fn watch(dirs: &[PathBuf], debounce: Duration) -> Result<Watch, WatchError> {
    let changed = Arc::new(Mutex::new(Changed::default()));
    let seen = changed.clone();
    // One place is enough: a signal says only that something changed; what, is in `changed`.
    let (signal, signals) = mpsc::channel(1);
    // A new directory may get the number of the deleted one, so the end of a watched directory is remembered as well.
    let lost = Arc::new(AtomicBool::new(false));
    let (flag, roots): (_, Vec<PathBuf>) = (lost.clone(), dirs.iter().map(|dir| directory_of(dir)).collect());
    let watcher = RecommendedWatcher::new(
        move |event: Result<Event, notify::Error>| {
            if let Ok(event) = &event
                && matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)))
                && event.paths.iter().any(|path| roots.contains(path))
            {
                flag.store(true, Ordering::SeqCst);
            }
            if event.as_ref().map_or(true, matters) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).add(event.as_ref().ok());
                let _ = signal.try_send(());
            }
        },
        Config::default(),
    )
    .map_err(WatchError::NoWatcher)?;
    let mut watched = Watched { watcher, lost, dirs: BTreeMap::new() };
    for dir in dirs {
        watched.dirs.insert(directory_of(dir), None);
    }
    watched.renew()?;
    let (sender, events) = mpsc::channel(1);
    let task = tokio::spawn(run(watched, changed.clone(), signals, sender, debounce));
    Ok(Watch { events, changed, task })
}

/// Waits for signals and passes bursts on.
async fn run(
    mut watched: Watched,
    seen: Arc<Mutex<Changed>>,
    mut signals: mpsc::Receiver<()>,
    events: mpsc::Sender<()>,
    debounce: Duration,
) {
    loop {
        let changed = match tokio::time::timeout(LOOK, signals.recv()).await {
            Ok(Some(())) => true,
            Ok(None) => return,
            Err(_) => false,
        };
        // A directory that can no longer be watched is looked at again; what it held last goes on running.
        let renewed = watched.renew().unwrap_or(true);
        if !changed && !renewed {
            continue;
        }
        if renewed {
            seen.lock().unwrap_or_else(PoisonError::into_inner).add(None);
        }
        for _ in 0..ROUNDS {
            tokio::time::sleep(debounce).await;
            if signals.try_recv().is_err() {
                break;
            }
        }
        if watched.renew().unwrap_or(true) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).add(None);
        }
        match events.try_send(()) {
            // A full channel holds an event that was not taken yet: it stands for this burst as well.
            Ok(()) | Err(mpsc::error::TrySendError::Full(())) => {}
            Err(mpsc::error::TrySendError::Closed(())) => return,
        }
    }
}

impl Changed {
    /// Takes note of an event; `None` is one of which nothing is known.
    fn add(&mut self, event: Option<&Event>) {
        let files = event.filter(|event| !event.need_rescan() && !event.paths.is_empty()).map(|event| {
            // What has no extension may be a directory full of scripts.
            event.paths.iter().all(|path| path.extension().is_some()).then_some(&event.paths)
        });
        match (files.flatten(), &mut *self) {
            (Some(paths), Self::Files(known)) if known.len() + paths.len() <= MAX_PATHS => {
                known.extend(paths.iter().cloned());
            }
            _ => *self = Self::Everything,
        }
    }
}

/// The directories, with what tells a directory from another of the same name.
struct Watched {
    watcher: RecommendedWatcher,
    /// A watched directory itself was deleted or moved since the last look.
    lost: Arc<AtomicBool>,
    dirs: BTreeMap<PathBuf, Option<Identity>>,
}

type Identity = (u64, u64, Option<std::time::SystemTime>);

impl Watched {
    /// Watches directories that are new or were replaced. Says whether there was one, or one vanished.
    fn renew(&mut self) -> Result<bool, WatchError> {
        let lost = self.lost.swap(false, Ordering::SeqCst);
        let mut changed = false;
        for (dir, known) in &mut self.dirs {
            let now = identity(dir);
            if *known == now && !lost {
                continue;
            }
            changed = true;
            if known.is_some() {
                // Fails when the directory is gone, and its watch with it.
                let _ = self.watcher.unwatch(dir);
            }
            *known = None;
            if now.is_some() {
                self.watcher
                    .watch(dir, RecursiveMode::Recursive)
                    .map_err(|error| WatchError::Directory(dir.display().to_string(), error))?;
                *known = now;
            }
        }
        Ok(changed)
    }
}

#[cfg(unix)]
fn identity(dir: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).ok().map(|meta| (meta.dev(), meta.ino(), meta.created().ok()))
}

#[cfg(not(unix))]
fn identity(dir: &Path) -> Option<Identity> {
    std::fs::metadata(dir).ok().map(|meta| (0, 0, meta.created().ok()))
}

/// The directory to watch, absolute, as events name it.
fn directory_of(path: &Path) -> PathBuf {
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if path.is_file() {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return parent.unwrap_or(Path::new(".")).to_path_buf();
    }
    path.to_path_buf()
}

/// Whether an event can change what is loaded: not one of reading (ours among them), and not of files that are ignored.
fn matters(event: &Event) -> bool {
    use notify::event::{AccessKind, AccessMode};
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    event.need_rescan()
        || event.paths.is_empty()
        || event.paths.iter().any(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            // Mounted configuration is swapped by a link of this name.
            let swapped = name == "..data";
            let known =
                matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "rhai") | None);
            swapped || known && !is_ignored(&name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBOUNCE: Duration = Duration::from_millis(50);

    async fn wait(watch: &mut Watch) -> Changed {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
        event.expect("an event").expect("a watch")
    }

    /// Takes events until none comes for a while; says how many there were.
    async fn count(watch: &mut Watch) -> usize {
        let mut events = 0;
        while tokio::time::timeout(DEBOUNCE * 8, watch.changed()).await.is_ok() {
            events += 1;
        }
        events
    }

    #[tokio::test]
    async fn a_thousand_changes_are_a_handful_of_events() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = watch(&[dir.path().into()], DEBOUNCE).expect("a watch");
        for i in 0..1000 {
            std::fs::write(dir.path().join(format!("{}.yaml", i % 50)), format!("service: s{i}"))
                .expect("written");
        }
        wait(&mut watch).await;
        assert!(count(&mut watch).await < 20);
    }

    #[tokio::test]
    async fn a_file_written_by_rename_is_noticed_and_an_editor_backup_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = watch(&[dir.path().into()], DEBOUNCE).expect("a watch");
        std::fs::write(dir.path().join(".shop.yaml.swp"), "x").expect("written");
        std::fs::write(dir.path().join("shop.yaml~"), "x").expect("written");
        std::fs::write(dir.path().join("notes.txt"), "x").expect("written");
        assert_eq!(count(&mut watch).await, 0);
        std::fs::rename(dir.path().join("notes.txt"), dir.path().join("shop.yaml")).expect("renamed");
        let Changed::Files(files) = wait(&mut watch).await else { panic!("it is known which") };
        assert!(files.iter().any(|file| file.ends_with("shop.yaml")));
    }

    #[tokio::test]
    async fn reading_the_files_is_no_change() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("shop.yaml"), "service: shop").expect("written");
        let mut watch = watch(&[dir.path().into()], DEBOUNCE).expect("a watch");
        let _ = super::super::load::Sources::read(&[dir.path().into()]);
        assert_eq!(count(&mut watch).await, 0);
    }

    #[tokio::test]
    async fn a_directory_that_is_deleted_and_created_anew_is_watched_again() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("policies");
        let mut watch =
            watch(std::slice::from_ref(&dir), DEBOUNCE).expect("a watch for what does not exist yet");
        for _ in 0..2 {
            std::fs::create_dir(&dir).expect("created");
            std::fs::write(dir.join("a.yaml"), "service: a").expect("written");
            wait(&mut watch).await;
            count(&mut watch).await;
            std::fs::write(dir.join("a.yaml"), "service: b").expect("written");
            wait(&mut watch).await;
            std::fs::remove_dir_all(&dir).expect("deleted");
            wait(&mut watch).await;
            count(&mut watch).await;
        }
    }
}
