//! Shifts: who takes what, what is left, what is told again.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hydra_core::{
    Applied, Batch, Condition, Durability, Engine, ErrorCode, Expiry, FeedOptions, Idempotency, ListQuery, Op, Policy,
    Shift, ShiftRequest, Shifted, Timestamp,
};
use tempfile::tempdir;

use crate::common::{copy_all, eventually, get, json, name, open, open_with, options, put, sync, synced};

const JOBS: &str = "jobs/mail/eu";

fn request(take: usize) -> ShiftRequest {
    ShiftRequest { shift: Shift { take, ..Shift::default() }, ..ShiftRequest::default() }
}

fn keyed(take: usize, key: &str) -> ShiftRequest {
    ShiftRequest { idempotency: Some(Idempotency::new(key, 1)), ..request(take) }
}

fn leased(take: usize, lease: Duration) -> ShiftRequest {
    let mut request = request(take);
    request.shift.lease = Some(lease);
    request
}

fn shift(engine: &Engine, request: ShiftRequest) -> Shifted {
    engine.shift(&name(JOBS), request).wait().unwrap()
}

fn keys(shifted: &Shifted) -> String {
    shifted.treasures.iter().map(|treasure| treasure.key.as_str()).collect::<Vec<_>>().join(" ")
}

fn put_until(engine: &Engine, key: &str, expires_at: Timestamp) {
    let op =
        Op::Put { key: key.into(), value: json("1"), expiry: Expiry::At(expires_at), condition: Condition::Always };
    engine.batch(&name(JOBS), Batch::of(op)).unwrap().results.remove(0).unwrap();
}

fn in_ms(ms: u64) -> Timestamp {
    Timestamp::now().after(Duration::from_millis(ms))
}

fn ago() -> Timestamp {
    Timestamp::from_millis(Timestamp::now().as_millis() - 1_000)
}

fn both(check: impl Fn(&Engine)) {
    for interval in [Duration::ZERO, Duration::from_secs(3_600)] {
        let dir = tempdir().unwrap();
        check(&open(dir.path(), "s1", interval));
    }
}

#[test]
fn a_shift_takes_the_first_of_an_order_and_they_are_gone() {
    both(|engine| {
        for (key, value) in [("a", "{\"p\":3}"), ("b", "{\"p\":1}"), ("c", "{}"), ("d", "{\"p\":2}")] {
            put(engine, JOBS, key, value);
        }
        let ordered = |order: &str, descending| {
            let shift = Shift { order: order.parse().unwrap(), descending, ..Shift::default() };
            ShiftRequest { shift, ..ShiftRequest::default() }
        };
        assert_eq!(keys(&shift(engine, ordered("value:/p", false))), "b");
        assert_eq!(keys(&shift(engine, ordered("value:/p", true))), "a");
        assert_eq!(keys(&shift(engine, ordered("key", true))), "d");
        let last = shift(engine, request(5));
        assert_eq!((keys(&last).as_str(), last.replayed), ("c", false));
        assert_eq!(last.treasures[0].value, json("{}"));
        let none = shift(engine, request(5));
        assert!(none.treasures.is_empty() && none.durability.is_none());
        assert_eq!(engine.resident(&name(JOBS)).unwrap().count(), 0);
    });
}

#[test]
fn a_shift_in_a_batch_sees_what_came_before_it() {
    both(|engine| {
        put(engine, JOBS, "old", "1");
        let put = |key: &str| Op::Put {
            key: key.into(),
            value: json("2"),
            expiry: Expiry::Never,
            condition: Condition::Always,
        };
        let take =
            |take| Op::Shift(Shift { take, descending: true, order: "key".parse().unwrap(), ..Shift::default() });
        let batch = Batch { ops: vec![put("p"), take(1), put("q"), take(9)], atomic: true, ..Batch::default() };
        let results = engine.batch(&name(JOBS), batch).unwrap().results;
        let taken = |at: usize| match &results[at] {
            Ok(hydra_core::OpResult::Shifted(taken)) => taken.iter().map(|t| t.key.clone()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(taken(1), ["p"]);
        assert_eq!(taken(3), ["q", "old"]);
    });
}

#[test]
fn what_expires_later_is_not_offered_and_only_due_offers_what_is_past_it() {
    both(|engine| {
        put(engine, JOBS, "plain", "1");
        put_until(engine, "later", in_ms(3_600_000));
        put_until(engine, "due", ago());
        let due = |take| {
            let shift = Shift { take, due: true, order: "expires".parse().unwrap(), ..Shift::default() };
            ShiftRequest { shift, ..ShiftRequest::default() }
        };
        assert_eq!(get(engine, JOBS, "due"), None, "past its time it is hidden from readers");
        assert_eq!(keys(&shift(engine, due(9))), "due");
        put_until(engine, "due", ago());
        let mut by_expiry = due(9);
        by_expiry.shift.due = false;
        assert_eq!(keys(&shift(engine, by_expiry)), "due plain", "what never expires comes last");
        assert_eq!(keys(&shift(engine, request(9))), "");
        assert_eq!(get(engine, JOBS, "later").as_deref(), Some("1"));
    });
}

#[test]
fn a_lease_hides_from_other_shifts_until_it_is_over_and_a_delete_under_its_version_ends_it() {
    both(|engine| {
        (0..3).for_each(|n| put(engine, JOBS, &format!("k{n}"), &n.to_string()));
        let first = shift(engine, leased(2, Duration::from_millis(300)));
        assert_eq!(keys(&first), "k0 k1");
        assert_eq!(get(engine, JOBS, "k0").as_deref(), Some("0"), "it stays readable while somebody works on it");
        assert_eq!(keys(&shift(engine, leased(2, Duration::from_secs(60)))), "k2");
        let held = &first.treasures[1];
        assert_eq!(engine.get(&name(JOBS), "k1").unwrap().unwrap(), *held, "the answer is what is there now");
        let done = |treasure: &hydra_core::Treasure| {
            let condition = Condition::Version(vec![treasure.version]);
            let op = Op::Delete { key: treasure.key.clone(), condition };
            engine.batch(&name(JOBS), Batch::of(op)).unwrap().results.remove(0)
        };
        done(held).unwrap();
        std::thread::sleep(Duration::from_millis(310));
        let again = shift(engine, leased(9, Duration::from_secs(60)));
        assert_eq!(keys(&again), "k0", "whoever had it did not say that it was done");
        assert_eq!(again.treasures[0].created_at, first.treasures[0].created_at);
        assert_eq!(done(&first.treasures[0]).unwrap_err().code(), ErrorCode::VersionMismatch, "too late");
        done(&again.treasures[0]).unwrap();
    });
}

#[test]
fn twenty_workers_take_every_job_exactly_once() {
    both(|engine| {
        let put = |n: usize| Op::Put {
            key: format!("job{n:05}"),
            value: json("{}"),
            expiry: Expiry::Never,
            condition: Condition::Always,
        };
        let batch = Batch { ops: (0..10_000).map(put).collect(), ..Batch::default() };
        engine.batch(&name(JOBS), batch).unwrap();
        let taken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for worker in 0..20 {
                let taken = &taken;
                scope.spawn(move || {
                    loop {
                        let lease = worker % 2 == 0;
                        let mut wanted = request(1 + worker * 3);
                        wanted.shift.lease = lease.then_some(Duration::from_secs(600));
                        let shifted = shift(engine, wanted);
                        if shifted.treasures.is_empty() {
                            return;
                        }
                        taken.lock().unwrap().extend(shifted.treasures.into_iter().map(|treasure| treasure.key));
                    }
                });
            }
        });
        let taken = taken.into_inner().unwrap();
        assert_eq!(taken.len(), 10_000);
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 10_000);
    });
}

#[test]
fn a_shift_that_comes_again_answers_the_same_also_after_eviction_restart_and_compaction() {
    let dir = tempdir().unwrap();
    let policy = Policy { write_interval: Duration::ZERO, idle_evict: Duration::from_millis(1), ..Policy::default() };
    let reopened = |dir: &std::path::Path| {
        let mut options = options(dir, "s1", Duration::ZERO);
        options.default_policy = policy.clone();
        open_with(options)
    };
    let engine = reopened(dir.path());
    (0..4).for_each(|n| put(&engine, JOBS, &format!("k{n}"), &format!("{{\"n\":{n}}}")));
    let first = shift(&engine, keyed(2, "one"));
    assert_eq!((keys(&first).as_str(), first.replayed), ("k0 k1", false));
    let mut lease = keyed(1, "two");
    lease.shift.lease = Some(Duration::from_secs(600));
    let on_lease = shift(&engine, lease.clone());
    assert_eq!(keys(&on_lease), "k2");
    let check = |engine: &Engine| {
        let again = shift(engine, keyed(2, "one"));
        assert!(again.replayed && again.treasures == first.treasures, "{again:?}");
        let again = shift(engine, lease.clone());
        assert!(again.replayed && again.treasures == on_lease.treasures, "{again:?}");
        assert_eq!(get(engine, JOBS, "k3").as_deref(), Some("{\"n\":3}"), "nothing else was taken");
    };
    check(&engine);
    eventually("it leaves memory", || engine.stats().resident_swamps == 0);
    check(&engine);
    engine.hydrate(&name(JOBS)).unwrap().compact().wait().unwrap();
    check(&engine);
    engine.close().unwrap();
    drop(engine);
    let engine = reopened(dir.path());
    check(&engine);
    engine.delete(&name(JOBS), "k2").unwrap();
    let again = shift(&engine, lease.clone());
    assert!(again.replayed && again.treasures.is_empty(), "what was acknowledged is not worked on again");
    let other = Some(Idempotency::new("one", 2));
    let reused = engine.shift(&name(JOBS), ShiftRequest { idempotency: other, ..request(1) }).wait().unwrap_err();
    assert_eq!((reused.code(), reused.applied()), (ErrorCode::IdempotencyReuse, Applied::No));
    // A copy of the files knows, too.
    let copy = tempdir().unwrap();
    copy_all(dir.path(), copy.path());
    std::fs::remove_dir_all(copy.path().join(".hydra")).unwrap();
    sync(dir.path(), copy.path());
    let copied = open(copy.path(), "s2", Duration::ZERO);
    let again = shift(&copied, keyed(2, "one"));
    assert!(again.replayed && again.treasures == first.treasures);
}

#[test]
fn what_is_kept_of_a_shift_is_seen_nowhere() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    put(&engine, JOBS, "a", "1");
    let swamp = engine.hydrate(&name(JOBS)).unwrap();
    let mut feed = swamp.subscribe(&FeedOptions::default()).unwrap();
    let kinds = |feed: &mut hydra_core::Feed| {
        let mut kinds = Vec::new();
        while let Some(event) = feed.wait(Duration::from_millis(200)) {
            kinds.push(event.kind.as_str());
        }
        kinds
    };
    assert_eq!(shift(&engine, keyed(1, "x")).treasures.len(), 1);
    assert_eq!(kinds(&mut feed), ["live", "delete"]);
    let included = ListQuery { expired: hydra_core::Expired::Included, ..ListQuery::default() };
    for order in ["key", "created", "updated", "expires", "value:/a"] {
        let query = ListQuery { order: order.parse().unwrap(), ..included.clone() };
        assert!(swamp.list(&query).unwrap().treasures.is_empty(), "{order}");
        assert_eq!(swamp.count_matching(&query).unwrap(), 0);
    }
    assert_eq!((swamp.count(), swamp.info().unwrap().unwrap().created_at), (0, None));
    let mut snapshot = FeedOptions::default();
    snapshot.snapshot = true;
    assert_eq!(kinds(&mut swamp.subscribe(&snapshot).unwrap()), ["live"]);
}

#[test]
fn a_shift_that_waits_takes_what_comes_in_the_order_of_waiting() {
    both(|engine| {
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for waiter in 0..5 {
                let order = &order;
                scope.spawn(move || {
                    let wait = Duration::from_secs(20);
                    let shifted = shift(engine, ShiftRequest { wait, ..request(1) });
                    order.lock().unwrap().push((waiter, keys(&shifted)));
                });
                std::thread::sleep(Duration::from_millis(100));
            }
            for n in 0..5 {
                put(engine, JOBS, &format!("k{n}"), "1");
                eventually("somebody takes it", || order.lock().unwrap().len() == n + 1);
            }
        });
        let expected: Vec<_> = (0..5).map(|n| (n, format!("k{n}"))).collect();
        assert_eq!(order.into_inner().unwrap(), expected);
    });
}

#[test]
fn a_shift_that_waits_wakes_when_something_is_due_and_when_a_lease_is_over_also_while_nothing_is_in_memory() {
    let dir = tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.default_policy.idle_evict = Duration::from_millis(20);
    let engine = Engine::open(options).unwrap();
    put_until(&engine, "later", in_ms(700));
    let mut due = request(1);
    (due.shift.due, due.wait) = (true, Duration::from_secs(20));
    let begun = Instant::now();
    let waiting = engine.shift(&name(JOBS), due);
    let waiting = std::thread::spawn(move || waiting.wait().unwrap());
    eventually("it leaves memory", || engine.stats().resident_swamps == 0);
    assert_eq!(keys(&waiting.join().unwrap()), "later");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    put(&engine, JOBS, "job", "1");
    assert_eq!(keys(&shift(&engine, leased(1, Duration::from_millis(700)))), "job");
    let begun = Instant::now();
    let again = shift(&engine, ShiftRequest { wait: Duration::from_secs(20), ..request(1) });
    assert_eq!(keys(&again), "job");
    assert!((500..3_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[test]
fn a_wait_that_is_given_up_takes_nothing_and_one_that_is_over_answers_nothing() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    let begun = Instant::now();
    let nothing = shift(&engine, ShiftRequest { wait: Duration::from_millis(300), ..request(1) });
    assert!(nothing.treasures.is_empty() && begun.elapsed() >= Duration::from_millis(300));
    let polls = AtomicUsize::new(0);
    {
        let mut given_up =
            std::pin::pin!(engine.shift(&name(JOBS), ShiftRequest { wait: Duration::from_secs(60), ..request(1) }));
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(given_up.as_mut().poll(&mut context).is_pending());
            polls.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    put(&engine, JOBS, "a", "1");
    assert_eq!(keys(&shift(&engine, ShiftRequest { wait: Duration::from_secs(5), ..request(1) })), "a");
    // Before an engine ends, those who wait are answered.
    let waiting = engine.shift(&name(JOBS), ShiftRequest { wait: Duration::from_secs(60), ..request(1) });
    let waiting = std::thread::spawn(move || waiting.wait().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    engine.end_waits();
    assert!(waiting.join().unwrap().treasures.is_empty());
}

#[test]
fn limits_are_said_by_name() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    let refused = |request: ShiftRequest| {
        let error = engine.shift(&name(JOBS), request).wait().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidParameter);
        error.detail().to_owned()
    };
    assert!(refused(request(0)).contains("1 to 1000"));
    assert!(refused(request(1_001)).contains("1001"));
    assert!(refused(leased(1, Duration::ZERO)).contains("24h"));
    assert!(refused(leased(1, Duration::from_secs(86_401))).contains("24h"));
    assert!(refused(ShiftRequest { wait: Duration::from_secs(61), ..request(1) }).contains("60 s"));
    let large = format!("\"{}\"", "x".repeat(9 << 20));
    (0..3).for_each(|n| put(&engine, JOBS, &format!("k{n}"), &large));
    assert_eq!(keys(&shift(&engine, keyed(3, "large"))), "k0", "as many as fit, and one in any case");
}

#[test]
fn a_queue_that_was_emptied_goes_when_nothing_is_kept_of_it() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    put(&engine, JOBS, "a", "1");
    let mut answered = shift(&engine, request(1));
    assert_eq!(answered.durability, Some(Durability::Synced));
    eventually("its files go", || crate::common::chunks(dir.path()).is_empty());
    put(&engine, JOBS, "a", "1");
    answered = shift(&engine, keyed(1, "kept"));
    assert_eq!(answered.treasures.len(), 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(crate::common::chunks(dir.path()).len(), 1, "what was answered is kept");
    assert!(engine.hydrate(&name(JOBS)).unwrap().info().unwrap().is_some_and(|info| info.count == 0));
}
