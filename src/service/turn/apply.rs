//! Attaching, changing and detaching components: one code path, a difference of policies. What did not change is not touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NoMonitor, ServiceLoop, Turn};
use crate::analyze::{Analyzer, Readings};
use crate::execute::Ledger;
use crate::model::MissingReason;
use crate::model::ports::PortError;
use crate::monitor::{Held, Monitor};
use crate::plan::Planner;
use crate::policy::ServicePolicy;
use crate::service::message::{Apply, Effect};

impl ServiceLoop {
    /// A service that is attached for the first time.
    pub fn attach(apply: Apply, turn: &mut Turn<'_>) -> Self {
        let Apply { id, policy, restored } = apply;
        let bare = ServicePolicy {
            monitor: None,
            analyze: None,
            plan: None,
            execute: None,
            process: None,
            references: BTreeMap::new(),
            ..policy.clone()
        };
        let mut service = Self {
            name: policy.name.clone(),
            id,
            policy: bare,
            bindings: BTreeMap::new(),
            monitor: None,
            analyzer: None,
            planner: None,
            foreign_planner: false,
            ledger: Ledger::default(),
            incarnations: [0; 4],
            enabled: restored.slos,
            knowledge: restored.knowledge,
            listeners: BTreeMap::new(),
            listening: Default::default(),
            watchers: Vec::new(),
            asks: Vec::new(),
            next_token: 1,
            performing: BTreeMap::new(),
            waits: restored.proposals.iter().any(super::propose::waits),
            open: restored.proposals.into_iter().map(|d| (d.id, d)).collect(),
            decisions: restored.decisions,
            sensors: Vec::new(),
            published: BTreeMap::new(),
            changed: Vec::new(),
            dirty: Vec::new(),
            wake: None,
        };
        service.apply(policy, &restored.bindings, turn);
        service
    }

    /// Takes over who listened to a service of this name before it was attached.
    pub fn adopt(
        &mut self,
        listeners: BTreeMap<Arc<str>, std::collections::BTreeSet<Arc<str>>>,
        turn: &mut Turn<'_>,
    ) {
        for (metric, who) in listeners {
            for from in who {
                self.subscribed(from, metric.clone(), turn);
            }
        }
        self.settle(turn);
    }

    /// Changes the policy to `next`. `bindings` are those to restore when the service is attached.
    pub fn apply(
        &mut self,
        next: ServicePolicy,
        bindings: &BTreeMap<String, Option<String>>,
        turn: &mut Turn<'_>,
    ) {
        let before = std::mem::replace(&mut self.policy, next);
        let planner = self.incarnations[2];
        let rebound = self.apply_references(&before, bindings, turn);
        if [&before, &self.policy].iter().any(|p| p.references.values().any(|r| r.listen.is_some())) {
            self.show_ports(turn);
        }
        let told = self.outside_view(turn);
        let monitor = self.apply_monitor(&before, &rebound, turn);
        self.apply_publish(&before, turn);
        self.apply_analyze(&before, monitor, turn);
        self.apply_plan(&before, turn);
        self.apply_execute(&before, turn);
        self.reweigh(turn);
        self.dirty_all();
        if monitor {
            self.tell_what_changed(told, turn);
        }
        self.settle(turn);
        if self.incarnations[2] != planner {
            self.catch_up(turn);
            self.settle(turn);
        }
    }

    /// The metrics that somebody outside listens to, as they are now.
    fn outside_view(&mut self, turn: &Turn<'_>) -> BTreeMap<Arc<str>, Held> {
        let listened = self.listeners.keys().cloned();
        let watched = self.watchers.iter().map(|w| w.metric.as_str().into());
        let names: Vec<Arc<str>> = listened.chain(watched).collect();
        names.into_iter().map(|name| (name.clone(), self.holds(&name, turn.now))).collect()
    }

    /// After the monitor was built anew, whoever listens learns what became of the metrics that differ now.
    fn tell_what_changed(&mut self, told: BTreeMap<Arc<str>, Held>, turn: &mut Turn<'_>) {
        for (metric, before) in told {
            if self.holds(&metric, turn.now) != before {
                self.tell_listeners(&metric, turn);
                self.tell_watchers(&metric, turn);
            }
        }
        self.end_watchers_of_missing(turn);
    }

    /// A reference stays where actions put it, as long as the policy declares the same service and still has the other as a candidate.
    /// Answers which references lead elsewhere now.
    fn apply_references(
        &mut self,
        before: &ServicePolicy,
        restored: &BTreeMap<String, Option<String>>,
        turn: &mut Turn<'_>,
    ) -> Vec<Arc<str>> {
        let old = std::mem::take(&mut self.bindings);
        for (name, reference) in &self.policy.references {
            let candidate = |to: &str| reference.candidates.iter().find(|c| &***c == to).cloned();
            let declared = reference.service.clone();
            let same = before.references.get(name).is_some_and(|r| r.service == declared);
            let kept = match old.get(name) {
                Some(bound) => same.then(|| bound.as_deref().map(str::to_string)),
                None => restored.get(&**name).cloned(),
            };
            let bound = match kept {
                Some(None) => None,
                Some(Some(to)) => candidate(&to).or(declared),
                None => declared,
            };
            self.bindings.insert(name.clone(), bound);
        }
        let differs = |(name, bound): &(&Arc<str>, &Option<Arc<str>>)| old.get(*name) != Some(*bound);
        let changed: Vec<_> =
            self.bindings.iter().filter(differs).map(|(n, b)| (n.clone(), b.clone())).collect();
        for (name, bound) in changed.iter().filter(|(name, _)| old.contains_key(name)) {
            self.remember_binding(name, bound.as_deref(), turn);
        }
        let gone = old.keys().filter(|name| !self.bindings.contains_key(*name)).cloned();
        changed.into_iter().map(|(name, _)| name).chain(gone).collect()
    }

    fn apply_monitor(&mut self, before: &ServicePolicy, rebound: &[Arc<str>], turn: &mut Turn<'_>) -> bool {
        let paths = self.policy.analyze.as_deref().map(Analyzer::all_paths).unwrap_or_default();
        let same = match (&self.policy.monitor, &before.monitor) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.incarnations[0] += 1;
        }
        let read_the_same = before.analyze.as_deref().map(Analyzer::all_paths).unwrap_or_default() == paths;
        if same && read_the_same && rebound.is_empty() {
            return false;
        }
        let old = self.monitor.take();
        self.monitor = self
            .policy
            .monitor
            .clone()
            .map(|policy| Monitor::build(policy, &paths, old, turn.metric_id, turn.now));
        self.changed.clear();
        self.tune_again();
        self.forget_remotes(rebound, turn);
        true
    }

    /// What went out by publishers that are the same still counts as the last.
    fn apply_publish(&mut self, before: &ServicePolicy, turn: &mut Turn<'_>) {
        let publishers =
            |policy: &ServicePolicy| policy.monitor.as_ref().map(|m| m.publish.clone()).unwrap_or_default();
        let (was, is) = (publishers(before), publishers(&self.policy));
        if was != is {
            self.published.retain(|name, _| is.iter().any(|p| p.name == *name && was.contains(p)));
            turn.effects.push(Effect::Publishers(self.name.clone(), is));
        }
    }

    /// Metrics over references that lead elsewhere now have not been heard of yet; those over unbound references say so.
    pub(super) fn forget_remotes(&mut self, rebound: &[Arc<str>], turn: &mut Turn<'_>) {
        let Some(monitor) = &mut self.monitor else { return };
        let unbound: Vec<_> = monitor
            .remotes()
            .filter_map(|(slot, reference, ..)| match self.bindings.get(reference) {
                Some(Some(_)) if rebound.contains(reference) => Some((slot, MissingReason::NoSample)),
                Some(Some(_)) => None,
                Some(None) => Some((slot, MissingReason::Unbound(reference.to_string()))),
                None => Some((slot, MissingReason::NoSuchReference(reference.to_string()))),
            })
            .collect();
        for (slot, why) in unbound {
            monitor.forget(slot, why, turn.now, &mut self.changed);
        }
    }

    fn apply_analyze(&mut self, before: &ServicePolicy, monitor_changed: bool, turn: &mut Turn<'_>) {
        let same = match (&self.policy.analyze, &before.analyze) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.incarnations[1] += 1;
            let old = self.analyzer.take();
            let gone: Vec<String> = old.iter().flat_map(|a| a.names()).map(ToString::to_string).collect();
            self.analyzer = self.policy.analyze.as_deref().map(|p| Analyzer::build(p, old, &self.enabled));
            for slo in gone {
                if self.analyzer.as_ref().is_some_and(|a| a.find(&slo).is_some()) {
                    continue;
                }
                if let Some(planner) = &mut self.planner {
                    planner.forget(&slo);
                }
                self.withdraw_about(&slo, "the SLO is gone", turn);
            }
        }
        if !same || monitor_changed {
            self.wire_analyzer();
        }
    }

    /// Lets the analyzer look up where its readings are.
    pub(super) fn wire_analyzer(&mut self) {
        let nothing = NoMonitor(&self.name);
        let readings: &dyn Readings = match &self.monitor {
            Some(monitor) => monitor,
            None => &nothing,
        };
        if let Some(analyzer) = &mut self.analyzer {
            analyzer.wire(readings);
        }
    }

    fn apply_plan(&mut self, before: &ServicePolicy, turn: &mut Turn<'_>) {
        let same = match (&self.policy.plan, &before.plan) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.incarnations[2] += 1;
            let old = self.planner.take();
            let new = old.is_none();
            self.planner = self.policy.plan.clone().map(|policy| Planner::build(policy, old));
            if let Some(planner) = self.planner.as_mut().filter(|_| new) {
                planner.recall(&self.knowledge);
            }
            self.withdraw_orphans(turn);
        }
    }

    fn apply_execute(&mut self, before: &ServicePolicy, turn: &mut Turn<'_>) {
        if self.policy.execute != before.execute {
            self.incarnations[3] += 1;
        }
        if self.policy.execute.is_some()
            && before.execute.is_none()
            && let Some(planner) = &mut self.planner
        {
            planner.retry("NoExecutor");
        }
        if self.policy.execute.is_none() {
            self.end_runs(&PortError::NoExecutorAttached(self.name.to_string()), turn);
        }
    }

    /// A planner that was attached late must know which SLOs stand badly already: it decides on what is known, not on the event.
    fn catch_up(&mut self, turn: &mut Turn<'_>) {
        let (Some(analyzer), Some(planner)) = (&self.analyzer, &self.planner) else { return };
        let mut nothing = NoMonitor(&self.name);
        let readings: &mut dyn Readings = match &mut self.monitor {
            Some(monitor) => monitor,
            None => &mut nothing,
        };
        let names: Vec<Arc<str>> = analyzer.names().cloned().collect();
        let standing: Vec<_> = names
            .iter()
            .enumerate()
            .filter(|(_, name)| !planner.knows(name))
            .filter_map(|(slo, _)| analyzer.standing(slo, readings, turn.now, &self.name))
            .collect();
        for alarm in standing {
            self.take_alarm(alarm, Planner::take, turn);
        }
    }
}
