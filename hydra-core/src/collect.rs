//! Collection: removing files that a snapshot stands for, once every copy had time to fetch it.
//!
//! What may go is a pure function of facts about the files ([`superseded`]). A file goes only when a
//! whole snapshot in the same directory knows all it holds, that snapshot has been here for a while,
//! and the one who wrote the file can have no more to say: it is this server's own and closed, or its
//! owner has superseded it itself. Deleting another server's file too early would travel to it with
//! the next sync, and take its newest records along.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;

use crate::disk::Identity;
use crate::error::{Error, Result};
use crate::folder::{FolderId, folder_of};
use crate::format::record::Record;
use crate::hydrate::{Files, with_files};
use crate::layout::{ChunkKind, ChunkName, swamp_path};
use crate::merge::Chunk;
use crate::name::SwampName;
use crate::shared::Shared;
use crate::stamp::Stamp;
use crate::stats::add;
use crate::vector::VersionVector;

/// How long the snapshot of a swamp without treasures stays where others may have copies of it.
pub(crate) const REMNANT_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// After so long a file of another server goes although its owner has not superseded it.
const FOREIGN_KEPT: Duration = REMNANT_KEPT;

/// What collection has to know of one file.
#[derive(Debug)]
pub(crate) struct FileFacts {
    pub(crate) name: ChunkName,
    pub(crate) content: FileContent,
    /// Closed with a footer.
    pub(crate) is_sealed: bool,
    /// Since it came to be here, or last grew.
    pub(crate) age: Duration,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) enum FileContent {
    /// Its creation was cut short; it never held anything.
    Nothing,
    /// A snapshot that was never finished.
    Unfinished,
    /// A log: its writer's last record, if it has one, and records of others in it.
    Log { last: Option<Stamp>, adopted: BTreeSet<Stamp> },
    /// A snapshot: what it knows, what it holds beyond that, and what it knew and does not hand on.
    Snapshot { vector: VersionVector, beyond: BTreeSet<Stamp>, retired: VersionVector },
}

impl FileContent {
    /// What a chunk holds.
    pub(crate) fn of(chunk: &Chunk<'_>) -> FileContent {
        if !chunk.scan.is_valid() {
            return FileContent::Unfinished;
        }
        let records = (0..chunk.frame_count()).flat_map(|index| chunk.frame(index).1);
        match chunk.name.kind {
            ChunkKind::Log => FileContent::of_log(records),
            ChunkKind::Snap => FileContent::of_snapshot(chunk, records),
        }
    }

    fn of_log<'a>(records: impl Iterator<Item = Record<'a>>) -> FileContent {
        let (mut last, mut adopted) = (None, BTreeSet::new());
        for record in records {
            match record {
                Record::Write { stamp, .. } => last = last.max(Some(stamp)),
                Record::Adopted { stamp, .. } => {
                    adopted.insert(stamp);
                }
                Record::Sync(_) | Record::Counter(_) | Record::Key(_) | Record::Conflict(_) => {}
            }
        }
        FileContent::Log { last, adopted }
    }

    fn of_snapshot<'a>(chunk: &Chunk<'_>, records: impl Iterator<Item = Record<'a>>) -> FileContent {
        let vector = chunk.vector();
        let beyond = records.filter_map(|record| match record {
            Record::Write { stamp, .. } | Record::Adopted { stamp, .. } if !vector.saw(stamp) => Some(stamp),
            _ => None,
        });
        FileContent::Snapshot { beyond: beyond.collect(), vector: vector.clone(), retired: chunk.retired() }
    }
}

impl FileFacts {
    /// Whether this snapshot stands for all that the file holds. Two never stand for each other.
    pub(crate) fn covers(&self, file: &FileFacts) -> bool {
        let FileContent::Snapshot { vector, beyond, retired } = &self.content else { return false };
        let knows = |stamp: &Stamp| vector.saw(*stamp) || beyond.contains(stamp);
        match &file.content {
            FileContent::Log { last, adopted } => last.iter().all(knows) && adopted.iter().all(knows),
            FileContent::Snapshot { vector: older, beyond: loose, .. } => {
                let is_equal = vector.is_within(older) && loose.len() == beyond.len();
                is_succeeded(older, vector, retired)
                    && loose.iter().all(knows)
                    && (if is_equal { self.name > file.name } else { self.name != file.name })
            }
            FileContent::Nothing | FileContent::Unfinished => false,
        }
    }

    /// Whether this is a snapshot some entries of whose vector it does not hand on.
    pub(crate) fn retires(&self) -> bool {
        matches!(&self.content, FileContent::Snapshot { retired, .. } if !retired.is_empty())
    }

    /// Whether the file might bring back what such a snapshot does not hand on.
    fn needs(&self, snap: &FileFacts) -> bool {
        let FileContent::Snapshot { retired: gone, .. } = &snap.content else { return false };
        let is_gone = |incarnation: u64| gone.get(incarnation) > 0;
        match &self.content {
            _ if is_gone(self.name.incarnation) => true,
            FileContent::Nothing => false,
            FileContent::Unfinished => !gone.is_empty(),
            FileContent::Log { adopted, .. } => adopted.iter().any(|stamp| is_gone(stamp.incarnation)),
            FileContent::Snapshot { vector, .. } => vector.iter().any(|(incarnation, _)| is_gone(incarnation)),
        }
    }

    fn holds_something(&self) -> bool {
        match &self.content {
            FileContent::Log { last, adopted } => last.is_some() || !adopted.is_empty(),
            FileContent::Snapshot { .. } => true,
            FileContent::Nothing | FileContent::Unfinished => false,
        }
    }
}

/// Whether a snapshot that knows `older` has its successor in one that knows `vector` and dropped `retired`.
///
/// What has dropped something bears a mark that is later than all it succeeds; so no two succeed each other.
pub(crate) fn is_succeeded(older: &VersionVector, vector: &VersionVector, retired: &VersionVector) -> bool {
    let missing = older.beyond(vector);
    missing.is_empty() || missing.is_within(retired) && vector.max_hlc() > older.max_hlc()
}

/// Who asks, and how patient it is.
pub(crate) struct Rules<'a> {
    /// Whether a process of this server had this incarnation.
    pub(crate) is_mine: &'a dyn Fn(u64) -> bool,
    /// The incarnation of the process that asks.
    pub(crate) running: u64,
    /// Other machines may have copies.
    pub(crate) is_copied: bool,
    /// How old a snapshot has to be before it makes another file superfluous.
    pub(crate) delay: Duration,
}

/// The indexes of the files of a complete swamp that can go.
pub(crate) fn superseded(files: &[FileFacts], rules: &Rules<'_>) -> Vec<usize> {
    (0..files.len()).filter(|&at| rules.may_go(&files[at], files)).collect()
}

impl Rules<'_> {
    fn may_go(&self, file: &FileFacts, files: &[FileFacts]) -> bool {
        let is_mine = (self.is_mine)(file.name.incarnation);
        let is_over = is_mine && file.name.incarnation != self.running;
        match file.content {
            // On another machine the same name may stand for the whole file, of which this is the beginning.
            FileContent::Nothing => is_over && !self.is_copied,
            FileContent::Unfinished => is_over,
            _ => {
                let is_closed = if is_mine { file.is_sealed || is_over } else { self.is_closed_by_owner(file, files) };
                // What a snapshot retired is gone only once those that still know it are, and not in the same go.
                let is_needed = || files.iter().any(|other| other.name != file.name && other.needs(file));
                is_closed && files.iter().any(|snap| snap.age >= self.delay && snap.covers(file)) && !is_needed()
            }
        }
    }

    /// Whether another server has superseded all that its file will ever hold. A copy that may not be
    /// whole yet says so only if another process of the same server knows all of it.
    fn is_closed_by_owner(&self, file: &FileFacts, files: &[FileFacts]) -> bool {
        let mut by_owner = files.iter().filter(|snap| snap.name.server == file.name.server && snap.covers(file));
        if file.is_sealed {
            return by_owner.next().is_some() || file.age >= FOREIGN_KEPT;
        }
        file.holds_something()
            && (by_owner.any(|snap| snap.name.incarnation != file.name.incarnation) || file.age >= FOREIGN_KEPT)
    }
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Removed {
    pub(crate) fn add(&mut self, more: Removed) {
        self.files += more.files;
        self.bytes += more.bytes;
    }
}

/// Removes the superseded files of a swamp. Everything is read and checked again before.
pub(crate) fn collect(shared: &Shared, name: &SwampName, delay: Duration) -> Result<Removed> {
    let folder = folder_of(name, shared.root.folders);
    if shared.holds.is_held(folder) {
        return Ok(Removed::default());
    }
    let (going, in_order) = with_files(shared, name, folder, |files| going(shared, name, folder, delay, &files))??;
    let dir = swamp_path(&shared.root.path, folder, name);
    if in_order {
        // What was removed before must not come back without the snapshot that made it superfluous.
        shared.disk.sync_dir(&dir).map_err(|error| Error::io("sync", &dir, error))?;
    }
    let mut removed = Removed::default();
    for (name, length) in going {
        let path = dir.join(name.file_name());
        shared.disk.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        removed.files += 1;
        removed.bytes += length;
    }
    add(&shared.stats.collected_files, removed.files);
    add(&shared.stats.collected_bytes, removed.bytes);
    Ok(removed)
}

/// The files that can go, with their lengths, and whether what went before has to be gone for good first.
fn going(
    shared: &Shared,
    name: &SwampName,
    folder: FolderId,
    delay: Duration,
    files: &Files<'_>,
) -> Result<(Vec<(ChunkName, u64)>, bool)> {
    if files.copy != crate::engine::CopyState::Complete || files.is_newer {
        return Ok((Vec::new(), false));
    }
    let dir = swamp_path(&shared.root.path, folder, name);
    let mut facts = Vec::with_capacity(files.names.len());
    let mut lengths = Vec::with_capacity(files.names.len());
    for chunk in files.chunks {
        let Some(identity) = identity(shared, &dir, chunk.name)? else { return Ok((Vec::new(), false)) };
        facts.push(FileFacts {
            name: chunk.name.clone(),
            content: FileContent::of(chunk),
            is_sealed: chunk.scan.footer.is_some(),
            age: age(&identity),
        });
        // One that has grown since it was read is not the one that was judged.
        lengths.push(Some(identity.length).filter(|&length| length == chunk.scan.length));
    }
    for name in &files.torn {
        let Some(identity) = identity(shared, &dir, name)? else { return Ok((Vec::new(), false)) };
        let content = FileContent::Nothing;
        facts.push(FileFacts { name: name.clone(), content, is_sealed: false, age: age(&identity) });
        lengths.push(Some(identity.length));
    }
    let rules = Rules {
        is_mine: &|incarnation| shared.root.is_mine(incarnation),
        running: shared.root.incarnation,
        is_copied: shared.folders.is_copied(folder),
        delay,
    };
    let superseded = superseded(&facts, &rules);
    let in_order = superseded.iter().any(|&at| facts[at].retires());
    Ok((superseded.into_iter().filter_map(|at| Some((facts[at].name.clone(), lengths[at]?))).collect(), in_order))
}

/// `None` when the file is gone since it was read: a collection that ran beside this one took it, and what
/// was judged is no longer so.
fn identity(shared: &Shared, dir: &Path, name: &ChunkName) -> Result<Option<Identity>> {
    let path = dir.join(name.file_name());
    match shared.disk.identity(&path) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("stat", &path, error)),
    }
}

/// How long ago the file last changed or came to be here, by this machine's clock.
fn age(identity: &Identity) -> Duration {
    let (seconds, nanos) = identity.changed;
    let changed = Duration::new(seconds.max(0).unsigned_abs(), u32::try_from(nanos).unwrap_or(0));
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(changed)
}

/// Remembers what this process compacted, and collects it when its delay is over.
#[derive(Debug, Default)]
pub(crate) struct Collector(Mutex<HashSet<SwampName>>);

impl Collector {
    /// Collects the superseded files of a swamp after the delay; nothing in the first delay after a start.
    pub(crate) fn expect(&self, shared: &Arc<Shared>, name: &SwampName) {
        if self.0.lock().insert(name.clone()) {
            Collector::collect_at(shared, name.clone(), Instant::now() + shared.gc_delay + Duration::from_millis(50));
        }
    }

    fn collect_at(shared: &Arc<Shared>, name: SwampName, at: Instant) {
        let weak = Arc::downgrade(shared);
        shared.timer.at(at, move || {
            let Some(shared) = weak.upgrade() else { return };
            let pool = Arc::clone(&shared);
            pool.pool.run(move || Collector::collect_now(&shared, name));
        });
    }

    fn collect_now(shared: &Arc<Shared>, name: SwampName) {
        let folder = folder_of(&name, shared.root.folders);
        if let Some(until) = shared.holds.held_until(folder) {
            return Collector::collect_at(shared, name, until);
        }
        shared.collector.0.lock().remove(&name);
        if let Err(error) = collect(shared, &name, shared.gc_delay) {
            tracing::warn!(swamp = %name, %error, "superseded files could not be removed; the sweep tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: u64 = 1;
    const MINE_BEFORE: u64 = 2;
    const THEIRS: u64 = 7;
    const THEIRS_NEXT: u64 = 8;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn facts(incarnation: u64, seq: u32, content: FileContent, is_sealed: bool, age: Duration) -> FileFacts {
        let kind = if matches!(content, FileContent::Log { .. }) { ChunkKind::Log } else { ChunkKind::Snap };
        let server = if incarnation < 5 { "s1" } else { "s2" }.to_owned();
        FileFacts { name: ChunkName { incarnation, seq, kind, server }, content, is_sealed, age }
    }

    fn log(incarnation: u64, seq: u32, last: u64, is_sealed: bool) -> FileFacts {
        let last = (last > 0).then_some(Stamp { hlc: last, incarnation });
        facts(incarnation, seq, FileContent::Log { last, adopted: BTreeSet::new() }, is_sealed, HOUR)
    }

    fn snap(incarnation: u64, seq: u32, knows: &[(u64, u64)], age: Duration) -> FileFacts {
        let (vector, beyond, retired) = (knows.iter().copied().collect(), BTreeSet::new(), VersionVector::default());
        facts(incarnation, seq, FileContent::Snapshot { vector, beyond, retired }, true, age)
    }

    fn going(files: &[FileFacts]) -> Vec<usize> {
        let is_mine = |incarnation| incarnation < 5;
        let rules = Rules { is_mine: &is_mine, running: MINE, is_copied: true, delay: HOUR };
        superseded(files, &rules)
    }

    #[test]
    fn own_closed_files_go_when_an_old_snapshot_knows_them() {
        let snapshot = |age| snap(MINE, 3, &[(MINE, 9), (MINE_BEFORE, 5)], age);
        let files = |age| [log(MINE, 1, 9, true), log(MINE_BEFORE, 1, 5, false), log(MINE, 2, 9, false), snapshot(age)];
        assert_eq!(going(&files(HOUR)), [0, 1], "the third may still be appended to");
        assert_eq!(going(&files(HOUR / 2)), [0; 0], "a copy that began before may not have fetched it");
        let mut newer = files(HOUR);
        newer[0] = log(MINE, 1, 10, true);
        assert_eq!(going(&newer), [1]);
    }

    #[test]
    fn files_of_another_server_go_only_after_it_superseded_them_itself() {
        let mine = snap(MINE, 3, &[(MINE, 9), (THEIRS, 6)], HOUR);
        assert_eq!(going(&[log(THEIRS, 1, 6, true), mine]), [0; 0], "only this server knows it");
        let theirs = |incarnation| snap(incarnation, 2, &[(THEIRS, 6)], HOUR);
        assert_eq!(going(&[log(THEIRS, 1, 6, true), theirs(THEIRS)]), [0]);
        assert_eq!(going(&[log(THEIRS, 1, 6, false), theirs(THEIRS)]), [0; 0], "more of it may be on its way");
        assert_eq!(going(&[log(THEIRS, 1, 6, false), theirs(THEIRS_NEXT)]), [0], "that process is over");
        assert_eq!(going(&[log(THEIRS, 1, 0, false), theirs(THEIRS_NEXT)]), [0; 0], "an empty copy says nothing");
        let mut old = [log(THEIRS, 1, 6, false), snap(MINE, 3, &[(THEIRS, 6)], HOUR)];
        old[0].age = FOREIGN_KEPT;
        assert_eq!(going(&old), [0], "nobody cared for a month");
    }

    #[test]
    fn of_equal_snapshots_one_stays() {
        let knows = [(MINE, 9)];
        assert_eq!(going(&[snap(MINE, 1, &knows, HOUR), snap(MINE, 2, &knows, HOUR)]), [0]);
        assert_eq!(going(&[snap(MINE, 1, &[(MINE, 8)], HOUR), snap(MINE, 2, &knows, HOUR)]), [0]);
    }

    #[test]
    fn what_was_never_finished_goes_when_its_process_is_over() {
        let unfinished = |incarnation| facts(incarnation, 1, FileContent::Unfinished, false, HOUR);
        assert_eq!(going(&[unfinished(MINE_BEFORE), unfinished(MINE), unfinished(THEIRS)]), [0]);
        let nothing = facts(MINE_BEFORE, 1, FileContent::Nothing, false, HOUR);
        assert_eq!(going(&[nothing]), [0; 0], "another machine may have the rest of it");
    }

    #[test]
    fn a_record_of_others_that_no_snapshot_knows_keeps_the_log() {
        let adopted = [Stamp { hlc: 4, incarnation: THEIRS }].into();
        let content = FileContent::Log { last: Some(Stamp { hlc: 9, incarnation: MINE }), adopted };
        let file = facts(MINE, 1, content, true, HOUR);
        assert_eq!(going(&[file, snap(MINE, 2, &[(MINE, 9)], HOUR)]), [0; 0]);
    }

    #[test]
    fn a_snapshot_that_retired_entries_stands_for_those_with_them_and_goes_after_them() {
        let retiring = |seq, knows: &[(u64, u64)], retired: &[(u64, u64)]| {
            let (vector, retired) = (knows.iter().copied().collect(), retired.iter().copied().collect());
            let content = FileContent::Snapshot { vector, beyond: BTreeSet::new(), retired };
            facts(MINE, seq, content, true, HOUR)
        };
        let older = snap(MINE_BEFORE, 1, &[(MINE_BEFORE, 5), (3, 2)], HOUR);
        let next = retiring(1, &[(MINE_BEFORE, 5), (MINE, 7)], &[(3, 2)]);
        let last = snap(MINE, 2, &[(MINE_BEFORE, 5), (MINE, 9)], HOUR);
        assert!(next.covers(&older) && !older.covers(&next) && !last.covers(&older));
        let unmarked = retiring(1, &[(MINE_BEFORE, 5)], &[(3, 2)]);
        assert!(!unmarked.covers(&older), "it knows nothing later");
        let knows_more = snap(MINE_BEFORE, 1, &[(MINE_BEFORE, 5), (3, 2), (4, 1)], HOUR);
        assert!(!next.covers(&knows_more));
        let all = [older, next, last];
        assert_eq!(going(&all), [0], "nothing tells any more that the first is over, once the second has gone");
        let [_, next, last] = all;
        assert_eq!(going(&[next, last]), [0]);
        let next = retiring(1, &[(MINE_BEFORE, 5), (MINE, 7)], &[(3, 2)]);
        let last = snap(MINE, 2, &[(MINE_BEFORE, 5), (MINE, 9)], HOUR);
        let cut_short = facts(MINE_BEFORE, 2, FileContent::Unfinished, false, HOUR);
        assert_eq!(going(&[next, last, cut_short]), [2], "it may ask for what was retired");
    }
}
