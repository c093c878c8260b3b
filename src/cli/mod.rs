//! The command line: what can be said, and who carries it out. Commands of this process are handed to [`Local`]; the others ask a running daemon.

pub mod client;
mod collect;
pub mod deploy;
pub mod fake;
mod foreign;
mod import;
pub mod input;
mod live;
pub mod local;
mod log;
mod modules;
pub mod occi;
pub mod options;
pub mod output;
mod pack;
mod probe;
mod remote;
mod sense;
pub mod sensor;
pub mod sink;
pub mod status;
mod trial;
pub mod why;
mod wrap;

use std::process::ExitCode;

use clap::CommandFactory;
use futures::future::BoxFuture;

pub use options::{
    CheckOptions, Cli, CollectOptions, Command, Common, Grant, MonitoringMode, PackOptions, ProbeOptions,
    ReplayOptions, RunOptions, SchemaKind, SchemaOptions, TestOptions, WrapOptions,
};
pub use output::Output;

/// How a command ended; documented in `docs/operating.md` and `homeostat --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; the answer is yes.
    Ok,
    /// 1: the answer is no: an SLO is violated, a value is missing, an action was not carried out, a test failed.
    No,
    /// 2: the command line, or a file that it names, is not right.
    Usage,
    /// 3: the daemon cannot be reached.
    Unreachable,
    /// 4: refused: policies or tests with errors, or a request that is not acceptable as things are.
    Refused,
    /// 5: there is no such service, metric, SLO, decision or entry.
    NotFound,
    /// 6: the token is missing, unknown, or not enough.
    Denied,
    /// 7: something failed here or in the daemon.
    Failed,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not end well: what to tell the user, and how to exit.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How to exit.
    pub exit: Exit,
    /// What to say.
    pub message: String,
    /// The problem document, when a daemon sent one; printed instead with `--json`.
    pub document: Option<serde_json::Value>,
}

impl Failure {
    /// A failure without a document.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), document: None }
    }
}

/// A reader that has seen enough (`… | head`) closes the pipe: no failure, and nothing to say.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

/// The commands that need no daemon, as functions, so that this module starts none itself.
#[derive(Clone, Copy)]
pub struct Local {
    /// `run`: the daemon.
    pub run: fn(RunOptions, Common) -> BoxFuture<'static, Exit>,
    /// `wrap`: a program with a membrane around it.
    pub wrap: fn(WrapOptions, Common) -> BoxFuture<'static, Exit>,
    /// `collect`: a collector for a server of Tower 4Clouds.
    pub collect: fn(CollectOptions, Common) -> BoxFuture<'static, Exit>,
    /// `pack`: a micro-container of a service.
    pub pack: fn(PackOptions, Common) -> BoxFuture<'static, Exit>,
    /// `check`: all errors of policies.
    pub check: fn(CheckOptions, Common) -> BoxFuture<'static, Exit>,
    /// `test`: the tests of policies.
    pub test: fn(TestOptions, Common) -> BoxFuture<'static, Exit>,
    /// `schema`: the JSON Schema of policies, tests or actions.
    pub schema: fn(SchemaOptions, Common) -> BoxFuture<'static, Exit>,
    /// `probe`: a container of collectors.
    pub probe: fn(ProbeOptions, Common) -> BoxFuture<'static, Exit>,
    /// `documents`: a server of OCCI documents.
    pub documents: fn(sensor::DocumentsOptions, Common) -> BoxFuture<'static, Exit>,
    /// `sensor`: a sensor that follows its documents.
    pub sensor: fn(sensor::SensorOptions, Common) -> BoxFuture<'static, Exit>,
    /// `deploy`: an infrastructure from its documents.
    pub deploy: fn(deploy::DeployOptions, Common) -> BoxFuture<'static, Exit>,
    /// `apply`, of OCCI documents: what is different.
    pub apply: fn(deploy::ApplyOptions, Common) -> BoxFuture<'static, Exit>,
    /// `undeploy`: its end.
    pub undeploy: fn(deploy::UndeployOptions, Common) -> BoxFuture<'static, Exit>,
    /// `replay`: a recording through the same turns.
    pub replay: fn(ReplayOptions, Common) -> BoxFuture<'static, Exit>,
}

/// Carries out the command and says how it ended.
pub async fn run(cli: Cli, local: Local) -> ExitCode {
    let mut output = Output::stdout(&cli.common);
    execute(cli, local, &mut output).await.into()
}

/// Carries out the command with its output to `output`; errors go to standard error, and with `--json` to `output`.
pub async fn execute(cli: Cli, local: Local, output: &mut Output) -> Exit {
    let Cli { common, daemon, command } = cli;
    match command {
        Command::Run(options) => (local.run)(options, common).await,
        Command::Wrap(options) => (local.wrap)(options, common).await,
        Command::Collect(options) => (local.collect)(options, common).await,
        Command::Pack(options) => (local.pack)(options, common).await,
        Command::Check(options) => (local.check)(options, common).await,
        Command::Test(options) => (local.test)(options, common).await,
        Command::Schema(options) => (local.schema)(options, common).await,
        Command::Replay(options) => (local.replay)(options, common).await,
        Command::Probe(options) => (local.probe)(options, common).await,
        Command::Documents(options) => (local.documents)(options, common).await,
        Command::Sensor(options) => (local.sensor)(options, common).await,
        Command::Deploy(options) => (local.deploy)(options, common).await,
        Command::Undeploy(options) => (local.undeploy)(options, common).await,
        Command::Ask(options::Ask::Apply { dir, dry_run, state }) if deploy::is_documents(&dir, &state) => {
            (local.apply)(deploy::ApplyOptions { documents: dir, state, dry_run }, common).await
        }
        Command::Import(options) => match import::import(&options, output) {
            Ok(exit) => exit,
            Err(failure) => output.failure(&failure),
        },
        Command::Sense(options) => sense::sense(options, common).await,
        Command::Fake(options) => match fake::serve(options).await {
            Ok(()) => Exit::Ok,
            Err(error) => output.failure(&error.into()),
        },
        Command::Sink(options) => match sink::sink(options, Output::stdout(&common)).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        },
        Command::Occi(command) => match occi::ask(command, output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "homeostat", &mut script);
            let told = output.text(&String::from_utf8_lossy(&script));
            told.map_or(Exit::Failed, |()| Exit::Ok)
        }
        Command::Ask(command) => match remote::ask(command, &daemon, output).await {
            Ok(exit) => exit,
            Err(failure) => output.failure(&failure),
        },
    }
}
