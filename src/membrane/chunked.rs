//! Watches a chunked body (RFC 9112 section 7.1) pass and says where it ends, or that it is wrong. The bytes themselves are forwarded as they are.

/// Chunk sizes, extensions and trailer lines longer than this are refused.
const MAX_LINE: usize = 8 * 1024;

/// All trailers together may be this long.
const MAX_TRAILERS: usize = 32 * 1024;

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Line,
    LineLf,
    LastLf,
    Done,
}

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed: {0}")]
pub(super) struct BadChunk(&'static str);

/// A chunked body on its way past.
#[derive(Debug, Clone)]
pub(super) struct Chunked {
    state: State,
    left: u64,
    digits: u32,
    line: usize,
    trailers: usize,
}

impl Chunked {
    /// Before the first byte.
    pub(super) fn new() -> Self {
        Self { state: State::Size, left: 0, digits: 0, line: 0, trailers: 0 }
    }

    /// Whether the last byte has passed.
    pub(super) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of these bytes belong to the body. Strict: CR LF everywhere, hexadecimal sizes of at most 16 digits, no blanks before them.
    ///
    /// # Errors
    /// At the first byte that does not fit; nothing of `bytes` may be forwarded then.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        self.walk(bytes, |_| {})
    }

    /// As [`Self::pass`], and shows the data in the chunks.
    ///
    /// # Errors
    /// As [`Self::pass`].
    pub(super) fn walk(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                data(&bytes[at..at + step]);
                at += step;
                self.left -= step as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension => self.in_line(byte, State::SizeEnd, State::Extension),
            State::SizeEnd => match (byte, self.left) {
                (b'\n', 0) => Ok(State::LineStart),
                (b'\n', _) => Ok(State::Data),
                _ => Err(BadChunk("a carriage return stands alone after a chunk size")),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                (self.digits, self.line) = (0, 0);
                Ok(State::Size)
            }
            State::DataCr | State::DataLf => Err(BadChunk("a chunk is longer than its size says")),
            State::LineStart if byte == b'\r' => Ok(State::LastLf),
            State::LineStart if byte == b' ' || byte == b'\t' => Err(BadChunk("a trailer line is folded")),
            State::LineStart => {
                self.line = 0;
                self.in_line(byte, State::LineLf, State::Line)
            }
            State::Line => self.in_line(byte, State::LineLf, State::Line),
            State::LineLf if byte == b'\n' => Ok(State::LineStart),
            State::LastLf if byte == b'\n' => Ok(State::Done),
            State::LineLf | State::LastLf => Err(BadChunk("a carriage return stands alone in the trailers")),
            State::Data | State::Done => Ok(self.state),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, BadChunk> {
        match (byte as char).to_digit(16) {
            Some(digit) if self.digits < 16 => {
                self.left = self.left << 4 | u64::from(digit);
                self.digits += 1;
                Ok(State::Size)
            }
            Some(_) => Err(BadChunk("a chunk size has more than 16 digits")),
            None if self.digits == 0 => Err(BadChunk("a chunk size is no hexadecimal number")),
            None => match byte {
                b'\r' => Ok(State::SizeEnd),
                b';' | b' ' | b'\t' => Ok(State::Extension),
                _ => Err(BadChunk("a chunk size is no hexadecimal number")),
            },
        }
    }

    fn in_line(&mut self, byte: u8, end: State, more: State) -> Result<State, BadChunk> {
        self.line += 1;
        if more == State::Line {
            self.trailers += 1;
        }
        match byte {
            _ if self.line > MAX_LINE || self.trailers > MAX_TRAILERS => {
                Err(BadChunk("its extensions or trailers are too long"))
            }
            b'\r' => Ok(end),
            b'\n' | 0 => Err(BadChunk("a line feed or null byte stands alone")),
            _ => Ok(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Result<(usize, bool), BadChunk> {
        let mut body = Chunked::new();
        let length = body.pass(bytes)?;
        Ok((length, body.done()))
    }

    #[test]
    fn a_body_ends_after_its_trailers() {
        let body = b"4\r\nWiki\r\n5;x=y\r\npedia\r\n0\r\nA: b\r\nC: d\r\n\r\n";
        let mut more = body.to_vec();
        more.extend(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(whole(&more), Ok((body.len(), true)));
        assert_eq!(whole(b"0\r\n\r\n"), Ok((5, true)));
        assert_eq!(whole(b"a\r\n0123"), Ok((7, false)));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"0x4\r\nWiki\r\n",
            b" 4\r\nWiki\r\n",
            b"4\nWiki\r\n",
            b"4\rWiki",
            b"4\r\nWikiX\r\n",
            b"4\r\nWiki\n0\r\n\r\n",
            b"00000000000000004\r\n",
            b"4;a\nb\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n\n",
        ] {
            assert!(whole(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(whole(&[b"1;".to_vec(), vec![b'a'; MAX_LINE + 1]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_it_ends_at_the_same_byte(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1_usize..9, 1..60),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            let length = bytes.len();
            bytes.extend(b"more");
            let (mut body, mut at) = (Chunked::new(), 0);
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(bytes.len());
                at += body.pass(&bytes[at..end]).unwrap();
                if body.done() || end == bytes.len() { break; }
            }
            prop_assert_eq!(at, length);
            prop_assert!(body.done());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = whole(&bytes);
        }
    }
}
