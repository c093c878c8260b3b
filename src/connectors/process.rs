//! Processes of this machine: by name, by number, or the largest. From procfs on Linux, from `sysinfo` elsewhere (without descriptors).
//! A process that vanishes while it is looked at is left out.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::cached::{Cached, Look, WARM_UP};
use crate::model::Measurement;
use crate::model::connector::{ConnectorError, ProcessQuantity, ProcessSensor, Sensor};

/// The shared look at all processes.
#[derive(Default)]
pub(super) struct Processes {
    all: Cached<Table>,
}

/// All processes, and how many cores they share.
struct Table {
    cores: f64,
    rows: HashMap<u32, Row>,
}

/// One process.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    /// Its process group; 0 where that is not known.
    group: u32,
    /// The name in full, where the kernel's is cut off.
    full_name: Option<String>,
    /// When it started, in the machine's own unit: tells two processes with one number apart.
    started: u64,
    /// CPU time used so far, seconds.
    cpu: f64,
    rss: f64,
    threads: f64,
}

/// The process group of the service's own program, while it runs.
pub(super) type Own = Box<dyn Fn() -> Option<u32> + Send + Sync>;

/// Reads one quantity of one, several or the largest processes.
pub(super) struct ProcessReader {
    processes: Arc<Processes>,
    spec: ProcessSensor,
    own: Own,
    previous: Option<Look<Table>>,
}

impl ProcessReader {
    pub(super) fn new(spec: &ProcessSensor, processes: Arc<Processes>, own: Own) -> Self {
        Self { processes, spec: spec.clone(), own, previous: None }
    }

    /// The table now and, for CPU, the one of the poll before; the first poll waits to have two.
    async fn tables(&mut self) -> Result<(Look<Table>, Look<Table>), ConnectorError> {
        if self.spec.what != ProcessQuantity::Cpu {
            let now = self.processes.all.get(table).await?;
            return Ok((now.clone(), now));
        }
        let previous = match self.previous.clone() {
            Some(previous) => previous,
            None => {
                let first = self.processes.all.get(table).await?;
                self.previous = Some(first.clone());
                tokio::time::sleep(WARM_UP).await;
                first
            }
        };
        Ok((previous, self.processes.all.get(table).await?))
    }
}

#[async_trait]
impl Sensor for ProcessReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let (before, now) = self.tables().await?;
        if self.spec.what == ProcessQuantity::Cpu {
            if now.at <= before.at {
                // Polled again before a new look was due: the answer is in the next one.
                return Ok(Vec::new());
            }
            self.previous = Some(now.clone());
        }
        let (spec, group) = (self.spec.clone(), (self.own)());
        let task = tokio::task::spawn_blocking(move || measure(&spec, group, &before, &now));
        task.await
            .unwrap_or_else(|e| Err(ConnectorError::Unreachable(format!("reading processes broke off: {e}"))))
    }
}

/// Looks up descriptors, so it may block.
fn measure(
    spec: &ProcessSensor,
    group: Option<u32>,
    before: &Look<Table>,
    now: &Look<Table>,
) -> Result<Vec<Measurement>, ConnectorError> {
    let seconds = (now.at - before.at).as_secs_f64();
    let chosen: Vec<(u32, &Row)> = now
        .seen
        .rows
        .iter()
        .map(|(pid, row)| (*pid, row))
        .filter(|(pid, row)| if spec.own { group == Some(row.group) } else { matches(spec, *pid, row) })
        .collect();
    if spec.what == ProcessQuantity::Count {
        return Ok(vec![Measurement::value(chosen.len() as f64)]);
    }
    if chosen.is_empty() {
        return Err(nobody(spec));
    }
    let mut problem = None;
    let mut values = Vec::new();
    for (pid, row) in chosen {
        let value = match spec.what {
            ProcessQuantity::Cpu => Ok(Some(cpu_percent(pid, row, &before.seen, seconds, now.seen.cores))),
            ProcessQuantity::Rss => Ok(Some(row.rss)),
            ProcessQuantity::Threads => Ok(Some(row.threads)),
            _ => descriptors(pid),
        };
        match value {
            Ok(Some(value)) => values.push((pid, row, value)),
            Ok(None) => {}
            Err(error) => problem = Some(error),
        }
    }
    match (spec.top, problem) {
        // Of the largest, those that may not be looked at are left out; of the named ones, a sum without them would be wrong.
        (None, Some(problem)) => Err(problem),
        (Some(_), Some(problem)) if values.is_empty() => Err(problem),
        _ if values.is_empty() => Err(nobody(spec)),
        (None, None) => Ok(vec![Measurement::value(values.iter().map(|(_, _, value)| value).sum())]),
        (Some(top), _) => Ok(largest(values, top)),
    }
}

/// The largest first as headline, then each as a member; equal ones in the order of their numbers.
fn largest(mut values: Vec<(u32, &Row, f64)>, top: usize) -> Vec<Measurement> {
    values.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let headline = values.first().map(|(_, _, value)| Measurement::value(*value));
    let members = values.iter().take(top).map(|(pid, row, value)| Measurement {
        output: None,
        label: Some(Arc::from(format!("{}({pid})", row.name))),
        value: *value,
        at: None,
    });
    headline.into_iter().chain(members).collect()
}

fn matches(spec: &ProcessSensor, pid: u32, row: &Row) -> bool {
    match (&spec.name, spec.pid) {
        (Some(name), _) => row.name == *name || row.full_name.as_ref() == Some(name),
        (None, Some(wanted)) => pid == wanted,
        (None, None) => true,
    }
}

fn nobody(spec: &ProcessSensor) -> ConnectorError {
    ConnectorError::Answer(match (&spec.name, spec.pid) {
        _ if spec.own => "the process of the service does not run".to_string(),
        (Some(name), _) => format!("no process is called `{name}`"),
        (None, Some(pid)) => format!("there is no process {pid}"),
        (None, None) => "there are no processes to be seen".to_string(),
    })
}

/// Percent of the whole machine. A process that is not in the table before has used all its time since.
fn cpu_percent(pid: u32, row: &Row, before: &Table, seconds: f64, cores: f64) -> f64 {
    let earlier = before.rows.get(&pid).filter(|r| r.started == row.started).map_or(0.0, |r| r.cpu);
    let percent = 100.0 * (row.cpu - earlier) / (seconds * cores);
    if percent.is_finite() { percent.clamp(0.0, 100.0) } else { 0.0 }
}

#[cfg(target_os = "linux")]
fn table() -> Result<Table, ConnectorError> {
    use procfs::CurrentSI;
    let failed = |e| ConnectorError::Answer(format!("the list of processes cannot be read: {e}"));
    let second = procfs::ticks_per_second() as f64;
    let page = procfs::page_size() as f64;
    let mut rows = HashMap::new();
    for process in procfs::process::all_processes().map_err(failed)? {
        // Gone between listing and reading: left out.
        let Ok(process) = process else { continue };
        let Ok(stat) = process.stat() else { continue };
        let Ok(pid) = u32::try_from(stat.pid) else { continue };
        let row = Row {
            group: u32::try_from(stat.pgrp).unwrap_or(0),
            full_name: full_name(&process, &stat.comm),
            started: stat.starttime,
            cpu: (stat.utime + stat.stime) as f64 / second,
            rss: stat.rss as f64 * page,
            threads: stat.num_threads as f64,
            name: stat.comm,
        };
        rows.insert(pid, row);
    }
    let cores = procfs::KernelStats::current().map_err(failed)?.cpu_time.len().max(1) as f64;
    Ok(Table { cores, rows })
}

/// The kernel keeps 15 bytes of a name; the command line knows the rest.
#[cfg(target_os = "linux")]
fn full_name(process: &procfs::process::Process, comm: &str) -> Option<String> {
    if comm.len() < 15 {
        return None;
    }
    let first = process.cmdline().ok()?.into_iter().next()?;
    let name = std::path::Path::new(&first).file_name()?.to_string_lossy().into_owned();
    name.starts_with(comm).then_some(name)
}

/// `None` when the process is gone.
#[cfg(target_os = "linux")]
fn descriptors(pid: u32) -> Result<Option<f64>, ConnectorError> {
    let Ok(number) = i32::try_from(pid) else { return Ok(None) };
    let count = procfs::process::Process::new(number).and_then(|process| process.fd_count());
    match count {
        Ok(count) => Ok(Some(count as f64)),
        Err(procfs::ProcError::PermissionDenied(_)) => Err(ConnectorError::Answer(format!(
            "the descriptors of process {pid} may not be counted: it belongs to another user"
        ))),
        Err(_) => Ok(None),
    }
}

#[cfg(not(target_os = "linux"))]
fn table() -> Result<Table, ConnectorError> {
    use sysinfo::{ProcessesToUpdate, System};
    let mut system = System::new()
        .map_err(|e| ConnectorError::Answer(format!("the list of processes cannot be read: {e}")))?;
    system.refresh_processes(ProcessesToUpdate::All, true);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let rows = system.processes().iter().map(|(pid, process)| {
        let row = Row {
            name: process.name().to_string_lossy().into_owned(),
            group: 0,
            full_name: None,
            started: process.start_time(),
            cpu: process.accumulated_cpu_time() as f64 / 1000.0,
            rss: process.memory() as f64,
            threads: process.tasks().map_or(1, |t| t.len()) as f64,
        };
        (pid.as_u32(), row)
    });
    Ok(Table { cores, rows: rows.collect() })
}

#[cfg(not(target_os = "linux"))]
fn descriptors(_pid: u32) -> Result<Option<f64>, ConnectorError> {
    Err(ConnectorError::Answer("open descriptors are read from procfs, which only Linux has".into()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn reader(
        what: ProcessQuantity,
        name: Option<&str>,
        pid: Option<u32>,
        top: Option<usize>,
    ) -> ProcessReader {
        let spec = ProcessSensor {
            what,
            name: name.map(String::from),
            pid,
            own: false,
            top,
            every: None,
            stale_after: None,
        };
        ProcessReader::new(&spec, Arc::default(), Box::new(|| None))
    }

    fn row(name: &str, cpu: f64) -> Row {
        Row { name: name.into(), group: 0, full_name: None, started: 1, cpu, rss: 0.0, threads: 1.0 }
    }

    #[tokio::test]
    async fn this_process_has_memory_threads_and_descriptors() {
        let me = Some(std::process::id());
        for what in [
            ProcessQuantity::Rss,
            ProcessQuantity::Threads,
            ProcessQuantity::Descriptors,
            ProcessQuantity::Count,
        ] {
            let found = reader(what, None, me, None).read().await.expect("me");
            assert!(found[0].value >= 1.0, "{what:?}");
        }
        let cpu = reader(ProcessQuantity::Cpu, None, me, None).read().await.expect("cpu");
        assert!((0.0..=100.0).contains(&cpu[0].value));
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_name_even_a_long_one() {
        let dir = tempfile::tempdir().expect("dir");
        let long = dir.path().join("a_process_with_a_long_name");
        std::os::unix::fs::symlink("/bin/sleep", &long).expect("link");
        let mut child = std::process::Command::new(&long).arg("60").spawn().expect("started");
        let mut reader = reader(ProcessQuantity::Count, Some("a_process_with_a_long_name"), None, None);
        // The child is itself only after exec.
        let found = async {
            loop {
                if reader.read().await.expect("count")[0].value == 1.0 {
                    break;
                }
                tokio::time::sleep(super::super::cached::MAX_AGE).await;
            }
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(10), found).await;
        child.kill().expect("killed");
        child.wait().expect("waited");
        found.expect("found");
    }

    #[tokio::test]
    async fn the_largest_come_first_under_name_and_number() {
        let found = reader(ProcessQuantity::Rss, None, None, Some(3)).read().await.expect("top");
        assert!(found.len() >= 2 && found.len() <= 4);
        assert_eq!(found[0].value, found[1].value);
        let label = found[1].label.as_deref().expect("label");
        assert!(label.ends_with(')') && label.contains('('), "{label}");
        assert!(found[1..].windows(2).all(|w| w[0].value >= w[1].value));
    }

    #[tokio::test]
    async fn nobody_is_an_error_and_a_count_of_zero() {
        let name = Some("no such process");
        let error = reader(ProcessQuantity::Rss, name, None, None).read().await.expect_err("nobody");
        assert_eq!(error.to_string(), "no process is called `no such process`");
        assert_eq!(
            reader(ProcessQuantity::Count, name, None, None).read().await.expect("zero")[0].value,
            0.0
        );
    }

    #[test]
    fn cpu_is_of_the_whole_machine_and_a_reused_number_starts_anew() {
        let before = Table {
            cores: 4.0,
            rows: HashMap::from([(1, row("a", 10.0)), (2, Row { started: 0, ..row("b", 99.0) })]),
        };
        assert_eq!(cpu_percent(1, &row("a", 12.0), &before, 1.0, 4.0), 50.0);
        assert_eq!(cpu_percent(2, &row("b", 1.0), &before, 1.0, 4.0), 25.0);
        assert_eq!(cpu_percent(3, &row("c", 1.0), &before, 1.0, 4.0), 25.0);
    }
}
