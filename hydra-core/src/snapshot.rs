//! Writing a snapshot: the whole state of a swamp as the bytes of one closed chunk.
//!
//! Writes come first, sorted by key, then increments, idempotency keys and conflicts; frames hold about
//! 64 KiB before compression. An increment that the vector does not cover stands alone as an ADOPT
//! record, so that a merge can still tell it from its twin in the file it came from.

use crate::conflict::Lost;
use crate::counter::{Counter, SingleAdd, Sum};
use crate::format::footer::Footer;
use crate::format::frame::{self, Frame};
use crate::format::header::Header;
use crate::format::record::{CounterRecord, KeyRecord, KeyedAdd, Record, StampCode, Write};
use crate::layout::ChunkKind;
use crate::merge::RememberedAdd;
use crate::policy::Compression;
use crate::requests::KeyMemory;
use crate::stamp::Stamp;
use crate::vector::VersionVector;

/// How many bytes of records a frame holds before compression; the last record may exceed it.
const FRAME_BYTES: usize = 64 << 10;
/// More than the kind, the stamp and the lengths of any record need.
const RECORD_OVERHEAD: usize = 48;
/// What a subtotal needs: incarnation, sum, last and first clock value.
const SUBTOTAL_BYTES: usize = 48;
const STAMP_BYTES: usize = 16;

/// What a snapshot holds, in any order. All of it may be empty.
#[derive(Debug)]
pub(crate) struct SnapshotContent<'a> {
    /// The PUT or DEL that decides each key.
    pub(crate) writes: Vec<(Stamp, Write<'a>)>,
    /// The increments of each key.
    pub(crate) counters: Vec<(&'a str, &'a Counter)>,
    /// What is remembered of requests, by their idempotency keys.
    pub(crate) requests: Vec<(u128, &'a KeyMemory)>,
    /// Writes that lost unseen.
    pub(crate) conflicts: Vec<&'a Lost>,
    /// Everything the snapshot stands for: what this covers and `writes` lacks is dead.
    pub(crate) vector: &'a VersionVector,
}

/// The bytes of a whole snapshot file. Kind and vector of `header` are set here.
pub(crate) fn encode(header: Header, content: SnapshotContent<'_>, compression: Compression) -> Vec<u8> {
    encode_marked(header, content, None, &VersionVector::default(), compression)
}

/// The same with a mark: a fresh stamp of the writer, which no record bears.
///
/// It is needed when something known, such as an old tombstone, is left out although nothing greater
/// took its place. Logs begun after that name the mark in their vectors, so that nobody who still has
/// what was left out, and not this snapshot, takes them for complete.
///
/// `retired` are entries of the vector that the snapshot does not hand on. They stand in the header and not in
/// the footer: so a snapshot that still has them can be told from one that knows more. They need a mark.
pub(crate) fn encode_marked(
    mut header: Header,
    mut content: SnapshotContent<'_>,
    mark: Option<Stamp>,
    retired: &VersionVector,
    compression: Compression,
) -> Vec<u8> {
    debug_assert!(retired.is_empty() || mark.is_some(), "entries are retired under a mark");
    content.writes.sort_unstable_by_key(|(stamp, write)| (write.key(), *stamp));
    content.counters.sort_unstable_by_key(|(key, _)| *key);
    content.requests.sort_unstable_by_key(|(key, _)| *key);
    content.conflicts.sort_unstable_by_key(|lost| (&lost.key, lost.stamp));
    header.kind = ChunkKind::Snap;
    header.vector = header_vector(&content);
    // The mark stands in the footer only: a snapshot that was never finished must not ask for itself.
    let mut vector = content.vector.clone();
    mark.into_iter().for_each(|mark| vector.learn(mark));
    retired.iter().for_each(|(incarnation, _)| vector.forget(incarnation));
    let last_hlc = content.writes.iter().map(|(stamp, _)| stamp.hlc).chain([vector.max_hlc()]).max();
    let mut frames = Frames::new(&header, compression);
    records(content).for_each(|record| frames.push(record));
    frames.finish(last_hlc.unwrap_or(0), vector)
}

/// Stamps are written as an index into the header's vector, so every incarnation has to be in it;
/// a 0 says that nothing of it is covered.
fn header_vector(content: &SnapshotContent<'_>) -> VersionVector {
    let mut vector = content.vector.clone();
    for (stamp, _) in &content.writes {
        vector.learn(Stamp { hlc: 0, incarnation: stamp.incarnation });
    }
    vector
}

fn records<'a>(content: SnapshotContent<'a>) -> impl Iterator<Item = Record<'a>> {
    let writes = content.writes.into_iter().map(|(stamp, write)| {
        debug_assert!(!matches!(write, Write::Add { .. }), "increments are in the counters");
        Record::Write { stamp, write }
    });
    let counters = content.counters.into_iter().flat_map(|(key, counter)| counter_records(key, counter));
    let requests = content.requests.into_iter().map(|(key, memory)| key_record(key, memory));
    let conflicts = content.conflicts.into_iter().map(|lost| Record::Conflict(lost.record()));
    writes.chain(counters).chain(requests).chain(conflicts)
}

/// One COUNTER record for each base and pointer, then what stands alone.
fn counter_records<'a>(key: &'a str, counter: &'a Counter) -> impl Iterator<Item = Record<'a>> {
    let mut sums: Vec<&Sum> = counter.sums().iter().collect();
    sums.sort_unstable_by_key(|sum| (sum.base, &*sum.pointer, sum.part.incarnation));
    let groups = sums.chunk_by(|a, b| a.base == b.base && a.pointer == b.pointer).map(|group| {
        let sums = group.iter().map(|sum| sum.part).collect();
        Record::Counter(CounterRecord { key, pointer: &group[0].pointer, base: group[0].base, sums })
    });
    let groups: Vec<Record<'a>> = groups.collect();
    groups.into_iter().chain(counter.late().iter().map(move |add| late_record(key, add)))
}

fn late_record<'a>(key: &'a str, add: &'a SingleAdd) -> Record<'a> {
    let write = Write::Add { key, pointer: &add.pointer, base: add.base, delta: add.delta };
    Record::Adopted { stamp: add.stamp, write }
}

fn key_record(key: u128, memory: &KeyMemory) -> Record<'_> {
    let adds = memory.adds().iter().map(keyed_add).collect();
    let (fingerprint, stamp) = (memory.fingerprint, memory.stamp);
    Record::Key(KeyRecord { key, fingerprint, stamp, outcome: memory.outcome(), adds })
}

fn keyed_add(remembered: &RememberedAdd) -> KeyedAdd<'_> {
    let SingleAdd { stamp, base, pointer, delta } = &remembered.add;
    KeyedAdd { position: remembered.position, key: &remembered.key, pointer, base: *base, delta: *delta, stamp: *stamp }
}

/// The file under way: what is written, and the records of the frame that is being filled.
struct Frames<'a> {
    file: Vec<u8>,
    salt: u64,
    base_hlc: u64,
    incarnations: Vec<u64>,
    compression: Compression,
    pending: Vec<Record<'a>>,
    pending_bytes: usize,
    records: u64,
}

impl<'a> Frames<'a> {
    fn new(header: &Header, compression: Compression) -> Frames<'a> {
        let mut file = Vec::new();
        header.encode(&mut file);
        Frames {
            file,
            salt: frame::salt(header.incarnation, header.seq),
            base_hlc: header.base_hlc,
            incarnations: header.vector.iter().map(|(incarnation, _)| incarnation).collect(),
            compression,
            pending: Vec::new(),
            pending_bytes: 0,
            records: 0,
        }
    }

    fn push(&mut self, record: Record<'a>) {
        self.pending_bytes += size_of(&record);
        self.pending.push(record);
        self.records += 1;
        if self.pending_bytes >= FRAME_BYTES {
            self.place_pending();
        }
    }

    fn place_pending(&mut self) {
        self.pending_bytes = 0;
        let code = StampCode::Snap { incarnations: &self.incarnations };
        let frame = Frame::new(None, self.pending.drain(..), code, self.base_hlc);
        frame.compressed(self.compression).place(self.salt, 0, false, &mut self.file);
    }

    fn finish(mut self, last_hlc: u64, vector: VersionVector) -> Vec<u8> {
        if !self.pending.is_empty() {
            self.place_pending();
        }
        let footer = Footer { records: self.records, last_hlc, crc: crc32c::crc32c(&self.file), vector };
        footer.place(self.salt, 0, &mut self.file);
        self.file
    }
}

/// About how long the record is when encoded.
fn size_of(record: &Record<'_>) -> usize {
    RECORD_OVERHEAD
        + match record {
            Record::Write { write, .. } | Record::Adopted { write, .. } => size_of_write(write),
            Record::Sync(_) => 0,
            Record::Counter(counter) => counter.key.len() + counter.pointer.len() + SUBTOTAL_BYTES * counter.sums.len(),
            Record::Key(key) => {
                let adds = key.adds.iter().map(|add| RECORD_OVERHEAD + add.key.len() + add.pointer.len());
                key.outcome.len() + adds.sum::<usize>()
            }
            Record::Conflict(conflict) => {
                let write = conflict.write.as_ref().map_or(conflict.key.len(), size_of_write);
                let sums = SUBTOTAL_BYTES * conflict.sums.len() + STAMP_BYTES * conflict.rivals.len();
                write + sums + conflict.server.len() + conflict.winner.len()
            }
        }
}

fn size_of_write(write: &Write<'_>) -> usize {
    match write {
        Write::Put { key, value, content_type, .. } => key.len() + value.len() + content_type.map_or(0, str::len),
        Write::Del { key } => key.len(),
        Write::Add { key, pointer, .. } => key.len() + pointer.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::example;
    use crate::format::scan::{Scan, scan};
    use crate::layout::ChunkName;
    use crate::merge::{Chunk, Merged, merge};
    use crate::slot::Slot;

    const A: u64 = 7;
    const B: u64 = 9;

    fn stamp(hlc: u64, incarnation: u64) -> Stamp {
        Stamp { hlc, incarnation }
    }

    fn put<'a>(key: &'a str, value: &'a [u8]) -> Write<'a> {
        Write::Put { key, value, expires: Some(5), age: None, content_type: Some("text/plain") }
    }

    fn with_merged<T>(file: &[u8], check: impl FnOnce(&Scan, &Merged<'_>) -> T) -> T {
        let header = example(ChunkKind::Snap);
        let name = ChunkName {
            incarnation: header.incarnation,
            seq: header.seq,
            kind: ChunkKind::Snap,
            server: "s1".to_owned(),
        };
        let scan = scan(&name, file).expect("readable");
        assert!(scan.is_valid() && scan.torn_at.is_none(), "{:?}", scan.damage);
        let chunks = [Chunk::new(&name, &scan, file).expect("decompresses")];
        let merged = merge(&chunks);
        assert!(merged.is_complete());
        check(&scan, &merged)
    }

    fn encoded<'a>(
        writes: Vec<(Stamp, Write<'a>)>,
        counters: Vec<(&'a str, &'a Counter)>,
        requests: Vec<(u128, &'a KeyMemory)>,
        vector: &'a VersionVector,
    ) -> Vec<u8> {
        encode(
            example(ChunkKind::Log),
            SnapshotContent { writes, counters, requests, conflicts: Vec::new(), vector },
            Compression::Lz4,
        )
    }

    #[test]
    fn a_snapshot_reads_back_as_the_state_it_was_made_of() {
        let base = stamp(20, A);
        let mut counter = Counter::default();
        counter.add(stamp(21, A), base, "", 4);
        counter.add(stamp(23, B), base, "", 6);
        counter.add(stamp(22, A), base, "/visits", 5);
        let late = SingleAdd { stamp: stamp(24, 11), base, pointer: "".into(), delta: 7 };
        counter.add_late(late.clone());
        let adds = vec![RememberedAdd { position: 1, key: "n".into(), add: late }];
        let memory = KeyMemory::new(3, stamp(24, 11), &[1, 2], adds);
        let vector: VersionVector = [(A, 22), (B, 23)].into_iter().collect();
        let writes = vec![
            (stamp(30, 10), put("uncovered", b"\"later\"")),
            (base, put("n", b"100")),
            (stamp(19, B), Write::Del { key: "gone" }),
        ];
        let file = encoded(writes.clone(), vec![("n", &counter)], vec![(5, &memory)], &vector);
        with_merged(&file, |scan, merged| {
            let footer = scan.footer.as_ref().expect("closed");
            assert_eq!((footer.records, footer.last_hlc, &footer.vector), (7, 30, &vector));
            assert_eq!(scan.header.vector.iter().collect::<Vec<_>>(), [(A, 22), (B, 23), (10, 0)]);
            assert_eq!(merged.winners.len(), 3);
            for (stamp, write) in writes {
                let winner = merged.winners.get(write.key()).expect("held");
                assert_eq!((winner.stamp(), winner.write()), (stamp, write));
            }
            assert_eq!(merged.counters.get("n"), Some(&counter));
            assert_eq!(merged.counters["n"].total(base), 4 + 6 + 7);
            assert_eq!(merged.requests.get(5), Some(&memory));
        });
    }

    #[test]
    fn a_large_state_is_cut_into_frames_sorted_by_key() {
        let value = vec![b'x'; 1_000];
        let keys: Vec<String> = (0..500).map(|n| format!("{:03}", (n * 7) % 500)).collect();
        let writes = keys.iter().enumerate().map(|(n, key)| (stamp(1 + n as u64, A), put(key, &value)));
        let vector: VersionVector = [(A, 500)].into_iter().collect();
        let file = encoded(writes.collect(), Vec::new(), Vec::new(), &vector);
        assert!(file.len() < 60_000, "compressed: {}", file.len());
        with_merged(&file, |scan, merged| {
            assert!((8..=9).contains(&scan.frames.len()), "{} frames", scan.frames.len());
            assert_eq!(merged.winners.len(), 500);
        });
    }

    #[test]
    fn tombstones_only_and_nothing_at_all_are_snapshots_too() {
        let vector: VersionVector = [(A, 40), (B, 41)].into_iter().collect();
        let writes = vec![(stamp(40, A), Write::Del { key: "a" }), (stamp(41, B), Write::Del { key: "b" })];
        with_merged(&encoded(writes, Vec::new(), Vec::new(), &vector), |_, merged| {
            assert_eq!(merged.winners.len(), 2);
            assert!(merged.winners.iter().all(Slot::is_tombstone));
            assert_eq!(merged.vector, vector);
        });
        let empty = VersionVector::default();
        with_merged(&encoded(Vec::new(), Vec::new(), Vec::new(), &empty), |scan, merged| {
            assert!(scan.frames.is_empty() && merged.winners.len() == 0);
        });
        with_merged(&encoded(Vec::new(), Vec::new(), Vec::new(), &vector), |_, merged| {
            assert_eq!(merged.vector, vector);
        });
    }
}
