//! One watch of the file system for all properties: the system gives a user few of them (on Linux 128, `fs.inotify.max_user_instances`), but a lot of
//! directories for each.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Which directory is meant by a path: it may be replaced by another one of the same name.
pub(super) type Identity = Option<(u64, u64)>;

/// How many links are followed, as on Linux.
const MOST_LINKS: usize = 40;

/// Who is told of what happens at a path.
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
    path: PathBuf,
    signal: mpsc::Sender<()>,
    held: Held,
}

/// What an interest holds at present.
#[derive(Default)]
struct Held {
    id: u64,
    /// Every link on the way to the file, and the file.
    places: Vec<PathBuf>,
    /// The directories of these, and which directory each was when it was last looked at; none that is not watched.
    dirs: Vec<(PathBuf, Identity)>,
}

impl Files {
    /// Lets `signal` be told whenever the file at `path` may have changed: it was written or replaced, or a link on the way to it was. Directories are
    /// watched: files are replaced by rename, which a watch on the file itself does not survive.
    ///
    /// # Errors
    /// When the system does not let it be watched.
    pub(super) fn watch(&self, path: &Path, signal: &mpsc::Sender<()>) -> Result<Interest, notify::Error> {
        let path = std::path::absolute(path)?;
        let mut interest =
            Interest { files: self.clone(), path, signal: signal.clone(), held: Held::default() };
        interest.held.id = self.0.last.fetch_add(1, Ordering::Relaxed);
        for place in places(&interest.path) {
            interest.at(place);
        }
        for dir in dirs(&interest.held.places) {
            interest.dir(dir)?;
        }
        Ok(interest)
    }

    fn interests(&self) -> MutexGuard<'_, Interests> {
        self.0.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watching(&self) -> MutexGuard<'_, Option<Watching>> {
        self.0.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, held: &Held) {
        let mut interests = self.interests();
        for path in &held.places {
            if let Some(told) = interests.get_mut(path) {
                told.retain(|(id, _)| *id != held.id);
                if told.is_empty() {
                    interests.remove(path);
                }
            }
        }
        drop(interests);
        let mut watching = self.watching();
        let Some(Watching { watcher, dirs }) = &mut *watching else { return };
        for (dir, _) in held.dirs.iter().filter(|(_, identity)| identity.is_some()) {
            let Some(watched) = dirs.get_mut(dir) else { continue };
            watched.times -= 1;
            if watched.times == 0 {
                dirs.remove(dir);
                let _ = watcher.unwatch(dir);
            }
        }
    }
}

impl Interest {
    fn at(&mut self, place: PathBuf) {
        let told = (self.held.id, self.signal.clone());
        self.files.interests().entry(place.clone()).or_default().push(told);
        self.held.places.push(place);
    }

    fn dir(&mut self, dir: PathBuf) -> Result<(), notify::Error> {
        let mut watching = self.files.watching();
        let Watching { watcher, dirs } = match &mut *watching {
            Some(watching) => watching,
            none => none.insert(Watching::new(self.files.0.interests.clone())?),
        };
        let now = identity(&dir);
        match dirs.get_mut(&dir) {
            Some(watched) if watched.identity == now => watched.times += 1,
            Some(watched) => {
                // Another one of the same name. Fails when the directory is gone, and its watch with it.
                let _ = watcher.unwatch(&dir);
                watched.identity = None;
                watcher.watch(&dir, RecursiveMode::NonRecursive)?;
                watched.identity = now;
                watched.times += 1;
            }
            None => {
                watcher.watch(&dir, RecursiveMode::NonRecursive)?;
                dirs.insert(dir.clone(), Watched { identity: now, times: 1 });
            }
        }
        self.held.dirs.push((dir, now));
        Ok(())
    }

    /// Watches anew what is not what it was: a link that leads elsewhere, a directory that was replaced. Whether there was any.
    pub(super) fn renew(&mut self) -> bool {
        let places = places(&self.path);
        let now: Vec<_> = dirs(&places).into_iter().map(|dir| (identity(&dir), dir)).collect();
        let same = |((now, dir), (before, was)): (&(Identity, PathBuf), &(PathBuf, Identity))| {
            now == was && dir == before
        };
        if places == self.held.places
            && now.len() == self.held.dirs.len()
            && now.iter().zip(&self.held.dirs).all(same)
        {
            return false;
        }
        let id = self.files.0.last.fetch_add(1, Ordering::Relaxed);
        let before = std::mem::replace(&mut self.held, Held { id, ..Held::default() });
        // The new ones first, so that what is in both is watched all the time.
        for place in places {
            self.at(place);
        }
        for (_, dir) in now {
            if self.dir(dir.clone()).is_err() {
                self.held.dirs.push((dir, None));
            }
        }
        self.files.release(&before);
        true
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.files.release(&self.held);
    }
}

/// Every link on the way to what a path leads to, and that itself, though it be not there.
fn places(path: &Path) -> Vec<PathBuf> {
    let (mut places, mut here) = (Vec::new(), PathBuf::new());
    let reversed = |path: &Path| {
        let parts = path.components().filter(|part| *part != Component::CurDir);
        let mut parts: Vec<_> = parts.map(|part| part.as_os_str().to_owned()).collect();
        parts.reverse();
        parts
    };
    let mut rest = reversed(path);
    while let Some(part) = rest.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if places.len() < MOST_LINKS => {
                rest.extend(reversed(&target));
                places.push(next);
            }
            _ => here = next,
        }
    }
    places.push(here);
    places
}

/// The directories in which these are, each once.
fn dirs(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for place in places {
        let dir = place.parent().unwrap_or(Path::new("/"));
        if !dirs.iter().any(|known: &PathBuf| known == dir) {
            dirs.push(dir.to_path_buf());
        }
    }
    dirs
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
                        event.paths.iter().filter_map(|path| interests.get(path)).for_each(tell);
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

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_is_followed_wherever_it_leads_next() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["one", "two", "three"] {
            fs::create_dir(at(name)).expect("a directory");
            fs::write(at(name).join("f"), "0").expect("a file");
        }
        // As containers are given their configuration: the file is a link through a link, and the latter is replaced.
        let lead_to = |target: &str| {
            symlink(target, at("next")).expect("a link");
            fs::rename(at("next"), at("data")).expect("replaced");
        };
        lead_to("one");
        symlink("data/f", at("f")).expect("a link");
        let files = Files::default();
        let (signal, mut signals) = mpsc::channel(1);
        let mut interest = files.watch(&at("f"), &signal).expect("watched");
        fs::write(at("one/f"), "1").expect("written");
        told(&mut signals).await;
        lead_to("two");
        told(&mut signals).await;
        assert!(interest.renew() && !interest.renew());
        while signals.try_recv().is_ok() {}
        fs::write(at("two/f"), "1").expect("written");
        told(&mut signals).await;
        // The directory that it leads to moves, and another one comes.
        fs::rename(at("two"), at("gone")).expect("moved");
        fs::rename(at("three"), at("two")).expect("moved");
        assert!(interest.renew());
        while signals.try_recv().is_ok() {}
        fs::write(at("two/f"), "2").expect("written");
        told(&mut signals).await;
        drop(interest);
        assert!(files.interests().is_empty());
        assert!(files.watching().as_ref().is_some_and(|w| w.dirs.is_empty()));
    }
}
