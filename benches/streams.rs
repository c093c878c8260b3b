//! Rules over the data of many resources: what one evaluation costs, against the same sums by hand over the same data. (R2-09)
//!
//! `cargo bench --bench streams`. Every machine sends one datum each 10 s; a rule takes the average of each machine (or each cloud) over 60 s, every 60 s.
//! What is measured is the step: sums by machine, the model, the condition, results for whoever listens. Taking data in is measured by itself.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use homeostat::model::{ModelChange, Resource, Timestamp};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::simulation::Simulation;

const START: Timestamp = Timestamp(1_386_925_386_000_000);

/// How many data each machine sends in a window.
const DATA: usize = 6;

fn machines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("vm{n}")).collect()
}

/// A simulation with so many machines on four clouds, and so many rules.
fn simulation(machines: &[String], rules: usize, aggregate: &str, by: &str) -> Simulation {
    let rule = |n| {
        format!(
            "service: rule{n}
monitor:
  sensors: {{ CPU: {{ collect: {{ from: [ {{ class: VM, type: Frontend }} ] }} }} }}
  metrics: {{ Load: {{ of: CPU, aggregate: {aggregate}, over: 60s, every: 60s, by: {by}, having: value >= 0, emit: Load{n} }} }}
analyze: {{ rule: {{ objective: Load_results >= 0, missing: ok }} }}
"
        )
    };
    let texts: Vec<String> = (0..rules).map(rule).collect();
    let files: Vec<(String, String)> = texts
        .chunks(500)
        .enumerate()
        .map(|(n, part)| (format!("rules{n}.yaml"), part.join("---\n")))
        .collect();
    let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let set = PolicySet::from_sources(&Sources::from_texts(files), None);
    let mut simulation = Simulation::new(START, 1);
    simulation.apply(&set.expect("good rules").0);
    let resource = |(n, id): (usize, &String)| {
        let cloud = format!("cloud{}", n % 4);
        ModelChange::Put(Arc::new(Resource {
            id: id.clone(),
            class: Some("VM".into()),
            kind: Some("Frontend".into()),
            relations: [("cloudProvider".to_string(), vec![cloud])].into(),
            ..Resource::default()
        }))
    };
    simulation.model(machines.iter().enumerate().map(resource).collect());
    simulation
}

/// One window's data; the values differ.
fn send(simulation: &mut Simulation, machines: &[String]) {
    for round in 0..DATA {
        let values =
            machines.iter().enumerate().map(|(n, id)| (id.as_str(), ((n + round) % 100) as f64 / 100.0));
        simulation.collect("CPU", values);
        simulation.advance(Duration::from_secs(9));
    }
}

/// The time of steps alone.
fn steps(simulation: &mut Simulation, machines: &[String], iterations: u64, results: usize) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..iterations {
        send(simulation, machines);
        simulation.emitted.clear();
        let begin = Instant::now();
        simulation.advance(Duration::from_secs(6));
        took += begin.elapsed();
        let all: usize = simulation.emitted.iter().map(|(_, _, data)| data.len()).sum();
        assert_eq!(all, results, "every group has a result");
    }
    took
}

fn evaluation(c: &mut Criterion) {
    let mut group = c.benchmark_group("evaluation");
    group.sample_size(10);
    for (count, rules, aggregate, by) in [
        (100, 1, "avg", "VM"),
        (1_000, 1, "avg", "VM"),
        (100_000, 1, "avg", "VM"),
        (100_000, 1, "avg", "cloudProvider"),
        (100_000, 1, "p99", "cloudProvider"),
        (100, 10_000, "avg", "cloudProvider"),
        (100, 10_000, "avg", "VM"),
    ] {
        let machines = machines(count);
        let mut simulation = simulation(&machines, rules, aggregate, by);
        // The first step also looks up what the model says; it stays that way until the model changes.
        let groups = if by == "VM" { count } else { 4 };
        steps(&mut simulation, &machines, 1, groups * rules);
        let name = format!("{rules} rule(s), {aggregate} by {by}");
        group.throughput(Throughput::Elements((count * DATA * rules) as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter_custom(|iterations| steps(&mut simulation, &machines, iterations, groups * rules));
        });
    }
    // As in a daemon on two cores: two shards, each with half of the rules, on a thread of its own, which begins and ends with it.
    for by in ["cloudProvider", "VM"] {
        let groups = if by == "VM" { 100 } else { 4 };
        let shards = [(); 2].map(|()| {
            let (ask, asked) = mpsc::channel::<u64>();
            let (tell, told) = mpsc::channel();
            std::thread::spawn(move || {
                let machines = machines(100);
                let mut half = simulation(&machines, 5_000, "avg", by);
                for iterations in asked {
                    tell.send(steps(&mut half, &machines, iterations, groups * 5_000))
                        .expect("somebody waits");
                }
            });
            (ask, told)
        });
        let mut step = |iterations| {
            shards.iter().for_each(|(ask, _)| ask.send(iterations).expect("it runs"));
            shards.iter().map(|(_, told)| told.recv().expect("no panic")).max().unwrap_or_default()
        };
        step(1);
        group.throughput(Throughput::Elements((100 * DATA * 10_000) as u64));
        let name = format!("10000 rule(s) on two threads, avg by {by}");
        group.bench_function(BenchmarkId::new(name, 100), |b| b.iter_custom(&mut step));
    }
    // The same by hand: a hash map of sums over the same data, without model, condition and results.
    for count in [100, 1_000, 100_000] {
        let machines = machines(count);
        let data: Vec<(&str, f64)> =
            (0..DATA).flat_map(|round| machines.iter().map(move |id| (id.as_str(), round as f64))).collect();
        group.throughput(Throughput::Elements(data.len() as u64));
        group.bench_function(BenchmarkId::new("by hand, avg by VM", count), |b| {
            b.iter(|| {
                let mut sums: HashMap<&str, (f64, u32)> = HashMap::new();
                for (machine, value) in &data {
                    let sum = sums.entry(machine).or_default();
                    *sum = (sum.0 + value, sum.1 + 1);
                }
                black_box(
                    sums.into_iter()
                        .map(|(machine, (sum, n))| (machine, sum / f64::from(n)))
                        .collect::<Vec<_>>(),
                )
            });
        });
    }
    group.finish();
}

fn intake(c: &mut Criterion) {
    let mut group = c.benchmark_group("intake");
    group.sample_size(10);
    for rules in [1, 10] {
        let machines = machines(1_000);
        let mut simulation = simulation(&machines, rules, "avg", "VM");
        group.throughput(Throughput::Elements(machines.len() as u64));
        group.bench_function(BenchmarkId::new("data", format!("{rules} rule(s)")), |b| {
            b.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for n in 0..iterations {
                    let begin = Instant::now();
                    simulation.collect("CPU", machines.iter().map(|id| (id.as_str(), 0.5)));
                    took += begin.elapsed();
                    if n % 100 == 99 {
                        // Windows end, so that streams stay as long as they are in life.
                        simulation.advance(Duration::from_secs(60));
                        simulation.emitted.clear();
                    }
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, evaluation, intake);
criterion_main!(benches);
