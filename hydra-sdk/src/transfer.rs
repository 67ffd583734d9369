//! Much at once: [`Export`] and [`Import`] of one swamp or of many.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use futures_core::Stream;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydra_core::{Pattern, SwampName, Timestamp, Value};
use serde::de::DeserializeOwned;

use hydra_core::Expired;
pub use hydra_core::ImportMode;

use crate::client::Hydra;
use crate::cluster::CallOptions;
use crate::endpoint::{ExportPart, Source};
use crate::error::{Error, Result};
use crate::swamp::Swamp;
use crate::treasure::Treasure;

/// As much is sent at once: less than a server writes at once, so that each part is answered as a whole.
const PART_RECORDS: usize = 500;
const PART_BYTES: usize = 512 << 10;

/// A treasure to import: a key, a value, and if need be when it expires and when it was written where it comes from.
///
/// A [`Treasure`] of an export is one, too.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Record {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// When it expires. Default never.
    pub expires_at: Option<Timestamp>,
    /// When it was last written; only [`ImportMode::Newer`] asks. The write that it becomes has a time of its own.
    pub updated_at: Option<Timestamp>,
}

impl Record {
    /// A record that never expires.
    #[must_use]
    pub fn new(key: impl Into<String>, value: Value) -> Record {
        Record { key: key.into(), value, expires_at: None, updated_at: None }
    }

    fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

impl From<Treasure<Value>> for Record {
    fn from(treasure: Treasure<Value>) -> Record {
        Record {
            key: treasure.key,
            value: treasure.value,
            expires_at: treasure.expires_at,
            updated_at: Some(treasure.updated_at),
        }
    }
}

/// What became of the records of an import, or of those so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Records that are settled one way or the other.
    pub lines: u64,
    /// Records that were written, and acknowledged.
    pub written: u64,
    /// Records that the mode left alone.
    pub skipped: u64,
    /// Records that could not be written.
    pub failed: u64,
    /// The first 100 of those.
    pub errors: Vec<ImportFailure>,
}

/// A record that was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportFailure {
    /// The number of the record, counted from 1.
    pub line: u64,
    /// The stable name of what is wrong, e.g. `invalid-key`.
    pub code: String,
    /// What is wrong, in words.
    pub detail: String,
}

impl Imported {
    /// Adds what became of a part, whose records have these numbers.
    pub(crate) fn add(&mut self, part: Imported, numbers: &[u64]) {
        self.lines += part.lines;
        self.written += part.written;
        self.skipped += part.skipped;
        self.failed += part.failed;
        for failure in part.errors {
            let at = usize::try_from(failure.line).unwrap_or(usize::MAX).saturating_sub(1);
            if self.errors.len() < hydra_core::MAX_IMPORT_ERRORS {
                self.errors.push(ImportFailure { line: numbers.get(at).copied().unwrap_or(failure.line), ..failure });
            }
        }
        self.errors.sort_by_key(|failure| failure.line);
    }
}

/// How an import writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImportOptions {
    pub(crate) mode: ImportMode,
    pub(crate) sync: bool,
    pub(crate) call: CallOptions,
}

type Records = Pin<Box<dyn Stream<Item = (SwampName, Record)> + Send>>;
type Progress = Box<dyn FnMut(&Imported) + Send>;

/// An import on its way; see [`Swamp::import`] and [`Hydra::import`]. Awaited it answers what became of the records.
///
/// The records are sent in parts of up to 500, each with the failover of any other write. An error ends it; what was
/// written before stays, and importing the same again in the mode `upsert` is harmless.
#[must_use = "nothing is imported until this is awaited"]
pub struct Import {
    hydra: Hydra,
    records: Records,
    options: ImportOptions,
    progress: Option<Progress>,
}

impl Import {
    pub(crate) fn new(hydra: Hydra, records: Records, call: CallOptions) -> Import {
        Import { hydra, records, options: ImportOptions { call, ..ImportOptions::default() }, progress: None }
    }

    /// Which records are written. Default all, in place of what was there.
    pub fn mode(mut self, mode: ImportMode) -> Import {
        self.options.mode = mode;
        self
    }

    /// Every part is on disk before the next one is sent, whatever the write interval.
    pub fn sync(mut self) -> Import {
        self.options.sync = true;
        self
    }

    /// Calls `progress` after every part with what became of the records so far.
    pub fn on_progress(mut self, progress: impl FnMut(&Imported) + Send + 'static) -> Import {
        self.progress = Some(Box::new(progress));
        self
    }

    async fn run(mut self) -> Result<Imported> {
        let mut imported = Imported::default();
        let mut number = 0;
        loop {
            let (mut part, mut size) = (Vec::new(), 0);
            while part.len() < PART_RECORDS && size < PART_BYTES {
                let Some((name, record)) = self.records.next().await else { break };
                number += 1;
                size += record.size();
                part.push((number, name, record));
            }
            if part.is_empty() {
                return Ok(imported);
            }
            for (numbers, settled) in self.hydra.endpoint().import(part, &self.options).await? {
                imported.add(settled, &numbers);
            }
            if let Some(progress) = &mut self.progress {
                progress(&imported);
            }
        }
    }
}

impl IntoFuture for Import {
    type Output = Result<Imported>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Imported>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<V> Swamp<V> {
    /// All treasures in the order of their keys, each at most once, as a stream that takes little memory on both sides.
    ///
    /// What nobody touches meanwhile comes exactly once; what is put, overwritten or deleted meanwhile may come as it
    /// was or as it is. Where a connection breaks, the stream goes on behind the last key, also from a fallback.
    pub fn export(&self, expired: Expired) -> impl Stream<Item = Result<Treasure<V>>> + Send + use<V>
    where
        V: DeserializeOwned + Send + 'static,
    {
        let source = Source::Swamp(self.name().clone());
        parts(self.hydra().clone(), source, expired, self.options().clone())
            .map_ok(|part| stream::iter(part.treasures.into_iter().map(Treasure::decode)))
            .try_flatten()
    }

    /// Stores many records. Each becomes a write of its own with a new version; see [`Import`].
    pub fn import<R: Into<Record>>(&self, records: impl Stream<Item = R> + Send + 'static) -> Import {
        let name = self.name().clone();
        let records = records.map(move |record| (name.clone(), record.into()));
        Import::new(self.hydra().clone(), Box::pin(records), self.options().clone())
    }
}

impl Hydra {
    /// All treasures of the swamps that match a pattern, from the servers that answer for them: each folder once. The
    /// swamps of a folder come in no order, the treasures of a swamp in the order of their keys.
    ///
    /// An error is about one folder or swamp; the stream goes on with the next folder.
    pub fn export(
        &self,
        pattern: &Pattern,
        expired: Expired,
    ) -> impl Stream<Item = Result<(SwampName, Treasure<Value>)>> + Send + use<> {
        let sources = self.endpoint().sources(pattern);
        let hydra = self.clone();
        stream::iter(sources)
            .flat_map(move |source| parts(hydra.clone(), source, expired, CallOptions::default()).boxed())
            .map_ok(|part| {
                let swamp = part.swamp;
                stream::iter(part.treasures.into_iter().map(move |treasure| Ok((swamp.clone(), treasure))))
            })
            .try_flatten()
    }

    /// Stores many records in many swamps, at the servers that answer for them; see [`Import`].
    pub fn import<R: Into<Record>>(&self, records: impl Stream<Item = (SwampName, R)> + Send + 'static) -> Import {
        let records = records.map(|(name, record)| (name, record.into()));
        Import::new(self.clone(), Box::pin(records), CallOptions::default())
    }
}

/// The parts of a source, until its end or its first error.
fn parts(
    hydra: Hydra,
    source: Source,
    expired: Expired,
    options: CallOptions,
) -> impl Stream<Item = Result<ExportPart>> + Send + use<> {
    let begin = async move {
        let parts = hydra.endpoint().export(source, expired, options).await?;
        Ok::<_, Error>(stream::try_unfold(
            (hydra, parts, VecDeque::new()),
            |(hydra, mut parts, mut ready)| async move {
                while ready.is_empty() {
                    match hydra.endpoint().next_parts(&mut parts).await? {
                        Some(more) => ready.extend(more),
                        None => return Ok(None),
                    }
                }
                Ok(ready.pop_front().map(|part| (part, (hydra, parts, ready))))
            },
        ))
    };
    stream::once(begin).try_flatten()
}
