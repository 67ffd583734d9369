//! What is there after a restart, and which files and directories stay or go.

use std::time::Duration;

use hydra_core::{CopyState, ErrorCode, Policy};

use crate::common::{chunks, eventually, get, name, open, options, put, synced};

const S: &str = "users/profiles/alice";

#[test]
fn a_buffered_write_is_on_disk_after_its_interval_without_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_millis(50));
    put(&engine, S, "k", "1");
    eventually("the write is flushed", || chunks(dir.path()).len() == 1);
    eventually("nothing is dirty", || engine.stats().dirty_swamps == 0);
    std::mem::forget(engine); // as if the process had been killed; the lock goes with the process only
    let copy = tempfile::tempdir().unwrap();
    crate::common::sync(dir.path(), copy.path());
    assert_eq!(get(&open(copy.path(), "s2", Duration::ZERO), S, "k").as_deref(), Some("1"));
}

#[test]
fn closing_loses_nothing_and_opening_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let engine = open(dir.path(), "s1", Duration::from_secs(3600));
        assert_eq!(engine.increment(&name(S), "rounds", 1).unwrap(), round + 1);
        for i in 0..100 {
            put(&engine, &format!("many/swamps/{i}"), "k", &round.to_string());
        }
        engine.close().unwrap();
        assert_eq!(engine.get(&name(S), "rounds").unwrap_err().code(), ErrorCode::Draining);
        engine.close().unwrap();
    }
    let engine = synced(dir.path());
    assert!((0..100).all(|i| get(&engine, &format!("many/swamps/{i}"), "k").as_deref() == Some("3")));
}

#[test]
fn a_read_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(get(&engine, S, "k"), None);
    assert!(engine.hydrate(&name(S)).unwrap().info().unwrap().is_none());
    assert!(!engine.delete(&name(S), "k").unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
}

#[test]
fn the_last_treasure_takes_files_and_directories_with_it() {
    let dir = tempfile::tempdir().unwrap();
    for interval in [Duration::ZERO, Duration::from_millis(10)] {
        // Three processes leave three chunks.
        for value in ["1", "2", "3"] {
            let engine = open(dir.path(), "s1", interval);
            put(&engine, S, "k", value);
            put(&engine, S, "l", value);
            engine.close().unwrap();
        }
        let engine = open(dir.path(), "s1", interval);
        engine.delete(&name(S), "k").unwrap();
        engine.delete(&name(S), "l").unwrap();
        let folder = dir.path().join(format!("{:05}", engine.folder_of(&name(S)).get()));
        eventually("the directories are gone", || !folder.join("users").exists());
        assert_eq!(get(&engine, S, "k"), None);
        put(&engine, S, "k", "4");
        engine.close().unwrap();
        let engine = open(dir.path(), "s1", interval);
        assert_eq!((get(&engine, S, "k").as_deref(), get(&engine, S, "l")), (Some("4"), None));
        let swamp = engine.hydrate(&name(S)).unwrap();
        assert_eq!(swamp.copy_state(), hydra_core::CopyState::Complete);
        assert!(swamp.destroy().wait().unwrap());
        assert!(!folder.join("users").exists(), "destroying waits for the removal");
        assert!(!swamp.destroy().wait().unwrap());
    }
}

#[test]
fn on_a_copied_folder_the_marks_of_deletes_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.copied = true;
    let engine = hydra_core::Engine::open(options).unwrap();
    put(&engine, S, "k", "1");
    engine.delete(&name(S), "k").unwrap();
    engine.flush(None).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(chunks(dir.path()).len(), 1);
}

#[test]
fn idle_swamps_leave_memory_and_keep_no_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.default_policy.idle_evict = Duration::from_millis(100);
    let engine = hydra_core::Engine::open(options).unwrap();
    for i in 0..200 {
        put(&engine, &format!("many/swamps/{i}"), "k", "1");
    }
    eventually("all are evicted", || {
        let stats = engine.stats();
        stats.resident_swamps == 0 && stats.open_files == 0 && stats.evictions >= 200
    });
    put(&engine, "many/swamps/7", "k", "2");
    assert_eq!(get(&engine, "many/swamps/7", "k").as_deref(), Some("2"));
    assert_eq!(chunks(dir.path()).len(), 200, "an evicted swamp goes on with its chunk");
}

#[test]
fn chunks_are_closed_at_their_length_and_by_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    engine
        .set_policy(
            "users/*/*".parse().unwrap(),
            Policy { chunk_bytes: 64 << 10, write_interval: Duration::ZERO, ..Policy::default() },
        )
        .unwrap();
    let value = format!("\"{}\"", "x".repeat(1_000));
    for i in 0..200 {
        put(&engine, S, &i.to_string(), &value);
    }
    let count = chunks(dir.path()).len();
    assert!((3..=5).contains(&count), "{count} chunks of 64 KiB for 200 KiB");
    engine.close().unwrap();
    let engine = synced(dir.path());
    assert!((0..200).all(|i| get(&engine, S, &i.to_string()).is_some()));
}

#[test]
fn chunks_that_were_gone_on_with_are_whole_when_they_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.default_policy.idle_evict = Duration::ZERO;
    options.default_policy.chunk_bytes = 64 << 10;
    let engine = hydra_core::Engine::open(options).unwrap();
    let value = format!("\"{}\"", "x".repeat(30_000));
    for i in 0..5 {
        put(&engine, S, &i.to_string(), &value);
        eventually("it leaves memory", || engine.stats().evictions > i);
    }
    assert_eq!(chunks(dir.path()).len(), 2, "chunks of 64 KiB for 150 KiB");
    assert_eq!(engine.stats().external_interference, 0);
    engine.close().unwrap();
    let engine = synced(dir.path());
    assert!((0..5).all(|i| get(&engine, S, &i.to_string()).is_some()));
    assert_eq!(engine.hydrate(&name(S)).unwrap().copy_state(), CopyState::Complete);
}

#[test]
fn a_steady_stream_of_buffered_writes_is_synced_once_an_interval() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_millis(200));
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1_100) {
        put(&engine, S, "k", "1");
        // Slowly enough that there is nothing to compact.
        std::thread::sleep(Duration::from_millis(1));
    }
    let syncs = engine.stats().syncs;
    assert!((1..=8).contains(&syncs), "{syncs} syncs in 1.1 s with an interval of 200 ms");
}
