//! What a value will probably be: a bounded past of one metric of one resource, and the best of the exponential smoothing models for it.
//! Values may come at any time; models see a regular grid. Seasons are not modelled. (R2-07)

use std::collections::VecDeque;
use std::time::Duration;

use augurs_core::prelude::*;
use augurs_ets::AutoETS;

use crate::model::Timestamp;

/// How far ahead, when nobody says.
pub const STEP: Duration = Duration::from_secs(600);
/// The most points of a past, …
const POINTS: usize = 240;
/// … how many of them there are in a step at most, …
const PER_STEP: u32 = 100;
/// … and how many there must be for a forecast.
const LEAST: usize = 8;
/// The shortest time between points.
const SHORTEST: Duration = Duration::from_millis(10);
/// The most forecasts that wait for what they foretell.
const MADE: usize = 500;

/// The mean of what came within a span.
#[derive(Debug, Clone, Copy)]
struct Point {
    span: i64,
    at: f64,
    value: f64,
    count: f64,
}

/// The past of one metric of one resource, and what was foretold of it.
#[derive(Debug, Clone)]
pub struct Series {
    step: Duration,
    /// In microseconds.
    width: i64,
    points: VecDeque<Point>,
    made: VecDeque<(Timestamp, f64)>,
}

/// A past at regular times, ready for a forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    values: Vec<f64>,
    /// How many of its intervals ahead.
    ahead: f64,
    due: Timestamp,
}

impl Series {
    /// Without a past; forecasts are for `step` after the newest value.
    pub fn new(step: Duration) -> Self {
        let width = micros((step / PER_STEP).max(SHORTEST));
        Self { step, width, points: VecDeque::new(), made: VecDeque::new() }
    }

    /// Takes a value; one that is not finite, or older than the newest, is passed over. Answers how much more was foretold of it, when something was.
    pub fn take(&mut self, at: Timestamp, value: f64) -> Option<f64> {
        let span = at.0.div_euclid(self.width);
        if !value.is_finite() || self.points.back().is_some_and(|newest| newest.span > span) {
            return None;
        }
        match self.points.back_mut() {
            Some(newest) if newest.span == span => {
                newest.count += 1.0;
                newest.at += (at.0 as f64 - newest.at) / newest.count;
                newest.value += value / newest.count - newest.value / newest.count;
            }
            _ => self.points.push_back(Point { span, at: at.0 as f64, value, count: 1.0 }),
        }
        if self.points.len() > POINTS {
            self.points.pop_front();
        }
        self.foretold(at).map(|foretold| foretold - value).filter(|error| error.is_finite())
    }

    /// What was foretold of this time; between two forecasts, what lies between them.
    fn foretold(&mut self, at: Timestamp) -> Option<f64> {
        while self.made.get(1).is_some_and(|(due, _)| *due <= at) {
            self.made.pop_front();
        }
        let (due, value) = *self.made.front()?;
        let late = at.0 - due.0;
        match self.made.get(1) {
            _ if late < 0 => None,
            Some((next, then)) => {
                let share = late as f64 / (next.0 - due.0).max(1) as f64;
                Some(value * (1.0 - share) + then * share)
            }
            // The newest forecast says nothing of a much later time.
            None => (late <= 2 * self.width).then_some(value),
        }
    }

    /// A forecast was made.
    pub fn note(&mut self, due: Timestamp, value: f64) {
        let apart = (micros(self.step) / MADE as i64).max(self.width);
        if self.made.back().is_none_or(|(last, _)| due.0 - last.0 >= apart) {
            self.made.push_back((due, value));
        }
        if self.made.len() > MADE {
            self.made.pop_front();
        }
    }

    /// The time of the newest value.
    pub fn newest(&self) -> Option<Timestamp> {
        self.points.back().map(|point| Timestamp(point.at as i64))
    }

    /// The past at regular times; none, while it is too short. What lies before a gap longer than a step is another story.
    pub fn grid(&self) -> Option<Grid> {
        let newest = self.points.back()?;
        let mut gaps: Vec<f64> =
            self.points.iter().zip(self.points.iter().skip(1)).map(|(a, b)| b.at - a.at).collect();
        let longest = gaps.len();
        gaps.sort_by(f64::total_cmp);
        let usual = gaps.get(longest / 2)?.max(self.width as f64);
        let too_long = (micros(self.step) as f64).max(10.0 * usual);
        let mut values = Vec::new();
        let mut at = newest.at;
        let mut later = newest;
        for earlier in self.points.iter().rev().skip(1) {
            if later.at - earlier.at > too_long {
                break;
            }
            while at > earlier.at && values.len() < POINTS {
                let share = (at - earlier.at) / (later.at - earlier.at);
                values.push(later.value * share + earlier.value * (1.0 - share));
                at -= usual;
            }
            later = earlier;
        }
        if (at - later.at).abs() < usual / 1e3 && values.len() < POINTS {
            values.push(later.value);
        }
        values.reverse();
        let due = Timestamp(newest.at as i64 + micros(self.step));
        (values.len() >= LEAST).then(|| Grid { values, ahead: micros(self.step) as f64 / usual, due })
    }
}

impl Grid {
    /// The forecast, and the time that it is for; none, when no model fits. Takes some milliseconds.
    pub fn forecast(&self) -> Option<(Timestamp, f64)> {
        let first = *self.values.first()?;
        if self.values.iter().all(|value| *value == first) {
            return Some((self.due, first));
        }
        // Models are sought for numbers of an ordinary size, whatever those are.
        let (low, high) = self.values.iter().fold((first, first), |(l, h), v| (l.min(*v), h.max(*v)));
        let range = high / 2.0 - low / 2.0;
        if !(range.is_finite() && range > 0.0) {
            return None;
        }
        let scaled: Vec<f64> = self.values.iter().map(|value| (value / 2.0 - low / 2.0) / range).collect();
        let horizon = self.ahead.ceil().max(1.0);
        let model = AutoETS::new(1, "AZN").ok()?.fit(&scaled).ok()?;
        let points = model.predict(horizon as usize, None).ok()?.point;
        let then = *points.last()?;
        let before = match points.len() {
            1 => *scaled.last()?,
            many => points[many - 2],
        };
        let share = (horizon - self.ahead).clamp(0.0, 1.0);
        let value = (then * (1.0 - share) + before * share) * range * 2.0 + low;
        value.is_finite().then_some((self.due, value))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 8).min(i64::MAX / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A value every `every` seconds from a function of the seconds, `count` of them.
    fn series(step: Duration, every: f64, count: usize, of: impl Fn(f64) -> f64) -> Series {
        let mut series = Series::new(step);
        for n in 0..count {
            let seconds = n as f64 * every;
            series.take(Timestamp((seconds * 1e6) as i64), of(seconds));
        }
        series
    }

    fn forecast(series: &Series) -> Option<f64> {
        series.grid()?.forecast().map(|(_, value)| value)
    }

    #[track_caller]
    fn near(got: Option<f64>, right: f64, percent: f64) {
        let got = got.expect("a forecast");
        assert!((got - right).abs() <= right.abs() * percent / 100.0, "{got}, but {right} is right");
    }

    /// Requirement: R2-07
    #[test]
    fn on_a_ramp_the_error_is_under_five_percent() {
        for (every, count) in [(1.0, 120), (5.0, 60), (7.3, 40), (60.0, 30)] {
            let last = (count - 1) as f64 * every;
            let up = series(STEP, every, count, |s| 50.0 + 3.0 * s);
            near(forecast(&up), 50.0 + 3.0 * (last + 600.0), 5.0);
            let down = series(STEP, every, count, |s| 1e5 - 2.0 * s);
            near(forecast(&down), 1e5 - 2.0 * (last + 600.0), 5.0);
        }
    }

    #[test]
    fn noise_and_irregular_times_do_not_hide_a_ramp() {
        let mut series = Series::new(MINUTE);
        let mut seconds = 0.0;
        for n in 0..200 {
            seconds += 0.5 + ((n * 7919) % 13) as f64 / 10.0;
            let noise = ((n * 104_729) % 17) as f64 - 8.0;
            series.take(Timestamp((seconds * 1e6) as i64), 100.0 + 10.0 * seconds + noise);
        }
        near(forecast(&series), 100.0 + 10.0 * (seconds + 60.0), 5.0);
    }

    #[test]
    fn a_gap_is_bridged_and_what_lies_before_a_long_one_is_forgotten() {
        let mut bridged = Series::new(MINUTE);
        for n in (0..40).chain(60..100) {
            bridged.take(Timestamp(n * 1_000_000), 5.0 * n as f64);
        }
        near(forecast(&bridged), 5.0 * 159.0, 5.0);
        let mut anew = series(MINUTE, 1.0, 100, |s| 1e6 - s);
        for n in 1_000..1_040 {
            anew.take(Timestamp(n * 1_000_000), 7.0);
        }
        assert_eq!(forecast(&anew), Some(7.0));
    }

    #[test]
    fn what_does_not_change_stays_and_too_little_says_nothing() {
        assert_eq!(forecast(&series(MINUTE, 1.0, 50, |_| 42.0)), Some(42.0));
        assert_eq!(forecast(&series(MINUTE, 1.0, 50, |_| 0.0)), Some(0.0));
        for count in 0..LEAST {
            assert_eq!(forecast(&series(MINUTE, 1.0, count, |s| s)), None, "{count}");
        }
        assert!(forecast(&series(MINUTE, 1.0, LEAST, |s| s)).is_some());
    }

    #[test]
    fn a_season_does_not_run_away() {
        let wave = |s: f64| 100.0 + 10.0 * (s * std::f64::consts::TAU / 30.0).sin();
        let got = forecast(&series(MINUTE, 1.0, 200, wave)).expect("a forecast");
        assert!((50.0..150.0).contains(&got), "{got}");
    }

    #[test]
    fn what_is_no_number_or_comes_too_late_is_passed_over_and_huge_numbers_do_no_harm() {
        let clean = series(MINUTE, 1.0, 60, |s| s);
        let mut dirty = Series::new(MINUTE);
        for n in 0..60 {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert_eq!(dirty.take(Timestamp(n * 1_000_000), bad), None);
            }
            dirty.take(Timestamp(n * 1_000_000), n as f64);
            dirty.take(Timestamp((n - 30) * 1_000_000), -1e9);
        }
        assert_eq!(dirty.grid(), clean.grid());
        for factor in [1e300, 1e-300, f64::MAX] {
            let got =
                forecast(&series(MINUTE, 1.0, 100, |s| if s as i64 % 2 == 0 { factor } else { -factor }));
            assert!(got.is_none_or(f64::is_finite), "{got:?}");
        }
    }

    #[test]
    fn a_past_is_bounded() {
        let long = series(Duration::from_millis(1), 0.01, 100_000, |s| s);
        assert!(long.points.len() <= POINTS && long.grid().is_some_and(|grid| grid.values.len() <= POINTS));
    }

    /// Requirement: R2-07
    #[test]
    fn a_forecast_is_compared_with_what_came() {
        let mut series = Series::new(Duration::from_secs(10));
        let second = |n: i64| Timestamp(n * 1_000_000);
        series.note(second(10), 100.0);
        series.note(second(12), 120.0);
        assert_eq!(series.take(second(9), 1.0), None, "nothing was foretold of that");
        assert_eq!(series.take(second(10), 90.0), Some(10.0));
        assert_eq!(series.take(second(11), 100.0), Some(10.0), "between the two");
        assert_eq!(series.take(second(12), 125.0), Some(-5.0));
        assert_eq!(series.take(second(20), 125.0), None, "too late to tell");
    }
}
