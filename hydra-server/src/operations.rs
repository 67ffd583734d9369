//! The operations of a batch: read from their bodies, and what became of them written back.

use bytes::Bytes;
use hydra_core::wire::{BatchBody, OpBody, OpResultBody, TreasureBody, read_object};
use hydra_core::{Condition, Error, ErrorCode, Increment, MAX_BATCH_OPS, Op, OpResult, Patch, Treasure, check_key};
use serde_json::value::RawValue;

use crate::app::unexpected;
use crate::body::Limit;
use crate::config::MAX_BATCH_BODY_BYTES;
use crate::render::{read_value, write_value};
use crate::values::expiry;

/// The longest body of a batch.
pub(crate) const BATCH_LIMIT: Limit =
    Limit { bytes: MAX_BATCH_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body of the batch" };

/// How many bytes of values the reads of one batch may answer; further ones are refused one by one.
pub(crate) const MAX_READ_BYTES: usize = 64 << 20;

/// The body of a batch. Its operations are read one by one, so that what is wrong with one is its own answer.
///
/// # Errors
/// `invalid-body`; `batch-too-large`.
pub(crate) fn read_batch(bytes: &Bytes) -> Result<BatchBody, Error> {
    let form = r#"{"ops":[{"op":"put","key":"k","value":1},{"op":"get","key":"k"}]}"#;
    let body: BatchBody = read_object(bytes, "the batch", form)?;
    if body.ops.len() > MAX_BATCH_OPS {
        let detail = format!("the batch has {} operations; {MAX_BATCH_OPS} are allowed", body.ops.len());
        return Err(Error::new(ErrorCode::BatchTooLarge, detail));
    }
    Ok(body)
}

/// About how many bytes the answer to an operation takes.
pub(crate) fn read_bytes(result: &Result<OpResult, Error>) -> usize {
    match result {
        Ok(OpResult::Got(Some(treasure))) => treasure.value.len(),
        _ => 0,
    }
}

/// One operation from its body. Members that do not belong to it are refused: they would mean something else
/// to whoever wrote them.
pub(crate) fn operation(body: OpBody) -> Result<Op, Error> {
    check_key(&body.key)?;
    let allowed: &[&str] = match body.op.as_str() {
        "put" => &["value", "ttl", "expiresAt", "keepTtl", "ifVersion"],
        "merge" | "patch" => &["value", "create", "ifVersion"],
        "delete" => &["ifVersion"],
        "increment" | "incr" => &["by", "path", "initial", "min", "max"],
        "get" => &[],
        other => {
            let allowed = "put, merge, patch, delete, increment and get";
            return Err(refused("op", &format!("is {other:?}; allowed are {allowed}")));
        }
    };
    if let Some(member) = sent(&body).into_iter().find(|member| !allowed.contains(member)) {
        return Err(refused(member, &format!("does not belong to {:?}", body.op)));
    }
    let condition = body.if_version.as_deref().map_or(Ok(Condition::Always), condition)?;
    let value = || body.value.as_deref().ok_or_else(|| refused("value", "is missing"));
    match body.op.as_str() {
        "put" => {
            let expiry = expiry(body.ttl.as_deref(), body.expires_at, body.keep_ttl)?;
            Ok(Op::Put { value: read_value(value()?)?, key: body.key, expiry, condition })
        }
        "merge" => {
            let patch = Patch::merge(value()?.get())?;
            Ok(Op::Patch { key: body.key, patch, create: body.create, condition })
        }
        "patch" => {
            let patch = Patch::json(value()?.get())?;
            Ok(Op::Patch { key: body.key, patch, create: body.create, condition })
        }
        "delete" => Ok(Op::Delete { key: body.key, condition }),
        "get" => Ok(Op::Get { key: body.key }),
        _ => {
            let by = body.by.ok_or_else(|| refused("by", "is missing"))?;
            let path = body.path.as_deref().unwrap_or_default().parse()?;
            let increment = Increment { by, path, initial: body.initial, min: body.min, max: body.max };
            Ok(Op::increment(body.key, increment))
        }
    }
}

/// The members that were sent beside `op`, `swamp` and `key`.
fn sent(body: &OpBody) -> Vec<&'static str> {
    let members = [
        ("value", body.value.is_some()),
        ("by", body.by.is_some()),
        ("path", body.path.is_some()),
        ("initial", body.initial.is_some()),
        ("min", body.min.is_some()),
        ("max", body.max.is_some()),
        ("create", body.create),
        ("ttl", body.ttl.is_some()),
        ("expiresAt", body.expires_at.is_some()),
        ("keepTtl", body.keep_ttl),
        ("ifVersion", body.if_version.is_some()),
    ];
    members.into_iter().filter(|(_, is_sent)| *is_sent).map(|(member, _)| member).collect()
}

fn condition(if_version: &str) -> Result<Condition, Error> {
    match if_version {
        "0" => Ok(Condition::Absent),
        "*" => Ok(Condition::Present),
        version => match version.trim_matches('"').parse() {
            Ok(version) => Ok(Condition::Version(vec![version])),
            Err(_) => Err(refused("ifVersion", &format!("is {version:?}; allowed are 0, * and a version"))),
        },
    }
}

pub(crate) fn refused(member: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidBody, format!("the member {member} {why}"))
}

/// What an operation did, as its answer. `room` is how many bytes of values may still be answered.
pub(crate) fn done(key: &str, result: OpResult, room: &mut usize) -> Result<OpResultBody, Error> {
    let body = OpResultBody { status: 200, ..nothing(key.to_owned()) };
    match result {
        OpResult::Put { version, created } => {
            let status = if created { 201 } else { 200 };
            Ok(OpResultBody { status, version: Some(version), created: Some(created), ..body })
        }
        OpResult::Deleted { existed: true } => Ok(OpResultBody { status: 204, existed: Some(true), ..body }),
        OpResult::Deleted { existed: false } => Ok(OpResultBody { existed: Some(false), ..missing(key) }),
        OpResult::Incremented { value, version, created } => {
            let value = Some(raw(value.to_string())?);
            Ok(OpResultBody { version: Some(version), created: Some(created), value, ..body })
        }
        OpResult::Got(None) => Ok(missing(key)),
        OpResult::Got(Some(treasure)) => {
            *room = room.checked_sub(treasure.value.len()).ok_or_else(too_much)?;
            let (version, treasure) = (Some(treasure.version), Some(whole(treasure)?));
            Ok(OpResultBody { version, treasure, ..body })
        }
        _ => Err(unexpected("an operation was answered with something unknown")),
    }
}

fn too_much() -> Error {
    let detail = format!("the values read by the batch are longer than {MAX_READ_BYTES} bytes together");
    Error::new(ErrorCode::BatchTooLarge, detail).with_hint("read this key again")
}

fn whole(treasure: Treasure) -> Result<TreasureBody, Error> {
    let mut value = Vec::with_capacity(treasure.value.len());
    write_value(&mut value, &treasure.value);
    let value = String::from_utf8(value).map_err(|_| unexpected("a stored value is not UTF-8"))?;
    Ok(TreasureBody {
        key: treasure.key,
        value: Some(raw(value)?),
        version: treasure.version,
        created_at: treasure.created_at,
        updated_at: treasure.updated_at,
        expires_at: treasure.expires_at,
    })
}

fn raw(text: String) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(text).map_err(|_| unexpected("a stored value is not JSON"))
}

/// A key that was not found: the status it would have had alone.
fn missing(key: &str) -> OpResultBody {
    let code = ErrorCode::TreasureNotFound;
    OpResultBody { status: code.status(), code: Some(code.as_str().to_owned()), ..nothing(key.to_owned()) }
}

/// Why an operation was not done, as its answer.
pub(crate) fn failed(key: String, error: &Error) -> OpResultBody {
    OpResultBody {
        status: error.code().status(),
        code: Some(error.code().as_str().to_owned()),
        detail: Some(error.to_string()),
        applied: Some(error.applied().as_str().to_owned()),
        current_version: error.current_version().copied(),
        ..nothing(key)
    }
}

fn nothing(key: String) -> OpResultBody {
    OpResultBody {
        status: 0,
        swamp: None,
        key,
        version: None,
        created: None,
        existed: None,
        value: None,
        treasure: None,
        code: None,
        detail: None,
        applied: None,
        current_version: None,
    }
}
