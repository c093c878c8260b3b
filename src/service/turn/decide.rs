//! From alarms to decisions: which strategy, what it needs to know, what it came to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::propose::waits;
use super::{ServiceLoop, Turn};
use crate::execute;
use crate::model::plan::OnFailure;
use crate::model::{
    Action, Alarm, AlarmKind, Decision, DecisionId, Mode, OutcomeStatus, Plan, Reading, Verdict,
};
use crate::plan::strategy::{End, Known, ReferenceView, Run};
use crate::plan::{Planner, Taken, TaskId, Upshot};
use crate::policy::script::Script;
use crate::policy::{PlanRow, Strategy};
use crate::service::message::{Aside, Effect, Letter};

/// How many decisions of the past are held in memory to note whether they helped; the record holds all.
pub const OPEN_DECISIONS: usize = 64;

/// How often one strategy is run for one plan, each time with the readings that it asked for.
const MAX_RUNS: u32 = 16;

/// A strategy's result on its way to a decision.
struct Made {
    actions: Vec<Action>,
    readings: BTreeMap<String, Reading>,
    reasons: Vec<String>,
    strategy: String,
    hash: String,
}

impl ServiceLoop {
    pub(super) fn take_alarm(
        &mut self,
        alarm: Alarm,
        take: fn(&mut Planner, Alarm) -> Taken,
        turn: &mut Turn<'_>,
    ) {
        let text = format!("{} {}: {}", alarm.kind, alarm.slo, alarm.condition);
        if alarm.kind == AlarmKind::Recovered {
            self.withdraw_about(&alarm.slo, "the SLO has recovered", turn);
        }
        let Some(planner) = &mut self.planner else {
            if alarm.kind == AlarmKind::Recovered || self.foreign_planner {
                self.event("analyse", None, text, turn);
            }
            if alarm.kind == AlarmKind::Recovered {
                self.note_recovery(&alarm.slo, turn);
            } else if !self.foreign_planner {
                self.decide_nothing(alarm, Verdict::NoPlanner, turn);
            }
            return;
        };
        match take(planner, alarm.clone()) {
            Taken::Case if alarm.kind == AlarmKind::Recovered => self.note_recovery(&alarm.slo, turn),
            Taken::Case => {}
            Taken::Closed(acted) => {
                self.event("analyse", acted.first().copied(), text, turn);
                self.note_recovery(&alarm.slo, turn);
            }
            Taken::NoStrategy => {
                if alarm.kind == AlarmKind::Warning {
                    self.event("analyse", None, text, turn);
                    self.event("decide", None, "no strategy is declared for this".into(), turn);
                } else {
                    self.decide_nothing(alarm, Verdict::NoStrategy, turn);
                }
            }
        }
    }

    fn decide_nothing(&mut self, alarm: Alarm, verdict: Verdict, turn: &mut Turn<'_>) {
        let decision = self.new_decision(Some(alarm), verdict, None, turn);
        self.publish_decision(decision, turn);
    }

    /// Plans whatever task may plan now; answers whether there was one.
    pub(super) fn plan_next(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(planner) = &mut self.planner else { return false };
        let Some((task, row, alarm)) = planner.next(turn.now) else { return false };
        match &row.strategy {
            Strategy::Actions { actions, hash } => {
                let made = Made {
                    actions: actions.clone(),
                    readings: BTreeMap::new(),
                    reasons: Vec::new(),
                    strategy: "actions".into(),
                    hash: hash.to_string(),
                };
                self.made(&task, &row, alarm, Ok(made), turn);
            }
            Strategy::Script(script) => self.run_strategy(&task, &row, script, alarm, turn),
        }
        true
    }

    fn run_strategy(
        &mut self,
        task: &TaskId,
        row: &PlanRow,
        script: &Arc<Script>,
        alarm: Alarm,
        turn: &mut Turn<'_>,
    ) {
        let mut known = self.known(task, script, turn);
        if let Some(time) = row.slow {
            self.run_aside(task, script, alarm, known, time, turn);
            return;
        }
        for _ in 0..MAX_RUNS {
            let limits = (turn.limits)();
            let shared = Arc::new(known);
            let run = turn.host.run(script, &alarm, shared.clone(), limits);
            if let Some(progress) = run.cut {
                (turn.cut)(progress);
            }
            let Some(needs) = self.conclude(task, row, script, &alarm, run, turn) else { return };
            known = Arc::unwrap_or_clone(shared);
            let elsewhere = self.provide(&mut known, needs, turn);
            if !elsewhere.is_empty() {
                self.fetch(task, row, script, alarm, elsewhere, turn);
                return;
            }
        }
        self.never_content(task, row, script, alarm, turn);
    }

    /// Has a script that is declared slow run outside the shard; what came of it arrives as a letter, and is recorded like any.
    fn run_aside(
        &mut self,
        task: &TaskId,
        script: &Arc<Script>,
        alarm: Alarm,
        mut known: Known,
        time: Duration,
        turn: &mut Turn<'_>,
    ) {
        if let Some(monitor) = &mut self.monitor {
            for info in monitor.list(turn.now) {
                known.readings.insert((known.service.clone(), info.name), info.reading);
            }
        }
        let token = self.next_token;
        self.next_token += 1;
        if let Some(planner) = &mut self.planner {
            planner.gone_aside(task, token, alarm.clone());
        }
        let (service, script) = (self.name.clone(), script.clone());
        let aside = Aside { service, token, script, alarm, known: Arc::new(known), time };
        turn.effects.push(Effect::RunAside(Box::new(aside)));
    }

    /// A run aside has ended.
    pub(super) fn ran_aside(&mut self, token: u64, run: Run, turn: &mut Turn<'_>) {
        let Some((task, row, alarm)) = self.planner.as_mut().and_then(|p| p.back(token)) else { return };
        let Strategy::Script(script) = &row.strategy else { return };
        if let Some(needs) = self.conclude(&task, &row, script, &alarm, run, turn) {
            self.fetch(&task, &row, script, alarm, needs, turn);
        }
    }

    /// What a run came to becomes a decision; answers with what it needs if it has not come to anything yet.
    fn conclude(
        &mut self,
        task: &TaskId,
        row: &PlanRow,
        script: &Script,
        alarm: &Alarm,
        run: Run,
        turn: &mut Turn<'_>,
    ) -> Option<Vec<(String, String)>> {
        turn.tally.strategies += 1;
        for line in &run.log {
            self.event("decide", None, format!("{}: {line}", script.name), turn);
        }
        let made = |actions| Made {
            actions,
            readings: run.reads,
            reasons: run.reasons,
            strategy: script.name.to_string(),
            hash: script.hash.to_string(),
        };
        let result = match run.end {
            End::Needs(needs) => return Some(needs),
            End::Actions(actions) => Ok(made(actions)),
            End::Failed(error) => {
                turn.tally.failed += 1;
                Err((error.to_string(), made(Vec::new())))
            }
        };
        self.made(task, row, alarm.clone(), result, turn);
        None
    }

    /// The strategy wants to know ever more.
    fn never_content(
        &mut self,
        task: &TaskId,
        row: &PlanRow,
        script: &Script,
        alarm: Alarm,
        turn: &mut Turn<'_>,
    ) {
        let made = Made {
            actions: Vec::new(),
            readings: BTreeMap::new(),
            reasons: Vec::new(),
            strategy: script.name.to_string(),
            hash: script.hash.to_string(),
        };
        turn.tally.failed += 1;
        let error = format!("the strategy asked for more readings {MAX_RUNS} times in a row");
        self.made(task, row, alarm, Err((error, made)), turn);
    }

    /// What the strategy may know without asking anybody.
    fn known(&mut self, task: &TaskId, script: &Script, turn: &mut Turn<'_>) -> Known {
        let mut readings = self.planner.as_mut().map(|p| p.fetched(task)).unwrap_or_default();
        for (service, metric) in script.literal_readings() {
            if service.is_none() {
                let reading = self.read(metric, turn.now);
                readings.entry((self.name.to_string(), metric.clone())).or_insert(reading);
            }
        }
        let references = self
            .policy
            .references
            .iter()
            .map(|(name, reference)| {
                let view = ReferenceView {
                    bound: self.bindings.get(name).and_then(|b| b.as_deref()).map(str::to_string),
                    candidates: reference.candidates.iter().map(ToString::to_string).collect(),
                };
                (name.to_string(), view)
            })
            .collect();
        let slos = self.analyzer.as_ref().map(|a| {
            a.names().filter_map(|n| Some((n.to_string(), a.state(n)?))).collect::<BTreeMap<_, _>>()
        });
        let families = self.monitor.as_ref().map(|m| {
            m.families()
                .map(|(name, f)| (name.to_string(), f.iter().map(|(l, v)| (l.to_string(), *v)).collect()))
                .collect()
        });
        Known {
            service: self.name.to_string(),
            now: turn.now,
            references,
            readings,
            families: families.unwrap_or_default(),
            slos: slos.unwrap_or_default(),
            knowledge: self.knowledge.clone(),
        }
    }

    /// Fills in the readings of this service; answers with those of others.
    fn provide(
        &mut self,
        known: &mut Known,
        needs: Vec<(String, String)>,
        turn: &mut Turn<'_>,
    ) -> Vec<(String, String)> {
        let (own, elsewhere): (Vec<_>, Vec<_>) = needs.into_iter().partition(|(s, _)| *s == *self.name);
        // Where one reading of its own was not named by a literal, there may be more.
        if !own.is_empty()
            && let Some(monitor) = &mut self.monitor
        {
            for info in monitor.list(turn.now) {
                known.readings.insert((known.service.clone(), info.name), info.reading);
            }
        }
        for (service, metric) in own {
            let reading = self.read(&metric, turn.now);
            known.readings.insert((service, metric), reading);
        }
        elsewhere
    }

    fn fetch(
        &mut self,
        task: &TaskId,
        row: &PlanRow,
        script: &Script,
        alarm: Alarm,
        needs: Vec<(String, String)>,
        turn: &mut Turn<'_>,
    ) {
        let goes_on = self.planner.as_mut().is_some_and(|p| p.wait(task, &needs, turn.now));
        if !goes_on {
            self.never_content(task, row, script, alarm, turn);
            return;
        }
        for (service, metric) in needs {
            turn.tally.asks += 1;
            let letter = Letter::Ask {
                from: self.name.clone(),
                token: 0,
                metric: metric.as_str().into(),
                max_age: None,
            };
            turn.mail.push((service.as_str().into(), letter));
        }
    }

    /// A strategy has come to a result: that becomes a decision, unless it says what the last one of the same case said.
    fn made(
        &mut self,
        task: &TaskId,
        row: &PlanRow,
        alarm: Alarm,
        made: Result<Made, (String, Made)>,
        turn: &mut Turn<'_>,
    ) {
        let (verdict, made) = match made {
            Err((error, made)) => (Verdict::StrategyFailed(error), made),
            Ok(made) if made.actions.is_empty() => (Verdict::Nothing, made),
            Ok(made) => match row.mode {
                Mode::Act if self.policy.execute.is_none() => (Verdict::NoExecutor, made),
                Mode::Act => (Verdict::Planned, made),
                _ => (Verdict::Proposed, made),
            },
        };
        let upshot = Upshot { verdict: format!("{verdict:?}"), actions: made.actions.clone() };
        let Some(planner) = &mut self.planner else { return };
        let (new, did_not_help) = planner.planned(task, upshot, turn.now);
        if let Some(earlier) = did_not_help {
            self.note_helped(earlier, false, turn);
        }
        if let Some(planner) = self.planner.as_mut().filter(|_| !new || verdict != Verdict::Planned) {
            planner.settled(task);
        }
        if !new {
            return;
        }
        let actions = made.actions.clone();
        let plan = Plan {
            strategy: made.strategy,
            hash: made.hash,
            mode: row.mode,
            actions: made.actions,
            readings: made.readings,
            reasons: made.reasons,
            on_failure: row.on_failure,
        };
        let mut decision = self.new_decision(Some(alarm), verdict.clone(), Some(plan), turn);
        if row.mode == Mode::Approve {
            self.supersede(&decision, turn);
            decision.expires = (verdict == Verdict::Proposed).then(|| turn.now.after(row.expires));
        }
        let id = decision.id;
        self.publish_decision(decision, turn);
        if verdict == Verdict::Planned {
            if let Some(planner) = &mut self.planner {
                planner.started(task, id);
            }
            self.ledger.enqueue(execute::Run::new(id, actions, row.on_failure, None));
        }
    }

    pub(super) fn new_decision(
        &mut self,
        alarm: Option<Alarm>,
        verdict: Verdict,
        plan: Option<Plan>,
        turn: &mut Turn<'_>,
    ) -> Decision {
        self.decisions += 1;
        Decision {
            id: DecisionId(self.decisions),
            service: self.name.to_string(),
            at: turn.now,
            alarm,
            verdict,
            plan,
            outcomes: Vec::new(),
            helped: None,
            expires: None,
        }
    }

    /// Tells of a new decision: the record, and the event log with its tags collect, analyse, decide (R3-15).
    pub(super) fn publish_decision(&mut self, decision: Decision, turn: &mut Turn<'_>) {
        let id = decision.id;
        if let Some(alarm) = &decision.alarm {
            let values: Vec<String> = alarm.values.iter().map(|(name, r)| describe(name, r)).collect();
            self.event("collect", Some(id), values.join(", "), turn);
            let text = format!("{} {}: {}", alarm.kind, alarm.slo, alarm.condition);
            self.event("analyse", Some(id), text, turn);
        }
        self.event("decide", Some(id), verdict_text(&decision), turn);
        turn.effects.push(Effect::Decision(Box::new(decision.clone())));
        self.waits |= waits(&decision);
        self.open.insert(id, decision);
        if self.open.len() > OPEN_DECISIONS {
            // What is still being carried out must be there when its outcomes come.
            let over = |d: &&Decision| d.id != id && !self.ledger.has(d.id) && !waits(d);
            let oldest = self.open.values().find(over).map(|d| d.id);
            oldest.and_then(|id| self.open.remove(&id));
        }
    }

    fn note_recovery(&mut self, slo: &str, turn: &mut Turn<'_>) {
        let waiting: Vec<DecisionId> = self
            .open
            .values()
            .filter(|d| d.helped.is_none() && d.outcomes.iter().any(|o| o.status == OutcomeStatus::Done))
            .filter(|d| d.alarm.as_ref().is_some_and(|a| a.slo == slo))
            .map(|d| d.id)
            .collect();
        for id in waiting {
            self.note_helped(id, true, turn);
        }
    }

    fn note_helped(&mut self, id: DecisionId, helped: bool, turn: &mut Turn<'_>) {
        if let Some(decision) = self.open.get_mut(&id)
            && decision.helped.is_none()
        {
            decision.helped = Some(helped);
            turn.effects.push(Effect::Decision(Box::new(decision.clone())));
        }
    }

    /// Carries out a list that somebody outside sent.
    pub(super) fn run_by_hand(&mut self, actions: Vec<Action>, caller: u64, turn: &mut Turn<'_>) {
        let plan = Plan {
            strategy: "by hand".into(),
            hash: String::new(),
            mode: Mode::Act,
            actions: actions.clone(),
            readings: BTreeMap::new(),
            reasons: Vec::new(),
            on_failure: OnFailure::Stop,
        };
        let decision = self.new_decision(None, Verdict::Planned, Some(plan), turn);
        let id = decision.id;
        self.publish_decision(decision, turn);
        self.ledger.enqueue(execute::Run::new(id, actions, OnFailure::Stop, Some(caller)));
    }
}

fn describe(name: &str, reading: &Reading) -> String {
    match reading {
        Reading::Fresh { value, .. } => format!("{name} = {value}"),
        Reading::Stale { value, .. } => format!("{name} = {value} (stale)"),
        Reading::Missing { reason } => format!("{name} is missing: {reason}"),
    }
}

fn verdict_text(decision: &Decision) -> String {
    let list = || {
        let actions = decision.plan.iter().flat_map(|p| &p.actions);
        actions.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let strategy = decision.plan.as_ref().map_or("", |p| p.strategy.as_str());
    match &decision.verdict {
        Verdict::Planned => format!("{strategy}: {}", list()),
        Verdict::Proposed => format!("{strategy} proposes: {}", list()),
        Verdict::Withdrawn(why) => format!("{strategy} proposed: {}; withdrawn: {why}", list()),
        Verdict::Nothing => format!("{strategy} sees nothing to do"),
        Verdict::NoPlanner => "no planner is attached".into(),
        Verdict::NoStrategy => "no strategy is declared for this".into(),
        Verdict::StrategyFailed(error) => format!("{strategy} failed: {error}"),
        Verdict::Held(why) => why.clone(),
        Verdict::NoExecutor => format!("{strategy}: {}; no executor is attached", list()),
    }
}
