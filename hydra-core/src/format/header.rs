//! The header of a chunk: who writes it, what swamp it is of, and what its writer knew.
//!
//! ```text
//!  0  8  magic            8  2  version          10  1  kind (1 log, 2 snap)   11  1  flags, 0
//! 12  4  header length   16  8  incarnation     24  8  node (XXH64 of the server id)
//! 32  4  seq             36  4  folder count    40  8  base of the clock values in this chunk
//! 48  4  write interval, ms                     52  4  idle eviction, s
//! 56  2  name length     58  2  vector entries  60  4  cluster (low half of XXH64 of its name)
//! 64  n  swamp name, then 16 bytes for each vector entry (incarnation, clock), then CRC32C of all before
//! ```

use std::time::Duration;

use crate::format::varint::Reader;
use crate::format::{MAGIC, VERSION};
use crate::layout::ChunkKind;
use crate::name::SwampName;
use crate::vector::VersionVector;

const FIXED: usize = 64;
const CRC: usize = 4;

/// A chunk's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: ChunkKind,
    pub(crate) incarnation: u64,
    pub(crate) node: u64,
    pub(crate) seq: u32,
    pub(crate) folders: u32,
    pub(crate) base_hlc: u64,
    pub(crate) write_interval: Duration,
    pub(crate) idle_evict: Duration,
    pub(crate) cluster: u32,
    pub(crate) name: SwampName,
    pub(crate) vector: VersionVector,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeaderProblem {
    /// The file ends inside the header or is all zeros: its creation was cut short by a crash.
    Torn,
    /// The header is there and wrong.
    Damaged(&'static str),
    /// Written by a newer version.
    Newer(u16),
}

/// Names a node in a header: XXH64 of its server id.
pub(crate) fn node_of(server_id: &str) -> u64 {
    xxhash_rust::xxh64::xxh64(server_id.as_bytes(), 0)
}

/// Names a cluster in a header: the low half of XXH64 of its name.
pub(crate) fn cluster_of(name: &str) -> u32 {
    xxhash_rust::xxh64::xxh64(name.as_bytes(), 0) as u32
}

impl Header {
    /// Appends the header to an empty buffer.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let name = self.name.as_str().as_bytes();
        let length = FIXED + name.len() + 16 * self.vector.len() + CRC;
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(match self.kind {
            ChunkKind::Log => 1,
            ChunkKind::Snap => 2,
        });
        out.push(0);
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.folders.to_le_bytes());
        out.extend_from_slice(&self.base_hlc.to_le_bytes());
        out.extend_from_slice(&clamp(self.write_interval.as_millis()).to_le_bytes());
        out.extend_from_slice(&clamp(u128::from(self.idle_evict.as_secs())).to_le_bytes());
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.vector.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(name);
        for (incarnation, hlc) in self.vector.iter() {
            out.extend_from_slice(&incarnation.to_le_bytes());
            out.extend_from_slice(&hlc.to_le_bytes());
        }
        let crc = crc32c::crc32c(out);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header from the front of a file; answers it with its length.
    pub(crate) fn decode(file: &[u8]) -> Result<(Header, usize), HeaderProblem> {
        let magic_length = file.len().min(MAGIC.len());
        if file.iter().all(|&byte| byte == 0) {
            return Err(HeaderProblem::Torn);
        }
        if file[..magic_length] != MAGIC[..magic_length] {
            return Err(HeaderProblem::Damaged("its first bytes are not those of a chunk"));
        }
        if file.len() < FIXED {
            return Err(HeaderProblem::Torn);
        }
        decode_whole(file)
    }
}

fn decode_whole(file: &[u8]) -> Result<(Header, usize), HeaderProblem> {
    const SHORT: HeaderProblem = HeaderProblem::Damaged("its header is shorter than it says");
    let mut reader = Reader(&file[MAGIC.len()..]);
    let version = reader.u16().ok_or(SHORT)?;
    let kind = reader.u8().ok_or(SHORT)?;
    let flags = reader.u8().ok_or(SHORT)?;
    let length = reader.u32().ok_or(SHORT)? as usize;
    let incarnation = reader.u64().ok_or(SHORT)?;
    let node = reader.u64().ok_or(SHORT)?;
    let seq = reader.u32().ok_or(SHORT)?;
    let folders = reader.u32().ok_or(SHORT)?;
    let base_hlc = reader.u64().ok_or(SHORT)?;
    let write_interval = Duration::from_millis(reader.u32().ok_or(SHORT)?.into());
    let idle_evict = Duration::from_secs(reader.u32().ok_or(SHORT)?.into());
    let name_length = usize::from(reader.u16().ok_or(SHORT)?);
    let entries = usize::from(reader.u16().ok_or(SHORT)?);
    let cluster = reader.u32().ok_or(SHORT)?;
    // The length is written twice over, so that one flipped bit cannot pass for a torn header.
    if length != FIXED + name_length + 16 * entries + CRC {
        return Err(HeaderProblem::Damaged("the lengths in its header contradict each other"));
    }
    if file.len() < length {
        return Err(HeaderProblem::Torn);
    }
    let crc = u32::from_le_bytes(file[length - CRC..length].try_into().unwrap_or_default());
    if crc32c::crc32c(&file[..length - CRC]) != crc {
        return Err(HeaderProblem::Damaged("the checksum of its header does not hold"));
    }
    if version != VERSION || flags != 0 {
        return Err(HeaderProblem::Newer(version));
    }
    let kind = match kind {
        1 => ChunkKind::Log,
        2 => ChunkKind::Snap,
        _ => return Err(HeaderProblem::Newer(version)),
    };
    let name = reader.take(name_length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let name =
        name.and_then(|text| text.parse().ok()).ok_or(HeaderProblem::Damaged("its swamp name is not allowed"))?;
    let vector = (0..entries).map(|_| Some((reader.u64()?, reader.u64()?))).collect::<Option<_>>().ok_or(SHORT)?;
    let header =
        Header { kind, incarnation, node, seq, folders, base_hlc, write_interval, idle_evict, cluster, name, vector };
    Ok((header, length))
}

fn clamp(value: u128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn example(kind: ChunkKind) -> Header {
    Header {
        kind,
        incarnation: 0x0102_0304_0506_0708,
        node: node_of("s1"),
        seq: 1,
        folders: 100,
        base_hlc: 1_000 << 16,
        write_interval: Duration::from_secs(1),
        idle_evict: Duration::from_secs(300),
        cluster: cluster_of("hydra"),
        name: "users/profiles/alice".parse().expect("a name"),
        vector: [(9, 5 << 16)].into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_round_trip() {
        let header = example(ChunkKind::Log);
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(bytes.len(), 104, "64 + 20 of the name + 16 of the vector + 4");
        assert_eq!(Header::decode(&bytes), Ok((header, 104)));
    }

    #[test]
    fn every_flipped_bit_is_damage_and_every_cut_is_torn() {
        let mut bytes = Vec::new();
        example(ChunkKind::Snap).encode(&mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Header::decode(&bytes), Err(HeaderProblem::Damaged(_))), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..length]), Err(HeaderProblem::Torn), "{length} bytes");
        }
        assert_eq!(Header::decode(&[0; 200]), Err(HeaderProblem::Torn));
    }
}
