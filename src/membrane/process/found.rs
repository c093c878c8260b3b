//! A program that was started by a homeostat before this one: known again by more than its number, waited for and signalled without ever meaning another.

use std::os::fd::OwnedFd;

use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::records::Record;
use crate::model::process::ProcessSpec;

/// How often it is looked for what is left of a group that is killed: its processes may start others meanwhile.
const ROUNDS: usize = 16;

/// A process by a handle that never means another one, though its number be used again.
pub(super) struct Found {
    handle: AsyncFd<OwnedFd>,
    pid: i32,
    start: u64,
    session: i32,
}

/// Which start of the machine this is, and where numbers of processes mean what they mean here.
fn here() -> std::io::Result<(String, String)> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string();
    Ok((boot, std::fs::read_link("/proc/self/ns/pid")?.to_string_lossy().into_owned()))
}

/// What is to be kept of a process that was just started and has not ended.
///
/// # Errors
/// When the system does not tell it.
pub(super) fn record(service: &str, pid: u32, spec: &ProcessSpec) -> std::io::Result<Record> {
    let number = i32::try_from(pid).map_err(std::io::Error::other)?;
    let stat = stat(number).ok_or_else(|| std::io::Error::other("it has ended already"))?;
    let (boot, namespace) = here()?;
    Ok(Record {
        service: service.into(),
        boot,
        namespace,
        pid,
        start: stat.starttime,
        session: stat.session,
        ready: false,
        spec: spec.clone(),
    })
}

fn stat(pid: i32) -> Option<Stat> {
    Process::new(pid).and_then(|process| process.stat()).ok()
}

fn lives(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X')
}

/// A handle for a process, if that is still the one that was looked at: the handle comes first, then the look that counts.
fn handle(pid: i32, is_it: impl FnOnce(&Stat) -> bool) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    is_it(&stat(pid)?).then_some(handle)
}

impl Found {
    /// The process of a record, if it still runs. Must be called within a tokio runtime.
    pub(super) fn again(record: &Record) -> Option<Self> {
        let (boot, namespace) = here().ok()?;
        let pid = i32::try_from(record.pid).ok()?;
        if boot != record.boot || namespace != record.namespace {
            return None;
        }
        let is_it = |stat: &Stat| stat.starttime == record.start && stat.pgrp == pid && lives(stat);
        let handle = handle(pid, is_it)?;
        #[expect(
            deprecated,
            reason = "what takes its place is unsafe; an owned descriptor stays open as long as it is waited for"
        )]
        let handle = AsyncFd::with_interest(handle, Interest::READABLE).ok()?;
        Some(Self { handle, pid, start: record.start, session: record.session })
    }

    /// Waits for its end. What its exit code was, only its parent is told.
    pub(super) async fn ended(&self) -> String {
        match self.handle.readable().await {
            Ok(_) => "how is not known, as an earlier homeostat had started it".into(),
            Err(error) => error.to_string(),
        }
    }

    /// Sends a signal to all of its group, one by one and by handles. A request is sent once; a kill until none is left.
    pub(super) fn signal(&self, signal: Signal) {
        let rounds = if signal == Signal::KILL { ROUNDS } else { 1 };
        for _ in 0..rounds {
            let members = self.members();
            if members.is_empty() {
                return;
            }
            for member in members {
                // It may have ended, which is what is wanted.
                let _ = pidfd_send_signal(&member, signal);
            }
        }
    }

    /// Those of its group that live.
    fn members(&self) -> Vec<OwnedFd> {
        // Its number leads another group now, which is possible only once nobody was left in this one.
        if stat(self.pid).is_some_and(|leader| leader.starttime != self.start) {
            return Vec::new();
        }
        let ours = |stat: &Stat| {
            stat.pgrp == self.pid
                && stat.session == self.session
                && stat.starttime >= self.start
                && lives(stat)
        };
        let all = procfs::process::all_processes().into_iter().flatten().flatten();
        let found = all.filter(|process| process.stat().is_ok_and(|stat| ours(&stat)));
        found.filter_map(|process| handle(process.pid, ours)).collect()
    }
}
