//! Whose what is, and what others get of it (R1-36, R1-37). What somebody may not see is not there for them: a change that reaches it is refused
//! as if it reached nothing, whichever way it came; what they may only see cannot be changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::super::extensions::monitoring;
use super::super::fault::{Fault, FaultKind, shown as excerpt};
use super::super::model::{Category, Entity, Mixin, TypeId, What};
use super::super::monitoring::Settings;
use super::super::monitoring::provider::labels;
use super::super::registry::{Registry, Role};
use super::super::users::Who;
use super::estate::{Change, Estate, absent};
use super::shown;
use crate::model::Timestamp;

/// Whose what is.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// Of entities, by place. What is not here is nobody's.
    pub entities: BTreeMap<Arc<str>, Arc<str>>,
    /// Of mixins that clients made.
    pub mixins: HashMap<TypeId, Arc<str>>,
}

impl Owners {
    /// Whose the entity at a place is.
    pub fn of(&self, place: &str) -> Option<&str> {
        self.entities.get(place).map(|owner| &**owner)
    }
}

/// Whether an entity is there for somebody.
pub(super) fn sees(estate: &Estate, who: &Who, entity: &Entity) -> bool {
    sees_of(&estate.registry, who, estate.owners.of(&entity.location), entity)
}

fn sees_of(registry: &Registry, who: &Who, owner: Option<&str>, entity: &Entity) -> bool {
    who.may_everything() || (who.sees(owner) && !who.is_denied(registry, &entity.kind))
}

/// Whether somebody may change an entity.
pub(super) fn changes(estate: &Estate, who: &Who, entity: &Entity) -> bool {
    who.may_everything() || (sees(estate, who, entity) && who.changes(estate.owners.of(&entity.location)))
}

/// Whether a category is there for somebody: it is for them, and if a client made it, they see what that client has.
pub(super) fn offers(estate: &Estate, who: &Who, category: &Category) -> bool {
    if who.may_everything() {
        return true;
    }
    let made = match category {
        Category::Mixin(mixin) if mixin.user_defined => {
            who.sees(estate.owners.mixins.get(&mixin.id).map(|owner| &**owner))
        }
        _ => true,
    };
    made && !who.is_denied(&estate.registry, category.id())
}

/// Whether somebody may remove a mixin that a client made.
///
/// # Errors
/// 404 for one that is not there for them, 403 for one of somebody else.
pub(super) fn may_remove(estate: &Estate, who: &Who, mixin: &TypeId) -> Result<(), Fault> {
    let Some(Category::Mixin(Mixin { id, user_defined: true, .. })) = estate.registry.get(mixin) else {
        return Ok(());
    };
    let owner = estate.owners.mixins.get(id).map(|owner| &**owner);
    match (who.sees(owner), who.changes(owner)) {
        (_, true) => Ok(()),
        (true, false) => Err(forbidden(format!("the mixin `{}` is of somebody else", excerpt(id.as_str())))),
        (false, false) => Err(Fault::not_found(format!("there is no mixin `{}`", excerpt(id.as_str())))),
    }
}

/// An entity as somebody gets it: without the mixins that are not for them, and without what only these say.
pub(super) fn entity(
    estate: &Estate,
    settings: &Settings,
    who: &Who,
    now: Timestamp,
    entity: &Entity,
) -> Entity {
    let mut shown = shown::entity(estate, settings, now, entity);
    if who.may_everything() {
        return shown;
    }
    if let What::Resource { links } = &mut shown.what {
        links.retain(|link| sees(estate, who, link));
        links.iter_mut().for_each(|link| hide(estate, settings, who, link));
    }
    hide(estate, settings, who, &mut shown);
    shown
}

fn hide(estate: &Estate, settings: &Settings, who: &Who, entity: &mut Entity) {
    if !who.lacks_categories() {
        return;
    }
    let registry = &estate.registry;
    let hidden: BTreeSet<String> = denied_values(registry, who, entity).into_keys().cloned().collect();
    let missing = settings.names.attribute(settings.names.status().term(), "missing");
    // What a sensor lacks may be an attribute of a mixin that is not for them.
    let lacks = |name: &str| {
        let mixin = |mixin: &Mixin| mixin.attributes.contains_key(name) && who.is_denied(registry, &mixin.id);
        registry.providers().any(|provider| mixin(&provider.mixin))
            || name.parse::<TypeId>().is_ok_and(|id| who.is_denied(registry, &id))
    };
    if let Some(serde_json::Value::String(list)) = entity.attributes.get_mut(&missing) {
        *list = list.split(',').filter(|name| !lacks(name)).collect::<Vec<_>>().join(",");
    }
    entity.attributes.retain(|name, _| !hidden.contains(name));
    entity.mixins.retain(|mixin| !who.is_denied(registry, mixin));
    entity.actions = registry.actions(&entity.kind, &entity.mixins);
}

/// The values that only mixins describe which are not for somebody.
fn denied_values<'a>(
    registry: &Registry,
    who: &Who,
    entity: &'a Entity,
) -> BTreeMap<&'a String, &'a serde_json::Value> {
    let (denied, rest): (Vec<&TypeId>, Vec<&TypeId>) =
        entity.mixins.iter().partition(|mixin| who.is_denied(registry, mixin));
    if denied.is_empty() {
        return BTreeMap::new();
    }
    let rest: Vec<TypeId> = rest.into_iter().cloned().collect();
    let described = registry.attributes(&entity.kind, &rest);
    entity.attributes.iter().filter(|(name, _)| !described.contains_key(name.as_str())).collect()
}

fn forbidden(text: String) -> Fault {
    Fault::new(FaultKind::Forbidden, text)
}

/// Whether somebody may make a change: everything that it touches is theirs, and nothing of it is what is not for them. Answers whose what is
/// new will be: who made it, and of links whose their source is.
///
/// # Errors
/// 404 for what is not there for them, 400 for links to that, 403 for what they may not.
pub(super) fn check(
    change: &Change<'_>,
    who: &Who,
    settings: &Settings,
) -> Result<BTreeMap<Arc<str>, Arc<str>>, Fault> {
    let mut owners: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
    let Some(name) = who.name() else { return Ok(owners) };
    let new = |place: &Arc<str>, after: &Option<Arc<Entity>>| after.is_some() && change.was(place).is_none();
    // Resources first: they may be the sources of new links.
    for links in [false, true] {
        for (place, after) in change.changed().iter().filter(|(place, after)| new(place, after)) {
            let Some(entity) = after else { continue };
            let owner = match &entity.what {
                What::Resource { .. } if !links => Some(name.clone()),
                What::Link { source, .. } if links => match change.was(&source.location) {
                    Some(_) => change.owner(&source.location).cloned(),
                    None => owners.get(source.location.as_str()).cloned(),
                },
                _ => None,
            };
            owners.extend(owner.map(|owner| (place.clone(), owner)));
        }
    }
    if who.may_everything() {
        return Ok(owners);
    }
    for (place, after) in change.changed() {
        if let Some(before) = change.was(place) {
            reachable(change, who, before)?;
        }
        if let Some(What::Link { source, target }) = after.as_ref().map(|entity| &entity.what) {
            ends(change, who, &source.location, &target.location)?;
        }
    }
    allowed(change, who, settings)?;
    Ok(owners)
}

/// Whether what was at a place before a change was there for somebody.
pub(super) fn saw(change: &Change<'_>, who: &Who, place: &str) -> bool {
    let owner = change.owner(place).map(|owner| &**owner);
    change.was(place).is_some_and(|entity| sees_of(change.registry(), who, owner, entity))
}

fn reachable(change: &Change<'_>, who: &Who, entity: &Entity) -> Result<(), Fault> {
    let owner = change.owner(&entity.location).map(|owner| &**owner);
    match (saw(change, who, &entity.location), who.changes(owner)) {
        (true, true) => Ok(()),
        (true, false) => {
            Err(forbidden(format!("`{}` is of somebody else; you may look at it", entity.location)))
        }
        (false, _) => Err(absent(&entity.location)),
    }
}

fn ends(change: &Change<'_>, who: &Who, source: &str, target: &str) -> Result<(), Fault> {
    let gone = |end: &str, place: &str| Fault::bad(format!("the {end} `{}` does not exist", excerpt(place)));
    if let Some(entity) = change.was(source) {
        match saw(change, who, source) {
            true => reachable(change, who, entity)?,
            false => return Err(gone("source", source)),
        }
    }
    match change.was(target) {
        Some(_) if !saw(change, who, target) => Err(gone("target", target)),
        _ => Ok(()),
    }
}

/// Refuses what is not for somebody: to use it, to take it away, and to tap what others made with it.
fn allowed(change: &Change<'_>, who: &Who, settings: &Settings) -> Result<(), Fault> {
    if !who.lacks_categories() {
        return Ok(());
    }
    let registry = change.registry();
    let denied = |entity: &Entity| -> BTreeSet<TypeId> {
        entity.mixins.iter().filter(|mixin| who.is_denied(registry, mixin)).cloned().collect()
    };
    let not_for = |id: &TypeId| forbidden(format!("`{id}` is not for you"));
    let mut sensors: BTreeSet<&str> = BTreeSet::new();
    for (place, after) in change.changed() {
        if let Some(What::Link { source, .. }) = change.was(place).map(|entity| &entity.what) {
            sensors.insert(&source.location);
        }
        let Some(entity) = after else { continue };
        sensors.insert(match &entity.what {
            What::Link { source, .. } => &source.location,
            What::Resource { .. } => place,
        });
        let before = change.was(place);
        if before.is_none() && who.is_denied(registry, &entity.kind) {
            return Err(not_for(&entity.kind));
        }
        let had = before.map(|before| denied(before)).unwrap_or_default();
        let has = denied(entity);
        if let Some(other) = had.symmetric_difference(&has).next() {
            return Err(not_for(other));
        }
        if let Some(before) = before
            && denied_values(registry, who, before) != denied_values(registry, who, entity)
        {
            return Err(forbidden(format!("values of `{place}` are not for you")));
        }
        if let What::Link { target, .. } = &entity.what
            && let Some(label) = denied_labels(change, who, settings, entity).first()
        {
            let (label, place) = (excerpt(label), &target.location);
            return Err(forbidden(format!("the label `{label}` of `{place}` is not for you")));
        }
    }
    for place in sensors {
        let Some(sensor) = change.get(place).filter(|e| registry.is_a(&e.kind, &monitoring::sensor())) else {
            continue;
        };
        let parts = change.links_from(place);
        if parts.iter().chain([sensor]).any(|part| !denied(part).is_empty()) {
            return Err(forbidden(format!(
                "`{place}` has parts that are not for you, which others gave it; you may remove it, and not change it"
            )));
        }
    }
    Ok(())
}

/// The labels of another sensor that a collector takes and that are fed by what is not for somebody.
pub(super) fn denied_labels(
    change: &Change<'_>,
    who: &Who,
    settings: &Settings,
    link: &Entity,
) -> BTreeSet<String> {
    let What::Link { target, .. } = &link.what else { return BTreeSet::new() };
    let registry = change.registry();
    let wanted = labels(link.attributes.get(&settings.names.attribute("Label", "label")));
    let parts = change.links_from(&target.location);
    let mut found = BTreeSet::new();
    for part in parts.iter().chain(change.get(&target.location)) {
        for mixin in part.mixins.iter().filter(|mixin| who.is_denied(registry, mixin)) {
            let parts = registry.dependencies(mixin);
            let outputs = parts
                .iter()
                .filter_map(|mixin| registry.provider(&mixin.id))
                .flat_map(|provider| &provider.roles);
            let outputs = outputs.filter(|(_, role)| **role == Role::Out);
            let fed = outputs.flat_map(|(name, _)| labels(part.attributes.get(name)));
            found.extend(fed.filter(|label| wanted.contains(label)));
        }
    }
    found
}
