//! P's memory: which alarms stand, which strategy answers each, when it may run (again), and what it waits for. Pure.
//!
//! An alarm opens a *case* that stays until the SLO recovers. Every matching row of the strategy table has a *task* in the case. A task plans,
//! is carried out, rests for its cooldown, and plans again while the case stands: a lost effect costs latency, never correctness.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{
    Action, Alarm, AlarmKind, DecisionId, HumanDuration, MissingReason, Mode, Plan, Reading, Timestamp,
};
use crate::policy::{PlanPolicy, PlanRow, Strategy};

/// How long a strategy waits for readings of other services.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest rest between two plans, whatever the cooldown: a row never plans twice in one turn.
const LEAST_REST: Duration = Duration::from_millis(100);

/// How many alarms a `once` row keeps that it could not answer with success.
const MOST_OWED: usize = 1_000;

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
    /// The run of its strategy that is under way aside, and the alarm that it answers.
    aside: Option<(u64, Alarm)>,
    /// Nothing more to plan: an alarm of recovery is answered once.
    done: bool,
    upshot: Option<Upshot>,
    acted: Option<DecisionId>,
}

#[derive(Debug)]
struct Case {
    alarm: Alarm,
    tasks: BTreeMap<usize, Task>,
    /// Nobody will say that it is over: each of its tasks plans once.
    once: bool,
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
    /// The plans that are being carried out. They outlive their cases, so that none is started twice.
    running: BTreeMap<TaskId, DecisionId>,
    /// Alarms whose rows say `once`, while what was done about them has not succeeded: they outlive their cases, the oldest first.
    owed: BTreeMap<TaskId, VecDeque<Alarm>>,
    /// The alarm that such a row answers now.
    answering: BTreeMap<TaskId, Alarm>,
    /// Such rows that had done what there was to do when homeostat ended, about alarms that may stand still.
    done_before: BTreeSet<TaskId>,
    /// What is remembered of such rows over a restart, and what of that is new.
    noted: BTreeMap<TaskId, Value>,
    news: Vec<(String, Option<Value>)>,
}

/// What is remembered of a `once` row over a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    /// It has done what there was to do about the alarm that stands.
    done: bool,
    /// The alarms that it owes an answer to.
    owed: VecDeque<Alarm>,
}

/// What the knowledge of a service calls that: `once.SLO.HASH`, with the hash of the actions.
const ONCE: &str = "once.";

impl Planner {
    /// Builds the planner of `policy`. Standing alarms are kept; rows that are the same keep their cooldowns and what runs.
    pub fn build(policy: Arc<PlanPolicy>, before: Option<Self>) -> Self {
        let mut planner = Self {
            policy,
            cases: BTreeMap::new(),
            rest: BTreeMap::new(),
            running: BTreeMap::new(),
            owed: BTreeMap::new(),
            answering: BTreeMap::new(),
            done_before: BTreeSet::new(),
            noted: BTreeMap::new(),
            news: Vec::new(),
        };
        let Some(before) = before else { return planner };
        let rows = planner.policy.clone();
        let moved = |row: usize| rows.rows.iter().position(|r| *r == before.policy.rows[row]);
        let moved_task = |task: &TaskId| Some(TaskId { slo: task.slo.clone(), row: moved(task.row)? });
        planner.rest = before.rest.iter().filter_map(|(t, until)| Some((moved_task(t)?, *until))).collect();
        planner.running = before.running.iter().filter_map(|(t, d)| Some((moved_task(t)?, *d))).collect();
        planner.owed = before.owed.into_iter().filter_map(|(t, a)| Some((moved_task(&t)?, a))).collect();
        planner.done_before = before.done_before.iter().filter_map(&moved_task).collect();
        planner.noted = before.noted.iter().filter_map(|(t, v)| Some((moved_task(t)?, v.clone()))).collect();
        planner.news = before.news;
        planner.answering =
            before.answering.into_iter().filter_map(|(t, a)| Some((moved_task(&t)?, a))).collect();
        for (slo, case) in before.cases {
            let mut tasks: BTreeMap<usize, Task> =
                case.tasks.into_iter().filter_map(|(row, task)| Some((moved(row)?, task))).collect();
            // A recovery that is over is no matter for a row that was not there.
            if case.alarm.kind != AlarmKind::Recovered {
                for row in planner.matching(&case.alarm) {
                    tasks.entry(row).or_default();
                }
            }
            planner.cases.insert(slo, Case { alarm: case.alarm, tasks, once: case.once });
        }
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

    /// Takes an alarm of the analyzer, which says when it is over.
    pub fn take(&mut self, alarm: Alarm) -> Taken {
        self.open(alarm, false)
    }

    /// Takes an alarm that an action raises: it is planned once, each time that it is raised. Where the analyzer's own alarm stands, that one counts.
    pub fn raise(&mut self, alarm: Alarm) -> Taken {
        let stands = |case: &Case| !case.once && case.alarm.kind != AlarmKind::Recovered;
        if self.cases.get(&alarm.slo).is_some_and(stands) {
            return Taken::Case;
        }
        self.open(alarm, true)
    }

    fn open(&mut self, alarm: Alarm, once: bool) -> Taken {
        let rows = self.matching(&alarm);
        let before = self.cases.remove(&alarm.slo);
        // A case that says something new takes the place of one whose `once` rows are not done: what they owe stays owed.
        if let Some(case) = before.as_ref().filter(|case| case.alarm.kind != alarm.kind) {
            for (row, task) in &case.tasks {
                let id = TaskId { slo: alarm.slo.clone(), row: *row };
                if self.policy.rows[*row].once && !task.done && !self.answering.contains_key(&id) {
                    self.owe(id, case.alarm.clone());
                }
            }
        }
        if alarm.kind == AlarmKind::Recovered {
            self.done_before.retain(|id| id.slo != alarm.slo);
        }
        if rows.is_empty() {
            self.note(&alarm.slo);
        }
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
        let mut old = before.filter(|_| same).unwrap_or_else(|| Case {
            alarm: alarm.clone(),
            tasks: BTreeMap::new(),
            once,
        });
        if old.once {
            old.tasks.values_mut().for_each(|task| task.done = false);
        }
        let mut old = old.tasks;
        let mut tasks: BTreeMap<usize, Task> =
            rows.into_iter().map(|row| (row, old.remove(&row).unwrap_or_default())).collect();
        for (row, task) in &mut tasks {
            task.done |= self.done_before.remove(&TaskId { slo: alarm.slo.clone(), row: *row });
        }
        let slo = alarm.slo.clone();
        self.cases.insert(slo.clone(), Case { alarm, tasks, once });
        self.note(&slo);
        Taken::Case
    }

    /// What a service knows of its `once` rows from before it was attached.
    pub fn recall(&mut self, knowledge: &BTreeMap<String, Value>) {
        for (key, value) in knowledge.range(ONCE.to_string()..).take_while(|(key, _)| key.starts_with(ONCE)) {
            let Some(id) = self.keyed(key) else {
                self.news.push((key.clone(), None));
                continue;
            };
            let memory: Memory = serde_json::from_value(value.clone()).unwrap_or_default();
            if memory.done {
                self.done_before.insert(id.clone());
            }
            if !memory.owed.is_empty() {
                self.owed.insert(id.clone(), memory.owed);
            }
            self.noted.insert(id, value.clone());
        }
    }

    fn keyed(&self, key: &str) -> Option<TaskId> {
        let (slo, hash) = key.strip_prefix(ONCE)?.rsplit_once('.')?;
        let same = |row: &Arc<PlanRow>| {
            row.once
                && row.when.includes(slo)
                && matches!(&row.strategy, Strategy::Actions { hash: own, .. } if **own == *hash)
        };
        Some(TaskId { slo: slo.to_string(), row: self.policy.rows.iter().position(same)? })
    }

    /// Whether it is not known yet if an alarm of this SLO stands that was answered before.
    pub fn doubts(&self, slo: &str) -> bool {
        self.done_before.iter().any(|id| id.slo == slo)
    }

    /// The SLO holds: the next alarm is another.
    pub fn fine(&mut self, slo: &str) {
        self.done_before.retain(|id| id.slo != slo);
        self.note(slo);
    }

    /// Works out what is to be remembered of the `once` rows of an SLO.
    fn note(&mut self, slo: &str) {
        for (row, policy) in self.policy.clone().rows.iter().enumerate().filter(|(_, row)| row.once) {
            let Strategy::Actions { hash, .. } = &policy.strategy else { continue };
            let id = TaskId { slo: slo.to_string(), row };
            let stands = self.cases.get(slo).filter(|case| case.alarm.kind != AlarmKind::Recovered);
            let acted = stands.and_then(|case| case.tasks.get(&row)).is_some_and(|task| task.done);
            let done = self.done_before.contains(&id) || acted && !self.answering.contains_key(&id);
            let owed = self.owed.get(&id).cloned().unwrap_or_default();
            let value = match done || !owed.is_empty() {
                true => serde_json::to_value(Memory { done, owed }).ok(),
                false => None,
            };
            if self.noted.get(&id) != value.as_ref() {
                match &value {
                    Some(value) => self.noted.insert(id, value.clone()),
                    None => self.noted.remove(&id),
                };
                self.news.push((format!("{ONCE}{slo}.{hash}"), value));
            }
        }
    }

    /// What is to be remembered, or forgotten, since this was asked last.
    pub fn news(&mut self) -> Vec<(String, Option<Value>)> {
        std::mem::take(&mut self.news)
    }

    /// Forgets the case of an SLO that is gone or disabled.
    pub fn forget(&mut self, slo: &str) {
        self.cases.remove(slo);
        self.owed.retain(|id, _| id.slo != slo);
        self.done_before.retain(|id| id.slo != slo);
        self.note(slo);
    }

    fn owe(&mut self, id: TaskId, alarm: Alarm) {
        let owed = self.owed.entry(id).or_default();
        if owed.len() < MOST_OWED {
            owed.push_back(alarm);
        }
    }

    /// The oldest alarm that a `once` row still owes an answer to, of rows that are free.
    fn owing(&self, now: Timestamp) -> Option<TaskId> {
        self.debts().find(|(_, at)| at.is_none_or(|t| t <= now)).map(|(id, _)| id)
    }

    fn debts(&self) -> impl Iterator<Item = (TaskId, Option<Timestamp>)> {
        let free = |id: &&TaskId| !self.running.contains_key(*id) && !self.answering.contains_key(*id);
        self.owed.keys().filter(free).map(|id| (id.clone(), self.rest.get(id).copied()))
    }

    /// The next task that may plan at `now`. A strategy whose readings did not come in time plans without them.
    pub fn next(&mut self, now: Timestamp) -> Option<(TaskId, Arc<PlanRow>, Alarm)> {
        if let Some(id) = self.owing(now) {
            let owed = self.owed.get_mut(&id)?;
            let alarm = owed.pop_front()?;
            if owed.is_empty() {
                self.owed.remove(&id);
            }
            self.answering.insert(id.clone(), alarm.clone());
            return Some((id.clone(), self.policy.rows[id.row].clone(), alarm));
        }
        let id = self.ready().find(|(_, at)| at.is_none_or(|t| t <= now)).map(|(id, _)| id)?;
        let policy = self.policy.rows[id.row].clone();
        let alarm = self.cases.get(&id.slo)?.alarm.clone();
        if let Some(wait) = self.task(&id).and_then(|t| t.wait.as_mut()) {
            wait.give_up();
        }
        Some((id, policy, alarm))
    }

    /// When [`Planner::next`] will have something that it has not now.
    pub fn due(&self) -> Option<Timestamp> {
        self.ready().chain(self.debts()).filter_map(|(_, at)| at).min()
    }

    /// The tasks that have something to plan, and from when on they may (`None`: at once).
    fn ready(&self) -> impl Iterator<Item = (TaskId, Option<Timestamp>)> {
        let tasks = self.cases.iter().flat_map(|(slo, case)| {
            case.tasks.iter().map(move |(row, task)| (TaskId { slo: slo.clone(), row: *row }, task))
        });
        let free = |id: &TaskId, task: &Task| {
            !task.done
                && task.aside.is_none()
                && !self.running.contains_key(id)
                && !self.answering.contains_key(id)
        };
        tasks.filter(move |(id, task)| free(id, task)).map(|(id, task)| {
            let at = match &task.wait {
                Some(wait) if wait.missing.is_empty() => None,
                Some(wait) => Some(wait.deadline),
                None => self.rest.get(&id).copied(),
            };
            (id, at)
        })
    }

    fn task(&mut self, id: &TaskId) -> Option<&mut Task> {
        self.cases.get_mut(&id.slo)?.tasks.get_mut(&id.row)
    }

    /// The strategy of a task runs aside, as run number `token`; until that has ended, it plans nothing.
    pub fn gone_aside(&mut self, id: &TaskId, token: u64, alarm: Alarm) {
        if let Some(task) = self.task(id) {
            task.aside = Some((token, alarm));
        }
    }

    /// Run number `token` has ended; whose it was, if that is wanted still.
    pub fn back(&mut self, token: u64) -> Option<(TaskId, Arc<PlanRow>, Alarm)> {
        for (slo, case) in &mut self.cases {
            for (row, task) in &mut case.tasks {
                if task.aside.as_ref().is_some_and(|(t, _)| *t == token) {
                    let (_, alarm) = task.aside.take()?;
                    let id = TaskId { slo: slo.clone(), row: *row };
                    return Some((id, self.policy.rows[*row].clone(), alarm));
                }
            }
        }
        None
    }

    /// The readings that were fetched for this plan so far.
    pub fn fetched(&mut self, id: &TaskId) -> BTreeMap<(String, String), Reading> {
        self.task(id).and_then(|t| t.wait.as_ref()).map(|w| w.known.clone()).unwrap_or_default()
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
        self.rest.insert(id.clone(), self.rested(id.row, now));
        // What is owed to an alarm of the past changes nothing about the case that stands now.
        if self.answering.contains_key(id) {
            return (true, None);
        }
        let row = self.policy.rows[id.row].once;
        let once =
            row || self.cases.get(&id.slo).is_some_and(|c| c.once || c.alarm.kind == AlarmKind::Recovered);
        if row && let Some(case) = self.cases.get(&id.slo) {
            self.answering.insert(id.clone(), case.alarm.clone());
        }
        let Some(task) = self.task(id) else { return (true, None) };
        task.wait = None;
        task.done = once;
        let new = task.upshot.as_ref() != Some(&upshot);
        task.upshot = Some(upshot);
        (new, task.acted.take())
    }

    /// What was planned of a task is not carried out: nothing is owed.
    pub fn settled(&mut self, id: &TaskId) {
        self.answering.remove(id);
        self.note(&id.slo);
    }

    /// The plan of a task is being carried out.
    pub fn started(&mut self, id: &TaskId, decision: DecisionId) {
        self.running.insert(id.clone(), decision);
        if let Some(task) = self.task(id) {
            // The same actions again, after these were carried out, are news.
            task.upshot = None;
        }
    }

    /// The task of the row that made this plan for this SLO.
    pub fn task_of(&self, slo: &str, plan: &Plan) -> Option<TaskId> {
        let case = self.cases.get(slo)?;
        let row = case.tasks.keys().find(|row| self.policy.rows[**row].strategy.made(plan))?;
        Some(TaskId { slo: slo.to_string(), row: *row })
    }

    /// Nobody approved this plan: the same again is news.
    pub fn lapsed(&mut self, slo: &str, plan: &Plan) {
        if let Some(id) = self.task_of(slo, plan)
            && let Some(task) = self.task(&id)
        {
            task.upshot = None;
        }
    }

    /// Whether a row still waits for approval of this plan for this SLO.
    pub fn awaits_approval(&self, slo: &str, plan: &Plan) -> bool {
        let made = |row: &Arc<PlanRow>| {
            row.mode == Mode::Approve && row.when.includes(slo) && row.strategy.made(plan)
        };
        self.policy.rows.iter().any(made)
    }

    /// What ended with this verdict may be planned again at once: what it lacked is there.
    pub fn retry(&mut self, verdict: &str) {
        for (slo, case) in &mut self.cases {
            for (row, task) in &mut case.tasks {
                if task.upshot.as_ref().is_some_and(|u| u.verdict == verdict) {
                    task.upshot = None;
                    self.rest.remove(&TaskId { slo: slo.clone(), row: *row });
                }
            }
        }
    }

    /// A plan was carried out, with success or not; the cooldown counts from now.
    pub fn finished(&mut self, decision: DecisionId, success: bool, now: Timestamp) {
        let done: Vec<TaskId> =
            self.running.iter().filter(|(_, d)| **d == decision).map(|(id, _)| id.clone()).collect();
        for id in done {
            self.running.remove(&id);
            if let Some(alarm) = self.answering.remove(&id)
                && !success
            {
                self.owed.entry(id.clone()).or_default().push_front(alarm);
            }
            if let Some(task) = self.task(&id) {
                task.acted = Some(decision);
            }
            // What was done once rests only while it fails.
            let until = match success && self.policy.rows[id.row].once {
                true => now.after(LEAST_REST),
                false => self.rested(id.row, now),
            };
            self.rest.insert(id.clone(), until);
            self.note(&id.slo);
        }
    }

    fn rested(&self, row: usize, now: Timestamp) -> Timestamp {
        now.after(self.policy.rows[row].cooldown.max(LEAST_REST))
    }
}

impl Wait {
    /// What has not come by now will not come.
    fn give_up(&mut self) {
        for need in std::mem::take(&mut self.missing) {
            let reason = MissingReason::Timeout(HumanDuration(PATIENCE).to_string());
            self.known.insert(need, Reading::missing(reason));
        }
    }
}
