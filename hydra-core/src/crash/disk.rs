//! A disk in memory that remembers what was done to it, and what a loss of power may leave of that.
//!
//! Nothing is durable until it is synced: bytes of a file by a sync of the file, an entry of a directory by
//! a sync of that directory. What is not may be there after the crash or not, each alone, in any order.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, FileSystem, Identity, Space};

type Node = u64;
const ROOT: Node = 0;

/// One thing that was done to the disk.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Make { dir: Node, name: String, node: Node, is_dir: bool },
    Remove { dir: Node, name: String },
    Append { file: Node, bytes: Vec<u8> },
    SyncFile { file: Node },
    SyncDir { dir: Node },
    SyncAll,
}

/// What stands under a name: durably, and after each change since.
#[derive(Debug, Clone, Default)]
struct Entry {
    durable: Option<Node>,
    later: Vec<Option<Node>>,
}

impl Entry {
    fn version(&self, changes: usize) -> Option<Node> {
        if changes == 0 { self.durable } else { self.later[changes - 1] }
    }

    fn now(&self) -> Option<Node> {
        self.version(self.later.len())
    }
}

/// Makes the entries of a directory durable.
fn settle(entries: &mut BTreeMap<String, Entry>) {
    entries.values_mut().for_each(|entry| *entry = Entry { durable: entry.now(), later: Vec::new() });
    entries.retain(|_, entry| entry.durable.is_some());
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
}

/// Directories and files, with what is durable of them.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dirs: HashMap<Node, BTreeMap<String, Entry>>,
    files: HashMap<Node, Content>,
    next: Node,
}

impl Store {
    pub(crate) fn new() -> Store {
        Store { dirs: [(ROOT, BTreeMap::new())].into(), files: HashMap::new(), next: ROOT + 1 }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Make { dir, name, node, is_dir } => {
                self.next = self.next.max(node + 1);
                if *is_dir {
                    self.dirs.insert(*node, BTreeMap::new());
                } else {
                    self.files.insert(*node, Content::default());
                }
                self.change(*dir, name, Some(*node));
            }
            Event::Remove { dir, name } => self.change(*dir, name, None),
            Event::Append { file, bytes } => self.files.entry(*file).or_default().bytes.extend_from_slice(bytes),
            Event::SyncFile { file } => {
                let content = self.files.entry(*file).or_default();
                content.synced = content.bytes.len();
            }
            Event::SyncDir { dir } => settle(self.dirs.entry(*dir).or_default()),
            Event::SyncAll => {
                self.dirs.values_mut().for_each(settle);
                self.files.values_mut().for_each(|content| content.synced = content.bytes.len());
            }
        }
    }

    fn change(&mut self, dir: Node, name: &str, to: Option<Node>) {
        self.dirs.entry(dir).or_default().entry(name.to_owned()).or_default().later.push(to);
    }

    fn child(&self, dir: Node, name: &str) -> Option<Node> {
        self.dirs.get(&dir)?.get(name)?.now()
    }

    fn is_empty_dir(&self, dir: Node) -> bool {
        self.dirs.get(&dir).is_none_or(|entries| entries.values().all(|entry| entry.now().is_none()))
    }

    /// Every file with its bytes, by name.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = self.dirs.values().flatten();
        let file =
            |(name, entry): (&String, &Entry)| Some((name.clone(), self.files.get(&entry.now()?)?.bytes.clone()));
        let mut files: Vec<_> = entries.filter_map(file).collect();
        files.sort();
        files
    }

    /// The same with other bytes in the files of a name.
    pub(crate) fn with_file(&self, name: &str, bytes: &[u8]) -> Store {
        let mut store = self.clone();
        let nodes: Vec<Node> = self.dirs.values().filter_map(|entries| entries.get(name)?.now()).collect();
        for node in nodes {
            store.files.insert(node, Content { bytes: bytes.to_vec(), synced: bytes.len() });
        }
        store
    }

    /// What is not durable and could be found after the crash in more than one way.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        let (mut effects, mut pending) = (Vec::new(), vec![ROOT]);
        while let Some(dir) = pending.pop() {
            for (name, entry) in self.dirs.get(&dir).into_iter().flatten() {
                if !entry.later.is_empty() {
                    effects.push(Effect::Entry { dir, name: name.clone(), changes: entry.later.len() });
                }
                for node in entry.later.iter().chain([&entry.durable]).flatten() {
                    match self.files.get(node) {
                        Some(content) if content.bytes.len() > content.synced => {
                            effects.push(Effect::Tail { file: *node, is_new: content.synced == 0 })
                        }
                        Some(_) => {}
                        None => pending.push(*node),
                    }
                }
            }
        }
        effects
    }

    /// The disk after the crash, with each effect as it was decided.
    pub(crate) fn image(&self, decided: &[(Effect, usize)], seed: u64) -> Store {
        let mut image = Store { next: self.next, ..Store::new() };
        let mut pending = vec![ROOT];
        while let Some(dir) = pending.pop() {
            let mut entries = BTreeMap::new();
            for (name, entry) in self.dirs.get(&dir).into_iter().flatten() {
                let choice = decided.iter().find(|(effect, _)| effect.is_entry(dir, name)).map_or(0, |(_, c)| *c);
                let Some(node) = entry.version(choice) else { continue };
                entries.insert(name.clone(), Entry { durable: Some(node), later: Vec::new() });
                match self.files.get(&node) {
                    Some(content) => {
                        let tail = decided
                            .iter()
                            .find(|(effect, _)| matches!(effect, Effect::Tail { file, .. } if *file == node));
                        let bytes = content.crashed(tail.map_or(0, |(_, choice)| *choice), seed);
                        image.files.insert(node, Content { synced: bytes.len(), bytes });
                    }
                    None => pending.push(node),
                }
            }
            image.dirs.insert(dir, entries);
        }
        image
    }
}

/// Something that is not durable.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// An entry of a directory: as many of its changes happened as chosen.
    Entry { dir: Node, name: String, changes: usize },
    /// The bytes of a file behind its last sync: see [`Content::crashed`].
    Tail { file: Node, is_new: bool },
}

impl Effect {
    pub(crate) fn choices(&self) -> usize {
        match self {
            Effect::Entry { changes, .. } => changes + 1,
            Effect::Tail { .. } => 9,
        }
    }

    /// Whether a new chunk begins with bytes that are not its own: that looks like rot, and is reported as such
    /// rather than ignored.
    pub(crate) fn looks_like_rot(&self, choice: usize) -> bool {
        matches!(self, Effect::Tail { is_new: true, .. }) && matches!(choice, 6 | 7)
    }

    fn is_entry(&self, in_dir: Node, called: &str) -> bool {
        matches!(self, Effect::Entry { dir, name, .. } if *dir == in_dir && name == called)
    }
}

impl Content {
    /// The file with nothing, all or a part of what was not synced, or other bytes in its place.
    fn crashed(&self, choice: usize, seed: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let (from, length) = (self.synced, self.bytes.len());
        let tail = length - from;
        match choice {
            0 => bytes.truncate(from),
            1 => {}
            2 => bytes.truncate(from + tail.min(1)),
            3 => bytes.truncate(from + tail / 2),
            4 => bytes.truncate(length - tail.min(1)),
            5 => bytes[from..].fill(0),
            6 => {
                let mut random = Random(seed);
                bytes[from..].iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
            // Blocks reach the disk in any order: a hole before bytes that are right, and a cut anywhere.
            7 => bytes[from..from + tail / 2].fill(0),
            _ => bytes.truncate(from + Random(seed).below(tail + 1)),
        }
        bytes
    }
}

/// Numbers that look random and come again with the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// What the disk only pretends to do: each has to be noticed by the tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lie {
    None,
    /// A sync of a file does nothing.
    FileSyncs,
    /// A sync of a directory does nothing.
    DirSyncs,
    /// A sync of a directory above that of a swamp does nothing.
    ParentSyncs,
    /// A sync of a directory without a snapshot in it works, any other does not: removals get out of order.
    SnapshotEntries,
    /// What a killed process left is not made durable before it is built upon.
    StartSync,
}

/// The recording disk. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct RecordingDisk {
    root: PathBuf,
    lie: Lie,
    inner: Arc<Mutex<Recording>>,
}

#[derive(Debug)]
struct Recording {
    store: Store,
    trace: Vec<Event>,
    /// Changes with every change, in place of times.
    clock: i64,
}

impl Recording {
    fn did(&mut self, event: Event) {
        self.clock += 1;
        self.store.apply(&event);
        self.trace.push(event);
    }
}

impl RecordingDisk {
    pub(crate) fn new(root: &Path, lie: Lie) -> RecordingDisk {
        let root = root.canonicalize().expect("the directory is there");
        let recording = Recording { store: Store::new(), trace: Vec::new(), clock: 0 };
        RecordingDisk { root, lie, inner: Arc::new(Mutex::new(recording)) }
    }

    /// Puts another disk in place and begins a new trace.
    pub(crate) fn load(&self, store: Store) {
        let mut inner = self.inner.lock();
        inner.store = store;
        inner.trace.clear();
    }

    /// The disk as it is now.
    pub(crate) fn store(&self) -> Store {
        self.inner.lock().store.clone()
    }

    /// How much was done so far.
    pub(crate) fn length(&self) -> usize {
        self.inner.lock().trace.len()
    }

    pub(crate) fn trace(&self) -> Vec<Event> {
        self.inner.lock().trace.clone()
    }

    fn find(&self, store: &Store, path: &Path) -> io::Result<Node> {
        let below = path.strip_prefix(&self.root).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        let step = |dir, part: std::path::Component<'_>| store.child(dir, part.as_os_str().to_str()?);
        below.components().try_fold(ROOT, step).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The directory and the name in it that a path ends with.
    fn place(&self, store: &Store, path: &Path) -> io::Result<(Node, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Ok((self.find(store, path.parent().unwrap_or(path))?, name))
    }

    fn make(&self, path: &Path, is_dir: bool) -> io::Result<Node> {
        let mut inner = self.inner.lock();
        let (dir, name) = self.place(&inner.store, path)?;
        if inner.store.child(dir, &name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = inner.store.next;
        inner.did(Event::Make { dir, name, node, is_dir });
        Ok(node)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (dir, name) = self.place(&inner.store, path)?;
        inner.did(Event::Remove { dir, name });
        Ok(())
    }

    fn believes_sync_of(&self, dir: &Path) -> bool {
        let is_swamp = dir.strip_prefix(&self.root).is_ok_and(|below| below.components().count() == 4);
        let has_snapshot = || self.list(dir).is_ok_and(|names| names.iter().any(|name| name.ends_with(".hys")));
        match self.lie {
            Lie::None | Lie::FileSyncs | Lie::StartSync => true,
            Lie::DirSyncs => false,
            Lie::ParentSyncs => is_swamp,
            Lie::SnapshotEntries => !(is_swamp && has_snapshot()),
        }
    }
}

fn identity(store: &Store, node: Node, clock: i64) -> Identity {
    let length = store.files.get(&node).map_or(0, |content| content.bytes.len() as u64);
    let time = if store.dirs.contains_key(&node) { (clock, 0) } else { (0, 0) };
    Identity { device: 1, inode: node, links: 1, length, modified: time, changed: time }
}

impl Disk for RecordingDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.make(path, false)?;
        Ok(Box::new(RecordingFile { disk: self.clone(), file }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.find(&self.inner.lock().store, path)?;
        Ok(Box::new(RecordingFile { disk: self.clone(), file }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inner = self.inner.lock();
        let node = self.find(&inner.store, path)?;
        Ok(inner.store.files.get(&node).map(|content| content.bytes.clone()).unwrap_or_default())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner.lock();
        let Ok(node) = self.find(&inner.store, dir) else { return Ok(Vec::new()) };
        let entries = inner.store.dirs.get(&node).into_iter().flatten();
        Ok(entries.filter(|(_, entry)| entry.now().is_some()).map(|(name, _)| name.clone()).collect())
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        let inner = self.inner.lock();
        let node = self.find(&inner.store, path)?;
        Ok(identity(&inner.store, node, inner.clock))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match self.make(dir, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let works = self.believes_sync_of(dir);
        let mut inner = self.inner.lock();
        let node = self.find(&inner.store, dir)?;
        if works {
            inner.did(Event::SyncDir { dir: node });
        }
        Ok(())
    }

    fn file_system(&self, _: &Path) -> io::Result<Box<dyn FileSystem>> {
        Ok(Box::new(RecordingFileSystem { disk: self.clone(), is_used: AtomicBool::new(false) }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let is_there = self.find(&self.inner.lock().store, path).is_ok();
        if is_there { self.remove(path) } else { Ok(()) }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<bool> {
        let is_empty = {
            let inner = self.inner.lock();
            let Ok(node) = self.find(&inner.store, dir) else { return Ok(true) };
            inner.store.is_empty_dir(node)
        };
        if is_empty {
            self.remove(dir)?;
        }
        Ok(is_empty)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { free: 1 << 40, total: 1 << 40 })
    }
}

struct RecordingFileSystem {
    disk: RecordingDisk,
    /// Set by the first sync, the one of the start.
    is_used: AtomicBool,
}

impl FileSystem for RecordingFileSystem {
    fn sync(&self) -> io::Result<()> {
        let is_start = !self.is_used.swap(true, Ordering::Relaxed);
        let works = match self.disk.lie {
            Lie::StartSync => !is_start,
            Lie::FileSyncs => is_start,
            _ => true,
        };
        if works {
            self.disk.inner.lock().did(Event::SyncAll);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct RecordingFile {
    disk: RecordingDisk,
    file: Node,
}

impl DiskFile for RecordingFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        self.disk.inner.lock().did(Event::Append { file: self.file, bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.disk.lie != Lie::FileSyncs {
            self.disk.inner.lock().did(Event::SyncFile { file: self.file });
        }
        Ok(())
    }

    fn probe(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        let inner = self.disk.inner.lock();
        Ok(identity(&inner.store, self.file, inner.clock))
    }
}
