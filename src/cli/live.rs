//! `homeostat wrap --live`: the membrane stands in front of a service that runs already, and leaves it as it was; with a policy that is made here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::local::start_failure;
use super::log::start_log;
use super::{Common, Exit, Failure, Output, WrapOptions};
use crate::daemon::{Causes, Daemon, Options};
use crate::membrane::{LiveError, Running};
use crate::model::name::service_name_problem;
use crate::policy::load::Sources;
use crate::service::control::Control;

/// How often it is looked whether the service is still there.
const LOOK: Duration = Duration::from_millis(100);

/// Two calls to stop within this time are one: some tools signal a process and its group.
const SAME_CALL: Duration = Duration::from_millis(50);

/// The name of the service: as given, or that of the program.
fn name(options: &WrapOptions, running: &Running) -> Result<String, Failure> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => std::fs::read_to_string(format!("/proc/{}/comm", running.pid))
            .map(|name| name.trim().to_string())
            .unwrap_or_default(),
    };
    match service_name_problem(&name) {
        None => Ok(name),
        Some(why) => Err(Failure::new(Exit::Usage, format!("{why}; say --name NAME"))),
    }
}

/// The policy of a service that runs already: where it is, everything that is measured of it, and no objective.
fn policy(name: &str, options: &WrapOptions, running: &Running) -> Sources {
    let scheme = if options.tcp { "tcp" } else { "http" };
    let mut properties = json!({});
    for name in [
        "memory",
        "threads",
        "descriptors",
        "requests",
        "errors",
        "failures",
        "in_flight",
        "bytes_in",
        "bytes_out",
    ] {
        properties[name] = json!({ "type": "integer", "metric": name });
    }
    for name in ["cpu", "rate", "p50", "p99"] {
        properties[name] = json!({ "type": "number", "metric": name });
    }
    let mut manage = json!({ "properties": properties });
    if let Some(mode) = options.mode {
        manage["subscriptions"] = json!(mode.subscriptions());
    }
    let policy = json!({
        "service": name,
        "endpoint": format!("{scheme}://{}", running.endpoint),
        "listen": running.bound.to_string(),
        "live": { "pid": running.pid },
        "monitor": super::wrap::monitor(&json!({ "pid": running.pid })),
        "execute": {},
        "manage": manage,
    });
    Sources::from_texts([("wrap.yaml", policy.to_string().as_str())])
}

fn refused(error: &LiveError) -> Failure {
    let exit = match error {
        LiveError::OtherProcess { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// Until a signal: then it leaves, and a second one cuts off who is still inside.
pub(super) async fn wrap(options: WrapOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let access = options.access().map_err(|why| Failure::new(Exit::Usage, why))?;
    let running = Running::at(options.listen, options.pid).map_err(|e| refused(&e))?;
    let name = name(&options, &running)?;
    start_log(false, common, None);
    let manage = tokio::net::TcpListener::bind(options.manage)
        .await
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.manage)))?;
    let address = manage.local_addr()?;
    let (leave, left) = mpsc::channel(1);
    let mut causes = Causes::new(&[], left);
    let daemon =
        Daemon::start_from(Options::small(options.data_dir.clone()), policy(&name, &options, &running))
            .await
            .map_err(|error| start_failure(error, output))?;
    let control: Arc<dyn Control> = daemon.clone();
    let stop = CancellationToken::new();
    let membrane = daemon.supervisor().shell().membrane().clone();
    let properties = membrane.management(&name);
    let router = crate::api::router_beside(control, access, crate::api::Limits::default(), properties);
    let api = tokio::spawn(crate::api::serve(manage, router, stop.clone().cancelled_owned()));
    let mut gone = membrane.trouble(&name);
    if gone.is_none() {
        let Running { pid, bound, .. } = running;
        tracing::info!(service = name, pid, listen = %bound, manage = %address, "homeostat wraps");
        gone = tokio::select! {
            () = causes.stop() => None,
            why = trouble(&membrane, &name) => Some(why),
        };
    }
    if gone.is_none() {
        tracing::info!("new connections go to the service again; those that came here end");
        let again = async {
            let _ = tokio::time::timeout(SAME_CALL, causes.stop()).await;
            causes.stop().await;
        };
        tokio::select! {
            () = membrane.leave(&name) => tracing::info!("homeostat has left"),
            () = again => tracing::warn!("a second interrupt: connections are cut off"),
        }
    }
    let _ = leave.send(()).await;
    for who in daemon.run(&mut causes).await {
        tracing::warn!(who, "late; cut off");
    }
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(6), api).await;
    match gone {
        Some(why) => Err(Failure::new(Exit::Failed, why.0.to_string())),
        None => Ok(()),
    }
}

/// Ends, with the reason, when homeostat no longer stands in front of the service.
async fn trouble(membrane: &crate::membrane::Membrane, name: &str) -> crate::membrane::Trouble {
    loop {
        if let Some(why) = membrane.trouble(name) {
            return why;
        }
        tokio::time::sleep(LOOK).await;
    }
}
