//! The actions of rules: what each needs, and what it means.

use std::fmt::Write;

use url::Url;

use super::condition::Value;
use super::rule::Action;
use super::validate::ErrorKind;
use crate::model::name::service_name_problem;

/// What an action means once its parameters are read.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// `OutputMetric`.
    Output(Output),
    /// `EnableMonitoringRule`, `DisableMonitoringRule` and their short names.
    Switch {
        /// Which rule.
        rule: String,
        /// On or off.
        on: bool,
    },
    /// `SetSamplingTime`, `SetSamplingProbability`.
    Tune {
        /// Whose metric; that of the rule itself, when absent.
        rule: Option<String>,
        /// Which parameter of it.
        parameter: &'static str,
        /// Its new value.
        value: String,
    },
    /// `RestCall`: a request without a body.
    Call {
        /// GET, POST, PUT or DELETE.
        method: String,
        /// Where.
        url: String,
    },
    /// `CloudMLCall`, `ScaleOut`.
    Cloud {
        /// `ws://IP:PORT`.
        url: String,
        /// What is said there, in order.
        commands: Vec<String>,
        /// How long the action rests after that, in seconds; 0: not at all.
        cooldown: u32,
    },
    /// `RaiseAlarm`, `NotifyViolation`: the alarm of a managed service (R2-38).
    Raise {
        /// Which service.
        service: String,
        /// Which SLO.
        slo: Option<String>,
    },
}

/// An output metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub metric: String,
    /// The resource that it is about; absent (`ID`): the resource of the datum or group, or `ALL`.
    pub resource: Option<String>,
    /// What it is.
    pub value: Value,
}

/// What is wrong with an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind of error.
    pub kind: ErrorKind,
    /// The action or parameter that it is about.
    pub position: String,
    /// What was found, and what would be right.
    pub details: String,
}

/// The longest name of a metric, in bytes.
pub const MAX_METRIC: usize = 200;
/// The longest time that anything here may take, in seconds: a year.
pub const MAX_SECONDS: u32 = 31_536_000;

const SWITCH: &[&str] = &["ruleId"];
const CLOUD: &[&str] = &["command", "tier"];
/// Every action with the parameters that it requires.
const ACTIONS: [(&str, &[&str]); 12] = [
    ("OutputMetric", &["metric"]),
    ("EnableMonitoringRule", SWITCH),
    ("EnableRule", SWITCH),
    ("DisableMonitoringRule", SWITCH),
    ("DisableRule", SWITCH),
    ("SetSamplingTime", &["time"]),
    ("SetSamplingProbability", &["probability"]),
    ("RestCall", &["url", "method"]),
    ("CloudMLCall", CLOUD),
    ("ScaleOut", &["tier"]),
    ("RaiseAlarm", &["service"]),
    ("NotifyViolation", &["service"]),
];

/// The names of all actions.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    ACTIONS.iter().map(|(name, _)| *name)
}

/// What is wrong with the name of a metric.
pub fn metric_problem(name: &str) -> Option<String> {
    match name {
        _ if name.trim().is_empty() => Some("the name of a metric is empty".into()),
        _ if name.len() > MAX_METRIC => {
            Some(format!("the name of a metric has {} bytes; at most {MAX_METRIC} are allowed", name.len()))
        }
        _ if name.chars().any(char::is_control) => {
            Some("the name of a metric contains a control character".into())
        }
        _ => None,
    }
}

/// Reads an action.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(action: &Action) -> Result<Meaning, Vec<Fault>> {
    let Some(name) = action.name.as_deref() else {
        return fault(ErrorKind::MissingField, "action", "an action needs a `name`");
    };
    let Some((_, required)) = ACTIONS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = names().collect();
        let near = crate::policy::diagnostics::suggestion(name, known.iter().copied());
        let near = near.unwrap_or_else(|| format!("there are {}", known.join(", ")));
        return fault(ErrorKind::InvalidAction, name, format!("There's no such action; {near}"));
    };
    let missing: Vec<_> = required.iter().filter(|p| action.parameter(p).is_none()).copied().collect();
    if !missing.is_empty() {
        let details = format!("Missing required parameters: [{}]", missing.join(", "));
        return fault(ErrorKind::MissingRequiredParameter, name, details);
    }
    let parameter = |name: &str| action.parameter(name).unwrap_or_default().trim();
    match name {
        "OutputMetric" => output(action),
        "EnableMonitoringRule" | "EnableRule" => switch(parameter("ruleId"), true),
        "DisableMonitoringRule" | "DisableRule" => switch(parameter("ruleId"), false),
        "SetSamplingTime" => tune(action, "time", "samplingTime", 1.0 / 1024.0..=f64::from(MAX_SECONDS)),
        "SetSamplingProbability" => tune(action, "probability", "samplingProbability", 0.0..=1.0),
        "RestCall" => call(parameter("method"), parameter("url")),
        "CloudMLCall" => cloud(action, parameter("command")),
        "ScaleOut" => cloud(action, "SCALE"),
        _ => raise(parameter("service"), action.parameter("slo").map(str::trim)),
    }
}

fn fault<T>(kind: ErrorKind, position: &str, details: impl Into<String>) -> Result<T, Vec<Fault>> {
    Err(vec![Fault { kind, position: position.into(), details: details.into() }])
}

fn invalid<T>(position: &str, details: impl Into<String>) -> Result<T, Vec<Fault>> {
    fault(ErrorKind::InvalidAction, position, details)
}

fn output(action: &Action) -> Result<Meaning, Vec<Fault>> {
    let metric = action.parameter("metric").unwrap_or_default();
    if let Some(problem) = metric_problem(metric) {
        return fault(ErrorKind::InvalidMetric, "metric", problem);
    }
    let value = match Value::parse(action.parameter("value").unwrap_or("METRIC")) {
        Ok(value) => value,
        Err(error) => return invalid("value", error.to_string()),
    };
    if value.aggregates() && value.reads_metric() {
        return invalid("value", "METRIC inside and outside of functions cannot be mixed");
    }
    let resource = action.parameter("resourceId").filter(|id| !matches!(*id, "ID" | ""));
    if let Some(problem) = resource.and_then(metric_problem) {
        return invalid("resourceId", problem.replace("of a metric", "of a resource"));
    }
    Ok(Meaning::Output(Output { metric: metric.into(), resource: resource.map(str::to_string), value }))
}

fn switch(rule: &str, on: bool) -> Result<Meaning, Vec<Fault>> {
    match service_name_problem(rule) {
        Some(problem) => invalid("ruleId", problem),
        None => Ok(Meaning::Switch { rule: rule.into(), on }),
    }
}

fn tune(
    action: &Action,
    given: &str,
    parameter: &'static str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Meaning, Vec<Fault>> {
    let value = action.parameter(given).unwrap_or_default().trim();
    if !value.parse::<f64>().is_ok_and(|number| range.contains(&number)) {
        let (low, high) = (range.start(), range.end());
        let least = if *low == 0.0 { "from 0" } else { "above 0" };
        return invalid(given, format!("`{value}` is no number {least} to {high}"));
    }
    let rule = action.parameter("ruleId").map(str::trim).filter(|rule| !rule.is_empty());
    if let Some(problem) = rule.and_then(service_name_problem) {
        return invalid("ruleId", problem);
    }
    Ok(Meaning::Tune { rule: rule.map(str::to_string), parameter, value: value.into() })
}

fn call(method: &str, url: &str) -> Result<Meaning, Vec<Fault>> {
    let mut faults = Vec::new();
    let method = method.to_uppercase();
    if !["GET", "POST", "PUT", "DELETE"].contains(&method.as_str()) {
        let details = "Method parameter must be one of DELETE, GET, POST or PUT";
        faults.extend(invalid::<()>("method", details).err().into_iter().flatten());
    }
    let parsed = Url::parse(url).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    if parsed.is_none() {
        let details = format!("The specified URL is not a valid URL: {url}");
        faults.extend(invalid::<()>("url", details).err().into_iter().flatten());
    }
    match parsed {
        // Braces would be holes of a template.
        Some(url) if faults.is_empty() => {
            Ok(Meaning::Call { method, url: url.as_str().replace('{', "%7B").replace('}', "%7D") })
        }
        _ => Err(faults),
    }
}

/// What may stand in a command to CloudML, which is YAML.
fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '(' | ')' | '/' | ':' | '@');
    !word.is_empty() && word.len() <= MAX_METRIC && word.chars().all(plain)
}

fn cloud(action: &Action, command: &str) -> Result<Meaning, Vec<Fault>> {
    let text = |name: &str, otherwise: &'static str| {
        action.parameter(name).map(str::trim).filter(|v| !v.is_empty()).unwrap_or(otherwise).to_string()
    };
    let (ip, port, tier) = (text("ip", "127.0.0.1"), text("port", "9030"), text("tier", ""));
    if !is_plain(&tier) {
        return invalid("tier", format!("The tier isn't valid for the given action: `{tier}`"));
    }
    let host = if ip.contains(':') && !ip.starts_with('[') { format!("[{ip}]") } else { ip };
    let url = format!("ws://{host}:{port}");
    let port_is_right = port.parse::<u16>().is_ok_and(|p| p > 0);
    if !port_is_right
        || !Url::parse(&url).is_ok_and(|u| u.path() == "/" && u.query().is_none() && u.username().is_empty())
    {
        return invalid(
            "ip",
            format!("`{url}` is no address; expected an `ip` and a `port` from 1 to 65535"),
        );
    }
    let Some(n) = text("n", "1").parse::<i32>().ok().filter(|n| (-1000..=1000).contains(n) && *n != 0) else {
        return invalid(
            "n",
            "The number of instances isn't valid for the given action; expected -1000 to 1000, but not 0",
        );
    };
    let cooldown = match text("cooldown", "600").parse::<i64>() {
        // Below 0 the original does not rest either.
        Ok(seconds) if seconds <= i64::from(MAX_SECONDS) => u32::try_from(seconds.max(0)).unwrap_or(0),
        _ => return invalid("cooldown", format!("the cooldown is no number of seconds up to {MAX_SECONDS}")),
    };
    let say =
        |name: &str, parameters: &str| format!("!extended {{ name: {name}, params: [ {parameters} ] }}");
    let said = match command.to_uppercase().as_str() {
        "SCALE" if n > 0 => say("ScaleOut", &format!("{tier} , {n}")),
        "SCALE" => say("StopComponent", &tier),
        "BURST" => say("Burst", &format!("{tier} , {n}")),
        _ => {
            return invalid("command", "Command not recognized; it must be one among these: SCALE, BURST");
        }
    };
    Ok(Meaning::Cloud { url, commands: vec!["!listenToAny".into(), said], cooldown })
}

fn raise(service: &str, slo: Option<&str>) -> Result<Meaning, Vec<Fault>> {
    if let Some(problem) = service_name_problem(service) {
        return invalid("service", problem);
    }
    let slo = slo.filter(|slo| !slo.is_empty());
    if let Some(problem) = slo.and_then(crate::model::name::identifier_problem) {
        return invalid("slo", problem);
    }
    Ok(Meaning::Raise { service: service.into(), slo: slo.map(str::to_string) })
}

/// Reads seconds: from 0.01, at most a year. Written as policies write durations.
///
/// # Errors
/// A sentence.
pub fn seconds(text: &str) -> Result<String, String> {
    match text.trim().parse::<f64>() {
        Ok(seconds) if seconds >= 0.01 && seconds <= f64::from(MAX_SECONDS) => {
            let mut out = String::new();
            let _ = if seconds.fract() == 0.0 {
                write!(out, "{seconds}s")
            } else {
                write!(out, "{}ms", (seconds * 1e3).round())
            };
            Ok(out)
        }
        _ => Err(format!("`{text}` is no number of seconds from 0.01 to {MAX_SECONDS} (a year)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::tower::Parameter;

    fn action(name: &str, parameters: &[(&str, &str)]) -> Action {
        let parameters = parameters.iter().map(|(n, v)| Parameter { name: (*n).into(), value: (*v).into() });
        Action { name: Some(name.into()), parameters: parameters.collect() }
    }

    fn position(name: &str, parameters: &[(&str, &str)]) -> String {
        match read(&action(name, parameters)) {
            Ok(meaning) => panic!("{meaning:?}"),
            Err(faults) => {
                faults.iter().map(|f| format!("{} {}", f.kind, f.position)).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Requirement: R2-37.
    #[test]
    fn every_action_says_what_it_lacks() {
        for (name, required) in ACTIONS {
            let text = position(name, &[]);
            assert_eq!(text, format!("MISSING_REQUIRED_PARAMETER {name}"), "{required:?}");
        }
        assert_eq!(position("Business", &[]), "INVALID_ACTION Business");
        assert_eq!(position("outputMetric", &[("metric", "M")]), "INVALID_ACTION outputMetric");
        assert_eq!(
            position("RestCall", &[("url", "nowhere"), ("method", "HEAD")]),
            "INVALID_ACTION method, INVALID_ACTION url"
        );
        assert_eq!(
            position("OutputMetric", &[("metric", "M"), ("value", "SUM(METRIC) + METRIC")]),
            "INVALID_ACTION value"
        );
        assert_eq!(position("OutputMetric", &[("metric", " ")]), "INVALID_METRIC metric");
        assert_eq!(position("SetSamplingTime", &[("time", "0")]), "INVALID_ACTION time");
        assert_eq!(
            position("SetSamplingProbability", &[("probability", "1.5")]),
            "INVALID_ACTION probability"
        );
        assert_eq!(position("CloudMLCall", &[("command", "DANCE"), ("tier", "t")]), "INVALID_ACTION command");
        assert_eq!(
            position("CloudMLCall", &[("command", "SCALE"), ("tier", "t ] }\n!evil")]),
            "INVALID_ACTION tier"
        );
        assert_eq!(position("ScaleOut", &[("tier", "t"), ("n", "0")]), "INVALID_ACTION n");
        assert_eq!(position("ScaleOut", &[("tier", "t"), ("port", "0")]), "INVALID_ACTION ip");
        assert_eq!(position("ScaleOut", &[("tier", "t"), ("ip", "a/b?c")]), "INVALID_ACTION ip");
        assert_eq!(position("RaiseAlarm", &[("service", "no name")]), "INVALID_ACTION service");
    }

    /// Requirement: R2-37.
    #[test]
    fn commands_to_the_cloud_are_those_of_the_original() {
        let said = |name: &str, parameters: &[(&str, &str)]| match read(&action(name, parameters)) {
            Ok(Meaning::Cloud { url, commands, cooldown }) => (url, commands[1].clone(), cooldown),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            said("CloudMLCall", &[("command", "SCALE"), ("tier", "front"), ("n", "2")]),
            ("ws://127.0.0.1:9030".into(), "!extended { name: ScaleOut, params: [ front , 2 ] }".into(), 600)
        );
        assert_eq!(
            said("CloudMLCall", &[("command", "scale"), ("tier", "front"), ("n", "-1"), ("cooldown", "-1")]),
            ("ws://127.0.0.1:9030".into(), "!extended { name: StopComponent, params: [ front ] }".into(), 0)
        );
        assert_eq!(
            said("CloudMLCall", &[("command", "BURST"), ("tier", "front"), ("ip", "::1"), ("port", "80")]),
            ("ws://[::1]:80".into(), "!extended { name: Burst, params: [ front , 1 ] }".into(), 600)
        );
        assert_eq!(
            said("ScaleOut", &[("tier", "front")]).1,
            "!extended { name: ScaleOut, params: [ front , 1 ] }"
        );
    }

    #[test]
    fn seconds_are_above_zero_and_at_most_a_year() {
        assert_eq!(seconds("60"), Ok("60s".into()));
        assert_eq!(seconds(" 0.5 "), Ok("500ms".into()));
        assert_eq!(seconds("31536000"), Ok("31536000s".into()));
        for wrong in ["0", "-1", "31536001", "1m", "", "NaN", "inf", "0.009"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
