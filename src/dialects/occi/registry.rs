//! What a server knows: its categories, found by identifier, by alias and by path; with what clients and plug-ins add.

use std::collections::{BTreeMap, HashMap};

use super::draft::{Draft, DraftLink, Filter};
use super::extensions::{core, infrastructure, monitoring, notification, sla};
use super::fault::{Fault, shown};
use super::model::{Action, Attribute, AttributeType, Category, Kind, Mixin, TypeId};

/// What a server offers besides the core model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extension {
    /// Computes, networks, storages and their links.
    Infrastructure,
    /// Sensors and collectors.
    Monitoring,
    /// Agreements.
    Sla,
    /// Notifications.
    Notification,
}

impl Extension {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Infrastructure, Self::Monitoring, Self::Sla, Self::Notification];

    fn categories(self) -> Vec<Category> {
        match self {
            Self::Infrastructure => infrastructure::categories(),
            Self::Monitoring => monitoring::categories(),
            Self::Sla => sla::categories(),
            Self::Notification => notification::categories(),
        }
    }
}

/// What an attribute of a provider's mixin is for (the paper's section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A label: values come in from the channel of this name.
    In,
    /// A label: values go out to the channel of this name.
    Out,
    /// A constant parameter.
    Control,
}

/// A mixin of this server that measures, aggregates or publishes, as data.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderMixin {
    /// The mixin; it depends on one of the three tags.
    pub mixin: Mixin,
    /// What its attributes are for. An attribute that is not here is a parameter.
    pub roles: BTreeMap<String, Role>,
}

impl ProviderMixin {
    /// A mixin without attributes, at `/mixin/<term>/`.
    pub fn new(id: TypeId, title: &str, tag: TypeId) -> Self {
        let mixin = Mixin {
            location: Some(format!("/mixin/{}/", id.term())),
            id,
            title: Some(title.to_string()),
            depends: vec![tag],
            applies: Vec::new(),
            attributes: Default::default(),
            actions: Vec::new(),
            user_defined: false,
        };
        Self { mixin, roles: BTreeMap::new() }
    }

    /// The same with one more attribute.
    #[must_use]
    pub fn with(mut self, name: &str, attribute: Attribute, role: Role) -> Self {
        self.mixin.attributes.insert(name.to_string(), attribute);
        self.roles.insert(name.to_string(), role);
        self
    }

    /// What an attribute is for.
    pub fn role(&self, name: &str) -> Role {
        self.roles.get(name).copied().unwrap_or(Role::Control)
    }
}

/// Where a category stands among the others: those of the specifications in their order, then the others by identifier.
type Place = (usize, TypeId);

/// All categories of a server. The order in which it shows them depends on nothing but what they are.
#[derive(Debug, Clone)]
pub struct Registry {
    categories: HashMap<TypeId, Category>,
    kinds: BTreeMap<Place, ()>,
    mixins: BTreeMap<Place, ()>,
    actions: BTreeMap<Place, ()>,
    locations: HashMap<String, TypeId>,
    aliases: HashMap<TypeId, TypeId>,
    providers: BTreeMap<TypeId, ProviderMixin>,
}

/// What is not of the specifications.
const LAST: usize = usize::MAX;

impl Registry {
    /// The core model and some extensions; their order and repetitions do not matter.
    pub fn new(extensions: &[Extension]) -> Self {
        let mut registry = Self {
            categories: HashMap::new(),
            kinds: BTreeMap::new(),
            mixins: BTreeMap::new(),
            actions: BTreeMap::new(),
            locations: HashMap::new(),
            aliases: HashMap::new(),
            providers: BTreeMap::new(),
        };
        let chosen = Extension::ALL.into_iter().filter(|e| extensions.contains(e));
        let all = core::categories().into_iter().chain(chosen.flat_map(Extension::categories));
        for (place, category) in all.enumerate() {
            registry.put(place, category);
        }
        if extensions.contains(&Extension::Monitoring) {
            registry.aliases.extend(monitoring::aliases());
        }
        registry
    }

    fn order(&mut self, category: &Category) -> &mut BTreeMap<Place, ()> {
        match category {
            Category::Kind(_) => &mut self.kinds,
            Category::Mixin(_) => &mut self.mixins,
            Category::Action(_) => &mut self.actions,
        }
    }

    fn put(&mut self, place: usize, category: Category) {
        let id = category.id().clone();
        self.order(&category).insert((place, id.clone()), ());
        if let Some(location) = category.location() {
            self.locations.insert(normal(location), id.clone());
        }
        self.categories.insert(id, category);
    }

    /// The identifier that an alias means, or the same.
    pub fn canonical<'a>(&'a self, id: &'a TypeId) -> &'a TypeId {
        self.aliases.get(id).unwrap_or(id)
    }

    /// A category by identifier or alias.
    pub fn get(&self, id: &TypeId) -> Option<&Category> {
        self.categories.get(self.canonical(id))
    }

    /// A kind.
    pub fn kind(&self, id: &TypeId) -> Option<&Kind> {
        match self.get(id)? {
            Category::Kind(kind) => Some(kind),
            _ => None,
        }
    }

    /// A mixin.
    pub fn mixin(&self, id: &TypeId) -> Option<&Mixin> {
        match self.get(id)? {
            Category::Mixin(mixin) => Some(mixin),
            _ => None,
        }
    }

    /// An action.
    pub fn action(&self, id: &TypeId) -> Option<&Action> {
        match self.get(id)? {
            Category::Action(action) => Some(action),
            _ => None,
        }
    }

    /// The kind or mixin whose collection is at a path; host and the slash at the end do not matter.
    pub fn by_location(&self, path: &str) -> Option<&Category> {
        self.locations.get(&normal(path)).and_then(|id| self.categories.get(id))
    }

    /// The categories that a word names: an identifier, or the term of some.
    pub fn named(&self, word: &str) -> Vec<&Category> {
        match word.parse::<TypeId>() {
            Ok(id) => self.get(&id).into_iter().collect(),
            Err(_) => self.categories().filter(|c| c.id().term() == word).collect(),
        }
    }

    /// All categories: kinds, mixins, actions; each those of the specifications first, then by identifier.
    pub fn categories(&self) -> impl Iterator<Item = &Category> {
        let all = self.kinds.keys().chain(self.mixins.keys()).chain(self.actions.keys());
        all.filter_map(|(_, id)| self.categories.get(id))
    }

    /// The categories that a filter on `/-/` lets pass: those that it names.
    pub fn filter(&self, filter: &Filter) -> Vec<&Category> {
        let wanted: Vec<&TypeId> = filter.categories.iter().map(|id| self.canonical(id)).collect();
        self.categories().filter(|c| wanted.is_empty() || wanted.contains(&c.id())).collect()
    }

    /// A kind, its parent, and so on up to `core#entity`.
    pub fn ancestors(&self, kind: &TypeId) -> Vec<&Kind> {
        let mut found: Vec<&Kind> = Vec::new();
        let mut next = self.kind(kind);
        while let Some(kind) = next {
            // A provider's kinds may be wrong; a circle ends here.
            if found.iter().any(|k| k.id == kind.id) {
                break;
            }
            found.push(kind);
            next = kind.parent.as_ref().and_then(|p| self.kind(p));
        }
        found
    }

    /// Whether a kind is another or is derived from it.
    pub fn is_a(&self, kind: &TypeId, ancestor: &TypeId) -> bool {
        let ancestor = self.canonical(ancestor);
        self.ancestors(kind).iter().any(|k| k.id == *ancestor)
    }

    /// A mixin and all that it depends on, itself first, each once.
    pub fn dependencies(&self, mixin: &TypeId) -> Vec<&Mixin> {
        let mut found: Vec<&Mixin> = Vec::new();
        let mut waiting = vec![mixin];
        while let Some(id) = waiting.pop() {
            let Some(mixin) = self.mixin(id) else { continue };
            if found.iter().all(|m| m.id != mixin.id) {
                found.push(mixin);
                waiting.extend(mixin.depends.iter().rev());
            }
        }
        found
    }

    /// The mixin of a scheme that is not there any more and that a mixin is or depends on.
    pub fn lost<'a>(&'a self, mixin: &'a TypeId, scheme: &str) -> Option<&'a TypeId> {
        match self.mixin(mixin) {
            None => (mixin.scheme() == scheme).then_some(mixin),
            Some(known) => known.depends.iter().find_map(|other| self.lost(other, scheme)),
        }
    }

    /// Whether a mixin is another or depends on it.
    pub fn depends_on(&self, mixin: &TypeId, other: &TypeId) -> bool {
        let other = self.canonical(other);
        self.dependencies(mixin).iter().any(|m| m.id == *other)
    }

    /// The attributes of an entity of a kind with mixins. What a mixin says overrides what it depends on and what the kind says; of two
    /// mixins the later one holds.
    pub fn attributes<'a>(
        &'a self,
        kind: &TypeId,
        mixins: impl IntoIterator<Item = &'a TypeId>,
    ) -> BTreeMap<&'a str, &'a Attribute> {
        let mut all = BTreeMap::new();
        let mut add = |attributes: &'a super::model::Attributes| {
            all.extend(attributes.iter().map(|(name, a)| (name.as_str(), a)));
        };
        self.ancestors(kind).iter().rev().for_each(|k| add(&k.attributes));
        for mixin in mixins {
            self.dependencies(mixin).iter().rev().for_each(|m| add(&m.attributes));
        }
        all
    }

    /// What entities of a kind with mixins can do, in order, each once.
    pub fn actions<'a>(&'a self, kind: &TypeId, mixins: impl IntoIterator<Item = &'a TypeId>) -> Vec<TypeId> {
        let mut all: Vec<TypeId> = Vec::new();
        let of_kinds = self.ancestors(kind).into_iter().flat_map(|k| &k.actions);
        let of_mixins = mixins.into_iter().flat_map(|m| self.dependencies(m)).flat_map(|m| &m.actions);
        for action in of_kinds.chain(of_mixins) {
            if !all.contains(action) {
                all.push(action.clone());
            }
        }
        all
    }

    /// Whether some category says that the attribute holds maps; what the JSON reader asks.
    pub fn holds_maps(&self, name: &str) -> bool {
        let of = |c: &Category| c.attributes().get(name).is_some_and(|a| a.kind == AttributeType::Object);
        self.categories.values().any(of)
    }

    /// Puts categories without a class where they belong, and replaces aliases, in an entity and its links.
    ///
    /// # Errors
    /// A category that nobody knows; a second kind; an action.
    pub fn classify(&self, draft: &mut Draft) -> Result<(), Fault> {
        for id in std::mem::take(&mut draft.unclassed) {
            match self.get(&id) {
                Some(Category::Kind(_)) if draft.kind.is_some() => {
                    return Err(Fault::bad(format!(
                        "`{}` is a second kind; an entity has exactly one",
                        shown(id.as_str())
                    )));
                }
                Some(Category::Kind(kind)) => draft.kind = Some(kind.id.clone()),
                Some(Category::Mixin(mixin)) => draft.mixins.push(mixin.id.clone()),
                Some(Category::Action(_)) => {
                    return Err(Fault::bad(format!(
                        "`{}` is an action; expected a kind or mixins",
                        shown(id.as_str())
                    )));
                }
                None => return Err(unknown(&id)),
            }
        }
        if let Some(kind) = &mut draft.kind {
            *kind = self.canonical(kind).clone();
        }
        for mixin in &mut draft.mixins {
            *mixin = self.canonical(mixin).clone();
        }
        for link in &mut draft.links {
            if let DraftLink::Whole(link) = link {
                self.classify(link)?;
            }
        }
        Ok(())
    }

    /// Adds a mixin of a client.
    ///
    /// # Errors
    /// 400 for attributes or actions, or a location that is no path; 403-like refusals of our own schemes as 409, as for what exists.
    pub fn add_mixin(&mut self, mut mixin: Mixin) -> Result<&Mixin, Fault> {
        let name = shown(mixin.id.as_str());
        if !mixin.attributes.is_empty() || !mixin.actions.is_empty() {
            return Err(Fault::bad(format!(
                "the mixin `{name}` has attributes or actions; what clients create are tags, with neither"
            )));
        }
        if self.get(&mixin.id).is_some() {
            return Err(Fault::conflict(format!("the category `{name}` exists already")));
        }
        if self.is_ours(mixin.id.scheme()) {
            return Err(Fault::conflict(format!(
                "the scheme of `{name}` belongs to the server; expected one of yours"
            )));
        }
        let depends = mixin.depends.iter().find(|id| self.mixin(id).is_none());
        let applies = mixin.applies.iter().find(|id| self.kind(id).is_none());
        if let Some(id) = depends.or(applies) {
            return Err(unknown(id));
        }
        let location = mixin.location.take().unwrap_or_else(|| format!("/mixin/{}/", mixin.id.term()));
        let location = normal(&location);
        self.free(&location)?;
        mixin.depends = mixin.depends.iter().map(|id| self.canonical(id).clone()).collect();
        mixin.location = Some(location);
        mixin.user_defined = true;
        let id = mixin.id.clone();
        self.put(LAST, Category::Mixin(mixin));
        self.mixin(&id).ok_or_else(|| unknown(&id))
    }

    /// Whether a scheme is used by categories that no client made.
    fn is_ours(&self, scheme: &str) -> bool {
        let made = |c: &Category| matches!(c, Category::Mixin(m) if m.user_defined);
        scheme.starts_with("http://schemas.ogf.org/occi/")
            || self.categories.values().any(|c| c.id().scheme() == scheme && !made(c))
    }

    fn free(&self, location: &str) -> Result<(), Fault> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
        let reserved = ["/", "/-/", "/.well-known/"];
        if !location.chars().all(plain) || location.contains("//") || location.contains("/../") {
            return Err(Fault::bad(format!("the location `{}` is no path like `/mine/`", shown(location))));
        }
        let (inside, taken) = (
            |other: &String| location.starts_with(other.as_str()) || other.starts_with(location),
            reserved.contains(&location)
                || location.starts_with("/.well-known/")
                || location.starts_with("/-/"),
        );
        match taken || self.locations.keys().any(inside) {
            true => Err(Fault::conflict(format!("the location `{}` is taken", shown(location)))),
            false => Ok(()),
        }
    }

    /// Removes a mixin of a client.
    ///
    /// # Errors
    /// 404 for what does not exist, 403 for what no client made, 409 while another mixin depends on it.
    pub fn remove_mixin(&mut self, id: &TypeId) -> Result<Mixin, Fault> {
        let name = shown(id.as_str());
        match self.get(id) {
            None => return Err(Fault::not_found(format!("there is no mixin `{name}`"))),
            Some(Category::Mixin(mixin)) if mixin.user_defined => {}
            Some(_) => {
                let text = format!("`{name}` belongs to the server; only mixins of clients can be removed");
                return Err(Fault::new(super::fault::FaultKind::Forbidden, text));
            }
        }
        let needs = |c: &&Category| matches!(c, Category::Mixin(m) if m.depends.contains(id));
        if let Some(other) = self.categories().find(needs) {
            return Err(Fault::conflict(format!(
                "`{}` depends on the mixin `{name}`",
                shown(other.id().as_str())
            )));
        }
        self.take_mixin(id).ok_or_else(|| unknown(id))
    }

    fn take_mixin(&mut self, id: &TypeId) -> Option<Mixin> {
        let Some(Category::Mixin(mixin)) = self.categories.remove(id) else { return None };
        self.mixins.retain(|(_, other), ()| other != id);
        self.locations.retain(|_, other| other != id);
        Some(mixin)
    }

    /// Adds a mixin of this server. Its `depends` may use aliases.
    ///
    /// # Errors
    /// 409 if the identifier or location is taken, 400 if it depends on nothing that is known.
    pub fn add_provider(&mut self, mut provider: ProviderMixin) -> Result<(), Fault> {
        let mixin = &mut provider.mixin;
        let name = shown(mixin.id.as_str());
        if self.get(&mixin.id).is_some() {
            return Err(Fault::conflict(format!("the category `{name}` exists already")));
        }
        if let Some(id) = mixin.depends.iter().find(|id| self.mixin(id).is_none()) {
            return Err(unknown(id));
        }
        if let Some(location) = &mixin.location {
            self.free(&normal(location))?;
        }
        mixin.depends = mixin.depends.iter().map(|id| self.canonical(id).clone()).collect();
        self.put(LAST, Category::Mixin(mixin.clone()));
        self.providers.insert(provider.mixin.id.clone(), provider);
        Ok(())
    }

    /// Removes a mixin of this server, as when its plug-in is gone.
    pub fn remove_provider(&mut self, id: &TypeId) -> Option<ProviderMixin> {
        let provider = self.providers.remove(id)?;
        self.take_mixin(id);
        Some(provider)
    }

    /// Adds a category of this server: a kind derived from a sensor, a template.
    ///
    /// # Errors
    /// 409 if the identifier or location is taken.
    pub fn add_category(&mut self, category: Category) -> Result<(), Fault> {
        if self.get(category.id()).is_some() {
            let name = shown(category.id().as_str());
            return Err(Fault::conflict(format!("the category `{name}` exists already")));
        }
        if let Some(location) = category.location() {
            self.free(&normal(location))?;
        }
        self.put(LAST, category);
        Ok(())
    }

    /// Describes the times of sensors as the paper does (its table 1): only the server sets the time base, and start and stop are required.
    pub fn as_in_the_paper(&mut self) {
        if let Some(Category::Kind(sensor)) = self.categories.get_mut(&monitoring::sensor()) {
            for (name, attribute) in &mut sensor.attributes {
                match name.as_str() {
                    "occi.sensor.timebase" => (attribute.mutable, attribute.required) = (false, true),
                    "occi.sensor.timestart" | "occi.sensor.timestop" => attribute.required = true,
                    _ => {}
                }
            }
        }
    }

    /// Lets an identifier mean another.
    pub fn add_alias(&mut self, alias: TypeId, of: TypeId) {
        self.aliases.insert(alias, of);
    }

    /// The mixin of this server by identifier or alias.
    pub fn provider(&self, id: &TypeId) -> Option<&ProviderMixin> {
        self.providers.get(self.canonical(id))
    }

    /// All mixins of this server, by identifier.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderMixin> {
        self.providers.values()
    }
}

pub(super) fn unknown(id: &TypeId) -> Fault {
    Fault::bad(format!("the category `{}` is unknown; `/-/` lists what there is", shown(id.as_str())))
}

/// A path with a slash at both ends, without scheme and host.
fn normal(location: &str) -> String {
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => location,
    };
    match path.trim_matches('/') {
        "" => "/".to_string(),
        inner => format!("/{inner}/"),
    }
}
