//! The loop inside a program: no server, no threads, and an hour that passes at once.
//!
//! The effectors are a closure of the program, and time passes when the program says so. Run it with `cargo run --example embedded`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use homeostat::model::{Action, Timestamp};
use homeostat::policy::diagnostics::Problem;
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::simulation::Simulation;

/// A room that is kept at 20 to 24 degrees.
const POLICY: &str = "
service: room
monitor:
  sensors: { temperature: push }
  metrics:
    mean: { of: temperature, aggregate: avg, over: 2m }
analyze:
  warm: { objective: mean >= 20 }
  cool: { objective: mean <= 24 }
plan:
  - { when: warm, mode: act, cooldown: 10m, do: [ { set: { property: heating, value: 1 } } ] }
  - { when: cool, mode: act, cooldown: 10m, do: [ { set: { property: heating, value: 0 } } ] }
execute:
  set: log
";

fn policies() -> Result<PolicySet, Vec<Problem>> {
    PolicySet::from_sources(&Sources::from_texts([("room.yaml", POLICY)]), None).map(|(set, _warnings)| set)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policies = policies()
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let heating = Rc::new(RefCell::new(0.0));
    let mut room = Simulation::new(Timestamp::default(), 1);
    let valve = heating.clone();
    room.effector(move |step| {
        if let Action::Set { value, .. } = &step.action {
            *valve.borrow_mut() = value.as_f64().unwrap_or(0.0);
        }
        Some(Ok(String::new()))
    });
    room.apply(&policies);

    // The world: heat comes from the radiator and leaves through the walls.
    let mut temperature = 18.0;
    for minute in 1..=60 {
        temperature += 0.5 * *heating.borrow() - 0.02 * (temperature - 10.0);
        room.push("room", "temperature", temperature);
        room.advance(Duration::from_secs(60));
        if minute % 10 == 0 {
            println!("{minute} min: {temperature:.1} degrees, heating {}", heating.borrow());
        }
    }
    for decision in room.decisions_of("room") {
        let condition = decision.alarm.as_ref().map_or("by hand", |alarm| &alarm.condition);
        let actions = decision.plan.iter().flat_map(|plan| &plan.actions);
        let actions = actions.map(ToString::to_string).collect::<Vec<_>>().join(", ");
        println!("{} min: {condition}: {actions}", decision.at.seconds() / 60);
    }
    Ok(())
}
