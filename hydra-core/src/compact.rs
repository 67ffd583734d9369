//! Compaction: the whole state of a swamp in one snapshot, and what that may leave out.
//!
//! A snapshot stands for every file its vector covers; those are removed later (see
//! [`crate::collect`]). Compaction never runs on a swamp that is damaged or incomplete: a snapshot
//! would stand for what the missing part still holds elsewhere, and so bury it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::collect::FileContent;
use crate::conflict::Lost;
use crate::counter::Counter;
use crate::engine::CopyState;
use crate::error::{Error, ErrorCode, Result};
use crate::format::header::Header;
use crate::hashing::KeyHashing;
use crate::hidden::is_hidden;
use crate::hydrate::with_files;
use crate::layout::ChunkName;
use crate::log::{Pile, check_vector};
use crate::merge::Chunk;
use crate::policy::{Compression, Policy};
use crate::requests::KeyMemory;
use crate::slot::Slot;
use crate::snapshot::{self, SnapshotContent};
use crate::stamp::{Stamp, Timestamp};
use crate::state::State;
use crate::stats::count;
use crate::swamp::Resident;
use crate::vector::VersionVector;

/// How long the marks of deletes and expired treasures are kept where other copies may lag behind.
pub(crate) const MARKS_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// How long the vector of a swamp names a process of this server of which nothing is left.
const ENTRIES_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Of more entries than this the oldest of those go earlier.
const ENTRIES_MOST: usize = 256;
/// Less garbage than this is not worth a snapshot.
const GARBAGE_LEAST: u64 = 64 << 10;
/// So much garbage is worth a snapshot at any time.
const GARBAGE_MOST: u64 = 8 << 20;
/// More files than this are not left.
const FILES_MOST: u32 = 8;
/// With so many files a small swamp is compacted when it leaves memory.
const FILES_WHEN_LEAVING: u32 = 3;
/// A swamp of fewer bytes is small.
const SMALL: u64 = 1 << 20;
/// A swamp is not compacted more often than this, unless there is much garbage.
const PAUSE: Duration = Duration::from_secs(60);

/// When a snapshot was last tried, and how that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastCompaction {
    at: Instant,
    failed: bool,
}

/// What a snapshot has to keep although nobody can see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) now: Timestamp,
    /// Marks of deletes up to this old are kept; zero keeps none.
    pub(crate) tombstones: Duration,
    /// Treasures are kept for so long after they expired.
    pub(crate) expired: Duration,
}

impl Retention {
    /// Where no other machine has copies, nothing that is deleted here can come back from elsewhere.
    pub(crate) fn of(policy: &Policy, is_copied: bool, now: Timestamp) -> Retention {
        let (tombstones, expired) = if is_copied {
            (MARKS_KEPT, policy.expired_keep.max(MARKS_KEPT))
        } else {
            (Duration::ZERO, policy.expired_keep)
        };
        Retention { now, tombstones, expired }
    }

    /// Whether a record is left out. One that increments name stays: without it they would not count. So does one that
    /// stands above what came loose: without it that would show again, as long as the file which holds it is here.
    fn leaves_out(&self, state: &State, slot: &Slot) -> bool {
        let over = |at: Timestamp, kept: Duration| {
            at.as_millis().saturating_add(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)) <= self.now.as_millis()
        };
        let is_over = match (slot.is_tombstone(), slot.expires()) {
            (true, _) => over(slot.stamp().timestamp(), self.tombstones),
            // Nobody can look at a hidden key that has expired, so it is kept no longer than what is deleted.
            (false, Some(at)) if is_hidden(slot.key_bytes()) => over(at, self.tombstones),
            (false, Some(at)) => over(at, self.expired),
            (false, None) => false,
        };
        is_over && !state.has_counter(slot.key()) && !state.has_loose(slot.key())
    }

    /// The keys whose records a snapshot of this state leaves out.
    pub(crate) fn left_out(&self, state: &State) -> Vec<Slot> {
        state.slots().filter(|slot| self.leaves_out(state, slot)).cloned().collect()
    }
}

/// What keeps an entry in the vector of a snapshot.
pub(crate) struct EntryRules<'a> {
    /// Whether a process of this server had this incarnation.
    pub(crate) is_mine: &'a dyn Fn(u64) -> bool,
    /// The incarnation of the process that asks.
    pub(crate) running: u64,
    /// Whether a file or a record is here that the entry speaks of.
    pub(crate) is_needed: &'a dyn Fn(u64) -> bool,
}

/// The entries of a vector that the next snapshot need not hand on: those of this server's own processes of
/// which nothing is left and whose last record is old; of more than a handful the oldest, whatever their age.
///
/// The latest entry stays: from it the clock of the next process goes on.
pub(crate) fn retired(vector: &VersionVector, rules: &EntryRules<'_>, now: Timestamp) -> VersionVector {
    let latest = vector.max_hlc();
    let kept = u64::try_from(ENTRIES_KEPT.as_millis()).unwrap_or(u64::MAX);
    let is_old = |hlc: u64| (hlc >> 16).saturating_add(kept) <= now.as_millis();
    let is_free = |&(incarnation, hlc): &(u64, u64)| {
        hlc < latest && incarnation != rules.running && (rules.is_mine)(incarnation) && !(rules.is_needed)(incarnation)
    };
    let mut free: Vec<(u64, u64)> = vector.iter().filter(is_free).collect();
    free.sort_unstable_by_key(|&(_, hlc)| hlc);
    let over = vector.len().saturating_sub(ENTRIES_MOST);
    free.into_iter().enumerate().filter(|&(at, (_, hlc))| at < over || is_old(hlc)).map(|(_, entry)| entry).collect()
}

/// The incarnations of which there is a file here, a copy of a record, or a snapshot cut short that asks for them.
pub(crate) fn named_by_files<'a>(
    names: impl Iterator<Item = &'a ChunkName>,
    chunks: &[Chunk<'_>],
) -> HashSet<u64, KeyHashing> {
    let mut named: HashSet<u64, KeyHashing> = names.map(|name| name.incarnation).collect();
    for chunk in chunks {
        match FileContent::of(chunk) {
            FileContent::Log { adopted, .. } => named.extend(adopted.iter().map(|stamp| stamp.incarnation)),
            FileContent::Unfinished => {
                named.extend(chunk.scan.header.vector.iter().map(|(incarnation, _)| incarnation))
            }
            FileContent::Nothing | FileContent::Snapshot { .. } => {}
        }
    }
    named
}

/// What a swamp holds at one moment, for a snapshot: writes go on while it is encoded and written.
#[derive(Debug)]
pub(crate) struct Capture {
    slots: Vec<Slot>,
    counters: Vec<(Box<str>, Counter)>,
    requests: Vec<(u128, KeyMemory)>,
    conflicts: Vec<Lost>,
    vector: VersionVector,
}

impl Capture {
    /// Everything but what is left out. Values are shared, so it takes little time and memory.
    pub(crate) fn of(state: &State, left_out: &[Slot], now: Timestamp) -> Capture {
        let left_out: HashSet<Stamp> = left_out.iter().map(Slot::stamp).collect();
        let stays = |slot: &&Slot| left_out.is_empty() || !left_out.contains(&slot.stamp());
        Capture {
            slots: state.slots().filter(stays).cloned().collect(),
            counters: state.counters().map(|(key, counter)| (key.into(), counter.clone())).collect(),
            requests: state.requests().iter().map(|(key, memory)| (key, memory.clone())).collect(),
            conflicts: state.conflicts(now).cloned().collect(),
            vector: state.vector.clone(),
        }
    }

    /// The bytes of the snapshot. `mark` is a fresh stamp of the writer, needed whenever something was left out,
    /// or is retired of the vector.
    pub(crate) fn encode(
        &self,
        header: Header,
        mark: Option<Stamp>,
        retired: &VersionVector,
        compression: Compression,
    ) -> Vec<u8> {
        let content = SnapshotContent {
            writes: self.slots.iter().map(|slot| (slot.stamp(), slot.write())).collect(),
            counters: self.counters.iter().map(|(key, counter)| (&**key, counter)).collect(),
            requests: self.requests.iter().map(|(key, memory)| (*key, memory)).collect(),
            conflicts: self.conflicts.iter().collect(),
            vector: &self.vector,
        };
        snapshot::encode_marked(header, content, mark, retired, compression)
    }
}

/// Whether a swamp whose live files are `pile`, of which about `needed` bytes are needed, is worth a snapshot.
fn is_worth_it(pile: &Pile, needed: u64, leaving: bool) -> bool {
    let garbage = pile.bytes.saturating_sub(needed);
    let much = garbage > GARBAGE_LEAST && garbage > pile.bytes / 2;
    much || pile.files > FILES_MOST || (leaving && pile.files >= FILES_WHEN_LEAVING && pile.bytes < SMALL)
}

impl Resident {
    /// Whether compaction is worth its while now; with `leaving` before the swamp leaves memory.
    pub(crate) fn is_compaction_due(&self, leaving: bool) -> bool {
        // Somebody writes: there will be another occasion.
        let Some((pile, last)) = self.log.try_lock().map(|log| (log.pile, log.last_compaction)) else { return false };
        let (needed, is_whole, is_empty) = {
            let state = self.state.read();
            (state.encoded_estimate() as u64, state.copy == CopyState::Complete, state.is_empty())
        };
        let is_early = last.is_some_and(|last| {
            last.at.elapsed() < PAUSE && (last.failed || pile.bytes.saturating_sub(needed) < GARBAGE_MOST)
        });
        // A copy kept for others is compacted by them, unless this server wrote to it.
        let is_others = self.shared.folders.is_standby(self.folder()) && pile.own_logs == 0;
        // Where others have copies, a swamp without treasures is left as one snapshot that says so.
        let is_remnant = leaving && is_empty && pile.logs > 0 && self.shared.folders.is_copied(self.folder());
        is_whole
            && !is_early
            && !is_others
            && (is_remnant || is_worth_it(&pile, needed, leaving))
            && self.shared.space.check(&self.shared.root, needed).is_ok()
    }

    /// Whether a snapshot would leave out treasures that expired long ago.
    pub(crate) fn has_expired_records(&self) -> bool {
        let (policy, _) = self.settings();
        let retention = Retention::of(&policy, self.keeps_marks(), Timestamp::now());
        let state = self.state.read();
        state.copy == CopyState::Complete
            && state.slots().any(|slot| !slot.is_tombstone() && retention.leaves_out(&state, slot))
    }

    /// Writes a snapshot; answers whether there was anything to gain. Buffered writes go on meanwhile, unless
    /// something is left out: what builds on that has to know that it is gone, and what is on its way to the disk
    /// must not come after the mark that says so. Then the answer is `None`, and it is to be asked again `alone`.
    pub(crate) fn compact(&self, policy: &Policy, alone: bool) -> Result<Option<bool>> {
        let shared = &self.shared;
        let retention = Retention::of(policy, self.keeps_marks(), Timestamp::now());
        let retired = self.retired(retention.now)?;
        let desk = self.desk.lock();
        let mut log = self.log.lock();
        log.last_compaction = Some(LastCompaction { at: Instant::now(), failed: true });
        let mut state = self.state.write();
        check_whole(&state)?;
        check_vector(&state.vector)?;
        state.requests_mut().purge(retention.now);
        let left_out = retention.left_out(&state);
        if left_out.is_empty() && log.pile.files <= 1 && log.pile.logs == 0 {
            return Ok(Some(false));
        }
        let mark = match left_out.is_empty() && retired.is_empty() {
            true => None,
            false if !alone => return Ok(None),
            false => {
                let hlc = shared.clock.next(retention.now, state.max_hlc)?;
                Some(Stamp { hlc, incarnation: shared.root.incarnation })
            }
        };
        // It is on its way for longer than a look at what is free holds.
        let _room = shared.space.reserve(&shared.root, state.encoded_estimate())?;
        let capture = Capture::of(&state, &left_out, retention.now);
        drop((state, desk));
        log.seal(shared);
        if log.is_touched() {
            return self.write_everything_again(policy, &mut log).map(|()| Some(true));
        }
        log.write_snapshot(shared, |log, name| {
            capture.encode(
                log.header(shared, name, policy, VersionVector::default()),
                mark,
                &retired,
                policy.compression,
            )
        })?;
        let mut state = self.state.write();
        state.tails.are_covered();
        left_out.iter().for_each(|slot| state.forget(slot));
        // What is written from now on does not name them, or it would wait for them once the older files are gone.
        retired.iter().for_each(|(incarnation, _)| state.vector.forget(incarnation));
        self.account(&state, 0);
        if let Some(mark) = mark {
            state.vector.learn(mark);
            state.max_hlc = state.max_hlc.max(mark.hlc);
            // Logs begun from now on name the mark: they rely on what was left out being gone.
            log.durable_hlc = log.durable_hlc.max(mark.hlc);
        }
        drop(state);
        log.last_compaction = Some(LastCompaction { at: Instant::now(), failed: false });
        drop(log);
        count(&shared.stats.compactions);
        shared.collector.expect(shared, self.name());
        Ok(Some(true))
    }

    /// The entries of the vector that the next snapshot retires.
    ///
    /// None where others write or may have copies: how old an entry is does not tell how long its file has been
    /// gone from here, and so not whether a copy elsewhere still has that, or still names it in what it writes.
    fn retired(&self, now: Timestamp) -> Result<VersionVector> {
        let root = &self.shared.root;
        let among = |vector: &VersionVector, is_needed: &dyn Fn(u64) -> bool| {
            let is_mine = |incarnation| root.is_mine(incarnation);
            retired(vector, &EntryRules { is_mine: &is_mine, running: root.incarnation, is_needed }, now)
        };
        if self.keeps_marks() {
            return Ok(VersionVector::default());
        }
        let vector = self.state.read().vector.clone();
        if among(&vector, &|_| false).is_empty() {
            return Ok(VersionVector::default());
        }
        let held = self.state.read().incarnations();
        if among(&vector, &|incarnation| held.contains(&incarnation)).is_empty() {
            return Ok(VersionVector::default());
        }
        with_files(&self.shared, self.name(), self.folder(), |files| {
            let is_as_known = files.copy == CopyState::Complete
                && !files.is_newer
                && files.merged.vector.is_within(&vector)
                && files.names.iter().all(|name| root.is_mine(name.incarnation));
            let named = named_by_files(files.names.iter(), files.chunks);
            let is_needed = |incarnation| !is_as_known || held.contains(&incarnation) || named.contains(&incarnation);
            among(&vector, &is_needed)
        })
    }

    /// Whether marks of deletes are needed: somebody else writes this swamp or may have a copy of it.
    fn keeps_marks(&self) -> bool {
        let writers_are_all_mine =
            || self.state.read().vector.iter().all(|(incarnation, _)| self.shared.root.is_mine(incarnation));
        self.shared.folders.is_copied(self.folder()) || !writers_are_all_mine()
    }
}

fn check_whole(state: &State) -> Result<()> {
    let why = match state.copy {
        CopyState::Complete => return Ok(()),
        CopyState::Incomplete => "a file of it is not here yet",
        CopyState::Degraded => "a file of it is damaged",
    };
    let code = if state.copy == CopyState::Degraded { ErrorCode::CorruptSwamp } else { ErrorCode::IncompleteCopy };
    Err(Error::new(code, format!("the swamp cannot be compacted: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: u64 = 1;
    const FOREIGN: u64 = 9_999;
    const DAY_MS: u64 = 86_400_000;

    fn left(entries: impl IntoIterator<Item = (u64, u64)>, needed: &[u64], now_ms: u64) -> Vec<u64> {
        let vector = entries.into_iter().map(|(incarnation, ms)| (incarnation, ms << 16)).collect();
        let is_needed = |incarnation: u64| needed.contains(&incarnation);
        let rules =
            EntryRules { is_mine: &|incarnation| incarnation != FOREIGN, running: RUNNING, is_needed: &is_needed };
        retired(&vector, &rules, Timestamp::from_millis(now_ms)).iter().map(|(incarnation, _)| incarnation).collect()
    }

    #[test]
    fn entries_are_retired_when_they_are_old_and_nothing_needs_them() {
        let entries = [(RUNNING, 1), (2, 1), (3, 2), (FOREIGN, 1), (5, 40 * DAY_MS)];
        assert_eq!(left(entries, &[], 30 * DAY_MS), [0; 0], "a millisecond too young");
        assert_eq!(left(entries, &[], 30 * DAY_MS + 1), [2], "neither this process nor another server's");
        assert_eq!(left(entries, &[2], 30 * DAY_MS + 2), [3]);
        assert_eq!(left(entries, &[2, 3], 30 * DAY_MS + 2), [0; 0]);
        assert_eq!(left(entries, &[], 900 * DAY_MS), [2, 3], "the clock goes on from the latest");
    }

    #[test]
    fn of_too_many_entries_the_oldest_that_nothing_needs_go_first() {
        let many = |count: u64| (0..count).map(|at| (10 + at, 1_000 - at));
        assert_eq!(left(many(256), &[], 0), [0; 0]);
        assert_eq!(left(many(258), &[], 0), [266, 267]);
        assert_eq!(left(many(258), &[266], 0), [265, 267]);
        let all: Vec<u64> = (10..300).collect();
        assert_eq!(left(many(258), &all, 0), [0; 0], "what is needed stays, however much it is");
    }
}
