//! Checks whether candidates of a reference are able to work: each on its own, at their endpoints, beside the calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::candidate::Candidate;
use super::news::Teller;
use crate::model::HumanDuration;
use crate::model::calls::{DEFAULT_FALL, DEFAULT_RISE, HealthSpec};

/// How much of an answer is read at most to find its status.
const STATUS_LINE: usize = 256;

/// Checks a candidate again and again; ends when dropped.
#[derive(Debug)]
pub(super) struct Probe(JoinHandle<()>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Probe {
    /// Begins at once. Must be called within a tokio runtime.
    pub(super) fn begin(
        spec: HealthSpec,
        address: Arc<str>,
        candidate: Arc<Candidate>,
        tell: Teller,
    ) -> Self {
        Self(tokio::spawn(async move {
            let (fall, rise) = (spec.fall.unwrap_or(DEFAULT_FALL), spec.rise.unwrap_or(DEFAULT_RISE));
            let mut ticks = tokio::time::interval(spec.every().0);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let result = check(&spec, &address).await;
                let why = result.as_ref().err().cloned();
                if candidate.checked(result, fall, rise) {
                    tell.tell(match why {
                        None => format!("`{}` is healthy", candidate.name),
                        Some(why) => format!("`{}` is unhealthy: {why}", candidate.name),
                    });
                }
            }
        }))
    }
}

/// One check.
async fn check(spec: &HealthSpec, address: &str) -> Result<(), String> {
    let limit: Duration = spec.timeout().0;
    match tokio::time::timeout(limit, look(spec.path.as_deref(), address)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {}", HumanDuration(limit))),
    }
}

async fn look(path: Option<&str>, address: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let Some(path) = path else { return Ok(()) };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: homeostat\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while answer.len() < STATUS_LINE && !answer.contains(&b'\n') {
        let read = stream.read_buf(&mut answer).await.map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path} is answered with {status}")),
        None => Err(format!("what answers GET {path} is no HTTP/1")),
    }
}

/// The status in the first line of an answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?;
    let digits = line.get(2..5)?;
    let ends = line.get(5).is_none_or(|c| matches!(c, b' ' | b'\r' | b'\n'));
    let good = line.get(1) == Some(&b' ') && digits.iter().all(u8::is_ascii_digit) && ends;
    std::str::from_utf8(digits).ok().filter(|_| good)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in
            [&b"HTTP/2 200\r\n"[..], b"HTTP/1.1 2000 x", b"HTTP/1.1 2x0 x", b"220 smtp", b"", b"HTTP/1.1 20"]
        {
            assert_eq!(status(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
