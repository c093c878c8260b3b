//! Keeps `docs/requirements.md` true: it says of every requirement which tests show it, and the marks above the tests say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What stands above a test that shows something.
const MARK: &str = "/// Requirement: ";
const LIST: &str = "docs/requirements.md";
/// How many requirements the five sources have.
const COUNT: usize = 219;

type Shown = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory of the project, in order, with its path from the root.
fn rust_files(dir: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path()) {
            match entry.is_dir() {
                true => walk(&entry, files),
                false if entry.extension().is_some_and(|e| e == "rs") => files.push(entry),
                false => {}
            }
        }
    }
    let mut files = Vec::new();
    walk(&root().join(dir), &mut files);
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).expect("below the root").components();
            let name = name.map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect()
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|n| !n.is_empty())
}

/// What the marks of one file say.
fn read_marks(file: &str, text: &str, shown: &mut Shown, errors: &mut Vec<String>) {
    let mut waiting: Vec<String> = Vec::new();
    let mut is_test = false;
    for (number, line) in text.lines().map(str::trim_start).enumerate() {
        if let Some(list) = line.strip_prefix(MARK) {
            waiting.extend(list.trim_end_matches('.').split(',').map(|id| id.trim().to_string()));
        } else if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
        } else if !line.starts_with("//") {
            match function(line) {
                Some(_) if !waiting.is_empty() && !is_test => {
                    errors.push(format!("{file}:{}: the mark is not above a test", number + 1));
                    waiting.clear();
                }
                Some(name) => {
                    for id in waiting.drain(..) {
                        shown.entry(id).or_default().insert(format!("{file}::{name}"));
                    }
                }
                None if !waiting.is_empty() => {
                    errors.push(format!("{file}:{}: the mark is not above a test", number + 1));
                    waiting.clear();
                }
                None => {}
            }
            is_test = false;
        }
    }
}

/// The benchmarks that are programs of their own.
fn benchmarks() -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join("benches")).expect("benches").map(|e| e.expect("an entry").path());
    let mut found: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "py"))
        .map(|path| {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            (format!("benches/{name}"), fs::read_to_string(path).expect("text"))
        })
        .collect();
    found.sort();
    found
}

/// What all marks say, and which are wrong.
fn marks() -> (Shown, Vec<String>) {
    let (mut shown, mut errors) = (Shown::new(), Vec::new());
    // What is shown by figures is shown by a command, which no test runs.
    for (file, text) in benchmarks() {
        let lists = text.lines().filter_map(|line| line.strip_prefix("# Requirement: "));
        for id in lists.flat_map(|list| list.split(',')) {
            shown.entry(id.trim().to_string()).or_default().insert(file.clone());
        }
    }
    for (file, text) in ["src", "tests"].iter().flat_map(|dir| rust_files(dir)) {
        read_marks(&file, &text, &mut shown, &mut errors);
    }
    (shown, errors)
}

/// The number and the title of a row of the list.
fn row(line: &str) -> Option<(&str, &str)> {
    let mut cells = line.strip_prefix("| ")?.split(" | ");
    let (id, title) = (cells.next()?, cells.next()?);
    let numbered = id.starts_with('R') && id.contains('-');
    numbered.then_some((id, title))
}

/// The list as the marks would have it.
fn rewritten(list: &str, shown: &Shown) -> String {
    let count = list.lines().filter_map(row).filter(|(id, _)| shown.contains_key(*id)).count();
    let mut text = String::new();
    for line in list.lines() {
        match row(line) {
            Some((id, title)) => {
                let tests = shown.get(id).map(|t| t.iter().cloned().collect::<Vec<_>>().join(", "));
                text += &format!("| {id} | {title} | {} |", tests.unwrap_or_else(|| "open".into()));
            }
            None if line.starts_with("Shown: ") => text += &format!("Shown: {count} of {COUNT}."),
            None => text += line,
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_list_of_requirements_is_true() {
    let (shown, errors) = marks();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    let list = fs::read_to_string(root().join(LIST)).expect("the list");
    let should = rewritten(&list, &shown);
    if std::env::var_os("UPDATE_REQUIREMENTS").is_some() {
        fs::write(root().join(LIST), &should).expect("written");
        return;
    }
    let wrong: Vec<String> = list
        .lines()
        .zip(should.lines())
        .filter(|(is, should)| is != should)
        .map(|(is, should)| format!("is:     {is}\nshould: {should}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{LIST} is not what the marks above the tests say; run UPDATE_REQUIREMENTS=1 cargo test --test requirements\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_requirement_is_listed_once_and_no_mark_names_another() {
    let list = fs::read_to_string(root().join(LIST)).expect("the list");
    let ids: Vec<&str> = list.lines().filter_map(row).map(|(id, _)| id).collect();
    let known: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!((ids.len(), known.len()), (COUNT, COUNT));
    let unknown: Vec<String> = marks()
        .0
        .into_iter()
        .filter(|(id, _)| !known.contains(id.as_str()))
        .map(|m| format!("{m:?}"))
        .collect();
    assert!(unknown.is_empty(), "marks of requirements that there are not: {}", unknown.join("\n"));
}

#[test]
fn a_mark_belongs_to_the_test_below_it() {
    let text = format!(
        "    {MARK}R3-01, R3-02\n    #[test]\n    #[ignore]\n    fn first() {{}}\n    #[test]\n    fn second() {{}}\n{MARK}R3-03\nfn helper() {{}}\n"
    );
    let (mut shown, mut errors) = (Shown::new(), Vec::new());
    read_marks("f.rs", &text, &mut shown, &mut errors);
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["R3-01", "R3-02"]);
    assert!(shown.values().all(|tests| tests.iter().eq(["f.rs::first"])));
    assert_eq!(errors, ["f.rs:8: the mark is not above a test"]);
}

/// Requirement: R3-28
#[test]
fn the_comparison_has_our_column() {
    let text = fs::read_to_string(root().join("docs/comparison.md")).expect("the comparison");
    let cell = |row: &str, column: usize| {
        let line =
            text.lines().find(|l| l.starts_with(&format!("| {row} |"))).unwrap_or_else(|| panic!("{row}"));
        line.split('|').map(str::trim).nth(column).unwrap_or_default().to_string()
    };
    let ours = text.lines().find(|l| l.contains("| Autopilot |")).expect("a head").split('|').map(str::trim);
    let ours = ours.clone().position(|c| c.contains("homeostat")).expect("our column");
    assert_eq!(cell("Scope", ours), "generic services");
    assert_eq!(cell("Extensibility", ours), "yes");
    assert_eq!(cell("Flexibility", ours), "runtime");
    for row in ["Monitoring", "Analysis", "Planning", "Execution", "Communication"] {
        assert!(!cell(row, ours).is_empty(), "{row}");
    }
}
