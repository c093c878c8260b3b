//! The process: it opens the record, starts the shell, reads the policies, and then folds over its causes. It decides nothing about a service.
//!
//! Reading order: [`Daemon::start`] here, `causes` (what can happen to the process), `control` (what surfaces may ask of it).

mod causes;
mod control;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

pub use causes::{Cause, Causes};

use crate::connectors::Connectors;
use crate::knowledge::record::RecordError;
use crate::knowledge::store::{Store, StoreError};
use crate::model::PortError;
use crate::policy::diagnostics::Problem;
use crate::policy::load::{Changed, Sources};
use crate::policy::set::PolicySet;
use crate::service::control::{Applied, ChangeError, Refusal};
use crate::service::record::Tape;
use crate::service::shell::{Setting, Shell};
use crate::service::supervisor::Supervisor;

/// Two calls to stop within this time are one.
const SAME_CALL: Duration = Duration::from_millis(50);

/// How long stopping may take before what is late is cut off.
pub const STOP_TIME: Duration = Duration::from_secs(10);

/// The time between two looks at files that have changed.
const PAUSE: Duration = Duration::from_millis(50);

/// How many looks at files that keep changing there are.
const LOOKS: u32 = 40;

/// What a daemon is started with.
pub struct Options {
    /// The policy directories.
    pub dirs: Vec<PathBuf>,
    /// Where the record is kept; in memory, when absent.
    pub data_dir: Option<PathBuf>,
    /// Where messages are recorded for replay.
    pub record: Option<PathBuf>,
    /// How many shards; as many as cores, when absent.
    pub shards: Option<usize>,
    /// The sensors and effectors there are.
    pub connectors: Connectors,
}

impl Options {
    /// Of few services whose policies are in no directory.
    pub fn small(data_dir: Option<PathBuf>) -> Self {
        let connectors = Connectors::new();
        Self { dirs: Vec::new(), data_dir, record: None, shards: Some(1), connectors }
    }
}

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policies have errors; nothing mends that but a correction.
    #[error("the policies are refused")]
    Policies(Box<Sources>, Vec<Problem>),
    /// The policies have errors that show only beside the changes made by hand.
    #[error("the policies are refused beside the changes made by hand: {}", .0.problems.join("; "))]
    Refused(Refusal),
    /// The record cannot be opened.
    #[error("the record cannot be opened")]
    Store(#[from] StoreError),
    /// The file for the recording cannot be created.
    #[error("the recording cannot be created")]
    Record(#[from] RecordError),
    /// There is no place for what is kept of programs that survive homeostat.
    #[error("the directory `processes` in the data directory cannot be used")]
    Processes(#[source] std::io::Error),
    /// The operating system gives no threads.
    #[error("the shards cannot be started")]
    Threads(#[from] std::io::Error),
    /// Anything else.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A running homeostat.
pub struct Daemon {
    supervisor: Arc<Supervisor>,
    #[cfg(feature = "forecast")]
    _forecaster: crate::service::forecaster::Forecaster,
    dirs: Vec<PathBuf>,
    /// What was read last. Locked for one change of policies at a time, from reading to applying.
    changing: Mutex<Option<Sources>>,
}

impl Daemon {
    /// Opens the record, reads the policies and lets them run. Starting is a reload from nothing.
    ///
    /// # Errors
    /// When something it needs is not there or not right; nothing is left running then.
    pub async fn start(options: Options) -> Result<Arc<Self>, StartError> {
        let read = read(options.dirs.clone(), Changed::Everything, None, None).await;
        Self::start_with(options, read).await
    }

    /// As [`Daemon::start`], with policies that are in no directory; they are what `dirs`, which is to be empty, would contain.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn start_from(options: Options, sources: Sources) -> Result<Arc<Self>, StartError> {
        let read = read(Vec::new(), Changed::Everything, Some(sources), None).await;
        Self::start_with(options, read).await
    }

    async fn start_with(options: Options, (sources, read): (Sources, Read)) -> Result<Arc<Self>, StartError> {
        let (set, warnings) = match read {
            Ok(read) => read,
            Err(problems) => return Err(StartError::Policies(Box::new(sources), problems)),
        };
        let store = match &options.data_dir {
            Some(dir) => Store::open(dir)?,
            None => Store::in_memory()?,
        };
        let shards =
            options.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let tape = match &options.record {
            Some(path) => Tape::create(path, shards)?,
            None => Tape::off(),
        };
        let shell = Shell::start(Setting { shards, connectors: options.connectors, store, tape })?;
        if let Some(dir) = &options.data_dir
            && let Err(error) = shell.processes().keep_in(&dir.join("processes"))
        {
            shell.stop(STOP_TIME).await;
            return Err(StartError::Processes(error));
        }
        let supervisor = Arc::new(Supervisor::new(shell));
        let daemon = Self {
            #[cfg(feature = "forecast")]
            _forecaster: crate::service::forecaster::Forecaster::start(supervisor.shell()),
            supervisor,
            dirs: options.dirs,
            changing: Mutex::new(Some(sources)),
        };
        match daemon.begin(set, &warnings).await {
            Ok(()) => Ok(Arc::new(daemon)),
            Err(error) => {
                daemon.supervisor.shell().stop(STOP_TIME).await;
                Err(error)
            }
        }
    }

    async fn begin(&self, set: PolicySet, warnings: &[Problem]) -> Result<(), StartError> {
        self.supervisor.restore().await?;
        let settled = self.supervisor.reconcile(&set).await?;
        if settled > 0 {
            tracing::warn!(actions = settled, "actions that the last stop interrupted were settled");
        }
        match self.supervisor.apply(set, warnings).await {
            Ok(_) => {
                self.supervisor.set_ready(true);
                Ok(())
            }
            Err(ChangeError::Refused(refusal)) => Err(StartError::Refused(refusal)),
            Err(ChangeError::Port(error)) => Err(error.into()),
        }
    }

    /// The set of services.
    pub fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    /// Folds over causes until one ends the process; answers with who was late.
    pub async fn run(&self, causes: &mut Causes) -> Vec<String> {
        while let Some(cause) = causes.next().await {
            tracing::debug!(?cause, "cause");
            let work = async {
                match &cause {
                    Cause::PoliciesChanged(changed) => {
                        settled(changed).await;
                        self.follow(changed).await;
                    }
                    _ => self.follow(&Changed::Everything).await,
                }
            };
            if cause == Cause::Stop {
                break;
            }
            // A reload, however large, does not make a stop wait.
            tokio::select! {
                () = work => {}
                () = causes.stop() => break,
            }
        }
        self.stop(causes).await
    }

    async fn follow(&self, changed: &Changed) {
        if let Err(error) = self.read_again(changed).await {
            tracing::error!(%error, "the policies keep running as they were");
        }
    }

    /// Stops in order. A second call to stop while it does cuts everything off.
    async fn stop(&self, causes: &mut Causes) -> Vec<String> {
        self.supervisor.set_ready(false);
        self.supervisor.shell().tell("daemon", None, "stopping: sensors, turns, steps".into());
        tokio::select! {
            late = self.supervisor.shell().stop(STOP_TIME) => late,
            () = stop_again(causes) => vec!["everything: stopped by a second interrupt".into()],
        }
    }

    /// Reads what changed in the policy directories again and applies the difference.
    ///
    /// # Errors
    /// Every mistake; what runs keeps running.
    pub async fn read_again(&self, changed: &Changed) -> Result<Applied, ChangeError> {
        let mut known = self.changing.lock().await;
        let before = self.supervisor.files().await;
        let (sources, read) = read(self.dirs.clone(), changed.clone(), known.take(), Some(before)).await;
        *known = Some(sources);
        self.take(read).await
    }

    /// Applies policies that are in no directory in place of those that were.
    ///
    /// # Errors
    /// Every mistake; what runs keeps running.
    pub async fn replace(&self, sources: Sources) -> Result<Applied, ChangeError> {
        let mut known = self.changing.lock().await;
        let before = self.supervisor.files().await;
        let (sources, read) = read(Vec::new(), Changed::Everything, Some(sources), Some(before)).await;
        *known = Some(sources);
        self.take(read).await
    }

    /// Applies what was read, or takes note that it was refused.
    async fn take(
        &self,
        read: Result<(PolicySet, Vec<Problem>), Vec<Problem>>,
    ) -> Result<Applied, ChangeError> {
        match read {
            Ok((set, warnings)) => self.supervisor.apply(set, &warnings).await,
            Err(problems) => Err(self.supervisor.refuse(&problems).into()),
        }
    }
}

/// Waits for a second call to stop. One that comes at once with the first is the same call: some tools signal a process and its group.
async fn stop_again(causes: &mut Causes) {
    let _ = tokio::time::timeout(SAME_CALL, causes.stop()).await;
    causes.stop().await;
}

/// Waits until two looks at the changed files see the same: what is being written is not taken for what is meant. Gives up when that
/// does not end.
async fn settled(changed: &Changed) {
    let Changed::Files(paths) = changed else { return };
    let look = || {
        let paths = paths.clone();
        tokio::task::spawn_blocking(move || paths.iter().map(|p| std::fs::read(p).ok()).collect::<Vec<_>>())
    };
    let mut before = look().await.unwrap_or_default();
    for _ in 0..LOOKS {
        tokio::time::sleep(PAUSE).await;
        let now = look().await.unwrap_or_default();
        if now == before {
            return;
        }
        before = now;
    }
}

type Read = Result<(PolicySet, Vec<Problem>), Vec<Problem>>;

/// Reads and compiles aside, so that no turn waits for it.
async fn read(
    dirs: Vec<PathBuf>,
    changed: Changed,
    known: Option<Sources>,
    before: Option<PolicySet>,
) -> (Sources, Read) {
    let work = move || {
        let sources = match known {
            // Policies that are in no directory stay what they were.
            Some(known) if dirs.is_empty() => known,
            Some(known) => known.refresh(&dirs, &changed),
            None => Sources::read(&dirs),
        };
        let set = PolicySet::from_sources(&sources, before.as_ref());
        (sources, set)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            let problem = Problem::error(
                "internal",
                Default::default(),
                format!("reading the policies panicked: {error}"),
            );
            (Sources::default(), Err(vec![problem]))
        }
    }
}
