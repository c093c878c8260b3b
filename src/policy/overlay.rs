//! Policies with changes made by hand laid over them: the same checks, but for what a change by hand may leave dangling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::capability;
use super::check;
use super::compile::DANGLING;
use super::diagnostics::Problem;
use super::load::{SourceFile, SourceKind};
use super::script::{Script, ScriptError};
use super::set::{CompiledFile, Draft, Files, PolicySet, Reach};
use super::value::ServicePolicy;

/// The name of the file that changes by hand seem to come from.
const BY_HAND: &str = "(by hand)";

/// A service as it was changed by hand.
#[derive(Debug, Clone)]
pub struct ByHand {
    /// `None`: detached.
    pub policy: Option<Arc<ServicePolicy>>,
    /// What the files said when the change was made, as a hash; empty when they said nothing.
    pub base: String,
    hash: blake3::Hash,
}

impl ByHand {
    /// A change over what the files say.
    pub fn new(policy: Option<ServicePolicy>, base: String) -> Self {
        let hash = blake3::hash(policy.as_ref().map_or("", |policy| policy.document.as_json()).as_bytes());
        Self { policy: policy.map(Arc::new), base, hash }
    }
}

/// Changes by hand, by service.
pub type Changes = BTreeMap<Arc<str>, ByHand>;

/// `base` with `changes` over it. With the warnings.
///
/// # Errors
/// Every mistake that shows when all are seen together.
pub fn overlay(base: &PolicySet, changes: &Changes) -> Result<(PolicySet, Vec<Problem>), Vec<Problem>> {
    if changes.is_empty() {
        return Ok((base.clone(), Vec::new()));
    }
    let mut files: Files =
        base.files.iter().map(|(path, file)| (path.clone(), without(file, changes))).collect();
    let mut fresh: BTreeSet<Arc<str>> = files.keys().cloned().collect();
    for (name, policy) in changes.iter().filter_map(|(name, change)| Some((name, change.policy.as_ref()?))) {
        let path = path_of(name);
        files.insert(path.clone(), Arc::new(hand_file(policy.clone())));
        fresh.insert(path);
    }
    checked(base, hash_of(base, changes), files, fresh)
}

/// The same as [`overlay`], where only the services `touched` are not as in `running`, which is what `base` with changes came to before: what
/// stays as it is is neither checked nor built again.
///
/// # Errors
/// As [`overlay`]. Warnings about what stays are not told again.
pub fn overlay_more(
    base: &PolicySet,
    running: &PolicySet,
    changes: &Changes,
    touched: &[Arc<str>],
) -> Result<(PolicySet, Vec<Problem>), Vec<Problem>> {
    let mut files = Files::clone(&running.files);
    let mut fresh = BTreeSet::new();
    for name in touched {
        let path = path_of(name);
        match changes.get(name).and_then(|change| change.policy.as_ref()) {
            Some(policy) => drop(files.insert(path.clone(), Arc::new(hand_file(policy.clone())))),
            None => drop(files.remove(&path)),
        }
        fresh.insert(path);
    }
    if touched.iter().any(|name| base.services.contains_key(name)) {
        let of_file = |file: &CompiledFile| file.services.iter().any(|(_, s)| touched.contains(&s.name));
        for (path, file) in base.files.iter().filter(|(_, file)| of_file(file)) {
            files.insert(path.clone(), without(file, changes));
            fresh.insert(path.clone());
        }
    }
    checked(running, hash_of(base, changes), files, fresh)
}

/// The set with these files in place of those of `before`, once they were checked together; `fresh` are those that differ.
fn checked(
    before: &PolicySet,
    hash: Arc<str>,
    mut files: Files,
    mut fresh: BTreeSet<Arc<str>>,
) -> Result<(PolicySet, Vec<Problem>), Vec<Problem>> {
    let found = capability::found(files.values());
    let paths: Vec<Arc<str>> = found.iter().filter_map(|(n, _)| files.keys().nth(*n).cloned()).collect();
    for (path, (_, file)) in paths.into_iter().zip(found) {
        fresh.insert(path.clone());
        files.insert(path, file);
    }
    let nothing: Arc<str> = "".into();
    let sources: Vec<SourceFile> = files.keys().map(|path| source(path, &nothing)).collect();
    let drafts: Vec<Draft<'_>> = sources
        .iter()
        .zip(files.values())
        .map(|(source, compiled)| Draft {
            source,
            compiled: compiled.clone(),
            fresh: fresh.contains(&source.path),
        })
        .collect();
    let problems = check::check(&drafts, &Default::default());
    let (mut warnings, mut errors): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|p| !p.is_error() || DANGLING.contains(&p.code));
    for problem in warnings.iter_mut().chain(&mut errors) {
        // Where in which of the changes is said by the service.
        if problem.file.as_ref().is_some_and(|file| file.starts_with(BY_HAND)) {
            problem.file = Some(BY_HAND.into());
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for warning in &mut warnings {
        warning.severity = super::diagnostics::ProblemSeverity::Warning;
    }
    Ok((before.with_files(hash, files), warnings))
}

/// The script of this name in any directory of the set.
pub fn script(set: &PolicySet, name: &str) -> Option<Arc<Script>> {
    set.files.values().filter_map(|f| f.script.as_ref()).find(|s| *s.name == *name).cloned()
}

/// What the last line of an inline script says, before the name that it had as a file.
const NAME: &str = "\n// file: ";

/// Whether what `run` says is the text of a script rather than the name of a file.
pub fn is_inline(run: &str) -> bool {
    run.contains("fn plan")
}

/// The text of a script to stand in `run`; its name stays with it, for people.
pub fn inlined(name: &str, source: &str) -> String {
    match is_inline(name) {
        true => source.to_string(),
        false => format!("{}{NAME}{name}\n", source.trim_end()),
    }
}

/// The script whose text stands in `run`.
///
/// # Errors
/// What is wrong with the script.
pub fn inline_script(run: &str) -> Result<Script, ScriptError> {
    let name = run.trim_end().rsplit_once(NAME).map(|(_, name)| name).filter(|name| !name.contains('\n'));
    Script::compile(name.unwrap_or("inline"), run)
}

fn without(file: &Arc<CompiledFile>, changes: &Changes) -> Arc<CompiledFile> {
    if !file.services.iter().any(|(_, s)| changes.contains_key(&s.name)) {
        return file.clone();
    }
    let mut file = (**file).clone();
    file.services.retain(|(_, s)| !changes.contains_key(&s.name));
    Arc::new(file)
}

/// The file that a change by hand seems to come from: one for each service, so that one that stays as it is needs no second look.
fn path_of(service: &str) -> Arc<str> {
    format!("{BY_HAND}/{service}").into()
}

fn hand_file(policy: Arc<ServicePolicy>) -> CompiledFile {
    CompiledFile {
        text: "".into(),
        hash: blake3::hash(policy.document.as_json().as_bytes()),
        reach: Reach::of([&policy]),
        services: vec![(0, policy)],
        resources: Vec::new(),
        script: None,
    }
}

fn source(path: &Arc<str>, nothing: &Arc<str>) -> SourceFile {
    SourceFile {
        path: path.clone(),
        root: nothing.clone(),
        name: path.clone(),
        kind: if path.ends_with(".rhai") { SourceKind::Script } else { SourceKind::Policy },
        text: nothing.clone(),
    }
}

fn hash_of(base: &PolicySet, changes: &Changes) -> Arc<str> {
    if changes.is_empty() {
        return base.hash.clone();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(base.hash.as_bytes());
    for (name, change) in changes {
        hasher.update(name.as_bytes());
        hasher.update(change.hash.as_bytes());
    }
    hasher.finalize().to_hex()[..16].into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::compile::compile_by_hand;
    use super::super::diff::diff;
    use super::super::load::{Sources, service_from_json};
    use super::*;

    const FILES: [(&str, &str); 3] = [
        ("a.yaml", "service: s0\nprovides: [pay]\n---\nservice: s1\nmonitor: { sensors: { x: push } }\n"),
        ("b.yaml", "service: s2\nreferences: { r: { service: s1 } }\nmonitor: { metrics: { y: r.x } }\n"),
        ("c.yaml", "service: s3\nreferences: { p: { capability: pay } }\n"),
    ];

    /// A policy of a service, one of a few that name each other.
    fn policy(service: usize, variant: usize) -> ServicePolicy {
        let monitor = serde_json::json!({ "sensors": { "x": "push" } });
        let document = match variant {
            0 => serde_json::json!({ "monitor": monitor }),
            1 => serde_json::json!({ "monitor": monitor, "provides": ["pay"] }),
            2 => serde_json::json!({ "references": { "r": { "service": format!("s{}", (service + 1) % 6) } },
                "monitor": { "metrics": { "x": "r.x + 1" } } }),
            _ => serde_json::json!({ "references": { "p": { "capability": "pay" } } }),
        };
        let mut document = document;
        document["service"] = format!("s{service}").into();
        compile_by_hand(service_from_json(&document).expect("a document"), &|_| None).expect("a policy").0
    }

    proptest! {
        /// Changes one by one come to the same as all at once, and are refused for the same reasons.
        #[test]
        fn what_is_laid_over_piece_by_piece_is_what_is_laid_over_at_once(
            changes in prop::collection::vec((0..6_usize, prop::option::of(0..4_usize)), 1..12),
        ) {
            let base = PolicySet::from_sources(&Sources::from_texts(FILES), None).expect("a set").0;
            let (mut running, mut by_hand) = (base.clone(), Changes::new());
            for (service, variant) in changes {
                let name: Arc<str> = format!("s{service}").into();
                let mut next = by_hand.clone();
                match (variant, base.services.contains_key(&name)) {
                    (None, false) => drop(next.remove(&name)),
                    (variant, _) => {
                        let policy = variant.map(|variant| policy(service, variant));
                        next.insert(name.clone(), ByHand::new(policy, String::new()));
                    }
                }
                let at_once = overlay(&base, &next);
                match (at_once, overlay_more(&base, &running, &next, &[name])) {
                    (Ok((all, _)), Ok((more, _))) => {
                        prop_assert_eq!(diff(&all, &more), vec![]);
                        prop_assert_eq!(&all.hash, &more.hash);
                        prop_assert!(all.services.keys().eq(more.services.keys()));
                        (running, by_hand) = (more, next);
                    }
                    (Err(all), Err(more)) => {
                        let codes = |problems: &[Problem]| problems.iter().map(|p| p.code).collect::<BTreeSet<_>>();
                        prop_assert_eq!(codes(&all), codes(&more));
                    }
                    (all, more) => prop_assert!(false, "{:?} {:?}", all.map(|_| ()), more.map(|_| ())),
                }
            }
        }
    }

    #[test]
    fn a_script_that_is_put_in_its_place_keeps_its_name() {
        let text = inlined("sub/a.rhai", "fn plan(alarm) { [] }\n");
        assert!(is_inline(&text) && !is_inline("sub/a.rhai"));
        assert_eq!(&*inline_script(&text).expect("script").name, "sub/a.rhai");
        assert_eq!(inlined(&text, &text), text);
        assert_eq!(&*inline_script("fn plan(alarm) { [] }").expect("script").name, "inline");
        assert!(inline_script("fn plan(alarm) { ").is_err());
    }
}
