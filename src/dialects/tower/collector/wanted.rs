//! What a manager asks for, and which feeds that makes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::model::Resource;

/// The shortest sampling time.
const SHORTEST: f64 = 0.01;
/// The longest, a year.
const LONGEST: f64 = 366.0 * 86_400.0;

/// How often and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Every so often; every new value, when absent.
    pub every: Option<Duration>,
    /// This share of the values, from 0 to 1.
    pub probability: f64,
}

/// One entry of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    metric: String,
    /// Class, type and id; any, when absent.
    targets: Vec<[Option<String>; 3]>,
    sampling: Sampling,
    url: Arc<str>,
}

/// What is sent where: one metric of one service to one receiver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Feed {
    pub service: Arc<str>,
    pub metric: Arc<str>,
    pub url: Arc<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    parameters: Option<BTreeMap<String, Json>>,
    #[serde(default)]
    target_resources: Option<Vec<Vec<Option<String>>>>,
    da_url: String,
    #[serde(default)]
    data_format: Option<String>,
}

/// Reads a configuration.
///
/// # Errors
/// A sentence.
pub(super) fn read(text: &str) -> Result<Vec<Ask>, String> {
    let written: BTreeMap<String, Vec<Entry>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut asks = Vec::new();
    for (metric, entry) in
        written.into_iter().flat_map(|(m, list)| list.into_iter().map(move |e| (m.clone(), e)))
    {
        if !(entry.da_url.starts_with("http://") || entry.da_url.starts_with("https://")) {
            return Err(format!("data of `{metric}` cannot be sent to `{}`", entry.da_url));
        }
        if let Some(format) = entry.data_format.filter(|format| !format.eq_ignore_ascii_case("TOWER/JSON")) {
            return Err(format!("data of `{metric}` are to be sent as `{format}`; only TOWER/JSON is known"));
        }
        let triple = |target: Vec<Option<String>>| {
            let mut parts = target.into_iter();
            [parts.next().flatten(), parts.next().flatten(), parts.next().flatten()]
        };
        let anything = || vec![[None, None, None]];
        asks.push(Ask {
            targets: entry
                .target_resources
                .map_or_else(anything, |all| all.into_iter().map(triple).collect()),
            sampling: sampling(&entry.parameters.unwrap_or_default()),
            url: entry.da_url.into(),
            metric,
        });
    }
    Ok(asks)
}

/// What parameters say; what cannot be meant is passed over.
fn sampling(parameters: &BTreeMap<String, Json>) -> Sampling {
    let number = |name: &str| match parameters.get(name)? {
        Json::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    let every = number("samplingTime").filter(|seconds| *seconds > 0.0);
    let every = every.map(|seconds| Duration::from_secs_f64(seconds.clamp(SHORTEST, LONGEST)));
    let probability = number("samplingProbability").filter(|p| p.is_finite()).unwrap_or(1.0).clamp(0.0, 1.0);
    Sampling { every, probability }
}

impl Sampling {
    /// What is enough for both: a receiver that asks twice gets each value once.
    fn with(self, other: Self) -> Self {
        let probability = self.probability.max(other.probability);
        Self { every: self.every.zip(other.every).map(|(a, b)| a.min(b)), probability }
    }
}

/// The feeds that are asked for; `offers` are the resources by metric and service.
pub(super) fn feeds(
    asks: &[Ask],
    offers: &BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Resource>>>,
) -> BTreeMap<Feed, Sampling> {
    let mut wanted: BTreeMap<Feed, Sampling> = BTreeMap::new();
    for ask in asks {
        let Some((metric, of)) = offers.get_key_value(ask.metric.as_str()) else { continue };
        for (service, resource) in of {
            if ask.targets.iter().any(|target| is(resource, target)) {
                let feed = Feed { service: service.clone(), metric: metric.clone(), url: ask.url.clone() };
                let so_far = wanted.get(&feed).copied();
                wanted.insert(feed, so_far.map_or(ask.sampling, |so_far| so_far.with(ask.sampling)));
            }
        }
    }
    wanted
}

fn is(resource: &Resource, [class, kind, id]: &[Option<String>; 3]) -> bool {
    let same = |want: &Option<String>, have: Option<&str>| want.as_deref().is_none_or(|w| Some(w) == have);
    same(class, resource.class.as_deref())
        && same(kind, resource.kind.as_deref())
        && same(id, Some(&resource.id))
}

/// Takes a share of what comes, evenly: of a tenth, the first and then every tenth.
#[derive(Debug)]
pub(super) struct Spread {
    share: f64,
    owed: f64,
}

impl Spread {
    pub fn new(share: f64) -> Self {
        Self { share, owed: 1.0 - share }
    }

    /// Whether this one is taken.
    pub fn takes(&mut self) -> bool {
        self.owed += self.share;
        // What sums of tenths lack of a whole does not put off a value.
        let takes = self.share > 0.0 && self.owed >= 1.0 - 1e-9;
        if takes {
            self.owed -= 1.0;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers() -> BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Resource>>> {
        let vm = |id: &str, kind: &str| {
            let resource = Resource {
                id: id.into(),
                class: Some("VM".into()),
                kind: Some(kind.into()),
                ..Resource::default()
            };
            (Arc::from(id), Arc::new(resource))
        };
        BTreeMap::from([("CPU".into(), BTreeMap::from([vm("a", "Frontend"), vm("b", "Backend")]))])
    }

    fn asked(entries: &str) -> Vec<(String, Sampling)> {
        let asks = read(&format!("{{\"CPU\":[{entries}],\"Other\":[]}}")).expect("a configuration");
        feeds(&asks, &offers()).into_iter().map(|(f, s)| (f.service.to_string(), s)).collect()
    }

    fn entry(targets: &str, parameters: &str) -> String {
        format!(
            "{{\"parameters\":{{{parameters}}},\"targetResources\":{targets},\"daUrl\":\"http://da/s\",\"dataFormat\":\"TOWER/JSON\"}}"
        )
    }

    const ALL: Sampling = Sampling { every: None, probability: 1.0 };

    /// Requirement: R2-13
    #[test]
    fn targets_are_triples_in_which_null_is_any() {
        let names =
            |targets: &str| asked(&entry(targets, "")).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names("[[null,null,null]]"), ["a", "b"]);
        assert_eq!(names("[[\"VM\",\"Frontend\",null]]"), ["a"]);
        assert_eq!(names("[[\"VM\",null,\"b\"],[\"VM\",\"Frontend\",null]]"), ["a", "b"]);
        assert_eq!(names("[[\"Method\",null,null]]"), [""; 0]);
        assert_eq!(names("[]"), [""; 0]);
        assert_eq!(names("null"), ["a", "b"]);
    }

    #[test]
    fn parameters_say_how_often_and_how_many() {
        let sampled = |parameters: &str| asked(&entry("null", parameters))[0].1;
        let every = |seconds: f64| Some(Duration::from_secs_f64(seconds));
        assert_eq!(sampled(""), ALL);
        assert_eq!(sampled("\"samplingTime\":\"10\""), Sampling { every: every(10.0), probability: 1.0 });
        assert_eq!(
            sampled("\"samplingTime\":0.5,\"x\":[]"),
            Sampling { every: every(0.5), probability: 1.0 }
        );
        assert_eq!(sampled("\"samplingProbability\":\"0.25\"").probability, 0.25);
        for nonsense in ["\"samplingTime\":\"-1\"", "\"samplingTime\":\"x\"", "\"samplingProbability\":\"7\""]
        {
            assert_eq!(sampled(nonsense), ALL, "{nonsense}");
        }
        assert_eq!(sampled("\"samplingTime\":\"1e300\"").every, every(LONGEST));
    }

    #[test]
    fn a_receiver_that_asks_twice_gets_each_value_once() {
        let both = |one: &str, two: &str| asked(&[entry("null", one), entry("null", two)].join(","));
        assert_eq!(both("", "").len(), 2, "one for each service");
        let slower = both("\"samplingTime\":\"60\"", "\"samplingTime\":\"10\"")[0].1;
        assert_eq!(slower.every, Some(Duration::from_secs(10)));
        assert_eq!(both("\"samplingTime\":\"60\"", "")[0].1, ALL);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (text, why) in [
            ("[]", "invalid type"),
            ("{\"CPU\":[{\"daUrl\":\"file:///etc\"}]}", "cannot be sent"),
            ("{\"CPU\":[{\"daUrl\":\"http://x\",\"dataFormat\":\"RDF/JSON\"}]}", "RDF/JSON"),
            ("{\"CPU\":[{}]}", "daUrl"),
        ] {
            assert!(read(text).is_err_and(|e| e.contains(why)), "{text}");
        }
    }

    #[test]
    fn a_share_is_spread_evenly_and_the_first_is_taken() {
        let taken = |share: f64, of: usize| {
            let mut spread = Spread::new(share);
            (0..of).filter(|_| spread.takes()).collect::<Vec<_>>()
        };
        assert_eq!(taken(0.1, 21), [0, 10, 20]);
        assert_eq!(taken(1.0, 3), [0, 1, 2]);
        assert_eq!(taken(0.0, 100), [0; 0]);
        assert_eq!(taken(0.75, 1_000).len(), 750);
    }
}
