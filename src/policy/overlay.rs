//! Policies with changes made by hand laid over them: the same checks, but for what a change by hand may leave dangling.

use std::collections::BTreeMap;
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

/// `base` with `changes` over it: service → its policy, or `None` where it was detached. With the warnings.
///
/// # Errors
/// Every mistake that shows when all are seen together.
pub fn overlay(
    base: &PolicySet,
    changes: &BTreeMap<Arc<str>, Option<ServicePolicy>>,
) -> Result<(PolicySet, Vec<Problem>), Vec<Problem>> {
    if changes.is_empty() {
        return Ok((base.clone(), Vec::new()));
    }
    let mut files: Files =
        base.files.iter().map(|(path, file)| (path.clone(), without(file, changes))).collect();
    let by_hand: Vec<Arc<ServicePolicy>> = changes.values().flatten().cloned().map(Arc::new).collect();
    files.insert(BY_HAND.into(), Arc::new(hand_file(by_hand)));
    let changed = capability::found(files.values());
    let paths: Vec<Arc<str>> = changed.iter().filter_map(|(n, _)| files.keys().nth(*n).cloned()).collect();
    files.extend(paths.into_iter().zip(changed).map(|(path, (_, file))| (path, file)));
    let sources: Vec<(SourceFile, Arc<CompiledFile>)> =
        files.iter().map(|(path, file)| (source(path), file.clone())).collect();
    let drafts: Vec<Draft<'_>> = sources
        .iter()
        .map(|(source, compiled)| Draft { source, compiled: compiled.clone(), fresh: true })
        .collect();
    let problems = check::check(&drafts, &Default::default());
    let (mut warnings, errors): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|p| !p.is_error() || DANGLING.contains(&p.code));
    if !errors.is_empty() {
        return Err(errors);
    }
    for warning in &mut warnings {
        warning.severity = super::diagnostics::ProblemSeverity::Warning;
    }
    Ok((base.with_files(hash_of(base, changes), files), warnings))
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

fn without(
    file: &Arc<CompiledFile>,
    changes: &BTreeMap<Arc<str>, Option<ServicePolicy>>,
) -> Arc<CompiledFile> {
    if !file.services.iter().any(|(_, s)| changes.contains_key(&s.name)) {
        return file.clone();
    }
    let mut file = (**file).clone();
    file.services.retain(|(_, s)| !changes.contains_key(&s.name));
    Arc::new(file)
}

fn hand_file(services: Vec<Arc<ServicePolicy>>) -> CompiledFile {
    CompiledFile {
        text: "".into(),
        hash: blake3::hash(BY_HAND.as_bytes()),
        reach: Reach::of(&services),
        services: services.into_iter().enumerate().collect(),
        resources: Vec::new(),
        script: None,
    }
}

fn source(path: &Arc<str>) -> SourceFile {
    SourceFile {
        path: path.clone(),
        root: "".into(),
        name: path.clone(),
        kind: if path.ends_with(".rhai") { SourceKind::Script } else { SourceKind::Policy },
        text: "".into(),
    }
}

fn hash_of(base: &PolicySet, changes: &BTreeMap<Arc<str>, Option<ServicePolicy>>) -> Arc<str> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(base.hash.as_bytes());
    for (name, policy) in changes {
        hasher.update(name.as_bytes());
        hasher.update(policy.as_ref().map_or("", |policy| policy.document.as_json()).as_bytes());
    }
    hasher.finalize().to_hex()[..16].into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
