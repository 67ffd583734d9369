//! Where things are on disk: every directory and file name, and the encoding of names. Pure.

use std::path::{Path, PathBuf};

use crate::base32;
use crate::folder::FolderId;
use crate::name::SwampName;

/// The file that says what a data directory is, the same on every server of a cluster.
pub(crate) const HYDRA_FILE: &str = "HYDRA";
/// Facts about this server only; never copied to another.
pub(crate) const LOCAL_DIR: &str = ".hydra";
/// Below [`LOCAL_DIR`]: held locked by the process that uses the data directory.
pub(crate) const LOCK_FILE: &str = "LOCK";
/// Below [`LOCAL_DIR`]: the server's id.
pub(crate) const SERVER_FILE: &str = "server.toml";
/// Below [`LOCAL_DIR`]: the incarnations this server has had; their chunks are its own.
pub(crate) const INCARNATIONS_FILE: &str = "incarnations";
/// Below [`LOCAL_DIR`]: no stamp above this has been given out.
pub(crate) const CLOCK_FILE: &str = "clock";
/// Below [`LOCAL_DIR`]: what this server is to its folders.
pub(crate) const FOLDERS_FILE: &str = "folders.json";
/// Below [`LOCAL_DIR`]: the directory is on its way to another number of folders.
pub(crate) const REFOLD_FILE: &str = "refold.json";
/// Below [`LOCAL_DIR`]: the folders in which nothing is removed for a while.
pub(crate) const HOLDS_FILE: &str = "holds.json";
/// Below [`LOCAL_DIR`]: the registered policies.
pub(crate) const POLICIES_FILE: &str = "policies.json";
/// Below [`LOCAL_DIR`]: for each folder what this server wrote in place of its owner.
pub(crate) const TAKEOVER_DIR: &str = "takeover";
/// Below [`LOCAL_DIR`]: takes space for as long as there is plenty.
pub(crate) const BALLAST_FILE: &str = "ballast";
/// In a folder or above: the marker by which Syncthing knows a directory it keeps in sync.
pub(crate) const SYNCTHING_MARKER: &str = ".stfolder";

/// The longest encoded part of a name; leaves room for what rsync and Syncthing add to a file name.
const MAX_ENCODED: usize = 200;
/// How much of a part that is too long stays readable.
const CUT_ENCODED: usize = 150;

/// What a chunk is: an append-only log, or the whole state of a swamp at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChunkKind {
    /// Records in the order they were written.
    Log,
    /// Every treasure of the swamp once; valid only with its footer.
    Snap,
}

impl ChunkKind {
    fn extension(self) -> &'static str {
        match self {
            ChunkKind::Log => "hyl",
            ChunkKind::Snap => "hys",
        }
    }
}

/// The name of a chunk file: `<server id>-<incarnation>-<seq>.hyl|.hys`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkName {
    /// The process that wrote it.
    pub(crate) incarnation: u64,
    /// Counts the chunks of a swamp and incarnation from 1.
    pub(crate) seq: u32,
    /// What it is.
    pub(crate) kind: ChunkKind,
    /// The server that wrote it.
    pub(crate) server: String,
}

impl ChunkName {
    /// The file name.
    pub(crate) fn file_name(&self) -> String {
        let incarnation = base32::encode(self.incarnation.into(), base32::WIDTH_64);
        let width = if self.seq >= 1 << 20 { 7 } else { 4 };
        let seq = base32::encode(self.seq.into(), width);
        format!("{}-{incarnation}-{seq}.{}", self.server, self.kind.extension())
    }

    /// Reads a file name; `None` for every file that is not exactly named like a chunk: temporary
    /// files of copy tools, conflict copies, directories of file systems.
    pub(crate) fn parse(file_name: &str) -> Option<ChunkName> {
        let (stem, extension) = file_name.rsplit_once('.')?;
        let kind = match extension {
            "hyl" => ChunkKind::Log,
            "hys" => ChunkKind::Snap,
            _ => return None,
        };
        let pieces: Vec<&str> = stem.split('-').collect();
        let [server, incarnation, seq] = pieces[..] else { return None };
        if !is_server_id(server) {
            return None;
        }
        let name = ChunkName {
            incarnation: base32::decode_64(incarnation)?,
            seq: u32::try_from(base32::decode(seq)?).ok().filter(|&seq| seq > 0)?,
            kind,
            server: server.to_owned(),
        };
        (name.file_name() == file_name).then_some(name)
    }
}

/// Whether a text can be a server id: 1 to 32 of `a-z 0-9 _`.
pub(crate) fn is_server_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The directory of a folder: five digits.
pub(crate) fn folder_dir(folder: FolderId) -> String {
    format!("{:05}", folder.get())
}

/// The directory of a swamp below the data directory: `00062/users/profiles/alice`.
#[must_use]
pub fn swamp_dir(folder: FolderId, name: &SwampName) -> PathBuf {
    let mut path = PathBuf::from(folder_dir(folder));
    path.extend(name.parts().map(encode_part));
    path
}

/// The directory that [`swamp_dir`] names, below `root`.
pub(crate) fn swamp_path(root: &Path, folder: FolderId, name: &SwampName) -> PathBuf {
    root.join(swamp_dir(folder, name))
}

/// A part of a name as a directory name that every file system keeps as it is.
///
/// `a-z 0-9 _ - .` stay; all else is `%xx` per byte. Also encoded are a leading `.` or `-`, a
/// trailing `.` and the first letter of a Windows device name. What grows beyond 200 bytes is cut
/// at an escape and gets `%h` and the XXH3-128 of the whole part; `h` is no hexadecimal digit.
pub(crate) fn encode_part(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len() + 8);
    let last = part.len() - 1;
    let device = is_device_name(part);
    for (at, byte) in part.bytes().enumerate() {
        let plain = match byte {
            b'a'..=b'z' => !(device && at == 0),
            b'0'..=b'9' | b'_' => true,
            b'-' => at > 0,
            b'.' => at > 0 && at < last,
            _ => false,
        };
        if plain {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    if encoded.len() > MAX_ENCODED { shorten(&encoded, part) } else { encoded }
}

/// The part that a directory name stands for; `None` for a name that [`encode_part`] never makes, and for a part
/// that was cut.
pub(crate) fn decode_part(encoded: &str) -> Option<String> {
    let mut pieces = encoded.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let part = String::from_utf8(bytes).ok().filter(|part| !part.is_empty())?;
    (encode_part(&part) == encoded).then_some(part)
}

/// Whether a directory name is of a part that was cut, so that only the files inside know it.
pub(crate) fn is_cut(encoded: &str) -> bool {
    encoded.contains("%h")
}

fn shorten(encoded: &str, part: &str) -> String {
    let mut cut = CUT_ENCODED;
    if let Some(escape) = encoded[..cut].rfind('%').filter(|escape| cut - escape < 3) {
        cut = escape;
    }
    let hash = xxhash_rust::xxh3::xxh3_128(part.as_bytes());
    format!("{}%h{}", &encoded[..cut], base32::encode(hash, base32::WIDTH_128))
}

fn is_device_name(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part);
    let numbered =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'1'..=b'9']));
    matches!(stem, "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::{FolderCount, folder_of};

    #[test]
    fn a_name_has_one_path() {
        let name: SwampName = "users/profiles/Alice B".parse().expect("name");
        let folder = folder_of(&name, FolderCount::DEFAULT);
        let expected = format!("{:05}/users/profiles/%41lice%20%42", folder.get());
        assert_eq!(swamp_dir(folder, &name), PathBuf::from(expected));
    }

    #[test]
    fn encoded_parts_are_safe_and_distinct() {
        let cases = [
            ("a.b-c_9", "a.b-c_9"),
            (".a", "%2ea"),
            ("-a", "%2da"),
            ("a.", "a%2e"),
            ("~a", "%7ea"),
            ("con", "%63on"),
            ("con.txt", "%63on.txt"),
            ("com1", "%63om1"),
            ("com0", "com0"),
            ("ä", "%c3%a4"),
            ("%41", "%2541"),
        ];
        for (part, encoded) in cases {
            assert_eq!(encode_part(part), encoded);
            assert_eq!(decode_part(encoded).as_deref(), Some(part));
        }
    }

    #[test]
    fn decoding_is_the_reverse_of_encoding() {
        for part in ["a.b-c_9", ".a", "-a", "a.", "con", "com1.x", "ä", "%41", "A b", "~", "..a"] {
            assert_eq!(decode_part(&encode_part(part)).as_deref(), Some(part));
        }
        for never in ["A", "%41lice!", "%6", "%c3", "%zz", "", "a%61", "con", &encode_part(&"Ä".repeat(127))] {
            assert_eq!(decode_part(never), None, "{never}");
        }
        assert!(is_cut(&encode_part(&"Ä".repeat(127))) && !is_cut("%41"));
    }

    #[test]
    fn long_parts_are_cut_at_an_escape_and_stay_distinct() {
        let (a, b) = ("Ä".repeat(127), format!("{}Ö", "Ä".repeat(126)));
        let (short_a, short_b) = (encode_part(&a), encode_part(&b));
        assert_ne!(short_a, short_b);
        assert!(short_a.len() <= MAX_ENCODED);
        assert_eq!(decode_part(&short_a), None, "what was cut cannot be read back");
        let readable = &short_a[..short_a.find("%h").expect("a hash")];
        assert_eq!(readable.len() % 3, 0, "cut between escapes: {readable}");
        assert_eq!(encode_part(&"a".repeat(200)).len(), 200, "200 bytes stay as they are");
    }

    #[test]
    fn only_exact_chunk_names_are_read() {
        let name = ChunkName { incarnation: 77, seq: 1, kind: ChunkKind::Log, server: "s1".into() };
        let text = name.file_name();
        assert_eq!(text, "s1-000000000002d-0001.hyl");
        assert_eq!(ChunkName::parse(&text), Some(name.clone()));
        let large = ChunkName { seq: u32::MAX, ..name };
        assert_eq!(ChunkName::parse(&large.file_name()), Some(large));
        let others = [
            format!(".{text}.Xy12ab"),
            format!("{text}.tmp"),
            "s1-000000000002d-0001.sync-conflict-20261122-091041-76JARDR.hyl".into(),
            "s1-000000000002d-00001.hyl".into(),
            "s1-000000000002d-0000.hyl".into(),
            "S1-000000000002d-0001.hyl".into(),
            "s1-000000000002d-0001.hyx".into(),
        ];
        for other in others {
            assert_eq!(ChunkName::parse(&other), None, "{other}");
        }
    }
}
