//! Compaction and collection: fewer files, the same state, whatever happens in between.

use std::time::{Duration, Instant};

use hydra_core::{Batch, Condition, Engine, EngineOptions, Expiry, Op, Policy, Timestamp, Value};

use crate::common::{json, name};

fn options(dir: &std::path::Path, copied: bool) -> EngineOptions {
    let mut options = EngineOptions::new(dir);
    options.server_id = Some("s1".into());
    options.copied = copied;
    options.gc_delay = Duration::ZERO;
    options.sweep = Duration::ZERO;
    options.default_policy = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    options
}

fn chunks(engine: &Engine, swamp: &str) -> Vec<String> {
    let name = name(swamp);
    let dir = engine.data_dir().join(hydra_core::swamp_dir(engine.folder_of(&name), &name));
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

const SWAMP: &str = "users/profiles/alice";

#[test]
fn the_state_is_the_same_before_and_after_and_one_file_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..5 {
        let engine = Engine::open(options(dir.path(), false)).expect("opens");
        let swamp = name(SWAMP);
        engine.put(&swamp, "same", json("1")).expect("put");
        engine.put(&swamp, &format!("key{round}"), json(&round.to_string())).expect("put");
        engine.put(&swamp, "gone", json("true")).expect("put");
        engine.delete(&swamp, "gone").expect("delete");
        engine.increment(&swamp, "sum", 7).expect("increment");
        engine.close().expect("closes");
    }
    let engine = Engine::open(options(dir.path(), false)).expect("opens");
    let swamp = name(SWAMP);
    let list =
        |engine: &Engine| engine.hydrate(&swamp).expect("there").list(&Default::default()).expect("lists").treasures;
    let before = list(&engine);
    assert_eq!(chunks(&engine, SWAMP).len(), 5);
    let compacted = engine.compact(engine.folder_of(&swamp)).expect("compacts");
    assert_eq!((compacted.swamps, compacted.files_before), (1, 5));
    assert_eq!(list(&engine), before);
    let collected = engine.collect(engine.folder_of(&swamp)).expect("collects");
    wait_until("one file", || chunks(&engine, SWAMP).len() == 1);
    assert!(collected.files_removed <= 5);
    assert_eq!(engine.increment(&swamp, "sum", 1).expect("increment"), 36);
    assert_eq!(engine.get(&swamp, "gone").expect("reads"), None);
    drop(engine);
    let engine = Engine::open(options(dir.path(), false)).expect("opens");
    assert_eq!(engine.increment(&swamp, "sum", 1).expect("increment"), 37);
    assert_eq!(list(&engine).len(), before.len());
    assert!(engine.compact(engine.folder_of(&swamp)).expect("compacts").swamps <= 1);
    assert_eq!(engine.compact(engine.folder_of(&swamp)).expect("compacts").swamps, 0, "nothing more to gain");
}

#[test]
fn garbage_is_compacted_and_collected_without_being_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open(options(dir.path(), false)).expect("opens");
    let swamp = name(SWAMP);
    let value = json(&format!("{:?}", "x".repeat(4_000)));
    for _ in 0..60 {
        engine.put(&swamp, "same", value.clone()).expect("put");
    }
    wait_until("a compaction", || engine.stats().compactions > 0);
    wait_until("a collection", || chunks(&engine, SWAMP).len() <= 2);
    assert_eq!(engine.get(&swamp, "same").expect("reads").expect("there").value, value);
}

#[test]
fn a_hold_keeps_every_file_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open(options(dir.path(), false)).expect("opens");
    let swamp = name(SWAMP);
    let folder = engine.folder_of(&swamp);
    let until = engine.hold(folder, Duration::from_secs(60)).expect("held");
    assert!(until > Timestamp::now());
    engine.put(&swamp, "a", json("1")).expect("put");
    engine.compact(folder).expect("compacts");
    assert_eq!(engine.collect(folder).expect("collects").files_removed, 0);
    drop(engine);
    let engine = Engine::open(options(dir.path(), false)).expect("opens");
    assert_eq!(engine.collect(folder).expect("collects").files_removed, 0);
    assert_eq!(chunks(&engine, SWAMP).len(), 2);
    assert!(engine.release(folder).expect("released") && !engine.release(folder).expect("released"));
    assert_eq!(engine.collect(folder).expect("collects").files_removed, 1);
    assert_eq!(engine.get(&swamp, "a").expect("reads").expect("there").value, json("1"));
}

#[test]
fn expired_treasures_are_dropped_when_their_time_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options(dir.path(), false);
    options.default_policy.expired_keep = Duration::ZERO;
    let engine = Engine::open(options).expect("opens");
    let swamp = name(SWAMP);
    let expires_at = Some(Timestamp::from_millis(Timestamp::now().as_millis() + 30));
    let put = |key: &str, expires_at| Op::Put {
        key: key.into(),
        value: Value::json("1").expect("JSON"),
        expiry: Expiry::from(expires_at),
        condition: Condition::Always,
    };
    engine
        .batch(
            &swamp,
            hydra_core::Batch { ops: vec![put("stays", None), put("goes", expires_at)], ..Default::default() },
        )
        .expect("put");
    std::thread::sleep(Duration::from_millis(40));
    let handle = engine.hydrate(&swamp).expect("there");
    assert!(handle.compact().wait().expect("compacts"));
    assert!(!handle.compact().wait().expect("compacts"), "there is nothing left to leave out");
    assert_eq!((handle.count(), handle.get("goes").expect("reads")), (1, None));
    assert_eq!(engine.increment(&swamp, "goes", 5).expect("increment"), 5, "as if it had never been there");
}

#[test]
fn where_others_have_copies_a_removed_swamp_leaves_a_snapshot_that_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open(options(dir.path(), true)).expect("opens");
    let swamp = name(SWAMP);
    engine.put(&swamp, "a", json("1")).expect("put");
    engine.delete(&swamp, "a").expect("delete");
    let folder = engine.folder_of(&swamp);
    engine.compact(folder).expect("compacts");
    wait_until("the log to go", || chunks(&engine, SWAMP).len() == 1);
    assert!(chunks(&engine, SWAMP)[0].ends_with(".hys"));
    assert_eq!(engine.get(&swamp, "a").expect("reads"), None);
}

#[test]
fn the_sweep_compacts_and_collects_what_nobody_uses() {
    let dir = tempfile::tempdir().expect("a directory");
    for _ in 0..3 {
        let engine = Engine::open(options(dir.path(), false)).expect("opens");
        engine.put(&name(SWAMP), "a", json("1")).expect("put");
        engine.close().expect("closes");
    }
    let engine = Engine::open(options(dir.path(), false)).expect("opens");
    assert_eq!(chunks(&engine, SWAMP).len(), 3);
    engine.sweep();
    assert_eq!(chunks(&engine, SWAMP).len(), 1);
    let stats = engine.stats();
    assert_eq!((stats.sweeps, stats.resident_swamps), (1, 0), "{stats:?}");
}

/// How many entries the vector in a chunk's header has.
fn header_entries(file: &std::path::Path) -> u16 {
    let bytes = std::fs::read(file).expect("a chunk");
    u16::from_le_bytes([bytes[58], bytes[59]])
}

#[test]
fn many_restarts_leave_a_small_header_and_bring_nothing_back() {
    const RESTARTS: usize = 300;
    let dir = tempfile::tempdir().expect("a directory");
    let swamp = name(SWAMP);
    let mut copy = None;
    for round in 0..RESTARTS {
        let engine = Engine::open(options(dir.path(), false)).expect("opens");
        let folder = engine.folder_of(&swamp);
        engine.put(&swamp, &format!("key{}", round % 3), json(&round.to_string())).expect("put");
        if round == 200 {
            engine.put(&swamp, "gone", json("true")).expect("put");
            let path = engine.data_dir().join(hydra_core::swamp_dir(folder, &swamp));
            let log = chunks(&engine, SWAMP).into_iter().find(|name| name.ends_with(".hyl")).expect("a log");
            copy = Some((std::fs::read(path.join(&log)).expect("reads"), path.join(log)));
        }
        if round == 201 {
            engine.delete(&swamp, "gone").expect("delete");
        }
        engine.compact(folder).expect("compacts");
        engine.collect(folder).expect("collects");
        engine.close().expect("closes");
    }
    let (copy, path) = copy.expect("the log that was copied");
    let left = walk_chunks(path.parent().expect("a directory"));
    assert!(left.len() <= 2, "{left:?}");
    for file in &left {
        assert!(header_entries(file) <= 259, "{} entries in {file:?}", header_entries(file));
    }
    assert!(!path.exists());
    std::fs::write(&path, copy).expect("put back");
    for _ in 0..2 {
        let engine = Engine::open(options(dir.path(), false)).expect("opens");
        assert_eq!(engine.get(&swamp, "gone").expect("reads"), None, "it was deleted in the round after");
        for round in RESTARTS - 3..RESTARTS {
            let treasure = engine.get(&swamp, &format!("key{}", round % 3)).expect("reads").expect("there");
            assert_eq!(treasure.value, json(&round.to_string()));
        }
        engine.compact(engine.folder_of(&swamp)).expect("compacts");
        engine.collect(engine.folder_of(&swamp)).expect("collects");
        engine.close().expect("closes");
    }
}

fn walk_chunks(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn buffered_writes_go_on_while_a_snapshot_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options(dir.path(), false);
    options.default_policy.write_interval = Duration::from_secs(1);
    let name = name(SWAMP);
    let during = {
        let engine = Engine::open(options.clone()).expect("opens");
        let put = |key: String, value| Op::Put { key, value, expiry: Expiry::Never, condition: Condition::Always };
        for part in 0..10 {
            let ops = (0..10_000).map(|n| put(format!("key-{part}-{n}"), json(&format!("\"{}\"", "x".repeat(100)))));
            engine.batch(&name, Batch { ops: ops.collect(), ..Batch::default() }).expect("stores");
        }
        let compacting = engine.hydrate(&name).expect("is there").compact();
        let done = std::thread::spawn(move || compacting.wait());
        let mut during = 0;
        while !done.is_finished() {
            engine.put(&name, "news", json(&during.to_string())).expect("stores");
            during += 1;
        }
        assert!(done.join().expect("ends").expect("compacts"), "a log was worth a snapshot");
        engine.close().expect("closes");
        during
    };
    assert!(during >= 100, "a put alone takes microseconds, the snapshot many milliseconds; {during} were answered");
    let engine = Engine::open(options).expect("opens again");
    let news = engine.get(&name, "news").expect("reads").expect("is there");
    assert_eq!(news.value, json(&(during - 1).to_string()), "what came meanwhile counts");
    let info = engine.hydrate(&name).expect("reads").info().expect("reads").expect("is there");
    assert_eq!(info.count, 100_001);
}
