//! From documents to what runs (S2, "how do we implement a monitoring infrastructure starting from OCCI entities"): one server of documents, a dashboard
//! for each place that data are sent to, a container of probes for each resource that is measured, and each sensor, as units that only meet over the
//! network. What a unit is started with is worked out here; processes, a compose file and manifests of Kubernetes are ways to write that down.

pub mod compose;
pub mod kubernetes;
pub mod processes;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::documents::{Documents, container};
use super::fault::{Fault, shown};
use super::monitoring::Names;
use super::registry::Registry;

/// Where probes listen that do not say where.
pub const PROBE_PORT: u16 = 12312;
/// Where sensors listen, where each has a machine of its own.
pub const SENSOR_PORT: u16 = 6790;

/// What a unit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Hosts the documents.
    Documents,
    /// Receives what sensors send, on the user's premises.
    Dashboard,
    /// Sends back what a pinger sends.
    Echo,
    /// A resource with its container of probes.
    Compute,
    /// A sensor.
    Sensor,
}

impl Role {
    /// Whether it receives datagrams, and no connections.
    pub fn takes_datagrams(self) -> bool {
        matches!(self, Self::Dashboard | Self::Echo)
    }

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Dashboard => "dashboard",
            Self::Echo => "echo",
            Self::Compute => "compute",
            Self::Sensor => "sensor",
        }
    }
}

/// Something that runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// Its name: letters, digits and `-`, as hosts are called.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// The entity that it is there for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Where it listens for others: `HOST:PORT`.
    pub address: String,
    /// What `homeostat` is started with.
    pub command: Vec<String>,
}

/// Units, and the documents that they live by.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// In the order in which they are to be started.
    pub units: Vec<Unit>,
    /// With what was left to this.
    pub documents: Documents,
    /// What is not done, and why.
    pub notes: Vec<String>,
}

/// What is left to whoever deploys.
pub trait Place {
    /// Where others reach the server of documents: `HOST:PORT`.
    fn documents(&self) -> String;

    /// The words after `documents`: where they are.
    fn library(&self) -> Vec<String>;

    /// What was called `role-…` when it was last worked out, and is reached at this address.
    fn known(&self, _role: &str, _address: &str) -> Option<String> {
        None
    }

    /// Where a unit listens, as its own `--listen` has it, if others reach it at `address`.
    fn listens(&self, address: &str) -> String;

    /// Whether what listens at `HOST:PORT` runs here; if so, where others reach it.
    fn hosts(&mut self, name: &str, role: Role, address: &str) -> Option<String>;

    /// Where a unit of which documents say nothing is reached: `HOST:PORT`. Always the same for a name.
    ///
    /// # Errors
    /// Why there is no such place.
    fn reached(&mut self, name: &str, role: Role) -> Result<String, Fault>;

    /// Whether sensors run here.
    fn runs_sensors(&self) -> bool;

    /// More words for each sensor.
    fn sensor_options(&self) -> Vec<String>;

    /// More words for each container of probes.
    fn probe_options(&self) -> Vec<String>;
}

/// Works out what has to run, and completes the documents with where it does.
///
/// # Errors
/// Addresses that are none, two units that want the same, and what [`Place::reached`] says.
pub fn plan(
    mut documents: Documents,
    registry: &Registry,
    place: &mut dyn Place,
) -> Result<Deployment, Fault> {
    let mut made = Maker { units: Vec::new(), names: BTreeSet::new(), notes: Vec::new() };
    let at = place.documents();
    if place.hosts("documents", Role::Documents, &at).is_some() {
        let command = [vec!["documents".to_string()], place.library(), listen(place, &at)].concat();
        made.unit("documents", Role::Documents, None, &at, command);
    }
    let sensors = documents.sensors(registry);
    if sensors.is_empty() {
        made.notes.push("no document describes a sensor; nothing is measured".into());
    }
    let mut measured: BTreeSet<String> = BTreeSet::new();
    for sensor in &sensors {
        let part = documents.of_sensor(registry, sensor)?;
        made.notes.extend(part.notes);
        measured.extend(part.links.iter().filter_map(|link| {
            let target = &link.target.as_ref()?.location;
            documents.find(target).map(|(id, _)| id.to_string())
        }));
    }
    let known = documents.collectors(registry);
    let used: BTreeSet<&String> = known.values().flat_map(BTreeMap::keys).collect();
    for (id, _) in
        documents.iter().filter(|(id, said)| said.draft.is_link() && !used.contains(&id.to_string()))
    {
        made.notes.push(format!(
            "the link `{id}` belongs to no sensor of which there is a document, and does nothing"
        ));
    }
    for (id, said) in documents.iter() {
        if let Some(kind) = said.draft.kind.as_ref().filter(|kind| registry.kind(kind).is_none()) {
            made.notes
                .push(format!("`{id}` in {} is of the kind `{kind}`, which is unknown here", said.file));
        }
    }
    dashboards(&mut documents, place, &mut made, &sensors)?;
    echoes(&documents, place, &mut made)?;
    for id in &measured {
        compute(&mut documents, place, &mut made, id)?;
    }
    for id in &sensors {
        if !place.runs_sensors() {
            continue;
        }
        let name = made.name("sensor", id);
        let address = place.reached(&name, Role::Sensor)?;
        let url = format!("http://{at}/");
        let words = ["sensor", "--documents", &url].map(str::to_string).to_vec();
        // An identifier may look like an option.
        let named = vec!["--".to_string(), id.clone()];
        let command = [words, listen(place, &address), place.sensor_options(), named].concat();
        made.unit(&name, Role::Sensor, Some(id), &address, command);
    }
    made.notes.sort();
    made.notes.dedup();
    let mut known: BTreeMap<(bool, &str), &str> = BTreeMap::new();
    for unit in &made.units {
        if let Some(other) = known.insert((unit.role.takes_datagrams(), &unit.address), &unit.name) {
            return Err(Fault::conflict(format!(
                "`{other}` and `{}` both want to be reached at {}",
                unit.name, unit.address
            )));
        }
    }
    Ok(Deployment { units: made.units, documents, notes: made.notes })
}

struct Maker {
    units: Vec<Unit>,
    names: BTreeSet<String>,
    notes: Vec<String>,
}

impl Maker {
    /// A name for the unit of an entity, as short as it can be and nobody else's.
    fn name(&mut self, role: &str, id: &str) -> String {
        let bare = id.strip_prefix("urn:uuid:").unwrap_or(id);
        let mut plain: String = bare
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        plain.truncate(36);
        let plain = plain.trim_matches('-');
        let mut name = format!("{role}-{plain}");
        let digest = blake3::hash(id.as_bytes()).to_hex();
        let mut letters = 6;
        while (letters == 6 && plain != bare) || self.names.contains(&name) {
            name = format!("{role}-{plain}-{}", &digest[..letters.min(digest.len())]);
            letters += 6;
        }
        self.names.insert(name.clone());
        name
    }

    fn unit(&mut self, name: &str, role: Role, entity: Option<&str>, address: &str, command: Vec<String>) {
        let entity = entity.map(str::to_string);
        self.units.push(Unit { name: name.to_string(), role, entity, address: address.to_string(), command });
    }
}

fn listen(place: &dyn Place, address: &str) -> Vec<String> {
    vec!["--listen".into(), place.listens(address)]
}

/// `HOST:PORT`, checked.
fn address(what: &str, text: &str) -> Result<(String, u16), Fault> {
    let wrong = || Fault::bad(format!("{what} is `{}`; expected HOST:PORT", shown(text)));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    match host.is_empty() || bare || port == 0 {
        true => Err(wrong()),
        false => Ok((host.to_string(), port)),
    }
}

/// A name for what receives at each address: that which it has, or its port, as long as no other is called so.
fn receivers(place: &dyn Place, what: &str, addresses: &[&str]) -> BTreeMap<String, String> {
    let all: BTreeSet<&str> = addresses.iter().copied().collect();
    let mut names: BTreeMap<String, String> =
        all.iter().filter_map(|at| Some((at.to_string(), place.known(what, at)?))).collect();
    for at in all {
        if !names.contains_key(at) {
            let short = format!("{what}-{}", port_of(at));
            let name = match names.values().any(|taken| *taken == short) {
                true => format!("{short}-{}", &blake3::hash(at.as_bytes()).to_hex()[..6]),
                false => short,
            };
            names.insert(at.to_string(), name);
        }
    }
    names
}

fn port_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(_, port)| port)
}

/// One dashboard for each place that datagrams are sent to.
fn dashboards(
    documents: &mut Documents,
    place: &mut dyn Place,
    made: &mut Maker,
    sensors: &[String],
) -> Result<(), Fault> {
    let name = Names::default().attribute("SendUDP", "udpAddr");
    let all: Vec<&str> = sensors
        .iter()
        .filter_map(|sensor| documents.draft(sensor)?.attributes.get(&name)?.as_str())
        .collect();
    let names = receivers(place, "dashboard", &all);
    let mut reached: BTreeMap<String, Option<String>> = BTreeMap::new();
    for sensor in sensors {
        let Some(said) = documents.get_mut(sensor) else { continue };
        let text = match said.draft.attributes.get(&name) {
            None | Some(serde_json::Value::Null) => continue,
            Some(serde_json::Value::String(text)) => text,
            Some(other) => {
                return Err(Fault::bad(format!("`{name}` of `{sensor}` is `{other}`; expected HOST:PORT")));
            }
        };
        let at = text.to_string();
        address(&format!("`{name}` of `{sensor}`"), &at)?;
        let Some(unit) = names.get(&at).cloned() else { continue };
        let here = reached.entry(at.clone()).or_insert_with(|| place.hosts(&unit, Role::Dashboard, &at));
        if let Some(here) = here.clone() {
            if here != at {
                said.draft.attributes.insert(name.clone(), here.clone().into());
                if let Some(prototype) = &mut said.prototype {
                    prototype.set("SendUDP", "udpAddr", &here);
                }
            }
            if !made.units.iter().any(|unit| unit.role == Role::Dashboard && unit.address == here) {
                let command = [vec!["sink".into(), "udp".into()], listen(place, &here)].concat();
                made.unit(&unit, Role::Dashboard, None, &here, command);
            }
        }
    }
    Ok(())
}

/// What answers pingers.
fn echoes(documents: &Documents, place: &mut dyn Place, made: &mut Maker) -> Result<(), Fault> {
    let wanted: BTreeSet<&String> =
        documents.iter().filter_map(|(_, said)| said.prototype.as_ref()?.echo.as_ref()).collect();
    let all: Vec<&str> = wanted.iter().map(|at| at.as_str()).collect();
    for (at, name) in receivers(place, "echo", &all) {
        address("`PingerTarget.target`", &at)?;
        if let Some(here) = place.hosts(&name, Role::Echo, &at) {
            let command = [vec!["sink".into(), "echo".into()], listen(place, &here)].concat();
            made.unit(&name, Role::Echo, None, &here, command);
        }
    }
    Ok(())
}

/// The container of a resource that is measured: where its document says, or where there is place.
fn compute(
    documents: &mut Documents,
    place: &mut dyn Place,
    made: &mut Maker,
    id: &str,
) -> Result<(), Fault> {
    let (mixin, attribute) = container();
    let name = made.name("compute", id);
    let Some(said) = documents.get_mut(id) else { return Ok(()) };
    let url = said.draft.attributes.get(&attribute).and_then(serde_json::Value::as_str);
    let here = match url {
        Some(url) => {
            let rest = url.strip_prefix("http://").unwrap_or_default();
            let (at, path) = rest.split_once('/').unwrap_or((rest, ""));
            if path.trim_end_matches('/') != "collectors" || address("", at).is_err() {
                return Err(Fault::bad(format!(
                    "`{attribute}` of `{id}` is `{}`; expected http://HOST:PORT/collectors",
                    shown(url)
                )));
            }
            match place.hosts(&name, Role::Compute, at) {
                Some(here) => here,
                None => {
                    made.notes.push(format!("the container of `{id}` is not started here: it is at {at}"));
                    return Ok(());
                }
            }
        }
        // It stands where the documents do.
        None if !place.runs_sensors() => {
            made.notes.push(format!(
                "the container of `{id}` is not started here: its document does not say where it is"
            ));
            return Ok(());
        }
        None => place.reached(&name, Role::Compute)?,
    };
    let (host, port) = address("the container", &here)?;
    said.draft.attributes.insert(attribute, format!("http://{here}/collectors").into());
    if !said.draft.mixins.contains(&mixin) {
        said.draft.mixins.push(mixin);
    }
    if let Some(prototype) = &mut said.prototype {
        prototype.contain(&host, port);
    }
    let command = [vec!["probe".into()], listen(place, &here), place.probe_options()].concat();
    made.unit(&name, Role::Compute, Some(id), &here, command);
    Ok(())
}
