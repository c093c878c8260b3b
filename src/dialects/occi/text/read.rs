//! Reads fields: entities, calls, definitions of categories, filters and places.

use super::is_uri;
use crate::dialects::occi::draft::{Draft, DraftLink, Filter, Invocation};
use crate::dialects::occi::fault::{Fault, shown};
use crate::dialects::occi::model::{
    Action, Attribute, Attributes, Category, Document, End, Kind, Mixin, TypeId, Values, is_attribute_name,
};
use crate::dialects::occi::scan::{self, Field, Name, Piece, elements};

/// The fields of a request, checked to be well-formed lines.
#[derive(Debug)]
pub struct Fields<'a>(Vec<Field<'a>>);

impl<'a> Fields<'a> {
    /// Of a body in `text/plain`.
    ///
    /// # Errors
    /// A line that is no field, or a control character.
    pub fn of_text(text: &'a str) -> Result<Self, Fault> {
        scan::lines(text).map(Self)
    }

    /// Of headers; those that are not OCCI's are passed over.
    ///
    /// # Errors
    /// A value that is not UTF-8, or a control character.
    pub fn of_headers(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Fault> {
        scan::headers(headers).map(Self)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn pieces(&self, name: Name) -> Result<Vec<Piece<'a>>, Fault> {
        let mut all = Vec::new();
        for field in self.0.iter().filter(|f| f.name == name) {
            all.extend(elements(field)?);
        }
        Ok(all)
    }

    /// An entity: categories, attributes and links.
    ///
    /// # Errors
    /// Whatever cannot be read, with its place; a second kind; the definition of an action.
    pub fn entity(&self) -> Result<Draft, Fault> {
        let mut draft = Draft::default();
        for piece in self.pieces(Name::Category)? {
            let found = Definition::read(&piece)?;
            match found.class.as_deref() {
                Some("kind") if draft.kind.is_some() => {
                    return Err(piece.fault("a second kind; an entity has exactly one"));
                }
                Some("kind") => draft.kind = Some(found.id),
                Some("mixin") => draft.mixins.push(found.id),
                Some(_) => return Err(piece.fault("an action; an entity has a kind and mixins")),
                None => draft.unclassed.push(found.id),
            }
        }
        draft.attributes = self.attributes()?;
        for piece in self.pieces(Name::Link)? {
            match link(&piece)? {
                Reference::Action(id) => draft.actions.push(id),
                Reference::Link(link) => draft.links.push(DraftLink::Whole(link)),
            }
        }
        draft.lift()?;
        Ok(draft)
    }

    /// The values of `X-OCCI-Attribute`.
    ///
    /// # Errors
    /// A name or value that cannot be read, or a name that is there twice.
    pub fn attributes(&self) -> Result<Values, Fault> {
        let mut values = Values::new();
        for piece in self.pieces(Name::Attribute)? {
            // Some clients join attributes with semicolons.
            for piece in piece.split(b';')? {
                value(&piece, &mut values)?;
            }
        }
        Ok(values)
    }

    /// The call of an action: exactly one category, and attributes.
    ///
    /// # Errors
    /// None or several categories, or what [`Fields::attributes`] says.
    pub fn invocation(&self) -> Result<Invocation, Fault> {
        let categories = self.pieces(Name::Category)?;
        let [piece] = categories.as_slice() else {
            let found = categories.len();
            return Err(Fault::bad(format!(
                "the call of an action names {found} categories; expected exactly one, with class=\"action\""
            )));
        };
        let found = Definition::read(piece)?;
        match found.class.as_deref() {
            None | Some("action") => Ok(Invocation { action: found.id, attributes: self.attributes()? }),
            Some(other) => Err(piece.fault(format!(
                "a category of class `{other}`; the call of an action needs class=\"action\""
            ))),
        }
    }

    /// Definitions of categories, as of user mixins. Without a class it is a mixin.
    ///
    /// # Errors
    /// Whatever cannot be read, with its place.
    pub fn categories(&self) -> Result<Vec<Category>, Fault> {
        self.pieces(Name::Category)?.iter().map(|p| Definition::read(p).map(Definition::category)).collect()
    }

    /// What a collection is filtered by.
    ///
    /// # Errors
    /// Whatever cannot be read, with its place.
    pub fn filter(&self) -> Result<Filter, Fault> {
        let categories = self.pieces(Name::Category)?;
        let categories: Result<_, _> = categories.iter().map(|p| Definition::read(p).map(|d| d.id)).collect();
        Ok(Filter { categories: categories?, attributes: self.attributes()? })
    }

    /// The places of `X-OCCI-Location`.
    ///
    /// # Errors
    /// A place that is no URI.
    pub fn locations(&self) -> Result<Vec<String>, Fault> {
        self.pieces(Name::Location)?.iter().map(|p| p.unquoted().and_then(|text| uri(p, &text))).collect()
    }

    /// Everything that a body may hold in a collection: definitions or one entity, and places.
    ///
    /// # Errors
    /// Whatever cannot be read, with its place.
    pub fn document(&self) -> Result<Document<Draft>, Fault> {
        let mut document = Document { locations: self.locations()?, ..Document::default() };
        if self.0.iter().any(|f| f.name != Name::Location) {
            document.push_entity(self.entity()?);
        }
        Ok(document)
    }
}

/// Reads `text/uri-list` (RFC 2483): one per line, `#` begins a comment.
///
/// # Errors
/// A line that is no URI.
pub fn uri_list(text: &str) -> Result<Vec<String>, Fault> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !is_uri(line) {
            return Err(Fault::bad(format!("line {}: `{}` is no URI", i + 1, shown(line))));
        }
        found.push(line.to_string());
    }
    Ok(found)
}

fn uri(piece: &Piece<'_>, text: &str) -> Result<String, Fault> {
    let text = text.trim();
    // Some clients put the place in angle brackets, as in a link.
    let text = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text);
    match is_uri(text) {
        true => Ok(text.to_string()),
        false => Err(piece.fault(format!("`{}` is no URI", shown(text)))),
    }
}

fn value(piece: &Piece<'_>, values: &mut Values) -> Result<(), Fault> {
    let (name, text) = piece.pair();
    let name = name.attribute_name()?;
    let Some(text) = text else {
        return Err(piece.fault(format!(
            "`{name}` has no value; expected `{name}=\"text\"`, or a number, true or false"
        )));
    };
    match values.insert(name.to_string(), text.value()?) {
        Some(_) => Err(piece.fault(format!("`{name}` is given twice"))),
        None => Ok(()),
    }
}

fn type_id(piece: &Piece<'_>, text: &str) -> Result<TypeId, Fault> {
    text.parse().map_err(|e: Fault| piece.fault(e.text))
}

fn type_ids(piece: &Piece<'_>, text: &str) -> Result<Vec<TypeId>, Fault> {
    text.split_whitespace().map(|id| type_id(piece, id)).collect()
}

/// What a `Category` field says.
struct Definition {
    id: TypeId,
    class: Option<String>,
    title: Option<String>,
    rel: Option<TypeId>,
    location: Option<String>,
    attributes: Attributes,
    actions: Vec<TypeId>,
}

impl Definition {
    fn read(piece: &Piece<'_>) -> Result<Self, Fault> {
        let parts = piece.split(b';')?;
        let Some((term, parameters)) = parts.split_first() else {
            return Err(piece.fault("a category without a term"));
        };
        let (mut scheme, mut class, mut title, mut rel, mut location) = (None, None, None, None, None);
        let (mut attributes, mut actions) = (Attributes::new(), Vec::new());
        for part in parameters {
            let (key, text) = part.pair();
            let Some(text) = text else {
                return Err(
                    part.fault(format!("`{}` has no value; expected `key=\"value\"`", shown(part.text)))
                );
            };
            let read = text.unquoted()?;
            match key.text {
                "scheme" => scheme = Some(read),
                "class" => class = Some(class_of(&text, read)?),
                "title" => title = Some(read),
                // A 1.1 server may name several; the first is the parent.
                "rel" | "related" => rel = type_ids(&text, &read)?.into_iter().next(),
                "location" => location = Some(uri(&text, &read)?),
                "attributes" => attributes = descriptions(&text, &read)?,
                "actions" => actions = type_ids(&text, &read)?,
                // What later versions may add.
                _ => {}
            }
        }
        let Some(scheme) = scheme else {
            return Err(term.fault(format!(
                "the category `{}` has no scheme; expected `; scheme=\"http://…#\"`",
                shown(term.text)
            )));
        };
        let id = TypeId::new(&scheme, term.text).map_err(|e| term.fault(e.text))?;
        Ok(Self { id, class, title, rel, location, attributes, actions })
    }

    fn category(self) -> Category {
        let Self { id, class, title, rel, location, attributes, actions } = self;
        match class.as_deref() {
            Some("kind") => Category::Kind(Kind { id, title, parent: rel, attributes, actions, location }),
            Some("action") => Category::Action(Action { id, title, attributes }),
            _ => {
                let (depends, applies) = (rel.into_iter().collect(), Vec::new());
                Category::Mixin(Mixin {
                    id,
                    title,
                    depends,
                    applies,
                    attributes,
                    actions,
                    location,
                    user_defined: false,
                })
            }
        }
    }
}

fn class_of(piece: &Piece<'_>, class: String) -> Result<String, Fault> {
    match class.as_str() {
        "kind" | "mixin" | "action" => Ok(class),
        _ => Err(piece.fault(format!("the class is `{}`; expected kind, mixin or action", shown(&class)))),
    }
}

/// `a b{immutable} c{required}`. Names without braces are mutable, and not required.
fn descriptions(piece: &Piece<'_>, text: &str) -> Result<Attributes, Fault> {
    let mut found = Attributes::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || c == '{').unwrap_or(rest.len());
        let name = &rest[..end];
        rest = &rest[end..];
        let mut attribute = Attribute { mutable: true, ..Attribute::default() };
        if let Some(inner) = rest.strip_prefix('{') {
            let Some((words, after)) = inner.split_once('}') else {
                return Err(
                    piece.fault(format!("the properties of `{}` do not end; expected `}}`", shown(name)))
                );
            };
            for word in words.split([' ', ',']).filter(|w| !w.is_empty()) {
                match word {
                    "immutable" => attribute.mutable = false,
                    "required" => attribute.required = true,
                    other => {
                        let name = shown(name);
                        return Err(piece.fault(format!(
                            "the property `{}` of `{name}` is unknown; expected immutable or required",
                            shown(other)
                        )));
                    }
                }
            }
            rest = after;
        }
        if !is_attribute_name(name) {
            return Err(piece.fault(format!("`{}` is no attribute name", shown(name))));
        }
        found.insert(name.to_string(), attribute);
        rest = rest.trim_start();
    }
    Ok(found)
}

/// What a `Link` field may be.
enum Reference {
    Action(TypeId),
    Link(Box<Draft>),
}

fn link(piece: &Piece<'_>) -> Result<Reference, Fault> {
    let parts = piece.split(b';')?;
    let Some((first, parameters)) = parts.split_first() else {
        return Err(piece.fault("a link without a URI"));
    };
    let Some(place) = first.text.strip_prefix('<').and_then(|t| t.strip_suffix('>')) else {
        return Err(first.fault(format!("`{}` is no `<URI>`", shown(first.text))));
    };
    let place = uri(first, place)?;
    let (mut rel, mut category, mut draft) = (Vec::new(), Vec::new(), Draft::default());
    for part in parameters {
        let (key, text) = part.pair();
        match (key.text, text) {
            ("rel", Some(text)) => rel = type_ids(&text, &text.unquoted()?)?,
            ("category", Some(text)) => category = type_ids(&text, &text.unquoted()?)?,
            ("self", Some(text)) => draft.location = Some(uri(&text, &text.unquoted()?)?),
            _ => value(part, &mut draft.attributes)?,
        }
    }
    if place.contains("?action=") {
        return match rel.into_iter().next() {
            Some(id) => Ok(Reference::Action(id)),
            None => Err(first.fault("the link of an action has no `rel`; expected `rel=\"<the action>\"`")),
        };
    }
    let mut category = category.into_iter();
    draft.kind = category.next();
    draft.mixins = category.collect();
    draft.target = Some(End { location: place, kind: rel.into_iter().next() });
    draft.lift().map_err(|e| piece.fault(e.text))?;
    Ok(Reference::Link(Box::new(draft)))
}
