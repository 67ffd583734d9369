//! Treasures as JSON, written straight from their bytes: a value that was checked once is never parsed again.

use std::fmt;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hydra_core::{Error, ErrorCode, Treasure, Value};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Which members of a treasure are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Key, value and everything known about it.
    Full,
    /// Key and value.
    Values,
    /// Everything but the value.
    Meta,
    /// The key alone.
    Keys,
}

impl Include {
    /// Reads the parameter `include`.
    pub(crate) fn from_text(text: &str) -> Option<Include> {
        match text {
            "full" => Some(Include::Full),
            "values" => Some(Include::Values),
            "meta" => Some(Include::Meta),
            "keys" => Some(Include::Keys),
            _ => None,
        }
    }

    fn has_value(self) -> bool {
        matches!(self, Include::Full | Include::Values)
    }

    fn has_meta(self) -> bool {
        matches!(self, Include::Full | Include::Meta)
    }
}

/// Appends a treasure: the shape of [`hydra_core::wire::TreasureBody`].
pub(crate) fn write_treasure(out: &mut Vec<u8>, treasure: &Treasure, include: Include) {
    out.extend_from_slice(b"{\"key\":");
    write_string(out, &treasure.key);
    if include.has_value() {
        out.extend_from_slice(b",\"value\":");
        write_value(out, &treasure.value);
    }
    if include.has_meta() {
        let (version, created_at, updated_at) = (treasure.version, treasure.created_at, treasure.updated_at);
        write_all(
            out,
            format_args!(
                r#","version":"{version}","createdAt":"{created_at}","updatedAt":"{updated_at}","expiresAt":"#
            ),
        );
        match treasure.expires_at {
            Some(expires_at) => write_all(out, format_args!("\"{expires_at}\"")),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

/// Appends what is written; memory takes everything.
fn write_all(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Appends a value: JSON as it was put, other bytes as `{"$binary": base64, "contentType": …}`.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value) {
    let Some(content_type) = value.content_type() else {
        return out.extend_from_slice(value.as_bytes());
    };
    out.extend_from_slice(b"{\"$binary\":\"");
    out.extend_from_slice(STANDARD.encode(value.as_bytes()).as_bytes());
    out.extend_from_slice(b"\",\"contentType\":");
    write_string(out, content_type);
    out.push(b'}');
}

/// Appends text as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is written to memory");
}

/// The inverse of [`write_value`]: an object of exactly the two members of a binary value is one.
///
/// # Errors
/// `invalid-json`; `invalid-body` for base64 that cannot be read; `invalid-parameter` for a bad content type.
pub(crate) fn read_value(json: &RawValue) -> Result<Value, Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Binary<'a> {
        #[serde(rename = "$binary", borrow)]
        base64: std::borrow::Cow<'a, str>,
        #[serde(rename = "contentType", borrow)]
        content_type: std::borrow::Cow<'a, str>,
    }
    let text = json.get();
    let binary = if text.contains("$binary") { serde_json::from_str::<Binary<'_>>(text).ok() } else { None };
    let Some(binary) = binary else { return Value::json(text) };
    let bytes = STANDARD
        .decode(binary.base64.as_bytes())
        .map_err(|error| Error::new(ErrorCode::InvalidBody, format!("$binary is no base64 with padding: {error}")))?;
    Value::binary(&binary.content_type, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(value: &Value) -> (String, Value) {
        let mut text = Vec::new();
        write_value(&mut text, value);
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        let raw: Box<RawValue> = serde_json::from_str(&text).expect("JSON");
        (text, read_value(&raw).expect("reads back"))
    }

    #[test]
    fn values_read_back_as_they_were_written() {
        let png = Value::binary("image/png", [0, 255, 7]).expect("binary");
        let (text, back) = round_trip(&png);
        assert_eq!(text, r#"{"$binary":"AP8H","contentType":"image/png"}"#);
        assert_eq!(back, png);
        for json in ["1.0", "\"\\u0041\"", r#"{"$binary":1}"#, r#"{"a":"$binary"}"#, "123456789012345678901"] {
            let value = Value::json(json).expect(json);
            assert_eq!(round_trip(&value), (json.to_owned(), value));
        }
    }
}
