//! What people are told of candidates: who is unhealthy, who is out, who is back.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// News of a reference, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The service whose reference it is.
    pub service: Arc<str>,
    /// What happened.
    pub text: String,
}

/// Where news go, once somebody wants them.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Option<mpsc::UnboundedSender<News>>>>);

impl Board {
    /// News from now on.
    pub(super) fn read(&self) -> mpsc::UnboundedReceiver<News> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Tells about a reference of a service.
    pub(super) fn about(&self, service: &Arc<str>, reference: &Arc<str>) -> Teller {
        Teller { board: self.clone(), about: Some((service.clone(), reference.clone())) }
    }
}

/// Tells about one reference.
#[derive(Debug, Clone, Default)]
pub(super) struct Teller {
    board: Board,
    about: Option<(Arc<str>, Arc<str>)>,
}

impl Teller {
    /// Tells this.
    pub(super) fn tell(&self, what: String) {
        let Some((service, reference)) = &self.about else { return };
        let news = News { service: service.clone(), text: format!("reference `{reference}`: {what}") };
        if let Some(sender) = &*self.board.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(news);
        }
    }
}
