//! `homeostat test`: runs the tests that lie beside policies, and says which of them fail, and where.

use std::path::{Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::local::tell_problems;
use super::output::Tone;
use super::{Common, Exit, Failure, Output, TestOptions};
use crate::policy::diagnostics::Problem;
use crate::policy::load::{Sources, home_of, is_trial};
use crate::policy::set::PolicySet;
use crate::policy::tree::Place;
use crate::policy::trial::{Trial, parse};
use crate::service::trial::{Tried, try_all};

/// An application with its tests.
struct Application {
    /// The directory, as given.
    shown: String,
    set: PolicySet,
    trials: Vec<Trial>,
}

/// The command, for [`super::run`].
pub(super) fn test_boxed(options: TestOptions, common: Common) -> BoxFuture<'static, Exit> {
    async move {
        let work = move || {
            let mut output = Output::stdout(&common);
            test(&options.dirs, &mut output).unwrap_or_else(|failure| output.failure(&failure))
        };
        let result = tokio::task::spawn_blocking(work).await;
        let failed = |error: tokio::task::JoinError| Failure::new(Exit::Failed, error.to_string());
        result.unwrap_or_else(|error| Output::stdout(&common).failure(&failed(error)))
    }
    .boxed()
}

fn test(dirs: &[PathBuf], output: &mut Output) -> Result<Exit, Failure> {
    let (mut applications, mut refused) = (Vec::new(), false);
    for dir in dirs {
        match read(dir) {
            Ok(application) => applications.push(application),
            Err((sources, problems)) => {
                refused = true;
                tell_problems(output, &sources, &problems)?;
            }
        }
    }
    // Half of the answer would look like a whole one.
    if refused {
        return Ok(Exit::Refused);
    }
    let mut tried = Vec::new();
    for application in &applications {
        for one in try_all(&application.trials, &application.set)? {
            if !output.json {
                output.text(&shown(&application.shown, &one, output))?;
            }
            tried.push(one);
        }
    }
    tell(&tried, output)
}

/// The policies and tests of a directory, or one file of tests with the policies beside it; or what is wrong with them, and their texts.
fn read(place: &Path) -> Result<Application, (Sources, Vec<Problem>)> {
    let single = place.file_name().and_then(|name| name.to_str()).is_some_and(is_trial) && !place.is_dir();
    let dir = if single { home_of(place) } else { place.to_path_buf() };
    let sources = Sources::read(std::slice::from_ref(&dir));
    let (set, _) = PolicySet::from_sources(&sources, None).map_err(|problems| (sources, problems))?;
    let files = Sources::read_trials(place);
    let mut problems = files.problems.clone();
    if files.files.is_empty() && problems.is_empty() {
        let message = format!("{}: there is no test", place.display());
        let hint = "tests stand in files `*.test.yaml` beside the policies".to_string();
        problems.push(Problem::error("no-tests", Place::default(), message).hint(hint));
    }
    let mut trials = Vec::new();
    for file in &files.files {
        match parse(file, &set) {
            Ok(more) => trials.extend(more),
            Err(mistakes) => problems.extend(mistakes),
        }
    }
    match problems.is_empty() {
        true => Ok(Application { shown: dir.to_string_lossy().into_owned(), set, trials }),
        false => Err((files, problems)),
    }
}

fn shown(dir: &str, one: &Tried, output: &Output) -> String {
    let dir = dir.trim_end_matches('/');
    if one.failures.is_empty() {
        return format!("{} {dir}: {}", output.paint.toned(Tone::Good, "ok"), one.test);
    }
    let mut text = format!("{} {dir}: {}", output.paint.toned(Tone::Bad, "FAILED"), one.test);
    for failure in &one.failures {
        text.push_str(&format!("\n  {}:{}:{}: {}", one.file, failure.line, failure.column, failure.message));
    }
    text
}

fn tell(tried: &[Tried], output: &mut Output) -> Result<Exit, Failure> {
    let failed = tried.iter().filter(|one| !one.failures.is_empty()).count();
    if output.json {
        let passed = tried.len() - failed;
        output.value(
            &serde_json::json!({ "ok": failed == 0, "passed": passed, "failed": failed, "tests": tried }),
        )?;
    } else {
        let tests = if tried.len() == 1 { "test" } else { "tests" };
        match failed {
            0 => output.text(&format!("{} {tests} passed", tried.len()))?,
            _ => output.text(&format!("{} {tests}, {failed} failed", tried.len()))?,
        }
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::No })
}
