//! One watch of the file system for all properties: the system gives a user few of them (on Linux 128, `fs.inotify.max_user_instances`), but a lot of
//! directories for each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Which directory is meant by a path: it may be replaced by another one of the same name.
pub(super) type Identity = Option<(u64, u64)>;

/// Who is told of what happens at a path: a file, or anything in a directory.
type Interests = HashMap<PathBuf, Vec<(u64, mpsc::Sender<()>)>>;

/// All directories that are watched. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Files(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Made with the first directory. Locked before `interests`, which the watcher's own thread locks while it holds up whoever changes the watcher.
    watching: Mutex<Option<Watching>>,
    interests: Arc<Mutex<Interests>>,
    last: AtomicU64,
}

struct Watching {
    watcher: RecommendedWatcher,
    dirs: HashMap<PathBuf, Watched>,
}

struct Watched {
    identity: Identity,
    times: usize,
}

/// An interest in a file; ends when dropped.
pub(super) struct Interest {
    files: Files,
    id: u64,
    /// Who tells it, and the directories in which it is interested.
    at: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    identity: Identity,
}

impl Files {
    /// Lets `signal` be told whenever the file at `path` may have changed. The directory is watched: files are replaced by rename, which a watch on the
    /// file itself does not survive.
    ///
    /// # Errors
    /// When the system does not let it be watched.
    pub(super) fn watch(&self, path: &Path, signal: &mpsc::Sender<()>) -> Result<Interest, notify::Error> {
        let path = std::path::absolute(path)?;
        let dir = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
        let id = self.0.last.fetch_add(1, Ordering::Relaxed);
        let mut interest =
            Interest { files: self.clone(), id, at: Vec::new(), dirs: Vec::new(), identity: identity(&dir) };
        // A file that is a link can change by what the link leads to; then everything there counts.
        let link = std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_symlink());
        interest.at(if link { dir.clone() } else { path.clone() }, signal);
        interest.dir(dir.clone())?;
        if link
            && let Ok(target) = std::fs::canonicalize(&path)
            && let Some(there) = target.parent().filter(|there| *there != dir)
        {
            interest.at(there.into(), signal);
            interest.dir(there.into())?;
        }
        Ok(interest)
    }

    fn interests(&self) -> MutexGuard<'_, Interests> {
        self.0.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watching(&self) -> MutexGuard<'_, Option<Watching>> {
        self.0.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interest {
    fn at(&mut self, path: PathBuf, signal: &mpsc::Sender<()>) {
        self.files.interests().entry(path.clone()).or_default().push((self.id, signal.clone()));
        self.at.push(path);
    }

    fn dir(&mut self, dir: PathBuf) -> Result<(), notify::Error> {
        let mut watching = self.files.watching();
        let watching = match &mut *watching {
            Some(watching) => watching,
            none => none.insert(Watching::new(self.files.0.interests.clone())?),
        };
        match watching.dirs.get_mut(&dir) {
            Some(watched) => watched.times += 1,
            None => {
                let identity = identity(&dir);
                watching.watcher.watch(&dir, RecursiveMode::NonRecursive)?;
                watching.dirs.insert(dir.clone(), Watched { identity, times: 1 });
            }
        }
        self.dirs.push(dir);
        Ok(())
    }

    /// Watches the directory anew if it is another one now; whether it is.
    pub(super) fn renew(&mut self) -> bool {
        let Some(dir) = self.dirs.first() else { return false };
        let now = identity(dir);
        if now == self.identity {
            return false;
        }
        let mut watching = self.files.watching();
        let Some(Watching { watcher, dirs }) = &mut *watching else { return false };
        let Some(watched) = dirs.get_mut(dir) else { return false };
        if watched.identity != now {
            // Fails when the directory is gone, and its watch with it.
            let _ = watcher.unwatch(dir);
            watched.identity = now.filter(|_| watcher.watch(dir, RecursiveMode::NonRecursive).is_ok());
        }
        self.identity = watched.identity;
        self.identity.is_some()
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut interests = self.files.interests();
        for path in &self.at {
            if let Some(told) = interests.get_mut(path) {
                told.retain(|(id, _)| *id != self.id);
                if told.is_empty() {
                    interests.remove(path);
                }
            }
        }
        drop(interests);
        let mut watching = self.files.watching();
        let Some(Watching { watcher, dirs }) = &mut *watching else { return };
        for dir in &self.dirs {
            let Some(watched) = dirs.get_mut(dir) else { continue };
            watched.times -= 1;
            if watched.times == 0 {
                dirs.remove(dir);
                let _ = watcher.unwatch(dir);
            }
        }
    }
}

impl Watching {
    fn new(interests: Arc<Mutex<Interests>>) -> Result<Self, notify::Error> {
        let watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
            let interests = interests.lock().unwrap_or_else(PoisonError::into_inner);
            let tell = |told: &Vec<(u64, mpsc::Sender<()>)>| {
                // One place is enough: a signal says only that something happened.
                for (_, signal) in told {
                    let _ = signal.try_send(());
                }
            };
            match event {
                Ok(event) if !event.need_rescan() => {
                    if written(event.kind) {
                        for path in &event.paths {
                            interests.get(path.as_path()).into_iter().for_each(tell);
                            path.parent().and_then(|dir| interests.get(dir)).into_iter().for_each(tell);
                        }
                    }
                }
                // Something was not told: everything may have changed.
                _ => interests.values().for_each(tell),
            }
        })?;
        Ok(Self { watcher, dirs: HashMap::new() })
    }
}

fn written(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

#[cfg(unix)]
fn identity(dir: &Path) -> Identity {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).ok().map(|about| (about.dev(), about.ino()))
}

#[cfg(not(unix))]
fn identity(dir: &Path) -> Identity {
    dir.is_dir().then_some((0, 0))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    async fn told(signals: &mut mpsc::Receiver<()>) {
        let told = tokio::time::timeout(Duration::from_secs(10), signals.recv()).await;
        assert_eq!(told.expect("in time"), Some(()));
    }

    #[tokio::test]
    async fn many_files_are_watched_and_each_is_told_of_itself_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::default();
        let mut all = Vec::new();
        // More than there are watches of the file system for one user.
        for n in 0..300 {
            let at = dir.path().join(format!("d{}", n / 2));
            fs::create_dir_all(&at).expect("a directory");
            let path = at.join(format!("f{n}"));
            fs::write(&path, "0").expect("a file");
            let (signal, signals) = mpsc::channel(1);
            let interest = files.watch(&path, &signal).expect("watched");
            all.push((path, interest, signals, signal));
        }
        for (path, _, signals, _) in &mut all {
            fs::write(path, "1").expect("written");
            told(signals).await;
        }
        fs::write(&all[7].0, "2").expect("written");
        told(&mut all[7].2).await;
        let (path, interest, ..) = all.swap_remove(6);
        // Its neighbour is still told.
        drop(interest);
        fs::write(&path, "2").expect("written");
        let other = all.iter_mut().find(|(p, ..)| p.ends_with("f7")).expect("the neighbour");
        while other.2.try_recv().is_ok() {}
        fs::write(&other.0, "3").expect("written");
        told(&mut other.2).await;
        drop(all);
        assert!(files.interests().is_empty());
        assert!(files.watching().as_ref().is_some_and(|w| w.dirs.is_empty()));
    }
}
