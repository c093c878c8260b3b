//! The place in front of a running service, on Linux: who listens (procfs), its socket (pidfd), and the group of two sockets at one address.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::program::{self, CLASS, Mark, Program};
use super::{LiveError, Running};

/// How many connections may wait to be accepted; the kernel's own limit (`net.core.somaxconn`) holds too.
const BACKLOG: i32 = 4096;

/// A process that holds the service's socket, and its number for it there.
type Holder = (u32, i32);

/// A place in front of a running service.
#[derive(Debug)]
pub(in crate::membrane) struct Place {
    found: Found,
    holders: Mutex<Vec<Holder>>,
    mark: Mark,
    next: AtomicU8,
    /// Whether the service itself had allowed its address to be shared.
    shared: bool,
}

/// The listening socket of a service.
#[derive(Debug)]
struct Found {
    /// Where it is bound.
    bound: SocketAddr,
    /// Where it is reached.
    to: SocketAddr,
    inode: u64,
}

/// Who listens there.
pub(super) fn running(listen: SocketAddr, pid: Option<u32>) -> Result<Running, LiveError> {
    let (found, holders, _) = look(listen, pid)?;
    Ok(Running { pid: first(&holders).0, bound: found.bound, endpoint: found.to })
}

fn look(listen: SocketAddr, pid: Option<u32>) -> Result<(Found, Vec<Holder>, Socket), LiveError> {
    let (entry, holders) = find(listen, pid)?;
    let service = socket_of(first(&holders), entry.inode)?;
    let (bound, dual) = family(&service, &entry, listen)?;
    let to = reached(bound, dual);
    if to != bound && sockets()?.iter().any(|e| e.local_address == to && listens(e)) {
        return Err(LiveError::Shadowed(to));
    }
    Ok((Found { bound, to, inode: entry.inode }, holders, service))
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> LiveError {
    move |error| LiveError::Failed { what, why: error.to_string() }
}

impl Place {
    pub(super) fn take(
        listen: SocketAddr,
        pid: Option<u32>,
    ) -> Result<(std::net::TcpListener, Self), LiveError> {
        let (found, holders, service) = look(listen, pid)?;
        let mark = match found.to.ip() {
            IpAddr::V4(_) => Mark::Source(random_net()),
            IpAddr::V6(ip) => Mark::Class(ip),
        };
        let shared = service.reuse_port().map_err(failed("look at the service's socket"))?;
        let place = Self { found, holders: Mutex::new(holders), mark, next: AtomicU8::new(0), shared };
        service.set_reuse_port(true).map_err(failed("share the service's socket"))?;
        match place.join(&service) {
            Ok(socket) => Ok((socket.into(), place)),
            Err(error) => {
                let _ = service.set_reuse_port(shared);
                Err(error)
            }
        }
    }

    /// Opens the socket beside that of the service.
    fn join(&self, service: &Socket) -> Result<Socket, LiveError> {
        let divide = program::divide(self.mark);
        // What the kernel would refuse later, it refuses here, where nobody has come yet.
        let trial = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(failed("open a socket"))?;
        trial.set_reuse_port(true).map_err(failed("share a socket"))?;
        attach(&trial, &divide).map_err(failed("give the kernel a program"))?;
        let socket = self.beside(service).map_err(failed("open a socket like that of the service"))?;
        let bound = self.found.bound;
        match socket.bind(&bound.into()) {
            // Connections that the service had accepted before stand in the way when it does not set SO_REUSEADDR.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                self.loosen();
                socket.bind(&bound.into()).map_err(failed("listen where the service does"))?;
            }
            other => other.map_err(failed("listen where the service does"))?,
        }
        socket.listen(BACKLOG).map_err(failed("listen where the service does"))?;
        // From here on connections may come; none is accepted before the program divides them.
        attach(&socket, &divide).map_err(failed("give the kernel a program"))?;
        Ok(socket)
    }

    /// A socket that the kernel groups with that of the service: same family, same options, same owner.
    fn beside(&self, service: &Socket) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.found.bound), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if self.found.bound.is_ipv6() {
            socket.set_only_v6(service.only_v6()?)?;
        }
        if let Some(device) = service.device()? {
            socket.bind_device(Some(&device))?;
        }
        let owner = rustix::fs::fstat(service)?.st_uid;
        if rustix::fs::fstat(&socket)?.st_uid != owner {
            rustix::fs::fchown(&socket, Some(rustix::fs::Uid::from_raw(owner)), None)?;
        }
        Ok(socket)
    }

    /// Lets the connections that the service has at its address share it.
    fn loosen(&self) {
        let port = self.found.bound.port();
        let Ok(all) = sockets() else { return };
        let inodes: HashSet<u64> =
            all.iter().filter(|e| e.local_address.port() == port && e.inode != 0).map(|e| e.inode).collect();
        let holders: HashSet<u32> = self.lock().iter().map(|(pid, _)| *pid).collect();
        for pid in holders {
            let held = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok()?.fd().ok());
            for fd in held.into_iter().flatten().flatten() {
                if let FDTarget::Socket(inode) = fd.target
                    && inodes.contains(&inode)
                    && let Ok(socket) = socket_of((pid, fd.fd), inode)
                {
                    let _ = socket.set_reuse_port(true);
                }
            }
        }
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.found.bound
    }

    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        match self.mark {
            Mark::Source([a, b]) => {
                let socket = TcpSocket::new_v4()?;
                // The port is chosen for the connection, not for the address alone: there are more of them so.
                setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
                let last = self.next.fetch_add(1, Ordering::Relaxed) % 254 + 1;
                socket.bind((Ipv4Addr::new(127, a, b, last), 0).into())?;
                socket.connect(self.found.to).await
            }
            Mark::Class(_) => {
                // There is no address by which a call that comes back would be known.
                if !self.listens() {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let socket = TcpSocket::new_v6()?;
                SockRef::from(&socket).set_tclass_v6(CLASS)?;
                socket.connect(self.found.to).await
            }
        }
    }

    pub(super) fn is_own(&self, peer: SocketAddr) -> bool {
        match (self.mark, peer.ip().to_canonical()) {
            (Mark::Source([a, b]), IpAddr::V4(ip)) => ip.octets()[..3] == [127, a, b],
            _ => false,
        }
    }

    /// Whether any process still holds the socket, and it still listens.
    pub(super) fn listens(&self) -> bool {
        let mut holders = self.lock();
        let inode = self.found.inode;
        if !holders.iter().any(|holder| holds(*holder, inode)) {
            *holders = holders_of(inode).0;
        }
        let Some(holder) = holders.iter().find(|holder| holds(**holder, inode)) else { return false };
        // A socket that is shut down stays open. The handle is given back at once: held longer, it would keep the socket alive. Who may not be
        // looked into any more counts as listening.
        socket_of(*holder, inode).map_or(true, |s| getsockopt(&s, sockopt::AcceptConn).unwrap_or(true))
    }

    /// The clients that have begun a handshake at this address.
    pub(super) fn handshakes(&self) -> Vec<SocketAddr> {
        let port = self.found.bound.port();
        let half_open = |e: &TcpNetEntry| {
            e.local_address.port() == port && matches!(e.state, TcpState::SynRecv | TcpState::NewSynRecv)
        };
        sockets().unwrap_or_default().iter().filter(|e| half_open(e)).map(|e| e.remote_address).collect()
    }

    /// Sends all new connections to the service.
    pub(super) fn withdraw(&self, listener: &TcpListener) -> io::Result<()> {
        attach(listener, &program::withdraw())
    }

    /// Leaves the service's socket as it was, once that of homeostat is closed.
    pub(super) fn restore(&self) -> Result<(), LiveError> {
        if !self.listens() {
            return Ok(());
        }
        let holder = first(&self.lock());
        let service = socket_of(holder, self.found.inode)?;
        attach(&service, &program::nothing()).map_err(failed("take the program away"))?;
        service.set_reuse_port(self.shared).map_err(failed("unshare the service's socket"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attach(socket: &impl AsFd, program: &Program) -> io::Result<()> {
    let mut program = program.clone();
    // A handful of instructions.
    let length = program.len() as libc::c_ushort;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    Ok(setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?)
}

/// A network 127.A.B.0/24 that nobody else is likely to use.
fn random_net() -> [u8; 2] {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish().to_be_bytes();
    [random[0] % 120 + 128, random[1]]
}

/// Where the service is reached from this machine: at its own address, or at the loopback one.
fn reached(bound: SocketAddr, dual: bool) -> SocketAddr {
    let ip = match bound.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() && dual => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, bound.port()).into()
}

/// Where a socket is bound, and whether it takes IPv4 beside IPv6.
fn family(
    service: &Socket,
    entry: &TcpNetEntry,
    listen: SocketAddr,
) -> Result<(SocketAddr, bool), LiveError> {
    let bound = entry.local_address;
    let dual = bound.is_ipv6() && !service.only_v6().map_err(failed("look at the service's socket"))?;
    match bound.ip() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(LiveError::LinkLocal(bound)),
        IpAddr::V6(_) if listen.is_ipv4() && !dual => Err(LiveError::Nobody(listen)),
        _ => Ok((bound, dual)),
    }
}

fn listens(entry: &TcpNetEntry) -> bool {
    entry.state == TcpState::Listen
}

/// All TCP sockets of this network namespace.
fn sockets() -> Result<Vec<TcpNetEntry>, LiveError> {
    let failed =
        |e: procfs::ProcError| LiveError::Failed { what: "read the table of sockets", why: e.to_string() };
    let mut all = procfs::net::tcp().map_err(failed)?;
    // Absent where there is no IPv6.
    all.extend(procfs::net::tcp6().unwrap_or_default());
    Ok(all)
}

/// The listening sockets at an address, or else those at the wildcard address that covers it.
fn at(listen: SocketAddr, sockets: &[TcpNetEntry]) -> Vec<TcpNetEntry> {
    let same = |ip: IpAddr| {
        move |e: &&TcpNetEntry| listens(e) && e.local_address == SocketAddr::new(ip, listen.port())
    };
    let mut candidates = vec![listen.ip()];
    if let IpAddr::V4(ip) = listen.ip() {
        candidates.extend([IpAddr::V6(ip.to_ipv6_mapped()), IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
    }
    candidates.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let found = candidates.into_iter().map(|ip| sockets.iter().filter(same(ip)).cloned().collect::<Vec<_>>());
    found.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

fn find(listen: SocketAddr, pid: Option<u32>) -> Result<(TcpNetEntry, Vec<Holder>), LiveError> {
    if let Some(pid) = pid
        && net_of(pid).is_some_and(|net| Some(net) != net_of(std::process::id()))
    {
        return Err(LiveError::OtherNamespace { pid });
    }
    let mut found = at(listen, &sockets()?);
    let entry = match (found.pop(), found.len()) {
        (None, _) => {
            return Err(
                elsewhere(listen).map_or(LiveError::Nobody(listen), |pid| LiveError::OtherNamespace { pid })
            );
        }
        (Some(entry), 0) => entry,
        (Some(entry), more) => {
            return Err(LiveError::SeveralSockets { at: entry.local_address, count: more + 1 });
        }
    };
    let (holders, hidden) = holders_of(entry.inode);
    match pid {
        Some(pid) if !holders.is_empty() || !hidden => {
            let named: Vec<Holder> = holders.iter().copied().filter(|(holder, _)| *holder == pid).collect();
            if named.is_empty() {
                let holder = (!holders.is_empty()).then(|| first(&holders).0);
                return Err(LiveError::OtherProcess { pid, listen, holder });
            }
            Ok((entry, named))
        }
        _ if holders.is_empty() => Err(LiveError::Unseen { at: entry.local_address, user: entry.uid }),
        _ => Ok((entry, holders)),
    }
}

/// The processes that hold a socket, and whether some may not be looked at.
fn holders_of(inode: u64) -> (Vec<Holder>, bool) {
    let (mut holders, mut hidden) = (Vec::new(), false);
    for process in procfs::process::all_processes().into_iter().flatten().flatten() {
        let Ok(pid) = u32::try_from(process.pid) else { continue };
        if pid == std::process::id() {
            continue;
        }
        match process.fd() {
            Ok(held) => holders.extend(
                held.flatten()
                    .filter(|fd| matches!(fd.target, FDTarget::Socket(i) if i == inode))
                    .map(|fd| (pid, fd.fd))
                    .take(1),
            ),
            Err(procfs::ProcError::PermissionDenied(_)) => hidden = true,
            Err(_) => {}
        }
    }
    (holders, hidden)
}

/// Of processes that share a socket, the one that was there first. There is at least one.
fn first(holders: &[Holder]) -> Holder {
    let began = |pid: u32| {
        let stat = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok()?.stat().ok());
        stat.map_or(u64::MAX, |stat| stat.starttime)
    };
    holders.iter().copied().min_by_key(|(pid, _)| (began(*pid), *pid)).unwrap_or_default()
}

fn holds((pid, fd): Holder, inode: u64) -> bool {
    std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .is_ok_and(|to| to.as_os_str() == &*format!("socket:[{inode}]"))
}

/// The service's own socket; not one like it.
fn socket_of((pid, fd): Holder, inode: u64) -> Result<Socket, LiveError> {
    let denied = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::NOSYS => LiveError::NotHere,
        errno => LiveError::Denied { pid, why: io::Error::from(errno).to_string() },
    };
    let number =
        i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| denied(rustix::io::Errno::SRCH))?;
    let process = pidfd_open(number, PidfdFlags::empty()).map_err(denied)?;
    let socket: OwnedFd = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).map_err(denied)?;
    match rustix::fs::fstat(&socket) {
        Ok(stat) if stat.st_ino == inode => Ok(Socket::from(socket)),
        Ok(_) => Err(denied(rustix::io::Errno::BADF)),
        Err(errno) => Err(denied(errno)),
    }
}

/// The network namespace of a process, if it may be known.
fn net_of(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// A process of another network namespace in which somebody listens at this address.
fn elsewhere(listen: SocketAddr) -> Option<u32> {
    let mut seen: HashSet<_> = net_of(std::process::id()).into_iter().collect();
    for process in procfs::process::all_processes().ok()?.flatten() {
        let Ok(pid) = u32::try_from(process.pid) else { continue };
        if net_of(pid).is_some_and(|net| seen.insert(net)) {
            let mut sockets = process.tcp().unwrap_or_default();
            sockets.extend(process.tcp6().unwrap_or_default());
            if !at(listen, &sockets).is_empty() {
                return Some(pid);
            }
        }
    }
    None
}
