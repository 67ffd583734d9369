//! The format of chunk files, version 1: every byte that stands below a numbered folder.
//!
//! A chunk is a [`header`], frames ([`frame`]) and, once it is closed for good, a [`footer`]. A frame
//! is one atomic batch of records ([`record`]) with its own checksum. [`scan`] reads a chunk back and
//! tells a torn tail, which a crash leaves behind, from damage. All integers are little-endian.

pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod varint;

/// The version this program writes and reads.
pub(crate) const VERSION: u16 = 1;

/// The first bytes of every chunk: not text, and changed by any transfer that treats it as text.
pub(crate) const MAGIC: [u8; 8] = [0x89, b'H', b'Y', b'C', 0x0D, 0x0A, 0x1A, 0x0A];
