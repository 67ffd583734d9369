//! The strict check of a JSON text: what passes here can be read back by anyone, for ever.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, ErrorCode};

/// How deep arrays and objects may be nested: as deep as every reader that goes by serde_json's own limit can follow.
pub const MAX_DEPTH: usize = 127;

/// Checks that `text` is exactly one JSON value: UTF-8, at most [`MAX_DEPTH`] deep, every string
/// decodable (no lone surrogates), every number finite as a 64-bit float, no member name twice in
/// one object. Answers where the value stands without the white space around it.
///
/// # Errors
/// `invalid-json` with line and column.
pub fn check(text: &[u8]) -> Result<Range<usize>, Error> {
    if is_plain_string(text) {
        return Ok(0..text.len());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let checked = Strict.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if let Err(error) = checked {
        // serde_json has no kind for this, only words.
        if error.to_string().starts_with("recursion limit exceeded") {
            let (line, column) = (error.line(), error.column());
            let detail = format!(
                "the value is nested deeper than {MAX_DEPTH} levels, the most allowed, at line {line} column {column}"
            );
            return Err(Error::new(ErrorCode::InvalidJson, detail));
        }
        return Err(Error::new(ErrorCode::InvalidJson, format!("the value is not valid JSON: {error}"))
            .with_hint("to store text send it with Content-Type: text/plain"));
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(0);
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(0, |last| last + 1);
    Ok(start..end)
}

/// Whether the text is a string of printable ASCII without escapes: so usual, and so quickly seen, that it is not
/// worth a parser.
fn is_plain_string(text: &[u8]) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    // Without an early end several bytes are looked at in one step.
    matches!(text, [b'"', inner @ .., b'"'] if inner.iter().fold(true, |plain, &byte| plain & is_plain(byte)))
}

/// Visits every part of a value and keeps nothing. serde_json itself decodes the strings, bounds the
/// depth and refuses numbers that are not finite; only the repeated members are looked for here.
#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            members.next_value_seed(self)?;
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format_args!("the member {name:?} stands twice in one object")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everyone_can_read_passes() {
        for text in [
            "null",
            "\"\"",
            "\" ~\"",
            "\"\u{7f}\"",
            " 1.0 ",
            "-0",
            "\"\\ud83d\\ude00\"",
            "[]",
            "{\"a\":{\"a\":1}}",
            "123456789012345678901234567890",
            "1e308",
        ] {
            check(text.as_bytes()).expect(text);
        }
        assert_eq!(check(b" \n[1] \t").expect("trimmed"), 2..5);
        let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
        check(deep.as_bytes()).expect("120 levels");
    }

    #[test]
    fn what_some_reader_refuses_is_refused() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for text in [
            "",
            " ",
            "nul",
            "1 2",
            "\"\\ud800\"",
            "1e999",
            "{\"a\":1,\"a\":2}",
            "[1,]",
            "01",
            "'a'",
            "NaN",
            "\"\u{1}\"",
            "\"",
            "\"\"\"",
            "\"\\\"",
            "\"a\\q\"",
            "\"a\u{7f}\" b\"",
            deep.as_str(),
        ] {
            let error = check(text.as_bytes()).expect_err(text);
            assert_eq!(error.code(), ErrorCode::InvalidJson);
        }
        assert!(check(b"\"\xff\"").is_err(), "not UTF-8");
    }
}
