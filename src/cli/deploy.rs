//! `homeostat deploy`: an infrastructure from its OCCI documents; `homeostat apply` after an edit, and `homeostat undeploy`.
//!
//! Processes run below one homeostat, which has a policy for each of them in the state directory. A later `deploy` or `apply` writes what is different
//! there, and the document server tells the sensors.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::local::chain;
use super::sensor::{Means, now};
use super::{Cli, Command, Common, Exit, Failure, Output};
use crate::connectors::Connectors;
use crate::dialects::occi::deploy::{
    Deployment, Place, Role, SENSOR_PORT, Unit, compose, kubernetes, plan, processes,
};
use crate::dialects::occi::documents::{Documents, container, vocabulary};
use crate::dialects::occi::monitoring::Names;
use crate::dialects::occi::server::Occi;
use crate::dialects::occi::server::documents::{INDEX, read, version};
use crate::dialects::occi::server::follow::{FOLLOWING, Following};
use crate::dialects::occi::{Extension, Fault, Registry};
use crate::knowledge::store::Store;
use crate::service::record::Tape;
use crate::service::shell::{Setting, Shell};
use crate::service::supervisor::Supervisor;

/// How long units may take until they all are what the documents say.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two looks at them.
const LOOK: Duration = Duration::from_millis(20);
/// How long the ending of a deployment may take.
const FAREWELL: Duration = Duration::from_secs(20);
/// What says, in the state directory, what is deployed.
const STATE: &str = "deployment.json";
/// What is locked there, and says that the directory is one of deployments.
const LOCK: &str = "deployment.lock";

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
    #[arg(long, value_name = "PORT", default_value_t = 6800)]
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

/// Now, to measure how long something takes.
#[expect(clippy::disallowed_methods, reason = "how long a command takes is no part of a turn")]
fn moment() -> Instant {
    Instant::now()
}

/// What is deployed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    /// The native API of the homeostat that runs the units.
    url: String,
    /// Its number, and when it began.
    pid: u32,
    began: u64,
    /// Where the document server is reached.
    documents: SocketAddr,
    /// The addresses that are this machine's; all that are, when empty.
    hosts: Vec<IpAddr>,
    dashboards: bool,
    /// More words for each sensor.
    sensor_options: Vec<String>,
    /// The first port to be given.
    first: u16,
    /// Ports that were given to units, and stay theirs.
    ports: BTreeMap<String, u16>,
    /// Where somebody else receives what sensors send.
    taken: BTreeSet<String>,
    /// The addresses of the units.
    addresses: BTreeMap<String, String>,
    /// Where the documents were read.
    sources: Vec<PathBuf>,
}

/// Whether a path is one of OCCI documents, and not of policies: there is no policy in it, and some file, or something is deployed.
pub(super) fn is_documents(path: &Path, state: &Path) -> bool {
    let ends = |path: &Path, endings: &[&str]| {
        path.extension().is_some_and(|e| endings.iter().any(|known| e == *known))
    };
    let known = std::path::absolute(path).ok();
    if load(state).ok().flatten().is_some_and(|state| state.sources.iter().any(|p| Some(p) == known.as_ref()))
    {
        return true;
    }
    if !path.is_dir() {
        return path.is_file() && !ends(path, &["yaml", "yml", "rhai"]);
    }
    let mut files = Vec::new();
    files_below(path, 4, &mut files);
    let policies = files.iter().any(|file| ends(file, &["yaml", "yml", "rhai"]));
    !policies && (!files.is_empty() || state.join(STATE).exists())
}

fn files_below(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true if depth > 0 => files_below(&path, depth - 1, found),
            true => {}
            false => found.push(path),
        }
    }
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
async fn checked(paths: &[PathBuf], registry: &Registry, means: &[String]) -> Result<Documents, Failure> {
    let documents = read(paths, registry, now()).map_err(|why| Failure::new(Exit::Usage, chain(&why)))?;
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, chain(error));
    let store = Store::in_memory().map_err(|e| failed(&e))?;
    let setting = Setting { shards: 1, connectors: Connectors::new(), store, tape: Tape::off() };
    let shell = Shell::start(setting)?;
    let settings = settings(means)?;
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let supervisor = std::sync::Arc::new(Supervisor::new(shell.clone()));
    let occi = Occi::start(supervisor, nowhere, &Extension::ALL, settings).await.map_err(|e| failed(&e))?;
    let mut problem = None;
    for sensor in documents.sensors(registry) {
        let weighed = documents.of_sensor(registry, &sensor).and_then(|part| occi.weigh(part));
        if let Err(fault) = weighed {
            problem = Some(Failure::new(Exit::Refused, format!("the sensor `{sensor}`: {}", fault.text)));
            break;
        }
    }
    shell.stop(Duration::from_secs(1)).await;
    problem.map_or(Ok(documents), Err)
}

/// The words for each sensor.
fn sensor_options(means: &Means) -> Result<Vec<String>, Failure> {
    let mut words =
        vec!["--occi-mail".into(), means.occi_mail.clone(), "--occi-from".into(), means.occi_from.clone()];
    for (option, directory) in [("--occi-data", &means.occi_data), ("--occi-plugins", &means.occi_plugins)] {
        if let Some(directory) = directory {
            words.extend([option.into(), std::path::absolute(directory)?.display().to_string()]);
        }
    }
    Ok(words)
}

/// Of the words for sensors, those that probes need as well.
fn probe_options(words: &[String]) -> Vec<String> {
    let at = words.iter().position(|word| word == "--occi-plugins").and_then(|i| words.get(i + 1));
    at.map(|directory| vec!["--plugins".to_string(), directory.clone()]).unwrap_or_default()
}

/// What these words mean.
fn settings(words: &[String]) -> Result<crate::dialects::occi::monitoring::Settings, Failure> {
    let line = ["homeostat", "sensor", "x"].map(str::to_string).into_iter().chain(words.iter().cloned());
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Sensor(options)) => Ok(options.means.settings()),
        Ok(_) => Err(Failure::new(Exit::Failed, "the options of sensors are not understood")),
        Err(why) => Err(Failure::new(Exit::Failed, why.to_string())),
    }
}

/// This machine.
struct Here<'a> {
    directory: PathBuf,
    /// Ports that documents name.
    named: BTreeSet<u16>,
    state: &'a mut State,
    notes: RefCell<Vec<String>>,
}

/// The addresses of a name, and whether one of them is this machine's.
fn resolved(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok()?.next()
}

impl Here<'_> {
    fn is_here(&self, ip: IpAddr) -> bool {
        match self.state.hosts.is_empty() {
            true => ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok(),
            false => self.state.hosts.contains(&ip),
        }
    }
}

impl Place for Here<'_> {
    fn documents(&self) -> String {
        self.state.documents.to_string()
    }

    fn library(&self) -> Vec<String> {
        vec![self.directory.join("documents").display().to_string()]
    }

    fn listens(&self, address: &str) -> String {
        resolved(address).map_or_else(|| address.to_string(), |at| at.to_string())
    }

    fn hosts(&mut self, name: &str, role: Role, address: &str) -> Option<String> {
        let Some(at) = resolved(address) else {
            self.notes.borrow_mut().push(format!("`{name}` is not started here: {address} has no address"));
            return None;
        };
        if !self.is_here(at.ip()) || (role == Role::Dashboard && !self.state.dashboards) {
            return None;
        }
        let ours = self.state.addresses.get(name).is_some_and(|known| known == address);
        if role == Role::Dashboard && !ours {
            if UdpSocket::bind(at).is_err() {
                self.notes
                    .borrow_mut()
                    .push(format!("somebody receives at {address} already; no dashboard is started there"));
                self.state.taken.insert(address.to_string());
                return None;
            }
            self.state.taken.remove(address);
        }
        Some(address.to_string())
    }

    fn reached(&mut self, name: &str, _role: Role) -> Result<String, Fault> {
        let host = self.state.documents.ip();
        if let Some(port) = self.state.ports.get(name) {
            return Ok(SocketAddr::new(host, *port).to_string());
        }
        let given: BTreeSet<u16> = self.state.ports.values().copied().collect();
        let free = |port: &u16| {
            !given.contains(port) && !self.named.contains(port) && TcpListener::bind((host, *port)).is_ok()
        };
        let port = (self.state.first..=u16::MAX).find(free).ok_or_else(|| {
            Fault::bad(format!("no port from {} upwards is free for `{name}`", self.state.first))
        })?;
        self.state.ports.insert(name.to_string(), port);
        Ok(SocketAddr::new(host, port).to_string())
    }

    fn runs_sensors(&self) -> bool {
        self.is_here(self.state.documents.ip())
    }

    fn sensor_options(&self) -> Vec<String> {
        self.state.sensor_options.clone()
    }

    fn probe_options(&self) -> Vec<String> {
        probe_options(&self.state.sensor_options)
    }
}

/// A machine of its own for each unit, with its name.
struct Apart {
    port: u16,
    dashboards: bool,
    options: Vec<String>,
}

impl Place for Apart {
    fn documents(&self) -> String {
        format!("documents:{}", self.port)
    }

    fn library(&self) -> Vec<String> {
        vec![compose::LIBRARY.into()]
    }

    fn listens(&self, address: &str) -> String {
        format!("0.0.0.0:{}", address.rsplit_once(':').map_or("0", |(_, port)| port))
    }

    fn hosts(&mut self, name: &str, role: Role, address: &str) -> Option<String> {
        let (host, port) = address.rsplit_once(':')?;
        if role == Role::Dashboard && !self.dashboards {
            return None;
        }
        // What receives data may be the user's own, somewhere; what looks like a container of the prototype's is ours.
        let ours = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => {
                ip.is_loopback() || ip.octets()[0] == 172 && (16..32).contains(&ip.octets()[1])
            }
            Ok(IpAddr::V6(ip)) => ip.is_loopback(),
            Err(_) => host == "localhost" || host == name,
        };
        (ours || !matches!(role, Role::Dashboard | Role::Echo)).then(|| format!("{name}:{port}"))
    }

    fn reached(&mut self, name: &str, role: Role) -> Result<String, Fault> {
        let port = if role == Role::Sensor { SENSOR_PORT } else { crate::dialects::occi::deploy::PROBE_PORT };
        Ok(format!("{name}:{port}"))
    }

    fn runs_sensors(&self) -> bool {
        true
    }

    fn sensor_options(&self) -> Vec<String> {
        self.options.clone()
    }

    fn probe_options(&self) -> Vec<String> {
        probe_options(&self.options)
    }
}

async fn deploy(options: DeployOptions, common: Common, output: &mut Output) -> Result<Exit, Failure> {
    let registry = vocabulary().map_err(|fault| refused(&fault))?;
    let words = sensor_options(&options.means)?;
    if options.listen.port() == 0 {
        let text = format!("--listen is {}; expected a port, since others are told of it", options.listen);
        return Err(Failure::new(Exit::Usage, text));
    }
    let documents = checked(&options.documents, &registry, &words).await?;
    if documents.is_empty() {
        let paths: Vec<String> = options.documents.iter().map(|path| path.display().to_string()).collect();
        let text = format!("no OCCI document in {}; expected JSON or XML", paths.join(", "));
        return Err(Failure::new(Exit::Usage, text));
    }
    if options.target != Target::Processes {
        let mut place =
            Apart { port: options.listen.port(), dashboards: !options.without_dashboards, options: words };
        let deployment = plan(documents, &registry, &mut place).map_err(|fault| refused(&fault))?;
        return written_down(&options, &deployment, output);
    }
    let directory = std::path::absolute(&options.state)?;
    let lock = if options.dry_run { None } else { Some(alone(&directory)?) };
    let known = load(&directory)?;
    let running = known.as_ref().is_some_and(alive);
    let mut state = known.unwrap_or_else(|| State {
        url: String::new(),
        pid: 0,
        began: 0,
        documents: options.listen,
        hosts: Vec::new(),
        dashboards: true,
        sensor_options: Vec::new(),
        first: options.ports,
        ports: BTreeMap::new(),
        taken: BTreeSet::new(),
        addresses: BTreeMap::new(),
        sources: Vec::new(),
    });
    state.sources = options.documents.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
    if running {
        same_options(&options, &state, &words)?;
    } else {
        if state.first != options.ports {
            state.ports.clear();
            state.first = options.ports;
        }
        state.addresses.clear();
        state.documents = options.listen;
        state.hosts.clone_from(&options.host);
        state.dashboards = !options.without_dashboards;
        state.sensor_options = words;
    }
    let before = state.addresses.clone();
    let (deployment, notes) = worked_out(documents, &registry, &directory, &mut state)?;
    tell_notes(output, &notes)?;
    if options.dry_run {
        tell_plan(output, &deployment, &notes)?;
        return Ok(Exit::Ok);
    }
    if running {
        change(&directory, &mut state, &deployment, &registry, &before, output).await?;
        return Ok(Exit::Ok);
    }
    free(&deployment, &BTreeMap::new())?;
    write(&directory, &deployment, true)?;
    begin(&directory, state, (deployment, registry), lock, options.detach, common, output).await
}

/// Refuses options that would have to be those of what runs already.
fn same_options(options: &DeployOptions, state: &State, words: &[String]) -> Result<(), Failure> {
    let different = [
        ("--listen", options.listen != state.documents),
        ("--host", options.host != state.hosts),
        ("--without-dashboards", options.without_dashboards == state.dashboards),
        ("the options of sensors", words != state.sensor_options),
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

/// What would run, without anything being done.
fn worked_out(
    documents: Documents,
    registry: &Registry,
    directory: &Path,
    state: &mut State,
) -> Result<(Deployment, Vec<String>), Failure> {
    let (_, url) = container();
    let port = |text: &str| reqwest::Url::parse(text).ok()?.port();
    let urls = documents.iter().filter_map(|(_, said)| said.draft.attributes.get(&url)?.as_str());
    let named = urls.filter_map(port).chain([state.documents.port()]).collect();
    let mut place = Here { directory: directory.to_path_buf(), named, state, notes: RefCell::default() };
    let deployment = plan(documents, registry, &mut place).map_err(|fault| refused(&fault))?;
    let mut notes = deployment.notes.clone();
    let here = place.runs_sensors();
    notes.extend(place.notes.into_inner());
    if !here {
        notes.push(format!(
            "the documents and the sensors are not started here: they are at {}",
            state.documents
        ));
    }
    if deployment.units.is_empty() {
        let text = "nothing of it is on this machine; --listen and --host say where things are";
        return Err(Failure::new(Exit::Refused, text));
    }
    state.addresses = deployment.units.iter().map(|unit| (unit.name.clone(), unit.address.clone())).collect();
    let units: BTreeSet<&String> = deployment.units.iter().map(|unit| &unit.name).collect();
    state.ports.retain(|name, _| units.contains(name));
    Ok((deployment, notes))
}

fn tell_notes(output: &mut Output, notes: &[String]) -> std::io::Result<()> {
    // In JSON they are part of what is answered.
    let silent = output.json;
    for note in notes.iter().filter(|_| !silent) {
        output.text(&format!("note: {note}"))?;
    }
    Ok(())
}

fn tell_plan(output: &mut Output, deployment: &Deployment, notes: &[String]) -> std::io::Result<()> {
    if output.json {
        return output.value(&json!({ "units": deployment.units, "notes": notes }));
    }
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
    for note in deployment.notes.iter().chain(&apart_notes(options, deployment)) {
        eprintln!("note: {note}");
    }
    if options.dry_run {
        tell_plan(output, deployment, &deployment.notes)?;
        return Ok(Exit::Ok);
    }
    let values = match options.target {
        Target::Kubernetes => kubernetes::manifests(deployment, &options.image)
            .map_err(|why| Failure::new(Exit::Refused, why))?,
        _ => vec![compose::file(deployment, &options.image)],
    };
    let mut text = String::new();
    for value in &values {
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

fn load(directory: &Path) -> Result<Option<State>, Failure> {
    let path = directory.join(STATE);
    let wrong = |why: String| Failure::new(Exit::Failed, format!("{}: {why}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|why| {
            wrong(format!(
                "{why}; it is damaged: end what runs (its log is beside it), and remove the directory"
            ))
        }),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(wrong(why.to_string())),
    }
}

fn save(directory: &Path, state: &State) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(state).map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
    replace(&directory.join(STATE), &(text + "\n"))
}

/// Writes a file so that who reads it sees all of it, or what was there before.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let wrong = |why: std::io::Error| Failure::new(Exit::Failed, format!("{}: {why}", path.display()));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&beside, text).map_err(wrong)?;
    std::fs::rename(&beside, path).map_err(wrong)
}

/// When a process began, in ticks since the machine did; `None` when it has ended. With its number it never means another one.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may contain anything: state, and 19 fields later the time.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let running = fields.next()? != "Z";
    fields.nth(18)?.parse().ok().filter(|_| running)
}

/// Whether the homeostat that ran the units still does.
fn alive(state: &State) -> bool {
    began(state.pid).is_some_and(|began| began == state.began)
}

/// Keeps others from changing the same deployment; until it is dropped.
fn alone(directory: &Path) -> Result<std::fs::File, Failure> {
    let path = directory.join(LOCK);
    let wrong = |why: std::io::Error| Failure::new(Exit::Failed, format!("{}: {why}", path.display()));
    std::fs::create_dir_all(directory).map_err(wrong)?;
    if !path.exists() && std::fs::read_dir(directory).map_err(wrong)?.next().is_some() {
        let text = format!(
            "{} has something else in it; --state needs a directory of its own, as .homeostat",
            directory.display()
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    let file =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(wrong)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(
            Exit::Refused,
            format!("somebody changes the deployment in {} already", directory.display()),
        )
    })?;
    Ok(file)
}

/// Whether what is to listen and does not yet can. `before`: where the units are that run.
fn free(deployment: &Deployment, before: &BTreeMap<String, String>) -> Result<(), Failure> {
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
            return Err(Failure::new(Exit::Failed, format!("`{}` cannot listen on {at}: {why}", unit.name)));
        }
    }
    Ok(())
}

/// What a change comes to.
#[derive(Debug, Default, Serialize)]
struct Difference {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

/// Makes the files in a directory be these, and those that were written before be gone; `really`: not only in words.
fn sync(
    directory: &Path,
    wanted: &BTreeMap<String, (String, String)>,
    really: bool,
    difference: &mut Difference,
) -> Result<(), Failure> {
    let wrong =
        |path: &Path, why: std::io::Error| Failure::new(Exit::Failed, format!("{}: {why}", path.display()));
    let index = directory.with_extension("names.json");
    for (file, name) in written_before(directory) {
        if !wanted.contains_key(&file) {
            difference.removed.push(name);
            let path = directory.join(file);
            if really && path.exists() {
                std::fs::remove_file(&path).map_err(|why| wrong(&path, why))?;
            }
        }
    }
    if really {
        std::fs::create_dir_all(directory).map_err(|why| wrong(directory, why))?;
        // Known before it is there: whatever happens, it is found again.
        let known: BTreeMap<String, String> = written_before(directory)
            .into_iter()
            .chain(wanted.iter().map(|(file, (name, _))| (file.clone(), name.clone())))
            .collect();
        replace(&index, &json!(known).to_string())?;
    }
    for (file, (name, text)) in wanted {
        let path = directory.join(file);
        match std::fs::read_to_string(&path) {
            Ok(known) if known == *text => {}
            known => {
                if really {
                    replace(&path, text)?;
                }
                let list = if known.is_ok() { &mut difference.changed } else { &mut difference.added };
                list.push(name.clone());
            }
        }
    }
    if !really {
        return Ok(());
    }
    let names: BTreeMap<&String, &String> = wanted.iter().map(|(file, (name, _))| (file, name)).collect();
    replace(&index, &json!(names).to_string())
}

/// The files that were written into a directory, with what they are about. Nothing else there is ever touched.
fn written_before(directory: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(directory.with_extension("names.json")).ok();
    let names: BTreeMap<String, String> =
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    names.into_iter().filter(|(file, _)| !file.contains('/') && !file.contains("..")).collect()
}

/// What it comes to for units, and for documents.
#[derive(Debug, Default, Serialize)]
struct Differences {
    units: Difference,
    documents: Difference,
}

impl Differences {
    fn is_none(&self) -> bool {
        [&self.units, &self.documents]
            .iter()
            .all(|d| d.added.is_empty() && d.removed.is_empty() && d.changed.is_empty())
    }
}

fn write(directory: &Path, deployment: &Deployment, really: bool) -> Result<Differences, Failure> {
    let mut all = Differences::default();
    let documents: BTreeMap<String, (String, String)> = deployment
        .documents
        .iter()
        .map(|(id, _)| {
            let file = format!("{}.json", &blake3::hash(id.as_bytes()).to_hex()[..16]);
            (file, (id.to_string(), deployment.documents.written(id).unwrap_or_default()))
        })
        .collect();
    sync(&directory.join("documents"), &documents, really, &mut all.documents)?;
    let mut policies = BTreeMap::new();
    for unit in &deployment.units {
        let text = serde_saphyr::to_string(&processes::policy(unit, "homeostat"))
            .map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
        policies.insert(format!("{}.yaml", unit.name), (unit.name.clone(), text));
    }
    sync(&directory.join("policies"), &policies, really, &mut all.units)?;
    Ok(all)
}

/// A port that nobody has now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Starts everything, and waits until it runs.
async fn begin(
    directory: &Path,
    mut state: State,
    planned: (Deployment, Registry),
    lock: Option<std::fs::File>,
    detach: bool,
    common: Common,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (deployment, registry) = planned;
    let port = free_port()?;
    state.url = format!("http://127.0.0.1:{port}");
    let path = |name: &str| directory.join(name).display().to_string();
    let words =
        ["run".to_string(), path("policies"), "--listen".into(), format!("127.0.0.1:{port}"), "--log".into()];
    if detach {
        return begin_apart(directory, state, &deployment, &registry, &words, output).await;
    }
    state.pid = std::process::id();
    state.began = began(state.pid).unwrap_or_default();
    save(directory, &state)?;
    let line = std::iter::once("homeostat".to_string()).chain(words);
    let Ok(Command::Run(options)) = Cli::try_parse_from(line).map(|cli| cli.command) else {
        return Err(Failure::new(Exit::Failed, "the options of the daemon are not understood"));
    };
    let mut seen = Output::stdout(&common);
    let watching = tokio::spawn(async move {
        let outcome = settled(&state, &deployment, &registry).await;
        // From here on others may change it.
        drop(lock);
        let told = outcome.and_then(|units| tell_units(&mut seen, &units).map_err(Failure::from));
        if told.is_err() {
            // As Ctrl-C: everything ends in order.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
        }
        told
    });
    let exit = (super::local::LOCAL.run)(options, common).await;
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
    output: &mut Output,
) -> Result<Exit, Failure> {
    use std::os::unix::process::CommandExt;
    let path = directory.join("log");
    let log = std::fs::File::create(&path)
        .map_err(|why| Failure::new(Exit::Failed, format!("{}: {why}", path.display())))?;
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(words)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    state.pid = child.id();
    state.began = began(state.pid).unwrap_or_default();
    save(directory, &state)?;
    let ended = async {
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return status;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let outcome = tokio::select! {
        outcome = settled(&state, deployment, registry) => outcome,
        status = ended => {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
            Err(Failure::new(Exit::Failed, format!("homeostat ended with {status}:\n  {last}")))
        }
    };
    match outcome {
        Ok(units) => {
            tell_units(output, &units)?;
            Ok(Exit::Ok)
        }
        Err(failure) => {
            terminate(state.pid);
            let _ = child.wait();
            let _ = std::fs::remove_file(directory.join(STATE));
            Err(failure)
        }
    }
}

fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Lets the running units become what is written now.
async fn carry_out(
    directory: &Path,
    state: &mut State,
    deployment: &Deployment,
    registry: &Registry,
    difference: &Differences,
    output: &mut Output,
) -> Result<(), Failure> {
    save(directory, state)?;
    let begun = moment();
    let client = client()?;
    let units = &difference.units;
    if !(units.added.is_empty() && units.removed.is_empty() && units.changed.is_empty()) {
        let url = format!("{}/v1/policy/reload", state.url);
        let answer = client.post(&url).send().await.map_err(|why| unreachable(&url, &why))?;
        if !answer.status().is_success() {
            let text = answer.text().await.unwrap_or_default();
            return Err(Failure::new(Exit::Refused, format!("the units are not taken: {text}")));
        }
    }
    for unit in &deployment.units {
        mend(&client, state, unit).await;
    }
    let at = state.documents;
    if deployment.units.iter().any(|unit| unit.role == Role::Documents) {
        // A server that has just been started has read them already, and one that watches its files will.
        let _ = client.post(format!("http://{at}{INDEX}")).send().await;
    }
    let settled = settled(state, deployment, registry).await?;
    let took = begun.elapsed();
    if output.json {
        output
            .value(&json!({ "difference": difference, "notes": deployment.notes, "units": settled, "seconds": took.as_secs_f64() }))?;
        return Ok(());
    }
    tell_difference(output, difference)?;
    tell_units(output, &settled)?;
    output.text(&format!("applied in {} ms", took.as_millis()))?;
    Ok(())
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

fn client() -> Result<reqwest::Client, Failure> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy();
    client.build().map_err(|why| Failure::new(Exit::Failed, chain(&why)))
}

fn unreachable(url: &str, why: &reqwest::Error) -> Failure {
    Failure::new(Exit::Unreachable, format!("{url}: {}", chain(why)))
}

/// A unit, as it is.
#[derive(Debug, Clone, Serialize)]
struct Settled {
    #[serde(flatten)]
    unit: Unit,
    state: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
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
async fn mend(client: &reqwest::Client, state: &State, unit: &Unit) {
    let url = format!("{}/v1/services/{}", state.url, unit.name);
    let service = async { client.get(&url).send().await.ok()?.json::<Json>().await.ok() };
    if service.await.is_some_and(|service| service["process"]["state"] == "failed") {
        let _ = client.post(format!("{url}/actions")).json(&json!({ "start": {} })).send().await;
    }
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

fn tell_units(output: &mut Output, units: &[Settled]) -> std::io::Result<()> {
    if output.json {
        return output.line(&json!({ "units": units }));
    }
    for settled in units {
        let Settled { unit, state, missing } = settled;
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
    let documents =
        checked(std::slice::from_ref(&options.documents), &registry, &state.sensor_options).await?;
    let before = state.addresses.clone();
    let (deployment, notes) = worked_out(documents, &registry, &directory, &mut state)?;
    tell_notes(output, &notes)?;
    if options.dry_run {
        let difference = write(&directory, &deployment, false)?;
        match output.json {
            true => output.value(&json!({ "difference": difference, "notes": notes }))?,
            false => tell_difference(output, &difference)?,
        }
        return Ok(());
    }
    change(&directory, &mut state, &deployment, &registry, &before, output).await
}

/// Writes down what is different and lets it become true; what does not leaves everything as it was.
async fn change(
    directory: &Path,
    state: &mut State,
    deployment: &Deployment,
    registry: &Registry,
    before: &BTreeMap<String, String>,
    output: &mut Output,
) -> Result<(), Failure> {
    free(deployment, before)?;
    let kept = Kept::of(directory)?;
    let done = match write(directory, deployment, true) {
        Ok(difference) => carry_out(directory, state, deployment, registry, &difference, output).await,
        Err(failure) => Err(failure),
    };
    let Err(failure) = done else { return Ok(()) };
    let again = kept.restore(directory, state).await;
    let text = match again {
        Ok(()) => format!("{}; everything is as it was before", failure.message),
        Err(why) => {
            format!("{}; and it could not be made as it was before: {}", failure.message, why.message)
        }
    };
    Err(Failure::new(failure.exit, text))
}

/// What was written down before a change.
struct Kept {
    files: BTreeMap<PathBuf, String>,
}

impl Kept {
    fn of(directory: &Path) -> Result<Self, Failure> {
        let mut files = BTreeMap::new();
        for part in ["documents", "policies"] {
            let inside = directory.join(part);
            let entries =
                std::fs::read_dir(&inside).into_iter().flatten().flatten().map(|entry| entry.path());
            let index = inside.with_extension("names.json");
            for path in entries.chain([index, directory.join(STATE)]).filter(|path| path.is_file()) {
                let text = std::fs::read_to_string(&path)
                    .map_err(|why| Failure::new(Exit::Failed, format!("{}: {why}", path.display())))?;
                files.insert(path, text);
            }
        }
        Ok(Self { files })
    }

    async fn restore(&self, directory: &Path, state: &State) -> Result<(), Failure> {
        for part in ["documents", "policies"] {
            for entry in std::fs::read_dir(directory.join(part)).into_iter().flatten().flatten() {
                if !self.files.contains_key(&entry.path()) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        for (path, text) in &self.files {
            if !std::fs::read_to_string(path).is_ok_and(|now| now == *text) {
                replace(path, text)?;
            }
        }
        let client = client()?;
        let url = format!("{}/v1/policy/reload", state.url);
        client.post(&url).send().await.map_err(|why| unreachable(&url, &why))?;
        let _ = client.post(format!("http://{}{INDEX}", state.documents)).send().await;
        Ok(())
    }
}

async fn undeploy(options: &UndeployOptions, output: &mut Output) -> Result<(), Failure> {
    let directory = std::path::absolute(&options.state)?;
    let _lock = if directory.exists() { Some(alone(&directory)?) } else { None };
    let Some(state) = load(&directory)? else {
        return Err(Failure::new(Exit::NotFound, format!("nothing is deployed by {}", directory.display())));
    };
    if alive(&state) {
        terminate(state.pid);
        let begun = moment();
        while alive(&state) {
            if begun.elapsed() > FAREWELL {
                let text = format!("the process {} does not end after {} s", state.pid, FAREWELL.as_secs());
                return Err(Failure::new(Exit::Failed, text));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    for part in ["documents", "policies"] {
        let inside = directory.join(part);
        for file in written_before(&inside).keys() {
            let _ = std::fs::remove_file(inside.join(file));
        }
        let _ = std::fs::remove_dir(&inside);
        let _ = std::fs::remove_file(inside.with_extension("names.json"));
    }
    let _ = std::fs::remove_file(directory.join(STATE));
    output.text("nothing is deployed any more")?;
    Ok(())
}
