//! The name of series in an exposition: `http_requests_total{code="200", method!="GET"}`, as Prometheus writes selectors.

use std::borrow::Cow;

/// Which series of an exposition: those of one name whose labels match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesSelector {
    /// The name.
    pub name: String,
    /// What their labels must be; a label that a series does not have is the empty text.
    pub labels: Vec<LabelMatch>,
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMatch {
    /// The label.
    pub name: String,
    /// The value compared with.
    pub value: String,
    /// Whether the label must have this value (`=`) or must not (`!=`).
    pub equal: bool,
}

impl SeriesSelector {
    /// Parses `name` or `name{label="value", other!="value"}`.
    ///
    /// # Errors
    /// A sentence that says what was found and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let fail = |why: String| {
            format!(
                "`{text}` is no series: {why}; expected a name such as up or http_requests_total{{code=\"200\"}}"
            )
        };
        let length = name_length(text, true);
        if length == 0 {
            return Err(fail("it begins with no name".into()));
        }
        let (name, rest) = (text[..length].to_string(), text[length..].trim());
        if rest.is_empty() {
            return Ok(Self { name, labels: Vec::new() });
        }
        let inner = rest
            .strip_prefix('{')
            .and_then(|r| r.strip_suffix('}'))
            .ok_or_else(|| fail(format!("`{rest}` follows the name")))?;
        Ok(Self { name, labels: matches(inner).map_err(fail)? })
    }
}

fn matches(mut rest: &str) -> Result<Vec<LabelMatch>, String> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(found);
        }
        let length = name_length(rest, false);
        if length == 0 {
            return Err(format!("a label is missing at `{rest}`"));
        }
        let name = rest[..length].to_string();
        rest = rest[length..].trim_start();
        if rest.starts_with("=~") || rest.starts_with("!~") {
            return Err("labels are compared with = or !=, not with regular expressions".into());
        }
        let equal = !rest.starts_with("!=");
        rest = rest
            .strip_prefix("!=")
            .or_else(|| rest.strip_prefix('='))
            .ok_or_else(|| format!("label `{name}` has no ="))?
            .trim_start();
        let end =
            quoted_length(rest).ok_or_else(|| format!("the value of label `{name}` is not in quotes"))?;
        let value = unescape(&rest[1..end - 1]).into_owned();
        found.push(LabelMatch { name, value, equal });
        rest = rest[end..].trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => {}
            None => return Err(format!("a comma is missing at `{rest}`")),
        }
    }
}

/// The length of the name that `text` begins with: letters, digits and `_`, for metrics also `:`, not beginning with a digit.
pub fn name_length(text: &str, metric: bool) -> usize {
    let bytes = text.as_bytes();
    if bytes.first().is_some_and(u8::is_ascii_digit) {
        return 0;
    }
    let part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || (*b == b':' && metric);
    bytes.iter().position(|b| !part(b)).unwrap_or(bytes.len())
}

/// The length of the quoted text, quotes included, that `text` begins with; `\` takes the next character along.
pub fn quoted_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += bytes[at..].iter().position(|b| matches!(b, b'"' | b'\\'))?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
        if at >= bytes.len() {
            return None;
        }
    }
}

/// The text without its escapes: `\\`, `\"` and `\n`; another `\` stands for itself.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let replaced = match (c, chars.peek()) {
            ('\\', Some('\\')) => Some('\\'),
            ('\\', Some('"')) => Some('"'),
            ('\\', Some('n')) => Some('\n'),
            _ => None,
        };
        if replaced.is_some() {
            chars.next();
        }
        plain.push(replaced.unwrap_or(c));
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_has_a_name_and_conditions_on_labels() {
        let selector = SeriesSelector::parse(r#"a:b_total{code="2,}\"0", m != "G\\T",}"#).expect("good");
        assert_eq!(selector.name, "a:b_total");
        assert_eq!(
            selector.labels,
            [
                LabelMatch { name: "code".into(), value: "2,}\"0".into(), equal: true },
                LabelMatch { name: "m".into(), value: "G\\T".into(), equal: false }
            ]
        );
        assert!(SeriesSelector::parse("up{}").expect("empty").labels.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_selector_is_named() {
        for (text, part) in [
            ("", "no name"),
            ("9up", "no name"),
            ("up down", "follows the name"),
            ("up{a=\"b\"", "follows the name"),
            ("up{a=~\"b\"}", "regular expressions"),
            ("up{a}", "has no ="),
            ("up{a=b}", "not in quotes"),
            ("up{a=\"b\" c=\"d\"}", "a comma is missing"),
            ("up{a=\"b\\\"}", "not in quotes"),
        ] {
            let error = SeriesSelector::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
