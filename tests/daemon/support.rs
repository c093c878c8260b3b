//! What the tests share: a daemon and fake services as processes, an HTTP client and a recording HTTP server on plain sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

const BINARY: &str = env!("CARGO_BIN_EXE_homeostat");

/// Asks until there is an answer; panics with `what` when there is none in time.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs `homeostat` to its end.
pub fn homeostat(words: &[&str], url: Option<&str>) -> Said {
    let mut command = Command::new(BINARY);
    command.args(words).stdin(Stdio::null()).env_remove("HOMEOSTAT_URL");
    if let Some(url) = url {
        command.env("HOMEOSTAT_URL", url);
    }
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process whose output is read line by line; killed when dropped.
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    pub fn start(words: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(words)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![collect(out, lines.clone()), collect(err, lines.clone())];
        Self { child, lines, readers }
    }

    /// All that it printed.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// What stands in the first line that contains `before`, between that and white space.
    pub fn word_after(&mut self, before: &str) -> String {
        wait_for(before, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", self.log());
            }
            let lines = self.lines.lock().unwrap();
            let line = lines.iter().find_map(|l| l.split_once(before))?;
            line.1.split_whitespace().next().map(str::to_string)
        })
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and answers with its exit code; -1 after a signal.
    pub fn end(&mut self) -> i32 {
        let status = wait_for("the end of the process", || self.child.try_wait().unwrap());
        wait_for("its last words", || self.readers.iter().all(|r| r.is_finished()).then_some(()));
        status.code().unwrap_or(-1)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    })
}

/// A running daemon.
pub struct Daemon {
    pub process: Process,
    pub url: String,
    pub address: SocketAddr,
}

impl Daemon {
    /// Starts it over `dir` with more options.
    pub fn start(dir: &Path, more: &[&str]) -> Self {
        let mut words = vec!["run", dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--log"];
        words.extend(more);
        let mut process = Process::start(&words);
        let address: SocketAddr = process.word_after("homeostat runs address=").parse().unwrap();
        Self { process, url: format!("http://{address}"), address }
    }

    /// Asks it by the command line.
    pub fn cli(&self, words: &[&str]) -> Said {
        homeostat(words, Some(&self.url))
    }

    /// Asks it by the command line, which must exit with `code`.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) -> String {
        let said = self.cli(words);
        assert_eq!(said.code, code, "{words:?}: {said:?}\n{}", self.process.log());
        said.out + said.err.as_str()
    }

    /// `GET path`, which must be answered with 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let text = body.map(Value::to_string).unwrap_or_default();
        let (status, answer) = request(self.address, method, path, &text).unwrap();
        (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// The value of a metric, while it is fresh.
    pub fn value(&self, service: &str, metric: &str) -> Option<f64> {
        let reading = self.call("GET", &format!("/v1/services/{service}/metrics/{metric}"), None).1;
        reading["value"].as_f64()
    }

    /// Waits until a metric has this value.
    #[track_caller]
    pub fn wait_value(&self, service: &str, metric: &str, value: f64) {
        let begin = Instant::now();
        loop {
            let found = self.value(service, metric);
            if found == Some(value) {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{service}.{metric} is {found:?} and should become {value}\n{}",
                self.process.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A sample of `/metrics`, such as `homeostat_policy_pending`.
    pub fn own_metric(&self, name: &str) -> Option<f64> {
        let (_, text) = request(self.address, "GET", "/metrics", "").unwrap();
        let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')))?;
        line[name.len()..].trim().parse().ok()
    }

    /// Stops it in order.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.process.signal(rustix::process::Signal::TERM);
        let code = self.process.end();
        let log = self.process.log();
        assert_eq!(code, 0, "{log}");
        log
    }
}

/// A fake service as a process; its address is printed in the log.
pub struct Fake {
    _process: Process,
    pub url: String,
    pub address: SocketAddr,
}

impl Fake {
    pub fn start(name: &str, properties: &[&str]) -> Self {
        let mut words = vec!["fake", name];
        for property in properties {
            words.extend(["--set", property]);
        }
        let mut process = Process::start(&words);
        let url = process.word_after(" listens on ");
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        Self { _process: process, url, address }
    }

    pub fn property(&self, name: &str) -> Value {
        let (status, text) = request(self.address, "GET", &format!("/{name}"), "").unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub fn set(&self, name: &str, value: &str) {
        request(self.address, "PUT", &format!("/{name}"), value).unwrap();
    }
}

/// Sends a text and reads to the end of the answer.
pub fn raw(to: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// One request on a connection of its own.
pub fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    // Who refuses a request may do so before it has read all of it.
    let _ = write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        read?;
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        dechunk(body)
    } else {
        body.to_string()
    };
    Ok((status, body))
}

fn dechunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// A request that the recording server got.
#[derive(Debug, Clone)]
pub struct Got {
    pub method: String,
    pub path: String,
    pub key: Option<String>,
    pub body: String,
}

/// An HTTP server that writes down what it is asked, and answers as told: after how long, with which status, with which body.
pub struct Server {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Got) -> (Duration, u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (got, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let list = got.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (list, answer) = (list.clone(), answer.clone());
                std::thread::spawn(move || drop(serve(stream, &list, &*answer)));
            }
        });
        Self { address, got }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn got(&self, method: &str) -> Vec<Got> {
        self.got.lock().unwrap().iter().filter(|g| g.method == method).cloned().collect()
    }
}

fn serve(
    stream: TcpStream,
    list: &Mutex<Vec<Got>>,
    answer: &(dyn Fn(&Got) -> (Duration, u16, String) + Send + Sync),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or("").to_string(), words.next().unwrap_or("").to_string());
        let (mut length, mut key) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "idempotency-key" => key = Some(value.trim().to_string()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let got = Got { method, path, key, body: String::from_utf8_lossy(&body).into_owned() };
        list.lock().unwrap().push(got.clone());
        let (after, status, body) = answer(&got);
        std::thread::sleep(after);
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// A directory with one policy file.
pub fn policy(yaml: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), yaml).unwrap();
    dir
}
