//! `homeostat documents`: the server of OCCI documents; `homeostat sensor`: one sensor that follows its documents.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::local::start_failure;
use super::log::start_log;
use super::{Common, Exit, Failure, Output};
use crate::api::Access;
use crate::daemon::{Causes, Daemon, Options};
use crate::dialects::occi::Extension;
use crate::dialects::occi::monitoring::{Names, Settings};
use crate::dialects::occi::server::documents::Library;
use crate::dialects::occi::server::follow::Follower;
use crate::dialects::occi::server::{Occi, documents, follow};
use crate::model::connector::EffectorSpec;
use crate::model::error::chain;
use crate::policy::load::Sources;
use crate::service::control::Control;

/// How long clients may take to go when it ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// The server of documents.
#[derive(Debug, Clone, Args)]
pub struct DocumentsOptions {
    /// Files of OCCI documents, and directories of them
    #[arg(required = true, value_name = "DOCS")]
    pub paths: Vec<PathBuf>,
    /// Where it is reached
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6789")]
    pub listen: SocketAddr,
}

/// A sensor.
#[derive(Debug, Clone, Args)]
pub struct SensorOptions {
    /// The identifier of the sensor
    #[arg(value_name = "ID")]
    pub id: String,
    /// The server of its documents
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:6789/")]
    pub documents: String,
    /// Where it is reached as an OCCI server, which shows it and changes nothing: its documents say what it is
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where to serve the native API, with its values; on loopback addresses only
    #[arg(long, value_name = "ADDR:PORT")]
    pub api: Option<SocketAddr>,
    /// Where decisions and knowledge are kept; without it they end with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What it publishes with.
    #[command(flatten)]
    pub means: Means,
}

/// What sensors publish with.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Means {
    /// Where mail of OCCI sensors is handed over
    #[arg(long, value_name = "URL", default_value = "smtp://127.0.0.1:25")]
    pub occi_mail: String,
    /// Who sends mail of OCCI sensors
    #[arg(long, value_name = "ADDRESS", default_value = "homeostat@localhost")]
    pub occi_from: String,
    /// A directory for databases that OCCI sensors write; none can be written, when absent
    #[arg(long, value_name = "DIR")]
    pub occi_data: Option<PathBuf>,
    /// A folder of plug-ins: programs and descriptions of sensors that OCCI collectors may use, each as a mixin; it is looked at while running
    #[arg(long, value_name = "DIR")]
    pub occi_plugins: Option<PathBuf>,
}

impl Means {
    /// The same from every directory.
    pub(super) fn absolute(self) -> std::io::Result<Self> {
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Self { occi_data: absolute(self.occi_data)?, occi_plugins: absolute(self.occi_plugins)?, ..self })
    }

    /// Refuses what no sensor could publish with, before one has something to say.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mail =
            json!({ "mail": { "server": self.occi_mail, "from": self.occi_from, "to": [self.occi_from] } });
        let mail: EffectorSpec =
            serde_json::from_value(mail).map_err(|why| Failure::new(Exit::Usage, why.to_string()))?;
        if let Some(why) = mail.problem() {
            return Err(Failure::new(Exit::Usage, format!("--occi-mail and --occi-from: {why}")));
        }
        match &self.occi_data {
            Some(directory) if directory.exists() && !directory.is_dir() => {
                let text = format!("--occi-data: {} is no directory", directory.display());
                Err(Failure::new(Exit::Usage, text))
            }
            _ => Ok(()),
        }
    }

    /// As [`Means::check`], and makes what is written into.
    pub(super) fn prepare(&self) -> Result<(), Failure> {
        self.check()?;
        match &self.occi_data {
            None => Ok(()),
            Some(directory) => std::fs::create_dir_all(directory).map_err(|why| {
                Failure::new(Exit::Failed, format!("--occi-data: {}: {why}", directory.display()))
            }),
        }
    }

    /// As the options that say so.
    pub(super) fn words(&self) -> Vec<String> {
        let directory =
            |path: &Option<PathBuf>| path.as_ref().map(|directory| directory.display().to_string());
        let options = [
            ("--occi-mail", Some(self.occi_mail.clone())),
            ("--occi-from", Some(self.occi_from.clone())),
            ("--occi-data", directory(&self.occi_data)),
            ("--occi-plugins", directory(&self.occi_plugins)),
        ];
        options
            .into_iter()
            .filter_map(|(option, value)| Some([option.to_string(), value?]))
            .flatten()
            .collect()
    }

    /// For the engine.
    pub fn settings(&self) -> Settings {
        Settings {
            names: Names::default(),
            mail: self.occi_mail.clone(),
            from: self.occi_from.clone(),
            data: self.occi_data.as_ref().map(|directory| directory.display().to_string()),
            plugins: self.occi_plugins.as_ref().map(|directory| directory.display().to_string()),
            ..Settings::default()
        }
    }
}

/// Seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "whether the time of a document has passed is asked when it is read"
)]
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

async fn bind(at: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(at).await;
    bound.map_err(|e| Failure::new(Exit::Failed, format!("cannot listen on {at}: {e}")))
}

/// As many descriptors as the system allows: each collector of a probe has a connection, and the usual limit is 1,024. Only for programs that start no
/// others, which would inherit it.
pub(super) fn many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(why) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%why, "the limit of descriptors stays as it is");
    }
}

/// Waits until somebody wants the process to end.
pub(super) async fn ended() -> std::io::Result<()> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}

fn listens(output: &mut Output, address: SocketAddr) -> std::io::Result<()> {
    match output.json {
        true => output.line(&json!({ "listens": address.to_string() })),
        false => output.text(&format!("listens on {address}")),
    }
}

pub(super) fn documents_boxed(options: DocumentsOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match serve_documents(options, &common, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

async fn serve_documents(
    options: DocumentsOptions,
    common: &Common,
    output: &mut Output,
) -> Result<(), Failure> {
    start_log(false, common, None);
    many_descriptors();
    // Before it is reached: who waits for it is not told of a server that ends at once.
    let library = Library::open(options.paths, options.listen, now)
        .map_err(|why| Failure::new(Exit::Usage, chain(&why)))?;
    let listener = bind(options.listen).await?;
    let address = listener.local_addr()?;
    listens(output, address)?;
    let stop = CancellationToken::new();
    let router = documents::router(library, now);
    let serving = tokio::spawn(crate::api::serve(listener, router, stop.clone().cancelled_owned()));
    ended().await?;
    stop.cancel();
    let _ = tokio::time::timeout(FAREWELL, serving).await;
    Ok(())
}

pub(super) fn sensor_boxed(options: SensorOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let mut output = Output::stdout(&common);
        match sensor(options, &common, &mut output).await {
            Ok(()) => Exit::Ok,
            Err(failure) => output.failure(&failure),
        }
    }
    .boxed()
}

async fn sensor(options: SensorOptions, common: &Common, output: &mut Output) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, chain(error));
    let url =
        reqwest::Url::parse(&options.documents).ok().filter(|url| url.scheme() == "http" && url.has_host());
    let url = url.ok_or_else(|| {
        let text = format!("--documents is `{}`; expected http://HOST:PORT/", options.documents);
        Failure::new(Exit::Usage, text)
    })?;
    options.means.prepare()?;
    start_log(false, common, None);
    many_descriptors();
    let listener = bind(options.listen).await?;
    let address = listener.local_addr()?;
    let api = match options.api {
        Some(at) if !at.ip().to_canonical().is_loopback() => {
            return Err(Failure::new(
                Exit::Usage,
                format!("--api is {at}; expected a loopback address: there are no tokens here"),
            ));
        }
        Some(at) => Some(bind(at).await?),
        None => None,
    };
    let (_leave, left) = mpsc::channel(1);
    let mut causes = Causes::new(&[], left);
    let starting = Daemon::start_from(Options::small(options.data_dir.clone()), Sources::default());
    let daemon = starting.await.map_err(|error| start_failure(error, output))?;
    let supervisor = daemon.supervisor().clone();
    let occi = Occi::start(supervisor, address, &Extension::ALL, options.means.settings()).await;
    let occi = occi.map_err(|e| failed(&e))?;
    let follower = Follower::new(occi.clone(), url, &options.id, now).map_err(|e| failed(&e))?;
    let stop = CancellationToken::new();
    let shown = follow::read_only(crate::dialects::occi::server::router(occi));
    let router = follow::router(follower.clone(), address.ip()).merge(shown);
    let serving = tokio::spawn(crate::api::serve(listener, router, stop.clone().cancelled_owned()));
    let following = tokio::spawn(async move { follower.run().await });
    let api = match api {
        None => None,
        Some(listener) => {
            tracing::info!(api = %listener.local_addr()?, "the native API");
            let control: Arc<dyn Control> = daemon.clone();
            let router = crate::api::router(control, Access::default());
            Some(tokio::spawn(crate::api::serve(listener, router, stop.clone().cancelled_owned())))
        }
    };
    listens(output, address)?;
    let late = daemon.run(&mut causes).await;
    following.abort();
    stop.cancel();
    for task in api.into_iter().chain([serving]) {
        let _ = tokio::time::timeout(FAREWELL, task).await;
    }
    for who in &late {
        tracing::warn!(who, "late; cut off");
    }
    Ok(())
}
