//! What the documents promise and can be checked: links lead somewhere, the policy of the README is small and good, decisions are listed.

use std::fs;
use std::path::{Path, PathBuf};

use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the project, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for dir in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(dir)).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path, text));
            }
        }
    }
    found
}

/// The headings of a text as the anchors that links use.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for heading in text.lines().filter(|l| l.starts_with('#')) {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let same = found.iter().filter(|a| a.trim_end_matches("-1") == anchor).count();
        found.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
    }
    found
}

/// Where the links of a text lead, code left out.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    let prose = prose.collect::<Vec<_>>().join("\n");
    let ends = prose.split("](").skip(1);
    ends.filter_map(|rest| rest.split(')').next()).map(str::to_string).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        for link in links(&text).into_iter().filter(|l| !l.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap_or(Path::new("")).join(file),
            };
            let there = target.exists()
                && (anchor.is_empty()
                    || fs::read_to_string(&target).is_ok_and(|t| anchors(&t).iter().any(|a| a == anchor)));
            if !there {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn watching_one_metric_and_acting_on_it_takes_at_most_fifteen_lines() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let policy =
        readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a policy");
    assert!(policy.lines().count() <= 15, "{policy}");
    let (set, warnings) = PolicySet::from_sources(&Sources::from_texts([("web.yaml", policy)]), None)
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(warnings.is_empty(), "{warnings:?}");
    let web = &set.services["web"];
    assert!(web.monitor.is_some() && web.analyze.is_some() && web.plan.is_some() && web.execute.is_some());
}

#[test]
fn every_decision_is_in_the_list() {
    let dir = root().join("docs/decisions");
    let list = fs::read_to_string(dir.join("README.md")).expect("the list");
    for entry in fs::read_dir(dir).expect("decisions") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(name == "README.md" || list.contains(&format!("({name})")), "{name} is not listed");
    }
}
