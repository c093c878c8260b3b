//! `homeostat wrap`: a program is started, the membrane stands in front of it, and the loop measures it; with a policy that is made here.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::local::start_failure;
use super::log::start_log;
use super::{Common, Exit, Failure, Output, WrapOptions};
use crate::daemon::{Causes, Daemon, Options, STOP_TIME};
use crate::model::error::chain;
use crate::model::name::service_name_problem;
use crate::model::process::{ProcessState, ProcessStatus};
use crate::policy::diagnostics::Problem;
use crate::policy::load::Sources;
use crate::policy::set::PolicySet;
use crate::service::control::Control;

/// How long a program may take until it listens.
const READY: &str = "60s";

pub(super) fn wrap_boxed(options: WrapOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        let result = match options.live {
            true => super::live::wrap(options, &common, &mut output).await,
            false => wrap(options, &common, &mut output).await,
        };
        match result {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

/// The name of the service: as given, or that of the program.
fn name(options: &WrapOptions) -> Result<String, Failure> {
    let program = options.command.first().map_or("", String::as_str);
    let name = match &options.name {
        Some(name) => name.clone(),
        None => program.rsplit(['/', '\\']).next().unwrap_or(program).to_string(),
    };
    match service_name_problem(&name) {
        None => Ok(name),
        Some(why) => Err(Failure::new(Exit::Usage, format!("{why}; say --name NAME"))),
    }
}

/// The policy of a wrapped program: that it is run, and once it is ready, everything that is measured of it, and no objective.
fn policy(name: &str, options: &WrapOptions, ready: bool) -> Sources {
    let to = options.to.as_ref();
    let (endpoint, port) = to.map(|to| (to.to_string(), to.address.to_string())).unwrap_or_default();
    let mut policy = json!({
        "service": name,
        "endpoint": endpoint,
        "process": { "command": options.command, "ready": { "port": port, "within": READY } },
    });
    if ready {
        policy["listen"] = options.listen.to_string().into();
        policy["monitor"] = monitor(&json!({ "own": true }));
        policy["execute"] = json!({});
        policy["manage"] = json!({ "properties": properties() });
    }
    if let (Some(mode), Some(manage)) = (options.mode, policy.get_mut("manage")) {
        manage["subscriptions"] = json!(mode.subscriptions());
    }
    Sources::from_texts([("wrap.yaml", policy.to_string().as_str())])
}

/// Everything that is measured of a wrapped program; `process` says which one it is.
pub(super) fn monitor(process: &serde_json::Value) -> serde_json::Value {
    let calls = |what: &str| json!({ "proxy": { "what": what, "every": "1s" } });
    let mut sensors = json!({ "response_time": { "proxy": "response_time" } });
    for what in ["requests", "rate", "errors", "failures", "in_flight", "bytes_in", "bytes_out"] {
        sensors[what] = calls(what);
    }
    for (metric, what) in
        [("cpu", "cpu"), ("memory", "rss"), ("threads", "threads"), ("descriptors", "descriptors")]
    {
        let mut sensor = process.clone();
        sensor["what"] = what.into();
        sensor["every"] = "1s".into();
        sensors[metric] = json!({ "process": sensor });
    }
    let quantile = |aggregate: &str| json!({ "of": "response_time", "aggregate": aggregate, "over": "60s" });
    json!({ "sensors": sensors, "metrics": { "p50": quantile("p50"), "p99": quantile("p99") } })
}

/// What can be asked of any program by name: facts about its process, and what is measured of its calls.
fn properties() -> serde_json::Value {
    let mut properties = json!({});
    for (name, kind, fact) in [
        ("cpu", "number", "cpu"),
        ("memory", "integer", "rss"),
        ("threads", "integer", "threads"),
        ("descriptors", "integer", "descriptors"),
        ("uptime", "number", "uptime"),
        ("pid", "integer", "pid"),
        ("restarts", "integer", "restarts"),
        ("state", "string", "state"),
    ] {
        properties[name] = json!({ "type": kind, "process": fact });
    }
    for name in ["requests", "errors", "failures", "in_flight", "bytes_in", "bytes_out"] {
        properties[name] = json!({ "type": "integer", "metric": name });
    }
    for name in ["rate", "p50", "p99"] {
        properties[name] = json!({ "type": "number", "metric": name });
    }
    properties
}

async fn wrap(options: WrapOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let access = options.access().map_err(|why| Failure::new(Exit::Usage, why))?;
    let name = name(&options)?;
    start_log(false, common, None);
    let manage = tokio::net::TcpListener::bind(options.manage)
        .await
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.manage)))?;
    let address = manage.local_addr()?;
    // Before anything is started: what would be refused once the program is ready; and a port that is taken stays so.
    if let Err(problems) = PolicySet::from_sources(&policy(&name, &options, true), None) {
        let line = |problem: &Problem| match &problem.hint {
            Some(hint) => format!("{}; {hint}", problem.message),
            None => problem.message.clone(),
        };
        let lines: Vec<String> = problems.iter().map(line).collect();
        return Err(Failure::new(Exit::Usage, lines.join("\n")));
    }
    drop(
        std::net::TcpListener::bind(options.listen)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.listen)))?,
    );
    if let Some(to) = &options.to
        && tokio::net::TcpStream::connect(&*to.address).await.is_ok()
    {
        // It would be taken for the program.
        return Err(Failure::new(
            Exit::Failed,
            format!("{} is taken: something listens there before the program starts", to.address),
        ));
    }
    let (leave, left) = mpsc::channel(1);
    let mut causes = Causes::new(&[], left);
    let daemon = Daemon::start_from(Options::small(options.data_dir.clone()), policy(&name, &options, false))
        .await
        .map_err(|error| start_failure(error, output))?;
    let Some(mut program) = daemon.supervisor().shell().processes().watch(&name) else {
        return Err(Failure::new(Exit::Failed, format!("`{name}` is detached in {:?}", options.data_dir)));
    };
    // Clients find the port closed until the program is ready, as they would without homeostat.
    let ready = tokio::select! {
        ready = ready(&mut program) => ready.map(|()| true),
        () = causes.stop() => Ok(false),
    };
    let ready = match ready {
        Ok(true) => stand_in_front(&daemon, &name, &options).await.map(|()| true),
        Ok(false) => Ok(false),
        Err(status) => Err(failed(&options, &status)),
    };
    if !matches!(ready, Ok(true)) {
        daemon.supervisor().shell().stop(STOP_TIME).await;
        return ready.map(drop);
    }
    let control: Arc<dyn Control> = daemon.clone();
    let properties = daemon.supervisor().shell().membrane().management(&name);
    let to = options.to.as_ref().map(ToString::to_string);
    tracing::info!(service = name, listen = %options.listen, to, manage = %address, "homeostat wraps");
    let stop = CancellationToken::new();
    let api = tokio::spawn(crate::api::serve(
        manage,
        crate::api::router_beside(control, access, crate::api::Limits::default(), properties),
        stop.clone().cancelled_owned(),
    ));
    let failing = tokio::spawn(until_failed(program, leave));
    let late = daemon.run(&mut causes).await;
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(6), api).await;
    for who in &late {
        tracing::warn!(who, "late; cut off");
    }
    tracing::info!("homeostat has stopped");
    match failing.await {
        Ok(Some(status)) => Err(failed(&options, &status)),
        _ => Ok(()),
    }
}

async fn stand_in_front(daemon: &Daemon, name: &str, options: &WrapOptions) -> Result<(), Failure> {
    let fail = |why: String| Failure::new(Exit::Failed, why);
    daemon.replace(policy(name, options, true)).await.map_err(|e| fail(chain(&e)))?;
    match daemon.supervisor().shell().membrane().trouble(name) {
        Some(trouble) => Err(fail(trouble.0.to_string())),
        None => Ok(()),
    }
}

fn failed(options: &WrapOptions, status: &ProcessStatus) -> Failure {
    let name = options.command.first().map_or("", String::as_str);
    let why = status.reason.as_deref().unwrap_or("does not run");
    match why.starts_with("cannot start") {
        true => Failure::new(Exit::Usage, why.to_string()),
        false => Failure::new(Exit::Failed, format!("`{name}` {why}")),
    }
}

/// Waits until the program runs for the first time.
///
/// # Errors
/// How it is, when it ended instead.
async fn ready(program: &mut watch::Receiver<ProcessStatus>) -> Result<(), ProcessStatus> {
    let settled = |status: &ProcessStatus| status.state != ProcessState::Starting;
    match program.wait_for(settled).await.map(|status| status.clone()) {
        Ok(status) if status.state == ProcessState::Running => Ok(()),
        Ok(mut status) => {
            // It is about to be killed for this.
            if status.reason.is_none() {
                status.reason = Some(format!("was not ready within {READY}"));
            }
            Err(status)
        }
        Err(_) => Ok(()),
    }
}

/// Lets homeostat stop when the program has failed for good; answers how it is then.
async fn until_failed(
    mut program: watch::Receiver<ProcessStatus>,
    leave: mpsc::Sender<()>,
) -> Option<ProcessStatus> {
    let failed = program.wait_for(|status| status.state == ProcessState::Failed).await.ok()?.clone();
    let _ = leave.send(()).await;
    Some(failed)
}
