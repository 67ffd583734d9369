//! The lines of an import, and which of them are sent on at once. Pure.

use hydra_core::{BadValue, FoundValue, ImportValues, MAX_IMPORT_LINE_BYTES, SwampName};

use crate::export::OfSwamp;

/// As much is sent on at once: less than a server writes at once, so that each part is answered as a whole.
const MOST_LINES: usize = 500;
pub(crate) const MOST_BYTES: usize = 512 << 10;

/// A line of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportLine {
    /// Its number, counted from 1; empty lines do not count.
    pub number: u64,
    /// The swamp it names; `None` where that cannot be read.
    pub swamp: Option<SwampName>,
    /// Its text, or why it has none that could be sent on.
    pub text: Result<Vec<u8>, BadValue>,
}

impl ImportLine {
    fn size(&self) -> usize {
        self.text.as_ref().map_or(0, Vec::len)
    }
}

/// Takes the bytes of an import in, and gives lines out.
#[derive(Debug)]
pub struct ImportParts {
    values: ImportValues,
    lines: Vec<ImportLine>,
    size: usize,
}

impl Default for ImportParts {
    fn default() -> ImportParts {
        ImportParts { values: ImportValues::new(MAX_IMPORT_LINE_BYTES), lines: Vec::new(), size: 0 }
    }
}

impl ImportParts {
    /// Takes the next bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.values.push(bytes);
        while let Some(found) = self.values.next() {
            self.add(found);
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        if let Some(found) = self.values.end() {
            self.add(found);
        }
    }

    /// Whether there is as much as should be sent on at once.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lines.len() >= MOST_LINES || self.size >= MOST_BYTES
    }

    /// Whether there is no whole line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines that came, at most as many as a server answers for as a whole.
    pub fn take(&mut self) -> Vec<ImportLine> {
        let mut size = 0;
        let fits = self.lines.iter().take(MOST_LINES).take_while(|line| {
            let fits = size < MOST_BYTES;
            size += line.size();
            fits
        });
        let count = fits.count();
        let rest = self.lines.split_off(count);
        self.size = rest.iter().map(|line| line.size()).sum();
        std::mem::replace(&mut self.lines, rest)
    }

    /// How many bytes are kept.
    pub(crate) fn kept(&self) -> usize {
        self.values.kept() + self.size
    }

    fn add(&mut self, found: FoundValue) {
        let text = found.record.map(|range| self.values.text(range).to_vec());
        let named = text.as_ref().ok().and_then(|text| serde_json::from_slice::<OfSwamp<'_>>(text).ok());
        let swamp = named.and_then(|line| line.swamp.parse().ok());
        let line = ImportLine { number: found.line, swamp, text };
        self.size += line.size();
        self.lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_name_their_swamps() {
        let mut parts = ImportParts::default();
        for piece in
            ["{\"swamp\":\"a/b/c\",\"key\":\"k\",\"value\":1}\n\nnothing\n{\"key\"", ":\"k\"}{\"swamp\":\"a/b\"}"]
        {
            parts.push(piece.as_bytes());
        }
        parts.end();
        let lines = parts.take();
        let swamps: Vec<Option<&str>> = lines.iter().map(|line| line.swamp.as_ref().map(SwampName::as_str)).collect();
        assert_eq!(swamps, [Some("a/b/c"), None, None, None]);
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((&lines[1].text, &lines[2].text), (&Err(BadValue::NoObject), &Ok(b"{\"key\":\"k\"}".to_vec())));
        assert!(parts.is_empty() && parts.kept() < 100);
    }

    #[test]
    fn a_part_is_as_much_as_a_server_answers_for_as_a_whole() {
        let mut parts = ImportParts::default();
        for _ in 0..2_500 {
            parts.push(b"{\"swamp\":\"a/b/c\",\"key\":\"k\",\"value\":1}\n");
        }
        let taken: Vec<usize> = std::iter::from_fn(|| Some(parts.take().len()).filter(|&count| count > 0)).collect();
        assert_eq!(taken, [500; 5]);
        parts.push(&[b"{\"v\":\"".as_slice(), &vec![b'x'; MOST_BYTES], b"\"}\n{}\n"].concat());
        assert!(parts.is_full());
        assert_eq!((parts.take().len(), parts.is_full(), parts.take().len()), (1, false, 1));
    }
}
