//! From an entity to a response: with its links, its actions, and what a sensor does.

use std::sync::Arc;

use serde_json::Value as Json;

use super::super::draft::{Draft, DraftLink};
use super::super::extensions::monitoring;
use super::super::model::{Entity, What};
use super::super::monitoring::{Names, Settings, timing};
use super::super::registry::Registry;
use super::estate::Estate;
use super::sla;
use crate::model::Timestamp;

/// An entity as clients see it. Measurements never stand in it (R1-27).
pub(super) fn entity(estate: &Estate, settings: &Settings, now: Timestamp, entity: &Entity) -> Entity {
    let mut shown = plain(estate, settings, now, entity);
    if let What::Resource { links } = &mut shown.what {
        let places: Vec<&Arc<str>> = estate.links_from(&entity.location).collect();
        *links = places
            .into_iter()
            .filter_map(|place| estate.get(place))
            .map(|link| plain(estate, settings, now, link))
            .collect();
    }
    shown
}

fn plain(estate: &Estate, settings: &Settings, now: Timestamp, entity: &Entity) -> Entity {
    let mut shown = entity.clone();
    shown.actions = estate.registry.actions(&entity.kind, &entity.mixins);
    if estate.registry.is_a(&entity.kind, &monitoring::sensor())
        && let Some(status) = estate.statuses.get(entity.location.as_str())
    {
        let id = settings.names.status();
        let mut say = |name: &str, value: String| {
            shown.attributes.insert(settings.names.attribute(id.term(), name), Json::from(value));
        };
        // Nothing happens in the moment in which it ends, so nothing has noted it.
        let ended = status.state == "active" && timing::ended(&entity.attributes, now);
        say("state", if ended { "ended" } else { status.state }.into());
        if !status.missing.is_empty() {
            say("missing", status.missing.join(","));
        }
        if let Some(warning) = &status.warning {
            say("warning", warning.clone());
        }
        shown.mixins.push(id);
    }
    sla::show(estate, &settings.names, &mut shown);
    shown
}

/// Takes the states out of what was exported: what is made of it begins anew.
pub(super) fn begin_anew(registry: &Registry, draft: &mut Draft) {
    if let Some(kind) = &draft.kind {
        let described = registry.attributes(kind, &[]);
        let state = |name: &str| {
            [".state", ".state.message", ".agreedAt"].iter().any(|end| name.ends_with(end))
                && described.get(name).is_some_and(|attribute| !attribute.mutable)
        };
        draft.attributes.retain(|name, _| !state(name));
    }
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            begin_anew(registry, link);
        }
    }
}

/// Takes out of what a client sent what the server shows of what a sensor does, and of agreements.
pub(super) fn strip(names: &Names, draft: &mut Draft) {
    let status = names.status();
    draft.mixins.retain(|id| *id != status);
    draft.unclassed.retain(|id| *id != status);
    let prefix = names.attribute(status.term(), "");
    draft.attributes.retain(|name, _| !name.starts_with(&prefix) && !sla::is_shown(names, name));
    draft.actions.clear();
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            strip(names, link);
        }
    }
}
