//! P's memory: which alarms stand, which strategy answers each, when it may run (again), and what it waits for. Pure.
//!
//! An alarm opens a *case* that stays until the SLO recovers. Every matching row of the strategy table has a *task* in the case. A task plans,
//! is carried out, rests for its cooldown, and plans again while the case stands: a lost effect costs latency, never correctness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Action, Alarm, AlarmKind, DecisionId, Reading, Timestamp};
use crate::policy::{PlanPolicy, PlanRow};

/// How long a strategy waits for readings of other services.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many times one strategy may come back for more readings within one plan.
const MAX_ROUNDS: u32 = 16;

/// Which task: the SLO and the row of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId {
    /// The SLO.
    pub slo: String,
    /// The row.
    pub row: usize,
}

/// What one plan came to, to tell whether the next says anything new.
#[derive(Debug, Clone, PartialEq)]
pub struct Upshot {
    /// The verdict in short.
    pub verdict: String,
    /// The actions.
    pub actions: Vec<Action>,
}

/// A strategy that waits for readings.
#[derive(Debug, Default)]
struct Wait {
    known: BTreeMap<(String, String), Reading>,
    missing: BTreeSet<(String, String)>,
    deadline: Timestamp,
    rounds: u32,
}

/// One row at work on one alarm.
#[derive(Debug, Default)]
struct Task {
    wait: Option<Wait>,
    running: Option<DecisionId>,
    /// Nothing more to plan: an alarm of recovery is answered once.
    done: bool,
    upshot: Option<Upshot>,
    acted: Option<DecisionId>,
}

#[derive(Debug)]
struct Case {
    alarm: Alarm,
    tasks: BTreeMap<usize, Task>,
}

/// What an alarm led to.
#[derive(Debug, PartialEq)]
pub enum Taken {
    /// At least one row matches; [`Planner::next`] says when to plan.
    Case,
    /// No row matches.
    NoStrategy,
    /// The SLO has recovered; the decisions that were carried out for it.
    Closed(Vec<DecisionId>),
}

/// The planner of one service.
#[derive(Debug)]
pub struct Planner {
    policy: Arc<PlanPolicy>,
    cases: BTreeMap<String, Case>,
    rest: BTreeMap<TaskId, Timestamp>,
}

impl Planner {
    /// Builds the planner of `policy`. Standing alarms are kept; rows that are the same keep their cooldowns and what runs.
    pub fn build(policy: Arc<PlanPolicy>, before: Option<Self>) -> Self {
        let mut planner = Self { policy, cases: BTreeMap::new(), rest: BTreeMap::new() };
        let Some(before) = before else { return planner };
        let moved = |row: usize| planner.policy.rows.iter().position(|r| *r == before.policy.rows[row]);
        for (task, until) in &before.rest {
            if let Some(row) = moved(task.row) {
                planner.rest.insert(TaskId { slo: task.slo.clone(), row }, *until);
            }
        }
        let mut cases = BTreeMap::new();
        for (slo, case) in before.cases {
            let mut tasks: BTreeMap<usize, Task> = BTreeMap::new();
            for (row, task) in case.tasks {
                if let Some(row) = planner.policy.rows.iter().position(|r| *r == before.policy.rows[row]) {
                    tasks.insert(row, task);
                }
            }
            for row in planner.matching(&case.alarm) {
                tasks.entry(row).or_default();
            }
            cases.insert(slo, Case { alarm: case.alarm, tasks });
        }
        planner.cases = cases;
        planner
    }

    /// How many rows the table has.
    pub fn len(&self) -> usize {
        self.policy.rows.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.policy.rows.is_empty()
    }

    /// The rows that answer `alarm`: the first that matches, and later ones that say `also` (R3-54).
    fn matching(&self, alarm: &Alarm) -> Vec<usize> {
        let mut rows = Vec::new();
        for (number, row) in self.policy.rows.iter().enumerate() {
            let matches = row.when.includes(&alarm.slo)
                && row.on.contains(&alarm.kind)
                && row.severity.is_none_or(|least| alarm.severity >= least);
            if matches && (rows.is_empty() || row.also) {
                rows.push(number);
            }
        }
        rows
    }

    /// Whether there is a case for this SLO.
    pub fn knows(&self, slo: &str) -> bool {
        self.cases.contains_key(slo)
    }

    /// Takes an alarm.
    pub fn take(&mut self, alarm: Alarm) -> Taken {
        let rows = self.matching(&alarm);
        let before = self.cases.remove(&alarm.slo);
        if alarm.kind == AlarmKind::Recovered && rows.is_empty() {
            let acted = before.into_iter().flat_map(|c| c.tasks.into_values()).filter_map(|t| t.acted);
            return Taken::Closed(acted.collect());
        }
        if rows.is_empty() {
            return Taken::NoStrategy;
        }
        // What was done about a violation says nothing about its recovery, and the other way round.
        let same = before
            .as_ref()
            .is_some_and(|c| (c.alarm.kind == AlarmKind::Recovered) == (alarm.kind == AlarmKind::Recovered));
        let mut old = before.filter(|_| same).map(|c| c.tasks).unwrap_or_default();
        let tasks = rows.into_iter().map(|row| (row, old.remove(&row).unwrap_or_default())).collect();
        self.cases.insert(alarm.slo.clone(), Case { alarm, tasks });
        Taken::Case
    }

    /// Forgets the case of an SLO that is gone or disabled.
    pub fn forget(&mut self, slo: &str) {
        self.cases.remove(slo);
    }

    /// The next task that may plan at `now`. A strategy whose readings did not come in time plans without them.
    pub fn next(&mut self, now: Timestamp) -> Option<(TaskId, Arc<PlanRow>, Alarm)> {
        let (slo, row) = self.cases.iter().find_map(|(slo, case)| {
            case.tasks.iter().find_map(|(row, task)| {
                let rested = self.rest.get(&TaskId { slo: slo.clone(), row: *row }).is_none_or(|t| *t <= now);
                let waits = task.wait.as_ref().is_some_and(|w| !w.missing.is_empty() && now < w.deadline);
                (task.running.is_none() && !task.done && !waits && (rested || task.wait.is_some()))
                    .then(|| (slo.clone(), *row))
            })
        })?;
        let policy = self.policy.rows[row].clone();
        let alarm = self.cases.get(&slo)?.alarm.clone();
        Some((TaskId { slo, row }, policy, alarm))
    }

    /// When [`Planner::next`] will have something that it has not now.
    pub fn due(&self) -> Option<Timestamp> {
        let tasks =
            self.cases.iter().flat_map(|(slo, case)| case.tasks.iter().map(move |(row, t)| (slo, *row, t)));
        tasks
            .filter(|(_, _, task)| task.running.is_none() && !task.done)
            .filter_map(|(slo, row, task)| match &task.wait {
                Some(wait) => Some(wait.deadline),
                None => self.rest.get(&TaskId { slo: slo.clone(), row }).copied(),
            })
            .min()
    }

    fn task(&mut self, id: &TaskId) -> Option<&mut Task> {
        self.cases.get_mut(&id.slo)?.tasks.get_mut(&id.row)
    }

    /// The readings that were fetched for this plan so far.
    pub fn fetched(&mut self, id: &TaskId) -> BTreeMap<(String, String), Reading> {
        self.task(id).and_then(|t| t.wait.as_ref()).map(|w| w.known.clone()).unwrap_or_default()
    }

    /// The readings that did not come, if the strategy has run out of patience for them.
    pub fn overdue(&mut self, id: &TaskId) -> Vec<(String, String)> {
        self.task(id)
            .and_then(|t| t.wait.as_ref())
            .map(|w| w.missing.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The strategy needs these readings; `false` when it has come back too often.
    pub fn wait(&mut self, id: &TaskId, needs: &[(String, String)], now: Timestamp) -> bool {
        let Some(task) = self.task(id) else { return false };
        let wait = task.wait.get_or_insert_default();
        wait.rounds += 1;
        wait.deadline = now.after(PATIENCE);
        wait.missing = needs.iter().cloned().collect();
        wait.rounds <= MAX_ROUNDS
    }

    /// Takes a reading that a strategy waits for.
    pub fn reading(&mut self, service: &str, metric: &str, reading: &Reading) {
        let key = (service.to_string(), metric.to_string());
        for task in self.cases.values_mut().flat_map(|c| c.tasks.values_mut()) {
            if let Some(wait) = &mut task.wait
                && wait.missing.remove(&key)
            {
                wait.known.insert(key.clone(), reading.clone());
            }
        }
    }

    /// The plan of a task is made. Answers whether it says anything new since the last plan of the same case, and which decision it
    /// follows on: one that was carried out and did not help.
    pub fn planned(&mut self, id: &TaskId, upshot: Upshot, now: Timestamp) -> (bool, Option<DecisionId>) {
        let cooldown = self.policy.rows[id.row].cooldown;
        self.rest.insert(id.clone(), now.after(cooldown));
        let once = self.cases.get(&id.slo).is_some_and(|c| c.alarm.kind == AlarmKind::Recovered);
        let Some(task) = self.task(id) else { return (true, None) };
        task.wait = None;
        task.done = once;
        let new = task.upshot.as_ref() != Some(&upshot);
        task.upshot = Some(upshot);
        (new, task.acted.take())
    }

    /// The plan of a task is being carried out.
    pub fn started(&mut self, id: &TaskId, decision: DecisionId) {
        if let Some(task) = self.task(id) {
            task.running = Some(decision);
            // The same actions again, after these were carried out, are news.
            task.upshot = None;
        }
    }

    /// A plan was carried out; the cooldown counts from now.
    pub fn finished(&mut self, decision: DecisionId, now: Timestamp) {
        let rows = &self.policy.rows;
        for (slo, case) in &mut self.cases {
            for (row, task) in &mut case.tasks {
                if task.running == Some(decision) {
                    task.running = None;
                    task.acted = Some(decision);
                    self.rest.insert(TaskId { slo: slo.clone(), row: *row }, now.after(rows[*row].cooldown));
                }
            }
        }
    }
}
