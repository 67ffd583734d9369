//! The sweep: now and then a walk over all folders, one swamp at a time, that compacts, collects and
//! drops what has expired. It takes at most a fifth of one core, and nothing while it is not due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::collect::{Removed, collect};
use crate::engine::{Collected, Compacted, CopyState};
use crate::error::Result;
use crate::folder::FolderId;
use crate::layout;
use crate::name::SwampName;
use crate::shared::Shared;
use crate::stats::count;
use crate::swamp::{Job, Resident};
use crate::walk;

/// After work the sweep rests for this many times as long as the work took.
const REST: u32 = 4;
/// The longest the sweep sleeps before it looks whether the engine is closing.
const NAP: Duration = Duration::from_millis(50);

/// The thread of the sweep, while there is one.
#[derive(Debug, Default)]
pub(crate) struct Sweeper(Mutex<Option<JoinHandle<()>>>);

impl Sweeper {
    /// Begins a sweep after `wait` and again every `interval`; never when that is zero.
    pub(crate) fn schedule(shared: &Arc<Shared>, wait: Duration, interval: Duration) {
        if interval.is_zero() {
            return;
        }
        let weak = Arc::downgrade(shared);
        shared.timer.at(Instant::now() + wait, move || {
            let Some(shared) = weak.upgrade() else { return };
            Sweeper::schedule(&shared, interval, interval);
            shared.sweeper.start(&shared);
        });
    }

    fn start(&self, shared: &Arc<Shared>) {
        let mut thread = self.0.lock();
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            tracing::warn!("the last sweep is not done yet; this one is left out");
            return;
        }
        let swept = Arc::clone(shared);
        match std::thread::Builder::new().name("hydra-sweep".into()).spawn(move || sweep(&swept, REST)) {
            Ok(started) => *thread = Some(started),
            Err(error) => tracing::error!(%error, "the sweep could not be started; the next one is tried in time"),
        }
    }

    /// Waits for the swamp that is being looked at.
    pub(crate) fn close(&self) {
        if let Some(thread) = self.0.lock().take() {
            // A thread that panicked has reported so; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// Walks all folders; rests after each swamp for `rests` times as long as it took.
pub(crate) fn sweep(shared: &Arc<Shared>, rests: u32) {
    let began = Instant::now();
    let mut removed = Removed::default();
    // What is coming is not whole, and what has left is another server's.
    for folder in shared.root.folders.all().iter().filter(|&folder| !shared.folders.is_elsewhere(folder)) {
        let each = |name: &SwampName| {
            let began = Instant::now();
            match tidy(shared, name) {
                Ok(more) => removed.add(more),
                Err(error) => tracing::warn!(swamp = %name, %error, "the sweep could not tidy a swamp"),
            }
            rest(shared, began.elapsed() * rests)
        };
        if let Err(error) = each_swamp(shared, folder, each) {
            tracing::warn!(%folder, %error, "the sweep could not walk a folder");
        }
        if shared.closing.load(Ordering::Acquire) {
            return;
        }
    }
    count(&shared.stats.sweeps);
    tracing::info!(files = removed.files, bytes = removed.bytes, seconds = began.elapsed().as_secs(), "swept");
}

/// Sleeps unless the engine is closing; answers whether to go on.
fn rest(shared: &Shared, time: Duration) -> bool {
    let until = Instant::now() + time;
    while !shared.closing.load(Ordering::Acquire) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(NAP));
    }
    false
}

/// Calls `each` with every swamp of a folder until it answers `false`.
fn each_swamp(shared: &Shared, folder: FolderId, mut each: impl FnMut(&SwampName) -> bool) -> Result<()> {
    let dir = shared.root.path.join(layout::folder_dir(folder));
    let mut go_on = true;
    walk::swamps(&dir, &mut |swamp, chunks| {
        if go_on && let Some(name) = walk::name_of(swamp, chunks)? {
            let home = layout::swamp_path(&shared.root.path, folder, &name);
            // A directory that was put where it does not belong is left alone; `verify` reports it.
            go_on = home != swamp || each(&name);
        }
        Ok(())
    })
}

/// Compacts a swamp if that is worth it and collects what is superseded. One that was not in memory leaves it again.
fn tidy(shared: &Arc<Shared>, name: &SwampName) -> Result<Removed> {
    let was_resident = shared.residents.get(name).is_some();
    let resident = shared.residents.get_or_hydrate(shared, name)?;
    if resident.is_compaction_due(true) || resident.has_expired_records() {
        resident.ask(Job::compact).wait()?;
    }
    if !was_resident {
        leave_memory(shared, &resident);
    }
    drop(resident);
    collect(shared, name, shared.gc_delay)
}

/// Evicts a swamp that came into memory only to be tidied. Its leader may need a moment to be done; if
/// that takes longer, the swamp leaves when it has been idle.
fn leave_memory(shared: &Shared, resident: &Arc<Resident>) {
    for _ in 0..20 {
        if shared.residents.evict(resident, Resident::leave) {
            count(&shared.stats.evictions);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Compacts every swamp of a folder that gains by it, now.
pub(crate) fn compact_folder(shared: &Arc<Shared>, folder: FolderId) -> Result<Compacted> {
    let mut total = Compacted::default();
    let mut outcome = Ok(());
    each_swamp(shared, folder, |name| {
        outcome = compact_one(shared, name, &mut total);
        outcome.is_ok() && !shared.closing.load(Ordering::Acquire)
    })?;
    outcome.map(|()| total)
}

fn compact_one(shared: &Arc<Shared>, name: &SwampName, total: &mut Compacted) -> Result<()> {
    let dir = layout::swamp_path(&shared.root.path, crate::folder::folder_of(name, shared.root.folders), name);
    let was_resident = shared.residents.get(name).is_some();
    let resident = shared.residents.get_or_hydrate(shared, name)?;
    let (files, bytes) = size(&dir)?;
    if resident.state.read().copy == CopyState::Complete && resident.ask(Job::compact).wait()? {
        let (files_now, bytes_now) = size(&dir)?;
        total.swamps += 1;
        total.files_before += files;
        total.files_after += files_now;
        total.bytes_before += bytes;
        total.bytes_after += bytes_now;
    }
    if !was_resident {
        leave_memory(shared, &resident);
    }
    Ok(())
}

fn size(dir: &std::path::Path) -> Result<(u64, u64)> {
    let chunks = walk::chunks(dir)?;
    Ok((chunks.len() as u64, chunks.iter().map(|(_, length)| length).sum()))
}

/// Removes every superseded file of a folder, now.
pub(crate) fn collect_folder(shared: &Arc<Shared>, folder: FolderId) -> Result<Collected> {
    let mut total = Collected::default();
    let mut outcome = Ok(());
    each_swamp(shared, folder, |name| {
        outcome = collect(shared, name, shared.gc_delay).map(|removed| {
            total.swamps += u64::from(removed.files > 0);
            total.files_removed += removed.files;
            total.bytes_removed += removed.bytes;
        });
        outcome.is_ok() && !shared.closing.load(Ordering::Acquire)
    })?;
    outcome.map(|()| total)
}
