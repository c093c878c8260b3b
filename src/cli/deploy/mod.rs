//! `homeostat deploy`: an infrastructure from its OCCI documents; `homeostat apply` after an edit, and `homeostat undeploy`.
//!
//! Processes run below one homeostat, which has a policy for each of them in the state directory. A later `deploy` or `apply` writes what is different
//! there, and the document server tells the sensors.

mod place;
mod state;
mod units;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;

use self::place::{Apart, worked_out};
use self::state::{Differences, State, alive, alone, forget, load, write};
use self::units::{Changed, Settled, begin, change, end, free};
use super::sensor::{Means, now};
use super::{Common, Exit, Failure, Output};
use crate::connectors::Connectors;
use crate::dialects::occi::deploy::{Deployment, compose, kubernetes, plan};
use crate::dialects::occi::documents::{Documents, vocabulary};
use crate::dialects::occi::monitoring::Names;
use crate::dialects::occi::server::Occi;
use crate::dialects::occi::server::documents::{files_below, read};
use crate::dialects::occi::{Extension, Fault, Registry};
use crate::knowledge::store::Store;
use crate::model::error::chain;
use crate::service::record::Tape;
use crate::service::shell::{Setting, Shell};
use crate::service::supervisor::Supervisor;

/// What units are written down as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Target {
    /// They run on this machine
    #[default]
    Processes,
    /// A file for `docker compose`
    Compose,
    /// Manifests for `kubectl apply -f -`
    Kubernetes,
}

/// `deploy`.
#[derive(Debug, Clone, Args)]
pub struct DeployOptions {
    /// Files of OCCI documents, and directories of them
    #[arg(required = true, value_name = "DOCS")]
    pub documents: Vec<PathBuf>,
    /// What it becomes
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// Where it is kept what runs
    #[arg(long, value_name = "DIR", default_value = ".homeostat")]
    pub state: PathBuf,
    /// Where the document server is reached
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6789")]
    pub listen: SocketAddr,
    /// The first port for sensors, and for probes of which the documents do not say where they are
    #[arg(long, value_name = "PORT", default_value_t = 6800, value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: u16,
    /// An address of this machine; only what the documents place there runs here (repeatable). All addresses of this machine, when absent
    #[arg(long, value_name = "IP")]
    pub host: Vec<IpAddr>,
    /// Starts no receivers of what sensors send: there are others
    #[arg(long)]
    pub without_dashboards: bool,
    /// What sensors publish with.
    #[command(flatten)]
    pub means: Means,
    /// Comes back when everything runs, and leaves it running
    #[arg(long)]
    pub detach: bool,
    /// Only says what would run
    #[arg(long)]
    pub dry_run: bool,
    /// The image of containers; its entry point is homeostat
    #[arg(long, value_name = "IMAGE", default_value = "homeostat:latest")]
    pub image: String,
    /// The file for --target compose and kubernetes; standard output, when absent
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `apply`, of OCCI documents.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// Files of OCCI documents, and directories of them.
    pub documents: PathBuf,
    /// Where it is kept what runs.
    pub state: PathBuf,
    /// Only says what would change.
    pub dry_run: bool,
}

/// `undeploy`.
#[derive(Debug, Clone, Args)]
pub struct UndeployOptions {
    /// Where it is kept what runs
    #[arg(long, value_name = "DIR", default_value = ".homeostat")]
    pub state: PathBuf,
}

/// Whether a path is one of OCCI documents, and not of policies: what was deployed from, or a file that is no policy, or a directory that has no policy
/// in it, and some file, or something is deployed.
pub(super) fn is_documents(path: &Path, state: &Path) -> bool {
    let ends = |path: &Path, endings: &[&str]| {
        path.extension().is_some_and(|e| endings.iter().any(|known| e == *known))
    };
    let deployed = load(state).ok().flatten();
    let known = std::path::absolute(path).ok();
    if deployed.as_ref().is_some_and(|state| state.sources.iter().any(|p| Some(p) == known.as_ref())) {
        return true;
    }
    if !path.is_dir() {
        return path.is_file() && !ends(path, &["yaml", "yml", "rhai"]);
    }
    let Ok(files) = files_below(path) else { return false };
    let policies = files.iter().any(|file| ends(file, &["yaml", "yml", "rhai"]));
    !policies && (!files.is_empty() || deployed.is_some())
}

pub(super) fn deploy_boxed(options: DeployOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match deploy(options, common, &mut output).await {
            Ok(exit) => exit,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

pub(super) fn apply_boxed(options: ApplyOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match apply(options, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

pub(super) fn undeploy_boxed(options: UndeployOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match undeploy(&options, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

fn refused(fault: &Fault) -> Failure {
    Failure::new(Exit::Refused, fault.text.clone())
}

/// Reads documents, and lets every sensor be worked out as it would be when it runs: what cannot run is said before anything is touched.
async fn checked(paths: &[PathBuf], registry: &Registry, means: &Means) -> Result<Documents, Failure> {
    let documents = read(paths, registry, now()).map_err(|why| Failure::new(Exit::Usage, chain(&why)))?;
    if documents.is_empty() {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let text = format!(
            "no OCCI document in {}; expected JSON or XML (`undeploy` ends what runs)",
            paths.join(", ")
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, chain(error));
    let store = Store::in_memory().map_err(|e| failed(&e))?;
    let setting = Setting { shards: 1, connectors: Connectors::new(), store, tape: Tape::off() };
    let shell = Shell::start(setting)?;
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let supervisor = Arc::new(Supervisor::new(shell.clone()));
    let occi =
        Occi::start(supervisor, nowhere, &Extension::ALL, means.settings()).await.map_err(|e| failed(&e))?;
    let problem = documents.sensors(registry).into_iter().find_map(|sensor| {
        let weighed = documents.of_sensor(registry, &sensor).and_then(|part| occi.weigh(part));
        let fault = weighed.err()?;
        Some(Failure::new(Exit::Refused, format!("the sensor `{sensor}`: {}", fault.text)))
    });
    shell.stop(Duration::from_secs(1)).await;
    problem.map_or(Ok(documents), Err)
}

async fn deploy(options: DeployOptions, common: Common, output: &mut Output) -> Result<Exit, Failure> {
    let registry = vocabulary().map_err(|fault| refused(&fault))?;
    let means = options.means.clone().absolute()?;
    means.check()?;
    if options.listen.port() == 0 {
        let text = format!("--listen is {}; expected a port, since others are told of it", options.listen);
        return Err(Failure::new(Exit::Usage, text));
    }
    refuse_idle(&options)?;
    let documents = checked(&options.documents, &registry, &means).await?;
    if options.target != Target::Processes {
        let mut place = Apart { port: options.listen.port(), dashboards: !options.without_dashboards, means };
        let deployment = plan(documents, &registry, &mut place).map_err(|fault| refused(&fault))?;
        return written_down(&options, &deployment, output);
    }
    let directory = state_directory(&options)?;
    let lock = if options.dry_run { None } else { Some(alone(&directory)?) };
    let known = load(&directory)?;
    let running = known.as_ref().is_some_and(alive);
    let wanted = State {
        url: String::new(),
        pid: 0,
        began: 0,
        documents: options.listen,
        hosts: options.host.clone(),
        dashboards: !options.without_dashboards,
        means,
        first: options.ports,
        ports: BTreeMap::new(),
        addresses: BTreeMap::new(),
        sources: options.documents.iter().map(std::path::absolute).collect::<Result<_, _>>()?,
    };
    let mut state = match known {
        Some(known) if running => {
            same_options(&wanted, &known)?;
            State { sources: wanted.sources, ..known }
        }
        // Ports that units had stay theirs.
        Some(known) if known.first == wanted.first => State { ports: known.ports, ..wanted },
        _ => wanted,
    };
    let before = state.addresses.clone();
    let (deployment, notes) = worked_out(documents, &registry, &directory, &mut state)?;
    free(&deployment, &before)?;
    let Some(lock) = lock else {
        tell_plan(output, &deployment, &notes)?;
        return Ok(Exit::Ok);
    };
    if running {
        let changed = change(&directory, &state, &deployment, &registry).await?;
        tell_changed(output, &changed, &notes)?;
        return Ok(Exit::Ok);
    }
    write(&directory, &deployment, true)?;
    let mut seen = Output::stdout(&common);
    // Who does not read it any more has not ended it.
    let told = move |units: &[Settled]| drop(tell_begun(&mut seen, units, &notes));
    begin(&directory, state, (deployment, registry), lock, options.detach, common, told).await
}

/// Where it is written down what runs: a path that policies can name, and not among the documents, as one of which it would be read.
fn state_directory(options: &DeployOptions) -> Result<PathBuf, Failure> {
    let directory = std::path::absolute(&options.state)?;
    let wrong = |why: &str| {
        let text = format!("--state is `{}`, {why}", options.state.display());
        Err(Failure::new(Exit::Usage, text))
    };
    if directory.to_str().is_none() {
        return wrong("which is not UTF-8; expected another name");
    }
    for path in &options.documents {
        let inside = directory.strip_prefix(std::path::absolute(path)?).ok();
        let first = inside.and_then(|rest| rest.components().next());
        if first.is_some_and(|name| !name.as_os_str().to_string_lossy().starts_with('.')) {
            return wrong(
                "which is among the documents; expected another place, or a name that begins with a dot",
            );
        }
    }
    Ok(directory)
}

/// Refuses options that mean nothing with the target.
fn refuse_idle(options: &DeployOptions) -> Result<(), Failure> {
    let idle: &[(&str, bool)] = match options.target {
        Target::Processes => &[("--output", options.output.is_some())],
        _ => &[("--detach", options.detach), ("--host", !options.host.is_empty())],
    };
    match idle.iter().find(|(_, said)| *said) {
        None => Ok(()),
        Some((option, _)) => {
            let target = options.target.to_possible_value();
            let target = target.as_ref().map_or("processes", |value| value.get_name());
            Err(Failure::new(
                Exit::Usage,
                format!("{option} means nothing with --target {target}; leave it out"),
            ))
        }
    }
}

/// Refuses options that would have to be those of what runs already.
fn same_options(wanted: &State, known: &State) -> Result<(), Failure> {
    let different = [
        ("--listen", wanted.documents != known.documents),
        ("--host", wanted.hosts != known.hosts),
        ("--without-dashboards", wanted.dashboards != known.dashboards),
        ("what sensors publish with (--occi-…)", wanted.means != known.means),
    ];
    match different.iter().find(|(_, different)| *different) {
        None => Ok(()),
        Some((what, _)) => Err(Failure::new(
            Exit::Refused,
            format!(
                "it runs already, and {what} cannot change; use `apply` for other documents, or `undeploy` first"
            ),
        )),
    }
}

fn tell_notes(output: &mut Output, notes: &[String]) -> std::io::Result<()> {
    notes.iter().try_for_each(|note| output.text(&format!("note: {note}")))
}

fn tell_plan(output: &mut Output, deployment: &Deployment, notes: &[String]) -> std::io::Result<()> {
    if output.json {
        return output.value(&json!({ "units": deployment.units, "notes": notes }));
    }
    tell_notes(output, notes)?;
    for unit in &deployment.units {
        output.text(&format!(
            "{:<24} {:<22} homeostat {}",
            unit.name,
            unit.address,
            unit.command.join(" ")
        ))?;
    }
    Ok(())
}

fn tell_begun(output: &mut Output, units: &[Settled], notes: &[String]) -> std::io::Result<()> {
    if output.json {
        return output.line(&json!({ "units": units, "notes": notes }));
    }
    tell_notes(output, notes)?;
    tell_units(output, units)
}

fn tell_changed(output: &mut Output, changed: &Changed, notes: &[String]) -> std::io::Result<()> {
    let Changed { difference, units, took } = changed;
    if output.json {
        let seconds = took.as_secs_f64();
        return output
            .value(&json!({ "difference": difference, "notes": notes, "units": units, "seconds": seconds }));
    }
    tell_notes(output, notes)?;
    tell_difference(output, difference)?;
    tell_units(output, units)?;
    output.text(&format!("applied in {} ms", took.as_millis()))
}

/// What a container of its own does not find.
fn apart_notes(options: &DeployOptions, deployment: &Deployment) -> Vec<String> {
    let mut notes = Vec::new();
    let uses = |term: &str| {
        let prefix = Names::default().attribute(term, "");
        deployment
            .documents
            .iter()
            .any(|(_, said)| said.draft.attributes.keys().any(|name| name.starts_with(&prefix)))
    };
    let mail = &options.means.occi_mail;
    if uses("EmailAlarm") && (mail.contains("127.0.0.1") || mail.contains("localhost")) {
        notes.push(format!(
            "mail is handed to {mail}, which is the container itself there; say where with --occi-mail"
        ));
    }
    for (id, said) in deployment.documents.iter() {
        let here = |text: &&str| ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| text.contains(name));
        let own = said
            .draft
            .attributes
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_str().filter(here)?)));
        notes.extend(own.map(|(name, text)| {
            format!("`{name}` of `{id}` is {text}, which is the container itself there")
        }));
    }
    for (what, directory) in
        [("--occi-data", &options.means.occi_data), ("--occi-plugins", &options.means.occi_plugins)]
    {
        if let Some(directory) = directory {
            notes.push(format!(
                "{what}: mount a volume at {} for the sensors, and plug-ins for the probes",
                directory.display()
            ));
        }
    }
    notes
}

/// A compose file, or manifests.
fn written_down(
    options: &DeployOptions,
    deployment: &Deployment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if options.dry_run {
        tell_plan(output, deployment, &deployment.notes)?;
        return Ok(Exit::Ok);
    }
    for note in deployment.notes.iter().chain(&apart_notes(options, deployment)) {
        eprintln!("note: {note}");
    }
    let values = match options.target {
        Target::Kubernetes => kubernetes::manifests(deployment, &options.image)
            .map_err(|why| Failure::new(Exit::Refused, why))?,
        _ => vec![compose::file(deployment, &options.image)],
    };
    let mut text = String::new();
    if output.json {
        let whole = match values.as_slice() {
            [one] => one.clone(),
            several => json!({ "apiVersion": "v1", "kind": "List", "items": several }),
        };
        text = serde_json::to_string_pretty(&whole)
            .map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
    }
    for value in values.iter().filter(|_| !output.json) {
        if values.len() > 1 {
            text.push_str("---\n");
        }
        let yaml =
            serde_saphyr::to_string(value).map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
        text.push_str(&yaml);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    match &options.output {
        Some(path) => std::fs::write(path, text)
            .map_err(|why| Failure::new(Exit::Failed, format!("{}: {why}", path.display())))?,
        None => output.text(text.trim_end())?,
    }
    Ok(Exit::Ok)
}

fn tell_difference(output: &mut Output, difference: &Differences) -> std::io::Result<()> {
    for (sign, d) in [("unit", &difference.units), ("document", &difference.documents)] {
        for (mark, names) in [("+", &d.added), ("-", &d.removed), ("~", &d.changed)] {
            for name in names {
                output.text(&format!("{mark} {sign} {name}"))?;
            }
        }
    }
    if difference.is_none() {
        output.text("nothing is different")?;
    }
    Ok(())
}

fn tell_units(output: &mut Output, units: &[Settled]) -> std::io::Result<()> {
    for Settled { unit, state, missing } in units {
        let missing =
            if missing.is_empty() { String::new() } else { format!(", without {}", missing.join(", ")) };
        output.text(&format!("{:<24} {:<22} {state}{missing}", unit.name, unit.address))?;
    }
    Ok(())
}

async fn apply(options: ApplyOptions, output: &mut Output) -> Result<(), Failure> {
    let directory = std::path::absolute(&options.state)?;
    let nothing = || {
        let text = format!(
            "nothing is deployed by {}; deploy it first: homeostat deploy {}",
            directory.display(),
            options.documents.display()
        );
        Failure::new(Exit::Unreachable, text)
    };
    let _lock = if options.dry_run || !directory.exists() { None } else { Some(alone(&directory)?) };
    let mut state = load(&directory)?.ok_or_else(nothing)?;
    if !alive(&state) {
        return Err(nothing());
    }
    let registry = vocabulary().map_err(|fault| refused(&fault))?;
    let documents = checked(std::slice::from_ref(&options.documents), &registry, &state.means).await?;
    let before = state.addresses.clone();
    let (deployment, notes) = worked_out(documents, &registry, &directory, &mut state)?;
    free(&deployment, &before)?;
    if options.dry_run {
        let difference = write(&directory, &deployment, false)?;
        if output.json {
            output.value(&json!({ "difference": difference, "notes": notes }))?;
        } else {
            tell_notes(output, &notes)?;
            tell_difference(output, &difference)?;
        }
        return Ok(());
    }
    let changed = change(&directory, &state, &deployment, &registry).await?;
    tell_changed(output, &changed, &notes)?;
    Ok(())
}

async fn undeploy(options: &UndeployOptions, output: &mut Output) -> Result<(), Failure> {
    let directory = std::path::absolute(&options.state)?;
    let _lock = if directory.exists() { Some(alone(&directory)?) } else { None };
    let Some(state) = load(&directory)? else {
        return Err(Failure::new(Exit::NotFound, format!("nothing is deployed by {}", directory.display())));
    };
    end(&state).await?;
    forget(&directory);
    match output.json {
        true => output.value(&json!({ "units": [] }))?,
        false => output.text("nothing is deployed any more")?,
    }
    Ok(())
}
