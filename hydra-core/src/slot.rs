//! One resident record: the newest write to a key, in a single allocation.
//!
//! ```text
//! 0 clock u64 · 8 incarnation u64 · 16 expires ms u64 (0 never) · 24 created ms u64 · 32 flags u8
//! 33 content type length u8 · 34 key length u16 · 36 content type, key, value
//! ```

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use crate::format::record::Write;
use crate::merge::Winner;
use crate::stamp::{Stamp, Timestamp};
use crate::value::Value;

const HEAD: usize = 36;
const TOMBSTONE: u8 = 1;

/// The winning PUT or DEL of a key. Cloning shares it.
#[derive(Clone, PartialEq)]
pub(crate) struct Slot(Arc<[u8]>);

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
        Slot::build(stamp, 0, key, value, facts)
    }

    /// The mark that a key was removed; with [`Stamp::ZERO`] that it was never put.
    pub(crate) fn tombstone(stamp: Stamp, key: &str) -> Slot {
        Slot::build(stamp, TOMBSTONE, key, &[], Facts { created: stamp.timestamp(), ..Facts::default() })
    }

    /// The winner of a merge.
    pub(crate) fn of_winner(winner: &Winner<'_>) -> Slot {
        match winner.write {
            Write::Put { key, value, expires, age, content_type } => {
                let written = winner.stamp.timestamp().as_millis();
                let created = Timestamp::from_millis(written.saturating_sub(age.unwrap_or(0)));
                let facts = Facts { expires: expires.map(Timestamp::from_millis), created, content_type };
                Slot::put(winner.stamp, key, value, facts)
            }
            Write::Del { key } | Write::Add { key, .. } => Slot::tombstone(winner.stamp, key),
        }
    }

    fn build(stamp: Stamp, flags: u8, key: &str, value: &[u8], facts: Facts<'_>) -> Slot {
        let content_type = facts.content_type.unwrap_or("").as_bytes();
        let mut bytes = Vec::with_capacity(HEAD + content_type.len() + key.len() + value.len());
        bytes.extend_from_slice(&stamp.hlc.to_le_bytes());
        bytes.extend_from_slice(&stamp.incarnation.to_le_bytes());
        bytes.extend_from_slice(&facts.expires.map_or(0, |at| at.as_millis().max(1)).to_le_bytes());
        bytes.extend_from_slice(&facts.created.as_millis().to_le_bytes());
        bytes.push(flags);
        bytes.push(content_type.len() as u8);
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(content_type);
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(value);
        Slot(bytes.into())
    }

    fn number(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn key_range(&self) -> std::ops::Range<usize> {
        let start = HEAD + usize::from(self.0[33]);
        start..start + usize::from(u16::from_le_bytes([self.0[34], self.0[35]]))
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { hlc: self.number(0), incarnation: self.number(8) }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.0[32] & TOMBSTONE != 0
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        Some(self.number(16)).filter(|&millis| millis != 0).map(Timestamp::from_millis)
    }

    pub(crate) fn created(&self) -> Timestamp {
        Timestamp::from_millis(self.number(24))
    }

    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.0[self.key_range()]
    }

    pub(crate) fn key(&self) -> &str {
        std::str::from_utf8(self.key_bytes()).unwrap_or_default()
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        &self.0[self.key_range().end..]
    }

    pub(crate) fn content_type(&self) -> Option<&str> {
        let bytes = &self.0[HEAD..self.key_range().start];
        (!bytes.is_empty()).then(|| std::str::from_utf8(bytes).unwrap_or_default())
    }

    /// The value, sharing the bytes of the slot.
    pub(crate) fn value(&self) -> Value {
        let content_type = self.content_type().map(Arc::from);
        Value::within(Arc::clone(&self.0), self.key_range().end..self.0.len(), content_type)
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

    /// Bytes it takes in memory, with the two counts of its shared pointer.
    pub(crate) fn footprint(&self) -> usize {
        self.0.len() + 16
    }
}

/// Slots in order of their keys.
#[derive(Debug, Clone)]
pub(crate) struct Ordered(pub(crate) Slot);

impl Borrow<[u8]> for Ordered {
    fn borrow(&self) -> &[u8] {
        self.0.key_bytes()
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Ordered) -> bool {
        self.0.key_bytes() == other.0.key_bytes()
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> Ordering {
        self.0.key_bytes().cmp(other.0.key_bytes())
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
        let again = Slot::of_winner(&Winner { stamp, write: slot.write() });
        assert_eq!(again.0, slot.0, "the record says all there is");
        assert!(Slot::tombstone(stamp, "key").is_tombstone());
        assert!(slot.footprint() < 100);
    }
}
