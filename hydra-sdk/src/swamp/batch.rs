//! Operations on one swamp that are carried out together.

use std::future::IntoFuture;
use std::time::Duration;

use hydra_core::{Applied, Condition, Increment, MAX_BATCH_OPS, Value, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Swamp;
use super::write::{Call, Write, write_options};
use crate::endpoint::WriteOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Done, Expiry, Operation};
use crate::settings::Fallback;
use crate::treasure::{Treasure, Written};

/// Operations on one swamp, carried out in order, written and synced as one; runs when awaited and
/// answers one result for each operation. At most 10 000 operations.
#[must_use = "nothing is done until it is awaited"]
#[derive(Debug)]
pub struct Batch<V> {
    swamp: Swamp<V>,
    operations: Vec<Operation>,
    /// The first value that could not be written as JSON.
    unwritable: Option<Error>,
    is_atomic: bool,
    options: WriteOptions,
}

impl<V: Serialize + DeserializeOwned> Batch<V> {
    pub(super) fn new(swamp: Swamp<V>) -> Batch<V> {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Batch { swamp, operations: Vec::new(), unwritable: None, is_atomic: false, options }
    }

    /// Stores a value.
    pub fn put(self, key: impl Into<String>, value: &V) -> Self {
        self.store(key.into(), value, Expiry::Never, Condition::Always)
    }

    /// Stores a value that expires after this span.
    pub fn put_for(self, key: impl Into<String>, value: &V, ttl: Duration) -> Self {
        self.store(key.into(), value, Expiry::In(ttl), Condition::Always)
    }

    /// Stores a value if there is none.
    pub fn create(self, key: impl Into<String>, value: &V) -> Self {
        self.store(key.into(), value, Expiry::Never, Condition::Absent)
    }

    /// Stores a value if the treasure is at this version.
    pub fn put_if(self, key: impl Into<String>, value: &V, version: &Version) -> Self {
        self.store(key.into(), value, Expiry::Never, Condition::Version(vec![*version]))
    }

    /// Stores a value of any kind.
    pub fn put_value(mut self, key: impl Into<String>, value: Value) -> Self {
        let (expiry, condition) = (Expiry::Never, Condition::Always);
        self.operations.push(Operation::Put { key: key.into(), value, expiry, condition });
        self
    }

    /// Merges another value into a JSON value, as [`Swamp::merge`] does.
    pub fn merge<P: Serialize + ?Sized>(self, key: impl Into<String>, patch: &P) -> Self {
        let patch = self.swamp.merge(key, patch);
        self.write(patch)
    }

    /// A write with the conditions that were set on it, e.g. `swamp.increment("n", 1).max(9)`. What else was set on
    /// it (sync, deadline, fallback, idempotency key) is for the batch to say.
    pub fn write(mut self, write: impl Into<Write>) -> Self {
        let Write { name, operation } = write.into();
        let refused = || {
            let detail = format!("the write is about {name}; Hydra::batch takes writes of several swamps");
            Error::new(ErrorKind::Invalid, detail).about(self.swamp.name.as_str())
        };
        match if name == self.swamp.name { operation } else { Err(refused()) } {
            Ok(operation) => self.operations.push(operation),
            Err(error) => {
                self.unwritable.get_or_insert(error);
            }
        }
        self
    }

    /// Removes a key.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Operation::Delete { key: key.into(), condition: Condition::Always });
        self
    }

    /// Adds to an integer.
    pub fn increment(mut self, key: impl Into<String>, by: i64) -> Self {
        self.operations.push(Operation::Increment { key: key.into(), increment: Increment::by(by) });
        self
    }

    /// Reads a key; sees the operations before it.
    pub fn get(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Operation::Get { key: key.into() });
        self
    }

    /// All or nothing: one operation that fails undoes the others. Otherwise it is left out alone.
    pub fn atomic(mut self) -> Self {
        self.is_atomic = true;
        self
    }

    write_options!();

    /// Carries it out as one.
    async fn run(self) -> Result<Vec<Result<Done<V>>>> {
        if let Some(error) = self.unwritable {
            return Err(error);
        }
        if self.operations.len() > MAX_BATCH_OPS {
            let detail = format!("the batch has {} operations; allowed are {MAX_BATCH_OPS}", self.operations.len());
            return Err(Error::new(ErrorKind::TooLarge, detail));
        }
        let Batch { swamp, operations, is_atomic, options, .. } = self;
        let results = swamp.hydra.endpoint().batch(&swamp.name, operations, is_atomic, &options).await?;
        Ok(results.into_iter().map(|result| typed(result?)).collect())
    }

    /// Carries it out part by part, each small enough for any server.
    pub(super) async fn run_in_parts(self) -> Result<Vec<Result<Done<V>>>> {
        let Batch { swamp, operations, unwritable, is_atomic, options } = self;
        if let Some(error) = unwritable {
            return Err(error);
        }
        let mut results = Vec::with_capacity(operations.len());
        for operations in parts_of(operations) {
            let (swamp, options) = (swamp.clone(), options.clone());
            let part = Batch { swamp, operations, unwritable: None, is_atomic, options };
            let done = part.run().await.map_err(|error| match (results.is_empty(), error.applied()) {
                (false, Applied::No) => error.with_applied(Applied::Unknown),
                _ => error,
            })?;
            results.extend(done);
        }
        Ok(results)
    }

    fn store(mut self, key: String, value: &V, expiry: Expiry, condition: Condition) -> Self {
        match Value::from_serialize(value) {
            Ok(value) => self.operations.push(Operation::Put { key, value, expiry, condition }),
            Err(error) => {
                self.unwritable.get_or_insert_with(|| Error::from(error).about(format!("the treasure {key:?}")));
            }
        }
        self
    }
}

impl<V: Serialize + DeserializeOwned + Send + 'static> IntoFuture for Batch<V> {
    type Output = Result<Vec<Result<Done<V>>>>;
    type IntoFuture = Call<Vec<Result<Done<V>>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Parts of at most so many operations, and of about so many bytes of values.
const PART_OPS: usize = 1_000;
const PART_BYTES: usize = 4 << 20;

fn parts_of(operations: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut parts: Vec<Vec<Operation>> = Vec::new();
    let mut bytes = 0;
    for operation in operations {
        let size = operation.size();
        match parts.last_mut() {
            Some(part) if part.len() < PART_OPS && bytes + size <= PART_BYTES => {
                bytes += size;
                part.push(operation);
            }
            _ => {
                bytes = size;
                parts.push(vec![operation]);
            }
        }
    }
    parts
}

fn typed<V: DeserializeOwned>(done: Done<Value>) -> Result<Done<V>> {
    Ok(match done {
        Done::Put(written) => Done::Put(written),
        Done::Deleted(existed) => Done::Deleted(existed),
        Done::Incremented(sum, version) => Done::Incremented(sum, version),
        Done::Got(treasure) => Done::Got(treasure.map(Treasure::decode).transpose()?),
    })
}

/// The result of a read among a batch of reads.
pub(super) fn got<V>(done: Done<V>) -> Result<Option<Treasure<V>>> {
    match done {
        Done::Got(treasure) => Ok(treasure),
        Done::Put(_) | Done::Deleted(_) | Done::Incremented(..) => Err(mixed_up()),
    }
}

/// The result of a put among a batch of puts.
pub(super) fn put<V>(done: Done<V>) -> Result<Written> {
    match done {
        Done::Put(written) => Ok(written),
        Done::Got(_) | Done::Deleted(_) | Done::Incremented(..) => Err(mixed_up()),
    }
}

fn mixed_up() -> Error {
    Error::new(ErrorKind::Protocol, "the results of the batch are not those of its operations")
}
