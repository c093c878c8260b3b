//! Nagios plug-ins: exit status and performance data, as the Monitoring Plugins Development Guidelines define them.

use std::sync::Arc;

use async_trait::async_trait;

use super::program;
use crate::model::Measurement;
use crate::model::connector::{ConnectorError, NagiosSensor, Sensor};
use crate::model::units::{Base, unit};

/// Runs a plug-in; its exit status becomes the output `state`, one of its performance data the headline.
pub(super) struct NagiosReader {
    command: Vec<String>,
    label: Option<String>,
}

impl NagiosReader {
    pub(super) fn new(spec: &NagiosSensor) -> Self {
        Self { command: spec.command.clone(), label: spec.perfdata.clone() }
    }
}

#[async_trait]
impl Sensor for NagiosReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let output = program::run(&self.command, &[]).await?;
        let Some(state @ 0..=3) = output.code else { return Err(output.failure()) };
        let printed = output.text();
        let data = perfdata(&printed);
        let chosen = match &self.label {
            Some(label) => data.iter().find(|d| d.label == *label),
            // The first, even when it is unknown: a metric must not change its meaning from one run to the next.
            None => data.first(),
        };
        let mut found: Vec<Measurement> =
            chosen.and_then(|d| d.value).map(Measurement::value).into_iter().collect();
        found.push(Measurement {
            output: Some(Arc::from("state")),
            label: None,
            value: f64::from(state),
            at: None,
        });
        Ok(found)
    }
}

/// One performance datum.
#[derive(Debug, Clone, PartialEq)]
struct Datum {
    label: String,
    /// In seconds, bytes, or as printed; `None` when the plug-in says `U` (unknown).
    value: Option<f64>,
}

/// All performance data of what a plug-in printed: after the `|` of the first line, and everything after a `|` further down.
/// What cannot be read is passed over, so that one bad datum does not hide the others.
fn perfdata(printed: &str) -> Vec<Datum> {
    let (first, rest) = printed.split_once('\n').unwrap_or((printed, ""));
    let first = first.split_once('|').map_or("", |(_, data)| data);
    let rest = rest.split_once('|').map_or("", |(_, data)| data);
    let mut found = data(first);
    found.extend(data(rest));
    found
}

fn data(mut text: &str) -> Vec<Datum> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return found;
        }
        let (datum, after) = match label(text) {
            Some((label, after)) => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (value(&after[..end]).map(|value| Datum { label, value }), &after[end..])
            }
            // No label with `=`: skip one word.
            None => (None, text.find(char::is_whitespace).map_or("", |end| &text[end..])),
        };
        found.extend(datum);
        text = after;
    }
}

/// A label and what follows its `=`; in quotes it may contain spaces and `=`, and `''` is one quote.
fn label(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find(|c: char| c == '=' || c.is_whitespace())?;
        return (text[end..].starts_with('=') && end > 0)
            .then(|| (text[..end].to_string(), &text[end + 1..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('\'')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(after) => {
                name.push('\'');
                rest = after;
            }
            None => return Some((name, rest.strip_prefix('=')?)),
        }
    }
}

/// `Some(None)` is `U`; `None` is no value at all. Times become seconds and sizes bytes (KB is 1000 bytes); `%`, `c` and none stay as printed.
fn value(text: &str) -> Option<Option<f64>> {
    let text = text.split(';').next().unwrap_or_default();
    if text == "U" {
        return Some(None);
    }
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let number = text[..end].parse::<f64>().ok().filter(|v| v.is_finite())?;
    let factor = match unit(&text[end..]) {
        Some((Base::Seconds | Base::Bytes, factor)) => factor,
        _ => 1.0,
    };
    Some(Some(number * factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datum(label: &str, value: f64) -> Datum {
        Datum { label: label.into(), value: Some(value) }
    }

    #[test]
    fn perfdata_follow_the_bar_of_the_first_line_and_of_the_long_text() {
        let printed = "DISK OK - free | /=2643MB;5948;5958;0;5968\n/ 15272 MB\n/boot 68 MB | /boot=68MB;88;93;0;98\n/home=69357MB;1;2\n";
        assert_eq!(perfdata(printed), [datum("/", 2643e6), datum("/boot", 68e6), datum("/home", 69357e6)]);
    }

    #[test]
    fn labels_in_quotes_keep_spaces_equals_signs_and_quotes() {
        assert_eq!(
            perfdata("OK|'a b=c'=1 'it''s'=-2.5;;;; x=.5c"),
            [datum("a b=c", 1.0), datum("it's", -2.5), datum("x", 0.5)]
        );
    }

    #[test]
    fn times_become_seconds_and_sizes_bytes() {
        assert_eq!(
            perfdata("OK|t=250ms;1 u=7us s=2s p=80% b=3B k=4KB n=9"),
            [
                datum("t", 0.25),
                datum("u", 7e-6),
                datum("s", 2.0),
                datum("p", 80.0),
                datum("b", 3.0),
                datum("k", 4000.0),
                datum("n", 9.0)
            ]
        );
    }

    #[test]
    fn unknown_values_are_no_values_and_bad_data_are_passed_over() {
        assert_eq!(
            perfdata("OK | a=U;1;2 rubbish =5 b= c=1e 'open d=4 e=5"),
            [Datum { label: "a".into(), value: None }, datum("c", 1.0), datum("d", 4.0), datum("e", 5.0)]
        );
        assert_eq!(perfdata("OK - nothing measured"), []);
        assert_eq!(perfdata(""), []);
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_ends(printed in "[a='| \n;U%0-9.ü]{0,80}") {
            perfdata(&printed);
        }

        #[test]
        fn what_is_written_by_the_rules_is_read_back(data in proptest::collection::vec(("[a-z =']{1,8}", -1e6..1e6f64), 0..8)) {
            let line: Vec<String> = data.iter().map(|(l, v)| format!("'{}'={v};1;2;0;9", l.replace('\'', "''"))).collect();
            let expected: Vec<Datum> = data.iter().map(|(l, v)| datum(l, *v)).collect();
            prop_assert_eq!(perfdata(&format!("OK | {}", line.join(" "))), expected);
        }
    }
}
