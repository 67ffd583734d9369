//! Many operations on one swamp: `POST /v1/swamps/{S}/batch`.
//!
//! What is wrong with one operation is the answer to that operation; only a body that cannot be read at
//! all, or is too long, refuses the batch as a whole.

use bytes::Bytes;
use http::StatusCode;
use hydra_core::wire::BatchResultBody;
use hydra_core::{Batch, Error, ErrorCode, Op, OpResult, SwampName};

use crate::answer::{self, Response};
use crate::app::{Call, by_size, unexpected};
use crate::auth::Scope;
use crate::conditions::{no_conditions, plain_body};
use crate::operations::{BATCH_LIMIT, MAX_READ_BYTES, done, failed, operation, read_batch, read_bytes, refused};
use crate::query::Query;

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
    fn read(bytes: &Bytes) -> Result<Items, Error> {
        let body = read_batch(bytes)?;
        let read = |op: hydra_core::wire::OpBody| match &op.swamp {
            Some(_) => Err(refused("swamp", "belongs to batches across swamps: POST /v1/batch")),
            None => operation(op),
        };
        let items = body.ops.into_iter().map(|op| (op.key.clone(), read(op))).collect();
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

#[cfg(test)]
mod tests {
    use hydra_core::MAX_BATCH_OPS;

    use super::*;

    fn items(text: &str) -> Items {
        Items::read(&text.to_owned().into()).expect(text)
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
            assert_eq!(
                Items::read(&text.to_owned().into()).err().map(|e| e.code()),
                Some(ErrorCode::InvalidBody),
                "{text}"
            );
        }
        let many = format!(r#"{{"ops":[{}]}}"#, vec![r#"{"op":"get","key":"a"}"#; MAX_BATCH_OPS + 1].join(","));
        assert_eq!(Items::read(&many.into()).err().map(|e| e.code()), Some(ErrorCode::BatchTooLarge));
    }
}
