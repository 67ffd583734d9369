//! Finding conflicts: which writes to a key lost although nobody had replaced them on purpose.
//!
//! A write replaces on purpose the greatest write to its key that its server had seen: the one that
//! showed there. What nobody has replaced so and does not show is in conflict. What a server had seen
//! stands in the header of its log and in the SYNC records before the write.
//!
//! Snapshots hold only what shows and what is in conflict. So each conflict keeps its rivals, the first
//! write of every incarnation above it: whoever had seen one of them did not build on the loser, also
//! when the write he built on is in no file any more.
//!
//! The merge notes keys on which anything of this can have happened; all others cost nothing here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::conflict::{KEPT_AT_MOST, Lost, did_the_same, process_name};
use crate::counter::Sum;
use crate::format::record::{ConflictRecord, CounterRecord, Record, Subtotal, Write};
use crate::hashing::KeyHashing;
use crate::layout::ChunkKind;
use crate::merge::{ByKey, Chunk, Merged};
use crate::slot::Slot;
use crate::stamp::{Stamp, Timestamp};
use crate::vector::VersionVector;

/// The conflicts on contended keys, the newest first. `base` is what valid snapshots cover.
pub(crate) fn conflicts<'a>(chunks: &'a [Chunk<'a>], merged: &Merged<'a>, base: &VersionVector) -> Vec<Lost> {
    let contended = &merged.contended;
    if contended.is_empty() {
        return Vec::new();
    }
    let mut order: Vec<&Chunk<'_>> = chunks.iter().collect();
    order.sort_by_key(|chunk| chunk.name);
    let mut gathering =
        Gathering { base, contended, contexts: Vec::new(), aliases: HashMap::default(), keys: ByKey::default() };
    let snaps = gathering.read_snaps(&order);
    gathering.read_logs(&order);
    gathering.leave_out_judged_adds(&snaps);
    let judge = Judge {
        merged,
        contexts: &gathering.contexts,
        aliases: &gathering.aliases,
        servers: order.iter().map(|chunk| (chunk.name.incarnation, &*chunk.name.server)).collect(),
        counted_elsewhere: counted_elsewhere(merged),
    };
    let mut lost: Vec<Lost> = gathering.keys.into_iter().flat_map(|(key, entries)| judge.judge(key, entries)).collect();
    lost.sort_unstable_by(|a, b| (b.stamp, &a.key).cmp(&(a.stamp, &b.key)));
    lost.truncate(KEPT_AT_MOST);
    lost
}

/// A PUT or DEL, with what is known of it and of the increments on it.
#[derive(Debug, Default)]
struct Entry<'a> {
    /// `None` where only increments name it.
    write: Option<Write<'a>>,
    /// What its writer had seen; `None` where only a snapshot tells of it.
    context: Option<usize>,
    /// What snapshots say of it as a conflict.
    recorded: Option<Recorded<'a>>,
    /// Increments that snapshots tell of.
    sums: BTreeMap<(&'a str, u64), SumOf>,
    /// Increments that stand alone: those in logs, and what came loose.
    adds: BTreeMap<Stamp, LooseAdd<'a>>,
    /// The writes that replaced it on purpose.
    replacements: Vec<Stamp>,
    /// A log still tells of a write here that a snapshot covers: it counts for nothing, but whoever had seen
    /// it did not build on anything below it.
    is_covered: bool,
}

#[derive(Debug, Default)]
struct Recorded<'a> {
    /// Whether the write itself was in conflict, not only increments on it.
    is_write: bool,
    rivals: BTreeSet<Stamp>,
    found: Option<Timestamp>,
    server: &'a str,
    winner: &'a str,
}

#[derive(Debug, Clone, Copy)]
struct SumOf {
    part: Subtotal,
    in_conflict: bool,
}

#[derive(Debug, Clone, Copy)]
struct LooseAdd<'a> {
    pointer: &'a str,
    delta: i64,
}

/// For a record of which there are copies in the logs of others the places of those: whoever has seen what was
/// written there has seen the record.
type Aliases = HashMap<Stamp, Vec<Stamp>, KeyHashing>;

type Entries<'a> = BTreeMap<Stamp, Entry<'a>>;

/// What the files say of the contended keys.
struct Gathering<'a, 'g> {
    base: &'g VersionVector,
    contended: &'g HashSet<&'a str, KeyHashing>,
    contexts: Vec<VersionVector>,
    aliases: Aliases,
    keys: ByKey<'a, Entries<'a>>,
}

/// What one snapshot holds of the contended keys.
struct Holding<'a> {
    seen: VersionVector,
    records: Vec<Record<'a>>,
    writes: HashSet<(&'a str, Stamp), KeyHashing>,
    sums: HashSet<(&'a str, &'a str, Stamp, u64), KeyHashing>,
    /// Increments that stand alone.
    adds: HashSet<Stamp, KeyHashing>,
}

impl<'a> Holding<'a> {
    fn of(chunk: &'a Chunk<'a>, contended: &HashSet<&'a str, KeyHashing>) -> Holding<'a> {
        let mut holding = Holding {
            seen: chunk.seen(),
            records: Vec::new(),
            writes: HashSet::default(),
            sums: HashSet::default(),
            adds: HashSet::default(),
        };
        for record in (0..chunk.frame_count()).flat_map(|index| chunk.frame(index).1) {
            holding.take(record, contended);
        }
        holding
    }

    fn take(&mut self, record: Record<'a>, contended: &HashSet<&'a str, KeyHashing>) {
        let Some(key) = key_of(&record).filter(|key| contended.contains(key)) else { return };
        match &record {
            Record::Write { stamp, .. } => {
                self.writes.insert((key, *stamp));
            }
            Record::Counter(counter) => {
                self.sums.extend(counter.sums.iter().map(|part| (key, counter.pointer, counter.base, part.incarnation)))
            }
            Record::Conflict(conflict) => {
                self.writes.extend(conflict.write.as_ref().map(|_| (key, conflict.stamp)));
                for (pointer, part) in &conflict.sums {
                    match single(&self.seen, part) {
                        Some((add, _)) => drop(self.adds.insert(add)),
                        None => drop(self.sums.insert((key, *pointer, conflict.stamp, part.incarnation))),
                    }
                }
            }
            Record::Adopted { stamp, .. } => drop(self.adds.insert(*stamp)),
            _ => {}
        }
        self.records.push(record);
    }

    fn dropped(&self, key: &'a str, stamp: Stamp) -> bool {
        self.seen.saw(stamp) && !self.writes.contains(&(key, stamp))
    }

    fn dropped_sum(&self, key: &'a str, pointer: &'a str, base: Stamp, part: &Subtotal) -> bool {
        self.seen.saw(part.last()) && !self.sums.contains(&(key, pointer, base, part.incarnation))
    }
}

/// An increment of which a snapshot tells that does not know all of its writer's: it stands alone.
fn single(seen: &VersionVector, part: &Subtotal) -> Option<(Stamp, i64)> {
    let is_one = part.first_hlc == part.last_hlc && !seen.saw(part.last());
    let delta = i64::try_from(part.total).ok().filter(|_| is_one)?;
    Some((part.last(), delta))
}

fn key_of<'a>(record: &Record<'a>) -> Option<&'a str> {
    match record {
        Record::Write { write, .. } | Record::Adopted { write, .. } => Some(write.key()),
        Record::Counter(counter) => Some(counter.key),
        Record::Conflict(conflict) => Some(conflict.key),
        Record::Sync(_) | Record::Key(_) => None,
    }
}

impl<'a> Gathering<'a, '_> {
    fn entry(&mut self, key: &'a str, stamp: Stamp) -> &mut Entry<'a> {
        self.keys.entry(key).or_default().entry(stamp).or_default()
    }

    /// Answers what each of them holds.
    fn read_snaps(&mut self, chunks: &[&'a Chunk<'a>]) -> Vec<Holding<'a>> {
        let is_snap = |chunk: &&&'a Chunk<'a>| chunk.name.kind == ChunkKind::Snap && chunk.scan.is_valid();
        let mut snaps: Vec<Holding<'a>> =
            chunks.iter().filter(is_snap).map(|chunk| Holding::of(chunk, self.contended)).collect();
        for at in 0..snaps.len() {
            let records = std::mem::take(&mut snaps[at].records);
            let others: Vec<&Holding<'a>> =
                snaps.iter().enumerate().filter(|&(other, _)| other != at).map(|(_, snap)| snap).collect();
            records.into_iter().for_each(|record| self.take_snap_record(record, &snaps[at].seen, &others));
        }
        snaps
    }

    fn take_snap_record(&mut self, record: Record<'a>, seen: &VersionVector, others: &[&Holding<'a>]) {
        let lives = |key, stamp| !others.iter().any(|other| other.dropped(key, stamp));
        match record {
            Record::Write { stamp, write } if lives(write.key(), stamp) => {
                self.entry(write.key(), stamp).write = Some(write);
            }
            Record::Adopted { stamp, write } => self.take_adopted(stamp, write),
            Record::Counter(CounterRecord { key, pointer, base, sums }) => {
                for part in sums.into_iter().filter(|p| !others.iter().any(|o| o.dropped_sum(key, pointer, base, p))) {
                    self.entry(key, base).take_sum(pointer, SumOf { part, in_conflict: false });
                }
            }
            Record::Conflict(conflict) => self.take_conflict(conflict, seen, others),
            _ => {}
        }
    }

    fn take_conflict(&mut self, conflict: ConflictRecord<'a>, seen: &VersionVector, others: &[&Holding<'a>]) {
        let ConflictRecord { key, stamp, write, found, server, sums, rivals, winner } = conflict;
        let write = write.filter(|_| !others.iter().any(|other| other.dropped(key, stamp)));
        let base = self.base;
        let lives = |(pointer, part): &(&'a str, Subtotal)| match single(seen, part) {
            Some((add, _)) => !base.saw(add),
            None => !others.iter().any(|other| other.dropped_sum(key, pointer, stamp, part)),
        };
        let sums: Vec<(&'a str, Subtotal)> = sums.into_iter().filter(lives).collect();
        if write.is_none() && sums.is_empty() {
            return;
        }
        let entry = self.entry(key, stamp);
        entry.write = entry.write.or(write);
        for (pointer, part) in sums {
            match single(seen, &part) {
                Some((add, delta)) => drop(entry.adds.insert(add, LooseAdd { pointer, delta })),
                None => entry.take_sum(pointer, SumOf { part, in_conflict: true }),
            }
        }
        let found = Some(Timestamp::from_millis(found)).filter(|found| found.as_millis() > 0);
        let recorded = entry.recorded.get_or_insert_default();
        recorded.is_write |= write.is_some();
        recorded.rivals.extend(rivals);
        recorded.found = [recorded.found, found].into_iter().flatten().min();
        recorded.server = recorded.server.max(server);
        recorded.winner = recorded.winner.max(winner);
    }

    fn read_logs(&mut self, chunks: &[&'a Chunk<'a>]) {
        for chunk in chunks.iter().filter(|chunk| chunk.name.kind == ChunkKind::Log) {
            let mut known = chunk.scan.header.vector.clone();
            let mut context = None;
            for record in (0..chunk.frame_count()).flat_map(|index| chunk.frame(index).1) {
                self.take_log_record(record, chunk.name.incarnation, &mut known, &mut context);
            }
        }
    }

    /// `known` is what the writer says it had seen; `context` its index, once some record needed it.
    fn take_log_record(
        &mut self,
        record: Record<'a>,
        writer: u64,
        known: &mut VersionVector,
        context: &mut Option<usize>,
    ) {
        let key = key_of(&record).filter(|key| self.contended.contains(key));
        match record {
            Record::Sync(news) => {
                known.join(&news);
                *context = None;
            }
            Record::Write { stamp, write } => {
                if self.base.saw(stamp) {
                    let is_increment = matches!(write, Write::Add { .. });
                    key.filter(|_| !is_increment).into_iter().for_each(|key| self.entry(key, stamp).is_covered = true);
                } else if key.is_some() {
                    let context = *context.get_or_insert_with(|| {
                        self.contexts.push(known.clone());
                        self.contexts.len() - 1
                    });
                    self.take_own(stamp, write, context);
                }
                known.learn(stamp);
            }
            Record::Adopted { stamp, write } if key.is_some() => {
                // Everything this writer writes from here on has seen it.
                let alias = Stamp { hlc: known.get(writer) + 1, incarnation: writer };
                self.aliases.entry(stamp).or_default().push(alias);
                self.take_adopted(stamp, write);
            }
            _ => {}
        }
    }

    /// What a snapshot covers behind a copy of an increment was written by somebody who had seen it, and the snapshot
    /// judged it: it tells of the increment, or that was replaced on purpose, which nothing else tells any more.
    fn leave_out_judged_adds(&mut self, snaps: &[Holding<'a>]) {
        let Gathering { aliases, keys, .. } = self;
        let is_judged = |stamp: &Stamp| {
            let mut copies = aliases.get(stamp).into_iter().flatten();
            copies.any(|&copy| snaps.iter().any(|snap| snap.seen.saw(copy) && !snap.adds.contains(stamp)))
        };
        for entry in keys.values_mut().flat_map(BTreeMap::values_mut) {
            entry.adds.retain(|stamp, _| !is_judged(stamp));
        }
    }

    fn take_own(&mut self, stamp: Stamp, write: Write<'a>, context: usize) {
        match write {
            Write::Add { key, pointer, base, delta } => {
                self.entry(key, base).adds.insert(stamp, LooseAdd { pointer, delta });
            }
            _ => {
                let entry = self.entry(write.key(), stamp);
                // A copy in another file may stand behind more than its writer knew then.
                (entry.write, entry.context) = (Some(write), entry.context.or(Some(context)));
            }
        }
    }

    fn take_adopted(&mut self, stamp: Stamp, write: Write<'a>) {
        if self.base.saw(stamp) {
            return;
        }
        match write {
            Write::Add { key, pointer, base, delta } => {
                self.entry(key, base).adds.insert(stamp, LooseAdd { pointer, delta });
            }
            _ => {
                let entry = self.entry(write.key(), stamp);
                entry.write = entry.write.or(Some(write));
            }
        }
    }
}

impl<'a> Entry<'a> {
    /// Of several sums of one process the one that reaches furthest, and of equals the one that knows what was lost.
    fn take_sum(&mut self, pointer: &'a str, sum: SumOf) {
        let rank = |sum: &SumOf| (sum.part.last_hlc, sum.in_conflict, sum.part.first_hlc, sum.part.total);
        let held = self.sums.entry((pointer, sum.part.incarnation)).or_insert(sum);
        if rank(&sum) > rank(held) {
            *held = sum;
        }
    }
}

/// Increments of lost bases that count on the winning base, because the request came to both.
fn counted_elsewhere(merged: &Merged<'_>) -> HashSet<Stamp, KeyHashing> {
    let mut elsewhere = HashSet::default();
    for adds in merged.requests.iter().map(|(_, memory)| memory.adds()).filter(|adds| adds.len() > 1) {
        let wins = |key: &str, base| merged.winners.get(key).is_some_and(|winner| winner.stamp() == base);
        for add in adds {
            let twin = |other: &&crate::merge::RememberedAdd| {
                (other.position, &other.key, &other.add.pointer, other.add.delta)
                    == (add.position, &add.key, &add.add.pointer, add.add.delta)
                    && other.add.base != add.add.base
            };
            if adds.iter().filter(twin).any(|other| wins(&other.key, other.add.base)) {
                elsewhere.insert(add.add.stamp);
            }
        }
    }
    elsewhere
}

struct Judge<'a, 'j> {
    merged: &'j Merged<'a>,
    contexts: &'j [VersionVector],
    aliases: &'j Aliases,
    /// Which server an incarnation is of, as far as files tell.
    servers: HashMap<u64, &'a str, KeyHashing>,
    counted_elsewhere: HashSet<Stamp, KeyHashing>,
}

impl<'a> Judge<'a, '_> {
    fn judge(&self, key: &'a str, mut entries: Entries<'a>) -> Vec<Lost> {
        self.find_replacements(&mut entries);
        let winner = self.merged.winners.get(key).map(Slot::stamp);
        let loses = |stamp: Stamp, entry: &Entry<'_>| {
            Some(stamp) != winner && (entry.recorded.is_some() || winner.is_some_and(|winner| stamp < winner))
        };
        let losers = entries.iter().filter(|&(&stamp, entry)| loses(stamp, entry));
        losers.filter_map(|(&stamp, entry)| self.lost(key, stamp, entry, &entries)).collect()
    }

    fn find_replacements(&self, entries: &mut Entries<'a>) {
        let mut found = Vec::new();
        for (&later, entry) in entries.iter() {
            let Some(context) = entry.context else { continue };
            let sees = |stamp: Stamp| self.sees(later, context, stamp);
            let seen = entries.range(..later).rev().find(|(stamp, _)| sees(**stamp));
            let Some((&stamp, replaced)) = seen else { continue };
            let rivals = replaced.recorded.as_ref().map(|recorded| &recorded.rivals);
            if !rivals.into_iter().flatten().any(|&rival| rival != later && sees(rival)) {
                found.push((stamp, later));
            }
        }
        for (stamp, later) in found {
            entries.entry(stamp).or_default().replacements.push(later);
        }
    }

    /// Whether the writer of `later` had seen a record when it wrote that.
    fn sees(&self, later: Stamp, context: usize, stamp: Stamp) -> bool {
        let mut aliases = self.aliases.get(&stamp).into_iter().flatten();
        stamp == Stamp::ZERO
            || self.sees_all_up_to(later, context, stamp)
            || aliases.any(|&alias| alias == later || self.sees_all_up_to(later, context, alias))
    }

    /// The same of a record and all that its writer wrote before: a copy of it alone does not tell that.
    fn sees_all_up_to(&self, later: Stamp, context: usize, stamp: Stamp) -> bool {
        match stamp.incarnation == later.incarnation {
            true => stamp.hlc < later.hlc,
            false => self.contexts[context].saw(stamp),
        }
    }

    /// What of an entry that does not show was lost unseen.
    fn lost(&self, key: &'a str, stamp: Stamp, entry: &Entry<'a>, entries: &Entries<'a>) -> Option<Lost> {
        let rivals = rivals(stamp, entry, entries);
        // What only a snapshot tells of and no vector covers is too old to judge, or came here on a detour.
        let is_recorded = entry.recorded.as_ref().is_some_and(|recorded| recorded.is_write);
        let can_tell = is_recorded || entry.context.is_some() || self.merged.vector.saw(stamp);
        let is_replaced = !entry.replacements.is_empty() || !can_tell;
        let write = entry.write.filter(|write| !is_replaced && !matches!(write, Write::Add { .. }));
        let sums = self.lost_sums(stamp, entry, entries);
        let same = |rival: &Stamp| {
            let rival = entries.get(rival).and_then(|entry| entry.write);
            write.zip(rival).is_some_and(|(write, rival)| did_the_same(&write, &rival))
        };
        if rivals.is_empty() || sums.is_empty() && (write.is_none() || rivals.iter().any(same)) {
            return None;
        }
        let recorded = entry.recorded.as_ref();
        let author = if write.is_some() { Some(stamp.incarnation) } else { only_author(&sums) };
        Some(Lost {
            key: key.into(),
            stamp,
            write: write.map(|write| Slot::of_write(stamp, &write)),
            server: self.server(author, recorded.map_or("", |recorded| recorded.server)),
            winner: self.server(Some(rivals[0].incarnation), recorded.map_or("", |recorded| recorded.winner)),
            found: recorded.and_then(|recorded| recorded.found),
            sums,
            rivals,
        })
    }

    fn server(&self, incarnation: Option<u64>, recorded: &str) -> Box<str> {
        let known = incarnation.and_then(|incarnation| self.servers.get(&incarnation).copied());
        match (known, incarnation) {
            (Some(known), _) => known.into(),
            (None, Some(incarnation)) if recorded.is_empty() => process_name(incarnation).into(),
            _ => recorded.into(),
        }
    }

    /// The increments on a base that none of the writes which replaced it had seen: in a sum for each writer, but one by
    /// one where not all of a writer's are known. Such sums could not be joined with what else becomes known.
    fn lost_sums(&self, base: Stamp, entry: &Entry<'a>, entries: &Entries<'a>) -> Vec<Sum> {
        let replacements: Vec<(Stamp, usize)> =
            entry.replacements.iter().filter_map(|stamp| Some((*stamp, entries.get(stamp)?.context?))).collect();
        let unseen = |stamp: Stamp| !replacements.iter().any(|&(later, context)| self.sees(later, context, stamp));
        let unseen_sum =
            |last: Stamp| !replacements.iter().any(|&(later, context)| self.sees_all_up_to(later, context, last));
        let mut sums: BTreeMap<(&str, u64, Option<u64>), Subtotal> = BTreeMap::new();
        for (&(pointer, incarnation), SumOf { part, in_conflict }) in &entry.sums {
            if unseen_sum(part.last()) && (*in_conflict || self.merged.vector.saw(part.last())) {
                sums.insert((pointer, incarnation, None), *part);
            }
        }
        // A snapshot may hold an increment in a sum and, where its writer's file is not all here, by itself.
        let whole = sums.clone();
        let is_counted = |stamp: Stamp, add: &LooseAdd<'_>| {
            let sum = whole.get(&(add.pointer, stamp.incarnation, None));
            sum.is_some_and(|part| (part.first_hlc..=part.last_hlc).contains(&stamp.hlc))
        };
        for (&stamp, add) in &entry.adds {
            if unseen(stamp) && !is_counted(stamp, add) && !self.counted_elsewhere.contains(&stamp) {
                let alone = Some(stamp.hlc).filter(|_| !self.merged.vector.saw(stamp));
                join(sums.entry((add.pointer, stamp.incarnation, alone)), stamp, add.delta);
            }
        }
        sums.into_iter().map(|((pointer, ..), part)| Sum { base, pointer: pointer.into(), part }).collect()
    }
}

/// Adds one increment to a sum.
fn join<K: Ord>(sum: std::collections::btree_map::Entry<'_, K, Subtotal>, stamp: Stamp, delta: i64) {
    let Stamp { hlc, incarnation } = stamp;
    let sum = sum.or_insert(Subtotal { incarnation, total: 0, first_hlc: hlc, last_hlc: hlc });
    sum.total += i128::from(delta);
    sum.first_hlc = sum.first_hlc.min(hlc);
    sum.last_hlc = sum.last_hlc.max(hlc);
}

fn only_author(sums: &[Sum]) -> Option<u64> {
    let author = sums.first()?.part.incarnation;
    sums.iter().all(|sum| sum.part.incarnation == author).then_some(author)
}

/// The first write of every incarnation above this one, sorted.
fn rivals(stamp: Stamp, entry: &Entry<'_>, entries: &Entries<'_>) -> Vec<Stamp> {
    let mut first: BTreeMap<u64, u64> = BTreeMap::new();
    let recorded = entry.recorded.iter().flat_map(|recorded| recorded.rivals.iter().copied());
    let is_write = |entry: &Entry<'_>| entry.write.is_some() || entry.is_covered;
    let here = entries.range(stamp..).skip(1).filter(|(_, entry)| is_write(entry)).map(|(stamp, _)| *stamp);
    for Stamp { hlc, incarnation } in recorded.chain(here) {
        let least = first.entry(incarnation).or_insert(hlc);
        *least = hlc.min(*least);
    }
    let mut rivals: Vec<Stamp> = first.into_iter().map(|(incarnation, hlc)| Stamp { hlc, incarnation }).collect();
    rivals.sort_unstable();
    rivals
}
