//! Sensors above sensors: which takes labels of which, and in which order they are worked out. They may be a tree of any depth; a circle is
//! refused, since nothing would ever be measured in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::super::extensions::monitoring;
use super::super::fault::Fault;
use super::super::model::{Entity, What};
use super::super::monitoring::provider::Lower;
use super::super::monitoring::translate::{service_name, takes_labels};
use super::super::users::Who;
use super::estate::{Change, Status};
use super::{Occi, scope};

/// How many sensors of a circle are told.
const TOLD: usize = 8;

/// The places that the collectors of a sensor take labels from, sensors or not.
fn below(occi: &Occi, change: &Change<'_>, place: &str) -> Vec<Arc<str>> {
    let (estate, providers) = (occi.estate(), occi.providers());
    let links = change.links_from(place).into_iter();
    let taking = links.filter(|link| takes_labels(&estate.registry, &providers, link));
    taking.filter_map(|link| target(&link).map(Arc::from)).collect()
}

fn target(link: &Entity) -> Option<&str> {
    match &link.what {
        What::Link { target, .. } => Some(&target.location),
        What::Resource { .. } => None,
    }
}

/// The sensors that take labels of one.
pub(super) fn above(occi: &Occi, change: &Change<'_>, place: &str) -> Vec<Arc<str>> {
    let (estate, providers) = (occi.estate(), occi.providers());
    let links = change.links_to(place).into_iter();
    let taking = links.filter(|link| takes_labels(&estate.registry, &providers, link));
    taking
        .filter_map(|link| match &link.what {
            What::Link { source, .. } => Some(source.location.as_str().into()),
            What::Resource { .. } => None,
        })
        .filter(|place: &Arc<str>| change.get(place).is_some())
        .collect()
}

/// The sensors that these collectors of a sensor lead to and that run, by place; of their labels those that are for whose the sensor is.
pub(super) fn lower(
    occi: &Occi,
    change: &Change<'_>,
    place: &str,
    collectors: &[(Entity, f64)],
    statuses: &BTreeMap<Arc<str>, Status>,
) -> BTreeMap<String, Lower> {
    let (estate, providers) = (occi.estate(), occi.providers());
    let sensor = monitoring::sensor();
    let mut all: BTreeMap<String, Lower> = BTreeMap::new();
    let owner = occi.settings.users.as_ref().and_then(|users| users.named(change.owner(place)?));
    let limited = owner.filter(Who::lacks_categories);
    for (link, _) in collectors.iter().filter(|(link, _)| takes_labels(&estate.registry, &providers, link)) {
        let Some(place) = target(link) else { continue };
        let Some(entity) = change.get(place).filter(|e| estate.registry.is_a(&e.kind, &sensor)) else {
            continue;
        };
        let status = statuses.get(place).or_else(|| change.status(place));
        if let Some(status) = status.filter(|status| status.runs) {
            let lower = all.entry(place.to_string()).or_insert_with(|| Lower {
                service: service_name(&entity.id),
                labels: status.labels.clone(),
            });
            // What feeds a label may have become what is not for them since they made the collector.
            if let Some(who) = &limited {
                for label in scope::denied_labels(change, who, &occi.settings, link) {
                    lower.labels.remove(&label);
                }
            }
        }
    }
    all
}

/// These sensors, each after those of them that it takes labels of, by however many steps.
///
/// # Errors
/// 400 for sensors that take labels of each other in a circle.
pub(super) fn order(
    occi: &Occi,
    change: &Change<'_>,
    touched: &BTreeSet<Arc<str>>,
) -> Result<Vec<Arc<str>>, Fault> {
    // `true`: on the path that is followed; `false`: done. The path has its own stack: it may be as long as there are sensors.
    let mut seen: HashMap<Arc<str>, bool> = HashMap::new();
    let mut order = Vec::with_capacity(touched.len());
    for start in touched {
        if seen.contains_key(start) {
            continue;
        }
        seen.insert(start.clone(), true);
        let mut path = vec![(start.clone(), below(occi, change, start))];
        while let Some((place, next)) = path.last_mut() {
            let Some(lower) = next.pop() else {
                seen.insert(place.clone(), false);
                if touched.contains(place) {
                    order.push(place.clone());
                }
                path.pop();
                continue;
            };
            match seen.get(&lower) {
                Some(true) => return Err(circle(path.iter().map(|(place, _)| place), &lower)),
                Some(false) => {}
                None => {
                    seen.insert(lower.clone(), true);
                    let next = below(occi, change, &lower);
                    path.push((lower, next));
                }
            }
        }
    }
    Ok(order)
}

fn circle<'a>(path: impl Iterator<Item = &'a Arc<str>>, first: &Arc<str>) -> Fault {
    let round: Vec<String> =
        path.skip_while(|place| *place != first).map(|place| format!("`{place}`")).collect();
    if round.len() == 1 {
        return Fault::bad(format!(
            "the sensor {} takes a label of itself; name the label where it is used",
            round[0]
        ));
    }
    let told = round.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    let more = if round.len() > TOLD { format!(" and {} more", round.len() - TOLD) } else { String::new() };
    Fault::bad(format!("the sensors {told}{more} take labels of each other, in a circle"))
}
