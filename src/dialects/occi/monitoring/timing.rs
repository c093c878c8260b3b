//! When a sensor measures: period, time base, start and stop, as the paper and the draft have them, with the best fit of this server.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value as Json;

use super::super::fault::Fault;
use super::super::model::Values;
use crate::model::{Schedule, Timestamp};

/// The shortest period, in seconds; shorter ones are made this long.
pub const SHORTEST: f64 = 0.1;
/// How far a time may be from 1970, or from the time base, in seconds: thirty thousand years.
const FARTHEST: f64 = 1e12;
/// The longest period, in seconds: a week.
pub const LONGEST: f64 = 604_800.0;
/// The step of periods, in seconds.
const GRANULARITY: f64 = 0.001;
/// How far a measurement may be from its time, in seconds, as far as this server promises.
const ACCURACY: f64 = 0.1;
/// What began so long ago has not begun in the past yet, in seconds: the way of a request takes time.
const GRACE: f64 = 5.0;

/// When something measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Seconds between two measurements.
    pub period: f64,
    /// From when to when.
    pub schedule: Schedule,
}

fn number(values: &Values, name: &str) -> Option<f64> {
    values.get(name).and_then(Json::as_f64)
}

/// Reads the time base: ISO 8601, or seconds since 1970.
///
/// # Errors
/// It is neither.
fn base(value: &Json) -> Result<f64, Fault> {
    let text = match value {
        Json::Number(number) => return Ok(number.as_f64().unwrap_or_default()),
        Json::String(text) => text.trim(),
        other => other.as_str().unwrap_or_default(),
    };
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok(seconds);
    }
    // A date and time without a zone is meant in UTC.
    let zoned = Timestamp::parse(text).or_else(|_| Timestamp::parse(&format!("{text}Z")));
    zoned.map(Timestamp::seconds_f64).map_err(|_| {
        Fault::bad(format!(
            "`occi.sensor.timebase` is {value}; expected seconds since 1970, or a time such as 2013-12-13T09:03:06Z"
        ))
    })
}

/// The nearest period that this server keeps, in seconds.
///
/// # Errors
/// 400 for one that is not above 0.
pub fn best_period(name: &str, period: f64) -> Result<f64, Fault> {
    if period.is_nan() || period <= 0.0 {
        return Err(Fault::bad(format!("`{name}` is {period}; expected seconds, above 0")));
    }
    // Divided, so that 1.1 stays 1.1.
    Ok(((period / GRANULARITY).round() / (1.0 / GRANULARITY)).clamp(SHORTEST, LONGEST))
}

/// Replaces a number by the best fit, if it differs.
fn write_back(values: &mut Values, name: &str, fit: f64) {
    if number(values, name) != Some(fit) {
        let whole = fit.fract() == 0.0;
        values.insert(name.into(), if whole { Json::from(fit as i64) } else { Json::from(fit) });
    }
}

/// The timing of a sensor. What is not said is filled in, what cannot be kept is replaced by the best fit (draft, section "timing").
/// `said` are the names of the times that the client has just set: these may not lie in the past.
///
/// # Errors
/// 400 for what has no meaning: a period that is not above 0, a stop before the start, a start in the past.
pub fn of_sensor(values: &mut Values, now: Timestamp, said: &BTreeSet<String>) -> Result<Timing, Fault> {
    let name = "occi.sensor.period";
    let period = best_period(name, number(values, name).unwrap_or_default())?;
    write_back(values, name, period);
    fill(values, "occi.sensor");
    let now = now.seconds_f64();
    let base = match values.get("occi.sensor.timebase") {
        Some(value) => base(value)?,
        None => {
            let seconds = now.floor();
            values.insert("occi.sensor.timebase".into(), Json::from(seconds as i64));
            seconds
        }
    };
    let (start, stop) = (number(values, "occi.sensor.timestart"), number(values, "occi.sensor.timestop"));
    for (name, value) in [("timebase", Some(base)), ("timestart", start), ("timestop", stop)] {
        if value.is_some_and(|value| value.is_nan() || value.abs() > FARTHEST) {
            return Err(Fault::bad(format!(
                "`occi.sensor.{name}` is farther away than {FARTHEST:e} seconds"
            )));
        }
    }
    if let Some(stop) = stop
        && stop < start.unwrap_or(0.0)
    {
        return Err(Fault::bad(format!(
            "`occi.sensor.timestop` is {stop} and before `occi.sensor.timestart`, {}",
            start.unwrap_or(0.0)
        )));
    }
    if base < 0.0 {
        return Ok(Timing { period, schedule: Schedule { suspended: true, ..Schedule::default() } });
    }
    for (name, offset) in [("occi.sensor.timestart", start), ("occi.sensor.timestop", stop)] {
        let new = said.contains(name) || said.contains("occi.sensor.timebase");
        if let Some(offset) = offset.filter(|offset| new && base + offset < now - GRACE) {
            let late = now - base - offset;
            return Err(Fault::bad(format!(
                "`{name}` lies {late:.0} s in the past: it counts from `occi.sensor.timebase`, {base}"
            )));
        }
    }
    let at = |offset: f64| {
        let micros = (base + offset) * 1e6;
        Timestamp(if micros.abs() < 9e18 { micros as i64 } else { i64::MAX })
    };
    let schedule = Schedule { start: Some(at(start.unwrap_or(0.0))), stop: stop.map(at), suspended: false };
    Ok(Timing { period, schedule })
}

/// Whether the stop of a sensor has passed.
pub fn ended(values: &Values, now: Timestamp) -> bool {
    let base = values.get("occi.sensor.timebase").and_then(|value| base(value).ok());
    match (base, number(values, "occi.sensor.timestop")) {
        (Some(base), Some(stop)) => base >= 0.0 && base + stop < now.seconds_f64(),
        _ => false,
    }
}

/// The period of a collector, in seconds; as for a sensor.
///
/// # Errors
/// 400 for a period that is not above 0.
pub fn of_collector(values: &mut Values) -> Result<f64, Fault> {
    let name = "occi.collector.period";
    let period = best_period(name, number(values, name).unwrap_or_default())?;
    write_back(values, name, period);
    fill(values, "occi.collector");
    Ok(period)
}

/// Granularity and accuracy: what is not said, or more than can be kept, becomes what is kept in the worst case.
fn fill(values: &mut Values, of: &str) {
    for (name, worst) in [("granularity", GRANULARITY), ("accuracy", ACCURACY)] {
        let name = format!("{of}.{name}");
        let fit = number(values, &name).filter(|asked| *asked >= worst).unwrap_or(worst);
        write_back(values, &name, fit);
    }
}

/// Whether a period is a whole number of others (R1-48).
pub fn consistent(collector: f64, sensor: f64) -> bool {
    let times = sensor / collector;
    times > 0.999 && (times - times.round()).abs() < 1e-6 * times
}

/// A period as a duration.
pub fn duration(period: f64) -> Duration {
    Duration::from_secs_f64(period.clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_386_925_386_000_000);

    fn values(list: &[(&str, Json)]) -> Values {
        list.iter().map(|(name, value)| (format!("occi.sensor.{name}"), value.clone())).collect()
    }

    fn all() -> BTreeSet<String> {
        ["timebase", "timestart", "timestop"].map(|name| format!("occi.sensor.{name}")).into()
    }

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp(NOW.0 + seconds * 1_000_000))
    }

    /// Requirement: R1-05, R1-06, R1-07
    #[test]
    fn start_and_stop_count_from_the_time_base_however_that_is_said() {
        for base in [Json::from(1_386_925_386), Json::from("1386925386"), Json::from("2013-12-13T09:03:06Z")]
        {
            let mut values = values(&[
                ("period", 60.into()),
                ("timebase", base.clone()),
                ("timestart", 600.into()),
                ("timestop", 3600.into()),
            ]);
            let timing = of_sensor(&mut values, NOW, &all()).unwrap();
            assert_eq!((timing.schedule.start, timing.schedule.stop), (at(600), at(3600)));
            assert_eq!(values["occi.sensor.timebase"], base, "as the client said it");
        }
    }

    /// Requirement: R1-05, R1-52
    #[test]
    fn what_is_not_said_is_filled_in_and_what_cannot_be_kept_is_replaced_by_the_best_fit() {
        let mut said = values(&[("period", 0.0123.into())]);
        let timing = of_sensor(&mut said, NOW, &all()).unwrap();
        assert_eq!(timing.period, SHORTEST);
        assert_eq!(said["occi.sensor.period"], Json::from(SHORTEST));
        assert_eq!(said["occi.sensor.timebase"], Json::from(1_386_925_386));
        assert_eq!(said["occi.sensor.granularity"], Json::from(GRANULARITY));
        assert_eq!(said["occi.sensor.accuracy"], Json::from(ACCURACY));
        for period in [1.0, 60.0, 3600.0, 1.1, 0.259, 4.35] {
            let mut said = values(&[("period", period.into())]);
            assert_eq!(of_sensor(&mut said, NOW, &all()).unwrap().period, period);
        }
    }

    #[test]
    fn a_negative_time_base_suspends() {
        let mut said = values(&[("period", 1.into()), ("timebase", (-1).into())]);
        assert!(of_sensor(&mut said, NOW, &all()).unwrap().schedule.suspended);
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_its_name() {
        let wrong =
            |list: &[(&str, Json)]| of_sensor(&mut values(list), NOW, &all()).unwrap_err().to_string();
        assert!(wrong(&[("period", 0.into())]).contains("occi.sensor.period"));
        assert!(wrong(&[("period", (-3).into())]).contains("above 0"));
        let before = [("period", 1.into()), ("timestart", 10.into()), ("timestop", 5.into())];
        assert!(wrong(&before).contains("before `occi.sensor.timestart`"));
        let past = [("period", 1.into()), ("timebase", 1_000_000_000.into()), ("timestart", 0.into())];
        assert!(wrong(&past).contains("in the past"));
        assert!(wrong(&[("period", 1.into()), ("timebase", "soon".into())]).contains("timebase"));
        let far = [("period", 1.into()), ("timestart", 1e308.into()), ("timestop", 1e308.into())];
        assert!(wrong(&far).contains("`occi.sensor.timestart` is farther away"));
        let known = of_sensor(&mut values(&past), NOW, &BTreeSet::new());
        assert!(known.is_ok(), "what runs already may have begun long ago");
    }

    /// Requirement: R1-48
    #[test]
    fn periods_are_consistent_when_the_sensors_is_a_multiple() {
        assert!(consistent(10.0, 60.0) && consistent(60.0, 60.0) && consistent(0.1, 60.0));
        assert!(!consistent(60.0, 10.0) && !consistent(7.0, 60.0));
    }
}
