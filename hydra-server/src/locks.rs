//! Locks of a swamp: `POST`, `GET`, `PUT` and `DELETE` on `/v1/swamps/{S}/locks/{name}`.

use http::HeaderValue;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use hydra_core::wire::{LockBody, LockedBody, RenewBody, header, read_object};
use hydra_core::{Durability, Error, ErrorCode, Lock, LockRequest, SwampName};
use serde::de::DeserializeOwned;

use crate::answer::{self, Response};
use crate::app::Call;
use crate::body::Limit;
use crate::conditions::{invalid, no_conditions, plain_body, single};
use crate::config::MAX_SMALL_BODY_BYTES;
use crate::head::Headers;
use crate::query::Query;

const BODY: Limit = Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body" };

/// Who holds it; never the token.
pub(crate) async fn get(call: &mut Call, name: &SwampName, lock: &str) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let found = call.swamp(name).await?.lock_info(lock)?;
    let Some(info) = found else {
        return Err(Error::new(ErrorCode::LockNotFound, format!("nobody holds the lock {lock:?} in {name}")));
    };
    let body =
        LockedBody { token: None, owner: info.owner, fence: info.fence.to_string(), expires_at: info.expires_at };
    uncached(answer::json(StatusCode::OK, &body))
}

/// Takes it, and waits for it if that is asked for.
pub(crate) async fn acquire(call: &mut Call, name: &SwampName, lock: &str) -> Result<Response, Error> {
    check_head(call)?;
    let bytes = call.read_body(BODY).await?;
    let LockBody { ttl, wait, owner } = read(&bytes, r#"{"ttl":"10s","wait":"5s","owner":"w1"}"#)?;
    let mut request = LockRequest::new(ttl);
    (request.wait, request.owner, request.idempotency) = (wait, owner, call.idempotency(&bytes)?);
    request.deadline = call.deadline;
    // Whoever waits needs room, as with any long poll.
    let _room = if wait.is_zero() { None } else { Some(call.app.streams.enter()?) };
    let granted = call.app.engine.lock(name, lock, request).await?;
    call.mark_written(Some(Durability::Synced), granted.replayed);
    uncached(answer::json(StatusCode::CREATED, &held(granted.lock)))
}

/// Holds it for longer.
pub(crate) async fn renew(call: &mut Call, name: &SwampName, lock: &str) -> Result<Response, Error> {
    check_head(call)?;
    let token = token(&call.head.headers)?.to_owned();
    let bytes = call.read_body(BODY).await?;
    let RenewBody { ttl } = read(&bytes, r#"{"ttl":"10s"}"#)?;
    let idempotency = call.idempotency(&[token.as_bytes(), &bytes].concat())?;
    let renewed = call.app.engine.renew_lock(name, lock, &token, ttl, idempotency).await?;
    call.mark_synced();
    uncached(answer::json(StatusCode::OK, &held(renewed)))
}

/// Gives it back.
pub(crate) async fn release(call: &mut Call, name: &SwampName, lock: &str) -> Result<Response, Error> {
    check_head(call)?;
    let token = token(&call.head.headers)?.to_owned();
    let idempotency = call.idempotency(token.as_bytes())?;
    call.app.engine.release_lock(name, lock, &token, idempotency).await?;
    call.mark_synced();
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn check_head(call: &Call) -> Result<(), Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)?;
    plain_body(&call.head.headers)
}

fn token(headers: &Headers) -> Result<&str, Error> {
    single(headers, &answer::LOCK_TOKEN)?
        .ok_or_else(|| invalid(header::LOCK_TOKEN, "is missing; send the token that came with the lock"))
}

fn read<T: DeserializeOwned>(bytes: &[u8], example: &str) -> Result<T, Error> {
    read_object(bytes, "what is asked of the lock", example)
}

fn held(lock: Lock) -> LockedBody {
    LockedBody { token: Some(lock.token), owner: None, fence: lock.fence.to_string(), expires_at: lock.expires_at }
}

/// A token is nothing for a cache, and who holds a lock changes at any moment.
fn uncached(response: Result<Response, Error>) -> Result<Response, Error> {
    let mut response = response?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
