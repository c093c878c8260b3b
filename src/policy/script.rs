//! Strategies as values: source, hash and syntax tree.

use std::sync::Arc;

/// A compiled strategy.
#[derive(Debug)]
pub struct Script {
    /// The name that policies use: the file's path relative to the policy directory.
    pub name: Arc<str>,
    /// The text.
    pub source: Arc<str>,
    /// The content hash (BLAKE3, hex, 16 digits).
    pub hash: Arc<str>,
    /// The syntax tree.
    pub ast: rhai::AST,
}

impl PartialEq for Script {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.hash == other.hash
    }
}
