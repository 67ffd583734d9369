//! Where one JSON object ends and the next begins, in bytes that come piece by piece. Pure.
//!
//! Objects stand on lines of their own, or directly one behind another. None goes beyond the end of its line, so
//! whatever is wrong with a line costs that line alone.

use std::ops::Range;

/// A record that was found: its number, counted from 1, and where it is, see [`Values::text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) line: u64,
    pub(crate) record: Result<Range<usize>, Bad>,
}

/// What can be wrong before anything is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// The line does not begin with `{`.
    NoObject,
    /// The line ends in the midst of the object.
    Unfinished,
    /// The object is longer than the limit.
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Object {
        depth: u32,
    },
    Text {
        depth: u32,
        escaped: bool,
    },
    /// Something to be left out up to the end of the line.
    Waste(Bad),
}

/// Takes bytes in and gives records out.
#[derive(Debug)]
pub(crate) struct Values {
    buffer: Vec<u8>,
    /// Where the record that is being read begins, and how far it was looked at.
    start: usize,
    at: usize,
    within: Within,
    lines: u64,
    most: usize,
}

impl Values {
    /// `most` is the length of the longest record allowed.
    pub(crate) fn new(most: usize) -> Values {
        Values { buffer: Vec::new(), start: 0, at: 0, within: Within::Nothing, lines: 0, most }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes are kept.
    pub(crate) fn kept(&self) -> usize {
        self.buffer.len()
    }

    /// The text of a record, until more is pushed.
    pub(crate) fn text(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// The next record that is here as a whole.
    pub(crate) fn next(&mut self) -> Option<Found> {
        while self.at < self.buffer.len() {
            let byte = self.buffer[self.at];
            self.at += 1;
            if let Some(found) = self.see(byte) {
                return Some(found);
            }
        }
        if matches!(self.within, Within::Nothing | Within::Waste(_)) {
            self.start = self.at;
        }
        None
    }

    /// What is left when nothing more comes.
    pub(crate) fn end(&mut self) -> Option<Found> {
        let bad = match self.within {
            Within::Nothing => return None,
            Within::Object { .. } | Within::Text { .. } => Bad::Unfinished,
            Within::Waste(bad) => bad,
        };
        Some(self.found(Err(bad)))
    }

    fn see(&mut self, byte: u8) -> Option<Found> {
        match (self.within, byte) {
            (Within::Nothing, b'{') => {
                self.start = self.at - 1;
                self.within = Within::Object { depth: 1 };
            }
            (Within::Nothing, b' ' | b'\t' | b'\r' | b'\n') => {}
            // A mark of the byte order, which some editors put in front of everything.
            (Within::Nothing, 0xef | 0xbb | 0xbf) if self.lines == 0 => {}
            (Within::Nothing, _) => self.within = Within::Waste(Bad::NoObject),
            (Within::Waste(bad), b'\n') => return Some(self.found(Err(bad))),
            (Within::Waste(_), _) => {}
            (Within::Object { .. } | Within::Text { .. }, b'\n') => return Some(self.found(Err(Bad::Unfinished))),
            (Within::Object { depth: 1 }, b'}') => return Some(self.found(Ok(self.start..self.at))),
            (Within::Object { depth }, b'"') => self.within = Within::Text { depth, escaped: false },
            (Within::Object { depth }, b'{' | b'[') => self.within = Within::Object { depth: depth.saturating_add(1) },
            (Within::Object { depth }, b'}' | b']') => self.within = Within::Object { depth: depth.max(2) - 1 },
            (Within::Object { .. }, _) => {}
            (Within::Text { depth, escaped: true }, _) => self.within = Within::Text { depth, escaped: false },
            (Within::Text { depth, .. }, b'\\') => self.within = Within::Text { depth, escaped: true },
            (Within::Text { depth, .. }, b'"') => self.within = Within::Object { depth },
            (Within::Text { .. }, _) => {}
        }
        let is_open = matches!(self.within, Within::Object { .. } | Within::Text { .. });
        if is_open && self.at - self.start > self.most {
            self.within = Within::Waste(Bad::TooLong);
            self.start = self.at;
        }
        None
    }

    fn found(&mut self, record: Result<Range<usize>, Bad>) -> Found {
        self.within = Within::Nothing;
        self.start = self.at;
        self.lines += 1;
        Found { line: self.lines, record }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a text that comes in pieces of `step` bytes.
    fn records(text: &str, step: usize) -> Vec<Result<String, Bad>> {
        let mut values = Values::new(40);
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            values.push(piece);
            while let Some(Found { line, record }) = values.next() {
                let read = record.map(|range| String::from_utf8(values.text(range).to_vec()).expect("UTF-8"));
                found.push(read);
                assert_eq!(line, found.len() as u64);
            }
        }
        found.extend(values.end().map(|found| found.record.map(|_| String::new())));
        found
    }

    #[test]
    fn records_are_found_whatever_the_pieces() {
        let text = "\u{feff}{\"a\":1}\r\n\n{\"b\":\"}\\\"{\"}{\"c\":[{}]} {\"d\":2}\nnothing {\"e\":1}\n{\"f\":\n{\"g\":\"x\n\
                    {\"h\":\"a text that is longer than the limit of these tests allows\"}\n{\"i\":{}}}\n{\"j\"";
        let ok = |text: &str| Ok(text.to_owned());
        let expected = vec![
            ok("{\"a\":1}"),
            ok("{\"b\":\"}\\\"{\"}"),
            ok("{\"c\":[{}]}"),
            ok("{\"d\":2}"),
            Err(Bad::NoObject),
            Err(Bad::Unfinished),
            Err(Bad::Unfinished),
            Err(Bad::TooLong),
            ok("{\"i\":{}}"),
            Err(Bad::NoObject),
            Err(Bad::Unfinished),
        ];
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(records(text, step), expected, "pieces of {step} bytes");
        }
    }

    #[test]
    fn what_was_given_out_is_not_kept() {
        let mut values = Values::new(100);
        for _ in 0..10_000 {
            values.push(b"{\"a\":1}\nwaste without end, of which nothing");
            while values.next().is_some() {}
            assert!(values.kept() < 200);
            values.push(b"\n");
            while values.next().is_some() {}
        }
    }
}
