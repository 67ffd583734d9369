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

/// Calls `each` with the directory of every swamp below a folder that has chunks, and with their
/// names and lengths, in the order of names. Directories that vanish meanwhile are passed over.
pub(crate) fn swamps(folder: &Path, each: &mut EachSwamp<'_>) -> Result<()> {
    for sanctuary in directories(folder)? {
        for realm in directories(&sanctuary)? {
            for swamp in directories(&realm)? {
                let chunks = chunks(&swamp)?;
                if !chunks.is_empty() {
                    each(&swamp, &chunks)?;
                }
            }
        }
    }
    Ok(())
}

/// The chunks in the directory of a swamp, with their lengths.
pub(crate) fn chunks(swamp: &Path) -> Result<Vec<(ChunkName, u64)>> {
    let mut found = Vec::new();
    for entry in entries(swamp)? {
        let Some(name) = entry.file_name().to_str().and_then(ChunkName::parse) else { continue };
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

fn directories(parent: &Path) -> Result<Vec<PathBuf>> {
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut found: Vec<PathBuf> = entries(parent)?.into_iter().filter(is_directory).map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    listed.collect::<io::Result<_>>().map_err(|error| Error::io("list", dir, error))
}
