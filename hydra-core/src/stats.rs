//! What the engine counts of itself.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the engine was opened.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) hydrations: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) damaged_files: AtomicU64,
    pub(crate) external_interference: AtomicU64,
    pub(crate) memory_evictions: AtomicU64,
    pub(crate) memory_refusals: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) collected_files: AtomicU64,
    pub(crate) collected_bytes: AtomicU64,
    pub(crate) sweeps: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Adds some.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Reads a count.
pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Stats {
    pub(crate) fn synced(&self) {
        count(&self.syncs);
    }

    /// Counts and reports that someone else touched a file of this server.
    pub(crate) fn interference(&self, path: &Path, what: &str) {
        count(&self.external_interference);
        tracing::error!(file = %path.display(), "a chunk of this server {what}; its records go to a new one");
    }
}
