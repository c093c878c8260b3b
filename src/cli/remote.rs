//! The commands that ask a running daemon.

use eventsource_stream::Eventsource;
use futures::StreamExt;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Client;
use super::options::{Ask, DaemonOptions, Knowledge, Metric, Slo, WatchMode};
use super::output::{
    Paint, clean, columns, named_reading, outcome_preposition, outcome_word, reading, time_of_day,
};
use super::{Exit, Failure, Output, input, status, why};
use crate::api::samples::Pushed;
use crate::api::topology::Topology;
use crate::model::ports::{MetricInfo, Notification};
use crate::model::{Decision, Outcome, OutcomeStatus, Reading, SloStatus, Timestamp};
use crate::service::control::{Applied, Component, Plugin, ServiceStatus};

type Answer = Result<Exit, Failure>;

/// Carries out one command.
pub(super) async fn ask(command: Ask, daemon: &DaemonOptions, output: &mut Output) -> Answer {
    let asker = Asker { client: Client::new(daemon)?, output };
    match command {
        Ask::Status { watch: true, .. } => asker.live().await,
        Ask::Status { check, .. } => asker.status(check).await,
        Ask::Discover { capability } => asker.discover(capability).await,
        Ask::Get { service, metric: Some(metric), max_age } => {
            let query: Vec<_> = max_age.map(|age| ("max_age", age.to_string())).into_iter().collect();
            asker.get(&service, &metric, &query).await
        }
        Ask::Get { service, metric: None, .. } => asker.list(&service).await,
        Ask::Watch { service, metric, mode, interval, start, duration, count } => {
            let mut query = vec![("mode", mode_name(mode).to_string())];
            for (name, value) in [("interval", interval), ("start", start), ("duration", duration)] {
                query.extend(value.map(|v| (name, v.to_string())));
            }
            asker.watch(&service, &metric, &query, count).await
        }
        Ask::Slo(command) => asker.slo(command).await,
        Ask::Metric(command) => asker.metric(command).await,
        Ask::Attach { service, file, component } => {
            let body = input::document(&file)?;
            asker.change(Method::PUT, &service_path(&service, component), Some(body)).await
        }
        Ask::Detach { service, component } => {
            asker.change(Method::DELETE, &service_path(&service, component), None).await
        }
        Ask::Apply { dir, dry_run, .. } => asker.apply(&dir, dry_run).await,
        Ask::Rollback => asker.change(Method::POST, &["v1", "policy", "rollback"], None).await,
        Ask::Reload => asker.change(Method::POST, &["v1", "policy", "reload"], None).await,
        Ask::Send { service, action } => asker.send(&service, &action).await,
        Ask::Why { service, n } => asker.why(service, n).await,
        Ask::Approve { service, decision } => {
            let id = decision.to_string();
            asker.act(&["v1", "services", &service, "decisions", &id, "approve"], None).await
        }
        Ask::Reject { service, decision } => {
            let id = decision.to_string();
            asker.change(Method::POST, &["v1", "services", &service, "decisions", &id, "reject"], None).await
        }
        Ask::Topology => asker.topology().await,
        Ask::Plugins => asker.plugins().await,
        Ask::Knowledge(command) => asker.knowledge(command).await,
    }
}

fn service_path(service: &str, component: Option<Component>) -> Vec<&str> {
    let mut path = vec!["v1", "services", service];
    path.extend(component.map(Component::as_str));
    path
}

fn mode_name(mode: WatchMode) -> &'static str {
    match mode {
        WatchMode::Update => "update",
        WatchMode::Change => "change",
        WatchMode::Interval => "interval",
    }
}

struct Asker<'a> {
    client: Client,
    output: &'a mut Output,
}

impl Asker<'_> {
    /// Prints JSON as it came, or what `text` makes of it. An answer of a shape that this version does not know is printed as it came too.
    fn show<T: DeserializeOwned>(
        &mut self,
        value: &Value,
        text: impl FnOnce(&T, Paint) -> String,
    ) -> Result<(), Failure> {
        match T::deserialize(value) {
            Ok(typed) if !self.output.json => {
                let text = text(&typed, self.output.paint);
                self.output.text(&text)?;
            }
            _ => self.output.value(value)?,
        }
        Ok(())
    }

    async fn done(&mut self, method: Method, path: &[&str], body: Option<Value>, text: &str) -> Answer {
        self.client.send(method, self.client.url(path, &[]), body.as_ref()).await?;
        if self.output.json {
            self.output.value(&json!({"done": text}))?;
        } else {
            self.output.text(text)?;
        }
        Ok(Exit::Ok)
    }

    async fn change(mut self, method: Method, path: &[&str], body: Option<Value>) -> Answer {
        let value = self.client.send(method, self.client.url(path, &[]), body.as_ref()).await?;
        self.show(&value, applied)?;
        Ok(Exit::Ok)
    }

    async fn apply(mut self, dir: &std::path::Path, dry_run: bool) -> Answer {
        let body = json!({"files": input::bundle(dir)?});
        let query: Vec<_> = dry_run.then(|| ("dry_run", "true".to_string())).into_iter().collect();
        let url = self.client.url(&["v1", "policy"], &query);
        let value = self.client.send(Method::PUT, url, Some(&body)).await?;
        self.show(&value, applied)?;
        Ok(Exit::Ok)
    }

    async fn status(self, check: bool) -> Answer {
        let seen = status::fetch(&self.client).await?;
        if self.output.json {
            self.output.value(&json!({"policy": seen.policy, "services": seen.services}))?;
        } else {
            let text = status::text(&seen, self.output.paint);
            self.output.text(&text)?;
        }
        Ok(if check && !seen.is_well() { Exit::No } else { Exit::Ok })
    }

    async fn live(self) -> Answer {
        // The first look tells of a wrong address or token before the screen changes.
        status::fetch(&self.client).await?;
        status::live(Box::new(status::Remote::new(self.client)), terminated()).await?;
        Ok(Exit::Ok)
    }

    async fn get(mut self, service: &str, metric: &str, query: &[(&str, String)]) -> Answer {
        let value = self.client.get(&["v1", "services", service, "metrics", metric], query).await?;
        let now = status::now();
        self.show(&value, |r: &Reading, _| reading(r, now))?;
        let missing = value.get("state").and_then(Value::as_str) == Some("missing");
        Ok(if missing { Exit::No } else { Exit::Ok })
    }

    /// Exit code 1 when nobody provides it.
    async fn discover(mut self, capability: String) -> Answer {
        let value = self.client.get(&["v1", "services"], &[("capability", capability.clone())]).await?;
        let none = value.as_array().is_some_and(Vec::is_empty);
        self.show(&value, |services: &Vec<ServiceStatus>, _| {
            let row = |s: &ServiceStatus| vec![clean(&s.name), clean(s.address.as_deref().unwrap_or("-"))];
            match services.is_empty() {
                true => format!("nobody provides {}\n", clean(&capability)),
                false => columns(&services.iter().map(row).collect::<Vec<_>>()),
            }
        })?;
        Ok(if none { Exit::No } else { Exit::Ok })
    }

    async fn list(mut self, service: &str) -> Answer {
        let value = self.client.get(&["v1", "services", service, "metrics"], &[]).await?;
        let now = status::now();
        self.show(&value, |metrics: &Vec<MetricInfo>, _| {
            let row = |m: &MetricInfo| {
                let unit = m.unit.as_deref().unwrap_or("");
                vec![clean(&m.name), reading(&m.reading, now), clean(unit), clean(&m.definition)]
            };
            columns(&metrics.iter().map(row).collect::<Vec<_>>())
        })?;
        Ok(Exit::Ok)
    }

    async fn watch(
        mut self,
        service: &str,
        metric: &str,
        query: &[(&str, String)],
        count: Option<u64>,
    ) -> Answer {
        let url = self.client.url(&["v1", "services", service, "metrics", metric, "events"], query);
        let mut events = self.client.stream(url).await?.bytes_stream().eventsource();
        let mut left = count.unwrap_or(u64::MAX);
        while left > 0 {
            let next = tokio::select! {
                next = events.next() => next,
                _ = tokio::signal::ctrl_c() => break,
            };
            match next {
                Some(Ok(event)) if event.event == "reading" => {
                    self.notification(&event.data)?;
                    left -= 1;
                }
                Some(Ok(event)) if event.event == "end" => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Err(Failure::new(Exit::Unreachable, format!("the daemon is gone: {error}")));
                }
                None => return Err(Failure::new(Exit::Unreachable, "the daemon is gone")),
            }
        }
        Ok(Exit::Ok)
    }

    fn notification(&mut self, data: &str) -> Result<(), Failure> {
        match serde_json::from_str::<Notification>(data) {
            Ok(n) if !self.output.json => {
                let at = n.reading.at().map_or_else(String::new, |at| format!("{}  ", time_of_day(at)));
                let value = match &n.reading {
                    Reading::Fresh { .. } => why::value(&n.reading),
                    other => reading(other, status::now()),
                };
                self.output.text(&format!("{at}{value}"))?;
            }
            _ => {
                let value: Value = serde_json::from_str(data).unwrap_or(Value::Null);
                self.output.line(&value)?;
            }
        }
        Ok(())
    }

    async fn slo(mut self, command: Slo) -> Answer {
        match command {
            Slo::List { service } => {
                let value = self.client.get(&["v1", "services", &service, "slos"], &[]).await?;
                let now = status::now();
                self.show(&value, |slos: &Vec<SloStatus>, paint| slo_list(slos, now, paint))?;
                Ok(Exit::Ok)
            }
            Slo::Add { service, slo, definition } => {
                let body = match input::argument(&definition)? {
                    Value::String(objective) => json!({"objective": objective}),
                    other => other,
                };
                let text = format!("{service} has the SLO {slo}");
                self.done(Method::PUT, &["v1", "services", &service, "slos", &slo], Some(body), &text).await
            }
            Slo::Remove { service, slo } => {
                let text = format!("{service} has the SLO {slo} no more");
                self.done(Method::DELETE, &["v1", "services", &service, "slos", &slo], None, &text).await
            }
            Slo::Enable { service, slo } => {
                let text = format!("{slo} of {service} is enabled");
                self.done(Method::POST, &["v1", "services", &service, "slos", &slo, "enable"], None, &text)
                    .await
            }
            Slo::Disable { service, slo } => {
                let text = format!("{slo} of {service} is disabled");
                self.done(Method::POST, &["v1", "services", &service, "slos", &slo, "disable"], None, &text)
                    .await
            }
        }
    }

    async fn metric(mut self, command: Metric) -> Answer {
        match command {
            Metric::Insert { service, metric, definition } => {
                let body = input::argument(&definition)?;
                let text = format!("{service} has the metric {metric}");
                self.done(Method::PUT, &["v1", "services", &service, "metrics", &metric], Some(body), &text)
                    .await
            }
            Metric::Remove { service, metric } => {
                let text = format!("{service} has the metric {metric} no more");
                self.done(Method::DELETE, &["v1", "services", &service, "metrics", &metric], None, &text)
                    .await
            }
            Metric::Push { service, metric, values, at } => self.push(&service, &metric, &values, at).await,
        }
    }

    async fn push(&mut self, service: &str, metric: &str, values: &[f64], at: Option<Timestamp>) -> Answer {
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            return Err(Failure::new(Exit::Usage, format!("{bad} is no finite number")));
        }
        let body: Vec<Value> = values
            .iter()
            .map(|value| match at {
                Some(at) => json!({"value": value, "at": at}),
                None => json!({"value": value}),
            })
            .collect();
        let url = self.client.url(&["v1", "services", service, "metrics", metric, "samples"], &[]);
        let value = self.client.send(Method::POST, url, Some(&body.into())).await?;
        self.show(&value, |p: &Pushed, _| format!("{} accepted", p.accepted))?;
        Ok(Exit::Ok)
    }

    async fn send(self, service: &str, action: &str) -> Answer {
        let body = input::argument(action)?;
        self.act(&["v1", "services", service, "actions"], Some(body)).await
    }

    /// Sends what has outcomes: one, or a list.
    async fn act(mut self, path: &[&str], body: Option<Value>) -> Answer {
        let value = self.client.send(Method::POST, self.client.url(path, &[]), body.as_ref()).await?;
        let list = if value.is_array() { value.clone() } else { json!([value]) };
        if self.output.json {
            self.output.value(&value)?;
        } else {
            self.show(&list, |outcomes: &Vec<Outcome>, paint| outcomes_text(outcomes, paint))?;
        }
        let done = |o: &Value| o.get("status").and_then(Value::as_str) == Some("done");
        let all = list.as_array().is_some_and(|l| l.iter().all(done));
        Ok(if all { Exit::Ok } else { Exit::No })
    }

    async fn why(mut self, service: Option<String>, n: u16) -> Answer {
        let mut query = vec![("limit", n.to_string())];
        query.extend(service.clone().map(|s| ("service", s)));
        let value = self.client.get(&["v1", "decisions"], &query).await?;
        self.show(&value, |decisions: &Vec<Decision>, paint| {
            if decisions.is_empty() {
                let whose = service.map_or_else(String::new, |s| format!(" by {}", clean(&s)));
                return format!("no decision was taken yet{whose}: no SLO changed its state");
            }
            decisions.iter().map(|d| why::explain(d, paint)).collect::<Vec<_>>().join("\n")
        })?;
        Ok(Exit::Ok)
    }

    async fn topology(mut self) -> Answer {
        let value = self.client.get(&["v1", "topology"], &[]).await?;
        self.show(&value, topology_text)?;
        Ok(Exit::Ok)
    }

    async fn plugins(mut self) -> Answer {
        let value = self.client.get(&["v1", "plugins"], &[]).await?;
        self.show(&value, |all: &Vec<Plugin>, _| {
            let row = |p: &Plugin| {
                let origin = p.origin.as_deref().unwrap_or_default();
                vec![clean(&p.service), p.part.to_string(), clean(&p.name), clean(&p.protocol), clean(origin)]
            };
            columns(&all.iter().map(row).collect::<Vec<_>>())
        })?;
        Ok(Exit::Ok)
    }

    async fn knowledge(mut self, command: Knowledge) -> Answer {
        match command {
            Knowledge::List { service } => {
                let value = self.client.get(&["v1", "services", &service, "knowledge"], &[]).await?;
                self.show(&value, |all: &std::collections::BTreeMap<String, Value>, _| {
                    let row = |(key, value): (&String, &Value)| vec![clean(key), clean(&value.to_string())];
                    columns(&all.iter().map(row).collect::<Vec<_>>())
                })?;
                Ok(Exit::Ok)
            }
            Knowledge::Get { service, key } => {
                let value = self.client.get(&["v1", "services", &service, "knowledge", &key], &[]).await?;
                self.output.value(&value)?;
                Ok(Exit::Ok)
            }
            Knowledge::Put { service, key, value } => {
                let body = input::argument(&value)?;
                let text = format!("{service} knows {key}");
                self.done(Method::PUT, &["v1", "services", &service, "knowledge", &key], Some(body), &text)
                    .await
            }
            Knowledge::Remove { service, key } => {
                let text = format!("{service} knows nothing under {key}");
                self.done(Method::DELETE, &["v1", "services", &service, "knowledge", &key], None, &text).await
            }
        }
    }
}

/// Ends when the process is asked to end, so that the terminal is put back first.
async fn terminated() {
    #[cfg(unix)]
    if let Ok(mut signal) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        signal.recv().await;
        return;
    }
    std::future::pending().await
}

fn applied(applied: &Applied, paint: Paint) -> String {
    let mut lines: Vec<String> = applied.changes.iter().map(|c| clean(c)).collect();
    if lines.is_empty() {
        lines.push("nothing changed".into());
    }
    lines.extend(applied.warnings.iter().map(|w| format!("warning: {}", clean(w))));
    lines.push(paint.dim(&format!("policy {}", clean(&applied.running))));
    lines.join("\n")
}

fn slo_list(slos: &[SloStatus], now: Timestamp, paint: Paint) -> String {
    let row = |slo: &SloStatus| {
        let since =
            slo.since.map_or_else(String::new, |at| format!("for {}", super::output::age(now.since(at))));
        let values: Vec<_> = slo.values.iter().map(|(name, r)| named_reading(name, r, now)).collect();
        vec![
            clean(&slo.name),
            paint.state(slo.state),
            since,
            slo.severity.to_string(),
            clean(&slo.objective),
            values.join("; "),
        ]
    };
    columns(&slos.iter().map(row).collect::<Vec<_>>())
}

fn outcomes_text(outcomes: &[Outcome], paint: Paint) -> String {
    let line = |o: &Outcome| {
        let detail = if o.detail.is_empty() { String::new() } else { format!(": {}", clean(&o.detail)) };
        format!(
            "{}: {} {} {}{detail}",
            clean(&o.action.to_string()),
            paint.outcome(&o.status),
            outcome_preposition(&o.status),
            clean(&o.executor)
        )
    };
    let mut lines: Vec<String> = outcomes.iter().map(line).collect();
    let not_done = outcomes.iter().filter(|o| o.status != OutcomeStatus::Done).count();
    if not_done > 0 && outcomes.len() > 1 {
        lines.push(format!("{not_done} of {} not {}", outcomes.len(), outcome_word(&OutcomeStatus::Done)));
    }
    lines.join("\n")
}

fn topology_text(topology: &Topology, paint: Paint) -> String {
    let wire = |from: &str, to: &str, label: &str| vec![clean(from), "→".into(), clean(to), clean(label)];
    let components: Vec<_> = topology.components.iter().map(|c| vec![clean(&c.name), clean(&c.id)]).collect();
    let wires: Vec<_> = topology.wires.iter().map(|w| wire(&w.from, &w.to, &w.port)).collect();
    let backbone: Vec<_> = topology.backbone.iter().map(|f| wire(&f.from, &f.to, &f.reference)).collect();
    [("COMPONENTS", components), ("WIRES", wires), ("BACKBONE", backbone)]
        .into_iter()
        .map(|(title, rows)| format!("{}\n{}", paint.bold(title), columns(&rows)))
        .collect::<Vec<_>>()
        .join("\n")
}
