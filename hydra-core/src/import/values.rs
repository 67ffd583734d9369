//! Where one JSON object ends and the next begins, in bytes that come piece by piece. Pure.
//!
//! Objects stand on lines of their own, or directly one behind another. None goes beyond the end of its line, so
//! whatever is wrong with a line costs that line alone.

use std::ops::Range;

use crate::error::{Error, ErrorCode};

/// A record that was found: its number, counted from 1, and where it is, see [`ImportValues::text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundValue {
    /// Its number; empty lines do not count.
    pub line: u64,
    /// Where it is, or what is wrong with it.
    pub record: Result<Range<usize>, BadValue>,
}

/// What can be wrong with a record of an import before anything is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadValue {
    /// The line does not begin with `{`.
    NoObject,
    /// The line ends in the midst of the object.
    Unfinished,
    /// The object is longer than the limit.
    TooLong,
}

impl BadValue {
    /// The error about it; `most` is the length of the longest record allowed.
    #[must_use]
    pub fn to_error(self, most: usize) -> Error {
        match self {
            BadValue::NoObject => Error::new(ErrorCode::InvalidJson, "the line is no JSON object")
                .with_hint(r#"write {"key":"k","value":1} on each line"#),
            BadValue::Unfinished => Error::new(ErrorCode::InvalidJson, "the line ends in the midst of a JSON object")
                .with_hint("an object must not go beyond the end of its line"),
            BadValue::TooLong => Error::new(
                ErrorCode::BodyTooLarge,
                format!("the line is longer than {most} bytes, the longest allowed"),
            ),
        }
    }
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
    Waste(BadValue),
}

/// Takes the bytes of an import in and gives its records out.
#[derive(Debug)]
pub struct ImportValues {
    buffer: Vec<u8>,
    /// Where the record that is being read begins, and how far it was looked at.
    start: usize,
    at: usize,
    within: Within,
    lines: u64,
    most: usize,
}

impl ImportValues {
    /// `most` is the length of the longest record allowed.
    #[must_use]
    pub fn new(most: usize) -> ImportValues {
        ImportValues { buffer: Vec::new(), start: 0, at: 0, within: Within::Nothing, lines: 0, most }
    }

    /// Takes the next bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.buffer.len()
    }

    /// The text of a record, until more is pushed.
    #[must_use]
    pub fn text(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// The next record that is here as a whole.
    #[allow(clippy::should_implement_trait)] // It goes on when more was pushed, which no iterator does.
    pub fn next(&mut self) -> Option<FoundValue> {
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
    pub fn end(&mut self) -> Option<FoundValue> {
        let bad = match self.within {
            Within::Nothing => return None,
            Within::Object { .. } | Within::Text { .. } => BadValue::Unfinished,
            Within::Waste(bad) => bad,
        };
        Some(self.found(Err(bad)))
    }

    fn see(&mut self, byte: u8) -> Option<FoundValue> {
        match (self.within, byte) {
            (Within::Nothing, b'{') => {
                self.start = self.at - 1;
                self.within = Within::Object { depth: 1 };
            }
            (Within::Nothing, b' ' | b'\t' | b'\r' | b'\n') => {}
            // A mark of the byte order, which some editors put in front of everything.
            (Within::Nothing, 0xef | 0xbb | 0xbf) if self.lines == 0 => {}
            (Within::Nothing, _) => self.within = Within::Waste(BadValue::NoObject),
            (Within::Waste(bad), b'\n') => return Some(self.found(Err(bad))),
            (Within::Waste(_), _) => {}
            (Within::Object { .. } | Within::Text { .. }, b'\n') => return Some(self.found(Err(BadValue::Unfinished))),
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
            self.within = Within::Waste(BadValue::TooLong);
            self.start = self.at;
        }
        None
    }

    fn found(&mut self, record: Result<Range<usize>, BadValue>) -> FoundValue {
        self.within = Within::Nothing;
        self.start = self.at;
        self.lines += 1;
        FoundValue { line: self.lines, record }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a text that comes in pieces of `step` bytes.
    fn records(text: &str, step: usize) -> Vec<Result<String, BadValue>> {
        let mut values = ImportValues::new(40);
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            values.push(piece);
            while let Some(FoundValue { line, record }) = values.next() {
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
            Err(BadValue::NoObject),
            Err(BadValue::Unfinished),
            Err(BadValue::Unfinished),
            Err(BadValue::TooLong),
            ok("{\"i\":{}}"),
            Err(BadValue::NoObject),
            Err(BadValue::Unfinished),
        ];
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(records(text, step), expected, "pieces of {step} bytes");
        }
    }

    #[test]
    fn what_was_given_out_is_not_kept() {
        let mut values = ImportValues::new(100);
        for _ in 0..10_000 {
            values.push(b"{\"a\":1}\nwaste without end, of which nothing");
            while values.next().is_some() {}
            assert!(values.kept() < 200);
            values.push(b"\n");
            while values.next().is_some() {}
        }
    }
}
