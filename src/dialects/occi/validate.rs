//! Checks what clients send against the registry. What passes is complete: aliases replaced, types right, defaults filled in.
//!
//! The rules, in the order of the checks: (1) the kind is known, has a collection and belongs where it was sent; (2) a link has ends, a
//! resource has none; (3) mixins are known and apply to the kind; (4) attributes are described by the kind or a mixin; (5) clients set
//! none that is immutable, unless to the value that it has; (6) types and patterns hold; (7) what is required is there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::draft::{Draft, DraftLink, Invocation, coerce, number as draft_number};
use super::extensions::core;
use super::fault::{Fault, shown};
use super::model::{Attribute, AttributeType, Category, End, Entity, Mixin, TypeId, Values, What};
use super::pattern;
use super::registry::{Registry, unknown};

/// What an entity will be.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Its kind.
    pub kind: TypeId,
    /// What the client calls it. The server may have another identifier for it.
    pub id: Option<String>,
    /// All its mixins, each once.
    pub mixins: Vec<TypeId>,
    /// All its values.
    pub attributes: Values,
    /// Its title.
    pub title: Option<String>,
    /// Its summary.
    pub summary: Option<String>,
    /// Where it begins, if it is a link. None for a link within a resource that does not exist yet.
    pub source: Option<End>,
    /// Where it leads, if it is a link.
    pub target: Option<End>,
    /// Whole links that begin in it, checked as well.
    pub links: Vec<Checked>,
    /// Links that exist, by identifier or location.
    pub references: Vec<String>,
}

type Described<'a> = BTreeMap<&'a str, &'a Attribute>;

/// What is checked, for messages.
struct Subject<'a> {
    registry: &'a Registry,
    kind: &'a TypeId,
    described: Described<'a>,
    current: Option<&'a Values>,
}

/// Checks a new entity. The kind is `expected`, or derived from it, or left out; `expected` is the kind of the collection.
///
/// # Errors
/// 400 with the attribute or category that breaks a rule, 404 or 409 never: what ends and places refer to is not looked at.
pub fn create(registry: &Registry, draft: Draft, expected: Option<&TypeId>) -> Result<Checked, Fault> {
    new_entity(registry, draft, expected, false)
}

fn new_entity(
    registry: &Registry,
    mut draft: Draft,
    expected: Option<&TypeId>,
    inline: bool,
) -> Result<Checked, Fault> {
    registry.classify(&mut draft)?;
    let kind =
        draft.kind.take().or_else(|| expected.map(|k| registry.canonical(k).clone())).ok_or_else(|| {
            Fault::bad("the entity has no kind; expected a category with class=\"kind\", or `kind` in JSON")
        })?;
    check_kind(registry, &kind, expected)?;
    check_ends(registry, &kind, &draft, inline)?;
    let mixins = with_mixins(registry, &kind, &[], &draft.mixins)?;
    let subject = Subject::new(registry, &kind, &mixins, None);
    let mut values = std::mem::take(&mut draft.attributes);
    values.retain(|_, v| !v.is_null());
    subject.check(&mut values)?;
    fill(registry, &kind, &mixins, &mut values);
    subject.check_required(&values, |_| true)?;
    let (links, references) = links(registry, draft.links)?;
    let Draft { id, title, summary, source, target, .. } = draft;
    writable_core(&title, &summary)?;
    Ok(Checked { kind, id, mixins, attributes: values, title, summary, source, target, links, references })
}

/// The links within a resource: those that are new, and places of those that exist.
fn links(registry: &Registry, drafts: Vec<DraftLink>) -> Result<(Vec<Checked>, Vec<String>), Fault> {
    let (mut links, mut references) = (Vec::new(), Vec::new());
    for link in drafts {
        match link {
            DraftLink::Reference(place) => references.push(place),
            DraftLink::Whole(link) => links.push(inline_link(registry, *link)?),
        }
    }
    Ok((links, references))
}

/// A link within a resource; of unknown kind it is a plain one.
fn inline_link(registry: &Registry, mut link: Draft) -> Result<Checked, Fault> {
    registry.classify(&mut link)?;
    link.kind.get_or_insert_with(core::link);
    new_entity(registry, link, Some(&core::link()), true)
}

/// Checks a partial update: what is said changes, what is `null` goes, mixins are added, the rest stays. What a new mixin requires may
/// follow in a later update, as an association in `text/occi` cannot carry it; what is required and there cannot go.
///
/// # Errors
/// As [`create`]; also for another kind or other ends.
pub fn update(registry: &Registry, current: &Entity, draft: Draft) -> Result<Checked, Fault> {
    change(registry, current, draft, false)
}

/// Checks a full replacement: what is not said goes or returns to its default, except what is immutable, and the links.
///
/// # Errors
/// As [`update`].
pub fn replace(registry: &Registry, current: &Entity, draft: Draft) -> Result<Checked, Fault> {
    change(registry, current, draft, true)
}

fn change(registry: &Registry, current: &Entity, mut draft: Draft, whole: bool) -> Result<Checked, Fault> {
    registry.classify(&mut draft)?;
    let kind = &current.kind;
    if let Some(other) = draft.kind.as_ref().filter(|k| *k != kind) {
        return Err(Fault::bad(format!(
            "the kind is `{kind}` and cannot become `{}`",
            shown(other.as_str())
        )));
    }
    let (source, target) = changed_ends(current, &draft)?;
    let kept: &[TypeId] = if whole { &[] } else { &current.mixins };
    let mixins = with_mixins(registry, kind, kept, &draft.mixins)?;
    let subject = Subject::new(registry, kind, &mixins, Some(&current.attributes));
    let mut said = draft.attributes;
    subject.check(&mut said)?;
    let stays = |name: &str| !whole || subject.described.get(name).is_some_and(|a| !a.mutable);
    let mut values: Values = current.attributes.clone();
    values.retain(|name, _| stays(name));
    values.extend(said);
    values.retain(|_, v| !v.is_null());
    fill(registry, kind, &mixins, &mut values);
    subject.check_required(&values, |name| whole || current.attributes.contains_key(name))?;
    let keep =
        |new: Option<String>, old: &Option<String>| if whole { new } else { new.or_else(|| old.clone()) };
    let (links, references) = links(registry, draft.links)?;
    writable_core(&draft.title, &draft.summary)?;
    Ok(Checked {
        id: draft.id,
        title: keep(draft.title, &current.title),
        summary: keep(draft.summary, &current.summary),
        kind: kind.clone(),
        mixins,
        attributes: values,
        source,
        target,
        links,
        references,
    })
}

/// Ends may be said again; the target of a link may change, its source may not.
fn changed_ends(current: &Entity, draft: &Draft) -> Result<(Option<End>, Option<End>), Fault> {
    match &current.what {
        What::Resource { .. } if draft.is_link() => {
            Err(Fault::bad(format!("`{}` is a resource; only links have a source and target", current.kind)))
        }
        What::Resource { .. } => Ok((None, None)),
        What::Link { source, target } => {
            let source = draft.source.clone().unwrap_or_else(|| source.clone());
            let target = draft.target.clone().unwrap_or_else(|| target.clone());
            Ok((Some(source), Some(target)))
        }
    }
}

/// What an entity is without a mixin: what only the mixin described goes with it.
///
/// # Errors
/// The entity has no such mixin.
pub fn without(registry: &Registry, current: &Entity, mixin: &TypeId) -> Result<Checked, Fault> {
    let mixin = registry.canonical(mixin);
    if !current.mixins.contains(mixin) {
        return Err(Fault::not_found(format!(
            "`{}` has no mixin `{}`",
            current.location,
            shown(mixin.as_str())
        )));
    }
    let mixins: Vec<TypeId> = current.mixins.iter().filter(|m| *m != mixin).cloned().collect();
    let described = registry.attributes(&current.kind, &mixins);
    let mut attributes = current.attributes.clone();
    attributes.retain(|name, _| described.contains_key(name.as_str()));
    let (source, target) = changed_ends(current, &Draft::default())?;
    Ok(Checked {
        kind: current.kind.clone(),
        id: None,
        mixins,
        attributes,
        title: current.title.clone(),
        summary: current.summary.clone(),
        source,
        target,
        links: Vec::new(),
        references: Vec::new(),
    })
}

fn check_kind(registry: &Registry, kind: &TypeId, expected: Option<&TypeId>) -> Result<(), Fault> {
    let Some(known) = registry.kind(kind) else {
        let name = shown(kind.as_str());
        return Err(match registry.get(kind) {
            Some(other) => Fault::bad(format!("`{name}` is of class {}; expected a kind", other.class())),
            None => unknown(kind),
        });
    };
    if known.location.is_none() {
        return Err(Fault::bad(format!("`{kind}` is abstract; expected a kind with a location")));
    }
    match expected.filter(|e| !registry.is_a(kind, e)) {
        Some(other) => Err(Fault::bad(format!("the kind is `{kind}`; here belongs `{other}`"))),
        None => Ok(()),
    }
}

fn check_ends(registry: &Registry, kind: &TypeId, draft: &Draft, inline: bool) -> Result<(), Fault> {
    if !registry.is_a(kind, &core::link()) {
        return match draft.is_link() {
            true => Err(Fault::bad(format!("`{kind}` is a resource; only links have a source and target"))),
            false => Ok(()),
        };
    }
    let lacks = match (&draft.source, &draft.target) {
        (_, None) => "target",
        (None, _) if !inline => "source",
        _ if !draft.links.is_empty() => {
            return Err(Fault::bad(format!("`{kind}` is a link, and links have no links")));
        }
        _ => return Ok(()),
    };
    Err(Fault::bad(format!("the link of kind `{kind}` has no {lacks}; expected `occi.core.{lacks}`")))
}

/// Checks that a mixin may be applied to entities of a kind.
///
/// # Errors
/// The mixin is unknown, or it, or one that it depends on, applies to other kinds.
pub fn applicable<'a>(registry: &'a Registry, kind: &TypeId, mixin: &TypeId) -> Result<&'a Mixin, Fault> {
    let Some(found) = registry.mixin(mixin) else {
        return Err(match registry.get(mixin) {
            Some(other) => Fault::bad(format!(
                "`{}` is of class {}; expected a mixin",
                shown(mixin.as_str()),
                other.class()
            )),
            None => unknown(mixin),
        });
    };
    for part in registry.dependencies(mixin) {
        if !part.applies.is_empty() && !part.applies.iter().any(|k| registry.is_a(kind, k)) {
            let to: Vec<String> = part.applies.iter().map(|k| format!("`{k}`")).collect();
            let (to, id) = (to.join(" and "), &found.id);
            let why = match part.id == found.id {
                true => String::new(),
                false => format!(" by `{}`, on which it depends,", part.id),
            };
            return Err(Fault::bad(format!("the mixin `{id}` applies{why} to {to}, and not to `{kind}`")));
        }
    }
    Ok(found)
}

fn with_mixins(
    registry: &Registry,
    kind: &TypeId,
    kept: &[TypeId],
    added: &[TypeId],
) -> Result<Vec<TypeId>, Fault> {
    let mut all = kept.to_vec();
    for mixin in added {
        let found = applicable(registry, kind, mixin)?;
        if !all.contains(&found.id) {
            all.push(found.id.clone());
        }
    }
    Ok(all)
}

impl<'a> Subject<'a> {
    fn new(
        registry: &'a Registry,
        kind: &'a TypeId,
        mixins: &'a [TypeId],
        current: Option<&'a Values>,
    ) -> Self {
        Self { registry, kind, described: registry.attributes(kind, mixins), current }
    }

    fn check(&self, values: &mut Values) -> Result<(), Fault> {
        let described = &self.described;
        coerce(values, |name| described.get(name).copied());
        values.iter().try_for_each(|(name, value)| self.check_value(name, value))
    }

    fn check_value(&self, name: &str, value: &Value) -> Result<(), Fault> {
        let Some(attribute) = self.described.get(name) else {
            let hint = self.elsewhere(name);
            return Err(Fault::bad(format!("`{}` is no attribute of `{}`{hint}", shown(name), self.kind)));
        };
        // What is new begins with the default, so who says that says nothing.
        let now = self.current.map_or(attribute.default.as_ref(), |values| values.get(name));
        if !attribute.mutable && now != Some(value) {
            return Err(Fault::bad(format!(
                "`{name}` of `{}` is immutable: only the server sets it",
                self.kind
            )));
        }
        writable(name, value)?;
        match value {
            Value::Null => Ok(()),
            _ => fits(name, self.kind, attribute, value),
        }
    }

    /// Which mixins would bring an attribute.
    fn elsewhere(&self, name: &str) -> String {
        let has = |c: &&Category| c.class() == "mixin" && c.attributes().contains_key(name);
        match self.registry.categories().find(has).map(Category::id) {
            Some(mixin) => format!(" and its mixins; the mixin `{mixin}` has it"),
            None => " and its mixins".to_string(),
        }
    }

    /// What is immutable the server adds later.
    fn check_required(&self, values: &Values, counts: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let mut needed = self.described.iter().filter(|(name, a)| {
            let lacks = !name.starts_with("occi.core.") && !values.contains_key(**name);
            a.required && a.mutable && lacks && counts(name)
        });
        match needed.next() {
            Some((name, attribute)) => Err(Fault::bad(format!(
                "`{name}` of `{}` is required; expected {}",
                self.kind,
                pattern::expected(attribute)
            ))),
            None => Ok(()),
        }
    }
}

/// Whether every rendering can carry a text: XML has no control characters but white space, and no U+FFFE and U+FFFF (XML 1.0, 2.2).
fn writable(name: &str, value: &Value) -> Result<(), Fault> {
    let odd = |c: char| (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}');
    match value {
        Value::String(text) => match text.chars().find(|c| odd(*c)) {
            None => Ok(()),
            Some(c) => Err(Fault::bad(format!(
                "`{}` has the character U+{:04X}, which XML cannot carry; expected text",
                shown(name),
                u32::from(c)
            ))),
        },
        Value::Array(list) => list.iter().try_for_each(|value| writable(name, value)),
        Value::Object(map) => map.iter().try_for_each(|(key, value)| {
            writable(name, &Value::String(key.clone()))?;
            writable(name, value)
        }),
        _ => Ok(()),
    }
}

/// As [`writable`], for what every entity has.
fn writable_core(title: &Option<String>, summary: &Option<String>) -> Result<(), Fault> {
    for (name, text) in [("occi.core.title", title), ("occi.core.summary", summary)] {
        if let Some(text) = text {
            writable(name, &Value::String(text.clone()))?;
        }
    }
    Ok(())
}

fn fits(name: &str, owner: &TypeId, attribute: &Attribute, value: &Value) -> Result<(), Fault> {
    let right = match attribute.kind.fits(value) {
        true => attribute.pattern.as_ref().is_none_or(|p| pattern::holds(p, value)),
        false => attribute.or.is_some_and(|or| or.fits(value)),
    };
    match right {
        true => Ok(()),
        false => Err(Fault::bad(format!(
            "`{name}` of `{owner}` is {}; expected {}",
            shown(&value.to_string()),
            pattern::expected(attribute)
        ))),
    }
}

/// Gives defaults to what has no value: of the last mixin that has one, else of the mixins that it depends on, else of the kind.
fn fill(registry: &Registry, kind: &TypeId, mixins: &[TypeId], values: &mut Values) {
    let of_mixins = mixins.iter().rev().flat_map(|m| registry.dependencies(m)).map(|m| &m.attributes);
    let of_kinds = registry.ancestors(kind).into_iter().map(|k| &k.attributes);
    for (name, attribute) in of_mixins.chain(of_kinds).flatten() {
        if let Some(default) = &attribute.default
            && !values.contains_key(name)
        {
            values.insert(name.clone(), default.clone());
        }
    }
}

/// Checks the call of an action of an entity of a kind with mixins, and fills in the defaults of its parameters.
///
/// # Errors
/// An action that is unknown or not of this entity, or parameters that it does not have, that it lacks, or of a wrong type.
pub fn call(registry: &Registry, entity: &Entity, call: Invocation) -> Result<Invocation, Fault> {
    let name = shown(call.action.as_str());
    let Some(action) = registry.action(&call.action) else {
        return Err(Fault::bad(format!("the action `{name}` is unknown; `/-/` lists what there is")));
    };
    if !registry.actions(&entity.kind, &entity.mixins).contains(&action.id) {
        return Err(Fault::bad(format!("`{}` and its mixins have no action `{name}`", entity.kind)));
    }
    let mut values = call.attributes;
    values.retain(|_, v| !v.is_null());
    coerce(&mut values, |name| action.attributes.get(name));
    for (parameter, value) in &values {
        let Some(attribute) = action.attributes.get(parameter) else {
            return Err(Fault::bad(format!("the action `{name}` has no attribute `{}`", shown(parameter))));
        };
        fits(parameter, &action.id, attribute, value)?;
    }
    for (parameter, attribute) in &action.attributes {
        match &attribute.default {
            _ if values.contains_key(parameter) => {}
            Some(default) => {
                values.insert(parameter.clone(), default.clone());
            }
            None if attribute.required => {
                let expected = pattern::expected(attribute);
                return Err(Fault::bad(format!(
                    "the action `{name}` needs `{parameter}`; expected {expected}"
                )));
            }
            None => {}
        }
    }
    Ok(Invocation { action: action.id.clone(), attributes: values })
}

/// Gives names without dots, as some documents in XML have them, the full name that ends in them, if there is exactly one; and texts that are
/// numbers their type, where both would do: XML does not tell them apart.
pub fn qualify(registry: &Registry, draft: &mut Draft) {
    let kind = draft.kind.clone().unwrap_or_else(core::entity);
    let mixins: Vec<TypeId> = draft.mixins.iter().chain(&draft.unclassed).cloned().collect();
    let described = registry.attributes(&kind, &mixins);
    let short: Vec<String> = draft.attributes.keys().filter(|n| !n.contains('.')).cloned().collect();
    for name in short {
        let ends = |full: &&&str| full.rsplit('.').next() == Some(name.as_str());
        let mut full = described.keys().filter(ends);
        if let (Some(full), None) = (full.next(), full.next())
            && !draft.attributes.contains_key(*full)
            && let Some(value) = draft.attributes.remove(&name)
        {
            draft.attributes.insert(full.to_string(), value);
        }
    }
    for (name, value) in &mut draft.attributes {
        let either = described.get(name.as_str()).is_some_and(|a| a.or == Some(AttributeType::Number));
        if let Some(number) = value.as_str().filter(|_| either).and_then(|text| draft_number(text.trim())) {
            *value = number;
        }
    }
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            qualify(registry, link);
        }
    }
}
