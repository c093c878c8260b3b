//! The one error of this dialect: what a client did wrong, with the HTTP status that fits.

/// Which kind of failure; it decides the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// 400: the request cannot be understood, or breaks a rule of the model.
    BadRequest,
    /// 401: who asks is unknown.
    Unauthorized,
    /// 403: who asks is known and may not.
    Forbidden,
    /// 404: nothing is there.
    NotFound,
    /// 405: the method is not defined here.
    MethodNotAllowed,
    /// 406: no rendering that the client accepts.
    NotAcceptable,
    /// 409: it contradicts what exists.
    Conflict,
    /// 412: it is not as the client expects.
    PreconditionFailed,
    /// 413: too large, or too many at once.
    TooLarge,
    /// 415: a rendering that is not read here.
    UnsupportedMediaType,
    /// 500: the fault is ours.
    Internal,
    /// 501: a version or function that is not offered.
    NotImplemented,
    /// 503: not now; the same request may succeed later.
    Unavailable,
}

impl FaultKind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
        }
    }
}

/// What went wrong, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// Which kind, and with it the status.
    pub kind: FaultKind,
    /// A plain sentence without control characters.
    pub text: String,
    /// With 405: the methods that are defined there, as the header `Allow` has them.
    pub allowed: Option<&'static str>,
}

impl Fault {
    /// A failure of some kind. Control characters of the text are replaced, so that what a client sent cannot forge lines.
    pub fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        let text = text.into();
        let text = match text.contains(char::is_control) {
            true => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
            false => text,
        };
        Self { kind, text, allowed: None }
    }

    /// 405. `what`: where; `allowed`: the methods that are defined there, with commas between them (RFC 9110, 15.5.6).
    pub fn not_allowed(method: &str, what: &str, allowed: &'static str) -> Self {
        let methods: Vec<&str> = allowed.split(", ").filter(|method| *method != "HEAD").collect();
        let expected = match methods.split_last() {
            Some((last, [])) => (*last).to_string(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => "another path".into(),
        };
        let text = format!("{method} is not defined for {what}; expected {expected}");
        Self { allowed: Some(allowed), ..Self::new(FaultKind::MethodNotAllowed, text) }
    }

    /// 400.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(FaultKind::BadRequest, text)
    }

    /// 404.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(FaultKind::NotFound, text)
    }

    /// 409.
    pub fn conflict(text: impl Into<String>) -> Self {
        Self::new(FaultKind::Conflict, text)
    }
}

/// At most the first 80 characters of something a client sent, for a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}
