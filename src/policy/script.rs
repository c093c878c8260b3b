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

#[derive(Debug)]
pub struct ScriptError {
    pub message: String,
    pub line: usize,
    pub column: usize,
    pub hint: Option<String>,
}
impl Script {
    pub fn compile(name: &str, source: &str) -> Result<Self, ScriptError> {
        if !source.contains("fn plan(") {
            return Err(ScriptError { message: "no plan".into(), line: 1, column: 1, hint: None });
        }
        Ok(Self {
            name: name.into(),
            source: source.into(),
            hash: blake3::hash(source.as_bytes()).to_hex()[..16].into(),
            ast: rhai::AST::empty(),
        })
    }
}
