//! Prometheus text format 0.0.4 and OpenMetrics 1.0: a scanner of our own, an index per scrape, and sensors that share scrapes.
//!
//! An exposition is scanned once; what is kept per series is its place in the text, its value and its time, and nothing is copied.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustc_hash::FxHashMap;

use super::fetch;
use super::now;
use super::text::shorten;
use crate::model::connector::{ConnectorError, PrometheusSensor, Sensor};
use crate::model::series::{LabelMatch, SeriesSelector, name_length, quoted_length, unescape};
use crate::model::{Measurement, Timestamp, syntax};

/// The largest exposition that is taken, bytes.
const SCRAPE_LIMIT: usize = 32 * 1024 * 1024;

/// The most members of a family; a label with more values than that is an identifier, not a dimension.
const MEMBER_LIMIT: usize = 1000;

/// What is asked for, best first.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.7,text/plain;q=0.5,*/*;q=0.1";

/// How times in an exposition are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4: whole milliseconds.
    Text,
    /// OpenMetrics 1.0: seconds with a fraction.
    OpenMetrics,
}

impl Format {
    /// The format that a `Content-Type` names; without a word about OpenMetrics it is the text format.
    pub fn of(content_type: &str) -> Self {
        match content_type.trim_start().starts_with("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }
}

/// Why an exposition cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}: `{excerpt}`")]
pub struct ExpositionError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
    /// The beginning of the line.
    pub excerpt: String,
}

/// A scanned exposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Exposition {
    text: String,
    series: FxHashMap<String, Vec<Entry>>,
    count: usize,
}

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Where its labels are in the text, without the braces.
    labels: Range<usize>,
    value: f64,
    at: Option<Timestamp>,
}

/// One sample of an exposition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    labels: &'a str,
    /// The value; may be NaN or infinite.
    pub value: f64,
    /// Its time, when the exposition says one.
    pub at: Option<Timestamp>,
}

impl<'a> Point<'a> {
    /// Its labels in order, escapes resolved.
    pub fn labels(&self) -> impl Iterator<Item = (&'a str, std::borrow::Cow<'a, str>)> {
        Labels { rest: self.labels }.map(|(name, value)| (name, unescape(value)))
    }

    /// The value of one label; without it, the empty text.
    pub fn label(&self, name: &str) -> std::borrow::Cow<'a, str> {
        Labels { rest: self.labels }
            .find(|(found, _)| *found == name)
            .map_or(std::borrow::Cow::Borrowed(""), |(_, value)| unescape(value))
    }

    fn matches(&self, conditions: &[LabelMatch]) -> bool {
        conditions.iter().all(|c| (self.label(&c.name) == c.value) == c.equal)
    }
}

/// Labels that have been scanned before, so that only good ones occur; values without quotes, escapes kept.
struct Labels<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (label, rest) = label(self.rest).ok()?;
        self.rest = rest;
        label
    }
}

/// A name, and a value without its quotes.
type Label<'a> = (&'a str, &'a str);

/// The first label of `text` and what follows it, its comma included; no label at the end or before a closing brace.
fn label(text: &str) -> Result<(Option<Label<'_>>, &str), &'static str> {
    let text = skip_blanks(text);
    if text.is_empty() || text.starts_with('}') {
        return Ok((None, text));
    }
    let length = name_length(text, false);
    if length == 0 {
        return Err("a label name is missing");
    }
    let rest = skip_blanks(&text[length..]);
    let rest = skip_blanks(rest.strip_prefix('=').ok_or("a label has no `=`")?);
    if !rest.starts_with('"') {
        return Err("a label value is not in quotes");
    }
    let quoted = quoted_length(rest).ok_or("a label value is never closed")?;
    let after = skip_blanks(&rest[quoted..]);
    let after = match after.as_bytes().first() {
        Some(b',') => &after[1..],
        None | Some(b'}') => after,
        Some(_) => return Err("labels are not separated by a comma"),
    };
    Ok((Some((&text[..length], &rest[1..quoted - 1])), after))
}

/// `text` without the spaces and tabs that it begins with.
fn skip_blanks(text: &str) -> &str {
    let blanks = text.bytes().take_while(|b| matches!(b, b' ' | b'\t')).count();
    &text[blanks..]
}

/// The first word of `text` (empty at the end) and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = skip_blanks(text);
    let end = text.bytes().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(text.len());
    text.split_at(end)
}

impl Exposition {
    /// Scans the bytes of a body.
    ///
    /// # Errors
    /// The first line that is not as the format says, with its number.
    pub fn parse(body: Vec<u8>, format: Format) -> Result<Self, ExpositionError> {
        let text = String::from_utf8(body).map_err(|e| {
            let good = e.utf8_error().valid_up_to();
            let line = e.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
            ExpositionError { line, problem: "this is not UTF-8".into(), excerpt: String::new() }
        })?;
        let mut series = FxHashMap::<String, Vec<Entry>>::default();
        let (mut count, mut start) = (0, 0);
        for (number, line) in text.split('\n').enumerate() {
            let trimmed = line.trim_end_matches('\r');
            if trimmed == "# EOF" {
                break;
            }
            let scanned = scan(trimmed, format).map_err(|problem| ExpositionError {
                line: number + 1,
                problem: problem.into(),
                excerpt: shorten(trimmed, 80),
            })?;
            if let Some((name, mut entry)) = scanned {
                entry.labels = entry.labels.start + start..entry.labels.end + start;
                count += 1;
                match series.get_mut(name) {
                    Some(entries) => entries.push(entry),
                    None => drop(series.insert(name.to_string(), vec![entry])),
                }
            }
            start += line.len() + 1;
        }
        Ok(Self { text, series, count })
    }

    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has no samples.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The samples that `selector` selects, in the order of the exposition.
    pub fn select<'a>(&'a self, selector: &'a SeriesSelector) -> impl Iterator<Item = Point<'a>> {
        self.named(&selector.name).filter(|point| point.matches(&selector.labels))
    }

    fn named(&self, name: &str) -> impl Iterator<Item = Point<'_>> {
        self.series.get(name).into_iter().flatten().map(|entry| Point {
            labels: &self.text[entry.labels.clone()],
            value: entry.value,
            at: entry.at,
        })
    }
}

/// One line: `None` for comments and empty lines.
fn scan(line: &str, format: Format) -> Result<Option<(&str, Entry)>, &'static str> {
    let text = skip_blanks(line);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let length = name_length(text, true);
    if length == 0 {
        return Err("a series name is missing");
    }
    let (name, after) = text.split_at(length);
    let mut rest = skip_blanks(after);
    let mut labels = 0..0;
    if let Some(inner) = rest.strip_prefix('{') {
        let end = labels_length(inner)?;
        let from = line.len() - inner.len();
        labels = from..from + end;
        rest = &inner[end + 1..];
    } else if rest.len() == after.len() {
        return Err("a space is missing after the series name");
    }
    let (value, rest) = word(rest);
    let value = number(value).ok_or("the value is no number")?;
    let (at, rest) = word(rest);
    // `#` begins an exemplar; what it says is not used.
    if at.is_empty() || at.starts_with('#') {
        return Ok(Some((name, Entry { labels, value, at: None })));
    }
    let at = Some(time(at, format).ok_or("the timestamp is no number")?);
    match word(rest).0 {
        more if more.is_empty() || more.starts_with('#') => Ok(Some((name, Entry { labels, value, at }))),
        _ => Err("something follows the timestamp"),
    }
}

/// The length of the labels before their closing brace; checks each.
fn labels_length(text: &str) -> Result<usize, &'static str> {
    let mut rest = text;
    loop {
        match label(rest)? {
            (Some(_), after) => rest = after,
            (None, "") => return Err("`{` is never closed"),
            (None, after) => return Ok(text.len() - after.len()),
        }
    }
}

/// A value as both formats write it, NaN and infinities included.
fn number(word: &str) -> Option<f64> {
    word.parse::<f64>().ok()
}

fn time(word: &str, format: Format) -> Option<Timestamp> {
    let micros = match format {
        Format::Text => word.parse::<i64>().ok()?.checked_mul(1000)?,
        Format::OpenMetrics => {
            let seconds = word.parse::<f64>().ok().filter(|s| s.is_finite())?;
            (seconds * 1e6).round() as i64
        }
    };
    Some(Timestamp(micros))
}

/// The scrapes that sensors share, by URL.
#[derive(Clone, Default)]
pub(super) struct Scrapes {
    slots: Arc<std::sync::Mutex<HashMap<String, Weak<Slot>>>>,
}

/// The last scrape of one URL; whoever holds the lock is scraping, and the others join by waiting for it.
type Slot = tokio::sync::Mutex<Option<Scrape>>;

struct Scrape {
    at: Instant,
    result: Result<Arc<Exposition>, ConnectorError>,
}

impl Scrapes {
    fn slot(&self, url: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(url).and_then(Weak::upgrade) {
            return slot;
        }
        let slot = Arc::new(Slot::default());
        slots.retain(|_, weak| weak.strong_count() > 0);
        slots.insert(url.to_string(), Arc::downgrade(&slot));
        slot
    }
}

/// Reads one selection of series of an exposition.
pub(super) struct PrometheusReader {
    client: reqwest::Client,
    url: url::Url,
    what: String,
    selector: SeriesSelector,
    series: String,
    by: Option<String>,
    reuse: Duration,
    slot: Arc<Slot>,
}

impl PrometheusReader {
    pub(super) fn new(
        spec: &PrometheusSensor,
        every: Duration,
        scrapes: &Scrapes,
        client: reqwest::Client,
    ) -> Result<Self, ConnectorError> {
        let url = syntax::url(&spec.url).map_err(ConnectorError::Config)?;
        Ok(Self {
            client,
            what: format!("GET {}", fetch::shown(&url)),
            slot: scrapes.slot(url.as_str()),
            url,
            selector: SeriesSelector::parse(&spec.series).map_err(ConnectorError::Config)?,
            series: spec.series.clone(),
            by: spec.by.clone(),
            reuse: every / 2,
        })
    }

    /// The exposition: one younger than half of `every`, or a new one. A failure is shared like a success.
    async fn exposition(&self) -> Result<Arc<Exposition>, ConnectorError> {
        let mut slot = self.slot.lock().await;
        if let Some(scrape) = slot.as_ref()
            && scrape.at.elapsed() < self.reuse
        {
            return scrape.result.clone();
        }
        let result = self.scrape().await.map(Arc::new);
        *slot = Some(Scrape { at: now(), result: result.clone() });
        result
    }

    async fn scrape(&self) -> Result<Exposition, ConnectorError> {
        let request = self.client.get(self.url.clone()).header(reqwest::header::ACCEPT, ACCEPT);
        let fetched = fetch::get(request, &self.what, SCRAPE_LIMIT).await?;
        let format = Format::of(&fetched.content_type);
        Exposition::parse(fetched.body, format)
            .map_err(|e| ConnectorError::Answer(format!("{} answered no exposition: {e}", self.what)))
    }

    /// Sums the selected series, as a whole and by label. Values that are not finite are left out.
    fn measure(&self, exposition: &Exposition) -> Result<Vec<Measurement>, ConnectorError> {
        let mut whole = Sum::default();
        let mut groups = BTreeMap::<String, Sum>::new();
        for point in exposition.select(&self.selector) {
            whole.add(&point);
            if let Some(by) = &self.by {
                let member = point.label(by);
                if !member.is_empty() {
                    groups.entry(member.into_owned()).or_default().add(&point);
                }
            }
        }
        if groups.len() > MEMBER_LIMIT {
            let by = self.by.as_deref().unwrap_or_default();
            return Err(ConnectorError::Answer(format!(
                "{}: label `{by}` of `{}` has {} values; at most {MEMBER_LIMIT} can be told apart",
                self.what,
                self.series,
                groups.len()
            )));
        }
        let headline = whole.measurement(None).ok_or_else(|| self.nothing(exposition, &whole))?;
        if whole.skipped > 0 {
            tracing::debug!(
                series = self.series,
                skipped = whole.skipped,
                "series whose value is NaN or infinite are left out of the sum"
            );
        }
        let members = groups.into_iter().filter_map(|(label, sum)| sum.measurement(Some(Arc::from(label))));
        Ok(std::iter::once(headline).chain(members).collect())
    }

    fn nothing(&self, exposition: &Exposition, whole: &Sum) -> ConnectorError {
        let (what, series) = (&self.what, &self.series);
        ConnectorError::Answer(if whole.skipped > 0 {
            format!("{what}: every value of `{series}` is NaN or infinite ({} series)", whole.skipped)
        } else if exposition.series.contains_key(&self.selector.name) {
            let named = exposition.named(&self.selector.name).count();
            format!(
                "{what}: none of the {named} series named `{}` has the labels of `{series}`",
                self.selector.name
            )
        } else {
            format!("{what}: no series is named `{}`, among {} samples", self.selector.name, exposition.len())
        })
    }
}

#[async_trait]
impl Sensor for PrometheusReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let exposition = self.exposition().await?;
        self.measure(&exposition)
    }
}

/// A sum of samples; its time is that of the oldest.
#[derive(Default)]
struct Sum {
    total: f64,
    count: usize,
    skipped: usize,
    at: Option<Timestamp>,
}

impl Sum {
    fn add(&mut self, point: &Point<'_>) {
        if !point.value.is_finite() {
            self.skipped += 1;
            return;
        }
        self.total += point.value;
        self.count += 1;
        self.at = match (self.at, point.at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn measurement(&self, label: Option<Arc<str>>) -> Option<Measurement> {
        let good = self.count > 0 && self.total.is_finite();
        good.then_some(Measurement { output: None, label, value: self.total, at: self.at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Exposition {
        Exposition::parse(text.as_bytes().to_vec(), Format::Text).expect(text)
    }

    fn values(text: &str, series: &str) -> Vec<f64> {
        let selector = SeriesSelector::parse(series).expect(series);
        parse(text).select(&selector).map(|p| p.value).collect()
    }

    const PAGE: &str = r#"# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9
metric_without_timestamp_and_labels 12.47
something_weird{problem="division } by zero",} +Inf -3982045
latency_bucket { le = "+Inf" , a="b" } 2.4e1
empty{} NaN
"#;

    /// Requirement: R3-25
    #[test]
    fn the_text_format_is_read_with_labels_escapes_times_and_special_values() {
        assert_eq!(parse(PAGE).len(), 7);
        assert_eq!(values(PAGE, "http_requests_total"), [1027.0, 3.0]);
        assert_eq!(values(PAGE, "http_requests_total{code=\"400\"}"), [3.0]);
        assert_eq!(values(PAGE, "http_requests_total{code!=\"400\",missing=\"\"}"), [1027.0]);
        assert_eq!(
            values(PAGE, r#"msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT"}"#),
            [1.458255915e9]
        );
        assert_eq!(values(PAGE, "something_weird{problem=\"division } by zero\"}"), [f64::INFINITY]);
        assert_eq!(values(PAGE, "latency_bucket{le=\"+Inf\"}"), [24.0]);
        assert!(values(PAGE, "empty")[0].is_nan());
        let selector = SeriesSelector::parse("http_requests_total").expect("selector");
        let at = parse(PAGE).select(&selector).next().and_then(|p| p.at);
        assert_eq!(at, Some(Timestamp(1_395_066_363_000_000)));
    }

    /// Requirement: R3-25
    #[test]
    fn openmetrics_has_seconds_exemplars_and_an_end() {
        let page = "# TYPE foo histogram\nfoo_bucket{le=\"0.1\"} 8 # {} 0.054\nfoo_bucket{le=\"1\"} 11 1520879607.789 # {trace_id=\"KOO5S4vxi0o\"} 0.67 1520879608\nfoo_sum 3.5 1520430000.123\n# EOF\nnonsense here\n";
        let page = Exposition::parse(page.into(), Format::OpenMetrics).expect("good");
        let selector = SeriesSelector::parse("foo_bucket{le=\"1\"}").expect("selector");
        let point = page.select(&selector).next().expect("one");
        assert_eq!((point.value, point.at), (11.0, Some(Timestamp(1_520_879_607_789_000))));
        assert_eq!(page.len(), 3);
        assert_eq!(Format::of("application/openmetrics-text; version=1.0.0"), Format::OpenMetrics);
        assert_eq!(Format::of("text/plain; version=0.0.4"), Format::Text);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for (line, problem) in [
            ("9lives 1", "a series name is missing"),
            ("a", "a space is missing"),
            ("a ", "the value is no number"),
            ("a b", "the value is no number"),
            ("a 1 x", "the timestamp is no number"),
            ("a 1 2 3", "something follows"),
            ("a{b=\"c\"", "never closed"),
            ("a{b=\"c} 1", "never closed"),
            ("a{b=c} 1", "not in quotes"),
            ("a{b} 1", "no `=`"),
            ("a{b=\"c\" d=\"e\"} 1", "comma"),
            ("a{,} 1", "label name is missing"),
        ] {
            let page = format!("# one\nok 1\n{line}\nok 2\n");
            let error = Exposition::parse(page.into_bytes(), Format::Text).expect_err(line);
            assert_eq!(error.line, 3, "{line}");
            assert!(error.to_string().contains(problem), "{line}: {error}");
        }
        let error = Exposition::parse(b"a 1\n\xff".to_vec(), Format::Text).expect_err("not UTF-8");
        assert_eq!(error.line, 2);
    }

    fn sample() -> impl Strategy<Value = (String, BTreeMap<String, String>, f64, Option<i64>)> {
        (
            "[a-zA-Z_:][a-zA-Z0-9_:]{0,6}",
            proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,4}", "[\\PC\n\"\\\\{}, ]{0,8}", 0..4),
            proptest::num::f64::ANY,
            proptest::option::of(-1_000_000_000_000i64..1_000_000_000_000),
        )
    }

    fn write(name: &str, labels: &BTreeMap<String, String>, value: f64, at: Option<i64>) -> String {
        let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(n, v)| format!("{n}=\"{}\"", escape(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let at = at.map(|at| format!(" {at}")).unwrap_or_default();
        format!("{name}{labels} {value}{at}")
    }

    proptest! {
        #[test]
        fn scanning_never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Exposition::parse(bytes.clone(), Format::Text);
            let _ = Exposition::parse(bytes, Format::OpenMetrics);
        }

        #[test]
        fn scanning_never_panics_on_what_almost_is_an_exposition(text in "(a?[{]?(b=?\"[\\\\\"n]?)?,?[}]? ?[1x]?[ #]?\n?){0,12}") {
            if let Ok(page) = Exposition::parse(text.into_bytes(), Format::Text) {
                for name in page.series.keys() {
                    for point in page.named(name) {
                        point.labels().count();
                    }
                }
            }
        }

        /// Requirement: R3-25
        #[test]
        fn what_is_written_by_the_rules_is_read_back(samples in proptest::collection::vec(sample(), 0..12)) {
            let lines: Vec<String> = samples.iter().map(|(n, l, v, t)| write(n, l, *v, *t)).collect();
            let page = Exposition::parse(format!("{}\n", lines.join("\n")).into_bytes(), Format::Text).expect("by the rules");
            prop_assert_eq!(page.len(), samples.len());
            for (name, labels, value, at) in &samples {
                let found = page.named(name).any(|p| {
                    let same: BTreeMap<String, String> = p.labels().map(|(n, v)| (n.to_string(), v.into_owned())).collect();
                    same == *labels
                        && (p.value == *value || (p.value.is_nan() && value.is_nan()))
                        && p.at == at.map(|t| Timestamp(t * 1000))
                });
                prop_assert!(found, "{} is lost", write(name, labels, *value, *at));
            }
        }
    }
}
