//! The resource model as its clients write it: what collectors register is leased, what is added by hand stays.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value as Json, json};

use super::{Answer, App, MAX_ID, Object, Refused, Tower, objects, shortened};
use crate::model::{ModelChange, Resource, Timestamp};

/// The classes, and how the manager of 2014 called their groups.
const CLASSES: [(&str, &str); 12] = [
    ("Resource", "resources"),
    ("CloudProvider", "cloudProviders"),
    ("Location", "locations"),
    ("Component", "components"),
    ("ExternalComponent", "externalComponents"),
    ("VM", "vMs"),
    ("PaaSService", "paaSServices"),
    ("InternalComponent", "internalComponents"),
    ("Method", "methods"),
    ("Node", "nodes"),
    ("Cluster", "clusters"),
    ("Rack", "racks"),
];
/// References to one resource.
const ONE: [&str; 2] = ["cloudProvider", "location"];
/// References to many.
const MANY: [&str; 4] = ["requiredComponents", "providedMethods", "vms", "nodes"];
/// The most references of one name.
const MAX_REFERENCES: usize = 10_000;

fn is_class(class: &str) -> bool {
    CLASSES.iter().any(|(name, _)| *name == class)
}

/// The classes that there are, for an error.
fn classes() -> String {
    CLASSES.map(|(name, _)| name).join(", ")
}

/// A resource as clients write it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Written {
    clazz: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    cloud_provider: Option<String>,
    location: Option<String>,
    #[serde(deserialize_with = "list_or_nothing")]
    required_components: Vec<String>,
    #[serde(deserialize_with = "list_or_nothing")]
    provided_methods: Vec<String>,
    #[serde(deserialize_with = "list_or_nothing")]
    vms: Vec<String>,
    #[serde(deserialize_with = "list_or_nothing")]
    nodes: Vec<String>,
}

/// Resources of which not all is said: every one that has the class, the type and the id, as far as they are given.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kin {
    class: Option<String>,
    kind: Option<String>,
    id: Option<String>,
}

impl Kin {
    pub fn has(&self, resource: &Resource) -> bool {
        let same = |want: &Option<String>, have: Option<&str>| want.is_none() || want.as_deref() == have;
        same(&self.class, resource.class.as_deref())
            && same(&self.kind, resource.kind.as_deref())
            && same(&self.id, Some(&resource.id))
    }
}

/// `null` is nothing, as a list and in one.
fn list_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list: Option<Vec<Option<String>>> = Option::deserialize(deserializer)?;
    Ok(list.unwrap_or_default().into_iter().flatten().filter(|to| !to.is_empty()).collect())
}

impl Written {
    /// Which resources it means when it has no id, or no class.
    ///
    /// # Errors
    /// A sentence.
    pub fn kin(&self) -> Result<Option<Kin>, String> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let kin = Kin { class: given(&self.clazz), kind: self.kind.clone(), id: given(&self.id) };
        if kin.class.is_some() && kin.id.is_some() {
            return Ok(None);
        }
        if let Some(class) = kin.class.as_ref().filter(|class| !is_class(class)) {
            return Err(format!("there is no clazz `{}`; there are {}", shortened(class), classes()));
        }
        if [&kin.kind, &kin.id].into_iter().flatten().any(|text| text.len() > MAX_ID) {
            return Err(format!("a type or an id is longer than {MAX_ID} bytes"));
        }
        Ok(Some(kin))
    }

    /// The resource that it means; `class` is what the group says that it stands in.
    ///
    /// # Errors
    /// A sentence.
    pub fn resource(self, class: Option<&str>) -> Result<Resource, String> {
        let Some(id) = self.id.filter(|id| !id.is_empty()) else { return Err("a resource has no id".into()) };
        let named = || shortened(&id);
        if id.len() > MAX_ID {
            return Err(format!("the id `{}` is longer than {MAX_ID} bytes", named()));
        }
        let Some(class) = self.clazz.or_else(|| class.map(str::to_string)) else {
            return Err(format!("the resource `{}` has no clazz", named()));
        };
        if !is_class(&class) {
            let known = classes();
            return Err(format!("`{}` has the clazz `{}`; there are {known}", named(), shortened(&class)));
        }
        let one =
            [self.cloud_provider, self.location].map(|to| Vec::from_iter(to.filter(|to| !to.is_empty())));
        let many = [self.required_components, self.provided_methods, self.vms, self.nodes];
        let relations = ONE.into_iter().zip(one).chain(MANY.into_iter().zip(many));
        let mut resource = Resource { id, class: Some(class), kind: self.kind, ..Resource::default() };
        for (name, mut targets) in relations.filter(|(_, targets)| !targets.is_empty()) {
            targets.sort();
            targets.dedup();
            if targets.len() > MAX_REFERENCES || targets.iter().any(|t| t.len() > MAX_ID) {
                return Err(format!("the {name} of `{}` are too many, or too long", shortened(&resource.id)));
            }
            resource.relations.insert(name.to_string(), targets);
        }
        if resource.kind.as_ref().is_some_and(|kind| kind.len() > MAX_ID) {
            return Err(format!("the type of `{}` is longer than {MAX_ID} bytes", shortened(&resource.id)));
        }
        Ok(resource)
    }
}

/// A resource as clients read it; none without a class of theirs, such as a managed service.
pub(in super::super) fn written(resource: &Resource) -> Option<Json> {
    let class = resource.class.as_deref().filter(|class| is_class(class))?;
    let mut object = Map::new();
    for (name, targets) in &resource.relations {
        match targets.as_slice() {
            [one] if !MANY.contains(&name.as_str()) => object.insert(name.clone(), one.as_str().into()),
            many => object.insert(name.clone(), many.into()),
        };
    }
    object.insert("clazz".into(), class.into());
    if let Some(kind) = &resource.kind {
        object.insert("type".into(), kind.as_str().into());
    }
    object.insert("id".into(), resource.id.as_str().into());
    Some(Json::Object(object))
}

/// What the record kept.
pub(super) fn restore(value: Json) -> Result<Resource, String> {
    serde_json::from_value::<Written>(value).map_err(|e| e.to_string())?.resource(None)
}

/// What is registered, and until when.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: BTreeMap<Arc<str>, Lease>,
    /// The longest time that a collector has claimed for its resources.
    longest: Duration,
}

#[derive(Debug)]
struct Lease {
    resource: Arc<Resource>,
    /// It never expires.
    by_hand: bool,
    seen: Timestamp,
}

impl Registry {
    /// Puts resources in, or in their place; references to many are united with those that are known.
    pub fn add(
        &mut self,
        resources: impl IntoIterator<Item = Resource>,
        by_hand: bool,
        now: Timestamp,
    ) -> Vec<ModelChange> {
        let mut changes = Vec::new();
        for mut resource in resources {
            if let Some(lease) = self.entries.get_mut(resource.id.as_str()) {
                lease.seen = lease.seen.max(now);
                lease.by_hand |= by_hand;
                if *lease.resource == resource {
                    continue;
                }
                for (name, known) in
                    lease.resource.relations.iter().filter(|(name, _)| MANY.contains(&name.as_str()))
                {
                    let targets = resource.relations.entry(name.clone()).or_default();
                    targets.extend(known.iter().cloned());
                    targets.sort();
                    targets.dedup();
                    targets.truncate(MAX_REFERENCES);
                }
                if *lease.resource != resource {
                    lease.resource = Arc::new(resource);
                    changes.push(ModelChange::Put(lease.resource.clone()));
                }
            } else {
                let resource = Arc::new(resource);
                let lease = Lease { resource: resource.clone(), by_hand, seen: now };
                self.entries.insert(resource.id.as_str().into(), lease);
                changes.push(ModelChange::Put(resource));
            }
        }
        changes
    }

    /// Their collector was heard of at `seen`. Answers whether all of them are there.
    pub fn refresh<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>, seen: Timestamp) -> bool {
        let mut all = true;
        for id in ids {
            match self.entries.get_mut(id) {
                Some(lease) => lease.seen = lease.seen.max(seen),
                None => all = false,
            }
        }
        all
    }

    pub fn remove(&mut self, id: &str) -> Option<ModelChange> {
        self.entries.remove_entry(id).map(|(id, _)| ModelChange::Remove(id))
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> Vec<ModelChange> {
        std::mem::take(&mut self.entries).into_keys().map(ModelChange::Remove).collect()
    }

    /// A collector claims this time for its resources.
    pub fn claim(&mut self, keep: Option<Duration>) {
        self.longest = self.longest.max(keep.unwrap_or_default());
    }

    /// Takes out what nobody was heard of for longer than the longest time that a collector claimed; from now on the longest is that of the
    /// collectors that are left, if there are any.
    pub fn expire(&mut self, now: Timestamp, left: Option<Duration>) -> Vec<ModelChange> {
        let longest = self.longest;
        let gone: Vec<Arc<str>> = self
            .entries
            .iter()
            .filter(|(_, lease)| !lease.by_hand && now.since(lease.seen) > longest)
            .map(|(id, _)| id.clone())
            .collect();
        self.longest = left.unwrap_or(longest);
        gone.into_iter().filter_map(|id| self.remove(&id)).collect()
    }

    fn by_hand(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|lease| lease.by_hand)
    }

    fn all_by_hand(&self) -> BTreeSet<String> {
        self.entries.values().filter(|l| l.by_hand).map(|l| l.resource.id.clone()).collect()
    }
}

/// Reads resources: an array, or an object of arrays by class (2014), or one resource.
fn read(bytes: &[u8]) -> Result<Vec<Resource>, Refused> {
    let bad = |why: &dyn std::fmt::Display| Refused::bad(format!("Error while reading resources: {why}"));
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'[') {
        let all: Vec<Object<Written>> = serde_json::from_slice(bytes).map_err(|e| bad(&e))?;
        return objects(all).into_iter().map(|one| one.resource(None).map_err(|why| bad(&why))).collect();
    }
    let object: BTreeMap<Cow<'_, str>, Json> = serde_json::from_slice(bytes).map_err(|e| bad(&e))?;
    if object.contains_key("id") {
        let one: Written = serde_json::from_slice(bytes).map_err(|e| bad(&e))?;
        return Ok(vec![one.resource(None).map_err(|why| bad(&why))?]);
    }
    let mut resources = Vec::new();
    for (group, list) in object {
        let Some((class, _)) = CLASSES.iter().find(|(_, name)| name.eq_ignore_ascii_case(&group)) else {
            let known: Vec<&str> = CLASSES.iter().map(|(_, group)| *group).collect();
            return Err(bad(&format!(
                "there is no group `{}`; there are {}",
                shortened(&group),
                known.join(", ")
            )));
        };
        let list: Option<Vec<Object<Written>>> = serde_json::from_value(list).map_err(|e| bad(&e))?;
        for one in objects(list.unwrap_or_default()) {
            resources.push(one.resource(Some(class)).map_err(|why| bad(&why))?);
        }
    }
    Ok(resources)
}

impl Tower {
    /// The resources of the model, by id.
    pub(super) fn resources(&self) -> Vec<Json> {
        self.supervisor.resources().iter().filter_map(|resource| written(resource)).collect()
    }

    async fn keep_resources(&self, resources: &[Resource]) -> Result<(), Refused> {
        for resource in resources {
            self.keep(&format!("resource/{}", resource.id), written(resource).as_ref()).await?;
        }
        Ok(())
    }
}

/// `GET /v1/resources`
pub(super) async fn list(State(tower): App) -> Answer {
    super::json(&tower.resources())
}

/// `GET /v1/model/resources`: by class, as in 2014.
pub(super) async fn grouped(State(tower): App) -> Answer {
    let mut groups = Map::new();
    for group in ["cloudProviders", "vMs", "internalComponents", "methods"] {
        groups.insert(group.into(), json!([]));
    }
    for resource in tower.resources() {
        let group =
            CLASSES.iter().find(|(class, _)| resource["clazz"] == **class).map_or("resources", |(_, g)| g);
        if let Some(list) = groups.entry(group).or_insert_with(|| json!([])).as_array_mut() {
            list.push(resource);
        }
    }
    super::json(&groups)
}

/// `GET /v1/resources/{id}`
pub(super) async fn one(State(tower): App, Path(id): Path<String>) -> Answer {
    let resource = tower.supervisor.resource(&id).and_then(|resource| written(&resource));
    super::json(&resource.ok_or_else(|| Refused::missing("resource", &id))?)
}

/// `POST /v1/resources`: adds, or merges with what there is.
pub(super) async fn merge(State(tower): App, body: Body) -> Answer {
    let resources = read(&tower.read(body).await?)?;
    let mut registry = tower.registry.lock().await;
    let ids: Vec<String> = resources.iter().map(|r| r.id.clone()).collect();
    let changes = registry.add(resources, true, tower.now());
    tower.supervisor.register(changes).await?;
    let now: Vec<Resource> =
        ids.iter().filter_map(|id| Some((*registry.entries.get(id.as_str())?.resource).clone())).collect();
    tower.keep_resources(&now).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `PUT /v1/resources`: these and no others, but for those of collectors that are alive, and those that policies declare.
pub(super) async fn replace(State(tower): App, body: Body) -> Answer {
    let resources = read(&tower.read(body).await?)?;
    let mut registry = tower.registry.lock().await;
    let before = registry.all_by_hand();
    let mut changes = registry.clear();
    changes.extend(registry.add(resources.iter().cloned(), true, tower.now()));
    changes.extend(tower.collectors.register_all(&mut registry));
    tower.supervisor.register(changes).await?;
    for gone in before.iter().filter(|id| !registry.by_hand(id)) {
        tower.keep(&format!("resource/{gone}"), None).await?;
    }
    tower.keep_resources(&resources).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /v1/resources/{id}`. What a collector has registered comes back at its next word; what a policy declares stays.
pub(super) async fn remove(State(tower): App, Path(id): Path<String>, _: Method) -> Answer {
    let mut registry = tower.registry.lock().await;
    let by_hand = registry.by_hand(&id);
    let Some(change) = registry.remove(&id) else {
        return Err(match tower.supervisor.resource(&id).is_some() {
            true => Refused::bad(format!(
                "The resource {} is declared by a policy; remove it there",
                shortened(&id)
            )),
            false => Refused::missing("resource", &id),
        });
    };
    tower.supervisor.register(vec![change]).await?;
    tower.collectors.taken_out();
    if by_hand {
        tower.keep(&format!("resource/{id}"), None).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(json: &str) -> Resource {
        serde_json::from_str::<Written>(json).expect("json").resource(None).expect("a resource")
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    /// Requirement: R2-15
    #[test]
    fn parts_of_a_resource_are_united() {
        let mut registry = Registry::default();
        let app = |methods: &str| {
            resource(&format!(
                r#"{{"clazz":"InternalComponent","type":"App","id":"a","providedMethods":{methods}}}"#
            ))
        };
        assert_eq!(registry.add([app(r#"["m1","m2"]"#)], false, at(0)).len(), 1);
        let changes = registry.add([app(r#"["m2","m3"]"#)], false, at(1));
        let [ModelChange::Put(united)] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(united.relations["providedMethods"], ["m1", "m2", "m3"]);
        assert!(registry.add([app(r#"["m3"]"#)], false, at(2)).is_empty(), "nothing new");
        let moved = resource(r#"{"clazz":"VM","id":"v","cloudProvider":"amazon"}"#);
        registry.add([moved], false, at(3));
        let moved = resource(r#"{"clazz":"VM","id":"v","cloudProvider":"flexiant"}"#);
        let changes = registry.add([moved], false, at(4));
        let [ModelChange::Put(moved)] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(moved.relations["cloudProvider"], ["flexiant"], "a machine is in one cloud");
    }

    /// Requirement: R2-11
    #[test]
    fn what_is_not_heard_of_expires_and_what_was_added_by_hand_does_not() {
        let mut registry = Registry::default();
        let vm = |id: &str| resource(&format!(r#"{{"clazz":"VM","id":"{id}"}}"#));
        registry.claim(Some(Duration::from_secs(25)));
        registry.add([vm("vm1"), vm("vm2")], false, at(0));
        registry.add([vm("vm3")], true, at(0));
        assert!(registry.expire(at(25), Some(Duration::from_secs(25))).is_empty());
        assert!(registry.refresh(["vm2"], at(20)));
        let gone = registry.expire(at(30), Some(Duration::from_secs(25)));
        assert_eq!(gone, [ModelChange::Remove("vm1".into())]);
        assert!(!registry.refresh(["vm1", "vm2"], at(30)), "vm1 is to be registered again");
        assert_eq!(registry.expire(at(3_000), None), [ModelChange::Remove("vm2".into())]);
        assert!(registry.by_hand("vm3"));
    }

    #[test]
    fn what_is_no_resource_is_said() {
        for (text, word) in [
            (r#"[{"clazz":"VM"}]"#, "no id"),
            (r#"[{"id":"x"}]"#, "no clazz"),
            (r#"[{"clazz":"Toaster","id":"x"}]"#, "Toaster"),
            (r#"{"toasters":[]}"#, "toasters"),
            ("[{", "EOF"),
            ("12", "invalid type"),
        ] {
            let refused = read(text.as_bytes()).expect_err(text);
            assert!(refused.text.contains(word), "{text}: {}", refused.text);
        }
        let long = format!(r#"[{{"clazz":"VM","id":"{}"}}]"#, "x".repeat(MAX_ID + 1));
        assert!(read(long.as_bytes()).is_err());
        let grouped = read(br#"{"vMs":[{"id":"v","type":"Frontend"}],"cloudProviders":[{"id":"amazon"}]}"#);
        assert_eq!(grouped.expect("resources").len(), 2);
        assert_eq!(read(br#"{"vMs":null,"methods":[{"id":"m"}]}"#).expect("resources").len(), 1);
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        for text in [
            r#"{"cloudProvider":"amazon","clazz":"VM","type":"Frontend","id":"vm1"}"#,
            r#"{"clazz":"CloudProvider","type":"IaaS","id":"amazon"}"#,
            r#"{"providedMethods":["a","b"],"requiredComponents":["vm1"],"clazz":"InternalComponent","type":"App","id":"c"}"#,
            r#"{"nodes":["n1"],"clazz":"Rack","id":"r"}"#,
        ] {
            assert_eq!(written(&resource(text)).expect("written").to_string(), text);
        }
    }
}
