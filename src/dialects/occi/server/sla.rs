//! Agreements (GFD.228) with an objective of the core behind them: a term that a label of a sensor stays below or above a threshold. While the agreement
//! is accepted, the objective is part of the policy of each sensor that it links to; what comes of it is the state of the term.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::super::extensions::{monitoring, sla};
use super::super::fault::Fault;
use super::super::model::{Attribute, Entity, What};
use super::super::monitoring::provider::named;
use super::super::monitoring::translate::{Term, service_name};
use super::super::monitoring::{Names, Settings};
use super::super::registry::{ProviderMixin, Role};
use super::Occi;
use super::estate::{Change, Estate};
use crate::model::alarm::SloState;
use crate::model::ports::Slos;
use crate::service::handle::Handle;

/// How often it is asked what came of objectives.
const LOOK: Duration = Duration::from_millis(500);
/// Where the threshold stands.
const SIDES: [&str; 2] = ["at_most", "at_least"];
/// The states of a term (GFD.228).
pub(super) const UNDEFINED: &str = "Undefined";
const FULFILLED: &str = "Fulfilled";
const VIOLATED: &str = "Violated";

/// The mixin of agreements that have an objective.
pub(super) fn mixin(settings: &Settings) -> ProviderMixin {
    let id = settings.names.objective();
    let mut provider = ProviderMixin::new(
        id.clone(),
        "A label of a sensor stays on one side of a threshold",
        sla::agreement(),
    );
    provider.mixin.depends = vec![sla::agreement_term()];
    provider.mixin.applies = vec![sla::agreement()];
    let fixed = |about: &str| Attribute { mutable: false, ..Attribute::text().about(about) };
    for (name, attribute) in [
        ("label", Attribute::text().about("the label of the sensor to which the agreement is linked")),
        ("threshold", Attribute::number().about("the greatest or least value that keeps it")),
        ("side", Attribute::one_of(&SIDES).about("at_most, when absent")),
        ("term.desc", Attribute::text().about("what it means")),
        ("term.remedy", Attribute::text().about("what follows when it is broken")),
        ("term.type", fixed("SLO-TERM")),
        ("term.state", fixed("Undefined, Fulfilled or Violated")),
    ] {
        provider = provider.with(&settings.names.attribute(id.term(), name), attribute, Role::Control);
    }
    provider
}

fn attribute(names: &Names, name: &str) -> String {
    names.attribute(names.objective().term(), name)
}

/// The objective of an agreement; its name within a policy is that of the agreement's identifier.
fn term(names: &Names, agreement: &Entity) -> Option<Term> {
    if !agreement.mixins.contains(&names.objective()) {
        return None;
    }
    let value = |name: &str| agreement.attributes.get(&attribute(names, name));
    let label = value("label")?.as_str()?.to_string();
    let threshold = value("threshold")?.as_f64()?;
    let least = value("side").and_then(Json::as_str) == Some(SIDES[1]);
    let objective = format!("{} {} {threshold}", named(&label), if least { ">=" } else { "<=" });
    Some(Term { name: slo(agreement), label, objective })
}

fn slo(agreement: &Entity) -> String {
    format!("agreement_{}", &blake3::hash(agreement.id.as_bytes()).to_hex()[..12])
}

/// Where an agreement stands.
pub(super) const STATE: &str = "occi.agreement.state";
/// When it was accepted.
pub(super) const AGREED: &str = "occi.agreement.agreedAt";

fn state(agreement: &Entity) -> &str {
    agreement.attributes.get(STATE).and_then(Json::as_str).unwrap_or("Pending")
}

fn is_accepted(agreement: &Entity) -> bool {
    state(agreement) == "Accepted"
}

/// Where an agreement stands after an action (GFD.228).
///
/// # Errors
/// 409 for an action that its state does not allow.
pub(super) fn after(agreement: &Entity, verb: &str) -> Result<&'static str, Fault> {
    let (from, to): (&[&str], _) = match verb {
        "accept" => (&["Pending"], "Accepted"),
        "reject" => (&["Pending"], "Rejected"),
        "suspend" => (&["Accepted"], "Suspended"),
        "resume" => (&["Suspended"], "Accepted"),
        _ => (&["Pending", "Accepted", "Suspended"], "Terminated"),
    };
    let now = state(agreement);
    match from.contains(&now) {
        true => Ok(to),
        false => Err(Fault::conflict(format!(
            "`{}` is {now}; `{verb}` is for agreements that are {}",
            agreement.location,
            from.join(" or ")
        ))),
    }
}

/// What accepted agreements ask of a sensor. Those of others than who has the sensor ask nothing.
pub(super) fn terms(occi: &Occi, change: &Change<'_>, sensor: &str) -> Vec<Term> {
    let link = sla::agreement_link();
    let mut all: Vec<Term> = change
        .links_to(sensor)
        .into_iter()
        .filter(|entity| change.registry().is_a(&entity.kind, &link))
        .filter_map(|entity| {
            let What::Link { source, .. } = &entity.what else { return None };
            let agreement = change.get(&source.location)?;
            let theirs = change.owner(&source.location) == change.owner(sensor);
            (theirs && is_accepted(agreement)).then(|| term(&occi.settings.names, agreement)).flatten()
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    all
}

/// Says in an agreement what came of its objective.
pub(super) fn show(estate: &Estate, names: &Names, agreement: &mut Entity) {
    if !agreement.mixins.contains(&names.objective()) {
        return;
    }
    let known = estate.terms.get(agreement.location.as_str()).copied().filter(|_| is_accepted(agreement));
    let mut say =
        |name: &str, value: &str| drop(agreement.attributes.insert(attribute(names, name), json!(value)));
    say("term.type", "SLO-TERM");
    say("term.state", known.unwrap_or(UNDEFINED));
}

/// What a client sends back of that.
pub(super) fn is_shown(names: &Names, name: &str) -> bool {
    ["term.type", "term.state"].iter().any(|fixed| attribute(names, fixed) == name)
}

/// Asks from time to time what came of the objectives of accepted agreements, until the server is gone.
pub(super) async fn watch(occi: Weak<Occi>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(occi) = occi.upgrade() else { return };
        let asked = asked(&occi);
        let mut found: BTreeMap<Arc<str>, &'static str> = BTreeMap::new();
        for (service, agreements) in asked {
            let slos = Handle::new(occi.supervisor.clone(), &service).slo_list().await.unwrap_or_default();
            for (place, name) in agreements {
                let state = slos.iter().find(|slo| slo.name == name).map(|slo| slo.state);
                let state = match state {
                    Some(SloState::Ok | SloState::Warning | SloState::Pending) => FULFILLED,
                    Some(SloState::Violated) => VIOLATED,
                    _ => UNDEFINED,
                };
                // It is kept where it is kept by all.
                let worst = |known: &'static str| match (known, state) {
                    (VIOLATED, _) | (_, VIOLATED) => VIOLATED,
                    (UNDEFINED, _) | (_, UNDEFINED) => UNDEFINED,
                    _ => FULFILLED,
                };
                found.entry(place).and_modify(|known| *known = worst(known)).or_insert(state);
            }
        }
        if occi.estate().terms != found {
            // Only who changes writes: others may read twice at once.
            let _one = occi.pending.lock().await;
            occi.write(|estate| estate.terms = found);
        }
    }
}

/// Which services to ask, and for which agreements: their places, and the names of their objectives.
fn asked(occi: &Occi) -> BTreeMap<String, BTreeSet<(Arc<str>, String)>> {
    let estate = occi.estate();
    let names = &occi.settings.names;
    let mut all: BTreeMap<String, BTreeSet<(Arc<str>, String)>> = BTreeMap::new();
    let (agreement, sensor) = (sla::agreement(), monitoring::sensor());
    let Some(below) = estate.registry.kind(&agreement).and_then(|kind| kind.location.clone()) else {
        return all;
    };
    for entity in estate.below(&below).filter(|e| is_accepted(e) && e.mixins.contains(&names.objective())) {
        for link in estate.links_from(&entity.location).filter_map(|place| estate.get(place)) {
            let What::Link { target, .. } = &link.what else { continue };
            if let Some(target) =
                estate.get(&target.location).filter(|e| estate.registry.is_a(&e.kind, &sensor))
            {
                let agreements = all.entry(service_name(&target.id)).or_default();
                agreements.insert((entity.location.as_str().into(), slo(entity)));
            }
        }
    }
    all
}
