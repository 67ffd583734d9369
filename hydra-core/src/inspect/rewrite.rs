//! Writing again, in a new file, what can still be read of files that have to go: records keep their own
//! stamps, as copies of others' records do, so they count once wherever the originals turn up again.

use std::collections::{BTreeMap, HashMap};

use crate::engine::CopyState;
use crate::format::footer::Footer;
use crate::format::frame::{self, Frame, FrameKey};
use crate::format::header::{Header, node_of};
use crate::format::record::{KeyRecord, KeyedAdd, Record, StampCode, Subtotal, Write};
use crate::inspect::swamp::{Content, SwampOnDisk, content_of};
use crate::layout::{ChunkKind, ChunkName};
use crate::merge::{Chunk, Merged, merge};
use crate::stamp::Stamp;
use crate::vector::VersionVector;

/// Which files of a swamp stay, and which have to go so that the others are complete.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Indexes of files that stay.
    pub(super) keep: Vec<usize>,
    /// Indexes of files that go and of which something can be read.
    pub(super) rewrite: Vec<usize>,
    /// Indexes of files that go and of which nothing can be read, or nothing that belongs here.
    pub(super) drop: Vec<usize>,
    /// What the files that stay know without a gap.
    known: VersionVector,
    /// What the files that stay count, by key, base, pointer and incarnation.
    counted: HashMap<CounterPart, i128>,
}

/// A counter of one incarnation: key, base, pointer, incarnation.
type CounterPart = (String, Stamp, String, u64);

impl Plan {
    /// `None` when a newer version wrote some of the files: then nothing may be done.
    pub(super) fn of(swamp: &SwampOnDisk) -> Option<Plan> {
        let packed = swamp.view().packed;
        let mut plan = Plan::default();
        let mut staying = Vec::new();
        for (at, file) in swamp.files.iter().enumerate() {
            match &file.content {
                Content::Newer(_) => return None,
                Content::Chunk(_) if packed.contains(&at) => plan.drop.push(at),
                Content::Chunk(scan) if scan.damage.is_none() => staying.push(at),
                Content::Chunk(_) => plan.rewrite.push(at),
                Content::Empty => plan.keep.push(at),
                _ => plan.drop.push(at),
            }
        }
        loop {
            let chunks: Vec<Chunk<'_>> = staying.iter().map(|&at| chunk_of(swamp, at)).collect::<Option<_>>()?;
            let merged = merge(&chunks);
            if !merged.not_understood.is_empty() {
                return None;
            }
            let mut waiting: Vec<usize> = merged.unattached.iter().map(|&(at, _)| at).collect();
            waiting.extend(&merged.unusable);
            if waiting.is_empty() {
                plan.known = merged.vector.clone();
                plan.counted = counted(&merged);
                plan.keep.extend(&staying);
                return Some(plan);
            }
            waiting.sort_unstable();
            waiting.dedup();
            drop(merged);
            for at in waiting.into_iter().rev() {
                plan.rewrite.push(staying.remove(at));
            }
        }
    }

    /// What the files that stay know without a gap.
    pub(super) fn known(&self) -> &VersionVector {
        &self.known
    }

    /// Whether nothing has to go.
    pub(super) fn is_empty(&self) -> bool {
        self.rewrite.is_empty() && self.drop.is_empty()
    }
}

fn chunk_of(swamp: &SwampOnDisk, at: usize) -> Option<Chunk<'_>> {
    let file = &swamp.files[at];
    Chunk::new(&file.name, file.scan()?, &file.bytes)
}

fn counted(merged: &Merged<'_>) -> HashMap<CounterPart, i128> {
    let mut counted = HashMap::new();
    for (key, counter) in &merged.counters {
        for sum in counter.sums() {
            let part = ((*key).to_owned(), sum.base, sum.pointer.to_string(), sum.part.incarnation);
            *counted.entry(part).or_insert(0) += sum.part.total;
        }
    }
    counted
}

/// A new file that holds again what could be read.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) name: ChunkName,
    pub(super) bytes: Vec<u8>,
    /// How many records it holds.
    pub(super) records: u64,
    /// Sums that do not fit into one increment; they are lost.
    pub(super) too_large: u64,
    /// Remembered requests that cannot be carried over: when they come again they count again.
    pub(super) forgotten: u64,
}

/// Writes the files that have to go again, as a closed log of a new incarnation; `None` when nothing
/// of them can be read.
pub(super) fn rewrite(swamp: &SwampOnDisk, plan: &Plan, server: &str, incarnation: u64) -> Option<Rewritten> {
    let view = swamp.view();
    let going: Vec<&Chunk<'_>> =
        view.chunks.iter().zip(&view.at).filter(|(_, at)| plan.rewrite.contains(at)).map(|(chunk, _)| chunk).collect();
    let newest = going.iter().map(|chunk| &chunk.scan.header).chain(view.chunks.iter().map(|chunk| &chunk.scan.header));
    let newest = newest.max_by_key(|header| header.base_hlc)?;
    let name = ChunkName { incarnation, seq: 1, kind: ChunkKind::Log, server: server.to_owned() };
    let header = Header {
        kind: ChunkKind::Log,
        incarnation,
        node: node_of(server),
        seq: 1,
        base_hlc: newest.base_hlc + 1,
        vector: plan.known.clone(),
        ..newest.clone()
    };
    let mut writer = Writer::new(&header, plan);
    going.iter().filter(|chunk| chunk.name.kind == ChunkKind::Log).for_each(|log| writer.log(log));
    let snaps: Vec<&Chunk<'_>> = going.into_iter().filter(|chunk| chunk.name.kind == ChunkKind::Snap).collect();
    for (at, snap) in snaps.iter().enumerate() {
        writer.snap(snap, &|incarnation| owner(&snaps, incarnation) == Some(at));
    }
    (writer.records > 0).then(|| writer.finish(name))
}

/// Which of the snapshots knows most of an incarnation.
fn owner(snaps: &[&Chunk<'_>], incarnation: u64) -> Option<usize> {
    (0..snaps.len()).max_by_key(|&at| snaps[at].vector().get(incarnation))
}

struct Writer<'p> {
    plan: &'p Plan,
    incarnation: u64,
    base_hlc: u64,
    salt: u64,
    file: Vec<u8>,
    records: u64,
    too_large: u64,
    forgotten: u64,
}

impl<'p> Writer<'p> {
    fn new(header: &Header, plan: &'p Plan) -> Writer<'p> {
        let mut file = Vec::new();
        header.encode(&mut file);
        let salt = frame::salt(header.incarnation, header.seq);
        let Header { incarnation, base_hlc, .. } = *header;
        Writer { plan, incarnation, base_hlc, salt, file, records: 0, too_large: 0, forgotten: 0 }
    }

    fn place(&mut self, key: Option<FrameKey<'_>>, writes: Vec<(Stamp, Write<'_>)>) {
        if writes.is_empty() {
            return;
        }
        self.records += writes.len() as u64;
        let records = writes.into_iter().map(|(stamp, write)| Record::Adopted { stamp, write });
        let frame = Frame::new(key, records, StampCode::Log { incarnation: self.incarnation }, self.base_hlc);
        frame.place(self.salt, 0, false, &mut self.file);
    }

    /// Frames of a log stay whole, so that the increments of a request keep their positions.
    fn log(&mut self, log: &Chunk<'_>) {
        for index in 0..log.frame_count() {
            let (key, records, _) = log.frame(index);
            self.place(key, records.into_iter().filter_map(write_of).collect());
        }
    }

    fn snap(&mut self, snap: &Chunk<'_>, owns: &dyn Fn(u64) -> bool) {
        let contents: Vec<Record<'_>> = (0..snap.frame_count()).flat_map(|index| snap.frame(index).1).collect();
        let mut apart = Apart::of(&contents);
        let writes: HashMap<Stamp, Write<'_>> = contents.iter().cloned().filter_map(write_of).collect();
        for record in &contents {
            if let Record::Key(key) = record {
                self.key(key, &writes, &mut apart);
            }
        }
        for record in contents {
            match record {
                Record::Counter(counter) => {
                    for part in counter.sums.iter().filter(|part| owns(part.incarnation)) {
                        self.sum(counter.key, counter.pointer, counter.base, part, &apart);
                    }
                }
                record => self.place(None, write_of(record).into_iter().collect()),
            }
        }
    }

    /// What a snapshot adds to what the files that stay count of an incarnation, as one increment with the
    /// stamp of the last: whoever has the originals knows that stamp and does not count it again.
    fn sum(&mut self, key: &str, pointer: &str, base: Stamp, part: &Subtotal, apart: &Apart) {
        let stamp = Stamp { hlc: part.last_hlc, incarnation: part.incarnation };
        if self.plan.known.saw(stamp) {
            return;
        }
        let name = (key.to_owned(), base, pointer.to_owned(), part.incarnation);
        let known = self.plan.counted.get(&name).copied().unwrap_or(0) + apart.sums.get(&name).copied().unwrap_or(0);
        match i64::try_from(part.total - known) {
            Ok(0) => {}
            Ok(delta) => self.place(None, vec![(stamp, Write::Add { key, pointer, base, delta })]),
            Err(_) => self.too_large += 1,
        }
    }

    /// A remembered request: its increments one by one, those of each server as a frame of their own, and
    /// left out of the sums (`apart`).
    fn key<'a>(&mut self, key: &KeyRecord<'a>, writes: &HashMap<Stamp, Write<'a>>, apart: &mut Apart) {
        let frame_key = FrameKey { key: key.key, fingerprint: key.fingerprint, outcome: key.outcome };
        let mut by_server: BTreeMap<u64, Vec<(Stamp, Write<'a>)>> = BTreeMap::new();
        for add in &key.adds {
            if self.plan.known.saw(add.stamp) {
                continue;
            }
            let write = Write::Add { key: add.key, pointer: add.pointer, base: add.base, delta: add.delta };
            by_server.entry(add.stamp.incarnation).or_default().push((add.stamp, write));
            apart.take(add);
        }
        match (by_server.is_empty(), writes.get(&key.stamp)) {
            (true, Some(write)) => self.place(Some(frame_key), vec![(key.stamp, *write)]),
            (true, None) => self.forgotten += 1,
            _ => by_server.into_values().for_each(|adds| self.place(Some(frame_key), adds)),
        }
    }

    fn finish(mut self, name: ChunkName) -> Rewritten {
        let crc = crc32c::crc32c(&self.file);
        let footer = Footer { records: self.records, last_hlc: 0, crc, vector: self.plan.known.clone() };
        footer.place(self.salt, 0, &mut self.file);
        let Writer { records, too_large, forgotten, file, .. } = self;
        Rewritten { name, bytes: file, records, too_large, forgotten }
    }
}

/// Increments of a snapshot that are written one by one, and so are left out of its sums.
#[derive(Default)]
struct Apart {
    /// What each sum counts: from its first to its last increment.
    spans: HashMap<CounterPart, (u64, u64)>,
    sums: HashMap<CounterPart, i128>,
}

impl Apart {
    fn of(contents: &[Record<'_>]) -> Apart {
        let mut apart = Apart::default();
        for record in contents {
            let Record::Counter(counter) = record else { continue };
            for part in &counter.sums {
                let name = (counter.key.to_owned(), counter.base, counter.pointer.to_owned(), part.incarnation);
                apart.spans.insert(name, (part.first_hlc, part.last_hlc));
            }
        }
        apart
    }

    fn take(&mut self, add: &KeyedAdd<'_>) {
        let name = (add.key.to_owned(), add.base, add.pointer.to_owned(), add.stamp.incarnation);
        let is_counted = |&(first, last): &(u64, u64)| (first..=last).contains(&add.stamp.hlc);
        if self.spans.get(&name).is_some_and(is_counted) {
            *self.sums.entry(name).or_insert(0) += i128::from(add.delta);
        }
    }
}

fn write_of(record: Record<'_>) -> Option<(Stamp, Write<'_>)> {
    match record {
        Record::Write { stamp, write } | Record::Adopted { stamp, write } => Some((stamp, write)),
        _ => None,
    }
}

/// Whether the files that stay and the new one are complete together.
pub(super) fn is_complete(swamp: &SwampOnDisk, plan: &Plan, rewritten: Option<&Rewritten>) -> bool {
    let contents: Vec<(&ChunkName, &[u8], Content)> = plan
        .keep
        .iter()
        .map(|&at| (&swamp.files[at].name, &swamp.files[at].bytes[..]))
        .chain(rewritten.map(|file| (&file.name, &file.bytes[..])))
        .map(|(name, bytes)| (name, bytes, content_of(name, bytes)))
        .collect();
    let chunks: Option<Vec<Chunk<'_>>> = contents
        .iter()
        .filter_map(|(name, bytes, content)| match content {
            Content::Chunk(scan) => Some(Chunk::new(name, scan, bytes)),
            _ => None,
        })
        .collect();
    chunks.is_some_and(|chunks| merge(&chunks).is_complete())
}

/// How a swamp is, as its files say.
pub(super) fn copy_state(swamp: &SwampOnDisk) -> CopyState {
    swamp.merged(|view, merged| swamp.copy_state(view, &merged))
}
