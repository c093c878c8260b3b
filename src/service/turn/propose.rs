//! Plans that wait for an operator: proposals of mode `advise`, and of mode `approve`, which lapse.
//!
//! ```text
//!  mode approve:  proposed ──yes──▶ planned ──▶ outcomes
//!                     └──no, its time is over, the SLO recovers, another plan takes its place, the policy changes──▶ withdrawn
//! ```

use std::collections::BTreeMap;

use super::{ServiceLoop, Turn};
use crate::execute::Run;
use crate::model::ports::PortError;
use crate::model::{Decision, DecisionId, Mode, Plan, Timestamp, Verdict};
use crate::service::message::Effect;

/// Whether the decision waits for a yes with an end to its patience.
pub(super) fn waits(decision: &Decision) -> bool {
    decision.verdict == Verdict::Proposed && decision.expires.is_some()
}

/// What a decision is about and what made its plan.
fn origin(decision: &Decision) -> Option<(&str, &Plan)> {
    Some((decision.alarm.as_ref()?.slo.as_str(), decision.plan.as_ref()?))
}

impl ServiceLoop {
    /// Carries out what a decision proposes; the outcomes go to `caller`.
    ///
    /// # Errors
    /// When there is no executor, no such open decision, or it is no proposal that waits.
    pub(super) fn approve(
        &mut self,
        id: DecisionId,
        caller: u64,
        turn: &mut Turn<'_>,
    ) -> Result<(), PortError> {
        if self.policy.execute.is_none() {
            return Err(PortError::NoExecutorAttached(self.name.to_string()));
        }
        let name = self.name.clone();
        let decision = Self::proposal(&mut self.open, &name, id)?;
        let Some(plan) = &mut decision.plan else {
            return Err(PortError::Invalid(format!("decision {id} has no plan")));
        };
        if plan.mode == Mode::Advise {
            plan.mode = Mode::Act;
        }
        decision.verdict = Verdict::Planned;
        let run = Run::new(id, plan.actions.clone(), plan.on_failure, Some(caller));
        turn.effects.push(Effect::Decision(Box::new(decision.clone())));
        if let (Some((slo, plan)), Some(planner)) = (origin(decision), &mut self.planner)
            && let Some(task) = planner.task_of(slo, plan)
        {
            planner.started(&task, id);
        }
        self.event("decide", Some(id), "approved by an operator".into(), turn);
        self.ledger.enqueue(run);
        Ok(())
    }

    /// Withdraws what a decision proposes, by an operator's word. The same plan is not proposed again for the same alarm.
    ///
    /// # Errors
    /// As for [`ServiceLoop::approve`], but for the executor.
    pub(super) fn reject(&mut self, id: DecisionId, turn: &mut Turn<'_>) -> Result<(), PortError> {
        Self::proposal(&mut self.open, &self.name, id)?;
        self.withdraw(id, "rejected by an operator", turn);
        Ok(())
    }

    fn proposal<'a>(
        open: &'a mut BTreeMap<DecisionId, Decision>,
        name: &str,
        id: DecisionId,
    ) -> Result<&'a mut Decision, PortError> {
        let Some(decision) = open.get_mut(&id) else {
            return Err(PortError::Invalid(format!("decision {id} of `{name}` is not open (any more)")));
        };
        match (&decision.verdict, &decision.plan) {
            (Verdict::Proposed, Some(plan)) if plan.mode == Mode::Observe => Err(PortError::Conflict(
                format!("decision {id} of `{name}` was made in mode `observe`, which only records"),
            )),
            (Verdict::Proposed, Some(_)) if decision.outcomes.is_empty() => Ok(decision),
            (Verdict::Withdrawn(why), _) => {
                Err(PortError::Conflict(format!("decision {id} of `{name}` is withdrawn: {why}")))
            }
            _ => Err(PortError::Conflict(format!("decision {id} of `{name}` is not a waiting proposal"))),
        }
    }

    fn withdraw(&mut self, id: DecisionId, why: &str, turn: &mut Turn<'_>) {
        let Some(decision) = self.open.get_mut(&id) else { return };
        decision.verdict = Verdict::Withdrawn(why.to_string());
        turn.effects.push(Effect::Decision(Box::new(decision.clone())));
        self.event("decide", Some(id), format!("withdrawn: {why}"), turn);
    }

    fn waiting(&self, which: impl Fn(&Decision) -> bool) -> Vec<DecisionId> {
        self.open.values().filter(|d| waits(d) && which(d)).map(|d| d.id).collect()
    }

    /// Withdraws what waits for a yes about this SLO.
    pub(super) fn withdraw_about(&mut self, slo: &str, why: &str, turn: &mut Turn<'_>) {
        for id in self.waiting(|d| d.alarm.as_ref().is_some_and(|a| a.slo == slo)) {
            self.withdraw(id, why, turn);
        }
    }

    /// Withdraws what the same strategy proposed about the same SLO before.
    pub(super) fn supersede(&mut self, by: &Decision, turn: &mut Turn<'_>) {
        let made = |d: &Decision| {
            origin(d).map(|(slo, plan)| (slo.to_string(), plan.strategy.clone(), plan.hash.clone()))
        };
        let whose = made(by);
        for id in self.waiting(|d| d.id != by.id && made(d) == whose) {
            self.withdraw(id, &format!("decision {} takes its place", by.id), turn);
        }
    }

    /// Withdraws what no row of the strategy table would wait for any more: the policy has changed.
    pub(super) fn withdraw_orphans(&mut self, turn: &mut Turn<'_>) {
        let Some(planner) = &self.planner else {
            for id in self.waiting(|_| true) {
                self.withdraw(id, "the planner was detached", turn);
            }
            return;
        };
        let kept = |d: &Decision| origin(d).is_some_and(|(slo, plan)| planner.awaits_approval(slo, plan));
        for id in self.waiting(|d| !kept(d)) {
            self.withdraw(id, "the policy has changed", turn);
        }
    }

    /// Withdraws what has waited too long; while the SLO stays violated, it is planned (and proposed) anew.
    pub(super) fn tick_proposals(&mut self, turn: &mut Turn<'_>) {
        if !self.waits {
            return;
        }
        let now = turn.now;
        for id in self.waiting(|d| d.expires.is_some_and(|t| t <= now)) {
            self.withdraw(id, "nobody approved it in time", turn);
            let lapsed = self.open.get(&id).and_then(origin);
            if let (Some((slo, plan)), Some(planner)) = (lapsed, &mut self.planner) {
                planner.lapsed(slo, plan);
            }
        }
        self.waits = self.open.values().any(waits);
    }

    /// When [`ServiceLoop::tick_proposals`] has something to do.
    pub(super) fn proposals_due(&self) -> Option<Timestamp> {
        if !self.waits {
            return None;
        }
        self.open.values().filter(|d| waits(d)).filter_map(|d| d.expires).min()
    }
}
