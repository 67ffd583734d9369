//! One swamp on disk: its files in memory, what each of them is, and what they say together.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::engine::CopyState;
use crate::error::{Error, Result};
use crate::format::scan::{Scan, Unreadable, scan};
use crate::inspect::directory::Directory;
use crate::layout::{ChunkKind, ChunkName};
use crate::merge::{Chunk, Merged, merge};
use crate::name::SwampName;
use crate::stamp::Timestamp;
use crate::state::State;
use crate::walk;

/// A directory that changes while it is read is read again so often, after such a wait.
const TRIES: usize = 5;
const WAIT: Duration = Duration::from_millis(30);

/// A chunk file in memory.
#[derive(Debug)]
pub(super) struct SwampFile {
    pub(super) name: ChunkName,
    pub(super) bytes: Vec<u8>,
    /// How many names the file has.
    pub(super) links: u64,
    pub(super) modified: Option<SystemTime>,
    pub(super) content: Content,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Content {
    /// A chunk of this swamp.
    Chunk(Scan),
    /// Its creation was cut short; it never held anything.
    Empty,
    /// Not readable as a chunk.
    Damaged(String),
    /// A newer version wrote it.
    Newer(u16),
    /// A chunk, but not one of this swamp and directory.
    Stranger { scan: Scan, why: Strange },
}

/// Why a chunk does not belong where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Strange {
    /// It is of another swamp, which belongs there below the root.
    Misplaced(SwampName, PathBuf),
    /// It is of another cluster.
    OtherCluster,
}

impl Strange {
    pub(super) fn text(&self) -> String {
        match self {
            Strange::Misplaced(name, home) => format!("misplaced: it is of {name} and belongs in {}", home.display()),
            Strange::OtherCluster => "it is of another cluster".to_owned(),
        }
    }
}

impl SwampFile {
    /// The scan of a chunk of this swamp.
    pub(super) fn scan(&self) -> Option<&Scan> {
        match &self.content {
            Content::Chunk(scan) => Some(scan),
            _ => None,
        }
    }

    fn header_name(&self) -> Option<&SwampName> {
        match &self.content {
            Content::Chunk(scan) | Content::Stranger { scan, .. } => Some(&scan.header.name),
            _ => None,
        }
    }
}

/// A swamp as its files say.
#[derive(Debug)]
pub(super) struct SwampOnDisk {
    pub(super) dir: PathBuf,
    /// As most of its files say; `None` when none is readable.
    pub(super) name: Option<SwampName>,
    pub(super) files: Vec<SwampFile>,
}

impl SwampOnDisk {
    /// Reads every chunk in a directory. With `directory` chunks that do not belong there are told apart.
    ///
    /// # Errors
    /// `io` when a file cannot be read.
    pub(super) fn read(directory: Option<&Directory>, dir: &Path) -> Result<SwampOnDisk> {
        let mut tries = 1;
        loop {
            match read_files(dir) {
                Ok(files) => return Ok(SwampOnDisk::of(directory, dir, files)),
                // A server or a copy tool is at work: what was listed is gone.
                Err(error) if error.is_gone && tries < TRIES => std::thread::sleep(WAIT),
                Err(error) => return Err(error.error),
            }
            tries += 1;
        }
    }

    fn of(directory: Option<&Directory>, dir: &Path, mut files: Vec<SwampFile>) -> SwampOnDisk {
        let below = directory.and_then(|known| dir.strip_prefix(&known.root).ok());
        let at_home = |name: &&SwampName| directory.zip(below).is_some_and(|(known, below)| known.home(name) == below);
        let names = || files.iter().filter_map(SwampFile::header_name);
        let name = names().find(at_home).or_else(|| most_common(names())).cloned();
        for file in &mut files {
            let Content::Chunk(scan) = &file.content else { continue };
            if let Some(why) = stranger(directory, below, name.as_ref(), scan) {
                file.content = Content::Stranger { scan: scan.clone(), why };
            }
        }
        SwampOnDisk { dir: dir.to_path_buf(), name, files }
    }

    /// Keeps only the files for which `keep` holds.
    pub(super) fn retain(&mut self, keep: impl FnMut(&SwampFile) -> bool) {
        self.files.retain(keep);
    }

    /// The chunks, ready to be merged.
    pub(super) fn view(&self) -> View<'_> {
        let mut view = View { chunks: Vec::new(), at: Vec::new(), packed: Vec::new() };
        for (at, file) in self.files.iter().enumerate() {
            let Some(scan) = file.scan() else { continue };
            match Chunk::new(&file.name, scan, &file.bytes) {
                Some(chunk) => {
                    view.chunks.push(chunk);
                    view.at.push(at);
                }
                None => view.packed.push(at),
            }
        }
        view
    }

    /// Merges the files and calls `with` with what they say.
    pub(super) fn merged<T>(&self, with: impl FnOnce(&View<'_>, Merged<'_>) -> T) -> T {
        let view = self.view();
        let merged = merge(&view.chunks);
        with(&view, merged)
    }

    /// Whether all that the files refer to is here and whole.
    pub(super) fn copy_state(&self, view: &View<'_>, merged: &Merged<'_>) -> CopyState {
        let bad = |file: &SwampFile| match &file.content {
            Content::Chunk(scan) => scan.damage.is_some(),
            Content::Empty => false,
            Content::Damaged(_) | Content::Newer(_) | Content::Stranger { .. } => true,
        };
        match () {
            () if self.files.iter().any(bad) || !view.packed.is_empty() || !merged.not_understood.is_empty() => {
                CopyState::Degraded
            }
            () if !merged.is_complete() => CopyState::Incomplete,
            () => CopyState::Complete,
        }
    }

    /// The state that the files say, as a server would serve it.
    pub(super) fn state(&self) -> State {
        self.merged(|view, merged| {
            let copy = self.copy_state(view, &merged);
            State::of_merged(merged, copy, Vec::new())
        })
    }
}

/// The chunks of a swamp; `at` are their indexes in its files, `packed` those of files that cannot be decompressed.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) chunks: Vec<Chunk<'a>>,
    pub(super) at: Vec<usize>,
    pub(super) packed: Vec<usize>,
}

/// What is missing, of a chunk that the merge could not place.
pub(super) fn waiting_text(kind: ChunkKind) -> &'static str {
    match kind {
        ChunkKind::Log => "it refers to records that are not here (yet)",
        ChunkKind::Snap => "a snapshot without its end, and nothing else has all that it knows",
    }
}

/// What makes a file unreadable as a chunk, as a sentence.
pub(super) fn unreadable_text(problem: &Unreadable) -> String {
    match problem {
        Unreadable::Torn => "its creation was cut short; it never held anything".to_owned(),
        Unreadable::Damaged(what) => what.clone(),
        Unreadable::Newer(version) => format!("it was written by a newer version (format {version})"),
    }
}

fn stranger(
    directory: Option<&Directory>,
    below: Option<&Path>,
    name: Option<&SwampName>,
    scan: &Scan,
) -> Option<Strange> {
    let header = &scan.header;
    let Some(directory) = directory else {
        let other = name.is_some_and(|name| *name != header.name);
        return other.then(|| Strange::Misplaced(header.name.clone(), PathBuf::from(header.name.as_str())));
    };
    let home = directory.home(&header.name);
    if below.is_some_and(|below| home != below) {
        return Some(Strange::Misplaced(header.name.clone(), home));
    }
    (header.cluster != directory.cluster_id()).then_some(Strange::OtherCluster)
}

fn most_common<'a>(names: impl Iterator<Item = &'a SwampName>) -> Option<&'a SwampName> {
    let mut counted: Vec<(usize, &SwampName)> = Vec::new();
    for name in names {
        match counted.iter_mut().find(|(_, held)| *held == name) {
            Some((count, _)) => *count += 1,
            None => counted.push((1, name)),
        }
    }
    counted.into_iter().rev().max_by_key(|(count, _)| *count).map(|(_, name)| name)
}

/// Why a directory was not read.
struct ReadError {
    error: Error,
    /// Something that was listed was not there any more.
    is_gone: bool,
}

fn read_files(dir: &Path) -> Result<Vec<SwampFile>, ReadError> {
    let listed = walk::chunks(dir).map_err(|error| ReadError { error, is_gone: false })?;
    listed.into_iter().map(|(name, _)| read_file(dir, name)).collect()
}

fn read_file(dir: &Path, name: ChunkName) -> Result<SwampFile, ReadError> {
    let path = dir.join(name.file_name());
    let failed = |doing: &'static str| {
        let path = &path;
        move |error: io::Error| ReadError {
            is_gone: error.kind() == io::ErrorKind::NotFound,
            error: Error::io(doing, path, error),
        }
    };
    let facts = fs::metadata(&path).map_err(failed("stat"))?;
    let modified = facts.modified().ok();
    if !facts.is_file() {
        // Reading a pipe would never end.
        let content = Content::Damaged("it is no regular file".to_owned());
        return Ok(SwampFile { name, bytes: Vec::new(), links: 1, modified, content });
    }
    let bytes = fs::read(&path).map_err(failed("read"))?;
    let content = content_of(&name, &bytes);
    Ok(SwampFile { name, bytes, links: facts.nlink(), modified, content })
}

/// What the bytes of a file are.
pub(super) fn content_of(name: &ChunkName, bytes: &[u8]) -> Content {
    match scan(name, bytes) {
        Ok(scan) => Content::Chunk(scan),
        Err(Unreadable::Torn) => Content::Empty,
        Err(Unreadable::Newer(version)) => Content::Newer(version),
        Err(Unreadable::Damaged(what)) => Content::Damaged(what),
    }
}

/// The wall clock part of a clock value.
pub(super) fn clock_time(hlc: u64) -> Timestamp {
    Timestamp::from_millis(hlc >> 16)
}
