//! Mixins that measure, one function each. What they measure is this machine, or what their attributes name.

use serde_json::json;

use super::super::model::Attribute;
use super::provider::{LONGEST_WAIT, Names, Provider, Stage, named};
use crate::model::connector::CLOUDWATCH;

pub(super) fn all(names: &Names) -> Vec<Provider> {
    [
        cpu_percent,
        load_average,
        memory_used,
        memory_percent,
        disk_usage,
        network_throughput,
        queries_per_second,
        is_reachable,
        ping,
        http_probe,
        prometheus,
        cloud_watch,
        cost,
        pushed,
        label,
    ]
    .map(|provider| provider(names))
    .into()
}

fn metric(names: &Names, term: &str, title: &str, build: super::provider::Build) -> Provider {
    Provider::new(names, Stage::Metric, term, title, build).output("out")
}

/// R1-44: of the whole machine, 0 to 100.
fn cpu_percent(names: &Names) -> Provider {
    metric(names, "CPUPercent", "Load of the processors, percent of the whole machine", |at, work| {
        work.measured(at, "out", json!({ "host": { "what": "cpu" } }), None);
        Ok(())
    })
}

/// What the prototype calls CPUPercent: a hundred times the load average of a minute, which may exceed 100.
fn load_average(names: &Names) -> Provider {
    metric(names, "LoadAverage", "Load average of one minute, times 100", |at, work| {
        work.measured(at, "out", json!({ "host": { "what": "load1" } }), Some("100 * value"));
        Ok(())
    })
}

fn memory_used(names: &Names) -> Provider {
    metric(names, "MemoryUsed", "Memory in use, bytes", |at, work| {
        work.measured(at, "out", json!({ "host": { "what": "memory_used" } }), None);
        Ok(())
    })
}

/// What the preset for memory looks at.
fn memory_percent(names: &Names) -> Provider {
    metric(names, "MemoryPercent", "Memory in use, percent", |at, work| {
        work.measured(at, "out", json!({ "host": { "what": "memory_used_ratio" } }), Some("100 * value"));
        Ok(())
    })
}

fn disk_usage(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let mut host = json!({ "what": "disk_used_ratio" });
        if let Some(path) = at.text("path") {
            host["name"] = path.into();
        }
        work.measured(at, "out", json!({ "host": host }), Some("100 * value"));
        Ok(())
    };
    metric(names, "DiskUsage", "Used part of a file system, percent", build)
        .control("path", Attribute::text().about("where it is mounted; absent: the fullest"))
}

/// R1-31.
fn network_throughput(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let interface = at.needed("interface")?;
        let raw = |way: &str| format!("{}_{way}_{}", at.term(), at.key);
        for way in ["net_received", "net_sent"] {
            let spec = json!({ "host": { "what": way, "name": interface, "every": at.every() } });
            work.sensors.insert(raw(way), spec);
        }
        let sum = format!("({} + {}) * 8 / 1000000", raw("net_received"), raw("net_sent"));
        work.computed(at, "out", sum.into());
        Ok(())
    };
    metric(names, "NetworkThroughput", "What a network interface receives and sends, Mb/s", build)
        .control("interface", Attribute::text().required().about("its name: eth0"))
}

/// R1-33: a counter that the monitored service shows becomes a rate.
fn queries_per_second(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let mut http = json!({ "url": at.needed("url")?, "every": at.every() });
        if let Some(pointer) = at.text("pointer") {
            http["pointer"] = pointer.into();
        }
        let counter = format!("{}_{}", at.term(), at.key);
        work.sensors.insert(counter.clone(), json!({ "http": http }));
        let over = at.within("over", 0.0, LONGEST_WAIT)?.unwrap_or(at.period * 10.0);
        let over = super::provider::duration(over.max(at.period));
        work.computed(at, "out", json!({ "of": counter, "aggregate": "rate", "over": over }));
        Ok(())
    };
    metric(
        names,
        "QueriesPerSecond",
        "Increase of a counter that a service shows over HTTP, per second",
        build,
    )
    .control("url", Attribute::text().required().about("where the counter is shown"))
    .control("pointer", Attribute::text().about("where in the JSON (RFC 6901); absent: the whole body"))
    .control("over", Attribute::at_least(0.0).about("seconds to look back; ten periods when absent"))
}

/// R1-54: 1 or 0.
fn is_reachable(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let mut ping = json!({ "tcp": at.needed("hostname")? });
        if let Some(delay) = at.within("maxdelay", 1.0, LONGEST_WAIT)? {
            // The prototype says milliseconds.
            ping["max_delay"] = super::provider::duration(delay / 1e3).into();
        }
        work.measured(at, "out", json!({ "ping": ping }), None);
        Ok(())
    };
    metric(names, "IsReachable", "Whether something answers at an address: 1 or 0", build)
        .control("hostname", Attribute::text().required().about("HOST:PORT"))
        .control("maxdelay", Attribute::at_least(1.0).about("how long it may take, in milliseconds"))
}

/// R1-21.
fn ping(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let mut ping = json!({ "udp": at.needed("target")? });
        if let Some(size) = at.within("size", 8.0, 65_507.0)? {
            ping["size"] = (size as u64).into();
        }
        if let Some(delay) = at.within("maxdelay", 1.0, LONGEST_WAIT)? {
            ping["max_delay"] = super::provider::duration(delay / 1e3).into();
        }
        let raw = format!("{}_{}", at.term(), at.key);
        ping["every"] = at.every().into();
        work.sensors.insert(raw.clone(), json!({ "ping": ping }));
        work.computed(at, "out", format!("1000 * {raw}_delay").into());
        Ok(())
    };
    metric(names, "Ping", "How long an echo over UDP takes, milliseconds", build)
        .control("target", Attribute::text().required().about("HOST:PORT"))
        .control("size", Attribute::at_least(8.0).about("the length of the packet, bytes: 8 to 65507"))
        .control("maxdelay", Attribute::at_least(1.0).about("how long it may take, in milliseconds"))
}

fn http_probe(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let mut http = json!({ "url": at.needed("url")? });
        if let Some(pointer) = at.text("pointer") {
            http["pointer"] = pointer.into();
        }
        work.measured(at, "out", json!({ "http": http }), None);
        Ok(())
    };
    metric(names, "HttpProbe", "A number that a service shows over HTTP", build)
        .control("url", Attribute::text().required().about("where it is shown"))
        .control("pointer", Attribute::text().about("where in the JSON (RFC 6901); absent: the whole body"))
}

/// R1-56: a provider that shows what it measures in the text format of Prometheus.
fn prometheus(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let prometheus = json!({ "url": at.needed("url")?, "series": at.needed("series")? });
        work.measured(at, "out", json!({ "prometheus": prometheus }), None);
        Ok(())
    };
    metric(names, "Prometheus", "A series that a provider shows in the text format of Prometheus", build)
        .control("url", Attribute::text().required().about("where it is shown"))
        .control(
            "series",
            Attribute::text().required().about("its name, with labels: node_load1{instance=\"a\"}"),
        )
}

/// R1-56: a provider that answers as Amazon CloudWatch does.
fn cloud_watch(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let config = json!({
            "url": at.needed("url")?, "statistic": at.text("statistic").unwrap_or_else(|| "Average".into()),
        });
        let custom = json!({ "custom": { "kind": CLOUDWATCH, "config": config } });
        work.measured(at, "out", custom, None);
        Ok(())
    };
    metric(
        names,
        "CloudWatch",
        "The newest data point that a provider answers as Amazon CloudWatch does",
        build,
    )
    .control(
        "url",
        Attribute::text().required().about("where statistics are asked for; requests are not signed"),
    )
    .control(
        "statistic",
        Attribute::one_of(&["Average", "Sum", "Minimum", "Maximum", "SampleCount"])
            .about("of a data point; Average, when absent"),
    )
}

/// R1-50: what has been spent since the sensor began to run.
fn cost(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let price = at.needed_number("perhour")?;
        let raw = format!("{}_{}", at.term(), at.key);
        work.sensors.insert(raw.clone(), json!({ "host": { "what": "uptime", "every": at.every() } }));
        work.computed(at, "out", format!("{raw} / 3600 * {price}").into());
        Ok(())
    };
    metric(names, "Cost", "What this machine has cost since it was started", build).control(
        "perhour",
        Attribute::at_least(0.0).required().about("its price for an hour, in any currency"),
    )
}

/// R1-51: what the user measures and sends.
fn pushed(names: &Names) -> Provider {
    metric(names, "Pushed", "What is sent to the native API as samples of the metric", |at, work| {
        for label in at.labels("out") {
            let name = format!("{}_pushed", super::provider::named(&label));
            work.sensors.insert(name.clone(), json!("push"));
            work.computed(at, "out", name.into());
        }
        Ok(())
    })
}

/// R0-10: what another sensor makes of its measurements. Sensors above sensors are a tree, each with its own period.
fn label(names: &Names) -> Provider {
    let build = |at: &super::provider::Instance<'_>, work: &mut super::provider::Work| {
        let (label, lower) = (taken(at)?, at.lower.ok_or("the collector leads to no sensor that runs")?);
        let reference = format!("below_{}", at.key);
        work.references.insert(reference.clone(), json!({ "service": lower.service }));
        let of = format!("{reference}.{}", named(&label));
        work.computed(at, "out", json!({ "of": of, "aggregate": "last", "every": at.every() }));
        if lower.labels.get(&label).is_some_and(|hidden| *hidden) {
            at.labels("out").iter().for_each(|label| work.hide(label));
        }
        Ok(())
    };
    metric(names, "Label", "The values of a label of the sensor that the collector leads to", build)
        .control("label", Attribute::text().required().about("the label there"))
        .of_sensors()
}

/// The label that a collector takes from another sensor.
pub(super) fn taken(at: &super::provider::Instance<'_>) -> Result<String, String> {
    let labels = at.labels("label");
    match labels.as_slice() {
        [label] => Ok(label.clone()),
        several => Err(format!("`label` names {} labels; expected one", several.len())),
    }
}
