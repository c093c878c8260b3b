//! The resource model as a whole: what there is, what a selector selects, and what is related to what.
//!
//! Class, type and relations are indexed, so a selector looks only at the smallest set that it names. Every change raises versions;
//! who depends on a selection compares them ([`Membership`]) and looks again only when something near it changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{Resource, Selector};

/// Resources by id.
type Ids = BTreeSet<Arc<str>>;

/// A set of ids and the version of the model at which it, or a resource in it, last changed.
#[derive(Debug, Clone, Default)]
struct Shelf {
    ids: Ids,
    version: u64,
}

/// All resources of the model, managed services included.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    by_id: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Emptied shelves stay: their versions are still compared.
    by_class: HashMap<String, Shelf>,
    by_kind: HashMap<String, Shelf>,
    /// Who has a relation to a resource: relation → target → sources.
    by_target: HashMap<String, HashMap<String, Ids>>,
    version: u64,
}

/// Relations that lead from a whole to its parts (Tower 4Clouds: an `InternalComponent` and its methods, a `Node` and its VMs, a `Cluster` or
/// `Rack` and its nodes).
pub const WHOLE_TO_PART: &[&str] = &["providedMethods", "vms", "nodes"];

impl Resources {
    /// An empty model.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a resource in, in place of the one of the same id, which is returned. An equal one changes no version.
    pub fn insert(&mut self, resource: impl Into<Arc<Resource>>) -> Option<Arc<Resource>> {
        let resource = resource.into();
        let id: Arc<str> = match self.by_id.get_key_value(resource.id.as_str()) {
            Some((_, before)) if **before == *resource => return Some(before.clone()),
            Some((id, _)) => id.clone(),
            None => resource.id.as_str().into(),
        };
        let before = self.remove(&id);
        if before.is_none() {
            self.version += 1;
        }
        let version = self.version;
        let shelve = |shelves: &mut HashMap<String, Shelf>, name: &Option<String>| {
            if let Some(name) = name {
                let shelf = shelves.entry(name.clone()).or_default();
                shelf.ids.insert(id.clone());
                shelf.version = version;
            }
        };
        shelve(&mut self.by_class, &resource.class);
        shelve(&mut self.by_kind, &resource.kind);
        for (relation, targets) in &resource.relations {
            let by_target = self.by_target.entry(relation.clone()).or_default();
            for target in targets {
                by_target.entry(target.clone()).or_default().insert(id.clone());
            }
        }
        self.by_id.insert(id, resource);
        before
    }

    /// Takes a resource out. Relations of others that name it stay, and lead nowhere.
    pub fn remove(&mut self, id: &str) -> Option<Arc<Resource>> {
        let resource = self.by_id.remove(id)?;
        self.version += 1;
        let version = self.version;
        let unshelve = |shelves: &mut HashMap<String, Shelf>, name: &Option<String>| {
            if let Some(shelf) = name.as_ref().and_then(|name| shelves.get_mut(name)) {
                shelf.ids.remove(id);
                shelf.version = version;
            }
        };
        unshelve(&mut self.by_class, &resource.class);
        unshelve(&mut self.by_kind, &resource.kind);
        for (relation, targets) in &resource.relations {
            let Some(by_target) = self.by_target.get_mut(relation) else { continue };
            for target in targets {
                if let Some(sources) = by_target.get_mut(target) {
                    sources.remove(id);
                    if sources.is_empty() {
                        by_target.remove(target);
                    }
                }
            }
        }
        Some(resource)
    }

    /// The resource of this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Resource>> {
        self.by_id.get(id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> + '_ {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Rises with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A version that rises at least whenever what `selector` selects changes, members that only changed themselves included.
    /// It is that of the selector's class or type where it names one, so that changes elsewhere cost nothing.
    pub fn version_of(&self, selector: &Selector) -> u64 {
        let shelf = |shelves: &HashMap<String, Shelf>, name: &Option<String>| {
            name.as_ref().map(|name| shelves.get(name).map_or(0, |shelf| shelf.version))
        };
        match (shelf(&self.by_class, &selector.class), shelf(&self.by_kind, &selector.kind)) {
            (Some(class), Some(kind)) => class.min(kind),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => self.version,
        }
    }

    /// What `selector` selects, by id.
    pub fn select(&self, selector: &Selector) -> Vec<&Arc<Resource>> {
        if let Some(id) = selector.id.as_deref().filter(|id| !id.contains('*')) {
            return self.get(id).filter(|resource| selector.matches(resource)).into_iter().collect();
        }
        match self.smallest(selector) {
            Candidates::All => self.by_id.values().filter(|resource| selector.matches(resource)).collect(),
            Candidates::None => Vec::new(),
            Candidates::Some(ids) => ids
                .iter()
                .filter_map(|id| self.by_id.get(id))
                .filter(|resource| selector.matches(resource))
                .collect(),
        }
    }

    /// The smallest indexed set that contains everything `selector` selects.
    fn smallest(&self, selector: &Selector) -> Candidates<'_> {
        let class = selector.class.as_ref().map(|class| self.by_class.get(class).map(|shelf| &shelf.ids));
        let kind = selector.kind.as_ref().map(|kind| self.by_kind.get(kind).map(|shelf| &shelf.ids));
        let related = selector
            .relations
            .iter()
            .map(|(relation, target)| self.by_target.get(relation).and_then(|targets| targets.get(target)));
        let mut best = Candidates::All;
        for ids in class.into_iter().chain(kind).chain(related) {
            match (ids, &best) {
                (None, _) => return Candidates::None,
                (Some(ids), Candidates::Some(least)) if least.len() <= ids.len() => {}
                (Some(ids), _) => best = Candidates::Some(ids),
            }
        }
        best
    }

    /// The ids that `id` reaches by following `relation` one or more times (R2-09: inference over transitive relations). A target
    /// need not be a resource of the model; a circle ends where it began, which is then among them.
    pub fn reachable(&self, id: &str, relation: &str) -> BTreeSet<&str> {
        closure(id, |id| {
            let targets = self.by_id.get(id).and_then(|resource| resource.relations.get(relation));
            targets.into_iter().flatten().map(String::as_str).collect()
        })
    }

    /// The ids from which `id` is reached by following `relation` one or more times.
    pub fn reaching(&self, id: &str, relation: &str) -> BTreeSet<&str> {
        closure(id, |id| self.related_to(id, relation).collect())
    }

    /// What of `class` the resource is on, in or of: itself when it is one, otherwise those that are reached along its relations, over as many
    /// resources as it takes, each path ending at the first of that class (R2-25). Relations lead from a part to what carries it
    /// (`requiredComponents`, `cloudProvider`, `location`, …), but for those of [`WHOLE_TO_PART`], which are followed backwards. A target of a
    /// relation that is called like the class (`cloudProvider`) is of that class, whether or not the model has it. By id; a circle ends.
    pub fn upward(&self, id: &str, class: &str) -> Vec<Arc<str>> {
        let is = |id: &str| self.get(id).and_then(|r| r.class.as_deref()).is_some_and(|c| c == class);
        if is(id) {
            return vec![id.into()];
        }
        let mut found = BTreeSet::new();
        let (mut seen, mut open) = (BTreeSet::from([id]), vec![id]);
        while let Some(id) = open.pop() {
            let relations = self.get(id).into_iter().flat_map(|r| &r.relations);
            let forward = relations
                .filter(|(relation, _)| !WHOLE_TO_PART.contains(&relation.as_str()))
                .flat_map(|(relation, to)| to.iter().map(move |to| (relation.as_str(), to.as_str())));
            let backward = WHOLE_TO_PART
                .iter()
                .flat_map(|relation| self.related_to(id, relation).map(|whole| ("", whole)));
            for (relation, next) in forward.chain(backward) {
                if is(next) || relation.eq_ignore_ascii_case(class) {
                    found.insert(next);
                } else if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        found.into_iter().map(Into::into).collect()
    }

    /// The ids that have `relation` to `target` directly.
    pub fn related_to<'a>(&'a self, target: &str, relation: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let sources = self.by_target.get(relation).and_then(|targets| targets.get(target));
        sources.into_iter().flatten().map(|id| &**id)
    }
}

enum Candidates<'a> {
    All,
    None,
    Some(&'a Ids),
}

/// Everything reached from `start` by one or more steps.
fn closure<'a>(start: &str, step: impl Fn(&str) -> Vec<&'a str>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = step(start);
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(step(id));
        }
    }
    found
}

/// Who is selected, kept up to date by comparing versions.
#[derive(Debug, Clone)]
pub struct Membership {
    selector: Selector,
    /// The version at which `members` were selected; `None` before the first time.
    seen: Option<u64>,
    members: Ids,
}

/// Who came and who went, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Movement {
    /// Selected now and not before.
    pub joined: Vec<Arc<str>>,
    /// Selected before and not now.
    pub left: Vec<Arc<str>>,
}

impl Membership {
    /// The selection by `selector`, nobody yet.
    pub fn new(selector: Selector) -> Self {
        Self { selector, seen: None, members: Ids::new() }
    }

    /// Brings the members up to date, and says who came and went; nothing is looked at when no version near the selection has risen.
    pub fn refresh(&mut self, resources: &Resources) -> Movement {
        let version = resources.version_of(&self.selector);
        if self.seen == Some(version) {
            return Movement::default();
        }
        self.seen = Some(version);
        let now: Ids = resources
            .select(&self.selector)
            .into_iter()
            .filter_map(|resource| resources.by_id.get_key_value(resource.id.as_str()))
            .map(|(id, _)| id.clone())
            .collect();
        let movement = Movement {
            joined: now.difference(&self.members).cloned().collect(),
            left: self.members.difference(&now).cloned().collect(),
        };
        self.members = now;
        movement
    }

    /// The members at the last refresh, by id.
    pub fn members(&self) -> impl Iterator<Item = &Arc<str>> + '_ {
        self.members.iter()
    }

    /// Whether `id` was a member at the last refresh.
    pub fn contains(&self, id: &str) -> bool {
        self.members.contains(id)
    }

    /// Who is selected.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resource(id: &str, class: &str, kind: &str, relations: &[(&str, &str)]) -> Resource {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (relation, target) in relations {
            map.entry(relation.to_string()).or_default().push(target.to_string());
        }
        let name = |text: &str| (!text.is_empty()).then(|| text.to_string());
        Resource { id: id.into(), class: name(class), kind: name(kind), relations: map, provides: Vec::new() }
    }

    fn pick(json: serde_json::Value) -> Selector {
        serde_json::from_value(json).expect("selector")
    }

    fn words(options: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
        prop::sample::select(options)
    }

    proptest! {
        #[test]
        fn the_indexes_select_what_looking_at_everything_selects(
            steps in prop::collection::vec(
                (0_u8..12, words(&["", "VM", "Node"]), words(&["", "Front", "Back"]), words(&["", "a", "b"]), 0_u8..5),
                1..60,
            ),
            class in words(&["", "VM", "Node"]), kind in words(&["", "Front", "Back"]),
            target in words(&["", "a", "b"]), id in words(&["", "r1*", "r3", "*"]),
        ) {
            let name = |text: &str| (!text.is_empty()).then(|| text.to_string());
            let selector = Selector {
                class: name(class), kind: name(kind), id: name(id),
                relations: name(target).map(|t| ("on".to_string(), t)).into_iter().collect(),
            };
            let (mut resources, mut naive) = (Resources::new(), BTreeMap::new());
            let mut membership = Membership::new(selector.clone());
            let mut followed: BTreeSet<String> = BTreeSet::new();
            for (n, class, kind, target, what) in steps {
                let id = format!("r{n}");
                if what == 0 {
                    prop_assert_eq!(resources.remove(&id).is_some(), naive.remove(&id).is_some());
                } else {
                    let relations: Vec<_> = (!target.is_empty()).then_some(("on", target)).into_iter().collect();
                    let new = resource(&id, class, kind, &relations);
                    resources.insert(new.clone());
                    naive.insert(id, new);
                }
                let want: Vec<String> =
                    naive.values().filter(|r| selector.matches(r)).map(|r| r.id.clone()).collect();
                let have: Vec<String> = resources.select(&selector).iter().map(|r| r.id.clone()).collect();
                let mut sorted = want.clone();
                sorted.sort();
                prop_assert_eq!(&have, &sorted);
                let movement = membership.refresh(&resources);
                for id in &movement.left { prop_assert!(followed.remove(&**id)); }
                for id in &movement.joined { prop_assert!(followed.insert(id.to_string())); }
                prop_assert_eq!(followed.iter().cloned().collect::<Vec<_>>(), sorted);
            }
            prop_assert_eq!(resources.len(), naive.len());
        }
    }

    /// Requirement: R2-25
    #[test]
    fn a_group_is_found_however_far_up_it_is() {
        let mut resources = Resources::new();
        for (id, class, relations) in [
            ("checkout", "Method", &[][..]),
            (
                "web",
                "InternalComponent",
                &[
                    ("providedMethods", "checkout"),
                    ("requiredComponents", "vm1"),
                    ("requiredComponents", "db"),
                ],
            ),
            ("db", "InternalComponent", &[("requiredComponents", "vm2"), ("requiredComponents", "web")]),
            ("vm1", "VM", &[("cloudProvider", "amazon"), ("location", "eu")]),
            ("vm2", "VM", &[("cloudProvider", "flexiant")]),
            ("amazon", "CloudProvider", &[]),
            ("node1", "Node", &[("vms", "vm2")]),
            ("cluster1", "Cluster", &[("nodes", "node1")]),
            ("rack1", "Rack", &[("nodes", "node1")]),
        ] {
            resources.insert(resource(id, class, "", relations));
        }
        let up =
            |class| resources.upward("checkout", class).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(up("Method"), ["checkout"]);
        assert_eq!(up("InternalComponent"), ["web"], "what web needs does not provide the method");
        assert_eq!(up("VM"), ["vm1", "vm2"], "over required components, however many");
        assert_eq!(up("CloudProvider"), ["amazon", "flexiant"], "a provider that is only named is one");
        assert_eq!(up("Location"), ["eu"]);
        assert_eq!(up("Node"), ["node1"]);
        assert_eq!(up("Cluster"), ["cluster1"]);
        assert_eq!(up("Rack"), ["rack1"]);
        assert!(up("PaaSService").is_empty());
        assert!(resources.upward("amazon", "VM").is_empty(), "not downwards");
        assert!(resources.upward("nobody", "VM").is_empty());
    }

    #[test]
    fn a_change_elsewhere_does_not_touch_a_selection() {
        let mut resources = Resources::new();
        resources.insert(resource("vm1", "VM", "Front", &[]));
        let vms = pick(serde_json::json!({"class": "VM"}));
        let (all, near) = (resources.version(), resources.version_of(&vms));
        resources.insert(resource("db1", "Database", "", &[]));
        assert!(resources.version() > all);
        assert_eq!(resources.version_of(&vms), near);
        resources.insert(resource("vm1", "VM", "Front", &[]));
        assert_eq!(resources.version_of(&vms), near, "the same again is no change");
        resources.insert(resource("vm1", "VM", "Front", &[("on", "host")]));
        assert!(resources.version_of(&vms) > near);
    }

    /// Requirement: R2-09
    #[test]
    fn relations_are_followed_as_far_as_they_lead() {
        let mut resources = Resources::new();
        resources.insert(resource("app", "", "", &[("requires", "web")]));
        resources.insert(resource("web", "", "", &[("requires", "db"), ("requires", "cache")]));
        resources.insert(resource("db", "", "", &[("requires", "disk")]));
        let reached: Vec<&str> = resources.reachable("app", "requires").into_iter().collect();
        assert_eq!(reached, ["cache", "db", "disk", "web"]);
        let reaching: Vec<&str> = resources.reaching("disk", "requires").into_iter().collect();
        assert_eq!(reaching, ["app", "db", "web"]);
        resources.insert(resource("disk", "", "", &[("requires", "app")]));
        assert!(resources.reachable("app", "requires").contains("app"), "a circle");
        resources.remove("web");
        assert_eq!(resources.reachable("app", "requires").len(), 1, "it leads no further than a name");
        assert!(resources.reachable("app", "other").is_empty());
    }
}
