//! SKELETON of the engine's public API: signatures are final, bodies follow.
use crate::error::Result;
use crate::folder::{FolderCount, FolderId, FolderSet};
use crate::name::SwampName;
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::stamp::Timestamp;
use crate::value::{Treasure, Value};
use crate::write::{Batch, Committed, Op, OpResult, Ticket};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to open a data directory.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The data directory. Created when missing.
    pub data_dir: PathBuf,
    /// Only used when the directory is created; `None`: whatever is there, 100 for a new one. A different number than on disk is an error `folder-count-mismatch`.
    pub folders_total: Option<FolderCount>,
    /// The server id (1..32 of `a-z 0-9 _`); fixed when the directory is created. `None`: the stored one, or `<host>_<4 hex>`.
    pub server_id: Option<String>,
    /// The cluster name; fixed when the directory is created. `None`: the stored one or `hydra`.
    pub cluster: Option<String>,
    /// The folders this server owns. `None`: all that are not `standby`.
    pub owned: Option<FolderSet>,
    /// The folders this server keeps copies of.
    pub standby: FolderSet,
    /// Other machines hold copies of the folders here.
    pub copied: bool,
    /// Policy of swamps for which none is registered and none stands in their files.
    pub default_policy: Policy,
    /// How often a resident swamp of a copied folder looks for files that came from elsewhere. Default 1 s.
    pub foreign_poll: Duration,
    /// Threads that write and sync. Default 16.
    pub commit_threads: usize,
}
impl EngineOptions {
    /// Defaults for a directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> EngineOptions {
        let _ = data_dir.into();
        todo!()
    }
}

/// The storage engine over one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine(std::sync::Arc<()>);

impl Engine {
    /// Opens (or creates) a data directory and locks it.
    pub fn open(_options: EngineOptions) -> Result<Engine> {
        todo!()
    }
    /// The swamp if it can be used without touching the disk; never blocks longer than a lock.
    pub fn resident(&self, _name: &SwampName) -> Option<Swamp> {
        todo!()
    }
    /// The swamp, hydrated from disk if need be. May block on the disk. Creates nothing.
    pub fn hydrate(&self, _name: &SwampName) -> Result<Swamp> {
        todo!()
    }
    // Convenience for embedded use; all block.
    /// Reads one treasure.
    pub fn get(&self, _name: &SwampName, _key: &str) -> Result<Option<Treasure>> {
        todo!()
    }
    /// Stores one value, waits for the acknowledgement.
    pub fn put(&self, _name: &SwampName, _key: &str, _value: Value) -> Result<OpResult> {
        todo!()
    }
    /// Removes one key; whether it was there.
    pub fn delete(&self, _name: &SwampName, _key: &str) -> Result<bool> {
        todo!()
    }
    /// Adds to an integer.
    pub fn increment(&self, _name: &SwampName, _key: &str, _by: i64) -> Result<i64> {
        todo!()
    }
    /// Carries out a batch on one swamp.
    pub fn batch(&self, _name: &SwampName, _batch: Batch) -> Result<Committed> {
        let _ = Op::Get { key: String::new() };
        todo!()
    }
    /// Everything acknowledged so far is on disk when this returns. `folder`: only that folder.
    pub fn flush(&self, _folder: Option<FolderId>) -> Result<()> {
        todo!()
    }
    /// Flushes, closes all files, releases the directory. Idempotent.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
    /// Path of the data directory.
    pub fn data_dir(&self) -> &Path {
        todo!()
    }
    /// N.
    pub fn folder_count(&self) -> FolderCount {
        todo!()
    }
    /// Id of this server.
    pub fn server_id(&self) -> &str {
        todo!()
    }
    /// Cluster name.
    pub fn cluster(&self) -> &str {
        todo!()
    }
    /// What this server is to a folder.
    pub fn folder_state(&self, _folder: FolderId) -> FolderState {
        todo!()
    }
    /// Whether the folder is copied.
    pub fn is_copied(&self, _folder: FolderId) -> bool {
        todo!()
    }
    /// Counts swamps, files and bytes of a folder by walking it (blocks; for operators).
    pub fn folder_sizes(&self, _folder: FolderId) -> Result<FolderSizes> {
        todo!()
    }
    /// Registers a policy, durably. Answers whether the pattern was new.
    pub fn set_policy(&self, _pattern: Pattern, _policy: Policy) -> Result<bool> {
        todo!()
    }
    /// Forgets a policy, durably. Answers whether there was one.
    pub fn delete_policy(&self, _pattern: &Pattern) -> Result<bool> {
        todo!()
    }
    /// Every registered policy, most specific first.
    pub fn policies(&self) -> Vec<(Pattern, Policy)> {
        todo!()
    }
    /// Numbers for metrics; cheap.
    pub fn stats(&self) -> EngineStats {
        todo!()
    }
}

/// What a server is to a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FolderState {
    /// serves reads and writes
    Owned,
    /// keeps a copy; reads always, writes only for a client that falls back
    Standby,
    /// not here
    Absent,
}

/// Sizes of a folder on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolderSizes {
    /// swamps
    pub swamps: u64,
    /// files
    pub files: u64,
    /// bytes
    pub bytes: u64,
}

/// Numbers about a running engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// swamps in memory
    pub resident_swamps: u64,
    /// of them with unflushed writes
    pub dirty_swamps: u64,
    /// treasures in memory
    pub resident_bytes: u64,
    /// open append handles
    pub open_files: u64,
    /// hydrations since start
    pub hydrations: u64,
    /// evictions since start
    pub evictions: u64,
    /// fsyncs since start
    pub syncs: u64,
    /// acknowledged write operations since start
    pub writes: u64,
    /// reads since start
    pub reads: u64,
    /// damaged files met since start
    pub damaged_files: u64,
    /// files replaced, shortened or removed by someone else, met since start
    pub external_interference: u64,
    /// swamps that refuse writes now
    pub read_only_swamps: u64,
    /// free bytes of the file system
    pub free_bytes: u64,
}

/// A handle to a swamp in memory; while it lives the swamp is not evicted.
#[derive(Debug, Clone)]
pub struct Swamp(std::sync::Arc<()>);

impl Swamp {
    /// The name.
    pub fn name(&self) -> &SwampName {
        todo!()
    }
    /// The folder.
    pub fn folder(&self) -> FolderId {
        todo!()
    }
    /// Reads one treasure (never an expired one). Err `corrupt-swamp` / `incomplete-copy` if not found but a damaged/missing file may hold it.
    pub fn get(&self, _key: &str) -> Result<Option<Treasure>> {
        todo!()
    }
    /// Starts a batch. Never blocks longer than a lock. Err in the ticket: the whole batch was refused (e.g. `batch-aborted`, `idempotency-reuse`, `disk-full`).
    pub fn write(&self, _batch: Batch) -> Ticket<Result<Committed>> {
        todo!()
    }
    /// Treasures in order of their keys.
    pub fn list(&self, _query: &ListQuery) -> Result<Page> {
        todo!()
    }
    /// How many treasures there are, without expired ones.
    pub fn count(&self) -> u64 {
        todo!()
    }
    /// What is known about the swamp; `None` if it has no treasure and no file.
    pub fn info(&self) -> Option<SwampInfo> {
        todo!()
    }
    /// Everything acknowledged so far is on disk when the ticket is done.
    pub fn flush(&self) -> Ticket<Result<()>> {
        todo!()
    }
    /// Removes every treasure, and the files where the folder is not copied. Whether there was anything.
    pub fn destroy(&self) -> Ticket<Result<bool>> {
        todo!()
    }
    /// Whether all files of the swamp are here and whole.
    pub fn copy_state(&self) -> CopyState {
        todo!()
    }
}

/// Whether all files of a swamp are here and whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyState {
    /// yes
    Complete,
    /// a file refers to data that is not here (yet)
    Incomplete,
    /// a file is damaged
    Degraded,
}

/// What to list.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ListQuery {
    /// Only keys that start with this.
    pub prefix: Option<String>,
    /// Only keys after this one in the order of the list.
    pub after: Option<String>,
    /// From the last key to the first.
    pub descending: bool,
    /// At most so many. Default 100.
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Page {
    /// The treasures.
    pub treasures: Vec<Treasure>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// What is known about a swamp.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SwampInfo {
    /// The folder.
    pub folder: FolderId,
    /// Treasures without expired ones.
    pub count: u64,
    /// Bytes of its files on disk.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// Whether some acknowledged write is not on disk yet.
    pub dirty: bool,
    /// Its effective settings.
    pub policy: Policy,
    /// Where they come from: the pattern of a registered policy, `None` for the swamp's own files or the default.
    pub policy_from: Option<Pattern>,
    /// The oldest treasure's creation.
    pub created_at: Option<Timestamp>,
    /// State of the copy.
    pub copy_state: CopyState,
    /// Reports about damaged or missing files, one sentence each.
    pub findings: Vec<String>,
}
