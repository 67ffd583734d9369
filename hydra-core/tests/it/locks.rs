//! Locks: one holder at a time, in the order of waiting, seen by nobody who does not ask.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hydra_core::{
    Engine, Error, ErrorCode, Expired, FeedOptions, Granted, Idempotency, ListQuery, Lock, LockRequest, Op, Policy,
};
use tempfile::tempdir;

use crate::common::{chunks, eventually, json, name, open, open_with, options, put, sync, synced};

const SWAMP: &str = "jobs/mail/eu";

fn ask(engine: &Engine, ttl: u64, wait: u64) -> Result<Granted, Error> {
    let mut request = LockRequest::new(Duration::from_millis(ttl));
    request.wait = Duration::from_millis(wait);
    engine.lock(&name(SWAMP), "import", request).wait()
}

fn take(engine: &Engine, ttl: u64) -> Lock {
    ask(engine, ttl, 0).unwrap().lock
}

fn release(engine: &Engine, lock: &Lock) -> Result<(), Error> {
    engine.release_lock(&name(SWAMP), "import", &lock.token, None).wait()
}

#[test]
fn a_lock_has_one_holder_who_renews_it_and_gives_it_back() {
    for interval in [Duration::ZERO, Duration::from_secs(3_600)] {
        let dir = tempdir().unwrap();
        let engine = open(dir.path(), "s1", interval);
        let mut request = LockRequest::new(Duration::from_secs(10));
        request.owner = Some("w1".into());
        let lock = engine.lock(&name(SWAMP), "import", request).wait().unwrap().lock;
        assert_eq!(lock.token.len(), 32);
        let refused = ask(&engine, 1_000, 0).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::LockHeld);
        assert!(refused.detail().contains("w1") && !refused.to_string().contains(&lock.token));
        assert!((8..=10).contains(&refused.retry_after().unwrap().as_secs()));
        let swamp = engine.hydrate(&name(SWAMP)).unwrap();
        let info = swamp.lock_info("import").unwrap().unwrap();
        assert_eq!((info.owner.as_deref(), info.fence, info.expires_at), (Some("w1"), lock.fence, lock.expires_at));
        assert_eq!(swamp.lock_info("other").unwrap(), None);

        let renew =
            |token: &str| engine.renew_lock(&name(SWAMP), "import", token, Duration::from_secs(60), None).wait();
        assert_eq!(renew("wrong").unwrap_err().code(), ErrorCode::LockTokenMismatch);
        let renewed = renew(&lock.token).unwrap();
        assert_eq!((renewed.fence, &renewed.token), (lock.fence, &lock.token), "it is the same grant");
        assert!(renewed.expires_at > lock.expires_at);

        release(&engine, &lock).unwrap();
        assert_eq!(release(&engine, &lock).unwrap_err().code(), ErrorCode::LockTokenMismatch);
        assert_eq!(renew(&lock.token).unwrap_err().code(), ErrorCode::LockTokenMismatch);
        assert!(take(&engine, 1_000).fence > lock.fence);
    }
}

#[test]
fn fences_grow_over_restarts_and_a_lock_that_is_held_outlasts_them() {
    let dir = tempdir().unwrap();
    let mut last = 0;
    for _ in 0..4 {
        // Whatever the write interval, a lock is on disk when it is answered.
        let engine = open_with(options(dir.path(), "s1", Duration::from_secs(3_600)));
        let lock = take(&engine, 60_000);
        assert!(lock.fence > last);
        last = lock.fence;
        let killed = tempdir().unwrap();
        crate::common::copy_all(dir.path(), killed.path());
        engine.close().unwrap();
        drop(engine);
        let engine = open_with(options(killed.path(), "s1", Duration::from_secs(3_600)));
        assert_eq!(ask(&engine, 1_000, 0).unwrap_err().code(), ErrorCode::LockHeld, "also after a kill");
        drop(engine);
        let engine = open_with(options(dir.path(), "s1", Duration::from_secs(3_600)));
        release(&engine, &lock).unwrap();
        drop(engine);
    }
}

#[test]
fn those_who_wait_hold_it_in_the_order_of_waiting() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    let first = take(&engine, 60_000);
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for waiter in 0..5_u64 {
            let (engine, order) = (&engine, &order);
            scope.spawn(move || {
                let lock = ask(engine, 60_000, 20_000).unwrap().lock;
                order.lock().unwrap().push((waiter, lock.fence));
                release(engine, &lock).unwrap();
            });
            std::thread::sleep(Duration::from_millis(100));
        }
        release(&engine, &first).unwrap();
    });
    let order = order.into_inner().unwrap();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(order.windows(2).all(|pair| pair[0].1 < pair[1].1));
}

#[test]
fn a_lock_whose_time_is_over_goes_to_whoever_waits_also_while_the_swamp_is_not_in_memory() {
    let dir = tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.default_policy.idle_evict = Duration::from_millis(20);
    let engine = Engine::open(options).unwrap();
    put(&engine, SWAMP, "a", "1");
    let held = take(&engine, 700);
    let begun = Instant::now();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&engine, 60_000, 20_000).unwrap().lock);
        eventually("it leaves memory", || engine.stats().resident_swamps == 0);
        waiting.join().unwrap()
    });
    assert!(waiting.fence > held.fence);
    assert!((500..3_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(release(&engine, &held).unwrap_err().code(), ErrorCode::LockTokenMismatch);
    let begun = Instant::now();
    assert_eq!(ask(&engine, 1, 300).unwrap_err().code(), ErrorCode::LockHeld);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn whoever_gave_up_waiting_never_holds_it_and_whoever_does_not_wait_comes_after_those_who_do() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    let held = take(&engine, 60_000);
    let mut request = LockRequest::new(Duration::from_secs(60));
    request.wait = Duration::from_secs(60);
    let mut given_up = Box::pin(engine.lock(&name(SWAMP), "import", request));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        assert!(given_up.as_mut().poll(&mut context).is_pending());
        std::thread::sleep(Duration::from_millis(10));
    }
    release(&engine, &held).unwrap();
    let refused = ask(&engine, 1_000, 0).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::LockHeld, "it is promised to whoever waits");
    drop(given_up);
    let swamp = engine.hydrate(&name(SWAMP)).unwrap();
    assert_eq!(swamp.lock_info("import").unwrap(), None);
    take(&engine, 1_000);
}

#[test]
fn locks_are_seen_nowhere_and_hold_up_nothing() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    put(&engine, SWAMP, "a", "1");
    let swamp = engine.hydrate(&name(SWAMP)).unwrap();
    let mut feed = swamp.subscribe(&FeedOptions::default()).unwrap();
    let lock = take(&engine, 60_000);
    engine.renew_lock(&name(SWAMP), "import", &lock.token, Duration::from_secs(60), None).wait().unwrap();
    let mut told = Vec::new();
    while let Some(event) = feed.wait(Duration::from_millis(200)) {
        told.push(event.kind.as_str());
    }
    assert_eq!(told, ["live"]);
    assert_eq!(swamp.count(), 1);
    for order in ["key", "created", "updated", "expires", "value:/token"] {
        let order = order.parse().unwrap();
        let query = ListQuery { order, expired: Expired::Included, ..ListQuery::default() };
        let keys: Vec<_> = swamp.list(&query).unwrap().treasures.into_iter().map(|t| t.key).collect();
        assert_eq!(keys, ["a"]);
    }
    for key in ["\0lock/import", "\0"] {
        assert_eq!(swamp.get(key).unwrap(), None);
        assert_eq!(engine.put(&name(SWAMP), key, json("1")).unwrap_err().code(), ErrorCode::InvalidKey);
        let get = hydra_core::Batch::of(Op::Get { key: key.into() });
        assert_eq!(
            engine.batch(&name(SWAMP), get).unwrap().results.remove(0).unwrap_err().code(),
            ErrorCode::InvalidKey
        );
        assert!(swamp.pick(&[key.into()], Expired::Included).unwrap().0.is_empty());
    }
    assert_eq!(engine.shift(&name(SWAMP), hydra_core::ShiftRequest::default()).wait().unwrap().treasures.len(), 1);
    // A snapshot keeps it, also for whoever copies the files.
    assert!(swamp.compact().wait().unwrap());
    drop((swamp, feed));
    let copy = tempdir().unwrap();
    sync(dir.path(), copy.path());
    let copied = open(copy.path(), "s2", Duration::ZERO);
    assert_eq!(ask(&copied, 1_000, 0).unwrap_err().code(), ErrorCode::LockHeld);
    assert!(engine.hydrate(&name(SWAMP)).unwrap().conflicts().is_empty());
}

#[test]
fn two_servers_that_both_granted_it_list_no_conflict() {
    let (a, b) = (tempdir().unwrap(), tempdir().unwrap());
    let engine = synced(a.path());
    take(&engine, 60_000);
    let other = open(b.path(), "s2", Duration::ZERO);
    take(&other, 60_000);
    drop((engine, other));
    sync(a.path(), b.path());
    let merged = open_with(options(b.path(), "s2", Duration::ZERO));
    let swamp = merged.hydrate(&name(SWAMP)).unwrap();
    assert!(swamp.lock_info("import").unwrap().is_some());
    assert!(swamp.conflicts().is_empty());
    assert_eq!(merged.stats().conflicts, 0);
}

#[test]
fn a_swamp_of_nothing_but_a_lock_that_is_over_becomes_empty() {
    let dir = tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.default_policy = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    let engine = Engine::open(options).unwrap();
    take(&engine, 400);
    assert_eq!(chunks(dir.path()).len(), 1);
    assert!(!engine.hydrate(&name(SWAMP)).unwrap().destroy().wait().unwrap(), "there is nothing to destroy");
    assert_eq!(ask(&engine, 1, 0).unwrap_err().code(), ErrorCode::LockHeld);
    eventually("its files go", || chunks(dir.path()).is_empty());
    // With a treasure beside it a lock goes with the swamp.
    put(&engine, SWAMP, "a", "1");
    take(&engine, 60_000);
    assert!(engine.hydrate(&name(SWAMP)).unwrap().destroy().wait().unwrap());
    assert!(chunks(dir.path()).is_empty());
    take(&engine, 60_000);
}

#[test]
fn a_request_that_comes_again_has_the_same_grant_as_long_as_it_lasts() {
    let dir = tempdir().unwrap();
    let keyed = |key: &str| {
        let mut request = LockRequest::new(Duration::from_millis(500));
        request.idempotency = Some(Idempotency::new(key, 1));
        request
    };
    let engine = synced(dir.path());
    put(&engine, SWAMP, "a", "1");
    let ask = |engine: &Engine| engine.lock(&name(SWAMP), "import", keyed("k")).wait();
    let first = ask(&engine).unwrap();
    drop(engine);
    let engine = open_with(options(dir.path(), "s1", Duration::ZERO));
    let again = ask(&engine).unwrap();
    assert!(!first.replayed && again.replayed && first.lock == again.lock);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(ask(&engine).unwrap_err().code(), ErrorCode::IdempotencyReuse);
}

#[test]
fn names_times_and_owners_have_limits() {
    let dir = tempdir().unwrap();
    let engine = synced(dir.path());
    let ask = |lock: &str, request: LockRequest| engine.lock(&name(SWAMP), lock, request).wait().unwrap_err().code();
    let second = || LockRequest::new(Duration::from_secs(1));
    for lock in ["", ".", "a\0b", &"x".repeat(256)] {
        assert_eq!(ask(lock, second()), ErrorCode::InvalidKey, "{lock:?}");
    }
    for ttl in [Duration::ZERO, Duration::from_secs(86_401)] {
        assert_eq!(ask("a", LockRequest::new(ttl)), ErrorCode::InvalidParameter);
    }
    assert_eq!(ask("a", LockRequest { wait: Duration::from_secs(61), ..second() }), ErrorCode::InvalidParameter);
    assert_eq!(ask("a", LockRequest { owner: Some("x".repeat(256)), ..second() }), ErrorCode::InvalidParameter);
    engine.lock(&name(SWAMP), &"x".repeat(255), second()).wait().unwrap();
}
