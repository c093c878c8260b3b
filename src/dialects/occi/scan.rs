//! The words of the text renderings (GFD.229): fields, the elements that commas join, their parameters, and quoted strings.

use serde_json::Value;

use super::draft::number;
use super::fault::{Fault, shown};
use super::model::is_attribute_name;

/// Which of the four fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Category,
    Link,
    Attribute,
    Location,
}

impl Name {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Category, "Category"),
        (Self::Link, "Link"),
        (Self::Attribute, "X-OCCI-Attribute"),
        (Self::Location, "X-OCCI-Location"),
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Category => "Category",
            Self::Link => "Link",
            Self::Attribute => "X-OCCI-Attribute",
            Self::Location => "X-OCCI-Location",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(name, _)| *name)
    }
}

/// One field: a line of a body, or a header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) name: Name,
    value: &'a str,
    /// The line, from 1; none, if it is a header.
    line: Option<usize>,
    /// Bytes of the line before the value.
    before: usize,
}

impl Field<'_> {
    /// A failure at a byte of the value.
    pub(super) fn fault(&self, at: usize, what: impl std::fmt::Display) -> Fault {
        let chars = self.value.get(..at).map_or(at, |text| text.chars().count());
        let (name, position) = (self.name.as_str(), self.before + chars + 1);
        match self.line {
            Some(line) => Fault::bad(format!("line {line}, position {position} (`{name}`): {what}")),
            None => Fault::bad(format!("header `{name}`, position {position}: {what}")),
        }
    }
}

/// The fields of a body. Empty lines are passed over.
pub(super) fn lines(text: &str) -> Result<Vec<Field<'_>>, Fault> {
    let mut fields = Vec::new();
    for (i, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.trim().is_empty() {
            continue;
        }
        let expected = "expected `Category:`, `Link:`, `X-OCCI-Attribute:` or `X-OCCI-Location:`";
        let Some((name, value)) = line.split_once(':') else {
            return Err(Fault::bad(format!(
                "line {}: `{}` has no field name; {expected}",
                i + 1,
                shown(line)
            )));
        };
        let before = name.chars().count() + 1;
        let Some(name) = Name::of(name.trim()) else {
            return Err(Fault::bad(format!(
                "line {}: the field `{}` is unknown; {expected}",
                i + 1,
                shown(name)
            )));
        };
        let field = Field { name, value, line: Some(i + 1), before };
        no_controls(&field)?;
        fields.push(field);
    }
    Ok(fields)
}

/// The fields among headers. Others are passed over.
pub(super) fn headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<Field<'a>>, Fault> {
    let mut fields = Vec::new();
    for (name, value) in headers {
        let Some(name) = Name::of(name) else { continue };
        let Ok(value) = std::str::from_utf8(value) else {
            return Err(Fault::bad(format!("header `{}` is not UTF-8", name.as_str())));
        };
        let field = Field { name, value, line: None, before: 0 };
        no_controls(&field)?;
        fields.push(field);
    }
    Ok(fields)
}

fn no_controls(field: &Field<'_>) -> Result<(), Fault> {
    match field.value.char_indices().find(|(_, c)| c.is_control() && *c != '\t') {
        Some((at, c)) => Err(field.fault(at, format!("a control character, U+{:04X}", u32::from(c)))),
        None => Ok(()),
    }
}

/// A piece of a field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) field: Field<'a>,
    pub(super) at: usize,
    pub(super) text: &'a str,
}

impl<'a> Piece<'a> {
    pub(super) fn fault(&self, what: impl std::fmt::Display) -> Fault {
        self.field.fault(self.at, what)
    }

    /// A part of the piece without the white space around it.
    fn part(&self, start: usize, end: usize) -> Piece<'a> {
        let part = &self.text[start..end];
        let begins = part.len() - part.trim_start().len();
        Piece { field: self.field, at: self.at + start + begins, text: part.trim() }
    }

    /// The parts between separators that stand outside of quotes and of `<…>` at the begin of a part; empty ones are left out.
    pub(super) fn split(&self, separator: u8) -> Result<Vec<Piece<'a>>, Fault> {
        let bytes = self.text.as_bytes();
        let (mut parts, mut start, mut i) = (Vec::new(), 0, 0);
        let mut fresh = true;
        while i < bytes.len() {
            match bytes[i] {
                b'"' => {
                    i = self.quote_end(i)?;
                    fresh = false;
                }
                b'<' if fresh => {
                    i = self.close(i)?;
                    fresh = false;
                }
                b if b == separator => {
                    parts.push(self.part(start, i));
                    start = i + 1;
                    fresh = true;
                }
                b' ' | b'\t' => {}
                _ => fresh = false,
            }
            i += 1;
        }
        parts.push(self.part(start, bytes.len()));
        parts.retain(|p| !p.text.is_empty());
        Ok(parts)
    }

    /// The byte of the quote that ends what begins at `start`.
    fn quote_end(&self, start: usize) -> Result<usize, Fault> {
        let bytes = self.text.as_bytes();
        let mut i = start + 1;
        while i < bytes.len() {
            match bytes[i] {
                b'\\' => i += 1,
                b'"' => return Ok(i),
                _ => {}
            }
            i += 1;
        }
        Err(self
            .field
            .fault(self.at + start, "a quoted text that does not end; expected a `\"` (within, `\\\"`)"))
    }

    fn close(&self, start: usize) -> Result<usize, Fault> {
        match self.text[start..].find('>') {
            Some(found) => Ok(start + found),
            None => Err(self.field.fault(self.at + start, "a URI that does not end; expected `<URI>`")),
        }
    }

    /// `key=value`, or a word alone.
    pub(super) fn pair(&self) -> (Piece<'a>, Option<Piece<'a>>) {
        match self.text.find('=') {
            Some(at) => (self.part(0, at), Some(self.part(at + 1, self.text.len()))),
            None => (*self, None),
        }
    }

    /// The text of a quoted string, or a word as it stands.
    pub(super) fn unquoted(&self) -> Result<String, Fault> {
        let Some(inner) = self.quoted() else {
            return match self.text.contains('"') {
                true => {
                    Err(self.fault(format!("`{}` has a quote inside; expected `\"…\"`", shown(self.text))))
                }
                false => Ok(self.text.to_string()),
            };
        };
        Ok(unescape(inner))
    }

    /// What stands between the quotes, if this is one quoted string.
    fn quoted(&self) -> Option<&'a str> {
        let inner = self.text.strip_prefix('"')?;
        let end = self.quote_end(0).ok()?;
        (end + 1 == self.text.len()).then(|| &inner[..end - 1])
    }

    /// A value: quoted text, number, truth value; any other word is text.
    pub(super) fn value(&self) -> Result<Value, Fault> {
        if self.text.starts_with('"') {
            return self.unquoted().map(Value::String);
        }
        match self.text {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            "" => return Err(self.fault("a value is missing; expected `\"text\"`, a number, true or false")),
            _ => {}
        }
        match number(self.text) {
            Some(number) => Ok(number),
            None => self.unquoted().map(Value::String),
        }
    }

    /// Checks that this is the name of an attribute.
    pub(super) fn attribute_name(&self) -> Result<&'a str, Fault> {
        match is_attribute_name(self.text) {
            true => Ok(self.text),
            false => Err(self.fault(format!(
                "`{}` is no attribute name; expected parts of letters, digits, `-` and `_` with dots between",
                shown(self.text)
            ))),
        }
    }
}

/// The elements of a field: what commas join.
pub(super) fn elements<'a>(field: &Field<'a>) -> Result<Vec<Piece<'a>>, Fault> {
    Piece { field: *field, at: 0, text: field.value }.split(b',')
}

/// Undoes [`quote`]. A backslash before anything else stands for itself, as clients write it in paths.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let control = after.strip_prefix("u00").and_then(|hex| hex.get(..2)).and_then(control);
        match (after.chars().next(), control) {
            (Some(c @ ('"' | '\\')), _) => {
                out.push(c);
                rest = &after[1..];
            }
            (_, Some(c)) => {
                out.push(c);
                rest = &after[5..];
            }
            _ => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn control(hex: &str) -> Option<char> {
    let all = hex.bytes().all(|b| b.is_ascii_hexdigit());
    u8::from_str_radix(hex, 16).ok().map(char::from).filter(|c| all && c.is_control())
}

/// A quoted string. A control character, which no line or header can carry, becomes `\u00XX`.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
