//! What a server knows, and what clients may add to it.

use homeostat::dialects::occi::extensions::monitoring as extension;
use homeostat::dialects::occi::{
    Attribute, Category, Extension, Filter, MediaType, Mixin, Output, ProviderMixin, Registry, Rendering,
    Role, TypeId,
};

use super::{id, monitoring};

const COMPUTE: &str = "http://schemas.ogf.org/occi/infrastructure#compute";

fn all() -> Registry {
    Registry::new(&Extension::ALL)
}

fn tag(name: &str, location: Option<&str>) -> Mixin {
    Mixin {
        id: id(name),
        title: None,
        depends: Vec::new(),
        applies: Vec::new(),
        attributes: Default::default(),
        actions: Vec::new(),
        location: location.map(str::to_string),
        user_defined: false,
    }
}

fn shown(registry: &Registry) -> String {
    Output::categories(MediaType::of(Rendering::Plain), registry.categories(), "").body
}

/// Requirement: R1-01
#[test]
fn monitoring_works_without_infrastructure() {
    let registry = Registry::new(&[Extension::Monitoring]);
    assert!(
        registry.kind(&extension::sensor()).is_some() && registry.kind(&extension::collector()).is_some()
    );
    assert!(registry.get(&id(COMPUTE)).is_none());
    assert!(all().get(&id(COMPUTE)).is_some());
    assert_eq!(Registry::new(&[]).categories().count(), 3);
}

/// Requirement: R1-02, R1-09
#[test]
fn sensor_and_collector_are_the_kinds_of_the_paper() {
    let registry = all();
    let (sensor, collector) =
        (registry.kind(&monitoring("sensor")).unwrap(), registry.kind(&monitoring("collector")).unwrap());
    assert_eq!(sensor.title.as_deref(), Some("Sensor Resource"));
    assert_eq!(sensor.parent, Some(id("http://schemas.ogf.org/occi/core#resource")));
    assert_eq!(collector.title.as_deref(), Some("Collector Link"));
    assert_eq!(collector.parent, Some(id("http://schemas.ogf.org/occi/core#link")));
    let period = &collector.attributes["occi.collector.period"];
    assert!(period.mutable && period.required);
    assert!(!collector.attributes["occi.collector.periodspec"].required);
    assert_eq!(registry.by_location("http://host:1/sensor").unwrap().id(), &sensor.id);
}

/// Requirement: R1-10, R1-11
#[test]
fn tags_have_nothing_and_the_papers_schemes_mean_the_drafts() {
    let registry = all();
    for (alias, canonical) in extension::aliases() {
        let Some(Category::Mixin(tag)) = registry.get(&alias) else { panic!("no {alias}") };
        assert_eq!(tag.id, canonical);
        assert!(tag.attributes.is_empty() && tag.actions.is_empty());
    }
}

/// Requirement: R1-22
#[test]
fn chains_of_parents_and_dependencies_are_complete() {
    let registry = all();
    for category in registry.categories() {
        match category {
            Category::Kind(kind) => {
                let chain = registry.ancestors(&kind.id);
                assert_eq!(chain.last().unwrap().id.term(), "entity", "{}", kind.id);
                assert_eq!(kind.location.is_none(), kind.id.term() == "entity");
                assert!(kind.actions.iter().all(|a| registry.action(a).is_some()), "{}", kind.id);
            }
            Category::Mixin(mixin) => {
                assert!(mixin.applies.iter().all(|k| registry.kind(k).is_some()));
                assert_eq!(registry.by_location(mixin.location.as_deref().unwrap()).unwrap().id(), &mixin.id);
            }
            Category::Action(_) => {}
        }
        assert_eq!(category.id().as_str().parse::<TypeId>().as_ref(), Ok(category.id()));
    }
}

#[test]
fn what_both_versions_know_of_infrastructure_is_there() {
    let registry = all();
    let compute = registry.kind(&id(COMPUTE)).unwrap();
    for name in ["architecture", "cores", "hostname", "share", "speed", "memory", "state", "state.message"] {
        assert!(compute.attributes.contains_key(&format!("occi.compute.{name}")), "{name}");
    }
    let verbs = |kind: &str| -> Vec<String> {
        let kind = registry.kind(&id(&format!("http://schemas.ogf.org/occi/infrastructure#{kind}"))).unwrap();
        kind.actions.iter().map(|a| a.term().to_string()).collect()
    };
    assert_eq!(verbs("compute"), ["start", "stop", "restart", "suspend", "save"]);
    assert_eq!(verbs("network"), ["up", "down"]);
    assert_eq!(verbs("storage"), ["online", "offline", "backup", "snapshot", "resize"]);
}

/// Requirement: R1-17, R1-18
#[test]
fn a_providers_mixin_is_data_and_appears_with_its_tag() {
    let mut registry = all();
    let ping = ProviderMixin::new(
        id("http://example.com/occi/monitoring/metric#Ping"),
        "Ping",
        extension::aliases()[0].0.clone(),
    )
    .with("com.example.occi.monitoring.Ping.out", Attribute::text(), Role::Out)
    .with("com.example.occi.monitoring.Ping.size", Attribute::number(), Role::Control);
    registry.add_provider(ping.clone()).unwrap();
    assert_eq!(registry.add_provider(ping).unwrap_err().kind.status(), 409);
    let id = id("http://example.com/occi/monitoring/metric#Ping");
    let found = registry.provider(&id).unwrap();
    assert_eq!(found.role("com.example.occi.monitoring.Ping.out"), Role::Out);
    assert_eq!(found.mixin.depends, [extension::metric()]);
    assert!(registry.depends_on(&id, &extension::metric()));
    assert!(shown(&registry).contains("Category: Ping; "));
    assert!(registry.remove_provider(&id).is_some() && registry.get(&id).is_none());
    assert!(registry.by_location("/mixin/Ping/").is_none());
}

/// Requirement: R1-17
#[test]
fn clients_add_and_remove_tags_and_nothing_else() {
    let mut registry = all();
    let added = registry.add_mixin(tag("http://example.com/mine#tag", Some("http://host/mine"))).unwrap();
    assert_eq!((added.location.as_deref(), added.user_defined), (Some("/mine/"), true));
    let status = |registry: &mut Registry, mixin| registry.add_mixin(mixin).unwrap_err().kind.status();
    assert_eq!(status(&mut registry, tag("http://example.com/mine#tag", None)), 409);
    assert_eq!(status(&mut registry, tag("http://example.com/mine#other", Some("/mine/"))), 409);
    assert_eq!(status(&mut registry, tag("http://example.com/mine#other", Some("/-/"))), 409);
    assert_eq!(status(&mut registry, tag("http://example.com/mine#other", Some("/sensor/x"))), 409);
    assert_eq!(status(&mut registry, tag("http://example.com/mine#other", Some("/a b/"))), 400);
    assert_eq!(status(&mut registry, tag("http://schemas.ogf.org/occi/monitoring#mine", None)), 409);
    let mut heavy = tag("http://example.com/mine#heavy", None);
    heavy.attributes.insert("a".into(), Attribute::text());
    assert_eq!(status(&mut registry, heavy), 400);
    let mut lost = tag("http://example.com/mine#lost", None);
    lost.depends.push(id("http://example.com/mine#nothing"));
    assert_eq!(status(&mut registry, lost), 400);
    let mut second = tag("http://example.com/mine#second", None);
    second.depends.push(id("http://example.com/mine#tag"));
    registry.add_mixin(second).unwrap();
    let removal =
        |registry: &mut Registry, name: &str| registry.remove_mixin(&id(name)).map_err(|f| f.kind.status());
    assert_eq!(removal(&mut registry, "http://example.com/mine#tag").unwrap_err(), 409);
    assert_eq!(removal(&mut registry, "http://example.com/mine#nothing").unwrap_err(), 404);
    assert_eq!(removal(&mut registry, &format!("{}metric", super::MONITORING)).unwrap_err(), 403);
    assert!(removal(&mut registry, "http://example.com/mine#second").is_ok());
    assert!(removal(&mut registry, "http://example.com/mine#tag").is_ok());
    assert_eq!(shown(&registry), shown(&all()));
}

#[test]
fn the_order_depends_on_nothing_but_the_categories() {
    let (mut a, mut b) = (
        all(),
        Registry::new(&[
            Extension::Sla,
            Extension::Notification,
            Extension::Monitoring,
            Extension::Infrastructure,
        ]),
    );
    let names = ["http://z.example#a", "http://a.example#z", "http://m.example#m"];
    names.iter().for_each(|n| assert!(a.add_mixin(tag(n, None)).is_ok()));
    names.iter().rev().for_each(|n| assert!(b.add_mixin(tag(n, None)).is_ok()));
    assert_eq!(shown(&a), shown(&b));
}

#[test]
fn a_filter_shows_what_it_names() {
    let registry = all();
    let filter =
        Filter { categories: vec![extension::aliases()[0].0.clone(), id(COMPUTE)], ..Filter::default() };
    let found: Vec<_> = registry.filter(&filter).iter().map(|c| c.id().term().to_string()).collect();
    assert_eq!(found, ["compute", "metric"]);
    assert_eq!(registry.filter(&Filter::default()).len(), registry.categories().count());
}
