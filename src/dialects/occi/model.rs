//! The core model (GFD.221): categories, and the entities that they describe, as the server shows them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use super::fault::{Fault, shown};

/// The scheme of the core categories.
pub const CORE: &str = "http://schemas.ogf.org/occi/core#";

/// The identifier of a category: a scheme, which is a URI that ends in `#`, and a term. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId {
    text: Arc<str>,
    /// Where the term begins.
    term: usize,
}

impl TypeId {
    /// Puts scheme and term together.
    ///
    /// # Errors
    /// The scheme does not end in its only `#`, or the term is not `(letter or digit) (letter, digit, "-", "_", ".")*`.
    pub fn new(scheme: &str, term: &str) -> Result<Self, Fault> {
        if !scheme.ends_with('#') {
            return Err(Fault::bad(format!(
                "the scheme `{}` does not end in `#`; expected a URI like `http://example.com/occi#`",
                shown(scheme)
            )));
        }
        format!("{scheme}{term}").parse()
    }

    /// As [`TypeId::new`] for identifiers written in this program. A wrong one yields a wrong identifier, which tests find.
    pub(super) fn fixed(scheme: &str, term: &str) -> Self {
        Self { text: format!("{scheme}{term}").into(), term: scheme.len() }
    }

    /// The URI with the `#` at its end.
    pub fn scheme(&self) -> &str {
        &self.text[..self.term]
    }

    /// What follows the `#`.
    pub fn term(&self) -> &str {
        &self.text[self.term..]
    }

    /// Scheme and term.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TypeId {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let Some((scheme, term)) = text.split_once('#') else {
            return Err(Fault::bad(format!(
                "`{}` is no category identifier: it has no `#`; expected scheme and term like `http://schemas.ogf.org/occi/core#resource`",
                shown(text)
            )));
        };
        let wrong =
            |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '<' | '>' | '\\' | ',' | ';');
        if scheme.is_empty() || scheme.contains(wrong) {
            return Err(Fault::bad(format!("the scheme `{}#` is no URI", shown(scheme))));
        }
        if !is_term(term) {
            return Err(Fault::bad(format!(
                "the term `{}` is wrong: expected a letter or digit, then letters, digits, `-`, `_` and `.`",
                shown(term)
            )));
        }
        Ok(Self { text: text.into(), term: scheme.len() + 1 })
    }
}

fn is_term(term: &str) -> bool {
    term.starts_with(|c: char| c.is_ascii_alphanumeric())
        && term.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether a text can be the name of an attribute: parts of letters, digits, `-` and `_`, with dots between.
pub fn is_attribute_name(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    name.split('.').all(part)
}

/// The type of an attribute's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AttributeType {
    /// Text; what is meant when nothing is said.
    #[default]
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list.
    Array,
    /// A map from names to values.
    Object,
}

impl AttributeType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::String, Self::Number, Self::Boolean, Self::Array, Self::Object];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    /// Whether a value is of this type.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

/// What a category says of an attribute.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attribute {
    /// The type of its values.
    pub kind: AttributeType,
    /// A second type that is accepted; renderings do not tell.
    pub or: Option<AttributeType>,
    /// Whether clients may set and change it.
    pub mutable: bool,
    /// Whether an entity must have it.
    pub required: bool,
    /// A JSON schema that values satisfy.
    pub pattern: Option<Value>,
    /// The value when the client says none.
    pub default: Option<Value>,
    /// What it means, for people.
    pub description: Option<String>,
}

/// Descriptions of attributes by their names.
pub type Attributes = BTreeMap<String, Attribute>;

/// Values of attributes by their names.
pub type Values = BTreeMap<String, Value>;

/// What an entity is.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// Its identifier.
    pub id: TypeId,
    /// For people.
    pub title: Option<String>,
    /// The kind whose attributes and actions it inherits.
    pub parent: Option<TypeId>,
    /// What it adds to its parent's.
    pub attributes: Attributes,
    /// What its entities can do.
    pub actions: Vec<TypeId>,
    /// The path of the collection of its entities. `core#entity` has none.
    pub location: Option<String>,
}

/// What an entity has besides; a tag, if it brings nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixin {
    /// Its identifier.
    pub id: TypeId,
    /// For people.
    pub title: Option<String>,
    /// Mixins whose attributes it brings along.
    pub depends: Vec<TypeId>,
    /// The kinds that it may be applied to, with those derived from them; any, if there is none.
    pub applies: Vec<TypeId>,
    /// What it adds. A default here overrides the default of the kind.
    pub attributes: Attributes,
    /// What entities that have it can do.
    pub actions: Vec<TypeId>,
    /// The path of the collection of entities that have it.
    pub location: Option<String>,
    /// Whether a client created it.
    pub user_defined: bool,
}

/// What can be done with an entity.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// Its identifier.
    pub id: TypeId,
    /// For people.
    pub title: Option<String>,
    /// Its parameters.
    pub attributes: Attributes,
}

/// Anything that `/-/` shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Category {
    /// A kind.
    Kind(Kind),
    /// A mixin.
    Mixin(Mixin),
    /// An action.
    Action(Action),
}

impl Category {
    /// Its identifier.
    pub fn id(&self) -> &TypeId {
        match self {
            Self::Kind(k) => &k.id,
            Self::Mixin(m) => &m.id,
            Self::Action(a) => &a.id,
        }
    }

    /// `kind`, `mixin` or `action`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Kind(_) => "kind",
            Self::Mixin(_) => "mixin",
            Self::Action(_) => "action",
        }
    }

    /// For people.
    pub fn title(&self) -> Option<&str> {
        match self {
            Self::Kind(k) => k.title.as_deref(),
            Self::Mixin(m) => m.title.as_deref(),
            Self::Action(a) => a.title.as_deref(),
        }
    }

    /// What it says of attributes.
    pub fn attributes(&self) -> &Attributes {
        match self {
            Self::Kind(k) => &k.attributes,
            Self::Mixin(m) => &m.attributes,
            Self::Action(a) => &a.attributes,
        }
    }

    /// The actions that its entities can do; none of an action.
    pub fn actions(&self) -> &[TypeId] {
        match self {
            Self::Kind(k) => &k.actions,
            Self::Mixin(m) => &m.actions,
            Self::Action(_) => &[],
        }
    }

    /// The path of its collection.
    pub fn location(&self) -> Option<&str> {
        match self {
            Self::Kind(k) => k.location.as_deref(),
            Self::Mixin(m) => m.location.as_deref(),
            Self::Action(_) => None,
        }
    }
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// A path of ours, or any URI.
    pub location: String,
    /// What is there, if known.
    pub kind: Option<TypeId>,
}

impl End {
    /// An end of which only the place is known.
    pub fn at(location: impl Into<String>) -> Self {
        Self { location: location.into(), kind: None }
    }
}

/// Whether an entity is a resource or a link.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A resource with the links that begin in it.
    Resource {
        /// Whole links, of which `location` is shown as `self`.
        links: Vec<Entity>,
    },
    /// A link.
    Link {
        /// Where it begins: a resource of ours.
        source: End,
        /// Where it leads; this may be elsewhere.
        target: End,
    },
}

/// A resource or link as the server shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// A URI, `urn:uuid:…` if we made it.
    pub id: String,
    /// Its path, or the URI at which it is read.
    pub location: String,
    /// What it is.
    pub kind: TypeId,
    /// What it has besides, in the order of association.
    pub mixins: Vec<TypeId>,
    /// All values but those of the core model.
    pub attributes: Values,
    /// `occi.core.title`.
    pub title: Option<String>,
    /// `occi.core.summary`; of resources only.
    pub summary: Option<String>,
    /// What can be done with it now.
    pub actions: Vec<TypeId>,
    /// Resource or link.
    pub what: What,
}

impl Entity {
    /// The links that begin in it.
    pub fn links(&self) -> &[Entity] {
        match &self.what {
            What::Resource { links } => links,
            What::Link { .. } => &[],
        }
    }
}

/// The model object of GFD.225: any number of everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<E = Entity> {
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Mixins.
    pub mixins: Vec<Mixin>,
    /// Actions.
    pub actions: Vec<Action>,
    /// Resources.
    pub resources: Vec<E>,
    /// Links.
    pub links: Vec<E>,
    /// Entities of which only the place is given.
    pub locations: Vec<String>,
}

impl<E> Default for Document<E> {
    fn default() -> Self {
        Self {
            kinds: Vec::new(),
            mixins: Vec::new(),
            actions: Vec::new(),
            resources: Vec::new(),
            links: Vec::new(),
            locations: Vec::new(),
        }
    }
}

impl<E> Document<E> {
    /// Adds a category where it belongs.
    pub fn push(&mut self, category: Category) {
        match category {
            Category::Kind(k) => self.kinds.push(k),
            Category::Mixin(m) => self.mixins.push(m),
            Category::Action(a) => self.actions.push(a),
        }
    }

    /// All categories: kinds, then mixins, then actions.
    pub fn categories(&self) -> impl Iterator<Item = Category> + '_ {
        let kinds = self.kinds.iter().cloned().map(Category::Kind);
        let mixins = self.mixins.iter().cloned().map(Category::Mixin);
        kinds.chain(mixins).chain(self.actions.iter().cloned().map(Category::Action))
    }
}
