//! The document server: one HTTP server that hosts the descriptions of entities (S2), from files.
//!
//! ```text
//! GET  /{id}     the document; to who names a rendering of OCCI 1.2 in that, to others as the prototype has it, in a page for who wants pages
//! GET  /         all of them
//! GET  /.well-known/homeostat/documents     {"version", "documents": {id: tag}}; with `If-None-Match` and `Prefer: wait=SECONDS` (RFC 7240)
//!                                           when there is something new
//! POST /.well-known/homeostat/documents     looks at the files again, at once
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::watch;

use super::super::documents::{Documents, vocabulary};
use super::super::fault::{Fault, FaultKind};
use super::super::json;
use super::super::model::Entity;
use super::super::negotiate::{self, Shape};
use super::super::registry::Registry;
use super::super::rendering::Output;
use crate::dialects::access::permitted;
use crate::dialects::prefer;

/// Where the list of documents is.
pub const INDEX: &str = "/.well-known/homeostat/documents";
/// How long a client may wait for something new.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Changes of files within this time are one.
const BURST: Duration = Duration::from_millis(50);
/// How long it rests after files that could not be read: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Files of other kinds that stand beside documents are none.
const ENDINGS: [&str; 4] = ["json", "xml", "html", "htm"];
/// The longest file, in bytes.
const LONGEST: u64 = 64 << 20;
/// How often files are looked at whose changes nobody tells: those behind links, and in directories that took the place of others.
const POLL: Duration = Duration::from_secs(2);
/// How many directories below one another are looked into.
const DEEPEST: usize = 8;

/// Why documents are not served.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// A file or directory cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// A directory cannot be read.
    #[error(transparent)]
    Directory(#[from] walkdir::Error),
    /// What stands there is no document.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The system gives no watcher.
    #[error("no watcher for documents: {0}")]
    Watch(#[from] notify::Error),
}

/// Reads documents from files, and from all files in and below directories whose names have no ending, or one of `json`, `xml` and `html`; what begins
/// with a dot is passed over. Must not be called where waiting for a disk is a nuisance.
///
/// # Errors
/// What cannot be read, and what is no document, with the file.
pub fn read(paths: &[PathBuf], registry: &Registry, now: f64) -> Result<Documents, DocumentsError> {
    let mut documents = Documents::default();
    let mut known = std::collections::BTreeSet::new();
    for path in paths {
        // Said twice, it is read once.
        if std::fs::canonicalize(path).is_ok_and(|path| !known.insert(path)) {
            continue;
        }
        for (name, text) in texts(path)? {
            documents.add(registry, &name, &text, now)?;
        }
    }
    Ok(documents)
}

/// The files in and below a directory, in order, but for those that begin with a dot, or are what an editor keeps. Links are followed, but not back to
/// where they come from.
///
/// # Errors
/// What cannot be read, and why.
pub fn files_below(directory: &Path) -> Result<Vec<PathBuf>, walkdir::Error> {
    let odd = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with('.') || name.ends_with('~')
    };
    // A link to nothing is nothing: editors leave such beside what is edited.
    let gone = |why: &walkdir::Error| {
        why.depth() > 0
            && (why.loop_ancestor().is_some()
                || why.io_error().is_some_and(|why| why.kind() == std::io::ErrorKind::NotFound))
    };
    let walk = walkdir::WalkDir::new(directory).follow_links(true).max_depth(DEEPEST).sort_by_file_name();
    walk.into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !odd(entry.path()))
        .filter(|entry| match entry {
            Ok(entry) => entry.file_type().is_file(),
            Err(why) => !gone(why),
        })
        .map(|entry| Ok(entry?.into_path()))
        .collect()
}

/// What tells whether any of the files that documents are read from is another, as far as its time and size say.
fn stamp(paths: &[PathBuf]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let inside = |path: &PathBuf| match path.is_dir() {
        true => files_below(path).unwrap_or_default(),
        false => vec![path.clone()],
    };
    for file in paths.iter().flat_map(inside) {
        let known = std::fs::metadata(&file).map(|data| (data.len(), data.modified().ok())).ok();
        (file, known).hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether a file in a directory may be a document, by its name.
fn is_one(file: &Path) -> bool {
    file.extension().is_none_or(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The texts of documents, with the names of their files, in order.
fn texts(path: &Path) -> Result<Vec<(String, String)>, DocumentsError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |why: std::io::Error| DocumentsError::File { path, why }
    };
    let files = match path.is_dir() {
        true => files_below(path)?.into_iter().filter(|file| is_one(file)).collect(),
        false => vec![path.to_path_buf()],
    };
    files
        .into_iter()
        .map(|file| {
            let size = std::fs::metadata(&file).map_err(failed(&file))?.len();
            if size > LONGEST {
                let text = format!("{}: {size} bytes; at most {LONGEST} are read", file.display());
                return Err(Fault::new(FaultKind::TooLarge, text).into());
            }
            let text = std::fs::read_to_string(&file).map_err(failed(&file))?;
            Ok((file.display().to_string(), text))
        })
        .collect()
}

/// What is served now.
struct Shelf {
    documents: Documents,
    tags: BTreeMap<String, String>,
    version: String,
    /// Why the files as they are now are not.
    problem: Option<String>,
}

/// A running document server.
pub struct Library {
    paths: Vec<PathBuf>,
    registry: Registry,
    address: SocketAddr,
    shelf: RwLock<Shelf>,
    version: watch::Sender<String>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// What tells documents from others: a tag each, which covers the collectors of a sensor, and one for all.
pub fn version(documents: &Documents, registry: &Registry) -> (BTreeMap<String, String>, String) {
    let tag = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..16].to_string();
    let own: BTreeMap<String, String> = documents
        .iter()
        .map(|(id, _)| (id.to_string(), tag(&documents.written(id).unwrap_or_default())))
        .collect();
    let mut tags = own.clone();
    for (sensor, collectors) in documents.collectors(registry) {
        let parts = std::iter::once(sensor).chain(collectors.keys());
        let all: Vec<&str> = parts.filter_map(|id| own.get(id)).map(String::as_str).collect();
        tags.insert(sensor.clone(), tag(&all.join(" ")));
    }
    let all: String = tags.iter().map(|(id, tag)| format!("{id} {tag}\n")).collect();
    (tags, blake3::hash(all.as_bytes()).to_hex()[..16].to_string())
}

impl Library {
    /// Reads the documents in files and directories, and looks at them again when they change. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What cannot be read, and what is no document.
    pub fn open(
        paths: Vec<PathBuf>,
        address: SocketAddr,
        now: fn() -> f64,
    ) -> Result<Arc<Self>, DocumentsError> {
        let registry = vocabulary()?;
        let documents = read(&paths, &registry, now())?;
        let (tags, current) = version(&documents, &registry);
        let shelf = RwLock::new(Shelf { documents, tags, version: current.clone(), problem: None });
        let library =
            Arc::new(Self { paths, registry, address, shelf, version: watch::Sender::new(current) });
        library.watch(now)?;
        Ok(library)
    }

    fn watch(self: &Arc<Self>, now: fn() -> f64) -> Result<(), DocumentsError> {
        use notify::Watcher;
        let (changed, mut changes) = tokio::sync::mpsc::channel::<()>(1);
        // Who reads a file changes nothing; the server itself does.
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = changed.try_send(());
            }
        })?;
        for path in &self.paths {
            // A file that an editor replaces is another one then: its directory is watched.
            let parent = || path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match path.is_dir() {
                true => watcher.watch(path, notify::RecursiveMode::Recursive)?,
                false => watcher.watch(parent(), notify::RecursiveMode::NonRecursive)?,
            }
        }
        let before = stamp(&self.paths);
        let library = Arc::downgrade(self);
        tokio::spawn(async move {
            let _watcher = watcher;
            let mut seen = Some(before);
            loop {
                tokio::select! {
                    changed = changes.recv() => if changed.is_none() { return },
                    () = tokio::time::sleep(POLL) => {
                        let Some(library) = library.upgrade() else { return };
                        let now = tokio::task::spawn_blocking(move || stamp(&library.paths)).await.ok();
                        if std::mem::replace(&mut seen, now).is_none_or(|before| Some(before) == now) {
                            continue;
                        }
                    }
                }
                tokio::time::sleep(BURST).await;
                while changes.try_recv().is_ok() {}
                // What could not be read may be readable soon, without a further change.
                let mut rest = AGAIN.0;
                loop {
                    let Some(library) = library.upgrade() else { return };
                    if library.look(now).await.is_ok() {
                        break;
                    }
                    drop(library);
                    tokio::select! {
                        changed = changes.recv() => if changed.is_none() { return },
                        () = tokio::time::sleep(rest) => {}
                    }
                    rest = (rest * 2).min(AGAIN.1);
                }
            }
        });
        Ok(())
    }

    /// Looks at the files again. What cannot be read leaves everything as it was; answers the version.
    async fn look(self: &Arc<Self>, now: fn() -> f64) -> Result<String, String> {
        let library = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let read = read(&library.paths, &library.registry, now());
            read.map(|documents| (version(&documents, &library.registry), documents))
        });
        let looked = looked.await.map_err(|why| why.to_string())?;
        let mut shelf = self.shelf.write().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok(((tags, version), documents)) => {
                *shelf = Shelf { documents, tags, version: version.clone(), problem: None };
                drop(shelf);
                self.version.send_if_modified(|known| {
                    let new = *known != version;
                    known.clone_from(&version);
                    new
                });
                Ok(version)
            }
            Err(why) => {
                let why = why.to_string();
                if shelf.problem.as_ref() != Some(&why) {
                    tracing::warn!(why, "the documents stay as they were");
                }
                shelf.problem = Some(why.clone());
                Err(why)
            }
        }
    }

    fn shelf(&self) -> std::sync::RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for another version than `known`, for as long as the client wants to.
    async fn wait(&self, headers: &HeaderMap) {
        let Some(wait) = prefer::wait(headers) else { return };
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let Some(known) = known.map(|tag| tag.trim().trim_matches('"').to_string()) else { return };
        let limit = wait.min(LONGEST_WAIT);
        let mut versions = self.version.subscribe();
        let _ = tokio::time::timeout(limit, versions.wait_for(|version| *version != known)).await;
    }
}

/// The server. `now`: seconds since 1970.
pub fn router(library: Arc<Library>, now: fn() -> f64) -> Router {
    Router::new().fallback(serve).with_state((library, now))
}

type Served = (Arc<Library>, fn() -> f64);

async fn serve(State((library, now)): State<Served>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let method = parts.method.clone();
    let mut response = answer(&library, now, &parts).await.unwrap_or_else(|fault| {
        let status = StatusCode::from_u16(fault.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        let mut response = (status, kind, format!("{}\n", fault.text)).into_response();
        if let Some(allowed) = fault.allowed {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        response
    });
    let headers = response.headers_mut();
    let server = concat!("homeostat/", env!("CARGO_PKG_VERSION"), " OCCI/1.2");
    headers.insert(header::SERVER, HeaderValue::from_static(server));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("accept, user-agent"));
    if method == Method::HEAD {
        *response.body_mut() = axum::body::Body::empty();
    }
    response
}

async fn answer(library: &Arc<Library>, now: fn() -> f64, request: &Parts) -> Result<Response, Fault> {
    let local = library.address.ip().to_canonical().is_loopback();
    let looks = matches!(request.method, Method::GET | Method::HEAD);
    // The prototype's programs say that they are browsers, and know the server by any name.
    if local || !looks {
        permitted(local, !looks, &request.uri, &request.headers)
            .map_err(|why| Fault::new(FaultKind::Forbidden, why))?;
    }
    let path = percent_encoding::percent_decode_str(request.uri.path()).decode_utf8();
    let path = path.map_err(|_| Fault::bad("the path is not UTF-8"))?.into_owned();
    let headers = &request.headers;
    if path == INDEX {
        if request.method == Method::POST {
            library.look(now).await.map_err(Fault::bad)?;
        } else if !looks {
            return Err(Fault::not_allowed(
                request.method.as_str(),
                "the list of documents",
                "GET, HEAD, POST",
            ));
        } else {
            library.wait(headers).await;
        }
        let shelf = library.shelf();
        let body = json!({ "version": shelf.version, "documents": shelf.tags, "problem": shelf.problem });
        return Ok(tagged(headers, &shelf.version, "application/json", json::written(&body)));
    }
    if !looks {
        return Err(Fault::not_allowed(request.method.as_str(), "documents, which are files", "GET, HEAD"));
    }
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let version = negotiate::version(text(header::USER_AGENT))?;
    let accept = text(header::ACCEPT);
    let shelf = library.shelf();
    if path == "/" {
        let media = negotiate::accept(accept, Shape::Collection)?.for_version(version);
        let host = text(header::HOST).map_or_else(String::new, |host| format!("http://{host}"));
        let entities: Vec<Entity> = shelf
            .documents
            .iter()
            .filter_map(|(id, _)| shelf.documents.entity(&library.registry, id))
            .collect();
        return Ok(rendered(headers, &Output::entities(media, &entities, &host)));
    }
    let name = path.strip_prefix('/').unwrap_or(&path);
    let missing = || Fault::not_found(format!("there is no document `{}`", super::super::fault::shown(name)));
    let (id, _) = shelf.documents.find(name).ok_or_else(missing)?;
    if let Some(page) = as_prototype(accept) {
        let value = shelf.documents.nested(&library.registry, id).ok_or_else(missing)?;
        return Ok(match page {
            false => rendered(headers, &of("application/occi+json", json::written(&value))),
            true => rendered(headers, &of("text/html; charset=utf-8", page_of(&value))),
        });
    }
    let media = negotiate::accept(accept, Shape::Single)?.for_version(version);
    let entity = shelf.documents.entity(&library.registry, id).ok_or_else(missing)?;
    Ok(rendered(headers, &Output::entity(media, &entity)?))
}

fn of(content_type: &'static str, body: String) -> Output {
    Output { content_type, headers: super::super::text::Lines::new(), body }
}

/// Whether the client gets a document as the prototype has it, and if so, whether in a page: it names no rendering of OCCI.
fn as_prototype(accept: Option<&str>) -> Option<bool> {
    let Some(accept) = accept else { return Some(false) };
    let names: Vec<&str> =
        accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim()).collect();
    let occi =
        names.iter().any(|name| negotiate::MEDIA_TYPES.iter().any(|m| m.name.eq_ignore_ascii_case(name)));
    (!occi).then(|| names.iter().any(|name| name.eq_ignore_ascii_case("text/html")))
}

/// As the prototype's own server wraps it; its clients take the text of the page.
fn page_of(value: &serde_json::Value) -> String {
    let text = value.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<!DOCTYPE html>\n<html><head><meta http-equiv=\"Content-Type\" content=\"text/html; charset=utf-8\"></head><body>{text}</body></html>\n"
    )
}

fn rendered(asked: &HeaderMap, output: &Output) -> Response {
    let mut hash = blake3::Hasher::new();
    hash.update(output.content_type.as_bytes()).update(output.body.as_bytes());
    for (name, value) in &output.headers {
        hash.update(name.as_bytes()).update(value.as_bytes());
    }
    let tag = hash.finalize().to_hex()[..16].to_string();
    let mut response = tagged(asked, &tag, output.content_type, output.body.clone());
    for (name, value) in &output.headers {
        let name = header::HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// A response with its tag; 304 for who has it already.
fn tagged(asked: &HeaderMap, tag: &str, content_type: &'static str, body: String) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let mut known =
        known.flat_map(|v| v.split(',')).map(|v| v.trim().trim_start_matches("W/").trim_matches('"'));
    let mut response = match known.any(|known| known == tag || known == "*") {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, content_type)], body).into_response(),
    };
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
