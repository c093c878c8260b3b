//! The local port of a reference: which services it leads to, by which shares, and what is known of them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::candidate::Candidate;
use super::front::{Front, Limits};
use super::gate::Gate;
use super::health::Probe;
use super::news::Teller;
use super::target::{Lead, Member, Target};
use super::{Key, Served};
use crate::model::calls::{CandidateStatus, Port, PortPolicy, checkable};
use crate::model::endpoint::Endpoint;

/// An open port of a reference.
pub(super) struct PortGate {
    pub(super) gate: Gate,
    /// The service that the reference is bound to.
    pub(super) to: Option<Arc<str>>,
    policy: Arc<PortPolicy>,
    /// What is known of each service that it may lead to.
    known: HashMap<Arc<str>, Known>,
    tell: Teller,
    /// Where it listened before; who is still inside there goes where others do.
    before: Vec<Weak<Front>>,
}

/// What is known of a service that a reference may lead to.
struct Known {
    /// Where it listens itself.
    endpoint: Endpoint,
    candidate: Arc<Candidate>,
    probe: Option<Probe>,
}

/// Where services are reached.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) services: &'a HashMap<Arc<str>, Served>,
    pub(super) fronts: &'a HashMap<Arc<str>, Gate>,
}

impl Places<'_> {
    /// Where a service listens itself.
    fn endpoint(&self, service: &str) -> Option<&Endpoint> {
        self.services.get(service)?.endpoint.as_ref()
    }

    /// Where calls to a service go: through its own membrane, if it has one, so that it sees them too.
    ///
    /// # Errors
    /// When it is not known where it listens.
    pub(super) fn target(&self, service: &str) -> Result<Endpoint, String> {
        let Some(endpoint) = self.endpoint(service).cloned() else {
            return Err(format!("`{service}` has no endpoint, so no calls can be led there"));
        };
        Ok(match self.fronts.get(service) {
            // While its port is somebody else's, calls to it do not go there.
            Some(gate) if gate.trouble().is_none() => {
                Endpoint { address: gate.address.to_string().into(), ..endpoint }
            }
            _ => endpoint,
        })
    }
}

/// What calls to an unbound reference are told.
pub(super) fn unbound((service, reference): &Key) -> Lead {
    Lead::Nowhere(format!("the reference `{reference}` of `{service}` is not bound").into())
}

impl PortGate {
    /// Leads nowhere yet.
    pub(super) fn new(gate: Gate, tell: Teller) -> Self {
        Self { gate, to: None, policy: Arc::default(), known: HashMap::new(), tell, before: Vec::new() }
    }

    /// What holds from now on. Answers the targets that it led to before and does no longer.
    pub(super) fn set(
        &mut self,
        key: &Key,
        port: Port,
        base: Limits,
        places: Places<'_>,
    ) -> Vec<Arc<Target>> {
        if self.policy != port.policy {
            if self.policy.health != port.policy.health {
                self.known.values_mut().for_each(|known| known.probe = None);
                self.known.values().for_each(|known| known.candidate.unchecked());
            }
            self.policy = port.policy;
        }
        self.gate.front.allow(base.with(&self.policy.limits, self.policy.retries));
        self.lead(key, port.to, places)
    }

    /// It listens where it did not before: `old` is the port until then.
    pub(super) fn follows(&mut self, old: Self) {
        self.before.push(Arc::downgrade(&old.gate.front));
        self.before.extend(old.before.iter().filter(|front| front.strong_count() > 0).cloned());
    }

    /// Lets it lead to what the reference is bound to. Answers the targets that it led to before and does no longer.
    pub(super) fn lead(&mut self, key: &Key, to: Option<Arc<str>>, places: Places<'_>) -> Vec<Arc<Target>> {
        let mut left = self.lead_here(key, to, places);
        let lead = self.gate.front.slot.lead();
        for front in self.before.iter().filter_map(Weak::upgrade) {
            front.speak(**self.gate.front.protocol.load());
            for target in front.slot.switch((*lead).clone()) {
                if !left.iter().any(|other| Arc::ptr_eq(other, &target)) {
                    left.push(target);
                }
            }
        }
        left
    }

    fn lead_here(&mut self, key: &Key, to: Option<Arc<str>>, places: Places<'_>) -> Vec<Arc<Target>> {
        self.to = to;
        self.know(places);
        let front = self.gate.front.clone();
        let Some(to) = self.to.clone() else { return front.slot.switch(unbound(key)) };
        let mut members = Vec::new();
        let mut why = None;
        for (name, weight) in self.policy.sharing(&to) {
            match places.target(&name) {
                Ok(endpoint) => members.push((name, endpoint, weight)),
                Err(missing) => why = why.or(Some(missing)),
            }
        }
        let Some((_, endpoint, _)) = members.first() else {
            return front.slot.switch(Lead::Nowhere(why.unwrap_or_default().into()));
        };
        front.speak(endpoint.protocol);
        let members: Vec<Member> = members
            .into_iter()
            .map(|(name, endpoint, weight)| Member { target: self.target(&front, &name, endpoint), weight })
            .collect();
        front.lead_to(members, self.policy.eject, &self.tell)
    }

    /// The target at an address: the same as before, if it is the same.
    fn target(&mut self, front: &Front, name: &Arc<str>, endpoint: Endpoint) -> Arc<Target> {
        let candidate = self.known.get(name).map(|known| known.candidate.clone());
        let candidate = candidate.unwrap_or_else(|| Candidate::new(name.clone()));
        if let Lead::To(pool) = &*front.slot.lead()
            && let Some(same) = pool.members.iter().find(|m| {
                Arc::ptr_eq(&m.target.candidate, &candidate) && m.target.address == endpoint.address
            })
        {
            return same.target.clone();
        }
        Target::new(candidate, endpoint.address)
    }

    /// Keeps what is known of every service that it may lead to, and checks those; what listens elsewhere now is not known any more.
    fn know(&mut self, places: Places<'_>) {
        let mut names: Vec<Arc<str>> = self.policy.candidates.clone();
        names.extend(self.to.clone().filter(|to| !names.contains(to)));
        self.known
            .retain(|name, known| names.contains(name) && places.endpoint(name) == Some(&known.endpoint));
        for name in names {
            let Some(endpoint) = places.endpoint(&name) else { continue };
            let known = self.known.entry(name.clone()).or_insert_with(|| Known {
                endpoint: endpoint.clone(),
                candidate: Candidate::new(name),
                probe: None,
            });
            if let Some(health) = &self.policy.health
                && known.probe.is_none()
                && checkable(health, endpoint).is_ok()
            {
                let (address, candidate) = (endpoint.address.clone(), known.candidate.clone());
                known.probe = Some(Probe::begin(health.clone(), address, candidate, self.tell.clone()));
            }
        }
    }

    /// Whether calls through it lead anywhere at present.
    pub(super) fn leads(&self) -> bool {
        matches!(&*self.gate.front.slot.lead(), Lead::To(_))
    }

    /// Whether calls through it may reach a service at present.
    pub(super) fn reaches(&self, service: &str) -> bool {
        self.to.as_ref().is_some_and(|to| self.policy.sharing(to).iter().any(|(name, _)| **name == *service))
    }

    /// How the services stand that it may lead to, in the order of the policy.
    pub(super) fn candidates(&self) -> Vec<CandidateStatus> {
        let shares = self.to.as_ref().map(|to| self.policy.sharing(to)).unwrap_or_default();
        let more = self.to.iter().filter(|to| !self.policy.candidates.contains(to));
        let names = self.policy.candidates.iter().chain(more);
        let status = |name: &Arc<str>| {
            let candidate = &self.known.get(name)?.candidate;
            let (standing, reason) = candidate.standing();
            Some(CandidateStatus {
                service: name.to_string(),
                standing,
                weight: shares.iter().find(|(sharing, _)| sharing == name).map(|(_, weight)| *weight),
                calls: candidate.calls(),
                reason,
            })
        };
        names.filter_map(status).collect()
    }
}
