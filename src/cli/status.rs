//! How everything is, on one screen: once as text, or live. Looking changes nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use eventsource_stream::Eventsource;
use futures::StreamExt;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::client::Client;
use super::output::{Paint, Tone, clean, columns, moment, time_of_day, tone};
use super::{Exit, Failure, why};
use crate::model::process::{ProcessState, ProcessStatus};
use crate::model::{Decision, SloState, Timestamp};
use crate::service::control::{Component, Control, Event, PolicyStatus, ServiceStatus};

/// How often the screen looks again.
const EVERY: Duration = Duration::from_secs(1);

/// How long one look may take before the screen says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many decisions and events are kept for the screen.
const KEPT: usize = 50;

/// The time now, for ages.
#[expect(clippy::disallowed_methods, reason = "the command line is part of the shell")]
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
}

/// What was seen at one look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// What runs and what waits.
    pub policy: PolicyStatus,
    /// The managed services.
    pub services: Vec<ServiceStatus>,
    /// The last decisions, newest first.
    pub decisions: Vec<Decision>,
    /// The last events, newest first.
    pub events: Vec<Event>,
}

impl Snapshot {
    /// No SLO is violated, no service is quarantined, and no process has failed.
    pub fn is_well(&self) -> bool {
        let violated = |s: &ServiceStatus| s.slos.iter().any(|slo| slo.state == SloState::Violated);
        let failed = |s: &ServiceStatus| s.process.as_ref().is_some_and(|p| p.state == ProcessState::Failed);
        !self.services.iter().any(|s| s.quarantined.is_some() || violated(s) || failed(s))
    }
}

/// Where the screen gets what it shows.
#[async_trait]
pub trait StatusSource: Send {
    /// Looks once.
    ///
    /// # Errors
    /// A sentence; the screen shows it beside what it saw last.
    async fn snapshot(&mut self) -> Result<Snapshot, String>;
}

/// The last events, newest first.
#[derive(Clone, Default)]
struct Recent(Arc<Mutex<VecDeque<Event>>>);

impl Recent {
    fn add(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push_front(event);
        events.truncate(KEPT);
    }

    fn list(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// A daemon over HTTP.
pub struct Remote {
    client: Client,
    recent: Recent,
    _listening: AbortOnDropHandle<()>,
}

impl Remote {
    /// Looks through `client`, and listens to the events until dropped. Must be called within a Tokio runtime.
    pub fn new(client: Client) -> Self {
        let recent = Recent::default();
        let task = tokio::spawn(listen(client.clone(), recent.clone()));
        Self { client, recent, _listening: AbortOnDropHandle::new(task) }
    }
}

/// Collects events; connects again when the daemon was away.
async fn listen(client: Client, recent: Recent) {
    loop {
        if let Ok(response) = client.stream(client.url(&["v1", "events"], &[])).await {
            let mut events = response.bytes_stream().eventsource();
            while let Some(Ok(event)) = events.next().await {
                if let Ok(event) = serde_json::from_str(&event.data) {
                    recent.add(event);
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[async_trait]
impl StatusSource for Remote {
    async fn snapshot(&mut self) -> Result<Snapshot, String> {
        let seen = fetch(&self.client).await.map_err(|failure| failure.message)?;
        Ok(Snapshot { events: self.recent.list(), ..seen })
    }
}

/// Looks once over HTTP, without events.
pub(super) async fn fetch(client: &Client) -> Result<Snapshot, Failure> {
    let limit = [("limit", "20".to_string())];
    let (policy, services, decisions) = futures::try_join!(
        client.get(&["v1", "policy"], &[]),
        client.get(&["v1", "services"], &[]),
        client.get(&["v1", "decisions"], &limit),
    )?;
    // A decision of a shape that this version does not know is no reason to show nothing.
    let decisions = typed(decisions).unwrap_or_default();
    Ok(Snapshot { policy: typed(policy)?, services: typed(services)?, decisions, events: Vec::new() })
}

fn typed<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|e| {
        Failure::new(Exit::Failed, format!("the daemon's answer is not understood; is it much newer? ({e})"))
    })
}

/// The homeostat in this process.
pub struct Here {
    control: Arc<dyn Control>,
    events: broadcast::Receiver<Event>,
    recent: Recent,
}

impl Here {
    /// Looks through `control`.
    pub fn new(control: Arc<dyn Control>) -> Self {
        let events = control.events();
        Self { control, events, recent: Recent::default() }
    }

    fn drain(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.recent.add(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return,
            }
        }
    }
}

#[async_trait]
impl StatusSource for Here {
    async fn snapshot(&mut self) -> Result<Snapshot, String> {
        self.drain();
        Ok(Snapshot {
            policy: self.control.policy_status(),
            services: self.control.services().await.map_err(|e| e.to_string())?,
            decisions: self.control.decisions(None, 20, None).await.map_err(|e| e.to_string())?,
            events: self.recent.list(),
        })
    }
}

/// The status as text.
pub fn text(seen: &Snapshot, paint: Paint) -> String {
    let mut text = format!("policy {}", clean(&seen.policy.running));
    if let Some(since) = seen.policy.since {
        text.push_str(&format!(" since {}", moment(since)));
    }
    text.push_str(&format!(", {}\n", count(seen.services.len(), "service")));
    if let Some(refusal) = &seen.policy.pending {
        text.push_str(&format!(
            "pending: a change is refused, {}:\n",
            count(refusal.problems.len(), "problem")
        ));
        refusal.problems.iter().for_each(|p| text.push_str(&format!("  {}\n", clean(p))));
    }
    let rows: Vec<_> = seen
        .services
        .iter()
        .map(|s| {
            let mut slos: Vec<_> =
                s.slos.iter().map(|slo| format!("{} {}", clean(&slo.name), paint.state(slo.state))).collect();
            slos.extend(s.quarantined.iter().map(|why| format!("quarantined: {}", clean(why))));
            slos.extend(s.process.iter().map(process_words));
            vec![clean(&s.name), loop_letters(s), slos.join(", ")]
        })
        .collect();
    text.push_str(&columns(&rows));
    text
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `process running`, `process failed: …`.
fn process_words(process: &ProcessStatus) -> String {
    let mut text = format!("process {}", process.state);
    if let Some(pid) = process.pid {
        text.push_str(&format!(" (pid {pid})"));
    }
    if let (Some(reason), true) = (&process.reason, process.pid.is_none()) {
        text.push_str(&format!(": {}", clean(reason)));
    }
    text
}

/// `M A P E`, with a dot for a component that is not attached.
fn loop_letters(service: &ServiceStatus) -> String {
    let letter = |component: Component| {
        let attached = service.components.iter().any(|c| c.component == component);
        match component {
            _ if !attached => "·",
            Component::Monitor => "M",
            Component::Analyze => "A",
            Component::Plan => "P",
            Component::Execute => "E",
        }
    };
    Component::ALL.map(letter).join(" ")
}

/// What the screen shows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What was seen last.
    pub seen: Snapshot,
    /// Why the last look failed, when it did.
    pub trouble: Option<String>,
    /// How many services are scrolled past.
    pub scroll: usize,
}

/// Shows the live screen until `q`, Ctrl-C, or `quit`. The terminal is put back as it was, after errors and panics too.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn live(source: Box<dyn StatusSource>, quit: impl Future<Output = ()>) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let _restore = Restore;
    let mut keys = keys();
    let mut quit = pin!(quit);
    let (sender, mut looks) = mpsc::channel(1);
    let _looking = AbortOnDropHandle::new(tokio::spawn(look(source, sender)));
    let mut view = View::default();
    loop {
        tokio::select! {
            () = &mut quit => return Ok(()),
            key = keys.recv() => match key {
                None => return Err(io::Error::other("the keyboard is gone")),
                Some(Input::Key(key)) if leaves(key) => return Ok(()),
                Some(input) => view.scroll = scrolled(&view, &input),
            },
            look = looks.recv() => match look {
                Some(Ok(seen)) => (view.seen, view.trouble) = (seen, None),
                Some(Err(why)) => view.trouble = Some(why),
                None => return Err(io::Error::other("nothing is seen any more")),
            },
        }
        terminal.draw(|frame| draw(frame, &view))?;
    }
}

/// Looks every second, beside the screen, so that a slow answer delays no key.
async fn look(mut source: Box<dyn StatusSource>, to: mpsc::Sender<Result<Snapshot, String>>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let look = tokio::time::timeout(PATIENCE, source.snapshot()).await;
        let late = |_| Err(format!("no answer within {}s", PATIENCE.as_secs()));
        if to.send(look.unwrap_or_else(late)).await.is_err() {
            return;
        }
    }
}

struct Restore;
impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Keys and changes of size, read by a thread of its own that ends when nobody listens.
fn keys() -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(Duration::from_millis(100)) {
                Ok(false) => {}
                Ok(true) => match event::read().map(|input| sender.blocking_send(input)) {
                    Ok(Ok(())) => {}
                    _ => return,
                },
                Err(_) => return,
            }
        }
    });
    receiver
}

fn leaves(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && matches!((key.code, control), (KeyCode::Char('q'), false) | (KeyCode::Char('c'), true))
}

fn scrolled(view: &View, input: &Input) -> usize {
    let last = view.seen.services.len().saturating_sub(1);
    match input {
        Input::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Down | KeyCode::Char('j') => (view.scroll + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => view.scroll.saturating_sub(1),
            KeyCode::PageDown => (view.scroll + 10).min(last),
            KeyCode::PageUp => view.scroll.saturating_sub(10),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => view.scroll,
        },
        _ => view.scroll,
    }
}

/// Draws the screen: a function of what was seen, and nothing else.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let height = usize::from(frame.area().height);
    let below = (height.saturating_sub(4) / 2).clamp(2, 20);
    let wanted = view.seen.services.len() + 2;
    let services = wanted.min(height.saturating_sub(1 + below)).max(3);
    let [top, middle, decisions, events] = Layout::vertical([
        Constraint::Length(2 + u16::from(view.trouble.is_some())),
        Constraint::Length(u16::try_from(services).unwrap_or(u16::MAX)),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ])
    .areas(frame.area());
    header(frame, top, view);
    table(frame, middle, view);
    let lines = view.seen.decisions.iter().map(|d| Line::from(format!(" {}", why::summary(d))));
    section(frame, decisions, "DECISIONS", lines);
    section(frame, events, "EVENTS", view.seen.events.iter().map(event_line));
}

fn header(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let policy = &view.seen.policy;
    let hash: String = clean(&policy.running).chars().take(8).collect();
    let mut spans = vec![
        Span::styled(
            concat!(" homeostat ", env!("CARGO_PKG_VERSION")),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::raw(format!("   policy {hash}   {}", count(view.seen.services.len(), "service"))),
    ];
    match &policy.pending {
        Some(refusal) => spans.push(Span::styled(
            format!("   PENDING, {}", count(refusal.problems.len(), "problem")),
            style(Tone::Care),
        )),
        None if view.seen.is_well() => spans.push(Span::styled("   all well", style(Tone::Good))),
        None => spans.push(Span::styled("   not well", style(Tone::Bad))),
    }
    spans.push(Span::styled("   q leaves", style(Tone::Quiet)));
    let mut lines = vec![Line::from(spans)];
    lines.extend(view.trouble.iter().map(|why| Line::styled(format!(" {}", clean(why)), style(Tone::Bad))));
    frame.render_widget(Paragraph::new(lines), area);
}

fn table(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let services = &view.seen.services;
    let name = services.iter().map(|s| s.name.chars().count()).max().unwrap_or(0).clamp(7, 32);
    let rows = usize::from(area.height.saturating_sub(1));
    let scroll = view.scroll.min(services.len().saturating_sub(rows.saturating_sub(1)));
    let mut lines =
        vec![Line::styled(format!(" {:name$}  LOOP     OBJECTIVES", "SERVICE"), style(Tone::Quiet))];
    lines.extend(services.iter().skip(scroll).take(rows.saturating_sub(1)).map(|s| service_line(s, name)));
    let shown = lines.len() - 1 + scroll;
    if shown < services.len() || scroll > 0 {
        lines.push(Line::styled(
            format!(" {} to {shown} of {}; ↓ ↑ scroll", scroll + 1, services.len()),
            style(Tone::Quiet),
        ));
    } else if services.is_empty() {
        lines.push(Line::styled(" nothing is managed yet", style(Tone::Quiet)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn service_line(service: &ServiceStatus, name: usize) -> Line<'static> {
    let short: String = clean(&service.name).chars().take(name).collect();
    let mut spans = vec![Span::raw(format!(" {short:name$}  {}  ", loop_letters(service)))];
    if service.quarantined.is_some() {
        spans.push(Span::styled("quarantined  ", style(Tone::Bad)));
    }
    if let Some(process) = &service.process {
        let tone = match process.state {
            ProcessState::Running => Tone::Good,
            ProcessState::Failed => Tone::Bad,
            _ => Tone::Care,
        };
        spans.push(Span::styled(format!("{}  ", process_words(process)), style(tone)));
    }
    for slo in &service.slos {
        spans.push(Span::raw(format!("{} ", clean(&slo.name))));
        spans.push(Span::styled(format!("{}  ", slo.state), style(tone(slo.state))));
    }
    Line::from(spans)
}

fn section<'a>(frame: &mut Frame<'_>, area: Rect, title: &'a str, lines: impl Iterator<Item = Line<'a>>) {
    let heading = Line::styled(format!(" {title}"), style(Tone::Quiet));
    let all: Vec<_> =
        std::iter::once(heading).chain(lines.take(usize::from(area.height.saturating_sub(1)))).collect();
    frame.render_widget(Paragraph::new(all), area);
}

fn event_line(event: &Event) -> Line<'static> {
    let whose = event.service.as_deref().map_or_else(String::new, |s| format!("{}  ", clean(s)));
    let text = clean(&event.text).replace('\n', " ");
    Line::from(format!(" {}  {whose}{}  {text}", time_of_day(event.at), clean(&event.phase)))
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Care => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Quiet => Style::new().add_modifier(Modifier::DIM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DecisionId, Severity, SloStatus, Verdict};
    use crate::service::control::{ComponentStatus, Origin, Refusal};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

    fn service(name: &str, components: &[Component], slos: &[(&str, SloState)]) -> ServiceStatus {
        let attached = |c: &Component| ComponentStatus {
            component: *c,
            id: c.to_string(),
            origin: Origin::File,
            parts: 1,
        };
        let slo = |(name, state): &(&str, SloState)| SloStatus {
            name: (*name).into(),
            objective: String::new(),
            severity: Severity::Major,
            state: *state,
            since: None,
            values: Default::default(),
        };
        ServiceStatus {
            name: name.into(),
            class: None,
            kind: None,
            provides: Vec::new(),
            address: None,
            origin: Origin::File,
            components: components.iter().map(attached).collect(),
            references: Default::default(),
            slos: slos.iter().map(slo).collect(),
            wires: Vec::new(),
            process: None,
            quarantined: None,
            decisions: 0,
        }
    }

    fn seen() -> Snapshot {
        let decision = Decision {
            id: DecisionId(17),
            service: "shop".into(),
            at: NOON,
            alarm: None,
            verdict: Verdict::Nothing,
            plan: None,
            outcomes: Vec::new(),
            helped: None,
            expires: None,
        };
        let event = Event {
            at: NOON,
            service: Some("shop".into()),
            phase: "analyse".into(),
            correlation: None,
            text: "cheap is violated:\x1b[2J cost >= 30".into(),
        };
        Snapshot {
            policy: PolicyStatus {
                running: "0123456789abcdef".into(),
                since: Some(NOON),
                services: 2,
                pending: None,
            },
            services: vec![
                service("pay-gold", &[Component::Monitor], &[]),
                service("shop", &Component::ALL, &[("cheap", SloState::Violated), ("fast", SloState::Ok)]),
            ],
            decisions: vec![decision],
            events: vec![event],
        }
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("terminal");
        terminal.draw(|frame| draw(frame, view)).expect("drawn");
        let text = terminal.backend().to_string();
        text.lines().map(|l| l.trim_matches('"').trim_end()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_screen_shows_services_decisions_and_events() {
        let view = View { seen: seen(), ..View::default() };
        insta::assert_snapshot!(screen(&view, 80, 14), @r#"
homeostat 0.1.0   policy 01234567   2 services   not well   q leaves

SERVICE   LOOP     OBJECTIVES
pay-gold  M · · ·
shop      M A P E  cheap violated  fast ok

DECISIONS
12:00:00  shop/17  by hand: nothing to do


EVENTS
12:00:00  shop  analyse  cheap is violated:�[2J cost >= 30
"#);
    }

    #[test]
    fn trouble_and_a_refused_change_stand_above_what_was_seen_last() {
        let mut view = View { seen: seen(), trouble: Some("no answer within 5s".into()), scroll: 0 };
        view.seen.policy.pending = Some(Refusal { at: None, problems: vec!["x".into()] });
        insta::assert_snapshot!(screen(&view, 80, 12), @r#"
homeostat 0.1.0   policy 01234567   2 services   PENDING, 1 problem   q leaves
no answer within 5s

SERVICE   LOOP     OBJECTIVES
pay-gold  M · · ·
shop      M A P E  cheap violated  fast ok

DECISIONS
12:00:00  shop/17  by hand: nothing to do

EVENTS
12:00:00  shop  analyse  cheap is violated:�[2J cost >= 30
"#);
    }

    #[test]
    fn many_services_scroll_and_no_size_is_too_small() {
        let services = (0..100).map(|n| service(&format!("s{n:02}"), &Component::ALL, &[])).collect();
        let mut view = View { seen: Snapshot { services, ..Snapshot::default() }, trouble: None, scroll: 5 };
        let text = screen(&view, 60, 20);
        assert!(text.contains(" s05") && !text.contains(" s04"), "{text}");
        assert!(text.contains("of 100"), "{text}");
        view.scroll = 99;
        assert!(screen(&view, 60, 20).contains(" s99"));
        for (width, height) in [(1, 1), (10, 2), (20, 3), (200, 80)] {
            screen(&view, width, height);
        }
    }

    #[test]
    fn the_text_says_the_same_in_words() {
        insta::assert_snapshot!(text(&seen(), Paint::default()), @r#"
policy 0123456789abcdef since 2026-11-22 12:00:00 UTC, 2 services
pay-gold  M · · ·
shop      M A P E  cheap violated, fast ok
"#);
    }

    #[test]
    fn q_and_control_c_leave() {
        let key = |code, modifiers| leaves(KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
    }
}
