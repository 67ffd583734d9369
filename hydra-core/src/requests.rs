//! What is remembered of requests that came with an idempotency key, so that one that comes again is answered and not
//! carried out again.
//!
//! A swamp remembers a day of them, which may be many more than it has treasures. So they are small: 56 bytes for a
//! request that put or deleted something, and nothing beside the table.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use crate::hashing::KeyHashing;
use crate::merge::{RememberedAdd, later_twins};
use crate::stamp::{Stamp, Timestamp};

/// How long a request is remembered.
const LIFE_MS: u64 = 24 * 3_600_000;
/// How many of the newest are remembered whatever their age.
const KEPT: usize = 65_536;

/// What is remembered of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyMemory {
    pub(crate) fingerprint: u64,
    /// The stamp of the first record it wrote.
    pub(crate) stamp: Stamp,
    rest: Rest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rest {
    /// The outcome of hardly any request is longer, and most have no increments.
    Short {
        length: u8,
        outcome: [u8; 14],
    },
    Long(Box<Long>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Long {
    outcome: Box<[u8]>,
    /// Its increments, wherever they were carried out.
    adds: Vec<RememberedAdd>,
}

impl Rest {
    fn new(outcome: &[u8], adds: Vec<RememberedAdd>) -> Rest {
        let mut short = [0; 14];
        match short.get_mut(..outcome.len()) {
            Some(room) if adds.is_empty() => {
                room.copy_from_slice(outcome);
                Rest::Short { length: outcome.len() as u8, outcome: short }
            }
            _ => Rest::Long(Box::new(Long { outcome: outcome.into(), adds })),
        }
    }
}

impl KeyMemory {
    pub(crate) fn new(fingerprint: u64, stamp: Stamp, outcome: &[u8], adds: Vec<RememberedAdd>) -> KeyMemory {
        KeyMemory { fingerprint, stamp, rest: Rest::new(outcome, adds) }
    }

    /// See [`crate::outcome`].
    pub(crate) fn outcome(&self) -> &[u8] {
        match &self.rest {
            Rest::Short { length, outcome } => &outcome[..usize::from(*length)],
            Rest::Long(long) => &long.outcome,
        }
    }

    /// Its increments, wherever they were carried out.
    pub(crate) fn adds(&self) -> &[RememberedAdd] {
        match &self.rest {
            Rest::Short { .. } => &[],
            Rest::Long(long) => &long.adds,
        }
    }

    /// Of two memories of one request the one with the smallest stamp is the first; the increments of both are kept.
    fn join(&mut self, other: KeyMemory) {
        let adds = [self.adds(), other.adds()].concat();
        if other.stamp < self.stamp {
            *self = other;
        }
        if !adds.is_empty() {
            self.rest = Rest::new(self.outcome(), adds);
        }
    }

    /// About how many bytes it takes outside of a table.
    fn boxed_bytes(&self) -> usize {
        const ALLOCATION: usize = 16;
        let Rest::Long(long) = &self.rest else { return 0 };
        let adds = long.adds.iter().map(|add| size_of::<RememberedAdd>() + add.key.len() + add.add.pointer.len());
        size_of::<Long>() + ALLOCATION + long.outcome.len() + adds.sum::<usize>() + 3 * ALLOCATION * long.adds.len()
    }
}

/// An idempotency key. In halves: whole it would have to stand at multiples of 16, and a table would have gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id([u64; 2]);

impl Id {
    fn new(key: u128) -> Id {
        Id([(key >> 64) as u64, key as u64])
    }

    fn key(self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.key());
    }
}

/// The requests that a swamp remembers, by their idempotency keys.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    table: HashMap<Id, KeyMemory, KeyHashing>,
    /// What they take beside the table.
    boxed_bytes: usize,
    /// When they were last looked through: at this many.
    purged_at: usize,
}

impl Requests {
    pub(crate) fn get(&self, key: u128) -> Option<&KeyMemory> {
        self.table.get(&Id::new(key))
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, &KeyMemory)> {
        self.table.iter().map(|(id, memory)| (id.key(), memory))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Remembers a request; now and then forgets others, see [`Requests::purge`].
    pub(crate) fn remember(&mut self, key: u128, memory: KeyMemory, now: Timestamp) {
        self.boxed_bytes += memory.boxed_bytes();
        let before = self.table.insert(Id::new(key), memory);
        self.boxed_bytes -= before.map_or(0, |memory| memory.boxed_bytes());
        if self.len() > 2 * self.purged_at.max(KEPT) {
            self.purge(now);
        }
    }

    /// Takes in what another file remembers of a request.
    pub(crate) fn join(&mut self, key: u128, memory: KeyMemory) {
        match self.table.get_mut(&Id::new(key)) {
            Some(held) => {
                self.boxed_bytes -= held.boxed_bytes();
                held.join(memory);
                self.boxed_bytes += held.boxed_bytes();
            }
            None => {
                self.boxed_bytes += memory.boxed_bytes();
                self.table.insert(Id::new(key), memory);
            }
        }
    }

    /// Lets the increments of each request be changed.
    pub(crate) fn change_adds(&mut self, mut change: impl FnMut(&mut Vec<RememberedAdd>)) {
        for memory in self.table.values_mut() {
            let Rest::Long(long) = &mut memory.rest else { continue };
            change(&mut long.adds);
            if long.adds.is_empty() {
                memory.rest = Rest::new(&std::mem::take(&mut long.outcome), Vec::new());
            }
        }
        self.count_boxed();
    }

    /// Forgets requests that are neither young nor among the newest. One that was carried out on two servers is
    /// remembered as long as its increments count.
    pub(crate) fn purge(&mut self, now: Timestamp) {
        if self.len() > KEPT {
            let mut stamps: Vec<Stamp> = self.table.values().map(|memory| memory.stamp).collect();
            let newest = stamps.len() - KEPT;
            let (_, &mut among_newest, _) = stamps.select_nth_unstable(newest);
            let oldest = now.as_millis().saturating_sub(LIFE_MS);
            let is_young = |stamp: Stamp| stamp >= among_newest || stamp.timestamp().as_millis() >= oldest;
            self.table.retain(|_, memory| is_young(memory.stamp) || later_twins(memory.adds()).next().is_some());
            self.count_boxed();
        }
        self.purged_at = self.len();
    }

    fn count_boxed(&mut self) {
        self.boxed_bytes = self.table.values().map(KeyMemory::boxed_bytes).sum();
    }

    /// About how many bytes of memory they take.
    pub(crate) fn footprint(&self) -> usize {
        // A table is as long as a power of two that has room for an eighth more, with a byte beside each place.
        self.table.capacity() * (size_of::<(Id, KeyMemory)>() + 1) * 8 / 7 + self.boxed_bytes
    }

    /// About how many bytes they take in a snapshot without compression.
    pub(crate) fn encoded_estimate(&self) -> usize {
        96 * self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::SingleAdd;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);

    fn stamp(millis: u64, incarnation: u64) -> Stamp {
        Stamp { hlc: millis << 16, incarnation }
    }

    fn add(stamp: Stamp) -> RememberedAdd {
        let add = SingleAdd { stamp, base: Stamp::ZERO, pointer: "/n".into(), delta: 1 };
        RememberedAdd { position: 0, key: "k".into(), add }
    }

    #[test]
    fn short_and_long_memories_are_what_was_put_into_them() {
        assert_eq!(size_of::<(Id, KeyMemory)>(), 56);
        for length in [0, 1, 2, 14, 15, 300] {
            let outcome: Vec<u8> = (0..length).map(|n| n as u8).collect();
            for adds in [vec![], vec![add(stamp(1, 1))]] {
                let memory = KeyMemory::new(7, stamp(1, 2), &outcome, adds.clone());
                assert_eq!((memory.outcome(), memory.adds()), (&outcome[..], &adds[..]));
            }
        }
        for key in [0, 1, u128::MAX, 1 << 64, (7 << 64) | 9] {
            assert_eq!(Id::new(key).key(), key);
        }
    }

    #[test]
    fn the_first_of_two_memories_of_a_request_counts_with_the_increments_of_both() {
        let first = KeyMemory::new(1, stamp(1, 1), &[1, 0], vec![add(stamp(1, 1))]);
        let second = KeyMemory::new(2, stamp(2, 2), &[2; 20], vec![add(stamp(2, 2))]);
        for (one, other) in [(&first, &second), (&second, &first)] {
            let mut requests = Requests::default();
            requests.join(5, one.clone());
            requests.join(5, other.clone());
            let memory = requests.get(5).expect("remembered");
            assert_eq!((memory.fingerprint, memory.stamp, memory.outcome()), (1, stamp(1, 1), &[1, 0][..]));
            assert_eq!(memory.adds().len(), 2);
            assert_eq!(requests.boxed_bytes, memory.boxed_bytes());
            requests.change_adds(Vec::clear);
            assert_eq!(requests.get(5).map(|memory| memory.adds().len()), Some(0));
            assert_eq!(requests.boxed_bytes, requests.get(5).map_or(0, KeyMemory::boxed_bytes));
        }
    }

    #[test]
    fn a_day_and_the_newest_are_remembered_and_what_they_take_is_counted() {
        let old = |n: u64| stamp(1_000 + n, 1);
        let mut requests = Requests::default();
        let many = 2 * KEPT as u64 + 1;
        for n in 0..many {
            requests.remember(n.into(), KeyMemory::new(0, old(n), &[1, 0], vec![]), NOW);
        }
        assert_eq!(requests.len(), KEPT, "the newest, however old");
        assert!(requests.get(0).is_none() && requests.get((many - 1).into()).is_some());
        for n in 0..many {
            let young = stamp(NOW.as_millis() - 1_000, n);
            requests.remember((many + n).into(), KeyMemory::new(0, young, &[1, 0], vec![]), NOW);
        }
        assert!(requests.len() >= many as usize, "the young, however many");
        let each = requests.footprint() / requests.len();
        assert!((57..=140).contains(&each), "{each}");
        let twins = vec![add(old(0)), add(old(1))];
        requests.remember(u128::MAX, KeyMemory::new(0, old(0), &[5], twins), NOW);
        requests.purge(NOW);
        assert!(requests.get(u128::MAX).is_some(), "twins are remembered as long as they count");
        assert_eq!(requests.boxed_bytes, requests.get(u128::MAX).map_or(0, KeyMemory::boxed_bytes));
    }
}
