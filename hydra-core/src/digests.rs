//! What the files of a folder hash to, remembered while the folder moves, so that of a file that grew only the end
//! is read, and of one that did not nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::sync::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::disk::Identity;
use crate::error::{Error, Result};
use crate::folder::FolderId;
use crate::shared::Shared;

/// How much is read at once.
const PIECE: usize = 256 << 10;
/// The state of a hash takes more than half a KiB: of smaller files all is read again.
const WORTH_KEEPING: u64 = 64 << 10;

/// The hashes of the files of folders that move.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<HashMap<FolderId, HashMap<PathBuf, Known>>>);

/// What is known of the beginning of a file.
#[derive(Clone)]
struct Known {
    identity: Identity,
    length: u64,
    digest: u128,
    /// Goes on where the file grows.
    hasher: Option<Box<Xxh3>>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Digests {
    /// The XXH3-128 of the first `length` bytes of a file. `only_grows`: nobody changes what it holds already.
    ///
    /// # Errors
    /// `io`, also for a file that is shorter.
    pub(crate) fn of(
        &self,
        shared: &Shared,
        folder: FolderId,
        path: &Path,
        length: u64,
        only_grows: bool,
    ) -> Result<u128> {
        let failed = |error| Error::io("read", path, error);
        // Looked at before it is read: what is written meanwhile makes it another one.
        let identity = shared.disk.identity(path).map_err(failed)?;
        let known = self.0.lock().get(&folder).and_then(|files| files.get(path)).cloned();
        let is_same = |known: &Known| known.identity == identity;
        if let Some(known) = known.as_ref().filter(|known| is_same(known) && known.length == length) {
            return Ok(known.digest);
        }
        let may_go_on = |known: &Known| {
            known.length <= length
                && (is_same(known) || only_grows && known.identity.is_same_file(&identity))
                && known.hasher.is_some()
        };
        let (mut hasher, from) = match known.filter(may_go_on) {
            Some(Known { hasher: Some(hasher), length, .. }) => (hasher, length),
            _ => (Box::new(Xxh3::new()), 0),
        };
        read_into(&mut hasher, path, from, length).map_err(failed)?;
        let digest = hasher.digest128();
        let known = Known { identity, length, digest, hasher: (length >= WORTH_KEEPING).then_some(hasher) };
        self.0.lock().entry(folder).or_default().insert(path.to_owned(), known);
        Ok(digest)
    }

    /// Forgets what is known of a folder.
    pub(crate) fn forget(&self, folder: FolderId) {
        self.0.lock().remove(&folder);
    }
}

fn read_into(hasher: &mut Xxh3, path: &Path, from: u64, to: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut piece = vec![0; PIECE.min(usize::try_from(to - from).unwrap_or(PIECE)).max(1)];
    let mut left = to - from;
    while left > 0 {
        let room = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read(&mut piece[..room]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                hasher.update(&piece[..count]);
                left -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
