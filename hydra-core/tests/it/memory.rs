//! Many more swamps in use than fit into memory: nothing is lost, everybody gets on, and large swamps work.
//!
//! With `HYDRA_MEMORY_SOAK=600` the pressure lasts that many seconds.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydra_core::{Applied, Batch, Engine, EngineOptions, ErrorCode, OpResult, Policy};

use crate::common::{chunks, eventually, get, json, name, options, put, sync};

const SWAMPS: usize = 40;
const THREADS: usize = 8;
/// A swamp takes some 28 KB: three of them fit.
const BUDGET: u64 = 90_000;

/// What one thread knows of its keys in one swamp: step `n` puts `n`, or deletes when seven divides it, and
/// then adds one.
#[derive(Debug, Default)]
struct Ledger {
    tried: AtomicU64,
    acknowledged: AtomicU64,
    /// The same for the increments.
    tried_sum: AtomicU64,
    sum: AtomicU64,
    /// What a flush that is over has put on disk: step and sum.
    flushed: [AtomicU64; 2],
}

fn swamp(index: usize) -> String {
    // Every other one is synced at each write.
    format!("{}/realm/w{index}", if index.is_multiple_of(2) { "synced" } else { "buffered" })
}

fn expected(step: u64) -> Option<u64> {
    (!step.is_multiple_of(7)).then_some(step)
}

fn pressed(dir: &Path) -> EngineOptions {
    let mut options = options(dir, "s1", Duration::from_secs(1));
    options.memory_budget = BUDGET;
    options
}

fn open(dir: &Path) -> Engine {
    let engine = Engine::open(pressed(dir)).unwrap();
    let synced = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    engine.set_policy("synced/*/*".parse().unwrap(), synced).unwrap();
    engine
}

/// Tries until it is taken; a refusal has to say that nothing was done.
fn insist<T>(mut operation: impl FnMut() -> hydra_core::Result<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match operation() {
            Ok(done) => return done,
            Err(error) if error.code() == ErrorCode::Busy && Instant::now() < until => {
                assert_eq!(error.applied(), Applied::No, "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Ledger {
    fn step(&self, engine: &Engine, swamp: &str, thread: usize) {
        let (swamp, step) = (name(swamp), self.acknowledged.load(Ordering::SeqCst) + 1);
        self.tried.store(step, Ordering::SeqCst);
        match expected(step) {
            Some(value) => {
                insist(|| engine.put(&swamp, &format!("k{thread}"), json(&value.to_string())));
            }
            None => assert!(insist(|| engine.delete(&swamp, &format!("k{thread}"))), "it was put the step before"),
        }
        self.acknowledged.store(step, Ordering::SeqCst);
        let sum = self.sum.load(Ordering::SeqCst) + 1;
        self.tried_sum.store(sum, Ordering::SeqCst);
        assert_eq!(insist(|| engine.increment(&swamp, &format!("n{thread}"), 1)), sum as i64);
        self.sum.store(sum, Ordering::SeqCst);
    }

    /// What must be on disk by now.
    fn lower(&self, synced: bool) -> [u64; 2] {
        if synced {
            return [self.acknowledged.load(Ordering::SeqCst), self.sum.load(Ordering::SeqCst)];
        }
        [self.flushed[0].load(Ordering::SeqCst), self.flushed[1].load(Ordering::SeqCst)]
    }

    /// Compares with what an engine has: not less than `lower`, not more than was tried.
    fn check(&self, engine: &Engine, swamp: &str, thread: usize, lower: [u64; 2]) {
        let read = |key: String| insist(|| engine.get(&name(swamp), &key)).map(|t| t.value.decode::<u64>().unwrap());
        let value = read(format!("k{thread}"));
        let tried = self.tried.load(Ordering::SeqCst);
        let steps = lower[0]..=tried;
        assert!(steps.clone().any(|step| expected(step) == value), "{swamp} {thread}: {value:?} is not of {steps:?}");
        let sums = lower[1]..=self.tried_sum.load(Ordering::SeqCst);
        let sum = read(format!("n{thread}")).unwrap_or(0);
        assert!(sums.contains(&sum), "{swamp} {thread}: the sum {sum} is not of {sums:?}");
    }
}

/// Stops the threads also when a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Ledgers = Vec<Vec<Ledger>>;

fn each(ledgers: &Ledgers) -> impl Iterator<Item = (usize, usize, &Ledger)> {
    let of_swamp = |(swamp, ledgers): (usize, &'_ Vec<Ledger>)| (swamp, ledgers.len());
    ledgers
        .iter()
        .enumerate()
        .map(of_swamp)
        .flat_map(move |(swamp, threads)| (0..threads).map(move |thread| (swamp, thread, &ledgers[swamp][thread])))
}

/// Copies the directory while it is written to, as a crash would leave it, and opens the copy.
fn crash(engine: &Engine, ledgers: &Ledgers) {
    let lower: Vec<[u64; 2]> = each(ledgers).map(|(index, _, l)| l.lower(index.is_multiple_of(2))).collect();
    let copy = tempfile::tempdir().unwrap();
    sync(engine.data_dir(), copy.path());
    let after = open(copy.path());
    for ((index, thread, ledger), lower) in each(ledgers).zip(lower) {
        ledger.check(&after, &swamp(index), thread, lower);
    }
}

fn note_flush(engine: &Engine, ledgers: &Ledgers) {
    let before: Vec<[u64; 2]> = each(ledgers).map(|(_, _, l)| l.lower(true)).collect();
    engine.flush(None).unwrap();
    for ((_, _, ledger), [step, sum]) in each(ledgers).zip(before) {
        ledger.flushed[0].store(step, Ordering::SeqCst);
        ledger.flushed[1].store(sum, Ordering::SeqCst);
    }
}

#[test]
fn with_memory_for_three_swamps_forty_are_used_and_nothing_is_lost() {
    let seconds = std::env::var("HYDRA_MEMORY_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let padding = json(&format!("\"{}\"", "x".repeat(1_000)));
    for index in 0..SWAMPS {
        (0..20).for_each(|i| drop(insist(|| engine.put(&name(&swamp(index)), &format!("p{i}"), padding.clone()))));
    }
    let ledgers: Ledgers = (0..SWAMPS).map(|_| (0..THREADS).map(|_| Ledger::default()).collect()).collect();
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (engine, ledgers, stop) = (&engine, &ledgers, &stop);
            scope.spawn(move || {
                let _stop = Stop(stop);
                let mut at = thread * 5;
                while !stop.load(Ordering::Relaxed) {
                    // Some are used more often than others.
                    at = (at * 7 + 3) % if at % 3 == 0 { 6 } else { SWAMPS };
                    at = (at + thread) % SWAMPS;
                    ledgers[at][thread].step(engine, &swamp(at), thread);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(engine.stats().resident_bytes, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let _stop = Stop(&stop);
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            crash(&engine, &ledgers);
            note_flush(&engine, &ledgers);
        }
    });
    let stats = engine.stats();
    let steps: u64 = each(&ledgers).map(|(_, _, ledger)| ledger.acknowledged.load(Ordering::SeqCst)).sum();
    println!("{steps} steps, at most {most:?} bytes, {stats:?}");
    assert!(steps > 500 && stats.memory_evictions > 100, "{steps} steps, {stats:?}");
    let exact = |engine: &Engine| each(&ledgers).for_each(|(i, t, l)| l.check(engine, &swamp(i), t, l.lower(true)));
    exact(&engine);
    engine.close().unwrap();
    exact(&open(dir.path()));
    // Above the budget for a moment, by what the threads have in hand and what is on its way to a slow disk; not by
    // what forty swamps take, which is more than a million bytes.
    assert!(most.load(Ordering::Relaxed) < 10 * BUDGET, "{most:?} bytes with a budget of {BUDGET}");
}

#[test]
fn a_swamp_larger_than_the_budget_can_be_used_and_others_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let padding = format!("\"{}\"", "x".repeat(1_000));
    for i in 0..400 {
        put(&engine, "a/b/huge", &format!("k{i}"), &padding);
        if i % 20 == 0 {
            put(&engine, "a/b/small", "n", &i.to_string());
        }
    }
    let huge = engine.hydrate(&name("a/b/huge")).unwrap();
    assert_eq!(huge.count(), 400);
    put(&engine, "a/b/small", "n", "400");
    assert_eq!(huge.count(), 400);
    drop(huge);
    assert_eq!(get(&engine, "a/b/small", "n").as_deref(), Some("400"));
    assert_eq!(get(&engine, "a/b/huge", "k399").as_deref(), Some(padding.as_str()));
    assert_eq!(engine.stats().memory_refusals, 0, "nobody was refused");
}

#[test]
fn while_handles_keep_everything_in_memory_writes_and_swamps_are_refused_and_reads_and_deletes_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let padding = format!("\"{}\"", "x".repeat(32_000));
    let handles: Vec<_> = (0..3).map(|i| engine.hydrate(&name(&format!("a/b/s{i}"))).unwrap()).collect();
    for handle in &handles {
        let put = crate::common::put_if("k", &padding, hydra_core::Condition::Always);
        handle.write(Batch { sync: true, ..put }).wait().unwrap();
    }
    assert!(!engine.has_room());
    let begun = Instant::now();
    let refused = engine.put(&name("a/b/s0"), "l", json("1")).unwrap_err();
    assert_eq!((refused.code(), refused.code().status(), refused.applied()), (ErrorCode::Busy, 503, Applied::No));
    assert!(begun.elapsed() >= Duration::from_secs(2), "it waited first");
    assert_eq!(engine.hydrate(&name("a/b/other")).unwrap_err().code(), ErrorCode::Busy);
    assert_eq!(engine.stats().memory_refusals, 2);
    assert_eq!(get(&engine, "a/b/s1", "k").as_deref(), Some(padding.as_str()));
    let gone = engine.batch(
        &name("a/b/s2"),
        Batch::of(hydra_core::Op::Delete { key: "k".into(), condition: hydra_core::Condition::Always }),
    );
    assert!(matches!(gone.unwrap().results[0], Ok(OpResult::Deleted { existed: true })));
    // With the delete there is room again, and with the handles gone for everybody.
    put(&engine, "a/b/s0", "l", "1");
    drop(handles);
    eventually("the others leave", || engine.stats().resident_bytes <= BUDGET);
    put(&engine, "a/b/other", "k", "1");
    assert!(!chunks(dir.path()).is_empty());
    assert_eq!(get(&engine, "a/b/s1", "k").as_deref(), Some(padding.as_str()), "what was not on disk went there first");
}

#[test]
fn what_is_in_use_stays_when_others_come_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), "s1", Duration::ZERO);
    options.memory_budget = 2_000_000;
    let engine = Engine::open(options).unwrap();
    let padding = format!("\"{}\"", "x".repeat(20_000));
    for i in 0..150 {
        put(&engine, &format!("a/b/once{i}"), "k", &padding);
        for hot in 0..3 {
            put(&engine, &format!("a/b/hot{hot}"), "n", &i.to_string());
        }
    }
    eventually("some leave", || engine.stats().memory_evictions > 40);
    let before = engine.stats().hydrations;
    (0..3).for_each(|hot| assert_eq!(get(&engine, &format!("a/b/hot{hot}"), "n").as_deref(), Some("149")));
    assert_eq!(engine.stats().hydrations, before, "those in use were spared");
}
