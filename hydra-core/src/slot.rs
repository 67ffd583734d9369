//! One resident record: the newest write to a key, in a single allocation behind a thin pointer. The hash of the key
//! stands beside that, so a table that grows looks at no record: they lie all over the memory.
//!
//! ```text
//! 0 clock u64 · 8 incarnation u64 · 16 flags u8 · 17 content type length u8 · 18 key length u16
//! 20 expires ms u64, if it does · created ms u64, if not when it was written · content type · key · value
//! ```

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::format::record::Write;
use crate::hashing::ShortHash;
use crate::hidden::is_hidden;
use crate::stamp::{Stamp, Timestamp};
use crate::value::{SharedBytes, Value, share};

const HEAD: usize = 20;
const TOMBSTONE: u8 = 1;
/// It says when it expires.
const EXPIRES: u8 = 2;
/// It says when it was created: not by this write.
const CREATED: u8 = 4;
/// Slots up to this many bytes are put together on the stack.
const SMALL: usize = 256;

/// The winning PUT or DEL of a key. Cloning shares it.
#[derive(Clone, PartialEq)]
pub(crate) struct Slot {
    bytes: SharedBytes,
    hash: ShortHash,
}

/// What a put stores beside key and value.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) expires: Option<Timestamp>,
    pub(crate) created: Timestamp,
    pub(crate) content_type: Option<&'a str>,
}

/// What a slot is put together from.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    stamp: Stamp,
    is_tombstone: bool,
    key: &'a str,
    value: &'a [u8],
    facts: Facts<'a>,
}

impl<'a> Parts<'a> {
    /// Of what a PUT or DEL leaves under its key.
    fn of(stamp: Stamp, write: &Write<'a>) -> Parts<'a> {
        let Write::Put { key, value, expires, age, content_type } = *write else {
            return Parts::of_tombstone(stamp, write.key());
        };
        let created = stamp.timestamp().as_millis().saturating_sub(age.unwrap_or(0));
        let expires = expires.map(Timestamp::from_millis);
        let facts = Facts { expires, created: Timestamp::from_millis(created), content_type };
        Parts { stamp, is_tombstone: false, key, value, facts }
    }

    fn of_tombstone(stamp: Stamp, key: &'a str) -> Parts<'a> {
        let facts = Facts { created: stamp.timestamp(), ..Facts::default() };
        Parts { stamp, is_tombstone: true, key, value: &[], facts }
    }

    fn hash(&self) -> ShortHash {
        ShortHash::of(self.key.as_bytes())
    }

    /// What is said of its times.
    fn times(&self) -> impl Iterator<Item = (u8, Timestamp)> {
        let created = Some(self.facts.created).filter(|&created| created != self.stamp.timestamp());
        let expires = self.facts.expires.map(|expires| (EXPIRES, expires));
        expires.into_iter().chain(created.map(|created| (CREATED, created)))
    }

    fn length(&self) -> usize {
        let content_type = self.facts.content_type.map_or(0, str::len);
        HEAD + 8 * self.times().count() + content_type + self.key.len() + self.value.len()
    }

    /// Writes the slot into exactly as many bytes as it takes.
    fn fill(&self, bytes: &mut [u8]) {
        let content_type = self.facts.content_type.unwrap_or("").as_bytes();
        let (head, mut rest) = bytes.split_at_mut(HEAD);
        head[..8].copy_from_slice(&self.stamp.hlc.to_le_bytes());
        head[8..16].copy_from_slice(&self.stamp.incarnation.to_le_bytes());
        head[16] = u8::from(self.is_tombstone) * TOMBSTONE;
        head[17] = content_type.len() as u8;
        head[18..20].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        let mut put = |part: &[u8]| {
            let (front, back) = std::mem::take(&mut rest).split_at_mut(part.len());
            front.copy_from_slice(part);
            rest = back;
        };
        for (flag, time) in self.times() {
            head[16] |= flag;
            put(&time.as_millis().to_le_bytes());
        }
        [content_type, self.key.as_bytes(), self.value].into_iter().for_each(put);
    }
}

impl Slot {
    /// A value under a key.
    pub(crate) fn put(stamp: Stamp, key: &str, value: &[u8], facts: Facts<'_>) -> Slot {
        let parts = Parts { stamp, is_tombstone: false, key, value, facts };
        Slot::build(parts.hash(), &parts)
    }

    /// The mark that a key was removed; with [`Stamp::ZERO`] that it was never put.
    pub(crate) fn tombstone(stamp: Stamp, key: &str) -> Slot {
        let parts = Parts::of_tombstone(stamp, key);
        Slot::build(parts.hash(), &parts)
    }

    /// What a PUT or DEL leaves under its key.
    pub(crate) fn of_write(stamp: Stamp, write: &Write<'_>) -> Slot {
        let parts = Parts::of(stamp, write);
        Slot::build(parts.hash(), &parts)
    }

    /// Becomes what a PUT or DEL of its key leaves, in its own bytes where they are as many and nobody shares them.
    fn become_write(&mut self, stamp: Stamp, write: &Write<'_>) {
        let parts = Parts::of(stamp, write);
        let length = parts.length();
        let is_in_place = self.bytes.with_arc_mut(|shared| match triomphe::Arc::get_mut(shared) {
            Some(own) if own.slice().len() == length => {
                parts.fill(own.slice_mut());
                true
            }
            _ => false,
        });
        if !is_in_place {
            *self = Slot::build(self.hash, &parts);
        }
    }

    /// One allocation: small slots are put together on the stack.
    fn build(hash: ShortHash, parts: &Parts<'_>) -> Slot {
        let length = parts.length();
        let (mut small, mut large) = ([0; SMALL], Vec::new());
        let bytes = match small.get_mut(..length) {
            Some(bytes) => bytes,
            None => {
                large.resize(length, 0);
                &mut large[..]
            }
        };
        parts.fill(bytes);
        Slot { bytes: share(bytes), hash }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes.slice
    }

    /// The hash of its key, for tables.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.wide()
    }

    fn number(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes()[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn says(&self, flag: u8) -> bool {
        self.bytes()[16] & flag != 0
    }

    /// Where its times end.
    fn times_end(&self) -> usize {
        HEAD + 8 * (usize::from(self.says(EXPIRES)) + usize::from(self.says(CREATED)))
    }

    fn key_range(&self) -> std::ops::Range<usize> {
        let bytes = self.bytes();
        let start = self.times_end() + usize::from(bytes[17]);
        start..start + usize::from(u16::from_le_bytes([bytes[18], bytes[19]]))
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { hlc: self.number(0), incarnation: self.number(8) }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.says(TOMBSTONE)
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.says(EXPIRES).then(|| Timestamp::from_millis(self.number(HEAD)))
    }

    pub(crate) fn created(&self) -> Timestamp {
        match self.says(CREATED) {
            true => Timestamp::from_millis(self.number(self.times_end() - 8)),
            false => self.stamp().timestamp(),
        }
    }

    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.bytes()[self.key_range()]
    }

    pub(crate) fn key(&self) -> &str {
        std::str::from_utf8(self.key_bytes()).unwrap_or_default()
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        &self.bytes()[self.key_range().end..]
    }

    pub(crate) fn content_type(&self) -> Option<&str> {
        let bytes = &self.bytes()[self.times_end()..self.key_range().start];
        (!bytes.is_empty()).then(|| std::str::from_utf8(bytes).unwrap_or_default())
    }

    /// The value, sharing the bytes of the slot.
    pub(crate) fn value(&self) -> Value {
        let content_type = self.content_type().map(Arc::from);
        Value::within(self.bytes.clone(), self.key_range().end..self.bytes().len(), content_type)
    }

    /// The write as a record.
    pub(crate) fn write(&self) -> Write<'_> {
        if self.is_tombstone() {
            return Write::Del { key: self.key() };
        }
        let written = self.stamp().timestamp().as_millis();
        Write::Put {
            key: self.key(),
            value: self.value_bytes(),
            expires: self.expires().map(Timestamp::as_millis),
            age: Some(written.saturating_sub(self.created().as_millis())).filter(|&age| age > 0),
            content_type: self.content_type(),
        }
    }

    /// Bytes it takes in memory, with the count of those who share it and its length.
    pub(crate) fn footprint(&self) -> usize {
        self.bytes().len() + 16
    }
}

/// The slot of a key.
pub(crate) fn find<'s>(table: &'s HashTable<Slot>, key: &str) -> Option<&'s Slot> {
    let key = key.as_bytes();
    table.find(ShortHash::of(key).wide(), |slot| slot.key_bytes() == key)
}

/// Slots by key, each key once.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(crate) table: HashTable<Slot>,
    /// How many hold a value, how many of those an expiry, and how many bytes all take.
    pub(crate) values: usize,
    pub(crate) expiring: usize,
    pub(crate) bytes: usize,
    /// Whether any key is hidden.
    pub(crate) has_hidden: bool,
}

impl Slots {
    pub(crate) fn with_capacity(capacity: usize) -> Slots {
        Slots { table: HashTable::with_capacity(capacity), ..Slots::default() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Slot> {
        find(&self.table, key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.table.iter()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Takes a PUT or DEL in if its stamp is the greatest of its key; answers the stamp that was there.
    pub(crate) fn offer(&mut self, stamp: Stamp, write: &Write<'_>) -> Option<Stamp> {
        let key = write.key().as_bytes();
        self.has_hidden |= is_hidden(key);
        let hash = ShortHash::of(key);
        let entry = self.table.entry(hash.wide(), |slot| slot.key_bytes() == key, Slot::hash);
        let (before, slot) = match entry {
            Entry::Occupied(held) => {
                let slot = held.into_mut();
                let before = slot.stamp();
                if before >= stamp {
                    return Some(before);
                }
                self.values -= usize::from(!slot.is_tombstone());
                self.expiring -= usize::from(slot.expires().is_some());
                self.bytes -= slot.footprint();
                slot.become_write(stamp, write);
                (Some(before), slot)
            }
            Entry::Vacant(free) => (None, free.insert(Slot::build(hash, &Parts::of(stamp, write))).into_mut()),
        };
        self.values += usize::from(!slot.is_tombstone());
        self.expiring += usize::from(slot.expires().is_some());
        self.bytes += slot.footprint();
        before
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({:?} at {:?})", self.key(), self.stamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_back_what_it_was_made_of() {
        let stamp = Stamp { hlc: 5_000 << 16, incarnation: 7 };
        let at = Timestamp::from_millis;
        for (expires, created) in [(None, 5_000), (None, 4_000), (Some(9_000), 5_000), (Some(9_000), 4_000)] {
            for content_type in [None, Some("image/png")] {
                let facts = Facts { expires: expires.map(at), created: at(created), content_type };
                let slot = Slot::put(stamp, "key", b"bytes", facts);
                assert_eq!((slot.stamp(), slot.key(), slot.value_bytes()), (stamp, "key", &b"bytes"[..]));
                assert_eq!((slot.expires(), slot.created()), (facts.expires, facts.created));
                assert_eq!((slot.content_type(), slot.is_tombstone()), (content_type, false));
                let again = Slot::of_write(stamp, &slot.write());
                assert_eq!(again.bytes(), slot.bytes(), "the record says all there is");
            }
        }
        let tombstone = Slot::tombstone(stamp, "key");
        assert_eq!((tombstone.key(), tombstone.is_tombstone(), tombstone.created()), ("key", true, at(5_000)));
        assert_eq!(tombstone.footprint(), 16 + 20 + 3);
        assert_eq!(size_of::<Slot>(), size_of::<Arc<[u8]>>(), "the hash takes the room of a length");
    }

    #[test]
    fn slots_keep_the_greatest_write_of_each_key_and_count_what_they_hold() {
        let put = |value, expires| Write::Put { key: "k", value, expires, age: None, content_type: None };
        let at = |hlc| Stamp { hlc, incarnation: 1 };
        let mut slots = Slots::default();
        assert_eq!(slots.offer(at(5), &put(b"1", Some(9))), None);
        assert_eq!(slots.offer(at(4), &put(b"2", None)), Some(at(5)), "an older one changes nothing");
        assert_eq!((slots.values, slots.expiring), (1, 1));
        let shared = slots.get("k").cloned().expect("held");
        assert_eq!(slots.offer(at(6), &put(b"3", None)), Some(at(5)));
        assert_eq!((shared.value_bytes(), slots.get("k").map(Slot::value_bytes)), (&b"1"[..], Some(&b"3"[..])));
        slots.offer(at(7), &put(b"4", None));
        assert_eq!(slots.get("k"), Some(&Slot::of_write(at(7), &put(b"4", None))), "in its own bytes");
        slots.offer(at(8), &Write::Del { key: "k" });
        let bytes = slots.iter().map(Slot::footprint).sum::<usize>();
        assert_eq!((slots.values, slots.expiring, slots.bytes, slots.len()), (0, 0, bytes, 1));
    }
}
