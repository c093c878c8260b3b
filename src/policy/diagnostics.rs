//! What is wrong with policies, where, and what would be right; as data, as one line, and as a picture with the offending line.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::tree::{Node, Place};

/// Whether a policy is refused for it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProblemSeverity {
    /// The policies are refused, and what runs goes on running.
    Error,
    /// The policies are accepted.
    Warning,
}

/// One thing wrong with a policy.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Error or warning.
    pub severity: ProblemSeverity,
    /// What kind of problem, for programs: `unknown-metric`, `metric-cycle`, ….
    pub code: &'static str,
    /// The file, as the directory was given; absent for documents that did not come from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub file: Option<Arc<str>>,
    /// The service or resource whose document it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service: Option<Arc<str>>,
    /// The place in the document: `monitor.metrics.cost`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The bytes in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub span: Option<Range<usize>>,
    /// The line in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in the line, in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The place as steps.
    #[serde(skip)]
    pub place: Place,
    /// How many documents of the same service stand before this one in the file.
    #[serde(skip)]
    pub(crate) document_number: usize,
    /// The name that it is about, so that an error that only follows from another can be left out.
    #[serde(skip)]
    pub subject: Option<String>,
}

impl Problem {
    /// An error at a place of a document.
    pub fn error(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: ProblemSeverity::Error,
            code,
            file: None,
            service: None,
            path: place.to_string(),
            span: None,
            line: None,
            column: None,
            message: message.into(),
            hint: None,
            place,
            subject: None,
            document_number: 0,
        }
    }

    /// A warning at a place of a document.
    pub fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self { severity: ProblemSeverity::Warning, ..Self::error(code, place, message) }
    }

    /// With what would be right.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// About the thing of this name.
    pub(crate) fn about(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_string());
        self
    }

    /// In the document of this service.
    pub(crate) fn of(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }

    /// Fills in file, line and column from the document's tree and text.
    pub(crate) fn locate(&mut self, file: &Arc<str>, text: &str, tree: Option<&Node>) {
        self.file = Some(file.clone());
        if self.span.is_none() {
            self.span = tree.and_then(|tree| tree.locate(&self.place, text));
        }
        if let Some(span) = &self.span {
            let (line, column) = line_and_column(text, span.start);
            (self.line, self.column) = (Some(line), Some(column));
        }
    }

    /// Whether the policies are refused for it.
    pub fn is_error(&self) -> bool {
        self.severity == ProblemSeverity::Error
    }

    /// A picture for a terminal: message, offending line, hint. `text` is the content of the file; without it, one line.
    pub fn render(&self, text: Option<&str>, color: bool) -> String {
        let (Some(text), Some(span), Some(file)) = (text, &self.span, &self.file) else {
            return format!("{self}\n");
        };
        use ariadne::{Config, IndexType, Label, Report, ReportKind, Source};
        let kind = match self.severity {
            ProblemSeverity::Error => ReportKind::Error,
            ProblemSeverity::Warning => ReportKind::Warning,
        };
        let at = (file.as_ref(), span.clone());
        let mut report = Report::build(kind, at.clone())
            .with_config(Config::default().with_color(color).with_index_type(IndexType::Byte))
            .with_code(self.code)
            .with_message(&self.message)
            .with_label(Label::new(at).with_message(if self.path.is_empty() { "here" } else { &self.path }));
        if let Some(hint) = &self.hint {
            report = report.with_help(hint);
        }
        let mut out = Vec::new();
        match report.finish().write((file.as_ref(), Source::from(text)), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(_) => format!("{self}\n"),
        }
    }
}

/// `file:line:column: error: message (hint: …)`.
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        } else if !self.path.is_empty() {
            match &self.service {
                Some(service) => write!(f, "{service}: {}: ", self.path)?,
                None => write!(f, "{}: ", self.path)?,
            }
        }
        let word = if self.is_error() { "error" } else { "warning" };
        write!(f, "{word}: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// Line and column (in characters), both from 1, of a byte of `text`.
pub(crate) fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The byte of `text` at a line and column, both from 1; the end of the text when there is no such place.
pub(crate) fn byte_at(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = &text[start..];
    start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(i, _)| i)
}

/// The name among `known` that is near enough to `word` to be what was meant.
pub(crate) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known
        .filter(|name| name.len().abs_diff(word.len()) <= limit * 4)
        .map(|name| (distance(&word.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(far, _)| *far <= limit)
        .min()
        .map(|(_, name)| name)
}

/// ``did you mean `cost`?``, when a known name is near.
pub(crate) fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    closest(word, known).map(|near| format!("did you mean `{near}`?"))
}

/// Suggestion if there is one; otherwise what there is, up to eight names.
pub(crate) fn suggestion_or_list<'a>(
    word: &str,
    what: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<String> {
    suggestion(word, known.clone()).or_else(|| {
        let names: Vec<_> = known.take(9).collect();
        match names.len() {
            0 => Some(format!("there are no {what}")),
            9 => None,
            _ => Some(format!(
                "there are {}",
                names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
            )),
        }
    })
}

/// The number of insertions, deletions, substitutions and swaps of neighbours between two words (Damerau, 1964; restricted).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found_by_a_small_distance() {
        let known = ["cost", "latency", "own_cost"];
        assert_eq!(closest("csot", known.into_iter()), Some("cost"));
        assert_eq!(closest("latensy", known.into_iter()), Some("latency"));
        assert_eq!(closest("throughput", known.into_iter()), None);
    }

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        assert_eq!(line_and_column("äb\ncd", 2), (1, 2));
        assert_eq!(line_and_column("äb\ncd", 5), (2, 2));
        assert_eq!(byte_at("äb\ncd", 2, 2), 5);
        assert_eq!(byte_at("äb\ncd", 9, 9), 6);
    }

    #[test]
    fn a_picture_shows_the_offending_line_and_the_hint_without_color() {
        let text = "service: shop\nclas: VM\n";
        let mut problem = Problem::error("unknown-field", Place::default(), "there is no field `clas` here")
            .hint("did you mean `class`?".to_string());
        problem.span = Some(14..18);
        problem.locate(&"shop.yaml".into(), text, None);
        assert_eq!(
            problem.to_string(),
            "shop.yaml:2:1: error: there is no field `clas` here (hint: did you mean `class`?)"
        );
        let picture = problem.render(Some(text), false);
        assert!(picture.contains("clas: VM") && picture.contains("did you mean `class`?"), "{picture}");
        assert!(!picture.contains('\u{1b}'), "no colour was asked for");
        assert!(problem.render(Some(text), true).contains('\u{1b}'));
    }
}
