//! Many threads on few keys: each key behaves as if one thread at a time used it, while swamps come into memory and
//! leave it, are compacted and collected all the time.
//!
//! What each thread asked, when, and what it was told is recorded; then an order is searched for each key that
//! explains every answer and in which nothing comes before what had ended when it began. `HYDRA_LINEAR_SECONDS=600`
//! goes on for longer.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydra_core::{Batch, Condition, Engine, ErrorCode, Expiry, Op, OpResult, Policy, SwampName, Version};

use crate::common::{json, name, options};
use crate::history::{Call, Event, Register, stuck_at};

/// The engine, the clock, and what was seen of each key.
struct Field {
    engine: Engine,
    began: Instant,
    next: AtomicU64,
    histories: Mutex<BTreeMap<(usize, bool), Vec<Event>>>,
    over: AtomicBool,
}

const SWAMPS: usize = 24;

fn swamp(at: usize) -> SwampName {
    name(&format!("users/profiles/u{at}"))
}

/// A register or a counter of a swamp.
fn key(is_counter: bool) -> &'static str {
    if is_counter { "n" } else { "k" }
}

impl Field {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn read(&self, at: usize, is_counter: bool) -> (Register, Option<Version>) {
        let treasure = self.engine.get(&swamp(at), key(is_counter)).unwrap();
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse().unwrap();
        (treasure.as_ref().map(|t| number(t.value.as_bytes())), treasure.map(|t| t.version))
    }

    fn write(&self, at: usize, op: Op) -> Option<OpResult> {
        let results = self.engine.batch(&swamp(at), Batch::of(op)).unwrap().results;
        match results.into_iter().next().unwrap() {
            Ok(result) => Some(result),
            Err(error) => {
                let refused = [ErrorCode::VersionMismatch, ErrorCode::AlreadyExists, ErrorCode::NotFound];
                assert!(refused.contains(&error.code()), "{error}");
                None
            }
        }
    }

    fn put(&self, at: usize, value: i64, condition: Condition) -> bool {
        let op = Op::Put { key: "k".into(), value: json(&value.to_string()), expiry: Expiry::Never, condition };
        self.write(at, op).is_some()
    }

    fn call(&self, at: usize, is_counter: bool, choice: u64, known: &mut Option<(i64, Version)>) -> Call {
        let value = self.next.fetch_add(1, Ordering::Relaxed) as i64;
        match (choice % 10, is_counter, known.take()) {
            (0, _, _) => {
                let op = Op::Delete { key: key(is_counter).into(), condition: Condition::Always };
                Call::Delete(matches!(self.write(at, op), Some(OpResult::Deleted { existed: true })))
            }
            (1..4, true, _) => Call::Add(value, self.engine.increment(&swamp(at), "n", value).unwrap()),
            (1..3, false, _) => {
                self.put(at, value, Condition::Always);
                Call::Put(value)
            }
            (3, false, _) => Call::Create(value, self.put(at, value, Condition::Absent)),
            (4..8, false, Some((from, version))) => {
                Call::Replace(from, value, self.put(at, value, Condition::Version(vec![version])))
            }
            _ => {
                let (register, version) = self.read(at, is_counter);
                *known = register.zip(version);
                Call::Get(register)
            }
        }
    }

    fn use_it(&self, thread: u64) {
        let mut random = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut known: BTreeMap<usize, Option<(i64, Version)>> = BTreeMap::new();
        while !self.over.load(Ordering::Relaxed) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Threads meet: for some milliseconds all use the same few swamps.
            let at = ((self.now() >> 24) as usize * 3 + (random >> 40) as usize % 3) % SWAMPS;
            let is_counter = random & (1 << 30) != 0;
            let known = if is_counter { &mut None } else { known.entry(at).or_default() };
            let from = self.now();
            let call = self.call(at, is_counter, random >> 48, known);
            let event = Event { call, from, to: self.now() };
            self.histories.lock().unwrap().entry((at, is_counter)).or_default().push(event);
        }
    }

    fn keep_house(&self) {
        while !self.over.load(Ordering::Relaxed) {
            for folder in self.engine.folder_count().all().iter() {
                self.engine.compact(folder).unwrap();
                self.engine.collect(folder).unwrap();
            }
        }
    }
}

fn run(write_interval: Duration, seconds: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), "s1", write_interval);
    options.folders_total = Some(hydra_core::FolderCount::new(2).unwrap());
    options.gc_delay = Duration::ZERO;
    // A swamp leaves memory as soon as nobody holds it and it is clean.
    options.default_policy = Policy { idle_evict: Duration::ZERO, ..options.default_policy };
    let engine = Engine::open(options).unwrap();
    let (began, next, over) = (Instant::now(), AtomicU64::new(1), AtomicBool::new(false));
    let field = Field { engine, began, next, histories: Mutex::default(), over };
    std::thread::scope(|scope| {
        (1..=6).for_each(|thread| {
            drop(scope.spawn({
                let field = &field;
                move || field.use_it(thread)
            }))
        });
        scope.spawn(|| field.keep_house());
        std::thread::sleep(seconds);
        field.over.store(true, Ordering::Relaxed);
    });
    let stats = field.engine.stats();
    assert!(stats.evictions > 5, "{} evictions", stats.evictions);
    let histories = field.histories.into_inner().unwrap();
    let calls: usize = histories.values().map(Vec::len).sum();
    println!(
        "{calls} calls on {} keys, {} evictions, {} compactions",
        histories.len(),
        stats.evictions,
        stats.compactions
    );
    for (key, history) in &histories {
        let stuck = stuck_at(history);
        assert!(stuck.is_none(), "{key:?}: no order explains {stuck:#?}");
    }
}

fn seconds() -> Duration {
    let wanted = std::env::var("HYDRA_LINEAR_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(wanted.unwrap_or(2))
}

#[test]
fn each_key_behaves_as_if_used_by_one_thread_at_a_time_when_synced() {
    run(Duration::ZERO, seconds());
}

#[test]
fn each_key_behaves_as_if_used_by_one_thread_at_a_time_when_buffered() {
    run(Duration::from_millis(5), seconds());
}
