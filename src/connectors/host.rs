//! This machine: CPU, memory, disks, network, pressure. What `sysinfo` knows comes from there; counters per core, pressure and open
//! files from procfs, which only Linux has.
//!
//! CPU and rates are differences between two polls of one sensor; the first poll waits [`WARM_UP`] to have two looks.
//!
//! Another `/proc` than that of this process may stand for the machine: that of the host, seen from a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sysinfo::{Disks, System};

use super::cached::{Cached, Look, WARM_UP};
use crate::model::Measurement;
use crate::model::connector::{ConnectorError, HostQuantity, HostSensor, Sensor};

/// What Linux says of the machine.
const PROC: &str = "/proc";

/// The shared looks at the machine, one per group of quantities that is read together.
#[derive(Default)]
pub(super) struct Host {
    /// Where another `/proc` is mounted; that of this process, when there is none.
    proc: Option<PathBuf>,
    cpu: Cached<Counters>,
    memory: Cached<Memory>,
    space: Cached<Vec<Space>>,
    io: Cached<Counters>,
    network: Cached<Counters>,
    other: Cached<BTreeMap<&'static str, f64>>,
}

impl Host {
    /// The machine whose `/proc` is mounted here.
    pub(super) fn at(proc: PathBuf) -> Self {
        Self { proc: Some(proc), ..Self::default() }
    }
}

/// Two running totals per part: busy and all time of a core, bytes read and written, bytes received and sent.
type Counters = BTreeMap<String, [f64; 2]>;

struct Memory {
    total: f64,
    available: f64,
    swap_total: f64,
    swap_used: f64,
}

/// One file system.
struct Space {
    mount: String,
    device: String,
    total: f64,
    available: f64,
}

/// Reads one quantity of the machine.
pub(super) struct HostReader {
    host: Arc<Host>,
    what: HostQuantity,
    name: Option<String>,
    each: bool,
    previous: Option<Look<Counters>>,
}

impl HostReader {
    pub(super) fn new(spec: &HostSensor, host: Arc<Host>) -> Self {
        Self { host, what: spec.what, name: spec.name.clone(), each: spec.each, previous: None }
    }
}

#[async_trait]
impl Sensor for HostReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        use HostQuantity as Q;
        match self.what {
            Q::Cpu | Q::DiskRead | Q::DiskWritten | Q::NetReceived | Q::NetSent => self.moving().await,
            Q::DiskTotal | Q::DiskAvailable | Q::DiskUsedRatio => self.space().await,
            Q::MemoryTotal
            | Q::MemoryAvailable
            | Q::MemoryUsed
            | Q::MemoryUsedRatio
            | Q::SwapTotal
            | Q::SwapUsed => self.memory().await,
            Q::Cores => {
                let cores = self.counters_of(HostQuantity::Cpu).await?.seen.len();
                Ok(vec![Measurement::value(cores as f64)])
            }
            what => self.single(what).await,
        }
    }
}

impl HostReader {
    async fn memory(&self) -> Result<Vec<Measurement>, ConnectorError> {
        let proc = self.host.proc.clone();
        let memory = self.host.memory.get(move || memory(proc.as_deref())).await?.seen;
        let used = memory.total - memory.available;
        let value = match self.what {
            HostQuantity::MemoryTotal => memory.total,
            HostQuantity::MemoryAvailable => memory.available,
            HostQuantity::MemoryUsed => used,
            HostQuantity::SwapTotal => memory.swap_total,
            HostQuantity::SwapUsed => memory.swap_used,
            _ if memory.total > 0.0 => used / memory.total,
            _ => return Err(ConnectorError::Answer("the machine says that it has no memory".into())),
        };
        Ok(vec![Measurement::value(value)])
    }

    async fn space(&self) -> Result<Vec<Measurement>, ConnectorError> {
        let seen = self.host.space.get(space).await?.seen;
        let value = |disk: &Space| match self.what {
            HostQuantity::DiskTotal => disk.total,
            HostQuantity::DiskAvailable => disk.available,
            _ => 1.0 - disk.available / disk.total,
        };
        if let Some(name) = &self.name {
            let disk = seen.iter().find(|d| d.mount == *name || d.device == *name);
            let disk =
                disk.ok_or_else(|| unknown("file system", name, seen.iter().map(|d| d.mount.as_str())))?;
            return Ok(vec![Measurement::value(value(disk))]);
        }
        let real = devices(&seen);
        let whole = match self.what {
            HostQuantity::DiskUsedRatio => real.iter().map(|d| value(d)).reduce(f64::max),
            _ if real.is_empty() => None,
            _ => Some(real.iter().map(|d| value(d)).sum()),
        };
        let whole =
            whole.ok_or_else(|| ConnectorError::Answer("no file system on a disk is mounted".into()))?;
        let parts = real.iter().filter(|_| self.each).map(|d| member(&d.mount, value(d)));
        Ok(std::iter::once(Measurement::value(whole)).chain(parts).collect())
    }

    /// CPU and rates: the difference to the poll before.
    async fn moving(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let previous = match self.previous.take() {
            Some(previous) => previous,
            None => {
                let first = self.counters().await?;
                self.previous = Some(first.clone());
                tokio::time::sleep(WARM_UP).await;
                first
            }
        };
        let now = self.counters().await?;
        if now.at <= previous.at {
            // Polled again before a new look was due: the answer is in the next one.
            self.previous = Some(previous);
            return Ok(Vec::new());
        }
        self.previous = Some(now.clone());
        let name = self.part_name(&now.seen).await?;
        let seconds = (now.at - previous.at).as_secs_f64();
        Ok(self.differences(&previous.seen, &now.seen, seconds, name.as_deref()))
    }

    async fn counters(&self) -> Result<Look<Counters>, ConnectorError> {
        self.counters_of(self.what).await
    }

    async fn counters_of(&self, what: HostQuantity) -> Result<Look<Counters>, ConnectorError> {
        let proc = self.host.proc.clone();
        match what {
            HostQuantity::Cpu => self.host.cpu.get(move || cpu_counters(proc.as_deref())).await,
            HostQuantity::DiskRead | HostQuantity::DiskWritten => {
                self.host.io.get(move || io_counters(proc.as_deref())).await
            }
            _ => self.host.network.get(move || network_counters(proc.as_deref())).await,
        }
    }

    /// The part that the policy names; a mount point stands for its device.
    async fn part_name(&self, counters: &Counters) -> Result<Option<String>, ConnectorError> {
        let Some(name) = &self.name else { return Ok(None) };
        if counters.contains_key(name) {
            return Ok(Some(name.clone()));
        }
        if matches!(self.what, HostQuantity::DiskRead | HostQuantity::DiskWritten) {
            let seen = self.host.space.get(space).await?.seen;
            let device =
                seen.iter().find(|d| d.mount == *name || d.device == *name).map(|d| device_name(&d.device));
            if let Some(device) = device.filter(|d| counters.contains_key(d)) {
                return Ok(Some(device));
            }
        }
        let what = match self.what {
            HostQuantity::Cpu => "core",
            HostQuantity::NetReceived | HostQuantity::NetSent => "network interface",
            _ => "disk",
        };
        Err(unknown(what, name, counters.keys().map(String::as_str)))
    }

    fn differences(
        &self,
        from: &Counters,
        to: &Counters,
        seconds: f64,
        name: Option<&str>,
    ) -> Vec<Measurement> {
        let change = |part: &str| {
            let (from, to) = (from.get(part)?, to.get(part)?);
            // A counter that went back began anew (a device was replaced): no difference this time.
            Some([to[0] - from[0], to[1] - from[1]]).filter(|c| c[0] >= 0.0 && c[1] >= 0.0)
        };
        let value = |change: [f64; 2]| match self.what {
            HostQuantity::Cpu if change[1] <= 0.0 => 0.0,
            HostQuantity::Cpu => (100.0 * change[0] / change[1]).clamp(0.0, 100.0),
            HostQuantity::DiskRead | HostQuantity::NetReceived => change[0] / seconds,
            _ => change[1] / seconds,
        };
        if let Some(name) = name {
            return change(name).map(value).map(Measurement::value).into_iter().collect();
        }
        let changes: Vec<(&str, [f64; 2])> = to
            .keys()
            .filter(|part| counts_for_whole(self.what, part))
            .filter_map(|part| Some((part.as_str(), change(part)?)))
            .collect();
        let whole = changes.iter().fold([0.0, 0.0], |sum, (_, c)| [sum[0] + c[0], sum[1] + c[1]]);
        let parts = changes.iter().filter(|_| self.each).map(|(part, change)| member(part, value(*change)));
        std::iter::once(Measurement::value(value(whole))).chain(parts).collect()
    }

    /// Quantities of a single number each.
    async fn single(&self, what: HostQuantity) -> Result<Vec<Measurement>, ConnectorError> {
        let key = match what {
            HostQuantity::Load1 => "load1",
            HostQuantity::Load5 => "load5",
            HostQuantity::Load15 => "load15",
            HostQuantity::Uptime => "uptime",
            HostQuantity::PressureCpu => "pressure cpu",
            HostQuantity::PressureMemory => "pressure memory",
            HostQuantity::PressureIo => "pressure io",
            HostQuantity::OpenFiles => "open files",
            _ => "processes",
        };
        let proc = self.host.proc.clone();
        let seen = self.host.other.get(move || Ok(other(proc.as_deref()))).await?.seen;
        match seen.get(key) {
            Some(value) => Ok(vec![Measurement::value(*value)]),
            None => Err(ConnectorError::Answer(absent(key))),
        }
    }
}

fn member(label: &str, value: f64) -> Measurement {
    Measurement { output: None, label: Some(Arc::from(label)), value, at: None }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> ConnectorError {
    let known: Vec<&str> = known.take(20).collect();
    ConnectorError::Answer(format!("this machine has no {what} `{name}`; it has {}", known.join(", ")))
}

/// Why a quantity is not there.
fn absent(key: &str) -> String {
    if !cfg!(target_os = "linux") && !key.starts_with("load") && key != "uptime" {
        return format!("{key} is read from procfs, which only Linux has");
    }
    match key.strip_prefix("pressure ") {
        Some(what) => format!(
            "this kernel has no pressure stall information (/proc/pressure/{what} cannot be read); it needs Linux 4.20 with CONFIG_PSI, and psi=1 where it is off by default"
        ),
        None => format!("this machine does not say its {key}"),
    }
}

/// One entry per device: bind mounts and subvolumes show the same space again. The shortest mount point stands for it.
fn devices(all: &[Space]) -> Vec<&Space> {
    let mut by_device = BTreeMap::<&str, &Space>::new();
    for disk in all.iter().filter(|d| d.total > 0.0) {
        let kept = by_device.entry(&disk.device).or_insert(disk);
        if disk.mount.len() < kept.mount.len() {
            *kept = disk;
        }
    }
    by_device.into_values().collect()
}

/// Whether a part counts for the whole machine: not the loopback interface, not partitions and stacked devices besides their disks.
fn counts_for_whole(what: HostQuantity, part: &str) -> bool {
    match what {
        HostQuantity::NetReceived | HostQuantity::NetSent => part != "lo" && part != "lo0",
        HostQuantity::DiskRead | HostQuantity::DiskWritten => is_whole_disk(part),
        _ => true,
    }
}

/// A disk of its own: the kernel lists it as a block device (partitions are listed below theirs), and it stands on no other.
fn is_whole_disk(name: &str) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let stacked = ["loop", "ram", "dm-", "md", "zram", "sr"].iter().any(|prefix| name.starts_with(prefix));
    !stacked && Path::new("/sys/block").join(name.replace('/', "!")).exists()
}

/// `vda1` of `/dev/vda1`, `dm-0` of `/dev/mapper/root`.
fn device_name(device: &str) -> String {
    let path = std::fs::canonicalize(device).unwrap_or_else(|_| device.into());
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn failed(what: &str, error: impl std::fmt::Display) -> ConnectorError {
    ConnectorError::Answer(format!("{what} cannot be read: {error}"))
}

fn memory(proc: Option<&Path>) -> Result<Memory, ConnectorError> {
    #[cfg(target_os = "linux")]
    if let Some(proc) = proc {
        use procfs::FromRead;
        let seen =
            procfs::Meminfo::from_file(proc.join("meminfo")).map_err(|e| failed("the memory in /proc", e))?;
        return Ok(Memory {
            total: seen.mem_total as f64,
            available: seen.mem_available.unwrap_or(seen.mem_free) as f64,
            swap_total: seen.swap_total as f64,
            swap_used: seen.swap_total.saturating_sub(seen.swap_free) as f64,
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = proc;
    let mut system = System::new().map_err(|e| failed("memory", e))?;
    system.refresh_memory();
    Ok(Memory {
        total: system.total_memory() as f64,
        available: system.available_memory() as f64,
        swap_total: system.total_swap() as f64,
        swap_used: system.used_swap() as f64,
    })
}

fn space() -> Result<Vec<Space>, ConnectorError> {
    let storage = sysinfo::DiskRefreshKind::nothing().with_storage();
    let disks =
        Disks::new_with_refreshed_list_specifics(storage).map_err(|e| failed("the list of disks", e))?;
    let disks = disks.iter().map(|d| Space {
        mount: d.mount_point().to_string_lossy().into_owned(),
        device: d.name().to_string_lossy().into_owned(),
        total: d.total_space() as f64,
        available: d.available_space() as f64,
    });
    Ok(disks.collect())
}

#[cfg(target_os = "linux")]
fn network_counters(proc: Option<&Path>) -> Result<Counters, ConnectorError> {
    use procfs::FromRead;
    // `net` is `self/net`: what the reader itself may use, also in a network of its own, whereas /sys may be that of another. Of another
    // machine, the first process uses what the machine has.
    let first = proc.map(|proc| proc.join("1/net/dev")).filter(|file| file.exists());
    let file = first.unwrap_or_else(|| proc.unwrap_or(Path::new(PROC)).join("net/dev"));
    let seen = procfs::net::InterfaceDeviceStatus::from_file(file)
        .map_err(|e| failed("the list of network interfaces", e))?;
    let counters = seen.0.into_iter().map(|(name, d)| (name, [d.recv_bytes as f64, d.sent_bytes as f64]));
    Ok(counters.collect())
}

#[cfg(not(target_os = "linux"))]
fn network_counters(_proc: Option<&Path>) -> Result<Counters, ConnectorError> {
    let networks = sysinfo::Networks::new_with_refreshed_list()
        .map_err(|e| failed("the list of network interfaces", e))?;
    let counters = networks.iter().map(|(name, data)| {
        (name.to_string_lossy().into_owned(), [data.total_received() as f64, data.total_transmitted() as f64])
    });
    Ok(counters.collect())
}

#[cfg(target_os = "linux")]
fn cpu_counters(proc: Option<&Path>) -> Result<Counters, ConnectorError> {
    use procfs::FromReadSI;
    let file = proc.unwrap_or(Path::new(PROC)).join("stat");
    let stat = procfs::KernelStats::from_file(&file, procfs::current_system_info())
        .map_err(|e| failed("/proc/stat", e))?;
    let cores = stat.cpu_time.iter().enumerate().map(|(core, t)| {
        // `guest` is part of `user`; time stolen by the hypervisor was wanted and not had, so it is part of all, not of busy.
        let busy = t.user + t.nice + t.system + t.irq.unwrap_or(0) + t.softirq.unwrap_or(0);
        let idle = t.idle + t.iowait.unwrap_or(0) + t.steal.unwrap_or(0);
        (format!("cpu{core}"), [busy as f64, (busy + idle) as f64])
    });
    Ok(cores.collect())
}

/// Where there are no counters, the share of the last moment is made into them.
#[cfg(not(target_os = "linux"))]
fn cpu_counters(_proc: Option<&Path>) -> Result<Counters, ConnectorError> {
    use std::sync::Mutex;
    static TOTALS: Mutex<Option<(System, std::time::Instant, Counters)>> = Mutex::new(None);
    let mut totals = TOTALS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut system, before, mut counters) = match totals.take() {
        Some(kept) => kept,
        None => (System::new().map_err(|e| failed("CPU usage", e))?, super::now(), Counters::new()),
    };
    system.refresh_cpu_usage();
    let now = super::now();
    let passed = (now - before).as_secs_f64();
    for (core, cpu) in system.cpus().iter().enumerate() {
        let counter = counters.entry(format!("cpu{core}")).or_default();
        counter[0] += f64::from(cpu.cpu_usage()) / 100.0 * passed;
        counter[1] += passed;
    }
    *totals = Some((system, now, counters.clone()));
    Ok(counters)
}

/// The kernel counts in sectors of 512 bytes, whatever the disk's own are.
#[cfg(target_os = "linux")]
fn io_counters(proc: Option<&Path>) -> Result<Counters, ConnectorError> {
    use procfs::FromRead;
    const SECTOR: f64 = 512.0;
    let file = proc.unwrap_or(Path::new(PROC)).join("diskstats");
    let disks = procfs::DiskStats::from_file(file).map_err(|e| failed("/proc/diskstats", e))?;
    let counters = disks
        .0
        .into_iter()
        .map(|d| (d.name, [d.sectors_read as f64 * SECTOR, d.sectors_written as f64 * SECTOR]));
    Ok(counters.collect())
}

#[cfg(not(target_os = "linux"))]
fn io_counters(_proc: Option<&Path>) -> Result<Counters, ConnectorError> {
    let io = sysinfo::DiskRefreshKind::nothing().with_io_usage();
    let disks = Disks::new_with_refreshed_list_specifics(io).map_err(|e| failed("the list of disks", e))?;
    let counters = disks.iter().map(|d| {
        let usage = d.usage();
        let name = device_name(&d.name().to_string_lossy());
        (name, [usage.total_read_bytes as f64, usage.total_written_bytes as f64])
    });
    Ok(counters.collect())
}

/// Everything of a single number that this machine has; each is one small file or system call.
fn other(proc: Option<&Path>) -> BTreeMap<&'static str, f64> {
    let mut found = BTreeMap::new();
    match proc {
        None => {
            if let Ok(load) = System::load_average() {
                found.extend([("load1", load.one), ("load5", load.five), ("load15", load.fifteen)]);
            }
            if let Ok(uptime) = System::uptime() {
                found.insert("uptime", uptime as f64);
            }
        }
        Some(proc) => {
            found.extend(["load1", "load5", "load15"].into_iter().zip(numbers(&proc.join("loadavg"))));
            found.extend(["uptime"].into_iter().zip(numbers(&proc.join("uptime"))));
        }
    }
    let proc = proc.unwrap_or(Path::new(PROC));
    for (key, file) in [("pressure cpu", "cpu"), ("pressure memory", "memory"), ("pressure io", "io")] {
        if let Ok(text) = std::fs::read_to_string(proc.join("pressure").join(file))
            && let Some(value) = pressure(&text)
        {
            found.insert(key, value);
        }
    }
    found.extend(open_files(proc).map(|value| ("open files", value)));
    found.extend(processes(proc).map(|value| ("processes", value)));
    found
}

/// The share of the last 10 s that `some avg10=1.53 …` says, 0 to 1.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent = some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    percent.parse::<f64>().ok().map(|p| p / 100.0)
}

/// The first number of the file is what is allocated, the second what of it is free (0 since Linux 2.6).
fn open_files(proc: &Path) -> Option<f64> {
    match numbers(&proc.join("sys/fs/file-nr")).as_slice() {
        [allocated, free, ..] => Some(allocated - free),
        _ => None,
    }
}

/// The numbers that a file begins with.
fn numbers(file: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map_while(|word| word.parse().ok()).collect()
}

fn processes(proc: &Path) -> Option<f64> {
    let entries = std::fs::read_dir(proc).ok()?;
    let pids =
        entries.flatten().filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    Some(pids.count() as f64).filter(|n| *n > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(what: HostQuantity, name: Option<&str>, each: bool) -> HostReader {
        let spec = HostSensor { what, name: name.map(String::from), each, every: None, stale_after: None };
        HostReader::new(&spec, Arc::default())
    }

    async fn read(what: HostQuantity) -> f64 {
        reader(what, None, false).read().await.unwrap_or_else(|e| panic!("{what:?}: {e}"))[0].value
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn every_quantity_of_this_machine_has_a_plausible_value() {
        use HostQuantity as Q;
        assert!((0.0..=100.0).contains(&read(Q::Cpu).await));
        assert!(read(Q::Cores).await >= 1.0);
        for what in [Q::Load1, Q::Load5, Q::Load15, Q::SwapTotal, Q::SwapUsed] {
            assert!(read(what).await >= 0.0, "{what:?}");
        }
        let total = read(Q::MemoryTotal).await;
        assert!(total > 1e6 && read(Q::MemoryAvailable).await <= total && read(Q::MemoryUsed).await <= total);
        assert!((0.0..=1.0).contains(&read(Q::MemoryUsedRatio).await));
        assert!(
            read(Q::OpenFiles).await > 0.0 && read(Q::Processes).await > 1.0 && read(Q::Uptime).await > 0.0
        );
        for what in [Q::NetReceived, Q::NetSent, Q::DiskRead, Q::DiskWritten] {
            assert!(read(what).await >= 0.0, "{what:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn disks_have_sizes_and_the_fullest_stands_for_the_machine() {
        let seen = space().expect("disks");
        if devices(&seen).is_empty() {
            return;
        }
        let ratios = reader(HostQuantity::DiskUsedRatio, None, true).read().await.expect("ratios");
        let fullest = ratios[1..].iter().map(|m| m.value).fold(0.0, f64::max);
        assert_eq!(ratios[0].value, fullest);
        assert!((0.0..=1.0).contains(&fullest));
        let total = reader(HostQuantity::DiskTotal, Some(&seen[0].mount), false).read().await.expect("total");
        assert!(total[0].value > 0.0);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn each_core_is_a_member_besides_the_whole_machine() {
        let found = reader(HostQuantity::Cpu, None, true).read().await.expect("cpu");
        assert_eq!(found.len() as f64, 1.0 + read(HostQuantity::Cores).await);
        assert_eq!((found[0].label.as_deref(), found[1].label.as_deref()), (None, Some("cpu0")));
    }

    #[tokio::test]
    async fn a_part_that_the_machine_does_not_have_is_named_with_those_it_has() {
        let error =
            reader(HostQuantity::NetSent, Some("nope0"), false).read().await.expect_err("no such interface");
        assert!(error.to_string().contains("no network interface `nope0`; it has"), "{error}");
        let error =
            reader(HostQuantity::DiskTotal, Some("/nowhere"), false).read().await.expect_err("no such mount");
        assert!(error.to_string().contains("no file system `/nowhere`"), "{error}");
    }

    #[tokio::test]
    async fn pressure_is_a_share_or_the_kernel_is_said_to_have_none() {
        for what in [HostQuantity::PressureCpu, HostQuantity::PressureMemory, HostQuantity::PressureIo] {
            match reader(what, None, false).read().await {
                Ok(found) => assert!((0.0..=1.0).contains(&found[0].value)),
                Err(error) => assert!(error.to_string().contains("pressure"), "{error}"),
            }
        }
        assert_eq!(pressure("some avg10=12.50 avg60=1.00 avg300=0.00 total=7\nfull avg10=99.0"), Some(0.125));
        assert_eq!(pressure("full avg10=1.0"), None);
    }

    #[test]
    fn rates_are_differences_per_second_and_a_counter_that_went_back_is_left_out() {
        let counters = |a: [f64; 2], b: [f64; 2]| Counters::from([("eth0".into(), a), ("eth1".into(), b)]);
        let reader = reader(HostQuantity::NetSent, None, true);
        let found = reader.differences(
            &counters([0.0, 100.0], [0.0, 900.0]),
            &counters([0.0, 300.0], [0.0, 10.0]),
            2.0,
            None,
        );
        let values: Vec<_> = found.iter().map(|m| (m.label.as_deref(), m.value)).collect();
        assert_eq!(values, [(None, 100.0), (Some("eth0"), 100.0)]);
    }

    #[test]
    fn cpu_is_the_busy_share_of_the_whole_machine() {
        let before = Counters::from([("cpu0".into(), [0.0, 0.0]), ("cpu1".into(), [0.0, 0.0])]);
        let after = Counters::from([("cpu0".into(), [100.0, 100.0]), ("cpu1".into(), [0.0, 100.0])]);
        let values = |name| {
            let found = reader(HostQuantity::Cpu, None, false).differences(&before, &after, 1.0, name);
            found.iter().map(|m| m.value).collect::<Vec<_>>()
        };
        assert_eq!(values(None), [50.0]);
        assert_eq!(values(Some("cpu0")), [100.0]);
    }

    #[test]
    fn one_device_mounted_twice_counts_once() {
        let disk = |mount: &str, device: &str| Space {
            mount: mount.into(),
            device: device.into(),
            total: 10.0,
            available: 5.0,
        };
        let all = [disk("/etc/hosts", "/dev/a"), disk("/", "/dev/a"), disk("/data", "/dev/b")];
        let mounts: Vec<&str> = devices(&all).iter().map(|d| d.mount.as_str()).collect();
        assert_eq!(mounts, ["/", "/data"]);
    }
}
