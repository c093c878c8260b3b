//! Adaptive monitoring, the heart of the source: a load generator that does what collectors do sends more while the shop is slow, and only then.

use std::process::{Command, Stdio};

use super::*;

/// Requirement: R2-10, R2-12, R2-16, R2-34, R2-35
#[test]
fn collectors_send_more_while_the_shop_is_slow_and_only_then() {
    let rules = include_str!("../../../policies/ecommerce/rules.yaml").replace("60s", "1s");
    let model = include_str!("../../../policies/ecommerce/model.yaml");
    let tower = Tower::start_with(&format!("{model}---\n{rules}"), None, Settings::default());
    let out = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/ecommerce.py"))
        .args(["--manager", &format!("http://{}", tower.address), "--phase", "8", "--pause", "0.05"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}");
    let phases: Vec<(&str, f64)> = text
        .lines()
        .map(|line| {
            let (asked, rates) = line.split_once("; ").unwrap();
            let round = rates.split_once(", ").unwrap().1.split_once(' ').unwrap().0;
            (asked, round.parse().unwrap())
        })
        .collect();
    let [(quiet, before), (slow, during), (again, after)] = phases[..] else { panic!("{text}") };
    assert_eq!(quiet, "quiet: asked for ResponseTime");
    assert_eq!(slow, "slow: asked for MemUsed, ResponseTime");
    assert_eq!(again, "quiet again: asked for ResponseTime");
    // Two data of memory for six of response times, which are a little shorter.
    assert!(during > 1.1 * before, "{text}");
    assert!((after / before - 1.0).abs() < 0.05, "{text}");
    tower.stop();
}
