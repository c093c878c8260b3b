//! The rules of the house that the compiler does not check: who may import whom, what is pure, and how files begin.
//! They are explained in `docs/ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of this crate each module may import. Not listed means forbidden; a module that is not listed here fails.
const IMPORTS: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("knowledge", &["model"]),
    ("connectors", &["model"]),
    ("membrane", &["model", "connectors"]),
    ("policy", &["model", "knowledge"]),
    ("monitor", &["model", "knowledge", "policy"]),
    ("analyze", &["model", "knowledge", "policy"]),
    ("plan", &["model", "knowledge", "policy"]),
    ("execute", &["model", "knowledge", "policy"]),
    (
        "service",
        &["model", "knowledge", "policy", "monitor", "analyze", "plan", "execute", "connectors", "membrane"],
    ),
    ("dialects", &["model", "knowledge", "policy", "service"]),
    ("api", &["model", "knowledge", "policy", "service"]),
    ("daemon", &["model", "knowledge", "policy", "service", "connectors", "membrane", "api"]),
    (
        "cli",
        &["model", "knowledge", "policy", "service", "connectors", "membrane", "dialects", "api", "daemon"],
    ),
];

/// Which parts of `service` the API may see: what it offers to surfaces, and nothing of how that is done.
const API_SEES: &[&str] = &["control"];

/// The pure files and directories: functions of state, message and time.
const PURE: [&str; 11] = [
    "dialects",
    "monitor",
    "analyze",
    "plan",
    "execute",
    "policy",
    "service/turn",
    "service/shard.rs",
    "service/message.rs",
    "service/groups.rs",
    "service/simulation.rs",
];

/// What of them is not: it has sockets.
const NOT_PURE: [&str; 6] = [
    "dialects/access.rs",
    "dialects/prefer.rs",
    "dialects/occi/server/",
    "dialects/tower/server/",
    "dialects/tower/collector/mod.rs",
    "dialects/tower/collector/outbox.rs",
];

/// What pure code never names: the runtime, the clocks, the world, and the parts of `service` that touch them.
const IMPURE: [&str; 13] = [
    "tokio",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "clock::",
    "shell::",
    "sensing::",
    "supervisor::",
    "handle::",
];

/// Where a pure module touches the world all the same: the file, what of it, and why.
const TOUCHES: [(&str, &[&str], &str); 2] = [
    ("policy/watch.rs", &["tokio", "SystemTime", "std::fs"], "it only says that files changed"),
    (
        "policy/load.rs",
        &["std::fs"],
        "`Sources::read` is the way in for policy files; the rest of the module sees texts",
    ),
];

/// One source file without its tests and comments.
struct Source {
    /// From `src`, with `/`.
    path: String,
    text: String,
    code: Vec<(usize, String)>,
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn paths(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path()) {
        match path.is_dir() {
            true => paths(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

/// All source files; those that hold nothing but tests are left out.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    paths(&src(), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("text");
            let parts = path.strip_prefix(src()).expect("below src").components();
            let path = parts.map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            Source { code: code(&text), path, text }
        })
        .filter(|s| !s.path.ends_with("/tests.rs"))
        .collect()
}

/// The lines of code with their numbers, without comments and without items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
/// That rustfmt has been over the file is what finds the end of an item: its brace stands below its beginning.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut kept = Vec::new();
    let mut skip: Option<Option<String>> = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        match &skip {
            Some(Some(end)) => {
                if line == end.as_str() {
                    skip = None;
                }
                continue;
            }
            Some(None) if trimmed.starts_with("#[") || trimmed.starts_with("//") => continue,
            Some(None) => {
                skip = (!trimmed.ends_with(';')).then(|| Some(format!("{indent}}}")));
                continue;
            }
            None => {}
        }
        if trimmed.starts_with("#[cfg(test)]") || trimmed.starts_with("#[cfg(all(test,") {
            skip = Some(None);
        } else if !trimmed.starts_with("//") {
            let code = line.split(" // ").next().unwrap_or_default();
            kept.push((number + 1, code.to_string()));
        }
    }
    kept
}

/// The module of the crate that a file belongs to; none for `lib.rs` and `main.rs`.
fn module(path: &str) -> Option<&str> {
    let first = path.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main"].contains(&name)).then_some(name)
}

/// What follows `prefix` in a line, up to the end of the name; for every place where it stands.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let before = line[..at].chars().next_back();
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        whole.then_some(&rest[..end])
    })
}

/// The imports of one file that the table does not allow.
fn forbidden(source: &Source) -> Vec<String> {
    let Some(own) = module(&source.path) else { return Vec::new() };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == own) else {
        return vec![format!("{}: module `{own}` is not in the table of imports", source.path)];
    };
    let mut wrong = Vec::new();
    for (number, line) in &source.code {
        let at = format!("{}:{number}", source.path);
        for name in names_after(line, "crate::") {
            if name.is_empty() {
                wrong.push(format!("{at}: one `use crate::module::…` per module, so that this test sees it"));
            } else if name != own && !allowed.contains(&name) {
                wrong.push(format!("{at}: `{own}` may not import `{name}`"));
            }
        }
        if leaves(&source.path, line) {
            wrong.push(format!("{at}: `super` leads out of the module; write `crate::…`"));
        }
    }
    wrong
}

/// Whether a chain of `super` in this line reaches the root of the crate.
fn leaves(path: &str, line: &str) -> bool {
    let file = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let depth = file.split('/').count();
    line.contains(&"super::".repeat(depth))
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let wrong: Vec<String> = sources().iter().flat_map(forbidden).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circle_and_no_module_that_is_gone() {
    let there: BTreeSet<String> =
        sources().iter().filter_map(|s| module(&s.path).map(str::to_string)).collect();
    let listed: BTreeSet<String> = IMPORTS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(there, listed);
    let mut placed: BTreeMap<&str, ()> = BTreeMap::new();
    for (name, imports) in IMPORTS {
        let early: Vec<_> = imports.iter().filter(|i| !placed.contains_key(*i)).collect();
        assert!(early.is_empty(), "`{name}` imports {early:?}, which stand below it");
        placed.insert(name, ());
    }
}

#[test]
fn the_api_sees_of_a_service_only_what_surfaces_may() {
    for source in sources().iter().filter(|s| module(&s.path) == Some("api")) {
        for (number, line) in &source.code {
            for part in names_after(line, "crate::service::") {
                assert!(API_SEES.contains(&part), "{}:{number}: `service::{part}`", source.path);
            }
        }
    }
}

/// Requirement: R3-27
#[test]
fn what_decides_names_no_runtime_no_clock_and_no_world() {
    let pure = |path: &str| {
        !NOT_PURE.iter().any(|p| path.starts_with(p))
            && PURE.iter().any(|p| path == *p || path.starts_with(&format!("{p}/")))
    };
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| pure(&s.path)) {
        let excused =
            TOUCHES.iter().find(|(file, ..)| *file == source.path).map_or(&[][..], |(_, what, _)| what);
        for (number, line) in &source.code {
            for word in IMPURE.iter().filter(|w| line.contains(**w) && !excused.contains(w)) {
                wrong.push(format!("{}:{number}: `{word}` in a pure module", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_excuse_that_is_not_needed_is_taken_back() {
    let sources = sources();
    for (file, words, why) in TOUCHES {
        let source = sources.iter().find(|s| s.path == file);
        let source = source.unwrap_or_else(|| panic!("{file} ({why}) is gone"));
        for word in words {
            let used = source.code.iter().any(|(_, line)| line.contains(word));
            assert!(used, "{file} does not use `{word}` any more");
        }
    }
}

#[test]
fn files_of_a_stage_do_not_import_each_other() {
    let stages = ["monitor", "analyze", "plan", "execute"];
    let sources = sources();
    for source in sources.iter().filter(|s| stages.contains(&module(&s.path).unwrap_or_default())) {
        let (dir, file) = source.path.rsplit_once('/').unwrap_or_default();
        if file == "mod.rs" || file.is_empty() {
            continue;
        }
        let siblings: Vec<&str> = sources
            .iter()
            .filter_map(|s| s.path.strip_prefix(&format!("{dir}/"))?.strip_suffix(".rs"))
            .filter(|name| *name != "mod")
            .collect();
        for (number, line) in &source.code {
            for name in names_after(line, "super::") {
                assert!(!siblings.contains(&name), "{}:{number}: `super::{name}`", source.path);
            }
        }
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let silent: Vec<String> =
        sources().into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path).collect();
    assert!(silent.is_empty(), "without a `//!` sentence at the beginning: {}", silent.join(", "));
}

#[test]
fn nothing_outside_tests_panics_on_purpose() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in &source.code {
            for word in [".unwrap()", ".expect(", "panic!(", "todo!", "unimplemented!"] {
                if line.contains(word) {
                    wrong.push(format!("{}:{number}: `{word}`", source.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_and_comments_are_not_code() {
    let text = "use a;\n// crate::x\n#[cfg(test)]\nmod tests {\n    use b;\n    fn f() {\n    }\n}\n#[cfg(all(test, unix))]\n#[path = \"x\"]\nmod more;\nuse c; // why\n";
    let lines: Vec<String> = code(text).into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["use a;", "use c;"]);
    assert_eq!(names_after("pub use crate::model::X; crate::plan::f(); my_crate::z", "crate::").count(), 2);
    assert!(leaves("api/mod.rs", "use super::model;") && leaves("api/x.rs", "use super::super::model;"));
    assert!(!leaves("service/turn/act.rs", "use super::super::message;"));
}
