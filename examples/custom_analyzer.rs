//! An analyzer of one's own: it subscribes to a metric through the port `Metrics`, and raises alarms through the port `Alarms`.
//!
//! This one knows something that no objective can say: a value is odd when it is far from the mean of those before. The planner of the policy answers.
//! Run it with `cargo run --example custom_analyzer`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use homeostat::connectors::Connectors;
use homeostat::knowledge::store::Store;
use homeostat::model::ports::{Alarms, Metrics, SubscriptionMode};
use homeostat::model::{Alarm, AlarmKind, PortError, Severity};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::handle::Handle;
use homeostat::service::record::Tape;
use homeostat::service::shell::{Setting, Shell};
use homeostat::service::supervisor::Supervisor;
use tokio_stream::StreamExt;

/// No `analyze` section: the analyzer is in this program, and the row of the plan takes alarms of any name.
const POLICY: &str = r#"
service: pump
monitor:
  sensors: { pressure: push }
plan:
  - { when: "*", mode: act, do: [ { notify: { text: the pressure is odd } } ] }
execute: {}
"#;

/// Follows the pressure and raises an alarm at the first odd value.
async fn watch(pump: Handle, supervisor: Arc<Supervisor>) -> Result<(), PortError> {
    // Dropping the subscription would end it.
    let mut pressures = pump.subscribe("pressure", SubscriptionMode::Update).await?;
    let (mut count, mut mean) = (0.0, 0.0);
    while let Some(notification) = pressures.notifications.next().await {
        let Some(value) = notification.reading.fresh() else { continue };
        if count >= 3.0 && (value - mean).abs() > 0.5 * mean {
            let alarm = Alarm {
                service: "pump".into(),
                slo: "steady".into(),
                kind: AlarmKind::Violation,
                severity: Severity::Major,
                condition: format!("pressure {value} is far from its mean {mean:.2}"),
                values: BTreeMap::from([("pressure".to_string(), notification.reading)]),
                at: supervisor.now(),
            };
            return pump.notify(alarm).await;
        }
        count += 1.0;
        mean += (value - mean) / count;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (policies, warnings) =
        PolicySet::from_sources(&Sources::from_texts([("pump.yaml", POLICY)]), None)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let setting =
        Setting { shards: 1, connectors: Connectors::new(), store: Store::in_memory()?, tape: Tape::off() };
    let supervisor = Arc::new(Supervisor::new(Shell::start(setting)?));
    let mut events = supervisor.shell().events();
    supervisor.apply(policies, &warnings).await?;

    let pump = Handle::new(supervisor.clone(), "pump");
    let analyzer = tokio::spawn(watch(pump.clone(), supervisor.clone()));
    let notice = async {
        loop {
            for value in [4.0, 4.1, 3.9, 4.0, 9.0] {
                pump.push("pressure", vec![(value, None)]).await?;
            }
            match tokio::time::timeout(Duration::from_millis(200), events.recv()).await {
                Ok(Ok(event)) if event.text.starts_with("notice") => return Ok::<_, PortError>(event.text),
                _ => {}
            }
        }
    };
    println!("{}", tokio::time::timeout(Duration::from_secs(10), notice).await??);
    analyzer.await??;
    for who in supervisor.shell().stop(Duration::from_secs(5)).await {
        println!("{who} was late");
    }
    Ok(())
}
