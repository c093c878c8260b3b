//! Heads of HTTP/1 messages: where they end, how long their bodies are, what of them is for this connection only, and which are ambiguous.
//! A head that is forwarded is forwarded byte for byte, but for header lines that RFC 9110 section 7.6.1 takes out.

use bytes::{Buf, Bytes, BytesMut};

/// How many header lines a head may have.
const MAX_HEADERS: usize = 128;

/// Options of `Connection` that mean the same on both sides, because every client connection has a connection to the service of its own.
const KEPT_OPTIONS: [&str; 6] = ["close", "keep-alive", "upgrade", "te", "trailer", "http2-settings"];

/// Fields that no `Connection` may name: without them the message would be another.
const NEVER_NOMINATED: [&str; 3] = ["host", "content-length", "transfer-encoding"];

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    /// It has more than the allowed bytes or lines.
    #[error("the header section is too large")]
    TooLarge,
    /// It is no HTTP, or could be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All until the connection ends; responses only.
    UntilClose,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// What is to be forwarded.
    pub(super) bytes: Bytes,
    pub(super) method: String,
    /// The request target, as it stands in the head.
    pub(super) target: String,
    pub(super) framing: Framing,
    /// Whether the client may send another request on the connection.
    pub(super) persistent: bool,
    /// Whether it asks for another protocol.
    pub(super) upgrade: bool,
}

impl Request {
    /// Whether sending it twice has the effect of sending it once (RFC 9110 section 9.2.2).
    pub(super) fn idempotent(&self) -> bool {
        ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&self.method.as_str())
    }

    /// Whether the client may wait for an interim answer before it sends its body (RFC 9110 section 10.1.1).
    pub(super) fn expects(&self) -> bool {
        let names = |line: &[u8]| line.len() > 7 && line[..7].eq_ignore_ascii_case(b"expect:");
        self.bytes.split(|byte| *byte == b'\n').any(names)
    }
}

/// The head of a response.
#[derive(Debug, Clone)]
pub(super) struct Response {
    /// What is to be forwarded.
    pub(super) bytes: Bytes,
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Whether the service takes another request on the connection.
    pub(super) persistent: bool,
    /// Whether it is a stream of events, which ends when somebody has enough.
    pub(super) events: bool,
}

/// Where the head at the beginning of `bytes` ends, once it does.
///
/// # Errors
/// When it grows beyond `limit`, or a line ends in a line feed alone.
pub(super) fn end_of_head(bytes: &[u8], scanned: &mut usize, limit: usize) -> Result<Option<usize>, BadHead> {
    let from = scanned.saturating_sub(3);
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        if *byte != b'\n' {
            continue;
        }
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(BadHead::Malformed("a line ends in a line feed alone"));
        }
        if at >= 3 && bytes[at - 3] == b'\r' && bytes[at - 2] == b'\n' {
            return if at + 1 > limit { Err(BadHead::TooLarge) } else { Ok(Some(at + 1)) };
        }
    }
    *scanned = bytes.len();
    if bytes.len() > limit { Err(BadHead::TooLarge) } else { Ok(None) }
}

/// Takes the head of `length` bytes off the buffer and reads it.
///
/// # Errors
/// When it is no HTTP/1, or could be read in two ways (RFC 9112 sections 6.1 to 6.3).
pub(super) fn request(buffer: &mut BytesMut, length: usize) -> Result<Request, BadHead> {
    let raw = Bytes::copy_from_slice(&buffer[..length]);
    buffer.advance(length);
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut lines);
    complete(parsed.parse(&raw))?;
    let old = parsed.version == Some(0);
    let fields = Fields::of(&raw, parsed.headers)?;
    if fields.hosts > 1 {
        return Err(BadHead::Malformed("there is more than one Host"));
    }
    let framing = match (fields.chunked, fields.length) {
        (Some(_), Some(_)) => {
            return Err(BadHead::Malformed("there are both Content-Length and Transfer-Encoding"));
        }
        (Some(_), None) if old => return Err(BadHead::Malformed("HTTP/1.0 has no Transfer-Encoding")),
        (Some(true), None) => Framing::Chunked,
        (Some(false), None) => {
            return Err(BadHead::Malformed("Transfer-Encoding is something else than chunked"));
        }
        (None, Some(0)) | (None, None) => Framing::Empty,
        (None, Some(length)) => Framing::Length(length),
    };
    Ok(Request {
        method: parsed.method.unwrap_or_default().to_string(),
        target: parsed.path.unwrap_or_default().to_string(),
        framing,
        persistent: fields.persistent(old),
        upgrade: fields.upgrade,
        bytes: fields.forwarded(&raw),
    })
}

/// Takes the head of `length` bytes off the buffer and reads it as the response to `method`.
///
/// # Errors
/// When it is no HTTP/1, or could be read in two ways.
pub(super) fn response(buffer: &mut BytesMut, length: usize, method: &str) -> Result<Response, BadHead> {
    let raw = Bytes::copy_from_slice(&buffer[..length]);
    buffer.advance(length);
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut lines);
    complete(parsed.parse(&raw))?;
    let status = parsed.code.unwrap_or_default();
    let fields = Fields::of(&raw, parsed.headers)?;
    let none = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
    let framing = match (fields.chunked, fields.length) {
        _ if none => Framing::Empty,
        (Some(_), Some(_)) => {
            return Err(BadHead::Malformed("there are both Content-Length and Transfer-Encoding"));
        }
        // Whatever the bytes are coded in besides (RFC 9112 section 6.3).
        (Some(_), None) if fields.last_chunked => Framing::Chunked,
        (Some(_), None) | (None, None) => Framing::UntilClose,
        (None, Some(0)) => Framing::Empty,
        (None, Some(length)) => Framing::Length(length),
    };
    let persistent = fields.persistent(parsed.version == Some(0)) && framing != Framing::UntilClose;
    Ok(Response { status, framing, persistent, events: fields.events, bytes: fields.forwarded(&raw) })
}

/// The same head, which says that the connection ends after the message.
pub(super) fn closing(head: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(head.len() + 24);
    for line in head.split_inclusive(|b| *b == b'\n') {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if line == b"\r\n" {
            bytes.extend_from_slice(b"Connection: close\r\n");
        }
        if !is("connection") && !is("keep-alive") {
            bytes.extend_from_slice(line);
        }
    }
    bytes.freeze()
}

fn complete(parsed: httparse::Result<usize>) -> Result<(), BadHead> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(BadHead::Malformed("it breaks off")),
        Err(httparse::Error::TooManyHeaders) => Err(BadHead::TooLarge),
        Err(httparse::Error::HeaderName) => Err(BadHead::Malformed("a header name is malformed")),
        Err(httparse::Error::HeaderValue) => Err(BadHead::Malformed("a header value is malformed")),
        Err(httparse::Error::Version) => {
            Err(BadHead::Malformed("the version is neither HTTP/1.0 nor HTTP/1.1"))
        }
        Err(_) => Err(BadHead::Malformed("the first line is no HTTP/1")),
    }
}

/// What the header lines of one head say.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    /// Whether chunked is the only transfer coding; `None`: no transfer coding.
    chunked: Option<bool>,
    /// Whether it is the last of several, and only that.
    last_chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    events: bool,
    /// The lines that go no further: from, to, and what stands there instead.
    cuts: Vec<(usize, usize, String)>,
}

impl Fields {
    fn of(raw: &[u8], lines: &[httparse::Header<'_>]) -> Result<Self, BadHead> {
        let mut fields = Self::default();
        let mut nominated: Vec<String> = Vec::new();
        let (mut asks_upgrade, mut names_protocol) = (false, false);
        for line in lines {
            let is = |name: &str| line.name.eq_ignore_ascii_case(name);
            if is("connection") {
                for option in options(line.value) {
                    match option.as_str() {
                        "close" => fields.close = true,
                        "keep-alive" => fields.keep_alive = true,
                        "upgrade" => asks_upgrade = true,
                        other if NEVER_NOMINATED.contains(&other) => {
                            return Err(BadHead::Malformed(
                                "Connection names a field that the message needs",
                            ));
                        }
                        _ => {}
                    }
                    if !KEPT_OPTIONS.contains(&option.as_str()) {
                        nominated.push(option);
                    }
                }
            } else if is("content-length") {
                let length = number(line.value)?;
                if fields.length.replace(length).is_some() {
                    return Err(BadHead::Malformed("there is more than one Content-Length"));
                }
            } else if is("transfer-encoding") {
                if fields.chunked.is_some() {
                    return Err(BadHead::Malformed("there is more than one Transfer-Encoding"));
                }
                fields.chunked = Some(line.value.eq_ignore_ascii_case(b"chunked"));
                let mut codings = line.value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
                fields.last_chunked = codings.next().is_some_and(chunked) && !codings.any(chunked);
            } else if is("host") {
                fields.hosts += 1;
            } else if is("upgrade") {
                names_protocol = true;
            } else if is("content-type") {
                fields.events = line.value.to_ascii_lowercase().starts_with(b"text/event-stream");
            }
        }
        fields.upgrade = asks_upgrade && names_protocol;
        fields.cut(raw, lines, &nominated);
        Ok(fields)
    }

    /// Marks the lines that are for this connection only.
    fn cut(&mut self, raw: &[u8], lines: &[httparse::Header<'_>], nominated: &[String]) {
        for line in lines {
            let goes = line.name.eq_ignore_ascii_case("proxy-connection")
                || nominated.iter().any(|name| line.name.eq_ignore_ascii_case(name));
            let shrinks = !nominated.is_empty() && line.name.eq_ignore_ascii_case("connection");
            if !goes && !shrinks {
                continue;
            }
            let from = line.name.as_ptr() as usize - raw.as_ptr() as usize;
            let Some(length) = raw[from..].iter().position(|b| *b == b'\n') else { continue };
            let kept: Vec<String> = match shrinks {
                true => options(line.value).into_iter().filter(|o| !nominated.contains(o)).collect(),
                false => Vec::new(),
            };
            let instead = match kept.is_empty() {
                true => String::new(),
                false => format!("{}: {}\r\n", line.name, kept.join(", ")),
            };
            self.cuts.push((from, from + length + 1, instead));
        }
    }

    fn persistent(&self, old: bool) -> bool {
        if old { self.keep_alive && !self.close } else { !self.close }
    }

    /// The head without the lines that go no further; the very same bytes when there are none.
    fn forwarded(&self, raw: &Bytes) -> Bytes {
        if self.cuts.is_empty() {
            return raw.clone();
        }
        let (mut bytes, mut at) = (BytesMut::with_capacity(raw.len()), 0);
        for (from, to, instead) in &self.cuts {
            bytes.extend_from_slice(&raw[at..*from]);
            bytes.extend_from_slice(instead.as_bytes());
            at = *to;
        }
        bytes.extend_from_slice(&raw[at..]);
        bytes.freeze()
    }
}

/// The options of a `Connection` line, in lower case.
fn options(value: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(value);
    text.split(',').map(|o| o.trim().to_ascii_lowercase()).filter(|o| !o.is_empty()).collect()
}

fn number(value: &[u8]) -> Result<u64, BadHead> {
    let bad = BadHead::Malformed("Content-Length is no number");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Request, BadHead> {
        let mut buffer = BytesMut::from(text);
        let length = end_of_head(&buffer, &mut 0, 65_536)?.ok_or(BadHead::Malformed("no end"))?;
        request(&mut buffer, length)
    }

    #[test]
    fn a_head_is_forwarded_byte_for_byte() {
        let text = "GET /a?b=c HTTP/1.1\r\nhOsT: x\r\nX-B:  two  \r\nX-a: 1\r\nConnection: Keep-Alive\r\nX-B: again\r\n\r\n";
        let head = read(text).unwrap();
        assert_eq!(&head.bytes[..], text.as_bytes());
        assert_eq!((head.method.as_str(), head.target.as_str(), head.persistent), ("GET", "/a?b=c", true));
    }

    #[test]
    fn what_connection_names_goes_no_further() {
        let head = read("GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Own, close\r\nx-own: 1\r\nB: 2\r\nProxy-Connection: keep-alive\r\n\r\n").unwrap();
        assert_eq!(&head.bytes[..], b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nB: 2\r\n\r\n");
        assert!(!head.persistent);
        let head = read("GET / HTTP/1.1\r\nHost: x\r\nConnection: a\r\nA: 1\r\n\r\n").unwrap();
        assert_eq!(&head.bytes[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }

    #[test]
    fn requests_that_two_readers_could_read_differently_are_refused() {
        for fields in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 3\r\nContent-Length: 3",
            "Content-Length: 3, 3",
            "Content-Length: +3",
            "Content-Length: 0x3",
            "Content-Length: ",
            "Content-Length : 3",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding:\u{b}chunked",
            "Transfer-Encoding : chunked",
            "X: 1\r\n Transfer-Encoding: chunked",
            "Connection: content-length\r\nContent-Length: 3",
            "Host: y",
            "X: a\rb",
            "X: a\nTransfer-Encoding: chunked",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
            assert!(matches!(read(&text), Err(BadHead::Malformed(_))), "{fields:?}");
        }
        assert!(read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(read("GET / HTTP/2.0\r\n\r\n").is_err());
        assert!(read("GET  / HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn a_large_head_is_refused_as_such() {
        let line = format!("X: {}\r\n", "a".repeat(70_000));
        assert_eq!(read(&format!("GET / HTTP/1.1\r\n{line}\r\n")).unwrap_err(), BadHead::TooLarge);
        let many = "X: a\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(read(&format!("GET / HTTP/1.1\r\n{many}\r\n")).unwrap_err(), BadHead::TooLarge);
    }

    #[test]
    fn the_length_of_a_response_depends_on_the_request() {
        let framing = |text: &str, method: &str| {
            let mut buffer = BytesMut::from(text);
            let length = buffer.len();
            response(&mut buffer, length, method).map(|r| (r.framing, r.persistent))
        };
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(framing(text, "GET"), Ok((Framing::Length(5), true)));
        assert_eq!(framing(text, "HEAD"), Ok((Framing::Empty, true)));
        assert_eq!(
            framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"),
            Ok((Framing::Empty, true))
        );
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", "GET"), Ok((Framing::UntilClose, false)));
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", "GET"),
            Ok((Framing::Length(1), false))
        );
        assert!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "GET")
                .is_err()
        );
        for (coding, expected) in [
            ("chunked", Framing::Chunked),
            ("gzip, Chunked", Framing::Chunked),
            ("gzip", Framing::UntilClose),
            ("chunked, gzip", Framing::UntilClose),
            ("chunked, chunked", Framing::UntilClose),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n");
            let persistent = expected == Framing::Chunked;
            assert_eq!(framing(&text, "GET"), Ok((expected, persistent)), "{coding}");
        }
        assert!(framing("SSH-2.0-OpenSSH\r\n\r\n", "GET").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let length = buffer.len();
            let _ = end_of_head(&bytes, &mut 0, 100);
            let _ = request(&mut buffer, length);
            let mut buffer = BytesMut::from(&bytes[..]);
            let _ = response(&mut buffer, length, "GET");
        }
    }
}
