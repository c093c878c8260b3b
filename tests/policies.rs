//! Policies from text to compiled values: every kind of mistake is told with file, line, column and hint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use homeostat::model::AlarmKind;
use homeostat::policy::diff::{Change, Component, diff};
use homeostat::policy::load::Changed;
use homeostat::policy::{MetricKind, PolicySet, Problem, Sources, schema};

/// The problems of a set of files, a line each.
fn problems<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    match PolicySet::from_sources(&Sources::from_texts(files), None) {
        Ok((_, warnings)) => lines(&warnings),
        Err(problems) => lines(&problems),
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn set<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> PolicySet {
    match PolicySet::from_sources(&Sources::from_texts(files), None) {
        Ok((set, _)) => set,
        Err(problems) => panic!("{}", lines(&problems)),
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name)
}

const STRATEGY: &str = "fn plan(alarm) { [] }";

#[test]
fn a_directory_becomes_services() {
    let set = set([
        (
            "shop.yaml",
            "\
service: shop
references: { payment: { service: pay, candidates: [pay2] } }
monitor:
  sensors: { own: push, disk: { nagios: { command: [check] } } }
  metrics:
    z: own
    cost: z + payment.cost
    p99: { of: own, aggregate: p99, over: 60s }
analyze: { cheap: { objective: cost < 30 } }
plan: [ { when: cheap, run: s.rhai } ]
---
service: pay
monitor: { sensors: { cost: push } }
---
service: pay2
monitor: { metrics: { cost: 5 } }
---
resource: amazon
class: CloudProvider
",
        ),
        ("s.rhai", STRATEGY),
    ]);
    let shop = &set.services["shop"];
    let names: Vec<_> = shop.monitor.iter().flat_map(|m| &m.metrics).map(|m| m.name.to_string()).collect();
    assert_eq!(names, ["disk", "disk_state", "own", "z", "cost", "p99"]);
    let row = &shop.plan.as_ref().expect("a plan").rows[0];
    assert_eq!(row.cooldown.as_secs(), 30);
    assert_eq!(row.on, [AlarmKind::Violation]);
    assert_eq!(&*shop.analyze.as_ref().expect("an analyzer").slos[0].violation, "cost >= 30");
    assert_eq!(set.resources["amazon"].class.as_deref(), Some("CloudProvider"));
}

#[test]
fn unknown_names_are_told_with_what_was_meant() {
    let text = "\
service: shop
references:
  payment: { service: pay }
monitor:
  sensors:
    own_cost: push
    latency: push
  metrics:
    cost: own_cots + payment.cost
    total: own_cost + payments.cost
    p: { of: latensy, aggregate: max, over: 5s }
analyze:
  cheap: { objective: csot < 30 }
plan:
  - { when: cheep, run: s.rhai }
  - { when: [cheap, dear], run: t.rhai }
---
service: pay
monitor: { sensors: { costs: push } }
";
    insta::assert_snapshot!(problems([("shop.yaml", text), ("s.rhai", STRATEGY)]), @r#"
    shop.yaml:9:11: error: there is no metric `own_cots` (hint: did you mean `own_cost`?)
    shop.yaml:10:23: error: there is no reference `payments` (hint: did you mean `payment`?)
    shop.yaml:11:14: error: there is no metric `latensy` (hint: did you mean `latency`?)
    shop.yaml:13:23: error: there is no metric `csot` (hint: did you mean `cost`?)
    shop.yaml:15:13: error: there is no SLO `cheep` (hint: did you mean `cheap`?)
    shop.yaml:16:21: error: there is no SLO `dear` (hint: there are `cheap`)
    shop.yaml:16:33: error: there is no script `t.rhai` (hint: did you mean `s.rhai`?)
    "#);
}

#[test]
fn what_other_documents_lack_is_told_with_what_was_meant() {
    let text = "\
service: shop
references:
  payment: { service: pay, candidates: [pay2, pai, void] }
monitor:
  metrics:
    cost: 1 + payment.cost
    most: { of: payment.cost, aggregate: max, over: 1m }
    all: { of: cost, from: { class: VM }, aggregate: sum, by: provder }
analyze:
  cheap: { objective: payment.cost < 30, warn: payment.cost < 20 }
plan:
  - { when: cheap, do: [ { set: { service: pay, property: x, value: 1 } }, { enable_slo: { service: pay, slo: quick } }, { unbind: { service: pay, reference: b } } ] }
---
service: pay
monitor: { sensors: { costs: push } }
---
service: pay2
monitor: { sensors: { cost: push } }
---
service: void
---
service: vm
class: VM
relations: { provider: amazon }
monitor: { sensors: { cost: push } }
";
    insta::assert_snapshot!(problems([("shop.yaml", text)]), @r#"
    shop.yaml:3:47: error: there is no service `pai` (hint: did you mean `pay`?)
    shop.yaml:6:15: error: the service `pay` has no metric `cost` (hint: did you mean `costs`?)
    shop.yaml:6:15: error: the service `void` has no metric `cost` (hint: `void` has no `monitor` section)
    shop.yaml:7:17: error: the service `pay` has no metric `cost` (hint: did you mean `costs`?)
    shop.yaml:7:17: error: the service `void` has no metric `cost` (hint: `void` has no `monitor` section)
    shop.yaml:8:63: error: no member of the group has the relation `provder` (hint: did you mean `provider`?)
    shop.yaml:10:23: error: the service `pay` has no metric `cost` (hint: did you mean `costs`?)
    shop.yaml:10:23: error: the service `void` has no metric `cost` (hint: `void` has no `monitor` section)
    shop.yaml:10:48: error: the service `pay` has no metric `cost` (hint: did you mean `costs`?)
    shop.yaml:10:48: error: the service `void` has no metric `cost` (hint: `void` has no `monitor` section)
    shop.yaml:12:28: error: no effector is declared for the action `set` at the service `pay` (hint: add `set: { http: { … } }`, `exec` or `log` to `execute`)
    shop.yaml:12:111: error: there is no SLO `quick` at the service `pay` (hint: there are no SLOs)
    shop.yaml:12:159: error: there is no reference `b` at the service `pay` (hint: there are no references)
    "#);
}

#[test]
fn mistakes_in_one_metric_are_told() {
    let text = "\
service: shop
monitor:
  sensors:
    own: push
    twice: push
    disk: { nagios: { command: [check_disk] } }
    bad-name: push
    fast: { exec: { command: [x], every: 0s } }
  metrics:
    twice: own
    disk_state: own
    both: { expr: own, of: own }
    neither: { unit: EUR }
    bare: { of: own }
    window: { of: own, aggregate: avg }
    group: { of: own, aggregate: rate, from: { class: VM } }
    by: { of: own, aggregate: avg, over: 5s, by: class }
    mixed: { expr: own, over: 5s }
    smooth: { of: own, aggregate: ewma }
    sum: { of: own + 1, aggregate: sum, over: 5s }
    broken: own +
    nested: \"1 + (own * \"
";
    insta::assert_snapshot!(problems([("shop.yaml", text)]), @r#"
    shop.yaml:7:5: error: `bad-name` contains `-`; expected letters, digits and `_`, not beginning with a digit (hint: `bad_name` would do)
    shop.yaml:8:5: error: `every` is zero; expected a duration such as 5s
    shop.yaml:10:5: error: `twice` is a sensor and a computed metric; a name stands for one metric (hint: call the sensor `own_twice`, or the metric something else)
    shop.yaml:11:5: error: `disk_state` is already an output of the sensor `disk`
    shop.yaml:12:24: error: `expr` and `of` exclude each other (hint: make the expression a metric of its own, and name it in `of`)
    shop.yaml:13:5: error: a computed metric needs `expr` or `of` (hint: `{ expr: a + b, unit: EUR }` or `{ of: latency, aggregate: p99, over: 60s }`)
    shop.yaml:14:5: error: `of` needs an `aggregate` (hint: such as `aggregate: avg`, `max`, `rate` or `p99`)
    shop.yaml:15:35: error: `avg` needs a window (hint: say how far back: `over: 60s`)
    shop.yaml:16:34: error: `rate` needs a window (hint: say how far back: `over: 60s`)
    shop.yaml:17:46: error: `by` groups the members of `from`, which is missing (hint: such as `from: { class: VM }`)
    shop.yaml:18:25: error: `over` goes with `of`, not with `expr` (hint: make the expression a metric of its own, and aggregate that)
    shop.yaml:20:16: error: `of` names one metric: `own + 1` contains ` `; expected letters, digits and `_`, not beginning with a digit (hint: make an expression a metric of its own, and name it in `of`)
    shop.yaml:21:18: error: the expression ends too early
    shop.yaml:22:25: error: the expression ends too early
    "#);
}

#[test]
fn mistakes_in_slos_and_plans_are_told() {
    let text = "\
service: shop
references:
  payment: { service: shop, candidates: [shop] }
  none: {}
monitor: { sensors: { cost: push } }
analyze:
  number: { objective: cost + 1 }
  level: { objective: cost < 30, warn: cost }
  good: { objective: cost < 30 }
plan:
  - { when: good }
  - { when: good, run: s.rhai, do: [ { notify: { text: x } } ] }
  - { when: [], do: [] }
  - when: \"*\"
    do:
      - set: { property: a, value: 1 }
      - bind: { reference: paiment, to: shop }
      - bind: { reference: payment, to: other }
      - replace: { from: shop, to: other }
      - replace: { from: other, to: shop }
      - disable_slo: { slo: god }
      - custom: { name: page }
      - restart: { service: elsewhere }
      - restart: {}
execute:
  bind: log
  stop: log
  start: log
";
    insta::assert_snapshot!(problems([("shop.yaml", text), ("s.rhai", STRATEGY)]), @r#"
    shop.yaml:4:3: error: the reference `none` leads nowhere (hint: say `service: NAME`, or `candidates: [NAME, …]` or `capability: WHAT` for one that is unbound at first)
    shop.yaml:7:24: error: this yields a number, and a condition is needed (hint: compare it with something, such as `cost + 1 < 30`)
    shop.yaml:8:40: error: this yields a number, and a condition is needed (hint: compare it with something, such as `cost < 30`)
    shop.yaml:11:7: error: a row needs `run` or `do` (hint: `run: strategy.rhai` or `do: [{ notify: { text: … } }]`)
    shop.yaml:12:32: error: `run` and `do` exclude each other
    shop.yaml:13:7: error: the row is for no SLO (hint: `*` stands for all)
    shop.yaml:13:17: error: the list of actions is empty
    shop.yaml:16:9: error: no effector is declared for the action `set` (hint: add `set: { http: { … } }`, `exec` or `log` to `execute`)
    shop.yaml:17:28: error: there is no reference `paiment` (hint: did you mean `payment`?)
    shop.yaml:18:41: error: `other` is no candidate of the reference `payment` (hint: its candidates are `shop`)
    shop.yaml:19:36: error: no reference that can be bound to `shop` can be bound to `other` (hint: their candidates are `shop`)
    shop.yaml:20:26: error: no reference can be bound to `other`
    shop.yaml:21:29: error: there is no SLO `god` (hint: did you mean `good`?)
    shop.yaml:22:9: error: no effector is declared for the action `page` (hint: add `page: { http: { … } }`, `exec` or `log` to `execute`)
    shop.yaml:23:29: error: no reference leads to `elsewhere` (hint: actions go to this service or along its references)
    shop.yaml:26:3: error: `bind` is carried out by homeostat itself and takes no effector
    "#);
}

/// Requirement: R3-34
#[test]
fn a_metric_that_depends_on_itself_is_refused_and_the_cycle_is_named() {
    let own = "service: s\nmonitor:\n  metrics:\n    a: b + 1\n    b: c * 2\n    c: a\n    d: d\n    e: a\n";
    insta::assert_snapshot!(problems([("s.yaml", own)]), @r#"
    s.yaml:4:8: error: `a` depends on itself: a -> b -> c -> a
    s.yaml:7:8: error: `d` depends on itself: d -> d
    "#);
    let across = "\
service: A
references: { b: { service: B } }
monitor: { metrics: { cost: b.cost } }
---
service: B
references: { c: { service: D, candidates: [C] } }
monitor: { metrics: { cost: c.cost } }
---
service: C
references: { a: { service: A } }
monitor: { metrics: { peak: { of: a.cost, aggregate: max, over: 5s }, cost: peak } }
---
service: D
monitor: { metrics: { cost: 1 } }
---
service: G
class: VM
monitor: { metrics: { load: { of: load, from: { class: VM }, aggregate: avg } } }
";
    insta::assert_snapshot!(problems([("s.yaml", across)]), @r#"
    s.yaml:3:29: error: `A.cost` depends on itself: A.cost -> B.cost -> C.cost -> C.peak -> A.cost (hint: references are followed to every service that they may be bound to)
    s.yaml:18:23: error: `G.load` depends on itself: G.load -> G.load (hint: references are followed to every service that they may be bound to)
    "#);
}

#[test]
fn broken_yaml_is_one_mistake_and_hides_no_others() {
    let files = [
        ("a.yaml", "service: a\nmonitor:\n  sensors: { cost: push\n"),
        (
            "b.yaml",
            "service: b\nreferences: { a: { service: a } }\nmonitor: { metrics: { cost: a.cost, x: y } }\n",
        ),
        ("c.yaml", "service: c\n\tmonitor: {}\n"),
        ("d.yaml", "name: d\n---\n- 1\n---\nservise: d\n"),
        ("e.yaml", "service: e\nservice: f\n"),
        ("s.rhai", "fn plan(alarm) {\n    let x = ;\n}\n"),
        ("t.rhai", "fn other() { 1 }\n"),
    ];
    insta::assert_snapshot!(problems(files), @r#"
    a.yaml:3:12: error: unclosed bracket '{'
    b.yaml:3:40: error: there is no metric `y` (hint: did you mean `x`?)
    c.yaml:1:10: error: while scanning a plain scalar, found a tab (hint: YAML is indented with spaces)
    d.yaml:1:1: error: a document needs `service: NAME` or `resource: NAME`
    d.yaml:3:3: error: a document needs `service: NAME` or `resource: NAME`
    d.yaml:5:1: error: a document needs `service: NAME` or `resource: NAME` (hint: did you mean `service` instead of `servise`?)
    e.yaml:2:1: error: duplicate mapping key: service
    s.rhai:2:13: error: unexpected ';'
    t.rhai:1:1: error: there is no `fn plan(alarm)`; the script has `other()` (hint: a strategy is a function `fn plan(alarm) { … }` that returns an array of actions)
    "#);
}

#[test]
fn a_name_stands_for_one_thing() {
    let files = [
        ("a.yaml", "service: a\n---\nservice: b\n"),
        ("b.yaml", "# again\nservice: a\n---\nresource: b\n---\nservice: -x\n---\nresource: c/d\n"),
    ];
    insta::assert_snapshot!(problems(files), @r#"
    b.yaml:2:10: error: `a` is already declared in a.yaml
    b.yaml:4:11: error: `b` is already declared in a.yaml
    b.yaml:6:10: error: `-x` begins with `-`; expected letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_` (hint: `_x` would do)
    b.yaml:8:11: error: `c/d` contains `/`; expected letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_` (hint: `c_d` would do)
    "#);
}

#[test]
fn a_script_that_no_plan_runs_is_a_warning() {
    insta::assert_snapshot!(problems([("a.yaml", "service: a\n"), ("s.rhai", STRATEGY)]), @r#"
    s.rhai:1:1: warning: no plan runs this script
    "#);
}

#[test]
fn a_script_that_names_an_unknown_reading_is_a_warning() {
    let policy = "service: a\nreferences: { r: { service: b } }\nmonitor: { sensors: { x: push } }\nanalyze: {}\nplan: [ { when: \"*\", run: s.rhai } ]\n---\nservice: b\nmonitor: { sensors: { x: push } }\n";
    let script = "fn plan(alarm) {\n    let a = metric(\"x\") + metric(\"r\", \"x\") + metric(\"b\", \"y\");\n    let c = metric(\"c\", \"x\") + metric(\"z\");\n    []\n}\n";
    insta::assert_snapshot!(problems([("a.yaml", policy), ("s.rhai", script)]), @r#"
    s.rhai:2:58: warning: the service `b` has no metric `y`
    s.rhai:3:20: warning: `c` is neither a reference of `a` nor a service
    s.rhai:3:39: warning: the service `a` has no metric `z`
    "#);
}

#[test]
fn an_error_points_into_quoted_and_folded_expressions() {
    let text = "service: s\nmonitor:\n  sensors: { own: push }\nanalyze:\n  a: { objective: \"own < limit\" }\n  b:\n    objective: >-\n      own < 1 &&\n      other < 2\n";
    insta::assert_snapshot!(problems([("s.yaml", text)]), @r#"
    s.yaml:5:26: error: there is no metric `limit` (hint: there are `own`)
    s.yaml:9:7: error: there is no metric `other` (hint: there are `own`)
    "#);
}

#[test]
fn what_cannot_be_read_is_named_and_what_editors_leave_is_ignored() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
    write("good.yaml", b"service: a\n");
    for ignored in
        [".good.yaml.swp", "good.yaml~", "#good.yaml#", ".#good.yaml", "notes.txt", "good.yaml.bak"]
    {
        write(ignored, b"\xff: [");
    }
    let (set, _) = PolicySet::load(&[dir.path().into()], None).expect("a set");
    assert_eq!(set.services.len(), 1);

    write("latin.yaml", b"service: \xe9\n");
    write("large.yaml", &vec![b'#'; 1024 * 1024 + 1]);
    std::fs::create_dir(dir.path().join("folder.yaml")).expect("created");
    let gone = dir.path().join("gone");
    let errors = PolicySet::load(&[dir.path().into(), gone], None).expect_err("errors");
    let text = lines(&errors).replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text, @r#"
    DIR/folder.yaml: error: is no regular file
    DIR/gone: error: cannot be read: No such file or directory (os error 2)
    DIR/large.yaml: error: is larger than 1024 KiB, the most that a policy file may have
    DIR/latin.yaml: error: is not UTF-8 (at byte 9)
    "#);
}

#[test]
fn an_empty_directory_is_refused_so_that_nothing_is_detached_by_accident() {
    let dir = tempfile::tempdir().expect("a directory");
    let errors = PolicySet::load(&[dir.path().into()], None).expect_err("an error");
    assert_eq!(errors[0].code, "no-policies");
    std::fs::write(dir.path().join("none.yaml"), "# nothing is managed\n").expect("written");
    let (set, _) = PolicySet::load(&[dir.path().into()], None).expect("a set");
    assert!(set.services.is_empty());
}

#[test]
fn scripts_are_found_beside_the_policy_and_in_sub_directories() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("strategies")).expect("created");
    std::fs::write(dir.path().join("strategies/s.rhai"), STRATEGY).expect("written");
    let policy = "service: a\nanalyze: {}\nplan: [ { when: \"*\", run: strategies/s.rhai } ]\n";
    std::fs::write(dir.path().join("a.yaml"), policy).expect("written");
    let (set, warnings) = PolicySet::load(&[dir.path().into()], None).expect("a set");
    assert_eq!(lines(&warnings), "");
    assert!(set.services["a"].scripts.contains_key("strategies/s.rhai"));
    // A single file is an application as well.
    let (set, _) = PolicySet::load(&[dir.path().join("a.yaml")], None).expect("a set");
    assert_eq!(set.services.len(), 1);
}

#[test]
fn reading_what_changed_gives_what_reading_everything_gives() {
    let dir = tempfile::tempdir().expect("a directory");
    let dirs = [dir.path().to_path_buf()];
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("written");
    std::fs::create_dir(path("sub")).expect("created");
    write("a.yaml", "service: a\n");
    write("b.yaml", "service: b\n");
    let mut sources = Sources::read(&dirs);
    let mut step = |names: &[&str]| {
        sources = std::mem::take(&mut sources)
            .refresh(&dirs, &Changed::Files(names.iter().map(|name| path(name)).collect()));
        let all = Sources::read(&dirs);
        assert_eq!(sources.files, all.files);
        assert_eq!(sources.problems, all.problems);
    };
    write("a.yaml", "service: aa\n");
    write("c.yml", "service: c\n");
    write("sub/s.rhai", STRATEGY);
    write("sub/ignored.yaml", "service: d\n");
    write(".hidden.yaml", "service: e\n");
    step(&["a.yaml", "c.yml", "sub/s.rhai", "sub/ignored.yaml", ".hidden.yaml", "never.yaml"]);
    std::fs::remove_file(path("b.yaml")).expect("removed");
    std::fs::rename(path("c.yml"), path("d.yaml")).expect("renamed");
    step(&["b.yaml", "c.yml", "d.yaml"]);
    std::fs::write(path("a.yaml"), b"\xff").expect("written");
    step(&["a.yaml"]);
    write("a.yaml", "service: a\n");
    step(&["a.yaml"]);
    std::fs::remove_file(path("a.yaml")).expect("removed");
    std::fs::remove_file(path("d.yaml")).expect("removed");
    step(&["a.yaml", "d.yaml"]);
}

// ---- reload ----------------------------------------------------------------------------------------------------------

#[test]
fn what_did_not_change_is_shared_with_the_set_before() {
    let a = "service: a\nmonitor: { sensors: { cost: push } }\nanalyze: { cheap: { objective: cost < 30, severity: major } }\n";
    let b = "service: b\nmonitor: { sensors: { cost: push } }\n";
    let first = set([("a.yaml", a), ("b.yaml", b)]);
    let changed = a.replace("30", "25");
    let sources = Sources::from_texts([("a.yaml", &*changed), ("b.yaml", b)]);
    let (second, _) = PolicySet::from_sources(&sources, Some(&first)).expect("a set");
    assert!(Arc::ptr_eq(&first.files["b.yaml"], &second.files["b.yaml"]));
    let monitor = |set: &PolicySet, name: &str| set.services[name].monitor.clone().expect("a monitor");
    assert!(Arc::ptr_eq(&monitor(&first, "a"), &monitor(&second, "a")));
    assert_ne!(first.hash, second.hash);

    let changes = diff(&first, &second);
    let text: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["~ a: analyze.cheap objective cost < 30 -> cost < 25"]);
    assert!(matches!(&changes[0], Change::Changed { components, .. } if *components == [Component::Analyze]));
    assert_eq!(diff(&second, &first)[0].to_string(), "~ a: analyze.cheap objective cost < 25 -> cost < 30");
    assert!(diff(&first, &first).is_empty());
}

#[test]
fn a_changed_file_is_refused_in_the_words_that_the_start_has() {
    let service = |name: &str, other: &str, metric: &str| {
        format!(
            "service: {name}\nreferences: {{ r: {{ service: {other} }} }}\nmonitor: {{ sensors: {{ a: push }}, metrics: {{ b: {metric} }} }}\n"
        )
    };
    let (x, y, z) = (service("x", "y", "r.b"), service("y", "z", "r.b"), service("z", "x", "r.a"));
    let first = set([("x.yaml", &*x), ("y.yaml", &*y), ("z.yaml", &*z)]);
    let closed = service("z", "x", "r.b");
    let gone = "service: other\n";
    let without = service("z", "x", "a").replace("b:", "c:");
    for (changed, wanted) in
        [(&*closed, "depends on itself"), (gone, "no service `z`"), (&*without, "no metric `b`")]
    {
        let sources = Sources::from_texts([("x.yaml", &*x), ("y.yaml", &*y), ("z.yaml", changed)]);
        let lines = |previous| {
            let problems = PolicySet::from_sources(&sources, previous).expect_err("a mistake");
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(lines(Some(&first)), lines(None));
        assert!(lines(None).iter().any(|line| line.contains(wanted)), "{:?}", lines(None));
    }
}

#[test]
fn a_changed_script_changes_the_plans_that_run_it() {
    let policy = "service: a\nanalyze: {}\nplan: [ { when: \"*\", run: s.rhai } ]\n";
    let first = set([("a.yaml", policy), ("s.rhai", STRATEGY)]);
    let sources = Sources::from_texts([("a.yaml", policy), ("s.rhai", "fn plan(alarm) { [ ] }")]);
    let (second, _) = PolicySet::from_sources(&sources, Some(&first)).expect("a set");
    match &diff(&first, &second)[..] {
        [Change::Changed { components, .. }] => assert_eq!(*components, [Component::Plan]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_part_of_a_service_shows_in_the_difference() {
    let before = "service: a\nreferences: { b: { service: b } }\nmonitor: { sensors: { x: push }, metrics: { w: { of: x, aggregate: p99, over: 5m }, y: 1 } }\nexecute: { set: log }\n---\nservice: b\n---\nresource: r\n";
    let after = "service: a\nclass: VM\nreferences: { b: { service: b, candidates: [c] } }\nmonitor: { sensors: { x: { push: { unit: s } } }, metrics: { w: { of: x, aggregate: p99, over: 10m }, z: 1 } }\nanalyze: { s: { objective: x < 1 } }\n---\nservice: c\n---\nservice: b\n---\nresource: r\nclass: X\n";
    let (first, second) = (set([("a.yaml", before)]), set([("a.yaml", after)]));
    let text: Vec<String> = diff(&first, &second).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    ~ a: references.b changed
    ~ a: monitor.sensors.x changed
    ~ a: monitor.metrics.w p99 of x over 5m -> p99 of x over 10m
    ~ a: monitor.metrics.y removed
    ~ a: monitor.metrics.z added
    ~ a: analyze added
    ~ a: execute removed
    ~ a: class none -> VM
    + c
    ~ r (resource)
    "#);
}

#[test]
fn of_a_large_set_only_what_changed_is_compiled_again() {
    let text = |i: usize, limit: usize| {
        let next = (i + 1) % 2_000;
        format!(
            "service: s{i}\nreferences: {{ n: {{ service: s{next} }} }}\nmonitor:\n  sensors: {{ a: push, b: push }}\n  metrics: {{ c: a + b, d: c + n.c, e: {{ of: a, aggregate: avg, over: 60s }} }}\nanalyze: {{ ok: {{ objective: d < {limit} }} }}\n"
        )
    };
    let files: Vec<(String, String)> = (0..2_000).map(|i| (format!("s{i:05}.yaml"), text(i, 30))).collect();
    let texts = |files: &[(String, String)]| {
        Sources::from_texts(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    };
    let first = PolicySet::from_sources(&texts(&files), None).expect("a set").0;
    let mut changed = files;
    changed[1_000].1 = text(1_000, 25);
    let sources = texts(&changed);
    let second = PolicySet::from_sources(&sources, Some(&first)).expect("a set").0;
    assert_eq!(diff(&first, &second).len(), 1);
    let shared = second.files.iter().filter(|(path, file)| Arc::ptr_eq(file, &first.files[*path])).count();
    assert_eq!(shared, 1_999, "only the changed file is parsed again");
}

#[test]
fn what_can_be_managed_is_checked_with_the_policy() {
    let text = "\
service: a
endpoint: tcp://127.0.0.1:9000
listen: 127.0.0.1:8080
manage:
  listen: 127.0.0.1:8080
  properties:
    good: { type: integer, value: 7 }
---
service: b
manage:
  listen: 0.0.0.0:8081
  properties:
    none: { type: integer }
    path: { type: string, http: { url: /admin } }
---
service: c
manage:
  listen: 127.0.0.1:8082
  properties:
    wrong: { type: integer, value: seven }
  methods:
    go: { url: \"http://127.0.0.1:1/{x}\" }
---
service: d
manage: { listen: 127.0.0.1:8083, properties: { kind: { type: float, value: 7 } } }
";
    insta::assert_snapshot!(problems([("f.yaml", text)]), @r#"
    f.yaml:5:11: error: 127.0.0.1:8080 is already listened on for `a`
    f.yaml:11:11: error: `0.0.0.0:8081` can be reached by others, and this listener asks nobody who he is; listen on a loopback address such as 127.0.0.1:8081
    f.yaml:13:5: error: it is not said, or said more than once, where it is kept; expected one of `file`, `http`, `environment`, `argument`, `process`, `metric` and `value`
    f.yaml:14:5: error: `/admin` is a path at the service, and it is not known where that speaks HTTP; say `endpoint: HOST:PORT`
    f.yaml:20:5: error: "seven" is no integer, which `type` says it is
    f.yaml:22:5: error: `url` asks for `{x}`, and there is no such parameter
    f.yaml:25:63: error: `float` is not known here (hint: there are `number`, `integer`, `string`, `boolean`, `object`, `array`)
    "#);
    let sensors = "\
service: a
manage: { listen: 127.0.0.1:8081, properties: { limit: { type: integer, value: 1 }, word: { type: string, value: x } } }
monitor:
  sensors:
    good: { property: limit }
    slip: { property: { name: limmit, every: 1s } }
    text: { property: word }
";
    insta::assert_snapshot!(problems([("f.yaml", sensors)]), @r"
    f.yaml:6:5: error: the service has no property `limmit` (hint: did you mean `limit`?)
    f.yaml:7:5: error: `word` is of type string, which is no metric
    ");
    let good =
        "service: a\nmanage:\n  listen: 127.0.0.1:8081\n  properties: { p: { type: number, value: 1 } }\n";
    let before = set([("f.yaml", good)]);
    assert_eq!(before.services["a"].manage.as_ref().and_then(|m| m.listen).map(|l| l.port()), Some(8081));
    let after = set([("f.yaml", good.replace("value: 1", "value: 2").as_str())]);
    let changes: Vec<String> = diff(&before, &after).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["~ a: manage.properties.p changed"]);
}

// ---- shipped policies, documents and schemas ------------------------------------------------------------------------

#[test]
fn the_shipped_policies_are_good() {
    for name in ["shop", "energy", "host"] {
        match PolicySet::load(&[shipped(name)], None) {
            Ok((_, warnings)) => assert_eq!(lines(&warnings), "", "{name}"),
            Err(errors) => panic!("{}", lines(&errors)),
        }
    }
}

/// The value of an energy metric, computed by hand over the compiled expressions; `e` is measured.
fn energy(set: &PolicySet, service: &str, metric: &str) -> f64 {
    let policy = &set.services[service];
    let metrics = &policy.monitor.as_ref().expect("a monitor").metrics;
    match &metrics.iter().find(|m| &*m.name == metric).expect("a metric").kind {
        MetricKind::Expression(expression) => {
            let inputs: Vec<Option<f64>> = expression
                .inputs
                .iter()
                .map(|path| match path {
                    homeostat::model::MetricPath::Own(name) => Some(energy(set, service, name)),
                    homeostat::model::MetricPath::Via { reference, metric } => {
                        let target = policy.references[reference].service.clone().expect("bound");
                        Some(energy(set, &target, metric))
                    }
                })
                .collect();
            expression.eval(&inputs).expect("a value")
        }
        _ => 2.0,
    }
}

/// Requirement: R3-41, R3-42
#[test]
fn both_readings_of_the_energy_example_can_be_written() {
    let file = shipped("energy").join("energy.yaml");
    let text = std::fs::read_to_string(file).expect("the file");
    let before = set([("energy.yaml", &*text)]);
    assert_eq!((energy(&before, "c", "energy"), energy(&before, "c-own", "energy")), (20.0, 18.0));
    let kinds: Vec<bool> = ["b", "a", "e"]
        .iter()
        .map(|s| {
            matches!(
                before.services[*s].monitor.as_ref().expect("a monitor").metrics[0].kind,
                MetricKind::Sensor(_)
            )
        })
        .collect();
    assert_eq!(kinds, [false, false, true], "a constant, an expression and a measurement under one name");
    let text = text.replacen("energy: { expr: \"2\"", "energy: { expr: \"3\"", 1);
    let after = set([("energy.yaml", &*text)]);
    assert_eq!((energy(&after, "c", "energy"), energy(&after, "c-own", "energy")), (22.0, 19.0));
}

/// Requirement: R3-43
#[test]
fn each_service_has_its_own_period_and_storage() {
    let set = set([(
        "a.yaml",
        "service: a\nmonitor: { sensors: { x: { exec: { command: [x], every: 1s } } }, history: 10 }\n---\nservice: b\nmonitor: { sensors: { x: { exec: { command: [x], every: 1m } } } }\n",
    )]);
    let of = |name: &str| {
        let monitor = set.services[name].monitor.as_ref().expect("a monitor");
        let MetricKind::Sensor(spec) = &monitor.metrics[0].kind else { panic!("a sensor") };
        (spec.every().map(|e| e.0.as_secs()), monitor.history)
    };
    assert_eq!(of("a"), (Some(1), 10));
    assert_eq!(of("b"), (Some(60), 0));
}

/// Requirement: R3-44
#[test]
fn an_objective_is_a_condition_over_metrics_with_units() {
    let set = set([(
        "b.yaml",
        "service: B\nmonitor: { sensors: { respTime: push } }\nanalyze: { fast: { objective: respTime < 2s, warn: respTime < 1500ms } }\n",
    )]);
    let slo = &set.services["B"].analyze.as_ref().expect("an analyzer").slos[0];
    assert_eq!(slo.objective.eval(&[Some(1.9)]), Ok(1.0));
    assert_eq!(slo.objective.eval(&[Some(2.0)]), Ok(0.0));
    assert_eq!(slo.warn.as_ref().expect("a warning level").eval(&[Some(1.6)]), Ok(0.0));
    assert_eq!(&*slo.violation, "respTime >= 2s");
}

#[test]
fn a_document_is_the_same_as_yaml_and_as_json() {
    for name in ["shop", "energy", "host"] {
        let (set, _) = PolicySet::load(&[shipped(name)], None).expect("a set");
        for service in set.services.values() {
            let document = service.document.open().expect("what was packed");
            let json = serde_json::to_value(&document).expect("json");
            let again = homeostat::policy::load::service_from_json(&json).expect("the same document");
            assert_eq!(again, document);
            let plain: homeostat::policy::document::ServiceDocument =
                serde_json::from_value(json).expect("json");
            assert_eq!(plain, document);
            let scripts = |name: &str| service.scripts.get(name).cloned();
            let compiled = homeostat::policy::compile::compile(again, &scripts).expect("compiled");
            assert_eq!(compiled.plan, service.plan);
        }
    }
}

#[test]
fn every_valid_document_fits_the_published_schema() {
    let schema = schema::policy_schema();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let mut seen = 0;
    for name in ["shop", "energy", "host"] {
        let sources = Sources::read(&[shipped(name)]);
        for file in sources.files.iter().filter(|file| file.path.ends_with(".yaml")) {
            for document in homeostat::policy::tree::parse_yaml(&file.text).expect("yaml") {
                let json = document.to_json();
                let errors: Vec<String> =
                    validator.iter_errors(&json).map(|e| format!("{e} at {}", e.instance_path())).collect();
                assert!(errors.is_empty(), "{}: {errors:?}", file.path);
                seen += 1;
            }
        }
    }
    assert!(seen > 10);
    for bad in [
        serde_json::json!({"service": "a", "clas": "VM"}),
        serde_json::json!({"service": "a", "monitor": {"sensors": {"x": "pusch"}}}),
        serde_json::json!({"service": "a", "analyze": {"x": {}}}),
    ] {
        assert!(!validator.is_valid(&bad), "{bad}");
    }
}

/// Compares with the published file; `UPDATE_SCHEMA=1` writes it anew.
fn published(name: &str, schema: &serde_json::Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(schema).expect("json"));
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/schema/{name} is out of date; run UPDATE_SCHEMA=1 cargo test --test policies"
    );
}

#[test]
fn the_published_schema_of_tests_is_true_to_the_types() {
    published("test.schema.json", &schema::trial_schema());
}

#[test]
fn the_published_policy_schema_is_true_to_the_types() {
    published("policy.schema.json", &schema::policy_schema());
}

/// Requirement: R3-55
#[test]
fn plans_are_lists_of_actions_in_a_published_format() {
    let schema = schema::action_schema();
    published("action.schema.json", &schema);
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let (shop, _) = PolicySet::load(&[shipped("shop")], None).expect("a set");
    let row = &shop.services["A"].plan.as_ref().expect("a plan").rows[1];
    let homeostat::policy::Strategy::Actions { actions, .. } = &row.strategy else { panic!("actions") };
    let said: Vec<String> = actions.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["unbind(B, b1)", "set(C2, threads, 10)"]);
    for action in actions {
        assert!(validator.is_valid(&serde_json::to_value(action).expect("json")), "{action}");
    }
    assert!(!validator.is_valid(&serde_json::json!({"replace": {"from": "C1"}})));
}

#[test]
fn the_sections_that_the_manual_shows_are_good() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policies.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    let block = |language: &str, start: &str| -> String {
        let fence = format!("```{language}\n");
        let blocks = manual.split(fence.as_str()).skip(1);
        let mut found =
            blocks.filter_map(|rest| rest.split("```").next()).filter(|block| block.starts_with(start));
        found.next().unwrap_or_else(|| panic!("no block begins with {start}")).to_string()
    };
    set([("web.yaml", &*block("yaml", "service: web"))]);
    let metrics =
        block("yaml", "metrics:\n  limit").lines().map(|line| format!("  {line}\n")).collect::<String>();
    let policy = [
        "service: shop\n",
        &block("yaml", "references:"),
        "monitor:\n  sensors: { own_cost: push, latency: push }\n",
        &metrics,
        &block("yaml", "analyze:"),
        &block("yaml", "plan:"),
        &block("yaml", "execute:"),
        "---\nservice: pay-gold\nmonitor: { sensors: { cost: push, delay: push } }\n",
        "---\nservice: pay-basic\nmonitor: { sensors: { cost: push, delay: push } }\n",
        "---\nservice: stock\n---\nservice: backup\n",
    ]
    .concat();
    let strategy = block("rhai", "fn plan");
    set([("shop.yaml", &*policy), ("cheapest.rhai", &*strategy), ("report.rhai", STRATEGY)]);
}

// ---- shipped strategies ---------------------------------------------------------------------------------------------

/// Runs the strategy that answers `slo` on these readings (`service.metric`) and families.
fn strategy(
    set: &PolicySet,
    service: &str,
    slo: &str,
    readings: &[(&str, &str, f64)],
    families: &[(&str, &[(&str, f64)])],
) -> homeostat::plan::strategy::Run {
    use homeostat::model::{Alarm, Reading, Timestamp};
    use homeostat::plan::strategy::{Deadline, Known, ReferenceView, RunLimits, StrategyHost};
    let policy = &set.services[service];
    let row = policy.plan.iter().flat_map(|p| &p.rows).find(|row| row.when.includes(slo)).expect("a row");
    let homeostat::policy::Strategy::Script(script) = &row.strategy else { panic!("a script") };
    let at = Timestamp(1_000_000);
    let slo_policy = policy.analyze.iter().flat_map(|a| &a.slos).find(|s| &*s.name == slo).expect("an SLO");
    let alarm = Alarm {
        service: service.into(),
        slo: slo.into(),
        kind: AlarmKind::Violation,
        severity: slo_policy.severity,
        condition: slo_policy.violation.to_string(),
        values: Default::default(),
        at,
    };
    let known = Known {
        service: service.into(),
        now: at,
        references: policy
            .references
            .iter()
            .map(|(name, reference)| {
                let text = |name: &Arc<str>| name.to_string();
                let view = ReferenceView {
                    bound: reference.service.as_ref().map(text),
                    candidates: reference.candidates.iter().map(text).collect(),
                };
                (name.to_string(), view)
            })
            .collect(),
        readings: readings
            .iter()
            .map(|(service, metric, value)| {
                ((service.to_string(), metric.to_string()), Reading::Fresh { value: *value, at })
            })
            .collect(),
        families: families
            .iter()
            .map(|(name, members)| {
                (name.to_string(), members.iter().map(|(label, value)| (label.to_string(), *value)).collect())
            })
            .collect(),
        ..Known::default()
    };
    let limits = RunLimits { operations: 100_000, deadline: Deadline::CutAt(None) };
    StrategyHost::new().run(script, &alarm, Arc::new(known), limits)
}

fn said(run: &homeostat::plan::strategy::Run) -> String {
    match &run.end {
        homeostat::plan::strategy::End::Actions(actions) => {
            let lines =
                actions.iter().map(ToString::to_string).chain(run.reasons.iter().map(|r| format!("- {r}")));
            lines.collect::<Vec<_>>().join("\n")
        }
        other => format!("{other:?}"),
    }
}

/// Requirement: R3-52
#[test]
fn the_shop_replaces_the_dear_service_by_the_cheap_one() {
    let (set, _) = PolicySet::load(&[shipped("shop")], None).expect("a set");
    let costs = [("B", "cost", 18.0), ("C1", "cost", 20.0), ("C2", "cost", 5.0)];
    let run = strategy(&set, "A", "cheap", &costs, &[]);
    insta::assert_snapshot!(said(&run), @r#"
    replace(C1, C2)
    - C1 costs 20.0, C2 costs 5.0
    - with B at 18.0, the cost becomes 23.0
    "#);
    assert_eq!(run.reads.keys().collect::<Vec<_>>(), ["B.cost", "C1.cost", "C2.cost"]);
    let dearer = [("B", "cost", 18.0), ("C1", "cost", 20.0), ("C2", "cost", 50.0)];
    insta::assert_snapshot!(said(&strategy(&set, "A", "cheap", &dearer, &[])), @r#"
    - no candidate costs less than C1, which costs 20.0
    "#);
}

#[test]
fn the_host_strategies_say_what_to_look_at() {
    let (set, _) = PolicySet::load(&[shipped("host")], None).expect("a set");
    let gib = 1024.0 * 1024.0 * 1024.0;
    let readings = [
        ("host", "memory_total", 16.0 * gib),
        ("host", "memory_available", gib),
        ("host", "cpu_1m", 97.25),
        ("host", "load_per_core", 2.125),
        ("host", "disk_used", 0.97),
    ];
    let rss: &[(&str, f64)] = &[("postgres(812)", 9.0 * gib), ("chrome(77)", 2.0 * gib), ("sh(3)", 1e6)];
    let small: &[(&str, f64)] = &[("a(1)", 0.5 * gib)];
    let cpu: &[(&str, f64)] = &[("rustc(5)", 71.5), ("rustc(6)", 24.0), ("sh(3)", 0.1)];
    let disks: &[(&str, f64)] = &[("/", 0.97), ("/home", 0.4)];
    let run = |slo: &str, families: &[(&str, &[(&str, f64)])]| {
        format!("{slo}: {}\n", said(&strategy(&set, "host", slo, &readings, families)))
    };
    let all: String = [
        run("memory_short", &[("rss", rss)]),
        run("memory_pressure", &[("rss", small)]),
        run("swap_full", &[]),
        run("cpu_busy", &[("process_cpu", cpu)]),
        run("disk_full", &[("disk_used", disks)]),
        run("disk_full", &[]),
        run("io_pressure", &[("disk_written", &[("sda", 5e7), ("sdb", 1.0)])]),
    ]
    .concat();
    insta::assert_snapshot!(all, @r#"
    memory_short: notify(memory is short: look at postgres(812), which holds 56 % of it)
    - 1024 MiB of 16384 MiB are available
    - postgres(812) holds 9216 MiB
    - chrome(77) holds 2048 MiB
    memory_pressure: notify(memory is short, and no single process stands out; the largest is a(1) with 3 %)
    - 1024 MiB of 16384 MiB are available
    swap_full: - 1024 MiB of 16384 MiB are available
    - no process is known yet
    cpu_busy: notify(the CPU is busy: look at rustc(5), which uses 72 % of the machine)
    - CPU over one minute: 97 %, load per core: 2.13
    - rustc(5) uses 72 % of the machine
    - rustc(6) uses 24 % of the machine
    disk_full: notify(a disk is nearly full: /)
    - / is used to 97 %
    disk_full: notify(a disk is nearly full)
    - the fullest disk is used to 97 %
    io_pressure: notify(tasks wait for disks: look at what reads and writes)
    - sda is written at 48 MiB/s
    "#);
}

// ---- arbitrary input -------------------------------------------------------------------------------------------------

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    fn sources(text: &str) -> Sources {
        Sources::from_texts([("a.yaml", text), ("s.rhai", STRATEGY)])
    }

    /// Every problem can be rendered, and lies inside its text.
    fn check(text: &str) {
        let sources = sources(text);
        let problems = match PolicySet::from_sources(&sources, None) {
            Ok((_, warnings)) => warnings,
            Err(problems) => problems,
        };
        for problem in problems {
            let file = problem.file.clone().expect("a file");
            let content = sources.text(&file).expect("its text");
            if let Some(span) = &problem.span {
                assert!(span.start <= span.end && span.end <= content.len(), "{problem:?} in {content:?}");
            }
            let _ = problem.render(Some(content), false);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_text_makes_loading_panic(text in "\\PC{0,200}") {
            check(&text);
        }

        #[test]
        fn no_mixture_of_yaml_makes_loading_panic(
            parts in prop::collection::vec(prop::sample::select(vec![
                "service: a\n", "monitor:\n", "  sensors:\n", "    x: push\n", "  metrics:\n", "    y: x + 1\n",
                "analyze:\n", "  s: { objective: x < 1 }\n", "plan:\n", "  - when: s\n", "    run: s.rhai\n", "---\n",
                "&a ", "*a\n", "<<: *a\n", "!!int ", "| \n", ">-\n", "\t", "é", "[", "]", "{", "}", "'", "\"", ": ", "- ",
                "resource: b\n", "    do: [ { set: { property: p, value: .nan } } ]\n", "null\n", "~: ~\n", "? x\n",
            ]), 0..24)
        ) {
            check(&parts.concat());
        }

        #[test]
        fn no_damage_to_a_good_policy_makes_loading_panic(at in 0.0..1.0_f64, length in 0_usize..12, with in "\\PC{0,4}") {
            let good = std::fs::read_to_string(shipped("shop").join("shop.yaml")).expect("the file");
            let chars: Vec<char> = good.chars().collect();
            let start = (at * chars.len() as f64) as usize;
            let end = (start + length).min(chars.len());
            let damaged: String =
                chars[..start].iter().copied().chain(with.chars()).chain(chars[end..].iter().copied()).collect();
            check(&damaged);
        }
    }
}

/// Prints what loading and reloading ten thousand services from files costs; run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn ten_thousand_services_cost() {
    let dir = tempfile::tempdir().expect("a directory");
    for i in 0..10_000 {
        let next = (i + 1) % 10_000;
        let text = format!(
            "service: s{i}\nreferences: {{ n: {{ service: s{next} }} }}\nmonitor:\n  sensors: {{ a: push, b: push, f: push }}\n  metrics: {{ c: a + b, d: c + n.a }}\nanalyze: {{ ok: {{ objective: d < 30 }} }}\n"
        );
        std::fs::write(dir.path().join(format!("s{i}.yaml")), text).expect("written");
    }
    let dirs = [dir.path().to_path_buf()];
    let mut sources = Sources::default();
    let mut timed = |what: &str, previous: Option<&PolicySet>| {
        let start = std::time::Instant::now();
        let changed = Changed::Files([dirs[0].join("s77.yaml")].into());
        sources = if previous.is_none() {
            Sources::read(&dirs)
        } else {
            std::mem::take(&mut sources).refresh(&dirs, &changed)
        };
        let read = start.elapsed();
        let result = PolicySet::from_sources(&sources, previous);
        println!("{what}: read {read:?}, whole {:?}", start.elapsed());
        result
    };
    let first = timed("from nothing", None).expect("a set").0;
    std::fs::write(dir.path().join("s77.yaml"), "service: s77\nmonitor: { sensors: { a: push } }\n")
        .expect("written");
    let second = timed("one file changed", Some(&first)).expect("a set").0;
    let start = std::time::Instant::now();
    assert_eq!(diff(&first, &second).len(), 1);
    println!("difference: {:?}", start.elapsed());
    std::fs::write(dir.path().join("s77.yaml"), "service: s77\nmonitor: { sensors: { b: push } }\n")
        .expect("written");
    assert_eq!(timed("one file is wrong", Some(&second)).expect_err("an error").len(), 1);
}

#[test]
fn calls_do_not_go_round_in_a_circle() {
    for (text, place) in [
        (
            "service: a\nreferences: { x: { service: b, listen: 127.0.0.1:7101 } }\n---\nservice: b\nendpoint: 127.0.0.1:7101\n",
            "p.yaml:5:11",
        ),
        ("service: a\nendpoint: 127.0.0.1:7101\nlisten: 0.0.0.0:7101\n", "p.yaml:2:11"),
        ("service: a\nendpoint: localhost:7101\nmanage: { listen: 127.0.0.1:7101 }\n", "p.yaml:2:11"),
    ] {
        let said = problems([("p.yaml", text)]);
        assert!(said.contains("circle") && said.starts_with(place), "{text}{said}");
    }
    let apart = "service: a\nendpoint: 127.0.0.2:7101\nlisten: 127.0.0.1:7101\n";
    assert_eq!(problems([("p.yaml", apart)]), "");
    let live = "service: a\nendpoint: 127.0.0.1:7101\nlisten: 127.0.0.1:7101\nlive: {}\n";
    assert_eq!(problems([("p.yaml", live)]), "");
}
