//! The files of one swamp that this process writes: the only place where bytes go to a numbered folder.
//!
//! A chunk is appended to by the process that made it and by nobody else. When an append or a sync
//! fails, or when somebody else touched the file, the chunk is given up for ever and what it owed
//! goes to a new one.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::compact::LastCompaction;
use crate::disk::{DiskFile, Identity};
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderId, folder_of};
use crate::format::footer::Footer;
use crate::format::frame::{self, Frame, FrameRef};
use crate::format::header::{Header, cluster_of, node_of};
use crate::format::record::{Record, StampCode};
use crate::handles::{Handle, Place};
use crate::layout::{self, ChunkKind, ChunkName};
use crate::name::SwampName;
use crate::policy::Policy;
use crate::shared::Shared;
use crate::syncs::Intent;
use crate::vector::VersionVector;

/// The chunks of one swamp that this process writes.
#[derive(Debug)]
pub(crate) struct Log {
    name: SwampName,
    dir: PathBuf,
    open: Option<OpenChunk>,
    next_seq: u32,
    /// Own records up to this clock value are on disk.
    pub(crate) durable_hlc: u64,
    /// Somebody else touched a chunk: what it held has to be written again before anything else.
    is_touched: bool,
    /// The files that count.
    pub(crate) pile: Pile,
    /// The chunks of this server that should be in the directory, but for those a collection removed since.
    pub(crate) own: HashSet<ChunkName>,
    pub(crate) last_compaction: Option<LastCompaction>,
}

/// How many processes a swamp may know of. A header can name 65 535, and that of a snapshot names also those of which
/// it only has a loose record.
const KNOWN_MOST: usize = 65_000;

/// The files of a swamp that no snapshot stands for yet, and the snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pile {
    pub(crate) files: u32,
    /// Logs among them.
    pub(crate) logs: u32,
    /// Logs among them that this server wrote.
    pub(crate) own_logs: u32,
    pub(crate) bytes: u64,
}

/// The chunk that is appended to.
#[derive(Debug)]
struct OpenChunk {
    path: PathBuf,
    name: ChunkName,
    /// Closed between flushes where the swamp need not be quick.
    file: Place,
    facts: ChunkFacts,
}

/// What is known of the open chunk, and stays known when its swamp leaves memory.
#[derive(Debug, Clone)]
struct ChunkFacts {
    left: Left,
    records: u64,
    /// Of all its bytes, for the footer: nobody has to read what was written.
    crc: u32,
    /// What its header and its SYNC records say its writer knew of others.
    vector: VersionVector,
    /// The write interval and the idle eviction its header says.
    settings: (Duration, Duration),
}

/// Which file a chunk is, and how long it was when this server left it.
#[derive(Debug, Clone, Copy)]
struct Left {
    device: u64,
    inode: u64,
    length: u64,
}

impl Left {
    fn of(now: &Identity) -> Left {
        Left { device: now.device, inode: now.inode, length: now.length }
    }

    /// Whether a file is this one, as long as it was left, with one name.
    fn is(&self, now: &Identity) -> bool {
        self.is_within(now) && now.length == self.length
    }

    /// The same for one that may be longer, after a failed append.
    fn is_within(&self, now: &Identity) -> bool {
        (now.device, now.inode, now.links) == (self.device, self.inode, 1) && now.length >= self.length
    }
}

/// What an evicted swamp leaves behind, so that its chunk can be gone on with. Kept small: there are many.
#[derive(Debug)]
pub(crate) struct Remembered {
    /// All of the chunk's name that differs from swamp to swamp.
    seq: u32,
    facts: ChunkFacts,
    durable_hlc: u64,
}

/// Why frames are not on disk.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The disk failed twice, the second time with a fresh chunk. The first `maybe` frames may be in a file.
    Failed { error: Error, maybe: usize },
    /// Somebody else replaced, removed, linked or shortened the chunk: everything in it is to be written again.
    Interference(Error),
}

/// The outcome of one try.
enum TryError {
    Disk { error: Error, maybe: usize },
    Interference(Error),
}

impl TryError {
    fn has(&self, code: ErrorCode) -> bool {
        matches!(self, TryError::Disk { error, .. } if error.code() == code)
    }

    fn is_busy(&self) -> bool {
        self.has(ErrorCode::Busy)
    }

    fn is_full(&self) -> bool {
        self.has(ErrorCode::DiskFull)
    }
}

/// Refuses what no header could say: a chunk whose vector is cut short could never be read again.
pub(crate) fn check_vector(known: &VersionVector) -> Result<()> {
    if known.len() <= KNOWN_MOST {
        return Ok(());
    }
    let detail = format!("{} processes of servers have written to this swamp, {KNOWN_MOST} can be named", known.len());
    Err(Error::new(ErrorCode::SwampReadOnly, detail)
        .with_hint("export the swamp and import it under another name: there it begins anew"))
}

impl Log {
    pub(crate) fn new(shared: &Shared, name: &SwampName, folder: FolderId) -> Log {
        Log {
            name: name.clone(),
            dir: layout::swamp_path(&shared.root.path, folder, name),
            open: None,
            next_seq: 1,
            durable_hlc: 0,
            is_touched: false,
            pile: Pile::default(),
            own: HashSet::new(),
            last_compaction: None,
        }
    }

    /// Takes note of the chunks of this process that stand in the directory, whose last record is
    /// `written`; goes on with the one the swamp had open when it was evicted, if it is exactly as it
    /// was left. A next chunk has to name that record, or readers would take it for all there ever was.
    pub(crate) fn found(
        &mut self,
        shared: &Shared,
        names: &[ChunkName],
        pile: Pile,
        written: u64,
        remembered: Option<Remembered>,
    ) {
        self.pile = pile;
        self.own = names.iter().filter(|name| shared.root.is_mine(name.incarnation)).cloned().collect();
        self.durable_hlc = self.durable_hlc.max(written);
        let own = names.iter().filter(|name| name.incarnation == shared.root.incarnation);
        let highest = own.map(|name| name.seq).max().unwrap_or(0);
        self.next_seq = self.next_seq.max(highest + 1);
        let Some(Remembered { seq, facts, durable_hlc }) = remembered else { return };
        self.next_seq = self.next_seq.max(seq + 1);
        self.durable_hlc = self.durable_hlc.max(durable_hlc);
        let name = self.chunk_name(shared, ChunkKind::Log, seq);
        let path = self.dir.join(name.file_name());
        match shared.disk.identity(&path) {
            Ok(now) if facts.left.is(&now) => self.open = Some(OpenChunk { path, name, file: Place::Closed, facts }),
            _ => shared.stats.interference(&path, "changed or removed while its swamp was not in memory"),
        }
    }

    /// What to remember of the open chunk when the swamp leaves memory.
    pub(crate) fn remember(&self) -> Option<Remembered> {
        let open = self.open.as_ref()?;
        Some(Remembered { seq: open.name.seq, facts: open.facts.clone(), durable_hlc: self.durable_hlc })
    }

    /// Appends frames and makes them durable. `known` is what the swamp had merged before them.
    pub(crate) fn append(
        &mut self,
        shared: &Shared,
        policy: &Policy,
        known: &VersionVector,
        frames: &[FrameRef<'_>],
    ) -> Result<(), AppendError> {
        if frames.is_empty() {
            return Ok(());
        }
        let left = self.open.as_ref().map(|open| (open.path.clone(), open.facts.left));
        let first = match self.try_append(shared, policy, known, frames) {
            Ok(()) => return Ok(()),
            Err(TryError::Interference(error)) => return Err(self.touched(error)),
            Err(TryError::Disk { error, maybe }) if error.code() == ErrorCode::Busy => {
                return Err(AppendError::Failed { error, maybe });
            }
            // What is given up must still hold what it held before.
            Err(TryError::Disk { error, .. })
                if left.is_some_and(|(path, left)| !still_holds(shared, &path, &left)) =>
            {
                return Err(self.touched(error));
            }
            Err(TryError::Disk { error, maybe }) => {
                if error.code() == ErrorCode::DiskFull {
                    shared.space.make_room();
                }
                if self.open.is_none() {
                    tracing::warn!(swamp = %self.name, %error, "a chunk is given up; what it owed goes to a new one");
                }
                maybe
            }
        };
        match self.try_append(shared, policy, known, frames) {
            Ok(()) => Ok(()),
            Err(TryError::Interference(error)) => Err(self.touched(error)),
            Err(TryError::Disk { error, maybe }) => Err(AppendError::Failed { error, maybe: maybe.max(first) }),
        }
    }

    fn try_append(
        &mut self,
        shared: &Shared,
        policy: &Policy,
        known: &VersionVector,
        frames: &[FrameRef<'_>],
    ) -> Result<(), TryError> {
        let disk = |error| TryError::Disk { error, maybe: 0 };
        let intent = shared.syncs.intend();
        self.close_unfit(shared, policy, known);
        if self.is_touched {
            let error = Error::new(ErrorCode::Io, "a chunk that was to be closed was touched by someone else");
            return Err(TryError::Interference(error));
        }
        let mut bytes =
            Vec::with_capacity(frames.iter().map(|frame| frame.len() + frame::MAX_HEAD).sum::<usize>() + 256);
        let is_new = self.open.is_none();
        if is_new {
            self.create(shared, policy, known, &mut bytes).map_err(disk)?;
        }
        // From here on every failure leaves the chunk behind: it is taken out and put back only at the end.
        let Some(mut open) = self.open.take() else {
            return Err(disk(Error::new(ErrorCode::Internal, "there is no open chunk")));
        };
        let mut file = match open.file.take() {
            Some(file) => file,
            None => match reopen(shared, &open) {
                Ok(file) => file,
                Err(error) => {
                    // Nothing is wrong with the chunk when only no file could be opened.
                    self.open = error.is_busy().then_some(open);
                    return Err(error);
                }
            },
        };
        // Held until the frames are on disk: what is on its way cannot be settled.
        let _writing = shared.takeovers.begin(shared, &self.name, &open.name).map_err(disk)?;
        let start = open.facts.left.length;
        let learned = self.place_sync(shared, &open, known, start, &mut bytes);
        let ends = place_frames(&open.name, frames, start, learned.is_none(), &mut bytes);
        if shared.space.is_tight(bytes.len())
            && let Err(error) = file.file.reserve(start, bytes.len() as u64)
        {
            // Known before a byte was written: the chunk is as it was, and no space is lost to half an append.
            let error = Error::io("append to", &open.path, error);
            if is_new {
                let _ = shared.disk.remove_file(&open.path);
            } else {
                open.file = Place::Held(file);
                self.open = Some(open);
            }
            return Err(disk(error));
        }
        if let Err(error) = append_bytes(&mut *file.file, &open.path, &bytes, &ends) {
            if is_new && error.is_full() {
                // A full disk is not filled further with what nobody will read. If it stays, that is all it does.
                let _ = shared.disk.remove_file(&open.path);
            }
            return Err(error);
        }
        let all = |error| TryError::Disk { error, maybe: frames.len() };
        self.make_durable(shared, &mut file, &open.path, is_new, intent).map_err(all)?;
        open.facts.left = verify(shared, &*file.file, &open.path, start + bytes.len() as u64)?;
        open.facts.records += frames.iter().map(|frame| u64::from(frame.head.records)).sum::<u64>();
        open.facts.crc = crc32c::crc32c_append(open.facts.crc, &bytes);
        if let Some(learned) = learned {
            open.facts.records += 1;
            open.facts.vector.join(&learned);
        }
        open.file = shared.handles.keep(file, policy.is_synced());
        self.pile.bytes += bytes.len() as u64;
        self.durable_hlc = frames.iter().map(|frame| frame.head.last_hlc).max().unwrap_or(0).max(self.durable_hlc);
        self.open = Some(open);
        Ok(())
    }

    /// Says what was learned from others since the chunk last said so, before any record that relies on it.
    fn place_sync(
        &self,
        shared: &Shared,
        chunk: &OpenChunk,
        known: &VersionVector,
        start: u64,
        bytes: &mut Vec<u8>,
    ) -> Option<VersionVector> {
        let mut learned = known.beyond(&chunk.facts.vector);
        learned.forget(shared.root.incarnation);
        if learned.is_empty() {
            return None;
        }
        let code = StampCode::Log { incarnation: shared.root.incarnation };
        let frame = Frame::new(None, [Record::Sync(learned.clone())], code, shared.base_hlc);
        frame.place(frame::salt(chunk.name.incarnation, chunk.name.seq), start, true, bytes);
        Some(learned)
    }

    /// Closes the chunk when it is long enough, was begun under other settings, or says more of others than is known: a
    /// copy of a file can come shorter than it was, and what is written now has not seen what is missing.
    fn close_unfit(&mut self, shared: &Shared, policy: &Policy, known: &VersionVector) {
        let settings = written_settings(policy);
        let unfit = |ChunkFacts { left, settings: begun_under, vector, .. }: &ChunkFacts| {
            left.length >= policy.chunk_bytes || *begun_under != settings || !vector.is_within(known)
        };
        if self.open.as_ref().is_some_and(|open| unfit(&open.facts)) {
            self.seal(shared);
        }
    }

    fn chunk_name(&self, shared: &Shared, kind: ChunkKind, seq: u32) -> ChunkName {
        ChunkName { incarnation: shared.root.incarnation, seq, kind, server: shared.root.server_id.clone() }
    }

    fn next_name(&mut self, shared: &Shared, kind: ChunkKind) -> ChunkName {
        let name = self.chunk_name(shared, kind, self.next_seq);
        self.next_seq += 1;
        name
    }

    /// The header of a chunk of this swamp.
    pub(crate) fn header(&self, shared: &Shared, name: &ChunkName, policy: &Policy, vector: VersionVector) -> Header {
        Header {
            kind: name.kind,
            incarnation: name.incarnation,
            node: node_of(&name.server),
            seq: name.seq,
            folders: shared.root.folders.get(),
            base_hlc: shared.base_hlc,
            write_interval: policy.write_interval,
            idle_evict: written_settings(policy).1,
            cluster: cluster_of(&shared.root.cluster),
            name: self.name.clone(),
            vector,
        }
    }

    /// What a new chunk may say it knows: of its own writer only what is on disk.
    fn durable_vector(&self, shared: &Shared, known: &VersionVector) -> VersionVector {
        let mut vector = known.clone();
        match self.durable_hlc {
            0 => vector.forget(shared.root.incarnation),
            hlc => vector.set(shared.root.incarnation, hlc),
        }
        vector
    }

    /// Creates the next log; its header is put into `bytes`, to be written with the first frames.
    fn create(&mut self, shared: &Shared, policy: &Policy, known: &VersionVector, bytes: &mut Vec<u8>) -> Result<()> {
        check_vector(known)?;
        let name = self.next_name(shared, ChunkKind::Log);
        let mut vector = self.durable_vector(shared, known);
        self.header(shared, &name, policy, vector.clone()).encode(bytes);
        vector.forget(shared.root.incarnation);
        let path = self.dir.join(name.file_name());
        let file = self.create_file(shared, &path)?;
        let left = Left::of(&file.file.identity().map_err(|error| Error::io("stat", &path, error))?);
        let settings = written_settings(policy);
        self.own.insert(name.clone());
        let facts = ChunkFacts { left, records: 0, crc: 0, vector, settings };
        self.pile.files += 1;
        self.pile.logs += 1;
        self.pile.own_logs += 1;
        self.open = Some(OpenChunk { path, name, file: Place::Held(file), facts });
        Ok(())
    }

    /// Writes a whole file of this swamp at once and makes it durable: a snapshot.
    pub(crate) fn write_snapshot(
        &mut self,
        shared: &Shared,
        encode: impl FnOnce(&Log, &ChunkName) -> Vec<u8>,
    ) -> Result<ChunkName> {
        let name = self.next_name(shared, ChunkKind::Snap);
        let path = self.dir.join(name.file_name());
        let bytes = encode(self, &name);
        // Until it is durable it can be read and may be gone after the next crash. A collection that runs meanwhile
        // must not remove what it stands for.
        shared.doubtful.lock().insert(path.clone());
        let written = self.write_whole(shared, &name, &path, &bytes);
        // Without its end it counts for nothing; on a disk that is full it should not stay. If it does, nobody must
        // rely on it.
        if written.is_ok() || shared.disk.remove_file(&path).is_ok() {
            shared.doubtful.lock().remove(&path);
        }
        written?;
        self.pile = Pile { files: 1, bytes: bytes.len() as u64, ..Pile::default() };
        self.own.insert(name.clone());
        Ok(name)
    }

    /// Makes what was appended durable since `intent`, for a new file with the directories above it.
    fn make_durable(
        &self,
        shared: &Shared,
        file: &mut Handle,
        path: &Path,
        is_new: bool,
        intent: Intent,
    ) -> Result<()> {
        let failed = |error| Error::io("sync", path, error);
        let root = &shared.root.path;
        if shared.pool.is_crowded() && shared.syncs.is_worth_it() {
            if shared.syncs.sync_all(intent).map_err(failed)? {
                shared.stats.synced();
            }
            shared.directories.are_synced(root, &self.dir);
            return file.file.probe().map_err(failed);
        }
        shared.stats.synced();
        if is_new {
            let is_copied = shared.folders.is_copied(folder_of(&self.name, shared.root.folders));
            shared.directories.sync(&*shared.disk, root, &self.dir, is_copied)?;
        }
        file.file.sync().map_err(failed)
    }

    fn write_whole(&self, shared: &Shared, name: &ChunkName, path: &Path, bytes: &[u8]) -> Result<()> {
        let intent = shared.syncs.intend();
        let mut file = self.create_file(shared, path)?;
        let _writing = shared.takeovers.begin(shared, &self.name, name)?;
        file.file.append(bytes).map_err(|(_, error)| Error::io("write", path, error))?;
        self.make_durable(shared, &mut file, path, true, intent)
    }

    fn create_file(&self, shared: &Shared, path: &Path) -> Result<Handle> {
        let file = shared.directories.create_file(&*shared.disk, &shared.root.path, &self.dir, path)?;
        Ok(shared.handles.hold(file))
    }

    fn touched(&mut self, error: Error) -> AppendError {
        self.touch();
        AppendError::Interference(error)
    }

    /// Whether what a chunk held has to be written again, because somebody else touched it.
    pub(crate) fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// What a chunk held has to be written again.
    pub(crate) fn touch(&mut self) {
        self.open = None;
        self.is_touched = true;
    }

    /// Everything was written again.
    pub(crate) fn mend(&mut self) {
        self.is_touched = false;
    }

    /// Closes the open chunk for good with a footer. A footer that cannot be written leaves a chunk
    /// without one, which is read the same.
    pub(crate) fn seal(&mut self, shared: &Shared) {
        let Some(open) = self.open.take() else { return };
        match seal_chunk(shared, open, self.durable_hlc) {
            Ok(untouched) => self.is_touched |= !untouched,
            Err(error) => tracing::warn!(swamp = %self.name, %error, "a chunk is left without its footer"),
        }
    }

    /// Removes every chunk of a swamp that holds nothing any more, and the directories that are empty then.
    ///
    /// One file goes alone. Of several, first a snapshot is written that knows of all and holds
    /// nothing (`encode`); with it on disk the others can go in any order, and a crash between them
    /// brings nothing back. Where a chunk of somebody else stands, which came unseen, nothing is removed: answers no.
    pub(crate) fn remove_files(
        &mut self,
        shared: &Shared,
        encode: impl FnOnce(&Log, &ChunkName) -> Vec<u8>,
    ) -> Result<bool> {
        let chunks = self.list(shared)?;
        if chunks.iter().any(|chunk| !shared.root.is_mine(chunk.incarnation)) {
            return Ok(false);
        }
        self.open = None;
        self.durable_hlc = 0;
        self.is_touched = false;
        self.pile = Pile::default();
        let mut names: Vec<String> = chunks.iter().map(ChunkName::file_name).collect();
        if names.len() > 1 {
            let snapshot = self.write_snapshot(shared, encode)?.file_name();
            for name in &names {
                self.remove(shared, name)?;
            }
            names = vec![snapshot];
        }
        if !names.is_empty() {
            // What was removed before, by a collection for example, must not come back without what stood for it.
            shared.disk.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))?;
        }
        for name in &names {
            self.remove(shared, name)?;
        }
        self.pile = Pile::default();
        self.own.clear();
        // An empty directory says the same as none, so it is no failure when it stays.
        if let Err(error) = shared.directories.remove_empty(&*shared.disk, &shared.root.path, &self.dir) {
            tracing::warn!(swamp = %self.name, %error, "the directory of an emptied swamp stays");
        }
        Ok(true)
    }

    fn remove(&self, shared: &Shared, file_name: &str) -> Result<()> {
        let path = self.dir.join(file_name);
        shared.disk.remove_file(&path).map_err(|error| Error::io("remove", &path, error))
    }

    /// The chunks in the directory.
    pub(crate) fn list(&self, shared: &Shared) -> Result<Vec<ChunkName>> {
        let names = shared.disk.list(&self.dir).map_err(|error| Error::io("list", &self.dir, error))?;
        Ok(names.iter().filter_map(|name| ChunkName::parse(name)).collect())
    }
}

/// The settings as a header can say them: the idle eviction in whole seconds, rounded up.
fn written_settings(policy: &Policy) -> (Duration, Duration) {
    let seconds = policy.idle_evict.as_secs() + u64::from(policy.idle_evict.subsec_nanos() > 0);
    (policy.write_interval, Duration::from_secs(seconds))
}

/// Opens the chunk again and checks that it is as it was left.
fn reopen(shared: &Shared, open: &OpenChunk) -> Result<Handle, TryError> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => interfered(shared, &open.path, "was removed"),
        _ => TryError::Disk { error: Error::io("open", &open.path, error), maybe: 0 },
    };
    let file = shared.disk.open_append(&open.path).map_err(gone)?;
    let now =
        file.identity().map_err(|error| TryError::Disk { error: Error::io("stat", &open.path, error), maybe: 0 })?;
    if !open.facts.left.is(&now) {
        return Err(interfered(shared, &open.path, "is not as this server left it"));
    }
    Ok(shared.handles.hold(file))
}

/// Whether the file at the path is the one that was left and no shorter.
fn still_holds(shared: &Shared, path: &Path, left: &Left) -> bool {
    shared.disk.identity(path).is_ok_and(|now| left.is_within(&now))
}

/// Puts the frames behind what is in `bytes`; answers where each ends there.
fn place_frames(
    chunk: &ChunkName,
    frames: &[FrameRef<'_>],
    start: u64,
    first_of_group: bool,
    bytes: &mut Vec<u8>,
) -> Vec<usize> {
    let salt = frame::salt(chunk.incarnation, chunk.seq);
    let place = |(index, frame): (usize, &FrameRef<'_>)| {
        // Every group is synced before the next begins, so its first frame follows a sync.
        frame.place(salt, start, first_of_group && index == 0, bytes);
        bytes.len()
    };
    frames.iter().enumerate().map(place).collect()
}

fn append_bytes(file: &mut dyn DiskFile, path: &Path, bytes: &[u8], ends: &[usize]) -> Result<(), TryError> {
    file.append(bytes).map_err(|(written, error)| {
        let maybe = ends.iter().take_while(|&&end| end as u64 <= written).count();
        TryError::Disk { error: Error::io("append to", path, error), maybe }
    })
}

/// Checks that the file at the path is the one that was written, as long as it must be, and linked once.
fn verify(shared: &Shared, file: &dyn DiskFile, path: &Path, length: u64) -> Result<Left, TryError> {
    let failed = |error| TryError::Disk { error: Error::io("stat", path, error), maybe: usize::MAX };
    let held = file.identity().map_err(failed)?;
    let named = match shared.disk.identity(path) {
        Ok(named) => named,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(interfered(shared, path, "was removed")),
        Err(error) => return Err(failed(error)),
    };
    if !named.is_same_file(&held) {
        return Err(interfered(shared, path, "was replaced"));
    }
    if held.length != length {
        return Err(interfered(shared, path, &format!("has {} bytes instead of {length}", held.length)));
    }
    if held.links != 1 {
        return Err(interfered(shared, path, &format!("has {} names", held.links)));
    }
    Ok(Left::of(&held))
}

fn interfered(shared: &Shared, path: &Path, what: &str) -> TryError {
    shared.stats.interference(path, what);
    TryError::Interference(Error::new(ErrorCode::Io, format!("{} {what} by someone else", path.display())))
}

/// Answers whether the chunk was as it was left; nothing is appended to one that is not.
fn seal_chunk(shared: &Shared, mut open: OpenChunk, last_hlc: u64) -> Result<bool> {
    let path = open.path.clone();
    let failed = |doing: &'static str| {
        let path = path.clone();
        move |error| Error::io(doing, &path, error)
    };
    let mut file = match open.file.take() {
        Some(file) => file,
        None => shared.handles.hold(shared.disk.open_append(&path).map_err(failed("open"))?),
    };
    let now = file.file.identity().map_err(failed("stat"))?;
    if !open.facts.left.is(&now) {
        shared.stats.interference(&path, "changed before it was closed");
        return Ok(false);
    }
    let OpenChunk { name, facts: ChunkFacts { left, records, crc, mut vector, .. }, .. } = open;
    vector.set(name.incarnation, last_hlc);
    let footer = Footer { records, last_hlc, crc, vector };
    let mut bytes = Vec::new();
    footer.place(frame::salt(name.incarnation, name.seq), left.length, &mut bytes);
    file.file.append(&bytes).map_err(|(_, error)| Error::io("append to", &path, error))?;
    shared.stats.synced();
    file.file.sync().map_err(failed("sync"))?;
    Ok(true)
}
