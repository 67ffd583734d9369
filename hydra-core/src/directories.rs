//! Directories of swamps: made with their first file, gone with their last, durable before anyone relies on them.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::sync::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::hashing::hash_key;

const LANES: usize = 64;

/// Keeps making and removing directories of one realm apart, and knows which are not durable yet.
#[derive(Debug)]
pub(crate) struct Directories {
    /// Held while directories of a folder are made or removed.
    lanes: [Mutex<()>; LANES],
    /// Directories that were made and whose entry may not be on disk.
    fresh: Mutex<HashSet<PathBuf>>,
}

impl Directories {
    pub(crate) fn new() -> Directories {
        Directories { lanes: std::array::from_fn(|_| Mutex::new(())), fresh: Mutex::new(HashSet::new()) }
    }

    /// Everything below one folder shares a lane.
    fn lane(&self, root: &Path, dir: &Path) -> &Mutex<()> {
        let folder = dir.strip_prefix(root).ok().and_then(|below| below.components().next());
        let hash = folder.map_or(0, |folder| hash_key(folder.as_os_str().as_encoded_bytes()));
        &self.lanes[(hash % LANES as u64) as usize]
    }

    /// Creates a new file of a swamp, with the directories above it.
    pub(crate) fn create_file(
        &self,
        disk: &dyn Disk,
        root: &Path,
        dir: &Path,
        path: &Path,
    ) -> Result<Box<dyn DiskFile>> {
        let _held = self.lane(root, dir).lock();
        match disk.create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result.map_err(|error| Error::io("create", path, error)),
        }
        for ancestor in below(root, dir) {
            if disk.identity(&ancestor).is_err() {
                disk.create_dir(&ancestor).map_err(|error| Error::io("create", &ancestor, error))?;
                self.fresh.lock().insert(ancestor);
            }
        }
        disk.create_new(path).map_err(|error| Error::io("create", path, error))
    }

    /// Makes the entries of a swamp's directory durable, and those of the directories above that are new.
    pub(crate) fn sync(&self, disk: &dyn Disk, root: &Path, dir: &Path) -> Result<()> {
        let sync = |dir: &Path| disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error));
        sync(dir)?;
        for ancestor in below(root, dir).into_iter().rev() {
            // Whoever made it may not have come so far, so it is not enough that another is at it.
            if self.fresh.lock().contains(&ancestor) {
                sync(ancestor.parent().unwrap_or(root))?;
                self.fresh.lock().remove(&ancestor);
            }
        }
        Ok(())
    }

    /// Takes note that everything is durable that was made before.
    pub(crate) fn are_synced(&self, root: &Path, dir: &Path) {
        let mut fresh = self.fresh.lock();
        for ancestor in below(root, dir) {
            fresh.remove(&ancestor);
        }
    }

    /// Removes the directory of a swamp, its realm and its sanctuary, as far as they are empty.
    pub(crate) fn remove_empty(&self, disk: &dyn Disk, root: &Path, dir: &Path) -> Result<()> {
        let _held = self.lane(root, dir).lock();
        for ancestor in below(root, dir).into_iter().skip(1).rev() {
            if !disk.remove_dir(&ancestor).map_err(|error| Error::io("remove", &ancestor, error))? {
                break;
            }
            self.fresh.lock().remove(&ancestor);
        }
        Ok(())
    }
}

/// Makes a removal durable: the directory closest to `dir` that is still there lost an entry.
pub(crate) fn sync_nearest(disk: &dyn Disk, root: &Path, dir: &Path) -> Result<()> {
    let there =
        dir.ancestors().take_while(|&ancestor| ancestor != root).find(|ancestor| disk.identity(ancestor).is_ok());
    let nearest = there.unwrap_or(root);
    disk.sync_dir(nearest).map_err(|error| Error::io("sync", nearest, error))
}

/// The directories from below the root down to `dir`: folder, sanctuary, realm, swamp.
fn below(root: &Path, dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        dir.ancestors().take_while(|&ancestor| ancestor != root).map(Path::to_owned).collect();
    found.reverse();
    found
}
