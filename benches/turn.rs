//! What one turn costs: a sample with one derived metric and one SLO; a strategy over three candidates with its decision;
//! a sample among ten and among ten thousand services.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use homeostat::model::metric::Sample;
use homeostat::model::{Alarm, AlarmKind, MetricId, Reading, ServiceId, Severity, Timestamp};
use homeostat::plan::strategy::{Deadline, End, Known, ReferenceView, RunLimits, StrategyHost};
use homeostat::policy::load::Sources;
use homeostat::policy::script::Script;
use homeostat::policy::set::PolicySet;
use homeostat::service::message::{Apply, Effect, Message, Restored};
use homeostat::service::names::Names;
use homeostat::service::shard::{Shard, Surroundings};

const START: Timestamp = Timestamp(1_386_925_386_000_000);

#[derive(Default)]
struct Around(Names);

impl Surroundings for Around {
    fn metric_id(&mut self, name: &str) -> MetricId {
        self.0.metric(name)
    }
    fn limits(&mut self) -> RunLimits {
        RunLimits { operations: 100_000, deadline: Deadline::CutAt(None) }
    }
    fn cut(&mut self, _: u64) {}
}

/// A shard with the services of some files, and the time of its last turn.
struct World {
    shard: Shard,
    around: Around,
    effects: Vec<Effect>,
    now: Timestamp,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let set = match PolicySet::from_sources(&Sources::from_texts(files.iter().copied()), None) {
            Ok((set, _)) => set,
            Err(problems) => panic!("{problems:#?}"),
        };
        let mut world =
            Self { shard: Shard::new(0, 1), around: Around::default(), effects: Vec::new(), now: START };
        for policy in set.services.values() {
            let id = world.around.0.service(&policy.name);
            let apply = Apply { id, policy: (**policy).clone(), restored: Restored::default() };
            world.turn(Message::Apply(Box::new(apply)));
        }
        world
    }

    fn turn(&mut self, message: Message) {
        self.effects.clear();
        self.shard.turn(self.now, message, &mut self.around, &mut self.effects);
    }

    fn sample(&self, service: &str, metric: &str, value: f64) -> Sample {
        let at = homeostat::service::message::NOW;
        Sample { service: self.around.0.service(service), metric: self.around.0.metric(metric), value, at }
    }

    fn push(&mut self, service: &str, metric: &str, value: f64) {
        let sample = self.sample(service, metric, value);
        self.turn(Message::Samples(vec![sample]));
    }
}

fn services(count: usize) -> String {
    let one = |n| {
        format!(
            "service: s{n}\nmonitor: {{ sensors: {{ x: push }}, metrics: {{ y: 2 * x + 1 }} }}\nanalyze: {{ slo: {{ objective: y < 1000 }} }}\n"
        )
    };
    (0..count).map(one).collect::<Vec<_>>().join("---\n")
}

fn one_sample(c: &mut Criterion) {
    let mut world = World::new(&[("p.yaml", &services(1))]);
    let mut value = 0.0;
    c.bench_function("turn/sample, derived metric, SLO", |b| {
        b.iter(|| {
            value = if value > 100.0 { 0.0 } else { value + 1.0 };
            world.now = world.now.after(Duration::from_micros(10));
            world.push("s0", "x", black_box(value));
        });
    });
}

const STRATEGY: &str = "// Moves to the candidate that costs least for what it delivers.
const MARGIN = 1.0;

fn score(service) {
    let cost = metric(service, \"cost\");
    let load = metric(service, \"load\");
    if load > 0.9 { cost * 2.0 } else { cost * (1.0 + load) }
}

fn plan(alarm) {
    let now = bound(\"c\");
    let best = now;
    let least = score(now);
    for service in candidates(\"c\") {
        let rate = score(service);
        if rate + MARGIN < least {
            best = service;
            least = rate;
        }
    }
    if best == now { because(`${now} is the best there is, at ${least}`); return []; }
    because(`${best} scores ${least}`);
    [replace(now, best)]
}
";

fn alarm() -> Alarm {
    Alarm {
        service: "A".into(),
        slo: "slo".into(),
        kind: AlarmKind::Violation,
        severity: Severity::Major,
        condition: "x >= 10".into(),
        values: [("x".to_string(), Reading::Fresh { value: 50.0, at: START })].into(),
        at: START,
    }
}

fn known() -> Known {
    let reading = |value| Reading::Fresh { value, at: START };
    let mut readings = BTreeMap::new();
    for n in 0..3 {
        readings.insert((format!("C{n}"), "cost".to_string()), reading(f64::from(20 - 5 * n)));
        readings.insert((format!("C{n}"), "load".to_string()), reading(0.5));
    }
    let view = ReferenceView { bound: Some("C0".into()), candidates: vec!["C1".into(), "C2".into()] };
    Known {
        service: "A".into(),
        now: START,
        references: [("c".to_string(), view)].into(),
        readings,
        ..Known::default()
    }
}

fn strategy(c: &mut Criterion) {
    let mut yaml = String::from(
        "service: A\nreferences: { c: { service: C0, candidates: [C1, C2] } }\nmonitor: { sensors: { x: push } }\nanalyze: { slo: { objective: x < 10 } }\nplan: [ { when: slo, run: s.rhai, mode: advise, cooldown: 1s } ]\nexecute: {}\n",
    );
    for n in 0..3 {
        yaml += &format!("---\nservice: C{n}\nmonitor: {{ sensors: {{ cost: push, load: push }} }}\n");
    }
    let mut world = World::new(&[("p.yaml", &yaml), ("s.rhai", STRATEGY)]);
    for n in 0..3 {
        world.push(&format!("C{n}"), "cost", f64::from(20 - 5 * n));
        world.push(&format!("C{n}"), "load", 0.5);
    }
    // The sample that recovers the SLO again is not counted.
    c.bench_function("turn/strategy over three candidates, from sample to decision", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                world.now = world.now.after(Duration::from_secs(2));
                let bad = Message::Samples(vec![world.sample("A", "x", 50.0)]);
                let begin = Instant::now();
                world.turn(bad);
                spent += begin.elapsed();
                assert!(world.effects.iter().any(|e| matches!(e, Effect::Decision(_))));
                world.push("A", "x", 1.0);
            }
            spent
        });
    });
    // What the script alone costs, with all readings at hand: nothing that homeostat adds is in this one.
    let script = Script::compile("s.rhai", STRATEGY).unwrap_or_else(|e| panic!("{e}"));
    let (host, alarm, known) = (StrategyHost::new(), alarm(), Arc::new(known()));
    let limits = RunLimits { operations: 100_000, deadline: Deadline::CutAt(None) };
    c.bench_function("turn/the same script alone", |b| {
        b.iter(|| {
            let run = host.run(&script, &alarm, known.clone(), limits.clone());
            assert!(matches!(run.end, End::Actions(_)));
        });
    });
}

fn many_services(c: &mut Criterion) {
    for count in [10, 10_000] {
        // A file holds 1 MiB at most.
        let texts: Vec<(String, String)> = services(count)
            .split("---\n")
            .collect::<Vec<_>>()
            .chunks(1_000)
            .enumerate()
            .map(|(n, documents)| (format!("p{n}.yaml"), documents.join("---\n")))
            .collect();
        let files: Vec<(&str, &str)> = texts.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        let mut world = World::new(&files);
        let ids: Vec<ServiceId> = (0..count).map(|n| world.around.0.service(&format!("s{n}"))).collect();
        let metric = world.around.0.metric("x");
        let mut n = 0_usize;
        c.bench_function(&format!("turn/1,000 samples in one batch, {count} services"), |b| {
            b.iter_batched(
                || {
                    n = n.wrapping_add(1);
                    let sample = |i: usize| Sample {
                        service: ids[(i * 7_919 + n * 1_000) % ids.len()],
                        metric,
                        value: (i % 100) as f64,
                        at: homeostat::service::message::NOW,
                    };
                    (0..1_000).map(sample).collect::<Vec<_>>()
                },
                |samples| {
                    world.now = world.now.after(Duration::from_millis(1));
                    world.turn(Message::Samples(samples));
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, one_sample, strategy, many_services);
criterion_main!(benches);
