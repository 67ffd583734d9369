//! The proof of the merge: random, hostile histories of several servers that share one swamp.
//!
//! Every server of the model keeps a directory of real chunk bytes. It writes them with the same
//! frames, records and footers as the engine, compacts through the same [`compact::encode`], removes
//! what the same [`collect::superseded`] says, and reads everything back through the same scan and
//! merge. Between writes come crashes that tear the unsynced tail, copies of some files or of
//! parts of files in any direction, deletes that travel, clocks that jump, failed syncs, restored
//! backups, compactions that die half-way, and collection of superseded files. At the end all
//! servers exchange all files, and then:
//!
//! * all of them show the same values, versions and counters, in whatever order files are merged;
//! * compaction changes nothing;
//! * every write that was acknowledged as synced is visible, or a later stamp has replaced it;
//! * nothing is visible that an acknowledged write had seen and replaced;
//! * every acknowledged increment on the winning base counts, and those of one request count once;
//! * every acknowledged write that lost against one that had not seen it is listed as a conflict, and none that
//!   was replaced by one that had.
//!
//! A check that never fails proves nothing, so each rule is also switched off ([`Mutant`]), and
//! then the model has to find a violation.
//!
//! `HYDRA_MODEL_HISTORIES=1000000 cargo test --release -p hydra-core merge_model` runs it for longer;
//! `HYDRA_MODEL_SEED=146714` begins with that history.

mod following;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::collect::{self, FileContent, FileFacts, superseded};
use crate::compact::{self, Capture, EntryRules, Retention};
use crate::conflict::Lost;
use crate::counter::Sum;
use crate::engine::CopyState;
use crate::format::footer::Footer;
use crate::format::frame::{self, Frame, FrameKey};
use crate::format::header::{Header, example, node_of};
use crate::format::record::{Record, StampCode, Write};
use crate::format::scan::{Scan, scan};
use crate::layout::{ChunkKind, ChunkName};
use crate::merge::{Chunk, Merged, merge};
use crate::policy::Compression;
use crate::requests::KeyMemory;
use crate::slot::Slot;
use crate::stamp::{Stamp, Timestamp};
use crate::state::State as EngineState;
use crate::vector::VersionVector;

use following::{Followed, Follower};

// ------------------------------------------------------------------------------------ the setting

const KEYS: [&str; 3] = ["a", "b", "c"];
/// Request n adds 4^n, so that a sum tells how often each request was counted.
const MAX_REQUESTS: usize = 30;
/// What the collector waits for; see [`World::facts`].
const DELAY: Duration = Duration::from_secs(3_600);

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// A record that a snapshot saw and dropped is taken from another file again.
    NoVectorDrop,
    /// Whoever finds a file covered by a snapshot removes it.
    AnyoneCollects,
    /// After a restart the last log is appended to under its old incarnation.
    ReopenedLog,
    /// Stamps are the wall clock, whatever was read.
    WallClock,
    /// Copying replaces longer files by shorter ones.
    OverwritingSync,
    /// Incarnations are counted instead of drawn at random.
    CountedIncarnations,
    /// A snapshot counts without its footer.
    SnapshotWithoutFooter,
    /// A copy of another server's log is taken for all of it as soon as what is here is covered.
    PrefixIsClosed,
    /// A log does not name the last record of the log before it.
    UnlinkedLogs,
    /// Nothing is adopted before a write on an incomplete copy.
    NoAdoption,
    /// A log goes on although it says more of others than is known.
    OutdatedLog,
    /// With its last treasure the directory of the swamp goes, on one of several copies.
    NaiveRemoval,
    /// Increments of one request are twins whatever their base.
    TwinsAcrossBases,
    /// A snapshot that leaves tombstones out does not advance its writer's own vector entry.
    UnmarkedPurge,
    /// An increment names a tombstone that another server may have purged.
    PurgedBase,
    /// A vector loses the entry of a process although a file of it is here, or a record.
    RetiredTooEarly,
    /// What retired an entry goes together with what still has it, in any order.
    RetirementForgotten,
    /// Who reads on in a log takes its writer for one who had seen everything.
    GrowthUnseen,
    /// What a log grew by is taken in although something had been lost unseen on its keys.
    GrowthOnContended,
    /// What a log grew by is taken in although files are missing.
    GrowthOnGaps,
}

/// Which tombstones compaction leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purge {
    Never,
    /// Those that every server has read, once nothing written before that is under way any more:
    /// what waiting seven days stands for.
    Old,
    /// As on a folder that is not copied; but here there are copies.
    All,
}

/// What a history may contain.
#[derive(Debug, Clone, Copy)]
struct Rules {
    nodes: usize,
    steps: usize,
    /// Backups are put back while the other servers go on.
    restores: bool,
    /// Files removed here are removed there.
    deletes_travel: bool,
    purge: Purge,
    /// Entries of vectors are retired however young they are.
    retires: bool,
    /// Directories are followed: what logs grew by is read, and compared with reading everything.
    follows: bool,
    increments: bool,
    keys: usize,
    /// Events that are more frequent than usual, to come sooner upon what a mutant breaks.
    focus: &'static [Event],
    mutant: Option<Mutant>,
}

const TWO_NODES: Rules = Rules {
    nodes: 2,
    steps: 60,
    restores: false,
    deletes_travel: true,
    purge: Purge::Never,
    retires: false,
    follows: false,
    increments: true,
    keys: KEYS.len(),
    focus: &[],
    mutant: None,
};
const THREE_NODES: Rules = Rules { nodes: 3, steps: 50, ..TWO_NODES };
const RESTORING: Rules = Rules { restores: true, deletes_travel: false, ..TWO_NODES };
const PURGING_OLD: Rules = Rules { purge: Purge::Old, ..TWO_NODES };
const PURGING_ALL: Rules = Rules { purge: Purge::All, increments: false, ..TWO_NODES };
/// Only where one server has the only copy, entries of vectors are retired.
const RETIRING: Rules = Rules { nodes: 1, steps: 80, purge: Purge::Old, retires: true, ..RESTORING };

/// Long histories that copy much and compact little.
const FOLLOWING: Rules = Rules {
    steps: 100,
    follows: true,
    focus: &[Event::Copy, Event::Exchange, Event::Refresh, Event::Put, Event::Increment],
    ..TWO_NODES
};

impl Rules {
    fn broken_by(mutant: Mutant) -> Rules {
        use Event::{
            Collect, Compact, Copy, Crash, Delete, Evict, Exchange, Increment, PropagateDeletes, Put, Restore,
        };
        let rules = match mutant {
            Mutant::NoVectorDrop => Rules { focus: &[Exchange, Compact, Collect], ..PURGING_ALL },
            Mutant::AnyoneCollects => Rules { focus: &[Compact, Collect, Copy, PropagateDeletes], ..TWO_NODES },
            Mutant::ReopenedLog => Rules { focus: &[Crash, Copy], ..TWO_NODES },
            Mutant::CountedIncarnations => Rules { focus: &[Restore], ..RESTORING },
            Mutant::PrefixIsClosed => Rules { focus: &[Compact, Copy, Collect, PropagateDeletes], ..TWO_NODES },
            Mutant::PurgedBase => Rules { focus: &[Exchange, Delete, Increment, Compact], keys: 1, ..PURGING_OLD },
            Mutant::UnlinkedLogs => Rules { focus: &[Evict, Put, Copy, Compact], ..TWO_NODES },
            Mutant::GrowthUnseen | Mutant::GrowthOnContended => FOLLOWING,
            Mutant::RetiredTooEarly | Mutant::RetirementForgotten => {
                Rules { focus: &[Crash, Delete, Compact, Collect], ..RETIRING }
            }
            _ => TWO_NODES,
        };
        Rules { mutant: Some(mutant), ..rules }
    }

    fn without(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

// ----------------------------------------------------------------------------- what servers write

/// One operation of a request.
#[derive(Debug, Clone)]
enum Op {
    Put(String),
    Delete,
    Add(i64),
}

/// What a record does to its key.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Put(String),
    Delete,
    Add { base: Stamp, delta: i64 },
}

/// A write with its stamp, as it stands in a log.
#[derive(Debug, Clone)]
struct Written {
    key: usize,
    stamp: Stamp,
    change: Change,
}

impl Written {
    fn of(stamp: Stamp, write: &Write<'_>) -> Written {
        let change = match *write {
            Write::Put { value, .. } => Change::Put(String::from_utf8_lossy(value).into_owned()),
            Write::Del { .. } => Change::Delete,
            Write::Add { base, delta, .. } => Change::Add { base, delta },
        };
        Written { key: key_index(write.key()), stamp, change }
    }

    fn write(&self) -> Write<'_> {
        let key = KEYS[self.key];
        match &self.change {
            Change::Put(value) => {
                Write::Put { key, value: value.as_bytes(), expires: None, age: None, content_type: None }
            }
            Change::Delete => Write::Del { key },
            Change::Add { base, delta } => Write::Add { key, pointer: "", base: *base, delta: *delta },
        }
    }
}

fn key_index(key: &str) -> usize {
    KEYS.iter().position(|known| *known == key).expect("a key of the model")
}

/// A write that a client asked for, and how it went.
#[derive(Debug, Clone)]
struct Issued {
    written: Written,
    request: Option<usize>,
    /// What its server had read when it wrote.
    past: Rc<VersionVector>,
    /// The winner it took the place of.
    replaced: Stamp,
    /// Acknowledged as synced, on a disk that still exists.
    durable: bool,
}

impl Issued {
    fn has_seen(&self, stamp: Stamp) -> bool {
        self.past.saw(stamp) || self.replaced == stamp
    }

    fn is_increment(&self) -> bool {
        matches!(self.written.change, Change::Add { .. })
    }
}

/// An increment that a client asked for, on one server or, with an idempotency key, on several.
#[derive(Debug, Clone, Copy)]
struct Request {
    key: usize,
    delta: i64,
    /// How often the request adds `delta`, in one frame.
    times: usize,
    keyed: bool,
    /// A key that the same frame deletes where it is live, so that frames of twins differ in length.
    also_deletes: Option<usize>,
}

// --------------------------------------------------------------------------------------- a server

type Disk = BTreeMap<ChunkName, Rc<Vec<u8>>>;

#[derive(Default)]
struct Node {
    disk: Disk,
    process: Option<Process>,
    skew: i64,
    mine: BTreeSet<u64>,
    starts: u64,
    last_hlc: u64,
    removed: BTreeSet<ChunkName>,
    backup: Option<(Disk, u64)>,
}

struct Process {
    incarnation: u64,
    base_hlc: u64,
    next_seq: u32,
    log: Option<OpenLog>,
    /// Logs given up after a failed sync, with the length that is certainly on disk.
    poisoned: Vec<(ChunkName, usize)>,
    adopted: BTreeSet<Stamp>,
    view: Option<View>,
}

struct OpenLog {
    name: ChunkName,
    /// How much of the file is certainly on disk, and what it says its writer had read.
    synced: usize,
    synced_vector: VersionVector,
    announced: VersionVector,
    unsynced: Vec<Frame>,
    unacknowledged: Vec<usize>,
}

/// What a resident swamp shows.
#[derive(Default)]
struct View {
    winners: BTreeMap<usize, (Stamp, bool)>,
    counted: BTreeSet<usize>,
    requests: BTreeSet<u128>,
    vector: VersionVector,
    written: VersionVector,
    max_hlc: u64,
    /// Frames of files that refer to data which is not here.
    loose: Vec<LooseFrame>,
}

#[derive(Clone)]
struct LooseFrame {
    key: Option<u128>,
    writes: Vec<Written>,
}

impl View {
    fn of(merged: &Merged<'_>, chunks: &[Chunk<'_>]) -> View {
        let mut view = View {
            requests: merged.requests.iter().map(|(key, _)| key).collect(),
            vector: merged.vector.clone(),
            written: merged.written.clone(),
            max_hlc: merged.max_hlc,
            loose: loose_frames(merged, chunks),
            ..View::default()
        };
        for winner in merged.winners.iter() {
            view.winners.insert(key_index(winner.key()), (winner.stamp(), !winner.is_tombstone()));
        }
        for (key, counter) in &merged.counters {
            let key = key_index(key);
            if counter.names(view.winner(key)) {
                view.counted.insert(key);
            }
        }
        view
    }

    fn winner(&self, key: usize) -> Stamp {
        self.winners.get(&key).map_or(Stamp::ZERO, |winner| winner.0)
    }

    fn tombstone(&self, key: usize) -> Option<Stamp> {
        self.winners.get(&key).filter(|winner| !winner.1 && !self.counted.contains(&key)).map(|winner| winner.0)
    }

    fn is_live(&self, key: usize) -> bool {
        self.counted.contains(&key) || self.winners.get(&key).is_some_and(|winner| winner.1)
    }

    fn is_empty(&self) -> bool {
        (0..KEYS.len()).all(|key| !self.is_live(key))
    }

    fn take(&mut self, written: &Written) {
        self.max_hlc = self.max_hlc.max(written.stamp.hlc);
        self.vector.learn(written.stamp);
        self.written.learn(written.stamp);
        if matches!(written.change, Change::Add { .. }) {
            self.counted.insert(written.key);
        } else {
            self.counted.remove(&written.key);
            self.winners.insert(written.key, (written.stamp, matches!(written.change, Change::Put(_))));
        }
    }
}

/// What has to be adopted before a write: whole frames of logs, and the winners of broken snapshots.
fn loose_frames(merged: &Merged<'_>, chunks: &[Chunk<'_>]) -> Vec<LooseFrame> {
    let mut frames = Vec::new();
    for &(log, first) in &merged.unattached {
        for index in first..chunks[log].frame_count() {
            let (key, records, _) = chunks[log].frame(index);
            let writes = records.iter().filter_map(written_in).collect();
            frames.push(LooseFrame { key: key.map(|key| key.key), writes });
        }
    }
    if !merged.unusable.is_empty() {
        let loose = merged.winners.iter().filter(|winner| !merged.vector.saw(winner.stamp()));
        let writes = loose.map(|winner| Written::of(winner.stamp(), &winner.write())).collect();
        frames.push(LooseFrame { key: None, writes });
    }
    frames.retain(|frame| !frame.writes.is_empty());
    frames
}

fn written_in(record: &Record<'_>) -> Option<Written> {
    match record {
        Record::Write { stamp, write } | Record::Adopted { stamp, write } => Some(Written::of(*stamp, write)),
        _ => None,
    }
}

// ------------------------------------------------------------------------------ reading, for real

/// Scans and merges files the way the engine does.
fn with_merged<'f, T>(
    files: impl Iterator<Item = (&'f ChunkName, &'f [u8])>,
    rules: &Rules,
    read: impl FnOnce(&Merged<'_>, &[Chunk<'_>]) -> T,
) -> T {
    with_chunks(files, rules, |chunks| read(&merge(chunks), chunks))
}

fn with_chunks<'f, T>(
    files: impl Iterator<Item = (&'f ChunkName, &'f [u8])>,
    rules: &Rules,
    read: impl FnOnce(&[Chunk<'_>]) -> T,
) -> T {
    let scanned: Vec<(&ChunkName, &[u8], Scan)> =
        files.filter_map(|(name, file)| Some((name, file, mutated(scan(name, file).ok()?, rules)))).collect();
    let chunks: Vec<Chunk<'_>> =
        scanned.iter().map(|(name, file, scan)| Chunk::new(name, scan, file).expect("decompresses")).collect();
    read(&chunks)
}

fn files(disk: &Disk) -> impl Iterator<Item = (&ChunkName, &[u8])> {
    disk.iter().map(|(name, file)| (name, file.as_slice()))
}

/// Rules that live in the merge are switched off by what it is given.
fn mutated(mut scan: Scan, rules: &Rules) -> Scan {
    if scan.header.kind == ChunkKind::Snap {
        if rules.without(Mutant::NoVectorDrop) {
            scan.header.vector = scan.header.vector.iter().map(|(incarnation, _)| (incarnation, 0)).collect();
        }
        if let Some(footer) = scan.footer.as_mut().filter(|_| rules.without(Mutant::NoVectorDrop)) {
            footer.vector = scan.header.vector.clone();
        }
        if rules.without(Mutant::SnapshotWithoutFooter) && scan.footer.is_none() {
            let vector = scan.header.vector.clone();
            scan.footer = Some(Footer { records: 0, last_hlc: 0, crc: 0, vector });
            scan.damage = None;
        }
    }
    scan
}

fn is_complete(merged: &Merged<'_>, rules: &Rules) -> bool {
    merged.is_complete() || rules.without(Mutant::NoVectorDrop)
}

fn is_damaged(chunks: &[Chunk<'_>]) -> bool {
    chunks.iter().any(|chunk| chunk.scan.damage.is_some())
}

// -------------------------------------------------------------------------------------- the world

struct World {
    rules: Rules,
    dice: Dice,
    time: u64,
    nodes: Vec<Node>,
    issued: Vec<Issued>,
    requests: Vec<Request>,
    values: u64,
    /// Writes that were copied into the logs of others, on some server that had no more of their own files.
    adopted: BTreeSet<Stamp>,
    /// Who reads on in each directory, and how that went.
    followers: Vec<Option<Follower>>,
    followed: Followed,
    /// What happened, when somebody wants to read it.
    story: Option<Vec<String>>,
}

/// What can happen, with how likely it is in comparison.
const EVENTS: [(Event, usize); 18] = [
    (Event::Put, 5),
    (Event::Delete, 4),
    (Event::Increment, 4),
    (Event::KeyedIncrement, 3),
    (Event::Retry, 3),
    (Event::Flush, 1),
    (Event::FailSync, 1),
    (Event::Crash, 1),
    (Event::Evict, 1),
    (Event::Refresh, 2),
    (Event::Compact, 2),
    (Event::Collect, 2),
    (Event::Copy, 4),
    (Event::Exchange, 1),
    (Event::PropagateDeletes, 1),
    (Event::BackUp, 1),
    (Event::Restore, 1),
    (Event::SkewClock, 1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Put,
    Delete,
    Increment,
    KeyedIncrement,
    Retry,
    Flush,
    FailSync,
    Crash,
    Evict,
    Refresh,
    Compact,
    Collect,
    Copy,
    Exchange,
    PropagateDeletes,
    BackUp,
    Restore,
    SkewClock,
}

impl World {
    fn new(seed: u64, rules: Rules) -> World {
        let nodes = (0..rules.nodes).map(|_| Node::default()).collect();
        let mut dice = Dice(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        dice.next();
        World {
            rules,
            dice,
            time: 0,
            nodes,
            issued: vec![],
            requests: vec![],
            values: 0,
            adopted: BTreeSet::new(),
            followers: (0..rules.nodes).map(|_| None).collect(),
            followed: Followed::default(),
            story: None,
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(what());
        }
    }

    /// Every history has its own mix of events: some never compact, some hardly ever copy.
    fn weights(&mut self) -> Vec<(Event, usize)> {
        let factors = [0, 1, 1, 2, 3];
        let copies = usize::from(self.rules.nodes > 1);
        EVENTS
            .iter()
            .map(|&(event, weight)| {
                let usual = factors[self.dice.below(factors.len())];
                let factor = if self.rules.focus.contains(&event) { 4 + usual } else { usual };
                (event, if self.allows(event) { weight * factor } else { 0 })
            })
            .chain([(Event::Put, 2), (Event::Copy, copies)])
            .collect()
    }

    fn allows(&self, event: Event) -> bool {
        match event {
            Event::Increment | Event::KeyedIncrement | Event::Retry => self.rules.increments,
            Event::Copy | Event::Exchange => self.rules.nodes > 1,
            Event::PropagateDeletes => self.rules.deletes_travel && self.rules.nodes > 1,
            Event::BackUp | Event::Restore => self.rules.restores,
            _ => true,
        }
    }

    fn live_through(&mut self) {
        let weights = self.weights();
        let total: usize = weights.iter().map(|(_, weight)| weight).sum();
        for node in 0..self.rules.nodes {
            self.skew_clock(node);
        }
        for _ in 0..self.rules.steps {
            let mut at = self.dice.below(total);
            let chosen = weights.iter().find(|(_, weight)| {
                let hit = at < *weight;
                at = at.wrapping_sub(*weight);
                hit
            });
            let node = self.dice.below(self.rules.nodes);
            self.happen(chosen.expect("below the total").0, node);
            if self.rules.follows {
                self.follow();
            }
        }
    }

    fn happen(&mut self, event: Event, node: usize) {
        self.time += 1;
        self.note(|| format!("{event:?} on {node}"));
        match event {
            Event::Put => self.put(node),
            Event::Delete => self.delete(node),
            Event::Increment => self.increment(node, false),
            Event::KeyedIncrement => self.increment(node, true),
            Event::Retry => self.retry(node),
            Event::Flush => self.flush(node),
            Event::FailSync => self.fail_sync(node),
            Event::Crash => self.crash(node),
            Event::Evict => self.evict(node),
            Event::Refresh => self.refresh(node),
            Event::Compact => self.compact(node),
            Event::Collect => self.collect(node),
            Event::Copy => self.copy_some(node),
            Event::Exchange => self.exchange(node),
            Event::PropagateDeletes => self.propagate_deletes(node),
            Event::BackUp => self.back_up(node),
            Event::Restore => self.restore(node),
            Event::SkewClock => self.skew_clock(node),
        }
    }

    fn other_than(&mut self, node: usize) -> usize {
        (node + 1 + self.dice.below(self.rules.nodes - 1)) % self.rules.nodes
    }

    fn skew_clock(&mut self, node: usize) {
        self.nodes[node].skew = self.dice.below(400) as i64 - 200;
    }

    fn clock(&self, node: usize) -> u64 {
        (10_000 + 10 * self.time).saturating_add_signed(self.nodes[node].skew) << 16
    }

    fn read<T>(&self, node: usize, read: impl FnOnce(&Merged<'_>, &[Chunk<'_>]) -> T) -> T {
        with_merged(files(&self.nodes[node].disk), &self.rules, read)
    }
}

// ----------------------------------------------------------------------------------------- clients

impl World {
    fn put(&mut self, node: usize) {
        let key = self.dice.below(self.rules.keys);
        self.values += 1;
        let value = self.values.to_string();
        let synced = self.is_synced();
        self.commit(node, None, &[(key, Op::Put(value))], synced);
    }

    fn delete(&mut self, node: usize) {
        let key = self.dice.below(self.rules.keys);
        let synced = self.is_synced();
        self.commit(node, None, &[(key, Op::Delete)], synced);
        let emptied = self.process(node).view.as_ref().is_some_and(View::is_empty);
        if emptied {
            self.remove_swamp(node);
        }
    }

    fn is_synced(&mut self) -> bool {
        !self.dice.one_in(3)
    }

    fn increment(&mut self, node: usize, keyed: bool) {
        if self.requests.len() == MAX_REQUESTS {
            return;
        }
        let key = self.dice.below(self.rules.keys);
        let also_deletes = (keyed && self.dice.one_in(3)).then_some((key + 1) % self.rules.keys);
        let times = 1 + self.dice.below(2);
        let delta = 1 << (2 * self.requests.len());
        self.requests.push(Request { key, delta, times, keyed, also_deletes });
        self.carry_out(node, self.requests.len() - 1);
    }

    /// A client that got no answer asks another server, with the same idempotency key.
    fn retry(&mut self, node: usize) {
        let keyed: Vec<usize> = (0..self.requests.len()).filter(|&at| self.requests[at].keyed).collect();
        if let Some(&request) = keyed.get(self.dice.below(keyed.len().max(1))) {
            self.carry_out(node, request);
        }
    }

    fn carry_out(&mut self, node: usize, at: usize) {
        let request = self.requests[at];
        let tombstone = self.resident(node).tombstone(request.key);
        let is_old = tombstone.is_some_and(|stamp| self.is_old(stamp)) && !self.rules.without(Mutant::PurgedBase);
        let view = self.resident(node);
        if request.keyed && view.requests.contains(&(at as u128)) {
            return;
        }
        let mut ops = Vec::new();
        if let Some(other) = request.also_deletes.filter(|&key| view.is_live(key)) {
            ops.push((other, Op::Delete));
        }
        if is_old {
            // Somebody may have purged that tombstone, so it can be no base.
            ops.push((request.key, Op::Put("0".to_owned())));
        }
        ops.extend((0..request.times).map(|_| (request.key, Op::Add(request.delta))));
        let synced = self.is_synced();
        self.commit(node, Some(at), &ops, synced);
    }

    /// Writes one frame, and syncs it if the client waits for that.
    fn commit(&mut self, node: usize, request: Option<usize>, ops: &[(usize, Op)], synced: bool) {
        self.resident(node);
        self.adopt(node);
        self.ensure_log(node);
        let mut written = Vec::new();
        for (key, op) in ops {
            written.push(self.carry_out_op(node, request, *key, op));
        }
        let keyed = request.filter(|&at| self.requests[at].keyed).map(|at| at as u128);
        if let (Some(key), Some(view)) = (keyed, &mut self.process(node).view) {
            view.requests.insert(key);
        }
        self.note(|| format!("  {written:?} synced={synced}"));
        self.append(node, keyed, &written, &[]);
        if synced {
            self.flush(node);
        }
    }

    fn carry_out_op(&mut self, node: usize, request: Option<usize>, key: usize, op: &Op) -> Written {
        let stamp = self.next_stamp(node);
        let at = self.issued.len();
        let process = self.process(node);
        let view = process.view.as_mut().expect("resident");
        let replaced = view.winner(key);
        let past = Rc::new(view.vector.clone());
        let change = match op {
            Op::Put(value) => Change::Put(value.clone()),
            Op::Delete => Change::Delete,
            Op::Add(delta) => Change::Add { base: replaced, delta: *delta },
        };
        let written = Written { key, stamp, change };
        view.take(&written);
        process.log.as_mut().expect("open").unacknowledged.push(at);
        let request = request.filter(|_| matches!(op, Op::Add(_)));
        self.issued.push(Issued { written: written.clone(), request, past, replaced, durable: false });
        written
    }

    fn next_stamp(&mut self, node: usize) -> Stamp {
        let clock = self.clock(node);
        let wall_clock = self.rules.without(Mutant::WallClock);
        let last = self.nodes[node].last_hlc;
        let process = self.process(node);
        let read = process.view.as_ref().filter(|_| !wall_clock).map_or(0, |view| view.max_hlc);
        let stamp = Stamp { hlc: clock.max(last + 1).max(read + 1), incarnation: process.incarnation };
        self.nodes[node].last_hlc = stamp.hlc;
        stamp
    }
}

// ------------------------------------------------------------------------------------ the process

impl World {
    /// The process of a node, started if there is none.
    fn process(&mut self, node: usize) -> &mut Process {
        if self.nodes[node].process.is_none() {
            let process = self.start(node);
            self.nodes[node].mine.insert(process.incarnation);
            self.nodes[node].process = Some(process);
        }
        self.nodes[node].process.as_mut().expect("just started")
    }

    fn start(&mut self, node: usize) -> Process {
        self.nodes[node].starts += 1;
        let incarnation = if self.rules.without(Mutant::CountedIncarnations) {
            1_000 * (node as u64 + 1) + self.nodes[node].starts
        } else {
            self.dice.next()
        };
        let process = Process {
            incarnation,
            base_hlc: self.clock(node).max(self.nodes[node].last_hlc),
            next_seq: 1,
            log: None,
            poisoned: Vec::new(),
            adopted: BTreeSet::new(),
            view: None,
        };
        let reopened = self.rules.without(Mutant::ReopenedLog).then(|| self.reopen(node)).flatten();
        reopened.unwrap_or(process)
    }

    /// What must never be done: go on in the file of a process that is dead.
    fn reopen(&self, node: usize) -> Option<Process> {
        let Node { disk, mine, .. } = &self.nodes[node];
        let own = || disk.iter().filter(|(name, _)| mine.contains(&name.incarnation));
        let open = |file: &[u8], name: &ChunkName| scan(name, file).ok().filter(|scan| scan.footer.is_none());
        let logs = own().filter(|(name, _)| name.kind == ChunkKind::Log);
        let (name, file, header) = logs.rev().find_map(|(n, f)| Some((n, f, open(f, n)?.header)))?;
        let seqs = own().filter(|(other, _)| other.incarnation == name.incarnation).map(|(other, _)| other.seq);
        let log = OpenLog {
            name: name.clone(),
            synced: file.len(),
            synced_vector: header.vector.clone(),
            announced: header.vector,
            unsynced: Vec::new(),
            unacknowledged: Vec::new(),
        };
        Some(Process {
            incarnation: name.incarnation,
            base_hlc: header.base_hlc,
            next_seq: seqs.max()? + 1,
            log: Some(log),
            poisoned: Vec::new(),
            adopted: BTreeSet::new(),
            view: None,
        })
    }

    /// What the process of a node shows, read from its files if it is not in memory.
    fn resident(&mut self, node: usize) -> &View {
        if self.process(node).view.is_none() {
            let view = self.read(node, View::of);
            self.process(node).view = Some(view);
        }
        self.process(node).view.as_ref().expect("just read")
    }

    /// Before a write on an incomplete copy: its own file has to hold what the write builds on.
    fn adopt(&mut self, node: usize) {
        let process = self.process(node);
        let mut loose = process.view.as_mut().map(|view| std::mem::take(&mut view.loose)).unwrap_or_default();
        loose.retain(|frame| !frame.writes.iter().all(|written| process.adopted.contains(&written.stamp)));
        if loose.is_empty() || self.rules.without(Mutant::NoAdoption) {
            return;
        }
        self.ensure_log(node);
        for frame in loose {
            self.note(|| format!("  adopts {:?}", frame.writes));
            self.append(node, frame.key, &[], &frame.writes);
            let stamps = frame.writes.iter().map(|written| written.stamp);
            self.adopted.extend(stamps.clone());
            self.process(node).adopted.extend(stamps);
        }
    }

    fn ensure_log(&mut self, node: usize) {
        let known = self.resident(node).vector.clone();
        let process = self.process(node);
        let mut unknown = process.log.as_ref().map(|log| log.announced.beyond(&known)).unwrap_or_default();
        unknown.forget(process.incarnation);
        if !unknown.is_empty() && !self.rules.without(Mutant::OutdatedLog) {
            self.seal(node);
        }
        if self.process(node).log.is_none() {
            let incarnation = self.process(node).incarnation;
            let unlinked = self.rules.without(Mutant::UnlinkedLogs);
            let view = self.resident(node);
            let mut vector = view.vector.clone();
            match view.written.get(incarnation) {
                0 => {}
                _ if unlinked => vector.forget(incarnation),
                hlc => vector.learn(Stamp { hlc, incarnation }),
            }
            self.open_log(node, vector);
        }
    }

    fn open_log(&mut self, node: usize, vector: VersionVector) {
        let (name, header) = self.next_chunk(node, ChunkKind::Log, vector.clone());
        let mut file = Vec::new();
        header.encode(&mut file);
        self.nodes[node].disk.insert(name.clone(), Rc::new(file));
        self.process(node).log = Some(OpenLog {
            name,
            synced: 0,
            synced_vector: vector.clone(),
            announced: vector,
            unsynced: Vec::new(),
            unacknowledged: Vec::new(),
        });
    }

    fn next_chunk(&mut self, node: usize, kind: ChunkKind, vector: VersionVector) -> (ChunkName, Header) {
        let server = format!("n{node}");
        let process = self.process(node);
        let (incarnation, seq, base_hlc) = (process.incarnation, process.next_seq, process.base_hlc);
        process.next_seq += 1;
        let header = Header { incarnation, node: node_of(&server), seq, base_hlc, vector, ..example(kind) };
        (ChunkName { incarnation, seq, kind, server }, header)
    }

    /// Appends a frame, with a SYNC record before its writes if more was read since the last one.
    fn append(&mut self, node: usize, key: Option<u128>, own: &[Written], adopted: &[Written]) {
        let sync_apart = self.dice.one_in(2);
        let Node { disk, process, .. } = &mut self.nodes[node];
        let process = process.as_mut().expect("running");
        let (log, view) = (process.log.as_mut().expect("open"), process.view.as_ref().expect("resident"));
        let mut news = view.vector.beyond(&log.announced);
        news.forget(process.incarnation);
        // Copies are followed by a write of its own, which says what is new.
        if adopted.is_empty() {
            log.announced.join(&view.vector);
        }
        let sync = (!news.is_empty() && adopted.is_empty()).then_some(Record::Sync(news));
        let writes = own.iter().map(|w| Record::Write { stamp: w.stamp, write: w.write() });
        let copies = adopted.iter().map(|w| Record::Adopted { stamp: w.stamp, write: w.write() });
        let code = StampCode::Log { incarnation: process.incarnation };
        let key = key.map(|key| FrameKey { key, fingerprint: 1, outcome: b"done" });
        let mut frames = Vec::new();
        let mut records: Vec<Record<'_>> = sync.into_iter().collect();
        if sync_apart && !records.is_empty() {
            frames.push(Frame::new(None, records.drain(..), code, process.base_hlc));
        }
        frames.push(Frame::new(key, records.into_iter().chain(writes).chain(copies), code, process.base_hlc));
        for frame in frames {
            log.place(disk, frame);
        }
    }

    fn flush(&mut self, node: usize) {
        let Node { disk, process, .. } = &mut self.nodes[node];
        let Some(log) = process.as_mut().and_then(|process| process.log.as_mut()) else { return };
        log.synced = disk.get(&log.name).map_or(0, |file| file.len());
        log.synced_vector = log.announced.clone();
        log.unsynced.clear();
        for at in log.unacknowledged.drain(..) {
            self.issued[at].durable = true;
        }
    }

    /// A sync fails: the chunk is given up, what it owed is written again to the next, with the same stamps.
    fn fail_sync(&mut self, node: usize) {
        let owes = |log: &mut OpenLog| !log.unsynced.is_empty();
        let Some(mut old) = self.nodes[node].process.as_mut().and_then(|process| process.log.take_if(owes)) else {
            return;
        };
        self.lose_tail(node, &old.name, old.synced);
        self.process(node).poisoned.push((old.name, old.synced));
        self.open_log(node, old.synced_vector);
        let Node { disk, process, .. } = &mut self.nodes[node];
        let log = process.as_mut().and_then(|process| process.log.as_mut()).expect("just opened");
        log.announced = old.announced;
        log.unacknowledged.append(&mut old.unacknowledged);
        for frame in old.unsynced {
            log.place(disk, frame);
        }
        self.flush(node);
    }

    fn seal(&mut self, node: usize) {
        self.flush(node);
        let Node { disk, process, last_hlc, .. } = &mut self.nodes[node];
        let Some(log) = process.as_mut().and_then(|process| process.log.take()) else { return };
        let Some(file) = disk.get_mut(&log.name) else { return };
        let footer = Footer { records: 0, last_hlc: *last_hlc, crc: crc32c::crc32c(file), vector: log.announced };
        footer.place(frame::salt(log.name.incarnation, log.name.seq), 0, Rc::make_mut(file));
    }

    fn evict(&mut self, node: usize) {
        self.flush(node);
        if self.dice.one_in(2) {
            self.seal(node);
        }
        if let Some(process) = &mut self.nodes[node].process {
            process.view = None;
        }
    }

    /// Looks at the directory again; the log stays open, and the next write begins with a SYNC record.
    fn refresh(&mut self, node: usize) {
        if self.nodes[node].process.as_ref().is_some_and(|process| process.view.is_some()) {
            let view = self.read(node, View::of);
            self.process(node).view = Some(view);
        }
    }

    /// The machine dies: of what was not synced any part may be on disk.
    fn crash(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.take() else { return };
        let open = process.log.map(|log| (log.name, log.synced));
        for (name, synced) in process.poisoned.into_iter().chain(open) {
            self.lose_tail(node, &name, synced);
        }
    }

    fn lose_tail(&mut self, node: usize, name: &ChunkName, synced: usize) {
        if let Some(file) = self.nodes[node].disk.get_mut(name) {
            lose_tail(Rc::make_mut(file), synced, &mut self.dice);
        }
    }
}

impl OpenLog {
    fn place(&mut self, disk: &mut Disk, frame: Frame) {
        // A file that was removed under its writer still takes bytes, but nobody finds them.
        if let Some(file) = disk.get_mut(&self.name) {
            let after_sync = self.unsynced.is_empty() && self.synced > 0;
            frame.place(frame::salt(self.name.incarnation, self.name.seq), 0, after_sync, Rc::make_mut(file));
        }
        self.unsynced.push(frame);
    }
}

/// Cuts at any byte, or leaves zeros where blocks were not written.
fn lose_tail(file: &mut Vec<u8>, synced: usize, dice: &mut Dice) {
    let synced = synced.min(file.len());
    let from = synced + dice.below(file.len() - synced + 1);
    let to = from + dice.below(file.len() - from + 1);
    match dice.below(8) {
        0 => file[from..to].fill(0),
        1 => {
            file.truncate(to);
            file[from..].fill(0);
        }
        2 => {}
        _ => file.truncate(from),
    }
}

// --------------------------------------------------------------------- compaction and collection

impl World {
    fn compact(&mut self, node: usize) {
        let dies = self.dice.one_in(6);
        self.write_snapshot(node, dies);
    }

    /// Writes a snapshot if nothing is missing or damaged; with `dies` the process ends in the middle of it.
    fn write_snapshot(&mut self, node: usize, dies: bool) {
        self.process(node).view = None;
        self.seal(node);
        if !self.is_whole(node) {
            return;
        }
        self.resident(node);
        // What a snapshot left out on purpose only the snapshot can tell, so later logs have to ask for it.
        let state = self.engine_state(node);
        let left_out = self.left_out(node, &state);
        let retired = self.retired(node, &state);
        let needs_mark = !left_out.is_empty() || !retired.is_empty();
        let is_marked = needs_mark && !self.rules.without(Mutant::UnmarkedPurge);
        let mark = is_marked.then(|| self.next_stamp(node));
        let (name, header) = self.next_chunk(node, ChunkKind::Snap, VersionVector::default());
        let mut file = encode_snapshot(header, &state, &left_out, mark, &retired);
        if dies {
            file.truncate(self.dice.below(file.len()));
        }
        self.nodes[node].disk.insert(name, Rc::new(file));
        self.process(node).view = None;
        if dies {
            self.crash(node);
        }
    }

    /// Whether the engine would compact and collect here.
    fn is_whole(&self, node: usize) -> bool {
        self.read(node, |merged, chunks| is_complete(merged, &self.rules) && !is_damaged(chunks))
    }

    /// The state that the engine would have in memory.
    fn engine_state(&self, node: usize) -> EngineState {
        with_chunks(files(&self.nodes[node].disk), &self.rules, |chunks| {
            EngineState::of_merged(merge(chunks), CopyState::Complete, Vec::new())
        })
    }

    /// The tombstones that a snapshot of this state leaves out: those that the engine's own rule finds
    /// long over, with the waiting of seven days replaced by what it stands for.
    fn left_out(&self, node: usize, state: &EngineState) -> Vec<Slot> {
        if self.rules.purge == Purge::Never {
            return Vec::new();
        }
        let now = Timestamp::MAX;
        let over = Retention { now, tombstones: Duration::ZERO, expired: Duration::ZERO }.left_out(state);
        // Within seven days every file was copied, so that what came loose is known here if anywhere.
        let is_loose = |node: usize, slot: &Slot| self.read(node, |merged, _| merged.loose.contains(slot.key()));
        let is_copied = |slot: &Slot| is_loose(node, slot) || !(0..self.rules.nodes).any(|other| is_loose(other, slot));
        let is_over = |slot: &Slot| {
            self.rules.purge == Purge::All
                || self.is_old(slot.stamp()) && self.knows_everything(&state.vector) && is_copied(slot)
        };
        over.into_iter().filter(is_over).collect()
    }

    /// The entries that the engine's own rule retires of a vector, all of which are old enough.
    fn retired(&self, node: usize, state: &EngineState) -> VersionVector {
        if !self.rules.retires {
            return VersionVector::default();
        }
        let Node { disk, process, mine, .. } = &self.nodes[node];
        let mut needed = state.incarnations();
        needed.extend(with_chunks(files(disk), &self.rules, |chunks| compact::named_by_files(disk.keys(), chunks)));
        let early = self.rules.without(Mutant::RetiredTooEarly);
        let rules = EntryRules {
            is_mine: &|incarnation| mine.contains(&incarnation),
            running: process.as_ref().map_or(0, |process| process.incarnation),
            is_needed: &|incarnation| !early && needed.contains(&incarnation),
        };
        compact::retired(&state.vector, &rules, Timestamp::MAX)
    }

    fn known_to(&self, node: usize) -> VersionVector {
        self.read(node, |merged, _| merged.vector.clone())
    }

    /// Whether every server has read it and shows nothing older.
    fn is_old(&self, tombstone: Stamp) -> bool {
        let mut views = self.nodes.iter().filter_map(|node| node.process.as_ref()?.view.as_ref());
        self.rules.purge == Purge::Old
            && views.all(|view| view.vector.saw(tombstone))
            && (0..self.rules.nodes).all(|node| self.known_to(node).saw(tombstone))
    }

    fn knows_everything(&self, vector: &VersionVector) -> bool {
        (0..self.rules.nodes).all(|node| self.known_to(node).is_within(vector))
    }

    /// On a folder with copies the last treasure leaves a snapshot of tombstones behind.
    fn remove_swamp(&mut self, node: usize) {
        if !self.rules.without(Mutant::NaiveRemoval) {
            return self.write_snapshot(node, false);
        }
        self.flush(node);
        let process = self.process(node);
        (process.view, process.log) = (None, None);
        let gone = std::mem::take(&mut self.nodes[node].disk);
        self.nodes[node].removed.extend(gone.into_keys());
    }

    fn collect(&mut self, node: usize) {
        if !self.is_whole(node) {
            return;
        }
        let mut facts = self.facts(node);
        let Node { process, mine, .. } = &self.nodes[node];
        let anyone = self.rules.without(Mutant::AnyoneCollects);
        let is_mine = |incarnation: u64| anyone || mine.contains(&incarnation);
        let running = process.as_ref().map_or(0, |process| process.incarnation);
        let rules = collect::Rules { is_mine: &is_mine, running, is_copied: self.rules.nodes > 1, delay: DELAY };
        let open = process.as_ref().and_then(|process| process.log.as_ref()).map(|log| log.name.clone());
        let mut going = take_superseded(&mut facts, &rules);
        if self.rules.without(Mutant::RetirementForgotten) {
            going.extend(take_superseded(&mut facts, &rules));
        }
        let going: Vec<ChunkName> = going.into_iter().filter(|name| Some(name) != open.as_ref()).collect();
        for name in self.interrupted(going) {
            self.note(|| format!("  removes {}", name.file_name()));
            self.nodes[node].disk.remove(&name);
            self.nodes[node].removed.insert(name);
        }
    }

    /// Where the order matters in which files go, a collection may stop half-way, and what it had done is lost in part.
    fn interrupted(&mut self, mut going: Vec<ChunkName>) -> Vec<ChunkName> {
        if self.rules.retires && self.dice.one_in(3) {
            going.retain(|_| self.dice.one_in(2));
        }
        going
    }

    /// What the collector is told of the files of a node. A snapshot is old when all copies have been through a
    /// round since: every other node has it, or one that stands for it.
    fn facts(&self, node: usize) -> Vec<FileFacts> {
        let everywhere: Vec<Vec<FileFacts>> = self.nodes.iter().map(|node| facts_of(&node.disk, &self.rules)).collect();
        let has = |files: &Vec<FileFacts>, snap: &FileFacts| {
            files.iter().any(|other| other.name == snap.name && is_whole(other) || other.covers(snap))
        };
        let mut facts = facts_of(&self.nodes[node].disk, &self.rules);
        for file in &mut facts {
            let is_old = self.rules.without(Mutant::AnyoneCollects) || everywhere.iter().all(|files| has(files, file));
            file.age = if is_old { DELAY } else { Duration::ZERO };
            file.is_sealed |= self.rules.without(Mutant::PrefixIsClosed);
        }
        facts
    }
}

/// The names of the files that can go, which are taken out.
fn take_superseded(facts: &mut Vec<FileFacts>, rules: &collect::Rules<'_>) -> Vec<ChunkName> {
    let going: Vec<ChunkName> = superseded(facts, rules).into_iter().map(|at| facts[at].name.clone()).collect();
    facts.retain(|file| !going.contains(&file.name));
    going
}

fn is_whole(file: &FileFacts) -> bool {
    matches!(file.content, FileContent::Snapshot { .. })
}

fn encode_snapshot(
    header: Header,
    state: &EngineState,
    left_out: &[Slot],
    mark: Option<Stamp>,
    retired: &VersionVector,
) -> Vec<u8> {
    Capture::of(state, left_out, Timestamp::default()).encode(header, mark, retired, Compression::None)
}

fn facts_of(disk: &Disk, rules: &Rules) -> Vec<FileFacts> {
    let rules = &Rules { mutant: rules.mutant.filter(|mutant| *mutant != Mutant::NoVectorDrop), ..*rules };
    let facts = |chunk: &Chunk<'_>| FileFacts {
        name: chunk.name.clone(),
        content: FileContent::of(chunk),
        is_sealed: chunk.scan.footer.is_some(),
        age: Duration::ZERO,
    };
    with_chunks(files(disk), rules, |chunks| chunks.iter().map(facts).collect())
}

// ---------------------------------------------------------------------------- copies and backups

impl World {
    /// Copies some files to another node, some of them only in part.
    fn copy_some(&mut self, from: usize) {
        let to = self.other_than(from);
        self.note(|| format!("  to {to}"));
        for (name, file) in self.nodes[from].disk.clone() {
            if self.dice.one_in(3) {
                continue;
            }
            let mut file = file;
            if self.dice.one_in(4) {
                file = Rc::new(file[..self.dice.below(file.len() + 1)].to_vec());
            }
            self.arrive(to, name, file);
        }
    }

    /// A copy replaces a file only if it is longer, as `rsync --append-verify` does.
    fn arrive(&mut self, to: usize, name: ChunkName, file: Rc<Vec<u8>>) {
        let overwrite = self.rules.without(Mutant::OverwritingSync);
        let is_better = |old: &Rc<Vec<u8>>| file.len() > old.len() || is_repair(&name, &file, old) || overwrite;
        if self.nodes[to].disk.get(&name).is_none_or(is_better) {
            self.nodes[to].disk.insert(name, file);
        }
    }

    /// A copy tool has come to its end in both directions.
    fn exchange(&mut self, node: usize) {
        let other = self.other_than(node);
        self.note(|| format!("  with {other}"));
        self.copy_all(node, other);
        self.copy_all(other, node);
    }

    fn copy_all(&mut self, from: usize, to: usize) {
        for (name, file) in self.nodes[from].disk.clone() {
            self.arrive(to, name, file);
        }
    }

    fn copy_everything(&mut self) {
        for from in 0..self.rules.nodes {
            (0..self.rules.nodes).filter(|&to| to != from).for_each(|to| self.copy_all(from, to));
        }
    }

    /// What was collected on one node is removed from another by the tool that keeps them alike.
    fn propagate_deletes(&mut self, from: usize) {
        let to = self.other_than(from);
        self.note(|| format!("  to {to}"));
        for name in self.nodes[from].removed.clone() {
            if self.dice.one_in(2) && !self.nodes[from].disk.contains_key(&name) {
                self.nodes[to].disk.remove(&name);
            }
        }
    }

    fn back_up(&mut self, node: usize) {
        self.flush(node);
        self.nodes[node].backup = Some((self.nodes[node].disk.clone(), self.nodes[node].starts));
    }

    /// The backup is put back as if nothing had happened since; what only this disk held is gone.
    fn restore(&mut self, node: usize) {
        let Some((disk, starts)) = self.nodes[node].backup.clone() else { return };
        self.nodes[node] =
            Node { disk, starts, process: None, removed: BTreeSet::new(), ..std::mem::take(&mut self.nodes[node]) };
        let known: Vec<VersionVector> = (0..self.rules.nodes).map(|node| self.known_to(node)).collect();
        for issued in &mut self.issued {
            issued.durable &= known.iter().any(|vector| vector.saw(issued.written.stamp));
        }
    }
}

/// Of two files of one length and name the one with more whole frames is the undamaged one.
fn is_repair(name: &ChunkName, file: &Rc<Vec<u8>>, old: &Rc<Vec<u8>>) -> bool {
    let frames = |file: &[u8]| scan(name, file).map_or(0, |scan| 1 + scan.frames.len());
    file.len() == old.len() && !Rc::ptr_eq(file, old) && file != old && frames(file) > frames(old)
}

// ----------------------------------------------------------------------------------- the judgement

/// What clients see of a merged swamp, and what servers remember.
#[derive(Debug, PartialEq)]
struct State {
    live: BTreeMap<&'static str, Treasure>,
    tombstones: BTreeMap<&'static str, Stamp>,
    requests: BTreeMap<u128, KeyMemory>,
    conflicts: Vec<Lost>,
    vector: VersionVector,
    is_complete: bool,
    is_damaged: bool,
}

#[derive(Debug, PartialEq)]
struct Treasure {
    stamp: Stamp,
    value: Option<String>,
    added: i128,
    digest: u128,
}

impl State {
    /// What is remembered of requests, but for increments of some keys.
    fn requests_but(&self, is_left_out: &impl Fn(&str) -> bool) -> Vec<(u128, KeyMemory)> {
        let without = |memory: &KeyMemory| {
            let adds = memory.adds().iter().filter(|add| !is_left_out(&add.key)).cloned().collect();
            KeyMemory::new(memory.fingerprint, memory.stamp, memory.outcome(), adds)
        };
        self.requests.iter().map(|(&key, memory)| (key, without(memory))).collect()
    }

    fn of(merged: &Merged<'_>, chunks: &[Chunk<'_>], rules: &Rules) -> State {
        let mut state = State {
            live: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            requests: merged.requests.iter().map(|(key, memory)| (key, memory.clone())).collect(),
            conflicts: merged.conflicts.clone(),
            vector: merged.vector.clone(),
            is_complete: is_complete(merged, rules),
            is_damaged: is_damaged(chunks),
        };
        for key in KEYS {
            state.look_up(key, merged, chunks, rules);
        }
        state
    }

    fn look_up(&mut self, key: &'static str, merged: &Merged<'_>, chunks: &[Chunk<'_>], rules: &Rules) {
        let winner = merged.winners.get(key);
        let stamp = winner.map_or(Stamp::ZERO, Slot::stamp);
        let value = winner.and_then(|winner| match winner.write() {
            Write::Put { value, .. } => Some(String::from_utf8_lossy(value).into_owned()),
            _ => None,
        });
        let counter = merged.counters.get(key).filter(|counter| counter.names(stamp));
        if value.is_none() && counter.is_none() {
            self.tombstones.extend(winner.map(|winner| (key, winner.stamp())));
            return;
        }
        let mut added = counter.map_or(0, |counter| counter.total(stamp));
        if rules.without(Mutant::TwinsAcrossBases) {
            added -= subtracted_across_bases(key, stamp, chunks);
        }
        let digest = counter.map_or(0, |counter| counter.digest(stamp));
        self.live.insert(key, Treasure { stamp, value, added, digest });
    }
}

/// What the naive rule subtracts on top: increments whose twins with smaller stamps are on other bases.
fn subtracted_across_bases(key: &str, base: Stamp, chunks: &[Chunk<'_>]) -> i128 {
    let mut by_request: BTreeMap<u128, BTreeMap<Stamp, (Stamp, i64)>> = BTreeMap::new();
    for (chunk, index) in chunks.iter().flat_map(|chunk| (0..chunk.frame_count()).map(move |index| (chunk, index))) {
        let (request, records, _) = chunk.frame(index);
        let adds = records.iter().filter_map(written_in).filter(|written| KEYS[written.key] == key);
        for (request, add) in request.into_iter().flat_map(|request| adds.clone().map(move |add| (request.key, add))) {
            if let Change::Add { base, delta } = add.change {
                by_request.entry(request).or_default().insert(add.stamp, (base, delta));
            }
        }
    }
    let wrongly = |adds: BTreeMap<Stamp, (Stamp, i64)>| {
        let first = adds.values().next().map(|add| add.0);
        let on_base = adds.into_values().filter(|add| add.0 == base).map(|add| i128::from(add.1));
        if first == Some(base) { 0 } else { on_base.max().unwrap_or(0) }
    };
    by_request.into_values().map(wrongly).sum()
}

/// How a history ended.
#[derive(Debug, PartialEq)]
enum End {
    Fine,
    /// Files are missing for good, and the state says so.
    Alarmed,
    Violation(String),
}

macro_rules! violated {
    ($($text:tt)*) => { return Err(format!($($text)*)) };
}

impl World {
    fn judge(&mut self) -> End {
        if let Some(wrong) = self.followed.wrong.take() {
            return End::Violation(wrong);
        }
        for node in 0..self.rules.nodes {
            self.evict(node);
        }
        self.copy_everything();
        self.copy_everything();
        let states: Vec<State> = (0..self.rules.nodes).map(|node| self.state(node)).collect();
        if states.iter().any(|state| !state.is_complete || state.is_damaged) {
            return End::Alarmed;
        }
        match self.check(&states) {
            Ok(()) => End::Fine,
            Err(violation) => End::Violation(violation),
        }
    }

    fn state(&self, node: usize) -> State {
        self.read(node, |merged, chunks| State::of(merged, chunks, &self.rules))
    }

    fn check(&mut self, states: &[State]) -> Result<(), String> {
        if let Some(other) = states.iter().find(|state| **state != states[0]) {
            violated!("servers with the same files differ:\n{:?}\n{other:?}", states[0]);
        }
        for key in 0..KEYS.len() {
            self.check_writes(key, &states[0])?;
            self.check_increments(key, &states[0])?;
            self.check_conflicts(key, &states[0])?;
        }
        self.check_order(&states[0])?;
        self.check_compaction(&states[0])
    }

    /// Any order of files, with some of them twice and some of them as a shorter copy too.
    fn check_order(&mut self, expected: &State) -> Result<(), String> {
        let mut listed: Vec<(ChunkName, Rc<Vec<u8>>)> = self.nodes[0].disk.clone().into_iter().collect();
        for at in 0..listed.len() {
            let (name, file) = listed[at].clone();
            match self.dice.below(4) {
                0 => listed.push((name, file)),
                1 => listed.push((name, Rc::new(file[..self.dice.below(file.len() + 1)].to_vec()))),
                _ => {}
            }
        }
        for at in (1..listed.len()).rev() {
            listed.swap(at, self.dice.below(at + 1));
        }
        let files = listed.iter().map(|(name, file)| (name, file.as_slice()));
        let state = with_merged(files, &self.rules, |merged, chunks| State::of(merged, chunks, &self.rules));
        if state != *expected {
            violated!("another order of files gives another state:\n{expected:?}\n{state:?}");
        }
        Ok(())
    }

    fn check_compaction(&mut self, before: &State) -> Result<(), String> {
        self.write_snapshot(0, false);
        let after = self.state(0);
        let running = self.process(0).incarnation;
        let snap = self.nodes[0].disk.iter().rfind(|(name, _)| name.incarnation == running);
        let alone = snap.map(|(name, file)| (name, file.as_slice()));
        let read = |merged: &Merged<'_>, chunks: &[Chunk<'_>]| State::of(merged, chunks, &self.rules);
        let alone = with_merged(alone.into_iter(), &self.rules, read);
        for after in [after, alone] {
            let same_tombstones = self.rules.purge != Purge::Never || after.tombstones == before.tombstones;
            let same_conflicts = after.conflicts == before.conflicts;
            // Where a tombstone was purged nothing tells any more that increments below it do not count. None of them shows.
            let purged = |key: &str| before.tombstones.contains_key(key) && !after.tombstones.contains_key(key);
            let same_requests = after.requests_but(&purged) == before.requests_but(&purged);
            if after.live != before.live || !same_requests || !same_tombstones || !same_conflicts {
                violated!("compaction changed the state:\n{before:?}\n{after:?}");
            }
        }
        Ok(())
    }

    fn on(&self, key: usize) -> impl Iterator<Item = &Issued> {
        self.issued.iter().filter(move |issued| issued.written.key == key)
    }

    fn replacements(&self, key: usize) -> impl Iterator<Item = &Issued> {
        self.on(key).filter(|issued| !issued.is_increment())
    }

    fn check_writes(&self, key: usize, state: &State) -> Result<(), String> {
        let shown = state.live.get(KEYS[key]);
        let winner = shown.map(|treasure| treasure.stamp).or(state.tombstones.get(KEYS[key]).copied());
        let winner = winner.unwrap_or(Stamp::ZERO);
        let durable = || self.replacements(key).filter(|issued| issued.durable);
        if let Some(best) = durable().max_by_key(|issued| issued.written.stamp)
            && winner < best.written.stamp
            && !self.is_outdone(key, best, shown)
        {
            violated!("{:?} was acknowledged, but {shown:?} is shown", best.written);
        }
        let Some(Treasure { value: Some(value), .. }) = shown else { return Ok(()) };
        let is_shown = |issued: &&Issued| issued.written.change == Change::Put(value.clone());
        if !self.replacements(key).filter(is_shown).any(|issued| issued.written.stamp == winner) {
            violated!("nobody ever wrote {shown:?}");
        }
        // A tombstone alone keeps dead what had come loose: no vector of a snapshot speaks of it. So where there are copies
        // tombstones wait, and only where there should be none they go at once.
        let may_return = self.rules.purge == Purge::All && self.adopted.contains(&winner);
        let later = durable().find(|issued| issued.written.stamp != winner && issued.has_seen(winner));
        if let Some(later) = later.filter(|_| !may_return) {
            violated!("{shown:?} is back although {:?} had replaced it", later.written);
        }
        Ok(())
    }

    /// Whether a greater tombstone, since purged, explains that an acknowledged write is not shown.
    fn is_outdone(&self, key: usize, best: &Issued, shown: Option<&Treasure>) -> bool {
        let is_later = |issued: &Issued| issued.written.stamp >= best.written.stamp;
        let deleted = self.replacements(key).any(|i| i.written.change == Change::Delete && is_later(i));
        deleted && (self.rules.purge != Purge::Never || shown.is_none())
    }

    fn check_increments(&self, key: usize, state: &State) -> Result<(), String> {
        let shown = state.live.get(KEYS[key]);
        let stamp = shown.map(|treasure| treasure.stamp).or(state.tombstones.get(KEYS[key]).copied());
        let winner = stamp.unwrap_or(Stamp::ZERO);
        let mut rest = shown.map_or(0, |treasure| treasure.added);
        let total = rest;
        for (at, request) in self.requests.iter().enumerate() {
            let counted = rest.rem_euclid(4);
            rest = rest.div_euclid(4);
            let (least, most) = if request.key == key { self.expected(at, winner) } else { (0, 0) };
            if counted != least && counted != most {
                violated!(
                    "request {at} counts {counted} times in {total:#x} of {key}, not {least}..{most}: {request:?}"
                );
            }
        }
        if rest != 0 {
            violated!("{total:#x} of {key} is more than was ever added");
        }
        self.check_bases(key, winner)
    }

    /// How often a request has to count at least and at most, on this winner.
    fn expected(&self, request: usize, winner: Stamp) -> (i128, i128) {
        let times = self.requests[request].times as i128;
        let names_winner =
            |issued: &&Issued| matches!(issued.written.change, Change::Add { base, .. } if base == winner);
        let attempts = || self.issued.iter().filter(move |i| i.request == Some(request)).filter(names_winner);
        let key = self.requests[request].key;
        let least = if attempts().any(|a| a.durable && self.is_after_all_deletes(key, a)) { times } else { 0 };
        let most = if attempts().any(|a| !self.is_deleted(key, a)) { times } else { 0 };
        (least, most)
    }

    /// Where tombstones are purged, an increment on no base may have been deleted, and nothing tells any more.
    fn is_after_all_deletes(&self, key: usize, add: &Issued) -> bool {
        add.replaced != Stamp::ZERO || self.replacements(key).all(|other| add.past.saw(other.written.stamp))
    }

    fn is_deleted(&self, key: usize, add: &Issued) -> bool {
        let sees = |other: &Issued| other.durable && other.past.saw(add.written.stamp);
        add.replaced == Stamp::ZERO && self.replacements(key).any(sees)
    }

    /// What lost unseen is listed, and what was replaced on purpose is not.
    fn check_conflicts(&self, key: usize, state: &State) -> Result<(), String> {
        let listed: Vec<&Lost> = state.conflicts.iter().filter(|lost| &*lost.key == KEYS[key]).collect();
        let shown = state.live.get(KEYS[key]).map(|treasure| treasure.stamp);
        let winner = shown.or(state.tombstones.get(KEYS[key]).copied()).unwrap_or(Stamp::ZERO);
        for issued in self.on(key).filter(|issued| issued.durable && self.lost_unseen(key, issued, winner)) {
            let stamp = issued.written.stamp;
            let is_it = |lost: &&&Lost| match issued.is_increment() {
                true => lost.stamp == issued.replaced && lost.sums.iter().any(|sum| has(sum, stamp)),
                false => lost.stamp == stamp && lost.write.is_some(),
            };
            if !listed.iter().any(|lost| is_it(&lost)) {
                violated!("{:?} lost unseen and is not listed: {listed:?}", issued.written);
            }
        }
        for lost in listed {
            self.check_listed(key, lost)?;
        }
        Ok(())
    }

    /// Whether nobody who wrote to the key had seen it, although something greater shows.
    fn lost_unseen(&self, key: usize, issued: &Issued, winner: Stamp) -> bool {
        let stamp = issued.written.stamp;
        let is_purged = || self.rules.purge != Purge::Never && issued.written.change == Change::Delete;
        let is_the_same = |other: &Issued| other.written.stamp > stamp && other.written.change == issued.written.change;
        let is_known = |other: &Issued| other.has_seen(stamp) || is_the_same(other);
        let loses = if issued.is_increment() { issued.replaced < winner } else { stamp < winner };
        let twin = || issued.request.is_some_and(|request| self.requests[request].keyed);
        // Who wrote after a copy had come loose had seen it, but his vector does not tell.
        let is_loose = self.adopted.contains(&stamp);
        loses && !is_purged() && !twin() && !is_loose && !self.replacements(key).any(is_known)
    }

    fn check_listed(&self, key: usize, lost: &Lost) -> Result<(), String> {
        let replaced = |issued: &Issued| issued.durable && issued.replaced == lost.stamp;
        let saw = |issued: &Issued| lost.sums.iter().any(|sum| issued.past.saw(sum.part.last()));
        // Where a tombstone was purged, what seems to be replaced had been replaced by that.
        let between = |other: &Issued| {
            let range = lost.stamp..other.written.stamp;
            self.replacements(key).any(|i| {
                i.written.stamp > lost.stamp && range.contains(&i.written.stamp) && other.past.saw(i.written.stamp)
            })
        };
        // Who replaced what had come loose had seen it, but once his file is gone no vector tells: it may be listed.
        let is_loose = self.adopted.contains(&lost.stamp);
        for other in self.replacements(key).filter(|issued| replaced(issued) && !between(issued) && !is_loose) {
            if lost.write.is_some() || saw(other) {
                violated!("{lost:?} is listed, but {:?} replaced it on purpose", other.written);
            }
        }
        Ok(())
    }

    /// A base that an acknowledged increment names has won, or something greater has.
    fn check_bases(&self, key: usize, winner: Stamp) -> Result<(), String> {
        for add in self.on(key).filter(|issued| issued.durable && issued.is_increment()) {
            let is_later = |i: &Issued| i.written.stamp > add.replaced && i.written.change == Change::Delete;
            let purged = self.rules.purge != Purge::Never && self.replacements(key).any(is_later);
            if add.replaced > winner && !purged {
                violated!("{:?} was acknowledged, but its base is gone; {winner:?} wins", add.written);
            }
        }
        Ok(())
    }
}

fn has(sum: &Sum, add: Stamp) -> bool {
    sum.part.incarnation == add.incarnation && (sum.part.first_hlc..=sum.part.last_hlc).contains(&add.hlc)
}

// -------------------------------------------------------------------------------------- the tests

fn play(seed: u64, rules: Rules, story: Option<Vec<String>>) -> (End, Vec<String>) {
    let mut world = World { story, ..World::new(seed, rules) };
    world.live_through();
    let end = world.judge();
    (end, world.story.unwrap_or_default())
}

/// A history that must not be, cut to the fewest steps that still show it.
struct Failure {
    seed: u64,
    rules: Rules,
    what: String,
    story: Vec<String>,
}

impl Failure {
    fn shrunk(seed: u64, rules: Rules) -> Option<Failure> {
        (1..=rules.steps).find_map(|steps| {
            let rules = Rules { steps, ..rules };
            match play(seed, rules, Some(Vec::new())) {
                (End::Violation(what), story) => Some(Failure { seed, rules, what, story }),
                _ => None,
            }
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {:?}: {}", self.seed, self.rules, self.what)?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// The number of histories of one setting: what the environment says, or what a build can wait for.
fn histories(usual: u64) -> u64 {
    wanted("HYDRA_MODEL_HISTORIES", usual)
}

fn wanted(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[track_caller]
fn holds(name: &str, rules: Rules, usual: u64) {
    let (first, count) = (wanted("HYDRA_MODEL_SEED", 1), histories(usual));
    let (mut alarmed, mut failed) = (0, Vec::new());
    for seed in first..first + count {
        match play(seed, rules, None).0 {
            End::Fine => {}
            End::Alarmed => alarmed += 1,
            End::Violation(_) => failed.push(seed),
        }
    }
    println!("{name}: {count} histories, {} violations, {alarmed} ended incomplete and said so", failed.len());
    if !failed.is_empty() {
        println!("{name}: wrong are those of the seeds {failed:?}");
    }
    let shortest =
        failed.iter().take(20).filter_map(|&seed| Failure::shrunk(seed, rules)).min_by_key(|f| f.rules.steps);
    if let Some(failure) = shortest {
        panic!("{} of {count} histories of {name} are wrong; the shortest: {failure}", failed.len());
    }
    assert!(alarmed * 30 <= count, "{alarmed} of {count} histories of {name} ended incomplete");
}

/// Whether a violation shows within so many histories, from this seed on.
fn is_caught(mutant: Mutant, first: u64, within: u64) -> bool {
    let rules = Rules::broken_by(mutant);
    let mut seeds = first..first + histories(within);
    let violation = seeds.find(|&seed| matches!(play(seed, rules, None).0, End::Violation(_)));
    let Some(failure) = violation.and_then(|seed| Failure::shrunk(seed, rules)) else { return false };
    println!("{mutant:?}: seed {}, {} steps: {}", failure.seed, failure.rules.steps, failure.what);
    true
}

#[test]
fn two_servers_agree_and_lose_nothing() {
    holds("two servers", TWO_NODES, 1_500);
}

#[test]
fn three_servers_agree_and_lose_nothing() {
    holds("three servers", THREE_NODES, 1_000);
}

#[test]
fn backups_put_back_under_a_running_sync_undo_nothing_that_survives() {
    holds("backups put back", RESTORING, 1_000);
}

#[test]
fn purged_tombstones_bring_nothing_back() {
    holds("tombstones purged when old", PURGING_OLD, 500);
    holds("tombstones purged at once", PURGING_ALL, 1_000);
}

#[test]
fn retired_entries_bring_nothing_back() {
    holds("entries of vectors retired", RETIRING, 1_500);
}

#[test]
fn reading_on_gives_what_reading_everything_gives() {
    let following = |rules: Rules| Rules { follows: true, ..rules };
    holds("two servers that read on", FOLLOWING, 400);
    holds("three servers that read on", Rules { nodes: 3, ..FOLLOWING }, 200);
    holds("backups put back where servers read on", following(RESTORING), 200);
    holds("tombstones purged where servers read on", following(PURGING_OLD), 100);
    let (mut grown, mut read_on) = (0, 0);
    for seed in 1..=100 {
        let mut world = World::new(seed, FOLLOWING);
        world.live_through();
        grown += world.followed.grown;
        read_on += world.followed.read_on;
    }
    println!("of {grown} times that logs grew, {read_on} times reading on was enough");
    // Three keys that all write to are contended most of the time.
    assert!(read_on > 500, "{read_on} of {grown}");
}

#[test]
fn every_rule_is_needed() {
    let mutants = [
        (Mutant::NoVectorDrop, 1, 100),
        (Mutant::AnyoneCollects, 1, 300),
        (Mutant::ReopenedLog, 400, 100),
        (Mutant::WallClock, 1, 200),
        (Mutant::OverwritingSync, 1, 100),
        (Mutant::CountedIncarnations, 1, 200),
        (Mutant::SnapshotWithoutFooter, 1, 100),
        (Mutant::PrefixIsClosed, 2_150, 100),
        (Mutant::UnlinkedLogs, 1, 300),
        (Mutant::NaiveRemoval, 1, 100),
        (Mutant::TwinsAcrossBases, 1, 100),
        (Mutant::PurgedBase, 1, 300),
        (Mutant::RetiredTooEarly, 1, 300),
        (Mutant::RetirementForgotten, 1, 300),
        (Mutant::GrowthUnseen, 1, 100),
        (Mutant::GrowthOnContended, 1, 300),
    ];
    let caught = |&(mutant, first, within): &(Mutant, u64, u64)| is_caught(mutant, first, within);
    let survivors: Vec<Mutant> = mutants.iter().filter(|mutant| !caught(mutant)).map(|mutant| mutant.0).collect();
    assert!(survivors.is_empty(), "{survivors:?} survived");
}

// Four rules matter so seldom that chance takes too long to show it: their histories are written down.

/// Plays a written history with the rule and without it: only without it something may be wrong.
#[track_caller]
fn matters(mutant: Mutant, rules: Rules, history: fn(&mut World)) {
    let end = |mutant| {
        let mut world = World::new(1, Rules { mutant, ..rules });
        history(&mut world);
        world.judge()
    };
    assert_eq!(end(None), End::Fine);
    assert!(matches!(end(Some(mutant)), End::Violation(_)), "{mutant:?} survived");
}

/// The file a node opened last.
fn newest(world: &mut World, node: usize) -> (ChunkName, Rc<Vec<u8>>) {
    let incarnation = world.process(node).incarnation;
    let mut files = world.nodes[node].disk.iter().filter(|(name, _)| name.incarnation == incarnation);
    let (name, file) = files.next_back().expect("it has written");
    (name.clone(), Rc::clone(file))
}

fn count_one(world: &mut World, node: usize, key: usize) {
    let delta = 1 << (2 * world.requests.len());
    world.requests.push(Request { key, delta, times: 1, keyed: false, also_deletes: None });
    world.carry_out(node, world.requests.len() - 1);
    world.flush(node);
}

#[test]
fn what_a_write_on_an_incomplete_copy_builds_on_is_adopted() {
    matters(Mutant::NoAdoption, TWO_NODES, |world| {
        let put = |value: &str| Op::Put(value.to_owned());
        world.commit(0, None, &[(0, put("1"))], true);
        world.seal(0);
        world.commit(0, None, &[(0, put("2"))], true);
        let synced = newest(world, 0).1.len();
        world.commit(0, None, &[(1, put("3"))], false);
        let (name, file) = newest(world, 0);
        // The other server gets the second log without the first, and counts on what it reads there.
        world.arrive(1, name.clone(), file);
        count_one(world, 1, 1);
        // The first loses what it had not synced, to zeros that are longer than that copy.
        world.commit(0, None, &[(2, put("a longer value"))], false);
        world.nodes[0].process = None;
        let file = Rc::make_mut(world.nodes[0].disk.get_mut(&name).expect("its log"));
        file[synced..].fill(0);
    });
}

#[test]
fn what_is_written_where_a_copy_lost_something_again_has_not_seen_that() {
    matters(Mutant::OutdatedLog, TWO_NODES, |world| {
        let put = |value: &str| Op::Put(value.to_owned());
        world.commit(0, None, &[(0, put("1"))], true);
        let synced = newest(world, 0).1.len();
        world.commit(0, None, &[(1, put("2"))], false);
        // The other server reads what is not synced, and says so.
        let (name, file) = newest(world, 0);
        world.arrive(1, name, file);
        world.commit(1, None, &[(2, put("3"))], true);
        // It goes to another log, and leaves zeros that are longer than that copy.
        world.commit(0, None, &[(0, put("a longer value"))], false);
        let (name, mut file) = newest(world, 0);
        world.fail_sync(0);
        Rc::make_mut(&mut file)[synced..].fill(0);
        world.nodes[0].disk.insert(name.clone(), Rc::clone(&file));
        world.arrive(1, name, file);
        world.process(1).view = None;
        world.commit(1, None, &[(1, put("4"))], true);
    });
}

#[test]
fn a_log_begun_after_tombstones_were_left_out_asks_for_the_snapshot_that_did() {
    matters(Mutant::UnmarkedPurge, PURGING_OLD, |world| {
        world.commit(0, None, &[(0, Op::Put("1".to_owned()))], true);
        world.commit(0, None, &[(0, Op::Delete)], true);
        world.exchange(0);
        world.write_snapshot(0, false);
        count_one(world, 0, 0);
        // The other server still has the tombstone, gets the increment, and compacts.
        let (name, file) = newest(world, 0);
        world.arrive(1, name, file);
        world.write_snapshot(1, false);
    });
}

#[test]
fn where_something_is_missing_a_log_that_grew_may_make_more_of_others_than_of_itself() {
    matters(Mutant::GrowthOnGaps, Rules { nodes: 3, follows: true, ..TWO_NODES }, |world| {
        world.commit(0, None, &[(0, Op::Put("1".to_owned()))], true);
        let first = newest(world, 0).1.len();
        world.commit(0, None, &[(1, Op::Put("2".to_owned()))], true);
        world.copy_all(0, 1);
        world.commit(1, None, &[(2, Op::Put("3".to_owned()))], true);
        // The log of the second server refers to what the third has not got of the first one's.
        let ((name, whole), (other, file)) = (newest(world, 0), newest(world, 1));
        world.arrive(2, name.clone(), Rc::new(whole[..first].to_vec()));
        world.arrive(2, other, file);
        world.follow();
        world.arrive(2, name, whole);
        world.follow();
    });
}

#[test]
fn histories_that_were_once_told_wrong_are_told_right() {
    let following = Rules { nodes: 3, ..FOLLOWING };
    let histories = [
        // An increment of a lost base that a snapshot holds twice.
        (49_882, TWO_NODES),
        // A loose write that was replaced on purpose.
        (73_374, THREE_NODES),
        // A copied increment that was replaced on purpose by a write of which only a snapshot tells.
        (49_427, RESTORING),
        // A log that grew by what a snapshot covers, against which something had lost before.
        (3_431, following),
        // A copy that came shorter than it was after a write had seen it.
        (1_456_381, THREE_NODES),
        // An increment that came loose, in a conflict with others of its writer.
        (968_022, THREE_NODES),
        // The same replaced on purpose, as a younger snapshot of two knows.
        (1_958_521, TWO_NODES),
        // An old tombstone above a write that came loose.
        (208_239, PURGING_OLD),
    ];
    for (seed, rules) in histories {
        assert_eq!(play(seed, rules, None).0, End::Fine, "{seed}");
    }
}
