//! The merge: from the set of files of a swamp to its state. Pure: no disk, no clock, and the order
//! in which files came, or how often, does not matter.
//!
//! * A snapshot stands for everything its vector covers. A record that some snapshot saw and no
//!   longer holds is dead, so deletes need no tombstone to stay deleted.
//! * A log is attached once everything its writer had seen is here. What stays unattached is merged
//!   all the same, so that a swamp is never smaller than its files, but the state says it is
//!   incomplete.
//! * Of several writes to one key the greatest stamp wins. Increments add up (see [`crate::counter`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::conflict::Lost;
use crate::counter::{Counter, SingleAdd, Sum};
use crate::format::frame::FrameKey;
use crate::format::record::{self, CounterRecord, KeyRecord, Record, StampCode, StampCursor, Subtotal, Write};
use crate::format::scan::Scan;
use crate::hashing::KeyHashing;
use crate::layout::{ChunkKind, ChunkName};
use crate::requests::{KeyMemory, Requests};
use crate::rivalry;
use crate::slot::{Slot, Slots};
use crate::stamp::Stamp;
use crate::vector::VersionVector;

/// A map by key.
pub(crate) type ByKey<'a, T> = HashMap<&'a str, T, KeyHashing>;

/// A chunk that was scanned, with the payloads of its frames.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) name: &'a ChunkName,
    pub(crate) scan: &'a Scan,
    pub(crate) file: &'a [u8],
    payloads: Vec<Cow<'a, [u8]>>,
    incarnations: Vec<u64>,
}

impl<'a> Chunk<'a> {
    /// `None` when a frame whose checksum holds cannot be decompressed.
    pub(crate) fn new(name: &'a ChunkName, scan: &'a Scan, file: &'a [u8]) -> Option<Chunk<'a>> {
        let payloads = scan.frames.iter().map(|frame| frame.payload(file)).collect::<Option<_>>()?;
        let incarnations = scan.header.vector.iter().map(|(incarnation, _)| incarnation).collect();
        Some(Chunk { name, scan, file, payloads, incarnations })
    }

    fn code(&self) -> StampCode<'_> {
        match self.name.kind {
            ChunkKind::Log => StampCode::Log { incarnation: self.name.incarnation },
            ChunkKind::Snap => StampCode::Snap { incarnations: &self.incarnations },
        }
    }

    pub(crate) fn frame_count(&self) -> usize {
        self.payloads.len()
    }

    /// What the chunk stands for. A snapshot says it in its footer: besides what its writer had read
    /// there may be a mark of the writer, which says that something was left out on purpose.
    pub(crate) fn vector(&self) -> &VersionVector {
        match (self.name.kind, &self.scan.footer) {
            (ChunkKind::Snap, Some(footer)) => &footer.vector,
            _ => &self.scan.header.vector,
        }
    }

    /// The entries of the vector that a snapshot does not hand on to those after it.
    pub(crate) fn retired(&self) -> VersionVector {
        match (self.name.kind, &self.scan.footer) {
            (ChunkKind::Snap, Some(footer)) => self.scan.header.vector.beyond(&footer.vector),
            _ => VersionVector::default(),
        }
    }

    /// All that a snapshot's writer had read, whether or not it hands that on.
    pub(crate) fn seen(&self) -> VersionVector {
        let mut seen = self.vector().clone();
        seen.join(&self.retired());
        seen
    }

    /// The idempotency key and the records of a frame; fewer records and `false` when one is not understood.
    pub(crate) fn frame(&self, index: usize) -> (Option<FrameKey<'_>>, Vec<Record<'_>>, bool) {
        let mut records = Vec::new();
        let (key, understood) = self.read_frame(index, &mut records);
        (key, records, understood)
    }

    /// The same into an empty list: most frames have one record, and there are many frames.
    fn read_frame<'r>(&'r self, index: usize, records: &mut Vec<Record<'r>>) -> (Option<FrameKey<'r>>, bool) {
        let Some((key, mut reader)) = self.scan.frames[index].open(&self.payloads[index]) else {
            return (None, false);
        };
        let mut stamps = StampCursor::new(self.code(), self.scan.header.base_hlc);
        while !reader.is_empty() {
            match record::decode(&mut reader, &mut stamps) {
                Some(record) => records.push(record),
                None => return (key, false),
            }
        }
        (key, true)
    }
}

/// An increment that was carried out under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RememberedAdd {
    /// See [`Positions`].
    pub(crate) position: u32,
    pub(crate) key: Box<str>,
    pub(crate) add: SingleAdd,
}

/// Numbers the increments of a frame: by how many of the same key and pointer stand before each.
///
/// The place in the frame would not do. One request may leave frames of different lengths on two
/// servers: with a SYNC record or without, with a delete or without where there was nothing to delete.
#[derive(Debug, Default)]
pub(crate) struct Positions<'a>(HashMap<(&'a str, &'a str), u32, KeyHashing>);

impl<'a> Positions<'a> {
    /// The position of the next increment of this key and pointer.
    pub(crate) fn next(&mut self, key: &'a str, pointer: &'a str) -> u32 {
        let next = self.0.entry((key, pointer)).or_insert(0);
        *next += 1;
        *next - 1
    }
}

/// The state of a swamp, as its files say.
#[derive(Debug, Default)]
pub(crate) struct Merged<'a> {
    /// The write that decides each key.
    pub(crate) winners: Slots,
    pub(crate) counters: ByKey<'a, Counter>,
    pub(crate) requests: Requests,
    /// How much of each writer is known without a gap.
    pub(crate) vector: VersionVector,
    /// The last record of each writer that is here, whether or not all before it is. A writer's next
    /// log has to name its own last record, or readers would take that log for all it ever wrote.
    pub(crate) written: VersionVector,
    /// The highest clock value met anywhere.
    pub(crate) max_hlc: u64,
    /// Indexes of logs that refer to data that is not here, with their first frame that does.
    pub(crate) unattached: Vec<(usize, usize)>,
    /// Indexes of snapshots that cannot be used although nothing else covers them.
    pub(crate) unusable: Vec<usize>,
    /// Indexes of chunks with a record that this version does not understand.
    pub(crate) not_understood: Vec<usize>,
    /// Writes that lost against a write that had not seen them, the newest first.
    pub(crate) conflicts: Vec<Lost>,
    /// Keys on which something may have lost that its successor had not seen.
    pub(crate) contended: HashSet<&'a str, KeyHashing>,
    /// Keys of which a record is here that came loose. No vector speaks of it, so what lost may show again where
    /// nothing stands above it any more.
    pub(crate) loose: HashSet<&'a str, KeyHashing>,
    /// What each writer of logs says it had seen, as far as its logs are attached; nothing of a writer that has
    /// one which is not.
    pub(crate) claims: HashMap<u64, VersionVector, KeyHashing>,
}

impl Merged<'_> {
    /// Whether all that the files refer to is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.unattached.is_empty() && self.unusable.is_empty() && self.not_understood.is_empty()
    }
}

/// Merges the chunks of one swamp.
pub(crate) fn merge<'a>(chunks: &'a [Chunk<'a>]) -> Merged<'a> {
    let mut merger = Merger::default();
    merger.out.winners = Slots::with_capacity(room_for(chunks));
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    order.sort_by(|&a, &b| chunks[a].name.cmp(chunks[b].name));
    let (logs, snaps): (Vec<usize>, Vec<usize>) =
        order.into_iter().partition(|&i| chunks[i].name.kind == ChunkKind::Log);
    let (valid, doubtful): (Vec<usize>, Vec<usize>) = snaps.into_iter().partition(|&i| chunks[i].scan.is_valid());
    merger.read_snaps(chunks, &valid);
    merger.attach_logs(chunks, logs);
    merger.judge_doubtful(chunks, &doubtful);
    merger.count_late_adds();
    merger.out.conflicts = rivalry::conflicts(chunks, &merger.out, &merger.base);
    merger.settle();
    merger.find_twins();
    merger.finish(chunks)
}

/// For how many keys there has to be room: an overwritten key is counted twice, a frame of many records once.
fn room_for(chunks: &[Chunk<'_>]) -> usize {
    let keys = |chunk: &Chunk<'_>| match (chunk.name.kind, &chunk.scan.footer) {
        (ChunkKind::Snap, Some(footer)) => usize::try_from(footer.records).unwrap_or(0),
        _ => chunk.frame_count(),
    };
    // A record takes 16 bytes at least.
    let most = chunks.iter().map(|chunk| chunk.scan.length).sum::<u64>() / 16;
    chunks.iter().map(keys).max().unwrap_or(0).min(usize::try_from(most).unwrap_or(usize::MAX))
}

#[derive(Default)]
struct Merger<'a> {
    out: Merged<'a>,
    /// What the snapshots cover: logs need not tell it again.
    base: VersionVector,
    /// What snapshots knew and do not hand on.
    retired: VersionVector,
    late: BTreeMap<Stamp, (&'a str, SingleAdd)>,
    /// Every record that came loose, with its key.
    loose: Vec<(Stamp, &'a str)>,
    not_understood: HashSet<usize>,
}

impl<'a> Merger<'a> {
    fn read_snaps(&mut self, chunks: &'a [Chunk<'a>], snaps: &[usize]) {
        for &snap in snaps {
            self.base.join(&chunks[snap].seen());
            self.retired.join(&chunks[snap].retired());
        }
        let contents: Vec<Vec<Record<'a>>> = snaps.iter().map(|&snap| self.records(chunks, snap)).collect();
        let held: Vec<Held<'a>> = if snaps.len() > 1 {
            contents.iter().zip(snaps).map(|(records, &snap)| Held::new(records, chunks[snap].seen())).collect()
        } else {
            Vec::new()
        };
        for (at, content) in contents.into_iter().enumerate() {
            let others: Vec<&Held<'a>> =
                held.iter().enumerate().filter(|&(other, _)| other != at).map(|(_, held)| held).collect();
            let owns = |incarnation: u64| owner_of(chunks, snaps, incarnation) == Some(snaps[at]);
            for record in content {
                self.take_snap_record(record, &others, &owns);
            }
        }
        self.out.vector = self.base.clone();
        let Merged { winners, counters, contended, .. } = &mut self.out;
        let lost = counters.iter().filter(|(key, counter)| counter.is_named_below(winner_of(winners, key)));
        contended.extend(lost.map(|(key, _)| *key));
    }

    fn take_snap_record(&mut self, record: Record<'a>, others: &[&Held<'a>], owns: &dyn Fn(u64) -> bool) {
        match record {
            Record::Write { stamp, write } if !others.iter().any(|other| other.dropped(write.key(), stamp)) => {
                if !self.base.saw(stamp) {
                    self.loose.push((stamp, write.key()));
                }
                self.note_rival(stamp, &write);
                self.take_write(stamp, write);
            }
            Record::Adopted { stamp, write } => self.take_loose(stamp, write),
            Record::Conflict(conflict) => {
                self.out.contended.insert(conflict.key);
            }
            Record::Counter(counter) => self.take_counter(&counter, &|part| {
                owns(part.incarnation) && !others.iter().any(|other| other.dropped_sum(&counter, part))
            }),
            Record::Key(key) => self.take_key(&key),
            Record::Write { .. } | Record::Sync(_) => {}
        }
    }

    /// Of several snapshots the one that knows most of an incarnation says what it added.
    fn take_counter(&mut self, record: &CounterRecord<'a>, counts: &dyn Fn(&Subtotal) -> bool) {
        let counter = self.out.counters.entry(record.key).or_default();
        for part in record.sums.iter().filter(|part| counts(part)) {
            counter.add_sum(Sum { base: record.base, pointer: record.pointer.into(), part: *part });
        }
    }

    fn take_key(&mut self, record: &KeyRecord<'a>) {
        let adds = record.adds.iter().map(|add| RememberedAdd {
            position: add.position,
            key: add.key.into(),
            add: SingleAdd { stamp: add.stamp, base: add.base, pointer: add.pointer.into(), delta: add.delta },
        });
        let frame_key = FrameKey { key: record.key, fingerprint: record.fingerprint, outcome: record.outcome };
        self.remember(&frame_key, record.stamp, adds.collect());
    }

    fn remember(&mut self, key: &FrameKey<'_>, stamp: Stamp, adds: Vec<RememberedAdd>) {
        self.out.requests.join(key.key, KeyMemory::new(key.fingerprint, stamp, key.outcome, adds));
    }

    /// Attaches logs until no more can be; a log goes on where it stopped.
    fn attach_logs(&mut self, chunks: &'a [Chunk<'a>], logs: Vec<usize>) {
        let mut pending: Vec<(usize, usize)> = logs.into_iter().map(|log| (log, 0)).collect();
        loop {
            let mut progress = false;
            let mut stuck = None;
            pending.retain_mut(|(log, next)| {
                // The logs of one writer go on where the one before ended, so they wait for it.
                let incarnation = chunks[*log].name.incarnation;
                if stuck == Some(incarnation) {
                    return true;
                }
                let before = *next;
                let done = self.attach(chunks, *log, next);
                progress |= done || *next > before;
                stuck = (!done).then_some(incarnation);
                !done
            });
            if !progress || pending.is_empty() {
                break;
            }
        }
        for (log, next) in pending {
            self.out.claims.remove(&chunks[log].name.incarnation);
            self.take_unattached(chunks, log, next);
        }
    }

    /// Attaches the frames of a log from `next` on; answers whether it reached the end.
    fn attach(&mut self, chunks: &'a [Chunk<'a>], log: usize, next: &mut usize) -> bool {
        let (writer, seen) = (chunks[log].name.incarnation, &chunks[log].scan.header.vector);
        if *next == 0 {
            if !seen.is_within(&self.out.vector) {
                return false;
            }
            self.out.claims.insert(writer, seen.clone());
        }
        let mut records = Vec::new();
        while *next < chunks[log].frame_count() {
            records.clear();
            let (key, understood) = chunks[log].read_frame(*next, &mut records);
            if !understood {
                self.not_understood.insert(log);
            }
            if records.iter().any(|r| matches!(r, Record::Sync(vector) if !vector.is_within(&self.out.vector))) {
                return false;
            }
            self.take_frame(writer, key, &records);
            *next += 1;
        }
        true
    }

    fn take_frame(&mut self, writer: u64, key: Option<FrameKey<'a>>, records: &[Record<'a>]) {
        let mut positions = Positions::default();
        let mut adds = Vec::new();
        for record in records {
            match *record {
                Record::Write { stamp, write } => {
                    adds.extend(remembered(key.as_ref(), &mut positions, stamp, write));
                    if !self.base.saw(stamp) {
                        self.take_own(stamp, write);
                    }
                }
                Record::Adopted { stamp, write } => {
                    adds.extend(remembered(key.as_ref(), &mut positions, stamp, write));
                    self.take_loose(stamp, write);
                }
                Record::Sync(ref news) => self.out.claims.entry(writer).or_default().join(news),
                _ => {}
            }
        }
        if let Some((key, stamp)) = key.zip(first_stamp(records)) {
            self.remember(&key, stamp, adds);
        }
    }

    /// A write of the log's own writer: everything it wrote before is known, so an increment that
    /// the vector covers was counted already, in a chunk this one repeats. A value is offered all the
    /// same: what is damaged there may have been what this chunk repeats.
    fn take_own(&mut self, stamp: Stamp, write: Write<'a>) {
        match write {
            Write::Add { key, pointer, base, delta } => {
                if !self.out.vector.saw(stamp) {
                    if base < winner_of(&self.out.winners, key) {
                        self.out.contended.insert(key);
                    }
                    self.out.counters.entry(key).or_default().add(stamp, base, pointer, delta);
                }
            }
            _ if self.out.vector.saw(stamp) => {
                self.take_write(stamp, write);
            }
            _ => {
                let shown = self.take_write(stamp, write);
                if !self.has_seen_all_of(stamp, write.key(), shown) {
                    self.out.contended.insert(write.key());
                }
            }
        }
        self.out.vector.learn(stamp);
    }

    /// Whether the writer of a log had seen what showed under this key, with all increments on it.
    fn has_seen_all_of(&self, later: Stamp, key: &str, shown: Option<Stamp>) -> bool {
        let saw = |stamp: Stamp| {
            let claim = || self.out.claims.get(&later.incarnation).is_some_and(|claim| claim.saw(stamp));
            stamp.incarnation == later.incarnation || claim()
        };
        shown.is_none_or(|stamp| stamp < later && saw(stamp))
            && (self.out.counters.is_empty()
                || self.out.counters.get(key).is_none_or(|counter| counter.last_of_each().all(saw)))
    }

    /// A write that is known without what its writer had seen has a rival in any other.
    fn note_rival(&mut self, stamp: Stamp, write: &Write<'a>) {
        let other = self.out.winners.get(write.key()).is_some_and(|winner| winner.stamp() != stamp);
        if other || self.out.counters.contains_key(write.key()) {
            self.out.contended.insert(write.key());
        }
    }

    /// Answers the stamp that decided the key before.
    fn take_write(&mut self, stamp: Stamp, write: Write<'a>) -> Option<Stamp> {
        self.out.max_hlc = self.out.max_hlc.max(stamp.hlc);
        self.out.winners.offer(stamp, &write)
    }

    /// A write that is known out of its order: values by their stamp, increments one by one at the end.
    fn take_loose(&mut self, stamp: Stamp, write: Write<'a>) {
        self.out.max_hlc = self.out.max_hlc.max(stamp.hlc);
        if self.base.saw(stamp) {
            return;
        }
        self.loose.push((stamp, write.key()));
        let Write::Add { key, pointer, base, delta } = write else {
            self.note_rival(stamp, &write);
            self.take_write(stamp, write);
            return;
        };
        self.late.insert(stamp, (key, SingleAdd { stamp, base, pointer: pointer.into(), delta }));
    }

    /// A log whose writer had seen more than is here: its frames count, but something is missing.
    fn take_unattached(&mut self, chunks: &'a [Chunk<'a>], log: usize, next: usize) {
        let mut all_known = true;
        for index in next..chunks[log].frame_count() {
            let (key, records) = self.frame(chunks, log, index);
            let mut positions = Positions::default();
            let mut adds = Vec::new();
            for record in &records {
                if let Record::Write { stamp, .. } = *record {
                    self.out.written.learn(stamp);
                }
                if let Record::Write { stamp, write } | Record::Adopted { stamp, write } = *record {
                    all_known &= self.out.vector.saw(stamp);
                    adds.extend(remembered(key.as_ref(), &mut positions, stamp, write));
                    self.take_loose(stamp, write);
                }
            }
            if let Some((key, stamp)) = key.zip(first_stamp(&records)) {
                self.remember(&key, stamp, adds);
            }
        }
        if !all_known {
            self.out.unattached.push((log, next));
        }
    }

    /// A snapshot without footer or with a bad byte counts for nothing where others cover it.
    /// Otherwise its writes are merged like loose ones, and the state says that it is incomplete.
    fn judge_doubtful(&mut self, chunks: &'a [Chunk<'a>], snaps: &[usize]) {
        let vector = |snap: usize| &chunks[snap].scan.header.vector;
        let needed: Vec<usize> = snaps.iter().copied().filter(|&s| !vector(s).is_within(&self.out.vector)).collect();
        for &snap in &needed {
            let unknown = |incarnation: u64| {
                let owner = needed.iter().copied().max_by_key(|&snap| vector(snap).get(incarnation));
                self.out.vector.get(incarnation) == 0 && owner == Some(snap)
            };
            let incarnations = vector(snap).iter().map(|(incarnation, _)| incarnation);
            let owned: HashSet<u64> = incarnations.filter(|&incarnation| unknown(incarnation)).collect();
            for record in self.records(chunks, snap) {
                match record {
                    Record::Write { stamp, write } | Record::Adopted { stamp, write } => self.take_loose(stamp, write),
                    Record::Counter(counter) => {
                        self.take_counter(&counter, &|part| owned.contains(&part.incarnation));
                    }
                    Record::Key(key) => self.take_key(&key),
                    Record::Sync(_) | Record::Conflict(_) => {}
                }
            }
        }
        self.out.unusable = needed;
    }

    /// Increments that came loose count once per stamp, unless their writer's own file told them.
    fn count_late_adds(&mut self) {
        for (stamp, (key, add)) in std::mem::take(&mut self.late) {
            if !self.out.vector.saw(stamp) {
                if add.base < winner_of(&self.out.winners, key) {
                    self.out.contended.insert(key);
                }
                self.out.counters.entry(key).or_default().add_late(add);
            }
        }
    }

    /// The increments of bases that lost go with them.
    fn settle(&mut self) {
        let Merged { winners, counters, .. } = &mut self.out;
        counters.retain(|key, counter| {
            counter.settle(winner_of(winners, key));
            !counter.is_empty()
        });
    }

    /// Increments of one request on the same base are twins: one server did not know of the other.
    /// The one with the smallest stamp counts. What does not count anyway has no twin.
    fn find_twins(&mut self) {
        let Merged { counters, requests, .. } = &mut self.out;
        requests.change_adds(|adds| {
            adds.retain(|add| counters.get(&*add.key).is_some_and(|counter| counter.counts(&add.add)));
            adds.sort_unstable();
            adds.dedup();
            for twin in later_twins(adds) {
                if let Some(counter) = counters.get_mut(&*twin.key) {
                    counter.subtract_twin(twin.add.clone());
                }
            }
        });
    }

    fn finish(mut self, chunks: &[Chunk<'_>]) -> Merged<'a> {
        let headers = chunks.iter().map(|chunk| chunk.scan.header.vector.max_hlc()).max().unwrap_or(0);
        self.out.max_hlc = self.out.max_hlc.max(headers).max(self.out.vector.max_hlc());
        self.out.written.join(&self.out.vector);
        self.retire(chunks);
        let Merged { vector, loose, .. } = &mut self.out;
        loose.extend(self.loose.iter().filter(|&&(stamp, _)| !vector.saw(stamp)).map(|&(_, key)| key));
        self.out.not_understood = self.not_understood.into_iter().collect();
        self.out.not_understood.sort_unstable();
        self.out
    }

    /// Forgets the entries that the latest snapshot to name them retired, so that nothing written from now on
    /// names them, whether or not the files which do are gone already.
    fn retire(&mut self, chunks: &[Chunk<'_>]) {
        let snaps = || chunks.iter().filter(|chunk| chunk.name.kind == ChunkKind::Snap && chunk.scan.is_valid());
        for (incarnation, _) in self.retired.iter() {
            let latest = |names: &dyn Fn(&Chunk<'_>) -> bool| {
                snaps().filter(|snap| names(snap)).map(|snap| snap.vector().max_hlc()).max().unwrap_or(0)
            };
            let dropped = latest(&|snap| snap.retired().get(incarnation) > 0);
            let known = latest(&|snap| snap.vector().get(incarnation) > 0);
            if dropped > known && !chunks.iter().any(|chunk| chunk.name.incarnation == incarnation) {
                self.out.vector.forget(incarnation);
            }
        }
    }

    fn frame(
        &mut self,
        chunks: &'a [Chunk<'a>],
        chunk: usize,
        index: usize,
    ) -> (Option<FrameKey<'a>>, Vec<Record<'a>>) {
        let (key, records, understood) = chunks[chunk].frame(index);
        if !understood {
            self.not_understood.insert(chunk);
        }
        (key, records)
    }

    fn records(&mut self, chunks: &'a [Chunk<'a>], chunk: usize) -> Vec<Record<'a>> {
        (0..chunks[chunk].frame_count()).flat_map(|index| self.frame(chunks, chunk, index).1).collect()
    }
}

fn winner_of(winners: &Slots, key: &str) -> Stamp {
    winners.get(key).map_or(Stamp::ZERO, Slot::stamp)
}

/// Which of the snapshots knows most of an incarnation; of equals the last in the order of names.
fn owner_of(chunks: &[Chunk<'_>], snaps: &[usize], incarnation: u64) -> Option<usize> {
    snaps.iter().copied().max_by_key(|&snap| chunks[snap].vector().get(incarnation))
}

/// What a snapshot knows and what it holds: the one without the other is dead.
struct Held<'a> {
    vector: VersionVector,
    writes: ByKey<'a, Stamp>,
    sums: HashSet<(&'a str, &'a str, Stamp, u64), KeyHashing>,
}

impl<'a> Held<'a> {
    fn new(records: &[Record<'a>], vector: VersionVector) -> Held<'a> {
        let mut held = Held { vector, writes: ByKey::default(), sums: HashSet::default() };
        for record in records {
            match record {
                Record::Write { stamp, write } => {
                    held.writes.insert(write.key(), *stamp);
                }
                Record::Counter(CounterRecord { key, pointer, base, sums }) => {
                    held.sums.extend(sums.iter().map(|part| (*key, *pointer, *base, part.incarnation)));
                }
                _ => {}
            }
        }
        held
    }

    fn dropped(&self, key: &str, stamp: Stamp) -> bool {
        self.vector.saw(stamp) && self.writes.get(key) != Some(&stamp)
    }

    fn dropped_sum(&self, counter: &CounterRecord<'a>, part: &Subtotal) -> bool {
        let seen = self.vector.saw(part.last());
        seen && !self.sums.contains(&(counter.key, counter.pointer, counter.base, part.incarnation))
    }
}

/// The increment of a frame with an idempotency key, with its position.
pub(crate) fn remembered<'a>(
    key: Option<&FrameKey<'_>>,
    positions: &mut Positions<'a>,
    stamp: Stamp,
    write: Write<'a>,
) -> Option<RememberedAdd> {
    let (Some(_), Write::Add { key, pointer, base, delta }) = (key, write) else { return None };
    let add = SingleAdd { stamp, base, pointer: pointer.into(), delta };
    Some(RememberedAdd { position: positions.next(key, pointer), key: key.into(), add })
}

/// The stamp of the first write of a frame.
pub(crate) fn first_stamp(records: &[Record<'_>]) -> Option<Stamp> {
    records.iter().find_map(|record| match record {
        Record::Write { stamp, .. } | Record::Adopted { stamp, .. } => Some(*stamp),
        _ => None,
    })
}

/// Of sorted increments of one request those that repeat an earlier one: same position, key, base
/// and amount, another stamp. Twins on different bases both stay: at most one of the
/// bases wins, and the increments of the other go with it.
pub(crate) fn later_twins(adds: &[RememberedAdd]) -> impl Iterator<Item = &RememberedAdd> {
    let same = |a: &RememberedAdd, b: &RememberedAdd| {
        a.position == b.position
            && a.key == b.key
            && a.add.base == b.add.base
            && a.add.pointer == b.add.pointer
            && a.add.delta == b.add.delta
    };
    let repeats = move |at: usize| {
        let earlier = adds[..at].iter().rev().take_while(|earlier| earlier.position == adds[at].position);
        earlier.into_iter().any(|earlier| same(earlier, &adds[at]))
    };
    (0..adds.len()).filter(move |&at| repeats(at)).map(|at| &adds[at])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::compact::Retention;
    use crate::engine::CopyState;
    use crate::format::frame::{self, Frame};
    use crate::format::header::{Header, example};
    use crate::format::scan::scan;
    use crate::policy::Compression;
    use crate::snapshot::{self, SnapshotContent};
    use crate::stamp::Timestamp;
    use crate::state::State;

    const A: u64 = 7;
    const B: u64 = 9;
    const C: u64 = 11;
    const BASE: u64 = 1_000;

    fn at(hlc: u64, incarnation: u64) -> Stamp {
        Stamp { hlc: BASE + hlc, incarnation }
    }

    fn vector(entries: &[(u64, u64)]) -> VersionVector {
        entries.iter().map(|&(incarnation, hlc)| (incarnation, BASE + hlc)).collect()
    }

    fn put(hlc: u64, incarnation: u64) -> Record<'static> {
        let write = Write::Put { key: "n", value: b"1", expires: None, age: None, content_type: None };
        Record::Write { stamp: at(hlc, incarnation), write }
    }

    fn add(hlc: u64, incarnation: u64, base: Stamp, delta: i64) -> Record<'static> {
        Record::Write { stamp: at(hlc, incarnation), write: Write::Add { key: "n", pointer: "", base, delta } }
    }

    fn header(kind: ChunkKind, incarnation: u64, seq: u32, vector: VersionVector) -> (ChunkName, Header) {
        let header = Header { incarnation, seq, base_hlc: BASE, vector, ..example(kind) };
        (ChunkName { incarnation, seq, kind, server: "s1".to_owned() }, header)
    }

    type File = (ChunkName, Vec<u8>);

    /// A log of frames that were written under idempotency key 5, or under none.
    fn log(incarnation: u64, seq: u32, known: &[(u64, u64)], frames: &[(bool, &[Record<'static>])]) -> File {
        let (name, header) = header(ChunkKind::Log, incarnation, seq, vector(known));
        let mut file = Vec::new();
        header.encode(&mut file);
        for (keyed, records) in frames {
            let key = keyed.then_some(FrameKey { key: 5, fingerprint: 0, outcome: &[] });
            let frame = Frame::new(key, records.iter().cloned(), StampCode::Log { incarnation }, BASE);
            frame.place(frame::salt(incarnation, seq), 0, false, &mut file);
        }
        (name, file)
    }

    /// The snapshot that this incarnation would write of these files, without tombstones if it is marked.
    fn snap(incarnation: u64, seq: u32, files: &[&File], mark: Option<Stamp>) -> File {
        let (name, header) = header(ChunkKind::Snap, incarnation, seq, VersionVector::default());
        let file = with_merged(files, |merged| {
            let winners = merged.winners.iter().filter(|winner| mark.is_none() || !winner.is_tombstone());
            let content = SnapshotContent {
                writes: winners.map(|winner| (winner.stamp(), winner.write())).collect(),
                counters: merged.counters.iter().map(|(key, counter)| (*key, counter)).collect(),
                requests: merged.requests.iter().collect(),
                conflicts: merged.conflicts.iter().collect(),
                vector: &merged.vector,
            };
            snapshot::encode_marked(header, content, mark, &VersionVector::default(), Compression::None)
        });
        (name, file)
    }

    fn with_merged<T>(files: &[&File], read: impl FnOnce(Merged<'_>) -> T) -> T {
        let scans: Vec<Scan> = files.iter().map(|(name, file)| scan(name, file).expect("readable")).collect();
        let chunks: Vec<Chunk<'_>> =
            files.iter().zip(&scans).map(|((name, file), scan)| Chunk::new(name, scan, file).expect("whole")).collect();
        read(merge(&chunks))
    }

    /// What is added to "n", and whether nothing is missing.
    fn total(files: &[&File]) -> (i128, bool) {
        with_merged(files, |merged| {
            let winner = merged.winners.get("n").map_or(Stamp::ZERO, Slot::stamp);
            (merged.counters.get("n").map_or(0, |counter| counter.total(winner)), merged.is_complete())
        })
    }

    #[test]
    fn a_request_counts_once_although_its_frames_differ_on_two_servers() {
        let other = Record::Write { stamp: at(1, A), write: Write::Del { key: "other" } };
        let sync = Record::Sync(VersionVector::default());
        let both = |incarnation| [add(2, incarnation, Stamp::ZERO, 10), add(3, incarnation, Stamp::ZERO, 10)];
        let [a1, a2] = both(A);
        let [b1, b2] = both(B);
        let a = log(A, 1, &[], &[(true, &[other, a1, a2])]);
        let b = log(B, 1, &[], &[(true, &[b1.clone(), b2.clone()])]);
        assert_eq!(total(&[&a, &b]), (20, true), "a delete that one server had no need of");
        let b = log(B, 1, &[], &[(true, &[sync, b1, b2])]);
        assert_eq!(total(&[&b, &a]), (20, true), "a SYNC record before the increments");
    }

    #[test]
    fn what_is_damaged_in_one_chunk_shows_from_the_one_that_repeats_it() {
        let del = Record::Write { stamp: at(2, A), write: Write::Del { key: "n" } };
        let other = Record::Write { stamp: at(3, A), write: Write::Del { key: "other" } };
        let first = |frames: &[(bool, &[Record<'static>])]| log(A, 1, &[], frames);
        let (del, other) = ([del], [other]);
        let whole = first(&[(false, &[put(1, A)]), (false, &del), (false, &other)]);
        let lost_from = first(&[(false, &[put(1, A)])]).1.len();
        // A bit of the checksum, so that it is rot, behind which reading goes on.
        let mut damaged = whole.clone();
        damaged.1[lost_from + 3] ^= 1;
        let scanned = scan(&damaged.0, &damaged.1).expect("readable");
        assert!(scanned.damage.is_some() && scanned.frames.len() == 2, "{scanned:?}");
        let again = log(A, 2, &[(A, 1)], &[(false, &del), (false, &other)]);
        let shown = |files: &[&File]| {
            with_merged(files, |merged| merged.winners.get("n").map(|slot| (slot.stamp(), slot.is_tombstone())))
        };
        assert_eq!(shown(&[&damaged]), Some((at(1, A), false)), "nothing else tells of the delete");
        assert_eq!(shown(&[&damaged, &again]), Some((at(2, A), true)));
        assert_eq!(shown(&[&whole, &again]), shown(&[&again, &damaged]), "in whatever order");
    }

    #[test]
    fn twins_on_different_bases_both_stay() {
        let base = |hlc, incarnation| at(hlc, incarnation);
        let a = log(A, 1, &[], &[(false, &[put(1, A)]), (true, &[add(2, A, base(1, A), 10)])]);
        let b = log(B, 1, &[], &[(false, &[put(3, B)]), (true, &[add(4, B, base(3, B), 10)])]);
        assert_eq!(total(&[&a, &b]), (10, true), "the base of the first lost, so the second counts");
    }

    #[test]
    fn a_twin_that_was_deleted_with_its_base_is_not_taken_back() {
        let delete = Record::Write { stamp: at(6, A), write: Write::Del { key: "n" } };
        let b = log(B, 1, &[], &[(true, &[add(2, B, Stamp::ZERO, 10)])]);
        let a = log(A, 1, &[], &[(true, &[add(4, A, Stamp::ZERO, 10)]), (false, &[delete])]);
        let purged = snap(A, 2, &[&a], Some(at(7, A)));
        assert_eq!(total(&[&purged, &a, &b]), (10, true));
        assert_eq!(total(&[&purged, &b]), (10, true), "with and without the log that the snapshot covers");
    }

    #[test]
    fn increments_that_a_snapshot_dropped_do_not_come_back_from_an_older_one() {
        let a = log(A, 1, &[], &[(false, &[add(1, A, Stamp::ZERO, 10)])]);
        let older = snap(A, 2, &[&a], None);
        let delete = Record::Write { stamp: at(3, B), write: Write::Del { key: "n" } };
        let b = log(B, 1, &[(A, 1)], &[(false, &[delete])]);
        let purged = snap(B, 2, &[&a, &b], Some(at(4, B)));
        assert_eq!(total(&[&older, &purged]), (0, true));
        let also_purged = snap(A - 1, 1, &[&a, &b], Some(at(4, A - 1)));
        assert_eq!(total(&[&older, &also_purged, &b]), (0, true), "whatever the order of their names");
    }

    #[test]
    fn a_log_waits_for_the_log_before_it() {
        let first = log(A, 1, &[(B, 50)], &[(false, &[add(1, A, Stamp::ZERO, 10)])]);
        let second = log(A, 2, &[], &[(false, &[add(2, A, Stamp::ZERO, 3)])]);
        assert_eq!(total(&[&first, &second]), (13, false), "not known without a gap, but counted");
        with_merged(&[&first, &second], |merged| {
            assert_eq!(merged.vector.get(A), 0);
            assert_eq!(merged.written, vector(&[(A, 2)]), "what the next log of that writer has to name");
        });
    }

    #[test]
    fn a_log_begun_after_a_marked_snapshot_asks_for_it() {
        let delete = Record::Write { stamp: at(1, A), write: Write::Del { key: "n" } };
        let old = log(A, 1, &[], &[(false, &[delete])]);
        let purged = snap(A, 2, &[&old], Some(at(2, A)));
        let new = log(A, 3, &[(A, 2)], &[(false, &[add(3, A, Stamp::ZERO, 10)])]);
        assert!(!total(&[&old, &new]).1, "the tombstone is still here, the snapshot that left it out is not");
        assert_eq!(total(&[&old, &purged, &new]), (10, true));
    }

    #[test]
    fn an_unfinished_snapshot_does_not_ask_for_its_own_mark() {
        let delete = Record::Write { stamp: at(1, A), write: Write::Del { key: "n" } };
        let old = log(A, 1, &[], &[(false, &[delete])]);
        let (name, mut file) = snap(A, 2, &[&old], Some(at(2, A)));
        file.truncate(file.len() - 1);
        assert_eq!(total(&[&old, &(name, file)]), (0, true));
    }

    #[test]
    fn an_unfinished_snapshot_counts_nothing_that_a_log_counts_already() {
        let frames = [(false, &[add(1, A, Stamp::ZERO, 10)][..]), (false, &[add(2, A, Stamp::ZERO, 3)][..])];
        let part = log(A, 1, &[], &frames[..1]);
        let (name, mut file) = snap(B, 1, &[&log(A, 1, &[], &frames)], None);
        file.truncate(file.len() - 1);
        assert_eq!(total(&[&part, &(name, file)]), (10, false));
    }

    /// The conflicts on "n": stamp, whether the write itself is one, what was added to it.
    fn conflicts(files: &[&File]) -> Vec<(Stamp, bool, i128)> {
        let added = |lost: &Lost| lost.sums.iter().map(|sum| sum.part.total).sum();
        with_merged(files, |merged| {
            merged.conflicts.iter().map(|lost| (lost.stamp, lost.write.is_some(), added(lost))).collect()
        })
    }

    fn write(hlc: u64, incarnation: u64, value: &'static [u8]) -> Record<'static> {
        let write = Write::Put { key: "n", value, expires: None, age: None, content_type: None };
        Record::Write { stamp: at(hlc, incarnation), write }
    }

    #[test]
    fn of_two_writes_that_had_not_seen_each_other_the_last_of_the_loser_is_a_conflict() {
        let a = log(A, 1, &[], &[(false, &[write(1, A, b"1")]), (false, &[write(3, A, b"3")])]);
        let b = log(B, 1, &[], &[(false, &[write(2, B, b"2")]), (false, &[write(4, B, b"4")])]);
        let lost = [(at(3, A), true, 0)];
        assert_eq!(conflicts(&[&a, &b]), lost);
        assert_eq!(conflicts(&[&b, &a, &b]), lost);
        let here = snap(A, 2, &[&a, &b], None);
        let there = snap(B, 2, &[&b, &a], None);
        assert_eq!(conflicts(&[&here]), lost, "a snapshot keeps it");
        assert_eq!(conflicts(&[&here, &there, &a]), lost, "compacted on both sides it is still one");
        let apart = [&snap(A, 2, &[&a], None), &snap(B, 2, &[&b], None)];
        assert_eq!(conflicts(&apart), lost, "snapshots of either side show it as well");
    }

    #[test]
    fn a_write_that_had_seen_the_other_or_did_the_same_is_no_conflict() {
        let a = log(A, 1, &[], &[(false, &[write(1, A, b"1")])]);
        let sync = Record::Sync(vector(&[(A, 1)]));
        let seen = log(B, 1, &[], &[(false, &[sync, write(2, B, b"2")])]);
        assert_eq!(conflicts(&[&a, &seen]), []);
        let named = log(B, 1, &[(A, 1)], &[(false, &[write(2, B, b"2")])]);
        assert_eq!(conflicts(&[&a, &named]), []);
        let same = log(B, 1, &[], &[(false, &[write(2, B, b"1")])]);
        assert_eq!(conflicts(&[&a, &same]), []);
    }

    #[test]
    fn a_conflict_stays_when_somebody_writes_over_what_won() {
        let a = log(A, 1, &[], &[(false, &[write(1, A, b"1")])]);
        let b = log(B, 1, &[], &[(false, &[write(2, B, b"2")])]);
        let compacted = snap(A, 2, &[&a, &b], None);
        // Another server had read both, and then writes at the same time as the first.
        let over = log(A, 3, &[(A, 1), (B, 2)], &[(false, &[write(5, A, b"5")])]);
        let other = log(B, 3, &[(A, 1), (B, 2)], &[(false, &[write(6, B, b"6")])]);
        assert_eq!(conflicts(&[&a, &b, &over]), [(at(1, A), true, 0)]);
        let both = [(at(5, A), true, 0), (at(1, A), true, 0)];
        assert_eq!(conflicts(&[&a, &b, &over, &other]), both);
        let again = snap(A, 4, &[&compacted, &over], None);
        assert_eq!(conflicts(&[&again, &other]), both, "what the later one had built on is in no file any more");
    }

    #[test]
    fn what_a_write_had_built_on_is_known_from_a_log_that_a_snapshot_covers() {
        let b = log(B, 1, &[], &[(false, &[write(1, B, b"1")])]);
        let a = log(A, 1, &[], &[(false, &[write(2, A, b"2")]), (false, &[write(3, A, b"3")])]);
        let (there, here) = (snap(B, 2, &[&b], None), snap(A, 2, &[&a], None));
        // It had seen the first two, so it replaced the second; the third it had not seen.
        let last = log(B, 3, &[(B, 1), (A, 2)], &[(false, &[write(4, B, b"4")])]);
        let lost = [(at(3, A), true, 0), (at(1, B), true, 0)];
        assert_eq!(conflicts(&[&there, &here, &a, &last]), lost);
        assert_eq!(conflicts(&[&snap(A, 4, &[&there, &here, &a, &last], None)]), lost);
    }

    #[test]
    fn increments_on_a_value_that_was_replaced_unseen_are_one_conflict() {
        let base = at(1, A);
        let a = log(A, 1, &[], &[(false, &[write(1, A, b"1")]), (false, &[add(2, A, base, 10)])]);
        let late = log(A, 2, &[(A, 2)], &[(false, &[add(4, A, base, 3)]), (false, &[add(5, A, base, 4)])]);
        let b = log(B, 1, &[(A, 2)], &[(false, &[write(6, B, b"0")])]);
        assert_eq!(conflicts(&[&a, &b]), [], "it had seen the first of them");
        assert_eq!(conflicts(&[&a, &late, &b]), [(base, false, 7)]);
        let compacted = snap(B, 2, &[&a, &late, &b], None);
        assert_eq!(conflicts(&[&compacted, &late]), [(base, false, 7)]);
        let unseen = log(B, 1, &[], &[(false, &[write(6, B, b"0")])]);
        assert_eq!(conflicts(&[&a, &unseen]), [(base, true, 10)], "a lost value goes with what was added to it");
    }

    #[test]
    fn lost_increments_that_came_loose_are_no_sum_of_all_that_their_writer_added() {
        let increment = |hlc| Write::Add { key: "n", pointer: "", base: Stamp::ZERO, delta: hlc };
        let own = |hlc: u64| Record::Write { stamp: at(hlc, A), write: increment(hlc as i64) };
        let copy = |hlc: u64| Record::Adopted { stamp: at(hlc, A), write: increment(hlc as i64) };
        let first = log(A, 1, &[], &[(false, &[own(1), own(2)])]);
        let second = log(A, 2, &[(A, 2)], &[(false, &[own(3), own(4)])]);
        // One server had only the second of them, and another only what that one copied.
        let copied = log(C, 1, &[], &[(false, &[copy(3), copy(4)])]);
        let over = log(B, 1, &[], &[(false, &[write(6, B, b"0")])]);
        let partly = snap(B, 2, &[&copied, &over], None);
        assert_eq!(conflicts(&[&partly]), [(Stamp::ZERO, false, 7)]);
        let all = [(Stamp::ZERO, false, 10)];
        assert_eq!(conflicts(&[&partly, &first]), all);
        assert_eq!(conflicts(&[&partly, &first, &second, &copied]), all);
        assert_eq!(conflicts(&[&partly, &snap(A, 3, &[&first], None)]), all);
        assert_eq!(conflicts(&[&partly, &snap(A, 3, &[&first, &second], None)]), all);
        assert_eq!(conflicts(&[&partly, &snap(A, 3, &[&first, &second, &over], None)]), all);
    }

    #[test]
    fn an_increment_that_came_loose_and_was_replaced_on_purpose_is_not_lost_where_an_older_snapshot_tells_of_it() {
        let base = at(1, A);
        let a = log(A, 1, &[], &[(false, &[put(1, A)])]);
        let copy = Record::Adopted { stamp: at(3, A), write: Write::Add { key: "n", pointer: "", base, delta: 10 } };
        let copied = log(C, 1, &[(A, 1)], &[(false, &[copy]), (false, &[add(4, C, base, 1)])]);
        let older = snap(B, 1, &[&a, &copied], None);
        let over = log(B, 2, &[(A, 1), (C, 4)], &[(false, &[write(6, B, b"0")])]);
        assert_eq!(conflicts(&[&a, &copied, &older, &over]), [], "it had seen the increments");
        let younger = snap(B, 3, &[&older, &copied, &over], None);
        assert_eq!(conflicts(&[&older, &younger, &copied]), []);
        let unseen = log(B, 2, &[(A, 1)], &[(false, &[write(6, B, b"0")])]);
        let younger = snap(B, 3, &[&older, &copied, &unseen], None);
        assert_eq!(conflicts(&[&older, &younger, &copied]), [(base, false, 11)]);
    }

    #[test]
    fn a_tombstone_stays_as_long_as_a_record_below_it_is_here_that_came_loose() {
        let Record::Write { stamp, write } = put(3, A) else { unreachable!() };
        let copied = log(C, 1, &[], &[(false, &[Record::Adopted { stamp, write }])]);
        let del = Record::Write { stamp: at(6, B), write: Write::Del { key: "n" } };
        let deleted = log(B, 1, &[], &[(false, std::slice::from_ref(&del))]);
        let left_out = |files: &[&File]| {
            let none_is_kept = Retention { now: Timestamp::MAX, tombstones: Duration::ZERO, expired: Duration::ZERO };
            with_merged(files, |merged| {
                none_is_kept.left_out(&State::of_merged(merged, CopyState::Complete, Vec::new())).len()
            })
        };
        assert_eq!(left_out(&[&deleted]), 1);
        assert_eq!(left_out(&[&deleted, &copied]), 0, "its own writer's file is lost");
        let compacted = snap(C, 2, &[&copied], None);
        assert_eq!(left_out(&[&deleted, &compacted]), 0, "a snapshot holds it beyond its vector");
        let first = log(A, 1, &[], &[(false, &[put(3, A)])]);
        assert_eq!(left_out(&[&deleted, &copied, &compacted, &first]), 1, "it is no longer loose");
        // This is why.
        let shown = |files: &[&File]| with_merged(files, |merged| merged.winners.get("n").map(Slot::stamp));
        let without = snap(B, 2, &[&deleted, &copied], Some(at(7, B)));
        assert_eq!(shown(&[&without, &copied]), Some(at(3, A)));
        assert_eq!(shown(&[&snap(B, 2, &[&deleted, &copied], None), &copied]), Some(at(6, B)));
    }

    #[test]
    fn an_increment_that_its_twin_counts_is_not_lost() {
        let a = log(A, 1, &[], &[(false, &[put(1, A)]), (true, &[add(2, A, at(1, A), 10)])]);
        let b = log(B, 1, &[], &[(false, &[put(3, B)]), (true, &[add(4, B, at(3, B), 10)])]);
        assert_eq!(conflicts(&[&a, &b]), [], "both put 1 and both counted 10");
    }
}
