//! Chunks of other servers: copies merge, increments add up, requests that reached two servers count once.

use std::path::Path;
use std::time::Duration;

use hydra_core::{Batch, Condition, CopyState, Engine, Op, Policy};

use crate::common::{chunks, eventually, get, incremented, keyed_increment, name, open, options, put, sync};

const S: &str = "users/profiles/alice";

fn synced_as(dir: &Path, id: &str) -> Engine {
    let mut options = options(dir, id, Duration::ZERO);
    options.copied = true;
    Engine::open(options).unwrap()
}

#[test]
fn after_a_failover_and_a_fail_back_both_sides_have_everything() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = synced_as(a.path(), "s1");
    put(&one, S, "both", "1");
    put(&one, S, "deleted", "1");
    one.increment(&name(S), "n", 10).unwrap();
    sync(a.path(), b.path());
    put(&one, S, "late", "1"); // not copied before the kill
    one.increment(&name(S), "n", 1).unwrap();

    let two = synced_as(b.path(), "s2");
    assert_eq!((get(&two, S, "both").as_deref(), get(&two, S, "n").as_deref()), (Some("1"), Some("10")));
    put(&two, S, "both", "2");
    two.delete(&name(S), "deleted").unwrap();
    two.increment(&name(S), "n", 100).unwrap();

    sync(b.path(), a.path());
    sync(a.path(), b.path());
    for engine in [&one, &two] {
        eventually("the other side's chunk is noticed", || get(engine, S, "n").as_deref() == Some("111"));
        assert_eq!(get(engine, S, "both").as_deref(), Some("2"));
        assert_eq!(get(engine, S, "late").as_deref(), Some("1"));
        assert_eq!(get(engine, S, "deleted"), None);
        assert_eq!(engine.hydrate(&name(S)).unwrap().copy_state(), CopyState::Complete);
    }
    let versions = |engine: &Engine| engine.get(&name(S), "n").unwrap().unwrap().version;
    assert_eq!(versions(&one), versions(&two));
}

#[test]
fn an_increment_that_reached_two_servers_counts_once() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = synced_as(a.path(), "s1");
    put(&one, S, "n", "1000");
    sync(a.path(), b.path());
    let two = synced_as(b.path(), "s2");
    // The first answer was lost, so the client asked the other server.
    incremented(&one, S, keyed_increment("n", 5, "r1"));
    incremented(&two, S, keyed_increment("n", 5, "r1"));
    incremented(&two, S, keyed_increment("n", 7, "r2"));
    sync(a.path(), b.path());
    sync(b.path(), a.path());
    for engine in [&one, &two] {
        eventually("both agree", || get(engine, S, "n").as_deref() == Some("1012"));
        assert!(incremented(engine, S, keyed_increment("n", 5, "r1")).1, "and it is known there");
    }
    one.close().unwrap();
    assert_eq!(get(&synced_as(a.path(), "s1"), S, "n").as_deref(), Some("1012"));
}

#[test]
fn a_foreign_chunk_that_grows_is_noticed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = synced_as(a.path(), "s1");
    put(&one, S, "k", "0");
    sync(a.path(), b.path());
    let two = open(b.path(), "s2", Duration::ZERO);
    assert_eq!(get(&two, S, "k").as_deref(), Some("0"));
    assert!(two.is_copied(two.folder_of(&name(S))), "a foreign chunk makes the folder a copied one");
    for i in 1..5 {
        put(&one, S, "k", &i.to_string());
        sync(a.path(), b.path());
        eventually("the new value", || get(&two, S, "k") == Some(i.to_string()));
        put(&two, S, "mine", &i.to_string());
        assert_eq!(get(&two, S, "mine"), Some(i.to_string()));
    }
    two.close().unwrap();
    let two = synced_as(b.path(), "s2");
    assert_eq!((get(&two, S, "k").as_deref(), get(&two, S, "mine").as_deref()), (Some("4"), Some("4")));
}

#[test]
fn buffered_writes_survive_a_refresh() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = synced_as(a.path(), "s1");
    put(&one, S, "k", "0");
    sync(a.path(), b.path());
    let two = open(b.path(), "s2", Duration::from_secs(3600));
    for i in 0..20 {
        put(&two, S, &format!("mine{i}"), "1");
        two.increment(&name(S), "n", 1).unwrap();
        put(&one, S, "k", &i.to_string());
        sync(a.path(), b.path());
        eventually("the new value", || get(&two, S, "k") == Some(i.to_string()));
        assert_eq!(get(&two, S, "n"), Some((i + 1).to_string()));
    }
    assert!((0..20).all(|i| get(&two, S, &format!("mine{i}")).is_some()));
}

#[test]
fn a_copy_that_lacks_a_file_says_so_and_still_takes_writes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = synced_as(a.path(), "s1");
    put(&one, S, "first", "1");
    one.close().unwrap();
    let one = synced_as(a.path(), "s1");
    put(&one, S, "second", "2");
    one.increment(&name(S), "n", 3).unwrap();
    one.close().unwrap();
    // Only the chunk of the second process arrives; it refers to the first.
    let files = chunks(a.path());
    let second = files.iter().max_by_key(|file| std::fs::metadata(file).unwrap().modified().unwrap()).unwrap();
    let target = b.path().join(second.strip_prefix(a.path()).unwrap());
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::copy(second, &target).unwrap();

    let two = synced_as(b.path(), "s2");
    let swamp = two.hydrate(&name(S)).unwrap();
    assert_eq!(swamp.copy_state(), CopyState::Incomplete);
    assert_eq!(get(&two, S, "second").as_deref(), Some("2"));
    assert_eq!(two.get(&name(S), "first").unwrap_err().code(), hydra_core::ErrorCode::IncompleteCopy);
    two.increment(&name(S), "n", 4).unwrap();
    assert_eq!(get(&two, S, "n").as_deref(), Some("7"));
    drop(swamp);

    sync(a.path(), b.path());
    eventually("complete", || two.hydrate(&name(S)).unwrap().copy_state() == CopyState::Complete);
    assert_eq!((get(&two, S, "first").as_deref(), get(&two, S, "n").as_deref()), (Some("1"), Some("7")));
    sync(b.path(), a.path());
    let one = synced_as(a.path(), "s1");
    assert_eq!(get(&one, S, "n").as_deref(), Some("7"), "copies of records count once");
}

#[test]
fn a_delete_of_something_a_copy_does_not_know_is_marked_when_asked_for() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let two = synced_as(b.path(), "s2");
    let one = synced_as(a.path(), "s1");
    put(&one, S, "k", "1");
    let delete = Op::Delete { key: "k".into(), condition: Condition::Always };
    two.batch(&name(S), Batch { mark_deletes: true, ..Batch::of(delete) }).unwrap();
    sync(b.path(), a.path());
    sync(a.path(), b.path());
    for engine in [&one, &two] {
        eventually("the delete holds", || get(engine, S, "k").is_none());
    }
}

#[test]
fn what_a_copy_lost_again_was_not_seen_by_what_is_written_then() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = synced_as(a.path(), "s1");
    put(&one, S, "first", "1");
    let log = chunks(a.path()).remove(0);
    let first = std::fs::metadata(&log).unwrap().len();
    put(&one, S, "k", "1");
    sync(a.path(), b.path());
    let two = synced_as(b.path(), "s2");
    assert_eq!(get(&two, S, "k").as_deref(), Some("1"));
    put(&two, S, "mine", "1"); // the log says that this server has seen it
    // The log is cut short where it was written, what it held goes to another file, and only the short one is copied.
    std::fs::File::options().write(true).open(&log).unwrap().set_len(first).unwrap();
    std::fs::copy(&log, b.path().join(log.strip_prefix(a.path()).unwrap())).unwrap();
    put(&one, S, "last", "1");
    two.evict(&name(S)).unwrap();
    put(&two, S, "k", "2");

    sync(a.path(), b.path());
    let swamp = || two.hydrate(&name(S)).unwrap();
    eventually("complete", || swamp().copy_state() == CopyState::Complete);
    assert_eq!((get(&two, S, "k").as_deref(), get(&two, S, "mine").as_deref()), (Some("2"), Some("1")));
    let conflicts = swamp().conflicts();
    assert_eq!(conflicts.iter().map(|conflict| &*conflict.key).collect::<Vec<_>>(), ["k"]);
}

#[test]
fn what_a_closed_chunk_held_that_somebody_removed_is_written_again() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = synced_as(dir.path(), "s1");
    put(&engine, S, "a", "1");
    let closed = chunks(dir.path());
    let next = Policy { write_interval: Duration::ZERO, idle_evict: Duration::from_secs(60), ..Policy::default() };
    engine.set_policy("users/*/*".parse().unwrap(), next).unwrap();
    put(&engine, S, "b", "2");
    assert_eq!((closed.len(), chunks(dir.path()).len()), (1, 2), "other settings, another chunk");
    std::fs::remove_file(&closed[0]).unwrap();
    eventually("it is noticed", || {
        assert_eq!(get(&engine, S, "a").as_deref(), Some("1"));
        engine.stats().external_interference == 1
    });
    sync(dir.path(), copy.path());
    let other = synced_as(copy.path(), "s2");
    assert_eq!((get(&other, S, "a").as_deref(), get(&other, S, "b").as_deref()), (Some("1"), Some("2")));
    assert_eq!(other.hydrate(&name(S)).unwrap().copy_state(), CopyState::Complete);
}
