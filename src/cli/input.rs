//! What the user hands over: files and arguments in YAML or JSON, directories of policies.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::{Exit, Failure};
use crate::policy::load::is_trial;
use crate::policy::overlay::inlined;

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{}: {error}", path.display()))
}

/// The text of a file; `-` is standard input.
pub(super) fn text_of(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| unreadable(path, &e))?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))
}

/// Only `true` and `false` are booleans: a service may be called `N`, and a property set to `on`.
fn parse(what: &str, text: &str) -> Result<Value, Failure> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| Failure::new(Exit::Usage, format!("{what}: {e}")))
}

/// A YAML or JSON file with one document; `-` is standard input. Scripts that its plan names are put in their place.
///
/// # Errors
/// The file, or a script beside it, cannot be read, or it is no YAML.
pub fn document(path: &Path) -> Result<Value, Failure> {
    let mut value = parse(&path.display().to_string(), &text_of(path)?)?;
    let beside = path.parent().filter(|_| path != Path::new("-"));
    if let Some(dir) = beside {
        let rows = if value.is_array() { Some(&mut value) } else { value.get_mut("plan") };
        inline_scripts(rows.and_then(Value::as_array_mut), dir)?;
    }
    Ok(value)
}

fn inline_scripts(rows: Option<&mut Vec<Value>>, dir: &Path) -> Result<(), Failure> {
    for row in rows.into_iter().flatten() {
        if let Some(Value::String(run)) = row.get_mut("run")
            && run.ends_with(".rhai")
            && !run.contains('\n')
        {
            let path = dir.join(&*run);
            let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
            *run = inlined(run, &text);
        }
    }
    Ok(())
}

/// An argument in YAML or JSON, or `@FILE`.
///
/// # Errors
/// The file cannot be read, or it is no YAML.
pub fn argument(text: &str) -> Result<Value, Failure> {
    match text.strip_prefix('@') {
        Some(path) => parse(path, &text_of(Path::new(path))?),
        None => parse("the argument", text),
    }
}

/// The policies and scripts of a directory (not their tests), by relative path. Names that begin with a dot are passed over.
///
/// # Errors
/// Something cannot be read, or there is nothing.
pub fn bundle(dir: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let mut files = BTreeMap::new();
    collect(dir, "", &mut files)?;
    if files.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{}: no YAML or rhai file there", dir.display())));
    }
    Ok(files)
}

fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir).map_err(|e| unreadable(dir, &e))? {
        let path = entry.map_err(|e| unreadable(dir, &e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else {
            continue;
        };
        let relative = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{relative}/"), files)?;
        } else if !is_trial(name) && [".yaml", ".yml", ".rhai"].iter().any(|end| name.ends_with(end)) {
            files.insert(relative, text_of(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_beside_a_document_are_put_in_their_place() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("s.rhai"), "fn plan(alarm) { [] }").expect("write");
        let file = dir.path().join("A.yaml");
        std::fs::write(&file, "plan:\n  - { when: cheap, run: s.rhai }\n").expect("write");
        let inline = "fn plan(alarm) { [] }\n// file: s.rhai\n";
        assert_eq!(document(&file).expect("document")["plan"][0]["run"], inline);
        std::fs::write(&file, "- { when: cheap, run: s.rhai }\n").expect("write");
        assert_eq!(document(&file).expect("section")[0]["run"], inline);
        std::fs::write(&file, "- { when: cheap, run: gone.rhai }\n").expect("write");
        assert!(document(&file).is_err_and(|e| e.exit == Exit::Usage && e.message.contains("gone.rhai")));
    }

    #[test]
    fn a_bundle_has_relative_paths_and_no_hidden_files() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::create_dir(dir.path().join("sub")).expect("sub");
        for name in ["a.yaml", "a.test.yaml", "sub/b.rhai", ".hidden.yaml", "notes.txt"] {
            std::fs::write(dir.path().join(name), "x").expect("write");
        }
        let files = bundle(dir.path()).expect("bundle");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.yaml", "sub/b.rhai"]);
        assert!(bundle(&dir.path().join("sub/none")).is_err_and(|e| e.exit == Exit::Usage));
    }

    #[test]
    fn an_objective_is_a_definition_too() {
        assert_eq!(argument("cost < 30").expect("text"), "cost < 30");
        assert_eq!(argument("{of: latency}").expect("map")["of"], "latency");
        assert_eq!(argument("N").expect("a name"), "N");
        assert_eq!(argument("true").expect("a boolean"), true);
    }
}
