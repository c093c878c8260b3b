//! One way in and one way out for all renderings.

use serde_json::Value;

use super::draft::{Draft, Filter, Invocation};
use super::fault::{Fault, FaultKind};
use super::model::{Category, Document, Entity, TypeId};
use super::negotiate::{MediaType, Rendering};
use super::registry::Registry;
use super::text::{self, Fields, Lines};
use super::validate::qualify;
use super::{json, xml};

/// A request: its rendering, its headers (others than OCCI's may be among them) and its body.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// How it is rendered.
    pub rendering: Rendering,
    /// The headers, with lower-case or other names.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Input<'a> {
    fn text(&self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.body)
            .map_err(|e| Fault::bad(format!("the body is not UTF-8: byte {} is wrong", e.valid_up_to() + 1)))
    }

    fn fields(&self) -> Result<Fields<'a>, Fault> {
        match self.rendering {
            Rendering::Headers => self.header_fields(),
            _ => Fields::of_text(self.text()?),
        }
    }

    fn header_fields(&self) -> Result<Fields<'a>, Fault> {
        Fields::of_headers(self.headers.iter().copied())
    }

    fn no_list<T>(&self, what: &str) -> Result<T, Fault> {
        Err(Fault::bad(format!("text/uri-list cannot carry {what}")))
    }

    /// Whether it says nothing.
    ///
    /// # Errors
    /// As the others.
    pub fn is_empty(&self) -> Result<bool, Fault> {
        match self.rendering {
            Rendering::Headers => Ok(self.header_fields()?.is_empty()),
            _ => Ok(self.text()?.trim().is_empty()),
        }
    }

    /// One entity.
    ///
    /// # Errors
    /// 400 with the place of what cannot be read.
    pub fn entity(&self, registry: &Registry) -> Result<Draft, Fault> {
        match self.rendering {
            Rendering::Plain | Rendering::Headers => self.fields()?.entity(),
            Rendering::Json => json::entity(self.text()?, &|name| registry.holds_maps(name)),
            Rendering::Xml => {
                let mut draft = xml::entity(self.text()?)?;
                qualify(registry, &mut draft);
                Ok(draft)
            }
            Rendering::UriList => self.no_list("an entity"),
        }
    }

    /// Any number of everything: entities, categories, places.
    ///
    /// # Errors
    /// As [`Input::entity`].
    pub fn document(&self, registry: &Registry) -> Result<Document<Draft>, Fault> {
        match self.rendering {
            Rendering::Plain | Rendering::Headers => self.fields()?.document(),
            Rendering::Json => json::document(self.text()?, &|name| registry.holds_maps(name)),
            Rendering::Xml => {
                let mut document = xml::document(self.text()?)?;
                let drafts = document.resources.iter_mut().chain(&mut document.links);
                drafts.for_each(|draft| qualify(registry, draft));
                Ok(document)
            }
            Rendering::UriList => {
                Ok(Document { locations: text::uri_list(self.text()?)?, ..Document::default() })
            }
        }
    }

    /// The call of an action.
    ///
    /// # Errors
    /// As [`Input::entity`].
    pub fn invocation(&self, registry: &Registry) -> Result<Invocation, Fault> {
        match self.rendering {
            Rendering::Plain | Rendering::Headers => self.fields()?.invocation(),
            Rendering::Json => json::invocation(self.text()?, &|name| registry.holds_maps(name)),
            Rendering::Xml => xml::invocation(self.text()?),
            Rendering::UriList => self.no_list("the call of an action"),
        }
    }

    /// Definitions of categories, for `/-/`.
    ///
    /// # Errors
    /// As [`Input::entity`].
    pub fn categories(&self, registry: &Registry) -> Result<Vec<Category>, Fault> {
        match self.rendering {
            Rendering::Plain | Rendering::Headers => self.fields()?.categories(),
            Rendering::UriList => self.no_list("categories"),
            _ => Ok(self.document(registry)?.categories().collect()),
        }
    }

    /// The places of entities, to associate with a mixin or to remove.
    ///
    /// # Errors
    /// As [`Input::entity`].
    pub fn locations(&self, registry: &Registry) -> Result<Vec<String>, Fault> {
        match self.rendering {
            Rendering::Plain | Rendering::Headers => self.fields()?.locations(),
            Rendering::UriList => text::uri_list(self.text()?),
            _ if self.text()?.trim().is_empty() => Ok(Vec::new()),
            _ => json::locations(&self.document(registry)?),
        }
    }

    /// What a collection is filtered by: always in headers; in a body of lines as well.
    ///
    /// # Errors
    /// As [`Input::entity`].
    pub fn filter(&self) -> Result<Filter, Fault> {
        let mut filter = self.header_fields()?.filter()?;
        if self.rendering == Rendering::Plain {
            let more = self.fields()?.filter()?;
            filter.categories.extend(more.categories);
            filter.attributes.extend(more.attributes);
        }
        Ok(filter)
    }
}

/// A response: what goes into `Content-Type`, into further headers, and into the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The media type.
    pub content_type: &'static str,
    /// Headers of `text/occi`; values are UTF-8 without control characters.
    pub headers: Lines,
    /// The body.
    pub body: String,
}

impl Output {
    fn body(media: MediaType, body: String) -> Self {
        Self { content_type: media.name, headers: Lines::new(), body }
    }

    fn json(media: MediaType, value: &Value) -> Self {
        Self::body(media, json::written(value))
    }

    fn lines(media: MediaType, lines: &Lines) -> Self {
        match media.rendering {
            Rendering::Headers => Self {
                content_type: media.name,
                headers: text::headers(lines),
                body: text::HEADERS_BODY.to_string(),
            },
            _ => Self::body(media, text::plain(lines)),
        }
    }

    /// One entity.
    ///
    /// # Errors
    /// 400 for `text/uri-list`.
    pub fn entity(media: MediaType, entity: &Entity) -> Result<Self, Fault> {
        match media.rendering {
            Rendering::Plain | Rendering::Headers => Ok(Self::lines(media, &text::entity_lines(entity))),
            Rendering::Json => Ok(Self::json(media, &json::entity_value(entity))),
            Rendering::Xml => Ok(Self::body(media, xml::entity_text(entity))),
            Rendering::UriList => Err(Fault::bad("text/uri-list renders collections only")),
        }
    }

    /// A collection of entities. Text has their places, which begin with `base` (`http://host`), JSON and XML all of them.
    pub fn entities(media: MediaType, entities: &[Entity], base: &str) -> Self {
        match media.rendering {
            Rendering::Json => Self::json(media, &json::collection_value(entities)),
            Rendering::Xml => Self::body(media, xml::collection_text(entities)),
            _ => Self::locations(media, entities.iter().map(|e| e.location.as_str()), base),
        }
    }

    /// Places of entities, which begin with `base`. JSON has a list of texts, which is its answer to what was created.
    pub fn locations<'a>(media: MediaType, locations: impl IntoIterator<Item = &'a str>, base: &str) -> Self {
        let places: Vec<String> = locations.into_iter().map(|l| absolute(base, l)).collect();
        match media.rendering {
            Rendering::UriList => Self::body(media, places.iter().map(|p| format!("{p}\r\n")).collect()),
            Rendering::Json => Self::json(media, &Value::from(places)),
            Rendering::Xml => Self::body(media, xml::locations_text(&places)),
            _ => Self::lines(media, &text::location_lines(places.iter().map(String::as_str))),
        }
    }

    /// Categories, as `/-/` shows them. A list of URIs has their collections.
    pub fn categories<'a>(
        media: MediaType,
        categories: impl IntoIterator<Item = &'a Category>,
        base: &str,
    ) -> Self {
        let categories: Vec<&Category> = categories.into_iter().collect();
        match media.rendering {
            Rendering::Json => Self::json(media, &json::categories_value(categories)),
            Rendering::Xml => Self::body(media, xml::categories_text(categories)),
            Rendering::UriList => {
                Self::locations(media, categories.iter().filter_map(|c| c.location()), base)
            }
            _ => Self::lines(media, &categories.into_iter().map(text::category_line).collect()),
        }
    }

    /// The call of an action, for clients.
    ///
    /// # Errors
    /// 400 for `text/uri-list`.
    pub fn invocation(media: MediaType, call: &Invocation) -> Result<Self, Fault> {
        match media.rendering {
            Rendering::Plain | Rendering::Headers => Ok(Self::lines(media, &text::invocation_lines(call))),
            Rendering::Json => Ok(Self::json(media, &json::invocation_value(call))),
            Rendering::Xml => Ok(Self::body(media, xml::invocation_text(call))),
            Rendering::UriList => Err(Fault::bad("text/uri-list renders collections only")),
        }
    }
}

/// A place of this server with its host; others as they are.
pub fn absolute(base: &str, location: &str) -> String {
    match location.starts_with('/') {
        true => format!("{}{location}", base.trim_end_matches('/')),
        false => location.to_string(),
    }
}

/// The action that `?action=` names: by term, and if the body names one as well, the same one.
///
/// # Errors
/// 400 if the two differ, or if no action of the entity has the term.
pub fn called(term: &str, actions: &[TypeId], body: Option<&TypeId>) -> Result<TypeId, Fault> {
    let found = match body {
        Some(id) if id.term() == term => Some(id.clone()),
        Some(id) => {
            return Err(Fault::new(
                FaultKind::BadRequest,
                format!("the query says `{}`, the body `{id}`", super::fault::shown(term)),
            ));
        }
        None => actions.iter().find(|a| a.term() == term).cloned(),
    };
    found.ok_or_else(|| Fault::bad(format!("there is no action `{}` here", super::fault::shown(term))))
}
