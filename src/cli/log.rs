//! The log: one event, one line.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::{Common, Output};

/// Log lines on standard error, or beside the record while the screen is up. `HOMEOSTAT_LOG` chooses what is logged.
pub(super) fn start_log(screen: bool, common: &Common, data_dir: Option<&Path>) {
    let filter = EnvFilter::try_from_env("HOMEOSTAT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Who reads the log may be gone (`… | head`); complaining about that on the same stream would end the thread that logs.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).log_internal_errors(false);
    // A second daemon in the same process (tests) keeps the log of the first.
    let _ = if screen {
        let file = data_dir.and_then(|dir| {
            std::fs::create_dir_all(dir).ok()?;
            std::fs::OpenOptions::new().create(true).append(true).open(dir.join("homeostat.log")).ok()
        });
        match file {
            Some(file) => builder.with_ansi(false).with_writer(Lines(std::sync::Mutex::new(file))).try_init(),
            None => builder.with_writer(std::io::sink).try_init(),
        }
    } else if common.json {
        builder.json().with_writer(std::io::stderr).try_init()
    } else {
        let ansi = Output::stdout(common).paint.on && std::io::stderr().is_terminal();
        builder.with_ansi(ansi).with_writer(Lines(std::io::stderr)).try_init()
    };
}

/// Writes each event as one line: what others sent, and is told here, cannot begin another.
struct Lines<M>(M);

/// One event.
struct Line<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self.0.make_writer())
    }
}

impl<W: Write> Write for Line<W> {
    /// An event comes whole, with the end of its line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// An event whose ends of lines but the last one are said as in programs. Escape characters are left: those of others are gone before.
fn one_line(event: &[u8]) -> Vec<u8> {
    let (body, end) = match event.split_last() {
        Some((b'\n', body)) => (body, &b"\n"[..]),
        _ => (event, &b""[..]),
    };
    let mut line = Vec::with_capacity(event.len());
    for byte in body {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            other => line.push(*other),
        }
    }
    line.extend(end);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let said = |text: &str| String::from_utf8(one_line(text.as_bytes())).unwrap();
        assert_eq!(said("INFO all is well\n"), "INFO all is well\n");
        assert_eq!(said("INFO x to: a@b\nWARN forged\r\n\n"), "INFO x to: a@b\\nWARN forged\\r\\n\n");
        assert_eq!(said("é\n\n"), "é\\n\n");
        assert_eq!(said(""), "");
    }
}
