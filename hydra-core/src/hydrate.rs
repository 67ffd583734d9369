//! From the directory of a swamp to its state in memory: list, read, scan, merge.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::collect::is_succeeded;
use crate::disk::Identity;
use crate::engine::CopyState;
use crate::error::{Error, Result};
use crate::folder::FolderId;
use crate::format::frame::Frame;
use crate::format::header::cluster_of;
use crate::format::record::{Record, StampCode};
use crate::format::scan::{Scan, Unreadable, scan};
use crate::growth::{Tail, Tails};
use crate::layout::{self, ChunkKind, ChunkName};
use crate::log::Pile;
use crate::merge::{Chunk, Merged, merge};
use crate::name::SwampName;
use crate::shared::Shared;
use crate::stamp::Timestamp;
use crate::state::State;
use crate::stats::count;
use crate::vector::VersionVector;

/// A directory that a copy tool is changing is looked at again after this long, for at most as long as below.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);

/// A swamp as its files say.
#[derive(Debug)]
pub(crate) struct Hydrated {
    pub(crate) state: State,
    /// The chunks in the directory.
    pub(crate) names: Vec<ChunkName>,
    /// The files that count.
    pub(crate) pile: Pile,
    /// The clock value of the last record of this process in them.
    pub(crate) written: u64,
    /// Records of writers whose files cannot be placed; to be written again before the first write.
    pub(crate) adopt: Vec<Frame>,
    /// The write interval and the idle eviction that the newest chunk says.
    pub(crate) settings: Option<(Duration, Duration)>,
    /// Whether some chunk is another server's.
    pub(crate) has_foreign: bool,
    /// Whether some chunk ends in bytes that are ignored.
    pub(crate) has_torn_tail: bool,
    /// A newer version wrote some of it: nothing may be added.
    pub(crate) is_newer: bool,
    pub(crate) watch: Watch,
}

/// What a directory looked like: when it looks the same, nothing came from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Watch {
    directory: Option<Identity>,
    foreign: Vec<(String, Option<Identity>)>,
}

impl Watch {
    /// Looks at the directory and at the chunks of others in it that may still grow.
    pub(crate) fn look(shared: &Shared, dir: &Path, names: &[ChunkName]) -> Watch {
        let foreign = names.iter().filter(|name| !shared.root.is_mine(name.incarnation)).map(ChunkName::file_name);
        let foreign = foreign.map(|name| {
            let identity = shared.disk.identity(&dir.join(&name)).ok();
            (name, identity)
        });
        Watch { foreign: foreign.collect(), directory: shared.disk.identity(dir).ok() }
    }

    /// A newer look at these chunks. A directory that changed a moment ago may change again and show the same time:
    /// it is looked at once more.
    fn newer(shared: &Shared, dir: &Path, names: &[ChunkName]) -> Watch {
        let mut now = Watch::look(shared, dir, names);
        if now.is_young() {
            now.directory = now.directory.map(|directory| Identity { changed: (0, 0), ..directory });
        }
        now
    }

    /// A newer look, and whether chunks of others came, went or changed since this one, or some of `own` are gone.
    pub(crate) fn again(
        &self,
        shared: &Shared,
        dir: &Path,
        own: impl FnOnce() -> HashSet<ChunkName>,
    ) -> Result<(Watch, bool)> {
        if self.is_unchanged(shared, dir) {
            return Ok((self.clone(), false));
        }
        let own = own();
        let names = list(shared, dir)?;
        let now = Watch::newer(shared, dir, &names);
        let is_gone = |name: &ChunkName| names.binary_search(name).is_err();
        let news = now.foreign != self.foreign || own.iter().any(is_gone);
        Ok((now, news))
    }

    /// The chunks of others that look different now; `None` when they are not the same ones.
    fn changed<'a>(&'a self, now: &'a Watch) -> Option<Vec<(&'a str, Identity, Identity)>> {
        if !self.foreign.iter().map(|(name, _)| name).eq(now.foreign.iter().map(|(name, _)| name)) {
            return None;
        }
        let pairs = self.foreign.iter().zip(&now.foreign).filter(|(before, now)| before != now);
        pairs.map(|((name, before), (_, now))| Some((name.as_str(), (*before)?, (*now)?))).collect()
    }

    /// Whether the directory changed so lately that its next change might show the same time.
    fn is_young(&self) -> bool {
        let Some(directory) = self.directory else { return false };
        let (seconds, nanos) = directory.modified;
        let modified = Duration::new(seconds.max(0).unsigned_abs(), u32::try_from(nanos).unwrap_or(0));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(modified) < SETTLE
    }

    /// Whether the directory looks as it did. Chunks of this server grow without changing this.
    pub(crate) fn is_unchanged(&self, shared: &Shared, dir: &Path) -> bool {
        let same = |path: &Path, before: &Option<Identity>| shared.disk.identity(path).ok() == *before;
        same(dir, &self.directory) && self.foreign.iter().all(|(name, before)| same(&dir.join(name), before))
    }
}

/// The files of a swamp, read and merged.
pub(crate) struct Files<'a> {
    /// Every chunk in the directory, whether it could be read or not.
    pub(crate) names: Vec<ChunkName>,
    /// Those whose creation was cut short.
    pub(crate) torn: Vec<ChunkName>,
    /// Those that could be read.
    pub(crate) chunks: &'a [Chunk<'a>],
    pub(crate) merged: Merged<'a>,
    pub(crate) copy: CopyState,
    findings: Vec<String>,
    pub(crate) is_newer: bool,
    watch: Watch,
}

/// Reads a swamp from its files. A directory that is not there is a swamp that is empty.
pub(crate) fn hydrate(shared: &Shared, name: &SwampName, folder: FolderId) -> Result<Hydrated> {
    with_files(shared, name, folder, |files| {
        let adopt = adoptable(shared, &files.merged, files.chunks);
        let has_foreign = files.names.iter().any(|name| !shared.root.is_mine(name.incarnation));
        let has_torn_tail = files.chunks.iter().any(|chunk| chunk.scan.torn_at.is_some());
        let written = files.merged.written.get(shared.root.incarnation);
        let settings = newest_settings(files.chunks);
        let base = base_of(files.chunks);
        let pile = pile(shared, &files, &base);
        let is_foreign = |incarnation| !shared.root.is_mine(incarnation);
        let tails = Tails::of(&files.merged, files.chunks, files.copy, &base, is_foreign);
        let Files { names, merged, copy, findings, is_newer, watch, .. } = files;
        let mut state = State::of_merged(merged, copy, findings);
        state.tails = tails;
        state.date_conflicts(Timestamp::now());
        count(&shared.stats.hydrations);
        Hydrated { state, names, pile, written, adopt, settings, has_foreign, has_torn_tail, is_newer, watch }
    })
}

/// Reads and merges the files of a swamp for whoever has a question about them.
pub(crate) fn with_files<T>(
    shared: &Shared,
    name: &SwampName,
    folder: FolderId,
    answer: impl FnOnce(Files<'_>) -> T,
) -> Result<T> {
    let dir = layout::swamp_path(&shared.root.path, folder, name);
    let copied = shared.folders.is_copied(folder);
    let (watch, files) = read_settled(shared, &dir, copied)?;
    let mut loader = Loader { shared, name, findings: Vec::new(), torn: Vec::new(), degraded: false, is_newer: false };
    let scans: Vec<(usize, Scan)> =
        files.iter().enumerate().filter_map(|(at, file)| Some((at, loader.scan(file)?))).collect();
    let mut chunks = Vec::with_capacity(scans.len());
    for (at, scan) in &scans {
        match Chunk::new(&files[*at].name, scan, &files[*at].bytes) {
            Some(chunk) => chunks.push(chunk),
            None => loader.report(&files[*at].name, "a frame cannot be decompressed"),
        }
    }
    let merged = merge(&chunks);
    loader.judge(&merged, &chunks);
    let copy = loader.copy_state(&merged);
    let names = files.iter().map(|file| file.name.clone()).collect();
    let Loader { findings, torn, is_newer, .. } = loader;
    Ok(answer(Files { names, torn, chunks: &chunks, merged, copy, findings, is_newer, watch }))
}

fn valid_snaps<'c, 'a>(chunks: &'c [Chunk<'a>]) -> impl Iterator<Item = &'c Chunk<'a>> {
    chunks.iter().filter(|chunk| chunk.name.kind == ChunkKind::Snap && chunk.scan.is_valid())
}

/// What the snapshots stand for.
fn base_of(chunks: &[Chunk<'_>]) -> VersionVector {
    let mut base = VersionVector::default();
    valid_snaps(chunks).for_each(|snap| base.join(snap.vector()));
    base
}

/// The files that count: those that no snapshot among them stands for.
fn pile(shared: &Shared, files: &Files<'_>, base: &VersionVector) -> Pile {
    let snaps = || valid_snaps(files.chunks);
    let mut pile = Pile::default();
    for chunk in files.chunks {
        let incarnation = chunk.name.incarnation;
        let last = match &chunk.scan.footer {
            Some(footer) => footer.last_hlc,
            None => files.merged.written.get(incarnation),
        };
        let counts = match chunk.name.kind {
            ChunkKind::Log => last > base.get(incarnation),
            ChunkKind::Snap => !snaps().any(|other| {
                other.name > chunk.name && chunk.vector().is_within(other.vector())
                    || is_succeeded(chunk.vector(), other.vector(), &other.retired())
                        && !other.vector().is_within(chunk.vector())
            }),
        };
        if counts {
            let is_log = chunk.name.kind == ChunkKind::Log;
            pile.files += 1;
            pile.bytes += chunk.scan.length;
            pile.logs += u32::from(is_log);
            pile.own_logs += u32::from(is_log && shared.root.is_mine(incarnation));
        }
    }
    pile
}

/// A chunk file in memory.
#[derive(Debug)]
struct ReadFile {
    name: ChunkName,
    bytes: Vec<u8>,
}

/// Reads all chunks of a directory. Where a copy tool may be at work, the directory has to look the
/// same before and after: such tools remove a file before they rename its successor into place.
fn read_settled(shared: &Shared, dir: &Path, copied: bool) -> Result<(Watch, Vec<ReadFile>)> {
    let began = Instant::now();
    loop {
        let names = list(shared, dir)?;
        let watch = Watch::look(shared, dir, &names);
        let files = read_all(shared, dir, &names)?;
        let is_young = || !watch.foreign.is_empty() && watch.is_young();
        let settled = files.as_ref().is_some_and(|_| !copied || (watch.is_unchanged(shared, dir) && !is_young()));
        match files {
            Some(files) if settled || began.elapsed() > SETTLE_AT_MOST => return Ok((watch, files)),
            None if began.elapsed() > SETTLE_AT_MOST => {
                let gone = io::Error::new(io::ErrorKind::NotFound, "a chunk came and went while it was read");
                return Err(Error::io("read", dir, gone));
            }
            _ => std::thread::sleep(SETTLE),
        }
    }
}

/// Logs that grew, each with the place of its tail. What was read before is not in all of them.
pub(crate) type GrownLogs = Vec<(usize, Vec<u8>)>;

/// A look at the directory, and the logs of others that grew since the one before, each by the place of its tail.
/// `None` where all files have to be read again: some came or went, or are other ones than they were.
pub(crate) fn read_on(
    shared: &Shared,
    dir: &Path,
    before: &Watch,
    own: &HashSet<ChunkName>,
    tail_of: impl Fn(&ChunkName) -> Option<(usize, Tail)>,
) -> Result<Option<(Watch, GrownLogs)>> {
    let names = list(shared, dir)?;
    let now = Watch::newer(shared, dir, &names);
    if own.iter().any(|name| names.binary_search(name).is_err()) {
        return Ok(None);
    }
    let Some(changed) = before.changed(&now) else { return Ok(None) };
    let mut files = Vec::with_capacity(changed.len());
    for (name, before, now) in changed {
        let tail = ChunkName::parse(name).and_then(|name| tail_of(&name));
        let Some((at, tail)) = tail.filter(|_| now.length >= before.length) else { return Ok(None) };
        let is_other = !before.is_same_file(&now);
        let Some(file) = read_grown(shared, &dir.join(name), &tail, is_other)? else { return Ok(None) };
        files.push((at, file));
    }
    Ok(Some((now, files)))
}

/// A log that grew, with what was not read yet at its place; `None` when it is another one than it was.
///
/// Whoever appends to a file leaves what stands there alone. One that was put in its place is compared.
fn read_grown(shared: &Shared, path: &Path, tail: &Tail, is_other: bool) -> Result<Option<Vec<u8>>> {
    let read = if is_other { shared.disk.read(path) } else { shared.disk.read_from(path, tail.end) };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    if is_other {
        return Ok(Some(bytes).filter(|bytes| tail.is_front_of(bytes)));
    }
    // The checksums of frames hold at their places only. Pages of zeros that nobody touches cost nothing.
    let end = usize::try_from(tail.end).unwrap_or(0);
    let mut file = vec![0; end + bytes.len()];
    file[end..].copy_from_slice(&bytes);
    Ok(Some(file))
}

fn list(shared: &Shared, dir: &Path) -> Result<Vec<ChunkName>> {
    let names = shared.disk.list(dir).map_err(|error| Error::io("list", dir, error))?;
    let doubtful = shared.doubtful.lock();
    let is_doubtful = |name: &ChunkName| !doubtful.is_empty() && doubtful.contains(&dir.join(name.file_name()));
    let names = names.iter().filter_map(|name| ChunkName::parse(name));
    let mut names: Vec<ChunkName> = names.filter(|name| !is_doubtful(name)).collect();
    names.sort();
    Ok(names)
}

/// `None` when a chunk that was listed is gone.
fn read_all(shared: &Shared, dir: &Path, names: &[ChunkName]) -> Result<Option<Vec<ReadFile>>> {
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let path = dir.join(name.file_name());
        match shared.disk.read(&path) {
            Ok(bytes) => files.push(ReadFile { name: name.clone(), bytes }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A file that cannot be read is never skipped: the swamp would look smaller than it is.
            Err(error) => return Err(Error::io("read", &path, error)),
        }
    }
    Ok(Some(files))
}

/// Collects what is wrong with the files of one swamp.
struct Loader<'a> {
    shared: &'a Shared,
    name: &'a SwampName,
    findings: Vec<String>,
    torn: Vec<ChunkName>,
    degraded: bool,
    is_newer: bool,
}

impl Loader<'_> {
    fn scan(&mut self, file: &ReadFile) -> Option<Scan> {
        let scan = match scan(&file.name, &file.bytes) {
            Ok(scan) => scan,
            Err(Unreadable::Torn) => {
                self.torn.push(file.name.clone());
                return None;
            }
            Err(Unreadable::Damaged(what)) => {
                self.report(&file.name, &what);
                return None;
            }
            Err(Unreadable::Newer(version)) => {
                self.is_newer = true;
                self.report(&file.name, &format!("it was written by a newer version (format {version})"));
                return None;
            }
        };
        if let Some(stranger) = self.stranger(&scan) {
            self.report(&file.name, &stranger);
            return None;
        }
        if let Some((offset, what)) = &scan.damage {
            self.report(&file.name, &format!("damaged at byte {offset}: {what}"));
        }
        Some(scan)
    }

    /// What makes a chunk one that does not belong here.
    fn stranger(&self, scan: &Scan) -> Option<String> {
        let root = &self.shared.root;
        if scan.header.name != *self.name {
            return Some(format!("it is of the swamp {}", scan.header.name));
        }
        (scan.header.cluster != cluster_of(&root.cluster)).then(|| "it is of another cluster".to_owned())
    }

    fn report(&mut self, name: &ChunkName, what: &str) {
        self.degraded = true;
        count(&self.shared.stats.damaged_files);
        let finding = format!("{}: {what}", name.file_name());
        tracing::error!(swamp = %self.name, "{finding}");
        self.findings.push(finding);
    }

    fn judge(&mut self, merged: &Merged<'_>, chunks: &[Chunk<'_>]) {
        for &at in &merged.not_understood {
            self.is_newer = true;
            self.report(chunks[at].name, "a record of it is not understood; a newer version may have written it");
        }
        let missing = "it refers to records that are not here (yet)";
        let unusable = "a snapshot without its end, and nothing else has all that it knows";
        let waiting = merged.unattached.iter().map(|&(at, _)| (at, missing));
        for (at, what) in waiting.chain(merged.unusable.iter().map(|&at| (at, unusable))) {
            self.findings.push(format!("{}: {what}", chunks[at].name.file_name()));
        }
    }

    fn copy_state(&self, merged: &Merged<'_>) -> CopyState {
        match () {
            () if self.degraded => CopyState::Degraded,
            () if !merged.is_complete() => CopyState::Incomplete,
            () => CopyState::Complete,
        }
    }
}

/// The settings in the header of the newest chunk.
fn newest_settings(chunks: &[Chunk<'_>]) -> Option<(Duration, Duration)> {
    let headers = chunks.iter().map(|chunk| &chunk.scan.header);
    let newest = headers.max_by_key(|h| (h.base_hlc, h.incarnation, h.seq))?;
    Some((newest.write_interval, newest.idle_evict))
}

/// The frames of logs that cannot be placed, as copies with their own stamps: whole, so that the
/// positions under an idempotency key stay what they were.
fn adoptable(shared: &Shared, merged: &Merged<'_>, chunks: &[Chunk<'_>]) -> Vec<Frame> {
    let code = StampCode::Log { incarnation: shared.root.incarnation };
    let mut frames = Vec::new();
    for &(at, from) in &merged.unattached {
        debug_assert_eq!(chunks[at].name.kind, ChunkKind::Log);
        for index in from..chunks[at].frame_count() {
            let (key, records, _) = chunks[at].frame(index);
            let adopted: Vec<Record<'_>> = records.into_iter().filter_map(adopted).collect();
            if !adopted.is_empty() {
                frames.push(Frame::new(key, adopted, code, shared.base_hlc));
            }
        }
    }
    frames
}

fn adopted(record: Record<'_>) -> Option<Record<'_>> {
    match record {
        Record::Write { stamp, write } | Record::Adopted { stamp, write } => Some(Record::Adopted { stamp, write }),
        Record::Sync(_) | Record::Counter(_) | Record::Key(_) | Record::Conflict(_) => None,
    }
}
