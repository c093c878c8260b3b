//! A sensor that follows its documents (S2): reads them from the server of documents, becomes what they say, and does so again when they change.
//!
//! ```text
//! sensor ── GET /urn:uuid:s1111, its collectors, what they measure ─▶ document server
//! sensor ── GET the list of documents, waiting for another one ─────▶            and again
//! ```
//! A server that has no such list is asked for the documents every two seconds. What cannot be read, or cannot run, leaves everything as it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use reqwest::{StatusCode, Url, header};
use serde::{Deserialize, Serialize};

use super::super::documents::{Documents, Part};
use super::super::draft::{Draft, DraftLink};
use super::super::fault::{Fault, FaultKind, shown};
use super::super::registry::Registry;
use super::documents::INDEX;
use super::estate::{Change, Status};
use super::{Occi, refused};
use crate::dialects::access::permitted;
use crate::model::error::chain;
use crate::service::supervisor::Compiled;

/// Where a sensor says how far it is.
pub const FOLLOWING: &str = "/.well-known/homeostat/following";
/// How long a request for a document may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the server of documents is asked to wait for news.
const WAIT: Duration = Duration::from_secs(50);
/// How often a server without a list is asked.
const POLL: Duration = Duration::from_secs(2);
/// How long it rests after a failure: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How many documents are asked for at once.
const AT_ONCE: usize = 16;
/// The longest document, in bytes.
const LONGEST: usize = 16 << 20;
/// How many documents belong to a sensor at most.
const MOST: usize = 100_000;

/// How far a sensor is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Following {
    /// Where its documents are.
    pub documents: String,
    /// Which one it is.
    pub sensor: String,
    /// The version of the documents that it has become, if their server knows versions.
    pub version: Option<String>,
    /// The version that it has looked at last.
    pub seen: Option<String>,
    /// How many times it has become something else.
    pub changes: u64,
    /// Why it is not what the documents say.
    pub problem: Option<String>,
    /// What of the documents is left out, or read in another way than it is written.
    pub notes: Vec<String>,
    /// What it does: `active`, `suspended`, `incomplete` or `idle`.
    pub state: Option<String>,
    /// What it lacks.
    pub missing: Vec<String>,
}

/// A sensor on its documents.
pub struct Follower {
    occi: Arc<Occi>,
    base: Url,
    sensor: String,
    client: reqwest::Client,
    now: fn() -> f64,
    following: Mutex<Following>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("sensor", &self.sensor).finish_non_exhaustive()
    }
}

/// A document as it was fetched.
#[derive(Debug, Clone)]
struct Fetched {
    tag: Option<String>,
    /// `None`: there is none.
    text: Option<Arc<str>>,
}

/// How it begins to say that it cannot reach it.
const NOT_REACHED: &str = "the document server";

/// What it remembers from one look to the next.
#[derive(Default)]
struct Memory {
    fetched: BTreeMap<String, Fetched>,
    /// What documents said when the sensor became what they say.
    applied: Option<BTreeMap<String, Draft>>,
}

impl Follower {
    /// A sensor that is nothing yet. `now`: seconds since 1970.
    ///
    /// # Errors
    /// When no client for HTTP can be made.
    pub fn new(
        occi: Arc<Occi>,
        documents: Url,
        sensor: &str,
        now: fn() -> f64,
    ) -> Result<Arc<Self>, reqwest::Error> {
        let mut base = documents;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = reqwest::Client::builder()
            .connect_timeout(ANSWER)
            .no_proxy()
            .user_agent(concat!("homeostat/", env!("CARGO_PKG_VERSION"), " OCCI/1.2"))
            .build()?;
        let following =
            Following { documents: base.to_string(), sensor: sensor.to_string(), ..Following::default() };
        Ok(Arc::new(Self {
            occi,
            base,
            sensor: sensor.to_string(),
            client,
            now,
            following: Mutex::new(following),
        }))
    }

    /// How far it is.
    pub fn following(&self) -> Following {
        self.following.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, change: impl FnOnce(&mut Following)) {
        change(&mut self.following.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Follows for ever.
    pub async fn run(&self) {
        let mut memory = Memory::default();
        let mut rest = REST.0;
        let mut version: Option<String> = None;
        loop {
            let listed = match self.news(version.as_deref()).await {
                Ok(listed) => listed,
                Err(why) => {
                    self.failed(&why);
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST.1);
                    continue;
                }
            };
            let told = self.follow(&mut memory, listed.as_ref()).await;
            let seen = listed.as_ref().map(|list| list.version.clone());
            match told {
                Ok(()) => {
                    rest = REST.0;
                    self.say(|f| {
                        f.problem = None;
                        f.version.clone_from(&seen);
                        f.seen.clone_from(&seen);
                    });
                    version = seen;
                }
                Err(why) => {
                    self.failed(&why.text);
                    self.say(|f| f.seen.clone_from(&seen));
                    // What the documents say will not be better before they are others; what could not be fetched may be.
                    version = (why.kind != FaultKind::Unavailable).then_some(seen).flatten();
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST.1);
                }
            }
            if listed.is_none() {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    fn failed(&self, why: &str) {
        let known = self.following().problem.as_deref() == Some(why);
        if !known {
            tracing::warn!(sensor = self.sensor, why, "the sensor does not follow its documents");
            self.say(|f| f.problem = Some(why.to_string()));
        }
    }

    /// Waits for another list than that of `known`; `None` from a server that has no lists.
    async fn news(&self, known: Option<&str>) -> Result<Option<Listed>, String> {
        // Who could not be reached is asked without patience: that it is there again is news.
        let patient = !self.following().problem.is_some_and(|problem| problem.starts_with(NOT_REACHED));
        let url = self.base.join(INDEX).map_err(|why| why.to_string())?;
        let mut request = self.client.get(url).timeout(WAIT + ANSWER);
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, format!("\"{known}\""));
            if patient {
                request = request.header("prefer", format!("wait={}", WAIT.as_secs()));
            }
        }
        let fail =
            |why: reqwest::Error| format!("{NOT_REACHED} {} cannot be reached: {}", self.base, chain(&why));
        let mut request = request;
        loop {
            let again = request.try_clone();
            let rested = tokio::time::sleep(POLL);
            let answer = request.send().await.map_err(fail)?;
            if !patient {
                tracing::info!(sensor = self.sensor, "the document server is reached again");
                self.say(|f| f.problem = None);
                // What it said before it was away may have been refused, and is looked at again.
                return Box::pin(self.news(None)).await;
            }
            let listed: Option<Listed> = match answer.status() {
                StatusCode::NOT_MODIFIED => None,
                StatusCode::OK => {
                    let text = text_of(answer).await?;
                    // Others answer with a page whatever they are asked for.
                    let Ok(listed) = serde_json::from_str(&text) else { return Ok(None) };
                    Some(listed)
                }
                _ => return Ok(None),
            };
            let other = |listed: &Listed| known != Some(&*listed.version);
            match (listed, again) {
                (Some(listed), _) if other(&listed) => return Ok(Some(listed)),
                (_, Some(again)) => request = again,
                (listed, None) => return Ok(listed),
            }
            // A server need not wait, although it was asked to.
            rested.await;
        }
    }

    /// Looks at the documents, and becomes what they say if that is something else.
    async fn follow(&self, memory: &mut Memory, listed: Option<&Listed>) -> Result<(), Fault> {
        let registry = self.occi.estate().registry.clone();
        let documents = self.fetch(&registry, memory, listed).await?;
        let part = documents.of_sensor(&registry, &self.sensor)?;
        let notes = part.notes.clone();
        let fresh: Vec<&String> = {
            let told = self.following();
            notes.iter().filter(|note| !told.notes.contains(note)).collect()
        };
        for note in fresh {
            tracing::warn!(sensor = self.sensor, note, "documents");
        }
        let changed = self.occi.conform(part, &mut memory.applied).await?;
        let status = self.status(&documents);
        self.say(|f| {
            f.notes = notes;
            f.changes += u64::from(changed);
            f.state = status.as_ref().map(|s| s.state.to_string());
            f.missing = status.map(|s| s.missing).unwrap_or_default();
        });
        if changed {
            let told = self.following();
            tracing::info!(
                sensor = self.sensor,
                state = told.state,
                missing = told.missing.join(", "),
                "the sensor is what its documents say"
            );
        }
        Ok(())
    }

    fn status(&self, documents: &Documents) -> Option<Status> {
        let (id, _) = documents.find(&self.sensor)?;
        let estate = self.occi.estate();
        let place = estate.below("/").find(|entity| entity.id == id).map(|entity| entity.location.clone())?;
        estate.statuses.get(place.as_str()).cloned()
    }

    /// The documents of the sensor, and of all that they name.
    async fn fetch(
        &self,
        registry: &Registry,
        memory: &mut Memory,
        listed: Option<&Listed>,
    ) -> Result<Documents, Fault> {
        let mut documents = Documents::default();
        let mut asked: BTreeSet<String> = BTreeSet::from([self.sensor.clone()]);
        let mut waiting: VecDeque<String> = asked.iter().cloned().collect();
        let mut kept = BTreeMap::new();
        while !waiting.is_empty() {
            let names: Vec<String> = waiting.drain(..).collect();
            let fetching = names.into_iter().map(|name| {
                let known = memory.fetched.get(&name).cloned();
                let current = listed.map(|list| list.documents.get(&name).cloned());
                async move {
                    // A list says what is new, and what is not there.
                    let unchanged = match (&known, &current) {
                        (Some(known), Some(tag)) => known.tag == *tag,
                        _ => false,
                    };
                    match (known, unchanged) {
                        (Some(known), true) => Ok((name, known)),
                        (known, _) => {
                            self.get(&name, known, current.flatten()).await.map(|fetched| (name, fetched))
                        }
                    }
                }
            });
            let answers: Vec<Result<(String, Fetched), Fault>> =
                futures::stream::iter(fetching).buffer_unordered(AT_ONCE).collect().await;
            for answer in answers {
                let (name, fetched) = answer?;
                if let Some(text) = &fetched.text {
                    let mut one = Documents::default();
                    one.add(registry, &format!("the document `{name}`"), text, (self.now)())?;
                    asked.extend(one.iter().map(|(id, _)| id.to_string()));
                    for next in one.iter().flat_map(|(_, said)| named(&said.draft)) {
                        if asked.insert(next.clone()) {
                            waiting.push_back(next);
                        }
                    }
                    documents.take(one);
                } else if name == self.sensor {
                    return Err(Fault::not_found(format!("{} has no document `{name}`", self.base)));
                }
                kept.insert(name, fetched);
                if kept.len() > MOST {
                    return Err(Fault::new(
                        FaultKind::TooLarge,
                        format!("more than {MOST} documents belong to the sensor"),
                    ));
                }
            }
        }
        memory.fetched = kept;
        Ok(documents)
    }

    async fn get(&self, name: &str, known: Option<Fetched>, tag: Option<String>) -> Result<Fetched, Fault> {
        let unavailable = |why: String| Fault::new(FaultKind::Unavailable, why);
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(name);
        }
        let mut request = self
            .client
            .get(url.clone())
            .timeout(ANSWER)
            .header(header::ACCEPT, "application/occi+json, */*;q=0.5");
        let etag = known.as_ref().filter(|k| k.text.is_some()).and_then(|k| k.tag.clone());
        if let (Some(etag), None) = (&etag, &tag) {
            request = request.header(header::IF_NONE_MATCH, etag.clone());
        }
        let fail = |why: reqwest::Error| unavailable(format!("{url} cannot be read: {}", chain(&why)));
        let answer = request.send().await.map_err(fail)?;
        let status = answer.status();
        let etag = answer.headers().get(header::ETAG).and_then(|v| v.to_str().ok()).map(str::to_string);
        match status {
            StatusCode::NOT_MODIFIED => {
                known.ok_or_else(|| unavailable(format!("{url} is the same as nothing")))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Fetched { tag, text: None }),
            status if status.is_success() => {
                let text = text_of(answer).await.map_err(unavailable)?;
                Ok(Fetched { tag: tag.or(etag), text: Some(text.into()) })
            }
            status => Err(unavailable(format!("{url} is answered with {status}"))),
        }
    }
}

/// The list of a document server.
#[derive(Debug, Clone, Deserialize)]
struct Listed {
    version: String,
    documents: BTreeMap<String, String>,
}

/// What a document names of which there may be another: links, and ends of links.
fn named(draft: &Draft) -> Vec<String> {
    let links = draft.links.iter().filter_map(|link| match link {
        DraftLink::Reference(name) => Some(name.clone()),
        DraftLink::Whole(_) => None,
    });
    let ends = draft.source.iter().chain(&draft.target).map(|end| end.location.clone());
    links.chain(ends).filter(|name| !name.contains("://") && !name.is_empty()).collect()
}

/// The body, if it is not too long to be a document.
async fn text_of(mut answer: reqwest::Response) -> Result<String, String> {
    let url = answer.url().clone();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|why| format!("{url}: {}", chain(&why)))? {
        if bytes.len() + chunk.len() > LONGEST {
            return Err(format!("{url} is longer than {LONGEST} bytes, which no document is"));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|why| format!("{url} is not UTF-8: {}", why.utf8_error()))
}

impl Occi {
    /// Lets there be exactly what documents say. `applied`: what was said when it was last done, if ever; only what is said otherwise now is touched.
    /// Answers whether anything was.
    ///
    /// # Errors
    /// As [`Occi::change`]; everything is as it was then.
    async fn conform(
        &self,
        part: Part,
        applied: &mut Option<BTreeMap<String, Draft>>,
    ) -> Result<bool, Fault> {
        let mut wanted: BTreeMap<String, Draft> = BTreeMap::new();
        let mut order = Vec::new();
        for draft in part.resources.into_iter().chain(part.links) {
            let id = draft.id.clone().unwrap_or_default();
            let draft = self.spelled_out(draft).map_err(|fault| of(&id, fault))?;
            order.push(id.clone());
            wanted.insert(id, draft);
        }
        if applied.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let said = |id: &str| applied.as_ref()?.get(id);
        self.change("", |change| {
            let there: BTreeMap<String, String> = {
                let estate = self.estate();
                estate.below("/").map(|entity| (entity.id.clone(), entity.location.clone())).collect()
            };
            // Links first: they end with their resource anyway.
            let mut gone: Vec<(&String, &String)> =
                there.iter().filter(|(id, _)| !wanted.contains_key(*id)).collect();
            gone.sort_by_key(|(id, _)| !said(id).is_some_and(Draft::is_link));
            gone.into_iter().for_each(|(_, place)| change.remove(place));
            for id in &order {
                let Some(draft) = wanted.get(id) else { continue };
                let before = said(id);
                let place = there.get(id);
                let same_kind = before.is_none_or(|b| b.kind == draft.kind);
                let done = match place {
                    Some(_) if before == Some(draft) => Ok(()),
                    Some(place) if same_kind => change.update(place, draft.clone(), true),
                    _ => {
                        place.into_iter().for_each(|place| change.remove(place));
                        change.create(draft.clone(), None, None).map(drop)
                    }
                };
                done.map_err(|fault| of(id, fault))?;
            }
            Ok(())
        })
        .await?;
        *applied = Some(wanted);
        Ok(true)
    }

    /// What a sensor would do if its documents were followed, without doing it.
    ///
    /// # Errors
    /// As [`Occi::change`].
    pub fn weigh(&self, part: Part) -> Result<Status, Fault> {
        let estate = self.estate();
        let mut change = Change::new(&estate, "");
        for draft in part.resources.into_iter().chain(part.links) {
            let id = draft.id.clone().unwrap_or_default();
            let draft = self.spelled_out(draft).map_err(|fault| of(&id, fault))?;
            change.create(draft, None, None).map_err(|fault| of(&id, fault))?;
        }
        let meaning = self.work_out(&mut change)?;
        for document in meaning.documents.into_values().flatten() {
            Compiled::new(document).map_err(|refusal| refused(&refusal.into()))?;
        }
        Ok(meaning.statuses.into_values().next().unwrap_or_default())
    }
}

/// A fault of an entity.
fn of(id: &str, fault: Fault) -> Fault {
    Fault { text: format!("`{}`: {}", shown(id), fault.text), ..fault }
}

/// Says how far the sensor is. `address`: where it listens.
pub fn router(follower: Arc<Follower>, address: IpAddr) -> Router {
    let local = address.to_canonical().is_loopback();
    Router::new().route(FOLLOWING, get(following)).with_state((follower, local))
}

/// A server that is only looked at.
pub fn read_only(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(looks))
}

async fn looks(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let why = "the documents of the sensor say what it is; change them\n";
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], why).into_response()
}

async fn following(
    State((follower, local)): State<(Arc<Follower>, bool)>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    match permitted(local, false, &uri, &headers) {
        Ok(()) => axum::Json(follower.following()).into_response(),
        Err(why) => (StatusCode::FORBIDDEN, why).into_response(),
    }
}
