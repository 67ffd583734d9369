//! Syncs of the whole file system, shared by the swamps that are due at once.
//!
//! A sync of one new file costs a disk about as much as a sync of everything. So when many swamps wait for
//! the commit threads, those threads do not sync their files one by one: while one of them syncs the file
//! system the others append, and the next such sync is for all of them.
//!
//! A file system tells each of its open descriptors once that something could not be written, not of which
//! file. One descriptor, open for as long as the engine, hears of every error; whoever had begun to append
//! before it heard of one takes that for his own.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use crate::clock::coarse_ms;
use crate::disk::FileSystem;

/// A sync of everything that takes longer has other programs' data to write: for a while files are synced by
/// themselves again.
const SLOW: Duration = Duration::from_millis(100);
const SLOW_FOR: Duration = Duration::from_secs(5);

/// For an error without a number of the system's.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Makes what was appended durable, for many at once.
pub(crate) struct Syncs {
    file_system: Box<dyn FileSystem>,
    /// How many errors the file system told of, and the last.
    failures: AtomicU64,
    error: AtomicI32,
    /// On the clock of [`coarse_ms`].
    slow_until: AtomicU64,
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    begun: u64,
    ended: u64,
}

/// Noted before the first byte of an append: errors from then on may be about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intent {
    failures: u64,
}

impl Syncs {
    pub(crate) fn new(file_system: Box<dyn FileSystem>) -> Syncs {
        Syncs {
            file_system,
            failures: AtomicU64::new(0),
            error: AtomicI32::new(EIO),
            slow_until: AtomicU64::new(0),
            rounds: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    pub(crate) fn intend(&self) -> Intent {
        Intent { failures: self.failures.load(Ordering::Acquire) }
    }

    /// Whether a sync of everything can be relied upon and takes no longer than it should.
    pub(crate) fn is_worth_it(&self) -> bool {
        self.file_system.reports_errors() && self.slow_until.load(Ordering::Relaxed) <= coarse_ms()
    }

    /// Makes everything durable that was written before the call; answers whether this caller did it, for all.
    ///
    /// # Errors
    /// When anything that was written to the file system since `intent` may be lost.
    pub(crate) fn sync_all(&self, intent: Intent) -> io::Result<bool> {
        let led = self.take_part();
        match self.failures.load(Ordering::Acquire) == intent.failures {
            true => Ok(led),
            false => Err(io::Error::from_raw_os_error(self.error.load(Ordering::Acquire))),
        }
    }

    /// Returns when a round that began after the call has ended. Who finds none running runs it.
    fn take_part(&self) -> bool {
        let mut rounds = self.rounds.lock();
        let mine = rounds.begun + 1;
        while rounds.begun > rounds.ended {
            self.ended.wait(&mut rounds);
            if rounds.ended >= mine {
                return false;
            }
        }
        rounds.begun += 1;
        drop(rounds);
        self.sync();
        self.rounds.lock().ended += 1;
        self.ended.notify_all();
        true
    }

    fn sync(&self) {
        let began = Instant::now();
        if let Err(error) = self.file_system.sync() {
            tracing::error!(%error, "the file system could not write something");
            self.error.store(error.raw_os_error().unwrap_or(EIO), Ordering::Release);
            self.failures.fetch_add(1, Ordering::AcqRel);
        }
        if began.elapsed() > SLOW {
            self.slow_until.store(coarse_ms() + SLOW_FOR.as_millis() as u64, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Syncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncs").field("failures", &self.failures).field("rounds", &self.rounds).finish()
    }
}
