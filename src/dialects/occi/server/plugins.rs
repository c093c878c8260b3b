//! The folder of plug-ins: what lies there is a mixin that measures, as long as it lies there. The folder is looked at every second, so that
//! also a change of a right or of a mounted folder is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use super::super::fault::Fault;
use super::super::model::{Entity, TypeId, What};
use super::super::monitoring::plugin::{Found, provider};
use super::super::monitoring::translate::service_name;
use super::super::monitoring::{Names, Provider, Providers};
use super::super::registry::Registry;
use super::estate::{Change, Status};
use super::{Meaning, Occi, Overlay, refused};
use crate::policy::load::is_ignored;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The longest description, in bytes.
const LONGEST: u64 = 64 * 1024;

/// How many plug-ins there may be.
const MOST: usize = 1_000;

/// What tells a file from what it was.
type Print = (u64, Option<SystemTime>, bool);

/// A folder, and what was in it.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    names: Names,
    seen: Option<BTreeMap<PathBuf, Print>>,
    /// What was said of files that are no plug-ins.
    said: Vec<String>,
}

impl Folder {
    /// A folder that has not been looked at.
    pub(super) fn new(dir: &str, names: &Names) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
        Self { dir, names: names.clone(), seen: None, said: Vec::new() }
    }

    /// The plug-ins, if anything has changed since. What is none is said in the log, once.
    pub(super) fn look(&mut self) -> Option<Vec<Provider>> {
        let mut wrong = Vec::new();
        let files = match files(&self.dir) {
            Ok(files) => files,
            Err(why) => {
                wrong.push(format!("the folder `{}` cannot be read: {why}", self.dir.display()));
                BTreeMap::new()
            }
        };
        if self.seen.as_ref() == Some(&files) {
            return None;
        }
        let mut plugins = Vec::new();
        for (name, found) in group(&files, &mut wrong) {
            match provider(&self.names, &name, &found) {
                Ok(plugin) => plugins.push(plugin),
                Err(why) => wrong.push(why),
            }
        }
        if plugins.len() > MOST {
            wrong.push(format!("there are {} plug-ins; the first {MOST} are offered", plugins.len()));
            plugins.truncate(MOST);
        }
        for why in wrong.iter().filter(|why| !self.said.contains(why)) {
            tracing::warn!(folder = %self.dir.display(), %why, "not offered as a plug-in");
        }
        (self.seen, self.said) = (Some(files), wrong);
        Some(plugins)
    }
}

/// The files of a folder with what tells them from what they were; not those of editors.
fn files(dir: &Path) -> std::io::Result<BTreeMap<PathBuf, Print>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // What vanishes meanwhile was not there.
        let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
        if meta.is_file() && !is_ignored(&entry.file_name().to_string_lossy()) {
            files.insert(entry.path(), (meta.len(), meta.modified().ok(), is_executable(&meta)));
        }
    }
    Ok(files)
}

#[cfg(unix)]
fn is_executable(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    true
}

/// The programs and descriptions, by the name without its ending.
fn group(files: &BTreeMap<PathBuf, Print>, wrong: &mut Vec<String>) -> BTreeMap<String, Found> {
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for (path, (length, _, executable)) in files {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (Some(text), Some(name)) = (path.to_str(), path.file_stem().and_then(|stem| stem.to_str()))
        else {
            wrong.push(format!("the name of `{file}` is not UTF-8; expected letters, digits, `-` and `_`"));
            continue;
        };
        let description = matches!(path.extension().and_then(|ending| ending.to_str()), Some("yaml" | "yml"));
        if !description && !executable {
            wrong.push(format!(
                "`{file}` cannot be run; make it executable (chmod +x), or describe a sensor in `{name}.yaml`"
            ));
            continue;
        }
        let found = all.entry(name.to_string()).or_default();
        let place = if description { &mut found.description } else { &mut found.program };
        if place.is_some() {
            wrong.push(format!("`{file}` has the name of another plug-in, `{name}`; rename one of them"));
            continue;
        }
        if !description {
            *place = Some(text.to_string());
        } else if *length > LONGEST {
            wrong
                .push(format!("`{file}` is longer than {LONGEST} bytes; expected a description of a sensor"));
        } else {
            match std::fs::read_to_string(path) {
                Ok(text) => *place = Some(text),
                Err(why) => wrong.push(format!("`{file}` cannot be read: {why}")),
            }
        }
    }
    // What is wrong has been said.
    all.retain(|_, found| found.program.is_some() || found.description.is_some());
    all
}

/// Looks at a folder until `changed` says that nobody wants to know any more; it gets the plug-ins whenever something has changed.
pub(super) async fn watch<F>(mut folder: Folder, mut changed: impl FnMut(Option<Vec<Provider>>) -> F)
where
    F: Future<Output = bool>,
{
    loop {
        tokio::time::sleep(LOOK).await;
        let looked = tokio::task::spawn_blocking(move || {
            let found = folder.look();
            (folder, found)
        });
        let Ok((back, found)) = looked.await else { return };
        folder = back;
        if !changed(found).await {
            return;
        }
    }
}

/// Says why plug-ins are not offered.
pub(super) fn warn_of(problems: &[Fault]) {
    for why in problems {
        tracing::warn!(%why, "not offered as a plug-in; rename it");
    }
}

impl Occi {
    /// Offers what lies in the folder from now on.
    pub(super) fn follow_plugins(self: &Arc<Self>, folder: Folder) {
        let watched = Arc::downgrade(self);
        tokio::spawn(watch(folder, move |found| {
            let occi = watched.upgrade();
            async move {
                if let (Some(occi), Some(found)) = (&occi, found) {
                    occi.plug(found).await;
                }
                occi.is_some()
            }
        }));
    }

    /// Offers these plug-ins, and no others. Sensors whose collectors have one that came, went or changed run as it is now.
    async fn plug(&self, found: Vec<Provider>) {
        let mut pending = self.pending.lock().await;
        self.settle(&mut pending).await;
        let (mut registry, mut providers) =
            (self.estate().registry.clone(), Providers::clone(&self.providers()));
        let (changed, problems) = providers.plug(&mut registry, found);
        warn_of(&problems);
        if changed.is_empty() {
            return;
        }
        for id in &changed {
            let there = registry.mixin(id).is_some();
            tracing::info!(mixin = %id, there, "a plug-in came, went or changed");
        }
        let touched = {
            let estate = self.estate();
            let has = |entity: &&Arc<Entity>| {
                let of = |mixin: &TypeId| {
                    let within = |registry: &Registry| {
                        registry.dependencies(mixin).iter().any(|m| changed.contains(&m.id))
                    };
                    changed.contains(mixin) || within(&estate.registry) || within(&registry)
                };
                entity.mixins.iter().any(of)
            };
            let begins = |entity: &Arc<Entity>| match &entity.what {
                What::Link { source, .. } => source.location.as_str().into(),
                What::Resource { .. } => entity.location.as_str().into(),
            };
            estate.below("/").filter(has).map(begins).collect::<BTreeSet<Arc<str>>>()
        };
        *self.providers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(providers);
        self.write(|estate| estate.registry = registry);
        let Meaning { documents, statuses } = {
            let estate = self.estate();
            self.work_out_each(&mut Change::new(&estate, ""), touched)
        };
        let mut overlay = Overlay::default();
        overlay.statuses = statuses;
        let carried = match self.compiled(documents).await {
            Ok(services) => self.carry_out(overlay, services).await.map_err(|error| refused(&error)),
            Err(why) => Err(why),
        };
        if let Err(why) = carried {
            tracing::warn!(%why, "sensors do not run as their plug-ins are now");
        }
    }

    /// As [`Occi::work_out`], one by one: a sensor that cannot run any more keeps no other from it.
    fn work_out_each(&self, change: &mut Change<'_>, touched: BTreeSet<Arc<str>>) -> Meaning {
        let mut all = Meaning::default();
        for place in touched {
            change.touched.insert(place.clone());
            match self.work_out(change) {
                Ok(meaning) => {
                    all.documents.extend(meaning.documents);
                    all.statuses.extend(meaning.statuses);
                }
                Err(why) => {
                    tracing::warn!(sensor = &*place, %why, "a sensor that was kept cannot run");
                    if self.estate().statuses.get(&place).is_some_and(|status| status.runs)
                        && let Some(sensor) = change.get(&place)
                    {
                        all.documents.insert(service_name(&sensor.id), None);
                    }
                    let missing = vec![why.text];
                    all.statuses.insert(place, Status { state: "faulty", missing, ..Status::default() });
                }
            }
        }
        all
    }
}
