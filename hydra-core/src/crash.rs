//! Tests that pull the plug: a disk in memory records what the engine does to it, and for every moment of that
//! record, and every way in which what was not synced may or may not have reached the disk, the real loader reads
//! what is left.
//!
//! Every swamp has to be as it was after one of its writes: no earlier one than the last that was acknowledged as
//! synced or covered by a flush, no later one than the last that had begun. That is the whole promise in one
//! sentence: nothing acknowledged is lost, what was buffered is lost from the end, no batch is torn, nothing deleted
//! comes back. After that the swamp is opened, written once more, and the plug is pulled again.
//!
//! `HYDRA_CRASH_IMAGES=2000000 cargo test -p hydra-core --lib crash -- --nocapture` looks at more of them.

pub(crate) mod disk;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::disk::{Effect, Event, Lie, Random, RecordingDisk, Store};
use crate::collect::collect;
use crate::disk::Disk;
use crate::engine::{CopyState, Engine, EngineOptions, Swamp};
use crate::folder::{FolderCount, folder_of};
use crate::hydrate::hydrate;
use crate::name::SwampName;
use crate::policy::Policy;
use crate::stamp::Timestamp;
use crate::state::State;
use crate::swamp::{Job, Resident};
use crate::value::Value;
use crate::write::{Batch, Condition, Expiry, Op, OpResult};

/// Synced at every write, twice; buffered until flushed; buffered for a moment. The first two share their directories.
const SWAMPS: [(&str, Duration); 4] = [
    ("a/b/first", Duration::ZERO),
    ("a/b/second", Duration::from_secs(3_600)),
    ("a/c/third", Duration::ZERO),
    ("d/e/fourth", Duration::from_millis(1)),
];
const STEPS: usize = 200;
/// How many ways of crashing are tried at one moment.
const AT_A_MOMENT: usize = 16;

type Content = BTreeMap<String, String>;

fn hash_of(content: &Content) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// What a swamp held, and from when on it may have.
#[derive(Debug)]
struct Moment {
    /// How much was done to the disk when the write began.
    begun: usize,
    hash: u64,
    content: Content,
}

/// The life of one swamp, as its only user knows it.
#[derive(Debug)]
struct History {
    moments: Vec<Moment>,
    /// When so much was done to the disk, the user had been told that everything up to this moment is safe.
    safe: Vec<(usize, usize)>,
}

impl History {
    fn new() -> History {
        let content = Content::new();
        let nothing = Moment { begun: 0, hash: hash_of(&content), content };
        History { moments: vec![nothing], safe: vec![(0, 0)] }
    }

    fn now(&self) -> &Content {
        &self.moments[self.moments.len() - 1].content
    }

    fn write(&mut self, begun: usize, content: Content) {
        self.moments.push(Moment { begun, hash: hash_of(&content), content });
    }

    fn told_safe(&mut self, at: usize) {
        self.safe.push((at, self.moments.len() - 1));
    }

    /// The moments that may be found when the plug is pulled after `events`.
    fn allowed(&self, events: usize) -> &[Moment] {
        let from = self.safe.iter().filter(|(at, _)| *at <= events).map(|(_, moment)| *moment).max().unwrap_or(0);
        let to = self.moments.iter().take_while(|moment| moment.begun <= events).count();
        &self.moments[from..to.max(from + 1)]
    }
}

fn names() -> Vec<SwampName> {
    SWAMPS.iter().map(|(name, _)| name.parse().expect("a name")).collect()
}

fn open(dir: &Path, disk: &RecordingDisk) -> Engine {
    let mut options = EngineOptions::new(dir);
    options.server_id = Some("s1".into());
    options.folders_total = FolderCount::new(2).ok();
    options.commit_threads = 2;
    options.default_policy = Policy { idle_evict: Duration::from_secs(86_400), ..Policy::default() };
    let engine = Engine::open_on(options.clone(), Arc::new(disk.clone())).expect("opened");
    if engine.policies().is_empty() {
        for (name, write_interval) in SWAMPS {
            let policy = Policy { write_interval, ..options.default_policy.clone() };
            engine.set_policy(name.parse().expect("a pattern"), policy).expect("stored");
        }
    }
    engine
}

/// Somebody who uses the engine and remembers what was told.
struct User<'a> {
    engine: Engine,
    disk: &'a RecordingDisk,
    dir: &'a Path,
    random: Random,
    names: Vec<SwampName>,
    histories: Vec<History>,
}

impl User<'_> {
    fn step(&mut self) {
        let at = self.random.below(SWAMPS.len());
        match self.random.below(100) {
            0..50 => self.write(at, 1),
            50..62 => self.write(at, 5),
            62..70 => self.burst(at),
            70..78 => self.flush(at),
            78..82 => self.evict(at),
            82..84 => self.compact(at),
            84..87 => drop(self.swamp(at).0.ask(Job::Seal).wait()),
            87..91 => self.empty(at),
            91..94 => self.destroy(at),
            94..97 => self.flush_all(),
            97 => self.restart(),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
        if self.random.below(3) == 0 {
            settle(&self.engine);
        }
    }

    fn swamp(&self, at: usize) -> Swamp {
        self.engine.hydrate(&self.names[at]).expect("readable")
    }

    /// Some operations and what they make of the content.
    fn ops(&mut self, content: &mut Content, count: usize) -> Vec<Op> {
        (0..count).map(|_| self.op(content)).collect()
    }

    fn op(&mut self, content: &mut Content) -> Op {
        let key = format!("k{}", self.random.below(5));
        match self.random.below(10) {
            0..6 => {
                let text = format!("\"{:x}{}\"", self.random.next(), "x".repeat(self.random.below(60)));
                let value = Value::json(&text).expect("JSON");
                content.insert(key.clone(), text);
                Op::Put { key, value, expiry: Expiry::Never, condition: Condition::Always }
            }
            6..8 => {
                content.remove(&key);
                Op::Delete { key, condition: Condition::Always }
            }
            _ => {
                let (key, by) = (format!("n{}", self.random.below(2)), self.random.below(100) as i64);
                let before: i64 = content.get(&key).map_or(0, |text| text.parse().expect("a number"));
                content.insert(key.clone(), (before + by).to_string());
                Op::Increment { key, by }
            }
        }
    }

    fn write(&mut self, at: usize, most: usize) {
        let begun = self.disk.length();
        let mut content = self.histories[at].now().clone();
        let count = 1 + self.random.below(most);
        let sync = self.random.below(8) == 0;
        let batch = Batch { ops: self.ops(&mut content, count), sync, ..Batch::default() };
        let ticket = self.swamp(at).write(batch);
        self.histories[at].write(begun, content);
        let committed = ticket.wait().expect("written");
        assert!(committed.results.iter().all(Result::is_ok), "{:?}", committed.results);
        if sync || SWAMPS[at].1.is_zero() {
            self.histories[at].told_safe(self.disk.length());
        }
    }

    /// Many writes at once, which share appends and syncs.
    fn burst(&mut self, at: usize) {
        let swamp = self.swamp(at);
        let mut tickets = Vec::new();
        for _ in 0..2 + self.random.below(8) {
            let begun = self.disk.length();
            let mut content = self.histories[at].now().clone();
            tickets.push(swamp.write(Batch { ops: self.ops(&mut content, 1), ..Batch::default() }));
            self.histories[at].write(begun, content);
        }
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().expect("written")));
        if SWAMPS[at].1.is_zero() {
            self.histories[at].told_safe(self.disk.length());
        }
    }

    fn flush(&mut self, at: usize) {
        self.swamp(at).flush().wait().expect("flushed");
        self.histories[at].told_safe(self.disk.length());
    }

    fn flush_all(&mut self) {
        self.engine.flush(None).expect("flushed");
        self.all_safe();
    }

    fn all_safe(&mut self) {
        let now = self.disk.length();
        self.histories.iter_mut().for_each(|history| history.told_safe(now));
    }

    fn evict(&mut self, at: usize) {
        let shared = self.engine.shared();
        if let Some(resident) = shared.residents.get(&self.names[at]) {
            shared.residents.evict(&resident, Resident::leave);
        }
    }

    /// Writes a snapshot, and removes at once what it stands for.
    fn compact(&mut self, at: usize) {
        self.swamp(at).compact().wait().expect("compacted");
        self.histories[at].told_safe(self.disk.length());
        if self.random.below(3) > 0 {
            collect(self.engine.shared(), &self.names[at], Duration::ZERO).expect("collected");
        }
    }

    /// Deletes what is there, key by key: the files go with the last one.
    fn empty(&mut self, at: usize) {
        let begun = self.disk.length();
        let keys: Vec<String> = self.histories[at].now().keys().cloned().collect();
        for key in keys {
            let mut content = self.histories[at].now().clone();
            content.remove(&key);
            self.histories[at].write(begun, content);
            let swamp = self.swamp(at);
            let op = Op::Delete { key, condition: Condition::Always };
            let committed = swamp.write(Batch::of(op)).wait().expect("deleted");
            assert!(matches!(committed.results[0], Ok(OpResult::Deleted { existed: true })));
        }
        if SWAMPS[at].1.is_zero() {
            self.histories[at].told_safe(self.disk.length());
        }
    }

    fn destroy(&mut self, at: usize) {
        let begun = self.disk.length();
        self.histories[at].write(begun, Content::new());
        self.swamp(at).destroy().wait().expect("destroyed");
        self.histories[at].told_safe(self.disk.length());
    }

    fn restart(&mut self) {
        self.engine.close().expect("closed");
        self.all_safe();
        self.engine = open(self.dir, self.disk);
    }
}

/// Waits until nobody leads any more: what is done in the background is done.
fn settle(engine: &Engine) {
    for resident in engine.shared().residents.all() {
        while resident.desk.lock().leading {
            std::thread::yield_now();
        }
    }
}

/// What was done to the disk, and what its user was told.
struct Record {
    trace: Vec<Event>,
    histories: Vec<History>,
}

fn record(dir: &Path, disk: &RecordingDisk, seed: u64) -> Record {
    let names = names();
    let histories = names.iter().map(|_| History::new()).collect();
    let mut user = User { engine: open(dir, disk), disk, dir, random: Random(seed), names, histories };
    (0..STEPS).for_each(|_| user.step());
    settle(&user.engine);
    user.engine.close().expect("closed");
    user.all_safe();
    Record { trace: disk.trace(), histories: user.histories }
}

/// Reads images of a disk, writes to them, and collects what should not be.
struct Examiner<'a> {
    engine: Engine,
    disk: RecordingDisk,
    names: Vec<SwampName>,
    record: &'a Record,
    random: Random,
    images: usize,
    /// What is lived on has a chunk that begins with bytes that are not its own.
    is_rotten: bool,
    violations: Vec<String>,
}

impl Examiner<'_> {
    /// Looks at the whole record, at about as many images as there is a budget for.
    fn examine(&mut self, budget: usize) {
        let mut store = Store::new();
        for events in 0..=self.record.trace.len() {
            if events > 0 {
                store.apply(&self.record.trace[events - 1]);
            }
            if self.images < budget && self.violations.is_empty() {
                self.examine_moment(&store, events);
            }
        }
    }

    fn examine_moment(&mut self, store: &Store, events: usize) {
        for decided in self.decisions(&store.effects(), AT_A_MOMENT) {
            let image = store.image(&decided, self.random.next());
            let found = self.judge(&image, events, &decided);
            if self.random.below(4) == 0 && self.violations.is_empty() {
                self.is_rotten = decided.iter().any(|(effect, choice)| effect.looks_like_rot(*choice));
                self.live_again(&image, &found, &format!("power went after {events} events"));
                self.is_rotten = false;
            }
        }
        // The process is killed: what it did is all there, and still not durable.
        if self.random.below(3) == 0 && self.violations.is_empty() {
            let found = self.read_all(store, &[]);
            self.live_again(store, &found, &format!("killed after {events} events"));
        }
    }

    /// All ways in which the effects may have happened, or as many as `most` at random.
    fn decisions(&mut self, effects: &[Effect], most: usize) -> Vec<Vec<(Effect, usize)>> {
        let ways = effects.iter().fold(1_usize, |ways, effect| ways.saturating_mul(effect.choices()));
        let decide = |mut way: usize| {
            let one = |effect: &Effect| {
                let choice = way % effect.choices();
                way /= effect.choices();
                (effect.clone(), choice)
            };
            effects.iter().map(one).collect()
        };
        if ways <= most {
            return (0..ways).map(decide).collect();
        }
        (0..most).map(|_| effects.iter().map(|e| (e.clone(), self.random.below(e.choices()))).collect()).collect()
    }

    /// What each swamp holds on the image; a swamp that is not as it should be is noted.
    fn judge(&mut self, image: &Store, events: usize, decided: &[(Effect, usize)]) -> Vec<u64> {
        let found = self.read_all(image, decided);
        for (at, hash) in found.iter().enumerate() {
            let allowed = self.record.histories[at].allowed(events);
            if !allowed.iter().any(|moment| moment.hash == *hash) {
                let content = self.read(at).0;
                let what = format!(
                    "{} after {events} events {:?} with {decided:?}: found {content:?}, not one of {:?}",
                    self.names[at],
                    self.record.trace.get(events.saturating_sub(1)),
                    allowed.iter().map(|moment| &moment.content).collect::<Vec<_>>()
                );
                self.violations.push(what);
            }
        }
        found
    }

    fn read_all(&mut self, image: &Store, decided: &[(Effect, usize)]) -> Vec<u64> {
        self.images += 1;
        self.disk.load(image.clone());
        let mut found = Vec::new();
        for at in 0..self.names.len() {
            let (content, state) = self.read(at);
            let rotten = self.is_rotten || decided.iter().any(|(effect, choice)| effect.looks_like_rot(*choice));
            if state.copy != CopyState::Complete && !(rotten && state.copy == CopyState::Degraded) {
                let what = format!("{} is {:?} with {decided:?}: {:?}", self.names[at], state.copy, state.findings);
                self.violations.push(what);
            }
            found.push(hash_of(&content));
        }
        found
    }

    fn read(&self, at: usize) -> (Content, State) {
        let (name, shared) = (&self.names[at], self.engine.shared());
        let hydrated = hydrate(shared, name, folder_of(name, shared.root.folders)).expect("readable");
        (content_of(&hydrated.state), hydrated.state)
    }

    /// Opens a swamp on a disk that a crash left, writes once more, and pulls the plug again.
    fn live_again(&mut self, start: &Store, found: &[u64], how: &str) {
        let at = self.random.below(self.names.len());
        let name = self.names[at].clone();
        self.disk.load(start.clone());
        // What opening the data directory does first.
        let root = &self.engine.shared().root.path;
        self.disk.file_system(root).and_then(|all| all.sync()).expect("synced");
        self.engine.shared().residents.clear();
        let text = format!("\"{:x}\"", self.random.next());
        let put = Op::Put {
            key: "again".into(),
            value: Value::json(&text).expect("JSON"),
            expiry: Expiry::Never,
            condition: Condition::Always,
        };
        let before = self.engine.hydrate(&name).expect("readable");
        let mut content = content_of(&before.0.state.read());
        assert_eq!(hash_of(&content), found[at], "opening reads what the loader reads");
        before.write(Batch { sync: true, ..Batch::of(put) }).wait().expect("written");
        drop(before);
        let acknowledged = self.disk.length();
        settle(&self.engine);
        content.insert("again".into(), text);
        let after = hash_of(&content);
        let trace = self.disk.trace();
        self.crash_again(start.clone(), &trace, acknowledged, (at, found, after), how);
    }

    fn crash_again(
        &mut self,
        mut store: Store,
        trace: &[Event],
        acknowledged: usize,
        (at, found, after): (usize, &[u64], u64),
        how: &str,
    ) {
        for (events, event) in trace.iter().enumerate() {
            store.apply(event);
            let is_acknowledged = events + 1 >= acknowledged;
            let most = if is_acknowledged { 3 } else { 1 };
            for decided in self.decisions(&store.effects(), most) {
                let image = store.image(&decided, self.random.next());
                let again = self.read_all(&image, &decided);
                let fine = again[at] == after || (!is_acknowledged && again[at] == found[at]);
                if !fine {
                    let content = self.read(at).0;
                    let what = format!(
                        "{} {how}, then after {} of {trace:?} (acknowledged at {acknowledged}) with {decided:?}: {content:?}",
                        self.names[at],
                        events + 1
                    );
                    self.violations.push(what);
                    return;
                }
            }
        }
    }
}

fn content_of(state: &State) -> Content {
    let value = |key: &String| {
        let treasure = state.treasure(key, Timestamp::now())?;
        Some((key.clone(), String::from_utf8_lossy(treasure.value.as_bytes()).into_owned()))
    };
    state.live_keys().iter().filter_map(value).collect()
}

/// One script, recorded and examined: how many images were looked at, and what should not be.
fn run(seed: u64, lie: Lie, budget: usize) -> (usize, Vec<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RecordingDisk::new(dir.path(), lie);
    let record = record(dir.path(), &disk, seed);
    let lie = if lie == Lie::StartSync { lie } else { Lie::None };
    let disk = RecordingDisk::new(dir.path(), lie);
    let engine = open(dir.path(), &disk);
    let random = Random(seed ^ 0xc0ffee);
    let mut examiner = Examiner {
        engine,
        disk,
        names: names(),
        record: &record,
        random,
        images: 0,
        is_rotten: false,
        violations: Vec::new(),
    };
    examiner.examine(budget);
    (examiner.images, examiner.violations)
}

fn wanted_images() -> usize {
    let wanted = std::env::var("HYDRA_CRASH_IMAGES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(100_000)
}

#[test]
fn whatever_a_loss_of_power_leaves_is_a_state_that_was_promised() {
    let wanted = wanted_images();
    let began = std::time::Instant::now();
    let scripts = std::sync::atomic::AtomicU64::new(0);
    let images = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while images.load(std::sync::atomic::Ordering::Relaxed) < wanted {
                    let seed = scripts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let (looked, violations) = run(seed, Lie::None, wanted);
                    assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
                    images.fetch_add(looked, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} images of {} scripts in {:.1?}", images.into_inner(), scripts.into_inner(), began.elapsed());
}

#[test]
fn a_disk_that_only_pretends_is_found_out() {
    for lie in [Lie::FileSyncs, Lie::DirSyncs, Lie::ParentSyncs, Lie::SnapshotEntries, Lie::StartSync] {
        let found = (0..20).any(|seed| !run(seed, lie, 20_000).1.is_empty());
        assert!(found, "{lie:?} was not noticed");
    }
}
