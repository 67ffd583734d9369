//! Open files of chunks: counted, and kept open only where that makes writes quicker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::DiskFile;

/// An open file; counted until dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) file: Box<dyn DiskFile>,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many files of chunks are open, and how many may stay so.
#[derive(Debug)]
pub(crate) struct Handles {
    open: Arc<AtomicU64>,
    most: u64,
}

impl Handles {
    /// At most half of what the process may open, and 16 384.
    pub(crate) fn new() -> Handles {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        Handles { open: Arc::default(), most: (limit / 2).min(16_384) }
    }

    /// Counts a file that was opened.
    pub(crate) fn hold(&self, file: Box<dyn DiskFile>) -> Handle {
        self.open.fetch_add(1, Ordering::Relaxed);
        Handle { file, _counted: Counted(Arc::clone(&self.open)) }
    }

    /// Keeps a file open when its swamp is synced at every write and there is room for it.
    pub(crate) fn keep(&self, handle: Handle, synced: bool) -> Option<Handle> {
        (synced && self.open() <= self.most).then_some(handle)
    }

    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}
