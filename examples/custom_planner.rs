//! A planner of one's own: it takes alarms through the port `Alarms`, and acts through the port `Actions`.
//!
//! Everything it does comes back through the ports, so it is recorded like what a strategy does. Run it with `cargo run --example custom_planner`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use homeostat::connectors::Connectors;
use homeostat::knowledge::store::Store;
use homeostat::model::ports::{Actions, Alarms, Metrics};
use homeostat::model::{Action, Alarm, AlarmKind, PortError};
use homeostat::policy::load::Sources;
use homeostat::policy::set::PolicySet;
use homeostat::service::handle::Handle;
use homeostat::service::record::Tape;
use homeostat::service::shell::{Setting, Shell};
use homeostat::service::supervisor::Supervisor;
use tokio::sync::mpsc;

/// No `plan` section: the planner is in this program.
const POLICY: &str = "
service: queue
monitor:
  sensors: { waiting: push }
analyze:
  short: { objective: waiting < 100 }
execute:
  set: log
";

/// One worker per fifty orders that wait.
struct Workers {
    queue: Handle,
    done: mpsc::Sender<String>,
}

#[async_trait]
impl Alarms for Workers {
    async fn notify(&self, alarm: Alarm) -> Result<(), PortError> {
        if alarm.kind != AlarmKind::Violation {
            return Ok(());
        }
        let waiting = self.queue.get_metric("waiting", None).await?.fresh().unwrap_or(0.0);
        let workers = (waiting / 50.0).ceil();
        let action = Action::Set { service: None, property: "workers".into(), value: workers.into() };
        let outcome = self.queue.send_action(action).await?;
        let said = format!("{}: {} is {:?}", alarm.condition, outcome.action, outcome.status);
        let _ = self.done.send(said).await;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (policies, warnings) = PolicySet::from_sources(&Sources::from_texts([("queue.yaml", POLICY)]), None)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let setting =
        Setting { shards: 1, connectors: Connectors::new(), store: Store::in_memory()?, tape: Tape::off() };
    let supervisor = Arc::new(Supervisor::new(Shell::start(setting)?));
    supervisor.apply(policies, &warnings).await?;

    let queue = Handle::new(supervisor.clone(), "queue");
    let (done, mut said) = mpsc::channel(1);
    let planner = Arc::new(Workers { queue: queue.clone(), done });
    supervisor.shell().set_planner("queue", Some(planner)).await?;

    queue.push("waiting", vec![(420.0, None)]).await?;
    match tokio::time::timeout(Duration::from_secs(10), said.recv()).await? {
        Some(said) => println!("{said}"),
        None => println!("the planner is gone"),
    }
    for who in supervisor.shell().stop(Duration::from_secs(5)).await {
        println!("{who} was late");
    }
    Ok(())
}
