//! Texts with holes: `{name}` for an argument of an action, `${NAME}` and `${file:PATH}` for secrets. Only the syntax; filling is the connectors' work.

/// A text with holes, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// One stretch of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Stands for itself.
    Text(String),
    /// `{name}`: an argument of the action.
    Argument(String),
    /// `${NAME}`: a variable of the environment.
    Environment(String),
    /// `${file:PATH}`: the content of a file.
    File(String),
}

/// Which holes a text may have; whatever else looks like one stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// `{name}`: URLs, bodies, arguments of programs.
    Arguments,
    /// `${NAME}` and `${file:PATH}`: headers of sensors.
    Secrets,
    /// Both: headers of effectors.
    Both,
}

impl Template {
    /// Parses `text`. A hole is `{`, a letter or `_`, then letters, digits and `_`, then `}`; other braces stand for themselves,
    /// so that JSON needs no escapes.
    ///
    /// # Errors
    /// A sentence about `{{name}}` (a slip from other template languages) or a `${` that is never closed.
    pub fn parse(text: &str, holes: Holes) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '$']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            let (part, length) =
                if rest.starts_with("${") { dollar(rest, holes)? } else { brace(rest, holes)? };
            match part {
                Some(part) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(part);
                }
                None => plain.push_str(&rest[..length]),
            }
            rest = &rest[length..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Its stretches in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The arguments that it asks for.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Argument(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// What begins with `${`: a secret where secrets are allowed, otherwise text up to its `}` (shell variables in arguments, for example).
fn dollar(rest: &str, holes: Holes) -> Result<(Option<Part>, usize), String> {
    let close = rest.find('}');
    if holes == Holes::Arguments {
        return Ok((None, close.map_or(rest.len(), |at| at + 1)));
    }
    let Some(close) = close else {
        return Err("`${` is never closed; expected `${NAME}` or `${file:PATH}`".to_string());
    };
    let inner = &rest[2..close];
    let part = match inner.strip_prefix("file:") {
        Some("") => return Err("`${file:}` names no file; expected `${file:PATH}`".to_string()),
        Some(path) => Part::File(path.to_string()),
        None if is_name(inner) => Part::Environment(inner.to_string()),
        None => {
            return Err(format!("`${{{inner}}}` is no variable; expected `${{NAME}}` or `${{file:PATH}}`"));
        }
    };
    Ok((Some(part), close + 1))
}

/// What begins with `{` or a lone `$`: an argument, or text of one character.
fn brace(rest: &str, holes: Holes) -> Result<(Option<Part>, usize), String> {
    if holes == Holes::Secrets || rest.starts_with('$') {
        return Ok((None, 1));
    }
    if let Some(inner) = rest.strip_prefix("{{")
        && let Some(end) = inner.find("}}")
        && is_name(inner[..end].trim())
    {
        let name = inner[..end].trim();
        return Err(format!("`{{{{{name}}}}}` has two braces; write `{{{name}}}`"));
    }
    match rest[1..].find('}') {
        Some(end) if is_name(&rest[1..=end]) => {
            Ok((Some(Part::Argument(rest[1..=end].to_string())), end + 2))
        }
        _ => Ok((None, 1)),
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str, holes: Holes) -> Vec<Part> {
        Template::parse(text, holes).expect(text).parts().to_vec()
    }

    #[test]
    fn braces_of_json_stand_for_themselves() {
        assert_eq!(
            parts(r#"{"a": {value}, "b": {}}"#, Holes::Arguments),
            [
                Part::Text(r#"{"a": "#.into()),
                Part::Argument("value".into()),
                Part::Text(r#", "b": {}}"#.into())
            ]
        );
    }

    #[test]
    fn secrets_are_holes_only_where_they_are_allowed() {
        let text = "Bearer ${TOKEN} {service}";
        assert_eq!(
            parts(text, Holes::Both),
            [
                Part::Text("Bearer ".into()),
                Part::Environment("TOKEN".into()),
                Part::Text(" ".into()),
                Part::Argument("service".into())
            ]
        );
        assert_eq!(
            parts(text, Holes::Arguments),
            [Part::Text("Bearer ${TOKEN} ".into()), Part::Argument("service".into())]
        );
        assert_eq!(parts("${file:/run/token}{x}", Holes::Secrets)[0], Part::File("/run/token".into()));
    }

    #[test]
    fn double_braces_and_open_secrets_are_named() {
        let error = |text| Template::parse(text, Holes::Both).expect_err(text);
        assert!(error("{{value}}").contains("write `{value}`"));
        assert!(error("Bearer ${TOKEN").contains("never closed"));
        assert!(error("${file:}").contains("names no file"));
        assert!(error("${no name}").contains("is no variable"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_loses_no_text(text in "[a{}$ü:_\"1]{0,30}") {
            for holes in [Holes::Arguments, Holes::Secrets, Holes::Both] {
                let Ok(template) = Template::parse(&text, holes) else { continue };
                let back: String = template.parts().iter().map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Argument(name) => format!("{{{name}}}"),
                    Part::Environment(name) => format!("${{{name}}}"),
                    Part::File(path) => format!("${{file:{path}}}"),
                }).collect();
                prop_assert_eq!(&back, &text);
            }
        }
    }
}
