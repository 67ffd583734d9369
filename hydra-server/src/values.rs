//! Values as they come in: what their content type means, when they expire, how long they may be. Pure.

use http::header::CONTENT_TYPE;
use hydra_core::duration::parse_duration;
use hydra_core::wire::{JSON_PATCH_JSON, MERGE_PATCH_JSON};
use hydra_core::{Error, ErrorCode, Expiry, MAX_VALUE_BYTES, Patch, Timestamp, Value};

use crate::body::Limit;
use crate::conditions::invalid as invalid_header;
use crate::head::Headers;
use crate::query::{Query, invalid};

/// The longest value any policy may allow; the policy of the swamp may allow less.
pub(crate) const VALUE_LIMIT: Limit =
    Limit { bytes: MAX_VALUE_BYTES, code: ErrorCode::ValueTooLarge, what: "the value" };
/// A patch is never longer than a value.
pub(crate) const PATCH_LIMIT: Limit =
    Limit { bytes: MAX_VALUE_BYTES, code: ErrorCode::BodyTooLarge, what: "the patch" };
/// What `expires_at` can be.
const TIMES: &str = "RFC 3339 in UTC, e.g. 2026-01-31T12:00:00Z, or Unix milliseconds";

/// When a treasure expires, from the parameters `ttl`, `expires_at` and `keep_ttl`.
///
/// # Errors
/// `invalid-parameter` when more than one came, or one cannot be read.
pub(crate) fn expiry_of(query: &Query<'_>) -> Result<Expiry, Error> {
    expiry(query.text("ttl"), query.value("expires_at", TIMES)?, query.flag("keep_ttl")?)
}

/// When a treasure expires, from how long it lives, from the moment itself, or as what it replaces.
///
/// # Errors
/// `invalid-parameter` when more than one was given, or `ttl` cannot be read.
pub(crate) fn expiry(ttl: Option<&str>, at: Option<Timestamp>, keep: bool) -> Result<Expiry, Error> {
    match (ttl, at, keep) {
        (Some(_), Some(_), _) => Err(invalid("ttl", "came together with expires_at; send one of them")),
        (Some(_), _, true) | (_, Some(_), true) => {
            Err(invalid("keep_ttl", "came together with another expiry; send one of them"))
        }
        (None, None, true) => Ok(Expiry::Keep),
        (None, at, false) => Ok(at.into()),
        (Some(text), None, false) => {
            let ttl = parse_duration(text).map_err(|error| invalid("ttl", &format!("is wrong: {}", error.detail())))?;
            if ttl.is_zero() {
                return Err(invalid("ttl", "is 0; allowed is 1ms and more, or DELETE"));
            }
            Ok(Expiry::At(Timestamp::now().after(ttl)))
        }
    }
}

/// What kind of value the content type announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Text,
    Binary(String),
}

impl Kind {
    /// The kind of value that was sent.
    ///
    /// # Errors
    /// `invalid-header`; `unsupported-media-type` for text in another charset than UTF-8.
    pub(crate) fn of(headers: &Headers) -> Result<Kind, Error> {
        let Some(sent) = headers.get(&CONTENT_TYPE) else { return Ok(Kind::Json) };
        // As nearly everybody writes it.
        if sent == "application/json" {
            return Ok(Kind::Json);
        }
        let sent = sent.to_str().map_err(|_| invalid_header("Content-Type", "is not printable ASCII"))?;
        let (media, parameters) = sent.split_once(';').unwrap_or((sent, ""));
        let media = media.trim();
        let is = |known: &str| media.eq_ignore_ascii_case(known);
        if is("application/json") || is("") || is("application/x-www-form-urlencoded") {
            return Ok(Kind::Json);
        }
        if is("text/plain") {
            return utf8_only(parameters).map(|()| Kind::Text);
        }
        match media.rsplit_once('+') {
            Some((_, suffix)) if suffix.eq_ignore_ascii_case("json") => Ok(Kind::Json),
            _ => Ok(Kind::Binary(sent.trim().to_owned())),
        }
    }

    /// The value, checked.
    ///
    /// # Errors
    /// `invalid-json` with line and column; `invalid-body` for text that is no UTF-8.
    pub(crate) fn value(self, bytes: &[u8]) -> Result<Value, Error> {
        match self {
            Kind::Json => Value::json(bytes),
            Kind::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Value::text(text)),
                Err(error) => Err(Error::new(ErrorCode::InvalidBody, format!("the text is not UTF-8: {error}"))
                    .with_hint("to store other bytes send Content-Type: application/octet-stream")),
            },
            Kind::Binary(content_type) => Value::binary(&content_type, bytes),
        }
    }
}

/// Text is kept as a JSON string, so it has to be UTF-8.
fn utf8_only(parameters: &str) -> Result<(), Error> {
    for parameter in parameters.split(';') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        let utf8 = ["utf-8", "utf8", "us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known));
        if name.trim().eq_ignore_ascii_case("charset") && !utf8 {
            return Err(Error::new(
                ErrorCode::UnsupportedMediaType,
                format!("text in the charset {value:?} is not supported; utf-8 is"),
            ));
        }
    }
    Ok(())
}

/// What kind of patch the content type announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Merge,
    Steps,
}

impl PatchKind {
    /// The kind of patch that was sent; a merge patch where nothing else is said.
    ///
    /// # Errors
    /// `unsupported-media-type` for any other type.
    pub(crate) fn of(headers: &Headers) -> Result<PatchKind, Error> {
        let Some(sent) = headers.get(&CONTENT_TYPE) else { return Ok(PatchKind::Merge) };
        let sent = sent.to_str().map_err(|_| invalid_header("Content-Type", "is not printable ASCII"))?;
        let media = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "" | "application/json" | "application/x-www-form-urlencoded" | MERGE_PATCH_JSON => Ok(PatchKind::Merge),
            JSON_PATCH_JSON => Ok(PatchKind::Steps),
            _ => Err(Error::new(
                ErrorCode::UnsupportedMediaType,
                format!("a patch of the type {media:?} is not supported"),
            )
            .with_hint(format!("send {MERGE_PATCH_JSON} or {JSON_PATCH_JSON}"))),
        }
    }

    /// The patch, checked.
    ///
    /// # Errors
    /// `invalid-json`; `invalid-body` for a list of changes that is not understood.
    pub(crate) fn patch(self, bytes: &[u8]) -> Result<Patch, Error> {
        match self {
            PatchKind::Merge => Patch::merge(bytes),
            PatchKind::Steps => Patch::json(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn kind(content_type: &str) -> Result<Kind, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a header"));
        Kind::of(&headers.into())
    }

    #[test]
    fn content_types_decide_how_a_value_is_read() {
        assert_eq!(Kind::of(&Headers::default()).expect("none"), Kind::Json);
        for json in ["application/json", "APPLICATION/JSON; charset=utf-8", "application/geo+json", ""] {
            assert_eq!(kind(json).expect(json), Kind::Json, "{json}");
        }
        assert_eq!(kind("application/x-www-form-urlencoded").expect("curl"), Kind::Json);
        assert_eq!(kind("text/plain; charset=\"UTF-8\"").expect("text"), Kind::Text);
        assert_eq!(kind("text/plain;charset=latin1").expect_err("latin1").code(), ErrorCode::UnsupportedMediaType);
        assert_eq!(kind("image/png").expect("png"), Kind::Binary("image/png".into()));
        assert_eq!(kind("text/html").expect("html"), Kind::Binary("text/html".into()));
    }

    #[test]
    fn an_expiry_comes_from_one_parameter() {
        let now = Timestamp::now();
        assert_eq!(expiry(None, None, false).expect("none"), Expiry::Never);
        assert_eq!(expiry(None, None, true).expect("as before"), Expiry::Keep);
        assert_eq!(expiry(None, Some(now), false).expect("a moment"), Expiry::At(now));
        assert!(matches!(expiry(Some("2h"), None, false), Ok(Expiry::At(at)) if at > now));
        assert!(expiry(Some("0"), None, false).is_err() && expiry(Some("soon"), None, false).is_err());
        assert!(expiry(Some("1s"), Some(now), false).is_err() && expiry(None, Some(now), true).is_err());
    }
}
