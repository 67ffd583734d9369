//! What a data directory says of itself, read without changing anything.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderCount, FolderId, FolderSet, folder_of};
use crate::format::header::cluster_of;
use crate::layout;
use crate::name::SwampName;
use crate::root::{read_hydra_file, read_incarnations, read_server_file};
use crate::walk;

/// A data directory, as its own files say.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) root: PathBuf,
    pub(super) count: FolderCount,
    pub(super) cluster: String,
    /// The server it belongs to; `None` for a copy without its local files.
    pub(super) server: Option<String>,
    incarnations: HashSet<u64>,
}

impl Directory {
    /// Reads the facts of a directory, which may be in use.
    ///
    /// # Errors
    /// `not-found` when there is no data directory at the path, `invalid-config` when a file of it cannot be read.
    pub(super) fn read(root: &Path) -> Result<Directory> {
        let (count, cluster) = read_hydra_file(root)?.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, format!("{} is no data directory: it has no file HYDRA", root.display()))
        })?;
        let local = root.join(layout::LOCAL_DIR);
        let server = read_server_file(&local.join(layout::SERVER_FILE))?;
        let incarnations = read_incarnations(&local.join(layout::INCARNATIONS_FILE))?;
        Ok(Directory {
            root: root.to_path_buf(),
            count,
            cluster,
            server,
            incarnations: incarnations.into_iter().collect(),
        })
    }

    /// The data directory that the directory of a swamp stands in, if it stands in one.
    pub(super) fn around(swamp: &Path) -> Result<Option<Directory>> {
        let swamp = swamp.canonicalize().map_err(|error| Error::io("resolve", swamp, error))?;
        match swamp.ancestors().nth(4) {
            Some(root) if root.join(layout::HYDRA_FILE).is_file() => Directory::read(root).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn is_mine(&self, incarnation: u64) -> bool {
        self.incarnations.contains(&incarnation)
    }

    pub(super) fn cluster_id(&self) -> u32 {
        cluster_of(&self.cluster)
    }

    /// Where a swamp belongs, below the root.
    pub(super) fn home(&self, name: &SwampName) -> PathBuf {
        layout::swamp_dir(folder_of(name, self.count), name)
    }

    pub(super) fn local(&self, file: &str) -> PathBuf {
        self.root.join(layout::LOCAL_DIR).join(file)
    }

    /// A path below the root as it is printed.
    pub(super) fn printed(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// The directories of the folders that are wanted, of all with `None`.
    pub(super) fn folders(&self, wanted: Option<&FolderSet>) -> Result<Vec<(FolderId, PathBuf)>> {
        if let Some(wanted) = wanted {
            wanted.check(self.count)?;
        }
        let is_wanted = |folder: &FolderId| wanted.is_none_or(|wanted| wanted.contains(*folder));
        let all: Vec<FolderId> = self.count.all().iter().collect();
        let place = |folder| (folder, self.root.join(layout::folder_dir(folder)));
        Ok(all.into_iter().filter(is_wanted).map(place).collect())
    }

    /// Calls `each` with the directory of every swamp with chunks in these folders.
    pub(super) fn each_swamp(
        &self,
        wanted: Option<&FolderSet>,
        each: &mut dyn FnMut(FolderId, &Path) -> Result<()>,
    ) -> Result<()> {
        for (folder, dir) in self.folders(wanted)? {
            walk::swamps(&dir, &mut |swamp, _| each(folder, swamp))?;
        }
        Ok(())
    }
}
