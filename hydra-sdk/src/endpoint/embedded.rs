//! A data set in this process: the engine itself. What may touch the disk runs on a blocking thread.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hydra_core::{
    Batch, Committed, Durability, Engine, EngineOptions, FeedOptions, Idempotency, ListQuery, OpResult, Pattern,
    Policy, Swamp, SwampName, Value, Version,
};

use super::across::Parts;
use super::{Listing, Reading, SwampListing, WriteOptions};
use crate::cluster::CallOptions;
use crate::conflict::Conflict;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RawFeed, Subscription, Topic, Waited};
use crate::operation::{Done, Operation};
use crate::treasure::{Cursor, ListedSwamp, Page, SwampInfo, Treasure, Written};

/// An engine in this process.
#[derive(Debug)]
pub(crate) struct Embedded {
    engine: Engine,
    /// A directory that goes away with the engine.
    scratch: Option<Scratch>,
}

impl Embedded {
    pub(crate) async fn open(options: EngineOptions, scratch: Option<Scratch>) -> Result<Embedded> {
        let engine = blocking(move || Engine::open(options)).await?;
        Ok(Embedded { engine, scratch })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Flushes and releases the directory; a scratch directory is removed.
    pub(crate) async fn close(&self) -> Result<()> {
        let engine = self.engine.clone();
        let scratch = self.scratch.clone();
        blocking(move || {
            engine.close()?;
            if let Some(scratch) = scratch {
                scratch.remove();
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn swamp(&self, name: &SwampName) -> Result<Swamp> {
        if let Some(swamp) = self.engine.resident(name) {
            return Ok(swamp);
        }
        let (engine, name) = (self.engine.clone(), name.clone());
        blocking(move || engine.hydrate(&name)).await
    }

    pub(super) async fn get(
        &self,
        name: &SwampName,
        reading: &Reading<'_>,
        _: &CallOptions,
    ) -> Result<Option<Treasure<Value>>> {
        let swamp = self.swamp(name).await?;
        let found = if reading.with_expired { swamp.get_with_expired(reading.key)? } else { swamp.get(reading.key)? };
        let Some(found) = found.map(Treasure::from) else { return Ok(None) };
        if reading.path.is_root() {
            return Ok(Some(found));
        }
        Ok(found.value.at(&reading.path).map(|value| Treasure { value, ..found }))
    }

    pub(super) async fn push(
        &self,
        name: &SwampName,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Done<Value>> {
        self.write(name, operation, options).await
    }

    /// Swamps know nothing of each other: what fails in one is the answer of its own operations.
    pub(super) async fn batch_across(
        &self,
        operations: Vec<(SwampName, Operation)>,
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        let parts = Parts::of(operations, SwampName::clone);
        let runs = parts.groups().map(|(name, group)| {
            let operations = group.iter().map(|(_, operation)| operation.clone()).collect();
            async move { self.batch(name, operations, false, options).await.map_err(|error| error.about(name.as_str())) }
        });
        let results = futures_util::future::join_all(runs.collect::<Vec<_>>()).await;
        Ok(parts.in_order(results))
    }

    pub(super) async fn write(
        &self,
        name: &SwampName,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Done<Value>> {
        let mut results = self.batch(name, vec![operation], false, options).await?;
        results.pop().unwrap_or_else(|| Err(Error::new(ErrorKind::Protocol, "the engine answered nothing")))
    }

    pub(super) async fn batch(
        &self,
        name: &SwampName,
        operations: Vec<Operation>,
        atomic: bool,
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        let idempotency = options.idempotency_key.as_deref().map(|key| idempotency(key, &operations)).transpose()?;
        let ops = operations.into_iter().map(Operation::into_op).collect::<Result<_>>()?;
        let batch = Batch { ops, atomic, idempotency, sync: options.sync, ..Batch::default() };
        let Committed { results, durability, .. } = self.swamp(name).await?.write(batch).await?;
        let done = |result: hydra_core::Result<OpResult>| done(result?, durability == Durability::Synced);
        Ok(results.into_iter().map(done).collect())
    }

    pub(super) async fn subscribe(&self, topic: &Topic, wanted: &Subscription) -> Result<RawFeed> {
        let mut options = FeedOptions::default();
        (options.since, options.snapshot) = (wanted.since, wanted.snapshot);
        (options.prefix, options.old) = (wanted.prefix.clone(), wanted.old);
        let (mut feed, names_swamps) = match topic {
            Topic::Swamp(name, _) => (self.swamp(name).await?.subscribe(&options)?, false),
            Topic::Pattern(pattern, _) => (self.engine.subscribe_pattern(pattern, &options)?, true),
        };
        let keys_only = wanted.keys_only;
        let events = stream::poll_fn(move |context| feed.poll_next(context));
        let events = events.map(move |event| {
            let swamp = event.swamp.clone().filter(|_| names_swamps);
            Some(Event { swamp, ..Event::of(event, keys_only)? })
        });
        Ok(Box::pin(
            events.take_while(|event| std::future::ready(event.is_some())).filter_map(std::future::ready).map(Ok),
        ))
    }

    pub(super) async fn wait(
        &self,
        name: &SwampName,
        key: &str,
        known: Option<&Version>,
        at_most: Duration,
        _: &CallOptions,
    ) -> Result<Waited<Value>> {
        let until = tokio::time::Instant::now() + at_most;
        loop {
            let swamp = self.swamp(name).await?;
            // Made before the look, so that nothing in between is missed.
            let changed = swamp.changed()?;
            let found = swamp.get(key)?;
            drop(swamp);
            if found.as_ref().map(|treasure| &treasure.version) != known {
                return Ok(found.map_or(Waited::Gone, |treasure| Waited::Put(treasure.into())));
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(Waited::Unchanged);
            }
        }
    }

    pub(super) async fn list(&self, name: &SwampName, listing: &Listing, _: &CallOptions) -> Result<Page<Value>> {
        let Listing { query, has_values } = listing.clone();
        let swamp = self.swamp(name).await?;
        let page = blocking(move || swamp.list(&query)).await?;
        let treasure = |treasure: hydra_core::Treasure| {
            let treasure = Treasure::from(treasure);
            if has_values { treasure } else { treasure.without_value() }
        };
        Ok(Page { treasures: page.treasures.into_iter().map(treasure).collect(), next: page.next.map(Cursor) })
    }

    pub(super) async fn count(&self, name: &SwampName, query: &ListQuery, _: &CallOptions) -> Result<u64> {
        let (swamp, query) = (self.swamp(name).await?, query.clone());
        blocking(move || swamp.count_matching(&query)).await
    }

    pub(super) async fn swamps(&self, listing: SwampListing) -> Result<(Vec<ListedSwamp>, Option<String>)> {
        let engine = self.engine.clone();
        let page = blocking(move || engine.swamps(&listing.query).map(|page| (page, listing.query.info))).await?;
        let (page, info) = page;
        Ok((page.swamps.into_iter().map(|listed| ListedSwamp::of_engine(listed, info)).collect(), page.next))
    }

    pub(super) async fn info(&self, name: &SwampName, _: &CallOptions) -> Result<Option<SwampInfo>> {
        let swamp = self.swamp(name).await?;
        let name = name.clone();
        blocking(move || Ok(swamp.info()?.map(|info| info_of(name, info)))).await
    }

    pub(super) async fn conflicts(&self, name: &SwampName, _: &CallOptions) -> Result<Vec<Conflict>> {
        let swamp = self.swamp(name).await?;
        blocking(move || Ok(swamp.conflicts().into_iter().map(Conflict::of).collect())).await
    }

    pub(super) async fn flush(&self, name: &SwampName, _: &CallOptions) -> Result<()> {
        Ok(self.swamp(name).await?.flush().await?)
    }

    pub(super) async fn destroy(&self, name: &SwampName, _: &CallOptions) -> Result<bool> {
        Ok(self.swamp(name).await?.destroy().await?)
    }

    pub(super) async fn set_policy(&self, pattern: &Pattern, policy: &Policy) -> Result<()> {
        let (engine, pattern, policy) = (self.engine.clone(), pattern.clone(), policy.clone());
        blocking(move || engine.set_policy(pattern, policy).map(drop)).await
    }

    pub(super) async fn delete_policy(&self, pattern: &Pattern) -> Result<bool> {
        let (engine, pattern) = (self.engine.clone(), pattern.clone());
        blocking(move || engine.delete_policy(&pattern)).await
    }

    pub(super) async fn policies(&self) -> Result<Vec<(Pattern, Policy)>> {
        Ok(self.engine.policies())
    }
}

/// Runs what may wait for the disk on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> hydra_core::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::new(ErrorKind::Protocol, format!("the engine gave up: {error}"))
            .with_applied(hydra_core::Applied::Unknown)),
    }
}

/// The key with a fingerprint of what it stands for: the same operations, the same fingerprint.
fn idempotency(key: &str, operations: &[Operation]) -> Result<Idempotency> {
    let bodies = operations.iter().map(Operation::to_body).collect::<Result<Vec<_>>>()?;
    let text = serde_json::to_string(&bodies).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("the operations cannot be written as JSON: {error}"))
    })?;
    // The key of a long text is its hash, which is just what a fingerprint is.
    let fingerprint = Idempotency::new(&text, 0).key as u64;
    Ok(Idempotency::new(key, fingerprint))
}

fn done(result: OpResult, synced: bool) -> Result<Done<Value>> {
    match result {
        OpResult::Put { version, created } => Ok(Done::Put(Written { version, created, synced })),
        OpResult::Deleted { existed } => Ok(Done::Deleted(existed)),
        OpResult::Incremented { value, version, .. } => Ok(Done::Incremented(value, version)),
        OpResult::Got(treasure) => Ok(Done::Got(treasure.map(Treasure::from))),
        other => {
            Err(Error::new(ErrorKind::Protocol, format!("the engine answered {other:?}, which is not known here")))
        }
    }
}

fn info_of(name: SwampName, info: hydra_core::SwampInfo) -> SwampInfo {
    SwampInfo {
        name,
        folder: info.folder,
        count: info.count,
        bytes: info.bytes,
        files: info.files,
        dirty: info.dirty,
        copy_state: info.copy_state,
        findings: info.findings,
        policy: info.policy,
        policy_from: info.policy_from,
        created_at: info.created_at,
    }
}

impl Drop for Embedded {
    /// A data set in memory leaves nothing behind, also when it was not closed.
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch {
            if let Err(error) = self.engine.close() {
                tracing::warn!(%error, "a scratch data set could not be closed");
            }
            scratch.remove();
        }
    }
}

/// A directory of this process alone.
#[derive(Debug, Clone)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory, in memory where the system offers that.
    pub(crate) fn new() -> Result<Scratch> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let path = parent.join(format!("hydra-mem-{}-{}", std::process::id(), uuid::Uuid::now_v7().simple()));
        std::fs::create_dir(&path)
            .map_err(|error| Error::new(ErrorKind::Storage, format!("cannot create {}: {error}", path.display())))?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        match std::fs::remove_dir_all(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %self.0.display(), %error, "a scratch directory could not be removed"),
        }
    }
}
