//! E: the order in which a list of actions is carried out, what was done so far, and how it is taken back. Pure.

use std::collections::VecDeque;

use crate::model::plan::OnFailure;
use crate::model::{Action, DecisionId, Outcome, OutcomeStatus, Timestamp};

/// One list of actions on its way.
#[derive(Debug)]
pub struct Run {
    /// The decision that it belongs to.
    pub decision: DecisionId,
    /// Who waits for the outcomes, if somebody does.
    pub caller: Option<u64>,
    actions: Vec<Action>,
    on_failure: OnFailure,
    outcomes: Vec<Outcome>,
    /// The inverse of each action done, with its place in the list.
    undo: Vec<(usize, Action)>,
    undoing: Option<usize>,
    /// The action of the step at hand.
    action: Option<Action>,
    /// Since when the step at hand is on its way.
    since: Option<Timestamp>,
    step: u32,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Carry out this step.
    Step {
        /// The decision that it belongs to.
        decision: DecisionId,
        /// Its number within the decision; undo steps are counted on.
        step: u32,
        /// What.
        action: Action,
    },
    /// The list is done; every action has an outcome.
    Finished {
        /// The decision that it belongs to.
        decision: DecisionId,
        /// Who waits for the outcomes.
        caller: Option<u64>,
        /// One per action, in order.
        outcomes: Vec<Outcome>,
    },
}

/// The lists of one service, carried out one after the other.
#[derive(Debug, Default)]
pub struct Ledger {
    runs: VecDeque<Run>,
}

/// A list that has come to its end early.
#[derive(Debug, PartialEq)]
pub struct Ended {
    /// The decision that it belongs to.
    pub decision: DecisionId,
    /// Who waits for the outcomes.
    pub caller: Option<u64>,
    /// One per action, in order.
    pub outcomes: Vec<Outcome>,
}

impl Run {
    fn abandon(mut self, why: &str, executor: &str, now: Timestamp) -> Ended {
        if self.since.is_some() && self.undoing.is_none() {
            self.outcomes.extend(self.action.take().map(|action| Outcome {
                action,
                status: OutcomeStatus::Interrupted,
                executor: executor.to_string(),
                detail: why.to_string(),
                at: now,
            }));
        }
        self.skip_rest(why, executor, now);
        Ended { decision: self.decision, caller: self.caller, outcomes: self.outcomes }
    }

    /// A list that has not begun.
    pub fn new(
        decision: DecisionId,
        actions: Vec<Action>,
        on_failure: OnFailure,
        caller: Option<u64>,
    ) -> Self {
        Self {
            decision,
            caller,
            actions,
            on_failure,
            outcomes: Vec::new(),
            undo: Vec::new(),
            undoing: None,
            action: None,
            since: None,
            step: 0,
        }
    }

    fn skip_rest(&mut self, why: &str, executor: &str, now: Timestamp) {
        for action in self.actions.iter().skip(self.outcomes.len()) {
            self.outcomes.push(Outcome {
                action: action.clone(),
                status: OutcomeStatus::Skipped,
                executor: executor.to_string(),
                detail: why.to_string(),
                at: now,
            });
        }
    }

    fn took(&mut self, outcome: Outcome, inverse: Option<Action>, own: &str) {
        let now = outcome.at;
        self.since = None;
        self.step += 1;
        if let Some(place) = self.undoing.take() {
            let done = &mut self.outcomes[place];
            if outcome.status == OutcomeStatus::Done {
                done.status = OutcomeStatus::Undone;
            } else {
                done.detail = format!("{}; taking it back failed: {}", done.detail, outcome.detail);
            }
            return;
        }
        let place = self.outcomes.len();
        let done = outcome.status == OutcomeStatus::Done;
        let what = outcome.action.to_string();
        self.outcomes.push(outcome);
        if done {
            self.undo.extend(inverse.map(|action| (place, action)));
            return;
        }
        match self.on_failure {
            OnFailure::Continue => {}
            OnFailure::Stop => {
                self.undo.clear();
                self.skip_rest(&format!("{what} did not succeed"), own, now);
            }
            OnFailure::Undo => {
                self.skip_rest(&format!("{what} did not succeed"), own, now);
                for (n, o) in self.outcomes.iter_mut().enumerate() {
                    if o.status == OutcomeStatus::Done && !self.undo.iter().any(|(place, _)| *place == n) {
                        o.detail = format!(
                            "{}{}cannot be taken back",
                            o.detail,
                            if o.detail.is_empty() { "" } else { "; " }
                        );
                    }
                }
            }
        }
    }

    fn failed(&self) -> bool {
        self.outcomes.iter().any(|o| !matches!(o.status, OutcomeStatus::Done | OutcomeStatus::Undone))
    }

    fn next(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.get(self.outcomes.len()) {
            return Some(action.clone());
        }
        if self.on_failure == OnFailure::Undo && self.failed() {
            let (place, action) = self.undo.pop()?;
            self.undoing = Some(place);
            return Some(action);
        }
        None
    }
}

impl Ledger {
    /// Puts a list behind those that wait.
    pub fn enqueue(&mut self, run: Run) {
        self.runs.push_back(run);
    }

    /// What to do next; `None` while a step is on its way or nothing waits.
    pub fn next(&mut self, now: Timestamp) -> Option<Next> {
        let run = self.runs.front_mut()?;
        if run.since.is_some() {
            return None;
        }
        if let Some(action) = run.next() {
            run.since = Some(now);
            run.action = Some(action.clone());
            return Some(Next::Step { decision: run.decision, step: run.step, action });
        }
        let run = self.runs.pop_front()?;
        Some(Next::Finished { decision: run.decision, caller: run.caller, outcomes: run.outcomes })
    }

    /// A step has ended. `inverse` takes it back. Answers the outcomes so far, or `None` when this step is not the one on its way.
    pub fn ended(
        &mut self,
        decision: DecisionId,
        step: u32,
        outcome: Outcome,
        inverse: Option<Action>,
        own: &str,
    ) -> Option<&[Outcome]> {
        let run = self.runs.front_mut()?;
        if run.decision != decision || run.step != step || run.since.is_none() {
            return None;
        }
        run.took(outcome, inverse, own);
        Some(&run.outcomes)
    }

    /// The step on its way, and since when.
    pub fn on_its_way(&self) -> Option<(DecisionId, u32, Timestamp)> {
        let run = self.runs.front()?;
        Some((run.decision, run.step, run.since?))
    }

    /// The action of the step on its way.
    pub fn action_on_its_way(&self) -> Option<&Action> {
        let run = self.runs.front()?;
        run.since?;
        run.action.as_ref()
    }

    /// Whether a list of this decision waits or is on its way.
    pub fn has(&self, decision: DecisionId) -> bool {
        self.runs.iter().any(|r| r.decision == decision)
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.runs.is_empty()
    }

    /// Takes all lists out, because of `why`: nobody knows how the step on its way ends, and the others are not tried.
    pub fn drain(&mut self, why: &str, executor: &str, now: Timestamp) -> Vec<Ended> {
        std::mem::take(&mut self.runs).into_iter().map(|run| run.abandon(why, executor, now)).collect()
    }
}
