//! Writers, an eviction, a copy tool and a compaction at work in one engine, in one order of their steps after the
//! other: a scheduler chooses who goes on at every lock, so that nothing is left to the luck of real threads.
//!
//! Whatever the order: nobody waits for ever, what was acknowledged can be read and is on the disk if that was
//! promised, what came from elsewhere shows once it was looked for.
//!
//! `HYDRA_SCHEDULES=100000 cargo test --release -p hydra-core --features schedules --lib schedules -- --nocapture`

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};

use crate::collect::collect;
use crate::crash::disk::{Lie, RecordingDisk, Store};
use crate::disk::Disk;
use crate::engine::{CopyState, Engine, EngineOptions};
use crate::folder::{FolderCount, folder_of};
use crate::layout::swamp_path;
use crate::name::SwampName;
use crate::policy::Policy;
use crate::swamp::Resident;
use crate::sync::LOST_WAKE_UPS;
use crate::value::Value;
use crate::write::{Batch, Condition, Expiry, Op};

/// A rule that is broken, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mutant {
    /// A swamp leaves memory although something of it is not on the disk.
    DirtyEviction,
    /// Those who wait for others are not always told that they can go on.
    LostWakeUp,
}

const SYNCED: &str = "users/names/synced";
const BUFFERED: &str = "users/names/buffered";

fn name(text: &str) -> SwampName {
    text.parse().expect("a name")
}

fn options(dir: &Path, id: &str) -> EngineOptions {
    let mut options = EngineOptions::new(dir);
    options.server_id = Some(id.into());
    options.folders_total = FolderCount::new(1).ok();
    options.commit_threads = 2;
    options.copied = true;
    options.foreign_poll = Duration::ZERO;
    options.gc_delay = Duration::ZERO;
    options.default_policy = Policy { idle_evict: Duration::from_secs(86_400), ..Policy::default() };
    options
}

fn put(key: &str, value: &str) -> Op {
    let value = Value::json(value).expect("JSON");
    Op::Put { key: key.into(), value, expiry: Expiry::Never, condition: Condition::Always }
}

/// The log of another server, with where its first record ends.
#[derive(Debug)]
struct Foreign {
    file: String,
    bytes: Vec<u8>,
    first: usize,
}

impl Foreign {
    fn written() -> Foreign {
        let home = home();
        let disk = RecordingDisk::new(home.path(), Lie::None);
        let engine = Engine::open_on(options(home.path(), "s2"), Arc::new(disk.clone())).expect("opened");
        let mut first = 0;
        let dir =
            swamp_path(&engine.shared().root.path, folder_of(&name(SYNCED), engine.folder_count()), &name(SYNCED));
        for (at, key) in ["early", "late", "later"].into_iter().enumerate() {
            engine.batch(&name(SYNCED), Batch { sync: true, ..Batch::of(put(key, "1")) }).expect("written");
            let file = disk.list(&dir).expect("listed").remove(0);
            first = if at == 0 { disk.read(&dir.join(file)).expect("read").len() } else { first };
        }
        let file = disk.list(&dir).expect("listed").remove(0);
        Foreign { bytes: disk.read(&dir.join(&file)).expect("read"), file, first }
    }

    /// Appends a part of it to the copy.
    fn arrive(&self, disk: &RecordingDisk, dir: &Path, part: std::ops::Range<usize>) {
        let path = dir.join(&self.file);
        let mut copy = if part.start == 0 { disk.create_new(&path) } else { disk.open_append(&path) }.expect("there");
        copy.append(&self.bytes[part]).expect("written");
        copy.sync().expect("synced");
    }
}

/// A directory for the files of an engine that are not on its disk.
fn home() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
}

/// One engine with everything that works in it.
struct Scene {
    engine: Engine,
    disk: RecordingDisk,
    mutant: Option<Mutant>,
    /// What was acknowledged of the counters of both swamps.
    added: [AtomicI64; 2],
}

impl Scene {
    fn get(&self, swamp: &str, key: &str) -> Option<String> {
        let treasure = self.engine.get(&name(swamp), key).expect("readable");
        treasure.map(|treasure| String::from_utf8_lossy(treasure.value.as_bytes()).into_owned())
    }

    fn dir(&self, swamp: &str) -> std::path::PathBuf {
        let folder = folder_of(&name(swamp), self.engine.folder_count());
        swamp_path(&self.engine.shared().root.path, folder, &name(swamp))
    }

    fn write(&self, swamp: usize) {
        let text = [SYNCED, BUFFERED][swamp];
        for at in 0..2 {
            self.engine.batch(&name(text), Batch::of(put(&format!("k{at}"), &at.to_string()))).expect("written");
            self.engine.increment(&name(text), "n", 1).expect("added");
            self.added[swamp].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn evict(&self) {
        let shared = self.engine.shared();
        for text in [SYNCED, BUFFERED, SYNCED, BUFFERED] {
            if let Some(resident) = shared.residents.get(&name(text)) {
                let is_clean = |resident: &Resident| match self.mutant {
                    Some(Mutant::DirtyEviction) => Some(None),
                    _ => resident.leave(),
                };
                shared.residents.evict(&resident, is_clean);
            }
            assert!(self.get(text, "nothing").is_none());
        }
    }

    /// The rest of the other server's log comes, and is looked for.
    fn copy(&self, foreign: &Foreign) {
        let cut = (foreign.first + foreign.bytes.len()) / 2;
        for part in [foreign.first..cut, cut..foreign.bytes.len()] {
            foreign.arrive(&self.disk, &self.dir(SYNCED), part);
            assert!(self.get(SYNCED, "early").is_some());
        }
        assert_eq!(self.get(SYNCED, "later").as_deref(), Some("1"), "it came before it was asked for");
    }

    fn tidy(&self) {
        for text in [SYNCED, BUFFERED] {
            let swamp = self.engine.hydrate(&name(text)).expect("readable");
            swamp.compact().wait().expect("compacted");
        }
        // Only here: on a disk without times the other server's file is old enough to go.
        collect(self.engine.shared(), &name(BUFFERED), Duration::ZERO).expect("collected");
    }

    fn check(&self, engine: &Engine, when: &str) {
        for (text, added) in [SYNCED, BUFFERED].into_iter().zip(&self.added) {
            let get = |key: &str| {
                let treasure = engine.get(&name(text), key).expect("readable");
                treasure.map(|treasure| String::from_utf8_lossy(treasure.value.as_bytes()).into_owned())
            };
            assert_eq!(get("n"), Some(added.load(Ordering::Relaxed).to_string()), "{when}: {text}");
            assert_eq!((get("k0"), get("k1")), (Some("0".into()), Some("1".into())), "{when}: {text}");
            assert_eq!(engine.hydrate(&name(text)).expect("readable").copy_state(), CopyState::Complete, "{when}");
        }
        for key in ["early", "late", "later"] {
            assert!(engine.get(&name(SYNCED), key).expect("readable").is_some(), "{when}: {key}");
        }
    }
}

fn play(foreign: &Arc<Foreign>, mutant: Option<Mutant>) {
    let home = home();
    let disk = RecordingDisk::new(home.path(), Lie::None);
    let engine = Engine::open_on(options(home.path(), "s1"), Arc::new(disk.clone())).expect("opened");
    for (text, write_interval) in [(SYNCED, Duration::ZERO), (BUFFERED, Duration::from_secs(3_600))] {
        let policy = Policy { write_interval, idle_evict: Duration::from_secs(86_400), ..Policy::default() };
        engine.set_policy(text.parse().expect("a pattern"), policy).expect("stored");
    }
    let scene = Arc::new(Scene { engine, disk, mutant, added: Default::default() });
    let dir = scene.dir(SYNCED);
    let mut above: Vec<&Path> = dir.ancestors().take_while(|&dir| dir != scene.engine.shared().root.path).collect();
    above.reverse();
    above.iter().for_each(|dir| scene.disk.create_dir(dir).expect("made"));
    foreign.arrive(&scene.disk, &dir, 0..foreign.first);
    let work = |run: Box<dyn FnOnce(&Scene) + Send>| {
        let scene = Arc::clone(&scene);
        thread::spawn(move || run(&scene))
    };
    let copied = Arc::clone(foreign);
    let threads = [
        work(Box::new(|scene| scene.write(0))),
        work(Box::new(|scene| scene.write(1))),
        work(Box::new(Scene::evict)),
        work(Box::new(move |scene| scene.copy(&copied))),
        work(Box::new(Scene::tidy)),
    ];
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    scene.check(&scene.engine, "in memory");
    scene.engine.flush(None).expect("flushed");
    let durable = scene.disk.store().image(&[], 0);
    scene.engine.close().expect("closed");
    check_durable(home.path(), durable, &scene);
}

fn check_durable(home: &Path, durable: Store, scene: &Scene) {
    let disk = RecordingDisk::new(home, Lie::None);
    disk.load(durable);
    let engine = Engine::open_on(options(home, "s1"), Arc::new(disk)).expect("opened again");
    scene.check(&engine, "after a crash");
    engine.close().expect("closed");
}

/// How many schedules: what the environment says, or what a build can wait for.
fn wanted(usual: usize) -> usize {
    std::env::var("HYDRA_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What another server wrote, before anything is tried.
fn foreign() -> Arc<Foreign> {
    let written = Arc::new(std::sync::Mutex::new(None));
    let here = Arc::clone(&written);
    let write = move || *here.lock().expect("no panic") = Some(Arc::new(Foreign::written()));
    Runner::new(RandomScheduler::new(1), config()).run(write);
    let foreign = written.lock().expect("no panic").take();
    foreign.expect("written")
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::None;
    config
}

/// A broken rule holds for the whole process: nothing else is tried meanwhile.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn in_whatever_order_everybody_goes_on_and_nothing_is_lost() {
    let _alone = alone();
    let foreign = foreign();
    for by_priority in [false, true] {
        let (schedules, began, played) = (wanted(1_000), Instant::now(), Arc::new(AtomicUsize::new(0)));
        let (foreign, counted) = (Arc::clone(&foreign), Arc::clone(&played));
        let run = move || {
            play(&foreign, None);
            let count = 1 + counted.fetch_add(1, Ordering::Relaxed);
            if count.is_multiple_of(1_000) {
                println!("{count} schedules, by priority: {by_priority}, {:.1?}", began.elapsed());
            }
        };
        match by_priority {
            false => Runner::new(RandomScheduler::new(schedules), config()).run(run),
            true => Runner::new(PctScheduler::new(4, schedules), config()).run(run),
        };
        assert_eq!(played.load(Ordering::Relaxed), schedules);
    }
}

#[test]
fn a_broken_rule_is_noticed() {
    let _alone = alone();
    let foreign = foreign();
    for mutant in [Mutant::DirtyEviction, Mutant::LostWakeUp] {
        let foreign = Arc::clone(&foreign);
        LOST_WAKE_UPS.store(mutant == Mutant::LostWakeUp, Ordering::Relaxed);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Runner::new(RandomScheduler::new(300), config()).run(move || play(&foreign, Some(mutant)));
        }));
        LOST_WAKE_UPS.store(false, Ordering::Relaxed);
        assert!(tried.is_err(), "{mutant:?} survived");
    }
}
