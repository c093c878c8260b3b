//! All policies of an application as one immutable value, and how it comes from sources: what did not change is taken over
//! from the set before, by content hash, and shared with it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;

use super::capability;
use super::check;
use super::compile::{compile, compile_resource};
use super::diagnostics::{Problem, byte_at, suggestion_or_list};
use super::load::{Document, Parsed, SourceFile, SourceKind, Sources, parse};
use super::merge::differing;
use super::script::Script;
use super::value::{MetricKind, ServicePolicy, Strategy};
use crate::model::Resource;

/// Every service and resource of an application, checked together.
/// Cheap to clone, and a set shares with the one before whatever is the same in both.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    /// The managed services, by name.
    pub services: Arc<BTreeMap<Arc<str>, Arc<ServicePolicy>>>,
    /// What has no loop of its own, by name.
    pub resources: Arc<BTreeMap<Arc<str>, Arc<Resource>>>,
    /// The content hash of all files (BLAKE3, hex, 16 digits).
    pub hash: Arc<str>,
    /// The files it came from, by path.
    pub files: Arc<Files>,
}

/// Compiled files, by path.
pub type Files = BTreeMap<Arc<str>, Arc<CompiledFile>>;

/// What became of one file. Kept so that an unchanged file is neither parsed nor compiled again.
#[derive(Debug, Clone)]
pub struct CompiledFile {
    /// Its content, shared with the sources that it came from.
    pub text: Arc<str>,
    /// Its content hash.
    pub hash: blake3::Hash,
    /// The services in it, and the number of the document that each stands in.
    pub services: Vec<(usize, Arc<ServicePolicy>)>,
    /// The resources in it.
    pub resources: Vec<(usize, Arc<Resource>)>,
    /// The script, when it is one.
    pub script: Option<Arc<Script>>,
    /// What its documents name beyond themselves.
    pub reach: Reach,
}

/// What the services of a file name beyond their own documents. Most name nothing, and need no second look when another file changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Some plan runs a script.
    pub scripts: bool,
    /// Some service has references, or plans actions on another.
    pub services: bool,
    /// Some metric is over a group.
    pub groups: bool,
    /// Some reference needs a capability.
    pub capabilities: bool,
    /// Some metric is over a stream.
    pub streams: bool,
}

impl Reach {
    /// The reach of some services.
    pub(crate) fn of<'a>(services: impl IntoIterator<Item = &'a Arc<ServicePolicy>>) -> Self {
        services.into_iter().fold(Self::default(), |reach, service| Self {
            scripts: reach.scripts || !service.scripts.is_empty(),
            services: reach.services || names_services(service),
            groups: reach.groups || has_groups(service),
            capabilities: reach.capabilities || service.references.values().any(|r| r.capability.is_some()),
            streams: reach.streams || has_streams(service),
        })
    }
}

fn names_services(service: &ServicePolicy) -> bool {
    let mut rows = service.plan.iter().flat_map(|plan| &plan.rows);
    !service.references.is_empty()
        || rows.any(|row| match &row.strategy {
            Strategy::Actions { actions, .. } => actions.iter().any(|action| action.service().is_some()),
            Strategy::Script(_) => false,
        })
}

fn has_groups(service: &ServicePolicy) -> bool {
    let mut metrics = service.monitor.iter().flat_map(|monitor| &monitor.metrics);
    metrics.any(|metric| matches!(metric.kind, MetricKind::Group(_)))
}

fn has_streams(service: &ServicePolicy) -> bool {
    let mut metrics = service.monitor.iter().flat_map(|monitor| &monitor.metrics);
    metrics.any(|metric| matches!(metric.kind, MetricKind::Stream(_)))
}

/// What is known of a file while a set is built: trees and mistakes as well.
pub(crate) struct Draft<'a> {
    pub(crate) source: &'a SourceFile,
    pub(crate) compiled: Arc<CompiledFile>,
    /// Whether it is not just what the set before had.
    pub(crate) fresh: bool,
}

impl<'a> Draft<'a> {
    fn new(source: &'a SourceFile, compiled: Arc<CompiledFile>, before: Option<&Arc<CompiledFile>>) -> Self {
        let fresh = !before.is_some_and(|before| Arc::ptr_eq(before, &compiled));
        Self { source, compiled, fresh }
    }
}

/// Names whose own documents are wrong: what only misses them is no second mistake.
pub(crate) type Broken = BTreeSet<String>;

impl PolicySet {
    /// Reads and builds: [`Sources::read`], then [`PolicySet::from_sources`].
    ///
    /// # Errors
    /// Every mistake in every file. None is mended by a retry, but for those with the codes `unreadable` and `no-policies`.
    pub fn load(dirs: &[PathBuf], previous: Option<&Self>) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Self::from_sources(&Sources::read(dirs), previous)
    }

    /// Builds a set, with its warnings. Pure. Unchanged files, services and components are those of `previous`.
    ///
    /// # Errors
    /// Every mistake in every file, sorted by file and line.
    pub fn from_sources(
        sources: &Sources,
        previous: Option<&Self>,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let nothing = Self::default();
        let previous = previous.unwrap_or(&nothing);
        let mut build = Build { previous, problems: sources.problems.clone(), broken: Broken::new() };
        let mut drafts: Vec<Draft<'_>> = Vec::with_capacity(sources.files.len());
        let of_kind = |kind| sources.files.iter().filter(move |source| source.kind == kind);
        let mut scripts: Scripts<'_> = BTreeMap::new();
        let mut known = Known::new(previous);
        for source in of_kind(SourceKind::Script) {
            let before = known.file(&source.path);
            if let Some(compiled) = build.script(source, before) {
                if let Some(script) = &compiled.script {
                    scripts.entry(&*source.root).or_default().insert(&source.name, script.clone());
                }
                drafts.push(Draft::new(source, compiled, before));
            }
        }
        let mut known = Known::new(previous);
        for source in of_kind(SourceKind::Policy) {
            let before = known.file(&source.path);
            if let Some(compiled) = build.policy(source, before, &scripts) {
                drafts.push(Draft::new(source, compiled, before));
            }
        }
        let Build { mut problems, broken, .. } = build;
        for (number, file) in capability::found(drafts.iter().map(|draft| &draft.compiled)) {
            (drafts[number].compiled, drafts[number].fresh) = (file, true);
        }
        problems.extend(check::check(&drafts, &broken));
        locate(&mut problems, sources);
        problems.sort_by(|a, b| {
            (&a.file, a.span.as_ref().map(|s| s.start)).cmp(&(&b.file, b.span.as_ref().map(|s| s.start)))
        });
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        let files: Files = drafts.into_iter().map(|d| (d.source.path.clone(), d.compiled)).collect();
        let hash = hash_of(&files);
        Ok((previous.with_files(hash, files), problems))
    }

    /// The set with other files; what stands in files that are the same is not looked at.
    pub(crate) fn with_files(&self, hash: Arc<str>, files: Files) -> Self {
        let mut next = Self { hash, files: Arc::new(files), ..self.clone() };
        let changed = differing(&self.files, &next.files);
        if changed.is_empty() {
            return next;
        }
        let services = Arc::make_mut(&mut next.services);
        let resources = Arc::make_mut(&mut next.resources);
        for file in changed.iter().filter_map(|(_, old, _)| *old) {
            file.services.iter().for_each(|(_, service)| drop(services.remove(&service.name)));
            file.resources.iter().for_each(|(_, resource)| drop(resources.remove(resource.id.as_str())));
        }
        for file in changed.iter().filter_map(|(_, _, new)| *new) {
            services.extend(file.services.iter().map(|(_, s)| (s.name.clone(), s.clone())));
            resources.extend(file.resources.iter().map(|(_, r)| (r.id.as_str().into(), r.clone())));
        }
        next
    }

    /// Whether a metric of some service is over a group.
    pub fn has_groups(&self) -> bool {
        self.files.values().any(|file| file.reach.groups)
    }
}

/// The files of a set, for somebody who asks for them in the order of their paths.
struct Known<'a>(Peekable<btree_map::Iter<'a, Arc<str>, Arc<CompiledFile>>>);

impl<'a> Known<'a> {
    fn new(set: &'a PolicySet) -> Self {
        Self(set.files.iter().peekable())
    }

    fn file(&mut self, path: &Arc<str>) -> Option<&'a Arc<CompiledFile>> {
        loop {
            let (next, file) = self.0.peek()?;
            let order = if Arc::ptr_eq(next, path) { Ordering::Equal } else { (**next).cmp(path) };
            match order {
                Ordering::Greater => return None,
                Ordering::Equal => return Some(file),
                Ordering::Less => drop(self.0.next()),
            }
        }
    }
}

type Scripts<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Arc<Script>>>;

struct Build<'a> {
    previous: &'a PolicySet,
    problems: Vec<Problem>,
    broken: Broken,
}

impl Build<'_> {
    /// The file as it was compiled before, when its content is the same; otherwise the hash of its content.
    fn unchanged(
        source: &SourceFile,
        before: Option<&Arc<CompiledFile>>,
    ) -> Result<Arc<CompiledFile>, blake3::Hash> {
        // A text that was not even read again needs no hash.
        if let Some(file) = before
            && Arc::ptr_eq(&file.text, &source.text)
        {
            return Ok(file.clone());
        }
        let hash = blake3::hash(source.text.as_bytes());
        before.filter(|file| file.hash == hash).cloned().ok_or(hash)
    }

    fn script(
        &mut self,
        source: &SourceFile,
        before: Option<&Arc<CompiledFile>>,
    ) -> Option<Arc<CompiledFile>> {
        let hash = match Self::unchanged(source, before) {
            Ok(file) => return Some(file),
            Err(hash) => hash,
        };
        match Script::compile(&source.name, &source.text) {
            Ok(script) => Some(Arc::new(CompiledFile {
                text: source.text.clone(),
                hash,
                services: Vec::new(),
                resources: Vec::new(),
                script: Some(Arc::new(script)),
                reach: Reach::default(),
            })),
            Err(error) => {
                let mut problem =
                    Problem::error("script", super::tree::Place::default(), error.message).hint(error.hint);
                let start = byte_at(&source.text, error.line.max(1), error.column.max(1));
                problem.span = Some(start..start);
                problem.locate(&source.path, &source.text, None);
                self.problems.push(problem);
                self.broken.insert(source.name.to_string());
                None
            }
        }
    }

    fn policy(
        &mut self,
        source: &SourceFile,
        before: Option<&Arc<CompiledFile>>,
        scripts: &Scripts<'_>,
    ) -> Option<Arc<CompiledFile>> {
        let empty = BTreeMap::new();
        let scripts = scripts.get(&*source.root).unwrap_or(&empty);
        let same_script = |name: &str, script: &Arc<Script>| {
            find_script(scripts, source, name).is_some_and(|now| Arc::ptr_eq(&now, script) || now == *script)
        };
        let hash = match Self::unchanged(source, before) {
            Ok(file) if !file.reach.scripts => return Some(file),
            Ok(file) => {
                let mut used = file.services.iter().flat_map(|(_, service)| &service.scripts);
                if used.all(|(name, script)| same_script(name, script)) {
                    return Some(file);
                }
                file.hash
            }
            Err(hash) => hash,
        };
        let documents = match parse(&source.text) {
            Ok(documents) => documents,
            Err(mut problem) => {
                problem.locate(&source.path, &source.text, None);
                self.problems.push(*problem);
                // Nothing is known of what is in it; the names that it seems to declare are not held against others.
                self.broken.extend(declared_names(&source.text));
                return None;
            }
        };
        let mut file = CompiledFile {
            text: source.text.clone(),
            hash,
            services: Vec::new(),
            resources: Vec::new(),
            script: None,
            reach: Reach::default(),
        };
        for (number, parsed) in documents.into_iter().enumerate() {
            self.document(source, scripts, number, parsed, &mut file);
        }
        file.services.shrink_to_fit();
        file.resources.shrink_to_fit();
        file.reach = Reach::of(file.services.iter().map(|(_, service)| service));
        Some(Arc::new(file))
    }

    fn document(
        &mut self,
        source: &SourceFile,
        scripts: &BTreeMap<&str, Arc<Script>>,
        number: usize,
        parsed: Parsed,
        file: &mut CompiledFile,
    ) {
        let mut problems = parsed.problems;
        match parsed.document {
            Some(Document::Service(document)) => {
                let find = |name: &str| find_script(scripts, source, name);
                match compile(*document, &find) {
                    Ok(service) if problems.is_empty() => file.services.push((number, self.shared(service))),
                    Ok(_) => {}
                    Err(found) => problems.extend(found.into_iter().filter(|problem| {
                        let follows = |name: &String| {
                            parsed.left_out.contains(name)
                                || parsed.left_out.iter().any(|l| follows_from(l, name))
                                || self.broken.contains(name)
                        };
                        !problem.subject.as_ref().is_some_and(follows)
                    })),
                }
            }
            Some(Document::Resource(document)) => match compile_resource(&document) {
                Ok(resource) if problems.is_empty() => file.resources.push((number, Arc::new(resource))),
                Ok(_) => {}
                Err(found) => problems.extend(found),
            },
            None => {}
        }
        if !problems.is_empty() {
            self.broken.extend(parsed.name.clone());
        }
        for mut problem in problems {
            if problem.code == "unknown-script"
                && let Some(name) = &problem.subject
            {
                problem.hint = suggestion_or_list(name, "scripts in the directory", scripts.keys().copied());
            }
            problem.service = parsed.name.as_deref().map(Arc::from);
            problem.locate(&source.path, &source.text, Some(&parsed.tree));
            self.problems.push(problem);
        }
    }

    /// The service with every part that is as before replaced by the one before, so that equal parts are one allocation.
    fn shared(&self, mut new: ServicePolicy) -> Arc<ServicePolicy> {
        let Some(old) = self.previous.services.get(&new.name) else { return Arc::new(new) };
        if new.scripts == old.scripts && new.document == old.document {
            return old.clone();
        }
        share(&mut new.monitor, &old.monitor);
        share(&mut new.analyze, &old.analyze);
        share(&mut new.plan, &old.plan);
        share(&mut new.execute, &old.execute);
        if new.resource == old.resource {
            new.resource = old.resource.clone();
        }
        Arc::new(new)
    }
}

/// A wrong sensor `disk` also takes its output `disk_state` away.
fn follows_from(left_out: &str, name: &str) -> bool {
    name.strip_prefix(left_out).is_some_and(|rest| rest.starts_with('_'))
}

fn share<T: PartialEq>(new: &mut Option<Arc<T>>, old: &Option<Arc<T>>) {
    if new == old {
        new.clone_from(old);
    }
}

/// A script beside the policy first, then from the root of the directory.
fn find_script(
    scripts: &BTreeMap<&str, Arc<Script>>,
    source: &SourceFile,
    name: &str,
) -> Option<Arc<Script>> {
    let beside = source.name.rsplit_once('/').map(|(folder, _)| format!("{folder}/{name}"));
    beside.and_then(|path| scripts.get(path.as_str())).or_else(|| scripts.get(name)).cloned()
}

/// What follows `service:` and `resource:` at the beginning of lines, in a text that is no YAML.
fn declared_names(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("service:").or_else(|| line.strip_prefix("resource:")))
        .map(|name| name.trim().trim_matches(['"', '\'']).to_string())
        .collect()
}

/// Finds file, line and column of the problems that come from the check of the whole set, which knows no texts.
fn locate(problems: &mut [Problem], sources: &Sources) {
    let mut trees: BTreeMap<Arc<str>, Vec<Parsed>> = BTreeMap::new();
    for problem in problems {
        let Some(file) = problem.file.clone().filter(|_| problem.line.is_none()) else { continue };
        let Some(text) = sources.text(&file) else { continue };
        let documents = trees.entry(file.clone()).or_insert_with(|| parse(text).unwrap_or_default());
        let tree = documents
            .iter()
            .filter(|parsed| parsed.name.as_deref() == problem.service.as_deref())
            .nth(problem.document_number)
            .map(|parsed| &parsed.tree);
        problem.locate(&file, text, tree);
    }
}

fn hash_of(files: &Files) -> Arc<str> {
    let mut hasher = blake3::Hasher::new();
    for (path, file) in files {
        hasher.update(path.as_bytes());
        hasher.update(&[0]);
        hasher.update(file.hash.as_bytes());
    }
    hasher.finalize().to_hex()[..16].into()
}
