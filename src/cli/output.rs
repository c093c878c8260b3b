//! What is printed: text for people, JSON for programs, colours where they are wanted.

use std::io::{self, IsTerminal, Write};

use super::options::{Colour, Common};
use super::{Exit, Failure};
use crate::model::{OutcomeStatus, Reading, SloState, Timestamp};

/// Where output goes and how it looks.
pub struct Output {
    /// Whether answers are JSON.
    pub json: bool,
    /// Colours.
    pub paint: Paint,
    to: Box<dyn Write + Send>,
}

impl Output {
    /// Standard output.
    pub fn stdout(common: &Common) -> Self {
        let wanted = match common.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                let unset = |name| std::env::var_os(name).is_none_or(|v| v.is_empty());
                io::stdout().is_terminal()
                    && unset("NO_COLOR")
                    && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
            }
        };
        Self { json: common.json, paint: Paint { on: wanted }, to: Box::new(io::stdout()) }
    }

    /// Anywhere, without colours.
    pub fn to(common: &Common, to: Box<dyn Write + Send>) -> Self {
        Self { json: common.json, paint: Paint { on: common.color == Colour::Always }, to }
    }

    /// Prints text, ending the line.
    ///
    /// # Errors
    /// When the output is gone.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if !text.is_empty() {
            writeln!(self.to, "{text}")?;
        }
        self.to.flush()
    }

    /// Prints JSON on several lines.
    ///
    /// # Errors
    /// When the output is gone.
    pub fn value(&mut self, value: &serde_json::Value) -> io::Result<()> {
        self.text(&serde_json::to_string_pretty(value)?)
    }

    /// Prints JSON on one line.
    ///
    /// # Errors
    /// When the output is gone.
    pub fn line(&mut self, value: &serde_json::Value) -> io::Result<()> {
        self.text(&serde_json::to_string(value)?)
    }

    /// Says what failed, and how to exit.
    pub fn failure(&mut self, failure: &Failure) -> Exit {
        match &failure.document {
            Some(document) if self.json => {
                // The exit code says it too, should the output be gone.
                let _ = self.value(document);
            }
            _ if failure.message.is_empty() => {}
            _ => {
                let _ = writeln!(io::stderr(), "homeostat: {}", clean(&failure.message));
            }
        }
        failure.exit
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paint {
    /// Whether there are any.
    pub on: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// For headings and names.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// For what matters less.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// In the colour of what it means.
    pub fn toned(self, tone: Tone, text: &str) -> String {
        self.with(tone.code(), text)
    }

    /// The word of a state in its colour.
    pub fn state(self, state: SloState) -> String {
        self.with(tone(state).code(), &state.to_string())
    }

    /// How an action ended, in its colour.
    pub fn outcome(self, status: &OutcomeStatus) -> String {
        let tone = match status {
            OutcomeStatus::Done => Tone::Good,
            OutcomeStatus::Skipped | OutcomeStatus::Undone => Tone::Care,
            _ => Tone::Bad,
        };
        self.with(tone.code(), outcome_word(status))
    }
}

/// What a colour means; the word beside it always says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// To be watched.
    Care,
    /// As it should not be.
    Bad,
    /// Says nothing.
    Quiet,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Care => "33",
            Self::Bad => "31",
            Self::Quiet => "2",
        }
    }
}

/// What the state of an SLO means.
pub fn tone(state: SloState) -> Tone {
    match state {
        SloState::Ok => Tone::Good,
        SloState::Warning | SloState::Pending => Tone::Care,
        SloState::Violated | SloState::Missing | SloState::Unresolved => Tone::Bad,
        SloState::Unknown | SloState::Disabled => Tone::Quiet,
    }
}

/// How an action ended, in words.
pub fn outcome_word(status: &OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Done => "done",
        OutcomeStatus::NoRoute => "no route",
        OutcomeStatus::Refused => "refused",
        OutcomeStatus::Failed => "failed",
        OutcomeStatus::Skipped => "skipped",
        OutcomeStatus::Undone => "undone",
        OutcomeStatus::Interrupted => "interrupted",
    }
}

/// What stands between how an action ended and the executor: done *by*, no route *from*, failed *at*.
pub fn outcome_preposition(status: &OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Done | OutcomeStatus::Refused | OutcomeStatus::Undone | OutcomeStatus::Skipped => "by",
        OutcomeStatus::NoRoute => "from",
        OutcomeStatus::Failed | OutcomeStatus::Interrupted => "at",
    }
}

/// A number for people: at most six significant digits after the point, no trailing zeros.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() || value == 0.0 || (1e-4..1e15).contains(&size) {
        let text = format!("{value:.6}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        if text == "-0" { "0".into() } else { text.into() }
    } else {
        format!("{value:e}")
    }
}

/// A reading for people, with its age at `now`: `35, 2s old`, `35, stale: 5m old`, `missing: no sample yet`.
pub fn reading(reading: &Reading, now: Timestamp) -> String {
    let aged = |at: &Timestamp| age(now.since(*at));
    match reading {
        Reading::Fresh { value, at } => format!("{}, {} old", number(*value), aged(at)),
        Reading::Stale { value, at } => format!("{}, stale: {} old", number(*value), aged(at)),
        Reading::Missing { reason } => format!("missing: {}", clean(&reason.to_string())),
    }
}

/// A reading with its name: `C1.cost = 20, 1s old`, `C2.cost is missing: no sample yet`.
pub fn named_reading(name: &str, value: &Reading, now: Timestamp) -> String {
    let verb = if value.value().is_some() { "=" } else { "is" };
    format!("{} {verb} {}", clean(name), reading(value, now))
}

/// A duration for people, in its largest unit.
pub fn age(age: std::time::Duration) -> String {
    let s = age.as_secs();
    match s {
        0 if age.as_millis() > 0 => format!("{}ms", age.as_millis()),
        0..120 => format!("{s}s"),
        120..7200 => format!("{}m", s / 60),
        7200..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// `2026-11-22 12:00:00 UTC`.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// `12:00:00`.
pub fn time_of_day(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(11..19).unwrap_or(&text).to_string()
}

/// Text from elsewhere without control characters, so that no script writes on the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// How many characters of a cell are seen: colours are not.
fn seen(cell: &str) -> usize {
    let mut parts = cell.split("\x1b[");
    let first = parts.next().map_or(0, |p| p.chars().count());
    first + parts.map(|p| p.split_once('m').map_or(0, |(_, rest)| rest.chars().count())).sum::<usize>()
}

/// Lines in columns, two spaces between them; the last column is as it is.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| seen(c)).max();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = if i + 1 == row.len() { 0 } else { width(i).unwrap_or(0) + 2 };
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', pad.saturating_sub(seen(cell))));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_true() {
        for (value, text) in [
            (35.0, "35"),
            (0.1 + 0.2, "0.3"),
            (-1.5, "-1.5"),
            (0.0, "0"),
            (1e20, "1e20"),
            (1e-9, "1e-9"),
            (100.0, "100"),
            (1_234_567.25, "1234567.25"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn text_from_elsewhere_cannot_command_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["A".into(), "x".into()], vec!["long".into(), "y".into()]];
        assert_eq!(columns(&rows), "A     x\nlong  y\n");
        let red = Paint { on: true }.state(SloState::Violated);
        let rows = [vec![red.clone(), "x".into()], vec!["violated".into(), "y".into()]];
        assert_eq!(columns(&rows), format!("{red}  x\nviolated  y\n"));
    }

    #[test]
    fn without_colours_there_is_not_one_escape() {
        assert_eq!(Paint { on: false }.state(SloState::Violated), "violated");
        assert_eq!(Paint { on: true }.state(SloState::Violated), "\x1b[31mviolated\x1b[0m");
    }
}
