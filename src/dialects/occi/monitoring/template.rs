//! Templates: one mixin that stands for a whole structure (R1-39, R1-56, R0-08), and mixins that attributes imply. Both turn what a client sent
//! into what it could have sent instead, before anything is checked.

use serde_json::{Value as Json, json};

use super::super::draft::{Draft, DraftLink, identifier_at};
use super::super::extensions::{core, monitoring};
use super::super::fault::{Fault, shown};
use super::super::model::{Attribute, End, TypeId, Values};
use super::super::registry::{ProviderMixin, Role};
use super::super::text::is_uri;
use super::provider::{Names, Providers, Settings, labels};
use crate::dialects::access::uuid;

/// An alarm as it is recommended: what is measured, what is made of it, and when a mail is due.
struct Preset {
    /// The term of the template.
    term: &'static str,
    /// What clients are told about it.
    about: &'static str,
    /// How its sensors are called.
    title: &'static str,
    /// How its collectors are called.
    collector: &'static str,
    /// The metric.
    metric: &'static str,
    /// How often, in seconds.
    period: u32,
    /// From when to when, in seconds from the time base.
    window: Option<(u32, u32)>,
    /// What is made of what is measured.
    smoothing: Option<Smoothing>,
    /// What must be exceeded.
    threshold: f64,
    /// For how many periods.
    periods: Option<u32>,
    /// The attribute that is handed on to the metric, and whether it is needed.
    parameter: Option<(&'static str, bool, &'static str)>,
}

/// An aggregator, with its parameter.
struct Smoothing {
    aggregator: &'static str,
    parameter: &'static str,
    value: fn() -> Json,
}

/// That of the paper (section 6), and three more that every dashboard has.
const PRESETS: [Preset; 4] = [
    Preset {
        term: "CPUAlarm",
        about: "A sensor that sends a mail when the processors of the target are steadily over a threshold",
        title: "AlarmOnOverload",
        collector: "CPULoadProbe",
        metric: "CPUPercent",
        period: 60,
        window: Some((600, 3600)),
        smoothing: Some(Smoothing { aggregator: "EWMA", parameter: "gain", value: || json!(16) }),
        threshold: 80.0,
        periods: None,
        parameter: None,
    },
    Preset {
        term: "MemoryAlarm",
        about: "A sensor that sends a mail when the memory of the target is steadily used over a threshold",
        title: "AlarmOnShortMemory",
        collector: "MemoryProbe",
        metric: "MemoryPercent",
        period: 60,
        window: None,
        smoothing: Some(Smoothing { aggregator: "EWMA", parameter: "gain", value: || json!(4) }),
        threshold: 90.0,
        periods: None,
        parameter: None,
    },
    Preset {
        term: "DiskAlarm",
        about: "A sensor that sends a mail when a file system of the target is used over a threshold",
        title: "AlarmOnFullDisk",
        collector: "DiskProbe",
        metric: "DiskUsage",
        period: 300,
        window: None,
        smoothing: None,
        threshold: 85.0,
        periods: None,
        parameter: Some(("path", false, "where it is mounted; absent: the fullest")),
    },
    Preset {
        term: "ReachabilityAlarm",
        about: "A sensor that sends a mail when nothing answers at an address of the target for three periods",
        title: "AlarmOnSilence",
        collector: "ReachabilityProbe",
        metric: "IsReachable",
        period: 60,
        window: None,
        smoothing: Some(Smoothing {
            aggregator: "Expression",
            parameter: "expression",
            value: || json!("1 - a"),
        }),
        threshold: 0.5,
        periods: Some(3),
        parameter: Some(("hostname", true, "HOST:PORT")),
    },
];

/// A hundred years, in seconds.
const FAR: u64 = 100 * 365 * 86_400;

/// The template that makes the monitoring of a resource together with it.
const MONITORED: &str = "Monitored";

/// How clients see them.
pub fn mixins(names: &Names) -> Vec<ProviderMixin> {
    PRESETS.iter().map(|preset| preset.mixin(names)).chain([monitored(names)]).collect()
}

fn template(names: &Names, term: &str, about: &str, applies: TypeId) -> ProviderMixin {
    let mut provider = ProviderMixin::new(names.mixin("template", term), about, monitoring::aggregator());
    provider.mixin.depends = Vec::new();
    provider.mixin.applies = vec![applies];
    provider
}

/// Whether a mixin is a template.
pub fn is(names: &Names, mixin: &TypeId) -> bool {
    let terms = PRESETS.iter().map(|preset| preset.term).chain([MONITORED]);
    terms.into_iter().any(|term| *mixin == names.mixin("template", term))
}

/// Whether a client means a template, which is for new entities only.
pub fn means(names: &Names, draft: &Draft) -> bool {
    draft.mixins.iter().chain(&draft.unclassed).any(|mixin| is(names, mixin))
}

/// Takes a template out of what a client sent; answers whether it was there.
fn take(draft: &mut Draft, template: &TypeId) -> bool {
    let before = draft.mixins.len() + draft.unclassed.len();
    draft.mixins.retain(|mixin| mixin != template);
    draft.unclassed.retain(|mixin| mixin != template);
    draft.mixins.len() + draft.unclassed.len() < before
}

/// Puts a whole structure in the place of a template: period, mixins and a collector. What the client says itself stays.
///
/// # Errors
/// 400 if something is missing that the template needs.
pub fn expand(names: &Names, draft: &mut Draft) -> Result<(), Fault> {
    let meant = |preset: &&Preset| {
        let template = names.mixin("template", preset.term);
        draft.mixins.contains(&template) || draft.unclassed.contains(&template)
    };
    let terms: Vec<&str> = PRESETS.iter().filter(meant).map(|preset| preset.term).collect();
    if terms.len() > 1 {
        // Both would be called, measured and sent under the same labels and by the same mixin.
        return Err(Fault::bad(format!(
            "a sensor is made of one template, not of {}; make one sensor of each",
            terms.join(" and ")
        )));
    }
    PRESETS.iter().try_for_each(|preset| preset.expand(names, draft))
}

impl Preset {
    fn mixin(&self, names: &Names) -> ProviderMixin {
        let threshold = format!("what must be exceeded; {}, when absent", self.threshold);
        let mut attributes = vec![
            ("target", Attribute::text().about("what is measured: a place or an identifier")),
            ("email", Attribute::text().about("who gets it; several with commas between them")),
            ("threshold", Attribute::number().about(&threshold)),
        ];
        if let Some((name, _, about)) = self.parameter {
            attributes.push((name, Attribute::text().about(about)));
        }
        let bare = template(names, self.term, self.about, monitoring::sensor());
        attributes.into_iter().fold(bare, |provider, (name, attribute)| {
            provider.with(&names.attribute(self.term, name), attribute, Role::Control)
        })
    }

    fn expand(&self, names: &Names, draft: &mut Draft) -> Result<(), Fault> {
        if !take(draft, &names.mixin("template", self.term)) {
            return Ok(());
        }
        let (said, needed) = (
            |name: &str| names.attribute(self.term, name),
            |value: Option<Json>, name: &str| match value {
                Some(Json::String(text)) if !text.trim().is_empty() => Ok(text),
                _ => {
                    let name = names.attribute(self.term, name);
                    Err(Fault::bad(format!("the template `{}` needs the text `{name}`", self.term)))
                }
            },
        );
        let target = needed(draft.attributes.remove(&said("target")), "target")?;
        if !is_uri(&target) {
            let (name, target) = (said("target"), shown(&target));
            return Err(Fault::bad(format!(
                "`{name}` is `{target}`, which is no URI; expected a place or an identifier"
            )));
        }
        let email = needed(draft.attributes.remove(&said("email")), "email")?;
        let threshold = draft.attributes.remove(&said("threshold"));
        let of = |term: &str, name: &str| names.attribute(term, name);
        let mut collector: Values = [(of(self.metric, "out"), "a".into())].into();
        if let Some((name, wanted, _)) = self.parameter {
            let value = draft.attributes.remove(&said(name)).filter(|value| !value.is_null());
            let value = if wanted { Some(needed(value, name)?.into()) } else { value };
            collector.extend(value.map(|value| (of(self.metric, name), value)));
        }
        draft.title.get_or_insert_with(|| self.title.into());
        let mut default = |name: String, value: Json| {
            draft.attributes.entry(name).or_insert(value);
        };
        default("occi.sensor.period".into(), self.period.into());
        if let Some((start, stop)) = self.window {
            default("occi.sensor.timestart".into(), start.into());
            default("occi.sensor.timestop".into(), stop.into());
        }
        if let Some(Smoothing { aggregator, parameter, value }) = &self.smoothing {
            default(of(aggregator, parameter), value());
            default(of(aggregator, "instream"), "a".into());
            default(of(aggregator, "outstream"), "b".into());
        }
        let watched = if self.smoothing.is_some() { "b" } else { "a" };
        default(of("EmailAlarm", "threshold"), threshold.unwrap_or_else(|| plain(self.threshold)));
        default(of("EmailAlarm", "input"), watched.into());
        default(of("EmailAlarm", "email"), email.into());
        if let Some(periods) = self.periods {
            default(of("EmailAlarm", "periods"), periods.into());
        }
        let smoothing = self.smoothing.as_ref().map(|s| names.mixin("aggregator", s.aggregator));
        for mixin in smoothing.into_iter().chain([names.mixin("publisher", "EmailAlarm")]) {
            if !draft.mixins.contains(&mixin) {
                draft.mixins.push(mixin);
            }
        }
        let period = draft.attributes.get("occi.sensor.period").cloned();
        collector.insert("occi.collector.period".into(), period.unwrap_or_else(|| self.period.into()));
        let metrics = vec![names.mixin("metric", self.metric)];
        let collector = collector_of(self.collector, metrics, collector, target);
        draft.links.push(DraftLink::Whole(Box::new(collector)));
        Ok(())
    }
}

/// A number as somebody would write it.
fn plain(number: f64) -> Json {
    if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
}

fn collector_of(title: &str, mixins: Vec<TypeId>, attributes: Values, target: String) -> Draft {
    Draft {
        kind: Some(monitoring::collector()),
        title: Some(title.into()),
        mixins,
        attributes,
        target: Some(End::at(target)),
        ..Draft::default()
    }
}

// ---- monitoring as part of what is monitored (R0-08) -------------------------------------------------------------------

fn monitored(names: &Names) -> ProviderMixin {
    let about =
        "Its monitoring is made together with the resource, and goes with it: a sensor with a collector";
    let metrics =
        "terms of metrics that need no attributes, with commas between them; CPUPercent, when absent";
    let period = "how often, in seconds; 60, when absent";
    let text = Attribute::text().or(super::super::model::AttributeType::Array).about(metrics);
    template(names, MONITORED, about, core::resource())
        .with(&names.attribute(MONITORED, "metrics"), text, Role::Control)
        .with(&names.attribute(MONITORED, "period"), Attribute::at_least(0.0).about(period), Role::Control)
}

/// The identifier of the sensor that was made together with a resource: it follows from that of the resource.
pub fn watcher(id: &str) -> String {
    let hash = blake3::hash(format!("{MONITORED} {id}").as_bytes()).to_hex();
    format!(
        "urn:uuid:{}-{}-8{}-8{}-{}",
        &hash[..8],
        &hash[8..12],
        &hash[13..16],
        &hash[17..20],
        &hash[20..32]
    )
}

/// The sensor with its collector that a new resource with the template is to have; the template is not seen in the resource. `at` is the
/// place that the client chose for it.
///
/// # Errors
/// 400 for what is no name of a metric.
pub fn watching(settings: &Settings, draft: &mut Draft, at: Option<&str>) -> Result<Option<Draft>, Fault> {
    let names = &settings.names;
    if !take(draft, &names.mixin("template", MONITORED)) {
        return Ok(None);
    }
    let mut said = |name: &str| draft.attributes.remove(&names.attribute(MONITORED, name));
    let (terms, period) = (said("metrics"), said("period").filter(|value| !value.is_null()));
    let mut terms = labels(terms.as_ref());
    if terms.is_empty() {
        terms.push("CPUPercent".into());
    }
    let wrong = terms.iter().find(|term| !term.chars().all(|c| c.is_ascii_alphanumeric()));
    if let Some(wrong) = wrong {
        let wrong = shown(wrong);
        return Err(Fault::bad(format!("`{wrong}` is no metric; expected terms such as CPUPercent")));
    }
    let fresh = || at.map_or_else(|| format!("urn:uuid:{}", uuid()), identifier_at);
    let id = draft.id.get_or_insert_with(fresh).clone();
    let period = period.unwrap_or_else(|| json!(60));
    let mut attributes: Values = [("occi.collector.period".to_string(), period.clone())].into();
    attributes.extend(terms.iter().map(|term| (names.attribute(term, "out"), Json::from(term.as_str()))));
    let metrics = terms.iter().map(|term| names.mixin("metric", term)).collect();
    let collector = collector_of("Collector", metrics, attributes, id.clone());
    let mut sensor: Values = [("occi.sensor.period".to_string(), period)].into();
    if settings.strict {
        // As in the paper, it is said when it begins and ends: now, and in a hundred years.
        sensor.insert("occi.sensor.timestart".into(), 0.into());
        sensor.insert("occi.sensor.timestop".into(), FAR.into());
    }
    Ok(Some(Draft {
        kind: Some(monitoring::sensor()),
        id: Some(watcher(&id)),
        title: Some(format!("Monitoring of {}", draft.title.as_deref().unwrap_or(&id))),
        attributes: sensor,
        links: vec![DraftLink::Whole(Box::new(collector))],
        ..Draft::default()
    }))
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
