//! What is deployed, as it is written down in the state directory: who runs it, its documents, and a policy for each unit.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::sensor::Means;
use super::super::{Exit, Failure};
use crate::dialects::occi::deploy::{Deployment, processes};

/// What says, in the state directory, what is deployed.
pub(super) const STATE: &str = "deployment.json";

/// What is locked there, and says that the directory is one of deployments.
const LOCK: &str = "deployment.lock";

/// What is deployed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    /// The native API of the homeostat that runs the units.
    pub(super) url: String,
    /// Its number, and when it began.
    pub(super) pid: u32,
    pub(super) began: u64,
    /// Where the document server is reached.
    pub(super) documents: SocketAddr,
    /// The addresses that are this machine's; all that are, when empty.
    pub(super) hosts: Vec<IpAddr>,
    pub(super) dashboards: bool,
    /// What sensors publish with.
    pub(super) means: Means,
    /// The first port to be given.
    pub(super) first: u16,
    /// Ports that were given to units, and stay theirs.
    pub(super) ports: BTreeMap<String, u16>,
    /// The addresses of the units.
    pub(super) addresses: BTreeMap<String, String>,
    /// Where the documents were read.
    pub(super) sources: Vec<PathBuf>,
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {why}", path.display()))
}

/// What says which files were written into a directory.
fn index(directory: &Path) -> PathBuf {
    directory.with_extension("names.json")
}

pub(super) fn load(directory: &Path) -> Result<Option<State>, Failure> {
    let path = directory.join(STATE);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|why| {
            let hint = "it is damaged: end what runs (its log is beside it), and remove the directory";
            wrong(&path, &format!("{why}; {hint}"))
        }),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(wrong(&path, &why)),
    }
}

pub(super) fn save(directory: &Path, state: &State) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(state).map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
    replace(&directory.join(STATE), &(text + "\n"))
}

/// Writes a file so that who reads it sees all of it, or what was there before.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let wrong = |why: std::io::Error| wrong(path, &why);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&beside, text).map_err(wrong)?;
    std::fs::rename(&beside, path).map_err(wrong)
}

/// When a process began, in ticks since the machine did; `None` when it has ended. With its number it never means another one.
pub(super) fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may contain anything: state, and 19 fields later the time.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let running = fields.next()? != "Z";
    fields.nth(18)?.parse().ok().filter(|_| running)
}

/// Whether the homeostat that ran the units still does.
pub(super) fn alive(state: &State) -> bool {
    began(state.pid).is_some_and(|began| began == state.began)
}

/// Keeps others from changing the same deployment; until it is dropped.
pub(super) fn alone(directory: &Path) -> Result<std::fs::File, Failure> {
    let path = directory.join(LOCK);
    let wrong = |why: std::io::Error| wrong(&path, &why);
    if directory.exists() && !directory.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("{} is no directory", directory.display())));
    }
    std::fs::create_dir_all(directory).map_err(wrong)?;
    if !path.exists() && std::fs::read_dir(directory).map_err(wrong)?.next().is_some() {
        let text = format!(
            "{} has something else in it; --state needs a directory of its own, as .homeostat",
            directory.display()
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    let file =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(wrong)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(
            Exit::Refused,
            format!("somebody changes the deployment in {} already", directory.display()),
        )
    })?;
    Ok(file)
}

/// What a change comes to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Difference {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) changed: Vec<String>,
}

/// Makes the files in a directory be these, and those that were written before be gone; `really`: not only in words.
fn sync(
    directory: &Path,
    wanted: &BTreeMap<String, (String, String)>,
    really: bool,
    difference: &mut Difference,
) -> Result<(), Failure> {
    let index = index(directory);
    for (file, name) in written_before(directory) {
        if !wanted.contains_key(&file) {
            difference.removed.push(name);
            let path = directory.join(file);
            if really && path.exists() {
                std::fs::remove_file(&path).map_err(|why| wrong(&path, &why))?;
            }
        }
    }
    if really {
        std::fs::create_dir_all(directory).map_err(|why| wrong(directory, &why))?;
        // Known before it is there: whatever happens, it is found again.
        let known: BTreeMap<String, String> = written_before(directory)
            .into_iter()
            .chain(wanted.iter().map(|(file, (name, _))| (file.clone(), name.clone())))
            .collect();
        replace(&index, &json!(known).to_string())?;
    }
    for (file, (name, text)) in wanted {
        let path = directory.join(file);
        match std::fs::read_to_string(&path) {
            Ok(known) if known == *text => {}
            known => {
                if really {
                    replace(&path, text)?;
                }
                let list = if known.is_ok() { &mut difference.changed } else { &mut difference.added };
                list.push(name.clone());
            }
        }
    }
    if !really {
        return Ok(());
    }
    let names: BTreeMap<&String, &String> = wanted.iter().map(|(file, (name, _))| (file, name)).collect();
    replace(&index, &json!(names).to_string())
}

/// The files that were written into a directory, with what they are about. Nothing else there is ever touched.
pub(super) fn written_before(directory: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(index(directory)).ok();
    let names: BTreeMap<String, String> =
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    names.into_iter().filter(|(file, _)| !file.contains('/') && !file.contains("..")).collect()
}

/// What it comes to for units, and for documents.
#[derive(Debug, Default, Serialize)]
pub(super) struct Differences {
    pub(super) units: Difference,
    pub(super) documents: Difference,
}

impl Difference {
    pub(super) fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Differences {
    pub(super) fn is_none(&self) -> bool {
        self.units.is_none() && self.documents.is_none()
    }
}

pub(super) fn write(directory: &Path, deployment: &Deployment, really: bool) -> Result<Differences, Failure> {
    let mut all = Differences::default();
    let documents: BTreeMap<String, (String, String)> = deployment
        .documents
        .iter()
        .map(|(id, _)| {
            let file = format!("{}.json", &blake3::hash(id.as_bytes()).to_hex()[..16]);
            (file, (id.to_string(), deployment.documents.written(id).unwrap_or_default()))
        })
        .collect();
    sync(&directory.join("documents"), &documents, really, &mut all.documents)?;
    let mut policies = BTreeMap::new();
    for unit in &deployment.units {
        let text = serde_saphyr::to_string(&processes::policy(unit, "homeostat"))
            .map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
        policies.insert(format!("{}.yaml", unit.name), (unit.name.clone(), text));
    }
    sync(&directory.join("policies"), &policies, really, &mut all.units)?;
    Ok(all)
}

/// What was written down before a change.
pub(super) struct Kept {
    files: BTreeMap<PathBuf, String>,
}

/// The files that deployments write below a directory; nobody else's.
fn ours(directory: &Path) -> Vec<PathBuf> {
    let parts = ["documents", "policies"].map(|part| directory.join(part));
    let inside = parts.iter().flat_map(|part| {
        let files = written_before(part).into_keys().map(|file| part.join(file));
        files.chain([index(part)]).collect::<Vec<_>>()
    });
    inside.chain([directory.join(STATE)]).filter(|path| path.is_file()).collect()
}

impl Kept {
    pub(super) fn of(directory: &Path) -> Result<Self, Failure> {
        let read = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok((path, text)),
            Err(why) => Err(wrong(&path, &why)),
        };
        Ok(Self { files: ours(directory).into_iter().map(read).collect::<Result<_, _>>()? })
    }

    pub(super) fn restore(&self, directory: &Path) -> Result<(), Failure> {
        for path in ours(directory) {
            if !self.files.contains_key(&path) {
                std::fs::remove_file(&path).map_err(|why| wrong(&path, &why))?;
            }
        }
        for (path, text) in &self.files {
            if !std::fs::read_to_string(path).is_ok_and(|now| now == *text) {
                replace(path, text)?;
            }
        }
        Ok(())
    }
}

/// Removes what was written down.
pub(super) fn forget(directory: &Path) {
    for path in ours(directory) {
        let _ = std::fs::remove_file(path);
    }
    for part in ["documents", "policies"] {
        let _ = std::fs::remove_dir(directory.join(part));
    }
}
