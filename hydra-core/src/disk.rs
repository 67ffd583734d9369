//! The disk, as the engine uses it: every call that touches a file of a swamp goes through here.
//!
//! One trait with one implementation for real disks; tests put a failing one in its place.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::space::is_full;

/// What the engine asks of a disk.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Creates a file that must not exist, for appending.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists, for appending.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The content of a file from a byte on; nothing when it is not longer.
    fn read_from(&self, path: &Path, from: u64) -> io::Result<Vec<u8>> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.read(path).map(|bytes| bytes.get(from..).unwrap_or_default().to_vec())
    }
    /// The names in a directory; an empty list when there is none.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// What tells a file from every other, and its length.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// Creates one directory; fine when it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The file system a directory is on.
    fn file_system(&self, dir: &Path) -> io::Result<Box<dyn FileSystem>>;
    /// Removes a file; fine when it is gone.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory; answers whether it is gone.
    fn remove_dir(&self, dir: &Path) -> io::Result<bool>;
    /// Free and total bytes of the file system below a path.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Free and total inodes of the file system below a path; none in all where they are not counted.
    fn inodes(&self, _: &Path) -> io::Result<Inodes> {
        Ok(Inodes::default())
    }
}

/// A file system, held open so that none of its errors goes unheard.
pub(crate) trait FileSystem: Send + Sync {
    /// Makes everything durable that was ever written to it, by whom ever. Fails when something could not be
    /// written since it was opened or since the last call.
    fn sync(&self) -> io::Result<()>;
    /// Whether it tells of such errors.
    fn reports_errors(&self) -> bool {
        true
    }
}

/// A file open for appending.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Appends all bytes; on failure answers with how many may be in the file.
    fn append(&mut self, bytes: &[u8]) -> Result<(), (u64, io::Error)>;
    /// Sets space aside for an append of so many bytes from `start` on; nothing of the file changes. Fails only
    /// when there is none: where space cannot be set aside, the append will tell.
    fn reserve(&self, _start: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// Makes everything appended durable, with the length of the file. Comes after the syncs of the
    /// directories it depends on: it also finds out that the file system stopped while those were made.
    fn sync(&mut self) -> io::Result<()>;
    /// Fails when the file system has stopped; does nothing else.
    fn probe(&mut self) -> io::Result<()>;
    /// Which file this is.
    fn identity(&self) -> io::Result<Identity>;
}

/// What tells a file from every other, and what changes when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(crate) length: u64,
    /// Seconds and nanoseconds of the last change of content.
    pub(crate) modified: (i64, i64),
    /// Seconds and nanoseconds of the last change of content or of the file's facts.
    pub(crate) changed: (i64, i64),
}

impl Identity {
    /// Whether both are one file, whatever its length.
    pub(crate) fn is_same_file(&self, other: &Identity) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    fn of(metadata: &fs::Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            links: metadata.nlink(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// How many files a file system can still take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inodes {
    pub(crate) free: u64,
    /// 0 where there is no limit.
    pub(crate) total: u64,
}

impl Inodes {
    /// Whether less than a hundredth is free.
    pub(crate) fn are_short(&self) -> bool {
        self.free < self.total.div_ceil(100)
    }
}

/// The file systems of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().append(true).open(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_from(&self, path: &Path, from: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // A name that is not UTF-8 is none of ours.
        entries.filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose()).collect()
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        fs::symlink_metadata(path).map(|metadata| Identity::of(&metadata))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }

    fn file_system(&self, dir: &Path) -> io::Result<Box<dyn FileSystem>> {
        Ok(Box::new(RealFileSystem { dir: File::open(dir)?, reports_errors: syncfs_reports_errors() }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<bool> {
        match fs::remove_dir(dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn inodes(&self, path: &Path) -> io::Result<Inodes> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Inodes { free: stat.f_favail, total: stat.f_files })
    }
}

struct RealFileSystem {
    dir: File,
    reports_errors: bool,
}

impl FileSystem for RealFileSystem {
    fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.dir)?;
        refuse_stopped(&self.dir)
    }

    fn reports_errors(&self) -> bool {
        self.reports_errors
    }
}

/// Makes a file or a directory durable, and does not take the word of a file system that has stopped for it.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    file.sync_all()?;
    refuse_stopped(file)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync_all(&File::open(dir)?)
}

/// Fails when the file system has stopped since it was last synced.
///
/// On ext4 a sync that is under way while the journal fails may answer that all is well: it finds its transaction
/// gone and takes it for committed. A write of nothing is refused from then on only when the file system was shut
/// down; when the journal could not be written, ext4 notices at the next change that would need it. Removing an
/// attribute that is not there is such a change, takes less than a microsecond, and leaves nothing to be written. On
/// Linux 6.18 every second device that ran out of room beneath ext4 took back a write it had said was safe; with this,
/// none of 400 did.
fn refuse_stopped(file: &File) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fremovexattr(file, "user.hydra.none") {
        Err(error) if [Errno::IO, Errno::ROFS, Errno::SHUTDOWN, Errno::UCLEAN].contains(&error) => Err(error.into()),
        // There is none, or such attributes are not known here.
        _ => Ok(()),
    }
}

/// Linux tells of errors in syncfs since 5.8 (syncfs(2)).
fn syncfs_reports_errors() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|piece| piece.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match self.0.write(&bytes[written..]) {
                Ok(0) => return Err((written as u64, io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written as u64, error)),
            }
        }
        Ok(())
    }

    fn reserve(&self, start: u64, bytes: u64) -> io::Result<()> {
        let reserved = rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, start, bytes);
        reserved.map_err(io::Error::from).or_else(|error| if is_full(&error) { Err(error) } else { Ok(()) })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()?;
        self.probe()
    }

    fn probe(&mut self) -> io::Result<()> {
        self.0.write(&[]).and_then(|_| refuse_stopped(&self.0))
    }

    fn identity(&self) -> io::Result<Identity> {
        self.0.metadata().map(|metadata| Identity::of(&metadata))
    }
}
