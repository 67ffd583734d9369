//! Answers: statuses, bodies and the headers that every answer carries.

use std::fmt;
use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response as HttpResponse, StatusCode};
use hydra_core::wire::{PROBLEM_JSON, Problem, WrittenBody, header};
use hydra_core::{Error, ErrorCode, Version};
use serde::Serialize;

/// What a handler gives back.
pub(crate) type Response = HttpResponse<Body>;

pub(crate) const APPLIED: HeaderName = HeaderName::from_static(header::APPLIED);
pub(crate) const SERVER: HeaderName = HeaderName::from_static(header::SERVER);
pub(crate) const FOLDER: HeaderName = HeaderName::from_static(header::FOLDER);
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static(header::SERVED_BY);
pub(crate) const TAKEOVER: HeaderName = HeaderName::from_static(header::TAKEOVER);
pub(crate) const DURABLE: HeaderName = HeaderName::from_static(header::DURABLE);
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static(header::REPLAYED);
pub(crate) const COPY: HeaderName = HeaderName::from_static(header::COPY);
pub(crate) const COUNT: HeaderName = HeaderName::from_static(header::COUNT);
pub(crate) const CREATED_AT: HeaderName = HeaderName::from_static(header::CREATED_AT);
pub(crate) const UPDATED_AT: HeaderName = HeaderName::from_static(header::UPDATED_AT);
pub(crate) const EXPIRES_AT: HeaderName = HeaderName::from_static(header::EXPIRES_AT);
pub(crate) const FOLDERS: HeaderName = HeaderName::from_static(header::FOLDERS);
pub(crate) const POOL: HeaderName = HeaderName::from_static(header::POOL);
pub(crate) const FALLBACK_FOR: HeaderName = HeaderName::from_static(header::FALLBACK_FOR);
pub(crate) const DEADLINE_MS: HeaderName = HeaderName::from_static(header::DEADLINE_MS);
pub(crate) const MOVED_TO: HeaderName = HeaderName::from_static(header::MOVED_TO);
pub(crate) const MAP_EPOCH: HeaderName = HeaderName::from_static(header::MAP_EPOCH);
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(header::IDEMPOTENCY_KEY);
pub(crate) const LOCK_TOKEN: HeaderName = HeaderName::from_static(header::LOCK_TOKEN);
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const NDJSON: HeaderValue = HeaderValue::from_static(hydra_core::wire::NDJSON);
/// `Vary` of what comes in the form that is asked for.
pub(crate) const BY_ACCEPT: HeaderValue = HeaderValue::from_static("accept");
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The types of patches that are understood.
pub(crate) const PATCHES: &str = "application/merge-patch+json, application/json-patch+json";

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer with a body that is written already.
pub(crate) fn body(status: StatusCode, content_type: HeaderValue, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(bytes.into()));
    *response.status_mut() = status;
    response.headers_mut().reserve(16);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer with a JSON body.
///
/// # Errors
/// `internal` when the value cannot be written, which no body of ours does.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("the answer cannot be written: {error}")))?;
    Ok(body(status, JSON, bytes))
}

/// The answer to a put.
pub(crate) fn written(status: StatusCode, written: &WrittenBody) -> Response {
    at_version(&written.version, body(status, JSON, written.to_json()))
}

/// An answer that names the version of what it speaks of.
pub(crate) fn at_version(version: &Version, mut response: Response) -> Response {
    response.headers_mut().insert(ETAG, etag(version));
    response
}

/// The version as an entity tag.
pub(crate) fn etag(version: &Version) -> HeaderValue {
    let mut room = [0; Version::MAX_BYTES];
    ascii(["\"", version.encode(&mut room), "\""].concat())
}

/// A header value of text that this server made itself; empty should it not be printable ASCII after all.
pub(crate) fn ascii(text: impl Into<Bytes>) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.into()).unwrap_or(HeaderValue::from_static(""))
}

/// The same for text that is written for this very answer: up to the length of all that answers carry usually it costs
/// no allocation but the value's own.
pub(crate) fn written_value(text: fmt::Arguments<'_>) -> HeaderValue {
    let mut room = [0; 64];
    let mut rest = &mut room[..];
    if rest.write_fmt(text).is_err() {
        return ascii(text.to_string());
    }
    let left = rest.len();
    let used = room.len() - left;
    HeaderValue::from_bytes(&room[..used]).unwrap_or(HeaderValue::from_static(""))
}

/// An error as `application/problem+json`; never kept by a cache.
pub(crate) fn problem(error: &Error, problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = body(status, HeaderValue::from_static(PROBLEM_JSON), bytes);
    let headers = response.headers_mut();
    headers.insert(APPLIED, HeaderValue::from_static(error.applied().as_str()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = challenge(error.code()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(version) = error.current_version() {
        headers.insert(ETAG, etag(version));
    }
    if let Some(moved) = error.moved_to() {
        let mut text = format!("{}; epoch={}", moved.server, moved.epoch);
        if let Some(token) = &moved.token {
            text.push_str("; token=");
            text.push_str(token);
        }
        headers.insert(MOVED_TO, ascii(text));
        headers.insert(MAP_EPOCH, HeaderValue::from(moved.epoch));
    }
    if let Some(rest) = error.retry_after() {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(rest.as_millis().div_ceil(1_000).max(1) as u64));
    } else if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// How a client can prove who it is (RFC 6750).
fn challenge(code: ErrorCode) -> Option<HeaderValue> {
    let text = match code {
        ErrorCode::MissingToken => r#"Bearer realm="hydra""#,
        ErrorCode::InvalidToken => r#"Bearer realm="hydra", error="invalid_token""#,
        ErrorCode::ScopeDenied => r#"Bearer realm="hydra", error="insufficient_scope""#,
        _ => return None,
    };
    Some(HeaderValue::from_static(text))
}
