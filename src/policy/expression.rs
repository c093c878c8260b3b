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
