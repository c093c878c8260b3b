//! Mixins that deliver, one function each: values as they come, or what is done when one crosses a threshold.

use serde_json::json;

use super::super::model::Attribute;
use super::provider::{Build, Instance, Names, Provider, Stage, Work, named};
use crate::policy::name::identifier;

pub(super) fn all(names: &Names) -> Vec<Provider> {
    [email_alarm, send_udp, log, web_socket, webhook, sqlite, tcp, influx_db, action]
        .map(|provider| provider(names))
        .into()
}

fn publisher(names: &Names, term: &str, title: &str, build: Build) -> Provider {
    Provider::new(names, Stage::Publisher, term, title, build).input("input")
}

/// Of what is smoothed to what crosses a threshold: over it, by edge.
fn over(at: &Instance<'_>, work: &mut Work) -> Result<(String, f64), String> {
    let threshold = at.needed_number("threshold")?;
    let labels = at.labels("input");
    Ok((format!("{} <= {threshold}", work.single(at, &labels)?), threshold))
}

/// R1-45: one mail for each crossing.
fn email_alarm(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let to: Vec<String> = at.labels("email");
        if to.is_empty() {
            return Err("the attribute `email` is empty; expected a mail address".into());
        }
        let server = at.text("server").unwrap_or_else(|| at.settings.mail.clone());
        if server.is_empty() {
            return Err(
                "there is no server for mail; name one by the attribute `server`: smtp://HOST:PORT".into()
            );
        }
        let (objective, threshold) = over(at, work)?;
        let about = work.said(at, &at.labels("input")).to_string();
        // What is said of a value alone may say little: what is over 0.5 may be silence.
        let title = at.entity.title.as_deref().map(|title| format!("{}: ", plain(title))).unwrap_or_default();
        let mail = json!({ "mail": {
            "server": server, "from": at.settings.from, "to": to,
            "subject": format!("{title}{} is over {threshold}", plain(&about)),
            "text": format!("{title}{} is over {threshold} ({}).\n", plain(&about), at.labels("input").join(", ")),
        }});
        work.alarm(at, objective, mail)
    };
    publisher(names, "EmailAlarm", "A mail when a value goes over a threshold", build)
        .control("threshold", Attribute::number().required().about("what must be exceeded"))
        .control("email", Attribute::text().required().about("who gets it; several with commas between them"))
        .control("server", Attribute::text().about("smtp://HOST:PORT; the server's own, when absent"))
        .control("periods", periods())
}

/// How long something must last.
fn periods() -> Attribute {
    Attribute::at_least(0.0)
        .about("for how many periods of the sensor it must be exceeded; at once, when absent")
}

/// What people wrote is no template.
fn plain(text: &str) -> String {
    text.replace('{', "(").replace('}', ")").replace('$', "_").replace(char::is_control, "_")
}

/// S2: one datagram for each value.
fn send_udp(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let to = json!({ "udp": { "address": at.needed("udpAddr")?, "text": "Data: {single}\n" } });
        work.published(at, "input", to, json!({}))
    };
    publisher(names, "SendUDP", "Each value as a datagram: Data: 397.5356", build)
        .control("udpAddr", Attribute::text().required().about("HOST:PORT"))
}

fn log(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let name = plain(&at.text("filename").unwrap_or_default());
        work.published(
            at,
            "in_msg",
            json!({ "log": { "text": format!("{name} {{metric}} {{value}}") } }),
            json!({}),
        )
    };
    Provider::new(names, Stage::Publisher, "Log", "Each value in the log of the daemon", build)
        .input("in_msg")
        .control("filename", Attribute::text().about("what the lines begin with"))
}

/// R1-40: a light.
fn web_socket(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let to = json!({ "websocket": { "url": at.address("url")?, "send": ["{word}"] } });
        match at.number("threshold")? {
            _ if at.truth("values") => {
                let to =
                    json!({ "websocket": { "url": at.address("url")?, "send": ["{value}"], "keep": true } });
                work.published(at, "input", to, json!({}))?;
            }
            None => {
                work.published(
                    at,
                    "input",
                    to,
                    json!({ "changes": true, "words": ["green", "yellow", "red"] }),
                )?;
            }
            Some(threshold) => {
                let labels = at.labels("input");
                let of = work.single(at, &labels)?;
                let light = format!("light_{}", at.term());
                work.metrics
                    .insert(light.clone(), format!("if {of} > {threshold} {{ 1 }} else {{ 0 }}").into());
                let publish =
                    json!({ "metric": light, "to": to, "changes": true, "words": ["green", "red"] });
                work.publish.insert(at.term().to_string(), publish);
            }
        }
        Ok(())
    };
    publisher(names, "WebSocket", "green, yellow or red over a WebSocket, when it changes", build)
        .control("url", Attribute::text().required().about("ws://HOST:PORT/PATH"))
        .control(
            "threshold",
            Attribute::number().about("red above it, green below; absent: the input is a colour"),
        )
        .control("values", Attribute::boolean().about("each value as a number, in place of colours"))
}

fn webhook(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let about = work.said(at, &at.labels("input")).to_string();
        let body = format!(
            r#"{{"resource": {}, "label": {}, "value": {{value}}, "time": "{{time}}"}}"#,
            json!(plain(&about)),
            json!(plain(&at.labels("input").join(",")))
        );
        let headers = json!({ "Content-Type": "application/json" });
        let to = json!({ "http": { "method": "POST", "url": at.address("url")?, "body": body, "headers": headers } });
        work.published(at, "input", to, json!({}))
    };
    publisher(names, "Webhook", "Each value as JSON in a POST", build)
        .control("url", Attribute::text().required().about("http://HOST/PATH"))
}

fn sqlite(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let Some(directory) = &at.settings.data else {
            return Err("this server keeps no databases; its operator names a directory for them".into());
        };
        // Two names that differ are two files.
        let file = named(&at.needed("database")?);
        let table = named(&at.text("table").unwrap_or_else(|| "measurements".into()));
        let to = json!({ "sqlite": { "path": format!("{directory}/{file}.sqlite"), "table": table } });
        work.published(at, "input", to, json!({}))
    };
    publisher(names, "SQLite", "Each value as a row of a table", build)
        .control("database", Attribute::text().required().about("its name: letters, digits and _"))
        .control("table", Attribute::text().about("measurements, when absent"))
}

/// The draft's `tcp` publisher (`com.acme.tcp`): a line for each value.
fn tcp(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let to = json!({ "tcp": { "address": at.needed("address")?, "text": "{value}\n" } });
        work.published(at, "input", to, json!({}))
    };
    publisher(names, "TCP", "Each value as a line over a TCP connection", build)
        .control("address", Attribute::text().required().about("HOST:PORT"))
}

fn influx_db(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let escape = |text: &str| plain(text).replace(' ', "\\ ").replace(',', "\\,").replace('=', "\\=");
        let about = work.said(at, &at.labels("input")).to_string();
        let name = escape(&at.text("measurement").unwrap_or_else(|| at.labels("input").join("_")));
        let line = format!("{name},resource={} value={{value}} {{ns}}", escape(&about));
        let to = json!({ "http": { "method": "POST", "url": at.address("url")?, "body": line,
            "headers": { "Content-Type": "text/plain; charset=utf-8" } } });
        work.published(at, "input", to, json!({}))
    };
    publisher(names, "InfluxDB", "Each value in the line protocol of InfluxDB", build)
        .control("url", Attribute::text().required().about("http://HOST:8086/write?db=DATABASE"))
        .control("measurement", Attribute::text().about("what it is called; the label, when absent"))
}

/// R1-29, R1-53: closes the loop. The service that it names gets the alarm, and its strategies answer.
fn action(names: &Names) -> Provider {
    let build = |at: &Instance<'_>, work: &mut Work| {
        let (objective, _) = over(at, work)?;
        let (service, name) = (at.needed("service")?, at.term().to_string());
        let slo = identifier(&at.text("alarm").unwrap_or_else(|| "overload".into()));
        work.objective(at, objective)?;
        work.plan.push(json!({
            "when": name, "do": [{ "raise": { "service": service, "slo": slo } }], "mode": "act", "once": true,
            "also": !work.plan.is_empty(), "cooldown": super::provider::duration(at.period.clamp(0.1, 30.0)),
        }));
        work.references.insert("acts_on".into(), json!({ "service": service }));
        Ok(())
    };
    publisher(names, "Action", "An alarm for a managed service when a value goes over a threshold", build)
        .control("threshold", Attribute::number().required().about("what must be exceeded"))
        .control("service", Attribute::text().required().about("the managed service whose strategies answer"))
        .control("alarm", Attribute::text().about("what the alarm is called; overload, when absent"))
        .control("periods", periods())
}
