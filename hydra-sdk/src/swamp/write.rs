//! Writes of one treasure: made, given options, and run by awaiting them.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use hydra_core::{Condition, Timestamp, Value, Version};

use super::Swamp;
use crate::endpoint::WriteOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Done, Expiry, Operation};
use crate::settings::Fallback;
use crate::treasure::Written;

/// A call that runs when it is awaited.
pub(super) type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The options that every write has.
macro_rules! write_options {
    () => {
        /// On disk before it is acknowledged, whatever the write interval.
        pub fn sync(mut self) -> Self {
            self.options.sync = true;
            self
        }

        /// What fallbacks may be asked, in place of the pool's setting.
        pub fn fallback(mut self, fallback: Fallback) -> Self {
            self.options.call.fallback = Some(fallback);
            self
        }

        /// The longest it may take, in place of the pool's setting. Calls in this process have none.
        pub fn deadline(mut self, deadline: Duration) -> Self {
            self.options.call.deadline = Some(deadline);
            self
        }

        /// The key by which servers recognise it when it comes again, in place of the one that is
        /// made for every write. Give one that you keep to ask again after a crash of your own:
        /// the same key with the same operation counts once.
        pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
            self.options.idempotency_key = Some(key.into());
            self
        }
    };
}
pub(super) use write_options;

/// Stores one value; runs when awaited.
#[derive(Debug, Clone)]
#[must_use = "nothing is stored until it is awaited"]
pub struct Put {
    swamp: Swamp<()>,
    key: String,
    value: Result<Value, String>,
    expiry: Expiry,
    condition: Condition,
    options: WriteOptions,
}

impl Put {
    pub(super) fn new(swamp: Swamp<()>, key: String, value: Result<Value>) -> Put {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        let value = value.map_err(|error| error.detail().to_owned());
        Put { swamp, key, value, expiry: Expiry::Never, condition: Condition::Always, options }
    }

    /// It expires after this span, counted by the clock of the server.
    pub fn ttl(mut self, span: Duration) -> Self {
        self.expiry = Expiry::In(span);
        self
    }

    /// It expires at this moment. Without this and without [`Put::ttl`] it never does.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.expiry = Expiry::At(Timestamp::from(time));
        self
    }

    /// Only if there is no such treasure; otherwise [`ErrorKind::AlreadyExists`].
    pub fn create_only(mut self) -> Self {
        self.condition = Condition::Absent;
        self
    }

    /// Only if there is such a treasure; otherwise [`ErrorKind::VersionMismatch`].
    pub fn update_only(mut self) -> Self {
        self.condition = Condition::Present;
        self
    }

    /// Only if the treasure is at this version; otherwise [`ErrorKind::VersionMismatch`].
    pub fn if_version(mut self, version: &Version) -> Self {
        self.condition = Condition::Version(vec![*version]);
        self
    }

    write_options!();
}

impl IntoFuture for Put {
    type Output = Result<Written>;
    type IntoFuture = Call<Written>;

    fn into_future(self) -> Call<Written> {
        Box::pin(async move {
            let Put { swamp, key, value, expiry, condition, options } = self;
            let value = value.map_err(|detail| Error::new(ErrorKind::Invalid, detail))?;
            match run(&swamp, Operation::Put { key, value, expiry, condition }, &options).await? {
                Done::Put(written) => Ok(written),
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// Removes one key; runs when awaited.
#[derive(Debug, Clone)]
#[must_use = "nothing is removed until it is awaited"]
pub struct Delete {
    swamp: Swamp<()>,
    key: String,
    condition: Condition,
    options: WriteOptions,
}

impl Delete {
    pub(super) fn new(swamp: Swamp<()>, key: String) -> Delete {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Delete { swamp, key, condition: Condition::Always, options }
    }

    /// Only if the treasure is at this version; otherwise [`ErrorKind::VersionMismatch`].
    pub fn if_version(mut self, version: &Version) -> Self {
        self.condition = Condition::Version(vec![*version]);
        self
    }

    write_options!();
}

impl IntoFuture for Delete {
    type Output = Result<bool>;
    type IntoFuture = Call<bool>;

    fn into_future(self) -> Call<bool> {
        Box::pin(async move {
            let Delete { swamp, key, condition, options } = self;
            match run(&swamp, Operation::Delete { key, condition }, &options).await? {
                Done::Deleted(existed) => Ok(existed),
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// Adds to one integer; runs when awaited.
#[derive(Debug, Clone)]
#[must_use = "nothing is added until it is awaited"]
pub struct Increment {
    swamp: Swamp<()>,
    key: String,
    by: i64,
    options: WriteOptions,
}

impl Increment {
    pub(super) fn new(swamp: Swamp<()>, key: String, by: i64) -> Increment {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Increment { swamp, key, by, options }
    }

    write_options!();
}

impl IntoFuture for Increment {
    type Output = Result<i64>;
    type IntoFuture = Call<i64>;

    fn into_future(self) -> Call<i64> {
        Box::pin(async move {
            let Increment { swamp, key, by, options } = self;
            match run(&swamp, Operation::Increment { key, by }, &options).await? {
                Done::Incremented(sum, _) => Ok(sum),
                other => Err(unexpected(&other)),
            }
        })
    }
}

async fn run(swamp: &Swamp<()>, operation: Operation, options: &WriteOptions) -> Result<Done<Value>> {
    swamp.hydra.endpoint().write(&swamp.name, operation, options).await
}

pub(super) fn unexpected(done: &Done<Value>) -> Error {
    Error::new(ErrorKind::Protocol, format!("the answer {done:?} is to another question"))
}
