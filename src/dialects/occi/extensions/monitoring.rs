//! Monitoring: sensors, collectors and the three tags, after the OGF draft of 2015, with the attributes of the paper of 2014 (its tables
//! 1 to 3) and its schemes of tags as aliases.

use super::{attributes, core, kind, mixin};
use crate::dialects::occi::model::{Attribute, AttributeType, Attributes, Category, TypeId};

/// The scheme of the kinds and tags.
pub const SCHEME: &str = "http://schemas.ogf.org/occi/monitoring#";
/// The scheme of the tag `metric` in the paper.
pub const PAPER_COLLECTOR: &str = "http://schemas.ogf.org/occi/monitoring/collector#";
/// The scheme of the tags `aggregator` and `publisher` in the paper.
pub const PAPER_SENSOR: &str = "http://schemas.ogf.org/occi/monitoring/sensor#";

/// The kind of what receives, aggregates and publishes measurements.
pub fn sensor() -> TypeId {
    TypeId::fixed(SCHEME, "sensor")
}

/// The kind of links that measure: from a sensor to what is measured.
pub fn collector() -> TypeId {
    TypeId::fixed(SCHEME, "collector")
}

/// The tag of what measures.
pub fn metric() -> TypeId {
    TypeId::fixed(SCHEME, "metric")
}

/// The tag of what turns measurements into measurements.
pub fn aggregator() -> TypeId {
    TypeId::fixed(SCHEME, "aggregator")
}

/// The tag of what delivers measurements.
pub fn publisher() -> TypeId {
    TypeId::fixed(SCHEME, "publisher")
}

/// Identifiers that mean others: (what clients say, what it is).
pub fn aliases() -> [(TypeId, TypeId); 3] {
    [
        (TypeId::fixed(PAPER_COLLECTOR, "metric"), metric()),
        (TypeId::fixed(PAPER_SENSOR, "aggregator"), aggregator()),
        (TypeId::fixed(PAPER_SENSOR, "publisher"), publisher()),
    ]
}

fn sensor_attributes() -> Attributes {
    let (text, number) = (Attribute::text, Attribute::number);
    let since = || Attribute::at_least(0.0);
    attributes([
        ("occi.sensor.period", since().required().about("seconds between two measurements")),
        ("occi.sensor.periodspec", text().about("granularity, accuracy and exponent of the period")),
        ("occi.sensor.granularity", since().about("the finest step of the period, in seconds")),
        ("occi.sensor.accuracy", since().about("the largest deviation from the period, in seconds")),
        (
            "occi.sensor.timebase",
            text()
                .or(AttributeType::Number)
                .about("the origin of times: ISO 8601, or seconds since 1970; negative: suspended"),
        ),
        ("occi.sensor.timestart", number().about("seconds from the time base to the first measurement")),
        ("occi.sensor.timestop", number().about("seconds from the time base to the last measurement")),
        ("occi.sensor.timespec", text().about("granularity, accuracy and exponent of the times")),
    ])
}

fn collector_attributes() -> Attributes {
    let since = || Attribute::at_least(0.0);
    attributes([
        ("occi.collector.period", since().required().about("seconds between two measurements")),
        (
            "occi.collector.periodspec",
            Attribute::text().about("granularity, accuracy and exponent of the period"),
        ),
        ("occi.collector.granularity", since().about("the finest step of the period, in seconds")),
        ("occi.collector.accuracy", since().about("the largest deviation from the period, in seconds")),
    ])
}

/// All categories of the extension.
pub fn categories() -> Vec<Category> {
    let tag =
        |id: TypeId, title: &str, to: TypeId| Category::Mixin(mixin(id, title, &[to], Attributes::new()));
    vec![
        Category::Kind(kind(sensor(), "Sensor Resource", core::resource(), "/sensor/", sensor_attributes())),
        Category::Kind(kind(
            collector(),
            "Collector Link",
            core::link(),
            "/collector/",
            collector_attributes(),
        )),
        tag(metric(), "Metric", collector()),
        tag(aggregator(), "Aggregator", sensor()),
        tag(publisher(), "Publisher", sensor()),
    ]
}
