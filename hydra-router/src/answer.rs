//! Answers that the router makes itself, and the errors among them.

use std::io;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hydra_core::wire::{AttemptBody, PROBLEM_JSON, Problem, header};
use hydra_core::{Error, ErrorCode, FolderId};
use hydra_sdk::{Attempt, ErrorKind, TryOutcome};
use serde::Serialize;

/// The body of an answer, of the router or of a server.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// What a handler gives back.
pub(crate) type Response = http::Response<Body>;

pub(crate) const APPLIED: HeaderName = HeaderName::from_static(header::APPLIED);
pub(crate) const ROUTER: HeaderName = HeaderName::from_static(header::ROUTER);
pub(crate) const FOLDER: HeaderName = HeaderName::from_static(header::FOLDER);
pub(crate) const RETRIED: HeaderName = HeaderName::from_static(header::RETRIED);
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
pub(crate) const HOPS: HeaderName = HeaderName::from_static(header::HOPS);
pub(crate) const DEADLINE_MS: HeaderName = HeaderName::from_static(header::DEADLINE_MS);
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer with a body that is written already.
pub(crate) fn body(status: StatusCode, content_type: HeaderValue, bytes: impl Into<Bytes>) -> Response {
    let mut response = empty(status);
    *response.body_mut() = full(bytes.into());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// An answer with a JSON body.
///
/// # Errors
/// `internal` when the value cannot be written, which no body of ours does.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Refusal> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("the answer cannot be written: {error}")))?;
    Ok(body(status, JSON, bytes))
}

/// A header value of text that the router made itself; empty should it not be printable ASCII after all.
pub(crate) fn ascii(text: impl Into<Bytes>) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.into()).unwrap_or(HeaderValue::from_static(""))
}

/// An error of the router, before it is written.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    pub(crate) folder: Option<FolderId>,
    pub(crate) attempts: Vec<AttemptBody>,
    pub(crate) allow: Option<&'static str>,
    /// Whether a server was tried that refused, because of where a folder is or because it leaves.
    pub(crate) was_rejected: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal { error, folder: None, attempts: Vec::new(), allow: None, was_rejected: false }
    }
}

impl Refusal {
    /// The error of a call to servers, with every try.
    pub(crate) fn of_call(error: &hydra_sdk::Error) -> Refusal {
        let code = error.code().unwrap_or_else(|| code_of(error.kind()));
        let tries: Vec<String> = error.attempts().iter().map(Attempt::to_string).collect();
        let detail = if tries.is_empty() {
            error.detail().to_owned()
        } else {
            format!("{}: {}", error.detail(), tries.join("; "))
        };
        let mut ours = Error::new(code, detail).with_applied(error.applied());
        if let Some(hint) = error.hint() {
            ours = ours.with_hint(hint);
        }
        if let Some(version) = error.current_version() {
            ours = ours.with_current_version(*version);
        }
        let was_rejected = error.attempts().iter().any(|attempt| attempt.outcome == TryOutcome::Rejected);
        Refusal { attempts: error.attempts().iter().map(attempt).collect(), was_rejected, ..Refusal::from(ours) }
    }

    pub(crate) fn in_folder(self, folder: FolderId) -> Refusal {
        Refusal { folder: Some(folder), ..self }
    }

    /// The error as `application/problem+json`; never kept by a cache.
    pub(crate) fn into_response(self, id: &HeaderValue) -> Response {
        let mut problem = Problem::of(&self.error);
        problem.instance = id.to_str().ok().map(str::to_owned);
        problem.folder = self.folder;
        let retried = self.attempts.len().checked_sub(1);
        problem.attempts = self.attempts;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let bytes = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = body(status, HeaderValue::from_static(PROBLEM_JSON), bytes);
        let headers = response.headers_mut();
        headers.insert(APPLIED, HeaderValue::from_static(self.error.applied().as_str()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(folder) = self.folder {
            headers.insert(FOLDER, HeaderValue::from(folder.get()));
        }
        if let Some(retried) = retried.filter(|&retried| retried > 0) {
            headers.insert(RETRIED, HeaderValue::from(retried));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// One try as it is written in a problem.
pub(crate) fn attempt(attempt: &Attempt) -> AttemptBody {
    AttemptBody {
        server: attempt.server.clone(),
        error: attempt.error.clone(),
        ms: u64::try_from(attempt.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The code of a failure that no server gave one.
fn code_of(kind: ErrorKind) -> ErrorCode {
    match kind {
        ErrorKind::Timeout => ErrorCode::ServerTimeout,
        ErrorKind::Invalid => ErrorCode::InvalidHeader,
        ErrorKind::Overloaded => ErrorCode::Overloaded,
        ErrorKind::NotOwner => ErrorCode::NotOwner,
        ErrorKind::Config => ErrorCode::Internal,
        _ => ErrorCode::ServerUnreachable,
    }
}
