//! Mixins that turn measurements into measurements, one function each. Those that look at several values look at the newest of everything that
//! feeds their labels, as far as it has a value.

use serde_json::json;

use super::super::model::Attribute;
use super::provider::{Build, Instance, Names, Provider, Stage, Work, named};
use crate::model::metric::MetricPath;
use crate::policy::expression::Expression;

pub(super) fn all(names: &Names) -> Vec<Provider> {
    [ewma, mean, median, minimum, maximum, min_max, percentile, colour, anonymise, expression]
        .map(|provider| provider(names))
        .into()
}

fn aggregator(names: &Names, term: &str, title: &str, build: Build) -> Provider {
    Provider::new(names, Stage::Aggregator, term, title, build).input("instream").output("outstream")
}

/// A function of the newest of everything that comes in goes out at `output`.
fn call(at: &Instance<'_>, work: &mut Work, function: &str, output: &str) -> Result<(), String> {
    let incoming = work.feeding(&at.labels("instream"));
    let value = work.over(&format!("{}_{output}", at.term()), function, &incoming)?;
    work.computed(at, output, value.into());
    Ok(())
}

/// R1-43: in 32-bit floats, as the prototype.
fn ewma(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let gain = at.number("gain")?.unwrap_or(16.0);
        if gain < 0.0 {
            return Err(format!("the gain is {gain}; expected 0 or more"));
        }
        let labels = at.labels("instream");
        let of = work.single(at, &labels)?;
        work.computed(at, "outstream", json!({ "of": of, "aggregate": format!("ewma32({gain})") }));
        Ok(())
    };
    aggregator(names, "EWMA", "Exponentially weighted moving average: (x + gain v) / (gain + 1)", build)
        .control("gain", Attribute::at_least(0.0).default_value(16).about("the weight of the past"))
}

/// R1-32.
fn mean(names: &Names) -> Provider {
    aggregator(names, "ArithmeticMean", "Mean of the newest values", |at, work| {
        call(at, work, "mean", "outstream")
    })
}

fn median(names: &Names) -> Provider {
    aggregator(names, "Median", "Median of the newest values", |at, work| {
        call(at, work, "percentile(50)", "outstream")
    })
}

fn minimum(names: &Names) -> Provider {
    aggregator(names, "Minimum", "Least of the newest values", |at, work| {
        call(at, work, "percentile(0)", "outstream")
    })
}

fn maximum(names: &Names) -> Provider {
    aggregator(names, "Maximum", "Greatest of the newest values", |at, work| {
        call(at, work, "percentile(100)", "outstream")
    })
}

fn min_max(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        call(at, work, "percentile(0)", "outmin")?;
        call(at, work, "percentile(100)", "outmax")
    };
    Provider::new(names, Stage::Aggregator, "MinMax", "Least and greatest of the newest values", build)
        .input("instream")
        .output("outmin")
        .output("outmax")
}

fn percentile(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let rank = at.needed_number("rank")?;
        if !(0.0..=100.0).contains(&rank) {
            return Err(format!("the rank is {rank}; expected 0 to 100"));
        }
        call(at, work, &format!("percentile({rank})"), "outstream")
    };
    aggregator(names, "Percentile", "Nearest-rank percentile of the newest values", build)
        .control("rank", Attribute::at_least(0.0).required().about("percent"))
}

/// R1-30: the colour of the worst.
fn colour(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let (yellow, red) = (at.needed_number("yellow")?, at.needed_number("red")?);
        if red < yellow {
            return Err(format!("`red` is {red} and below `yellow`, {yellow}"));
        }
        let worst = format!("worst_{}", at.term());
        let incoming = work.feeding(&at.labels("instream"));
        let greatest = work.over(&worst, "percentile(100)", &incoming)?;
        work.metrics.insert(worst.clone(), greatest.into());
        let value =
            format!("if {worst} >= {red} {{ 2 }} else {{ if {worst} >= {yellow} {{ 1 }} else {{ 0 }} }}");
        work.computed(at, "outstream", value.into());
        Ok(())
    };
    aggregator(
        names,
        "Colour",
        "Green (0), yellow (1) or red (2), by the greatest of the newest values",
        build,
    )
    .control("yellow", Attribute::number().required().about("from which value on it is yellow"))
    .control("red", Attribute::number().required().about("from which value on it is red"))
}

/// R0-13.
fn anonymise(names: &Names) -> Provider {
    aggregator(
        names,
        "Anonymise",
        "The same values, of which publishers do not say what they are about",
        |at, work| {
            work.passed(at, &at.labels("instream"), "outstream");
            at.labels("outstream").iter().for_each(|label| work.hide(label));
            Ok(())
        },
    )
}

fn expression(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let text = at.needed("expression")?;
        let expression = Expression::parse(&text).map_err(|why| format!("the expression `{text}`: {why}"))?;
        let incoming = at.labels("instream");
        for input in &expression.inputs {
            let name = input.to_string();
            let own = matches!(input, MetricPath::Own(_)) && named(&name) == name;
            if !own || !incoming.contains(&name) {
                return Err(format!(
                    "the expression names `{name}`, which is no label in `instream` ({}); expressions can name labels of the letters a to z, digits and `_` that do not begin with a digit",
                    incoming.join(", ")
                ));
            }
        }
        work.computed(at, "outstream", text.into());
        Ok(())
    };
    aggregator(names, "Expression", "What is calculated from the labels that come in", build)
        .control("expression", Attribute::text().required().about("arithmetic over the labels: (a + b) / 2"))
}
