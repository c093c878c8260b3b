//! Sensors as policies, in virtual time: from documents of OCCI to what is measured, calculated and delivered.

#[path = "../common/mod.rs"]
pub(super) mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{START, Sim};
use homeostat::dialects::occi::monitoring::translate::{Around, Measured};
use homeostat::dialects::occi::monitoring::{Outcome, Providers, Settings, timing, translate};
use homeostat::dialects::occi::server::estate::{Change, Estate};
use homeostat::dialects::occi::{Entity, Extension, Fault, Registry, json as reader};
use homeostat::model::Timestamp;
use homeostat::policy::document::ServiceDocument;
use homeostat::service::message::Publication;
use serde_json::{Value, json};

const SENSOR: &str = "http://schemas.ogf.org/occi/monitoring#sensor";
const COLLECTOR: &str = "http://schemas.ogf.org/occi/monitoring#collector";

/// The full identifier of a mixin.
fn mixin(name: &str) -> String {
    format!("http://example.com/occi/monitoring/{name}")
}

/// Attributes of a mixin with their full names: `of("EWMA", …)`.
fn of(term: &str, attributes: Value) -> Value {
    let named = |(name, value): (&String, &Value)| {
        (format!("com.example.occi.monitoring.{term}.{name}"), value.clone())
    };
    attributes.as_object().unwrap().iter().map(named).collect::<serde_json::Map<_, _>>().into()
}

/// A document that is written piece by piece.
#[derive(Clone)]
struct Documents {
    resources: Vec<Value>,
    links: Vec<Value>,
}

impl Documents {
    /// A sensor that measures every `period` seconds.
    fn new(id: &str, period: f64) -> Self {
        let id = format!("urn:uuid:{id}");
        let one = json!({ "kind": SENSOR, "id": id, "title": id, "mixins": [], "attributes": {
            "occi.sensor.period": period, "occi.sensor.timebase": START.seconds() } });
        Self { resources: vec![one], links: Vec::new() }
    }

    /// With a collector of the newest sensor.
    fn collector(mut self, id: &str, target: &str, period: f64, metric: &str, attributes: Value) -> Self {
        let sensor = self.resources.last().unwrap()["id"].clone();
        let mut link = json!({ "kind": COLLECTOR, "id": id, "source": { "location": sensor },
            "target": { "location": target }, "mixins": [mixin(&format!("metric#{metric}"))] });
        link["attributes"] = of(metric, attributes);
        link["attributes"]["occi.collector.period"] = period.into();
        self.links.push(link);
        self
    }

    /// With a collector of load that feeds a label.
    fn load(self, id: &str, period: f64, label: &str) -> Self {
        self.collector(id, &format!("urn:x:{id}"), period, "CPUPercent", json!({ "out": label }))
    }

    /// With a mixin of the newest sensor.
    fn with(mut self, name: &str, attributes: Value) -> Self {
        let sensor = self.resources.last_mut().unwrap();
        sensor["mixins"].as_array_mut().unwrap().push(mixin(name).into());
        let term = name.rsplit('#').next().unwrap();
        sensor["attributes"]
            .as_object_mut()
            .unwrap()
            .extend(of(term, attributes).as_object().unwrap().clone());
        self
    }

    /// With a time of the newest sensor.
    fn time(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.resources.last_mut().unwrap()["attributes"][format!("occi.sensor.{name}")] = value.into();
        self
    }

    fn and(mut self, more: Self) -> Self {
        self.resources.extend(more.resources);
        self.links.extend(more.links);
        self
    }

    fn text(&self) -> String {
        json!({ "resources": self.resources, "links": self.links }).to_string()
    }

    /// What its sensors come to.
    fn outcomes(&self) -> Result<Vec<Outcome>, Fault> {
        outcomes(&self.text())
    }

    /// The policies of its sensors, which are complete.
    #[track_caller]
    fn services(&self) -> Vec<ServiceDocument> {
        let complete = |outcome| match outcome {
            Outcome::Complete(document) => *document,
            other => panic!("{other:?}"),
        };
        self.outcomes().unwrap().into_iter().map(complete).collect()
    }

    /// Lets its sensors run, and what is not there any more end.
    #[track_caller]
    fn apply(&self, sim: &mut Sim) {
        let texts: Vec<(String, String)> = self
            .services()
            .iter()
            .enumerate()
            .map(|(n, service)| (format!("{n}.yaml"), serde_json::to_string(service).unwrap()))
            .collect();
        let files: Vec<(&str, &str)> =
            texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        sim.apply(&common::policies(&files));
    }

    /// Runs its sensors; what is measured is a function of the metric and of how often it was measured before.
    #[track_caller]
    fn run(&self, seconds: u64, measure: impl Fn(&str, usize) -> f64 + 'static) -> Run {
        let mut run = Run::new(measure);
        self.apply(&mut run.sim);
        run.sim.advance(Duration::from_secs(seconds));
        run
    }
}

fn outcomes(text: &str) -> Result<Vec<Outcome>, Fault> {
    let mut registry = Registry::new(&Extension::ALL);
    let settings = Settings {
        mail: "smtp://127.0.0.1:25".into(),
        from: "homeostat@example.com".into(),
        data: Some("/var/lib/homeostat".into()),
        ..Settings::default()
    };
    let providers = Providers::new(&settings.names);
    providers.register(&mut registry)?;
    let document = reader::document(text, &|name| registry.holds_maps(name))?;
    let estate = Estate::new(registry);
    let mut change = Change::new(&estate, "");
    change.create_all(document.resources, document.links)?;
    let mut all = Vec::new();
    for place in change.touched.clone() {
        let mut sensor = Entity::clone(change.get(&place).unwrap());
        let said: BTreeSet<String> = change.timed.get(&place).cloned().unwrap_or_default();
        let timing = timing::of_sensor(&mut sensor.attributes, START, &said)?;
        let mut collectors = Vec::new();
        for link in change.links_from(&place) {
            let mut link = Entity::clone(&link);
            let period = timing::of_collector(&mut link.attributes)?;
            collectors.push((link, period));
        }
        let collectors: Vec<Measured<'_>> =
            collectors.iter().map(|(link, period)| Measured { link, period: *period, probe: None }).collect();
        let (outcome, _) = translate(
            &estate.registry,
            &providers,
            &settings,
            &sensor,
            &timing,
            &collectors,
            &Around::NOTHING,
        )?;
        all.push(outcome);
    }
    Ok(all)
}

type Read = Arc<Mutex<Vec<(String, String, Timestamp)>>>;

/// A simulation, and what was measured in it: service, metric, when.
struct Run {
    sim: Sim,
    read: Read,
}

impl Run {
    fn new(measure: impl Fn(&str, usize) -> f64 + 'static) -> Self {
        let mut sim = Sim::new(2);
        let read = Read::default();
        let seen = read.clone();
        let counts: Mutex<BTreeMap<(String, String), usize>> = Mutex::default();
        sim.polling(move |service, metric, at| {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry((service.to_string(), metric.to_string())).or_default();
            *count += 1;
            seen.lock().unwrap().push((service.to_string(), metric.to_string(), at));
            Some(measure(metric, *count))
        });
        Self { sim, read }
    }

    /// When a service measured.
    fn times(&self, service: &str) -> Vec<Timestamp> {
        let read = self.read.lock().unwrap();
        read.iter().filter(|(s, ..)| s == service).map(|(.., at)| *at).collect()
    }

    fn published(&self, publisher: &str) -> Vec<&Publication> {
        self.sim.published.iter().filter(|p| &*p.publisher == publisher).collect()
    }

    fn values(&self, publisher: &str) -> Vec<f64> {
        self.published(publisher).iter().map(|p| p.value).collect()
    }

    fn words(&self, publisher: &str) -> Vec<String> {
        self.published(publisher).iter().map(|p| p.word.as_deref().unwrap_or_default().to_string()).collect()
    }

    #[track_caller]
    fn last(&self, publisher: &str) -> f64 {
        *self.values(publisher).last().expect("something was published")
    }
}

// ---- the alarm of the paper, section 6 -------------------------------------------------------------------------------

/// "The check is run every minute starting ten minutes from now, and it lasts during one hour."
fn alarm() -> Documents {
    Documents::new("2222", 60.0)
        .time("timestart", 600)
        .time("timestop", 3600)
        .collector("urn:uuid:3333", "urn:uuid:1111", 60.0, "CPUPercent", json!({ "out": "a" }))
        .with("aggregator#EWMA", json!({ "gain": 16, "instream": "a", "outstream": "b" }))
        .with("publisher#EmailAlarm", json!({ "threshold": 80, "input": "b", "email": "myself@example.com" }))
}

fn alarm_run(load: impl Fn(usize) -> f64 + 'static) -> Run {
    alarm().run(7200, move |_, n| load(n))
}

/// Requirement: R1-06, R1-07, R1-42
#[test]
fn the_documents_of_the_paper_measure_51_times_and_send_one_mail_for_each_crossing() {
    let run = alarm_run(|n| if n == 1 { 50.0 } else { 100.0 });
    let times = run.times("sensor-2222");
    assert_eq!(times.len(), 51);
    assert_eq!(times[0].to_string(), "2013-12-13T09:13:06.000000Z");
    assert_eq!(times[50].to_string(), "2013-12-13T10:03:06.000000Z");
    assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) == Duration::from_secs(60)));
    assert_eq!(run.sim.performed.len(), 1, "one mail");
    assert_eq!(run.sim.decisions_of("sensor-2222")[0].at, times[16], "with the sixteenth sample of 100");
    let how = serde_json::to_string(&*run.sim.performed[0].effectors[0]).unwrap();
    assert!(how.contains("myself@example.com") && how.contains("urn:uuid:1111 is over 80"), "{how}");

    let spike = alarm_run(|n| if n == 20 { 100.0 } else { 50.0 });
    assert!(spike.sim.performed.is_empty(), "a spike is no steady load");
    let twice = alarm_run(|n| if (22..=30).contains(&n) { 0.0 } else { 100.0 });
    assert_eq!(twice.sim.performed.len(), 2, "one more after the next crossing");
}

/// What is shipped as `policies/cpu-alarm`; its time base is the time at which it arrives.
#[test]
fn the_document_that_is_shipped_is_that_alarm() {
    let mut shipped: Value =
        serde_json::from_str(include_str!("../../policies/cpu-alarm/alarm.occi.json")).unwrap();
    shipped["resources"][1]["attributes"]["occi.sensor.timebase"] = START.seconds().into();
    let Outcome::Complete(shipped) = outcomes(&shipped.to_string()).unwrap().remove(0) else {
        panic!("incomplete")
    };
    let (ours, theirs) = (alarm().services().remove(0).monitor.unwrap(), shipped.monitor.unwrap());
    assert_eq!(
        (ours.schedule, ours.sensors, ours.metrics),
        (theirs.schedule, theirs.sensors, theirs.metrics)
    );
}

/// Requirement: R1-43
#[test]
fn the_moving_average_is_that_of_the_prototype_to_the_last_digit() {
    let documents = Documents::new("s", 1.0)
        .load("c", 1.0, "a")
        .with("aggregator#EWMA", json!({ "gain": 16, "instream": "a", "outstream": "b" }))
        .with("publisher#SendUDP", json!({ "input": "b", "udpAddr": "127.0.0.1:8888" }));
    let run = documents.run(5, |_, n| if n == 1 { 397.998_046_875 } else { 390.136_718_75 });
    let texts: Vec<String> = run
        .published("SendUDP")
        .iter()
        .map(|p| {
            serde_json::to_value(p.action()).unwrap()["custom"]["args"]["single"]
                .as_str()
                .unwrap()
                .to_string()
        })
        .collect();
    assert_eq!(texts, ["397.99805", "397.5356", "397.10037", "396.69073", "396.3052", "395.94235"]);
}

/// Requirement: R1-03
#[test]
fn a_sensor_needs_a_period_and_measures_by_the_new_one_from_the_next_time_on() {
    let without = json!({ "resources": [{ "kind": SENSOR }] }).to_string();
    let fault = outcomes(&without).unwrap_err();
    assert!(fault.kind.status() == 400 && fault.text.contains("occi.sensor.period"), "{fault}");
    let every = |period: f64| {
        Documents::new("s", period).load("c", period, "a").with("publisher#Log", json!({ "in_msg": "a" }))
    };
    let mut run = every(60.0).run(600, |_, _| 1.0);
    assert_eq!(run.times("sensor-s").len(), 11);
    every(30.0).apply(&mut run.sim);
    run.sim.advance(Duration::from_secs(600));
    let times = run.times("sensor-s");
    let after: Vec<u64> = times.iter().map(|at| at.since(START).as_secs()).filter(|at| *at > 600).collect();
    assert_eq!(after, (1..=20).map(|n| 600 + 30 * n).collect::<Vec<_>>());
}

// ---- labels ----------------------------------------------------------------------------------------------------------

/// Requirement: R1-14, R1-20
#[test]
fn sensors_with_the_same_label_and_the_same_resource_do_not_mix() {
    let one = |id: &str, period: f64, metric: &str| {
        Documents::new(id, period)
            .collector(&format!("c-{id}"), "urn:x:shared", period, metric, json!({ "out": "a" }))
            .with("publisher#Log", json!({ "in_msg": "a" }))
    };
    let both = one("s1", 10.0, "CPUPercent").and(one("s2", 30.0, "MemoryUsed"));
    let run = both.run(60, |metric, _| if metric.starts_with("CPU") { 1.0 } else { 2.0 });
    let of = |service: &str| -> Vec<f64> {
        run.sim.published.iter().filter(|p| &*p.service == service).map(|p| p.value).collect()
    };
    assert_eq!(of("sensor-s1"), [1.0; 7]);
    assert_eq!(of("sensor-s2"), [2.0; 3]);
}

#[test]
fn labels_that_feed_themselves_are_refused() {
    let fault = Documents::new("s", 1.0)
        .load("c", 1.0, "x")
        .with("aggregator#EWMA", json!({ "instream": "b", "outstream": "a" }))
        .with("aggregator#ArithmeticMean", json!({ "instream": "a", "outstream": "b" }))
        .outcomes()
        .unwrap_err();
    assert!(fault.kind.status() == 400 && fault.text.contains("feed themselves"), "{fault}");
    let own = Documents::new("s", 1.0)
        .load("c", 1.0, "x")
        .with("aggregator#EWMA", json!({ "instream": "a", "outstream": "a" }));
    assert!(own.outcomes().unwrap_err().text.contains("`a`"));
}

#[test]
fn what_nothing_feeds_is_missing_and_what_needs_it_in_turn_is_not() {
    let documents = Documents::new("s", 1.0)
        .load("c", 1.0, "x")
        .with("aggregator#EWMA", json!({ "instream": "a", "outstream": "b" }))
        .with("publisher#Log", json!({ "in_msg": "b" }))
        .with("publisher#SendUDP", json!({ "input": "x" }));
    let missing = ["a", "com.example.occi.monitoring.SendUDP.udpAddr"].map(String::from).to_vec();
    assert_eq!(documents.outcomes().unwrap(), [Outcome::Incomplete(missing)]);
    assert_eq!(Documents::new("s", 1.0).outcomes().unwrap(), [Outcome::Idle]);
}

#[test]
fn labels_are_any_text_and_differ_where_they_differ() {
    let documents = Documents::new("s", 1.0)
        .load("c1", 1.0, "load of a")
        .load("c2", 1.0, "load-of-a")
        .load("c3", 1.0, "if")
        .with("publisher#Log", json!({ "in_msg": "load of a" }))
        .with("publisher#SendUDP", json!({ "input": "load-of-a", "udpAddr": "127.0.0.1:9" }))
        .with("publisher#TCP", json!({ "input": "if", "address": "127.0.0.1:9" }));
    let mut names: Vec<String> =
        documents.services()[0].monitor.as_ref().unwrap().sensors.keys().cloned().collect();
    names.sort();
    let run = documents.run(0, move |metric, _| names.iter().position(|n| n == metric).unwrap() as f64);
    let mut values: Vec<f64> = ["Log", "SendUDP", "TCP"].map(|p| run.last(p)).to_vec();
    values.sort_by(f64::total_cmp);
    assert_eq!(values, [0.0, 1.0, 2.0]);
}

// ---- what comes in from several --------------------------------------------------------------------------------------

/// Three collectors that measure 10, 20 and 60, in any order, under one label.
fn three() -> Documents {
    Documents::new("s", 10.0).load("c1", 10.0, "a").load("c2", 10.0, "a").load("c3", 10.0, "a")
}

/// What the three measure: the first to be read is 10, the second 20, the third 60; at all times.
fn ten_twenty_sixty() -> impl Fn(&str, usize) -> f64 {
    let known: Mutex<Vec<String>> = Mutex::default();
    move |metric, _| {
        let mut known = known.lock().unwrap();
        if !known.iter().any(|name| name == metric) {
            known.push(metric.to_string());
        }
        [10.0, 20.0, 60.0][known.iter().position(|name| name == metric).unwrap()]
    }
}

#[test]
fn each_aggregator_does_what_its_title_says() {
    let result = |name: &str, mut attributes: Value| {
        attributes["instream"] = "a".into();
        if name != "MinMax" {
            attributes["outstream"] = "b".into();
        }
        let documents = three().with(&format!("aggregator#{name}"), attributes);
        documents.with("publisher#Log", json!({ "in_msg": "b" })).run(30, ten_twenty_sixty()).last("Log")
    };
    assert_eq!(result("ArithmeticMean", json!({})), 30.0);
    assert_eq!(result("Median", json!({})), 20.0);
    assert_eq!(result("Minimum", json!({})), 10.0);
    assert_eq!(result("Maximum", json!({})), 60.0);
    assert_eq!(result("MinMax", json!({ "outmin": "b", "outmax": "c" })), 10.0);
    assert_eq!(result("MinMax", json!({ "outmin": "c", "outmax": "b" })), 60.0);
    assert_eq!(result("Percentile", json!({ "rank": 100 })), 60.0);
    assert_eq!(result("Percentile", json!({ "rank": 50 })), 20.0);
    assert_eq!(result("Anonymise", json!({})), 30.0, "the mean of what feeds one label");
    assert_eq!(result("Expression", json!({ "expression": "2 * a + 1" })), 61.0);
    assert_eq!(result("Colour", json!({ "yellow": 50, "red": 80 })), 1.0);
}

#[test]
fn what_an_aggregator_cannot_mean_is_refused_with_its_name() {
    let fault = |name: &str, attributes: Value| {
        let labels = json!({ "instream": "a", "outstream": "b" });
        let mut all = labels.as_object().unwrap().clone();
        all.extend(attributes.as_object().unwrap().clone());
        three().with(&format!("aggregator#{name}"), all.into()).outcomes().unwrap_err().text
    };
    assert!(fault("Percentile", json!({ "rank": 101 })).contains("Percentile"));
    assert!(fault("Colour", json!({ "yellow": 80, "red": 50 })).contains("below `yellow`"));
    assert!(fault("EWMA", json!({ "gain": -1 })).contains("gain"));
}

/// Requirement: R1-30
#[test]
fn the_load_of_200_collectors_becomes_one_colour() {
    let mut documents = Documents::new("s", 10.0)
        .with("aggregator#Colour", json!({ "instream": "a", "outstream": "b", "yellow": 50, "red": 80 }))
        .with("publisher#WebSocket", json!({ "input": "b", "url": "ws://127.0.0.1:1/" }));
    for n in 0..200 {
        documents = documents.load(&format!("c{n}"), 10.0, "a");
    }
    // One of them is busy from the third time on and very busy from the fifth on, until the seventh.
    let busy = Mutex::new(None::<String>);
    let run = documents.run(80, move |metric, n| {
        let mut busy = busy.lock().unwrap();
        let is = busy.get_or_insert_with(|| metric.to_string()) == metric;
        match n {
            3 | 4 if is => 60.0,
            5..=7 if is => 81.0,
            _ => 20.0,
        }
    });
    assert_eq!(run.words("WebSocket"), ["green", "yellow", "red", "green"]);
}

#[test]
fn more_than_an_expression_can_hold_is_calculated_in_parts() {
    let many = |name: &str, mut attributes: Value| {
        attributes["instream"] = "load of the pool".into();
        attributes["outstream"] = "b".into();
        let mut documents = Documents::new("s", 10.0)
            .with(&format!("aggregator#{name}"), attributes)
            .with("publisher#Log", json!({ "in_msg": "b" }));
        for n in 0..330 {
            documents = documents.load(&format!("c{n}"), 10.0, "load of the pool");
        }
        documents
    };
    let counted = || {
        let known: Mutex<BTreeMap<String, usize>> = Mutex::default();
        move |metric: &str, _| {
            let mut known = known.lock().unwrap();
            let next = known.len();
            *known.entry(metric.to_string()).or_insert(next) as f64
        }
    };
    for (name, result) in
        [("Minimum", 0.0), ("Maximum", 329.0), ("ArithmeticMean", 164.5), ("Anonymise", 164.5)]
    {
        let found = many(name, json!({})).run(0, counted()).last("Log");
        assert!((found - result).abs() < 1e-9, "{name}: {found}");
    }
    let fault = many("Percentile", json!({ "rank": 95 })).outcomes().unwrap_err();
    assert!(fault.text.contains("330 measurements are too many"), "{fault}");
}

/// Requirement: R1-32
#[test]
fn the_average_of_a_pool_follows_while_collectors_come_and_go() {
    let pool = |of: &[&str]| {
        let mut documents = Documents::new("s", 10.0)
            .with("aggregator#ArithmeticMean", json!({ "instream": "a", "outstream": "b" }))
            .with("publisher#Log", json!({ "in_msg": "b" }));
        for id in of {
            documents = documents.load(id, 10.0, "a");
        }
        documents
    };
    let mut run = pool(&["c1", "c2"]).run(30, ten_twenty_sixty());
    assert_eq!(run.last("Log"), 15.0);
    pool(&["c1", "c2", "c3"]).apply(&mut run.sim);
    run.sim.advance(Duration::from_secs(30));
    assert_eq!(run.last("Log"), 30.0);
    pool(&["c3"]).apply(&mut run.sim);
    run.sim.advance(Duration::from_secs(30));
    assert_eq!(run.last("Log"), 60.0);
}

/// Requirement: R1-13
#[test]
fn one_sensor_has_many_sources_and_delivers_in_many_ways() {
    let documents = three()
        .with("aggregator#Maximum", json!({ "instream": "a", "outstream": "most" }))
        .with("aggregator#ArithmeticMean", json!({ "instream": "a", "outstream": "average" }))
        .with("publisher#Log", json!({ "in_msg": "most" }))
        .with("publisher#SendUDP", json!({ "input": "average", "udpAddr": "127.0.0.1:9" }))
        .with("publisher#EmailAlarm", json!({ "input": "most", "threshold": 50, "email": "a@example.com" }));
    let run = documents.run(30, ten_twenty_sixty());
    assert_eq!(run.times("sensor-s").len(), 12, "four times three");
    assert_eq!((run.last("Log"), run.last("SendUDP")), (60.0, 30.0));
    assert_eq!(run.sim.performed.len(), 1);
}

// ---- what goes out ---------------------------------------------------------------------------------------------------

#[test]
fn each_publisher_is_accepted_and_gets_each_value() {
    let cases = [
        ("SendUDP", json!({ "udpAddr": "127.0.0.1:9" })),
        ("WebSocket", json!({ "url": "ws://127.0.0.1:9/light" })),
        ("Webhook", json!({ "url": "http://127.0.0.1:9/hook" })),
        ("SQLite", json!({ "database": "measurements" })),
        ("TCP", json!({ "address": "127.0.0.1:9" })),
        ("InfluxDB", json!({ "url": "http://127.0.0.1:9/write?db=x" })),
    ];
    for (name, mut attributes) in cases {
        attributes["input"] = "a".into();
        let documents =
            Documents::new("s", 1.0).load("c", 1.0, "a").with(&format!("publisher#{name}"), attributes);
        let run = documents.run(2, |_, n| n as f64 - 1.0);
        assert_eq!(run.values(name), [0.0, 1.0, 2.0], "{name}");
    }
}

#[test]
fn a_light_is_red_over_its_threshold_and_says_so_once() {
    let documents = Documents::new("s", 1.0)
        .load("c", 1.0, "a")
        .with("publisher#WebSocket", json!({ "input": "a", "url": "ws://127.0.0.1:9/", "threshold": 80 }));
    let run = documents.run(5, |_, n| if n > 3 { 95.0 } else { 80.0 });
    assert_eq!(run.words("WebSocket"), ["green", "red"]);
}

#[test]
fn an_action_raises_an_alarm_at_the_service_that_it_names() {
    let documents = Documents::new("s", 1.0)
        .load("c", 1.0, "a")
        .with("publisher#Action", json!({ "input": "a", "threshold": 80, "service": "shop" }));
    let shop = "service: shop
monitor: { sensors: { x: push } }
analyze: { overload: { objective: x < 1000 } }
plan: [ { when: overload, do: [ { notify: { text: scale } } ], mode: act } ]
execute: { notify: { log: {} } }
";
    let service = serde_json::to_string(&documents.services()[0]).unwrap();
    let mut run = Run::new(|_, n| if n > 3 { 95.0 } else { 10.0 });
    run.sim.apply(&common::policies(&[("s.yaml", &service), ("shop.yaml", shop)]));
    run.sim.advance(Duration::from_secs(10));
    let performed: Vec<&str> = run.sim.performed.iter().map(|p| &*p.service).collect();
    assert!(performed.contains(&"shop"), "{performed:?} {:?}", run.sim.events);
}

#[test]
fn two_alarms_of_one_sensor_do_not_hinder_each_other() {
    let shop = "service: shop\nmonitor: { sensors: { x: push } }\nanalyze: { overload: { objective: x < 1 } }\nplan: [ { when: overload, do: [ { notify: { text: scale } } ], mode: act } ]\nexecute: { notify: { log: {} } }\n";
    let documents = Documents::new("s", 1.0)
        .load("c", 1.0, "a")
        .with(
            "publisher#EmailAlarm",
            json!({ "input": "a", "threshold": 80, "email": "a@example.com, b@example.com" }),
        )
        .with("publisher#Action", json!({ "input": "a", "threshold": 80, "service": "shop" }));
    let service = serde_json::to_string(&documents.services()[0]).unwrap();
    let mut run = Run::new(|_, n| if n > 3 { 95.0 } else { 10.0 });
    run.sim.apply(&common::policies(&[("s.yaml", &service), ("shop.yaml", shop)]));
    run.sim.advance(Duration::from_secs(60));
    let by = |service: &str| run.sim.performed.iter().filter(|p| &*p.service == service).count();
    assert_eq!(by("sensor-s"), 1, "one mail, to both");
    assert!(by("shop") >= 1);
}

#[test]
fn what_is_anonymous_does_not_say_what_it_is_about() {
    let documents = |with: Documents| {
        with.with("publisher#Webhook", json!({ "input": "b", "url": "http://127.0.0.1:9/" }))
    };
    let open = Documents::new("s", 1.0).load("c", 1.0, "b");
    assert!(serde_json::to_string(&documents(open).services()[0].monitor).unwrap().contains("urn:x:c"));
    let hidden = Documents::new("s", 1.0)
        .load("c", 1.0, "a")
        .with("aggregator#Anonymise", json!({ "instream": "a", "outstream": "b" }));
    let text =
        serde_json::to_string(&documents(hidden).services()[0].monitor.as_ref().unwrap().publish).unwrap();
    assert!(text.contains("anonymous") && !text.contains("urn:x:c"), "{text}");
}

#[test]
fn a_suspended_sensor_measures_nothing() {
    let documents = Documents::new("s", 1.0)
        .time("timebase", -1)
        .load("c", 1.0, "a")
        .with("publisher#Log", json!({ "in_msg": "a" }));
    let run = documents.run(10, |_, _| 1.0);
    assert_eq!(run.times("sensor-s"), []);
}

#[test]
fn the_throughput_of_an_interface_is_in_megabits_per_second() {
    let documents = Documents::new("s", 1.0)
        .collector("c", "urn:x:c", 1.0, "NetworkThroughput", json!({ "out": "a", "interface": "eth0" }))
        .with("publisher#Log", json!({ "in_msg": "a" }));
    let run =
        documents.run(3, |metric, _| if metric.contains("net_received") { 1_000_000.0 } else { 250_000.0 });
    assert_eq!(run.last("Log"), 10.0);
}

#[test]
fn a_counter_of_queries_becomes_a_rate() {
    let documents = Documents::new("s", 1.0)
        .collector(
            "c",
            "urn:x:c",
            1.0,
            "QueriesPerSecond",
            json!({ "out": "a", "url": "http://127.0.0.1:9/stats" }),
        )
        .with("publisher#Log", json!({ "in_msg": "a" }));
    // 500 queries in ten seconds.
    let run = documents.run(20, |_, n| 50.0 * n as f64);
    assert!((run.last("Log") - 50.0).abs() < 1e-9, "{:?}", run.values("Log"));
}

#[test]
fn each_metric_is_accepted_and_delivers() {
    let cases = [
        ("CPUPercent", json!({})),
        ("LoadAverage", json!({})),
        ("MemoryUsed", json!({})),
        ("DiskUsage", json!({ "path": "/" })),
        ("NetworkThroughput", json!({ "interface": "lo" })),
        ("IsReachable", json!({ "hostname": "127.0.0.1:9", "maxdelay": 500 })),
        ("HttpProbe", json!({ "url": "http://127.0.0.1:9/x", "pointer": "/a/0" })),
        ("Cost", json!({ "perhour": 0.5 })),
    ];
    for (name, mut attributes) in cases {
        attributes["out"] = "a".into();
        let documents = Documents::new("s", 1.0)
            .collector("c", "urn:x:c", 1.0, name, attributes)
            .with("publisher#Log", json!({ "in_msg": "a" }));
        let run = documents.run(5, |_, _| 1.0);
        assert!(!run.values("Log").is_empty(), "{name}");
    }
}
