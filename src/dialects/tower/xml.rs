//! Reads rules from XML: in any order of elements, with any prefix. What a rule lacks is not said here but by [`super::validate()`].
//!
//! XML from strangers is read within bounds, which are checked before the parser sees it: at most [`MAX_TEXT`] bytes, [`MAX_DEPTH`]
//! elements within each other, [`MAX_ATTRIBUTES`] attributes of one element, [`MAX_ELEMENTS`] elements; no document type, and so no
//! entities but the five of XML.

use std::ops::Range;

use roxmltree::{Document, Node, ParsingOptions};

use super::RULES_NAMESPACE;
use super::rule::{Action, Aggregation, CollectedMetric, Parameter, Part, Places, Rule, Target};
use crate::policy::diagnostics::{byte_at, line_and_column};

/// The longest text, in bytes.
pub const MAX_TEXT: usize = 32 << 20;
/// The deepest nesting of elements; rules need 5.
pub const MAX_DEPTH: usize = 16;
/// The most attributes of one element; rules need 6, and a few namespaces.
pub const MAX_ATTRIBUTES: usize = 64;
/// The most elements of one text: some 50,000 rules.
pub const MAX_ELEMENTS: usize = 1_000_000;
/// The most rules or constraints of one text.
pub const MAX_RULES: usize = 50_000;
/// The most targets, actions or parameters of one list.
pub const MAX_LIST: usize = 1_000;

/// Why a text is no batch of rules. No retry mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct XmlError {
    /// What was found, and what would be right.
    pub message: String,
    /// The bytes in the text.
    pub span: Range<usize>,
    /// The line, from 1.
    pub line: usize,
    /// The column in the line, in characters, from 1.
    pub column: usize,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T> {
    /// What it contains, in order.
    pub items: Vec<Read<T>>,
    /// What was passed over: elements and attributes that nobody knows.
    pub warnings: Vec<XmlError>,
}

/// Something with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// What it says.
    pub value: T,
    /// Where its parts stand.
    pub places: Places,
}

/// Reads rules: `monitoringRules`, or a single `monitoringRule`.
///
/// # Errors
/// The first thing that is no XML, exceeds the bounds, or cannot be a rule, with its line and column.
pub fn rules(text: &str) -> Result<Batch<Rule>, XmlError> {
    read(text, RULES_NAMESPACE, "monitoringRules", "monitoringRule", |reader, node| reader.rule(node))
}

/// The local name of the root element, if the text is XML within the bounds.
///
/// # Errors
/// As [`rules`].
pub fn root_name(text: &str) -> Result<String, XmlError> {
    let document = parse(text)?;
    Ok(document.root_element().tag_name().name().to_string())
}

/// Reads a list of elements, or one alone.
pub(super) fn read<T>(
    text: &str,
    namespace: &str,
    list: &str,
    item: &str,
    one: fn(&mut Reader<'_>, Node<'_, '_>) -> Result<Read<T>, XmlError>,
) -> Result<Batch<T>, XmlError> {
    let document = parse(text)?;
    let mut reader = Reader { text, warnings: Vec::new() };
    let root = document.root_element();
    let items = match reader.own_name(root) {
        Some(name) if name == list => reader.list(root, item, MAX_RULES, one)?,
        Some(name) if name == item => vec![one(&mut reader, root)?],
        found => {
            let name = root.tag_name().name();
            let mut message = match found {
                Some(_) => format!("the root element is `{name}`"),
                None => format!("the root element `{name}` is of the namespace {}", namespace_of(root)),
            };
            message.push_str(&match found.is_none() && (name == list || name == item) {
                true => format!("; expected {namespace}, or none"),
                false => format!("; expected `{list}` or a single `{item}`"),
            });
            return Err(error(text, message, tag(root, text)));
        }
    };
    Ok(Batch { items, warnings: reader.warnings })
}

/// Checks the bounds, and parses.
pub(in crate::dialects) fn parse(text: &str) -> Result<Document<'_>, XmlError> {
    Scanner { text, at: 0, elements: 0 }.run()?;
    let options = ParsingOptions { nodes_limit: 8 * MAX_ELEMENTS as u32, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|e| {
        let at = e.pos();
        let start = byte_at(text, at.row as usize, at.col as usize);
        let message = e.to_string();
        // The parser says where in its own words as well.
        let message = message.rsplit_once(" at ").map_or(&*message, |(what, _)| what);
        error(text, message.to_string(), start..next(text, start))
    })
}

/// The namespace of an element, not all of what a stranger wrote.
fn namespace_of(node: Node<'_, '_>) -> String {
    let namespace = node.tag_name().namespace().unwrap_or_default();
    let mut short: String = namespace.chars().take(100).collect();
    if short.len() < namespace.len() {
        short.push('…');
    }
    format!("`{short}`")
}

/// The end of the character that begins at `start`.
fn next(text: &str, start: usize) -> usize {
    text.get(start..).and_then(|rest| rest.chars().next()).map_or(start, |c| start + c.len_utf8())
}

fn error(text: &str, message: String, span: Range<usize>) -> XmlError {
    let (line, column) = line_and_column(text, span.start);
    XmlError { message, span, line, column }
}

/// The bytes of the start tag of an element.
fn tag(node: Node<'_, '_>, text: &str) -> Range<usize> {
    let range = node.range();
    let whole = &text[range.clone()];
    let inner =
        node.first_child().map_or(whole.len(), |child| child.range().start.saturating_sub(range.start));
    let end = whole[..inner.min(whole.len())].trim_end().len();
    range.start..range.start + end.max(1)
}

/// Goes over the text once and checks the bounds, so that no text makes the parser slow or large. What is no XML it leaves to the parser.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    elements: usize,
}

impl Scanner<'_> {
    fn run(mut self) -> Result<(), XmlError> {
        if self.text.len() > MAX_TEXT {
            let message = format!("the text has {} bytes; at most {MAX_TEXT} are read", self.text.len());
            return Err(error(self.text, message, 0..0));
        }
        let mut depth = 0_usize;
        while let Some(found) = self.text[self.at..].find('<') {
            self.at += found;
            let (start, rest) = (self.at, &self.text[self.at..]);
            if rest.starts_with("<!--") {
                self.skip_past("-->", 4);
            } else if rest.starts_with("<![CDATA[") {
                self.skip_past("]]>", 9);
            } else if rest.starts_with("<?") {
                self.skip_past("?>", 2);
            } else if rest.starts_with("<!") {
                let message = "a document type, and with it entities, is not read here".to_string();
                return Err(error(self.text, message, start..start + 2));
            } else if rest.starts_with("</") {
                self.skip_past(">", 2);
                depth = depth.saturating_sub(1);
            } else {
                depth += 1;
                if self.start_tag()? {
                    depth -= 1;
                }
                let wrong = match () {
                    () if depth > MAX_DEPTH => format!("elements nest deeper than {MAX_DEPTH}"),
                    () if self.elements > MAX_ELEMENTS => {
                        format!("there are more than {MAX_ELEMENTS} elements")
                    }
                    () => continue,
                };
                return Err(error(self.text, wrong, start..start + 1));
            }
        }
        Ok(())
    }

    fn skip_past(&mut self, end: &str, least: usize) {
        let from = (self.at + least).min(self.text.len());
        self.at = self.text[from..].find(end).map_or(self.text.len(), |found| from + found + end.len());
    }

    /// Passes a start tag; whether it is empty (`<a/>`).
    fn start_tag(&mut self) -> Result<bool, XmlError> {
        self.elements += 1;
        let start = self.at;
        let (mut attributes, mut quote, mut before) = (0, None, 0_u8);
        for (i, byte) in self.text.bytes().enumerate().skip(start + 1) {
            match (quote, byte) {
                (Some(q), _) if byte == q => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'>') => {
                    self.at = i + 1;
                    return Ok(before == b'/');
                }
                (None, b'=') => attributes += 1,
                _ => {}
            }
            if attributes > MAX_ATTRIBUTES {
                let message = format!("an element has more than {MAX_ATTRIBUTES} attributes");
                return Err(error(self.text, message, start..start + 1));
            }
            before = byte;
        }
        self.at = self.text.len();
        Ok(false)
    }
}

/// Reads elements, and notes what it does not know.
pub(super) struct Reader<'a> {
    text: &'a str,
    warnings: Vec<XmlError>,
}

impl<'a> Reader<'a> {
    /// The name of an element, if it may be one of ours.
    fn own_name<'n>(&self, node: Node<'n, '_>) -> Option<&'n str> {
        let name = node.tag_name();
        let ours = name.namespace().is_none_or(|n| n.starts_with("http://www.modaclouds.eu/xsd/"));
        ours.then(|| name.name())
    }

    pub(super) fn fail<T>(&self, node: Node<'_, '_>, message: String) -> Result<T, XmlError> {
        Err(error(self.text, message, tag(node, self.text)))
    }

    /// The bytes of the start tag of an element.
    pub(super) fn tag(&self, node: Node<'_, '_>) -> Range<usize> {
        tag(node, self.text)
    }

    pub(super) fn warn(&mut self, node: Node<'_, '_>, message: String) {
        // A text that consists of nothing else says it often enough.
        if self.warnings.len() < MAX_LIST {
            self.warnings.push(error(self.text, message, tag(node, self.text)));
        }
    }

    /// The children by name, each at most once; others are noted.
    pub(super) fn children<'n, 'i, const N: usize>(
        &mut self,
        node: Node<'n, 'i>,
        names: [&str; N],
    ) -> Result<[Option<Node<'n, 'i>>; N], XmlError> {
        let mut found = [None; N];
        for child in node.children().filter(Node::is_element) {
            let known = self.own_name(child).and_then(|name| names.iter().position(|n| *n == name));
            match known {
                Some(i) if found[i].is_some() => {
                    return self.fail(child, format!("there is a second `{}`", names[i]));
                }
                Some(i) => found[i] = Some(child),
                None => self.unknown(child, node),
            }
        }
        Ok(found)
    }

    fn unknown(&mut self, child: Node<'_, '_>, parent: Node<'_, '_>) {
        let (name, around) = (child.tag_name().name(), parent.tag_name().name());
        let of = match self.own_name(child) {
            Some(_) => String::new(),
            // Its name may be right.
            None => format!(" of the namespace {}", namespace_of(child)),
        };
        self.warn(child, format!("`{name}`{of} in `{around}` is unknown and was passed over"));
    }

    /// Every child of one name; others are noted.
    pub(super) fn list<T>(
        &mut self,
        node: Node<'_, '_>,
        item: &str,
        most: usize,
        one: fn(&mut Self, Node<'_, '_>) -> Result<T, XmlError>,
    ) -> Result<Vec<T>, XmlError> {
        let mut items = Vec::new();
        for child in node.children().filter(Node::is_element) {
            if self.own_name(child) != Some(item) {
                self.unknown(child, node);
            } else if items.len() == most {
                return self.fail(child, format!("there are more than {most} of `{item}`"));
            } else {
                items.push(one(self, child)?);
            }
        }
        Ok(items)
    }

    /// The attributes by name; others are noted, unless they belong to another namespace (`xsi:schemaLocation`).
    pub(super) fn attributes<const N: usize>(
        &mut self,
        node: Node<'_, '_>,
        names: [&str; N],
    ) -> [Option<String>; N] {
        for attribute in node.attributes() {
            let name = attribute.name();
            if attribute.namespace().is_none() && !names.contains(&name) {
                let element = node.tag_name().name();
                self.warn(
                    node,
                    format!("the attribute `{name}` of `{element}` is unknown and was passed over"),
                );
            }
        }
        names.map(|name| node.attribute(name).map(str::to_string))
    }

    /// The text of an element that has no elements inside.
    pub(super) fn text(&mut self, node: Node<'_, '_>) -> Result<String, XmlError> {
        if let Some(child) = node.children().find(Node::is_element) {
            let (name, inner) = (node.tag_name().name(), child.tag_name().name());
            return self.fail(child, format!("`{name}` contains text, and here is an element `{inner}`"));
        }
        Ok(node.children().filter(Node::is_text).filter_map(|n| n.text()).collect())
    }

    /// The text of an element without the white space around it.
    pub(super) fn trimmed(&mut self, node: Node<'_, '_>) -> Result<String, XmlError> {
        self.text(node).map(|text| text.trim().to_string())
    }

    pub(super) fn parameter(&mut self, node: Node<'_, '_>) -> Result<Parameter, XmlError> {
        let [name] = self.attributes(node, ["name"]);
        let Some(name) = name else { return self.fail(node, "a parameter needs a `name`".into()) };
        Ok(Parameter { name, value: self.text(node)? })
    }

    fn target(&mut self, node: Node<'_, '_>) -> Result<Target, XmlError> {
        let [class, kind, id] = self.attributes(node, ["class", "type", "id"]);
        Ok(Target { class, kind, id })
    }

    fn action(&mut self, node: Node<'_, '_>) -> Result<Action, XmlError> {
        let [name] = self.attributes(node, ["name"]);
        Ok(Action { name, parameters: self.list(node, "parameter", MAX_LIST, Self::parameter)? })
    }

    pub(super) fn aggregation(&mut self, node: Node<'_, '_>) -> Result<Aggregation, XmlError> {
        let [function, grouping] = self.attributes(node, ["aggregateFunction", "groupingClass"]);
        Ok(Aggregation {
            function,
            grouping,
            parameters: self.list(node, "parameter", MAX_LIST, Self::parameter)?,
        })
    }

    fn flag(&self, node: Node<'_, '_>, name: &str, value: Option<String>) -> Result<Option<bool>, XmlError> {
        match value.as_deref().map(str::trim) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => self.fail(node, format!("`{name}` is `{other}`; expected true or false")),
        }
    }

    fn rule(&mut self, node: Node<'_, '_>) -> Result<Read<Rule>, XmlError> {
        const ATTRIBUTES: [&str; 7] =
            ["id", "label", "relatedQosConstraintId", "startEnabled", "enabled", "timeStep", "timeWindow"];
        let [id, label, related_constraint, start, enabled, time_step, time_window] =
            self.attributes(node, ATTRIBUTES);
        let (start, enabled) =
            (self.flag(node, "startEnabled", start)?, self.flag(node, "enabled", enabled)?);
        if let (Some(a), Some(b)) = (start, enabled)
            && a != b
        {
            return self.fail(node, "`startEnabled` and `enabled` contradict each other".into());
        }
        const CHILDREN: [&str; 5] =
            ["monitoredTargets", "collectedMetric", "metricAggregation", "condition", "actions"];
        let [targets, metric, aggregation, condition, actions] = self.children(node, CHILDREN)?;
        let places = self.places(node, [targets, metric, aggregation, condition, actions]);
        let metric = metric.map(|node| self.metric(node)).transpose()?;
        let value = Rule {
            id,
            label,
            related_constraint,
            enabled: start.or(enabled),
            time_step,
            time_window,
            targets: targets.map(|n| self.list(n, "monitoredTarget", MAX_LIST, Self::target)).transpose()?,
            metric,
            aggregation: aggregation.map(|n| self.aggregation(n)).transpose()?,
            condition: condition.map(|n| self.text(n)).transpose()?,
            actions: actions.map(|n| self.list(n, "action", MAX_LIST, Self::action)).transpose()?,
        };
        Ok(Read { value, places })
    }

    fn metric(&mut self, node: Node<'_, '_>) -> Result<CollectedMetric, XmlError> {
        let [name] = self.attributes(node, ["metricName"]);
        Ok(CollectedMetric { name, parameters: self.list(node, "parameter", MAX_LIST, Self::parameter)? })
    }

    fn items<'n, 'i>(&self, node: Option<Node<'n, 'i>>, name: &str) -> Vec<Node<'n, 'i>> {
        let children = node.into_iter().flat_map(|n| n.children());
        children.filter(|n| n.is_element() && self.own_name(*n) == Some(name)).collect()
    }

    fn places(&self, rule: Node<'_, '_>, parts: [Option<Node<'_, '_>>; 5]) -> Places {
        let mut places = Places::default();
        let mut put = |part: Part, span: Option<Range<usize>>| {
            places.0.extend(span.map(|span| (part, span)));
        };
        let attribute = |node: Node<'_, '_>, name: &str| node.attribute_node(name).map(|a| a.range_value());
        let of_tag = |node: Option<Node<'_, '_>>| node.map(|n| tag(n, self.text));
        put(Part::Rule, of_tag(Some(rule)));
        put(Part::Id, attribute(rule, "id"));
        put(Part::TimeStep, attribute(rule, "timeStep"));
        put(Part::TimeWindow, attribute(rule, "timeWindow"));
        let [targets, metric, aggregation, condition, actions] = parts;
        put(Part::Targets, of_tag(targets));
        for (i, target) in self.items(targets, "monitoredTarget").into_iter().enumerate() {
            put(Part::Target(i), of_tag(Some(target)));
        }
        put(Part::Metric, of_tag(metric));
        put(Part::Aggregation, of_tag(aggregation));
        put(Part::Grouping, aggregation.and_then(|n| attribute(n, "groupingClass")));
        let text = condition.and_then(|n| n.children().find(|c| c.is_text()).map(|t| t.range()));
        put(Part::Condition, text.or(of_tag(condition)));
        put(Part::Actions, of_tag(actions));
        for (i, action) in self.items(actions, "action").into_iter().enumerate() {
            put(Part::Action(i), of_tag(Some(action)));
            for (j, parameter) in self.items(Some(action), "parameter").into_iter().enumerate() {
                put(Part::Parameter(i, j), of_tag(Some(parameter)));
            }
        }
        places
    }
}
