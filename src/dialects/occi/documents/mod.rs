//! Documents: one entity each, by identifier, as the prototype keeps an infrastructure (S2). What stands in files is read here, and what belongs
//! to a sensor is found: its collectors, and what these measure.
//!
//! JSON is read in both forms, XML as it is exported; one file may hold one entity or many. A document in the old, nested form is one of the
//! prototype, and means what that made of it (`prototype`).

mod prototype;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use serde_json::{Map, Value as Json};

use super::draft::{Draft, DraftLink};
use super::extensions::{core, monitoring};
use super::fault::{Fault, shown};
use super::json;
use super::model::{End, Entity, TypeId, What};
use super::monitoring::{Names, Providers, template};
use super::registry::{Extension, Registry};
use super::validate::qualify;
use super::xml;

pub use prototype::Prototype;

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// What it says.
    pub draft: Draft,
    /// As it stood there, if it is one of the prototype.
    pub prototype: Option<Prototype>,
    /// Where it stood.
    pub file: String,
}

/// Documents by the identifiers of their entities.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    all: BTreeMap<String, Said>,
    /// Identifiers by the places that documents say of themselves.
    places: HashMap<String, String>,
    /// Worked out when it is first asked for.
    collectors: OnceLock<Collectors>,
}

/// The links of each sensor, each with where it leads.
pub type Collectors = BTreeMap<String, BTreeMap<String, Option<String>>>;

impl PartialEq for Documents {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

/// What a sensor needs: itself, its collectors, and what they measure.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// The sensor first, then what is measured.
    pub resources: Vec<Draft>,
    /// The collectors. They begin in the sensor.
    pub links: Vec<Draft>,
    /// What is left out, and what is read in another way than it is written.
    pub notes: Vec<String>,
}

/// Everything that documents may name, but for mixins of plug-ins.
///
/// # Errors
/// When a mixin of this program cannot be offered.
pub fn vocabulary() -> Result<Registry, Fault> {
    let mut registry = Registry::new(&Extension::ALL);
    Providers::new(&Names::default()).register(&mut registry)?;
    Ok(registry)
}

impl Documents {
    /// Adds what a file says. `now`: seconds since 1970.
    ///
    /// # Errors
    /// What cannot be read, with the file; an identifier that another document has; an entity without an identifier or a kind.
    pub fn add(&mut self, registry: &Registry, file: &str, text: &str, now: f64) -> Result<(), Fault> {
        let within = |fault: Fault| Fault { text: format!("{file}: {}", fault.text), ..fault };
        self.collectors = OnceLock::new();
        for (draft, prototype) in read(registry, text, now).map_err(within)? {
            let Some(id) = draft.id.clone() else {
                return Err(within(Fault::bad("an entity has no `id`; expected a URI")));
            };
            if let Some(other) = self.all.get_mut(&id) {
                // An export says a link in its resource and by itself.
                if same(&other.draft, &draft) {
                    other.draft.source = other.draft.source.take().or(draft.source);
                    other.draft.target = other.draft.target.take().or(draft.target);
                    continue;
                }
                return Err(Fault::conflict(format!(
                    "`{}` is described twice: in {} and in {file}",
                    shown(&id),
                    other.file
                )));
            }
            self.places.extend(draft.location.clone().map(|place| (place, id.clone())));
            self.all.insert(id, Said { draft, prototype, file: file.to_string() });
        }
        Ok(())
    }

    /// A document by its identifier; by a place or path that ends with it as well. What is at a URL is another one.
    pub fn find(&self, name: &str) -> Option<(&str, &Said)> {
        let exact = |id: &str| self.all.get_key_value(id).map(|(id, said)| (id.as_str(), said));
        if is_elsewhere(name) {
            return exact(name);
        }
        let last = || name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
        exact(name)
            .or_else(|| exact(last()))
            .or_else(|| exact(&format!("urn:uuid:{}", last())))
            .or_else(|| exact(self.places.get(name)?))
    }

    /// All of them, by identifier.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Said)> {
        self.all.iter().map(|(id, said)| (id.as_str(), said))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What the document of an entity says.
    pub fn draft(&self, id: &str) -> Option<&Draft> {
        self.all.get(id).map(|said| &said.draft)
    }

    /// A document, to change its attributes.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Said> {
        self.all.get_mut(id)
    }

    /// Adds other documents; those of the same entities take their place.
    pub fn take(&mut self, others: Self) {
        self.collectors = OnceLock::new();
        self.places.extend(others.places);
        self.all.extend(others.all);
    }

    /// The identifiers of the sensors.
    pub fn sensors(&self, registry: &Registry) -> Vec<String> {
        self.all.iter().filter(|(_, said)| is_sensor(registry, said)).map(|(id, _)| id.clone()).collect()
    }

    /// Which links belong to each sensor: those that it names, and those that have it as an end. Each with where it leads, as it says.
    pub fn collectors(&self, registry: &Registry) -> &Collectors {
        self.collectors.get_or_init(|| self.find_collectors(registry))
    }

    fn find_collectors(&self, registry: &Registry) -> Collectors {
        let sensors: BTreeSet<String> = self.sensors(registry).into_iter().collect();
        let mut found: Collectors = sensors.iter().map(|id| (id.clone(), BTreeMap::new())).collect();
        let sensor_at = |end: Option<&End>| {
            let (id, _) = self.find(&end?.location)?;
            sensors.contains(id).then(|| id.to_string())
        };
        for (id, said) in &self.all {
            let Draft { source, target, .. } = &said.draft;
            if !said.draft.is_link() {
                continue;
            }
            // A link between two sensors begins in the first.
            let ends = match (sensor_at(source.as_ref()), sensor_at(target.as_ref())) {
                (Some(sensor), _) => Some((sensor, target)),
                (None, Some(sensor)) => Some((sensor, source)),
                (None, None) => None,
            };
            if let Some((sensor, other)) = ends {
                let leads = other.as_ref().map(|end| end.location.clone());
                found.entry(sensor).or_default().insert(id.clone(), leads);
            }
        }
        for sensor in &sensors {
            for link in self.all.get(sensor).into_iter().flat_map(|said| &said.draft.links) {
                let DraftLink::Reference(name) = link else { continue };
                if let Some((id, said)) = self.find(name) {
                    let other = said.draft.target.as_ref().or(said.draft.source.as_ref());
                    let leads = other.map(|end| end.location.clone());
                    found.entry(sensor.clone()).or_default().entry(id.to_string()).or_insert(leads);
                }
            }
        }
        found
    }

    /// What belongs to a sensor. A collector without a document, or that leads to a document which is not there, is left out and named: something
    /// else than what was meant is never measured.
    ///
    /// # Errors
    /// 404 when there is no such sensor.
    pub fn of_sensor(&self, registry: &Registry, name: &str) -> Result<Part, Fault> {
        let missing = || Fault::not_found(format!("there is no document of the sensor `{}`", shown(name)));
        let (id, said) = self.find(name).ok_or_else(missing)?;
        let collectors = self
            .collectors(registry)
            .get(id)
            .ok_or_else(|| Fault::bad(format!("`{}` is no sensor: its kind is another", shown(name))))?;
        let mut part = Part::default();
        part.notes.extend(said.prototype.iter().flat_map(|p| p.notes.iter().cloned()));
        let mut sensor = said.draft.clone();
        for link in std::mem::take(&mut sensor.links) {
            if let DraftLink::Reference(name) = &link
                && self.find(name).is_none()
            {
                part.notes.push(format!(
                    "the sensor `{id}` names the collector `{name}`, of which there is no document"
                ));
            }
        }
        let mut measured = BTreeSet::new();
        for (link, leads) in collectors {
            let Some(said) = self.all.get(link) else { continue };
            let Some(leads) = leads else {
                part.notes.push(format!("the collector `{link}` has not two ends and is left out"));
                continue;
            };
            let target = self.find(leads);
            if target.is_none() && !is_elsewhere(leads) {
                part.notes.push(format!(
                    "the collector `{link}` is left out: it measures `{leads}`, of which there is no document"
                ));
                continue;
            }
            // What another process works out is not known in this one.
            if target.is_some_and(|(_, said)| is_sensor(registry, said)) {
                part.notes.push(format!(
                    "the collector `{link}` is left out: it leads to the sensor `{leads}`, and labels of another sensor are taken only within one server (run --occi)"
                ));
                continue;
            }
            if target.is_some_and(|(_, said)| said.draft.is_link()) {
                part.notes.push(format!(
                    "the collector `{link}` is left out: it leads to the link `{leads}`, not to a resource"
                ));
                continue;
            }
            let mut draft = said.draft.clone();
            draft.source = Some(End::at(id));
            draft.target = Some(End::at(target.map_or(leads.as_str(), |(id, _)| id)));
            part.notes.extend(said.prototype.iter().flat_map(|p| p.notes.iter().cloned()));
            part.links.push(draft);
            if let Some((id, said)) = target
                && measured.insert(id)
            {
                let mut draft = said.draft.clone();
                draft.links.clear();
                part.resources.push(draft);
            }
        }
        if said.prototype.is_some() {
            prototype::pace(&mut sensor, &part.links, &mut part.notes);
        }
        part.resources.insert(0, sensor);
        // What is not said by the documents themselves is not repeated to whom they describe.
        for draft in part.resources.iter_mut().chain(&mut part.links) {
            draft.location = None;
        }
        Ok(part)
    }

    /// A document as an entity to be rendered, at `/ID`; a sensor with its collectors.
    pub fn entity(&self, registry: &Registry, id: &str) -> Option<Entity> {
        let said = self.all.get(id)?;
        if !is_sensor(registry, said) {
            return Some(shell(id, &said.draft));
        }
        let part = self.of_sensor(registry, id).ok()?;
        let mut entity = shell(id, part.resources.first().unwrap_or(&said.draft));
        if let What::Resource { links } = &mut entity.what {
            *links =
                part.links.iter().map(|link| shell(link.id.as_deref().unwrap_or_default(), link)).collect();
        }
        Some(entity)
    }

    /// A document in the form that the prototype reads: nested attributes, ends of links and the links of a sensor as bare identifiers.
    pub fn nested(&self, registry: &Registry, id: &str) -> Option<Json> {
        let said = self.all.get(id)?;
        let mut value = match &said.prototype {
            Some(prototype) => prototype.said.clone(),
            None => {
                let mut entity = shell(id, &said.draft);
                if let What::Resource { links } = &mut entity.what {
                    links.clear();
                }
                json::as_of_1_1(json::entity_value(&entity))
            }
        };
        without_empty_ends(&mut value);
        if let Json::Object(object) = &mut value {
            object.remove("location");
            if is_sensor(registry, said)
                && let Ok(part) = self.of_sensor(registry, id)
            {
                let links: Vec<Json> =
                    part.links.iter().filter_map(|link| link.id.clone().map(Json::from)).collect();
                object.insert("links".into(), links.into());
            }
        }
        Some(value)
    }

    /// A document as it goes into a file, so that reading it again gives the same.
    pub fn written(&self, id: &str) -> Option<String> {
        let said = self.all.get(id)?;
        let value = match &said.prototype {
            Some(prototype) => prototype.said.clone(),
            None => {
                let mut value = json::entity_value(&shell(id, &said.draft));
                let references: Vec<Json> = said
                    .draft
                    .links
                    .iter()
                    .filter_map(|link| match link {
                        DraftLink::Reference(name) => Some(Json::from(name.as_str())),
                        DraftLink::Whole(_) => None,
                    })
                    .collect();
                if let Json::Object(object) = &mut value {
                    object.remove("location");
                    if !references.is_empty() {
                        object.insert("links".into(), references.into());
                    }
                }
                value
            }
        };
        let mut value = value;
        without_empty_ends(&mut value);
        serde_json::to_string_pretty(&value).ok().map(|text| text + "\n")
    }
}

/// Whether two say the same, but for where they are. A collector may be said either way round, and within its sensor without that end.
fn same(one: &Draft, other: &Draft) -> bool {
    let what = |draft: &Draft| (draft.kind.clone(), draft.title.clone(), draft.summary.clone());
    let ends = |draft: &Draft| -> BTreeSet<String> {
        draft.source.iter().chain(&draft.target).map(|end| end.location.clone()).collect()
    };
    let (mine, theirs) = (ends(one), ends(other));
    let mixins = |draft: &Draft| draft.mixins.iter().cloned().collect::<BTreeSet<TypeId>>();
    what(one) == what(other)
        && (mine.is_subset(&theirs) || theirs.is_subset(&mine))
        && mixins(one) == mixins(other)
        && one.attributes == other.attributes
        && one.links == other.links
}

/// Takes out what only servers say: what they set, and what a sensor that runs does. So what is exported of one can be deployed.
fn strip(registry: &Registry, draft: &mut Draft) {
    let names = Names::default();
    let status = names.status();
    let prefix = names.attribute(status.term(), "");
    draft.mixins.retain(|id| *id != status);
    draft.actions.clear();
    let Some(kind) = &draft.kind else { return };
    let described = registry.attributes(kind, &draft.mixins);
    let fixed = |name: &String| described.get(name.as_str()).is_some_and(|attribute| !attribute.mutable);
    draft.attributes.retain(|name, _| !name.starts_with(&prefix) && !fixed(name));
}

/// Turns values into the types that their mixins ask for, which XML does not tell.
fn coerce(registry: &Registry, draft: &mut Draft) {
    let Some(kind) = draft.kind.clone() else { return };
    let mixins = draft.mixins.clone();
    let described = registry.attributes(&kind, &mixins);
    draft.coerce(|name| described.get(name).copied());
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            coerce(registry, link);
        }
    }
}

/// Takes out ends that are not said.
fn without_empty_ends(value: &mut Json) {
    if let Json::Object(object) = value {
        object.retain(|name, end| {
            let place = end.as_str().or_else(|| end["location"].as_str());
            !matches!(name.as_str(), "source" | "target") || place != Some("")
        });
    }
}

fn is_sensor(registry: &Registry, said: &Said) -> bool {
    said.draft.kind.as_ref().is_some_and(|kind| registry.is_a(kind, &monitoring::sensor()))
}

/// Whether an end of a link can be something of which there is no document.
fn is_elsewhere(location: &str) -> bool {
    location.contains("://")
}

/// An entity with what a draft says.
fn shell(id: &str, draft: &Draft) -> Entity {
    let location = format!("/{id}");
    let what = match (&draft.source, &draft.target) {
        (None, None) => What::Resource { links: Vec::new() },
        (source, target) => {
            let end = |end: &Option<End>| end.clone().unwrap_or_else(|| End::at(""));
            What::Link { source: end(source), target: end(target) }
        }
    };
    let fallback = || if draft.is_link() { core::link() } else { core::resource() };
    Entity {
        id: id.to_string(),
        location,
        kind: draft.kind.clone().unwrap_or_else(fallback),
        mixins: draft.mixins.clone(),
        attributes: draft.attributes.clone(),
        title: draft.title.clone(),
        summary: draft.summary.clone(),
        actions: Vec::new(),
        what,
    }
}

/// The mixins of this program, which are the same for all documents.
fn providers() -> &'static Providers {
    static ALL: OnceLock<Providers> = OnceLock::new();
    ALL.get_or_init(|| Providers::new(&Names::default()))
}

/// The entities in a text, each by itself: links that stand in a resource come out of it.
fn read(registry: &Registry, text: &str, now: f64) -> Result<Vec<(Draft, Option<Prototype>)>, Fault> {
    let text = unwrapped(text.trim_start_matches('\u{feff}'));
    let mut found = Vec::new();
    let providers = providers();
    if text.trim_start().starts_with('<') {
        let document = xml::document(&text)?;
        for mut draft in document.resources.into_iter().chain(document.links) {
            qualify(registry, &mut draft);
            if draft.kind.is_none() {
                return Err(Fault::bad("`kind` is missing; expected the identifier of a kind"));
            }
            template::imply(providers, &mut draft);
            coerce(registry, &mut draft);
            apart(registry, draft, None, &mut found);
        }
        return Ok(found);
    }
    let value: Json = super::json::parse(&text)?;
    for (place, value) in entities(value)? {
        let within = |fault: Fault| match place.is_empty() {
            true => fault,
            false => Fault { text: format!("{place}: {}", fault.text), ..fault },
        };
        let prototype = prototype::converted(&value, now);
        let meant = prototype.as_ref().map_or(&value, |p| &p.meant);
        let mut draft =
            json::entity(&meant.to_string(), &|name| registry.holds_maps(name)).map_err(within)?;
        registry.classify(&mut draft).map_err(within)?;
        if prototype.is_some() {
            template::imply(providers, &mut draft);
            let (mixin, url) = container();
            if draft.attributes.contains_key(&url) && !draft.mixins.contains(&mixin) {
                draft.mixins.push(mixin);
            }
        }
        if draft.kind.is_none() {
            return Err(within(Fault::bad("`kind` is missing; expected the identifier of a kind")));
        }
        apart(registry, draft, prototype, &mut found);
    }
    Ok(found)
}

/// The prototype's server wraps its documents in a page; text that is neither stays as it is.
fn unwrapped(text: &str) -> std::borrow::Cow<'_, str> {
    let head: String = text.trim_start().chars().take(200).collect::<String>().to_ascii_lowercase();
    let page = head.starts_with("<!doctype html") || head.starts_with("<html") || head.starts_with("<meta");
    match (page, text.find('{'), text.rfind('}')) {
        (true, Some(from), Some(to)) if from < to => {
            let plain = [
                ("&quot;", "\""),
                ("&#34;", "\""),
                ("&#39;", "'"),
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&amp;", "&"),
            ];
            let unescape = |text: String, (escaped, plain): (&str, &str)| text.replace(escaped, plain);
            plain.into_iter().fold(text[from..=to].to_string(), unescape).into()
        }
        _ => text.into(),
    }
}

/// The values of single entities, with where they stand.
fn entities(value: Json) -> Result<Vec<(String, Json)>, Fault> {
    let listed = |name: &str, items: Vec<Json>| -> Vec<(String, Json)> {
        items.into_iter().enumerate().map(|(i, item)| (format!("`{name}[{i}]`"), item)).collect()
    };
    match value {
        Json::Array(items) => Ok(listed("", items)),
        Json::Object(mut object) if !object.contains_key("kind") => {
            let mut all = Vec::new();
            for name in ["resources", "links"] {
                match object.remove(name) {
                    Some(Json::Array(items)) => all.extend(listed(name, items)),
                    None => {}
                    Some(_) => return Err(Fault::bad(format!("`{name}` is no list"))),
                }
            }
            match all.is_empty() && !object.is_empty() {
                true => Err(Fault::bad("no entity: it has no `kind`, no `resources` and no `links`")),
                false => Ok(all),
            }
        }
        entity => Ok(vec![(String::new(), entity)]),
    }
}

/// Takes links that are said whole out of their resource, which names them from then on.
fn apart(
    registry: &Registry,
    mut draft: Draft,
    mut prototype: Option<Prototype>,
    into: &mut Vec<(Draft, Option<Prototype>)>,
) {
    strip(registry, &mut draft);
    let mut links = Vec::new();
    for (i, link) in std::mem::take(&mut draft.links).into_iter().enumerate() {
        let DraftLink::Whole(mut link) = link else {
            draft.links.push(link);
            continue;
        };
        if let Some(resource) = &draft.id {
            // The same at each reading.
            link.id.get_or_insert_with(|| format!("{resource}-link-{}", i + 1));
            if link.source.is_none() || link.target.is_none() {
                link.source.get_or_insert_with(|| End::at(resource.clone()));
            }
        }
        link.kind.get_or_insert_with(core::link);
        if let Some(id) = &link.id {
            draft.links.push(DraftLink::Reference(id.clone()));
        }
        links.push(*link);
    }
    if let (Some(prototype), false) = (&mut prototype, links.is_empty()) {
        prototype.name_links(&draft.links);
    }
    links.iter_mut().for_each(|link| strip(registry, link));
    into.push((draft, prototype));
    into.extend(links.into_iter().map(|link| (link, None)));
}

/// Whether a category is one of the mixins that this program, or the prototype, brings.
fn is_provided(id: &str) -> bool {
    id.starts_with("http://example.com/occi/monitoring/") || id.starts_with("http.//schemas.ogf.org/")
}

/// The mixin of a resource whose collectors a probe runs, and its attribute.
pub fn container() -> (TypeId, String) {
    let names = Names::default();
    let id = names.container();
    let url = names.attribute(id.term(), "url");
    (id, url)
}

fn object(value: &Json) -> Option<&Map<String, Json>> {
    value.as_object()
}
