//! From directories to documents. [`Sources::read`] is the only input and output of the policy module besides `watch`;
//! what follows is a function of the texts.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostics::{Problem, closest};
use super::document::{ResourceDocument, ServiceDocument};
use super::tree::{self, DecodeError, Node, Place, Step};

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// How deep scripts may lie below a policy directory.
const MAX_SCRIPT_DEPTH: usize = 8;

/// After this many mistakes in one document the rest is not looked for.
const MAX_MISTAKES: usize = 100;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// `*.yaml`, `*.yml`.
    Policy,
    /// `*.rhai`.
    Script,
    /// `*.test.yaml`, `*.test.yml`: what policies are expected to do; no part of them.
    Trial,
}

/// One file as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path for people: the directory as given, and the file in it.
    pub path: Arc<str>,
    /// The directory as given; scripts are looked up in the directory of the policy.
    pub root: Arc<str>,
    /// The path inside the directory, with `/`: the name that policies use for a script.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: SourceKind,
    /// The content.
    pub text: Arc<str>,
}

/// What changed since sources were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Nothing is known; everything is read again.
    Everything,
    /// At most these files were written, created, moved or deleted.
    Files(BTreeSet<PathBuf>),
}

impl Default for Changed {
    fn default() -> Self {
        Self::Files(BTreeSet::new())
    }
}

/// Everything that was read, and what could not be.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The files, sorted by path.
    pub files: Vec<SourceFile>,
    /// Errors of reading, each naming its file.
    pub problems: Vec<Problem>,
}

impl Sources {
    /// Reads all policies (`*.yaml`, `*.yml`) of the directories and all scripts (`*.rhai`) of them and of their
    /// sub-directories. A single policy file may be given as well; its scripts are those of its directory.
    ///
    /// Hidden files and editor backups are ignored; a file that vanishes meanwhile counts as deleted.
    /// Nothing fails as a whole: what cannot be read is a problem that names it.
    pub fn read(dirs: &[PathBuf]) -> Self {
        let mut sources = Self::default();
        for dir in dirs {
            let shown: Arc<str> = shown(dir).into();
            match std::fs::metadata(dir) {
                Ok(meta) if meta.is_dir() => {
                    let before = sources.files.len() + sources.problems.len();
                    sources.read_dir(dir, &shown, "", 0, true);
                    let found = &sources.files[..];
                    if sources.files.len() + sources.problems.len() == before
                        || !found.iter().any(|f| f.kind == SourceKind::Policy && *f.root == *shown)
                            && sources.problems.is_empty()
                    {
                        sources.complain(&shown, "no-policies", "the directory holds no policy".into(), Some(
                            "expected at least one `*.yaml` file; a file with comments only stands for no services".into(),
                        ));
                    }
                }
                Ok(_) => {
                    let parent = home_of(dir);
                    let root: Arc<str> = self::shown(&parent).into();
                    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                    sources.read_dir(&parent, &root, "", 0, false);
                    sources.read_file(dir, &shown, &root, &name, SourceKind::Policy);
                }
                Err(error) => {
                    sources.complain(&shown, "unreadable", format!("cannot be read: {error}"), None)
                }
            }
        }
        sources.files.sort_by(|a, b| a.path.cmp(&b.path));
        sources.files.dedup_by(|a, b| a.path == b.path);
        sources
    }

    /// Reads the tests (`*.test.yaml`, `*.test.yml`) that lie in a directory beside its policies, or the one given.
    pub fn read_trials(place: &Path) -> Self {
        let mut trials = Self::default();
        if !place.is_dir() {
            let name = place.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let root: Arc<str> = shown(&home_of(place)).into();
            trials.read_file(place, &shown(place), &root, &name, SourceKind::Trial);
            return trials;
        }
        let root: Arc<str> = shown(place).into();
        match std::fs::read_dir(place) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if is_trial(&name) && !is_ignored(&name) {
                        trials.read_file(&entry.path(), &join(&root, &name), &root, &name, SourceKind::Trial);
                    }
                }
            }
            Err(error) => trials.complain(&root, "unreadable", format!("cannot be read: {error}"), None),
        }
        trials.files.sort_by(|a, b| a.path.cmp(&b.path));
        trials
    }

    /// What [`Sources::read`] would give, when no more than `changed` is different since `self` was read from `dirs`.
    /// Reads only those files; everything, when a problem of reading is among what is known.
    pub fn refresh(self, dirs: &[PathBuf], changed: &Changed) -> Self {
        let Changed::Files(paths) = changed else { return Self::read(dirs) };
        if !self.problems.is_empty() {
            return Self::read(dirs);
        }
        let mut next = self;
        for path in paths {
            // The watcher names files absolutely, whichever way the directory was given.
            let inside = |dir: &PathBuf| {
                let whole = std::path::absolute(dir).ok()?;
                path.strip_prefix(dir).or_else(|_| path.strip_prefix(&whole)).map(Path::to_path_buf).ok()
            };
            let home = dirs.iter().find_map(|dir| Some((dir, inside(dir)?)));
            let Some((dir, inside)) = home.filter(|(dir, _)| dir.is_dir()) else { return Self::read(dirs) };
            let name = inside.to_string_lossy().replace('\\', "/");
            let ignored = name.split('/').any(is_ignored);
            let Some(kind) = kind_of(&name).filter(|_| !ignored) else { continue };
            if kind == SourceKind::Policy && name.contains('/') {
                continue;
            }
            let root: Arc<str> = shown(dir).into();
            let file = join(&root, &name);
            if let Ok(known) = next.files.binary_search_by(|f| (*f.path).cmp(file.as_str())) {
                next.files.remove(known);
            }
            let before = next.files.len();
            next.read_file(path, &file, &root, &name, kind);
            if let Some(new) = (next.files.len() > before).then(|| next.files.pop()).flatten() {
                let at = next.files.partition_point(|f| f.path < new.path);
                next.files.insert(at, new);
            }
        }
        // Without a policy in one of the directories the answer is an error, which `read` words.
        let empty = |dir: &PathBuf| {
            let root = shown(dir);
            !next.files.iter().any(|f| f.kind == SourceKind::Policy && *f.root == *root)
        };
        if dirs.iter().any(empty) { Self::read(dirs) } else { next }
    }

    fn complain(&mut self, file: &str, code: &'static str, message: String, hint: Option<String>) {
        let mut problem = Problem::error(code, Place::default(), message).hint(hint);
        problem.file = Some(file.into());
        self.problems.push(problem);
    }

    fn read_dir(&mut self, dir: &Path, root: &Arc<str>, prefix: &str, depth: usize, policies: bool) {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if depth > 0 && error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.complain(&shown(dir), "unreadable", format!("cannot be read: {error}"), None);
            }
        };
        for entry in entries.flatten() {
            let Ok(file_name) = entry.file_name().into_string() else {
                // A name that is no UTF-8 can be neither reported nor referred to; it matters only if it is a policy.
                let lossy = entry.file_name().to_string_lossy().into_owned();
                if kind_of(&lossy).is_some() {
                    let path = format!("{root}/{prefix}{lossy}");
                    self.complain(&path, "not-utf8", "the name of the file is not UTF-8".into(), None);
                }
                continue;
            };
            if is_ignored(&file_name) {
                continue;
            }
            let path = entry.path();
            let kind = kind_of(&file_name);
            // Only what may be a directory costs a look; most entries are plain policies.
            if kind.is_none() {
                if depth < MAX_SCRIPT_DEPTH && path.is_dir() {
                    self.read_dir(&path, root, &format!("{prefix}{file_name}/"), depth + 1, false);
                }
                continue;
            }
            match kind {
                Some(SourceKind::Policy) if policies => {
                    let name = format!("{prefix}{file_name}");
                    self.read_file(&path, &join(root, &name), root, &name, SourceKind::Policy);
                }
                Some(SourceKind::Script) => {
                    let name = format!("{prefix}{file_name}");
                    self.read_file(&path, &join(root, &name), root, &name, SourceKind::Script);
                }
                _ => {}
            }
        }
    }

    fn read_file(&mut self, path: &Path, shown: &str, root: &Arc<str>, name: &str, kind: SourceKind) {
        match read_text(path) {
            Ok(Some(text)) => self.files.push(SourceFile {
                path: shown.into(),
                root: root.clone(),
                name: name.into(),
                kind,
                text: text.into(),
            }),
            Ok(None) => {}
            Err((code, message)) => self.complain(shown, code, message, None),
        }
    }

    /// The text of a file, for rendering problems.
    pub fn text(&self, file: &str) -> Option<&str> {
        self.files.binary_search_by(|f| (*f.path).cmp(file)).ok().map(|i| &*self.files[i].text)
    }

    /// Sources from texts: `("shop.yaml", "service: shop")`. For tests and for programs that keep policies elsewhere.
    pub fn from_texts<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files: Vec<_> = files
            .into_iter()
            .filter_map(|(name, text)| {
                Some(SourceFile {
                    path: name.into(),
                    root: "".into(),
                    name: name.into(),
                    kind: kind_of(name)?,
                    text: text.into(),
                })
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files, problems: Vec::new() }
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn join(root: &str, name: &str) -> String {
    if root.ends_with('/') { format!("{root}{name}") } else { format!("{root}/{name}") }
}

/// The directory of a file.
pub(crate) fn home_of(file: &Path) -> PathBuf {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// Whether a file of this name holds tests of policies.
pub(crate) fn is_trial(name: &str) -> bool {
    name.ends_with(".test.yaml") || name.ends_with(".test.yml")
}

/// What a file of this name is to those who load policies: tests are nothing to them.
fn kind_of(name: &str) -> Option<SourceKind> {
    if is_trial(name) {
        return None;
    }
    match name.rsplit_once('.')?.1 {
        "yaml" | "yml" => Some(SourceKind::Policy),
        "rhai" => Some(SourceKind::Script),
        _ => None,
    }
}

/// Hidden files (also the `..data` of mounted configuration), lock files and backups of editors.
pub(crate) fn is_ignored(name: &str) -> bool {
    name.starts_with(['.', '#']) || name.ends_with(['~', '#'])
}

/// The content; `None` when the file vanished.
fn read_text(path: &Path) -> Result<Option<String>, (&'static str, String)> {
    let failed = |error: std::io::Error| ("unreadable", format!("cannot be read: {error}"));
    let gone = |error: &std::io::Error| {
        error.kind() == std::io::ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err()
    };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !meta.is_file() {
        return Err(("unreadable", "is no regular file".into()));
    }
    let too_large = || {
        ("too-large", format!("is larger than {} KiB, the most that a policy file may have", MAX_FILE / 1024))
    };
    if meta.len() > MAX_FILE {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0) + 1);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    if bytes.trim_ascii().is_empty() {
        // Between the two halves of a write a file is empty; that must not detach its services.
        return Err(("empty-file", "is empty; a file with comments only stands for no services".into()));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| ("not-utf8", format!("is not UTF-8 (at byte {})", error.utf8_error().valid_up_to())))
}

// ---- from text to documents ----------------------------------------------------------------------------------------

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// `service:`
    Service(Box<ServiceDocument>),
    /// `resource:`
    Resource(ResourceDocument),
}

/// A document with its tree, and what is wrong with its shape.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    /// The document without the parts that are wrong; `None` when nothing can be made of it.
    pub(crate) document: Option<Document>,
    /// The name that it gives itself, even when it is wrong.
    pub(crate) name: Option<String>,
    /// Where everything stands.
    pub(crate) tree: Node,
    /// What is wrong; not located yet.
    pub(crate) problems: Vec<Problem>,
    /// The names of the parts that were left out, so that what misses them is no second mistake.
    pub(crate) left_out: Vec<String>,
}

/// The documents of a policy file, or the one syntax error that hides them. Pure.
pub(crate) fn parse(text: &str) -> Result<Vec<Parsed>, Box<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match tree::parse_yaml(text) {
        Ok(trees) => Ok(trees.into_iter().map(|tree| parse_tree(tree, text)).collect()),
        Err(error) => {
            let hint = error.message.contains("tab").then(|| "YAML is indented with spaces".to_string());
            let mut problem = Problem::error("yaml-syntax", Place::default(), error.message).hint(hint);
            // Without a position the mistake is at the end: something is missing there.
            problem.span = Some(error.span.unwrap_or(text.trim_end().len()..text.trim_end().len()));
            Err(Box::new(problem))
        }
    }
}

fn parse_tree(tree: Node, text: &str) -> Parsed {
    let named = |key: &str| tree.get(key).and_then(Node::text).map(str::to_string);
    if tree.has("resource") && !tree.has("service") {
        let name = named("resource");
        let (document, problems, left_out) = decode_all::<ResourceDocument>(&tree, text);
        return Parsed { document: document.map(Document::Resource), name, tree, problems, left_out };
    }
    let name = named("service");
    if !tree.has("service") {
        let hint = tree
            .keys()
            .and_then(|keys| closest("service", keys))
            .map(|near| format!("did you mean `service` instead of `{near}`?"));
        let problem = Problem::error(
            "missing-field",
            Place::default(),
            "a document needs `service: NAME` or `resource: NAME`",
        )
        .hint(hint);
        return Parsed { document: None, name, tree, problems: vec![problem], left_out: Vec::new() };
    }
    let (document, problems, left_out) = decode_all::<ServiceDocument>(&tree, text);
    Parsed { document: document.map(|d| Document::Service(Box::new(d))), name, tree, problems, left_out }
}

/// Reads a service document from JSON, as the API sends it, with every mistake in its shape.
///
/// # Errors
/// Every mistake, with its place in the document.
pub fn service_from_json(value: &serde_json::Value) -> Result<ServiceDocument, Vec<Problem>> {
    match decode_all(&Node::from_json(value), "") {
        (Some(document), problems, _) if problems.is_empty() => Ok(document),
        (_, problems, _) => Err(problems),
    }
}

/// Decodes a tree; after a mistake the wrong part is left out and the rest is tried again, so that all mistakes are found.
pub(super) fn decode_all<T: serde::de::DeserializeOwned>(
    tree: &Node,
    text: &str,
) -> (Option<T>, Vec<Problem>, Vec<String>) {
    let (mut problems, mut left_out) = (Vec::new(), Vec::new());
    let first = match tree::decode(tree, text) {
        Ok(document) => return (Some(document), problems, left_out),
        Err(error) => error,
    };
    let mut rest = tree.clone();
    let mut wrong_parts: Vec<Vec<Step>> = Vec::new();
    let mut removed: Vec<Vec<Step>> = Vec::new();
    let mut error: DecodeError = first;
    loop {
        let mut steps = error.steps.clone();
        let part = part(&steps).to_vec();
        // A field that is missing because it was wrong, and taken out, is no second mistake.
        let follows = error.missing.is_some_and(|field| {
            let mut field_steps = steps.clone();
            field_steps.push(field.into());
            removed.contains(&field_steps)
        });
        if error.code != "unknown-field" && !wrong_parts.contains(&part) {
            wrong_parts.push(part.clone());
        }
        // Without its tag a mapping is empty, and that would be a second mistake. What a step of a test says is the value of its tag.
        let untagged = error.code == "unknown-word" && error.key
            || matches!(&steps[..], [Step::Key(list), Step::Index(_), Step::Key(_)] if list == "steps");
        if follows || untagged || error.missing.is_some() {
            steps = part;
        }
        if !follows {
            let place = Place { steps: error.steps, key: error.key, inner: None };
            let problem = Problem::error(error.code, place, error.message).hint(error.hint);
            problems.push(match steps.last() {
                Some(Step::Key(name)) => problem.about(name),
                _ => problem,
            });
        }
        if steps.is_empty() || problems.len() >= MAX_MISTAKES || !rest.remove(&steps) {
            return (None, problems, left_out);
        }
        removed.push(steps);
        match tree::decode::<T>(&rest, text) {
            Ok(_) => break,
            Err(next) => error = next,
        }
    }
    for part in &wrong_parts {
        rest.remove(part);
        if let Some(Step::Key(name)) = part.last() {
            left_out.push(name.clone());
        }
    }
    (tree::decode(&rest, text).ok(), problems, left_out)
}

/// The part of a document that a mistake makes useless: one metric, one SLO, one row, one reference.
fn part(steps: &[Step]) -> &[Step] {
    let depth = match steps.first() {
        Some(Step::Key(section)) => match section.as_str() {
            "monitor" => 3,
            "references" | "relations" | "analyze" | "plan" | "execute" | "steps" => 2,
            _ => 1,
        },
        _ => 1,
    };
    &steps[..steps.len().min(depth)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        match parse(text) {
            Err(problem) => vec![problem.to_string()],
            Ok(documents) => documents
                .iter()
                .flat_map(|d| {
                    d.problems.iter().map(|p| {
                        let mut p = p.clone();
                        p.locate(&"f".into(), text, Some(&d.tree));
                        p.to_string()
                    })
                })
                .collect(),
        }
    }

    #[test]
    fn every_mistake_in_a_document_is_told_not_only_the_first() {
        let text = "\
service: shop
clas: VM
monitor:
  sensors:
    a: { http: { ulr: 'http://x/', url: 'http://y/' } }
    b: pusch
    c: { every: 5s }
    d: { host: { what: cpuu } }
    e: push
  metrics:
    m: { of: e, aggregate: p200, over: 5 parsecs }
    n: [1]
    o: true
analyze:
  cheap: { severity: major }
plan:
  - { when: cheap, mode: yes }
  - { when: { a: b } }
execute:
  set: logg
";
        insta::assert_snapshot!(mistakes(text).join("\n"), @r#"
        f:2:1: error: there is no field `clas` here (hint: did you mean `class`?)
        f:5:18: error: there is no field `ulr` here (hint: did you mean `url`?)
        f:6:8: error: `pusch` is not known here (hint: did you mean `push`?)
        f:7:10: error: `every` is not known here (hint: there are `push`, `host`, `process`, `http`, `exec`, `nagios`, `ping`, `prometheus`, `udp`, `statsd`, `collectd`, `proxy`, `property`, `collect`, `custom`)
        f:8:24: error: `cpuu` is not known here (hint: did you mean `cpu`?)
        f:11:28: error: `p200` is no aggregate; expected avg, sum, min, max, count, rate, delta, stddev, ewma, ewma(GAIN), ewma32(GAIN), last, age, median or a percentile such as p99 or p99.9
        f:11:40: error: `5 parsecs` is no duration (the unit is unknown); expected a number with a unit, such as 30s, 1500ms or 1m30s
        f:12:5: error: found a list, expected an expression such as `own_cost + payment.cost`, a number, or a mapping with `expr` or `of`
        f:13:8: error: found the boolean true, expected an expression such as `own_cost + payment.cost`, a number, or a mapping with `expr` or `of`
        f:15:3: error: the field `objective` is missing
        f:17:26: error: `yes` is not known here (hint: there are `observe`, `advise`, `approve`, `act`)
        f:18:7: error: found a mapping, expected the name of an SLO, a list of them, or `*`
        f:20:8: error: `logg` is not known here (hint: did you mean `log`?)
        "#);
    }
}
