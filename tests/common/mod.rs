//! What the tests in virtual time share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use homeostat::model::Timestamp;
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::simulation::Simulation;

/// 2013-12-13T09:03:06Z, the time base of the CPU alarm of S1.
pub const START: Timestamp = Timestamp(1_386_925_386_000_000);

/// Builds a set of policies from texts; panics with every mistake when there is one.
pub fn policies(files: &[(&str, &str)]) -> PolicySet {
    match PolicySet::from_sources(&Sources::from_texts(files.iter().copied()), None) {
        Ok((set, _)) => set,
        Err(problems) => {
            panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// A simulation of one YAML text.
pub fn simulate(yaml: &str) -> Simulation {
    let mut simulation = Simulation::new(START, 1);
    simulation.apply(&policies(&[("policy.yaml", yaml)]));
    simulation
}

/// The shop of `policies/shop`, on this many shards, with `cost` of B, C1 and C2 as in R3-52.
pub fn shop(shards: usize) -> Simulation {
    let mut simulation = Simulation::new(START, shards);
    simulation.apply(&shop_policies());
    for (service, cost) in [("B", 18.0), ("C2", 5.0), ("C1", 20.0)] {
        simulation.push(service, "cost", cost);
    }
    simulation
}

/// `policies/shop` as it is shipped.
pub fn shop_policies() -> PolicySet {
    policies(&[
        ("shop/shop.yaml", include_str!("../../policies/shop/shop.yaml")),
        ("shop/cheapest.rhai", include_str!("../../policies/shop/cheapest.rhai")),
    ])
}
