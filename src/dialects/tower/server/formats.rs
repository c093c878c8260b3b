//! How results are written for observers. A name from a stranger must not become a second line or a second field anywhere.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::model::Datum;

/// The namespace of the model.
pub(super) const MODEL: &str = "http://www.modaclouds.eu/model#";
/// Says of what type a subject is.
pub(super) const TYPE: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type";
const XSD: &str = "http://www.w3.org/2001/XMLSchema#";

/// A format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Format {
    /// RDF 1.1 JSON: a blank node per result.
    #[default]
    #[serde(rename = "RDF/JSON")]
    Rdf,
    /// An array of objects.
    #[serde(rename = "TOWER/JSON")]
    Tower,
    /// `resource.metric value seconds`, a line per result.
    #[serde(rename = "GRAPHITE")]
    Graphite,
    /// The JSON of InfluxDB before 0.9.
    #[serde(rename = "INFLUXDB")]
    Influx,
    /// The line protocol of InfluxDB since 0.9; ours.
    #[serde(rename = "INFLUXDB-LINE")]
    InfluxLine,
}

impl Format {
    /// All of them, as clients write them.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Rdf, "RDF/JSON"),
        (Self::Tower, "TOWER/JSON"),
        (Self::Graphite, "GRAPHITE"),
        (Self::Influx, "INFLUXDB"),
        (Self::InfluxLine, "INFLUXDB-LINE"),
    ];

    /// As clients write it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(format, _)| *format == self).map_or("", |(_, name)| name)
    }

    /// Writes results of a metric.
    pub fn write(self, metric: &str, data: &[Datum]) -> String {
        match self {
            Self::Rdf => rdf(metric, data),
            Self::Tower => {
                let all: Vec<Json> = data
                    .iter()
                    .map(|d| {
                        json!({ "resourceId": &*d.resource, "metric": metric, "value": d.value, "timestamp": millis(d) })
                    })
                    .collect();
                Json::from(all).to_string()
            }
            Self::Graphite => {
                let metric = plain(metric);
                data.iter().fold(String::new(), |mut text, d| {
                    let _ =
                        writeln!(text, "{}.{metric} {:?} {}", plain(&d.resource), d.value, d.at.seconds());
                    text
                })
            }
            Self::Influx => {
                let points: Vec<Json> =
                    data.iter().map(|d| json!([millis(d), d.value, &*d.resource])).collect();
                json!([{ "name": metric, "columns": ["time", "value", "resourceId"], "points": points }])
                    .to_string()
            }
            Self::InfluxLine => {
                let metric = escaped(metric, &[',', ' ']);
                data.iter().fold(String::new(), |mut text, d| {
                    let resource = escaped(&d.resource, &[',', ' ', '=']);
                    let nanos = i128::from(d.at.0) * 1_000;
                    let _ = writeln!(text, "{metric},resourceId={resource} value={:?} {nanos}", d.value);
                    text
                })
            }
        }
    }
}

fn millis(datum: &Datum) -> i64 {
    datum.at.0.div_euclid(1_000)
}

fn rdf(metric: &str, data: &[Datum]) -> String {
    let mut graph = Map::new();
    for (number, datum) in data.iter().enumerate() {
        let literal = |value: String, kind: Option<&str>| {
            let mut object =
                Map::from_iter([("type".to_string(), "literal".into()), ("value".into(), value.into())]);
            if let Some(kind) = kind {
                object.insert("datatype".into(), format!("{XSD}{kind}").into());
            }
            json!([object])
        };
        let said = [
            ("resourceId", literal(datum.resource.to_string(), None)),
            ("metric", literal(metric.to_string(), None)),
            ("value", literal(format!("{:?}", datum.value), Some("double"))),
            ("timestamp", literal(millis(datum).to_string(), Some("long"))),
        ];
        let kind = json!([{ "type": "uri", "value": format!("{MODEL}MonitoringDatum") }]);
        let said = said.into_iter().map(|(name, value)| (format!("{MODEL}{name}"), value));
        graph.insert(
            format!("_:d{number}"),
            Json::Object([(TYPE.to_string(), kind)].into_iter().chain(said).collect()),
        );
    }
    Json::Object(graph).to_string()
}

/// A part of the path of Graphite: without white space.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

/// Of the line protocol: nothing in it can stand for the end of a line, and a backslash at the end would escape what follows.
fn escaped(name: &str, special: &[char]) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '\\' => text.push('/'),
            c if c.is_control() => text.push('_'),
            c => {
                if special.contains(&c) {
                    text.push('\\');
                }
                text.push(c);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn datum(resource: &str, value: f64) -> Datum {
        Datum { resource: resource.into(), value, at: Timestamp(1_437_468_528_630_123) }
    }

    /// Requirement: R2-08
    #[test]
    fn formats_are_those_of_the_original_byte_for_byte() {
        let data = [datum("vm1", 0.45), datum("vm2", 2.0)];
        let write = |format: Format| format.write("AverageCPU", &data);
        assert_eq!(
            write(Format::Tower),
            r#"[{"resourceId":"vm1","metric":"AverageCPU","value":0.45,"timestamp":1437468528630},{"resourceId":"vm2","metric":"AverageCPU","value":2.0,"timestamp":1437468528630}]"#
        );
        assert_eq!(
            write(Format::Graphite),
            "vm1.AverageCPU 0.45 1437468528\nvm2.AverageCPU 2.0 1437468528\n"
        );
        assert_eq!(
            write(Format::Influx),
            r#"[{"name":"AverageCPU","columns":["time","value","resourceId"],"points":[[1437468528630,0.45,"vm1"],[1437468528630,2.0,"vm2"]]}]"#
        );
        assert_eq!(
            write(Format::InfluxLine),
            "AverageCPU,resourceId=vm1 value=0.45 1437468528630123000\nAverageCPU,resourceId=vm2 value=2.0 1437468528630123000\n"
        );
        let graph: Json = serde_json::from_str(&write(Format::Rdf)).unwrap();
        let subject = &graph["_:d0"];
        assert_eq!(
            subject[TYPE][0],
            json!({ "type": "uri", "value": "http://www.modaclouds.eu/model#MonitoringDatum" })
        );
        assert_eq!(subject["http://www.modaclouds.eu/model#resourceId"][0]["value"], "vm1");
        assert_eq!(subject["http://www.modaclouds.eu/model#value"][0]["value"], "0.45");
        assert_eq!(subject["http://www.modaclouds.eu/model#timestamp"][0]["value"], "1437468528630");
    }

    #[test]
    fn a_name_is_neither_a_line_nor_a_field() {
        let hostile = [datum("a b\nc,d=e\\", 1.0)];
        assert_eq!(Format::Graphite.write("x y", &hostile), "a_b_c,d=e\\.x_y 1.0 1437468528\n");
        assert_eq!(
            Format::InfluxLine.write("x y", &hostile),
            "x\\ y,resourceId=a\\ b_c\\,d\\=e/ value=1.0 1437468528630123000\n"
        );
    }
}
