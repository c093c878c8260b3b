//! Where the units of a deployment are: on this machine, or each on one of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use super::super::{Exit, Failure};
use super::refused;
use super::state::State;
use crate::cli::sensor::Means;
use crate::dialects::occi::deploy::{Deployment, PROBE_PORT, Place, Role, SENSOR_PORT, compose, plan};
use crate::dialects::occi::documents::{Documents, container};
use crate::dialects::occi::{Fault, Registry};

/// This machine.
struct Here<'a> {
    directory: PathBuf,
    /// Ports that documents name.
    named: BTreeSet<u16>,
    state: &'a mut State,
    notes: Vec<String>,
}

/// The first address of a name.
pub(super) fn resolved(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok()?.next()
}

/// An address as all programs say it: those of loopback in digits, since what listens there is asked for by no other name (a page of somebody else
/// could have one).
fn spelled(address: &str) -> String {
    match resolved(address) {
        Some(at) if at.ip().is_loopback() => at.to_string(),
        _ => address.to_string(),
    }
}

impl Here<'_> {
    fn is_here(&self, ip: IpAddr) -> bool {
        match self.state.hosts.is_empty() {
            true => ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok(),
            false => self.state.hosts.contains(&ip),
        }
    }
}

impl Place for Here<'_> {
    fn documents(&self) -> String {
        self.state.documents.to_string()
    }

    fn library(&self) -> Vec<String> {
        vec![self.directory.join("documents").display().to_string()]
    }

    fn known(&self, role: &str, address: &str) -> Option<String> {
        let address = spelled(address);
        let mut known = self.state.addresses.iter().filter(|(_, at)| **at == address);
        known.find_map(|(name, _)| name.starts_with(&format!("{role}-")).then(|| name.clone()))
    }

    fn listens(&self, address: &str) -> String {
        resolved(address).map_or_else(|| address.to_string(), |at| at.to_string())
    }

    fn hosts(&mut self, name: &str, role: Role, address: &str) -> Option<String> {
        let Some(at) = resolved(address) else {
            self.notes.push(format!("`{name}` is not started here: {address} has no address"));
            return None;
        };
        if !self.is_here(at.ip()) || (role == Role::Dashboard && !self.state.dashboards) {
            return None;
        }
        let here = spelled(address);
        let ours = self.state.addresses.values().any(|known| *known == here);
        if role == Role::Dashboard && !ours && UdpSocket::bind(at).is_err() {
            self.notes.push(format!("somebody receives at {address} already; no dashboard is started there"));
            return None;
        }
        Some(here)
    }

    fn reached(&mut self, name: &str, _role: Role) -> Result<String, Fault> {
        let host = self.state.documents.ip();
        if let Some(port) = self.state.ports.get(name) {
            return Ok(SocketAddr::new(host, *port).to_string());
        }
        let given: BTreeSet<u16> = self.state.ports.values().copied().collect();
        let free = |port: &u16| {
            !given.contains(port) && !self.named.contains(port) && TcpListener::bind((host, *port)).is_ok()
        };
        let port = (self.state.first..=u16::MAX).find(free).ok_or_else(|| {
            Fault::bad(format!("no port from {} upwards is free for `{name}`", self.state.first))
        })?;
        self.state.ports.insert(name.to_string(), port);
        Ok(SocketAddr::new(host, port).to_string())
    }

    fn runs_sensors(&self) -> bool {
        self.is_here(self.state.documents.ip())
    }

    fn sensor_options(&self) -> Vec<String> {
        self.state.means.words()
    }

    fn probe_options(&self) -> Vec<String> {
        probe_options(&self.state.means)
    }
}

/// A machine of its own for each unit, with its name.
pub(super) struct Apart {
    pub(super) port: u16,
    pub(super) dashboards: bool,
    pub(super) means: Means,
}

impl Place for Apart {
    fn documents(&self) -> String {
        format!("documents:{}", self.port)
    }

    fn library(&self) -> Vec<String> {
        vec![compose::LIBRARY.into()]
    }

    fn listens(&self, address: &str) -> String {
        format!("0.0.0.0:{}", address.rsplit_once(':').map_or("0", |(_, port)| port))
    }

    fn hosts(&mut self, name: &str, role: Role, address: &str) -> Option<String> {
        let (host, port) = address.rsplit_once(':')?;
        if role == Role::Dashboard && !self.dashboards {
            return None;
        }
        // What receives data may be the user's own, somewhere; what looks like a container of the prototype's is ours.
        let ours = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => {
                ip.is_loopback() || ip.octets()[0] == 172 && (16..32).contains(&ip.octets()[1])
            }
            Ok(IpAddr::V6(ip)) => ip.is_loopback(),
            Err(_) => host == "localhost" || host == name,
        };
        (ours || !matches!(role, Role::Dashboard | Role::Echo)).then(|| format!("{name}:{port}"))
    }

    fn reached(&mut self, name: &str, role: Role) -> Result<String, Fault> {
        let port = if role == Role::Sensor { SENSOR_PORT } else { PROBE_PORT };
        Ok(format!("{name}:{port}"))
    }

    fn runs_sensors(&self) -> bool {
        true
    }

    fn sensor_options(&self) -> Vec<String> {
        self.means.words()
    }

    fn probe_options(&self) -> Vec<String> {
        probe_options(&self.means)
    }
}

/// What would run, without anything being done.
pub(super) fn worked_out(
    documents: Documents,
    registry: &Registry,
    directory: &Path,
    state: &mut State,
) -> Result<(Deployment, Vec<String>), Failure> {
    let (_, url) = container();
    let port = |text: &str| reqwest::Url::parse(text).ok()?.port();
    let urls = documents.iter().filter_map(|(_, said)| said.draft.attributes.get(&url)?.as_str());
    let named = urls.filter_map(port).chain([state.documents.port()]).collect();
    let mut place = Here { directory: directory.to_path_buf(), named, state, notes: Vec::new() };
    let deployment = plan(documents, registry, &mut place).map_err(|fault| refused(&fault))?;
    let mut notes = deployment.notes.clone();
    let here = place.runs_sensors();
    notes.extend(place.notes);
    if !here {
        notes.push(format!(
            "the documents and the sensors are not started here: they are at {}",
            state.documents
        ));
    }
    if deployment.units.is_empty() {
        let text = "nothing of it is on this machine; --listen and --host say where things are";
        return Err(Failure::new(Exit::Refused, text));
    }
    state.addresses = deployment.units.iter().map(|unit| (unit.name.clone(), unit.address.clone())).collect();
    let units: BTreeSet<&String> = deployment.units.iter().map(|unit| &unit.name).collect();
    state.ports.retain(|name, _| units.contains(name));
    Ok((deployment, notes))
}

/// Of what sensors publish with, what probes need as well.
fn probe_options(means: &Means) -> Vec<String> {
    let plugins = means.occi_plugins.iter();
    plugins.flat_map(|directory| ["--plugins".into(), directory.display().to_string()]).collect()
}
