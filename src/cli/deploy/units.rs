//! The units of a deployment, as processes below one homeostat: how they begin, change and end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::FutureExt;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::signal::unix::{SignalKind, signal};

use super::super::{Cli, Command, Common, Exit, Failure};
use super::place::resolved;
use super::state::{Differences, Kept, STATE, State, alive, began, save, write};
use crate::dialects::occi::Registry;
use crate::dialects::occi::deploy::{Deployment, Role, Unit};
use crate::dialects::occi::server::documents::{INDEX, version};
use crate::dialects::occi::server::follow::{FOLLOWING, Following};
use crate::model::error::chain;

/// How long units may take until they all are what the documents say.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

/// How long the ending of a deployment may take.
const FAREWELL: Duration = Duration::from_secs(20);

/// Now, to measure how long something takes.
#[expect(clippy::disallowed_methods, reason = "how long a command takes is no part of a turn")]
fn moment() -> Instant {
    Instant::now()
}

/// Whether what is to listen and does not yet can. `before`: where the units are that run.
pub(super) fn free(deployment: &Deployment, before: &BTreeMap<String, String>) -> Result<(), Failure> {
    let mut known: BTreeMap<(bool, SocketAddr), &str> = BTreeMap::new();
    let ours: BTreeSet<SocketAddr> = before.values().filter_map(|at| resolved(at)).collect();
    for unit in &deployment.units {
        let Some(at) = resolved(&unit.address) else { continue };
        let datagrams = unit.role.takes_datagrams();
        if let Some(other) = known.insert((datagrams, at), &unit.name) {
            let text = format!("`{other}` and `{}` both want to be reached at {at}", unit.name);
            return Err(Failure::new(Exit::Refused, text));
        }
        // It runs, or something that ends with this change still has the address.
        if before.get(&unit.name) == Some(&unit.address) || ours.contains(&at) {
            continue;
        }
        let bound = match datagrams {
            true => UdpSocket::bind(at).map(drop),
            false => TcpListener::bind(at).map(drop),
        };
        if let Err(why) = bound {
            let mut text = format!("`{}` cannot listen on {at}: {why}", unit.name);
            if unit.role == Role::Documents {
                text.push_str("; if that is another deployment, `undeploy --state DIR` ends it");
            }
            return Err(Failure::new(Exit::Failed, text));
        }
    }
    Ok(())
}

/// A port that nobody has now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Starts everything, and waits until it runs; then `told` hears of it. Comes back when it has ended, or runs apart.
pub(super) async fn begin(
    directory: &Path,
    mut state: State,
    (deployment, registry): (Deployment, Registry),
    lock: std::fs::File,
    apart: bool,
    common: Common,
    told: impl FnOnce(&[Settled]) + Send + 'static,
) -> Result<Exit, Failure> {
    let port = free_port()?;
    state.url = format!("http://127.0.0.1:{port}");
    let path = |name: &str| directory.join(name).display().to_string();
    let words =
        ["run".to_string(), path("policies"), "--listen".into(), format!("127.0.0.1:{port}"), "--log".into()];
    if apart {
        told(&begin_apart(directory, state, &deployment, &registry, &words).await?);
        return Ok(Exit::Ok);
    }
    state.pid = std::process::id();
    state.began = began(state.pid).unwrap_or_default();
    save(directory, &state)?;
    let line = std::iter::once("homeostat".to_string()).chain(words);
    let Ok(Command::Run(options)) = Cli::try_parse_from(line).map(|cli| cli.command) else {
        return Err(Failure::new(Exit::Failed, "the options of the daemon are not understood"));
    };
    // Who closes the terminal wants to end it as with Ctrl-C, unless it was started to survive that (nohup).
    if !ignores_hang_up() {
        let pid = state.pid;
        let mut hung_up = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            if hung_up.recv().await.is_some() {
                terminate(pid);
            }
        });
    }
    let watching = tokio::spawn(async move {
        let outcome = settled(&state, &deployment, &registry).await;
        // From here on others may change it.
        drop(lock);
        match &outcome {
            Ok(units) => told(units),
            // As Ctrl-C: everything ends in order.
            Err(_) => terminate(state.pid),
        }
        outcome.map(drop)
    });
    let exit = (super::super::local::LOCAL.run)(options, common).await;
    let _ = std::fs::remove_file(directory.join(STATE));
    match watching.now_or_never() {
        Some(Ok(Err(failure))) => Err(failure),
        _ => Ok(exit),
    }
}

async fn begin_apart(
    directory: &Path,
    mut state: State,
    deployment: &Deployment,
    registry: &Registry,
    words: &[String],
) -> Result<Vec<Settled>, Failure> {
    use std::os::unix::process::CommandExt;
    let path = directory.join("log");
    let log = std::fs::File::create(&path)
        .map_err(|why| Failure::new(Exit::Failed, format!("{}: {why}", path.display())))?;
    let stays = ignores_hang_up();
    // From before anything runs that would be left behind.
    let [mut interrupt, mut end, mut hang_up] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = end.recv() => {}
            _ = hang_up.recv(), if !stays => {}
        }
    };
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(words)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    state.pid = child.id();
    state.began = began(state.pid).unwrap_or_default();
    let written = save(directory, &state);
    let ended = async {
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return status;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let begun = async {
        written?;
        settled(&state, deployment, registry).await
    };
    let outcome = tokio::select! {
        outcome = begun => outcome,
        // It is not what was wanted any more.
        () = interrupted => Err(Failure::new(Exit::Failed, "interrupted; nothing is deployed")),
        status = ended => {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
            Err(Failure::new(Exit::Failed, format!("homeostat ended with {status}:\n  {last}")))
        }
    };
    if outcome.is_err() {
        terminate(state.pid);
        let begun = moment();
        while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            if begun.elapsed() > FAREWELL {
                let _ = child.kill();
                let _ = child.wait();
            }
            tokio::time::sleep(LOOK).await;
        }
        let _ = std::fs::remove_file(directory.join(STATE));
    }
    outcome
}

fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Whether hang-ups do not concern this process, as its parent wants it.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Ends what runs, and waits until it has.
pub(super) async fn end(state: &State) -> Result<(), Failure> {
    if !alive(state) {
        return Ok(());
    }
    terminate(state.pid);
    let begun = moment();
    while alive(state) {
        if begun.elapsed() > FAREWELL {
            let text = format!("the process {} does not end after {} s", state.pid, FAREWELL.as_secs());
            return Err(Failure::new(Exit::Failed, text));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// What a change came to.
pub(super) struct Changed {
    pub(super) difference: Differences,
    pub(super) units: Vec<Settled>,
    pub(super) took: Duration,
}

/// Writes down what is different and lets it become true; what does not leaves everything as it was.
pub(super) async fn change(
    directory: &Path,
    state: &State,
    deployment: &Deployment,
    registry: &Registry,
) -> Result<Changed, Failure> {
    let kept = Kept::of(directory)?;
    let done = match write(directory, deployment, true) {
        Ok(difference) => carry_out(directory, state, deployment, registry, difference).await,
        Err(failure) => Err(failure),
    };
    let failure = match done {
        Ok(changed) => return Ok(changed),
        Err(failure) => failure,
    };
    let text = match taken_back(&kept, directory, state).await {
        Ok(()) => format!("{}; everything is as it was before", failure.message),
        Err(why) => {
            format!("{}; and it could not be made as it was before: {}", failure.message, why.message)
        }
    };
    Err(Failure::new(failure.exit, text))
}

async fn taken_back(kept: &Kept, directory: &Path, state: &State) -> Result<(), Failure> {
    kept.restore(directory)?;
    let client = client()?;
    let url = format!("{}/v1/policy/reload", state.url);
    client.post(&url).send().await.map_err(|why| unreachable(&url, &why))?;
    read_again(&client, state).await;
    Ok(())
}

/// Lets the document server look at its files now; one that has just been started has read them already, and one that watches them will.
async fn read_again(client: &reqwest::Client, state: &State) {
    let _ = client.post(format!("http://{}{INDEX}", state.documents)).send().await;
}

/// Lets the running units become what is written now.
async fn carry_out(
    directory: &Path,
    state: &State,
    deployment: &Deployment,
    registry: &Registry,
    difference: Differences,
) -> Result<Changed, Failure> {
    save(directory, state)?;
    let begun = moment();
    let client = client()?;
    if !difference.units.is_none() {
        let url = format!("{}/v1/policy/reload", state.url);
        let answer = client.post(&url).send().await.map_err(|why| unreachable(&url, &why))?;
        if !answer.status().is_success() {
            let text = answer.text().await.unwrap_or_default();
            return Err(Failure::new(Exit::Refused, format!("the units are not taken: {text}")));
        }
    }
    for unit in &deployment.units {
        mend(&client, state, unit).await?;
    }
    if deployment.units.iter().any(|unit| unit.role == Role::Documents) {
        read_again(&client, state).await;
    }
    let units = settled(state, deployment, registry).await?;
    Ok(Changed { difference, units, took: begun.elapsed() })
}

fn client() -> Result<reqwest::Client, Failure> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy();
    client.build().map_err(|why| Failure::new(Exit::Failed, chain(&why)))
}

fn unreachable(url: &str, why: &reqwest::Error) -> Failure {
    Failure::new(Exit::Unreachable, format!("{url}: {}", chain(why)))
}

/// A unit, as it is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Settled {
    #[serde(flatten)]
    pub(super) unit: Unit,
    pub(super) state: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) missing: Vec<String>,
}

/// Waits until every unit runs, and every sensor is what the documents say.
async fn settled(
    state: &State,
    deployment: &Deployment,
    registry: &Registry,
) -> Result<Vec<Settled>, Failure> {
    let client = client()?;
    let (_, wanted) = version(&deployment.documents, registry);
    let begun = moment();
    let mut all = Vec::new();
    for unit in &deployment.units {
        let mut last = String::from("it is not known yet");
        let settled = loop {
            if begun.elapsed() > PATIENCE {
                let text = format!("`{}` does not run after {} s: {last}", unit.name, PATIENCE.as_secs());
                return Err(Failure::new(Exit::Failed, text));
            }
            match look(&client, state, unit, &wanted).await {
                Look::Done(settled) => break settled,
                Look::Failed(why) => {
                    return Err(Failure::new(Exit::Failed, format!("`{}`: {why}", unit.name)));
                }
                Look::Later(why) => last = why,
            }
            tokio::time::sleep(LOOK).await;
        };
        all.push(settled);
    }
    Ok(all)
}

/// Starts a unit again that was given up; whether it runs then is looked at afterwards.
///
/// # Errors
/// The homeostat that runs it does not answer.
async fn mend(client: &reqwest::Client, state: &State, unit: &Unit) -> Result<(), Failure> {
    let url = format!("{}/v1/services/{}", state.url, unit.name);
    let answer = client.get(&url).send().await.map_err(|why| unreachable(&url, &why))?;
    let service: Json = answer.json().await.unwrap_or_default();
    if service["process"]["state"] == "failed" {
        let _ = client.post(format!("{url}/actions")).json(&json!({ "start": {} })).send().await;
    }
    Ok(())
}

enum Look {
    Done(Settled),
    Failed(String),
    Later(String),
}

async fn look(client: &reqwest::Client, state: &State, unit: &Unit, wanted: &str) -> Look {
    let process = async {
        let url = format!("{}/v1/services/{}", state.url, unit.name);
        client.get(url).send().await.ok()?.json::<Json>().await.ok()
    };
    let Some(service) = process.await else {
        return Look::Later("the homeostat that runs it does not know it".into());
    };
    let process = &service["process"];
    match process["state"].as_str() {
        Some("running") => {}
        Some("failed") => {
            let lines: Vec<&str> =
                process["output"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            let last = lines.iter().rev().take(5).rev().copied().collect::<Vec<_>>().join("\n  ");
            let why = process["reason"].as_str().unwrap_or_default();
            return Look::Failed(format!("{why}\n  {last}"));
        }
        other => return Look::Later(format!("its process is {}", other.unwrap_or("not there"))),
    }
    let done =
        |state: &str, missing| Look::Done(Settled { unit: unit.clone(), state: state.to_string(), missing });
    if unit.role != Role::Sensor {
        return done("running", Vec::new());
    }
    let url = format!("http://{}{FOLLOWING}", unit.address);
    let following = async { client.get(url).send().await.ok()?.json::<Following>().await.ok() };
    let Some(following) = following.await else { return Look::Later("it does not answer".into()) };
    match (&following.version, &following.problem) {
        (Some(version), _) if version == wanted => {
            done(following.state.as_deref().unwrap_or("idle"), following.missing)
        }
        (_, Some(problem)) if following.seen.as_deref() == Some(wanted) => Look::Failed(problem.clone()),
        (_, problem) => Look::Later(problem.clone().unwrap_or_else(|| "it has other documents".into())),
    }
}
