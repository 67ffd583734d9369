//! What feeds tell of changes: in order, without a gap, whatever leaves memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hydra_core::{
    Batch, Condition, Engine, EngineOptions, EventId, EventKind, Expiry, Feed, FeedEvent, FeedOptions, Op, Policy,
    Timestamp,
};
use proptest::prelude::*;

use crate::common::{eventually, json, name, open, options, put, sync};

const SOON: Duration = Duration::from_secs(10);

fn feed(engine: &Engine, swamp: &str, change: impl FnOnce(&mut FeedOptions)) -> Feed {
    let mut options = FeedOptions::default();
    change(&mut options);
    engine.subscribe(&name(swamp), &options).unwrap()
}

fn next(feed: &mut Feed) -> FeedEvent {
    feed.wait(SOON).expect("an event")
}

/// An event in a word, with its key and value.
fn shown(event: &FeedEvent) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match &event.kind {
        EventKind::Put { treasure, .. } => format!("put {}={}", treasure.key, text(treasure.value.as_bytes())),
        EventKind::Delete { key, .. } => format!("delete {key}"),
        EventKind::Expire { key, .. } => format!("expire {key}"),
        other => other.as_str().to_owned(),
    }
}

fn nexts<const N: usize>(feed: &mut Feed) -> [String; N] {
    std::array::from_fn(|_| shown(&next(feed)))
}

fn apply(map: &mut BTreeMap<String, Vec<u8>>, event: &FeedEvent) {
    match &event.kind {
        EventKind::Put { treasure, .. } => {
            map.insert(treasure.key.clone(), treasure.value.as_bytes().to_vec());
        }
        EventKind::Delete { key, .. } | EventKind::Expire { key, .. } => {
            map.remove(key);
        }
        EventKind::Destroy | EventKind::Reset { .. } => map.clear(),
        EventKind::Lagged => panic!("it lagged"),
        _ => {}
    }
}

fn content(engine: &Engine, swamp: &str) -> BTreeMap<String, Vec<u8>> {
    let query = hydra_core::ListQuery { limit: 100_000, ..hydra_core::ListQuery::default() };
    let page = engine.hydrate(&name(swamp)).unwrap().list(&query).unwrap();
    page.treasures.into_iter().map(|t| (t.key, t.value.as_bytes().to_vec())).collect()
}

fn short_lived(dir: &std::path::Path) -> EngineOptions {
    let mut options = options(dir, "s1", Duration::ZERO);
    options.default_policy.idle_evict = Duration::ZERO;
    options
}

#[test]
fn changes_come_in_order_with_what_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    for interval in [Duration::ZERO, Duration::from_secs(1)] {
        let engine = open(dir.path(), "s1", interval);
        let swamp = format!("a/b/c{}", interval.as_secs());
        let mut feed = feed(&engine, &swamp, |options| options.old = true);
        put(&engine, &swamp, "k", "1");
        put(&engine, &swamp, "k", "2");
        engine.increment(&name(&swamp), "k", 5).unwrap();
        engine.delete(&name(&swamp), "k").unwrap();
        engine.delete(&name(&swamp), "absent").unwrap();
        put(&engine, &swamp, "x", "1");
        engine.hydrate(&name(&swamp)).unwrap().destroy().wait().unwrap();
        let events: [FeedEvent; 7] = std::array::from_fn(|_| next(&mut feed));
        let words = events.each_ref().map(shown);
        assert_eq!(words, ["live", "put k=1", "put k=2", "put k=7", "delete k", "put x=1", "destroy"]);
        let old = |event: &FeedEvent| match &event.kind {
            EventKind::Put { old, .. } | EventKind::Delete { old, .. } => old.as_ref().map(|old| old.value.clone()),
            _ => None,
        };
        let before: Vec<_> = events[1..5].iter().map(old).collect();
        assert_eq!(before, [None, Some(json("1")), Some(json("2")), Some(json("7"))]);
        assert!(feed.wait(Duration::from_millis(20)).is_none() && !feed.is_ended());
        engine.close().unwrap();
        assert!(feed.wait(SOON).is_none() && feed.is_ended());
    }
}

#[test]
fn a_batch_is_told_in_the_order_of_its_operations() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::ZERO);
    let mut feed = feed(&engine, "a/b/c", |_| {});
    let op = |key: usize| Op::Put {
        key: format!("{key:03}"),
        value: json("1"),
        expiry: Expiry::Never,
        condition: Condition::Always,
    };
    engine.batch(&name("a/b/c"), Batch { ops: (0..100).map(op).collect(), ..Batch::default() }).unwrap();
    assert_eq!(shown(&next(&mut feed)), "live");
    for key in 0..100 {
        assert_eq!(shown(&next(&mut feed)), format!("put {key:03}=1"));
    }
}

#[test]
fn a_feed_goes_on_exactly_where_it_ended_and_begins_anew_where_that_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::ZERO);
    let mut first = feed(&engine, "a/b/c", |_| {});
    put(&engine, "a/b/c", "a", "1");
    let begun = next(&mut first).id;
    let at_a = next(&mut first).id;
    drop(first);
    put(&engine, "a/b/c", "b", "2");
    let since = |id| feed(&engine, "a/b/c", |options| (options.since, options.snapshot) = (id, true));
    assert_eq!(nexts(&mut since(begun)), ["put a=1", "put b=2", "live"]);
    let mut second = since(at_a);
    assert_eq!(nexts(&mut second), ["put b=2", "live"]);
    put(&engine, "a/b/c", "c", "3");
    assert_eq!(shown(&next(&mut second)), "put c=3");

    let unknown: Vec<EventId> = vec!["0000000000001.1".parse().unwrap(), {
        let later = begun.unwrap().to_string();
        format!("{}.99999999", later.split('.').next().unwrap()).parse().unwrap()
    }];
    for id in unknown {
        let mut anew = since(Some(id));
        let event = next(&mut anew);
        assert!(matches!(event.kind, EventKind::Reset { .. }) && event.id.is_none());
        assert_eq!(nexts(&mut anew), ["put a=1", "put b=2", "put c=3", "live"]);
    }
    engine.close().unwrap();
    drop(engine);
    let again = crate::common::open_with(options(dir.path(), "s1", Duration::ZERO));
    let mut after = feed(&again, "a/b/c", |options| options.since = at_a);
    assert_eq!(nexts(&mut after), ["reset", "put a=1", "put b=2", "put c=3", "live"]);
}

#[test]
fn only_so_many_changes_are_kept_and_a_reader_that_is_too_slow_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = options(dir.path(), "s1", Duration::from_secs(1));
    opened.default_policy.change_log = 300;
    let engine = Engine::open(opened).unwrap();
    let mut slow = feed(&engine, "a/b/c", |_| {});
    let begun = next(&mut slow).id;
    let mut quick = feed(&engine, "a/b/c", |_| {});
    let mut last = None;
    for i in 0..1_000 {
        put(&engine, "a/b/c", "k", &i.to_string());
        last = next(&mut quick).id.or(last);
    }
    assert_eq!(shown(&next(&mut slow)), "lagged");
    assert!(slow.wait(SOON).is_none() && slow.is_ended());
    assert_eq!(nexts(&mut feed(&engine, "a/b/c", |options| options.since = begun)), ["reset", "put k=999", "live"]);
    assert_eq!(nexts(&mut feed(&engine, "a/b/c", |options| options.since = last)), ["put k=999", "live"]);
}

#[test]
fn a_feed_outlives_the_swamp_in_memory_and_may_come_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(short_lived(dir.path())).unwrap();
    let mut early = feed(&engine, "a/b/c", |_| {});
    assert_eq!(shown(&next(&mut early)), "live");
    for i in 0..5 {
        eventually("it leaves memory", || engine.resident(&name("a/b/c")).is_none());
        put(&engine, "a/b/c", "k", &i.to_string());
        assert_eq!(shown(&next(&mut early)), format!("put k={i}"));
    }
    assert!(early.wait(Duration::from_millis(30)).is_none());
    assert!(engine.stats().evictions >= 5);
}

#[test]
fn what_expires_is_told_also_when_the_swamp_left_memory() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(short_lived(dir.path())).unwrap();
    let put = |key: &str, ms: u64| {
        let expiry = Expiry::At(Timestamp::now().after(Duration::from_millis(ms)));
        let op = Op::Put { key: key.into(), value: json("1"), expiry, condition: Condition::Always };
        engine.batch(&name("a/b/c"), Batch::of(op)).unwrap();
    };
    put("before", 300);
    let mut feed = feed(&engine, "a/b/c", |options| (options.snapshot, options.old) = (true, true));
    put("renewed", 200);
    put("renewed", 60_000);
    put("soon", 100);
    assert_eq!(nexts(&mut feed), ["put before=1", "live", "put renewed=1", "put renewed=1", "put soon=1"]);
    eventually("it leaves memory", || engine.resident(&name("a/b/c")).is_none());
    assert_eq!(nexts(&mut feed), ["expire soon", "expire before"]);
    assert!(feed.wait(Duration::from_millis(300)).is_none(), "what was renewed stays");
}

#[test]
fn what_copies_bring_is_told_while_the_swamp_is_in_memory_and_when_it_left() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for idle_evict in [Duration::from_secs(300), Duration::ZERO] {
        let mut opened = options(here.path(), "s1", Duration::ZERO);
        opened.default_policy.idle_evict = idle_evict;
        opened.copied = true;
        let engine = crate::common::open_with(opened);
        let swamp = format!("a/b/c{}", idle_evict.as_secs());
        put(&engine, &swamp, "own", "1");
        let mut feed = feed(&engine, &swamp, |_| {});
        assert_eq!(shown(&next(&mut feed)), "live");
        if idle_evict.is_zero() {
            eventually("it leaves memory", || engine.resident(&name(&swamp)).is_none());
        }
        let mut other = options(there.path(), "s2", Duration::ZERO);
        other.copied = true;
        let other = crate::common::open_with(other);
        put(&other, &swamp, "theirs", "2");
        other.close().unwrap();
        sync(there.path(), here.path());
        // Nobody asks the swamp anything.
        let first = shown(&next(&mut feed));
        if first == "reset" {
            assert!(idle_evict.is_zero(), "what is in memory can be compared");
            assert_eq!(nexts(&mut feed), ["put own=1", "put theirs=2", "live"]);
        } else {
            assert_eq!(first, "put theirs=2", "it was read in again just before");
        }
        engine.close().unwrap();
    }
}

#[test]
fn feeds_of_many_swamps_and_of_patterns_tell_all_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(1));
    let one = |swamp: &str, id| feed(&engine, swamp, |options| options.since = id);
    let mut many = Feed::merge(["a/b/1", "a/b/2"].map(|swamp| one(swamp, None))).unwrap();
    let pattern = "a/b/*".parse().unwrap();
    let mut all = engine.subscribe_pattern(&pattern, &FeedOptions::default()).unwrap();
    assert_eq!((shown(&next(&mut many)), shown(&next(&mut all))), ("live".into(), "live".into()));
    let mut ids = Vec::new();
    for i in 0..20 {
        let swamp = format!("a/b/{}", 1 + i % 3);
        put(&engine, &swamp, "k", &i.to_string());
        let event = next(&mut all);
        assert_eq!((shown(&event), event.swamp), (format!("put k={i}"), Some(name(&swamp))));
        if i % 3 < 2 {
            let event = next(&mut many);
            assert_eq!((shown(&event), event.swamp), (format!("put k={i}"), Some(name(&swamp))));
            ids.push((i, event.id));
        }
    }
    let (i, id) = ids[3];
    let mut again = Feed::merge(["a/b/1", "a/b/2"].map(|swamp| one(swamp, id))).unwrap();
    let rest: Vec<String> = (i + 1..20).filter(|i| i % 3 < 2).map(|i| format!("put k={i}")).collect();
    for expected in rest.into_iter().chain(["live".to_owned()]) {
        assert_eq!(shown(&next(&mut again)), expected);
    }
    put(&engine, "x/y/z", "k", "1");
    assert!(all.wait(Duration::from_millis(20)).is_none());
}

/// Waits with threads what a server waits with tasks.
fn wait_for(future: impl Future<Output = ()>) {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    let until = Instant::now() + SOON;
    while future.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending() {
        assert!(Instant::now() < until, "nobody was woken");
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn whoever_waits_for_a_change_is_woken_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(short_lived(dir.path())).unwrap();
    for i in 0..50 {
        let changed = engine.hydrate(&name("a/b/c")).unwrap().changed().unwrap();
        let engine = engine.clone();
        let writer = std::thread::spawn(move || put(&engine, "a/b/c", "k", &i.to_string()));
        wait_for(changed);
        writer.join().unwrap();
    }
}

#[test]
fn readers_that_come_and_go_under_concurrent_writes_miss_nothing_and_see_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = options(dir.path(), "s1", Duration::from_millis(5));
    opened.default_policy.change_log = 100_000;
    let engine = Engine::open(opened).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut feed = feed(&engine, "a/b/c", |_| {});
        let mut last = next(&mut feed).id;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let engine = &engine;
                scope.spawn(move || {
                    for i in 0..500 {
                        put(engine, "a/b/c", &format!("{writer}"), &i.to_string());
                    }
                })
            })
            .collect();
        let all_done = Arc::clone(&done);
        scope.spawn(move || {
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            all_done.store(true, Ordering::Release);
        });
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for round in 1.. {
            for _ in 0..round % 7 + 1 {
                let Some(event) = feed.wait(Duration::from_millis(200)) else { break };
                last = event.id.or(last);
                if let EventKind::Put { treasure, .. } = event.kind {
                    let value: u64 = treasure.value.decode().unwrap();
                    let expected = seen.get(&treasure.key).map_or(0, |value| value + 1);
                    assert_eq!(value, expected, "of writer {}", treasure.key);
                    seen.insert(treasure.key, value);
                }
            }
            if done.load(Ordering::Acquire) && seen.len() == 4 && seen.values().all(|&value| value == 499) {
                break;
            }
            let mut options = FeedOptions::default();
            options.since = last;
            feed = engine.subscribe(&name("a/b/c"), &options).unwrap();
        }
    });
}

#[test]
fn a_reader_that_never_reads_slows_nobody_and_costs_no_more_than_its_queue() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = options(dir.path(), "s1", Duration::from_secs(1));
    opened.default_policy = Policy { change_log: 10, write_interval: Duration::from_secs(1), ..Policy::default() };
    let engine = Engine::open(opened).unwrap();
    let value = format!("\"{}\"", "x".repeat(100_000));
    let silent = feed(&engine, "a/b/c", |_| {});
    for _ in 0..2_000 {
        put(&engine, "a/b/c", "k", &value);
    }
    // What is counted against the budget holds the ring, too.
    drop(silent);
    let mut late = feed(&engine, "a/b/c", |options| options.snapshot = true);
    assert_eq!(shown(&next(&mut late)).len(), "put k=".len() + value.len());
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Expiring(u8, u8),
    Increment(u8),
    Delete(u8),
    Batch(Vec<(u8, u8)>),
    Destroy,
    Evict,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..6_u8;
    prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (key.clone(), 0..20_u8).prop_map(|(key, ms)| Step::Expiring(key, ms)),
        2 => key.clone().prop_map(Step::Increment),
        3 => key.clone().prop_map(Step::Delete),
        2 => prop::collection::vec((key, any::<u8>()), 1..8).prop_map(Step::Batch),
        1 => Just(Step::Destroy),
        1 => Just(Step::Evict),
        2 => Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// The promise of a feed: whoever applies it to nothing holds what the swamp holds.
    #[test]
    fn applying_a_feed_to_an_empty_map_gives_the_swamp(steps in prop::collection::vec(step(), 1..40), log in 0..3_u32) {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = options(dir.path(), "s1", Duration::from_millis(2));
        opened.default_policy.change_log = log;
        opened.default_policy.idle_evict = Duration::ZERO;
        let engine = Engine::open(opened).unwrap();
        put(&engine, "a/b/c", "0", "0");
        let mut map = BTreeMap::new();
        let mut feed = feed(&engine, "a/b/c", |options| options.snapshot = true);
        let mut last = None;
        let swamp = name("a/b/c");
        let put_of = |&(key, value): &(u8, u8), ms: Option<u64>| Op::Put {
            key: key.to_string(),
            value: json(&value.to_string()),
            expiry: ms.map(|ms| Timestamp::now().after(Duration::from_millis(ms))).into(),
            condition: Condition::Always,
        };
        for step in steps {
            match step {
                Step::Put(key, value) => drop(engine.batch(&swamp, Batch::of(put_of(&(key, value), None))).unwrap()),
                Step::Expiring(key, ms) => {
                    engine.batch(&swamp, Batch::of(put_of(&(key, 7), Some(ms.into())))).unwrap();
                }
                Step::Increment(key) => drop(engine.increment(&swamp, &key.to_string(), 3).unwrap()),
                Step::Delete(key) => drop(engine.delete(&swamp, &key.to_string()).unwrap()),
                Step::Batch(puts) => {
                    let ops = puts.iter().map(|put| put_of(put, None)).collect();
                    engine.batch(&swamp, Batch { ops, ..Batch::default() }).unwrap();
                }
                Step::Destroy => drop(engine.hydrate(&swamp).unwrap().destroy().wait().unwrap()),
                Step::Evict => std::thread::sleep(Duration::from_millis(8)),
                Step::Reconnect => {
                    for _ in 0..2 {
                        if let Some(event) = feed.wait(Duration::ZERO) {
                            apply(&mut map, &event);
                            last = event.id.or(last);
                        }
                    }
                    let mut options = FeedOptions::default();
                    options.snapshot = true;
                    options.since = last;
                    if last.is_none() {
                        map.clear();
                    }
                    feed = engine.subscribe(&swamp, &options).unwrap();
                }
            }
        }
        std::thread::sleep(Duration::from_millis(25));
        // What has expired is told a moment after it is hidden.
        let until = Instant::now() + SOON;
        loop {
            while let Some(event) = feed.wait(Duration::from_millis(20)) {
                apply(&mut map, &event);
            }
            let held = content(&engine, "a/b/c");
            if held == map {
                break;
            }
            prop_assert!(Instant::now() < until, "the swamp holds {held:?}, the feed says {map:?}");
        }
        engine.close().unwrap();
    }
}
