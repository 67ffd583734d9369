//! The disk in straits: what fails only because files or space are short makes some and tries again.
//!
//! So neither is taken for a disk that fails, and what has to go on with a full disk, removals and flushes of
//! what was acknowledged, gets the room of the ballast.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, FileSystem, Identity, Inodes, Space};
use crate::handles::Handles;
use crate::space::{Ballast, is_full};

/// A disk whose operations do not fail while something can be done about it.
#[derive(Debug)]
pub(crate) struct StraitDisk {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) ballast: Arc<Ballast>,
}

impl StraitDisk {
    fn attempt<T>(&self, mut operation: impl FnMut(&dyn Disk) -> io::Result<T>) -> io::Result<T> {
        let mut operation = || self.handles.with_room(|| operation(&*self.disk));
        match operation() {
            Err(error) if is_full(&error) && self.ballast.release() => operation(),
            outcome => outcome,
        }
    }
}

impl Disk for StraitDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.attempt(|disk| disk.create_new(path))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.attempt(|disk| disk.open_append(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.attempt(|disk| disk.read(path))
    }

    fn read_from(&self, path: &Path, from: u64) -> io::Result<Vec<u8>> {
        self.attempt(|disk| disk.read_from(path, from))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.attempt(|disk| disk.list(dir))
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.disk.identity(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.attempt(|disk| disk.create_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // A sync that failed is never repeated; only opening the directory is.
        self.handles.with_room(|| self.disk.sync_dir(dir))
    }

    fn file_system(&self, dir: &Path) -> io::Result<Box<dyn FileSystem>> {
        self.handles.with_room(|| self.disk.file_system(dir))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.attempt(|disk| disk.remove_file(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<bool> {
        self.attempt(|disk| disk.remove_dir(dir))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }

    fn inodes(&self, path: &Path) -> io::Result<Inodes> {
        self.disk.inodes(path)
    }
}
