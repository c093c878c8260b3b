//! The manager seen as what it is: components and the wires between them (R3-07, R3-08), and the backbone of monitors (R3-40).

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::{App, Problem};
use crate::service::control::{Component, ServiceStatus, Wire};

/// Components and wires of every managed service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Topology {
    /// Every attached component, as `service/component`, in the order of services and of the loop.
    pub components: Vec<Node>,
    /// The wires between components of one service: metrics, alarms, actions, SLOs.
    pub wires: Vec<Wire>,
    /// Which monitor follows which: one entry per bound reference between two services that both have a monitor.
    pub backbone: Vec<Follows>,
}

/// One attached component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Node {
    /// `service/component`.
    pub name: String,
    /// Its identity: changes when the component is replaced.
    pub id: String,
    /// The class of its service in the model: `sensor` is one that OCCI clients made, `collector` what a probe runs for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// A reference from the monitor of one service to the monitor of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Follows {
    /// The monitor that asks, as `service/monitor`.
    pub from: String,
    /// The monitor that is asked, as `service/monitor`.
    pub to: String,
    /// The reference of the first service that is bound to the second.
    pub reference: String,
}

/// Topology
///
/// The backbone follows the bindings: rebinding a reference moves its entry, unbinding removes it.
#[utoipa::path(get, path = "/v1/topology", tag = "services", responses((status = 200, body = Topology)))]
pub(super) async fn topology(State(app): App) -> Result<Json<Topology>, Box<Problem>> {
    Ok(Json(of(&app.control.services().await?)))
}

/// The topology of these services.
pub fn of(services: &[ServiceStatus]) -> Topology {
    let components = services
        .iter()
        .flat_map(|s| {
            s.components
                .iter()
                .map(|c| (format!("{}/{}", s.name, c.component), c.id.clone()))
                .map(|(name, id)| Node { name, id, class: s.class.clone() })
        })
        .collect();
    let wires = services.iter().flat_map(|s| s.wires.iter().cloned()).collect();
    let monitored: std::collections::BTreeSet<&str> = services
        .iter()
        .filter(|s| s.components.iter().any(|c| c.component == Component::Monitor))
        .map(|s| s.name.as_str())
        .collect();
    let mut backbone = Vec::new();
    for service in services.iter().filter(|s| monitored.contains(s.name.as_str())) {
        for (reference, status) in &service.references {
            if let Some(bound) = status.bound.as_deref().filter(|b| monitored.contains(b)) {
                backbone.push(Follows {
                    from: format!("{}/monitor", service.name),
                    to: format!("{bound}/monitor"),
                    reference: reference.clone(),
                });
            }
        }
    }
    Topology { components, wires, backbone }
}
