//! Tests with a disk that fails: at every operation in turn, once or for good.
//!
//! Whatever fails, a write that was acknowledged is there after a restart, one that was refused is
//! not, and when the fault is over writes go on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, Identity, RealDisk, Space};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Applied, ErrorCode};
use crate::folder::FolderCount;
use crate::name::SwampName;
use crate::policy::Policy;
use crate::value::Value;

/// When and how the disk fails.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// The first operation that fails, counted from 0.
    from: usize,
    /// How many fail.
    count: usize,
    /// How much of a failing append is written, in eighths.
    written_eighths: usize,
}

#[derive(Debug)]
struct Faults {
    plan: Plan,
    operations: Mutex<usize>,
}

impl Faults {
    fn strike(&self) -> bool {
        let mut operations = self.operations.lock();
        let at = *operations;
        *operations += 1;
        (self.plan.from..self.plan.from.saturating_add(self.plan.count)).contains(&at)
    }

    fn check(&self) -> io::Result<()> {
        if self.strike() { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

/// The real disk with faults. Reading never fails here.
#[derive(Debug, Clone)]
struct FaultyDisk(Arc<Faults>);

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    fn new(plan: Plan) -> FaultyDisk {
        FaultyDisk(Arc::new(Faults { plan, operations: Mutex::new(0) }))
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { file, faults: Arc::clone(&self.0) })
    }
}

impl Disk for FaultyDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.check()?;
        RealDisk.create_new(path).map(|file| self.file(file))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.check()?;
        RealDisk.open_append(path).map(|file| self.file(file))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        RealDisk.identity(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.sync_dir(dir)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<bool> {
        self.0.check()?;
        RealDisk.remove_dir(dir)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { free: 1 << 40, total: 1 << 40 })
    }
}

impl DiskFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        if !self.faults.strike() {
            return self.file.append(bytes);
        }
        let written = bytes.len() * self.faults.plan.written_eighths / 8;
        self.file.append(&bytes[..written])?;
        Err((written as u64, io::Error::from_raw_os_error(5)))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.faults.check()?;
        self.file.sync()
    }

    fn identity(&self) -> io::Result<Identity> {
        self.file.identity()
    }
}

fn options(dir: &Path, write_interval: Duration) -> EngineOptions {
    let mut options = EngineOptions::new(dir);
    options.default_policy = Policy { write_interval, ..Policy::default() };
    options.server_id = Some("s1".into());
    options
}

fn swamp() -> SwampName {
    "users/profiles/alice".parse().expect("a name")
}

/// What the caller of a write was told.
#[derive(Debug, PartialEq)]
enum Told {
    Done,
    Refused,
    Unknown,
}

fn put(engine: &Engine, key: &str) -> Told {
    let outcome = engine.put(&swamp(), key, Value::json("1").expect("JSON"));
    match outcome {
        Ok(_) => Told::Done,
        Err(error) if error.applied() == Applied::Unknown => Told::Unknown,
        Err(error) => {
            assert!(matches!(error.code(), ErrorCode::Io | ErrorCode::SwampReadOnly), "{error}");
            Told::Refused
        }
    }
}

/// Puts keys with the fault in between, waits until writes go on, and looks after a restart.
fn run(plan: Plan, write_interval: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open_on(options(dir.path(), write_interval), Arc::new(FaultyDisk::new(plan))).expect("opened");
    let told: Vec<(String, Told)> =
        (0..6).map(|i| format!("k{i}")).map(|key| (key.clone(), put(&engine, &key))).collect();
    if plan.count < 1_000 {
        let until = Instant::now() + Duration::from_secs(10);
        while put(&engine, "after") != Told::Done || engine.flush(None).is_err() {
            assert!(Instant::now() < until, "{plan:?}: writes go on when the fault is over");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let shown: Vec<bool> = told.iter().map(|(key, _)| engine.get(&swamp(), key).expect("readable").is_some()).collect();
    let closed = engine.close();
    drop(engine);
    let engine = Engine::open(options(dir.path(), write_interval)).expect("opened again");
    for ((key, told), shown) in told.iter().zip(shown) {
        let there = engine.get(&swamp(), key).expect("readable").is_some();
        match told {
            Told::Done => {
                assert!(there || (!write_interval.is_zero() && closed.is_err()), "{plan:?}: {key} was acknowledged")
            }
            Told::Refused => assert!(!there, "{plan:?}: {key} was refused"),
            Told::Unknown => assert!(there || !shown, "{plan:?}: {key} was shown"),
        }
    }
}

#[test]
fn a_synced_write_is_there_or_refused_whatever_fails() {
    for from in 0..22 {
        for count in [1, 2, usize::MAX] {
            for written_eighths in [0, 5, 8] {
                run(Plan { from, count, written_eighths }, Duration::ZERO);
            }
        }
    }
}

#[test]
fn a_buffered_write_stays_acknowledged_until_the_disk_is_well() {
    for from in 0..20 {
        for count in [1, 2, 5] {
            run(Plan { from, count, written_eighths: 5 }, Duration::from_millis(1));
        }
    }
}

#[test]
fn on_a_standby_folder_no_write_is_acknowledged_without_its_note() {
    for from in 0..26 {
        for count in [1, 2, usize::MAX] {
            write_in_place_of_the_owner(Plan { from, count, written_eighths: 5 });
        }
    }
}

fn standby_options(dir: &Path) -> EngineOptions {
    EngineOptions { standby: FolderCount::DEFAULT.all(), ..options(dir, Duration::ZERO) }
}

/// Puts and settles in turn with the fault in between. After a restart every file with an acknowledged write that
/// was not settled is noted.
fn write_in_place_of_the_owner(plan: Plan) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open_on(standby_options(dir.path()), Arc::new(FaultyDisk::new(plan))).expect("opened");
    let folder = engine.folder_of(&swamp());
    let mut is_owed = false;
    for i in 0..8 {
        is_owed |= put(&engine, &format!("k{i}")) == Told::Done;
        if i == 3 {
            let version = engine.takeover(folder).map(|listed| listed.version).unwrap_or_default();
            is_owed &= engine.settle(folder, &version).is_err();
        }
    }
    drop(engine);
    let engine = Engine::open(standby_options(dir.path())).expect("opened again");
    let listed = engine.takeover(folder).expect("listed");
    assert!(!is_owed || listed.count > 0, "{plan:?}: acknowledged, and not noted");
}

#[test]
fn one_failed_sync_is_not_noticed_by_the_caller() {
    let dir = tempfile::tempdir().expect("a directory");
    // After the folder, three directories and the file: the first append is operation 6, its sync the 7th.
    let plan = Plan { from: 7, count: 1, written_eighths: 8 };
    let engine = Engine::open_on(options(dir.path(), Duration::ZERO), Arc::new(FaultyDisk::new(plan))).expect("opened");
    assert!((0..5).all(|i| put(&engine, &format!("k{i}")) == Told::Done));
    let files = engine.hydrate(&swamp()).expect("resident").info().expect("readable").expect("there").files;
    assert_eq!(files, 2, "the chunk of the failed sync is given up");
    engine.close().expect("closed");
    let engine = Engine::open(options(dir.path(), Duration::ZERO)).expect("opened again");
    assert!((0..5).all(|i| engine.get(&swamp(), &format!("k{i}")).expect("readable").is_some()));
}

/// Removes the chunk of the swamp, as an operator's tool might.
fn remove_chunks(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        match entry.path() {
            path if path.is_dir() => remove_chunks(&path),
            path if path.extension().is_some_and(|extension| extension == "hyl") => {
                std::fs::remove_file(path).expect("removed")
            }
            _ => {}
        }
    }
}

#[test]
fn what_a_removed_chunk_held_is_written_again_however_often_that_fails() {
    // The first three puts take 17 operations: the fault comes after them.
    for from in 17..36 {
        for count in [1, 2, 4] {
            let dir = tempfile::tempdir().expect("a directory");
            let plan = Plan { from, count, written_eighths: 5 };
            let disk = Arc::new(FaultyDisk::new(plan));
            let engine = Engine::open_on(options(dir.path(), Duration::ZERO), disk).expect("opened");
            assert!((0..3).all(|i| put(&engine, &format!("k{i}")) == Told::Done));
            remove_chunks(dir.path());
            let until = Instant::now() + Duration::from_secs(10);
            while put(&engine, "after") != Told::Done {
                assert!(Instant::now() < until, "{plan:?}: writes go on when the fault is over");
                std::thread::sleep(Duration::from_millis(10));
            }
            engine.close().expect("closed");
            let engine = Engine::open(options(dir.path(), Duration::ZERO)).expect("opened again");
            for i in 0..3 {
                let found = engine.get(&swamp(), &format!("k{i}"));
                assert!(matches!(found, Ok(Some(_))), "{plan:?}: k{i} was acknowledged and is {found:?}");
            }
        }
    }
}
