//! Operations on several swamps in one call.

use std::future::IntoFuture;
use std::time::Duration;

use hydra_core::{MAX_BATCH_OPS, SwampName, Value};

use super::Swamp;
use super::write::{Call, Write, write_options};
use crate::client::Hydra;
use crate::endpoint::WriteOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Done, Operation};
use crate::settings::Fallback;

/// Operations on several swamps; runs when awaited and answers one result for each operation, in the order they were
/// added. At most 10 000 operations.
///
/// Those of one swamp are carried out in order and written as one. Nothing is atomic across swamps: each operation has
/// a result of its own, and a server that cannot be reached fails only what is its own.
///
/// ```
/// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
/// let (alice, stats) = (hydra.swamp::<String>("users/profiles/alice")?, hydra.swamp::<u64>("site/stats/today")?);
/// let batch = hydra.batch().write(alice.put("name", &"Alice".into())).write(stats.increment("visits", 1));
/// for done in batch.get(&alice, "name").await? {
///     println!("{:?}", done?);
/// }
/// # Ok(()) }
/// ```
#[must_use = "nothing is done until it is awaited"]
#[derive(Debug)]
pub struct BatchAcross {
    hydra: Hydra,
    operations: Vec<(SwampName, Operation)>,
    /// The first write that cannot be sent.
    unwritable: Option<Error>,
    options: WriteOptions,
}

impl BatchAcross {
    pub(crate) fn new(hydra: Hydra) -> BatchAcross {
        BatchAcross { hydra, operations: Vec::new(), unwritable: None, options: WriteOptions::default() }
    }

    /// A write, made by its swamp, with the conditions that were set on it. What else was set on it (sync, deadline,
    /// fallback, idempotency key) is for the batch to say.
    pub fn write(mut self, write: impl Into<Write>) -> Self {
        let Write { name, operation } = write.into();
        match operation {
            Ok(operation) => self.operations.push((name, operation)),
            Err(error) => {
                self.unwritable.get_or_insert(error);
            }
        }
        self
    }

    /// Reads a key; sees the operations on its swamp before it.
    pub fn get<V>(mut self, swamp: &Swamp<V>, key: impl Into<String>) -> Self {
        self.operations.push((swamp.name.clone(), Operation::Get { key: key.into() }));
        self
    }

    write_options!();
}

impl IntoFuture for BatchAcross {
    type Output = Result<Vec<Result<Done<Value>>>>;
    type IntoFuture = Call<Vec<Result<Done<Value>>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let BatchAcross { hydra, operations, unwritable, options } = self;
            if let Some(error) = unwritable {
                return Err(error);
            }
            if operations.len() > MAX_BATCH_OPS {
                let detail = format!("the batch has {} operations; allowed are {MAX_BATCH_OPS}", operations.len());
                return Err(Error::new(ErrorKind::TooLarge, detail));
            }
            hydra.endpoint().batch_across(operations, &options).await
        })
    }
}
