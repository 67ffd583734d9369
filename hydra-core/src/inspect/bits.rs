//! Turning single flipped bits back: the most common kind of rot costs nothing then.
//!
//! Headers and frames have CRC32C, of which one flipped bit is told from all others up to lengths far
//! beyond those here. A correction counts only if the checksum holds afterwards.

use crate::format::frame::{self, FrameSpan, MAX_HEAD};
use crate::format::header::Header;
use crate::format::scan::{Unreadable, scan};
use crate::layout::ChunkName;

/// A file with more wrong bits than this is not rotten but something else.
const MOST: usize = 64;
/// No header that is worth trying is longer.
const HEADER_MOST: usize = 4096;

/// The bytes as they were written and which bits of them were wrong, counted from the start of the
/// file; `None` when more is wrong than single bits.
pub(super) fn turned_back(name: &ChunkName, bytes: &[u8]) -> Option<(Vec<u8>, Vec<u64>)> {
    let mut mended = bytes.to_vec();
    let mut turned = Vec::new();
    while turned.len() < MOST {
        let bit = match scan(name, &mended) {
            Ok(scan) => match scan.damage {
                None => return (!turned.is_empty()).then_some((mended, turned)),
                Some((at, _)) => frame_bit(&mut mended, at as usize, frame::salt(name.incarnation, name.seq))?,
            },
            Err(Unreadable::Damaged(_)) => header_bit(&mut mended)?,
            Err(Unreadable::Torn | Unreadable::Newer(_)) => return None,
        };
        turn(&mut mended, bit);
        turned.push(bit as u64);
    }
    None
}

fn turn(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// Tries bits in turn; leaves the bytes as they were.
fn find_bit(bytes: &mut [u8], bits: impl Iterator<Item = usize>, holds: impl Fn(&[u8]) -> bool) -> Option<usize> {
    let mut bits = bits;
    bits.find(|&bit| {
        turn(bytes, bit);
        let found = holds(bytes);
        turn(bytes, bit);
        found
    })
}

fn header_bit(bytes: &mut [u8]) -> Option<usize> {
    let front = bytes.len().min(HEADER_MOST);
    find_bit(bytes, 0..front * 8, |bytes| Header::decode(bytes).is_ok())
}

fn frame_bit(bytes: &mut [u8], at: usize, salt: u64) -> Option<usize> {
    payload_bit(bytes, at, salt).or_else(|| {
        let head = at * 8..bytes.len().min(at + MAX_HEAD) * 8;
        find_bit(bytes, head, |bytes| is_whole(bytes, at, salt))
    })
}

fn is_whole(bytes: &[u8], at: usize, salt: u64) -> bool {
    FrameSpan::read(bytes, at).is_some_and(|span| span.is_whole(bytes, salt))
}

/// The bit of the payload whose flip explains the checksum: CRC32C is linear, so one pass finds it.
fn payload_bit(bytes: &mut [u8], at: usize, salt: u64) -> Option<usize> {
    let span = FrameSpan::read(bytes, at)?;
    let (stored, computed) = span.checksums(bytes, salt, span.offset)?;
    let syndrome = frame::unmask(stored) ^ frame::unmask(computed);
    let payload_bits = span.stored(bytes)?.len() * 8;
    let mut effect = 0x82F6_3B78_u32;
    for back in 0..payload_bits {
        if effect == syndrome {
            // The last bit that the checksum sees is the highest of the last byte.
            let bit = (span.end() as usize - 1 - back / 8) * 8 + (7 - back % 8);
            return find_bit(bytes, std::iter::once(bit), |bytes| is_whole(bytes, at, salt));
        }
        effect = (effect >> 1) ^ if effect & 1 == 1 { 0x82F6_3B78 } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Frame;
    use crate::format::header::example;
    use crate::format::record::{Record, StampCode, Write};
    use crate::layout::ChunkKind;
    use crate::stamp::Stamp;

    fn log() -> (ChunkName, Vec<u8>) {
        let header = example(ChunkKind::Log);
        let mut file = Vec::new();
        header.encode(&mut file);
        for (at, value) in [&b"1"[..], b"\"a longer value\"", b"3"].into_iter().enumerate() {
            let stamp = Stamp { hlc: header.base_hlc + 1 + at as u64, incarnation: header.incarnation };
            let write = Write::Put { key: "k", value, expires: None, age: None, content_type: None };
            let code = StampCode::Log { incarnation: header.incarnation };
            let frame = Frame::new(None, [Record::Write { stamp, write }], code, header.base_hlc);
            frame.place(frame::salt(header.incarnation, header.seq), 0, true, &mut file);
        }
        let name =
            ChunkName { incarnation: header.incarnation, seq: header.seq, kind: header.kind, server: "s1".to_owned() };
        (name, file)
    }

    #[test]
    fn every_single_flipped_bit_is_turned_back() {
        let (name, file) = log();
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            turn(&mut flipped, bit);
            let (mended, turned) = turned_back(&name, &flipped).unwrap_or_else(|| panic!("bit {bit} is found"));
            assert_eq!((mended == file, turned), (true, vec![bit as u64]), "bit {bit}");
        }
    }

    #[test]
    fn one_bit_in_each_of_two_frames_is_turned_back_and_a_lost_byte_is_not() {
        let (name, file) = log();
        let mut two = file.clone();
        turn(&mut two, (file.len() - 1) * 8);
        turn(&mut two, (file.len() - 20) * 8 + 3);
        assert!(turned_back(&name, &two).is_some_and(|(mended, turned)| mended == file && turned.len() == 2));
        let mut worse = file.clone();
        let at = file.len() - 20;
        worse[at..at + 3].iter_mut().for_each(|byte| *byte ^= 0x5a);
        assert_eq!(turned_back(&name, &worse), None);
        assert_eq!(turned_back(&name, &file), None, "nothing is wrong");
    }
}
