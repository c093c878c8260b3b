//! Everything that can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nagios_range::NagiosRange;

use super::fake::FakeOptions;
use super::sink::SinkOptions;
use crate::api::{Access, Role, check_listen};
use crate::model::endpoint::{Endpoint, parse_address};
use crate::model::{HumanDuration, Timestamp};
use crate::service::control::Component;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; the answer is yes
  1  the answer is no: an SLO is violated (status --check), a value is missing (get), an action was not carried out (send, approve),
     a test failed (test)
  2  the command line, or a file that it names, is not right
  3  the daemon cannot be reached
  4  refused: policies or tests with errors, or a request that is not acceptable as things are
  5  there is no such service, metric, SLO, decision or entry
  6  the token is missing, unknown, or not enough
  7  something failed here or in the daemon

Examples:
  homeostat run policies/host                     manage this machine
  homeostat status --watch                        look on
  homeostat why shop                              the last decisions, with their reasons
  homeostat get shop cost --max-age 5s
  homeostat apply policies/shop --dry-run         what would change?";

/// An autonomic control loop for any service: Monitor, Analyze, Plan and Execute, attached and changed while it runs.
#[derive(Debug, Clone, Parser)]
#[command(name = "homeostat", version, after_help = EXIT_CODES, max_term_width = 120)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// Where the daemon is.
    #[command(flatten)]
    pub daemon: DaemonOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Common {
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours; `auto` follows the terminal and NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Colour,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// When the output is a terminal and NO_COLOR is not set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where the daemon is, and how it knows who asks.
#[derive(Clone, Args)]
#[command(next_help_heading = "Asking a running daemon")]
pub struct DaemonOptions {
    /// Where the daemon listens
    #[arg(long, global = true, env = "HOMEOSTAT_URL", default_value = "http://127.0.0.1:7700")]
    pub url: String,
    /// The token (other users of this machine can see a command line: prefer the variable or a file)
    #[arg(
        long,
        global = true,
        env = "HOMEOSTAT_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub token: Option<String>,
    /// A file that contains the token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Tokens are never printed.
impl std::fmt::Debug for DaemonOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonOptions").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Start the daemon
    ///
    /// Reads the policies in the directories, manages the services they describe, and serves the API. In a terminal it shows a live
    /// screen, otherwise it writes log lines. Ctrl-C stops in order.
    #[command(after_help = "Example: homeostat run policies/host --data-dir ~/.local/share/homeostat")]
    Run(RunOptions),
    /// Start a program, stand in front of it, and measure every call
    ///
    /// Clients reach the program through --listen and cannot tell the difference; the API with all that is measured is on --manage. Ctrl-C
    /// ends the program, with everything that it started.
    ///
    /// With --live no program is started: homeostat stands in front of a service that runs already, and leaves it as it was.
    #[command(
        after_help = "Examples:\n  homeostat wrap --listen 127.0.0.1:8080 --to 127.0.0.1:9000 -- python3 -m http.server 9000\n  homeostat wrap --live --listen 127.0.0.1:9000"
    )]
    Wrap(WrapOptions),
    /// Make a micro-container of a service: a directory that runs anywhere
    ///
    /// The descriptor is a policy with a section `pack`. The directory holds the service, its policy, homeostat, a Containerfile, and a list of the
    /// modules that there are in it; what the descriptor does not ask for is not listening. `DIR/run` starts it.
    #[command(
        after_help = "Example: homeostat pack examples/micro-container/service.yaml -o adder && adder/run"
    )]
    Pack(PackOptions),
    /// Check policies and say every error
    #[command(after_help = "Example: homeostat check policies/shop && homeostat apply policies/shop")]
    Check(CheckOptions),
    /// Run the tests of policies
    ///
    /// A test (`*.test.yaml` beside the policies) says what comes in and what must come of it. It runs in a time of its own, in a moment, and
    /// touches nothing. Each directory is an application of its own.
    #[command(after_help = "Example: homeostat test policies/shop policies/host")]
    Test(TestOptions),
    /// Show what a rule file of Tower 4Clouds becomes
    ///
    /// Reads monitoring rules or QoS constraints (XML) and prints the policies that say the same, the rules that follow from the constraints,
    /// or what collectors are told.
    #[command(after_help = "Example: homeostat import rules.xml > policies/rules.yaml")]
    Import(ImportOptions),
    /// Collect data for a server of Tower 4Clouds
    ///
    /// Runs the policies as `run` does, without an API, and offers every metric of every service that has a `class` to the manager. Sensors without
    /// `every` run only while it asks for them. Every connection to it is made from here. Ctrl-C says farewell and stops in order.
    #[command(after_help = "Example: homeostat collect --manager http://127.0.0.1:8170 policies/host")]
    Collect(CollectOptions),
    /// Print the JSON Schema of policies, of their tests or of actions
    Schema(SchemaOptions),
    /// Feed a recording (run --record) through the same turns
    Replay(ReplayOptions),
    /// Read one sensor once, as a plug-in of Nagios does
    ///
    /// Prints one line with performance data. Exits with 0 (ok), 1 (warning), 2 (critical) or 3 (unknown).
    #[command(
        after_help = "Example: homeostat sense '{ host: disk_used_ratio }' --warning 0.8 --critical 0.9 --name disk"
    )]
    Sense(SenseOptions),
    /// Serve a fake service to try policies out on
    Fake(FakeOptions),
    /// Run collectors that OCCI sensors hand over, and send them what is measured here
    #[command(after_help = "Example: homeostat probe --listen 127.0.0.1:12312")]
    Probe(ProbeOptions),
    /// Run an infrastructure of OCCI documents
    ///
    /// Starts a server of the documents, a receiver for each address that data are sent to, a probe for each resource that is measured, and each sensor, as
    /// processes that only meet over the network. Ctrl-C ends them all. Said again while they run, it changes what is different, as `apply` does.
    #[command(
        after_help = "Examples:\n  homeostat deploy examples/occimon\n  homeostat apply examples/occimon                       after an edit\n  homeostat deploy examples/occimon --target compose > compose.yaml"
    )]
    Deploy(super::deploy::DeployOptions),
    /// End what was deployed with --detach
    #[command(after_help = "Example: homeostat undeploy")]
    Undeploy(super::deploy::UndeployOptions),
    /// Serve OCCI documents, one entity each
    #[command(after_help = "Example: homeostat documents examples/occimon --listen 127.0.0.1:6789")]
    Documents(super::sensor::DocumentsOptions),
    /// Run one OCCI sensor, as its documents say
    #[command(after_help = "Example: homeostat sensor urn:uuid:s1111 --documents http://127.0.0.1:6789/")]
    Sensor(super::sensor::SensorOptions),
    /// Ask a server of OCCI, or of OCCI documents
    #[command(subcommand, after_help = "Example: homeostat occi list http://127.0.0.1:6789")]
    Occi(super::occi::OcciCommand),
    /// Receive what publishers send, and print it
    #[command(after_help = "Example: homeostat sink smtp --listen 127.0.0.1:2525")]
    Sink(SinkOptions),
    /// Print a completion script for a shell
    #[command(after_help = "Example: homeostat completions bash > /etc/bash_completion.d/homeostat")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// What a running daemon is asked.
    #[command(flatten)]
    Ask(Ask),
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The policy directories; none is needed with --occi or --tower
    #[arg(required_unless_present_any = ["occi", "tower"], value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Where to serve the API; other addresses than loopback need a token
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR:PORT", overrides_with = "listen")]
    pub listen: SocketAddr,
    /// Where the record of decisions, changes by hand and knowledge are kept; without it they end with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keep every message with its time, for `replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// How many shards; as many as cores, when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,
    /// Admit a token: viewer=…, operator=… or pusher=… (repeatable; other users of this machine can see a command line: prefer --grants)
    #[arg(long, value_name = "ROLE=TOKEN")]
    pub grant: Vec<Grant>,
    /// A file of tokens, one `role=token` per line; `#` begins a comment
    #[arg(long, value_name = "FILE", env = "HOMEOSTAT_GRANTS")]
    pub grants: Option<PathBuf>,
    /// Write log lines even in a terminal
    #[arg(long, overrides_with = "log")]
    pub log: bool,
    /// Serve collectors, observers and rules of Tower 4Clouds here as well; they know no tokens, so everyone who reaches the address may do
    /// everything there (the original listens on port 8170)
    #[arg(long, value_name = "ADDR:PORT")]
    pub tower: Option<SocketAddr>,
    /// Serve clients of OCCI here as well; without --occi-users everyone who reaches the address may do everything there
    #[arg(long, value_name = "ADDR:PORT")]
    pub occi: Option<SocketAddr>,
    /// What OCCI offers besides the core model; all of it, when absent
    #[arg(long, value_name = "EXTENSION", value_delimiter = ',', requires = "occi")]
    pub occi_extensions: Vec<OcciExtension>,
    /// What OCCI sensors publish with.
    #[command(flatten)]
    pub occi_means: super::sensor::Means,
    /// A file of users of OCCI, their tokens and what is not for them; everybody may everything, when absent
    #[arg(long, value_name = "FILE", requires = "occi")]
    pub occi_users: Option<PathBuf>,
    /// Sensors as in the paper: only the server sets their time base, and clients say when they begin and end
    #[arg(long, requires = "occi")]
    pub occi_strict: bool,
    /// The list of modules of a micro-container (see pack): what it does not name is not started and does not listen, whatever policies say
    #[arg(long, value_name = "FILE")]
    pub modules: Option<PathBuf>,
}

/// The container of collectors.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeOptions {
    /// Where sensors reach it; everyone who does may let it measure
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:12312")]
    pub listen: SocketAddr,
    /// A folder of plug-ins that collectors may use, as of `run --occi-plugins`; it is looked at while running
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Where the /proc of the machine is mounted that is to be measured: that of the host, in a container
    #[arg(long, value_name = "DIR")]
    pub proc: Option<PathBuf>,
}

/// A part of OCCI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OcciExtension {
    /// Computes, networks, storages
    Infrastructure,
    /// Sensors and collectors
    Monitoring,
    /// Agreements
    Sla,
    /// Notifications
    Notification,
}

impl RunOptions {
    /// The tokens that open the API; refuses addresses that others can reach when there is none.
    ///
    /// # Errors
    /// A sentence: the file cannot be read, a line of it is malformed, or the address needs a token.
    pub fn access(&self) -> Result<Access, String> {
        access(&self.grant, self.grants.as_deref(), self.listen)
    }
}

fn access(grants: &[Grant], file: Option<&std::path::Path>, listen: SocketAddr) -> Result<Access, String> {
    let mut grants = grants.to_vec();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                grants.push(line.parse().map_err(|e| format!("{}:{}: {e}", path.display(), number + 1))?);
            }
        }
    }
    let access = Access { tokens: grants.into_iter().map(|g| (g.role, g.token)).collect() };
    check_listen(listen, &access)?;
    Ok(access)
}

/// `wrap`.
#[derive(Debug, Clone, Args)]
pub struct WrapOptions {
    /// Where clients reach the program
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Where the program itself listens: HOST:PORT (HTTP) or tcp://HOST:PORT
    #[arg(
        long,
        value_name = "ENDPOINT",
        value_parser = Endpoint::parse,
        required_unless_present = "live",
        conflicts_with = "live"
    )]
    pub to: Option<Endpoint>,
    /// Stand in front of the service that runs already and listens at --listen, and leave again, without dropping a connection (Linux)
    #[arg(long)]
    pub live: bool,
    /// --live: the process that is meant, if that is not clear
    #[arg(long, value_name = "PID", requires = "live", conflicts_with_all = ["to", "command"])]
    pub pid: Option<u32>,
    /// --live: it speaks something else than HTTP
    #[arg(long, requires = "live", conflicts_with_all = ["to", "command"])]
    pub tcp: bool,
    /// Where to serve the API; other addresses than loopback need a token
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR:PORT")]
    pub manage: SocketAddr,
    /// How observers learn of properties: by asking (polling), or also by subscriptions on interval or on change; all, when absent
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<MonitoringMode>,
    /// The name of the service; that of the program, when absent
    #[arg(long)]
    pub name: Option<String>,
    /// Where the record of decisions, changes by hand and knowledge are kept; without it they end with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Admit a token: viewer=…, operator=… or pusher=… (repeatable; other users of this machine can see a command line: prefer --grants)
    #[arg(long, value_name = "ROLE=TOKEN")]
    pub grant: Vec<Grant>,
    /// A file of tokens, one `role=token` per line; `#` begins a comment
    #[arg(long, value_name = "FILE", env = "HOMEOSTAT_GRANTS")]
    pub grants: Option<PathBuf>,
    /// The program and its arguments; no shell is involved
    #[arg(last = true, required_unless_present = "live", conflicts_with = "live", value_name = "PROGRAM")]
    pub command: Vec<String>,
}

impl WrapOptions {
    /// The tokens that open the API; refuses addresses that others can reach when there is none.
    ///
    /// # Errors
    /// A sentence: the file cannot be read, a line of it is malformed, or the address needs a token.
    pub fn access(&self) -> Result<Access, String> {
        access(&self.grant, self.grants.as_deref(), self.manage)
    }
}

/// What is put around a service so that it can be monitored (S4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MonitoringMode {
    /// The generic proxy.
    Polling,
    /// The generic proxy, and subscriptions on interval.
    Interval,
    /// The generic proxy, and subscriptions on change.
    Change,
}

impl MonitoringMode {
    /// The subscriptions that there are, as `manage.subscriptions` of a policy names them.
    pub fn subscriptions(self) -> &'static [&'static str] {
        match self {
            Self::Polling => &[],
            Self::Interval => &["interval"],
            Self::Change => &["change"],
        }
    }
}

/// `collect`.
#[derive(Debug, Clone, Args)]
pub struct CollectOptions {
    /// The policy directories
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Where the manager is, such as http://127.0.0.1:8170
    #[arg(long, value_name = "URL")]
    pub manager: String,
    /// After how long a silence the manager may forget what is registered here: at least 10s, or 0s: never
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = HumanDuration::parse)]
    pub keep_alive: HumanDuration,
    /// How often the manager is asked what to send, at least 10s; one that can tell of changes at once does so in between
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = HumanDuration::parse)]
    pub sync: HumanDuration,
    /// Where the record of decisions, changes by hand and knowledge are kept; without it they end with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How many shards; as many as cores, when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,
}

/// `pack`.
#[derive(Debug, Clone, Args)]
pub struct PackOptions {
    /// The descriptor: a policy with a section `pack`
    #[arg(value_name = "FILE")]
    pub descriptor: PathBuf,
    /// The directory to write; it must not exist, or be empty
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
}

/// `import`.
#[derive(Debug, Clone, Args)]
pub struct ImportOptions {
    /// Rules or constraints; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: ImportFormat,
}

/// What `import` prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// Policies, as YAML.
    #[default]
    Native,
    /// The rules, as XML.
    Xml,
    /// What collectors are told, as JSON.
    Collectors,
}

/// A token with the role of its holder.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// What the holder may do.
    pub role: Role,
    /// The token.
    pub token: String,
}

/// Tokens are never printed.
impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.role)
    }
}

impl std::str::FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('=').and_then(|(role, token)| Some((Role::parse(role.trim())?, token.trim())));
        match parsed {
            Some((role, token)) if !token.is_empty() => Ok(Self { role, token: token.into() }),
            _ => Err("expected viewer=TOKEN, operator=TOKEN or pusher=TOKEN".into()),
        }
    }
}

/// `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckOptions {
    /// The policy directories
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
}

/// `test`.
#[derive(Debug, Clone, Args)]
pub struct TestOptions {
    /// The policy directories; or a single `*.test.yaml` in one
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
}

/// `schema`.
#[derive(Debug, Clone, Args)]
pub struct SchemaOptions {
    /// Of what
    #[arg(value_enum, default_value_t)]
    pub what: SchemaKind,
}

/// Of what there is a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// A document of a policy file.
    #[default]
    Policy,
    /// A document of a test file.
    Test,
    /// An action.
    Action,
}

/// `sense`.
#[derive(Debug, Clone, Args)]
pub struct SenseOptions {
    /// The sensor, as a policy describes it, in YAML or JSON; `@FILE` reads a file
    pub sensor: String,
    /// What the value is called
    #[arg(long, default_value = "value")]
    pub name: String,
    /// The range of values that are no warning: END, START:, START:END, ~:END, or @START:END for those that are one
    #[arg(long, short, value_name = "RANGE", value_parser = range, allow_hyphen_values = true)]
    pub warning: Option<NagiosRange>,
    /// The range of values that are not critical
    #[arg(long, short, value_name = "RANGE", value_parser = range, allow_hyphen_values = true)]
    pub critical: Option<NagiosRange>,
}

fn range(text: &str) -> Result<NagiosRange, String> {
    NagiosRange::from(text).map_err(|_| "expected a range such as 10, 10:, 5:10, ~:10 or @5:10".into())
}

/// `replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayOptions {
    /// The recording
    pub file: PathBuf,
}

/// What a running daemon is asked.
#[derive(Debug, Clone, Subcommand)]
pub enum Ask {
    /// Show what is managed and how it is
    Status {
        /// A live screen; `q` leaves
        #[arg(long, short)]
        watch: bool,
        /// Exit with 1 when an SLO is violated or a service is quarantined
        #[arg(long, conflicts_with = "watch")]
        check: bool,
    },
    /// Find the services that provide something, and where they are
    #[command(after_help = "Example: homeostat discover --capability pay")]
    Discover {
        /// What they say under `provides`
        #[arg(long, short)]
        capability: String,
    },
    /// Read one metric of a service, or list all
    #[command(after_help = "Example: homeostat get shop cost --max-age 5s")]
    Get {
        /// The service
        service: String,
        /// The metric
        metric: Option<String>,
        /// The greatest age that will do; older, and upstream is asked
        #[arg(long, requires = "metric", value_parser = HumanDuration::parse)]
        max_age: Option<HumanDuration>,
    },
    /// Follow a metric until Ctrl-C
    #[command(after_help = "Example: homeostat watch shop cost --mode interval --interval 2s")]
    Watch {
        /// The service
        service: String,
        /// The metric
        metric: String,
        /// When to tell
        #[arg(long, value_enum, default_value_t)]
        mode: WatchMode,
        /// interval: how often
        #[arg(long, value_parser = HumanDuration::parse)]
        interval: Option<HumanDuration>,
        /// change, interval: not before this time
        #[arg(long, value_parser = HumanDuration::parse)]
        start: Option<HumanDuration>,
        /// change, interval: for how long
        #[arg(long, value_parser = HumanDuration::parse)]
        duration: Option<HumanDuration>,
        /// End after so many values
        #[arg(long, short = 'n')]
        count: Option<u64>,
    },
    /// List, add, remove, enable or disable SLOs
    #[command(subcommand)]
    Slo(Slo),
    /// Insert or remove a metric, or push values
    #[command(subcommand)]
    Metric(Metric),
    /// Attach a service, or one component of it, from a YAML or JSON file
    #[command(after_help = "Example: homeostat attach shop monitor.yaml --component monitor")]
    Attach {
        /// The service
        service: String,
        /// The file; `-` reads standard input. Scripts that it names are read from beside it
        file: PathBuf,
        /// Only this component; the file is its section
        #[arg(long, value_parser = component)]
        component: Option<Component>,
    },
    /// Detach a service, or one component of it
    Detach {
        /// The service
        service: String,
        /// Only this component
        #[arg(long, value_parser = component)]
        component: Option<Component>,
    },
    /// Replace the policies by those in a directory; or what was deployed, by OCCI documents
    #[command(after_help = "Example: homeostat apply policies/shop --dry-run")]
    Apply {
        /// The directory of policies; or a file or directory of OCCI documents
        dir: PathBuf,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Where it is kept what was deployed
        #[arg(long, value_name = "DIR", default_value = ".homeostat")]
        state: PathBuf,
    },
    /// Go back to the policies before the last change
    Rollback,
    /// Read the policy directories again
    Reload,
    /// Send an action, or a list of actions, to the executor of a service
    #[command(
        after_help = "Example: homeostat send shop '{\"set\": {\"property\": \"threads\", \"value\": 10}}'"
    )]
    Send {
        /// The service
        service: String,
        /// The action or the list, as JSON
        action: String,
    },
    /// Explain the last decisions
    Why {
        /// The service; all, when absent
        service: Option<String>,
        /// How many
        #[arg(long, short, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
        n: u16,
    },
    /// Carry out the plan that a decision proposes
    Approve {
        /// The service
        service: String,
        /// The number of the decision, as `why` shows it
        decision: u64,
    },
    /// Withdraw the plan that a decision proposes
    Reject {
        /// The service
        service: String,
        /// The number of the decision, as `why` shows it
        decision: u64,
    },
    /// Show components, wires and the backbone of monitors
    Topology,
    /// List what the running services use that is no part of homeostat: programs, scripts, registered connectors
    Plugins,
    /// Read and write the knowledge of a service
    #[command(subcommand)]
    Knowledge(Knowledge),
}

fn component(text: &str) -> Result<Component, String> {
    Component::parse(text).ok_or_else(|| "expected monitor, analyze, plan or execute".into())
}

/// When to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum WatchMode {
    /// At every new value.
    #[default]
    Update,
    /// When the value differs.
    Change,
    /// Every so often.
    Interval,
}

/// `slo …`.
#[derive(Debug, Clone, Subcommand)]
pub enum Slo {
    /// List the SLOs of a service with their states
    List {
        /// The service
        service: String,
    },
    /// Add an SLO
    #[command(after_help = "Example: homeostat slo add shop cheap 'cost < 30'")]
    Add {
        /// The service
        service: String,
        /// Its name
        slo: String,
        /// The objective, or the whole definition as YAML or JSON; `@FILE` reads a file
        definition: String,
    },
    /// Remove an SLO
    Remove {
        /// The service
        service: String,
        /// Its name
        slo: String,
    },
    /// Check an SLO again
    Enable {
        /// The service
        service: String,
        /// Its name
        slo: String,
    },
    /// Check an SLO no more
    Disable {
        /// The service
        service: String,
        /// Its name
        slo: String,
    },
}

/// `metric …`.
#[derive(Debug, Clone, Subcommand)]
pub enum Metric {
    /// Insert a metric
    #[command(
        after_help = "Example: homeostat metric insert shop p99 '{of: latency, aggregate: p99, over: 60s}'"
    )]
    Insert {
        /// The service
        service: String,
        /// Its name
        metric: String,
        /// An expression, or a definition as YAML or JSON; `@FILE` reads a file
        definition: String,
    },
    /// Remove a metric
    Remove {
        /// The service
        service: String,
        /// Its name
        metric: String,
    },
    /// Push values of a metric that takes them
    Push {
        /// The service
        service: String,
        /// The metric
        metric: String,
        /// The values
        #[arg(required = true, allow_negative_numbers = true)]
        values: Vec<f64>,
        /// When it was so; now, when absent
        #[arg(long, value_parser = Timestamp::parse)]
        at: Option<Timestamp>,
    },
}

/// `knowledge …`.
#[derive(Debug, Clone, Subcommand)]
pub enum Knowledge {
    /// Show all entries
    List {
        /// The service
        service: String,
    },
    /// Read an entry
    Get {
        /// The service
        service: String,
        /// Its key
        key: String,
    },
    /// Write an entry
    Put {
        /// The service
        service: String,
        /// Its key
        key: String,
        /// The value, as YAML or JSON; `@FILE` reads a file
        value: String,
    },
    /// Remove an entry
    Remove {
        /// The service
        service: String,
        /// Its key
        key: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_goes_with_live_is_refused_without_it_and_the_last_word_on_where_to_listen_counts() {
        let wrap = |args: &[&str]| {
            let all = ["homeostat", "wrap", "--listen", "127.0.0.1:1"].iter().chain(args).copied();
            Cli::try_parse_from(all).map(drop).map_err(|e| e.to_string())
        };
        let started = ["--to", "127.0.0.1:2", "--", "true"];
        for option in [&["--pid", "7"][..], &["--tcp"]] {
            assert!(wrap(&[option, &started].concat()).is_err_and(|e| e.contains(option[0])));
            assert!(wrap(option).is_err_and(|e| e.contains("--live")));
            assert_eq!(wrap(&[&["--live"], option].concat()), Ok(()));
        }
        assert_eq!(wrap(&started), Ok(()));
        let twice =
            ["homeostat", "run", "p", "--listen", "127.0.0.1:1", "--log", "--listen", "127.0.0.1:2", "--log"];
        let Command::Run(options) = Cli::try_parse_from(twice).expect("arguments").command else {
            panic!("run")
        };
        assert_eq!((options.listen.port(), options.log), (2, true));
    }

    #[test]
    fn a_daemon_without_tokens_stays_on_loopback() {
        let options = |args: &[&str]| {
            let all = ["homeostat", "run", "policies"].iter().chain(args).copied();
            match Cli::try_parse_from(all).expect("arguments").command {
                Command::Run(options) => options,
                other => panic!("{other:?}"),
            }
        };
        assert!(options(&[]).access().is_ok_and(|a| a.is_open()));
        assert!(options(&["--listen", "0.0.0.0:1"]).access().is_err_and(|e| e.contains("token")));
        let access =
            options(&["--listen", "0.0.0.0:1", "--grant", "viewer=a", "--grant", "operator=b=c"]).access();
        assert_eq!(
            access.expect("granted").tokens,
            [(Role::Viewer, "a".to_string()), (Role::Operator, "b=c".to_string())]
        );
        for bad in ["viewer", "admin=x", "viewer="] {
            assert!(bad.parse::<Grant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_of_tokens_may_have_comments_and_names_a_bad_line() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let with = |text: &str| {
            std::fs::write(file.path(), text).expect("write");
            let path = file.path().to_str().expect("path");
            match Cli::try_parse_from(["homeostat", "run", "p", "--grants", path]).expect("arguments").command
            {
                Command::Run(options) => options.access(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with("# who\nviewer = a\n\npusher=b\n").expect("tokens").tokens.len(), 2);
        assert!(with("viewer=a\nroot=b\n").is_err_and(|e| e.contains(":2:") && !e.contains("root=b")));
    }
}
