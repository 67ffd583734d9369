//! Room on the file system: when writes are refused, and the ballast that is thrown off when it is full.
//!
//! The ballast is a file of no content that takes its space. Without it a full disk could not even take what
//! was acknowledged before, or the mark of a delete. New writes never count on its room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::clock::coarse_ms;
use crate::disk::{Inodes, Space, sync_all, sync_dir};
use crate::error::{Error, ErrorCode, Result};
use crate::root::Root;
use crate::shared::Shared;

/// Writes are refused below this much free space, or a hundredth of the file system if that is less.
const SPACE_KEPT: u64 = 256 << 20;
/// The largest ballast; a hundredth of the file system if that is less.
const BALLAST_MOST: u64 = 64 << 20;
/// The number that the kernel gives a file system whose files are memory.
pub(crate) const TMPFS: u64 = 0x0102_1994;
/// How long a look at the free space holds, and for how long one that would refuse a write.
const LOOK_HOLDS: Duration = Duration::from_millis(50);
const DOUBT_HOLDS: Duration = Duration::from_millis(5);
/// How often it is looked for room while there is no ballast.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// Knows whether there is room to write.
#[derive(Debug)]
pub(crate) struct SpaceWatch {
    last: Mutex<Option<Look>>,
    /// Bytes of the writes that were let in since the last look.
    let_in: AtomicU64,
    /// Bytes that are acknowledged and not on disk.
    owed: AtomicU64,
    pub(crate) ballast: Arc<Ballast>,
    shared: OnceLock<Weak<Shared>>,
    waits: AtomicBool,
}

/// What was found at one time.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// On the clock of [`coarse_ms`].
    at_ms: u64,
    space: Space,
    inodes: Inodes,
    owed: u64,
    /// What the ballast will take that was not there: what is free is not without it yet.
    ballast: u64,
}

impl SpaceWatch {
    pub(crate) fn new(ballast: Arc<Ballast>) -> SpaceWatch {
        SpaceWatch {
            last: Mutex::new(None),
            let_in: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            ballast,
            shared: OnceLock::new(),
            waits: AtomicBool::new(false),
        }
    }

    /// Makes the ballast's threads and times known.
    pub(crate) fn attach(&self, shared: &Arc<Shared>) {
        // Only the engine does so, once.
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get().and_then(Weak::upgrade)
    }

    /// What is free, looked up at most every 50 ms; `None` where the disk does not say.
    pub(crate) fn look(&self) -> Option<(Space, Inodes)> {
        self.looked(LOOK_HOLDS).map(|look| (look.space, look.inodes))
    }

    fn looked(&self, holds: Duration) -> Option<Look> {
        let mut last = self.last.lock();
        if last.is_some_and(|look| u128::from(coarse_ms().saturating_sub(look.at_ms)) < holds.as_millis()) {
            return *last;
        }
        let shared = self.shared()?;
        // Looked at before what is free: what arrives in between counts twice rather than not at all.
        let owed = self.owed.load(Ordering::SeqCst);
        self.let_in.store(0, Ordering::Relaxed);
        let is_present = self.ballast.is_present();
        let space = shared.disk.space(&shared.root.path).ok()?;
        let inodes = shared.disk.inodes(&shared.root.path).unwrap_or_default();
        let ballast = if is_present { 0 } else { self.ballast.size_for(&space) };
        let look = Look { at_ms: coarse_ms(), space, inodes, owed, ballast };
        *last = Some(look);
        drop(last);
        self.trim(&shared, &look);
        Some(look)
    }

    /// Takes the ballast in when there is plenty of room. It goes only when something found no room: given up
    /// before, whoever else fills the disk would take its space, too.
    fn trim(&self, shared: &Arc<Shared>, look: &Look) {
        let size = self.ballast.size_for(&look.space);
        if size == 0 || shared.check_open().is_err() || self.ballast.is_present() {
            return;
        }
        if look.space.free >= kept(&look.space) + 2 * size && !look.inodes.are_short() {
            let shared = Arc::clone(shared);
            shared.clone().pool.run(move || shared.space.ballast.take_in(size));
        } else if !self.waits.swap(true, Ordering::AcqRel) {
            let weak = Arc::downgrade(shared);
            shared.timer.at(Instant::now() + LOOK_FOR_ROOM, move || {
                if let Some(shared) = weak.upgrade() {
                    shared.space.waits.store(false, Ordering::Release);
                    shared.space.looked(DOUBT_HOLDS);
                }
            });
        }
    }

    /// Lets a write of so many bytes in.
    ///
    /// # Errors
    /// `disk-full` when so little is free that writes are refused.
    pub(crate) fn check(&self, root: &Root, bytes: u64) -> Result<()> {
        let let_in = self.let_in.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(look) = self.looked(LOOK_HOLDS) else { return Ok(()) };
        if lacks(&look, let_in).is_none() {
            return Ok(());
        }
        // What was let in before may be on disk by now; and whatever is said has to be so.
        let Some(look) = self.looked(DOUBT_HOLDS) else { return Ok(()) };
        let let_in = self.let_in.load(Ordering::Relaxed).max(bytes);
        lacks(&look, let_in).map_or(Ok(()), |lacks| Err(full(root, &lacks)))
    }

    /// Whether so little is free that an append may find no room for all of it.
    pub(crate) fn is_tight(&self, bytes: usize) -> bool {
        self.looked(LOOK_HOLDS).is_some_and(|look| {
            let reserve = kept(&look.space) + self.ballast.size_for(&look.space);
            look.space.free < 4 * reserve + 2 * look.owed + bytes as u64
        })
    }

    /// Keeps room for bytes that are going to be written beside what was acknowledged. Writes do not count on it.
    ///
    /// # Errors
    /// `disk-full` where what was acknowledged needs the room. The reserve may be used: it is for this, too.
    pub(crate) fn reserve(&self, root: &Root, bytes: usize) -> Result<Reserved<'_>> {
        self.owe(bytes);
        let reserved = Reserved { space: self, bytes };
        let let_in = self.let_in.load(Ordering::Relaxed);
        let Some(look) = self.looked(Duration::ZERO) else { return Ok(reserved) };
        let (free, needed) = (look.space.free, look.owed + let_in);
        if free < needed {
            return Err(full(root, &format!("{free} bytes free; {needed} are needed")));
        }
        Ok(reserved)
    }

    /// Bytes that were acknowledged and have to find room.
    pub(crate) fn owe(&self, bytes: usize) {
        self.owed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// They are on disk.
    pub(crate) fn pay(&self, bytes: usize) {
        let paid = |owed: u64| Some(owed.saturating_sub(bytes as u64));
        // Cannot fail: the closure always answers.
        let _ = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    }

    /// The disk refused for lack of room: the ballast goes, and room is looked for.
    pub(crate) fn make_room(&self) {
        self.ballast.release();
        if let Some(shared) = self.shared() {
            // What was removed gives its blocks out when the removal is on disk. Should that fail, so will what
            // needs the room.
            let _ = shared.syncs.sync_all(shared.syncs.intend());
        }
        self.looked(Duration::ZERO);
    }
}

fn full(root: &Root, lacks: &str) -> Error {
    let detail = format!("{} has {lacks}", root.path.display());
    Error::new(ErrorCode::DiskFull, detail).with_hint("free some space; writes go on by themselves then")
}

/// What there is too little of.
fn lacks(look: &Look, let_in: u64) -> Option<String> {
    let Look { space, inodes, owed, ballast, .. } = look;
    let needed = kept(space) + ballast + owed + let_in;
    if space.free < needed {
        return Some(format!("{} bytes free; this write needs {needed}, most of it as a reserve", space.free));
    }
    inodes.are_short().then(|| format!("{} of {} inodes free; writes need a hundredth", inodes.free, inodes.total))
}

/// Room that no write counts on until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved<'s> {
    space: &'s SpaceWatch,
    bytes: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.space.pay(self.bytes);
    }
}

/// The largest ballast below a directory. There is none where files are memory, of which every engine, one in a test say,
/// would take so much for good.
pub(crate) fn largest_ballast(dir: &Path) -> u64 {
    let is_memory = rustix::fs::statfs(dir).is_ok_and(|stat| stat.f_type as u64 == TMPFS);
    if is_memory { 0 } else { BALLAST_MOST }
}

fn kept(space: &Space) -> u64 {
    SPACE_KEPT.min(space.total / 100)
}

/// Whether an error says that a file system, or somebody's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT];
    error.raw_os_error().is_some_and(|code| full.iter().any(|errno| errno.raw_os_error() == code))
}

/// A file that takes space for as long as there is plenty.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    most: u64,
    present: AtomicBool,
    /// Held while the file comes or goes.
    change: Mutex<()>,
}

impl Ballast {
    /// Takes note of what a process before this one left.
    pub(crate) fn open(path: PathBuf, most: u64) -> Ballast {
        let present = fs::metadata(&path).is_ok_and(|file| file.len() > 0 && takes_its_space(&file));
        Ballast { path, most, present: AtomicBool::new(present), change: Mutex::new(()) }
    }

    pub(crate) fn is_present(&self) -> bool {
        self.present.load(Ordering::Acquire)
    }

    fn size_for(&self, space: &Space) -> u64 {
        self.most.min(space.total / 100)
    }

    /// Gives the space back; answers whether there was any.
    pub(crate) fn release(&self) -> bool {
        let _turn = self.change.lock();
        if !self.present.swap(false, Ordering::AcqRel) {
            return false;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(file = %self.path.display(), "the disk is full: the ballast gives its space"),
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "the ballast cannot be removed"),
        }
        // Some file systems give the blocks of a removed file out only when its removal is on disk.
        if let Some(dir) = self.path.parent() {
            let _ = sync_dir(dir);
        }
        true
    }

    /// Makes the file. Where that fails there is none, and it is tried again with the next look.
    fn take_in(&self, size: u64) {
        let _turn = self.change.lock();
        if self.is_present() {
            return;
        }
        match self.make(size) {
            Ok(()) => self.present.store(true, Ordering::Release),
            Err(error) => {
                tracing::debug!(file = %self.path.display(), %error, "the ballast cannot be made");
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    fn make(&self, size: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&self.path)?;
        let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size);
        if allocated.is_err() || !takes_its_space(&file.metadata()?) {
            fill(&mut file, size)?;
        }
        Ok(())
    }
}

/// Whether a file has blocks for all its bytes.
fn takes_its_space(file: &fs::Metadata) -> bool {
    file.blocks() * 512 >= file.len()
}

/// Writes bytes that no file system can store in less space.
fn fill(file: &mut File, size: u64) -> io::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(1 << 16);
    let mut left = size;
    while left > 0 {
        block.clear();
        while block.len() < (1 << 16) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        let count = left.min(block.len() as u64) as usize;
        file.write_all(&block[..count])?;
        left -= count as u64;
    }
    sync_all(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_memory_have_no_ballast() {
        let memory = Path::new("/dev/shm");
        if !rustix::fs::statfs(memory).is_ok_and(|stat| stat.f_type as u64 == TMPFS) {
            return println!("skipped: /dev/shm is no tmpfs here");
        }
        assert_eq!((largest_ballast(memory), largest_ballast(Path::new("/proc"))), (0, BALLAST_MOST));
    }

    #[test]
    fn the_ballast_takes_its_space_comes_and_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ballast");
        let ballast = Ballast::open(path.clone(), 1 << 20);
        assert_eq!(ballast.size_for(&Space { free: 0, total: 1 << 40 }), 1 << 20);
        assert_eq!(ballast.size_for(&Space { free: 0, total: 100 << 10 }), 1 << 10);
        assert!(!ballast.is_present() && !ballast.release());
        ballast.take_in(1 << 20);
        let file = fs::metadata(&path).expect("made");
        assert!(file.len() == 1 << 20 && file.blocks() * 512 >= 1 << 20, "{file:?}");
        assert!(Ballast::open(path.clone(), 1 << 20).is_present(), "a restart finds it");
        assert!(ballast.release() && !path.exists() && !ballast.is_present());
        File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("sparse");
        assert!(!Ballast::open(path, 1 << 20).is_present(), "a hole is no ballast");
    }

    #[test]
    fn filling_writes_every_byte_and_none_can_be_spared() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ballast");
        fill(&mut File::create(&path).expect("created"), 100_001).expect("filled");
        let bytes = fs::read(&path).expect("readable");
        assert!(bytes.len() == 100_001 && lz4_flex::block::compress(&bytes).len() >= bytes.len());
    }

    #[test]
    fn writes_need_a_reserve_the_ballast_and_inodes_beside_their_own_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = SpaceWatch::new(Arc::new(Ballast::open(dir.path().join("ballast"), 50)));
        let look = |free, inodes, owed| {
            let inodes = Inodes { free: inodes, total: 1_000 };
            let ballast = if watch.ballast.is_present() { 0 } else { 50 };
            Look { at_ms: coarse_ms(), space: Space { free, total: 10_000 }, inodes, owed, ballast }
        };
        // A hundredth is kept, 50 are the ballast's, which is not there.
        assert!(lacks(&look(160, 10, 0), 10).is_none());
        assert!(lacks(&look(160, 10, 0), 11).is_some());
        assert!(lacks(&look(160, 10, 5), 6).is_some(), "what is acknowledged and not on disk comes first");
        assert!(lacks(&look(5_000, 9, 0), 1).is_some_and(|what| what.contains("inodes")));
        watch.ballast.take_in(50);
        assert!(lacks(&look(110, 10, 0), 10).is_none(), "its space is taken already");
        assert!(!Inodes::default().are_short(), "where they are not counted there is no limit");
    }

    #[test]
    fn quotas_and_full_disks_are_both_full() {
        assert!(is_full(&io::Error::from_raw_os_error(28)) && is_full(&io::Error::from_raw_os_error(122)));
        assert!(!is_full(&io::Error::from_raw_os_error(5)));
    }
}
