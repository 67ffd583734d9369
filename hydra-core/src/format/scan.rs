//! Reading a chunk back: which frames hold, and whether what does not hold is a torn tail or damage.
//!
//! A crash leaves a tail that ends too early or has zeros where blocks were never written. Everything
//! from there on was never acknowledged as synced and is ignored. Damage is what a crash cannot
//! leave: a bad region with a frame behind it that was written after a successful sync, a bad byte
//! in a closed file, or a tail that one flipped bit explains.

use crate::format::footer::Footer;
use crate::format::frame::{self, FrameSpan, MAGIC_RECORDS, MAX_HEAD};
use crate::format::header::{Header, HeaderProblem};
use crate::layout::{ChunkKind, ChunkName};

/// A chunk that could be read.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    pub(crate) header: Header,
    /// The frames of records that hold, in order.
    pub(crate) frames: Vec<FrameSpan>,
    /// Closed for good: the footer is there and whole.
    pub(crate) footer: Option<Footer>,
    /// Where a tail that a crash left behind begins.
    pub(crate) torn_at: Option<u64>,
    /// Where the first damaged byte may be, and what is wrong.
    pub(crate) damage: Option<(u64, String)>,
    /// How long the file was when it was read.
    pub(crate) length: u64,
}

impl Scan {
    /// Whether a snapshot counts. A log always does.
    pub(crate) fn is_valid(&self) -> bool {
        self.header.kind == ChunkKind::Log || (self.footer.is_some() && self.damage.is_none())
    }
}

/// Why a file of a swamp directory is not read as a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Its creation was cut short; it never held anything.
    Torn,
    /// Something stands there that its name does not promise.
    Damaged(String),
    /// A newer version wrote it.
    Newer(u16),
}

/// Reads a chunk.
pub(crate) fn scan(name: &ChunkName, file: &[u8]) -> Result<Scan, Unreadable> {
    let (header, header_length) = Header::decode(file).map_err(|problem| match problem {
        HeaderProblem::Torn => Unreadable::Torn,
        HeaderProblem::Damaged(what) => Unreadable::Damaged(what.to_owned()),
        HeaderProblem::Newer(version) => Unreadable::Newer(version),
    })?;
    if (header.kind, header.incarnation, header.seq) != (name.kind, name.incarnation, name.seq) {
        return Err(Unreadable::Damaged("its header is that of another chunk".to_owned()));
    }
    let salt = frame::salt(header.incarnation, header.seq);
    let footer = Footer::read(file, salt);
    let end = footer.as_ref().map_or(file.len(), |(_, span)| span.offset as usize);
    let mut scan =
        Scan { header, frames: Vec::new(), footer: None, torn_at: None, damage: None, length: file.len() as u64 };
    scan.read_frames(&file[..end], header_length, salt, footer.is_some());
    if let Some((footer, span)) = footer {
        if scan.damage.is_none() && !footer.holds(file, &span) {
            scan.damage = Some((0, "the checksum over the closed file does not hold".to_owned()));
        }
        scan.footer = Some(footer);
    }
    Ok(scan)
}

/// Reads on in a log of which every byte before `from` was read and is whole; what stands there now is not looked
/// at. `None` when there is more to say: the log was closed meanwhile, or what follows is damaged.
pub(crate) fn scan_on(header: Header, file: &[u8], from: usize) -> Option<Scan> {
    let salt = frame::salt(header.incarnation, header.seq);
    if from > file.len() || Footer::read(file, salt).is_some() {
        return None;
    }
    let mut scan =
        Scan { header, frames: Vec::new(), footer: None, torn_at: None, damage: None, length: file.len() as u64 };
    scan.read_frames(file, from, salt, false);
    scan.damage.is_none().then_some(scan)
}

impl Scan {
    fn read_frames(&mut self, file: &[u8], from: usize, salt: u64, closed: bool) {
        let mut at = from;
        while at < file.len() {
            match whole_frame(file, at, salt) {
                Some(span) => {
                    at = span.end() as usize;
                    self.frames.push(span);
                }
                None => match self.bad_region(file, at, salt, closed) {
                    Some(next) => at = next,
                    None => return,
                },
            }
        }
    }

    /// Judges the region at `at`; answers where to read on, `None` at a torn tail or the end.
    fn bad_region(&mut self, file: &[u8], at: usize, salt: u64, closed: bool) -> Option<usize> {
        let next = (at + 1..file.len()).find_map(|offset| whole_frame(file, offset, salt));
        let proven = closed || synced_frame_behind(file, next, salt);
        let flipped = || one_flipped_bit(file, at, salt);
        if !proven && !flipped() {
            self.torn_at.get_or_insert(at as u64);
            return None;
        }
        let what =
            if proven { "a frame does not hold although later ones do" } else { "one flipped bit in the last frame" };
        self.damage.get_or_insert((at as u64, what.to_owned()));
        next.map(|span| span.offset as usize)
    }
}

fn whole_frame(file: &[u8], at: usize, salt: u64) -> Option<FrameSpan> {
    let span = FrameSpan::read(file, at)?;
    (span.magic == MAGIC_RECORDS && span.is_whole(file, salt)).then_some(span)
}

/// Whether a frame from `next` on was written after a sync that covered all before it.
fn synced_frame_behind(file: &[u8], next: Option<FrameSpan>, salt: u64) -> bool {
    let mut next = next;
    while let Some(span) = next {
        if span.is_after_sync() {
            return true;
        }
        let end = span.end() as usize;
        next = whole_frame(file, end, salt).or_else(|| (end..file.len()).find_map(|at| whole_frame(file, at, salt)));
    }
    false
}

/// Whether flipping one bit back makes the frame at `at` hold: the mark of rot, not of a crash.
///
/// A bit of the head is tried out; a bit of checksum or payload is found from the difference of the
/// checksums, because CRC32C is linear: one pass, whatever the length.
fn one_flipped_bit(file: &[u8], at: usize, salt: u64) -> bool {
    flipped_in_payload(file, at, salt) || flipped_in_head(file, at, salt)
}

fn flipped_in_payload(file: &[u8], at: usize, salt: u64) -> bool {
    let Some(span) = FrameSpan::read(file, at) else { return false };
    let Some((stored, computed)) = span.checksums(file, salt, span.offset) else { return false };
    if (stored ^ computed).count_ones() == 1 {
        return true;
    }
    let syndrome = frame::unmask(stored) ^ frame::unmask(computed);
    let payload_bits = (span.end() - at as u64) * 8;
    // The checksum of a message whose last bit alone differs, stepped back one bit at a time.
    let mut effect = 0x82F6_3B78_u32;
    for _ in 0..payload_bits {
        if effect == syndrome {
            return true;
        }
        effect = (effect >> 1) ^ if effect & 1 == 1 { 0x82F6_3B78 } else { 0 };
    }
    false
}

fn flipped_in_head(file: &[u8], at: usize, salt: u64) -> bool {
    let mut copy = file[at..].to_vec();
    // The checksum holds only at the frame's own offset, so the copy is judged as if it stood there.
    (0..MAX_HEAD.min(copy.len()) * 8).any(|bit| {
        copy[bit / 8] ^= 1 << (bit % 8);
        let holds = FrameSpan::read(&copy, 0).is_some_and(|span| span.is_whole_at(&copy, salt, at as u64));
        copy[bit / 8] ^= 1 << (bit % 8);
        holds
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Frame;
    use crate::format::header::example;
    use crate::format::record::{Record, StampCode, Write};
    use crate::stamp::Stamp;

    fn name(header: &Header) -> ChunkName {
        ChunkName { incarnation: header.incarnation, seq: header.seq, kind: header.kind, server: "s1".into() }
    }

    /// A log with a frame for each value; `synced` frames follow a sync.
    fn log(values: &[(&[u8], bool)]) -> (ChunkName, Vec<u8>, Vec<usize>) {
        let header = example(ChunkKind::Log);
        let mut file = Vec::new();
        header.encode(&mut file);
        let mut starts = Vec::new();
        for (index, (value, synced)) in values.iter().enumerate() {
            let stamp = Stamp { hlc: header.base_hlc + 1 + index as u64, incarnation: header.incarnation };
            let write = Write::Put { key: "k", value, expires: None, age: None, content_type: None };
            let code = StampCode::Log { incarnation: header.incarnation };
            let frame = Frame::new(None, [Record::Write { stamp, write }], code, header.base_hlc);
            starts.push(file.len());
            frame.place(frame::salt(header.incarnation, header.seq), 0, *synced, &mut file);
        }
        (name(&header), file, starts)
    }

    #[test]
    fn every_cut_loses_only_the_frames_in_the_cut() {
        let (name, file, starts) = log(&[(b"1", true), (b"2", true), (b"3", true)]);
        let ends = [starts[1], starts[2], file.len()];
        for length in starts[0]..=file.len() {
            let scan = scan(&name, &file[..length]).expect("readable");
            assert_eq!(scan.frames.len(), ends.iter().filter(|&&end| end <= length).count(), "{length} bytes");
            assert_eq!(scan.damage, None, "{length} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_is_reported_wherever_it_is() {
        let (name, mut file, starts) =
            log(&[(b"1", true), (b"\"a longer value\"", true), (b"3", false), (b"4", false)]);
        for bit in starts[0] * 8..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            let scan = scan(&name, &file).expect("readable");
            assert!(scan.damage.is_some(), "bit {bit}: {:?}", scan.torn_at);
            assert!(scan.frames.len() >= 3, "bit {bit}: the other frames stay");
            file[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn zeros_at_the_end_are_a_torn_tail() {
        let (name, mut file, starts) = log(&[(b"1", true), (b"2", true)]);
        file[starts[1]..].fill(0);
        file.extend_from_slice(&[0; 5_000]);
        let scan = scan(&name, &file).expect("readable");
        assert_eq!((scan.frames.len(), scan.torn_at, scan.damage), (1, Some(starts[1] as u64), None));
    }

    #[test]
    fn a_half_written_group_is_cut_at_its_first_hole() {
        let (name, mut file, starts) = log(&[(b"1", true), (b"2", true), (b"3", false), (b"4", false)]);
        file[starts[2] - 8..starts[2] + 3].fill(0);
        let scan = scan(&name, &file).expect("readable");
        assert_eq!(scan.frames.len(), 1, "what follows the hole was never synced");
        assert_eq!(scan.torn_at, Some(starts[1] as u64));
    }
}
