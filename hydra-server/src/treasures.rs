//! Reading one treasure: `GET` and `HEAD` on `/v1/kv/{S}/{key}`.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, DATE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use httpdate::HttpDate;
use hydra_core::wire::TREASURE_JSON;
use hydra_core::{Error, ErrorCode, Pointer, SwampName, Timestamp, Treasure, Value};

use crate::answer::{self, Response};
use crate::app::{Call, by_size};
use crate::conditions::Tags;
use crate::head::{Head, Headers};
use crate::query::{Query, invalid};
use crate::render::{Include, write_treasure};
use crate::waits::{self, Changed};

/// More than the age of the `Date` that hyper sets, which it writes once a second.
const DATE_LAGS: Duration = Duration::from_secs(2);

/// The value of a key, with everything known about it in the headers.
pub(crate) async fn get(call: &mut Call, name: &SwampName, key: &str) -> Result<Response, Error> {
    let view = View::of(&call.head)?;
    let if_match = Tags::read(&call.head.headers, &IF_MATCH)?;
    let if_none_match = Tags::read(&call.head.headers, &IF_NONE_MATCH)?;
    let found = match view.wait {
        Some(wait) => match waits::until_changed(call, name, key, wait).await? {
            Changed::To(found) => found,
            Changed::StillAbsent => return Ok(answer::empty(StatusCode::NOT_MODIFIED)),
        },
        None if view.with_expired => call.swamp(name).await?.get_with_expired(key)?,
        None => call.swamp(name).await?.get(key)?,
    };
    let treasure = found.ok_or_else(|| absent(name, key))?;
    if if_match.is_some_and(|tags| !tags.matches(&treasure.version)) {
        let detail = format!("the treasure {key:?} in {name} is at another version than the one demanded");
        return Err(Error::new(ErrorCode::VersionMismatch, detail).with_current_version(treasure.version));
    }
    let mut response = match if_none_match {
        Some(tags) if tags.matches(&treasure.version) => answer::empty(StatusCode::NOT_MODIFIED),
        _ => {
            let part = view.part_of(treasure.clone(), name).await?;
            view.shape.render(&part)
        }
    };
    describe(response.headers_mut(), &treasure);
    Ok(response)
}

/// What of a treasure is shown, and how.
#[derive(Debug)]
struct View {
    shape: Shape,
    /// The part of the value that is shown; the whole value unless asked for.
    path: Pointer,
    with_expired: bool,
    /// How long a change is waited for.
    wait: Option<Duration>,
}

impl View {
    fn of(head: &Head) -> Result<View, Error> {
        let query = Query::parse(head.uri.query(), &["envelope", "raw", "path", "expired", "wait"])?;
        let with_expired = match query.text("expired") {
            None | Some("exclude") => false,
            Some("include") => true,
            Some(_) => return Err(invalid("expired", "is wrong; allowed are include and exclude")),
        };
        let wait = waits::wait_of(&query)?;
        if with_expired && wait.is_some() {
            return Err(invalid("wait", "came together with expired=include; send one of them"));
        }
        Ok(View { shape: Shape::of(&query, &head.headers)?, path: path_of(&query)?, with_expired, wait })
    }

    /// The treasure with the part of its value that is shown in place of the whole.
    async fn part_of(&self, treasure: Treasure, name: &SwampName) -> Result<Treasure, Error> {
        if self.path.is_root() {
            return Ok(treasure);
        }
        let (path, name, length) = (self.path.clone(), name.clone(), treasure.value.len());
        let pick = move || match treasure.value.at(&path) {
            Some(value) => {
                let mut part = treasure;
                part.value = value;
                Ok(part)
            }
            None => Err(nothing_at(&path, &treasure, &name)),
        };
        by_size(length, pick).await
    }
}

/// The parameter `path`: a place inside of the value.
///
/// # Errors
/// `invalid-parameter` says what a path looks like.
pub(crate) fn path_of(query: &Query<'_>) -> Result<Pointer, Error> {
    query.text("path").map_or(Ok(Pointer::default()), str::parse)
}

fn nothing_at(path: &Pointer, treasure: &Treasure, name: &SwampName) -> Error {
    let what = match treasure.value.content_type() {
        Some(content_type) => format!("is {content_type}, which has no paths"),
        None => format!("is there, but has nothing at {:?}", path.to_string()),
    };
    let detail = format!("the treasure {:?} in {name} {what}", treasure.key);
    Error::new(ErrorCode::PathNotFound, detail).with_current_version(treasure.version)
}

/// How a treasure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The value as it was put.
    Value,
    /// A JSON string without its quotes, everything else as it was put.
    Raw,
    /// The value with its metadata, as JSON.
    Envelope,
}

impl Shape {
    fn of(query: &Query<'_>, headers: &Headers) -> Result<Shape, Error> {
        match (query.flag("envelope")?, query.flag("raw")?) {
            (true, true) => Err(invalid("raw", "came together with envelope; send one of them")),
            (true, false) => Ok(Shape::Envelope),
            (false, true) => Ok(Shape::Raw),
            (false, false) => Ok(Shape::accepted(headers)),
        }
    }

    /// What the first media type of `Accept` asks for.
    fn accepted(headers: &Headers) -> Shape {
        let accept = headers.get(&ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let first = accept.split([',', ';']).next().unwrap_or_default().trim();
        match first {
            _ if first.eq_ignore_ascii_case(TREASURE_JSON) => Shape::Envelope,
            _ if first.eq_ignore_ascii_case("text/plain") => Shape::Raw,
            _ => Shape::Value,
        }
    }

    fn render(self, treasure: &Treasure) -> Response {
        match self {
            Shape::Envelope => {
                let mut text = Vec::with_capacity(treasure.value.len() + treasure.key.len() + 256);
                write_treasure(&mut text, treasure, Include::Full);
                answer::body(StatusCode::OK, HeaderValue::from_static(TREASURE_JSON), text)
            }
            Shape::Raw => match treasure.value.decode::<String>() {
                Ok(text) => answer::body(StatusCode::OK, answer::TEXT, text),
                Err(_) => Shape::Value.render(treasure),
            },
            Shape::Value => as_put(&treasure.value),
        }
    }
}

/// The bytes that were put, with the type they were put with. They are shared with the engine, not copied.
pub(crate) fn as_put(value: &Value) -> Response {
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

/// Puts what is known about a treasure into headers.
pub(crate) fn describe(headers: &mut HeaderMap, treasure: &Treasure) {
    let now = SystemTime::now();
    let modified = SystemTime::from(treasure.updated_at).min(now);
    headers.insert(ETAG, answer::etag(&treasure.version));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, answer::BY_ACCEPT);
    // `Last-Modified` must not be later than `Date`, and the one that hyper sets is up to a second old.
    if now.duration_since(modified).is_ok_and(|age| age < DATE_LAGS) {
        headers.insert(DATE, http_date(now));
    }
    headers.insert(LAST_MODIFIED, http_date(modified));
    let updated_at = moment(treasure.updated_at);
    let created_at =
        if treasure.created_at == treasure.updated_at { updated_at.clone() } else { moment(treasure.created_at) };
    headers.insert(answer::CREATED_AT, created_at);
    headers.insert(answer::UPDATED_AT, updated_at);
    if let Some(expires_at) = treasure.expires_at {
        headers.insert(answer::EXPIRES_AT, moment(expires_at));
    }
}

fn http_date(time: SystemTime) -> HeaderValue {
    answer::written_value(format_args!("{}", HttpDate::from(time)))
}

fn moment(time: Timestamp) -> HeaderValue {
    answer::written_value(format_args!("{time}"))
}

/// The error for a key that is not there.
pub(crate) fn absent(name: &SwampName, key: &str) -> Error {
    Error::new(ErrorCode::TreasureNotFound, format!("there is no treasure {key:?} in {name}"))
}
