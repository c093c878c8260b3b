//! The commands that need no daemon elsewhere: `run`, `check`, `test`, `schema`, `replay`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::log::start_log;
use super::options::OcciExtension;
use super::{
    CheckOptions, Common, Exit, Failure, Local, Output, ReplayOptions, RunOptions, SchemaKind, SchemaOptions,
};
use crate::connectors::Connectors;
use crate::daemon::{Causes, Daemon, Options, StartError};
use crate::dialects::occi::server::Occi;
use crate::dialects::occi::{self, Extension};
use crate::dialects::tower::server::{self, Settings, Tower};
use crate::model::error::chain;
use crate::model::module::Module;
use crate::policy::diagnostics::Problem;
use crate::policy::load::Sources;
use crate::policy::set::PolicySet;
use crate::service::control::Control;
use crate::service::record::replay;

/// The commands, for [`super::run`].
pub const LOCAL: Local = Local {
    run: run_boxed,
    wrap: super::wrap::wrap_boxed,
    collect: super::collect::collect_boxed,
    probe: super::probe::probe_boxed,
    documents: super::sensor::documents_boxed,
    sensor: super::sensor::sensor_boxed,
    deploy: super::deploy::deploy_boxed,
    apply: super::deploy::apply_boxed,
    undeploy: super::deploy::undeploy_boxed,
    pack: pack_boxed,
    check: check_boxed,
    test: super::trial::test_boxed,
    schema: schema_boxed,
    replay: replay_boxed,
};

fn run_boxed(options: RunOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match run(options, &common, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

fn pack_boxed(options: super::PackOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let work = move || super::pack::pack(&options, &common, &mut Output::stdout(&common));
        tokio::task::spawn_blocking(work).await.unwrap_or(Exit::Failed)
    }
    .boxed()
}

fn check_boxed(options: CheckOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        let sources = Sources::read(&options.dirs);
        match PolicySet::from_sources(&sources, None) {
            Ok((set, warnings)) => {
                let told = tell_checked(&mut output, &sources, &set, &warnings);
                told.map_or(Exit::Failed, |()| Exit::Ok)
            }
            Err(problems) => {
                let told = tell_problems(&mut output, &sources, &problems);
                told.map_or(Exit::Failed, |()| Exit::Refused)
            }
        }
    }
    .boxed()
}

fn schema_boxed(options: SchemaOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let schema = match options.what {
            SchemaKind::Policy => crate::policy::schema::policy_schema(),
            SchemaKind::Test => crate::policy::schema::trial_schema(),
            SchemaKind::Action => crate::policy::schema::action_schema(),
        };
        Output::stdout(&common).value(&schema).map_or(Exit::Failed, |()| Exit::Ok)
    }
    .boxed()
}

fn replay_boxed(options: ReplayOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        let result = tokio::task::spawn_blocking(move || replay_file(&options.file, &mut output)).await;
        match result {
            Ok(Ok(exit)) => exit,
            Ok(Err(failure)) => Output::stdout(&common).failure(&failure),
            Err(error) => Output::stdout(&common).failure(&Failure::new(Exit::Failed, error.to_string())),
        }
    }
    .boxed()
}

fn tell_checked(
    output: &mut Output,
    sources: &Sources,
    set: &PolicySet,
    warnings: &[Problem],
) -> std::io::Result<()> {
    if output.json {
        let document = serde_json::json!({ "ok": true, "hash": &*set.hash, "services": set.services.len(), "warnings": warnings });
        return output.value(&document);
    }
    for warning in warnings {
        render(warning, sources, output.paint.on);
    }
    let count = set.services.len();
    output.text(&format!("{count} service{} ok, policy {}", if count == 1 { "" } else { "s" }, set.hash))
}

/// Says what is wrong with policies or their tests.
pub(super) fn tell_problems(
    output: &mut Output,
    sources: &Sources,
    problems: &[Problem],
) -> std::io::Result<()> {
    if output.json {
        return output.value(&serde_json::json!({ "ok": false, "problems": problems }));
    }
    for problem in problems {
        render(problem, sources, output.paint.on);
    }
    let errors = problems.iter().filter(|p| p.is_error()).count();
    eprintln!("homeostat: {errors} error{}", if errors == 1 { "" } else { "s" });
    Ok(())
}

/// Draws one problem on standard error.
pub(super) fn render(problem: &Problem, sources: &Sources, color: bool) {
    let text = problem.file.as_ref().and_then(|f| sources.text(f));
    let _ = writeln!(std::io::stderr(), "{}", problem.render(text, color).trim_end());
}

/// Feeds a record through the turns again; the answer is no when they decide anything else than they did.
fn replay_file(path: &Path, output: &mut Output) -> Result<Exit, Failure> {
    let bar = match std::io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new_spinner(),
        false => indicatif::ProgressBar::hidden(),
    };
    let result = replay(path, &mut |messages| {
        if messages % 1_000 == 0 {
            bar.set_message(format!("{messages} messages"));
            bar.tick();
        }
    });
    bar.finish_and_clear();
    let replayed = result.map_err(|error| Failure::new(Exit::Usage, chain(&error)))?;
    if output.json {
        for decision in &replayed.decisions {
            output.text(decision)?;
        }
    }
    if replayed.truncated {
        eprintln!("homeostat: the last line of the record is cut off; it was left out");
    }
    match replayed.difference {
        None => {
            let summary = format!(
                "{} messages, {} decision records: the same, byte for byte",
                replayed.messages,
                replayed.decisions.len()
            );
            if output.json {
                eprintln!("{summary}")
            } else {
                output.text(&summary)?
            }
            Ok(Exit::Ok)
        }
        Some((line, before, now)) => {
            eprintln!("homeostat: line {line} of the record: decided\n  {before}\nand now\n  {now}");
            Ok(Exit::No)
        }
    }
}

/// The daemon, from the first look at its policies to its orderly end.
async fn run(options: RunOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let access = options.access().map_err(|why| Failure::new(Exit::Usage, why))?;
    if options.occi.is_some() {
        options.occi_means.prepare()?;
    }
    let screen = !options.log && !common.json && std::io::stdout().is_terminal();
    start_log(screen, common, options.data_dir.as_deref());
    let modules = super::modules::only(options.modules.as_deref())?;
    let listener =
        match modules.has(Module::Api) {
            false => None,
            true => Some(tokio::net::TcpListener::bind(options.listen).await.map_err(|e| {
                Failure::new(Exit::Failed, format!("cannot listen on {}: {e}", options.listen))
            })?),
        };
    let connectors = Connectors::new();
    if !modules.has(Module::Datagrams) {
        connectors.refuse_datagrams();
    }
    let address = listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
    let address = address.map_or_else(|| "none".to_string(), |a| a.to_string());
    let tower = match options.tower {
        None => None,
        Some(at) => Some(
            tokio::net::TcpListener::bind(at)
                .await
                .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {at}: {e}")))?,
        ),
    };
    let occi = match options.occi {
        None if options.occi_means.occi_plugins.is_some() => {
            let text = "--occi-plugins is for collectors of OCCI; expected --occi ADDR:PORT as well";
            return Err(Failure::new(Exit::Usage, text));
        }
        None => None,
        Some(at) => Some(
            tokio::net::TcpListener::bind(at)
                .await
                .map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {at}: {e}")))?,
        ),
    };
    let (leave, left) = mpsc::channel(1);
    // Before the policies are read: what changes while they are is not missed.
    let mut causes = Causes::new(&options.dirs, left);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "homeostat starts");
    let start = Daemon::start(Options {
        dirs: options.dirs.clone(),
        data_dir: options.data_dir.clone(),
        record: options.record.clone(),
        shards: options.shards.map(usize::from),
        connectors,
    });
    let daemon = tokio::select! {
        daemon = start => daemon.map_err(|error| start_failure(error, output))?,
        () = causes.stop() => {
            tracing::info!("homeostat was stopped before it ran");
            return Ok(());
        }
    };
    let control: Arc<dyn Control> = daemon.clone();
    tracing::info!(address = %address, services = control.policy_status().services, "homeostat runs");
    let stop = CancellationToken::new();
    let tower = match tower {
        None => None,
        Some(listener) => Some(serve_tower(&daemon, listener, stop.clone()).await?),
    };
    let occi = match occi {
        None => None,
        Some(listener) => Some(serve_occi(&daemon, &options, listener, stop.clone()).await?),
    };
    let api = listener.map(|listener| {
        let router = crate::api::router(control.clone(), access);
        tokio::spawn(crate::api::serve(listener, router, stop.clone().cancelled_owned()))
    });
    let display = screen.then(|| tokio::spawn(show(control, leave, stop.clone())));
    let late = daemon.run(&mut causes).await;
    stop.cancel();
    if let Some(occi) = occi {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), occi).await;
    }
    if let Some(tower) = tower {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), tower).await;
    }
    if let Some(display) = display {
        let _ = display.await;
    }
    let patience = std::time::Duration::from_secs(if late.is_empty() { 6 } else { 1 });
    if let Some(api) = api {
        let _ = tokio::time::timeout(patience, api).await;
    }
    for who in &late {
        tracing::warn!(who, "late; cut off");
        if screen {
            let _ = writeln!(std::io::stderr(), "homeostat: {who} was late and was cut off");
        }
    }
    tracing::info!("homeostat has stopped");
    Ok(())
}

/// Serves the clients of Tower 4Clouds until `stop`.
async fn serve_tower(
    daemon: &Daemon,
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<std::io::Result<()>>, Failure> {
    let address = listener.local_addr()?;
    let tower = Tower::start(daemon.supervisor().clone(), address, Settings::default()).await;
    let tower = tower.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(%address, "everyone who reaches this address may change rules: Tower 4Clouds knows no tokens");
    }
    tracing::info!(tower = %address, "homeostat speaks Tower 4Clouds");
    let router = server::router(tower.clone());
    Ok(tokio::spawn(async move {
        let ending = async move {
            stop.cancelled_owned().await;
            tower.stop();
        };
        crate::api::serve(listener, router, ending).await
    }))
}

/// Serves the clients of OCCI until `stop`.
async fn serve_occi(
    daemon: &Daemon,
    options: &RunOptions,
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<std::io::Result<()>>, Failure> {
    let address = listener.local_addr()?;
    let extensions: Vec<Extension> = match options.occi_extensions.as_slice() {
        [] => Extension::ALL.to_vec(),
        some => some.iter().map(|one| extension(*one)).collect(),
    };
    let settings = occi::monitoring::Settings {
        users: options.occi_users.as_deref().map(users).transpose()?,
        strict: options.occi_strict,
        ..options.occi_means.settings()
    };
    let open = settings.users.is_none();
    let occi = Occi::start(daemon.supervisor().clone(), address, &extensions, settings).await;
    let occi = occi.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    if open && !address.ip().to_canonical().is_loopback() {
        tracing::warn!(%address, "everyone who reaches this address may change sensors: there are no users (--occi-users)");
    }
    tracing::info!(occi = %address, "homeostat speaks OCCI");
    let router = occi::server::router(occi);
    Ok(tokio::spawn(crate::api::serve(listener, router, stop.cancelled_owned())))
}

/// The users in a file; one that tells tokens must be its owner's alone.
fn users(path: &std::path::Path) -> Result<occi::users::Users, Failure> {
    let usage = |why: String| Failure::new(Exit::Usage, format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|why| usage(why.to_string()))?;
    let users = occi::users::Users::parse(&text).map_err(usage)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_err(|why| usage(why.to_string()))?.permissions().mode();
        if users.tells_tokens() && mode & 0o077 != 0 {
            return Err(usage(format!(
                "others can read its tokens (mode {:o}); chmod 600, or keep their hashes (token_hash)",
                mode & 0o777
            )));
        }
    }
    Ok(users)
}

fn extension(one: OcciExtension) -> Extension {
    match one {
        OcciExtension::Infrastructure => Extension::Infrastructure,
        OcciExtension::Monitoring => Extension::Monitoring,
        OcciExtension::Sla => Extension::Sla,
        OcciExtension::Notification => Extension::Notification,
    }
}

async fn show(control: Arc<dyn Control>, leave: mpsc::Sender<()>, stop: CancellationToken) {
    let source = Box::new(super::status::Here::new(control));
    if let Err(error) = super::status::live(source, stop.cancelled_owned()).await {
        let _ = writeln!(std::io::stderr(), "homeostat: the screen is gone: {error}");
    }
    // Leaving the screen stops the daemon.
    let _ = leave.send(()).await;
}

pub(super) fn start_failure(error: StartError, output: &mut Output) -> Failure {
    match error {
        StartError::Policies(sources, problems) => {
            let _ = tell_problems(output, &sources, &problems);
            Failure::new(Exit::Refused, "")
        }
        StartError::Refused(refusal) => Failure::new(Exit::Refused, refusal.problems.join("\n")),
        error => Failure::new(Exit::Failed, chain(&error)),
    }
}
