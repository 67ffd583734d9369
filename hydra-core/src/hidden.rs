//! Hidden keys: what the engine keeps in a swamp beside its treasures. They start with U+0000, so no client can name
//! one, and no list, count or feed shows one. All else about them is as with any key: they expire, merge, move and
//! are compacted with the swamp.

/// Locks are kept under this and their names.
const LOCK: &str = "\0lock/";
/// What shifts returned is kept under this and the digits of their idempotency keys.
const KEPT: &str = "\0kept/";

/// Whether a key is the engine's own.
pub(crate) fn is_hidden(key: &[u8]) -> bool {
    key.first() == Some(&0)
}

/// The key of a lock.
pub(crate) fn lock_key(name: &str) -> String {
    format!("{LOCK}{name}")
}

/// The key of what a shift returned.
pub(crate) fn kept_key(idempotency_key: u128) -> String {
    format!("{KEPT}{idempotency_key:032x}")
}
