//! `homeostat wrap`: a program is started, the membrane stands in front of it, and the loop measures it; with a policy that is made here.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::local::{chain, start_failure, start_log};
use super::{Common, Exit, Failure, Output, WrapOptions};
use crate::connectors::Connectors;
use crate::daemon::{Causes, Daemon, Options};
use crate::membrane::process::{GRACE, Program};
use crate::model::endpoint::Endpoint;
use crate::model::name::service_name_problem;
use crate::policy::load::Sources;
use crate::service::control::Control;

/// How long a program may take until it listens before clients are let in all the same.
const READY: Duration = Duration::from_secs(30);

/// How often it is looked at until then.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn wrap_boxed(options: WrapOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match wrap(options, &common, &mut output).await {
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

/// The policy of a wrapped program: everything that is measured of it, and no objective.
fn policy(name: &str, options: &WrapOptions, process: Option<u32>) -> String {
    let calls = |what: &str| json!({ "proxy": { "what": what, "every": "1s" } });
    let mut sensors = json!({ "response_time": { "proxy": "response_time" } });
    for what in ["requests", "rate", "errors", "failures", "in_flight", "bytes_in", "bytes_out"] {
        sensors[what] = calls(what);
    }
    for (metric, what) in
        [("cpu", "cpu"), ("memory", "rss"), ("threads", "threads"), ("descriptors", "descriptors")]
    {
        if let Some(pid) = process {
            sensors[metric] = json!({ "process": { "what": what, "pid": pid, "every": "1s" } });
        }
    }
    let quantile = |aggregate: &str| json!({ "of": "response_time", "aggregate": aggregate, "over": "60s" });
    json!({
        "service": name,
        "endpoint": options.to.to_string(),
        "listen": options.listen.to_string(),
        "monitor": { "sensors": sensors, "metrics": { "p50": quantile("p50"), "p99": quantile("p99") } },
    })
    .to_string()
}

async fn wrap(options: WrapOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let access = options.access().map_err(|why| Failure::new(Exit::Usage, why))?;
    let name = name(&options)?;
    start_log(false, common, None);
    let manage = tokio::net::TcpListener::bind(options.manage)
        .await
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.manage)))?;
    let address = manage.local_addr()?;
    // Before anything is started: a port that is taken stays so.
    drop(
        std::net::TcpListener::bind(options.listen)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.listen)))?,
    );
    let mut program = Program::start(&options.command).map_err(|e| Failure::new(Exit::Usage, chain(&e)))?;
    let (leave, left) = mpsc::channel(1);
    let mut causes = Causes::new(&[], left);
    // Clients find the port closed until the program is ready, as they would without homeostat.
    tokio::select! {
        ready = ready(&mut program, &options.to) => ready.map_err(|how| by_itself(&options, &how))?,
        () = causes.stop() => {
            program.end(GRACE).await;
            return Ok(());
        }
    }
    let text = policy(&name, &options, program.id());
    let sources = Sources::from_texts([("wrap.yaml", text.as_str())]);
    let daemon = Daemon::start_from(
        Options {
            dirs: Vec::new(),
            data_dir: options.data_dir.clone(),
            record: None,
            shards: Some(1),
            connectors: Connectors::new(),
        },
        sources,
    )
    .await
    .map_err(|error| start_failure(error, output))?;
    if let Some(trouble) = daemon.supervisor().shell().membrane().trouble(&name) {
        return Err(Failure::new(Exit::Failed, trouble.0.to_string()));
    }
    let control: Arc<dyn Control> = daemon.clone();
    tracing::info!(service = name, listen = %options.listen, to = %options.to, manage = %address, "homeostat wraps");
    let stop = CancellationToken::new();
    let api = tokio::spawn(crate::api::serve(
        manage,
        crate::api::router(control, access),
        stop.clone().cancelled_owned(),
    ));
    let running = tokio::spawn(run_program(program, leave, stop.clone()));
    let late = daemon.run(&mut causes).await;
    // Calls are over; only now does what answered them end.
    stop.cancel();
    let ended = running.await.unwrap_or(None);
    let _ = tokio::time::timeout(Duration::from_secs(6), api).await;
    for who in &late {
        tracing::warn!(who, "late; cut off");
    }
    tracing::info!("homeostat has stopped");
    match ended {
        None => Ok(()),
        Some(how) => Err(by_itself(&options, &how.to_string())),
    }
}

fn by_itself(options: &WrapOptions, how: &str) -> Failure {
    let name = options.command.first().map_or("", String::as_str);
    Failure::new(Exit::Failed, format!("`{name}` ended by itself: {how}"))
}

/// Waits until the program listens, for a while.
///
/// # Errors
/// How it ended, when it did instead.
async fn ready(program: &mut Program, to: &Endpoint) -> Result<(), String> {
    let listens = async {
        while tokio::net::TcpStream::connect(&*to.address).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        listening = tokio::time::timeout(READY, listens) => {
            if listening.is_err() {
                tracing::warn!(%to, "the program does not listen there yet");
            }
            Ok(())
        }
        ended = program.ended() => Err(ended.map_or_else(|e| e.to_string(), |status| status.to_string())),
    }
}

/// Runs a program until it ends by itself, which is answered, or until it is to end.
async fn run_program(
    mut program: Program,
    leave: mpsc::Sender<()>,
    stop: CancellationToken,
) -> Option<ExitStatus> {
    let ended = tokio::select! {
        ended = program.ended() => ended,
        () = stop.cancelled() => {
            if program.end(GRACE).await {
                tracing::warn!("the program did not end when it was asked to, and was killed");
            }
            return None;
        }
    };
    let _ = leave.send(()).await;
    match ended {
        Ok(status) => Some(status),
        Err(error) => {
            tracing::error!(%error, "what became of the program is not known");
            None
        }
    }
}
