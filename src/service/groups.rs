//! Who belongs to which group metric: selectors over the resource model, as service → labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::Resource;
use crate::policy::{GroupPolicy, MetricKind, ServicePolicy};

/// The members of a group: service → the labels that it counts under.
pub type Members = BTreeMap<Arc<str>, Vec<Arc<str>>>;

/// The members of every group metric of a service, among `resources`.
pub fn memberships(policy: &ServicePolicy, resources: &[Arc<Resource>]) -> Vec<(Arc<str>, Members)> {
    groups(policy)
        .map(|(metric, group)| {
            let members = resources
                .iter()
                // A group never counts its own service: it would feed on itself.
                .filter(|r| *r.id != *policy.name && group.from.matches(r))
                .map(|r| (r.id.as_str().into(), labels(group, r)))
                .collect();
            (metric, members)
        })
        .collect()
}

/// The group metrics of a service.
pub fn groups(policy: &ServicePolicy) -> impl Iterator<Item = (Arc<str>, &GroupPolicy)> {
    policy.monitor.iter().flat_map(|m| &m.metrics).filter_map(|m| match &m.kind {
        MetricKind::Group(group) => Some((m.name.clone(), group)),
        _ => None,
    })
}

/// The labels that a member counts under: its class, type or id, or the targets of the relation that `by` names.
fn labels(group: &GroupPolicy, resource: &Resource) -> Vec<Arc<str>> {
    let Some(by) = group.by.as_deref() else { return Vec::new() };
    let one = |value: &Option<String>| value.iter().map(|v| v.as_str().into()).collect();
    match by {
        "class" => one(&resource.class),
        "type" => one(&resource.kind),
        "id" => vec![resource.id.as_str().into()],
        relation => {
            let targets = resource.relations.iter().find(|(name, _)| name.eq_ignore_ascii_case(relation));
            targets.map(|(_, t)| t.iter().map(|t| t.as_str().into()).collect()).unwrap_or_default()
        }
    }
}
