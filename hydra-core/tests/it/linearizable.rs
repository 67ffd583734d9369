//! Many threads on few keys: each key behaves as if one thread at a time used it, while swamps come into memory and
//! leave it, are compacted and collected all the time.
//!
//! What each thread asked, when, and what it was told is recorded; then an order is searched for each key that
//! explains every answer and in which nothing comes before what had ended when it began. `HYDRA_LINEAR_SECONDS=600`
//! goes on for longer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydra_core::{Batch, Condition, Engine, ErrorCode, Expiry, Op, OpResult, Policy, SwampName, Version};

use crate::common::{json, name, options};

/// What stands under a key: nothing, or a number that is written once only.
type Register = Option<i64>;

/// What was asked for and what was told.
#[derive(Debug, Clone, PartialEq)]
enum Call {
    Get(Register),
    Put(i64),
    /// A put where nothing stands; whether it was done.
    Create(i64, bool),
    /// A put in place of what was read before; whether it was done.
    Replace(i64, i64, bool),
    /// Whether there was something.
    Delete(bool),
    /// The sum.
    Add(i64, i64),
}

impl Call {
    /// What stands there afterwards, if the answer fits what stands there before.
    fn apply(&self, before: Register) -> Option<Register> {
        match *self {
            Call::Get(seen) => (seen == before).then_some(before),
            Call::Put(value) => Some(Some(value)),
            Call::Create(value, done) => (done == before.is_none()).then_some(if done { Some(value) } else { before }),
            Call::Replace(from, to, done) => {
                (done == (before == Some(from))).then_some(if done { Some(to) } else { before })
            }
            Call::Delete(existed) => (existed == before.is_some()).then_some(None),
            Call::Add(by, sum) => (before.unwrap_or(0) + by == sum).then_some(Some(sum)),
        }
    }
}

/// A call and the time from before it was made until after it was answered.
#[derive(Debug, Clone)]
struct Event {
    call: Call,
    from: u64,
    to: u64,
}

/// Whether some order explains the history of one key.
fn is_linearizable(history: &[Event]) -> bool {
    stuck_at(history).is_none()
}

/// The first event that no order explains, with those around it.
fn stuck_at(history: &[Event]) -> Option<Vec<Event>> {
    let mut history = history.to_vec();
    history.sort_by_key(|event| event.from);
    let mut furthest = 0;
    let mut seen = HashSet::new();
    // What is done, as the first event that is not and the ones behind it that are.
    let mut pending: Vec<(usize, Vec<usize>, Register)> = vec![(0, Vec::new(), None)];
    while let Some((first, done, register)) = pending.pop() {
        furthest = furthest.max(first);
        if first == history.len() {
            return None;
        }
        let left = || (first..history.len()).filter(|at| !done.contains(at));
        // Nobody who began after another had ended comes before that one.
        let ends = left().take_while(|&at| history[at].from <= history[first].to).map(|at| history[at].to).min();
        for at in left().take_while(|&at| Some(history[at].from) <= ends) {
            let Some(after) = history[at].call.apply(register) else { continue };
            let mut done = done.clone();
            done.push(at);
            done.sort_unstable();
            let mut first = first;
            while done.first() == Some(&first) {
                done.remove(0);
                first += 1;
            }
            if seen.insert((first, done.clone(), after)) {
                pending.push((first, done, after));
            }
        }
    }
    Some(history[furthest.saturating_sub(8)..history.len().min(furthest + 8)].to_vec())
}

fn event(call: Call, from: u64, to: u64) -> Event {
    Event { call, from, to }
}

#[test]
fn a_stale_read_a_lost_update_and_a_doubled_increment_are_noticed() {
    let stale = [event(Call::Put(1), 0, 1), event(Call::Put(2), 2, 3), event(Call::Get(Some(1)), 4, 5)];
    assert!(!is_linearizable(&stale));
    let overlapping = [event(Call::Put(1), 0, 1), event(Call::Put(2), 2, 5), event(Call::Get(Some(1)), 4, 6)];
    assert!(is_linearizable(&overlapping), "the put may take effect after the read");
    let back = [event(Call::Put(2), 0, 9), event(Call::Get(Some(2)), 1, 2), event(Call::Get(None), 3, 4)];
    assert!(!is_linearizable(&back), "what was seen once stays");
    let both =
        [event(Call::Put(1), 0, 1), event(Call::Replace(1, 2, true), 2, 5), event(Call::Replace(1, 3, true), 3, 6)];
    assert!(!is_linearizable(&both));
    let twice = [event(Call::Add(1, 1), 0, 3), event(Call::Add(1, 1), 1, 4)];
    assert!(!is_linearizable(&twice));
    assert!(is_linearizable(&[event(Call::Add(1, 2), 0, 3), event(Call::Add(1, 1), 1, 4)]));
    assert!(!is_linearizable(&[event(Call::Put(1), 0, 1), event(Call::Delete(false), 2, 3)]));
}

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
