//! Tests with a disk that fails: at every operation in turn, once or for good.
//!
//! Whatever fails, a write that was acknowledged is there after a restart, one that was refused is
//! not, and when the fault is over writes go on.
//!
//! `HYDRA_FAULT_POINTS=10000 cargo test -p hydra-core --lib faults -- --nocapture` fails more operations.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::collect::collect;
use crate::crash::disk::{Lie, Random, RecordingDisk, Store};
use crate::disk::{Disk, DiskFile, FileSystem, Identity, RealDisk, Space};
use crate::engine::{CopyState, Engine, EngineOptions};
use crate::error::{Applied, Error, ErrorCode, Result};
use crate::folder::{FolderCount, folder_of};
use crate::layout::swamp_path;
use crate::name::SwampName;
use crate::policy::Policy;
use crate::swamp::Resident;
use crate::value::Value;
use crate::write::{Batch, Condition, Expiry, Op, OpResult};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// When and how the disk fails.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// The first operation that fails, counted from 0.
    from: usize,
    /// How many fail.
    count: usize,
    /// How much of a failing append is written, in eighths.
    written_eighths: usize,
    /// With which error.
    errno: i32,
    /// Whether reading, listing and looking fail as well.
    reads: bool,
    /// Of the script.
    seed: u64,
}

impl Plan {
    fn writes(from: usize, count: usize, written_eighths: usize) -> Plan {
        Plan { from, count, written_eighths, errno: EIO, reads: false, seed: 1 }
    }
}

#[derive(Debug)]
struct Faults {
    plan: Plan,
    operations: AtomicUsize,
    /// Bytes of files that were read.
    read: AtomicUsize,
    healed: AtomicBool,
    /// Locked while the disk hangs: no sync comes to an end meanwhile.
    hangs: Mutex<()>,
    /// Bytes that are free.
    free: AtomicU64,
    /// Files of which a sync failed: the system holds their bytes for written and syncs them never again.
    spoilt: Mutex<HashSet<u64>>,
}

impl Faults {
    fn strike(&self) -> bool {
        let at = self.operations.fetch_add(1, Ordering::Relaxed);
        let struck = (self.plan.from..self.plan.from.saturating_add(self.plan.count)).contains(&at);
        struck && !self.healed.load(Ordering::Relaxed)
    }

    fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.plan.errno)
    }

    fn check(&self) -> io::Result<()> {
        if self.strike() { Err(self.error()) } else { Ok(()) }
    }

    fn check_reading(&self) -> io::Result<()> {
        if self.plan.reads { self.check() } else { Ok(()) }
    }
}

/// A disk with faults.
#[derive(Debug, Clone)]
struct FaultyDisk {
    faults: Arc<Faults>,
    below: Arc<dyn Disk>,
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    inode: u64,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    fn new(plan: Plan) -> FaultyDisk {
        FaultyDisk::over(Arc::new(RealDisk), plan)
    }

    fn over(below: Arc<dyn Disk>, plan: Plan) -> FaultyDisk {
        let (operations, read) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (hangs, spoilt) = (Mutex::default(), Mutex::default());
        let free = AtomicU64::new(1 << 40);
        let faults = Faults { plan, operations, read, healed: false.into(), hangs, free, spoilt };
        FaultyDisk { faults: Arc::new(faults), below }
    }

    fn counted(&self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        self.faults.read.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(bytes)
    }

    fn heal(&self) {
        self.faults.healed.store(true, Ordering::Relaxed);
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let inode = file.identity().expect("an open file").inode;
        Box::new(FaultyFile { file, inode, faults: Arc::clone(&self.faults) })
    }
}

impl Disk for FaultyDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.faults.check()?;
        self.below.create_new(path).map(|file| self.file(file))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.faults.check()?;
        self.below.open_append(path).map(|file| self.file(file))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.faults.check_reading()?;
        self.counted(self.below.read(path)?)
    }

    fn read_from(&self, path: &Path, from: u64) -> io::Result<Vec<u8>> {
        self.faults.check_reading()?;
        self.counted(self.below.read_from(path, from)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.faults.check_reading()?;
        self.below.list(dir)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.faults.check_reading()?;
        self.below.identity(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.check()?;
        self.below.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.check()?;
        self.below.sync_dir(dir)
    }

    fn file_system(&self, dir: &Path) -> io::Result<Box<dyn FileSystem>> {
        let below = self.below.file_system(dir)?;
        Ok(Box::new(FaultyFileSystem { below, faults: Arc::clone(&self.faults), is_used: AtomicBool::new(false) }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.faults.check()?;
        self.below.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<bool> {
        self.faults.check()?;
        self.below.remove_dir(dir)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { free: self.faults.free.load(Ordering::Relaxed), total: 1 << 40 })
    }
}

struct FaultyFileSystem {
    below: Box<dyn FileSystem>,
    faults: Arc<Faults>,
    /// Set by the first sync, the one of the start, which does not fail.
    is_used: AtomicBool,
}

impl FileSystem for FaultyFileSystem {
    fn sync(&self) -> io::Result<()> {
        if self.is_used.swap(true, Ordering::Relaxed) {
            self.faults.check()?;
        }
        self.below.sync()
    }
}

impl DiskFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> std::result::Result<(), (u64, io::Error)> {
        if !self.faults.strike() {
            return self.file.append(bytes);
        }
        let written = bytes.len() * self.faults.plan.written_eighths / 8;
        self.file.append(&bytes[..written])?;
        Err((written as u64, self.faults.error()))
    }

    fn sync(&mut self) -> io::Result<()> {
        drop(self.faults.hangs.lock());
        if self.faults.strike() {
            self.faults.spoilt.lock().insert(self.inode);
            return Err(self.faults.error());
        }
        // The second sync of such a file succeeds, and does nothing.
        if self.faults.spoilt.lock().contains(&self.inode) { Ok(()) } else { self.file.sync() }
    }

    fn probe(&mut self) -> io::Result<()> {
        self.file.probe()
    }

    fn identity(&self) -> io::Result<Identity> {
        self.faults.check_reading()?;
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

#[test]
fn what_waited_for_a_disk_that_hung_until_its_caller_had_left_is_not_carried_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(Plan::writes(usize::MAX, 0, 0));
    let engine = Engine::open_on(options(dir.path(), Duration::ZERO), Arc::new(disk.clone())).expect("opened");
    let alice = engine.hydrate(&swamp()).expect("readable");
    let put = |key: &str, deadline: Option<Duration>| {
        let value = Value::json("1").expect("JSON");
        let op = Op::Put { key: key.into(), value, expiry: Expiry::Never, condition: Condition::Always };
        alice.write(Batch { deadline: deadline.map(|left| Instant::now() + left), ..Batch::of(op) })
    };
    put("before", Some(Duration::from_secs(60))).wait().expect("in time");
    let hanging = disk.faults.hangs.lock();
    let under_way = put("under-way", Some(Duration::from_millis(50)));
    std::thread::sleep(Duration::from_millis(20));
    let (late, patient) = (put("late", Some(Duration::from_millis(50))), put("patient", None));
    std::thread::sleep(Duration::from_millis(200));
    drop(hanging);
    under_way.wait().expect("its turn came in time");
    let refused = late.wait().expect_err("too late");
    assert_eq!((refused.code(), refused.applied()), (ErrorCode::ServerTimeout, Applied::No));
    patient.wait().expect("it waits as long as it takes");
    let over = put("over", Some(Duration::ZERO)).wait().expect_err("too late before it began");
    assert_eq!(over.code(), ErrorCode::ServerTimeout);
    let there = ["before", "under-way", "late", "patient", "over"].map(|key| alice.get(key).expect("read").is_some());
    assert_eq!(there, [true, true, false, true, false]);
}

#[test]
fn a_snapshot_takes_no_room_that_what_was_acknowledged_needs() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(Plan::writes(usize::MAX, 0, 0));
    let options = options(dir.path(), Duration::from_secs(3_600));
    let engine = Engine::open_on(options, Arc::new(disk.clone())).expect("opened");
    let value = |length: usize| Value::json(format!("{:?}", "x".repeat(length))).expect("JSON");
    let other: SwampName = "users/profiles/bob".parse().expect("a name");
    engine.put(&swamp(), "k", value(200_000)).expect("written");
    engine.flush(None).expect("on disk");
    engine.put(&other, "k", value(100_000)).expect("acknowledged, and not on disk");
    let alice = engine.hydrate(&swamp()).expect("readable");
    disk.faults.free.store(250_000, Ordering::Relaxed);
    assert_eq!(alice.compact().wait().expect_err("no room for both").code(), ErrorCode::DiskFull);
    // No write counts on the room of the snapshot; the snapshot may use what no write may.
    assert_eq!(engine.put(&other, "l", value(1)).expect_err("refused").code(), ErrorCode::DiskFull);
    disk.faults.free.store(350_000, Ordering::Relaxed);
    assert!(alice.compact().wait().expect("room for both"));
    engine.flush(None).expect("room for what was acknowledged");
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
                run(Plan::writes(from, count, written_eighths), Duration::ZERO);
            }
        }
    }
}

#[test]
fn a_buffered_write_stays_acknowledged_until_the_disk_is_well() {
    for from in 0..20 {
        for count in [1, 2, 5] {
            run(Plan::writes(from, count, 5), Duration::from_millis(1));
        }
    }
}

#[test]
fn on_a_standby_folder_no_write_is_acknowledged_without_its_note() {
    for from in 0..26 {
        for count in [1, 2, usize::MAX] {
            write_in_place_of_the_owner(Plan::writes(from, count, 5));
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
    let plan = Plan::writes(7, 1, 8);
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
            let plan = Plan::writes(from, count, 5);
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

#[test]
fn a_swamp_that_knows_more_processes_than_a_header_can_name_takes_no_writes_and_stays_readable() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open(options(dir.path(), Duration::ZERO)).expect("opened");
    assert_eq!(put(&engine, "before"), Told::Done);
    let known = |engine: &Engine, processes: u64| {
        let resident = engine.shared().residents.get(&swamp()).expect("in memory");
        (1..=processes).for_each(|incarnation| resident.state.write().vector.set(incarnation, 1));
        resident.log.lock().seal(engine.shared());
    };
    known(&engine, 64_000);
    assert_eq!(put(&engine, "many"), Told::Done);
    known(&engine, 66_000);
    assert_eq!(put(&engine, "after"), Told::Refused);
    let compacted = engine.hydrate(&swamp()).expect("readable").compact().wait();
    assert!(compacted.is_err(), "{compacted:?}");
    drop(engine);
    let engine = Engine::open(options(dir.path(), Duration::ZERO)).expect("opened again");
    let there = |key| engine.get(&swamp(), key).map(|treasure| treasure.is_some());
    assert_eq!([there("before"), there("many")].map(|there| there.expect("readable")), [true; 2]);
}

/// Puts records in batches.
fn fill(engine: &Engine, records: usize) {
    for from in (0..records).step_by(5_000) {
        let put = |at: usize| Op::Put {
            key: format!("key-{at:06}"),
            value: Value::json(format!("{{\"number\":{at}}}")).expect("JSON"),
            expiry: Expiry::Never,
            condition: Condition::Always,
        };
        let ops = (from..records.min(from + 5_000)).map(put).collect();
        engine.batch(&swamp(), Batch { ops, ..Batch::default() }).expect("written");
    }
}

#[test]
fn of_a_log_that_grew_only_what_is_new_is_read() {
    const RECORDS: usize = 100_000;
    let (here, there) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let writer = Engine::open(options(here.path(), Duration::ZERO)).expect("opened");
    fill(&writer, RECORDS);
    let dir = swamp_path(here.path(), writer.folder_of(&swamp()), &swamp());
    let copy_dir = swamp_path(there.path(), writer.folder_of(&swamp()), &swamp());
    std::fs::create_dir_all(&copy_dir).expect("a directory");
    // Like a tool that appends, or like one that puts a new file in the place of the old one.
    let copy = |replaces: bool| {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let name = entry.expect("a file").file_name();
            let to = copy_dir.join(if replaces { ".new".into() } else { name.clone() });
            std::fs::copy(dir.join(&name), &to).expect("copied");
            std::fs::rename(to, copy_dir.join(&name)).expect("renamed");
        }
    };
    copy(false);
    let disk = FaultyDisk::new(Plan::writes(usize::MAX, 0, 0));
    let reader_options = EngineOptions {
        server_id: Some("s2".into()),
        foreign_poll: Duration::ZERO,
        copied: true,
        ..options(there.path(), Duration::ZERO)
    };
    let reader = Engine::open_on(reader_options, Arc::new(disk.clone())).expect("opened");
    let number = |key: &str| reader.get(&swamp(), key).expect("readable").map(|treasure| treasure.value);
    let began = Instant::now();
    assert!(number("key-000000").is_some());
    let (took, whole) = (began.elapsed(), disk.faults.read.swap(0, Ordering::Relaxed));
    println!("read all of {RECORDS} records: {whole} bytes, {took:?}");
    for round in 0..6 {
        let replaces = round % 3 == 2;
        for at in 0..5 {
            let key = format!("key-{:06}", 1_000 * round + at);
            writer.put(&swamp(), &key, Value::json(format!("-1{round}{at}")).expect("JSON")).expect("written");
        }
        reader.put(&swamp(), "mine", Value::json(round.to_string()).expect("JSON")).expect("written");
        copy(replaces);
        let began = Instant::now();
        let shown = number(&format!("key-{:06}", 1_000 * round + 4)).expect("there");
        let (took, read) = (began.elapsed(), disk.faults.read.swap(0, Ordering::Relaxed));
        println!("read what came, replaced: {replaces}: {read} bytes, {took:?}");
        assert_eq!(shown.as_bytes(), format!("-1{round}4").as_bytes());
        assert!(read <= if replaces { whole + 8_192 } else { 4_096 }, "{read} bytes of {whole}");
    }
    assert_eq!(reader.stats().hydrations, 1, "everything was read once only");
    assert_eq!(number("mine").expect("there").as_bytes(), b"5");
}

/// Synced, buffered for a moment, and one in the other folder, to which somebody else brings a file.
const SWAMPS: [(&str, Duration); 3] =
    [("users/names/a", Duration::ZERO), ("users/names/b", Duration::from_millis(1)), ("users/names/c", Duration::ZERO)];
const BROUGHT: usize = 2;
const STEPS: usize = 40;

/// What may stand under a key: the last value that was acknowledged, and after it those of which nobody knows.
type Possible = Vec<Option<String>>;

/// A user who writes and reads whatever the disk does, and remembers what was told.
struct User {
    engine: Engine,
    names: Vec<SwampName>,
    random: Random,
    plan: Plan,
    possible: BTreeMap<(usize, String), Possible>,
}

fn is_fault(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Io | ErrorCode::SwampReadOnly | ErrorCode::DiskFull)
}

impl User {
    fn possible(&mut self, at: usize, key: &str) -> &mut Possible {
        self.possible.entry((at, key.to_owned())).or_insert_with(|| vec![None])
    }

    fn step(&mut self) {
        let at = self.random.below(SWAMPS.len());
        match self.random.below(12) {
            0..5 => self.put(at),
            5 | 6 => self.delete(at),
            7 => self.increment(at),
            8 => drop(self.engine.flush(None)),
            9 => self.evict(at),
            10 if at != BROUGHT => self.destroy(at),
            _ => self.compact(at),
        }
        self.look(at);
    }

    fn put(&mut self, at: usize) {
        let texts: Vec<(String, String)> =
            (0..1 + self.random.below(3)).map(|n| (format!("k{n}"), format!("\"{:x}\"", self.random.next()))).collect();
        let put = |(key, text): &(String, String)| Op::Put {
            key: key.clone(),
            value: Value::json(text).expect("JSON"),
            expiry: Expiry::Never,
            condition: Condition::Always,
        };
        let told =
            self.engine.batch(&self.names[at], Batch { ops: texts.iter().map(put).collect(), ..Batch::default() });
        for (key, text) in texts {
            self.told(at, &key, Some(text), &told);
        }
    }

    fn delete(&mut self, at: usize) {
        let op = Op::Delete { key: "k0".into(), condition: Condition::Always };
        let told = self.engine.batch(&self.names[at], Batch::of(op));
        self.told(at, "k0", None, &told);
    }

    fn destroy(&mut self, at: usize) {
        let Ok(swamp) = self.engine.hydrate(&self.names[at]) else { return };
        let told = swamp.destroy().wait();
        for key in ["k0", "k1", "k2", "n"] {
            self.told(at, key, None, &told);
        }
    }

    fn told<T>(&mut self, at: usize, key: &str, value: Option<String>, told: &Result<T>) {
        let plan = self.plan;
        let possible = self.possible(at, key);
        match told {
            Ok(_) => *possible = vec![value],
            Err(error) => {
                assert!(is_fault(error), "{plan:?}: {error}");
                if error.applied() == Applied::Unknown {
                    possible.push(value);
                }
            }
        }
    }

    fn increment(&mut self, at: usize) {
        let number = |text: &Option<String>| text.as_ref().map_or(0, |text| text.parse::<i64>().expect("a number"));
        let told = self.engine.batch(&self.names[at], Batch::of(Op::Increment { key: "n".into(), by: 7 }));
        let before = self.possible(at, "n").clone();
        let after: Possible = before.iter().map(|text| Some((number(text) + 7).to_string())).collect();
        match told {
            Ok(committed) => {
                let Ok(OpResult::Incremented { value, .. }) = committed.results[0] else {
                    panic!("{:?}", committed.results)
                };
                let value = Some(value.to_string());
                assert!(after.contains(&value), "{:?}: {value:?}, not of {after:?}", self.plan);
                *self.possible(at, "n") = vec![value];
            }
            Err(error) => {
                assert!(is_fault(&error), "{:?}: {error}", self.plan);
                if error.applied() == Applied::Unknown {
                    self.possible(at, "n").extend(after);
                }
            }
        }
    }

    fn compact(&self, at: usize) {
        let compacted = self.engine.hydrate(&self.names[at]).map(|swamp| swamp.compact().wait());
        if let Err(error) = compacted.and_then(|_| collect(self.engine.shared(), &self.names[at], Duration::ZERO)) {
            assert!(is_fault(&error), "{:?}: {error}", self.plan);
        }
    }

    fn evict(&self, at: usize) {
        let shared = self.engine.shared();
        if let Some(resident) = shared.residents.get(&self.names[at]) {
            shared.residents.evict(&resident, Resident::leave);
        }
    }

    /// Reads: an error, or something that may be there; what was shown once is not taken back.
    fn look(&mut self, at: usize) {
        let plan = self.plan;
        for key in ["k0", "k1", "k2", "n"] {
            let shown = match self.engine.get(&self.names[at], key) {
                Ok(treasure) => treasure.map(|t| String::from_utf8_lossy(t.value.as_bytes()).into_owned()),
                Err(error) => {
                    assert!(is_fault(&error), "{plan:?}: {error}");
                    continue;
                }
            };
            let possible = self.possible(at, key);
            let place = possible.iter().position(|value| *value == shown);
            let place = place.unwrap_or_else(|| panic!("{plan:?}: {at} {key} is {shown:?}, not of {possible:?}"));
            possible.drain(..place);
        }
    }

    /// Waits until writes go on, and closes.
    fn recover(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        for at in 0..SWAMPS.len() {
            loop {
                let put = self.engine.put(&self.names[at], "after", Value::json("1").expect("JSON"));
                if put.is_ok() && self.engine.flush(None).is_ok() {
                    break;
                }
                assert!(Instant::now() < until, "{:?}: writes go on when the fault is over: {put:?}", self.plan);
                std::thread::sleep(Duration::from_millis(5));
            }
            self.look(at);
        }
        self.engine.close().expect("closed");
    }
}

fn script_options(dir: &Path, id: &str) -> EngineOptions {
    let mut options = options(dir, Duration::ZERO);
    options.server_id = Some(id.into());
    options.folders_total = FolderCount::new(2).ok();
    options.commit_threads = 2;
    options.foreign_poll = Duration::ZERO;
    options
}

/// Names of which the last is in another folder than the others.
fn script_names() -> Vec<SwampName> {
    let two = FolderCount::new(2).expect("2");
    let with_suffix = |(at, (name, _)): (usize, &(&str, Duration))| {
        let suffixed = |n: u32| -> SwampName { format!("{name}{n}").parse().expect("a name") };
        let wanted = u32::from(at == BROUGHT);
        (0..).map(suffixed).find(|name| folder_of(name, two).get() == wanted).expect("some")
    };
    SWAMPS.iter().enumerate().map(with_suffix).collect()
}

/// A chunk of another server for a swamp.
fn brought(name: &SwampName) -> (String, Vec<u8>) {
    let home = tempfile::tempdir().expect("a directory");
    let disk = RecordingDisk::new(home.path(), Lie::None);
    let engine = Engine::open_on(script_options(home.path(), "s2"), Arc::new(disk.clone())).expect("opened");
    engine.put(name, "theirs", Value::json("2").expect("JSON")).expect("written");
    engine.close().expect("closed");
    let dir = swamp_path(&engine.shared().root.path, folder_of(name, engine.folder_count()), name);
    let file = disk.list(&dir).expect("listed").remove(0);
    let bytes = disk.read(&dir.join(&file)).expect("read");
    (file, bytes)
}

/// Makes the directory of a swamp as a copy tool does: nobody syncs it.
fn make_dir(disk: &RecordingDisk, engine: &Engine, name: &SwampName) -> std::path::PathBuf {
    let root = &engine.shared().root;
    let dir = swamp_path(&root.path, folder_of(name, root.folders), name);
    let mut above: Vec<&Path> = dir.ancestors().take_while(|&dir| dir != root.path).collect();
    above.reverse();
    above.iter().for_each(|dir| disk.create_dir(dir).expect("made"));
    dir
}

/// Puts a file of somebody else into a swamp, and makes it durable.
fn bring(disk: &RecordingDisk, engine: &Engine, name: &SwampName, (file, bytes): &(String, Vec<u8>)) {
    let dir = make_dir(disk, engine, name);
    let mut copy = disk.create_new(&dir.join(file)).expect("created");
    copy.append(bytes).expect("written");
    copy.sync().expect("synced");
    disk.file_system(&engine.shared().root.path).and_then(|all| all.sync()).expect("synced");
}

#[test]
fn a_write_into_a_directory_that_a_copy_tool_made_is_durable_with_that_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || EngineOptions { copied: true, ..options(dir.path(), Duration::ZERO) };
    let disk = RecordingDisk::new(dir.path(), Lie::None);
    let engine = Engine::open_on(options(), Arc::new(disk.clone())).expect("opened");
    make_dir(&disk, &engine, &swamp());
    assert_eq!(put(&engine, "k"), Told::Done);
    let survived = disk.store().image(&[], 0);
    drop(engine);
    let disk = RecordingDisk::new(dir.path(), Lie::None);
    disk.load(survived);
    let engine = Engine::open_on(options(), Arc::new(disk)).expect("opened again");
    assert!(engine.get(&swamp(), "k").expect("readable").is_some(), "the power went after the answer");
}

/// Runs a script with a fault; answers how many operations it did.
fn run_script(plan: Plan, foreign: &(String, Vec<u8>)) -> usize {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = RecordingDisk::new(dir.path(), Lie::None);
    let disk = FaultyDisk::over(Arc::new(memory.clone()), plan);
    let engine = Engine::open_on(script_options(dir.path(), "s1"), Arc::new(disk.clone())).expect("opened");
    let names = script_names();
    for (name, (_, write_interval)) in names.iter().zip(SWAMPS) {
        let policy = Policy { write_interval, idle_evict: Duration::from_secs(3_600), ..Policy::default() };
        engine.set_policy(name.as_str().parse().expect("a pattern"), policy).expect("stored");
    }
    let mut user = User { engine, names: names.clone(), random: Random(plan.seed), plan, possible: BTreeMap::new() };
    for step in 0..STEPS {
        if step == STEPS / 2 {
            bring(&memory, &user.engine, &names[BROUGHT], foreign);
        }
        user.step();
    }
    disk.heal();
    user.recover();
    let store = memory.store();
    for survived in [store.image(&[], 0), store] {
        check_after_restart(dir.path(), survived, &user);
    }
    disk.faults.operations.load(Ordering::Relaxed)
}

fn check_after_restart(dir: &Path, survived: Store, user: &User) {
    let disk = RecordingDisk::new(dir, Lie::None);
    disk.load(survived);
    let engine = Engine::open_on(script_options(dir, "s1"), Arc::new(disk)).expect("opened again");
    for ((at, key), possible) in &user.possible {
        let found = engine.get(&user.names[*at], key);
        let found = found.unwrap_or_else(|error| panic!("{:?}: {at} {key}: {error}", user.plan));
        let found = found.map(|treasure| String::from_utf8_lossy(treasure.value.as_bytes()).into_owned());
        assert!(
            possible.contains(&found),
            "{:?}: {at} {key} is {found:?} after a restart, not of {possible:?}",
            user.plan
        );
    }
    for name in &user.names {
        assert_eq!(
            engine.hydrate(name).expect("readable").copy_state(),
            CopyState::Complete,
            "{:?}: {name}",
            user.plan
        );
    }
    let theirs = engine.get(&user.names[BROUGHT], "theirs").expect("readable");
    assert!(theirs.is_some_and(|treasure| treasure.value.as_bytes() == b"2"), "{:?}: what was brought", user.plan);
}

#[test]
fn whatever_fails_in_a_long_script_no_acknowledged_write_is_lost_and_no_wrong_value_shown() {
    let points = std::env::var("HYDRA_FAULT_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let foreign = brought(&script_names()[BROUGHT]);
    let operations = run_script(Plan { reads: true, ..Plan::writes(usize::MAX, 0, 0) }, &foreign);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let point = next.fetch_add(1, Ordering::Relaxed);
                    if point >= points {
                        break;
                    }
                    let mut random = Random(point as u64);
                    let plan = Plan {
                        from: (point * operations / points + random.below(3)) % operations,
                        count: [1, 1, 2, 5, usize::MAX][random.below(5)],
                        written_eighths: [0, 1, 5, 8][random.below(4)],
                        errno: [EIO, ENOSPC][random.below(2)],
                        reads: random.below(2) == 0,
                        seed: point as u64 % 16,
                    };
                    run_script(plan, &foreign);
                }
            });
        }
    });
    println!("{points} faults in scripts of about {operations} operations");
}
