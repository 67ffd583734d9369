//! Writing one treasure: `PUT`, `PATCH`, `DELETE` and `POST ?incr` on `/v1/kv/{S}/{key}`, and `POST` on `/v1/kv/{S}`,
//! which makes the key.

use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode};
use hydra_core::wire::{IncrementedBody, WrittenBody, treasure_path};
use hydra_core::{Applied, Batch, Condition, Error, ErrorCode, Increment, Op, OpResult, SwampName, Version, check_key};

use crate::answer::{self, Response};
use crate::app::{Call, by_size, unexpected};
use crate::auth::Scope;
use crate::body::Limit;
use crate::conditions::{Preference, no_conditions, plain_body, write_condition};
use crate::config::MAX_SMALL_BODY_BYTES;
use crate::query::{Query, invalid};
use crate::treasures::{absent, as_put, describe, path_of};
use crate::values::{Kind, PATCH_LIMIT, PatchKind, VALUE_LIMIT, expiry_of};

/// The write that the method means.
pub(crate) async fn write(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    match call.head.method {
        Method::PUT => put(call, name, key).await,
        Method::PATCH => patch(call, name, key).await,
        Method::DELETE => delete(call, name, key).await,
        _ => increment(call, name, key).await,
    }
}

/// Stores a value.
async fn put(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["ttl", "expires_at", "keep_ttl", "sync"])?;
    let (expiry, sync) = (expiry_of(&query)?, query.flag("sync")?);
    let condition = write_condition(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    let kind = Kind::of(&call.head.headers)?;
    let bytes = call.read_body(VALUE_LIMIT).await?;
    let idempotency = call.idempotency(&bytes)?;
    let value = by_size(bytes.len(), move || kind.value(&bytes)).await?;
    let op = Op::Put { key, value, expiry, condition };
    store(call, name, Batch { idempotency, sync, ..Batch::of(op) }).await
}

/// Changes a part of a value.
async fn patch(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["create", "sync"])?;
    let (create, sync) = (query.flag("create")?, query.flag("sync")?);
    let condition = write_condition(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    let kind = PatchKind::of(&call.head.headers)?;
    let bytes = call.read_body(PATCH_LIMIT).await?;
    let idempotency = call.idempotency(&bytes)?;
    let patch = by_size(bytes.len(), move || kind.patch(&bytes)).await?;
    let op = Op::Patch { key, patch, create, condition };
    store(call, name, Batch { idempotency, sync, ..Batch::of(op) }).await
}

/// Stores a value under a new key: one that sorts by time, or the idempotency key where one was sent.
pub(crate) async fn push(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["ttl", "expires_at", "sync"])?;
    let (expiry, sync) = (expiry_of(&query)?, query.flag("sync")?);
    no_conditions(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    let kind = Kind::of(&call.head.headers)?;
    let (key, condition) = new_key(call.idempotency_key()?)?;
    let bytes = call.read_body(VALUE_LIMIT).await?;
    let idempotency = call.idempotency(&bytes)?;
    let value = by_size(bytes.len(), move || kind.value(&bytes)).await?;
    let location = treasure_path(name, &key);
    let op = Op::Put { key, value, expiry, condition };
    let mut response = store(call, name, Batch { idempotency, sync, ..Batch::of(op) }).await?;
    response.headers_mut().insert(LOCATION, answer::ascii(location));
    Ok(response)
}

/// The key of a value that is pushed. Nothing else has a UUID for a key; any other text may be one already.
fn new_key(sent: Option<&str>) -> Result<(String, Condition), Error> {
    let Some(sent) = sent else { return Ok((uuid::Uuid::now_v7().to_string(), Condition::Always)) };
    check_key(sent).map_err(|error| {
        let detail = format!("the Idempotency-Key becomes the key here, and cannot: {}", error.detail());
        Error::new(ErrorCode::InvalidKey, detail)
    })?;
    let is_uuid = sent.len() == 36 && uuid::Uuid::try_parse(sent).is_ok();
    Ok((sent.to_owned(), if is_uuid { Condition::Always } else { Condition::Absent }))
}

/// Carries out the one operation that stores a value, and answers as the client prefers.
async fn store(call: &mut Call, name: &SwampName, batch: Batch) -> Result<Response, Error> {
    let key = batch.ops.first().map(|op| op.key().to_owned()).unwrap_or_default();
    let OpResult::Put { version, created } = call.write_one(name, batch).await? else {
        return Err(unexpected("a put or patch was answered with something else"));
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    match Preference::of(&call.head.headers) {
        Preference::Minimal => {
            let response = answer::at_version(&version, answer::empty(StatusCode::NO_CONTENT));
            return Ok(applied("return=minimal", response));
        }
        // A patch would show the rest of the value to somebody who may only write.
        Preference::Representation if call.may(&[Scope::Read], name).is_ok() => {
            if let Some(mut response) = stored(call, name, &key, version).await {
                *response.status_mut() = status;
                return Ok(applied("return=representation", response));
            }
        }
        Preference::Representation | Preference::Version => {}
    }
    Ok(answer::written(status, &WrittenBody { key, version, created }))
}

fn applied(preference: &'static str, mut response: Response) -> Response {
    response.headers_mut().insert("preference-applied", HeaderValue::from_static(preference));
    response
}

/// The treasure as a GET shows it, while it is at the version that was written.
async fn stored(call: &mut Call, name: &SwampName, key: &str, version: Version) -> Option<Response> {
    let found = call.swamp(name).await.ok()?.get_with_expired(key).ok()??;
    if found.version != version {
        return None;
    }
    let mut response = as_put(&found.value);
    describe(response.headers_mut(), &found);
    Some(response)
}

/// Removes a key.
async fn delete(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
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

/// Adds to a number.
async fn increment(call: &mut Call, name: &SwampName, key: String) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["incr", "path", "initial", "min", "max", "sync"])?;
    let by = query.value("incr", NUMBERS)?;
    let by = by.ok_or_else(|| invalid("incr", "is missing; POST to a treasure adds to it, e.g. ?incr=1"))?;
    let increment = Increment {
        by,
        path: path_of(&query)?,
        initial: query.value("initial", NUMBERS)?,
        min: query.value("min", NUMBERS)?,
        max: query.value("max", NUMBERS)?,
    };
    let sync = query.flag("sync")?;
    no_conditions(&call.head.headers)?;
    if !call.read_body(NO_BODY).await?.is_empty() {
        return Err(Error::new(ErrorCode::InvalidBody, "an increment takes no body; everything is in ?incr"));
    }
    let idempotency = call.idempotency(&[])?;
    let op = Op::increment(key.clone(), increment);
    match call.write_one(name, Batch { idempotency, sync, ..Batch::of(op) }).await? {
        OpResult::Incremented { value, version, .. } => {
            let response = answer::json(StatusCode::OK, &IncrementedBody { key, value, version })?;
            Ok(answer::at_version(&version, response))
        }
        _ => Err(unexpected("an increment was answered with something else")),
    }
}

/// What the numbers of an increment can be.
const NUMBERS: &str =
    "a whole number from -9223372036854775808 to 9223372036854775807, or one with a fraction, e.g. 0.5";

const NO_BODY: Limit =
    Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body of an increment" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushed_value_never_takes_the_place_of_another() {
        let (first, second) = (new_key(None).expect("made").0, new_key(None).expect("made").0);
        assert!(first < second, "keys sort by time");
        let sent = new_key(Some(&first)).expect("a UUID");
        assert_eq!(sent, (first, Condition::Always));
        assert_eq!(new_key(Some("order-1")).expect("a text"), ("order-1".to_owned(), Condition::Absent));
        assert_eq!(new_key(Some("..")).expect_err("no key").code(), ErrorCode::InvalidKey);
    }
}
