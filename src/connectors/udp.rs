//! Lines of text in datagrams: a number, text that ends in one, or `key number`.

use super::datagram::{DatagramListener, Decoder, Parsed, Sockets};
use super::text::{number, shorten};
use crate::model::Measurement;
use crate::model::connector::{ConnectorError, Listener, UdpSensor};

/// A sensor for such lines.
pub(super) fn listener(spec: &UdpSensor, sockets: &Sockets) -> Result<Box<dyn Listener>, ConnectorError> {
    let lines = TextLines { key: spec.key.clone() };
    Ok(Box::new(DatagramListener::new(&spec.listen, sockets, Box::new(lines))?))
}

struct TextLines {
    key: Option<String>,
}

impl Decoder for TextLines {
    fn read(&mut self, datagram: &[u8]) -> Parsed {
        let datagram = String::from_utf8_lossy(datagram);
        let mut parsed = Parsed::default();
        for line in datagram.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let text = match &self.key {
                None => line.rsplit(char::is_whitespace).next(),
                // The key may be followed by a colon, as in `Data: 397.5`.
                Some(key) => line
                    .strip_prefix(key.as_str())
                    .map(|rest| rest.strip_prefix(':').unwrap_or(rest))
                    .filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
                    .map(str::trim),
            };
            match text.map(number) {
                Some(Ok(value)) => parsed.measurements.push(Measurement::value(value)),
                Some(Err(why)) => {
                    parsed.bad(|| format!("no number in the line `{}`: {why}", shorten(line, 80)));
                }
                None => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: Option<&str>, datagram: &str) -> (Vec<f64>, u64) {
        let parsed = TextLines { key: key.map(String::from) }.read(datagram.as_bytes());
        (parsed.measurements.iter().map(|m| m.value).collect(), parsed.bad)
    }

    #[test]
    fn without_a_key_lines_that_end_in_a_number_are_taken() {
        assert_eq!(read(None, "1.5\r\n\nData: 397.5\nnothing\n-2e1 "), (vec![1.5, 397.5, -20.0], 1));
        assert_eq!(read(None, "NaN"), (vec![], 1));
    }

    #[test]
    fn with_a_key_only_its_lines_are_taken() {
        assert_eq!(
            read(Some("cost"), "cost 20\ncost: 21\ncosts 1\nother 2\ncost\n cost much"),
            (vec![20.0, 21.0], 2)
        );
    }
}
