//! homeostat: an autonomic control loop for any service. Monitor, Analyze, Plan and Execute are four components around a managed service;
//! each is optional, and each can be attached, replaced and detached while the service runs.
//!
//! ```text
//!                 ┌──────────────────── one turn: (state, message, time) → effects ───────────────────┐
//!                 │                                                                                   │
//!  sensors ─────▶ │  monitor ──changed──▶ analyze ──alarm──▶ plan ──actions──▶ execute                │ ─────▶ effectors
//!  connectors     │  metrics              SLOs               strategies (rhai)  order, undo           │        connectors
//!                 │     ▲                                      │                   │                  │
//!                 └─────┼──────────────────────────────────────┼───────────────────┼──────────────────┘
//!                       └── letters: metrics of the services that this one uses ───┴── actions for them
//! ```
//!
//! The four stages and the turn are pure: no clock, no I/O, no task. [`service::shell`] feeds them and carries out what they answer, so replay,
//! tests in virtual time and life are the same turns.
//!
//! # Reading order
//!
//! 1. [`model`]: the vocabulary, in the order in which a sample meets it.
//! 2. [`policy`]: from files to compiled, immutable values.
//! 3. [`monitor`], [`analyze`], [`plan`], [`execute`]: the four stages.
//! 4. [`service::turn`]: the fold that joins them; [`service::shard`]: many services in one; [`service::shell`]: threads and tasks around that.
//! 5. [`connectors`]: sensors and effectors. [`knowledge`]: windows, the resource model, the record of decisions.
//! 6. [`daemon`], [`api`], [`cli`]: the process and its surfaces.
//!
//! # In process, in virtual time
//!
//! A program can hold the loop without threads, clocks and sockets: [`service::simulation::Simulation`] runs the same shards by hand.
//!
//! ```
//! use std::time::Duration;
//!
//! use homeostat::model::{SloState, Timestamp};
//! use homeostat::policy::{load::Sources, set::PolicySet};
//! use homeostat::service::simulation::Simulation;
//!
//! let policy = "
//! service: web
//! monitor:
//!   sensors: { delay: push }
//! analyze:
//!   fast: { objective: delay < 200ms, for: 30s }
//! plan:
//!   - { when: fast, mode: act, do: [ { restart: {} } ] }
//! execute:
//!   restart: log
//! ";
//! let (policies, _warnings) = PolicySet::from_sources(&Sources::from_texts([("web.yaml", policy)]), None)
//!     .expect("a policy without mistakes");
//! let mut web = Simulation::new(Timestamp::default(), 1);
//! web.apply(&policies);
//!
//! web.push("web", "delay", 0.35);
//! assert_eq!(web.slo("web", "fast"), Some(SloState::Pending));
//! web.advance(Duration::from_secs(31));
//! assert_eq!(web.slo("web", "fast"), Some(SloState::Violated));
//! assert_eq!(web.performed[0].action.to_string(), "restart()");
//! ```
//!
//! # In process, with real sensors and effectors
//!
//! The shell runs shards on threads, sensors and effectors on the tokio runtime it is started in. A [`service::handle::Handle`] has the four ports of a
//! service, which are the traits [`model::ports`].
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use homeostat::connectors::Connectors;
//! use homeostat::knowledge::store::Store;
//! use homeostat::model::ports::Metrics;
//! use homeostat::policy::{load::Sources, set::PolicySet};
//! use homeostat::service::handle::Handle;
//! use homeostat::service::record::Tape;
//! use homeostat::service::shell::{Setting, Shell};
//! use homeostat::service::supervisor::Supervisor;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = "service: web\nmonitor: { sensors: { delay: push }, metrics: { delay_ms: delay * 1000 } }\n";
//! let (policies, warnings) = PolicySet::from_sources(&Sources::from_texts([("web.yaml", policy)]), None)
//!     .expect("a policy without mistakes");
//! let setting =
//!     Setting { shards: 1, connectors: Connectors::new(), store: Store::in_memory()?, tape: Tape::off() };
//! let supervisor = Arc::new(Supervisor::new(Shell::start(setting)?));
//! supervisor.apply(policies, &warnings).await?;
//!
//! let web = Handle::new(supervisor.clone(), "web");
//! web.push("delay", vec![(0.25, None)]).await?;
//! assert_eq!(web.get_metric("delay_ms", None).await?.fresh(), Some(250.0));
//!
//! let late = supervisor.shell().stop(Duration::from_secs(5)).await;
//! assert!(late.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # What is public
//!
//! For embedding: [`model`] with its port and connector traits, [`policy::set::PolicySet`], [`service`] (simulation, shell, supervisor, handle),
//! [`connectors::Connectors`] (to register one's own), [`knowledge::store::Store`], [`daemon::Daemon`]. The rest is public so that it can be read and tested;
//! nothing here is promised to stay as it is before version 1.
pub mod analyze;
pub mod api;
pub mod cli;
pub mod connectors;
pub mod daemon;
pub mod dialects;
pub mod execute;
pub mod knowledge;
pub mod membrane;
pub mod model;
pub mod monitor;
pub mod plan;
pub mod policy;
pub mod service;
