//! From actions to outcomes: routing along references, built-in actions, effectors, undo.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{ServiceLoop, Turn};
use crate::execute::Next;
use crate::model::calls::Port;
use crate::model::ports::PortError;
use crate::model::process::ProcessOrder;
use crate::model::{Action, Alarm, AlarmKind, DecisionId, Outcome, OutcomeStatus, Severity, Timestamp};
use crate::plan::Planner;
use crate::service::message::{Effect, Lasting, Letter, Perform, Response};

/// How long a step may be on its way before it counts as failed. Effectors have timeouts of their own; this is for services that vanish.
const STEP_PATIENCE: Duration = Duration::from_secs(120);

/// What the keys of the knowledge begin with that say how actions tuned a sensor: `tune.SENSOR.PARAMETER`.
const TUNED: &str = "tune.";

/// How a step ended here: what to say, and what takes it back.
type Ended = Result<(String, Option<Action>), Refusal>;

/// A reference, and the service that it is to lead to.
type Rebinding = (Arc<str>, Arc<str>);

/// Why a step is not tried.
type Refusal = (OutcomeStatus, String);

fn refused(why: impl Into<String>) -> Refusal {
    (OutcomeStatus::Refused, why.into())
}

impl ServiceLoop {
    /// Takes the next step of the lists that wait; answers whether there was one.
    pub(super) fn act_next(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.ledger.next(turn.now) {
            None => false,
            Some(Next::Step { decision, step, action }) => {
                self.dispatch(decision, step, action, turn);
                true
            }
            Some(Next::Finished { decision, caller, outcomes }) => {
                count(&outcomes, turn);
                if let Some(planner) = &mut self.planner {
                    planner.finished(decision, all_done(&outcomes), turn.now);
                }
                if let Some(token) = caller {
                    turn.effects.push(Effect::Reply(token, Response::Outcomes(outcomes)));
                }
                true
            }
        }
    }

    fn dispatch(&mut self, decision: DecisionId, step: u32, action: Action, turn: &mut Turn<'_>) {
        let target = self.target_of(&action);
        if target == self.name {
            self.step(self.name.clone(), decision, step, action, turn);
        } else if self.routes_to(&target) {
            let letter = Letter::Step { from: self.name.clone(), decision, step, action };
            turn.mail.push((target, letter));
        } else {
            let detail = format!("`{}` has no reference that leads to `{target}`", self.name);
            let outcome = self.outcome(action, OutcomeStatus::NoRoute, detail, turn);
            self.step_ended(decision, step, outcome, None, turn);
        }
    }

    fn outcome(&self, action: Action, status: OutcomeStatus, detail: String, turn: &Turn<'_>) -> Outcome {
        Outcome { action, status, executor: self.name.to_string(), detail, at: turn.now }
    }

    /// A step for the executor of this service.
    pub(super) fn step(
        &mut self,
        from: Arc<str>,
        decision: DecisionId,
        step: u32,
        action: Action,
        turn: &mut Turn<'_>,
    ) {
        match self.effectors_for(&action) {
            Err((status, detail)) => self.end_step(from, decision, step, action, Err((status, detail)), turn),
            Ok(effectors)
                if effectors.is_empty()
                    && self.moves(&action).is_empty()
                    && self.on_process(&action).is_none()
                    && self.policy.managing(action.name()).is_none() =>
            {
                let ended = self.built_in(&action, turn);
                self.end_step(from, decision, step, action, ended, turn);
            }
            Ok(effectors) => {
                let key = format!("{from}/{decision}/{step}");
                let moves = self.moves(&action);
                let process = effectors.is_empty().then(|| self.on_process(&action)).flatten();
                let (starts, stops) = self.programs(&moves);
                let managed = effectors.is_empty() && self.policy.managing(action.name()).is_some();
                let perform = Perform {
                    starts,
                    stops,
                    service: self.name.clone(),
                    key,
                    origin: from,
                    decision,
                    step,
                    action,
                    effectors,
                    moves,
                    process,
                    managed,
                };
                self.performing.insert(perform.key.clone(), perform.clone());
                turn.effects.push(Effect::Perform(Box::new(perform)));
            }
        }
    }

    /// The effectors that carry out an action; none for one that changes only what homeostat itself keeps.
    fn effectors_for(
        &self,
        action: &Action,
    ) -> Result<Vec<Arc<crate::model::connector::EffectorSpec>>, Refusal> {
        let Some(executor) = &self.policy.execute else {
            return Err(refused(format!("no executor is attached to `{}`", self.name)));
        };
        if let Some(effector) = executor.effectors.get(action.name()) {
            self.allowed(action)?;
            return Ok(vec![effector.clone()]);
        }
        if matches!(action, Action::Restart { .. })
            && let (Some(stop), Some(start)) =
                (executor.effectors.get("stop"), executor.effectors.get("start"))
        {
            return Ok(vec![stop.clone(), start.clone()]);
        }
        let built_in = matches!(
            action,
            Action::Bind { .. }
                | Action::Unbind { .. }
                | Action::Replace { .. }
                | Action::EnableSlo { .. }
                | Action::DisableSlo { .. }
                | Action::Tune { .. }
                | Action::Raise { .. }
                | Action::Publish { .. }
                | Action::Notify { .. }
                | Action::Remember { .. }
        );
        if built_in || self.on_process(action).is_some() {
            return Ok(Vec::new());
        }
        if let Some(spec) = self.policy.managing(action.name()) {
            // What cannot be is not tried.
            let why = spec.refuses(action);
            return why.map_or(Ok(Vec::new()), |why| Err(refused(format!("`{}`: {why}", self.name))));
        }
        let declared: Vec<&str> = executor.effectors.keys().map(|k| &**k).collect();
        Err(refused(format!(
            "`{}` does not declare the action `{}` under execute (declared: {})",
            self.name,
            action.name(),
            if declared.is_empty() { "none".to_string() } else { declared.join(", ") }
        )))
    }

    /// What an action asks of the process of the service, when homeostat runs one.
    fn on_process(&self, action: &Action) -> Option<ProcessOrder> {
        self.policy.process.as_ref()?;
        match action {
            Action::Start { .. } => Some(ProcessOrder::Start),
            Action::Stop { .. } => Some(ProcessOrder::Stop),
            Action::Restart { .. } => Some(ProcessOrder::Restart),
            _ => None,
        }
    }

    /// Whether a change of bindings is one that the policy allows, before any effector is told of it.
    fn allowed(&self, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::Bind { reference, to, .. } => self.candidate(reference, to).map(|_| ()),
            Action::Unbind { reference, .. } => self.reference(reference).map(|_| ()),
            Action::Replace { from, to, .. } => self.replaceable(from, to).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// The references with a local port that an action lets lead elsewhere; none for an action that is not allowed.
    fn moves(&self, action: &Action) -> Vec<(Arc<str>, Option<Arc<str>>)> {
        let rebindings: Vec<(Arc<str>, Option<Arc<str>>)> = match action {
            Action::Bind { reference, to, .. } => {
                match (self.reference(reference), self.candidate(reference, to)) {
                    (Ok(reference), Ok(to)) => vec![(reference, Some(to))],
                    _ => Vec::new(),
                }
            }
            Action::Unbind { reference, .. } => {
                self.reference(reference).map(|r| (r, None)).into_iter().collect()
            }
            Action::Replace { from, to, .. } => {
                let all = self.replaceable(from, to).unwrap_or_default();
                all.into_iter().map(|(reference, to)| (reference, Some(to))).collect()
            }
            _ => Vec::new(),
        };
        let has_port = |name: &Arc<str>| self.policy.references.get(name).is_some_and(|r| r.listen.is_some());
        rebindings.into_iter().filter(|(name, _)| has_port(name)).collect()
    }

    /// Whose programs are to be started before references lead elsewhere, and whose are to be stopped after that: what a reference says in
    /// `replace`, unless another reference of this service leads there.
    fn programs(&self, moves: &[(Arc<str>, Option<Arc<str>>)]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let sharing = |reference: &Arc<str>, to: &Option<Arc<str>>| -> Vec<Arc<str>> {
            let calls = self.policy.references.get(reference).map(|r| &r.calls);
            let shares = calls.zip(to.as_ref()).map(|(calls, to)| calls.sharing(to)).unwrap_or_default();
            shares.into_iter().map(|(name, _)| name).collect()
        };
        let moved = |reference: &Arc<str>| moves.iter().find(|(name, _)| name == reference).map(|(_, to)| to);
        let after = |(reference, now): (&Arc<str>, &Option<Arc<str>>)| {
            sharing(reference, moved(reference).unwrap_or(now))
        };
        let used: Vec<Arc<str>> = self.bindings.iter().flat_map(after).collect();
        let (mut starts, mut stops) = (Vec::new(), Vec::new());
        for (reference, to) in moves {
            let Some(policy) = self.policy.references.get(reference) else { continue };
            if policy.calls.replace.start {
                starts.extend(
                    sharing(reference, to)
                        .into_iter()
                        .filter(|name| !starts.contains(name))
                        .collect::<Vec<_>>(),
                );
            }
            let before = self.bindings.get(reference).cloned().flatten();
            if policy.calls.replace.stop {
                let left = sharing(reference, &before).into_iter();
                stops.extend(
                    left.filter(|name| !used.contains(name) && !stops.contains(name)).collect::<Vec<_>>(),
                );
            }
        }
        (starts, stops)
    }

    /// Lets the local ports of references lead to what those are bound to.
    pub(super) fn show_ports(&self, turn: &mut Turn<'_>) {
        let ports = self.policy.references.iter().filter_map(|(name, reference)| {
            let to = self.bindings.get(name).cloned().flatten();
            let policy = reference.calls.clone();
            Some(Port { reference: name.clone(), listen: reference.listen?, to, policy })
        });
        turn.effects.push(Effect::Ports(self.name.clone(), ports.collect()));
    }

    fn reference(&self, name: &str) -> Result<Arc<str>, Refusal> {
        match self.bindings.get_key_value(name) {
            Some((name, _)) => Ok(name.clone()),
            None => {
                let known: Vec<&str> = self.bindings.keys().map(|k| &**k).collect();
                Err(refused(format!(
                    "`{}` has no reference `{name}` (it has: {})",
                    self.name,
                    if known.is_empty() { "none".to_string() } else { known.join(", ") }
                )))
            }
        }
    }

    /// The candidate `to` of a reference: bindings go to declared candidates only, so that no binding can close a cycle of metrics.
    fn candidate(&self, reference: &str, to: &str) -> Result<Arc<str>, Refusal> {
        let name = self.reference(reference)?;
        let candidates =
            self.policy.references.get(&name).map(|r| r.candidates.as_slice()).unwrap_or_default();
        candidates.iter().find(|c| &***c == to).cloned().ok_or_else(|| {
            let list: Vec<&str> = candidates.iter().map(|c| &**c).collect();
            refused(format!(
                "`{to}` is no candidate of reference `{reference}` (candidates: {})",
                list.join(", ")
            ))
        })
    }

    /// Every reference bound to `from`; an error if one of them may not be bound to `to`, or there is none.
    fn replaceable(&self, from: &str, to: &str) -> Result<Vec<Rebinding>, Refusal> {
        let bound: Vec<Arc<str>> = self
            .bindings
            .iter()
            .filter(|(_, b)| b.as_deref() == Some(from))
            .map(|(reference, _)| reference.clone())
            .collect();
        if bound.is_empty() {
            return Err(refused(format!("no reference of `{}` is bound to `{from}`", self.name)));
        }
        bound.into_iter().map(|r| self.candidate(&r, to).map(|to| (r, to))).collect()
    }

    fn built_in(&mut self, action: &Action, turn: &mut Turn<'_>) -> Ended {
        match action {
            Action::Bind { reference, to, .. } => {
                let to = self.candidate(reference, to)?;
                let reference = self.reference(reference)?;
                let before = self.bindings.get(&reference).cloned().flatten();
                self.rebind(&[(reference.clone(), Some(to))], turn);
                Ok((String::new(), Some(self.binding_action(&reference, before.as_deref()))))
            }
            Action::Unbind { reference, .. } => {
                let reference = self.reference(reference)?;
                let before = self.bindings.get(&reference).cloned().flatten();
                self.rebind(&[(reference.clone(), None)], turn);
                let inverse = before.map(|b| self.binding_action(&reference, Some(&b)));
                Ok((String::new(), inverse))
            }
            Action::Replace { from, to, .. } => {
                let changes = self.replaceable(from, to)?;
                let names: Vec<&str> = changes.iter().map(|(r, _)| &**r).collect();
                let detail = format!("rebound {}", names.join(", "));
                let changes: Vec<_> = changes.into_iter().map(|(r, t)| (r, Some(t))).collect();
                self.rebind(&changes, turn);
                let inverse = Action::Replace {
                    service: Some(self.name.to_string()),
                    from: to.clone(),
                    to: from.clone(),
                };
                Ok((detail, Some(inverse)))
            }
            Action::EnableSlo { slo, .. } => self.switch_slo(slo, true, turn),
            Action::DisableSlo { slo, .. } => self.switch_slo(slo, false, turn),
            Action::Tune { sensor, parameter, value, .. } => self.tune(sensor, parameter, value, turn),
            Action::Raise { slo, kind, .. } => {
                let alarm = Alarm {
                    service: self.name.to_string(),
                    slo: slo.clone(),
                    kind: kind.unwrap_or(AlarmKind::Violation),
                    severity: Severity::default(),
                    condition: "raised by an action".into(),
                    values: BTreeMap::new(),
                    at: turn.now,
                };
                self.spread_alarm(alarm, Planner::raise, turn);
                Ok((String::new(), None))
            }
            Action::Publish { metric, value, .. } => {
                let Some(monitor) = &mut self.monitor else {
                    return Err(refused(format!("no monitor is attached to `{}`", self.name)));
                };
                let known = monitor.named(metric).is_some();
                monitor
                    .publish(metric, *value, turn.now, turn.metric_id, &mut self.changed)
                    .map_err(refused)?;
                if !known {
                    self.wire_analyzer();
                    self.reweigh(turn);
                    self.dirty_all();
                }
                Ok((String::new(), None))
            }
            Action::Notify { text, .. } => {
                self.event("act", None, format!("notice: {text}"), turn);
                Ok(("written to the event log".into(), None))
            }
            Action::Remember { key, value, .. } => {
                self.learn(key, Some(value.clone()), turn);
                Ok((String::new(), None))
            }
            other => Err(refused(format!("`{}` is not declared", other.name()))),
        }
    }

    fn binding_action(&self, reference: &str, to: Option<&str>) -> Action {
        let service = Some(self.name.to_string());
        match to {
            Some(to) => Action::Bind { service, reference: reference.to_string(), to: to.to_string() },
            None => Action::Unbind { service, reference: reference.to_string() },
        }
    }

    /// Lets a binding outlive the daemon, with what the policy declared when it was made.
    pub(super) fn remember_binding(&self, reference: &str, to: Option<&str>, turn: &mut Turn<'_>) {
        let declared = self.policy.references.get(reference).and_then(|r| r.service.as_deref());
        let what = Lasting::Binding {
            reference: reference.to_string(),
            to: to.map(str::to_string),
            declared: declared.map(str::to_string),
        };
        self.remember(what, turn);
    }

    /// Changes bindings in one step; the monitor's references follow.
    fn rebind(&mut self, changes: &[(Arc<str>, Option<Arc<str>>)], turn: &mut Turn<'_>) {
        let mut rebound = Vec::new();
        for (reference, to) in changes {
            if self.bindings.insert(reference.clone(), to.clone()).as_ref() != Some(to) {
                rebound.push(reference.clone());
                self.remember_binding(reference, to.as_deref(), turn);
            }
        }
        self.forget_remotes(&rebound, turn);
        if self.policy.references.values().any(|r| r.listen.is_some()) {
            self.show_ports(turn);
        }
        self.reweigh(turn);
    }

    pub(super) fn switch_slo(&mut self, slo: &str, on: bool, turn: &mut Turn<'_>) -> Ended {
        let Some(analyzer) = &mut self.analyzer else {
            return Err(refused(format!("no analyzer is attached to `{}`", self.name)));
        };
        let Some(number) = analyzer.find(slo) else {
            return Err(refused(format!("`{}` has no SLO `{slo}`", self.name)));
        };
        let changed = analyzer.enable(number, on);
        self.enabled.insert(slo.to_string(), on);
        self.remember(Lasting::Slo(slo.to_string(), on), turn);
        if !changed {
            return Ok((format!("it was {} already", if on { "enabled" } else { "disabled" }), None));
        }
        if on {
            self.dirty.push(number as u16);
        } else {
            if let Some(planner) = &mut self.planner {
                planner.forget(slo);
            }
            self.withdraw_about(slo, "the SLO was disabled", turn);
        }
        self.reweigh(turn);
        let (service, slo) = (Some(self.name.to_string()), slo.to_string());
        let inverse =
            if on { Action::DisableSlo { service, slo } } else { Action::EnableSlo { service, slo } };
        Ok((String::new(), Some(inverse)))
    }

    /// Changes a parameter of a `collect` sensor; collectors learn it as they learn everything.
    fn tune(&mut self, sensor: &str, parameter: &str, value: &str, turn: &mut Turn<'_>) -> Ended {
        let Some(monitor) = &mut self.monitor else {
            return Err(refused(format!("no monitor is attached to `{}`", self.name)));
        };
        let before = monitor.tune(sensor, parameter, value).map_err(refused)?;
        self.learn(&format!("{TUNED}{sensor}.{parameter}"), Some(value.into()), turn);
        self.reweigh(turn);
        let inverse = before.map(|before| Action::Tune {
            service: Some(self.name.to_string()),
            sensor: sensor.to_string(),
            parameter: parameter.to_string(),
            value: before,
        });
        Ok((String::new(), inverse))
    }

    /// What actions changed of sensors holds for a monitor that was built anew as well.
    pub(super) fn tune_again(&mut self) {
        let Some(monitor) = &mut self.monitor else { return };
        for (key, value) in &self.knowledge {
            let tuned = key.strip_prefix(TUNED).and_then(|rest| rest.split_once('.'));
            if let (Some((sensor, parameter)), Some(value)) = (tuned, value.as_str()) {
                // A sensor that the policy has no more is not tuned.
                let _ = monitor.tune(sensor, parameter, value);
            }
        }
    }

    pub(super) fn learn(&mut self, key: &str, value: Option<serde_json::Value>, turn: &mut Turn<'_>) {
        match &value {
            Some(value) => self.knowledge.insert(key.to_string(), value.clone()),
            None => self.knowledge.remove(key),
        };
        self.remember(Lasting::Knowledge(key.to_string(), value), turn);
    }

    /// An effector has answered.
    pub(super) fn performed(&mut self, key: &str, result: Result<String, String>, turn: &mut Turn<'_>) {
        let Some(perform) = self.performing.remove(key) else {
            // It was given up, and has moved calls since, perhaps: they go where the bindings say.
            self.show_ports(turn);
            return;
        };
        let ended = match result {
            Err(error) => Err((OutcomeStatus::Failed, error)),
            Ok(said) => match self.after_effector(&perform.action, turn) {
                Ok((_, inverse)) => Ok((said, inverse)),
                Err(e) => Err(e),
            },
        };
        if ended.is_err() && !perform.moves.is_empty() {
            // The binding stays what it was, and so do the ports.
            self.show_ports(turn);
        }
        self.end_step(perform.origin, perform.decision, perform.step, perform.action, ended, turn);
    }

    /// What homeostat itself keeps changes once the effector has done its part.
    fn after_effector(&mut self, action: &Action, turn: &mut Turn<'_>) -> Ended {
        let service = Some(self.name.to_string());
        match action {
            Action::Notify { .. } => Ok((String::new(), None)),
            Action::Start { .. } => Ok((String::new(), Some(Action::Stop { service }))),
            Action::Stop { .. } => Ok((String::new(), Some(Action::Start { service }))),
            Action::Set { .. } | Action::Restart { .. } | Action::Invoke { .. } | Action::Custom { .. } => {
                Ok((String::new(), None))
            }
            _ => self.built_in(action, turn),
        }
    }

    fn end_step(
        &mut self,
        origin: Arc<str>,
        decision: DecisionId,
        step: u32,
        action: Action,
        ended: Ended,
        turn: &mut Turn<'_>,
    ) {
        let (status, detail, inverse) = match ended {
            Ok((detail, inverse)) => (OutcomeStatus::Done, detail, inverse),
            Err((status, detail)) => (status, detail, None),
        };
        let outcome = self.outcome(action, status, detail, turn);
        if origin == self.name {
            self.step_ended(decision, step, outcome, inverse, turn);
        } else {
            turn.mail.push((origin, Letter::StepEnded { decision, step, outcome, inverse }));
        }
    }

    /// A step of a decision of this service has ended, here or elsewhere.
    pub(super) fn step_ended(
        &mut self,
        decision: DecisionId,
        step: u32,
        outcome: Outcome,
        inverse: Option<Action>,
        turn: &mut Turn<'_>,
    ) {
        let name = self.name.clone();
        let text = format!(
            "{} by {}: {}{}",
            outcome.action,
            outcome.executor,
            status_text(&outcome.status),
            if outcome.detail.is_empty() { String::new() } else { format!(" ({})", outcome.detail) }
        );
        let Some(outcomes) = self.ledger.ended(decision, step, outcome, inverse, &name) else { return };
        let outcomes = outcomes.to_vec();
        if let Some(record) = self.open.get_mut(&decision) {
            record.outcomes = outcomes;
            turn.effects.push(Effect::Decision(Box::new(record.clone())));
        }
        self.event("act", Some(decision), text, turn);
    }

    /// Ends every list on its way: its executor goes away.
    pub(super) fn end_runs(&mut self, why: &PortError, turn: &mut Turn<'_>) {
        let name = self.name.clone();
        for ended in self.ledger.drain(&why.to_string(), &name, turn.now) {
            count(&ended.outcomes, turn);
            if let Some(planner) = &mut self.planner {
                planner.finished(ended.decision, false, turn.now);
            }
            if let Some(record) = self.open.get_mut(&ended.decision) {
                record.outcomes = ended.outcomes;
                turn.effects.push(Effect::Decision(Box::new(record.clone())));
            }
            if let Some(token) = ended.caller {
                turn.effects.push(Effect::Reply(token, Response::Error(why.clone())));
            }
        }
    }

    pub(super) fn tick_ledger(&mut self, turn: &mut Turn<'_>) {
        if let Some((decision, step, since)) = self.ledger.on_its_way()
            && turn.now >= since.after(STEP_PATIENCE)
            && let Some(action) = self.ledger.action_on_its_way().cloned()
        {
            self.performing.remove(&format!("{}/{decision}/{step}", self.name));
            let detail = format!("no word of its end after {}", crate::model::HumanDuration(STEP_PATIENCE));
            let outcome = self.outcome(action, OutcomeStatus::Failed, detail, turn);
            self.step_ended(decision, step, outcome, None, turn);
        }
    }

    pub(super) fn ledger_due(&self) -> Option<Timestamp> {
        self.ledger.on_its_way().map(|(_, _, since)| since.after(STEP_PATIENCE))
    }
}

fn all_done(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| outcome.status == OutcomeStatus::Done)
}

fn count(outcomes: &[Outcome], turn: &mut Turn<'_>) {
    for outcome in outcomes {
        *turn.tally.outcomes.entry(status_text(&outcome.status)).or_default() += 1;
    }
}

fn status_text(status: &OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Done => "done",
        OutcomeStatus::NoRoute => "no_route",
        OutcomeStatus::Refused => "refused",
        OutcomeStatus::Failed => "failed",
        OutcomeStatus::Skipped => "skipped",
        OutcomeStatus::Undone => "undone",
        OutcomeStatus::Interrupted => "interrupted",
    }
}
