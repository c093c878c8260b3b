//! Pages for people: rules, metrics, model, collectors. Written by the server, without scripts; what changes something is a form.

use std::fmt::{Display, Formatter, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value as Json};

use super::super::rule::Rule;
use super::collectors::encoded;
use super::formats::Format;
use super::observers::Observer;
use super::{Answer, App, Refused, Tower};
use crate::service::control::Figure;

/// How many rows one page shows; `?q=` chooses among more.
const ROWS: usize = 1_000;

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;margin:0 auto;max-width:75rem;padding:1rem;color:#222;background:#fff}\
nav a{margin-right:1.2rem}nav a[aria-current]{font-weight:bold;text-decoration:none;color:inherit}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ddd}\
form{display:inline}input,select,button{font:inherit}small{color:#666}\
@media (prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}th,td{border-color:#444}a{color:#8bf}small{color:#999}}";

/// The routes of the pages.
pub(super) fn routes() -> Router<Arc<Tower>> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/webapp/") }))
        .route("/webapp", get(|| async { Redirect::to("/webapp/") }))
        .route("/webapp/", get(rules))
        .route("/webapp/metrics", get(metrics))
        .route("/webapp/model", get(model))
        .route("/webapp/collectors", get(collectors))
        .route("/webapp/rules/{id}/{switch}", post(switch))
        .route("/webapp/metrics/{metric}/observers", post(add_observer))
        .route("/webapp/metrics/{metric}/observers/{id}/remove", post(remove_observer))
}

/// Text that is only text, in elements and attributes.
struct Safe<T>(T);

impl<T: Display> Display for Safe<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A page on its way.
struct Page {
    html: String,
    query: String,
    rows: usize,
    left_out: usize,
}

impl Page {
    fn begin(title: &str, here: &str, uri: &Uri) -> Self {
        let given =
            url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).find(|(k, _)| k == "q");
        let query = given.map(|(_, value)| value.into_owned()).unwrap_or_default();
        let mut html = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title} – homeostat</title><style>{STYLE}</style><nav>"
        );
        let pages = [
            ("/webapp/", "Rules"),
            ("/webapp/metrics", "Metrics"),
            ("/webapp/model", "Model"),
            ("/webapp/collectors", "Collectors"),
        ];
        for (path, name) in pages {
            let current = if path == here { " aria-current=\"page\"" } else { "" };
            let _ = write!(html, "<a href=\"{path}\"{current}>{name}</a>");
        }
        let _ = write!(
            html,
            "</nav><h1>{title}</h1><form action=\"{here}\"><label>Only those with <input name=\"q\" value=\"{}\"></label> <button>Show</button></form>",
            Safe(&query)
        );
        Self { html, query, rows: 0, left_out: 0 }
    }

    fn put(&mut self, text: impl Display) {
        let _ = write!(self.html, "{text}");
    }

    fn head(&mut self, names: &[&str]) {
        self.put("<table><thead><tr>");
        for name in names {
            self.put(format_args!("<th>{name}"));
        }
        self.put("<tbody>");
    }

    /// Whether a row about this is shown.
    fn shows(&mut self, text: &str) -> bool {
        if !text.contains(&self.query) {
            return false;
        }
        self.rows += 1;
        self.left_out += usize::from(self.rows > ROWS);
        self.rows <= ROWS
    }

    fn end(mut self) -> Response {
        self.put("</table>");
        match (self.rows, self.left_out) {
            (0, _) => self.put("<p>There is none.</p>"),
            (_, 0) => {}
            (_, more) => self.put(format_args!("<p>{more} more are not shown.</p>")),
        }
        let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
            (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin")),
        ];
        (headers, self.html).into_response()
    }
}

/// What a rule does, in a line.
fn told(rule: &Rule) -> String {
    let mut text = String::new();
    if let Some(aggregation) = &rule.aggregation {
        let _ = write!(text, "{} of ", aggregation.function.as_deref().unwrap_or("?"));
    }
    text.push_str(rule.metric_name().unwrap_or("?"));
    if let Some(class) = rule.aggregation.as_ref().and_then(|a| a.grouping.as_deref()) {
        let _ = write!(text, " by {class}");
    }
    let (step, window) =
        (rule.time_step.as_deref().unwrap_or("?"), rule.time_window.as_deref().unwrap_or("?"));
    let _ = write!(text, ", every {step} s over {window} s");
    if let Some(condition) = rule.condition() {
        let _ = write!(text, ", if {}", condition.trim());
    }
    text
}

async fn rules(State(tower): App, uri: Uri) -> Response {
    let catalog = tower.catalog().await;
    let enabled = tower.enabled(&catalog).await;
    let mut page = Page::begin("Rules", "/webapp/", &uri);
    page.head(&["Rule", "What it does", "Actions", "State"]);
    for (id, rule) in catalog.rules() {
        let label = rule.label.as_deref().unwrap_or_default();
        if !page.shows(&format!("{id} {label}")) {
            continue;
        }
        let actions: Vec<String> = rule
            .actions()
            .iter()
            .map(|action| match action.parameter("metric").or_else(|| action.parameter("ruleId")) {
                Some(of) => format!("{} {of}", action.name.as_deref().unwrap_or("?")),
                None => action.name.clone().unwrap_or_default(),
            })
            .collect();
        let on = enabled.get(id).copied().unwrap_or_else(|| rule.starts_enabled());
        let (state, switch, verb) =
            if on { ("enabled", "disable", "Disable") } else { ("disabled", "enable", "Enable") };
        page.put(format_args!(
            "<tr><td>{}<br><small>{}</small><td>{}<td>{}<td>{state} <form method=\"post\" action=\"/webapp/rules/{}/{switch}\"><button>{verb}</button></form>",
            Safe(id),
            Safe(label),
            Safe(told(rule)),
            Safe(actions.join(", ")),
            encoded(id),
        ));
    }
    page.end()
}

async fn metrics(State(tower): App, uri: Uri) -> Response {
    let catalog = tower.catalog().await;
    let needs = tower.needs();
    let mut page = Page::begin("Metrics", "/webapp/metrics", &uri);
    page.head(&["Metric", "Rule", "Observers"]);
    for (metric, rule) in &catalog.emitted {
        if !page.shows(metric) {
            continue;
        }
        page.put(format_args!("<tr><td>{}<td>{}<td>", Safe(metric), Safe(rule)));
        let path = format!("/webapp/metrics/{}/observers", encoded(metric));
        for observer in tower.observers.of(metric) {
            let (delivered, lost) =
                (observer.delivered.load(Ordering::Relaxed), observer.lost.load(Ordering::Relaxed));
            page.put(format_args!(
                "{} <small>{}, {delivered} delivered, {lost} lost</small> <form method=\"post\" action=\"{path}/{}/remove\"><button>Remove</button></form><br>",
                Safe(observer.place()),
                observer.format(),
                encoded(&observer.id),
            ));
        }
        page.put(format_args!(
            "<form method=\"post\" action=\"{path}\"><select name=\"format\" aria-label=\"Format\">"
        ));
        for (_, name) in Format::ALL {
            page.put(format_args!("<option>{name}"));
        }
        page.put("</select> <input name=\"url\" required size=\"32\" aria-label=\"Address\" placeholder=\"http://…, tcp://HOST:PORT or udp://HOST:PORT\"> <button>Add observer</button></form>");
    }
    page.put("</table><h2>Collected now</h2>");
    page.head(&["Metric", "For", "Offered by collectors for"]);
    let mut collected: Vec<_> = needs.iter().collect();
    collected.sort_by(|a, b| a.0.cmp(b.0));
    for (metric, needed) in collected {
        if !page.shows(metric) {
            continue;
        }
        let rules: Vec<&str> = needed.services.iter().map(|service| &**service).collect();
        let offered = tower.collectors.offers().get(metric).map_or(0, |of_metric| of_metric.resources.len());
        page.put(format_args!(
            "<tr><td>{}<td>{}<td>{offered} resources",
            Safe(metric),
            Safe(rules.join(", "))
        ));
    }
    page.end()
}

async fn model(State(tower): App, uri: Uri) -> Response {
    let mut page = Page::begin("Model", "/webapp/model", &uri);
    page.head(&["Resource", "Class", "Type", "Related to"]);
    for resource in tower.resources() {
        if !page.shows(&resource.to_string()) {
            continue;
        }
        let text = |name: &str| resource[name].as_str().unwrap_or_default().to_string();
        let related: Vec<String> = resource
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !matches!(name.as_str(), "id" | "clazz" | "type"))
            .map(|(name, to)| match to {
                Json::String(to) => format!("{name}: {to}"),
                to => {
                    let all: Vec<&str> =
                        to.as_array().into_iter().flatten().filter_map(Json::as_str).collect();
                    format!("{name}: {}", all.join(", "))
                }
            })
            .collect();
        page.put(format_args!(
            "<tr><td>{}<td>{}<td>{}<td>{}",
            Safe(text("id")),
            Safe(text("clazz")),
            Safe(text("type")),
            Safe(related.join("; ")),
        ));
    }
    page.end()
}

async fn collectors(State(tower): App, uri: Uri) -> Response {
    let now = tower.now();
    let mut page = Page::begin("Collectors", "/webapp/collectors", &uri);
    page.head(&[
        "Collector",
        "Metrics, of how many resources",
        "Heard of",
        "Data",
        "Not needed",
        "More than asked for",
    ]);
    for (id, collector) in tower.collectors.list() {
        let offered: Vec<String> = collector
            .offered()
            .iter()
            .map(|(metric, (n, others))| {
                format!("{metric} ({n}{})", if *others { " and others" } else { "" })
            })
            .collect();
        let offered = offered.join(", ");
        if !page.shows(&format!("{id} {offered}")) {
            continue;
        }
        let keep =
            collector.keep.map_or_else(|| "for ever".to_string(), |keep| format!("{} s", keep.as_secs()));
        let counted = &collector.counted;
        page.put(format_args!(
            "<tr><td>{}<td>{}<td>{} s ago <small>lives {keep}</small><td>{}<td>{}<td>{}",
            Safe(id),
            Safe(offered),
            now.since(collector.seen()).as_secs(),
            counted.data.load(Ordering::Relaxed),
            counted.unwanted.load(Ordering::Relaxed),
            counted.excess.load(Ordering::Relaxed),
        ));
    }
    page.put("</table><h2>All data</h2>");
    page.head(&["", "Since the server began"]);
    for (_, what, value) in tower.totals() {
        page.rows += 1;
        page.put(format_args!("<tr><td>{what}<td>{value}"));
    }
    page.end()
}

async fn switch(State(tower): App, Path((id, switch)): Path<(String, String)>) -> Answer {
    let on = match switch.as_str() {
        "enable" => true,
        "disable" => false,
        _ => return Err(Refused::missing("page", &switch)),
    };
    tower.switch_rule(&id, on).await?;
    Ok(Redirect::to("/webapp/").into_response())
}

/// An observer from a form: the address says the protocol.
async fn add_observer(State(tower): App, Path(metric): Path<String>, body: Body) -> Answer {
    let bytes = tower.read(body).await?;
    let mut observer = Map::new();
    for (name, value) in url::form_urlencoded::parse(&bytes) {
        match &*name {
            "format" => drop(observer.insert("format".into(), value.into_owned().into())),
            "url" => {
                let place = value.trim();
                let socket = place.split_once("://").filter(|(scheme, _)| matches!(*scheme, "tcp" | "udp"));
                match socket
                    .and_then(|(scheme, rest)| Some((scheme, rest.trim_end_matches('/').rsplit_once(':')?)))
                {
                    None => drop(observer.insert("callbackUrl".into(), place.into())),
                    Some((scheme, (host, port))) => {
                        observer.insert("protocol".into(), scheme.to_uppercase().into());
                        observer.insert("observerHost".into(), host.trim_matches(['[', ']']).into());
                        observer.insert("observerPort".into(), port.parse::<u16>().unwrap_or(0).into());
                    }
                }
            }
            _ => {}
        }
    }
    tower.add_observer(&metric, Json::Object(observer).to_string().as_bytes()).await?;
    Ok(Redirect::to("/webapp/metrics").into_response())
}

async fn remove_observer(State(tower): App, Path((metric, id)): Path<(String, String)>) -> Answer {
    tower.remove_observer(&metric, &id).await?;
    Ok(Redirect::to("/webapp/metrics").into_response())
}

impl Tower {
    /// What was counted: name, in words, value.
    fn totals(&self) -> Vec<(&'static str, &'static str, u64)> {
        let c = &self.counters;
        let (unwanted, excess) = self.collectors.counted();
        let (delivered, lost) = self.observers.counted();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("batches", "Requests with data", load(&c.batches)),
            ("bytes", "Bytes of them", load(&c.bytes)),
            ("data", "Data that were taken", load(&c.taken)),
            ("data_unwanted", "Data that nobody needed", load(&c.unwanted)),
            ("data_refused", "Data that could not be used", load(&c.refused)),
            ("data_of_strangers", "Data of resources that no collector has registered", load(&c.strangers)),
            ("collectors_unwanted", "Data that collectors sent without being asked", unwanted),
            ("collectors_excess", "Data beyond the sampling time", excess),
            ("unknown_streams", "Requests for streams that there are not", load(&c.unknown)),
            ("malformed", "Requests that were not understood", load(&c.malformed)),
            ("results_delivered", "Results that observers took", delivered),
            ("results_lost", "Results that observers did not take", lost),
        ]
    }

    /// Everything that is counted, for `/metrics` here and of the daemon.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, help, counter, values| Figure {
            name: format!("homeostat_tower_{name}"),
            help,
            counter,
            values,
        };
        let mut figures: Vec<Figure> = self
            .totals()
            .into_iter()
            .map(|(name, help, value)| figure(name, help, true, vec![(Vec::new(), value)]))
            .collect();
        let collectors = self.collectors.all.len() as u64;
        figures.push(figure(
            "collectors",
            "Collectors that are registered and alive",
            false,
            vec![(Vec::new(), collectors)],
        ));
        let observers = self.observers.all();
        let of_each = |value: fn(&Observer) -> u64| {
            let labels = |metric: &Arc<str>, observer: &Observer| {
                vec![("metric", metric.to_string()), ("observer", observer.id.clone())]
            };
            observers.iter().map(|(metric, observer)| (labels(metric, observer), value(observer))).collect()
        };
        figures.push(figure(
            "observer_queue",
            "Batches of results that wait for an observer",
            false,
            of_each(Observer::waiting),
        ));
        figures.push(figure(
            "observer_delivered",
            "Results that an observer took",
            true,
            of_each(|observer| observer.delivered.load(Ordering::Relaxed)),
        ));
        figures.push(figure(
            "observer_lost",
            "Results that an observer did not take",
            true,
            of_each(|observer| observer.lost.load(Ordering::Relaxed)),
        ));
        figures
    }
}

/// `GET /metrics`: what the server counted, as OpenMetrics.
pub(super) async fn exposition(State(tower): App) -> Response {
    let mut text = String::new();
    for figure in tower.figures() {
        let (name, help) = (&figure.name, figure.help);
        let (kind, total) = if figure.counter { ("counter", "_total") } else { ("gauge", "") };
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for (labels, value) in &figure.values {
            let labels: Vec<String> = labels.iter().map(|(n, v)| format!("{n}=\"{}\"", escaped(v))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "{name}{total}{labels} {value}");
        }
    }
    text.push_str("# EOF\n");
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The value of a label in OpenMetrics.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
