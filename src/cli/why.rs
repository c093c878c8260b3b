//! Decisions in words: what was wrong, what was known, what was done, and whether it helped; and when nothing was done, why not.

use super::output::{
    Paint, clean, moment, named_reading, number, outcome_preposition, outcome_word, time_of_day,
};
use crate::model::{Action, AlarmKind, Decision, Mode, Outcome, Plan, Verdict};

/// How wide the words at the left are.
const MARGIN: usize = 12;

/// The whole decision, for an operator who was just woken.
pub fn explain(decision: &Decision, paint: Paint) -> String {
    let mut page = Page { text: String::new(), paint };
    page.title(decision);
    page.alarm(decision);
    page.strategy(decision);
    page.outcome(decision);
    page.helped(decision);
    page.text
}

/// One line: `12:00:00  A/17  cheap violation: replace(C1, C2) done; helped`.
pub fn summary(decision: &Decision) -> String {
    let about = match &decision.alarm {
        Some(alarm) => format!("{} {}", clean(&alarm.slo), alarm.kind),
        None => "by hand".to_string(),
    };
    let helped = match decision.helped {
        Some(true) => "; helped",
        Some(false) => "; did not help",
        None => "",
    };
    format!(
        "{}  {}/{}  {about}: {}{helped}",
        time_of_day(decision.at),
        clean(&decision.service),
        decision.id,
        in_short(decision)
    )
}

fn in_short(decision: &Decision) -> String {
    if decision.outcomes.is_empty() {
        return match (&decision.verdict, &decision.plan) {
            (Verdict::Planned, Some(plan)) => format!("{} under way", actions(&plan.actions)),
            (Verdict::Proposed, Some(plan)) => format!("{} proposed", actions(&plan.actions)),
            (Verdict::NoExecutor, _) => "no executor".into(),
            (Verdict::NoPlanner, _) => "no planner".into(),
            (Verdict::NoStrategy, _) => "no strategy".into(),
            (Verdict::StrategyFailed(_), _) => "the strategy failed".into(),
            (Verdict::Held(why), _) => format!("held: {}", clean(why)),
            _ => "nothing to do".into(),
        };
    }
    let each = decision.outcomes.iter().map(|o| format!("{} {}", line(&o.action), outcome_word(&o.status)));
    each.collect::<Vec<_>>().join(", ")
}

fn actions(actions: &[Action]) -> String {
    actions.iter().map(line).collect::<Vec<_>>().join(", ")
}

fn line(action: &Action) -> String {
    clean(&action.to_string()).replace('\n', " ")
}

struct Page {
    text: String,
    paint: Paint,
}

impl Page {
    /// A word at the left and lines beside it.
    fn entry(&mut self, word: &str, lines: impl IntoIterator<Item = String>) {
        let mut word = word;
        for line in lines.into_iter().flat_map(|l| l.lines().map(str::to_string).collect::<Vec<_>>()) {
            let pad = " ".repeat(MARGIN.saturating_sub(word.len()));
            self.text.push_str(&format!("  {}{pad}{line}\n", self.paint.dim(word)));
            word = "";
        }
    }

    fn title(&mut self, decision: &Decision) {
        let title = format!("{}, decision {}", clean(&decision.service), decision.id);
        self.text.push_str(&format!("{}, {}\n", self.paint.bold(&title), moment(decision.at)));
    }

    fn alarm(&mut self, decision: &Decision) {
        let Some(alarm) = &decision.alarm else {
            return self.entry("asked", ["actions were sent by hand".to_string()]);
        };
        let word = match alarm.kind {
            AlarmKind::Violation => "wrong",
            AlarmKind::Warning => "warning",
            AlarmKind::Missing => "unknown",
            AlarmKind::Recovered => "recovered",
        };
        let what = format!(
            "{}: {} ({} {}, since {})",
            clean(&alarm.slo),
            clean(&alarm.condition),
            alarm.severity,
            alarm.kind,
            moment(alarm.at)
        );
        let values = alarm.values.iter().map(|(name, r)| named_reading(name, r, decision.at));
        self.entry(word, std::iter::once(what).chain(values));
    }

    fn strategy(&mut self, decision: &Decision) {
        let Some(plan) = &decision.plan else { return };
        if decision.alarm.is_some() || !plan.hash.is_empty() {
            self.entry(
                "strategy",
                [format!("{} ({}), mode {}", clean(&plan.strategy), plan.hash, plan.mode)],
            );
        }
        let read = plan.readings.iter().map(|(name, r)| named_reading(name, r, decision.at));
        self.entry("it read", read);
        self.entry("because", plan.reasons.iter().map(|r| clean(r)));
    }

    fn outcome(&mut self, decision: &Decision) {
        match (&decision.verdict, &decision.plan) {
            (Verdict::Planned, Some(plan)) => self.done(plan, &decision.outcomes),
            (Verdict::Proposed, Some(plan)) if !decision.outcomes.is_empty() => {
                self.done(plan, &decision.outcomes)
            }
            (Verdict::Proposed, Some(plan)) => self.proposed(decision, plan),
            (Verdict::NoExecutor | Verdict::Withdrawn(_), Some(plan)) => {
                self.entry("would do", numbered(&plan.actions));
                self.entry("not done", [nothing_done(decision)]);
            }
            (_, None) if !decision.outcomes.is_empty() => {
                let lines =
                    decision.outcomes.iter().enumerate().map(|(i, o)| self.step(i, o)).collect::<Vec<_>>();
                self.entry("actions", lines);
            }
            _ => self.entry("not done", [nothing_done(decision)]),
        }
    }

    fn done(&mut self, plan: &Plan, outcomes: &[Outcome]) {
        let mut lines: Vec<String> = outcomes.iter().enumerate().map(|(i, o)| self.step(i, o)).collect();
        let rest = plan.actions.iter().enumerate().skip(outcomes.len());
        lines.extend(rest.map(|(i, a)| format!("{}. {}: under way", i + 1, line(a))));
        self.entry("actions", lines);
    }

    fn step(&self, index: usize, outcome: &Outcome) -> String {
        let detail = match clean(&outcome.detail).replace('\n', " ") {
            detail if detail.is_empty() => String::new(),
            detail => format!(": {detail}"),
        };
        format!(
            "{}. {}: {} {} {}{detail}",
            index + 1,
            line(&outcome.action),
            self.paint.outcome(&outcome.status),
            outcome_preposition(&outcome.status),
            clean(&outcome.executor)
        )
    }

    fn proposed(&mut self, decision: &Decision, plan: &Plan) {
        self.entry("proposed", numbered(&plan.actions));
        let why = match plan.mode {
            Mode::Observe => "mode observe: plans are recorded, never carried out".to_string(),
            _ => {
                let name = clean(&decision.service);
                let until = decision.expires.map_or(String::new(), |t| format!(" (until {t})"));
                format!("to do it: homeostat approve {name} {}{until}", decision.id)
            }
        };
        self.entry("not done", [why]);
    }

    fn helped(&mut self, decision: &Decision) {
        let slo = decision.alarm.as_ref().map_or("it", |a| a.slo.as_str());
        match decision.helped {
            Some(true) => self.entry("helped", [format!("yes: {} recovered", clean(slo))]),
            Some(false) => {
                self.entry("helped", [format!("no: {} was still violated at the next decision", clean(slo))]);
            }
            // What answers a recovery has nothing left to help against.
            None if !decision.outcomes.is_empty()
                && decision.alarm.as_ref().is_some_and(|a| a.kind != AlarmKind::Recovered) =>
            {
                self.entry("helped", ["not known yet".to_string()]);
            }
            None => {}
        }
    }
}

fn numbered(actions: &[Action]) -> Vec<String> {
    actions.iter().enumerate().map(|(i, a)| format!("{}. {}", i + 1, line(a))).collect()
}

/// Why nothing was done, and what would change that.
fn nothing_done(decision: &Decision) -> String {
    let service = clean(&decision.service);
    match &decision.verdict {
        Verdict::Nothing => "the strategy saw nothing to do".into(),
        Verdict::NoPlanner => {
            format!("no planner is attached to {service}: homeostat attach {service} FILE --component plan")
        }
        Verdict::NoExecutor => {
            format!(
                "no executor is attached to {service}: homeostat attach {service} FILE --component execute"
            )
        }
        Verdict::NoStrategy => match &decision.alarm {
            Some(a) => format!(
                "no strategy is declared for {} ({}, {}): add a row to `plan`",
                clean(&a.slo),
                a.kind,
                a.severity
            ),
            None => "no strategy is declared".into(),
        },
        Verdict::StrategyFailed(error) => format!("the strategy failed: {}", clean(error)),
        Verdict::Held(why) => format!("held back: {}", clean(why)),
        Verdict::Withdrawn(why) => format!("withdrawn: {}", clean(why)),
        Verdict::Planned | Verdict::Proposed => "there is no plan on record".into(),
    }
}

/// The value of a reading, or `?`.
pub fn value(reading: &crate::model::Reading) -> String {
    reading.value().map_or_else(|| "?".into(), number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::OnFailure;
    use crate::model::{Alarm, DecisionId, MissingReason, OutcomeStatus, Reading, Severity, Timestamp};
    use std::collections::BTreeMap;
    use std::time::Duration;

    const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

    fn fresh(value: f64, seconds: u64) -> Reading {
        Reading::Fresh { value, at: NOON.before(Duration::from_secs(seconds)) }
    }

    fn replace() -> Action {
        Action::Replace { service: None, from: "C1".into(), to: "C2".into() }
    }

    fn decision(verdict: Verdict) -> Decision {
        Decision {
            id: DecisionId(17),
            service: "A".into(),
            at: NOON,
            alarm: Some(Alarm {
                service: "A".into(),
                slo: "cheap".into(),
                kind: AlarmKind::Violation,
                severity: Severity::Major,
                condition: "cost >= 30".into(),
                values: BTreeMap::from([("cost".into(), fresh(35.0, 2))]),
                at: NOON.before(Duration::from_secs(30)),
            }),
            verdict,
            plan: None,
            outcomes: Vec::new(),
            helped: None,
            expires: None,
        }
    }

    fn planned(mode: Mode, verdict: Verdict) -> Decision {
        let actions = vec![replace(), Action::Unbind { service: Some("B".into()), reference: "b1".into() }];
        let readings = BTreeMap::from([
            ("B.cost".into(), Reading::Stale { value: 15.0, at: NOON.before(Duration::from_secs(600)) }),
            ("C1.cost".into(), fresh(20.0, 1)),
            ("C2.cost".into(), Reading::missing(MissingReason::NoSample)),
        ]);
        let plan = Plan {
            strategy: "cheapest.rhai".into(),
            hash: "0123456789abcdef".into(),
            mode,
            actions,
            readings,
            reasons: vec!["C2 is cheaper than C1".into()],
            on_failure: OnFailure::Stop,
        };
        Decision { plan: Some(plan), ..decision(verdict) }
    }

    fn told(decision: &Decision) -> String {
        explain(decision, Paint { on: false })
    }

    #[test]
    fn a_plan_that_was_carried_out_is_told_from_cause_to_effect() {
        let outcome = |action, status, detail: &str| Outcome {
            action,
            status,
            executor: "A".into(),
            detail: detail.into(),
            at: NOON,
        };
        let mut d = planned(Mode::Act, Verdict::Planned);
        let second = d.plan.as_ref().expect("plan").actions[1].clone();
        d.outcomes = vec![
            outcome(replace(), OutcomeStatus::Done, ""),
            outcome(second, OutcomeStatus::NoRoute, "A has no reference that leads to B"),
        ];
        d.helped = Some(true);
        insta::assert_snapshot!(told(&d), @r#"
A, decision 17, 2026-11-22 12:00:00 UTC
  wrong       cheap: cost >= 30 (major violation, since 2026-11-22 11:59:30 UTC)
              cost = 35, 2s old
  strategy    cheapest.rhai (0123456789abcdef), mode act
  it read     B.cost = 15, stale: 10m old
              C1.cost = 20, 1s old
              C2.cost is missing: no sample yet
  because     C2 is cheaper than C1
  actions     1. replace(C1, C2): done by A
              2. unbind(B, b1): no route from A: A has no reference that leads to B
  helped      yes: cheap recovered
"#);
        insta::assert_snapshot!(summary(&d), @"12:00:00  A/17  cheap violation: replace(C1, C2) done, unbind(B, b1) no route; helped");
    }

    #[test]
    fn a_proposal_says_how_to_accept_it() {
        insta::assert_snapshot!(told(&planned(Mode::Advise, Verdict::Proposed)), @r#"
A, decision 17, 2026-11-22 12:00:00 UTC
  wrong       cheap: cost >= 30 (major violation, since 2026-11-22 11:59:30 UTC)
              cost = 35, 2s old
  strategy    cheapest.rhai (0123456789abcdef), mode advise
  it read     B.cost = 15, stale: 10m old
              C1.cost = 20, 1s old
              C2.cost is missing: no sample yet
  because     C2 is cheaper than C1
  proposed    1. replace(C1, C2)
              2. unbind(B, b1)
  not done    to do it: homeostat approve A 17
"#);
        let observed = told(&planned(Mode::Observe, Verdict::Proposed));
        assert!(observed.contains("never carried out") && !observed.contains("approve"));
    }

    #[test]
    fn a_plan_under_way_says_so() {
        insta::assert_snapshot!(summary(&planned(Mode::Act, Verdict::Planned)), @"12:00:00  A/17  cheap violation: replace(C1, C2), unbind(B, b1) under way");
        assert!(told(&planned(Mode::Act, Verdict::Planned)).contains("1. replace(C1, C2): under way"));
    }

    #[test]
    fn when_nothing_was_done_it_says_why_not() {
        let verdicts = [
            Verdict::Nothing,
            Verdict::NoPlanner,
            Verdict::NoStrategy,
            Verdict::NoExecutor,
            Verdict::StrategyFailed("line 3: `metric` takes two arguments".into()),
            Verdict::Held("a plan for cheap ran 12s ago; cooldown 30s".into()),
        ];
        let lines: Vec<String> = verdicts
            .into_iter()
            .map(|v| told(&decision(v)).lines().last().unwrap_or_default().to_string())
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
not done    the strategy saw nothing to do
not done    no planner is attached to A: homeostat attach A FILE --component plan
not done    no strategy is declared for cheap (violation, major): add a row to `plan`
not done    no executor is attached to A: homeostat attach A FILE --component execute
not done    the strategy failed: line 3: `metric` takes two arguments
not done    held back: a plan for cheap ran 12s ago; cooldown 30s
"#);
    }

    #[test]
    fn actions_by_hand_have_no_alarm() {
        let mut d = decision(Verdict::Planned);
        d.alarm = None;
        d.outcomes = vec![Outcome {
            action: Action::Set { service: None, property: "threads".into(), value: 10.into() },
            status: OutcomeStatus::Failed,
            executor: "C2".into(),
            detail: "HTTP 500\n\x1b[31mno".into(),
            at: NOON,
        }];
        insta::assert_snapshot!(told(&d), @r#"
A, decision 17, 2026-11-22 12:00:00 UTC
  asked       actions were sent by hand
  actions     1. set(threads, 10): failed at C2: HTTP 500 �[31mno
"#);
    }
}
