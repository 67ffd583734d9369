//! Where a data set lives: on servers behind a map, or in this process. The same operations on both.

mod across;
mod embedded;
mod feed;
mod queues;
mod remote;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use hydra_core::{ListQuery, Lock, LockInfo, Pattern, Pointer, Policy, Shift, SwampName, SwampsQuery, Value, Version};

pub(crate) use embedded::{Embedded, Scratch};
pub(crate) use transfer::{ExportPart, Source};

use crate::cluster::{CallOptions, Cluster};
use crate::conflict::Conflict;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{RawFeed, Subscription, Topic, Waited};
use crate::operation::{Done, Operation};
use crate::treasure::{ListedSwamp, Page, SwampInfo, Treasure};

/// Where a data set lives.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Remote(Arc<Cluster>),
    Embedded(Embedded),
}

/// What a write sets for itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) call: CallOptions,
    /// On disk before it is acknowledged.
    pub(crate) sync: bool,
    /// In place of the key that is made for every write.
    pub(crate) idempotency_key: Option<String>,
}

impl WriteOptions {
    /// Checks that the idempotency key can be sent: one that was left out would count twice.
    fn check(&self) -> Result<()> {
        match &self.idempotency_key {
            Some(key) if !(1..=255).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                let detail =
                    format!("the idempotency key {key:?} is not 1 to 255 printable ASCII characters without spaces");
                Err(Error::new(ErrorKind::Invalid, detail))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What a read asks for.
#[derive(Debug, Clone)]
pub(crate) struct Reading<'k> {
    pub(crate) key: &'k str,
    /// The part of the value that is read.
    pub(crate) path: Pointer,
    pub(crate) with_expired: bool,
}

impl<'k> Reading<'k> {
    /// The whole value, unless it has expired.
    pub(crate) fn of(key: &'k str) -> Reading<'k> {
        Reading { key, path: Pointer::default(), with_expired: false }
    }
}

/// What a list asks for.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    pub(crate) query: ListQuery,
    /// Whether the values are wanted beside what is known of the treasures.
    pub(crate) has_values: bool,
}

/// Which swamps are listed, of one place: a server, or this process.
#[derive(Debug, Clone)]
pub(crate) struct SwampListing {
    pub(crate) query: SwampsQuery,
    /// Who is asked; `None` where there is only one place.
    pub(crate) part: Option<Part>,
}

/// Folders of a pool that one route leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) pool: String,
    /// From the first to the last.
    pub(crate) folders: (u32, u32),
}

/// What a lock is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Locking {
    pub(crate) ttl: Duration,
    pub(crate) wait: Duration,
    pub(crate) owner: Option<String>,
}

/// The same call on either endpoint; an error says which name it is about, where there is one.
macro_rules! either {
    ($endpoint:expr, $inner:ident => $call:expr) => {
        match $endpoint {
            Endpoint::Remote($inner) => $call.await,
            Endpoint::Embedded($inner) => $call.await,
        }
    };
    ($endpoint:expr, $name:expr, $inner:ident => $call:expr) => {
        either!($endpoint, $inner => $call).map_err(|error| error.about($name.as_str()))
    };
}

impl Endpoint {
    pub(crate) async fn get(
        &self,
        name: &SwampName,
        reading: &Reading<'_>,
        options: &CallOptions,
    ) -> Result<Option<Treasure<Value>>> {
        hydra_core::check_key(reading.key)?;
        either!(self, name, to => to.get(name, reading, options))
    }

    pub(crate) async fn write(
        &self,
        name: &SwampName,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Done<Value>> {
        operation.check()?;
        options.check()?;
        either!(self, name, to => to.write(name, operation, options))
    }

    /// A put under a new key, which is the idempotency key.
    pub(crate) async fn push(
        &self,
        name: &SwampName,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Done<Value>> {
        options.check()?;
        operation.check()?;
        either!(self, name, to => to.push(name, operation, options))
    }

    /// Operations on several swamps; answers one result for each, in this order.
    pub(crate) async fn batch_across(
        &self,
        operations: Vec<(SwampName, Operation)>,
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        operations
            .iter()
            .try_for_each(|(name, operation)| operation.check().map_err(|error| error.about(name.as_str())))?;
        options.check()?;
        either!(self, to => to.batch_across(operations, options))
    }

    /// Operations on one swamp, in order; answers one result for each.
    pub(crate) async fn batch(
        &self,
        name: &SwampName,
        operations: Vec<Operation>,
        atomic: bool,
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        operations.iter().try_for_each(Operation::check)?;
        options.check()?;
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        either!(self, name, to => to.batch(name, operations, atomic, options))
    }

    pub(crate) async fn shift(
        &self,
        name: &SwampName,
        shift: &Shift,
        wait: Duration,
        options: &WriteOptions,
    ) -> Result<Vec<Treasure<Value>>> {
        shift.check()?;
        options.check()?;
        either!(self, name, to => to.shift(name, shift, wait, options))
    }

    /// `None` when somebody else holds it to the end of the wait.
    pub(crate) async fn lock(
        &self,
        name: &SwampName,
        lock: &str,
        locking: &Locking,
        options: &WriteOptions,
    ) -> Result<Option<Lock>> {
        hydra_core::check_key(lock)?;
        options.check()?;
        either!(self, name, to => to.lock(name, lock, locking, options))
    }

    /// `None` when it is not held with this token any more.
    pub(crate) async fn renew_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        ttl: Duration,
        options: &CallOptions,
    ) -> Result<Option<Lock>> {
        either!(self, name, to => to.renew_lock(name, lock, token, ttl, options))
    }

    /// Whether it was still held with this token.
    pub(crate) async fn release_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        options: &CallOptions,
    ) -> Result<bool> {
        either!(self, name, to => to.release_lock(name, lock, token, options))
    }

    pub(crate) async fn lock_info(
        &self,
        name: &SwampName,
        lock: &str,
        options: &CallOptions,
    ) -> Result<Option<LockInfo>> {
        hydra_core::check_key(lock)?;
        either!(self, name, to => to.lock_info(name, lock, options))
    }

    /// One connection to what changes; ends where it breaks.
    pub(crate) async fn subscribe(&self, topic: &Topic, wanted: &Subscription) -> Result<RawFeed> {
        match self {
            Endpoint::Remote(to) => Arc::clone(to).subscribe(topic, wanted).await,
            Endpoint::Embedded(to) => to.subscribe(topic, wanted).await,
        }
        .map_err(|error| match topic {
            Topic::Swamp(name, _) => error.about(name.as_str()),
            Topic::Pattern(pattern, _) => error.about(pattern.to_string()),
        })
    }

    /// The servers that may tell of changes; `None` for this process.
    pub(crate) fn places(&self) -> Vec<Option<String>> {
        match self {
            Endpoint::Remote(cluster) => {
                cluster.state().servers().iter().map(|server| Some(server.id().to_owned())).collect()
            }
            Endpoint::Embedded(_) => vec![None],
        }
    }

    /// Waits until a treasure is another one than the version says, at most so long.
    pub(crate) async fn wait(
        &self,
        name: &SwampName,
        key: &str,
        known: Option<&Version>,
        at_most: Duration,
        options: &CallOptions,
    ) -> Result<Waited<Value>> {
        hydra_core::check_key(key)?;
        either!(self, name, to => to.wait(name, key, known, at_most, options))
    }

    pub(crate) async fn list(&self, name: &SwampName, listing: &Listing, options: &CallOptions) -> Result<Page<Value>> {
        either!(self, name, to => to.list(name, listing, options))
    }

    /// How many treasures meet the conditions of a query; without one, how many there are.
    pub(crate) async fn count(&self, name: &SwampName, query: &ListQuery, options: &CallOptions) -> Result<u64> {
        either!(self, name, to => to.count(name, query, options))
    }

    /// The parts that a list of swamps goes through, one after the other.
    pub(crate) fn parts(&self) -> Vec<Option<Part>> {
        match self {
            Endpoint::Remote(cluster) => cluster.parts(),
            Endpoint::Embedded(_) => vec![None],
        }
    }

    /// A page of swamps of one part, and where the next one begins.
    pub(crate) async fn swamps(&self, listing: SwampListing) -> Result<(Vec<ListedSwamp>, Option<String>)> {
        either!(self, to => to.swamps(listing))
    }

    pub(crate) async fn info(&self, name: &SwampName, options: &CallOptions) -> Result<Option<SwampInfo>> {
        either!(self, name, to => to.info(name, options))
    }

    pub(crate) async fn conflicts(&self, name: &SwampName, options: &CallOptions) -> Result<Vec<Conflict>> {
        either!(self, name, to => to.conflicts(name, options))
    }

    pub(crate) async fn flush(&self, name: &SwampName, options: &CallOptions) -> Result<()> {
        either!(self, name, to => to.flush(name, options))
    }

    pub(crate) async fn destroy(&self, name: &SwampName, options: &CallOptions) -> Result<bool> {
        either!(self, name, to => to.destroy(name, options))
    }

    pub(crate) async fn set_policy(&self, pattern: &Pattern, policy: &Policy) -> Result<()> {
        policy.check()?;
        either!(self, to => to.set_policy(pattern, policy))
    }

    pub(crate) async fn delete_policy(&self, pattern: &Pattern) -> Result<bool> {
        either!(self, to => to.delete_policy(pattern))
    }

    pub(crate) async fn policies(&self) -> Result<Vec<(Pattern, Policy)>> {
        either!(self, to => to.policies())
    }
}
