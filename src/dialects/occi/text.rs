//! The text renderings (GFD.229), both ways: `text/plain` in lines, `text/occi` in headers, `text/uri-list`.
//!
//! Both are the same fields, so that everything is read from [`Fields`] and written as a list of (field, value).

use serde_json::Value;

use super::draft::{Draft, DraftLink, Filter, Invocation};
use super::fault::{Fault, shown};
use super::model::{
    Action, Attribute, Attributes, Category, Document, End, Entity, Kind, Mixin, TypeId, Values, What,
};
use super::scan::{self, Field, Name, Piece, elements, quote};

/// The fields of a request, checked to be well-formed lines.
#[derive(Debug)]
pub struct Fields<'a>(Vec<Field<'a>>);

/// Lines to be written: the name of a field, and its value.
pub type Lines = Vec<(&'static str, String)>;

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
        draft.lift();
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

/// Whether a text can stand where a URI or path is expected.
pub fn is_uri(text: &str) -> bool {
    let wrong = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '<' | '>' | '\\');
    !text.is_empty() && !text.contains(wrong)
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
        if !super::model::is_attribute_name(name) {
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
    Link(Draft),
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
    draft.lift();
    Ok(Reference::Link(draft))
}

/// The fields of one category.
pub fn category_line(category: &Category) -> (&'static str, String) {
    let mut out = head(category.id(), category.class());
    if let Some(title) = category.title() {
        parameter(&mut out, "title", title);
    }
    let rel = match category {
        Category::Kind(k) => k.parent.as_ref(),
        // GFD.229: the first alone, and never what it applies to.
        Category::Mixin(m) => m.depends.first(),
        Category::Action(_) => None,
    };
    if let Some(rel) = rel {
        parameter(&mut out, "rel", rel.as_str());
    }
    if let Some(location) = category.location() {
        parameter(&mut out, "location", location);
    }
    let described: Vec<String> = category.attributes().iter().map(|(name, a)| described(name, a)).collect();
    if !described.is_empty() {
        parameter(&mut out, "attributes", &described.join(" "));
    }
    let actions: Vec<&str> = category.actions().iter().map(TypeId::as_str).collect();
    if !actions.is_empty() {
        parameter(&mut out, "actions", &actions.join(" "));
    }
    (Name::Category.as_str(), out)
}

fn described(name: &str, attribute: &Attribute) -> String {
    match (attribute.mutable, attribute.required) {
        (true, false) => name.to_string(),
        (true, true) => format!("{name}{{required}}"),
        (false, false) => format!("{name}{{immutable}}"),
        (false, true) => format!("{name}{{immutable required}}"),
    }
}

fn head(id: &TypeId, class: &str) -> String {
    format!("{}; scheme=\"{}\"; class=\"{class}\"", id.term(), id.scheme())
}

fn parameter(out: &mut String, key: &str, text: &str) {
    out.push_str("; ");
    out.push_str(key);
    out.push('=');
    out.push_str(&quote(text));
}

/// A value as it stands in a field: text in quotes; lists and maps, which this rendering lacks, as quoted JSON.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        other => quote(&other.to_string()),
    }
}

/// The fields of an entity: categories, attributes, links, actions.
pub fn entity_lines(entity: &Entity) -> Lines {
    let mut lines = vec![(Name::Category.as_str(), head(&entity.kind, "kind"))];
    lines.extend(entity.mixins.iter().map(|m| (Name::Category.as_str(), head(m, "mixin"))));
    let mut put = |name: &str, value: String| {
        lines.push((Name::Attribute.as_str(), format!("{name}={value}")));
    };
    core_values(entity, &mut put);
    if let What::Link { source, target } = &entity.what {
        for (name, end) in [("occi.core.source", source), ("occi.core.target", target)] {
            put(name, quote(&end.location));
            if let Some(kind) = &end.kind {
                put(&format!("{name}.kind"), quote(kind.as_str()));
            }
        }
    }
    for (name, value) in entity.attributes.iter().filter(|(_, v)| !v.is_null()) {
        put(name, written(value));
    }
    lines.extend(entity.links().iter().map(|l| (Name::Link.as_str(), link_line(l))));
    for action in &entity.actions {
        let line = format!("<{}?action={}>; rel={}", entity.location, action.term(), quote(action.as_str()));
        lines.push((Name::Link.as_str(), line));
    }
    lines
}

fn core_values(entity: &Entity, put: &mut impl FnMut(&str, String)) {
    put("occi.core.id", quote(&entity.id));
    if let Some(title) = &entity.title {
        put("occi.core.title", quote(title));
    }
    if let Some(summary) = &entity.summary {
        put("occi.core.summary", quote(summary));
    }
}

fn link_line(link: &Entity) -> String {
    let What::Link { target, .. } = &link.what else { return String::new() };
    let mut out = format!("<{}>", target.location);
    // Clients need a `rel`; of what is elsewhere we know no more than that it is something.
    let rel = target.kind.as_ref().map_or("http://schemas.ogf.org/occi/core#resource", TypeId::as_str);
    parameter(&mut out, "rel", rel);
    parameter(&mut out, "self", &link.location);
    let categories: Vec<&str> = [&link.kind].into_iter().chain(&link.mixins).map(TypeId::as_str).collect();
    parameter(&mut out, "category", &categories.join(" "));
    let mut put = |name: &str, value: String| out.push_str(&format!("; {name}={value}"));
    core_values(link, &mut put);
    for (name, value) in link.attributes.iter().filter(|(_, v)| !v.is_null()) {
        put(name, written(value));
    }
    out
}

/// The fields of a call.
pub fn invocation_lines(call: &Invocation) -> Lines {
    let mut lines = vec![(Name::Category.as_str(), head(&call.action, "action"))];
    for (name, value) in call.attributes.iter().filter(|(_, v)| !v.is_null()) {
        lines.push((Name::Attribute.as_str(), format!("{name}={}", written(value))));
    }
    lines
}

/// The fields of a collection of entities: their places.
pub fn location_lines<'a>(locations: impl IntoIterator<Item = &'a str>) -> Lines {
    locations.into_iter().map(|l| (Name::Location.as_str(), l.to_string())).collect()
}

/// A body in `text/plain`, one field per line.
pub fn plain(lines: &Lines) -> String {
    lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// The headers of `text/occi`: one per name, with its values joined by commas. The body is [`HEADERS_BODY`].
pub fn headers(lines: &Lines) -> Lines {
    let mut joined: Lines = Vec::new();
    for (name, value) in lines {
        match joined.iter_mut().find(|(n, _)| n == name) {
            Some((_, all)) => {
                all.push_str(", ");
                all.push_str(value);
            }
            None => joined.push((name, value.clone())),
        }
    }
    joined
}

/// The body of a `text/occi` response.
pub const HEADERS_BODY: &str = "OK";
