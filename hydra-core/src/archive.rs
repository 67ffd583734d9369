//! Folder archives: the files of a folder as they are, given out and taken in while the engine is at work.
//!
//! Giving out is what a copy tool does: the folder counts as copied, and nothing superseded is removed while it
//! lasts. Taking in is what a copy tool does, too, but with every name checked: a file is written under a name that
//! no swamp reads, made durable, checked, and only then put in its place. Only files of other servers come in.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderId, folder_of};
use crate::format::header::{Header, HeaderProblem, cluster_of};
use crate::format::scan::scan;
use crate::layout::{self, ChunkKind, ChunkName};
use crate::name::SwampName;
use crate::shared::Shared;
use crate::walk::{self, SwampDirs};

/// How long the folder is held ahead while it is given out.
const HOLD: Duration = Duration::from_secs(600);
/// More than the longest header.
const HEAD_MOST: u64 = 128 << 10;
/// No file of a swamp is longer: 16 GiB.
const FILE_MOST: u64 = 16 << 30;
/// How much is copied or compared at once.
const PIECE: usize = 256 << 10;

/// A file of a folder, to be read.
#[derive(Debug)]
#[non_exhaustive]
pub struct ArchivedFile {
    /// Where it is below the data directory: `00062/users/profiles/alice/s1-….hyl`.
    pub path: String,
    /// How many bytes of it belong to the archive. The file may have grown since.
    pub length: u64,
    /// When it was last written, in seconds since 1970.
    pub modified: u64,
    /// The file, at its beginning.
    pub file: File,
}

/// A folder that is being given out: an iterator over its files. Blocks on the disk.
///
/// What was acknowledged before it began is in it. Of a file that is being written only what is durable is given.
/// Files whose creation was cut short are left out: they hold nothing.
#[derive(Debug)]
pub struct Archive {
    engine: Engine,
    folder: FolderId,
    dirs: SwampDirs,
    files: VecDeque<(PathBuf, u64)>,
    held_until: Instant,
}

impl Engine {
    /// Gives out a folder, file by file. From now on it counts as copied, and as long as the iterator is used, and at
    /// most ten minutes longer, nothing superseded is removed in it.
    ///
    /// # Errors
    /// Those of the disk, when what was acknowledged cannot be made durable, or the hold cannot be noted.
    pub fn archive(&self, folder: FolderId) -> Result<Archive> {
        let shared = self.shared();
        shared.check_open()?;
        shared.folders.set_copied(folder)?;
        self.hold(folder, HOLD)?;
        self.flush(Some(folder))?;
        let dirs = SwampDirs::of(shared.root.path.join(layout::folder_dir(folder)));
        Ok(Archive { engine: self.clone(), folder, dirs, files: VecDeque::new(), held_until: Instant::now() + HOLD })
    }

    /// Begins to take files into a folder. One at a time for each folder. From now on it counts as copied.
    ///
    /// # Errors
    /// `busy` while another one is under way; those of the disk.
    pub fn unpack(&self, folder: FolderId) -> Result<Unpacking> {
        let shared = self.shared();
        shared.check_open()?;
        let turn = Turn::take(shared, folder)?;
        shared.folders.set_copied(folder)?;
        Ok(Unpacking { turn, folder, done: Unpacked::default() })
    }
}

impl Archive {
    /// Keeps the files a while longer: to be called now and then where reading them takes long.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep(&mut self) -> Result<()> {
        if self.held_until.saturating_duration_since(Instant::now()) < HOLD / 2 {
            self.engine.hold(self.folder, HOLD)?;
            self.held_until = Instant::now() + HOLD;
        }
        Ok(())
    }

    fn open(&self, path: &Path, length: u64) -> Result<Option<ArchivedFile>> {
        let failed = |doing: &'static str| move |error| Error::io(doing, path, error);
        let mut file = File::open(path).map_err(failed("open"))?;
        let mut head = Vec::new();
        io::Read::by_ref(&mut file).take(HEAD_MOST.min(length)).read_to_end(&mut head).map_err(failed("read"))?;
        if matches!(Header::decode(&head), Err(HeaderProblem::Torn)) {
            return Ok(None);
        }
        io::Seek::rewind(&mut file).map_err(failed("read"))?;
        let modified = file.metadata().and_then(|facts| facts.modified()).map_err(failed("stat"))?;
        let modified = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let below = path.strip_prefix(self.engine.data_dir()).unwrap_or(path);
        Ok(Some(ArchivedFile { path: below.display().to_string(), length, modified, file }))
    }
}

impl Iterator for Archive {
    type Item = Result<ArchivedFile>;

    fn next(&mut self) -> Option<Result<ArchivedFile>> {
        loop {
            if let Err(error) = self.keep() {
                return Some(Err(error));
            }
            if let Some((path, length)) = self.files.pop_front() {
                match self.open(&path, length) {
                    Ok(None) => continue,
                    Ok(Some(file)) => return Some(Ok(file)),
                    Err(error) => return Some(Err(error)),
                }
            }
            let listed = self.dirs.next()?.and_then(|dir| durable_files(self.engine.shared(), self.folder, &dir));
            match listed {
                Ok(files) => self.files.extend(files),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The chunks of a swamp with their lengths, at a moment when this process is not appending to one.
fn durable_files(shared: &Shared, folder: FolderId, dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let Some(name) = walk::name_of_dir(&shared.root, folder, dir)? else { return Ok(Vec::new()) };
    loop {
        let resident = shared.residents.get(&name);
        let chunks = {
            let _nobody_writes = resident.as_ref().map(|resident| resident.log.lock());
            walk::chunks(dir)?
        };
        // One that came into memory meanwhile may have been written to.
        if resident.is_some() || shared.residents.get(&name).is_none() {
            return Ok(chunks.into_iter().map(|(chunk, length)| (dir.join(chunk.file_name()), length)).collect());
        }
    }
}

/// What became of the files of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Files that are here now, and were not or were shorter.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were here already, as long or longer.
    pub kept: u64,
    /// Files that this server wrote itself; those never come from elsewhere.
    pub own: u64,
    /// Files that are here with another beginning; they stay as they are.
    pub differing: u64,
    /// Snapshots that their writer never finished; nothing would read them.
    pub unfinished: u64,
}

/// A folder that takes files in. What was taken in stays, whatever comes after it.
#[derive(Debug)]
pub struct Unpacking {
    turn: Turn,
    folder: FolderId,
    done: Unpacked,
}

impl Unpacking {
    /// Takes in one file: `path` as an archive has it, and as many bytes as it says. Requests that begin after this
    /// see what came with it. Blocks on the disk.
    ///
    /// # Errors
    /// `invalid-body` for a path that is no place of a chunk of this folder, for a file whose header says otherwise
    /// than its path, and for one that is damaged or too long; `disk-full` and `io` from the disk. Then nothing of
    /// the file is here.
    pub fn file(&mut self, path: &str, length: u64, content: &mut dyn Read) -> Result<()> {
        let place = Place::read(&self.turn.shared, self.folder, path)?;
        if length > FILE_MOST {
            return Err(refuse(path, &format!("has {length} bytes; {FILE_MOST} are allowed")));
        }
        if self.turn.shared.root.is_mine(place.chunk.incarnation) {
            self.done.own += 1;
            return Ok(());
        }
        let target = place.dir.join(place.chunk.file_name());
        let here = held(&target)?;
        if here.is_some_and(|held| held >= length) {
            self.done.kept += 1;
            return Ok(());
        }
        self.turn.shared.space.check(&self.turn.shared.root, length)?;
        let mut head = Vec::new();
        content.take(HEAD_MOST.min(length)).read_to_end(&mut head).map_err(|error| broken(path, &error))?;
        let name = self.check_head(path, &place, &head)?;
        let new = place.dir.join(format!(".{}.unpacking", place.chunk.file_name()));
        let outcome = self.receive(path, &place, &new, &head, length, content).and_then(|is_finished| {
            let differs = is_finished && here.is_some() && !begins_with(&new, &target)?;
            if differs || !is_finished {
                self.done.differing += u64::from(differs);
                self.done.unfinished += u64::from(!is_finished);
                return fs::remove_file(&new).map_err(|error| Error::io("remove", &new, error));
            }
            self.put_in_place(&place, &new, &target)?;
            self.done.files += 1;
            self.done.bytes += length;
            Ok(())
        });
        if outcome.is_err() {
            // Nothing reads a file of this name, and the next try begins with removing it.
            fs::remove_file(&new).ok();
        }
        outcome?;
        if let Some(resident) = self.turn.shared.residents.get(&name)
            && resident.refresh().is_err()
        {
            // Whoever asks next hears why.
            resident.look_soon();
        }
        Ok(())
    }

    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> Unpacked {
        self.done
    }

    /// Checks that the header says what the path says; answers the name of the swamp.
    fn check_head(&self, path: &str, place: &Place, head: &[u8]) -> Result<SwampName> {
        let root = &self.turn.shared.root;
        let (header, _) = Header::decode(head).map_err(|problem| match problem {
            HeaderProblem::Torn => refuse(path, "ends before its header does"),
            HeaderProblem::Damaged(what) => refuse(path, &format!("is damaged: {what}")),
            HeaderProblem::Newer(version) => {
                refuse(path, &format!("was written by a newer version (format {version})"))
            }
        })?;
        if header.cluster != cluster_of(&root.cluster) {
            return Err(refuse(path, &format!("is of another cluster; this server is of {:?}", root.cluster)));
        }
        let home = folder_of(&header.name, root.folders);
        if home != self.folder {
            return Err(refuse(path, &format!("is of {}, which is in folder {home}", header.name)));
        }
        if layout::swamp_path(&root.path, home, &header.name) != place.dir {
            return Err(refuse(path, &format!("is of {}, which has another directory", header.name)));
        }
        let chunk = (place.chunk.kind, place.chunk.incarnation, place.chunk.seq);
        if (header.kind, header.incarnation, header.seq) != chunk {
            return Err(refuse(path, "has the header of another file"));
        }
        Ok(header.name)
    }

    /// Writes the whole file under a name of its own, durably, and checks it. Answers whether it counts: a snapshot
    /// that its writer never finished does not.
    fn receive(
        &self,
        path: &str,
        place: &Place,
        new: &Path,
        head: &[u8],
        length: u64,
        content: &mut dyn Read,
    ) -> Result<bool> {
        let shared = &self.turn.shared;
        let failed = |error| Error::io("write", new, error);
        shared.disk.remove_file(new).map_err(|error| Error::io("remove", new, error))?;
        let mut file = shared.directories.create_file(&*shared.disk, &shared.root.path, &place.dir, new)?;
        file.append(head).map_err(|(_, error)| failed(error))?;
        let mut left = length - head.len() as u64;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let room = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match content.read(&mut piece[..room]) {
                Ok(0) => return Err(broken(path, &io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(path, &error)),
            };
            file.append(&piece[..count]).map_err(|(_, error)| failed(error))?;
            left -= count as u64;
        }
        file.sync().map_err(|error| Error::io("sync", new, error))?;
        let bytes = shared.disk.read(new).map_err(|error| Error::io("read", new, error))?;
        let scanned = scan(&place.chunk, &bytes).map_err(|_| refuse(path, "is no readable chunk"))?;
        if let Some((offset, what)) = scanned.damage {
            return Err(refuse(path, &format!("is damaged at byte {offset}: {what}")));
        }
        Ok(place.chunk.kind == ChunkKind::Log || scanned.footer.is_some())
    }

    fn put_in_place(&self, place: &Place, new: &Path, target: &Path) -> Result<()> {
        let shared = &self.turn.shared;
        fs::rename(new, target).map_err(|error| Error::io("rename", new, error))?;
        shared.directories.sync(&*shared.disk, &shared.root.path, &place.dir)
    }
}

/// Where a file of an archive belongs.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) chunk: ChunkName,
}

impl Place {
    /// The file itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(self.chunk.file_name())
    }

    /// Reads a path. Whether its directory is that of a swamp shows only when the header is known.
    pub(crate) fn read(shared: &Shared, folder: FolderId, path: &str) -> Result<Place> {
        let pieces: Vec<&str> = path.split('/').collect();
        let [dir, sanctuary, realm, swamp, file] = pieces[..] else {
            return Err(refuse(path, "is not FOLDER/SANCTUARY/REALM/SWAMP/FILE"));
        };
        if dir != layout::folder_dir(folder) {
            return Err(refuse(
                path,
                &format!("is not in {}, the directory of folder {folder}", layout::folder_dir(folder)),
            ));
        }
        if [sanctuary, realm, swamp].iter().any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(refuse(path, "has a directory that is none of a swamp"));
        }
        let chunk = ChunkName::parse(file)
            .ok_or_else(|| refuse(path, "is no chunk; allowed is SERVER-INCARNATION-SEQ.hyl or .hys"))?;
        let dir = shared.root.path.join(dir).join(sanctuary).join(realm).join(swamp);
        Ok(Place { dir, chunk })
    }
}

/// How long the file is that stands in a place; `None` when there is none.
pub(crate) fn held(target: &Path) -> Result<Option<u64>> {
    match fs::symlink_metadata(target) {
        Ok(facts) if facts.is_file() => Ok(Some(facts.len())),
        Ok(_) => {
            let detail = format!("{} is here and is no file", target.display());
            Err(Error::new(ErrorCode::InvalidBody, detail)
                .with_hint("see GET /v1/folders/{F}/verify for what is in the way"))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(Error::io("stat", target, error)),
    }
}

/// Whether a file begins with all that a shorter one holds.
fn begins_with(long: &Path, short: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).map_err(|error| Error::io("open", path, error));
    let (mut long_file, mut short_file) = (open(long)?, open(short)?);
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = short_file.read(&mut b).map_err(|error| Error::io("read", short, error))?;
        if count == 0 {
            return Ok(true);
        }
        long_file.read_exact(&mut a[..count]).map_err(|error| Error::io("read", long, error))?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}

fn refuse(path: &str, why: &str) -> Error {
    let shown: String = path.chars().take(160).collect();
    Error::new(ErrorCode::InvalidBody, format!("the file {shown:?} of the archive {why}"))
}

fn broken(path: &str, error: &io::Error) -> Error {
    refuse(path, &format!("broke off: {error}"))
}

/// The folders that take files in now.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<HashSet<FolderId>>);

/// One folder's turn, until dropped.
pub(crate) struct Turn {
    pub(crate) shared: Arc<Shared>,
    folder: FolderId,
}

impl Turn {
    pub(crate) fn take(shared: &Arc<Shared>, folder: FolderId) -> Result<Turn> {
        if !shared.arrivals.0.lock().insert(folder) {
            let detail = format!("another archive is being unpacked into folder {folder}");
            return Err(Error::new(ErrorCode::Busy, detail).with_hint("send it when that one is done"));
        }
        Ok(Turn { shared: Arc::clone(shared), folder })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.arrivals.0.lock().remove(&self.folder);
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("folder", &self.folder).finish_non_exhaustive()
    }
}
