//! Walking the directories of a folder: for counting and checking, never for serving.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::header::Header;
use crate::layout::ChunkName;
use crate::name::SwampName;

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
        // Names of swamps never begin with a dot on disk; copy tools keep directories of their own that do.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_dir() { found.push(path) } else { each(Met::Stray(&path))? }
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
