//! The running daemon under load, in one process with its client: `cargo bench --bench daemon [-- mailbox http memory reload latency]`.
//! Prints one line per figure; the figures of a named machine and commit are in `docs/benchmarks.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark measures and may panic"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use homeostat::api::{Access, router, serve};
use homeostat::connectors::Connectors;
use homeostat::daemon::{Daemon, Options};
use homeostat::model::metric::Sample;
use homeostat::policy::load::Changed;
use homeostat::service::control::Control;
use homeostat::service::message::{Message, NOW};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let all = wanted.is_empty();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let wants = |name: &str| all || wanted.iter().any(|w| w == name);
    runtime.block_on(async {
        if wants("mailbox") {
            mailbox().await;
            tasks().await;
        }
        if wants("http") {
            http().await;
            bare_http().await;
        }
        if wants("latency") {
            latency().await;
        }
        if wants("memory") {
            memory().await;
        }
        if wants("reload") {
            reload().await;
        }
    });
}

fn write(dir: &Path, services: usize, text: impl Fn(usize) -> String) {
    for n in 0..services {
        std::fs::write(dir.join(format!("s{n:05}.yaml")), text(n)).unwrap();
    }
}

async fn start(dir: &Path, shards: usize) -> Arc<Daemon> {
    let options = Options {
        dirs: vec![dir.to_path_buf()],
        data_dir: None,
        record: None,
        shards: Some(shards),
        connectors: Connectors::new(),
    };
    Daemon::start(options).await.unwrap_or_else(|e| panic!("{e}"))
}

async fn listen(daemon: &Arc<Daemon>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let control: Arc<dyn Control> = daemon.clone();
    tokio::spawn(serve(listener, router(control, Access::default()), std::future::pending()));
    address
}

/// One sensor, one derived metric, one SLO.
fn small(n: usize) -> String {
    format!(
        "service: s{n}\nmonitor:\n  sensors: {{ a: push }}\n  metrics: {{ b: a * 2 + 1 }}\nanalyze: {{ low: {{ objective: b < 1000000 }} }}\n"
    )
}

async fn until_samples(daemon: &Daemon, count: u64) {
    while daemon.stats().samples < count {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Samples through mailbox, monitor and analyzer, in batches of 256, on two shards.
async fn mailbox() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 64, small);
    let daemon = start(dir.path(), 2).await;
    let shell = daemon.supervisor().shell().clone();
    let metric = shell.names().metric("a");
    let mut by_shard: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for n in 0..64 {
        let name = format!("s{n}");
        by_shard.entry(shell.shard_of(&name)).or_default().push(shell.names().service(&name));
    }
    let batches = 20_000_u64;
    let begin = Instant::now();
    let mut value = 0.0;
    for n in 0..batches {
        let shard = (n % 2) as usize;
        let services = &by_shard[&shard];
        let samples = (0..256)
            .map(|i| {
                value += 1.0;
                Sample { service: services[i % services.len()], metric, value: value % 1000.0, at: NOW }
            })
            .collect();
        shell.send_to(shard, Message::Samples(samples)).await.unwrap();
    }
    until_samples(&daemon, batches * 256).await;
    let rate = (batches * 256) as f64 / begin.elapsed().as_secs_f64();
    println!(
        "mailbox: {:.2} million samples/s through mailbox, monitor and analyzer (2 shards, batches of 256)",
        rate / 1e6
    );
}

/// The baseline for `mailbox`: the same metric and objective, with a task for each component of each service and a channel between them,
/// as loops are built that are not folds. Nothing else is done there: no times, no staleness, no record, no reload.
async fn tasks() {
    use tokio::sync::mpsc::channel;
    let mut inboxes = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..64 {
        let (inbox, mut samples) = channel::<Vec<f64>>(64);
        let (to_analyzer, mut derived) = channel::<f64>(1024);
        let (to_planner, mut alarms) = channel::<f64>(1024);
        inboxes.push(inbox);
        tokio::spawn(async move {
            while let Some(batch) = samples.recv().await {
                for sample in batch {
                    if to_analyzer.send(sample * 2.0 + 1.0).await.is_err() {
                        return;
                    }
                }
            }
        });
        ends.push(tokio::spawn(async move {
            let mut seen = 0_u64;
            while let Some(value) = derived.recv().await {
                seen += 1;
                if value >= 1_000_000.0 && to_planner.send(value).await.is_err() {
                    break;
                }
            }
            seen
        }));
        tokio::spawn(async move { while alarms.recv().await.is_some() {} });
    }
    let batches = 4_000_usize;
    let begin = Instant::now();
    for n in 0..batches {
        let samples = (0..256).map(|i| f64::from(i % 1_000)).collect();
        inboxes[n % 64].send(samples).await.unwrap();
    }
    drop(inboxes);
    let mut seen = 0;
    for end in ends {
        seen += end.await.unwrap();
    }
    assert_eq!(seen, batches as u64 * 256);
    println!(
        "mailbox: {:.2} million samples/s by the baseline, a task per component",
        seen as f64 / begin.elapsed().as_secs_f64() / 1e6
    );
}

async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> usize {
    stream.write_all(request).await.unwrap();
    let mut have = 0;
    loop {
        let n = stream.read(&mut buffer[have..]).await.unwrap();
        assert!(n > 0, "the connection was closed");
        have += n;
        if let Some(end) = find(&buffer[..have], b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length:"))
                .map_or(0, |l| l.trim().parse().unwrap());
            if have >= end + 4 + length {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                assert!((200..300).contains(&status), "{}", String::from_utf8_lossy(&buffer[..have]));
                return status;
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

fn post(path: &str, kind: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Samples over HTTP in batches of 100, four connections, client and server on the same machine.
async fn http() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 64, small);
    let daemon = start(dir.path(), 2).await;
    let address = listen(&daemon).await;
    let begin = Instant::now();
    let sent = push_over_http(address).await;
    until_samples(&daemon, sent).await;
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    println!("http: {rate:.0} samples/s over HTTP in batches of 100 (4 connections, client included)");
}

/// The baseline for `http`: the same client and the same framework, whose handler reads the same lines into values and drops them.
async fn bare_http() {
    #[derive(serde::Deserialize)]
    struct Line {
        service: String,
        metric: String,
        value: f64,
    }
    async fn take(body: String) -> axum::http::StatusCode {
        for line in body.lines() {
            let line: Line = serde_json::from_str(line).unwrap();
            std::hint::black_box((line.service, line.metric, line.value));
        }
        axum::http::StatusCode::NO_CONTENT
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().route("/v1/samples", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let begin = Instant::now();
    let sent = push_over_http(address).await;
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    println!("http: {rate:.0} samples/s by the baseline, a handler that parses and drops them");
}

/// Pushes over four connections; answers with the number of samples.
async fn push_over_http(address: std::net::SocketAddr) -> u64 {
    let per_connection = 10_000;
    let tasks: Vec<_> = (0..4)
        .map(|c| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let body: String = (0..100)
                    .map(|i| {
                        format!(
                            "{{\"service\":\"s{}\",\"metric\":\"a\",\"value\":{i}.5}}\n",
                            (c * 16 + i / 10) % 64
                        )
                    })
                    .collect();
                let request = post("/v1/samples", "application/x-ndjson", &body);
                let mut buffer = vec![0; 16_384];
                for _ in 0..per_connection {
                    exchange(&mut stream, &request, &mut buffer).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    4 * per_connection * 100
}

/// From a sample pushed over HTTP to the action called over HTTP.
async fn latency() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = target.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (called, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let count = calls.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = target.accept().await.unwrap();
            let (called, count) = (called.clone(), count.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n) = socket.read(&mut buffer).await {
                    if n == 0 {
                        return;
                    }
                    if find(&buffer[..n], b"PUT /").is_some() {
                        count.fetch_add(1, Ordering::SeqCst);
                        let _ = called.send(Instant::now());
                        let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                    }
                }
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    // A hundred services in turn, so that none is still resting from its last plan.
    let policy = |n: usize| {
        format!(
            "service: s{n}\nmonitor: {{ sensors: {{ v: push }} }}\nanalyze: {{ low: {{ objective: v < 1 }} }}\nplan:\n  - {{ when: low, do: [{{ set: {{ property: p, value: 1 }} }}], mode: act, cooldown: 0s }}\nexecute:\n  set: {{ http: {{ method: PUT, url: \"http://{to}/{{property}}\", body: \"{{value}}\" }} }}\n"
        )
    };
    write(dir.path(), 100, policy);
    let daemon = Daemon::start(Options {
        dirs: vec![dir.path().to_path_buf()],
        data_dir: Some(data.path().to_path_buf()),
        record: None,
        shards: Some(2),
        connectors: Connectors::new(),
    })
    .await
    .unwrap_or_else(|e| panic!("{e}"));
    let address = listen(&daemon).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 4096];
    let mut times = Vec::new();
    for n in 0..1_000 {
        let path = format!("/v1/services/s{}/metrics/v/samples", n % 100);
        let bad = post(&path, "application/json", "{\"value\":2}");
        let good = post(&path, "application/json", "{\"value\":0}");
        let begin = Instant::now();
        exchange(&mut stream, &bad, &mut buffer).await;
        let arrived: Instant = arrivals.recv().await.unwrap();
        times.push(arrived.duration_since(begin));
        tokio::time::sleep(Duration::from_millis(2)).await;
        exchange(&mut stream, &good, &mut buffer).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        while arrivals.try_recv().is_ok() {}
    }
    times.sort_unstable();
    println!(
        "latency: sample over HTTP to action over HTTP, durable intent between: median {:?}, 99th percentile {:?} (1,000 actions)",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}

fn five(n: usize) -> String {
    format!(
        "service: s{n}\nmonitor:\n  sensors: {{ a: push, b: push }}\n  metrics:\n    c: a + b\n    d: {{ of: a, aggregate: avg, over: 60s }}\n    e: c / 2\nanalyze: {{ low: {{ objective: e < 1000 }} }}\n"
    )
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
}

/// Ten thousand services with five metrics and one SLO each, one sample each.
async fn memory() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 10_000, five);
    let before = resident();
    let begin = Instant::now();
    let daemon = start(dir.path(), 2).await;
    println!("memory: 10,000 services attached from 10,000 files in {:.1?}", begin.elapsed());
    let shell = daemon.supervisor().shell().clone();
    for n in 0..10_000 {
        let name = format!("s{n}");
        let sample = |metric| Sample {
            service: shell.names().service(&name),
            metric: shell.names().metric(metric),
            value: 1.0,
            at: NOW,
        };
        shell.send(&name, Message::Samples(vec![sample("a"), sample("b")])).await.unwrap();
    }
    until_samples(&daemon, 20_000).await;
    let after = resident();
    println!(
        "memory: {after:.0} MB resident with 10,000 services of five metrics and one SLO ({before:.0} MB before)"
    );
}

/// One changed file among ten thousand, and a bad one.
async fn reload() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 10_000, five);
    let daemon = start(dir.path(), 2).await;
    let file = dir.path().join("s05000.yaml");
    let changed = Changed::Files([file.clone()].into());
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for round in 0..10 {
        std::fs::write(&file, five(5000).replace("e < 1000", &format!("e < {}", 500 + round))).unwrap();
        let begin = Instant::now();
        let applied = daemon.read_again(&changed).await.unwrap();
        good.push(begin.elapsed());
        assert_eq!(applied.changes.len(), 1, "{:?}", applied.changes);
        std::fs::write(&file, five(5000).replace("c: a + b", "c: a + nowhere")).unwrap();
        let begin = Instant::now();
        daemon.read_again(&changed).await.unwrap_err();
        bad.push(begin.elapsed());
    }
    good.sort_unstable();
    bad.sort_unstable();
    println!("reload: one changed file among 10,000: median {:?}, longest {:?}", good[5], good[9]);
    println!("reload: one bad file among 10,000 refused: median {:?}, longest {:?}", bad[5], bad[9]);
}
