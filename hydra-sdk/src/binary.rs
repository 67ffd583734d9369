//! Binary values inside JSON: `{"$binary": base64, "contentType": …}`, both ways.

use hydra_core::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Binary {
    #[serde(rename = "$binary")]
    base64: String,
    content_type: String,
}

/// A value as a member of a JSON document.
pub(crate) fn to_json(value: &Value) -> Result<Box<RawValue>> {
    let text = match value.content_type() {
        None => String::from_utf8(value.as_bytes().to_vec()).map_err(unwritable)?,
        Some(content_type) => {
            let binary = Binary { base64: encode(value.as_bytes()), content_type: content_type.to_owned() };
            serde_json::to_string(&binary).map_err(unwritable)?
        }
    };
    RawValue::from_string(text).map_err(unwritable)
}

fn unwritable(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("the value cannot be written as JSON: {error}"))
}

/// The value that a member of a JSON document stands for.
pub(crate) fn from_json(raw: &RawValue) -> Result<Value> {
    match serde_json::from_str::<Binary>(raw.get()) {
        Ok(binary) => {
            let bytes = decode(&binary.base64)
                .ok_or_else(|| Error::new(ErrorKind::Protocol, "the answer has a binary value that is not base64"))?;
            Ok(Value::binary(&binary.content_type, bytes)?)
        }
        Err(_) => Ok(Value::json(raw.get())?),
    }
}

/// Base64 with padding (RFC 4648 §4).
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The inverse of [`encode`]; `None` for anything it does not write.
fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for &digit in group {
            let value = ALPHABET.iter().position(|&known| known == digit)?;
            bits = bits << 6 | value as u32;
        }
        let [_, a, b, c] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        bytes.extend_from_slice(&[a, b, c][..group.len() - 1]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(plain.as_bytes()));
        }
        for bad in ["Zg", "Z===", "Zg=", "Z$==", "===="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
    }

    #[test]
    fn values_survive_json() {
        for value in [
            Value::text("a"),
            Value::json("{\"a\": 1.0}").expect("json"),
            Value::binary("image/png", [0, 255]).expect("binary"),
        ] {
            assert_eq!(from_json(&to_json(&value).expect("writes")).expect("reads"), value);
        }
    }
}
