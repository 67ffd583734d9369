//! What a folder that has moved leaves behind: whether others have all of it, and removing it.

use std::path::Path;

use crate::directories::sync_nearest;
use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderId;
use crate::handover::{FolderState, Refusal};
use crate::layout;
use crate::manifest::{Manifest, manifest_of, missing_pieces};
use crate::swamp::Resident;
use crate::walk;

/// What a cleaning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Engine {
    /// Which files of another server's manifest are not here, or shorter, or other ones: their paths. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// `invalid-body` for a path that is no place of a chunk of this folder, `io` from the disk.
    pub fn lacks(&self, folder: FolderId, manifest: &Manifest) -> Result<Vec<String>> {
        let shared = self.shared();
        if !self.folder_state(folder).serves_reads() {
            return Err(self.not_served(folder));
        }
        self.flush(Some(folder))?;
        let missing = missing_pieces(shared, folder, manifest);
        shared.digests.forget(folder);
        Ok(missing?.into_iter().map(|piece| piece.path).collect())
    }

    /// Removes the files of a folder that has moved, if they are those of this manifest. That it has moved is kept, so
    /// clients with an old map are still sent on. Blocks on the disk; what was removed before a failure stays so.
    ///
    /// # Errors
    /// `folder-state-mismatch` for a folder that has not moved, and for one that Syncthing keeps in sync, which would
    /// carry the removal to others; `manifest-mismatch`; those of the disk.
    pub fn clean(&self, folder: FolderId, manifest: &str) -> Result<Cleaned> {
        let shared = self.shared();
        let state = self.folder_state(folder);
        if !matches!(state, FolderState::Moved { .. }) {
            return Err(Refusal::State { is: state, needs: "moved" }.of(folder));
        }
        let dir = shared.root.path.join(layout::folder_dir(folder));
        refuse_synced(&dir)?;
        let found = manifest_of(shared, folder);
        shared.digests.forget(folder);
        if found?.hash() != manifest {
            return Err(Refusal::Manifest.of(folder));
        }
        for resident in shared.residents.all().iter().filter(|resident| resident.folder() == folder) {
            // One that somebody still reads stays in memory a while, and is never asked for again.
            shared.residents.evict(resident, Resident::leave);
        }
        let mut cleaned = Cleaned::default();
        walk::swamps(&dir, &mut |swamp, chunks| {
            for (chunk, bytes) in chunks {
                let path = swamp.join(chunk.file_name());
                shared.disk.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
                cleaned.files += 1;
                cleaned.bytes += bytes;
            }
            shared.directories.remove_empty(&*shared.disk, &shared.root.path, swamp)?;
            sync_nearest(&*shared.disk, &shared.root.path, swamp)
        })?;
        Ok(cleaned)
    }
}

/// Refuses a directory that Syncthing keeps in sync, by itself or as part of one above it.
fn refuse_synced(dir: &Path) -> Result<()> {
    match dir.ancestors().find(|above| above.join(layout::SYNCTHING_MARKER).exists()) {
        None => Ok(()),
        Some(above) => {
            let detail =
                format!("Syncthing keeps {} in sync: it would remove the files elsewhere, too", above.display());
            Err(Error::new(ErrorCode::FolderStateMismatch, detail).with_hint("take the folder out of Syncthing first"))
        }
    }
}
