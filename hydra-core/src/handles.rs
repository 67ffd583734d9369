//! Open files of chunks: counted, kept open only where that makes writes quicker, and closed when files are short.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::disk::DiskFile;

/// Files that are open for nothing, so that there is one to close when no more can be opened.
const SPARE: usize = 4;
/// How long an operation for which no file can be opened tries again.
const SHORT_AT_MOST: Duration = Duration::from_secs(2);
/// The pause between two tries.
const SHORT_AGAIN: Duration = Duration::from_millis(5);

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

/// How many files of chunks are open, and those that are kept so between writes.
#[derive(Debug)]
pub(crate) struct Handles {
    open: Arc<AtomicU64>,
    kept: Arc<Mutex<Shelf>>,
    most: usize,
    spare: Mutex<Vec<File>>,
    /// Whoever is short of files waits for the others who are.
    strait: Mutex<()>,
}

/// The kept files in the order of their last use.
#[derive(Debug, Default)]
struct Shelf {
    last: u64,
    files: BTreeMap<u64, Handle>,
}

/// Where the file of an open chunk is between two writes.
#[derive(Debug, Default)]
pub(crate) enum Place {
    /// Closed.
    #[default]
    Closed,
    /// With its chunk.
    Held(Handle),
    /// Kept, unless others needed the room.
    Kept(Ticket),
}

/// A place on the shelf, given up when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    number: u64,
    shelf: Arc<Mutex<Shelf>>,
}

impl Ticket {
    fn take(&self) -> Option<Handle> {
        self.shelf.lock().files.remove(&self.number)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Closed where no lock is held.
        drop(self.take());
    }
}

impl Place {
    /// The file, if it is still open.
    pub(crate) fn take(&mut self) -> Option<Handle> {
        match std::mem::take(self) {
            Place::Closed => None,
            Place::Held(handle) => Some(handle),
            Place::Kept(ticket) => ticket.take(),
        }
    }
}

impl Handles {
    /// Keeps at most half of what the process may open, and 16 384.
    pub(crate) fn new() -> Handles {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        Handles::keeping(usize::try_from(limit / 2).unwrap_or(usize::MAX).min(16_384))
    }

    fn keeping(most: usize) -> Handles {
        let handles = Handles {
            open: Arc::default(),
            kept: Arc::default(),
            most,
            spare: Mutex::default(),
            strait: Mutex::default(),
        };
        handles.refill();
        handles
    }

    /// Counts a file that was opened.
    pub(crate) fn hold(&self, file: Box<dyn DiskFile>) -> Handle {
        self.open.fetch_add(1, Ordering::Relaxed);
        Handle { file, _counted: Counted(Arc::clone(&self.open)) }
    }

    /// Keeps a file open when its swamp is synced at every write; the one that was used least lately makes room.
    pub(crate) fn keep(&self, handle: Handle, synced: bool) -> Place {
        if !synced || self.most == 0 {
            return Place::Closed;
        }
        let mut shelf = self.kept.lock();
        shelf.last += 1;
        let number = shelf.last;
        shelf.files.insert(number, handle);
        let oldest = if shelf.files.len() > self.most { shelf.files.pop_first() } else { None };
        drop(shelf);
        drop(oldest);
        Place::Kept(Ticket { number, shelf: Arc::clone(&self.kept) })
    }

    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many of them are kept.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.lock().files.len() as u64
    }

    /// Closes every kept file; their swamps open them again.
    pub(crate) fn close_kept(&self) {
        let files = std::mem::take(&mut self.kept.lock().files);
        drop(files);
    }

    /// Carries out what opens a file. When no more can be opened, others are closed and it is tried again.
    ///
    /// # Errors
    /// Those of `open`; that no file can be opened only after 2 s of it.
    pub(crate) fn with_room<T>(&self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut outcome = open();
        if !is_short(&outcome) {
            return outcome;
        }
        let until = Instant::now() + SHORT_AT_MOST;
        let Some(_turn) = self.strait.try_lock_until(until) else { return outcome };
        loop {
            self.close_kept();
            drop(self.spare.lock().pop());
            outcome = open();
            self.refill();
            if !is_short(&outcome) || Instant::now() >= until {
                return outcome;
            }
            std::thread::sleep(SHORT_AGAIN);
        }
    }

    fn refill(&self) {
        let mut spare = self.spare.lock();
        while spare.len() < SPARE {
            match File::open("/dev/null") {
                Ok(file) => spare.push(file),
                Err(_) => return,
            }
        }
    }
}

fn is_short<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().err().and_then(io::Error::raw_os_error).is_some_and(is_out_of_files)
}

/// Whether an error of the system says that this process or the machine can open no more files.
pub(crate) fn is_out_of_files(code: i32) -> bool {
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].iter().any(|errno| errno.raw_os_error() == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, RealDisk};

    fn handle(handles: &Handles, dir: &tempfile::TempDir, name: &str) -> Handle {
        handles.hold(RealDisk.create_new(&dir.path().join(name)).expect("created"))
    }

    #[test]
    fn the_file_used_least_lately_makes_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let handles = Handles::keeping(2);
        let mut first = handles.keep(handle(&handles, &dir, "1"), true);
        let mut second = handles.keep(handle(&handles, &dir, "2"), true);
        first = handles.keep(first.take().expect("kept"), true);
        let third = handles.keep(handle(&handles, &dir, "3"), true);
        assert!(second.take().is_none() && handles.open() == 2, "the second was used least lately");
        assert!(first.take().is_some());
        drop(third);
        assert_eq!((handles.open(), handles.kept()), (0, 0), "a chunk that is closed gives its place up");
        assert!(handles.keep(handle(&handles, &dir, "4"), false).take().is_none(), "with an interval none is kept");
    }

    #[test]
    fn without_files_kept_ones_are_closed_and_it_is_tried_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let handles = Handles::keeping(2);
        let _kept = handles.keep(handle(&handles, &dir, "1"), true);
        let mut tries = 0;
        let outcome = handles.with_room(|| {
            tries += 1;
            if tries < 3 { Err(io::Error::from_raw_os_error(24)) } else { Ok(tries) }
        });
        assert_eq!((outcome.expect("opened"), handles.kept()), (3, 0));
        let begun = Instant::now();
        let failed = handles.with_room(|| Err::<(), _>(io::Error::from_raw_os_error(23)));
        assert!(is_short(&failed) && begun.elapsed() >= SHORT_AT_MOST);
        let other = handles.with_room(|| Err::<(), _>(io::Error::from_raw_os_error(5)));
        assert_eq!(other.expect_err("another failure").raw_os_error(), Some(5));
    }
}
