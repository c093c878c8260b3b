//! Notifications: what happens to a resource is told to those to whom its notification links lead (the draft of the extension says who may be told,
//! and not what; that is said in `docs/occi.md`).
//!
//! ```text
//! a change ▶ what links say who is told, and what it was before ▶ … it holds ▶ what it is now, if that differs ▶ a queue for each target ▶ POST
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::super::extensions::notification;
use super::super::json;
use super::super::model::What;
use super::super::users::Who;
use super::estate::Estate;
use super::{Occi, scope};

/// How many notifications wait for one target.
const ROOM: usize = 1_000;
/// How many targets are told at once.
const TARGETS: usize = 1_000;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a notification is sent that nobody takes.
const TRIES: u32 = 6;
/// The rest before it is sent again; twice as long each time.
const REST: Duration = Duration::from_secs(1);
/// After so long a silence nothing is kept for a target.
const SILENCE: Duration = Duration::from_secs(60);

/// A resource whose changes somebody wants to know.
pub(super) struct Noticed {
    place: Arc<str>,
    before: Json,
    /// Who is told, and what they may know: as much as who owns the link.
    told: Vec<(Url, Who)>,
}

/// What is on its way.
pub(super) struct Notices {
    client: Option<Client>,
    queues: Arc<Mutex<HashMap<Url, mpsc::Sender<String>>>>,
}

impl Notices {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER)
            .user_agent(concat!("homeostat/", env!("CARGO_PKG_VERSION"), " OCCI/1.2"));
        let client = client.build().map_err(|why| tracing::warn!(%why, "nobody can be notified")).ok();
        Self { client, queues: Arc::default() }
    }

    /// Lets a target know, after what it was told before. Never waits.
    fn tell(&self, to: &Url, body: String) {
        let Some(client) = &self.client else { return };
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let body = match queues.get(to).map(|queue| queue.try_send(body.clone())) {
            Some(Ok(())) => return,
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                return tracing::warn!(to = shown(to), "a notification is lost: {ROOM} wait already");
            }
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => body,
        };
        queues.retain(|_, queue| !queue.is_closed());
        if queues.len() >= TARGETS {
            return tracing::warn!(
                to = shown(to),
                "a notification is lost: {TARGETS} targets are told already"
            );
        }
        let (sender, receiver) = mpsc::channel(ROOM);
        let _ = sender.try_send(body);
        queues.insert(to.clone(), sender);
        tokio::spawn(deliver(client.clone(), to.clone(), receiver));
    }
}

/// Sends what comes, in order, until nothing has come for a while.
async fn deliver(client: Client, to: Url, mut queue: mpsc::Receiver<String>) {
    loop {
        match tokio::time::timeout(SILENCE, queue.recv()).await {
            Ok(Some(body)) => send(&client, &to, &body).await,
            Ok(None) => return,
            // What was put in just before is sent, and what comes later begins anew.
            Err(_) => queue.close(),
        }
    }
}

async fn send(client: &Client, to: &Url, body: &str) {
    let mut rest = REST;
    for attempt in 1..=TRIES {
        let request = client.post(to.clone()).header(reqwest::header::CONTENT_TYPE, "application/json");
        let why = match request.body(body.to_string()).send().await {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => {
                let status = answer.status();
                let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
                if !again && !status.is_server_error() {
                    return tracing::warn!(to = shown(to), %status, "a notification is not taken");
                }
                status.to_string()
            }
            Err(why) => why.without_url().to_string(),
        };
        if attempt == TRIES {
            return tracing::warn!(to = shown(to), why, "a notification is lost, after {TRIES} times");
        }
        tokio::time::sleep(rest).await;
        rest *= 2;
    }
}

/// An address without what may be secret in it.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.authority().rsplit('@').next().unwrap_or_default(), url.path())
}

impl Occi {
    /// Which of these places somebody wants to know of, and what is there.
    pub(super) fn noticing<'a>(
        &self,
        estate: &Estate,
        places: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> Vec<Noticed> {
        let kind = notification::notification();
        if estate.registry.kind(&kind).is_none() {
            return Vec::new();
        }
        let told = |place: &Arc<str>| -> Vec<(Url, Who)> {
            let links = estate.links_from(place).filter_map(|link| estate.get(link));
            let links = links.filter(|link| estate.registry.is_a(&link.kind, &kind));
            links
                .filter_map(|link| match &link.what {
                    What::Link { target, .. } => {
                        Some((http(&target.location)?, self.holder(estate, &link.location)?))
                    }
                    What::Resource { .. } => None,
                })
                .collect()
        };
        let noticed = |place: &Arc<str>| {
            let told = told(place);
            if told.is_empty() {
                return None;
            }
            Some(Noticed {
                place: place.clone(),
                before: self.state_of(estate, &Who::default(), place),
                told,
            })
        };
        places.into_iter().filter_map(noticed).collect()
    }

    /// Tells what has become of these places, as far as it is something else.
    pub(super) fn notify(&self, noticed: Vec<Noticed>) {
        let estate = self.estate();
        for Noticed { place, before, told } in noticed {
            let now = self.state_of(&estate, &Who::default(), &place);
            if now == before {
                continue;
            }
            for (to, who) in &told {
                let body = match now.is_null() {
                    true => json!({ "event": "removed", "id": before["id"], "location": &*place }),
                    false => json!({ "event": "changed", "id": now["id"], "location": &*place,
                        "entity": self.state_of(&estate, who, &place) }),
                };
                self.notices.tell(to, body.to_string());
            }
        }
    }

    /// What is at a place, without its links; null, if nothing is.
    fn state_of(&self, estate: &Estate, who: &Who, place: &str) -> Json {
        let Some(entity) = estate.get(place) else { return Json::Null };
        let mut shown = scope::entity(estate, &self.settings, who, self.now(), entity);
        if let What::Resource { links } = &mut shown.what {
            links.clear();
        }
        json::entity_value(&shown)
    }

    /// Whose a link is, as somebody who asks. Who is no user any more is told nothing.
    fn holder(&self, estate: &Estate, link: &str) -> Option<Who> {
        match (&self.settings.users, estate.owners.of(link)) {
            (Some(users), Some(owner)) => users.named(owner),
            _ => Some(Who::default()),
        }
    }
}

fn http(target: &str) -> Option<Url> {
    target.parse::<Url>().ok().filter(|url| url.scheme() == "http" && url.has_host())
}
