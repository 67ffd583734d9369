//! Take-over notes: which files of a standby folder the owner has not confirmed to hold.
//!
//! A server that keeps a copy of a folder and takes a write for it appends to a chunk of its own. Until that
//! chunk is on the owner, clients that go back to the owner read stale data. So before the write is acknowledged
//! the server notes the chunk, durably and once; clients see that there are notes and stay. When the owner holds
//! every noted file, the notes are settled; a chunk that is gone on with afterwards is noted again.
//!
//! The notes of folder 17 are in `.hydra/takeover/00017`, one line per file, only ever appended to and synced:
//!
//! ```text
//! 6592723d s2-000000000002d-0001.hyl users/profiles/alice
//! ```
//!
//! The first word is the CRC32C of the rest. Appending costs the same with one note or a hundred thousand;
//! replacing the file would not. A last line without its end was cut off by a crash: nobody was told of that
//! write. Any other line that does not hold means that the notes are damaged; then every file this server wrote
//! in the folder counts as noted, which is at worst too much. Notes of files that are gone are passed over.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::{Mutex, RwLock};

use crate::base32;
use crate::disk::Disk;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderId, folder_of};
use crate::format::header::Header;
use crate::layout::{self, ChunkName};
use crate::name::SwampName;
use crate::root::{Root, replace_file};
use crate::shared::Shared;
use crate::walk;

/// How much of a chunk is read to find its header: more than the longest one.
const HEADER_BYTES: u64 = 16 << 10;

/// The most files that may be asked about at once with [`Engine::holds`](crate::Engine::holds): 10 000.
pub const MAX_HOLDS_FILES: usize = 10_000;

/// A file that a standby server wrote in place of the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeoverFile {
    /// The swamp it is of.
    pub swamp: SwampName,
    /// The name of the file in the directory of the swamp.
    pub file: String,
    /// How many bytes it has.
    pub bytes: u64,
}

/// What a server took over in a folder and nobody has settled yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Takeover {
    /// How many files there are.
    pub count: u64,
    /// Stands for exactly these files with these lengths; to be handed to
    /// [`Engine::settle`](crate::Engine::settle).
    pub version: String,
    /// The files, in the order of their swamps and names.
    pub files: Vec<TakeoverFile>,
}

/// A file that is not here as long as it is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingFile {
    /// The file as it was asked for.
    pub wanted: TakeoverFile,
    /// How many bytes of it are here; `None` when there is no such file.
    pub held: Option<u64>,
}

/// One noted file. Ordered by swamp and name, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    swamp: SwampName,
    chunk: ChunkName,
}

/// The notes of all folders.
#[derive(Debug)]
pub(crate) struct Takeovers {
    dir: PathBuf,
    folders: RwLock<HashMap<FolderId, Arc<Notes>>>,
    /// Whether there is an entry in `folders`. Every answer asks, and most servers never take anything over.
    is_any: AtomicBool,
}

impl Takeovers {
    /// Reads the notes of earlier processes.
    pub(crate) fn open(root: &Root) -> Result<Takeovers> {
        let dir = root.local(layout::TAKEOVER_DIR);
        let mut folders = HashMap::new();
        for folder in noted_folders(root, &dir)? {
            folders.insert(folder, Arc::new(Notes::read(root, folder, &dir)?));
        }
        let is_any = AtomicBool::new(!folders.is_empty());
        Ok(Takeovers { dir, folders: RwLock::new(folders), is_any })
    }

    /// How many files of a folder are noted.
    pub(crate) fn count(&self, folder: FolderId) -> u64 {
        if !self.is_any.load(Ordering::Acquire) {
            return 0;
        }
        let folders = self.folders.read();
        folders.get(&folder).map_or(0, |notes| notes.memory.lock().noted.len() as u64)
    }

    /// Notes, where the folder is a copy, that a chunk which exists is about to be written; the answer is held
    /// until the write is on disk. Touches the disk only for a chunk that is not noted.
    ///
    /// # Errors
    /// `io` and `disk-full` when the note cannot be written: then the chunk must not be, either.
    pub(crate) fn begin(&self, shared: &Shared, swamp: &SwampName, chunk: &ChunkName) -> Result<Option<Writing>> {
        let folder = folder_of(swamp, shared.root.folders);
        if !shared.folders.is_standby(folder) {
            return Ok(None);
        }
        let writing = Notes::begin(&self.notes(folder));
        writing.0.note(&*shared.disk, Note { swamp: swamp.clone(), chunk: chunk.clone() })?;
        Ok(Some(writing))
    }

    /// The noted files that exist, with their lengths; forgets the notes of others.
    pub(crate) fn list(&self, shared: &Shared, folder: FolderId) -> Result<Takeover> {
        match self.existing_notes(folder) {
            Some(notes) => notes.list(shared),
            None => Ok(takeover_of(Vec::new())),
        }
    }

    /// Forgets the notes of a folder, if they are those that were listed with this version.
    pub(crate) fn settle(&self, shared: &Shared, folder: FolderId, version: &str) -> Result<()> {
        match self.existing_notes(folder) {
            Some(notes) => notes.settle(shared, version),
            None => Ok(()),
        }
    }

    fn existing_notes(&self, folder: FolderId) -> Option<Arc<Notes>> {
        self.folders.read().get(&folder).map(Arc::clone)
    }

    fn notes(&self, folder: FolderId) -> Arc<Notes> {
        if let Some(notes) = self.existing_notes(folder) {
            return notes;
        }
        let mut folders = self.folders.write();
        self.is_any.store(true, Ordering::Release);
        Arc::clone(folders.entry(folder).or_insert_with(|| Arc::new(Notes::new(&self.dir, folder))))
    }
}

/// The folders of which there is a file of notes.
fn noted_folders(root: &Root, dir: &Path) -> Result<Vec<FolderId>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::io("list", dir, error))?.file_name();
        let folder = name.to_str().and_then(|text| text.parse().ok()).map(FolderId::new);
        // Anything else is no file of notes, such as one that was to replace another.
        found.extend(folder.filter(|&folder| {
            folder.get() < root.folders.get() && name.to_str() == Some(layout::folder_dir(folder).as_str())
        }));
    }
    Ok(found)
}

/// The notes of one folder.
#[derive(Debug)]
struct Notes {
    /// Locked before `memory`, and for as long as the disk takes.
    file: Mutex<NotesFile>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// What is durably noted.
    noted: BTreeSet<Note>,
    /// What is to be noted next; whoever comes to the file first takes all of it there.
    wanted: BTreeSet<Note>,
    /// How many writes have begun.
    begun: u64,
    /// How many of them have not ended.
    writing: u64,
}

/// A write to a noted chunk; ends when dropped. Until then the notes of its folder cannot be settled.
#[derive(Debug)]
pub(crate) struct Writing(Arc<Notes>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.memory.lock().writing -= 1;
    }
}

impl Notes {
    fn new(dir: &Path, folder: FolderId) -> Notes {
        let file = NotesFile { path: dir.join(layout::folder_dir(folder)), folder, exists: false, is_suspect: false };
        Notes { file: Mutex::new(file), memory: Mutex::default() }
    }

    fn read(root: &Root, folder: FolderId, dir: &Path) -> Result<Notes> {
        let notes = Notes::new(dir, folder);
        let mut file = notes.file.lock();
        let content = fs::read(&file.path).map_err(|error| Error::io("read", &file.path, error))?;
        let Parsed { mut noted, is_damaged, is_whole } = parse(&content, root, folder);
        if is_damaged {
            tracing::error!(file = %file.path.display(), "notes are damaged: all own files of the folder count as noted");
            noted.extend(own_files(root, folder)?);
        }
        file.exists = true;
        file.is_suspect = !is_whole;
        notes.memory.lock().noted = noted;
        drop(file);
        Ok(notes)
    }

    fn begin(notes: &Arc<Notes>) -> Writing {
        let mut memory = notes.memory.lock();
        memory.begun += 1;
        memory.writing += 1;
        Writing(Arc::clone(notes))
    }

    /// Makes a note durable that is not. Those who come meanwhile share one sync.
    fn note(&self, disk: &dyn Disk, note: Note) -> Result<()> {
        {
            let mut memory = self.memory.lock();
            if memory.noted.contains(&note) {
                return Ok(());
            }
            memory.wanted.insert(note.clone());
        }
        let mut file = self.file.lock();
        let (fresh, all) = {
            let mut memory = self.memory.lock();
            if memory.noted.contains(&note) {
                return Ok(());
            }
            let mut fresh = std::mem::take(&mut memory.wanted);
            fresh.insert(note);
            (fresh, if file.is_suspect { memory.noted.clone() } else { BTreeSet::new() })
        };
        file.add(disk, &fresh, all)?;
        self.memory.lock().noted.extend(fresh);
        Ok(())
    }

    /// The notes, and how many writes had begun when no other was on its way.
    fn look(&self) -> (Vec<Note>, Option<u64>) {
        let memory = self.memory.lock();
        (memory.noted.iter().cloned().collect(), (memory.writing == 0).then_some(memory.begun))
    }

    fn list(&self, shared: &Shared) -> Result<Takeover> {
        let (notes, begun) = self.look();
        let mut gone = Vec::new();
        let mut files = Vec::with_capacity(notes.len());
        for note in notes {
            match note.length(shared)? {
                Some(bytes) => {
                    files.push(TakeoverFile { file: note.chunk.file_name(), swamp: note.swamp, bytes });
                }
                None => gone.push(note),
            }
        }
        if !gone.is_empty() {
            self.forget(shared, &gone, begun)?;
        }
        Ok(takeover_of(files))
    }

    /// Forgets the notes of files that were gone when nobody was writing, unless somebody has begun to since.
    fn forget(&self, shared: &Shared, gone: &[Note], begun: Option<u64>) -> Result<()> {
        let mut file = self.file.lock();
        let is_empty = {
            let mut memory = self.memory.lock();
            if begun != Some(memory.begun) {
                return Ok(());
            }
            for note in gone {
                memory.noted.remove(note);
            }
            memory.noted.is_empty()
        };
        if is_empty { file.remove(&*shared.disk) } else { Ok(()) }
    }

    fn settle(&self, shared: &Shared, version: &str) -> Result<()> {
        let mut file = self.file.lock();
        let (notes, begun) = self.look();
        if notes.is_empty() {
            return Ok(());
        }
        let begun = begun.ok_or_else(|| not_as_listed(file.folder, "is being written"))?;
        let mut files = Vec::with_capacity(notes.len());
        for note in notes {
            if let Some(bytes) = note.length(shared)? {
                files.push(TakeoverFile { file: note.chunk.file_name(), swamp: note.swamp, bytes });
            }
        }
        if version_of(&files) != version {
            return Err(not_as_listed(file.folder, "has files or lengths other than those of this version"));
        }
        if !self.clear(begun) {
            return Err(not_as_listed(file.folder, "was written meanwhile"));
        }
        file.remove(&*shared.disk)
    }

    /// Forgets everything in memory unless a write has begun since; answers whether it did. From then on a write
    /// to one of the files is noted anew, and waits for the file until the old notes are gone.
    fn clear(&self, begun: u64) -> bool {
        let mut memory = self.memory.lock();
        let unchanged = memory.begun == begun;
        if unchanged {
            memory.noted.clear();
        }
        unchanged
    }
}

fn not_as_listed(folder: FolderId, why: &str) -> Error {
    Error::new(ErrorCode::VersionMismatch, format!("folder {folder} {why}; its notes stay"))
        .with_hint("list what was taken over again and see that the owner holds all of it")
}

impl Note {
    fn line(&self) -> String {
        let text = format!("{} {}", self.chunk.file_name(), self.swamp);
        format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes()))
    }

    /// Reads a line without its end.
    fn parse(line: &[u8]) -> Option<Note> {
        let (crc, text) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let (file, swamp) = text.split_once(' ')?;
        let note = Note { swamp: swamp.parse().ok()?, chunk: ChunkName::parse(file)? };
        (crc == format!("{:08x}", crc32c::crc32c(text.as_bytes()))).then_some(note)
    }

    /// How long the file is; `None` when it is gone.
    fn length(&self, shared: &Shared) -> Result<Option<u64>> {
        length_of(shared, &self.swamp, &self.chunk.file_name())
    }
}

fn length_of(shared: &Shared, swamp: &SwampName, file: &str) -> Result<Option<u64>> {
    let path = layout::swamp_path(&shared.root.path, folder_of(swamp, shared.root.folders), swamp).join(file);
    match shared.disk.identity(&path) {
        Ok(identity) => Ok(Some(identity.length)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("stat", &path, error)),
    }
}

/// What a file of notes says.
struct Parsed {
    noted: BTreeSet<Note>,
    /// A line does not hold that no crash can have left behind.
    is_damaged: bool,
    /// More can be appended.
    is_whole: bool,
}

fn parse(content: &[u8], root: &Root, folder: FolderId) -> Parsed {
    let mut lines: Vec<&[u8]> = content.split(|&byte| byte == b'\n').collect();
    let tail = lines.pop().unwrap_or_default();
    let read = |line: &&[u8]| Note::parse(line).filter(|note| folder_of(&note.swamp, root.folders) == folder);
    let notes: Vec<Option<Note>> = lines.iter().map(read).collect();
    let is_damaged = notes.iter().any(Option::is_none);
    let noted = notes.into_iter().flatten().chain(read(&tail)).collect();
    Parsed { noted, is_damaged, is_whole: tail.is_empty() && !is_damaged }
}

/// Every chunk in a folder that this server wrote, whose header can be read.
fn own_files(root: &Root, folder: FolderId) -> Result<Vec<Note>> {
    let mut found = Vec::new();
    walk::swamps(&root.path.join(layout::folder_dir(folder)), &mut |dir, chunks| {
        for (chunk, _) in chunks.iter().filter(|(chunk, _)| root.is_mine(chunk.incarnation)) {
            if let Some(swamp) = swamp_of(&dir.join(chunk.file_name()))? {
                found.push(Note { swamp, chunk: chunk.clone() });
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn swamp_of(path: &Path) -> Result<Option<SwampName>> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEADER_BYTES).read_to_end(&mut head));
    match read {
        Ok(_) => Ok(Header::decode(&head).ok().map(|(header, _)| header.name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// The file with the notes of a folder.
#[derive(Debug)]
struct NotesFile {
    path: PathBuf,
    folder: FolderId,
    exists: bool,
    /// It may end anywhere: it is replaced as a whole instead of appended to.
    is_suspect: bool,
}

impl NotesFile {
    /// Adds notes durably; `all` are those that are there, needed only for a file that is replaced.
    fn add(&mut self, disk: &dyn Disk, fresh: &BTreeSet<Note>, mut all: BTreeSet<Note>) -> Result<()> {
        if self.is_suspect {
            all.extend(fresh.iter().cloned());
            self.make_dir(disk)?;
            replace_file(&self.path, print(&all).as_bytes())?;
        } else {
            // Until it is known to be whole again.
            self.is_suspect = true;
            self.append(disk, print(fresh).as_bytes())?;
        }
        (self.exists, self.is_suspect) = (true, false);
        Ok(())
    }

    fn append(&self, disk: &dyn Disk, text: &[u8]) -> Result<()> {
        if !self.exists {
            self.make_dir(disk)?;
        }
        let opened = if self.exists { disk.open_append(&self.path) } else { disk.create_new(&self.path) };
        let mut file = opened.map_err(|error| Error::io("open", &self.path, error))?;
        file.append(text).map_err(|(_, error)| Error::io("append to", &self.path, error))?;
        if !self.exists {
            sync_dir(disk, parent(&self.path))?;
        }
        file.sync().map_err(|error| Error::io("sync", &self.path, error))
    }

    fn make_dir(&self, disk: &dyn Disk) -> Result<()> {
        let dir = parent(&self.path);
        disk.create_dir(dir).map_err(|error| Error::io("create", dir, error))?;
        sync_dir(disk, parent(dir))
    }

    /// Removes the file durably. Where that fails its notes come back with the next process, which is
    /// at worst too much.
    fn remove(&mut self, disk: &dyn Disk) -> Result<()> {
        disk.remove_file(&self.path).map_err(|error| Error::io("remove", &self.path, error))?;
        (self.exists, self.is_suspect) = (false, false);
        sync_dir(disk, parent(&self.path))
    }
}

fn print(notes: &BTreeSet<Note>) -> String {
    notes.iter().map(Note::line).collect()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
}

fn takeover_of(files: Vec<TakeoverFile>) -> Takeover {
    Takeover { count: files.len() as u64, version: version_of(&files), files }
}

/// The same for the same files with the same lengths, on every server and after every restart.
fn version_of(files: &[TakeoverFile]) -> String {
    let mut text = String::new();
    for TakeoverFile { swamp, file, bytes } in files {
        // Writing to a text never fails; neither names nor files have line ends.
        let _ = writeln!(text, "{bytes} {file} {swamp}");
    }
    base32::encode(xxhash_rust::xxh3::xxh3_128(text.as_bytes()), base32::WIDTH_128)
}

/// Those of the files that are not here, or not as long.
///
/// # Errors
/// `invalid-body` when there are too many, or one is no chunk of a swamp of the folder; `io` from the disk.
pub(crate) fn missing(shared: &Shared, folder: FolderId, files: &[TakeoverFile]) -> Result<Vec<MissingFile>> {
    if files.len() > MAX_HOLDS_FILES {
        let detail = format!("files has {} entries; {MAX_HOLDS_FILES} are allowed", files.len());
        return Err(Error::new(ErrorCode::InvalidBody, detail).with_hint("ask about the rest in further requests"));
    }
    for (index, file) in files.iter().enumerate() {
        check(shared, folder, index, file)?;
    }
    let mut missing = Vec::new();
    for wanted in files {
        let held = length_of(shared, &wanted.swamp, &wanted.file)?;
        if held.is_none_or(|held| held < wanted.bytes) {
            missing.push(MissingFile { wanted: wanted.clone(), held });
        }
    }
    Ok(missing)
}

fn check(shared: &Shared, folder: FolderId, index: usize, wanted: &TakeoverFile) -> Result<()> {
    let refuse = |why: String| Err(Error::new(ErrorCode::InvalidBody, why));
    let home = folder_of(&wanted.swamp, shared.root.folders);
    if home != folder {
        return refuse(format!("files[{index}].swamp is {}, which is in folder {home}, not {folder}", wanted.swamp));
    }
    if ChunkName::parse(&wanted.file).is_none() {
        let shown: String = wanted.file.chars().take(80).collect();
        return refuse(format!(
            "files[{index}].file is {shown:?}; allowed is the name of a chunk, SERVER-INCARNATION-SEQ.hyl or .hys"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::disk::{Lie, RecordingDisk};
    use crate::engine::{Engine, EngineOptions};
    use crate::error::Applied;
    use crate::folder::FolderCount;
    use crate::policy::Policy;
    use crate::value::Value;
    use std::time::{Duration, Instant};

    fn swamp() -> SwampName {
        "users/profiles/alice".parse().expect("a name")
    }

    fn standby(dir: &Path) -> Engine {
        Engine::open(options(dir)).expect("opened")
    }

    fn options(dir: &Path) -> EngineOptions {
        let mut options = EngineOptions::new(dir);
        options.server_id = Some("s2".into());
        options.standby = FolderCount::DEFAULT.all();
        options.default_policy = Policy { write_interval: Duration::ZERO, ..Policy::default() };
        options
    }

    fn put(engine: &Engine, value: &str) -> Result<()> {
        engine.put(&swamp(), "k", Value::json(value).expect("JSON")).map(drop)
    }

    #[test]
    fn a_note_is_one_line() {
        let note = Note::parse(b"1ec61ebd s2-000000000002d-0001.hyl users/profiles/alice b");
        let chunk = ChunkName::parse("s2-000000000002d-0001.hyl").expect("a name");
        let expected = Note { swamp: "users/profiles/alice b".parse().expect("a name"), chunk };
        assert_eq!(expected.line(), "1ec61ebd s2-000000000002d-0001.hyl users/profiles/alice b\n");
        assert_eq!(note, Some(expected));
        for line in [
            "",
            "1ec61ebd",
            "1ec61ebd s2-000000000002d-0001.hyl users/profiles/alice",
            "1EC61EBD s2-000000000002d-0001.hyl users/profiles/alice b",
        ] {
            assert_eq!(Note::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn while_a_write_is_on_its_way_nothing_is_settled() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = standby(dir.path());
        put(&engine, "1").expect("written");
        let folder = engine.folder_of(&swamp());
        let listed = engine.takeover(folder).expect("listed");
        let chunk = ChunkName::parse(&listed.files[0].file).expect("a chunk");
        let shared = engine.shared();
        let writing = shared.takeovers.begin(shared, &swamp(), &chunk).expect("noted already");
        let refused = engine.settle(folder, &listed.version).expect_err("a write is on its way");
        assert_eq!((refused.code(), engine.takeover_count(folder)), (ErrorCode::VersionMismatch, 1));
        drop(writing);
        engine.settle(folder, &listed.version).expect("nothing was written after all");
        assert_eq!(engine.takeover_count(folder), 0);
    }

    #[test]
    fn a_write_that_came_and_went_while_lengths_were_compared_keeps_the_notes() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = standby(dir.path());
        put(&engine, "1").expect("written");
        let notes = engine.shared().takeovers.notes(engine.folder_of(&swamp()));
        let (_, begun) = notes.look();
        put(&engine, "2").expect("written");
        assert!(!notes.clear(begun.expect("nobody writes")));
        assert_eq!(notes.memory.lock().noted.len(), 1);
        assert!(notes.clear(notes.look().1.expect("nobody writes")));
    }

    #[test]
    fn without_its_note_a_write_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = standby(dir.path());
        let folder = engine.folder_of(&swamp());
        let in_the_way = dir.path().join(".hydra/takeover");
        for round in 0..2 {
            fs::write(&in_the_way, "").expect("a file where the directory of the notes has to be");
            let refused = put(&engine, "1").expect_err("it cannot be noted");
            assert_eq!((refused.code(), refused.applied()), (ErrorCode::Io, Applied::No));
            fs::remove_file(&in_the_way).expect("removed");
            let until = Instant::now() + Duration::from_secs(10);
            while put(&engine, "2").is_err() {
                assert!(Instant::now() < until, "writes go on");
                std::thread::sleep(Duration::from_millis(5));
            }
            let listed = engine.takeover(folder).expect("listed");
            assert_eq!(listed.count, 1, "round {round}: what was given up is empty or gone");
            engine.settle(folder, &listed.version).expect("settled");
            fs::remove_dir(&in_the_way).expect("empty");
        }
        drop(engine);
        assert_eq!(standby(dir.path()).get(&swamp(), "k").expect("readable").expect("there").value.as_bytes(), b"2");
    }

    #[test]
    fn many_swamps_that_are_taken_over_at_once_are_all_noted() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = standby(dir.path());
        let folder = engine.folder_of(&swamp());
        let only = [folder].into_iter().collect();
        let names: Vec<SwampName> = swamp().in_folders(&only, FolderCount::DEFAULT).take(40).collect();
        std::thread::scope(|scope| {
            for names in names.chunks(5) {
                let engine = &engine;
                scope.spawn(move || {
                    for name in names {
                        engine.put(name, "k", Value::json("1").expect("JSON")).expect("written");
                    }
                });
            }
        });
        drop(engine);
        assert_eq!(standby(dir.path()).takeover_count(folder), 40, "what was acknowledged is noted on disk");
    }

    /// What is noted when the power is lost now: nothing that was not synced is there.
    fn noted_after_a_crash(disk: &RecordingDisk, dir: &Path, engine: &Engine) -> Vec<SwampName> {
        let after = RecordingDisk::new(dir, Lie::None);
        after.load(disk.store().image(&[], 0));
        let folder = engine.folder_of(&swamp());
        let notes = after.read(&engine.data_dir().join(".hydra/takeover").join(layout::folder_dir(folder)));
        let parsed = parse(&notes.unwrap_or_default(), &engine.shared().root, folder);
        assert!(parsed.is_whole);
        parsed.noted.into_iter().map(|note| note.swamp).collect()
    }

    #[test]
    fn a_loss_of_power_right_after_the_acknowledgement_leaves_the_note() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RecordingDisk::new(dir.path(), Lie::None);
        disk.create_dir(&dir.path().canonicalize().expect("there").join(".hydra")).expect("created");
        let engine = Engine::open_on(options(dir.path()), Arc::new(disk.clone())).expect("opened");
        disk.sync_dir(engine.data_dir()).expect("synced");
        let folder = engine.folder_of(&swamp());
        let only = [folder].into_iter().collect();
        let mut names: Vec<SwampName> = swamp().in_folders(&only, FolderCount::DEFAULT).take(3).collect();
        for round in ["1", "2"] {
            for (at, name) in names.iter().enumerate() {
                engine.put(name, "k", Value::json(round).expect("JSON")).expect("written");
                let noted = noted_after_a_crash(&disk, dir.path(), &engine);
                assert!(noted.len() == at + 1 && noted.contains(name), "round {round}: {noted:?}");
            }
            engine.settle(folder, &engine.takeover(folder).expect("listed").version).expect("settled");
            assert_eq!(noted_after_a_crash(&disk, dir.path(), &engine), [], "settled for good");
            names.reverse();
        }
    }
}
