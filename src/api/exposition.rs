//! `/metrics`: homeostat itself, every managed metric and every SLO, in OpenMetrics 1.0.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{App, Problem, clock};
use crate::model::{Reading, SloState, Timestamp};
use crate::service::control::{ExportedMetric, Figure, PolicyStatus, SelfStats, ServiceStatus};

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every state an SLO can be in, for the 0/1 series.
const STATES: [SloState; 8] = [
    SloState::Unknown,
    SloState::Ok,
    SloState::Warning,
    SloState::Pending,
    SloState::Violated,
    SloState::Missing,
    SloState::Disabled,
    SloState::Unresolved,
];

/// OpenMetrics
///
/// About homeostat itself, every managed metric and every SLO.
#[utoipa::path(get, path = "/metrics", tag = "self",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn exposition(State(app): App) -> Result<Response, Box<Problem>> {
    let scrape = Scrape {
        now: clock::now(),
        ready: app.control.ready(),
        stats: app.control.stats(),
        policy: app.control.policy_status(),
        services: app.control.services().await?,
        metrics: app.control.export().await?,
        figures: app.control.figures(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| {
        Problem::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "exposition",
            "the exposition could not be written",
        )
    })?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], text).into_response())
}

/// What is known at the time of one scrape.
#[derive(Debug)]
struct Scrape {
    now: Timestamp,
    ready: bool,
    stats: SelfStats,
    policy: PolicyStatus,
    services: Vec<ServiceStatus>,
    metrics: Vec<ExportedMetric>,
    figures: Vec<Figure>,
}

type Written = Result<(), std::fmt::Error>;
type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Written {
        self.own_gauges(&mut encoder)?;
        self.own_counters(&mut encoder)?;
        self.figures.iter().try_for_each(|figure| figured(&mut encoder, figure))?;
        self.managed(&mut encoder)?;
        self.slos(&mut encoder)
    }
}

impl Scrape {
    fn own_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Written {
        let version = vec![("version", env!("CARGO_PKG_VERSION")), ("policy", self.policy.running.as_str())];
        encoder
            .encode_descriptor("homeostat_build", "The version that runs.", None, MetricType::Info)?
            .encode_info(&version)?;
        let gauges = [
            (
                "homeostat_ready",
                "Whether policies are applied and the daemon is not stopping.",
                u64::from(self.ready),
            ),
            ("homeostat_services", "Managed services.", self.stats.services),
            ("homeostat_services_quarantined", "Services in quarantine.", self.stats.quarantined),
            (
                "homeostat_policy_pending",
                "Whether a change of the policies was refused and waits for a correction.",
                u64::from(self.policy.pending.is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn own_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Written {
        let s = &self.stats;
        let counters = [
            ("homeostat_messages", "Messages that shards have taken.", s.messages),
            ("homeostat_samples", "Samples that shards have taken.", s.samples),
            ("homeostat_samples_refused", "Samples refused.", s.samples_refused),
            ("homeostat_alarms", "Alarms raised.", s.alarms),
            ("homeostat_strategies", "Strategies run.", s.strategies),
            ("homeostat_strategies_failed", "Strategies that failed.", s.strategies_failed),
            ("homeostat_asks", "Readings asked of other services.", s.asks),
            ("homeostat_notifications", "Notifications between services.", s.notifications),
            ("homeostat_published", "Values that publishers delivered.", s.published),
            (
                "homeostat_publish_lost",
                "Values that publishers could not keep up with, or that were refused.",
                s.publish_lost,
            ),
            ("homeostat_policies_applied", "Policy changes applied.", s.policies_applied),
            ("homeostat_policies_refused", "Policy changes refused.", s.policies_refused),
        ];
        for (name, help, value) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let actions = s.actions.iter().map(|(status, n)| (vec![("status", status.as_str())], *n));
        counter(encoder, "homeostat_actions", "Actions by how they ended.", actions)?;
        let decisions = self.services.iter().map(|s| (vec![("service", s.name.as_str())], s.decisions));
        counter(encoder, "homeostat_decisions", "Decisions taken.", decisions)
    }

    fn managed(&self, encoder: &mut DescriptorEncoder<'_>) -> Written {
        let values = self.metrics.iter().filter_map(|m| Some((labels(m), m.info.reading.value()?)));
        gauge(encoder, "homeostat_metric", "The value of a managed metric, in its own unit.", values)?;
        let ages = self
            .metrics
            .iter()
            .filter_map(|m| Some((labels(m), m.info.reading.age(self.now)?.as_secs_f64())));
        gauge(encoder, "homeostat_metric_age_seconds", "The age of the value.", ages)?;
        let fresh = self
            .metrics
            .iter()
            .map(|m| (labels(m), f64::from(u8::from(matches!(m.info.reading, Reading::Fresh { .. })))));
        gauge(encoder, "homeostat_metric_fresh", "Whether there is a value that is not stale.", fresh)
    }

    fn slos(&self, encoder: &mut DescriptorEncoder<'_>) -> Written {
        let names: Vec<String> = STATES.iter().map(ToString::to_string).collect();
        let series = self.services.iter().flat_map(|service| {
            let names = &names;
            service.slos.iter().flat_map(move |slo| {
                STATES.iter().zip(names).map(move |(state, name)| {
                    let labels = vec![
                        ("service", service.name.as_str()),
                        ("slo", slo.name.as_str()),
                        ("state", name.as_str()),
                    ];
                    (labels, f64::from(u8::from(slo.state == *state)))
                })
            })
        });
        gauge(encoder, "homeostat_slo", "1 for the state that the SLO is in, 0 for the others.", series)
    }
}

fn figured(encoder: &mut DescriptorEncoder<'_>, figure: &Figure) -> Written {
    let kind = if figure.counter { MetricType::Counter } else { MetricType::Gauge };
    let help = format!("{}.", figure.help);
    let mut metric = encoder.encode_descriptor(&figure.name, &help, None, kind)?;
    for (labels, value) in &figure.values {
        let labels: Labels<'_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match (figure.counter, labels.is_empty()) {
            (true, true) => metric.encode_counter::<NoLabelSet, _, u64>(value, None)?,
            (true, false) => {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?
            }
            (false, true) => metric.encode_gauge(value)?,
            (false, false) => metric.encode_family(&labels)?.encode_gauge(value)?,
        }
    }
    Ok(())
}

/// The labels of a metric; a member of a family `cpu[cpu0]` is the metric `cpu` with the label `cpu0`.
fn labels(metric: &ExportedMetric) -> Labels<'_> {
    let name = metric.info.name.as_str();
    let mut labels = vec![("service", metric.service.as_str())];
    match name.strip_suffix(']').and_then(|n| n.split_once('[')) {
        Some((family, member)) => labels.extend([("metric", family), ("label", member)]),
        None => labels.push(("metric", name)),
    }
    labels
}

fn counter<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a>, u64)>,
) -> Written {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

fn gauge<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a>, f64)>,
) -> Written {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ports::MetricInfo;

    fn exported(service: &str, name: &str, reading: Reading) -> ExportedMetric {
        let info = MetricInfo {
            name: name.into(),
            kind: "push".into(),
            definition: "push".into(),
            unit: None,
            reading,
        };
        ExportedMetric { service: service.into(), info }
    }

    fn text(scrape: Scrape) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(scrape));
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        text
    }

    #[test]
    fn hostile_labels_stay_one_line_each() {
        let at = Timestamp(1_000_000);
        let scrape = Scrape {
            now: Timestamp(3_500_000),
            ready: true,
            stats: SelfStats::default(),
            policy: PolicyStatus::default(),
            services: Vec::new(),
            metrics: vec![
                exported("A", "cpu[a\"b\\c\nd]", Reading::Fresh { value: 1.5, at }),
                exported("A", "cost", Reading::missing(crate::model::MissingReason::NoSample)),
            ],
            figures: vec![
                Figure { name: "x".into(), help: "X", counter: true, values: vec![(Vec::new(), 3)] },
                Figure {
                    name: "y".into(),
                    help: "Y",
                    counter: false,
                    values: vec![(vec![("m", "a\"b\n".into())], 4)],
                },
            ],
        };
        let text = text(scrape);
        assert!(
            text.contains("homeostat_metric{service=\"A\",metric=\"cpu\",label=\"a\\\"b\\\\c\\nd\"} 1.5\n"),
            "{text}"
        );
        assert!(text.contains("homeostat_metric_age_seconds{service=\"A\",metric=\"cpu\""));
        assert!(text.contains("homeostat_metric_fresh{service=\"A\",metric=\"cost\"} 0.0\n"), "{text}");
        assert!(!text.contains("homeostat_metric{service=\"A\",metric=\"cost\"}"));
        assert!(text.contains("# TYPE x counter\nx_total 3\n"), "{text}");
        assert!(text.contains("# TYPE y gauge\ny{m=\"a\\\"b\\n\"} 4\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
