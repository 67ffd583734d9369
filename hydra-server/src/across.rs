//! Operations on several swamps in one request: `POST /v1/batch`.
//!
//! The operations of one swamp are carried out in order and written as one; swamps know nothing of each other, so
//! nothing is atomic across them, and what is wrong with one hides nothing of the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::StatusCode;
use hydra_core::wire::{BatchResultBody, OpBody};
use hydra_core::{Batch, Durability, Error, FolderId, Idempotency, Op, OpResult, SwampName};
use xxhash_rust::xxh3::Xxh3;

use crate::answer::{self, Response};
use crate::app::{App, Call, by_size, unexpected};
use crate::auth::Scope;
use crate::conditions::{no_conditions, plain_body};
use crate::operations::{BATCH_LIMIT, MAX_READ_BYTES, done, failed, operation, read_batch, read_bytes, refused};
use crate::query::Query;

/// How many swamps of one request are written at a time.
const AT_ONCE: usize = 32;

/// Carries out a batch across swamps. Once it could be read, the answer is 200 with a result for each operation.
pub(crate) async fn batch(call: &mut Call) -> Result<Response, Error> {
    let sync = Query::parse(call.head.uri.query(), &["sync"])?.flag("sync")?;
    no_conditions(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    let bytes = call.read_body(BATCH_LIMIT).await?;
    let key = call.idempotency_key()?.map(str::to_owned);
    let length = bytes.len();
    let mut across = by_size(length, move || Across::read(&bytes, key.as_deref())).await?;
    across.admit(call);
    let writes: Vec<_> =
        across.parts.drain(..).map(|part| part.write(Arc::clone(&call.app), sync, call.deadline)).collect();
    across.parts = stream::iter(writes).buffered(AT_ONCE).collect().await;
    across.note(call);
    let read = across.parts.iter().flat_map(|part| &part.results).map(read_bytes).sum::<usize>();
    let body = by_size(length.max(read), move || across.answer()).await?;
    answer::json(StatusCode::OK, &body)
}

/// The operations of one swamp.
struct Part {
    name: SwampName,
    folder: Option<FolderId>,
    standby: bool,
    idempotency: Option<Idempotency>,
    ops: Vec<Op>,
    /// Why nothing of it was done.
    refusal: Option<Error>,
    /// One for each operation, in order.
    results: Vec<Result<OpResult, Error>>,
    /// How it was written, and whether that was before; `None` when nothing was.
    written: Option<(Durability, bool)>,
}

impl Part {
    fn admit(&mut self, call: &Call, folder: FolderId) -> Result<(), Error> {
        let writes = self.ops.iter().any(Op::is_write);
        if writes {
            call.may(&[Scope::Write], &self.name)?;
        }
        if self.ops.iter().any(|op| !op.is_write()) {
            call.may(&[Scope::Read], &self.name)?;
        }
        self.standby = call.stands_in(folder)?;
        if writes { call.may_write_to(Some(folder), self.standby) } else { Ok(()) }
    }

    /// Carries it out, unless it was refused.
    async fn write(mut self, app: Arc<App>, sync: bool, deadline: Option<Instant>) -> Part {
        if self.refusal.is_some() {
            return self;
        }
        let (idempotency, mark_deletes) = (self.idempotency, self.standby);
        let ops = std::mem::take(&mut self.ops);
        let batch = Batch { ops, idempotency, sync, mark_deletes, deadline, ..Batch::default() };
        let has_writes = batch.ops.iter().any(Op::is_write);
        match app.write(&self.name, batch).await.1 {
            Ok(committed) => {
                self.written = has_writes.then_some((committed.durability, committed.replayed));
                self.results = committed.results;
            }
            Err(error) => self.refusal = Some(error),
        }
        self
    }
}

/// One operation of the request: in which part its result stands, or what is wrong with it.
struct Item {
    swamp: String,
    key: String,
    place: Result<usize, Error>,
}

struct Across {
    items: Vec<Item>,
    parts: Vec<Part>,
}

impl Across {
    fn read(bytes: &Bytes, key: Option<&str>) -> Result<Across, Error> {
        let body = read_batch(bytes)?;
        if body.atomic {
            return Err(refused("atomic", "is true; nothing can be atomic across swamps")
                .with_hint("send a batch that is to be atomic to its swamp: POST /v1/swamps/{S}/batch"));
        }
        let mut across = Across { items: Vec::with_capacity(body.ops.len()), parts: Vec::new() };
        let mut places = HashMap::new();
        let mut hashes: Vec<Xxh3> = Vec::new();
        for op in body.ops {
            let (swamp, name) = (op.swamp.clone().unwrap_or_default(), op.key.clone());
            let text = key.map(|_| serde_json::to_vec(&op).unwrap_or_default());
            let place = across.place(&mut places, op);
            if let (Ok(place), Some(text)) = (&place, text) {
                hashes.resize_with(across.parts.len(), Xxh3::new);
                hashes[*place].update(&text);
            }
            across.items.push(Item { swamp, key: name, place });
        }
        // The fingerprint of a part is that of its own operations, so that it is recognised whatever else it
        // comes together with: a client that asks again may have split the whole in another way.
        for (part, hash) in across.parts.iter_mut().zip(hashes) {
            part.idempotency = key.map(|key| Idempotency::new(key, hash.digest()));
        }
        Ok(across)
    }

    /// Puts an operation into the part of its swamp.
    fn place(&mut self, places: &mut HashMap<SwampName, usize>, op: OpBody) -> Result<usize, Error> {
        let name: SwampName = op.swamp.as_deref().ok_or_else(|| refused("swamp", "is missing"))?.parse()?;
        let op = operation(op)?;
        let place = *places.entry(name.clone()).or_insert(self.parts.len());
        if place == self.parts.len() {
            self.parts.push(Part {
                name,
                folder: None,
                standby: false,
                idempotency: None,
                ops: Vec::new(),
                refusal: None,
                results: Vec::new(),
                written: None,
            });
        }
        self.parts[place].ops.push(op);
        Ok(place)
    }

    /// Refuses the parts whose folders are not here, or that the token does not allow. An answer about one folder
    /// says which.
    fn admit(&mut self, call: &mut Call) {
        for part in &mut self.parts {
            let folder = call.app.engine.folder_of(&part.name);
            part.folder = Some(folder);
            part.refusal = part.admit(call, folder).err();
        }
        let first = self.parts.first().and_then(|part| Some((part.folder?, part.standby)));
        if let Some((folder, standby)) =
            first.filter(|_| self.parts.windows(2).all(|two| two[0].folder == two[1].folder))
        {
            call.answer_for(folder, standby);
        }
    }

    /// What the head of the answer says: on disk when all is, replayed when all was.
    fn note(&self, call: &mut Call) {
        let written: Vec<_> = self.parts.iter().filter_map(|part| part.written).collect();
        let is_synced = written.iter().all(|(durability, _)| *durability == Durability::Synced);
        let durability = if is_synced { Durability::Synced } else { Durability::Buffered };
        if !written.is_empty() {
            call.note(durability, written.iter().all(|(_, replayed)| *replayed));
        }
    }

    /// The results in the order of the request.
    fn answer(self) -> Result<BatchResultBody, Error> {
        let mut parts: Vec<_> = self.parts.into_iter().map(|part| (part.refusal, part.results.into_iter())).collect();
        let mut room = MAX_READ_BYTES;
        let mut answered = Vec::with_capacity(self.items.len());
        for Item { swamp, key, place } in self.items {
            let result = place.and_then(|place| match &mut parts[place] {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, results) => results.next().unwrap_or_else(|| Err(unexpected("an operation had no result"))),
            });
            let mut body = match result.and_then(|result| done(&key, result, &mut room)) {
                Ok(body) => body,
                Err(error) => failed(key, &error),
            };
            body.swamp = Some(swamp);
            answered.push(body);
        }
        let ok = answered.iter().filter(|body| body.status < 400).count();
        Ok(BatchResultBody { ok, failed: answered.len() - ok, results: answered })
    }
}

#[cfg(test)]
mod tests {
    use hydra_core::ErrorCode;

    use super::*;

    fn read(text: &str, key: Option<&str>) -> Across {
        Across::read(&text.to_owned().into(), key).expect(text)
    }

    #[test]
    fn operations_of_one_swamp_come_together_in_order() {
        let across = read(
            r#"{"ops":[{"op":"put","swamp":"a/b/c","key":"x","value":1},{"op":"get","swamp":"a/b/d","key":"y"},
                {"op":"get","swamp":"a/b/c","key":"x"},{"op":"get","key":"x"},{"op":"get","swamp":"a/b","key":"x"}]}"#,
            None,
        );
        let places: Vec<_> = across.items.iter().map(|item| item.place.as_ref().ok().copied()).collect();
        assert_eq!(places, [Some(0), Some(1), Some(0), None, None]);
        assert_eq!(across.parts.iter().map(|part| part.ops.len()).collect::<Vec<_>>(), [2, 1]);
        let refused = Across::read(&r#"{"atomic":true,"ops":[]}"#.into(), None).err().expect("refused");
        assert_eq!(refused.code(), ErrorCode::InvalidBody);
    }

    #[test]
    fn a_part_is_recognised_in_other_company() {
        let op = |swamp: &str| format!(r#"{{"op":"put","swamp":"{swamp}","key":"k","value":1}}"#);
        let alone = read(&format!(r#"{{"ops":[{}]}}"#, op("a/b/c")), Some("once"));
        let both = read(&format!(r#"{{"ops":[{},{}]}}"#, op("a/b/d"), op("a/b/c")), Some("once"));
        assert_eq!(alone.parts[0].idempotency, both.parts[1].idempotency);
        assert_ne!(alone.parts[0].idempotency, both.parts[0].idempotency);
    }
}
