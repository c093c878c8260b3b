//! What is wrong with the description of a sensor or effector, as far as its text alone shows: no network, no files, no clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::HumanDuration;
use super::connector::{
    CollectSensor, CustomConnector, EffectCheck, EffectorSpec, HostQuantity, HostSensor, HttpEffector,
    HttpSensor, MailEffector, PingSensor, ProcessQuantity, ProcessSensor, PrometheusSensor, ProxyQuantity,
    ProxySensor, SensorSpec, WebSocketEffector,
};
use super::series::{SeriesSelector, name_length};
use super::template::{Holes, Part, Template};

/// Headers that the HTTP client writes itself.
const RESERVED_HEADERS: &[&str] = &["host", "content-length", "transfer-encoding", "connection"];

impl SensorSpec {
    /// Says what is wrong with it, or `None` when a connector can be built from it (custom kinds check their own configuration).
    pub fn problem(&self) -> Option<String> {
        self.syntax().err()
    }

    fn syntax(&self) -> Result<(), String> {
        nonzero("every", self.every())?;
        nonzero("timeout", Some(self.timeout()))?;
        match self {
            Self::Push(_) => Ok(()),
            Self::Host(s) => host(s),
            Self::Process(s) => process(s),
            Self::Http(s) => http(s),
            Self::Exec(s) => command(&s.command).and_then(|()| optional_pointer(s.pointer.as_deref())),
            Self::Nagios(s) => command(&s.command),
            Self::Ping(s) => ping(s),
            Self::Prometheus(s) => prometheus(s),
            Self::Udp(s) => {
                address(&s.listen)?;
                key(s.key.as_deref(), |c| c.is_whitespace())
            }
            Self::Statsd(s) => {
                address(&s.listen)?;
                key(Some(&s.key), |c| c.is_whitespace() || matches!(c, ':' | '|' | '@'))
            }
            Self::Collectd(s) => {
                address(&s.listen)?;
                key(Some(&s.key), |c| c.is_control())?;
                match s.key.split('/').count() {
                    2 | 3 if s.key.split('/').all(|part| !part.is_empty()) => Ok(()),
                    _ => Err(format!(
                        "the key `{}` is not PLUGIN/TYPE or HOST/PLUGIN/TYPE, such as `cpu-0/cpu-idle`",
                        s.key
                    )),
                }
            }
            Self::Proxy(s) => proxy(s),
            Self::Property(s) => super::name::service_name_problem(&s.name).map_or(Ok(()), Err),
            Self::Collect(s) => collect(s),
            Self::Custom(c) => custom(c),
        }
    }
}

impl EffectorSpec {
    /// Says what is wrong with it, or `None` when a connector can be built from it (custom kinds check their own configuration).
    pub fn problem(&self) -> Option<String> {
        self.syntax().err()
    }

    fn syntax(&self) -> Result<(), String> {
        nonzero("timeout", Some(self.timeout()))?;
        match self {
            Self::Http(e) => http_effector(e),
            Self::Exec(e) => {
                command_template(&e.command)?;
                e.check.as_ref().map_or(Ok(()), check)
            }
            Self::Mail(e) => mail(e),
            Self::Websocket(e) => websocket(e),
            Self::Udp(e) | Self::Tcp(e) => {
                let port = e.address.rsplit_once(':').and_then(|(host, port)| {
                    (!host.is_empty()).then_some(port.parse::<u16>().ok()).flatten().filter(|port| *port > 0)
                });
                if port.is_none() {
                    return Err(format!("`address: {}` is no address; expected HOST:PORT", e.address));
                }
                if e.keep && matches!(self, Self::Udp(_)) {
                    return Err("`keep` goes with `tcp`; datagrams have no connection".into());
                }
                template("text", &e.text, Holes::Arguments).map(drop)
            }
            Self::Sqlite(e) => match e.table.as_deref().and_then(super::name::identifier_problem) {
                Some(why) => Err(format!("`table`: {why}")),
                None if e.path.is_empty() => Err("`path` is empty; expected a file".into()),
                None => Ok(()),
            },
            Self::Log(e) => {
                template("text", e.text.as_deref().unwrap_or_default(), Holes::Arguments).map(drop)
            }
            Self::Custom(c) => custom(c),
        }
    }
}

fn nonzero(what: &str, duration: Option<HumanDuration>) -> Result<(), String> {
    match duration {
        Some(d) if d.0.is_zero() => Err(format!("`{what}` is zero; expected a duration such as 5s")),
        _ => Ok(()),
    }
}

fn host(s: &HostSensor) -> Result<(), String> {
    use HostQuantity as Q;
    let parts = matches!(
        s.what,
        Q::Cpu
            | Q::DiskTotal
            | Q::DiskAvailable
            | Q::DiskUsedRatio
            | Q::DiskRead
            | Q::DiskWritten
            | Q::NetReceived
            | Q::NetSent
    );
    match (&s.name, s.each) {
        (Some(_), true) => Err("`name` and `each` exclude each other; write one of them".into()),
        (Some(_), false) | (None, true) if !parts => {
            Err("this quantity has no parts; `name` and `each` go with cpu, disk_… and net_…".into())
        }
        _ => Ok(()),
    }
}

fn process(s: &ProcessSensor) -> Result<(), String> {
    if s.own {
        return match (&s.name, s.pid, s.top) {
            (None, None, None) => Ok(()),
            _ => Err("`own` excludes `name`, `pid` and `top`; write one of them".into()),
        };
    }
    match (&s.name, s.pid, s.top) {
        (Some(name), None, None) if name.is_empty() => {
            Err("`name` is empty; expected the name of a process".into())
        }
        (None, None, Some(0)) => Err("`top` is 0; expected how many processes to show, such as 5".into()),
        (None, None, Some(_)) if s.what == ProcessQuantity::Count => {
            Err("`top` needs a quantity that processes have more or less of: cpu, rss, threads, descriptors"
                .into())
        }
        (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) => Ok(()),
        (None, None, None) if s.what == ProcessQuantity::Count => Ok(()),
        (None, None, None) => {
            Err("which process is missing: write one of `name`, `pid`, `own` and `top`".into())
        }
        _ => Err("`name`, `pid` and `top` exclude each other; write one of them".into()),
    }
}

fn proxy(s: &ProxySensor) -> Result<(), String> {
    if s.what == ProxyQuantity::ResponseTime && s.every.is_some() {
        return Err("`every` goes with the other quantities; `response_time` comes with each call".into());
    }
    if s.what == ProxyQuantity::Healthy && s.reference.is_none() {
        return Err("`healthy` is about the candidates of a reference; say which: `reference: NAME`".into());
    }
    if s.what == ProxyQuantity::Healthy && s.route.is_some() {
        return Err(
            "candidates are able to work or not, whatever the route; `route` does not go with `healthy`"
                .into(),
        );
    }
    if s.what == ProxyQuantity::Failures && s.route.is_some() {
        return Err("`failures` are not told apart by route: a request that is refused has none".into());
    }
    let Some(route) = s.route.as_deref().filter(|r| *r != "other") else { return Ok(()) };
    let (method, path) = route.split_once(' ').unwrap_or(("GET", route));
    if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase()) || !path.starts_with('/') {
        return Err(format!(
            "`{route}` is no route; expected one such as `GET /items/{{id}}`, `/files/{{rest*}}` or `other`"
        ));
    }
    let last = path.matches('/').count() - 1;
    for (at, part) in path[1..].split('/').enumerate() {
        let hole = part.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
        let name = hole.map(|h| if at == last { h.strip_suffix('*').unwrap_or(h) } else { h });
        if name.unwrap_or(part).contains(['{', '}', '*', '?', ' ', '#']) || name == Some("") {
            return Err(format!(
                "`{part}` in `{route}` is neither a word nor a hole such as `{{id}}` (or, as the last, `{{rest*}}`)"
            ));
        }
    }
    Ok(())
}

fn http(s: &HttpSensor) -> Result<(), String> {
    url(&s.url)?;
    optional_pointer(s.pointer.as_deref())?;
    headers(&s.headers, Holes::Secrets)
}

fn ping(s: &PingSensor) -> Result<(), String> {
    nonzero("max_delay", s.max_delay)?;
    let target = match (&s.tcp, &s.udp) {
        (Some(target), None) | (None, Some(target)) => target,
        (Some(_), Some(_)) => return Err("`tcp` and `udp` exclude each other; write one of them".into()),
        (None, None) => {
            return Err("what is to be reached is missing: `tcp: HOST:PORT` or `udp: HOST:PORT`".into());
        }
    };
    match target.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {}
        _ => return Err(format!("`{target}` is no address; expected HOST:PORT, such as example.org:22")),
    }
    match s.size {
        Some(_) if s.udp.is_none() => Err("`size` goes with `udp`".into()),
        Some(size) if !(8..=65_507).contains(&size) => {
            Err(format!("`size: {size}` is no size of a datagram; expected 8 to 65507 bytes"))
        }
        _ => Ok(()),
    }
}

fn mail(e: &MailEffector) -> Result<(), String> {
    let server = ::url::Url::parse(&e.server).ok().filter(|url| url.has_host());
    let known = ["smtp", "smtps", "smtp+starttls"];
    match &server {
        Some(url)
            if known.contains(&url.scheme()) && url.username().is_empty() && url.password().is_none() => {}
        _ => {
            return Err(format!(
                "`server: {}` is no mail server; expected smtp://HOST:PORT (`user` and `password` stand for themselves)",
                e.server
            ));
        }
    }
    if e.user.is_some() != e.password.is_some() {
        return Err("`user` and `password` go together".into());
    }
    template("password", e.password.as_deref().unwrap_or_default(), Holes::Secrets)?;
    if e.to.is_empty() {
        return Err("`to` is empty; expected who is to receive the mail".into());
    }
    for (field, address) in std::iter::once(("from", &e.from)).chain(e.to.iter().map(|to| ("to", to))) {
        if let Err(why) = address.parse::<lettre::message::Mailbox>() {
            return Err(format!(
                "`{field}: {address}` is no mail address ({why}); expected one such as ops@example.org"
            ));
        }
    }
    template("subject", e.subject.as_deref().unwrap_or_default(), Holes::Arguments)?;
    template("text", e.text.as_deref().unwrap_or_default(), Holes::Arguments).map(drop)
}

fn prometheus(s: &PrometheusSensor) -> Result<(), String> {
    url(&s.url)?;
    SeriesSelector::parse(&s.series)?;
    match &s.by {
        Some(label) if label.is_empty() || name_length(label, false) != label.len() => {
            Err(format!("`by: {label}` is no label; expected letters, digits and `_`, such as code"))
        }
        _ => Ok(()),
    }
}

fn http_effector(e: &HttpEffector) -> Result<(), String> {
    url_template("url", &e.url)?;
    let method = e.method.as_deref().unwrap_or("POST");
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(format!(
            "`method: {method}` is no HTTP method; expected one such as POST, PUT or DELETE"
        ));
    }
    template("body", e.body.as_deref().unwrap_or_default(), Holes::Arguments)?;
    headers(&e.headers, Holes::Both)?;
    e.check.as_ref().map_or(Ok(()), check)
}

fn check(c: &EffectCheck) -> Result<(), String> {
    let inside = |why: String| format!("in `check`: {why}");
    match (&c.url, &c.command) {
        (Some(url), None) => url_template("url", url).map_err(inside)?,
        (None, Some(words)) => command_template(words).map_err(inside)?,
        (Some(_), Some(_)) => return Err("`check` has both `url` and `command`; write one of them".into()),
        (None, None) => return Err("`check` has neither `url` nor `command`; write one of them".into()),
    }
    if c.command.is_some() && (c.pointer.is_some() || c.equals.is_some()) {
        return Err(
            "in `check`: `pointer` and `equals` go with `url`; a `command` answers by its exit status".into(),
        );
    }
    optional_pointer(c.pointer.as_deref()).map_err(inside)?;
    template("equals", c.equals.as_deref().unwrap_or_default(), Holes::Arguments).map(drop).map_err(inside)
}

fn custom(c: &CustomConnector) -> Result<(), String> {
    match c.kind.is_empty() {
        true => Err("`kind` is empty; expected the kind that the program registered".into()),
        false => Ok(()),
    }
}

/// Parses a URL of a sensor or effector.
///
/// # Errors
/// A sentence that says what was found and what would be right.
pub fn url(text: &str) -> Result<url::Url, String> {
    let fail =
        |why: &str| format!("`{text}` is no URL ({why}); expected one such as http://127.0.0.1:8080/stats");
    let parsed = url::Url::parse(text).map_err(|e| fail(&e.to_string().to_lowercase()))?;
    match parsed.scheme() {
        "http" => {}
        "https" if cfg!(feature = "tls") => {}
        "https" => {
            return Err(format!(
                "`{text}` needs TLS, which this build lacks; build with `--features tls` or use http://"
            ));
        }
        _ => return Err(fail("the scheme is neither http nor https")),
    }
    match parsed.host_str() {
        Some(_) => Ok(parsed),
        None => Err(fail("the host is missing")),
    }
}

/// A URL with holes is one that is a URL once the holes are filled with a plain word; a hole in the host or port cannot be checked so.
pub(super) fn url_template(what: &str, text: &str) -> Result<(), String> {
    let template = template(what, text, Holes::Arguments)?;
    let filled: String = template
        .parts()
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.as_str(),
            _ => "1",
        })
        .collect();
    url(&filled).map(drop).map_err(|e| e.replace(&format!("`{filled}`"), &format!("`{text}`")))
}

fn template(what: &str, text: &str, holes: Holes) -> Result<Template, String> {
    Template::parse(text, holes).map_err(|e| format!("in `{what}`: {e}"))
}

pub(super) fn headers(headers: &BTreeMap<String, String>, holes: Holes) -> Result<(), String> {
    for (name, value) in headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("`{name}` is no header name; expected one such as authorization"));
        }
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!("the header `{name}` is written by the HTTP client; leave it out"));
        }
        template(&format!("headers.{name}"), value, holes)?;
    }
    Ok(())
}

fn optional_pointer(pointer: Option<&str>) -> Result<(), String> {
    let Some(text) = pointer else { return Ok(()) };
    let fail = |why: &str| {
        Err(format!(
            "`{text}` is no JSON pointer ({why}); expected one such as /stats/cost or /queues/0 (RFC 6901)"
        ))
    };
    if !text.is_empty() && !text.starts_with('/') {
        return fail("it does not begin with /");
    }
    match text.split('~').skip(1).all(|after| after.starts_with(['0', '1'])) {
        true => Ok(()),
        false => fail("`~` is written ~0 and `/` in a name ~1"),
    }
}

fn command(words: &[String]) -> Result<(), String> {
    match words.first() {
        None => Err("`command` is empty; expected a program and its arguments, such as [uptime, -s]".into()),
        Some(program) if program.trim().is_empty() => {
            Err("the first word of `command` is empty; expected a program".into())
        }
        Some(_) if words.iter().any(|w| w.contains('\0')) => Err("`command` contains a zero byte".into()),
        Some(_) => Ok(()),
    }
}

/// The program itself has no holes: which program runs is the policy's decision, not an argument's.
fn command_template(words: &[String]) -> Result<(), String> {
    command(words)?;
    for (at, word) in words.iter().enumerate() {
        let template = template("command", word, Holes::Arguments)?;
        if at == 0 && template.arguments().next().is_some() {
            return Err(format!("the program `{word}` is a template; only its arguments can be"));
        }
    }
    Ok(())
}

fn address(text: &str) -> Result<(), String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(format!("`{text}` has port 0; expected a port such as 8125"))
        }
        Ok(_) => Ok(()),
        Err(_) => {
            Err(format!("`{text}` is no address; expected an IP address and a port, such as 127.0.0.1:8125"))
        }
    }
}

fn websocket(effector: &WebSocketEffector) -> Result<(), String> {
    let url = url::Url::parse(&effector.url).map_err(|why| format!("`url: {}`: {why}", effector.url))?;
    if url.scheme() != "ws" || url.host_str().is_none() {
        return Err(format!("`url: {}` is no WebSocket; expected ws://HOST:PORT/PATH", effector.url));
    }
    if effector.send.is_empty() {
        return Err("`send` is empty; expected the texts to send".into());
    }
    effector.send.iter().try_for_each(|text| template("send", text, Holes::Arguments).map(drop))
}

fn collect(sensor: &CollectSensor) -> Result<(), String> {
    let long = |text: &str| text.is_empty() || text.len() > 1024 || text.contains(char::is_control);
    if sensor.metric.as_deref().is_some_and(long) {
        return Err("`metric` is not the name of a metric; expected up to 1024 bytes of text".into());
    }
    match sensor.parameters.iter().find(|(name, value)| long(name) || value.len() > 4096) {
        Some((name, _)) => Err(format!("the parameter `{name}` is empty or too long")),
        None => Ok(()),
    }
}

fn key(key: Option<&str>, bad: impl Fn(char) -> bool) -> Result<(), String> {
    match key {
        Some("") => Err("`key` is empty; expected the name that the lines begin with".into()),
        Some(key) if key.contains(bad) => Err(format!(
            "`key: {key}` contains a character that separates; expected a name such as shop.latency"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sensor(value: serde_json::Value) -> Option<String> {
        serde_json::from_value::<SensorSpec>(value.clone())
            .unwrap_or_else(|e| panic!("{value}: {e}"))
            .problem()
    }

    fn effector(value: serde_json::Value) -> Option<String> {
        serde_json::from_value::<EffectorSpec>(value.clone())
            .unwrap_or_else(|e| panic!("{value}: {e}"))
            .problem()
    }

    #[test]
    fn good_descriptions_have_no_problem() {
        for value in [
            json!({"push": {}}),
            json!({"host": {"what": "cpu", "each": true}}),
            json!({"host": {"what": "disk_used_ratio", "name": "/"}}),
            json!({"process": {"what": "rss", "top": 5}}),
            json!({"process": {"what": "count"}}),
            json!({"http": {"url": "http://127.0.0.1:7010/stats", "pointer": "/a~1b/0", "headers": {"authorization": "Bearer ${TOKEN}"}}}),
            json!({"exec": {"command": ["uptime"]}}),
            json!({"nagios": {"command": ["check_load", "-w", "1"]}}),
            json!({"prometheus": {"url": "http://[::1]:9090/metrics", "series": "up{job=\"a\"}", "by": "instance"}}),
            json!({"udp": {"listen": "127.0.0.1:9125"}}),
            json!({"statsd": {"listen": "[::]:8125", "key": "shop.latency"}}),
            json!({"collectd": {"listen": "0.0.0.0:25826", "key": "cpu-0/cpu-idle"}}),
            json!({"collectd": {"listen": "127.0.0.1:25826", "key": "ada/load/load", "index": 2}}),
            json!({"proxy": "response_time"}),
            json!({"proxy": {"what": "rate", "route": "GET /items/{id}", "every": "1s"}}),
            json!({"proxy": {"what": "bytes_out", "route": "/files/{rest*}"}}),
            json!({"proxy": {"what": "errors", "route": "other"}}),
        ] {
            assert_eq!(sensor(value.clone()), None, "{value}");
        }
        for value in [
            json!({"http": {"url": "http://127.0.0.1:7010/config/{property}", "body": "{value}", "method": "PUT"}}),
            json!({"http": {"url": "http://h/{x}", "check": {"url": "http://h/{x}", "pointer": "/a"}}}),
            json!({"exec": {"command": ["sh", "-c", "echo ${HOME} {value}"], "check": {"command": ["test", "{value}"]}}}),
            json!({"log": {}}),
        ] {
            assert_eq!(effector(value.clone()), None, "{value}");
        }
    }

    #[test]
    fn a_problem_says_what_is_wrong_and_what_would_be_right() {
        for (value, part) in [
            (json!({"http": {"url": "127.0.0.1:80"}}), "is no URL"),
            (json!({"http": {"url": "ftp://host/"}}), "neither http nor https"),
            (json!({"http": {"url": "http://host:99999/"}}), "invalid port"),
            (json!({"http": {"url": "http://h/", "pointer": "cost"}}), "does not begin with /"),
            (json!({"http": {"url": "http://h/", "pointer": "/a~2"}}), "is no JSON pointer"),
            (json!({"http": {"url": "http://h/", "headers": {"a b": "x"}}}), "no header name"),
            (json!({"http": {"url": "http://h/", "headers": {"Host": "x"}}}), "leave it out"),
            (json!({"http": {"url": "http://h/", "headers": {"a": "${"}}}), "never closed"),
            (json!({"http": {"url": "http://h/", "every": "0s"}}), "`every` is zero"),
            (json!({"exec": {"command": []}}), "`command` is empty"),
            (json!({"nagios": {"command": [""]}}), "first word"),
            (json!({"prometheus": {"url": "http://h/", "series": "a b"}}), "is no series"),
            (json!({"prometheus": {"url": "http://h/", "series": "a", "by": "a-b"}}), "is no label"),
            (json!({"udp": {"listen": "localhost:1"}}), "is no address"),
            (json!({"udp": {"listen": "127.0.0.1:0"}}), "port 0"),
            (json!({"udp": {"listen": "127.0.0.1:1", "key": "a b"}}), "separates"),
            (json!({"statsd": {"listen": "127.0.0.1:1", "key": "a:b"}}), "separates"),
            (json!({"collectd": {"listen": "127.0.0.1:1", "key": "load"}}), "is not PLUGIN/TYPE"),
            (json!({"collectd": {"listen": "127.0.0.1:1", "key": "a//b"}}), "is not PLUGIN/TYPE"),
            (json!({"proxy": {"what": "response_time", "every": "1s"}}), "comes with each call"),
            (json!({"proxy": {"what": "failures", "route": "other"}}), "not told apart by route"),
            (json!({"proxy": {"what": "rate", "route": "items"}}), "is no route"),
            (json!({"proxy": {"what": "rate", "route": "get /items"}}), "is no route"),
            (json!({"proxy": {"what": "rate", "route": "GET /{rest*}/a"}}), "neither a word nor a hole"),
            (json!({"proxy": {"what": "rate", "route": "GET /a{b}"}}), "neither a word nor a hole"),
            (json!({"host": {"what": "load1", "each": true}}), "has no parts"),
            (json!({"host": {"what": "cpu", "each": true, "name": "cpu0"}}), "exclude each other"),
            (json!({"process": {"what": "cpu"}}), "which process"),
            (json!({"process": {"what": "cpu", "name": "a", "pid": 1}}), "exclude each other"),
            (json!({"process": {"what": "cpu", "top": 0}}), "`top` is 0"),
            (json!({"custom": {"kind": ""}}), "`kind` is empty"),
        ] {
            let problem = sensor(value.clone()).unwrap_or_else(|| panic!("{value} has no problem"));
            assert!(problem.contains(part), "{value}: {problem}");
        }
        for (value, part) in [
            (json!({"http": {"url": "http://h/{{x}}"}}), "two braces"),
            (json!({"http": {"url": "nowhere/{x}"}}), "`nowhere/{x}` is no URL"),
            (json!({"http": {"url": "http://h/", "method": "P T"}}), "no HTTP method"),
            (json!({"http": {"url": "http://h/", "check": {}}}), "neither"),
            (json!({"http": {"url": "http://h/", "check": {"url": "x"}}}), "in `check`"),
            (json!({"exec": {"command": ["{program}"]}}), "only its arguments"),
            (json!({"exec": {"command": ["x"], "timeout": "0s"}}), "`timeout` is zero"),
        ] {
            let problem = effector(value.clone()).unwrap_or_else(|| panic!("{value} has no problem"));
            assert!(problem.contains(part), "{value}: {problem}");
        }
    }
}
