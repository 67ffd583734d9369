//! Frames: one atomic batch of records with a checksum that holds only at its place in its chunk.
//!
//! ```text
//! 1  magic: A6 records, FE footer
//! 1  flags: bits 0-1 codec (0 none, 1 lz4, 2 zstd: not written), bit 2 index, bit 3 written after a successful
//!    sync, bit 4 begins with an idempotency key (key u128, fingerprint u64, outcome)
//! v  stored length      v  raw length, only with a codec
//! 4  CRC32C of (salt u64, offset in the file u64, magic, flags, lengths, stored payload), masked
//! .  payload
//! ```
//! The salt is `incarnation ^ seq * 0x9E3779B97F4A7C15`, the mask that of LevelDB's log format.

use std::borrow::Cow;

use crate::format::record::{self, Record, StampCode, StampCursor};
use crate::format::varint::{Reader, put_bytes, put_u64};
use crate::policy::Compression;
use crate::stamp::Stamp;

pub(crate) const MAGIC_RECORDS: u8 = 0xA6;
pub(crate) const MAGIC_FOOTER: u8 = 0xFE;

const CODEC: u8 = 0x03;
const CODEC_LZ4: u8 = 1;
/// Written after a successful sync: whatever stands before it was whole on disk.
pub(crate) const AFTER_SYNC: u8 = 0x08;
const KEYED: u8 = 0x10;
const KNOWN_FLAGS: u8 = CODEC_LZ4 | AFTER_SYNC | KEYED;

/// The longest stored payload; a larger length is never right.
pub(crate) const MAX_PAYLOAD: usize = 40 << 20;
/// Magic, flags, two lengths of at most 5 bytes, checksum.
pub(crate) const MAX_HEAD: usize = 16;
/// Below this no frame is compressed.
const COMPRESS_FROM: usize = 512;

/// What ties the checksums of a chunk to it.
pub(crate) fn salt(incarnation: u64, seq: u32) -> u64 {
    incarnation ^ u64::from(seq).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The idempotency key a frame was written under.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FrameKey<'a> {
    pub(crate) key: u128,
    pub(crate) fingerprint: u64,
    pub(crate) outcome: &'a [u8],
}

/// What a frame has beside its payload, before it has a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FrameHead {
    /// Bytes of the payload: those of one batch at most, far below 4 GiB.
    length: u32,
    flags: u8,
    /// How many records it has.
    pub(crate) records: u32,
    /// The clock value of its last own record; 0 when it has none.
    pub(crate) last_hlc: u64,
}

/// A frame that is written but has no place yet: its payload is the same in every chunk of its incarnation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    payload: Vec<u8>,
    head: FrameHead,
}

impl Frame {
    /// A frame of records.
    pub(crate) fn new<'a>(
        key: Option<FrameKey<'_>>,
        records: impl IntoIterator<Item = Record<'a>>,
        code: StampCode<'_>,
        base_hlc: u64,
    ) -> Frame {
        let mut payload = Vec::new();
        let mut writer = FrameWriter::new(&mut payload, code, base_hlc);
        records.into_iter().for_each(|record| writer.push(&record));
        let head = writer.finish(key, Compression::None);
        Frame { payload, head }
    }

    /// The frame of a payload that [`FrameWriter::finish`] answered with `head`.
    pub(crate) fn of(payload: Vec<u8>, head: FrameHead) -> Frame {
        Frame { payload, head }
    }

    /// The frame, borrowed.
    pub(crate) fn as_ref(&self) -> FrameRef<'_> {
        FrameRef { payload: &self.payload, head: self.head }
    }

    /// Compresses the payload where that saves an eighth.
    pub(crate) fn compressed(mut self, compression: Compression) -> Frame {
        self.head.compress(compression, &mut self.payload, 0);
        self
    }

    /// Appends the frame to `out`; see [`FrameRef::place`].
    pub(crate) fn place(&self, salt: u64, start: u64, after_sync: bool, out: &mut Vec<u8>) {
        self.as_ref().place(salt, start, after_sync, out);
    }
}

impl FrameHead {
    /// Compresses the payload, which stands in `out` from `start` on, where that saves an eighth.
    fn compress(&mut self, compression: Compression, out: &mut Vec<u8>, start: usize) {
        let payload = &out[start..];
        if compression != Compression::Lz4 || payload.len() < COMPRESS_FROM {
            return;
        }
        let packed = lz4_flex::block::compress(payload);
        if packed.len() <= payload.len() - payload.len() / 8 {
            let raw_length = payload.len() as u64;
            out.truncate(start);
            put_u64(out, raw_length);
            out.extend_from_slice(&packed);
            self.length = (out.len() - start) as u32;
            self.flags |= CODEC_LZ4;
        }
    }
}

/// A frame in the making, at the end of `out`: records are encoded as they come.
#[derive(Debug)]
pub(crate) struct FrameWriter<'o, 'c> {
    out: &'o mut Vec<u8>,
    start: usize,
    stamps: StampCursor<'c>,
    first: Option<Stamp>,
    last_hlc: u64,
    records: u32,
}

impl<'o, 'c> FrameWriter<'o, 'c> {
    pub(crate) fn new(out: &'o mut Vec<u8>, code: StampCode<'c>, base_hlc: u64) -> FrameWriter<'o, 'c> {
        let start = out.len();
        FrameWriter { out, start, stamps: StampCursor::new(code, base_hlc), first: None, last_hlc: 0, records: 0 }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        if let Record::Write { stamp, .. } = record {
            self.first.get_or_insert(*stamp);
            self.last_hlc = self.last_hlc.max(stamp.hlc);
        }
        self.out.reserve(record.size());
        record::encode(record, &mut self.stamps, self.out);
        self.records += 1;
    }

    /// The stamp of the first own record.
    pub(crate) fn first(&self) -> Option<Stamp> {
        self.first
    }

    /// Takes back what was written.
    pub(crate) fn undo(self) {
        self.out.truncate(self.start);
    }

    /// The frame is whole; its key, if it has one, comes before what is there.
    pub(crate) fn finish(self, key: Option<FrameKey<'_>>, compression: Compression) -> FrameHead {
        let FrameWriter { out, start, last_hlc, records, .. } = self;
        let mut flags = 0;
        if let Some(key) = key {
            flags |= KEYED;
            let behind = out.len();
            out.extend_from_slice(&key.key.to_le_bytes());
            out.extend_from_slice(&key.fingerprint.to_le_bytes());
            put_bytes(out, key.outcome);
            let added = out.len() - behind;
            out[start..].rotate_right(added);
        }
        let mut head = FrameHead { length: (out.len() - start) as u32, flags, records, last_hlc };
        head.compress(compression, out, start);
        head
    }
}

/// A frame, wherever its payload is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameRef<'a> {
    payload: &'a [u8],
    pub(crate) head: FrameHead,
}

impl FrameRef<'_> {
    /// The length of its payload.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }

    /// Appends the frame to `out`, of which byte 0 stands at `start` in the file of a chunk with this salt.
    pub(crate) fn place(&self, salt: u64, start: u64, after_sync: bool, out: &mut Vec<u8>) {
        let flags = self.head.flags | if after_sync { AFTER_SYNC } else { 0 };
        place(MAGIC_RECORDS, flags, self.payload, salt, start, out);
    }
}

/// Frames in order, their payloads one after the other in a single allocation.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    payloads: Vec<u8>,
    heads: Vec<FrameHead>,
    /// Bytes of whole frames; what stands behind them is of one in the making.
    whole: usize,
}

impl Frames {
    /// Where the next frame is written; [`Frames::add`] takes it in.
    pub(crate) fn end(&mut self) -> &mut Vec<u8> {
        self.payloads.truncate(self.whole);
        &mut self.payloads
    }

    /// Takes in what was written to [`Frames::end`].
    pub(crate) fn add(&mut self, head: FrameHead) {
        self.whole += head.length as usize;
        debug_assert_eq!(self.payloads.len(), self.whole, "a frame is as long as its head says");
        self.heads.push(head);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// How many frames there are.
    pub(crate) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Bytes of all payloads.
    pub(crate) fn bytes(&self) -> usize {
        self.whole
    }

    /// Bytes it holds in memory, used or not.
    pub(crate) fn footprint(&self) -> usize {
        self.payloads.capacity() + self.heads.capacity() * size_of::<FrameHead>()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = FrameRef<'_>> {
        let mut rest = &self.payloads[..self.whole];
        self.heads.iter().map(move |&head| {
            let (payload, behind) = rest.split_at(head.length as usize);
            rest = behind;
            FrameRef { payload, head }
        })
    }

    /// Adds the frames of another, behind those that are here.
    pub(crate) fn append(&mut self, other: &Frames) {
        self.end().extend_from_slice(&other.payloads[..other.whole]);
        self.heads.extend_from_slice(&other.heads);
        self.whole += other.whole;
    }

    /// Forgets the frames and keeps their room.
    pub(crate) fn clear(&mut self) {
        self.payloads.clear();
        self.heads.clear();
        self.whole = 0;
    }
}

/// Appends a frame with any magic; with a codec the raw length stands at the front of `stored`.
pub(crate) fn place(magic: u8, flags: u8, stored: &[u8], salt: u64, start: u64, out: &mut Vec<u8>) {
    let offset = start + out.len() as u64;
    let (raw_length, payload) = match flags & CODEC {
        0 => (&[][..], stored),
        _ => {
            let mut reader = Reader(stored);
            reader.varint();
            stored.split_at(stored.len() - reader.0.len())
        }
    };
    let head_at = out.len();
    out.push(magic);
    out.push(flags);
    put_u64(out, payload.len() as u64);
    out.extend_from_slice(raw_length);
    let crc = checksum(salt, offset, &out[head_at..], payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(salt: u64, offset: u64, head: &[u8], payload: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&place), head), payload);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The inverse of the mask in [`checksum`].
pub(crate) fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// The parts of a frame as they stand in a file; whether its checksum holds is asked separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameSpan {
    pub(crate) offset: u64,
    pub(crate) magic: u8,
    pub(crate) flags: u8,
    /// Magic, flags and lengths.
    head: u8,
    raw_length: u32,
    stored_length: u32,
}

impl FrameSpan {
    /// Reads the head of the frame at `offset`; `None` when there is none. Its payload may reach beyond the file.
    pub(crate) fn read(file: &[u8], offset: usize) -> Option<FrameSpan> {
        let front = file.get(offset..)?;
        let mut reader = Reader(front);
        let magic = reader.u8()?;
        let flags = reader.u8()?;
        if !matches!(magic, MAGIC_RECORDS | MAGIC_FOOTER) || flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        let stored_length = u32::try_from(reader.varint()?).ok()?;
        let raw_length = if flags & CODEC == 0 { stored_length } else { u32::try_from(reader.varint()?).ok()? };
        if stored_length as usize > MAX_PAYLOAD || raw_length as usize > MAX_PAYLOAD {
            return None;
        }
        let head = (front.len() - reader.0.len()) as u8;
        Some(FrameSpan { offset: offset as u64, magic, flags, head, raw_length, stored_length })
    }

    /// Where the frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.head) + 4 + u64::from(self.stored_length)
    }

    fn payload_at(&self) -> usize {
        self.offset as usize + usize::from(self.head) + 4
    }

    /// The payload as it is stored; `None` when it reaches beyond the file.
    pub(crate) fn stored<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        file.get(self.payload_at()..self.end() as usize)
    }

    /// Whether the checksum holds.
    pub(crate) fn is_whole(&self, file: &[u8], salt: u64) -> bool {
        self.is_whole_at(file, salt, self.offset)
    }

    /// Whether the checksum would hold if the frame stood at `offset` of its file.
    pub(crate) fn is_whole_at(&self, file: &[u8], salt: u64, offset: u64) -> bool {
        self.checksums(file, salt, offset).is_some_and(|(stored, computed)| stored == computed)
    }

    /// The stored checksum and the one computed from what it covers, as if the frame stood at `offset`.
    pub(crate) fn checksums(&self, file: &[u8], salt: u64, offset: u64) -> Option<(u32, u32)> {
        let payload = self.stored(file)?;
        let head_at = self.offset as usize;
        let crc_at = head_at + usize::from(self.head);
        let stored = u32::from_le_bytes(file[crc_at..crc_at + 4].try_into().ok()?);
        Some((stored, checksum(salt, offset, &file[head_at..crc_at], payload)))
    }

    /// Whether it was written after a successful sync.
    pub(crate) fn is_after_sync(&self) -> bool {
        self.flags & AFTER_SYNC != 0
    }

    /// The payload, decompressed; `None` when it cannot be.
    pub(crate) fn payload<'a>(&self, file: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let stored = self.stored(file)?;
        match self.flags & CODEC {
            0 => Some(Cow::Borrowed(stored)),
            _ => lz4_flex::block::decompress(stored, self.raw_length as usize).ok().map(Cow::Owned),
        }
    }

    /// Splits a payload of this frame into its idempotency key and its records.
    pub(crate) fn open<'a>(&self, payload: &'a [u8]) -> Option<(Option<FrameKey<'a>>, Reader<'a>)> {
        let mut reader = Reader(payload);
        if self.flags & KEYED == 0 {
            return Some((None, reader));
        }
        let key = FrameKey { key: reader.u128()?, fingerprint: reader.u64()?, outcome: reader.bytes()? };
        Some((Some(key), reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Write;
    use crate::stamp::Stamp;

    const CODE: StampCode<'static> = StampCode::Log { incarnation: 7 };

    fn frame(value: &[u8], key: Option<FrameKey<'_>>) -> Frame {
        let write = Write::Put { key: "k", value, expires: None, age: None, content_type: None };
        Frame::new(key, [Record::Write { stamp: Stamp { hlc: 9, incarnation: 7 }, write }], CODE, 0)
    }

    #[test]
    fn frames_read_back_with_key_and_compression() {
        let key = FrameKey { key: 5, fingerprint: 6, outcome: &[1] };
        let value = vec![b'a'; 4_000];
        let frame = frame(&value, Some(key)).compressed(Compression::Lz4);
        assert!(frame.as_ref().len() < 200);
        let mut file = vec![0; 3];
        let mut placed = Vec::new();
        frame.place(11, 3, true, &mut placed);
        file.extend_from_slice(&placed);
        let span = FrameSpan::read(&file, 3).expect("a head");
        assert!(span.is_whole(&file, 11) && span.is_after_sync() && span.end() == file.len() as u64);
        let payload = span.payload(&file).expect("decompresses");
        let (read, mut records) = span.open(&payload).expect("opens");
        assert_eq!(read, Some(key));
        let record = record::decode(&mut records, &mut StampCursor::new(CODE, 0)).expect("a record");
        assert!(matches!(record, Record::Write { write: Write::Put { value: read, .. }, .. } if read == value));
    }

    #[test]
    fn frames_put_together_are_placed_as_they_are_alone() {
        let stamp = |hlc: u64| Stamp { hlc: hlc << 16, incarnation: 7 };
        let frame = |hlc, key| {
            let record = Record::Write { stamp: stamp(hlc), write: Write::Del { key } };
            Frame::new(None, [record], StampCode::Log { incarnation: 7 }, 0)
        };
        let alone = [frame(5, "a"), frame(6, "a longer key"), frame(7, "b")];
        let write = |frames: &mut Frames, hlc, key| {
            let mut writer = FrameWriter::new(frames.end(), StampCode::Log { incarnation: 7 }, 0);
            writer.push(&Record::Write { stamp: stamp(hlc), write: Write::Del { key } });
            let head = writer.finish(None, Compression::None);
            frames.add(head);
        };
        let (mut first, mut second) = (Frames::default(), Frames::default());
        write(&mut first, 5, "a");
        first.end().extend_from_slice(b"of a frame that was given up");
        write(&mut second, 6, "a longer key");
        write(&mut second, 7, "b");
        first.append(&second);
        assert_eq!((first.count(), first.bytes()), (3, alone.iter().map(|frame| frame.payload.len()).sum()));
        let (mut expected, mut placed) = (Vec::new(), Vec::new());
        alone.iter().for_each(|frame| frame.place(3, 64, false, &mut expected));
        first.iter().for_each(|frame| frame.place(3, 64, false, &mut placed));
        assert_eq!(placed, expected);
        assert_eq!(first.iter().map(|frame| frame.head.last_hlc >> 16).collect::<Vec<u64>>(), [5, 6, 7]);
    }

    #[test]
    fn a_frame_holds_only_at_its_place_in_its_chunk() {
        let mut file = Vec::new();
        frame(b"1", None).place(11, 0, false, &mut file);
        assert_eq!(file.len(), 7 + frame(b"1", None).as_ref().len());
        let span = FrameSpan::read(&file, 0).expect("a head");
        assert!(span.is_whole(&file, 11));
        assert!(!span.is_whole(&file, 12), "another chunk");
        let moved: Vec<u8> = [&[0][..], &file].concat();
        assert!(!FrameSpan::read(&moved, 1).expect("a head").is_whole(&moved, 11), "another offset");
    }
}
