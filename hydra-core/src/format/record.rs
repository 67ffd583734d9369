//! Records: the entries of a frame.
//!
//! ```text
//! byte 0   bits 0-3 kind: 1 PUT 2 DEL 3 ADD 4 ADOPT 5 SYNC 7 COUNTER 8 CONFLICT 9 KEY (0 6 10-15 are refused)
//!          bit 4 has an expiry · bit 5 has a creation time · bit 6 has a content type
//! stamp    log:  the first of a frame: varint of (clock - base) >> 16, varint of its low 16 bits;
//!                later ones: varint of the distance to the one before
//!          snap: varint index into the header's vector, signed distance to the clock before (first: to the base)
//! PUT      key, value, [expiry, ms], [how long before its stamp it was created, ms], [content type]
//! DEL      key
//! ADD      key, pointer, base (0 none · 1 own incarnation, varint distance · 2 clock u64, incarnation u64), signed delta
//! ADOPT    clock u64, incarnation u64, then a whole PUT, DEL or ADD with its own kind byte and no stamp
//! SYNC     varint n, n times (incarnation u64, clock u64); no stamp
//! COUNTER  key, pointer, base, varint n, n times (incarnation u64, signed sum, clock of the last ADD u64,
//!          varint distance back to the first); no stamp
//! CONFLICT what was lost: a whole PUT or DEL with its own kind byte and no stamp, or a 0 byte and the key where only
//!          increments were; clock u64, incarnation u64 of that write, or of the base of the increments (0 0: none);
//!          when it was first recorded, varint ms since 1970; text: the server that wrote it; varint n, n times
//!          (pointer, incarnation u64, signed sum, clock of the last ADD u64, varint distance back to the first);
//!          varint n, n times (clock u64, incarnation u64): the first write of each incarnation above it; text: the
//!          server that wrote the least of those; no stamp
//! KEY      key u128, fingerprint u64, clock u64, incarnation u64, outcome, varint n, n times
//!          (position, treasure key, pointer, base, signed delta, clock u64, incarnation u64); no stamp
//! ```
//! Keys, values and texts are a varint length and bytes.

use crate::format::varint::{Reader, put_bytes, put_signed, put_u64};
use crate::stamp::Stamp;
use crate::vector::VersionVector;

const PUT: u8 = 1;
const DEL: u8 = 2;
const ADD: u8 = 3;
const ADOPT: u8 = 4;
const SYNC: u8 = 5;
const COUNTER: u8 = 7;
const CONFLICT: u8 = 8;
const KEY: u8 = 9;
const KIND: u8 = 0x0f;
const HAS_EXPIRY: u8 = 0x10;
const HAS_CREATED: u8 = 0x20;
const HAS_CONTENT_TYPE: u8 = 0x40;

/// One entry of a frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record<'a> {
    /// A write to one key, with its stamp.
    Write { stamp: Stamp, write: Write<'a> },
    /// A copy of another incarnation's write, with the stamp it had there.
    Adopted { stamp: Stamp, write: Write<'a> },
    /// The writer has read more of what others wrote.
    Sync(VersionVector),
    /// The sums of one counter, one for each incarnation that added.
    Counter(CounterRecord<'a>),
    /// A remembered idempotency key.
    Key(KeyRecord<'a>),
    /// A write that lost against one that had not seen it.
    Conflict(ConflictRecord<'a>),
}

impl Record<'_> {
    /// About how many bytes it takes; more than a write needs, so that one allocation does.
    pub(crate) fn size(&self) -> usize {
        const OTHERS: usize = 64;
        match self {
            Record::Write { write, .. } | Record::Adopted { write, .. } => match write {
                Write::Put { key, value, .. } => key.len() + value.len() + OTHERS,
                Write::Del { key } => key.len() + OTHERS,
                Write::Add { key, pointer, .. } => key.len() + pointer.len() + OTHERS,
            },
            Record::Sync(_) | Record::Counter(_) | Record::Key(_) | Record::Conflict(_) => OTHERS,
        }
    }
}

/// What was done to one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Write<'a> {
    Put {
        key: &'a str,
        value: &'a [u8],
        /// Milliseconds since 1970.
        expires: Option<u64>,
        /// How many milliseconds before its stamp the key came into being; `None` when the put created it.
        age: Option<u64>,
        content_type: Option<&'a str>,
    },
    Del {
        key: &'a str,
    },
    Add {
        key: &'a str,
        pointer: &'a str,
        /// The stamp of the PUT or DEL that the writer saw as winner; zero for none.
        base: Stamp,
        delta: i64,
    },
}

impl<'a> Write<'a> {
    pub(crate) fn key(&self) -> &'a str {
        match self {
            Write::Put { key, .. } | Write::Del { key } | Write::Add { key, .. } => key,
        }
    }
}

/// The subtotals of one counter in a snapshot: raw, never adjusted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CounterRecord<'a> {
    pub(crate) key: &'a str,
    pub(crate) pointer: &'a str,
    pub(crate) base: Stamp,
    pub(crate) sums: Vec<Subtotal>,
}

/// What one incarnation added to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subtotal {
    pub(crate) incarnation: u64,
    pub(crate) total: i128,
    /// The clock values of its first and its last ADD.
    pub(crate) first_hlc: u64,
    pub(crate) last_hlc: u64,
}

impl Subtotal {
    /// The stamp of its last ADD: who has seen that has seen all of them.
    pub(crate) fn last(&self) -> Stamp {
        Stamp { hlc: self.last_hlc, incarnation: self.incarnation }
    }
}

/// An idempotency key in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyRecord<'a> {
    pub(crate) key: u128,
    pub(crate) fingerprint: u64,
    pub(crate) stamp: Stamp,
    pub(crate) outcome: &'a [u8],
    pub(crate) adds: Vec<KeyedAdd<'a>>,
}

/// An ADD that was written under an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct KeyedAdd<'a> {
    /// The position of the record in its frame.
    pub(crate) position: u32,
    pub(crate) key: &'a str,
    pub(crate) pointer: &'a str,
    pub(crate) base: Stamp,
    pub(crate) delta: i64,
    pub(crate) stamp: Stamp,
}

/// A loser in a snapshot; see [`crate::conflict`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConflictRecord<'a> {
    pub(crate) key: &'a str,
    /// The stamp of the PUT or DEL that lost, or of the base that the increments name.
    pub(crate) stamp: Stamp,
    /// `None` where only increments were lost.
    pub(crate) write: Option<Write<'a>>,
    /// When it was first recorded, in milliseconds since 1970.
    pub(crate) found: u64,
    pub(crate) server: &'a str,
    /// The increments that went with it, by pointer.
    pub(crate) sums: Vec<(&'a str, Subtotal)>,
    /// The first write of each incarnation above it.
    pub(crate) rivals: Vec<Stamp>,
    /// The server that wrote the least of those.
    pub(crate) winner: &'a str,
}

/// What the stamps of a frame are written relative to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StampCode<'a> {
    /// In a log: the writer's incarnation, distances of growing clock values.
    Log { incarnation: u64 },
    /// In a snapshot: the incarnations of the header's vector.
    Snap { incarnations: &'a [u64] },
}

/// Where the stamps of a frame stand while it is written or read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StampCursor<'a> {
    code: StampCode<'a>,
    previous: u64,
    first: bool,
}

impl<'a> StampCursor<'a> {
    pub(crate) fn new(code: StampCode<'a>, base_hlc: u64) -> StampCursor<'a> {
        StampCursor { code, previous: base_hlc, first: true }
    }

    /// Writes a stamp. In a log clock values grow from the base on; one that does not is a defect of
    /// the caller and would be unreadable, so it wraps and is refused by the reader's checks.
    fn put(&mut self, out: &mut Vec<u8>, stamp: Stamp) {
        match self.code {
            StampCode::Log { .. } => {
                let distance = stamp.hlc.wrapping_sub(self.previous);
                if self.first {
                    put_u64(out, distance >> 16);
                    put_u64(out, distance & 0xffff);
                } else {
                    put_u64(out, distance);
                }
            }
            StampCode::Snap { incarnations } => {
                let index = incarnations.binary_search(&stamp.incarnation).unwrap_or(incarnations.len());
                put_u64(out, index as u64);
                put_signed(out, i128::from(stamp.hlc) - i128::from(self.previous));
            }
        }
        self.previous = stamp.hlc;
        self.first = false;
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<Stamp> {
        let stamp = match self.code {
            StampCode::Log { incarnation } => {
                let distance = if self.first {
                    reader.varint()?.checked_mul(1 << 16)?.checked_add(reader.varint()?)?
                } else {
                    reader.varint()?
                };
                Stamp { hlc: self.previous.checked_add(distance)?, incarnation }
            }
            StampCode::Snap { incarnations } => {
                let incarnation = *incarnations.get(usize::try_from(reader.varint()?).ok()?)?;
                let hlc = i128::from(self.previous).checked_add(reader.signed()?)?;
                Stamp { hlc: u64::try_from(hlc).ok()?, incarnation }
            }
        };
        self.previous = stamp.hlc;
        self.first = false;
        Some(stamp)
    }

    /// The writer whose bases need no incarnation of their own.
    fn own(&self) -> Option<u64> {
        match self.code {
            StampCode::Log { incarnation } => Some(incarnation),
            StampCode::Snap { .. } => None,
        }
    }
}

/// Appends one record.
pub(crate) fn encode(record: &Record<'_>, stamps: &mut StampCursor<'_>, out: &mut Vec<u8>) {
    match record {
        Record::Write { stamp, write } => {
            out.push(kind_of(write));
            stamps.put(out, *stamp);
            encode_write(write, stamps.own().map(|incarnation| Stamp { incarnation, ..*stamp }), out);
        }
        Record::Adopted { stamp, write } => {
            out.push(ADOPT);
            put_stamp(out, *stamp);
            out.push(kind_of(write));
            encode_write(write, None, out);
        }
        Record::Sync(vector) => {
            out.push(SYNC);
            put_u64(out, vector.len() as u64);
            for (incarnation, hlc) in vector.iter() {
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.extend_from_slice(&hlc.to_le_bytes());
            }
        }
        Record::Counter(counter) => encode_counter(counter, out),
        Record::Key(key) => encode_key(key, out),
        Record::Conflict(conflict) => encode_conflict(conflict, out),
    }
}

fn kind_of(write: &Write<'_>) -> u8 {
    match write {
        Write::Put { expires, age, content_type, .. } => {
            PUT | flag(expires.is_some(), HAS_EXPIRY)
                | flag(age.is_some(), HAS_CREATED)
                | flag(content_type.is_some(), HAS_CONTENT_TYPE)
        }
        Write::Del { .. } => DEL,
        Write::Add { .. } => ADD,
    }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// `own`: the stamp of the record, when its writer's bases may be written as a distance.
fn encode_write(write: &Write<'_>, own: Option<Stamp>, out: &mut Vec<u8>) {
    match *write {
        Write::Put { key, value, expires, age, content_type } => {
            put_bytes(out, key.as_bytes());
            put_bytes(out, value);
            expires.into_iter().for_each(|millis| put_u64(out, millis));
            age.into_iter().for_each(|millis| put_u64(out, millis));
            content_type.into_iter().for_each(|text| put_bytes(out, text.as_bytes()));
        }
        Write::Del { key } => put_bytes(out, key.as_bytes()),
        Write::Add { key, pointer, base, delta } => {
            put_bytes(out, key.as_bytes());
            put_bytes(out, pointer.as_bytes());
            put_base(out, base, own);
            put_signed(out, delta.into());
        }
    }
}

fn put_base(out: &mut Vec<u8>, base: Stamp, own: Option<Stamp>) {
    match own {
        _ if base == Stamp::ZERO => out.push(0),
        Some(own) if own.incarnation == base.incarnation && base.hlc <= own.hlc => {
            out.push(1);
            put_u64(out, own.hlc - base.hlc);
        }
        _ => {
            out.push(2);
            put_stamp(out, base);
        }
    }
}

fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    out.extend_from_slice(&stamp.hlc.to_le_bytes());
    out.extend_from_slice(&stamp.incarnation.to_le_bytes());
}

fn encode_counter(counter: &CounterRecord<'_>, out: &mut Vec<u8>) {
    out.push(COUNTER);
    put_bytes(out, counter.key.as_bytes());
    put_bytes(out, counter.pointer.as_bytes());
    put_base(out, counter.base, None);
    put_u64(out, counter.sums.len() as u64);
    counter.sums.iter().for_each(|sum| put_subtotal(out, sum));
}

fn put_subtotal(out: &mut Vec<u8>, sum: &Subtotal) {
    out.extend_from_slice(&sum.incarnation.to_le_bytes());
    put_signed(out, sum.total);
    out.extend_from_slice(&sum.last_hlc.to_le_bytes());
    put_u64(out, sum.last_hlc.saturating_sub(sum.first_hlc));
}

fn encode_conflict(conflict: &ConflictRecord<'_>, out: &mut Vec<u8>) {
    out.push(CONFLICT);
    match &conflict.write {
        Some(write) => {
            out.push(kind_of(write));
            encode_write(write, None, out);
        }
        None => {
            out.push(0);
            put_bytes(out, conflict.key.as_bytes());
        }
    }
    put_stamp(out, conflict.stamp);
    put_u64(out, conflict.found);
    put_bytes(out, conflict.server.as_bytes());
    put_u64(out, conflict.sums.len() as u64);
    for (pointer, sum) in &conflict.sums {
        put_bytes(out, pointer.as_bytes());
        put_subtotal(out, sum);
    }
    put_u64(out, conflict.rivals.len() as u64);
    conflict.rivals.iter().for_each(|rival| put_stamp(out, *rival));
    put_bytes(out, conflict.winner.as_bytes());
}

fn encode_key(key: &KeyRecord<'_>, out: &mut Vec<u8>) {
    out.push(KEY);
    out.extend_from_slice(&key.key.to_le_bytes());
    out.extend_from_slice(&key.fingerprint.to_le_bytes());
    put_stamp(out, key.stamp);
    put_bytes(out, key.outcome);
    put_u64(out, key.adds.len() as u64);
    for add in &key.adds {
        put_u64(out, add.position.into());
        put_bytes(out, add.key.as_bytes());
        put_bytes(out, add.pointer.as_bytes());
        put_base(out, add.base, None);
        put_signed(out, add.delta.into());
        put_stamp(out, add.stamp);
    }
}

/// Reads one record; `None` when the bytes are none.
pub(crate) fn decode<'a>(reader: &mut Reader<'a>, stamps: &mut StampCursor<'_>) -> Option<Record<'a>> {
    let kind = reader.u8()?;
    match kind & KIND {
        PUT | DEL | ADD => {
            let stamp = stamps.take(reader)?;
            let own = stamps.own().map(|incarnation| Stamp { incarnation, ..stamp });
            Some(Record::Write { stamp, write: decode_write(kind, reader, own)? })
        }
        ADOPT => {
            let stamp = take_stamp(reader)?;
            let kind = reader.u8()?;
            Some(Record::Adopted { stamp, write: decode_write(kind, reader, None)? })
        }
        SYNC => decode_vector(reader).map(Record::Sync),
        COUNTER => decode_counter(reader).map(Record::Counter),
        KEY => decode_key(reader).map(Record::Key),
        CONFLICT => decode_conflict(reader).map(Record::Conflict),
        _ => None,
    }
}

fn decode_conflict<'a>(reader: &mut Reader<'a>) -> Option<ConflictRecord<'a>> {
    let (key, write) = match reader.u8()? {
        0 => (reader.text()?, None),
        kind => {
            let write = decode_write(kind, reader, None).filter(|write| !matches!(write, Write::Add { .. }))?;
            (write.key(), Some(write))
        }
    };
    Some(ConflictRecord {
        key,
        write,
        stamp: take_stamp(reader)?,
        found: reader.varint()?,
        server: reader.text()?,
        sums: (0..reader.varint()?).map(|_| Some((reader.text()?, decode_subtotal(reader)?))).collect::<Option<_>>()?,
        rivals: (0..reader.varint()?).map(|_| take_stamp(reader)).collect::<Option<_>>()?,
        winner: reader.text()?,
    })
}

fn decode_write<'a>(kind: u8, reader: &mut Reader<'a>, own: Option<Stamp>) -> Option<Write<'a>> {
    match kind & KIND {
        PUT => Some(Write::Put {
            key: reader.text()?,
            value: reader.bytes()?,
            expires: optional(kind, HAS_EXPIRY, || reader.varint())?,
            age: optional(kind, HAS_CREATED, || reader.varint())?,
            content_type: optional(kind, HAS_CONTENT_TYPE, || reader.text())?,
        }),
        DEL => Some(Write::Del { key: reader.text()? }),
        ADD => Some(Write::Add {
            key: reader.text()?,
            pointer: reader.text()?,
            base: take_base(reader, own)?,
            delta: i64::try_from(reader.signed()?).ok()?,
        }),
        _ => None,
    }
}

/// The outer `None` is an unreadable field, the inner one a field that is not there.
fn optional<T>(kind: u8, bit: u8, read: impl FnOnce() -> Option<T>) -> Option<Option<T>> {
    if kind & bit == 0 { Some(None) } else { read().map(Some) }
}

fn take_base(reader: &mut Reader<'_>, own: Option<Stamp>) -> Option<Stamp> {
    match reader.u8()? {
        0 => Some(Stamp::ZERO),
        1 => {
            let own = own?;
            Some(Stamp { hlc: own.hlc.checked_sub(reader.varint()?)?, ..own })
        }
        2 => take_stamp(reader),
        _ => None,
    }
}

fn take_stamp(reader: &mut Reader<'_>) -> Option<Stamp> {
    Some(Stamp { hlc: reader.u64()?, incarnation: reader.u64()? })
}

fn decode_vector(reader: &mut Reader<'_>) -> Option<VersionVector> {
    (0..reader.varint()?).map(|_| Some((reader.u64()?, reader.u64()?))).collect()
}

fn decode_counter<'a>(reader: &mut Reader<'a>) -> Option<CounterRecord<'a>> {
    Some(CounterRecord {
        key: reader.text()?,
        pointer: reader.text()?,
        base: take_base(reader, None)?,
        sums: (0..reader.varint()?).map(|_| decode_subtotal(reader)).collect::<Option<_>>()?,
    })
}

fn decode_subtotal(reader: &mut Reader<'_>) -> Option<Subtotal> {
    let (incarnation, total, last_hlc) = (reader.u64()?, reader.signed()?, reader.u64()?);
    Some(Subtotal { incarnation, total, first_hlc: last_hlc.checked_sub(reader.varint()?)?, last_hlc })
}

fn decode_key<'a>(reader: &mut Reader<'a>) -> Option<KeyRecord<'a>> {
    Some(KeyRecord {
        key: reader.u128()?,
        fingerprint: reader.u64()?,
        stamp: take_stamp(reader)?,
        outcome: reader.bytes()?,
        adds: (0..reader.varint()?).map(|_| decode_keyed_add(reader)).collect::<Option<_>>()?,
    })
}

fn decode_keyed_add<'a>(reader: &mut Reader<'a>) -> Option<KeyedAdd<'a>> {
    Some(KeyedAdd {
        position: u32::try_from(reader.varint()?).ok()?,
        key: reader.text()?,
        pointer: reader.text()?,
        base: take_base(reader, None)?,
        delta: i64::try_from(reader.signed()?).ok()?,
        stamp: take_stamp(reader)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = 7;

    fn stamp(hlc: u64, incarnation: u64) -> Stamp {
        Stamp { hlc, incarnation }
    }

    fn sum(incarnation: u64, total: i128) -> Subtotal {
        Subtotal { incarnation, total, first_hlc: 8, last_hlc: 9 }
    }

    fn round_trip(records: &[Record<'_>], code: StampCode<'_>) {
        let mut out = Vec::new();
        let mut stamps = StampCursor::new(code, 100 << 16);
        records.iter().for_each(|record| encode(record, &mut stamps, &mut out));
        let (mut reader, mut stamps) = (Reader(&out), StampCursor::new(code, 100 << 16));
        for record in records {
            assert_eq!(decode(&mut reader, &mut stamps).as_ref(), Some(record));
        }
        assert!(reader.is_empty());
    }

    #[test]
    fn log_records_survive_the_round_trip() {
        let put = Write::Put { key: "k", value: b"1", expires: Some(9), age: Some(5), content_type: Some("image/png") };
        let add = |base| Write::Add { key: "n", pointer: "/a", base, delta: -3 };
        let records = [
            Record::Write { stamp: stamp(101 << 16, OWN), write: put },
            Record::Write { stamp: stamp((101 << 16) + 1, OWN), write: Write::Del { key: "k" } },
            Record::Write { stamp: stamp((101 << 16) + 2, OWN), write: add(Stamp::ZERO) },
            Record::Write { stamp: stamp((101 << 16) + 3, OWN), write: add(stamp((101 << 16) + 1, OWN)) },
            Record::Write { stamp: stamp((101 << 16) + 4, OWN), write: add(stamp(3, 9)) },
            Record::Adopted { stamp: stamp(5, 9), write: add(stamp(4, 9)) },
            Record::Sync([(9, 5), (10, 6)].into_iter().collect()),
        ];
        round_trip(&records, StampCode::Log { incarnation: OWN });
    }

    #[test]
    fn snapshot_records_survive_the_round_trip() {
        let add = KeyedAdd { position: 2, key: "n", pointer: "", base: stamp(1, 9), delta: 4, stamp: stamp(2, 9) };
        let records = [
            Record::Write { stamp: stamp(300 << 16, 9), write: Write::Del { key: "a" } },
            Record::Write { stamp: stamp(3, OWN), write: Write::Del { key: "b" } },
            Record::Counter(CounterRecord {
                key: "n",
                pointer: "",
                base: Stamp::ZERO,
                sums: vec![sum(9, -4), sum(OWN, 5)],
            }),
            Record::Key(KeyRecord {
                key: 1 << 100,
                fingerprint: 3,
                stamp: stamp(4, 9),
                outcome: &[1, 2],
                adds: vec![add],
            }),
            Record::Conflict(ConflictRecord {
                key: "a",
                stamp: stamp(4, 9),
                write: Some(Write::Put { key: "a", value: b"1", expires: Some(9), age: Some(2), content_type: None }),
                found: 77,
                server: "s1",
                sums: vec![("", sum(9, -4))],
                rivals: vec![stamp(5, OWN), stamp(6, 11)],
                winner: "s2",
            }),
            Record::Conflict(ConflictRecord {
                key: "b",
                stamp: Stamp::ZERO,
                write: None,
                found: 0,
                server: "",
                sums: vec![("/p", sum(9, 1 << 70))],
                rivals: vec![],
                winner: "",
            }),
        ];
        round_trip(&records, StampCode::Snap { incarnations: &[OWN, 9] });
    }

    #[test]
    fn a_small_put_costs_what_the_format_says() {
        let mut out = Vec::new();
        let write = Write::Put { key: "12345678", value: &[b'1'; 20], expires: None, age: None, content_type: None };
        let mut stamps = StampCursor::new(StampCode::Log { incarnation: OWN }, 0);
        encode(&Record::Write { stamp: stamp(60_000 << 16, OWN), write }, &mut stamps, &mut out);
        assert_eq!(out.len(), 1 + 4 + 1 + 8 + 1 + 20, "kind, clock, key, value");
    }
}
