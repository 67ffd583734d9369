//! One treasure: `GET`, `HEAD`, `PUT`, `DELETE` and `POST ?incr` on `/v1/kv/{S}/{key}`.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, DATE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use hydra_core::duration::parse_duration;
use hydra_core::wire::{IncrementedBody, TREASURE_JSON, WrittenBody};
use hydra_core::{
    Applied, Batch, Error, ErrorCode, MAX_VALUE_BYTES, Op, OpResult, SwampName, Timestamp, Treasure, Value,
};

use crate::answer::{self, Response};
use crate::app::{Call, by_size, unexpected};
use crate::body::Limit;
use crate::conditions::{Tags, no_conditions, plain_body, prefers_minimal, write_condition};
use crate::config::MAX_SMALL_BODY_BYTES;
use crate::query::{Query, invalid};
use crate::render::{Include, write_treasure};
use crate::waits::{self, Changed};

/// The value of a key, with everything known about it in the headers.
pub(crate) async fn get(call: &mut Call, name: &SwampName, key: &str) -> Result<Response, Error> {
    let (view, wait) = View::of(&call.head)?;
    let if_match = Tags::read(&call.head.headers, &IF_MATCH)?;
    let if_none_match = Tags::read(&call.head.headers, &IF_NONE_MATCH)?;
    let found = match wait {
        None => call.swamp(name).await?.get(key)?,
        Some(wait) => match waits::until_changed(call, name, key, wait).await? {
            Changed::To(found) => found,
            Changed::StillAbsent => return Ok(answer::empty(StatusCode::NOT_MODIFIED)),
        },
    };
    let treasure = found.ok_or_else(|| absent(name, key))?;
    if if_match.is_some_and(|tags| !tags.matches(&treasure.version)) {
        let detail = format!("the treasure {key:?} in {name} is at another version than the one demanded");
        return Err(Error::new(ErrorCode::VersionMismatch, detail).with_current_version(treasure.version));
    }
    let mut response = match if_none_match {
        Some(tags) if tags.matches(&treasure.version) => answer::empty(StatusCode::NOT_MODIFIED),
        _ => view.render(&treasure),
    };
    describe(response.headers_mut(), &treasure);
    Ok(response)
}

/// How a treasure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// The value as it was put.
    Value,
    /// A JSON string without its quotes, everything else as it was put.
    Raw,
    /// The value with its metadata, as JSON.
    Envelope,
}

impl View {
    /// How, and how long a change is waited for.
    fn of(head: &Parts) -> Result<(View, Option<Duration>), Error> {
        let query = Query::parse(head.uri.query(), &["envelope", "raw", "wait"])?;
        let view = match (query.flag("envelope")?, query.flag("raw")?) {
            (true, true) => return Err(invalid("raw", "came together with envelope; send one of them")),
            (true, false) => View::Envelope,
            (false, true) => View::Raw,
            (false, false) => View::accepted(&head.headers),
        };
        Ok((view, waits::wait_of(&query)?))
    }

    /// What the first media type of `Accept` asks for.
    fn accepted(headers: &HeaderMap) -> View {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let first = accept.split([',', ';']).next().unwrap_or_default().trim();
        match first {
            _ if first.eq_ignore_ascii_case(TREASURE_JSON) => View::Envelope,
            _ if first.eq_ignore_ascii_case("text/plain") => View::Raw,
            _ => View::Value,
        }
    }

    fn render(self, treasure: &Treasure) -> Response {
        match self {
            View::Envelope => {
                let mut text = Vec::with_capacity(treasure.value.len() + treasure.key.len() + 256);
                write_treasure(&mut text, treasure, Include::Full);
                answer::body(StatusCode::OK, HeaderValue::from_static(TREASURE_JSON), text)
            }
            View::Raw => match treasure.value.decode::<String>() {
                Ok(text) => answer::body(StatusCode::OK, answer::TEXT, text),
                Err(_) => View::Value.render(treasure),
            },
            View::Value => as_put(&treasure.value),
        }
    }
}

/// The bytes that were put, with the type they were put with. They are shared with the engine, not copied.
fn as_put(value: &Value) -> Response {
    let bytes = Bytes::from_owner(value.clone());
    let Some(content_type) = value.content_type() else {
        return answer::body(StatusCode::OK, answer::JSON, bytes);
    };
    let mut response = answer::body(StatusCode::OK, answer::ascii(content_type.to_owned()), bytes);
    // Somebody else's bytes must not become a page that acts in the name of this server.
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    response
}

/// Puts what is known about a treasure into headers. `Date` is set here too, so that `Last-Modified` is
/// never behind it in the future.
fn describe(headers: &mut HeaderMap, treasure: &Treasure) {
    let now = SystemTime::now();
    let modified = SystemTime::from(treasure.updated_at).min(now);
    headers.insert(ETAG, answer::etag(&treasure.version));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(DATE, answer::ascii(httpdate::fmt_http_date(now)));
    headers.insert(LAST_MODIFIED, answer::ascii(httpdate::fmt_http_date(modified)));
    let updated_at = answer::ascii(treasure.updated_at.to_string());
    let created_at = match treasure.created_at == treasure.updated_at {
        true => updated_at.clone(),
        false => answer::ascii(treasure.created_at.to_string()),
    };
    headers.insert(answer::CREATED_AT, created_at);
    headers.insert(answer::UPDATED_AT, updated_at);
    if let Some(expires_at) = treasure.expires_at {
        headers.insert(answer::EXPIRES_AT, answer::ascii(expires_at.to_string()));
    }
}

/// Stores a value.
pub(crate) async fn put(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["ttl", "expires_at", "sync"])?;
    let (expires_at, sync) = (expiry(query.text("ttl"), query.value("expires_at", TIMES)?)?, query.flag("sync")?);
    let condition = write_condition(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    let kind = Kind::of(&call.head.headers)?;
    let bytes = call.read_body(VALUE_LIMIT).await?;
    let idempotency = call.idempotency(&bytes)?;
    let value = by_size(bytes.len(), move || kind.value(&bytes)).await?;
    let op = Op::Put { key: key.clone(), value, expires_at, condition };
    match call.write_one(name, Batch { idempotency, sync, ..Batch::of(op) }).await? {
        OpResult::Put { version, .. } if prefers_minimal(&call.head.headers) => {
            let mut response = answer::empty(StatusCode::NO_CONTENT);
            response.headers_mut().insert(ETAG, answer::etag(&version));
            response.headers_mut().insert("preference-applied", HeaderValue::from_static("return=minimal"));
            Ok(response)
        }
        OpResult::Put { version, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            answer::written(status, &version, &WrittenBody { key, version, created })
        }
        _ => Err(unexpected("a put was answered with something else")),
    }
}

/// The longest value any policy may allow; the policy of the swamp may allow less.
const VALUE_LIMIT: Limit = Limit { bytes: MAX_VALUE_BYTES, code: ErrorCode::ValueTooLarge, what: "the value" };
/// What `expires_at` can be.
pub(crate) const TIMES: &str = "RFC 3339 in UTC, e.g. 2026-01-31T12:00:00Z, or Unix milliseconds";

/// When a treasure expires, from how long it lives or from the moment itself.
pub(crate) fn expiry(ttl: Option<&str>, at: Option<Timestamp>) -> Result<Option<Timestamp>, Error> {
    match (ttl, at) {
        (Some(_), Some(_)) => Err(invalid("ttl", "came together with expires_at; send one of them")),
        (None, at) => Ok(at),
        (Some(text), None) => {
            let ttl = parse_duration(text).map_err(|error| invalid("ttl", &format!("is wrong: {}", error.detail())))?;
            if ttl.is_zero() {
                return Err(invalid("ttl", "is 0; allowed is 1ms and more, or DELETE"));
            }
            Ok(Some(Timestamp::now().after(ttl)))
        }
    }
}

/// What kind of value the content type announces.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Binary(String),
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Kind, Error> {
        let Some(sent) = headers.get(CONTENT_TYPE) else { return Ok(Kind::Json) };
        let sent = sent.to_str().map_err(|_| crate::conditions::invalid("Content-Type", "is not printable ASCII"))?;
        let (media, parameters) = sent.split_once(';').unwrap_or((sent, ""));
        let media = media.trim().to_ascii_lowercase();
        match media.as_str() {
            "" | "application/json" | "application/x-www-form-urlencoded" => Ok(Kind::Json),
            "text/plain" => utf8_only(parameters).map(|()| Kind::Text),
            other if other.ends_with("+json") => Ok(Kind::Json),
            _ => Ok(Kind::Binary(sent.trim().to_owned())),
        }
    }

    fn value(self, bytes: &[u8]) -> Result<Value, Error> {
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

/// Removes a key.
pub(crate) async fn delete(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    let sync = Query::parse(call.head.uri.query(), &["sync"])?.flag("sync")?;
    let condition = write_condition(&call.head.headers)?;
    let idempotency = call.idempotency(&[])?;
    let op = Op::Delete { key: key.clone(), condition };
    match call.write_one(name, Batch { idempotency, sync, ..Batch::of(op) }).await? {
        OpResult::Deleted { existed: true } => Ok(answer::empty(StatusCode::NO_CONTENT)),
        OpResult::Deleted { existed: false } => {
            let applied = if call.marks_deletes() { Applied::Yes } else { Applied::No };
            Err(absent(name, &key).with_applied(applied))
        }
        _ => Err(unexpected("a delete was answered with something else")),
    }
}

/// Adds to an integer.
pub(crate) async fn increment(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["incr", "sync"])?;
    let by = query.value("incr", "a whole number from -9223372036854775808 to 9223372036854775807")?;
    let by = by.ok_or_else(|| invalid("incr", "is missing; POST to a treasure adds to it, e.g. ?incr=1"))?;
    let sync = query.flag("sync")?;
    no_conditions(&call.head.headers)?;
    if !call.read_body(NO_BODY).await?.is_empty() {
        return Err(Error::new(ErrorCode::InvalidBody, "an increment takes no body; everything is in ?incr"));
    }
    let idempotency = call.idempotency(&[])?;
    let op = Op::Increment { key: key.clone(), by };
    match call.write_one(name, Batch { idempotency, sync, ..Batch::of(op) }).await? {
        OpResult::Incremented { value, version, .. } => {
            answer::written(StatusCode::OK, &version, &IncrementedBody { key, value, version })
        }
        _ => Err(unexpected("an increment was answered with something else")),
    }
}

const NO_BODY: Limit =
    Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body of an increment" };

fn absent(name: &SwampName, key: &str) -> Error {
    Error::new(ErrorCode::TreasureNotFound, format!("there is no treasure {key:?} in {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(content_type: &str) -> Result<Kind, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a header"));
        Kind::of(&headers)
    }

    #[test]
    fn content_types_decide_how_a_value_is_read() {
        assert_eq!(Kind::of(&HeaderMap::new()).expect("none"), Kind::Json);
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
    fn an_expiry_comes_from_one_of_two_parameters() {
        assert_eq!(expiry(None, None).expect("none"), None);
        assert!(expiry(Some("2h"), None).expect("ttl") > Some(Timestamp::now()));
        assert!(expiry(Some("0"), None).is_err() && expiry(Some("soon"), None).is_err());
        assert!(expiry(Some("1s"), Some(Timestamp::now())).is_err());
    }
}
