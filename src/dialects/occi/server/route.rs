//! From a request to a change or an answer (GFD.223, section 5). Paths belong to the query interface, to the collection of a kind or mixin,
//! to an entity, or to all that lies below them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::super::draft::{Draft, Filter, Invocation};
use super::super::fault::{Fault, FaultKind, shown as excerpt};
use super::super::model::{Category, Entity, TypeId, Values};
use super::super::monitoring::template;
use super::super::negotiate::{self, ACCEPT, MediaType, Rendering, Shape, Version};
use super::super::rendering::{Input, Output, absolute, called};
use super::super::users::Who;
use super::super::validate;
use super::estate::{Estate, absent};
use super::{MAX_BODY, Occi, scope, shown, sla};
use crate::dialects::access::permitted;
use crate::model::Timestamp;

/// The query interface, and its other name.
const QUERY: [&str; 2] = ["/-/", "/.well-known/org/ogf/occi/-/"];
/// How long a client may take for a whole body.
const READ: Duration = Duration::from_secs(15);
/// How long a header of a response may be, in bytes; longer ones are not read by the usual clients.
const LONGEST_HEADER: usize = 64 * 1024;
/// How many entities a page may have.
const MOST: usize = 10_000;

/// The router: everything goes one way.
pub fn router(occi: Arc<Occi>) -> Router {
    Router::new().fallback(serve).with_state(occi)
}

/// A request, read.
struct Asked<'a> {
    occi: &'a Occi,
    /// The path without a slash at its end.
    path: String,
    /// `http://host`.
    base: String,
    query: Vec<(String, String)>,
    headers: &'a HeaderMap,
    body: &'a [u8],
    media: MediaType,
    /// What the client speaks.
    version: Version,
    /// Who it is.
    who: Who,
    /// Whether it only looks.
    looks: bool,
}

async fn serve(State(occi): State<Arc<Occi>>, request: Request) -> Response {
    let head_only = request.method() == Method::HEAD;
    // On its own, so that a client that goes away leaves no change half made.
    let answered = tokio::spawn(async move { answer(&occi, request).await }).await;
    let lost = |_| Err(Fault::new(FaultKind::Internal, "the request was not carried out to its end"));
    let mut response = answered.unwrap_or_else(lost).unwrap_or_else(|fault| refused(&fault));
    let headers = response.headers_mut();
    let server = concat!("homeostat/", env!("CARGO_PKG_VERSION"), " OCCI/1.2");
    headers.insert(header::SERVER, HeaderValue::from_static(server));
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if head_only {
        *response.body_mut() = Body::empty();
    }
    response
}

fn refused(fault: &Fault) -> Response {
    let status = StatusCode::from_u16(fault.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let mut response = (status, kind, format!("{}\n", fault.text)).into_response();
    if let Some(allowed) = fault.allowed {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    if fault.kind == FaultKind::Unauthorized {
        for scheme in ["Bearer realm=\"homeostat\"", "Basic realm=\"homeostat\", charset=\"UTF-8\""] {
            response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
    }
    response
}

async fn answer(occi: &Occi, request: Request) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let local = occi.address.ip().to_canonical().is_loopback();
    let looks = matches!(parts.method, Method::GET | Method::HEAD);
    permitted(local, !looks, &parts.uri, &parts.headers)
        .map_err(|why| Fault::new(FaultKind::Forbidden, why))?;
    let text = |name: header::HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let who = match &occi.settings.users {
        None => Who::default(),
        Some(users) => {
            users.who(text(header::AUTHORIZATION)).map_err(|why| Fault::new(FaultKind::Unauthorized, why))?
        }
    };
    let version = negotiate::version(text(header::USER_AGENT))?;
    let body = read(body).await?;
    let media = negotiate::content_type(text(header::CONTENT_TYPE), !body.is_empty())?;
    let host = text(header::HOST).or_else(|| parts.uri.authority().map(|a| a.as_str()));
    let asked = Asked {
        occi,
        path: path(&parts.uri)?,
        base: host.map_or_else(String::new, |host| format!("http://{host}")),
        query: query(&parts.uri),
        headers: &parts.headers,
        body: &body,
        media,
        version,
        who,
        looks,
    };
    asked.answer(&parts.method).await
}

async fn read(body: Body) -> Result<Vec<u8>, Fault> {
    let reading = tokio::time::timeout(READ, axum::body::to_bytes(body, MAX_BODY)).await;
    match reading.map_err(|_| Fault::bad(format!("the body did not arrive within {} s", READ.as_secs())))? {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(why) if why.to_string().contains("length limit") => Err(Fault::new(
            FaultKind::TooLarge,
            format!("the body is longer than {MAX_BODY} bytes; send it in parts"),
        )),
        Err(why) => Err(Fault::bad(format!("the body broke off: {why}"))),
    }
}

fn path(uri: &Uri) -> Result<String, Fault> {
    let decoded = percent_encoding::percent_decode_str(uri.path()).decode_utf8();
    let path = decoded.map_err(|_| Fault::bad("the path is not UTF-8"))?;
    if path.contains(char::is_control) {
        return Err(Fault::bad("the path has control characters"));
    }
    Ok(path.into_owned())
}

/// Both `&` and `;` stand between parameters, as the specification has them.
fn query(uri: &Uri) -> Vec<(String, String)> {
    let text = uri.query().unwrap_or_default().replace(';', "&");
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// The methods of an entity, and of the collection of a mixin.
const ALL: &str = "GET, HEAD, POST, PUT, DELETE";
/// The methods of the query interface, of the collection of a kind, and of the place of everything.
const OF_MANY: &str = "GET, HEAD, POST, DELETE";
/// The methods of a place below which something is, and that is nothing itself.
const OF_PART: &str = "GET, HEAD, PUT, DELETE";

impl Asked<'_> {
    fn input(&self) -> Input<'_> {
        Input {
            rendering: self.media.rendering,
            headers: self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            body: self.body,
        }
    }

    /// What a collection is filtered by; ends of links may be said with our host.
    fn filter(&self) -> Result<Filter, Fault> {
        let mut filter = self.input().filter()?;
        for name in ["occi.core.source", "occi.core.target"] {
            if let Some(serde_json::Value::String(text)) = filter.attributes.get_mut(name)
                && let Some(rest) = text.strip_prefix(self.base.as_str()).filter(|rest| rest.starts_with('/'))
            {
                *text = rest.to_string();
            }
        }
        Ok(filter)
    }

    fn accept(&self, shape: Shape) -> Result<MediaType, Fault> {
        let all: Vec<&str> =
            self.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
        let all = all.join(",");
        let chosen = negotiate::accept(Some(all.as_str()).filter(|a| !a.is_empty()), shape)?;
        Ok(chosen.for_version(self.version))
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    async fn answer(&self, method: &Method) -> Result<Response, Fault> {
        let looks = matches!(*method, Method::GET | Method::HEAD);
        let slashed = format!("{}/", self.path.trim_end_matches('/'));
        if QUERY.contains(&slashed.as_str()) {
            return match *method {
                _ if looks => self.categories(),
                Method::POST => self.add_mixins().await,
                Method::DELETE => self.remove_mixins().await,
                _ => Err(Fault::not_allowed(method.as_str(), "the query interface", OF_MANY)),
            };
        }
        if !looks {
            // Before anything is done that could not be answered then.
            self.accept(Shape::Single).or_else(|_| self.accept(Shape::Collection))?;
        }
        let bare = self.path.trim_end_matches('/');
        if !looks && !self.is_there(bare) && self.tags(&header::IF_MATCH).iter().any(|tag| *tag != "*") {
            return Err(Fault::new(
                FaultKind::PreconditionFailed,
                "`If-Match` holds for one entity, where it is; leave it out, or change entities one by one",
            ));
        }
        let collection = {
            let estate = self.occi.estate();
            let found = estate.registry.by_location(&slashed);
            found.filter(|category| scope::offers(&estate, &self.who, category)).cloned()
        };
        if let Some(category) = collection {
            return self.collection(method, &category, looks).await;
        }
        if self.is_there(bare) {
            return match *method {
                _ if looks => self.one(bare),
                Method::POST if self.parameter("action").is_some() => {
                    self.act(&[bare.to_string()], true).await
                }
                Method::POST => self.update(bare, false).await,
                Method::PUT => self.update(bare, true).await,
                Method::DELETE => self.delete(vec![bare.to_string()], true).await,
                _ => Err(Fault::not_allowed(method.as_str(), "an entity", ALL)),
            };
        }
        let below = if bare.is_empty() { "/" } else { slashed.as_str() };
        let some = {
            let estate = self.occi.estate();
            estate.below(below).any(|entity| scope::sees(&estate, &self.who, entity))
        };
        match *method {
            _ if looks && (some || bare.is_empty()) => self.list(|entity| entity.location.starts_with(below)),
            Method::PUT if !bare.is_empty() => self.put_new(bare).await,
            Method::POST if bare.is_empty() => self.create(None).await,
            Method::DELETE if some || bare.is_empty() => {
                let all: Vec<String> = {
                    let estate = self.occi.estate();
                    let theirs = estate.below(below).filter(|e| scope::changes(&estate, &self.who, e));
                    theirs.map(|e| e.location.clone()).collect()
                };
                self.delete(all, false).await
            }
            _ if bare.is_empty() => {
                Err(Fault::not_allowed(method.as_str(), "the place of everything", OF_MANY))
            }
            _ if some => Err(Fault::not_allowed(method.as_str(), "what only has others below it", OF_PART)),
            _ => Err(absent(&self.path)),
        }
    }

    async fn collection(&self, method: &Method, category: &Category, looks: bool) -> Result<Response, Fault> {
        let id = category.id().clone();
        let kind = matches!(category, Category::Kind(_));
        match *method {
            _ if looks => self.list(|entity| self.member(entity, category)),
            Method::POST if self.parameter("action").is_some() => {
                self.act(&self.members(category), false).await
            }
            Method::POST if kind => self.create(Some(id)).await,
            Method::POST => self.associate(id, false).await,
            Method::PUT if !kind => self.associate(id, true).await,
            Method::DELETE if kind => {
                let filter = self.filter()?;
                let all: Vec<String> = {
                    let estate = self.occi.estate();
                    let members = estate.below("/").filter(|e| {
                        self.member(e, category)
                            && scope::changes(&estate, &self.who, e)
                            && self.passes(&estate, &filter, e)
                    });
                    members.map(|e| e.location.clone()).collect()
                };
                self.delete(all, false).await
            }
            Method::DELETE => self.disassociate(id).await,
            _ if kind => Err(Fault::not_allowed(method.as_str(), "the collection of a kind", OF_MANY)),
            _ => Err(Fault::not_allowed(method.as_str(), "the collection of a mixin", ALL)),
        }
    }

    fn member(&self, entity: &Entity, category: &Category) -> bool {
        match category {
            Category::Kind(kind) => entity.kind == kind.id,
            Category::Mixin(mixin) => entity.mixins.contains(&mixin.id),
            Category::Action(_) => false,
        }
    }

    /// Whether there is an entity at a place, for them.
    fn is_there(&self, place: &str) -> bool {
        let estate = self.occi.estate();
        estate.get(place).is_some_and(|entity| scope::sees(&estate, &self.who, entity))
    }

    /// Whether an entity passes a filter, as far as they see it.
    fn passes(&self, estate: &Estate, filter: &Filter, entity: &Entity) -> bool {
        match self.who.lacks_categories() {
            false => filter.matches(&estate.registry, entity),
            true => filter.matches(&estate.registry, &self.shown(estate, entity)),
        }
    }

    /// An entity as they see it.
    fn shown(&self, estate: &Estate, entity: &Entity) -> Entity {
        scope::entity(estate, &self.occi.settings, &self.who, self.occi.now(), entity)
    }

    /// Makes a change in their name.
    async fn change<T>(
        &self,
        make: impl Fn(&mut super::estate::Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.occi.change_as(&self.who, &self.base, make).await
    }

    /// Those that they may change.
    fn members(&self, category: &Category) -> Vec<String> {
        let estate = self.occi.estate();
        let members = estate
            .below("/")
            .filter(|entity| self.member(entity, category) && scope::changes(&estate, &self.who, entity));
        members.map(|entity| entity.location.clone()).collect()
    }

    // ---- what is only looked at ------------------------------------------------------------------------------------

    fn categories(&self) -> Result<Response, Fault> {
        let media = self.accept(Shape::Collection)?;
        let mut filter = self.input().filter()?;
        let estate = self.occi.estate();
        // A short form that some clients use.
        if let Some(term) = self.parameter("category") {
            let named = |c: &&Category| c.id().term() == term && scope::offers(&estate, &self.who, c);
            let found = estate.registry.categories().filter(named);
            filter.categories.extend(found.map(|c| c.id().clone()));
            if filter.categories.is_empty() {
                return Ok(self.respond(&Output::categories(media, [], &self.base)));
            }
        }
        let found = estate.registry.filter(&filter).into_iter();
        let found: Vec<&Category> = found.filter(|c| scope::offers(&estate, &self.who, c)).collect();
        Ok(self.respond(&Output::categories(media, found, &self.base)))
    }

    fn one(&self, place: &str) -> Result<Response, Fault> {
        let media = self.accept(Shape::Single)?;
        let estate = self.occi.estate();
        let entity = estate.get(place).ok_or_else(|| absent(place))?;
        Ok(self.respond(&Output::entity(media, &self.shown(&estate, entity))?))
    }

    fn list(&self, wanted: impl Fn(&Entity) -> bool) -> Result<Response, Fault> {
        let media = self.accept(Shape::Collection)?;
        let filter = self.filter()?;
        let estate = self.occi.estate();
        let all = estate.below("/").filter(|entity| {
            wanted(entity) && scope::sees(&estate, &self.who, entity) && self.passes(&estate, &filter, entity)
        });
        let page: Vec<&Arc<Entity>> = match self.page()? {
            None => all.collect(),
            Some((skip, take)) => all.skip(skip).take(take).collect(),
        };
        Ok(self.respond(&self.rendered(media, &estate, &page)))
    }

    /// A collection: JSON and XML have all of its entities, the others where they are.
    fn rendered(&self, media: MediaType, estate: &Estate, entities: &[&Arc<Entity>]) -> Output {
        match media.rendering {
            Rendering::Json | Rendering::Xml => {
                let whole = entities.iter().map(|e| self.shown(estate, e));
                Output::entities(media, &whole.collect::<Vec<_>>(), &self.base)
            }
            _ => Output::locations(media, entities.iter().map(|e| e.location.as_str()), &self.base),
        }
    }

    fn page(&self) -> Result<Option<(usize, usize)>, Fault> {
        let number = |name: &str| -> Result<Option<usize>, Fault> {
            let Some(text) = self.parameter(name) else { return Ok(None) };
            let wrong = || Fault::bad(format!("`{name}={}` is no number; expected 1 or more", excerpt(text)));
            text.parse::<usize>().ok().filter(|n| *n > 0).map(Some).ok_or_else(wrong)
        };
        let (page, size) = (number("page")?, number("number")?);
        if size.is_some_and(|size| size > MOST) {
            return Err(Fault::new(FaultKind::TooLarge, format!("a page has {MOST} entities at most")));
        }
        if page.is_none() && size.is_none() {
            return Ok(None);
        }
        let size = size.unwrap_or(100);
        Ok(Some(((page.unwrap_or(1) - 1).saturating_mul(size), size)))
    }

    // ---- what changes something ------------------------------------------------------------------------------------

    fn stripped(&self, mut draft: Draft) -> Draft {
        shown::strip(&self.occi.settings.names, &mut draft);
        draft
    }

    fn spelled_out(&self, draft: Draft) -> Result<Draft, Fault> {
        self.occi.spelled_out(self.stripped(draft))
    }

    async fn create(&self, kind: Option<TypeId>) -> Result<Response, Fault> {
        let input = self.input();
        let document = {
            let estate = self.occi.estate();
            match kind {
                Some(_) if matches!(self.media.rendering, Rendering::Plain | Rendering::Headers) => {
                    if input.is_empty()? {
                        return Err(Fault::bad("the request is empty; expected at least a category"));
                    }
                    let mut document = super::super::model::Document::default();
                    document.push_entity(input.entity(&estate.registry)?);
                    document
                }
                _ => input.document(&estate.registry)?,
            }
        };
        let mut drafts: Vec<Draft> = document.resources.into_iter().chain(document.links).collect();
        if kind.is_none() {
            // What this server printed is read again.
            let estate = self.occi.estate();
            drafts.iter_mut().for_each(|draft| shown::begin_anew(&estate.registry, draft));
        }
        let settings = &self.occi.settings;
        let watching = drafts.iter_mut().map(|draft| template::watching(settings, draft, None));
        let watching: Vec<Draft> = watching.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let drafts = drafts.into_iter().map(|draft| self.spelled_out(draft));
        let drafts: Vec<Draft> = drafts.collect::<Result<_, _>>()?;
        let added = match document.mixins.is_empty() {
            true => Vec::new(),
            false => self.occi.add_mixins(&self.who, document.mixins).await?,
        };
        if drafts.is_empty() && !added.is_empty() {
            let added: Vec<Category> = added.into_iter().map(Category::Mixin).collect();
            return Ok(written(&Output::categories(self.accept(Shape::Collection)?, &added, &self.base)));
        }
        if drafts.is_empty() {
            return Err(Fault::bad("the request has no entity; expected at least a category"));
        }
        let one = drafts.len() == 1;
        let places = self
            .change(|change| match &kind {
                Some(kind) => {
                    let places: Result<Vec<String>, Fault> =
                        drafts.iter().map(|draft| change.create(draft.clone(), Some(kind), None)).collect();
                    change.create_all(watching.clone(), Vec::new())?;
                    places
                }
                None => {
                    let (links, resources): (Vec<Draft>, Vec<Draft>) =
                        drafts.iter().cloned().partition(Draft::is_link);
                    change.create_all(resources.into_iter().chain(watching.iter().cloned()).collect(), links)
                }
            })
            .await;
        if places.is_err() {
            // All or nothing: the mixins of the same document go as well.
            for mixin in &added {
                self.occi.remove_mixin(&self.who, &mixin.id).await?;
            }
        }
        self.created(places?, one)
    }

    /// 201 with the place of what was created, and for one entity its rendering.
    fn created(&self, places: Vec<String>, one: bool) -> Result<Response, Fault> {
        let mut response = match places.as_slice() {
            [place] if one => {
                let wanted = self.accept(Shape::Collection)?;
                match wanted.rendering {
                    Rendering::Json | Rendering::Xml => {
                        let estate = self.occi.estate();
                        let entity = estate.get(place).ok_or_else(|| absent(place))?;
                        written(&Output::entity(wanted, &self.shown(&estate, entity))?)
                    }
                    _ => written(&Output::locations(wanted, [place.as_str()], &self.base)),
                }
            }
            places => {
                let media = self.accept(Shape::Collection)?;
                written(&Output::locations(media, places.iter().map(String::as_str), &self.base))
            }
        };
        *response.status_mut() = StatusCode::CREATED;
        if let [place] = places.as_slice()
            && let Ok(media) = self.accept(Shape::Single)
            && let Some(tag) = self.tag_of(place, media)
            && let Ok(value) = HeaderValue::from_str(&tag)
        {
            response.headers_mut().insert(header::ETAG, value);
        }
        if let Some(place) = places.first()
            && let Ok(value) = HeaderValue::from_str(&absolute(&self.base, place))
        {
            response.headers_mut().insert(header::LOCATION, value);
        }
        Ok(response)
    }

    async fn update(&self, place: &str, whole: bool) -> Result<Response, Fault> {
        let draft = {
            let estate = self.occi.estate();
            let draft = self.stripped(self.input().entity(&estate.registry)?);
            if template::means(&self.occi.settings.names, &draft) {
                return Err(template_is_for_new());
            }
            draft
        };
        self.change(|change| {
            self.precondition(change, place)?;
            change.update(place, draft.clone(), whole)
        })
        .await?;
        self.one(place)
    }

    async fn put_new(&self, place: &str) -> Result<Response, Fault> {
        let (draft, kind) = {
            let estate = self.occi.estate();
            let parent = place.rsplit_once('/').map_or("/", |(parent, _)| parent);
            let Some(Category::Kind(kind)) = estate.registry.by_location(&format!("{parent}/")) else {
                return Err(absent(place));
            };
            let safe = |c: char| c.is_ascii_alphanumeric() || "-_.~:".contains(c);
            let last = place.rsplit('/').next().unwrap_or_default();
            if !last.chars().all(safe) || last.is_empty() || last.trim_matches('.').is_empty() {
                return Err(Fault::bad(format!(
                    "`{}` is no name for an entity; expected letters, digits, `-`, `_`, `.`",
                    excerpt(last)
                )));
            }
            (self.input().entity(&estate.registry)?, kind.id.clone())
        };
        let mut draft = draft;
        let watching = template::watching(&self.occi.settings, &mut draft, Some(place))?;
        let draft = self.spelled_out(draft)?;
        self.change(|change| {
            self.precondition(change, place)?;
            change.create(draft.clone(), Some(&kind), Some(place))?;
            change.create_all(watching.iter().cloned().collect(), Vec::new())
        })
        .await?;
        self.created(vec![place.to_string()], true)
    }

    /// Deletes what is at some places; `one`: it is an entity of which the client may say how it should be.
    async fn delete(&self, places: Vec<String>, one: bool) -> Result<Response, Fault> {
        self.change(|change| {
            if let Some(place) = places.first().filter(|_| one) {
                self.precondition(change, place)?;
                if change.get(place).is_none() {
                    return Err(absent(place));
                }
            }
            places.iter().for_each(|place| change.remove(place));
            Ok(())
        })
        .await?;
        Ok(self.ok())
    }

    /// 200 with nothing to say.
    fn ok(&self) -> Response {
        let media = self.accept(Shape::Collection).unwrap_or(MediaType::DEFAULT);
        match media.rendering {
            Rendering::Json => {
                written(&Output { content_type: media.name, headers: Default::default(), body: "{}".into() })
            }
            _ => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "OK\n")
                .into_response(),
        }
    }

    /// Who is to have a mixin, and with which values.
    fn associated(&self) -> Result<Vec<(String, Values)>, Fault> {
        let input = self.input();
        let estate = self.occi.estate();
        let of = |draft: &Draft| draft.location.clone().or_else(|| draft.id.clone());
        match self.media.rendering {
            Rendering::Json | Rendering::Xml => {
                if input.is_empty()? {
                    return Ok(Vec::new());
                }
                let document = input.document(&estate.registry)?;
                let mut all: Vec<(String, Values)> =
                    document.locations.into_iter().map(|place| (place, Values::new())).collect();
                for draft in document.resources.into_iter().chain(document.links) {
                    let draft = self.stripped(draft);
                    let place = of(&draft).ok_or_else(|| Fault::bad("an entity has no `id`"))?;
                    all.push((place, draft.attributes));
                }
                Ok(all)
            }
            Rendering::UriList => {
                Ok(input.locations(&estate.registry)?.into_iter().map(|l| (l, Values::new())).collect())
            }
            _ => {
                let values = input.filter()?.attributes;
                Ok(input.locations(&estate.registry)?.into_iter().map(|l| (l, values.clone())).collect())
            }
        }
    }

    async fn associate(&self, mixin: TypeId, only: bool) -> Result<Response, Fault> {
        if template::is(&self.occi.settings.names, &mixin) {
            return Err(template_is_for_new());
        }
        let wanted = self.associated()?;
        if wanted.is_empty() && !only {
            return Err(Fault::bad(
                "the request names no entity; expected `X-OCCI-Location`, or `resources` with their `id`",
            ));
        }
        let before = self.having(&mixin);
        self.change(|change| {
            let mut kept = Vec::new();
            for (said, values) in &wanted {
                let place = change.place(said);
                if !scope::saw(change, &self.who, &place) {
                    return Err(Fault::bad(format!("there is no entity at `{}`", excerpt(said))));
                }
                change.associate(&place, &mixin, values.clone())?;
                kept.push(place);
            }
            let gone = before.iter().filter(|place| only && !kept.contains(place));
            gone.into_iter().try_for_each(|place| change.disassociate(place, &mixin))
        })
        .await?;
        let media = self.accept(Shape::Collection)?;
        let estate = self.occi.estate();
        let having: Vec<&Arc<Entity>> = estate
            .below("/")
            .filter(|e| e.mixins.contains(&mixin) && scope::sees(&estate, &self.who, e))
            .collect();
        Ok(written(&self.rendered(media, &estate, &having)))
    }

    /// Where the entities are that have a mixin and that they may change.
    fn having(&self, mixin: &TypeId) -> Vec<String> {
        let estate = self.occi.estate();
        let theirs =
            estate.below("/").filter(|e| e.mixins.contains(mixin) && scope::changes(&estate, &self.who, e));
        theirs.map(|e| e.location.clone()).collect()
    }

    async fn disassociate(&self, mixin: TypeId) -> Result<Response, Fault> {
        let said = {
            let estate = self.occi.estate();
            let input = self.input();
            if input.is_empty()? { Vec::new() } else { input.locations(&estate.registry)? }
        };
        let having = self.having(&mixin);
        self.change(|change| {
            let places = match said.is_empty() {
                true => having.clone(),
                false => said.iter().map(|place| change.place(place)).collect(),
            };
            places.iter().try_for_each(|place| change.disassociate(place, &mixin))
        })
        .await?;
        Ok(self.ok())
    }

    async fn add_mixins(&self) -> Result<Response, Fault> {
        let media = self.accept(Shape::Collection)?;
        let categories = {
            let estate = self.occi.estate();
            self.input().categories(&estate.registry)?
        };
        if categories.is_empty() {
            return Err(Fault::bad("the request has no category; expected a mixin"));
        }
        let mixins = categories.into_iter().map(|category| match category {
            Category::Mixin(mixin) => Ok(mixin),
            other => Err(Fault::bad(format!(
                "`{}` is of class {}; clients create mixins",
                excerpt(other.id().as_str()),
                other.class()
            ))),
        });
        let added = self.occi.add_mixins(&self.who, mixins.collect::<Result<_, _>>()?).await?;
        let added: Vec<Category> = added.into_iter().map(Category::Mixin).collect();
        Ok(written(&Output::categories(media, &added, &self.base)))
    }

    async fn remove_mixins(&self) -> Result<Response, Fault> {
        let ids: Vec<TypeId> = {
            let estate = self.occi.estate();
            let input = self.input();
            match self.media.rendering {
                Rendering::Json | Rendering::Xml => {
                    input.categories(&estate.registry)?.iter().map(|c| c.id().clone()).collect()
                }
                _ => input.filter()?.categories,
            }
        };
        if ids.is_empty() {
            return Err(Fault::bad("the request names no mixin; expected its category"));
        }
        for id in ids {
            self.occi.remove_mixin(&self.who, &id).await?;
        }
        Ok(self.ok())
    }

    /// Lets entities do something; `one`: it is an entity of which the client may say how it should be.
    async fn act(&self, places: &[String], one: bool) -> Result<Response, Fault> {
        let term = self.parameter("action").unwrap_or_default().to_string();
        let said: Option<Invocation> = {
            let estate = self.occi.estate();
            let input = self.input();
            if input.is_empty()? { None } else { Some(input.invocation(&estate.registry)?) }
        };
        self.change(|change| {
            if let Some(place) = places.first().filter(|_| one) {
                self.precondition(change, place)?;
            }
            for place in places {
                let entity = change.get(place).cloned().ok_or_else(|| absent(place))?;
                let call = {
                    let estate = self.occi.estate();
                    called_on(&estate, &entity, &term, said.clone())?
                };
                let mut entity = Entity::clone(&entity);
                act_on(&mut entity, &call, self.occi.now())?;
                change.put(entity);
            }
            Ok(())
        })
        .await?;
        Ok(self.ok())
    }

    /// Whether what is at a place is as the client expects (RFC 9110, section 13): `If-Match` and `If-None-Match`. Any rendering of it will do.
    ///
    /// # Errors
    /// 412 if it is not.
    fn precondition(&self, change: &super::estate::Change<'_>, place: &str) -> Result<(), Fault> {
        let (matching, unlike) = (self.tags(&header::IF_MATCH), self.tags(&header::IF_NONE_MATCH));
        if matching.is_empty() && unlike.is_empty() {
            return Ok(());
        }
        let there = scope::saw(change, &self.who, place);
        // What is about to change is not what the client has seen.
        let known = there && !change.is_in_flux(place);
        let all = negotiate::MEDIA_TYPES.into_iter().map(|media| media.for_version(self.version));
        let all = all.filter(|media| known && media.rendering != Rendering::UriList);
        let now: Vec<String> = all.filter_map(|media| self.tag_of(place, media)).collect();
        let is = |tags: &[&str]| {
            tags.iter().any(|tag| (there && *tag == "*") || now.iter().any(|known| known == tag))
        };
        let failed = |text: String| Err(Fault::new(FaultKind::PreconditionFailed, text));
        if !matching.is_empty() && !is(&matching) {
            return failed(format!("`{}` is not as `If-Match` says; look at it again", excerpt(place)));
        }
        let unlike: Vec<&str> = unlike.iter().map(|tag| tag.trim_start_matches("W/")).collect();
        if is(&unlike) {
            return failed(format!(
                "`{}` is there already, as `If-None-Match` says it should not be",
                excerpt(place)
            ));
        }
        Ok(())
    }

    /// The tags in a header.
    fn tags(&self, name: &header::HeaderName) -> Vec<&str> {
        let all = self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        all.flat_map(|list| list.split(',')).map(str::trim).filter(|tag| !tag.is_empty()).collect()
    }

    /// The tag of an entity in a rendering.
    fn tag_of(&self, place: &str, media: MediaType) -> Option<String> {
        let estate = self.occi.estate();
        let output = Output::entity(media, &self.shown(&estate, estate.get(place)?)).ok()?;
        Some(tag(&output))
    }

    /// A response with a tag; 304 for a client that looks at what it has already.
    fn respond(&self, output: &Output) -> Response {
        if let Some((name, value)) = output.headers.iter().find(|(_, value)| value.len() > LONGEST_HEADER) {
            let text = format!(
                "the header `{name}` would be {} bytes long, and clients read {LONGEST_HEADER} at most; ask for text/plain, or for a page: \
                 `?page=1&number=100`",
                value.len()
            );
            return refused(&Fault::new(FaultKind::TooLarge, text));
        }
        let tag = tag(output);
        let known = self.tags(&header::IF_NONE_MATCH);
        let fresh =
            self.looks && known.iter().any(|known| known.trim_start_matches("W/") == tag || *known == "*");
        let mut response = if fresh { StatusCode::NOT_MODIFIED.into_response() } else { written(output) };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, value);
        }
        let (cache, vary) = match self.who.name() {
            None => ("no-cache", "Accept"),
            Some(_) => ("private, no-cache", "Accept, Authorization"),
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        headers.insert(header::VARY, HeaderValue::from_static(vary));
        response
    }
}

/// What tells a response from all others.
fn tag(output: &Output) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(output.content_type.as_bytes());
    for (name, value) in &output.headers {
        hash.update(name.as_bytes());
        hash.update(value.as_bytes());
    }
    hash.update(output.body.as_bytes());
    format!("\"{}\"", &hash.finalize().to_hex()[..24])
}

fn template_is_for_new() -> Fault {
    Fault::bad("a template is for new entities; POST one that has it, as a sensor to `/sensor/`")
}

fn written(output: &Output) -> Response {
    let kind = match output.content_type {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_string(),
    };
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, kind)], output.body.clone()).into_response();
    for (name, value) in &output.headers {
        if let (Ok(name), Ok(value)) = (
            header::HeaderName::try_from(name.to_ascii_lowercase()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The call of an action of an entity, checked.
fn called_on(
    estate: &Estate,
    entity: &Entity,
    term: &str,
    said: Option<Invocation>,
) -> Result<Invocation, Fault> {
    let actions = estate.registry.actions(&entity.kind, &entity.mixins);
    let action = called(term, &actions, said.as_ref().map(|call| &call.action))?;
    let attributes = said.map(|call| call.attributes).unwrap_or_default();
    validate::call(&estate.registry, entity, Invocation { action, attributes })
}

/// What an action does to what stands in the model: states of infrastructure (GFD.224) and agreements (GFD.228).
fn act_on(entity: &mut Entity, call: &Invocation, now: Timestamp) -> Result<(), Fault> {
    let scheme = call.action.scheme();
    let of =
        |name: &str| scheme.ends_with(&format!("{name}/action#")) || scheme.ends_with(&format!("{name}#"));
    let (attribute, state) = match call.action.term() {
        "start" | "restart" if of("compute") => ("occi.compute.state", "active"),
        "stop" if of("compute") => ("occi.compute.state", "inactive"),
        "suspend" if of("compute") => ("occi.compute.state", "suspended"),
        "up" => (if of("network") { "occi.network.state" } else { "occi.networkinterface.state" }, "active"),
        "down" => {
            (if of("network") { "occi.network.state" } else { "occi.networkinterface.state" }, "inactive")
        }
        "online" => ("occi.storage.state", "online"),
        "offline" => ("occi.storage.state", "offline"),
        verb if of("sla") => (sla::STATE, sla::after(entity, verb)?),
        _ => {
            let text = format!("the action `{}` is not carried out here", call.action);
            return Err(Fault::new(FaultKind::NotImplemented, text));
        }
    };
    if call.action.term() == "accept" {
        entity.attributes.insert(sla::AGREED.into(), now.to_string().into());
    }
    entity.attributes.insert(attribute.into(), state.into());
    Ok(())
}
