//! Walking the directories of a folder: for counting and checking, never for serving.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::folder::{FolderId, folder_of};
use crate::format::header::Header;
use crate::layout::{self, ChunkName};
use crate::name::SwampName;
use crate::root::Root;

/// A header with the longest name and the longest vector is shorter than this.
const HEAD_MOST: u64 = 128 << 10;

/// What is done with the directory of a swamp, and the names and lengths of its chunks.
pub(crate) type EachSwamp<'a> = dyn FnMut(&Path, &[(ChunkName, u64)]) -> Result<()> + 'a;

/// What is met on a walk.
#[derive(Debug)]
pub(crate) enum Met<'a> {
    /// The directory of a swamp, with the names and lengths of its chunks; it may have none.
    Swamp(&'a Path, &'a [(ChunkName, u64)]),
    /// Anything else: an entry that is neither a chunk in the directory of a swamp nor a directory on the way there.
    Stray(&'a Path),
}

/// Calls `each` with the directory of every swamp below a folder that has chunks, and with their
/// names and lengths, in the order of names. Directories that vanish meanwhile are passed over.
pub(crate) fn swamps(folder: &Path, each: &mut EachSwamp<'_>) -> Result<()> {
    everything(folder, &mut |met| match met {
        Met::Swamp(dir, chunks) if !chunks.is_empty() => each(dir, chunks),
        _ => Ok(()),
    })
}

/// Calls `each` with everything below a folder, in the order of names.
pub(crate) fn everything(folder: &Path, each: &mut dyn FnMut(Met<'_>) -> Result<()>) -> Result<()> {
    for sanctuary in directories(folder, each)? {
        for realm in directories(&sanctuary, each)? {
            for swamp in directories(&realm, each)? {
                swamp_directory(&swamp, each)?;
            }
        }
    }
    Ok(())
}

fn swamp_directory(swamp: &Path, each: &mut dyn FnMut(Met<'_>) -> Result<()>) -> Result<()> {
    let mut strays = Vec::new();
    let chunks = list_chunks(swamp, &mut |path| strays.push(path))?;
    each(Met::Swamp(swamp, &chunks))?;
    strays.sort();
    strays.iter().try_for_each(|path| each(Met::Stray(path)))
}

/// The chunks in the directory of a swamp, with their lengths.
pub(crate) fn chunks(swamp: &Path) -> Result<Vec<(ChunkName, u64)>> {
    list_chunks(swamp, &mut |_| ())
}

fn list_chunks(swamp: &Path, stray: &mut dyn FnMut(PathBuf)) -> Result<Vec<(ChunkName, u64)>> {
    let mut found = Vec::new();
    for entry in entries(swamp)? {
        let Some(name) = entry.file_name().to_str().and_then(ChunkName::parse) else {
            stray(entry.path());
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => found.push((name, metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("stat", &entry.path(), error)),
        }
    }
    found.sort();
    Ok(found)
}

/// The name of the swamp in a directory, as the header of one of its chunks says; `None` when none is readable.
pub(crate) fn name_of(swamp: &Path, chunks: &[(ChunkName, u64)]) -> Result<Option<SwampName>> {
    for (chunk, _) in chunks {
        let path = swamp.join(chunk.file_name());
        let mut head = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(HEAD_MOST).read_to_end(&mut head));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", &path, error)),
        }
        if let Ok((header, _)) = Header::decode(&head) {
            return Ok(Some(header.name));
        }
    }
    Ok(None)
}

/// The directories of the swamps of a folder, in no order: one open directory on each level, however many there
/// are. Directories that vanish meanwhile are passed over.
#[derive(Debug)]
pub(crate) struct SwampDirs {
    folder: Option<PathBuf>,
    /// The folder, a sanctuary, a realm.
    levels: Vec<(PathBuf, fs::ReadDir)>,
}

impl SwampDirs {
    pub(crate) fn of(folder: PathBuf) -> SwampDirs {
        SwampDirs { folder: Some(folder), levels: Vec::with_capacity(3) }
    }

    fn enter(&mut self, dir: PathBuf) -> Result<()> {
        match fs::read_dir(&dir) {
            Ok(entries) => self.levels.push((dir, entries)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("list", &dir, error)),
        }
        Ok(())
    }
}

impl Iterator for SwampDirs {
    type Item = Result<PathBuf>;

    fn next(&mut self) -> Option<Result<PathBuf>> {
        if let Some(folder) = self.folder.take()
            && let Err(error) = self.enter(folder)
        {
            return Some(Err(error));
        }
        loop {
            let depth = self.levels.len();
            let (dir, entries) = self.levels.last_mut()?;
            match entries.next() {
                None => drop(self.levels.pop()),
                Some(Err(error)) => {
                    let error = Error::io("list", dir, error);
                    self.levels.pop();
                    return Some(Err(error));
                }
                Some(Ok(entry)) => {
                    let path = entry.path();
                    if is_hidden(&path) || !path.is_dir() {
                        continue;
                    }
                    if depth == 3 {
                        return Some(Ok(path));
                    }
                    if let Err(error) = self.enter(path) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

/// The name of the swamp in a directory, by its path or by its files; `None` where neither can be read.
pub(crate) fn name_at(dir: &Path) -> Result<Option<SwampName>> {
    let parts = || {
        let mut above = dir.ancestors().map(|dir| layout::decode_part(dir.file_name()?.to_str()?));
        let (swamp, realm, sanctuary) = (above.next()??, above.next()??, above.next()??);
        SwampName::new(&sanctuary, &realm, &swamp).ok()
    };
    match parts() {
        Some(name) => Ok(Some(name)),
        None => name_of(dir, &chunks(dir)?),
    }
}

/// The name of the swamp in a directory of a folder; `None` for one that stands where no swamp of the folder belongs,
/// and for one that has no readable chunk and a name that was shortened.
pub(crate) fn name_of_dir(root: &Root, folder: FolderId, dir: &Path) -> Result<Option<SwampName>> {
    let is_home = |name: &SwampName| {
        folder_of(name, root.folders) == folder && layout::swamp_path(&root.path, folder, name) == dir
    };
    Ok(name_at(dir)?.filter(is_home))
}

/// Names of swamps never begin with a dot on disk; copy tools keep directories of their own that do.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The directories in a directory; everything else in it is a stray. Links to directories are
/// followed, as the engine does.
fn directories(parent: &Path, each: &mut dyn FnMut(Met<'_>) -> Result<()>) -> Result<Vec<PathBuf>> {
    if parent.is_file() {
        each(Met::Stray(parent))?;
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = entries(parent)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        if !is_hidden(&path) && path.is_dir() { found.push(path) } else { each(Met::Stray(&path))? }
    }
    Ok(found)
}

/// The directories in a directory, in the order of their names.
pub(crate) fn subdirectories(parent: &Path) -> Result<Vec<PathBuf>> {
    directories(parent, &mut |_| Ok(()))
}

fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    listed.collect::<io::Result<_>>().map_err(|error| Error::io("list", dir, error))
}
