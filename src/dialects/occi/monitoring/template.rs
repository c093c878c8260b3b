//! Templates: one mixin that stands for a whole structure (R1-39), and mixins that attributes imply. Both turn what a client sent into what it
//! could have sent instead, before anything is checked.

use serde_json::{Value as Json, json};

use super::super::draft::{Draft, DraftLink};
use super::super::extensions::monitoring;
use super::super::fault::Fault;
use super::super::model::{Attribute, End, TypeId, Values};
use super::super::registry::{ProviderMixin, Role};
use super::provider::{Names, Providers};

const ALARM: &str = "CPUAlarm";

/// The template of the alarm of the paper (section 6).
pub fn alarm(names: &Names) -> TypeId {
    names.mixin("template", ALARM)
}

/// How clients see it.
pub fn mixin(names: &Names) -> ProviderMixin {
    let title = "A sensor that sends a mail when the processors of the target are steadily over a threshold";
    let mut provider = ProviderMixin::new(alarm(names), title, monitoring::aggregator());
    provider.mixin.depends = Vec::new();
    provider.mixin.applies = vec![monitoring::sensor()];
    let attributes = [
        ("target", Attribute::text().about("what is measured: a place or an identifier")),
        ("email", Attribute::text().about("who gets it; several with commas between them")),
        ("threshold", Attribute::number().about("percent; 80, when absent")),
    ];
    attributes.into_iter().fold(provider, |provider, (name, attribute)| {
        provider.with(&names.attribute(ALARM, name), attribute, Role::Control)
    })
}

/// Whether a client means the template, which is for new sensors only.
pub fn means(names: &Names, draft: &Draft) -> bool {
    let id = alarm(names);
    draft.mixins.contains(&id) || draft.unclassed.contains(&id)
}

/// Puts a whole structure in the place of a template: period, mixins and a collector. What the client says itself stays.
///
/// # Errors
/// 400 if the target or the address is missing.
pub fn expand(names: &Names, draft: &mut Draft) -> Result<(), Fault> {
    if !means(names, draft) {
        return Ok(());
    }
    let id = alarm(names);
    draft.mixins.retain(|mixin| *mixin != id);
    draft.unclassed.retain(|mixin| *mixin != id);
    let mut take = |name: &str| draft.attributes.remove(&names.attribute(ALARM, name));
    let (target, email, threshold) = (take("target"), take("email"), take("threshold"));
    let needed = |value: Option<Json>, name: &str| match value {
        Some(Json::String(text)) if !text.trim().is_empty() => Ok(text),
        _ => Err(Fault::bad(format!(
            "the template `{ALARM}` needs the text `{}`",
            names.attribute(ALARM, name)
        ))),
    };
    let (target, email) = (needed(target, "target")?, needed(email, "email")?);
    draft.title.get_or_insert_with(|| "AlarmOnOverload".into());
    let mut default = |name: String, value: Json| {
        draft.attributes.entry(name).or_insert(value);
    };
    for (name, value) in [("period", 60), ("timestart", 600), ("timestop", 3600)] {
        default(format!("occi.sensor.{name}"), value.into());
    }
    let of = |term: &str, name: &str| names.attribute(term, name);
    default(of("EWMA", "gain"), 16.into());
    default(of("EWMA", "instream"), "a".into());
    default(of("EWMA", "outstream"), "b".into());
    default(of("EmailAlarm", "threshold"), threshold.unwrap_or_else(|| 80.into()));
    default(of("EmailAlarm", "input"), "b".into());
    default(of("EmailAlarm", "email"), email.into());
    for mixin in [names.mixin("aggregator", "EWMA"), names.mixin("publisher", "EmailAlarm")] {
        if !draft.mixins.contains(&mixin) {
            draft.mixins.push(mixin);
        }
    }
    let period = draft.attributes.get("occi.sensor.period").cloned().unwrap_or(json!(60));
    let attributes: Values =
        [("occi.collector.period".to_string(), period), (of("CPUPercent", "out"), "a".into())].into();
    let collector = Draft {
        kind: Some(monitoring::collector()),
        title: Some("CPULoadProbe".into()),
        mixins: vec![names.mixin("metric", "CPUPercent")],
        attributes,
        target: Some(End::at(target)),
        ..Draft::default()
    };
    draft.links.push(DraftLink::Whole(Box::new(collector)));
    Ok(())
}

/// Adds the mixins of this server whose attributes an entity has, as in the documents of the prototype (S2), which name them in no other way.
pub fn imply(providers: &Providers, draft: &mut Draft) {
    let implied: Vec<TypeId> =
        draft.attributes.keys().filter_map(|name| providers.of_attribute(name)).collect();
    for id in implied {
        if !draft.mixins.contains(&id) && !draft.unclassed.contains(&id) {
            draft.mixins.push(id);
        }
    }
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            imply(providers, link);
        }
    }
}
