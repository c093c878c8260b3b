//! Documents of the prototype (occimon, S2), and what it made of them:
//! - a mixin is what attributes name (`com.example.occi.monitoring.EWMA`); the list of mixins, which names others, meant nothing;
//! - data flow at the pace of the collectors, from when it is started: `timebase`, `timestart` and `timestop` were ignored. Here they hold, unless
//!   the time that they give has passed, as it has in all documents that were published;
//! - a compute says with `MetricContainerIPAddress` and `MetricContainerPort` where its container is;
//! - `PingerBase` is [`Ping`](super::super::monitoring), `PingerTarget` the other end of it, which is no collector.

use serde_json::{Map, Value as Json};

use super::super::draft::{Draft, DraftLink};
use super::{container, is_provided, object};

/// The beginning of the names of all attributes of its mixins.
const PREFIX: &str = "com.example.occi.monitoring.";
const ADDRESS: &str = "occi.compute.MetricContainerIPAddress";
const PORT: &str = "occi.compute.MetricContainerPort";
const INTERFACE: &str = "occi.sensor.networkInterface";
/// Names of mixins that are called otherwise here.
const RENAMED: [(&str, &str); 2] = [("PingerBase", "Ping"), ("EmailOnAlarm", "EmailAlarm")];
/// The attributes that say when a sensor measures.
const TIMES: [&str; 3] = ["occi.sensor.timebase", "occi.sensor.timestart", "occi.sensor.timestop"];

/// A document of the prototype.
#[derive(Debug, Clone, PartialEq)]
pub struct Prototype {
    /// As it stood there; the prototype's own programs get it like that.
    pub said: Json,
    /// What it means.
    pub meant: Json,
    /// What is read in another way than it is written.
    pub notes: Vec<String>,
    /// `HOST:PORT` at which somebody expects its echo (`PingerTarget`).
    pub echo: Option<String>,
}

/// Reads a document of the prototype; `None` when it is none: its attributes are not nested. `now`: seconds since 1970.
pub fn converted(value: &Json, now: f64) -> Option<Prototype> {
    let entity = object(value)?;
    let attributes = entity.get("attributes").and_then(object)?;
    let nested = |name: &str| attributes.get(name).is_some_and(Json::is_object);
    if !nested("occi") && !nested("com") {
        return None;
    }
    let id = entity.get("id").and_then(Json::as_str).unwrap_or_default();
    let mut notes = Vec::new();
    let mut values: Map<String, Json> = Map::new();
    let mut echo = None;
    for (name, value) in flat(attributes) {
        if let Some(rest) = name.strip_prefix(PREFIX) {
            let (term, rest) = rest.split_once('.').unwrap_or((rest, ""));
            if term == "PingerTarget" {
                echo = value.as_str().map(str::to_string);
                continue;
            }
            let term = RENAMED.iter().find(|(old, _)| *old == term).map_or(term, |(_, new)| new);
            values.insert(format!("{PREFIX}{term}.{rest}"), value);
        } else if name != INTERFACE {
            values.insert(name, value);
        }
    }
    let mut meant = entity.clone();
    let mut mixins: Vec<Json> = match meant.remove("mixins") {
        Some(Json::Array(all)) => {
            all.into_iter().filter(|id| !id.as_str().is_some_and(is_provided)).collect()
        }
        _ => Vec::new(),
    };
    let place = (values.remove(ADDRESS), values.remove(PORT));
    if place.0.is_some() != place.1.is_some() {
        notes.push(format!(
            "`{id}` has only one of MetricContainerIPAddress and MetricContainerPort, which says nothing"
        ));
    }
    if let (Some(address), Some(port)) = place {
        let (mixin, url) = container();
        mixins.push(mixin.as_str().into());
        let host = bare(&address);
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        values.insert(url, format!("http://{host}:{}/collectors", bare(&port)).into());
    }
    if has_passed(&values, now) {
        TIMES.iter().for_each(|name| drop(values.remove(*name)));
        notes.push(format!(
            "the time of the sensor `{id}` has passed; it runs from now on, as the prototype has it"
        ));
    }
    meant.insert("attributes".into(), values.into());
    meant.insert("mixins".into(), mixins.into());
    Some(Prototype { said: value.clone(), meant: meant.into(), notes, echo })
}

impl Prototype {
    /// Says where the container of a compute is.
    pub fn contain(&mut self, host: &str, port: u16) {
        let mut at = &mut self.said;
        for name in ["attributes", "occi", "compute"] {
            let Json::Object(object) = at else { return };
            at = object.entry(name).or_insert_with(|| Json::Object(Map::new()));
        }
        if let Json::Object(compute) = at {
            compute.insert("MetricContainerIPAddress".into(), host.trim_matches(['[', ']']).into());
            compute.insert("MetricContainerPort".into(), port.into());
        }
    }

    /// Names the links that stood in it.
    pub(super) fn name_links(&mut self, links: &[DraftLink]) {
        let names = links.iter().filter_map(|link| match link {
            DraftLink::Reference(name) => Some(Json::from(name.as_str())),
            DraftLink::Whole(_) => None,
        });
        if let Json::Object(entity) = &mut self.said {
            entity.insert("links".into(), names.collect::<Vec<_>>().into());
        }
    }

    /// Gives an attribute of a mixin another value.
    pub fn set(&mut self, term: &str, name: &str, value: &str) {
        let mut at = &mut self.said;
        for name in ["attributes", "com", "example", "occi", "monitoring", term] {
            let Json::Object(object) = at else { return };
            let Some(inner) = object.get_mut(name) else { return };
            at = inner;
        }
        if let Json::Object(mixin) = at {
            mixin.insert(name.into(), value.into());
        }
    }
}

/// Names with dots, and their values.
fn flat(values: &Map<String, Json>) -> Vec<(String, Json)> {
    let mut all = Vec::new();
    for (name, value) in values {
        match value {
            Json::Object(inner) => {
                all.extend(flat(inner).into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
            }
            value => all.push((name.clone(), value.clone())),
        }
    }
    all
}

fn bare(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// Whether nothing is left of the time in which a sensor is to measure.
fn has_passed(values: &Map<String, Json>, now: f64) -> bool {
    let number = |name: &str| values.get(name).and_then(Json::as_f64);
    match (number(TIMES[0]), number(TIMES[1]), number(TIMES[2])) {
        (Some(base), _, Some(stop)) => base + stop < now,
        (Some(base), Some(start), None) => base + start < now,
        _ => false,
    }
}

/// The prototype's data flow at the pace of its collectors, whatever the period of the sensor is.
pub fn pace(sensor: &mut Draft, collectors: &[Draft], notes: &mut Vec<String>) {
    let period = |draft: &Draft, name: &str| draft.attributes.get(name).and_then(Json::as_f64);
    let fastest = collectors
        .iter()
        .filter_map(|collector| period(collector, "occi.collector.period"))
        .min_by(f64::total_cmp);
    if let (Some(own), Some(fastest)) = (period(sensor, "occi.sensor.period"), fastest)
        && fastest < own
    {
        notes.push(format!(
            "the sensor `{}` works every {fastest} s, as its collectors do, not every {own} s: the prototype has it so",
            sensor.id.as_deref().unwrap_or_default()
        ));
        sensor.attributes.insert("occi.sensor.period".into(), fastest.into());
    }
}
