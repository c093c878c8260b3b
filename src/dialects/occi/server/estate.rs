//! What there is: categories and entities, found by place and by identifier; and changes of them, which are made whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::super::draft::{Draft, DraftLink, identifier_at};
use super::super::extensions::{core, monitoring, notification, sla};
use super::super::fault::{Fault, FaultKind, shown};
use super::super::model::{End, Entity, Kind, TypeId, Values, What};
use super::super::monitoring::provider::Labels;
use super::super::monitoring::template;
use super::super::registry::Registry;
use super::super::validate::{self, Checked};
use super::scope::Owners;
use crate::dialects::access::uuid;

/// What a sensor is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// `active`, `suspended`, `incomplete`, `idle`, or `faulty` after a start with less than it needs.
    pub state: &'static str,
    /// What is missing: labels that nothing feeds, attributes that something needs.
    pub missing: Vec<String>,
    /// What is odd, and works.
    pub warning: Option<String>,
    /// Whether there is a service for it.
    pub runs: bool,
    /// The labels that sensors above it may take.
    pub labels: Labels,
}

/// Everything there is.
#[derive(Debug, Clone)]
pub struct Estate {
    /// The categories.
    pub registry: Registry,
    entities: BTreeMap<Arc<str>, Arc<Entity>>,
    ids: HashMap<String, Arc<str>>,
    /// The links that begin in each resource.
    links: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The links that lead to each place, whether there is something or not.
    leads: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// What sensors are doing.
    pub statuses: BTreeMap<Arc<str>, Status>,
    /// Whose what is.
    pub owners: Owners,
    /// What came of the objectives of agreements, by place.
    pub terms: BTreeMap<Arc<str>, &'static str>,
}

impl Estate {
    /// Nothing but categories.
    pub fn new(registry: Registry) -> Self {
        let (ids, entities) = (HashMap::new(), BTreeMap::new());
        let (links, leads, statuses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            registry,
            entities,
            ids,
            links,
            leads,
            statuses,
            owners: Owners::default(),
            terms: BTreeMap::new(),
        }
    }

    /// The entity at a place, without its links.
    pub fn get(&self, place: &str) -> Option<&Arc<Entity>> {
        self.entities.get(place)
    }

    /// All entities whose place begins like this, in order.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entity>> {
        let from = self.entities.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(place, _)| place.starts_with(prefix)).map(|(_, entity)| entity)
    }

    /// How many entities there are.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// The places of the links that begin at a place, in order.
    pub fn links_from<'a>(&'a self, place: &str) -> impl Iterator<Item = &'a Arc<str>> {
        self.links.get(place).into_iter().flatten()
    }

    fn insert(&mut self, entity: Arc<Entity>) {
        let place: Arc<str> = entity.location.as_str().into();
        self.remove(&place);
        self.ids.insert(entity.id.clone(), place.clone());
        if let What::Link { source, target } = &entity.what {
            self.links.entry(source.location.as_str().into()).or_default().insert(place.clone());
            self.leads.entry(target.location.as_str().into()).or_default().insert(place.clone());
        }
        self.entities.insert(place, entity);
    }

    fn remove(&mut self, place: &str) {
        let Some(entity) = self.entities.remove(place) else { return };
        self.ids.remove(&entity.id);
        if let What::Link { source, target } = &entity.what {
            forget(&mut self.links, &source.location, place);
            forget(&mut self.leads, &target.location, place);
        }
    }

    /// Makes a change true.
    pub fn commit(&mut self, change: Overlay) {
        for (place, entity) in change.changed {
            match entity {
                Some(entity) => self.insert(entity),
                None => {
                    self.remove(&place);
                    self.statuses.remove(&place);
                    self.owners.entities.remove(&place);
                }
            }
        }
        self.statuses.extend(change.statuses);
        self.owners.entities.extend(change.owners);
    }

    /// Puts what was kept where it was.
    pub fn restore(&mut self, entities: impl IntoIterator<Item = Entity>) {
        entities.into_iter().for_each(|entity| self.insert(Arc::new(entity)));
    }
}

fn forget(links: &mut BTreeMap<Arc<str>, BTreeSet<Arc<str>>>, end: &str, place: &str) {
    if let Some(places) = links.get_mut(end) {
        places.remove(place);
        if places.is_empty() {
            links.remove(end);
        }
    }
}

/// What differs from an estate.
#[derive(Debug, Default)]
pub struct Overlay {
    /// By place; `None`: removed.
    changed: BTreeMap<Arc<str>, Option<Arc<Entity>>>,
    /// Where what was changed is, by identifier; also where it was, if it is there no more.
    ids: HashMap<String, Arc<str>>,
    /// The changed links that begin at a place; also those that do no more.
    begins: HashMap<String, BTreeSet<Arc<str>>>,
    /// The changed links that lead to a place; also those that do no more.
    leads: HashMap<String, BTreeSet<Arc<str>>>,
    /// What sensors are doing then.
    pub statuses: BTreeMap<Arc<str>, Status>,
    /// Whose what is new is.
    pub owners: BTreeMap<Arc<str>, Arc<str>>,
}

impl Overlay {
    /// What is changed, by place; `None`: removed.
    pub fn changed(&self) -> &BTreeMap<Arc<str>, Option<Arc<Entity>>> {
        &self.changed
    }

    /// With what differs from this.
    pub fn merge(&mut self, more: Self) {
        for (place, entity) in more.changed {
            if entity.is_none() {
                self.statuses.remove(&place);
                self.owners.remove(&place);
            }
            self.changed.insert(place, entity);
        }
        self.ids.extend(more.ids);
        for (all, more) in [(&mut self.begins, more.begins), (&mut self.leads, more.leads)] {
            for (end, places) in more {
                all.entry(end).or_default().extend(places);
            }
        }
        self.statuses.extend(more.statuses);
        self.owners.extend(more.owners);
    }

    /// How many more entities there are with it.
    pub fn more_than(&self, estate: &Estate) -> usize {
        self.changed.iter().filter(|(place, e)| e.is_some() && estate.get(place).is_none()).count()
    }
}

/// A change on its way: what it would make of the estate, which stays as it is until [`Estate::commit`].
pub struct Change<'a> {
    estate: &'a Estate,
    /// Changes that were worked out before, and are not true yet.
    before: Option<&'a Overlay>,
    own: Overlay,
    /// The sensors that it touches.
    pub touched: BTreeSet<Arc<str>>,
    /// The sensors whose times the client has just said, with the names of these attributes.
    pub timed: BTreeMap<Arc<str>, BTreeSet<String>>,
    /// `http://host`: what places of ours may begin with.
    base: &'a str,
}

impl<'a> Change<'a> {
    /// No change yet.
    pub fn new(estate: &'a Estate, base: &'a str) -> Self {
        let (own, touched, timed) = (Overlay::default(), BTreeSet::new(), BTreeMap::new());
        Self { estate, before: None, own, touched, timed, base }
    }

    /// No change yet, after others that are not true yet.
    pub fn after(estate: &'a Estate, before: &'a Overlay, base: &'a str) -> Self {
        Self { before: Some(before), ..Self::new(estate, base) }
    }

    /// What it changes, by place; `None`: removed.
    pub fn changed(&self) -> &BTreeMap<Arc<str>, Option<Arc<Entity>>> {
        &self.own.changed
    }

    /// What is to be committed.
    pub fn into_overlay(self) -> Overlay {
        self.own
    }

    /// The entity at a place, as it was before this change.
    pub fn was(&self, place: &str) -> Option<&Arc<Entity>> {
        match self.before.and_then(|before| before.changed.get(place)) {
            Some(changed) => changed.as_ref(),
            None => self.estate.get(place),
        }
    }

    /// Whose the entity at a place was before this change.
    pub fn owner(&self, place: &str) -> Option<&Arc<str>> {
        self.was(place)?;
        let before = self.before.and_then(|before| before.owners.get(place));
        before.or_else(|| self.estate.owners.entities.get(place))
    }

    /// The categories.
    pub fn registry(&self) -> &'a Registry {
        &self.estate.registry
    }

    /// Whether what clients see at a place is about to be something else, by a change that was worked out before and is not true yet.
    pub fn is_in_flux(&self, place: &str) -> bool {
        self.before.is_some_and(|before| {
            before.changed.contains_key(place)
                || before.begins.contains_key(place)
                || before.statuses.contains_key(place)
        })
    }

    /// What the sensor at a place did before this change.
    pub fn status(&self, place: &str) -> Option<&Status> {
        self.was(place)?;
        let before = self.before.and_then(|before| before.statuses.get(place));
        before.or_else(|| self.estate.statuses.get(place))
    }

    /// The entity at a place, as it would be.
    pub fn get(&self, place: &str) -> Option<&Arc<Entity>> {
        match self.own.changed.get(place) {
            Some(changed) => changed.as_ref(),
            None => self.was(place),
        }
    }

    fn layers(&self) -> impl Iterator<Item = &Overlay> {
        [Some(&self.own), self.before].into_iter().flatten()
    }

    /// The links that would begin at a place, in order.
    pub fn links_from(&self, place: &str) -> Vec<Arc<Entity>> {
        let mut places: BTreeSet<&str> = self.estate.links_from(place).map(|place| &**place).collect();
        places.extend(self.layers().flat_map(|l| l.begins.get(place)).flatten().map(|place| &**place));
        let begins_there = |entity: &&Arc<Entity>| match &entity.what {
            What::Link { source, .. } => source.location == place,
            What::Resource { .. } => false,
        };
        places.into_iter().filter_map(|place| self.get(place)).filter(begins_there).cloned().collect()
    }

    /// The links that would lead to a place, in order.
    pub fn links_to(&self, place: &str) -> Vec<Arc<Entity>> {
        let mut places: BTreeSet<&Arc<str>> = self.estate.leads.get(place).into_iter().flatten().collect();
        places.extend(self.layers().flat_map(|l| l.leads.get(place)).flatten());
        let leads_there = |entity: &&Arc<Entity>| match &entity.what {
            What::Link { target, .. } => target.location == place,
            What::Resource { .. } => false,
        };
        places.into_iter().filter_map(|place| self.get(place)).filter(leads_there).cloned().collect()
    }

    fn by_id(&self, id: &str) -> Option<String> {
        let mut known = self.layers().filter_map(|l| l.ids.get(id)).chain(self.estate.ids.get(id));
        known.find(|place| self.get(place).is_some_and(|entity| entity.id == id)).map(ToString::to_string)
    }

    /// The place that a client means: a path, a URI of ours, an identifier; or something elsewhere, as it is.
    pub fn place(&self, said: &str) -> String {
        let said = said.trim();
        let path = said.strip_prefix(self.base).filter(|rest| rest.starts_with('/')).unwrap_or(said);
        match self.by_id(path) {
            Some(place) => place,
            None if path.starts_with('/') && path.len() > 1 => path.trim_end_matches('/').to_string(),
            None => self.by_id(&format!("urn:uuid:{path}")).unwrap_or_else(|| path.to_string()),
        }
    }

    fn touch(&mut self, entity: &Entity) {
        let begins = match &entity.what {
            What::Resource { .. } => entity.location.as_str(),
            What::Link { source, .. } => source.location.as_str(),
        };
        let known = self.get(begins).or_else(|| self.was(begins)).map_or(entity, |found| found);
        if self.is(known, &monitoring::sensor()) {
            self.touched.insert(begins.into());
        }
        self.touch_agreed(entity);
    }

    /// What an agreement asks is part of the sensors to which it is linked.
    fn touch_agreed(&mut self, entity: &Entity) {
        let links = match &entity.what {
            What::Link { .. } if self.is(entity, &sla::agreement_link()) => vec![Arc::new(entity.clone())],
            What::Resource { .. } if self.is(entity, &sla::agreement()) => self.links_from(&entity.location),
            _ => return,
        };
        for link in links {
            let What::Link { target, .. } = &link.what else { continue };
            if self.get(&target.location).is_some_and(|to| self.is(to, &monitoring::sensor())) {
                self.touched.insert(target.location.as_str().into());
            }
        }
    }

    /// Where its collectors run is said by a resource (the mixin of probes).
    fn touch_who_measures(&mut self, resource: &Entity) {
        if matches!(resource.what, What::Link { .. }) || self.is(resource, &monitoring::sensor()) {
            return;
        }
        let collector = monitoring::collector();
        for link in self.links_to(&resource.location) {
            if self.is(&link, &collector) {
                self.touch(&link);
            }
        }
    }

    fn notifies(&self, entity: &Entity) -> bool {
        let tag = notification::notifier();
        entity.mixins.iter().any(|mixin| self.estate.registry.depends_on(mixin, &tag))
    }

    /// A resource that is no notifier any more loses its notifications.
    fn silence(&mut self, before: &Entity) {
        let place = before.location.as_str();
        if !self.notifies(before) || self.get(place).is_some_and(|now| self.notifies(now)) {
            return;
        }
        for link in self.links_from(place) {
            if self.is(&link, &notification::notification()) {
                self.remove(&link.location);
            }
        }
    }

    fn is(&self, entity: &Entity, kind: &TypeId) -> bool {
        self.estate.registry.is_a(&entity.kind, kind)
    }

    /// Puts an entity at its place.
    pub fn put(&mut self, entity: Entity) {
        let before = self.get(&entity.location).cloned();
        if let Some(before) = before {
            self.touch(&before);
            self.touch_who_measures(&before);
        }
        self.touch(&entity);
        self.touch_who_measures(&entity);
        self.amend(entity);
    }

    /// Replaces what is known of an entity without touching what hangs on it.
    pub fn amend(&mut self, entity: Entity) {
        let place: Arc<str> = entity.location.as_str().into();
        self.own.ids.insert(entity.id.clone(), place.clone());
        if let What::Link { source, target } = &entity.what {
            self.own.begins.entry(source.location.clone()).or_default().insert(place.clone());
            self.own.leads.entry(target.location.clone()).or_default().insert(place.clone());
        }
        self.own.changed.insert(place, Some(Arc::new(entity)));
    }

    /// Takes an entity away, and with a resource the links that begin in it (GFD.221, composition).
    pub fn remove(&mut self, place: &str) {
        let Some(entity) = self.get(place).cloned() else { return };
        for link in self.links_from(place) {
            self.own.changed.insert(link.location.as_str().into(), None);
        }
        self.touch(&entity);
        self.touch_who_measures(&entity);
        self.own.changed.insert(place.into(), None);
        // The monitoring that was part of it goes with it.
        if let Some(watcher) = self.by_id(&template::watcher(&entity.id)) {
            self.remove(&watcher);
        }
    }

    /// A new entity, with the links in it; answers its place.
    ///
    /// # Errors
    /// 400 for what breaks a rule of the model, 409 for an identifier or a place that is taken.
    pub fn create(
        &mut self,
        draft: Draft,
        expected: Option<&TypeId>,
        at: Option<&str>,
    ) -> Result<String, Fault> {
        let checked = validate::create(&self.estate.registry, draft, expected)?;
        self.add(checked, at, None)
    }

    fn add(&mut self, checked: Checked, at: Option<&str>, source: Option<&str>) -> Result<String, Fault> {
        let registry = &self.estate.registry;
        let kind = registry.kind(&checked.kind).ok_or_else(|| Fault::bad("the kind is unknown"))?;
        let (id, place) = self.name(&checked, kind, at)?;
        let is_link = registry.is_a(&checked.kind, &core::link());
        let what = match is_link {
            false => What::Resource { links: Vec::new() },
            true => self.ends(&checked, source, None)?,
        };
        // Links that it only mentions are there already, or come later in the same document and say themselves where they begin.
        let inline = checked.links.clone();
        let entity = entity(checked, id, place.clone(), what);
        if self.is(&entity, &monitoring::sensor()) {
            self.timed.insert(place.as_str().into(), times(&entity.attributes, &Values::new()));
        }
        self.put(entity);
        for link in inline {
            self.add(link, None, Some(&place))?;
        }
        Ok(place)
    }

    /// The identifier and the place of a new entity.
    fn name(&self, checked: &Checked, kind: &Kind, at: Option<&str>) -> Result<(String, String), Fault> {
        let collection = kind.location.clone().unwrap_or_else(|| "/".into());
        let id = match (&checked.id, at) {
            (Some(id), _)
                if id.contains(char::is_control)
                    || id.len() > 512
                    || id.trim_start_matches("urn:uuid:").trim_matches(['.', '/', ' ']).is_empty() =>
            {
                let text = format!(
                    "`occi.core.id` is `{}`; expected a URI such as urn:uuid:…, of at most 512 characters",
                    shown(id)
                );
                return Err(Fault::bad(text));
            }
            (Some(id), _) => id.clone(),
            (None, Some(at)) => identifier_at(at),
            (None, None) => format!("urn:uuid:{}", uuid()),
        };
        let place = match at {
            Some(at) => at.to_string(),
            None => {
                let bare = id.strip_prefix("urn:uuid:").unwrap_or(&id);
                let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.~".contains(c) { c } else { '_' };
                let bare: String = bare.chars().map(safe).collect();
                format!("{collection}{}", bare.trim_matches('.'))
            }
        };
        if self.by_id(&id).is_some() {
            return Err(Fault::conflict(format!("the identifier `{}` is taken", shown(&id))));
        }
        if self.get(&place).is_some() || self.estate.registry.by_location(&place).is_some() {
            return Err(Fault::conflict(format!("the place `{}` is taken", shown(&place))));
        }
        Ok((id, place))
    }

    /// The ends of a link. One that measures begins in its sensor, whichever way round it was said.
    fn ends(&self, checked: &Checked, source: Option<&str>, before: Option<&str>) -> Result<What, Fault> {
        let at = |end: &Option<End>| end.as_ref().map(|end| self.place(&end.location));
        let source = source.map(str::to_string).or_else(|| at(&checked.source));
        let (Some(mut source), Some(mut target)) = (source, at(&checked.target)) else {
            return Err(Fault::bad(format!("the link of kind `{}` has not two ends", checked.kind)));
        };
        let sensor = monitoring::sensor();
        let is_sensor =
            |place: &str| self.get(place).is_some_and(|e| self.estate.registry.is_a(&e.kind, &sensor));
        if self.estate.registry.is_a(&checked.kind, &monitoring::collector()) {
            match (is_sensor(&source), is_sensor(&target)) {
                (false, true) => std::mem::swap(&mut source, &mut target),
                (false, false) => {
                    return Err(Fault::bad(format!(
                        "neither end of the collector is a sensor: its source is `{}`",
                        shown(&source)
                    )));
                }
                _ => {}
            }
        }
        let Some(begins) = self.get(&source) else {
            return Err(Fault::bad(format!("the source `{}` does not exist", shown(&source))));
        };
        if matches!(begins.what, What::Link { .. }) {
            return Err(Fault::bad(format!(
                "the source `{}` is a link; expected a resource",
                shown(&source)
            )));
        }
        if self.estate.registry.is_a(&checked.kind, &notification::notification()) && !self.notifies(begins) {
            return Err(Fault::bad(format!(
                "the source `{}` has not the mixin `{}`, which a source of notifications needs",
                shown(&source),
                notification::notifier()
            )));
        }
        let source = End { kind: Some(begins.kind.clone()), location: source };
        let kind = self.get(&target).map(|e| e.kind.clone());
        let said = checked.target.as_ref().and_then(|end| end.kind.clone());
        // What the link led to may have gone since.
        if kind.is_none() && target.starts_with('/') && before != Some(&*target) {
            return Err(Fault::bad(format!("the target `{}` does not exist", shown(&target))));
        }
        Ok(What::Link { source, target: End { kind: kind.or(said), location: target } })
    }

    /// Changes an entity: partly, or as a whole.
    ///
    /// # Errors
    /// 400 for what breaks a rule of the model; 404 for what is not there.
    pub fn update(&mut self, place: &str, draft: Draft, whole: bool) -> Result<(), Fault> {
        let current = self.get(place).cloned().ok_or_else(|| absent(place))?;
        let registry = &self.estate.registry;
        if draft.id.as_ref().is_some_and(|id| *id != current.id) {
            return Err(Fault::bad(format!("`occi.core.id` is `{}` and cannot be changed", current.id)));
        }
        let checked = match whole {
            true => validate::replace(registry, &current, draft)?,
            false => validate::update(registry, &current, draft)?,
        };
        let what = match &current.what {
            What::Link { target, .. } => self.ends(&checked, None, Some(&target.location))?,
            resource => resource.clone(),
        };
        let links = checked.links.clone();
        let changed = entity(checked, current.id.clone(), place.to_string(), what);
        let said = times(&changed.attributes, &current.attributes);
        if !said.is_empty() {
            self.timed.insert(place.into(), said);
        }
        self.put(changed);
        self.silence(&current);
        for link in links {
            let known = link.id.as_deref().and_then(|id| self.by_id(id));
            if known.is_none() {
                self.add(link, None, Some(place))?;
            }
        }
        Ok(())
    }

    /// Adds a mixin to an entity, with values for its attributes.
    ///
    /// # Errors
    /// As [`Change::update`].
    pub fn associate(&mut self, place: &str, mixin: &TypeId, attributes: Values) -> Result<(), Fault> {
        let draft = Draft { mixins: vec![mixin.clone()], attributes, ..Draft::default() };
        self.update(place, draft, false)
    }

    /// Takes a mixin from an entity, with the values that only it describes.
    ///
    /// # Errors
    /// 404 for what is not there.
    pub fn disassociate(&mut self, place: &str, mixin: &TypeId) -> Result<(), Fault> {
        let current = self.get(place).cloned().ok_or_else(|| absent(place))?;
        let mut entity = Entity::clone(&current);
        entity.mixins.retain(|id| id != mixin);
        let registry = &self.estate.registry;
        let described = registry.attributes(&entity.kind, &entity.mixins);
        // What a plug-in that is gone described stays: it may come back.
        let only_its = |name: &str| {
            registry.dependencies(mixin).iter().any(|m| m.attributes.contains_key(name))
                && !described.contains_key(name)
        };
        entity.attributes.retain(|name, _| !only_its(name));
        self.put(entity);
        self.silence(&current);
        Ok(())
    }

    /// Everything in a document: resources first, then links, so that ends are there.
    ///
    /// # Errors
    /// As [`Change::create`].
    pub fn create_all(&mut self, resources: Vec<Draft>, links: Vec<Draft>) -> Result<Vec<String>, Fault> {
        let mut places = Vec::new();
        let mut whole: Vec<Draft> = Vec::new();
        for mut draft in resources {
            // Links within resources may lead to resources that come later.
            let id = draft.id.get_or_insert_with(|| format!("urn:uuid:{}", uuid())).clone();
            for link in std::mem::take(&mut draft.links) {
                if let DraftLink::Whole(mut link) = link {
                    link.source.get_or_insert_with(|| End::at(id.clone()));
                    whole.push(*link);
                }
            }
            places.push(self.create(draft, None, None)?);
        }
        // The same link may stand within its source and by itself.
        let mut known: BTreeSet<String> = BTreeSet::new();
        for mut link in whole.into_iter().chain(links) {
            if link.id.as_ref().is_some_and(|id| !known.insert(id.clone())) {
                continue;
            }
            link.kind.get_or_insert_with(core::link);
            places.push(self.create(link, None, None)?);
        }
        Ok(places)
    }
}

/// Which times of a sensor are not what they were.
fn times(now: &Values, before: &Values) -> BTreeSet<String> {
    let names = ["timebase", "timestart", "timestop"].map(|name| format!("occi.sensor.{name}"));
    names.into_iter().filter(|name| now.get(name) != before.get(name)).collect()
}

fn entity(checked: Checked, id: String, location: String, what: What) -> Entity {
    Entity {
        id,
        location,
        kind: checked.kind,
        mixins: checked.mixins,
        attributes: checked.attributes,
        title: checked.title,
        summary: checked.summary,
        actions: Vec::new(),
        what,
    }
}

/// 404 for a place.
pub fn absent(place: &str) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is nothing at `{}`", shown(place)))
}
