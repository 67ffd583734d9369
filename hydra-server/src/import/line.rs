//! One line of an import: from its text to a write. Pure.

use std::borrow::Cow;

use hydra_core::{Error, ErrorCode, ImportMode, ImportRecord, Op, SwampName, Timestamp, check_key};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::render::read_value;

/// The members of an exported treasure.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line<'a> {
    #[serde(default, borrow)]
    swamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default, rename = "version")]
    _version: Option<IgnoredAny>,
    #[serde(default, rename = "createdAt")]
    _created_at: Option<IgnoredAny>,
    #[serde(default)]
    updated_at: Option<Timestamp>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// Reads a line. `into` is the swamp the import is about; without one each line names its own.
///
/// # Errors
/// `invalid-json` for what is no JSON; `invalid-body` for members that are missing, unknown or of another kind;
/// those of names, keys and values.
pub(crate) fn read(text: &[u8], into: Option<&SwampName>, mode: ImportMode) -> Result<(SwampName, Op), Error> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| {
        let code = if error.classify() == Category::Data { ErrorCode::InvalidBody } else { ErrorCode::InvalidJson };
        Error::new(code, format!("the line cannot be read: {error}"))
    })?;
    let swamp = swamp_of(line.swamp.as_deref(), into)?;
    check_key(&line.key)?;
    let record = ImportRecord {
        value: read_value(line.value)?,
        key: line.key.into_owned(),
        expires_at: line.expires_at,
        updated_at: line.updated_at,
    };
    Ok((swamp, mode.op(record)?))
}

fn swamp_of(named: Option<&str>, into: Option<&SwampName>) -> Result<SwampName, Error> {
    let refuse = |why: String| Err(Error::new(ErrorCode::InvalidBody, why));
    match (named, into) {
        (None, Some(into)) => Ok(into.clone()),
        (Some(named), Some(into)) if named == into.as_str() => Ok(into.clone()),
        (Some(named), Some(into)) => refuse(format!("the member swamp is {named:?}; this import is into {into}")),
        (Some(named), None) => named.parse(),
        (None, None) => refuse("the member swamp is missing; it is the name sanctuary/realm/swamp".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydra_core::{Condition, Expiry};

    fn code(text: &str, into: Option<&str>) -> ErrorCode {
        let into = into.map(|name| name.parse().expect("a name"));
        read(text.as_bytes(), into.as_ref(), ImportMode::Upsert).expect_err(text).code()
    }

    #[test]
    fn a_line_of_an_export_is_a_write() {
        let text = r#"{"swamp":"a/b/c","key":"k\u00e9","value":null,"version":"x","createdAt":"y",
            "updatedAt":"2026-11-22T10:00:00.000Z","expiresAt":null}"#;
        let (swamp, op) = read(text.as_bytes(), None, ImportMode::Newer).expect("reads");
        assert_eq!(swamp.as_str(), "a/b/c");
        let Op::Put { key, value, expiry: Expiry::Never, condition: Condition::UpdatedBefore(_) } = op else {
            panic!("{op:?}")
        };
        assert_eq!((key.as_str(), value.as_bytes()), ("ké", &b"null"[..]));
    }

    #[test]
    fn every_fault_has_its_code() {
        let (json, body) = (ErrorCode::InvalidJson, ErrorCode::InvalidBody);
        for (text, expected) in [
            (r#"{"key":"k","value":}"#, json),
            (r#"{"key":"k","value":{"a":1,"a":2}}"#, json),
            ("{\"key\":\"k\",\"value\":\"\u{1}\"}", json),
            (r#"{"key":"k"}"#, body),
            (r#"{"value":1}"#, body),
            (r#"{"key":1,"value":1}"#, body),
            (r#"{"key":"k","value":1,"ttl":"1s"}"#, body),
            (r#"{"key":"k","value":1,"key":"l"}"#, body),
            (r#"{"key":"k","value":1,"expiresAt":"soon"}"#, body),
            (r#"{"key":"k","value":{"$binary":"?","contentType":"a/b"}}"#, body),
            (r#"{"swamp":"a/b/d","key":"k","value":1}"#, body),
            (r#"{"key":"..","value":1}"#, ErrorCode::InvalidKey),
        ] {
            assert_eq!(code(text, Some("a/b/c")), expected, "{text}");
        }
        assert_eq!(code(r#"{"key":"k","value":1}"#, None), body);
        assert_eq!(code(r#"{"swamp":"a/b","key":"k","value":1}"#, None), ErrorCode::InvalidName);
    }
}
