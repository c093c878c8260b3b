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
use crate::service::message::{Apply, Effect, Response};

impl ServiceLoop {
    /// A service that is attached for the first time.
    pub fn attach(apply: Apply, turn: &mut Turn<'_>) -> Self {
        let Apply { id, policy, restored } = apply;
        let bare = ServicePolicy {
            monitor: None,
            analyze: None,
            plan: None,
            execute: None,
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
            open: BTreeMap::new(),
            decisions: restored.decisions,
            sensors: Vec::new(),
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
        let rebound = self.apply_references(&before, bindings);
        let monitor = self.apply_monitor(&before, &rebound, turn);
        self.apply_analyze(&before, monitor);
        self.apply_plan(&before);
        self.apply_execute(&before, turn);
        self.reweigh(turn);
        self.dirty_all();
        self.tell_all_again(monitor, turn);
        self.settle(turn);
        self.catch_up(turn);
        self.settle(turn);
    }

    /// References that the policy changed are bound as it says; others stay where actions put them. Answers which changed.
    fn apply_references(
        &mut self,
        before: &ServicePolicy,
        restored: &BTreeMap<String, Option<String>>,
    ) -> Vec<Arc<str>> {
        let old = std::mem::take(&mut self.bindings);
        for (name, reference) in &self.policy.references {
            let unchanged = before.references.get(name) == Some(reference);
            let declared = reference.service.clone();
            let bound = match old.get(name) {
                Some(bound) if unchanged => bound.clone(),
                _ => match restored.get(&**name) {
                    Some(None) => None,
                    Some(Some(to)) => reference.candidates.iter().find(|c| &***c == to).cloned().or(declared),
                    None => declared,
                },
            };
            self.bindings.insert(name.clone(), bound);
        }
        let changed = self.bindings.iter().filter(|(name, bound)| old.get(*name) != Some(*bound));
        let gone = old.keys().filter(|name| !self.bindings.contains_key(*name));
        changed.map(|(name, _)| name).chain(gone).cloned().collect()
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
        self.forget_remotes(rebound, turn);
        true
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
            monitor.tell(slot, Held::missing(why), turn.now, &mut self.changed);
        }
    }

    fn apply_analyze(&mut self, before: &ServicePolicy, monitor_changed: bool) {
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
                let stays = self.analyzer.as_ref().is_some_and(|a| a.find(&slo).is_some());
                if !stays && let Some(planner) = &mut self.planner {
                    planner.forget(&slo);
                }
            }
        }
        if !same || monitor_changed {
            let nothing = NoMonitor(&self.name);
            let readings: &dyn Readings = match &self.monitor {
                Some(monitor) => monitor,
                None => &nothing,
            };
            if let Some(analyzer) = &mut self.analyzer {
                analyzer.wire(readings);
            }
        }
    }

    fn apply_plan(&mut self, before: &ServicePolicy) {
        let same = match (&self.policy.plan, &before.plan) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.incarnations[2] += 1;
            let old = self.planner.take();
            self.planner = self.policy.plan.clone().map(|policy| Planner::build(policy, old));
        }
    }

    fn apply_execute(&mut self, before: &ServicePolicy, turn: &mut Turn<'_>) {
        if self.policy.execute != before.execute {
            self.incarnations[3] += 1;
        }
        if self.policy.execute.is_none() {
            for (_, caller) in self.ledger.drain() {
                if let Some(token) = caller {
                    let error = PortError::NoExecutorAttached(self.name.to_string());
                    turn.effects.push(Effect::Reply(token, Response::Error(error)));
                }
            }
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
            self.take_alarm(alarm, turn);
        }
    }

    /// After the monitor was built anew, listeners learn what became of their metrics.
    fn tell_all_again(&mut self, rebuilt: bool, turn: &mut Turn<'_>) {
        if !rebuilt {
            return;
        }
        let pairs: Vec<(Arc<str>, Arc<str>)> = self
            .listeners
            .iter()
            .flat_map(|(metric, who)| who.iter().map(move |w| (metric.clone(), w.clone())))
            .collect();
        for (metric, who) in pairs {
            let held = self.holds(&metric, turn.now);
            let letter = crate::service::message::Letter::Tell { from: self.name.clone(), metric, held };
            turn.mail.push((who, letter));
        }
        self.end_watchers_of_missing(turn);
    }
}
