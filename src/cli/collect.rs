//! `homeostat collect`: the policies run as they do with `run`, and what they measure goes to a server of Tower 4Clouds.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::local::start_failure;
use super::log::start_log;
use super::{CollectOptions, Common, Exit, Failure, Output};
use crate::connectors::Connectors;
use crate::daemon::{Causes, Daemon, Options};
use crate::dialects::tower::collector::{Collector, CollectorError, Settings};
use crate::model::error::chain;

/// The shortest times that the protocol knows.
const SHORTEST: Duration = Duration::from_secs(10);

pub(super) fn collect_boxed(options: CollectOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match collect(options, &common, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

fn settings(options: &CollectOptions) -> Result<Settings, Failure> {
    let wrong = |why: &str| Err(Failure::new(Exit::Usage, why));
    let keep_alive = Some(options.keep_alive.0).filter(|keep| !keep.is_zero());
    if keep_alive.is_some_and(|keep| keep < SHORTEST) {
        return wrong("--keep-alive is at least 10s, or 0s: never forgotten");
    }
    if options.sync.0 < SHORTEST {
        return wrong("--sync is at least 10s");
    }
    Ok(Settings { keep_alive, sync: options.sync.0, ..Settings::new(&options.manager) })
}

async fn collect(options: CollectOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let settings = settings(&options)?;
    start_log(false, common, None);
    let (_leave, left) = mpsc::channel(1);
    // Before the policies are read: what changes while they are is not missed.
    let mut causes = Causes::new(&options.dirs, left);
    let start = Daemon::start(Options {
        dirs: options.dirs.clone(),
        data_dir: options.data_dir.clone(),
        record: None,
        shards: options.shards.map(usize::from),
        connectors: Connectors::new(),
    });
    let daemon = tokio::select! {
        daemon = start => daemon.map_err(|error| start_failure(error, output))?,
        () = causes.stop() => return Ok(()),
    };
    let collector = Collector::start(daemon.supervisor().clone(), settings);
    let collector = match collector {
        Ok(collector) => collector,
        Err(error) => {
            daemon.supervisor().shell().stop(crate::daemon::STOP_TIME).await;
            let exit = if matches!(error, CollectorError::Manager(_)) { Exit::Usage } else { Exit::Failed };
            return Err(Failure::new(exit, chain(&error)));
        }
    };
    tracing::info!(manager = options.manager, "homeostat collects");
    let late = daemon.run(&mut causes).await;
    let counted = collector.counted();
    collector.stop().await;
    for who in &late {
        tracing::warn!(who, "late; cut off");
    }
    tracing::info!(sent = counted.sent, lost = counted.lost, "homeostat has stopped");
    Ok(())
}
