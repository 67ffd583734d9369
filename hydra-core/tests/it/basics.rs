//! What each operation does.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use hydra_core::{
    Batch, Condition, Durability, ErrorCode, Expiry, ListQuery, Number, Op, OpResult, Policy, Timestamp, Value, Version,
};

use crate::common::{get, incremented, json, keyed_increment, name, open, put, put_if, synced};

const S: &str = "users/profiles/alice";

#[test]
fn values_come_back_as_they_were_put() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    for value in ["1.0", "null", "\"ä\\u0041\"", "123456789012345678901234567890", "{\"b\":1,\"a\":[ 2 ]}"] {
        put(&engine, S, "k", value);
        assert_eq!(get(&engine, S, "k").as_deref(), Some(value));
    }
    let image = Value::binary("image/png", [0, 159, 146, 150]).unwrap();
    engine.put(&name(S), "logo", image.clone()).unwrap();
    assert_eq!(engine.get(&name(S), "logo").unwrap().unwrap().value, image);
    assert_eq!(get(&engine, S, "other"), None);
    assert!(engine.delete(&name(S), "k").unwrap() && !engine.delete(&name(S), "k").unwrap());
}

#[test]
fn versions_guard_writes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let run = |batch: Batch| engine.batch(&name(S), batch).unwrap().results.remove(0);
    let first = match run(put_if("k", "1", Condition::Absent)).unwrap() {
        OpResult::Put { version, created: true } => version,
        other => panic!("{other:?}"),
    };
    let exists = run(put_if("k", "2", Condition::Absent)).unwrap_err();
    assert_eq!((exists.code(), exists.current_version()), (ErrorCode::AlreadyExists, Some(&first)));
    run(put_if("k", "2", Condition::Version(vec![first]))).unwrap();
    assert_eq!(run(put_if("k", "3", Condition::Version(vec![first]))).unwrap_err().code(), ErrorCode::VersionMismatch);
    run(put_if("k", "3", Condition::Present)).unwrap();
    assert_eq!(run(put_if("none", "3", Condition::Present)).unwrap_err().code(), ErrorCode::VersionMismatch);
    assert_eq!(get(&engine, S, "k").as_deref(), Some("3"));
    assert_eq!(get(&engine, S, "none"), None);
}

#[test]
fn of_many_that_create_one_key_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    for interval in [Duration::ZERO, Duration::from_secs(1)] {
        let engine = open(&dir.path().join(format!("{interval:?}")), "s1", interval);
        let barrier = Arc::new(Barrier::new(8));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (engine, barrier) = (engine.clone(), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    let batch = put_if("k", &writer.to_string(), Condition::Absent);
                    engine.batch(&name(S), batch).unwrap().results[0].is_ok()
                })
            })
            .collect();
        assert_eq!(writers.into_iter().map(|w| w.join().unwrap()).filter(|won| *won).count(), 1);
    }
}

#[test]
fn increments_add_up_and_refuse_what_is_no_integer() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    assert_eq!(engine.increment(&name(S), "n", 5).unwrap(), 5);
    assert_eq!(engine.increment(&name(S), "n", -7).unwrap(), -2);
    assert_eq!(get(&engine, S, "n").as_deref(), Some("-2"));
    let created = engine.hydrate(&name(S)).unwrap().info().unwrap().unwrap().created_at.unwrap();
    assert_eq!(
        created,
        engine.get(&name(S), "n").unwrap().unwrap().created_at,
        "a counter without a base is as old as its first increment"
    );
    put(&engine, S, "n", "10");
    assert_eq!(engine.increment(&name(S), "n", 1).unwrap(), 11);
    put(&engine, S, "text", "\"a\"");
    assert_eq!(engine.increment(&name(S), "text", 1).unwrap_err().code(), ErrorCode::NotANumber);
    put(&engine, S, "half", "1.5");
    assert_eq!(engine.increment(&name(S), "half", 1).unwrap_err().code(), ErrorCode::NotANumber);
    put(&engine, S, "max", &i64::MAX.to_string());
    assert_eq!(engine.increment(&name(S), "max", 1).unwrap_err().code(), ErrorCode::OutOfBounds);
    assert_eq!(get(&engine, S, "max"), Some(i64::MAX.to_string()));
    engine.delete(&name(S), "n").unwrap();
    assert_eq!(engine.increment(&name(S), "n", 3).unwrap(), 3, "a deleted counter starts again");
}

#[test]
fn every_change_of_a_counter_is_another_version() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let mut seen: Vec<Version> = Vec::new();
    for _ in 0..5 {
        engine.increment(&name(S), "n", 0).unwrap();
        let version = engine.get(&name(S), "n").unwrap().unwrap().version;
        assert!(!seen.contains(&version));
        seen.push(version);
    }
    let stale = put_if("n", "0", Condition::Version(vec![seen[0]]));
    assert!(engine.batch(&name(S), stale).unwrap().results[0].is_err());
    let fresh = put_if("n", "0", Condition::Version(vec![seen[4]]));
    assert!(engine.batch(&name(S), fresh).unwrap().results[0].is_ok());
}

#[test]
fn a_request_that_comes_again_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    for interval in [Duration::ZERO, Duration::from_secs(1)] {
        let path = dir.path().join(format!("{interval:?}"));
        let engine = open(&path, "s1", interval);
        assert_eq!(incremented(&engine, S, keyed_increment("n", 5, "r1")), (5, false));
        assert_eq!(incremented(&engine, S, keyed_increment("n", 1, "r2")), (6, false));
        assert_eq!(incremented(&engine, S, keyed_increment("n", 5, "r1")), (5, true), "the first answer");
        engine.close().unwrap();
        let engine = open(&path, "s1", interval);
        assert_eq!(incremented(&engine, S, keyed_increment("n", 5, "r1")), (5, true), "also after a restart");
        assert_eq!(get(&engine, S, "n").as_deref(), Some("6"));
        let mut other = keyed_increment("n", 9, "r1");
        other.idempotency.as_mut().unwrap().fingerprint = 8;
        assert_eq!(engine.batch(&name(S), other).unwrap_err().code(), ErrorCode::IdempotencyReuse);
    }
}

#[test]
fn a_batch_runs_in_order_and_leaves_out_what_fails() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let put_op = |key: &str, condition| Op::Put { key: key.into(), value: json("1"), expiry: Expiry::Never, condition };
    let ops = vec![
        put_op("a", Condition::Always),
        put_op("a", Condition::Absent),
        Op::Increment { key: "a".into(), by: 4 },
        Op::Get { key: "a".into() },
        Op::Delete { key: "b".into(), condition: Condition::Always },
        put_op("", Condition::Always),
    ];
    let committed = engine.batch(&name(S), Batch { ops: ops.clone(), ..Batch::default() }).unwrap();
    assert_eq!(committed.durability, Durability::Synced);
    let results = committed.results;
    assert!(matches!(results[0], Ok(OpResult::Put { created: true, .. })));
    assert_eq!(results[1].as_ref().unwrap_err().code(), ErrorCode::AlreadyExists);
    assert!(matches!(results[2], Ok(OpResult::Incremented { value: Number::Integer(5), .. })));
    assert!(matches!(&results[3], Ok(OpResult::Got(Some(treasure))) if treasure.value.as_bytes() == b"5"));
    assert!(matches!(results[4], Ok(OpResult::Deleted { existed: false })));
    assert_eq!(results[5].as_ref().unwrap_err().code(), ErrorCode::InvalidKey);

    engine.delete(&name(S), "a").unwrap();
    let atomic = engine.batch(&name(S), Batch { ops, atomic: true, ..Batch::default() });
    assert_eq!(atomic.unwrap_err().code(), ErrorCode::BatchAborted);
    assert_eq!(get(&engine, S, "a"), None, "nothing of an atomic batch that failed");
}

#[test]
fn limits_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    engine.set_policy("small/*/*".parse().unwrap(), Policy { max_value_bytes: 4, ..Policy::default() }).unwrap();
    assert_eq!(engine.put(&name("small/a/b"), "k", json("12345")).unwrap_err().code(), ErrorCode::ValueTooLarge);
    engine.put(&name("small/a/b"), "k", json("1234")).unwrap();
    let many = vec![Op::Get { key: "k".into() }; 10_001];
    assert_eq!(
        engine.batch(&name(S), Batch { ops: many, ..Batch::default() }).unwrap_err().code(),
        ErrorCode::BatchTooLarge
    );
    engine.set_policy("guarded/*/*".parse().unwrap(), Policy { require_version: true, ..Policy::default() }).unwrap();
    engine.put(&name("guarded/a/b"), "k", json("1")).unwrap();
    assert_eq!(engine.put(&name("guarded/a/b"), "k", json("2")).unwrap_err().code(), ErrorCode::VersionRequired);
}

#[test]
fn lists_are_in_order_of_bytes_and_go_on_where_they_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let mut keys: Vec<String> = (0..25).map(|i| format!("a{i}")).chain(["b".into(), "ä".into(), "A".into()]).collect();
    keys.iter().for_each(|key| put(&engine, S, key, "1"));
    keys.sort();
    let swamp = engine.hydrate(&name(S)).unwrap();
    let list = |query: ListQuery| {
        let page = swamp.list(&query).unwrap();
        (page.treasures.into_iter().map(|t| t.key).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(list(ListQuery { limit: 28, ..ListQuery::default() }), (keys.clone(), None));
    let mut paged = Vec::new();
    let mut query = ListQuery { limit: 3, ..ListQuery::default() };
    loop {
        let (page, next) = list(query.clone());
        paged.extend(page);
        query.cursor = next;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, keys);
    let backwards = list(ListQuery { descending: true, limit: 100, ..ListQuery::default() }).0;
    assert_eq!(backwards, keys.iter().rev().cloned().collect::<Vec<_>>());
    let prefixed = ListQuery { prefix: Some("a1".into()), limit: 100, ..ListQuery::default() };
    assert_eq!(list(prefixed.clone()).0.len(), 11);
    let behind = ListQuery { from: Some("a19".into()), ..prefixed.clone() };
    assert_eq!(list(behind), (vec!["a19".to_owned()], None));
    let before = ListQuery { to: Some("a10".into()), descending: true, ..prefixed };
    assert_eq!(list(before), (vec!["a1".to_owned()], None));
    put(&engine, S, "a00", "1");
    engine.delete(&name(S), "a0").unwrap();
    assert_eq!(
        list(ListQuery { prefix: Some("a0".into()), ..ListQuery::default() }).0,
        ["a00"],
        "kept right under writes"
    );
}

#[test]
fn expired_treasures_are_hidden_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let put_until = |key: &str, at: Timestamp| {
        let op = Op::Put { key: key.into(), value: json("7"), expiry: Expiry::At(at), condition: Condition::Always };
        engine.batch(&name(S), Batch::of(op)).unwrap();
    };
    let now = Timestamp::now();
    put_until("gone", now);
    put_until("soon", now.after(Duration::from_millis(60)));
    put_until("later", now.after(Duration::from_secs(3600)));
    let swamp = engine.hydrate(&name(S)).unwrap();
    assert_eq!(get(&engine, S, "gone"), None);
    std::thread::sleep(Duration::from_millis(80));
    assert_eq!((get(&engine, S, "soon"), swamp.count()), (None, 1));
    assert_eq!(swamp.list(&ListQuery::default()).unwrap().treasures.len(), 1);
    assert_eq!(engine.increment(&name(S), "soon", 1).unwrap(), 1, "an expired counter starts again");
    assert_eq!(engine.increment(&name(S), "later", 1).unwrap(), 8);
    let later = engine.get(&name(S), "later").unwrap().unwrap();
    assert!(later.expires_at.is_some(), "an increment keeps the expiry");
    drop(swamp);
    engine.close().unwrap();
    let engine = synced(dir.path());
    assert_eq!((get(&engine, S, "soon"), get(&engine, S, "later")), (Some("1".into()), Some("8".into())));
}

#[test]
fn a_policy_holds_from_the_next_write_on_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3600));
    let run =
        |engine: &hydra_core::Engine| engine.batch(&name(S), put_if("k", "1", Condition::Always)).unwrap().durability;
    assert_eq!(run(&engine), Durability::Buffered);
    let policy = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    assert!(engine.set_policy("users/*/*".parse().unwrap(), policy.clone()).unwrap());
    assert_eq!(run(&engine), Durability::Synced);
    engine.close().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3600));
    assert_eq!(run(&engine), Durability::Synced);
    let (effective, from) = engine.hydrate(&name(S)).unwrap().policy();
    assert_eq!((effective, from.unwrap().to_string()), (policy, "users/*/*".into()));
    assert!(engine.delete_policy(&"users/*/*".parse().unwrap()).unwrap());
}
