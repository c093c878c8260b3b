//! INI: read line by line, and one value changed where it stands. There is no standard; what readers understand differently is refused, not guessed.
//!
//! Understood: `[section]`, `key = value` and `key: value`, lines that begin with `;` or `#`, and comments after a value that begin with a space and
//! one of these. A value in quotes is what stands between them; nothing in it is escaped. Values have no types: all are texts.

use std::ops::Range;

use serde_json::{Map, Value};

/// One `key = value`.
struct Entry<'a> {
    section: Option<&'a str>,
    key: &'a str,
    /// Where the value stands, without its quotes.
    value: Range<usize>,
    quote: Option<char>,
    line: usize,
    indent: usize,
}

/// Every value of the document, in order.
///
/// # Errors
/// The first line that is none of what is understood.
fn entries(text: &str) -> Result<Vec<Entry<'_>>, String> {
    let mut all: Vec<Entry<'_>> = Vec::new();
    let (mut section, mut at) = (None, 0);
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let begin = at;
        at += whole.len();
        let line = whole.trim_end();
        let bare = line.trim_start_matches(['\u{feff}', ' ', '\t']);
        if bare.is_empty() || bare.starts_with([';', '#']) {
            continue;
        }
        if let Some(rest) = bare.strip_prefix('[') {
            let closed = rest.split_once(']').filter(|(_, after)| {
                let after = after.trim_start();
                after.is_empty() || after.starts_with([';', '#'])
            });
            let Some((name, _)) = closed else {
                return Err(format!("line {}: `[` is never closed", number + 1));
            };
            section = Some(name.trim());
            continue;
        }
        let indent = line.len() - bare.len();
        if all.last().is_some_and(|last| last.line + 1 == number && indent > last.indent) {
            let last = all.last().map_or("", |last| last.key);
            return Err(format!(
                "line {}: some readers take it for more of the value of `{last}`",
                number + 1
            ));
        }
        let Some(split) = bare.find(['=', ':']) else {
            return Err(format!(
                "line {}: `{}` is neither `[section]` nor `key = value`",
                number + 1,
                bare.trim()
            ));
        };
        let after = &bare[split + 1..];
        let start = begin + indent + split + 1 + (after.len() - after.trim_start().len());
        let (value, quote) = value(text, start, begin + line.len()).ok_or_else(|| {
            format!("line {}: the value has a quote that is never closed, or text after it", number + 1)
        })?;
        if text[value.clone()].ends_with('\\') && quote.is_none() {
            return Err(format!(
                "line {}: some readers take the next line for more of the value",
                number + 1
            ));
        }
        all.push(Entry { section, key: bare[..split].trim_end(), value, quote, line: number, indent });
    }
    Ok(all)
}

/// The value that begins at `start` of a line that ends at `end`, and its quotes.
fn value(text: &str, start: usize, end: usize) -> Option<(Range<usize>, Option<char>)> {
    let start = start.min(end);
    let rest = &text[start..end];
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let close = rest[1..].find(quote)? + 1;
        let after = rest[close + 1..].trim_start();
        return (after.is_empty() || after.starts_with([';', '#']))
            .then_some((start + 1..start + close, Some(quote)));
    }
    let comment = rest
        .char_indices()
        .zip(rest.chars().skip(1))
        .find(|((_, space), mark)| matches!(space, ' ' | '\t') && matches!(mark, ';' | '#'));
    let bare = comment.map_or(rest, |((at, _), _)| &rest[..at]).trim_end();
    Some((start..start + bare.len(), None))
}

/// The document as named sections of named texts; what stands before the first section is beside them.
///
/// # Errors
/// What is not understood, in words.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let mut document = Map::new();
    let mut twice = Vec::new();
    for entry in entries(text)? {
        let value = Value::from(&text[entry.value]);
        let (place, name) = match entry.section {
            None => (&mut document, entry.key),
            Some(section) => {
                let section = document.entry(section).or_insert_with(|| Map::new().into());
                match section.as_object_mut() {
                    Some(section) => (section, entry.key),
                    None => return Err(format!("`{}` is a section and a key", entry.key)),
                }
            }
        };
        if place.insert(name.into(), value).is_some() {
            twice.push((entry.section, entry.key));
        }
    }
    // Some readers take the first, some the last, and some make a list of them: neither is the value.
    for (section, key) in twice {
        let place = match section {
            None => Some(&mut document),
            Some(section) => document.get_mut(section).and_then(Value::as_object_mut),
        };
        if let Some(place) = place {
            place.insert(key.into(), Value::Null);
        }
    }
    Ok(document.into())
}

/// The text with another value at `pointer`; all else stays as it is, to the byte.
///
/// # Errors
/// When there is no such value, or the new one cannot be written so that every reader reads the same.
pub(super) fn set(text: &str, path: &[String], new: &str) -> Result<String, String> {
    let (section, key) = match path {
        [key] => (None, key),
        [section, key] => (Some(section.as_str()), key),
        _ => return Err("expected `/section/key`, or `/key`".into()),
    };
    let all = entries(text)?;
    let mut found = all.iter().filter(|e| e.section == section && e.key == key);
    let entry = found.next().ok_or("it is not there")?;
    if found.next().is_some() {
        return Err("it stands there twice, and readers differ in which of them holds".into());
    }
    let unclear = match entry.quote {
        Some(quote) => new.contains([quote, '\\', '\n', '\r']),
        None => {
            new.trim() != new
                || new.starts_with(['"', '\'', ';', '#'])
                || new.contains(['\n', '\r', '\\'])
                || [" ;", " #", "\t;", "\t#"].iter().any(|mark| new.contains(mark))
        }
    };
    if unclear {
        return Err(format!("`{new}` cannot be written there so that every reader reads the same"));
    }
    // `key =` at the end of a line keeps its distance.
    let gap =
        if text[..entry.value.start].ends_with(['=', ':']) && entry.value.is_empty() { " " } else { "" };
    let changed = format!("{}{gap}{new}{}", &text[..entry.value.start], &text[entry.value.end..]);
    // What comes after the value may be taken for it now: the comment in `key =; # why`, without the `;`.
    let again = entries(&changed)?;
    let holds =
        again.iter().any(|e| e.section == section && e.key == key && changed[e.value.clone()] == *new);
    holds
        .then_some(changed)
        .ok_or_else(|| format!("`{new}` cannot be written there so that every reader reads the same"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const TEXT: &str = "; of the shop\r\nowner=me\r\n\r\n[limits]\r\n  rate = 5 ; calls per second\r\n  name: 'a; b'  # why\r\n[empty]\r\nnone =\r\n";

    #[test]
    fn all_but_the_value_stays_to_the_byte() {
        assert_eq!(
            read(TEXT),
            Ok(json!({ "owner": "me", "limits": { "rate": "5", "name": "a; b" }, "empty": { "none": "" } }))
        );
        let set = |path: &[&str], new: &str| {
            set(TEXT, &path.iter().map(ToString::to_string).collect::<Vec<_>>(), new)
        };
        assert_eq!(set(&["limits", "rate"], "7.5"), Ok(TEXT.replace("= 5 ;", "= 7.5 ;")));
        assert_eq!(set(&["limits", "name"], "c; d"), Ok(TEXT.replace("a; b", "c; d")));
        assert_eq!(set(&["owner"], "you"), Ok(TEXT.replace("=me", "=you")));
        assert_eq!(set(&["empty", "none"], "some"), Ok(TEXT.replace("none =", "none = some")));
        assert!(set(&["limits", "none"], "1").is_err());
        assert!(set(&["limits", "rate"], "7 ; 8").is_err_and(|why| why.contains("every reader")));
        assert!(set(&["limits", "name"], "it's").is_err_and(|why| why.contains("every reader")));
    }

    #[test]
    fn what_readers_differ_in_is_refused() {
        for (text, part) in [
            ("[a\nb = 1\n", "never closed"),
            ("just words\n", "neither"),
            ("a = 1\n  more = 2\n", "some readers"),
            ("a = 1 \\\n2\n", "some readers"),
            ("a = \"1\n", "never closed"),
        ] {
            assert!(read(text).is_err_and(|why| why.contains(part)), "{text}");
        }
        let twice = "[a]\nb = 1\nb = 2\n";
        assert_eq!(read(twice), Ok(json!({ "a": { "b": null } })));
        assert!(set(twice, &["a".into(), "b".into()], "3").is_err_and(|why| why.contains("twice")));
    }

    proptest! {
        #[test]
        fn what_was_set_is_read_and_nothing_else_changes(new in "\\PC{0,12}", text in "(\\[s\\]\n)?k ?[=:] ?'?[a-z ;#]{0,6}'?\n") {
            let path: Vec<String> = if text.starts_with('[') { vec!["s".into(), "k".into()] } else { vec!["k".into()] };
            if let Ok(changed) = set(&text, &path, &new) {
                let pointer = format!("/{}", path.join("/"));
                let found = read(&changed).expect("read");
                prop_assert_eq!(found.pointer(&pointer), Some(&json!(new)), "{}", changed);
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC*") {
            let _ = read(&text);
            let _ = set(&text, &["a".into()], "1");
        }
    }
}
