//! Hashing of keys in memory: XXH3 with a seed drawn per process, so that nobody can choose keys that collide.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

/// The hash of a key.
pub(crate) fn hash_key(key: &[u8]) -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    // Without entropy the hash still works; only the protection against chosen keys is gone.
    let seed = *SEED.get_or_init(|| getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15));
    xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
}

/// The hashes of keys.
pub(crate) fn hash_keys(keys: &HashSet<&str, KeyHashing>) -> HashSet<u64, KeyHashing> {
    keys.iter().map(|key| hash_key(key.as_bytes())).collect()
}

/// The hash of a key, short enough to stand beside a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShortHash(u32);

impl ShortHash {
    /// Half of [`hash_key`].
    pub(crate) fn of(key: &[u8]) -> ShortHash {
        ShortHash(hash_key(key) as u32)
    }

    /// For tables, which take the place from the lowest bits, and the highest to tell apart who is there.
    pub(crate) fn wide(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

/// For std's maps keyed by texts and numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeyHashing;

/// Chains [`hash_key`] over what it is given.
#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl BuildHasher for KeyHashing {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(0)
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = self.0.rotate_left(5) ^ hash_key(bytes);
    }

    /// Only the end mark of a text; it adds nothing.
    fn write_u8(&mut self, _: u8) {}
}
