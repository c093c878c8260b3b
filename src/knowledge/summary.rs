//! Summaries: partial results of an aggregate that are joined, never subtracted.
//!
//! Because nothing is taken out of a part again, a value of 1e300 that has left leaves no error behind, and sums do not drift.

/// An aggregate as a monoid: what one value comes to, and how two neighbouring stretches of values become one.
/// `join` must be associative up to rounding; that is all that two-stack windows and trees ask of it.
pub(super) trait Summary {
    /// A partial result.
    type Part: Copy + std::fmt::Debug;

    /// The part of one value.
    fn of(&self, value: f64) -> Self::Part;

    /// The part of two neighbouring stretches.
    fn join(&self, earlier: Self::Part, later: Self::Part) -> Self::Part;

    /// The result for `count` values; it may be infinite or not a number.
    fn result(&self, part: Self::Part, count: usize) -> f64;
}

/// The sum, or the mean, of the values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Total {
    /// Divide by the count.
    pub mean: bool,
}

/// A sum with the error of its rounding (Knuth's two-sum), so that 10,000 values lose no digit.
#[derive(Debug, Clone, Copy)]
pub(super) struct TotalPart {
    high: f64,
    low: f64,
}

impl Summary for Total {
    type Part = TotalPart;

    fn of(&self, value: f64) -> TotalPart {
        TotalPart { high: value, low: 0.0 }
    }

    fn join(&self, a: TotalPart, b: TotalPart) -> TotalPart {
        let high = a.high + b.high;
        let share = high - a.high;
        let error = (a.high - (high - share)) + (b.high - share);
        TotalPart { high, low: a.low + b.low + error }
    }

    fn result(&self, part: TotalPart, count: usize) -> f64 {
        let sum = part.high + part.low;
        if self.mean { sum / count as f64 } else { sum }
    }
}

/// The smallest or the largest value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extreme {
    /// The largest instead of the smallest.
    pub largest: bool,
}

impl Summary for Extreme {
    type Part = f64;

    fn of(&self, value: f64) -> f64 {
        value
    }

    fn join(&self, a: f64, b: f64) -> f64 {
        if self.largest { a.max(b) } else { a.min(b) }
    }

    fn result(&self, part: f64, _: usize) -> f64 {
        part
    }
}

/// The population standard deviation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread;

/// Count, mean and sum of squared distances from the mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpreadPart {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Summary for Spread {
    type Part = SpreadPart;

    fn of(&self, value: f64) -> SpreadPart {
        SpreadPart { count: 1.0, mean: value, squares: 0.0 }
    }

    /// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    fn join(&self, a: SpreadPart, b: SpreadPart) -> SpreadPart {
        let count = a.count + b.count;
        let distance = b.mean - a.mean;
        SpreadPart {
            count,
            mean: a.mean + distance * (b.count / count),
            squares: a.squares + b.squares + distance * distance * (a.count * b.count / count),
        }
    }

    fn result(&self, part: SpreadPart, _: usize) -> f64 {
        (part.squares / part.count).sqrt()
    }
}

/// How much a counter has grown; a fall is a reset to zero, so that the value after it is growth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth;

/// The growth within a stretch, and the values at its ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct GrowthPart {
    first: f64,
    last: f64,
    growth: f64,
}

impl Summary for Growth {
    type Part = GrowthPart;

    fn of(&self, value: f64) -> GrowthPart {
        GrowthPart { first: value, last: value, growth: 0.0 }
    }

    fn join(&self, a: GrowthPart, b: GrowthPart) -> GrowthPart {
        let step = if b.first >= a.last { b.first - a.last } else { b.first.max(0.0) };
        GrowthPart { first: a.first, last: b.last, growth: a.growth + step + b.growth }
    }

    fn result(&self, part: GrowthPart, _: usize) -> f64 {
        part.growth
    }
}

/// The exponentially weighted moving average of a stretch whose first value is the first output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decay {
    /// The weight of the past.
    pub gain: f64,
    /// Computed in 32-bit floats; only where it runs over all samples.
    pub single: bool,
}

/// A stretch turns an average `v` that comes before it into `keep·v + add`; with nothing before it, it is `seeded`.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecayPart {
    seeded: f64,
    keep: f64,
    add: f64,
}

impl Decay {
    /// The average of one value.
    pub fn first(&self, value: f64) -> f64 {
        if self.single { f64::from(value as f32) } else { value }
    }

    /// The average after `value`, given the one before: `(x + gain·v)/(gain + 1)`.
    pub fn step(&self, before: f64, value: f64) -> f64 {
        if self.single {
            let (gain, before, value) = (self.gain as f32, before as f32, value as f32);
            return f64::from((value + gain * before) / (gain + 1.0));
        }
        let next = (value + self.gain * before) / (self.gain + 1.0);
        // Only the product overflows, never the average, which lies between the two: take the longer way round.
        if next.is_finite() {
            next
        } else {
            value / (self.gain + 1.0) + before * (self.gain / (self.gain + 1.0))
        }
    }
}

impl Summary for Decay {
    type Part = DecayPart;

    fn of(&self, value: f64) -> DecayPart {
        DecayPart { seeded: value, keep: self.gain / (self.gain + 1.0), add: value / (self.gain + 1.0) }
    }

    fn join(&self, a: DecayPart, b: DecayPart) -> DecayPart {
        DecayPart { seeded: b.keep * a.seeded + b.add, keep: a.keep * b.keep, add: b.keep * a.add + b.add }
    }

    fn result(&self, part: DecayPart, _: usize) -> f64 {
        part.seeded
    }
}
