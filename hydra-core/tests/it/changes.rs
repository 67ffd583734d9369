//! Patches and increments that read a value and write it whole: what they change, what they keep, what is remembered.

use std::time::Duration;

use hydra_core::{
    Batch, Committed, Condition, Engine, ErrorCode, Expiry, Idempotency, Increment, Number, Op, OpResult, Patch,
    Policy, Timestamp, Version,
};

use crate::common::{get, json, name, open, open_with, options, put, synced};

const S: &str = "users/profiles/alice";

fn merge(key: &str, text: &str, create: bool) -> Op {
    Op::Patch { key: key.into(), patch: Patch::merge(text).unwrap(), create, condition: Condition::Always }
}

fn steps(key: &str, text: &str) -> Op {
    Op::Patch { key: key.into(), patch: Patch::json(text).unwrap(), create: false, condition: Condition::Always }
}

fn bounded(key: &str, by: i64, max: i64) -> Op {
    let increment = Increment { max: Some(Number::Integer(max)), ..Increment::by(by) };
    Op::increment(key.into(), increment)
}

fn keyed(ops: Vec<Op>, request: &str) -> Batch {
    Batch { ops, idempotency: Some(Idempotency::new(request, 7)), ..Batch::default() }
}

fn run(engine: &Engine, op: Op) -> Result<OpResult, ErrorCode> {
    engine.batch(&name(S), Batch::of(op)).unwrap().results.remove(0).map_err(|error| error.code())
}

fn sum(result: Result<OpResult, ErrorCode>) -> Number {
    match result {
        Ok(OpResult::Incremented { value, .. }) => value,
        other => panic!("{other:?}"),
    }
}

/// What a client is told, without times.
fn told(committed: &Committed) -> Vec<String> {
    let one = |result: &hydra_core::Result<OpResult>| match result {
        Ok(result) => format!("{result:?}"),
        Err(error) => error.code().to_string(),
    };
    committed.results.iter().map(one).collect()
}

#[test]
fn a_patch_keeps_age_expiry_and_the_bytes_it_does_not_touch() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let until = Timestamp::now().after(Duration::from_secs(3600));
    let value = json(r#"{"n": 1.0, "big": 123456789012345678901, "o": {"a":1}}"#);
    let op = Op::Put { key: "k".into(), value, expiry: Expiry::At(until), condition: Condition::Always };
    run(&engine, op).unwrap();
    let before = engine.get(&name(S), "k").unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    run(&engine, merge("k", r#"{"o":{"a":null,"b":[2]}}"#, false)).unwrap();
    run(&engine, steps("k", r#"[{"op":"add","path":"/o/b/0","value":1.50}]"#)).unwrap();
    let after = engine.get(&name(S), "k").unwrap().unwrap();
    assert_eq!(format!("{:?}", after.value), r#"{"n":1.0,"big":123456789012345678901,"o":{"b":[1.50,2]}}"#);
    assert_eq!((after.created_at, after.expires_at), (before.created_at, Some(until)));
    assert!(after.updated_at > before.updated_at && after.version != before.version);
    engine.close().unwrap();
    let engine = open_with(options(dir.path(), "s1", Duration::ZERO));
    assert_eq!(engine.get(&name(S), "k").unwrap().unwrap(), after, "the same after a restart");
}

#[test]
fn a_patch_needs_something_to_patch() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    assert_eq!(run(&engine, merge("k", "{}", false)).unwrap_err(), ErrorCode::TreasureNotFound);
    let at = Timestamp::now().after(Duration::from_millis(20));
    let op =
        Op::Put { key: "k".into(), value: json("{\"old\":1}"), expiry: Expiry::At(at), condition: Condition::Always };
    run(&engine, op).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(run(&engine, merge("k", "{}", false)).unwrap_err(), ErrorCode::TreasureNotFound, "it has expired");
    assert!(matches!(run(&engine, merge("k", r#"{"a":1}"#, true)), Ok(OpResult::Put { created: true, .. })));
    assert_eq!(get(&engine, S, "k").as_deref(), Some(r#"{"a":1}"#), "nothing of what has expired");
    assert_eq!(engine.get(&name(S), "k").unwrap().unwrap().expires_at, None);
}

#[test]
fn whole_numbers_are_exact_to_their_ends_whatever_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    for (start, by, fits) in [
        (i64::MAX - 1, 1, true),
        (i64::MAX, 1, false),
        (i64::MIN + 1, -1, true),
        (i64::MIN, -1, false),
        (i64::MIN, i64::MAX, true),
        (-1, i64::MIN, false),
        (0, i64::MIN, true),
    ] {
        let in_object = Increment { path: "/n".parse().unwrap(), ..Increment::by(by) };
        for op in [Op::Increment { key: "k".into(), by }, bounded("k", by, i64::MAX)] {
            put(&engine, S, "k", &start.to_string());
            let result = run(&engine, op);
            match fits {
                true => assert_eq!(sum(result), start + by),
                false => assert_eq!(result.unwrap_err(), ErrorCode::OutOfBounds, "{start} + {by}"),
            }
            let stored = if fits { start + by } else { start };
            assert_eq!(get(&engine, S, "k"), Some(stored.to_string()));
        }
        put(&engine, S, "o", &format!(r#"{{"n":{start}}}"#));
        assert_eq!(run(&engine, Op::increment("o".into(), in_object)).is_ok(), fits, "{start} + {by}");
    }
}

#[test]
fn both_kinds_of_increments_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    for _ in 0..3 {
        engine.increment(&name(S), "n", 2).unwrap();
    }
    assert_eq!(sum(run(&engine, bounded("n", 4, 10))), 10);
    assert_eq!(run(&engine, bounded("n", 1, 10)).unwrap_err(), ErrorCode::OutOfBounds);
    assert_eq!(engine.increment(&name(S), "n", 5).unwrap(), 15, "a plain increment has no bounds");
    run(&engine, steps("n", r#"[{"op":"test","path":"","value":15},{"op":"replace","path":"","value":1}]"#)).unwrap();
    assert_eq!(engine.increment(&name(S), "n", 1).unwrap(), 2);
    engine.close().unwrap();
    let engine = open_with(options(dir.path(), "s1", Duration::ZERO));
    assert_eq!(get(&engine, S, "n").as_deref(), Some("2"));
}

#[test]
fn operations_of_one_batch_build_on_each_other_and_a_failed_one_undoes_an_atomic_batch() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    let ops = |last: i64| {
        vec![
            merge("k", r#"{"n":1}"#, true),
            Op::increment(
                "k".into(),
                Increment { path: "/n".parse().unwrap(), ..Increment::by(Number::Fraction(0.5)) },
            ),
            steps("k", &format!(r#"[{{"op":"test","path":"/n","value":{last}}}]"#)),
            merge("k", r#"{"done":true}"#, false),
        ]
    };
    let loose = engine.batch(&name(S), Batch { ops: ops(9), ..Batch::default() }).unwrap();
    assert_eq!(loose.results[2].as_ref().unwrap_err().code(), ErrorCode::PatchFailed);
    assert_eq!(get(&engine, S, "k").as_deref(), Some(r#"{"n":1.5,"done":true}"#), "the others were done");
    let before = engine.get(&name(S), "k").unwrap().unwrap().version;
    let atomic = engine.batch(&name(S), Batch { ops: ops(9), atomic: true, ..Batch::default() }).unwrap_err();
    assert_eq!(atomic.code(), ErrorCode::BatchAborted);
    assert!(atomic.detail().starts_with("operation 2 failed with patch-failed"), "{atomic}");
    assert_eq!(engine.get(&name(S), "k").unwrap().unwrap().version, before);
}

#[test]
fn the_longest_value_bounds_what_is_made_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let engine = synced(dir.path());
    put(&engine, S, "k", r#"{"a":"0123456789"}"#);
    put(&engine, S, "n", "9999");
    let policy = Policy { max_value_bytes: 20, ..Policy::default() };
    engine.set_policy("users/*/*".parse().unwrap(), policy).unwrap();
    assert_eq!(run(&engine, merge("k", r#"{"b":"0123456789"}"#, false)).unwrap_err(), ErrorCode::ValueTooLarge);
    let deep = Increment { path: "/a-long-way/down".parse().unwrap(), ..Increment::by(1) };
    assert_eq!(run(&engine, Op::increment("new".into(), deep)).unwrap_err(), ErrorCode::ValueTooLarge);
    assert_eq!(get(&engine, S, "k").as_deref(), Some(r#"{"a":"0123456789"}"#));
}

#[test]
fn what_was_done_once_is_answered_alike_after_eviction_restart_and_compaction() {
    for interval in [Duration::ZERO, Duration::from_millis(50)] {
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            let mut options = options(dir.path(), "s1", interval);
            options.default_policy.idle_evict = Duration::ZERO;
            open_with(options)
        };
        let batch = || {
            let at_half = Increment { path: "/n".parse().unwrap(), ..Increment::by(Number::Fraction(0.25)) };
            let ops = vec![
                merge("k", r#"{"n":1}"#, true),
                Op::increment("k".into(), at_half),
                bounded("c", 5, 5),
                bounded("c", 1, 5),
                Op::Increment { key: "plain".into(), by: 3 },
                Op::Put { key: "p".into(), value: json("1"), expiry: Expiry::Keep, condition: Condition::Absent },
            ];
            keyed(ops, "once")
        };
        let engine = start();
        let first = engine.batch(&name(S), batch()).unwrap();
        let answers = told(&first);
        assert!(!first.replayed && answers[3] == "out-of-bounds", "{answers:?}");
        put(&engine, S, "k", "\"somebody else\"");
        let again = |engine: &Engine, when: &str| {
            let again = engine.batch(&name(S), batch()).unwrap();
            assert!(again.replayed, "{when}");
            assert_eq!(told(&again), answers, "{when}");
            assert_eq!(get(engine, S, "k").as_deref(), Some("\"somebody else\""), "{when}");
            assert_eq!(get(engine, S, "plain").as_deref(), Some("3"), "{when}");
        };
        again(&engine, "at once");
        engine.flush(None).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while engine.resident(&name(S)).is_some() {
            assert!(std::time::Instant::now() < until, "never evicted");
            std::thread::sleep(Duration::from_millis(20));
        }
        again(&engine, "after it left memory");
        engine.close().unwrap();
        let engine = start();
        again(&engine, "after a restart");
        for n in 0..200 {
            put(&engine, S, "garbage", &n.to_string());
        }
        engine.flush(None).unwrap();
        let handle = engine.hydrate(&name(S)).unwrap();
        assert!(handle.compact().wait().unwrap(), "there was garbage to leave out");
        drop(handle);
        again(&engine, "after a compaction");
        engine.close().unwrap();
        again(&start(), "after a compaction and a restart");
    }
}

#[test]
fn conditions_guard_patches_and_a_policy_can_demand_them() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::ZERO);
    put(&engine, S, "k", "{}");
    let version: Version = engine.get(&name(S), "k").unwrap().unwrap().version;
    let guarded =
        |condition| Op::Patch { key: "k".into(), patch: Patch::merge(r#"{"a":1}"#).unwrap(), create: true, condition };
    assert_eq!(run(&engine, guarded(Condition::Absent)).unwrap_err(), ErrorCode::AlreadyExists);
    run(&engine, guarded(Condition::Version(vec![version]))).unwrap();
    assert_eq!(run(&engine, guarded(Condition::Version(vec![version]))).unwrap_err(), ErrorCode::VersionMismatch);
    let policy = Policy { require_version: true, ..Policy::default() };
    engine.set_policy("users/*/*".parse().unwrap(), policy).unwrap();
    assert_eq!(run(&engine, guarded(Condition::Always)).unwrap_err(), ErrorCode::VersionRequired);
    run(&engine, guarded(Condition::Present)).unwrap();
}
