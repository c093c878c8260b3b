//! `homeostat sink KIND`: the other end of a publisher, for trying things out. Prints what it receives, one line each: datagrams, lines over TCP,
//! bodies of requests, messages over WebSocket, mails.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use futures::StreamExt;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_tungstenite::tungstenite::Message;

use super::{Failure, Output};

/// The longest thing that is printed, bytes; longer ones are cut.
const LONGEST: usize = 64 * 1024;

/// How long the other side of a connection may be silent.
const SILENCE: Duration = Duration::from_secs(300);

/// What is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SinkKind {
    /// Datagrams
    Udp,
    /// Datagrams, each of which is sent back: what a pinger asks
    Echo,
    /// Lines over TCP
    Tcp,
    /// Requests; each is answered with 204
    Http,
    /// Messages over WebSocket
    Ws,
    /// Mails (SMTP)
    Smtp,
}

/// What the sink is to be.
#[derive(Debug, Clone, clap::Args)]
pub struct SinkOptions {
    /// What it receives
    #[arg(value_name = "KIND")]
    pub kind: SinkKind,
    /// Where it listens; port 0 takes a free one, and the address is printed
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Ends after so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// Where lines go, and how many are still wanted.
struct Printer {
    output: Mutex<Output>,
    left: Mutex<Option<u64>>,
    done: tokio::sync::Notify,
}

impl Printer {
    /// Prints one thing that came: with `--json` an object, otherwise its text.
    fn print(&self, what: &serde_json::Value, text: &str) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if *left == Some(0) {
            return;
        }
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: String = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let written = either(&mut output, what, &shown);
        if let Some(left) = &mut *left {
            *left = left.saturating_sub(1);
        }
        // Whoever read this has seen enough.
        if written.is_err() || *left == Some(0) {
            self.done.notify_one();
        }
    }
}

/// An object with `--json`, otherwise its text.
fn either(output: &mut Output, what: &serde_json::Value, text: &str) -> std::io::Result<()> {
    if output.json { output.line(what) } else { output.text(text) }
}

fn cut(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned()
}

/// Receives until Ctrl-C, or until as many came as were wanted.
///
/// # Errors
/// When it cannot listen.
pub async fn sink(options: SinkOptions, mut output: Output) -> Result<(), Failure> {
    let busy = |e: std::io::Error| {
        Failure::new(super::Exit::Failed, format!("cannot listen on {}: {e}", options.listen))
    };
    let udp = match options.kind {
        SinkKind::Udp | SinkKind::Echo => Some(UdpSocket::bind(options.listen).await.map_err(busy)?),
        _ => None,
    };
    let tcp = match &udp {
        None => Some(TcpListener::bind(options.listen).await.map_err(busy)?),
        Some(_) => None,
    };
    let address = match (&udp, &tcp) {
        (Some(socket), _) => socket.local_addr()?,
        (None, Some(listener)) => listener.local_addr()?,
        (None, None) => options.listen,
    };
    either(&mut output, &json!({ "listens": address.to_string() }), &format!("listens on {address}"))?;
    let printer = Arc::new(Printer {
        output: Mutex::new(output),
        left: Mutex::new(options.count),
        done: tokio::sync::Notify::new(),
    });
    let receiving = receive(options.kind, udp, tcp, printer.clone());
    tokio::select! {
        ended = receiving => ended?,
        () = printer.done.notified() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn receive(
    kind: SinkKind,
    udp: Option<UdpSocket>,
    tcp: Option<TcpListener>,
    printer: Arc<Printer>,
) -> std::io::Result<()> {
    if let Some(socket) = udp {
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            let text = cut(&buffer[..length]);
            printer.print(&json!({ "from": from.to_string(), "text": text }), &text);
            // Who does not want it back has gone, which is no failure here.
            if kind == SinkKind::Echo
                && let Err(why) = socket.send_to(&buffer[..length], from).await
            {
                tracing::debug!(%from, %why, "an echo was not sent");
            }
        }
    }
    let Some(listener) = tcp else { return Ok(()) };
    if kind == SinkKind::Http {
        let router = Router::new().fallback(request).with_state(printer);
        return axum::serve(listener, router).await;
    }
    loop {
        let (stream, from) = listener.accept().await?;
        let printer = printer.clone();
        tokio::spawn(async move {
            let ended = match kind {
                SinkKind::Ws => messages(stream, from, &printer).await,
                SinkKind::Smtp => mails(stream, &printer).await,
                _ => lines(stream, from, &printer).await,
            };
            if let Err(why) = ended {
                tracing::debug!(%from, %why, "a connection broke off");
            }
        });
    }
}

async fn request(State(printer): State<Arc<Printer>>, method: Method, uri: Uri, body: Bytes) -> StatusCode {
    let text = cut(&body);
    let what = json!({ "method": method.as_str(), "path": uri.to_string(), "text": text });
    printer.print(&what, &format!("{method} {uri} {text}"));
    StatusCode::NO_CONTENT
}

/// Reads a line of limited length; `None` at the end.
async fn line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(LONGEST as u64);
    match tokio::time::timeout(SILENCE, limited.read_until(b'\n', &mut bytes)).await {
        Err(_) => Ok(None),
        Ok(read) => Ok((read? > 0).then(|| cut(&bytes).trim_end_matches(['\r', '\n']).to_string())),
    }
}

async fn lines(stream: TcpStream, from: SocketAddr, printer: &Printer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(text) = line(&mut reader).await? {
        printer.print(&json!({ "from": from.to_string(), "text": text }), &text);
    }
    Ok(())
}

async fn messages(stream: TcpStream, from: SocketAddr, printer: &Printer) -> std::io::Result<()> {
    let broken = |why: tokio_tungstenite::tungstenite::Error| std::io::Error::other(why.to_string());
    let mut socket = tokio_tungstenite::accept_async(stream).await.map_err(broken)?;
    while let Some(message) = socket.next().await {
        match message.map_err(broken)? {
            Message::Text(text) => {
                let text = cut(text.as_bytes());
                printer.print(&json!({ "from": from.to_string(), "text": text }), &text);
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    socket.close(None).await.map_err(broken)
}

/// As much of a mail server as clients need (RFC 5321): everything is taken.
async fn mails(stream: TcpStream, printer: &Printer) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 homeostat sink\r\n").await?;
    let (mut from, mut to) = (String::new(), Vec::<String>::new());
    while let Some(said) = line(&mut stream).await? {
        let word = said.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let address = || said.split_once(':').map_or("", |(_, address)| address).trim().to_string();
        let answer: &[u8] = match word.as_str() {
            "EHLO" | "HELO" | "NOOP" | "RSET" | "VRFY" => b"250 homeostat sink\r\n",
            "MAIL" => {
                (from, to) = (address(), Vec::new());
                b"250 ok\r\n"
            }
            "RCPT" if to.len() < 100 => {
                to.push(address());
                b"250 ok\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 end with a dot\r\n").await?;
                let text = mail(&mut stream).await?;
                let header = |name: &str| {
                    let lines = text.lines().take_while(|line| !line.is_empty());
                    let mut found = lines
                        .filter_map(|line| line.split_once(": "))
                        .filter(|(n, _)| n.eq_ignore_ascii_case(name));
                    found.next().map(|(_, value)| value.to_string()).unwrap_or_default()
                };
                let what = json!({ "from": from, "to": to, "subject": header("Subject"), "text": text });
                printer.print(&what, &format!("mail to {}: {}", to.join(", "), header("Subject")));
                b"250 taken\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                break;
            }
            _ => b"502 not known here\r\n",
        };
        stream.write_all(answer).await?;
    }
    Ok(())
}

/// A mail up to the line that is a dot; what is beyond the limit is left out.
async fn mail(stream: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<String> {
    let mut text = String::new();
    while let Some(said) = line(stream).await? {
        if said == "." {
            break;
        }
        if text.len() + said.len() < LONGEST {
            text.push_str(said.strip_prefix('.').unwrap_or(&said));
            text.push('\n');
        }
    }
    Ok(text)
}
