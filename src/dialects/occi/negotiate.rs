//! Which rendering a request has, and which the response gets; and which version of OCCI a client speaks.

use super::fault::{Fault, FaultKind, shown};

/// A rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rendering {
    /// Lines of a body.
    Plain,
    /// Headers.
    Headers,
    /// A list of places.
    UriList,
    /// JSON.
    Json,
    /// XML.
    Xml,
}

/// What is to be rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One entity, or the call of an action.
    Single,
    /// Entities or categories.
    Collection,
}

/// A rendering under the name that the client used for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaType {
    /// Which rendering.
    pub rendering: Rendering,
    /// The value of `Content-Type`.
    pub name: &'static str,
    /// For whom; JSON differs.
    pub version: Version,
}

/// All names. The first of a rendering is its own; the order is the order of preference where the client has none.
pub const MEDIA_TYPES: [MediaType; 9] = [
    named(Rendering::Plain, "text/plain"),
    named(Rendering::Json, "application/occi+json"),
    named(Rendering::Headers, "text/occi"),
    named(Rendering::UriList, "text/uri-list"),
    named(Rendering::Xml, "application/occi+xml"),
    named(Rendering::Plain, "text/occi+plain"),
    named(Rendering::Json, "application/json"),
    named(Rendering::Xml, "application/xml"),
    named(Rendering::Xml, "text/xml"),
];

/// What a server of ours says in the header `Accept` of its responses.
pub const ACCEPT: &str = "text/plain, application/occi+json, text/occi, text/uri-list, application/occi+xml";

const fn named(rendering: Rendering, name: &'static str) -> MediaType {
    MediaType { rendering, name, version: Version::V1_2 }
}

impl MediaType {
    /// What clients get who do not say what they want.
    pub const DEFAULT: Self = named(Rendering::Plain, "text/plain");

    /// The same for clients of a version.
    #[must_use]
    pub fn for_version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// A rendering under its own name.
    pub fn of(rendering: Rendering) -> Self {
        MEDIA_TYPES.into_iter().find(|m| m.rendering == rendering).unwrap_or(Self::DEFAULT)
    }

    fn find(name: &str) -> Option<Self> {
        MEDIA_TYPES.into_iter().find(|m| m.name.eq_ignore_ascii_case(name))
    }
}

/// One entry of `Accept`.
struct Range<'a> {
    name: &'a str,
    quality: f64,
}

impl Range<'_> {
    /// How closely it names a media type: 3 exactly, 2 `text/*`, 1 `*/*`.
    fn closeness(&self, media: MediaType) -> Option<u8> {
        if self.name.eq_ignore_ascii_case(media.name) {
            return Some(3);
        }
        let (kind, _) = media.name.split_once('/')?;
        match self.name.split_once('/') {
            Some(("*", "*")) => Some(1),
            Some((k, "*")) if k.eq_ignore_ascii_case(kind) => Some(2),
            None if self.name == "*" => Some(1),
            _ => None,
        }
    }
}

fn ranges(accept: &str) -> Vec<Range<'_>> {
    let entries = accept.split(',').map(str::trim).filter(|e| !e.is_empty());
    let range = |entry: &'_ str| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality =
            parts.filter_map(|p| p.split_once('=')).find(|(key, _)| key.trim().eq_ignore_ascii_case("q"));
        // An unreadable quality is no reason to refuse.
        let quality = quality.and_then(|(_, q)| q.trim().parse::<f64>().ok()).unwrap_or(1.0);
        (name.len(), if quality.is_nan() { 1.0 } else { quality.clamp(0.0, 1.0) })
    };
    entries
        .map(|entry| {
            let (length, quality) = range(entry);
            Range { name: &entry[..length], quality }
        })
        .collect()
}

/// Chooses the rendering of a response. Several headers `Accept` count as one, joined by commas.
///
/// # Errors
/// 406 if nothing fits; 400 if only `text/uri-list` would, and a single entity is to be rendered (GFD.229).
pub fn accept(accept: Option<&str>, shape: Shape) -> Result<MediaType, Fault> {
    let Some(text) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(MediaType::DEFAULT) };
    let ranges = ranges(text);
    let mut best: Option<(MediaType, (f64, u8, usize))> = None;
    for media in MEDIA_TYPES {
        // The closest range decides about a media type; the highest quality, then closeness, then the client's order among them.
        let fitting =
            ranges.iter().enumerate().filter_map(|(i, r)| Some((r.closeness(media)?, r.quality, i)));
        let Some((closeness, quality, i)) =
            fitting.max_by_key(|(closeness, _, i)| (*closeness, usize::MAX - i))
        else {
            continue;
        };
        if quality <= 0.0 || (shape == Shape::Single && media.rendering == Rendering::UriList) {
            continue;
        }
        let rank = (quality, closeness, usize::MAX - i);
        if best.is_none_or(|(_, other)| rank > other) {
            best = Some((media, rank));
        }
    }
    match best {
        Some((media, _)) => Ok(media),
        None if ranges.iter().any(|r| r.name.eq_ignore_ascii_case("text/uri-list") && r.quality > 0.0) => {
            Err(Fault::bad(
                "text/uri-list renders collections only; expected text/plain or application/occi+json",
            ))
        }
        None => Err(Fault::new(
            FaultKind::NotAcceptable,
            format!("`{}` has nothing that is offered here: {ACCEPT}", shown(text)),
        )),
    }
}

/// Which rendering a request has. Without `Content-Type`, a body is lines, and no body means headers.
///
/// # Errors
/// 415 for what is not read here, and for another charset than UTF-8.
pub fn content_type(content_type: Option<&str>, has_body: bool) -> Result<MediaType, Fault> {
    let Some(text) = content_type.filter(|c| !c.trim().is_empty()) else {
        return Ok(MediaType::of(if has_body { Rendering::Plain } else { Rendering::Headers }));
    };
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let unsupported = |why: String| Err(Fault::new(FaultKind::UnsupportedMediaType, why));
    let charset =
        parts.filter_map(|p| p.split_once('=')).find(|(key, _)| key.trim().eq_ignore_ascii_case("charset"));
    if let Some((_, charset)) = charset {
        let charset = charset.trim().trim_matches('"').to_ascii_lowercase();
        if !["utf-8", "utf8", "us-ascii"].contains(&charset.as_str()) {
            return unsupported(format!(
                "the charset `{}` is not read here; expected utf-8",
                shown(&charset)
            ));
        }
    }
    match MediaType::find(name) {
        Some(media) => Ok(media),
        None => unsupported(format!("`{}` is not read here; expected one of {ACCEPT}", shown(name))),
    }
}

/// Which version of OCCI a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 1.1 (GFD.183 to GFD.185).
    V1_1,
    /// 1.2 (GFD.221 to GFD.229).
    V1_2,
}

/// The version in `User-Agent`; 1.2 if it says none.
///
/// # Errors
/// 501 for a later version (GFD.223).
pub fn version(user_agent: Option<&str>) -> Result<Version, Fault> {
    let token = user_agent
        .into_iter()
        .flat_map(|a| a.split([' ', ';', '(', ')', ',']))
        .find_map(|t| t.split_at_checked(5).filter(|(name, _)| name.eq_ignore_ascii_case("OCCI/")));
    let Some((_, token)) = token else { return Ok(Version::V1_2) };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that is too large for this is a later version all the same.
        true => text.parse::<u32>().unwrap_or(if text.is_empty() { 0 } else { u32::MAX }),
        false => 0,
    };
    let mut numbers = token.split('.').map(number);
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        (1, 2) => Ok(Version::V1_2),
        (0, _) | (1, 0..2) => Ok(Version::V1_1),
        _ => Err(Fault::new(
            FaultKind::NotImplemented,
            format!("OCCI/{} is later than what is offered here: OCCI/1.2", shown(token)),
        )),
    }
}
