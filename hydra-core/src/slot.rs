//! One resident record: the newest write to a key, in a single allocation behind a thin pointer. The hash of the key
//! stands beside that, so a table that grows looks at no record: they lie all over the memory.
//!
//! ```text
//! 0 clock u64 · 8 incarnation u64 · 16 expires ms u64 (0 never) · 24 created ms u64 · 32 flags u8
//! 33 content type length u8 · 34 key length u16 · 36 content type, key, value
//! ```

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::format::record::Write;
use crate::hashing::ShortHash;
use crate::hidden::is_hidden;
use crate::stamp::{Stamp, Timestamp};
use crate::value::{SharedBytes, Value, share};

const HEAD: usize = 36;
const TOMBSTONE: u8 = 1;
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

impl Slot {
    /// A value under a key.
    pub(crate) fn put(stamp: Stamp, key: &str, value: &[u8], facts: Facts<'_>) -> Slot {
        Slot::build(ShortHash::of(key.as_bytes()), stamp, 0, key, value, facts)
    }

    /// The mark that a key was removed; with [`Stamp::ZERO`] that it was never put.
    pub(crate) fn tombstone(stamp: Stamp, key: &str) -> Slot {
        let facts = Facts { created: stamp.timestamp(), ..Facts::default() };
        Slot::build(ShortHash::of(key.as_bytes()), stamp, TOMBSTONE, key, &[], facts)
    }

    /// What a PUT or DEL leaves under its key.
    pub(crate) fn of_write(stamp: Stamp, write: &Write<'_>) -> Slot {
        Slot::of_hashed(ShortHash::of(write.key().as_bytes()), stamp, write)
    }

    /// The same where the hash of the key is at hand.
    fn of_hashed(hash: ShortHash, stamp: Stamp, write: &Write<'_>) -> Slot {
        let (flags, value, facts) = parts_of(stamp, write);
        Slot::build(hash, stamp, flags, write.key(), value, facts)
    }

    /// Becomes what a PUT or DEL leaves, in its own bytes where they are as many and nobody shares them.
    fn become_write(&mut self, stamp: Stamp, write: &Write<'_>) {
        let (flags, value, facts) = parts_of(stamp, write);
        let length = length_of(write.key(), value, facts);
        let is_in_place = self.bytes.with_arc_mut(|shared| match triomphe::Arc::get_mut(shared) {
            Some(own) if own.slice().len() == length => {
                fill(own.slice_mut(), stamp, flags, write.key(), value, facts);
                true
            }
            _ => false,
        });
        if !is_in_place {
            *self = Slot::build(self.hash, stamp, flags, write.key(), value, facts);
        }
    }

    /// One allocation: small slots are put together on the stack.
    fn build(hash: ShortHash, stamp: Stamp, flags: u8, key: &str, value: &[u8], facts: Facts<'_>) -> Slot {
        let length = length_of(key, value, facts);
        let (mut small, mut large) = ([0; SMALL], Vec::new());
        let bytes = match small.get_mut(..length) {
            Some(bytes) => bytes,
            None => {
                large.resize(length, 0);
                &mut large[..]
            }
        };
        fill(bytes, stamp, flags, key, value, facts);
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

    fn key_range(&self) -> std::ops::Range<usize> {
        let bytes = self.bytes();
        let start = HEAD + usize::from(bytes[33]);
        start..start + usize::from(u16::from_le_bytes([bytes[34], bytes[35]]))
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { hlc: self.number(0), incarnation: self.number(8) }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.bytes()[32] & TOMBSTONE != 0
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        Some(self.number(16)).filter(|&millis| millis != 0).map(Timestamp::from_millis)
    }

    pub(crate) fn created(&self) -> Timestamp {
        Timestamp::from_millis(self.number(24))
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
        let bytes = &self.bytes()[HEAD..self.key_range().start];
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

fn parts_of<'a>(stamp: Stamp, write: &Write<'a>) -> (u8, &'a [u8], Facts<'a>) {
    match *write {
        Write::Put { value, expires, age, content_type, .. } => {
            let written = stamp.timestamp().as_millis();
            let created = Timestamp::from_millis(written.saturating_sub(age.unwrap_or(0)));
            (0, value, Facts { expires: expires.map(Timestamp::from_millis), created, content_type })
        }
        Write::Del { .. } | Write::Add { .. } => {
            (TOMBSTONE, &[], Facts { created: stamp.timestamp(), ..Facts::default() })
        }
    }
}

fn length_of(key: &str, value: &[u8], facts: Facts<'_>) -> usize {
    HEAD + facts.content_type.map_or(0, str::len) + key.len() + value.len()
}

/// Writes a slot into exactly as many bytes as it takes.
fn fill(bytes: &mut [u8], stamp: Stamp, flags: u8, key: &str, value: &[u8], facts: Facts<'_>) {
    let content_type = facts.content_type.unwrap_or("").as_bytes();
    let (head, rest) = bytes.split_at_mut(HEAD);
    head[..8].copy_from_slice(&stamp.hlc.to_le_bytes());
    head[8..16].copy_from_slice(&stamp.incarnation.to_le_bytes());
    head[16..24].copy_from_slice(&facts.expires.map_or(0, |at| at.as_millis().max(1)).to_le_bytes());
    head[24..32].copy_from_slice(&facts.created.as_millis().to_le_bytes());
    head[32] = flags;
    head[33] = content_type.len() as u8;
    head[34..36].copy_from_slice(&(key.len() as u16).to_le_bytes());
    let (front, back) = rest.split_at_mut(content_type.len());
    front.copy_from_slice(content_type);
    let (front, back) = back.split_at_mut(key.len());
    front.copy_from_slice(key.as_bytes());
    back.copy_from_slice(value);
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
            Entry::Vacant(free) => (None, free.insert(Slot::of_hashed(hash, stamp, write)).into_mut()),
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
        let facts = Facts {
            expires: Some(Timestamp::from_millis(9_000)),
            created: Timestamp::from_millis(4_000),
            content_type: Some("image/png"),
        };
        let slot = Slot::put(stamp, "key", b"bytes", facts);
        assert_eq!((slot.stamp(), slot.key(), slot.value_bytes()), (stamp, "key", &b"bytes"[..]));
        assert_eq!(slot.content_type(), Some("image/png"));
        let again = Slot::of_write(stamp, &slot.write());
        assert_eq!(again.bytes(), slot.bytes(), "the record says all there is");
        assert!(Slot::tombstone(stamp, "key").is_tombstone());
        assert!(slot.footprint() < 100);
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
