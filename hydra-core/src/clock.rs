//! The clock of a process: stamps that only grow, also across restarts and when the machine's clock jumps back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

use crate::error::{ErrorCode, Result};
use crate::root::replace_file;
use crate::space::Ballast;
use crate::stamp::Timestamp;

/// How far ahead of the stamps given out the ceiling on disk is set. After a kill stamps go on from there, so
/// until the machine's clock has caught up, writes here win against those made elsewhere a little later.
const AHEAD_MS: u64 = 5_000;
/// How far above a clock that is already ahead of the machine's.
const STEP_MS: u64 = 1_000;

/// Milliseconds on a clock that never goes back, late by up to a tick of the kernel (1 to 10 ms): several times cheaper
/// to read than [`std::time::Instant`], for what is asked with every request and need not be exact. Where it begins is
/// not said; what differs between two readings is time.
pub fn coarse_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// Gives out clock values. Values above the ceiling on disk are never given out, so a restart that
/// begins at the ceiling never repeats one.
#[derive(Debug)]
pub(crate) struct Clock {
    last: AtomicU64,
    ceiling_ms: AtomicU64,
    file: Mutex<PathBuf>,
    ballast: Arc<Ballast>,
}

impl Clock {
    /// Goes on where the process before this one may have stopped.
    pub(crate) fn open(file: PathBuf, ballast: Arc<Ballast>) -> Clock {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let ceiling_ms = text.trim().parse().unwrap_or(0);
        let start = Timestamp::now().as_millis().max(ceiling_ms);
        let (last, ceiling_ms) = (AtomicU64::new(start << 16), AtomicU64::new(ceiling_ms));
        Clock { last, ceiling_ms, file: Mutex::new(file), ballast }
    }

    /// A value above every one given out before, above `floor`, and not below `now`, which the caller has just
    /// read from the machine's clock.
    ///
    /// # Errors
    /// When the ceiling has to be raised on disk and cannot be.
    pub(crate) fn next(&self, now: Timestamp, floor: u64) -> Result<u64> {
        let now = now.as_millis() << 16;
        let above = |last: u64| now.max(last + 1).max(floor + 1);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = above(last);
            if next >> 16 >= self.ceiling_ms.load(Ordering::Acquire) {
                self.raise_ceiling(next >> 16)?;
            }
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(next),
                Err(changed) => last = changed,
            }
        }
    }

    fn raise_ceiling(&self, wanted_ms: u64) -> Result<()> {
        let file = self.file.lock();
        if wanted_ms < self.ceiling_ms.load(Ordering::Acquire) {
            return Ok(());
        }
        let ceiling = (Timestamp::now().as_millis() + AHEAD_MS).max(wanted_ms + STEP_MS);
        self.write(&file, ceiling)?;
        self.ceiling_ms.store(ceiling, Ordering::Release);
        Ok(())
    }

    /// Lowers the ceiling to what was given out; for a clean stop, after which nothing is given out.
    pub(crate) fn close(&self) -> Result<()> {
        let file = self.file.lock();
        if self.ceiling_ms.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let ceiling = (self.last.load(Ordering::Relaxed) >> 16) + 1;
        self.write(&file, ceiling)
    }

    /// Also on a full disk, or deletes and flushes could not go on there.
    fn write(&self, file: &Path, ceiling: u64) -> Result<()> {
        let text = format!("{ceiling}\n");
        match replace_file(file, text.as_bytes()) {
            Err(error) if error.code() == ErrorCode::DiskFull && self.ballast.release() => {
                replace_file(file, text.as_bytes())
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(file: PathBuf) -> Clock {
        Clock::open(file, Arc::new(Ballast::open("no/ballast".into(), 0)))
    }

    #[test]
    fn values_grow_across_restarts_without_running_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("clock");
        let first = open(file.clone()).next(Timestamp::now(), 0).expect("a value");
        let mut last = first;
        for _ in 0..50 {
            let next = open(file.clone()).next(Timestamp::now(), 0).expect("a value");
            assert!(next > last, "a crash never repeats a value");
            last = next;
        }
        let ahead_ms = (last >> 16) - Timestamp::now().as_millis();
        assert!(ahead_ms <= AHEAD_MS + 51 * STEP_MS, "{ahead_ms} ms ahead after 50 crashes");
    }

    #[test]
    fn a_clean_stop_keeps_no_distance() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("clock");
        let clock = open(file.clone());
        let last = clock.next(Timestamp::now(), 0).expect("a value");
        clock.close().expect("closed");
        let next = open(file).next(Timestamp::now(), 0).expect("a value");
        assert!(next > last && (next - last) >> 16 < 5_000);
        assert!(
            clock.next(Timestamp::now(), u64::from(u32::MAX) << 32).expect("above the floor")
                > u64::from(u32::MAX) << 32
        );
    }
}
