//! StatsD: `name:value|type|@rate|#tags` lines in datagrams, of one name per sensor.
//! Counters become their running total, gauges their value, timers each value in seconds, sets their size.

use rustc_hash::FxHashSet;

use super::datagram::{DatagramListener, Decoder, Parsed, Sockets};
use super::text::{number, shorten};
use crate::model::Measurement;
use crate::model::connector::{ConnectorError, Listener, StatsdSensor};

/// The most members of a set that are remembered; beyond it the set is reported full.
const SET_LIMIT: usize = 100_000;

/// A sensor for one StatsD metric.
pub(super) fn listener(spec: &StatsdSensor, sockets: &Sockets) -> Result<Box<dyn Listener>, ConnectorError> {
    let lines = Statsd::new(&spec.key);
    Ok(Box::new(DatagramListener::new(&spec.listen, sockets, Box::new(lines))?))
}

/// What is kept of one metric between datagrams.
struct Statsd {
    key: String,
    total: f64,
    gauge: f64,
    members: FxHashSet<String>,
}

impl Statsd {
    fn new(key: &str) -> Self {
        Self { key: key.to_string(), total: 0.0, gauge: 0.0, members: FxHashSet::default() }
    }

    /// What follows `key:` in a line: `3|c|@0.1|#a:b`, with several values `1:2:3|ms`.
    fn line(&mut self, text: &str) -> Result<Vec<f64>, String> {
        let mut fields = text.split('|');
        let values = fields.next().unwrap_or_default();
        let kind = fields.next().ok_or("the type is missing; expected `name:value|type`")?;
        let rate = fields.find_map(|f| f.strip_prefix('@')).map(number).transpose()?.unwrap_or(1.0);
        if !(rate > 0.0 && rate <= 1.0) {
            return Err(format!("the sample rate {rate} is not between 0 and 1"));
        }
        match kind {
            "s" => self.member(values).map(|size| vec![size]),
            _ => values.split(':').map(|value| self.value(value, kind, rate)).collect(),
        }
    }

    fn value(&mut self, text: &str, kind: &str, rate: f64) -> Result<f64, String> {
        let value = number(text)?;
        let result = match kind {
            "c" => self.total + value / rate,
            "g" if text.starts_with(['+', '-']) => self.gauge + value,
            "g" => value,
            "ms" => value / 1000.0,
            "h" | "d" => value,
            _ => {
                return Err(format!(
                    "the type `{}` is unknown; expected c, g, ms, h, d or s",
                    shorten(kind, 20)
                ));
            }
        };
        if !result.is_finite() {
            return Err("the total is too large for a number".into());
        }
        match kind {
            "c" => self.total = result,
            "g" => self.gauge = result,
            _ => {}
        }
        Ok(result)
    }

    fn member(&mut self, name: &str) -> Result<f64, String> {
        if self.members.len() >= SET_LIMIT && !self.members.contains(name) {
            return Err(format!("the set already has {SET_LIMIT} members; more are not counted"));
        }
        self.members.insert(name.to_string());
        Ok(self.members.len() as f64)
    }
}

impl Decoder for Statsd {
    fn read(&mut self, datagram: &[u8]) -> Parsed {
        let datagram = String::from_utf8_lossy(datagram);
        let mut parsed = Parsed::default();
        for line in datagram.lines() {
            let Some(rest) = line.trim_end().strip_prefix(self.key.as_str()) else { continue };
            let Some(text) = rest.strip_prefix(':') else { continue };
            match self.line(text) {
                Ok(values) => parsed.measurements.extend(values.into_iter().map(Measurement::value)),
                Err(why) => {
                    parsed.bad(|| format!("no StatsD metric in the line `{}`: {why}", shorten(line, 80)))
                }
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(statsd: &mut Statsd, datagram: &str) -> Vec<f64> {
        statsd.read(datagram.as_bytes()).measurements.iter().map(|m| m.value).collect()
    }

    #[test]
    fn counters_are_running_totals_scaled_by_their_sample_rate() {
        let mut statsd = Statsd::new("a");
        assert_eq!(read(&mut statsd, "a:1|c\na:2|c|@0.5|#tag:x\nab:9|c\nb:9|c"), [1.0, 5.0]);
        assert_eq!(read(&mut statsd, "a:-1|c|#tag:x|@1"), [4.0]);
    }

    #[test]
    fn gauges_are_set_and_with_a_sign_changed() {
        assert_eq!(read(&mut Statsd::new("a"), "a:10|g\na:+5|g\na:-2.5|g\na:3|g"), [10.0, 15.0, 12.5, 3.0]);
    }

    #[test]
    fn timers_are_seconds_and_sets_their_size() {
        assert_eq!(read(&mut Statsd::new("t"), "t:250|ms|@0.1\nt:1:2|ms"), [0.25, 0.001, 0.002]);
        assert_eq!(read(&mut Statsd::new("s"), "s:ann|s\ns:bob|s\ns:ann|s\ns:a:b|s"), [1.0, 2.0, 2.0, 3.0]);
    }

    #[test]
    fn bad_lines_are_counted_and_change_nothing() {
        let mut statsd = Statsd::new("a");
        let parsed = statsd.read(b"a:1\na:x|c\na:1|q\na:1|c|@0\na:1|c|@2\na:1e308|c\na:1e308|c");
        assert_eq!(parsed.bad, 6);
        assert!(parsed.problem.expect("the first").contains("the type is missing"));
        assert_eq!(statsd.total, 1e308);
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_yields_only_finite_values(datagram in "(a:[-+0-9.einf:]{0,6}\\|[cgmshd]{1,2}(\\|@[0-9.]{1,3})?\n?){0,6}") {
            for value in read(&mut Statsd::new("a"), &datagram) {
                prop_assert!(value.is_finite());
            }
        }
    }
}
