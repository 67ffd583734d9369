//! Many operations on one swamp: `POST /v1/swamps/{S}/batch`.
//!
//! What is wrong with one operation is the answer to that operation; only a body that cannot be read at
//! all, or is too long, refuses the batch as a whole.

use http::StatusCode;
use hydra_core::wire::{BatchBody, BatchResultBody, OpBody, OpResultBody, TreasureBody};
use hydra_core::{Batch, Condition, Error, ErrorCode, MAX_BATCH_OPS, Op, OpResult, SwampName, Treasure, check_key};
use serde_json::value::RawValue;

use crate::answer::{self, Response};
use crate::app::{Call, by_size, unexpected};
use crate::auth::Scope;
use crate::body::Limit;
use crate::conditions::{no_conditions, plain_body};
use crate::config::MAX_BATCH_BODY_BYTES;
use crate::query::Query;
use crate::render::{read_value, write_value};
use crate::treasures::expiry;

const BATCH_LIMIT: Limit =
    Limit { bytes: MAX_BATCH_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body of the batch" };

/// How many bytes of values the reads of one batch may answer; further ones are refused one by one.
const MAX_READ_BYTES: usize = 64 << 20;

/// Carries out a batch.
pub(crate) async fn batch(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let sync = Query::parse(call.head.uri.query(), &["sync"])?.flag("sync")?;
    no_conditions(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    let bytes = call.read_body(BATCH_LIMIT).await?;
    let idempotency = call.idempotency(&bytes)?;
    let length = bytes.len();
    let items = by_size(length, move || Items::read(&bytes)).await?;
    if items.write_something() {
        call.may(&[Scope::Write], name)?;
        call.may_write()?;
    }
    if items.read_something() {
        call.may(&[Scope::Read], name)?;
    }
    let batch = Batch { ops: items.ops()?, atomic: items.atomic, idempotency, sync, ..Batch::default() };
    let results = if batch.ops.is_empty() { Vec::new() } else { call.write(name, batch).await?.results };
    let read = results.iter().map(read_bytes).sum::<usize>();
    let body = by_size(length.max(read), move || items.answer(results)).await?;
    answer::json(StatusCode::OK, &body)
}

/// The operations of a request, or what is wrong with each.
struct Items {
    atomic: bool,
    items: Vec<(String, Result<Op, Error>)>,
}

impl Items {
    fn read(bytes: &[u8]) -> Result<Items, Error> {
        let body: BatchBody = serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorCode::InvalidBody, format!("the batch cannot be read: {error}"))
                .with_hint(r#"write {"ops":[{"op":"put","key":"k","value":1},{"op":"get","key":"k"}]}"#)
        })?;
        if body.ops.len() > MAX_BATCH_OPS {
            let detail = format!("the batch has {} operations; {MAX_BATCH_OPS} are allowed", body.ops.len());
            return Err(Error::new(ErrorCode::BatchTooLarge, detail));
        }
        let items = body.ops.into_iter().map(|op| (op.key.clone(), operation(op))).collect();
        Ok(Items { atomic: body.atomic, items })
    }

    fn write_something(&self) -> bool {
        self.items.iter().any(|(_, op)| op.as_ref().is_ok_and(Op::is_write))
    }

    fn read_something(&self) -> bool {
        self.items.iter().any(|(_, op)| op.as_ref().is_ok_and(|op| !op.is_write()))
    }

    /// What is left to do. With `atomic` one item that cannot be read refuses all.
    fn ops(&self) -> Result<Vec<Op>, Error> {
        let mut ops = Vec::with_capacity(self.items.len());
        for (index, (_, op)) in self.items.iter().enumerate() {
            match op {
                Ok(op) => ops.push(op.clone()),
                Err(error) if self.atomic => {
                    let detail = format!("operation {index} failed, so none was applied: {}", error.detail());
                    return Err(Error::new(ErrorCode::BatchAborted, detail));
                }
                Err(_) => {}
            }
        }
        Ok(ops)
    }

    /// Puts the results of the operations that were tried back between those that were not.
    fn answer(self, results: Vec<Result<OpResult, Error>>) -> Result<BatchResultBody, Error> {
        let mut results = results.into_iter();
        let mut room = MAX_READ_BYTES;
        let mut answered = Vec::with_capacity(self.items.len());
        for (key, op) in self.items {
            let result =
                op.and_then(|_| results.next().unwrap_or_else(|| Err(unexpected("an operation had no result"))));
            answered.push(match result.and_then(|result| done(&key, result, &mut room)) {
                Ok(body) => body,
                Err(error) => failed(key, &error),
            });
        }
        let ok = answered.iter().filter(|body| body.status < 400).count();
        Ok(BatchResultBody { ok, failed: answered.len() - ok, results: answered })
    }
}

fn read_bytes(result: &Result<OpResult, Error>) -> usize {
    match result {
        Ok(OpResult::Got(Some(treasure))) => treasure.value.len(),
        _ => 0,
    }
}

/// One operation from its body. Members that do not belong to it are refused: they would mean something else
/// to whoever wrote them.
fn operation(body: OpBody) -> Result<Op, Error> {
    check_key(&body.key)?;
    let allowed: &[&str] = match body.op.as_str() {
        "put" => &["value", "ttl", "expiresAt", "ifVersion"],
        "delete" => &["ifVersion"],
        "increment" => &["by"],
        "get" => &[],
        other => return Err(refused("op", &format!("is {other:?}; allowed are put, delete, increment and get"))),
    };
    let sent = [
        ("value", body.value.is_some()),
        ("by", body.by.is_some()),
        ("ttl", body.ttl.is_some()),
        ("expiresAt", body.expires_at.is_some()),
        ("ifVersion", body.if_version.is_some()),
    ];
    if let Some((member, _)) = sent.iter().find(|(member, sent)| *sent && !allowed.contains(member)) {
        return Err(refused(member, &format!("does not belong to {:?}", body.op)));
    }
    let condition = body.if_version.as_deref().map_or(Ok(Condition::Always), condition)?;
    let key = body.key;
    match body.op.as_str() {
        "put" => {
            let value = body.value.ok_or_else(|| refused("value", "is missing"))?;
            let expires_at = expiry(body.ttl.as_deref(), body.expires_at)?;
            Ok(Op::Put { key, value: read_value(&value)?, expires_at, condition })
        }
        "delete" => Ok(Op::Delete { key, condition }),
        "increment" => Ok(Op::Increment { key, by: body.by.ok_or_else(|| refused("by", "is missing"))? }),
        _ => Ok(Op::Get { key }),
    }
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

fn refused(member: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidBody, format!("the member {member} {why}"))
}

fn done(key: &str, result: OpResult, room: &mut usize) -> Result<OpResultBody, Error> {
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

fn failed(key: String, error: &Error) -> OpResultBody {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Items {
        Items::read(text.as_bytes()).expect(text)
    }

    #[test]
    fn one_bad_operation_is_its_own_answer() {
        let items = items(
            r#"{"ops":[{"op":"put","key":"a","value":null},{"op":"put","key":"b"},{"op":"jump","key":"c"},
                {"op":"get","key":"d","by":1},{"op":"get","key":".."},{"op":"put","key":"e","value":1,"ifVersion":"x"}]}"#,
        );
        let codes: Vec<Option<ErrorCode>> =
            items.items.iter().map(|(_, op)| op.as_ref().err().map(Error::code)).collect();
        let body = Some(ErrorCode::InvalidBody);
        assert_eq!(codes, [None, body, body, body, Some(ErrorCode::InvalidKey), body]);
        assert_eq!(items.ops().expect("the others go on").len(), 1);
        let answer = items.answer(vec![Ok(OpResult::Deleted { existed: true })]).expect("answers");
        assert_eq!((answer.ok, answer.failed, answer.results[4].key.as_str()), (1, 5, ".."));
    }

    #[test]
    fn an_atomic_batch_with_a_bad_operation_is_refused_whole() {
        let items = items(r#"{"atomic":true,"ops":[{"op":"put","key":"a","value":1},{"op":"get","key":""}]}"#);
        assert_eq!(items.ops().expect_err("refused").code(), ErrorCode::BatchAborted);
    }

    #[test]
    fn unknown_members_and_too_many_operations_refuse_the_batch() {
        for text in ["", "[]", r#"{"ops":[{"op":"get","key":"a","ifversion":"0"}]}"#, r#"{"ops":[],"atmic":true}"#] {
            assert_eq!(Items::read(text.as_bytes()).err().map(|e| e.code()), Some(ErrorCode::InvalidBody), "{text}");
        }
        let many = format!(r#"{{"ops":[{}]}}"#, vec![r#"{"op":"get","key":"a"}"#; MAX_BATCH_OPS + 1].join(","));
        assert_eq!(Items::read(many.as_bytes()).err().map(|e| e.code()), Some(ErrorCode::BatchTooLarge));
    }
}
