//! Manifests: the files of a folder with their lengths and hashes, what a copy lacks of them, and taking that in.
//!
//! A copy is exact when every file of the source's manifest is there, at least as long, and begins with the bytes
//! that were hashed. Further files are fine: they merge. So it does not matter what copied them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::archive::{Place, Turn, held};
use crate::disk::DiskFile;
use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderId;
use crate::layout;
use crate::shared::Shared;
use crate::walk;

/// One file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Where it is below the data directory: `00062/users/profiles/alice/s1-….hyl`.
    pub path: String,
    /// How many bytes of it count; it may have grown since.
    pub bytes: u64,
    /// The XXH3-128 of those, as 32 hexadecimal digits.
    pub hash: String,
}

/// The files of a folder at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// In the order of their paths.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// A manifest of these files, in any order.
    #[must_use]
    pub fn new(mut files: Vec<ManifestFile>) -> Manifest {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Manifest { files }
    }

    /// Stands for exactly these files with these lengths and hashes.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Xxh3::new();
        for file in &self.files {
            hasher.update(format!("{} {} {}\n", file.hash, file.bytes, file.path).as_bytes());
        }
        format!("{:032x}", hasher.digest128())
    }

    /// The bytes of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A piece of a file that a copy lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingPiece {
    /// The file.
    pub path: String,
    /// How much of it is here and right.
    pub from: u64,
    /// How many bytes it has in the manifest.
    pub bytes: u64,
    /// A file of this name is here with other content, and is replaced.
    pub differs: bool,
}

/// Lists and hashes the files of a folder now. Files that go meanwhile are left out.
pub(crate) fn manifest_of(shared: &Shared, folder: FolderId) -> Result<Manifest> {
    let mut files = Vec::new();
    let own = shared.root.incarnation;
    walk::swamps(&shared.root.path.join(layout::folder_dir(folder)), &mut |dir, chunks| {
        for (chunk, bytes) in chunks {
            let path = dir.join(chunk.file_name());
            match shared.digests.of(shared, folder, &path, *bytes, chunk.incarnation == own) {
                Ok(digest) => files.push(ManifestFile {
                    path: below(shared, &path),
                    bytes: *bytes,
                    hash: format!("{digest:032x}"),
                }),
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    Ok(Manifest::new(files))
}

fn below(shared: &Shared, path: &Path) -> String {
    path.strip_prefix(&shared.root.path).unwrap_or(path).display().to_string()
}

/// Which pieces of a manifest are not here. Reads what is not known to be right.
pub(crate) fn missing_pieces(shared: &Shared, folder: FolderId, manifest: &Manifest) -> Result<Vec<MissingPiece>> {
    let mut missing = Vec::new();
    for file in &manifest.files {
        let path = Place::read(shared, folder, &file.path)?.path();
        let here = held(&path)?.unwrap_or(0);
        let piece = |from, differs| MissingPiece { path: file.path.clone(), from, bytes: file.bytes, differs };
        if here < file.bytes {
            missing.push(piece(here, false));
        } else if format!("{:032x}", shared.digests.of(shared, folder, &path, file.bytes, false)?) != file.hash {
            missing.push(piece(0, true));
        }
    }
    Ok(missing)
}

/// A folder that takes in what it lacks of a manifest, piece by piece.
#[derive(Debug)]
pub struct Intake {
    turn: Turn,
    folder: FolderId,
}

/// A file that grows.
#[derive(Debug)]
pub struct GrowingFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// The name it takes the place of when it is whole.
    replaces: Option<PathBuf>,
}

impl Engine {
    /// Begins to take in what a folder that is coming here lacks. One at a time for each folder.
    ///
    /// # Errors
    /// `busy` while another one is under way, `folder-state-mismatch` for a folder that is not importing.
    pub fn intake(&self, folder: FolderId) -> Result<Intake> {
        let shared = self.shared();
        shared.check_open()?;
        self.check_importing(folder)?;
        Ok(Intake { turn: Turn::take(shared, folder)?, folder })
    }

    /// Reads a piece of a file of a folder for whoever copies it.
    ///
    /// # Errors
    /// `invalid-body` for a path that is no place of a chunk of this folder, and for a piece that is not all there;
    /// `io` from the disk.
    pub fn read_piece(&self, folder: FolderId, path: &str, from: u64, bytes: u64) -> Result<io::Take<File>> {
        let shared: &Arc<Shared> = self.shared();
        let place = Place::read(shared, folder, path)?.path();
        let here = held(&place)?.unwrap_or(0);
        if from > bytes || bytes > here {
            let detail = format!("{path:?} has {here} bytes here; {from} to {bytes} were asked for");
            return Err(Error::new(ErrorCode::InvalidBody, detail).with_hint("ask for the manifest again"));
        }
        let mut file = File::open(&place).map_err(|error| Error::io("open", &place, error))?;
        file.seek(SeekFrom::Start(from)).map_err(|error| Error::io("read", &place, error))?;
        Ok(file.take(bytes - from))
    }
}

impl Intake {
    /// What is not here of a manifest. Blocks on the disk.
    ///
    /// # Errors
    /// `invalid-body` for a path that is no place of a chunk of this folder, `io` from the disk.
    pub fn missing(&self, manifest: &Manifest) -> Result<Vec<MissingPiece>> {
        missing_pieces(&self.turn.shared, self.folder, manifest)
    }

    /// Begins to take a piece in. Blocks on the disk.
    ///
    /// # Errors
    /// `manifest-mismatch` when it would take the place of a file that this server wrote; `disk-full` and `io` from
    /// the disk.
    pub fn begin(&self, piece: &MissingPiece) -> Result<GrowingFile> {
        let shared = &self.turn.shared;
        let place = Place::read(shared, self.folder, &piece.path)?;
        let path = place.path();
        shared.space.check(&shared.root, piece.bytes.saturating_sub(piece.from))?;
        let create = |path: &Path| shared.directories.create_file(&*shared.disk, &shared.root.path, &place.dir, path);
        if piece.differs {
            if shared.root.is_mine(place.chunk.incarnation) {
                let detail = format!("{:?} was written here, and the source has it with other content", piece.path);
                return Err(Error::new(ErrorCode::ManifestMismatch, detail)
                    .with_hint("let hydra-server verify look at both, and repair the damaged one first"));
            }
            let new = place.dir.join(format!(".{}.pulling", place.chunk.file_name()));
            shared.disk.remove_file(&new).map_err(|error| Error::io("remove", &new, error))?;
            return Ok(GrowingFile { file: create(&new)?, path: new, replaces: Some(path) });
        }
        let file = match held(&path)? {
            None if piece.from == 0 => create(&path)?,
            Some(here) if here == piece.from => {
                shared.disk.open_append(&path).map_err(|error| Error::io("open", &path, error))?
            }
            here => {
                let detail = format!("{:?} has {here:?} bytes by now, and had {}", piece.path, piece.from);
                return Err(Error::new(ErrorCode::Busy, detail).with_hint("somebody else copies it, too; ask again"));
            }
        };
        Ok(GrowingFile { file, path, replaces: None })
    }
}

impl GrowingFile {
    /// Appends what came. It is durable when [`Engine::ready`] has answered.
    ///
    /// # Errors
    /// `disk-full` and `io`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes).map_err(|(_, error)| Error::io("write", &self.path, error))
    }

    /// All of the piece came.
    ///
    /// # Errors
    /// `io`.
    pub fn finish(mut self) -> Result<()> {
        let Some(replaces) = self.replaces else { return Ok(()) };
        self.file.sync().map_err(|error| Error::io("sync", &self.path, error))?;
        std::fs::rename(&self.path, &replaces).map_err(|error| Error::io("rename", &self.path, error))
    }
}
