//! `sense`: one sensor, read once, as a plug-in that Nagios and its kin can run (R0-12; Monitoring Plugins Development Guidelines).

use nagios_range::NagiosRange;

use super::options::SenseOptions;
use super::{Common, Exit, Output, input};
use crate::connectors::Connectors;
use crate::model::Measurement;
use crate::model::connector::{BuiltSensor, SensorSpec};

/// The state of a check. Its number is the exit status of a plug-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl State {
    /// Plug-ins and the commands of homeostat share their numbers, not what they mean.
    fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Ok,
            Self::Warning => Exit::No,
            Self::Critical => Exit::Usage,
            Self::Unknown => Exit::Unreachable,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The command. Whatever goes wrong is `UNKNOWN`, with the reason.
pub(super) async fn sense(options: SenseOptions, common: Common) -> Exit {
    let mut output = Output::stdout(&common);
    let (state, line) = match read(&options).await {
        Ok(measured) => judged(&options, &measured),
        Err(why) => (State::Unknown, why),
    };
    // One line: what follows a line break or a bar means something else to those who read it.
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let told = output.text(&format!("{} {} - {line}", options.name.to_uppercase(), state.word()));
    told.map_or(Exit::Failed, |()| state.exit())
}

async fn read(options: &SenseOptions) -> Result<Vec<Measurement>, String> {
    let written = input::argument(&options.sensor).map_err(|failure| failure.message)?;
    let spec: SensorSpec = serde_json::from_value(written).map_err(|why| why.to_string())?;
    let wait = spec.timeout();
    let built = Connectors::new().sensor("sense", &options.name, &spec).map_err(|why| why.to_string())?;
    let BuiltSensor::Polled(mut sensor) = built else {
        return Err(format!(
            "a sensor of kind `{}` waits for values; only those that look can be read once",
            spec.protocol()
        ));
    };
    match tokio::time::timeout(wait.0, sensor.read()).await {
        Ok(Ok(measured)) => Ok(measured),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err(format!("no answer within {wait}")),
    }
}

/// The worst state of the ranges, what is said of the value, and everything that was measured as performance data.
fn judged(options: &SenseOptions, measured: &[Measurement]) -> (State, String) {
    let headline = measured.iter().find(|m| m.output.is_none() && m.label.is_none());
    let Some(value) = headline.map(|m| m.value) else {
        return (State::Unknown, "nothing was measured".into());
    };
    let breaks = |range: &Option<NagiosRange>| range.as_ref().is_some_and(|range| range.check(value));
    let state = match (breaks(&options.critical), breaks(&options.warning)) {
        (true, _) => State::Critical,
        (_, true) => State::Warning,
        _ => State::Ok,
    };
    let range = |range: &Option<NagiosRange>| range.as_ref().map(ToString::to_string).unwrap_or_default();
    let limits = format!("{};{}", range(&options.warning), range(&options.critical));
    let data = measured.iter().map(|m| match (&m.output, &m.label) {
        (None, None) => format!("{}={};{limits}", quoted(&options.name), m.value),
        (output, label) => {
            let output = output.iter().map(|o| format!("_{o}"));
            let label = label.iter().map(|l| format!("[{l}]"));
            let name = output.chain(label).fold(options.name.clone(), |name, part| format!("{name}{part}"));
            format!("{}={}", quoted(&name), m.value)
        }
    });
    (state, format!("{value} | {}", data.collect::<Vec<_>>().join(" ").trim_end_matches(';')))
}

/// A label of performance data: in quotes when it contains what would end it.
fn quoted(name: &str) -> String {
    match name.contains([' ', '=', '\'', '|']) {
        true => format!("'{}'", name.replace('\'', "''").replace('|', "_")),
        false => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn options(warning: Option<&str>, critical: Option<&str>) -> SenseOptions {
        let range = |text: &str| NagiosRange::from(text).expect("a range");
        SenseOptions {
            sensor: String::new(),
            name: "free space".into(),
            warning: warning.map(range),
            critical: critical.map(range),
        }
    }

    #[test]
    fn ranges_decide_by_the_worst_and_everything_measured_is_told() {
        let delay = Measurement { output: Some(Arc::from("delay")), ..Measurement::value(0.5) };
        let disk = Measurement { label: Some(Arc::from("/ x=1")), ..Measurement::value(7.0) };
        let measured = [Measurement::value(12.5), delay, disk];
        for (warning, critical, state) in [
            (None, None, State::Ok),
            (Some("20"), Some("30"), State::Ok),
            (Some("10"), Some("30"), State::Warning),
            (Some("10"), Some("11"), State::Critical),
            (Some("20:"), None, State::Warning),
            (None, Some("@12:13"), State::Critical),
            (Some("~:12"), Some("10:20"), State::Warning),
        ] {
            let (found, line) = judged(&options(warning, critical), &measured);
            assert_eq!(found, state, "{warning:?} {critical:?}");
            assert!(line.starts_with("12.5 | 'free space'=12.5"), "{line}");
            assert!(line.ends_with("'free space_delay'=0.5 'free space[/ x=1]'=7"), "{line}");
        }
        assert_eq!(judged(&options(None, None), &measured[1..]).0, State::Unknown);
    }
}
