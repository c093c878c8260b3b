//! Collectd's binary network protocol (its plugin `network`): parts of a type, a length and a content, each changing what the next values are
//! of. Signed and encrypted packets are not for us: they are skipped, and counted.

use super::datagram::{DatagramListener, Decoder, Parsed, Sockets};
use crate::model::connector::{CollectdSensor, ConnectorError, Listener};
use crate::model::{Measurement, Timestamp};

/// A sensor for one value of Collectd.
pub(super) fn listener(
    spec: &CollectdSensor,
    sockets: &Sockets,
) -> Result<Box<dyn Listener>, ConnectorError> {
    Ok(Box::new(DatagramListener::new(&spec.listen, sockets, Box::new(Collectd::new(spec)))?))
}

const HOST: u16 = 0x0000;
const TIME: u16 = 0x0001;
const PLUGIN: u16 = 0x0002;
const PLUGIN_INSTANCE: u16 = 0x0003;
const TYPE: u16 = 0x0004;
const TYPE_INSTANCE: u16 = 0x0005;
const VALUES: u16 = 0x0006;
const TIME_HIGH: u16 = 0x0008;
const SIGNATURE: u16 = 0x0200;
const ENCRYPTION: u16 = 0x0210;

/// What the values of a packet are of, so far.
#[derive(Default)]
struct Context<'a> {
    host: &'a [u8],
    plugin: &'a [u8],
    plugin_instance: &'a [u8],
    kind: &'a [u8],
    type_instance: &'a [u8],
    at: Option<Timestamp>,
}

impl Context<'_> {
    /// Whether the key is `[host/]plugin[-instance]/type[-instance]` of this.
    fn is(&self, key: &str) -> bool {
        let key = key.as_bytes();
        self.follows(key)
            || key.strip_prefix(self.host).and_then(|k| k.strip_prefix(b"/")).is_some_and(|k| self.follows(k))
    }

    fn follows(&self, key: &[u8]) -> bool {
        named(key, self.plugin, self.plugin_instance)
            .and_then(|key| key.strip_prefix(b"/"))
            .and_then(|key| named(key, self.kind, self.type_instance))
            .is_some_and(<[u8]>::is_empty)
    }
}

/// What follows `name-instance`, or `name` when there is no instance.
fn named<'k>(key: &'k [u8], name: &[u8], instance: &[u8]) -> Option<&'k [u8]> {
    let rest = key.strip_prefix(name)?;
    if instance.is_empty() { Some(rest) } else { rest.strip_prefix(b"-")?.strip_prefix(instance) }
}

/// One value of one type.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// A total that may begin anew.
    Counter(u64),
    Gauge(f64),
    /// A total that may fall.
    Derive(i64),
    /// How many since it was read last.
    Absolute(u64),
}

/// What is kept of one value between packets.
struct Collectd {
    key: String,
    index: usize,
    /// The sum of absolute values.
    total: f64,
    /// Whether a value was ever read: then packets that cannot be read are somebody else's.
    read: bool,
}

impl Collectd {
    fn new(spec: &CollectdSensor) -> Self {
        Self { key: spec.key.clone(), index: usize::from(spec.index), total: 0.0, read: false }
    }

    /// Reads the parts of a packet in order.
    fn packet(&mut self, mut rest: &[u8], parsed: &mut Parsed) -> Result<(), String> {
        let mut context = Context::default();
        while !rest.is_empty() {
            let (kind, content) = part(&mut rest)?;
            match kind {
                HOST => context.host = text(content)?,
                PLUGIN => context.plugin = text(content)?,
                PLUGIN_INSTANCE => context.plugin_instance = text(content)?,
                TYPE => context.kind = text(content)?,
                TYPE_INSTANCE => context.type_instance = text(content)?,
                TIME => context.at = moment(number(content)?, 1),
                TIME_HIGH => context.at = moment(number(content)?, 1 << 30),
                VALUES if context.is(&self.key) => self.values(content, &context, parsed)?,
                SIGNATURE => {
                    return Err("the packet is signed; let Collectd send with SecurityLevel None".into());
                }
                ENCRYPTION => {
                    return Err("the packet is encrypted; let Collectd send with SecurityLevel None".into());
                }
                // Intervals, notifications, the values of others, and what is to come.
                _ => {}
            }
        }
        Ok(())
    }

    fn values(&mut self, content: &[u8], context: &Context<'_>, parsed: &mut Parsed) -> Result<(), String> {
        self.read = true;
        let values = values(content)?;
        let Some(value) = values.get(self.index) else {
            let (key, number) = (&self.key, values.len());
            parsed.bad(|| format!("`{key}` has {number} value(s), and `index` counts from 0"));
            return Ok(());
        };
        let value = match *value {
            Value::Counter(n) => n as f64,
            Value::Derive(n) => n as f64,
            Value::Gauge(n) => n,
            Value::Absolute(n) => {
                self.total += n as f64;
                self.total
            }
        };
        // Collectd says NaN where it has no value.
        if value.is_finite() {
            parsed.measurements.push(Measurement { at: context.at, ..Measurement::value(value) });
        }
        Ok(())
    }
}

impl Decoder for Collectd {
    fn read(&mut self, datagram: &[u8]) -> Parsed {
        let mut parsed = Parsed::default();
        if let Err(why) = self.packet(datagram, &mut parsed) {
            parsed.bad(|| format!("no packet of Collectd that can be read here: {why}"));
            // Whose values it has, nobody knows.
            if self.read {
                parsed.problem = None;
            }
        }
        parsed
    }
}

/// Takes the next part off: its type and content.
fn part<'a>(rest: &mut &'a [u8]) -> Result<(u16, &'a [u8]), String> {
    let header = rest.first_chunk::<4>().ok_or("a part ends within its header")?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let content = rest.get(4..length).ok_or_else(|| format!("a part of {length} bytes does not fit"))?;
    *rest = &rest[length..];
    Ok((kind, content))
}

/// A text without the zero at its end.
fn text(content: &[u8]) -> Result<&[u8], String> {
    content.strip_suffix(&[0]).ok_or_else(|| "a text does not end with a zero".into())
}

fn number(content: &[u8]) -> Result<u64, String> {
    let bytes: [u8; 8] = content.try_into().map_err(|_| format!("a number has {} bytes", content.len()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// A time in parts of a second; none when it is beyond all times.
fn moment(time: u64, parts: u64) -> Option<Timestamp> {
    let microseconds = u128::from(time) * 1_000_000 / u128::from(parts);
    i64::try_from(microseconds).ok().map(Timestamp)
}

/// The values of a part: their number, the type of each, and then 8 bytes each.
fn values(content: &[u8]) -> Result<Vec<Value>, String> {
    let (count, rest) = content.split_first_chunk::<2>().ok_or("values without their number")?;
    let count = usize::from(u16::from_be_bytes(*count));
    if rest.len() != 9 * count {
        return Err(format!("{count} value(s) are not {} bytes", rest.len()));
    }
    let (kinds, values) = rest.split_at(count);
    let values = values.chunks_exact(8).map(|bytes| bytes.try_into().unwrap_or_default());
    kinds
        .iter()
        .zip(values)
        .map(|(kind, bytes)| match kind {
            0 => Ok(Value::Counter(u64::from_be_bytes(bytes))),
            // The only number in the byte order of x86.
            1 => Ok(Value::Gauge(f64::from_le_bytes(bytes))),
            2 => Ok(Value::Derive(i64::from_be_bytes(bytes))),
            3 => Ok(Value::Absolute(u64::from_be_bytes(bytes))),
            other => Err(format!("there is no type {other} of values")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(kind: u16, content: &[u8]) -> Vec<u8> {
        let length = content.len() as u16 + 4;
        [&kind.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
    }

    fn text(kind: u16, text: &str) -> Vec<u8> {
        part(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn values(values: &[(u8, [u8; 8])]) -> Vec<u8> {
        let mut content = (values.len() as u16).to_be_bytes().to_vec();
        content.extend(values.iter().map(|(kind, _)| kind));
        content.extend(values.iter().flat_map(|(_, bytes)| bytes));
        part(VALUES, &content)
    }

    fn gauge(value: f64) -> Vec<u8> {
        values(&[(1, value.to_le_bytes())])
    }

    /// `ada/plugin-instance/type-instance` at a time, with these values.
    fn packet(names: [&str; 4], rest: &[Vec<u8>]) -> Vec<u8> {
        let kinds = [PLUGIN, PLUGIN_INSTANCE, TYPE, TYPE_INSTANCE];
        let mut bytes = text(HOST, "ada");
        bytes.extend(part(TIME_HIGH, &(1_437_468_528_u64 << 30 | 1 << 29).to_be_bytes()));
        bytes.extend(part(0x0009, &(10_u64 << 30).to_be_bytes()));
        bytes.extend(kinds.iter().zip(names).flat_map(|(kind, name)| text(*kind, name)));
        bytes.extend(rest.concat());
        bytes
    }

    fn sensor(key: &str, index: u8) -> Collectd {
        let (key, listen) = (key.to_string(), "127.0.0.1:25826".to_string());
        Collectd::new(&CollectdSensor { listen, key, index, unit: None, stale_after: None })
    }

    fn read(sensor: &mut Collectd, datagram: &[u8]) -> Vec<f64> {
        sensor.read(datagram).measurements.iter().map(|m| m.value).collect()
    }

    /// Requirement: R2-04
    #[test]
    fn a_value_is_found_by_its_name_with_or_without_its_host() {
        let bytes = packet(["cpu", "0", "cpu", "idle"], &[gauge(97.5)]);
        for key in ["cpu-0/cpu-idle", "ada/cpu-0/cpu-idle"] {
            assert_eq!(read(&mut sensor(key, 0), &bytes), [97.5], "{key}");
        }
        for key in [
            "cpu/cpu",
            "cpu-0/cpu",
            "cpu-0/cpu-idl",
            "cpu-0/cpu-idle/",
            "bob/cpu-0/cpu-idle",
            "cpu-00/cpu-idle",
        ] {
            assert_eq!(read(&mut sensor(key, 0), &bytes), [0.0; 0], "{key}");
        }
        let parsed = sensor("cpu-0/cpu-idle", 0).read(&bytes);
        assert_eq!(parsed.measurements[0].at, Some(Timestamp(1_437_468_528_500_000)));
        let seconds =
            [text(PLUGIN, "load"), text(TYPE, "load"), part(TIME, &5_u64.to_be_bytes()), gauge(1.0)];
        let parsed = sensor("load/load", 0).read(&seconds.concat());
        assert_eq!(parsed.measurements[0].at, Some(Timestamp(5_000_000)));
    }

    /// Requirement: R2-04
    #[test]
    fn parts_hold_until_they_are_said_anew() {
        let more =
            [gauge(1.0), text(TYPE_INSTANCE, "user"), gauge(2.0), text(PLUGIN_INSTANCE, "1"), gauge(3.0)];
        let bytes = packet(["cpu", "0", "cpu", "idle"], &more);
        assert_eq!(read(&mut sensor("cpu-0/cpu-idle", 0), &bytes), [1.0]);
        assert_eq!(read(&mut sensor("cpu-0/cpu-user", 0), &bytes), [2.0]);
        assert_eq!(read(&mut sensor("cpu-1/cpu-user", 0), &bytes), [3.0]);
        let bytes = packet(["load", "", "load", ""], &[gauge(0.5)]);
        assert_eq!(read(&mut sensor("load/load", 0), &bytes), [0.5], "without instances");
    }

    /// Requirement: R2-04
    #[test]
    fn each_of_the_four_types_is_a_number() {
        let all = values(&[
            (0, u64::MAX.to_be_bytes()),
            (1, (-2.5_f64).to_le_bytes()),
            (2, (-7_i64).to_be_bytes()),
            (3, 4_u64.to_be_bytes()),
        ]);
        let bytes = packet(["p", "", "t", ""], &[all.clone(), all]);
        for (index, want) in [(0, [u64::MAX as f64; 2]), (1, [-2.5; 2]), (2, [-7.0; 2]), (3, [4.0, 8.0])] {
            assert_eq!(read(&mut sensor("p/t", index), &bytes), want, "{index}");
        }
        let parsed = sensor("p/t", 4).read(&bytes);
        assert_eq!((parsed.bad, parsed.measurements.len()), (2, 0));
        assert!(parsed.problem.expect("said").contains("has 4 value(s)"));
        assert_eq!(read(&mut sensor("p/t", 0), &packet(["p", "", "t", ""], &[gauge(f64::NAN)])), [0.0; 0]);
    }

    #[test]
    fn signed_and_encrypted_packets_are_skipped_and_counted() {
        let mut sensor = sensor("load/load", 0);
        let plain = packet(["load", "", "load", ""], &[gauge(0.5)]);
        let signed = [part(SIGNATURE, &[7; 36]), plain.clone()].concat();
        let parsed = sensor.read(&signed);
        assert_eq!((parsed.bad, parsed.measurements.len()), (1, 0));
        assert!(parsed.problem.expect("said").contains("signed"));
        assert!(sensor.read(&part(ENCRYPTION, &[7; 60])).problem.expect("said").contains("encrypted"));
        assert_eq!(read(&mut sensor, &plain), [0.5]);
        let parsed = sensor.read(&signed);
        assert_eq!((parsed.bad, parsed.problem), (1, None), "somebody else's, now that there is a value");
    }

    #[test]
    fn what_came_before_a_part_that_is_broken_is_read() {
        let whole = packet(["load", "", "load", ""], &[gauge(0.5), gauge(1.5)]);
        let first = whole.len() - gauge(1.5).len();
        for cut in 0..whole.len() {
            let parsed = sensor("load/load", 0).read(&whole[..cut]);
            assert_eq!(parsed.measurements.len(), usize::from(cut >= first), "{cut}");
        }
        for broken in [
            part(VALUES, &[0, 2, 1]),
            part(VALUES, &[0]),
            vec![0, 0, 0, 3],
            part(TIME, &[1]),
            part(HOST, b"x"),
        ] {
            let mut bytes = packet(["load", "", "load", ""], &[gauge(0.5)]);
            bytes.extend(&broken);
            let parsed = sensor("load/load", 0).read(&bytes);
            assert_eq!((parsed.measurements.len(), parsed.bad), (1, 1), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_yields_only_finite_values(
            noise in prop::collection::vec(any::<u8>(), 0..80),
            at in 0_usize..200,
            times in 1_usize..3,
        ) {
            let mut bytes = packet(["p", "", "t", ""], &[gauge(1.0), values(&[(3, [255; 8]), (0, [1; 8])])]);
            let mut sensor = sensor("p/t", 0);
            sensor.read(&noise);
            let at = at.min(bytes.len());
            bytes.splice(at..(at + noise.len()).min(bytes.len()), noise.iter().copied());
            for _ in 0..times {
                for value in read(&mut sensor, &bytes) {
                    prop_assert!(value.is_finite());
                }
            }
        }
    }
}
