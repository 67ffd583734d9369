//! The footer: what closes a chunk for good. A snapshot counts only with it.
//!
//! ```text
//! frame FE with  varint records · u64 last clock · u32 CRC32C of every byte before the frame
//!                varint n, n times (incarnation u64, clock u64) · varint index entries (0; for point reads)
//! 16 bytes       u64 offset of that frame · u32 CRC32C of those 8 bytes · "HYE1"
//! ```

use crate::format::frame::{self, FrameSpan, MAGIC_FOOTER};
use crate::format::varint::{Reader, put_u64};
use crate::vector::VersionVector;

const TRAILER: usize = 16;
const END: &[u8; 4] = b"HYE1";

/// What a footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) records: u64,
    pub(crate) last_hlc: u64,
    pub(crate) crc: u32,
    pub(crate) vector: VersionVector,
}

impl Footer {
    /// Appends footer and trailer to `out`, which begins at `start` in the file.
    pub(crate) fn place(&self, salt: u64, start: u64, out: &mut Vec<u8>) {
        let offset = start + out.len() as u64;
        let mut payload = Vec::new();
        put_u64(&mut payload, self.records);
        payload.extend_from_slice(&self.last_hlc.to_le_bytes());
        payload.extend_from_slice(&self.crc.to_le_bytes());
        put_u64(&mut payload, self.vector.len() as u64);
        for (incarnation, hlc) in self.vector.iter() {
            payload.extend_from_slice(&incarnation.to_le_bytes());
            payload.extend_from_slice(&hlc.to_le_bytes());
        }
        put_u64(&mut payload, 0);
        frame::place(MAGIC_FOOTER, frame::AFTER_SYNC, &payload, salt, start, out);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&offset.to_le_bytes()).to_le_bytes());
        out.extend_from_slice(END);
    }

    /// Reads the footer of a whole, closed file: one whose every byte before it has the checksum it says.
    pub(crate) fn read(file: &[u8], salt: u64) -> Option<(Footer, FrameSpan)> {
        let trailer = file.len().checked_sub(TRAILER)?;
        let mut reader = Reader(&file[trailer..]);
        let offset = reader.u64()?;
        let crc = reader.u32()?;
        if reader.0 != END || crc32c::crc32c(&offset.to_le_bytes()) != crc {
            return None;
        }
        let span = FrameSpan::read(file, usize::try_from(offset).ok()?)?;
        if span.magic != MAGIC_FOOTER || span.end() != trailer as u64 || !span.is_whole(file, salt) {
            return None;
        }
        let footer = decode(span.stored(file)?)?;
        Some((footer, span))
    }

    /// Whether every byte before the footer is as it was when the chunk was closed.
    pub(crate) fn holds(&self, file: &[u8], span: &FrameSpan) -> bool {
        crc32c::crc32c(&file[..span.offset as usize]) == self.crc
    }
}

fn decode(payload: &[u8]) -> Option<Footer> {
    let mut reader = Reader(payload);
    Some(Footer {
        records: reader.varint()?,
        last_hlc: reader.u64()?,
        crc: reader.u32()?,
        vector: (0..reader.varint()?).map(|_| Some((reader.u64()?, reader.u64()?))).collect::<Option<_>>()?,
    })
}
