//! All policies of an application as one immutable value, and how it comes from sources: what did not change is taken over
//! from the set before, by content hash, and shared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::check;
use super::compile::{compile, compile_resource};
use super::diagnostics::{Problem, byte_at, suggestion_or_list};
use super::load::{Document, Parsed, SourceFile, SourceKind, Sources, parse};
use super::script::Script;
use super::value::ServicePolicy;
use crate::model::Resource;

/// Every service and resource of an application, checked together.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    /// The managed services, by name.
    pub services: BTreeMap<Arc<str>, ServicePolicy>,
    /// What has no loop of its own, by name.
    pub resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// The content hash of all files (BLAKE3, hex, 16 digits).
    pub hash: Arc<str>,
    /// The files it came from, by path.
    pub files: BTreeMap<Arc<str>, Arc<CompiledFile>>,
}

/// What became of one file. Kept so that an unchanged file is neither parsed nor compiled again.
#[derive(Debug, Clone)]
pub struct CompiledFile {
    /// Its content, shared with the sources that it came from.
    pub text: Arc<str>,
    /// Its content hash.
    pub hash: blake3::Hash,
    /// The services in it, and the number of the document that each stands in.
    pub services: Vec<(usize, ServicePolicy)>,
    /// The resources in it.
    pub resources: Vec<(usize, Arc<Resource>)>,
    /// The script, when it is one.
    pub script: Option<Arc<Script>>,
}

/// What is known of a file while a set is built: trees and mistakes as well.
pub(crate) struct Draft<'a> {
    pub(crate) source: &'a SourceFile,
    pub(crate) compiled: Arc<CompiledFile>,
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
        let mut build = Build { previous, problems: sources.problems.clone(), broken: Broken::new() };
        let mut files: BTreeMap<Arc<str>, Arc<CompiledFile>> = BTreeMap::new();
        let mut drafts: Vec<Draft<'_>> = Vec::with_capacity(sources.files.len());
        let of_kind = |kind| sources.files.iter().filter(move |source| source.kind == kind);
        let mut scripts: Scripts<'_> = BTreeMap::new();
        for source in of_kind(SourceKind::Script) {
            if let Some(compiled) = build.script(source) {
                if let Some(script) = &compiled.script {
                    scripts.entry(&source.root).or_default().insert(&source.name, script.clone());
                }
                files.insert(source.path.clone(), compiled.clone());
                drafts.push(Draft { source, compiled });
            }
        }
        for source in of_kind(SourceKind::Policy) {
            if let Some(compiled) = build.policy(source, &scripts) {
                files.insert(source.path.clone(), compiled.clone());
                drafts.push(Draft { source, compiled });
            }
        }
        let Build { mut problems, broken, .. } = build;
        problems.extend(check::check(&drafts, &broken));
        locate(&mut problems, sources);
        problems.sort_by(|a, b| {
            (&a.file, a.span.as_ref().map(|s| s.start)).cmp(&(&b.file, b.span.as_ref().map(|s| s.start)))
        });
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        let hash = hash_of(&files);
        let mut set = Self { hash, files, ..Self::default() };
        for draft in &drafts {
            for (_, service) in &draft.compiled.services {
                set.services.insert(service.name.clone(), service.clone());
            }
            for (_, resource) in &draft.compiled.resources {
                set.resources.insert(resource.id.as_str().into(), resource.clone());
            }
        }
        Ok((set, problems))
    }
}

type Scripts<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Arc<Script>>>;

struct Build<'a> {
    previous: Option<&'a PolicySet>,
    problems: Vec<Problem>,
    broken: Broken,
}

impl<'a> Build<'a> {
    /// The file as it was compiled before, when its content is the same; otherwise the hash of its content.
    fn unchanged(&self, source: &SourceFile) -> Result<Arc<CompiledFile>, blake3::Hash> {
        let file = self.previous.and_then(|set| set.files.get(&source.path));
        // A text that was not even read again needs no hash.
        if let Some(file) = file
            && Arc::ptr_eq(&file.text, &source.text)
        {
            return Ok(file.clone());
        }
        let hash = blake3::hash(source.text.as_bytes());
        file.filter(|file| file.hash == hash).cloned().ok_or(hash)
    }

    fn script(&mut self, source: &SourceFile) -> Option<Arc<CompiledFile>> {
        let hash = match self.unchanged(source) {
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

    fn policy(&mut self, source: &SourceFile, scripts: &Scripts<'_>) -> Option<Arc<CompiledFile>> {
        let empty = BTreeMap::new();
        let scripts = scripts.get(&*source.root).unwrap_or(&empty);
        let same_script = |name: &str, script: &Arc<Script>| {
            find_script(scripts, source, name).is_some_and(|now| Arc::ptr_eq(&now, script) || now == *script)
        };
        let hash = match self.unchanged(source) {
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
        };
        for (number, parsed) in documents.into_iter().enumerate() {
            self.document(source, scripts, number, parsed, &mut file);
        }
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
    fn shared(&self, mut new: ServicePolicy) -> ServicePolicy {
        let Some(old) = self.previous.and_then(|set| set.services.get(&new.name)) else { return new };
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
        new
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

fn hash_of(files: &BTreeMap<Arc<str>, Arc<CompiledFile>>) -> Arc<str> {
    let mut hasher = blake3::Hasher::new();
    for (path, file) in files {
        hasher.update(path.as_bytes());
        hasher.update(&[0]);
        hasher.update(file.hash.as_bytes());
    }
    hasher.finalize().to_hex()[..16].into()
}
