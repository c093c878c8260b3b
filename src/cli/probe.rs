//! `homeostat probe`: a container of collectors, without policies of its own.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::log::start_log;
use super::{Common, Exit, Failure, Output, ProbeOptions};
use crate::connectors::Connectors;
use crate::dialects::occi::monitoring::Settings;
use crate::dialects::occi::server::probe::{Probe, router};
use crate::knowledge::store::Store;
use crate::model::error::chain;
use crate::service::record::Tape;
use crate::service::shell::{Setting, Shell};
use crate::service::supervisor::Supervisor;

/// How long what is on its way may take when the probe ends.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) fn probe_boxed(options: ProbeOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match probe(options, &common, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

async fn probe(options: ProbeOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, chain(error));
    start_log(false, common, None);
    super::sensor::many_descriptors();
    let listener = tokio::net::TcpListener::bind(options.listen).await;
    let listener = listener
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.listen)))?;
    let address = listener.local_addr()?;
    let store = Store::in_memory().map_err(|e| failed(&e))?;
    let connectors = options.proc.map_or_else(Connectors::new, Connectors::of_machine);
    let setting = Setting { shards: 1, connectors, store, tape: Tape::off() };
    let shell = Shell::start(setting)?;
    let supervisor = Arc::new(Supervisor::new(shell.clone()));
    supervisor.set_ready(true);
    let plugins = options.plugins.as_ref().map(|directory| directory.display().to_string());
    let probe =
        Probe::new(supervisor, Settings { plugins, ..Settings::default() }).map_err(|e| failed(&e))?;
    let said = format!("listens on {address}");
    if output.json {
        output.line(&json!({ "listens": address.to_string() }))?
    } else {
        output.text(&said)?
    }
    let stop = CancellationToken::new();
    let serving = tokio::spawn(crate::api::serve(
        listener,
        router(probe, address.ip()),
        stop.clone().cancelled_owned(),
    ));
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    stop.cancel();
    let _ = tokio::time::timeout(FAREWELL, serving).await;
    shell.stop(FAREWELL).await;
    Ok(())
}
