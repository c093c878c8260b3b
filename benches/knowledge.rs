//! What knowing costs: a sample in a window, and a durable commit.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use homeostat::knowledge::Window;
use homeostat::knowledge::store::{Intent, Store};
use homeostat::model::{Action, Aggregate, Timestamp};

/// One sample into a full window, one out of it, and the value.
fn window(c: &mut Criterion) {
    let mut group = c.benchmark_group("window");
    for text in ["avg", "p99"] {
        for held in [1_000_i64, 100_000] {
            // One sample per microsecond; the window is as long as it holds.
            let over = Duration::from_micros(held as u64 - 1);
            let mut window = Window::new(Aggregate::parse(text).expect("an aggregate"), Some(over));
            let mut now = 0_i64;
            let mut step = move || {
                now += 1;
                // Values without an order, the same in every run.
                let value = (now as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                window.insert(Timestamp(now), value as f64);
                window.value(Timestamp(now))
            };
            for _ in 0..2 * held {
                black_box(step());
            }
            group.bench_function(format!("{text}/{held}"), |b| b.iter(|| black_box(step())));
        }
    }
    group.finish();
}

/// One intent, acknowledged before the next; and 256 at a time.
fn store(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let mut decision = 0;
    let mut intent = || {
        decision += 1;
        store.intent(Intent {
            service: "shop".into(),
            decision,
            step: 0,
            key: "shop/1/0".into(),
            action: Action::Replace { service: None, from: "C1".into(), to: "C2".into() },
            executor: "shop".into(),
            at: Timestamp(0),
        })
    };
    let mut group = c.benchmark_group("store");
    group.bench_function("commit", |b| b.iter(|| intent().wait().expect("durable")));
    group.bench_function("commit of 256", |b| {
        b.iter(|| {
            let pending: Vec<_> = (0..256).map(|_| intent()).collect();
            pending.into_iter().for_each(|p| p.wait().expect("durable"));
        });
    });
    group.finish();
}

criterion_group!(benches, window, store);
criterion_main!(benches);
