//! Request headers that change what a request means: conditions, idempotency keys, preferences. Pure.

use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_RANGE, HeaderName, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use hydra_core::wire::{header, is_gzip_body};
use hydra_core::{Condition, Error, ErrorCode, Version};

use crate::answer;
use crate::head::Headers;
use crate::route::shown;

/// The longest idempotency key, in bytes.
pub(crate) const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The entity tags of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tags {
    /// `*`: whatever the version.
    Any,
    /// The tags that can be versions. Foreign tags match nothing and are left out, and so do weak ones, but where
    /// `If-None-Match` asks whether a copy is still fresh: a proxy that packs answers makes their tags weak.
    Versions(Vec<Version>),
}

impl Tags {
    /// The tags of a header, from all its lines; `None` when it was not sent.
    ///
    /// # Errors
    /// `invalid-header` when the header is not text, is empty, or has `*` beside tags.
    pub(crate) fn read(headers: &Headers, name: &HeaderName) -> Result<Option<Tags>, Error> {
        let mut lines = headers.get_all(name).peekable();
        if lines.peek().is_none() {
            return Ok(None);
        }
        let mut any = false;
        let mut pieces = 0;
        let mut versions = Vec::new();
        for line in lines {
            let line = line.to_str().map_err(|_| invalid(name.as_str(), "is not printable ASCII"))?;
            for piece in line.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
                pieces += 1;
                any |= piece == "*";
                let weak = piece.strip_prefix("W/").filter(|_| *name == IF_NONE_MATCH);
                versions.extend(version_of(weak.unwrap_or(piece)));
            }
        }
        match (pieces, any) {
            (0, _) => Err(invalid(name.as_str(), "is empty; send an ETag of an earlier answer, or *")),
            (1, true) => Ok(Some(Tags::Any)),
            (_, true) => Err(invalid(name.as_str(), "has * beside other tags")),
            (_, false) => Ok(Some(Tags::Versions(versions))),
        }
    }

    /// Whether one of the tags is this version.
    pub(crate) fn matches(&self, version: &Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::Versions(versions) => versions.contains(version),
        }
    }
}

/// A tag with or without quotes. A weak tag never matches in a strong comparison.
fn version_of(tag: &str) -> Option<Version> {
    let bare = match tag.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => tag,
    };
    bare.parse().ok()
}

/// What must hold before a PUT or DELETE.
///
/// # Errors
/// `invalid-header` for conditions that cannot be kept; none is ever ignored.
pub(crate) fn write_condition(headers: &Headers) -> Result<Condition, Error> {
    if headers.has(&IF_UNMODIFIED_SINCE) {
        return Err(invalid("If-Unmodified-Since", "is not supported").with_hint("send If-Match with the ETag"));
    }
    let if_match = Tags::read(headers, &IF_MATCH)?;
    match (if_match, Tags::read(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Always),
        (Some(Tags::Any), None) => Ok(Condition::Present),
        (Some(Tags::Versions(versions)), None) => Ok(Condition::Version(versions)),
        (None, Some(Tags::Any)) => Ok(Condition::Absent),
        (None, Some(Tags::Versions(_))) => {
            Err(invalid("If-None-Match", "has a tag; on a write only * is allowed, which means: must not exist"))
        }
        (Some(_), Some(_)) => Err(invalid("If-None-Match", "came together with If-Match; send one of them")),
    }
}

/// Refuses every condition, for requests that cannot keep one.
///
/// # Errors
/// `invalid-header` names the first condition found.
pub(crate) fn no_conditions(headers: &Headers) -> Result<(), Error> {
    match [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE].iter().find(|name| headers.has(name)) {
        Some(name) => Err(invalid(name.as_str(), "cannot be kept by this request; leave it out")),
        None => Ok(()),
    }
}

/// Refuses bodies that are encoded or only part of a value: storing them as they are would lose that fact.
///
/// # Errors
/// `unsupported-media-type` or `invalid-header`.
pub(crate) fn plain_body(headers: &Headers) -> Result<(), Error> {
    if body_encoding(headers)? {
        let detail = "Content-Encoding gzip is not supported here; send the bytes as they are";
        return Err(Error::new(ErrorCode::UnsupportedMediaType, detail));
    }
    Ok(())
}

/// Whether the body is gzip, for requests that take it so: imports.
///
/// # Errors
/// `unsupported-media-type` for another encoding; `invalid-header` for a part of a body.
pub(crate) fn body_encoding(headers: &Headers) -> Result<bool, Error> {
    if headers.has(&CONTENT_RANGE) {
        return Err(invalid("Content-Range", "is not supported; send the whole value"));
    }
    single(headers, &CONTENT_ENCODING)?.map_or(Ok(false), is_gzip_body)
}

/// The idempotency key of a write, if one was sent.
///
/// # Errors
/// `invalid-header` unless there is exactly one of 1 to 255 bytes of printable ASCII.
pub(crate) fn idempotency_key(headers: &Headers) -> Result<Option<&str>, Error> {
    let Some(key) = single(headers, &answer::IDEMPOTENCY_KEY)? else { return Ok(None) };
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY {
        return Err(invalid(
            header::IDEMPOTENCY_KEY,
            &format!("has {} bytes; 1 to {MAX_IDEMPOTENCY_KEY} are allowed", key.len()),
        ));
    }
    Ok(Some(key))
}

/// The text of a header that may come only once.
///
/// # Errors
/// `invalid-header` when it came twice or is not printable ASCII.
pub(crate) fn single<'a>(headers: &'a Headers, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let mut lines = headers.get_all(name);
    let Some(first) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(invalid(name.as_str(), "came more than once"));
    }
    first.to_str().map(Some).map_err(|_| invalid(name.as_str(), "is not printable ASCII"))
}

/// Whether the client asks for this media type by name.
pub(crate) fn accepts(headers: &Headers, media: &str) -> bool {
    let lines = headers.get_all(&ACCEPT).filter_map(|line| line.to_str().ok());
    let mut kinds = lines.flat_map(|line| line.split(',')).filter_map(|kind| kind.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case(media))
}

/// How much of an answer to a write the client prefers (`Prefer: return=…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    /// What was not asked for: the key with its version.
    Version,
    /// No body.
    Minimal,
    /// The value that is stored now.
    Representation,
}

impl Preference {
    /// The first preference that is one of these; others are ignored, as RFC 7240 says.
    pub(crate) fn of(headers: &Headers) -> Preference {
        let lines = headers.get_all(&answer::PREFER).filter_map(|line| line.to_str().ok());
        let mut pieces = lines.flat_map(|line| line.split([',', ';'])).map(str::trim);
        let found = pieces.find_map(|piece| match piece {
            _ if piece.eq_ignore_ascii_case("return=minimal") => Some(Preference::Minimal),
            _ if piece.eq_ignore_ascii_case("return=representation") => Some(Preference::Representation),
            _ => None,
        });
        found.unwrap_or(Preference::Version)
    }
}

/// An `invalid-header` about one header.
pub(crate) fn invalid(name: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidHeader, format!("the header {name} {why}"))
}

/// The number of folders a client counts, if it says so.
///
/// # Errors
/// `invalid-header` when it is no number.
pub(crate) fn folders_header(headers: &Headers) -> Result<Option<u32>, Error> {
    let Some(text) = single(headers, &answer::FOLDERS)? else { return Ok(None) };
    let refuse = |_| invalid(header::FOLDERS, &format!("is {}; it is the number of folders, e.g. 100", shown(text)));
    text.parse().map(Some).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    const A: &str = "00000000000a1-0000000000001";
    const B: &str = "00000000000b1-0000000000001";

    fn headers(lines: &[(HeaderName, &str)]) -> Headers {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name, HeaderValue::from_str(value).expect("a header"));
        }
        map.into()
    }

    fn version(text: &str) -> Version {
        text.parse().expect(text)
    }

    #[test]
    fn tags_are_read_with_and_without_quotes_and_from_lists() {
        for text in [A.to_owned(), format!("\"{A}\""), format!(" \"x\" , \"{A}\",")] {
            let condition = write_condition(&headers(&[(IF_MATCH, &text)])).expect(&text);
            assert_eq!(condition, Condition::Version(vec![version(A)]), "{text}");
        }
        let both = write_condition(&headers(&[(IF_MATCH, A), (IF_MATCH, B)])).expect("two lines");
        assert_eq!(both, Condition::Version(vec![version(A), version(B)]));
        let weak = write_condition(&headers(&[(IF_MATCH, &format!("W/\"{A}\""))])).expect("weak");
        assert_eq!(weak, Condition::Version(Vec::new()));
    }

    #[test]
    fn a_weak_tag_is_good_enough_for_a_copy_and_not_for_a_write() {
        let weak = format!("\"x\", W/\"{A}\"");
        let read = |name: HeaderName| {
            Tags::read(&headers(&[(name.clone(), weak.as_str())]), &name).expect("reads").expect("sent")
        };
        assert!(read(IF_NONE_MATCH).matches(&version(A)) && !read(IF_NONE_MATCH).matches(&version(B)));
        assert!(!read(IF_MATCH).matches(&version(A)));
    }

    #[test]
    fn a_media_type_is_asked_for_by_its_name() {
        for line in ["application/x-ndjson", "text/html, Application/X-NDJSON;q=0.5"] {
            assert!(accepts(&headers(&[(ACCEPT, line)]), "application/x-ndjson"), "{line}");
        }
        for line in ["*/*", "application/json", "application/x-ndjsonx", ""] {
            assert!(!accepts(&headers(&[(ACCEPT, line)]), "application/x-ndjson"), "{line}");
        }
    }

    #[test]
    fn conditions_that_cannot_be_kept_are_refused() {
        assert_eq!(write_condition(&headers(&[(IF_NONE_MATCH, "*")])).expect("create"), Condition::Absent);
        assert_eq!(write_condition(&headers(&[(IF_MATCH, "*")])).expect("update"), Condition::Present);
        for lines in [
            vec![(IF_NONE_MATCH, A)],
            vec![(IF_MATCH, A), (IF_NONE_MATCH, "*")],
            vec![(IF_MATCH, "")],
            vec![(IF_MATCH, "*, \"x\"")],
            vec![(IF_UNMODIFIED_SINCE, "Sun, 22 Nov 2026 10:00:00 GMT")],
        ] {
            assert_eq!(write_condition(&headers(&lines)).expect_err("refused").code(), ErrorCode::InvalidHeader);
        }
    }
}
