//! `homeostat test`: policies with their tests, as a process.

use serde_json::Value;

use super::support::{homeostat, policy};

const POLICY: &str = "
service: shop
references: { c: { service: c1, candidates: [c2] } }
monitor: { sensors: { load: push, heat: { http: { url: \"http://127.0.0.1:1/\", every: 5s } } } }
analyze: { calm: { objective: load < 10 }, cool: { objective: heat < 50% } }
plan:
  - { when: calm, mode: act, cooldown: 1m, do: [{ replace: { from: c1, to: c2 } }, { set: { property: threads, value: 8 } }] }
  - { when: cool, mode: approve, do: [{ notify: { text: hot } }] }
execute: { set: { http: { method: PUT, url: \"http://127.0.0.1:1/\" } } }
---
service: c1
---
service: c2
";

const GOOD: &str = "
test: a high load has its answer
steps:
  - push: { shop.load: 9 }
  - expect: { metric: { shop.load: 9 }, slo: { shop.calm: ok }, bound: { shop.c: c1 }, nothing: true }
  - push: { shop.load: 11 }
  - expect: { slo: { shop.calm: violated }, bound: { shop.c: c2 }, actions: [\"replace(c1, c2)\", \"set(threads, 8)\"] }
---
test: an effector that fails is said to have failed
steps:
  - fail: { service: shop, action: set, with: no such host }
  - push: { shop.load: 11 }
  - expect: { actions: [\"replace(c1, c2)\"], failed: [\"set(threads, 8)\"] }
  - mend: { service: shop, action: set }
  - push: { shop.load: 1 }
  - wait: 2m
  - push: { shop.load: 11 }
  - expect: { failed: [\"replace(c1, c2)\", \"set(threads, 8)\"] }
---
test: sensors go on measuring while time passes, until they fail
steps:
  - push: { shop.heat: 60% }
  - wait: 10m
  - expect: { metric: { shop.heat: 0.6 }, slo: { shop.cool: violated }, proposed: [notify(hot)], actions: [] }
  - push: { shop.heat: 40% }
  - expect: { slo: { shop.cool: ok } }
  - push: { shop.heat: fails }
  - wait: 16s
  - expect: { metric: { shop.heat: stale } }
";

/// A directory with the policy and these tests.
fn shop(tests: &str) -> tempfile::TempDir {
    let dir = policy(POLICY);
    std::fs::write(dir.path().join("shop.test.yaml"), tests).unwrap();
    dir
}

#[test]
fn policies_that_do_what_their_tests_say_pass_and_tests_are_no_policies() {
    let dir = shop(GOOD);
    let path = dir.path().to_str().unwrap();
    let said = homeostat(&["test", path], None);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out.lines().next(), Some(&*format!("ok {path}: a high load has its answer")));
    assert!(said.out.ends_with("3 tests passed\n"), "{said:?}");
    // The file alone, with the policies beside it.
    let file = dir.path().join("shop.test.yaml");
    assert_eq!(homeostat(&["test", file.to_str().unwrap()], None).out, said.out);
    let checked = homeostat(&["check", path], None);
    assert!(checked.code == 0 && checked.out.starts_with("3 services ok"), "{checked:?}");
}

#[test]
fn a_test_that_fails_says_where_what_was_expected_and_what_came() {
    let tests = "\
test: this holds
steps: [{ expect: { nothing: true } }]
---
test: this does not
steps:
  - push: { shop.load: 11 }
  - expect:
      slo: { shop.calm: ok }
      bound: { shop.c: null }
      actions: [\"replace(c1, c3)\"]
      because: [it is hot]
  - expect: { metric: { shop.load: 12 } }
";
    let dir = shop(tests);
    let path = dir.path().to_str().unwrap();
    let said = homeostat(&["test", path], None);
    assert_eq!(said.code, 1, "{said:?}");
    let out = said.out.replace(path, "shop");
    assert_eq!(
        out,
        "\
ok shop: this holds
FAILED shop: this does not
  shop/shop.test.yaml:8:25: `shop.calm`: expected ok, got violated
  shop/shop.test.yaml:9:24: `shop.c`: expected to be bound to nothing, got c2
  shop/shop.test.yaml:10:7: actions: expected `replace(c1, c3)`, got `replace(c1, c2)`, `set(threads, 8)`
  shop/shop.test.yaml:11:17: because: expected `it is hot` in a reason, got none
2 tests, 1 failed
"
    );
    let said = homeostat(&["test", path, "--json"], None);
    assert_eq!(said.code, 1, "{said:?}");
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["passed"], &json["failed"], &json["ok"]), (&1.into(), &1.into(), &false.into()));
    let test = &json["tests"][1];
    assert_eq!((&test["test"], &test["line"]), (&"this does not".into(), &4.into()));
    assert_eq!((&test["failures"][0]["line"], &test["failures"][0]["column"]), (&8.into(), &25.into()));
}

#[test]
fn a_mistake_in_a_test_is_refused_with_its_place_and_nothing_is_run() {
    let dir = shop("test: wrong\nsteps:\n  - wiat: 3s\n");
    let path = dir.path().to_str().unwrap();
    let good = shop(GOOD);
    let said = homeostat(&["test", good.path().to_str().unwrap(), path], None);
    assert_eq!((said.code, &*said.out), (4, ""), "{said:?}");
    for part in ["shop.test.yaml:3:5", "wiat", "did you mean `wait`?", "1 error"] {
        assert!(said.err.contains(part), "`{part}` is missing in {}", said.err);
    }
    let said = homeostat(&["test", path, "--json"], None);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &json["problems"][0]["line"]), (4, &3.into()));
    // The daemon and `check` do not look at it.
    assert_eq!(homeostat(&["check", path], None).code, 0);

    // Policies with mistakes, no tests, no directory.
    std::fs::write(dir.path().join("policy.yaml"), "service: 1 2\n").unwrap();
    assert_eq!(homeostat(&["test", path], None).code, 4);
    let said = homeostat(&["test", policy(POLICY).path().to_str().unwrap()], None);
    assert!(said.code == 4 && said.err.contains("there is no test"), "{said:?}");
    assert_eq!(homeostat(&["test", "/nonexistent/policies"], None).code, 4);
}

#[test]
fn the_policies_that_come_with_homeostat_do_what_their_tests_say() {
    let dirs = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/policies")).unwrap();
    let dirs: Vec<_> = dirs.map(|dir| dir.unwrap().path().to_str().unwrap().to_string()).collect();
    let words: Vec<_> = std::iter::once("test").chain(dirs.iter().map(String::as_str)).collect();
    let said = homeostat(&words, None);
    assert_eq!(said.code, 0, "{said:?}");
}
