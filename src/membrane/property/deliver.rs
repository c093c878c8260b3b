//! How somebody is told: a subscriber by a call back, a service by a program or a signal.

use std::time::Duration;

use tokio::sync::mpsc;

use super::channel::Letterbox;
use super::cloud::CloudEvent;
use super::{Counters, Notification, Property, TIMEOUT};
use crate::model::manage::{SignalName, Tell};

/// How often one notification is tried.
const TRIES: u32 = 5;

/// How long to wait after the first try that failed; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// A subscriber to whom so many notifications in a row could not be brought is one no more.
const GIVEN_UP: u32 = 20;

/// By which way notifications go.
pub(super) enum Door {
    /// To this URL, over whatever connection is free.
    Any(String),
    /// Over a connection that is for this.
    Channel(Letterbox),
}

/// How one try went.
#[derive(Debug, Clone)]
pub(super) enum Tried {
    /// The subscriber has it.
    Taken,
    /// It may be taken later.
    Later(String),
    /// It never will.
    Never(String),
    /// The subscriber is no more.
    Gone,
}

impl Tried {
    /// What an answer says.
    pub(super) fn by(status: u16) -> Self {
        match status {
            200..300 => Self::Taken,
            410 => Self::Gone,
            408 | 429 | 500.. => Self::Later(format!("answered {status}")),
            _ => Self::Never(format!("answered {status}")),
        }
    }
}

/// Calls back with every notification, in order, until there are no more.
pub(super) async fn deliver(
    property: &Property,
    door: &Door,
    mut notifications: mpsc::Receiver<Notification>,
    counters: &Counters,
    (id, changes): (u64, bool),
) {
    let (mut lost_in_a_row, mut number) = (0, 0);
    while let Some(notification) = notifications.recv().await {
        number += 1;
        let event = CloudEvent::new(&notification, changes, id, number);
        match one(property, door, &event, counters).await {
            Tried::Taken => {
                lost_in_a_row = 0;
                property.count(counters, |c| &c.delivered, 1);
            }
            Tried::Gone => {
                tracing::info!(property = %property.name, subscription = id, "the subscriber is gone");
                return;
            }
            Tried::Later(why) | Tried::Never(why) => {
                lost_in_a_row += 1;
                property.count(counters, |c| &c.dropped, 1);
                tracing::warn!(
                    service = %property.service, property = %property.name, subscription = id, why,
                    "a notification could not be brought and is dropped"
                );
                if lost_in_a_row >= GIVEN_UP {
                    tracing::warn!(property = %property.name, subscription = id, "the subscription is ended");
                    return;
                }
            }
        }
    }
}

async fn one(property: &Property, door: &Door, event: &CloudEvent, counters: &Counters) -> Tried {
    let mut pause = PAUSE;
    let mut tried = 1;
    loop {
        let went = tokio::select! {
            went = bring(&property.shared.client, door, event) => went,
            () = property.gone.cancelled() => return Tried::Gone,
        };
        match went {
            Tried::Later(why) if tried == TRIES => return Tried::Never(format!("{why}, {TRIES} times")),
            Tried::Later(_) => {
                tried += 1;
                property.count(counters, |c| &c.retried, 1);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = property.gone.cancelled() => return Tried::Gone,
                }
                pause *= 2;
            }
            other => return other,
        }
    }
}

async fn bring(client: &reqwest::Client, door: &Door, event: &CloudEvent) -> Tried {
    let url = match door {
        Door::Channel(letterbox) => return letterbox.post(event.clone()).await,
        Door::Any(url) => url,
    };
    let sent = client.post(url).timeout(TIMEOUT).headers(event.headers()).body(event.data()).send().await;
    match sent {
        Err(error) => Tried::Later(error.without_url().to_string()),
        Ok(answer) => {
            let status = answer.status().as_u16();
            // What is not read to its end takes its connection with it.
            let _ = answer.bytes().await;
            Tried::by(status)
        }
    }
}

/// Tells a service that its configuration file was changed.
pub(super) async fn tell(tell: &Tell) -> Result<(), String> {
    if let (Some(signal), Some(file)) = (tell.signal, &tell.pid_file) {
        let text = tokio::fs::read_to_string(file).await.map_err(|e| format!("`{file}`: {e}"))?;
        return send(signal, text.trim()).map_err(|why| format!("`{file}`: {why}"));
    }
    let Some((program, arguments)) = tell.exec.split_first() else { return Ok(()) };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TIMEOUT, command.output()).await {
        Err(_) => Err(format!("`{program}` took longer than {} s", TIMEOUT.as_secs())),
        Ok(Err(error)) => Err(format!("`{program}`: {error}")),
        Ok(Ok(done)) if done.status.success() => Ok(()),
        Ok(Ok(done)) => {
            let said: String = String::from_utf8_lossy(&done.stderr).trim().chars().take(200).collect();
            Err(format!("`{program}`: {} {said}", done.status))
        }
    }
}

#[cfg(unix)]
pub(super) fn send(signal: SignalName, pid: &str) -> Result<(), String> {
    use rustix::process::{Pid, Signal, kill_process};
    let number = pid.parse::<i32>().ok().filter(|n| *n > 1).and_then(Pid::from_raw);
    let process = number.ok_or_else(|| format!("`{pid}` is no number of a process"))?;
    let signal = match signal {
        SignalName::Hup => Signal::HUP,
        SignalName::Usr1 => Signal::USR1,
        SignalName::Usr2 => Signal::USR2,
    };
    kill_process(process, signal).map_err(|e| e.to_string())
}

#[cfg(not(unix))]
pub(super) fn send(_: SignalName, _: &str) -> Result<(), String> {
    Err("there are no signals on this system".into())
}
