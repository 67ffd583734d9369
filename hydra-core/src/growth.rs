//! Reading on where a log grew: what its new frames make of a state that is merged already. Pure.
//!
//! What a log grew by is taken for one more log of its writer, which begins by saying all that the log had said
//! so far. Such a log is merged last, and only where its place in the order cannot matter: its writer had seen
//! what shows under every key it writes to, with all increments on it, nothing was ever lost unseen there, no
//! increment is counted by itself or as a twin, no request is known already, and all that it refers to is here.
//! In every other case the answer is `None`, and all files are merged again. So [`crate::merge`] stays the one
//! that says what a swamp is; `merge_model` compares the two in random histories.

use std::collections::{HashMap, HashSet};

use crate::engine::CopyState;
use crate::format::frame::FrameKey;
use crate::format::header::Header;
use crate::format::record::{Record, Write};
use crate::format::scan::{Scan, scan_on};
use crate::hashing::{KeyHashing, hash_key, hash_keys};
use crate::layout::{ChunkKind, ChunkName};
use crate::log::Pile;
use crate::merge::{Chunk, Merged, Positions, first_stamp, remembered};
use crate::requests::KeyMemory;
use crate::slot::Slot;
use crate::stamp::{Stamp, Timestamp};
use crate::state::{KeyState, Known, State};
use crate::vector::VersionVector;

/// Where reading a log stopped that may go on.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    pub(crate) name: ChunkName,
    /// The header of a log that begins here: its vector is all that the writer said it had seen.
    header: Header,
    /// Where the last whole frame ends, and the CRC32C of every byte before that.
    pub(crate) end: u64,
    crc: u32,
    /// How long the file was.
    length: u64,
    /// Whether it holds something that no snapshot stands for.
    counts: bool,
}

impl Tail {
    /// Whether a file begins with what was read, so that it is the same log.
    pub(crate) fn is_front_of(&self, file: &[u8]) -> bool {
        let front = usize::try_from(self.end).ok().and_then(|end| file.get(..end));
        front.is_some_and(|front| crc32c::crc32c(front) == self.crc)
    }

    fn scan(&self, file: &[u8]) -> Option<Scan> {
        scan_on(self.header.clone(), file, usize::try_from(self.end).ok()?)
    }
}

/// Where reading a swamp stopped.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    tails: Vec<Tail>,
    /// The hashes of keys on which something may have lost unseen.
    contended: HashSet<u64, KeyHashing>,
}

impl Tails {
    /// The ends of the logs that may go on: those of others, each writer's last, as long as nothing is wrong.
    pub(crate) fn of(
        merged: &Merged<'_>,
        chunks: &[Chunk<'_>],
        copy: CopyState,
        base: &VersionVector,
        is_foreign: impl Fn(u64) -> bool,
    ) -> Tails {
        if copy != CopyState::Complete {
            return Tails::default();
        }
        let logs = || chunks.iter().filter(|chunk| chunk.name.kind == ChunkKind::Log);
        let is_last = |log: &Chunk<'_>| {
            !logs().any(|other| other.name.incarnation == log.name.incarnation && other.name.seq > log.name.seq)
        };
        let tail = |log: &Chunk<'_>| {
            let incarnation = log.name.incarnation;
            let claim = merged.claims.get(&incarnation)?;
            let end = log.scan.torn_at.unwrap_or(log.scan.length);
            let is_open = log.scan.footer.is_none() && log.scan.damage.is_none();
            (is_open && is_foreign(incarnation) && is_last(log)).then(|| Tail {
                name: log.name.clone(),
                header: Header { vector: claim.clone(), ..log.scan.header.clone() },
                end,
                crc: crc32c::crc32c(&log.file[..end as usize]),
                length: log.scan.length,
                counts: merged.written.get(incarnation) > base.get(incarnation),
            })
        };
        let tails: Vec<Tail> = logs().filter_map(tail).collect();
        let contended = if tails.is_empty() { HashSet::default() } else { hash_keys(&merged.contended) };
        Tails { tails, contended }
    }

    /// The place of a log among those that may go on, and what is known of it.
    pub(crate) fn find(&self, name: &ChunkName) -> Option<(usize, Tail)> {
        self.tails.iter().enumerate().find(|(_, tail)| tail.name == *name).map(|(at, tail)| (at, tail.clone()))
    }

    /// What these logs, as they are now, make of the state. What stands in a file before the end of its tail is
    /// not looked at.
    pub(crate) fn grow(&self, state: &State, files: &[(usize, Vec<u8>)]) -> Option<Growth> {
        let scan = |(at, file): &(usize, Vec<u8>)| self.tails[*at].scan(file);
        let scans: Vec<Scan> = files.iter().map(scan).collect::<Option<_>>()?;
        let logs = files.iter().zip(&scans);
        let chunks: Vec<Chunk<'_>> =
            logs.map(|((at, file), scan)| Chunk::new(&self.tails[*at].name, scan, file)).collect::<Option<_>>()?;
        let mut growing = Growing::new(state, &self.contended);
        let claims = growing.attach(&chunks)?;
        let tails = files.iter().zip(&scans).zip(claims).map(|(((at, file), scan), claim)| {
            let mut tail = self.tails[*at].clone();
            let end = scan.torn_at.unwrap_or(scan.length);
            tail.crc = crc32c::crc32c_append(tail.crc, &file[tail.end as usize..end as usize]);
            tail.counts |= claim.took_some;
            tail.header.vector = claim.seen;
            (tail.end, tail.length) = (end, scan.length);
            (*at, tail)
        });
        let tails = tails.collect();
        let Growing { touched, requests, vector, .. } = growing;
        Some(Growth { touched: touched.into_values().collect(), requests, vector, tails })
    }

    /// A snapshot stands for all that was read.
    pub(crate) fn are_covered(&mut self) {
        self.tails.iter_mut().for_each(|tail| tail.counts = false);
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn footprint(&self) -> usize {
        let of = |tail: &Tail| 300 + 32 * tail.header.vector.len();
        self.tails.iter().map(of).sum::<usize>() + 10 * self.contended.len()
    }

    /// What tells two of them apart, but for contention, of which there may be more than needed.
    #[cfg(test)]
    pub(crate) fn facts(&self) -> Vec<String> {
        self.tails.iter().map(|tail| format!("{tail:?}")).collect()
    }

    /// Forgets what the rules of reading on need, for a test that wants to see them matter.
    #[cfg(test)]
    pub(crate) fn believe(&mut self, everything_seen: bool, nothing_contended: bool) {
        if nothing_contended {
            self.contended.clear();
        }
        let everybody: Vec<u64> = self.tails.iter().map(|tail| tail.name.incarnation).collect();
        for tail in self.tails.iter_mut().filter(|_| everything_seen) {
            everybody.iter().for_each(|&incarnation| tail.header.vector.set(incarnation, u64::MAX));
        }
    }
}

/// What logs that grew change.
#[derive(Debug)]
pub(crate) struct Growth {
    touched: Vec<KeyState>,
    requests: HashMap<u128, KeyMemory, KeyHashing>,
    vector: VersionVector,
    tails: Vec<(usize, Tail)>,
}

impl Growth {
    /// Counts what came in the pile of files that no snapshot stands for.
    pub(crate) fn count(&self, before: &Tails, pile: &mut Pile) {
        for (at, tail) in self.tails.iter().filter(|(_, tail)| tail.counts) {
            let old = &before.tails[*at];
            let is_new = !old.counts;
            pile.files += u32::from(is_new);
            pile.logs += u32::from(is_new);
            pile.bytes += tail.length.saturating_sub(if is_new { 0 } else { old.length });
        }
    }

    /// Makes the changes visible, and tells those who listen.
    pub(crate) fn publish(self, state: &mut State, now: Timestamp) {
        state.take_in(self.touched, self.requests, false, now);
        state.max_hlc = state.max_hlc.max(self.vector.max_hlc());
        state.vector = self.vector;
        for (at, tail) in self.tails {
            state.tails.tails[at] = tail;
        }
    }
}

/// What the writer of a log has said that it had seen, and whether anything of it was new.
struct Claim {
    seen: VersionVector,
    took_some: bool,
}

/// Changes on top of a state.
struct Growing<'s> {
    state: &'s State,
    contended: &'s HashSet<u64, KeyHashing>,
    touched: HashMap<Box<str>, KeyState, KeyHashing>,
    requests: HashMap<u128, KeyMemory, KeyHashing>,
    vector: VersionVector,
}

impl<'s> Growing<'s> {
    fn new(state: &'s State, contended: &'s HashSet<u64, KeyHashing>) -> Growing<'s> {
        let (touched, requests) = (HashMap::default(), HashMap::default());
        Growing { state, contended, touched, requests, vector: state.vector.clone() }
    }

    /// Takes the frames of all in, each log waiting for what its writer had seen of the others.
    fn attach(&mut self, chunks: &[Chunk<'_>]) -> Option<Vec<Claim>> {
        let claim = |chunk: &Chunk<'_>| Claim { seen: chunk.scan.header.vector.clone(), took_some: false };
        let mut claims: Vec<Claim> = chunks.iter().map(claim).collect();
        let mut next = vec![0; chunks.len()];
        loop {
            let before = next.clone();
            for ((chunk, claim), next) in chunks.iter().zip(&mut claims).zip(&mut next) {
                while *next < chunk.frame_count() {
                    let (key, records, understood) = chunk.frame(*next);
                    if !understood {
                        return None;
                    }
                    let waits =
                        |record: &Record<'_>| matches!(record, Record::Sync(vector) if !vector.is_within(&self.vector));
                    if records.iter().any(waits) {
                        break;
                    }
                    self.take_frame(claim, key, &records)?;
                    *next += 1;
                }
            }
            if next.iter().zip(chunks).all(|(&next, chunk)| next == chunk.frame_count()) {
                return Some(claims);
            }
            if next == before {
                return None;
            }
        }
    }

    fn take_frame(&mut self, claim: &mut Claim, key: Option<FrameKey<'_>>, records: &[Record<'_>]) -> Option<()> {
        let mut positions = Positions::default();
        let mut adds = Vec::new();
        for record in records {
            match *record {
                // A snapshot that is here stands for it; but what lost may have lost against it first.
                Record::Write { stamp, ref write } if self.vector.saw(stamp) && key.is_none() => {
                    if self.is_contended(write.key()) {
                        return None;
                    }
                }
                Record::Write { stamp, .. } if self.vector.saw(stamp) => return None,
                Record::Write { stamp, write } => {
                    adds.extend(remembered(key.as_ref(), &mut positions, stamp, write));
                    self.take(&claim.seen, stamp, write)?;
                    self.vector.learn(stamp);
                    claim.took_some = true;
                }
                Record::Sync(ref news) => claim.seen.join(news),
                // Copies of records that had come loose are for the whole merge to place.
                Record::Adopted { .. } | Record::Counter(_) | Record::Key(_) | Record::Conflict(_) => return None,
            }
        }
        match key.zip(first_stamp(records)) {
            Some((key, stamp)) => self.remember(key.key, KeyMemory::new(key.fingerprint, stamp, key.outcome, adds)),
            None => Some(()),
        }
    }

    /// A request that is known already may have twins.
    fn remember(&mut self, key: u128, memory: KeyMemory) -> Option<()> {
        let is_known = self.state.requests().get(key).is_some() || self.requests.insert(key, memory).is_some();
        (!is_known).then_some(())
    }

    fn is_contended(&self, key: &str) -> bool {
        self.contended.contains(&hash_key(key.as_bytes()))
    }

    fn known(&self, key: &str) -> Known<'_> {
        self.touched.get(key).map_or_else(|| self.state.known(key), KeyState::as_known)
    }

    fn take(&mut self, seen: &VersionVector, stamp: Stamp, write: Write<'_>) -> Option<()> {
        let key = write.key();
        let before = self.known(key);
        let counter = before.own_counter();
        let is_singled_out = counter.as_ref().is_some_and(|counter| counter.singles_out_some());
        if is_singled_out || self.is_contended(key) {
            return None;
        }
        let after = match write {
            Write::Add { pointer, base, delta, .. } => {
                if base != before.base() {
                    return None;
                }
                let mut counter = counter.unwrap_or_default();
                counter.add(stamp, base, pointer, delta);
                let slot = before.slot.map_or_else(|| Slot::tombstone(Stamp::ZERO, key), Slot::clone);
                KeyState { slot, counter: Some(counter) }
            }
            Write::Put { .. } | Write::Del { .. } => {
                let sees =
                    |other: Stamp| other == Stamp::ZERO || other.incarnation == stamp.incarnation || seen.saw(other);
                let all_seen = sees(before.base()) && counter.iter().all(|counter| counter.last_of_each().all(sees));
                if before.base() >= stamp || !all_seen {
                    return None;
                }
                let settled = counter.map(|mut counter| {
                    counter.settle(stamp);
                    counter
                });
                KeyState { slot: Slot::of_write(stamp, &write), counter: settled.filter(|counter| !counter.is_empty()) }
            }
        };
        self.touched.insert(key.into(), after);
        Some(())
    }
}
